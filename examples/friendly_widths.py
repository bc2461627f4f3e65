"""Prune a network to widths that the device likes: measure its layers over their widths, and move each one there.

``python examples/friendly_widths.py`` takes a minute. Put your own network, as your pruner left it, in `make`.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from profiler import TracedModule, profile, suggest_widths, sweep

SECONDS = 40.0


def make(widths: tuple[int, int, int] = (21, 37, 70)) -> nn.Module:
    """Return a network with a residual block, at widths that a pruner left."""
    first, second, third = widths

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(first, second, 3, padding=1)
            self.outer = nn.Conv2d(second, first, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.outer(torch.relu(self.inner(x))))

    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1),
        nn.ReLU(),
        Residual(),
        nn.Conv2d(first, third, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(third, 10),
    )


def main(seconds: float = SECONDS) -> None:
    """Measure, and print what each width should be."""
    network = TracedModule(make(), torch.randn(1, 3, 32, 32), name="pruned")
    print(f"measuring for {seconds:g} s")
    table = profile([network, *sweep(network, expand=1.25, most_layers=200)], batch=1, threads=1, time_budget_s=seconds)
    print(table)
    for row in suggest_widths(network, table):
        print(row)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))

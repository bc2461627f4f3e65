"""Copies of a layer as one PyTorch module, wired as ``_programs`` describes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["make_adds", "make_chain", "make_parallel"]


class _Chain(nn.Module):
    """Copies one after another through the input numbered ``chained``; other inputs are given to each."""

    def __init__(self, copies: Sequence[nn.Module], chained: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copies)
        self.chained = chained

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        first = inputs[self.chained]
        value = first
        for number, copy in enumerate(self.copies):
            # Inputs of one shape take turns, lest y + b + b + … be simplified to y + n·b.
            args = [first if number % 2 and x.shape == first.shape else x for x in inputs]
            args[self.chained] = value
            value = copy(*args)
        return value


class _Parallel(nn.Module):
    """Copies side by side, each on an input of its own; two tensors a, b per input, and the sum of the outputs."""

    def __init__(self, copies: Sequence[nn.Module], n_inputs: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copies)
        self.n_inputs = n_inputs

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        pairs = [(inputs[2 * i], inputs[2 * i + 1]) for i in range(self.n_inputs)]
        own = [a for a, _ in pairs]
        total: torch.Tensor | None = None
        for number, copy in enumerate(self.copies):
            own = [u + pair[1 - number % 2] for u, pair in zip(own, pairs, strict=True)]
            output = copy(*own)
            total = output if total is None else total + output
        assert total is not None
        return total


class _Adds(nn.Module):
    """``count`` additions, one after another, of two inputs taken in turns."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        value = a
        for number in range(self.count):
            value = value + (a if number % 2 else b)
        return value


def make_chain(copies: Sequence[nn.Module], chained: int) -> nn.Module:
    """Return L∘L∘…∘L, chained through one of the inputs."""
    return _Chain(copies, chained).eval()


def make_parallel(copies: Sequence[nn.Module], n_inputs: int) -> nn.Module:
    """Return the sum of the copies' outputs, each on inputs of its own; twice as many inputs as the layer has."""
    return _Parallel(copies, n_inputs).eval()


def make_adds(count: int) -> nn.Module:
    """Return so many additions of two inputs."""
    return _Adds(count).eval()

"""What the runtime runs for a network's layers, one by one, is what it runs for the network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

from lut.primitives import Plain  # noqa: E402
from profiler._onnx._file import export_model, load_onnx, trace_onnx  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from _onnx_operators import run_operators, sum_of  # noqa: E402

IMAGE = (3, 32, 32)


def conv(taken: int, given: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """Return convolution, norm and ReLU."""
    made = nn.Conv2d(taken, given, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(made, nn.BatchNorm2d(given), nn.ReLU())


class Residual(nn.Module):
    """The sum of an image and what its body makes of it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Dense(Residual):
    """An image and what its body makes of it, concatenated."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


class Squeeze(nn.Module):
    """A gate of each channel's mean."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1),
            gate,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.body(x)


class Shuffle(nn.Module):
    """Channels of several groups, mixed."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = x.shape
        apart = x.reshape(n, self.groups, channels // self.groups, height, width)
        return apart.transpose(1, 2).reshape(n, channels, height, width)


class Halves(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass by."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.body = nn.Sequential(conv(self.half, self.half, 1), nn.Conv2d(self.half, self.half, 3, padding=1))
        self.shuffle = Shuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shuffle(torch.cat([x[:, : self.half], self.body(x[:, self.half :])], 1))


class Mixed(nn.Module):
    """A concatenation of parts of blocks, plus an image in blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.whole = conv(16, 12), conv(16, 24), conv(16, 36)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.narrow(x), self.wide(x)], 1) + self.whole(x)


class Forked(nn.Module):
    """An image whose activation one convolution reads, and which another reads as it is (NASNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.bare = nn.Conv2d(32, 32, 1)
        self.one, self.other = conv(32, 32), conv(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bare(x)
        return torch.cat([self.one(torch.relu(y)), self.other(y)], 1)


def network(*body: nn.Module, channels: int, given: int | None = None) -> nn.Module:
    """Return a stem, the body between convolutions, and a classifier.

    Without a last mean: network and layers lay out the single pixel that it gives otherwise, at no cost.
    """
    last = conv(given or channels, 32, 1)
    return nn.Sequential(conv(3, channels, stride=2), *body, last, nn.Flatten(), nn.LazyLinear(5)).eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: network(
        Residual(nn.Sequential(conv(32, 32), nn.Conv2d(32, 32, 3, padding=1))), nn.ReLU(), channels=32
    ),
    "inverted, 24 channels": lambda: network(
        Residual(nn.Sequential(conv(24, 72, 1), conv(72, 72, groups=72), nn.Conv2d(72, 24, 1))), channels=24
    ),
    "pooled": lambda: network(nn.MaxPool2d(2), conv(16, 16), nn.AvgPool2d(2), channels=16),
    "dense": lambda: network(Dense(conv(32, 16)), conv(48, 32, 1), channels=32),
    "dense, parts of blocks": lambda: network(Dense(conv(24, 12)), conv(36, 24, 1), channels=24),
    "squeeze and excite": lambda: network(conv(32, 32, groups=32), Squeeze(32, nn.Sigmoid()), channels=32),
    "hard gate": lambda: network(Squeeze(32, nn.Hardsigmoid()), nn.Hardswish(), channels=32),
    "in groups": lambda: network(conv(24, 24, groups=4), conv(24, 24, groups=2), channels=24),
    "in groups, shuffled": lambda: network(conv(24, 48, groups=3), Shuffle(3), conv(48, 24, groups=3), channels=24),
    "halves": lambda: network(Halves(32), channels=32),
    "halves, 48 channels": lambda: network(Halves(48), Halves(48), channels=48),
    "norm first": lambda: network(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), channels=32),
    "activation of what others read": lambda: network(Forked(), channels=32, given=64),
    "sum of a concatenation": lambda: network(Mixed(), channels=16, given=36),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_layers_run_what_their_network_runs(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Each operator as often, and each way out of blocks of channels and into them."""
    torch.manual_seed(0)
    with torch.no_grad():
        module = make()
        module(torch.zeros(1, *IMAGE))
    path = tmp_path / "net.onnx"
    export_model(module, [torch.zeros(1, *IMAGE)], path)
    wanted = run_operators(str(path))
    layers = trace_onnx(load_onnx(path), name="net").network.layers
    if not any(name.startswith("nchwc") for name in wanted):
        assert not any(isinstance(node.op, Plain) for item in layers for node in item.layer.nodes)
        pytest.skip("this runtime keeps the usual layout on this CPU")
    assert sum_of(layers, {}) == wanted

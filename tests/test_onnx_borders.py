"""What the runtime runs for a network's layers, one by one, is what it runs for the network."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

from lut import Layer  # noqa: E402
from profiler._onnx._file import export_model, load_onnx, trace_onnx  # noqa: E402
from profiler._onnx._graph import module_of, to_onnx  # noqa: E402
from profiler._onnx._programs import marginal  # noqa: E402

# Renamed by one exporter or the other, at no cost.
RENAMING = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
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
    """Both one behind the other."""

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


def network(*body: nn.Module, channels: int) -> nn.Module:
    """Return a stem, the body between convolutions, and a classifier.

    Without a last mean: what it gives is a single pixel, which both lay out otherwise, at no cost.
    """
    made = nn.Sequential(
        conv(3, channels, stride=2), *body, conv(channels, 32, 1), nn.Flatten(), nn.LazyLinear(5)
    ).eval()
    made(torch.zeros(1, *IMAGE))
    return made


NETWORKS: dict[str, nn.Module] = {
    "residual": network(Residual(nn.Sequential(conv(32, 32), nn.Conv2d(32, 32, 3, padding=1))), nn.ReLU(), channels=32),
    "inverted, 24 channels": network(
        Residual(nn.Sequential(conv(24, 72, 1), conv(72, 72, groups=72), nn.Conv2d(72, 24, 1))), channels=24
    ),
    "pooled": network(nn.MaxPool2d(2), conv(16, 16), nn.AvgPool2d(2), channels=16),
    "dense": network(Dense(conv(32, 16)), conv(48, 32, 1), channels=32),
    "dense, parts of blocks": network(Dense(conv(24, 12)), conv(36, 24, 1), channels=24),
    "squeeze and excite": network(conv(32, 32, groups=32), Squeeze(32, nn.Sigmoid()), channels=32),
    "hard gate": network(Squeeze(32, nn.Hardsigmoid()), nn.Hardswish(), channels=32),
    "in groups": network(conv(24, 24, groups=4), conv(24, 24, groups=2), channels=24),
    "in groups, shuffled": network(conv(24, 48, groups=3), Shuffle(3), conv(48, 24, groups=3), channels=24),
    "halves": network(Halves(32), channels=32),
    "halves, 48 channels": network(Halves(48), Halves(48), channels=48),
    "norm first": network(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), channels=32),
}


def run_operators(content: bytes | str, folder: Path) -> Counter[str]:
    """Return how often the runtime runs each operator that takes time; those on blocks of channels have a domain."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath).graph
    return Counter(
        f"{node.domain}.{node.op_type}".removeprefix(".") for node in graph.node if node.op_type not in RENAMING
    )


def counted(layer: Layer, folder: Path) -> Counter[str]:
    """Return what the runtime runs for a layer: that of its programs, with the weights that their latencies have."""
    found: Counter[str] = Counter()
    for program, weight in marginal(layer, 1):
        inputs = [torch.zeros(1, *shape) for shape in program.inputs]
        content = to_onnx(program, module_of(program, torch.float32), inputs, "direct")
        for name, count in run_operators(content, folder).items():
            found[name] += weight * count  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("module", NETWORKS.values(), ids=NETWORKS)
def test_layers_run_what_their_network_runs(module: nn.Module, tmp_path: Path) -> None:
    """Each operator as often, and each way out of blocks of channels and into them."""
    path = tmp_path / "net.onnx"
    export_model(module, [torch.zeros(1, *IMAGE)], path)
    layers = trace_onnx(load_onnx(path), name="net").network.layers
    found: Counter[str] = Counter()
    for item in layers:
        for name, count in counted(item.layer, tmp_path).items():
            found[name] += item.count * count
    wanted = run_operators(str(path), tmp_path)
    assert {name: round(count, 6) for name, count in found.items() if abs(count) > 1e-6} == dict(wanted)

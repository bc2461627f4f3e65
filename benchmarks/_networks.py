"""Random networks of three spaces, layer by layer, for the benchmarks that hold sums against wholes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import msgspec

from lut import Layer, Network, NetworkLayer, conv_norm_act, global_pool, linear, residual_add
from lut.primitives import ActivationKind
from search import ResNetCifar

__all__ = ["SPACES", "as_layer", "blocks_of", "distinct", "nas_bench_macro"]

# Few widths a stage, friendly ones and others, so that a table of some hundred layers holds every network.
RESNET_WIDTHS = ((8, 13, 16, 24), (16, 27, 32, 48), (32, 51, 64, 96))
RESNET_BLOCKS = (1, 2, 3)

MOBILE_SIZE = 96
MOBILE_STAGES = ((16, 20, 24), (24, 28, 32), (40, 52, 64), (72, 96, 112), (136, 160, 184))
MOBILE_STRIDES = (1, 2, 2, 2, 1)


def resnet(rng: random.Random) -> Network:
    """Return a CIFAR ResNet of one to three blocks a stage, 32×32."""
    space = ResNetCifar(expand=2.0, depth=20)
    vector = []
    for decision in space.choices:
        if decision.name.endswith("blocks"):
            wanted = rng.choice(RESNET_BLOCKS)
        else:
            stage = 0 if decision.name == "stem" else int(decision.name[5]) - 1
            wanted = rng.choice(RESNET_WIDTHS[stage])
        vector.append(decision.options.index(wanted))
    return space.decode(vector)


class _Stack:
    """Lays layers one on another, keeping count of channels and size."""

    def __init__(self, size: int) -> None:
        self.layers: list[NetworkLayer] = []
        self.channels, self.size = 3, size

    def conv(
        self,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        act: ActivationKind | None,
        groups: int = 1,
        name: str = "",
    ) -> None:
        layer = conv_norm_act(
            self.channels,
            out_channels,
            kernel_size=kernel,
            stride=stride,
            activation=act,
            input_size=(self.size, self.size),
            groups=groups,
        )
        self.layers.append(NetworkLayer(name or f"{len(self.layers)}", layer))
        self.channels, self.size = layer.output_shape[:2]

    def inverted_residual(
        self, name: str, out_channels: int, *, expand: int, kernel: int, stride: int, act: ActivationKind
    ) -> None:
        """MobileNetV2's block (Sandler et al. 2018, figure 3): expand 1×1, depthwise, project 1×1, sum if it fits."""
        before, channels = self.layers[-1].name, self.channels
        if expand > 1:
            self.conv(channels * expand, 1, act=act, name=f"{name}.expand")
        self.conv(self.channels, kernel, stride=stride, act=act, groups=self.channels, name=f"{name}.depthwise")
        self.conv(out_channels, 1, act=None, name=f"{name}.project")
        if stride == 1 and channels == out_channels:
            add = residual_add(out_channels, activation=None, input_size=(self.size, self.size))
            inputs = (self.layers[-1].name, before)
            self.layers.append(NetworkLayer(f"{name}.add", add, inputs=inputs))

    def head(self, features: int, act: ActivationKind) -> tuple[NetworkLayer, ...]:
        self.conv(features, 1, act=act)
        self.layers.append(NetworkLayer("pool", global_pool(features, input_size=(self.size, self.size))))
        self.layers.append(NetworkLayer("classifier", linear(features, 10, bias=True)))
        return tuple(self.layers)


def mobile(rng: random.Random) -> Network:
    """Return a network of inverted residuals as MobileNetV2's, narrower, 96×96."""
    stack = _Stack(MOBILE_SIZE)
    stack.conv(16, 3, stride=2, act="relu6")
    for stage, (widths, stride) in enumerate(zip(MOBILE_STAGES, MOBILE_STRIDES, strict=True), start=1):
        width = rng.choice(widths)
        for block in range(rng.randint(1, 3)):
            stack.inverted_residual(
                f"stage{stage}.block{block + 1}",
                width,
                expand=rng.choice((3, 6)),
                kernel=rng.choice((3, 5)),
                stride=stride if block == 0 else 1,
                act="relu6",
            )
    return Network("mobile", stack.head(640, "relu6"))


def macro(rng: random.Random) -> Network:
    """Return a network of NAS-Bench-Macro (Su et al., CVPR 2021), 32×32."""
    return nas_bench_macro("".join(rng.choice("012") for _ in range(8)))


def nas_bench_macro(code: str) -> Network:
    """Return the network that NAS-Bench-Macro calls by eight digits: 0 identity, 1 and 2 inverted residuals."""
    stack = _Stack(32)
    stack.conv(32, 3, act="relu")
    for position, digit in enumerate(code):
        stride = 2 if position in (0, 2, 5) else 1
        width = (64, 128, 256)[(position >= 2) + (position >= 5)]
        if digit == "0":
            if stride == 2 or stack.channels != width:
                stack.conv(width, 1, stride=stride, act=None)
        else:
            expand, kernel = (3, 3) if digit == "1" else (6, 5)
            stack.inverted_residual(
                f"position{position + 1}", width, expand=expand, kernel=kernel, stride=stride, act="relu"
            )
    return Network(code, stack.head(1280, "relu"))


def blocks_of(network: Network) -> tuple[tuple[NetworkLayer, ...], ...]:
    """Return a network's layers by its blocks, in order; a layer outside any block is one by itself."""
    groups = itertools.groupby(network.layers, lambda item: item.name.rpartition(".")[0] or item)
    return tuple(tuple(items) for _, items in groups)


def as_layer(block: Sequence[NetworkLayer]) -> Layer:
    """Return a block as one layer."""
    names = {item.name for item in block}
    inside = [
        msgspec.structs.replace(item, inputs=tuple(name if name in names else "input" for name in item.inputs))
        for item in block
    ]
    return Network("block", tuple(inside)).as_layer()


def distinct(make: Callable[[random.Random], Network], count: int, seed: int) -> Iterator[Network]:
    """Yield ``count`` different networks."""
    rng, seen = random.Random(seed), set()
    for _ in range(100 * count):
        if len(seen) == count:
            return
        network = make(rng)
        # Places may differ where the layers do not: positions of NAS-Bench-Macro that hold nothing.
        layers = tuple(item.layer for item in network.layers)
        if layers not in seen:
            seen.add(layers)
            yield network


SPACES: dict[str, Callable[[random.Random], Network]] = {"resnet": resnet, "mobile": mobile, "macro": macro}

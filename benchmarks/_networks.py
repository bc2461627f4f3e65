"""Random networks of three spaces, layer by layer, for the benchmarks that hold sums against wholes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import msgspec

from lut import Layer, Network, NetworkLayer
from search.spaces import NasBenchMacro, ResNetCifar
from search.spaces._inverted_residuals import LayerStack

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


def mobile(rng: random.Random) -> Network:
    """Return a network of inverted residuals as MobileNetV2's, narrower, 96×96."""
    stack = LayerStack(MOBILE_SIZE)
    stack.conv("stem", 16, 3, stride=2, act="relu6")
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
    return Network("mobile", stack.head(640, "relu6", 10))


def macro(rng: random.Random) -> Network:
    """Return a network of NAS-Bench-Macro (Su et al., CVPR 2021), 32×32."""
    return nas_bench_macro("".join(rng.choice("012") for _ in range(8)))


def nas_bench_macro(code: str) -> Network:
    """Return the network that NAS-Bench-Macro calls by eight digits."""
    return NasBenchMacro().decode([int(digit) for digit in code])


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

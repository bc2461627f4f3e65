"""A CIFAR ResNet from its widths, basic or bottleneck, with the shortcuts of TAS's final networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from lut import (
    Layer,
    Network,
    NetworkLayer,
    UsageError,
    chain,
    conv_norm_act,
    global_pool,
    linear,
    pooled_shortcut,
    residual_add,
)
from lut.primitives import Conv2d

__all__ = [
    "BOTTLENECK",
    "STAGES",
    "BlockLayers",
    "Stage",
    "base_resnet",
    "block_layers",
    "classifier",
    "pool",
    "project",
    "resnet",
    "stem",
]

IMAGE_CHANNELS = 3


class Stage(NamedTuple):
    """A stage of the base network: its feature maps' height and width, and their number."""

    size: int
    base: int


STAGES = (Stage(32, 16), Stage(16, 32), Stage(8, 64))
# A bottleneck's last convolution is this many times as wide as its others.
BOTTLENECK = 4


class BlockLayers(NamedTuple):
    """What makes a block's layers from widths (in, out).

    ``convs`` in their order; ``shortcut`` gives ``None`` where the identity does; ``add`` takes the output's width.
    """

    convs: tuple[Callable[[int, int], Layer], ...]
    shortcut: Callable[[int, int], Layer | None]
    add: Callable[[int], Layer]


def resnet(
    stem_channels: int,
    stages: Sequence[Sequence[Sequence[int]]],
    *,
    classes: int,
    name: str,
    bottleneck: bool = False,
) -> Network:
    """Return a ResNet for 32×32 images as TAS builds its final networks (Dong & Yang, NeurIPS 2019).

    A basic block is two 3×3 convolutions and a sum, a bottleneck 1×1, 3×3 and 1×1. The shortcut is the identity where
    the widths agree, a 1×1 convolution where they differ (with norm in basic blocks, without in bottlenecks), and 2×2
    average pooling with a 1×1 convolution where a stage begins with stride 2.

    Args:
        stem_channels: width of the first convolution.
        stages: for each of the three, its blocks; each of these the widths of its convolutions.
        classes: outputs of the classifier.
        name: the network's.
        bottleneck: three convolutions a block instead of two.

    Raises:
        UsageError: not three stages of at least one block, or a block with another number of widths.
    """
    convs = 3 if bottleneck else 2
    if len(stages) != len(STAGES) or not all(stages):
        raise UsageError(
            f"a CIFAR ResNet has {len(STAGES)} stages of at least one block, got {[len(s) for s in stages]}"
        )
    if any(len(block) != convs for blocks in stages for block in blocks):
        raise UsageError(f"each block of {name} has {convs} widths")
    return Network(name=name, layers=tuple(_layers(stem_channels, stages, classes, bottleneck)))


def base_resnet(blocks: int, *, classes: int, name: str, bottleneck: bool) -> Network:
    """Return a base network (He et al. 2016): convolutions as wide as their stage, so many blocks in each."""
    last = [BOTTLENECK] if bottleneck else []
    stages = [[[stage.base * n for n in [1, 1, *last]]] * blocks for stage in STAGES]
    return resnet(STAGES[0].base, stages, classes=classes, name=name, bottleneck=bottleneck)


def _layers(
    channels: int, stages: Sequence[Sequence[Sequence[int]]], classes: int, bottleneck: bool
) -> Iterator[NetworkLayer]:
    before = "stem"
    yield NetworkLayer("stem", stem(channels))
    for s, blocks in enumerate(stages, start=1):
        for b, widths in enumerate(blocks, start=1):
            name = f"stage{s}.block{b}"
            make = block_layers(STAGES[s - 1].size, 2 if b == 1 and s > 1 else 1, bottleneck)
            inside = channels
            for c, (conv, width) in enumerate(zip(make.convs, widths, strict=True), start=1):
                yield NetworkLayer(f"{name}.conv{c}", conv(inside, width), inputs=(before,) if c == 1 else ())
                inside = width
            skip = before
            if (shortcut := make.shortcut(channels, inside)) is not None:
                skip = f"{name}.shortcut"
                yield NetworkLayer(skip, shortcut, inputs=(before,))
            yield NetworkLayer(f"{name}.add", make.add(inside), inputs=(f"{name}.conv{len(widths)}", skip))
            channels, before = inside, f"{name}.add"
    yield NetworkLayer("pool", pool(channels))
    yield NetworkLayer("classifier", classifier(channels, classes))


@lru_cache(maxsize=64)
def block_layers(size: int, stride: int, bottleneck: bool) -> BlockLayers:
    """Return what makes the layers of a block with feature maps of ``size`` in its end; one object for all alike.

    A predictor then makes the layers of a stage's blocks once.
    """
    before = size * stride

    def shortcut(i: int, o: int) -> Layer | None:
        if stride == 2:
            return _down(i, o, before)
        return project(i, o, size, not bottleneck) if i != o else None

    def add(o: int) -> Layer:
        return _add(o, size)

    if bottleneck:
        return BlockLayers(
            (
                lambda i, o: _conv(i, o, before, kernel=1),
                lambda i, o: _conv(i, o, before, stride=stride),
                lambda i, o: _conv(i, o, size, kernel=1, activation=False),
            ),
            shortcut,
            add,
        )
    return BlockLayers(
        (lambda i, o: _conv(i, o, before, stride=stride), lambda i, o: _conv(i, o, size, activation=False)),
        shortcut,
        add,
    )


def stem(out_channels: int) -> Layer:
    """Return the first convolution."""
    return _conv(IMAGE_CHANNELS, out_channels, STAGES[0].size)


# A search meets the same layers in network after network: made once, they are checked and hashed once.
@lru_cache(maxsize=1 << 16)
def _conv(i: int, o: int, size: int, *, kernel: int = 3, stride: int = 1, activation: bool = True) -> Layer:
    return conv_norm_act(
        i, o, kernel_size=kernel, stride=stride, activation="relu" if activation else None, input_size=(size, size)
    )


@lru_cache(maxsize=1 << 16)
def project(i: int, o: int, size: int, norm: bool) -> Layer:
    """Return the shortcut between different widths: a 1×1 convolution, with or without norm."""
    if norm:
        return conv_norm_act(i, o, kernel_size=1, stride=1, activation=None, input_size=(size, size))
    return chain((i, size, size), Conv2d(out_channels=o, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0)))


@lru_cache(maxsize=1 << 16)
def _down(i: int, o: int, size: int) -> Layer:
    return pooled_shortcut(i, o, input_size=(size, size))


@lru_cache(maxsize=1 << 10)
def _add(channels: int, size: int) -> Layer:
    return residual_add(channels, activation="relu", input_size=(size, size))


@lru_cache(maxsize=1 << 10)
def pool(channels: int) -> Layer:
    """Return the mean over the last feature maps."""
    return global_pool(channels, input_size=(STAGES[-1].size, STAGES[-1].size))


@lru_cache(maxsize=1 << 10)
def classifier(channels: int, classes: int) -> Layer:
    """Return the classifier."""
    return linear(channels, classes, bias=True)

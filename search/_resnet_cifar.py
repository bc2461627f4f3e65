"""CIFAR ResNets whose every width and depth is searched: the global search space of HTAS (Table 1)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from lut import (
    ChannelCurve,
    Decision,
    Layer,
    Network,
    NetworkLayer,
    SpaceLayer,
    UsageError,
    conv_norm_act,
    global_pool,
    linear,
    pooled_shortcut,
    residual_add,
)

__all__ = ["ResNetCifar", "resnet_cifar"]

IMAGE_CHANNELS = 3
CLASSES = 10
# HTAS expands by 2, MorphNet by up to 4; beyond this a table of every width is no longer a matter of minutes.
LARGEST_EXPAND = 16.0
AUDITED_BLOCKS = 4


class Stage(NamedTuple):
    """A stage of the base network: its feature maps' height and width, and their number."""

    size: int
    base: int


STAGES = (Stage(32, 16), Stage(16, 32), Stage(8, 64))


class ResNetCifar:
    """ResNet-20 … 110 for 32×32 images, with every convolution's width and every stage's depth free.

    Blocks follow TAS (Dong & Yang, NeurIPS 2019), which HTAS searches in: two 3×3 convolutions and a sum; the shortcut
    is the identity where the widths agree, a 1×1 convolution with norm where they differ, and 2×2 average pooling with
    a 1×1 convolution where a stage begins with stride 2.

    Args:
        expand: HTAS's *e*; a layer of a stage with base width C has 1 … ⌊e·C⌋ channels.
        depth: layers of the deepest network, 6n+2.

    Raises:
        UsageError: ``depth`` is not 6n+2, or ``expand`` leaves no width or is above 16.
    """

    name = "resnet-cifar"

    def __init__(self, *, expand: float = 2.0, depth: int = 110) -> None:
        if not 1 / STAGES[0].base <= expand <= LARGEST_EXPAND:
            raise UsageError(f"expand must be between 1/16 and {LARGEST_EXPAND:g}, got {expand}")
        if depth < 8 or (depth - 2) % 6:
            raise UsageError(f"a CIFAR ResNet has 6n+2 layers (20, 32, 56, 110, …), got depth {depth}")
        self.expand = expand
        self.depth = depth
        self._blocks = (depth - 2) // 6

    def widest(self, stage: Stage) -> int:
        """Return the largest width of a stage: ⌊e·C⌋."""
        return int(stage.base * self.expand + 1e-9)

    @property
    def choices(self) -> tuple[Decision, ...]:
        """Width of the stem, then per stage its number of blocks and the two widths of each block."""
        decisions = [Decision("stem", tuple(range(1, self.widest(STAGES[0]) + 1)), kind="width")]
        for s, stage in enumerate(STAGES, start=1):
            widths = tuple(range(1, self.widest(stage) + 1))
            decisions.append(Decision(f"stage{s}.blocks", tuple(range(1, self._blocks + 1)), kind="depth"))
            for b in range(1, self._blocks + 1):
                decisions += [Decision(f"stage{s}.block{b}.conv{c}", widths, kind="width") for c in (1, 2)]
        return tuple(decisions)

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Return a random vector of option indices, each option equally likely."""
        return tuple(rng.randrange(len(decision.options)) for decision in self.choices)

    def sample_measured(self, rng: random.Random) -> tuple[int, ...]:
        """Return a random vector whose network is made of :meth:`layers` alone, for an audit of their sums.

        Widths are those of the coarse grid, and stages have at most ``AUDITED_BLOCKS`` blocks: more of the same layers
        would take longer and tell nothing new.
        """
        vector = []
        for decision in self.choices:
            options: Sequence[int] = range(len(decision.options))
            if decision.name.endswith("blocks"):
                options = options[:AUDITED_BLOCKS]
            else:
                stage = STAGES[0] if decision.name == "stem" else STAGES[int(decision.name[len("stage")]) - 1]
                grid = _grid(self.widest(stage))
                options = [index for index in options if decision.options[index] in grid]
            vector.append(rng.choice(options))
        return tuple(vector)

    def sample_quick(self, rng: random.Random) -> tuple[int, ...]:
        """Return a random vector of any widths, with at most ``AUDITED_BLOCKS`` blocks in a stage: quick to measure."""
        vector = list(self.sample(rng))
        for i, decision in enumerate(self.choices):
            if decision.kind == "depth":
                vector[i] = rng.randrange(min(AUDITED_BLOCKS, len(decision.options)))
        return tuple(vector)

    def decode(self, vector: Sequence[int]) -> Network:
        """Return the network of a vector with one option index per decision of :attr:`choices`.

        Raises:
            UsageError: the vector's length or one of its indices does not fit.
        """
        choices = self.choices
        if len(vector) != len(choices):
            raise UsageError(f"{self.name} of depth {self.depth} has {len(choices)} decisions, got {len(vector)}")
        for index, decision in zip(vector, choices, strict=True):
            if not 0 <= index < len(decision.options):
                raise UsageError(f"{decision.name} has {len(decision.options)} options, got index {index}")
        values = iter([decision.options[index] for index, decision in zip(vector, choices, strict=True)])
        return Network(name=self.name, layers=tuple(self._network_layers(values)))

    def _network_layers(self, values: Iterator[int]) -> Iterator[NetworkLayer]:
        channels = next(values)
        before = "stem"
        yield NetworkLayer("stem", _conv(IMAGE_CHANNELS, channels, STAGES[0].size))
        for s, stage in enumerate(STAGES, start=1):
            kept = next(values)
            widths = [(next(values), next(values)) for _ in range(self._blocks)]
            for b, (inner, outer) in enumerate(widths[:kept], start=1):
                name = f"stage{s}.block{b}"
                stride = 2 if b == 1 and s > 1 else 1
                size = stage.size * stride
                yield NetworkLayer(f"{name}.conv1", _conv(channels, inner, size, stride=stride))
                yield NetworkLayer(f"{name}.conv2", _conv(inner, outer, stage.size, activation=False))
                skip = before
                if stride == 2 or channels != outer:
                    skip = f"{name}.shortcut"
                    make = _down if stride == 2 else _project
                    yield NetworkLayer(skip, make(channels, outer, size), inputs=(before,))
                yield NetworkLayer(f"{name}.add", _add(outer, stage.size), inputs=(f"{name}.conv2", skip))
                channels, before = outer, f"{name}.add"
        yield NetworkLayer("pool", _pool(channels))
        yield NetworkLayer("classifier", _classifier(channels))

    def structure(self) -> tuple[SpaceLayer, ...]:
        """Return every place of a network, with the decisions that fix its layer.

        Where a stage begins, the input's width is that of the last block kept in the stage before: one place for each
        block that may be that one.
        """
        number = {decision.name: i for i, decision in enumerate(self.choices)}
        stem = number["stem"]
        places = [_place("stem", (stem,), _stem)]
        # Decisions that may fix the input's width, each with what must hold for that.
        sources: list[tuple[int, _When]] = [(stem, ())]
        for s, stage in enumerate(STAGES, start=1):
            blocks = number[f"stage{s}.blocks"]
            for b in range(1, self._blocks + 1):
                name = f"stage{s}.block{b}"
                inner, outer = number[f"{name}.conv1"], number[f"{name}.conv2"]
                kept: _When = ((blocks, tuple(range(b - 1, self._blocks))),) if b > 1 else ()
                stride = 2 if b == 1 and s > 1 else 1
                places += _block_places(name, sources, inner, outer, kept, _block(stage.size, stride))
                sources = [(outer, kept)]
            sources = [(number[f"stage{s}.block{b}.conv2"], ((blocks, (b - 1,)),)) for b in range(1, self._blocks + 1)]
        for source, when in sources:
            places.append(_place("pool", (source,), _pool, when))
            places.append(_place("classifier", (source,), _classifier, when))
        return tuple(places)

    def curves(self) -> tuple[ChannelCurve, ...]:
        """Return HTAS's three sweeps: 3×3 conv + norm + ReLU, base width in, 1 … ⌊e·base⌋ out."""
        return tuple(
            ChannelCurve(
                name=f"stage {s}",
                base_channels=stage.base,
                layers=tuple(_conv(stage.base, width, stage.size) for width in range(1, self.widest(stage) + 1)),
            )
            for s, stage in enumerate(STAGES, start=1)
        )

    def layers(self) -> tuple[Layer, ...]:
        """Return the curves' layers and the support set, each layer once.

        The support set is a coarse grid of widths, from 1 to the widest, for every other layer of the space, so that
        each layer of each network lies on the grid or between its points.
        """
        layers = [layer for curve in self.curves() for layer in curve.layers]
        grids = [_grid(self.widest(stage)) for stage in STAGES]
        layers += [_conv(IMAGE_CHANNELS, width, STAGES[0].size) for width in grids[0]]
        for stage, grid in zip(STAGES, grids, strict=True):
            layers += [_conv(i, o, stage.size, activation=act) for i in grid for o in grid for act in (True, False)]
            layers += [_project(i, o, stage.size) for i in grid for o in grid]
            layers += [_add(width, stage.size) for width in grid]
        for before, below, above in zip(STAGES, grids, grids[1:], strict=False):
            layers += [_conv(i, o, before.size, stride=2) for i in below for o in above]
            layers += [_down(i, o, before.size) for i in below for o in above]
        layers += [_pool(width) for width in grids[-1]]
        layers += [linear(width, CLASSES, bias=True) for width in grids[-1]]
        return tuple(dict.fromkeys(layers))


def resnet_cifar(expand: float = 2.0) -> ResNetCifar:
    """Make the space; the entry point behind ``profile-device --space resnet-cifar``."""
    return ResNetCifar(expand=expand)


_When: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]


def _place(name: str, decisions: tuple[int, ...], make: Callable[..., Layer | None], when: _When = ()) -> SpaceLayer:
    return SpaceLayer(name, decisions, _by_option(make), when)


@lru_cache(maxsize=256)
def _by_option(make: Callable[..., Layer | None]) -> Callable[..., Layer | None]:
    """Return what takes option indices instead of widths: the option of index i is the width i + 1."""
    return lambda *options: make(*(option + 1 for option in options))


class _Block(NamedTuple):
    """What makes a block's layers from its widths."""

    first: Callable[..., Layer | None]
    second: Callable[..., Layer | None]
    shortcut: Callable[..., Layer | None]
    add: Callable[..., Layer | None]


@lru_cache(maxsize=64)
def _block(size: int, stride: int) -> _Block:
    """Return what all blocks of a stage share, so that a predictor makes their layers once."""
    before = size * stride

    def shortcut(i: int, o: int) -> Layer | None:
        if stride == 2:
            return _down(i, o, before)
        return _project(i, o, size) if i != o else None

    return _Block(
        first=lambda i, o: _conv(i, o, before, stride=stride),
        second=lambda i, o: _conv(i, o, size, activation=False),
        shortcut=shortcut,
        add=lambda o: _add(o, size),
    )


def _stem(out_channels: int) -> Layer:
    return _conv(IMAGE_CHANNELS, out_channels, STAGES[0].size)


def _block_places(
    name: str, sources: Sequence[tuple[int, _When]], inner: int, outer: int, kept: _When, make: _Block
) -> list[SpaceLayer]:
    """Return the places of a block, whose input's width is one of ``sources``."""
    places = [
        _place(f"{name}.conv2", (inner, outer), make.second, kept),
        _place(f"{name}.add", (outer,), make.add, kept),
    ]
    for source, when in sources:
        # What must hold for the input's block to be there holds wherever a later one of the same stage is.
        condition = kept or when
        places.append(_place(f"{name}.conv1", (source, inner), make.first, condition))
        places.append(_place(f"{name}.shortcut", (source, outer), make.shortcut, condition))
    return places


def _grid(widest: int) -> tuple[int, ...]:
    """Return 1, the widest, and the quarters between: few points, and both ends of every width that can occur."""
    return tuple(sorted({1, *(max(1, widest * quarter // 4) for quarter in (1, 2, 3, 4))}))


# A search meets the same layers in network after network: made once, they are checked and hashed once.
@lru_cache(maxsize=1 << 16)
def _conv(in_channels: int, out_channels: int, size: int, *, stride: int = 1, activation: bool = True) -> Layer:
    return conv_norm_act(
        in_channels,
        out_channels,
        kernel_size=3,
        stride=stride,
        activation="relu" if activation else None,
        input_size=(size, size),
    )


@lru_cache(maxsize=1 << 16)
def _project(in_channels: int, out_channels: int, size: int) -> Layer:
    return conv_norm_act(in_channels, out_channels, kernel_size=1, stride=1, activation=None, input_size=(size, size))


@lru_cache(maxsize=1 << 16)
def _down(in_channels: int, out_channels: int, size: int) -> Layer:
    return pooled_shortcut(in_channels, out_channels, input_size=(size, size))


@lru_cache(maxsize=1 << 10)
def _add(channels: int, size: int) -> Layer:
    return residual_add(channels, activation="relu", input_size=(size, size))


@lru_cache(maxsize=1 << 10)
def _pool(channels: int) -> Layer:
    return global_pool(channels, input_size=(STAGES[-1].size, STAGES[-1].size))


@lru_cache(maxsize=1 << 10)
def _classifier(channels: int) -> Layer:
    return linear(channels, CLASSES, bias=True)

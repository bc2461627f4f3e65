"""CIFAR ResNets whose every width and depth is searched: the space of TAS, and of HTAS over expanded widths."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, TypeAlias

from lut import ChannelCurve, Decision, Layer, LayerSlot, Network, SearchSpace, UsageError
from search.spaces._resnet_network import (
    BOTTLENECK,
    STAGES,
    base_resnet,
    block_layers,
    classifier,
    pool,
    project,
    resnet,
    stem,
)
from search.spaces._tas_networks import published_networks

__all__ = ["ResNetCifar", "WidthGroup", "resnet_cifar", "resnet_cifar_bottleneck"]

# HTAS expands by 2, MorphNet by up to 4; beyond this a table of every width is no longer a matter of minutes.
LARGEST_EXPAND = 16.0
AUDITED_BLOCKS = 4
BOTTLENECK_DEPTH = 164
# Up to so many blocks TAS searches every number of them, beyond it every other one.
EVERY_DEPTH = 3


Depths: TypeAlias = Literal["all", "tas", "base"]


class WidthGroup(NamedTuple):
    """Convolutions that share their options: those of a stage; in bottlenecks the last ones are a group of their own.

    ``size``: height and width of their feature maps; ``base``: the base network's width C.
    """

    name: str
    size: int
    base: int


class ResNetCifar(SearchSpace):
    """ResNet-20 … 164 for 32×32 images, with every convolution's width and every stage's depth free. Final.

    The networks are those of :func:`search.spaces._resnet_network.resnet`.

    Args:
        expand: HTAS's *e*; a convolution of base width C has at most ⌊e·C⌋ channels.
        depth: layers of the base network: 6n+2, or 9n+2 with bottlenecks.
        bottleneck: blocks of three convolutions; by default those of depth 164 alone are.
        widths: the options of each of :attr:`groups`, in increasing order; by default 1 … ⌊e·C⌋.
        depths: blocks that a stage may keep: ``all`` from 1 on, or TAS's: 1, 2, 3 of three, else odd numbers and all;
            or ``base``, the base network's number alone.
        classes: outputs of the classifier.

    Raises:
        UsageError: ``depth`` fits no such network, ``expand`` leaves no width or is above 16, or ``widths`` are not as
            they should be.
    """

    def __init__(
        self,
        *,
        expand: float = 2.0,
        depth: int = 110,
        bottleneck: bool | None = None,
        widths: Sequence[Sequence[int]] | None = None,
        depths: Depths = "all",
        classes: int = 10,
    ) -> None:
        self.bottleneck = depth == BOTTLENECK_DEPTH if bottleneck is None else bottleneck
        convs = 3 if self.bottleneck else 2
        if not 1 / STAGES[0].base <= expand <= LARGEST_EXPAND:
            raise UsageError(f"expand must be between 1/16 and {LARGEST_EXPAND:g}, got {expand}")
        if depth < 3 * convs + 2 or (depth - 2) % (3 * convs):
            known = "9n+2 layers (164, …)" if self.bottleneck else "6n+2 layers (20, 32, 56, 110, …)"
            raise UsageError(
                f"a CIFAR ResNet{' of bottlenecks' if self.bottleneck else ''} has {known}, got depth {depth}"
            )
        if depths not in ("all", "tas", "base"):
            raise UsageError(f"depths is 'all', 'tas' or 'base', got {depths!r}")
        if classes < 2:
            raise UsageError(f"a classifier has at least 2 classes, got {classes}")
        self.name = "resnet-cifar-bottleneck" if self.bottleneck else "resnet-cifar"
        self.expand = expand
        self.depth = depth
        self.classes = classes
        self.blocks = (depth - 2) // (3 * convs)
        self._convs = convs
        self.widths = self._checked(widths)
        self._kept: Depths = depths
        kept = range(1, self.blocks + 1)
        if depths == "tas" and self.blocks > EVERY_DEPTH:
            self.depths = tuple(n for n in kept if n % 2 or n == self.blocks)
        else:
            self.depths = tuple(kept) if depths != "base" else (self.blocks,)

    @property
    def options(self) -> dict[str, int | float | str | bool | list[list[int]]]:
        """What the space was made with, as a network file keeps it; widths only where they are not all."""
        found: dict[str, int | float | str | bool | list[list[int]]] = {
            "expand": self.expand,
            "depth": self.depth,
            "depths": self._kept,
            "classes": self.classes,
        }
        if self.widths != self._checked(None):
            found["widths"] = [list(widths) for widths in self.widths]
        return found

    @cached_property
    def groups(self) -> tuple[WidthGroup, ...]:
        """The convolutions that share their options, in the order of ``widths``."""
        found = []
        for s, stage in enumerate(STAGES, start=1):
            found.append(WidthGroup(f"stage {s}", stage.size, stage.base))
            if self.bottleneck:
                found.append(WidthGroup(f"stage {s}, last", stage.size, BOTTLENECK * stage.base))
        return tuple(found)

    def _checked(self, widths: Sequence[Sequence[int]] | None) -> tuple[tuple[int, ...], ...]:
        if widths is None:
            return tuple(tuple(range(1, self.widest(group.base) + 1)) for group in self.groups)
        if len(widths) != len(self.groups):
            raise UsageError(f"{self.name} has {len(self.groups)} groups of widths, got {len(widths)}")
        for group, options in zip(self.groups, widths, strict=True):
            if not options or list(options) != sorted(set(options)) or options[0] < 1:
                raise UsageError(f"{group.name}: widths are positive and increase, got {list(options)}")
            if options[-1] > self.widest(group.base):
                raise UsageError(
                    f"{group.name}: {options[-1]} channels are more than {self.widest(group.base)}, {self.expand:g} "
                    f"times its base width"
                )
        return tuple(tuple(options) for options in widths)

    def widest(self, base: int) -> int:
        """Return the largest width of convolutions with base width C: ⌊e·C⌋."""
        return int(base * self.expand + 1e-9)

    def group_of(self, stage: int, conv: int) -> int:
        """Return the number of the group that a block's convolution is in; both count from 1."""
        if not self.bottleneck:
            return stage - 1
        return 2 * (stage - 1) + (conv == self._convs)

    @cached_property
    def choices(self) -> tuple[Decision, ...]:
        """Width of the stem, then per stage its number of blocks and the widths of each block."""
        decisions = [Decision("stem", self.widths[0], kind="width")]
        for s in range(1, len(STAGES) + 1):
            decisions.append(Decision(f"stage{s}.blocks", self.depths, kind="depth"))
            for b in range(1, self.blocks + 1):
                for c in range(1, self._convs + 1):
                    options = self.widths[self.group_of(s, c)]
                    decisions.append(Decision(f"stage{s}.block{b}.conv{c}", options, kind="width"))
        return tuple(decisions)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {decision.name: i for i, decision in enumerate(self.choices)}

    def sample_measured(self, rng: random.Random) -> tuple[int, ...]:
        """Return a random vector whose network is made of :meth:`layers` alone, for an audit of their sums.

        Widths are those of the coarse grid, as far as there are any among the options, and stages have at most
        ``AUDITED_BLOCKS`` blocks: more of the same layers would take longer and tell nothing new.
        """
        grids = {options: set(_grid(self.widest(g.base))) for g, options in zip(self.groups, self.widths, strict=True)}
        vector = []
        for decision in self.choices:
            options: Sequence[int] = range(len(decision.options))
            if decision.kind == "depth":
                options = options[:AUDITED_BLOCKS]
            else:
                grid = grids[decision.options]
                options = [index for index in options if decision.options[index] in grid] or options
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
        stem_channels = next(values)
        stages = []
        for _ in STAGES:
            kept = next(values)
            stages.append([[next(values) for _ in range(self._convs)] for _ in range(self.blocks)][:kept])
        return resnet(stem_channels, stages, classes=self.classes, name=self.name, bottleneck=self.bottleneck)

    def base_network(self) -> Network:
        """Return the network whose widths and depths the space varies: ResNet-20, -32 …"""
        return base_resnet(self.blocks, classes=self.classes, name=f"ResNet-{self.depth}", bottleneck=self.bottleneck)

    def published(self) -> Mapping[str, Callable[[], Network]]:
        """Return what makes the networks of this kind that papers published, by name; bases among them."""
        return published_networks(self.bottleneck)

    def slots(self) -> tuple[LayerSlot, ...]:
        """Return every place of a network, with the decisions that fix its layer.

        Where a stage begins, the input's width is that of the last block kept in the stage before: one place for each
        block that may be that one.
        """
        number = self._number
        places = [self._place("stem", (number["stem"],), stem)]
        # Decisions that may fix the input's width, each with what must hold for that.
        sources: list[tuple[int, _When]] = [(number["stem"], ())]
        for s, stage in enumerate(STAGES, start=1):
            blocks = number[f"stage{s}.blocks"]
            for b in range(1, self.blocks + 1):
                name = f"stage{s}.block{b}"
                convs = [number[f"{name}.conv{c}"] for c in range(1, self._convs + 1)]
                kept: _When = ()
                if b > 1:
                    kept = ((blocks, tuple(i for i, count in enumerate(self.depths) if count >= b)),)
                make = block_layers(stage.size, 2 if b == 1 and s > 1 else 1, self.bottleneck)
                places += [
                    self._place(f"{name}.conv{c + 1}", (convs[c - 1], convs[c]), make.convs[c], kept)
                    for c in range(1, self._convs)
                ]
                places.append(self._place(f"{name}.add", (convs[-1],), make.add, kept))
                for source, when in sources:
                    # What must hold for the input's block to be there holds wherever a later one of its stage is.
                    condition = kept or when
                    places.append(self._place(f"{name}.conv1", (source, convs[0]), make.convs[0], condition))
                    places.append(self._place(f"{name}.shortcut", (source, convs[-1]), make.shortcut, condition))
                sources = [(convs[-1], kept)]
            sources = [
                (number[f"stage{s}.block{count}.conv{self._convs}"], ((blocks, (i,)),))
                for i, count in enumerate(self.depths)
            ]
        classify = _classifier(self.classes)
        for source, when in sources:
            places.append(self._place("pool", (source,), pool, when))
            places.append(self._place("classifier", (source,), classify, when))
        return tuple(places)

    def _place(
        self, name: str, decisions: tuple[int, ...], make: Callable[..., Layer | None], when: _When = ()
    ) -> LayerSlot:
        options = tuple(self.choices[d].options for d in decisions)
        return LayerSlot(name, decisions, _by_option(make, options), when)

    def curves(self) -> tuple[ChannelCurve, ...]:
        """Return HTAS's sweeps, one per group: base width in, 1 … ⌊e·base⌋ out, with norm and ReLU.

        3×3 convolutions; for a bottleneck's last ones 1×1.
        """
        found = []
        for s, stage in enumerate(STAGES):
            make = block_layers(stage.size, 1, False).convs[0]
            found.append(_curve(self.groups[self.group_of(s + 1, 1)], stage.base, make, self))
            if self.bottleneck:
                last = block_layers(stage.size, 1, True).convs[0]
                found.append(_curve(self.groups[self.group_of(s + 1, self._convs)], stage.base, last, self))
        return tuple(found)

    def layers(self) -> tuple[Layer, ...]:
        """Return the curves' layers and the support set, each layer once.

        The support set is a coarse grid of widths, from 1 to the widest, for every other layer of the space, so that
        each layer of each network lies on the grid or between its points.
        """
        found = [layer for curve in self.curves() for layer in curve.layers]
        found += _support(self)
        return tuple(dict.fromkeys(found))


def resnet_cifar(*, expand: float = 2.0, depth: int = 110, depths: Depths = "all", classes: int = 10) -> ResNetCifar:
    """Make the space; the entry point behind ``profile-device --space resnet-cifar``; see :class:`ResNetCifar`."""
    return ResNetCifar(expand=expand, depth=depth, bottleneck=False, depths=depths, classes=classes)


def resnet_cifar_bottleneck(
    *, expand: float = 2.0, depth: int = BOTTLENECK_DEPTH, depths: Depths = "all", classes: int = 10
) -> ResNetCifar:
    """Make the space of bottlenecks; the entry point behind ``profile-device --space resnet-cifar-bottleneck``."""
    return ResNetCifar(expand=expand, depth=depth, bottleneck=True, depths=depths, classes=classes)


_When: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]


@lru_cache(maxsize=512)
def _by_option(make: Callable[..., Layer | None], options: tuple[tuple[int, ...], ...]) -> Callable[..., Layer | None]:
    """Return what takes option indices instead of widths; one object for all alike."""
    return lambda *indices: make(*(widths[index] for widths, index in zip(options, indices, strict=True)))


@lru_cache(maxsize=64)
def _classifier(classes: int) -> Callable[[int], Layer]:
    return lambda channels: classifier(channels, classes)


def _curve(group: WidthGroup, base: int, make: Callable[[int, int], Layer], space: ResNetCifar) -> ChannelCurve:
    widths = range(1, space.widest(group.base) + 1)
    return ChannelCurve(name=group.name, base_channels=group.base, layers=tuple(make(base, width) for width in widths))


def _support(space: ResNetCifar) -> Iterator[Layer]:
    inner = [_grid(space.widest(stage.base)) for stage in STAGES]
    outer = [_grid(space.widest(BOTTLENECK * stage.base)) for stage in STAGES] if space.bottleneck else inner
    yield from (stem(width) for width in inner[0])
    for s, stage in enumerate(STAGES):
        # What blocks take: the stage's own widths, and before its first block the stem's or the last stage's.
        entries = [(outer[s], 1), (outer[s - 1], 2) if s else (inner[0], 1)]
        for entering, stride in dict.fromkeys(entries):
            block = block_layers(stage.size, stride, space.bottleneck)
            widths = [entering, *[inner[s]] * (len(block.convs) - 1), outer[s]]
            for make, taken, given in zip(block.convs, widths, widths[1:], strict=False):
                yield from (make(i, o) for i in taken for o in given)
            if stride == 1:
                yield from (project(i, o, stage.size, not space.bottleneck) for i in entering for o in outer[s])
            else:
                yield from (layer for i in entering for o in outer[s] if (layer := block.shortcut(i, o)) is not None)
            yield from (block.add(width) for width in outer[s])
    yield from (pool(width) for width in outer[-1])
    yield from (classifier(width, space.classes) for width in outer[-1])


def _grid(widest: int) -> tuple[int, ...]:
    """Return 1, the widest, and the quarters between: few points, and both ends of every width that can occur."""
    return tuple(sorted({1, *(max(1, widest * quarter // 4) for quarter in (1, 2, 3, 4))}))

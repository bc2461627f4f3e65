"""RCNet: the networks of RCAS, positions in six stages that a block of one of six types may fill."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Literal, NamedTuple, TypeAlias

from lut import Decision, Layer, LayerSlot, Network, NetworkLayer, SearchSpace, UsageError
from lut.primitives import Linear
from search.spaces._inverted_residuals import LayerStack, make_divisible

__all__ = ["BLOCK_TYPES", "BlockType", "RCNet", "rcnet_cifar", "rcnet_imagenet"]


class BlockType(NamedTuple):
    """What a type of block is made with: expansion t, and the groups of its 1×1 convolutions."""

    expand: int
    expand_groups: int
    project_groups: int


# Xiong et al. (2019), figure 2; type 0 is a position that nothing fills.
BLOCK_TYPES: Mapping[int, BlockType] = {
    1: BlockType(3, 1, 1),
    2: BlockType(3, 1, 2),
    3: BlockType(6, 2, 2),
    4: BlockType(6, 1, 2),
    5: BlockType(6, 1, 1),
    6: BlockType(12, 2, 4),
}

Skeleton: TypeAlias = Literal["cifar", "imagenet"]


class _Stage(NamedTuple):
    width: int
    cifar_stride: int
    imagenet_stride: int
    # Whether the search starts with a block at the stage's first position.
    begun: bool


# RC2 … RC7.
_STAGES = (
    _Stage(24, 1, 2, begun=True),
    _Stage(32, 2, 2, begun=True),
    _Stage(64, 2, 2, begun=True),
    _Stage(96, 1, 1, begun=False),
    _Stage(160, 2, 2, begun=True),
    _Stage(320, 1, 1, begun=False),
)
_FIRST_STAGE = 2
_STEM, _NARROW, _FEATURES = 32, 16, 1280
_SIZES = {"cifar": 32, "imagenet": 224}
# MobileNetV2's repeats (Sandler et al. 2018, table 2) in these stages.
_MOBILENET_REPEATS = (2, 3, 4, 3, 3, 1)


class RCNet(SearchSpace):
    """RCNet: six stages of positions, each left empty or filled with one of six kinds of inverted residual. Final.

    Xiong et al. (2019), with what their published code and totals add: channels are shuffled before a projection with
    groups, activations are ReLU, and where a block of stride 1 changes the number of channels its shortcut is a 1×1
    convolution with norm. An empty position is the identity. The first block of a stage has the stage's stride, and the
    stages that have one, and the first of all, begin with a block that the search does not touch.

    Args:
        skeleton: ``cifar`` (32×32 images) or ``imagenet`` (224×224): where the strides of 2 are.
        positions: in each stage; RCAS: 6.
        types: of blocks that a position may hold.
        initial: type of the blocks that are there from the start.
        width: multiplies all channels, rounded to multiples of 8; the head never gets narrower than 1280.
        classes: outputs of the classifier.

    Raises:
        UsageError: one of these is impossible.
    """

    def __init__(
        self,
        skeleton: Skeleton = "cifar",
        *,
        positions: int = 6,
        types: Sequence[int] = tuple(BLOCK_TYPES),
        initial: int = 5,
        width: float = 1.0,
        classes: int = 10,
    ) -> None:
        if skeleton not in _SIZES:
            raise UsageError(f"the skeleton is cifar or imagenet, got {skeleton!r}")
        if not 1 <= positions <= 100:
            raise UsageError(f"a stage has between 1 and 100 positions, got {positions}")
        if not types or list(types) != sorted(set(types)) or not set(types) <= BLOCK_TYPES.keys():
            raise UsageError(f"types are among {', '.join(map(str, BLOCK_TYPES))} and increase, got {list(types)}")
        if initial not in BLOCK_TYPES:
            raise UsageError(f"the initial blocks' type is one of {', '.join(map(str, BLOCK_TYPES))}, got {initial}")
        if not 0.1 <= width <= 10:
            raise UsageError(f"the width's multiplier lies between 0.1 and 10, got {width}")
        if classes < 2:
            raise UsageError(f"a classifier has at least 2 classes, got {classes}")
        self.name = f"rcnet-{skeleton}"
        self.skeleton = skeleton
        self.positions = positions
        self.types = tuple(types)
        self.initial = initial
        self.width = width
        self.classes = classes
        self.image_size = _SIZES[skeleton]

    @property
    def options(self) -> dict[str, int | float | str | bool | list[list[int]]]:
        """What the space was made with, as a network file keeps it."""
        return {
            "positions": self.positions,
            "types": [list(self.types)],
            "initial": self.initial,
            "width": self.width,
            "classes": self.classes,
        }

    @cached_property
    def choices(self) -> tuple[Decision, ...]:
        """One decision a position: its block's type, 0 for none; a single option where the search starts with one."""
        free = (0, *self.types)
        return tuple(
            Decision(f"stage{s}.block{p}", (self.initial,) if stage.begun and p == 1 else free, kind="operator")
            for s, stage in enumerate(_STAGES, start=_FIRST_STAGE)
            for p in range(1, self.positions + 1)
        )

    def decode(self, vector: Sequence[int]) -> Network:
        """Return the network that takes option ``vector[i]`` of decision ``i``; its name says the types stage by stage.

        Raises:
            UsageError: the vector's length or one of its indices does not fit.
        """
        choices = self.choices
        if len(vector) != len(choices):
            raise UsageError(f"{self.name} has {len(choices)} decisions, got {len(vector)}")
        for index, decision in zip(vector, choices, strict=True):
            if not 0 <= index < len(decision.options):
                raise UsageError(f"{decision.name} has {len(decision.options)} options, got index {index}")
        types = [decision.options[i] for i, decision in zip(vector, choices, strict=True)]
        stages = ["".join(map(str, types[i : i + self.positions])) for i in range(0, len(types), self.positions)]
        return self.network(types, f"{self.name} {'/'.join(stages)}")

    def network(self, types: Sequence[int], name: str) -> Network:
        """Return the network whose positions hold these types, one after another; 0: nothing.

        Unlike :meth:`decode` it takes any type anywhere.

        Raises:
            UsageError: another number of positions, an unknown type, or no block in a stage that halves its maps.
        """
        if len(types) != len(_STAGES) * self.positions or not set(types) <= {0, *BLOCK_TYPES}:
            raise UsageError(
                f"{self.name} has {len(_STAGES) * self.positions} positions, each of a type 0 … 6, got {list(types)}"
            )
        stack = self._begun()
        for s, stage in enumerate(_STAGES):
            filled = [(p, t) for p, t in enumerate(types[s * self.positions : (s + 1) * self.positions], 1) if t]
            if not filled and self._stride(stage) == 2:
                raise UsageError(f"stage {s + _FIRST_STAGE} of {self.name} halves its maps and needs a block")
            for number, (p, kind) in enumerate(filled):
                self._block(stack, s, p, kind, first=number == 0)
        return Network(name, stack.head(self._features, "relu", self.classes))

    def canonical(self, vector: Sequence[int]) -> tuple[int, ...]:
        """Return the vector of the same network whose empty positions come last in each stage."""
        found: list[int] = []
        for start in range(0, len(vector), self.positions):
            filled = [
                index
                for d, index in enumerate(vector[start : start + self.positions], start)
                if index or self._always(d)
            ]
            found += [*filled, *[0] * (self.positions - len(filled))]
        return tuple(found)

    def _begun(self) -> LayerStack:
        stack = LayerStack(self.image_size)
        stack.conv("stem", self._wide(_STEM), 3, stride=2 if self.skeleton == "imagenet" else 1, act="relu")
        stack.inverted_residual(
            "stage1.block1",
            self._wide(_NARROW),
            expand=1,
            kernel=3,
            stride=1,
            act="relu",
            expand_always=True,
            shortcut="project",
        )
        return stack

    def _block(self, stack: LayerStack, s: int, position: int, kind: int, *, first: bool) -> None:
        stage = _STAGES[s]
        stride = self._stride(stage) if first else 1
        _lay_block(stack, f"stage{s + _FIRST_STAGE}.block{position}", kind, self._wide(stage.width), stride)

    def _stride(self, stage: _Stage) -> int:
        return stage.imagenet_stride if self.skeleton == "imagenet" else stage.cifar_stride

    def _wide(self, channels: int) -> int:
        return channels if self.width == 1 else make_divisible(channels * self.width)

    @property
    def _features(self) -> int:
        return max(_FEATURES, self._wide(_FEATURES))

    def count_madds(self, network: Network) -> int:
        """Return multiply-adds as the paper counts them: of convolutions alone, without the classifier."""
        return network.madds - sum(
            item.layer.madds for item in network.layers if isinstance(item.layer.nodes[0].op, Linear)
        )

    def base_network(self) -> Network:
        """Return MobileNetV2 with this skeleton, as wide as this space."""
        from search.spaces._mobilenet_v2 import mobilenet_v2

        return mobilenet_v2(self.skeleton, width=self.width, classes=self.classes)

    def published(self) -> Mapping[str, Callable[[], Network]]:
        """Return what makes the networks that the paper published for this skeleton, by name, and its baseline."""
        return _published(self.skeleton)

    def sample_quick(self, rng: random.Random) -> tuple[int, ...]:
        """Return a random vector with few positions filled, as the networks within tight budgets have: a third."""
        return tuple(
            rng.randrange(1, n) if (n := len(d.options)) > 1 and rng.random() < 1 / 3 else 0 for d in self.choices
        )

    def sample_measured(self, rng: random.Random) -> tuple[int, ...]:
        """Return :meth:`sample_quick`: every layer of the space is measured."""
        return self.sample_quick(rng)

    def layers(self) -> tuple[Layer, ...]:
        """Return all layers of all networks, and those of the baseline, each once; there is nothing to interpolate."""
        found = [layer for place in self.slots() for layer in _options_of(place, self.choices)]
        found += [item.layer for item in self.base_network().layers]
        return tuple(dict.fromkeys(found))

    def slots(self) -> tuple[LayerSlot, ...]:
        """Return every place of a network, with the decisions that fix its layers.

        A block's layers depend on whether it is its stage's first, and, where it is, on the last stage before that has
        any.
        """
        places = [_fixed(item) for item in self._begun().layers]
        # Channels and what must hold for a stage to take them.
        entering: list[tuple[int, _When]] = [(self._wide(_NARROW), ())]
        size = self._begun().size
        for s, stage in enumerate(_STAGES):
            first = s * self.positions
            numbers = range(first, first + self.positions)
            empty = {d: ((d, (0,)),) if not self._always(d) else None for d in numbers}
            before: _When | None = ()
            following: list[tuple[int, _When]] = []
            stride = self._stride(stage)
            for d in numbers:
                if before is not None:
                    # The first of its stage, after whichever stage came before.
                    for channels, when in entering:
                        places += self._places(d, s, channels, size, (*when, *before), first=True)
                    # Later blocks find this one's output.
                    for later in numbers[numbers.index(d) + 1 :]:
                        filled = (*before, *self._filled(d))
                        places += self._places(later, s, self._wide(stage.width), size // stride, filled, first=False)
                    following.append((self._wide(stage.width), (*before, *self._filled(d))))
                    nothing = empty[d]
                    before = None if nothing is None else (*before, *nothing)
            if before is not None:
                following += [(channels, (*when, *before)) for channels, when in entering]
            entering, size = following, size // stride
        for channels, when in entering:
            stack = LayerStack(size)
            stack.channels = channels
            places += [_fixed(item, when) for item in stack.head(self._features, "relu", self.classes)]
        return tuple(places)

    def _always(self, d: int) -> bool:
        return len(self.choices[d].options) == 1

    def _filled(self, d: int) -> _When:
        return () if self._always(d) else ((d, tuple(range(1, len(self.choices[d].options)))),)

    def _places(self, d: int, s: int, channels: int, size: int, when: _When, *, first: bool) -> list[LayerSlot]:
        """Return the places of the block at decision ``d``, if it takes so many channels of so large maps."""
        stage = _STAGES[s]
        stride = self._stride(stage) if first else 1
        name, options = self.choices[d].name, self.choices[d].options
        return [
            LayerSlot(
                f"{name}.{part}", (d,), _by_option(part, options, channels, size, self._wide(stage.width), stride), when
            )
            for part in _PARTS
        ]


_When: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]


def rcnet_cifar(
    *,
    positions: int = 6,
    types: tuple[int, ...] = tuple(BLOCK_TYPES),
    initial: int = 5,
    width: float = 1.0,
    classes: int = 10,
) -> RCNet:
    """Make the space for 32×32 images; the entry point behind ``profile-device --space rcnet-cifar``.

    Arguments: :class:`RCNet`.
    """
    return RCNet("cifar", positions=positions, types=types, initial=initial, width=width, classes=classes)


def rcnet_imagenet(
    *,
    positions: int = 6,
    types: tuple[int, ...] = tuple(BLOCK_TYPES),
    initial: int = 5,
    width: float = 1.0,
    classes: int = 1000,
) -> RCNet:
    """Make the space for 224×224 images; the entry point behind ``profile-device --space rcnet-imagenet``.

    Arguments: :class:`RCNet`.
    """
    return RCNet("imagenet", positions=positions, types=types, initial=initial, width=width, classes=classes)


_PARTS = ("expand", "depthwise", "project", "shortcut", "add")


def _lay_block(stack: LayerStack, name: str, kind: int, out_channels: int, stride: int) -> None:
    block = BLOCK_TYPES[kind]
    stack.inverted_residual(
        name,
        out_channels,
        expand=block.expand,
        kernel=3,
        stride=stride,
        act="relu",
        expand_groups=block.expand_groups,
        project_groups=block.project_groups,
        shortcut="project",
    )


@lru_cache(maxsize=1 << 12)
def _parts(kind: int, channels: int, size: int, out_channels: int, stride: int) -> Mapping[str, Layer]:
    """Return a block's layers by their names."""
    stack = LayerStack(size)
    stack.conv("before", channels, 1, act=None)
    _lay_block(stack, "block", kind, out_channels, stride)
    return {item.name.removeprefix("block."): item.layer for item in stack.layers[1:]}


# One object for all places alike: a predictor then makes their layers once.
@lru_cache(maxsize=1 << 14)
def _by_option(
    part: str, options: tuple[int, ...], channels: int, size: int, out_channels: int, stride: int
) -> Callable[[int], Layer | None]:
    def layer(index: int) -> Layer | None:
        kind = options[index]
        return _parts(kind, channels, size, out_channels, stride).get(part) if kind else None

    return layer


def _fixed(item: NetworkLayer, when: _When = ()) -> LayerSlot:
    return LayerSlot(item.name, (), lambda: item.layer, when)


def _options_of(place: LayerSlot, choices: Sequence[Decision]) -> list[Layer]:
    """Return all layers that may stand at a place."""
    given = itertools.product(*(range(len(choices[d].options)) for d in place.decisions))
    return [layer for indices in given if (layer := place.layer(*indices)) is not None]


# Positions as in the supplement and the published code; 0: nothing.
_CIFAR = "5,3,0,1,1,0/5,2,0,3,3,5/5,0,3,3,0,6/0,1,6,0,4,6/5,4,6,0,4,1/0,0,0,0,0,0"
_IMAGENET = "5,1,0,4,0,0/5,0,0,0,1,0/5,2,0,4,0,0/0,1,6,0,4,6/5,3,0,3,6,3/0,0,0,0,6,0"
_IMAGENET_B = "5,3,5,1,0,0/5,2,5,3,3,5/5,5,3,5,5,6/5,1,5,5,4,5/5,4,5,5,4,5/0,5,0,0,0,0"
_TRANSFERRED = "5,3,1,1,1,5/5,2,3,3,5,0/5,3,3,6,0,0/1,6,4,6,0,0/5,4,6,4,1,0/6,0,0,0,0,0"


def _mobilenet_like() -> str:
    """Return MobileNetV2's repeats with blocks of type 5: what the paper's budgets are the size of."""
    return "/".join(",".join("5" if p < repeats else "0" for p in range(6)) for repeats in _MOBILENET_REPEATS)


def _types(text: str) -> list[int]:
    return [int(word) for word in text.replace("/", ",").split(",")]


def _published(skeleton: Skeleton) -> Mapping[str, Callable[[], Network]]:
    found = {
        "cifar": {"rcnet-c100": _CIFAR, "mobilenet-like-c100": _mobilenet_like()},
        "imagenet": {
            "rcnet": _IMAGENET,
            "rcnet-b": _IMAGENET_B,
            "rcnet-c100-transferred": _TRANSFERRED,
            "mobilenet-like": _mobilenet_like(),
        },
    }[skeleton]
    classes = 100 if skeleton == "cifar" else 1000
    space = RCNet(skeleton, classes=classes)
    made: dict[str, Callable[[], Network]] = {
        name: partial(space.network, _types(text), name) for name, text in found.items()
    }
    made["mobilenet-v2" + ("-c100" if skeleton == "cifar" else "")] = space.base_network
    return made

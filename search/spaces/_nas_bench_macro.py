"""NAS-Bench-Macro (Su et al., CVPR 2021): chains of eight positions whose every accuracy on CIFAR-10 is known."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache

import msgspec

from lut import Decision, Layer, LayerSlot, Network, NetworkLayer, SearchSpace, UsageError
from lut._files import read_bytes
from lut._printable import printable, shortened
from lut.errors import DataError, FileAccessError
from search.spaces._inverted_residuals import LayerStack

__all__ = ["NasBenchMacro", "load_accuracies", "nas_bench_macro"]

# The benchmark's has 1.4 MB.
LARGEST_FILE = 1 << 24
# Positions of each stage and its width; the first position of each halves the maps.
_STAGES = ((2, 64), (3, 128), (3, 256))
_POSITIONS = sum(positions for positions, _ in _STAGES)
_SIZE, _STEM, _FEATURES, _CLASSES = 32, 32, 1280, 10
# By option: expansion and kernel; option 0 is the identity, a 1×1 convolution where a stage begins.
_BLOCKS = {1: (3, 3), 2: (6, 5)}
_PARTS = ("downsample", "expand", "depthwise", "project", "add")


class NasBenchMacro(SearchSpace):
    """NAS-Bench-Macro: eight positions in three stages, each the identity or one of two inverted residuals. Final.

    A network is called by its eight options: ``"02012100"``. Of the 6,561 names 3,969 are different networks, since it
    makes no difference where within a stage the identity stands.
    """

    name = "nas-bench-macro"
    classes = _CLASSES
    image_size = _SIZE

    @cached_property
    def choices(self) -> tuple[Decision, ...]:
        """One decision a position: 0 identity, 1 expansion 3 and kernel 3, 2 expansion 6 and kernel 5."""
        return tuple(
            Decision(f"stage{s}.block{p}", (0, *_BLOCKS), kind="operator")
            for s, (positions, _) in enumerate(_STAGES, start=1)
            for p in range(1, positions + 1)
        )

    def decode(self, vector: Sequence[int]) -> Network:
        """Return the network of eight option indices, called by them.

        Raises:
            UsageError: the vector's length or one of its indices does not fit.
        """
        if len(vector) != _POSITIONS or not set(vector) <= {0, *_BLOCKS}:
            raise UsageError(f"{self.name} has {_POSITIONS} positions, each 0, 1 or 2, got {list(vector)}")
        stack = _begun()
        for d, index in enumerate(vector):
            _lay(stack, self.choices[d].name, index, *_place(d))
        return Network("".join(map(str, vector)), stack.head(_FEATURES, "relu", _CLASSES))

    def canonical(self, vector: Sequence[int]) -> tuple[int, ...]:
        """Return the vector of the same network whose empty positions come last in each stage."""
        found: list[int] = []
        start = 0
        for positions, _ in _STAGES:
            first, *others = vector[start : start + positions]
            filled = [index for index in others if index]
            found += [first, *filled, *[0] * (len(others) - len(filled))]
            start += positions
        return tuple(found)

    def layers(self) -> tuple[Layer, ...]:
        """Return all layers of all networks, each once; there is nothing to interpolate."""
        found: list[Layer] = []
        for place in self.slots():
            options = range(len(_BLOCKS) + 1) if place.decisions else (None,)
            made = [place.layer() if index is None else place.layer(index) for index in options]
            found += [layer for layer in made if layer is not None]
        return tuple(dict.fromkeys(found))

    def slots(self) -> tuple[LayerSlot, ...]:
        """Return every place of a network; a stage's input has the width of the stage before, whatever stands there."""
        places = [_fixed(item) for item in _begun().layers]
        for d, decision in enumerate(self.choices):
            width, stride = _place(d)
            entering, size = _entering(d)
            places += [
                LayerSlot(f"{decision.name}.{part}", (d,), _by_option(part, entering, size, width, stride))
                for part in _PARTS
            ]
        stack = LayerStack(_SIZE >> len(_STAGES))
        stack.channels = _STAGES[-1][1]
        return (*places, *map(_fixed, stack.head(_FEATURES, "relu", _CLASSES)))


def nas_bench_macro() -> NasBenchMacro:
    """Make the space; the entry point behind ``profile-device --space nas-bench-macro``."""
    return NasBenchMacro()


class _Entry(msgspec.Struct):
    """What the benchmark says of a network, as far as it is used."""

    mean_acc: float


def load_accuracies(path: str | os.PathLike[str]) -> dict[str, float]:
    """Return all networks' test accuracies on CIFAR-10, 0 … 1, the mean of three trainings, by their names.

    They are those of the best epoch by the test images: differences under 0.003 are noise, and a search that reads them
    is told what no search can know.

    Args:
        path: ``nas-bench-macro_cifar10.json`` of the benchmark's repository.

    Raises:
        FileAccessError: it cannot be read.
        DataError: it is another file, or lacks networks.
    """
    try:
        content = read_bytes(path, limit=LARGEST_FILE)
    except FileAccessError as error:
        raise FileAccessError(
            f"{error}; it is data/nas-bench-macro_cifar10.json of the repository xiusu/NAS-Bench-Macro on GitHub"
        ) from None
    try:
        found = msgspec.json.decode(content, type=dict[str, _Entry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = printable(shortened(str(error), 200))
        raise DataError(f"{path} is not NAS-Bench-Macro's file of accuracies ({why})") from None
    wanted = (1 + len(_BLOCKS)) ** _POSITIONS
    if len(found) != wanted or any(len(name) != _POSITIONS or not set(name) <= set("012") for name in found):
        raise DataError(f"{path} is not NAS-Bench-Macro's file of accuracies: it has {len(found)} of {wanted} networks")
    for name, entry in found.items():
        if not 0 <= entry.mean_acc <= 100:
            raise DataError(f"{path}: the accuracy of {name} is {entry.mean_acc} %")
    return {name: entry.mean_acc / 100 for name, entry in found.items()}


def _place(d: int) -> tuple[int, int]:
    """Return the width and the stride of a position."""
    for positions, width in _STAGES:
        if d < positions:
            return width, 2 if d == 0 else 1
        d -= positions
    raise AssertionError(d)


def _entering(d: int) -> tuple[int, int]:
    """Return the channels and the size that a position takes, whatever stands before it."""
    if d == 0:
        return _STEM, _SIZE
    halved = sum(_place(before)[1] == 2 for before in range(d))
    return _place(d - 1)[0], _SIZE >> halved


def _begun() -> LayerStack:
    stack = LayerStack(_SIZE)
    stack.conv("stem", _STEM, 3, act="relu")
    return stack


def _lay(stack: LayerStack, name: str, index: int, width: int, stride: int) -> None:
    if index:
        expand, kernel = _BLOCKS[index]
        stack.inverted_residual(name, width, expand=expand, kernel=kernel, stride=stride, act="relu")
    elif stride == 2 or stack.channels != width:
        stack.conv(f"{name}.downsample", width, 1, stride=stride, act=None)


@lru_cache(maxsize=1 << 10)
def _parts(index: int, channels: int, size: int, width: int, stride: int) -> Mapping[str, Layer]:
    stack = LayerStack(size)
    stack.conv("before", channels, 1, act=None)
    _lay(stack, "block", index, width, stride)
    return {item.name.removeprefix("block."): item.layer for item in stack.layers[1:]}


# One object for all places alike: a predictor then makes their layers once.
@lru_cache(maxsize=1 << 10)
def _by_option(part: str, channels: int, size: int, width: int, stride: int) -> Callable[[int], Layer | None]:
    return lambda index: _parts(index, channels, size, width, stride).get(part)


def _fixed(item: NetworkLayer) -> LayerSlot:
    return LayerSlot(item.name, (), lambda: item.layer)

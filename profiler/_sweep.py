"""Sweeps of a network's own layers: each one over its output widths, as the curves that HTAS scores."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import NamedTuple

import msgspec

from lut import ChannelCurve, Layer, LayerError, Network, NetworkLayer, Node, UsageError
from lut.primitives import Conv2d, Linear, Shape, Subgraph
from predictors._heads import heads_of, last_weighted

__all__ = ["Sweep", "sweep_curves"]

LEAST_EXPAND, LARGEST_EXPAND = 1 / 16, 16.0
# Of two widths there is no stair to see.
LEAST_WIDTHS = 3
# Vector registers, and the tiles of matrix units, hold multiples of eight: around a layer's own width these are
# measured however coarse the grid is.
LIKELY_STEP = 8


class Sweep(NamedTuple):
    """What there is to sweep in a network: a curve per layer, and the layers left out, each with its reason."""

    curves: tuple[ChannelCurve, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The curves' layers, each once: what is to be measured."""
        return tuple(dict.fromkeys(layer for curve in self.curves for layer in curve.layers))


class _Own(NamedTuple):
    """A layer that can be swept.

    ``name``: its first in the network; ``width``: its own; ``multiple``: what its widths are multiples of; ``least``:
    the smallest width; ``widest``: the largest; ``madds``: multiply-adds of all its occurrences, one sample each.
    """

    name: str
    layer: Layer
    width: int
    multiple: int
    least: int
    widest: int
    madds: int

    def widths(self, step: int, *, near: bool) -> tuple[int, ...]:
        """Return the widths on a grid, or none at all where these are too few; ``near`` adds some around its own."""
        wanted = {self.width, self.least, self.widest // self.multiple * self.multiple}
        wanted.update(range(step, self.widest + 1, step))
        if near:
            wanted.update((self.width - self.multiple, self.width + self.multiple))
            wanted.update(side // LIKELY_STEP * LIKELY_STEP for side in (self.width - 1, self.width + LIKELY_STEP))
        inside = {w for w in wanted if self.least <= w <= self.widest and w % self.multiple == 0}
        found = sorted(inside | {self.width})
        return tuple(found) if len(found) >= LEAST_WIDTHS else ()


def sweep_curves(network: Network, *, expand: float, step: int | None = None, most_layers: int | None = None) -> Sweep:
    """Return a curve of output widths for every convolution and linear layer of a network.

    Each distinct layer is swept once, under its first name. Its curve's ``base_channels`` is its own width C, which is
    always among the widths; the others are 1 … ⌊e·C⌋. What comes behind the convolution in the layer follows. A grouped
    convolution takes the widths that its groups divide; a depthwise one is as wide as its input, which is scaled with
    it, from 2 on (with one channel it is a plain convolution).

    Not swept: layers with several inputs (a sum's width is that of what it adds), operators kept as their framework
    wrote them, heads (:func:`predictors._heads.heads_of`: the network's output is as wide as they are), and layers with
    fewer than three widths. These are named with the reason. Layers without a convolution or linear layer have no width
    of their own and are not named.

    Args:
        network: whose layers.
        expand: HTAS's *e*, 1/16 … 16: the widest layer's width over the layer's own.
        step: measure multiples of this many channels only, besides C, the smallest and the widest; all by default.
        most_layers: a bound on the number of different layers over all curves. The grid is made coarser, the step
            doubling, until they are no more; C, its neighbours and the multiples of 8 around it stay. Where these alone
            are too many, the layers with the fewest multiply-adds are left out.

    Raises:
        UsageError: ``expand``, ``step`` or ``most_layers`` is out of range.
    """
    if not (isfinite(expand) and LEAST_EXPAND <= expand <= LARGEST_EXPAND):
        raise UsageError(f"expand must be between 1/16 and {LARGEST_EXPAND:g}, got {expand}")
    if step is not None and step < 1:
        raise UsageError(f"a sweep's step must be at least 1 channel, got {step}")
    if most_layers is not None and most_layers < 0:
        raise UsageError(f"a sweep cannot hold {most_layers} layers")

    occurrences: dict[Layer, list[NetworkLayer]] = {}
    for item in network.layers:
        occurrences.setdefault(item.layer, []).append(item)
    heads = heads_of(network)
    owns: list[_Own] = []
    reasons: dict[Layer, str] = {}
    for layer, items in occurrences.items():
        own = _own(layer, items, heads, expand)
        if isinstance(own, _Own):
            owns.append(own)
        elif own is not None:
            reasons[layer] = own

    grid, near = step or 1, most_layers is not None
    kept = owns
    if most_layers is not None:
        while _count(owns, grid) > most_layers and grid < max(own.widest for own in owns):
            grid *= 2
        kept = _within(owns, grid, most_layers)
    curves: dict[Layer, ChannelCurve] = {}
    for own in owns:
        widths = own.widths(grid, near=near)
        if not widths:
            reasons[own.layer] = f"it has fewer than {LEAST_WIDTHS} widths up to {own.widest}"
        elif own not in kept:
            reasons[own.layer] = f"it is one of the cheapest, and all of them would be more than {most_layers} layers"
        else:
            try:
                layers = tuple(_with_width(own.layer, width) for width in widths)
                curves[own.layer] = ChannelCurve(own.name, own.width, layers)
            except LayerError as error:
                reasons[own.layer] = f"it has no other widths: {error}"
    return Sweep(
        curves=tuple(curves[layer] for layer in occurrences if layer in curves),
        left_out=tuple((items[0].name, reasons[layer]) for layer, items in occurrences.items() if layer in reasons),
    )


def _own(layer: Layer, items: list[NetworkLayer], heads: frozenset[str], expand: float) -> _Own | str | None:
    """Return a layer with its range of widths, why there is none, or ``None`` where it has no width of its own."""
    if any(isinstance(node.op, Subgraph) for node in layer.nodes):
        has_weights = layer.madds > 0 or layer.parameters > 0
        return (
            "its operators are kept as the framework wrote them, with the widths that they have"
            if has_weights
            else None
        )
    last = last_weighted(layer)
    if last is None:
        return None
    if len(layer.inputs) > 1:
        return "it has several inputs"
    if all(item.name in heads for item in items):
        return "its width is that of the network's output"
    op = layer.nodes[last].op
    if isinstance(op, Linear):
        width, multiple, least = op.out_features, 1, 1
    else:
        assert isinstance(op, Conv2d)
        width, multiple, least = op.out_channels, op.groups, op.groups
        if _is_depthwise(op, layer.shapes[layer.nodes[last].args[0]]):
            multiple, least = 1, 2
    if layer.out_channels != width:
        return "its output is not as wide as its last convolution or linear layer"
    widest = max(least, int(width * expand + 1e-9))
    return _Own(
        name=items[0].name,
        layer=layer,
        width=width,
        multiple=multiple,
        least=least,
        widest=widest,
        madds=layer.madds * sum(item.count for item in items),
    )


def _is_depthwise(op: Conv2d, shape: Shape) -> bool:
    return 1 < op.groups == op.out_channels == shape[0]


def _with_width(layer: Layer, width: int) -> Layer:
    """Return a layer with another output width, everything else as it is.

    Raises:
        LayerError: its shapes do not allow that.
    """
    inputs, nodes = list(layer.inputs), list(layer.nodes)
    last = last_weighted(layer)
    assert last is not None
    value = len(inputs) + last
    # A depthwise convolution hands the width on to what comes before it: an input, or the layer's own convolution.
    while value >= len(inputs):
        position = value - len(inputs)
        op, args = nodes[position].op, nodes[position].args
        depthwise = isinstance(op, Conv2d) and _is_depthwise(op, layer.shapes[args[0]])
        if isinstance(op, Linear):
            op = msgspec.structs.replace(op, out_features=width)
        elif isinstance(op, Conv2d):
            op = msgspec.structs.replace(op, out_channels=width, groups=width if depthwise else op.groups)
        nodes[position] = Node(op=op, args=args)
        if isinstance(op, (Conv2d, Linear)) and not depthwise:
            break
        value = args[0]
    else:
        inputs[value] = (width, *inputs[value][1:])
    found = Layer(inputs=tuple(inputs), nodes=tuple(nodes))
    if found.out_channels != width:
        raise LayerError(f"its output is {found.out_channels} wide where its last convolution is {width}")
    return found


def _count(owns: Iterable[_Own], step: int) -> int:
    """Return how many different layers the curves hold."""
    return len({key for own in owns for key in _keys(own, step)})


def _keys(own: _Own, step: int) -> list[tuple[Layer, int]]:
    """Return what names a curve's layers without making them: layers of one kind share those of equal widths."""
    widths = own.widths(step, near=True)
    try:
        kind = _with_width(own.layer, own.least) if widths else own.layer
    except LayerError:
        # It is about to be left out.
        return []
    return [(kind, width) for width in widths]


def _within(owns: list[_Own], step: int, most_layers: int) -> list[_Own]:
    """Return the layers with the most multiply-adds whose curves together hold no more than ``most_layers``."""
    kept: list[_Own] = []
    held: set[tuple[Layer, int]] = set()
    for own in sorted(owns, key=lambda own: -own.madds):
        held.update(_keys(own, step))
        if len(held) > most_layers:
            break
        kept.append(own)
    return kept

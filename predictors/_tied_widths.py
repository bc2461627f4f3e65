"""Tied widths: which layers of a network must be equally wide, and the network with other widths.

Only numbers of channels change. A convolution or linear layer makes a width; everything behind it passes the width on
until another one reads it. Sums and products bind the widths of what they take, concatenations lay them one after
another, and a depthwise convolution is as wide as its input. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import lcm
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lut import Layer, LayerError, Network, NetworkLayer, Node
from lut._network import INPUT
from lut.primitives import Add, ChannelShuffle, Concat, Conv2d, Linear, Mul, Primitive, Shape, Subgraph

__all__ = ["Ties", "WidthGroup", "rewidth", "tied_layers", "width_groups"]

# The channels of a value: the numbers of the widths that lie one after another in it.
_Widths: TypeAlias = tuple[int, ...]


class WidthGroup(NamedTuple):
    """Outputs that must be equally wide.

    ``width``: in channels; ``layers``: names of the layers that give it, in the network's order; ``multiple``: what any
    width of it is a multiple of, since convolutions in groups make or read it, or shuffles do; ``least``: the smallest
    width, 2 where a depthwise convolution passes it on (with one channel that would be a plain one).
    """

    width: int
    layers: tuple[str, ...]
    multiple: int = 1
    least: int = 1


class Ties(NamedTuple):
    """What is known of the widths of a network's layers, each named by its layer.

    ``groups``: layers whose width is the same and may be changed together; ``open``: layers of these whose width also
    goes where nobody knows what changes with it: out of the network, into operators that are kept as their framework
    wrote them, or into tokens. Layers in no group are as wide as the network's input.
    """

    groups: tuple[WidthGroup, ...]
    open: frozenset[str]


class _Analysis(NamedTuple):
    """``groups`` and ``open`` of :class:`Ties`, and by which operator (layer, node) each group's width is made."""

    groups: tuple[WidthGroup, ...]
    made: dict[tuple[int, int], int]
    open: frozenset[str]


def width_groups(network: Network) -> tuple[WidthGroup, ...]:
    """Return the groups of layers whose outputs must be equally wide; a group's place here is its number.

    Left out, since they are fixed: the widths of the network's input and of its outputs, and of sums whose terms are
    not made of the same parts (a concatenation and a convolution).

    Args:
        network: its layers primitives of images and vectors, as tracing a convolutional network gives them.

    Raises:
        LayerError: a layer is a subgraph, works on tokens, or reads what no layer before it gives.
    """
    return _analysed(network).groups


def tied_layers(network: Network) -> Ties:
    """Return which layers share their width, of any network; what cannot be followed is named as unknown.

    Raises:
        LayerError: a layer reads what no layer before it gives, or another shape than that.
    """
    analysis = _analysed(network, lenient=True)
    return Ties(analysis.groups, analysis.open)


def rewidth(network: Network, widths: Mapping[int, int]) -> Network:
    """Return the same network with other widths.

    Shapes are inferred again layer by layer; depthwise convolutions follow their input.

    Args:
        network: see :func:`width_groups`.
        widths: channels by the number of their group; the other groups keep theirs.

    Raises:
        LayerError: there is no such group, it cannot be as wide as that, or the network is not one for this.
    """
    analysis = _analysed(network)
    for number, width in widths.items():
        if not 0 <= number < len(analysis.groups):
            raise LayerError(f"network {network.name!r} has {len(analysis.groups)} groups of widths, and no {number}")
        group = analysis.groups[number]
        if width < group.least or width % group.multiple:
            raise LayerError(
                f"{group.layers[0] if group.layers else number}: {width} channels; it takes multiples of "
                f"{group.multiple}, {group.least} at the least"
            )
    given: dict[str, Shape] = {}
    items: list[NetworkLayer] = []
    for i, (item, sources) in enumerate(_with_sources(network)):
        inputs = tuple(given.setdefault(s, shape) for s, shape in zip(sources, item.layer.inputs, strict=True))
        shapes = list(inputs)
        nodes: list[Node] = []
        for j, node in enumerate(item.layer.nodes):
            op = node.op
            first = shapes[node.args[0]]
            if _is_depthwise(op, item.layer.shapes[node.args[0]]):
                op = msgspec.structs.replace(op, out_channels=first[0], groups=first[0])
            elif (i, j) in analysis.made:
                wanted = widths.get(analysis.made[i, j])
                if wanted is not None:
                    field = "out_channels" if isinstance(op, Conv2d) else "out_features"
                    op = msgspec.structs.replace(op, **{field: wanted})
            nodes.append(Node(op=op, args=node.args))
            shapes.append(op.output_shape(tuple(shapes[arg] for arg in node.args)))
        layer = Layer(inputs=inputs, nodes=tuple(nodes))
        if len(inputs) > 1 and (layer.inputs, layer.nodes) != (inputs, tuple(nodes)):
            # A layer sorts the arguments of its sums: its inputs may stand in another order than the names.
            raise LayerError(f"{item.name}: with these widths it is not known which input is which")
        items.append(msgspec.structs.replace(item, layer=layer))
        given[item.name] = layer.output_shape
    return msgspec.structs.replace(network, layers=tuple(items))


def _analysed(network: Network, *, lenient: bool = False) -> _Analysis:
    found: list[int] = []  # each width, in channels
    multiples: list[int] = []
    leasts: list[int] = []
    made: dict[tuple[int, int], int] = {}
    equal: list[tuple[int, int]] = []
    fixed: set[int] = set()
    unknown: set[int] = set()
    given: dict[str, _Widths] = {}
    shapes_of: dict[str, Shape] = {}
    own_inputs: set[str] = set()
    read: set[str] = set()

    def new(width: int) -> _Widths:
        found.append(width)
        multiples.append(1)
        leasts.append(1)
        return (len(found) - 1,)

    def bind(first: _Widths, second: _Widths) -> None:
        if [found[w] for w in first] == [found[w] for w in second]:
            equal.extend(zip(first, second, strict=True))
        else:
            fixed.update(first, second)

    def opaque(problem: str, taken: list[_Widths], width: int) -> _Widths:
        """Return a width that nothing is known of, as of all that goes into it."""
        if not lenient:
            raise LayerError(problem)
        own = new(width)
        unknown.update(own, *taken)
        return own

    def output(op: Primitive, taken: list[_Widths], shapes: list[Shape], place: tuple[int, int]) -> _Widths:
        match op:
            case Conv2d() if _is_depthwise(op, shapes[0]):
                for width in taken[0]:
                    leasts[width] = 2
                return taken[0]
            case Conv2d():
                own = new(op.out_channels)
                made[place] = own[0]
                for width in (*taken[0], *own):
                    multiples[width] = lcm(multiples[width], op.groups)
                return own
            case Linear():
                if len(shapes[0]) != 1:
                    label = op.label(tuple(shapes))
                    return opaque(
                        f"{label}: widths are known of images and vectors, not of tokens", taken, op.out_features
                    )
                own = new(op.out_features)
                made[place] = own[0]
                return own
            case Add() | Mul():
                bind(*taken)
                return taken[0]
            case Concat():
                return tuple(width for part in taken for width in part)
            case ChannelShuffle():
                for width in taken[0]:
                    multiples[width] = lcm(multiples[width], op.groups)
                return taken[0]
            case Subgraph():
                return opaque(
                    f"{op.label(tuple(shapes))}: its operators are kept as the framework wrote them, with the widths "
                    "that they have",
                    taken,
                    op.output[0] or 1,
                )
            case _:
                return taken[0]

    for i, (item, sources) in enumerate(_with_sources(network)):
        for source, shape in zip(sources, item.layer.inputs, strict=True):
            if source not in given and (source == INPUT or (lenient and source.startswith(f"{INPUT} "))):
                given[source] = new(shape[0])
                fixed.update(given[source])
                own_inputs.add(source)
            if source not in given:
                raise LayerError(f"{item.name} takes the output of {source!r}, which does not come before it")
            if shapes_of.get(source, shape) != shape:
                raise LayerError(f"{item.name} takes {shape}, and {source!r} gives {shapes_of[source]}")
        read.update(sources)
        values = [given[source] for source in sources]
        for j, node in enumerate(item.layer.nodes):
            shapes = [item.layer.shapes[arg] for arg in node.args]
            values.append(output(node.op, [values[arg] for arg in node.args], shapes, (i, j)))
        if item.count > 1:
            if item.layer.inputs[0] != item.layer.output_shape:
                raise LayerError(f"{item.name} stands {item.count} times in a row, and does not take what it gives")
            for source in sources:
                bind(given[source], values[-1])
        given[item.name], shapes_of[item.name] = values[-1], item.layer.output_shape
    ends = {width for name, widths in given.items() if name not in read for width in widths}
    if not lenient:
        fixed |= ends

    label = _components(len(found), equal)
    pinned = {label[width] for width in fixed}
    members: dict[int, list[int]] = {}
    for width in range(len(found)):
        if label[width] not in pinned:
            members.setdefault(label[width], []).append(width)
    numbers = {width: number for number, group in enumerate(members.values()) for width in group}
    givers: dict[int, list[str]] = {}
    for name, widths in given.items():
        if len(widths) == 1 and widths[0] in numbers:
            givers.setdefault(numbers[widths[0]], []).append(name)
    groups = tuple(
        WidthGroup(
            width=found[group[0]],
            layers=tuple(givers.get(number, ())),
            multiple=lcm(*(multiples[width] for width in group)),
            least=max(leasts[width] for width in group),
        )
        for number, group in enumerate(members.values())
    )
    last = {label[width] for width in ends | unknown}
    outputs = {name: {label[width] for width in widths} for name, widths in given.items() if name not in own_inputs}
    return _Analysis(
        groups,
        {place: numbers[width] for place, width in made.items() if width in numbers},
        frozenset(name for name, labels in outputs.items() if labels & last),
    )


def _components(count: int, equal: Sequence[tuple[int, int]]) -> list[int]:
    """Return a number for each width; those that must be equal share it."""
    first, second = (np.array([pair[i] for pair in equal], dtype=np.int64) for i in (0, 1))
    graph = coo_array((np.ones(len(equal)), (first, second)), shape=(count, count))
    return [int(number) for number in connected_components(graph, directed=False)[1]]


def _with_sources(network: Network) -> Iterator[tuple[NetworkLayer, tuple[str, ...]]]:
    """Yield the layers with the names of what each one takes."""
    before: str | None = None
    for item in network.layers:
        yield item, item.inputs or ((before,) if before is not None else (INPUT,) * len(item.layer.inputs))
        before = item.name


def _is_depthwise(op: Primitive, shape: Shape) -> bool:
    return isinstance(op, Conv2d) and 1 < op.groups == op.out_channels == shape[0]

"""A layer: one unit of work that a target runs as a whole, and the key of a lookup table."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cached_property
from math import prod

import msgspec

from lut._op import show_shapes
from lut._printable import shortened
from lut.errors import LayerError
from lut.primitives import LARGEST_SIZE, Add, Conv2d, Linear, Plain, Primitive, Shape, Subgraph
from lut.subgraph import Given

__all__ = ["Layer", "Node"]

# A unit that a target runs as a whole has a handful of operators. The bounds keep a hostile file from costing minutes.
MOST_NODES = 1000
# Arguments for each input and node: a network of densely connected blocks, as one layer, has four.
MOST_ARGUMENTS = 16
MOST_AXES = 7
MOST_OUTPUT_AXES = 64
# Elements of one value, multiply-adds, parameters: what 63 bits hold, so that every reader can count them.
LARGEST_COUNT = 2**63 - 1


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operator in a layer's graph; ``args`` number the layer's inputs first, then its nodes in order."""

    op: Primitive
    args: tuple[int, ...]


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True, cache_hash=True):
    """A small graph of primitive operators with its shapes: frozen, hashable and canonical.

    Args:
        inputs: shapes of the inputs, one sample each: ``(channels, height, width)`` or ``(features,)``.
        nodes: operators in an order in which each one's arguments come first; the last one is the output.

    The same work has one description: however the nodes and inputs were ordered, and whichever way round the
    arguments of a sum stood, equal graphs compare equal, encode to the same JSON and share one ``digest``. (Branches
    that are identical operator by operator keep the order in which they were given.)

    Raises:
        LayerError: shapes do not fit, an argument points forward, an input or a node is never used.
    """

    inputs: tuple[Shape, ...]
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        _check(self.inputs, self.nodes)
        inputs, nodes = _canonical(self.inputs, self.nodes)
        msgspec.structs.force_setattr(self, "inputs", inputs)
        msgspec.structs.force_setattr(self, "nodes", nodes)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of all values: the inputs, then each node's output."""
        return _shapes(self.inputs, self.nodes)

    @property
    def output_shape(self) -> Shape:
        """Shape of the output, one sample."""
        return self.shapes[-1]

    @property
    def out_channels(self) -> int:
        """Width of the output: its channels, or the features of each token."""
        return self.output_shape[0] if len(self.output_shape) in (1, 3) else self.output_shape[-1]

    @property
    def bare(self) -> Layer:
        """The layer without its ``plain`` nodes, as every runtime is given it: the same inputs, in the same order."""
        return self._bare if any(isinstance(node.op, Plain) for node in self.nodes) else self

    @cached_property
    def _bare(self) -> Layer:
        numbers = list(range(len(self.inputs)))
        nodes: list[Node] = []
        for node in self.nodes:
            args = tuple(numbers[arg] for arg in node.args)
            if isinstance(node.op, Plain):
                numbers += args
            else:
                nodes.append(Node(node.op, args))
                numbers.append(len(self.inputs) + len(nodes) - 1)
        return Layer(self.inputs, tuple(nodes))

    @property
    def operators(self) -> tuple[Primitive, ...]:
        """Its primitives in order, without ``plain``."""
        return tuple(node.op for node in self.bare.nodes)

    @property
    def givens(self) -> tuple[Given, ...]:
        """What each input takes, one sample: floating-point numbers, or what its subgraphs say."""
        found = [Given(shape=shape) for shape in self.inputs]
        for node in self.bare.nodes:
            if isinstance(node.op, Subgraph):
                for arg, given in zip(node.args, node.op.inputs, strict=True):
                    if arg < len(found):
                        found[arg] = given
        return tuple(found)

    @cached_property
    def madds(self) -> int:
        """Multiply-adds of one sample, convolutions and linear layers only, as the papers count them."""
        return sum(node.op.madds(shapes) for node, shapes in self._with_shapes())

    @cached_property
    def parameters(self) -> int:
        """Trainable parameters, those of the norms included."""
        return sum(node.op.parameters(shapes) for node, shapes in self._with_shapes())

    def bytes_moved(self, *, batch: int, bytes_per_element: int) -> int:
        """Return the bytes that the layer must read and write at least: inputs, output and parameters, each once."""
        per_sample = sum(map(prod, self.inputs)) + prod(self.output_shape)
        return (per_sample * batch + self.parameters) * bytes_per_element

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the layer in files; equal layers share them."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    @cached_property
    def family(self) -> str:
        """Sixteen digits shared by the layers that differ in their channel counts only."""
        described = [(_without_channels(node.op, shapes), node.args) for node, shapes in self._with_shapes()]
        sizes = [shape[1:] for shape in self.inputs]
        return hashlib.sha256(msgspec.json.encode((sizes, described))).hexdigest()[:16]

    @property
    def _is_subgraph(self) -> bool:
        return any(isinstance(node.op, Subgraph) for node in self.nodes)

    def _with_shapes(self) -> list[tuple[Node, tuple[Shape, ...]]]:
        return [(node, tuple(self.shapes[i] for i in node.args)) for node in self.nodes]

    def __str__(self) -> str:
        """A short label for people: ``conv3×3 16→32 +bn +relu @32×32``."""
        labels = [node.op.label(shapes) for node, shapes in self._with_shapes()]
        size = self.inputs[0][1:] if len(self.inputs[0]) == 3 and not self._is_subgraph else ()
        return " +".join(labels) + (" @" + "×".join(map(str, size)) if size else "")


def _check_layouts(inputs: tuple[Shape, ...], nodes: tuple[Node, ...]) -> None:
    readers = Counter(arg for node in nodes for arg in node.args)
    for position, node in enumerate(nodes[:-1]):
        if not isinstance(node.op, Plain) or not node.args:
            continue
        if node.args[0] >= len(inputs):
            raise LayerError(f"node {position} is plain in the middle of the layer; only an input or the output may be")
        if readers[node.args[0]] > 1:
            raise LayerError(f"input {node.args[0]} is plain, and is read in another layout as well")


def _without_channels(op: Primitive, shapes: tuple[Shape, ...]) -> Primitive:
    if isinstance(op, Linear):
        return msgspec.structs.replace(op, out_features=0)
    if not isinstance(op, Conv2d):
        return op
    # A group for each input channel is one number of channels, not two: depthwise convolutions are a family.
    by_channel = op.groups > 1 and op.groups == shapes[0][0]
    return msgspec.structs.replace(op, out_channels=0, groups=0 if by_channel else op.groups)


def _check(inputs: tuple[Shape, ...], nodes: tuple[Node, ...]) -> None:
    if not inputs or not nodes:
        raise LayerError("a layer needs at least one input and one node")
    if all(isinstance(node.op, Plain) for node in nodes):
        raise LayerError("a layer needs an operator; plain only says in which layout an image is")
    if len(inputs) + len(nodes) > MOST_NODES:
        raise LayerError(f"a layer has at most {MOST_NODES} inputs and nodes, got {len(inputs) + len(nodes)}")
    # Without notes on layouts a layer is one as well.
    operators = [node for node in nodes if not isinstance(node.op, Plain)]
    arguments = sum(len(node.args) for node in operators)
    if arguments > MOST_ARGUMENTS * (len(inputs) + len(operators)):
        raise LayerError(
            f"a layer of {len(nodes)} nodes takes at most {MOST_ARGUMENTS} values for each, got {arguments}"
        )
    for shape in inputs:
        if not shape or len(shape) > MOST_AXES or any(not 1 <= size <= LARGEST_SIZE for size in shape):
            raise LayerError(f"an input's shape has one to {MOST_AXES} positive sizes, got {show_shapes((shape,))}")
    used: set[int] = set()
    for position, node in enumerate(nodes, start=len(inputs)):
        if any(not 0 <= arg < position for arg in node.args):
            found = shortened(str(node.args), 80)
            raise LayerError(f"node {position - len(inputs)} takes {found}: only inputs and earlier nodes exist")
        used.update(node.args)
    unused = set(range(len(inputs) + len(nodes) - 1)) - used
    if unused:
        raise LayerError(f"value {min(unused)} is never used (values are numbered inputs first, then nodes)")
    _check_layouts(inputs, nodes)
    _check_sizes(inputs, nodes)


def _check_sizes(inputs: tuple[Shape, ...], nodes: tuple[Node, ...]) -> None:
    """Raise unless all shapes fit and are of a size that can be counted."""
    if any(prod(shape) > LARGEST_COUNT for shape in inputs):
        raise LayerError(f"an input of {show_shapes(inputs)} has more elements than can be counted")
    shapes = list(inputs)
    madds = parameters = 0
    for i, node in enumerate(nodes):
        taken = tuple(shapes[arg] for arg in node.args)
        output = node.op.output_shape(taken)
        # Axes first: a product of any number of sizes takes any time.
        if (
            len(output) > MOST_OUTPUT_AXES
            or any(size > LARGEST_SIZE for size in output)
            or prod(output) > LARGEST_COUNT
        ):
            raise LayerError(f"node {i}: an output of {show_shapes((output,))} has more elements than can be counted")
        madds += node.op.madds(taken)
        parameters += node.op.parameters(taken)
        if madds > LARGEST_COUNT or parameters > LARGEST_COUNT:
            raise LayerError(f"node {i}: more multiply-adds or parameters than can be counted")
        shapes.append(output)


def _shapes(inputs: tuple[Shape, ...], nodes: tuple[Node, ...]) -> tuple[Shape, ...]:
    shapes = list(inputs)
    for node in nodes:
        shapes.append(node.op.output_shape(tuple(shapes[i] for i in node.args)))
    return tuple(shapes)


def _canonical(inputs: tuple[Shape, ...], nodes: tuple[Node, ...]) -> tuple[tuple[Shape, ...], tuple[Node, ...]]:
    """Renumber inputs and nodes in depth-first order from the output, with the arguments of sums sorted by content."""
    if len(nodes) == 1 and len(inputs) == 1:
        return inputs, nodes
    # Of each value: as it is without notes on layouts, and with them. So a layer and its bare form are in one order.
    digests = [(digest := hashlib.sha256(repr(shape).encode()).digest(), digest) for shape in inputs]
    arguments: list[tuple[int, ...]] = [()] * len(inputs)
    for node in nodes:
        args = node.args
        if isinstance(node.op, Add):  # commutative (Mul is not: its second argument may broadcast)
            args = tuple(sorted(args, key=lambda i: digests[i]))
        arguments.append(args)
        content = msgspec.json.encode(node.op)
        bare, full = (hashlib.sha256(content + b"".join(digests[i][k] for i in args)).digest() for k in (0, 1))
        digests.append((digests[args[0]][0] if isinstance(node.op, Plain) and args else bare, full))

    last = len(inputs) + len(nodes) - 1
    order: list[int] = []
    seen: set[int] = set()
    stack: list[tuple[int, bool]] = [(last, False)]
    while stack:
        value, children_done = stack.pop()
        if children_done:
            order.append(value)
        elif value not in seen:
            seen.add(value)
            stack.append((value, True))
            stack.extend((arg, False) for arg in reversed(arguments[value]))
    input_order = [value for value in order if value < len(inputs)]
    node_order = [value for value in order if value >= len(inputs)]
    number = {value: i for i, value in enumerate(input_order + node_order)}
    return (
        tuple(inputs[value] for value in input_order),
        tuple(
            Node(op=nodes[value - len(inputs)].op, args=tuple(number[arg] for arg in arguments[value]))
            for value in node_order
        ),
    )

"""Which programs tell what a layer costs inside a network.

ONNX Runtime lays out the data of convolutions in blocks of channels (NCHWc), and reorders them where a program begins
and ends: a lone convolution pays for two reorders that a network pays once. It also fuses across layers: a sum or an
activation disappears in the convolution before it. So a layer's cost is what it *adds* to a program that goes on
before and after it:

*   a first convolution brings the data into the runtime's layout; then ``COPIES`` copies of the layer with weights of
    their own take its output, and from each copy's output a pooling with a window of one picks a single pixel per
    channel, which costs next to nothing and keeps the layout;
*   the same with one copy; the difference over ``COPIES`` − 1 is the layer's cost;
*   a layer that begins with a sum, an activation or the like gets a small convolution of its own before each copy, as
    networks have it, and the same programs without the layer are subtracted;
*   so does a layer that begins with any operator without weights, such as a pooling: the runtime computes equal
    operators on equal data only once, and four copies of it would cost as much as one. Where the input is an image or
    a vector, each copy gets an input of its own instead.
"""

from __future__ import annotations

from typing import NamedTuple

from lut import Layer, chain, conv_norm_act
from lut.primitives import (
    Activation,
    Add,
    BatchNorm2d,
    Concat,
    Conv2d,
    LayerNorm,
    Linear,
    MaxPool2d,
    Mul,
    Shape,
    Subgraph,
)
from profiler._onnx._graph import Program, Step, givens_of

__all__ = ["COPIES", "Weighted", "lone", "marginal"]

COPIES = 4
# Channels of the image that feeds the first convolution, and of the small map that feeds the small ones.
IMAGE, SMALL = 3, 8
# What the runtime fuses with the operator before.
FUSED_BACKWARD = (Activation, Add, BatchNorm2d, Concat, Mul)
# What makes copies on the same data differ.
WEIGHTED = (BatchNorm2d, Conv2d, LayerNorm, Linear)


class Weighted(NamedTuple):
    """A program and the weight of its latency in the layer's."""

    program: Program
    weight: float


def lone(layer: Layer, seed: int) -> Program:
    """Return the program that is the layer alone."""
    n = len(layer.inputs)
    return Program(layer.inputs, (Step(layer, seed, tuple(range(n))),), (n,))


def marginal(layer: Layer, seed: int) -> tuple[Weighted, ...]:
    """Return the programs whose weighted latencies sum up to what the layer adds to a network."""
    share = 1.0 / (COPIES - 1)
    found = [Weighted(_copies(layer, COPIES, seed), share), Weighted(_copies(layer, 1, seed), -share)]
    if any(_fed_by_convolution(layer, i) for i in _own_inputs(layer)):
        found.append(Weighted(_copies(layer, COPIES, seed, without=True), -share))
        found.append(Weighted(_copies(layer, 1, seed, without=True), share))
    return tuple(found)


def _own_inputs(layer: Layer) -> tuple[int, ...]:
    """Return the inputs that the layer's copies cannot share.

    These are what the runtime fuses with the operator before, and what operators without weights read.
    """
    heavy = any(isinstance(node.op, (Conv2d, Linear)) for node in layer.nodes)
    backward = isinstance(layer.nodes[0].op, FUSED_BACKWARD) or not heavy
    own = {0} if backward and _fed_by_convolution(layer, 0) else set[int]()
    # Any of a subgraph's operators may come before its first weight.
    own |= {
        arg for node in layer.nodes if isinstance(node.op, Subgraph) for arg in node.args if arg < len(layer.inputs)
    }
    # Per value the inputs that it follows from, none where it differs between copies.
    follows = [{i} for i in range(len(layer.inputs))]
    for node in layer.nodes:
        sources = [follows[i] for i in node.args]
        if isinstance(node.op, WEIGHTED) or not all(sources):
            follows.append(set())
            continue
        inputs = set[int]().union(*sources)
        if own.isdisjoint(inputs):
            own.add(min(inputs))
        follows.append(set())
    return tuple(sorted(own))


class _Builder:
    """Collects the steps of a program. Final."""

    def __init__(self) -> None:
        self.inputs: list[Shape] = []
        self.steps: list[Step] = []
        self.seed = 0

    def enter(self, shape: Shape) -> int:
        """Add an input; all of them come before the first step."""
        assert not self.steps
        self.inputs.append(shape)
        return len(self.inputs) - 1

    def add(self, layer: Layer, *args: int) -> int:
        self.seed += 1
        self.steps.append(Step(layer, self.seed, args))
        return len(self.inputs) + len(self.steps) - 1

    def pick(self, value: int, shape: Shape) -> int:
        """Take one pixel of each channel, where there is more than one."""
        if len(shape) != 3 or shape[1] * shape[2] == 1:
            return value
        return self.add(chain(shape, MaxPool2d(kernel_size=(1, 1), stride=(shape[1], shape[2]))), value)


def _copies(layer: Layer, copies: int, seed: int, *, without: bool = False) -> Program:
    """Return the program with ``copies`` copies of the layer, or ``without`` it, and all that stands around them."""
    own = _own_inputs(layer)
    made = _Builder()
    made.seed = 1000 * seed
    # Where each of the layer's inputs comes in: an image that a convolution takes, or the input itself.
    entrances: list[list[int]] = []
    for i, shape in enumerate(layer.inputs):
        fed = _fed_by_convolution(layer, i)
        count = copies if i in own and not fed else 1
        entrances.append([made.enter((IMAGE, *shape[1:]) if fed else shape) for _ in range(count)])
    # One map for each of the layer's inputs, in the runtime's layout, that all copies share; or a small one that all
    # copies make their own of.
    maps: dict[int, int] = {}
    for i, shape in enumerate(layer.inputs):
        if _fed_by_convolution(layer, i):
            maps[i] = made.add(_pointwise(IMAGE, SMALL if i in own else shape[0], shape), entrances[i][0])
    outputs: list[int] = []
    for copy in range(copies):
        args: list[int] = []
        for i, shape in enumerate(layer.inputs):
            if i not in maps:
                args.append(entrances[i][copy % len(entrances[i])])
            elif i in own:
                args.append(made.add(_pointwise(SMALL, shape[0], shape), maps[i]))
            else:
                args.append(maps[i])
        if without:
            outputs += [made.pick(args[i], layer.inputs[i]) for i in own if i in maps]
        else:
            value = made.add(layer, *args)
            outputs.append(made.pick(value, layer.output_shape) if _gives_floats(layer) else value)
    used = {arg for step in made.steps for arg in step.args}
    return _without_unused(Program(tuple(made.inputs), tuple(made.steps), tuple(outputs)), used)


def _fed_by_convolution(layer: Layer, i: int) -> bool:
    """Whether a network would have a convolution before an input: not before an image, a vector, or indices."""
    shape = layer.inputs[i]
    return len(shape) == 3 and shape[0] > IMAGE and givens_of(layer)[i].dtype.startswith("float")


def _gives_floats(layer: Layer) -> bool:
    op = layer.nodes[-1].op
    return not isinstance(op, Subgraph) or op.gives.startswith("float")


def _pointwise(in_channels: int, out_channels: int, shape: Shape) -> Layer:
    return conv_norm_act(
        in_channels, out_channels, kernel_size=1, stride=1, activation=None, input_size=(shape[1], shape[2])
    )


def _without_unused(program: Program, used: set[int]) -> Program:
    """Return the program without the inputs and steps that nothing reads; those before them go with them."""
    n = len(program.inputs)
    keep = used | set(program.outputs)
    if all(i in keep for i in range(n + len(program.steps))):
        return program
    number: dict[int, int] = {}
    for i in range(n + len(program.steps)):
        if i in keep:
            number[i] = len(number)
    steps = tuple(
        Step(step.layer, step.seed, tuple(number[a] for a in step.args))
        for i, step in enumerate(program.steps, start=n)
        if i in keep
    )
    smaller = Program(
        tuple(shape for i, shape in enumerate(program.inputs) if i in keep),
        steps,
        tuple(number[i] for i in program.outputs),
    )
    return _without_unused(smaller, {arg for step in steps for arg in step.args})

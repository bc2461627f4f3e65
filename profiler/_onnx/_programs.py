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
    networks have it, and the same programs without the layer are subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lut import Layer, chain, conv_norm_act
from lut.primitives import Activation, Add, BatchNorm2d, Concat, Conv2d, Linear, MaxPool2d, Mul, Shape
from profiler._onnx._graph import Program, Step

__all__ = ["COPIES", "Weighted", "lone", "marginal"]

COPIES = 4
# Channels of the image that feeds the first convolution, and of the small map that feeds the small ones.
IMAGE, SMALL = 3, 8
# What the runtime fuses with the operator before.
FUSED_BACKWARD = (Activation, Add, BatchNorm2d, Concat, Mul)


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
    if _fuses_backward(layer):
        found.append(Weighted(_copies(layer, COPIES, seed, without=True), -share))
        found.append(Weighted(_copies(layer, 1, seed, without=True), share))
    return tuple(found)


def _fuses_backward(layer: Layer) -> bool:
    """Whether the layer's cost depends on the operator before it: no convolution or linear layer begins it."""
    heavy = any(isinstance(node.op, (Conv2d, Linear)) for node in layer.nodes)
    return _fed_by_convolution(layer.inputs[0]) and (isinstance(layer.nodes[0].op, FUSED_BACKWARD) or not heavy)


class _Builder:
    """Collects the steps of a program. Final."""

    def __init__(self, inputs: Sequence[Shape]) -> None:
        self.inputs = tuple(inputs)
        self.steps: list[Step] = []
        self.seed = 0

    def add(self, layer: Layer, *args: int) -> int:
        self.seed += 1
        self.steps.append(Step(layer, self.seed, args))
        return len(self.inputs) + len(self.steps) - 1


def _copies(layer: Layer, copies: int, seed: int, *, without: bool = False) -> Program:
    """Return the program with ``copies`` copies of the layer, or ``without`` it, and all that stands around them."""
    backward = _fuses_backward(layer)
    made = _Builder([(IMAGE, *shape[1:]) if _fed_by_convolution(shape) else shape for shape in layer.inputs])
    made.seed = 1000 * seed
    # One map for each of the layer's inputs, in the runtime's layout, that all copies share.
    small: int | None = None
    shared: list[int] = []
    for i, shape in enumerate(layer.inputs):
        if not _fed_by_convolution(shape):
            shared.append(i)
        elif backward and i == 0:
            small = made.add(_pointwise(IMAGE, SMALL, shape), i)
            shared.append(small)
        else:
            shared.append(made.add(_pointwise(IMAGE, shape[0], shape), i))
    outputs = []
    for _ in range(copies):
        args = list(shared)
        if small is not None:
            args[0] = made.add(_pointwise(SMALL, layer.inputs[0][0], layer.inputs[0]), small)
        value, shape = args[0], layer.inputs[0]
        if not without:
            value, shape = made.add(layer, *args), layer.output_shape
        if len(shape) == 3 and shape[1] * shape[2] > 1:
            value = made.add(chain(shape, MaxPool2d(kernel_size=(1, 1), stride=(shape[1], shape[2]))), value)
        outputs.append(value)
    used = {arg for step in made.steps for arg in step.args}
    return _without_unused(Program(made.inputs, tuple(made.steps), tuple(outputs)), used)


def _fed_by_convolution(shape: Shape) -> bool:
    """Whether a network would have a convolution before an input of this shape: not before an image, or a vector."""
    return len(shape) == 3 and shape[0] > IMAGE


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

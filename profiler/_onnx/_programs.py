"""Which programs tell what a layer costs inside a network.

ONNX Runtime lays out the data of convolutions in blocks of channels (NCHWc), and reorders them where a program begins
and ends: a lone convolution pays for two reorders that a network pays once. It also fuses across layers: a sum or an
activation disappears in the convolution before it. So a layer's cost is what it *adds* to a program that goes on
before and after it:

*   a first convolution brings the data into the runtime's layout; a small one of its own before each copy of the layer,
    with weights of their own, writes what the copy takes, as networks have it: data that was just written, not what
    another copy has just read. Of each copy's output another convolution picks a single pixel per channel. It is a
    depthwise one, which reads nothing else. (A pooling would have the whole image reordered first unless the channels
    fill blocks);
*   the same with the first copy only is subtracted: the others' places are bare. The first one writes to memory that
    weights which passed have driven out of the caches, and runs code that has not run since; in a network, layers
    before it have used both. That is the same in both programs, and ``COPIES`` copies are left;
*   a layer that gives no image has another way out of the program than what it takes. Its cost is what ``COPIES``
    copies are more than one, with the layer less without it. From the one copy as many pixels are picked: to pick one,
    and to bring it out of the runtime, takes as long as a small layer;
*   the runtime folds a norm, an activation and a sum into the convolution before it. One that a layer begins with
    stands behind something else in its network, or beside other readers (a sum: if it is an ONNX operator, and not the
    primitive): of what it reads, a pixel is picked as well, with the layer and without it, and nothing is folded;
*   of an image, a vector or tokens the program has an input for each copy. Operators without weights would otherwise be
    computed once: the runtime merges what is equal.

So a layer is measured between convolutions. One that leaves the runtime's layout pays for the way out, and for the way
back if what reads it is in the layout again. Where its input comes plain, or its output stays so (:class:`Plain`),
convolutions in a few groups feed it and pick, which the runtime has no blocks for.
"""

from __future__ import annotations

from typing import NamedTuple

from lut import Layer, chain, conv_norm_act
from lut.primitives import (
    Activation,
    BatchNorm2d,
    Conv2d,
    Plain,
    Shape,
    Subgraph,
)
from profiler._onnx._graph import Program, Step

__all__ = ["COPIES", "Weighted", "lone", "marginal"]

COPIES = 4
# Channels of the image that feeds the first convolution, of the small map that feeds the small ones, and of a block.
IMAGE, SMALL, BLOCK = 3, 8, 16


class Weighted(NamedTuple):
    """A program and the weight of its latency in the layer's."""

    program: Program
    weight: float


def lone(layer: Layer, seed: int) -> Program:
    """Return the program that is the layer alone."""
    n = len(layer.inputs)
    return Program(layer.inputs, (Step(layer.bare, seed, tuple(range(n))),), (n,))


def marginal(layer: Layer, seed: int) -> tuple[Weighted, ...]:
    """Return the programs whose weighted latencies sum up to what the layer adds to a network."""
    if _is_between_convolutions(layer):
        return (
            Weighted(_copies(layer, COPIES + 1, seed), 1.0 / COPIES),
            Weighted(_copies(layer, COPIES + 1, seed, bare=COPIES), -1.0 / COPIES),
        )
    share = 1.0 / (COPIES - 1)
    found = [Weighted(_copies(layer, COPIES, seed), share), Weighted(_copies(layer, 1, seed), -share)]
    if any(_fed_by_convolution(layer, i) for i in range(len(layer.inputs))):
        found.append(Weighted(_copies(layer, COPIES, seed, bare=COPIES), -share))
        found.append(Weighted(_copies(layer, 1, seed, bare=1), share))
    return tuple(found)


def _is_between_convolutions(layer: Layer) -> bool:
    """Whether a layer takes images from convolutions and gives one to a convolution."""
    fed = all(_fed_by_convolution(layer, i) for i in range(len(layer.inputs)))
    return fed and len(layer.output_shape) == 3 and _gives_floats(layer)


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
        self.steps.append(Step(layer.bare, self.seed, args))
        return len(self.inputs) + len(self.steps) - 1

    def picks(self, value: int, shape: Shape, count: int, *, plain: bool = False) -> list[int]:
        """Take one pixel of each channel of an image, ``count`` times, without a look at any other.

        Args:
            value: the image's number.
            shape: its shape.
            count: how often.
            plain: without blocks of channels.
        """
        if len(shape) != 3:
            return [value]
        channels, height, width = shape
        groups = _plain_groups(channels) if plain else channels
        pick = Conv2d(out_channels=groups, kernel_size=(1, 1), stride=(height, width), padding=(0, 0), groups=groups)
        return [self.add(chain(shape, pick), value) for _ in range(count)]


def _copies(layer: Layer, copies: int, seed: int, *, bare: int = 0) -> Program:
    """Return the program with places for ``copies`` of the layer, the last ``bare`` of them without it."""
    made = _Builder()
    made.seed = 1000 * seed
    fed = [i for i in range(len(layer.inputs)) if _fed_by_convolution(layer, i)]
    # Where each of the layer's inputs comes in: an image that all small convolutions go back to, or what a copy takes.
    entrances = [
        [made.enter((IMAGE, *shape[1:]) if i in fed else shape) for _ in range(1 if i in fed else copies)]
        for i, shape in enumerate(layer.inputs)
    ]
    plain = {i: _plain_groups(layer.inputs[i][0]) for i in fed if _comes_plain(layer, i)}
    # What is not folded into a convolution before it there, is not to be folded into one here.
    by_itself = _begins_with_a_sum_by_itself(layer)
    kept = [i for i in fed if i in plain or by_itself or _begins_with_what_would_be_folded(layer, i)]
    maps = {i: made.add(_pointwise(IMAGE, plain.get(i, SMALL), layer.inputs[i]), entrances[i][0]) for i in fed}
    # As many in every program.
    picks = max(1, COPIES // copies)
    stays = isinstance(layer.nodes[-1].op, Plain)
    outputs: list[int] = []
    for copy in range(copies):
        args = [
            made.add(_feeding(shape, plain.get(i)), maps[i]) if i in fed else entrances[i][copy]
            for i, shape in enumerate(layer.inputs)
        ]
        if copy >= copies - bare:
            for i in fed:
                count = 2 * picks if i in kept else picks
                outputs += made.picks(args[i], layer.inputs[i], count, plain=i in plain)
        else:
            for i in kept:
                outputs += made.picks(args[i], layer.inputs[i], picks, plain=i in plain)
            value = made.add(layer, *args)
            count = picks * max(1, len(fed))
            outputs += made.picks(value, layer.output_shape, count, plain=stays) if _gives_floats(layer) else [value]
    if _is_between_convolutions(layer):
        in_blocks = sum(i not in plain for i in kept) + (0 if stays else len(fed))
        in_blocks_bare = sum(1 + (i in kept) for i in fed if i not in plain)
        # What the fuller of both programs has more, or fewer.
        surplus = COPIES * (in_blocks - in_blocks_bare)
        outputs += _balance(made, surplus, layer.inputs[0], is_bare=bare > 0)
    used = {arg for step in made.steps for arg in step.args}
    return _without_unused(Program(tuple(made.inputs), tuple(made.steps), tuple(outputs)), used)


def _balance(made: _Builder, surplus: int, shape: Shape, *, is_bare: bool) -> list[int]:
    """Have as many pixels picked of images in blocks, and as many of plain ones, in both programs.

    What is picked of blocks has to leave them, and a layer that goes into blocks or out of them would otherwise be
    charged for that.

    Args:
        made: the program.
        surplus: how many more picks the program full of copies has in blocks than the one with bare places; as many
            fewer of plain images.
        shape: of the layer's first input.
        is_bare: which of both this is.
    """
    if not surplus:
        return []
    size = shape[1:]
    narrow = made.add(_pointwise(IMAGE, 2, shape), 0)
    maps = {
        False: (made.add(_pointwise(IMAGE, BLOCK, shape), 0), (BLOCK, *size)),
        True: (made.add(_feeding((BLOCK, *size), 2), narrow), (BLOCK, *size)),
    }
    # The other map, too, has a reader in both.
    lacking_plain = (surplus > 0) != is_bare
    counts = {lacking_plain: 1 + abs(surplus), not lacking_plain: 1}
    return [pick for plain, (value, own) in maps.items() for pick in made.picks(value, own, counts[plain], plain=plain)]


def _fed_by_convolution(layer: Layer, i: int) -> bool:
    """Whether a network would have a convolution before an input: not before an image, a vector, or indices."""
    shape = layer.inputs[i]
    return len(shape) == 3 and shape[0] > IMAGE and layer.givens[i].dtype.startswith("float")


def _begins_with_what_would_be_folded(layer: Layer, i: int) -> bool:
    """Whether a norm or an activation reads an input: one that no convolution before it absorbs, or it were part of its
    layer.
    """
    nodes = layer.bare.nodes
    return any(isinstance(node.op, (Activation, BatchNorm2d)) and i in node.args for node in nodes)


def _begins_with_a_sum_by_itself(layer: Layer) -> bool:
    """Whether a layer is a sum that its network's runtime folds into no convolution; it has no word of primitives."""
    op = layer.operators[0]
    return isinstance(op, Subgraph) and op.calls[0].op == "Add"


def _gives_floats(layer: Layer) -> bool:
    op = layer.operators[-1]
    return not isinstance(op, Subgraph) or op.gives.startswith("float")


def _comes_plain(layer: Layer, i: int) -> bool:
    """Whether an input comes without blocks of channels, from what has none."""
    return any(isinstance(node.op, Plain) and node.args == (i,) for node in layer.nodes)


def _plain_groups(channels: int) -> int:
    """Return in how many groups a convolution from or to so many channels is one that the runtime has no blocks for.

    It has them where groups are as wide as a block, and where there is a group for each channel, if they fill blocks.
    """
    return next(divisor for divisor in (2, 3, 5, 7, channels) if channels % divisor == 0)


def _feeding(shape: Shape, plain: int | None) -> Layer:
    """Return what writes an input from its small map: in blocks of channels, or without, by groups of one channel."""
    if plain is None:
        return _pointwise(SMALL, shape[0], shape)
    conv = Conv2d(out_channels=shape[0], kernel_size=(1, 1), stride=(1, 1), padding=(0, 0), groups=plain)
    return chain((plain, *shape[1:]), conv, BatchNorm2d())


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

"""Which ONNX programs tell a layer's marginal cost: well-formed, and all but the layer cancels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from lut import Layer, Node, chain, conv_norm_act, global_pool, linear, pooled_shortcut, residual_add
from lut.primitives import (
    Activation,
    Add,
    AvgPool2d,
    BatchNorm2d,
    ChannelShuffle,
    Concat,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    LayerNorm,
    Linear,
    MaxPool2d,
    Mul,
    Plain,
)
from profiler._onnx._graph import Program, Step, module_of
from profiler._onnx._programs import COPIES, lone, marginal

SHAPE = (16, 8, 8)


def conv(out: int, *, kernel: int = 3, groups: int = 1, bias: bool = False) -> Conv2d:
    """Return a convolution that keeps the size."""
    return Conv2d(
        out_channels=out,
        kernel_size=(kernel, kernel),
        stride=(1, 1),
        padding=(kernel // 2, kernel // 2),
        groups=groups,
        bias=bias,
    )


def act(kind: str = "relu") -> Activation:
    """Return an activation."""
    return Activation(kind=kind)  # type: ignore[arg-type]


def image(channels: int, stride: int = 2) -> Layer:
    """Return the first layer of a network."""
    return conv_norm_act(channels, 16, kernel_size=3, stride=stride, activation="relu", input_size=(16, 16))


BLOCK = Layer(
    (SHAPE, SHAPE),
    (
        Node(conv(16), (0,)),
        Node(BatchNorm2d(), (2,)),
        Node(act(), (3,)),
        Node(conv(16), (4,)),
        Node(Add(), (5, 1)),
        Node(act(), (6,)),
    ),
)
SUM_FIRST = Layer((SHAPE, SHAPE), (Node(Add(), (0, 1)), Node(conv(8), (2,))))
SQUEEZE = Layer(
    (SHAPE,),
    (
        Node(GlobalAvgPool2d(), (0,)),
        Node(conv(4, kernel=1), (1,)),
        Node(act(), (2,)),
        Node(conv(16, kernel=1), (3,)),
        Node(act("sigmoid"), (4,)),
        Node(Mul(), (0, 5)),
    ),
)
LAYERS: dict[str, Layer] = {
    "conv": conv_norm_act(16, 24, kernel_size=3, stride=1, activation="relu", input_size=(8, 8)),
    "conv bias": chain(SHAPE, conv(16, bias=True)),
    "depthwise": conv_norm_act(16, 16, kernel_size=3, stride=2, activation="relu6", input_size=(8, 8), groups=16),
    "conv on 1×1": conv_norm_act(16, 8, kernel_size=1, stride=1, activation=None, input_size=(1, 1)),
    "image of 3": image(3),
    "image of 1": image(1, stride=1),
    "pool an image": chain((3, 16, 16), MaxPool2d(kernel_size=(2, 2), stride=(2, 2))),
    "relu of an image of 1": chain((1, 8, 8), act()),
    "add": residual_add(16, activation="relu", input_size=(8, 8)),
    "add on 1×1": residual_add(16, activation=None, input_size=(1, 1)),
    "add vectors": Layer(((12,), (12,)), (Node(Add(), (0, 1)),)),
    "mul": Layer((SHAPE, SHAPE), (Node(Mul(), (0, 1)),)),
    "mul by channel": Layer((SHAPE, (16, 1, 1)), (Node(Mul(), (0, 1)),)),
    "concat": Layer((SHAPE, (8, 8, 8), (4, 8, 8)), (Node(Concat(), (0, 1, 2)),)),
    "concat of images": Layer(((3, 8, 8), (3, 8, 8)), (Node(Concat(), (0, 1)),)),
    "shuffle": chain(SHAPE, ChannelShuffle(groups=2)),
    "shuffle between": chain(SHAPE, conv(24, kernel=1), ChannelShuffle(groups=3), conv(16, kernel=1)),
    "activation": chain(SHAPE, act("silu")),
    "activation of a vector": chain((12,), act("tanh")),
    "batch norm": chain(SHAPE, BatchNorm2d()),
    "norm before conv": chain(SHAPE, BatchNorm2d(), act(), conv(8)),
    "max pool": chain(SHAPE, MaxPool2d(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))),
    "avg pool": chain(SHAPE, AvgPool2d(kernel_size=(2, 2), stride=(2, 2))),
    "pooled shortcut": pooled_shortcut(16, 24, input_size=(8, 8)),
    "global pool": global_pool(16, input_size=(8, 8)),
    "global pool, not flat": chain(SHAPE, GlobalAvgPool2d()),
    "flatten": chain(SHAPE, Flatten()),
    "linear": linear(24, 10, bias=True),
    "linear after pool": chain(SHAPE, GlobalAvgPool2d(), Flatten(), Linear(out_features=7, bias=False)),
    "linear on tokens": chain((6, 12), Linear(out_features=7, bias=True)),
    "linear on tokens, no bias": chain((6, 12), Linear(out_features=7, bias=False)),
    "layer norm": chain((6, 12), LayerNorm()),
    "layer norm, no bias": chain((6, 12), LayerNorm(bias=False)),
    "plain to plain": chain(SHAPE, Plain(), conv(24, groups=4), Plain()),
    "plain to blocks": chain(SHAPE, Plain(), act()),
    "blocks to plain": chain(SHAPE, conv(24), Plain()),
    "concat of plain ones": Layer(
        (SHAPE, (8, 8, 8)), (Node(Plain(), (0,)), Node(Plain(), (1,)), Node(Concat(), (2, 3)), Node(Plain(), (4,)))
    ),
    "mul of plain and blocks": Layer((SHAPE, SHAPE), (Node(Plain(), (0,)), Node(Mul(), (2, 1)))),
    "plain to a vector": chain(SHAPE, Plain(), GlobalAvgPool2d(), Flatten()),
    "block": BLOCK,
    "sum first": SUM_FIRST,
    "squeeze and excite": SQUEEZE,
}
ALL = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
# Layers whose copies, or what they begin with, could be merged where they share their inputs.
WEIGHTLESS = {
    name: layer
    for name, layer in LAYERS.items()
    if not isinstance(layer.nodes[0].op, (BatchNorm2d, Conv2d, LayerNorm, Linear))
}


def is_pick(step: Step) -> bool:
    """Whether a step takes one pixel of each channel, or of each of a few groups of channels."""
    (op, *others) = [node.op for node in step.layer.nodes]
    if others or not isinstance(op, Conv2d) or op.kernel_size != (1, 1):
        return False
    return op.groups == op.out_channels and step.layer.output_shape[1:] == (1, 1)


def is_plain_pick(step: Step) -> bool:
    """Whether a pick is one that the runtime has no blocks for."""
    op = step.layer.nodes[0].op
    return isinstance(op, Conv2d) and op.groups < step.layer.inputs[0][0]


def test_every_primitive_is_among_the_layers() -> None:
    used = {type(node.op) for layer in LAYERS.values() for node in layer.nodes}
    assert used == {
        Activation,
        Add,
        AvgPool2d,
        BatchNorm2d,
        ChannelShuffle,
        Concat,
        Conv2d,
        Flatten,
        GlobalAvgPool2d,
        LayerNorm,
        Linear,
        MaxPool2d,
        Mul,
        Plain,
    }


@ALL
def test_programs_are_well_formed(layer: Layer) -> None:
    for program in (lone(layer, 3), *(weighted.program for weighted in marginal(layer, 3))):
        shapes = list(program.inputs)
        for step in program.steps:
            assert all(0 <= arg < len(shapes) for arg in step.args)
            assert tuple(shapes[arg] for arg in step.args) == step.layer.inputs
            shapes.append(step.layer.output_shape)
        assert program.outputs
        assert len(set(program.outputs)) == len(program.outputs)
        assert all(len(program.inputs) <= output < len(shapes) for output in program.outputs)
        read = {arg for step in program.steps for arg in step.args}
        assert read | set(program.outputs) == set(range(len(shapes))), "something is computed that nobody reads"
        assert len({step.seed for step in program.steps}) == len(program.steps)
        # What is read from a program is small: what is timed is the layer, not its output's way out of the runtime.
        if program != lone(layer, 3):
            assert all(len(shape) < 3 or shape[1] * shape[2] == 1 for shape in program.output_shapes)
        assert program.output_shapes == tuple(shapes[output] for output in program.outputs)


@ALL
def test_programs_run_and_give_the_shapes_they_promise(layer: Layer) -> None:
    for program in (lone(layer, 3), *(weighted.program for weighted in marginal(layer, 3))):
        module = module_of(program, torch.float32)
        with torch.inference_mode():
            outputs = module(*(torch.randn(2, *shape) for shape in program.inputs))
        assert [tuple(output.shape[1:]) for output in outputs] == list(program.output_shapes)


def occurrences(program: Program, layer: Layer) -> list[Step]:
    """Return the steps that are the layer; not the convolutions around it, should they look alike."""
    return [step for step in program.steps if step.layer == layer.bare]


@ALL
def test_the_layer_stands_in_one_program_copies_times_and_in_another_once(layer: Layer) -> None:
    found = marginal(layer, 3)
    counts = [len(occurrences(weighted.program, layer)) for weighted in found]
    if layer != LAYERS["conv on 1×1"]:  # one that looks like the convolutions around it
        # Between convolutions, one program whose other places are bare is enough to subtract.
        assert counts in ([COPIES + 1, 1], [COPIES, 1], [COPIES, 1, 0, 0])
    assert sum(weighted.weight for weighted in found) == pytest.approx(0.0, abs=1e-12)
    times = sum(weighted.weight * count for weighted, count in zip(found, counts, strict=True))
    assert times == pytest.approx(1.0)
    if layer.parameters:
        many = max((weighted.program for weighted in found), key=lambda program: len(occurrences(program, layer)))
        module = module_of(many, torch.float32)
        weights = [
            next(w for w in part.parameters() if w.numel() > 1).flatten()
            for part, step in zip(module.get_submodule("parts").children(), many.steps, strict=True)
            if step.layer == layer.bare
        ]
        assert all(not torch.equal(one, other) for one, other in pairwise(weights))


def test_another_seed_gives_other_weights() -> None:
    layer = LAYERS["conv"]
    seeds = [{step.seed for step in weighted.program.steps} for seed in (0, 1, 2) for weighted in marginal(layer, seed)]
    assert not seeds[0] & seeds[2]
    assert not seeds[2] & seeds[4]


def costs(kinds: dict[Layer, float], picks: float, overhead: float) -> Callable[[Program], float]:
    """Return a model of a runtime on which every kind of step has a price, and every program one of its own."""

    def cost(program: Program) -> float:
        total = overhead
        for step in program.steps:
            # A price for every kind of step, that of no other: 1, 10.1, 100.2 … of the order in which they appear.
            pick = 1.5 * picks if is_plain_pick(step) else picks
            total += pick if is_pick(step) else kinds.setdefault(step.layer, 7.0**2 + 13.7 * len(kinds))
        return total + 0.25 * len(program.inputs)

    return cost


@ALL
@pytest.mark.parametrize("picks", [0.0, 17.5])
def test_all_but_the_layer_cancels(layer: Layer, picks: float) -> None:
    """Whatever a program's start, the convolutions around the layer, its inputs and the way out of it cost."""
    kinds = {layer.bare: 1000.0}
    cost = costs(kinds, picks, overhead=12345.0)
    value = sum(weighted.weight * cost(weighted.program) for weighted in marginal(layer, 3))
    rest = value - 1000.0
    assert -1e-6 <= rest <= 0.25 * len(layer.inputs) + 1e-6
    if len(kinds) > 1 and layer != LAYERS["conv on 1×1"]:
        assert len(marginal(layer, 3)) == 4 or any(
            step.layer != layer.bare and not is_pick(step) for step in marginal(layer, 3)[0].program.steps
        )


@ALL
def test_the_first_place_holds_the_layer_in_both_programs(layer: Layer) -> None:
    """The first copy pays for cold memory and code; what is subtracted must have paid for them as well."""
    many, one = (weighted.program for weighted in marginal(layer, 3)[:2])
    if layer == LAYERS["conv on 1×1"] or len(occurrences(many, layer)) != COPIES + 1:
        return
    first = [next(i for i, step in enumerate(program.steps) if step.layer == layer.bare) for program in (many, one)]
    assert first[0] == first[1]
    assert many.steps[: first[0] + 1] == one.steps[: first[1] + 1]


@ALL
def test_programs_that_are_subtracted_give_as_much_out(layer: Layer) -> None:
    """To pick a pixel, and to bring it out of the runtime, costs as much as a small layer."""
    programs = [weighted.program for weighted in marginal(layer, 3)]
    for many, one in zip(programs[::2], programs[1::2], strict=True):
        if any(is_pick(step) for step in many.steps):
            # A vector is picked from by nothing: each copy's is given as it is.
            images = [[shape for shape in program.output_shapes if len(shape) == 3] for program in (many, one)]
            assert len(images[0]) == len(images[1])
            vectors = [len(program.outputs) - len(found) for program, found in zip((many, one), images, strict=True)]
            assert vectors in ([0, 0], [COPIES, 1])
            # Without the layer it is its inputs that are picked from, with their channels.
            if len(programs) == 4:
                assert sorted(images[0]) == sorted(images[1])


@pytest.mark.parametrize("layer", WEIGHTLESS.values(), ids=WEIGHTLESS)
def test_copies_that_begin_without_weights_take_different_data(layer: Layer) -> None:
    """A runtime merges equal nodes: copies of a pooling of one map would be computed once."""
    program = marginal(layer, 3)[0].program
    args = [step.args for step in program.steps if step.layer == layer.bare]
    assert len(args) in {COPIES, COPIES + 1}
    assert len(set(args)) == len(args)


@ALL
def test_every_copy_takes_data_of_its_own_that_was_just_written(layer: Layer) -> None:
    """What another copy has just read is in the caches; and the runtime merges equal operators on equal data."""
    for program, _ in marginal(layer, 3):
        copies = occurrences(program, layer) if layer != LAYERS["conv on 1×1"] else []
        taken = [arg for step in copies for arg in step.args]
        assert len(set(taken)) == len(taken)
        for step in copies:
            for arg, shape in zip(step.args, layer.inputs, strict=True):
                if len(shape) == 3 and shape[0] > 3:
                    before = program.steps[arg - len(program.inputs)]
                    assert isinstance(before.layer.nodes[0].op, Conv2d)
                else:
                    assert arg < len(program.inputs)


def test_an_image_is_the_programs_own_input() -> None:
    for name, channels in (("image of 3", 3), ("image of 1", 1)):
        for weighted in marginal(LAYERS[name], 3):
            assert set(weighted.program.inputs) == {(channels, 16, 16)}
            assert all(step.layer == LAYERS[name] or is_pick(step) for step in weighted.program.steps)

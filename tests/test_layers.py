"""Layers: canonical, with exact counts, and honest about what is impossible."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut import Layer, LayerError, Node, chain, conv_norm_act, global_pool, linear, pooled_shortcut, residual_add
from lut.primitives import (
    Activation,
    Add,
    AvgPool2d,
    BatchNorm2d,
    ChannelShuffle,
    Concat,
    Conv2d,
    Linear,
    MaxPool2d,
    Mul,
    Plain,
)


def conv(out: int, kernel: int = 3) -> Conv2d:
    return Conv2d(out_channels=out, kernel_size=(kernel, kernel), stride=(1, 1), padding=(kernel // 2, kernel // 2))


def test_conv_norm_act_counts_are_exact() -> None:
    layer = conv_norm_act(16, 32, kernel_size=3, stride=2, activation="relu", input_size=(32, 32))
    assert layer.output_shape == (32, 16, 16)
    assert layer.madds == 16 * 32 * 9 * 16 * 16
    assert layer.parameters == 16 * 32 * 9 + 2 * 32
    assert layer.bytes_moved(batch=4, bytes_per_element=4) == 4 * (4 * (16 * 32 * 32 + 32 * 16 * 16) + layer.parameters)
    assert str(layer) == "conv3×3 16→32 /2 +bn +relu @32×32"


def test_a_layout_is_no_operator() -> None:
    shape = (6, 4, 4)
    grouped = Conv2d(out_channels=6, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0), groups=3)
    layer = chain(shape, Plain(), grouped, Plain())
    bare = chain(shape, grouped)
    assert (layer.madds, layer.parameters, layer.output_shape) == (bare.madds, bare.parameters, bare.output_shape)
    assert layer != bare
    assert str(layer) == "plain +conv1×1 6→6 g3 +plain @4×4"
    with pytest.raises(LayerError, match="needs an operator"):
        chain(shape, Plain(), Plain())
    with pytest.raises(LayerError, match="plain"):
        chain((6,), Plain(), Linear(out_features=2, bias=False))
    with pytest.raises(LayerError, match="node 1 is plain in the middle of the layer"):
        chain(shape, grouped, Plain(), grouped)
    with pytest.raises(LayerError, match="input 0 is plain, and is read in another layout as well"):
        Layer((shape,), (Node(Plain(), (0,)), Node(Add(), (0, 1))))
    with pytest.raises(LayerError, match="at most 16 values"):
        Layer(((1, 1, 1),), (Node(Plain(), (0,)), Node(Concat(), (1,) * 47)))
    with pytest.raises(LayerError):
        Layer((shape, shape), (Node(Plain(), ()), Node(Add(), (0, 1, 2))))
    assert layer.bare == bare
    assert bare.bare is bare
    assert layer.operators == (grouped,)
    both = Layer((shape, shape), (Node(Plain(), (1,)), Node(Add(), (0, 2)), Node(Activation(kind="relu"), (3,))))
    assert both.bare == Layer((shape, shape), (Node(Add(), (0, 1)), Node(Activation(kind="relu"), (2,))))


@given(st.integers(1, 64), st.integers(1, 64), st.booleans(), st.booleans(), st.booleans())
def test_a_layer_takes_the_same_inputs_in_the_same_order_without_its_layouts(
    one: int, other: int, first: bool, second: bool, last: bool
) -> None:
    """Inputs are put into an order by what is made of them, which a note on their layout must not change."""
    shapes = ((one, 4, 4), (other, 4, 4))
    nodes: list[Node] = []
    values = [0, 1]
    for i, plain in enumerate((first, second)):
        if plain:
            nodes.append(Node(Plain(), (i,)))
            values[i] = 1 + len(nodes)
    nodes.append(Node(conv(other), (values[0],)))
    nodes.append(Node(Add(), (1 + len(nodes), values[1])))
    layer = Layer(shapes, (*nodes, Node(Plain(), (1 + len(nodes),))) if last else tuple(nodes))
    assert layer.bare.inputs == layer.inputs
    assert layer.bare == Layer(shapes, (Node(conv(other), (0,)), Node(Add(), (2, 1))))
    assert [given.shape for given in layer.givens] == list(layer.inputs)
    assert len(layer.operators) == 2


def test_depthwise_and_linear_counts() -> None:
    depthwise = conv_norm_act(8, 8, kernel_size=3, stride=1, activation=None, input_size=(4, 4), groups=8)
    assert (depthwise.madds, depthwise.parameters) == (8 * 9 * 16, 8 * 9 + 16)
    assert linear(64, 10, bias=True).parameters == 650
    assert linear(64, 10, bias=True).madds == 640


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (residual_add(8, activation="relu", input_size=(4, 4)), (8, 4, 4)),
        (pooled_shortcut(8, 16, input_size=(8, 8)), (16, 4, 4)),
        (global_pool(8, input_size=(8, 8)), (8,)),
        (chain((12, 5, 7), ChannelShuffle(groups=3)), (12, 5, 7)),
        (chain((3, 224, 224), MaxPool2d(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))), (3, 112, 112)),
    ],
)
def test_output_shapes(layer: Layer, shape: tuple[int, ...]) -> None:
    assert layer.output_shape == shape


def test_equal_work_has_one_description() -> None:
    shape, other = (8, 4, 4), (4, 4, 4)
    branch, relu = Node(conv(8), (0,)), Activation(kind="relu")
    first = Layer((shape, other), (branch, Node(conv(8), (1,)), Node(Add(), (2, 3)), Node(relu, (4,))))
    swapped = Layer((other, shape), (Node(conv(8), (0,)), Node(conv(8), (1,)), Node(Add(), (3, 2)), Node(relu, (4,))))
    assert first == swapped
    assert hash(first) == hash(swapped)
    assert first.digest == swapped.digest
    assert msgspec.json.encode(first) == msgspec.json.encode(swapped)


def test_different_work_has_different_descriptions() -> None:
    base = {"kernel_size": 3, "stride": 1, "activation": "relu", "input_size": (8, 8)}
    layers = [
        conv_norm_act(8, 8, **base),
        conv_norm_act(8, 9, **base),
        conv_norm_act(8, 8, **{**base, "stride": 2}),
        conv_norm_act(8, 8, **{**base, "activation": None}),
        conv_norm_act(8, 8, **{**base, "input_size": (8, 9)}),
        conv_norm_act(8, 8, groups=2, **base),
    ]
    assert len({layer.digest for layer in layers}) == len(layers)
    assert layers[0].family == layers[1].family != layers[2].family


def test_a_shuffle_is_free_and_told_apart_by_its_groups() -> None:
    layers = [chain(IMAGE, conv(8), ChannelShuffle(groups=groups)) for groups in (2, 4)]
    assert [str(layer) for layer in layers] == ["conv3×3 8→8 +shuffle g2 @4×4", "conv3×3 8→8 +shuffle g4 @4×4"]
    assert layers[0].digest != layers[1].digest
    assert layers[0].family != layers[1].family
    plain = chain(IMAGE, conv(8))
    assert {(layer.madds, layer.parameters) for layer in layers} == {(plain.madds, plain.parameters)}
    assert msgspec.json.decode(msgspec.json.encode(layers[1]), type=Layer) == layers[1]


def test_the_digest_is_what_files_already_hold() -> None:
    # A change here makes every table that was ever written unreadable by key: it needs a new format version.
    layer = conv_norm_act(16, 32, kernel_size=3, stride=1, activation="relu", input_size=(32, 32))
    assert layer.digest == "9b3ba47960011f4a"


IMAGE = (8, 4, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chain((8, 4), conv(8)), "takes one input of shape"),
        (lambda: chain(IMAGE, conv(0)), "out_channels must be between 1"),
        (
            lambda: chain(IMAGE, Conv2d(out_channels=8, kernel_size=(9, 9), stride=(1, 1), padding=(0, 0))),
            "does not fit",
        ),
        (lambda: chain(IMAGE, Conv2d(out_channels=8, kernel_size=(3, 3), stride=(0, 1), padding=(1, 1))), "stride"),
        (
            lambda: chain(IMAGE, Conv2d(out_channels=9, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0), groups=2)),
            "groups=2",
        ),
        (lambda: chain(IMAGE, Activation(kind="swoosh")), "unknown activation"),  # type: ignore[arg-type]
        (lambda: Layer(((8,), (8,)), (Node(op=Linear(out_features=3, bias=True), args=(0, 1)),)), "one input"),
        (lambda: chain(IMAGE, AvgPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(2, 2))), "more than half"),
        (lambda: chain((0, 4, 4), BatchNorm2d()), "positive sizes"),
        (lambda: Layer((IMAGE, (8, 2, 2)), (Node(Add(), (0, 1)),)), "same shape"),
        (lambda: Layer((IMAGE, (8, 2, 2)), (Node(Mul(), (0, 1)),)), "same shape"),
        (lambda: Layer((IMAGE, (8, 2, 2)), (Node(Concat(), (0, 1)),)), "one height and width"),
        (lambda: chain(IMAGE, ChannelShuffle(groups=3)), "groups=3 does not divide 8 channels"),
        (lambda: chain(IMAGE, ChannelShuffle(groups=0)), "channel_shuffle: groups must be between 1"),
        (lambda: chain((8, 16), ChannelShuffle(groups=2)), "channel_shuffle takes one input of shape"),
        (lambda: Layer((IMAGE, IMAGE), (Node(ChannelShuffle(groups=2), (0, 1)),)), "takes one input of shape"),
        (lambda: Layer((IMAGE, IMAGE), (Node(conv(8), (0,)),)), "never used"),
        (lambda: Layer((IMAGE,), (Node(conv(8), (1,)),)), "only inputs and earlier nodes"),
        (lambda: Layer((IMAGE,), ()), "at least one"),
        (lambda: conv_norm_act(8, 8, kernel_size=2, stride=1, activation=None, input_size=(4, 4)), "odd kernel_size"),
    ],
)
def test_impossible_layers_are_refused(make: Callable[[], Layer], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make()


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]), st.integers(4, 64))
def test_json_round_trip_keeps_identity(channels: int, out: int, kernel: int, stride: int, size: int) -> None:
    layer = conv_norm_act(channels, out, kernel_size=kernel, stride=stride, activation="relu", input_size=(size, size))
    again = msgspec.json.decode(msgspec.json.encode(layer), type=Layer)
    assert again == layer
    assert again.digest == layer.digest

"""Layers in numbers: work, bytes, shapes and how channels sit on tiles; which layers are alike, and of what."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from _predictors import Tiny, wide_space
from hypothesis import given, settings
from hypothesis import strategies as st

from lut import Layer, chain, conv_norm_act, global_pool, linear, pooled_shortcut, residual_add
from lut.primitives import Activation, ChannelShuffle, Conv2d, MaxPool2d, Plain, Primitive
from predictors._features import FEATURES, TILES, WORK, feature_matrix, kind_of, operators_of, work_matrix


def conv(into: int = 16, out: int = 16, *, size: int = 8, kernel: int = 3, stride: int = 1, groups: int = 1) -> Layer:
    return conv_norm_act(
        into, out, kernel_size=kernel, stride=stride, activation="relu", input_size=(size, size), groups=groups
    )


def features(layer: Layer) -> dict[str, float]:
    return dict(zip(FEATURES, feature_matrix([layer])[0].tolist(), strict=True))


def work(layer: Layer) -> dict[str, float]:
    return dict(zip(WORK, work_matrix([layer])[0].tolist(), strict=True))


@pytest.mark.parametrize(
    "op",
    [
        MaxPool2d(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)),
        ChannelShuffle(groups=4),
        Conv2d(out_channels=24, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), groups=4),
    ],
)
def test_a_layout_is_no_work_and_no_operator_but_a_kind_of_its_own(op: Primitive) -> None:
    bare, between = chain((16, 8, 8), op), chain((16, 8, 8), Plain(), op, Plain())
    assert features(between) == features(bare)
    assert work(between) == work(bare)
    assert operators_of(between) == operators_of(bare)
    assert kind_of(between) != kind_of(bare)


def test_sizes_of_a_convolution() -> None:
    found = features(conv(24, 40, size=8, stride=2))
    assert found["log2 in_channels"] == pytest.approx(log2(24))
    assert found["log2 out_channels"] == pytest.approx(log2(40))
    assert found["log2 height×width out"] == pytest.approx(log2(16))
    assert found["log2 kernel area"] == pytest.approx(log2(9))
    assert found["log2 stride"] == 1
    assert found["log2 groups"] == 0
    assert found["log2 madds"] == pytest.approx(log2(1 + 24 * 40 * 9 * 16))
    assert found["log2 input elements"] == pytest.approx(log2(1 + 24 * 64))
    assert found["log2 output elements"] == pytest.approx(log2(1 + 40 * 16))


def test_bytes_are_what_goes_in_and_out_and_the_weights() -> None:
    layer = conv(24, 40)
    found = features(layer)
    moved = 24 * 64 + 40 * 64 + layer.parameters
    assert found["log2 elements"] == pytest.approx(log2(1 + moved))
    assert found["log2 madds per element"] == pytest.approx(log2((1 + layer.madds) / (1 + moved)))


@pytest.mark.parametrize("tile", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("channels", [1, 7, 16, 17, 63, 64, 65])
def test_every_tile_has_its_multiple_and_its_remainder(tile: int, channels: int) -> None:
    assert tile in TILES
    found = features(conv(channels, 3))
    assert found[f"in_channels padded to {tile}"] == pytest.approx(log2(-(-channels // tile) * tile / channels))
    assert found[f"in_channels mod {tile}"] == pytest.approx(channels % tile / tile)
    found = features(conv(3, channels))
    assert found[f"out_channels padded to {tile}"] == pytest.approx(log2(-(-channels // tile) * tile / channels))
    assert found[f"out_channels mod {tile}"] == pytest.approx(channels % tile / tile)


def test_the_end_of_a_stair_is_told_from_the_next_width() -> None:
    at, beyond = features(conv(16, 16)), features(conv(16, 17))
    assert at["out_channels padded to 16"] == 0
    assert beyond["out_channels padded to 16"] == pytest.approx(log2(32 / 17))


def test_work_is_counted_on_padded_channels() -> None:
    assert work(conv(16, 17))["conv madds"] == work(conv(16, 32))["conv madds"]
    assert work(conv(16, 16))["conv madds"] == pytest.approx(16 * 16 * 9 * 64 / 1e6)
    # An image's few channels are not padded.
    assert work(conv(3, 16))["conv madds"] == pytest.approx(3 * 16 * 9 * 64 / 1e6)


@pytest.mark.parametrize(
    ("layer", "column"),
    [
        (conv(16, 32), "conv madds"),
        (conv(16, 32, kernel=1), "conv1x1 madds"),
        (conv(16, 32, stride=2), "strided conv madds"),
        (conv(16, 16, groups=16), "depthwise madds"),
        (conv(16, 32, groups=4), "grouped madds"),
        (linear(16, 10, bias=True), "linear madds"),
    ],
)
def test_each_sort_of_multiplication_has_its_own_column(layer: Layer, column: str) -> None:
    found = {name: value for name, value in work(layer).items() if "madds" in name and value}
    assert set(found) == {column}
    assert found[column] >= layer.madds / 1e6


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (conv(), {"conv2d", "batch_norm2d", "relu"}),
        (conv(groups=16), {"depthwise conv2d", "batch_norm2d", "relu"}),
        (conv(groups=4), {"grouped conv2d", "batch_norm2d", "relu"}),
        (residual_add(8, activation=None, input_size=(4, 4)), {"add"}),
        (linear(8, 4, bias=False), {"linear"}),
        (chain((8, 4, 4), ChannelShuffle(groups=2)), {"channel_shuffle"}),
        (chain((8, 4, 4), Activation(kind="silu")), {"silu"}),
        (
            chain(
                (8, 9, 9),
                Conv2d(out_channels=8, kernel_size=(3, 3), stride=(1, 1), padding=(2, 2), dilation=(2, 2), groups=1),
            ),
            {"dilated conv2d"},
        ),
    ],
)
def test_operators_have_names(layer: Layer, names: set[str]) -> None:
    assert operators_of(layer) == names


def test_a_shuffle_moves_its_values_and_multiplies_nothing() -> None:
    layer = chain((12, 8, 8), ChannelShuffle(groups=12))
    moved = 12 * 64 / 1e6
    found = {name: value for name, value in work(layer).items() if value}
    assert found == {
        "calls": 1,
        "operators": 1,
        "input elements": moved,
        "output elements": moved,
        "sum elements": moved,
    }
    numbers = features(layer)
    assert (numbers["sum"], numbers["norm"], numbers["depthwise"]) == (1, 0, 0)
    assert numbers["log2 groups"] == pytest.approx(log2(12))
    assert kind_of(layer) == kind_of(chain((8, 4, 4), ChannelShuffle(groups=2)))


def test_layers_that_differ_in_sizes_alone_are_of_one_kind() -> None:
    assert kind_of(conv(16, 32)) == kind_of(conv(3, 7, size=32))
    kinds = {
        kind_of(layer)
        for layer in (
            conv(),
            conv(kernel=1),
            conv(stride=2),
            conv(groups=16),
            conv(groups=4),
            residual_add(16, activation="relu", input_size=(8, 8)),
            pooled_shortcut(8, 16, input_size=(8, 8)),
            global_pool(8, input_size=(8, 8)),
            linear(8, 8, bias=True),
        )
    }
    assert len(kinds) == 9


def test_no_layers_give_an_empty_matrix() -> None:
    assert feature_matrix([]).shape == (0, len(FEATURES))
    assert work_matrix([]).shape == (0, len(WORK))


def test_layers_of_a_space_are_told_apart() -> None:
    layers = Tiny(widths=tuple(range(8, 20)), blocks=1).layers()
    rows = np.hstack([feature_matrix(layers), work_matrix(layers)])
    assert len(np.unique(rows.round(9), axis=0)) == len(layers)
    assert len(wide_space().choices) == 13


@settings(max_examples=60, deadline=None)
@given(
    into=st.integers(1, 300),
    out=st.integers(1, 300),
    size=st.integers(1, 64),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    depthwise=st.booleans(),
)
def test_any_convolution_has_finite_numbers_and_work_that_is_not_negative(
    into: int, out: int, size: int, kernel: int, stride: int, depthwise: bool
) -> None:
    layer = conv(into, into if depthwise else out, size=size, kernel=kernel, stride=stride, groups=(1, into)[depthwise])
    assert np.isfinite(feature_matrix([layer])).all()
    row = work_matrix([layer])[0]
    assert np.isfinite(row).all()
    assert (row >= 0).all()
    assert row[WORK.index("calls")] == 1
    assert row[WORK.index("operators")] == len(layer.nodes)

"""Networks with other widths: which layers are bound to each other, and that the result runs."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lut import Layer, LayerError, Network, NetworkLayer, Node, chain, conv_norm_act, global_pool, linear, residual_add
from lut.primitives import Activation, Add, ChannelShuffle, Concat, Conv2d, Flatten, Linear
from predictors import _tied_widths
from predictors._gains import WidthGain
from profiler._modules import build_module, example_inputs
from profiler._trace import trace

NETWORKS = ("resnet18", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large")
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rewidth() -> ModuleType:
    return _tied_widths


@pytest.fixture(scope="module")
def pruning() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return _load("pruning")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def traced() -> Callable[[str], Network]:
    zoo = _load("_zoo")
    made: dict[str, Network] = {}

    def get(name: str) -> Network:
        if name not in made:
            made[name] = trace(zoo.ZOO[name](), (torch.zeros(1, 3, 64, 64),), name=name).network
        return made[name]

    return get


def _conv(name: str, i: int, o: int, *inputs: str, groups: int = 1) -> NetworkLayer:
    layer = conv_norm_act(i, o, kernel_size=3, stride=1, activation="relu", input_size=(8, 8), groups=groups)
    return NetworkLayer(name, layer, inputs=inputs)


def _concat(*widths: int) -> Layer:
    shapes = tuple((width, 8, 8) for width in widths)
    return Layer(inputs=shapes, nodes=(Node(op=Concat(), args=tuple(range(len(widths)))),))


@pytest.mark.parametrize("name", NETWORKS)
def test_its_own_widths_give_the_same_network(rewidth: ModuleType, traced: Callable[[str], Network], name: str) -> None:
    network = traced(name)
    groups = rewidth.width_groups(network)
    assert rewidth.rewidth(network, {}) == network
    assert rewidth.rewidth(network, {i: group.width for i, group in enumerate(groups)}) == network


@pytest.mark.parametrize("name", NETWORKS)
def test_any_widths_give_a_network_that_runs(rewidth: ModuleType, traced: Callable[[str], Network], name: str) -> None:
    network = traced(name)
    groups = rewidth.width_groups(network)
    rng = random.Random(name)
    widths = {i: max(group.least, round(group.width * rng.uniform(0.3, 1.2))) for i, group in enumerate(groups)}
    changed = rewidth.rewidth(network, widths)
    assert [group.width for group in rewidth.width_groups(changed)] == list(widths.values())
    assert [group.layers for group in rewidth.width_groups(changed)] == [group.layers for group in groups]
    by_name = {item.name: item.layer for item in changed.layers}
    for i, group in enumerate(groups):
        assert {by_name[layer].out_channels for layer in group.layers} == {widths[i]}
    whole = changed.as_layer()
    assert whole.madds == changed.madds != network.madds
    with torch.no_grad():
        output = build_module(whole)(*example_inputs(whole, 1, torch.float32))
    assert output.shape == (1, 1000)
    assert rewidth.rewidth(changed, {i: group.width for i, group in enumerate(groups)}) == network


def test_a_resnets_stages_are_one_width_and_the_inside_of_each_block_another(
    rewidth: ModuleType, traced: Callable[[str], Network]
) -> None:
    groups = rewidth.width_groups(traced("resnet18"))
    assert sorted(group.width for group in groups) == sorted([64, 64, 64, *3 * [128], *3 * [256], *3 * [512]])
    # The stem with its pooling, then two convolutions, their sums, and so on.
    assert len(groups[0].layers) == 6
    assert all(group.multiple == 1 and group.least == 1 for group in groups)


def test_a_mobilenets_depthwise_convolutions_follow_and_an_excitation_has_a_width_inside(
    rewidth: ModuleType, traced: Callable[[str], Network]
) -> None:
    network = traced("mobilenet_v3_large")
    groups = rewidth.width_groups(network)
    squeezed = [group.width for group in groups if len(group.layers) == 1 and group.least == 1]
    assert [width for width in squeezed if width in (24, 32, 120, 168, 240)] == [24, 32, 32, 120, 168, 168, 240, 240]
    depthwise = [
        item
        for item in network.layers
        for node in item.layer.nodes
        if isinstance(node.op, Conv2d) and node.op.groups > 1
    ]
    assert len(depthwise) == 15
    followed = {layer for group in groups if group.least == 2 for layer in group.layers}
    assert {item.name for item in depthwise} <= followed


def test_all_widths_halved_are_a_quarter_of_the_multiply_adds(rewidth: ModuleType) -> None:
    network = Network(
        "plain",
        (
            _conv("first", 3, 16),
            _conv("second", 16, 32),
            _conv("third", 32, 64),
            NetworkLayer("pool", global_pool(64, input_size=(8, 8))),
            NetworkLayer("classifier", linear(64, 10, bias=True)),
        ),
    )
    halved = rewidth.rewidth(network, {0: 8, 1: 16, 2: 32})
    before, after = ([item.layer.madds for item in n.layers] for n in (network, halved))
    assert after == [before[0] // 2, before[1] // 4, before[2] // 4, 0, before[4] // 2]
    assert rewidth.width_groups(network)[2].layers == ("third", "pool")
    one = rewidth.rewidth(network, {1: 31})
    assert one.madds == network.madds - (before[1] + before[2]) // 32


def test_a_concatenation_adds_up(rewidth: ModuleType) -> None:
    network = Network(
        "fire",
        (
            _conv("squeeze", 3, 8),
            _conv("left", 8, 16, "squeeze"),
            _conv("right", 8, 24, "squeeze"),
            NetworkLayer("both", _concat(16, 24), inputs=("left", "right")),
            _conv("last", 40, 10, "both"),
        ),
    )
    assert [(g.width, g.layers) for g in rewidth.width_groups(network)] == [
        (8, ("squeeze",)),
        (16, ("left",)),
        (24, ("right",)),
    ]
    changed = rewidth.rewidth(network, {1: 5, 2: 7})
    assert changed.layers[-1].layer.inputs == ((12, 8, 8),)
    assert changed.as_layer().out_channels == 10


def test_a_sum_of_a_concatenation_and_a_convolution_fixes_both(rewidth: ModuleType) -> None:
    network = Network(
        "odd",
        (
            _conv("left", 3, 16, "input"),
            _conv("right", 3, 24, "input"),
            NetworkLayer("both", _concat(16, 24), inputs=("left", "right")),
            _conv("alone", 3, 40, "input"),
            NetworkLayer("sum", residual_add(40, activation=None, input_size=(8, 8)), inputs=("both", "alone")),
            _conv("free", 40, 6, "sum"),
            _conv("last", 6, 10, "free"),
        ),
    )
    assert [group.layers for group in rewidth.width_groups(network)] == [("free",)]


def test_convolutions_in_groups_take_their_multiples(rewidth: ModuleType) -> None:
    network = Network("grouped", (_conv("first", 3, 16), _conv("second", 16, 24, groups=4), _conv("last", 24, 10)))
    assert [group.multiple for group in rewidth.width_groups(network)] == [4, 4]
    assert rewidth.rewidth(network, {0: 8, 1: 20}).as_layer().out_channels == 10
    with pytest.raises(LayerError, match="first: 10 channels; it takes multiples of 4"):
        rewidth.rewidth(network, {0: 10})


def test_a_shuffle_takes_multiples_of_its_groups(rewidth: ModuleType) -> None:
    shuffle = NetworkLayer("shuffle", chain((16, 8, 8), ChannelShuffle(groups=4)))
    network = Network("shuffled", (_conv("first", 3, 16), shuffle, _conv("last", 16, 10)))
    assert [(g.layers, g.multiple) for g in rewidth.width_groups(network)] == [(("first", "shuffle"), 4)]
    assert rewidth.rewidth(network, {0: 12}).layers[1].layer.output_shape == (12, 8, 8)
    with pytest.raises(LayerError, match="first: 10 channels; it takes multiples of 4"):
        rewidth.rewidth(network, {0: 10})


def test_a_repeated_layer_is_as_wide_as_its_input(rewidth: ModuleType) -> None:
    repeated = NetworkLayer("middle", _conv("", 16, 16).layer, count=3)
    network = Network("deep", (_conv("first", 3, 16), repeated, _conv("last", 16, 10)))
    assert [group.layers for group in rewidth.width_groups(network)] == [("first", "middle")]
    assert rewidth.rewidth(network, {0: 9}).layers[1].layer.output_shape == (9, 8, 8)


def test_a_flattened_image_keeps_its_factor(rewidth: ModuleType) -> None:
    flat = chain((16, 8, 8), Flatten())
    network = Network(
        "flat",
        (_conv("first", 3, 16), NetworkLayer("flatten", flat), NetworkLayer("last", linear(1024, 10, bias=True))),
    )
    changed = rewidth.rewidth(network, {0: 5})
    assert changed.layers[-1].layer.inputs == ((320,),)


def test_impossible_widths_are_refused(rewidth: ModuleType) -> None:
    network = Network("deep", (_conv("first", 3, 16), _conv("depthwise", 16, 16, groups=16), _conv("last", 16, 10)))
    with pytest.raises(LayerError, match="2 at the least"):
        rewidth.rewidth(network, {0: 1})
    with pytest.raises(LayerError, match="1 groups of widths, and no 1"):
        rewidth.rewidth(network, {1: 8})


def test_a_layer_whose_inputs_would_change_places_is_refused(rewidth: ModuleType) -> None:
    shape = (16, 8, 8)

    def branches(width: int) -> Layer:
        ops = [Conv2d(out_channels=width, kernel_size=(k, k), stride=(1, 1), padding=(k // 2,) * 2) for k in (1, 3)]
        nodes = [Node(op=ops[0], args=(0,)), Node(op=ops[1], args=(1,)), Node(op=Add(), args=(2, 3))]
        return Layer(inputs=(shape, shape), nodes=tuple(nodes))

    # Which convolution is sorted first depends on the width: find two widths that differ in it.
    def sizes(width: int) -> list[int]:
        return [node.op.kernel_size[0] for node in branches(width).nodes if isinstance(node.op, Conv2d)]

    other = next(width for width in range(2, 40) if sizes(width) != sizes(1))
    two = NetworkLayer("two", branches(1), inputs=("left", "right"))
    network = Network("sorted", (_conv("left", 3, 16, "input"), _conv("right", 3, 16, "input"), two, _conv("z", 1, 3)))
    assert [group.width for group in rewidth.width_groups(network)] == [16, 16, 1]
    with pytest.raises(LayerError, match="which input is which"):
        rewidth.rewidth(network, {2: other})


def test_what_has_no_widths_to_change_is_refused(rewidth: ModuleType, traced: Callable[[str], Network]) -> None:
    # Its units take halves of what the last one gave.
    with pytest.raises(LayerError, match="kept as the framework wrote them"):
        rewidth.width_groups(traced("shufflenet_v2"))
    tokens = chain((4, 16), Linear(out_features=8, bias=True), Activation(kind="gelu"))
    with pytest.raises(LayerError, match="not of tokens"):
        rewidth.width_groups(Network("tokens", (NetworkLayer("mlp", tokens),)))
    lost = Network("lost", (_conv("first", 3, 16, "nowhere"),))
    with pytest.raises(LayerError, match="does not come before it"):
        rewidth.width_groups(lost)


# What the benchmark makes of the widths.


def _gain(network: Network, name: str, ms: float, *friendly: int) -> WidthGain:
    layer = next(item.layer for item in network.layers if item.name == name)
    return WidthGain(
        name=name,
        groups=((name,),),
        layers=(layer,),
        unmeasured=(),
        ties_known=True,
        count=1,
        channels=layer.out_channels,
        ms=ms,
        widths=friendly,
        widths_ms=(ms,) * len(friendly),
        friendly_channels=friendly,
        narrower=None,
        wider=None,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_keeps_a_share_of_each_width(
    pruning: ModuleType, traced: Callable[[str], Network], name: str
) -> None:
    groups = pruning.width_groups(traced(name))
    widths = pruning.pruned_widths(groups, random.Random(3))
    assert widths == pruning.pruned_widths(groups, random.Random(3))
    assert set(widths) == set(range(len(groups)))
    low, high = pruning.KEPT
    assert all(low * g.width - 0.5 <= widths[i] <= high * g.width + 0.5 for i, g in enumerate(groups))
    assert pruning.rewidth(traced(name), widths).madds < traced(name).madds


def test_a_group_goes_where_it_is_friendly(pruning: ModuleType) -> None:
    network = Network(
        "deep",
        (
            _conv("first", 3, 50),
            _conv("depthwise", 50, 50, groups=50),
            _conv("alone", 50, 70),
            _conv("far", 70, 100),
            _conv("unswept", 100, 20),
            _conv("last", 20, 10),
        ),
    )
    gains = [
        _gain(network, "depthwise", 2.0, 32, 48, 56),
        _gain(network, "alone", 1.0, 68, 72),
        _gain(network, "far", 1.0, 8, 64, 128),
    ]
    chosen = pruning.choices(network, gains)
    # Of two as near the wider one; and what is friendly too far away is none.
    assert {number: (c.layer, c.own, c.friendly) for number, c in chosen.items()} == {
        0: ("depthwise", 50, 48),
        1: ("alone", 70, 72),
    }


def test_beside_a_friendly_width_lie_odd_ones_that_are_not_friendly(pruning: ModuleType) -> None:
    def beside(friendly: int, *also: int, multiple: int = 1, least: int = 1) -> tuple[int, ...]:
        group = pruning.WidthGroup(friendly, ("a",), multiple, least)
        return pruning.beside(group, pruning.Choice("a", friendly, friendly, (*also, friendly)))

    assert beside(64, 63) == (59, 61, 65, 67, 69)
    assert beside(512) == (505, 507, 509, 511, 513, 515, 517, 519)
    assert beside(2, least=2) == (3,)
    # Where all multiples are even, the even ones that are not friendly.
    assert beside(64, multiple=4) == (60, 68)
    assert beside(64, 48, 80, multiple=16) == ()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_control_has_the_friendly_ones_multiply_adds_at_other_widths(
    pruning: ModuleType, traced: Callable[[str], Network], name: str
) -> None:
    groups = pruning.width_groups(traced(name))
    pruned = pruning.rewidth(traced(name), pruning.pruned_widths(groups, random.Random(name)))
    chosen = {
        number: pruning.Choice(group.layers[0], group.width, wanted, (wanted,))
        for number, group in enumerate(pruning.width_groups(pruned))
        if number % 5 and (wanted := max(8, round(group.width / 8) * 8))
    }
    friendly = pruning.rewidth(pruned, {number: choice.friendly for number, choice in chosen.items()})
    widths = pruning.unfriendly_widths(pruned, chosen, random.Random(1))
    assert widths == pruning.unfriendly_widths(pruned, chosen, random.Random(1))
    assert set(widths) == set(chosen)
    assert all(width % 2 and abs(width - chosen[number].friendly) <= 7 for number, width in widths.items())
    assert pruning.rewidth(pruned, widths).madds == pytest.approx(friendly.madds, rel=0.01)


def test_without_any_friendly_width_the_control_is_the_network_itself(
    pruning: ModuleType, traced: Callable[[str], Network]
) -> None:
    assert pruning.choices(traced("resnet18"), []) == {}
    assert pruning.unfriendly_widths(traced("resnet18"), {}, random.Random(1)) == {}


def test_a_comparison_says_how_sure_it_is(pruning: ModuleType) -> None:
    def version(ms: float, madds: int, sum_ms: float | None) -> dict[str, Any]:
        within = {"low_ms": ms / 1.02, "high_ms": ms * 1.02, "level": 0.95}
        return {"whole_ms": ms, "madds": madds, "sum_ms": sum_ms, "within_run": within}

    versions = {"a": version(9.0, 100, 8.0), "b": version(10.0, 125, 10.0), "c": version(1.0, 1, None)}
    found = pruning.comparison(versions, "a", "b")
    assert (found["measured"], found["madds"], found["predicted"]) == (-0.1, -0.2, -0.2)
    assert found["per_madd"] == 0.125
    assert found["half_width"] == pytest.approx(0.9 * 2**0.5 * 0.02, rel=0.03)
    assert pruning.comparison(versions, "a", "c")["predicted"] is None

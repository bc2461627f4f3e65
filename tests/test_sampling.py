"""What to measure next: every operator first, then the layers that tell most about where networks spend their time."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
from _predictors import Tiny, layer_ms, layers_of, network_ms, noisy, sampled, table_with

from lut import Layer, Network, NetworkLayer, UsageError, chain, conv_norm_act, linear
from lut.primitives import Activation
from predictors import LatencyPredictor
from predictors._features import kind_of, operators_of
from predictors._sampling import next_layers

SPACE = Tiny(widths=tuple(range(4, 65, 4)), blocks=3)
NETWORKS = sampled(SPACE, 40, seed=21)
LAYERS = layers_of(NETWORKS)


def conv(out: int, *, into: int = 16, size: int = 16) -> Layer:
    return conv_norm_act(into, out, kernel_size=3, stride=1, activation="relu", input_size=(size, size))


def network(name: str, *layers: Layer) -> Network:
    return Network(name, tuple(NetworkLayer(f"layer {i}", layer) for i, layer in enumerate(layers)))


def fitted(layers: list[Layer], seed: int = 0) -> LatencyPredictor:
    return LatencyPredictor.fit(table_with(layers, noisy(map(layer_ms, layers), seed)))


def test_every_operator_comes_first() -> None:
    odd = [chain((8, 8, 8), Activation(kind=kind)) for kind in ("silu", "gelu", "hardswish")]
    networks = [*NETWORKS, *(network(str(i), conv(8), layer) for i, layer in enumerate(odd))]
    operators = frozenset().union(*(operators_of(layer) for layer in layers_of(networks)))
    found = next_layers(networks, count=30)
    covered: frozenset[str] = frozenset()
    for layer in found:
        if covered != operators:
            assert operators_of(layer) - covered, f"{layer} has nothing new, and {operators - covered} are not covered"
        covered |= operators_of(layer)
    assert covered == operators


def test_operators_that_were_measured_need_not_come_again() -> None:
    measured = [next(layer for layer in LAYERS if "depthwise" in kind_of(layer))]
    found = next_layers(NETWORKS, count=3, measured=measured)
    covered = operators_of(measured[0])
    for layer in found[:3]:
        assert operators_of(layer) - covered
        covered |= operators_of(layer)


def test_with_every_operator_known_networks_can_be_predicted() -> None:
    predictor = fitted(list(next_layers(NETWORKS, count=20)))
    assert all(predictor.predict(network).ms > 0 for network in sampled(SPACE, 50, seed=3))


def test_one_question_has_one_answer() -> None:
    first = next_layers(NETWORKS, count=15)
    assert next_layers(NETWORKS, count=15) == first
    assert next_layers(NETWORKS, count=8) == first[:8]
    assert len(set(first)) == 15


def test_what_was_measured_is_never_asked_for_again() -> None:
    measured = set(random.Random(0).sample(LAYERS, len(LAYERS) - 10))
    found = next_layers(NETWORKS, count=50, measured=measured)
    assert set(found) == set(LAYERS) - measured
    assert next_layers(NETWORKS, count=5, measured=LAYERS) == ()
    model = fitted(sorted(measured, key=lambda layer: layer.digest)).model
    assert not measured & set(next_layers(NETWORKS, count=50, measured=measured, model=model))


def test_only_those_are_chosen_that_may_be() -> None:
    among = LAYERS[::7]
    found = next_layers(NETWORKS, count=1000, among=among)
    assert set(found) == set(among)
    assert next_layers(NETWORKS, count=3, among=()) == ()
    assert next_layers(NETWORKS, count=3, among=[conv(1000)]) == ()


def test_as_many_as_asked_for_and_no_more_than_there_are() -> None:
    assert next_layers(NETWORKS, count=0) == ()
    assert len(next_layers(NETWORKS, count=7)) == 7
    assert set(next_layers(NETWORKS, count=10**6)) == set(LAYERS)


def test_layers_come_first_in_which_networks_spend_their_time() -> None:
    large = [conv(width, into=64, size=32) for width in range(48, 64)]
    small = [conv(width, into=4, size=4) for width in range(1, 17)]
    networks = [network(str(i), a, b) for i, (a, b) in enumerate(zip(large, small, strict=True))]
    assert set(next_layers(networks, count=4)) <= set(large)
    # The same layers, and now time is spent in the small ones.
    often = [
        Network(str(i), (NetworkLayer("large", a), NetworkLayer("small", b, count=100_000)))
        for i, (a, b) in enumerate(zip(large, small, strict=True))
    ]
    assert set(next_layers(often, count=4)) <= set(small)


def test_layers_are_spread_over_widths() -> None:
    widths = range(8, 257, 8)
    networks = [network(str(width), conv(width)) for width in widths]
    found = sorted(layer.out_channels for layer in next_layers(networks, count=4))
    assert found[0] <= 64
    assert found[-1] >= 160
    assert min(np.diff(found)) >= 16


def test_what_was_measured_elsewhere_tells_something_too() -> None:
    ours = [conv(width, into=32, size=32) for width in range(16, 129, 16)]
    others = [conv(width, into=32, size=8) for width in range(16, 129, 16)]
    # As many of each that both take alike part of the time.
    networks = [
        Network(str(i), (NetworkLayer("a", a), NetworkLayer("b", b, count=14)))
        for i, (a, b) in enumerate(zip(ours, others, strict=True))
    ]
    near = [conv(width, into=31, size=32) for width in range(15, 129, 4)]
    found = next_layers(networks, count=4, measured=near, model=fitted([*near, others[3]]).model)
    assert sum(layer in others for layer in found) >= 3


def test_measuring_what_it_says_beats_measuring_anything() -> None:
    fresh = sampled(SPACE, 100, seed=5)
    # As if each layer were measured exactly, so that nothing but the choice differs.
    sums = np.array([sum(layer_ms(item.layer) for item in made.layers) for made in fresh])

    def off(layers: list[Layer], seed: int) -> float:
        predictor = fitted(layers, seed)
        found = [predictor.predict(made, unknown="outside").ms for made in fresh]
        return float(np.mean(np.abs(np.array(found) / sums - 1)))

    # Over few and many layers: how much better on average, as a ratio.
    ratios = []
    for count in (16, 32, 100):
        chosen, drawn = [], []
        for seed in range(3):
            networks = sampled(SPACE, 40, seed=50 + seed)
            first = list(next_layers(networks, count=count // 2))
            model = fitted(first, seed).model
            chosen.append(off([*first, *next_layers(networks, count=count // 2, measured=first, model=model)], seed))
            drawn += [off(random.Random(10 * seed + i).sample(layers_of(networks), count), seed) for i in range(2)]
        ratios.append(np.mean(chosen) / np.mean(drawn))
        assert np.max(chosen) < np.max(drawn)
    assert np.exp(np.mean(np.log(ratios))) < 0.95


def test_the_devices_networks_are_predicted_from_few_layers() -> None:
    chosen = list(next_layers(NETWORKS, count=40))
    wholes = [(made, network_ms(made)) for made in NETWORKS]
    predictor = LatencyPredictor.fit(table_with(chosen), networks=wholes)
    off = [abs(predictor.latency_ms(made) / network_ms(made) - 1) for made in sampled(SPACE, 60, seed=6)]
    assert np.mean(off) < 0.05


@pytest.mark.parametrize(("networks", "count"), [([], 3), (NETWORKS, -1)])
def test_senseless_questions_are_refused_in_one_line(networks: list[Network], count: int) -> None:
    with pytest.raises(UsageError, match="count") as caught:
        next_layers(networks, count=count)
    assert len(str(caught.value)) < 400


def test_too_many_layers_are_refused() -> None:
    networks = [network(str(i), linear(i + 1, 10, bias=True)) for i in range(6001)]
    with pytest.raises(UsageError, match="6001 different layers are too many"):
        next_layers(networks, count=1)


def test_a_network_without_layers_does_no_harm() -> None:
    empty = Network("empty", ())
    with contextlib.suppress(UsageError):
        assert next_layers([*NETWORKS, empty], count=5) == next_layers(NETWORKS, count=5)

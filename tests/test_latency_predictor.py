"""Predictors of networks: how near to a device that is known exactly, how sure of it, and what is refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from _predictors import (
    DEVICE,
    Tiny,
    is_depthwise,
    layer_ms,
    layers_of,
    network_ms,
    noisy,
    sampled,
    table_with,
    tiny_predictor,
    wholes_of,
    wide_predictor,
    wide_space,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from lut import Layer, Network, NetworkLayer, TableError, UnlikeTablesError, UsageError, chain, conv_norm_act
from lut.errors import PredictorError, UnknownOperatorError
from lut.primitives import Activation
from predictors import LatencyPredictor
from predictors._calibration import Calibration, fit_calibration
from predictors._interval import fit_conformal, least_networks

SPACE = Tiny()
LAYERS = list(SPACE.layers())


def bare(count: int = 20) -> LatencyPredictor:
    """Return a predictor of a few layers and no networks."""
    return LatencyPredictor.fit(table_with(LAYERS[:count]))


def strange(channels: int = 8) -> Layer:
    return chain((channels, 16, 16), Activation(kind="silu"))


def one(layer: Layer, count: int = 1) -> Network:
    return Network("one", (NetworkLayer("layer", layer, count=count),))


def errors(predictor: LatencyPredictor) -> np.ndarray[Any, np.dtype[np.float64]]:
    networks = sampled(wide_space(), 300, seed=99)
    return np.array([abs(predictor.latency_ms(network) / network_ms(network) - 1) for network in networks])


def test_unseen_networks_are_predicted_within_three_percent() -> None:
    assert errors(wide_predictor()).mean() < 0.03


def test_calibration_is_what_makes_it_so() -> None:
    assert errors(wide_predictor()).mean() < 0.3 * errors(wide_predictor(calibrated=False)).mean()


def test_intervals_hold_as_often_as_they_promise() -> None:
    predictor = wide_predictor()
    networks = sampled(wide_space(), 300, seed=99)
    truth = noisy(map(network_ms, networks), seed=7)
    found = [predictor.predict(network) for network in networks]
    inside = [p.low_ms <= ms <= p.high_ms for p, ms in zip(found, truth, strict=True) if p.low_ms and p.high_ms]
    assert len(inside) == 300
    assert 0.84 <= np.mean(inside) <= 0.96
    # A promise that is kept by saying nothing would be none.
    assert np.mean([p.high_ms / p.low_ms - 1 for p in found if p.low_ms and p.high_ms]) < 0.08


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_other_levels_hold_too(level: float) -> None:
    predictor = wide_predictor()
    networks = sampled(wide_space(), 120, seed=98)
    truth = noisy(map(network_ms, networks), seed=8)
    found = [predictor.predict(network, level=level) for network in networks]
    inside = np.mean([(p.low_ms or 0) <= ms <= (p.high_ms or 0) for p, ms in zip(found, truth, strict=True)])
    assert abs(inside - level) < 4 * (level * (1 - level) / 120) ** 0.5 + 0.02


def test_a_higher_level_is_a_wider_interval() -> None:
    network = sampled(SPACE, 1, seed=3)[0]
    widths = []
    for level in (0.5, 0.8, 0.9, 0.95):
        found = tiny_predictor().predict(network, level=level)
        assert found.low_ms is not None
        assert found.high_ms is not None
        assert found.low_ms < found.ms < found.high_ms
        assert found.level == level
        widths.append(found.high_ms - found.low_ms)
    assert widths == sorted(widths)


def test_unmeasured_layers_are_predicted_well() -> None:
    predictor = wide_predictor()
    layers = layers_of(sampled(wide_space(), 200, seed=77))
    unseen = [layer for layer in layers if layer.digest not in predictor.measured_ms]
    assert len(unseen) > 300
    off = np.array([abs(predictor.predict_layer(layer).ms / layer_ms(layer) - 1) for layer in unseen])
    assert off.mean() < 0.04
    assert np.median(off) < 0.02
    held_out = predictor.held_out_layers
    assert held_out.count == 350
    assert held_out.mape is not None
    assert held_out.mape == pytest.approx(off.mean(), rel=1.5)


def test_what_it_says_of_itself_is_what_others_find() -> None:
    held_out = wide_predictor().held_out_networks
    assert held_out.count == 100
    assert held_out.mape is not None
    assert held_out.mape == pytest.approx(errors(wide_predictor()).mean(), rel=0.6)
    assert held_out.within is not None
    assert held_out.within > 0.9
    assert held_out.kendall_tau is not None
    assert held_out.kendall_tau > 0.9


def test_the_devices_own_parameters_are_recovered() -> None:
    calibration = wide_predictor().calibration
    assert calibration.networks == 100
    assert calibration.form == "groups + calls"
    convolution, pointwise, depthwise, _ = calibration.scales
    assert convolution == pytest.approx(0.9, rel=0.05)
    assert pointwise == pytest.approx(0.9, rel=0.1)
    assert depthwise == pytest.approx(1.8, rel=0.1)
    assert calibration.per_call_ms == pytest.approx(0.01, rel=0.15)


def numbers_of(calibration: Calibration) -> list[float]:
    return [*calibration.scales, calibration.per_call_ms, calibration.per_weight_ms]


@pytest.mark.parametrize("seed", range(4))
def test_calibrations_are_never_negative_and_no_layer_is_free(seed: int) -> None:
    rng = np.random.default_rng(seed)
    networks = sampled(SPACE, 12 * (seed + 1), seed=seed)
    wholes = [(network, network_ms(network) * float(np.exp(rng.normal(0, 0.5)))) for network in networks]
    predictor = LatencyPredictor.fit(table_with(LAYERS), networks=wholes)
    assert min(numbers_of(predictor.calibration)) >= 0
    assert predictor.contributions(LAYERS).min() > 0


def test_no_layer_is_free_where_time_goes_by_the_weights() -> None:
    wholes = [(network, network.parameters / 1e6) for network in sampled(SPACE, 40, seed=5)]
    predictor = LatencyPredictor.fit(table_with(LAYERS), networks=wholes)
    assert predictor.contributions(LAYERS).min() > 0


def test_a_layer_that_takes_longer_contributes_more() -> None:
    wholes = [(network, 0.01 * len(network.layers)) for network in sampled(SPACE, 40, seed=5)]
    predictor = LatencyPredictor.fit(table_with(LAYERS), networks=wholes)
    slow, fast = (pick(LAYERS, key=layer_ms) for pick in (max, min))
    assert predictor.predict_layer(slow).contribution_ms > 1.01 * predictor.predict_layer(fast).contribution_ms


def test_a_measured_layer_keeps_its_latency() -> None:
    table = table_with(LAYERS, noisy(map(layer_ms, LAYERS), sigma=0.2))
    predictor = LatencyPredictor.fit(table, networks=wholes_of(sampled(SPACE, 20, seed=1)))
    for layer in LAYERS:
        found = predictor.predict_layer(layer)
        assert found.ms == pytest.approx(table[layer].median_ms, rel=1e-12)
        assert (found.origin, found.deviation, found.outside) == ("measured", 0.0, ())


def test_without_networks_the_sum_is_the_sum() -> None:
    predictor = bare(len(LAYERS))
    network = SPACE.decode((1, 2, 1, 0, 1, 1, 2))
    found = predictor.predict(network)
    assert found.ms == pytest.approx(sum(layer_ms(item.layer) for item in network.layers))
    assert predictor.latency_ms(network) == pytest.approx(found.ms)
    assert (found.low_ms, found.high_ms, found.coverage) == (None, None, 1.0)
    assert float(found) == found.ms


def test_a_prediction_is_the_sum_of_its_layers_and_says_which_are_measured() -> None:
    predictor = tiny_predictor()
    for network in sampled(SPACE, 20, seed=8):
        found = predictor.predict(network)
        assert [(part.name, part.layer) for part in found.layers] == [(i.name, i.layer) for i in network.layers]
        assert found.ms == pytest.approx(sum(part.count * part.contribution_ms for part in found.layers))
        assert found.ms == pytest.approx(predictor.latency_ms(network), rel=1e-9)
        measured = sum(p.contribution_ms for p in found.of_origin("measured"))
        assert found.coverage == pytest.approx(measured / found.ms)
        for part in found.layers:
            assert (part.origin == "measured") == (part.layer.digest in predictor.measured_ms)
            assert (part.deviation > 0) == (part.origin != "measured")
            assert bool(part.outside) == (part.origin == "outside")


def test_counts_count() -> None:
    layer = LAYERS[0]
    assert tiny_predictor().predict(one(layer, 3)).ms == pytest.approx(3 * tiny_predictor().predict(one(layer)).ms)
    assert tiny_predictor().latency_ms(one(layer, 3)) == pytest.approx(3 * tiny_predictor().latency_ms(one(layer)))


def test_beyond_what_was_measured_it_says_so_and_in_what_respect() -> None:
    wide = conv_norm_act(24, 400, kernel_size=3, stride=1, activation="relu", input_size=(16, 16))
    found = tiny_predictor().predict_layer(wide)
    assert found.origin == "outside"
    assert found.outside == ("out_channels 400, measured 8 … 40",)
    within = conv_norm_act(24, 16, kernel_size=3, stride=1, activation="relu", input_size=(16, 16))
    assert tiny_predictor().predict_layer(within).origin == "predicted"
    assert found.deviation > tiny_predictor().predict_layer(within).deviation
    assert found.ms > tiny_predictor().predict_layer(within).ms
    strided = conv_norm_act(24, 16, kernel_size=3, stride=2, activation="relu", input_size=(16, 16))
    assert tiny_predictor().predict_layer(strided).outside == ("no layer of this kind was measured",)
    network = SPACE.decode((0,) * 7)
    network = Network("mixed", (*network.layers, NetworkLayer("wide", wide)))
    assert [part.name for part in bare(len(LAYERS)).predict(network).of_origin("outside")] == ["wide"]


def test_an_unknown_operator_is_an_error_that_names_it() -> None:
    network = Network("mine", (*SPACE.decode((0,) * 7).layers, NetworkLayer("last", strange())))
    for ask in (tiny_predictor().predict, tiny_predictor().latency_ms):
        with pytest.raises(UnknownOperatorError, match=r"operator silu, .*profile-device"):
            ask(network)
    with pytest.raises(UnknownOperatorError, match="silu"):
        tiny_predictor().predict_layer(strange())


def test_a_guess_of_an_unknown_operator_must_be_asked_for_and_is_not_remembered() -> None:
    network = one(strange(12))
    predictor = bare()
    found = predictor.predict(network, unknown="outside")
    assert found.ms > 0
    assert found.coverage == 0
    assert found.layers[0].outside == ("operator silu",)
    with pytest.raises(UnknownOperatorError):
        predictor.predict(network)
    with pytest.raises(UnknownOperatorError):
        predictor.latency_ms(network)


def test_an_unknown_way_with_unknown_operators_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown"):
        bare().predict(one(strange()), unknown="errror")  # type: ignore[arg-type]


@pytest.mark.parametrize("ask", ["predict", "latency_ms"])
def test_a_network_without_layers_is_refused(ask: str) -> None:
    with pytest.raises(UsageError, match=r"'empty' has no layers"):
        getattr(tiny_predictor(), ask)(Network("empty", ()))


def test_a_whole_network_without_layers_is_refused() -> None:
    with pytest.raises((UsageError, TableError), match="empty"):
        LatencyPredictor.fit(table_with(LAYERS), networks=[(Network("empty", ()), 1.0)])


@pytest.mark.parametrize("level", [0, 1, -0.5, 2, float("nan")])
def test_senseless_levels_are_refused(level: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        tiny_predictor().predict(SPACE.decode((0,) * 7), level=level)


@pytest.mark.parametrize("level", [0, 1, 2, float("nan")])
def test_why_there_is_no_interval_of_a_senseless_level_is_refused_too(level: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        tiny_predictor().no_interval(level)


@pytest.mark.parametrize(("level", "need"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_an_interval_needs_so_many_networks(level: float, need: int) -> None:
    assert least_networks(level) == need
    scores = np.arange(1.0, need + 1)
    assert fit_conformal(scores, np.ones(need)).bounds(1.0, 1e-4, level) is not None
    assert fit_conformal(scores[1:], np.ones(need - 1)).bounds(1.0, 1e-4, level) is None


@pytest.mark.parametrize(
    ("count", "has"), [(8, (False, False)), (9, (True, False)), (18, (True, False)), (19, (True,) * 2)]
)
def test_too_few_networks_for_a_level_are_said_to_be(count: int, has: tuple[bool, bool]) -> None:
    different = {tuple(item.layer for item in n.layers): n for n in sampled(SPACE, 200, seed=2)}
    networks = wholes_of(list(different.values())[:count])
    # A network that is given again is no other network.
    predictor = LatencyPredictor.fit(table_with(LAYERS), networks=[*networks, *networks])
    for level, there, need in zip((0.9, 0.95), has, (9, 19), strict=True):
        found = predictor.predict(SPACE.decode((0,) * 7), level=level)
        why = predictor.no_interval(level)
        assert (found.low_ms is not None, found.high_ms is not None, why is None) == (there,) * 3
        assert found.no_interval == why
        assert ("no interval" in str(found)) == (not there)
        if why is not None:
            assert (
                why == f"an interval of {level:.0%} needs {need} networks measured as a whole, and there were {count}"
            )


@pytest.mark.parametrize("count", [9, 12, 19, 25])
def test_conformal_scores_keep_their_promise_on_average(count: int) -> None:
    rng = np.random.default_rng(count)
    inside = []
    for _ in range(1500):
        scores = np.abs(rng.standard_normal(count + 1))
        low, high = fit_conformal(scores[:-1], np.ones(count)).bounds(1.0, 1.0, 0.9) or (0.0, 0.0)
        inside.append(low <= np.exp(scores[-1]) <= high)
    # Three standard errors.
    assert np.mean(inside) > 0.9 - 3 * (0.09 / 1500) ** 0.5


def test_one_and_two_networks_are_too_few_to_calibrate_but_no_mistake() -> None:
    for count in (1, 2):
        predictor = LatencyPredictor.fit(table_with(LAYERS), networks=wholes_of(sampled(SPACE, count, seed=2)))
        assert predictor.calibration.form == "sum"
        assert predictor.held_out_networks.count == count
        assert predictor.predict(SPACE.decode((0,) * 7)).low_ms is None


def test_one_seed_gives_one_predictor() -> None:
    table, wholes = table_with(LAYERS[::2], noisy(map(layer_ms, LAYERS[::2]))), wholes_of(sampled(SPACE, 25, seed=4))
    first, again = (LatencyPredictor.fit(table, networks=wholes, seed=3) for _ in range(2))
    assert np.array_equal(first.contributions(LAYERS), again.contributions(LAYERS))
    assert first.conformal == again.conformal
    other = LatencyPredictor.fit(table, networks=wholes, seed=4)
    assert first.conformal != other.conformal


def test_networks_measured_whole_are_what_it_learns_from() -> None:
    # One layer is a third slower in context than by itself; only the networks know.
    odd = next(layer for layer in LAYERS if is_depthwise(layer))

    def slow(network: Network) -> float:
        return network_ms(network) + sum(0.3 * layer_ms(i.layer) for i in network.layers if i.layer == odd)

    networks = sampled(SPACE, 120, seed=9)
    predictor = LatencyPredictor.fit(table_with(LAYERS), networks=[(network, slow(network)) for network in networks])
    fresh = [network for network in sampled(SPACE, 150, seed=10) if odd in layers_of([network])]
    assert len(fresh) > 15
    off = [predictor.latency_ms(network) / slow(network) - 1 for network in fresh]
    assert np.mean(np.abs(off)) < 0.01


def test_two_tables_give_what_both_hold() -> None:
    slow = table_with(LAYERS[10:], [4 * layer_ms(layer) for layer in LAYERS[10:]])
    predictor = LatencyPredictor.fit([table_with(LAYERS[:20]), slow], sources=["a.json", "b.json"])
    assert len(predictor.measured_ms) == len(LAYERS)
    # Both hold it: the mean in log.
    assert predictor.measured_ms[LAYERS[12].digest] == pytest.approx(2 * layer_ms(LAYERS[12]))
    assert predictor.measured_ms[LAYERS[0].digest] == pytest.approx(layer_ms(LAYERS[0]))
    assert [(source.name, source.layers) for source in predictor.tables] == [
        ("a.json", 20),
        ("b.json", len(LAYERS) - 10),
    ]
    assert len({source.sha256 for source in predictor.tables}) == 2


OTHER = msgspec.structs.replace(DEVICE, model="another device")


@pytest.mark.parametrize(
    ("make", "error", "problem"),
    [
        (list, UsageError, "at least one table"),
        (lambda: table_with([]), TableError, "empty table"),
        (
            lambda: table_with(LAYERS[:1]),
            TableError,
            f"at least 3 different layers.*only 1: {re.escape(str(LAYERS[0]))}",
        ),
        (
            lambda: [table_with(LAYERS[:2]), table_with(LAYERS[:2], [1.0, 2.0])],
            TableError,
            "at least 3 different layers",
        ),
        (lambda: [table_with(LAYERS[:5])] * 2, UsageError, "table 2 is the same table as one before it"),
        (lambda: [table_with(LAYERS), table_with(LAYERS, batch=8)], UnlikeTablesError, "batch 4 / 8"),
        (lambda: [table_with(LAYERS), table_with(LAYERS, threads=2)], UnlikeTablesError, "threads 1 / 2"),
        (lambda: [table_with(LAYERS), table_with(LAYERS, device=OTHER)], UnlikeTablesError, "another device"),
        (
            lambda: table_with(LAYERS[1:], failures=LAYERS[:1]),
            TableError,
            "1 layer could not be measured.*--failures skip",
        ),
        (
            lambda: table_with(LAYERS[2:], failures=LAYERS[:2]),
            TableError,
            "2 layers could not be measured.*made to fail",
        ),
        *(
            (lambda value=value: table_with(LAYERS[:4], [1.0, value, 1.0, 1.0]), TableError, "positive number of ms")
            for value in (float("nan"), float("inf"), 0.0, -1.0)
        ),
    ],
)
def test_tables_that_cannot_be_fitted_are_refused(make: Callable[[], Any], error: type, problem: str) -> None:
    with pytest.raises(error, match=problem):
        LatencyPredictor.fit(make())


def test_a_bad_latency_is_named_by_its_layer() -> None:
    with pytest.raises(TableError, match=re.escape(f"{LAYERS[2]} ({LAYERS[2].digest})")):
        LatencyPredictor.fit(table_with(LAYERS[:4], [1.0, 1.0, float("nan"), 1.0]))


def test_advice_on_unlike_tables_is_advice_that_can_be_followed() -> None:
    with pytest.raises(UnlikeTablesError) as caught:
        LatencyPredictor.fit([table_with(LAYERS), table_with(LAYERS, batch=8)])
    assert "--across" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -3.0])
def test_a_bad_latency_of_a_network_is_refused(value: float) -> None:
    network = Network("mine", SPACE.decode((0,) * 7).layers)
    with pytest.raises(TableError, match=r"'mine'.*positive number of ms"):
        LatencyPredictor.fit(table_with(LAYERS), networks=[*wholes_of(sampled(SPACE, 3, seed=1)), (network, value)])


def test_a_whole_network_with_an_unknown_operator_is_refused() -> None:
    with pytest.raises(UnknownOperatorError, match="silu"):
        LatencyPredictor.fit(table_with(LAYERS), networks=[(one(strange()), 1.0)])


def test_layers_that_failed_can_be_left_out_and_are_never_predicted() -> None:
    table = table_with(LAYERS[1:], failures=LAYERS[:1])
    predictor = LatencyPredictor.fit(table, failures="skip")
    assert len(predictor.measured_ms) == len(LAYERS) - 1
    for unknown in ("error", "outside"):
        with pytest.raises(PredictorError, match=rf"{re.escape(str(LAYERS[0]))} could not be measured.*made to fail"):
            predictor.predict(one(LAYERS[0]), unknown=unknown)  # type: ignore[arg-type]
    with pytest.raises(PredictorError, match="made to fail"):
        LatencyPredictor.fit(table, failures="skip", networks=[(one(LAYERS[0]), 1.0)])
    with pytest.raises(UsageError, match="'refuse' or 'skip'"):
        LatencyPredictor.fit(table, failures="ignore")  # type: ignore[arg-type]
    # Another table that has it is believed.
    both = LatencyPredictor.fit([table, table_with(LAYERS[:3])], failures="skip")
    assert both.predict_layer(LAYERS[0]).origin == "measured"


def test_a_network_twenty_times_is_one_network() -> None:
    network = sampled(SPACE, 1, seed=0)[0]
    predictor = LatencyPredictor.fit(table_with(LAYERS), networks=[(network, 3.0)] * 20)
    assert predictor.held_out_networks.count == 1
    why = "no interval: an interval of 90% needs 9 networks measured as a whole, and there was 1"
    assert str(predictor.predict(network)).endswith(f" ms, 100% of it of measured layers; {why}")
    assert predictor.contributions(LAYERS).min() > 0


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_a_network_that_was_measured_whole_is_not_outside_however_far_off_its_sum_is(factor: float) -> None:
    network = sampled(SPACE, 1, seed=0)[0]
    whole_ms = factor * bare(len(LAYERS)).latency_ms(network)
    found = LatencyPredictor.fit(table_with(LAYERS), networks=[(network, whole_ms)])
    assert found.predict(network).outside == ()
    (why,) = found.predict(Network("longer", network.layers * 3)).outside
    assert re.fullmatch(r"networks that were measured whole are predicted to take \S+ … \S+ ms", why)


def test_copies_in_two_tables_do_not_predict_one_another() -> None:
    networks = wholes_of(sampled(SPACE, 12, seed=3), sigma=0.2)
    once = LatencyPredictor.fit(table_with(LAYERS), networks=networks)
    twice = LatencyPredictor.fit(table_with(LAYERS), networks=[*networks, *networks])
    assert twice.held_out_networks == once.held_out_networks


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), spread=st.floats(0, 6), count=st.integers(3, 25), networks=st.integers(0, 12))
def test_whatever_was_measured_predictions_are_positive_numbers(
    seed: int, spread: float, count: int, networks: int
) -> None:
    rng = np.random.default_rng(seed)
    layers = random.Random(seed).sample(LAYERS, count)
    table = table_with(layers, list(map(float, np.exp(rng.normal(0, spread, count)))))
    predictor = LatencyPredictor.fit(table)
    possible = [
        n
        for n in sampled(SPACE, 200, seed)
        if {o for i in n.layers for o in _operators(i.layer)} <= predictor.operators
    ]
    wholes = [(network, float(np.exp(rng.normal(0, spread)))) for network in possible[:networks]]
    predictor = LatencyPredictor.fit(table, networks=wholes)
    found = np.array([predictor.predict_layer(layer, unknown="outside").contribution_ms for layer in LAYERS])
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    for network in possible[:3]:
        assert np.isfinite(predictor.predict(network).ms)


def _operators(layer: Layer) -> frozenset[str]:
    from predictors._features import operators_of

    return operators_of(layer)


def test_calibration_takes_no_more_parameters_than_networks_can_tell() -> None:
    rng = np.random.default_rng(0)
    terms = rng.uniform(1, 2, (40, 6))
    noise = np.exp(rng.normal(0, 0.02, 40))
    sums = terms[:, :4].sum(1)
    assert fit_calibration(terms[:2], 2 * sums[:2]).form == "sum"
    assert fit_calibration(terms, sums * noise).form == "sum"
    assert fit_calibration(terms, 2 * sums * noise).form == "scaled"
    calls = terms @ np.array([1, 1, 1, 1, 9, 0]) * noise
    assert fit_calibration(terms[:5], calls[:5]).form == "scaled"
    assert "calls" in fit_calibration(terms, calls).form
    depthwise = terms @ np.array([1, 1, 4, 1, 0, 0]) * noise
    found = fit_calibration(terms, depthwise)
    assert "groups" in found.form
    assert found.scales[2] == pytest.approx(4, rel=0.1)


def test_a_layer_has_an_interval_too() -> None:
    predictor = wide_predictor()
    layers = layers_of(sampled(wide_space(), 200, seed=77))
    measured = next(layer for layer in layers if layer.digest in predictor.measured_ms)
    found = predictor.predict_layer(measured, level=0.95)
    assert found.origin == "measured"
    assert found.low_ms is not None
    assert found.high_ms is not None
    assert found.low_ms <= found.ms <= found.high_ms
    others = [layer for layer in layers if layer.digest not in predictor.measured_ms][:300]
    inside = []
    for layer in others:
        guess = predictor.predict_layer(layer, level=0.9)
        assert guess.low_ms is not None
        assert guess.high_ms is not None
        assert guess.low_ms < guess.ms < guess.high_ms
        inside.append(guess.low_ms <= layer_ms(layer) <= guess.high_ms)
    assert np.mean(inside) >= 0.8
    with pytest.raises(UsageError, match=r"level \(--level\) lies between 0 and 1, such as 0.9, got 1$"):
        predictor.predict_layer(measured, level=1.0)
    few = LatencyPredictor.fit(table_with(LAYERS[:4]))
    assert few.predict_layer(LAYERS[9], level=0.9, unknown="outside").low_ms is None

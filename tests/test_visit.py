"""Visits in turns, programs with weights, and what a visit keeps: on the fake clock."""

from __future__ import annotations

import random
from collections import Counter
from statistics import median
from typing import Any

import msgspec
import pytest
from conftest import conv, curve_of, simulate, table_of

from lut import LatencyTable, Layer, LayerError, Network, NetworkLayer, UsageError, conv_norm_act, linear, residual_add
from lut.errors import LayerFailedError, ProfileError, TargetUnavailableError
from profiler import FakeTarget, Observation, Part, build_module
from profiler._fake import _Fake
from profiler._plan import COMPANIONS, PREFLIGHT_ENTRY, SENTINELS, layer_of, make_protocol
from profiler._target import Target
from profiler._visit import LEAST_SHARE, TIMED_CYCLES, WARM_CYCLES, LayerFailure, Visit, Visitor
from search import ResNetCifar

LAYERS = curve_of(range(8, 20)).layers


def visits_of(target: Target[Any], order: list[int], **options: Any) -> list[Visit | LayerFailure]:
    visitor = Visitor(target, LAYERS, make_protocol(), process=0, origin=0.0, **options)
    return [event for job in visitor.visits(order) for event in job()]


class Counting(Target[Any]):
    """Wraps a fake target and notes the order of calls."""

    def __init__(self, inner: FakeTarget) -> None:
        self.inner, self.ran, self.released = inner, [], []

    together = property(lambda self: self.inner.together)

    def describe(self) -> Any:
        return self.inner.describe()

    def prepare(self, layer: Any, seed: int) -> Any:
        return self.inner.prepare(layer, seed)

    def run(self, prepared: _Fake, calls: int) -> int:
        self.ran.append((prepared.layer, calls))
        return self.inner.run(prepared, calls)

    def release(self, prepared: _Fake) -> None:
        self.released.append(prepared.layer)

    def clock(self) -> float:
        return self.inner.clock()


def test_layers_of_a_group_run_in_turns_one_call_at_a_time() -> None:
    target = Counting(FakeTarget(together=6))
    found = visits_of(target, list(range(12)))
    assert sorted(event.entry for event in found) == list(range(12))
    timed = [layer for layer, _ in target.ran]
    assert {calls for _, calls in target.ran} == {1}
    # Once prepared and tried, the first six layers take turns: each cycle holds every one of them once.
    cycles = timed[6 : 6 + 6 * (WARM_CYCLES + TIMED_CYCLES)]
    for start in range(0, len(cycles), 6):
        assert len(set(cycles[start : start + 6])) == 6
    assert set(cycles) == set(LAYERS[:6])


def test_a_small_group_is_filled_up_with_companions_that_leave_no_visits() -> None:
    target = Counting(FakeTarget(together=8))
    found = visits_of(target, [0, 1])
    assert [event.entry for event in found] == [0, 1]
    ran = Counter(layer for layer, _ in target.ran)
    assert len(ran) == 8
    assert sum(layer in COMPANIONS for layer in ran) >= 6


def test_a_visit_in_turns_is_the_median_of_its_calls() -> None:
    target = FakeTarget(together=4, sigma=0.0)
    for event in visits_of(target, [0, 1, 2, 3]):
        assert isinstance(event, Visit)
        assert event.ms == pytest.approx(target.true_ms(LAYERS[event.entry]), rel=1e-3)
        assert (event.calls, event.cause, event.unresolved) == (1, None, False)


def test_a_disturbed_call_does_not_count_while_most_are_clean() -> None:
    few = [e for s in range(20) for e in visits_of(FakeTarget(together=4, preempted_share=0.2, seed=s), [0, 1, 2, 3])]
    many = visits_of(FakeTarget(together=4, preempted_share=1.0), [0, 1, 2, 3])
    truth = FakeTarget().true_ms
    assert all(isinstance(event, Visit) and event.cause == "preempted" for event in many)
    clean = [event for event in few if isinstance(event, Visit) and event.cause is None]
    assert len(clean) > 60
    assert median(event.ms / truth(LAYERS[event.entry]) for event in clean) == pytest.approx(1.0, abs=0.02)
    assert max(event.ms / truth(LAYERS[event.entry]) for event in clean) < 1.2


@pytest.mark.parametrize("how", ["raise", "run"])
def test_a_failing_layer_leaves_its_group_alone(how: str) -> None:
    target = FakeTarget(together=6, misbehave={LAYERS[2].digest: how})
    found = visits_of(target, list(range(6)))
    failures = [event for event in found if isinstance(event, LayerFailure)]
    assert [failure.entry for failure in failures] == [2]
    assert sorted(event.entry for event in found if isinstance(event, Visit)) == [0, 1, 3, 4, 5]


def test_a_target_that_is_lost_ends_the_order() -> None:
    class Lost(Counting):
        def run(self, prepared: _Fake, calls: int) -> int:
            if prepared.layer == LAYERS[1]:
                raise LayerFailedError("the device is gone", reason="crashed")
            return super().run(prepared, calls)

    found = visits_of(Lost(FakeTarget(together=4)), [0, 1, 2, 3])
    assert [(event.entry, getattr(event, "reason", None)) for event in found if isinstance(event, LayerFailure)] == [
        (1, "crashed")
    ]

    class Gone(Counting):
        def run(self, prepared: _Fake, calls: int) -> int:  # noqa: ARG002
            raise TargetUnavailableError("no device any more")

    with pytest.raises(TargetUnavailableError, match="no device any more"):
        visits_of(Gone(FakeTarget(together=4)), [0])


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize(
    "error", [LayerError("no such operator"), ProfileError("odd"), UsageError("odd"), ValueError("x")]
)
def test_an_error_about_one_layer_is_that_layers_whatever_raises_it(together: int, error: Exception) -> None:
    class Fails(Counting):
        def prepare(self, layer: Layer, seed: int) -> _Fake:
            if layer == LAYERS[1]:
                raise error
            return super().prepare(layer, seed)

    found = visits_of(Fails(FakeTarget(together=together)), [0, 1, 2, 3])
    (failure,) = [event for event in found if isinstance(event, LayerFailure)]
    assert (failure.entry, failure.reason) == (1, "error")
    assert str(error) in failure.message
    assert {event.entry for event in found if isinstance(event, Visit)} == {0, 2, 3}


def test_preflight_stands_once_in_every_group() -> None:
    found = visits_of(FakeTarget(together=4), [PREFLIGHT_ENTRY] * 5)
    assert [event.entry for event in found] == [PREFLIGHT_ENTRY] * 5


def test_a_group_fits_into_the_memory() -> None:
    target = Counting(FakeTarget(together=12))
    one = target.prepared_bytes(LAYERS[0], 4)
    visitor = Visitor(target, LAYERS, make_protocol(), process=0, origin=0.0, memory_bytes=5 * one)
    sizes = [len(job()) for job in visitor.visits(list(range(12)))]
    assert sum(sizes) == 12
    assert max(sizes) < 6
    assert target.released


def test_every_entry_number_has_its_layer() -> None:
    assert layer_of(3, LAYERS) == LAYERS[3]
    assert [layer_of(-1 - i, LAYERS) for i in range(3)] == list(SENTINELS)
    assert layer_of(PREFLIGHT_ENTRY, LAYERS) == SENTINELS[0]
    assert [layer_of(PREFLIGHT_ENTRY - 1 - i, LAYERS) for i in range(len(COMPANIONS))] == list(COMPANIONS)


@pytest.mark.parametrize("together", [1, 4])
def test_what_is_common_to_the_parts_cancels(together: int) -> None:
    target = FakeTarget(together=together, overhead_ms=0.5, sigma=0.0)
    for event in visits_of(target, [0, 5, 11]):
        assert isinstance(event, Visit)
        assert event.ms == pytest.approx(target.true_ms(LAYERS[event.entry]), rel=1e-3)
        assert not event.unresolved


def test_a_difference_in_the_noise_is_marked_and_positive() -> None:
    target = FakeTarget(overhead_ms=1000.0, sigma=0.0, floor_ms=0.001, ms_per_gmadd=0.1)
    (event,) = visits_of(target, [0])
    assert isinstance(event, Visit)
    assert event.unresolved
    assert event.ms == pytest.approx(1000.0 * LEAST_SHARE, rel=0.01)


def test_a_marginal_table_says_so_and_flags_what_it_could_not_resolve(tmp_path: Any) -> None:
    plan, result, _ = simulate(LAYERS[:4], overhead_ms=0.05)
    table = table_of(plan, result, tmp_path / "r.json")
    again = LatencyTable.from_json(table.to_json())
    assert {m.origin for m in again.values()} == {"marginal"}
    assert again.setting.context == "network"
    assert not any("at_resolution" in m.flags for m in again.values())
    plan, result, _ = simulate(LAYERS[:2], overhead_ms=1000.0, protocol={"time_budget_s": 10_000.0})
    table = table_of(plan, result, tmp_path / "r2.json")
    assert all("at_resolution" in m.flags for m in table.values())


def test_side_values_are_medians_over_the_visits(tmp_path: Any) -> None:
    class Seeing(Counting):
        calls = 0

        def observe(self, prepared: _Fake) -> Observation:  # noqa: ARG002
            self.calls += 1
            return Observation(also={"sm_mhz": 1000.0 + self.calls % 3})

    found = [event for event in visits_of(Seeing(FakeTarget()), [0, 1, 2] * 3) if isinstance(event, Visit)]
    assert {event.also["sm_mhz"] for event in found} == {1000.0, 1001.0, 1002.0}


def test_a_cause_that_the_target_saw_rejects_the_visit() -> None:
    class Throttled(Counting):
        def observe(self, prepared: _Fake) -> Observation:  # noqa: ARG002
            return Observation(cause="slow_clock")

    for together in (1, 3):
        for event in visits_of(Throttled(FakeTarget(together=together)), [0, 1, 2]):
            assert isinstance(event, Visit)
            assert event.cause == "slow_clock"


def test_a_session_in_turns_finds_the_latencies(tmp_path: Any) -> None:
    plan, result, target = simulate(LAYERS, together=5, sigma=0.02, common_drift=0.1)
    table = table_of(plan, result, tmp_path / "r.json")
    assert len(table) == len(LAYERS)
    ratios = [m.median_ms / target.true_ms(layer) for layer, m in table.items()]
    assert max(ratios) / min(ratios) < 1.06


def test_parts_default_to_the_layer_itself() -> None:
    target = FakeTarget()
    prepared = target.prepare(conv(8), 0)
    assert tuple(target.parts(prepared)) == (Part(prepared, 1.0),)
    assert target.origin(prepared) == "measured"
    assert FakeTarget(overhead_ms=1.0).origin(prepared) == "marginal"


# Whole networks.


def test_a_network_is_a_layer_with_the_same_work() -> None:
    import torch

    space, rng = ResNetCifar(expand=0.5, depth=20), random.Random(0)
    for _ in range(5):
        network = space.decode(space.sample(rng))
        whole = network.as_layer()
        assert (whole.madds, whole.parameters) == (network.madds, network.parameters)
        assert (whole.inputs, whole.output_shape) == (((3, 32, 32),), (10,))
        assert build_module(whole)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_network_computes_what_its_layers_do_one_after_another() -> None:
    import torch

    first = conv_norm_act(3, 4, kernel_size=3, stride=1, activation="relu", input_size=(8, 8))
    same = conv_norm_act(4, 4, kernel_size=3, stride=1, activation=None, input_size=(8, 8))
    add = residual_add(4, activation="relu", input_size=(8, 8))
    network = Network(
        "n",
        (
            NetworkLayer("a", first),
            NetworkLayer("b", same, count=2),
            NetworkLayer("c", add, inputs=("b", "a")),
        ),
    )
    whole = network.as_layer()
    assert whole.madds == first.madds + 2 * same.madds
    torch.manual_seed(0)
    module = build_module(whole)
    x = torch.randn(1, 3, 8, 8)
    ops = list(module.get_submodule("ops").children())
    with torch.inference_mode():
        a = ops[2](ops[1](ops[0](x)))
        b = ops[6](ops[5](ops[4](ops[3](a))))
        assert torch.equal(module(x), torch.relu(a + b))


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ((), "no layers"),
        (
            (NetworkLayer("a", linear(4, 4, bias=True)), NetworkLayer("b", linear(5, 4, bias=True))),
            r"b takes \(5,\), and 'a' gives \(4,\)",
        ),
        ((NetworkLayer("a", linear(4, 4, bias=True), inputs=("z",)),), "'z', which does not come before"),
        ((NetworkLayer("a", linear(4, 4, bias=True), inputs=("input", "input")),), "takes 1 inputs, and 2 are named"),
    ],
)
def test_a_network_that_does_not_fit_together_is_refused(layers: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        Network("n", layers).as_layer()


def test_version_1_files_are_read_as_isolated_and_eager(tmp_path: Any) -> None:
    plan, result, _ = simulate(LAYERS[:3])
    table = table_of(plan, result, tmp_path / "r.json")
    raw = msgspec.json.decode(table.to_json())
    raw["version"] = 1
    del raw["networks"], raw["audit"]
    del raw["setting"]["context"], raw["setting"]["options"]
    for measurement in raw["measurements"]:
        measurement.pop("also", None)
    old = LatencyTable.from_json(msgspec.json.encode(raw))
    assert (old.setting.context, old.setting.options) == ("isolated", {"execution": "eager"})
    assert [m.median_ms for m in old.values()] == [m.median_ms for m in table.values()]
    assert msgspec.json.decode(old.to_json())["version"] == 5
    del raw["setting"]["dtype"]
    with pytest.raises(Exception, match=r"dtype.*setting"):
        LatencyTable.from_json(msgspec.json.encode(raw))


def test_a_layer_that_failed_is_not_tried_again_in_the_same_order() -> None:
    for together in (1, 4):
        target = FakeTarget(together=together, misbehave={LAYERS[2].digest: "raise"})
        found = visits_of(target, [0, 2, 1, 2, 3, 2])
        assert sum(isinstance(event, LayerFailure) for event in found) == 1
        assert sum(isinstance(event, Visit) for event in found) == 3


@pytest.mark.parametrize("together", [1, 4])
def test_what_fails_while_the_target_looks_is_the_layers_failure(together: int) -> None:
    class Blind(Counting):
        def observe(self, prepared: _Fake) -> Observation:
            if prepared.layer == LAYERS[1]:
                raise RuntimeError("no reading")
            return Observation()

    target = Blind(FakeTarget(together=together))
    found = visits_of(target, [0, 1, 2, 3])
    assert [(e.entry, e.message) for e in found if isinstance(e, LayerFailure)] == [(1, "RuntimeError: no reading")]
    assert sorted(event.entry for event in found if isinstance(event, Visit)) == [0, 2, 3]
    assert LAYERS[1] in target.released


def test_a_value_lost_in_noise_is_a_bound_with_an_interval_that_begins_near_nothing(tmp_path: Any) -> None:
    plan, result, _ = simulate(LAYERS[:2], overhead_ms=1000.0, protocol={"time_budget_s": 10_000.0})
    for measurement in table_of(plan, result, tmp_path / "r.json").values():
        assert "at_resolution" in measurement.flags
        assert not measurement.converged
        assert measurement.within_run.low_ms < 1e-5
        assert measurement.across_runs.low_ms < 1e-5

"""The protocol, on a clock that can be trusted: what it finds, when it stops, what it puts aside, what it flags."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import conv, curve_of, simulate, table_of

from lut import LatencyTable, Network, NetworkLayer, UsageError, conv_norm_act
from profiler._drift import remove_drift
from profiler._fake import FakeTarget
from profiler._judge import judge
from profiler._plan import (
    LAYERS_PER_WHOLE,
    LEAST_SENTINEL_VISITS,
    LOOKS,
    MOST_WHOLES,
    SENTINELS,
    Plan,
    make_protocol,
    next_round,
)
from profiler._session import AUDIT_VISITS, MEASURING_PER_START, run_session, sort_visits
from profiler._sources import subject_of
from profiler._target import Target
from profiler._visit import Visit, Visitor
from profiler._worker import LocalWorker

MakeTable = Callable[..., LatencyTable]
WIDTHS = tuple(range(1, 33))


def test_it_finds_the_true_latencies(make_table: MakeTable) -> None:
    table = make_table(common_drift=0.15, process_sigma=0.0)
    target = FakeTarget()
    ratios = [math.log(m.median_ms / target.true_ms(layer)) for layer, m in table.items()]
    assert np.std(ratios) < 0.01
    assert sum(m.converged for m in table.values()) >= 30


def test_the_same_seed_gives_the_same_table(make_table: MakeTable, tmp_path: Path) -> None:
    tables = [make_table(reference=tmp_path / f"{i}.json") for i in range(2)]
    assert [m.visits for m in tables[0].values()] == [m.visits for m in tables[1].values()]
    other = make_table(reference=tmp_path / "3.json", protocol={"seed": 5})
    assert [m.visits for m in other.values()] != [m.visits for m in tables[0].values()]


def test_quiet_layers_stop_early_and_noisy_ones_go_on() -> None:
    counts = {}
    for sigma in (0.002, 0.05):
        plan, result, _ = simulate(curve_of(WIDTHS).layers, sigma=sigma)
        visits = sort_visits(result.visits, plan.protocol.first_look, final=True).counts
        counts[sigma] = np.mean([visits[i] for i in range(len(WIDTHS))])
    assert counts[0.002] == LOOKS[0]
    assert counts[0.05] > 24


def test_the_time_budget_is_kept() -> None:
    plan, result, target = simulate(curve_of(WIDTHS).layers, sigma=0.1, protocol={"time_budget_s": 2.0})
    assert target.clock() < 2.1
    assert result.measuring_s < 2.1
    assert plan.protocol.time_budget_s == 2.0


def test_what_was_never_visited_is_not_measured(tmp_path: Path) -> None:
    plan, result, _ = simulate(curve_of(WIDTHS).layers, protocol={"time_budget_s": 1.0}, floor_ms=5.0)
    table = table_of(plan, result, tmp_path / "r.json")
    assert 0 < len(table) < len(WIDTHS)
    assert len(table) + len(table.not_measured) == len(WIDTHS)
    assert "time budget of 1 s" in table.not_measured[0].reason
    assert b'"origin":"not_measured"' in table.to_json()
    again = LatencyTable.from_json(table.to_json())
    with pytest.raises(KeyError, match="was not measured"):
        again[again.not_measured[0].layer]


def test_preempted_blocks_do_not_count_and_preempted_visits_are_made_again(make_table: MakeTable) -> None:
    table = make_table(preempted_share=0.5, sigma=0.005)
    target = FakeTarget()
    for layer, m in table.items():
        assert m.median_ms == pytest.approx(target.true_ms(layer), rel=0.05)
    assert sum(m.rejected_by_cause.get("preempted", 0) for m in table.values()) > 0


def test_a_permanent_hog_contaminates_instead_of_emptying(make_table: MakeTable) -> None:
    table = make_table(range(8, 12), preempted_share=1.0)
    assert len(table) == 4
    assert all("contaminated" in m.flags and m.rejected == () for m in table.values())


def visit(entry: int, ms: float, cause: str | None = None, at_s: float = 0.0, process: int = 0) -> Visit:
    return Visit(entry, process, at_s, ms, cause, False, 0.0, 1)  # type: ignore[arg-type]


def test_sorting_is_by_cause_never_by_value() -> None:
    visits = [visit(0, 1.0), visit(0, 99.0), visit(0, 1.0, "stolen"), visit(1, 1.0, "throttled")]
    during = sort_visits(visits, 6, final=False)
    assert [v.ms for v in during.accepted] == [1.0, 99.0]
    assert {e: len(r) for e, r in during.rejected.items()} == {0: 1, 1: 1}
    after = sort_visits(visits, 6, final=True)
    assert after.contaminated == {1}
    assert {e: len(r) for e, r in after.rejected.items()} == {0: 1}


def test_layer_failures_are_data(tmp_path: Path) -> None:
    layers = curve_of(range(1, 9)).layers
    plan, result, _ = simulate(layers, misbehave={layers[2].digest: "raise", layers[5].digest: "memory"})
    table = table_of(plan, result, tmp_path / "r.json")
    assert len(table) == 6
    assert [(f.layer, f.reason) for f in table.failures] == [(layers[2], "error"), (layers[5], "out_of_memory")]
    with pytest.raises(KeyError, match="could not be measured"):
        table[layers[2]]
    assert LatencyTable.from_json(table.to_json()).failures == table.failures


def stream(rng: np.random.Generator, n_layers: int, rounds: int, drift: Callable[[float], np.ndarray]) -> list[Visit]:
    visits = []
    for r in range(rounds):
        for i in rng.permutation(n_layers):
            at = len(visits) * 0.004
            log_ms = 0.01 * i + drift(at)[i] + rng.normal(0, 0.01)
            visits.append(visit(int(i), float(np.exp(log_ms)), at_s=at, process=r // 6))
    return visits


def arrays(visits: list[Visit]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.log([v.ms for v in visits]),
        np.array([v.entry for v in visits]),
        np.array([v.process for v in visits]),
    )


def test_a_drift_common_to_all_is_taken_out() -> None:
    rng = np.random.default_rng(0)
    visits = stream(rng, 40, 16, lambda at: np.full(40, 0.3 * math.sin(3 * at)))
    found = remove_drift(*arrays(visits), window=15)
    at = np.array([v.at_s for v in visits])
    assert np.corrcoef(found.common, np.sin(3 * at))[0, 1] > 0.99
    levels = found.levels - found.levels.mean()
    assert np.max(np.abs(levels - (0.01 * np.arange(40) - 0.195))) < 0.015
    assert found.factors == 0


def test_states_to_which_layers_respond_differently_are_taken_out() -> None:
    rng = np.random.default_rng(1)
    response = np.linspace(-0.15, 0.15, 40)
    visits = stream(rng, 40, 32, lambda at: response * (1.0 if int(at) % 2 else -1.0))
    logs, groups, process = arrays(visits)
    found = remove_drift(logs, groups, process, window=15)
    assert found.factors >= 1
    noise = logs - found.total - found.levels[groups]
    # Robust, since a window blurs the moments at which the state changes.
    assert np.median(np.abs(noise)) < 0.02
    assert np.median(np.abs(logs - found.common - found.levels[groups])) > 0.06


def test_pure_noise_has_no_states() -> None:
    rng = np.random.default_rng(2)
    found = remove_drift(*arrays(stream(rng, 40, 16, lambda _: np.zeros(40))), window=15)
    assert found.factors == 0


def test_one_layer_alone_is_corrected_by_the_sentinels_only(tmp_path: Path) -> None:
    protocol = {"precision": 0.0005, "most_visits": 48}
    # As one: the swing makes the noise floor wide, and the layer is to be visited along all of it nevertheless.
    plan, result, target = simulate(
        [conv(16)], as_one=True, common_drift=0.2, sigma=0.01, floor_ms=10.0, protocol=protocol
    )
    table = table_of(plan, result, tmp_path / "r.json")
    m = table[conv(16)]
    assert np.std(np.log(m.corrected_ms)) < 0.6 * np.std(np.log(m.visits.raw_ms))
    assert m.median_ms == pytest.approx(target.true_ms(conv(16)), rel=0.25)


def test_the_sentinels_tie_sessions_together(tmp_path: Path) -> None:
    reference = tmp_path / "r.json"
    layers = curve_of(range(8, 33)).layers
    medians = []
    for slow in (1.0, 1.3):
        plan, result, _ = simulate(layers, floor_ms=0.02 * slow, ms_per_gmadd=10.0 * slow, sigma=0.005)
        medians.append([m.median_ms for m in table_of(plan, result, reference).values()])
    # The second machine is 30 % slower throughout; against its reference speed it is the same machine.
    assert np.median(np.log(medians[1]) - np.log(medians[0])) == pytest.approx(0, abs=0.01)
    raw = [np.median([v.ms for v in result.visits if v.entry == 3])]
    assert raw[0] > 1.2 * medians[0][3]


def test_autocorrelated_streams_are_flagged_and_widened() -> None:
    rng = np.random.default_rng(3)
    visits, noise = [], np.zeros(10)
    for r in range(24):
        for i in range(10):
            noise[i] = 0.7 * noise[i] + rng.normal(0, 0.03)
            visits.append(visit(i, float(np.exp(noise[i])), at_s=r + i / 10))
    protocol = make_protocol()
    found = judge(visits, protocol, references={})
    assert found.autocorrelation > 0.2
    assert all("autocorrelated" in layer.flags for layer in found.layers.values())
    # 24 visits with ρ ≈ 0.7 are worth half a dozen, and such an interval is one of 99 %.
    independent = judge(
        [msgspec.structs.replace(v, ms=float(np.exp(rng.normal(0, 0.042)))) for v in visits], protocol, references={}
    )
    ratio = np.median([found.layers[i].half_width / independent.layers[i].half_width for i in range(10)])
    assert ratio > 2


def test_a_layer_that_drifts_by_itself_is_flagged() -> None:
    rng = np.random.default_rng(4)
    visits = []
    for r in range(32):
        for i in range(20):
            own = 0.2 * r / 32 if i == 0 else 0.0
            visits.append(visit(i, float(np.exp(own + rng.normal(0, 0.01))), at_s=r + i / 20))
    flags = {i: layer.flags for i, layer in judge(visits, make_protocol(), references={}).layers.items()}
    assert "drifting" in flags[0]
    assert not any("drifting" in flags[i] for i in range(1, 20))


def test_two_modes_are_flagged(make_table: MakeTable) -> None:
    table = make_table(sigma=0.003, second_mode=1.2, affected=[conv(9).digest])
    assert [layer for layer, m in table.items() if "bimodal" in m.flags] == [conv(9)]
    m = table[conv(9)]
    assert m.modes is not None
    assert m.modes[1][0] / m.modes[0][0] == pytest.approx(1.2, rel=0.05)


def test_rounds_visit_each_layer_once_with_sentinels_between() -> None:
    import random

    protocol = make_protocol()
    order = next_round(range(60), {}, {}, protocol, random.Random(0))
    assert sorted(e for e in order if e >= 0) == list(range(60))
    assert order != sorted(order)
    sentinels = [e for e in order if e < 0]
    assert len(sentinels) == 11
    assert set(sentinels) == {-1 - i for i in range(len(SENTINELS))}


def test_time_goes_where_the_error_is_largest() -> None:
    import random

    protocol = make_protocol()
    visits = dict.fromkeys(range(100), 12)
    widths = {e: float(e) for e in range(100)}
    order = next_round(range(100), visits, widths, protocol, random.Random(0))
    assert {e for e in order if e >= 0} == set(range(50, 100))


def test_a_network_is_visited_with_every_few_layers() -> None:
    """A sum has the visits of all its layers; what it is held against had as many as one of them."""
    import random

    protocol = make_protocol()
    order = next_round(range(65), {}, {}, protocol, random.Random(0), often=[64])
    assert order.count(64) == 65 // LAYERS_PER_WHOLE
    assert all(order.count(entry) == 1 for entry in range(64))
    # One of many layers takes no more of the time: not in half a round, and not when few layers are left.
    deep = next_round(range(401), {}, {}, protocol, random.Random(0), often=[400], layers=400)
    assert deep.count(400) == MOST_WHOLES
    visits = dict.fromkeys(range(401), protocol.first_look)
    worth = {400: 1.0}
    half = next_round(
        range(401), visits, worth | dict.fromkeys(range(400), 0.5), protocol, random.Random(0), often=[400], layers=400
    )
    assert half.count(400) == MOST_WHOLES // 2
    late = next_round([*range(31), 400], visits, worth, protocol, random.Random(0), often=[400], layers=400)
    assert late.count(400) == 1
    # Of two, each as often as the other; one that is known well enough is not taken up again.
    both = next_round(range(66), {}, {}, protocol, random.Random(0), often=[64, 65])
    assert both.count(64) == both.count(65) == 66 // LAYERS_PER_WHOLE // 2
    known = next_round(range(64), {}, {}, protocol, random.Random(0), often=[64])
    assert 64 not in known
    few = next_round(range(5), {}, {}, protocol, random.Random(0), often=[4])
    assert few.count(4) == 1


def test_an_empty_session_judges_to_nothing() -> None:
    assert judge([], make_protocol(), references=None).layers == {}


@pytest.mark.parametrize(
    "arguments",
    [{"precision": 0.0}, {"precision": 0.9}, {"time_budget_s": 0.0}, {"time_budget_s": float("nan")}, {"seed": -1}],
)
def test_senseless_parameters(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        make_protocol(**arguments)  # type: ignore[arg-type]


def test_quick_asks_for_less() -> None:
    quick, full = make_protocol(quick=True), make_protocol()
    assert quick.precision > full.precision
    assert (quick.time_budget_s or 0) < (full.time_budget_s or 0)


def test_sentinels_that_disagree_tell_of_another_state() -> None:
    rng = np.random.default_rng(5)
    references = {-1: 1.0, -2: 1.0, -3: 1.0}
    for shifts, expected in (((1.2, 1.2, 1.2), False), ((1.0, 1.1, 1.2), True)):
        visits = []
        for r in range(12):
            truth = {**dict.fromkeys(range(6), 1.0), **{-1 - i: shift for i, shift in enumerate(shifts)}}
            visits += [
                visit(entry, float(ms * np.exp(rng.normal(0, 0.005))), at_s=r + position / 10)
                for position, (entry, ms) in enumerate(truth.items())
            ]
        found = judge(visits, make_protocol(), references=references)
        assert all(("other_state" in layer.flags) == expected for layer in found.layers.values())
        # Brought to the reference speed, the layers took 1 / 1.2, or 1 over the geometric mean of the three.
        assert found.layers[0].median_ms == pytest.approx(1 / np.prod(shifts) ** (1 / 3), rel=0.02)


def test_the_spread_between_processes_widens_the_interval() -> None:
    rng = np.random.default_rng(6)

    # Few enough layers that no states are fitted, which would explain four processes' luck away.
    def measured(spread: float) -> float:
        luck = rng.normal(0, spread, (4, 12))
        visits = [
            visit(i, float(np.exp(luck[p, i] + rng.normal(0, 0.005))), at_s=8.0 * p + r + i / 40, process=p)
            for p in range(4)
            for r in range(6)
            for i in rng.permutation(12)
        ]
        return float(np.median([x.half_width for x in judge(visits, make_protocol(), references={}).layers.values()]))

    assert measured(0.03) > 4 * measured(0.0)


class Disturbed(Target[object]):
    """A simulated target whose kernel counters move at every third visit."""

    def __init__(self, steal: bool) -> None:
        self.inner = FakeTarget(sigma=0.005)
        self.steal = steal
        self.reads = 0

    def describe(self) -> Any:
        return self.inner.describe()

    def prepare(self, layer: Any, seed: int) -> Any:
        return self.inner.prepare(layer, seed)

    def relocate(self, prepared: Any, rng: Any) -> None:
        self.inner.relocate(prepared, rng)

    def run(self, prepared: Any, calls: int) -> int:
        return self.inner.run(prepared, calls)

    def clock(self) -> float:
        return self.inner.clock()

    def preemptions_and_faults(self) -> tuple[int, int]:
        return 0, 10_000 * self.reads

    def stolen_and_throttled(self) -> tuple[int, int]:
        self.reads += 1
        count = self.reads // 6
        return (count, 0) if self.steal else (0, count)


@pytest.mark.parametrize(("steal", "cause"), [(True, "stolen"), (False, "throttled")])
def test_stolen_and_throttled_visits_are_put_aside(steal: bool, cause: str) -> None:
    target = Disturbed(steal)
    visitor = Visitor(target, curve_of(range(8, 12)).layers, make_protocol(), process=0, origin=0.0)
    causes = [visitor.visit(i % 4).cause for i in range(12)]
    assert causes == [None, None, cause] * 4


def test_layers_that_fault_pages_are_flagged() -> None:
    visits = [
        Visit(i, 0, r + i / 10, 1.0 + 0.001 * r, None, True, 200.0 if i == 0 else 0.0, 1)
        for r in range(8)
        for i in range(4)
    ]
    found = judge(visits, make_protocol(), references={})
    assert [i for i, layer in found.layers.items() if "page_faults" in layer.flags] == [0]
    assert all("warmup_not_steady" in layer.flags for layer in found.layers.values())


@pytest.mark.parametrize(("starting_s", "most"), [(0.0, 6), (5.0, 4)])
def test_a_process_measures_far_longer_than_it_took_to_start(starting_s: float, most: int) -> None:
    target = FakeTarget(sigma=0.2, floor_ms=1.0)
    layers = curve_of(range(8, 20)).layers
    plan = Plan("fake", {}, layers, make_protocol(time_budget_s=120.0))
    starts: list[float] = []

    def start(process: int) -> LocalWorker:
        target._now_s += starting_s
        starts.append(target.clock())
        return LocalWorker(target, layers, plan.protocol, process=process, origin=0.0)

    result = run_session(plan, start, None, clock=target.clock)
    assert result.processes == len(starts) <= most
    # The first look is seen by as many processes as the protocol says; then, starting takes a tenth of the time.
    assert len(starts) >= 2
    lived = [later - earlier for earlier, later in itertools.pairwise(starts[1:])]
    assert all(seconds >= 10 * starting_s for seconds in lived)


def test_the_sentinels_of_a_short_session_are_known_without_another_process() -> None:
    plan, result, _ = simulate(curve_of(range(8, 12)).layers, sigma=0.001)
    counts = Counter(visit.entry for visit in result.visits)
    assert all(counts[-1 - i] >= LEAST_SENTINEL_VISITS for i in range(len(SENTINELS)))
    assert max(counts[entry] for entry in range(plan.size)) == plan.protocol.first_look
    assert result.processes == 2


def test_many_networks_have_their_share_of_visits_spread_over_the_session() -> None:
    networks = [Network(f"network {i}", (NetworkLayer("conv", conv(8 + i)),)) for i in range(8)]
    layers = curve_of(range(8, 40)).layers
    budget_s = 60.0
    plan, result, _ = simulate(
        layers,
        networks=[subject_of(network) for network in networks],
        protocol={"precision": 0.001, "time_budget_s": budget_s},
        target=FakeTarget(sigma=0.1, floor_ms=5.0),
    )
    wholes = [visit for visit in result.visits if visit.entry >= len(plan.entries)]
    counts = Counter(visit.entry for visit in wholes)
    assert set(counts) == set(range(len(plan.entries), plan.size))
    assert max(counts.values()) <= AUDIT_VISITS
    assert min(counts.values()) >= AUDIT_VISITS - 2
    # No more than half of them between two visits to any layer, and in every quarter of the session about as many.
    quarters = np.histogram([visit.at_s for visit in wholes], bins=4, range=(0.0, budget_s))[0]
    assert quarters.min() > 0.6 * quarters.mean()
    # Layers have most of the time, once they have had their first look.
    per_layer = Counter(visit.entry for visit in result.visits if 0 <= visit.entry < len(plan.entries))
    assert min(per_layer.values()) > 1.5 * max(counts.values())


def test_few_networks_are_measured_as_often_as_their_layers() -> None:
    network = Network("mine", (NetworkLayer("first", conv(16)), NetworkLayer("second", conv(16), count=3)))
    plan, result, _ = simulate(
        [conv(16)],
        networks=[subject_of(network)],
        protocol={"precision": 0.001, "time_budget_s": 10.0},
        target=FakeTarget(sigma=0.1, floor_ms=5.0),
    )
    counts = Counter(visit.entry for visit in result.visits)
    assert counts[plan.size - 1] > AUDIT_VISITS


def test_one_network_is_known_as_well_as_the_sum_of_its_layers() -> None:
    widths = [*range(8, 72), 8]
    layers = [
        conv_norm_act(one, other, kernel_size=1, stride=1, activation="relu", input_size=(8, 8))
        for one, other in itertools.pairwise(widths)
    ]
    network = Network("mine", tuple(NetworkLayer(f"layer {i}", layer) for i, layer in enumerate(layers)))
    plan, result, _ = simulate(
        layers,
        networks=[subject_of(network)],
        protocol={"precision": 0.001, "time_budget_s": 60.0},
        target=FakeTarget(sigma=0.1, floor_ms=1.0),
    )
    counts = Counter(visit.entry for visit in result.visits)
    per_layer = np.mean([counts[entry] for entry in range(len(layers))])
    assert counts[plan.size - 1] > 4 * per_layer
    # A short session is to reach every layer first.
    order = [visit.entry for visit in result.visits if visit.entry >= 0]
    reached = max(order.index(entry) for entry in range(plan.size))
    assert order[:reached].count(plan.size - 1) <= 1


def test_the_noise_floor_ends_nothing() -> None:
    plan, result, target = simulate(
        curve_of(range(8, 16)).layers, protocol={"precision": 0.02, "time_budget_s": 30.0}, sigma=0.3
    )
    assert result.preflight.noise_floor > 0.02
    counts = Counter(visit.entry for visit in result.visits)
    done = [entry for entry in range(plan.size) if counts[entry] >= plan.protocol.most_visits]
    assert target.clock() >= 25.0 or len(done) == plan.size


def test_no_process_is_started_for_the_last_seconds() -> None:
    target = FakeTarget(sigma=0.2, floor_ms=1.0)
    layers = curve_of(range(8, 72)).layers
    plan = Plan("fake", {}, layers, make_protocol(precision=0.001, time_budget_s=60.0))
    starts: list[float] = []

    def start(process: int) -> LocalWorker:
        target._now_s += 2.0
        starts.append(target.clock())
        return LocalWorker(target, layers, plan.protocol, process=process, origin=0.0)

    run_session(plan, start, None, clock=target.clock)
    # First looks are taken by as many processes as the protocol says.
    assert len(starts) >= 3
    assert all(target.clock() - begun >= MEASURING_PER_START * 2.0 - 1.0 for begun in starts[2:])

"""Verify, then repair: what a search chose is measured, and chosen anew until it was measured to keep its budget."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _predictors import DEVICE, SETTING, layer_ms, network_ms
from _recorded import blocks_predictor, made_accuracy, resnets, resnets_predictor, widest_ms

from lut import Network
from lut.errors import BudgetError, CheckpointError, IncompleteError, UsageError
from predictors import LatencyPredictor
from profiler._compare import ComparedNetwork, ComparedVisits, NetworkComparison
from search import Found, Problem, measure, verify
from search._runs._found import Evaluated
from search.htas import Logits
from search.spaces import NasBenchMacro

BUDGET = 2.5
HALF_WIDTH = 0.005

Compare = Callable[..., NetworkComparison]


class Device:
    """Measures networks: each takes what a function says, known to half a per cent; another day 5 % more or less."""

    def __init__(self, ms: Callable[[Network], float]) -> None:
        self.ms = ms
        self.sessions: list[list[Network]] = []

    def __call__(self, networks: Sequence[Network], **options: Any) -> NetworkComparison:
        self.sessions.append(list(networks))
        times = [self.ms(network) for network in networks]
        return NetworkComparison(
            device=options["device"],
            setting=options["setting"],
            networks=tuple(
                ComparedNetwork(
                    *(network.name, ms, (1 - HALF_WIDTH) * ms, (1 + HALF_WIDTH) * ms, 8, 0.01),
                    raw_ms=1.02 * ms,
                    day_low_ms=0.95 * ms,
                    day_high_ms=1.05 * ms,
                )
                for network, ms in zip(networks, times, strict=True)
            ),
            visits=tuple(ComparedVisits((ms,) * 8, (0, 0, 0, 0, 1, 1, 1, 1), tuple(range(8))) for ms in times),
            measuring_s=1.0,
            at_reference=True,
        )


@cache
def values() -> dict[tuple[int, ...], float]:
    """Return the made accuracies of the networks of NAS-Bench-Macro with at most one block of option 2."""
    space = NasBenchMacro()
    vectors = {space.canonical(v) for v in itertools.product(range(3), repeat=8) if sum(i == 2 for i in v) <= 1}
    ordered = sorted(vectors)
    return dict(zip(ordered, made_accuracy([space.decode(v) for v in ordered]), strict=True))


@cache
def days_predictor() -> LatencyPredictor:
    """Return the predictor of the made device, whose layers differ by 2 % from day to day."""
    plain = blocks_predictor()
    return replace(plain, deviations=dict.fromkeys(plain.measured_ms, 0.02))


def problem(**changes: Any) -> Problem:
    predictor = days_predictor() if changes.get("holds") == "any-day" else blocks_predictor()
    return Problem(NasBenchMacro(), predictor, **{"ms": BUDGET, **changes})


def found_in(given: Problem, knowledge: Evaluated | None = None) -> Found:
    """Return the best network by the predictor's bound."""
    knowledge = knowledge or Evaluated(values())
    return Found("made", given, knowledge.candidates(given, 1), knowledge, len(values()), 1.0)


def predicted(network: Network) -> float:
    return blocks_predictor().latency_ms(network)


def best_within(ms: Callable[[Network], float], budget_ms: float = BUDGET) -> float:
    """Return the largest value of a network whose measured upper end is within a budget."""
    space = NasBenchMacro()
    return max(v for vector, v in values().items() if (1 + HALF_WIDTH) * ms(space.decode(vector)) <= budget_ms)


def test_a_choice_that_keeps_its_budget_stays() -> None:
    device = Device(lambda network: 0.99 * predicted(network))
    first = found_in(problem())
    found, verification = verify(first, compare=device)
    seen = verification.checked(found.vectors[0])
    assert seen is not None
    assert seen.timed.verdict(BUDGET, "reference-speed") == "within"
    # The best of several is partly the luckiest: it is measured in a second session, and both count.
    assert len(verification.sessions_of(found.vectors[0])) == 2
    # The base network is measured beside the others: NAS-Bench-Macro has none, so that it is the first one.
    assert device.sessions[0][0].layers == NasBenchMacro().decode((0,) * 8).layers
    assert found.values[0] >= first.values[0]
    assert verification.first_choice == first.vectors[0]


@pytest.mark.parametrize("slower", [1.06, 1.15, 1.3])
def test_a_choice_that_breaks_its_budget_is_repaired(slower: float) -> None:
    def ms(network: Network) -> float:
        return slower * predicted(network)

    device = Device(ms)
    first = found_in(problem())
    assert ms(first.networks[0]) > BUDGET
    found, verification = verify(first, compare=device)
    assert (1 + HALF_WIDTH) * ms(found.networks[0]) <= BUDGET
    assert found.values[0] == pytest.approx(best_within(ms), abs=1e-12)
    assert 2 <= len(verification.rounds) <= 4
    # What selected networks take beyond their prediction is known from then on.
    assert found.problem.margin == pytest.approx(slower, rel=1e-6)
    assert found.problem.fits(found.vectors[0])
    assert not found.problem.fits(first.vectors[0])
    # Nothing is measured more than twice but the base network, and not twice what is no candidate any more.
    seen = Counter(network.vector for done in verification.rounds for network in done.networks)
    assert seen[found.vectors[0]] <= 2
    beyond = [vector for vector in seen if (1 - HALF_WIDTH) * ms(NasBenchMacro().decode(vector)) > BUDGET]
    assert all(seen[vector] == 1 for vector in beyond)


def test_room_that_a_cautious_prediction_left_is_used() -> None:
    def ms(network: Network) -> float:
        return 0.85 * predicted(network)

    first = found_in(problem())
    found, _ = verify(first, compare=Device(ms))
    assert found.values[0] > first.values[0]
    assert found.values[0] == pytest.approx(best_within(ms), abs=1e-12)
    assert 0.9 * BUDGET < ms(found.networks[0]) <= BUDGET


def test_a_budget_that_nothing_keeps_is_no_result() -> None:
    device = Device(lambda network: 10.0 + predicted(network))
    with pytest.raises(BudgetError) as raised:
        verify(found_in(problem()), compare=device)
    assert 1 <= len(device.sessions) <= 4
    message = str(raised.value)
    assert "no network was measured within the budget of 2.5 ms" in message
    least = min(10.0 + predicted(network) for session in device.sessions for network in session[1:])
    beyond = (1 + HALF_WIDTH) * least / BUDGET - 1
    assert f"{beyond:.1%} beyond it" in message
    assert raised.value.exit_code == 3


def test_repairs_are_bounded_and_can_be_forbidden() -> None:
    # Whatever is measured takes a little more than it may: nothing is ever learnt.
    device = Device(lambda _: BUDGET * 1.001)
    with pytest.raises(BudgetError, match="in 4 sessions"):
        verify(found_in(problem()), compare=device)
    assert len(device.sessions) == 4
    once = Device(lambda _: BUDGET * 1.001)
    with pytest.raises(BudgetError, match="in 1 session:"):
        verify(found_in(problem()), compare=once, repairs=0)
    assert len(once.sessions) == 1


def test_on_any_day_takes_a_margin() -> None:
    # By the reference speed it fits, but not on a day that is 5 % slower.
    device = Device(predicted)
    budget = 1.02 * predicted(found_in(problem(bound="predicted")).networks[0])
    today, _ = verify(found_in(problem(bound="predicted", ms=budget)), compare=device)
    any_day = problem(bound="predicted", ms=budget, holds="any-day")
    found, verification = verify(found_in(any_day), compare=Device(predicted))
    assert 1.05 * predicted(found.networks[0]) <= budget
    assert 1.05 * predicted(today.networks[0]) > budget
    assert verification.holds == "any-day"


def test_what_was_measured_is_kept_and_gone_on_from(tmp_path: Path) -> None:
    def ms(network: Network) -> float:
        return 1.15 * predicted(network)

    whole_device = Device(ms)
    whole = verify(found_in(problem()), compare=whole_device)
    assert len(whole_device.sessions) > 1

    class Stops(Device):
        def __call__(self, networks: Sequence[Network], **options: Any) -> NetworkComparison:
            if len(self.sessions) == 1:
                raise KeyboardInterrupt
            return super().__call__(networks, **options)

    with pytest.raises(KeyboardInterrupt):
        verify(found_in(problem()), compare=Stops(ms), folder=tmp_path)
    device = Device(ms)
    found, verification = verify(found_in(problem()), compare=device, folder=tmp_path)
    assert len(device.sessions) == len(whole_device.sessions) - 1
    assert (found.vectors, verification) == (whole[0].vectors, whole[1])
    # Of another budget nothing is taken from there.
    other = Device(ms)
    verify(found_in(problem(ms=2.0)), compare=other, folder=tmp_path)
    assert len(other.sessions[0]) > 1
    (tmp_path / "verification.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"verification\.json is damaged"):
        verify(found_in(problem()), compare=Device(ms), folder=tmp_path)


def test_what_a_file_says_is_of_networks_of_the_space(tmp_path: Path) -> None:
    from msgspec.json import decode, encode
    from msgspec.structs import replace as changed

    from search._runs._verify import _Kept

    path = tmp_path / "verification.json"
    verify(found_in(problem()), compare=Device(predicted), folder=tmp_path)
    kept = decode(path.read_bytes(), type=_Kept)
    first = kept.rounds[0]
    network = first.networks[0]
    for odd in (
        changed(network, vector=(9,) * 8),
        changed(network, vector=(0,)),
        changed(network, timed=changed(network.timed, ms=0.0)),
        changed(network, timed=changed(network.timed, high_ms=1e300)),
        changed(network, timed=changed(network.timed, low_ms=0.0)),
        changed(network, timed=changed(network.timed, day_low_ms=-1.0)),
        changed(network, timed=changed(network.timed, raw_ms=0.0)),
        changed(network, speed_up=(1.0, 0.0, 2.0)),
    ):
        altered = changed(kept, rounds=(changed(first, networks=(odd, *first.networks[1:])),))
        # With the hash that belongs to what it says now.
        path.write_bytes(encode(changed(altered, sha256=altered.digest())))
        with pytest.raises(CheckpointError, match=r"verification\.json is damaged"):
            verify(found_in(problem()), compare=Device(predicted), folder=tmp_path)


def test_a_session_that_fails_is_told() -> None:
    def broken(*_: Any, **__: Any) -> NetworkComparison:
        raise IncompleteError("too much noise")

    with pytest.raises(IncompleteError, match="too much noise"):
        verify(found_in(problem()), compare=broken)
    with pytest.raises(UsageError, match="budget of ms"):
        verify(found_in(problem(ms=None, madds=60e6)), compare=broken)


def test_a_search_that_knows_one_network_has_nothing_to_repair_with() -> None:
    vector = (1, 0, 1, 0, 0, 1, 0, 0)
    device = Device(lambda network: 1.5 * predicted(network))
    given = problem(ms=1.05 * predicted(NasBenchMacro().decode(vector)))
    with pytest.raises(BudgetError, match="in 1 session:"):
        verify(found_in(given, Evaluated({vector: 0.7})), compare=device)
    assert [len(session) for session in device.sessions] == [2]


def test_other_budgets_still_hold_after_a_repair() -> None:
    given = problem(ms=3.5, parameters=0.9e6)
    found, verification = verify(found_in(given), compare=Device(lambda network: 1.1 * predicted(network)))
    assert found.networks[0].parameters <= 0.9e6
    assert all(given.network(one.vector).parameters <= 0.9e6 for one in verification.networks)


def test_a_predictor_is_taught_where_its_calibration_is_known() -> None:
    """Wholes of this device take more than their sums by a law that no calibration has."""
    space = NasBenchMacro()
    plain = LatencyPredictor.from_latencies(DEVICE, SETTING, {layer: layer_ms(layer) for layer in space.layers()})
    given = Problem(space, plain, ms=2.5, bound="predicted")

    def ms(network: Network) -> float:
        return network_ms(network) * (1 + 2e-4 * len(network.layers) ** 2)

    calibrating = Device(ms)
    calibrated = given.calibrated(count=12, seconds=1.0, compare=calibrating)
    assert [len(session) for session in calibrating.sessions] == [12]
    assert [known for _, known in calibrated.calibration] == [ms(network) for network, _ in calibrated.calibration]
    found, _ = verify(found_in(calibrated), compare=Device(ms))
    assert ms(found.networks[0]) <= 2.5
    # The other networks that the predictor was calibrated on are not forgotten.
    assert found.problem.predictor is not None
    network, known = calibrated.calibration[0]
    assert found.problem.predictor.latency_ms(network) == pytest.approx(known, rel=0.1)


def test_logits_derive_again_without_training() -> None:
    rng = np.random.default_rng(1)
    logits = Logits([rng.dirichlet(np.ones(len(d.options))) for d in resnets().choices])
    given = Problem(resnets(), resnets_predictor(), ms=0.85 * widest_ms())
    first = logits.candidates(given, 3)
    assert len(first) >= 2
    assert all(a.value >= b.value for a, b in itertools.pairwise(first))
    assert all(given.fits(candidate.vector) for candidate in first)

    start = Found("htas", given, first[:1], logits, 0, 0.0)
    slower = 1.02 * 0.85 * widest_ms() / resnets_predictor().latency_ms(start.networks[0])

    def ms(network: Network) -> float:
        return slower * resnets_predictor().latency_ms(network)

    found, verification = verify(start, compare=Device(ms))
    assert (1 + HALF_WIDTH) * ms(found.networks[0]) <= 0.85 * widest_ms()
    assert verification.chosen != verification.first_choice
    assert found.values[0] < first[0].value


def test_candidates_are_the_best_that_fit_each_network_once() -> None:
    given = problem()
    knowledge = Evaluated({**values(), (0, 0, 0, 1, 0, 0, 0, 0): 2.0, (0, 0, 0, 0, 1, 0, 0, 0): 2.0})
    found = knowledge.candidates(given, 5)
    assert len({candidate.vector for candidate in found}) == 5
    assert found[0].value == 2.0
    # Empty positions stand last in a stage: the two names are one network.
    assert found[0].vector == given.canonical((0, 0, 0, 1, 0, 0, 0, 0))
    assert found[1].value < 2.0
    assert knowledge.candidates(problem(ms=0.42), 5) == ()


def test_networks_are_measured_from_python_beside_their_budget() -> None:
    given = problem()
    networks = [NasBenchMacro().decode(v) for v in ((0,) * 8, (1,) * 8, (2,) * 8)]
    found = measure(given, networks, compare=Device(predicted))
    assert found.verdicts == ("within", "beyond" if predicted(networks[1]) > BUDGET else "within", "beyond")
    text = str(found)
    assert "budget 2.5 ms" in text
    assert text.count("within the budget") + text.count("exceeds the budget") == 3
    assert [one.prediction_error for one in found.networks] == pytest.approx([0.0] * 3)
    # Equal names are told apart.
    twice = measure(given, [networks[0]] * 2, compare=Device(predicted))
    assert [one.name for one in twice.networks] == ["00000000 1", "00000000 2"]
    assert measure(problem(ms=None), networks, compare=Device(predicted)).verdicts == (None,) * 3
    with pytest.raises(UsageError, match="needs the predictor"):
        measure(Problem(NasBenchMacro()), networks, compare=Device(predicted))

"""Networks that were measured before bring a session to the speed at which they are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from _predictors import network_ms
from test_verify import BUDGET, Device, found_in, problem

from lut import Network
from lut.errors import IncompleteError
from profiler._compare import NetworkComparison
from search import Problem, measure, verify
from search._runs._anchors import ANCHORS, Anchor, anchors_for, at_known_speed, speed_of
from search._runs._timed import TimedNetwork, taken_together
from search.spaces import NasBenchMacro


class Sessions(Device):
    """Each session of it is slower than the table by a factor of its own; beside that, networks differ by noise."""

    def __init__(self, slower: Sequence[float], noise: float = 0.0, seed: int = 0) -> None:
        super().__init__(network_ms)
        self.slower, self.noise, self.seed = slower, noise, seed

    def __call__(self, networks: Sequence[Network], **options: Any) -> NetworkComparison:
        number = len(self.sessions)
        factor, rng = self.slower[min(number, len(self.slower) - 1)], np.random.default_rng([self.seed, number])
        self.ms = lambda network: network_ms(network) * factor * exp(self.noise * float(rng.normal()))
        return super().__call__(networks, **options)


def calibrated(slower: float = 1.0) -> Problem:
    return problem().calibrated(count=24, seconds=1.0, compare=Sessions([slower]))


def timed(ms: float, half: float = 0.01) -> TimedNetwork:
    ends = (ms * exp(-half), ms * exp(half))
    return TimedNetwork("one", ms, *ends, 1.1 * ms, ms * exp(-3 * half), ms * exp(3 * half), ms, 1.05 * ms)


@pytest.mark.parametrize("slower", [0.9, 1.08, 1.3])
def test_a_slower_session_changes_nothing(slower: float) -> None:
    given = calibrated()
    calm, _ = verify(found_in(given), compare=Sessions([1.0]))
    found, verification = verify(found_in(given), compare=Sessions([slower, 1 / slower, slower]))
    assert found.vectors == calm.vectors
    seen = verification.checked(found.vectors[0])
    assert seen is not None
    assert seen.timed.ms == pytest.approx(network_ms(found.networks[0]), rel=1e-9)
    # As the clock gave it, over both sessions.
    assert seen.timed.raw_ms == pytest.approx(1.02 * seen.timed.ms, rel=1e-9)
    assert [done.speed.slower for done in verification.rounds if done.speed] == pytest.approx(
        [slower, 1 / slower, slower][: len(verification.rounds)]
    )
    # The predictor does not learn the session's speed either.
    assert found.problem.predictor is not None
    assert found.problem.margin == pytest.approx(1.0, abs=0.03)


def test_without_a_calibration_a_session_stands_as_it_was_measured() -> None:
    found, verification = verify(found_in(problem()), compare=Sessions([1.05, 1.05]))
    assert all(done.speed is None and not done.anchors for done in verification.rounds)
    seen = verification.checked(found.vectors[0])
    assert seen is not None
    assert seen.timed.ms == pytest.approx(1.05 * network_ms(found.networks[0]))


def test_what_sessions_differ_by_is_allowed_for() -> None:
    """Networks differ by 2 % from session to session beyond what all have in common; still the true latency is within.

    The best of several that were measured is the luckiest: by medians alone half of them would be beyond.
    """
    given = calibrated()
    taken = []
    for seed in range(6):
        device = Sessions([Random(seed).uniform(0.9, 1.1) for _ in range(4)], noise=0.02, seed=seed)
        found, _ = verify(found_in(given), compare=device)
        taken.append(network_ms(found.networks[0]))
    assert max(taken) <= BUDGET
    # Not for being far below it.
    assert max(taken) > 0.93 * BUDGET


def test_networks_are_measured_at_the_speed_of_the_calibration() -> None:
    given = calibrated()
    networks = [NasBenchMacro().decode(v) for v in ((0,) * 8, (1,) * 8)]
    found = measure(given, networks, compare=Sessions([1.2]))
    assert [one.ms for one in found.networks] == pytest.approx([network_ms(network) for network in networks])
    assert [one.name for one in found.networks] == ["00000000", "11111111"]


def test_anchors_are_networks_of_about_the_budget_and_none_that_is_measured_anyway() -> None:
    given = calibrated()
    found = anchors_for(given, [])
    assert len(found) == ANCHORS
    distances = [abs(np.log(ms / BUDGET)) for _, ms in given.calibration]
    assert [abs(np.log(ms / BUDGET)) for _, ms in found] == pytest.approx(sorted(set(distances))[:ANCHORS])
    others = anchors_for(given, [network for network, _ in found])
    assert {network.layers for network, _ in others}.isdisjoint({network.layers for network, _ in found})
    assert anchors_for(given.replace(calibration=given.calibration[:2]), []) == []
    assert anchors_for(problem(), []) == []


def test_what_a_search_selected_is_no_anchor() -> None:
    given = calibrated()
    found, _ = verify(found_in(given), compare=Sessions([1.0]))
    assert len(found.problem.calibration) > len(given.calibration)
    assert found.problem.anchors == given.anchors == given.calibration
    assert found.problem.replace(ms=2.0).anchors == given.anchors
    # Of another calibration they are others.
    again = found.problem.calibrated(count=12, seconds=1.0, compare=Sessions([1.0]))
    assert again.anchors == again.calibration
    # One that was drawn twice counts once, by its mean.
    network, ms = given.calibration[0]
    twice = given.replace(calibration=(*given.calibration[1:3], (network, ms), (network, 1.21 * ms)))
    (seen,) = [known for one, known in anchors_for(twice, []) if one.layers == network.layers]
    assert seen == pytest.approx(1.1 * ms)


def test_a_session_that_is_too_short_for_all_measures_the_best() -> None:
    """Where not all networks could be measured, one is beside fewer anchors, and at last beside none."""

    class Short(Sessions):
        def __init__(self, most: int) -> None:
            super().__init__([1.0])
            self.most = most

        def __call__(self, networks: Sequence[Network], **options: Any) -> NetworkComparison:
            if len(networks) > self.most:
                raise IncompleteError("no time for all")
            return super().__call__(networks, **options)

    first = found_in(calibrated())
    for most, asked in ((5, 3), (2, 0)):
        device = Short(most)
        found, verification = verify(first, compare=device)
        assert found.vectors[0] == first.vectors[0]
        assert [len(networks) for networks in device.sessions] == [2 + asked] * 2
        assert [len(done.anchors) for done in verification.rounds] == [asked] * 2
        assert len(verification.sessions_of(found.vectors[0])) == 2
    with pytest.raises(IncompleteError):
        verify(first, compare=Short(1))


def test_the_next_best_are_measured_twice_too() -> None:
    """They may become the result, where finalists are evaluated again."""
    _, verification = verify(found_in(calibrated()), compare=Sessions([1.0]))
    within = [one for one in verification.networks if one.timed.verdict(BUDGET, "reference-speed") == "within"]
    within.sort(key=lambda one: -one.value)
    assert len(within) >= 2
    assert [len(verification.sessions_of(one.vector)) for one in within[:2]] == [2, 2]


def test_a_speed_is_the_mean_of_its_anchors() -> None:
    anchors = [Anchor(2.0, 2.0 * factor) for factor in (1.02, 1.04, 1.06)]
    speed = speed_of(anchors)
    assert speed is not None
    assert speed.slower == pytest.approx(np.cbrt(1.02 * 1.04 * 1.06))
    scatter = np.std(np.log([1.02, 1.04, 1.06]), ddof=1)
    assert speed.scatter == pytest.approx(scatter)
    # Student's t of two degrees of freedom.
    assert speed.half_width == pytest.approx(4.302653 * scatter / np.sqrt(3), rel=1e-6)
    assert speed_of(anchors[:2]) is None
    brought = at_known_speed(timed(3.0), speed)
    assert brought.ms == pytest.approx(3.0 / speed.slower)
    half = np.log(brought.high_ms / brought.ms)
    assert half == pytest.approx(np.hypot(speed.half_width, 1.959964 * scatter / np.sqrt(2)), rel=1e-6)
    assert np.log(brought.ms / brought.low_ms) == pytest.approx(half)
    # What a session says of itself is a part of what sessions differ by, unless it is more.
    unsure = at_known_speed(timed(3.0, 0.2), speed)
    assert np.log(unsure.high_ms / unsure.ms) == pytest.approx(np.hypot(speed.half_width, 0.2), rel=1e-6)
    assert brought.raw_ms == timed(3.0).raw_ms
    assert brought.day_high_ms >= brought.high_ms


def test_several_sessions_count_alike() -> None:
    first, second = timed(2.0, 0.03), timed(2.01, 0.04)
    both = taken_together([first, second])
    assert both.ms == pytest.approx(np.sqrt(2.0 * 2.01))
    assert np.log(both.high_ms / both.ms) == pytest.approx(0.025)
    assert np.log(both.ms / both.low_ms) == pytest.approx(0.025)
    # Another day is no surer for that.
    assert np.log(both.day_high_ms / both.ms) == pytest.approx(3 * 0.035)
    # What was predicted before anything was measured.
    assert (both.predicted_ms, both.bound_ms) == (first.predicted_ms, first.bound_ms)
    assert taken_together([first]) is first
    # Sessions that differ by more than they say of themselves.
    apart = taken_together([first, timed(2.2, 0.04)])
    half = 1.959964 * np.log(2.2 / 2.0) / np.sqrt(2) / np.sqrt(2)
    assert np.log(apart.high_ms / apart.ms) == pytest.approx(half, rel=1e-6)
    assert np.log(apart.ms / apart.low_ms) == pytest.approx(half, rel=1e-6)


def test_the_speed_is_kept_with_the_session(tmp_path: Path) -> None:
    given = calibrated()
    _, first = verify(found_in(given), compare=Sessions([1.1]), folder=tmp_path)
    _, again = verify(found_in(given), compare=Sessions([9.0]), folder=tmp_path)
    assert again == first
    assert first.rounds[0].speed is not None


def test_a_problem_by_its_prediction_is_made_once() -> None:
    given = problem()
    assert given.by_prediction is given.by_prediction
    assert given.by_prediction.bound == "predicted"
    assert given.by_prediction.by_prediction is given.by_prediction
    plain = replace(given.predictor) if given.predictor is not None else None
    assert Problem(given.space, plain, madds=60e6).by_prediction.budgets.madds == 60e6

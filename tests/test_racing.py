"""Racing: the widths between which a choice is open are measured longer, and the choice is the surer for it."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from conftest import conv, curve_of

from lut import ChannelCurve, Layer, UsageError
from profiler import FakeTarget, profile
from profiler._plan import RACING_VISITS, Plan, make_protocol, next_round
from profiler._racing import Race, contenders, races_of
from profiler._session import run_session
from profiler._worker import LocalWorker

RACE = Race(tuple(range(16)), tuple(range(1, 17)), 2)


def known(ms: list[float], error: float) -> dict[int, tuple[float, float]]:
    return {entry: (value, error) for entry, value in enumerate(ms)}


def stairs(*, low: dict[int, float]) -> list[float]:
    """Return latencies on a line, but for some entries that are below it."""
    return [1.0 + 0.1 * i - low.get(i, 0.0) for i in range(16)]


def test_what_is_decided_is_not_raced() -> None:
    assert contenders([RACE], known(stairs(low={3: 0.5, 12: 0.5}), 0.05)) == frozenset()


def test_those_that_may_be_best_are_raced() -> None:
    found = contenders([RACE], known(stairs(low={3: 0.5, 6: 0.45, 12: 0.5}), 0.05))
    assert found == {3, 6}
    # With less noise, the same two are told apart.
    assert contenders([RACE], known(stairs(low={3: 0.5, 6: 0.45, 12: 0.5}), 0.01)) == frozenset()


def test_neighbours_on_a_stair_are_one_choice() -> None:
    assert contenders([RACE], known(stairs(low={3: 0.5, 4: 0.49, 12: 0.5}), 0.05)) == frozenset()
    every_fourth = Race(RACE.entries, tuple(4 * width for width in RACE.channels), 2)
    assert contenders([every_fourth], known(stairs(low={3: 0.5, 4: 0.49, 12: 0.5}), 0.05)) == {3, 4}


def test_the_law_that_is_asked_for_says_what_is_open() -> None:
    ms = [1.0 + 0.1 * width**0.5 for width in RACE.channels]
    # By the law that they follow, all widths are equally good; by a straight line, the curve's ends are best.
    assert contenders([RACE], known(ms, 1e-4)) == frozenset()
    assert len(contenders([RACE._replace(alpha=0.5)], known(ms, 1e-4))) == 12
    assert len(contenders([RACE._replace(alpha="auto")], known(ms, 1e-4))) == 12
    curve = curve_of(range(1, 9))
    number = {layer: i for i, layer in enumerate(curve.layers)}
    assert races_of([curve], number, 4, "auto")[0].alpha == "auto"


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), "best"])
def test_a_law_that_is_none_is_refused_before_anything_is_measured(alpha: Any) -> None:
    with pytest.raises(UsageError, match="is a positive number or 'auto'"):
        profile([conv(8)], target="fake", alpha=alpha)


def test_few_of_many_are_raced() -> None:
    found = contenders([RACE], known(stairs(low={}), 0.5))
    assert 2 < len(found) <= 12


def test_what_is_not_known_is_left_out() -> None:
    assert contenders([RACE], {}) == frozenset()
    assert contenders([RACE], {0: (1.0, 0.1), 1: (1.0, 0.1)}) == frozenset()
    some = {entry: value for entry, value in known(stairs(low={3: 0.5, 6: 0.48}), 0.05).items() if entry < 8}
    assert contenders([RACE], some) >= {3, 6}
    failed = {
        entry: value for entry, value in known(stairs(low={3: 0.5, 6: 0.48, 12: 0.5}), 0.05).items() if entry != 6
    }
    assert contenders([RACE], failed) == frozenset()


def test_sweeps_with_fewer_widths_than_groups_have_no_race() -> None:
    curve = curve_of(range(1, 9))
    number = {layer: i for i, layer in enumerate(curve.layers)}
    assert races_of([curve], number, 8) == ()
    (race,) = races_of([curve], number, 4)
    assert race == Race(tuple(range(8)), tuple(range(1, 9)), 4)


def test_a_sweep_that_is_not_measured_has_no_race() -> None:
    curve = curve_of(range(1, 20))
    assert races_of([curve], {layer: i for i, layer in enumerate(curve.layers[:-1])}, 8) == ()


def test_a_round_goes_to_them_more_often_but_not_to_them_alone() -> None:
    counts = dict.fromkeys(range(100), 12)
    order = next_round(range(100), counts, {}, make_protocol(), random.Random(0), racing=[3, 5])
    visits = Counter(entry for entry in order if entry >= 0)
    assert visits[3] >= RACING_VISITS
    assert visits[5] >= RACING_VISITS
    everyone = next_round(
        range(40), dict.fromkeys(range(40), 12), {}, make_protocol(), random.Random(0), racing=range(40)
    )
    assert len([entry for entry in everyone if entry >= 0]) == 64


def visits_of(curve: ChannelCurve, groups: int | None, budget_s: float) -> tuple[Counter[int], FakeTarget]:
    layers: tuple[Layer, ...] = curve.layers
    target = FakeTarget(sigma=0.06, tile=8, seed=3)
    plan = Plan("fake", {}, layers, make_protocol(precision=0.002, time_budget_s=budget_s))
    origin = target.clock()
    result = run_session(
        plan,
        lambda process: LocalWorker(target, layers, plan.protocol, process=process, origin=origin),
        None,
        races=() if groups is None else races_of([curve], {layer: i for i, layer in enumerate(layers)}, groups),
        clock=target.clock,
    )
    return Counter(visit.entry for visit in result.visits), target


def test_a_session_gives_contenders_the_visits_that_decide() -> None:
    curve = curve_of(range(1, 65))
    plain, _ = visits_of(curve, None, 3.0)
    raced, target = visits_of(curve, 4, 3.0)
    truth = np.array([target.true_ms(conv(width)) for width in range(1, 65)])
    scores = np.polyval(np.polyfit(range(1, 65), truth, 1), range(1, 65)) - truth
    # The last width of a stair is the best of its stair; in each group two of them come close.
    best = {int(group[np.argmax(scores[group])]) for group in np.array_split(np.arange(64), 4)}
    share = {
        name: sum(counts[entry] for entry in best) / sum(n for entry, n in counts.items() if entry >= 0)
        for name, counts in (("plain", plain), ("raced", raced))
    }
    assert share["raced"] > 1.25 * share["plain"]

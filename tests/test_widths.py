"""Hardware-aware widths: the paper's equations, its Table 2's structure, and how sure each choice is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import curve_of

from lut import LatencyTable, TableError, UsageError
from predictors import hardware_aware_widths, measured_curves
from predictors._widths import MeasuredCurve

MakeTable = Callable[..., LatencyTable]

# HTAS, Table 2.
TABLE_2 = [
    (32, (4, 5, 12, 16, 20, 24, 27, 32)),
    (64, (8, 13, 20, 27, 35, 45, 52, 64)),
    (128, (15, 20, 46, 50, 70, 92, 107, 128)),
    (32, (4, 6, 12, 16, 20, 24, 28, 32)),
    (64, (6, 16, 24, 32, 40, 48, 56, 64)),
    (128, (16, 32, 47, 64, 80, 96, 112, 128)),
]


def curve(ms: list[float], *, noise: float = 0.0, visits: int = 12, seed: int = 0) -> MeasuredCurve:
    rng = np.random.default_rng(seed)
    drawn = [tuple((m * np.exp(rng.normal(0, noise, visits))).tolist()) for m in ms]
    medians = tuple(float(np.median(v)) for v in drawn)
    return MeasuredCurve(
        "stage 1",
        "32×32",
        len(ms) // 2,
        tuple(range(1, len(ms) + 1)),
        medians,
        medians,
        medians,
        tuple(drawn),
        (0.0,) * len(ms),
    )


def staircase(n: int, tile: int) -> list[float]:
    return [0.1 + 0.02 * -(-x // tile) * tile for x in range(1, n + 1)]


@pytest.mark.parametrize(("n", "published"), TABLE_2)
def test_groups_are_those_of_table_2(n: int, published: tuple[int, ...]) -> None:
    selection = hardware_aware_widths(curve(staircase(n, 8)))
    groups = [(choice.first, choice.last) for choice in selection.choices]
    assert [first <= width <= last for (first, last), width in zip(groups, published, strict=True)] == [True] * 8
    assert [last - first + 1 for first, last in groups] == [n // 8] * 8


def test_a_staircase_gives_the_upper_ends_of_its_steps() -> None:
    selection = hardware_aware_widths(curve(staircase(64, 8), noise=0.003))
    assert selection.widths == (8, 16, 24, 32, 40, 48, 56, 64)
    assert all(choice.chosen_share > 0.9 for choice in selection.choices)
    assert all(choice.margin_in_noise is not None and choice.margin_in_noise > 2 for choice in selection.choices)
    assert selection.law.k_ == pytest.approx(0.02, rel=0.02)


def test_scores_are_equation_2() -> None:
    selection = hardware_aware_widths(curve(staircase(32, 8)), alpha=1.0)
    x = np.arange(1, 33)
    expected = selection.law.k_ * x + selection.law.b_ - np.array(staircase(32, 8))
    assert selection.scores_ms == pytest.approx(expected.tolist())
    for choice in selection.choices:
        inside = expected[choice.first - 1 : choice.last]
        assert choice.score_ms == pytest.approx(inside.max())
        assert choice.channels == choice.first + int(inside.argmax())


def test_choices_without_a_difference_are_called_unsure() -> None:
    # On a straight line every width scores alike, so noise decides.
    selection = hardware_aware_widths(curve([0.1 + 0.02 * x for x in range(1, 65)], noise=0.02))
    assert np.mean([choice.chosen_share for choice in selection.choices]) < 0.75
    assert np.median([choice.margin_in_noise or 0.0 for choice in selection.choices]) < 2


def test_the_uniform_grid_stands_beside_each_choice() -> None:
    selection = hardware_aware_widths(curve(staircase(32, 5)))
    assert [choice.uniform_channels for choice in selection.choices] == [4, 8, 12, 16, 20, 24, 28, 32]
    for choice in selection.choices:
        assert choice.uniform_ms == pytest.approx(staircase(32, 5)[choice.uniform_channels - 1])
        assert choice.uniform_score_ms is not None
        assert choice.score_ms >= choice.uniform_score_ms


def test_uneven_groups_are_contiguous_and_cover_all() -> None:
    choices = hardware_aware_widths(curve(staircase(30, 4)), groups=8).choices
    assert [c.first for c in choices][1:] == [c.last + 1 for c in choices][:-1]
    assert (choices[0].first, choices[-1].last) == (1, 30)
    assert {c.last - c.first + 1 for c in choices} == {3, 4}


def test_one_width_per_group_has_no_runner_up() -> None:
    choice = hardware_aware_widths(curve(staircase(8, 4)), groups=8).choices[0]
    assert (choice.runner_up, choice.margin_ms, choice.margin_in_noise) == (None, None, None)


def test_the_same_seed_gives_the_same_certainty() -> None:
    made = curve(staircase(32, 8), noise=0.05)
    assert hardware_aware_widths(made, seed=4).choices == hardware_aware_widths(made, seed=4).choices


@pytest.mark.parametrize("arguments", [{"groups": 0}, {"groups": 33}, {"resamples": -1}, {"alpha": -1.0}])
def test_senseless_arguments(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        hardware_aware_widths(curve(staircase(32, 8)), **arguments)  # type: ignore[arg-type]


def test_widths_that_were_not_measured_are_never_chosen(make_table: MakeTable) -> None:
    table = make_table()
    full = curve_of(range(1, 33))
    holes = table.select(lambda m: m.layer.output_shape[0] not in (8, 16))
    holed = LatencyTable(
        device=holes.device, setting=holes.setting, sessions=holes.sessions, measurements=holes.values(), curves=[full]
    )
    (measured,) = measured_curves(holed)
    selection = hardware_aware_widths(measured)
    assert not {8, 16} & set(selection.widths)
    # The groups stay those of the whole space.
    assert [c.last for c in selection.choices] == [4, 8, 12, 16, 20, 24, 28, 32]
    empty = LatencyTable(
        device=holes.device,
        setting=holes.setting,
        sessions=holes.sessions,
        measurements=[m for m in holes.values() if m.layer.output_shape[0] > 4],
        curves=[full],
    )
    with pytest.raises(TableError, match=r"none of the widths 1 … 4 was measured"):
        hardware_aware_widths(measured_curves(empty)[0])


def test_expand_narrows_the_space(make_table: MakeTable) -> None:
    table = make_table()
    (narrow,) = measured_curves(table, expand=1.5)
    assert narrow.channels == tuple(range(1, 25))
    with pytest.raises(UsageError, match="asks for 48 channels"):
        measured_curves(table, expand=3.0)
    with pytest.raises(UsageError, match="leaves no width"):
        measured_curves(table, expand=0.01)


def test_a_table_without_curves_is_said(make_table: MakeTable) -> None:
    table = make_table()
    bare = LatencyTable(
        device=table.device, setting=table.setting, sessions=table.sessions, measurements=table.values()
    )
    with pytest.raises(TableError, match="no channel curves"):
        measured_curves(bare)

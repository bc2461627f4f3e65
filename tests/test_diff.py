"""Comparing tables: verdicts at a family-wise level, and no comparison of unlike things."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lut import LatencyTable, TableError, UnlikeTablesError, UsageError, compare_tables
from lut._diff import _holm

MakeTable = Callable[..., LatencyTable]


def test_the_same_machine_is_never_called_different(make_table: MakeTable, tmp_path: Path) -> None:
    reference = tmp_path / "r.json"
    first = make_table(reference=reference, seed=1, process_sigma=0.01)
    second = make_table(reference=reference, seed=2, process_sigma=0.01)
    difference = compare_tables(first, second, margin=0.15)
    assert difference.count("slower") == difference.count("faster") == 0
    assert difference.count("same") > 16
    assert difference.common_factor == pytest.approx(1.0, abs=0.02)


def test_a_layer_that_changed_is_found(make_table: MakeTable, tmp_path: Path) -> None:
    # With a larger tile, widths 9 … 12 do the work of 16: the others keep theirs.
    reference = tmp_path / "r.json"
    first = make_table(range(1, 33), reference=reference, tile=4, ms_per_gmadd=100.0)
    second = make_table(range(1, 33), reference=reference, tile=16, ms_per_gmadd=100.0, seed=3)
    verdicts = {d.layer.output_shape[0]: d.verdict for d in compare_tables(first, second).layers}
    assert {verdicts[w] for w in (5, 6, 7, 8, 17, 18)} == {"slower"}
    assert "slower" not in {verdicts[w] for w in (13, 14, 15, 16, 29, 30, 31, 32)}
    back = {d.layer.output_shape[0]: d.verdict for d in compare_tables(second, first).layers}
    assert back[5] == "faster"


def test_unlike_tables_are_refused(make_table: MakeTable) -> None:
    with pytest.raises(UnlikeTablesError, match="cannot compare"):
        compare_tables(make_table(range(1, 5)), make_table(range(1, 5), batch=1))


def test_nothing_in_common(make_table: MakeTable) -> None:
    with pytest.raises(TableError, match="no layer in common"):
        compare_tables(make_table(range(1, 5)), make_table(range(5, 9)))


@pytest.mark.parametrize("arguments", [{"level": 1.0}, {"level": 0.0}, {"margin": 0.0}, {"margin": 2.0}])
def test_senseless_arguments(make_table: MakeTable, arguments: dict[str, float]) -> None:
    table = make_table(range(1, 5))
    with pytest.raises(UsageError):
        compare_tables(table, table, **arguments)


def test_holm_against_the_textbook() -> None:
    assert _holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert _holm([0.2, 0.3], 0.05) == [False, False]

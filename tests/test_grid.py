"""Tables on a terminal and off it: a number is shown whole or not at all, and what is not shown is named."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from lut._grid import Column, Grid, print_grid
from lut._terminal import DataConsole

COLUMNS = (
    *(Column("layer", text=True), Column("ms"), Column("within run", 2), Column("across runs", 1)),
    *(Column("visits", 3), Column("flags", 4, left=True)),
)
ROWS = (
    ("conv3×3 16→113 +bn +relu @32×32", "113.4", "113.1–113.7", "112.9–114.2", "32 −2", "converged bimodal"),
    ("linear 64→10", "0.4375", "0.4361–0.4401", "0.4307–0.4419", "8", ""),
)
GRID = Grid(COLUMNS, ROWS)


def shown(grid: Grid, width: int | None, *, elsewhere: str | None = None, again: bool = True) -> list[str]:
    console = DataConsole(stderr=False, soft_wrap=width is None)
    console.file = io.StringIO()
    console.width = 40 if width is None else width
    print_grid(console, grid, elsewhere=elsewhere, again=again)
    return str(console.file.getvalue()).splitlines()


def test_off_a_terminal_nothing_is_cut_wrapped_or_dropped() -> None:
    lines = shown(GRID, None)
    assert len(lines) == 1 + len(ROWS)
    assert all(cell in line for row, line in zip(ROWS, lines[1:], strict=True) for cell in row)
    assert lines[0].split("  ")[0] == "layer"
    assert not any(line.endswith(" ") for line in lines)


@given(st.integers(32, 140))
def test_a_number_is_whole_or_its_column_is_named(width: int) -> None:
    lines = shown(GRID, width)
    text = " ".join(" ".join(lines).split())
    named = re.search(r"too narrow for (.*): a window of (\d+) columns or --json shows them", text)
    missing = [] if named is None else named.group(1).split(", ")
    for i, column in enumerate(COLUMNS[1:], 1):
        whole = all(any(f" {row[i]}" in line or line.startswith(row[i]) for line in lines) for row in ROWS)
        assert whole != (column.title in missing), column
    assert "…" not in text
    if named is not None:
        assert not re.search("too narrow", " ".join(shown(GRID, int(named.group(2)))))
        assert width < int(named.group(2))


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(cell_len, shown(GRID, width))) <= width


def test_the_least_important_go_first_and_together() -> None:
    pairs = Grid((Column("own"), Column("other", 1), Column("its ms", 1), Column("note", 2)), (("1", "2", "3", "4"),))
    assert shown(pairs, 24)[0].split() == ["own", "other", "its", "ms", "note"]
    assert shown(pairs, 20)[0].split() == ["own", "other", "its", "ms"]
    assert shown(pairs, 17)[0] == "own"
    assert shown(pairs, 200)[-1].split() == ["1", "2", "3", "4"]


def test_what_takes_hours_is_not_advised_again() -> None:
    pairs = Grid((Column("own"), Column("other", 1)), (("1" * 90, "2" * 20),))

    def said(**places: Any) -> str:
        return " ".join(" ".join(shown(pairs, 100, **places)[2:]).split())

    assert said() == "too narrow for other: a window of 112 columns or --json shows them"
    assert said(again=False) == "too narrow for other"
    assert said(again=False, elsewhere="run/report.html") == "too narrow for other: run/report.html shows them"


def test_free_text_is_wrapped_between_words_and_shares_what_is_left() -> None:
    grid = Grid(
        (Column("layer", text=True), Column("operators", text=True), Column("ms")), (("a" * 70, "b c " * 9, "1.5"),)
    )
    lines = shown(grid, 60)
    assert "".join(line[:27].strip() for line in lines[1:]) == "a" * 70
    assert sum(line.count("b") for line in lines[1:]) == 9
    assert lines[1].endswith("1.5")


def test_a_long_name_moves_its_own_row_only() -> None:
    lines = shown(Grid((Column("layer", text=True), Column("ms")), (("x" * 500, "1.5"), ("y", "2.5"))), None)
    assert lines[1] == "x" * 500 + "  1.5"
    assert len(lines[2]) < 130


def test_cells_are_data() -> None:
    lines = shown(Grid((Column("layer", text=True), Column("ms")), (("[bold]\x1b[2J\nx", "1"),)), 60)
    assert lines[1].split() == ["[bold]\\x1b[2J\\nx", "1"]

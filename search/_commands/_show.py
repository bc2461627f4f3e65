"""What every search prints of what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lut._console import format_ms, styled
from lut._grid import Column, Grid, print_grid
from search._runs._compared import (
    SPEEDS,
    VERDICTS,
    checked_points,
    compared_networks,
    predicted_before,
    predicted_text,
    selection_text,
    value_texts,
)

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from search._runs._result import RunResult
    from search._runs._verify import Verification

__all__ = ["print_result"]


def print_result(console: Console, result: RunResult, report: Path) -> None:
    """Print the network found beside the base network; the report, a file, has what does not fit."""
    console.print()
    print_grid(console, _compared(result), elsewhere=str(report))
    console.print()
    for line in result.method.result_lines(result.found):
        console.print(line)
    if result.verification is not None:
        _print_budget(console, result, result.verification, report)
    _print_finalist(console, result)
    _print_latency(console, result)
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow")


def _compared(result: RunResult) -> Grid:
    """Return a table of the network found and the base network; columns of which nothing is known are left out."""
    depth = result.method.depth_name
    titles = ("", "predicted ms", "measured ms", "accuracy", "M madds", "M params", depth)
    rows = [
        (
            row.name,
            predicted_text(row.predicted_ms, row.bound_ms, up_to="≤"),
            "" if row.measured is None else format_ms(row.measured[0]),
            "" if row.trained is None else f"{row.trained.test_accuracy:.2%}",
            f"{row.madds / 1e6:.1f}",
            f"{row.parameters / 1e6:.3f}",
            str(row.depth),
        )
        for row in compared_networks(result)[:2]
    ]
    known = [number for number in range(len(titles)) if any(row[number] for row in rows)]
    dropped = {"M madds": 2, "M params": 1, depth: 3}
    return Grid(
        tuple(Column(titles[number], dropped.get(titles[number], 0), left=not titles[number]) for number in known),
        tuple(tuple(row[number] for number in known) for row in rows),
    )


def _print_budget(console: Console, result: RunResult, verification: Verification, report: Path) -> None:
    """Print what measuring said of the budget, and of each network measured."""
    found = verification.checked(result.problem.canonical(result.found.vectors[0]))
    if found is None:
        return
    timed = found.timed
    low, high = timed.interval(verification.holds)
    speed = SPEEDS[verification.holds]
    if (
        not all(done.at_reference or done.speed for done in verification.rounds)
        and verification.holds == "reference-speed"
    ):
        speed = "at this session's speed"
    measured = f"{format_ms(timed.ms)} ms ({format_ms(low)} … {format_ms(high)}) {speed}"
    budget = f"budget {format_ms(verification.budget_ms)} ms "
    if result.kept:
        share = f"{1 - high / verification.budget_ms:.1%} to spare"
        console.print(styled(budget, ("kept", "bold"), f": measured {measured}, {share}"))
    else:
        over = f"{high / verification.budget_ms - 1:.1%} over it at its upper end"
        console.print(
            styled(budget, ("not kept", "bold"), f" by any network measured: the nearest takes {measured}, {over}")
        )
        console.print("nothing was trained or exported")
    console.print(selection_text(result).removesuffix("."))
    print_grid(console, _checked(result), elsewhere=str(report))


def _checked(result: RunResult) -> Grid:
    """Return a table of the networks measured against the budget."""
    points = checked_points(result)
    rows = []
    for point in points:
        error = point.prediction_error
        rows.append(
            (
                f"{point.number}{f' {point.role}' if point.role else ''}",
                VERDICTS[point.verdict],
                format_ms(point.measured_ms),
                f"{format_ms(point.low_ms)} … {format_ms(point.high_ms)}",
                "–" if point.predicted_ms is None else format_ms(point.predicted_ms),
                "–" if error is None else f"{error:+.1%}",
            )
        )
    columns = (
        *(Column("network", left=True), Column("budget", left=True), Column("measured ms"), Column("interval", 3)),
        *(Column("predicted ms", 1), Column("error", 2)),
    )
    return Grid(columns, tuple(rows))


def _print_finalist(console: Console, result: RunResult) -> None:
    for one in result.finalists[:1]:
        was, now = value_texts([one.value, one.fresh])
        console.print(
            f"{len(result.finalists)} finalists evaluated again with another seed: the best has {now}, and had {was} "
            "when it was selected"
        )


def _print_latency(console: Console, result: RunResult) -> None:
    """Print how much faster the network found is, and what is to be said of its prediction."""
    measured = result.measured
    if measured is not None:
        up, predicted = measured.speed_up, predicted_before(result)[0]
        error = "" if predicted is None else f"; prediction error {predicted / measured.winner_ms - 1:+.1%}"
        console.print(
            styled(
                f"{result.base.name} takes ",
                (f"{up.value:.2f}", "bold"),
                f" times as long ({up.low:.2f} … {up.high:.2f} at 95 %){error}",
            )
        )
        for warning in measured.warnings:
            console.print(f"warning: {warning}", style="yellow")
    for prediction in result.found.predictions[:1]:
        for text in prediction.outside:
            console.print(f"warning: unlike the networks measured end to end: {text}", style="yellow")

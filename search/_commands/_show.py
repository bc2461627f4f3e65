"""What a search prints of what it is going to do, and of what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lut._console import format_ms, styled
from lut._grid import Column, Grid, print_grid

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from search._problem._cost import NetworkCost
    from search.htas._run import RunPlan, RunResult

__all__ = ["print_plan", "print_result"]


def print_plan(console: Console, plan: RunPlan, cost: NetworkCost, classes: int, warnings: Sequence[str]) -> None:
    """Print what is searched, and how, and what is to be known before."""
    from search._training._recipe import epochs_text

    predictor = cost.predictor
    console.print(styled((predictor.device.model, "bold"), f", {predictor.setting}"))
    base = cost.space.base_network()
    found = predictor.predict(base, level=plan.level)
    bound = f", up to {format_ms(found.high_ms)} at {found.level:.0%}" if found.high_ms is not None else ""
    console.print(f"base network {base.name}: {format_ms(found.ms)} ms{bound}, {base.madds / 1e6:.1f} M multiply-adds")
    for line in warnings:
        console.print(f"warning: {line}", style="yellow")
    kinds = {
        "hardware": "hardware-aware widths",
        "uniform": "a uniform grid of widths",
        "ratios": "TAS's width ratios",
        "base": "depths only",
    }
    console.print(f"searching {kinds[plan.widths]}:")
    for group, options in zip(cost.space.groups, plan.options, strict=True):
        console.print(f"  {group.name}, {group.size}×{group.size}: {', '.join(map(str, options))}")
    budget = "without a budget" if plan.budget_ms is None else f"within {plan.budget_ms:g} ms"
    console.print(f"{plan.strategy}, {budget}, {epochs_text(plan.search.recipe)} on {plan.data} ({classes} classes)")
    console.print(
        f"then the base network and the network found are each trained on {plan.data} for {epochs_text(plan.recipe)}"
    )


def print_result(console: Console, result: RunResult, report: Path) -> None:
    """Print the network found beside the base network; the report, a file, has what does not fit."""
    found, measured = result.search.prediction, result.measured
    columns = (
        *(Column("", left=True), Column("predicted ms"), Column("measured ms"), Column("accuracy")),
        *(Column("M madds", 2), Column("M params", 1), Column("layers", 3)),
    )
    bound = "" if found.high_ms is None else f" (≤ {format_ms(found.high_ms)})"
    rows: list[tuple[str, str, float | None, Any, Any]] = [
        (
            "found",
            f"{format_ms(found.ms)}{bound}",
            measured and measured.winner_ms,
            result.trained,
            result.search.network,
        ),
        (
            result.base.name,
            format_ms(result.base_predicted_ms),
            measured and measured.base_ms,
            result.base_trained,
            result.base,
        ),
    ]
    cells = tuple(
        (
            name,
            predicted,
            "–" if ms is None else format_ms(ms),
            f"{trained.test_accuracy:.2%}",
            f"{network.madds / 1e6:.1f}",
            f"{network.parameters / 1e6:.3f}",
            str(len(network.layers)),
        )
        for name, predicted, ms, trained, network in rows
    )
    console.print()
    print_grid(console, Grid(columns, cells), elsewhere=str(report))
    if measured is not None:
        up = measured.speed_up
        console.print()
        console.print(
            styled(
                "the base network takes ",
                (f"{up.value:.2f}", "bold"),
                f" times as long ({up.low:.2f} … {up.high:.2f} at 95 %); prediction error "
                f"{found.ms / measured.winner_ms - 1:+.1%}",
            )
        )
    for warning in (*result.warnings, *(() if measured is None else measured.warnings)):
        console.print(f"warning: {warning}", style="yellow")
    for text in found.outside:
        console.print(f"warning: unlike the networks measured end to end: {text}", style="yellow")

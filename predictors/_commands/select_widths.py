"""The command ``select-widths``: HTAS's choice of channels from a table, without measuring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lut._console import make_console, print_json, run_single_command, styled

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    run_single_command(select_widths)


def select_widths(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A lookup table, as profile-device writes it.")],
    groups: Annotated[
        int, typer.Option("--groups", min=1, max=2**31 - 1, help="Groups per stage; one width is chosen in each.")
    ] = 8,
    alpha: Annotated[
        str,
        typer.Option(
            "--alpha", metavar="NUMBER|auto", help="Exponent of the law f(x) = k·x^alpha + b; auto fits it in 0.05 … 3."
        ),
    ] = "1",
    loss: Annotated[str, typer.Option("--loss", metavar="squared|huber", help="How the law is fitted.")] = "squared",
    expand: Annotated[
        float | None,
        typer.Option("--expand", help="Widest layer, in multiples of the base width. Default: all measured."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**53, help="Seed of the resampling.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text.")] = False,
) -> None:
    """Choose the channel counts that this device likes, from a table that was measured before.

    A law is fitted to each stage's latency over its channels. In each of several groups of channel counts, the one
    whose latency lies lowest against the law is chosen (HTAS, equations 1 to 4). "margin" says by how many standard
    errors it beats the runner-up, "chosen" how often it wins when the measurements are resampled, and "uniform" what
    an evenly spaced grid would have taken.
    """
    from lut import LatencyTable
    from lut._grid import print_grid
    from lut._suggest import check_word
    from predictors._show import (
        SURE_SHARE,
        UNSURE_NOTE,
        choices_table,
        law_line,
        parse_alpha,
        selection_json,
        widths_table,
    )
    from predictors._widths import hardware_aware_widths, measured_curves

    check_word("--loss", loss, ("squared", "huber"))
    exponent = parse_alpha(alpha)
    table = LatencyTable.load(file)
    selections = [
        hardware_aware_widths(curve, groups=groups, alpha=exponent, loss=loss, seed=seed)  # type: ignore[arg-type]
        for curve in measured_curves(table, expand=expand)
    ]
    if json:
        print_json([selection_json(s) for s in selections])
        return
    console = make_console()
    console.print(styled((table.device.model, "bold"), f", {table.setting}"))
    console.print(f"g = {groups}, α = {alpha}")
    console.print()
    print_grid(console, widths_table(selections, hardware=table.device.kind.upper()), again=True)
    for selection in selections:
        console.print()
        console.print(styled((selection.curve.name, "bold"), f", {selection.curve.size}: {law_line(selection)}"))
        print_grid(console, choices_table(selection), again=True)
    if any(c.chosen_share < SURE_SHARE for s in selections for c in s.choices):
        console.print()
        console.print(UNSURE_NOTE)

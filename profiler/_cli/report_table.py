"""The command ``report-table``: a table as a page with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lut._console import print_line, run_single_command

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    run_single_command(report_table)


def report_table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A lookup table, as profile-device writes it.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the page goes. Default: beside the table."),
    ] = None,
    groups: Annotated[int, typer.Option("--groups", min=1, help="Groups of widths per stage (HTAS: g).")] = 8,
    alpha: Annotated[
        str,
        typer.Option("--alpha", metavar="NUMBER|auto", help="Exponent of the fitted law; auto fits it in 0.05 … 3."),
    ] = "1",
) -> None:
    """Draw a lookup table: staircases, fitted laws, chosen widths, the machine's drift, provenance.

    The page is one HTML file that needs nothing else, no network either.
    """
    from lut import LatencyTable, UsageError
    from lut._files import write_atomically
    from predictors import hardware_aware_widths, measured_curves
    from predictors._show import parse_alpha
    from profiler._cli._networks import network_gains
    from profiler._report import report_html, report_path

    exponent = parse_alpha(alpha)
    table = LatencyTable.load(file)
    output = output if output is not None else report_path(file)
    if output.exists() and output.samefile(file):
        raise UsageError(f"--output {output} is the table itself, which the page would replace; name another file")
    gains = network_gains(table)
    selections = (
        tuple(hardware_aware_widths(curve, groups=groups, alpha=exponent) for curve in measured_curves(table))
        if table.curves and not gains
        else ()
    )
    write_atomically(output, report_html(table, selections, gains, title=file.name).encode())
    print_line(f"report  {output}")

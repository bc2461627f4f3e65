"""The command ``fit-predictor``: tables in, a predictor for layers and networks that they do not hold out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lut._console import make_console, print_json, run_single_command, styled

if TYPE_CHECKING:
    from rich.console import Console

    from predictors._latency_predictor import LatencyPredictor

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    run_single_command(fit_predictor)


def fit_predictor(
    tables: Annotated[
        list[Path],
        typer.Argument(metavar="TABLE…", help="Lookup tables of one device and setting, see profile-device."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the predictor goes; replaced if it exists.")
    ] = Path("predictor"),
    failures: Annotated[
        str,
        typer.Option(
            "--failures",
            metavar="refuse|skip",
            help="What becomes of layers that could not be measured: nothing is fitted, or the others are.",
        ),
    ] = "refuse",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**53, help="Seed of all randomness.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fit a predictor to lookup tables.

    It answers for any layer and any network on the tables' device: with the measurement where there is one, with a
    prediction elsewhere, summed and calibrated on the networks that the tables were audited with, in an interval.

    Example: fit-predictor cpu-b4.json --output predictor/
    """
    import time

    from lut import LatencyTable
    from lut._suggest import check_word
    from predictors._latency_predictor import LatencyPredictor
    from predictors._predictor_file import check_folder

    check_word("--failures", failures, ("refuse", "skip"))
    console = make_console(stderr=json)
    began = time.monotonic()
    loaded = [LatencyTable.load(path) for path in tables]
    check_folder(output)
    with console.status("Fitting …"):
        predictor = LatencyPredictor.fit(
            loaded,
            failures=failures,  # type: ignore[arg-type]
            sources=[path.name for path in tables],
            seed=seed,
        )
    seconds = time.monotonic() - began
    predictor.save(output)
    if json:
        content = {
            "output": str(output),
            "layers": len(predictor.measured_ms),
            "held_out_layers": predictor.held_out_layers,
            "held_out_networks": predictor.held_out_networks,
            "calibration": predictor.calibration,
            "seconds": round(seconds, 2),
        }
        print_json(content)
        return
    _print(console, predictor, output, seconds)


def _print(console: Console, predictor: LatencyPredictor, output: Path, seconds: float) -> None:
    from predictors._predictor_text import held_out_lines

    console.print(styled((predictor.device.model, "bold"), f", {predictor.setting}"))
    names = ", ".join(source.name for source in predictor.tables)
    console.print(f"{len(predictor.measured_ms)} layers of {names}, {len(predictor.kinds)} kinds")
    for line in held_out_lines(predictor):
        console.print(line)
    console.print()
    console.print(f"fitted in {seconds:.1f} s")
    console.print(f"predictor  {output}")

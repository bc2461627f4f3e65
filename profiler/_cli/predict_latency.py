"""The command ``predict-latency``: what a network takes, layer by layer, without measuring it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lut._console import format_ms, make_console, print_json, run_single_command, styled
from lut._grid import Column, Grid, print_grid
from profiler._cli._workloads import ExpandOption, SetOption

if TYPE_CHECKING:
    from rich.console import Console

    from lut import Network
    from predictors import LatencyPredictor
    from predictors._predictions import NetworkPrediction

__all__ = ["main"]

# Layers that are listed one by one, unless asked for all.
SHOWN = 15
# Layers outside what was measured, likewise.
EXAMPLES = 5


def main() -> None:
    """Run the command."""
    run_single_command(predict_latency)


def predict_latency(
    predictor: Annotated[
        Path | None, typer.Option("--predictor", metavar="FOLDER", help="A predictor, as fit-predictor writes it.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", metavar="FILE", help="Lookup table to fit a predictor to: a file written by profile-device."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="FILE.py:FACTORY|FILE.onnx",
            help="A function that returns a torch module, or an ONNX file.",
        ),
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option("--input", metavar="4x3x224x224", help="The model's input, the batch first.")
    ] = None,
    space: Annotated[
        str | None, typer.Option("--space", metavar="NAME", help="A search space; --choices says which network of it.")
    ] = None,
    choices: Annotated[
        str | None,
        typer.Option(
            "--choices",
            metavar="3,0,7…|FILE.json|NAME|random",
            help="The space's option indices, one per decision, as a list or in a file; a published network's name; or "
            "random, drawn with --seed.",
        ),
    ] = None,
    expand: ExpandOption = None,
    settings: SetOption = None,
    level: Annotated[
        float, typer.Option("--level", help="The interval holds the latency with this probability.")
    ] = 0.9,
    unknown: Annotated[
        str,
        typer.Option(
            "--unknown",
            metavar="error|outside",
            help="What becomes of operators that no measured layer has: an error, or a guess that says so.",
        ),
    ] = "error",
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**53, help="Seed of random choices, and of the factory's weights.")
    ] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", help="List all layers.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Predict the latency of a network on the device that a predictor was fitted to, or a table was measured on.

    Each layer is looked up where it was measured and predicted where it was not, and the result says which. The
    interval comes from networks that were measured whole.

    Example: predict-latency --predictor predictor/ --model my.py:make --input 4x3x224x224
    """
    from lut import UsageError
    from lut._level import check_level
    from lut._suggest import check_word
    from predictors._commands._inputs import check_files, check_one_of, open_predictor

    check_one_of(predictor, table)
    check_files(None, table)
    check_word("--unknown", unknown, ("error", "outside"))
    if (model is None) == (space is None):
        raise UsageError("give a network: either --model FILE.py:FACTORY (or FILE.onnx), or --space with --choices")
    if (space is None) != (choices is None):
        raise UsageError("--space and --choices go together: a space, and which network of it")
    if space is not None and input_shape is not None:
        raise UsageError("--input is about a --model; a network of a --space has its own")
    check_level(level)
    console = make_console(stderr=json)
    # The seed of fit-predictor: what a table predicts does not depend on which networks are drawn.
    loaded, _ = open_predictor(predictor, table, target=None, batch=None, seed=0, console=console)
    if model is not None:
        network = _of_model(model, input_shape, loaded, seed=seed, console=console)
    else:
        assert space is not None
        assert choices is not None
        network = _of_space(space, choices, expand=expand, settings=settings, seed=seed)
    found = loaded.predict(network, level=level, unknown=unknown)  # type: ignore[call-overload]
    if json:
        print_json(_as_json(loaded, found))
        return
    _print(console, loaded, found, verbose=verbose)


def _of_model(model: str, input_text: str | None, loaded: LatencyPredictor, *, seed: int, console: Console) -> Network:
    """Return the user's network by its layers, as the predictor's target sees it."""
    from lut import UsageError
    from profiler._cli._workloads import user_network

    setting = loaded.setting
    with tempfile.TemporaryDirectory(prefix="latency-lut-") as folder:
        work = user_network(
            model,
            input_text,
            target=setting.target,
            batch=None,
            seed=seed,
            output=Path(folder) / "network.json",
            console=console,
        )
    if work.batch is not None and work.batch != setting.batch:
        raise UsageError(
            f"--input: the predictor is of batch {setting.batch}, and this network's input has batch {work.batch}"
        )
    if work.dtype is not None and work.dtype != setting.dtype:
        raise UsageError(f"--model {model}: it computes in {work.dtype}, and the predictor is of {setting.dtype}")
    return work.subjects[0].network


def _of_space(name: str, choices: str, *, expand: float | None, settings: list[str] | None, seed: int) -> Network:
    import random

    import msgspec

    from lut import UsageError
    from lut._files import read_bytes
    from lut._suggest import did_you_mean
    from profiler._cli._workloads import open_space, plug_in_options

    space = open_space(name, expand=expand, options=plug_in_options(settings, space=name, target=None).space)
    if (made := space.published().get(choices)) is not None:
        return made()
    if choices == "random":
        return space.decode(space.sample(random.Random(seed)))  # noqa: S311 - a sample, no secret
    content = read_bytes(choices) if choices.endswith(".json") else f"[{choices}]".encode()
    try:
        vector = msgspec.json.decode(content, type=list[int])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UsageError(
            f"--choices is a list of {len(space.choices)} option indices, such as 3,0,7, a published network's name or "
            f"random, got {choices[:60]!r}{did_you_mean(choices[:60], ['random', *space.published()])}"
        ) from None
    return space.decode(vector)


def _print(console: Console, loaded: LatencyPredictor, found: NetworkPrediction, *, verbose: bool) -> None:
    console.print(styled((loaded.device.model, "bold"), f", {loaded.setting}"))
    console.print()
    rows = _distinct(found)
    shown = rows if verbose else rows[:SHOWN]
    columns = (
        *(Column("layer", text=True), Column("operators", 3, text=True), Column("×", 2), Column("ms in it")),
        *(Column("share"), Column("known by", 1, left=True)),
    )
    cells = []
    for row in shown:
        known = row["origin"] if row["origin"] == "measured" else f"{row['origin']} ±{row['deviation']:.0%}"
        share = f"{row['count'] * row['contribution_ms'] / found.ms:.1%}"
        cells.append((row["name"], row["layer"], str(row["count"]), format_ms(row["contribution_ms"]), share, known))
    print_grid(console, Grid(columns, tuple(cells)), again=True)
    if len(rows) > len(shown):
        rest = sum(row["count"] * row["contribution_ms"] for row in rows[len(shown) :]) / found.ms
        console.print(f"… and {len(rows) - len(shown)} more, {rest:.1%} of the time: --verbose shows all")
    outside = [row for row in rows if row["outside"]]
    if outside:
        share = sum(row["count"] * row["contribution_ms"] for row in outside) / found.ms
        console.print(
            f"{len(outside)} of them, {share:.1%} of the time, lie outside what was measured:", style="yellow"
        )
    for row in outside if verbose else outside[:EXAMPLES]:
        console.print(f"  {row['name']}: {'; '.join(row['outside'])}", style="yellow")
    if len(outside) > EXAMPLES and not verbose:
        console.print(f"  … and {len(outside) - EXAMPLES} more: --verbose", style="yellow")
    interval = ""
    if found.low_ms is not None and found.high_ms is not None:
        interval = f", between {format_ms(found.low_ms)} and {format_ms(found.high_ms)} at {found.level:.0%}"
    console.print()
    console.print(styled(f"{found.name}: ", (f"{format_ms(found.ms)} ms", "bold"), interval))
    rest = ", the rest predicted" if found.coverage < 1 else ""
    console.print(f"{found.coverage:.0%} of it is of measured layers{rest}")
    if found.outside:
        less = "" if found.low_ms is None else ", so the interval promises less"
        console.print(
            f"unlike the networks that were measured whole{less}: {'; '.join(found.outside)}",
            style="yellow",
        )
    if (why := loaded.no_interval(found.level)) is not None:
        console.print(f"no interval: {why}", style="yellow")


def _distinct(found: NetworkPrediction) -> list[dict[str, Any]]:
    """Return a network's distinct layers, the longest first."""
    rows: dict[str, dict[str, Any]] = {}
    for part in found.layers:
        digest = part.layer.digest
        if digest in rows:
            rows[digest]["count"] += part.count
            continue
        rows[digest] = {
            "name": part.name,
            "layer": str(part.layer),
            "digest": digest,
            "count": part.count,
            "ms": part.ms,
            "contribution_ms": part.contribution_ms,
            "origin": part.origin,
            "deviation": part.deviation,
            "outside": list(part.outside),
        }
    return sorted(rows.values(), key=lambda row: -row["count"] * row["contribution_ms"])


def _as_json(loaded: LatencyPredictor, found: NetworkPrediction) -> dict[str, Any]:
    return {
        "network": found.name,
        "ms": found.ms,
        "low_ms": found.low_ms,
        "high_ms": found.high_ms,
        "level": found.level,
        "no_interval": loaded.no_interval(found.level),
        "coverage": found.coverage,
        "outside": list(found.outside),
        "setting": str(loaded.setting),
        "layers": _distinct(found),
    }

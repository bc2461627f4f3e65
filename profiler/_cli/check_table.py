"""The command ``check-table``: does a table still hold on this device?"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lut._console import duration, format_ms, make_console, print_json, run_single_command
from lut._grid import Column, Grid, print_grid
from profiler._cli._progress import ProgressBar, Standing

if TYPE_CHECKING:
    from rich.console import Console

    from lut import LatencyTable
    from profiler._check import CheckResult, LayerCheck, NetworkCheck
    from profiler._session import Progress
    from profiler._sources import Subject

__all__ = ["main"]

# Layers that a verdict names.
NAMED = 3


def main() -> None:
    """Run the command."""
    run_single_command(check_table)


def check_table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A lookup table, as profile-device writes it.")],
    layers_count: Annotated[
        int,
        typer.Option(
            "--layers-count",
            metavar="N",
            min=1,
            help="Measure N layers again: half of them those that matter most, half at random.",
        ),
    ] = 12,
    time_budget: Annotated[
        float, typer.Option("--time-budget", metavar="SECONDS", help="Stop measuring after this long.")
    ] = 20.0,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of the choice of layers, the order of visits, weights, inputs.")
    ] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="FILE.py:FACTORY|FILE.onnx",
            help="The network that the table was measured of, as profile-device took it. Without it, the network is "
            "made again from its layers where that can be done.",
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option("--input", metavar="4x3x224x224", help="The network's input, as profile-device took it."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Measure, though the table is of another device or setting.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; progress goes to standard error.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also print how often each layer was visited.")] = False,
) -> None:
    """Say whether a lookup table still holds on this device, and for which layers not.

    A few layers and a whole network are measured again, in half a minute, and held against the intervals in the table.
    The machine's speed of today is taken out, as it was when the table was measured. The table is not changed.

    Exit code 0: it holds. 3: it is stale, or of another device; measure it again.

    Example: check-table cpu-b4.json
    """
    from lut import LatencyTable, UsageError
    from profiler._check import check

    if input_shape is not None and model is None:
        raise UsageError("--input is about a --model, and none is given")
    console = make_console(stderr=json)
    table = LatencyTable.load(file)
    with _subject(table, model, input_shape, seed=seed, console=console) as subject:
        if len(table):
            what = f"up to {layers_count}" if len(table) > layers_count else "all"
            console.print(f"Checking {what} of {len(table)} layers. Leave the machine alone meanwhile.")
        with ProgressBar(console, _standing) as show:
            result = check(
                table,
                layers_count=layers_count,
                time_budget_s=time_budget,
                seed=seed,
                subject=subject,
                force=force,
                progress=show,
            )
    if json:
        _print_json(file, result)
    else:
        _print_result(console, table, result, verbose=verbose)
    if result.stale:
        from lut.errors import StaleTableError

        raise StaleTableError(f"{file}: {'; '.join(result.reasons)}. {_advice(result)}")
    console.print(f"holds: {file}: {_summary(result)}")


@contextlib.contextmanager
def _subject(
    table: LatencyTable, model: str | None, input_text: str | None, *, seed: int, console: Console
) -> Iterator[Subject | None]:
    """Give the user's network; a file that it is exported to lives as long as the block."""
    if model is None:
        yield None
        return
    from profiler._cli._workloads import user_network

    setting = table.setting
    with tempfile.TemporaryDirectory(prefix="latency-lut-") as folder:
        work = user_network(
            model,
            input_text,
            target=setting.target,
            batch=setting.batch,
            seed=seed,
            output=Path(folder) / "table.json",
            console=console,
        )
        yield work.subjects[0]


def _standing(now: Progress) -> Standing:
    done = max(now.elapsed_s / max(now.elapsed_s + now.left_s, 1e-9), now.converged / max(now.layers, 1))
    text = f"{now.phase}: {now.converged} of {now.layers} converged, {now.visits:,} visits"
    return Standing(done, text, f"{duration(now.left_s)} left at most", now.elapsed_s)


def _print_result(console: Console, table: LatencyTable, result: CheckResult, *, verbose: bool) -> None:
    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style)

    device = table.device
    say(f"{device.model}, {device.system}")
    say(f"{table.setting}")
    for warning in result.warnings:
        say(f"warning: {warning}", "yellow")
    decisive = [change for change in result.changes if change.decisive]
    for change in decisive:
        say(f"not as in the table: {change}", "red")
    if other := [change for change in result.changes if not change.decisive]:
        say(f"also changed: {'; '.join(map(str, other))}")
    if not result.changes:
        say("device, setting and versions: as in the table")
    if not result.layers:
        return
    line = _speed_line(result)
    say(line, "yellow" if line.startswith("warning") else None)
    console.print()
    print_grid(console, _grid(result, verbose=verbose))
    for item in result.layers:
        if item.reason is not None:
            say(f"undecided: {item.layer}: {item.reason}", "yellow")
    if result.network is not None:
        for line in _network_lines(result.network):
            say(line)
    elif result.no_network is not None:
        say(f"no whole network: {result.no_network}")
    console.print()


def _speed_line(result: CheckResult) -> str:
    from math import log

    from profiler._check import SPEED_SAID

    if result.speed_ratio is None:
        return "the table has no sentinels: latencies are compared as they are"
    ratio = f"{result.speed_ratio:.2f}"
    text = f"the machine takes {ratio} times as long as at the table's reference speed; that is taken out below"
    return f"warning: {text}" if abs(log(result.speed_ratio)) > log(SPEED_SAID) else text


def _grid(result: CheckResult, *, verbose: bool) -> Grid:
    columns = (
        *(Column("layer", text=True), Column("table ms", 1), Column("now ms", 1), Column("ratio")),
        *(Column("allowed", 2), *([Column("visits", 3)] if verbose else []), Column("verdict", left=True)),
    )
    styles = {"slower": "red", "faster": "red", "undecided": "yellow"}
    rows = []
    for item in result.layers:
        cells = [str(item.layer), format_ms(item.table_ms), _ms(item.now_ms), _ratio(item.ratio), _allowed(item)]
        if verbose:
            cells.append(str(item.visits))
        rows.append((*cells, item.verdict))
    return Grid(columns, tuple(rows), tuple(styles.get(item.verdict) for item in result.layers))


def _network_lines(network: NetworkCheck) -> Iterator[str]:
    if network.now_ms is None:
        yield f"network {network.name}: not measured whole: {network.reason}"
        return
    yield (
        f"network {network.name}, whole: {format_ms(network.table_ms)} ms in the table, {format_ms(network.now_ms)} "
        f"now, ratio {_ratio(network.ratio)} (allowed {_allowed(network)}): "
        + (network.verdict if network.reason is None else f"{network.verdict}, {network.reason}")
    )
    if network.sum_ms is not None:
        yield (
            f"its layers in the table add up to {format_ms(network.sum_ms)} ms: "
            f"{network.sum_ms / network.table_ms - 1:+.1%} of the whole then, "
            f"{network.sum_ms / network.now_ms - 1:+.1%} of the whole now"
        )


def _ms(value_ms: float | None) -> str:
    return "–" if value_ms is None else format_ms(value_ms)


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


def _allowed(item: LayerCheck | NetworkCheck) -> str:
    """Return the ratios that count as no change, such as ``0.91–1.10``."""
    low, high = item.low_ms / item.table_ms, item.high_ms / item.table_ms
    return f"{low:.2f}–{high:.2f}" if high < 100 else f"from {low:.2f}"


def _summary(result: CheckResult) -> str:
    """Return what a table that holds is to be believed for."""
    outside = result.outside
    text = f"{result.decided - len(outside)} of {result.decided} layers"
    if result.network is not None and result.network.verdict == "holds":
        text += " and the whole network"
    text += " take what it says"
    if outside:
        named = ", ".join(f"{item.layer} ({item.verdict}, ×{_ratio(item.ratio)})" for item in outside[:NAMED])
        more = f" and {len(outside) - NAMED} more" if len(outside) > NAMED else ""
        text += f"; not {named}{more} (by chance: up to {result.most_outside})"
    if result.seen_beyond is not None:
        text += f"; a layer's change is seen from about ±{result.seen_beyond:.0%}"
    return text


def _advice(result: CheckResult) -> str:
    if not result.layers:
        return "Nothing was measured; --force measures all the same"
    return "Measure it again: profile-device --restart"


def _print_json(file: Path, result: CheckResult) -> None:
    value = {
        "table": str(file),
        "verdict": "stale" if result.stale else "holds",
        "reasons": result.reasons,
        "changes": [change._asdict() for change in result.changes],
        "speed_ratio": result.speed_ratio,
        "common_ratio": result.common_ratio,
        "common_limit": result.common_limit if result.layers else None,
        "most_outside": result.most_outside,
        "seen_beyond": result.seen_beyond,
        "layers": [{**item._asdict(), "layer": str(item.layer), "digest": item.layer.digest} for item in result.layers],
        "network": None if result.network is None else result.network._asdict(),
        "no_network": result.no_network,
        "warnings": result.warnings,
        "measuring_s": result.measuring_s,
    }
    print_json(value)

"""The command ``lut``: show, validate, diff and merge lookup tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lut._console import format_ms, make_app, make_console, print_error, print_json, print_line, run_command, styled
from lut._diff import compare_tables
from lut._grid import Column, Grid, print_grid
from lut._measured_network import MeasuredNetwork
from lut._network_text import AUDIT_STYLES, audit_level, audit_line
from lut._records import FLAGS, NOT_CHOSEN, Measurement
from lut._session_text import noise_floor_text
from lut._suggest import check_word
from lut._table import LatencyTable
from lut.errors import LatencyLutError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["main"]

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A lookup table, as profile-device writes it.")]
AcrossOption = Annotated[
    list[str] | None,
    typer.Option(
        "--across", metavar="device|setting|reference", help="Allow tables that differ in this. May be repeated."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text for a person.")]

DUPLICATES = ("error", "first", "last", "tighter")


def main() -> None:
    """Run the command."""
    run_command(_make_app)


def _make_app() -> typer.Typer:
    app = make_app(help="Look at, check, compare and merge lookup tables of layer latencies.", no_args_is_help=True)
    app.command("show")(show)
    app.command("validate")(validate)
    app.command("diff")(diff)
    app.command("merge")(merge)
    return app


def show(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Lookup tables.")],
    contains: Annotated[
        str,
        typer.Option("--contains", metavar="TEXT", help="Show only layers and networks with this in their names."),
    ] = "",
    limit: Annotated[
        int,
        typer.Option(
            "--limit", min=1, help="Show at most this many layers, networks, failed layers and layers not measured."
        ),
    ] = 40,
    json: JsonOption = False,
) -> None:
    """Show tables: the device, the sessions, the layers with their latency, and networks against their layers' sums."""
    tables = {str(file): LatencyTable.load(file) for file in files}
    if json:
        print_json(
            [
                {
                    "file": file,
                    "device": table.device,
                    "setting": table.setting,
                    "layers": len(table),
                    "not_measured": len(table.not_measured),
                    "failures": len(table.failures),
                    "audit": table.audit,
                    "measurements": [_measurement_json(m) for layer, m in table.items() if contains in str(layer)],
                    "networks": [_network_json(table, n) for n in table.networks if contains in n.name],
                }
                for file, table in tables.items()
            ]
        )
        return
    console = make_console()
    for file, table in tables.items():
        if len(tables) > 1:
            console.print()
            console.print(file, style="bold")
        _show_table(console, table, contains, limit)


def _show_table(console: Console, table: LatencyTable, contains: str, limit: int) -> None:
    found = [m for layer, m in table.items() if contains in str(layer)]
    device = table.device
    cores = f"{device.affinity_cpus} of {device.cores} cores"
    console.print(styled((device.model, "bold"), f", {cores}, {device.system}"))
    console.print(str(table.setting))
    for number, session in enumerate(table.sessions):
        console.print(
            f"session {number}: {session.started_at}, {session.measuring_s:.0f} s, "
            f"{session.software.runtime}, noise floor {noise_floor_text(session.preflight)}, "
            f"correction: {session.correction.name}"
        )
        for warning in session.preflight.warnings:
            console.print(f"  warning: {warning}", style="yellow")
    converged = sum(m.converged for m in table.values())
    console.print(
        f"{len(table)} layers measured, {converged} converged; {len(table.failures)} failed, "
        f"{len(table.not_measured)} not measured"
    )
    if passed := sum(entry.reason == NOT_CHOSEN for entry in table.not_measured):
        console.print(f"{passed} of those not measured are for a predictor to say: fit-predictor")
    if table.audit is not None:
        console.print(audit_line(table), style=f"bold {AUDIT_STYLES[audit_level(table)] or ''}".strip())
    console.print()
    named = [network for network in table.networks if contains in network.name]
    _print_found(console, "layers", _layer_grid(found[:limit]), len(found), contains)
    if table.networks and (named or contains):
        console.print()
        _print_found(console, "networks", _network_grid(table, named[:limit]), len(named), contains)
    failed = [
        f"failed: {failure.layer}: {failure.reason}: {failure.message}"
        for failure in table.failures
        if contains in str(failure.layer)
    ]
    unmeasured = [
        f"not measured: {entry.layer}: {entry.reason}"
        for entry in table.not_measured
        if entry.reason != NOT_CHOSEN and contains in str(entry.layer)
    ]
    for what, lines, style in (("failed layers", failed, "red"), ("layers not measured", unmeasured, "yellow")):
        for line in lines[:limit]:
            console.print(line, style=style)
        _print_more(console, what, len(lines), limit)


def _interval(m: Measurement) -> str:
    """Return a layer's within-run interval; a single visit tells nothing of one."""
    if m.n_visits == 1:
        return "not known"
    return f"{format_ms(m.within_run.low_ms)}–{format_ms(m.within_run.high_ms)}"


def _print_found(console: Console, what: str, grid: Grid, count: int, contains: str) -> None:
    """Print what was picked of a table, and how to see the rest."""
    if not count:
        console.print(f"no {what} with {contains!r} in their names" if contains else f"no {what}")
        return
    print_grid(console, grid, again=True)
    _print_more(console, what, count, len(grid.rows))


def _print_more(console: Console, what: str, count: int, shown: int) -> None:
    if count > shown:
        console.print(f"… and {count - shown} more {what}: --limit {count} shows all, --contains TEXT picks some")


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Lookup tables.")], json: JsonOption = False
) -> None:
    """Check that files are valid tables: types, units, intervals, and medians derived again from the raw visits."""
    results: dict[str, str] = {}
    for file in files:
        try:
            table = LatencyTable.load(file)
        except LatencyLutError as error:
            results[str(file)] = str(error)
            if not json:
                print_error(f"invalid: {error}")
        else:
            results[str(file)] = "valid"
            if not json:
                print_line(f"valid: {file}: {len(table)} layers")
    if json:
        print_json(results)
    if any(result != "valid" for result in results.values()):
        raise typer.Exit(1)


def diff(
    first: FileArgument,
    second: FileArgument,
    level: Annotated[
        float, typer.Option("--level", help="Probability that every verdict but 'undecided' is right.")
    ] = 0.95,
    margin: Annotated[
        float, typer.Option("--margin", help="Relative difference up to which layers count as the same.")
    ] = 0.1,
    across: AcrossOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show at most this many layers.")] = 40,
    json: JsonOption = False,
) -> None:
    """Compare two tables: which layers became faster, slower, stayed the same, or cannot be told apart."""
    difference = compare_tables(
        LatencyTable.load(first), LatencyTable.load(second), level=level, margin=margin, across=across or ()
    )
    if json:
        print_json(
            {
                **{k: getattr(difference, k) for k in ("level", "margin", "common_factor")},
                "layers": [{**d._asdict(), "layer": str(d.layer), "digest": d.layer.digest} for d in difference.layers],
                "only_first": [str(layer) for layer in difference.only_first],
                "only_second": [str(layer) for layer in difference.only_second],
            }
        )
        return
    console = make_console()
    counts = ", ".join(f"{difference.count(v)} {v}" for v in ("faster", "slower", "same", "undecided"))
    console.print(f"{second} against {first}, {len(difference.layers)} layers: {counts}")
    console.print(
        f"all verdicts right with probability {level:.0%}; same means within ±{margin:.0%}; "
        f"median ratio {difference.common_factor:.3f}"
    )
    order = {"slower": 0, "faster": 0, "undecided": 1, "same": 2}
    ranked = sorted(difference.layers, key=lambda d: (order[d.verdict], -abs(d.ratio - 1)))
    columns = (
        *(Column("layer", text=True), Column("first ms", 1), Column("second ms", 1), Column("ratio")),
        Column("verdict", left=True),
    )
    rows = (
        (str(item.layer), format_ms(item.first_ms), format_ms(item.second_ms), f"{item.ratio:.3f}", item.verdict)
        for item in ranked[:limit]
    )
    print_grid(console, Grid(columns, tuple(rows)), again=True)
    if len(ranked) > limit:
        console.print(f"… and {len(ranked) - limit} more: --limit {len(ranked)} shows all")
    for name, layers in ((first, difference.only_first), (second, difference.only_second)):
        if layers:
            console.print(f"only in {name}: {len(layers)} layers")


def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Two or more tables.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the merged table.")],
    across: AcrossOption = None,
    on_duplicate: Annotated[
        str,
        typer.Option(
            "--on-duplicate",
            metavar="error|first|last|tighter",
            help="Which measurement a layer of several files keeps.",
        ),
    ] = "error",
) -> None:
    """Merge tables of one device and setting into one."""
    if len(files) < 2:
        raise UsageError("merge takes two or more tables")
    check_word("--on-duplicate", on_duplicate, DUPLICATES)
    merged = LatencyTable.load(files[0])
    for file in files[1:]:
        merged = merged.merge(LatencyTable.load(file), across=across or (), on_duplicate=on_duplicate)  # type: ignore[arg-type]
    merged.save(output)
    print_line(f"{output}: {len(merged)} layers from {len(files)} tables")


def _layer_grid(measurements: list[Measurement]) -> Grid:
    columns = (
        *(Column("layer", text=True), Column("ms"), Column("within run", 2), Column("across runs", 1)),
        *(Column("visits", 3), Column("flags", 4, left=True)),
    )
    rows = (
        (
            str(m.layer),
            format_ms(m.median_ms),
            _interval(m),
            f"{format_ms(m.across_runs.low_ms)}–{format_ms(m.across_runs.high_ms)}",
            f"{m.n_visits}" + (f" −{len(m.rejected)}" if m.rejected else ""),
            " ".join(flag for flag in FLAGS if flag in m.flags),
        )
        for m in measurements
    )
    return Grid(columns, tuple(rows))


def _network_grid(table: LatencyTable, networks: list[MeasuredNetwork]) -> Grid:
    rows = tuple(_network_cells(table, network) for network in networks)
    noted = any(row[-1] for row in rows)
    columns = (
        *(Column("network", text=True), Column("layers", 2), Column("end-to-end ms"), Column("sum ms")),
        *(Column("error"), Column("repeat error", 1), *((Column("note", text=True),) if noted else ())),
    )
    return Grid(columns, rows if noted else tuple(row[:-1] for row in rows))


def _network_cells(table: LatencyTable, network: MeasuredNetwork) -> tuple[str, ...]:
    whole, total = network.end_to_end, table.sum_ms(network)
    off = "–" if whole is None or total is None else f"{total / whole.median_ms - 1:+.1%}"
    notes = []
    if whole is None:
        notes.append(f"not measured end to end: {network.reason}")
    elif "contaminated" in whole.flags:
        notes.append("other work disturbed every visit to it")
    if total is None:
        notes.append(f"{sum(share.ms is None for share in table.breakdown(network))} layers not measured")
    return (
        network.name,
        str(sum(item.count for item in network.network.layers)),
        "–" if whole is None else format_ms(whole.median_ms),
        "–" if total is None else format_ms(total),
        off,
        "–" if whole is None or whole.repeat_error is None else f"{whole.repeat_error:.1%}",
        "; ".join(notes),
    )


def _network_json(table: LatencyTable, network: MeasuredNetwork) -> dict[str, object]:
    whole = network.end_to_end
    return {
        "name": network.name,
        "end_to_end_ms": None if whole is None else whole.median_ms,
        "repeat_error": None if whole is None else whole.repeat_error,
        "sum_ms": table.sum_ms(network),
        "reason": network.reason,
    }


def _measurement_json(m: Measurement) -> dict[str, object]:
    return {
        "layer": str(m.layer),
        "digest": m.layer.digest,
        "origin": m.origin,
        "median_ms": m.median_ms,
        "raw_median_ms": m.raw_median_ms,
        "within_run": m.within_run,
        "across_runs": m.across_runs,
        "n_visits": m.n_visits,
        "rejected": m.rejected_by_cause,
        "flags": m.flags,
        "implementation": m.implementation,
    }

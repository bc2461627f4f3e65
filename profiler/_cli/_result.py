"""What ``profile-device`` prints once a table is there: for people, and as JSON."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from lut._console import format_ms, print_json, styled
from lut._grid import print_grid
from lut._records import NOT_CHOSEN
from lut._session_text import knows_noise_floor, noise_floor_text, spread_line
from lut._statistics import quantile
from profiler._cli._networks import networks_json, print_networks

if TYPE_CHECKING:
    from rich.console import Console

    from lut import Device, LatencyTable
    from lut._records import Session
    from predictors._gains import WidthGain
    from predictors._widths import WidthSelection

__all__ = ["count_layers", "print_as_json", "print_result"]


def count_layers(count: int) -> str:
    """Return ``1 layer`` or ``2 layers``."""
    return f"{count} layer{'' if count == 1 else 's'}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def print_result(
    console: Console,
    table: LatencyTable,
    selections: tuple[WidthSelection, ...],
    gains: tuple[WidthGain, ...],
    output: Path,
    report: Path | None,
    *,
    groups: int,
    alpha: str,
    verbose: bool,
) -> None:
    from predictors._show import GAINS_NOTE, SURE_SHARE, UNSURE_NOTE, choices_table, gains_table, law_line, widths_table

    device = table.device
    session = table.sessions[-1] if table.sessions else None
    # What was measured is not measured again to see it.
    other = None if report is None else str(report)
    console.print()
    console.print(styled((device.model, "bold"), f"{_cores(device)}, {device.system}"))
    console.print(f"{table.setting}{'' if session is None else ', ' + session.software.runtime}")
    if session is not None:
        _print_session(console, session)
    console.print(_counts(table))
    if session is not None and (spread := spread_line(session, table.setting)) is not None:
        console.print(spread)
    if selections:
        console.print()
        console.print(f"Hardware-aware widths (g = {groups}, α = {alpha})")
        print_grid(console, widths_table(selections, hardware=device.kind.upper()), elsewhere=other)
        if any(c.chosen_share < SURE_SHARE for s in selections for c in s.choices):
            console.print(UNSURE_NOTE)
    if verbose:
        for selection in selections:
            console.print()
            console.print(styled((selection.curve.name, "bold"), f", {selection.curve.size}: {law_line(selection)}"))
            print_grid(console, choices_table(selection), elsewhere=other)
        _print_flags(console, table)
    for failure in table.failures[:10]:
        console.print(f"failed: {failure.layer}: {failure.reason}: {failure.message}", style="red")
    if len(table.failures) > 10:
        console.print(f"… and {len(table.failures) - 10} more failures: lut show {output}", style="red")
    if table.not_measured:
        reasons = Counter(entry.reason for entry in table.not_measured if entry.reason != NOT_CHOSEN)
        for reason, layers in reasons.most_common(3):
            more = "; give more with --time-budget" if "time budget" in reason else ""
            console.print(f"{count_layers(layers)} not measured: {reason}{more}", style="yellow")
    if table.sampled:
        _print_sampled(console, table, output)
    else:
        print_networks(console, table, verbose=verbose, elsewhere=other)
    if gains:
        console.print()
        console.print("What other widths would buy", style="bold")
        print_grid(console, gains_table(gains), elsewhere=other)
        console.print(GAINS_NOTE)
    if session is not None:
        console.print()
        again = f", taken up again {_times(session.resumed)}" if session.resumed else ""
        processes = f"{session.processes} process{'es' * (session.processes != 1)}"
        console.print(f"measured in {session.measuring_s:.0f} s, {processes}{again}")
    console.print(f"table   {output}")
    if report is not None:
        console.print(f"report  {report}")


def _print_sampled(console: Console, table: LatencyTable, output: Path) -> None:
    """Print how well a predictor fitted to a sampled table does."""
    from lut import LatencyLutError
    from predictors import LatencyPredictor
    from predictors._predictor_text import held_out_lines

    whole = sum(network.end_to_end is not None for network in table.networks)
    console.print()
    console.print(f"sampled for prediction: {count_layers(len(table))} and {whole} whole networks")
    sampling = table.sessions[-1].sampling
    if sampling is not None and sampling.ended != "met":
        why = "the time was up" if sampling.ended == "out of time" else "no layer was left to measure"
        last = "it could not be judged" if sampling.error is None else f"it was {sampling.error:.1%} at the last look"
        console.print(f"the target error of {sampling.target_error:.1%} was not met: {why}, and {last}", style="yellow")
    try:
        predictor = LatencyPredictor.fit(table, failures="skip")
    except LatencyLutError as error:
        console.print(f"no predictor can be fitted to this: {error}", style="yellow")
        return
    for line in held_out_lines(predictor):
        console.print(line)
    console.print(f"predict any network of the space: fit-predictor {output}")


def _cores(device: Device) -> str:
    match device.kind:
        case "cpu":
            return f", {device.affinity_cpus} of {device.cores} cores"
        case "cuda":
            return f", {device.cores} multiprocessors"
    return ""


def _print_session(console: Console, session: Session) -> None:
    for warning in session.preflight.warnings:
        console.print(f"warning: {warning}", style="yellow")
    floor = noise_floor_text(session.preflight)
    console.print(f"noise floor {floor}; precision asked for ±{session.protocol.precision:.1%}")


def _counts(table: LatencyTable) -> str:
    n = len(table)
    converged = sum(m.converged for m in table.values())
    text = f"{count_layers(n)} measured, {converged} converged"
    look = table.sessions[-1].protocol.first_look if table.sessions else 0
    measured = [m for m in table.values() if m.visits.raw_ms]
    few = sum(m.n_visits < look for m in measured)
    if few:
        text += f"; {few} have fewer than {look} visits, too few for an interval: give more with --time-budget"
    if n > few:
        widths = [m.relative_half_width for m in table.values() if not m.visits.raw_ms or m.n_visits >= look]
        middle, most = quantile(widths, 0.5), quantile(widths, 0.95)
        text += f"; half-width of the interval ±{middle:.1%} (median), ±{most:.1%} (95 %)"
    rejected = sum(len(m.rejected) for m in table.values())
    visits = sum(m.n_visits for m in table.values())
    text += f"; {visits:,} visits, {rejected} rejected"
    if table.failures:
        text += f"; {count_layers(len(table.failures))} failed"
    return text


def _print_flags(console: Console, table: LatencyTable) -> None:
    from lut._records import FLAGS

    console.print()
    for flag, meaning in FLAGS.items():
        flagged = [m for m in table.values() if flag in m.flags]
        if flagged and flag != "converged":
            example = flagged[0]
            console.print(
                f"{flag}: {len(flagged)} layers ({meaning}); such as {example.layer}, {format_ms(example.median_ms)} ms"
            )


def print_as_json(
    table: LatencyTable,
    selections: tuple[WidthSelection, ...],
    gains: tuple[WidthGain, ...],
    output: Path,
    report: Path | None,
) -> None:
    from predictors._show import gains_json, selection_json

    session = table.sessions[-1] if table.sessions else None
    value = {
        "table": str(output),
        "report": None if report is None else str(report),
        "device": table.device,
        "setting": table.setting,
        "layers": len(table),
        "converged": sum(m.converged for m in table.values()),
        "failures": [{"layer": str(f.layer), "reason": f.reason, "message": f.message} for f in table.failures],
        "not_measured": [str(entry.layer) for entry in table.not_measured],
        "noise_floor": session.preflight.noise_floor if session and knows_noise_floor(session.preflight) else None,
        "warnings": session.preflight.warnings if session else [],
        "measuring_s": session.measuring_s if session else 0.0,
        "widths": [selection_json(selection) for selection in selections],
        "audit": table.audit,
        "sampling": session.sampling if session else None,
        "networks": networks_json(table),
        "gains": gains_json(gains),
    }
    print_json(value)

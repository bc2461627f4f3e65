"""The report: one HTML file with the staircases, the choices, the machine's drift and where the numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lut import LatencyTable
from lut._console import format_ms
from lut._records import FLAGS, REJECTION_CAUSES
from predictors._gains import WidthGain
from predictors._show import SURE_SHARE, UNSURE_NOTE, law_line
from predictors._widths import WidthSelection
from profiler._page import (
    CHOSEN,
    LAW,
    QUIET,
    finish,
    folded,
    gaps,
    html_page,
    html_plot,
    html_table,
    html_text,
    plot_label,
    staircase,
    width_ticks,
)
from profiler._report_network import networks_section
from profiler._report_sweep import sweep_section

__all__ = ["report_html", "report_path"]

SENTINEL_COLOURS = ("#0072B2", "#009E73", "#CC79A7")


def report_path(table: Path) -> Path:
    """Return where a table's report goes: beside it, as ``.html``, and never over it."""
    return table.with_suffix(".html") if table.suffix == ".json" else table.with_name(table.name + ".html")


def report_html(
    table: LatencyTable, selections: Sequence[WidthSelection], gains: Sequence[WidthGain] = (), *, title: str
) -> str:
    """Return a self-contained HTML page about a table.

    Args:
        table: the lookup table.
        selections: the widths chosen on its curves; may be empty.
        gains: what other widths would buy in its network; may be empty.
        title: the page's title, the file's name say.
    """
    parts = [_head(table, selections), _warnings(table)]
    parts += [networks_section(table), sweep_section(gains, table)]
    parts += [_stage(selection) for selection in selections]
    parts += [_drift(table), _reliability(table), _provenance(table)]
    return html_page(title, f"{title}: {table.device.model}", parts)


def _head(table: LatencyTable, selections: Sequence[WidthSelection]) -> str:
    converged = sum(m.converged for m in table.values())
    text = f"<p>{html_text(str(table.setting))}. {len(table)} layers measured, {converged} converged"
    if table.failures or table.not_measured:
        text += f", {len(table.failures)} failed, {len(table.not_measured)} not measured"
    text += ".</p>"
    if not selections:
        return text
    rows = []
    for selection in selections:
        widths = ", ".join(
            f'<span class="{"" if c.chosen_share >= SURE_SHARE else "unsure"}">{c.channels}'
            f"{'' if c.chosen_share >= SURE_SHARE else '~'}</span>"
            for c in selection.choices
        )
        rows.append(
            [html_text(selection.curve.name), html_text(selection.curve.size), f'<span class="big">{widths}</span>']
        )
    text += "<h2>Hardware-aware widths</h2>" + html_table(["stage", "output size", "search space"], rows, kind="facts")
    return text + f"<p>{UNSURE_NOTE}.</p>"


def _warnings(table: LatencyTable) -> str:
    found = [f'<div class="warning">{html_text(w)}</div>' for s in table.sessions for w in s.preflight.warnings]
    found += [
        f'<div class="failure">failed: {html_text(str(f.layer))}: {html_text(f.reason)}: {html_text(f.message)}</div>'
        for f in table.failures
    ]
    if table.not_measured:
        reason = html_text(table.not_measured[0].reason)
        found.append(f'<div class="failure">{len(table.not_measured)} layers not measured: {reason}</div>')
    return "".join(found)


def _stage(selection: WidthSelection) -> str:
    curve = selection.curve
    x = list(curve.channels)
    chosen = [choice.channels for choice in selection.choices]
    latency = staircase(curve)
    latency.add_trace(
        go.Scatter(x=x, y=list(selection.law_ms), mode="lines", line={"color": LAW, "dash": "dash"}, name="law f(x)")
    )
    latency.add_trace(
        go.Scatter(
            x=chosen,
            y=[choice.ms for choice in selection.choices],
            mode="markers+text",
            text=[f"{c.channels}{'' if c.chosen_share >= SURE_SHARE else '~'}" for c in selection.choices],
            textposition="bottom center",
            marker={
                "color": CHOSEN,
                "size": 9,
                # One that this run cannot tell from another is drawn hollow.
                "symbol": ["circle" if c.chosen_share >= SURE_SHARE else "circle-open" for c in selection.choices],
                "line": {"width": 2},
            },
            name="chosen (hollow: unsure)",
        )
    )
    # The scores stand under the stairs that they are of: one axis of widths for both.
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.05)
    figure.add_traces(latency.data, rows=1, cols=1)
    colours = [CHOSEN if width in chosen else QUIET for width in x]
    bars = go.Bar(x=x, y=gaps(selection.scores_ms), marker={"color": colours}, name="score s(x)", showlegend=False)
    figure.add_trace(bars, row=2, col=1)
    for choice in selection.choices[:-1]:
        figure.add_vline(x=choice.last + 0.5, line={"dash": "dash", "width": 1, "color": "#bbbbbb"}, row=2, col=1)
    finish(figure, y="latency in ms", height=560)
    figure.update_xaxes(title_text=None, row=1, col=1)
    figure.update_xaxes(title_text="output channels", row=2, col=1)
    figure.update_xaxes(**width_ticks(x[-1]))
    figure.update_yaxes(title_text="score in ms", row=2, col=1)

    rows = [
        [
            f"{c.first}–{c.last}",
            f"<b>{c.channels}</b>",
            format_ms(c.ms),
            f"{c.score_ms:+.4f}",
            "–" if c.runner_up is None else str(c.runner_up),
            "–" if c.margin_in_noise is None else f"{c.margin_in_noise:.1f} σ",
            f"{c.chosen_share:.0%}",
            str(c.uniform_channels),
            "–" if c.uniform_ms is None else format_ms(c.uniform_ms),
            "–" if c.uniform_score_ms is None else f"{c.uniform_score_ms:+.4f}",
        ]
        for c in selection.choices
    ]
    header = ["group", "width", "ms", "score ms", "runner-up", "margin", "chosen", "uniform", "ms", "score ms"]
    return (
        f"<h2>{html_text(curve.name)}, {html_text(curve.size)}</h2><p>{html_text(law_line(selection))}</p>"
        + html_plot(figure)
        + "<p>One choice per group: its margin over the runner-up in standard errors, how often resampled visits "
        "choose it, and what an evenly spaced grid would have taken.</p>" + html_table(header, rows)
    )


def _drift(table: LatencyTable) -> str:
    text = (
        "<h2>The machine's speed during the run</h2><p>Three fixed layers, the sentinels, were timed between all "
        "others; 1 is the speed to which all latencies are brought. What slows everything alike is estimated from all "
        "visits and taken out.</p>"
    )
    for number, session in enumerate(table.sessions):
        figure = go.Figure()
        for sentinel, colour in zip(session.sentinels, SENTINEL_COLOURS, strict=False):
            at_s, ratios = _thinned(sentinel.at_s, [ms / sentinel.reference_ms for ms in sentinel.ms])
            figure.add_trace(
                go.Scatter(
                    x=at_s,
                    y=ratios,
                    mode="markers",
                    marker={"size": 3, "color": colour},
                    name=plot_label(sentinel.what),
                )
            )
        figure.add_hline(y=1, line={"dash": "dash", "width": 1, "color": LAW})
        finish(figure, y="latency / reference", x="seconds since the start", height=300)
        if len(table.sessions) > 1:
            text += f"<p>Session {number}, {html_text(session.started_at)}</p>"
        text += html_plot(figure)
    return text


def _reliability(table: LatencyTable) -> str:
    rows = []
    for flag, meaning in FLAGS.items():
        count = sum(flag in m.flags for m in table.values())
        if count:
            rows.append([html_text(flag), str(count), html_text(meaning)])
    rejected: dict[str, int] = {}
    for m in table.values():
        for cause, count in m.rejected_by_cause.items():
            rejected[cause] = rejected.get(cause, 0) + count
    causes = [
        [html_text(cause), str(rejected[cause]), html_text(meaning)]
        for cause, meaning in REJECTION_CAUSES.items()
        if cause in rejected
    ]
    text = "<h2>How sure the numbers are</h2>"
    if rows:
        text += html_table(["flag", "layers", "meaning"], rows, kind="facts")
    else:
        text += "<p>No layer has a flag.</p>"
    if causes:
        text += "<p>Visits that were put aside and made again, by cause:</p>"
        text += html_table(["cause", "visits", "meaning"], causes, kind="facts")
    return text


def _provenance(table: LatencyTable) -> str:
    device = {k: getattr(table.device, k) for k in type(table.device).__struct_fields__}
    facts: list[tuple[str, Any]] = [(k.replace("_", " "), v) for k, v in device.items() if v is not None]
    for number, session in enumerate(table.sessions):
        prefix = f"session {number}: " if len(table.sessions) > 1 else ""
        protocol = session.protocol
        facts += [
            (f"{prefix}started, ended", f"{session.started_at}, {session.ended_at}"),
            (
                f"{prefix}measuring",
                f"{session.measuring_s:.1f} s in {session.processes} processes"
                + (f", resumed {session.resumed} times" if session.resumed else ""),
            ),
            (
                f"{prefix}noise floor",
                f"±{session.preflight.noise_floor:.2%} of {session.preflight.noise_floor_visits} visits",
            ),
            (f"{prefix}precision", f"±{protocol.precision:.1%} asked for"),
            (
                f"{prefix}spread between runs (1 σ)",
                (
                    f"scale {session.spread.scale:.2%}, process {session.spread.process:.2%}, layers that stood in "
                    f"chains only {session.spread.context:.2%}"
                ),
            ),
            (f"{prefix}drift during the run (1 σ)", f"{session.spread.common_drift:.2%}"),
            (f"{prefix}correction", f"{session.correction.name}: {session.correction.description}"),
            (
                f"{prefix}protocol",
                (
                    f"{protocol.name}, seed {protocol.seed}, level {protocol.level:.0%}, "
                    f"{protocol.blocks_per_visit} blocks of {protocol.block_ms:g} ms a visit"
                ),
            ),
            (
                f"{prefix}software",
                ", ".join(f"{k} {v}" for k, v in session.software.packages.items())
                + f", python {session.software.python}",
            ),
        ]
        facts += [(f"{prefix}{key}", value) for key, value in session.software.details.items()]
    rows = [[html_text(str(k)), html_text(str(v))] for k, v in facts]
    return folded("Provenance: device, software, protocol", html_table(None, rows, kind="facts"))


def _thinned(at_s: Sequence[float], ratios: Sequence[float], most: int = 4000) -> tuple[list[float], list[float]]:
    step = max(1, -(-len(at_s) // most))
    return list(at_s[::step]), list(ratios[::step])

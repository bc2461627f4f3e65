"""The report's section about networks: where the time goes, and how well the sums of layers give the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import plotly.graph_objects as go

from lut import LatencyTable
from lut._console import format_ms
from lut._measured_network import MeasuredNetwork
from lut._network_text import audit_level, audit_line, coverage, sum_line
from lut._printable import shortened
from profiler._page import CHOSEN, LAW, MEASURED, QUIET, finish, html_plot, html_table, html_text, plot_label

__all__ = ["NetworkBar", "network_bars", "networks_section"]

# Bars of a deep network that are drawn; the table below has all.
MOST_BARS = 25
# Characters of a layer's operators beside its bar; the table has all.
LONGEST_LABEL = 34


def networks_section(table: LatencyTable) -> str:
    """Return the section as HTML: the user's network layer by layer, or sampled networks; and the audit in any case."""
    text = "<h2>Do sums of layers give the whole network?</h2>"
    text += (
        f'<div class="{"audit" if audit_level(table) == "holds" else "warning"}">{html_text(audit_line(table))}</div>'
    )
    if len(table.networks) == 1:
        return text + _network(table, table.networks[0])
    measured = [(n.name, table.sum_ms(n), n.end_to_end.median_ms) for n in table.networks if n.end_to_end is not None]
    return text + (_sums(measured) if measured else "")


class NetworkBar(NamedTuple):
    """A bar of a network's chart: what it is of, and what it takes in ms, with its 95 % interval where there is one."""

    name: str
    operators: str
    ms: float
    low_ms: float | None
    high_ms: float | None
    kind: Literal["end to end", "layer", "rest"]


def network_bars(table: LatencyTable, network: MeasuredNetwork) -> tuple[NetworkBar, ...]:
    """Return the numbers of a network's chart: end to end, the layers that take most, and all others together."""
    bars = []
    if (whole := network.end_to_end) is not None:
        within = whole.within_run
        bars.append(NetworkBar("end to end", "", whole.median_ms, within.low_ms, within.high_ms, "end to end"))
    known = [share for share in table.breakdown(network) if share.total_ms is not None]
    for share in known[:MOST_BARS]:
        within = table[share.layer].within_run
        name = share.name + (f" ×{share.times}" if share.times > 1 else "")
        low, high = share.times * within.low_ms, share.times * within.high_ms
        bars.append(NetworkBar(name, str(share.layer), share.total_ms or 0.0, low, high, "layer"))
    if rest := known[MOST_BARS:]:
        ms = sum(share.total_ms or 0.0 for share in rest)
        bars.append(NetworkBar(f"{len(rest)} other layers", "", ms, None, None, "rest"))
    return tuple(bars)


def _bars_figure(bars: Sequence[NetworkBar]) -> go.Figure:
    colours = {"end to end": CHOSEN, "layer": MEASURED, "rest": QUIET}
    shown = list(reversed(bars))
    labels = [
        plot_label(bar.name) + (f"<br>{plot_label(shortened(bar.operators, LONGEST_LABEL))}" * bool(bar.operators))
        for bar in shown
    ]
    figure = go.Figure(
        go.Bar(
            x=[bar.ms for bar in shown],
            y=labels,
            orientation="h",
            marker={"color": [colours[bar.kind] for bar in shown]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [0.0 if bar.high_ms is None else bar.high_ms - bar.ms for bar in shown],
                "arrayminus": [0.0 if bar.low_ms is None else bar.ms - bar.low_ms for bar in shown],
                "color": LAW,
                "thickness": 1.2,
                "width": 3,
            },
            hovertext=[
                f"{plot_label(bar.name)} {plot_label(bar.operators)}: {format_ms(bar.ms)} ms"
                + ("" if bar.low_ms is None else f" ({format_ms(bar.low_ms)} … {format_ms(bar.high_ms or bar.ms)})")
                for bar in shown
            ],
            hoverinfo="text",
        )
    )
    finish(figure, y="", x="ms, all occurrences", height=120 + 34 * len(shown), legend=False)
    # Names such as 0 and 1 are no numbers, and 2020-01-01 is no date.
    figure.update_layout(yaxis={"type": "category", "automargin": True, "tickfont": {"size": 11}})
    return figure


def _network(table: LatencyTable, network: MeasuredNetwork) -> str:
    shares = table.breakdown(network)
    figure = _bars_figure(network_bars(table, network))
    rows = [
        [
            html_text(share.name),
            html_text(str(share.layer)) + (f"<br><small>{html_text(share.kernel)}</small>" if share.kernel else ""),
            str(share.times),
            "–" if share.ms is None else format_ms(share.ms),
            "–" if share.total_ms is None else format_ms(share.total_ms),
            "not known" if share.share is None else f"{share.share:.1%}",
        ]
        for share in shares
    ]
    return (
        f"<h2>{html_text(network.name)}</h2><p>{html_text(coverage(network, len(shares)))}.</p>"
        f"<p>{html_text(sum_line(table, network))}.</p>"
        + html_plot(figure)
        + html_table(["layer", "operators", "×", "ms each", "ms in all", "share"], rows, kind="named")
    )


def _sums(measured: list[tuple[str, float | None, float]]) -> str:
    pairs = [(name, total, whole) for name, total, whole in measured if total is not None]
    most = max(max(total, whole) for _, total, whole in pairs) if pairs else 1.0
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=[0, most],
            y=[0, most],
            mode="lines",
            line={"color": LAW, "dash": "dash"},
            name="sum = whole",
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[whole for _, _, whole in pairs],
            y=[total for _, total, _ in pairs],
            mode="markers",
            marker={"color": MEASURED, "size": 8},
            text=[plot_label(name) for name, _, _ in pairs],
            name="networks",
        )
    )
    finish(figure, y="sum of layers in ms", x="whole network in ms", height=380)
    return html_plot(figure)

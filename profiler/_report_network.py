"""The report's section about networks: where the time goes, and how well the sums of layers give the whole."""

from __future__ import annotations

import plotly.graph_objects as go

from lut import LatencyTable
from lut._console import format_ms
from lut._measured_network import MeasuredNetwork
from lut._network_text import audit_level, audit_line, coverage, sum_line
from profiler._page import LAW, MEASURED, finish, html_plot, html_table, html_text, plot_label

__all__ = ["networks_section"]

# Bars of a deep network that are drawn; the table below has all.
MOST_BARS = 25


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


def _network(table: LatencyTable, network: MeasuredNetwork) -> str:
    shares = table.breakdown(network)
    known = [share for share in shares if share.total_ms is not None][:MOST_BARS]
    figure = go.Figure(
        go.Bar(
            x=[share.total_ms for share in reversed(known)],
            y=[plot_label(share.name) + (f" ×{share.times}" if share.times > 1 else "") for share in reversed(known)],
            orientation="h",
            marker={"color": MEASURED},
            hovertext=[
                f"{plot_label(str(share.layer))}: {format_ms(share.total_ms or 0.0)} ms" for share in reversed(known)
            ],
            hoverinfo="text",
        )
    )
    finish(figure, y="", x="ms, all occurrences", height=120 + 20 * len(known), legend=False)
    # Names such as 0 and 1 are no numbers, and 2020-01-01 is no date.
    figure.update_layout(margin={"l": 150}, yaxis={"type": "category"})
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

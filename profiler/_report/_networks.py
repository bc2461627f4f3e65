"""The part about networks: where the time goes, and how well the sums of layers give the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import plotly.graph_objects as go

from lut import LatencyTable
from lut._breakdown import Share
from lut._console import format_ms
from lut._measured_network import MeasuredNetwork
from lut._network_text import audit_level, audit_line, coverage, sum_line
from lut._printable import shortened
from profiler._report._page import Block, Cell, Chart, Notice, Section, Table, Text
from profiler._report._plots import CHOSEN, LAW, MEASURED, QUIET, finish, plot_label

__all__ = [
    "LEVELS",
    "LayerBar",
    "SumPoint",
    "bars_chart",
    "layer_bars",
    "layers_section",
    "network_bars",
    "slowest_chart",
    "sum_points",
    "sums_chart",
    "sums_section",
]

# Bars that are drawn; the table of a network's layers has all.
MOST_BARS = 25
# Characters above a bar, which a window of 400 pixels shows.
LONGEST_LABEL = 56
# Of a bar, as a share of its row; its label has the rest.
BAR_HEIGHT = 0.45
# How what an audit says is coloured.
LEVELS: dict[str, Literal["good", "warning", "bad"]] = {
    "holds": "good",
    "off": "warning",
    "fails": "bad",
    "disturbed": "warning",
    "none": "warning",
}


class LayerBar(NamedTuple):
    """A bar: what it is of, and what that takes in ms, with its 95 % interval where there is one."""

    name: str
    operators: str
    ms: float
    low_ms: float | None
    high_ms: float | None
    kind: Literal["end to end", "disturbed", "layer", "rest"]


class SumPoint(NamedTuple):
    """A network that was measured as a whole, and the sum of its layers."""

    network: str
    sum_ms: float
    end_to_end_ms: float


def network_bars(table: LatencyTable, network: MeasuredNetwork) -> tuple[LayerBar, ...]:
    """Return the numbers of a network's chart: end to end, the layers that take most, and all others together."""
    bars = []
    if (whole := network.end_to_end) is not None:
        within = whole.within_run
        disturbed = "contaminated" in whole.flags
        name = "end to end, disturbed by other work in every visit" if disturbed else "end to end"
        kind: Literal["disturbed", "end to end"] = "disturbed" if disturbed else "end to end"
        bars.append(LayerBar(name, "", whole.median_ms, within.low_ms, within.high_ms, kind))
    known = [share for share in table.breakdown(network) if share.total_ms is not None]
    for share in known[:MOST_BARS]:
        within = table[share.layer].within_run
        name = share.name + (f" ×{share.times}" if share.times > 1 else "")
        low, high = share.times * within.low_ms, share.times * within.high_ms
        bars.append(LayerBar(name, str(share.layer), share.total_ms or 0.0, low, high, "layer"))
    if rest := known[MOST_BARS:]:
        ms = sum(share.total_ms or 0.0 for share in rest)
        bars.append(LayerBar(f"{len(rest)} other layers", "", ms, None, None, "rest"))
    return tuple(bars)


def layer_bars(table: LatencyTable) -> tuple[LayerBar, ...]:
    """Return the numbers of the chart of a table of layers alone, the slowest first."""
    slowest = sorted(table.values(), key=lambda m: m.median_ms, reverse=True)
    return tuple(
        LayerBar(str(m.layer), "", m.median_ms, m.within_run.low_ms, m.within_run.high_ms, "layer") for m in slowest
    )


def slowest_chart(bars: Sequence[LayerBar]) -> Chart:
    """Return layers alone as a chart of those that take most; all are behind it."""
    chart = bars_chart(bars[:MOST_BARS], "layers", x="ms")
    caption = f"The {MOST_BARS} slowest of {len(bars)} layers" if len(bars) > MOST_BARS else ""
    return chart._replace(points=bars, caption=caption)


def bars_chart(bars: Sequence[LayerBar], name: str, *, x: str = "ms, all occurrences") -> Chart:
    """Return bars as a chart, the first on top; ``name`` of its numbers' file, and ``x`` of its axis."""
    colours = {"end to end": CHOSEN, "disturbed": "rgba(0,0,0,0)", "layer": MEASURED, "rest": QUIET}
    shown = list(reversed(bars))
    figure = go.Figure(
        go.Bar(
            x=[bar.ms for bar in shown],
            # Two layers may look alike, and are two bars.
            y=list(range(len(shown))),
            orientation="h",
            width=BAR_HEIGHT,
            marker={
                "color": [colours[bar.kind] for bar in shown],
                "line": {"color": CHOSEN, "width": [1.5 if bar.kind == "disturbed" else 0 for bar in shown]},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [0.0 if bar.high_ms is None else bar.high_ms - bar.ms for bar in shown],
                "arrayminus": [0.0 if bar.low_ms is None else bar.ms - bar.low_ms for bar in shown],
                "color": LAW,
                "thickness": 1.2,
                "width": 3,
            },
            hovertext=[_hover(bar) for bar in shown],
            hoverinfo="text",
        )
    )
    finish(figure, y="", x=x, height=90 + 40 * len(shown), legend=False)
    # Above the bars rather than beside them, where names would leave a narrow page no room for bars.
    for y, bar in enumerate(shown):
        text = f"{bar.name}  {bar.operators}" if bar.operators else bar.name
        label = plot_label(shortened(text, LONGEST_LABEL))
        where = {"x": 0, "y": y + BAR_HEIGHT / 2, "xanchor": "left", "yanchor": "bottom", "xshift": -4}
        figure.add_annotation(text=label, showarrow=False, font={"size": 11}, **where)
    figure.update_yaxes(visible=False, range=[-0.5, len(shown) - 0.3])
    figure.update_layout(margin={"l": 12, "r": 16, "t": 4})
    return Chart(figure, bars, name)


def _hover(bar: LayerBar) -> str:
    text = f"{plot_label(bar.name)} {plot_label(bar.operators)}: {format_ms(bar.ms)} ms"
    if bar.low_ms is None or bar.high_ms is None:
        return text
    return f"{text} ({format_ms(bar.low_ms)} … {format_ms(bar.high_ms)})"


def layers_section(table: LatencyTable, network: MeasuredNetwork) -> Section:
    """Return all layers of a network as a table."""
    shares = table.breakdown(network)
    header = ["layer", "operators", "×", "ms each", "ms in all", "share"]
    rows = [_share_cells(share) for share in shares]
    return Section(
        f"All layers of {network.name}",
        [Text(f"{coverage(network, len(shares))}."), Table(header, rows, "named")],
        folded=True,
    )


def _share_cells(share: Share) -> list[str | Cell]:
    return [
        share.name,
        Cell(str(share.layer), share.kernel or ""),
        str(share.times),
        "–" if share.ms is None else format_ms(share.ms),
        "–" if share.total_ms is None else format_ms(share.total_ms),
        "not known" if share.share is None else f"{share.share:.1%}",
    ]


def sum_points(table: LatencyTable) -> tuple[SumPoint, ...]:
    """Return the networks that were measured as a whole and whose layers are all known."""
    found = []
    for network in table.networks:
        total = table.sum_ms(network)
        if network.end_to_end is not None and total is not None:
            found.append(SumPoint(network.name, total, network.end_to_end.median_ms))
    return tuple(found)


def sums_chart(points: Sequence[SumPoint]) -> Chart:
    """Return a chart of sums against whole networks."""
    most = max(max(point.sum_ms, point.end_to_end_ms) for point in points)
    figure = go.Figure()
    line = {"color": LAW, "dash": "dash"}
    figure.add_trace(
        go.Scatter(x=[0, most], y=[0, most], mode="lines", line=line, name="sum = end to end", hoverinfo="skip")
    )
    figure.add_trace(
        go.Scatter(
            x=[point.end_to_end_ms for point in points],
            y=[point.sum_ms for point in points],
            mode="markers",
            marker={"color": MEASURED, "size": 8},
            text=[plot_label(point.network) for point in points],
            hovertemplate="%{text}<br>sum %{y:.4g} ms, end to end %{x:.4g} ms<extra></extra>",
            name="networks",
        )
    )
    finish(figure, y="sum of layers in ms", x="end to end in ms", height=380)
    return Chart(figure, points, "sums-of-layers")


def sums_section(table: LatencyTable, *, drawn_before: bool) -> Section:
    """Return what the audit found; without the chart where the page has it already."""
    blocks: list[Block] = [Notice(LEVELS[audit_level(table)], audit_line(table))]
    points = sum_points(table)
    if len(table.networks) == 1:
        blocks.append(Text(f"{table.networks[0].name}: {sum_line(table, table.networks[0])}."))
    elif points and not drawn_before:
        blocks.append(sums_chart(points))
    return Section("Do sums of layers give the whole network?", blocks)

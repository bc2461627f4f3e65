"""The pieces that a report's page is made of: plots and tables, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from lut._printable import printable
from predictors._widths import MeasuredCurve

__all__ = [
    "CHOSEN",
    "LAW",
    "MEASURED",
    "QUIET",
    "finish",
    "folded",
    "gaps",
    "html_page",
    "html_plot",
    "html_table",
    "html_text",
    "plot_label",
    "staircase",
    "width_ticks",
]

# Okabe and Ito's palette, told apart by colour-blind readers too.
MEASURED, LAW, CHOSEN, QUIET = "#0072B2", "#777777", "#D55E00", "#9ecae1"
# Read on white and on black.
AXIS = "#767676"
MOST_TICKS = 16


# A plot takes its width when it is drawn, which may be before the window, or the page's scroll bar, has its own.
RESIZE = """<script>
new ResizeObserver(() => document.querySelectorAll(".plotly-graph-div").forEach((plot) => Plotly.Plots.resize(plot)))
  .observe(document.body);
</script>"""

STYLE = """
:root { color-scheme: light dark; --text: #222; --page: #fff; --line: #e5e5e5; --unsure: #8a5a00;
--warning: #fff8e6; --good: #eefaf5; --bad: #fdf0ea; }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --page: #16181b; --line: #3a3d42; --unsure: #e0a94e;
--warning: #33290f; --good: #10291f; --bad: #34190f; } }
@media print { body { max-width: none; font-size: 11pt; } details > * { display: block; } h2 { break-after: avoid; }
.plotly-graph-div, table tr, .warning, .audit, .failure { break-inside: avoid; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; overflow-wrap: anywhere; }
p { max-width: 46rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; } th, td { padding: .2rem .7rem .2rem 0; text-align: right;
border-bottom: 1px solid var(--line); white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
table.named th:nth-child(2), table.named td:nth-child(2) { text-align: left; }
table.brief th { white-space: normal; vertical-align: bottom; }
table.facts th, table.facts td { text-align: left; white-space: normal; vertical-align: top; }
table.facts td { overflow-wrap: break-word; } table.facts td:first-child { white-space: nowrap; }
@media (max-width: 40rem) { table.facts td:first-child { white-space: normal; min-width: 6rem; } }
summary { font-size: 1.2rem; font-weight: bold; margin: 2rem 0 .5rem; cursor: pointer; }
.warning { border-left: 4px solid #E69F00; background: var(--warning); padding: .4rem .8rem; margin: .4rem 0; }
.audit { border-left: 4px solid #009E73; background: var(--good); padding: .4rem .8rem; margin: .4rem 0; }
.failure { border-left: 4px solid #D55E00; background: var(--bad); padding: .4rem .8rem; margin: .4rem 0;
overflow-wrap: anywhere; }
.unsure { color: var(--unsure); } .big { font-size: 1.1rem; }
"""


def html_text(text: str) -> str:
    """Return text as HTML, for an element or an attribute in quotes: what is in it is shown and not obeyed."""
    return escape(printable(text))


def plot_label(text: str) -> str:
    """Return text as a plot shows it, in a name, a tick or a note: Plotly reads a few tags there, links among them."""
    # Entities of quotes would be shown as they are.
    return escape(printable(text), quote=False)


def html_page(title: str, heading: str, parts: Iterable[str]) -> str:
    """Return a self-contained HTML page of parts, which are HTML already."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # An empty icon, so that a browser does not go and look for one.
        '<link rel="icon" href="data:,">'
        f"<title>{html_text(title)} – latency-lut</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>"
        f"<h1>{html_text(heading)}</h1>" + "\n".join(parts) + RESIZE + "</body></html>\n"
    )


def staircase(curve: MeasuredCurve) -> go.Figure:
    """Return a figure of a curve's latencies with their within-run intervals, not yet finished."""
    x = list(curve.channels)
    shape: dict[str, Any] = {"shape": "hvh"}
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=x, y=gaps(curve.high_ms), mode="lines", line={"width": 0, **shape}, showlegend=False, hoverinfo="skip"
        )
    )
    figure.add_trace(
        go.Scatter(
            x=x,
            y=gaps(curve.low_ms),
            mode="lines",
            line={"width": 0, **shape},
            fill="tonexty",
            fillcolor="rgba(0,114,178,0.25)",
            name="within-run interval",
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        go.Scatter(x=x, y=gaps(curve.ms), mode="lines", line={"color": MEASURED, **shape}, name="measured m(x)")
    )
    return figure


def gaps(values: Iterable[float]) -> list[float | None]:
    """Return values with NaN as ``None``: JSON knows no NaN, and the line is to break there."""
    return [float(value) if np.isfinite(value) else None for value in values]


def finish(figure: go.Figure, *, y: str, x: str = "output channels", height: int, legend: bool = True) -> None:
    """Give a figure the report's look, with titles for its axes and a ``height`` in pixels."""
    figure.update_layout(
        template="simple_white",
        # On whichever page, light or dark.
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        height=height,
        margin={"l": 60, "r": 10, "t": 24, "b": 45},
        showlegend=legend,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis_title=x,
        yaxis_title=y,
        font={"size": 13, "color": AXIS},
    )
    figure.update_xaxes(linecolor=AXIS, tickcolor=AXIS)
    figure.update_yaxes(linecolor=AXIS, tickcolor=AXIS)


def width_ticks(widest: int) -> dict[str, Any]:
    """Return ticks of an axis of widths at multiples of eight, where the hardware's stairs end."""
    step = 8
    while widest / step > MOST_TICKS:
        step *= 2
    return {"tick0": 0, "dtick": step}


def folded(summary: str, content: str) -> str:
    """Return a section that opens at a click; ``content`` is HTML already."""
    return f"<details><summary>{html_text(summary)}</summary>{content}</details>"


def html_plot(figure: go.Figure) -> str:
    """Return a finished figure as HTML that takes the width it finds."""
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    return str(to_html(figure, full_html=False, include_plotlyjs=False, config=config, default_width="100%"))


def html_table(header: Sequence[str] | None, rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """Return an HTML table; cells are HTML already.

    ``kind``: ``facts`` for texts that may wrap, ``named`` where the second column is a text beside numbers, ``brief``
    for a header that may wrap; several with spaces between them.
    """
    head = "" if header is None else "<tr>" + "".join(f"<th>{html_text(h)}</th>" for h in header) + "</tr>"
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    styled = f' class="{kind}"' if kind else ""
    return f'<div class="scroll"><table{styled}>{head}{body}</table></div>'

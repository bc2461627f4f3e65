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
    "gaps",
    "html_page",
    "html_plot",
    "html_table",
    "html_text",
    "plot_label",
    "staircase",
]

# Okabe and Ito's palette, told apart by colour-blind readers too.
MEASURED, LAW, CHOSEN, QUIET = "#0072B2", "#555555", "#D55E00", "#9ecae1"


# A plot takes its width when it is drawn, which may be before the window, or the page's scroll bar, has its own.
RESIZE = """<script>
new ResizeObserver(() => document.querySelectorAll(".plotly-graph-div").forEach((plot) => Plotly.Plots.resize(plot)))
  .observe(document.body);
</script>"""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; overflow-wrap: anywhere; }
p { max-width: 46rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; } th, td { padding: .2rem .7rem .2rem 0; text-align: right;
border-bottom: 1px solid #e5e5e5; white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
table.named th:nth-child(2), table.named td:nth-child(2) { text-align: left; }
table.brief th { white-space: normal; vertical-align: bottom; }
table.facts td:first-child { min-width: 7rem; }
table.facts th, table.facts td { text-align: left; white-space: normal; vertical-align: top; overflow-wrap: anywhere; }
.warning { border-left: 4px solid #E69F00; background: #fff8e6; padding: .4rem .8rem; margin: .4rem 0; }
.audit { border-left: 4px solid #009E73; background: #eefaf5; padding: .4rem .8rem; margin: .4rem 0; }
.failure { border-left: 4px solid #D55E00; background: #fdf0ea; padding: .4rem .8rem; margin: .4rem 0;
overflow-wrap: anywhere; }
.unsure { color: #8a5a00; } .big { font-size: 1.1rem; }
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
        height=height,
        margin={"l": 60, "r": 10, "t": 24, "b": 45},
        showlegend=legend,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis_title=x,
        yaxis_title=y,
        font={"size": 13},
    )


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

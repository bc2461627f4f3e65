"""The report's section about a network's own layers: what other widths would buy, and the staircases behind it."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from lut import LatencyTable
from predictors import measured_curves
from predictors._gains import WidthGain, shown_modules, swept_curve
from predictors._show import GAINS_HEADER, GAINS_NOTE, gain_cells
from predictors._widths import MeasuredCurve
from profiler._page import CHOSEN, LAW, MEASURED, QUIET, finish, html_plot, html_table, html_text, staircase

__all__ = ["sweep_section"]

# Staircases of a deep network would be a page of their own.
MOST_PLOTS = 5
# Different layers of a row that are named in a heading.
MOST_NAMED = 3


def sweep_section(gains: Sequence[WidthGain], table: LatencyTable) -> str:
    """Return the section as HTML: a line per layer, and the staircases of those with the largest gain.

    Args:
        gains: largest first, as :func:`predictors.width_gains` returns them; of none there is no section.
        table: with the curves that they are from.
    """
    if not gains:
        return ""
    rows = [[html_text(cell) for cell in gain_cells(gain)] for gain in gains]
    text = f"<h2>The network's layers and their widths</h2><p>{html_text(GAINS_NOTE)}</p>" + html_table(
        GAINS_HEADER, rows
    )
    worth = [gain for gain in gains if gain.narrower is not None and gain.narrower.gain_ms > 0][:MOST_PLOTS]
    measured = dict(zip(table.curves, measured_curves(table), strict=True))
    for gain in worth:
        curve = swept_curve(table, gain.layers[0]) if len(gain.layers) == gain.count == 1 else None
        text += _staircase(gain, None if curve is None else measured[curve])
    return text


def _staircase(gain: WidthGain, curve: MeasuredCurve | None) -> str:
    """Draw a row: with its interval where it is one layer, else what its layers take together."""
    if curve is not None:
        figure = staircase(curve)
    else:
        figure = go.Figure(
            go.Scatter(
                x=list(gain.widths),
                y=list(gain.widths_ms),
                mode="lines",
                line={"shape": "hv", "color": MEASURED},
                name="all layers together",
            )
        )
    by_width = dict(zip(gain.widths, gain.widths_ms, strict=True))
    changes = [change for change in (gain.narrower, gain.wider) if change is not None]
    special = {gain.channels, *(change.channels for change in changes)}
    friendly = [width for width in gain.friendly_channels if width not in special]
    _mark(figure, "friendly widths", QUIET, friendly, [by_width[width] for width in friendly], labelled=False)
    _mark(figure, "own width", LAW, [gain.channels], [gain.ms])
    _mark(figure, "suggested", CHOSEN, [c.channels for c in changes], [c.ms for c in changes])
    finish(figure, y="latency in ms", height=300)
    what = f"{shown_modules(gain.modules)}: {', '.join(map(str, gain.layers[:MOST_NAMED]))}"
    return f"<h3>{html_text(what)}</h3>" + html_plot(figure)


def _mark(
    figure: go.Figure, name: str, colour: str, widths: Sequence[int], ms: Sequence[float], *, labelled: bool = True
) -> None:
    if widths:
        figure.add_trace(
            go.Scatter(
                x=list(widths),
                y=list(ms),
                mode="markers+text" if labelled else "markers",
                text=[str(width) for width in widths] if labelled else None,
                textposition="bottom center",
                marker={"color": colour, "size": 9 if labelled else 6},
                name=name,
            )
        )

"""How a report's plots look: colours, axes, and the staircase of a curve."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lut._printable import printable

__all__ = [
    "CHOSEN",
    "LAW",
    "MEASURED",
    "QUIET",
    "add_stairs",
    "counting_axis",
    "finish",
    "known",
    "plot_label",
    "width_ticks",
]

# Okabe and Ito's palette, told apart by colour-blind readers too.
MEASURED, LAW, CHOSEN, QUIET = "#0072B2", "#777777", "#D55E00", "#9ecae1"
# Read on white and on black.
AXIS = "#767676"
MOST_TICKS = 16


def plot_label(text: str) -> str:
    """Return text as a plot shows it, in a name, a tick or a note: Plotly reads a few tags there, links among them."""
    # Entities of quotes would be shown as they are.
    return escape(printable(text), quote=False)


def known(value: float) -> float | None:
    """Return a value, ``None`` for NaN and infinity: neither JSON nor CSV knows them."""
    return float(value) if np.isfinite(value) else None


def add_stairs(
    figure: go.Figure,
    channels: Sequence[int],
    ms: Sequence[float | None],
    low_ms: Sequence[float | None],
    high_ms: Sequence[float | None],
    *,
    name: str,
) -> None:
    """Add the latencies of widths with their within-run intervals, in ms; without intervals the line alone."""
    stairs: dict[str, Any] = {"shape": "hvh"}
    edge = {"x": list(channels), "mode": "lines", "line": {"width": 0, **stairs}, "hoverinfo": "skip"}
    if any(value is not None for value in low_ms):
        figure.add_trace(go.Scatter(y=list(high_ms), showlegend=False, **edge))
        band = {"fill": "tonexty", "fillcolor": "rgba(0,114,178,0.25)", "name": "within-run interval"}
        figure.add_trace(go.Scatter(y=list(low_ms), **edge, **band))
    line = {"color": MEASURED, **stairs}
    figure.add_trace(go.Scatter(x=list(channels), y=list(ms), mode="lines", line=line, name=name))


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


def counting_axis(last: int) -> dict[str, Any]:
    """Return ticks of an axis that counts to ``last``: there is no epoch 1.5."""
    steps = (factor * 10**power for power in range(10) for factor in (1, 2, 5))
    return {"tick0": 0, "dtick": next(step for step in steps if last / step <= MOST_TICKS)}

"""The part about a network's own layers: what other widths would buy, and the staircases behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import plotly.graph_objects as go

from lut import LatencyTable
from predictors import measured_curves
from predictors._gains import WidthGain, shown_modules, swept_curve
from predictors._show import GAINS_HEADER, GAINS_NOTE, gain_cells
from predictors._widths import MeasuredCurve
from profiler._report._page import Block, Chart, Section, Table, Text
from profiler._report._plots import CHOSEN, LAW, QUIET, add_stairs, finish, known, width_ticks

__all__ = ["GainPoint", "gain_points", "gains_chart", "sweep_sections"]

# Staircases of a deep network would be a page of their own.
MOST_PLOTS = 5
# Different layers of a row that are named in a heading.
MOST_NAMED = 3


class GainPoint(NamedTuple):
    """A width of layers that are equally wide, and what they take together in ms.

    ``low_ms``, ``high_ms``: the within-run interval, where the row is one layer. ``mark``: the layers' ``own`` width,
    a ``suggested`` one, or another that is ``friendly``.
    """

    channels: int
    ms: float | None
    low_ms: float | None
    high_ms: float | None
    mark: Literal["", "own", "suggested", "friendly"]


def gain_points(gain: WidthGain, curve: MeasuredCurve | None) -> tuple[GainPoint, ...]:
    """Return the numbers of a row's chart: with the intervals of its curve where it is one layer, else sums."""
    suggested = {change.channels for change in (gain.narrower, gain.wider) if change is not None}
    sums = dict(zip(gain.widths, gain.widths_ms, strict=True))

    def mark(width: int) -> Literal["", "own", "suggested", "friendly"]:
        if width == gain.channels:
            return "own"
        if width in suggested:
            return "suggested"
        return "friendly" if width in gain.friendly_channels else ""

    if curve is None:
        return tuple(GainPoint(width, ms, None, None, mark(width)) for width, ms in sums.items())
    return tuple(
        GainPoint(width, known(curve.ms[i]), known(curve.low_ms[i]), known(curve.high_ms[i]), mark(width))
        for i, width in enumerate(curve.channels)
    )


def gains_chart(points: Sequence[GainPoint], name: str, *, together: bool) -> Chart:
    """Return a row as a chart; ``together``: it is of several layers."""
    figure = go.Figure()
    add_stairs(
        figure,
        [point.channels for point in points],
        [point.ms for point in points],
        [point.low_ms for point in points],
        [point.high_ms for point in points],
        name="all layers together" if together else "measured m(x)",
    )
    for kind, label, colour in (
        ("friendly", "friendly widths", QUIET),
        ("own", "own width", LAW),
        ("suggested", "suggested", CHOSEN),
    ):
        if marked := [point for point in points if point.mark == kind]:
            figure.add_trace(
                go.Scatter(
                    x=[point.channels for point in marked],
                    y=[point.ms for point in marked],
                    mode="markers" if kind == "friendly" else "markers+text",
                    text=None if kind == "friendly" else [str(point.channels) for point in marked],
                    textposition="bottom center",
                    marker={"color": colour, "size": 6 if kind == "friendly" else 9},
                    name=label,
                )
            )
    finish(figure, y="latency in ms", height=320)
    figure.update_xaxes(**width_ticks(max(point.channels for point in points)))
    return Chart(figure, points, name)


def sweep_sections(gains: Sequence[WidthGain], table: LatencyTable) -> list[Section]:
    """Return a table with a line per layer, and the staircases of those with the largest gain.

    Args:
        gains: largest first, as :func:`predictors.width_gains` returns them; of none there is no section.
        table: with the curves that they are from.
    """
    if not gains:
        return []
    worth = [gain for gain in gains if gain.narrower is not None and gain.narrower.gain_ms > 0][:MOST_PLOTS]
    measured = dict(zip(table.curves, measured_curves(table), strict=True))
    charts: list[Block] = []
    for gain in worth:
        curve = swept_curve(table, gain.layers[0]) if len(gain.layers) == gain.count == 1 else None
        points = gain_points(gain, None if curve is None else measured[curve])
        caption = f"{shown_modules(gain.modules)}: {', '.join(map(str, gain.layers[:MOST_NAMED]))}"
        chart = gains_chart(points, f"stairs-{gain.name}", together=gain.count > 1)
        charts.append(chart._replace(caption=caption))
    rows = [gain_cells(gain) for gain in gains]
    return [
        Section("The network's layers and their widths", [Table(GAINS_HEADER, rows), Text(GAINS_NOTE)]),
        Section("The stairs of the layers with the largest gain", charts),
    ]

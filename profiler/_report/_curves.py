"""The part about a space's channel sweeps: their stairs, the fitted law, and the widths chosen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from predictors._show import CHOICES_COLUMNS, SURE_SHARE, UNSURE_NOTE, choice_cells, law_line
from predictors._widths import WidthSelection
from profiler._report._page import Block, Cell, Chart, Fold, Section, Table, Text
from profiler._report._plots import CHOSEN, LAW, QUIET, add_stairs, finish, known, width_ticks

__all__ = ["StairPoint", "selection_blocks", "stair_points", "stairs_chart", "widths_section"]


# Of a bar without a filling.
NOTHING = "rgba(0,0,0,0)"


class StairPoint(NamedTuple):
    """A width of a channel sweep.

    ``ms``, ``low_ms``, ``high_ms``: measured, with the within-run interval; ``None`` where it was not. ``law_ms`` and
    ``score_ms``: the fitted law and the score, its distance to the law. ``group``: the group of widths that it competes
    in, from 0. ``chosen_share``: of a chosen width, how often resampled visits choose it; ``None`` of the others.
    """

    channels: int
    ms: float | None
    low_ms: float | None
    high_ms: float | None
    law_ms: float
    score_ms: float | None
    group: int
    chosen_share: float | None


def stair_points(selection: WidthSelection) -> tuple[StairPoint, ...]:
    """Return the numbers of a stage's chart."""
    curve = selection.curve
    shares = {choice.channels: choice.chosen_share for choice in selection.choices}
    lasts = [choice.last for choice in selection.choices]
    return tuple(
        StairPoint(
            channels,
            known(curve.ms[i]),
            known(curve.low_ms[i]),
            known(curve.high_ms[i]),
            float(selection.law_ms[i]),
            known(selection.scores_ms[i]),
            sum(channels > last for last in lasts),
            shares.get(channels),
        )
        for i, channels in enumerate(curve.channels)
    )


def stairs_chart(points: Sequence[StairPoint], name: str) -> Chart:
    """Return a stage as a chart: the stairs above, and under them, on the same axis, the scores."""
    x = [point.channels for point in points]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.05)
    latency = go.Figure()
    add_stairs(
        latency,
        x,
        [point.ms for point in points],
        [point.low_ms for point in points],
        [point.high_ms for point in points],
        name="measured m(x)",
    )
    law = {"color": LAW, "dash": "dash"}
    latency.add_trace(go.Scatter(x=x, y=[point.law_ms for point in points], mode="lines", line=law, name="law f(x)"))
    latency.add_trace(_choices([point for point in points if point.chosen_share is not None]))
    figure.add_traces(latency.data, rows=1, cols=1)
    figure.add_trace(_scores(points), row=2, col=1)
    for before, after in itertools.pairwise(points):
        if before.group != after.group:
            edge = (before.channels + after.channels) / 2
            figure.add_vline(x=edge, line={"dash": "dash", "width": 1, "color": "#bbbbbb"}, row=2, col=1)
    finish(figure, y="latency in ms", height=560)
    figure.update_xaxes(title_text=None, row=1, col=1)
    figure.update_xaxes(title_text="output channels", row=2, col=1)
    figure.update_xaxes(**width_ticks(x[-1]))
    figure.update_yaxes(title_text="score in ms", row=2, col=1)
    return Chart(figure, points, name)


def _scores(points: Sequence[StairPoint]) -> go.Bar:
    """Return the scores; the bar of an unsure choice is hollow, as its mark on the stairs is."""
    fill, edge = [], []
    for point in points:
        chosen = point.chosen_share is not None
        edge.append(CHOSEN if chosen else QUIET)
        fill.append(NOTHING if chosen and not _is_sure(point) else edge[-1])
    return go.Bar(
        x=[point.channels for point in points],
        y=[point.score_ms for point in points],
        marker={"color": fill, "line": {"color": edge, "width": 1.5}},
        name="score s(x)",
        showlegend=False,
    )


def _is_sure(point: StairPoint) -> bool:
    return (point.chosen_share or 0.0) >= SURE_SHARE


def _choices(chosen: Sequence[StairPoint]) -> go.Scatter:
    sure = [_is_sure(point) for point in chosen]
    return go.Scatter(
        x=[point.channels for point in chosen],
        y=[point.ms for point in chosen],
        mode="markers+text",
        text=[f"{point.channels}{'' if is_sure else '~'}" for point, is_sure in zip(chosen, sure, strict=True)],
        textposition="bottom center",
        marker={
            "color": CHOSEN,
            "size": 9,
            # One that this run cannot tell from another is drawn hollow.
            "symbol": ["circle" if is_sure else "circle-open" for is_sure in sure],
            "line": {"width": 2},
        },
        name="chosen (hollow: unsure)",
    )


def selection_blocks(selection: WidthSelection) -> list[Block]:
    """Return a stage's chart, with its law and its choices in numbers folded behind it."""
    curve = selection.curve
    rows: list[list[str | Cell]] = []
    for choice in selection.choices:
        group, width, *rest = choice_cells(choice)
        rows.append([group, Cell(width, look="bold"), *rest])
    note = (
        "One choice per group: its margin over the runner-up in standard errors, how often resampled visits choose it, "
        "and what an evenly spaced grid would have taken."
    )
    header = [column.title for column in CHOICES_COLUMNS]
    numbers: list[Block] = [Text(law_line(selection)), Text(note), Table(header, rows)]
    chart = stairs_chart(stair_points(selection), f"stairs-{curve.name}")
    return [
        chart._replace(caption=f"{curve.name}, {curve.size}" if curve.size else curve.name),
        Fold(f"The law and the choices of {curve.name}", numbers),
    ]


def widths_section(selections: Sequence[WidthSelection]) -> Section:
    """Return the widths chosen in all stages."""
    if not selections:
        return Section("", [])
    rows: list[list[str | Cell | Sequence[Cell]]] = [
        [
            selection.curve.name,
            selection.curve.size,
            [
                Cell(str(c.channels)) if c.chosen_share >= SURE_SHARE else Cell(f"{c.channels}~", look="unsure")
                for c in selection.choices
            ],
        ]
        for selection in selections
    ]
    blocks: list[Block] = [Table(["stage", "output size", "search space"], rows, "facts")]
    if any(c.chosen_share < SURE_SHARE for selection in selections for c in selection.choices):
        blocks.append(Text(f"{UNSURE_NOTE}."))
    return Section("Hardware-aware widths", blocks)

"""What HTAS adds to a report: how the search went, and the widths beside those of the base network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import plotly.graph_objects as go

from profiler._report._page import Block, Chart, Section, Table, Text
from profiler._report._plots import CHOSEN, LAW, MEASURED, QUIET, counting_axis, finish, plot_label
from search._runs._compared import predicted_before, result_name

if TYPE_CHECKING:
    from lut import Network
    from search._runs._result import RunResult
    from search.htas._method import HtasMethod

__all__ = ["EpochPoint", "WidthBar", "epoch_points", "sections", "width_bars"]


class WidthBar(NamedTuple):
    """A convolution's channels in the base network and in the one found; ``None`` where it is not there."""

    layer: str
    base_channels: int
    found_channels: int | None


class EpochPoint(NamedTuple):
    """An epoch of the search.

    ``expected_ms``: over the probabilities, where the search went by it; ``ms`` and ``bound_ms``: of the most probable
    network, predicted and at the end of the interval that a budget is held against; ``accuracy``: its share right of
    validation images, with the shared weights.
    """

    epoch: int
    expected_ms: float | None
    ms: float
    bound_ms: float
    accuracy: float


def sections(method: HtasMethod, result: RunResult) -> list[Section]:
    """Return what HTAS adds to a report."""
    return [_widths(result), _course(method, result), _choices(method)]


def width_bars(result: RunResult) -> tuple[WidthBar, ...]:
    """Return the numbers of the chart of widths, of the convolutions whose width is searched."""

    def searched(network: Network) -> dict[str, int]:
        return {
            item.name: item.layer.out_channels
            for item in network.layers
            if item.name == "stem" or item.name.rpartition(".")[2].startswith("conv")
        }

    found = searched(result.network)
    return tuple(WidthBar(name, width, found.get(name)) for name, width in searched(result.base).items())


def _widths(result: RunResult) -> Section:
    bars = width_bars(result)
    labels = [plot_label(bar.layer) for bar in bars]
    figure = go.Figure()
    base = [bar.base_channels for bar in bars]
    figure.add_trace(go.Bar(x=labels, y=base, marker={"color": QUIET}, name=plot_label(result.base.name), width=0.95))
    name = result_name(result)
    found: dict[str, Any] = {"marker": {"color": CHOSEN}, "name": name, "width": 0.5}
    hover = f"%{{x}}: %{{y}} channels<extra>{name}</extra>"
    figure.add_trace(go.Bar(x=labels, y=[bar.found_channels for bar in bars], hovertemplate=hover, **found))
    finish(figure, y="channels", x="", height=420)
    figure.update_layout(barmode="overlay", xaxis={"type": "category", "tickangle": -60, "tickfont": {"size": 10}})
    dropped = sum(bar.found_channels is None for bar in bars)
    text = "Channels of each convolution"
    if dropped:
        text += f"; {dropped} of the base network's {len(bars)} are not there"
    return Section("Widths", [Text(f"{text}."), Chart(figure, bars, "widths")])


def epoch_points(method: HtasMethod, result: RunResult) -> tuple[EpochPoint, ...]:
    """Return the numbers of the charts of the search."""
    charged = method.cost != "madds" and method.strategy == "gradient"
    return tuple(
        EpochPoint(epoch.epoch, epoch.expected if charged else None, epoch.ms, epoch.bound_ms, epoch.accuracy)
        for epoch in result.found.course.history
    )


def _course(method: HtasMethod, result: RunResult) -> Section:
    points = epoch_points(method, result)
    x = [point.epoch for point in points]
    latency = go.Figure()
    lines: list[tuple[str, list[float | None], dict[str, Any]]] = [
        ("expected", [point.expected_ms for point in points], {"color": LAW, "dash": "dash"}),
        ("most probable network, predicted", [point.ms for point in points], {"color": MEASURED}),
        ("its upper bound", [point.bound_ms for point in points], {"color": MEASURED, "dash": "dot"}),
    ]
    for name, y, line in lines:
        if any(value is not None for value in y):
            latency.add_trace(go.Scatter(x=x, y=y, line=line, name=name))
    latency.add_trace(
        go.Scatter(
            x=[result.found.course.from_epoch],
            y=[predicted_before(result)[0]],
            mode="markers",
            marker={"color": CHOSEN, "size": 11, "symbol": "diamond"},
            name=result_name(result),
        )
    )
    budget_ms = result.plan.budgets.ms
    if budget_ms is not None:
        latency.add_hline(y=budget_ms, line={"color": CHOSEN, "width": 1}, annotation_text="budget")
    finish(latency, y="latency in ms", x="epoch of the search", height=380)
    accuracy = go.Figure()
    percent = [100 * point.accuracy for point in points]
    accuracy.add_trace(go.Scatter(x=x, y=percent, line={"color": MEASURED}, name="most probable network"))
    finish(accuracy, y="validation accuracy in %", x="epoch of the search", height=300, legend=False)
    for figure in (latency, accuracy):
        figure.update_xaxes(**counting_axis(max(x, default=1)))
    note = "Accuracy of the most probable network with the shared weights, on training images held out from them."
    derived = f"The network was derived after epoch {result.found.course.from_epoch}."
    blocks: list[Block] = [Text(derived), Chart(latency, points, "search")]
    blocks += [Text(note), Chart(accuracy, points, "search")]
    return Section("The search", blocks)


def _choices(method: HtasMethod) -> Section:
    rows = [
        [s.curve.name, s.curve.size, ", ".join(str(choice.channels) for choice in s.choices)] for s in method.selections
    ]
    table = Table(["stage", "output size", "widths"], rows, "facts")
    return Section("Hardware-aware widths", [table] if rows else [], folded=True)

"""HTAS's report: what was found, how the search went, and the widths beside those of the base network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import plotly.graph_objects as go

from lut._console import format_ms
from profiler._report._page import Answer, Block, Chart, Section, Table, Text, html_page
from profiler._report._plots import CHOSEN, LAW, MEASURED, QUIET, counting_axis, finish, plot_label
from search._runs._report_parts import (
    TradeOffPoint,
    accuracy_sentence,
    latency_sentence,
    settings_section,
    speed_up_sentence,
    trade_off_chart,
    trained_points,
    trainings_section,
    warnings_of,
)

if TYPE_CHECKING:
    from lut import Network
    from predictors import LatencyPredictor
    from search._training._train import Trained
    from search.htas._run import RunPlan, RunResult

__all__ = ["EpochPoint", "WidthBar", "epoch_points", "search_report", "trade_off_points", "width_bars"]

FOUND = "found"


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


def search_report(plan: RunPlan, result: RunResult, predictor: LatencyPredictor) -> str:
    """Return a self-contained HTML page about a run."""
    sections = [
        _networks(result),
        _widths(result),
        _course(plan, result),
        trainings_section({FOUND: result.trained, result.base.name: result.base_trained}),
        _choices(result),
        _settings(plan, result, predictor),
    ]
    what = "the upper end of its interval" if plan.bound == "upper" else "its prediction"
    budget = "" if plan.budget_ms is None else f" · budget {plan.budget_ms:g} ms for {what}"
    return html_page(
        "search",
        heading=f"ResNet-{plan.depth}, searched for {predictor.device.model}",
        subtitle=f"{predictor.setting} · data: {plan.data}{budget}",
        answer=_answer(plan, result),
        sections=sections,
    )


def _answer(plan: RunPlan, result: RunResult) -> Answer:
    prediction, measured = result.search.prediction, result.measured
    sentences = [
        latency_sentence(prediction.ms, measured, plan.budget_ms),
        speed_up_sentence(result.base.name, measured),
        accuracy_sentence(result.trained, result.base.name, result.base_trained),
    ]
    chart = trade_off_chart(
        trade_off_points(result),
        plan.budget_ms,
        bound=plan.bound,
        on_the_way="validation accuracy with shared weights",
    )
    return Answer(
        [text for text in sentences if text],
        [chart, *warnings_of(prediction, measured, result.not_measured, result.warnings)],
    )


def trade_off_points(result: RunResult) -> tuple[TradeOffPoint, ...]:
    """Return the numbers of the chart of accuracy against latency."""
    ends = trained_points(
        (FOUND, result.search.prediction.ms, result.trained),
        (result.base.name, result.base_predicted_ms, result.base_trained),
        result.measured,
    )
    way = [
        TradeOffPoint(f"epoch {epoch.epoch}", "on the way", False, epoch.ms, None, None, epoch.accuracy)
        for epoch in result.search.history
    ]
    return (*ends, *way)


def _networks(result: RunResult) -> Section:
    measured, prediction = result.measured, result.search.prediction
    bound = "" if prediction.high_ms is None else f" (up to {format_ms(prediction.high_ms)})"

    def row(
        name: str, network: Network, predicted: str, trained: Trained, ms: tuple[float, float, float] | None
    ) -> list[str]:
        seen = "–" if ms is None else f"{format_ms(ms[0])} ({format_ms(ms[1])} … {format_ms(ms[2])})"
        return [
            name,
            predicted,
            seen,
            f"{trained.test_accuracy:.2%}",
            f"{network.madds / 1e6:.1f}",
            f"{network.parameters / 1e6:.3f}",
        ]

    winner_ms = None if measured is None else (measured.winner_ms, measured.winner_low_ms, measured.winner_high_ms)
    base_ms = None if measured is None else (measured.base_ms, measured.base_low_ms, measured.base_high_ms)
    predicted = f"{format_ms(prediction.ms)}{bound}"
    rows = [
        row(FOUND, result.search.network, predicted, result.trained, winner_ms),
        row(result.base.name, result.base, format_ms(result.base_predicted_ms), result.base_trained, base_ms),
    ]
    header = ["network", "predicted ms", "measured ms (95 %)", "test accuracy", "M multiply-adds", "M parameters"]
    return Section("The networks", [Table(header, rows, "brief")])


def width_bars(result: RunResult) -> tuple[WidthBar, ...]:
    """Return the numbers of the chart of widths, of the convolutions whose width is searched."""

    def searched(network: Network) -> dict[str, int]:
        return {
            item.name: item.layer.out_channels
            for item in network.layers
            if item.name == "stem" or item.name.rpartition(".")[2].startswith("conv")
        }

    found = searched(result.search.network)
    return tuple(WidthBar(name, width, found.get(name)) for name, width in searched(result.base).items())


def _widths(result: RunResult) -> Section:
    bars = width_bars(result)
    labels = [plot_label(bar.layer) for bar in bars]
    figure = go.Figure()
    base = [bar.base_channels for bar in bars]
    figure.add_trace(go.Bar(x=labels, y=base, marker={"color": QUIET}, name=plot_label(result.base.name), width=0.95))
    found: dict[str, Any] = {"marker": {"color": CHOSEN}, "name": FOUND, "width": 0.5}
    hover = "%{x}: %{y} channels<extra>found</extra>"
    figure.add_trace(go.Bar(x=labels, y=[bar.found_channels for bar in bars], hovertemplate=hover, **found))
    finish(figure, y="channels", x="", height=420)
    figure.update_layout(barmode="overlay", xaxis={"type": "category", "tickangle": -60, "tickfont": {"size": 10}})
    dropped = sum(bar.found_channels is None for bar in bars)
    text = "Channels of each convolution"
    if dropped:
        text += f"; {dropped} of the base network's {len(bars)} are not there"
    return Section("Widths", [Text(f"{text}."), Chart(figure, bars, "widths")])


def epoch_points(plan: RunPlan, result: RunResult) -> tuple[EpochPoint, ...]:
    """Return the numbers of the charts of the search."""
    charged = plan.cost != "madds" and plan.strategy == "gradient"
    return tuple(
        EpochPoint(epoch.epoch, epoch.expected if charged else None, epoch.ms, epoch.bound_ms, epoch.accuracy)
        for epoch in result.search.history
    )


def _course(plan: RunPlan, result: RunResult) -> Section:
    points = epoch_points(plan, result)
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
            x=[result.search.from_epoch],
            y=[result.search.prediction.ms],
            mode="markers",
            marker={"color": CHOSEN, "size": 11, "symbol": "diamond"},
            name=FOUND,
        )
    )
    if plan.budget_ms is not None:
        latency.add_hline(y=plan.budget_ms, line={"color": CHOSEN, "width": 1}, annotation_text="budget")
    finish(latency, y="latency in ms", x="epoch of the search", height=380)
    accuracy = go.Figure()
    percent = [100 * point.accuracy for point in points]
    accuracy.add_trace(go.Scatter(x=x, y=percent, line={"color": MEASURED}, name="most probable network"))
    finish(accuracy, y="validation accuracy in %", x="epoch of the search", height=300, legend=False)
    for figure in (latency, accuracy):
        figure.update_xaxes(**counting_axis(max(x, default=1)))
    note = "Accuracy of the most probable network with the shared weights, on training images held out from them."
    blocks: list[Block] = [Chart(latency, points, "search"), Text(note), Chart(accuracy, points, "search")]
    return Section("The search", blocks)


def _choices(result: RunResult) -> Section:
    rows = [
        [s.curve.name, s.curve.size, ", ".join(str(choice.channels) for choice in s.choices)] for s in result.selections
    ]
    table = Table(["stage", "output size", "widths"], rows, "facts")
    return Section("Hardware-aware widths", [table] if rows else [], folded=True)


def _settings(plan: RunPlan, result: RunResult, predictor: LatencyPredictor) -> Section:
    settings = msgspec.to_builtins(plan)
    # The widths themselves have a section.
    settings.pop("options")
    digests, search, training = settings.pop("tables"), settings.pop("search"), settings.pop("recipe")
    first = [
        ("tables", [table.name for table in predictor.tables]),
        ("tables' digests", [digest[:12] for digest in digests]),
        ("derived from epoch", result.search.from_epoch),
    ]
    weights = search.pop("recipe")
    grouped = [("search", search), ("search's weights", weights), ("training", training)]
    return settings_section([*first, *settings.items(), *grouped])

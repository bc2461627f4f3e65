"""What reports of all searches hold: accuracy against latency, the trainings, warnings, settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import plotly.graph_objects as go

from lut._console import format_ms
from profiler._report._page import Block, Chart, Notice, Section, Table, Text
from profiler._report._plots import CHOSEN, MEASURED, QUIET, counting_axis, finish, known, plot_label
from search._runs._ending import NOT_ASKED
from search._runs._method import TradeOffPoint

if TYPE_CHECKING:
    from predictors._predictions import NetworkPrediction
    from search._runs._ending import Measured
    from search._runs._verify import Verification
    from search._training._train import Trained

__all__ = [
    "TradeOffPoint",
    "TrainingPoint",
    "accuracy_sentence",
    "add_budget",
    "latency_sentence",
    "setting_text",
    "settings_section",
    "speed_up_sentence",
    "trade_off_chart",
    "trained_points",
    "training_points",
    "trainings_section",
    "warnings_of",
]


# From here on a number's thousands are set apart.
THOUSANDS = 10_000


class TrainingPoint(NamedTuple):
    """A network's accuracy on test images after an epoch of its training; ``None`` where it was not tested."""

    network: str
    epoch: int
    test_accuracy: float | None


# --- sentences ---


def latency_sentence(
    predicted_ms: float | None,
    measured: Measured | None,
    budget_ms: float | None,
    verification: Verification | None = None,
) -> str:
    """Return what the network found takes, beside what was predicted and what it was allowed to take."""
    budget = "" if budget_ms is None else f"the budget of {format_ms(budget_ms)} ms"
    if measured is None:
        if predicted_ms is None:
            return ""
        unchecked = f"; {budget} was not checked by a measurement" if budget else ""
        return f"The network found is predicted to take {format_ms(predicted_ms)} ms{unchecked}."
    low, high, when = measured.winner_low_ms, measured.winner_high_ms, ""
    if verification is not None and verification.holds == "any-day" and measured.winner_day_high_ms is not None:
        low, high, when = measured.winner_day_low_ms or low, measured.winner_day_high_ms, " on any day"
    ms = f"{format_ms(measured.winner_ms)} ms as measured ({format_ms(low)} … {format_ms(high)}{when})"
    if predicted_ms is not None:
        ms += f", {format_ms(predicted_ms)} ms as predicted ({predicted_ms / measured.winner_ms - 1:+.1%})"
    if budget_ms is not None and verification is not None and verification.chosen is None:
        beyond = f"the upper end of its interval exceeds it by {high / budget_ms - 1:.1%}"
        return f"No network measured keeps {budget}. The nearest takes {ms}: {beyond}."
    text = f"The network found takes {ms}"
    if budget_ms is None:
        return text + "."
    if high <= budget_ms:
        return f"{text}: within {budget}."
    if low > budget_ms:
        return f"{text}: it exceeds {budget} by {measured.winner_ms / budget_ms - 1:.1%}."
    return f"{text}: it may exceed {budget}."


def speed_up_sentence(base: str, measured: Measured | None) -> str:
    """Return how many times as long the base network takes."""
    if measured is None:
        return ""
    up = measured.speed_up
    return f"{base} takes {up.value:.2f} times as long ({up.low:.2f} … {up.high:.2f})."


def accuracy_sentence(trained: Trained, base: str, base_trained: Trained | None) -> str:
    """Return what the network found knows, beside the base network."""
    text = f"Trained, the network found has a test accuracy of {trained.test_accuracy:.2%}"
    return f"{text}." if base_trained is None else f"{text}, {base} of {base_trained.test_accuracy:.2%}."


def warnings_of(
    prediction: NetworkPrediction | None,
    measured: Measured | None,
    not_measured: str | None,
    run: Sequence[str] = (),
) -> list[Block]:
    """Return what a reader must know before believing the numbers; ``run`` has warnings of the run itself."""
    outside = () if prediction is None else prediction.outside
    texts = [*run]
    texts += [f"unlike the networks that the prediction rests on: {text}" for text in outside]
    texts += () if measured is None else measured.warnings
    found: list[Block] = [Notice("warning", text) for text in texts]
    if not_measured == NOT_ASKED:
        found.append(Text(f"Not measured: {NOT_ASKED}."))
    elif not_measured is not None:
        found.append(Notice("bad", f"not measured: {not_measured}"))
    return found


# --- accuracy against latency ---


def trained_points(
    found: tuple[str, float | None, Trained | None],
    base: tuple[str, float | None, Trained | None],
    measured: Measured | None,
) -> list[TradeOffPoint]:
    """Return the points of the network found and the base one, of those that were trained and have a latency.

    Args:
        found: its name, the ms predicted, and its training.
        base: the same.
        measured: both on the device.
    """
    points = []
    for kind, (name, predicted_ms, trained) in (("found", found), ("base", base)):
        if trained is None:
            continue
        ms, low, high = predicted_ms, None, None
        if measured is not None:
            ms, low, high = (
                (measured.winner_ms, measured.winner_low_ms, measured.winner_high_ms)
                if kind == "found"
                else (measured.base_ms, measured.base_low_ms, measured.base_high_ms)
            )
        if ms is not None:
            points.append(
                TradeOffPoint(
                    name,
                    "found" if kind == "found" else "base",
                    measured is not None,
                    ms,
                    low,
                    high,
                    trained.test_accuracy,
                )
            )
    return points


def trade_off_chart(points: Sequence[TradeOffPoint], budget_ms: float | None, *, bound: str, on_the_way: str) -> Chart:
    """Return accuracy against latency as a chart.

    Args:
        points: the networks.
        budget_ms: the limit, if there is one.
        bound: what the budget is for: ``upper``, the upper end of the prediction's interval, or ``predicted``.
        on_the_way: what the accuracies of those points are of.
    """
    figure = go.Figure()
    timed = "measured" if any(point.measured for point in points) else "predicted"
    for kind, label, colour, symbol in (
        ("on the way", f"on the way: {on_the_way}, predicted ms", QUIET, "circle"),
        ("base", f"base network: test accuracy, {timed} ms", MEASURED, "square"),
        ("found", f"network found: test accuracy, {timed} ms", CHOSEN, "diamond"),
    ):
        own = [point for point in points if point.kind == kind]
        if not own:
            continue
        figure.add_trace(
            go.Scatter(
                x=[point.ms for point in own],
                y=[100 * point.accuracy for point in own],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 7 if kind == "on the way" else 12},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [0.0 if point.high_ms is None else point.high_ms - point.ms for point in own],
                    "arrayminus": [0.0 if point.low_ms is None else point.ms - point.low_ms for point in own],
                },
                text=[plot_label(point.network) for point in own],
                hovertemplate="%{text}<br>%{x:.4g} ms, %{y:.2f} %<extra></extra>",
                name=label,
            )
        )
    if budget_ms is not None:
        add_budget(figure, budget_ms, "budget, for the upper end" if bound == "upper" else "budget")
    finish(figure, y="accuracy in %", x="latency in ms", height=420)
    figure.update_layout(legend={"orientation": "v", "y": -0.22, "yanchor": "top"})
    return Chart(figure, points, "accuracy-against-latency")


def add_budget(figure: go.Figure, limit: float, name: str = "budget") -> None:
    """Add a budget to a figure whose x is what it limits."""
    figure.add_vline(x=limit, line={"color": CHOSEN, "width": 2, "dash": "dot"}, opacity=1)
    # Low, since curves rise towards it.
    note = {"text": name, "showarrow": False, "xanchor": "right", "yanchor": "bottom", "yref": "paper", "y": 0}
    figure.add_annotation(x=limit, **note)


# --- trainings ---


def training_points(trained: Mapping[str, Trained | None]) -> tuple[TrainingPoint, ...]:
    """Return the numbers of the trainings' chart, by the networks' names."""
    return tuple(
        TrainingPoint(name, epoch.epoch, known(epoch.test_accuracy))
        for name, training in trained.items()
        if training is not None
        for epoch in training.epochs
    )


def trainings_section(trained: Mapping[str, Trained | None]) -> Section:
    """Return how the trainings went; the first network is the one found."""
    points = training_points(trained)
    figure = go.Figure()
    for name, colour in zip(trained, (CHOSEN, MEASURED), strict=True):
        if own := [point for point in points if point.network == name]:
            figure.add_trace(
                go.Scatter(
                    x=[point.epoch for point in own],
                    y=[None if point.test_accuracy is None else 100 * point.test_accuracy for point in own],
                    line={"color": colour},
                    name=plot_label(name),
                )
            )
    finish(figure, y="test accuracy in %", x="epoch of the training", height=340)
    figure.update_xaxes(**counting_axis(max((point.epoch for point in points), default=1)))
    return Section("The trainings", [Chart(figure, points, "trainings")] if points else [])


# --- settings ---


def setting_text(value: object) -> str:
    """Return a setting as a reader writes it: nothing of Python's brackets and quotes."""
    if value is None or value in ("", (), [], {}):
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {setting_text(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        nested = any(isinstance(inner, (list, tuple)) for inner in value)
        return ("; " if nested else ", ").join(map(setting_text, value))
    if isinstance(value, float) and value.is_integer() and abs(value) >= THOUSANDS:
        return f"{value:,.0f}"
    return str(value)


def settings_section(settings: Sequence[tuple[str, object]]) -> Section:
    """Return all settings by name; those that hold others are told name by name."""
    rows = [[name.replace("_", " "), setting_text(value)] for name, value in _flat(settings)]
    return Section("Settings", [Table(None, rows, "facts")], folded=True)


def _flat(settings: Iterable[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    for name, value in settings:
        if isinstance(value, Mapping) and value:
            yield from _flat((f"{name}: {inner}", each) for inner, each in value.items())
        else:
            yield name, value

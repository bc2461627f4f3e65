"""The page about a search: what was found, how the search went, and the widths beside those of the base network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from lut._console import format_ms
from profiler._page import CHOSEN, LAW, MEASURED, QUIET, finish, html_page, html_plot, html_table, html_text, plot_label

if TYPE_CHECKING:
    from lut import Network
    from predictors import LatencyPredictor
    from search._run import RunPlan, RunResult
    from search._training import Trained

__all__ = ["search_report"]


def search_report(plan: RunPlan, result: RunResult, predictor: LatencyPredictor) -> str:
    """Return a self-contained HTML page about a run."""
    parts = [
        _head(plan, result, predictor),
        _warnings(result),
        _table(result),
        _widths(result),
        _course(plan, result),
        _trainings(result),
        _choices(result),
        _provenance(plan, result, predictor),
    ]
    return html_page("search", f"ResNet-{plan.depth}, searched for {predictor.device.model}", parts)


def _head(plan: RunPlan, result: RunResult, predictor: LatencyPredictor) -> str:
    prediction = result.search.prediction
    text = f"<p>{html_text(str(predictor.setting))}. Data: {html_text(plan.data)}. "
    if plan.budget_ms is not None:
        what = "the upper end of its interval" if plan.bound == "upper" else "its prediction"
        text += f"Budget {plan.budget_ms:g} ms, for {what}. "
    text += "</p>"
    measured = result.measured
    if measured is None:
        return text + f'<p class="big">Predicted {format_ms(prediction.ms)} ms.</p>'
    up = measured.speed_up
    return text + (
        f'<div class="audit">Measured {format_ms(measured.winner_ms)} ms where {format_ms(prediction.ms)} ms were '
        f"predicted ({prediction.ms / measured.winner_ms - 1:+.1%}). The base network takes {up.value:.2f} times as "
        f"long ({up.low:.2f} … {up.high:.2f}).</div>"
    )


def _warnings(result: RunResult) -> str:
    found = list(result.search.prediction.outside)
    found = [f"unlike the networks that the prediction rests on: {text}" for text in found]
    if result.measured is not None:
        found += result.measured.warnings
    text = "".join(f'<div class="warning">{html_text(warning)}</div>' for warning in found)
    if result.not_measured is not None:
        text += f'<div class="failure">not measured: {html_text(result.not_measured)}</div>'
    return text


def _table(result: RunResult) -> str:
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
        row("found", result.search.network, predicted, result.trained, winner_ms),
        row(
            html_text(result.base.name), result.base, format_ms(result.base_predicted_ms), result.base_trained, base_ms
        ),
    ]
    header = ["network", "predicted ms", "measured ms (95 %)", "test accuracy", "M multiply-adds", "M parameters"]
    return html_table(header, rows)


def _searched(network: Network) -> dict[str, int]:
    """Return the widths that a search chooses, by layer."""
    return {
        item.name: item.layer.out_channels
        for item in network.layers
        if item.name == "stem" or item.name.rpartition(".")[2].startswith("conv")
    }


def _widths(result: RunResult) -> str:
    base, found = _searched(result.base), _searched(result.search.network)
    names = list(base)
    labels = [plot_label(name) for name in names]
    figure = go.Figure()
    figure.add_trace(
        go.Bar(
            x=labels,
            y=[base[name] for name in names],
            marker={"color": QUIET},
            name=plot_label(result.base.name),
            width=0.95,
        )
    )
    figure.add_trace(
        go.Bar(
            x=labels,
            y=[found.get(name) for name in names],
            marker={"color": CHOSEN},
            name="found",
            width=0.5,
            hovertemplate="%{x}: %{y} channels<extra>found</extra>",
        )
    )
    finish(figure, y="channels", x="", height=420)
    figure.update_layout(barmode="overlay", xaxis={"tickangle": -60, "tickfont": {"size": 10}})
    dropped = len(base) - len(found)
    text = "<h2>Widths</h2><p>Channels of each convolution"
    if dropped > 0:
        text += f"; {dropped} of the base network's {len(base)} are not there"
    return text + ".</p>" + html_plot(figure)


def _course(plan: RunPlan, result: RunResult) -> str:
    history = result.search.history
    x = [epoch.epoch for epoch in history]
    latency = go.Figure()
    if plan.cost != "madds" and plan.strategy == "gradient":
        latency.add_trace(
            go.Scatter(x=x, y=[e.expected for e in history], line={"color": LAW, "dash": "dash"}, name="expected")
        )
    latency.add_trace(
        go.Scatter(x=x, y=[e.ms for e in history], line={"color": MEASURED}, name="most probable network, predicted")
    )
    latency.add_trace(
        go.Scatter(
            x=x, y=[e.bound_ms for e in history], line={"color": MEASURED, "dash": "dot"}, name="its upper bound"
        )
    )
    latency.add_trace(
        go.Scatter(
            x=[result.search.from_epoch],
            y=[result.search.prediction.ms],
            mode="markers",
            marker={"color": CHOSEN, "size": 11, "symbol": "diamond"},
            name="found",
        )
    )
    if plan.budget_ms is not None:
        latency.add_hline(y=plan.budget_ms, line={"color": CHOSEN, "width": 1}, annotation_text="budget")
    finish(latency, y="latency in ms", x="epoch of the search", height=380)
    accuracy = go.Figure()
    accuracy.add_trace(
        go.Scatter(x=x, y=[100 * e.accuracy for e in history], line={"color": MEASURED}, name="most probable network")
    )
    finish(accuracy, y="validation accuracy in %", x="epoch of the search", height=300, legend=False)
    return (
        "<h2>The search</h2>"
        + html_plot(latency)
        + "<p>Accuracy of the most probable network with the shared weights, on training images held out from them.</p>"
        + html_plot(accuracy)
    )


def _trainings(result: RunResult) -> str:
    figure = go.Figure()
    for trained, name, colour in (
        (result.trained, "found", CHOSEN),
        (result.base_trained, plot_label(result.base.name), MEASURED),
    ):
        figure.add_trace(
            go.Scatter(
                x=[epoch.epoch for epoch in trained.epochs],
                y=[100 * epoch.test_accuracy for epoch in trained.epochs],
                line={"color": colour},
                name=name,
            )
        )
    finish(figure, y="test accuracy in %", x="epoch of the training", height=340)
    return "<h2>The trainings</h2>" + html_plot(figure)


def _choices(result: RunResult) -> str:
    if not result.selections:
        return ""
    rows = [
        [html_text(s.curve.name), html_text(s.curve.size), ", ".join(str(choice.channels) for choice in s.choices)]
        for s in result.selections
    ]
    return "<h2>Hardware-aware widths</h2>" + html_table(["stage", "output size", "widths"], rows, kind="facts")


def _provenance(plan: RunPlan, result: RunResult, predictor: LatencyPredictor) -> str:
    import msgspec

    settings = msgspec.to_builtins(plan)
    settings.pop("options")
    settings["tables"] = ", ".join(digest[:12] for digest in plan.tables)
    search = settings.pop("search")
    search.update({f"weights' {name}": value for name, value in search.pop("recipe").items()})
    settings.update({f"search: {name}": value for name, value in search.items()})
    settings.update({f"training: {name}": value for name, value in settings.pop("recipe").items()})
    rows = [[html_text(name.replace("_", " ")), html_text(str(value))] for name, value in settings.items()]
    tables = ", ".join(table.name for table in predictor.tables)
    rows.insert(0, ["tables", html_text(tables)])
    rows.insert(1, ["derived from epoch", str(result.search.from_epoch)])
    return "<h2>Settings</h2>" + html_table(None, rows, kind="facts")

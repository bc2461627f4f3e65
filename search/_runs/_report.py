"""A run's report: an answer, the networks, what measuring said, and the sections of the search itself."""

from __future__ import annotations

import msgspec
import plotly.graph_objects as go

from lut._console import format_ms
from profiler._report._page import Answer, Block, Cell, Chart, Notice, Section, Table, Text, html_page
from profiler._report._plots import QUIET, finish
from search._problem._budgets import UNITS, amount
from search._runs._compared import (
    SPEEDS,
    VERDICTS,
    CheckedPoint,
    checked_points,
    compared_networks,
    learnt_text,
    own_answer,
    predicted_before,
    predicted_text,
    selection_text,
    speeds_text,
    value_texts,
)
from search._runs._plan import tested_on
from search._runs._report_parts import (
    TradeOffPoint,
    accuracy_sentence,
    add_budget,
    latency_sentence,
    settings_section,
    speed_up_sentence,
    trade_off_chart,
    trained_points,
    trainings_section,
    warnings_of,
)
from search._runs._result import RunResult

__all__ = ["report", "trade_off_points"]

FOUND = "found"
# Told apart by shape too: of each verdict the words, the colour, and the symbol.
_VERDICTS = {
    "within": ("measured, within the budget", "#009E73", "circle"),
    "unclear": ("measured, may exceed it", "#E69F00", "diamond"),
    "beyond": ("measured, exceeds it", "#D55E00", "x"),
}


def report(result: RunResult) -> str:
    """Return a self-contained HTML page about a run."""
    plan, predictor = result.plan, result.problem.predictor
    sections = [
        _networks(result),
        _measured_section(result),
        _finalists(result),
        *result.method.sections(result),
        trainings_section({FOUND: result.trained, result.base.name: result.base_trained}),
        _settings(result),
    ]
    accuracies = result.method.accuracies()
    told = [
        result.found.search,
        "" if predictor is None else str(predictor.setting),
        f"data: {plan.data}" if plan.data else "",
        f"accuracies: {accuracies}" if accuracies else "",
        f"budgets: {budgets_text(result)}" if plan.budgets else "without a budget",
    ]
    return html_page(
        "search",
        heading=f"{result.method.subject(result.problem)}, searched "
        + ("within budgets" if predictor is None else f"for {predictor.device.model}"),
        subtitle=" · ".join(text for text in told if text),
        answer=_answer(result),
        sections=sections,
    )


def budgets_text(result: RunResult) -> str:
    """Return the budgets, and what they are held against."""
    words = {"ms": f" for {tested_on(result.plan)}"}
    return ", ".join(
        f"{amount(name, limit)} {UNITS[name]}{words.get(name, '')}" for name, limit in result.plan.budgets.given()
    )


def _answer(result: RunResult) -> Answer:
    plan, found, network = result.plan, result.found, result.network
    prediction = found.predictions[0] if found.predictions else None
    needed = f"The {'nearest' if result.kept is False else 'network found'} has "
    needed += f"{result.problem.madds(network) / 1e6:.4g} M multiply-adds and "
    needed += f"{network.parameters / 1e6:.4g} M parameters"
    (value,) = value_texts(found.values[:1])
    sentences = [
        latency_sentence(predicted_before(result)[0], result.measured, plan.budgets.ms, result.verification),
        "Nothing was trained or exported." if result.kept is False else "",
        speed_up_sentence(result.base.name, result.measured),
        f"{needed}; {result.method.value_name}: {value}."
        if result.trained is None
        else accuracy_sentence(result.trained, result.base.name, result.base_trained),
    ]
    blocks: list[Block] = []
    if result.kept is False and result.verification is not None:
        blocks.append(_checked_chart(checked_points(result), result.verification.budget_ms))
    elif own_answer(result):
        blocks += result.method.answer(result)
    else:
        way = result.method.way(found)
        words = "" if way is None else way.accuracies
        blocks.append(trade_off_chart(trade_off_points(result), plan.budgets.ms, bound=plan.bound, on_the_way=words))
    blocks += warnings_of(prediction, result.measured, result.not_measured, result.warnings)
    return Answer([text for text in sentences if text], blocks)


def trade_off_points(result: RunResult) -> tuple[TradeOffPoint, ...]:
    """Return the numbers of the chart of accuracy against latency."""
    way = result.method.way(result.found)
    return (*_ends(result), *(() if way is None else way.points))


def _ends(result: RunResult) -> list[TradeOffPoint]:
    return trained_points(
        (FOUND, predicted_before(result)[0], result.trained),
        (result.base.name, result.base_predicted_ms, result.base_trained),
        result.measured,
    )


def _networks(result: RunResult) -> Section:
    rows = compared_networks(result)
    values = value_texts(row.value for row in rows)
    cells = [
        [
            row.name,
            predicted_text(row.predicted_ms, row.bound_ms) or "–",
            "–" if row.measured is None else _interval(*row.measured),
            "–" if row.trained is None else f"{row.trained.test_accuracy:.2%}",
            value,
            f"{row.madds / 1e6:.1f}",
            f"{row.parameters / 1e6:.3f}",
            str(row.depth),
        ]
        for row, value in zip(rows, values, strict=True)
    ]
    header = [
        *("network", "predicted ms", "measured ms (95\N{NO-BREAK SPACE}%)", "test accuracy", result.method.value_name),
        *("M multiply-adds", "M parameters", result.method.depth_name),
    ]
    return Section("The networks", [Table(header, cells, "brief")])


def _interval(ms: float, low: float, high: float) -> str:
    return f"{format_ms(ms)} ({format_ms(low)} … {format_ms(high)})"


# --- what measuring said ---


def _measured_section(result: RunResult) -> Section:
    heading = "Measured against the budget"
    points, verification = checked_points(result), result.verification
    if verification is None or not points:
        return Section(heading, [])
    budget = format_ms(verification.budget_ms)
    speed = SPEEDS[verification.holds]
    if verification.holds == "reference-speed" and not all(
        done.at_reference or done.speed for done in verification.rounds
    ):
        speed = "at the speed that the machine had in its session, for want of a reference"
    text = (
        f"{selection_text(result)} A network keeps the budget of {budget} ms if the upper end of its measured "
        f"interval does, {speed}. {learnt_text(result)} {speeds_text(result)}"
    )
    blocks: list[Block] = [Text(text)]
    # Where none keeps the budget the chart is the answer.
    if result.kept:
        blocks.append(_checked_chart(points, verification.budget_ms))
    blocks.append(_checked_table(points, verification.budget_ms, result.method.value_name))
    warnings = dict.fromkeys(text for done in verification.rounds for text in done.warnings)
    told = () if result.measured is None else result.measured.warnings
    blocks += [Notice("warning", text) for text in warnings if text not in told]
    return Section(heading, blocks)


def _checked_table(points: tuple[CheckedPoint, ...], budget_ms: float, value_name: str) -> Table:
    """Return the networks measured; the columns that say nothing, of one session or of equal names, are left out."""
    several, named = max(point.sessions for point in points) > 1, len({point.network for point in points}) > 1
    header = [
        "network",
        f"budget {format_ms(budget_ms)}\N{NO-BREAK SPACE}ms",
        "measured ms",
        "predicted ms",
        "prediction error",
    ]
    header += [value_name, *["sessions"] * several, *["name"] * named]
    rows: list[list[str | Cell]] = []
    for point, value in zip(points, value_texts(point.value for point in points), strict=True):
        error = point.prediction_error
        row: list[str | Cell] = [
            Cell(str(point.number), point.role, "bold" if point.role in ("found", "nearest") else ""),
            Cell(VERDICTS[point.verdict], look="" if point.verdict == "within" else "unsure"),
            # On two lines, so that all of these columns are seen on a phone.
            Cell(format_ms(point.measured_ms), f"{format_ms(point.low_ms)} … {format_ms(point.high_ms)}"),
            Cell("–") if point.predicted_ms is None else _bounded(point.predicted_ms, point.bound_ms),
            "–" if error is None else f"{error:+.1%}",
            value,
        ]
        rows.append([*row, *[str(point.sessions)] * several, *[point.network] * named])
    return Table(header, rows, "brief")


def _bounded(ms: float, bound_ms: float | None) -> Cell:
    return Cell(format_ms(ms), "" if bound_ms is None or bound_ms <= ms else f"up to {format_ms(bound_ms)}")


def _checked_chart(points: tuple[CheckedPoint, ...], budget_ms: float) -> Chart:
    """Return a row for each network measured: what was predicted above what was measured, and the budget."""
    figure = go.Figure()
    foreseen = [point for point in points if point.predicted_ms is not None]
    bounded = any((point.bound_ms or 0.0) > (point.predicted_ms or 0.0) for point in foreseen)
    figure.add_trace(
        go.Scatter(
            x=[point.predicted_ms for point in foreseen],
            # Above what was measured, so that the two intervals can be told apart.
            y=[point.number - 0.25 for point in foreseen],
            mode="markers",
            marker={"color": QUIET, "symbol": "line-ns-open", "size": 10, "line": {"width": 3}},
            error_x=_bars([(0.0, (point.bound_ms or 0.0) - (point.predicted_ms or 0.0)) for point in foreseen]),
            hovertemplate="predicted %{x:.4g} ms<extra></extra>",
            name="predicted beforehand" + (", up to the upper end" if bounded else ""),
        )
    )
    for verdict, (words, colour, symbol) in _VERDICTS.items():
        own = [point for point in points if point.verdict == verdict]
        if own:
            figure.add_trace(
                go.Scatter(
                    x=[point.measured_ms for point in own],
                    y=[point.number for point in own],
                    mode="markers",
                    marker={"color": colour, "symbol": symbol, "size": 10},
                    error_x=_bars([(p.measured_ms - p.low_ms, p.high_ms - p.measured_ms) for p in own]),
                    hovertemplate="network %{y}: measured %{x:.4g} ms<extra></extra>",
                    name=words,
                )
            )
    add_budget(figure, budget_ms, f"budget {format_ms(budget_ms)} ms")
    finish(figure, y="", x="latency in ms", height=190 + 44 * len(points))
    # The line alone would not widen the axis, and its name needs room beside it.
    ends = [
        budget_ms,
        *(ms for p in points for ms in (p.low_ms, p.high_ms, p.predicted_ms, p.bound_ms) if ms is not None),
    ]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 0.1 * high
    figure.update_xaxes(range=[low - margin, high + margin])
    if budget_ms < (low + high) / 2:
        figure.update_annotations(xanchor="left")
    ticks = [f"{point.number}{f', {point.role}' if point.role else ''}" for point in points]
    numbers = [point.number for point in points]
    # A row more below, for the budget's name.
    figure.update_yaxes(range=[len(points) + 1.2, 0.4], tickvals=numbers, ticktext=ticks, automargin=True)
    figure.update_layout(legend={"orientation": "v", "y": 1.02, "yanchor": "bottom"})
    return Chart(figure, points, "measured-against-the-budget")


def _bars(ends: list[tuple[float, float]]) -> dict[str, object]:
    below, above = [low for low, _ in ends], [max(0.0, high) for _, high in ends]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.5, "width": 4}


def _finalists(result: RunResult) -> Section:
    if not result.finalists:
        return Section("The finalists", [])
    before = value_texts(one.value for one in result.finalists)
    after = value_texts(one.fresh for one in result.finalists)
    points = 100 if all(0 <= one.value <= 1 and 0 <= one.fresh <= 1 for one in result.finalists) else 1
    names = [result.problem.network(one.vector).name for one in result.finalists]
    rows = [
        [
            *(f"{number}{', found' if number == 1 else ''}", was, now),
            f"{points * (one.value - one.fresh):+.2f}" if points > 1 else f"{one.value - one.fresh:+.4g}",
            *[name] * (len(set(names)) > 1),
        ]
        for number, (one, name, was, now) in enumerate(zip(result.finalists, names, before, after, strict=True), 1)
    ]
    header = ["finalist", "as selected", "evaluated again", "optimism" + (" (points)" if points > 1 else "")]
    header += ["name"] * (len(set(names)) > 1)
    text = (
        f"The best of many evaluations is partly the luckiest. So the {len(rows)} best networks were evaluated again, "
        "with another seed, and the best of these values decided."
    )
    return Section("The finalists", [Text(text), Table(header, rows, "brief")])


# --- settings ---


def _settings(result: RunResult) -> Section:
    plan, predictor = result.plan, result.problem.predictor
    settings = msgspec.to_builtins(plan)
    own = settings.pop("settings")
    for group in (settings, own):
        # Digests.
        group.update({name: group[name][:12] for name in ("data_digest", "latencies", "function") if name in group})
    digests = [digest[:12] for digest in settings.pop("tables")]
    grouped = [
        (words, settings.pop(name))
        for name, words in (("space_options", "space"), ("budgets", "budget"), ("recipe", "training"))
    ]
    nested = [(name, own.pop(name)) for name in list(own) if isinstance(own[name], dict)]
    tables = [] if predictor is None else [table.name for table in predictor.tables]
    first = [("tables", tables), ("tables' digests", digests), ("search took", f"{result.found.seconds:.0f} s")]
    return settings_section([*first, *settings.items(), *own.items(), *nested, *grouped])

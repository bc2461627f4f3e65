"""RCAS's report: the network found block by block, the paths to it, and what laziness saved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import plotly.graph_objects as go

from lut import Network
from lut._console import format_ms
from profiler._report._page import Answer, Block, Chart, Section, Table, Text, html_page
from profiler._report._plots import CHOSEN, LAW, MEASURED, counting_axis, finish, plot_label
from search._runs._network_drawing import blocks_of, count_blocks, draw_networks, is_first
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
from search.rcas._search import EXCHANGE, RULES, RcasPath, RcasStep

if TYPE_CHECKING:
    from search._problem._resources import NetworkResources
    from search._training._train import Trained
    from search.rcas._run import RcasPlan, RcasRun

__all__ = ["PathPoint", "path_points", "rcas_report"]

_RULE_COLOURS = {"uniform": MEASURED, "params": "#009E73", "madds": "#CC79A7", "latency": "#E69F00", EXCHANGE: LAW}
_RULE_WORDS = {
    "uniform": "the largest gain",
    "params": "the largest gain per parameter",
    "madds": "the largest gain per multiply-add",
    "latency": "the largest gain per ms",
    EXCHANGE: "other blocks, as long as that gains",
}
_FOUND = "the network found"
_FIRST = "first network"


class PathPoint(NamedTuple):
    """A network on a path of a rule.

    ``changed``: what the step changed; ``value``: of the set function, and its ``gain`` over the step before; ``ms``
    and ``bound_ms``: predicted, and at the end of the interval that a budget is held against; ``evaluated``: networks
    that the rule had evaluated so far, as if it had been alone, ``None`` where it does not count by step; ``found``:
    whether it is the one that the search returned.
    """

    rule: str
    step: int
    changed: str
    value: float
    gain: float
    ms: float | None
    bound_ms: float | None
    parameters: int
    madds: int
    evaluated: int | None
    found: bool


class _Scale(NamedTuple):
    """How values of the set function are written: in percent where all of them are shares."""

    percent: bool

    @property
    def unit(self) -> str:
        return " in %" if self.percent else ""

    def text(self, value: float) -> str:
        return f"{value:.2%}" if self.percent else f"{value:.4g}"

    def number(self, value: float) -> float:
        return 100 * value if self.percent else value

    def change(self, gain: float) -> str:
        return f"{100 * gain:+.2f}" if self.percent else f"{gain:+.4g}"

    @property
    def points(self) -> str:
        return " points" if self.percent else ""


def rcas_report(plan: RcasPlan, result: RcasRun, resources: NetworkResources) -> str:
    """Return a self-contained HTML page about a run."""
    predictor = resources.predictor
    points = path_points(result)
    scale = _Scale(all(0 <= point.value <= 1 for point in points))
    trade_off = _trade_off(plan, result, resources, points, scale)
    sections = [
        _networks(result, resources, scale),
        draw_networks(result, resources),
        _paths(plan, points, result, resources, scale, drawn_before=trade_off is None),
        _chosen(result, scale),
        _laziness(plan, result, scale),
        trainings_section({"found": result.trained, result.base.name: result.base_trained}),
        _settings(plan, result, resources),
    ]
    setting = "" if predictor is None else f"{predictor.setting} · "
    data = f"data: {plan.data} · " if plan.data else ""
    return html_page(
        "search",
        heading=f"{plan.space}, searched "
        + ("within budgets" if predictor is None else f"for {predictor.device.model}"),
        subtitle=f"{setting}{data}accuracies: {plan.accuracy} · budgets: {_budgets(plan)}",
        answer=_answer(plan, result, resources, points, trade_off, scale),
        sections=sections,
    )


# --- what was found ---


def _millions(number: float) -> str:
    return f"{number / 1e6:.4g} M"


def _budgets(plan: RcasPlan) -> str:
    what = f"the upper end of its {plan.level:.0%} interval" if plan.bound == "upper" else "its prediction"
    words: dict[str, Callable[[float], str]] = {
        "ms": lambda limit: f"{format_ms(limit)} ms for {what}",
        "parameters": lambda limit: f"{_millions(limit)} parameters",
        "madds": lambda limit: f"{_millions(limit)} multiply-adds",
    }
    return ", ".join(words[name](limit) for name, limit in plan.budgets.given())


def _answer(
    plan: RcasPlan,
    result: RcasRun,
    resources: NetworkResources,
    points: Sequence[PathPoint],
    chart: Chart | None,
    scale: _Scale,
) -> Answer:
    needs, measured = resources.of(result.search.vector), result.measured
    value = f"The set function gives it {scale.text(result.search.value)}"
    needed = f"{_millions(needs.madds)} multiply-adds and {_millions(needs.parameters)} parameters"
    sentences = [
        latency_sentence(_found_ms(result, resources), measured, plan.budgets.ms),
        speed_up_sentence(result.base.name, measured),
        f"{value}; it has {needed}.",
    ]
    if result.trained is not None:
        sentences[-1] = accuracy_sentence(result.trained, result.base.name, result.base_trained)
    if chart is None:
        name, limit = next(plan.budgets.given())
        chart = _against(name, limit, points, resources, scale)
    warnings = warnings_of(result.search.prediction, measured, result.not_measured, result.warnings)
    return Answer([text for text in sentences if text], [chart, *warnings])


def _found_ms(result: RcasRun, resources: NetworkResources) -> float | None:
    prediction = result.search.prediction
    return resources.of(result.search.vector).ms if prediction is None else prediction.ms


def _trade_off(
    plan: RcasPlan, result: RcasRun, resources: NetworkResources, points: Sequence[PathPoint], scale: _Scale
) -> Chart | None:
    """Return accuracy against latency, where networks were trained and their latencies are known."""
    ends = trained_points(
        ("found", _found_ms(result, resources), result.trained),
        (result.base.name, result.base_predicted_ms, result.base_trained),
        result.measured,
    )
    if not ends or not scale.percent:
        return None
    way = [
        TradeOffPoint(f"{point.rule}, step {point.step}", "on the way", False, point.ms, None, None, point.value)
        for point in points
        if point.ms is not None
    ]
    return trade_off_chart([*ends, *way], plan.budgets.ms, bound=plan.bound, on_the_way="by the set function")


def _upper(result: RcasRun, resources: NetworkResources) -> float | None:
    """Return the upper end of the interval of the network found, if there is one."""
    if result.search.prediction is not None:
        return result.search.prediction.high_ms
    return resources.of(result.search.vector).bound_ms if resources.bound == "upper" else None


def _predicted(ms: float | None, upper: float | None) -> str:
    if ms is None:
        return "–"
    return format_ms(ms) + ("" if upper is None else f" (up to {format_ms(upper)})")


class _Row(NamedTuple):
    """A network in the table."""

    name: str
    network: Network
    predicted: str
    measured: tuple[float, float, float] | None
    trained: Trained | None
    value: float | None
    blocks: int


def _networks(result: RcasRun, resources: NetworkResources, scale: _Scale) -> Section:
    found, measured = result.search, result.measured
    start = (0,) * len(found.vector)
    first, needs = resources.network(start), resources.of(start)
    upper = needs.bound_ms if resources.bound == "upper" else None
    winner_ms = base_ms = None
    if measured is not None:
        winner_ms = (measured.winner_ms, measured.winner_low_ms, measured.winner_high_ms)
        base_ms = (measured.base_ms, measured.base_low_ms, measured.base_high_ms)
    same = is_first(result, resources)
    ms = resources.of(found.vector).ms if found.prediction is None else found.prediction.ms
    rows = [
        _Row(
            "found",
            found.network,
            _predicted(ms, _upper(result, resources)),
            winner_ms,
            result.trained,
            found.value,
            count_blocks(resources, found.vector),
        ),
        _Row(
            f"{result.base.name}, {_FIRST}" if same else result.base.name,
            result.base,
            _predicted(result.base_predicted_ms, None),
            base_ms,
            result.base_trained,
            found.paths[0].steps[0].value if same else None,
            count_blocks(resources, start) if same else len(blocks_of(result.base)),
        ),
    ]
    if not same:
        value = found.paths[0].steps[0].value
        rows.append(_Row(_FIRST, first, _predicted(needs.ms, upper), None, None, value, count_blocks(resources, start)))
    header = [
        "network",
        "predicted ms",
        "measured ms (95\N{NO-BREAK SPACE}%)",
        "test accuracy",
        "set function",
        "M multiply-adds",
        "M parameters",
        "blocks",
    ]
    return Section("The networks", [Table(header, [_cells(row, resources, scale) for row in rows], "brief")])


def _cells(row: _Row, resources: NetworkResources, scale: _Scale) -> list[str]:
    seen = "–"
    if row.measured is not None:
        ms, low, high = map(format_ms, row.measured)
        seen = f"{ms} ({low} … {high})"
    return [
        row.name,
        row.predicted,
        seen,
        "–" if row.trained is None else f"{row.trained.test_accuracy:.2%}",
        "–" if row.value is None else scale.text(row.value),
        f"{resources.madds(row.network) / 1e6:.1f}",
        f"{row.network.parameters / 1e6:.3f}",
        str(row.blocks),
    ]


# --- how it was found ---


def path_points(result: RcasRun) -> tuple[PathPoint, ...]:
    """Return all networks on the paths: the numbers of all charts of them."""
    chosen = _chosen_path(result)
    found = []
    for path in result.search.paths:
        counts = itertools.accumulate(step.evaluated for step in path.steps)
        last = len(path.steps) - 1
        for number, (step, evaluated) in enumerate(zip(path.steps, counts, strict=True)):
            found.append(
                PathPoint(
                    rule=path.rule,
                    step=number,
                    changed=_added(step),
                    value=step.value,
                    gain=step.gain,
                    ms=step.ms,
                    bound_ms=step.bound_ms,
                    parameters=step.parameters,
                    madds=step.madds,
                    evaluated=None if path.rule == EXCHANGE else evaluated,
                    found=path is chosen and number == last,
                )
            )
    return tuple(found)


def _paths(
    plan: RcasPlan,
    points: Sequence[PathPoint],
    result: RcasRun,
    resources: NetworkResources,
    scale: _Scale,
    *,
    drawn_before: bool,
) -> Section:
    rules = dict.fromkeys(point.rule for point in points)
    told = "; ".join(f"{rule}: {_RULE_WORDS.get(rule, '')}" for rule in rules)
    blocks: list[Block] = [
        Text(f"All networks on the way, as in the paper's figures 3 and 4, by what each step takes: {told}.")
    ]
    given = list(plan.budgets.given())
    for name, limit in given[1:] if drawn_before else given:
        blocks.append(_against(name, limit, points, resources, scale))
    text = (
        "And by how many networks each rule had evaluated so far, as if it had been alone: what another rule evaluated "
        f"before is not evaluated again, so that all needed {result.search.evaluated:,}."
    )
    if result.search.rule == EXCHANGE:
        text += " Exchanges are not shown here: they do not count by step."
    return Section("The paths", [*blocks, Text(text), _by_effort(points, scale)])


def _needed(point: PathPoint, name: str) -> float:
    """Return what a budget is held against, as it is plotted: ms, or millions."""
    if name == "ms":
        assert point.bound_ms is not None
        return point.bound_ms
    return float(getattr(point, name)) / 1e6


def _against(name: str, limit: float, points: Sequence[PathPoint], resources: NetworkResources, scale: _Scale) -> Chart:
    """Return the chart of values against a resource, with its budget."""
    x = [_needed(point, name) for point in points]
    figure = _paths_figure(points, x, scale)
    limit = limit if name == "ms" else limit / 1e6
    add_budget(figure, limit)
    upper = f", up to ({resources.level:.0%})" if resources.bound == "upper" else ""
    titles = {"ms": f"predicted ms{upper}", "parameters": "M parameters", "madds": "M multiply-adds"}
    finish(figure, y=f"set function{scale.unit}", x=titles[name], height=400)
    # A line alone would not widen the axis.
    low, high = min(limit, *x), max(limit, *x)
    margin = 0.04 * (high - low) or 0.1 * limit
    figure.update_xaxes(range=[low - margin, high + margin])
    return Chart(figure, points, "paths")


def _by_effort(points: Sequence[PathPoint], scale: _Scale) -> Chart:
    """Return the chart of values against the number of networks that a rule has evaluated so far."""
    counted = [point for point in points if point.evaluated is not None]
    effort = [point.evaluated or 0 for point in counted]
    figure = _paths_figure(counted, effort, scale)
    finish(figure, y=f"set function{scale.unit}", x="networks evaluated", height=360)
    figure.update_xaxes(**counting_axis(max(effort, default=1)))
    return Chart(figure, points, "paths")


def _paths_figure(points: Sequence[PathPoint], x: Sequence[float], scale: _Scale) -> go.Figure:
    """Return the paths of all rules, and the network found, by ``x``."""
    figure = go.Figure()
    for rule in dict.fromkeys(point.rule for point in points):
        own = [i for i, point in enumerate(points) if point.rule == rule]
        befores = [None, *(points[i] for i in own[:-1])]
        figure.add_trace(
            go.Scatter(
                x=[x[i] for i in own],
                y=[scale.number(points[i].value) for i in own],
                mode="lines+markers",
                line={"color": _RULE_COLOURS.get(rule, LAW)},
                marker={"size": 7},
                text=[_hover(before, points[i], scale) for before, i in zip(befores, own, strict=True)],
                hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
                name=plot_label(rule),
            )
        )
    marker: dict[str, Any] = {"color": CHOSEN, "size": 13, "symbol": "diamond", "line": {"color": "#fff", "width": 1}}
    for i, point in enumerate(points):
        if point.found:
            y = [scale.number(point.value)]
            figure.add_trace(go.Scatter(x=[x[i]], y=y, mode="markers", marker=marker, name="found", hoverinfo="skip"))
    return figure


def _hover(before: PathPoint | None, point: PathPoint, scale: _Scale) -> str:
    # Plotly reads a few tags in texts.
    added = plot_label(point.changed)
    if before is None:
        return added
    ms = "" if point.ms is None or before.ms is None else f"{point.ms - before.ms:+.4g} ms, "
    return (
        f"{added}<br>gain {scale.change(point.gain)}{scale.points}<br>cost {ms}"
        f"{(point.parameters - before.parameters) / 1e6:+.4g} M parameters, "
        f"{(point.madds - before.madds) / 1e6:+.4g} M multiply-adds"
    )


def _added(step: RcasStep) -> str:
    """Return what a step changed."""
    return ", ".join(f"{name}: {option}" for name, option in step.changed.items()) or "the first network"


def _chosen_path(result: RcasRun) -> RcasPath:
    return next(path for path in result.search.paths if path.rule == result.search.rule)


def _chosen(result: RcasRun, scale: _Scale) -> Section:
    chosen = _chosen_path(result)
    blocks: list[Block] = []
    if chosen.rule == EXCHANGE:
        # What the exchanges began with.
        before = next((p for p in result.search.paths if p.last.vector == chosen.steps[0].vector), None)
        if before is not None and before is not chosen:
            blocks += [Text(f"It began with what was found by {before.rule}:"), _steps(before, scale)]
            blocks.append(Text("And then:"))
        else:
            blocks.append(Text("It began with the best network that had been evaluated, which is at no path's end."))
    blocks.append(_steps(chosen, scale))
    best = max(range(len(chosen.steps)), key=lambda number: chosen.steps[number].value)
    if chosen.steps[best].value > chosen.last.value:
        value = scale.text(chosen.steps[best].value)
        blocks.append(Text(f"Step {best} was better, with {value}; the search takes what its paths end with."))
    return Section(f"The path taken: {chosen.rule}", blocks)


def _steps(path: RcasPath, scale: _Scale) -> Table:
    """Return a path's steps as a table."""
    resource = RULES.get(path.rule)
    timed = path.steps[0].ms is not None
    header = ["step", "added", "set function", "gain" + (" (points)" if scale.percent else "")]
    header += [] if resource is None else [{"ms": "adds ms"}.get(resource, f"adds {_M[resource]}")]
    header += ["predicted ms"] * timed + [_M["madds"], _M["parameters"]]
    counted = path.rule != EXCHANGE
    header += ["evaluated, of plain", "gains that rose"] * counted
    rows = []
    for number, step in enumerate(path.steps):
        first = number == 0
        row = [str(number), _start(path) if first else _added(step), scale.text(step.value)]
        row.append("–" if first else scale.change(step.gain))
        if resource is not None:
            unit = 1 if resource == "ms" else 1e6
            row.append("–" if first else f"{step.cost / unit:+.4f}")
        row += [format_ms(step.ms)] if step.ms is not None else []
        row += [f"{step.madds / 1e6:.2f}", f"{step.parameters / 1e6:.4f}"]
        if counted:
            row += [f"{step.evaluated} of {step.plain}", f"{step.exceeded} of {step.revisited}"]
        rows.append(row)
    return Table(header, rows, "named brief")


_M = {"ms": "ms", "madds": "M multiply-adds", "parameters": "M parameters"}


def _start(path: RcasPath) -> str:
    return "the network to improve" if path.rule == EXCHANGE else "the first network"


def _laziness(plan: RcasPlan, result: RcasRun, scale: _Scale) -> Section:
    found = result.search
    text = f"{found.evaluated:,} networks were evaluated, of {found.plain:,} that a plain greedy search would "
    text += "evaluate along the same paths"
    text += f" ({1 - found.evaluated / found.plain:.0%} saved). " if plan.search.lazy else "; laziness was off. "
    if found.rule == EXCHANGE:
        text += "Both numbers include those that the exchanges asked for. "
    if found.revisited == 0:
        text += "No gain was re-evaluated."
    else:
        text += f"{found.exceeded:,} of {found.revisited:,} re-evaluated gains increased"
        if found.exceeded:
            text += f", by {scale.change(found.excess).removeprefix('+')}{scale.points} at most"
        text += "; of a submodular function none would."
    bound = (
        "The paper's bound, ½(1−1/e) of the best value within the budget, needs a monotone submodular function, one "
        "budget that is a sum over blocks, and no rule that a position holds one block; networks have none of these, "
        "so that nothing of it is guaranteed here."
    )
    return Section("What laziness saved, and what it rests on", [Text(text), Text(bound)])


def _settings(plan: RcasPlan, result: RcasRun, resources: NetworkResources) -> Section:
    settings = msgspec.to_builtins(plan)
    for name in ("function", "data_digest", "latencies"):
        settings[name] = settings[name][:12]
    digests = [digest[:12] for digest in settings.pop("tables")]
    grouped = [
        (words, settings.pop(name))
        for name, words in (
            ("space_options", "space"),
            ("budgets", "budget"),
            ("search", "search"),
            ("early_stopped", "early-stopped training"),
            ("recipe", "training"),
        )
    ]
    tables = [] if resources.predictor is None else [table.name for table in resources.predictor.tables]
    first = [("tables", tables), ("tables' digests", digests), ("search took", f"{result.search.seconds:.0f} s")]
    return settings_section([*first, *settings.items(), *grouped])

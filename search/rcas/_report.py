"""What RCAS adds to a report: the network block by block, the paths to it, and what laziness saved."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import plotly.graph_objects as go

from lut._console import format_ms
from profiler._report._page import Block, Chart, Section, Table, Text
from profiler._report._plots import CHOSEN, LAW, MEASURED, counting_axis, finish, plot_label
from search._problem._problem import Problem
from search._runs._compared import own_answer
from search._runs._report_parts import add_budget
from search.rcas._course import course_of
from search.rcas._drawing import draw_networks
from search.rcas._search import EXCHANGE, RULES, RcasPath, RcasStep

if TYPE_CHECKING:
    from search._runs._result import RunResult
    from search.rcas._method import RcasMethod

__all__ = ["PathPoint", "answer_chart", "path_points", "sections"]

_RULE_COLOURS = {"uniform": MEASURED, "params": "#009E73", "madds": "#CC79A7", "latency": "#E69F00", EXCHANGE: LAW}
_RULE_WORDS = {
    "uniform": "the largest gain",
    "params": "the largest gain per parameter",
    "madds": "the largest gain per multiply-add",
    "latency": "the largest gain per ms",
    EXCHANGE: "other blocks, as long as that gains",
}


class PathPoint(NamedTuple):
    """A network on a path of a rule.

    ``changed``: what the step changed; ``value``: of the set function, and its ``gain`` over the step before; ``ms``
    and ``bound_ms``: predicted, and at the end of the interval that a budget is held against; ``evaluated``: networks
    that the rule had evaluated so far, as if it had been alone, ``None`` where it does not count by step; ``found``:
    whether it is the one that the run ends with.
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


def sections(method: RcasMethod, result: RunResult) -> list[Section]:
    """Return what RCAS adds to a report."""
    points = path_points(result)
    scale = _scale(points)
    return [
        draw_networks(result),
        _paths(points, result, scale, drawn_before=own_answer(result)),
        _chosen(result, scale),
        _laziness(method, result, scale),
    ]


def answer_chart(result: RunResult) -> Chart:
    """Return the paths against the first budget."""
    points = path_points(result)
    name, limit = next(result.plan.budgets.given())
    return _against(name, limit, points, result.problem, _scale(points))


def _scale(points: Sequence[PathPoint]) -> _Scale:
    return _Scale(all(0 <= point.value <= 1 for point in points))


def path_points(result: RunResult) -> tuple[PathPoint, ...]:
    """Return all networks on the paths: the numbers of all charts of them."""
    place = _found_place(result)
    found = []
    for path in course_of(result.found).paths:
        counts = itertools.accumulate(step.evaluated for step in path.steps)
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
                    found=(path.rule, number) == place,
                )
            )
    return tuple(found)


def _found_place(result: RunResult) -> tuple[str, int] | None:
    """Return the rule and the step of the network that the run ends with; measuring may choose one beside all paths."""
    problem, chosen = result.problem, _chosen_path(result)
    vector = problem.canonical(result.found.vectors[0])
    for path in (chosen, *course_of(result.found).paths):
        for number in reversed(range(len(path.steps))):
            if problem.canonical(path.steps[number].vector) == vector:
                return path.rule, number
    return None


def _paths(points: Sequence[PathPoint], result: RunResult, scale: _Scale, *, drawn_before: bool) -> Section:
    rules = dict.fromkeys(point.rule for point in points)
    told = "; ".join(f"{rule}: {_RULE_WORDS.get(rule, '')}" for rule in rules)
    blocks: list[Block] = [
        Text(f"All networks on the way, as in the paper's figures 3 and 4, by what each step takes: {told}.")
    ]
    given, problem = list(result.plan.budgets.given()), result.problem
    for name, limit in given[1:] if drawn_before else given:
        blocks.append(_against(name, limit, points, problem, scale))
    text = (
        "And by how many networks each rule had evaluated so far, as if it had been alone: what another rule evaluated "
        f"before is not evaluated again, so that all needed {course_of(result.found).evaluated:,}."
    )
    if course_of(result.found).rule == EXCHANGE:
        text += " Exchanges are not shown here: they do not count by step."
    return Section("The paths", [*blocks, Text(text), _by_effort(points, scale)])


def _needed(point: PathPoint, name: str) -> float:
    """Return what a budget is held against, as it is plotted: ms, or millions."""
    if name == "ms":
        assert point.bound_ms is not None
        return point.bound_ms
    return float(getattr(point, name)) / 1e6


def _against(name: str, limit: float, points: Sequence[PathPoint], problem: Problem, scale: _Scale) -> Chart:
    """Return the chart of values against a resource, with its budget."""
    x = [_needed(point, name) for point in points]
    figure = _paths_figure(points, x, scale)
    limit = limit if name == "ms" else limit / 1e6
    add_budget(figure, limit)
    upper = f", up to ({problem.level:.0%})" if problem.bound == "upper" else ""
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


def _chosen_path(result: RunResult) -> RcasPath:
    return next(path for path in course_of(result.found).paths if path.rule == course_of(result.found).rule)


def _chosen(result: RunResult, scale: _Scale) -> Section:
    chosen = _chosen_path(result)
    blocks: list[Block] = []
    if chosen.rule == EXCHANGE:
        # What the exchanges began with.
        before = next((p for p in course_of(result.found).paths if p.last.vector == chosen.steps[0].vector), None)
        if before is not None and before is not chosen:
            blocks += [Text(f"It began with what was found by {before.rule}:"), _steps(before, scale)]
            blocks.append(Text("And then:"))
        else:
            blocks.append(Text("It began with the best network that had been evaluated, which is at no path's end."))
    blocks.append(_steps(chosen, scale))
    place, what = _found_place(result), "nearest" if result.kept is False else "found"
    if place != (chosen.rule, len(chosen.steps) - 1):
        where = "on no path" if place is None else f"step {place[1]} of the path by {place[0]}"
        blocks.append(Text(f"Measuring led to another network than this path ends with: the one {what} is {where}."))
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


def _laziness(method: RcasMethod, result: RunResult, scale: _Scale) -> Section:
    found = course_of(result.found)
    text = f"{found.evaluated:,} networks were evaluated, of {found.plain:,} that a plain greedy search would "
    text += "evaluate along the same paths"
    text += f" ({1 - found.evaluated / found.plain:.0%} saved). " if method.search.lazy else "; laziness was off. "
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

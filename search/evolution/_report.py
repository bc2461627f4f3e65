"""What evolution, local and random search add to a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import plotly.graph_objects as go

from profiler._report._page import Chart, Section, Table, Text
from profiler._report._plots import CHOSEN, MEASURED, QUIET, counting_axis, finish, plot_label
from search._runs._compared import result_name
from search._runs._found import Evaluated, Found
from search._runs._report_parts import add_budget

if TYPE_CHECKING:
    from search._runs._result import RunResult

__all__ = ["CoursePoint", "EvaluatedPoint", "answer_chart", "course_points", "evaluated_points", "sections"]


class EvaluatedPoint(NamedTuple):
    """A network that was evaluated. Latencies in ms, predicted; ``bound_ms``: what a budget is held against.

    ``found``: whether it is the one that the run ends with.
    """

    network: str
    value: float
    ms: float | None
    bound_ms: float | None
    parameters: int
    madds: int
    found: bool


class CoursePoint(NamedTuple):
    """Where a search stood: how many networks were evaluated, and the best value so far."""

    evaluated: int
    best: float


def course_points(found: Found) -> tuple[CoursePoint, ...]:
    """Return the numbers of the chart of the course."""
    return tuple(CoursePoint(one.evaluated, one.best) for one in found.course.rounds)


def sections(result: RunResult) -> list[Section]:
    """Return the course of the search, and the network by its decisions."""
    return [_course(result), _decisions(result)]


def evaluated_points(result: RunResult) -> tuple[EvaluatedPoint, ...]:
    """Return the numbers of the chart of all networks evaluated."""
    problem, knowledge = result.problem, result.found.knowledge
    assert isinstance(knowledge, Evaluated)
    found = problem.canonical(result.found.vectors[0])
    points = []
    for vector, value in knowledge.values.items():
        needs = problem.needs(vector)
        points.append(
            EvaluatedPoint(
                problem.network(vector).name,
                value,
                needs.ms,
                needs.bound_ms,
                needs.parameters,
                needs.madds,
                problem.canonical(vector) == found,
            )
        )
    return tuple(points)


def answer_chart(result: RunResult) -> Chart:
    """Return all networks evaluated against the first budget."""
    points = evaluated_points(result)
    name, limit = next(result.plan.budgets.given())
    field, unit = {"ms": ("bound_ms", 1.0), "parameters": ("parameters", 1e6), "madds": ("madds", 1e6)}[name]
    percent = 100 if _shares(result) else 1
    figure = go.Figure()
    for found, colour, symbol, size in ((False, QUIET, "circle", 7), (True, CHOSEN, "diamond", 13)):
        own = [point for point in points if point.found == found]
        figure.add_trace(
            go.Scatter(
                x=[getattr(point, field) / unit for point in own],
                y=[percent * point.value for point in own],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": size},
                text=[plot_label(point.network) for point in own],
                hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
                name=result_name(result) if found else "evaluated",
            )
        )
    add_budget(figure, limit / unit)
    upper = f", up to ({result.problem.level:.0%})" if result.problem.bound == "upper" else ""
    titles = {"ms": f"predicted ms{upper}", "parameters": "M parameters", "madds": "M multiply-adds"}
    finish(figure, y="value in %" if percent > 1 else "value", x=titles[name], height=400)
    return Chart(figure, points, "evaluated")


def _shares(result: RunResult) -> bool:
    knowledge = result.found.knowledge
    assert isinstance(knowledge, Evaluated)
    return all(0 <= value <= 1 for value in knowledge.values.values())


def _course(result: RunResult) -> Section:
    points = course_points(result.found)
    percent = 100 if _shares(result) else 1
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=[point.evaluated for point in points],
            y=[percent * point.best for point in points],
            mode="lines+markers",
            line={"color": MEASURED, "shape": "hv"},
            name="best so far",
        )
    )
    finish(figure, y="best value" + (" in %" if percent > 1 else ""), x="networks evaluated", height=340, legend=False)
    figure.update_xaxes(**counting_axis(max((point.evaluated for point in points), default=1)))
    text = f"The best value so far, by how many networks were evaluated: {result.found.evaluated:,} in all."
    return Section("The search", [Text(text), Chart(figure, points, "search")] if points else [])


def _decisions(result: RunResult) -> Section:
    choices = zip(result.problem.space.choices, result.problem.canonical(result.found.vectors[0]), strict=True)
    rows = [[decision.name, str(decision.options[index])] for decision, index in choices]
    return Section("The network by its decisions", [Table(["decision", "option"], rows, "facts")], folded=True)

"""The page about an RCAS run: the network found block by block, the paths to it, and what laziness saved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import plotly.graph_objects as go

from lut import Network
from lut._console import format_ms
from profiler._page import CHOSEN, LAW, MEASURED, finish, gaps, html_page, html_plot, html_table, html_text, plot_label
from search._network_drawing import blocks_of, count_blocks, draw_networks, is_first
from search._rcas import EXCHANGE, RULES, RcasPath, RcasStep
from search._run_parts import NOT_ASKED

if TYPE_CHECKING:
    from search._rcas_run import RcasPlan, RcasRun
    from search._resources import NetworkResources
    from search._training import Trained

__all__ = ["rcas_report"]

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
    values = [step.value for path in result.search.paths for step in path.steps]
    scale = _Scale(all(0 <= value <= 1 for value in values))
    parts = [
        _head(plan, result, resources, scale),
        _warnings(result),
        _table(result, resources, scale),
        draw_networks(result, resources),
        _paths(plan, result, resources, scale),
        _chosen(result, scale),
        _laziness(plan, result, scale),
        _trainings(result),
        _provenance(plan, result, resources),
    ]
    goal = "within budgets" if predictor is None else f"for {predictor.device.model}"
    return html_page("search", f"{plan.space}, searched {goal}", parts)


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


def _head(plan: RcasPlan, result: RcasRun, resources: NetworkResources, scale: _Scale) -> str:
    found, measured = result.search, result.measured
    setting = "" if resources.predictor is None else f"{resources.predictor.setting}. "
    data = f"Data: {plan.data}. " if plan.data else ""
    text = f"<p>{html_text(setting + data)}Accuracies: {html_text(plan.accuracy)}. Budgets: {_budgets(plan)}.</p>"
    needs = resources.of(found.vector)
    ms = needs.ms if found.prediction is None else found.prediction.ms
    if measured is not None:
        up = measured.speed_up
        against = "" if ms is None else f" where {format_ms(ms)} ms were predicted ({ms / measured.winner_ms - 1:+.1%})"
        return text + (
            f'<div class="audit">Measured {format_ms(measured.winner_ms)} ms{against}. {html_text(result.base.name)} '
            f"takes {up.value:.2f} times as long ({up.low:.2f} … {up.high:.2f}).</div>"
        )
    predicted = "" if ms is None else f"Predicted {_predicted(ms, _upper(result, resources))} ms. "
    return text + (
        f'<p class="big">{predicted}{scale.text(found.value)} by the set function, {_millions(needs.madds)} '
        f"multiply-adds, {_millions(needs.parameters)} parameters.</p>"
    )


def _upper(result: RcasRun, resources: NetworkResources) -> float | None:
    """Return the upper end of the interval of the network found, if there is one."""
    if result.search.prediction is not None:
        return result.search.prediction.high_ms
    return resources.of(result.search.vector).bound_ms if resources.bound == "upper" else None


def _predicted(ms: float | None, upper: float | None) -> str:
    if ms is None:
        return "–"
    return format_ms(ms) + ("" if upper is None else f" (up to {format_ms(upper)})")


def _warnings(result: RcasRun) -> str:
    outside = () if result.search.prediction is None else result.search.prediction.outside
    found = [f"unlike the networks that the prediction rests on: {text}" for text in outside]
    if result.measured is not None:
        found += result.measured.warnings
    text = "".join(f'<div class="warning">{html_text(warning)}</div>' for warning in found)
    if result.not_measured == NOT_ASKED:
        return text + f"<p>Not measured: {NOT_ASKED}.</p>"
    if result.not_measured is not None:
        text += f'<div class="failure">not measured: {html_text(result.not_measured)}</div>'
    return text


class _Row(NamedTuple):
    """A network in the table."""

    name: str
    network: Network
    predicted: str
    measured: tuple[float, float, float] | None
    trained: Trained | None
    value: float | None
    blocks: int


def _table(result: RcasRun, resources: NetworkResources, scale: _Scale) -> str:
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
    return html_table(header, [_cells(row, resources, scale) for row in rows], kind="brief")


def _cells(row: _Row, resources: NetworkResources, scale: _Scale) -> list[str]:
    seen = "–"
    if row.measured is not None:
        ms, low, high = map(format_ms, row.measured)
        seen = f"{ms} ({low} … {high})"
    return [
        html_text(row.name),
        row.predicted,
        seen,
        "–" if row.trained is None else f"{row.trained.test_accuracy:.2%}",
        "–" if row.value is None else scale.text(row.value),
        f"{resources.madds(row.network) / 1e6:.1f}",
        f"{row.network.parameters / 1e6:.3f}",
        str(row.blocks),
    ]


# --- how it was found ---


def _paths(plan: RcasPlan, result: RcasRun, resources: NetworkResources, scale: _Scale) -> str:
    rules = "; ".join(f"{path.rule}: {_RULE_WORDS.get(path.rule, '')}" for path in result.search.paths)
    text = "<h2>The paths</h2><p>All networks on the way, as in the paper's figures 3 and 4, by what each step takes: "
    text += f"{html_text(rules)}.</p>"
    for name, limit in plan.budgets.given():
        text += html_plot(_against(name, limit, result, resources, scale))
    text += (
        "<p>And by how many networks each rule had evaluated so far, as if it had been alone: what another rule "
        f"evaluated before is not evaluated again, so that all needed {result.search.evaluated:,}."
    )
    if result.search.rule == EXCHANGE:
        text += " Exchanges are not shown here: they do not count by step."
    return text + "</p>" + html_plot(_by_effort(result, scale))


def _needed(step: RcasStep, name: str) -> float:
    """Return what a budget is held against, as it is plotted: ms, or millions."""
    if name == "ms":
        assert step.bound_ms is not None
        return step.bound_ms
    return float(getattr(step, name)) / 1e6


def _against(name: str, limit: float, result: RcasRun, resources: NetworkResources, scale: _Scale) -> go.Figure:
    """Return the plot of values against a resource, with its budget."""
    figure = go.Figure()
    for path in result.search.paths:
        _add_path(figure, path, [_needed(step, name) for step in path.steps], scale)
    chosen = _chosen_path(result).last
    _add_diamond(figure, _needed(chosen, name), chosen, scale)
    limit = limit if name == "ms" else limit / 1e6
    figure.add_vline(x=limit, line={"color": CHOSEN, "width": 2, "dash": "dot"}, opacity=1)
    # Low, since paths rise towards it.
    note = {"text": "budget", "showarrow": False, "xanchor": "right", "yanchor": "bottom", "yref": "paper", "y": 0}
    figure.add_annotation(x=limit, **note)
    upper = f", up to ({resources.level:.0%})" if resources.bound == "upper" else ""
    titles = {"ms": f"predicted ms{upper}", "parameters": "M parameters", "madds": "M multiply-adds"}
    finish(figure, y=f"set function{scale.unit}", x=titles[name], height=400)
    # A line alone would not widen the axis.
    every = [limit, *(_needed(step, name) for path in result.search.paths for step in path.steps)]
    margin = 0.04 * (max(every) - min(every)) or 0.1 * limit
    figure.update_xaxes(range=[min(every) - margin, max(every) + margin])
    return figure


def _by_effort(result: RcasRun, scale: _Scale) -> go.Figure:
    """Return the plot of values against the number of networks that a rule has evaluated so far."""
    figure = go.Figure()
    for path in result.search.paths:
        if path.rule == EXCHANGE:
            continue
        counts = list(itertools.accumulate(step.evaluated for step in path.steps))
        _add_path(figure, path, counts, scale)
        if path.rule == result.search.rule:
            _add_diamond(figure, counts[-1], path.last, scale)
    finish(figure, y=f"set function{scale.unit}", x="networks evaluated", height=360)
    return figure


def _add_path(figure: go.Figure, path: RcasPath, x: Iterable[float], scale: _Scale) -> None:
    befores = [None, *path.steps[:-1]]
    texts = [_hover(before, step, scale) for before, step in zip(befores, path.steps, strict=True)]
    figure.add_trace(
        go.Scatter(
            x=list(x),
            y=[scale.number(step.value) for step in path.steps],
            mode="lines+markers",
            line={"color": _RULE_COLOURS.get(path.rule, LAW)},
            marker={"size": 7},
            text=texts,
            hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
            name=plot_label(path.rule),
        )
    )


def _add_diamond(figure: go.Figure, x: float, step: RcasStep, scale: _Scale) -> None:
    marker: dict[str, Any] = {"color": CHOSEN, "size": 13, "symbol": "diamond", "line": {"color": "#fff", "width": 1}}
    figure.add_trace(
        go.Scatter(x=[x], y=[scale.number(step.value)], mode="markers", marker=marker, name="found", hoverinfo="skip")
    )


def _hover(before: RcasStep | None, step: RcasStep, scale: _Scale) -> str:
    # Plotly reads a few tags in texts.
    added = plot_label(_added(step))
    if before is None:
        return added
    ms = "" if step.ms is None or before.ms is None else f"{step.ms - before.ms:+.4g} ms, "
    return (
        f"{added}<br>gain {scale.change(step.gain)}{scale.points}<br>cost {ms}"
        f"{(step.parameters - before.parameters) / 1e6:+.4g} M parameters, "
        f"{(step.madds - before.madds) / 1e6:+.4g} M multiply-adds"
    )


def _added(step: RcasStep) -> str:
    """Return what a step changed."""
    return ", ".join(f"{name}: {option}" for name, option in step.changed.items()) or "the first network"


def _chosen_path(result: RcasRun) -> RcasPath:
    return next(path for path in result.search.paths if path.rule == result.search.rule)


def _chosen(result: RcasRun, scale: _Scale) -> str:
    chosen = _chosen_path(result)
    text = f"<h2>The path taken: {html_text(chosen.rule)}</h2>"
    if chosen.rule == EXCHANGE:
        # What the exchanges began with.
        before = next((p for p in result.search.paths if p.last.vector == chosen.steps[0].vector), None)
        if before is not None and before is not chosen:
            text += f"<p>It began with what was found by {html_text(before.rule)}:</p>{_steps(before, scale)}"
            text += "<p>And then:</p>"
        else:
            text += "<p>It began with the best network that had been evaluated, which is at no path's end.</p>"
    text += _steps(chosen, scale)
    best = max(range(len(chosen.steps)), key=lambda number: chosen.steps[number].value)
    if chosen.steps[best].value > chosen.last.value:
        value = scale.text(chosen.steps[best].value)
        text += f"<p>Step {best} was better, with {value}; the search takes what its paths end with.</p>"
    return text


def _steps(path: RcasPath, scale: _Scale) -> str:
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
        row = [str(number), html_text(_start(path) if first else _added(step)), scale.text(step.value)]
        row.append("–" if first else scale.change(step.gain))
        if resource is not None:
            unit = 1 if resource == "ms" else 1e6
            row.append("–" if first else f"{step.cost / unit:+.4f}")
        row += [format_ms(step.ms)] if step.ms is not None else []
        row += [f"{step.madds / 1e6:.2f}", f"{step.parameters / 1e6:.4f}"]
        if counted:
            row += [f"{step.evaluated} of {step.plain}", f"{step.exceeded} of {step.revisited}"]
        rows.append(row)
    return html_table(header, rows, kind="named brief")


_M = {"ms": "ms", "madds": "M multiply-adds", "parameters": "M parameters"}


def _start(path: RcasPath) -> str:
    return "the network to improve" if path.rule == EXCHANGE else "the first network"


def _laziness(plan: RcasPlan, result: RcasRun, scale: _Scale) -> str:
    found = result.search
    text = f"{found.evaluated:,} networks were evaluated, of {found.plain:,} that a plain greedy search would "
    text += "evaluate along the same paths"
    text += f" ({1 - found.evaluated / found.plain:.0%} saved). " if plan.search.lazy else "; laziness was off. "
    if found.rule == EXCHANGE:
        text += "Both numbers include those that the exchanges asked for. "
    if found.revisited == 0:
        text += "No gain was taken anew."
    else:
        text += f"Of {found.revisited:,} gains that were taken anew, {found.exceeded:,} had risen"
        if found.exceeded:
            text += f", by {scale.change(found.excess).removeprefix('+')}{scale.points} at most"
        text += "; of a submodular function none would."
    return (
        f"<h2>What laziness saved, and what it rests on</h2><p>{text}</p><p>The paper's bound, ½(1−1/e) of the best "
        "value within the budget, needs a monotone submodular function, one budget that is a sum over blocks, and no "
        "rule that a position holds one block; networks have none of these, so that nothing of it is guaranteed here."
        "</p>"
    )


def _trainings(result: RcasRun) -> str:
    figure = go.Figure()
    for trained, name, colour in (
        (result.trained, "found", CHOSEN),
        (result.base_trained, result.base.name, MEASURED),
    ):
        if trained is not None:
            figure.add_trace(
                go.Scatter(
                    x=[epoch.epoch for epoch in trained.epochs],
                    y=gaps(100 * epoch.test_accuracy for epoch in trained.epochs),
                    line={"color": colour},
                    name=plot_label(name),
                )
            )
    if not figure.data:
        return ""
    finish(figure, y="test accuracy in %", x="epoch of the training", height=340)
    return "<h2>The trainings</h2>" + html_plot(figure)


def _provenance(plan: RcasPlan, result: RcasRun, resources: NetworkResources) -> str:
    import msgspec

    settings = msgspec.to_builtins(plan)
    for name in ("function", "data_digest", "latencies"):
        settings[name] = settings[name][:12]
    settings["tables' digests"] = ", ".join(digest[:12] for digest in settings.pop("tables"))
    for name, words in (
        ("space_options", "space"),
        ("budgets", "budget"),
        ("search", "search"),
        ("early_stopped", "early-stopped training"),
        ("recipe", "training"),
    ):
        inner = settings.pop(name)
        settings.update({words: None} if inner is None else {f"{words}: {key}": value for key, value in inner.items()})
    rows = [[html_text(name.replace("_", " ")), html_text(_setting(value))] for name, value in settings.items()]
    rows.insert(0, ["search took", f"{result.search.seconds:.0f} s"])
    if resources.predictor is not None:
        tables = ", ".join(table.name for table in resources.predictor.tables)
        rows.insert(0, ["tables", html_text(tables)])
    return "<h2>Settings</h2>" + html_table(None, rows, kind="facts")


def _setting(value: object) -> str:
    return "–" if value is None or value in ("", (), []) else str(value)

"""The page about an RCAS run: the network found block by block, the paths to it, and what laziness saved."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import plotly.graph_objects as go

from lut import Decision, Network, NetworkLayer
from lut._console import format_ms
from profiler._page import CHOSEN, LAW, MEASURED, finish, gaps, html_page, html_plot, html_table
from search._rcas import EXCHANGE, RULES, RcasPath, RcasStep
from search._rcnet import BLOCK_TYPES, RCNet
from search._run_parts import NOT_ASKED

if TYPE_CHECKING:
    from search._rcas_run import RcasPlan, RcasRun
    from search._resources import NetworkResources
    from search._training import Trained

__all__ = ["rcas_report"]

# Okabe and Ito's palette without its black: options in the order of a space.
_COLOURS = ("#56B4E9", "#0072B2", "#F0E442", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
_WHITE_ON = {"#0072B2"}
_GREY = "#d9d9d9"
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
        _networks(result, resources),
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
    text = f"<p>{escape(setting + data)}Accuracies: {escape(plan.accuracy)}. Budgets: {_budgets(plan)}.</p>"
    needs = resources.of(found.vector)
    ms = needs.ms if found.prediction is None else found.prediction.ms
    if measured is not None:
        up = measured.speed_up
        against = "" if ms is None else f" where {format_ms(ms)} ms were predicted ({ms / measured.winner_ms - 1:+.1%})"
        return text + (
            f'<div class="audit">Measured {format_ms(measured.winner_ms)} ms{against}. {escape(result.base.name)} '
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
    text = "".join(f'<div class="warning">{escape(warning)}</div>' for warning in found)
    if result.not_measured == NOT_ASKED:
        return text + f"<p>Not measured: {NOT_ASKED}.</p>"
    if result.not_measured is not None:
        text += f'<div class="failure">not measured: {escape(result.not_measured)}</div>'
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
    same = _is_first(result, resources)
    ms = resources.of(found.vector).ms if found.prediction is None else found.prediction.ms
    rows = [
        _Row(
            "found",
            found.network,
            _predicted(ms, _upper(result, resources)),
            winner_ms,
            result.trained,
            found.value,
            _count(resources, found.vector),
        ),
        _Row(
            f"{result.base.name}, {_FIRST}" if same else result.base.name,
            result.base,
            _predicted(result.base_predicted_ms, None),
            base_ms,
            result.base_trained,
            found.paths[0].steps[0].value if same else None,
            _count(resources, start) if same else len(_blocks(result.base)),
        ),
    ]
    if not same:
        value = found.paths[0].steps[0].value
        rows.append(_Row(_FIRST, first, _predicted(needs.ms, upper), None, None, value, _count(resources, start)))
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
        escape(row.name),
        row.predicted,
        seen,
        "–" if row.trained is None else f"{row.trained.test_accuracy:.2%}",
        "–" if row.value is None else scale.text(row.value),
        f"{resources.madds(row.network) / 1e6:.1f}",
        f"{row.network.parameters / 1e6:.3f}",
        str(row.blocks),
    ]


def _is_first(result: RcasRun, resources: NetworkResources) -> bool:
    return result.base == resources.network((0,) * len(result.search.vector))


# --- the networks, drawn ---


class _Box(NamedTuple):
    """A position of a drawn network; without a ``fill`` nothing is there."""

    name: str
    label: str
    fill: str | None
    begun: bool
    tooltip: str


# By stage.
_Rows: TypeAlias = dict[str, list[_Box]]


def _blocks(network: Network) -> dict[str, list[NetworkLayer]]:
    """Return the layers of each block, by what comes before the last dot but one: ``stage3.block2``."""
    found: dict[str, list[NetworkLayer]] = {}
    for item in network.layers:
        stage, _, rest = item.name.partition(".")
        block, dot, _ = rest.partition(".")
        if dot:
            found.setdefault(f"{stage}.{block}", []).append(item)
    return found


def _undecided(resources: NetworkResources, network: Network) -> dict[str, list[NetworkLayer]]:
    """Return the blocks of a space's network that no decision is about."""
    decided = [f"{decision.name}." for decision in resources.space.choices]
    return {
        name: layers
        for name, layers in _blocks(network).items()
        if not any(f"{name}.".startswith(other) or other.startswith(f"{name}.") for other in decided)
    }


def _is_empty(decision: Decision, index: int) -> bool:
    return index == 0 and len(decision.options) > 1


def _count(resources: NetworkResources, vector: Sequence[int]) -> int:
    """Return how many blocks a vector's network has, those that no decision is about included."""
    taken = zip(resources.space.choices, vector, strict=True)
    filled = sum(not _is_empty(decision, index) for decision, index in taken)
    return filled + len(_undecided(resources, resources.network(vector)))


def _networks(result: RcasRun, resources: NetworkResources) -> str:
    vector = resources.canonical(result.search.vector)
    drawn = _drawing(_decided_rows(resources, result.search.network, vector), _FOUND)
    moved = " Empty positions come last in each stage: it makes no difference where they are."
    text = (
        "<h2>The network found</h2><p>A row is a stage, a box a position; what it adds is told where the mouse rests."
    )
    text += f"{moved if vector != tuple(result.search.vector) else ''}</p>{_legend(resources)}{drawn}"
    if _is_first(result, resources):
        start = (0,) * len(vector)
        rows = _decided_rows(resources, result.base, start)
    else:
        rows = {}
        for name, layers in _blocks(result.base).items():
            stage, block = name.split(".")
            box = _Box(block, _expansion(layers), _GREY, False, f"{name}: {_adds(layers)}")
            rows.setdefault(stage, []).append(box)
    if not rows:
        return text
    caption = "" if _is_first(result, resources) else "<p>t is a block's expansion.</p>"
    return text + f"<h3>{escape(result.base.name)}, the baseline</h3>{caption}" + _drawing(rows, result.base.name)


def _decided_rows(resources: NetworkResources, network: Network, vector: Sequence[int]) -> _Rows:
    """Return a row for each stage of a space's network, with a box for each decision, and each block that has none."""
    rows: _Rows = {}
    first = _blocks(resources.network((0,) * len(vector)))
    for name, layers in _undecided(resources, network).items():
        stage, block = name.split(".")
        box = _Box(block, _expansion(layers), _GREY, name in first, f"{name}: {_adds(layers)}")
        rows.setdefault(stage, []).append(box)
    colours = _colours(resources)
    for decision, index in zip(resources.space.choices, vector, strict=True):
        option, empty = decision.options[index], _is_empty(decision, index)
        stage, _, position = decision.name.partition(".")
        layers = [item for item in network.layers if f"{item.name}.".startswith(f"{decision.name}.")]
        what = "empty" if empty and option == 0 else _option(resources, option)
        box = _Box(
            position,
            "–" if empty and option == 0 else str(option),
            None if empty else colours[option],
            len(decision.options) == 1,
            f"{decision.name}: {what}" + (f"\n{_adds(layers)}" if layers else ""),
        )
        rows.setdefault(stage, []).append(box)
    numbers = {stage: re.fullmatch(r"stage(\d+)", stage) for stage in rows}
    if all(numbers.values()):
        # Blocks that no decision is about may be of stages before or after those that are decided.
        return dict(sorted(rows.items(), key=lambda row: int(row[0].removeprefix("stage"))))
    return rows


def _expansion(layers: Sequence[NetworkLayer]) -> str:
    """Return a block's expansion, or its channels where it is no inverted residual."""
    parts = {item.name.rpartition(".")[2]: item.layer for item in layers}
    if "depthwise" not in parts:
        return f"{layers[-1].layer.output_shape[0]}"
    if "expand" not in parts:
        return "t=1"
    return f"t={parts['expand'].output_shape[0] / parts['expand'].inputs[0][0]:g}"


def _adds(layers: Sequence[NetworkLayer]) -> str:
    """Return what a block adds to its network."""
    madds = sum(item.count * item.layer.madds for item in layers)
    parameters = sum(item.count * item.layer.parameters for item in layers)
    before, after = layers[0].layer.inputs[0][0], layers[-1].layer.output_shape[0]
    return f"{before} → {after} channels, {madds / 1e6:.3f} M multiply-adds, {parameters / 1e6:.4f} M parameters"


def _options(resources: NetworkResources) -> list[int]:
    """Return all options of a space that say that something is there."""
    return sorted(
        {
            option
            for decision in resources.space.choices
            for index, option in enumerate(decision.options)
            if not _is_empty(decision, index)
        }
    )


def _colours(resources: NetworkResources) -> dict[int, str]:
    return dict(zip(_options(resources), itertools.cycle(_COLOURS), strict=False))


def _option(resources: NetworkResources, option: int) -> str:
    """Return what an option is, in words."""
    if not isinstance(resources.space, RCNet):
        return f"option {option}"
    block = BLOCK_TYPES[option]
    return f"type {option}: t={block.expand}, g_e={block.expand_groups}, g_p={block.project_groups}"


def _legend(resources: NetworkResources) -> str:
    """Return what the colours of the boxes mean; nothing of them where they come again."""
    colours = _colours(resources)
    found = []
    if len(colours) <= len(_COLOURS):
        found = [(f"background:{colour}", _option(resources, option)) for option, colour in colours.items()]
    found.append(("border:1px dashed #888;box-sizing:border-box", "empty"))
    if any(len(decision.options) == 1 for decision in resources.space.choices):
        found.append(("border:3px solid #222;box-sizing:border-box", "there from the start"))
    entries = "".join(
        f'<span><span style="display:inline-block;width:1rem;height:1rem;vertical-align:-.15em;{style}"></span> '
        f"{escape(text)}</span>"
        for style, text in found
    )
    text = f'<div style="display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:.5rem 0;font-size:.9rem">{entries}</div>'
    if isinstance(resources.space, RCNet):
        text += "<p>t: expansion; g_e and g_p: groups of the convolutions that expand and project.</p>"
    return text


# Pixels of a box's height, of its least and greatest width, and between boxes; and what a letter takes at 11 pixels.
_HIGH, _NARROW, _WIDE, _GAP, _LETTER = 42, 50, 110, 6, 6.6


def _short(text: str, most: int = 20) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _drawing(rows: _Rows, what: str) -> str:
    """Return a network as a picture that takes the width it finds, down to where it could not be read."""
    margin = 8 + _LETTER * 1.1 * max(len(_short(stage)) for stage in rows)
    longest = max(len(text) for boxes in rows.values() for box in boxes for text in (box.name, box.label))
    wide = min(_WIDE, max(_NARROW, 8 + _LETTER * longest))
    width = margin + max(map(len, rows.values())) * (wide + _GAP)
    height = len(rows) * (_HIGH + _GAP) + 4
    shapes: list[str] = []
    for r, (stage, boxes) in enumerate(rows.items()):
        top = 2 + r * (_HIGH + _GAP)
        shapes.append(
            f'<text x="0" y="{top + _HIGH / 2 + 4:g}" font-size="12"><title>{escape(stage)}</title>'
            f"{escape(_short(stage))}</text>"
        )
        shapes += [_shape(box, margin + b * (wide + _GAP), top, wide) for b, box in enumerate(boxes)]
    return (
        f'<div class="scroll"><svg role="img" aria-label="{escape(what)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="display:block;width:100%;min-width:{0.88 * width:.0f}px;max-width:{1.4 * width:.0f}px">'
        f"{''.join(shapes)}</svg></div>"
    )


def _shape(box: _Box, left: float, top: float, wide: float) -> str:
    middle = left + wide / 2
    ink = "#777" if box.fill is None else "#fff" if box.fill in _WHITE_ON else "#111"
    border = 'stroke="#222" stroke-width="3"' if box.begun else 'stroke="none"'
    if box.fill is None:
        border = 'stroke="#999" stroke-dasharray="3 3"'
    # The name above the label, unless it is the row's name already.
    at = 35 if box.name else 27
    name = ""
    if box.name:
        text = escape(_short(box.name, int(wide / _LETTER)))
        name = f'<text x="{middle:g}" y="{top + 15:g}" font-size="11">{text}</text>'
    fill = box.fill or "#fff"
    kind = "empty" if box.fill is None else "begun" if box.begun else "taken"
    return (
        f'<g class="box {kind}" fill="{ink}" text-anchor="middle"><title>{escape(box.tooltip)}</title>'
        f'<rect x="{left:g}" y="{top:g}" width="{wide:g}" height="{_HIGH}" rx="4" fill="{fill}" {border}/>'
        f'{name}<text x="{middle:g}" y="{top + at:g}" font-size="15" font-weight="bold">{escape(box.label)}</text></g>'
    )


# --- how it was found ---


def _paths(plan: RcasPlan, result: RcasRun, resources: NetworkResources, scale: _Scale) -> str:
    rules = "; ".join(f"{path.rule}: {_RULE_WORDS.get(path.rule, '')}" for path in result.search.paths)
    text = "<h2>The paths</h2><p>All networks on the way, as in the paper's figures 3 and 4, by what each step takes: "
    text += f"{escape(rules)}.</p>"
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
            name=escape(path.rule, quote=False),
        )
    )


def _add_diamond(figure: go.Figure, x: float, step: RcasStep, scale: _Scale) -> None:
    marker: dict[str, Any] = {"color": CHOSEN, "size": 13, "symbol": "diamond", "line": {"color": "#fff", "width": 1}}
    figure.add_trace(
        go.Scatter(x=[x], y=[scale.number(step.value)], mode="markers", marker=marker, name="found", hoverinfo="skip")
    )


def _hover(before: RcasStep | None, step: RcasStep, scale: _Scale) -> str:
    # Plotly reads a few tags in texts.
    added = escape(_added(step), quote=False)
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
    text = f"<h2>The path taken: {escape(chosen.rule)}</h2>"
    if chosen.rule == EXCHANGE:
        # What the exchanges began with.
        before = next((p for p in result.search.paths if p.last.vector == chosen.steps[0].vector), None)
        if before is not None and before is not chosen:
            text += (
                f"<p>It began with what was found by {escape(before.rule)}:</p>{_steps(before, scale)}<p>And then:</p>"
            )
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
        row = [str(number), escape(_start(path) if first else _added(step)), scale.text(step.value)]
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
                    name=escape(name, quote=False),
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
    rows = [[escape(name.replace("_", " ")), escape(_setting(value))] for name, value in settings.items()]
    rows.insert(0, ["search took", f"{result.search.seconds:.0f} s"])
    if resources.predictor is not None:
        tables = ", ".join(table.name for table in resources.predictor.tables)
        rows.insert(0, ["tables", escape(tables)])
    return "<h2>Settings</h2>" + html_table(None, rows, kind="facts")


def _setting(value: object) -> str:
    return "–" if value is None or value in ("", (), []) else str(value)

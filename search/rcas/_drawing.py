"""Networks of blocks as pictures for a report: a row a stage, a box a position."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from markupsafe import Markup

from lut import Decision, Network, NetworkLayer
from profiler._report._page import Block, Section, Text, render
from search.spaces._rcnet import BLOCK_TYPES, RCNet

if TYPE_CHECKING:
    from search._problem._problem import Problem
    from search._runs._result import RunResult

__all__ = ["blocks_of", "count_blocks", "draw_networks"]

# Okabe and Ito's palette without its black: options in the order of a space.
_COLOURS = ("#56B4E9", "#0072B2", "#F0E442", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
_WHITE_ON = {"#0072B2"}
_GREY = "#d9d9d9"


class _Box(NamedTuple):
    """A position of a drawn network; without a ``fill`` nothing is there."""

    name: str
    label: str
    fill: str | None
    begun: bool
    tooltip: str


# By stage.
_Rows: TypeAlias = dict[str, list[_Box]]


def blocks_of(network: Network) -> dict[str, list[NetworkLayer]]:
    """Return the layers of each block, by what comes before the last dot but one: ``stage3.block2``."""
    found: dict[str, list[NetworkLayer]] = {}
    for item in network.layers:
        stage, _, rest = item.name.partition(".")
        block, dot, _ = rest.partition(".")
        if dot:
            found.setdefault(f"{stage}.{block}", []).append(item)
    return found


def _undecided(problem: Problem, network: Network) -> dict[str, list[NetworkLayer]]:
    """Return the blocks of a space's network that no decision is about."""
    decided = [f"{decision.name}." for decision in problem.space.choices]
    return {
        name: layers
        for name, layers in blocks_of(network).items()
        if not any(f"{name}.".startswith(other) or other.startswith(f"{name}.") for other in decided)
    }


def _is_empty(decision: Decision, index: int) -> bool:
    return index == 0 and len(decision.options) > 1


def count_blocks(problem: Problem, vector: Sequence[int]) -> int:
    """Return how many blocks a vector's network has, those that no decision is about included."""
    taken = zip(problem.space.choices, vector, strict=True)
    filled = sum(not _is_empty(decision, index) for decision, index in taken)
    return filled + len(_undecided(problem, problem.network(vector)))


def draw_networks(result: RunResult) -> Section:
    """Return the network found and the base network as pictures, with what the colours mean."""
    problem = result.problem
    vector = problem.canonical(result.found.vectors[0])
    found = "the nearest network" if result.kept is False else "the network found"
    heading = found.replace("the", "The", 1)
    told = "A row is a stage, a box a position; what it adds is told where the mouse rests."
    blocks: list[Block] = [Text(told), render("search", "legend.html", entries=_legend(problem))]
    if isinstance(problem.space, RCNet):
        blocks.append(Text("t: expansion; g_e and g_p: groups of the convolutions that expand and project."))
    blocks.append(_drawing(_decided_rows(problem, result.network, vector), found))
    base = f"{result.base.name}, the base network"
    start = (0,) * len(vector)
    if result.base == problem.network(start):
        blocks.append(_drawing(_decided_rows(problem, result.base, start), base))
        return Section(heading, blocks)
    rows: _Rows = {}
    for name, layers in blocks_of(result.base).items():
        stage, block = name.split(".")
        box = _Box(block, _expansion(layers), _GREY, False, f"{name}: {_adds(layers)}")
        rows.setdefault(stage, []).append(box)
    if rows:
        blocks += [_drawing(rows, base), Text("In the base network t is a block's expansion.")]
    return Section(heading, blocks)


def _decided_rows(problem: Problem, network: Network, vector: Sequence[int]) -> _Rows:
    """Return a row for each stage of a space's network, with a box for each decision, and each block that has none."""
    rows: _Rows = {}
    first = blocks_of(problem.network((0,) * len(vector)))
    for name, layers in _undecided(problem, network).items():
        stage, block = name.split(".")
        box = _Box(block, _expansion(layers), _GREY, name in first, f"{name}: {_adds(layers)}")
        rows.setdefault(stage, []).append(box)
    colours = _colours(problem)
    for decision, index in zip(problem.space.choices, vector, strict=True):
        option, empty = decision.options[index], _is_empty(decision, index)
        stage, _, position = decision.name.partition(".")
        layers = [item for item in network.layers if f"{item.name}.".startswith(f"{decision.name}.")]
        what = "empty" if empty and option == 0 else _option(problem, option)
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


def _options(problem: Problem) -> list[int]:
    """Return all options of a space that say that something is there."""
    return sorted(
        {
            option
            for decision in problem.space.choices
            for index, option in enumerate(decision.options)
            if not _is_empty(decision, index)
        }
    )


def _colours(problem: Problem) -> dict[int, str]:
    return dict(zip(_options(problem), itertools.cycle(_COLOURS), strict=False))


def _option(problem: Problem, option: int) -> str:
    """Return what an option is, in words."""
    if not isinstance(problem.space, RCNet):
        return f"option {option}"
    block = BLOCK_TYPES[option]
    return f"type {option}: t={block.expand}, g_e={block.expand_groups}, g_p={block.project_groups}"


def _legend(problem: Problem) -> list[tuple[str, str]]:
    """Return the looks of boxes with what they mean; nothing of colours where they come again."""
    colours = _colours(problem)
    found = []
    if len(colours) <= len(_COLOURS):
        found = [(f"background: {colour}", _option(problem, option)) for option, colour in colours.items()]
    found.append(("border: 1px dashed #888", "empty"))
    if any(len(decision.options) == 1 for decision in problem.space.choices):
        found.append(("border: 3px solid", "there from the start"))
    return found


# Pixels of a box's height, of its least and greatest width, and between boxes; and what a letter takes at 11 pixels.
_HIGH, _NARROW, _WIDE, _GAP, _LETTER = 42, 50, 110, 6, 6.6


def _short(text: str, most: int = 20) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


class _Shape(NamedTuple):
    """A box with its place, in pixels."""

    kind: str
    tooltip: Sequence[str]
    ink: str
    fill: str
    left: float
    top: float
    middle: float
    label: str
    label_y: float
    name: str


def _drawing(rows: _Rows, caption: str) -> Markup:
    """Return a network as a picture that takes the width it finds, down to where it could not be read."""
    margin = 8 + _LETTER * 1.1 * max(len(_short(stage)) for stage in rows)
    longest = max(len(text) for boxes in rows.values() for box in boxes for text in (box.name, box.label))
    wide = min(_WIDE, max(_NARROW, 8 + _LETTER * longest))
    stages, shapes = [], []
    for r, (stage, boxes) in enumerate(rows.items()):
        top = 2 + r * (_HIGH + _GAP)
        stages.append((stage, _short(stage), round(top + _HIGH / 2 + 4, 1)))
        shapes += [_shape(box, margin + b * (wide + _GAP), top, wide) for b, box in enumerate(boxes)]
    return render(
        "search",
        "drawing.html",
        caption=caption,
        width=round(margin + max(map(len, rows.values())) * (wide + _GAP)),
        height=len(rows) * (_HIGH + _GAP) + 4,
        box_width=f"{wide:g}",
        box_height=_HIGH,
        stages=stages,
        shapes=shapes,
    )


def _shape(box: _Box, left: float, top: float, wide: float) -> _Shape:
    return _Shape(
        kind="empty" if box.fill is None else "begun" if box.begun else "taken",
        tooltip=box.tooltip.split("\n"),
        ink="#777" if box.fill is None else "#fff" if box.fill in _WHITE_ON else "#111",
        fill=box.fill or "none",
        left=round(left, 1),
        top=top,
        middle=round(left + wide / 2, 1),
        label=box.label,
        # The name above the label, unless it is the row's name already.
        label_y=top + (35 if box.name else 27),
        name=_short(box.name, int(wide / _LETTER)),
    )

"""A report's page: sections of blocks, numbers first, which templates with autoescape turn into HTML.

Text in a block is text: what is in it is shown and not obeyed, wherever it came from.
"""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias

import plotly.graph_objects as go
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from lut._printable import printable

__all__ = ["Answer", "Block", "Cell", "Chart", "Fold", "Notice", "Section", "Table", "Text", "html_page", "render"]

TEMPLATES = "_report/templates"
# What spreadsheets take for a formula.
FORMULAS = ("=", "+", "-", "@")

# Characters of a downloaded file's name, without its ending.
LONGEST_NAME = 60


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Notice(NamedTuple):
    """A line in a box, coloured by what it means for the reader: ``good``, ``warning`` or ``bad``."""

    level: Literal["good", "warning", "bad"]
    text: str


class Cell(NamedTuple):
    """A cell of a table that is more than a text: with a second line, bold, or marked as unsure."""

    text: str
    below: str = ""
    look: Literal["", "bold", "unsure"] = ""


class Table(NamedTuple):
    """A table, whose cells are texts, or one or several cells with looks of their own.

    ``kind``: ``facts`` for texts that may wrap, ``named`` where the second column is a text beside numbers, ``brief``
    for a header that may wrap; several with spaces between them.
    """

    header: Sequence[str] | None
    rows: Sequence[Sequence[str | Cell | Sequence[Cell]]]
    kind: str = ""


class Chart(NamedTuple):
    """A finished figure with the numbers that it was drawn from, which the page offers as CSV.

    ``points``: named tuples of one type, whose fields are the columns; ``name``: the file's, without its ending;
    ``caption``: what is drawn, where the section's heading does not say it.
    """

    figure: go.Figure
    points: Sequence[NamedTuple]
    name: str
    caption: str = ""


class Fold(NamedTuple):
    """Blocks that open at a click."""

    summary: str
    blocks: Sequence[Block]


# ``Markup`` is HTML already, of a template: a drawing, say.
Block: TypeAlias = "Text | Notice | Table | Chart | Fold | Markup"


class Section(NamedTuple):
    """Blocks under a heading; ``folded`` where few read them."""

    heading: str
    blocks: Sequence[Block]
    folded: bool = False


class Answer(NamedTuple):
    """What a reader came for: some three sentences, and a chart with what goes with it."""

    sentences: Sequence[str]
    blocks: Sequence[Block]


def html_page(title: str, *, heading: str, subtitle: str, answer: Answer, sections: Sequence[Section]) -> str:
    """Return a self-contained HTML page; sections without blocks are left out.

    Args:
        title: of the browser's tab.
        heading: of the page.
        subtitle: what holds for all of it, in one line.
        answer: what comes first.
        sections: what follows.
    """
    return str(
        render(
            "profiler",
            "page.html",
            title=title,
            heading=heading,
            subtitle=subtitle,
            answer=answer,
            sections=[section for section in sections if section.blocks],
            plotly_js=Markup(get_plotlyjs()),  # noqa: S704
        )
    )


def render(package: str, template: str, **values: Any) -> Markup:
    """Return a template of a package's ``templates`` as HTML; those of the report itself can be imported by it.

    Args:
        package: ``profiler``, or the top-level package whose templates come before the report's.
        template: the file's name.
        values: what it shows; text in them is escaped.
    """
    return Markup(_environment(package).get_template(template).render(**values))  # noqa: S704


@cache
def _environment(package: str) -> Environment:
    own = PackageLoader("profiler", TEMPLATES)
    loader = own if package == "profiler" else ChoiceLoader([PackageLoader(package, "_templates"), own])
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["plot"] = _plot
    environment.filters["csv_url"] = _csv_url
    environment.filters["file_name"] = _file_name
    environment.filters["anchor"] = lambda heading: _file_name(heading).lower()
    return environment


def _shown(value: object) -> object:
    """Return what stands for a value in the page, in one line and without what a terminal or browser would act on."""
    return value if isinstance(value, Markup) else printable(str(value))


def _plot(figure: go.Figure) -> Markup:
    """Return a finished figure as HTML that takes the width it finds."""
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    text = to_html(figure, full_html=False, include_plotlyjs=False, config=config, default_width="100%")
    return Markup(text)  # noqa: S704


def _file_name(text: str) -> str:
    """Return text as a part of a file's name, on any system."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")[:LONGEST_NAME] or "numbers"


def _csv_url(points: Sequence[NamedTuple]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(points[0]._fields)
    writer.writerows([_csv_cell(value) for value in point] for point in points)
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.getvalue().encode()).decode()


def _csv_cell(value: object) -> object:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        text = printable(value)
        return "'" + text if text.startswith(FORMULAS) else text
    return value

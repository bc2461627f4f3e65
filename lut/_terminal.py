"""The console that all commands print with: what it is given is data, whoever wrote it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from lut._printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["DataConsole", "assemble", "make_progress", "wrapped"]


@final
class DataConsole(Console):
    """A console that reads no markup and lets no control character through.

    What is to be bold or coloured says so by a style: ``console.print(text, style="bold")``, or the parts of
    :func:`assemble`. Strings that are printed, and those in the cells of tables, are made harmless before they are laid
    out, and are one line each: a line break in them is data. What comes by another way is made harmless before it is
    written.
    """

    def __init__(self, *, stderr: bool, soft_wrap: bool) -> None:
        # https://no-color.org: no colour, and nothing bold either.
        plain = bool(os.environ.get("NO_COLOR"))
        super().__init__(
            stderr=stderr,
            soft_wrap=soft_wrap,
            markup=False,
            emoji=False,
            highlight=False,
            color_system=None if plain else "auto",
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text to lay out."""
        options.update(markup=False, emoji=False)
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is written, piece by piece."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                parts = segment.text.split("\n")
                yield Segment("\n".join(map(printable, parts)), segment.style)


def assemble(parts: Iterable[str | tuple[str, str]]) -> Text:
    """Return one line of parts; those with a style are ``(text, style)``."""
    text = Text()
    for part in parts:
        words, style = part if isinstance(part, tuple) else (part, "")
        text.append(printable(words), style)
    return text


def wrapped(console: Console, text: str, width: int) -> list[str]:
    """Return a text as lines of at most ``width`` cells, broken between words where that can be."""
    return [line.plain.rstrip() for line in Text(text).wrap(console, width, overflow="fold")]


def make_progress(console: Console) -> Progress:
    """Return a bar between a description and what is left, which draws only when it is told to.

    Its columns read no markup; what they show is to be harmless already.
    """
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[left]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
    )

"""The console that all commands print with: what it is given is data, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from lut._printable import printable

__all__ = ["DataConsole"]

# Line breaks at a text's ends are layout, and ours; those inside it come from data.
_ENDS = re.compile(r"(\n*)(.*?)(\n*)", re.DOTALL)


@final
class DataConsole(Console):
    """A console that reads no markup and lets no control character through.

    What is to be bold or coloured says so by a style: ``console.print(text, style="bold")``, or a
    :class:`rich.text.Text` of several. Strings that are printed, and those in the cells of tables, are made harmless
    before they are laid out; what comes by another way, before it is written.
    """

    def __init__(self, *, stderr: bool, soft_wrap: bool) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text to lay out."""
        found = _ENDS.fullmatch(text)
        assert found is not None
        before, inner, after = found.groups()
        options.update(markup=False, emoji=False)
        return super().render_str(f"{before}{printable(inner)}{after}", **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is written, piece by piece."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                parts = segment.text.split("\n")
                yield Segment("\n".join(map(printable, parts)), segment.style)

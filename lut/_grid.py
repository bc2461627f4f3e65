"""Tables on a terminal and off it: a number is whole or its column is not shown, and what is not shown is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from lut._console import styled
from lut._printable import printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Column", "Grid", "print_grid"]

# Between two columns.
GAP = 2

# Free text is wrapped to no less than this while a column can be dropped instead, and then to no less than that.
NARROW_TEXT, LEAST_TEXT = 24, 8

# Off a terminal longer free text moves the rest of its own row, not everybody's.
WIDEST_TEXT = 120


class Column(NamedTuple):
    """A column of a table.

    Args:
        title: its header.
        drop: 0 is shown always; of the others, where the terminal is too narrow, the highest go first, and those with
            the same number together.
        left: its cells begin at one place, rather than end at one.
        text: its cells are free text, which may be wrapped: names of layers, operators. Anything else is shown whole.
    """

    title: str
    drop: int = 0
    left: bool = False
    text: bool = False


class Grid(NamedTuple):
    """A table as data: a cell for each column in every row, and for each row a style or ``None``."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    styles: tuple[str | None, ...] = ()


def print_grid(console: Console, grid: Grid, *, elsewhere: str | None = None, again: bool = False) -> None:
    """Print a table as wide as it is off a terminal, and no wider than the terminal on one.

    Args:
        console: as :func:`lut._console.make_console` makes it.
        grid: the table; its cells may come from a file.
        elsewhere: a file that has the columns that do not fit, for the line that names them.
        again: the command is over in seconds, so that a wider window or its ``--json`` may be advised. What was
            measured or searched for hours is not done anew to see a column.
    """
    cells = [[printable(cell) for cell in row] for row in grid.rows]
    natural = _natural(grid.columns, cells)
    # Off a terminal nobody looks at a width.
    width = None if console.soft_wrap else console.width
    shown = _shown(grid.columns, natural, width)
    columns = [grid.columns[i] for i in shown]
    widths = _widths(columns, [natural[i] for i in shown], width)
    header = [printable(column.title) for column in grid.columns]
    for row, style in zip_longest([header, *cells], ("bold", *grid.styles)):
        for line in _lines(console, columns, widths, [row[i] for i in shown], wrap=width is not None):
            console.print(styled((line, style or "")), crop=False, soft_wrap=True)
    hidden = [column.title for i, column in enumerate(grid.columns) if i not in shown]
    if hidden:
        places = [elsewhere] if elsewhere else []
        places += [f"a window of {_least(grid.columns, natural)} columns", "--json"] if again else []
        shows = f": {' or '.join(places)} shows them" if places else ""
        console.print(f"too narrow for {', '.join(hidden)}{shows}")


def _natural(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    """Return what each column takes when nothing in it is wrapped."""
    from rich.cells import cell_len

    return [max(cell_len(text) for text in (c.title, *(row[i] for row in cells))) for i, c in enumerate(columns)]


def _least(columns: Sequence[Column], natural: Sequence[int], text: int = NARROW_TEXT) -> int:
    """Return what the columns take together when free text is wrapped to ``text``."""
    taken = [min(width, text) if column.text else width for column, width in zip(columns, natural, strict=True)]
    return sum(taken) + GAP * (len(taken) - 1)


def _shown(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int]:
    """Return which columns are shown, by their places."""
    left = list(range(len(columns)))
    while width is not None and _least([columns[i] for i in left], [natural[i] for i in left]) > width:
        last = max(columns[i].drop for i in left)
        if not last:
            break
        left = [i for i in left if columns[i].drop != last]
    return left


def _widths(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int]:
    """Return each shown column's width; columns of free text share what the others leave."""
    widths = list(natural)
    texts = sorted((i for i, column in enumerate(columns) if column.text), key=lambda i: natural[i])
    if width is None:
        return [min(w, WIDEST_TEXT) if column.text else w for column, w in zip(columns, natural, strict=True)]
    rest = width - sum(w for w, column in zip(natural, columns, strict=True) if not column.text)
    rest -= GAP * (len(columns) - 1)
    for number, i in enumerate(texts):
        widths[i] = min(natural[i], max(LEAST_TEXT, rest // (len(texts) - number)))
        rest -= widths[i]
    return widths


def _lines(
    console: Console, columns: Sequence[Column], widths: Sequence[int], row: Sequence[str], *, wrap: bool
) -> Iterator[str]:
    """Yield the lines of a row: more than one where free text is wrapped."""
    from rich.cells import cell_len

    from lut._terminal import wrapped

    def parts(column: Column, width: int, cell: str) -> Iterable[str]:
        if not (wrap and column.text) or cell_len(cell) <= width:
            return (cell,)
        return wrapped(console, cell, width)

    cells = [parts(column, width, cell) for column, width, cell in zip(columns, widths, row, strict=True)]
    for line in zip_longest(*cells, fillvalue=""):
        padded = []
        for column, width, text in zip(columns, widths, line, strict=True):
            space = " " * (width - cell_len(text))
            padded.append(text + space if column.left or column.text else space + text)
        yield (" " * GAP).join(padded).rstrip()

"""How the commands that take minutes show where they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, final

from lut._printable import printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ProgressBar", "Standing"]

ProgressT = TypeVar("ProgressT")


class Standing(NamedTuple):
    """What a bar shows: the share that is done, in words, what is left, and the seconds so far."""

    share: float
    text: str
    left: str
    elapsed_s: float


@final
class ProgressBar(Generic[ProgressT]):
    """A bar on a terminal, a line every ten seconds elsewhere.

    It draws only when it is told something. A bar with a refresh thread would take time from the very CPU that is being
    measured.

    Args:
        console: where it is drawn, as :func:`lut._console.make_console` makes it.
        describe: what to show of what it is told.
        begin: what to say once there is something to tell: not before a device that is not there was looked for.
    """

    LINE_EVERY_S = 10.0

    def __init__(self, console: Console, describe: Callable[[ProgressT], Standing], *, begin: str = "") -> None:
        from lut._terminal import make_progress

        self._console = console
        self._describe = describe
        self._begin = begin
        self._bar = make_progress(console) if console.is_terminal else None
        self._task: Any = None
        self._last_line_s = 0.0

    def __enter__(self) -> Callable[[ProgressT], None]:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=1.0, left="")
        return self.update

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, now: ProgressT) -> None:
        """Show where the work stands."""
        shown = self._describe(now)
        if self._begin:
            self._console.print(self._begin)
            self._begin = ""
        if self._bar is not None:
            text, left = printable(shown.text), printable(shown.left)
            self._bar.update(self._task, completed=shown.share, description=text, left=left, refresh=True)
        elif shown.elapsed_s - self._last_line_s >= self.LINE_EVERY_S:
            self._last_line_s = shown.elapsed_s
            parts = [shown.text, shown.left] if shown.left else [shown.text]
            self._console.print(f"{shown.elapsed_s:4.0f} s  {', '.join(parts)}")

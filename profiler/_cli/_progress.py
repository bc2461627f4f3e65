"""The console of the commands that take minutes, and how they show where they stand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, final

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ProgressBar", "Standing", "make_console"]

ProgressT = TypeVar("ProgressT")


class Standing(NamedTuple):
    """What a bar shows: the share that is done, in words, what is left, and the seconds so far."""

    share: float
    text: str
    left: str
    elapsed_s: float


def make_console(*, stderr: bool) -> Console:
    """Return the console; ``stderr`` where standard output is for JSON."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=not sys.stdout.isatty())


@final
class ProgressBar(Generic[ProgressT]):
    """A bar on a terminal, a line every ten seconds elsewhere.

    It draws only when it is told something. A bar with a refresh thread would take time from the very CPU that is being
    measured.

    Args:
        console: where it is drawn.
        describe: what to show of what it is told.
    """

    LINE_EVERY_S = 10.0

    def __init__(self, console: Console, describe: Callable[[ProgressT], Standing]) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = console
        self._describe = describe
        self._bar = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[left]}"),
                console=console,
                auto_refresh=False,
                transient=True,
            )
            if console.is_terminal
            else None
        )
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
        if self._bar is not None:
            self._bar.update(self._task, completed=shown.share, description=shown.text, left=shown.left, refresh=True)
        elif shown.elapsed_s - self._last_line_s >= self.LINE_EVERY_S:
            self._last_line_s = shown.elapsed_s
            parts = [shown.text, shown.left] if shown.left else [shown.text]
            self._console.print(f"{shown.elapsed_s:4.0f} s  {', '.join(parts)}")

"""How a run shows where it stands: one progress bar after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from lut._console import duration
from search._runs._reporter import Reporter
from search._time_left import TimeLeft

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Phases"]


@final
class Phases(Reporter):
    """A bar for each kind of work of a run.

    Args:
        console: where they are drawn.
        beat: called whenever something is shown.
    """

    def __init__(self, console: Console, beat: Callable[[], None] = lambda: None) -> None:
        self._console = console
        self._beat = beat
        self._bar: Any = None
        self._show: Any = None
        self._title = ""
        self._began = time.monotonic()
        self._left: TimeLeft | None = None

    def __enter__(self) -> Phases:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def phase(self, title: str) -> None:
        """Begin with another kind of work."""
        from profiler._cli._progress import ProgressBar

        self._close()
        self._title, self._began, self._left = title, time.monotonic(), TimeLeft()
        if not self._console.is_terminal:
            self._console.print(f"{title} …")
        self._bar = ProgressBar(self._console, lambda standing: standing)
        self._show = self._bar.__enter__()

    def say(self, share: float, text: str, left_s: float | None) -> None:
        """Show how much of this kind of work is done, what is under way, and how many seconds are left by estimate."""
        from profiler._cli._progress import Standing

        elapsed = time.monotonic() - self._began
        smooth_s = left_s if self._left is None else self._left.update(left_s)
        left = "" if smooth_s is None else f"{duration(smooth_s)} left"
        self._show(Standing(share, f"{self._title}: {text}", left, elapsed))
        self._beat()

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text)

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self._console.print(f"warning: {text}", style="yellow")

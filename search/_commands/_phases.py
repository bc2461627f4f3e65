"""How a run shows where it stands: one progress bar after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from lut._console import duration, format_ms

if TYPE_CHECKING:
    from rich.console import Console

    from search._time_left import TimeLeft

__all__ = ["Phases"]


@final
class Phases:
    """A bar for each kind of work of a run; :meth:`reporter` is what the run is given.

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
        from search._time_left import TimeLeft

        self._close()
        self._title, self._began, self._left = title, time.monotonic(), TimeLeft()
        if not self._console.is_terminal:
            self._console.print(f"{title} …")
        self._bar = ProgressBar(self._console, lambda standing: standing)
        self._show = self._bar.__enter__()

    def reporter(self) -> Any:
        """Return whom a run tells where it stands."""
        from search.htas._run import Reporter

        return Reporter(
            search=self._search, bred=self._bred, train=self._train, measure=self._measure, phase=self.phase
        )

    def say(self, share: float, text: str, left_s: float | None) -> None:
        """Show how much of this kind of work is done, what is under way, and how many seconds are left by estimate."""
        from profiler._cli._progress import Standing

        elapsed = time.monotonic() - self._began
        smooth_s = left_s if self._left is None else self._left.update(left_s)
        left = "" if smooth_s is None else f"{duration(smooth_s)} left"
        self._show(Standing(share, f"{self._title}: {text}", left, elapsed))
        self._beat()

    def _search(self, now: Any) -> None:
        from search._training._recipe import epoch_text

        text = epoch_text(now.epoch, now.epochs, now.warmup)
        if now.bound_ms is not None:
            text += f", most probable network: accuracy {now.accuracy:.1%}, up to {format_ms(now.bound_ms)} ms"
        self.say(now.share, text, now.left_s)

    def _bred(self, generation: int, generations: int, accuracy: float) -> None:
        if not generation:
            self.phase("Evolving networks")
            return
        from search._time_left import seconds_left

        left = seconds_left(time.monotonic() - self._began, generation, generations)
        text = f"generation {generation} of {generations}, best accuracy {accuracy:.1%}"
        self.say(generation / generations, text, left)

    def _train(self, _: str, now: Any) -> None:
        from search._training._recipe import epoch_text

        text = epoch_text(now.epoch, now.epochs, now.warmup)
        if now.test_accuracy is not None:
            text += f", test accuracy {now.test_accuracy:.1%}"
        self.say(now.share, text, now.left_s)

    def _measure(self, now: Any) -> None:
        share = now.elapsed_s / max(now.elapsed_s + now.left_s, 1e-9)
        self.say(share, f"{now.visits} visits", now.left_s)

"""How a run shows where it stands: one progress bar after another."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, final

from lut._console import format_ms

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Phases", "duration"]


@final
class Phases:
    """A bar for each kind of work of a run; :meth:`reporter` is what the run is given."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Any = None
        self._show: Any = None
        self._title = ""
        self._began = time.monotonic()

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
        self._title, self._began = title, time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"{title} …")
        self._bar = ProgressBar(self._console, lambda standing: standing)
        self._show = self._bar.__enter__()

    def reporter(self) -> Any:
        """Return whom a run tells where it stands."""
        from search._run import Reporter

        return Reporter(
            search=self._search, bred=self._bred, train=self._train, measure=self._measure, phase=self.phase
        )

    def say(self, share: float, text: str, left_s: float | None) -> None:
        """Show how much of this kind of work is done, what is under way, and how many seconds are left."""
        from profiler._cli._progress import Standing

        elapsed = time.monotonic() - self._began
        left = "" if left_s is None else f"{duration(left_s)} left"
        self._show(Standing(share, f"{self._title}: {text}", left, elapsed))

    def _search(self, now: Any) -> None:
        text = f"epoch {now.epoch} of {now.epochs}"
        if now.bound_ms is not None:
            text += f", most probable network {now.accuracy:.1%} right, up to {format_ms(now.bound_ms)} ms"
        self.say(now.share, text, now.left_s)

    def _bred(self, generation: int, generations: int, accuracy: float) -> None:
        if not generation:
            self.phase("Breeding")
            return
        elapsed = time.monotonic() - self._began
        left = elapsed / generation * (generations - generation)
        self.say(generation / generations, f"generation {generation} of {generations}, best {accuracy:.1%} right", left)

    def _train(self, _: str, now: Any) -> None:
        text = f"epoch {now.epoch} of {now.epochs}"
        if now.test_accuracy is not None:
            text += f", {now.test_accuracy:.1%} of the test images right"
        self.say(now.share, text, now.left_s)

    def _measure(self, now: Any) -> None:
        share = now.elapsed_s / max(now.elapsed_s + now.left_s, 1e-9)
        self.say(share, f"{now.visits} visits", now.left_s)


def duration(seconds: float) -> str:
    """Return seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"

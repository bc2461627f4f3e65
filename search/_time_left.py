"""How much time is left: one estimate of it for all that a run does, and one that does not jump."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import final

__all__ = ["TimeLeft", "seconds_left"]

# How long a new estimate takes to be taken over: a share of what is left, within bounds in seconds.
SETTLES_SHARE, LEAST_SETTLES_S, MOST_SETTLES_S = 0.05, 10.0, 120.0


def seconds_left(elapsed_s: float, done: float, total: float) -> float | None:
    """Return the seconds that the rest takes at the rate so far; ``None`` where nothing is done yet."""
    return elapsed_s / done * max(total - done, 0.0) if done > 0 else None


@final
class TimeLeft:
    """Seconds left, smoothed: they count down with the clock, and move towards each new estimate by degrees."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: float | None = None
        self._at = 0.0

    def update(self, estimate_s: float | None) -> float | None:
        """Take a new estimate, or none, and return what to show in seconds; ``None`` before the first estimate."""
        now = self._clock()
        if self._left is None:
            self._left = estimate_s
        else:
            passed = now - self._at
            self._left = max(0.0, self._left - passed)
            if estimate_s is not None:
                settles = min(max(LEAST_SETTLES_S, SETTLES_SHARE * self._left), MOST_SETTLES_S)
                share = 1 - math.exp(-passed / settles)
                self._left += (estimate_s - self._left) * share
        self._at = now
        return self._left

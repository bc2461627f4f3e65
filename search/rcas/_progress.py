"""Where a search of RCAS stands: how much of the budgets its paths have used."""

from __future__ import annotations

import time
from typing import final

from lut._console import duration
from search._accuracy._evaluator import EvaluationProgress
from search._problem._problem import Problem
from search._runs._reporter import Reporter
from search._time_left import TimeLeft, seconds_left
from search.rcas._search import RcasSettings, RcasStep, rules_for
from search.rcas._text import counted, show_value

__all__ = ["RcasProgress"]


@final
class RcasProgress:
    """Tells how much of the budgets the paths have used, and what is under way."""

    def __init__(self, problem: Problem, settings: RcasSettings, tell: Reporter) -> None:
        self._tell, self._problem = tell, problem
        self._rules = rules_for(settings, problem)
        self._share, self._text = 0.0, ""
        # When the first block was chosen, and the share of the budgets that it took.
        self._first: tuple[float, float] | None = None
        self._round = TimeLeft()

    def step(self, rule: str, step: RcasStep) -> None:
        """Take the network that joins a path."""
        first = self._problem.needs((0,) * len(step.vector))
        now = self._problem.needs(step.vector)
        used = [
            (now.held(name) - first.held(name)) / max(limit - first.held(name), 1e-9)
            for name, limit in self._problem.budgets.given()
        ]
        done = self._rules.index(rule) if rule in self._rules else len(self._rules)
        self._share = min((done + max(0.0, min(1.0, max(used)))) / len(self._rules), 1.0)
        blocks = sum(index > 0 for index in step.vector)
        if blocks and self._first is None:
            self._first = (time.monotonic(), self._share)
        self._text = f"{rule}, {counted(blocks, 'block')}, {show_value(step.value)}"

    def evaluated(self, now: EvaluationProgress) -> None:
        """Tell how far the evaluations are that were asked for last."""
        new, total = now.done - now.cached, now.wanted - now.cached
        if not total:
            return
        text = f"{self._text}; " if self._text else ""
        # Every block is evaluated before the first is chosen, and few before each other one: only from there on do the
        # budgets tell how much is left.
        if self._first is None:
            self._say_first_round(new, total, now.left_s)
            return
        since, share = self._first
        left = seconds_left(time.monotonic() - since, self._share - share, 1 - share)
        self._tell.say(self._share, f"{text}{new} of {total} networks evaluated", left)

    def _say_first_round(self, new: int, total: int, left_s: float | None) -> None:
        """Show how far the first round is; what is left of it is not what is left of the search."""
        if not new:
            self._round = TimeLeft()
        smooth_s = self._round.update(left_s)
        left = "" if smooth_s is None or new == total else f", {duration(smooth_s)} left in it"
        share = 0.5 * new / total / len(self._rules)
        self._tell.say(share, f"first round, {new} of {total} networks evaluated{left}", None)

"""Evolution, local and random search as a run needs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final

import msgspec

from lut._console import Line, format_ms, styled
from search._accuracy._evaluator import kept_accuracies
from search._accuracy._source import EVALUATIONS, Source
from search._problem._problem import Problem
from search._runs._found import Evaluated, Found
from search._runs._method import Method, TradeOffPoint, WayPoints
from search._runs._reporter import Reporter
from search._time_left import seconds_left
from search._training._recipe import epochs_text
from search.evolution._evolution import check_pymoo
from search.evolution._search import NAMES, run_strategy
from search.evolution._settings import Course, EvolutionSettings

if TYPE_CHECKING:
    from profiler._report._page import Block, Section
    from search._runs._result import RunResult

__all__ = ["EvolutionMethod"]


@final
@dataclass(frozen=True)
class EvolutionMethod(Method):
    """Evolution, local or random search with its settings.

    Args:
        search: how it searches.
        source: where accuracies come from.
        workers: networks evaluated side by side.
        seed: of everything.
    """

    search: EvolutionSettings
    source: Source
    workers: int = 1
    seed: int = 0

    name: ClassVar[str] = "evolution"
    files: ClassVar[Any] = MappingProxyType({EVALUATIONS: "the accuracy of each network that was evaluated"})

    def settings(self) -> dict[str, Any]:
        """Return all that its course depends on."""
        return {"search": msgspec.to_builtins(self.search), **self.source.settings()}

    def check(self, problem: Problem) -> None:
        """Raise what can be known to fail before anything is begun."""
        problem.check_budgets(f"the strategy {self.search.strategy}")
        if self.search.strategy == "evolution":
            check_pymoo()

    def calibration_sample(self, problem: Problem) -> Callable[[Random], Sequence[int]]:
        """Return what draws random networks within the budgets."""
        return problem.sample

    def evaluated_before(self, output: Path) -> int | None:
        """Return how many networks are evaluated."""
        return kept_accuracies(output / EVALUATIONS)

    def run(self, problem: Problem, output: Path, tell: Reporter) -> Found:
        """Search."""
        began = time.monotonic()

        def generation(number: int, of: int, best: float) -> None:
            share = number / of if of else 0.0
            left = seconds_left(time.monotonic() - began, number, of) if of else None
            counted = f"{number} of {of}" if of else str(number)
            tell.say(share, f"round {counted}, best value {best:.4g}", left)

        with self.source.evaluator(problem, output, workers=self.workers) as evaluator:
            asked = run_strategy(
                problem,
                lambda vectors: evaluator([problem.network(vector) for vector in vectors]),
                self.search,
                seed=self.seed,
                on_generation=generation,
            )
        knowledge = Evaluated(asked.values)
        return Found(
            search=NAMES[self.search.strategy],
            problem=problem,
            winners=knowledge.candidates(problem, 1),
            knowledge=knowledge,
            evaluated=asked.evaluated,
            seconds=time.monotonic() - began,
            course=Course(tuple(asked.rounds)),
        )

    def fresh_values(self, problem: Problem, vectors: Sequence[Sequence[int]], output: Path) -> list[float] | None:
        """Return what networks are worth after short trainings from another seed."""
        if not self.search.finalists:
            return None
        return self.source.fresh_values(problem, vectors, output, workers=self.workers, seed=self.seed)

    # --- what is told of it ---

    def accuracies(self) -> str:
        """Return where accuracies come from."""
        return self.source.text

    def plan_lines(self, problem: Problem, data: str) -> Sequence[Line]:
        """Return what is searched, and how."""
        predictor, base = problem.predictor, self.base(problem)
        lines: list[Line] = []
        ms = ""
        if predictor is not None:
            lines.append(styled((predictor.device.model, "bold"), f", {predictor.setting}"))
            ms = f"{format_ms(predictor.latency_ms(base))} ms, "
        lines.append(
            f"base network {base.name}: {ms}{problem.madds(base) / 1e6:.1f} M multiply-adds, "
            f"{base.parameters / 1e6:.3f} M parameters"
        )
        lines.append(
            f"{NAMES[self.search.strategy]} of {problem.space.name} within {problem.budgets}, at most "
            f"{self.search.most_evaluated:,} networks evaluated"
        )
        text = f"accuracy: {self.source.text}"
        if self.source.judged is not None:
            text += f", {epochs_text(self.source.judged)} on {data}, {self.source.held_out or 0} per class held out"
        return [*lines, text]

    def result_lines(self, found: Found) -> Sequence[Line]:
        """Return what the search took."""
        return [f"{found.search}: value {found.values[0]:.4g}, {found.evaluated:,} networks evaluated"]

    def summary(self, found: Found) -> dict[str, Any]:
        """Return what is particular to it in ``result.json``."""
        return {"rounds": [one._asdict() for one in found.course.rounds]}

    def way(self, found: Found) -> WayPoints | None:
        """Return all networks that were evaluated, where their values are accuracies and they have latencies."""
        assert isinstance(found.knowledge, Evaluated)
        values = found.knowledge.values
        if found.problem.predictor is None or not all(0 <= value <= 1 for value in values.values()):
            return None
        points = [
            TradeOffPoint(found.problem.network(v).name, "on the way", False, found.problem.ms(v), None, None, value)
            for v, value in values.items()
        ]
        return WayPoints(points, "as the search evaluated them")

    def answer(self, result: RunResult) -> list[Block]:
        """Return what was evaluated against the first budget."""
        from search.evolution._report import answer_chart

        return [answer_chart(result)]

    def sections(self, result: RunResult) -> Sequence[Section]:
        """Return the course of the search."""
        from search.evolution._report import sections

        return sections(result)

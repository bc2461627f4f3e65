"""RCAS as a run needs it: blocks added to a network, by accuracies that are evaluated once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final

import msgspec

from lut import Network, UsageError
from lut._console import Line, format_ms, styled
from lut._option_names import option_text
from predictors._interval import least_networks
from search._accuracy._chance import FirstRound, chance_warning
from search._accuracy._evaluator import kept_accuracies
from search._accuracy._source import EVALUATIONS, Source
from search._problem._blocks import check_start, sample_blocks
from search._problem._budgets import Budgets
from search._problem._problem import Problem
from search._runs._folder import write_json
from search._runs._found import Found
from search._runs._method import FirstNetwork, Method, TradeOffPoint, WayPoints
from search._runs._reporter import Reporter
from search._training._recipe import epochs_text
from search.rcas._course import course_of, found_of
from search.rcas._progress import RcasProgress
from search.rcas._search import RcasSettings, checked_rules, rules_for, search_rcas

if TYPE_CHECKING:
    from profiler._report._page import Block, Section
    from search._runs._result import RunResult

__all__ = ["RcasMethod"]

# How often a network is drawn anew that was drawn before.
MOST_DRAWS = 20


@final
@dataclass(frozen=True)
class RcasMethod(Method):
    """RCAS with its settings.

    Args:
        search: how it searches.
        source: where accuracies come from.
        workers: networks evaluated side by side.
        calibrated: networks of a calibration, drawn within the budgets; ``upper``: whether it is to give an interval.
        seed: of these.
    """

    search: RcasSettings
    source: Source
    workers: int = 1
    calibrated: int = 0
    upper: bool = True
    seed: int = 0

    name: ClassVar[str] = "rcas"
    value_name: ClassVar[str] = "set function"
    depth_name: ClassVar[str] = "blocks"
    files: ClassVar[Any] = MappingProxyType(
        {
            EVALUATIONS: "the accuracy of each network that was evaluated",
            "paths.json": "all networks on the way, with what they need",
        }
    )

    def settings(self) -> dict[str, Any]:
        """Return all that its course depends on."""
        return {"search": msgspec.to_builtins(self.search), **self.source.settings()}

    def check(self, problem: Problem) -> None:
        """Raise what can be known to fail before anything is begun."""
        check_start(problem)
        checked_rules(self.search, problem)

    def calibration_sample(self, problem: Problem) -> Callable[[Random], Sequence[int]]:
        """Return what draws random networks within the budgets, as few of them twice as can be.

        Raises:
            UsageError: they are too few different ones for an interval.
        """
        rng, vectors, drawn = Random(self.seed), [], set()  # noqa: S311 - a sample, no secret
        for _ in range(self.calibrated):
            # A network counts once, and tight budgets leave few: each is drawn anew a few times if it was there before.
            for _ in range(MOST_DRAWS):
                vector = sample_blocks(problem, rng)
                if problem.canonical(vector) not in drawn:
                    break
            drawn.add(problem.canonical(vector))
            vectors.append(vector)
        if self.upper and problem.budgets.ms is not None and len(drawn) < (need := least_networks(problem.level)):
            raise UsageError(
                f"{len(drawn)} different networks were found within the budgets, and an interval of "
                f"{problem.level:.0%} needs {need} measured networks: give a larger budget, "
                f"{option_text('calibrate', 0)}, or {option_text('bound', 'predicted')}"
            )
        draws = iter(vectors)
        return lambda _: next(draws)

    def evaluated_before(self, output: Path) -> int | None:
        """Return how many networks are evaluated."""
        return kept_accuracies(output / EVALUATIONS)

    def run(self, problem: Problem, output: Path, tell: Reporter) -> Found:
        """Search."""
        progress = RcasProgress(problem, self.search, tell)
        first, warnings = FirstRound(), []
        with self.source.evaluator(problem, output, workers=self.workers, progress=progress.evaluated) as evaluate:

            def watched(networks: Sequence[Network]) -> list[float]:
                values = evaluate(networks)
                if first.add(values) and (warning := self._at_chance(first)) is not None:
                    warnings.append(warning)
                    tell.warn(warning)
                return values

            result = search_rcas(problem, watched, self.search, told=progress.step)
        return found_of(problem, result, tuple(warnings))

    def _at_chance(self, first: FirstRound) -> str | None:
        # Of other accuracies it is not known what guessing would give.
        classes, held_out = self.source.classes, self.source.held_out
        if classes is None or held_out is None:
            return None
        return chance_warning(first.values, classes=classes, images=held_out * classes)

    def fresh_values(self, problem: Problem, vectors: Sequence[Sequence[int]], output: Path) -> list[float] | None:
        """Return what networks are worth after short trainings from another seed."""
        return self.source.fresh_values(problem, vectors, output, workers=self.workers, seed=self.seed)

    def write_found(self, found: Found, output: Path) -> None:
        """Write the paths."""
        write_json(output / "paths.json", course_of(found).paths)

    # --- what is told of it ---

    def accuracies(self) -> str:
        """Return where accuracies come from."""
        return self.source.text

    def depth_of(self, problem: Problem, network: Network, vector: Sequence[int] | None) -> int:
        """Return how many blocks a network has."""
        from search.rcas._drawing import blocks_of, count_blocks

        return len(blocks_of(network)) if vector is None else count_blocks(problem, vector)

    def first(self, found: Found) -> FirstNetwork:
        """Return the network without any block that may be left out."""
        step = course_of(found).paths[0].steps[0]
        return FirstNetwork(step.vector, step.value, step.ms, step.bound_ms)

    def plan_lines(self, problem: Problem, data: str) -> Sequence[Line]:
        """Return what is searched, and how."""
        predictor = problem.predictor
        lines: list[Line] = []
        if predictor is not None:
            lines.append(styled((predictor.device.model, "bold"), f", {predictor.setting}"))
        first, base = problem.network((0,) * len(problem.space.choices)), self.base(problem)
        begins = [(f"first network of {problem.space.name}:", first), (f"base network {base.name}:", base)]
        for words, network in begins if base != first else begins[:1]:
            ms = "" if predictor is None else f"{format_ms(predictor.latency_ms(network))} ms, "
            lines.append(
                f"{words} {ms}{problem.madds(network) / 1e6:.1f} M multiply-adds, "
                f"{network.parameters / 1e6:.3f} M parameters"
            )
        rules = ", ".join(rules_for(self.search, problem))
        return [*lines, f"budget {_budgets(problem.budgets)}; rules {rules}", self._accuracy_text(data)]

    def _accuracy_text(self, data: str) -> str:
        text = f"accuracy: {self.source.text}"
        if self.source.judged is not None:
            epochs, held = epochs_text(self.source.judged), self.source.held_out or 0
            text += f", {epochs} on {data}, {held} image{'' if held == 1 else 's'} per class held out"
        return text if self.search.at_once == 1 else f"{text}, {self.search.at_once} in parallel"

    def result_lines(self, found: Found) -> Sequence[Line]:
        """Return which rule found the network, what the others found, and what it took."""
        from search.rcas._text import course_lines

        return course_lines(course_of(found))

    def summary(self, found: Found) -> dict[str, Any]:
        """Return what is particular to it in ``result.json``."""
        result = course_of(found)
        first = found.problem.needs((0,) * len(result.vector))
        return {
            "rule": result.rule,
            "first": first._asdict(),
            "paths": {path.rule: {"steps": len(path.steps) - 1, "value": path.last.value} for path in result.paths},
            "saved_by_laziness": result.plain - result.evaluated,
            "revisited_gains": result.revisited,
            "gains_that_rose": result.exceeded,
            "largest_rise": result.excess,
        }

    def way(self, found: Found) -> WayPoints | None:
        """Return all networks on the paths, where their values are accuracies."""
        steps = [(path.rule, number, step) for path in course_of(found).paths for number, step in enumerate(path.steps)]
        if not all(0 <= step.value <= 1 for _, _, step in steps):
            return None
        points = [
            TradeOffPoint(f"{rule}, step {number}", "on the way", False, step.ms, None, None, step.value)
            for rule, number, step in steps
            if step.ms is not None
        ]
        return WayPoints(points, "by the set function")

    def answer(self, result: RunResult) -> list[Block]:
        """Return the paths against the first budget."""
        from search.rcas._report import answer_chart

        return [answer_chart(result)]

    def sections(self, result: RunResult) -> Sequence[Section]:
        """Return the network block by block, the paths, and what laziness saved."""
        from search.rcas._report import sections

        return sections(self, result)


def _budgets(budgets: Budgets) -> str:
    words = {"ms": "ms", "parameters": "M parameters", "madds": "M multiply-adds"}
    return ", ".join(f"{limit if name == 'ms' else limit / 1e6:.4g} {words[name]}" for name, limit in budgets.given())

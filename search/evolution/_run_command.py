"""Evolution's command, as far as it is its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar, NamedTuple, final

import msgspec

from lut._suggest import check_word
from search._accuracy._source import EVALUATIONS
from search._commands._accuracy_command import AccuracyCommand
from search._commands._options import AccuracyOptions, RunOptions
from search._commands._run_command import Inputs, Opened
from search.evolution._evolution import check_pymoo
from search.evolution._method import EvolutionMethod
from search.evolution._settings import STRATEGIES, EvolutionSettings

__all__ = ["EvolutionCommand", "EvolutionOptions"]


class EvolutionOptions(NamedTuple):
    """Evolution's own options."""

    strategy: str
    evaluations: int | None
    population: int
    generations: int


@final
class EvolutionCommand(AccuracyCommand):
    """Evolution's command."""

    name: ClassVar[str] = "evolution"

    def __init__(self, asked: RunOptions, own: AccuracyOptions, options: EvolutionOptions) -> None:
        super().__init__(asked, own)
        check_word("--strategy", options.strategy, STRATEGIES)
        self.search = EvolutionSettings(
            strategy=options.strategy,  # type: ignore[arg-type]
            population=options.population,
            generations=options.generations,
            evaluations=options.evaluations,
            at_once=own.at_once or 1,
            # For what is measured against the budget.
            hopeful=asked.measure_seconds > 0,
        )

    def check(self) -> None:
        """Raise what is wrong about its own options."""
        self.check_budgets()
        if self.search.strategy == "evolution":
            check_pymoo()
        self.check_accuracies()

    def known_settings(self) -> dict[str, Any]:
        """Return those of the method's settings that are known from the options."""
        return {"search": msgspec.to_builtins(self.search)}

    def files(self) -> tuple[str, ...]:
        """Return what its runs write beside what all write."""
        return (EVALUATIONS,)

    def open(self, inputs: Inputs, stack: ExitStack) -> Opened:
        """Return the search."""
        space, source, recipe, workers = self.opened_source(inputs, stack, self.own.at_once or 1)
        method = EvolutionMethod(self.search, source, workers=workers, seed=self.asked.seed)
        return Opened(space, method, recipe)

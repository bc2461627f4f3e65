"""Evolution's command, as far as it is its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar, NamedTuple, final

import msgspec

from lut import UsageError
from lut._suggest import check_word
from search._accuracy._source import EVALUATIONS
from search._commands._options import AccuracyOptions, RunOptions
from search._commands._run_command import Inputs, Opened, SearchCommand
from search._commands._source import (
    check_source,
    open_source,
    open_space,
    split_changes,
    trained_parts,
    workers_for,
)
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
class EvolutionCommand(SearchCommand):
    """Evolution's command."""

    name: ClassVar[str] = "evolution"
    needs_predictor: ClassVar[bool] = False
    needs_data: ClassVar[bool] = False

    def __init__(self, asked: RunOptions, own: AccuracyOptions, options: EvolutionOptions) -> None:
        super().__init__(asked)
        check_word("--strategy", options.strategy, STRATEGIES)
        self.own = own
        self.space_options, self.recipe_changes = split_changes(self.changes)
        self.search = EvolutionSettings(
            strategy=options.strategy,  # type: ignore[arg-type]
            population=options.population,
            generations=options.generations,
            evaluations=options.evaluations,
            at_once=own.at_once or 1,
        )

    def check(self) -> None:
        """Raise what is wrong about its own options."""
        if not self.budgets:
            raise UsageError("give a budget: --budget-ms, --budget-params or --budget-madds, or several of them")
        if self.search.strategy == "evolution":
            check_pymoo()
        blank = open_space(self.own.space, self.own.types, None, self.space_options)
        check_source(self.asked, self.own, blank, self.recipe_changes)

    def known_settings(self) -> dict[str, Any]:
        """Return those of the method's settings that are known from the options."""
        return {"search": msgspec.to_builtins(self.search)}

    def known_space(self) -> str:
        """Return the space's name: its own, since it may be installed under another."""
        return open_space(self.own.space, self.own.types, None, self.space_options).name

    def trains(self) -> bool:
        """Whether networks are trained at the end."""
        blank = open_space(self.own.space, self.own.types, None, self.space_options)
        return "training" in trained_parts(self.asked, self.own.accuracy, blank)

    def files(self) -> tuple[str, ...]:
        """Return what its runs write beside what all write."""
        return (EVALUATIONS,)

    def open(self, inputs: Inputs, stack: ExitStack) -> Opened:
        """Return the search."""
        space = open_space(self.own.space, self.own.types, inputs.images, self.space_options)
        workers = self.own.at_once or 1
        if self.own.accuracy == "train":
            workers = workers_for(inputs.devices, workers)
        opened = open_source(
            self.asked,
            self.own,
            inputs.images,
            space,
            self.recipe_changes,
            devices=inputs.devices,
            workers=workers,
        )
        stack.callback(opened.source.close)
        method = EvolutionMethod(self.search, opened.source, workers=workers, seed=self.asked.seed)
        return Opened(space, method, opened.recipe)

"""What is common to the commands of searches that evaluate networks of any space."""

from __future__ import annotations

from contextlib import ExitStack

from lut import SearchSpace, UsageError
from search._accuracy._source import Source
from search._commands._options import AccuracyOptions, RunOptions
from search._commands._run_command import Inputs, SearchCommand
from search._commands._source import (
    check_source,
    open_source,
    open_space,
    split_changes,
    trained_parts,
    workers_for,
)
from search._training._recipe import Recipe

__all__ = ["AccuracyCommand"]


class AccuracyCommand(SearchCommand):
    """The command of a search that evaluates networks of any space. Abstract.

    Args:
        asked: the options that all searches have.
        own: those about the space and its accuracies.
    """

    needs_predictor = False
    needs_data = False

    def __init__(self, asked: RunOptions, own: AccuracyOptions) -> None:
        super().__init__(asked)
        self.own = own
        self.space_options, self.recipe_changes = split_changes(self.changes)

    def blank(self) -> SearchSpace:
        """Return the space as it is without data: with any number of classes."""
        return open_space(self.own.space, self.own.types, None, self.space_options)

    def check_budgets(self) -> None:
        """Raise where there is no budget."""
        if not self.budgets:
            raise UsageError("give a budget: --budget-ms, --budget-params or --budget-madds, or several of them")

    def check_accuracies(self) -> None:
        """Raise what is wrong about accuracies and trainings."""
        check_source(self.asked, self.own, self.blank(), self.recipe_changes)

    def known_space(self) -> str:
        """Return the space's name: its own, since it may be installed under another."""
        return self.blank().name

    def trains(self) -> bool:
        """Whether networks are trained at the end."""
        return "training" in trained_parts(self.asked, self.own.accuracy, self.blank())

    def opened_source(
        self, inputs: Inputs, stack: ExitStack, at_once: int
    ) -> tuple[SearchSpace, Source, Recipe | None, int]:
        """Return the space, where its accuracies come from, the recipe at the end, and networks evaluated at a time."""
        space = open_space(self.own.space, self.own.types, inputs.images, self.space_options)
        workers = workers_for(inputs.devices, at_once) if self.own.accuracy == "train" else at_once
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
        return space, opened.source, opened.recipe, workers

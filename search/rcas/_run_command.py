"""RCAS's command, as far as it is its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar, NamedTuple, final

import msgspec

from lut import UsageError
from search._accuracy._source import EVALUATIONS
from search._commands._options import AccuracyOptions, RunOptions
from search._commands._run_command import Inputs, Opened, SearchCommand
from search._commands._source import (
    AT_ONCE,
    check_source,
    open_source,
    open_space,
    split_changes,
    trained_parts,
    workers_for,
)
from search._problem._blocks import check_blocks
from search.rcas._method import RcasMethod
from search.rcas._search import RcasSettings

__all__ = ["RcasCommand", "RcasOptions"]


class RcasOptions(NamedTuple):
    """RCAS's own options."""

    rules: str | None
    lazy: bool
    exchange: bool
    evaluations: int | None
    stop_without_gain: bool


@final
class RcasCommand(SearchCommand):
    """RCAS's command."""

    name: ClassVar[str] = "rcas"
    needs_predictor: ClassVar[bool] = False
    needs_data: ClassVar[bool] = False

    def __init__(self, asked: RunOptions, own: AccuracyOptions, options: RcasOptions) -> None:
        super().__init__(asked)
        _check_exchange(own.accuracy, exchange=options.exchange, evaluations=options.evaluations)
        self.own = own
        self.space_options, self.recipe_changes = split_changes(self.changes)
        rules = options.rules
        self.search = RcasSettings(
            rules=tuple(word.strip() for word in rules.split(",")) if rules is not None else (),
            lazy=options.lazy,
            at_once=own.at_once or (AT_ONCE if own.accuracy == "train" else 1),
            stop_without_gain=options.stop_without_gain,
            exchange=options.exchange,
            evaluations=options.evaluations,
        )

    def check(self) -> None:
        """Raise what is wrong about its own options."""
        if not self.budgets:
            raise UsageError("give a budget: --budget-ms, --budget-params or --budget-madds, or several of them")
        if "latency" in self.search.rules and self.asked.predictor is None and self.asked.table is None:
            raise UsageError(
                "latency needs a predictor: give --predictor FOLDER (see fit-predictor) or --table FILE (see "
                f"profile-device --space {self.own.space})"
            )
        blank = open_space(self.own.space, self.own.types, None, self.space_options)
        check_blocks(blank, "RCAS")
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
        return (EVALUATIONS, "paths.json")

    def open(self, inputs: Inputs, stack: ExitStack) -> Opened:
        """Return the search."""
        space = open_space(self.own.space, self.own.types, inputs.images, self.space_options)
        workers = (
            workers_for(inputs.devices, self.search.at_once) if self.own.accuracy == "train" else self.search.at_once
        )
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
        method = RcasMethod(
            self.search,
            opened.source,
            workers=workers,
            calibrated=self.calibrate,
            upper=self.bound == "upper",
            seed=self.asked.seed,
        )
        return Opened(space, method, opened.recipe)


def _check_exchange(accuracy: str, *, exchange: bool, evaluations: int | None) -> None:
    """Raise where exchanges have no end, or an end is given to none."""
    if exchange and evaluations is None and accuracy == "train":
        raise UsageError(
            "each exchange may be a training, and there are thousands: give --evaluations N, the number of evaluated "
            "networks after which no exchange is tried"
        )
    if evaluations is not None and not exchange:
        raise UsageError("--evaluations limits exchanges alone: give --exchange as well, or leave it out")

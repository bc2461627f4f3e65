"""RCAS's command, as far as it is its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar, NamedTuple, final

import msgspec

from lut import UsageError
from search._accuracy._source import EVALUATIONS
from search._commands._accuracy_command import AccuracyCommand
from search._commands._options import AccuracyOptions, RunOptions
from search._commands._run_command import Inputs, Opened
from search._commands._source import AT_ONCE
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
class RcasCommand(AccuracyCommand):
    """RCAS's command."""

    name: ClassVar[str] = "rcas"

    def __init__(self, asked: RunOptions, own: AccuracyOptions, options: RcasOptions) -> None:
        super().__init__(asked, own)
        _check_exchange(own.accuracy, exchange=options.exchange, evaluations=options.evaluations)
        rules = options.rules
        self.search = RcasSettings(
            rules=tuple(word.strip() for word in rules.split(",")) if rules is not None else (),
            lazy=options.lazy,
            at_once=own.at_once or (AT_ONCE if own.accuracy == "train" else 1),
            stop_without_gain=options.stop_without_gain,
            exchange=options.exchange,
            evaluations=options.evaluations,
            # For what is measured against the budget.
            hopeful=asked.measure_seconds > 0,
        )

    def check(self) -> None:
        """Raise what is wrong about its own options."""
        self.check_budgets()
        if "latency" in self.search.rules and self.asked.predictor is None and self.asked.table is None:
            raise UsageError(
                "latency needs a predictor: give --predictor FOLDER (see fit-predictor) or --table FILE (see "
                f"profile-device --space {self.own.space})"
            )
        check_blocks(self.blank(), "RCAS")
        self.check_accuracies()

    def known_settings(self) -> dict[str, Any]:
        """Return those of the method's settings that are known from the options."""
        return {"search": msgspec.to_builtins(self.search)}

    def files(self) -> tuple[str, ...]:
        """Return what its runs write beside what all write."""
        return (EVALUATIONS, "paths.json")

    def open(self, inputs: Inputs, stack: ExitStack) -> Opened:
        """Return the search."""
        space, source, recipe, workers = self.opened_source(inputs, stack, self.search.at_once)
        method = RcasMethod(
            self.search,
            source,
            workers=workers,
            calibrated=self.calibrate,
            upper=self.bound == "upper",
            seed=self.asked.seed,
        )
        return Opened(space, method, recipe)


def _check_exchange(accuracy: str, *, exchange: bool, evaluations: int | None) -> None:
    """Raise where exchanges have no end, or an end is given to none."""
    if exchange and evaluations is None and accuracy == "train":
        raise UsageError(
            "each exchange may be a training, and there are thousands: give --evaluations N, the number of evaluated "
            "networks after which no exchange is tried"
        )
    if evaluations is not None and not exchange:
        raise UsageError("--evaluations limits exchanges alone: give --exchange as well, or leave it out")

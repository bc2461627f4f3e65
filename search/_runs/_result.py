"""What came of a run: a record, which reports read and nothing runs."""

from __future__ import annotations

from typing import NamedTuple

from lut import Network
from search._problem._problem import Problem
from search._runs._ending import Measured
from search._runs._found import Found
from search._runs._method import Method
from search._runs._plan import RunPlan
from search._runs._verify import Verification
from search._training._train import Trained

__all__ = ["Finalist", "RunResult"]


class Finalist(NamedTuple):
    """A network that could have been chosen: the value that the search chose by, and a fresh one of another seed."""

    vector: tuple[int, ...]
    value: float
    fresh: float


class RunResult(NamedTuple):
    """What came of a run.

    Args:
        plan: what was asked for.
        method: the search.
        found: what was found; its first network is the result.
        base: what that is compared with; ``base_predicted_ms``: predicted, where there is a predictor.
        base_trained: its training, and ``trained`` that of the network found; ``None``: not trained.
        measured: both on the device; ``not_measured`` says why not.
        verification: what measuring said of the budget of ms; ``None`` where there is none, or nothing was measured.
        finalists: the networks that were evaluated again, the one chosen first; none where nothing is random.
        warnings: what else is to be known.
    """

    plan: RunPlan
    method: Method
    found: Found
    base: Network
    base_predicted_ms: float | None
    base_trained: Trained | None
    trained: Trained | None
    measured: Measured | None
    not_measured: str | None
    verification: Verification | None
    finalists: tuple[Finalist, ...]
    warnings: tuple[str, ...]

    @property
    def network(self) -> Network:
        """The network found, or, where none keeps the budget, the nearest."""
        return self.found.networks[0]

    @property
    def problem(self) -> Problem:
        """What was searched, with what measuring taught."""
        return self.found.problem

    @property
    def kept(self) -> bool | None:
        """Whether a network was measured within the budget of ms; ``None`` where that was not looked at."""
        return None if self.verification is None else self.verification.chosen is not None

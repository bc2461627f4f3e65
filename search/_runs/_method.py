"""What is particular to a search: everything else of a run is shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lut import Network
from lut._console import Line
from search._problem._problem import Problem
from search._runs._found import Found
from search._runs._reporter import Reporter
from search._runs._sittings import Stage

if TYPE_CHECKING:
    from profiler._report._page import Block, Section
    from search._runs._result import RunResult

__all__ = ["FirstNetwork", "Method", "TradeOffPoint", "WayPoints"]


class TradeOffPoint(NamedTuple):
    """A network by what it takes and what it knows.

    ``kind``: the network ``found``, the ``base`` one that it is compared with, or one ``on the way``, whose accuracy is
    what the search went by. ``ms``: ``measured``, with its interval, or else predicted. ``accuracy``: a share.
    """

    network: str
    kind: Literal["found", "base", "on the way"]
    measured: bool
    ms: float
    low_ms: float | None
    high_ms: float | None
    accuracy: float


class WayPoints(NamedTuple):
    """Networks that a search passed, and what their accuracies are of, in words."""

    points: Sequence[TradeOffPoint]
    accuracies: str


class FirstNetwork(NamedTuple):
    """The network that a search begins with, its value, and its latency in ms as it was predicted at the start."""

    vector: tuple[int, ...]
    value: float
    ms: float | None
    bound_ms: float | None


class Method(ABC):
    """A search with its settings, as a run needs it. Abstract: each search has one.

    ``files``: what it writes into a run's folder beside what every run writes, and what each is. ``value_name``: what
    the values are by which it chooses, as a column's title. ``depth_name``: what a network's depth is counted in.
    """

    name: ClassVar[str]
    files: ClassVar[Mapping[str, str]] = MappingProxyType({})
    value_name: ClassVar[str] = "value"
    depth_name: ClassVar[str] = "layers"

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return all that its course depends on, apart from the problem and the data; anything that JSON can hold."""

    def check(self, problem: Problem) -> None:
        """Raise what can be known to fail before anything is begun; the problem's predictor may not be calibrated."""

    def warnings(self, problem: Problem) -> tuple[str, ...]:
        """Return what is to be said before it begins."""
        return problem.limits_nothing()

    def calibration_sample(self, problem: Problem) -> Callable[[Random], Sequence[int]] | None:
        """Return what draws the networks to calibrate on; ``None``: the space's own sample."""
        return None

    def stages(self, output: Path) -> tuple[Stage, ...]:
        """Return the parts of the search that have checkpoints."""
        return ()

    def evaluated_before(self, output: Path) -> int | None:
        """Return how many accuracies a folder keeps; ``None`` where the search keeps none."""
        return None

    @abstractmethod
    def run(self, problem: Problem, output: Path, tell: Reporter) -> Found:
        """Search, or go on where the folder says.

        Raises:
            BudgetError: no network is within the budgets.
            SearchError: a training or an evaluation failed.
            CheckpointError: what the folder holds is of another search.
        """

    def fresh_values(self, problem: Problem, vectors: Sequence[Sequence[int]], output: Path) -> list[float] | None:
        """Return what networks are worth when they are evaluated again with another seed; ``None``: nothing is random.

        A search's choice is the maximum of the very evaluations that chose it, and thus worth less than they say.
        """
        return None

    def base(self, problem: Problem) -> Network:
        """Return what the network found is compared with: the space's base network, or its first."""
        return problem.space.base_network() or problem.network((0,) * len(problem.space.choices))

    # --- what is told of it ---

    def subject(self, problem: Problem) -> str:
        """Return what is searched, as a report's heading names it."""
        return problem.space.name

    def accuracies(self) -> str:
        """Return where the accuracies come from by which it chooses, in a few words."""
        return ""

    def depth_of(self, problem: Problem, network: Network, vector: Sequence[int] | None) -> int:
        """Return how deep a network is; ``vector``: its own in the problem's space, ``None`` if it is not known."""
        return len(network.layers)

    def first(self, found: Found) -> FirstNetwork | None:
        """Return the network that it began with; ``None`` where it began with no particular one."""
        return None

    @abstractmethod
    def plan_lines(self, problem: Problem, data: str) -> Sequence[Line]:
        """Return what is searched, and how, for people; ``data``: what is trained on, in words."""

    def result_lines(self, found: Found) -> Sequence[Line]:
        """Return how the search went, for people."""
        return ()

    def summary(self, found: Found) -> dict[str, Any]:
        """Return what is particular to it in ``result.json``."""
        return {}

    def history(self, found: Found) -> dict[str, Any]:
        """Return what is particular to it in ``history.json``."""
        return {}

    def write_found(self, found: Found, output: Path) -> None:
        """Write its own files of what was found."""

    def way(self, found: Found) -> WayPoints | None:
        """Return the networks that it passed, for the chart of accuracy against latency."""
        return None

    def answer(self, result: RunResult) -> list[Block]:
        """Return what the report's answer shows where there is no chart of accuracy against latency."""
        return []

    @abstractmethod
    def sections(self, result: RunResult) -> Sequence[Section]:
        """Return the report's sections about this search, between the networks and the trainings."""

"""What a search returns: networks, and what it knows, from which it derives others without training anew."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

from lut import Network
from lut._console import format_ms
from lut.errors import BudgetError
from predictors._predictions import NetworkPrediction
from search._problem._problem import Problem

__all__ = ["Candidate", "Evaluated", "Found", "Knowledge"]


class Candidate(NamedTuple):
    """A network that a search proposes: its vector, and the value by which the search ranks it; more is better."""

    vector: tuple[int, ...]
    value: float


class Knowledge(ABC):
    """What a search has learnt: it answers for any budgets and any predictor, without training or evaluating."""

    @abstractmethod
    def candidates(self, problem: Problem, count: int) -> tuple[Candidate, ...]:
        """Return up to so many different networks within the problem's budgets, the best first; perhaps none.

        Args:
            problem: of the same space, with a predictor or budgets that may be others than the search's.
            count: at least 1.
        """


@final
@dataclass(frozen=True)
class Evaluated(Knowledge):
    """Networks that were evaluated, with their values, by vectors."""

    values: Mapping[tuple[int, ...], float] = field(repr=False)

    def candidates(self, problem: Problem, count: int) -> tuple[Candidate, ...]:
        """Return the best of the networks evaluated that are within the budgets; of equals the smaller one first."""
        found: dict[tuple[int, ...], float] = {}
        ranked = sorted(self.values, key=lambda vector: (-self.values[vector], vector))
        # The best first, and no further than is asked for: what a network takes is dear to know.
        for value, alike in itertools.groupby(ranked, key=self.values.__getitem__):
            within = [vector for vector in alike if problem.fits(vector)]
            # Vectors that differ in what is not there stand for the same network.
            for vector in sorted(within, key=lambda one: (problem.load(one), one)):
                found.setdefault(problem.canonical(vector), value)
            if len(found) >= count:
                break
        return tuple(Candidate(vector, value) for vector, value in found.items())[:count]


@final
@dataclass(frozen=True, repr=False)
class Found:
    """What a search found. ``networks[0]`` is the network; searches that answer several questions find several.

    Args:
        search: the search's name.
        problem: what was searched; after a repair with the predictor and the margin that measuring taught.
        winners: the networks' vectors, with the values by which the search chose them.
        knowledge: from which others are derived.
        evaluated: different networks whose accuracy was asked for.
        seconds: in all.
        course: what is particular to the search: its history, its paths.
        warnings: what a reader of the result is to know.
    """

    search: str
    problem: Problem
    winners: tuple[Candidate, ...]
    knowledge: Knowledge
    evaluated: int
    seconds: float
    course: Any = None
    warnings: tuple[str, ...] = ()

    @property
    def vectors(self) -> tuple[tuple[int, ...], ...]:
        """The option index of each decision, of each network."""
        return tuple(winner.vector for winner in self.winners)

    @property
    def values(self) -> tuple[float, ...]:
        """By which the search chose each network: an accuracy, or a log-probability."""
        return tuple(winner.value for winner in self.winners)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks; one that has no name of its own is called what it is."""
        found = []
        for winner in self.winners:
            network = self.problem.network(winner.vector)
            name = f"{network.name} found" if network.name == self.problem.space.name else network.name
            found.append(Network(name=name, layers=network.layers))
        return tuple(found)

    @property
    def predictions(self) -> tuple[NetworkPrediction, ...]:
        """What each network takes, with its interval; nothing without a predictor."""
        found = [self.problem.predict(winner.vector) for winner in self.winners]
        return tuple(prediction for prediction in found if prediction is not None)

    def __repr__(self) -> str:
        return f"<Found by {self.search}: {', '.join(map(str, self.vectors))}>"

    def __str__(self) -> str:
        """Return a line for each network, and how many were evaluated."""
        lines = []
        for network, winner in zip(self.networks, self.winners, strict=True):
            needs = self.problem.needs(winner.vector)
            ms = ""
            if needs.ms is not None and needs.bound_ms is not None:
                upper = f" (up to {format_ms(needs.bound_ms)})" if needs.bound_ms > needs.ms else ""
                ms = f"{format_ms(needs.ms)} ms{upper}, "
            lines.append(
                f"{network.name}: {ms}{needs.madds / 1e6:.4g} M multiply-adds, "
                f"{needs.parameters / 1e6:.4g} M parameters"
            )
        return "\n".join([*lines, f"found by {self.search}; {self.evaluated:,} networks evaluated"])


def best_of(knowledge: Knowledge, problem: Problem) -> Candidate:
    """Return the best network within a problem's budgets.

    Raises:
        BudgetError: the search knows none.
    """
    for candidate in knowledge.candidates(problem, 1):
        return candidate
    problem.check_budgets()
    raise BudgetError(f"the search knows no network within {problem.budgets}")


def as_evaluated(values: Mapping[Sequence[int], float], problem: Problem) -> Evaluated:
    """Return values by vectors as what is known of a problem's networks."""
    return Evaluated({problem.canonical(vector): value for vector, value in values.items()})

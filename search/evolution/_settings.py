"""How evolution, local search and random search are set, and what they say of their course."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import msgspec

from lut import UsageError
from lut._suggest import check_word

__all__ = ["Course", "EvolutionSettings", "Round", "Strategy"]

Strategy: TypeAlias = Literal["evolution", "local", "random"]
STRATEGIES = ("evolution", "local", "random")

# Each network of a population is drawn one by one before it begins.
MOST_BRED = 10_000
# As many lines as a file of accuracies may have.
MOST_EVALUATED = 1_000_000
MOST_CHANGED = 3
MOST_AT_ONCE = 1000


class EvolutionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How networks are searched by evolution, by local search, or at random.

    Args:
        strategy: ``evolution``: pymoo's genetic algorithm; ``local``: from random networks on to better ones that
            differ in a decision; ``random``.
        population: networks of a generation, at least 2; a random search asks for so many together.
        generations: of an evolution, the first one included.
        evaluations: different networks that are evaluated at most. With it an evolution has as many generations as that
            takes, and ``generations`` has no part. ``None``: as many as ``generations`` of ``population`` are.
        most_changed: decisions that a local search changes at a time, once fewer improve nothing: 1 to 3.
        at_once: neighbours that a local search evaluates together, of which it takes the best: what it finds depends on
            it.
        finalists: networks that are evaluated again with a fresh seed, where the accuracy has one; 0: none.
        hopeful: also evaluate networks that only the prediction is within the budget of ms, not the upper end of its
            interval. They are not the result, but verifying may find that they keep the budget.

    Raises:
        UsageError: a value is out of its range.
    """

    strategy: Strategy = "evolution"
    population: int = 24
    generations: int = 10
    evaluations: int | None = None
    most_changed: int = 1
    at_once: int = 1
    finalists: int = 3
    hopeful: bool = True

    def __post_init__(self) -> None:
        check_word("evolution: strategy", self.strategy, STRATEGIES)
        if self.population < 2 or self.generations < 1:
            raise UsageError(
                f"evolution: at least 2 networks and 1 generation, got {self.population} and {self.generations}"
            )
        if self.population > MOST_BRED or self.generations > MOST_BRED:
            raise UsageError(
                f"evolution: at most {MOST_BRED} networks and generations, got {self.population} and {self.generations}"
            )
        if self.evaluations is not None and not 1 <= self.evaluations <= MOST_EVALUATED:
            raise UsageError(f"evolution: evaluations are 1 to {MOST_EVALUATED:,}, got {self.evaluations}")
        if not 1 <= self.most_changed <= MOST_CHANGED:
            raise UsageError(f"evolution: most_changed is 1 to {MOST_CHANGED}, got {self.most_changed}")
        if not 1 <= self.at_once <= MOST_AT_ONCE:
            raise UsageError(f"evolution: at_once is 1 to {MOST_AT_ONCE}, got {self.at_once}")
        if not 0 <= self.finalists <= MOST_BRED:
            raise UsageError(f"evolution: finalists are 0 to {MOST_BRED}, got {self.finalists}")

    @property
    def most_evaluated(self) -> int:
        """Different networks that are evaluated at most."""
        if self.evaluations is not None:
            return self.evaluations
        return min(self.population * self.generations, MOST_EVALUATED)

    @property
    def expected_rounds(self) -> int:
        """Generations, or draws of a population, that are to be expected; 0: nobody knows."""
        if self.strategy == "local":
            return 0
        if self.strategy == "evolution" and self.evaluations is None:
            return self.generations
        return -(-self.most_evaluated // self.population)


class Round(NamedTuple):
    """Where a search stood after a generation, a climb, or a draw of several networks.

    Args:
        number: from 1.
        evaluated: different networks so far.
        best: the best value so far.
    """

    number: int
    evaluated: int
    best: float


class Course(NamedTuple):
    """How a search went.

    Args:
        rounds: in their order.
        optimism: of the network found, the value that made it a finalist less the one with a fresh seed; ``None``
            where no network was evaluated again.
    """

    rounds: tuple[Round, ...]
    optimism: float | None = None

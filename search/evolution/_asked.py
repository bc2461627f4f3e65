"""What a search asks for: networks within the budgets, each once, and no more than there may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TypeAlias, final

from search._accuracy._evaluator import network_key
from search._problem._problem import Problem
from search.evolution._settings import Round

__all__ = ["Asked", "Evaluate", "OnGeneration", "Vector", "nobody"]

Vector: TypeAlias = tuple[int, ...]
# Takes different vectors, all within the budgets; gives their values, in the order given.
Evaluate: TypeAlias = Callable[[Sequence[Vector]], Sequence[float]]
# Told a round's number, of how many (0: unknown), and the best value so far.
OnGeneration: TypeAlias = Callable[[int, int, float], None]


def nobody(number: int, of: int, best: float) -> None:
    """Tell nobody."""


@final
class Asked:
    """Stands between a strategy and an accuracy. Vectors of the same work count as one network.

    Args:
        problem: what is searched; a search begins with networks within its budgets.
        evaluate: see :data:`Evaluate`.
        most: different networks that are evaluated at most.
        on_generation: see :data:`OnGeneration`.
        hopeful: evaluate also what only the prediction is within the budget of ms, not the upper end of its interval.
    """

    def __init__(
        self,
        problem: Problem,
        evaluate: Evaluate,
        most: int,
        on_generation: OnGeneration = nobody,
        *,
        hopeful: bool = False,
    ) -> None:
        self.problem = problem
        # What may be evaluated.
        self.within = problem.by_prediction if hopeful else problem
        self.values: dict[Vector, float] = {}
        self.rounds: list[Round] = []
        self._evaluate = evaluate
        self._most = most
        self._on_generation = on_generation
        self._by_work: dict[str, float] = {}
        # The best value so far, of a network within the budgets.
        self.best = -inf

    @property
    def evaluated(self) -> int:
        """Different networks so far."""
        return len(self._by_work)

    @property
    def left(self) -> int:
        """How many more may be evaluated."""
        return self._most - len(self._by_work)

    def __call__(self, vectors: Sequence[Sequence[int]]) -> list[float | None]:
        """Return values by vectors; ``None`` of what is beyond a budget, or has none when no more may be evaluated."""
        keys = [self.problem.canonical(vector) for vector in vectors]
        new: dict[str, Vector] = {}
        works: dict[Vector, str] = {}
        for key in dict.fromkeys(keys):
            if key in self.values or not self.within.fits(key):
                continue
            work = network_key(self.problem.network(key))
            if work not in self._by_work and work not in new:
                if len(new) >= self.left:
                    continue
                new[work] = key
            works[key] = work
        if new:
            self._by_work.update(zip(new, self._evaluate(list(new.values())), strict=True))
        for key, work in works.items():
            self.values[key] = self._by_work[work]
            if self.values[key] > self.best and (self.within is self.problem or self.problem.fits(key)):
                self.best = self.values[key]
        return [self.values.get(key) for key in keys]

    def end_round(self, of: int) -> None:
        """Note a round that is done, and tell of it; ``of``: how many there are to be, 0 for unknown."""
        self.rounds.append(Round(len(self.rounds) + 1, self.evaluated, self.best))
        self._on_generation(len(self.rounds), of, self.best)

"""Random search: different random networks within the budgets."""

from __future__ import annotations

import random

from search.evolution._asked import Asked
from search.evolution._settings import EvolutionSettings

__all__ = ["search_at_random"]

# Draws in a row that give no new network: the space has no more, or hardly any.
MOST_IN_VAIN = 1000
# Rounds in a row whose vectors all stand for networks that are known.
MOST_IDLE = 100


def search_at_random(asked: Asked, settings: EvolutionSettings, seed: int) -> None:
    """Evaluate random networks, a population of them at a time, until no more may be or none are found."""
    rng = random.Random(f"{seed}-random")  # noqa: S311 - a sample, no secret
    drawn: set[tuple[int, ...]] = set()
    # Those within the budgets, the first of all among them, and by turns those that may be, until either has no more.
    sides = [asked.problem] if asked.within is asked.problem else [asked.problem, asked.within]
    idle = 0
    while asked.left > 0 and idle < MOST_IDLE:
        several: list[tuple[int, ...]] = []
        vain = 0
        while len(several) < min(settings.population, asked.left) and sides:
            side = sides[len(several) % len(sides)]
            vector = side.sample(rng)
            vain += 1
            if vector not in drawn:
                drawn.add(vector)
                several.append(vector)
                vain = 0
            elif vain >= MOST_IN_VAIN:
                sides.remove(side)
                vain = 0
        if not several:
            return
        before = asked.evaluated
        asked(several)
        idle += 1
        if asked.evaluated > before:
            idle = 0
            asked.end_round(max(settings.expected_rounds, len(asked.rounds) + 1))

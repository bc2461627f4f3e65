"""Local search: from random networks on to better ones that differ in one decision, or a few."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from lut import SearchSpace
from search.evolution._asked import Asked, Vector
from search.evolution._settings import EvolutionSettings

__all__ = ["neighbours", "search_locally"]

# Neighbours of two or three changes that are looked at before a network is taken for a summit.
MOST_NEIGHBOURS = 1000
# Climbs in a row in which nothing new is evaluated: the space has no more, or hardly any.
MOST_IN_VAIN = 100


def search_locally(asked: Asked, settings: EvolutionSettings, seed: int) -> None:
    """Climb from one random network within the budgets after another, as long as any more may be evaluated."""
    rng = random.Random(f"{seed}-local")  # noqa: S311 - a sample, no secret
    vain = 0
    while asked.left > 0 and vain < MOST_IN_VAIN:
        before = asked.evaluated
        _climb(asked, asked.problem.sample(rng), settings, rng)
        if asked.evaluated == before:
            vain += 1
            continue
        vain = 0
        asked.end_round(0)


def _climb(asked: Asked, vector: Vector, settings: EvolutionSettings, rng: random.Random) -> None:
    (value,) = asked([vector])
    while value is not None:
        # What does not fit costs nothing but a look; the strategy's is the order.
        tried = (v for v in neighbours(asked.problem.space, vector, settings.most_changed, rng) if asked.within.fits(v))
        while several := list(itertools.islice(tried, settings.at_once)):
            known = zip(asked(several), several, strict=True)
            better = [(found, other) for found, other in known if found is not None and found > value]
            if better:
                value, vector = max(better, key=lambda pair: pair[0])
                break
            if asked.left <= 0:
                return
        else:
            return


def neighbours(space: SearchSpace, vector: Vector, most_changed: int, rng: random.Random) -> Iterator[Vector]:
    """Yield vectors that differ from one in few decisions, those with fewest first, each group in random order.

    Of one decision: first the next smaller and the next larger width or depth and any other operator, then all others.
    """
    near: list[tuple[int, int]] = []
    far: list[tuple[int, int]] = []
    for d, decision in enumerate(space.choices):
        for index in range(len(decision.options)):
            if index != vector[d]:
                is_near = decision.kind == "operator" or abs(index - vector[d]) == 1
                (near if is_near else far).append((d, index))
    rng.shuffle(near)
    rng.shuffle(far)
    single = [*near, *far]
    yield from (_changed(vector, [change]) for change in single)
    for count in range(2, min(most_changed, len(single)) + 1):
        given: set[Vector] = set()
        for _ in range(MOST_NEIGHBOURS):
            changes = rng.sample(single, count)
            neighbour = _changed(vector, changes)
            if len({d for d, _ in changes}) == count and neighbour not in given:
                given.add(neighbour)
                yield neighbour


def _changed(vector: Vector, changes: list[tuple[int, int]]) -> Vector:
    found = list(vector)
    for d, index in changes:
        found[d] = index
    return tuple(found)

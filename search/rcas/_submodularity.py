"""Whether a space's accuracy behaves like a submodular function: random networks that grow block by block.

Source: Xiong et al. (2019), section 4.3, "Does submodular property with early stopping hold?", which prints the mean
accuracy by step. Means may have falling increments where single networks do not, so that here the defining inequality
(their equation 3) is counted as well.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from math import sqrt
from statistics import fmean, stdev

import msgspec

from lut import Network, SearchSpace, UsageError
from search._problem._blocks import check_blocks
from search._problem._problem import Problem
from search.rcas._greedy import ROUNDING

__all__ = ["GrowthStep", "Submodularity", "check_growth", "measure_submodularity"]


# Each has a dozen others beside it, all of which are held.
MOST_NETWORKS = 10_000


class GrowthStep(msgspec.Struct, frozen=True):
    """All networks with as many random blocks.

    Args:
        blocks: added to the first network.
        mean: of their values; ``standard_error``: of the mean over networks, 0 where there is one.
        increment: over the step before; ``None`` in the first.
        diminishing_broken: of the triples whose larger set this is, the share in which the block gained more on it than
            on the set that is one block smaller; ``None`` where there are none.
        monotone_broken: share of the networks that the last block made worse; ``None`` in the first.
    """

    blocks: int
    mean: float
    standard_error: float
    increment: float | None
    diminishing_broken: float | None
    monotone_broken: float | None


class Submodularity(msgspec.Struct, frozen=True):
    """What random growth says of a set function F.

    Args:
        steps: by number of blocks.
        networks: sequences that were grown.
        triples: sets A ⊂ B = A + u with a block v, for which F(A+v) − F(A) ≥ F(B+v) − F(B) was looked at;
            ``diminishing_broken``: the share in which it was not so. A function that just adds up its blocks' values,
            read with noise, breaks half of them.
        mean_excess: by how much they were broken, on average over those.
        additions: pairs of a set and the same with one block more; ``monotone_broken``: the share that lost.
        mean_loss: on average over those.
        evaluated: different networks.
    """

    steps: tuple[GrowthStep, ...]
    networks: int
    triples: int
    diminishing_broken: float
    mean_excess: float
    additions: int
    monotone_broken: float
    mean_loss: float
    evaluated: int

    @property
    def mean_increments_fall(self) -> bool:
        """Whether the means' increments never rise: what the paper shows."""
        found = [step.increment for step in self.steps if step.increment is not None]
        return all(later <= earlier for earlier, later in itertools.pairwise(found))


def check_growth(space: SearchSpace, networks: int, blocks: int) -> None:
    """Raise :class:`~lut.UsageError` unless so many networks of a space can get so many blocks."""
    positions = sum(len(decision.options) > 1 for decision in space.choices)
    if networks > MOST_NETWORKS:
        raise UsageError(f"growth is of at most {MOST_NETWORKS} networks, got {networks}")
    if networks < 1 or not 2 <= blocks <= positions:
        raise UsageError(
            f"growth needs at least 1 network and between 2 and {positions} blocks, got {networks} and {blocks}"
        )


def measure_submodularity(
    problem: Problem,
    evaluate: Callable[[Sequence[Network]], Sequence[float]],
    *,
    networks: int = 500,
    blocks: int = 7,
    seed: int,
) -> Submodularity:
    """Grow random networks from the space's first one and count how often diminishing returns and monotonicity fail.

    Each network gets ``blocks`` random blocks at free positions, one after another. For each two that follow each
    other, u and then v, v is also added without u: so there are ``networks · (blocks − 1)`` triples A, A + u, v.

    Args:
        problem: a space of blocks; its budgets count for nothing.
        evaluate: the set function, of several networks.
        networks: sequences to grow; the paper: 500.
        blocks: added to each; the paper prints eight means, so 7.
        seed: of the blocks.

    Raises:
        UsageError: fewer than one network or two blocks, more blocks than positions, or a space of widths or depths.
        SearchError: a network cannot be evaluated.
    """
    check_blocks(problem.space, "growth")
    choices = problem.space.choices
    free = [d for d, decision in enumerate(choices) if len(decision.options) > 1]
    check_growth(problem.space, networks, blocks)
    rng = random.Random(f"{seed}-growth")  # noqa: S311 - a sample, no secret
    grown: list[list[tuple[int, ...]]] = []
    without: list[list[tuple[int, ...]]] = []
    for _ in range(networks):
        vectors, beside = [(0,) * len(choices)], []
        added: list[tuple[int, int]] = []
        for d in rng.sample(free, blocks):
            block = (d, rng.randrange(1, len(choices[d].options)))
            if added:
                beside.append(_with(vectors[-2], block))
            vectors.append(_with(vectors[-1], block))
            added.append(block)
        grown.append([problem.canonical(vector) for vector in vectors])
        without.append([problem.canonical(vector) for vector in beside])
    wanted = list(dict.fromkeys(vector for group in (grown, without) for vectors in group for vector in vectors))
    values = dict(zip(wanted, evaluate([problem.network(vector) for vector in wanted]), strict=True))
    rises = [[values[after] - values[before] for before, after in itertools.pairwise(v)] for v in grown]
    # By triple: what v gains on B, less what it gains on A.
    excess = [
        [rise[i + 1] - (values[beside[i]] - values[vectors[i]]) for i in range(blocks - 1)]
        for vectors, beside, rise in zip(grown, without, rises, strict=True)
    ]
    steps: list[GrowthStep] = []
    for i in range(blocks + 1):
        at = [values[vectors[i]] for vectors in grown]
        steps.append(
            GrowthStep(
                i,
                fmean(at),
                stdev(at) / sqrt(len(at)) if len(at) > 1 else 0.0,
                None if not i else fmean(at) - steps[-1].mean,
                None if i < 2 else _share([row[i - 2] for row in excess], above=True),
                None if not i else _share([row[i - 1] for row in rises], above=False),
            )
        )
    all_excess = [value for row in excess for value in row]
    all_rises = [value for row in rises for value in row]
    return Submodularity(
        tuple(steps),
        networks,
        len(all_excess),
        _share(all_excess, above=True),
        _mean([value for value in all_excess if value > ROUNDING]),
        len(all_rises),
        _share(all_rises, above=False),
        _mean([-value for value in all_rises if value < -ROUNDING]),
        len(wanted),
    )


def _with(vector: Sequence[int], block: tuple[int, int]) -> tuple[int, ...]:
    found = list(vector)
    found[block[0]] = block[1]
    return tuple(found)


def _share(values: Sequence[float], *, above: bool) -> float:
    return fmean(value > ROUNDING if above else value < -ROUNDING for value in values)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0

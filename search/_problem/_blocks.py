"""Spaces of blocks: decisions about operators, whose first option is that nothing is there."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from lut import SearchSpace, UsageError
from lut.errors import BudgetError

if TYPE_CHECKING:
    from search._problem._problem import Problem

__all__ = ["check_blocks", "check_start", "sample_blocks"]


def check_blocks(space: SearchSpace, what: str) -> None:
    """See that a space's decisions are about blocks, whose first option is that there is none.

    Args:
        space: the space.
        what: what adds blocks, for the message.

    Raises:
        UsageError: a decision is about widths or depths.
    """
    for decision in space.choices:
        if decision.kind != "operator" and len(decision.options) > 1:
            raise UsageError(
                f"{what} adds blocks, and {space.name} is a space of {decision.kind}s ({decision.name}): give a space "
                "of blocks whose first option is none, such as rcnet-cifar or nas-bench-macro"
            )


def check_start(problem: Problem) -> None:
    """See that a search that adds blocks can begin with the space's first network.

    Raises:
        BudgetError: it is beyond a budget; the message says of which and by how much.
        UsageError: there is no budget, or a decision of the space is about widths or depths.
    """
    check_blocks(problem.space, "RCAS")
    if not problem.budgets:
        raise UsageError("a search needs a budget: of ms, of parameters or of multiply-adds")
    start = (0,) * len(problem.space.choices)
    if not problem.fits(start):
        raise BudgetError(
            f"the network that a search of {problem.space.name} begins with takes {problem.excess_text(start)}"
        )


def sample_blocks(problem: Problem, rng: random.Random) -> tuple[int, ...]:
    """Return a random vector within the budgets, like those that a greedy search looks at.

    The space's first network, to which blocks are added in random order as long as they fit, up to a random number.
    """
    choices = problem.space.choices
    vector = [0] * len(choices)
    free = [d for d, decision in enumerate(choices) if len(decision.options) > 1]
    rng.shuffle(free)
    most = rng.randint(1, max(len(free), 1))
    for d in free[:most]:
        vector[d] = rng.randrange(1, len(choices[d].options))
        if not problem.fits(vector):
            vector[d] = 0
    return tuple(vector)

"""Verify and repair from Python: what a search found, measured on this device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lut import UsageError
from lut.errors import BudgetError
from profiler import compare_networks
from profiler._session import Progress
from search._runs._found import Found
from search._runs._measurement import Compare
from search._runs._verify import MOST_REPAIRS, Verification
from search._runs._verify import verify as verify_choice

__all__ = ["verify"]


def verify(
    found: Found,
    *,
    seconds: float = 30.0,
    repairs: int = MOST_REPAIRS,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    compare: Compare | None = None,
) -> tuple[Found, Verification]:
    """Measure what a search found against its budget of ms, and let it choose again where it exceeds it.

    Args:
        found: of any search; its problem has a predictor and a budget of ms.
        seconds: of each session.
        repairs: sessions after the first, at most.
        seed: of the order of visits.
        folder: keeps the sessions in ``verification.json``; another call goes on from there.
        progress: told where a session stands.
        compare: what measures; by default :func:`profiler.compare_networks`.

    Returns:
        What is found then, whose ``networks[0]`` was measured within the budget, and what was measured.

    Raises:
        UsageError: no predictor or no budget of ms.
        BudgetError: no network was measured within the budget; says which is the nearest, and how far.
        UnlikeTablesError: this machine is not the predictor's device.
    """
    problem = found.problem
    if problem.predictor is None or problem.budgets.ms is None:
        raise UsageError("what is verified is a budget of ms: Problem(space, predictor, ms=…)")
    base = problem.space.base_network() or problem.network((0,) * len(problem.space.choices))
    done = verify_choice(
        problem,
        found.knowledge,
        found.winners[0],
        base,
        compare=compare or compare_networks,
        seconds=seconds,
        seed=seed,
        repairs=repairs,
        path=None if folder is None else Path(folder) / "verification.json",
        progress=progress,
    )
    if done.winner is None:
        raise BudgetError(broken_text(done.verification))
    return replace(found, problem=done.problem, winners=(done.winner, *found.winners[1:])), done.verification


def broken_text(verification: Verification) -> str:
    """Return how far the nearest network measured is beyond the budget."""
    found = verification.checked(verification.nearest)
    assert found is not None
    timed = found.timed
    held = timed.interval(verification.holds)[1]
    sessions = len(verification.rounds)
    return (
        f"no network was measured within the budget of {verification.budget_ms:g} ms in {sessions} "
        f"session{'s' * (sessions > 1)}: the nearest takes {timed.ms:.4g} ms, up to {held:.4g} ms, "
        f"{held / verification.budget_ms - 1:.1%} beyond it. Give a larger budget, or search longer"
    )

"""What a run is: all that its course depends on, as its folder records it."""

from __future__ import annotations

from typing import Any

import msgspec

from search._data._images import ImageData
from search._problem._budgets import Bound, Budgets, Holds
from search._problem._problem import Problem
from search._training._recipe import Recipe

__all__ = ["RunPlan", "make_plan", "tested_on"]


class RunPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a run's course depends on; data, accuracies and predictor go in by their digests.

    Args:
        search: its name.
        space: the space's name; ``space_options``: what it was made with.
        budgets: limits, all of which hold.
        bound: what the budget of ms is held against while searching; ``level``: of the interval.
        holds: at which speed of the machine the budget of ms holds.
        settings: of the search, by name.
        recipe: of the trainings at the end; ``None``: there are none.
        distil: whether the base network teaches the network found.
        data: the data's name; ``data_digest``: of its content. Empty without data.
        tables: digests of the predictor's tables; ``latencies``: of what it says of the space. Empty without one.
        calibrated: networks of the space that were measured whole before the search, and calibrated on.
        measured: whether networks found are measured; what is found may be another then.
        seed: of everything.
    """

    search: str
    space: str
    space_options: dict[str, Any]
    budgets: Budgets
    bound: Bound
    level: float
    holds: Holds
    settings: dict[str, Any]
    recipe: Recipe | None
    distil: bool
    data: str
    data_digest: str
    tables: tuple[str, ...]
    latencies: str
    calibrated: int
    measured: bool
    seed: int


def make_plan(
    search: str,
    problem: Problem,
    settings: dict[str, Any],
    *,
    data: ImageData | None,
    recipe: Recipe | None,
    distil: bool,
    calibrated: int,
    measured: bool,
    seed: int,
    bound: Bound | None = None,
) -> RunPlan:
    """Return a run's plan.

    Args:
        search: its name.
        problem: what is searched.
        settings: of the search; anything that JSON can hold.
        data: to search and train on.
        recipe: of the trainings at the end.
        distil: whether the base network teaches.
        calibrated: networks that the predictor is calibrated on.
        measured: whether networks found are measured.
        seed: of everything.
        bound: what the budget will be held against, where the problem's is not that yet.
    """
    predictor = problem.predictor
    return RunPlan(
        search=search,
        space=problem.space.name,
        space_options=msgspec.to_builtins(dict(problem.space.options)),
        budgets=problem.budgets,
        bound=problem.bound if bound is None else bound,
        level=problem.level,
        holds=problem.holds,
        settings=msgspec.to_builtins(settings),
        recipe=recipe,
        distil=distil,
        data="" if data is None else data.name,
        data_digest="" if data is None else data.digest,
        tables=() if predictor is None else tuple(table.sha256 for table in predictor.tables),
        latencies=problem.latencies_digest,
        calibrated=calibrated,
        measured=measured,
        seed=seed,
    )


def tested_on(plan: RunPlan) -> str:
    """Return what a budget of ms is held against while searching, in words."""
    if plan.bound == "upper":
        return f"the upper end of its {plan.level:.0%} interval"
    return "its prediction"

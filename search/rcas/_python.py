"""RCAS from Python: the search over any accuracy, and how its paper trains networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lut import Network
from search._accuracy._evaluator import Accuracy, BatchAccuracy, EvaluationProgress
from search._accuracy._open import evaluating
from search._accuracy._short_training import rcas_recipe
from search._problem._blocks import check_start
from search._problem._problem import Problem
from search._runs._found import Found
from search._training._recipe import Recipe
from search.rcas._course import found_of
from search.rcas._search import RcasSettings, RcasStep, search_rcas

__all__ = ["recipe", "search", "short_recipe"]

# Shares of the epochs at which the learning rate of a last training falls to a tenth: 60, 120 and 180 of 200.
LAST_MILESTONES = (0.3, 0.6, 0.9)


def search(
    problem: Problem,
    accuracy: Accuracy | BatchAccuracy,
    *,
    settings: RcasSettings | None = None,
    folder: str | Path | None = None,
    workers: int = 1,
    timeout_s: float | None = None,
    progress: Callable[[EvaluationProgress], None] = lambda _: None,
    on_step: Callable[[str, RcasStep], None] = lambda *_: None,
) -> Found:
    """Search the most accurate network within budgets by adding blocks (Xiong et al. 2019, Algorithm 3).

    Args:
        problem: a space of blocks whose first option is none, and at least one budget.
        accuracy: the set function: a function of a :class:`~lut.Network` that returns its accuracy, or any finite
            number of which more is better; or an object that evaluates several networks in its own way.
        settings: the rules, laziness, the exchange; by default the paper's.
        folder: keeps each value at once in ``evaluations.jsonl``: another call goes on from there to the same end.
        workers: calls of a plain function at a time, each in a thread.
        timeout_s: seconds that one call of a plain function may take.
        progress: told where the evaluations that were asked for together stand.
        on_step: called with the rule and each network that joins a path.

    Returns:
        What was found; its ``course`` has the paths.

    Raises:
        UsageError: no budget, a space of widths or depths, or a rule or budget of latency without a predictor.
        BudgetError: the space's first network is beyond a budget.
        SearchError: a network cannot be evaluated.
        CheckpointError: the folder's values are of another space or function.
    """
    check_start(problem)
    with evaluating(problem, accuracy, folder, workers, progress, timeout_s=timeout_s) as evaluations:

        def evaluate(networks: Sequence[Network]) -> list[float]:
            return evaluations.evaluator(networks)

        return found_of(problem, search_rcas(problem, evaluate, settings, told=on_step))


def recipe(epochs: int = 200, batch_size: int = 128, **changes: Any) -> Recipe:
    """Return how RCAS trains what it found (Xiong et al. 2019, section 4.2): a tenth of the rate at 60, 120 and 180.

    Args:
        epochs: the paper has 200.
        batch_size: images a step; the learning rate, 0.1 by default, is taken for 128.
        changes: other fields of :class:`search.Recipe`.

    Raises:
        UsageError: a value is out of its range, or there is no such field.
    """
    return rcas_recipe(epochs, batch_size, **{"milestones": LAST_MILESTONES, **changes})


def short_recipe(epochs: int = 10, batch_size: int = 128, **changes: Any) -> Recipe:
    """Return how RCAS trains a network to judge it (section 4.1); arguments as of :func:`recipe`."""
    return rcas_recipe(epochs, batch_size, **changes)

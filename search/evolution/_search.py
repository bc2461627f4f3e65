"""Any space searched for any accuracy: by evolution, by local search, or at random."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from search._accuracy._evaluator import Accuracy, BatchAccuracy, EvaluationProgress
from search._accuracy._finalists import choose_finalist, fresh_seed, fresh_values, optimism_text
from search._accuracy._open import Evaluations, evaluating
from search._problem._problem import Problem
from search._runs._found import Candidate, Evaluated, Found
from search.evolution._asked import Asked, Evaluate, OnGeneration, nobody
from search.evolution._evolution import check_pymoo, evolve
from search.evolution._local import search_locally
from search.evolution._random import search_at_random
from search.evolution._settings import Course, EvolutionSettings, Strategy

__all__ = ["run_strategy", "search"]

NAMES: Mapping[Strategy, str] = {"evolution": "evolution", "local": "local search", "random": "random search"}


def search(
    problem: Problem,
    accuracy: Accuracy | BatchAccuracy,
    *,
    settings: EvolutionSettings | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    workers: int = 1,
    timeout_s: float | None = None,
    progress: Callable[[EvaluationProgress], None] = lambda _: None,
    on_generation: OnGeneration = nobody,
) -> Found:
    """Search the most accurate network within budgets.

    No network beyond a budget (of ms: by the prediction) is evaluated, and none twice. The same seed gives the same
    result, however many workers there are. Where the accuracy has a method ``reseeded(seed)``, the best few networks
    are evaluated again with a fresh seed, and the best of these values decides: the best of many evaluations is partly
    the luckiest.

    Args:
        problem: any space, with at least one budget.
        accuracy: a function of a :class:`~lut.Network` that returns its accuracy, or any finite number of which more is
            better; or an object that evaluates several networks in its own way, such as ``search.ShortTraining``.
        settings: the strategy, and how long it searches.
        seed: of the search.
        folder: keeps each value at once in ``evaluations.jsonl``: another call goes on from there to the same end. It
            is of one space and one function, which is known by the content of its file; see the note below.
        workers: calls of a plain function at a time, each in a thread.
        timeout_s: seconds that one call of a plain function may take.
        progress: told where the evaluations that were asked for together stand.
        on_generation: called with a generation's number, of how many, and the best value; a local search's are climbs,
            of 0: nobody knows how many there will be.

    Returns:
        What was found; ``course`` is a :class:`~search.evolution.Course`.

    Note:
        A lambda, and a function of an interactive session, is known by its compiled code. What a function reads from
        elsewhere is not seen, the variables around it say: give an object that is called a ``digest`` of all that its
        accuracies depend on.

    Raises:
        UsageError: no budget, or an argument out of its range.
        BudgetError: the smallest network is beyond a budget; says by how much.
        SearchError: a network cannot be evaluated, took longer than ``timeout_s``, or its value is no finite number.
        CheckpointError: the folder's values are of another space or function.
        TargetUnavailableError: an evolution without pymoo.
    """
    settings = settings or EvolutionSettings()
    began = time.monotonic()
    problem.check_budgets(f"{'an' if settings.strategy == 'evolution' else 'a'} {NAMES[settings.strategy]}")
    if settings.strategy == "evolution":
        check_pymoo()
    with evaluating(problem, accuracy, folder, workers, progress, timeout_s=timeout_s) as evaluate:
        asked = run_strategy(problem, evaluate, settings, seed=seed, on_generation=on_generation)
        knowledge = Evaluated(asked.values)
        finalists = knowledge.candidates(problem, max(settings.finalists, 1))
        winner, optimism = finalists[0], None
        if settings.finalists:
            winner, optimism = _chosen(accuracy, evaluate, finalists, seed, workers, progress, timeout_s)
    return Found(
        search=NAMES[settings.strategy],
        problem=problem,
        winners=(winner,),
        knowledge=knowledge,
        evaluated=asked.evaluated,
        seconds=time.monotonic() - began,
        course=Course(tuple(asked.rounds), optimism),
        warnings=() if optimism is None else (optimism_text(winner.value, optimism),),
    )


def run_strategy(
    problem: Problem,
    evaluate: Evaluate,
    settings: EvolutionSettings,
    *,
    seed: int,
    on_generation: OnGeneration = nobody,
) -> Asked:
    """Search by a strategy; returns all that was asked for, at least one network.

    Args:
        problem: with at least one budget.
        evaluate: gives the values of different vectors within the budgets, of ms by the prediction at the least.
        settings: which strategy, and how long.
        seed: of the strategy.
        on_generation: see :func:`search`.

    Raises:
        UsageError: no budget.
        BudgetError: the smallest network is beyond a budget.
    """
    smallest = problem.check_budgets(f"the strategy {settings.strategy}")
    strategies = {"evolution": evolve, "local": search_locally, "random": search_at_random}
    asked = Asked(problem, evaluate, settings.most_evaluated, on_generation, hopeful=settings.hopeful)
    strategies[settings.strategy](asked, settings, seed)
    if not asked.values:
        asked([smallest])
    return asked


def _chosen(
    accuracy: Accuracy | BatchAccuracy,
    evaluate: Evaluations,
    finalists: tuple[Candidate, ...],
    seed: int,
    workers: int,
    progress: Callable[[EvaluationProgress], None],
    timeout_s: float | None,
) -> tuple[Candidate, float | None]:
    """Return the finalist with the best fresh value, ranked as the others are, and its optimism."""
    networks = [evaluate.problem.network(finalist.vector) for finalist in finalists]
    fresh = fresh_values(
        accuracy,
        networks,
        fresh_seed(seed),
        cache=evaluate.cache,
        at_once=workers,
        progress=progress,
        timeout_s=timeout_s,
    )
    if fresh is None:
        return finalists[0], None
    index, optimism = choose_finalist([finalist.value for finalist in finalists], fresh)
    return finalists[index], optimism

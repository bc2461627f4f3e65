"""A problem in the words of Optuna and of pymoo, for searches that are theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lut import Network
from lut.errors import TargetUnavailableError

if TYPE_CHECKING:
    from search._problem._problem import Problem

__all__ = ["as_pymoo", "optuna_objective", "vector_of"]


def optuna_objective(problem: Problem, accuracy: Callable[[Network], float]) -> Callable[[Any], float]:
    """Return an objective for an Optuna study that maximises.

    Each decision is a parameter of its name: an operator categorical, by its option; a width or a depth an integer, the
    option's index. Each trial has the user attributes ``vector``, ``ms``, ``parameters`` and ``madds`` (the predicted
    ``ms`` with a predictor), and for each budget a constraint of its name, the share by which the network is beyond it:
    samplers that know constraints take trials above 0 for infeasible. A network beyond a budget is not evaluated; its
    trial is pruned.

    Raises:
        TargetUnavailableError: Optuna is not installed.
    """
    try:
        from optuna import TrialPruned
    except ImportError:
        raise TargetUnavailableError("this needs optuna: pip install 'optuna>=5'") from None

    def objective(trial: Any) -> float:
        vector = []
        for decision in problem.space.choices:
            if decision.kind == "operator":
                option = trial.suggest_categorical(decision.name, list(decision.options))
                vector.append(decision.options.index(option))
            else:
                vector.append(trial.suggest_int(decision.name, 0, len(decision.options) - 1))
        needs = problem.needs(vector)
        trial.set_user_attr("vector", vector)
        for name in ("ms", "parameters", "madds"):
            if (value := getattr(needs, name)) is not None:
                trial.set_user_attr(name, value)
        for name, limit in problem.budgets.given():
            trial.set_constraint(name, needs.held(name) / limit - 1)
        if not problem.fits(vector):
            raise TrialPruned(f"beyond a budget: {problem.excess_text(vector)}")
        return float(accuracy(problem.network(vector)))

    return objective


def vector_of(problem: Problem, found: Any) -> tuple[int, ...]:
    """Return the vector of one of pymoo's solutions: its ``X``, mixed or not."""
    choices = problem.space.choices
    if isinstance(found, dict):
        return tuple(int(found.get(decision.name, 0)) for decision in choices)
    return tuple(min(int(value), len(d.options) - 1) for value, d in zip(found, choices, strict=True))


def as_pymoo(problem: Problem, accuracy: Callable[[Network], float], *, mixed: bool = False) -> Any:
    """Return the problem as one of pymoo's, for any of its algorithms.

    Two objectives: the error, 1 − accuracy, and, with a predictor, the predicted latency in ms (multiply-adds in
    millions without one). A constraint for each budget. A network beyond a budget is not evaluated: its error is 1.

    Args:
        problem: what is searched.
        accuracy: of a network, 0 … 1.
        mixed: variables by name, a ``Choice`` for each operator and an ``Integer`` for each width and depth, for
            pymoo's mixed-variable algorithms; otherwise one real number per decision, whose whole part is the option's
            index, for all others. ``problem.vector_of(solution)`` reads both.

    Raises:
        TargetUnavailableError: pymoo is not installed.
    """
    try:
        from pymoo.core.problem import Problem as PymooProblem
        from pymoo.core.variable import Choice, Integer
    except ImportError:
        raise TargetUnavailableError("this needs pymoo: pip install -e '.[search]'") from None
    choices, limits = problem.space.choices, list(problem.budgets.given())
    options: dict[str, Any] = {"n_obj": 2, "n_ieq_constr": len(limits)}
    if mixed:
        options["vars"] = {
            d.name: Choice(options=list(range(len(d.options))))
            if d.kind == "operator"
            else Integer(bounds=(0, len(d.options) - 1))
            for d in choices
            # Of one option there is nothing to decide, and pymoo divides by the range of its numbers.
            if len(d.options) > 1
        }
    else:
        # Just below the number of options, so that every option has as much room.
        top = np.nextafter(np.array([float(len(d.options)) for d in choices]), 0.0)
        options |= {"n_var": len(choices), "xl": np.zeros(len(choices)), "xu": top}

    class Networks(PymooProblem):  # type: ignore[misc]
        """Networks of a space within budgets."""

        def __init__(self) -> None:
            super().__init__(**options)

        def _evaluate(self, x: Sequence[Any], out: dict[str, Any], *_: Any, **__: Any) -> None:
            errors, sizes, excess = [], [], []
            for row in x:
                vector = vector_of(problem, row)
                needs = problem.needs(vector)
                errors.append(1 - float(accuracy(problem.network(vector))) if problem.fits(vector) else 1.0)
                sizes.append(needs.madds / 1e6 if needs.ms is None else needs.ms)
                excess.append([needs.held(name) / limit - 1 for name, limit in limits])
            out["F"] = np.column_stack([errors, sizes])
            if limits:
                out["G"] = np.array(excess)

    return Networks()

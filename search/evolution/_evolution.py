"""Evolution: pymoo breeds networks, and what is beyond the budgets is a violated constraint, never evaluated."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from lut import Decision
from lut.errors import TargetUnavailableError
from search._problem._problem import Problem
from search.evolution._asked import Asked, Vector
from search.evolution._settings import MOST_BRED, EvolutionSettings

__all__ = ["check_pymoo", "evolve"]

# Draws for each network of the first population: small spaces have fewer.
MOST_DRAWS = 100
# Generations in a row in which nothing new is evaluated.
MOST_IN_VAIN = 50
# Times that a generation is bred until it has as many new children as it should have.
MOST_MATINGS = 20
# Of the mutation of widths and depths: small steps are likelier than large ones.
ETA = 3.0
CROSSED = 0.9


def check_pymoo() -> None:
    """Raise unless pymoo is installed."""
    if find_spec("pymoo") is None:
        raise TargetUnavailableError("an evolution needs pymoo: pip install -e '.[search]'")


def evolve(asked: Asked, settings: EvolutionSettings, seed: int) -> None:
    """Breed networks by pymoo's genetic algorithm for mixed variables.

    The first population is the smallest network and random ones within the budgets. Children take each decision from
    one of two parents, and one decision on average is changed at random; what was asked for before is no child. The
    best of parents and children live on, those within the budgets first. A population whose children are all known has
    nothing more to give: another one of random networks takes its place.

    Raises:
        BudgetError: no network is within the budgets.
        TargetUnavailableError: pymoo is not installed.
    """
    check_pymoo()
    by_generations = settings.evaluations is None
    of = settings.expected_rounds
    rng = random.Random(f"{seed}-evolution")  # noqa: S311 - a sample, no secret
    seen: set[Vector] = set()
    first = [asked.problem.canonical(asked.problem.check_budgets("an evolution"))]
    if all(len(decision.options) == 1 for decision in asked.problem.space.choices):
        asked(first)
        asked.end_round(1)
        return
    vain = 0
    while vain < MOST_IN_VAIN and (first := _filled(asked.problem, first, settings.population, seen, rng)):
        algorithm = _algorithm(asked, first, seen, settings, rng.getrandbits(31))
        while algorithm.has_next() and vain < MOST_IN_VAIN:
            before = asked.evaluated
            algorithm.next()
            vain += 1
            if asked.evaluated > before:
                vain = 0
                asked.end_round(max(of, len(asked.rounds) + 1))
            if asked.left <= 0 or (by_generations and len(asked.rounds) >= settings.generations):
                return
        first = []


def _filled(
    problem: Problem, vectors: Sequence[Vector], population: int, seen: set[Vector], rng: random.Random
) -> list[Vector]:
    """Return vectors and as many different random ones, none of them seen, as make a population, or are found."""
    found = dict.fromkeys(vectors)
    for _ in range(MOST_DRAWS * population):
        if len(found) >= population:
            break
        vector = problem.sample(rng)
        if vector not in seen:
            found[vector] = None
    return list(found)


def _algorithm(asked: Asked, first: Sequence[Vector], seen: set[Vector], settings: EvolutionSettings, seed: int) -> Any:
    """Return pymoo's algorithm, set up."""
    from pymoo.core.mixed import MixedVariableGA, MixedVariableMating
    from pymoo.core.population import Population
    from pymoo.core.variable import Choice, Integer
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.mutation.rm import ChoiceRandomMutation
    from pymoo.operators.repair.rounding import RoundingRepair

    # A decision with one option is none of pymoo's variables.
    free = {d: own for d, own in enumerate(asked.problem.space.choices) if len(own.options) > 1}
    share = 1 / len(free)
    population = [{own.name: vector[d] for d, own in free.items()} for vector in first]
    algorithm = MixedVariableGA(
        pop_size=settings.population,
        sampling=Population.new("X", np.array(population, dtype=object)),
        mating=MixedVariableMating(
            crossover={Integer: UX(prob=CROSSED), Choice: UX(prob=CROSSED)},
            mutation={
                Integer: PM(prob=1.0, prob_var=share, eta=ETA, vtype=float, repair=RoundingRepair()),
                Choice: ChoiceRandomMutation(prob=1.0, prob_var=share),
            },
            eliminate_duplicates=_different(asked.problem, seen),
            n_max_iterations=MOST_MATINGS,
        ),
        eliminate_duplicates=_different(asked.problem, seen),
    )
    algorithm.setup(
        _networks(asked, list(free.values()), seen), termination=("n_gen", MOST_BRED), seed=seed, verbose=False
    )
    return algorithm


def _vector_of(problem: Problem, solution: Mapping[str, Any]) -> Vector:
    return problem.canonical([int(solution.get(decision.name, 0)) for decision in problem.space.choices])


def _networks(asked: Asked, free: Sequence[Decision], seen: set[Vector]) -> Any:
    """Return the networks as pymoo's problem, which notes those that it is asked for as seen."""
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.core.variable import Choice, Integer

    class Networks(PymooProblem):  # type: ignore[misc]
        """The objective is the value's negative; the constraint by how much a network is beyond a budget."""

        def __init__(self) -> None:
            variables = {
                d.name: Choice(options=list(range(len(d.options))))
                if d.kind == "operator"
                else Integer(bounds=(0, len(d.options) - 1))
                for d in free
            }
            super().__init__(vars=variables, n_obj=1, n_ieq_constr=1)

        def _evaluate(self, x: Sequence[Any], out: dict[str, Any], *_: Any, **__: Any) -> None:
            vectors = [_vector_of(asked.problem, row) for row in x]
            seen.update(vectors)
            # One within the budgets without a value is one more than may be evaluated: the search is over.
            out["F"] = np.array([[0.0 if value is None else -value] for value in asked(vectors)])
            out["G"] = np.array([[asked.within.load(vector) - 1] for vector in vectors])

    return Networks()


def _different(problem: Problem, seen: set[Vector]) -> Any:
    """Return what takes out of a population what is in another one, or was seen before."""
    from pymoo.core.duplicate import DuplicateElimination

    class Different(DuplicateElimination):  # type: ignore[misc]
        """By the networks' vectors."""

        def _do(self, pop: Any, other: Any, is_duplicate: Any) -> Any:
            known = set(seen) if other is None else {_vector_of(problem, one.X) for one in other}
            for i, one in enumerate(pop):
                vector = _vector_of(problem, one.X)
                is_duplicate[i] = vector in known
                if other is None:
                    known.add(vector)
            return is_duplicate

    return Different()

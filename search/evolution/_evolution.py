"""The same space searched by evolution: shared weights judge networks, pymoo breeds them under the budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lut import Network, UsageError
from lut.errors import TargetUnavailableError
from search._data._images import ImageData
from search._problem._cost import NetworkCost, check_budget, derive
from search.htas._gradient import found_network
from search.htas._settings import SearchProgress, SearchResult, SearchSettings
from search.htas._shared_weights import SharedWeights, run_digest, run_epochs, uniform_epoch

__all__ = ["EvolutionSettings", "check_pymoo", "search_evolution"]


# Each network of a population is derived one by one before it begins.
MOST_BRED = 10_000


class EvolutionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How networks are bred, by pymoo's genetic algorithm: ``population`` networks, so many ``generations`` of them.

    Raises:
        UsageError: fewer than 2 networks, no generation, or more than can be held.
    """

    population: int = 24
    generations: int = 10

    def __post_init__(self) -> None:
        if self.population < 2 or self.generations < 1:
            raise UsageError(
                f"evolution: at least 2 networks and 1 generation, got {self.population} and {self.generations}"
            )
        if self.population > MOST_BRED or self.generations > MOST_BRED:
            raise UsageError(
                f"evolution: at most {MOST_BRED} networks and generations, got {self.population} and {self.generations}"
            )


def search_evolution(
    cost: NetworkCost,
    data: ImageData,
    settings: SearchSettings,
    evolution: EvolutionSettings,
    *,
    seed: int,
    budget_ms: float,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[SearchProgress], None] = lambda _: None,
    bred: Callable[[int, int, float], None] = lambda *_: None,
) -> SearchResult:
    """Search widths and depths by evolution.

    Shared weights are trained on networks drawn uniformly, one a step. Then networks are bred for the accuracy that
    they have with these weights and norm statistics of their own, on the validation half, under the budget as a
    constraint.

    Args:
        cost: of the space's networks.
        data: as for :func:`search_htas`.
        settings: its recipe is that of the shared weights; what is about gradients has no part here.
        evolution: how networks are bred.
        seed: of everything.
        budget_ms: a limit on the result's latency (its bound).
        device: PyTorch's name of where to train.
        checkpoint: of the shared weights' training.
        progress: told where that stands.
        bred: told the generation, of how many, and the best accuracy within the budget; generation 0: breeding begins.

    Raises:
        BudgetError: no network is within the budget.
        TargetUnavailableError: pymoo is not installed.
        SearchError: the loss became NaN or infinite.
    """
    check_pymoo()
    fastest = check_budget(cost, budget_ms)
    shared = SharedWeights(cost, data, settings, seed=seed, device=device)
    run = run_digest(cost, data, settings, seed, None, "evolution")
    history, _ = run_epochs(shared, partial(uniform_epoch, shared), checkpoint=checkpoint, run=run, progress=progress)
    began = time.monotonic()
    judged: dict[tuple[int, ...], float] = {}
    # Vectors that differ in blocks which are not there are one network.
    known: dict[Network, float] = {}
    bred(0, evolution.generations, 0.0)

    def accuracy(vector: tuple[int, ...]) -> float:
        network = cost.space.decode(vector)
        if network not in known:
            known[network] = shared.accuracy(vector)
        judged[vector] = known[network]
        return judged[vector]

    rng = np.random.default_rng(seed)
    first = [fastest]
    while len(first) < evolution.population:
        # The network nearest to random tastes that the budget allows: spread over it, and none beyond.
        tastes = [rng.dirichlet(np.ones(len(decision.options))) for decision in cost.space.choices]
        first.append(derive(cost, tastes, budget_ms))
    _breed(cost, np.array(first), accuracy, budget_ms, evolution, seed=seed, bred=bred)
    within = [vector for vector in judged if cost.bound_ms(vector) <= budget_ms]
    best = max(within, key=lambda vector: (judged[vector], -cost.bound_ms(vector)))
    return SearchResult(
        vector=best,
        network=found_network(cost, best),
        prediction=cost.predict(best),
        history=tuple(history),
        from_epoch=len(history),
        seconds=sum(done.seconds for done in history) + time.monotonic() - began,
        evaluated=len(known),
    )


def check_pymoo() -> None:
    """Raise unless pymoo is installed."""
    if find_spec("pymoo") is None:
        raise TargetUnavailableError("an evolution needs pymoo: pip install -e '.[search]'")


def _breed(
    cost: NetworkCost,
    first: NDArray[np.int64],
    accuracy: Callable[[tuple[int, ...]], float],
    budget_ms: float,
    evolution: EvolutionSettings,
    *,
    seed: int,
    bred: Callable[[int, int, float], None],
) -> None:
    """Run pymoo's genetic algorithm from a first population of vectors."""
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.optimize import minimize

    sizes = np.array([len(decision.options) for decision in cost.space.choices])
    best = [0.0]

    class Networks(Problem):  # type: ignore[misc]
        """Vectors of option indices; the objective is the error, the constraint the bound over the budget."""

        def __init__(self) -> None:
            super().__init__(n_var=len(sizes), n_obj=1, n_ieq_constr=1, xl=0, xu=sizes - 1, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
            rows = [tuple(int(v) for v in row) for row in x]
            over = np.array([cost.bound_ms(row) / budget_ms - 1 for row in rows])
            # A network beyond the budget is not worth an evaluation: its error does not count.
            right = np.array([accuracy(row) if o <= 0 else 0.0 for row, o in zip(rows, over, strict=True)])
            best[0] = max(best[0], float(right.max()))
            out["F"], out["G"] = 1 - right[:, None], over[:, None]

    def tell(algorithm: Any) -> None:
        bred(int(algorithm.n_iter), evolution.generations, best[0])

    algorithm = GA(
        pop_size=evolution.population,
        sampling=first,
        crossover=UX(prob=0.9),
        mutation=PM(prob=1.0, prob_var=1 / len(sizes), eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
        repair=RoundingRepair(),
    )
    minimize(Networks(), algorithm, ("n_gen", evolution.generations), seed=seed, callback=tell, verbose=False)

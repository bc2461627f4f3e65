"""The same space searched by evolution, by local search or at random: shared weights judge the networks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

from lut import Network
from search._accuracy._evaluator import AccuracyCache, Evaluator
from search._accuracy._finalists import choose_finalist, fresh_seed, fresh_values
from search._accuracy._open import space_text
from search._data._images import ImageData
from search._problem._problem import Problem
from search._runs._found import Candidate, Evaluated
from search.evolution._asked import Asked, OnGeneration, Vector, nobody
from search.evolution._evolution import check_pymoo
from search.evolution._search import run_strategy
from search.evolution._settings import EvolutionSettings
from search.htas._charge import Charge
from search.htas._gradient import found_network, predicted
from search.htas._settings import SearchProgress, SearchResult, SearchSettings
from search.htas._shared_weights import SharedWeights, run_digest, run_epochs, uniform_epoch

__all__ = ["check_pymoo", "judged_again", "search_evolution"]


def search_evolution(
    charge: Charge,
    data: ImageData,
    settings: SearchSettings,
    evolution: EvolutionSettings,
    *,
    seed: int,
    device: str = "cpu",
    checkpoint: Path | None = None,
    cache: Path | None = None,
    progress: Callable[[SearchProgress], None] = lambda _: None,
    on_generation: OnGeneration = nobody,
) -> SearchResult:
    """Search widths and depths by evolution, by local search, or at random.

    Shared weights are trained on networks drawn uniformly, one a step. Then networks are sought for the accuracy that
    they have with these weights and norm statistics of their own, on the validation half. The best few are judged once
    more, with other statistics and on other images of that half, and the best of these values decides.

    Args:
        charge: its problem has at least one budget; what is charged for is only told, epoch by epoch.
        data: as for :func:`search_htas`.
        settings: its recipe is that of the shared weights; what is about gradients has no part here.
        evolution: the strategy, and how long it searches.
        seed: of everything.
        device: PyTorch's name of where to train.
        checkpoint: of the shared weights' training.
        cache: a file that keeps each network's accuracy at once: after a kill the same call, which finds the trained
            weights in ``checkpoint``, goes on from there to the same end. Other budgets find what is known there, too.
        progress: told where the training stands.
        on_generation: see :func:`search.evolution.search`; generation 0: the weights are trained.

    Raises:
        UsageError: no budget.
        BudgetError: no network is within the budgets.
        TargetUnavailableError: pymoo is not installed.
        SearchError: the loss became NaN or infinite.
        CheckpointError: the checkpoint is another run's, or ``cache`` holds accuracies by other weights.
    """
    problem = charge.problem
    problem.check_budgets("an evolution")
    if evolution.strategy == "evolution":
        check_pymoo()
    shared = SharedWeights(charge, data, settings, seed=seed, device=device)
    # Neither the weights nor what they make of a network depend on budgets: other budgets go on from the same files.
    run = run_digest(charge, data, settings, seed, "evolution", budgeted=False)
    history, _ = run_epochs(shared, partial(uniform_epoch, shared), checkpoint=checkpoint, run=run, progress=progress)
    began = time.monotonic()
    on_generation(0, evolution.expected_rounds, 0.0)
    judge = _Judge(problem, shared)
    with contextlib.ExitStack() as stack:
        kept = None
        if cache is not None:
            kept = stack.enter_context(
                AccuracyCache.open(cache, space=space_text(problem.space), function=judge.digest(run))
            )
        evaluator = Evaluator(judge, cache=kept)

        def evaluate(vectors: Sequence[Vector]) -> list[float]:
            return evaluator(judge.networks(vectors))

        asked = run_strategy(problem, evaluate, evolution, seed=seed, on_generation=on_generation)
        winner, optimism = _judged_again(judge, asked, evolution, seed, kept)
    return SearchResult(
        vector=winner.vector,
        network=found_network(problem, winner.vector),
        prediction=predicted(problem, winner.vector),
        history=tuple(history),
        from_epoch=len(history),
        seconds=sum(done.seconds for done in history) + time.monotonic() - began,
        evaluated=asked.evaluated,
        values=dict(asked.values),
        optimism=optimism,
    )


def judged_again(
    charge: Charge,
    data: ImageData,
    settings: SearchSettings,
    vectors: Sequence[Sequence[int]],
    *,
    seed: int,
    device: str,
    checkpoint: Path,
) -> list[float]:
    """Return networks' accuracies with the trained shared weights, other statistics and other validation images.

    Args:
        charge: as for :func:`search_evolution`, whose ``checkpoint`` holds the weights.
        data: likewise.
        settings: likewise.
        seed: likewise.
        device: likewise.
        vectors: of the networks.
        checkpoint: of a training that is done.
    """
    shared = SharedWeights(charge, data, settings, seed=seed, device=device)
    run = run_digest(charge, data, settings, seed, "evolution", budgeted=False)
    run_epochs(shared, partial(uniform_epoch, shared), checkpoint=checkpoint, run=run, progress=lambda _: None)
    return [shared.accuracy(vector, fresh_seed(seed)) for vector in vectors]


def _judged_again(
    judge: _Judge, asked: Asked, evolution: EvolutionSettings, seed: int, cache: AccuracyCache | None
) -> tuple[Candidate, float | None]:
    finalists = Evaluated(asked.values).candidates(judge.problem, max(evolution.finalists, 1))
    if not evolution.finalists:
        return finalists[0], None
    networks = judge.networks([finalist.vector for finalist in finalists])
    fresh = fresh_values(judge, networks, fresh_seed(seed), cache=cache)
    assert fresh is not None
    index, optimism = choose_finalist([finalist.value for finalist in finalists], fresh)
    return Candidate(finalists[index].vector, fresh[index]), optimism


class _Judge:
    """Shared weights as an accuracy of networks, which they know by their vectors."""

    def __init__(
        self,
        problem: Problem,
        shared: SharedWeights,
        seed: int | None = None,
        vectors: dict[Network, Vector] | None = None,
    ) -> None:
        self.problem, self.shared, self.seed = problem, shared, seed
        self.vectors = {} if vectors is None else vectors

    def networks(self, vectors: Sequence[Vector]) -> list[Network]:
        """Return vectors' networks, which may then be judged."""
        found = [self.problem.network(vector) for vector in vectors]
        self.vectors.update(zip(found, vectors, strict=True))
        return found

    def __call__(self, network: Network) -> float:
        return self.shared.accuracy(self.vectors[network], self.seed)

    def reseeded(self, seed: int) -> _Judge:
        return _Judge(self.problem, self.shared, seed, self.vectors)

    def digest(self, run: str) -> str:
        """Return a digest of what accuracies depend on: the run, and what the weights came to."""
        found = sha256(run.encode())
        for name, value in sorted(self.shared.net.state_dict().items()):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

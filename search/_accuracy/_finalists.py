"""The best of many evaluations is partly the luckiest: finalists are evaluated again with fresh seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lut import Network, UsageError
from search._accuracy._evaluator import AccuracyCache, EvaluationProgress, Evaluator, network_key

__all__ = ["Finalist", "Reseedable", "choose_finalist", "fresh_seed", "fresh_values", "optimism_text"]


@runtime_checkable
class Reseedable(Protocol):
    """An accuracy that depends on a seed."""

    def reseeded(self, seed: int) -> Any:
        """Return the same accuracy with another seed."""
        ...


class Finalist(NamedTuple):
    """Which of several finalists is chosen.

    Args:
        number: of the one whose fresh value is best.
        optimism: the value that made it a finalist, less its fresh one: by how much the first one flattered it.
    """

    number: int
    optimism: float


def fresh_seed(seed: int) -> int:
    """Return a seed for fresh evaluations that no search is given by hand, from 0 below 2³²."""
    return int.from_bytes(sha256(f"{seed} finalists".encode()).digest()[:4], "little")


def fresh_values(
    accuracy: Any,
    networks: Sequence[Network],
    seed: int,
    *,
    cache: AccuracyCache | None = None,
    at_once: int = 1,
    progress: Callable[[EvaluationProgress], None] = lambda _: None,
    timeout_s: float | None = None,
) -> list[float] | None:
    """Return networks' accuracies by another seed, in the order given; ``None`` where the accuracy has no seed.

    Args:
        accuracy: by which they were selected; its ``reseeded`` gives the other one, whose processes end here.
        networks: the finalists.
        seed: another one than the accuracy's.
        cache: keeps these values too, each under its network and the seed.
        at_once: see :class:`Evaluator`, as ``progress`` and ``timeout_s``.
        progress: told where they stand.
        timeout_s: of a plain function.

    Raises:
        SearchError: one cannot be evaluated.
    """
    if not isinstance(accuracy, Reseedable):
        return None
    fresh = accuracy.reseeded(seed)
    evaluate = Evaluator(
        fresh,
        cache=cache,
        at_once=at_once,
        progress=progress,
        timeout_s=timeout_s,
        key=lambda network: f"{network_key(network)} seed {seed}",
    )
    try:
        return evaluate(networks)
    finally:
        if (close := getattr(fresh, "close", None)) is not None:
            close()


def choose_finalist(candidates: Sequence[float], fresh: Sequence[float]) -> Finalist:
    """Return the finalist with the best fresh value; of equals the one that comes first.

    Args:
        candidates: the values that made them finalists.
        fresh: their values by another seed, in the same order.

    Raises:
        UsageError: there is none, or as many values are not there of both.
    """
    if not candidates or len(candidates) != len(fresh):
        raise UsageError(f"finalists have a first and a fresh value each, got {len(candidates)} and {len(fresh)}")
    index = max(range(len(fresh)), key=lambda i: (fresh[i], -i))
    return Finalist(index, candidates[index] - fresh[index])


def optimism_text(selected: float, optimism: float) -> str:
    """Return what is to be said of a network found whose accuracy was evaluated again."""
    fresh = selected - optimism
    more = "more" if optimism > 0 else "less"
    return (
        f"the accuracy that selected the network, {selected:.4g}, is {abs(optimism):.4g} {more} than with a fresh "
        f"seed, {fresh:.4g}: the best of many evaluations is partly luck"
    )

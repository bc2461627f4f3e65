"""Spaces for benchmarks of searches: a stand-in for their accuracies, and their tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lut import LatencyTable, SearchSpace
from profiler import profile


def stand_in(space: SearchSpace, seed: int) -> tuple[list[np.ndarray[Any, Any]], Callable[[Sequence[int]], float]]:
    """Return utilities of each decision's options, which grow by less and less, and the accuracy that they make."""
    rng = np.random.default_rng(seed)
    utilities = []
    for decision in space.choices:
        steps = rng.gamma(1.0, 1.0, len(decision.options)) * np.geomspace(1.0, 0.2, len(decision.options))
        utilities.append(np.cumsum(steps) / len(space.choices))
    largest = sum(float(u[-1]) for u in utilities)

    def accuracy(vector: Sequence[int]) -> float:
        total = sum(float(u[index]) for u, index in zip(utilities, vector, strict=True))
        return float(0.5 + 0.45 * (1 - np.exp(-2 * total / largest)))

    return utilities, accuracy


def table_of(space: SearchSpace, given: Any, name: str) -> LatencyTable:
    """Measure a space's standard table with its audit, or take it from the work folder."""
    path = given.work / f"{name}.json"
    if not path.exists():
        given.work.mkdir(parents=True, exist_ok=True)
        profile(space, target="cpu", batch=4, threads=1, time_budget_s=given.profile_seconds, output=path)
    return LatencyTable.load(path)

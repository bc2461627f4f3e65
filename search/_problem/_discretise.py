"""From probabilities over each decision's options to one network within budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from search._problem._problem import Problem

__all__ = ["cheapest", "discretise", "log_probability"]

# Rounds of a coordinate search; each round changes every decision to its best, and it stops where nothing changes.
MOST_ROUNDS = 50
# Halvings of the interval in which the price of a millisecond is sought.
HALVINGS = 40
# Where the price of a millisecond is sought: beyond the highest, probability means nothing beside latency.
LOWEST_PRICE, HIGHEST_PRICE, CLOSE_PRICES = 1e-6, 1e6, 1.01
# What counts as more probable, in log, and how many changes are tried at a time.
LEAST_GAIN, MOST_TRIED = 1e-9, 2000
LEAST_PROBABILITY = 1e-30


def discretise(problem: Problem, probabilities: Sequence[NDArray[np.float64]]) -> tuple[int, ...]:
    """Return the most probable network that is within the budgets, as far as local search finds it.

    The most probable network itself, if it is within. Otherwise the better, by log-probability, of two that are: the
    one that is left when decisions of the most probable one are given up, those first that lose least for what they
    save; and the best one by log-probability minus price · latency at the price at which it is just within. Then
    decisions are improved, one or two at a time, as long as the budgets hold.

    Args:
        problem: what networks need, and may need.
        probabilities: one array per decision, of shape ``(options,)``.

    Raises:
        BudgetError: no network is within.
        UsageError: there is no budget, or the space does not say which decisions fix its layers.
    """
    logs = [np.log(np.maximum(p, LEAST_PROBABILITY)) for p in probabilities]
    best = np.array([int(p.argmax()) for p in logs])
    if problem.fits(best.tolist()):
        return tuple(best.tolist())
    smallest = np.array(problem.check_budgets())
    found = [smallest, *_given_up(problem, logs, best), *_priced(problem, logs, best)]
    return _improved(problem, logs, max(found, key=lambda vector: _score(logs, vector)))


def log_probability(probabilities: Sequence[NDArray[np.float64]], vector: Sequence[int]) -> float:
    """Return the logarithm of a network's probability."""
    logs = [np.log(np.maximum(p, LEAST_PROBABILITY)) for p in probabilities]
    return _score(logs, np.asarray(vector))


def _neighbours(
    logs: Sequence[NDArray[np.float64]], vector: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return all vectors that differ in one decision, shape ``(n, decisions)``, and their gains in log-probability."""
    rows, gains = [], []
    for d, own in enumerate(logs):
        others = np.delete(np.arange(len(own)), vector[d])
        changed = np.repeat(vector[None], len(others), axis=0)
        changed[:, d] = others
        rows.append(changed)
        gains.append(own[others] - own[vector[d]])
    return np.concatenate(rows), np.concatenate(gains)


def _given_up(
    problem: Problem, logs: Sequence[NDArray[np.float64]], vector: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Yield the network within the budgets that giving up decisions one by one leads to, if it leads to one."""
    vector = vector.copy()
    for _ in range(sum(map(len, logs))):
        load = problem.load(vector.tolist())
        if load <= 1:
            yield vector
            return
        rows, gains = _neighbours(logs, vector)
        now = float(problem.loads(vector)[0])
        saved = now - problem.loads(rows)
        # What must go, by prediction: the interval is about as wide, in log, for neighbours.
        excess = now * (1 - 1 / load)
        useful = np.flatnonzero(saved > 0)
        if not useful.size:
            return
        enough = useful[saved[useful] >= excess]
        if enough.size:
            vector = rows[enough[np.argmax(gains[enough])]]
        else:
            vector = rows[useful[np.argmax(gains[useful] / saved[useful])]]


def _priced(
    problem: Problem, logs: Sequence[NDArray[np.float64]], start: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Yield networks within the budgets that are best at some price of a millisecond."""
    low, high = LOWEST_PRICE, HIGHEST_PRICE
    for _ in range(HALVINGS):
        # Prices of very different sizes are tried, so halve the exponent.
        price = float(np.sqrt(low * high))
        vector = np.array(cheapest(problem, logs, price, start))
        if problem.fits(vector.tolist()):
            high = price
            yield vector
        else:
            low = price
        if high / low < CLOSE_PRICES:
            break


def _score(logs: Sequence[NDArray[np.float64]], vector: NDArray[np.int64]) -> float:
    return float(sum(own[index] for own, index in zip(logs, vector, strict=True)))


def cheapest(
    problem: Problem, logs: Sequence[NDArray[np.float64]], price: float, start: NDArray[np.int64]
) -> tuple[int, ...]:
    """Return the best vector by log-probability − price · load that a coordinate search from ``start`` finds."""
    vector = np.array(start)
    for _ in range(MOST_ROUNDS):
        before = vector.copy()
        for d, own in enumerate(logs):
            rows = np.repeat(vector[None], len(own), axis=0)
            rows[:, d] = np.arange(len(own))
            vector[d] = int(np.argmax(own - price * problem.loads(rows)))
        if (vector == before).all():
            break
    return tuple(vector.tolist())


def _improved(problem: Problem, logs: Sequence[NDArray[np.float64]], vector: NDArray[np.int64]) -> tuple[int, ...]:
    """Return a vector with decisions made more probable, singly or against another's, while the budgets hold."""
    limit = problem.first_limit
    for _ in range(MOST_ROUNDS):
        rows, gains = _neighbours(logs, vector)
        saved = float(problem.loads(vector)[0]) - problem.loads(rows)
        better = np.flatnonzero(gains > LEAST_GAIN)
        worse = np.flatnonzero((gains <= 0) & (saved > 0))
        # One that gains alone, or with one that pays for it, of another decision.
        gained = gains[better][:, None] + np.append(0.0, gains[worse])[None]
        where = (rows != vector).argmax(axis=1)
        gained[:, 1:][where[better][:, None] == where[worse][None]] = -np.inf
        order = np.argsort(-gained, axis=None)[:MOST_TRIED]
        for i, j in zip(*np.unravel_index(order[gained.flat[order] > LEAST_GAIN], gained.shape), strict=True):
            tried = rows[better[i]]
            if j:
                other = rows[worse[j - 1]]
                tried = np.where(other != vector, other, tried)
            # What the arrays say costs nothing; the bound is asked of those that can be within.
            if float(problem.loads(tried)[0]) <= limit and problem.fits(tried.tolist()):
                vector = tried
                break
        else:
            break
    return tuple(vector.tolist())

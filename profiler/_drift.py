"""What the machine does to all layers: estimated from the visits themselves, and taken out.

log(ms) of a visit = level of its layer + common drift + Σ response of its layer · state of the machine + noise

The *common drift* is a running median over the visits just before and after, those of the same layer left out; levels
and drift are fitted in turns: Tukey's median polish, with a moving window in the place of the rows.

The *states* are what is left. A machine that shares its cores with others does not slow all work alike: a convolution
that fills the vector units loses less than one that is all overhead. One or two factors with a slow course in time, to
each of which every layer responds in its own measure, take that out (factor analysis by alternating least squares;
responses are shrunk by empirical Bayes, so that a layer with few visits is believed little). A factor is added only
while a layer's neighbouring visits resemble each other. On one 2-core virtual machine this took the autocorrelation of
a layer's visits from 0.49 to 0.09 and the spread of its median between processes from 4.2 % to 1.2 %. Part of the
latter is no gain: a process is as slow as a state, and some of its own luck is fitted as one.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from lut._statistics import trimmed_mean, trimmed_variance

__all__ = ["Drift", "grouped_median", "pooled_autocorrelation", "remove_drift"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

POLISH_ROUNDS = 6
FACTOR_ROUNDS = 12
MOST_FACTORS = 3
# Walks that tell how far each may be off; what one may be off by, where there are fewer.
LEAST_WALKS, UNKNOWN_WALK = 4, 0.1
# Before and after a walk, so many times the window is looked at.
WALK_REACH = 3
# A factor is worth its parameters only while neighbouring visits still resemble each other by more than this.
FACTOR_NEEDED = 0.05
# Visits on either side from which a state is taken, and per chunk in which it is first guessed.
STATE_WINDOW = 40
CHUNK_VISITS = 100
# Below these, there is not enough to tell a state from noise.
LEAST_GROUPS, LEAST_VISITS_PER_GROUP, LEAST_CHUNKS = 20, 4, 6
# Residuals beyond this many standard deviations count as that many: a spike is no state.
CLIP = 2.5
MAD_TO_SIGMA = 1.4826


class Drift(NamedTuple):
    """What was found, all in log(ms).

    ``common`` is the drift that all layers share and ``total`` what is to be taken out of each visit, shape ``(n,)``;
    ``levels`` the layers' medians after that, shape ``(L,)``; ``factors`` how many states were fitted; ``walk_error``
    the standard error of how the levels of visits in walks stand to the others.
    """

    common: Floats
    total: Floats
    levels: Floats
    factors: int
    walk_error: float


def remove_drift(logs: Floats, groups: Ints, process: Ints, *, window: int, walks: Ints | None = None) -> Drift:
    """Fit levels, common drift and states.

    Args:
        logs: log(ms) of the visits in time order, shape ``(n,)``.
        groups: each visit's layer as 0 … L−1, every number present, shape ``(n,)``.
        process: each visit's process, not decreasing, shape ``(n,)``; windows do not reach across processes.
        window: visits before and after, together, that a visit's common drift is taken from.
        walks: to which walk along a network a visit belongs, not decreasing, −1 for none, shape ``(n,)``. Its visits
            share one drift; how the levels of such visits stand to the others', the visits before and after tell, in
            the mean over all walks.
    """
    n_groups = int(groups.max()) + 1
    neighbours = _neighbours(groups, process, max(1, window // 2))
    levels = grouped_median(logs, groups, n_groups)
    common = np.zeros_like(logs)
    around = None if walks is None or not np.any(walks >= 0) else _Walks(walks, process, WALK_REACH * window)
    for _ in range(POLISH_ROUNDS):
        residuals = logs - levels[groups]
        common = _row_medians(np.append(residuals, np.inf)[neighbours])
        if around is not None:
            common[around.visits] = around.drift(residuals)
        common -= np.median(common)
        levels = grouped_median(logs - common, groups, n_groups)

    states = np.zeros_like(logs)
    factors = 0
    enough = (
        n_groups >= LEAST_GROUPS
        and len(logs) >= LEAST_VISITS_PER_GROUP * n_groups
        and len(logs) >= LEAST_CHUNKS * CHUNK_VISITS
    )
    while enough and factors < MOST_FACTORS:
        residuals = logs - common - states - levels[groups]
        if pooled_autocorrelation(residuals, groups) <= FACTOR_NEEDED:
            break
        found = _factor(residuals, groups, process, n_groups)
        if found is None:
            break
        states = states + found
        levels = grouped_median(logs - common - states, groups, n_groups)
        factors += 1
    return Drift(common, common + states, levels, factors, 0.0 if around is None else around.error)


@final
class _Walks:
    """The visits of walks, and those around each."""

    def __init__(self, walks: Ints, process: Ints, reach: int) -> None:
        self.visits = np.flatnonzero(walks >= 0)
        _, self._walk, counts = np.unique(walks[self.visits], return_inverse=True, return_counts=True)
        last = self.visits[np.cumsum(counts) - 1]
        first = last - counts + 1
        steps = np.arange(1, reach + 1)
        n = len(walks)
        positions = np.concatenate([first[:, None] - steps[::-1], last[:, None] + steps], axis=1)
        inside = (positions >= 0) & (positions < n)
        positions = np.where(inside, positions, 0)
        usable = inside & (process[positions] == process[first][:, None]) & (walks[positions] < 0)
        self._around = np.where(usable, positions, n)
        self._has_some = usable.any(axis=1)
        self._count = len(counts)
        self.error = 0.0

    def drift(self, residuals: Floats) -> Floats:
        """Return the drift of each visit of a walk, from what is left of all visits once levels are taken off."""
        own = grouped_median(residuals[self.visits], self._walk, self._count)
        outside = _row_medians(np.append(residuals, np.inf)[self._around])
        gaps = (outside - own)[self._has_some]
        shift = trimmed_mean(gaps.tolist()) if gaps.size else 0.0
        # A single walk does not tell how walks differ.
        known = gaps.size >= LEAST_WALKS
        self.error = sqrt(trimmed_variance(gaps.tolist())[0] / gaps.size) if known else UNKNOWN_WALK
        result: Floats = (own + shift)[self._walk]
        return result


def _neighbours(groups: Ints, process: Ints, half: int) -> Ints:
    """Return, per visit, the positions of its neighbours in time, shape ``(n, 2·half)``; n stands for none.

    A visit's own layer is left out: with few layers it would otherwise be its own drift, and vanish.
    """
    n = len(groups)
    offsets = np.concatenate([np.arange(-half, 0), np.arange(1, half + 1)])
    positions = np.arange(n)[:, None] + offsets
    inside = (positions >= 0) & (positions < n)
    positions = np.where(inside, positions, 0)
    usable = inside & (process[positions] == process[:, None]) & (groups[positions] != groups[:, None])
    return np.where(usable, positions, n)


def _row_medians(values: Floats) -> Floats:
    """Return the median of each row's finite values; 0 where a row has none."""
    ordered = np.sort(values, axis=1)
    counts = np.sum(np.isfinite(ordered), axis=1)
    rows = np.arange(len(ordered))
    low = ordered[rows, np.maximum(counts - 1, 0) // 2]
    high = ordered[rows, np.minimum(counts // 2, ordered.shape[1] - 1)]
    low[counts == 0] = high[counts == 0] = 0.0
    result: Floats = (low + high) / 2
    return result


def grouped_median(values: Floats, groups: Ints, n_groups: int) -> Floats:
    """Return the median of each group's values, shape ``(n_groups,)``; every group has some."""
    order = np.lexsort((values, groups))
    bounds = np.searchsorted(groups[order], np.arange(n_groups + 1))
    counts = np.diff(bounds)
    ordered = values[order]
    result: Floats = (ordered[bounds[:-1] + (counts - 1) // 2] + ordered[bounds[:-1] + counts // 2]) / 2
    return result


def pooled_autocorrelation(noise: Floats, groups: Ints) -> float:
    """Return the lag-1 autocorrelation of visits in time order, all groups together, its bias of −1/n taken off."""
    order = np.argsort(groups, kind="stable")
    grouped, clipped = groups[order], noise[order]
    # A single spike would be most of the variance; winsorised values keep what the bulk of the visits says.
    clipped = np.clip(clipped, *np.quantile(clipped, [0.05, 0.95]))
    n_groups = int(groups.max()) + 1
    counts = np.bincount(grouped, minlength=n_groups)
    centred = clipped - (np.bincount(grouped, clipped, minlength=n_groups) / np.maximum(counts, 1))[grouped]
    same = grouped[1:] == grouped[:-1]
    variance = float(np.mean(centred**2))
    if same.sum() < 5 or variance <= 0:
        return 0.0
    rho = float(np.mean((centred[1:] * centred[:-1])[same])) / variance
    return float(np.clip(rho + 1.0 / float(np.mean(counts[counts > 1])), -1.0, 0.95))


def _factor(residuals: Floats, groups: Ints, process: Ints, n_groups: int) -> Floats | None:
    """Return response · state of the strongest factor in the residuals, shape ``(n,)``; ``None`` if there is none."""
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(residuals)))
    if sigma <= 0:
        return None
    clipped = np.clip(residuals, -CLIP * sigma, CLIP * sigma)
    counts = np.bincount(groups, minlength=n_groups)
    state = _first_guess(clipped, groups, n_groups)
    response = np.zeros(n_groups)
    for _ in range(FACTOR_ROUNDS):
        centred = state - (np.bincount(groups, state, minlength=n_groups) / counts)[groups]
        moved = clipped - (np.bincount(groups, clipped, minlength=n_groups) / counts)[groups]
        products = np.bincount(groups, centred * moved, minlength=n_groups)
        squares = np.bincount(groups, centred**2, minlength=n_groups)
        if squares.sum() <= 0:
            return None
        # Empirical Bayes: the responses' own variance is what theirs exceeds that of pure noise by.
        slopes = products / np.maximum(squares, 1e-12)
        prior = max(float(np.average(slopes**2, weights=squares)) - sigma**2 * n_groups / float(squares.sum()), 1e-9)
        response = products / (squares + sigma**2 / prior)
        response -= response.mean()  # what all share is the common drift's part
        weight = response[groups]
        power = max(float(np.var(state)), 1e-9)
        state = _window_sums(clipped * weight, process) / (_window_sums(weight**2, process) + sigma**2 / power)
        state -= state.mean()
    result: Floats = response[groups] * state
    return result if np.isfinite(result).all() else None


def _first_guess(clipped: Floats, groups: Ints, n_groups: int) -> Floats:
    """Return a first course of the state: the leading singular vector of layers × chunks of time."""
    chunk = np.arange(len(clipped)) // CHUNK_VISITS
    matrix = np.zeros((n_groups, int(chunk[-1]) + 1))
    np.add.at(matrix, (groups, chunk), clipped)
    _, _, right = np.linalg.svd(matrix, full_matrices=False)
    result: Floats = right[0][chunk] * sqrt(matrix.shape[1])
    return result


def _window_sums(values: Floats, process: Ints) -> Floats:
    """Return sums over the visits before and after, within the process, the visit itself left out."""
    n = len(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    starts = np.searchsorted(process, process, side="left")
    ends = np.searchsorted(process, process, side="right")
    low = np.maximum(np.arange(n) - STATE_WINDOW, starts)
    high = np.minimum(np.arange(n) + STATE_WINDOW + 1, ends)
    result: Floats = sums[high] - sums[low] - values
    return result

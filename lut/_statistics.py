"""The statistics that a measurement is made of: medians, and intervals that assume no distribution.

They stand in the lowest floor so that anybody can derive a table's numbers from its raw visits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import comb, log, sqrt
from statistics import NormalDist, fmean, median, pstdev

__all__ = [
    "attained_level",
    "bimodal_split",
    "log_standard_error",
    "median_absolute_deviation",
    "median_interval",
    "median_rank",
    "quantile",
    "trimmed_mean",
    "trimmed_variance",
]

LEAST_FOR_MODES = 8
# The share of values at either end that the middle is taken without.
TRIMMED = 0.2
# Beyond so many values the binomial distribution is the normal one, and its terms are numbers of thousands of digits.
MOST_COUNTED = 4096


@lru_cache(maxsize=4096)
def attained_level(n: int, rank: int) -> float:
    """Return P(x₍ₖ₎ ≤ median ≤ x₍ₙ₊₁₋ₖ₎) for k = ``rank`` of ``n`` independent values: 1 − 2·P(Bin(n, ½) < k)."""
    return 1.0 - 2.0 * float(sum(comb(n, i) for i in range(rank)) / (1 << n))


@lru_cache(maxsize=4096)
def median_rank(n: int, level: float) -> int:
    """Return the largest k whose interval of order statistics holds the median with at least ``level``; 0 if none.

    Source: Hahn & Meeker, Statistical Intervals, section 5.2 (distribution-free interval for a quantile).
    """
    if n > MOST_COUNTED:
        return max(0, int((n - NormalDist().inv_cdf(0.5 + level / 2) * sqrt(n)) / 2))
    rank, below, ways = 0, 1, 1
    while 2 * (rank + 1) <= n and 1.0 - 2.0 * (below / (1 << n)) >= level:
        rank += 1
        ways = ways * (n - rank + 1) // rank
        below += ways
    return rank


def median_interval(
    values: Sequence[float], level: float, *, autocorrelation: float = 0.0
) -> tuple[float, float, float]:
    """Return (low, high, level) of the median of ``values``; the level is lower than asked where n is too small.

    Args:
        values: at least one value, in any order.
        level: the probability asked for, 0.95 say; reachable from n = 6 on.
        autocorrelation: lag-1 autocorrelation ρ of the values in time. Where it is positive, n(1−ρ)/(1+ρ) values
            carry the information of n independent ones, and the interval's ranks are those of that smaller sample.
    """
    ordered = sorted(values)
    n = len(ordered)
    if not n:
        raise ValueError("median_interval needs at least one value")
    rho = min(max(autocorrelation, 0.0), 0.95)
    effective = max(1, int(n * (1 - rho) / (1 + rho)))
    rank = median_rank(effective, level)
    if rank == 0:
        return ordered[0], ordered[-1], max(0.0, min(level, attained_level(effective, 1) if effective > 1 else 0.0))
    rank = max(1, rank * n // effective) if effective < n else rank
    return ordered[rank - 1], ordered[n - rank], level


def trimmed_mean(values: Sequence[float]) -> float:
    """Return the mean without the fifth of the values that are lowest, and the fifth that are highest (rounded down).

    A spike moves it as little as a median; where there are none, it wastes half as much of what was measured.
    """
    ordered = sorted(values)
    cut = int(TRIMMED * len(ordered))
    return fmean(ordered[cut : len(ordered) - cut])


def trimmed_variance(values: Sequence[float]) -> tuple[float, int]:
    """Return n times the squared standard error of the trimmed mean, and its degrees of freedom; 0 of a single value.

    The first is the variance of single values, were they normal. Source: Tukey & McLaughlin, Sankhya A 25 (1963): the
    variance of the values with each end replaced by the last one kept, over the share kept, squared.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n < 2:
        return 0.0, 0
    cut = int(TRIMMED * n)
    kept = ordered[cut : n - cut]
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    middle = fmean(winsorised)
    variance = sum((value - middle) ** 2 for value in winsorised) / (n - 1)
    return variance / (len(kept) / n) ** 2, max(1, len(kept) - 1)


def quantile(values: Sequence[float], q: float) -> float:
    """Return the ``q``-quantile by linear interpolation between order statistics."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def median_absolute_deviation(values: Sequence[float]) -> float:
    """Return the median distance from the median (not scaled to a standard deviation)."""
    middle = median(values)
    return median([abs(value - middle) for value in values])


def log_standard_error(low: float, high: float, level: float) -> float:
    """Return the standard error of log(median) that an interval of ``level`` stands for, were it normal.

    Infinite where the level is 0 or 1, or so close to it that no normal distribution says how wide that is.
    """
    quantile = 0.5 + level / 2
    return log(high / low) / (2 * NormalDist().inv_cdf(quantile)) if 0.5 < quantile < 1 else float("inf")


def bimodal_split(values: Sequence[float]) -> tuple[tuple[float, int], tuple[float, int]] | None:
    """Return the two modes as (mean, count) where eight or more values fall into two groups, else ``None``.

    The values are cut where the groups are tightest (Fisher, J. Am. Stat. Assoc. 53 (1958)), at least a fifth of them
    on either side: one stray value is no mode. Two groups they are where the cut is a gap of over 4 times the median
    one, and their means lie apart by over 3 % of the median and by 5 of their own standard deviations; of few values by
    more, 7 of eight. A normal distribution, cut in two, has 2.7 and a uniform one 3.5.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n < LEAST_FOR_MODES:
        return None
    least = max(2, -(-n // 5))
    sums = list(accumulate(ordered, initial=0.0))
    # The groups are tightest where their means are furthest apart, each weighed by its values.
    cut = max(
        range(least, n - least + 1),
        key=lambda k: k * (n - k) * ((sums[n] - sums[k]) / (n - k) - sums[k] / k) ** 2,
    )
    low, high = ordered[:cut], ordered[cut:]
    apart = fmean(high) - fmean(low)
    gaps = [b - a for a, b in pairwise(ordered)]
    if gaps[cut - 1] <= 4 * median(gaps) or apart <= 0.03 * median(ordered):
        return None
    within = sqrt((len(low) * pstdev(low) ** 2 + len(high) * pstdev(high) ** 2) / n)
    if apart < (5 + 16 / n) * within:
        return None
    return (fmean(low), len(low)), (fmean(high), len(high))

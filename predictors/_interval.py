"""Conformal intervals: how far predictions were off on networks that had no part in them, turned into a promise."""

from __future__ import annotations

from math import ceil, exp
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lut._level import check_level

__all__ = ["Conformal", "around", "fit_conformal", "least_networks"]

Floats = NDArray[np.float64]

# An interval as wide as this says nothing, and a wider one is no number.
LARGEST_LOG = 50.0


class Conformal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Scores of held-out networks: |log(whole / prediction)| in units of the deviation that was expected of it.

    Args:
        scores: in increasing order.
    """

    scores: Annotated[tuple[Annotated[float, Meta(ge=0, le=1e9)], ...], Meta(max_length=1 << 16)]

    def bounds(self, ms: float, variance: float, level: float) -> tuple[float, float] | None:
        """Return (low, high) in ms; ``None`` where there are too few networks for the level.

        Args:
            ms: the prediction.
            variance: of log(whole / prediction), as it was expected.
            level: the probability with which the interval holds what the network takes.
        """
        quantile = self.quantile(level)
        if quantile is None:
            return None
        return around(ms, quantile * float(np.sqrt(variance)))

    def quantile(self, level: float) -> float | None:
        """Return the score that another network stays below with probability ``level``.

        Of n + 1 exchangeable scores the new one is equally likely to be of any rank (Vovk et al. 2005; Lei et al.
        2018), so that the score of rank ``level`` · (n + 1) is taken, between two ranks on the line. Taking the rank
        above would make the level a lower bound; this makes it the mean.

        Raises:
            UsageError: the level is not between 0 and 1.
        """
        count = len(self.scores)
        if count < least_networks(level):
            return None
        rank = level * (count + 1) - 1
        return float(np.interp(rank, np.arange(count), self.scores))


def around(ms: float, half: float) -> tuple[float, float]:
    """Return (low, high) in ms of an interval around ``ms`` whose logarithm reaches ``half`` either way."""
    reach = exp(min(half, LARGEST_LOG))
    return ms / reach, ms * reach


def least_networks(level: float) -> int:
    """Return how many networks an interval of a level needs at the least: with fewer, no score is large enough.

    Raises:
        UsageError: the level is not between 0 and 1.
    """
    check_level(level)
    return max(1, ceil(level / (1 - level) - 1e-9))


def fit_conformal(errors: Floats, variances: Floats) -> Conformal:
    """Return the scores of held-out networks.

    Args:
        errors: log(whole / prediction), shape ``(n,)``.
        variances: that were expected of them, shape ``(n,)``.
    """
    scores = np.sort(np.abs(errors) / np.sqrt(variances))
    return Conformal(scores=tuple(float(f"{score:.6g}") for score in scores))

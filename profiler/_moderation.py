"""Hundreds of layers share one noise: each one's own few visits say how large it is, and so do all others.

A layer's variance, from a handful of visits, is itself a rough guess; the variances of all layers tell how such guesses
scatter about what they have in common. Moderated by that, a layer's variance is worth many visits more, and its
interval is the narrower: on one machine half as wide as the order statistics of eight visits, at the same coverage.

Source: Smyth, Linear models and empirical Bayes methods for assessing differential expression, Stat. Appl. Genet. Mol.
Biol. 3 (2004), sections 3 and 6.2.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["NOTHING_KNOWN", "Prior", "fit_prior", "half_width", "trigamma_inverse"]

Floats = NDArray[np.float64]

# Below a ten-thousandth of the value no clock here resolves anything.
LEAST_VARIANCE = 1e-8
# Layers of which something in common can be said.
LEAST_LAYERS = 3
NEWTON_STEPS = 50


class Prior(NamedTuple):
    """What all layers say of one: a variance, and how many degrees of freedom that is worth; 0 of too few layers."""

    variance: float
    df: float


NOTHING_KNOWN = Prior(LEAST_VARIANCE, 0.0)


def fit_prior(variances: Floats, df: Floats) -> Prior:
    """Return the scaled inverse χ² that layers' variances are drawn from.

    Args:
        variances: of single visits, shape ``(L,)``.
        df: their degrees of freedom; those with none say nothing.
    """
    usable = df > 0
    d = df[usable]
    if len(d) < LEAST_LAYERS:
        return NOTHING_KNOWN
    logs = np.log(np.maximum(variances[usable], LEAST_VARIANCE))
    expected = logs - special.digamma(d / 2) + np.log(d / 2)
    mean = float(np.mean(expected))
    excess = float(np.sum((expected - mean) ** 2) / (len(d) - 1) - np.mean(special.polygamma(1, d / 2)))
    if excess <= 0:
        return Prior(float(np.exp(mean)), inf)
    half = trigamma_inverse(excess)
    return Prior(float(np.exp(mean + special.digamma(half) - np.log(half))), 2 * half)


def trigamma_inverse(value: float) -> float:
    """Return x with ψ′(x) = ``value`` > 0, by Newton's method as in Smyth 2004, appendix."""
    if value > 1e7:
        return 1 / sqrt(value)
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(NEWTON_STEPS):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x


def half_width(variance: float, df: float, n: float, prior: Prior, level: float) -> float | None:
    """Return half the moderated t interval of a mean; ``None`` where nothing is known of its noise.

    Args:
        variance: the layer's own, of single visits; of no meaning where ``df`` is 0.
        df: its degrees of freedom.
        n: how many independent visits it is the mean of.
        prior: what all layers say.
        level: of the interval.
    """
    freedom = prior.df + df
    if freedom <= 0:
        return None
    own = max(variance, LEAST_VARIANCE)
    if freedom == inf:
        return float(special.ndtri(0.5 + level / 2)) * sqrt(prior.variance / n)
    moderated = (prior.df * prior.variance + df * own) / freedom
    return float(special.stdtrit(freedom, 0.5 + level / 2)) * sqrt(moderated / n)

"""Latencies of layers that no table holds: physics first, then what is left of it, by a Gaussian process.

log ms(x) = log(Σ w·work(x)) + r(x). The work (multiply-adds on padded channels, bytes, calls) costs non-negative times
w, a roofline in additive form, so that a layer unlike any measured one still gets a sane value; the residual r is a
Gaussian process over the layer's shape, its operators, and how its channels sit on the hardware's tiles, so that
neighbours on the same stair inform each other more than those across one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize, nnls

from lut import Layer
from predictors._features import FEATURES, TILES, WORK, describe
from predictors._folds import folds

__all__ = [
    "CHUNK",
    "PRIOR_COSTS",
    "LayerModel",
    "Numbers",
    "base_ms",
    "cholesky",
    "covariance",
    "fit_layer_model",
    "noise_variance",
    "numbers_of",
    "outside",
    "prior_parameters",
]

Floats = NDArray[np.float64]

# Features of one sort share a length: few parameters for few layers.
_SHAPE = tuple(
    FEATURES.index(name)
    for name in (
        "log2 in_channels",
        "log2 out_channels",
        "log2 height×width out",
    )
)
_OPERATORS = tuple(
    FEATURES.index(name)
    for name in (
        "log2 kernel area",
        "log2 stride",
        "depthwise",
        "operators",
        "inputs",
        "norm",
        "activation",
        "costly activation",
        "sum",
        "pooling",
        "linear",
        "other",
    )
)
_TILES = tuple(
    FEATURES.index(f"{what} padded to {tile}") for what in ("in_channels", "out_channels") for tile in TILES
) + tuple(FEATURES.index(f"{what} mod {tile}") for what in ("in_channels", "out_channels") for tile in TILES)
_SORTS = (_SHAPE, _OPERATORS, _TILES)
# log of: signal variance, lengths of the three sorts, noise variance. Where the search for them begins.
_START = np.log([0.15, 5.0, 2.0, 5.0, 5e-4])
_BOUNDS = [(log(a), log(b)) for a, b in ((1e-4, 4.0), (0.5, 30.0), (0.3, 30.0), (0.2, 30.0), (1e-6, 0.05))]
# The wanted parameters are somewhere around the start, and few layers are not to move them far.
_PRIOR_DEVIATION = 1.0
CHUNK = 4096
# Entries of a covariance that are made at a time: what is in between takes several times their memory.
BLOCK = 1 << 20
# Logarithms of 1e-9 and 1e9 ms.
LEAST_LOG, MOST_LOG = log(1e-9), log(1e9)

# What work costs on the machines that this was developed on, in ms per unit of :data:`WORK`; how they compare matters.
PRIOR_COSTS = np.array(
    [
        {
            "calls": 0.002,
            "operators": 0.004,
            "conv1x1 madds": 0.02,
            "conv madds": 0.02,
            "strided conv madds": 0.03,
            "depthwise madds": 0.1,
            "grouped madds": 0.1,
            "linear madds": 0.05,
            "other madds": 0.05,
            "input elements": 0.3,
            "output elements": 0.3,
            "weights": 0.5,
            "window elements": 0.5,
            "activation elements": 0.1,
            "costly activation elements": 0.5,
            "sum elements": 0.3,
            "other elements": 0.5,
        }[name]
        for name in WORK
    ]
)
# How strongly costs are drawn there, in units of a layer whose whole latency such work would be.
PULL = 0.1
# Layers that the process's parameters are fitted to; it is then conditioned on all.
MOST_FITTED = 250
# What a saved model may hold: its factor takes the cube of the layers in time, and their square in memory.
MOST_LAYERS = 8192
LARGEST_FEATURE = 4096.0
# Parts into which layers are dealt to be predicted by the others.
FOLDS = 5


class Numbers(NamedTuple):
    """Layers in numbers, a row each: see :mod:`predictors._features`."""

    work: Floats
    features: Floats


def numbers_of(layers: Sequence[Layer]) -> Numbers:
    """Return layers in numbers."""
    described = [describe(layer) for layer in layers]
    return Numbers(
        np.array([d.work for d in described], dtype=np.float64),
        np.array([d.features for d in described], dtype=np.float64),
    )


@dataclass(frozen=True)
class LayerModel:
    """A fitted model of layers' latencies. Arrays only, so that it saves as such.

    Args:
        costs: ms per unit of each of :data:`WORK`, shape ``(work,)``.
        rows: scaled features of the layers it was fitted to, shape ``(n, features)``.
        parameters: log of signal variance, three lengths, noise variance.
        weights: of the process's mean, shape ``(n,)``.
        offset: mean of the residual.
        held_out: log(ms / prediction) of each layer by a model that had no part of it, shape ``(n,)``.
        held_out_deviation: what was expected of it, shape ``(n,)``.
        inflation: by what factor the process's own deviations are too small.
    """

    costs: Floats
    rows: Floats
    parameters: Floats
    weights: Floats
    offset: float
    held_out: Floats
    held_out_deviation: Floats
    inflation: float

    def predict(self, numbers: Numbers) -> tuple[Floats, Floats]:
        """Return latencies in ms, and the standard deviations of their logarithms; both of shape ``(n,)``."""
        logs, deviations = [], []
        factor = self._factor
        for start in range(0, len(numbers.work), CHUNK):
            work, features = numbers.work[start : start + CHUNK], numbers.features[start : start + CHUNK]
            kernel = covariance(features, self.rows, self.parameters)
            logs.append(np.log(base_ms(work, self.costs)) + self.offset + kernel @ self.weights)
            explained = solve_triangular(factor, kernel.T, lower=True)
            variance = np.exp(self.parameters[0]) - (explained**2).sum(axis=0)
            deviations.append(self.inflation * np.sqrt(np.maximum(variance, 0.0) + np.exp(self.parameters[-1])))
        if not logs:
            return np.empty(0), np.empty(0)
        # Far outside the process soon leaves what a latency can be: a table's bounds.
        return np.exp(np.clip(np.concatenate(logs), LEAST_LOG, MOST_LOG)), np.concatenate(deviations)

    def error_covariance(self, first: Floats, second: Floats) -> Floats:
        """Return the covariance of the errors of two sets of predictions, by features, shape ``(n, m)``.

        As the process expects it: ``inflation`` is not in it. Networks say by themselves how far layers are off, and
        with so much wider a prior the correction follows their noise (up to one point more of error with a tenth of the
        layers measured).
        """
        known = [
            solve_triangular(self._factor, covariance(self.rows, side, self.parameters), lower=True)
            for side in (first, second)
        ]
        left = covariance(first, second, self.parameters) - known[0].T @ known[1]
        return np.asarray(left)

    @cached_property
    def _factor(self) -> Floats:
        """The lower triangle of the measured layers' covariance."""
        matrix = covariance(self.rows, self.rows, self.parameters)
        matrix[np.diag_indices(len(matrix))] += noise_variance(self.parameters)
        return cholesky(matrix)

    def problem(self) -> str | None:
        """Return what is wrong with arrays that a file holds; ``None`` where every prediction is a latency.

        That the covariance has a factor is tried, since no bound on its entries promises it.
        """
        count = len(self.weights)
        for name, shape in (
            ("costs", (len(WORK),)),
            ("rows", (count, len(FEATURES))),
            ("parameters", (len(_START),)),
            ("weights", (count,)),
            ("held_out", (count,)),
            ("held_out_deviation", (count,)),
        ):
            if getattr(self, name).shape != shape:
                return f"model.{name} has the shape {getattr(self, name).shape}, not {shape}"
        if not 1 <= count <= MOST_LAYERS:
            return f"model.weights is of {count} layers; between 1 and {MOST_LAYERS} are possible"
        low, high = np.array(_BOUNDS).T
        slack = 1e-6
        bounds = {
            "costs": (0.0, 1e15),
            "rows": (-LARGEST_FEATURE, LARGEST_FEATURE),
            "parameters": (low - slack, high + slack),
            "weights": (-1e12, 1e12),
            "held_out": (-100.0, 100.0),
            "held_out_deviation": (1e-6, 1e9),
        }
        for name, (least, most) in bounds.items():
            if (what := outside(getattr(self, name), least, most)) is not None:
                return f"model.{name}{what}"
        try:
            complete = bool(np.isfinite(self._factor).all())
        except np.linalg.LinAlgError:
            complete = False
        return None if complete else "model.rows and model.parameters make no covariance"


def outside(values: Floats, low: Floats | float, high: Floats | float) -> str | None:
    """Return which of an array's values is the first beyond its bounds, ``[3] is 1e+308, …``; ``None``: none is."""
    found = np.argwhere(~((values >= low) & (values <= high)))
    if not len(found):
        return None
    at = tuple(found[0].tolist())
    bounds = (np.broadcast_to(bound, values.shape)[at] for bound in (low, high))
    return f"{list(at)} is {values[at]:g}, and must be within {' … '.join(f'{bound:g}' for bound in bounds)}"


def prior_parameters() -> Floats:
    """Return the process's parameters before anything is measured."""
    return _START.copy()


def noise_variance(parameters: Floats) -> float:
    """Return the variance of log(ms) that a measurement does not tell."""
    return float(np.exp(parameters[-1]))


def covariance(first: Floats, second: Floats, parameters: Floats) -> Floats:
    """Return the process's covariance between layers by their features, shape ``(n, m)``."""
    rows = max(1, BLOCK // max(1, len(second)))
    if len(first) <= rows:
        return _kernel([_distances(first, second, sort) for sort in _SORTS], parameters)
    found = np.empty((len(first), len(second)))
    for start in range(0, len(first), rows):
        part = first[start : start + rows]
        found[start : start + rows] = _kernel([_distances(part, second, sort) for sort in _SORTS], parameters)
    return found


def base_ms(work: Floats, costs: Floats) -> Floats:
    """Return what work costs, in ms, shape ``(n,)``."""
    return np.maximum(work @ costs, 1e-9)


def _distances(first: Floats, second: Floats, sort: Sequence[int]) -> Floats:
    a, b = first[:, sort], second[:, sort]
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))


def cholesky(matrix: Floats) -> Floats:
    """Return the lower triangle L of L·Lᵀ = matrix."""
    return np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)


def _kernel(distances: Sequence[Floats], parameters: Floats) -> Floats:
    """Return the covariance: Matérn 3/2 of the three sorts' scaled distance, which bends but does not wiggle."""
    lengths = np.exp(parameters[1:4])
    scaled = np.sqrt(sum(d / length**2 for d, length in zip(distances, lengths, strict=True)) + 1e-18)
    root = np.sqrt(3.0) * scaled
    return np.asarray(np.exp(parameters[0]) * (1 + root) * np.exp(-root))


def fit_layer_model(numbers: Numbers, ms: Floats, *, seed: int = 0) -> LayerModel:
    """Fit the model; what it says of itself comes from folds, each predicted by a model that had no part of it.

    Args:
        numbers: the measured layers.
        ms: their latencies, positive, shape ``(n,)``.
        seed: of the folds.
    """
    count = len(ms)
    held_out, deviation = np.zeros(count), np.ones(count)
    for held in folds(np.random.default_rng(seed).permutation(count), FOLDS):
        part = _fitted(Numbers(numbers.work[~held], numbers.features[~held]), ms[~held])
        predicted, deviation[held] = part.predict(Numbers(numbers.work[held], numbers.features[held]))
        held_out[held] = np.log(ms[held] / predicted)
    inflation = float(max(1.0, np.sqrt(np.mean((held_out / deviation) ** 2))))
    return replace(
        _fitted(numbers, ms), held_out=held_out, held_out_deviation=deviation * inflation, inflation=inflation
    )


def _fitted(numbers: Numbers, ms: Floats) -> LayerModel:
    """Return a model that says nothing of its errors yet."""
    costs = _costs(numbers.work, ms)
    rows = numbers.features
    residual = np.log(ms) - np.log(base_ms(numbers.work, costs))
    offset = float(np.mean(residual))
    wanted = residual - offset
    parameters = _parameters(rows, wanted)
    weights = cho_solve(
        cho_factor(covariance(rows, rows, parameters) + noise_variance(parameters) * np.eye(len(ms))), wanted
    )
    none = np.zeros(len(ms))
    return LayerModel(costs, rows, parameters, weights, offset, none, none, 1.0)


def _parameters(rows: Floats, wanted: Floats) -> Floats:
    """Return the process's parameters of largest posterior probability."""
    if len(rows) > MOST_FITTED:
        # Five numbers do not get better by more layers, and each trial costs their cube.
        some = np.random.default_rng(0).permutation(len(rows))[:MOST_FITTED]
        rows, wanted = rows[some], wanted[some]
    distances = [_distances(rows, rows, sort) for sort in _SORTS]
    identity = np.eye(len(rows))

    def misfit(parameters: Floats) -> float:
        try:
            factor = cho_factor(_kernel(distances, parameters) + np.exp(parameters[-1]) * identity)
        except np.linalg.LinAlgError:
            return 1e12
        fit = 0.5 * float(wanted @ cho_solve(factor, wanted)) + float(np.log(np.diag(factor[0])).sum())
        return fit + 0.5 * float((((parameters - _START) / _PRIOR_DEVIATION) ** 2).sum())

    found = minimize(misfit, _START, method="L-BFGS-B", bounds=_BOUNDS, options={"maxiter": 40})
    return np.asarray(found.x, dtype=np.float64)


def _costs(work: Floats, ms: Floats) -> Floats:
    """Return non-negative ms per unit of work, with the least squared relative error.

    They are drawn to what such work costs elsewhere, times one factor for this device: work that no measured layer does
    is not free.
    """
    known = work @ PRIOR_COSTS / ms
    device = float(np.sum(known) / np.sum(known**2))
    prior = device * PRIOR_COSTS
    design = np.vstack([work * prior / ms[:, None], PULL * np.eye(len(prior))])
    solution, _ = nnls(design, np.concatenate([np.ones(len(ms)), np.full(len(prior), PULL)]))
    return np.asarray(solution * prior)

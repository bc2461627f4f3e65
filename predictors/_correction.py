"""What whole networks say of single layers: how far each one's share of a network is off from its latency by itself.

A calibrated sum leaves errors that are the networks' own: log(whole / prediction) ≈ Σ share · δ(layer) + noise, where
the share is the layer's part of the sum. δ is taken as a Gaussian process over layers, so that what is learnt of one
layer holds for those like it, and its mean given the networks corrects every layer, seen or not. It has three sources:

*   what a layer's surroundings do to it, which is alike for layers that are alike (variance ``context``);
*   the layer's own measurement error, which is nobody else's (variance ``own``);
*   for a layer that was predicted, the error of that prediction, which the layer model knows.

Three variances and one length are fitted, by marginal likelihood; everything else is conditioning (Rasmussen & Williams
2006, chapter 2, with sums of function values observed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from predictors._layer_model import (
    CHUNK,
    LARGEST_FEATURE,
    MOST_LAYERS,
    LayerModel,
    cholesky,
    covariance,
    outside,
    prior_parameters,
)

__all__ = ["Correction", "fit_correction"]

Floats = NDArray[np.float64]

# Networks without which layers are not told apart.
LEAST_NETWORKS = 8
# log of the variances: context, own, noise. Where the search for them begins, and how far it is likely to go.
_START = np.log([0.03**2, 0.02**2, 0.01**2])
_BOUNDS = [(np.log(1e-3**2), np.log(0.3**2))] * 3
_PRIOR_DEVIATION = 1.5
# How much longer than between layers' latencies the lengths are over which contexts are alike.
_STRETCHES = (1.0, 2.0, 4.0)
# What a saved correction may hold, far above what is ever fitted. No layer's share of a network is off by more than a
# factor of e⁵⁰; the covariance of the errors of two sets of layers takes this many multiply-adds.
LARGEST_LOG = 50.0
MOST_NETWORKS = 2048
MOST_WORK = 1 << 37
LEAST_DIAGONAL = 1e-6
LARGEST_INVERSE = 1e8


@dataclass(frozen=True)
class Correction:
    """A fitted correction. Arrays only, so that it saves as such.

    Args:
        rows: features of the layers that the networks hold, shape ``(layers, features)``.
        digests: theirs.
        predicted: whether each was predicted, 1.0, or measured, 0.0; shape ``(layers,)``.
        weights: of the process's mean, shape ``(layers,)``.
        shares: of each network, shape ``(networks, layers)``.
        variances: context, own, noise.
        factor: lower triangle of the networks' covariance, shape ``(networks, networks)``.
        stretch: of the lengths.
    """

    rows: Floats
    digests: tuple[str, ...]
    predicted: Floats
    weights: Floats
    shares: Floats
    variances: Floats
    factor: Floats
    stretch: float

    def of(self, features: Floats, digests: tuple[str, ...], predicted: Floats, model: LayerModel) -> Floats:
        """Return δ of layers, shape ``(n,)``: what their contribution is to be multiplied with, as a logarithm."""
        if not self.weights.any():
            return np.zeros(len(features))
        found = [
            self._between(features[at], digests[at.start : at.stop], predicted[at], model) @ self.weights
            for at in (slice(start, start + CHUNK) for start in range(0, len(features), CHUNK))
        ]
        return np.clip(np.concatenate(found), -LARGEST_LOG, LARGEST_LOG)

    def variance(
        self, share: Floats, features: Floats, digests: tuple[str, ...], predicted: Floats, model: LayerModel
    ) -> float:
        """Return the variance of log(whole / prediction) of a network, by the shares of its layers, shape ``(n,)``."""
        side = (features, digests, predicted)
        variance = float(share @ _covariance(side, side, self.variances, self.stretch, model) @ share)
        if len(self.factor):
            told = self.shares @ (self._between(features, digests, predicted, model).T @ share)
            variance -= float((solve_triangular(self.factor, told, lower=True) ** 2).sum())
        return max(variance, 0.0) + float(self.variances[2])

    def problem(self, model: LayerModel) -> str | None:
        """Return what is wrong with arrays that a file holds; ``None`` where every variance and every factor is finite.

        Args:
            model: the layer model beside it, itself without a problem.
        """
        networks, layers = self.shares.shape
        for name, shape in (
            ("rows", (layers, model.rows.shape[1])),
            ("predicted", (layers,)),
            ("weights", (layers,)),
            ("variances", (len(_START),)),
            ("factor", (networks, networks)),
        ):
            if getattr(self, name).shape != shape:
                return f"correction.{name} has the shape {getattr(self, name).shape}, not {shape}"
        if len(self.digests) != layers:
            return f"correction.rows is of {layers} layers, and {len(self.digests)} digests are given"
        if layers > MOST_LAYERS or networks > MOST_NETWORKS or layers * len(model.rows) ** 2 > MOST_WORK:
            return f"correction.shares is of {networks} networks and {layers} layers, more than are possible"
        for name, least, most in (
            ("rows", -LARGEST_FEATURE, LARGEST_FEATURE),
            ("predicted", 0.0, 1.0),
            ("weights", -1e9, 1e9),
            ("shares", 0.0, 1.0 + 1e-6),
            ("variances", 0.0, 1e4),
            ("factor", -1e6, 1e6),
        ):
            if (what := outside(getattr(self, name), least, most)) is not None:
                return f"correction.{name}{what}"
        if (what := outside(np.diag(self.factor), LEAST_DIAGONAL, np.inf)) is not None:
            return f"correction.factor's diagonal{what}"
        # A triangle of moderate entries can still have an inverse beyond all numbers.
        with np.errstate(all="ignore"):
            inverse = solve_triangular(self.factor, np.eye(networks), lower=True) if networks else self.factor
        if not (np.abs(inverse) <= LARGEST_INVERSE).all():
            return "correction.factor is no covariance's: it has no inverse"
        return None

    def _between(self, features: Floats, digests: tuple[str, ...], predicted: Floats, model: LayerModel) -> Floats:
        return _covariance(
            (features, digests, predicted),
            (self.rows, self.digests, self.predicted),
            self.variances,
            self.stretch,
            model,
        )


_Side = tuple[Floats, tuple[str, ...], Floats]


def _context(first: Floats, second: Floats, stretch: float) -> Floats:
    parameters = prior_parameters()
    parameters[0] = 0.0
    parameters[1:4] += np.log(stretch)
    return covariance(first, second, parameters)


def _same(first: tuple[str, ...], second: tuple[str, ...]) -> Floats:
    place = {digest: i for i, digest in enumerate(second)}
    found = np.zeros((len(first), len(second)))
    for i, digest in enumerate(first):
        if digest in place:
            found[i, place[digest]] = 1.0
    return found


def _prediction_error(first: _Side, second: _Side, model: LayerModel) -> Floats:
    """Return the covariance of the layer model's errors; nothing of measured layers."""
    both = first[2][:, None] * second[2][None, :]
    if not both.any():
        return np.zeros_like(both)
    return model.error_covariance(first[0], second[0]) * both


def _covariance(first: _Side, second: _Side, variances: Floats, stretch: float, model: LayerModel) -> Floats:
    context, own, _ = variances
    found = context * _context(first[0], second[0], stretch) + own * _same(first[1], second[1])
    return np.asarray(found + _prediction_error(first, second, model))


def fit_correction(
    shares: Floats,
    errors: Floats,
    features: Floats,
    digests: tuple[str, ...],
    predicted: Floats,
    model: LayerModel,
) -> Correction:
    """Fit the correction; of few networks, their common noise alone.

    Args:
        shares: of layers in networks, shape ``(networks, layers)``.
        errors: log(whole / prediction), shape ``(networks,)``.
        features: of the layers, shape ``(layers, features)``.
        digests: theirs.
        predicted: 1.0 where a layer was predicted, 0.0 where it was measured.
        model: that predicted it.
    """
    count = len(errors)
    side: _Side = (features, digests, predicted)
    own = shares @ shares.T
    fixed = shares @ _prediction_error(side, side, model) @ shares.T
    if count < LEAST_NETWORKS:
        variances = np.array([0.0, 0.0, max(float(np.mean(errors**2)) if count else 0.0, np.exp(_START[2]))])
        factor = cholesky(fixed + variances[2] * np.eye(count))
        return Correction(features, digests, predicted, np.zeros(len(features)), shares, variances, factor, 1.0)
    best: tuple[float, Floats, float, Floats] | None = None
    for stretch in _STRETCHES:
        context = shares @ _context(features, features, stretch) @ shares.T

        def gram(parameters: Floats, context: Floats = context) -> Floats:
            variances = np.exp(parameters)
            return np.asarray(variances[0] * context + variances[1] * own + fixed + variances[2] * np.eye(count))

        def misfit(parameters: Floats, gram: Callable[[Floats], Floats] = gram) -> float:
            factor = cho_factor(gram(parameters))
            fit = 0.5 * float(errors @ cho_solve(factor, errors)) + float(np.log(np.diag(factor[0])).sum())
            return fit + 0.5 * float((((parameters - _START) / _PRIOR_DEVIATION) ** 2).sum())

        found = minimize(misfit, _START, method="L-BFGS-B", bounds=_BOUNDS)
        if best is None or found.fun < best[0]:
            best = (float(found.fun), np.exp(found.x), stretch, gram(found.x))
    assert best is not None
    _, variances, stretch, matrix = best
    weights = shares.T @ np.linalg.solve(matrix, errors)
    return Correction(features, digests, predicted, weights, shares, variances, cholesky(matrix), stretch)

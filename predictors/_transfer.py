"""A new device from a few measurements on it, and from what other devices take for the same items.

Items are layers or whole networks. Their log latency on a new device is taken as a baseline plus a Gaussian process,
whose covariance has a part that the known devices span (as in probabilistic PCA, Tipping & Bishop 1999), a smooth part
over where items lie among the devices, and parts over the items' own features: a multi-task Gaussian process (Bonilla
et al. 2008) with as many tasks as devices. The baseline is the mean over the known devices, or one of them, which the
new device may resemble. How large each part is was learned before anything was measured on the new device: each known
device in turn plays the new one for the others. A new device may be like any of them, so that all baselines and all
settings are kept, and averaged by how well they explain the probes (Hoeting et al. 1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from lut import LatencyTable, Layer
from lut.errors import PredictorError, UsageError
from predictors._features import feature_matrix

__all__ = [
    "DeviceTransfer",
    "LayerTransfer",
    "TransferPrediction",
    "TransferPrior",
    "choose_probes",
    "learn_prior",
    "transfer_tables",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# With two, a level and a slope go through them exactly, and nothing says how far off the rest is.
LEAST_PROBES = 3
# What the parts of the covariance come to by default, in units of log(ms)²: another slope over the mean of the devices,
# another mixture of devices, a smooth function of where an item lies among them, wide and narrow.
OF_DEVICES = (0.05, 0.3, 0.1, 0.01)
# And of the features: linear, smooth, smooth where items are also close among the devices.
OF_FEATURES = (0.02, 0.02, 0.02)
# What neither holds and another measurement of the same item would not repeat: 5 %.
NOISE = 0.003
# The same, for devices that measure and behave as evenly as simulated ones.
QUIET = 0.05
# The new device's level is not known at all: a factor of e³ either way.
LEVEL = 9.0
# Lengths of the smooth parts, in units of the spread of items among the devices, and of features.
WIDE, NARROW, FEATURE_LENGTH = 1.0, 0.3, 1.0
# Directions in which devices differ; those beyond are noise of single devices.
LATENT = 6
# How far learned settings stray from the defaults: one standard deviation of their logarithm.
STRAY = 2.0
VARIANCE_BOUNDS = (1e-6, 50.0)
# A setting is learned from so many items of a known device, of so many known devices at the most.
LEARN_ITEMS, LEARN_DEVICES, LEAST_LEARN_ITEMS = 60, 24, 8
# The likelihood of models counts with one over this as its power: ten probes of a process that is only roughly Gaussian
# do not tell them apart as sharply as it says (Grünwald & van Ommen 2017).
TEMPERATURE = 2.0
# Probes are chosen among so many items, which also stand for the rest.
CANDIDATES = 1500
CHUNK = 1 << 14
TINY = 1e-12


class TransferPrediction(NamedTuple):
    """Latencies on the new device, arrays of one length, in the order of the items.

    ``ms``: the median; ``deviation``: the standard deviation of log(ms) of a measurement, its noise included.
    """

    ms: Floats
    deviation: Floats


class LayerTransfer(NamedTuple):
    """A layer that was not measured on the new device: ``ms``, and the standard deviation of log(ms)."""

    layer: Layer
    ms: float
    deviation: float


@dataclass(frozen=True, eq=False)
class TransferPrior:
    """What devices of this kind are like, from the known ones; see :func:`learn_prior`.

    Args:
        variances: of the covariance's parts and, last, of noise, shape ``(settings, parts + 1)``; a setting is what one
            known device was like as seen from the others; the first two are the defaults.
    """

    variances: Floats


@dataclass(frozen=True, eq=False)
class DeviceTransfer:
    """A new device as a Gaussian process over items, conditioned on its probes. Made by :meth:`fit`. Final.

    Args:
        prediction: of all items.
        weights: what each model counts, shape ``(settings, 1 + devices)``, sum 1: a setting of the prior, around the
            mean of the known devices or around one of them.
    """

    prediction: TransferPrediction
    weights: Floats

    @classmethod
    def fit(
        cls,
        known_ms: ArrayLike,
        probes: ArrayLike,
        probe_ms: ArrayLike,
        *,
        features: ArrayLike | None = None,
        prior: TransferPrior | None = None,
        seed: int = 0,
    ) -> DeviceTransfer:
        """Fit the new device.

        Args:
            known_ms: latencies on the known devices in ms, shape ``(items, devices)``; one device is enough.
            probes: which items were measured on the new one, shape ``(probes,)``, three or more; see
                :func:`choose_probes`. An item may occur twice.
            probe_ms: what they took there, in ms, shape ``(probes,)``.
            features: numbers that describe the items, shape ``(items, features)``, for what other devices do not show.
            prior: of :func:`learn_prior` for the same known devices and features, where several devices are fitted; by
                default it is learned here.
            seed: of the choice of items that the prior is learned from.

        Raises:
            UsageError: a shape does not fit; a latency is not finite and positive; fewer than three probes, or one
                that is no item's index.
        """
        known = _latencies(known_ms, "known_ms", 2)
        at = _indices(probes, len(known))
        log_ms = np.log(_latencies(probe_ms, "probe_ms", 1))
        if len(log_ms) != len(at):
            raise UsageError(f"probes and probe_ms are of one length, got {len(at)} and {len(log_ms)}")
        if len(at) < LEAST_PROBES:
            raise UsageError(f"a new device needs {LEAST_PROBES} probes or more, got {len(at)}")
        described = _features(features, len(known))
        items = _items(np.log(known), described)
        if prior is None:
            prior = _learn(np.log(known), described, seed)
        if prior.variances.shape[1] != items.parts + 1:
            raise UsageError("the prior was learned with other features: give fit and learn_prior the same")
        prediction, weights = _condition(items, prior.variances, at, log_ms)
        return cls(prediction, weights)

    def predict(self) -> TransferPrediction:
        """Return the latencies of all items; of the probes what the process makes of them, noise taken out."""
        return self.prediction


def choose_probes(known_ms: ArrayLike, count: int, *, seed: int = 0) -> Integers:
    """Return which items to measure on a new device, the most telling first; each is chosen given those before it.

    Each next item is the one whose measurement would lower the variance of all others the most, under the default
    prior (A-optimal, greedily: Cohn et al. 1996). What the new device takes plays no part, so all can be measured in
    one go. Of more than 1,500 items so many are drawn with the seed, and stand for the rest.

    Args:
        known_ms: latencies on the known devices in ms, shape ``(items, devices)``.
        count: how many.
        seed: of the draw.

    Returns:
        Indices, shape ``(count,)``, all different.

    Raises:
        UsageError: a latency is not finite and positive; there are fewer items than ``count``, or it is not positive.
    """
    known = _latencies(known_ms, "known_ms", 2)
    if not 1 <= count <= len(known):
        raise UsageError(f"of {len(known)} items 1 … {len(known)} can be chosen, not {count}")
    items = _items(np.log(known), None)
    generator = np.random.default_rng(seed)
    drawn = np.sort(generator.choice(len(known), min(max(CANDIDATES, count), len(known)), replace=False))
    variances = _defaults(False)[0]
    covariance = _sum(variances, items.parts_between(drawn, drawn))
    chosen: list[int] = []
    for _ in range(count):
        gain = (covariance**2).sum(axis=0) / (np.diag(covariance) + variances[-1])
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        column = covariance[:, best].copy()
        covariance -= np.outer(column, column) / (column[best] + variances[-1])
    return np.asarray(drawn[chosen], dtype=np.int64)


def learn_prior(known_ms: ArrayLike, *, features: ArrayLike | None = None, seed: int = 0) -> TransferPrior:
    """Return what a new device may be like: each known device in turn is explained by the others.

    Args:
        known_ms: latencies on the known devices in ms, shape ``(items, devices)``.
        features: numbers that describe the items, shape ``(items, features)``.
        seed: of the items that are looked at, 60 per device, and of the devices, where there are more than 24.

    Raises:
        UsageError: a shape does not fit; a latency is not finite and positive.
    """
    known = _latencies(known_ms, "known_ms", 2)
    return _learn(np.log(known), _features(features, len(known)), seed)


def transfer_tables(known: Sequence[LatencyTable], new: LatencyTable, *, seed: int = 0) -> dict[Layer, LayerTransfer]:
    """Return what the layers of other devices' tables take on a new device, of which a few were measured there.

    The layers are those that all known tables hold; ``new``'s among them are the probes; the others are returned, in
    the order of the first table. Tables of one kind should be given: a table of another batch or dtype is another
    device to this method, which is fair, but says less.

    Args:
        known: tables of other devices, or of other settings.
        new: the new device's table.
        seed: see :meth:`DeviceTransfer.fit`.

    Raises:
        UsageError: there is no known table.
        PredictorError: the known tables have no layer in common, or fewer than three of those are in ``new``; the
            message says how many, and names some that could be measured.
    """
    if not known:
        raise UsageError("no known tables: a new device is predicted from tables of others")
    layers = [layer for layer in known[0] if all(layer in table for table in known[1:])]
    if not layers:
        raise PredictorError(f"the {len(known)} known tables have no layer in common")
    known_ms = _latencies([[table[layer].median_ms for table in known] for layer in layers], "known tables", 2)
    probes = [i for i, layer in enumerate(layers) if layer in new]
    if len(probes) < LEAST_PROBES:
        held = "; ".join(str(layers[i]) for i in probes) or "none"
        telling = choose_probes(known_ms, min(len(layers), LEAST_PROBES), seed=seed)
        wanted = [i for i in telling if i not in probes][: LEAST_PROBES - len(probes)]
        raise PredictorError(
            f"of the {len(layers)} layers that the known tables have in common the new one holds {len(probes)} "
            f"({held}), and {LEAST_PROBES} are needed. Measure some: " + "; ".join(str(layers[i]) for i in wanted)
        )
    probe_ms = [new[layers[i]].median_ms for i in probes]
    fitted = DeviceTransfer.fit(known_ms, probes, probe_ms, features=feature_matrix(layers), seed=seed)
    measured = set(probes)
    return {
        layer: LayerTransfer(layer, float(ms), float(deviation))
        for i, (layer, ms, deviation) in enumerate(zip(layers, *fitted.predict(), strict=True))
        if i not in measured
    }


@dataclass(frozen=True, eq=False)
class _Items:
    """Items as the covariance sees them, rows of arrays: ``mean`` log latency over the devices (its level removed).

    ``slope``: the same, to unit spread; ``devices``: how each device differs from the mean; ``place``: where the item
    lies among them; ``features``: standardised, or ``None``.
    """

    mean: Floats
    slope: Floats
    devices: Floats
    place: Floats
    features: Floats | None

    @property
    def parts(self) -> int:
        return len(OF_DEVICES) + (0 if self.features is None else len(OF_FEATURES))

    def parts_between(self, a: Integers, b: Integers) -> list[Floats]:
        """Return the covariance's parts, each of shape ``(len(a), len(b))``, before their variances."""
        apart = _squared_distances(self.place[a], self.place[b])
        found: list[Floats] = [
            self.slope[a][:, None] * self.slope[b],
            self.devices[a] @ self.devices[b].T,
            np.exp(-apart / (2 * WIDE**2)),
            np.exp(-apart / (2 * NARROW**2)),
        ]
        if self.features is not None:
            other = _squared_distances(self.features[a], self.features[b])
            found += [
                self.features[a] @ self.features[b].T,
                np.exp(-other / (2 * FEATURE_LENGTH**2)),
                np.exp(-apart / (2 * WIDE**2) - other / FEATURE_LENGTH**2),
            ]
        return found

    def parts_alone(self, a: Integers) -> list[Floats]:
        """Return the diagonals of :meth:`parts_between` of items with themselves, each of shape ``(len(a),)``."""
        ones = np.ones(len(a))
        found: list[Floats] = [self.slope[a] ** 2, (self.devices[a] ** 2).sum(axis=1), ones, ones]
        if self.features is not None:
            found += [(self.features[a] ** 2).sum(axis=1), ones, ones]
        return found


def _items(logs: Floats, features: Floats | None) -> _Items:
    logs = logs - logs.mean(axis=0)
    mean = logs.mean(axis=1)
    devices = logs.shape[1]
    u, s, _ = np.linalg.svd(logs, full_matrices=False)
    place = u[:, :LATENT] * s[:LATENT]
    scale = max(float(np.sqrt((place**2).sum(axis=1).mean())), TINY)
    standardised: Floats | None = None
    if features is not None:
        deviations = features.std(axis=0)
        varied = deviations > TINY * np.maximum(1, np.abs(features).max(axis=0))
        if varied.any():
            standardised = (features - features.mean(axis=0))[:, varied] / deviations[varied] / np.sqrt(varied.sum())
        else:
            standardised = np.zeros((len(features), 1))
    return _Items(
        mean=mean,
        slope=mean / max(2 * float(mean.std()), TINY),
        devices=(logs - mean[:, None]) / np.sqrt(devices),
        place=place / scale,
        features=standardised,
    )


def _defaults(features: bool) -> Floats:
    parts = OF_DEVICES + (OF_FEATURES if features else ())
    usual = np.array([*parts, NOISE])
    return np.stack([usual, QUIET * usual])


def _learn(logs: Floats, features: Floats | None, seed: int) -> TransferPrior:
    generator = np.random.default_rng(seed)
    count, devices = logs.shape
    defaults = _defaults(features is not None)
    found = [defaults]
    if devices > 1 and count >= LEAST_LEARN_ITEMS:
        bounds = [(float(np.log(VARIANCE_BOUNDS[0])), float(np.log(VARIANCE_BOUNDS[1])))] * defaults.shape[1]
        start = np.log(defaults[0])
        for device in np.sort(generator.permutation(devices)[:LEARN_DEVICES]):
            at = np.sort(generator.choice(count, min(LEARN_ITEMS, count), replace=False))
            items = _items(np.delete(logs, device, axis=1), features)
            rest = logs[at, device] - items.mean[at]
            best = minimize(
                _surprise,
                start,
                args=(items.parts_between(at, at), rest - np.median(rest), start),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": 60},
            )
            found.append(np.asarray(np.exp(best.x), dtype=np.float64)[None])
    return TransferPrior(np.vstack(found))


def _surprise(log_variances: Floats, parts: list[Floats], rest: Floats, start: Floats) -> tuple[float, Floats]:
    """Return minus the log posterior density of a setting, and its gradient (Rasmussen & Williams 2006, eq. 5.9)."""
    variances = np.exp(log_variances)
    covariance = _sum(variances, parts)
    covariance[np.diag_indices(len(rest))] += variances[-1]
    factor = cholesky(covariance, lower=True)
    inverse = cho_solve((factor, True), np.eye(len(rest)))
    solved = inverse @ rest
    pull = inverse - np.outer(solved, solved)
    gradient = [v * float((pull * part).sum()) / 2 for v, part in zip(variances[:-1], parts, strict=True)]
    gradient.append(variances[-1] * float(np.trace(pull)) / 2)
    stray = (log_variances - start) / STRAY
    value = rest @ solved / 2 + np.log(np.diag(factor)).sum() + stray @ stray / 2
    return float(value), np.asarray(np.array(gradient) + stray / STRAY)


def _condition(items: _Items, settings: Floats, at: Integers, log_ms: Floats) -> tuple[TransferPrediction, Floats]:
    """Return all items' latencies given the probes, averaged over models, and what each model counts.

    A model is a setting around a baseline: the mean of the known devices, or one of them.
    """
    baselines = np.column_stack([items.mean, items.mean[:, None] + items.devices * np.sqrt(items.devices.shape[1])])
    rest = log_ms[:, None] - baselines[at]
    levels = np.median(rest, axis=0)
    rest = rest - levels
    parts = items.parts_between(at, at)
    count = baselines.shape[1]
    # Half of the belief is the mean's: where the probes do not tell one device from another, none of them leads.
    belief = np.log([0.5, *[0.5 / (count - 1)] * (count - 1)])
    inverses, solutions, likelihoods = [], [], []
    for variances in settings:
        covariance = _sum(variances, parts)
        covariance[np.diag_indices(len(at))] += variances[-1]
        factor = cholesky(covariance, lower=True)
        solved = cho_solve((factor, True), rest)
        inverses.append(np.asarray(solve_triangular(factor, np.eye(len(at)), lower=True), dtype=np.float64))
        solutions.append(solved)
        likelihoods.append(-(rest * solved).sum(axis=0) / 2 - np.log(np.diag(factor)).sum())
    weights = np.array(likelihoods) / TEMPERATURE + belief
    weights = np.exp(weights - weights.max())
    weights /= weights.sum()
    means, deviations = [], []
    for start in range(0, len(items.mean), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(items.mean)))
        across, alone = items.parts_between(rows, at), items.parts_alone(rows)
        around = baselines[rows] + levels
        first, second = np.zeros(len(rows)), np.zeros(len(rows))
        for weight, variances, inverse, solved in zip(weights, settings, inverses, solutions, strict=True):
            covariance = _sum(variances, across)
            mean = around + covariance @ solved
            known = ((covariance @ inverse.T) ** 2).sum(axis=1)
            variance = np.maximum(_sum(variances, alone) - known, 0) + variances[-1]
            first += mean @ weight
            second += mean**2 @ weight + variance * weight.sum()
        means.append(first)
        # That models disagree is part of what is not known.
        deviations.append(np.sqrt(np.maximum(second - first**2, TINY)))
    return TransferPrediction(np.exp(np.concatenate(means)), np.concatenate(deviations)), weights


def _sum(variances: Floats, parts: Sequence[Floats]) -> Floats:
    """Return the covariance that a setting makes of its parts, the level's included, noise not."""
    total = np.full(parts[0].shape, LEVEL)
    for variance, part in zip(variances[:-1], parts, strict=True):
        total += variance * part
    return total


def _squared_distances(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T, 0))


def _latencies(values: ArrayLike, what: str, dimensions: int) -> Floats:
    """Return latencies in ms as an array, checked."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{what}: expected numbers in ms, in a rectangular array") from None
    if found.ndim != dimensions or not found.size:
        expected = "(items, devices)" if dimensions == 2 else "(probes,)"
        raise UsageError(f"{what}: expected the shape {expected}, not empty, got {found.shape}")
    bad = np.argwhere(~(np.isfinite(found) & (found > 0)))
    if len(bad):
        first = tuple(map(int, bad[0]))
        where = f"item {first[0]}, device {first[1]}" if dimensions == 2 else f"probe {first[0]}"
        raise UsageError(f"{what}: latencies are finite and positive, but {where} has {found[first]} ms")
    return found


def _indices(values: ArrayLike, items: int) -> Integers:
    found = np.asarray(values)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise UsageError(f"probes: expected indices of items, of shape (probes,), got {found.dtype} {found.shape}")
    outside = found[(found < 0) | (found >= items)] if found.size else found
    if outside.size:
        raise UsageError(f"probes: {int(outside[0])} is no item's index, there are {items}")
    return found.astype(np.int64)


def _features(values: ArrayLike | None, items: int) -> Floats | None:
    if values is None:
        return None
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError("features: expected numbers, in a rectangular array") from None
    if found.ndim != 2 or len(found) != items or not found.shape[1]:
        raise UsageError(f"features: expected the shape ({items}, features), got {found.shape}")
    if not np.isfinite(found).all():
        raise UsageError("features: expected finite numbers")
    return found

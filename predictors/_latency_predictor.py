"""One service for every latency that a search asks for: measured where there is a measurement, predicted elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from statistics import NormalDist
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from lut import LatencyTable, Layer, Network, SearchSpace, TableError, UsageError
from lut._audit import kendall_tau
from lut._level import check_level
from lut._measured_network import MeasuredNetwork, network_of
from lut._printable import shortened
from lut._records import Device, Setting
from lut._table import refuse_unlike
from lut.errors import PredictorError, UnknownOperatorError
from predictors._calibration import GROUPS, UNCALIBRATED, Calibration, fit_calibration, group_of_kind
from predictors._correction import Correction, fit_correction
from predictors._evidence import audited, deviation_of, distinct, latencies_of, operators_in, source_of
from predictors._features import WORK, Described, describe
from predictors._folds import folds
from predictors._interval import Conformal, around, fit_conformal, least_networks
from predictors._layer_model import MOST_LAYERS, LayerModel, Numbers, fit_layer_model
from predictors._predictions import (
    NO_SUCH_KIND,
    RANGED,
    RANGED_COLUMNS,
    HeldOut,
    KindRange,
    LayerPrediction,
    NetworkPrediction,
    TableSource,
    held_out,
    ranges_of,
)

if TYPE_CHECKING:
    from predictors._compiled import CompiledLatency

__all__ = ["DEFAULT_LEVEL", "LEAST_LAYERS", "LatencyPredictor"]

Floats = NDArray[np.float64]

# A model of fewer layers would say nothing of any other.
LEAST_LAYERS = 3
# What a table may hold.
LEAST_MS, MOST_MS = 1e-9, 1e9
# Layers whose contribution is kept at hand; a search that goes on for ever must not fill the memory.
MOST_KEPT = 1_000_000
DEFAULT_LEVEL = 0.9
# A network is unlike those that were measured where more of it than this is of layers beyond what was measured, or
# where it is by more than this factor shorter or longer.
MOST_OUTSIDE = 0.1
REACH = 1.5
# The largest number of which a normal distribution has a quantile.
BELOW_ONE = 1 - 2.0**-53
# Parts into which networks are dealt to be predicted by the others.
FOLDS = 10
WEIGHTS = WORK.index("weights")


class _Known(NamedTuple):
    """What is kept of a layer that was asked for once."""

    ms: float
    contribution_ms: float
    origin: Literal["measured", "predicted", "outside"]
    deviation: float
    kind: str
    outside: tuple[str, ...]
    features: tuple[float, ...]
    strange: bool


@dataclass(frozen=True, repr=False)
class LatencyPredictor:
    """Latencies of layers and networks on one device, in one setting. Final; made by :meth:`fit` or :meth:`load`.

    Args:
        device: what its tables were measured on.
        setting: how.
        tables: what it was fitted to.
        measured_ms: latencies of measured layers, by digest.
        deviations: standard deviations of the logarithm of another day's measurement of these layers, by digest.
        failures: why layers could not be measured, by digest.
        operators: that measured layers are made of.
        kinds: what was measured of each kind of layer.
        model: for the layers that were not measured.
        calibration: from sums to networks.
        correction: what networks say of single layers.
        conformal: scores of held-out networks.
        held_out_layers: errors on layers by the others.
        held_out_networks: errors on networks by the others.
        seed: of all randomness.
    """

    device: Device
    setting: Setting
    tables: tuple[TableSource, ...]
    measured_ms: Mapping[str, float]
    deviations: Mapping[str, float]
    failures: Mapping[str, str]
    operators: frozenset[str]
    kinds: Mapping[str, KindRange]
    model: LayerModel
    calibration: Calibration
    correction: Correction
    conformal: Conformal
    held_out_layers: HeldOut
    held_out_networks: HeldOut
    seed: int

    def __repr__(self) -> str:
        return f"<LatencyPredictor of {len(self.measured_ms)} layers: {self.device.model}, {self.setting}>"

    def __str__(self) -> str:
        """Return a few lines for people: what it is of, what it was fitted to, and how far off it was on others."""
        layers, networks = self.held_out_layers, self.held_out_networks
        text = f"latency predictor: {self.device.model}, {self.setting}\n  fitted to {len(self.measured_ms)} layers"
        if layers.mape is not None:
            text += f", each predicted by the others within {layers.mape:.1%} on average"
        if networks.mape is not None:
            text += (
                f"\n  calibrated on {networks.count} networks, each predicted by the others within {networks.mape:.1%}"
            )
        else:
            text += "\n  calibrated on no networks: it has no intervals for any"
        return text

    @classmethod
    def fit(
        cls,
        tables: LatencyTable | Iterable[LatencyTable],
        *,
        networks: Iterable[tuple[Network, float]] = (),
        failures: Literal["refuse", "skip"] = "refuse",
        sources: Sequence[str] = (),
        seed: int = 0,
    ) -> LatencyPredictor:
        """Fit a predictor to tables of one device and setting.

        Layers that the tables hold keep their measured latency. A model is fitted to them for all others. Sums are
        calibrated on the networks that the tables were audited with, and on ``networks``.

        Args:
            tables: one or more; a layer of several has the mean, in log, of its latencies.
            networks: further networks that were measured whole on the same device and in the same setting, with their
                latency in ms. Their layers need not be in the tables.
            failures: layers that could not be measured are an error, unless they are to be skipped; a prediction of a
                network that holds one is an error in either case.
            sources: names of the tables, for the record.
            seed: of all randomness.

        Raises:
            TableError: a table is empty or holds fewer than three layers, has failures, or a latency that is no
                positive number.
            UnlikeTablesError: the tables are of unlike devices, settings or reference speeds.
            UnknownOperatorError: one of ``networks`` has an operator that no measured layer has.
        """
        given = _as_tables(tables)
        if not given:
            raise UsageError("a predictor is fitted to at least one table, got none")
        for other in given[1:]:
            refuse_unlike(
                given[0], other, across=(), what="fit a predictor to", advice="A predictor is of one: fit one for each"
            )
        latencies = latencies_of(given, failures)
        deviations = {layer: deviation_of(m) for table in given for layer, m in table.items()}
        origins = tuple(source_of(table, i, sources) for i, table in enumerate(given))
        twice = [origin.name for i, origin in enumerate(origins) if origin.sha256 in {o.sha256 for o in origins[:i]}]
        if twice:
            raise UsageError(f"{twice[0]} is the same table as one before it; give each once")
        failed = {f.layer: f"{f.reason}: {f.message}" for table in given for f in table.failures}
        return cls.from_latencies(
            given[0].device,
            given[0].setting,
            latencies,
            networks=[*audited(given, operators_in(latencies)), *networks],
            deviations=deviations,
            failures=failed,
            tables=origins,
            seed=seed,
        )

    @classmethod
    def from_latencies(
        cls,
        device: Device,
        setting: Setting,
        latencies_ms: Mapping[Layer, float],
        *,
        networks: Iterable[tuple[Network, float]] = (),
        deviations: Mapping[Layer, float] = MappingProxyType({}),
        failures: Mapping[Layer, str] = MappingProxyType({}),
        tables: Sequence[TableSource] = (),
        seed: int = 0,
    ) -> LatencyPredictor:
        """Fit a predictor to latencies that are in no table: see :meth:`fit`.

        Args:
            device: what was measured on.
            setting: how.
            latencies_ms: of layers.
            networks: that were measured whole, with their latency in ms.
            deviations: standard deviations of the logarithms of layers' latencies, where known; 0 elsewhere.
            failures: layers that could not be measured, each with its reason.
            tables: where the latencies come from, for the record.
            seed: of all randomness.

        Raises:
            TableError: fewer than three layers, or a latency that is no positive number.
            UnknownOperatorError: one of ``networks`` has an operator that no measured layer has.
        """
        from threadpoolctl import threadpool_limits

        layers = list(latencies_ms)
        if len(layers) < LEAST_LAYERS:
            raise TableError(
                f"a predictor is fitted to at least {LEAST_LAYERS} different layers, and there "
                f"{'is' if len(layers) == 1 else 'are'} only {len(layers)}: {'; '.join(map(str, layers))}"
            )
        if len(layers) > MOST_LAYERS:
            raise TableError(f"a predictor is fitted to at most {MOST_LAYERS} layers, got {len(layers)}")
        wholes = list(networks)
        named = [(f"{layer} ({layer.digest})", value) for layer, value in latencies_ms.items()]
        for what, value in [*named, *((f"network {network.name!r}", value) for network, value in wholes)]:
            if not (isfinite(value) and LEAST_MS <= value <= MOST_MS):
                raise TableError(f"{what}: a latency is a positive number of ms, at most {MOST_MS:g}, got {value}")
        for network, _ in wholes:
            _check_network(network)
        ms = np.array(list(latencies_ms.values()), dtype=np.float64)
        described = [describe(layer) for layer in layers]
        numbers = Numbers(np.array([d.work for d in described]), np.array([d.features for d in described]))
        # Thousands of small factorisations: threads that wait for each other take longer than one alone.
        with threadpool_limits(1):
            model = fit_layer_model(numbers, ms, seed=seed)
        plain = cls(
            device=device,
            setting=setting,
            tables=tuple(tables),
            measured_ms={layer.digest: float(value) for layer, value in zip(layers, ms, strict=True)},
            deviations={layer.digest: float(deviations.get(layer, 0.0)) for layer in layers},
            failures={layer.digest: reason for layer, reason in failures.items()},
            operators=frozenset().union(*(d.operators for d in described)),
            kinds=ranges_of(described),
            model=model,
            calibration=UNCALIBRATED,
            correction=_no_correction(model),
            conformal=fit_conformal(np.empty(0), np.empty(0)),
            held_out_layers=held_out(model.held_out),
            held_out_networks=held_out(np.empty(0)),
            seed=seed,
        )
        with threadpool_limits(1):
            return plain.recalibrated(wholes)

    def recalibrated(self, networks: Iterable[tuple[Network, float]]) -> LatencyPredictor:
        """Return the predictor calibrated on these networks alone, given with what they take as a whole, in ms.

        What it promises of others comes from folds: each network is predicted by a calibration that had no part of it.
        A network that is given twice, by its layers, counts once, with its mean in log.

        Raises:
            PredictorError: as :meth:`predict`.
        """
        wholes = distinct(networks)
        if not wholes:
            return replace(
                self,
                calibration=UNCALIBRATED,
                correction=_no_correction(self.model),
                conformal=fit_conformal(np.empty(0), np.empty(0)),
                held_out_networks=held_out(np.empty(0)),
            )
        fitted = self._fitted(wholes)
        whole_ms = np.array([value for _, value in wholes])
        predicted, variances = np.empty(len(wholes)), np.empty(len(wholes))
        for held in folds(np.random.default_rng(self.seed).permutation(len(wholes)), FOLDS):
            part = self._fitted([whole for whole, out in zip(wholes, held, strict=True) if not out])
            for i in np.flatnonzero(held):
                network = wholes[i][0]
                predicted[i] = part.latency_ms(network)
                variances[i] = part._variance(network, part._parts(network))
        left = np.log(whole_ms / predicted)
        tau = kendall_tau(list(zip(predicted.tolist(), whole_ms.tolist(), strict=True))) if len(wholes) > 2 else None
        # Predictions, since a network's prediction is held against these: one of them must not be called unlike them.
        sums = [fitted.latency_ms(network) for network, _ in wholes]
        return replace(
            fitted,
            calibration=msgspec.structs.replace(fitted.calibration, shortest_ms=min(sums), longest_ms=max(sums)),
            conformal=fit_conformal(left, variances),
            held_out_networks=msgspec.structs.replace(
                held_out(left), within=float(np.mean(np.abs(np.expm1(-left)) <= 0.05)), kendall_tau=tau
            ),
        )

    def _fitted(self, wholes: Sequence[tuple[Network, float]]) -> LatencyPredictor:
        """Return the predictor with calibration and correction fitted to networks, and no interval yet."""
        if not wholes:
            return self
        whole_ms = np.array([value for _, value in wholes])
        parts = [self._parts(network) for network, _ in wholes]
        terms = np.array([self._terms(network, known) for (network, _), known in zip(wholes, parts, strict=True)])
        scaled = replace(self, calibration=fit_calibration(terms, whole_ms))
        layers = list(dict.fromkeys(item.layer for network, _ in wholes for item in network.layers))
        found = dict(zip(layers, scaled._look_up(layers, "error"), strict=True))
        place = {layer: i for i, layer in enumerate(layers)}
        shares = np.zeros((len(wholes), len(layers)))
        for row, (network, _) in zip(shares, wholes, strict=True):
            for item in network.layers:
                row[place[item.layer]] += item.count * found[item.layer].contribution_ms
        sums = shares.sum(axis=1)
        correction = fit_correction(
            shares / sums[:, None],
            np.log(whole_ms / sums),
            np.array([found[layer].features for layer in layers]),
            tuple(layer.digest for layer in layers),
            np.array([float(found[layer].origin != "measured") for layer in layers]),
            self.model,
        )
        return replace(scaled, correction=correction)

    @cached_property
    def _kept(self) -> dict[Layer, _Known]:
        return {}

    @cached_property
    def _contributions(self) -> dict[Layer, float]:
        return {}

    def latency_ms(self, network: Network) -> float:
        """Return what a network takes, in ms: the number of :meth:`predict` alone, some 200,000 a second.

        Raises:
            PredictorError: as :meth:`predict`.
        """
        known = self._contributions
        total = 0.0
        try:
            for item in network.layers:
                total += known[item.layer] * item.count
        except AttributeError:
            _check_network(network)
            raise
        except KeyError:
            total = sum(
                part.contribution_ms * item.count
                for item, part in zip(network.layers, self._parts(network), strict=True)
            )
        if not total:
            _check_network(network)
        return total

    @overload
    def predict(
        self, network: Network, *, level: float = DEFAULT_LEVEL, unknown: Literal["error", "outside"] = "error"
    ) -> NetworkPrediction: ...

    @overload
    def predict(
        self,
        network: Sequence[Network],
        *,
        level: float = DEFAULT_LEVEL,
        unknown: Literal["error", "outside"] = "error",
    ) -> tuple[NetworkPrediction, ...]: ...

    def predict(
        self,
        network: Network | Sequence[Network],
        *,
        level: float = DEFAULT_LEVEL,
        unknown: Literal["error", "outside"] = "error",
    ) -> NetworkPrediction | tuple[NetworkPrediction, ...]:
        """Return what a network takes, in ms with an interval, and what of it was measured; of several, each.

        Args:
            network: of any layers; or several networks.
            level: the probability with which the interval holds a measurement of the network.
            unknown: what becomes of layers with operators that no measured layer has: an error, or a prediction that
                says that it is outside.

        Raises:
            UnknownOperatorError: see ``unknown``.
            PredictorError: a layer is known to fail on this device.
            UsageError: it is no network, or has no layers, or the level is not between 0 and 1.
        """
        if isinstance(network, (list, tuple)) and not isinstance(network, MeasuredNetwork):
            networks = [network_of(each) for each in network]
            for each in networks:
                _check_network(each)
            # Layers that were never asked for before are predicted together.
            self._look_up([item.layer for each in networks for item in each.layers], unknown)
            return tuple(self._predict(each, level, unknown) for each in networks)
        return self._predict(network_of(network), level, unknown)

    def _predict(self, network: Network, level: float, unknown: Literal["error", "outside"]) -> NetworkPrediction:
        _check_network(network)
        parts = self._parts(network, unknown)
        layers = tuple(
            LayerPrediction(
                item.name,
                item.layer,
                item.count,
                part.ms,
                part.contribution_ms,
                part.origin,
                part.deviation,
                part.outside,
            )
            for item, part in zip(network.layers, parts, strict=True)
        )
        total = sum(layer.count * layer.contribution_ms for layer in layers)
        measured = sum(layer.count * layer.contribution_ms for layer in layers if layer.origin == "measured")
        bounds = self.conformal.bounds(total, self._variance(network, parts), level)
        low, high = bounds if bounds is not None else (None, None)
        return NetworkPrediction(
            network.name,
            total,
            low,
            high,
            level,
            measured / total,
            layers,
            self._network_outside(total, layers),
            None if bounds is not None else self.no_interval(level),
        )

    def _network_outside(self, total: float, layers: Sequence[LayerPrediction]) -> tuple[str, ...]:
        """Return in what respects a network is unlike those that the calibration saw."""
        found = []
        beyond = sum(layer.count * layer.contribution_ms for layer in layers if layer.origin == "outside") / total
        if beyond > MOST_OUTSIDE:
            found.append(f"{beyond:.0%} of it is of layers beyond what was measured")
        low, high = self.calibration.shortest_ms, self.calibration.longest_ms
        if self.calibration.networks and not low / REACH <= total <= high * REACH:
            found.append(f"networks that were measured whole are predicted to take {low:.3g} … {high:.3g} ms")
        return tuple(found)

    def no_interval(self, level: float) -> str | None:
        """Return why there is no interval of a level; ``None`` where there is one."""
        need, have = least_networks(level), len(self.conformal.scores)
        if have >= need:
            return None
        there = "there was" if have == 1 else "there were"
        return f"an interval of {level:.0%} needs {need} networks measured as a whole, and {there} {have}"

    def predict_layer(
        self, layer: Layer, *, level: float = DEFAULT_LEVEL, unknown: Literal["error", "outside"] = "error"
    ) -> LayerPrediction:
        """Return what a layer takes by itself, with an interval; errors as of :meth:`predict`.

        Of a measured layer it is where another day's measurement will lie, by the table's ``across_runs``. Of another
        it is conformal: measured layers that had no part in the fit lay inside with this probability.
        """
        (part,) = self._look_up([layer], unknown)
        check_level(level)
        if part.origin == "measured":
            half: float | None = NormalDist().inv_cdf(min(0.5 + level / 2, BELOW_ONE)) * part.deviation
        else:
            scores = fit_conformal(self.model.held_out, self.model.held_out_deviation**2)
            quantile = scores.quantile(level)
            half = None if quantile is None else quantile * part.deviation
        low, high = (None, None) if half is None else around(part.ms, half)
        return LayerPrediction(
            "layer",
            layer,
            1,
            part.ms,
            part.contribution_ms,
            part.origin,
            part.deviation,
            part.outside,
            low,
            high,
            level,
        )

    def contributions(self, layers: Sequence[Layer]) -> Floats:
        """Return what layers contribute to a network that holds them, in ms, shape ``(n,)``; errors as of predict."""
        return np.array([part.contribution_ms for part in self._look_up(layers, "error")], dtype=np.float64)

    def compile(self, space: SearchSpace) -> CompiledLatency:
        """Return a space's latencies as dense arrays, calibration included.

        Raises:
            UsageError: the space does not say which decisions fix its layers (``slots()``), or says it wrongly.
            UnknownOperatorError: a layer of the space has an operator that no measured layer has.
            PredictorError: a layer of the space is known to fail on this device; leave its options out of the space.
        """
        from predictors._compiled import CompiledLatency, compile_space, places_of

        if not isinstance(space, SearchSpace):
            raise UsageError(
                f"a lut.SearchSpace is compiled, got {type(space).__name__}; profiler.load_space(name) gives one"
            )

        found = compile_space(
            space.name,
            space.choices,
            places_of(space),
            self.contributions,
            decode=space.decode,
            sample=space.sample,
            network_cost=self.latency_ms,
        )
        return CompiledLatency(found.space, found.choices, found.constant, found.terms)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``predictor.json`` and its arrays into a folder, which is made if need be.

        Raises:
            FileAccessError: the folder or the disk does not allow it; an old predictor is untouched.
        """
        from predictors._predictor_file import save_predictor

        save_predictor(self, folder)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> LatencyPredictor:
        """Return the predictor that a folder holds.

        Raises:
            FileAccessError: a file is missing or cannot be read.
            PredictorFormatError: a file is not a predictor's, or was altered.
        """
        from predictors._predictor_file import load_predictor

        return load_predictor(folder)

    def _parts(self, network: Network, unknown: Literal["error", "outside"] = "error") -> list[_Known]:
        return self._look_up([item.layer for item in network.layers], unknown)

    def _look_up(self, layers: Sequence[Layer], unknown: Literal["error", "outside"]) -> list[_Known]:
        """Return what is known of layers, predicting those that were never asked for before."""
        if unknown not in ("error", "outside"):
            raise UsageError(f"unknown is 'error' or 'outside', got {unknown!r}")
        kept = self._kept
        found = {layer: part for layer in dict.fromkeys(layers) if (part := kept.get(layer)) is not None}
        new = [layer for layer in dict.fromkeys(layers) if layer not in found]
        if new:
            answers = self._find(new, unknown)
            found |= answers
            if len(kept) + len(new) > MOST_KEPT:
                kept.clear()
                self._contributions.clear()
            # What was asked for under a laxer rule is not an answer under the stricter one.
            lasting = {layer: part for layer, part in answers.items() if not part.strange}
            kept.update(lasting)
            self._contributions.update((layer, part.contribution_ms) for layer, part in lasting.items())
        return [found[layer] for layer in layers]

    def _find(self, layers: Sequence[Layer], unknown: Literal["error", "outside"]) -> dict[Layer, _Known]:
        described = {layer: describe(layer) for layer in layers}
        missing: list[Layer] = []
        for layer, numbers in described.items():
            if layer.digest in self.measured_ms:
                continue
            if (reason := self.failures.get(layer.digest)) is not None:
                raise PredictorError(
                    f"{layer} could not be measured on this device ({shortened(reason, 300)}), so nothing is predicted"
                )
            strange = sorted(numbers.operators - self.operators)
            if strange and unknown == "error":
                names = shortened(", ".join(strange), 300)
                raise UnknownOperatorError(
                    f"{layer}: no measured layer has the operator {names}, so its latency is not known. "
                    "Measure it, by profiler.profile or profile-device --layers FILE, and fit to all tables together"
                )
            missing.append(layer)
        guesses = {}
        if missing:
            work = np.array([described[layer].work for layer in missing])
            features = np.array([described[layer].features for layer in missing])
            guesses = dict(zip(missing, zip(*self.model.predict(Numbers(work, features)), strict=True), strict=True))
        predicted = np.array([float(layer in guesses) for layer in layers])
        rows = np.array([described[layer].features for layer in layers])
        factors = np.exp(self.correction.of(rows, tuple(layer.digest for layer in layers), predicted, self.model))
        found: dict[Layer, _Known] = {}
        for layer, factor in zip(layers, factors, strict=True):
            numbers = described[layer]
            ms, deviation = guesses.get(layer) or (self.measured_ms[layer.digest], self.deviations[layer.digest])
            outside = self._outside(numbers) if layer in guesses else ()
            group = group_of_kind(numbers.kind)
            found[layer] = _Known(
                ms=float(ms),
                contribution_ms=self.calibration.apply(float(ms), group, numbers.work[WEIGHTS]) * float(factor),
                origin="measured" if layer not in guesses else "outside" if outside else "predicted",
                deviation=float(deviation),
                kind=numbers.kind,
                outside=outside,
                features=tuple(numbers.features),
                strange=not numbers.operators <= self.operators,
            )
        return found

    def _outside(self, numbers: Described) -> tuple[str, ...]:
        """Return in what respects a layer lies outside what was measured."""
        strange = sorted(numbers.operators - self.operators)
        if strange:
            return tuple(f"operator {name}" for name in strange)
        kind = self.kinds.get(numbers.kind)
        if kind is None:
            return (NO_SUCH_KIND,)
        found = []
        for name, i, low, high in zip(RANGED, RANGED_COLUMNS, kind.low, kind.high, strict=True):
            value = numbers.features[i]
            if not low - 1e-9 <= value <= high + 1e-9:
                what = name.removeprefix("log2 ")
                found.append(f"{what} {2**value:.0f}, measured {2**low:.0f} … {2**high:.0f}")
        return tuple(found)

    def _terms(self, network: Network, parts: Sequence[_Known]) -> list[float]:
        """Return a network's row for the calibration."""
        row = [0.0] * (len(GROUPS) + 2)
        for item, part in zip(network.layers, parts, strict=True):
            row[group_of_kind(part.kind)] += item.count * part.ms
            row[len(GROUPS)] += item.count
            row[len(GROUPS) + 1] += item.count * item.layer.parameters / 1e6
        return row

    def _variance(self, network: Network, parts: Sequence[_Known]) -> float:
        """Return the variance that is expected of log(whole / prediction) of a network."""
        shares: dict[Layer, float] = {}
        known: dict[Layer, _Known] = {}
        for item, part in zip(network.layers, parts, strict=True):
            shares[item.layer] = shares.get(item.layer, 0.0) + item.count * part.contribution_ms
            known[item.layer] = part
        share = np.array(list(shares.values()))
        return self.correction.variance(
            share / share.sum(),
            np.array([part.features for part in known.values()]),
            tuple(layer.digest for layer in known),
            np.array([float(part.origin != "measured") for part in known.values()]),
            self.model,
        )


def _as_tables(tables: object) -> list[LatencyTable]:
    found: list[Any] = [tables]
    if isinstance(tables, Iterable) and not isinstance(tables, (LatencyTable, str, bytes)):
        found = list(tables)
    for table in found:
        if not isinstance(table, LatencyTable):
            raise UsageError(
                f"a predictor is fitted to a LatencyTable, got {type(table).__name__}; lut.LatencyTable.load(path)"
            )
    return found


def _check_network(network: object) -> None:
    network = network_of(network)
    if not network.layers:
        raise UsageError(f"network {network.name!r} has no layers")


def _no_correction(model: LayerModel) -> Correction:
    width = model.rows.shape[1]
    none = np.empty(0)
    return fit_correction(np.empty((0, 0)), none, np.empty((0, width)), (), none, model)

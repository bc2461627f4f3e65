"""What a search pays for: a network's latency, expected in the loss and bounded by a budget; multiply-adds to compare.

Sources: HTAS eq. 6–8 (linear, f(E[x]) of the fitted law), TAS's code (signed logarithm around a target).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from math import inf
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from lut import SearchSpace, Setting, TableError, UsageError
from lut._console import format_ms
from lut._suggest import check_word
from lut.errors import BudgetError, UnknownOperatorError
from predictors import CompiledLatency, LatencyPredictor, compile_madds
from predictors._compiled import CompiledSpace, layers_of
from predictors._predictions import NO_SUCH_KIND, NetworkPrediction
from search._problem._resources import bounded
from search.spaces._resnet_cifar import ResNetCifar

__all__ = [
    "CostKind",
    "NetworkCost",
    "Penalty",
    "band_penalty",
    "check_budget",
    "compile_latency",
    "compiled_digest",
    "derive",
    "make_cost",
    "smallest",
    "unlike_layers",
]

# law: Σ f(E[x]) of HTAS; table: the exact expectation over the predictor's values; madds: multiply-adds, the baseline.
CostKind: TypeAlias = Literal["law", "table", "madds"]
# linear: λ·E (HTAS eq. 6); band: TAS's signed logarithm around the budget.
Penalty: TypeAlias = Literal["linear", "band"]
# Rounds of a coordinate search; each round changes every decision to its best, and it stops where nothing changes.
MOST_ROUNDS = 50
# Halvings of the interval in which the price of a millisecond is sought.
HALVINGS = 40
# Where the price of a millisecond is sought: beyond the highest, probability means nothing beside latency.
LOWEST_PRICE, HIGHEST_PRICE, CLOSE_PRICES = 1e-6, 1e6, 1.01
# What counts as more probable, in log, and how many changes are tried at a time.
LEAST_GAIN, MOST_TRIED = 1e-9, 2000
# Lacking layers that an error names.
NAMED = 3
# Networks whose prediction is kept: a search asks for the same few again and again.
MOST_KEPT = 4096


@dataclass(frozen=True)
class NetworkCost:
    """What networks of a space cost, as a search needs it. Final; made by :func:`make_cost`.

    Args:
        space: the space.
        predictor: of latencies.
        latency: the space's latencies, in ms.
        charged: what the loss charges for: the same, or the space's multiply-adds in millions.
        kind: what expectation of it the loss takes.
        level: of the predictions' intervals.
        upper: whether a budget is for the interval's upper end, or for the prediction itself.
    """

    space: ResNetCifar
    predictor: LatencyPredictor
    latency: CompiledLatency
    charged: CompiledSpace
    kind: CostKind
    level: float
    upper: bool
    _kept: dict[tuple[int, ...], NetworkPrediction] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all latencies of the space and of what is charged: what a run's course depends on."""
        words = f"{self.kind} {self.level} {self.upper}"
        return sha256((words + compiled_digest(self.latency) + compiled_digest(self.charged)).encode()).hexdigest()

    @property
    def unit(self) -> str:
        """Of what the loss charges for."""
        return "M multiply-adds" if self.kind == "madds" else "ms"

    def expected(self, probabilities: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what the loss charges for a distribution over networks: ms, or millions of multiply-adds.

        Args:
            probabilities: one tensor per decision of the space, of shape ``(options,)``.
        """
        # Multiply-adds are products of widths, so TAS's E[C_in]·E[C_out] is their expectation.
        of = "law" if self.kind == "law" else "table"
        found: torch.Tensor = self.charged.expected(probabilities, of=of)
        return found

    def predict(self, vector: Sequence[int]) -> NetworkPrediction:
        """Return what a network takes, with its interval."""
        key = tuple(int(index) for index in vector)
        if key not in self._kept:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[key] = self.predictor.predict(self.space.decode(key), level=self.level)
        return self._kept[key]

    def bound_ms(self, vector: Sequence[int]) -> float:
        """Return what a budget must hold: the upper end of the network's interval, or its predicted latency."""
        found = self.predict(vector)
        if not self.upper:
            return found.ms
        assert found.high_ms is not None
        return found.high_ms

    def current(self, vector: Sequence[int]) -> float:
        """Return what the loss charges for one network; for a latency it is the bound."""
        if self.kind == "madds":
            return float(self.charged.values(np.asarray(vector))[0])
        return self.bound_ms(vector)


def make_cost(
    space: ResNetCifar,
    predictor: LatencyPredictor,
    *,
    kind: CostKind = "law",
    level: float = 0.9,
    bound: Literal["upper", "predicted"] = "upper",
) -> NetworkCost:
    """Compile a space's latencies.

    Args:
        space: the space.
        predictor: of its device.
        kind: what the loss charges for.
        level: of the interval whose upper end a budget is for.
        bound: ``upper``, or ``predicted`` for a budget of the prediction itself.

    Raises:
        UsageError: another ``kind`` or ``bound``, or the predictor gives no interval of this level.
        PredictorError: as :meth:`LatencyPredictor.compile`.
    """
    check_word("the cost", kind, ("law", "table", "madds"))
    check_word("the bound", bound, ("upper", "predicted"))
    if bound == "upper":
        bounded(predictor, level)
    latency = compile_latency(space, predictor)
    charged = compile_madds(space) if kind == "madds" else latency
    return NetworkCost(space, predictor, latency, charged, kind, level, bound == "upper")


def compile_latency(space: SearchSpace, predictor: LatencyPredictor) -> CompiledLatency:
    """Compile a space's latencies.

    Raises:
        TableError: layers of some kind were not measured at all; names the command that measures them.
        PredictorError: as :meth:`LatencyPredictor.compile`.
    """
    try:
        return predictor.compile(space)
    except UnknownOperatorError as error:
        raise _lacking(space, predictor, error) from None


def compiled_digest(compiled: CompiledSpace) -> str:
    """Return the SHA-256 of all latencies of a space."""
    found = sha256(np.float64(compiled.constant).tobytes())
    for term in compiled.terms:
        found.update(repr((term.decisions, term.when)).encode())
        found.update(np.ascontiguousarray(term.values).tobytes())
    return found.hexdigest()


def unlike_layers(space: SearchSpace, predictor: LatencyPredictor) -> tuple[str, ...]:
    """Return what is to be said of a space's layers that lie outside what was measured.

    Raises:
        TableError: layers of some kind were not measured at all; names them, and the command that measures them.
    """
    layers = layers_of(space)
    try:
        predictor.contributions(layers)
    except UnknownOperatorError as error:
        raise _lacking(space, predictor, error) from None
    known = [(layer, predictor.predict_layer(layer)) for layer in layers]
    lacking = [layer for layer, part in known if part.outside == (NO_SUCH_KIND,)]
    if lacking:
        names = "; ".join(map(str, lacking[:NAMED]))
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        raise TableError(
            f"the predictor's tables lack {len(lacking)} of the space's {len(layers)} layers, and any like them: "
            f"{names}{more}. Measure them: {_command(space, predictor.setting)}"
        )
    outside = [(layer, part.outside) for layer, part in known if part.origin == "outside"]
    if not outside:
        return ()
    layer, why = outside[0]
    text = f"{len(outside)} of the space's {len(layers)} layers lie outside what was measured, such as {layer}: "
    return (text + "; ".join(why),)


def _lacking(space: SearchSpace, predictor: LatencyPredictor, error: UnknownOperatorError) -> TableError:
    what = str(error).partition(". Measure it")[0].partition(", so its")[0]
    return TableError(
        f"the predictor's tables lack layers of {space.name}: {what}. Measure them: "
        f"{_command(space, predictor.setting)}"
    )


def _command(space: SearchSpace, setting: Setting) -> str:
    """Return the command that measures a space's layers in a setting."""
    given: dict[str, object] = {
        "--target": setting.target,
        "--batch": setting.batch,
        "--threads": setting.threads,
        "--dtype": setting.dtype,
        "--memory-format": setting.memory_format,
        "--space": space.name,
    }
    text = "profile-device" + "".join(f" {name} {value}" for name, value in given.items() if value is not None)
    plain = {name: value for name, value in space.options.items() if isinstance(value, (int, float, str))}
    return text + "".join(f" --set {name}={value}" for name, value in plain.items())


def band_penalty(expected: torch.Tensor, current: float, *, target: float, tolerance: float) -> torch.Tensor:
    """Return TAS's cost: −log E below ``target − tolerance``, +log E above ``target``, nothing between.

    Args:
        expected: E, differentiable.
        current: what the most probable network takes; it alone decides the sign.
        target: in the unit of both.
        tolerance: likewise; TAS: 0.05 of the base network's.
    """
    if current < target - tolerance:
        return -torch.log(expected)
    if current > target:
        return torch.log(expected)
    return 0.0 * expected


def smallest(cost: NetworkCost) -> tuple[int, ...]:
    """Return the vector of the fastest network that a coordinate search from the narrowest finds."""
    zeros = [np.zeros(len(decision.options)) for decision in cost.space.choices]
    return _cheapest(cost, zeros, 1.0, np.zeros(len(zeros), dtype=np.int64))


def check_budget(cost: NetworkCost, budget_ms: float) -> tuple[int, ...]:
    """Return a network within the budget, the fastest one.

    Raises:
        BudgetError: the fastest network is slower.
    """
    vector = smallest(cost)
    if not 0 < budget_ms < inf:
        raise UsageError(f"a budget is a positive number of ms, got {budget_ms}")
    if cost.bound_ms(vector) > budget_ms:
        found = cost.predict(vector)
        bound = f", up to {cost.bound_ms(vector):.4g} ms at {cost.level:.0%}" if cost.upper else ""
        raise BudgetError(
            f"no network of {cost.space.name} within {budget_ms:g} ms was found: the fastest takes {found.ms:.4g} ms"
            f"{bound}"
        )
    return vector


def limits_nothing(cost: NetworkCost, budget_ms: float) -> str | None:
    """Return what is to be said of a budget that even the widest and deepest network is within; else ``None``."""
    widest = cost.bound_ms([len(decision.options) - 1 for decision in cost.space.choices])
    if budget_ms < widest:
        return None
    return (
        f"the budget of {budget_ms:g} ms limits nothing: the widest and deepest network takes "
        f"{'up to ' if cost.upper else ''}{format_ms(widest)} ms"
    )


def derive(cost: NetworkCost, probabilities: Sequence[NDArray[np.float64]], budget_ms: float) -> tuple[int, ...]:
    """Return the most probable network whose bound is within the budget, as far as local search finds it.

    The most probable network itself, if it is within. Otherwise the better, by log-probability, of two that are: the
    one that is left when decisions of the most probable one are given up, those first that lose least for what they
    save; and the best one by log-probability minus price · latency at the price at which it is just within. Then
    decisions are improved, one or two at a time, as long as the budget holds.

    Args:
        cost: what networks take.
        probabilities: one array per decision, of shape ``(options,)``.
        budget_ms: the budget.

    Raises:
        BudgetError: no network is within.
    """
    logs = [np.log(np.maximum(p, 1e-30)) for p in probabilities]
    best = np.array([int(p.argmax()) for p in logs])
    if cost.bound_ms(best.tolist()) <= budget_ms:
        return tuple(best.tolist())
    fastest = np.array(check_budget(cost, budget_ms))
    found = [fastest, *_given_up(cost, logs, best, budget_ms), *_priced(cost, logs, best, budget_ms)]
    return _improved(cost, logs, max(found, key=lambda vector: _score(logs, vector)), budget_ms)


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
    cost: NetworkCost, logs: Sequence[NDArray[np.float64]], vector: NDArray[np.int64], budget_ms: float
) -> Iterator[NDArray[np.int64]]:
    """Yield the network within the budget that giving up decisions one by one leads to, if it leads to one."""
    vector = vector.copy()
    for _ in range(sum(map(len, logs))):
        bound = cost.bound_ms(vector.tolist())
        if bound <= budget_ms:
            yield vector
            return
        rows, gains = _neighbours(logs, vector)
        now = float(cost.latency.latency(vector)[0])
        saved = now - cost.latency.latency(rows)
        # What must go, in predicted ms: the interval is about as wide, in log, for neighbours.
        excess = now * (1 - budget_ms / bound)
        useful = np.flatnonzero(saved > 0)
        if not useful.size:
            return
        enough = useful[saved[useful] >= excess]
        if enough.size:
            vector = rows[enough[np.argmax(gains[enough])]]
        else:
            vector = rows[useful[np.argmax(gains[useful] / saved[useful])]]


def _priced(
    cost: NetworkCost, logs: Sequence[NDArray[np.float64]], start: NDArray[np.int64], budget_ms: float
) -> Iterator[NDArray[np.int64]]:
    """Yield networks within the budget that are best at some price of a millisecond."""
    low, high = LOWEST_PRICE, HIGHEST_PRICE
    for _ in range(HALVINGS):
        # Prices of very different sizes are tried, so halve the exponent.
        price = float(np.sqrt(low * high))
        vector = np.array(_cheapest(cost, logs, price, start))
        if cost.bound_ms(vector.tolist()) <= budget_ms:
            high = price
            yield vector
        else:
            low = price
        if high / low < CLOSE_PRICES:
            break


def _score(logs: Sequence[NDArray[np.float64]], vector: NDArray[np.int64]) -> float:
    return float(sum(own[index] for own, index in zip(logs, vector, strict=True)))


def _cheapest(
    cost: NetworkCost, logs: Sequence[NDArray[np.float64]], price: float, start: NDArray[np.int64]
) -> tuple[int, ...]:
    """Return the best vector by log-probability − price · latency that a coordinate search from ``start`` finds."""
    vector = np.array(start)
    for _ in range(MOST_ROUNDS):
        before = vector.copy()
        for d, own in enumerate(logs):
            rows = np.repeat(vector[None], len(own), axis=0)
            rows[:, d] = np.arange(len(own))
            vector[d] = int(np.argmax(own - price * cost.latency.latency(rows)))
        if (vector == before).all():
            break
    return tuple(vector.tolist())


def _improved(
    cost: NetworkCost, logs: Sequence[NDArray[np.float64]], vector: NDArray[np.int64], budget_ms: float
) -> tuple[int, ...]:
    """Return a vector with decisions made more probable, singly or against another's, while the budget holds."""
    for _ in range(MOST_ROUNDS):
        rows, gains = _neighbours(logs, vector)
        saved = float(cost.latency.latency(vector)[0]) - cost.latency.latency(rows)
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
            if float(cost.latency.latency(tried)[0]) <= budget_ms and cost.bound_ms(tried.tolist()) <= budget_ms:
                vector = tried
                break
        else:
            break
    return tuple(vector.tolist())

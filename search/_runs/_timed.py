"""A network as sessions measured it, beside what was predicted of it and what it may take."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, hypot, log, sqrt
from statistics import NormalDist, fmean, stdev
from typing import Literal, TypeAlias

import msgspec

from profiler._compare import NetworkComparison
from search._problem._budgets import Holds

__all__ = ["LEVEL", "TimedNetwork", "Verdict", "taken_together", "timed_networks"]

# Of the interval in which a network's latency lies.
LEVEL = 0.95
# Of a budget of ms: the whole interval is within, or beyond, or the limit lies in it.
Verdict: TypeAlias = Literal["within", "unclear", "beyond"]


class TimedNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network as it was measured, in ms.

    Args:
        name: the network's.
        ms: at the machine's reference speed (at the session's, where it has none); ``low_ms`` … ``high_ms`` (95 %).
        raw_ms: as the clock gave it, at the speed of this session; ``None`` where nobody kept it.
        day_low_ms: with ``day_high_ms``, where another day's measurement will lie (95 %).
        predicted_ms: by the problem's predictor; ``bound_ms``: what the budget was held against.
    """

    name: str
    ms: float
    low_ms: float
    high_ms: float
    raw_ms: float | None
    day_low_ms: float
    day_high_ms: float
    predicted_ms: float | None
    bound_ms: float | None

    def interval(self, holds: Holds) -> tuple[float, float]:
        """Return the interval that a budget is held against, in ms."""
        return (self.low_ms, self.high_ms) if holds == "reference-speed" else (self.day_low_ms, self.day_high_ms)

    def verdict(self, budget_ms: float, holds: Holds) -> Verdict:
        """Return whether the network keeps a budget of ms."""
        low, high = self.interval(holds)
        return "within" if high <= budget_ms else "beyond" if low > budget_ms else "unclear"

    @property
    def prediction_error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted_ms is None else self.predicted_ms / self.ms - 1


def timed_networks(
    comparison: NetworkComparison, names: Sequence[str], bounds: Sequence[tuple[float, float] | None]
) -> tuple[TimedNetwork, ...]:
    """Return what a session measured, by the networks' own names.

    Args:
        comparison: the session.
        names: of its first networks, in its order.
        bounds: of each, the ms predicted and the ms that the budget is held against; ``None``: not predicted.
    """
    found = []
    for seen, name, bound in zip(comparison.networks[: len(names)], names, bounds, strict=True):
        found.append(
            TimedNetwork(
                name=name,
                ms=seen.ms,
                low_ms=seen.low_ms,
                high_ms=seen.high_ms,
                raw_ms=seen.raw_ms,
                day_low_ms=seen.low_ms if seen.day_low_ms is None else seen.day_low_ms,
                day_high_ms=seen.high_ms if seen.day_high_ms is None else seen.day_high_ms,
                predicted_ms=None if bound is None else bound[0],
                bound_ms=None if bound is None else bound[1],
            )
        )
    return tuple(found)


def taken_together(sessions: Sequence[TimedNetwork]) -> TimedNetwork:
    """Return one network of several sessions: geometric means, and intervals of these.

    An interval is no narrower than what the sessions themselves differ by allows, and another day's gets no narrower by
    more sessions of this one. What was predicted is what was predicted first: later predictors were calibrated on it.
    """
    first, count = sessions[0], len(sessions)
    if count == 1:
        return first

    def mean(values: Sequence[float]) -> float:
        return exp(fmean(map(log, values)))

    ms = mean([one.ms for one in sessions])
    # The standard error of the mean, by how the sessions differ.
    differ = NormalDist().inv_cdf(0.5 + LEVEL / 2) * stdev(log(one.ms) for one in sessions) / sqrt(count)

    def end(name: str) -> float:
        logs = [log(getattr(one, name) / one.ms) for one in sessions]
        within = name in ("low_ms", "high_ms")
        half = max(hypot(*logs) / count if within else fmean(map(abs, logs)), differ)
        return ms * exp(half if name.endswith("high_ms") else -half)

    raw = [one.raw_ms for one in sessions if one.raw_ms is not None]
    return msgspec.structs.replace(
        first,
        ms=ms,
        raw_ms=mean(raw) if len(raw) == count else None,
        **{name: end(name) for name in ("low_ms", "high_ms", "day_low_ms", "day_high_ms")},
    )

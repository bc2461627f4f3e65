"""The audit: how well the sums of a table's layers give whole networks."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

from lut._layer import Layer
from lut._measured_network import MeasuredNetwork
from lut._network import Network
from lut._records import Audit

__all__ = ["audit_of", "held_out", "kendall_tau", "sum_ms"]

# Of two networks there is one pair, which is in order or not: no rank correlation.
LEAST_RANKED = 3


def sum_ms(network: Network, latencies_ms: Mapping[Layer, float]) -> float | None:
    """Return the sum over a network's layers in ms, or ``None`` where a layer has no latency."""
    if any(item.layer not in latencies_ms for item in network.layers):
        return None
    return sum(item.count * latencies_ms[item.layer] for item in network.layers)


def held_out(networks: Iterable[MeasuredNetwork]) -> list[MeasuredNetwork]:
    """Return the networks that were measured end to end and gave no layer its value.

    Where each of them did, as one network by itself does, they are all that can be asked.
    """
    measured = [network for network in networks if network.end_to_end is not None]
    return [network for network in measured if not network.in_place] or measured


def audit_of(networks: Iterable[MeasuredNetwork], latencies_ms: Mapping[Layer, float]) -> Audit | None:
    """Return what the networks that were :func:`held_out` say of the sums; ``None`` where there are none."""
    pairs: list[tuple[float, float]] = []
    errors: list[float] = []
    for network in held_out(networks):
        total = sum_ms(network.network, latencies_ms)
        if network.end_to_end is None or total is None:
            continue
        pairs.append((total, network.end_to_end.median_ms))
        if network.end_to_end.repeat_error is not None:
            errors.append(network.end_to_end.repeat_error)
    if not pairs:
        return None
    ratios = [total / whole for total, whole in pairs]
    return Audit(
        networks=len(pairs),
        bias=_rounded(fmean(ratios) - 1),
        mape=_rounded(fmean(abs(ratio - 1) for ratio in ratios)),
        kendall_tau=None if len(pairs) < LEAST_RANKED else _rounded(kendall_tau(pairs)),
        repeat_error=_rounded(median(errors)) if errors else None,
    )


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Kendall's τ-a: the share of pairs in the same order less that of those in the opposite one."""
    total = 0
    before: list[float] = []
    for _, group in itertools.groupby(sorted(pairs), key=lambda pair: pair[0]):
        # Pairs of one group are in no order. Each is held against those before it, whose second values are in order.
        seconds = [second for _, second in group]
        for second in seconds:
            smaller, larger = bisect.bisect_left(before, second), len(before) - bisect.bisect_right(before, second)
            total += smaller - larger
        for second in seconds:
            bisect.insort(before, second)
    return total / (len(pairs) * (len(pairs) - 1) // 2)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")

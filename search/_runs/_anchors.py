"""Networks that were measured before, measured again: they bring a session to the speed at which they are known.

A table's sentinels are single layers. They bring layers of another session to the reference speed within a few per
cent; whole networks, which use the caches otherwise, then still differ from session to session, nearly all by the same
factor. So each session measures some of the networks on which the predictor was calibrated, and takes that factor out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, hypot, log, sqrt
from statistics import NormalDist, fmean, stdev

import msgspec
from scipy.special import stdtrit

from lut import Network
from search._problem._problem import Problem
from search._runs._timed import LEVEL, TimedNetwork

__all__ = ["ANCHORS", "LEAST_ANCHORS", "Anchor", "Speed", "anchors_for", "at_known_speed", "speed_of"]

# Networks that are measured again in each session; of fewer than three nothing is said of how they scatter.
ANCHORS, LEAST_ANCHORS = 8, 3


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network that was measured before: how long it took then, and now, in ms."""

    known_ms: float
    ms: float


class Speed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much slower a session is than the one in which its anchors were measured before.

    Args:
        slower: the factor; the geometric mean over the anchors.
        half_width: of the interval of its logarithm (95 %), by Student's t.
        scatter: by how much a single network's logarithm differs between two sessions beyond that (standard deviation).
    """

    slower: float
    half_width: float
    scatter: float


def anchors_for(problem: Problem, networks: Sequence[Network], count: int = ANCHORS) -> list[tuple[Network, float]]:
    """Return so many of the problem's anchors to be measured beside others, with what they took, in ms.

    Those that take about as long as the budget of ms, or as the others; none where too few are known.
    """
    apart = {network.layers for network in networks}
    several: dict[object, list[tuple[Network, float]]] = {}
    for network, ms in problem.anchors:
        if network.layers not in apart:
            several.setdefault(network.layers, []).append((network, ms))
    # One that was drawn twice counts once.
    known = {layers: (own[0][0], exp(fmean(log(ms) for _, ms in own))) for layers, own in several.items()}
    if min(count, len(known)) < LEAST_ANCHORS or problem.predictor is None:
        return []
    near = problem.budgets.ms or exp(fmean(log(problem.predictor.latency_ms(network)) for network in networks))
    return sorted(known.values(), key=lambda one: (abs(log(one[1] / near)), one[1]))[:count]


def speed_of(anchors: Sequence[Anchor]) -> Speed | None:
    """Return what anchors say of their session; ``None`` of too few."""
    if len(anchors) < LEAST_ANCHORS:
        return None
    logs = [log(anchor.ms / anchor.known_ms) for anchor in anchors]
    scatter, count = stdev(logs), len(logs)
    return Speed(exp(fmean(logs)), float(stdtrit(count - 1, 0.5 + LEVEL / 2)) * scatter / sqrt(count), scatter)


def at_known_speed(timed: TimedNetwork, speed: Speed) -> TimedNetwork:
    """Return a network's latencies at the speed at which the anchors are known, with what that leaves unsure.

    An interval allows for the factor's own, and is at least as wide as what networks differ by from session to session.
    """
    # By the scatter two sessions differ, of which each has its share. The noise of the session itself is a part of it.
    own = NormalDist().inv_cdf(0.5 + LEVEL / 2) * speed.scatter / sqrt(2)
    ms = timed.ms / speed.slower

    def half(end_ms: float) -> float:
        return hypot(max(abs(log(end_ms / timed.ms)), own), speed.half_width)

    low, high = ms * exp(-half(timed.low_ms)), ms * exp(half(timed.high_ms))
    return msgspec.structs.replace(
        timed,
        ms=ms,
        low_ms=low,
        high_ms=high,
        day_low_ms=min(low, timed.day_low_ms / speed.slower),
        day_high_ms=max(high, timed.day_high_ms / speed.slower),
    )

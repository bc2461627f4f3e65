"""Racing: of a sweep's widths, those that may be the best of their group are measured more often than the others.

HTAS takes from each group of widths the one that lies furthest below a law through all of them (eq. 1–3).
Most widths are out of that race after a few visits; those that are not get the visits that decide it (optimal computing
budget allocation, Chen et al., Discrete Event Dyn. Syst. 10 (2000): the closer two alternatives, the more visits).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from lut import ChannelCurve, Layer

__all__ = ["GROUPS", "Race", "contenders", "races_of"]

# Groups that a sweep's widths fall into where nobody says: HTAS, section 4.1.
GROUPS = 8
# Standard errors by which a width's score is below the best one's before it is out of the race.
OUT = 2.0
# Of one group, those that come closest.
MOST_CONTENDERS = 6
# A straight line goes through any two.
LEAST_WIDTHS = 3


class Race(NamedTuple):
    """A channel sweep: its layers' entries and widths, into how many groups these fall, and the law's exponent."""

    entries: tuple[int, ...]
    channels: tuple[int, ...]
    groups: int
    alpha: float | Literal["auto"] = 1.0


def races_of(
    curves: Iterable[ChannelCurve], number: Mapping[Layer, int], groups: int, alpha: float | Literal["auto"] = 1.0
) -> tuple[Race, ...]:
    """Return the races of sweeps from which widths can be chosen.

    Args:
        curves: the sweeps.
        number: their layers' entries.
        groups: of each sweep; 0 where none is to be chosen from.
        alpha: the exponent of the law k·x^α + b that widths are chosen by, or ``"auto"`` where it is fitted.
    """
    from predictors import PowerLaw  # noqa: F401 - loaded now, and not while the session's time runs

    return tuple(
        Race(
            tuple(number[layer] for layer in curve.layers),
            tuple(layer.out_channels for layer in curve.layers),
            groups,
            alpha,
        )
        for curve in curves
        # One with layers that are not measured is no curve of the table's either.
        if 0 < groups < len(curve.layers) and number.keys() >= set(curve.layers)
    )


def contenders(races: Iterable[Race], known: Mapping[int, tuple[float, float]]) -> frozenset[int]:
    """Return the entries that may be the best of a group that is not decided.

    Widths that differ by one channel are as good as each other where their scores are; nothing is raced for that.

    Args:
        races: the sweeps.
        known: median and standard error in ms, by entry.
    """
    from predictors import PowerLaw  # races_of has loaded it

    found: set[int] = set()
    for race in races:
        channels = np.array(race.channels, dtype=float)
        ms, error = np.array([known.get(entry, (np.nan, np.nan)) for entry in race.entries]).T
        measured = np.isfinite(ms) & np.isfinite(error)
        if np.unique(channels[measured]).size < LEAST_WIDTHS:
            continue
        law = PowerLaw(alpha=race.alpha).fit(channels[measured, None], ms[measured])
        scores = law.k_ * channels**law.alpha_ + law.b_ - ms
        for group in np.array_split(np.arange(len(channels)), race.groups):
            here = group[measured[group]]
            if here.size < 2:
                continue
            best = here[np.argmax(scores[here])]
            distance = (scores[best] - scores[here]) / np.maximum(np.hypot(error[best], error[here]), 1e-12)
            close = here[np.argsort(distance, kind="stable")][: int(np.sum(distance < OUT))]
            if np.any(np.abs(channels[close] - channels[best]) > 1):
                found.update(race.entries[i] for i in close[:MOST_CONTENDERS])
    return frozenset(found)

"""What a predictor says, of layers and networks and of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lut import Layer
from predictors._features import FEATURES, Described

__all__ = [
    "NO_SUCH_KIND",
    "RANGED",
    "RANGED_COLUMNS",
    "HeldOut",
    "KindRange",
    "LayerPrediction",
    "NetworkPrediction",
    "TableSource",
    "held_out",
    "ranges_of",
]

# The dimensions of which a prediction says whether they lie outside what was measured.
RANGED = ("log2 in_channels", "log2 out_channels", "log2 height×width out", "log2 kernel area", "log2 stride")
RANGED_COLUMNS = [FEATURES.index(name) for name in RANGED]


# Why a layer is outside: nothing like it was measured.
NO_SUCH_KIND = "no layer of this kind was measured"


Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Error: TypeAlias = Annotated[float, Meta(ge=0, le=1e30)]
Text: TypeAlias = Annotated[str, Meta(max_length=10_000)]
# Logarithms to the base of 2.
Dimension: TypeAlias = Annotated[float, Meta(ge=-64, le=256)]
Dimensions: TypeAlias = Annotated[tuple[Dimension, ...], Meta(min_length=len(RANGED), max_length=len(RANGED))]


class TableSource(NamedTuple):
    """A table that a predictor was fitted to: its name, the hash of its content, and how much it held."""

    name: Text
    sha256: Text
    layers: Count
    networks: Count


class KindRange(NamedTuple):
    """What was measured of a kind of layer: the least and the largest of each dimension of ``RANGED``."""

    low: Dimensions
    high: Dimensions


class HeldOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Errors on what had no part in the fit, as shares; ``None`` where there was too little to tell.

    ``within``: share of the networks within ±5 %.
    """

    count: Count
    mape: Error | None
    median: Error | None
    worst: Error | None
    within: Share | None = None
    kendall_tau: Annotated[float, Meta(ge=-1, le=1)] | None = None


@dataclass(frozen=True)
class LayerPrediction:
    """A layer of a network.

    Args:
        name: in the network.
        layer: what it is.
        count: how often it occurs there.
        ms: of one occurrence, as a table would hold it.
        contribution_ms: of one occurrence to the network, after calibration.
        origin: ``measured``, ``predicted``, or ``outside``: predicted beyond what was measured.
        deviation: standard deviation of log(ms); of a measured one, that of another day's measurement.
        outside: in what respect it is outside.
        low_ms: where an interval for its latency begins, if one was asked for; ``None`` where too few layers were
            measured to promise one.
        high_ms: where it ends.
        level: the probability with which it holds the latency.
    """

    name: str
    layer: Layer
    count: int
    ms: float
    contribution_ms: float
    origin: Literal["measured", "predicted", "outside"]
    deviation: float
    outside: tuple[str, ...] = ()
    low_ms: float | None = None
    high_ms: float | None = None
    level: float | None = None


@dataclass(frozen=True, repr=False)
class NetworkPrediction:
    """What a network takes.

    Args:
        name: the network's.
        ms: the calibrated sum of its layers.
        low_ms: where the interval begins; ``None`` where too few whole networks were measured to promise one.
        high_ms: where it ends.
        level: the probability with which it holds a measurement of the network, as those that it rests on were made.
        coverage: share of the latency that comes from measured layers.
        layers: in the network's order.
        outside: in what respect it is unlike the networks that the interval rests on, which then promises less.
        no_interval: why there is no interval; ``None`` where there is one.
    """

    name: str
    ms: float
    low_ms: float | None
    high_ms: float | None
    level: float
    coverage: float
    layers: tuple[LayerPrediction, ...]
    outside: tuple[str, ...] = ()
    no_interval: str | None = None

    def __float__(self) -> float:
        return self.ms

    def __str__(self) -> str:
        """Return a line for people: ``mine: 3.41 ms (3.30 … 3.52 with 90 %), 85 % of it of measured layers``.

        Behind it stands why there is no interval, and in what respect the network is unlike others.
        """
        text = f"{self.name}: {self.ms:.4g} ms"
        if self.low_ms is not None and self.high_ms is not None:
            text += f" ({self.low_ms:.4g} … {self.high_ms:.4g} with {self.level:.0%})"
        text += f", {self.coverage:.0%} of it of measured layers"
        why = () if self.no_interval is None else (f"no interval: {self.no_interval}",)
        return "; ".join((text, *why, *self.outside))

    def __repr__(self) -> str:
        return f"<NetworkPrediction {self}>"

    def of_origin(self, origin: str) -> tuple[LayerPrediction, ...]:
        """Return the layers that were ``measured``, ``predicted`` or ``outside``."""
        return tuple(layer for layer in self.layers if layer.origin == origin)


def ranges_of(described: Sequence[Described]) -> dict[str, KindRange]:
    """Return what was measured of each kind of layer."""
    rows: dict[str, list[list[float]]] = {}
    for each in described:
        rows.setdefault(each.kind, []).append([each.features[i] for i in RANGED_COLUMNS])
    return {
        kind: KindRange(tuple(map(min, zip(*values, strict=True))), tuple(map(max, zip(*values, strict=True))))
        for kind, values in rows.items()
    }


def held_out(errors: NDArray[np.float64]) -> HeldOut:
    """Return the figures of errors, log(truth / prediction), shape ``(n,)``."""
    if not len(errors):
        return HeldOut(0, None, None, None)
    relative = np.abs(np.expm1(-errors))
    return HeldOut(len(errors), *(float(f"{f(relative):.4g}") for f in (np.mean, np.median, np.max)))

"""What other widths of a network's own layers would buy: the stairs next to each layer's width, in milliseconds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, log
from statistics import NormalDist
from typing import NamedTuple

from lut import ChannelCurve, LatencyTable, Layer, Network, UsageError
from lut._statistics import log_standard_error

__all__ = ["WidthChange", "WidthGain", "swept_curve", "width_gains"]

# Beyond this many standard errors a difference is no noise: 95 %, two-sided.
SURE = NormalDist().inv_cdf(0.975)
# A step lower than this share is not worth a recommendation, however sure it is; and where noise is low and widths are
# many, some pair of equal ones always looks different.
LEAST_STEP = 0.01
# A quarter of five channels is one, and a stair is often eight wide: that far is looked in any case.
LEAST_REACH = 8


class WidthChange(NamedTuple):
    """Another width of a layer.

    ``channels`` with their ``ms``; ``gain_ms``: how much faster one occurrence gets, negative where it gets slower;
    ``gain_ms_total``: all of the layer's occurrences; ``sure``: the difference is beyond the noise of both widths.
    """

    channels: int
    ms: float
    gain_ms: float
    gain_ms_total: float
    sure: bool


@dataclass(frozen=True)
class WidthGain:
    """A layer of a network, and the friendly widths next to its own.

    Args:
        name: the layer's first name in the network.
        layer: as the network has it.
        count: how often it occurs.
        channels: its width.
        ms: its latency, one occurrence.
        friendly_channels: the friendly ones among all widths that were measured.
        narrower: the friendly width below that gives the most per channel; ``None`` where none is faster within reach.
        wider: the nearest friendly width above, whose channels may be free; ``None`` where the layer's own width is
            friendly, or there is none within reach.
    """

    name: str
    layer: Layer
    count: int
    channels: int
    ms: float
    friendly_channels: tuple[int, ...]
    narrower: WidthChange | None
    wider: WidthChange | None


class _Point(NamedTuple):
    """A measured width; ``error`` is the standard error of log(ms)."""

    channels: int
    ms: float
    error: float


def width_gains(table: LatencyTable, network: Network, *, reach: float = 0.25) -> tuple[WidthGain, ...]:
    """Return what other widths of a network's layers would buy, the largest gain of a narrower width first.

    A layer is looked at where a curve of the table was swept from it: its base layer occurs in the network and was
    measured. A width is *friendly* where every wider one within reach costs clearly more: it is the last of its stair.
    A wider one whose median lies below this one's plus the joint half-width of their within-run intervals, or plus one
    per cent, does not cost clearly more; so a stair lower than the noise is not seen. Of the widest width nothing is
    known.

    What a figure does not hold: the layers that read this one's output get narrower or wider with it, and so do those
    whose output a sum adds to it, or, of a depthwise convolution, the layer before. Their gain comes on top, and is
    looked up or measured by itself.

    Args:
        table: with the sweep's curves; those of no layer of the network are passed over.
        network: whose layers, with their counts.
        reach: how far from a width others are looked at, as a share of it; 8 channels at the least, and the next
            measured width in any case.

    Raises:
        UsageError: ``reach`` is not positive and finite.
    """
    if not 0 < reach < float("inf"):
        raise UsageError(f"reach is a positive share of a layer's width, got {reach}")
    counts: dict[Layer, int] = {}
    names: dict[Layer, str] = {}
    for item in network.layers:
        counts[item.layer] = counts.get(item.layer, 0) + item.count
        names.setdefault(item.layer, item.name)
    swept: dict[Layer, list[ChannelCurve]] = {}
    for curve in table.curves:
        base = _base(curve)
        if base is not None and base in table and base in counts:
            swept.setdefault(base, []).append(curve)
    found = [
        _gain(table, layer, _most_measured(table, swept[layer]), name, counts[layer], reach)
        for layer, name in names.items()
        if layer in swept
    ]
    # Stable: where nothing is to be gained, the network's order stays.
    return tuple(sorted(found, key=lambda gain: -gain.narrower.gain_ms_total if gain.narrower else 0.0))


def swept_curve(table: LatencyTable, layer: Layer) -> ChannelCurve | None:
    """Return the curve that was swept from a layer, of several the one with the most measured widths."""
    curves = [curve for curve in table.curves if _base(curve) == layer]
    return _most_measured(table, curves) if curves else None


def _most_measured(table: LatencyTable, curves: Sequence[ChannelCurve]) -> ChannelCurve:
    return max(curves, key=lambda curve: sum(other in table for other in curve.layers))


def _base(curve: ChannelCurve) -> Layer | None:
    return next((layer for layer in curve.layers if layer.out_channels == curve.base_channels), None)


def _gain(table: LatencyTable, layer: Layer, curve: ChannelCurve, name: str, count: int, reach: float) -> WidthGain:
    points = [_point(table, other) for other in curve.layers if other in table]
    own = next(point for point in points if point.channels == curve.base_channels)
    friendly = _friendly(points, reach)
    near = _reach(own, reach)
    below = [p for p in friendly if own.channels - near <= p.channels < own.channels and p.ms < own.ms]
    above = [p for p in friendly if own.channels < p.channels <= own.channels + near]
    narrower = _best(own, below[::-1])
    wider = above[0] if above and own not in friendly else None

    def change(point: _Point) -> WidthChange:
        gain_ms = own.ms - point.ms
        return WidthChange(point.channels, point.ms, gain_ms, count * gain_ms, abs(_distance(own, point)) > SURE)

    return WidthGain(
        name=name,
        layer=layer,
        count=count,
        channels=own.channels,
        ms=own.ms,
        friendly_channels=tuple(point.channels for point in friendly),
        narrower=None if narrower is None else change(narrower),
        wider=None if wider is None else change(wider),
    )


def _point(table: LatencyTable, layer: Layer) -> _Point:
    measurement = table[layer]
    within = measurement.within_run
    error = log_standard_error(within.low_ms, within.high_ms, within.level)
    return _Point(layer.out_channels, measurement.median_ms, error)


def _reach(point: _Point, reach: float) -> float:
    return max(reach * point.channels, LEAST_REACH)


def _distance(first: _Point, second: _Point) -> float:
    """Return by how many of its standard errors log(second / first) is above 0."""
    # Of widths without any noise, whatever lies between them is beyond it.
    return log(second.ms / first.ms) / max(hypot(first.error, second.error), 1e-9)


def _costs_more(wider: _Point, point: _Point) -> bool:
    return wider.ms > point.ms * (1 + LEAST_STEP) and _distance(point, wider) > SURE


def _friendly(points: Sequence[_Point], reach: float) -> list[_Point]:
    """Return the points, of those in increasing order of channels, that every wider one within reach lies above."""
    widths = [point.channels for point in points]
    found = []
    for i, point in enumerate(points[:-1]):
        end = max(bisect_right(widths, point.channels + _reach(point, reach)), i + 2)
        if all(_costs_more(points[j], point) for j in range(i + 1, end)):
            found.append(point)
    return found


def _best(own: _Point, nearest_first: Sequence[_Point]) -> _Point | None:
    """Return the point that saves most per channel given up; the nearer one unless the difference is beyond noise."""
    best: _Point | None = None
    for point in nearest_first:
        if best is None:
            best = point
            continue
        few, many = own.channels - best.channels, own.channels - point.channels
        more = (own.ms - point.ms) / many - (own.ms - best.ms) / few
        noise = hypot(
            own.ms * own.error * (1 / few - 1 / many), best.ms * best.error / few, point.ms * point.error / many
        )
        if more > SURE * noise:
            best = point
    return best

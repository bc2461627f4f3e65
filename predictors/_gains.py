"""What other widths of a network's own layers would buy: the stairs next to each layer's width, in milliseconds."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, log
from statistics import NormalDist
from typing import Any, NamedTuple

from lut import ChannelCurve, LatencyTable, Layer, LayerError, Network, NetworkLayer, UsageError
from lut._measured_network import network_of
from lut._statistics import log_standard_error
from predictors._heads import heads_of
from predictors._tied_widths import tied_layers

__all__ = ["WidthChange", "WidthGain", "shown_modules", "swept_curve", "width_gains"]

# Beyond this many standard errors a difference is no noise: 95 %, two-sided.
SURE = NormalDist().inv_cdf(0.975)
# A step lower than this share is not worth a recommendation, however sure it is; and where noise is low and widths are
# many, some pair of equal ones always looks different.
LEAST_STEP = 0.01
# A quarter of five channels is one, and a stair is often eight wide: that far is looked in any case.
LEAST_REACH = 8


class WidthChange(NamedTuple):
    """Another width of the layers of a row.

    ``channels``; ``ms``: what all of their occurrences take then; ``gain_ms``: how much faster that is, negative where
    it is slower; ``sure``: the difference is beyond the noise of both widths.
    """

    channels: int
    ms: float
    gain_ms: float
    sure: bool


@dataclass(frozen=True)
class WidthGain:
    """Layers of a network that have one width, and the friendly widths next to it.

    Residual blocks add layers to each other, and depthwise convolutions pass on the width of what they read: these are
    one row, since they can be changed together only, and their latencies are summed.

    Args:
        name: the name of the first of them in the network.
        groups: names of layers that give this width and have weights, in groups: those of one group are equally wide.
            Groups of the same layers are one row, since what is good for one is good for all. Names of a traced
            module's layers are those of its modules.
        layers: those of them that were measured at other widths, each once.
        unmeasured: names of those that were not, whose gain comes on top.
        ties_known: whether all that must change with them is in ``groups``; not where their output goes out of the
            network, or into operators that were kept as their framework wrote them.
        count: how often the layers occur together.
        channels: their width.
        ms: what all of their occurrences take.
        widths: that were measured, in increasing order.
        widths_ms: what all of their occurrences take at each of these.
        friendly_channels: the friendly ones among these.
        narrower: the friendly width below that gives the most per channel; ``None`` where none is faster within reach.
        wider: the nearest friendly width above, whose channels may be free; ``None`` where their own width is friendly,
            or there is none within reach.
    """

    name: str
    groups: tuple[tuple[str, ...], ...]
    layers: tuple[Layer, ...]
    unmeasured: tuple[str, ...]
    ties_known: bool
    count: int
    channels: int
    ms: float
    widths: tuple[int, ...]
    widths_ms: tuple[float, ...]
    friendly_channels: tuple[int, ...]
    narrower: WidthChange | None
    wider: WidthChange | None

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of all ``groups``."""
        return tuple(name for group in self.groups for name in group)

    def __str__(self) -> str:
        """Return a line for people: ``layer1.0.conv1 +3, 64 channels, 0.61 ms: 56 saves 0.12 ms``."""
        text = shown_modules(self.modules) + f", {self.channels} channels, {self.ms:.4g} ms: "
        parts = [
            f"{change.channels} {'saves' if change.gain_ms > 0 else 'costs'} {abs(change.gain_ms):.3g} ms"
            + ("" if change.sure else " (within the noise)")
            for change in (self.narrower, self.wider)
            if change is not None
        ]
        text += "; ".join(parts) or "no better width within reach"
        if not self.ties_known:
            text += "; more must change with it"
        return text + (f"; {len(self.unmeasured)} of them not measured" if self.unmeasured else "")


def shown_modules(modules: Sequence[str]) -> str:
    """Return ``layer1.0.conv1 +3``: the first name, and how many more there are."""
    return modules[0] + (f" +{len(modules) - 1}" if len(modules) > 1 else "")


class _Point(NamedTuple):
    """A measured width; ``error`` is the standard error of log(ms)."""

    channels: int
    ms: float
    error: float


class _Row(NamedTuple):
    """Layers with one width, by their names in groups, and whether nothing else changes with them."""

    groups: tuple[tuple[str, ...], ...]
    ties_known: bool


def width_gains(table: LatencyTable, network: Network, *, reach: float = 0.25) -> tuple[WidthGain, ...]:
    """Return what other widths of a network's layers would buy, the largest gain of a narrower width first.

    A row is of all layers that must be equally wide: those that a sum or a product takes, and depthwise convolutions
    with what they read. A layer is looked at where a curve of the table was swept from it: its base layer occurs in the
    network and was measured. A width is *friendly* where every wider one within reach costs clearly more: it is the
    last of its stair. A wider one whose median lies below this one's plus the joint half-width of their within-run
    intervals, or plus one per cent, does not cost clearly more; so a stair lower than the noise is not seen. Of the
    widest width nothing is known.

    What a figure does not hold: the layers that read this width get narrower or wider with it. Their gain comes on top,
    and is looked up or measured by itself. Layers whose width the network's input or output has are left out.

    Args:
        table: with the sweep's curves; those of no layer of the network are passed over.
        network: whose layers, with their counts.
        reach: how far from a width others are looked at, as a share of it; 8 channels at the least, and the next
            measured width in any case.

    Raises:
        UsageError: ``reach`` is not positive and finite, or it is no network.
    """
    if not 0 < reach < float("inf"):
        raise UsageError(f"reach is a positive share of a layer's width, got {reach}")
    network = network_of(network)
    if not isinstance(table, LatencyTable):
        raise UsageError(f"widths are suggested from a LatencyTable, got {type(table).__name__}")
    items = {item.name: item for item in network.layers}
    swept: dict[Layer, list[ChannelCurve]] = {}
    inside = {item.layer for item in network.layers}
    for curve in table.curves:
        base = _base(curve)
        if base is not None and base in table and base in inside:
            swept.setdefault(base, []).append(curve)
    curves = {layer: _most_measured(table, found) for layer, found in swept.items()}
    found = [gain for row in _rows(network) if (gain := _gain(table, row, items, curves, reach)) is not None]
    # Stable: where nothing is to be gained, the network's order stays.
    return tuple(sorted(found, key=lambda gain: -gain.narrower.gain_ms if gain.narrower else 0.0))


def _rows(network: Network) -> list[_Row]:
    """Return the layers that have weights by the widths that they share, in the network's order."""
    items = {item.name: item for item in network.layers}
    groups: list[tuple[tuple[str, ...], bool]]
    try:
        ties = tied_layers(network)
    except LayerError:
        # Layers that were put together from nowhere: all that is known is that one width suits equal ones.
        groups = [((item.name,), False) for item in network.layers]
    else:
        groups = [(group.layers, ties.open.isdisjoint(group.layers)) for group in ties.groups]
    alike: dict[tuple[Any, bool], list[tuple[str, ...]]] = {}
    heads = heads_of(network)
    for names, known in groups:
        if not heads.isdisjoint(names):
            continue
        weighted = tuple(name for name in names if items[name].layer.parameters > 0)
        if weighted:
            work = frozenset(Counter(items[name].layer for name in weighted).items())
            alike.setdefault((work, known), []).append(weighted)
    return [_Row(tuple(found), known) for (_, known), found in alike.items()]


def swept_curve(table: LatencyTable, layer: Layer) -> ChannelCurve | None:
    """Return the curve that was swept from a layer, of several the one with the most measured widths."""
    curves = [curve for curve in table.curves if _base(curve) == layer]
    return _most_measured(table, curves) if curves else None


def _most_measured(table: LatencyTable, curves: Sequence[ChannelCurve]) -> ChannelCurve:
    return max(curves, key=lambda curve: sum(other in table for other in curve.layers))


def _base(curve: ChannelCurve) -> Layer | None:
    return next((layer for layer in curve.layers if layer.out_channels == curve.base_channels), None)


def _gain(
    table: LatencyTable,
    row: _Row,
    items: Mapping[str, NetworkLayer],
    curves: Mapping[Layer, ChannelCurve],
    reach: float,
) -> WidthGain | None:
    """Return what other widths of a row's layers would buy, ``None`` where none of them was swept."""
    names = [name for group in row.groups for name in group]
    swept = [items[name] for name in names if items[name].layer in curves]
    if not swept:
        return None
    counts: dict[Layer, int] = {}
    for item in swept:
        counts[item.layer] = counts.get(item.layer, 0) + item.count
    width = swept[0].layer.out_channels
    # Of a width where one of them was not measured, the sum is not known.
    by_width = [{other.out_channels: other for other in curves[layer].layers if other in table} for layer in counts]
    common = sorted(set.intersection(*(set(each) for each in by_width)))
    if width not in common:
        return None
    points = [
        _summed([(count, _point(table, each[channels])) for count, each in zip(counts.values(), by_width, strict=True)])
        for channels in common
    ]
    own = points[common.index(width)]
    friendly = _friendly(points, reach)
    near = _reach(own, reach)
    below = [p for p in friendly if own.channels - near <= p.channels < own.channels and p.ms < own.ms]
    above = [p for p in friendly if own.channels < p.channels <= own.channels + near]
    narrower = _best(own, below[::-1])
    wider = above[0] if above and own not in friendly else None

    def change(point: _Point) -> WidthChange:
        return WidthChange(point.channels, point.ms, own.ms - point.ms, abs(_distance(own, point)) > SURE)

    return WidthGain(
        name=swept[0].name,
        groups=row.groups,
        layers=tuple(counts),
        unmeasured=tuple(name for name in names if items[name].layer not in curves),
        ties_known=row.ties_known,
        count=sum(counts.values()),
        channels=own.channels,
        ms=own.ms,
        widths=tuple(common),
        widths_ms=tuple(point.ms for point in points),
        friendly_channels=tuple(point.channels for point in friendly),
        narrower=None if narrower is None else change(narrower),
        wider=None if wider is None else change(wider),
    )


def _summed(parts: Sequence[tuple[int, _Point]]) -> _Point:
    """Return what layers of one width take together; what each one's measurement is off by is its own."""
    total = sum(count * point.ms for count, point in parts)
    error_ms = hypot(*(count * point.ms * point.error for count, point in parts))
    return _Point(parts[0][1].channels, total, error_ms / total)


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

"""The lookup table: layers → measurements, with provenance."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from lut._audit import audit_of, sum_ms
from lut._breakdown import Share, breakdown
from lut._codec import decode_table, encode_table
from lut._files import read_bytes, write_atomically
from lut._layer import Layer
from lut._measured_network import MeasuredNetwork, measured_network, network_of, network_record
from lut._network import ChannelCurve, Network
from lut._option_names import option_text
from lut._records import (
    FORMAT,
    VERSION,
    Audit,
    CurveRecord,
    Device,
    EndToEnd,
    Failure,
    Measurement,
    NotMeasured,
    Session,
    Setting,
    TableRecord,
)
from lut._suggest import did_you_mean
from lut.errors import MissingLayerError, TableError, UnauditedTableWarning, UnlikeTablesError, UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LatencyTable", "never_audited", "unlike_fields"]

NEAREST_SHOWN = 3
SHOWN_NETWORKS = 3
# Reference speeds are written with six digits; anything beyond rounding is another reference.
SAME_REFERENCE = 1e-4


class LatencyTable(Mapping[Layer, Measurement]):
    """Latencies of one device, one target and one setting: a read-only mapping from layers to measurements.

    ``table[layer].median_ms`` is an exact lookup; a layer that is not there is an error that names the nearest ones.
    Iteration runs over the layers in the order of the file. Final.

    Args:
        device: what was measured on.
        setting: target, batch, dtype, threads, memory format.
        sessions: the profiler's runs that the measurements point to.
        measurements: one per layer.
        curves: named channel sweeps among the layers.
        not_measured: layers that were asked for and have no latency.
        failures: layers that could not be measured.
        networks: networks of these layers, with what they took end to end.
    """

    def __init__(
        self,
        *,
        device: Device,
        setting: Setting,
        sessions: Iterable[Session],
        measurements: Iterable[Measurement],
        curves: Iterable[ChannelCurve] = (),
        not_measured: Iterable[NotMeasured] = (),
        failures: Iterable[Failure] = (),
        networks: Iterable[MeasuredNetwork] = (),
    ) -> None:
        self.device = device
        self.setting = setting
        self.sessions = tuple(sessions)
        self.curves = tuple(curves)
        self.not_measured = tuple(not_measured)
        self.failures = tuple(failures)
        self._measurements: dict[Layer, Measurement] = {}
        for measurement in measurements:
            if measurement.layer in self._measurements:
                raise TableError(f"layer {measurement.layer} ({measurement.layer.digest}) has two measurements")
            self._measurements[measurement.layer] = measurement
        self.networks = tuple(networks)

    @cached_property
    def _ms(self) -> dict[Layer, float]:
        return {layer: m.median_ms for layer, m in self._measurements.items()}

    @cached_property
    def _reasons(self) -> dict[Layer, str]:
        """The layers that were asked for and have no latency, each with the reason."""
        failed = {f.layer: f"{f.reason}: {f.message}" for f in self.failures}
        return failed | {entry.layer: entry.reason for entry in self.not_measured}

    @cached_property
    def audit(self) -> Audit | None:
        """How well sums of layers give the networks that were measured end to end; ``None``: never audited."""
        return audit_of(self.networks, self._ms)

    @property
    def sampled(self) -> bool:
        """Whether adaptive sampling chose the layers: sums of networks are for a predictor then, not for a lookup."""
        return any(session.sampling is not None for session in self.sessions)

    def latency_ms(self, network: Network | MeasuredNetwork) -> float:
        """Return the sum of a network's layers, in ms; what it adds up to, not what a predictor makes of it.

        Raises:
            MissingLayerError: the table holds no latency of one of its layers; the message names it.
            UsageError: it is no network, or has no layers.
        """
        network = network_of(network)
        if not network.layers:
            raise UsageError(f"network {network.name!r} has no layers")
        total = sum_ms(network, self._ms)
        if total is not None:
            return total
        missing = {item.layer: item.name for item in network.layers if item.layer not in self._ms}
        layer, name = next(iter(missing.items()))
        others = f" ({len(missing) - 1} more of its layers are missing)" if len(missing) > 1 else ""
        raise MissingLayerError(f"{network.name}, layer {name}: {self._missing(layer)}{others}")

    def breakdown(self, network: Network | MeasuredNetwork) -> tuple[Share, ...]:
        """Return a network by its distinct layers, with each one's share of the time; those without one come first."""
        measured = network if isinstance(network, MeasuredNetwork) else MeasuredNetwork(network_of(network))
        return breakdown(measured, self._ms, self._reasons)

    def sum_ms(self, network: Network | MeasuredNetwork) -> float | None:
        """Return :meth:`latency_ms`, or ``None`` where a layer has no latency."""
        return sum_ms(network_of(network), self._ms)

    def __getitem__(self, layer: Layer) -> Measurement:
        """Return the layer's measurement.

        Raises:
            MissingLayerError: the table does not hold the layer; the message names the nearest ones.
        """
        try:
            return self._measurements[layer]
        except KeyError:
            raise MissingLayerError(self._missing(layer)) from None

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._measurements)

    def __len__(self) -> int:
        return len(self._measurements)

    def __contains__(self, layer: object) -> bool:
        return layer in self._measurements

    def __repr__(self) -> str:
        return f"<LatencyTable of {len(self)} layers: {self.device.model}, {self.setting}>"

    def __str__(self) -> str:
        """Return a few lines for people: device and setting, what it holds, and what its audit says."""
        count = f"{len(self)} layer{'s' * (len(self) != 1)}"
        others = [
            (len(self.not_measured), "not measured"),
            (len(self.failures), "failed"),
            (len(self.curves), "curves"),
        ]
        shown = [count, *(f"{number} {what}" for number, what in others if number)]
        lines = [f"lookup table: {self.device.model}, {self.setting}", ", ".join(shown)]
        lines += [str(network) for network in self.networks[:SHOWN_NETWORKS]]
        if len(self.networks) > SHOWN_NETWORKS:
            lines.append(f"… and {len(self.networks) - SHOWN_NETWORKS} more networks")
        if (audit := self.audit) is not None:
            over = f"{audit.networks} network{'s' * (audit.networks != 1)}"
            lines.append(f"sums of layers are {audit.bias:+.1%} off on average over {over}")
        return "\n  ".join(lines)

    def _missing(self, layer: object) -> str:
        if not isinstance(layer, Layer):
            return f"a table is indexed by a Layer, got {type(layer).__name__}"
        for failure in self.failures:
            if failure.layer == layer:
                return f"{layer} could not be measured ({failure.reason}): {failure.message}"
        for entry in self.not_measured:
            if entry.layer == layer:
                return f"{layer} was not measured: {entry.reason}"
        nearest = self.nearest(layer)
        text = f"this table does not hold {layer} ({layer.digest}); "
        if nearest:
            text += "the nearest that it holds: " + "; ".join(map(str, nearest)) + ". "
        else:
            text += f"none of its {len(self)} layers is of that kind. "
        return text + "Measure it: profiler.profile(layer), or profile-device --layers FILE"

    def nearest(self, layer: Layer, count: int = NEAREST_SHOWN) -> tuple[Layer, ...]:
        """Return up to ``count`` layers that differ in channel counts only, nearest first; empty if there are none."""
        family = layer.family
        kin = [other for other in self._measurements if other.family == family]
        channels = _channels(layer)
        return tuple(
            sorted(kin, key=lambda other: sum(abs(a - b) for a, b in zip(_channels(other), channels, strict=True)))
        )[:count]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Return the table that a file holds.

        Raises:
            FileAccessError: the file cannot be read.
            TableFormatError: it is not a valid table; the message names the place.

        Warns:
            UnauditedTableWarning: no sum of its layers was ever held against a whole network.
        """
        table = cls.from_json(read_bytes(path), source=os.fspath(path))
        if table.audit is None and len(table) and not table.sampled:
            warnings.warn(f"{os.fspath(path)}: {never_audited(table)}", category=UnauditedTableWarning, stacklevel=2)
        return table

    @classmethod
    def from_json(cls, content: bytes, *, source: str = "table") -> LatencyTable:
        """Return the table that JSON ``content`` holds; ``source`` names it in errors.

        Raises:
            TableFormatError: it is not a valid table; the message names the place.
        """
        record = decode_table(content, source=source)
        by_digest = {
            entry.layer.digest: entry.layer
            for entries in (record.measurements, record.not_measured, record.failures)
            for entry in entries
        }
        return cls(
            device=record.device,
            setting=record.setting,
            sessions=record.sessions,
            measurements=record.measurements,
            curves=[
                ChannelCurve(curve.name, curve.base_channels, tuple(by_digest[digest] for digest in curve.layers))
                for curve in record.curves
            ],
            not_measured=record.not_measured,
            failures=record.failures,
            networks=[measured_network(network, by_digest) for network in record.networks],
        )

    def to_json(self) -> bytes:
        """Return the file's content."""
        return encode_table(
            TableRecord(
                format=FORMAT,
                version=VERSION,
                device=self.device,
                setting=self.setting,
                sessions=self.sessions,
                curves=tuple(
                    CurveRecord(
                        name=curve.name,
                        base_channels=curve.base_channels,
                        layers=tuple(layer.digest for layer in curve.layers),
                    )
                    for curve in self.curves
                ),
                measurements=tuple(self._measurements.values()),
                not_measured=self.not_measured,
                failures=self.failures,
                networks=tuple(map(network_record, self.networks)),
                audit=self.audit,
            )
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically: whatever happens, the old file or the new one is there.

        Raises:
            FileAccessError: the folder or the disk does not allow it; an old file is untouched.
            TableFormatError: the table holds what no table may hold, so that :meth:`load` would refuse it.
        """
        content = self.to_json()
        decode_table(content, source=f"{os.fspath(path)} is not written, since it could not be read again")
        write_atomically(path, content)

    def curve_of(self, layer: Layer) -> TableCurve:
        """Return the sweep that a layer is in, by which a width's latency is looked up: ``table.curve_of(l).ms(24)``.

        Of several sweeps it is the one with the most measured widths.

        Raises:
            MissingLayerError: the table has no sweep of such layers; ``profile-device --sweep`` measures one.
        """
        found = [curve for curve in self.curves if isinstance(layer, Layer) and _is_swept_by(layer, curve)]
        if not found:
            raise MissingLayerError(
                f"this table has no sweep over the widths of {layer}; profiler.sweep, or profile-device --model "
                "FILE.py:FACTORY --sweep, gives those of a network, profile-device --space those of a space"
            )
        best = max(found, key=lambda curve: (layer in curve.layers, sum(other in self for other in curve.layers)))
        return TableCurve(best, tuple((other.out_channels, self[other]) for other in best.layers if other in self))

    def select(self, keep: Callable[[Measurement], bool]) -> LatencyTable:
        """Return the table of the measurements for which ``keep`` is true; curves keep those of their layers."""
        kept = {layer: m for layer, m in self._measurements.items() if keep(m)}
        curves = []
        for curve in self.curves:
            layers = tuple(layer for layer in curve.layers if layer in kept)
            if layers:
                curves.append(ChannelCurve(curve.name, curve.base_channels, layers))
        return LatencyTable(
            device=self.device, setting=self.setting, sessions=self.sessions, measurements=kept.values(), curves=curves
        )

    def merge(
        self,
        other: LatencyTable,
        *,
        across: Iterable[str] = (),
        on_duplicate: Literal["error", "first", "last", "tighter"] = "error",
    ) -> LatencyTable:
        """Return one table with the layers of both.

        Args:
            other: a table of the same device and setting.
            across: what may differ all the same: ``"device"``, ``"setting"``, ``"reference"``. The
                result carries this table's.
            on_duplicate: which measurement a layer of both keeps: this table's, the other's, or the one with the
                tighter ``across_runs`` interval.

        Raises:
            UnlikeTablesError: device or setting differ, and ``across`` does not name it.
            TableError: both hold a layer, and ``on_duplicate`` is ``"error"``.
        """
        refuse_unlike(self, other, across=across, what="merge")
        if on_duplicate not in ("error", "first", "last", "tighter"):
            raise UsageError(f"on_duplicate is error, first, last or tighter, got {on_duplicate!r}")
        shift = len(self.sessions)
        merged = dict(self._measurements)
        for layer, measurement in other.items():
            moved = _moved(measurement, shift)
            mine = merged.get(layer)
            if mine is not None and on_duplicate == "error":
                raise TableError(
                    f"both tables hold {layer} ({layer.digest}); say which to keep: "
                    f"{option_text('on_duplicate', 'first')}, last or tighter"
                )
            if mine is None or on_duplicate == "last" or (on_duplicate == "tighter" and _width(moved) < _width(mine)):
                merged[layer] = moved
        failures = {f.layer: f for f in self.failures}
        for failure in other.failures:
            failures.setdefault(failure.layer, _moved(failure, shift))
        waiting = {entry.layer: entry for entry in (*self.not_measured, *other.not_measured)}
        curves: dict[str, ChannelCurve] = {}
        for curve in (*self.curves, *other.curves):
            name, number = curve.name, 2
            while name in curves and curves[name].layers != curve.layers:
                name, number = f"{curve.name} ({number})", number + 1
            curves[name] = ChannelCurve(name, curve.base_channels, curve.layers)
        networks = {network.name: network for network in self.networks}
        for network in other.networks:
            moved_network = network
            if network.end_to_end is not None:
                moved_network = network._replace(end_to_end=_moved(network.end_to_end, shift))
            name, number = network.name, 2
            while name in networks:
                name, number = f"{network.name} ({number})", number + 1
            networks[name] = moved_network._replace(network=msgspec.structs.replace(network.network, name=name))
        return LatencyTable(
            device=self.device,
            setting=self.setting,
            sessions=(*self.sessions, *other.sessions),
            measurements=merged.values(),
            curves=curves.values(),
            not_measured=[e for layer, e in waiting.items() if layer not in merged and layer not in failures],
            failures=[f for layer, f in failures.items() if layer not in merged],
            networks=networks.values(),
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per measurement, for people: the layer, its latency in ms, intervals, counts and flags."""
        import pandas as pd

        rows = [
            {
                "layer": str(layer),
                "digest": layer.digest,
                "in_channels": layer.inputs[0][0],
                "out_channels": layer.out_channels,
                "madds": layer.madds,
                "parameters": layer.parameters,
                "median_ms": m.median_ms,
                "within_low_ms": m.within_run.low_ms,
                "within_high_ms": m.within_run.high_ms,
                "across_low_ms": m.across_runs.low_ms,
                "across_high_ms": m.across_runs.high_ms,
                "raw_median_ms": m.raw_median_ms,
                "min_ms": m.min_ms,
                "p10_ms": m.p10_ms,
                "p90_ms": m.p90_ms,
                "mean_ms": m.mean_ms,
                "mad_ms": m.mad_ms,
                "n_visits": m.n_visits,
                "n_rejected": len(m.rejected),
                "origin": m.origin,
                "converged": m.converged,
                "flags": " ".join(m.flags),
                "implementation": m.implementation,
            }
            for layer, m in self.items()
        ]
        return pd.DataFrame(rows)


def never_audited(table: LatencyTable) -> str:
    """Return what a table that was never audited has to say of itself."""
    reasons = [
        f"{network.name}: {network.reason or 'some of its layers have no latency'}" for network in table.networks
    ]
    why = f" ({reasons[0]})" if reasons else ""
    return f"never audited: no sum of its layers was held against a whole network{why}"


def unlike_fields(first: LatencyTable, second: LatencyTable) -> dict[str, list[str]]:
    """Return how two tables differ: ``{"device": ["cores 2 / 8"], "setting": [], "reference speed": []}``."""

    def differences(a: Device | Setting, b: Device | Setting, fields: Iterable[str]) -> list[str]:
        return [f"{f} {getattr(a, f)} / {getattr(b, f)}" for f in fields if getattr(a, f) != getattr(b, f)]

    mine, other = _reference_speeds(first), _reference_speeds(second)
    speeds = [
        f"{what} {mine[what]:g} / {other[what]:g} ms"
        for what in mine.keys() & other.keys()
        if abs(mine[what] / other[what] - 1) > SAME_REFERENCE
    ]
    return {
        "device": differences(first.device, second.device, Device.IDENTITY),
        "setting": differences(first.setting, second.setting, Setting.__struct_fields__),
        "reference speed": sorted(speeds)[:1],
    }


# Unlike settings have unlike sentinels too: whoever allows one would be asked for the other next.
WITH_IT = {"setting": ("setting", "reference")}


def _reference_speeds(table: LatencyTable) -> dict[str, float]:
    return {sentinel.what: sentinel.reference_ms for session in table.sessions for sentinel in session.sentinels}


def refuse_unlike(
    first: LatencyTable, second: LatencyTable, *, across: Iterable[str], what: str, advice: str | None = None
) -> None:
    """Raise unless device, setting and reference speed agree wherever ``across`` does not name them.

    ``advice``: what to do; by default, to name it in ``across``.

    Raises:
        UnlikeTablesError: with the fields that differ.
        UsageError: ``across`` names something else than ``device``, ``setting`` and ``reference``.
    """
    allowed = set(across)
    if unknown := allowed - {"device", "setting", "reference"}:
        strange = sorted(unknown)
        several = "; several are given one by one" if any("," in word for word in strange) else ""
        raise UsageError(
            f"{option_text('across')} is device, setting or reference, got {', '.join(strange)}"
            + (several or did_you_mean(strange[0], ("device", "setting", "reference")))
        )
    for name, differences in unlike_fields(first, second).items():
        short = name.partition(" ")[0]
        if differences and short not in allowed:
            raise UnlikeTablesError(
                f"cannot {what} tables of different {name}s: {'; '.join(differences)}. "
                + (advice or f"If that is what you want: {option_text('across', WITH_IT.get(short, (short,)))}")
            )


def _channels(layer: Layer) -> tuple[int, ...]:
    return tuple(shape[0] for shape in layer.shapes)


def _width(measurement: Measurement) -> float:
    return measurement.across_runs.high_ms / measurement.across_runs.low_ms


class TableCurve:
    """A sweep of a table: a layer's latency by its width, in output channels. Final; made by ``table.curve_of``."""

    def __init__(self, curve: ChannelCurve, points: Sequence[tuple[int, Measurement]]) -> None:
        self.name = curve.name
        self.base_channels = curve.base_channels
        self._by_width = dict(points)

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths that were measured, in increasing order."""
        return tuple(self._by_width)

    def __getitem__(self, width: int) -> Measurement:
        """Return the measurement of a width.

        Raises:
            MissingLayerError: it was not measured; the message names the widths beside it that were.
        """
        found = self._by_width.get(width)
        if found is not None:
            return found
        below = [each for each in self.channels if each < width]
        above = [each for each in self.channels if each > width]
        beside = " and ".join(map(str, (*below[-1:], *above[:1]))) or "none"
        raise MissingLayerError(
            f"{self.name}: {width} channels were not measured; the nearest that were: {beside}. "
            "A predictor fitted to the table answers for others"
        )

    def ms(self, width: int) -> float:
        """Return a width's latency in ms; errors as of ``curve[width]``."""
        return self[width].median_ms

    def __repr__(self) -> str:
        widths = self.channels
        return f"<TableCurve {self.name}: {len(widths)} widths" + (f", {widths[0]} … {widths[-1]}>" if widths else ">")


def _is_swept_by(layer: Layer, curve: ChannelCurve) -> bool:
    """Return whether a curve is a sweep of a layer: of its inputs and its kind, at other widths of its output."""
    first = curve.layers[0]
    if first.family != layer.family:
        return False
    # Of a depthwise convolution the input is as wide as the output, and is swept with it.
    scaled = all(each.inputs[0][0] == each.out_channels for each in curve.layers) and len(curve.layers) > 1
    return layer in curve.layers or (
        layer.inputs[0][0] == layer.out_channels if scaled else first.inputs == layer.inputs
    )


_Entry = TypeVar("_Entry", Measurement, EndToEnd, Failure)


def _moved(entry: _Entry, shift: int) -> _Entry:
    return msgspec.structs.replace(entry, session=entry.session + shift)

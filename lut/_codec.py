"""The JSON form of a table: decoding that names the offender, encoding that a person can read and git can diff."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isclose
from statistics import median
from typing import Any

import msgspec

from lut._audit import audit_of
from lut._layer import Layer
from lut._network import ChannelCurve
from lut._records import (
    FORMAT,
    VERSION,
    Audit,
    CurveRecord,
    Failure,
    Measurement,
    NetworkRecord,
    NotMeasured,
    Session,
    TableRecord,
    WholeMeasurement,
)
from lut.errors import LayerError, TableFormatError

__all__ = ["decode_table", "encode_table", "json_schema"]


class _Header(msgspec.Struct):
    """The two fields that say what a file is; everything else is passed over."""

    format: Any = None
    version: Any = None


def decode_table(content: bytes, *, source: str) -> TableRecord:
    """Return the table that ``content`` holds.

    Args:
        content: a JSON file's bytes; any bytes at all.
        source: the file's name, for messages.

    Raises:
        TableFormatError: not JSON, not ours, of an unknown version, or wrong at a place that the message names.
    """
    try:
        header = msgspec.json.decode(content, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "it is empty" if not content.strip() else f"it is not valid JSON ({_lower(error)})"
        raise TableFormatError(f"{source}: not a lookup table: {hint}") from None
    except RecursionError:
        raise TableFormatError(f"{source}: not a lookup table: it is nested too deeply") from None
    if header.format != FORMAT:
        raise TableFormatError(f"{source}: not a lookup table: 'format' is not {FORMAT!r}")
    version = header.version
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= VERSION:
        raise TableFormatError(
            f"{source}: version {str(version)[:40]} of the format is unknown here; this release reads versions 1 to "
            f"{VERSION}. Install a newer latency-lut"
        )
    try:
        if version < VERSION:
            content = _upgraded(content, version)
        record = msgspec.json.decode(content, type=TableRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, LayerError) as error:
        raise TableFormatError(f"{source}: {_numbered(content, _lower(error))}") from None
    except RecursionError:
        raise TableFormatError(f"{source}: it is nested too deeply") from None
    for place, problem in _problems(record):
        raise TableFormatError(f"{source}: {problem} - at `$.{place}`")
    return record


def _upgraded(content: bytes, version: int) -> bytes:
    """Return an older table as one of this version; what is wrong with it is left for the decoder to say."""
    fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    if version == 1 and "setting" in fields:
        setting = msgspec.json.decode(fields["setting"])
        if isinstance(setting, dict):
            fields["setting"] = msgspec.Raw(
                msgspec.json.encode({**setting, "context": "isolated", "options": {"execution": "eager"}})
            )
    fields = {"networks": msgspec.Raw(b"[]"), "audit": msgspec.Raw(b"null"), **fields}
    fields["version"] = msgspec.Raw(str(VERSION).encode())
    return msgspec.json.encode(fields)


class _Lists(msgspec.Struct):
    """The long lists of a table, their entries not yet decoded."""

    sessions: list[msgspec.Raw] = []
    curves: list[msgspec.Raw] = []
    measurements: list[msgspec.Raw] = []
    not_measured: list[msgspec.Raw] = []
    failures: list[msgspec.Raw] = []
    networks: list[msgspec.Raw] = []


_ENTRIES: dict[str, Any] = {
    "sessions": Session,
    "curves": CurveRecord,
    "measurements": Measurement,
    "not_measured": NotMeasured,
    "failures": Failure,
    "networks": NetworkRecord,
}


def _numbered(content: bytes, message: str) -> str:
    """Return a decoder's message with the number of the entry that it only calls ``[...]``."""
    found = re.search(r"`\$\.(\w+)\[\.\.\.\]", message)
    if found is None or found.group(1) not in _ENTRIES:
        return message
    name = found.group(1)
    try:
        lists = msgspec.json.decode(content, type=_Lists)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return message
    for number, raw in enumerate(getattr(lists, name)):
        try:
            msgspec.json.decode(raw, type=_ENTRIES[name])
        except (msgspec.DecodeError, LayerError):
            return message.replace(f"$.{name}[...]", f"$.{name}[{number}]")
    return message


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]


def _problems(record: TableRecord) -> list[tuple[str, str]]:
    """Return what the types alone cannot rule out, as (place, problem)."""
    found: list[tuple[str, str]] = []
    seen: dict[Layer, str] = {}
    for kind in ("measurements", "not_measured", "failures"):
        for i, entry in enumerate(getattr(record, kind)):
            place = f"{kind}[{i}]"
            if entry.layer in seen:
                found.append(
                    (
                        f"{place}.layer",
                        f"layer {entry.layer} ({entry.layer.digest}) stands twice, first at `$.{seen[entry.layer]}`",
                    )
                )
            seen.setdefault(entry.layer, place)
            if kind != "not_measured" and entry.session >= len(record.sessions):
                found.append((f"{place}.session", f"there is no session {entry.session}"))
    for i, measurement in enumerate(record.measurements):
        found += [(f"measurements[{i}].{field}", text) for field, text in _measurement_problems(measurement)]
    for i, session in enumerate(record.sessions):
        for j, sentinel in enumerate(session.sentinels):
            if len(sentinel.at_s) != len(sentinel.ms):
                found.append((f"sessions[{i}].sentinels[{j}]", "columns differ in length"))
    by_digest = {layer.digest: layer for layer in seen}
    found += _network_problems(record, by_digest)
    for i, curve in enumerate(record.curves):
        for j, digest in enumerate(curve.layers):
            if digest not in by_digest:
                found.append((f"curves[{i}].layers[{j}]", f"no layer of this table has the digest {digest!r}"))
        if set(curve.layers) <= by_digest.keys():
            try:
                ChannelCurve(curve.name, curve.base_channels, tuple(by_digest[digest] for digest in curve.layers))
            except LayerError as error:
                found.append((f"curves[{i}]", str(error)))
    return found


def _network_problems(record: TableRecord, by_digest: Mapping[str, Layer]) -> Iterator[tuple[str, str]]:
    names: set[str] = set()
    for i, network in enumerate(record.networks):
        place = f"networks[{i}]"
        if network.name in names:
            yield place, f"network {network.name!r} stands twice"
        names.add(network.name)
        for j, part in enumerate(network.layers):
            if part.layer not in by_digest:
                yield f"{place}.layers[{j}]", f"no layer of this table has the digest {part.layer!r}"
        if network.whole is not None:
            if network.whole.session >= len(record.sessions):
                yield f"{place}.whole.session", f"there is no session {network.whole.session}"
            yield from ((f"{place}.whole.{field}", text) for field, text in _measurement_problems(network.whole))
    whole = audit_of(record.networks, {m.layer.digest: m.median_ms for m in record.measurements})
    if (whole is None) != (record.audit is None):
        yield "audit", "it does not go with the networks that were measured" if whole is None else "it is missing"
    elif whole is not None and record.audit is not None:
        for field in Audit.__struct_fields__:
            mine, theirs = getattr(record.audit, field), getattr(whole, field)
            if (mine is None) != (theirs is None) or (mine is not None and abs(mine - theirs) > 1e-3):
                yield f"audit.{field}", f"{mine} is not what the networks and layers say, {theirs}"


def _measurement_problems(measurement: Measurement | WholeMeasurement) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name in ("within_run", "across_runs"):
        interval = getattr(measurement, name)
        # Values are written with six digits, so a bound may round past a median that equals it.
        if not interval.low_ms * (1 - 1e-5) <= measurement.median_ms <= interval.high_ms * (1 + 1e-5):
            found.append(
                (
                    name,
                    (
                        f"the interval {interval.low_ms:g} … {interval.high_ms:g} does not hold the median "
                        f"{measurement.median_ms:g}"
                    ),
                )
            )
    visits = measurement.visits
    lengths = {len(column) for column in (visits.process, visits.at_s, visits.raw_ms, visits.drift)}
    if len(lengths) != 1:
        found.append(("visits", "columns differ in length"))
    elif (origin := getattr(measurement, "origin", "measured")) in ("measured", "marginal") or visits.raw_ms:
        if not visits.raw_ms:
            found.append(("visits", f"a {origin} value needs at least one visit"))
        elif not isclose(median(visits.raw_ms), measurement.raw_median_ms, rel_tol=1e-4):
            found.append(
                (
                    "raw_median_ms",
                    f"{measurement.raw_median_ms:g} is not the median of the raw visits, {median(visits.raw_ms):g}",
                )
            )
        elif not isclose(median(visits.corrected_ms), measurement.median_ms, rel_tol=1e-4):
            found.append(
                (
                    "median_ms",
                    (
                        f"{measurement.median_ms:g} is not the median of the corrected visits, "
                        f"{median(visits.corrected_ms):g}"
                    ),
                )
            )
    return found


def encode_table(record: TableRecord) -> bytes:
    """Return the JSON form: a line for each field, and for each entry of the long lists."""
    lines: list[bytes] = []
    for field in TableRecord.__struct_fields__:
        value = getattr(record, field)
        key = msgspec.json.encode(field)
        if isinstance(value, tuple) and value:
            entries = b",\n".join(b"  " + msgspec.json.encode(entry) for entry in value)
            lines.append(b" " + key + b": [\n" + entries + b"\n ]")
        else:
            lines.append(b" " + key + b": " + msgspec.json.encode(value))
    return b"{\n" + b",\n".join(lines) + b"\n}\n"


def json_schema() -> bytes:
    """Return the JSON Schema of the current version, generated from the records."""
    schema = msgspec.json.schema(TableRecord)
    schema["title"] = f"{FORMAT} lookup table, version {VERSION}"
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=1) + b"\n"

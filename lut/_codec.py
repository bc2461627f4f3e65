"""The JSON form of a table: decoding that names the offender, encoding that a person can read and git can diff."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isclose
from statistics import median
from typing import Any

import msgspec

from lut._audit import audit_of
from lut._layer import Layer
from lut._measured_network import MeasuredNetwork, measured_network, network_record
from lut._network import ChannelCurve
from lut._printable import lowered, printable, shortened
from lut._records import (
    ESTIMATORS,
    FORMAT,
    MOST_NETWORKS,
    VERSION,
    Audit,
    CurveRecord,
    EndToEnd,
    Estimator,
    Failure,
    Measurement,
    NetworkRecord,
    NotMeasured,
    Session,
    TableRecord,
)
from lut.errors import LayerError, TableFormatError, UsageError

__all__ = ["decode_table", "encode_table", "json_schema", "refuse_unwritable", "short_problem"]


# Objects in a file, braces counted: each costs far more time than its bytes. A table of 50,000 layers has fewer.
MOST_OBJECTS = 1 << 20
# Entries of a list that are looked through for the number of the one that is wrong.
MOST_NUMBERED = 1 << 20
# Characters of a decoder's message, which may quote what it found at full length.
LONGEST_PROBLEM = 400
LONGEST_VALUE = 80


class _Header(msgspec.Struct):
    """The two fields that say what a file is; everything else is passed over, and they are not read before that."""

    format: msgspec.Raw = msgspec.Raw(b"null")
    version: msgspec.Raw = msgspec.Raw(b"null")


def decode_table(content: bytes, *, source: str) -> TableRecord:
    """Return the table that ``content`` holds.

    Where an object names a field twice, the last one counts, as in most readers of JSON. No hash or digest is of the
    text: all are of what was understood.

    Args:
        content: a JSON file's bytes; any bytes at all.
        source: the file's name, for messages.

    Raises:
        TableFormatError: not JSON, not ours, of an unknown version, or wrong at a place that the message names.
    """
    version = _version_of(content, source)
    # Braces inside of texts count too, but what objects there are has them.
    if content.count(b"{") > MOST_OBJECTS:
        raise TableFormatError(f"{source}: more than {MOST_OBJECTS} objects are too many for a lookup table")
    try:
        if version < VERSION:
            content = _upgraded(content)
        record = msgspec.json.decode(content, type=TableRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, LayerError) as error:
        raise TableFormatError(f"{source}: {_numbered(content, _lower(error))}") from None
    except RecursionError:
        raise TableFormatError(f"{source}: it is nested too deeply") from None
    for place, problem in _problems(record):
        raise TableFormatError(f"{source}: {short_problem(problem)} - at `$.{place}`")
    return record


def refuse_unwritable(
    layers: Iterable[Layer], curves: Iterable[ChannelCurve] = (), networks: Iterable[MeasuredNetwork] = ()
) -> None:
    """Raise where a table of these could not be read again, so that it is known before anything is measured.

    Raises:
        UsageError: two networks have one name, a network names a layer that is none of ``layers``, a name is too long,
            or a layer's description does not survive being written.
    """
    by_digest = {layer.digest: layer for layer in layers}
    by_digest |= {layer.digest: layer for curve in curves for layer in curve.layers}
    given = tuple(map(network_record, networks))
    try:
        for digest, layer in by_digest.items():
            if msgspec.json.decode(msgspec.json.encode(layer), type=Layer).digest != digest:
                raise UsageError(
                    f"{short_problem(str(layer))} ({digest}) is another layer once it is written to a file"
                )
        for curve in curves:
            _again(CurveRecord(name=curve.name, base_channels=curve.base_channels, layers=()))
        for network in given:
            _again(network)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UsageError(f"no table can hold what is to be measured: {_lower(error)}") from None
    if len(given) > MOST_NETWORKS:
        raise UsageError(f"a table holds at most {MOST_NETWORKS} networks, got {len(given)}")
    for _, problem in _network_names(given, by_digest):
        raise UsageError(f"{short_problem(problem)}; give each a name of its own: a table tells networks apart by it")


def _again(record: msgspec.Struct) -> None:
    msgspec.json.decode(msgspec.json.encode(record), type=type(record))


def _version_of(content: bytes, source: str) -> int:
    """Return the version that a file says it is of, once it is known to be a table."""
    try:
        header = msgspec.json.decode(content, type=_Header)
        # What is longer than any of our values is none of them, and is not read at all.
        kind, version = (
            msgspec.json.decode(raw) if len(memoryview(raw)) <= LONGEST_VALUE else "…"
            for raw in (header.format, header.version)
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "it is empty" if not content.strip() else f"it is not valid JSON ({_lower(error)})"
        raise TableFormatError(f"{source}: not a lookup table: {hint}") from None
    except RecursionError:
        raise TableFormatError(f"{source}: not a lookup table: it is nested too deeply") from None
    if kind != FORMAT:
        raise TableFormatError(f"{source}: not a lookup table: 'format' is not {FORMAT!r}")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= VERSION:
        raise TableFormatError(
            f"{source}: version {printable(str(version)[:40])} of the format is unknown here; this release reads "
            f"versions 1 to {VERSION}. Install a newer latency-lut"
        )
    return version


class _OldSetting(msgspec.Struct, forbid_unknown_fields=True):
    """A setting of version 1, not yet read."""

    target: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    batch: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    dtype: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    threads: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    memory_format: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    context: msgspec.Raw = msgspec.Raw(b'"isolated"')
    options: msgspec.Raw = msgspec.Raw(b'{"execution":"eager"}')


class _OldTable(msgspec.Struct, forbid_unknown_fields=True):
    """A table of an older version, its fields not yet read."""

    format: msgspec.Raw
    version: msgspec.Raw
    device: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    setting: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    sessions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    curves: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    measurements: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    not_measured: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    failures: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    networks: msgspec.Raw = msgspec.Raw(b"[]")
    audit: msgspec.Raw = msgspec.Raw(b"null")


def _upgraded(content: bytes) -> bytes:
    """Return an older table as one of this version; what is wrong with it is left for the decoder to say."""
    table = msgspec.json.decode(content, type=_OldTable)
    if msgspec.json.decode(table.version) == 1 and table.setting is not msgspec.UNSET:
        with contextlib.suppress(msgspec.ValidationError):
            table.setting = msgspec.Raw(msgspec.json.encode(msgspec.json.decode(table.setting, type=_OldSetting)))
    table.version = msgspec.Raw(str(VERSION).encode())
    return msgspec.json.encode(table)


class _Lists(msgspec.Struct):
    """The long lists of a table, not yet decoded."""

    sessions: msgspec.Raw = msgspec.Raw(b"[]")
    curves: msgspec.Raw = msgspec.Raw(b"[]")
    measurements: msgspec.Raw = msgspec.Raw(b"[]")
    not_measured: msgspec.Raw = msgspec.Raw(b"[]")
    failures: msgspec.Raw = msgspec.Raw(b"[]")
    networks: msgspec.Raw = msgspec.Raw(b"[]")


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
        raw = getattr(msgspec.json.decode(content, type=_Lists), name)
        if bytes(raw).count(b",") > MOST_NUMBERED:
            return message
        entries = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return message
    for number, entry in enumerate(entries):
        try:
            msgspec.json.decode(entry, type=_ENTRIES[name])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LayerError):
            return message.replace(f"$.{name}[...]", f"$.{name}[{number}]")
    return message


def _lower(error: Exception) -> str:
    return lowered(short_problem(str(error)))


def short_problem(text: str) -> str:
    """Return what is wrong with a file for one line, whatever it quotes of the file."""
    return printable(shortened(text, LONGEST_PROBLEM))


def _problems(record: TableRecord) -> Iterator[tuple[str, str]]:
    """Yield what the types alone cannot rule out, as (place, problem)."""
    seen: dict[Layer, str] = {}
    for kind in ("measurements", "not_measured", "failures"):
        for i, entry in enumerate(getattr(record, kind)):
            place = f"{kind}[{i}]"
            if entry.layer in seen:
                text = f"layer {entry.layer} ({entry.layer.digest}) stands twice, first at `$.{seen[entry.layer]}`"
                yield f"{place}.layer", text
            seen.setdefault(entry.layer, place)
            if kind != "not_measured" and entry.session >= len(record.sessions):
                yield f"{place}.session", f"there is no session {entry.session}"
    for i, measurement in enumerate(record.measurements):
        yield from (
            (f"measurements[{i}].{field}", text) for field, text in _measurement_problems(measurement, record.sessions)
        )
    for i, session in enumerate(record.sessions):
        for j, sentinel in enumerate(session.sentinels):
            if len(sentinel.at_s) != len(sentinel.ms):
                yield f"sessions[{i}].sentinels[{j}]", "columns differ in length"
    by_digest = {layer.digest: layer for layer in seen}
    yield from _network_problems(record, by_digest)
    for i, curve in enumerate(record.curves):
        for j, digest in enumerate(curve.layers):
            if digest not in by_digest:
                yield f"curves[{i}].layers[{j}]", f"no layer of this table has the digest {digest!r}"
        if set(curve.layers) <= by_digest.keys():
            try:
                ChannelCurve(curve.name, curve.base_channels, tuple(by_digest[digest] for digest in curve.layers))
            except LayerError as error:
                yield f"curves[{i}]", str(error)


def _network_names(networks: Iterable[NetworkRecord], by_digest: Mapping[str, Layer]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with networks' names and the layers that they name."""
    names: set[str] = set()
    for i, network in enumerate(networks):
        place = f"networks[{i}]"
        if network.name in names:
            yield place, f"two networks are called {network.name!r}"
        names.add(network.name)
        for j, part in enumerate(network.layers):
            if part.layer not in by_digest:
                yield f"{place}.layers[{j}]", f"no layer of this table has the digest {part.layer!r}"


def _network_problems(record: TableRecord, by_digest: Mapping[str, Layer]) -> Iterator[tuple[str, str]]:
    yield from _network_names(record.networks, by_digest)
    for i, network in enumerate(record.networks):
        place = f"networks[{i}]"
        if network.whole is not None:
            if network.whole.session >= len(record.sessions):
                yield f"{place}.whole.session", f"there is no session {network.whole.session}"
            yield from (
                (f"{place}.whole.{field}", text)
                for field, text in _measurement_problems(network.whole, record.sessions)
            )
    if any(part.layer not in by_digest for network in record.networks for part in network.layers):
        return  # said already
    networks = [measured_network(network, by_digest) for network in record.networks]
    whole = audit_of(networks, {m.layer: m.median_ms for m in record.measurements})
    if (whole is None) != (record.audit is None):
        yield "audit", "it does not go with the networks that were measured" if whole is None else "it is missing"
    elif whole is not None and record.audit is not None:
        for field in Audit.__struct_fields__:
            mine, theirs = getattr(record.audit, field), getattr(whole, field)
            if (mine is None) != (theirs is None) or (mine is not None and abs(mine - theirs) > 1e-3):
                yield f"audit.{field}", f"{mine} is not what the networks and layers say, {theirs}"


def _measurement_problems(measurement: Measurement | EndToEnd, sessions: Sequence[Session]) -> list[tuple[str, str]]:
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
    # A session that is not there is told of elsewhere.
    estimator: Estimator = sessions[measurement.session].estimator if measurement.session < len(sessions) else "median"
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
        elif not isclose(middle := ESTIMATORS[estimator](visits.corrected_ms), measurement.median_ms, rel_tol=1e-4):
            found.append(
                (
                    "median_ms",
                    f"{measurement.median_ms:g} is not the {estimator} of the corrected visits, {middle:g}",
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

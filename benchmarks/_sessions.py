"""Recorded sessions of random networks: what ``network_sessions.py`` measured, and the networks it was measured of."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from statistics import median

import msgspec
from _interleaved import Found, layers_of
from _networks import SPACES, as_layer, blocks_of, distinct

from lut import Device, LatencyTable, Layer, Measurement, Network, Setting
from lut._files import write_atomically
from lut._records import Interval, Visits
from profiler import cpu_device

__all__ = ["SESSIONS", "RecordedSession", "read_sessions", "session_networks", "table_of", "write_session"]

SESSIONS = Path(__file__).parent / "sessions"


class SessionFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file. Columns are in ms; ``layers`` is a digest of all layers, which the seed must give again."""

    target: str
    space: str
    setting: str
    machine: Device
    seed: int
    rounds: int
    seconds: float
    networks: int
    layers: str
    columns: dict[str, list[float]]
    halves: dict[str, tuple[list[float], list[float]]]


class RecordedSession(msgspec.Struct, frozen=True):
    """A session with its networks and layers; see :class:`SessionFile`."""

    file: SessionFile
    networks: tuple[Network, ...]
    layers: tuple[Layer, ...]
    blocks: tuple[Layer, ...]

    @property
    def name(self) -> str:
        """Target and space."""
        return f"{self.file.target} {self.file.space}"

    def ms(self, column: str) -> list[float]:
        """Return a column: ``isolated``, ``in_context``, ``blocks`` or ``whole``."""
        return self.file.columns[column]

    def repeat_error(self, column: str, start: int = 0) -> float:
        """Return the median difference between the halves of a column, from an entry on, as a share."""
        first, second = self.file.halves[column]
        return median(abs(a / b - 1) for a, b in zip(first[start:], second[start:], strict=True))


def session_networks(space: str, count: int, seed: int) -> tuple[list[Network], tuple[Layer, ...], tuple[Layer, ...]]:
    """Return a session's networks, their layers and their blocks of several layers, each once."""
    networks = list(distinct(SPACES[space], count, seed))
    blocks = [as_layer(block) for network in networks for block in blocks_of(network) if len(block) > 1]
    return networks, layers_of(networks), tuple(dict.fromkeys(blocks))


def write_session(folder: Path, target: str, space: str, seed: int, rounds: int, found: Found) -> None:
    """Write ``<target>-<space>.json``."""
    networks, layers, blocks = session_networks(space, len(found.columns["whole"]), seed)

    def short(values: list[float]) -> list[float]:
        return [float(f"{value:.5g}") for value in values]

    record = SessionFile(
        target=target,
        space=space,
        setting=found.setting,
        machine=cpu_device(),
        seed=seed,
        rounds=rounds,
        seconds=found.seconds,
        networks=len(networks),
        layers=_digest(layers, blocks),
        columns={name: short(values) for name, values in found.columns.items()},
        halves={name: (short(a), short(b)) for name, (a, b) in found.halves.items()},
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{target}-{space}.json", msgspec.json.encode(record) + b"\n")


def read_sessions(folder: Path = SESSIONS) -> list[RecordedSession]:
    """Return all sessions of a folder.

    Raises:
        SystemExit: there are none, or the networks of one are not those that were measured.
    """
    found: list[RecordedSession] = []
    for path in sorted(folder.glob("*.json")):
        record = msgspec.json.decode(path.read_bytes(), type=SessionFile)
        networks, layers, blocks = session_networks(record.space, record.networks, record.seed)
        if _digest(layers, blocks) != record.layers:
            raise SystemExit(f"{path}: its networks are not those that seed {record.seed} gives now; measure again")
        found.append(RecordedSession(record, tuple(networks), layers, blocks))
    if not found:
        raise SystemExit(f"{folder} holds no sessions; python benchmarks/network_sessions.py measures them")
    return found


def _digest(*layers: tuple[Layer, ...]) -> str:
    text = " ".join(layer.digest for group in layers for layer in group)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def table_of(session: RecordedSession, column: str, *, keep: Collection[Layer] | None = None) -> LatencyTable:
    """Return a session's layers as a table: of ``column``, those of ``keep`` alone where it is given."""
    target, batch = session.file.target, int(session.file.setting.split("batch ")[1].split(",")[0])
    return LatencyTable(
        device=session.file.machine,
        setting=Setting(
            target=target,
            batch=batch,
            dtype="float32",
            threads=1,
            memory_format=None,
            context="network" if column == "in_context" else "isolated",
            options={},
        ),
        sessions=(),
        measurements=[
            Measurement(
                layer=layer,
                origin="imported",
                session=0,
                median_ms=ms,
                raw_median_ms=ms,
                within_run=Interval(low_ms=ms, high_ms=ms, level=0.95),
                across_runs=Interval(low_ms=ms, high_ms=ms, level=0.95),
                flags=(),
                calls_per_block=1,
                implementation=None,
                visits=Visits(process=(), at_s=(), raw_ms=(), drift=()),
            )
            for layer, ms in zip(session.layers, session.ms(column), strict=True)
            if keep is None or layer in keep
        ],
    )

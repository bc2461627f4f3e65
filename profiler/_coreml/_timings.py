"""The file of timings that the runner on the device writes: typed, strict, and the source of its JSON schema.

History of the format
    1   the first.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from lut._records import AtLeastOne, Count, Factor, Instant, Ms, Record, Seconds, Text
from profiler._coreml._bundle import BundleId, ProgramId, Sha256, _schema

__all__ = [
    "FORMAT",
    "VERSION",
    "RunnerDevice",
    "TimedProgram",
    "TimedVisit",
    "TimingFailure",
    "Timings",
    "timings_schema",
]

FORMAT: Literal["latency-lut-coreml-timings"] = "latency-lut-coreml-timings"
VERSION: Literal[1] = 1

ComputeUnits: TypeAlias = Literal["ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE"]
Mode: TypeAlias = Literal["back-to-back", "idle-burst", "sustained"]
Thermal: TypeAlias = Literal["nominal", "fair", "serious", "critical", "unknown"]


class RunnerDevice(Record, frozen=True):
    """The device, by its model identifier (``iPhone15,2``) and system; no name, no serial number."""

    kind: Literal["iphone", "ipad", "mac", "other"]
    model: Text
    architecture: Text
    system: Text
    cores: AtLeastOne
    memory_gib: Annotated[float, Meta(ge=1e-3, le=1e6)]


class TimedProgram(Record, frozen=True):
    """A program as it lay on the device: its digest is that of the files that were loaded."""

    program: ProgramId
    digest: Sha256


class TimedVisit(Record, frozen=True):
    """A few blocks of predictions of one program: milliseconds of one call, one number per block."""

    program: ProgramId
    round: Count
    at_s: Seconds
    calls: AtLeastOne
    block_ms: Annotated[tuple[Ms, ...], Meta(min_length=1, max_length=10_000)]
    thermal: Thermal
    low_power: bool


class TimingFailure(Record, frozen=True):
    """A program that could not be loaded or run on the device."""

    program: ProgramId
    message: Text


class Timings(Record, frozen=True):
    """A session on the device. ``synthetic`` marks numbers that no device made."""

    format: Literal["latency-lut-coreml-timings"]
    version: Literal[1]
    bundle: BundleId
    synthetic: bool
    runner: Text
    device: RunnerDevice
    compute_units: ComputeUnits
    timing: Mode
    seed: Count
    started_at: Instant
    ended_at: Instant
    clock_step_ns: Factor
    clock_cost_ns: Factor
    target_block_ms: Ms
    blocks_per_visit: AtLeastOne
    warm_up_calls: Count
    rounds: Count
    programs: tuple[TimedProgram, ...]
    visits: tuple[TimedVisit, ...]
    failures: tuple[TimingFailure, ...]


def timings_schema() -> bytes:
    """Return the JSON Schema of a file of timings."""
    return _schema(Timings, f"{FORMAT}, version {VERSION}")

"""The records of a table file: typed, strict, and the one source of its JSON schema.

History of the format
    1   the first: device, setting, sessions, curves, measurements, not measured, failures.
    2   settings name the context of a call and the target's own options, and may have neither threads nor a memory
        format; measurements hold side values; new flags and causes. Version 1 was eager PyTorch on a CPU, isolated.
    3   networks: of which layers they are made, what they take as a whole, and the audit of the table's sums by them.
    4   sessions say how their layers were chosen, where not all were measured.
    5   sessions say what ``median_ms`` is of the corrected visits: the median, as it always was, or the trimmed mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import fmean, median
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from lut._layer import Layer
from lut._statistics import bimodal_split, median_absolute_deviation, quantile, trimmed_mean

__all__ = [
    "CONTEXTS",
    "ESTIMATORS",
    "FLAGS",
    "FORMAT",
    "NOT_CHOSEN",
    "ORIGINS",
    "REJECTION_CAUSES",
    "UNUSED",
    "VERSION",
    "Audit",
    "Context",
    "Correction",
    "CurveRecord",
    "Device",
    "EndToEnd",
    "Ended",
    "Estimator",
    "Failure",
    "Interval",
    "Measurement",
    "NetworkRecord",
    "NotMeasured",
    "Part",
    "Preflight",
    "Protocol",
    "RejectedVisit",
    "SamplingRecord",
    "SentinelTimeline",
    "Session",
    "Setting",
    "Software",
    "Spread",
    "TableRecord",
    "Visits",
]

FORMAT: Literal["latency-lut"] = "latency-lut"
VERSION: Literal[5] = 5
# How a network's ``idle`` operators are marked that do run, but whose results nothing reads.
UNUSED = " (unused)"
# Why a layer has no latency that adaptive sampling passed over: nothing is missing, a predictor fitted to the table
# answers for it.
NOT_CHOSEN = "not chosen by adaptive sampling: predicted from the others"

# Positive means at least the lower bound: "> 0" would be tested against the smallest denormal, which a process that
# flushes denormals takes for 0. JSON knows neither NaN nor infinity; the upper bound (eleven days) turns an overflow
# into an error too.
Ms: TypeAlias = Annotated[float, Meta(ge=1e-9, le=1e9, description="milliseconds")]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e9, description="seconds since the session began")]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
AtLeastOne: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Deviation: TypeAlias = Annotated[float, Meta(ge=0, le=10)]
Positive: TypeAlias = Annotated[float, Meta(ge=1e-9, le=1e12)]
Factor: TypeAlias = Annotated[float, Meta(ge=1e-6, le=1e6)]
Text: TypeAlias = Annotated[str, Meta(max_length=10_000)]
# Bounds on what one entry holds, far above what is ever measured, so that no file makes work that never ends.
MOST_VISITS = 1 << 16
MOST_NETWORKS = 10_000
MOST_CURVES = 10_000
MOST_WIDTHS = 1 << 13

Instant: TypeAlias = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$", description="UTC")]

Origin: TypeAlias = Literal["measured", "marginal", "interpolated", "predicted", "imported"]
ORIGINS: dict[str, str] = {
    "measured": "the layer's calls were timed",
    "marginal": "what the layer adds to a program that holds it, over programs that do not",
    "interpolated": "between measured layers",
    "predicted": "by a predictor",
    "imported": "timed elsewhere, by another program",
}

Context: TypeAlias = Literal["isolated", "network"]
CONTEXTS: dict[str, str] = {
    "isolated": "the layer alone, again and again: its data stay in the caches, its borders count",
    "network": "as inside a network, between other layers, or what the layer adds to one: latencies that add up",
}

Flag: TypeAlias = Literal[
    "converged",
    "contaminated",
    "bimodal",
    "autocorrelated",
    "drifting",
    "other_state",
    "warmup_not_steady",
    "page_faults",
    "at_resolution",
]
FLAGS: dict[str, str] = {
    "converged": "the within-run interval is as narrow as was asked",
    "contaminated": "visits that a disturbance spoiled had to be kept, because no clean ones could be had",
    "bimodal": "the visits fall into two groups; the median lies in one of them or between",
    "autocorrelated": "neighbouring visits resemble each other; the interval was widened for it",
    "drifting": "the latency moved in one direction during the run, beyond what the correction explains",
    "other_state": "the session's sentinels disagree: the machine was in another state than at its reference speed",
    "warmup_not_steady": "the blocks of many visits still got faster from first to last",
    "page_faults": "the layer made the operating system map memory while it was timed",
    "at_resolution": "a marginal cost that visits found lost in the noise of what it was taken from; the interval "
    "begins near 0, and where most visits did, the value is a bound from above",
}

RejectionCause: TypeAlias = Literal["preempted", "stolen", "throttled", "slow_clock", "thermal", "low_power"]
REJECTION_CAUSES: dict[str, str] = {
    "preempted": "another process took the core during every block of the visit",
    "stolen": "the hypervisor took the core (steal time)",
    "throttled": "the container's CPU quota stopped the process",
    "slow_clock": "the accelerator's clock was far below its usual one, or it slowed itself down",
    "thermal": "the device said that it was hot",
    "low_power": "the device was saving power",
}


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all records share: frozen, strict, keyword-only. Abstract."""


class Device(Record, frozen=True):
    """What was measured on. Nothing here names a person or a host."""

    kind: Text
    model: Text
    architecture: Text
    system: Text
    cores: AtLeastOne
    affinity_cpus: AtLeastOne
    quota_cpus: Factor | None = None
    memory_gib: Factor | None = None
    governor: Text | None = None
    turbo: bool | None = None
    virtual: bool | None = None
    microcode: Text | None = None
    instructions: Text | None = None

    # Fields that make another device of it; the rest (a kernel update, a governor) is provenance.
    IDENTITY = ("kind", "model", "architecture", "cores", "affinity_cpus", "quota_cpus")


class Setting(Record, frozen=True):
    """What else fixes a latency.

    ``threads`` and ``memory_format`` are ``None`` where the target has no such thing; ``context`` is the state that a
    call finds (see ``CONTEXTS``); ``options`` are the target's own.
    """

    target: Text
    batch: AtLeastOne
    dtype: Text
    threads: AtLeastOne | None
    memory_format: Text | None
    context: Context
    options: dict[Text, Text]

    def __str__(self) -> str:
        parts = [self.target, f"batch {self.batch}", self.dtype]
        if self.threads is not None:
            parts.append(f"{self.threads} thread" + ("s" if self.threads > 1 else ""))
        if self.memory_format is not None:
            parts.append(self.memory_format)
        parts += [f"{name} {value}" for name, value in self.options.items()]
        return ", ".join([*parts, "in context" if self.context == "network" else self.context])


class Software(Record, frozen=True):
    """Versions, and what the runtime says about itself."""

    python: Text
    packages: dict[Text, Text]
    details: dict[Text, Text]

    @property
    def runtime(self) -> str:
        """What ran the layers, with its version: the first package named that is not this one."""
        for name, number in self.packages.items():
            if name != "latency-lut":
                return f"{name} {number}"
        return f"python {self.python}"


class Protocol(Record, frozen=True):
    """How was measured: the parameters of the protocol, for whoever repeats it."""

    name: Text
    seed: Count
    precision: Share
    target_precision: Share
    level: Share
    time_budget_s: Seconds | None
    blocks_per_visit: AtLeastOne
    block_ms: Ms
    first_look: AtLeastOne
    most_visits: AtLeastOne
    rounds_per_process: AtLeastOne
    most_processes: AtLeastOne
    drift_window: AtLeastOne
    layer_limit_s: Seconds
    sentinel_every: AtLeastOne


class Preflight(Record, frozen=True):
    """What was found before measuring."""

    warnings: tuple[Text, ...]
    noise_floor: Share
    noise_floor_visits: Count
    timer_resolution_ns: Factor
    timer_overhead_ns: Factor


class Correction(Record, frozen=True):
    """What was done to the raw visits; ``drift`` in the visits holds the divisors."""

    name: Text
    description: Text
    parameters: dict[Text, Annotated[float, Meta(ge=-1e15, le=1e15)]]


class SentinelTimeline(Record, frozen=True):
    """A fixed layer, visited again and again between the others; columns of one length.

    ``reference_ms`` is what it takes at the machine's reference speed, to which all latencies of the session are
    brought; ``session_ms`` what it took in this session (median, drift within the session removed).
    """

    what: Text
    reference_ms: Ms
    session_ms: Ms
    at_s: tuple[Seconds, ...]
    ms: tuple[Ms, ...]


class Spread(Record, frozen=True):
    """What makes another run's latencies differ, as standard deviations of log(ms).

    ``common_drift``: of the speed common to all layers, during this session, before correction. ``scale``: of what the
    sentinels leave of it between sessions. ``process``: of a layer's latency from one process to the next.
    ``context``: of the latency in a network of a layer that was timed in chains only, about its value here.
    """

    common_drift: Deviation
    scale: Deviation
    process: Deviation
    context: Deviation = 0.0


Ended: TypeAlias = Literal["met", "out of time", "nothing left"]


class SamplingRecord(Record, frozen=True):
    """How adaptive sampling chose layers: until networks were predicted within ``target_error``, as shares.

    ``error``: on networks that were not fitted to, when it last looked; ``None`` where it never could. ``ended``: the
    target was met, the time was up, or there was nothing left to measure.
    """

    target_error: Share
    error: Annotated[float, Meta(ge=0, le=1e6)] | None
    ended: Ended


Estimator: TypeAlias = Literal["median", "trimmed mean"]
ESTIMATORS: dict[Estimator, Callable[[Sequence[float]], float]] = {"median": median, "trimmed mean": trimmed_mean}


class Session(Record, frozen=True):
    """One run of the profiler: provenance for the measurements that point here.

    ``estimator``: what ``median_ms`` is of the corrected visits.
    """

    started_at: Instant
    ended_at: Instant
    measuring_s: Seconds
    software: Software
    protocol: Protocol
    preflight: Preflight
    correction: Correction
    sentinels: tuple[SentinelTimeline, ...]
    processes: Count
    resumed: Count
    spread: Spread
    sampling: SamplingRecord | None = None
    estimator: Estimator = "median"


class Interval(Record, frozen=True):
    """An interval that holds a latency with probability ``level``."""

    low_ms: Ms
    high_ms: Ms
    level: Share


class Visits(Record, frozen=True):
    """The accepted raw visits, columns of one length, in time order; ``raw_ms / drift`` are the corrected ones."""

    process: Annotated[tuple[Count, ...], Meta(max_length=MOST_VISITS)]
    at_s: Annotated[tuple[Seconds, ...], Meta(max_length=MOST_VISITS)]
    raw_ms: Annotated[tuple[Ms, ...], Meta(max_length=MOST_VISITS)]
    drift: Annotated[tuple[Factor, ...], Meta(max_length=MOST_VISITS)]

    @property
    def corrected_ms(self) -> tuple[float, ...]:
        """The visits with the common drift divided out."""
        return tuple(raw / drift for raw, drift in zip(self.raw_ms, self.drift, strict=True))


class RejectedVisit(Record, frozen=True):
    """A visit that was not counted, and why; kept, so that the rejection can be judged."""

    cause: RejectionCause
    process: Count
    at_s: Seconds
    raw_ms: Ms


class Measurement(Record, frozen=True, dict=True):
    """A layer's visits and what they say. Statistics of the visits are NaN for an ``origin`` that has none.

    ``median_ms`` is the best estimate, after the correction that the session names: the middle of the corrected visits
    by the session's ``estimator``. ``within_run`` is for comparing layers of one table: an interval of that middle.
    ``across_runs`` is for anything else: where another day's ``median_ms`` will lie. ``also`` holds what the target
    observed beside it, each name with its unit: the raw median over the visits.
    """

    layer: Layer
    origin: Origin
    session: Count
    median_ms: Ms
    raw_median_ms: Ms
    within_run: Interval
    across_runs: Interval
    flags: tuple[Flag, ...]
    calls_per_block: AtLeastOne
    implementation: Text | None
    visits: Visits
    rejected: tuple[RejectedVisit, ...] = ()
    also: dict[Text, Positive] = {}

    def __repr__(self) -> str:
        """Return a line: its visits are thousands of numbers."""
        interval = f"{self.within_run.low_ms:.4g} … {self.within_run.high_ms:.4g}"
        return f"<Measurement {self.layer}: {self.median_ms:.4g} ms ({interval}), {self.n_visits} visits>"

    @cached_property
    def corrected_ms(self) -> tuple[float, ...]:
        """The accepted visits with the common drift divided out."""
        return self.visits.corrected_ms

    @property
    def n_visits(self) -> int:
        """Accepted visits."""
        return len(self.visits.raw_ms)

    @property
    def converged(self) -> bool:
        """Whether the within-run interval is as narrow as was asked."""
        return "converged" in self.flags

    @property
    def relative_half_width(self) -> float:
        """Half the within-run interval as a share of the median."""
        return (self.within_run.high_ms - self.within_run.low_ms) / 2 / self.median_ms

    @property
    def min_ms(self) -> float:
        """The fastest raw visit."""
        return min(self.visits.raw_ms, default=float("nan"))

    @property
    def p10_ms(self) -> float:
        """The 10th percentile of the raw visits."""
        return quantile(self.visits.raw_ms, 0.1) if self.n_visits else float("nan")

    @property
    def p90_ms(self) -> float:
        """The 90th percentile of the raw visits."""
        return quantile(self.visits.raw_ms, 0.9) if self.n_visits else float("nan")

    @property
    def mad_ms(self) -> float:
        """Median absolute deviation of the raw visits."""
        return median_absolute_deviation(self.visits.raw_ms) if self.n_visits else float("nan")

    @property
    def mean_ms(self) -> float:
        """Mean of the raw visits."""
        return fmean(self.visits.raw_ms) if self.n_visits else float("nan")

    @property
    def noise_index(self) -> float:
        """Median / min − 1 of the raw visits: 0 on a silent machine."""
        return median(self.visits.raw_ms) / self.min_ms - 1 if self.n_visits else float("nan")

    @property
    def modes(self) -> tuple[tuple[float, int], tuple[float, int]] | None:
        """The two groups of a bimodal layer's corrected visits as (mean ms, visits), else ``None``."""
        return bimodal_split(self.corrected_ms) if "bimodal" in self.flags else None

    @property
    def rejected_by_cause(self) -> dict[str, int]:
        """How many visits were rejected, by cause."""
        counts: dict[str, int] = {}
        for visit in self.rejected:
            counts[visit.cause] = counts.get(visit.cause, 0) + 1
        return counts


class Part(Record, frozen=True):
    """A layer of a network, by its digest; name, count and inputs as in :class:`~lut.NetworkLayer`.

    ``kernel``: the runtime's operators that it becomes, and which of the network's these stand for, where known.
    """

    name: Text
    layer: Text
    count: AtLeastOne = 1
    inputs: tuple[Text, ...] = ()
    kernel: Text | None = None


class EndToEnd(Record, frozen=True):
    """The visits to a network as a whole and what they say; fields as in :class:`Measurement`.

    ``repeat_error``: how far the medians of every other visit lie from those of the rest, as a share: the measurement's
    own error. ``None`` of fewer than four visits.
    """

    session: Count
    median_ms: Ms
    raw_median_ms: Ms
    within_run: Interval
    across_runs: Interval
    flags: tuple[Flag, ...]
    calls_per_block: AtLeastOne
    visits: Visits
    rejected: tuple[RejectedVisit, ...] = ()
    repeat_error: Annotated[float, Meta(ge=0, le=1e6)] | None = None


class NetworkRecord(Record, frozen=True):
    """A network in a file: its layers, and what it takes as a whole. People get :attr:`lut.LatencyTable.networks`.

    ``operators``: how many operators of the framework the layers hold, 0 where nobody counted; ``idle``: operators in
    no layer, by name: those that do no work at inference, and, marked ``(unused)``, those whose results nothing reads.
    ``whole`` is ``None`` where the network was not measured, for the ``reason``. ``in_place``: its layers were timed in
    its own places, so that their sum is no prediction of it.
    """

    name: Text
    layers: tuple[Part, ...]
    operators: Count = 0
    idle: dict[Text, Count] = {}
    whole: EndToEnd | None = None
    reason: Text | None = None
    in_place: bool = False


class Audit(Record, frozen=True):
    """How well sums of the table's layers give whole networks, measured on the same device in the same session.

    ``networks``: how many; ``bias``: mean of sum/whole − 1; ``mape``: mean distance of sum/whole from 1;
    ``kendall_tau``: of sums against wholes, ``None`` of fewer than three networks; ``repeat_error``: median over the
    networks of the measurement's own.
    """

    networks: AtLeastOne
    bias: Annotated[float, Meta(ge=-1, le=1e6)]
    mape: Annotated[float, Meta(ge=0, le=1e6)]
    kendall_tau: Annotated[float, Meta(ge=-1, le=1)] | None
    repeat_error: Annotated[float, Meta(ge=0, le=1e6)] | None


class NotMeasured(Record, frozen=True):
    """A layer that was asked for and never measured. It has no latency field at all."""

    layer: Layer
    reason: Text
    origin: Literal["not_measured"] = "not_measured"


class Failure(Record, frozen=True):
    """A layer that could not be measured: data, never a number."""

    layer: Layer
    reason: Literal["error", "out_of_memory", "timeout", "crashed"]
    message: Text
    session: Count


class CurveRecord(Record, frozen=True):
    """A channel sweep by the digests of its layers."""

    name: Text
    base_channels: AtLeastOne
    layers: Annotated[tuple[Text, ...], Meta(max_length=MOST_WIDTHS)]


class TableRecord(Record, frozen=True):
    """The whole file."""

    format: Literal["latency-lut"]
    version: Literal[5]
    device: Device
    setting: Setting
    sessions: tuple[Session, ...]
    curves: Annotated[tuple[CurveRecord, ...], Meta(max_length=MOST_CURVES)]
    measurements: tuple[Measurement, ...]
    not_measured: tuple[NotMeasured, ...]
    failures: tuple[Failure, ...]
    networks: Annotated[tuple[NetworkRecord, ...], Meta(max_length=MOST_NETWORKS)]
    audit: Audit | None

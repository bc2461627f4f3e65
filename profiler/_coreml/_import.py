"""Timings from a device, read into a lookup table. Needs neither Apple hardware nor coremltools."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log
from pathlib import Path
from statistics import median, pstdev
from typing import NamedTuple

from lut import ChannelCurve, Device, LatencyTable, Layer, Measurement, Setting
from lut._files import read_bytes
from lut._measured_network import MeasuredNetwork
from lut._records import (
    Correction,
    Failure,
    Flag,
    Interval,
    NotMeasured,
    Preflight,
    Protocol,
    RejectedVisit,
    RejectionCause,
    Session,
    Software,
    Spread,
    Visits,
)
from lut._statistics import bimodal_split, median_interval, quantile
from lut.errors import ProfileError, TableError, UsageError
from profiler._coreml._bundle import LayerEntry, Manifest, Program, Term, decode_strictly, load_bundle
from profiler._coreml._options import ExportOptions, check_compute_units, make_options
from profiler._coreml._timings import FORMAT, VERSION, TimedVisit, Timings
from profiler._judge import NEXT_TO_NOTHING_MS, UNRESOLVED_SHARE

__all__ = ["NetworkTiming", "coreml_setting", "import_timings", "network_timings", "not_measured_table", "read_timings"]

LEVEL = 0.95
# As when the CPU is measured: an interval of 95 % needs six visits.
FIRST_LOOK = 6
# A difference of two programs up to this share of the larger is lost in its noise; the visit counts as the share.
LEAST_SHARE = 0.005
# A round takes seconds.
MOST_ROUNDS = 1_000_000
NO_DEVICE = "made-up timings, measured on no device"

CORRECTION = "none: weighted sums of programs, round by round"
DESCRIPTION = (
    "raw_ms of a visit is the sum of weight * ms over the layer's programs in one round of the device's session, the "
    "weights standing in the bundle's manifest; ms of a program is the median of its blocks in that round. A sum that "
    "is not above half a percent of its largest part counts as that half percent, and where that is more than a tenth "
    "of the visits the intervals begin near 0. No drift was removed: drift is 1. Spread: common_drift is that of all "
    "programs from round to round; what differs between sessions and processes was not observed, and stands as 0. "
    "across_runs is where 95 % of the visits lie"
)


class NetworkTiming(NamedTuple):
    """A whole network's latency: median over the rounds, and its interval of 95 %."""

    name: str
    median_ms: float
    low_ms: float
    high_ms: float
    visits: int


def read_timings(path: str | os.PathLike[str], manifest: Manifest) -> Timings:
    """Return the timings that a file holds, checked against the bundle that they say they were taken of.

    Raises:
        FileAccessError: the file cannot be read.
        ProfileError: it is no file of timings, is wrong at a place that the message names, or is of another bundle.
    """
    source = os.fspath(path)
    timings = decode_strictly(
        read_bytes(path), Timings, source=source, what="a file of timings", expected=(FORMAT, VERSION)
    )
    if timings.bundle != manifest.bundle:
        raise ProfileError(
            f"{source}: these are timings of bundle {timings.bundle or 'none'}, and this bundle is {manifest.bundle}; "
            "give the folder that was on the device"
        )
    for place, problem in _problems(timings, {program.id: program for program in manifest.programs}):
        raise ProfileError(f"{source}: {problem} - at `$.{place}`")
    return timings


def _problems(timings: Timings, programs: Mapping[str, Program]) -> Iterable[tuple[str, str]]:
    """Yield what the types alone cannot rule out, as (place, problem)."""
    seen: set[str] = set()
    for i, timed in enumerate(timings.programs):
        if timed.program not in programs:
            yield f"programs[{i}]", f"the bundle has no program {timed.program}"
        elif timed.digest != programs[timed.program].digest:
            yield f"programs[{i}].digest", f"program {timed.program} on the device was not the bundle's: another digest"
        elif timed.program in seen:
            yield f"programs[{i}]", f"program {timed.program} stands twice"
        seen.add(timed.program)
    rounds: set[tuple[str, int]] = set()
    for i, visit in enumerate(timings.visits):
        if visit.program not in seen:
            yield f"visits[{i}].program", f"program {visit.program} is not among the 'programs' of this file"
        elif visit.round >= timings.rounds:
            yield f"visits[{i}].round", f"there are {timings.rounds} rounds, counted from 0; got round {visit.round}"
        elif (visit.program, visit.round) in rounds:
            yield f"visits[{i}]", f"program {visit.program} has two visits in round {visit.round}"
        rounds.add((visit.program, visit.round))
    for i, failure in enumerate(timings.failures):
        if failure.program not in programs:
            yield f"failures[{i}]", f"the bundle has no program {failure.program}"
    if timings.rounds > MOST_ROUNDS:
        yield "rounds", f"{MOST_ROUNDS} rounds are the most, got {timings.rounds}"
    if timings.ended_at < timings.started_at:
        yield "ended_at", f"the session ended at {timings.ended_at}, before it began"


def import_timings(
    timings: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    precision: float = 0.02,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> LatencyTable:
    """Return the lookup table that a device's timings of a bundle make.

    Every file of the bundle is compared with its hash first. Layers whose programs were not timed are ``not_measured``
    with a reason; layers that could not be converted, or not run on the device, are failures. What was timed of a
    program before or after it failed is used where it is enough for an interval; the session's warnings name it.

    Args:
        timings: the runner's ``timings.json``.
        bundle: the bundle's folder.
        precision: a layer whose interval's half-width is at most this share of its median is ``converged``.
        progress: called with how many of how many programs were checked.

    Raises:
        FileAccessError: a file is missing or cannot be read.
        ProfileError: the bundle was altered, or the timings are not valid or of another bundle.
    """
    manifest = load_bundle(bundle, progress=progress)
    content = read_timings(timings, manifest)
    by_program: dict[str, dict[int, TimedVisit]] = {}
    for visit in content.visits:
        by_program.setdefault(visit.program, {})[visit.round] = visit
    broken = {
        failure.program: failure.message
        for failure in content.failures
        if len(by_program.get(failure.program, ())) < FIRST_LOOK
    }
    programs = {program.id: program for program in manifest.programs}

    measurements, not_measured = [], []
    failures = [
        Failure(layer=f.layer, reason="error", message=f"not converted: {f.message}"[:2000], session=0)
        for f in manifest.failures
        if f.layer is not None
    ]
    for entry in manifest.layers:
        failed = next((term.program for term in entry.value if term.program in broken), None)
        if failed is not None:
            text = f"on the device, {programs[failed].what}: {broken[failed]}"
            failures.append(Failure(layer=entry.layer, reason="error", message=text[:2000], session=0))
            continue
        found = _measure(entry, by_program, programs, precision)
        if isinstance(found, str):
            not_measured.append(NotMeasured(layer=entry.layer, reason=found))
        else:
            measurements.append(found)
    try:
        return LatencyTable(
            device=_device(content),
            setting=coreml_setting(manifest.options, compute_units=content.compute_units, timing=content.timing),
            sessions=[_session(Path(timings), content, manifest, by_program, precision)],
            measurements=measurements,
            curves=manifest.channel_curves(),
            not_measured=not_measured,
            failures=failures,
        )
    except (TableError, UsageError) as error:
        raise ProfileError(f"{os.fspath(timings)}, with {os.fspath(bundle)}: they make no table: {error}") from None


def network_timings(timings: str | os.PathLike[str], bundle: str | os.PathLike[str]) -> tuple[NetworkTiming, ...]:
    """Return the latencies of the whole networks in a bundle that were timed; a table holds layers only.

    Raises:
        FileAccessError, ProfileError: as :func:`import_timings`, though the models' files are not read.
    """
    manifest = load_bundle(bundle, verify=False)
    content = read_timings(timings, manifest)
    found = []
    for network in manifest.networks:
        mine = [v for v in content.visits if v.program == network.program]
        clean = [v for v in mine if _cause([v]) is None]
        values = [median(v.block_ms) for v in (clean if len(clean) >= FIRST_LOOK else mine)]
        if values:
            low, high, _ = median_interval(values, LEVEL)
            found.append(NetworkTiming(network.name, median(values), low, high, len(values)))
    return tuple(found)


# How each way of measuring comes at its values: the bundle's own runner, this Mac, a connected phone.
TIMINGS = {None: "sustained", "mac": "back-to-back", "iphone": "idle-burst"}


def not_measured_table(
    layers: Iterable[Layer],
    curves: Iterable[ChannelCurve] = (),
    networks: Iterable[MeasuredNetwork] = (),
    *,
    reason: str = "not timed yet: Core ML runs on Apple hardware only; export-coreml makes a bundle for it",
    batch: int = 1,
    dtype: str | None = None,
    compute_units: str = "ALL",
    model_format: str = "mlprogram",
    deployment_target: str | None = None,
    context: str = "network",
    device: str | None = None,
) -> LatencyTable:
    """Return a table that says of every layer that it was not measured, and why: what a machine without Core ML knows.

    Raises:
        UsageError: an option makes no sense.
    """
    check_compute_units(compute_units)
    options = make_options(
        batch=batch,
        precision=dtype,
        model_format=model_format,
        deployment_target=deployment_target,
        context=context,
    )
    return LatencyTable(
        device=Device(
            kind="none",
            model="no Apple device",
            architecture="unknown",
            system="unknown",
            cores=1,
            affinity_cpus=1,
        ),
        setting=coreml_setting(options, compute_units=compute_units, timing=TIMINGS[device]),
        sessions=(),
        measurements=(),
        curves=curves,
        not_measured=[NotMeasured(layer=layer, reason=reason) for layer in dict.fromkeys(layers)],
        networks=networks,
    )


def coreml_setting(options: ExportOptions, *, compute_units: str, timing: str) -> Setting:
    """Return the setting of a table: what the programs were converted for, and how they were timed."""
    return Setting(
        target="coreml",
        batch=options.batch,
        dtype=options.dtype,
        threads=None,
        memory_format=None,
        context=options.context,
        options={
            "compute_units": compute_units,
            "format": options.format,
            "deployment_target": options.deployment_target,
            "timing": timing,
        },
    )


class _Round(NamedTuple):
    """A layer's value in one round."""

    at_s: float
    ms: float
    cause: RejectionCause | None
    unresolved: bool
    nothing: bool


def _measure(
    entry: LayerEntry,
    by_program: Mapping[str, Mapping[int, TimedVisit]],
    programs: Mapping[str, Program],
    precision: float,
) -> Measurement | str:
    """Return a layer's measurement, or why it has none."""
    untimed = [programs[term.program].what for term in entry.value if not by_program.get(term.program)]
    if untimed:
        return (
            f"the device timed {len(entry.value) - len(untimed)} of its {len(entry.value)} programs, not {untimed[0]!r}"
        )
    common = set.intersection(*[set(by_program[term.program]) for term in entry.value])
    if not common:
        return f"there is no round in which the device timed all {len(entry.value)} of its programs"
    rounds = [_combine(entry.value, {t.program: by_program[t.program][r] for t in entry.value}) for r in common]
    rounds.sort(key=lambda one: one.at_s)
    clean = [one for one in rounds if one.cause is None]
    contaminated = len(clean) < FIRST_LOOK and len(clean) < len(rounds)
    accepted = rounds if contaminated else clean
    if sum(one.nothing for one in accepted) > len(accepted) / 2:
        return "copies add nothing that can be told from noise: most rounds' differences are not positive"
    values = [one.ms for one in accepted]
    middle = median(values)
    low, high, level = median_interval(values, LEVEL)
    at_resolution = sum(one.unresolved for one in accepted) > UNRESOLVED_SHARE * len(accepted)
    flags: list[Flag] = []
    if level >= LEVEL and (high - low) / 2 <= precision * middle and not at_resolution:
        flags.append("converged")
    if contaminated:
        flags.append("contaminated")
    if bimodal_split(values) is not None:
        flags.append("bimodal")
    least, most = min(low, quantile(values, (1 - LEVEL) / 2)), max(high, quantile(values, (1 + LEVEL) / 2))
    if at_resolution:
        flags.append("at_resolution")
        # What was lost counts as the least that can be told from nothing; from below, the value is not known.
        low, least = min(low, NEXT_TO_NOTHING_MS), min(least, NEXT_TO_NOTHING_MS)
    alone = [t.program for t in entry.value if programs[t.program].role == "chain" and programs[t.program].copies == 1]
    also = {}
    if alone:
        also["alone_ms"] = _six(median([median(visit.block_ms) for visit in by_program[alone[0]].values()]))
    return Measurement(
        layer=entry.layer,
        origin="imported",
        session=0,
        median_ms=middle,
        raw_median_ms=middle,
        within_run=Interval(low_ms=low, high_ms=high, level=level),
        across_runs=Interval(low_ms=least, high_ms=most, level=level),
        flags=tuple(flags),
        calls_per_block=int(median([v.calls for v in by_program[entry.value[0].program].values()])),
        implementation=None,
        visits=Visits(
            process=(0,) * len(accepted),
            at_s=tuple(round(one.at_s, 3) for one in accepted),
            raw_ms=tuple(values),
            drift=(1.0,) * len(accepted),
        ),
        rejected=tuple(
            RejectedVisit(cause=one.cause, process=0, at_s=round(one.at_s, 3), raw_ms=one.ms)
            for one in rounds
            if one.cause is not None and not contaminated
        ),
        also=also,
    )


def _combine(value: Sequence[Term], visits: Mapping[str, TimedVisit]) -> _Round:
    parts = [term.weight * median(visits[term.program].block_ms) for term in value]
    total, least = sum(parts), LEAST_SHARE * max(map(abs, parts))
    used = list(visits.values())
    return _Round(
        at_s=max(visit.at_s for visit in used),
        ms=_six(min(1e9, max(total, least, 1e-9))),
        cause=_cause(used),
        unresolved=total <= least,
        nothing=total <= 0,
    )


def _cause(visits: Sequence[TimedVisit]) -> RejectionCause | None:
    # A device that does not tell its thermal state (an old macOS) is taken at its word that it does not know.
    if any(visit.thermal not in ("nominal", "unknown") for visit in visits):
        return "thermal"
    return "low_power" if any(visit.low_power for visit in visits) else None


def _six(value: float) -> float:
    return float(f"{value:.6g}")


def _device(timings: Timings) -> Device:
    device = timings.device
    return Device(
        kind=device.kind,
        model=f"{NO_DEVICE} ({device.model})" if timings.synthetic else device.model,
        architecture=device.architecture,
        system=device.system,
        cores=device.cores,
        affinity_cpus=device.cores,
        memory_gib=device.memory_gib,
    )


def _session(
    path: Path,
    timings: Timings,
    manifest: Manifest,
    by_program: Mapping[str, Mapping[int, TimedVisit]],
    precision: float,
) -> Session:
    """Return the device's session as provenance."""
    spoiled = sum(_cause([visit]) is not None for visit in timings.visits)
    warnings = []
    if timings.synthetic:
        warnings.append(f"{NO_DEVICE}: no number of this table says anything about a device")
    if spoiled:
        warnings.append(f"{spoiled} of {len(timings.visits)} visits were made while the device was hot or saved power")
    names = {program.id: program.what for program in manifest.programs}
    for failure in timings.failures:
        timed = len(by_program.get(failure.program, ()))
        if timed >= FIRST_LOOK:
            text = f"{names[failure.program]} failed on the device; its {timed} visits count: {failure.message}"
            warnings.append(text[:2000])
    if timings.rounds < FIRST_LOOK:
        warnings.append(f"{timings.rounds} rounds: an interval of 95 % needs {FIRST_LOOK} at least")
    widths = []
    for visits in by_program.values():
        values = [median(visit.block_ms) for visit in visits.values()]
        low, high, _ = median_interval(values, LEVEL)
        widths.append((high - low) / 2 / median(values))
    content = read_bytes(path)
    busy_s = sum(visit.calls * sum(visit.block_ms) for visit in timings.visits) / 1000
    return Session(
        started_at=timings.started_at,
        ended_at=timings.ended_at,
        measuring_s=round(min(busy_s, 1e9), 2),
        software=Software(
            python=platform.python_version(),
            packages=manifest.software,
            details={
                "runner": timings.runner,
                "bundle": manifest.bundle,
                "timings_sha256": hashlib.sha256(content).hexdigest(),
            },
        ),
        protocol=Protocol(
            name="coreml-rounds",
            seed=timings.seed,
            precision=precision,
            target_precision=precision,
            level=LEVEL,
            time_budget_s=None,
            blocks_per_visit=timings.blocks_per_visit,
            block_ms=timings.target_block_ms,
            first_look=FIRST_LOOK,
            most_visits=max(1, timings.rounds),
            rounds_per_process=max(1, timings.rounds),
            most_processes=1,
            drift_window=1,
            layer_limit_s=0.0,
            sentinel_every=1,
        ),
        preflight=Preflight(
            warnings=tuple(warnings),
            noise_floor=min(1.0, median(widths)) if widths else 0.0,
            noise_floor_visits=len(timings.visits),
            timer_resolution_ns=timings.clock_step_ns,
            timer_overhead_ns=timings.clock_cost_ns,
        ),
        correction=Correction(name=CORRECTION, description=DESCRIPTION, parameters={}),
        sentinels=(),
        processes=1,
        resumed=0,
        spread=Spread(common_drift=min(10.0, _common_drift(by_program)), scale=0.0, process=0.0),
    )


def _common_drift(by_program: Mapping[str, Mapping[int, TimedVisit]]) -> float:
    """Return the standard deviation over the rounds of what all programs have in common, in log."""
    by_round: dict[int, list[float]] = {}
    for visits in by_program.values():
        middle = median([median(visit.block_ms) for visit in visits.values()])
        for number, visit in visits.items():
            by_round.setdefault(number, []).append(log(median(visit.block_ms) / middle))
    return pstdev([median(logs) for logs in by_round.values()]) if len(by_round) > 1 else 0.0

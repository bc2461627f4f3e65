"""Profiling from end to end: plan, lock, measure, judge, write."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import entry_points
from math import exp, log
from pathlib import Path
from statistics import fmean, median
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from lut import (
    ChannelCurve,
    Failure,
    LatencyTable,
    Layer,
    Measurement,
    Network,
    NotMeasured,
    SearchSpace,
    UsageError,
    Visits,
)
from lut._codec import refuse_unwritable
from lut._files import file_error, write_atomically
from lut._records import (
    NOT_CHOSEN,
    Correction,
    NetworkRecord,
    Protocol,
    RejectedVisit,
    SentinelTimeline,
    Session,
    WholeMeasurement,
)
from lut.errors import FileAccessError, InterruptedRunError, JournalError, TargetUnavailableError
from predictors._show import parse_alpha
from profiler._adaptive import Adaptive, Sampler
from profiler._contexts import Offset, as_parameters
from profiler._journal import FORMAT, VERSION, Journal, JournalContent, JournalHeader, journal_path
from profiler._judge import Judgement, LayerJudgement, judge
from profiler._lock import device_lock
from profiler._plan import LEAST_ENTRY, LEAST_SENTINEL_VISITS, LOOKS, MANY_NETWORKS, SENTINELS, Plan, make_protocol
from profiler._racing import GROUPS, races_of
from profiler._reference import agrees, check_references, load_references, reference_path, save_references
from profiler._session import Progress, SessionResult, Sorted, run_session, sort_visits
from profiler._target import TargetSpec, target_factory, target_spec
from profiler._tested import kept_self_test, self_test_path
from profiler._visit import Implementation, LayerFailure, Visit
from profiler._walk import Walk, walk_of
from profiler._whole import Subject, record_of, subject_of
from profiler._worker import ChildWorker, Ready, Worker

__all__ = ["HOST_EVERY", "check_output", "goes_along", "hosts_for", "load_space", "profile", "profile_plan"]

# Visits to a whole network whose two halves say how well it repeats.
LEAST_REPEATED = 4

# Of many networks, layers are timed in the places of one in so many.
HOST_EVERY = 3

# Compiling one layer takes many seconds, far more than timing it.
COMPILE_LIMIT_S = 300.0

CORRECTION = "local median polish, states, sentinel scale"
DESCRIPTION = (
    "corrected = raw_ms / drift. drift holds what was common to all layers at the time of the visit (a running median "
    "over neighbouring visits of other layers), what this layer shares of the machine's states (slow factors to which "
    "each layer responds in its own measure), and one factor for the session, which brings its sentinels to their "
    "reference_ms on average (in log)"
)


def load_space(name: str, *, expand: float) -> SearchSpace:
    """Return an installed search space (entry point group ``latency_lut.spaces``).

    Raises:
        UsageError: no space has this name, or ``expand`` is out of its range.
    """
    found = {point.name: point for point in entry_points(group="latency_lut.spaces")}
    if name not in found:
        known = ", ".join(sorted(found)) or "none: is latency-lut installed? pip install -e ."
        raise UsageError(f"unknown space {name!r}; installed: {known}")
    make: Callable[..., SearchSpace] = found[name].load()
    return make(expand=expand)


def profile(
    layers: Iterable[Layer],
    *,
    target: str | TargetSpec = "cpu",
    batch: int | None = None,
    threads: int | None = None,
    dtype: str | None = None,
    memory_format: str | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    curves: Iterable[ChannelCurve] = (),
    groups: int = GROUPS,
    alpha: float | Literal["auto"] = 1.0,
    networks: Iterable[Network | Subject] = (),
    adaptive: Adaptive | None = None,
    precision: float | None = None,
    time_budget_s: float | None = None,
    quick: bool = False,
    seed: int = 0,
    layer_limit_s: float | None = None,
    output: str | os.PathLike[str] | None = None,
    restart: bool = False,
    reference: Path | None = None,
    new_reference: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> LatencyTable:
    """Measure layers and return their lookup table.

    Args:
        layers: what to measure; each layer is measured once.
        target: an installed target's name, or a spec of another.
        batch: samples per call; by default what the target takes (cpu 4, onnx and coreml 1).
        threads: CPU threads; by default as many as CPUs are allowed to this process.
        dtype: the data type, by PyTorch's name; by default the target's.
        memory_format: ``contiguous`` or ``channels_last``; by default the target's.
        options: the target's own options, such as ``{"context": "isolated"}``; ``None`` leaves one to the target.
        curves: channel sweeps among the layers, to be named in the table.
        groups: of each sweep's widths, from each of which one is to be chosen; layers between which that choice is
            open are measured longer. 0: nothing is to be chosen.
        alpha: the exponent of the law that they are chosen by, ``"auto"`` to fit it; see :class:`predictors.PowerLaw`.
        networks: networks to measure whole, in the same rounds as the layers, so that the table carries an audit of
            its sums; their layers are measured too.
        adaptive: measure only those of the layers that tell most of the latencies of networks, until ``networks`` are
            predicted well enough; ``None``: measure all.
        precision: see :func:`make_protocol`, as ``time_budget_s``, ``quick``, ``seed`` and ``layer_limit_s``.
        time_budget_s: seconds.
        quick: a rough table soon.
        seed: of all randomness.
        layer_limit_s: seconds after which a layer that does not answer is given up.
        output: where the table is written; an interrupted run leaves a journal beside it and goes on from there.
            ``None`` keeps nothing.
        restart: discard an interrupted run's journal, and replace a finished table.
        reference: file with the machines' reference speeds; by default in the user's cache folder.
        new_reference: forget the machine's reference speed, and take this session's.
        progress: told where the session stands.

    Raises:
        UsageError: an argument is out of range, there are no layers, two networks have one name, or ``output`` holds a
            finished table.
        TargetUnavailableError: the target cannot run here.
        DeviceBusyError: another profile is running.
        JournalError: the journal belongs to another command.
        FileAccessError: the output or the machine's reference speed cannot be written, or the latter's file is damaged.
        InterruptedRunError: stopped by the user; the visits so far are kept.
    """
    parse_alpha(str(alpha))
    subjects = sorted(
        (subject_of(network) if isinstance(network, Network) else network for network in networks),
        key=lambda subject: subject.whole is None,
    )
    inner = [item.layer for subject in subjects for item in subject.network.layers]
    entries = tuple(dict.fromkeys([*layers, *inner]))
    if isinstance(target, str):
        common = {"batch": batch, "dtype": dtype, "threads": threads, "memory_format": memory_format}
        spec = target_spec(target, entries, [s.network for s in subjects if s.whole is not None], **common, **options)
    else:
        spec = target
    if layer_limit_s is None:
        layer_limit_s = limit_for(spec)
    protocol = make_protocol(
        precision=precision, time_budget_s=time_budget_s, quick=quick, seed=seed, layer_limit_s=layer_limit_s
    )
    protocol = protocol_for(spec, protocol)
    wholes = tuple(subject.whole for subject in subjects if subject.whole is not None)
    sampling = ""
    if adaptive is not None:
        adaptive.check(len(wholes))
        sampling = f"adaptive, {adaptive.target_error:g}, {[n.name for n in adaptive.networks]}"
        entries = tuple(dict.fromkeys([*entries, *adaptive.layers]))
    # Adaptive sampling ends by its error on networks none of whose layers is measured for their sake.
    measured = [subject.network for subject in subjects if subject.whole is not None]
    hosts = hosts_for(spec, measured, entries) if adaptive is None else ()
    if len(measured) >= MANY_NETWORKS:
        # The others say how well sums hold for networks that gave no layer its value.
        hosts = tuple(walk if number % HOST_EVERY == 0 else () for number, walk in enumerate(hosts))
    number = {layer: i for i, layer in enumerate(entries)}
    curves = tuple(curves)
    swept = tuple(tuple(number[layer] for layer in curve.layers if layer in number) for curve in curves)
    plan = Plan(spec.factory, spec.options, entries, protocol, wholes, sampling, hosts, swept)
    with contextlib.ExitStack() as stack:
        keep = output is not None
        if output is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="latency-lut-"))
            output = Path(folder) / "table.json"
        return profile_plan(
            plan,
            curves=curves,
            groups=groups,
            alpha=alpha,
            networks=[record_of(subject) for subject in subjects],
            sampler=None
            if adaptive is None
            else Sampler(adaptive, entries, [s.network for s in subjects if s.whole is not None], seed),
            output=Path(output),
            restart=restart,
            reference=reference or reference_path(),
            new_reference=new_reference,
            keep=keep,
            progress=progress,
        )


def hosts_for(spec: TargetSpec, networks: Sequence[Network], entries: Sequence[Layer]) -> tuple[Walk, ...]:
    """Return networks with their layers in their places; none where the target times no layers there.

    Args:
        spec: the target.
        networks: those that are measured whole, in order.
        entries: layers, those of the networks among them.
    """
    if not goes_along(spec.factory, spec.options):
        return ()
    number = {layer: i for i, layer in enumerate(entries)}
    return tuple(walk_of(network, number) for network in networks)


def goes_along(factory: str, options: Mapping[str, Any]) -> bool:
    """Return whether a target times layers in the places of networks."""
    found = False
    with contextlib.suppress(TargetUnavailableError):
        found = getattr(target_factory(factory), "goes_along", False)
    return found and options.get("context") != "isolated"


def limit_for(spec: TargetSpec) -> float | None:
    """Return the seconds after which a layer of a target is given up, ``None`` where the protocol's do."""
    return COMPILE_LIMIT_S if spec.options.get("compile") else None


def protocol_for(spec: TargetSpec, protocol: Protocol) -> Protocol:
    """Return the protocol as a target needs it."""
    if spec.options.get("compile"):
        # Every process compiles anew, for far longer than it measures.
        return msgspec.structs.replace(protocol, most_processes=2, rounds_per_process=LOOKS[2])
    # No layer is looked at before so many visits, a round each.
    least = 1
    with contextlib.suppress(TargetUnavailableError):
        # Where its module is for the measuring process alone to find, that process says what is missing.
        least = getattr(target_factory(spec.factory), "least_processes", 1)
    return msgspec.structs.replace(
        protocol,
        rounds_per_process=max(1, min(protocol.rounds_per_process, protocol.first_look // least)),
        most_processes=max(protocol.most_processes, least),
    )


def profile_plan(
    plan: Plan,
    *,
    curves: Sequence[ChannelCurve],
    groups: int = GROUPS,
    alpha: float | Literal["auto"] = 1.0,
    networks: Sequence[NetworkRecord] = (),
    sampler: Sampler | None = None,
    output: Path,
    restart: bool,
    reference: Path,
    new_reference: bool,
    keep: bool,
    offsets: Mapping[str, Offset] | None = None,
    as_one: bool = False,
    accept: Callable[[Ready], None] = lambda _: None,
    progress: Callable[[Progress], None],
) -> LatencyTable:
    """Measure a plan and write its table; see :func:`profile`.

    Args:
        plan: what to measure; it may be whole networks and no layer.
        curves: channel sweeps among the layers.
        groups: of each sweep's widths.
        alpha: the exponent of the law that they are chosen by.
        networks: the table's; the plan's wholes come first, in order.
        sampler: chooses which layers are measured.
        output: where the table is written.
        restart: discard an interrupted run's journal, and replace a finished table.
        reference: file with the machines' reference speeds.
        new_reference: take this session's.
        keep: whether the journal of a run that is stopped is of use to anybody.
        offsets: what chains make of layers, by kind of work, where the session itself does not tell; by default what
            the machine's self-test found.
        as_one: see :func:`~profiler._session.run_session`.
        accept: told what a process measures on, before it begins; raises what the caller is to get instead.
        progress: told where the session stands.
    """
    check_output(output, restart=restart)
    if not plan.size:
        raise UsageError("there is nothing to measure: no layers were given")
    # What would be refused at the end is refused before anything is measured.
    refuse_unwritable(plan.entries, curves, networks)
    check_references(reference)
    journal = Journal(journal_path(output))
    with device_lock("machine"):
        check_output(output, restart=restart)
        if restart:
            journal.delete()
        try:
            header, resumed = _open_journal(journal, plan, output)
            # Visits are dated by a monotonic clock, from the moment at which the first run began.
            origin = time.monotonic() - max(0.0, time.time() - header.started_unix_s)
            spec = TargetSpec(plan.target, plan.options)

            def make_worker(process: int) -> Worker:
                worker = ChildWorker(
                    spec,
                    plan.entries,
                    plan.protocol,
                    process=process,
                    origin=origin,
                    journal=journal.path,
                    wholes=plan.wholes,
                    hosts=plan.hosts,
                )
                try:
                    accept(worker.ready)
                except BaseException:
                    worker.close()
                    raise
                return worker

            def told(ready: Ready) -> Mapping[str, Offset]:
                return _offsets_on(ready, reference) if offsets is None else offsets

            if sampler is not None and resumed is not None:
                sampler.reopen(visit.entry for visit in resumed.visits)
            result = run_session(
                plan,
                make_worker,
                journal,
                resumed=resumed,
                sampler=sampler,
                as_one=as_one,
                offsets=told,
                races=races_of(curves, {layer: i for i, layer in enumerate(plan.entries)}, groups, alpha),
                repeats=_repeats(plan, networks),
                progress=progress,
            )
            table = _assemble(
                plan,
                result,
                header,
                curves,
                networks,
                reference,
                new_reference=new_reference,
                sampler=sampler,
                offsets=told(result.ready),
            )
            content = table.to_json()
            # The visits are given up only for a file that can be read again.
            LatencyTable.from_json(content, source=str(output))
            write_atomically(output, content)
        except (TargetUnavailableError, UsageError):
            # Nothing was measured, so there is nothing to go on from.
            if journal.path.exists() and not journal.read().visits:
                journal.delete()
            raise
        except KeyboardInterrupt:
            if not keep:
                raise InterruptedRunError("stopped; nothing is kept, since no output was named") from None
            kept = len(journal.read().visits)
            raise InterruptedRunError(
                f"{kept} visits are kept in {journal.path}; run the same command again"
                f"{' without --restart' if restart else ''} to go on from there"
            ) from None
        finally:
            journal.close()
        journal.delete()
    return table


def _offsets_on(ready: Ready, reference: Path) -> Mapping[str, Offset]:
    """Return what this machine's self-test found of chains; nothing where it found that its sums do not hold."""
    tested = kept_self_test(self_test_path(reference), ready.device, ready.setting, ready.software)
    return {} if tested is None or tested.verdict == "do not hold" else tested.chains


def _repeats(plan: Plan, networks: Sequence[NetworkRecord]) -> dict[int, int]:
    """Return how often layers stand in the networks, by entry; nothing where there are many, which are samples."""
    if len(networks) >= MANY_NETWORKS:
        return {}
    number = {layer.digest: entry for entry, layer in enumerate(plan.entries)}
    return dict(sum((Counter({number[p.layer]: p.count}) for n in networks for p in n.layers), Counter[int]()))


def check_output(output: Path, *, restart: bool) -> None:
    """Raise unless a table can be written there in the end: before anything is traced or measured.

    Raises:
        UsageError: a finished table is there.
        FileAccessError: the folder is missing, or something else than a file is there.
    """
    try:
        mode = output.stat().st_mode
    except FileNotFoundError:
        mode = None
        if not output.parent.is_dir():
            raise file_error(output, "write", FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))) from None
    except (OSError, ValueError) as error:
        raise file_error(output, "write", error) from None
    if mode is not None and stat.S_ISDIR(mode):
        raise file_error(output, "write", IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if mode is not None and not stat.S_ISREG(mode):
        raise FileAccessError(f"cannot write {output}: it is no regular file; --output names one")
    if mode is not None and not restart and not journal_path(output).exists():
        raise UsageError(
            f"{output} exists already; --restart measures again and replaces it in the end, --output writes elsewhere"
        )


def _open_journal(journal: Journal, plan: Plan, output: Path) -> tuple[JournalHeader, JournalContent | None]:
    exists = journal.path.exists() and journal.path.stat().st_size > 0
    journal.open(exclusive=True)
    resumed = None
    # A run that was killed while it wrote the very first line leaves an empty file once that line is cut off.
    if exists and journal.path.stat().st_size > 0:
        resumed = journal.read()
        if resumed.header.plan != plan.digest:
            raise JournalError(
                f"{journal.path} belongs to an interrupted run with other options or layers. Run that command again "
                f"to finish it, give another --output than {output}, or discard it with --restart"
            )
        entries = [
            note.entry for notes in (resumed.visits, resumed.failures, resumed.implementations) for note in notes
        ]
        if entries and not LEAST_ENTRY <= min(entries) <= max(entries) < plan.size:
            raise JournalError(f"{journal.path} holds layers that this run does not have; start afresh with --restart")
        return resumed.header, resumed
    threads = plan.options.get("threads")
    header = JournalHeader(
        format=FORMAT,
        version=VERSION,
        plan=plan.digest,
        started_at=_now(),
        started_unix_s=time.time(),
        threads=threads if isinstance(threads, int) else None,
    )
    journal.append(header)
    return header, None


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _assemble(
    plan: Plan,
    result: SessionResult,
    header: JournalHeader,
    curves: Sequence[ChannelCurve],
    networks: Sequence[NetworkRecord],
    reference: Path,
    *,
    new_reference: bool = False,
    sampler: Sampler | None = None,
    offsets: Mapping[str, Offset] = MappingProxyType({}),
) -> LatencyTable:
    """Return the table of a session's visits; ``sampler`` chose the entries that were to be measured, if not all."""
    ready = result.ready
    protocol = plan.protocol
    sorted_visits = sort_visits(result.visits, protocol.first_look, final=True)
    known = None if new_reference else load_references(reference, ready.device, ready.setting, ready.software)
    told: dict[str, Any] = {
        "contaminated": sorted_visits.contaminated,
        "kinds": plan.kinds(),
        "offsets": offsets,
        "curves": plan.curves,
        "of_samples": plan.is_audited,
    }
    judgement = judge(sorted_visits.accepted, protocol, references=known, **told)
    warnings = list(result.preflight.warnings)
    usable = agrees(judgement.sentinel_ms, judgement.references)
    if not usable:
        known = None
        judgement = judge(sorted_visits.accepted, protocol, references=None, **told)
        warnings.append(
            f"the reference speed in {reference} cannot be this machine's, and was not used; --new-reference sets it "
            "anew"
        )
    speed = exp(
        fmean([log(judgement.sentinel_ms[e] / judgement.references[e]) for e in judgement.sentinel_ms] or [0.0])
    )
    if known is not None and abs(log(speed)) > log(1.15):
        warnings.append(
            f"the machine took {speed:.2f} times as long as at its reference speed, to which latencies are brought; "
            "if it is another machine for good, profile with --new-reference"
        )
    source = "earlier sessions on this machine" if known else "this session's calm speed"
    sentinel_visits = [sorted_visits.counts.get(-1 - i, 0) for i in range(len(SENTINELS))]
    trusted = min(sentinel_visits) >= LEAST_SENTINEL_VISITS and not any(e < 0 for e in sorted_visits.contaminated)
    if known is None and trusted and usable:
        try:
            save_references(reference, ready.device, ready.setting, ready.software, judgement.references)
        except FileAccessError as error:
            warnings.append(f"the reference speed could not be kept for later sessions: {error}")
    session = Session(
        started_at=header.started_at,
        ended_at=_now(),
        measuring_s=round(result.measuring_s, 2),
        software=ready.software,
        protocol=protocol,
        preflight=msgspec.structs.replace(result.preflight, warnings=tuple(warnings)),
        correction=Correction(
            name=CORRECTION,
            description=DESCRIPTION + f". The reference is that of {source}",
            parameters={
                "window_visits": float(protocol.drift_window),
                "states": float(judgement.factors),
                "autocorrelation": round(judgement.autocorrelation, 4),
                **as_parameters(judgement.chains),
            },
        ),
        sentinels=tuple(_sentinels(sorted_visits, judgement.sentinel_ms, judgement.references)),
        processes=result.processes,
        resumed=result.resumed,
        spread=judgement.spread,
        estimator="trimmed mean",
        sampling=None if sampler is None else sampler.record,
    )
    notes = {note.entry: note for note in result.implementations}
    failed = {failure.entry: failure for failure in result.failures}
    measurements, not_measured, failures = [], [], []
    named = {part.layer for network in networks for part in network.layers}
    for entry, layer in enumerate(plan.entries):
        found = judgement.layers.get(entry)
        if entry in failed:
            failure = failed[entry]
            reason: Any = failure.reason if failure.reason in ("out_of_memory", "timeout", "crashed") else "error"
            failures.append(Failure(layer=layer, reason=reason, message=failure.message[:2000], session=0))
        elif found is None and sampler is not None and entry not in sampler.opened:
            # Of the many that could have been chosen, those that the table's networks name are all that anyone asks of.
            if layer.digest in named:
                not_measured.append(NotMeasured(layer=layer, reason=NOT_CHOSEN))
        elif found is None:
            budget = f"the time budget of {protocol.time_budget_s:g} s ended before its first visit"
            not_measured.append(NotMeasured(layer=layer, reason=budget))
        else:
            spoiled = sorted_visits.rejected.get(entry, [])
            measurements.append(_measurement(layer, found, spoiled, notes.get(entry)))
    present = {entry.layer for entries in (measurements, not_measured, failures) for entry in entries}
    return LatencyTable(
        device=ready.device,
        setting=ready.setting,
        sessions=[session],
        measurements=measurements,
        curves=[curve for curve in curves if present.issuperset(curve.layers)],
        not_measured=not_measured,
        failures=failures,
        networks=_measured(plan, networks, judgement, sorted_visits, failed),
    )


def _measured(
    plan: Plan,
    networks: Sequence[NetworkRecord],
    judgement: Judgement,
    sorted_visits: Sorted,
    failed: Mapping[int, LayerFailure],
) -> Iterator[NetworkRecord]:
    """Yield the networks with what each one took as a whole; the plan's wholes come first, in order."""
    for number, network in enumerate(networks):
        entry = len(plan.entries) + number
        if number >= len(plan.wholes):
            yield network
            continue
        known = msgspec.structs.replace(network, in_place=number < len(plan.hosts) and bool(plan.hosts[number]))
        if entry in failed:
            yield msgspec.structs.replace(known, reason=failed[entry].message[:2000])
        elif (found := judgement.layers.get(entry)) is None:
            yield msgspec.structs.replace(known, reason="the time budget ended before its first visit")
        else:
            whole = _whole_measurement(found, sorted_visits.rejected.get(entry, []))
            yield msgspec.structs.replace(known, whole=whole)


def _whole_measurement(found: LayerJudgement, spoiled: list[Visit]) -> WholeMeasurement:
    corrected = [visit.ms / drift for visit, drift in zip(found.visits, found.drift, strict=True)]
    repeat = None
    if len(corrected) >= LEAST_REPEATED:
        repeat = float(f"{abs(median(corrected[::2]) / median(corrected[1::2]) - 1):.4g}")
    return WholeMeasurement(
        session=0,
        median_ms=found.median_ms,
        raw_median_ms=found.raw_median_ms,
        within_run=found.within_run,
        across_runs=found.across_runs,
        flags=found.flags,
        calls_per_block=max(1, round(median([visit.calls for visit in found.visits]))),
        visits=_visits(found),
        rejected=_rejected(spoiled),
        repeat_error=repeat,
    )


def _sentinels(
    sorted_visits: Sorted, levels: dict[int, float], references: dict[int, float]
) -> Iterator[SentinelTimeline]:
    for i, layer in enumerate(SENTINELS):
        mine = sorted((v for v in sorted_visits.accepted if v.entry == -1 - i), key=lambda v: v.at_s)
        if mine and -1 - i in references:
            yield SentinelTimeline(
                what=str(layer),
                reference_ms=float(f"{references[-1 - i]:.6g}"),
                session_ms=float(f"{levels[-1 - i]:.6g}"),
                at_s=tuple(round(visit.at_s, 2) for visit in mine),
                ms=tuple(visit.ms for visit in mine),
            )


def _measurement(
    layer: Layer, found: LayerJudgement, spoiled: Sequence[Visit], note: Implementation | None
) -> Measurement:
    observed = sorted({name for visit in found.visits for name in visit.also})
    return Measurement(
        layer=layer,
        origin=note.origin if note else "measured",
        session=0,
        median_ms=found.median_ms,
        raw_median_ms=found.raw_median_ms,
        within_run=found.within_run,
        across_runs=found.across_runs,
        flags=found.flags,
        calls_per_block=found.visits[-1].calls,
        implementation=(note.kernel or None) if note else None,
        visits=_visits(found),
        rejected=_rejected(spoiled),
        also={name: float(f"{median(v.also[name] for v in found.visits if name in v.also):.6g}") for name in observed},
    )


def _visits(found: LayerJudgement) -> Visits:
    return Visits(
        process=tuple(visit.process for visit in found.visits),
        at_s=tuple(round(visit.at_s, 3) for visit in found.visits),
        raw_ms=tuple(visit.ms for visit in found.visits),
        drift=tuple(found.drift),
    )


def _rejected(spoiled: Sequence[Visit]) -> tuple[RejectedVisit, ...]:
    return tuple(
        RejectedVisit(cause=v.cause, process=v.process, at_s=round(v.at_s, 3), raw_ms=v.ms)
        for v in spoiled
        if v.cause is not None
    )

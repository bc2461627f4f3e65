"""The table of a session: its judged visits, with their provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from math import exp, log
from pathlib import Path
from statistics import fmean, median
from types import MappingProxyType
from typing import Any

import msgspec

from lut import ChannelCurve, LatencyTable, Layer, Measurement
from lut._measured_network import MeasuredNetwork
from lut._option_names import option_text
from lut._records import (
    NOT_CHOSEN,
    Correction,
    EndToEnd,
    Failure,
    NotMeasured,
    RejectedVisit,
    SentinelTimeline,
    Session,
    Visits,
)
from lut.errors import FileAccessError
from profiler._adaptive import Sampler
from profiler._contexts import Offset, as_parameters
from profiler._journal import JournalHeader
from profiler._judge import Judgement, LayerJudgement, judge
from profiler._plan import LEAST_SENTINEL_VISITS, SENTINELS, Plan
from profiler._reference import agrees, load_references, save_references
from profiler._session import SessionResult, Sorted, sort_visits
from profiler._visit import Implementation, LayerFailure, Visit

__all__ = ["assemble", "instant"]

# Visits to a whole network whose two halves say how well it repeats.
LEAST_REPEATED = 4

CORRECTION = "local median polish, states, sentinel scale"
DESCRIPTION = (
    "corrected = raw_ms / drift. drift holds what was common to all layers at the time of the visit (a running median "
    "over neighbouring visits of other layers), what this layer shares of the machine's states (slow factors to which "
    "each layer responds in its own measure), and one factor for the session, which brings its sentinels to their "
    "reference_ms on average (in log)"
)


def instant() -> str:
    """Return the time of now, as tables have it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def assemble(
    plan: Plan,
    result: SessionResult,
    header: JournalHeader,
    curves: Sequence[ChannelCurve],
    networks: Sequence[MeasuredNetwork],
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
            f"the reference speed in {reference} cannot be this machine's, and was not used; "
            f"{option_text('new_reference', True)} sets it anew"
        )
    speed = exp(
        fmean([log(judgement.sentinel_ms[e] / judgement.references[e]) for e in judgement.sentinel_ms] or [0.0])
    )
    if known is not None and abs(log(speed)) > log(1.15):
        warnings.append(
            f"the machine took {speed:.2f} times as long as at its reference speed, to which latencies are brought; "
            f"if it is another machine for good, profile with {option_text('new_reference', True)}"
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
        ended_at=instant(),
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
    named = {item.layer for known in networks for item in known.network.layers}
    for entry, layer in enumerate(plan.entries):
        found = judgement.layers.get(entry)
        if entry in failed:
            failure = failed[entry]
            reason: Any = failure.reason if failure.reason in ("out_of_memory", "timeout", "crashed") else "error"
            failures.append(Failure(layer=layer, reason=reason, message=failure.message[:2000], session=0))
        elif found is None and sampler is not None and entry not in sampler.opened:
            # Of the many that could have been chosen, those that the table's networks name are all that anyone asks of.
            if layer in named:
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
    networks: Sequence[MeasuredNetwork],
    judgement: Judgement,
    sorted_visits: Sorted,
    failed: Mapping[int, LayerFailure],
) -> Iterator[MeasuredNetwork]:
    """Yield the networks with what each one took as a whole; the plan's wholes come first, in order."""
    for number, network in enumerate(networks):
        entry = len(plan.entries) + number
        if number >= len(plan.wholes):
            yield network
            continue
        known = network._replace(in_place=number < len(plan.hosts) and bool(plan.hosts[number]))
        if entry in failed:
            yield known._replace(reason=failed[entry].message[:2000])
        elif (found := judgement.layers.get(entry)) is None:
            yield known._replace(reason="the time budget ended before its first visit")
        else:
            yield known._replace(end_to_end=_end_to_end(found, sorted_visits.rejected.get(entry, [])))


def _end_to_end(found: LayerJudgement, spoiled: list[Visit]) -> EndToEnd:
    corrected = [visit.ms / drift for visit, drift in zip(found.visits, found.drift, strict=True)]
    repeat = None
    if len(corrected) >= LEAST_REPEATED:
        repeat = float(f"{abs(median(corrected[::2]) / median(corrected[1::2]) - 1):.4g}")
    return EndToEnd(
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

"""A session: rounds of visits until every layer is known well enough or the time is up."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from math import log, sqrt
from typing import NamedTuple

import msgspec

from lut._records import Preflight
from lut._statistics import median_interval, quantile
from lut.errors import JournalError
from profiler._adaptive import Sampler
from profiler._journal import Journal, JournalContent, MachineSeen, PreflightDone, ProcessStart
from profiler._judge import Judgement, judge
from profiler._machine import load_average, preflight_warnings
from profiler._plan import LEAST_SENTINEL_VISITS, LOOKS, PREFLIGHT_ENTRY, SENTINEL_ENTRIES, Plan, next_round
from profiler._visit import Implementation, LayerFailure, Visit
from profiler._worker import Outcome, Ready, Worker

__all__ = ["Progress", "SessionResult", "Sorted", "run_session", "sort_visits"]

A_A_VISITS = 20
PREFLIGHT_SHARE = 0.15
# Visits that were spoiled, by one cause or another, before a layer's spoiled visits are taken after all.
MOST_REJECTED = 12
# Where all entries are measured equally long: processes that their medians come from at the least, and how many times
# as long as it took to start a process measures before another takes its place.
LEAST_PROCESSES = 3
WORTH_STARTING = 2.0
# Otherwise a process measures so many times as long as it took to start, at the least.
MEASURING_PER_START = 9.0
# Visits that say of one network of many what its sum is held against.
AUDIT_VISITS, MANY_NETWORKS = 24, 4


class Progress(NamedTuple):
    """Where a session stands."""

    elapsed_s: float
    left_s: float
    rounds: int
    visits: int
    converged: int
    layers: int
    phase: str


class Sorted(NamedTuple):
    """Visits sorted into those that count and those that do not; ``contaminated`` had only spoiled ones."""

    accepted: list[Visit]
    rejected: dict[int, list[Visit]]
    counts: dict[int, int]
    contaminated: frozenset[int]


class SessionResult(NamedTuple):
    """All that a session found."""

    ready: Ready
    visits: list[Visit]
    failures: list[LayerFailure]
    implementations: list[Implementation]
    preflight: Preflight
    processes: int
    resumed: int
    target_precision: float
    measuring_s: float


def sort_visits(visits: Sequence[Visit], first_look: int, *, final: bool) -> Sorted:
    """Sort visits by cause, never by value.

    A layer's spoiled visits are put aside and made again. Where that goes on (``MOST_REJECTED`` spoiled and still
    fewer than ``first_look`` clean ones; or, in the end, no clean one at all), they are accepted, and the layer is
    contaminated: a number with a warning rather than no number.
    """
    clean: dict[int, list[Visit]] = defaultdict(list)
    spoiled: dict[int, list[Visit]] = defaultdict(list)
    for visit in visits:
        (clean if visit.cause is None else spoiled)[visit.entry].append(visit)
    contaminated = frozenset(
        entry
        for entry, bad in spoiled.items()
        if (len(clean[entry]) < first_look and len(bad) >= MOST_REJECTED) or (final and not clean[entry])
    )
    accepted = [v for entry, good in clean.items() for v in good]
    accepted += [v for entry in contaminated for v in spoiled[entry]]
    counts: dict[int, int] = defaultdict(int)
    for visit in accepted:
        counts[visit.entry] += 1
    rejected = {entry: bad for entry, bad in spoiled.items() if entry not in contaminated}
    return Sorted(accepted, rejected, counts, contaminated)


def run_session(
    plan: Plan,
    make_worker: Callable[[int], Worker],
    journal: Journal | None,
    *,
    resumed: JournalContent | None = None,
    sampler: Sampler | None = None,
    as_one: bool = False,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[Progress], None] = lambda _: None,
) -> SessionResult:
    """Measure a plan's layers.

    Args:
        plan: what to measure, and how.
        make_worker: starts the measuring process of a number.
        journal: where processes and preflight are noted; visits are journalled by the worker.
        resumed: what an interrupted run's journal holds.
        sampler: chooses which layers are measured; all are without one.
        as_one: few entries that are to be compared: none is done before all are, so that all have the same rounds and
            processes; the noise floor does not end it; and processes follow each other by the time that they have
            measured, since such rounds are short.
        clock: seconds; the target's own for a simulated one.
        progress: told where the session stands, about twice a second.

    Raises:
        ProfileError: the target cannot run here, or its process cannot be started.
        FileAccessError: the journal cannot be written.
    """
    protocol = plan.protocol
    kinds = plan.kinds()
    load = load_average()
    visits = list(resumed.visits) if resumed else []
    failures = list(resumed.failures) if resumed else []
    implementations = list(resumed.implementations) if resumed else []
    preflight = resumed.preflight if resumed else None
    used = _used_s(visits)
    began = clock()
    budget = protocol.time_budget_s or float("inf")
    # A resumed run gets at least a quarter of its time again, whatever the journal says of the first part.
    deadline = began + max(budget - used, budget / 4 if resumed else budget)
    number = first_process = resumed.processes if resumed else 0
    rng = random.Random(f"{protocol.seed}-order-{number}")  # noqa: S311 - an order, no secret
    worker: Worker | None = None
    ready: Ready | None = None
    rounds = rounds_in_process = 0
    started_at = starting_s = 0.0
    half_width_ms: dict[int, float] = {}
    closed: set[int] = set()
    looked: dict[int, int] = {}
    converged: set[int] = set()
    # Networks are larger than the sentinel that the noise floor is taken from, and where few are to be compared, time
    # alone decides what they cannot reach.
    floored = not as_one
    target_precision = max(protocol.precision, preflight.noise_floor if preflight and floored else 0.0)

    def tell(phase: str, extra: int = 0) -> None:
        now = clock()
        progress(
            Progress(
                elapsed_s=now - began + used,
                left_s=max(0.0, deadline - now),
                rounds=rounds,
                visits=len(visits) + extra,
                converged=len(converged),
                layers=plan.size if sampler is None else len(sampler.opened),
                phase=phase,
            )
        )

    def settle(known: Sorted) -> Judgement:
        return judge(
            known.accepted,
            msgspec.structs.replace(protocol, target_precision=target_precision),
            references=None,
            contaminated=known.contaminated,
            kinds=kinds,
        )

    try:
        while True:
            failed = {failure.entry for failure in failures}
            sorted_visits = sort_visits(visits, protocol.first_look, final=False)
            counts = sorted_visits.counts
            entries = range(plan.size) if sampler is None else sorted(sampler.opened)
            open_entries = [e for e in entries if e not in failed and e not in closed]
            due = [e for e in open_entries if counts[e] >= LOOKS[0] and _look(counts[e]) > looked.get(e, 0)]
            if due and len(due) >= 0.1 * len(open_entries):
                tell("judging")
                settled = settle(sorted_visits)
                for entry in open_entries:
                    found = settled.layers.get(entry)
                    if found is None:
                        continue
                    half_width_ms[entry] = found.half_width * found.median_ms
                    if entry in due:
                        looked[entry] = counts[entry]
                        if "converged" in found.flags:
                            converged.add(entry)
                            if not as_one:
                                closed.add(entry)
                        elif as_one:
                            converged.discard(entry)
                        if counts[entry] >= protocol.most_visits:
                            closed.add(entry)
                if as_one and number - first_process >= min(LEAST_PROCESSES, protocol.most_processes):
                    closed |= converged if converged.issuperset(open_entries) else set()
                open_entries = [e for e in open_entries if e not in closed]
            if len(plan.wholes) >= MANY_NETWORKS and not as_one:
                audited = {e for e in open_entries if e >= len(plan.entries) and counts[e] >= AUDIT_VISITS}
                closed |= audited
                open_entries = [e for e in open_entries if e not in audited]
            waiting = [e for e in open_entries if counts[e] < protocol.first_look]
            if sampler is not None and ready is not None and not waiting and clock() < deadline:
                # Every layer that was chosen has had its first look: time to choose more.
                tell("judging")
                known = {entry: found.median_ms for entry, found in settle(sorted_visits).layers.items()}
                sampler.extend(ready.device, ready.setting, known, failed, tell)
                if sampler.done:
                    break
                continue
            if not open_entries and clock() < deadline:
                # Later visits sharpen the picture of the drift, and with it that of layers closed long ago: those that
                # no longer hold what was asked are opened again.
                tell("judging")
                found_all = settle(sorted_visits)
                reopened = {
                    entry
                    for entry in converged - failed
                    if counts[entry] < protocol.most_visits and "converged" not in found_all.layers[entry].flags
                }
                closed -= reopened
                converged -= reopened
                for entry in reopened:
                    looked[entry] = _look(counts[entry])
                open_entries = sorted(reopened)
            # Few layers are soon known; what ties their session to others is to be known as well.
            scarce = [] if open_entries or worker is None else _scarce_sentinels(counts, failed)
            if not (open_entries or scarce) or clock() >= deadline:
                break

            # No process is started for the sentinels' sake.
            stale = rounds_in_process >= protocol.rounds_per_process and not scarce
            if as_one:
                # What is quick is not to have all of its visits in one process.
                enough = rounds_in_process > protocol.most_visits // (LEAST_PROCESSES + 1)
                stale = stale and (enough or clock() - started_at >= WORTH_STARTING * starting_s)
            elif not waiting and clock() - started_at < MEASURING_PER_START * starting_s:
                # Short rounds are not to be spent on starting processes, once the first look has seen its own.
                stale = False
            if worker is not None and stale and number - first_process < protocol.most_processes:
                worker.close()
                worker = None
            if worker is None:
                tell("starting a measuring process")
                if journal is not None:
                    journal.append(ProcessStart(number, resumed=resumed is not None and number == first_process))
                starting = clock()
                worker = make_worker(number)
                if ready is None:
                    # Loading the framework is not measuring: a short budget is not to be over before it begins.
                    deadline += clock() - starting
                started_at = clock()
                starting_s = started_at - starting
                ready = worker.ready
                _check_machine(ready, resumed, journal, first=number == 0)
                number += 1
                rounds_in_process = 0
            if preflight is None:
                tell("measuring the noise floor")
                until = clock() + min(deadline - clock(), budget * PREFLIGHT_SHARE)
                outcome = worker.run([PREFLIGHT_ENTRY] * (2 * A_A_VISITS), until, lambda _: None)
                deadline += outcome.preparing_s
                visits += outcome.visits
                failures += outcome.failures
                preflight = _preflight(worker, outcome.visits, protocol.level, protocol.most_visits, load)
                target_precision = max(protocol.precision, preflight.noise_floor if floored else 0.0)
                if journal is not None:
                    journal.append(PreflightDone(preflight))
                if not outcome.alive:
                    worker.close()
                    worker = None
                    continue
                started_at = clock()

            if sampler is not None and waiting:
                # Those that wait for their first look, and as many of the others, so that all share one history.
                others = [e for e in open_entries if counts[e] >= protocol.first_look]
                open_entries = waiting + rng.sample(others, min(len(others), len(waiting)))
            hosts = {
                plan.size + number: {*(step.entry for step in walk), len(plan.entries) + number}
                for number, walk in enumerate(plan.hosts)
                if walk and worker.ready.walks and failed.isdisjoint(step.entry for step in walk)
            }
            order = scarce
            if open_entries:
                order = next_round(open_entries, counts, half_width_ms, protocol, rng, failed=failed, hosts=hosts)
            outcome = worker.run(order, deadline, lambda made: tell("measuring", made))
            if outcome.alive:
                visits += outcome.visits
                failures += outcome.failures
                implementations += outcome.implementations
            else:
                worker.close()
                worker = None
                # The time that a hanging layer took is given back to the others.
                deadline += sum(protocol.layer_limit_s for failure in outcome.failures if failure.reason == "timeout")
                visits, failures, implementations = _after_a_death(
                    journal, outcome, (visits, failures, implementations)
                )
            deadline += outcome.preparing_s
            rounds += 1
            rounds_in_process += 1
            tell("measuring")
    finally:
        if worker is not None:
            worker.close()
    if ready is None:
        # Everything was already in the journal; a process is still needed to say on what it was measured.
        worker = make_worker(number)
        ready = worker.ready
        worker.close()
    assert preflight is not None
    return SessionResult(
        ready=ready,
        visits=visits,
        failures=[failure for failure in failures if failure.entry >= 0],
        implementations=implementations,
        preflight=preflight,
        processes=number,
        resumed=(resumed.resumed + 1) if resumed else 0,
        target_precision=target_precision,
        measuring_s=clock() - began + used,
    )


def _scarce_sentinels(counts: Mapping[int, int], failed: Collection[int]) -> list[int]:
    """Return the visits to sentinels that are missing to a reference speed, in turns."""
    return [
        entry
        for turn in range(LEAST_SENTINEL_VISITS)
        for entry in SENTINEL_ENTRIES
        if entry not in failed and counts.get(entry, 0) + turn < LEAST_SENTINEL_VISITS
    ]


_Found = tuple[list[Visit], list[LayerFailure], list[Implementation]]


def _after_a_death(journal: Journal | None, outcome: Outcome, before: _Found) -> _Found:
    """Return what is known once the measuring process died.

    It journalled its visits before it reported them, but could not write down what it died of.
    """
    if journal is None:
        return (
            before[0] + outcome.visits,
            before[1] + outcome.failures,
            before[2] + outcome.implementations,
        )
    known = {(failure.entry, failure.process) for failure in journal.read().failures}
    for failure in outcome.failures:
        if (failure.entry, failure.process) not in known:
            journal.append(failure)
    content = journal.read()
    return content.visits, content.failures, content.implementations


def _check_machine(ready: Ready, resumed: JournalContent | None, journal: Journal | None, *, first: bool) -> None:
    """Note what is measured on, or raise where a resumed run was measured on something else."""
    identity = [str(getattr(ready.device, field)) for field in type(ready.device).IDENTITY]
    packages = [f"{name} {version}" for name, version in ready.software.packages.items()]
    machine = "; ".join([*identity, str(ready.setting), *packages])
    if resumed is not None and resumed.machine is not None and resumed.machine != machine:
        raise JournalError(
            f"the interrupted run was measured on another device or with other versions ({resumed.machine}; now "
            f"{machine}). Finish it there, give another --output, or discard it with --restart"
        )
    if journal is not None and (first or (resumed is not None and resumed.machine is None)):
        journal.append(MachineSeen(machine))


def _look(count: int) -> int:
    """Return the largest number of visits at which an interval may be looked at, up to ``count``."""
    return max((look for look in LOOKS if look <= count), default=0)


def _used_s(visits: Sequence[Visit]) -> float:
    """Return the seconds that the processes of an interrupted run spent measuring."""
    spans: dict[int, list[float]] = defaultdict(list)
    for visit in visits:
        spans[visit.process].append(visit.at_s)
    return sum(max(span) - min(span) for span in spans.values())


def _preflight(worker: Worker, visits: Sequence[Visit], level: float, most_visits: int, load: float) -> Preflight:
    """Return the preflight's findings: the same sentinel measured as A and as B, 20 visits each, in turns.

    The noise floor is the relative half-width of such an interval, as it would be after the most visits that the
    protocol allows (∝ 1/√n): no layer can be expected to do better on this machine.
    """
    ready = worker.ready
    warnings = (
        [] if ready.device.kind != "cpu" else list(preflight_warnings(ready.device, ready.setting.threads or 1, load))
    )
    clean = [visit.ms for visit in visits if visit.cause is None] or [visit.ms for visit in visits]
    floor = 0.0
    if len(clean) >= 12:
        sides = [median_interval(clean[i::2], level) for i in (0, 1)]
        widths = [(high - low) / (high + low) for low, high, _ in sides]
        floor = sum(widths) / 2 * sqrt(len(clean) / 2 / most_visits)
        if sides[0][0] > sides[1][1] or sides[1][0] > sides[0][1]:
            ratio = abs(log(quantile(clean[::2], 0.5) / quantile(clean[1::2], 0.5)))
            warnings.append(f"the same work, measured twice at the same time, differed by {ratio:.1%}")
    spoiled = len(visits) - sum(visit.cause is None for visit in visits)
    if spoiled > len(visits) / 4:
        warnings.append(f"{spoiled} of the first {len(visits)} visits were disturbed by other work on this machine")
    return Preflight(
        warnings=tuple(warnings),
        noise_floor=float(f"{min(floor, 1.0):.4g}"),
        noise_floor_visits=len(clean),
        timer_resolution_ns=ready.timer_resolution_ns,
        timer_overhead_ns=ready.timer_overhead_ns,
    )

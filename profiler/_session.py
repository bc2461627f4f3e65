"""A session: rounds of visits until every layer is known well enough or the time is up."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from math import log
from statistics import NormalDist
from types import MappingProxyType
from typing import NamedTuple, final

from lut._option_names import ELSEWHERE_OR_RESTART
from lut._records import Preflight
from lut._statistics import trimmed_mean, trimmed_variance
from lut.errors import JournalError
from profiler._adaptive import Sampler
from profiler._contexts import Offset
from profiler._journal import Journal, JournalContent, MachineSeen, PreflightDone, ProcessStart
from profiler._judge import Judgement, judge
from profiler._machine import load_average, preflight_warnings
from profiler._moderation import NOTHING_KNOWN, half_width
from profiler._plan import LEAST_SENTINEL_VISITS, LOOKS, PREFLIGHT_ENTRY, SENTINEL_ENTRIES, Plan, next_round
from profiler._racing import Race, contenders
from profiler._visit import Implementation, LayerFailure, Visit
from profiler._worker import Outcome, Ready, Worker

__all__ = ["Progress", "SessionResult", "Sorted", "run_session", "sort_visits"]

A_A_VISITS, LEAST_A_A = 12, 12
PREFLIGHT_SHARE = 0.15
# Visits that were spoiled, by one cause or another, before a layer's spoiled visits are taken after all.
MOST_REJECTED = 12
# Where all entries are measured equally long: processes that their medians come from at the least, and how many times
# as long as it took to start a process measures before another takes its place.
LEAST_PROCESSES = 3
WORTH_STARTING = 2.0
# Otherwise a process measures so many times as long as it took to start, at the least.
MEASURING_PER_START = 9.0
# Visits that say of one network of many what its sum is held against, spread over the session.
AUDIT_VISITS = 12
# Of many networks so large a part is visited in a round: one in two.
WHOLES_SHARE = 2
# Beside its calls, a visit compiles kernels and moves data; as long as a call of so many milliseconds more would take.
VISIT_OVERHEAD_MS = 0.2


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
    races: Sequence[Race] = (),
    repeats: Mapping[int, int] = MappingProxyType({}),
    offsets: Callable[[Ready], Mapping[str, Offset]] = lambda _: {},
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
            processes; and processes follow each other by the time that they have measured, since such rounds are short.
        races: channel sweeps; those of their layers between which a choice of widths is not decided are visited more.
        repeats: how often a layer stands in what is asked for, by its entry; once where nothing is said.
        offsets: says what chains make of layers, by kind of work, where the visits do not tell.
        clock: seconds; the target's own for a simulated one.
        progress: told where the session stands, about twice a second.

    Raises:
        ProfileError: the target cannot run here, or its process cannot be started.
        FileAccessError: the journal cannot be written.
    """
    course = _Course(
        plan, make_worker, journal, resumed, sampler, races, repeats, offsets, clock, progress, as_one=as_one
    )
    try:
        while course.go_on():
            pass
    finally:
        course.end_process()
    return course.result()


@final
class _Course:
    """A session under way: what was found so far, and what is to be done next."""

    def __init__(
        self,
        plan: Plan,
        make_worker: Callable[[int], Worker],
        journal: Journal | None,
        resumed: JournalContent | None,
        sampler: Sampler | None,
        races: Sequence[Race],
        repeats: Mapping[int, int],
        offsets: Callable[[Ready], Mapping[str, Offset]],
        clock: Callable[[], float],
        progress: Callable[[Progress], None],
        *,
        as_one: bool,
    ) -> None:
        self._plan, self._make_worker, self._journal, self._resumed = plan, make_worker, journal, resumed
        self._sampler, self._races, self._repeats, self._as_one = sampler, races, repeats, as_one
        self._clock, self._progress = clock, progress
        self._many = plan.is_audited and not as_one
        # A sampler learns from networks as from layers, and waits for both.
        self._in_turn = self._many and sampler is None
        self._kinds = plan.kinds()
        self._offsets = offsets
        self._told: Mapping[str, Offset] = {}
        self._load = load_average()
        self._visits = list(resumed.visits) if resumed else []
        self._failures = list(resumed.failures) if resumed else []
        self._implementations = list(resumed.implementations) if resumed else []
        self._preflight = resumed.preflight if resumed else None
        self._used_s = _used_s(self._visits)
        self._budget_s = plan.protocol.time_budget_s or float("inf")
        self._began = clock()
        # A resumed run gets at least a quarter of its time again, whatever the journal says of the first part.
        left = self._budget_s - self._used_s
        self._deadline = self._began + max(left, self._budget_s / 4 if resumed else left)
        self._number = self._first_process = resumed.processes if resumed else 0
        self._rng = random.Random(f"{plan.protocol.seed}-order-{self._number}")  # noqa: S311 - an order, no secret
        self._worker: Worker | None = None
        self._ready: Ready | None = None
        self._rounds = self._rounds_in_process = 0
        self._started_at = self._starting_s = 0.0
        # What the last look found: what another visit is worth, and between which widths a choice is open.
        self._worth: dict[int, float] = {}
        self._racing: frozenset[int] = frozenset()
        self._closed: set[int] = set()
        self._converged: set[int] = set()
        self._looked: dict[int, int] = {}

    def go_on(self) -> bool:
        """Make one round of visits, or choose more layers; return whether there is anything left to do."""
        failed = {failure.entry for failure in self._failures}
        known = sort_visits(self._visits, self._plan.protocol.first_look, final=False)
        open_entries = self._open(known, failed)
        # Many networks have their visits when it is time for them.
        waiting = [
            e
            for e in open_entries
            if known.counts[e] < self._plan.protocol.first_look and not (self._in_turn and e >= len(self._plan.entries))
        ]
        in_time = self._clock() < self._deadline
        if self._sampler is not None and self._ready is not None and not waiting and in_time:
            # Every layer that was chosen has had its first look: time to choose more.
            return self._choose_more(self._sampler, self._ready, known, failed)
        if not open_entries and in_time:
            open_entries = self._reopened(known, failed)
        # Few layers are soon known; what ties their session to others is to be known as well.
        scarce = [] if open_entries or self._worker is None else _scarce_sentinels(known.counts, failed)
        if not (open_entries or scarce) or self._clock() >= self._deadline:
            return False
        # No process is started for the sentinels' sake.
        if self._worker is not None and not scarce and self._is_stale(waiting):
            self.end_process()
        worker = self._worker or self._start_process()
        if self._preflight is None:
            self._preflight = self._measure_floor(worker)
            if self._worker is None:
                return True
        if self._sampler is not None and waiting:
            # Those that wait for their first look, and as many of the others, so that all share one history.
            others = [e for e in open_entries if known.counts[e] >= self._plan.protocol.first_look]
            open_entries = waiting + self._rng.sample(others, min(len(others), len(waiting)))
        self._carry_out(worker, scarce if not open_entries else self._order(worker, open_entries, known, failed))
        return True

    def end_process(self) -> None:
        """End the measuring process, if there is one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def result(self) -> SessionResult:
        """Return all that was found."""
        if self._ready is None:
            # Everything was already in the journal; a process is still needed to say on what it was measured.
            worker = self._make_worker(self._number)
            self._ready = worker.ready
            worker.close()
        assert self._preflight is not None
        return SessionResult(
            ready=self._ready,
            visits=self._visits,
            failures=[failure for failure in self._failures if failure.entry >= 0],
            implementations=self._implementations,
            preflight=self._preflight,
            processes=self._number,
            resumed=(self._resumed.resumed + 1) if self._resumed else 0,
            measuring_s=self._clock() - self._began + self._used_s,
        )

    def _tell(self, phase: str, extra: int = 0) -> None:
        now = self._clock()
        self._progress(
            Progress(
                elapsed_s=now - self._began + self._used_s,
                left_s=max(0.0, self._deadline - now),
                rounds=self._rounds,
                visits=len(self._visits) + extra,
                converged=len(self._converged),
                layers=self._plan.size if self._sampler is None else len(self._sampler.opened),
                phase=phase,
            )
        )

    def _judge(self, known: Sorted) -> Judgement:
        self._tell("judging")
        return judge(
            known.accepted,
            self._plan.protocol,
            references=None,
            contaminated=known.contaminated,
            kinds=self._kinds,
            offsets=self._told,
            curves=self._plan.curves,
            of_samples=self._plan.is_audited,
        )

    def _open(self, known: Sorted, failed: Collection[int]) -> list[int]:
        """Return the entries that are to be visited on, after a look at those that have the visits for it."""
        counts, protocol = known.counts, self._plan.protocol
        entries = range(self._plan.size) if self._sampler is None else sorted(self._sampler.opened)
        found = [e for e in entries if e not in failed and (e not in self._closed or e in self._racing)]
        due = [e for e in found if counts[e] >= LOOKS[0] and _look(counts[e]) > self._looked.get(e, 0)]
        if due and len(due) >= 0.1 * len(found):
            self._look_at(self._judge(known), found, frozenset(due), counts)
            if self._as_one and self._number - self._first_process >= min(LEAST_PROCESSES, protocol.most_processes):
                self._closed |= self._converged if self._converged.issuperset(found) else set()
        if self._many:
            self._closed |= {e for e in found if e >= len(self._plan.entries) and counts[e] >= AUDIT_VISITS}
        return [e for e in found if e not in self._closed or (e in self._racing and counts[e] < protocol.most_visits)]

    def _look_at(
        self, settled: Judgement, entries: Sequence[int], due: Collection[int], counts: Mapping[int, int]
    ) -> None:
        """Note how well each entry is known; close those ``due`` that are known as well as was asked."""
        reach = NormalDist().inv_cdf(0.5 + self._plan.protocol.level / 2)
        for entry in entries:
            found = settled.layers.get(entry)
            if found is None:
                continue
            error_ms = found.half_width * found.median_ms * self._repeats.get(entry, 1)
            # By so much would the variance of a sum fall, by the time that it takes.
            self._worth[entry] = error_ms**2 / (counts[entry] + 1) / (found.median_ms + VISIT_OVERHEAD_MS)
            if entry in due:
                self._looked[entry] = counts[entry]
                if "converged" in found.flags:
                    self._converged.add(entry)
                    if not self._as_one:
                        self._closed.add(entry)
                elif self._as_one:
                    self._converged.discard(entry)
                if counts[entry] >= self._plan.protocol.most_visits:
                    self._closed.add(entry)
        known = {
            e: (layer.median_ms, layer.half_width * layer.median_ms / reach) for e, layer in settled.layers.items()
        }
        self._racing = contenders(self._races, known)

    def _choose_more(self, sampler: Sampler, ready: Ready, known: Sorted, failed: set[int]) -> bool:
        """Have the sampler choose more layers; return whether it wants any."""
        values = {entry: found.median_ms for entry, found in self._judge(known).layers.items()}
        sampler.extend(ready.device, ready.setting, values, failed, self._tell)
        return not sampler.done

    def _reopened(self, known: Sorted, failed: Collection[int]) -> list[int]:
        """Return layers that no longer hold what was asked.

        Later visits sharpen the picture of the drift, and with it that of layers closed long ago.
        """
        settled = self._judge(known).layers
        reopened = {
            entry
            for entry in self._converged.difference(failed)
            if known.counts[entry] < self._plan.protocol.most_visits and "converged" not in settled[entry].flags
        }
        self._closed -= reopened
        self._converged -= reopened
        for entry in reopened:
            self._looked[entry] = _look(known.counts[entry])
        return sorted(reopened)

    def _is_stale(self, waiting: Sequence[int]) -> bool:
        """Return whether another process is to take this one's place."""
        protocol = self._plan.protocol
        if self._number - self._first_process >= protocol.most_processes:
            return False
        if self._rounds_in_process < protocol.rounds_per_process:
            return False
        now = self._clock()
        factor = WORTH_STARTING if self._as_one else MEASURING_PER_START
        long_enough = now - self._started_at >= factor * self._starting_s
        if self._as_one:
            # What is quick is not to have all of its visits in one process.
            return long_enough or self._rounds_in_process > protocol.most_visits // (LEAST_PROCESSES + 1)
        # Short rounds are not to be spent on starting processes, once the first look has seen its own; nor is the rest
        # of a session.
        return bool(waiting) or (long_enough and self._deadline - now >= factor * self._starting_s)

    def _start_process(self) -> Worker:
        self._tell("starting a measuring process")
        if self._journal is not None:
            resumed = self._resumed is not None and self._number == self._first_process
            self._journal.append(ProcessStart(self._number, resumed=resumed))
        starting = self._clock()
        worker = self._worker = self._make_worker(self._number)
        self._started_at = self._clock()
        self._starting_s = self._started_at - starting
        if self._ready is None:
            # Loading the framework is not measuring: a short budget is not to be over before it begins.
            self._deadline += self._starting_s
        self._ready = worker.ready
        self._told = self._offsets(worker.ready)
        _check_machine(worker.ready, self._resumed, self._journal, first=self._number == 0)
        self._number += 1
        self._rounds_in_process = 0
        return worker

    def _measure_floor(self, worker: Worker) -> Preflight:
        self._tell("measuring the noise floor")
        until = self._clock() + min(self._deadline - self._clock(), self._budget_s * PREFLIGHT_SHARE)
        outcome = worker.run([PREFLIGHT_ENTRY] * (2 * A_A_VISITS), until, lambda _: None)
        self._deadline += outcome.preparing_s
        self._visits += outcome.visits
        self._failures += outcome.failures
        protocol = self._plan.protocol
        preflight = _preflight(worker, outcome.visits, protocol.level, protocol.most_visits, self._load)
        if self._journal is not None:
            self._journal.append(PreflightDone(preflight))
        self._started_at = self._clock()
        if not outcome.alive:
            self.end_process()
        return preflight

    def _order(self, worker: Worker, open_entries: Sequence[int], known: Sorted, failed: set[int]) -> Sequence[int]:
        """Return what the next round visits, in order."""
        plan = self._plan
        hosts = {
            plan.size + number: {*(step.entry for step in walk), len(plan.entries) + number} - plan.swept
            for number, walk in enumerate(plan.hosts)
            if walk and worker.ready.walks and failed.isdisjoint(step.entry for step in walk)
        }
        layers, wholes = list(open_entries), list[int]()
        if self._in_turn:
            layers = [e for e in open_entries if e < len(plan.entries)]
            wholes = [e for e in open_entries if e >= len(plan.entries)]
            # Once nothing else is left to do, networks need not wait for their turn.
            wholes = self._due(wholes, known.counts) if layers else wholes
        return next_round(
            layers,
            known.counts,
            self._worth,
            plan.protocol,
            self._rng,
            wholes=wholes,
            failed=failed,
            hosts=hosts,
            often=[] if hosts else self._often(layers, known.counts),
            layers=len(plan.entries),
            racing=sorted(
                e for e in self._racing.difference(failed) if known.counts.get(e, 0) < plan.protocol.most_visits
            ),
        )

    def _often(self, entries: Sequence[int], counts: Mapping[int, int]) -> list[int]:
        """Return which of few networks are visited more often than each layer, once all layers have a number."""
        if self._many or self._as_one or not all(counts.get(e, 0) for e in entries):
            return []
        return [e for e in entries if e >= len(self._plan.entries)]

    def _due(self, wholes: Sequence[int], counts: Mapping[int, int]) -> list[int]:
        """Return which of many networks are visited next: by and by all are, and layers get most of the time."""
        spent = (self._clock() - self._began + self._used_s) / self._budget_s
        due = [e for e in wholes if counts.get(e, 0) < 1 + AUDIT_VISITS * spent]
        self._rng.shuffle(due)
        return sorted(due, key=lambda e: counts.get(e, 0))[: -(-len(self._plan.wholes) // WHOLES_SHARE)]

    def _carry_out(self, worker: Worker, order: Sequence[int]) -> None:
        """Make a round of visits."""
        outcome = worker.run(order, self._deadline, lambda made: self._tell("measuring", made))
        if outcome.alive:
            self._visits += outcome.visits
            self._failures += outcome.failures
            self._implementations += outcome.implementations
        else:
            self.end_process()
            # The time that a hanging layer took is given back to the others.
            hung = sum(failure.reason == "timeout" for failure in outcome.failures)
            self._deadline += hung * self._plan.protocol.layer_limit_s
            self._visits, self._failures, self._implementations = _after_a_death(
                self._journal, outcome, (self._visits, self._failures, self._implementations)
            )
        self._deadline += outcome.preparing_s
        self._rounds += 1
        self._rounds_in_process += 1
        self._tell("measuring")


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
            f"{machine}). Finish it there, {ELSEWHERE_OR_RESTART}"
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
    """Return the preflight's findings: the same sentinel measured as A and as B, a dozen visits each, in turns.

    The noise floor is the relative half-width of its interval, as it would be after the most visits that the protocol
    allows: by so much, or little less, will layers be known on this machine as it is now.
    """
    ready = worker.ready
    warnings = (
        [] if ready.device.kind != "cpu" else list(preflight_warnings(ready.device, ready.setting.threads or 1, load))
    )
    clean = [log(visit.ms) for visit in visits if visit.cause is None] or [log(visit.ms) for visit in visits]
    floor = 0.0
    if len(clean) >= LEAST_A_A:
        floor = _half_width(clean, most_visits, level)
        sides = [clean[i::2] for i in (0, 1)]
        apart = abs(trimmed_mean(sides[0]) - trimmed_mean(sides[1]))
        if apart > sum(_half_width(side, len(side), level) for side in sides):
            warnings.append(f"the same work, measured twice at the same time, differed by {apart:.1%}")
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


def _half_width(logs: Sequence[float], n: int, level: float) -> float:
    """Return half the interval of a mean of ``n`` visits of which ``logs`` are some, in log(ms)."""
    return half_width(*trimmed_variance(logs), n, NOTHING_KNOWN, level) or 0.0

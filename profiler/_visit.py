"""One visit: the unit that is measured, journalled and judged. Runs in the process that holds the target."""

from __future__ import annotations

import functools
import gc
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import ceil
from statistics import fmean, median
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from lut import Layer
from lut._printable import shortened
from lut._records import AtLeastOne, Count, Ms, Protocol, RejectionCause, Seconds, Text
from lut.errors import LatencyLutError, LayerFailedError, TargetUnavailableError
from profiler._plan import COMPANION_ENTRIES, layer_of
from profiler._sources import NetworkSource, layer_of_source
from profiler._target import Part, Place, Target
from profiler._walk import Step, Walk, chains, resolution

__all__ = ["Implementation", "LayerFailure", "Visit", "Visitor", "calibrate_timer"]

# A difference of two programs that is less than this share of the larger one is lost in its noise; such a visit counts
# as the share, and the layer is flagged where visits of that kind are not rare.
LEAST_SHARE = 0.005

# Calls of each layer of a group that are not timed, since the first ones load caches and have kernels compiled; those
# that are; and how few they may be where one turn takes longer than a while.
WARM_CYCLES = 2
TIMED_CYCLES = 7
LEAST_CYCLES = 3
LONGEST_CYCLE_S = 0.25
# The same of walks and whole networks, whose calls warm each other up; they end early after so many seconds.
WARM_PASSES = 1
TIMED_PASSES = 4
LEAST_PASSES = 2
LONGEST_VISIT_S = 0.3
# Of a walk, between two readings of the kernel's counters: each is a call into the kernel, which no network makes.
SEGMENT_NS = 1_000_000

# What a layer may raise and is that layer's failure: a network that calls sys.exit() ends nothing but its measurement.
RAISED = (Exception, SystemExit)

# What a failure says of its cause, in characters.
LONGEST_REASON = 2000

# A visit whose first block is this much slower than the middle of the others came before the layer had warmed up.
NOT_STEADY = 1.1


# A layer's number in the plan, or below 0 one of the sentinels and companions.
Entry: TypeAlias = Annotated[int, Meta(ge=-1000, le=2**31 - 1)]


class Visit(msgspec.Struct, frozen=True, array_like=True):
    """What one visit found: a line of the journal.

    ``ms`` is one call's latency, from the fastest block that nothing preempted; ``cause`` is why the visit does not
    count, ``None`` if it does; ``late`` tells that its first block was still warming up; ``faults`` are page faults
    per call; ``also`` is what the target observed beside it; ``unresolved`` tells that a difference was lost in noise;
    ``chained`` that the layer stood in a chain and in no network.
    """

    entry: Entry
    process: Count
    at_s: Seconds
    ms: Ms
    cause: RejectionCause | None
    late: bool
    faults: Annotated[float, Meta(ge=0, le=1e12)]
    calls: AtLeastOne
    also: dict[Text, Annotated[float, Meta(ge=-1e15, le=1e15)]] = {}
    unresolved: bool = False
    chained: bool = False


class LayerFailure(msgspec.Struct, frozen=True, tag="failure"):
    """A layer that could not be measured: a line of the journal."""

    entry: Entry
    process: Count
    reason: Text
    message: Text


class Implementation(msgspec.Struct, frozen=True, tag="implementation"):
    """Which kernel runs a layer, empty where the runtime does not tell, and how its value comes about: a line of the
    journal.
    """

    entry: Entry
    kernel: str
    origin: Literal["measured", "marginal"] = "measured"


def _whole(text: str) -> str:
    """Return a text without halves of characters, which no file of ours can hold."""
    return text.encode(errors="backslashreplace").decode()


class _Timed(NamedTuple):
    """What the blocks of a visit say: nanoseconds a call, and how they came about."""

    ns: float
    unresolved: bool
    preempted: bool
    late: bool
    faults: float
    calls: int


class _Member:
    """What is collected about one layer of a group: per part its calls in ns, and which were undisturbed. Final."""

    def __init__(self, prepared: Any, parts: Sequence[Part]) -> None:
        self.prepared, self.parts = prepared, parts
        self.calls: list[list[float]] = [[] for _ in parts]
        self.clean: list[list[bool]] = [[] for _ in parts]
        self.at_s, self.faults = 0.0, 0


class _Walked:
    """What is collected about one place of a walk: its calls in ns, and which were undisturbed. Final."""

    def __init__(self, step: Step, prepared: Any) -> None:
        self.entry, self.operands, self.prepared = step.entry, step.operands, prepared
        self.clear()

    def clear(self) -> None:
        """Forget all calls."""
        self.calls: list[int] = []
        self.clean: list[bool] = []
        self.at_s, self.faults = 0.0, 0.0


class _Notes:
    """What a single pass along a walk finds; reads the kernel's counters about once a millisecond. Final."""

    def __init__(self, target: Target[Any], members: Sequence[_Walked], beat: Callable[[int], None]) -> None:
        self._target, self._members, self._beat = target, members, beat
        self.calls: list[int] = []
        self._clean: list[bool] = []
        self._faults: list[float] = []
        self._since = 0
        self._preempted, self._faults_before = target.preemptions_and_faults()

    def note(self, ns: int) -> None:
        """Note what the place took whose turn it was; the next one is up."""
        calls = self.calls
        calls.append(ns)
        self._since += ns
        done = len(calls)
        if self._since >= SEGMENT_NS or done == len(self._members):
            self._since = 0
            preempted, faults = self._target.preemptions_and_faults()
            # Which of the calls since then it was cannot be told.
            seen = done - len(self._clean)
            self._clean += [preempted == self._preempted] * seen
            self._faults += [(faults - self._faults_before) / seen] * seen
            self._preempted, self._faults_before = preempted, faults
        if done < len(self._members):
            self._beat(self._members[done].entry)

    def keep(self, *, clean: bool) -> None:
        """Add the pass to what is known of its places; ``clean``: nothing outside spoiled all of it."""
        for member, ns, good, faults in zip(self._members, self.calls, self._clean, self._faults, strict=True):
            member.calls.append(ns)
            member.clean.append(good and clean)
            member.faults += faults


def _most(spoiled: Mapping[RejectionCause, int]) -> RejectionCause:
    """Return what spoiled most; it was another process where nothing else is known."""
    most: RejectionCause = "preempted"
    for name, times in spoiled.items():
        most = name if times > spoiled.get(most, 0) else most
    return most


def _middle_passes(members: Sequence[_Walked]) -> Sequence[int]:
    """Return which undisturbed passes took neither long nor short: the middle one or two; none if most were disturbed.

    A sum of medians is less than the median of the sums where noise is skewed, as it is on a machine: what delays one
    layer in ten calls delays every pass along ten layers.
    """
    passes = len(members[0].calls) if members else 0
    whole = [i for i in range(passes) if all(member.clean[i] for member in members)]
    if 2 * len(whole) < passes:
        return ()
    whole.sort(key=lambda i: sum(member.calls[i] for member in members))
    return whole[(len(whole) - 1) // 2 : len(whole) // 2 + 1]


def _combined(parts: Sequence[Part], ns: Sequence[float]) -> tuple[float, bool]:
    """Return the weighted sum of the parts' nanoseconds a call, and whether it was lost in the noise."""
    terms = [part.weight * value for part, value in zip(parts, ns, strict=True)]
    resolution = max(1.0, LEAST_SHARE * max(map(abs, terms)) if len(parts) > 1 else 0.0)
    return max(sum(terms), resolution), sum(terms) < resolution


class Visitor:
    """Visits layers on a target: prepares them once, and times blocks of calls with the counters read around them.

    Args:
        target: where the layers run.
        entries: the plan's layers.
        protocol: blocks and their length.
        wholes: the plan's networks, numbered after the last layer.
        hosts: for each of these networks, its layers in their places; empty where they are not visited there. Their
            numbers come after the networks'.
        process: this process's number, from 0.
        origin: the target's clock when the session began; visits are dated in seconds since then.
        beat: told of the layer before anything is done with it, so that a crash can be charged to it.
        known_kernels: layers whose implementation an earlier process wrote down.
        memory_bytes: how much prepared layers may hold before the longest unused one is released.
    """

    def __init__(
        self,
        target: Target[Any],
        entries: tuple[Layer, ...],
        protocol: Protocol,
        *,
        wholes: tuple[NetworkSource, ...] = (),
        hosts: tuple[Walk, ...] = (),
        process: int,
        origin: float,
        beat: Callable[[int], None] = lambda _: None,
        known_kernels: Collection[int] = (),
        memory_bytes: int = 2 << 30,
    ) -> None:
        self._target = target
        self._entries = entries
        self._wholes = wholes
        self._hosts = hosts
        self._protocol = protocol
        self._process = process
        self._origin = origin
        self._beat = beat
        self._rng = random.Random(f"{protocol.seed}-{process}")  # noqa: S311 - addresses, no secrets
        # By entry, and which of its copies: in a network, each place of a layer has weights of its own.
        self._prepared: dict[tuple[int, int], Any] = {}
        self._bytes: dict[int, int] = {}
        self._memory_bytes = memory_bytes
        self._known_kernels = set(known_kernels)
        self._batch = target.describe()[1].batch
        self.implementations: list[Implementation] = []
        self.preparing_s = 0.0

    def _get(self, entry: int, keep: Collection[int] = (), *, copy: int = 0) -> Any:
        key = (entry, copy)
        if key in self._prepared:
            # Re-inserting keeps the dictionary in the order of last use.
            self._prepared[key] = self._prepared.pop(key)
            return self._prepared[key]
        began = self._target.clock()
        source = self._source_of(entry)
        if source is not None:
            prepared = self._target.prepare_network(source, seed=self._protocol.seed)
            # What a user's own module holds is not known; one stays prepared beside the layers.
            whole = layer_of_source(source)
            self._bytes[entry] = 0 if whole is None else self._target.prepared_bytes(whole, self._batch)
        else:
            layer = layer_of(entry, self._entries)
            prepared = self._target.prepare(layer, seed=self._protocol.seed)
            self._bytes[entry] = self._target.prepared_bytes(layer, self._batch)
        used = sum(self._bytes[e] for e, _ in self._prepared) + self._bytes[entry]
        for oldest in [held for held in self._prepared if held[0] not in keep]:
            if used <= self._memory_bytes:
                break
            used -= self._bytes[oldest[0]]
            self._target.release(self._prepared.pop(oldest))
        self._prepared[key] = prepared
        for part in self._target.parts(prepared):
            self._target.run(part.prepared, 1)
        if self._target.slow_to_prepare:
            self.preparing_s += self._target.clock() - began
        if source is None and entry >= 0 and entry not in self._known_kernels:
            self._known_kernels.add(entry)
            kernel = self._target.implementation(prepared) or ""
            self.implementations.append(Implementation(entry, kernel, self._target.origin(prepared)))
        return prepared

    def _source_of(self, entry: int) -> NetworkSource | None:
        """Return the network behind an entry number, ``None`` where it is a layer's."""
        number = entry - len(self._entries)
        return self._wholes[number] if 0 <= number < len(self._wholes) else None

    def _forget(self, entry: int) -> None:
        for key in [held for held in self._prepared if held[0] == entry]:
            self._target.release(self._prepared.pop(key))

    def visits(self, order: Sequence[int]) -> Iterator[Callable[[], Sequence[Visit | LayerFailure]]]:
        """Yield one function after another; each makes the next visits of ``order`` and returns what they found.

        One visit each where the target times a layer by itself; a group's where it times layers in turns; those of a
        network or a chain where it walks.
        """
        failed: set[int] = set()
        if self._target.together == 1:
            for entry in order:
                if entry not in failed:
                    yield functools.partial(self._alone, entry, failed)
            return
        layers = [entry for entry in order if entry < len(self._entries)]
        visit = self._chain if self._target.walks else self._in_turns
        groups = chains(layers, self._target.together, self._need, self._memory_bytes)
        jobs = [functools.partial(visit, group, failed) for group in groups]
        # Networks come between the groups, evenly, so that they see the same machine as the layers.
        wide = [entry for entry in order if entry >= len(self._entries)]
        for i, entry in enumerate(wide):
            place = len(jobs) - (len(groups) * (len(wide) - 1 - i)) // len(wide)
            job = self._in_place if entry >= len(self._entries) + len(self._wholes) else self._alone
            jobs.insert(place, functools.partial(job, entry, failed))
        yield from jobs

    def _need(self, entry: int) -> int:
        return self._target.prepared_bytes(layer_of(entry, self._entries), self._batch)

    def _alone(self, entry: int, failed: set[int]) -> Sequence[Visit | LayerFailure]:
        self._beat(entry)
        try:
            # Where layers are timed call by call, so are networks.
            by_calls = self._source_of(entry) is not None and self._target.together > 1
            return [self._visit_in_calls(entry) if by_calls else self.visit(entry)]
        except RAISED as error:
            failed.add(entry)
            return [self._failure(entry, error)]

    def _failure(self, entry: int, error: BaseException) -> LayerFailure:
        """Return what is noted of a layer that raised, whatever it raised: it is that layer's failure."""
        if isinstance(error, TargetUnavailableError):
            # Not about this layer: the target itself cannot run here.
            raise error
        reason = error.reason if isinstance(error, LayerFailedError) else "error"
        text = str(error) if isinstance(error, LatencyLutError) else f"{type(error).__name__}: {error}"
        return LayerFailure(entry, self._process, reason, shortened(_whole(text), LONGEST_REASON))

    def _chain(self, group: Sequence[int], failed: set[int]) -> Sequence[Visit | LayerFailure]:
        """Visit layers of no network at hand in a chain; one that is too short is filled up with companions."""
        wanted = [entry for entry in group if entry not in failed]
        if not wanted:
            return []
        missing = max(0, self._target.together - len(wanted))
        order = [*wanted, *[e for e in self._companions() if e not in wanted and e not in failed][:missing]]
        self._rng.shuffle(order)
        order.sort(key=lambda entry: -resolution(layer_of(entry, self._entries)))
        return self._walk([Step(entry) for entry in order], wanted, failed)

    def _in_place(self, number: int, failed: set[int]) -> Sequence[Visit | LayerFailure]:
        """Visit a network's layers in their places, and the network as a whole in turns with them.

        In chains, and by itself, where it does not fit into the memory twice.
        """
        i = number - len(self._entries) - len(self._wholes)
        host, whole = self._hosts[i], len(self._entries) + i
        entries = list(dict.fromkeys(step.entry for step in host))
        if not failed.isdisjoint(entries):
            return []
        if sum(self._need(step.entry) for step in host) <= self._memory_bytes:
            return self._walk(host, [*entries, whole], failed, whole=whole)
        found: list[Visit | LayerFailure] = []
        for group in chains(entries, self._target.together, self._need, self._memory_bytes):
            found += self._chain(group, failed)
        return found if whole in failed else [*found, *self._alone(whole, failed)]

    def _walk(
        self, steps: Sequence[Step], wanted: Collection[int], failed: set[int], *, whole: int | None = None
    ) -> Sequence[Visit | LayerFailure]:
        """Run steps one after another, again and again, and return what that says of the ``wanted`` entries.

        Args:
            steps: a network or a chain.
            wanted: entries whose visits are recorded.
            failed: entries that cannot run; those that fail here are added.
            whole: the network that the steps are, which runs in turns with them. A step that fails then ends the walk,
                since others need what it makes; without one it is left out.
        """
        failures: list[LayerFailure] = []
        members: list[_Walked] = []
        copies: Counter[int] = Counter()
        keep = {step.entry for step in steps}
        for step in [*steps, *([] if whole is None else [Step(whole)])]:
            if step.entry in failed:
                continue
            self._beat(step.entry)
            try:
                prepared = self._get(step.entry, keep, copy=copies[step.entry])
                self._target.relocate(prepared, self._rng)
            except RAISED as error:
                self._give_up(step.entry, error, wanted, failures, failed)
                if failures and (failures[-1].reason == "crashed" or (whole is not None and step.entry != whole)):
                    return failures
                continue
            copies[step.entry] += 1
            members.append(_Walked(step, prepared))
        spoiled: dict[RejectionCause, int] = {}
        gc.disable()
        try:
            while members:
                apart = [member for member in members if member.entry == whole]
                walks = [walk for walk in (apart, [m for m in members if m.entry != whole]) if walk]
                failing = self._passes(walks, spoiled)
                if failing is None:
                    break
                member, raised = failing
                self._give_up(member.entry, raised, wanted, failures, failed)
                if failures and (failures[-1].reason == "crashed" or (whole is not None and member.entry != whole)):
                    return failures
                members = [other for other in members if other.entry != member.entry]
        finally:
            gc.enable()
        visits = []
        for walk in walks if members else []:
            chosen = _middle_passes(walk)
            for entry in dict.fromkeys(member.entry for member in walk):
                if entry in wanted:
                    places = [member for member in walk if member.entry == entry]
                    found = self._visit_of_walk(places, chosen, spoiled)
                    visits.append(msgspec.structs.replace(found, chained=whole is None))
        return [*failures, *visits]

    def _passes(
        self, walks: Sequence[Sequence[_Walked]], spoiled: dict[RejectionCause, int]
    ) -> tuple[_Walked, BaseException] | None:
        """Go along each walk in turns, at first without a clock; return which place raised what, if any did."""
        target = self._target
        routes = [[Place(member.prepared, member.operands) for member in walk] for walk in walks]
        for member in itertools.chain(*walks):
            member.clear()
        began = target.clock()
        before = target.stolen_and_throttled()
        for turn in range(WARM_PASSES + TIMED_PASSES):
            if turn == WARM_PASSES:
                # A network and its layers in their places see the same machine.
                at_s = max(0.0, target.clock() - self._origin)
                for member in itertools.chain(*walks):
                    member.at_s = at_s
            for walk, places in zip(walks, routes, strict=True):
                notes = _Notes(target, walk, self._beat)
                self._beat(walk[0].entry)
                try:
                    target.walk(places, notes.note)
                except RAISED as error:
                    return walk[min(len(notes.calls), len(walk) - 1)], error
                after = target.stolen_and_throttled()
                causes: tuple[tuple[RejectionCause, bool], ...] = (
                    ("throttled", after[1] > before[1]),
                    ("stolen", after[0] > before[0]),
                )
                before = after
                hit = [cause for cause, seen in causes if seen]
                if turn >= WARM_PASSES:
                    notes.keep(clean=not hit)
                    for cause in hit:
                        spoiled[cause] = spoiled.get(cause, 0) + 1
            if turn >= WARM_PASSES + LEAST_PASSES - 1 and target.clock() - began > LONGEST_VISIT_S:
                break
        return None

    def _visit_of_walk(
        self, places: Sequence[_Walked], chosen: Sequence[int], spoiled: dict[RejectionCause, int]
    ) -> Visit:
        """Return a layer's visit in a walk: the mean over its places.

        Args:
            places: where the layer stands.
            chosen: the passes that count; where there are none, the median of each place's undisturbed calls does.
            spoiled: what disturbed passes, and how often.
        """
        observed = [self._target.observe(member.prepared) for member in places]
        cause: RejectionCause | None = next((seen.cause for seen in observed if seen.cause), None)
        clean = [2 * sum(member.clean) >= len(member.clean) for member in places]
        middle = [
            # Of the middle passes all places take their calls, so that these sum up to what the walk took.
            fmean(member.calls[i] for i in chosen)
            if chosen
            else median(call for call, good in zip(member.calls, member.clean, strict=True) if good or not enough)
            for member, enough in zip(places, clean, strict=True)
        ]
        if not all(clean):
            cause = _most(spoiled)
        return Visit(
            entry=places[0].entry,
            process=self._process,
            at_s=round(places[0].at_s, 4),
            ms=float(f"{max(1.0, sum(middle) / len(middle)) / 1e6:.6g}"),
            cause=cause,
            late=any(m.calls[0] > NOT_STEADY * median(m.calls[1:]) for m in places if len(m.calls) > 1),
            faults=round(sum(m.faults for m in places) / sum(len(m.calls) for m in places), 2),
            calls=1,
            also={name: float(f"{value:.6g}") for name, value in observed[0].also.items()},
        )

    def _in_turns(self, group: Sequence[int], failed: set[int]) -> Sequence[Visit | LayerFailure]:
        """Visit a group's layers together: a call of each in turn, again and again, each call timed by itself.

        Between two calls of a layer all the others run. A group that is too small is filled up with companions, which
        run and are not recorded.
        """
        group = [entry for entry in group if entry not in failed]
        if not group:
            return []
        target = self._target
        failures: list[LayerFailure] = []
        members: dict[int, _Member] = {}
        missing = max(0, target.together - len(group))
        extras = [e for e in self._companions() if e not in group and e not in failed][:missing]
        for entry in [*group, *extras]:
            self._beat(entry)
            try:
                prepared = self._get(entry, keep=[*group, *extras])
                target.relocate(prepared, self._rng)
                parts = target.parts(prepared)
                members[entry] = _Member(prepared, parts)
            except RAISED as error:
                self._give_up(entry, error, group, failures, failed)
                if failures and failures[-1].reason == "crashed":
                    return failures
        cycles = WARM_CYCLES + TIMED_CYCLES
        spoiled: dict[RejectionCause, int] = {}
        order = list(members)
        self._rng.shuffle(order)
        gc.disable()
        try:
            for cycle in range(cycles):
                began = target.clock()
                if cycle == WARM_CYCLES:
                    for member in members.values():
                        member.at_s = max(0.0, target.clock() - self._origin)
                for entry, raised in self._cycle(order, members, spoiled, timed=cycle >= WARM_CYCLES):
                    self._give_up(entry, raised, group, failures, failed)
                    if failures and failures[-1].reason == "crashed":
                        return failures
                # Large layers are timed less often rather than keep all others waiting.
                if cycle >= WARM_CYCLES + LEAST_CYCLES - 1 and target.clock() - began > LONGEST_CYCLE_S:
                    break
        finally:
            gc.enable()
        visits = []
        for entry in group:
            if entry in members:
                try:
                    visits.append(self._visit_of(entry, members[entry], spoiled))
                except RAISED as error:
                    self._give_up(entry, error, group, failures, failed)
        return [*failures, *visits]

    def _give_up(
        self, entry: int, error: BaseException, group: Collection[int], failures: list[LayerFailure], failed: set[int]
    ) -> None:
        """Note a layer's failure; a companion's counts only where it took the device down with it."""
        self._forget(entry)
        failed.add(entry)
        failure = self._failure(entry, error)
        if entry in group or failure.reason == "crashed":
            failures.append(failure)

    def _companions(self) -> list[int]:
        """Return entries to fill up a group with: the plan's own at random, then the fixed ones."""
        own = [e for e, copy in self._prepared if copy == 0 and 0 <= e < len(self._entries)]
        self._rng.shuffle(own)
        return [*own, *COMPANION_ENTRIES]

    def _visit_of(self, entry: int, member: _Member, spoiled: Mapping[RejectionCause, int]) -> Visit:
        """Return the visit that a group's calls of one layer make: the median of those that nothing disturbed."""
        observed = self._target.observe(member.prepared)
        enough = all(2 * sum(clean) >= len(clean) for clean in member.clean)
        cause = observed.cause
        if not enough:
            cause = _most(spoiled)
        middle = [
            median(call for call, good in zip(calls, clean, strict=True) if good or not enough)
            for calls, clean in zip(member.calls, member.clean, strict=True)
        ]
        ns, unresolved = _combined(member.parts, middle)
        return Visit(
            entry=entry,
            process=self._process,
            at_s=round(member.at_s, 4),
            ms=float(f"{ns / 1e6:.6g}"),
            cause=cause,
            late=any(calls[0] > NOT_STEADY * median(calls[1:]) for calls in member.calls if len(calls) > 1),
            faults=round(member.faults / sum(map(len, member.calls)), 2),
            calls=1,
            also={name: float(f"{value:.6g}") for name, value in observed.also.items()},
            unresolved=unresolved,
        )

    def _visit_in_calls(self, entry: int) -> Visit:
        """Return what one visit to a whole network finds: the median of its undisturbed calls, as for a layer's.

        A network is its own context: between two calls of one of its layers, all others run. It is timed as walks are.
        """
        target = self._target
        prepared = self._get(entry)
        target.relocate(prepared, self._rng)
        members = {entry: _Member(prepared, target.parts(prepared))}
        spoiled: dict[RejectionCause, int] = {}
        began = target.clock()
        gc.disable()
        try:
            for cycle in range(WARM_PASSES + TIMED_PASSES):
                if cycle == WARM_PASSES:
                    members[entry].at_s = max(0.0, target.clock() - self._origin)
                for _, error in self._cycle([entry], dict(members), spoiled, timed=cycle >= WARM_PASSES):
                    self._forget(entry)
                    raise error
                if cycle >= WARM_PASSES + LEAST_PASSES - 1 and target.clock() - began > LONGEST_VISIT_S:
                    break
        finally:
            gc.enable()
        return self._visit_of(entry, members[entry], spoiled)

    def _cycle(
        self, order: Sequence[int], members: dict[int, _Member], spoiled: dict[RejectionCause, int], *, timed: bool
    ) -> list[tuple[int, BaseException]]:
        """Run each member's programs once, with the counters read around each call and around them all.

        Return whose programs raised what; these are members no longer.
        """
        target = self._target
        errors: list[tuple[int, BaseException]] = []
        stolen, throttled = target.stolen_and_throttled()
        preempted, faults_before = target.preemptions_and_faults()
        for entry in order:
            member = members.get(entry)
            if member is None:
                continue
            self._beat(entry)
            try:
                for i, part in enumerate(member.parts):
                    elapsed = target.run(part.prepared, 1)
                    now, faults = target.preemptions_and_faults()
                    if timed:
                        member.calls[i].append(elapsed)
                        member.clean[i].append(now == preempted)
                        member.faults += faults - faults_before
                    preempted, faults_before = now, faults
            except RAISED as error:
                del members[entry]
                errors.append((entry, error))
                if isinstance(error, LayerFailedError) and error.reason == "crashed":
                    # The device is gone, and it was this layer: the others would only fail after it.
                    return errors
        stolen_after, throttled_after = target.stolen_and_throttled()
        causes: tuple[tuple[RejectionCause, bool], ...] = (
            ("throttled", throttled_after > throttled),
            ("stolen", stolen_after > stolen),
        )
        for cause, hit in causes:
            if hit and timed:
                spoiled[cause] = spoiled.get(cause, 0) + 1
                # Which of the cycle's calls it was cannot be told.
                for clean in (clean for member in members.values() for clean in member.clean if clean):
                    clean[-1] = False
        return errors

    def visit(self, entry: int) -> Visit:
        """Return what one visit to a layer by itself finds.

        Raises:
            LayerFailedError: the target could not run the layer.
        """
        target = self._target
        try:
            prepared = self._get(entry)
            target.relocate(prepared, self._rng)
            stolen, throttled = target.stolen_and_throttled()
            at_s = max(0.0, target.clock() - self._origin)
            gc.disable()
            try:
                timed = self._time(target.parts(prepared))
            finally:
                gc.enable()
            observed = target.observe(prepared)
        except RAISED:
            self._forget(entry)
            raise
        stolen_after, throttled_after = target.stolen_and_throttled()
        cause: RejectionCause | None = None
        if throttled_after > throttled:
            cause = "throttled"
        elif stolen_after > stolen:
            cause = "stolen"
        elif timed.preempted:
            cause = "preempted"
        else:
            cause = observed.cause
        return Visit(
            entry=entry,
            process=self._process,
            at_s=round(at_s, 4),
            ms=float(f"{timed.ns / 1e6:.6g}"),
            cause=cause,
            late=timed.late,
            faults=round(timed.faults, 2),
            calls=timed.calls,
            also={name: float(f"{value:.6g}") for name, value in observed.also.items()},
            unresolved=timed.unresolved,
        )

    def _time(self, parts: Sequence[Part]) -> _Timed:
        """Time blocks of every part in turns, and combine each one's fastest undisturbed block."""
        target = self._target
        calls: list[int] = []
        for part in parts:
            # Two warm-up calls: the first loads caches and has evicted kernels compiled, the second sizes blocks.
            target.run(part.prepared, 1)
            once = max(1, target.run(part.prepared, 1))
            calls.append(max(1, ceil(max(self._protocol.block_ms, target.least_block_ms) * 1e6 / once)))
        blocks: list[list[float]] = [[] for _ in parts]
        clean: list[list[float]] = [[] for _ in parts]
        preempted, faults_before = target.preemptions_and_faults()
        faults = faults_before
        for _ in range(self._protocol.blocks_per_visit):
            for i, part in enumerate(parts):
                elapsed = target.run(part.prepared, calls[i]) / calls[i]
                now, faults = target.preemptions_and_faults()
                blocks[i].append(elapsed)
                if now == preempted:
                    clean[i].append(elapsed)
                preempted = now
        ns, unresolved = _combined(parts, [min(good or every) for good, every in zip(clean, blocks, strict=True)])
        return _Timed(
            ns=ns,
            unresolved=unresolved,
            preempted=not all(clean),
            late=any(len(b) > 1 and b[0] > NOT_STEADY * median(b[1:]) for b in blocks),
            faults=(faults - faults_before) / (sum(calls) * self._protocol.blocks_per_visit),
            calls=calls[0],
        )


def calibrate_timer(samples: int = 2000) -> tuple[float, float]:
    """Return (resolution, overhead) of the timer in nanoseconds: the smallest step seen, and the median cost."""
    clock = time.perf_counter_ns
    stamps = [clock() for _ in range(samples)]
    steps = sorted(b - a for a, b in itertools.pairwise(stamps))
    positive = [step for step in steps if step > 0]
    return float(positive[0] if positive else 1), float(max(steps[len(steps) // 2], 1))

"""One visit: the unit that is measured, journalled and judged. Runs in the process that holds the target."""

from __future__ import annotations

import functools
import gc
import itertools
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import ceil
from statistics import median
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from lut import Layer
from lut._printable import shortened
from lut._records import AtLeastOne, Count, Ms, Protocol, RejectionCause, Seconds, Text
from lut.errors import LatencyLutError, LayerFailedError, TargetUnavailableError
from profiler._plan import COMPANION_ENTRIES, layer_of
from profiler._target import Part, Target
from profiler._whole import Whole

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
# A network's visit is ended after the fewest calls where it takes longer than this.
LONGEST_NETWORK_VISIT_S = 0.4

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
    per call; ``also`` is what the target observed beside it; ``unresolved`` tells that a difference was lost in noise.
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
        wholes: tuple[Whole, ...] = (),
        process: int,
        origin: float,
        beat: Callable[[int], None] = lambda _: None,
        known_kernels: Collection[int] = (),
        memory_bytes: int = 2 << 30,
    ) -> None:
        self._target = target
        self._entries = entries
        self._wholes = wholes
        self._protocol = protocol
        self._process = process
        self._origin = origin
        self._beat = beat
        self._rng = random.Random(f"{protocol.seed}-{process}")  # noqa: S311 - addresses, no secrets
        self._prepared: dict[int, Any] = {}
        self._bytes: dict[int, int] = {}
        self._memory_bytes = memory_bytes
        self._known_kernels = set(known_kernels)
        self._batch = target.describe()[1].batch
        self.implementations: list[Implementation] = []
        self.preparing_s = 0.0

    def _get(self, entry: int, keep: Collection[int] = ()) -> Any:
        if entry in self._prepared:
            # Re-inserting keeps the dictionary in the order of last use.
            self._prepared[entry] = self._prepared.pop(entry)
            return self._prepared[entry]
        began = self._target.clock()
        whole = self._whole_of(entry)
        if whole is not None:
            prepared = self._target.prepare_network(whole, seed=self._protocol.seed)
            # What a user's own module holds is not known; one stays prepared beside the layers.
            self._bytes[entry] = 0 if whole.layer is None else self._target.prepared_bytes(whole.layer, self._batch)
        else:
            layer = layer_of(entry, self._entries)
            prepared = self._target.prepare(layer, seed=self._protocol.seed)
            self._bytes[entry] = self._target.prepared_bytes(layer, self._batch)
        used = sum(self._bytes[e] for e in self._prepared) + self._bytes[entry]
        for oldest in [e for e in self._prepared if e not in keep]:
            if used <= self._memory_bytes:
                break
            used -= self._bytes[oldest]
            self._forget(oldest)
        self._prepared[entry] = prepared
        for part in self._target.parts(prepared):
            self._target.run(part.prepared, 1)
        if self._target.slow_to_prepare:
            self.preparing_s += self._target.clock() - began
        if whole is None and entry >= 0 and entry not in self._known_kernels:
            self._known_kernels.add(entry)
            kernel = self._target.implementation(prepared) or ""
            self.implementations.append(Implementation(entry, kernel, self._target.origin(prepared)))
        return prepared

    def _whole_of(self, entry: int) -> Whole | None:
        """Return the network behind an entry number, ``None`` where it is a layer's."""
        number = entry - len(self._entries)
        return self._wholes[number] if number >= 0 else None

    def _forget(self, entry: int) -> None:
        prepared = self._prepared.pop(entry, None)
        if prepared is not None:
            self._target.release(prepared)

    def visits(self, order: Sequence[int]) -> Iterator[Callable[[], Sequence[Visit | LayerFailure]]]:
        """Yield one function after another; each makes the next visits of ``order`` and returns what they found.

        One visit each where the target times a layer by itself; a group's visits where it times layers in turns.
        """
        failed: set[int] = set()
        if self._target.together == 1:
            for entry in order:
                if entry not in failed:
                    yield functools.partial(self._alone, entry, failed)
            return
        networks = [entry for entry in order if self._whole_of(entry) is not None]
        # Networks come between the groups, evenly, so that they see the same machine as the layers.
        groups = max(1, (len(order) - len(networks)) // self._target.together)
        every = max(1, groups // (len(networks) + 1)) if networks else 0
        made = 0
        # Preflight compares a layer with itself, visit by visit: in every group it stands once.
        waiting = [entry for entry in order if self._whole_of(entry) is None]
        while waiting:
            group: list[int] = []
            later: list[int] = []
            size = 0
            for position, entry in enumerate(waiting):
                if len(group) == self._target.together:
                    later += waiting[position:]
                    break
                if entry in failed:
                    continue
                need = self._target.prepared_bytes(layer_of(entry, self._entries), self._batch)
                if entry not in group and (not group or size + need <= self._memory_bytes):
                    group.append(entry)
                    size += need
                else:
                    later.append(entry)
            waiting = later
            if group:
                yield functools.partial(self._in_turns, group, failed)
            made += 1
            if networks and (made % every == 0 or not waiting):
                yield functools.partial(self._alone, networks.pop(0), failed)
        for entry in networks:
            yield functools.partial(self._alone, entry, failed)

    def _alone(self, entry: int, failed: set[int]) -> Sequence[Visit | LayerFailure]:
        self._beat(entry)
        try:
            # Where layers are timed call by call, so are networks.
            by_calls = self._whole_of(entry) is not None and self._target.together > 1
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

    def _in_turns(self, group: Sequence[int], failed: set[int]) -> Sequence[Visit | LayerFailure]:
        """Visit a group's layers together: a call of each in turn, again and again, each call timed by itself.

        Between two calls of a layer all the others run, as in a network: they take the caches, the branch predictors
        and the heap. A group that is too small is filled up with companions, which run and are not recorded.
        """
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
        self, entry: int, error: BaseException, group: Sequence[int], failures: list[LayerFailure], failed: set[int]
    ) -> None:
        """Note a layer's failure; a companion's counts only where it took the device down with it."""
        self._forget(entry)
        failed.add(entry)
        failure = self._failure(entry, error)
        if entry in group or failure.reason == "crashed":
            failures.append(failure)

    def _companions(self) -> list[int]:
        """Return entries to fill up a group with: the plan's own at random, then the fixed ones."""
        own = [e for e in self._prepared if 0 <= e < len(self._entries)]
        self._rng.shuffle(own)
        return [*own, *COMPANION_ENTRIES]

    def _visit_of(self, entry: int, member: _Member, spoiled: Mapping[RejectionCause, int]) -> Visit:
        """Return the visit that a group's calls of one layer make: the median of those that nothing disturbed."""
        observed = self._target.observe(member.prepared)
        enough = all(2 * sum(clean) >= len(clean) for clean in member.clean)
        cause = observed.cause
        if not enough:
            most: RejectionCause = "preempted"
            for name, times in spoiled.items():
                most = name if times > spoiled.get(most, 0) else most
            cause = most
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

        A network is its own context: between two calls of one of its layers, all others run.
        """
        target = self._target
        prepared = self._get(entry)
        target.relocate(prepared, self._rng)
        members = {entry: _Member(prepared, target.parts(prepared))}
        spoiled: dict[RejectionCause, int] = {}
        began = target.clock()
        gc.disable()
        try:
            for cycle in range(WARM_CYCLES + TIMED_CYCLES):
                if cycle == WARM_CYCLES:
                    members[entry].at_s = max(0.0, target.clock() - self._origin)
                for _, error in self._cycle([entry], dict(members), spoiled, timed=cycle >= WARM_CYCLES):
                    self._forget(entry)
                    raise error
                if cycle >= WARM_CYCLES + LEAST_CYCLES - 1 and target.clock() - began > LONGEST_NETWORK_VISIT_S:
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

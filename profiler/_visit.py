"""One visit: the unit that is measured, journalled and judged. Runs in the process that holds the target."""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections.abc import Collection
from math import ceil
from statistics import median
from typing import Any

import msgspec

from lut import Layer
from lut._records import Protocol, RejectionCause
from lut.errors import LayerFailedError
from profiler._plan import layer_of
from profiler._target import Target

__all__ = ["LayerFailure", "Visit", "Visitor", "calibrate_timer"]

# A visit whose first block is this much slower than the middle of the others came before the layer had warmed up.
NOT_STEADY = 1.1


class Visit(msgspec.Struct, frozen=True, array_like=True):
    """What one visit found: a line of the journal.

    ``ms`` is one call's latency, from the fastest block that nothing preempted; ``cause`` is why the visit does not
    count, ``None`` if it does; ``late`` tells that its first block was still warming up; ``faults`` are page faults
    per call.
    """

    entry: int
    process: int
    at_s: float
    ms: float
    cause: RejectionCause | None
    late: bool
    faults: float
    calls: int


class LayerFailure(msgspec.Struct, frozen=True, tag="failure"):
    """A layer that could not be measured: a line of the journal."""

    entry: int
    process: int
    reason: str
    message: str


class Implementation(msgspec.Struct, frozen=True, tag="implementation"):
    """Which kernel runs a layer, empty where the runtime does not tell: a line of the journal."""

    entry: int
    kernel: str


class Visitor:
    """Visits layers on a target: prepares them once, and times blocks of calls with the counters read around them.

    Args:
        target: where the layers run.
        entries: the plan's layers.
        protocol: blocks and their length.
        process: this process's number, from 0.
        origin: the target's clock when the session began; visits are dated in seconds since then.
        known_kernels: layers whose implementation an earlier process wrote down.
        memory_bytes: how much prepared layers may hold before the longest unused one is released.
    """

    def __init__(
        self,
        target: Target[Any],
        entries: tuple[Layer, ...],
        protocol: Protocol,
        *,
        process: int,
        origin: float,
        known_kernels: Collection[int] = (),
        memory_bytes: int = 2 << 30,
    ) -> None:
        self._target = target
        self._entries = entries
        self._protocol = protocol
        self._process = process
        self._origin = origin
        self._rng = random.Random(f"{protocol.seed}-{process}")  # noqa: S311 - addresses, no secrets
        self._prepared: dict[int, Any] = {}
        self._bytes: dict[int, int] = {}
        self._memory_bytes = memory_bytes
        self._known_kernels = set(known_kernels)
        self._batch = target.describe()[1].batch
        self.implementations: list[Implementation] = []

    def _get(self, entry: int) -> Any:
        if entry in self._prepared:
            # Re-inserting keeps the dictionary in the order of last use.
            self._prepared[entry] = self._prepared.pop(entry)
            return self._prepared[entry]
        layer = layer_of(entry, self._entries)
        prepared = self._target.prepare(layer, seed=self._protocol.seed)
        # The data and its movable copy, at four bytes an element: an estimate that only has to bound the memory.
        self._bytes[entry] = 3 * layer.bytes_moved(batch=self._batch, bytes_per_element=4)
        while self._prepared and sum(self._bytes[e] for e in self._prepared) + self._bytes[entry] > self._memory_bytes:
            oldest = next(iter(self._prepared))
            self._target.release(self._prepared.pop(oldest))
        self._prepared[entry] = prepared
        self._target.run(prepared, 1)
        if entry >= 0 and entry not in self._known_kernels:
            self._known_kernels.add(entry)
            self.implementations.append(Implementation(entry, self._target.implementation(prepared) or ""))
        return prepared

    def visit(self, entry: int) -> Visit:
        """Return what one visit to a layer finds.

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
                # Two warm-up calls: the first loads caches and has evicted kernels compiled, the second sizes blocks.
                target.run(prepared, 1)
                once = max(1, target.run(prepared, 1))
                calls = max(1, ceil(self._protocol.block_ms * 1e6 / once))
                blocks: list[float] = []
                clean: list[float] = []
                preempted, faults_before = target.preemptions_and_faults()
                faults = faults_before
                for _ in range(self._protocol.blocks_per_visit):
                    elapsed = target.run(prepared, calls) / calls
                    now, faults = target.preemptions_and_faults()
                    blocks.append(elapsed)
                    if now == preempted:
                        clean.append(elapsed)
                    preempted = now
            finally:
                gc.enable()
        except LayerFailedError:
            self._prepared.pop(entry, None)
            raise
        stolen_after, throttled_after = target.stolen_and_throttled()
        cause: RejectionCause | None = None
        if throttled_after > throttled:
            cause = "throttled"
        elif stolen_after > stolen:
            cause = "stolen"
        elif not clean:
            cause = "preempted"
        fastest = min(clean or blocks)
        return Visit(
            entry=entry,
            process=self._process,
            at_s=round(at_s, 4),
            ms=float(f"{max(fastest, 1.0) / 1e6:.6g}"),
            cause=cause,
            late=len(blocks) > 1 and blocks[0] > NOT_STEADY * median(blocks[1:]),
            faults=round((faults - faults_before) / (calls * len(blocks)), 2),
            calls=calls,
        )


def calibrate_timer(samples: int = 2000) -> tuple[float, float]:
    """Return (resolution, overhead) of the timer in nanoseconds: the smallest step seen, and the median cost."""
    clock = time.perf_counter_ns
    stamps = [clock() for _ in range(samples)]
    steps = sorted(b - a for a, b in itertools.pairwise(stamps))
    positive = [step for step in steps if step > 0]
    return float(positive[0] if positive else 1), float(max(steps[len(steps) // 2], 1))

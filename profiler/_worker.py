"""The measuring process, and the handle by which the profiler holds it.

The child reads orders from one pipe and writes reports to another, both as JSON lines. It journals every visit itself,
before it goes on, so that a kill of either process loses at most the visit under way. Before each visit it notes the
layer in a file that both share: when it dies or hangs, the profiler knows by which layer.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple, final

import msgspec

from lut import Device, Layer, Setting, UsageError
from lut._printable import printable
from lut._records import Protocol, Software
from lut.errors import LatencyLutError, ProfileError
from profiler._child import LONGEST_ANSWER, Refused, boot_environment, boot_script, die_with, encode, ending, refusal
from profiler._journal import Journal
from profiler._sources import FactorySource, LiveSource, NetworkSource, load_source
from profiler._target import Target, TargetSpec, load_target
from profiler._visit import Implementation, LayerFailure, Visit, Visitor, calibrate_timer
from profiler._walk import Walk

__all__ = ["ChildWorker", "LocalWorker", "Ready", "Report", "Worker", "main"]

START_LIMIT_S = 300.0
REPORT_EVERY_S = 0.5
HEARTBEAT = struct.Struct("i")
NOTHING = -(2**31)


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child's first report."""

    device: Device
    setting: Setting
    software: Software
    timer_resolution_ns: float
    timer_overhead_ns: float
    walks: bool = False


class Report(msgspec.Struct, frozen=True, tag="report"):
    """What was visited since the last report; ``done`` when the order is finished or its deadline has come.

    ``lost``: a layer took the device down with it, and this process can measure nothing more.
    ``preparing_s``: what slow preparations took since the order came, by which its deadline was put off.
    """

    visits: list[Visit] = []
    failures: list[LayerFailure] = []
    implementations: list[Implementation] = []
    done: bool = False
    lost: bool = False
    preparing_s: float = 0.0


class Hello(msgspec.Struct, frozen=True):
    """The parent's first message: all that the child needs to know."""

    factory: str
    options: dict[str, Any]
    entries: tuple[Layer, ...]
    protocol: Protocol
    process: int
    origin: float
    journal: str
    wholes: tuple[NetworkSource, ...] = ()
    hosts: tuple[Walk, ...] = ()


class Order(msgspec.Struct, frozen=True):
    """The parent's other messages: layers to visit in this order, until the clock says ``deadline``."""

    entries: list[int]
    deadline: float


class Outcome(NamedTuple):
    """What became of an order; ``alive`` is false when the process is gone and another must be started."""

    visits: list[Visit]
    failures: list[LayerFailure]
    implementations: list[Implementation]
    alive: bool
    preparing_s: float = 0.0


class Worker(ABC):
    """Whatever visits layers in the profiler's stead."""

    ready: Ready

    @abstractmethod
    def run(self, order: Sequence[int], deadline: float, progress: Callable[[int], None]) -> Outcome:
        """Visit the layers in order until ``deadline``; tell ``progress`` how many visits were made, now and then."""

    @abstractmethod
    def close(self) -> None:
        """End the process."""


@final
class LocalWorker(Worker):
    """A worker in this process, for simulated targets: no pipes, no crash protection, no waiting."""

    def __init__(
        self,
        target: Target[Any],
        entries: tuple[Layer, ...],
        protocol: Protocol,
        *,
        process: int,
        origin: float,
        journal: Journal | None = None,
        wholes: tuple[NetworkSource, ...] = (),
        hosts: tuple[Walk, ...] = (),
    ) -> None:
        device, setting, software = target.describe()
        self.ready = Ready(device, setting, software, 1.0, 1.0, target.walks)
        self._visitor = Visitor(target, entries, protocol, process=process, origin=origin, wholes=wholes, hosts=hosts)
        self._target = target
        self._journal = journal

    def run(self, order: Sequence[int], deadline: float, progress: Callable[[int], None]) -> Outcome:
        report = Report(visits=[], failures=[], implementations=[])
        late = functools.partial(self._late, deadline)
        alive = _carry_out(self._visitor, order, late, self._journal, report)
        progress(len(report.visits))
        return Outcome(report.visits, report.failures, report.implementations, alive=alive)

    def _late(self, deadline: float) -> bool:
        return self._target.clock() >= deadline

    def close(self) -> None:
        """Nothing to end."""


def _carry_out(
    visitor: Visitor,
    order: Sequence[int],
    late: Callable[[], bool],
    journal: Journal | None,
    report: Report,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> bool:
    """Visit layers in order, journal what was found, and collect it in ``report``.

    ``before`` is called before anything is journalled, ``after`` when it was.

    Return whether the target can go on: false where a layer took the device down with it.
    """
    for make_visits in visitor.visits(order):
        if late():
            break
        events = make_visits()
        before()
        report.visits.extend(event for event in events if isinstance(event, Visit))
        report.failures.extend(event for event in events if isinstance(event, LayerFailure))
        new = visitor.implementations
        visitor.implementations = []
        report.implementations.extend(new)
        if journal is not None:
            for note in (*new, *events):
                journal.append(note)
        if any(isinstance(event, LayerFailure) and event.reason == "crashed" for event in events):
            return False
        after()
    return True


@final
class ChildWorker(Worker):
    """A worker in a process of its own.

    Raises:
        TargetUnavailableError: the target cannot run here.
        ProfileError: the process ended before it could say so.
    """

    def __init__(
        self,
        spec: TargetSpec,
        entries: tuple[Layer, ...],
        protocol: Protocol,
        *,
        process: int,
        origin: float,
        journal: Path,
        wholes: tuple[NetworkSource, ...] = (),
        hosts: tuple[Walk, ...] = (),
    ) -> None:
        self._process = process
        self._limit_s = protocol.layer_limit_s
        self._heartbeat = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        order_read, order_write = os.pipe()
        report_read, report_write = os.pipe()
        pipes = (order_read, report_write, self._heartbeat.fileno())
        command = [sys.executable, "-c", boot_script(__name__), *map(str, pipes), str(os.getpid())]
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=(*pipes, *(source.descriptor for source in wholes if isinstance(source, LiveSource))),
            start_new_session=True,
            env=boot_environment(),
        )
        os.close(order_read)
        os.close(report_write)
        self._orders: IO[bytes] = os.fdopen(order_write, "wb", buffering=0)
        self._reports = report_read
        self._buffer = b""
        hello = Hello(
            factory=spec.factory,
            options=dict(spec.options),
            entries=entries,
            protocol=protocol,
            process=process,
            origin=origin,
            journal=str(journal),
            wholes=wholes,
            hosts=hosts,
        )
        try:
            self._send(hello)
            first = self._receive(time.monotonic() + START_LIMIT_S)
            if first is None:
                raise ProfileError(f"the measuring process {self._ending()} before it began{self._last_words()}")
            if isinstance(first, Refused):
                raise refusal(first)
            assert isinstance(first, Ready)
            self.ready = first
        except BaseException:
            self.close()
            raise

    def run(self, order: Sequence[int], deadline: float, progress: Callable[[int], None]) -> Outcome:
        self._beat(NOTHING)
        self._send(Order(list(order), deadline))
        visits: list[Visit] = []
        failures: list[LayerFailure] = []
        implementations: list[Implementation] = []
        current, since = NOTHING, time.monotonic()
        while True:
            report = self._receive(time.monotonic() + min(REPORT_EVERY_S * 2, self._limit_s))
            if isinstance(report, Refused):
                raise refusal(report)
            if isinstance(report, Report):
                visits += report.visits
                failures += report.failures
                implementations += report.implementations
                progress(len(visits))
                since = time.monotonic()
                if report.lost:
                    break
                if report.done:
                    return Outcome(visits, failures, implementations, alive=True, preparing_s=report.preparing_s)
                continue
            entry = self._current()
            if self._child.poll() is not None:
                failures.append(LayerFailure(entry, self._process, *self._crash()))
                break
            if entry != current:
                current, since = entry, time.monotonic()
            if time.monotonic() - since > self._limit_s:
                failures.append(
                    LayerFailure(entry, self._process, "timeout", f"gave no answer within {self._limit_s:g} s")
                )
                break
        self.close()
        return Outcome(visits, [f for f in failures if f.entry != NOTHING], implementations, alive=False)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._orders.close()
        try:
            # A healthy child ends when its orders do; one that hangs does not.
            self._child.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        with contextlib.suppress(OSError):
            os.close(self._reports)
        self._heartbeat.close()
        self._log.close()

    def _send(self, message: Hello | Order) -> None:
        with contextlib.suppress(BrokenPipeError):
            data = memoryview(encode(message, "the output's place or the model's") + b"\n")
            while data:
                data = data[self._orders.write(data) or 0 :]

    def _receive(self, until: float) -> Ready | Refused | Report | None:
        """Return the next report, or ``None`` when none came in time or the child is gone."""
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._reports], [], [], max(0.0, until - time.monotonic()))
            if not readable:
                return None
            chunk = os.read(self._reports, 1 << 20)
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(timeout=5)
                return None
            self._buffer += chunk
            if len(self._buffer) > LONGEST_ANSWER:
                raise ProfileError("the measuring process sent what is no report of ours, without end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message: Ready | Refused | Report = msgspec.json.decode(line, type=Ready | Refused | Report)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProfileError(f"the measuring process sent what is no report of ours: {error}") from None
        return message

    def _beat(self, entry: int) -> None:
        os.pwrite(self._heartbeat.fileno(), HEARTBEAT.pack(entry), 0)

    def _current(self) -> int:
        data = os.pread(self._heartbeat.fileno(), HEARTBEAT.size, 0)
        return int(HEARTBEAT.unpack(data)[0]) if len(data) == HEARTBEAT.size else NOTHING

    def _ending(self) -> str:
        return ending(self._child.poll())

    def _crash(self) -> tuple[str, str]:
        memory = self._child.poll() == -signal.SIGKILL
        hint = " (as the system does when memory runs out)" if memory else ""
        return "crashed", f"the measuring process {self._ending()}{hint}{self._last_words()}"

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 4096))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""


def main(orders: int, reports: int, heartbeat: int, parent: int) -> None:
    """Run the child: read orders, visit, report, until the orders end."""
    die_with(parent)

    def report(message: Ready | Refused | Report) -> None:
        data = memoryview(msgspec.json.encode(message) + b"\n")
        while data:
            data = data[os.write(reports, data) :]

    def check_parent() -> None:
        if os.getppid() != parent:
            os._exit(1)  # the profiler is gone, and another may already be writing the journal

    def beat(entry: int) -> None:
        HEARTBEAT.pack_into(shared, 0, entry)

    os.ftruncate(heartbeat, HEARTBEAT.size)
    # In memory that both processes see: a call into the kernel before every layer would be no network's.
    shared = mmap.mmap(heartbeat, HEARTBEAT.size)
    with os.fdopen(orders, "rb") as stream:
        hello = msgspec.json.decode(stream.readline(), type=Hello)
        journal = Journal(Path(hello.journal))
        try:
            target = load_target(TargetSpec(hello.factory, hello.options))
            target.namespaces = _registered_by(hello.wholes)
            journal.open()
            resolution, overhead = calibrate_timer()
            report(
                Ready(
                    *target.describe(), timer_resolution_ns=resolution, timer_overhead_ns=overhead, walks=target.walks
                )
            )
            visitor = Visitor(
                target,
                hello.entries,
                hello.protocol,
                wholes=hello.wholes,
                hosts=hello.hosts,
                process=hello.process,
                origin=hello.origin,
                beat=beat,
                known_kernels={note.entry for note in journal.read().implementations},
            )
            for line in stream:
                gc.collect()
                order = msgspec.json.decode(line, type=Order)
                if not _work(order, visitor, target, journal, report, check_parent):
                    break
            target.close()
            journal.close()
        except LatencyLutError as error:
            report(Refused(type(error).__name__, printable(str(error))))
        except BrokenPipeError:
            pass


def _registered_by(wholes: Sequence[NetworkSource]) -> frozenset[str]:
    """Return the namespaces of operators that the user's own files register, having imported these.

    They are imported before any layer is prepared, whose operators may be theirs, and outside of any layer's time.
    """
    own = [source for source in wholes if isinstance(source, (FactorySource, LiveSource))]
    if not own:
        return frozenset()
    from profiler._model import import_place
    from profiler._subgraph import registered_namespaces

    before = registered_namespaces()
    for source in own:
        # Where it fails, so will the network itself, which says why.
        if isinstance(source, FactorySource):
            with contextlib.suppress(UsageError):
                import_place(source.model.place, source.model.place)
        else:
            with contextlib.suppress(Exception):
                load_source(source)
    found = registered_namespaces() - before
    if found:
        # PyTorch imports its compiler when an operator that is written in Python is first called: for seconds.
        import_module("torch._dynamo")
    return found


def _work(
    order: Order,
    visitor: Visitor,
    target: Target[Any],
    journal: Journal,
    report: Callable[[Report], None],
    check_parent: Callable[[], None],
) -> bool:
    collected = Report(visits=[], failures=[], implementations=[])
    before_s = visitor.preparing_s
    last = time.monotonic()

    def after() -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_EVERY_S:
            report(collected)
            for part in (collected.visits, collected.failures, collected.implementations):
                part.clear()
            last = time.monotonic()

    alive = _carry_out(
        visitor,
        order.entries,
        lambda: target.clock() >= order.deadline + visitor.preparing_s - before_s,
        journal,
        collected,
        before=check_parent,
        after=after,
    )
    spent = visitor.preparing_s - before_s
    report(msgspec.structs.replace(collected, done=True, lost=not alive, preparing_s=spent))
    return alive

"""A run: plan, lock, measure, judge, write."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from lut import ChannelCurve, LatencyTable, Layer, Network, UsageError
from lut._codec import refuse_unwritable
from lut._files import file_error, write_atomically
from lut._measured_network import MeasuredNetwork
from lut._option_names import OTHER_OUTPUT, RESTART, go_on, option_text
from lut._records import Protocol
from lut.errors import FileAccessError, InterruptedRunError, JournalError, TargetUnavailableError
from profiler._adaptive import Sampler
from profiler._assembly import assemble, instant
from profiler._contexts import Offset
from profiler._journal import FORMAT, VERSION, Journal, JournalContent, JournalHeader, journal_path
from profiler._lock import device_lock
from profiler._plan import LEAST_ENTRY, LOOKS, MANY_NETWORKS, Plan
from profiler._racing import GROUPS, races_of
from profiler._reference import check_references
from profiler._session import Progress, run_session
from profiler._target import TargetSpec, target_factory
from profiler._tested import kept_self_test, self_test_path
from profiler._walk import Walk, walk_of
from profiler._worker import ChildWorker, Ready, Worker

__all__ = ["HOST_EVERY", "check_output", "goes_along", "hosts_for", "limit_for", "profile_plan", "protocol_for"]

# Of many networks, layers are timed in the places of one in so many.
HOST_EVERY = 3

# Compiling one layer takes many seconds, far more than timing it.
COMPILE_LIMIT_S = 300.0


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
    networks: Sequence[MeasuredNetwork] = (),
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
    """Measure a plan and write its table; see :func:`profiler.profile`.

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
            table = assemble(
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
                raise InterruptedRunError("nothing is kept, since no output was named") from None
            kept = len(journal.read().visits)
            raise InterruptedRunError(f"{kept} visits are kept in {journal.path}; {go_on(restart=restart)}") from None
        finally:
            journal.close()
        journal.delete()
    return table


def _offsets_on(ready: Ready, reference: Path) -> Mapping[str, Offset]:
    """Return what this machine's self-test found of chains; nothing where it found that its sums do not hold."""
    tested = kept_self_test(self_test_path(reference), ready.device, ready.setting, ready.software)
    return {} if tested is None or tested.verdict == "do not hold" else tested.chains


def _repeats(plan: Plan, networks: Sequence[MeasuredNetwork]) -> dict[int, int]:
    """Return how often layers stand in the networks, by entry; nothing where there are many, which are samples."""
    if len(networks) >= MANY_NETWORKS:
        return {}
    number = {layer: entry for entry, layer in enumerate(plan.entries)}
    found: Counter[int] = Counter()
    for known in networks:
        for item in known.network.layers:
            found[number[item.layer]] += item.count
    return dict(found)


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
        raise FileAccessError(f"cannot write {output}: it is no regular file; name one: {option_text('output')}")
    if mode is not None and not restart and not journal_path(output).exists():
        raise UsageError(
            f"{output} exists already; {RESTART} measures again and replaces it in the end, "
            f"{OTHER_OUTPUT} writes elsewhere"
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
                f"to finish it, give {OTHER_OUTPUT} than {output}, or discard it: {RESTART}"
            )
        entries = [
            note.entry for notes in (resumed.visits, resumed.failures, resumed.implementations) for note in notes
        ]
        if entries and not LEAST_ENTRY <= min(entries) <= max(entries) < plan.size:
            raise JournalError(f"{journal.path} holds layers that this run does not have; start afresh: {RESTART}")
        return resumed.header, resumed
    threads = plan.options.get("threads")
    header = JournalHeader(
        format=FORMAT,
        version=VERSION,
        plan=plan.digest,
        started_at=instant(),
        started_unix_s=time.time(),
        threads=threads if isinstance(threads, int) else None,
    )
    journal.append(header)
    return header, None

"""The journal: every visit, on disk as soon as it is made, so that nothing is lost and nothing counted twice.

History of the format
    1   JSON lines.
    2   every line is sealed (:mod:`lut._lines`): one that was altered, copied or moved is noticed.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lut._files import file_error, read_bytes
from lut._lines import DamagedLineError, seal, unsealed
from lut._option_names import OTHER_OUTPUT, RESTART
from lut._records import Count, Preflight
from lut.errors import DeviceBusyError, FileAccessError, JournalError
from profiler._visit import Implementation, LayerFailure, Visit

__all__ = ["Journal", "JournalContent", "JournalHeader", "journal_path", "threads_of"]

FORMAT = "latency-lut-journal"
VERSION = 2

# Some two to four million visits; as many as are read within one and a half gibibytes.
LARGEST_JOURNAL = 192 << 20


class JournalHeader(msgspec.Struct, frozen=True, tag="header"):
    """The first line: whose visits these are, and with how many threads the run began, if that was said."""

    format: str
    version: int
    plan: str
    started_at: str
    started_unix_s: float
    threads: int | None = None


class ProcessStart(msgspec.Struct, frozen=True, tag="process"):
    """A measuring process began."""

    process: Count
    resumed: bool


class MachineSeen(msgspec.Struct, frozen=True, tag="machine"):
    """What is measured on; visits of two machines, or of two PyTorches, never mix."""

    machine: str


class PreflightDone(msgspec.Struct, frozen=True, tag="preflight"):
    """What preflight found; a resumed run keeps it."""

    preflight: Preflight


_Event = JournalHeader | ProcessStart | MachineSeen | PreflightDone | LayerFailure | Implementation
_EVENTS = msgspec.json.Decoder(_Event)
_VISITS = msgspec.json.Decoder(Visit)


class _Version(msgspec.Struct):
    """What tells whose journal it is, whatever else its first line holds."""

    format: str
    version: int


class JournalContent(NamedTuple):
    """What a journal holds."""

    header: JournalHeader
    machine: str | None
    preflight: Preflight | None
    visits: list[Visit]
    failures: list[LayerFailure]
    implementations: list[Implementation]
    processes: int
    resumed: int


def journal_path(output: Path) -> Path:
    """Return where the journal of a table lies: beside it."""
    return output.with_name(output.name + ".journal")


_BEGINNING = b'{"type":"header"'


def threads_of(output: Path) -> int | None:
    """Return with how many threads the interrupted run of a table began; ``None`` where there is none, or none says.

    What is wrong with a journal is for those to say who open it.
    """
    try:
        return Journal(journal_path(output)).read().header.threads
    except (FileAccessError, JournalError):
        return None


def _may_be_ours(first: bytes) -> bool:
    """Return whether a file of these first bytes is a journal, or what a kill left of its first line."""
    return first[: len(_BEGINNING)] == _BEGINNING[: len(first)]


class Journal:
    """An append-only file of JSON lines, opened by one writer at a time. Final.

    A line counts only with its newline: what a kill or a full disk cut off is dropped when the journal is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def open(self, *, exclusive: bool = False) -> None:
        """Open for appending, cutting off an unfinished last line.

        Args:
            exclusive: refuse if another profiler holds the journal, on another machine with the same folder say.

        Raises:
            DeviceBusyError: another profiler holds it.
            FileAccessError: the folder or the disk does not allow it.
        """
        try:
            # A pipe that lies there would keep us waiting, and is no journal.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            self._descriptor = os.open(self.path, flags, 0o666)
            found = os.fstat(self._descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise JournalError(f"{self.path} is no regular file of its own; remove it, or give {OTHER_OUTPUT}")
            if exclusive:
                self._hold(self._descriptor)
            size = found.st_size
            if not _may_be_ours(os.pread(self._descriptor, 64, 0)):
                # Nothing is cut off or added where something else lies.
                raise JournalError(f"{self.path}: not a journal of ours; start afresh: {RESTART}")
            keep = size
            while keep > 0:
                start = max(0, keep - 65536)
                newline = os.pread(self._descriptor, keep - start, start).rfind(b"\n")
                if newline >= 0:
                    keep = start + newline + 1
                    break
                keep = start
            if keep != size:
                os.ftruncate(self._descriptor, keep)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise JournalError(f"{self.path} is a link; remove it, or give {OTHER_OUTPUT}") from None
            raise file_error(self.path, "write", error) from None

    def _hold(self, descriptor: int) -> None:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeviceBusyError(
                f"another profile is writing {self.path}; wait for it to end, or give {OTHER_OUTPUT}"
            ) from None

    def append(self, event: msgspec.Struct) -> None:
        """Write one line.

        Raises:
            FileAccessError: the disk is full, or the like.
        """
        assert self._descriptor is not None
        try:
            # One process at a time writes: the measuring one while it has an order, ours before and after.
            line = seal(msgspec.json.encode(event), os.lseek(self._descriptor, 0, os.SEEK_END))
            if os.write(self._descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise file_error(self.path, "write", error) from None

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def read(self) -> JournalContent:
        """Return what the file holds.

        Raises:
            FileAccessError: it cannot be read.
            JournalError: it is no journal of ours, or damaged in the middle.
        """
        content = read_bytes(self.path, limit=LARGEST_JOURNAL)
        advice = f"start afresh: {RESTART}"
        self._refuse_other_versions(content, advice)
        events: list[object] = []
        try:
            for line in unsealed(content):
                decoder: msgspec.json.Decoder[Any] = _VISITS if line.startswith(b"[") else _EVENTS
                events.append(decoder.decode(line))
        except DamagedLineError as error:
            raise JournalError(f"{self.path}, line {error.number}: {error}; {advice}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise JournalError(
                f"{self.path}, line {len(events) + 1}: not a line of a journal ({error}); {advice}"
            ) from None
        if not events or not isinstance(events[0], JournalHeader):
            raise JournalError(f"{self.path}: not a journal of ours; {advice}")
        header = events[0]
        preflights = [event.preflight for event in events if isinstance(event, PreflightDone)]
        starts = [event for event in events if isinstance(event, ProcessStart)]
        return JournalContent(
            header=header,
            machine=next((event.machine for event in events if isinstance(event, MachineSeen)), None),
            preflight=preflights[-1] if preflights else None,
            visits=[event for event in events if isinstance(event, Visit)],
            failures=[event for event in events if isinstance(event, LayerFailure)],
            implementations=[event for event in events if isinstance(event, Implementation)],
            processes=max((start.process for start in starts), default=-1) + 1,
            resumed=sum(start.resumed for start in starts),
        )

    def _refuse_other_versions(self, content: bytes, advice: str) -> None:
        first = content.partition(b"\n")[0].rpartition(b"\t")[0] or content.partition(b"\n")[0]
        try:
            header = msgspec.json.decode(first, type=_Version)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise JournalError(f"{self.path}: not a journal of ours; {advice}") from None
        if header.format != FORMAT:
            raise JournalError(f"{self.path}: not a journal of ours; {advice}")
        if header.version != VERSION:
            raise JournalError(
                f"{self.path}: version {header.version} of the journal is not this release's, {VERSION}; finish that "
                f"run with the release that began it, or {advice}"
            )

    def delete(self) -> None:
        """Remove the file, if it is there."""
        self.close()
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise file_error(self.path, "write", error) from None

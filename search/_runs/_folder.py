"""A run's folder: held by one process, of one run, and never half written."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lut._files import file_error, read_bytes, write_atomically
from lut._folder_lock import LOCK_NAME, folder_lock
from lut._option_names import ELSEWHERE_OR_RESTART, OTHER_OUTPUT, go_on, option_text
from lut._printable import printable, shortened
from lut.errors import (
    CheckpointError,
    FileAccessError,
    InterruptedRunError,
    UsageError,
)

__all__ = [
    "BASE_WEIGHTS",
    "CALIBRATION",
    "CHECKPOINTS",
    "NETWORK",
    "RECORD",
    "REPORT",
    "RESULT",
    "VERIFICATION",
    "WEIGHTS",
    "hold_folder",
    "open_folder",
    "refuse_finished",
    "refuse_folder",
    "refuse_settings",
    "write_json",
]

CHECKPOINTS = "checkpoints"
# What a run's folder holds, that more than one place names.
RECORD, RESULT, REPORT = "run.json", "result.json", "report.html"
NETWORK, WEIGHTS, BASE_WEIGHTS = "network.json", "weights.safetensors", "base.safetensors"
# Latencies of networks of the space that were measured for the calibration.
CALIBRATION = "calibration.json"
# A run's settings; the widths of a space are the longest of them.
LARGEST_RECORD = 1 << 22
# What networks took that were measured to see whether they keep the budget.
VERIFICATION = "verification.json"

Plan = TypeVar("Plan", bound=msgspec.Struct)


@contextlib.contextmanager
def hold_folder(output: Path, files: Collection[str], *, restart: bool = False) -> Iterator[None]:
    """Hold a run's folder while the block runs; it is made where it is missing, and goes again if nothing came of it.

    Args:
        output: the folder.
        files: what a run writes there, by its path in it.
        restart: what the folder holds is to be discarded.

    Raises:
        FolderInUseError: another run holds it.
        FileAccessError: it is a file, cannot be made or written to, or something else stands where a file is to be.
        InterruptedRunError: stopped by the user in the block; says whether the folder keeps anything of the run.
    """
    _refuse_place(output)
    for name in files:
        if os.path.lexists(output / name) and not (output / name).is_file():
            raise FileAccessError(f"cannot write {output / name}: something else than a file is there; move it away")
    made = _missing(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(output, "create", error) from None
    try:
        with folder_lock(output, doing="search"):
            try:
                before = _states(output, files)
                yield
            except KeyboardInterrupt:
                now = _states(output, files)
                raise InterruptedRunError(_stopped(output, before, now, restart=restart)) from None
            finally:
                # While it is still held, so that nobody takes a lock that is about to go.
                with contextlib.suppress(OSError):
                    if made and [entry.name for entry in output.iterdir()] == [LOCK_NAME]:
                        (output / LOCK_NAME).unlink()
    finally:
        for folder in made:
            # One that holds something stays.
            with contextlib.suppress(OSError):
                folder.rmdir()


def _states(output: Path, files: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return what tells whether a file was written, for each that is there."""
    states: dict[str, tuple[int, ...]] = {}
    for name in files:
        with contextlib.suppress(OSError):
            status = (output / name).stat()
            states[name] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return states


def _stopped(
    output: Path, before: Mapping[str, tuple[int, ...]], now: Mapping[str, tuple[int, ...]], *, restart: bool
) -> str:
    """Return what an interrupted run leaves in its folder, and how to go on.

    Args:
        output: the folder.
        before: the states of the run's files at its beginning.
        now: their states.
        restart: what was there is to be discarded.
    """
    written = {name for name, state in now.items() if before.get(name) != state}
    # Until a restarted run has a record, the folder is still the old run's, and that is what would go on.
    if written and not (restart and RECORD in before and RECORD not in written):
        return f"what is done is kept in {output}; {go_on(restart=restart)}"
    if before and not restart:
        return f"what was done before is kept in {output}; {go_on(restart=False)}"
    return f"{'nothing of the new run is kept' if before else 'nothing was written'}; run the same command again"


def _missing(output: Path) -> list[Path]:
    """Return the folders that are to be made for a folder, the innermost first."""
    missing = []
    place = output
    while not os.path.lexists(place) and place != place.parent:
        missing.append(place)
        place = place.parent
    return missing


def _refuse_place(output: Path) -> None:
    """Raise where a folder is a file, or cannot be written to or made."""
    # Nothing but the user's own folder, or the one that it is to be made in.
    place = output
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise FileAccessError(f"cannot create {output}: {place} is a file, not a folder; give {OTHER_OUTPUT}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise FileAccessError(
            f"cannot write to {place}: permission denied; choose another place: {option_text('output')}"
        )


def refuse_finished(output: Path, *, restart: bool) -> None:
    """Raise where a folder holds a finished run; one whose network did not keep its budget may be gone on with."""
    if (output / RESULT).exists() and not restart and not _broke_its_budget(output / RESULT):
        raise CheckpointError(f"{output} holds a finished run; {ELSEWHERE_OR_RESTART}")


def _broke_its_budget(path: Path) -> bool:
    try:
        found = msgspec.json.decode(read_bytes(path, limit=LARGEST_RECORD))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, FileAccessError):
        return False
    return isinstance(found, dict) and found.get("kept") is False


def refuse_settings(output: Path, *, restart: bool, known: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise where a folder holds a run with other settings than these, before anything is loaded for the rest of them.

    Args:
        output: the folder.
        restart: what it holds is to be discarded.
        known: fields of the plan that are known already, by name.
        settings: likewise, of the plan's ``settings``.

    Raises:
        CheckpointError: it holds another run.
        FileAccessError: its record cannot be read.
    """
    record = output / RECORD
    if restart or not os.path.lexists(record):
        return
    try:
        before = msgspec.json.decode(read_bytes(record, limit=LARGEST_RECORD))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # What it is will be said once the whole plan is known.
        return
    if not isinstance(before, dict):
        return
    own = before.get("settings")
    if isinstance(before.get("search"), str) and before["search"] != known.get("search"):
        _refuse_other(output, ["search"])
    for now, was in ((known, before), (settings, own)):
        if isinstance(was, dict) and now.keys() <= was.keys():
            plain = msgspec.json.decode(msgspec.json.encode(dict(now)))
            _refuse_other(
                output, [_named(name, was[name], value) for name, value in plain.items() if was[name] != value]
            )


def _refuse_other(output: Path, different: Iterable[str]) -> None:
    if words := ", ".join(name.replace("_", " ") for name in different):
        raise CheckpointError(f"{output} holds another run, with other {words}; {ELSEWHERE_OR_RESTART}")


def refuse_folder(plan: msgspec.Struct, output: Path, *, restart: bool, apart_from: Collection[str] = ()) -> None:
    """Raise where a folder cannot be this plan's, before anything is measured or written there.

    Args:
        plan: what ``run.json`` would hold.
        output: the folder, which need not be there yet.
        restart: what it holds is to be discarded.
        apart_from: fields of the plan that are not known yet.

    Raises:
        CheckpointError: it holds another run, or a finished one.
        FileAccessError: it is a file, or cannot be written to.
    """
    _refuse_place(output)
    record = output / RECORD
    if restart or not os.path.lexists(record):
        return
    try:
        before = msgspec.json.decode(read_bytes(record, limit=LARGEST_RECORD), type=type(plan))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, UsageError) as error:
        why = printable(shortened(str(error), 200))
        text = f"{record} is not the record of such a run, or of an earlier version's ({why})"
        raise CheckpointError(f"{text}; {ELSEWHERE_OR_RESTART}") from None
    _refuse_other(output, _differences(before, plan, apart_from))
    refuse_finished(output, restart=restart)


def open_folder(
    plan: msgspec.Struct, output: Path, *, files: Iterable[str], folders: Iterable[str] = (), restart: bool
) -> None:
    """Make the folder, or see that what it holds is this plan's and not finished.

    Args:
        plan: what ``run.json`` holds.
        output: the folder.
        files: what a run writes there, by its path in it: what ``restart`` discards.
        folders: likewise.
        restart: discard what is there.

    Raises:
        CheckpointError: it holds another run, or a finished one.
        FileAccessError: it cannot be made or written to.
    """
    refuse_folder(plan, output, restart=restart)
    if restart:
        for name in files:
            try:
                (output / name).unlink(missing_ok=True)
            except OSError as error:
                raise file_error(output / name, "delete", error) from None
        for name in folders:
            if (output / name).is_dir() and not (output / name).is_symlink():
                shutil.rmtree(output / name, ignore_errors=True)
    try:
        (output / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(output, "create", error) from None
    write_json(output / RECORD, plan)


def _differences(before: msgspec.Struct, now: msgspec.Struct, apart_from: Collection[str] = ()) -> list[str]:
    # Both as a file holds them, which knows lists alone.
    was, new = (msgspec.json.decode(msgspec.json.encode(plan)) for plan in (before, now))
    different = [name for name in new if was[name] != new[name] and name not in apart_from]
    found = [_named(name, was[name], new[name]) for name in different]
    if "settings" in found:
        # Which of them, where they are those of the same search.
        old, own = was["settings"], new["settings"]
        inner = [name for name in own if own.get(name) != old.get(name)]
        found = [name for name in found if name != "settings"] + (inner or ["settings"])
    return found


def _named(name: str, was: Any, now: Any) -> str:
    """Return what a setting is called that differs; of the budgets, which of them does."""
    if name == "budgets" and isinstance(was, dict) and isinstance(now, dict):
        return " and ".join(f"budget of {inner}" for inner in now if was.get(inner) != now[inner])
    return name


def write_json(path: Path, content: Any) -> None:
    """Write what JSON can hold, in lines.

    Raises:
        FileAccessError: it cannot be written; an old file is untouched.
    """
    write_atomically(path, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")

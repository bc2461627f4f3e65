"""One run at a time in a folder: two would write over each other's steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lut._files import file_error
from lut._option_names import OTHER_OUTPUT
from lut.errors import FolderInUseError

__all__ = ["LOCK_NAME", "folder_lock"]

LOCK_NAME = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path, *, doing: str) -> Iterator[None]:
    """Hold a folder, which must be there, while the block runs.

    The lock is the operating system's, so that it is gone with the process that held it, however that ended.

    Args:
        folder: where the run writes.
        doing: what holds it, for the message to others: ``"search"``.

    Raises:
        FolderInUseError: another run holds it.
        FileAccessError: the lock file cannot be made.
    """
    from filelock import FileLock, Timeout

    place = folder / LOCK_NAME
    lock = FileLock(place, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"another {doing} is running in {folder}; wait for it to end, or give {OTHER_OUTPUT}"
        ) from None
    except OSError as error:
        raise file_error(place, "write", error) from None
    try:
        yield
    finally:
        lock.release()

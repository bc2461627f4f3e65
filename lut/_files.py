"""Reading and writing files: whole or not at all, and every failure one clear error."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from lut.errors import FileAccessError

__all__ = ["read_bytes", "write_atomically"]

# The largest table that the profiler can write is far below this; a larger file is a mistake, not a table.
LARGEST_FILE = 1 << 30


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the file's content.

    Raises:
        FileAccessError: it is missing, a folder, forbidden, or above one gibibyte.
    """
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise FileAccessError(f"{file}: {file.stat().st_size >> 20} MiB is too large for one of our files")
        return file.read_bytes()
    except OSError as error:
        raise file_error(file, "read", error) from None


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that, whatever happens, either the old content or the new one is there.

    Raises:
        FileAccessError: the folder is missing or forbidden, or the disk is full; an old file is untouched.
    """
    file = Path(os.path.realpath(path))
    temporary = file.with_name(f".{file.name[:80]}.{secrets.token_hex(6)}.tmp")
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(file.parent)
    except OSError as error:
        raise file_error(Path(path), "write", error) from None


def file_error(file: Path, verb: str, error: OSError) -> FileAccessError:
    """Return our error for an operating system's, with what to do."""
    if isinstance(error, FileAccessError):
        return error
    advice = {
        errno.ENOENT: "check the path" if verb == "read" else f"create the folder {file.parent} first",
        errno.ENOSPC: "free some space, then run the same command again",
        errno.EDQUOT: "your disk quota is used up; free some space, then run the same command again",
        errno.EACCES: "check the permissions" if verb == "read" else "choose another place with --output",
        errno.EROFS: "choose another place with --output",
        errno.EISDIR: "give a file, not a folder",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
    }.get(error.errno or 0, "")
    reason = (error.strerror or str(error)).lower()
    return FileAccessError(f"cannot {verb} {file}: {reason}" + (f"; {advice}" if advice else ""))


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the file system offers that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

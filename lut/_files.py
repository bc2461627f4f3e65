"""Reading and writing files: whole or not at all, and every failure one clear error.

What lies at a path is looked at once it is open, never before: only regular files are read and replaced, and no more is
read than a file of ours can hold, whatever its size is said to be. A pipe or a terminal is taken where it can only be
meant: ``/dev/stdin``, ``/dev/stdout`` and the like.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import stat
from pathlib import Path

from lut._option_names import option_text
from lut.errors import FileAccessError

__all__ = [
    "LARGEST_JSON",
    "file_error",
    "open_regular",
    "read_bytes",
    "replace_file",
    "sha256_of",
    "show_bytes",
    "write_atomically",
]

# JSON in memory takes up to some twenty times its bytes, and no reader is to need more than two gibibytes. A table of
# 50,000 layers is smaller.
LARGEST_JSON = 64 << 20

# The most that a file's name may have in bytes, on all common file systems.
LONGEST_NAME = 255

# Descriptors that the user handed to us: whatever they are, reading and writing them is what is asked for.
_HANDED = re.compile(r"/dev/(std(in|out|err)|fd/[0-9]+)|/proc/self/fd/[0-9]+")

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def read_bytes(path: str | os.PathLike[str], *, limit: int = LARGEST_JSON) -> bytes:
    """Return the file's content.

    Args:
        path: a regular file, or one of ``/dev/stdin`` and ``/dev/fd/N``.
        limit: bytes; no more than one above it are ever read.

    Raises:
        FileAccessError: it is missing, a folder, a device or a pipe, forbidden, or above the limit.
    """
    file = Path(path)
    parts: list[bytes] = []
    left = limit + 1
    with open_regular(file) as stream:
        try:
            # One byte more than the limit at most: what stat says of a size can be wrong.
            while left and (part := stream.read(min(left, 1 << 24))):
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise file_error(file, "read", error) from None
    if not left:
        raise FileAccessError(f"{file}: more than {show_bytes(limit)} is too large for such a file")
    return b"".join(parts)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal.

    Raises:
        FileAccessError: as of :func:`read_bytes`.
    """
    digest = hashlib.sha256()
    with open_regular(Path(path)) as stream:
        try:
            while part := stream.read(1 << 20):
                digest.update(part)
        except OSError as error:
            raise file_error(Path(path), "read", error) from None
    return digest.hexdigest()


def open_regular(file: Path) -> io.BufferedReader:
    """Open a regular file, or one of ``/dev/stdin`` and ``/dev/fd/N``, for reading.

    Raises:
        FileAccessError: it is missing, a folder, a device or a pipe, or forbidden.
    """
    try:
        # Opening a pipe that nobody writes to would wait for ever without O_NONBLOCK.
        handed = _HANDED.fullmatch(os.fspath(file)) is not None
        stream = os.fdopen(os.open(file, os.O_RDONLY | os.O_CLOEXEC | (0 if handed else os.O_NONBLOCK)), "rb")
        try:
            _refuse_irregular(file, os.fstat(stream.fileno()).st_mode, "read", handed=handed)
        except BaseException:
            stream.close()
            raise
    except (OSError, ValueError) as error:
        raise file_error(file, "read", error) from None
    return stream


def _refuse_irregular(file: Path, mode: int, verb: str, *, handed: bool) -> None:
    for is_kind, name in _KINDS:
        if is_kind(mode):
            if is_kind is stat.S_ISDIR:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not handed:
                raise FileAccessError(f"cannot {verb} {file}: it is {name}; give a regular file")


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that, whatever happens, either the old content or the new one is there.

    A file that is replaced keeps its permissions. ``/dev/stdout``, ``/dev/fd/N`` and ``/dev/null`` are written into.

    Raises:
        FileAccessError: the folder is missing or forbidden, the disk is full, or something else than a regular file is
            there; an old file is untouched.
    """
    try:
        if _HANDED.fullmatch(os.fspath(path)) or os.fspath(path) == os.devnull:
            with open(path, "wb") as stream:  # noqa: PTH123 - a path that pathlib would not keep as it is
                stream.write(content)
            return
        _replace(Path(os.path.realpath(path)), content)
    except (OSError, ValueError) as error:
        raise file_error(Path(path), "write", error) from None


def replace_file(path: Path, finished: Path) -> None:
    """Put a finished file in the place of another, or of none; both in one file system.

    Raises:
        FileAccessError: something else than a regular file is there, or the folder is forbidden.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            _refuse_irregular(path, mode, "write", handed=stat.S_ISLNK(mode))
        finished.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise file_error(path, "write", error) from None


def _replace(file: Path, content: bytes) -> None:
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = file.stat().st_mode
        _refuse_irregular(file, mode, "write", handed=False)
    suffix = f".{secrets.token_hex(6)}.tmp"
    # Names are limited in bytes, and one that is cut inside a character is still a name.
    start = os.fsencode(file.name)[: LONGEST_NAME - len(suffix) - 1]
    temporary = file.with_name(os.fsdecode(b"." + start) + suffix)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if mode is not None:
                os.fchmod(descriptor, stat.S_IMODE(mode) & 0o777)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(file.parent)


def file_error(file: Path, verb: str, error: OSError | ValueError) -> FileAccessError:
    """Return our error for an operating system's, with what to do."""
    if isinstance(error, FileAccessError):
        return error
    if not isinstance(error, OSError):
        # Python itself refuses a name with a null character in it, or one that cannot be encoded.
        return FileAccessError(f"cannot {verb} {file}: no file can have such a name")
    advice = {
        errno.ENOENT: "check the path" if verb == "read" else f"create the folder {file.parent} first",
        errno.ENOSPC: "free some space, then run the same command again",
        errno.EDQUOT: "your disk quota is used up; free some space, then run the same command again",
        errno.EACCES: "check the permissions" if verb == "read" else f"choose another place: {option_text('output')}",
        errno.EROFS: f"choose another place: {option_text('output')}",
        errno.EISDIR: "give a file, not a folder",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
    }.get(error.errno or 0, "")
    reason = (error.strerror or str(error)).lower()
    return FileAccessError(f"cannot {verb} {file}: {reason}" + (f"; {advice}" if advice else ""))


def show_bytes(count: int) -> str:
    """Return a number of bytes for people: ``64 MiB``."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the file system offers that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

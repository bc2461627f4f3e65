"""One profile at a time per device: two would measure each other."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lut._files import file_error
from lut.errors import DeviceBusyError, FileAccessError

__all__ = ["device_lock"]

# Another process may delete the file between a look and the next.
ATTEMPTS = 10
ELSEWHERE = "or name another folder for locks, the same for all users: LATENCY_LUT_LOCKS=/folder"
# What opening says of a link, of a folder, of a pipe without a reader, of a socket.
IRREGULAR = (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.EOPNOTSUPP)


@contextlib.contextmanager
def device_lock(device: str, *, folder: Path | None = None) -> Iterator[None]:
    """Hold the machine-wide lock of a device while the block runs.

    The lock is the operating system's (flock), so that it is gone with the process that held it, however that ended:
    a stale one is simply taken over. The file holds the process id for the message to others.

    Args:
        device: a name without slashes, such as ``cpu``.
        folder: where the lock file lies; by default ``/tmp``, shared by all users whatever their ``TMPDIR`` is, or the
            folder that ``LATENCY_LUT_LOCKS`` names.

    Raises:
        DeviceBusyError: another process holds it; the message names its id.
        FileAccessError: the lock file cannot be opened.
    """
    import fcntl

    place = folder or Path(os.environ.get("LATENCY_LUT_LOCKS") or "/tmp")  # noqa: S108 - one place for all users
    path = place / f"latency-lut-{device}.lock"
    descriptor = _opened(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise DeviceBusyError(
                f"another profile is running on this {device} (process {holder}); two at once would measure each "
                "other. Wait for it to end, or stop it"
            ) from None
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Return a descriptor of the lock file, which is made where there is none; nothing else is ever written to."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileExistsError):
            return _made(path)
        with contextlib.suppress(FileNotFoundError):
            return _found(path)
    raise FileAccessError(f"cannot open {path}: it comes and goes; {ELSEWHERE}")


def _made(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise
    except OSError as error:
        raise file_error(path, "write", error) from None
    # A umask must not keep other users out for ever.
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o666)
    return descriptor


def _found(path: Path) -> int:
    """Return a descriptor of a file that somebody made: locking it needs no more than to read it."""
    # Any user can plant anything here: a link, to make us write elsewhere, or a pipe, which would be waited for.
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | flags)
        except PermissionError:
            descriptor = os.open(path, os.O_RDONLY | flags)
    except FileNotFoundError:
        raise
    except PermissionError:
        raise FileAccessError(
            f"cannot open {path}: another user made it and lets nobody else read it. Ask them to delete it; {ELSEWHERE}"
        ) from None
    except OSError as error:
        if error.errno not in IRREGULAR:
            raise file_error(path, "read", error) from None
        raise _no_lock(path) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise _no_lock(path)
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != 0o666:
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, 0o666)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _no_lock(path: Path) -> FileAccessError:
    return FileAccessError(f"{path} is not the lock file that belongs there. Delete it; {ELSEWHERE}")

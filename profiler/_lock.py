"""One profile at a time per device: two would measure each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lut._files import file_error
from lut.errors import DeviceBusyError

__all__ = ["device_lock"]


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
    try:
        # Any user may meet this file; O_NOFOLLOW keeps a planted link from making us write elsewhere.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        # Another user made it. Locking needs no more than to read it.
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise file_error(path, "read", error) from None
    except OSError as error:
        raise file_error(path, "write", error) from None
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

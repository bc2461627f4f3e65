"""What targets on this machine's CPU do to their process, and how they report what a runtime raises."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

from lut.errors import LatencyLutError, LayerFailedError
from profiler._machine import affinity

__all__ = ["OUT_OF_MEMORY", "keep_freed_memory", "layer_errors", "pin"]

# glibc's mallopt(3): larger blocks come from mmap, and a free top of the heap above the threshold goes back to the
# system. By default a layer's output is then unmapped and mapped anew in every call, or not, depending on what else
# lies on the heap: on one x86 machine the same convolution took 0.70 ms or 1.57 ms from one process to the next.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 1 << 30


def pin(threads: int) -> str:
    """Keep this process on as many CPUs as it has threads, so that it is not moved between caches."""
    cpus = affinity()
    if threads >= len(cpus) or not hasattr(os, "sched_setaffinity"):
        return "no: the threads fill the affinity mask" if threads >= len(cpus) else "no: not offered by this system"
    # The first CPU serves most interrupts; the last ones are the quietest.
    os.sched_setaffinity(0, cpus[-threads:])
    return f"to {threads} of {len(cpus)} CPUs"


def keep_freed_memory() -> str:
    """Make the C library keep what a layer frees instead of giving it back to the system after every call."""
    if platform.libc_ver()[0] != "glibc":
        return "the system's, unchanged"
    libc = ctypes.CDLL(None)
    kept = libc.mallopt(M_MMAP_THRESHOLD, KEEP_BYTES) and libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    return f"glibc, freed memory kept below {KEEP_BYTES >> 20} MiB" if kept else "glibc, unchanged"


# How runtimes say that memory is exhausted, for want of an exception of its own.
OUT_OF_MEMORY = (
    "out of memory",
    "allocate memory",
    "not enough memory",
    "failed to allocate",
    "bad allocation",
    "bad_alloc",
)


@contextlib.contextmanager
def layer_errors(*memory: type[BaseException]) -> Iterator[None]:
    """Turn whatever a runtime raises into :class:`~lut.errors.LayerFailedError`: it stays that layer's failure.

    Args:
        memory: the runtime's own exceptions for exhausted memory.
    """
    try:
        yield
    except LatencyLutError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        text = lines[0] if lines else type(error).__name__
        if text.endswith(":") and len(lines) > 1:
            # A title only: what went wrong stands below it.
            text += " " + next((line.strip() for line in lines[1:] if line.strip()), "")
        spent = isinstance(error, (MemoryError, *memory)) or any(words in text.lower() for words in OUT_OF_MEMORY)
        raise LayerFailedError(
            f"out of memory: {text}" if isinstance(error, MemoryError) else text,
            reason="out_of_memory" if spent else "error",
        ) from error

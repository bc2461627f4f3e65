"""Several jobs at once, each in a thread; results come as they get done, and none is lost to another's failure."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from math import inf
from typing import NamedTuple, TypeVar

__all__ = ["run_at_once"]

Job = TypeVar("Job")
Found = TypeVar("Found")


# A wait without a limit is not ended by a signal that another thread receives: Ctrl-C would go unnoticed until a job
# is done.
POLL_INTERVAL_S = 0.2


class _Failed(NamedTuple):
    error: BaseException


def run_at_once(
    jobs: Sequence[Job], slots: Sequence[Callable[[Job], Found]], *, timeout_s: float = inf
) -> Generator[tuple[int, Found], None, None]:
    """Yield each job's number and result, in the order in which they get done.

    After a job has failed none is begun; those under way are waited for and yielded, and then the first failure is
    raised. Where the caller stops listening, at Ctrl-C say, the threads are left to themselves: they begin no other
    job, and do not keep the process alive.

    Args:
        jobs: in the order in which they are begun.
        slots: what does a job, one thread each; the same function twice must bear to be called twice at a time.
        timeout_s: seconds after which nobody waits any more: the generator ends, as if the caller had stopped.
    """
    waiting: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
    for pair in enumerate(jobs):
        waiting.put(pair)
    # A thread's last word is None.
    done: queue.SimpleQueue[tuple[int, Found] | _Failed | None] = queue.SimpleQueue()
    stop = threading.Event()

    def serve(slot: Callable[[Job], Found]) -> None:
        while not stop.is_set():
            try:
                number, job = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                done.put((number, slot(job)))
            except BaseException as error:
                # Raised by the listener; a thread's own traceback would only reach the screen.
                stop.set()
                done.put(_Failed(error))
        done.put(None)

    failure: BaseException | None = None
    until = time.monotonic() + timeout_s
    try:
        for slot in slots:
            threading.Thread(target=serve, args=(slot,), daemon=True).start()
        working = len(slots)
        while working:
            left = until - time.monotonic()
            try:
                found = done.get(timeout=max(0.0, min(POLL_INTERVAL_S, left)))
            except queue.Empty:
                if left <= 0:
                    break
                continue
            if found is None:
                working -= 1
            elif isinstance(found, _Failed):
                failure = failure or found.error
            else:
                yield found
    finally:
        stop.set()
    if failure is not None:
        raise failure

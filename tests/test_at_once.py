"""Several jobs at once: an interruption is heard while all of them work."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import HANGS_S

from search._at_once import run_at_once


@pytest.fixture
def deaf() -> Iterator[None]:
    """Have signals go to other threads than this one, whose waiting they do not end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    yield
    signal.signal(signal.SIGINT, before)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def test_an_interruption_that_another_thread_gets_is_heard(deaf: None, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, done = threading.Event(), threading.Event()

    class Told(queue.SimpleQueue[Any]):
        def get(self, *given: Any, **named: Any) -> Any:
            waits.set()
            return super().get(*given, **named)

    monkeypatch.setattr(queue, "SimpleQueue", Told)

    def works(job: str) -> str:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        assert waits.wait(HANGS_S)
        # Until it does more than to say so; were this too short, the test would pass and not fail.
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        assert done.wait(HANGS_S)
        return job

    found = run_at_once(["a job"], [works])
    with pytest.raises(KeyboardInterrupt):
        next(found)
    done.set()

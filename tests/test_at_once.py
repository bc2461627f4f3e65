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

from search._accuracy._side_by_side import run_at_once


@pytest.fixture
def _signals_go_to_other_threads() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    yield
    signal.signal(signal.SIGINT, before)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@pytest.mark.usefixtures("_signals_go_to_other_threads")
def test_an_interruption_that_another_thread_receives_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, heard, ended = threading.Event(), threading.Event(), threading.Event()

    class Queue(queue.SimpleQueue[Any]):
        def get(self, *given: Any, **named: Any) -> Any:
            waiting.set()
            return super().get(*given, **named)

    monkeypatch.setattr(queue, "SimpleQueue", Queue)

    def job(name: str) -> str:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        assert waiting.wait(HANGS_S)
        # Time to go from saying so to waiting; were it too short, a wait without a limit would not be found out.
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        heard.wait(HANGS_S)
        ended.set()
        return name

    with pytest.raises(KeyboardInterrupt):
        next(run_at_once(["a job"], [job]))
    # While the job was at work, and not when it was done.
    assert not ended.is_set()
    heard.set()

"""Other programs on the machine: seen before anything is measured, and what is done about them."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lut._console import make_console
from lut.errors import DeviceBusyError
from profiler import _busy, _machine
from profiler._busy import Load, other_load, settle_threads
from profiler._cli import profile_device


@pytest.fixture(autouse=True)
def _four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_busy, "affinity", lambda: (0, 1, 2, 3))


def looks(*cpus: float) -> Callable[[], Load]:
    left = list(cpus)
    return lambda: Load(left.pop(0) if len(left) > 1 else left[0], ("make (12)",))


def settled(threads: int | None, when_busy: str, *cpus: float) -> tuple[int | None, list[str], float]:
    """Return the threads that come of it, what was said, and the seconds that were waited."""
    said: list[str] = []
    slept: list[float] = []
    found = settle_threads(threads, 4, when_busy, said.append, look=looks(*cpus), sleep=slept.append)
    return found, said, sum(slept)


@pytest.mark.parametrize("when_busy", ["fit", "wait", "stop", "measure"])
def test_an_idle_machine_is_measured_at_once(when_busy: str) -> None:
    assert settled(None, when_busy, 0.1) == (None, [], 0)
    assert settled(2, when_busy, 0.1) == (2, [], 0)
    # Two threads need two CPUs.
    assert settled(2, when_busy, 2.2) == (2, [], 0)


def test_fewer_threads_where_they_are_free_to_choose() -> None:
    threads, said, waited = settled(None, "fit", 1.9)
    assert threads == 2
    assert waited >= 5
    assert "waiting up to 20 s" in said[0]
    assert "make (12)" in said[0]
    assert "measuring with 2 threads" in said[-1]


def test_threads_that_were_given_stay_and_a_warning_says_what_would_help() -> None:
    threads, said, _ = settled(4, "fit", 1.9)
    assert threads == 4
    assert "--threads 2" in said[-1]


def test_where_no_cpu_is_free_one_thread_is_left() -> None:
    threads, said, waited = settled(None, "fit", 4.0)
    assert threads == 1
    assert waited >= 10
    assert "4.0 of 4 CPUs busy: make (12); measuring all the same, with 1 thread" in said[-1]
    threads, said, _ = settled(4, "fit", 4.0)
    assert threads == 4
    assert "come back when one CPU is free" in said[-1]
    assert settled(None, "fit", *[4.0] * 5, 0.0)[0] is None
    with pytest.raises(DeviceBusyError, match=r"4\.0 of 4 CPUs busy.*come back when one CPU is free.*--when-busy"):
        settled(None, "wait", 4.0)


def test_a_machine_that_becomes_free_is_measured() -> None:
    threads, said, waited = settled(None, "wait", 3.0, 3.0, 0.0)
    assert (threads, len(said)) == (None, 1)
    assert 0 < waited < 5


def test_a_stop_says_what_to_do() -> None:
    with pytest.raises(DeviceBusyError, match=r"2\.0 of 4 CPUs busy: make \(12\)\. End them, take --threads 2"):
        settled(None, "stop", 2.0)
    with pytest.raises(DeviceBusyError, match="--when-busy measure"):
        settled(None, "wait", 4.0)
    assert settled(None, "measure", 4.0) == (None, [], 0)


def test_more_threads_than_cpus_are_the_users_affair() -> None:
    assert settled(9, "stop", 0.0) == (9, [], 0)
    assert settled(9, "fit", 0.0) == (9, [], 0)
    assert settled(9, "wait", 0.0) == (9, [], 0)


def proc(root: Path, ticks: int, program: int) -> None:
    rows = "\n".join(f"cpu{n} {ticks} 0 0 {1000 - ticks} 0 0 0 500 0 0" for n in range(5))
    (root / "proc/77").mkdir(parents=True, exist_ok=True)
    (root / "proc/stat").write_text(f"cpu  1 2 3\n{rows}\n")
    (root / "proc/77/stat").write_text(f"77 (a (b) c) S {' '.join(['0'] * 10)} {program} 0 0\n")


def test_load_is_what_our_cpus_did_for_others(tmp_path: Path) -> None:
    hertz = os.sysconf("SC_CLK_TCK")
    proc(tmp_path, 0, 0)
    began = time.monotonic()

    def sleep(seconds: float) -> None:
        # Half of the time on each of our four CPUs; a fifth is not ours.
        proc(tmp_path, int(hertz * seconds / 2), int(hertz * seconds))

    load = other_load(100.0, root=tmp_path, sleep=sleep)
    assert load.cpus == pytest.approx(2.0, abs=0.1)
    assert load.programs == ("a (b) c (77)",)
    assert "2.0 of 4 CPUs busy: a (b) c (77)" in str(load)
    assert time.monotonic() - began < 60


def test_a_system_that_does_not_tell_is_idle(tmp_path: Path) -> None:
    assert other_load(0.01, root=tmp_path) == Load(0.0, ())


def spin() -> None:
    while True:
        pass


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc")
def test_a_real_program_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    hog = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    hog.start()
    try:
        limit = time.monotonic() + 60
        while time.monotonic() < limit and f"({hog.pid})" not in str(load := other_load(0.3)):
            pass
        assert f"({hog.pid})" in str(load)
        assert load.cpus > 0.1
    finally:
        hog.kill()
        hog.join()


@pytest.mark.parametrize(
    ("asked", "found", "said"), [(None, 1, "measured with 1 of 2 threads"), (None, None, None), (2, 1, None)]
)
def test_fewer_threads_than_usual_are_told_beside_the_result(
    asked: int | None, found: int | None, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_busy, "settle_threads", lambda *_: found)
    monkeypatch.setattr(_machine, "default_threads", lambda: 2)
    options = {} if asked is None else {"threads": asked}
    note = profile_device._settle(options, "cpu", "fit", make_console())
    assert options.get("threads") == (asked if found is None else found)
    assert (note is None) == (said is None)
    if note is not None and said is not None:
        assert said in note
        assert "--threads 2" in note
    assert profile_device._settle({}, "cuda", "fit", make_console()) is None

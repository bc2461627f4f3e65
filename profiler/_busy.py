"""Other programs: how much of this machine they take, seen before it is measured."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lut.errors import DeviceBusyError
from profiler._machine import ROOT, affinity

__all__ = ["PATIENCE_S", "Load", "other_load", "settle_threads"]

LOOK_S = 0.5
# Seconds to wait until the machine is free: as a browser's page needs; and at the most, where one is told to.
PATIENCE_S = {"fit": 20.0, "wait": 600.0, "stop": 0.0, "measure": 0.0}
BETWEEN_LOOKS_S = 1.0
# So much of a CPU others may take: a desktop that does nothing takes less.
SPARE = 0.3
# Of a CPU, from which a program is worth naming; and how many are named.
WORTH_NAMING, MOST_NAMED = 0.1, 3


class Load(NamedTuple):
    """How many CPUs others keep busy, of those that this process may use, and which programs do so, if known."""

    cpus: float
    programs: tuple[str, ...]

    def __str__(self) -> str:
        which = f": {', '.join(self.programs)}" if self.programs else ""
        return f"other programs keep {self.cpus:.1f} of {len(affinity())} CPUs busy{which}"


def other_load(seconds: float = LOOK_S, *, root: Path = ROOT, sleep: Callable[[float], None] = time.sleep) -> Load:
    """Return what others take of our CPUs; nothing where the system does not tell.

    Args:
        seconds: to look.
        root: of the file system.
        sleep: waits.
    """
    before, own, began = _busy_ticks(root), time.process_time(), time.monotonic()
    programs = _program_ticks(root)
    sleep(seconds)
    spent = max(time.monotonic() - began, seconds)
    ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    busy = (_busy_ticks(root) - before) / ticks - (time.process_time() - own)
    shares = {
        pid: (now - programs[pid][1]) / ticks / spent
        for pid, (_, now) in _program_ticks(root).items()
        if pid in programs
    }
    named = sorted((pid for pid in shares if shares[pid] >= WORTH_NAMING), key=lambda pid: -shares[pid])[:MOST_NAMED]
    return Load(max(0.0, busy / spent), tuple(f"{programs[pid][0]} ({pid})" for pid in named))


def _busy_ticks(root: Path) -> int:
    """Return for how many ticks our CPUs have worked, for programs or the kernel; what the host steals is not ours."""
    try:
        lines = (root / "proc/stat").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    ours = {f"cpu{number}" for number in affinity()}
    rows = [line.split() for line in lines]
    # user, nice, system; idle and iowait are left out; irq, softirq.
    return sum(int(word) for row in rows if row and row[0] in ours for word in (*row[1:4], *row[6:8]))


def _program_ticks(root: Path) -> dict[int, tuple[str, int]]:
    """Return the name of each other program that can be seen, and for how many ticks it has worked."""
    found = {}
    try:
        folders = [folder for folder in (root / "proc").iterdir() if folder.name.isdecimal()]
    except OSError:
        return {}
    for folder in folders:
        if int(folder.name) == os.getpid():
            continue
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        # The name stands in brackets, and may hold any character.
        match = re.match(r"\d+ \((.*)\) (.*)", text, re.DOTALL)
        words = match.group(2).split() if match else []
        if match and len(words) > 12:
            found[int(folder.name)] = (match.group(1), int(words[11]) + int(words[12]))
    return found


def settle_threads(
    threads: int | None,
    allowed: int,
    when_busy: str,
    tell: Callable[[str], None],
    *,
    look: Callable[[], Load] = other_load,
    sleep: Callable[[float], None] = time.sleep,
) -> int | None:
    """Return with how many threads to measure, having waited for a machine that is busy.

    Args:
        threads: as they were given, ``None`` where they are free to choose.
        allowed: what is taken where they are.
        when_busy: ``fit``: wait a little, then take as few threads as have a CPU each, one at the least, if they are
            free to choose; threads that were given are measured with a warning; ``wait``: for as long as ten minutes,
            then stop; ``stop`` at once; ``measure`` without a look.
        tell: told what is waited for, and what is done about it.
        look: says what others take.
        sleep: waits.

    Raises:
        DeviceBusyError: the machine is busy, and it is not to be measured then.
    """
    if when_busy == "measure":
        return threads
    # More threads than CPUs share these.
    wanted = min(allowed if threads is None else threads, len(affinity()))
    load = look()
    patience = PATIENCE_S[when_busy]
    waited = 0.0
    while _free(load) < wanted and waited < patience:
        if not waited:
            tell(f"{load}; waiting up to {patience:.0f} s for them to end")
        sleep(BETWEEN_LOOKS_S)
        waited += BETWEEN_LOOKS_S + LOOK_S
        load = look()
    free = _free(load)
    if free >= wanted:
        return threads
    if when_busy != "fit":
        raise DeviceBusyError(f"{load}. End them, {_advice(free)}, or measure all the same with --when-busy measure")
    if threads is None and free < 1:
        # One thread is seldom without a CPU, where several hardly ever have theirs at once.
        tell(f"{load}; measuring all the same, with 1 thread: intervals will be wide. Better end them first")
        return 1
    if threads is None:
        tell(f"{load}; measuring with {free} thread{'s' * (free != 1)}, as many as have a CPU to themselves")
        return free
    tell(f"{load}; measuring all the same: latencies are those of a busy machine. Better end them, or {_advice(free)}")
    return threads


def _free(load: Load) -> int:
    return int(len(affinity()) - load.cpus + SPARE)


def _advice(free: int) -> str:
    return f"take --threads {free}" if free >= 1 else "come back when one CPU is free"

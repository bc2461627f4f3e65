"""Nothing in a file may run: every reader against thousands of hostile files, and what became of each.

Each case is a reader's name and a number; both make one altered file, its hashes and checksums made good again, so a
case that went wrong is repeated by ``--case "READER" NUMBER``. Readers run in processes of their own, watched by an
audit hook (code that is run or compiled, processes, sockets, files written outside the case's folder), by a module
that leaves a file behind when anything imports it, by a deadline, and by the memory that the process had at most.

Right is: the file is read, or refused by one of the project's errors, in one line that names the file.

    python benchmarks/attack.py --minutes 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HANG_S = 10.0
MEMORY_MIB = 2048
START_S = 300.0
# What a case can come to; the first two are right.
OUTCOMES = ("read", "refused", "executed", "crashed", "hung", "traceback", "memory", "unclear")


class Victim:
    """A process that reads cases, one at a time. Final."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "log.txt").open("wb")
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "_attack_victim.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=folder,
        )
        self.ready = False
        self.case: tuple[str, int] | None = None
        self.since = time.monotonic()

    @property
    def pipe(self) -> int:
        assert self._child.stdout is not None
        return self._child.stdout.fileno()

    def give(self, reader: str, number: int) -> None:
        assert self._child.stdin is not None
        self.case, self.since = (reader, number), time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps([reader, number]).encode() + b"\n")
            self._child.stdin.flush()

    def answer(self) -> dict[str, Any] | None:
        """Return what came of the case; ``None`` where the process is gone."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def last_words(self) -> str:
        self._child.wait()
        lines = (self.folder / "log.txt").read_text(errors="replace").strip().splitlines()
        return f"exit {self._child.returncode}: {lines[-1][:200] if lines else ''}"

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
        self._log.close()


def attack(minutes: float, seed: int, names: list[str], processes: int, folder: Path) -> dict[str, Any]:
    """Run cases until the time is over; return the counts and what went wrong."""
    counts: dict[str, Counter[str]] = {}
    findings: list[dict[str, Any]] = []
    slowest_s, peak_mib = 0.0, 0.0
    begun = time.monotonic()
    numbers = Counter(dict.fromkeys(names, seed * 10000000))
    turn = 0
    victims: list[Victim] = []
    restarts = 0

    def note(victim: Victim, outcome: str, detail: str) -> None:
        assert victim.case is not None
        reader, number = victim.case
        counts.setdefault(reader, Counter())[outcome] += 1
        if outcome not in ("read", "refused"):
            findings.append({"reader": reader, "case": number, "outcome": outcome, "detail": detail[:500]})
            print(f"{outcome}: {reader} {number}: {detail[:300]}", flush=True)
        victim.case = None

    said = begun
    try:
        victims += [Victim(folder / str(i)) for i in range(processes)]
        while True:
            now = time.monotonic()
            over = now - begun > minutes * 60
            if over and all(victim.case is None for victim in victims):
                break
            for victim in victims:
                if victim.ready and victim.case is None and not over:
                    name = names[turn % len(names)]
                    turn += 1
                    victim.give(name, numbers[name])
                    numbers[name] += 1
            readable, _, _ = select.select([victim.pipe for victim in victims], [], [], 0.5)
            for i, victim in enumerate(victims):
                if victim.pipe in readable:
                    answer = victim.answer()
                    if answer is None:
                        if victim.case is None:
                            raise SystemExit(f"a victim did not start: {victim.last_words()}")
                        note(victim, "crashed", victim.last_words())
                    elif "ready" in answer:
                        victim.ready = True
                        continue
                    else:
                        slowest_s = max(slowest_s, answer["seconds"])
                        peak_mib = max(peak_mib, answer["peak_mib"])
                        note(victim, answer["outcome"], answer["detail"])
                        if not answer.get("last"):
                            continue
                elif time.monotonic() - victim.since < (HANG_S if victim.case is not None else START_S):
                    continue
                elif victim.case is not None:
                    note(victim, "hung", f"no answer within {HANG_S:g} s")
                elif victim.ready:
                    continue
                else:
                    raise SystemExit("a victim did not start")
                victim.end()
                restarts += 1
                victims[i] = Victim(folder / f"{i}-{restarts}")
            if now - said > 10:
                said = now
                done = sum(sum(counter.values()) for counter in counts.values())
                print(f"{now - begun:5.0f} s  {done:,} cases, {len(findings)} wrong", flush=True)
    finally:
        for victim in victims:
            victim.end()
    return {
        "seed": seed,
        "minutes": round((time.monotonic() - begun) / 60, 2),
        "cases": sum(sum(counter.values()) for counter in counts.values()),
        "totals": {outcome: sum(counter[outcome] for counter in counts.values()) for outcome in OUTCOMES},
        "by_reader": {name: {o: counts[name][o] for o in OUTCOMES if counts[name][o]} for name in sorted(counts)},
        "slowest_s": round(slowest_s, 2),
        "peak_mib": round(peak_mib),
        "findings": findings,
    }


def main() -> None:
    """Attack, print a table, write the counts."""
    from _attack_readers import READERS
    from _common import parser, print_table, write_results

    options = parser(__doc__)
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    options.add_argument("--seed", type=int, default=0, help="which cases (default: 0)")
    options.add_argument("--reader", action="append", help="attack this one only; may be repeated")
    options.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="victims at a time")
    options.add_argument(
        "--case", nargs=2, metavar=("READER", "NUMBER"), help="repeat one case, and show its traceback"
    )
    given = options.parse_args()
    if given.case is not None:
        with tempfile.TemporaryDirectory(prefix="latency-lut-attack-") as folder:
            script = Path(__file__).parent / "_attack_victim.py"
            raise SystemExit(subprocess.run([sys.executable, str(script), folder, *given.case], check=False).returncode)
    known = [reader.name for reader in READERS]
    if unknown := set(given.reader or ()) - set(known):
        raise SystemExit(f"no reader {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    names = [reader.name for reader in READERS for _ in range(reader.weight)]
    if given.reader:
        names = given.reader
    with tempfile.TemporaryDirectory(prefix="latency-lut-attack-") as folder:
        figures = attack(given.minutes, given.seed, names, given.processes, Path(folder))
    print_table(
        f"{figures['cases']:,} hostile files in {figures['minutes']:.1f} min, seed {given.seed}",
        ("reader", *OUTCOMES),
        [(name, *(row.get(o, 0) for o in OUTCOMES)) for name, row in figures["by_reader"].items()]
        + [("all", *figures["totals"].values())],
    )
    print(f"slowest {figures['slowest_s']} s, most memory {figures['peak_mib']} MiB")
    if not figures["cases"]:
        raise SystemExit("not one case was read: give more minutes")
    if not given.reader:
        write_results(given.results, "attack", figures)
    raise SystemExit(1 if figures["findings"] else 0)


if __name__ == "__main__":
    main()

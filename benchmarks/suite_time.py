"""The suite's time here and in another checkout, in turns on one machine, with the counts of tests.

The other checkout needs an environment of its own in ``.venv``. Nothing else may run meanwhile; what was done in this
order, here first, is what the results hold.

    git worktree add ../before COMMIT
    cd ../before
    python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ".[dev,onnx,coreml,search]"
    cd -
    python benchmarks/suite_time.py ../before
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _common import parser, print_table, write_results

HERE = Path(__file__).resolve().parent.parent
# The suite takes a quarter of an hour on slow machines; beyond this it hangs.
LIMIT_S = 3600.0
SUITE = ("-m", "pytest", "-n", "2", "--dist", "loadfile", "-q", "-p", "no:cacheprovider")


def once(folder: Path) -> dict[str, Any]:
    """Run the suite of a checkout once, and return its seconds and counts."""
    # Compiled modules are kept, as Python does unless it is told otherwise: neither checkout is to gain by that.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [str(folder / ".venv" / "bin" / "python"), *SUITE],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - whichever git made the checkout
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
    counts = {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", last)}
    if not counts:
        raise SystemExit(f"the suite of {folder} did not run: {last}")
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"commit": commit.stdout.strip(), "seconds": round(seconds, 1), "cpu_seconds": round(cpu_s, 1), **counts}


def main() -> None:
    """Run both in turns, print a table, write the results."""
    options = parser(__doc__)
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_argument("other", type=Path, help="another checkout, with its own environment in .venv")
    options.add_argument("--turns", type=int, default=2, help="runs in all, this checkout first (default: 2)")
    given = options.parse_args()
    other = given.other.resolve()
    for folder in (HERE, other):
        if not (folder / ".venv" / "bin" / "python").exists():
            raise SystemExit(f"{folder} has no environment in .venv")
    runs: list[dict[str, Any]] = []
    for turn in range(given.turns):
        here = turn % 2 == 0
        print(f"{'this checkout' if here else other}, run {turn + 1} of {given.turns}", file=sys.stderr, flush=True)
        found = once(HERE if here else other)
        runs.append({"checkout": "this" if here else "other", **found})
    mine = [run["seconds"] for run in runs if run["checkout"] == "this"]
    others = [run["seconds"] for run in runs if run["checkout"] == "other"]
    ratio = (sum(mine) / len(mine)) / (sum(others) / len(others)) if others else None
    print_table(
        "the suite, two workers",
        ("checkout", "commit", "s", "CPU s", "passed", "failed", "skipped"),
        [
            (
                r["checkout"],
                r["commit"],
                r["seconds"],
                r["cpu_seconds"],
                *(r.get(k, 0) for k in ("passed", "failed", "skipped")),
            )
            for r in runs
        ],
    )
    if ratio is not None:
        print(f"this takes {ratio:.2f} of the other's time")
    write_results(given.results, "suite_time", {"runs": runs, "ratio": ratio})
    raise SystemExit(1 if any(run.get("failed") or run.get("errors") for run in runs) else 0)


if __name__ == "__main__":
    main()

"""Measure random networks of three spaces whole, with their layers and blocks, for the benchmarks of prediction.

One session a target and space: visits to whole networks, to layers alone and in context and to blocks alone, in
shuffled rounds. What it finds is kept in ``benchmarks/sessions/`` and read by ``prediction.py`` and others, so that
every method is judged on the same measurements.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
from _common import parser
from _interleaved import CONTEXTS, refusal, visit_all
from _networks import SPACES
from _sessions import SESSIONS, session_networks, write_session

from lut.errors import LatencyLutError


def main() -> None:
    """Measure every space on every target that can run here, each in a process of its own."""
    made = parser(__doc__)
    made.add_argument("--targets", nargs="+", default=["cpu", "onnx", "cuda"], choices=sorted(CONTEXTS))
    made.add_argument("--spaces", nargs="+", default=list(SPACES), choices=list(SPACES))
    made.add_argument("--networks", type=int, default=200)
    made.add_argument("--rounds", type=int, default=20)
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--threads", type=int, default=1, help="1 leaves a core to the system")
    made.add_argument("--seed", type=int, default=2, help="of the networks")
    made.add_argument("--output", type=Path, default=SESSIONS, help="folder of the sessions")
    made.add_argument("--one", action="store_true", help="measure the one target and space named, in this process")
    given = made.parse_args()
    if given.one:
        target, space = given.targets[0], given.spaces[0]
        networks, _, blocks = session_networks(space, given.networks, given.seed)
        found = visit_all(
            target,
            networks,
            blocks,
            rounds=given.rounds,
            batch=given.batch,
            threads=given.threads,
            what=f"{target} {space}",
        )
        write_session(given.output, target, space, given.seed, given.rounds, found)
        return
    for target in given.targets:
        if (why := refusal(target)) is not None:
            print(f"{target}: skipped: {why}")
            continue
        for space in given.spaces:
            command = [sys.executable, __file__, "--one", "--targets", target, "--spaces", space]
            for name in ("networks", "rounds", "batch", "threads", "seed", "output"):
                command += [f"--{name}", str(getattr(given, name))]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    try:
        main()
    except (LatencyLutError, msgspec.MsgspecError) as error:
        raise SystemExit(f"error: {error}") from None

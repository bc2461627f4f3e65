"""Does the sum of a network's layers give the network? Ratio of sum to whole, isolated and in context.

Random networks of three spaces are measured whole, in one session with the layers they are made of: visits to whole
networks, to layers by themselves and to layers in context, in shuffled rounds. Where layers are timed in the places of
networks, these are every other network, and sums are held against the rest only. No calibration. A ratio of 1 means
that the sum is the whole.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from _common import parser, print_table, write_results
from _interleaved import CONTEXTS, layers_of, refusal, visit_all
from _networks import SPACES, distinct

from lut import Layer, Network
from lut.errors import LatencyLutError


def measure(
    target: str,
    space: str,
    count: int,
    rounds: int,
    batch: int,
    threads: int,
    seed: int,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Return the ratios of one space on one target; to be called in a process of its own."""
    networks = list(distinct(SPACES[space], count, seed))
    layers = layers_of(networks)
    found = visit_all(
        target, networks, rounds=rounds, batch=batch, threads=threads, what=f"{target} {space}", seconds=seconds
    )
    result: dict[str, Any] = {
        "target": target,
        "setting": found.setting,
        "space": space,
        "networks": len(networks),
        "seed": seed,
        "layers": len(layers),
        "rounds": rounds,
        "seconds": found.seconds,
        "whole_ms": [round(ms, 5) for ms in found.columns["whole"]],
        "whole_repeat_error": round(found.repeat_error("whole"), 4),
    }
    for name in ("isolated", "in_context"):
        by_layer = dict(zip(layers, found.columns[name], strict=True))
        ratios = [
            _sum(network, by_layer) / whole
            for k, (network, whole) in enumerate(zip(networks, found.columns["whole"], strict=True))
            # What was timed in a network's own places is not held against it.
            if not (name == "in_context" and k in found.hosts)
        ]
        result[name] = summary(ratios)
    return result


def _sum(network: Network, ms: dict[Layer, float]) -> float:
    return sum(item.count * ms[item.layer] for item in network.layers)


def summary(ratios: list[float]) -> dict[str, Any]:
    """Return the figures of a list of ratios."""
    ordered = sorted(ratios)
    at = [ordered[round(q * (len(ordered) - 1))] for q in (0.05, 0.5, 0.95)]
    return {
        "median": round(at[1], 4),
        "p5": round(at[0], 4),
        "p95": round(at[2], 4),
        "within_5_percent": round(sum(abs(r - 1) <= 0.05 for r in ratios) / len(ratios), 3),
        "within_10_percent": round(sum(abs(r - 1) <= 0.10 for r in ratios) / len(ratios), 3),
        "ratios": [round(r, 4) for r in ratios],
    }


def main() -> None:
    """Measure every space on every target that can run here, each in a process of its own."""
    made = parser(__doc__)
    made.add_argument("--targets", nargs="+", default=["cpu", "onnx", "cuda"], choices=sorted(CONTEXTS))
    made.add_argument("--spaces", nargs="+", default=list(SPACES), choices=list(SPACES))
    made.add_argument("--networks", type=int, default=100)
    made.add_argument("--rounds", type=int, default=10)
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--threads", type=int, default=1, help="1 leaves a core to the system")
    made.add_argument("--seed", type=int, default=1, help="of the networks; the size of the groups was chosen on 0")
    made.add_argument("--seconds", type=float, help="begin no round of a space that would not be over by then")
    made.add_argument("--one", metavar="FILE", help="measure the one target and space named here, into this file")
    given = made.parse_args()
    if given.one:
        found = measure(
            given.targets[0],
            given.spaces[0],
            given.networks,
            given.rounds,
            given.batch,
            given.threads,
            given.seed,
            given.seconds,
        )
        Path(given.one).write_bytes(msgspec.json.encode(found))
        return
    results, skipped = [], {}
    for target in given.targets:
        if (why := refusal(target)) is not None:
            skipped[target] = why
            print(f"{target}: skipped: {why}")
            continue
        for space in given.spaces:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "found.json"
                command = [sys.executable, __file__, "--one", str(path), "--targets", target, "--spaces", space]
                for name in ("networks", "rounds", "batch", "threads", "seed"):
                    command += [f"--{name}", str(getattr(given, name))]
                if given.seconds is not None:
                    command += ["--seconds", str(given.seconds)]
                subprocess.run(command, check=True)
                results.append(msgspec.json.decode(path.read_bytes()))
    rows = []
    for result in results:
        for name in ("isolated", "in_context"):
            r = result[name]
            rows.append(
                (
                    f"{result['target']} {result['space']}",
                    name.replace("_", " "),
                    r["median"],
                    r["p5"],
                    r["p95"],
                    f"{r['within_5_percent']:.0%}",
                    f"{r['within_10_percent']:.0%}",
                    f"{result['whole_repeat_error']:.1%}",
                )
            )
    header = ("target, space", "layers", "median", "p5", "p95", "within ±5 %", "±10 %", "repeat error of wholes")
    print_table("Sum of layers / whole network", header, rows)
    write_results(given.results, "additivity", {"skipped": skipped, "results": results})


if __name__ == "__main__":
    try:
        main()
    except LatencyLutError as error:
        raise SystemExit(f"error: {error}") from None

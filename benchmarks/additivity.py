"""Does the sum of a network's layers give the network? Ratio of sum to whole, isolated and in context.

Random networks of three spaces are measured whole, in one session with the layers they are made of: visits to whole
networks, to layers by themselves and to layers in context, in shuffled rounds. No calibration. A ratio of 1 means that
the sum is the whole.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from _common import parser, print_table, write_results
from _networks import SPACES, distinct

from lut import Layer, Network
from lut._records import Protocol
from lut.errors import LatencyLutError
from profiler._judge import judge
from profiler._plan import make_protocol
from profiler._session import sort_visits
from profiler._target import Target, load_target, target_spec
from profiler._visit import LayerFailure, Visit, Visitor

# Per target, the options that time layers alone and those that time them in context.
CONTEXTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cpu": ({"context": "isolated"}, {"context": "network"}),
    "onnx": ({"context": "isolated"}, {"context": "network"}),
    "cuda": ({"mode": "device-warm"}, {"mode": "device-cold"}),
}
WHOLE_CALLS = 5
# Whether a target can run here is found out in another process: making one sets its process up for good.
TRY = """
import sys
from lut.errors import LatencyLutError
from profiler._target import load_target, target_spec
try:
    load_target(target_spec(sys.argv[1], ()))
except LatencyLutError as error:
    raise SystemExit(str(error))
"""
# Each operator of a whole network may have four compiled kernels; the deepest ones here have seventy.
KERNEL_CACHE = 512


def measure(target: str, space: str, count: int, rounds: int, batch: int, threads: int, seed: int) -> dict[str, Any]:
    """Return the ratios of one space on one target; to be called in a process of its own."""
    networks = list(distinct(SPACES[space], count, seed))
    layers = tuple(dict.fromkeys(item.layer for network in networks for item in network.layers))
    options: dict[str, Any] = {"batch": batch}
    if target != "cuda":
        options["threads"] = threads
    if target == "cpu":
        options["kernel_cache"] = KERNEL_CACHE
    alone, inside = (load_target(target_spec(target, layers, **options, **extra)) for extra in CONTEXTS[target])
    protocol = make_protocol(seed=0)
    shared = {"process": 0, "origin": alone.clock(), "memory_bytes": 8 << 30}
    visitors = {
        "isolated": Visitor(alone, layers, protocol, known_kernels=range(len(layers)), **shared),
        "in_context": Visitor(inside, layers, protocol, known_kernels=range(len(layers)), **shared),
    }
    wholes = [alone.prepare(network.as_layer(), 0) for network in networks]
    rng = random.Random(1)
    # Everything is an entry of one session, whose drift is estimated from all of it and taken out, as for any table.
    first = {"isolated": 0, "in_context": len(layers), "whole": 2 * len(layers)}
    found: list[Visit] = []
    began = time.monotonic()
    starts: list[float] = []
    for turn in range(rounds):
        jobs: list[tuple[str, Any]] = []
        for name, visitor in visitors.items():
            order = list(range(len(layers)))
            rng.shuffle(order)
            jobs += [(name, job) for job in visitor.visits(order)]
        jobs += [("whole", k) for k in range(len(networks))]
        rng.shuffle(jobs)
        starts.append(alone.clock() - shared["origin"])
        for name, job in jobs:
            if name == "whole":
                found.append(_whole(alone, wholes[job], rng, first[name] + job, shared["origin"]))
                continue
            for event in job():
                if isinstance(event, LayerFailure):
                    raise SystemExit(f"{layers[event.entry]}: {event.message}")
                assert isinstance(event, Visit)
                found.append(msgspec.structs.replace(event, entry=first[name] + event.entry))
        print(f"{target} {space}: round {turn + 1} of {rounds}, {time.monotonic() - began:.0f} s", file=sys.stderr)
    clean = sort_visits(found, protocol.first_look, final=True).accepted
    ms = _settled(clean, protocol)
    halves = [_settled([v for v in clean if bisect(starts, v.at_s) % 2 == part], protocol) for part in (0, 1)]
    wanted = range(first["whole"], first["whole"] + len(networks))
    whole_ms = [ms[entry] for entry in wanted]
    repeat = [abs(halves[0][entry] / halves[1][entry] - 1) for entry in wanted]
    result: dict[str, Any] = {
        "target": target,
        "setting": str(inside.describe()[1]),
        "space": space,
        "networks": len(networks),
        "seed": seed,
        "layers": len(layers),
        "rounds": rounds,
        "seconds": round(time.monotonic() - began, 1),
        "whole_ms": [round(ms, 5) for ms in whole_ms],
        "whole_repeat_error": round(median(repeat), 4),
    }
    for name in visitors:
        by_layer = {layer: ms[first[name] + entry] for entry, layer in enumerate(layers)}
        ratios = [_sum(network, by_layer) / whole for network, whole in zip(networks, whole_ms, strict=True)]
        result[name] = summary(ratios)
    return result


def _settled(visits: Sequence[Visit], protocol: Protocol) -> dict[int, float]:
    """Return each entry's latency in ms as a table would hold it."""
    return {entry: layer.median_ms for entry, layer in judge(visits, protocol, references=None).layers.items()}


def _whole(target: Target[Any], prepared: Any, rng: random.Random, entry: int, origin: float) -> Visit:
    """Return a visit to a whole network: the median of a few calls, after a warm-up."""
    target.relocate(prepared, rng)
    at_s = target.clock() - origin
    target.run(prepared, 1)
    stolen, throttled = target.stolen_and_throttled()
    calls, clean = [], []
    for _ in range(WHOLE_CALLS):
        before = target.preemptions_and_faults()[0]
        calls.append(target.run(prepared, 1))
        if target.preemptions_and_faults()[0] == before:
            clean.append(calls[-1])
    undisturbed = (stolen, throttled) == target.stolen_and_throttled() and 2 * len(clean) >= WHOLE_CALLS
    ms = median(clean if undisturbed else calls) / 1e6
    return Visit(entry, 0, at_s, ms, None if undisturbed else "preempted", late=False, faults=0.0, calls=1)


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
    made.add_argument("--one", metavar="FILE", help="measure the one target and space named here, into this file")
    given = made.parse_args()
    if given.one:
        found = measure(
            given.targets[0], given.spaces[0], given.networks, given.rounds, given.batch, given.threads, given.seed
        )
        Path(given.one).write_bytes(msgspec.json.encode(found))
        return
    results, skipped = [], {}
    for target in given.targets:
        try:
            subprocess.run([sys.executable, "-c", TRY, target], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
            skipped[target] = lines[-1]
            print(f"{target}: skipped: {skipped[target]}")
            continue
        for space in given.spaces:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "found.json"
                command = [sys.executable, __file__, "--one", str(path), "--targets", target, "--spaces", space]
                for name in ("networks", "rounds", "batch", "threads", "seed"):
                    command += [f"--{name}", str(getattr(given, name))]
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

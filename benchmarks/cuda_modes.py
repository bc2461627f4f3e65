"""A layer's three latencies on an NVIDIA GPU, beside ``torch.utils.benchmark``'s, and what measuring them costs.

Every repeat is a fresh process, which measures each layer in each mode (``device-cold``, ``device-warm``, ``host``) by
the protocol's visits, in shuffled rounds, and with ``Timer.blocked_autorange``, which times eager calls. Spread: half
of what lies between the highest and the lowest repeat, relative to their median. Overhead: the wall-clock time of the
visits (side values included) over the time in which the timed calls themselves ran.

Without a GPU it ends with exit code 1 and the reason.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from _common import parser, print_table, write_results

# Per target, its modes and the options that choose them; the CPU is there to rehearse on.
MODES: dict[str, dict[str, dict[str, Any]]] = {
    "cuda": {mode: {"mode": mode} for mode in ("device-cold", "device-warm", "host")},
    "cpu": {context: {"context": context} for context in ("network", "isolated")},
}
PEER = "torch.utils.benchmark"


def layers() -> list[Any]:
    """Return layers of CIFAR and ImageNet size: compute-bound, memory-bound, and bound by the launch."""
    from lut import conv_norm_act, linear, residual_add

    return [
        conv_norm_act(16, 16, kernel_size=3, stride=1, activation="relu", input_size=(32, 32)),
        conv_norm_act(64, 64, kernel_size=3, stride=1, activation="relu", input_size=(8, 8)),
        residual_add(64, activation="relu", input_size=(56, 56)),
        conv_norm_act(256, 256, kernel_size=3, stride=1, activation="relu", input_size=(14, 14)),
        linear(2048, 1000, bias=True),
    ]


def once(options: argparse.Namespace) -> dict[str, Any]:
    """Return what one process finds: milliseconds by layer and mode, the cost of a visit, and the device."""
    import torch
    from torch.utils.benchmark import Timer

    from lut.errors import LayerFailedError
    from profiler import build_module
    from profiler._plan import make_protocol
    from profiler._target import load_target, target_spec
    from profiler._visit import Visitor

    entries = tuple(layers())
    protocol = make_protocol(seed=options.seed)
    rng = random.Random(options.seed)
    found: dict[str, dict[str, float | None]] = {str(layer): {} for layer in entries}
    overhead: dict[str, float] = {}
    device: dict[str, Any] = {}
    for mode, extra in MODES[options.target].items():
        target = load_target(target_spec(options.target, entries, batch=options.batch, dtype=options.dtype, **extra))
        facts, _, software = target.describe()
        device = {"model": facts.model, "architecture": facts.architecture, **software.details}
        visitor = Visitor(target, entries, protocol, process=0, origin=0.0)
        visits: dict[int, list[float]] = {}
        failed: set[int] = set()
        wall_s = timed_s = 0.0
        for number in range(options.visits + 1):
            for entry in rng.sample(range(len(entries)), len(entries)):
                if entry in failed:
                    continue
                start = time.perf_counter()
                try:
                    visit = visitor.visit(entry)
                except LayerFailedError as error:
                    print(f"{entries[entry]}, {mode}: {error}", file=sys.stderr)
                    failed.add(entry)
                    continue
                # The first round chooses kernels and block sizes, and is not counted.
                if number:
                    wall_s += time.perf_counter() - start
                    timed_s += visit.ms * visit.calls * protocol.blocks_per_visit / 1e3
                    visits.setdefault(entry, []).append(visit.ms)
        for entry, layer in enumerate(entries):
            found[str(layer)][mode] = median(visits[entry]) if visits.get(entry) else None
        overhead[mode] = wall_s / timed_s if timed_s else float("nan")
        target.close()
    for layer in entries:
        module = build_module(layer).to(device=options.target, dtype=getattr(torch, options.dtype))
        inputs = [
            torch.randn((options.batch, *shape), device=options.target, dtype=getattr(torch, options.dtype))
            for shape in layer.inputs
        ]
        with torch.inference_mode():
            timer = Timer("module(*inputs)", globals={"module": module, "inputs": inputs})
            found[str(layer)][PEER] = float(timer.blocked_autorange(min_run_time=0.2).median) * 1e3
    return {"ms": found, "overhead": overhead, "device": device}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=5, help="processes")
    options.add_argument("--visits", type=int, default=6, help="visits a layer, mode and process")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--seconds", type=float, help="begin no process that would not be done by then")
    options.add_argument("--target", default="cuda", choices=list(MODES), help=argparse.SUPPRESS)
    options.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.once:
        from lut.errors import LatencyLutError

        try:
            print(json.dumps(once(arguments)))
        except LatencyLutError as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)
        return
    runs: list[dict[str, Any]] = []
    began = time.monotonic()
    for repeat in range(arguments.repeats):
        if repeat and arguments.seconds and time.monotonic() - began > arguments.seconds * repeat / (repeat + 1):
            print(f"{repeat} of {arguments.repeats} repeats: the time is up", flush=True)
            break
        command = [sys.executable, str(Path(__file__)), "--once", "--visits", str(arguments.visits)]
        command += ["--target", arguments.target]
        command += ["--batch", str(arguments.batch), "--dtype", arguments.dtype, "--seed", str(arguments.seed + repeat)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print((done.stderr.strip().splitlines() or ["the measuring process said nothing"])[-1], file=sys.stderr)
            sys.exit(1)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(done.stderr, end="", file=sys.stderr)
        print(f"repeat {repeat + 1} of {arguments.repeats}", flush=True)
    modes = MODES[arguments.target]
    figures: dict[str, dict[str, dict[str, float]]] = {}
    rows: list[list[object]] = []
    for name in runs[0]["ms"]:
        row: list[object] = [name]
        for mode in (*modes, PEER):
            values = [run["ms"][name][mode] for run in runs if run["ms"][name][mode] is not None]
            if not values:
                row.append("–")
                continue
            middle = median(values)
            spread = (max(values) - min(values)) / 2 / middle * 100
            figures.setdefault(name, {})[mode] = {"median_us": middle * 1e3, "spread_percent": spread}
            row.append(f"{middle * 1e3:.2f} ±{spread:.1f}%")
        rows.append(row)
    overhead = {mode: median(run["overhead"][mode] for run in runs) for mode in modes}
    title = f"{runs[0]['device']['model']}, batch {arguments.batch}, {arguments.dtype}: µs a call ± spread"
    print_table(title, ["layer", *modes, PEER], rows)
    print(
        "wall-clock time of a visit over the time its calls ran: "
        + ", ".join(f"{m} {v:.1f}" for m, v in overhead.items())
    )
    write_results(
        arguments.results,
        "cuda_modes",
        {
            "device": runs[0]["device"],
            "batch": arguments.batch,
            "dtype": arguments.dtype,
            "repeats": len(runs),
            "visits": arguments.visits,
            "figures": figures,
            "overhead": overhead,
        },
    )


if __name__ == "__main__":
    main()

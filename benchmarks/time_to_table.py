"""How long the 224 layers of HTAS's curves take at equal repeatability: this protocol against 2,000 calls a layer.

Each repeat is a fresh process; ours loads PyTorch within its time, the paper's before it. The paper's protocol (HTAS
section 4.1) is the mean of 2,000 back-to-back calls a layer. Ours gets several time budgets; the smallest one at
which two repeats differ by no more than two of the paper's do is its time to the table. Repeatability: median over
layers and pairs of repeats of |log ratio|, absolute and with one common factor per pair removed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import parser, print_table, write_results
from repeatability import compare

CALLS = 2000
RUN = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
kind, value, seed, reference = sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
from search.spaces import ResNetCifar
layers = [layer for curve in ResNetCifar().curves() for layer in curve.layers]
if kind == "ours":
    from _rules import measure
    start = time.perf_counter()
    found = measure(layers, value, None, seed, reference)
else:
    import torch
    from profiler import build_module
    torch.manual_seed(0)
    found, start = [], time.perf_counter()
    with torch.inference_mode():
        for layer in layers:
            module, x = build_module(layer), torch.randn(4, *layer.inputs[0])
            begin = time.perf_counter()
            for _ in range(int(value)):
                module(x)
            found.append((time.perf_counter() - begin) * 1e3 / value)
print()
print(json.dumps([time.perf_counter() - start, found]))
"""


def run(kind: str, value: float, seed: int, reference: Path) -> tuple[float, list[float]]:
    """Return the seconds that one repeat took and the latencies in ms."""
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), kind, str(value), str(seed), str(reference)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, found = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), found


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=4)
    options.add_argument("--budgets", type=float, nargs="+", default=[2.0, 3.0, 4.0, 6.0, 8.0])
    arguments = options.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "references.json"
        kinds = [("paper", float(CALLS)), *(("ours", budget) for budget in arguments.budgets)]
        collected: dict[tuple[str, float], list[tuple[float, list[float]]]] = {kind: [] for kind in kinds}
        for repeat in range(arguments.repeats):
            for kind in kinds:
                collected[kind].append(run(*kind, repeat, reference))
            print(f"repeat {repeat + 1} of {arguments.repeats}", flush=True)
    for (kind, value), runs in collected.items():
        name = f"{CALLS} calls a layer" if kind == "paper" else f"ours, {value:g} s"
        figures = compare(np.array([found for _, found in runs]))
        rows[name] = {"seconds": float(np.median([seconds for seconds, _ in runs])), **figures}
    paper = rows[f"{CALLS} calls a layer"]
    speedups: dict[str, Any] = {}
    for measure in ("absolute_median_percent", "relative_median_percent"):
        equal = [row for name, row in rows.items() if name.startswith("ours") and row[measure] <= paper[measure]]
        speedups[measure.removesuffix("_median_percent")] = (
            paper["seconds"] / min(row["seconds"] for row in equal) if equal else None
        )
    header = ["protocol", "seconds", "abs. median %", "rel. median %", "τ"]
    print_table(
        "224 layers",
        header,
        [
            [name, row["seconds"], row["absolute_median_percent"], row["relative_median_percent"], row["kendall_tau"]]
            for name, row in rows.items()
        ],
    )
    print(f"times faster at equal repeatability: {speedups}")
    write_results(
        arguments.results, "time_to_table", {"repeats": arguments.repeats, "figures": rows, "times_faster": speedups}
    )


if __name__ == "__main__":
    main()

"""Real networks: what their layers add up to, against what they take as a whole.

Each network goes through the tool as a user's would: traced, its layers measured in context and the whole network in
the same rounds. A second, shorter run measures the layers isolated, and the whole beside them. The calibrated sum is
a·sum + b·layers, with a and b fitted to all *other* networks (relative least squares, non-negative): nothing of a
network enters its own prediction. One whose layers were not all reached is named and left out, no other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import _zoo
import msgspec
import numpy as np
import torch
from _common import parser, print_table, write_results
from _zoo import INPUTS, VOCABULARY, ZOO
from scipy.optimize import nnls

from lut.errors import LatencyLutError
from profiler import TracedModule, profile

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("LATENCY_LUT_DATA", HERE.parent.parent / "shared" / "data"))
# Above this, the error of a sum says as much of the whole's measurement as of the sum.
REPEATS_WELL = 0.02
# Two parameters are fitted to all networks but one.
LEAST_CALIBRATED = 4


def network_of(name: str) -> TracedModule | Path:
    """Return a network as its user would give it: a module with its input, or an ONNX file."""
    if name.endswith(".onnx"):
        return DATA / "onnx-light" / name
    torch.manual_seed(0)
    shape = (1, *INPUTS[name])
    # Of ids, the largest says how many words there are.
    ids = (VOCABULARY - 1 - torch.arange(math.prod(shape))) % VOCABULARY
    example = ids.reshape(shape) if len(shape) == 2 else torch.zeros(shape)
    return TracedModule(getattr(_zoo, name)(), example, name=name)


def measure(name: str, target: str, *, budget_s: float, isolated_s: float, threads: int) -> dict[str, Any]:
    """Return what one network and its layers take on one target."""
    what = network_of(name)
    shared: dict[str, Any] = {"target": target, "threads": threads}
    table = profile(what, time_budget_s=budget_s, context="network", **shared)
    alone = profile(what, time_budget_s=isolated_s, context="isolated", **shared)
    (network,), (again,) = table.networks, alone.networks
    if network.end_to_end is None or again.end_to_end is None:
        raise SystemExit(f"{name} on {target}: {network.reason or again.reason}")
    isolated = alone.sum_ms(again)
    if isolated is not None:
        # Each sum is held against the whole of its own session; this brings the second to the first one's.
        isolated *= network.end_to_end.median_ms / again.end_to_end.median_ms
    return {
        "name": name,
        "target": target,
        "setting": str(table.setting),
        "layers": sum(item.count for item in network.network.layers),
        "different": len({item.layer for item in network.network.layers}),
        "operators": network.operators,
        "failures": [f"{failure.layer}: {failure.message}" for failure in table.failures],
        "whole_ms": network.end_to_end.median_ms,
        "repeat_error": network.end_to_end.repeat_error,
        "in_context_ms": table.sum_ms(network),
        "isolated_ms": isolated,
    }


def calibrated(results: Sequence[dict[str, Any]]) -> list[float]:
    """Return each network's sum as the others calibrate it, in ms; NaN of too few networks."""
    if len(results) < LEAST_CALIBRATED:
        return [float("nan")] * len(results)
    predicted = []
    for left_out in range(len(results)):
        others = [r for i, r in enumerate(results) if i != left_out]
        features = np.array([[r["in_context_ms"], r["layers"]] for r in others], dtype=float)
        whole = np.array([r["whole_ms"] for r in others], dtype=float)
        weights, _ = nnls(features / whole[:, None], np.ones(len(others)))
        mine = results[left_out]
        predicted.append(float(weights @ np.array([mine["in_context_ms"], mine["layers"]], dtype=float)))
    return predicted


def summary(results: Sequence[dict[str, Any]], column: str) -> dict[str, Any]:
    """Return the figures of one kind of sum over the networks."""
    ratios = [r[column] / r["whole_ms"] for r in results]
    errors = [abs(ratio - 1) for ratio in ratios]
    return {
        "networks": len(ratios),
        "median_ratio": round(median(ratios), 4),
        "mape": round(sum(errors) / len(errors), 4),
        "worst": round(max(errors), 4),
        "within_5_percent": round(sum(e <= 0.05 for e in errors) / len(errors), 3),
        "within_10_percent": round(sum(e <= 0.10 for e in errors) / len(errors), 3),
    }


def main() -> None:
    """Measure every network on every target, one after another."""
    made = parser(__doc__)
    made.add_argument("--targets", nargs="+", default=["cpu", "onnx"], choices=["cpu", "onnx"])
    made.add_argument("--networks", nargs="+", default=None)
    made.add_argument("--budget", type=float, default=40.0, help="seconds a network, in context")
    made.add_argument("--isolated-budget", type=float, default=12.0)
    made.add_argument("--threads", type=int, default=1, help="1 leaves a core to the system")
    made.add_argument(
        "--folder", type=Path, default=Path("real_models"), help="what was measured is kept there, and counts"
    )
    given = made.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    skipped: dict[str, str] = {}
    results: dict[str, list[dict[str, Any]]] = {}
    for target in given.targets:
        names = list(given.networks or ZOO)
        if target == "onnx" and given.networks is None:
            files = sorted((DATA / "onnx-light").glob("*.onnx")) if DATA.is_dir() else []
            names += [file.name for file in files]
            if not files:
                skipped["onnx-light"] = f"there is no {DATA / 'onnx-light'}"
        results[target] = []
        for name in names:
            # What was measured by an interrupted run is kept.
            kept = given.folder / f"{target}-{name}.json"
            if not kept.exists():
                print(f"{target} {name} …", flush=True)
                found = measure(
                    name,
                    target,
                    budget_s=given.budget,
                    isolated_s=given.isolated_budget,
                    threads=given.threads,
                )
                kept.write_bytes(msgspec.json.encode(found))
            result = msgspec.json.decode(kept.read_bytes())
            if result["in_context_ms"] is None or result["isolated_ms"] is None:
                skipped[f"{target} {name}"] = "not all of its layers were reached: give it a larger budget"
                print(f"{target} {name}: {skipped[f'{target} {name}']}", flush=True)
                continue
            results[target].append(result)
    summaries: dict[str, dict[str, Any]] = {}
    for target, found in results.items():
        for result, ms in zip(found, calibrated(found), strict=True):
            result["calibrated_ms"] = round(ms, 6)
        columns = ("isolated_ms", "in_context_ms", "calibrated_ms")
        summaries[target] = {column: summary(found, column) for column in columns}
        rows = [
            (
                r["name"].removesuffix(".onnx"),
                r["layers"],
                f"{r['whole_ms']:.1f}",
                "?" if r["repeat_error"] is None else f"{r['repeat_error']:.1%}",
                *(f"{r[column] / r['whole_ms'] - 1:+.1%}" for column in columns),
                f"{abs(r['calibrated_ms'] / r['whole_ms'] - 1) / r['repeat_error']:.1f}×"
                if (r["repeat_error"] or 0.0) > REPEATS_WELL
                else "",
            )
            for r in found
        ]
        header = ("network", "layers", "ms", "repeat", "isolated", "context", "calibrated", "of repeat")
        print_table(f"{target}: sum of layers against the whole network", header, rows)
        rows = [(column.removesuffix("_ms"), *values.values()) for column, values in summaries[target].items()]
        print_table(f"{target}: all networks", ("sum", "n", "median", "mape", "worst", "±5 %", "±10 %"), rows)
    write_results(given.results, "real_models", {"skipped": skipped, "summaries": summaries, "results": results})


if __name__ == "__main__":
    try:
        main()
    except LatencyLutError as error:
        raise SystemExit(f"error: {error}") from None

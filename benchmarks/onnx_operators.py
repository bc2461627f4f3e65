"""What ONNX Runtime runs for a network's layers, one by one, against what it runs for the network: nothing is timed.

A layer's latency is what its programs take, each with a weight; so is the number of times that the runtime runs an
operator for it. Summed over a network's layers these are the numbers of the network itself, ways into the runtime's
blocks of channels and out of them included, or a sum of latencies could be right by chance only. Networks are those of
``untuned_networks.py``, batch 1. Needs ``pip install --no-deps pytorchcv``, and says so where it is missing.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _common import parser, print_table, write_results
from _onnx_operators import run_operators, sum_of
from untuned_networks import NETWORKS, build

from lut import Layer


def compare(name: str, folder: Path, known: dict[Layer, dict[str, float]]) -> dict[str, Any]:
    """Return a network's operators, and those whose number differs for its layers."""
    from profiler._onnx._file import export_model, load_onnx, trace_onnx

    module, example = build(name, 1)
    path = folder / f"{name}.onnx"
    export_model(module.eval(), (example,), path)
    items = trace_onnx(load_onnx(path), name=name).network.layers
    network, layers = run_operators(str(path)), sum_of(items, known)
    return {
        "name": name,
        "layers": sum(item.count for item in items),
        "operators": sum(network.values()),
        "differences": {
            operator: {"network": network.get(operator, 0.0), "layers": layers.get(operator, 0.0)}
            for operator in sorted(network | layers)
            if network.get(operator, 0.0) != layers.get(operator, 0.0)
        },
    }


def main() -> None:
    """Count every network's operators."""
    made = parser(__doc__)
    made.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    given = made.parse_args()
    if find_spec("pytorchcv") is None:
        print("skipped: pip install --no-deps pytorchcv")
        return
    results: list[dict[str, Any]] = []
    known: dict[Layer, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.networks:
            results.append(compare(name, Path(folder), known))
            print(name, results[-1]["differences"] or "the same", flush=True)
    rows = [
        (
            result["name"],
            result["layers"],
            f"{result['operators']:g}",
            ", ".join(
                f"{operator} {found['network']:g}, {found['layers']:g}"
                for operator, found in result["differences"].items()
            )
            or "none",
        )
        for result in results
    ]
    print_table("operators of networks and of their layers", ("network", "layers", "operators", "differences"), rows)
    write_results(given.results, "onnx_operators", {"results": results})


if __name__ == "__main__":
    main()

"""What ONNX Runtime runs for a network's layers, one by one, against what it runs for the network: nothing is timed.

A layer's latency is what its programs take, each with a weight; so is the number of times that the runtime runs an
operator for it. Summed over a network's layers these are the numbers of the network itself, ways into the runtime's
blocks of channels and out of them included, or a sum of latencies could be right by chance only. Networks are those of
``untuned_networks.py``, batch 1. Needs ``pip install --no-deps pytorchcv``, and says so where it is missing.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _common import parser, print_table, write_results
from untuned_networks import MODELS, NETWORKS, write_models

from lut import Layer

# Written by one exporter or the other; the runtime renames axes at no cost.
RENAMING = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
# Differences that weights of a quarter leave.
NOTHING = 1e-6


def run_operators(content: bytes | str) -> Counter[str]:
    """Return how often the runtime runs each operator of a model; those on blocks of channels have a domain."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    return Counter(
        ".".join([*(node.domain.split(".")[2:]), node.op_type]) for node in graph.node if node.op_type not in RENAMING
    )


def operators_of(layer: Layer) -> dict[str, float]:
    """Return how often the runtime runs each operator for a layer: in its programs, weighted as their latencies are."""
    import torch

    from profiler._onnx._graph import module_of, to_onnx
    from profiler._onnx._programs import marginal

    found: Counter[str] = Counter()
    for program, weight in marginal(layer, 1):
        inputs = [torch.zeros(1, *shape) for shape in program.inputs]
        for name, count in run_operators(to_onnx(program, module_of(program, torch.float32), inputs, "direct")).items():
            found[name] += weight * count  # type: ignore[assignment]
    return dict(found)


def compare(name: str, folder: Path, known: dict[Layer, dict[str, float]]) -> dict[str, Any]:
    """Return a network's operators, and those whose number differs for its layers."""
    from profiler._model import load_model, parse_model
    from profiler._onnx._file import export_model, load_onnx, trace_onnx

    size = NETWORKS[name][1]
    module, examples = load_model(parse_model(f"{folder / MODELS}:{name}", f"1x3x{size}x{size}", 0))
    path = folder / f"{name}.onnx"
    export_model(module, examples, path)
    network, total = run_operators(str(path)), Counter[str]()
    layers = trace_onnx(load_onnx(path), name=name).network.layers
    for item in layers:
        if item.layer not in known:
            known[item.layer] = operators_of(item.layer)
        for operator, count in known[item.layer].items():
            total[operator] += item.count * count  # type: ignore[assignment]
    return {
        "name": name,
        "layers": sum(item.count for item in layers),
        "operators": sum(network.values()),
        "differences": {
            operator: {"network": network[operator], "layers": round(total[operator], 2)}
            for operator in sorted(network | total)
            if abs(network[operator] - total[operator]) > NOTHING
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
        write_models(Path(folder))
        for name in given.networks:
            results.append(compare(name, Path(folder), known))
            print(name, results[-1]["differences"] or "the same", flush=True)
    rows = [
        (
            result["name"],
            result["layers"],
            result["operators"],
            ", ".join(
                f"{operator} {found['network']}, {found['layers']:g}"
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

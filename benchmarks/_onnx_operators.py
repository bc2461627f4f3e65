"""Which operators ONNX Runtime runs for a model, and for a layer by way of the programs that it is measured with."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch

from lut import Layer, NetworkLayer
from profiler._onnx._graph import module_of, to_onnx
from profiler._onnx._programs import marginal
from profiler._onnx._target import has_shared_pool

# Written by one exporter or the other; the runtime renames axes at no cost.
RENAMING = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
# What is left of fractions that add up to nothing.
NOTHING = 1e-6


def run_operators(content: bytes | str) -> dict[str, float]:
    """Return how often the runtime runs each operator of a model; those on blocks of channels begin with ``nchwc``."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if has_shared_pool():
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    found = Counter(
        ".".join([*node.domain.split(".")[2:], node.op_type]) for node in graph.node if node.op_type not in RENAMING
    )
    return {name: float(count) for name, count in found.items()}


def operators_of(layer: Layer) -> dict[str, float]:
    """Return how often the runtime runs each operator for a layer: in its programs, weighted as their latencies are."""
    found: defaultdict[str, float] = defaultdict(float)
    for program, weight in marginal(layer, 1):
        inputs = [torch.zeros(1, *shape) for shape in program.inputs]
        for name, count in run_operators(to_onnx(program, module_of(program, torch.float32), inputs, "direct")).items():
            found[name] += weight * count
    return dict(found)


def sum_of(items: Sequence[NetworkLayer], known: dict[Layer, dict[str, float]]) -> dict[str, float]:
    """Return the operators of a network's layers together.

    Args:
        items: the network's layers.
        known: what each layer's are, as far as that was found out; more is added.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for item in items:
        if item.layer not in known:
            known[item.layer] = operators_of(item.layer)
        for name, count in known[item.layer].items():
            found[name] += item.count * count
    return {name: round(count, 2) for name, count in found.items() if abs(count) > NOTHING}

"""Which of ONNX Runtime's activations take longer for other numbers: of random signs, all positive, all negative.

Layers are measured on random numbers. Where a kernel decides value by value, that is its worst case, and a network may
be quicker. One thread; the median of the calls, kinds of numbers in turns.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from _common import parser, print_table, write_results
from onnx import TensorProto, helper, numpy_helper

ACTIVATIONS = (
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Clip",
    "Elu",
    "Selu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Erf",
    "Gelu",
    "Softplus",
    "Mish",
)
SHAPE = (1, 64, 56, 56)
OPSET, IR_VERSION = 20, 9
CALLS = 60


def session_of(name: str) -> Any:
    """Return a session of one activation."""
    slopes = [numpy_helper.from_array(np.full((SHAPE[1], 1, 1), 0.25, np.float32), "slopes")] * (name == "PRelu")
    node = helper.make_node(name, ["x", *(slope.name for slope in slopes)], ["y"])
    infos = [[helper.make_tensor_value_info(value, TensorProto.FLOAT, SHAPE)] for value in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([node], name, *infos, slopes), opset_imports=[helper.make_opsetid("", OPSET)]
    )
    model.ir_version = IR_VERSION
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(name: str) -> dict[str, Any]:
    """Return what an activation takes for each kind of numbers, in microseconds."""
    numbers = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    kinds = {"random": numbers, "positive": np.abs(numbers), "negative": -np.abs(numbers)}
    session = session_of(name)
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for call in range(CALLS):
        for kind, values in kinds.items():
            start = time.perf_counter()
            session.run(None, {"x": values})
            if call > CALLS // 10:
                taken[kind].append(1e6 * (time.perf_counter() - start))
    return {"activation": name, **{f"{kind}_us": round(median(times), 1) for kind, times in taken.items()}}


def main() -> None:
    """Measure every activation."""
    given = parser(__doc__).parse_args()
    results = [measure(name) for name in ACTIVATIONS]
    rows = [
        (r["activation"], *(f"{r[f'{kind}_us']:.0f}" for kind in ("random", "positive", "negative"))) for r in results
    ]
    print_table(f"µs for {'×'.join(map(str, SHAPE))} values", ("activation", "random", "positive", "negative"), rows)
    write_results(given.results, "onnx_activations", {"shape": SHAPE, "results": results})


if __name__ == "__main__":
    main()

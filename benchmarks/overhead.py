"""What the tool itself adds to a timed block: a layer of known duration, timed as any layer is.

In the prepared layer the call is replaced by one that waits busily for 0.1 ms and keeps its own account of how long it
took. What the target reports beyond that account is the tool's: the clock, the loop, the call. Both alternate in one
process, so that the machine's speed does not matter. A GPU's blocks are timed on the GPU; see benchmarks/cuda_modes.py.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from _common import parser, print_table, write_results

from lut import conv_norm_act
from profiler import Target, cpu_device
from profiler._target import load_target, target_spec

WAIT_NS = 100_000
BLOCKS = 200
CALLS = 5
SETTINGS = (("cpu", "network"), ("cpu", "isolated"), ("onnx", "network"), ("onnx", "isolated"))


class Wait:
    """A call that takes 0.1 ms and knows exactly how long it took."""

    def __init__(self, result: Any) -> None:
        self.inside_ns = 0
        self.result = result

    def __call__(self, *_: object) -> Any:
        clock = time.perf_counter_ns
        start = clock()
        while clock() - start < WAIT_NS:
            pass
        self.inside_ns += clock() - start
        return self.result


class Session:
    """An ONNX Runtime session that only waits."""

    def __init__(self, wait: Wait) -> None:
        self.run_with_iobinding = wait


def with_wait(target: Target[Any], prepared: Any) -> tuple[Any, Wait]:
    """Return the prepared layer with its call replaced."""
    if hasattr(prepared, "call"):
        wait = Wait(prepared.call(*prepared.inputs))
        prepared.call = wait
        return prepared, wait
    part = target.parts(prepared)[0].prepared
    wait = Wait(None)
    part.session = Session(wait)
    return part, wait


def main() -> None:
    """Run the benchmark."""
    given = parser(__doc__).parse_args()
    machine = cpu_device()
    layer = conv_norm_act(16, 16, kernel_size=3, stride=1, activation="relu", input_size=(32, 32))
    rows, figures = [], {}
    for name, context in SETTINGS:
        target = load_target(target_spec(name, (layer,), context=context, batch=1, threads=1))
        prepared, wait = with_wait(target, target.prepare(layer, 0))
        added: list[float] = []
        for _ in range(BLOCKS):
            wait.inside_ns = 0
            added.append((target.run(prepared, CALLS) - wait.inside_ns) / CALLS)
        us = median(added) / 1e3
        share = us * 1e3 / WAIT_NS
        rows.append((name, context, f"{us:.3f}", f"{share:.2%}"))
        figures[f"{name} {context}"] = {"added_us_per_call": round(us, 4), "share_of_0.1_ms": round(share, 5)}
        target.close()
    print_table("What the tool adds to a call of 0.1 ms", ("target", "context", "µs a call", "share"), rows)
    write_results(given.results, "overhead", {"call_ms": WAIT_NS / 1e6, "blocks": BLOCKS, "figures": figures}, machine)


if __name__ == "__main__":
    main()

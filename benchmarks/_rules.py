"""Timing rules, ours and the peers', each run in a process of its own over the same 49 widths.

Usage: ``python _rules.py RULE THREADS SECONDS SEED REFERENCE``. Prints ``start`` when measuring begins, then one JSON
line with the latency of each width in ms.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WIDTHS = tuple(range(8, 57))
BATCH = 4
Call = Callable[[], Any]


def layers() -> list[Any]:
    """Return conv 3×3 + norm + ReLU, 32 channels in, 8 … 56 out, on 32×32."""
    from lut import conv_norm_act

    return [
        conv_norm_act(32, width, kernel_size=3, stride=1, activation="relu", input_size=(32, 32)) for width in WIDTHS
    ]


def peer(rule: Callable[[Call, float], float], seconds: float, threads: int, *, kept: bool) -> dict[int, float]:
    """Time one width after another, as every peer does, each for its share of the time.

    ``kept`` gives the peer our process's settings: freed memory kept, pinned, denormals flushed.
    """
    import torch

    from profiler import build_module

    torch.set_num_threads(threads)
    if kept:
        from profiler._process import keep_freed_memory, pin

        keep_freed_memory()
        pin(threads)
        torch.set_flush_denormal(True)
    torch.manual_seed(0)
    calls: list[Call] = []
    for layer in layers():
        module, x = build_module(layer), torch.randn(BATCH, *layer.inputs[0])
        calls.append(lambda module=module, x=x: module(x))
    started()
    with torch.inference_mode():
        return {width: rule(call, seconds / len(WIDTHS)) for width, call in zip(WIDTHS, calls, strict=True)}


def started() -> None:
    """Tell whoever runs us that measuring begins."""
    print("start", flush=True)


def _each(call: Call, until: float, at_least: int = 1) -> list[float]:
    clock = time.perf_counter
    times: list[float] = []
    while len(times) < at_least or clock() < until:
        start = clock()
        call()
        times.append((clock() - start) * 1e3)
    return times


def blocked_autorange(call: Call, share_s: float) -> float:
    """torch.utils.benchmark.Timer.blocked_autorange: median of blocks that take at least the timer's due."""
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call}, num_threads=_threads())
    return float(timer.blocked_autorange(min_run_time=share_s).median) * 1e3


def adaptive_autorange(call: Call, share_s: float) -> float:
    """torch.utils.benchmark.Timer.adaptive_autorange, kept going for its share of the time: median of its blocks."""
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call}, num_threads=_threads())
    measured = timer.adaptive_autorange(threshold=0.01, min_run_time=share_s, max_run_time=share_s)
    return float(measured.median) * 1e3


def do_bench(call: Call, share_s: float) -> float:
    """triton.testing.do_bench: an estimate of 5 calls, a fifth of the time warm-up, then the mean of single calls.

    Its buffer that evicts the GPU's L2 between calls is left out: there is no such cache here, and a cold one would be
    another quantity.
    """
    began = time.perf_counter()
    call()
    estimate_ms = sum(_each(call, 0.0, 5)) / 5
    _each(call, 0.0, max(1, int(share_s * 200 / estimate_ms)))
    times = _each(call, began + share_s)
    return sum(times) / len(times)


def timm(call: Call, share_s: float) -> float:
    """Timm's benchmark.py: 10 warm-up calls, then the mean over single timed calls (50 by default, here what fits)."""
    began = time.perf_counter()
    _each(call, 0.0, 10)
    times = _each(call, began + share_s)
    return sum(times) / len(times)


def htas(call: Call, share_s: float) -> float:
    """HTAS section 4.1: the mean of as many back-to-back calls as fit (2,000 in the paper)."""
    clock = time.perf_counter
    start = clock()
    calls = 0
    while clock() - start < share_s:
        call()
        calls += 1
    return (clock() - start) * 1e3 / calls


def minimum(call: Call, share_s: float) -> float:
    """The fastest of single timed calls."""
    began = time.perf_counter()
    call()
    return min(_each(call, began + share_s))


def ours(seconds: float, threads: int, seed: int, reference: Path, context: str) -> dict[int, float]:
    """Our protocol on the 49 widths."""
    return dict(zip(WIDTHS, measure(layers(), seconds, threads, seed, reference, context), strict=True))


def measure(
    wanted: Sequence[Any],
    seconds: float,
    threads: int | None,
    seed: int,
    reference: Path,
    context: str = "isolated",
) -> list[float]:
    """Return latencies in ms by this project's protocol, in one process and without its early stop.

    So it takes the time that it is given. The reference speed is kept in a file between repeats, as it is for users.
    Isolated is what the peers' rules measure.
    """
    import msgspec

    from profiler import CpuTarget
    from profiler._judge import judge
    from profiler._plan import Plan, make_protocol
    from profiler._reference import load_references, save_references
    from profiler._session import run_session, sort_visits
    from profiler._worker import LocalWorker

    protocol = msgspec.structs.replace(
        make_protocol(precision=0.0005, time_budget_s=seconds, seed=seed), most_processes=1, most_visits=10_000
    )
    target = CpuTarget(batch=BATCH, threads=threads, context=context)
    plan = Plan("profiler._cpu:CpuTarget", {"batch": BATCH, "threads": threads}, tuple(wanted), protocol)
    started()
    origin = target.clock()
    result = run_session(
        plan, lambda process: LocalWorker(target, plan.entries, protocol, process=process, origin=origin), None
    )
    accepted = sort_visits(result.visits, protocol.first_look, final=True)
    known = load_references(reference, result.ready.device, result.ready.setting, result.ready.software)
    found = judge(accepted.accepted, protocol, references=known)
    if known is None:
        save_references(reference, result.ready.device, result.ready.setting, result.ready.software, found.references)
    return [found.layers[i].median_ms for i in range(len(plan.entries))]


PEERS: dict[str, Callable[[Call, float], float]] = {
    "blocked_autorange": blocked_autorange,
    "adaptive_autorange": adaptive_autorange,
    "do_bench": do_bench,
    "timm": timm,
    "htas_mean": htas,
    "minimum": minimum,
}
RULES = ("ours", *PEERS)
# What measuring in context costs in repeatability.
CONTEXT_RULES = ("ours", "ours+network", "minimum")
# What of the difference is the process's settings, and what the protocol.
SETTINGS_RULES = ("ours", "minimum+kept", "adaptive_autorange+kept")


def _threads() -> int:
    return int(sys.argv[2])


def main() -> None:
    """Run one rule."""
    rule, threads, seconds, seed, reference = sys.argv[1:]
    name, _, settings = rule.partition("+")
    if name == "ours":
        found = ours(float(seconds), int(threads), int(seed), Path(reference), settings or "isolated")
    else:
        found = peer(PEERS[name], float(seconds), int(threads), kept=settings == "kept")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

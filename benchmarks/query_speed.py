"""How many networks a second can a search ask about, on one core?

Compiled arrays against a bare blocked numpy gather over the same arrays (no checks, indices in their most favourable
layout, the best of several block sizes), and single networks against the once-for-all table's loop over a dict of
strings. All in one process, in turns.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
from _common import parser, print_table, write_results
from _sessions import SESSIONS, read_sessions, table_of

from lut import Decision, Layer, LayerSlot, Network, NetworkLayer, SearchSpace, conv_norm_act, global_pool, linear
from predictors import CompiledLatency, LatencyPredictor
from profiler import cpu_device
from search.spaces import ResNetCifar

BATCH = 1_000_000
SINGLE = 20_000
FRESH = 2_000
BLOCKS = (1024, 2048, 4096, 8192, 16384)
REPEATS = 7
CLASSES = 10


class Chain(SearchSpace):
    """Twenty layers one after another, eight widths each: ResNet-20's sizes without its shortcuts."""

    name = "chain"

    def __init__(self) -> None:
        stages = ((32, 16), (16, 32), (8, 64))
        self._sizes = [size for size, _ in stages for _ in range(6)]
        self._widths = [tuple(base * step // 4 for step in range(1, 9)) for _, base in stages for _ in range(6)]

    @cached_property
    def choices(self) -> tuple[Decision, ...]:
        """A width for each layer."""
        return tuple(Decision(f"conv{i}", options, kind="width") for i, options in enumerate(self._widths))

    def _conv(self, i: int, into: int, out: int) -> Layer:
        before = self._sizes[i - 1] if i else self._sizes[0]
        stride = before // self._sizes[i]
        return conv_norm_act(into, out, kernel_size=3, stride=stride, activation="relu", input_size=(before, before))

    def decode(self, vector: Sequence[int]) -> Network:
        """Return the network of a vector."""
        widths = [d.options[i] for d, i in zip(self.choices, vector, strict=True)]
        pairs = zip([3, *widths], widths, strict=False)
        layers = [NetworkLayer(f"conv{i}", self._conv(i, a, b)) for i, (a, b) in enumerate(pairs)]
        layers.append(NetworkLayer("pool", global_pool(widths[-1], input_size=(8, 8))))
        return Network("chain", (*layers, NetworkLayer("classifier", linear(widths[-1], CLASSES, bias=True))))

    def layers(self) -> tuple[Layer, ...]:
        """Return nothing: only asked about here, never measured."""
        return ()

    def slots(self) -> tuple[LayerSlot, ...]:
        """Return the chain's places."""
        options = [d.options for d in self.choices]
        last = len(options) - 1
        places = [LayerSlot("conv0", (0,), lambda o: self._conv(0, 3, options[0][o]))]
        places += [
            LayerSlot(f"conv{i}", (i - 1, i), lambda a, b, i=i: self._conv(i, options[i - 1][a], options[i][b]))
            for i in range(1, len(options))
        ]
        places.append(LayerSlot("pool", (last,), lambda a: global_pool(options[last][a], input_size=(8, 8))))
        places.append(LayerSlot("classifier", (last,), lambda a: linear(options[last][a], CLASSES, bias=True)))
        return tuple(places)


def bare_gather(compiled: CompiledLatency, block_size: int) -> Callable[[Any], Any]:
    """Return a function of columns of option indices, shape ``(decisions, n)``, that looks the arrays up and adds."""
    terms = [(t.decisions, t.values.shape, np.ascontiguousarray(t.values).ravel(), t.when) for t in compiled.terms]
    masks = {}
    for _, _, _, when in terms:
        for decision, options in when:
            mask = np.zeros(len(compiled.choices[decision].options))
            mask[list(options)] = 1.0
            masks[decision, options] = mask

    def run(columns: Any) -> Any:
        count = columns.shape[1]
        found = np.empty(count)
        index, value = np.empty(block_size, dtype=np.intp), np.empty(block_size)
        for start in range(0, count, block_size):
            block = columns[:, start : start + block_size]
            size = block.shape[1]
            i, v, total = index[:size], value[:size], found[start : start + block_size]
            total[:] = compiled.constant
            for decisions, shape, flat, when in terms:
                if len(decisions) == 1:
                    np.take(flat, block[decisions[0]], out=v, mode="clip")
                else:
                    np.copyto(i, block[decisions[0]])
                    for decision, options in zip(decisions[1:], shape[1:], strict=True):
                        np.multiply(i, options, out=i)
                        np.add(i, block[decision], out=i)
                    np.take(flat, i, out=v, mode="clip")
                for gate in when:
                    v *= masks[gate][block[gate[0]]]
                total += v
        return found

    return run


def table_of_strings(predictor: LatencyPredictor, networks: Sequence[Network]) -> dict[str, dict[str, float]]:
    """Return a table as once-for-all's: a string for each layer, under which its mean stands."""
    layers = dict.fromkeys(item.layer for network in networks for item in network.layers)
    values = predictor.contributions(list(layers))
    return {key_of(layer): {"mean": float(ms), "count": 1} for layer, ms in zip(layers, values, strict=True)}


def key_of(layer: Layer) -> str:
    """Return a layer's key, put together for each query as there."""
    into, out = layer.inputs[0], layer.output_shape
    operators = "+".join([node.op.__class__.__name__ for node in layer.nodes])
    kernel = getattr(layer.nodes[0].op, "kernel_size", "")
    return f"{operators}-kernel:{kernel}-input:{'x'.join(map(str, into))}-output:{'x'.join(map(str, out))}"


def rate(work: Callable[[], Any], count: int) -> float:
    """Return how many a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def rate_of(gather: Callable[[Any], Any], columns: Any) -> float:
    """Return how many networks a second a gather looks up: the median of three."""
    return median(rate(lambda: gather(columns), columns.shape[1]) for _ in range(3))


def main() -> None:
    """Time all ways to ask, in turns."""
    made = parser(__doc__)
    given = made.parse_args()
    machine = cpu_device()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    session = next(s for s in read_sessions(SESSIONS) if s.file.space == "resnet" and s.file.target == "cpu")
    whole = session.ms("whole")
    predictor = LatencyPredictor.fit(
        table_of(session, "in_context"), networks=[(n, whole[i]) for i, n in enumerate(session.networks)]
    )
    results, rows = {}, []
    for space in (Chain(), ResNetCifar(expand=1.0, depth=20)):
        began = time.perf_counter()
        compiled = predictor.compile(space)
        seconds = time.perf_counter() - began
        rng = np.random.default_rng(0)
        choices = np.stack([rng.integers(len(d.options), size=BATCH) for d in space.choices], axis=1).astype(np.uint8)
        columns = np.ascontiguousarray(choices.T).astype(np.intp)
        by_block = {size: bare_gather(compiled, size) for size in BLOCKS}
        best = max(BLOCKS, key=lambda size: rate_of(by_block[size], columns))
        bare = by_block[best]
        assert np.allclose(bare(columns[:, :5000]), compiled.latency(choices[:5000]))
        picker = random.Random(0)
        networks = [space.decode(space.sample(picker)) for _ in range(200)] * (SINGLE // 200)
        strings = table_of_strings(predictor, networks[:200])
        single = [predictor.latency_ms(network) for network in networks[:200]]
        loop = [sum(strings[key_of(item.layer)]["mean"] * item.count for item in n.layers) for n in networks[:200]]
        assert np.allclose(single, loop)
        import torch

        torch.set_num_threads(1)
        tensors = compiled.torch()
        some = torch.as_tensor(choices[:100_000].astype(np.int64))
        plan = compiled._plan
        fused = bare_gather(CompiledLatency(space.name, space.choices, compiled.constant, plan.fused_terms), best)
        vectors = [space.sample(picker) for _ in range(FRESH)]
        ways: dict[str, tuple[Callable[[], Any], int]] = {
            "bare numpy gather": (lambda b=bare, c=columns: b(c), BATCH),
            "bare gather over fused arrays": (lambda b=fused, c=columns: b(c), BATCH),
            "compiled": (lambda f=compiled, c=choices: f.latency(c), BATCH),
            "compiled, torch": (lambda t=tensors, s=some: t.latency(s), len(some)),
            "uncompiled: latency_ms(network)": (lambda n=networks: [predictor.latency_ms(x) for x in n], SINGLE),
            "uncompiled, decoding each vector": (
                lambda s=space, v=vectors: [predictor.latency_ms(s.decode(x)) for x in v],
                FRESH,
            ),
            "once-for-all's loop over strings": (
                lambda n=networks, t=strings: [sum(t[key_of(i.layer)]["mean"] * i.count for i in x.layers) for x in n],
                SINGLE,
            ),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(REPEATS):
            for name, (work, count) in ways.items():
                rates[name].append(rate(work, count))
        found = {name: median(values) for name, values in rates.items()}
        ratio = median(a / b for a, b in zip(rates["compiled"], rates["bare numpy gather"], strict=True))
        results[space.name] = {
            "decisions": len(space.choices),
            "arrays": len(compiled.terms),
            "block_of_bare_gather": best,
            "compile_seconds": round(seconds, 2),
            "networks_per_second": {name: round(value) for name, value in found.items()},
            "compiled_over_bare": round(ratio, 3),
        }
        for name, value in found.items():
            rows.append((f"{space.name}: {name}", f"{value:,.0f}", f"{value / found['bare numpy gather']:.3f}"))
    print_table("Networks a second, one core", ("space, way", "networks/s", "of bare gather"), rows)
    write_results(given.results, "query_speed", {"results": results}, machine)


if __name__ == "__main__":
    main()

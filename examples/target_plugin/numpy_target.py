"""The target ``numpy``: linear layers, activations and additions in numpy, on the CPU."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import resource
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, NamedTuple, final

from lut import Device, Layer, Setting, Software, UsageError
from lut.errors import LayerFailedError
from lut.primitives import Activation, Add, Linear
from profiler import Target


class Prepared(NamedTuple):
    """A layer's inputs and weights, and its operators with the numbers of the values that each takes."""

    data: list[Any]
    steps: list[tuple[Callable[..., Any], list[int]]]

    def call(self) -> Any:
        values = list(self.data)
        for function, args in self.steps:
            values.append(function(*[values[i] for i in args]))
        return values[-1]


@contextlib.contextmanager
def layer_errors() -> Iterator[None]:
    """Turn whatever numpy raises into the layer's failure."""
    try:
        yield
    except Exception as error:
        reason = "out_of_memory" if isinstance(error, MemoryError) else "error"
        raise LayerFailedError(str(error) or type(error).__name__, reason=reason) from error


@final
class NumpyTarget(Target[Prepared]):
    """Layers in numpy: float32, each alone, again and again."""

    def __init__(self, *, batch: int = 1, threads: int = 1) -> None:
        self.check_options(batch=batch, threads=threads)
        import numpy
        import threadpoolctl

        threadpoolctl.threadpool_limits(threads)
        self._np, self._batch, self._threads = numpy, batch, threads
        self._blas = ", ".join(f"{pool['internal_api']} {pool['version']}" for pool in threadpoolctl.threadpool_info())
        self._known: dict[Any, Callable[..., Any]] = {
            Linear: lambda x, w, *bias: numpy.add(x @ w, *bias) if bias else x @ w,
            Add: numpy.add,
            "relu": lambda x: numpy.maximum(x, 0),
        }

    @classmethod
    def check_options(cls, **options: Any) -> None:
        if min(options.get("batch", 1), options.get("threads", 1)) < 1:
            raise UsageError("batch and threads must be at least 1")

    def describe(self) -> tuple[Device, Setting, Software]:
        machine, cores = platform.machine(), os.cpu_count() or 1
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
        device = Device("cpu", platform.processor() or machine, machine, platform.system(), cores, allowed)
        # target, batch, dtype, threads, memory format, context, options
        setting = Setting("numpy", self._batch, "float32", self._threads, None, "isolated", {})
        return device, setting, Software(platform.python_version(), {"numpy": version("numpy")}, {"blas": self._blas})

    def prepare(self, layer: Layer, seed: int) -> Prepared:
        functions = [self._function(op) for op in layer.operators]
        import torch

        from profiler import build_module

        with layer_errors(), torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed)
            module = build_module(layer)
            inputs = [torch.randn(self._batch, *shape) for shape in layer.inputs]
            weights = [p.numpy().T.copy() for p in module.parameters()]
            prepared = Prepared([*(x.numpy() for x in inputs), *weights], [])
            unused = iter(range(len(inputs), len(prepared.data)))
            for node, function in zip(layer.bare.nodes, functions, strict=True):
                # Values are numbered inputs first, then weights, then what the operators return.
                args = [i if i < len(inputs) else i + len(weights) for i in node.args]
                args += [next(unused) for _ in range(1 + node.op.bias if isinstance(node.op, Linear) else 0)]
                prepared.steps.append((function, args))
            expected, got = module(*inputs).numpy(), prepared.call()
        if got.shape != expected.shape or not self._np.allclose(got, expected, rtol=1e-3, atol=1e-3):
            raise LayerFailedError("numpy computes something else than PyTorch")
        return prepared

    def _function(self, op: Any) -> Callable[..., Any]:
        key = op.kind if isinstance(op, Activation) else type(op)
        if key in self._known:
            return self._known[key]
        raise LayerFailedError(f"numpy does not know {getattr(key, '__name__', key)}")

    def relocate(self, prepared: Prepared, rng: random.Random) -> None:
        for i, old in enumerate(prepared.data):
            start = 16 * rng.randrange(1024)  # in multiples of 64 bytes, within 64 KiB
            prepared.data[i] = self._np.empty(start + old.size, old.dtype)[start:].reshape(old.shape)
            prepared.data[i][...] = old

    def run(self, prepared: Prepared, calls: int) -> int:
        with layer_errors():
            start = time.perf_counter_ns()
            for _ in range(calls):
                prepared.call()
            return time.perf_counter_ns() - start

    def preemptions_and_faults(self) -> tuple[int, int]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_nivcsw, usage.ru_minflt + usage.ru_majflt

"""The target ``cpu``: PyTorch, eager or compiled, on this machine's CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from math import prod
from shutil import which
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, final

import msgspec

from lut import Device, Layer, Network, Setting, UsageError
from lut._records import CONTEXTS, Context, Software
from lut._suggest import check_word
from lut.errors import LayerFailedError, TargetUnavailableError
from lut.primitives import Conv2d, Linear, Subgraph
from lut.subgraph import short_name
from profiler._dtypes import torch_dtype
from profiler._machine import DisturbanceReader, available_memory_bytes, cpu_device, default_threads
from profiler._model import random_like
from profiler._process import keep_freed_memory, layer_errors, pin
from profiler._sources import LayersSource, NetworkSource, layer_of_source, load_source
from profiler._target import Place, Target

if TYPE_CHECKING:
    import torch

__all__ = ["CpuTarget"]

DTYPES = ("float32", "bfloat16", "float16")
MEMORY_FORMATS = ("contiguous", "channels_last")

# Alignment that PyTorch gives its tensors, and the span over which copies are shifted: addresses that agree in their
# low 12 bits collide in store-to-load forwarding and in the first-level cache, those that agree in 16 in the second.
ALIGNMENT_BYTES = 64
RELOCATION_BYTES = 1 << 16
HELD_BLOCKS = 8

# Layers of a chain, where no network says how many there are: as many as a small network has.
CHAIN = 24
LONGEST_CHAIN = 96
# What a chain's layers read is a few kilobytes of noise, written again and again: only the writing enters the caches.
TILE = 2048
# A layer's second input was made before the block whose end it takes part in: so many layers earlier.
BLOCK = 3

# oneDNN compiles each convolution to machine code at its first call, keeps it in a cache, and where that code comes
# to lie is luck: on one x86 machine a layer in twenty was 10 to 40 % slower throughout a process, another one in the
# next. With a cache this small, a layer's kernels are gone by its next visit and are compiled to another place in the
# warm-up; the middle of the visits then is the same from process to process. It must hold all kernels of the layers
# that are visited together, or they would be compiled in every call: four per convolution or linear layer. Where too
# few other layers do, sums of tiny tensors push a layer's kernels out: they cost 0.02 ms each to compile, a
# convolution 0.3.
KERNELS_PER_OPERATOR = 4
LEAST_KERNEL_CACHE = 48
# How the names of PyTorch's operators begin that oneDNN may run.
PRODUCTS = ("conv", "linear", "matmul", "bmm", "mm", "addmm", "baddbmm", "scaled_dot_product", "lstm", "gru", "einsum")


class _Prepared:
    """A module with its inputs, and the masters that their data is copied from."""

    def __init__(self, module: torch.nn.Module, inputs: list[torch.Tensor]) -> None:
        self.module = module
        self.call: Callable[..., torch.Tensor] = module
        self.inputs = inputs
        self.masters: list[torch.Tensor] = []
        self.weights: list[torch.nn.Parameter] = []
        self.output_bytes = 0
        # Shape and type of the output, where it is known.
        self.makes: tuple[torch.Size, torch.dtype] | None = None
        self.compiles = False


@final
class CpuTarget(Target[_Prepared]):
    """PyTorch on the CPU, eager or through ``torch.compile``.

    It sets up the process that it is made in, for good: thread count, CPU affinity, the C library's allocator, oneDNN's
    cache, denormals. The profiler makes it in a process of its own, and so should you.

    Args:
        batch: samples per call.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        threads: threads of PyTorch's pool; by default as many as CPUs in the affinity mask, and no more than a
            container's quota allows.
        memory_format: ``contiguous`` or ``channels_last``.
        context: ``network`` to time each layer where it stands in a network, or in a chain of layers as long as one;
            ``isolated`` to run it alone, again and again.
        compile: run what ``torch.compile`` makes of the layer; compiling is not timed.
        kernel_cache: kernels that oneDNN keeps; see :meth:`defaults`.
        chain: layers of a chain; see :meth:`defaults`.

    Raises:
        UsageError: an option is out of range.
        TargetUnavailableError: ``compile`` is asked for where there is no C++ compiler.
    """

    goes_along = True

    def __init__(
        self,
        *,
        batch: int = 4,
        dtype: str = "float32",
        threads: int | None = None,
        memory_format: str = "contiguous",
        context: str = "network",
        compile: bool = False,  # noqa: A002 - as in --compile
        kernel_cache: int = LEAST_KERNEL_CACHE + CHAIN * KERNELS_PER_OPERATOR,
        chain: int = CHAIN,
    ) -> None:
        self.check_options(batch=batch, dtype=dtype, threads=threads, memory_format=memory_format, context=context)
        if chain < 1:
            raise UsageError(f"a chain has at least 1 layer, got {chain}")
        self.check_available(compile=compile)
        self._context: Context = "network" if context == "network" else "isolated"
        self._compile = compile
        self._kernel_cache = kernel_cache
        self._chain = chain
        self._threads = threads if threads is not None else default_threads()
        # The pool reads this when it is made, and a later set_num_threads cannot shrink what was spawned.
        os.environ["OMP_NUM_THREADS"] = str(self._threads)
        # Before pinning, which is our doing and no property of the device.
        self._device = cpu_device()
        self._pinned = pin(self._threads)
        self._allocator = keep_freed_memory()
        os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = str(kernel_cache)
        import torch

        self._torch = torch
        self._batch = batch
        self._dtype_name = dtype
        self._dtype: torch.dtype = torch_dtype(dtype)
        self._memory_format = memory_format
        torch.set_num_threads(self._threads)
        self._held: list[torch.Tensor] = []
        self._fillers: list[torch.Tensor] = []
        # The layers visited lately, the latest last: whose kernels may still be in the cache.
        self._recent: dict[int, None] = {}
        generator = torch.Generator().manual_seed(0)
        self._tile = torch.randn(TILE, generator=generator).to(self._dtype)
        self._disturbances = DisturbanceReader()
        self._flush = bool(torch.set_flush_denormal(True))

    @classmethod
    def check_available(cls, **options: Any) -> None:
        if options.get("compile") and not _compiler():
            raise TargetUnavailableError(
                "torch.compile needs a C++ compiler, and none is installed: install g++ or clang, or name one in CXX"
            )

    @classmethod
    def check_options(cls, **options: Any) -> None:
        known = {"batch": 4, "dtype": "float32", "threads": None, "memory_format": "contiguous", "context": "network"}
        _check_options(**{**known, **{name: value for name, value in options.items() if name in known}})

    @classmethod
    def defaults(cls, layers: Sequence[Layer], networks: Sequence[Network] = ()) -> Mapping[str, Any]:
        """HTAS measures with batch 4 on a CPU (section 4.1).

        A chain is as long as the networks are that are measured beside the layers, so that what runs between two calls
        of a layer is as much as there. The cache holds the kernels of the longest chain, or the largest network.
        """
        lengths = sorted(sum(item.count for item in network.layers) for network in networks)
        chain = min(LONGEST_CHAIN, max(CHAIN, lengths[len(lengths) // 2])) if lengths else CHAIN
        operators = sorted((_compiled_operators(layer) for layer in layers), reverse=True)
        largest = sum(operators[:chain]) + max(0, chain - len(operators))
        whole = [sum(item.count * _compiled_operators(item.layer) for item in network.layers) for network in networks]
        kernels = LEAST_KERNEL_CACHE + KERNELS_PER_OPERATOR * max([largest, *whole])
        return {"batch": 4, "kernel_cache": kernels, "chain": chain}

    @property
    def together(self) -> int:
        return self._chain if self._context == "network" else 1

    @property
    def walks(self) -> bool:
        return self._context == "network"

    @property
    def slow_to_prepare(self) -> bool:
        return self._compile

    def describe(self) -> tuple[Device, Setting, Software]:
        torch = self._torch
        setting = Setting(
            target="cpu",
            batch=self._batch,
            dtype=self._dtype_name,
            threads=self._threads,
            memory_format=self._memory_format,
            context=self._context,
            options={"execution": "compile" if self._compile else "eager"},
        )
        details = {
            "mode": f"{'torch.compile (inductor)' if self._compile else 'eager'}, inference_mode, eval",
            "context": _CONTEXT_DETAILS[self._context].format(chain=self._chain),
            "onednn": _onednn_version(torch),
            "flush_denormal": str(self._flush).lower(),
            "allocator": self._allocator,
            "pinned": self._pinned,
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "unset"),
            "data": "weights He-normal, inputs standard normal; at random addresses, others in every visit",
            "kernels": f"compiled anew before every visit (oneDNN cache of {self._kernel_cache})",
        }
        software = Software(
            python=platform.python_version(),
            packages={"torch": str(torch.__version__), "latency-lut": version("latency-lut")},
            details=details,
        )
        device = msgspec.structs.replace(self._device, instructions=torch.backends.cpu.get_cpu_capability())
        return device, setting, software

    def prepare(self, layer: Layer, seed: int) -> _Prepared:
        from profiler._modules import build_module

        return self._built(layer, seed, lambda: build_module(layer, self.namespaces))

    def _built(self, layer: Layer, seed: int, build: Callable[[], torch.nn.Module]) -> _Prepared:
        """Return a layer, or a network that is one, as ``build`` makes it."""
        torch = self._torch
        self._refuse_too_large(layer)
        from profiler._modules import example_inputs, seed_host

        with layer_errors(torch.OutOfMemoryError), torch.random.fork_rng(devices=[]):
            seed_host(seed)
            module = build()
            inputs = example_inputs(layer, self._batch, self._dtype)
            prepared = self._ready(module, inputs)
            prepared.makes = (torch.Size((self._batch, *layer.output_shape)), self._output_type(layer))
            if not self._compile:
                # Calling the module that holds a layer costs 3 µs, and no network has such a one around each layer.
                prepared.call = prepared.module.forward
            prepared.compiles = _compiled_operators(layer) > 0
            prepared.output_bytes = self._batch * prod(layer.output_shape) * inputs[0].element_size()
        return prepared

    def _output_type(self, layer: Layer) -> torch.dtype:
        last = layer.operators[-1]
        if isinstance(last, Subgraph) and not last.gives.startswith("float"):
            return torch_dtype(last.gives)
        return self._dtype

    def _ready(self, module: torch.nn.Module, inputs: list[torch.Tensor]) -> _Prepared:
        """Return a module with its inputs as the setting has them, and the masters that both are moved from."""
        torch = self._torch
        module = module.to(dtype=self._dtype)
        if self._memory_format == "channels_last":
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            inputs = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
        prepared = _Prepared(module.requires_grad_(False), inputs)
        if self._compile:
            prepared.call = _compiled(torch, module)
            with torch.inference_mode():
                prepared.call(*inputs)
        prepared.weights = [w for w in module.parameters() if w.ndim > 1]
        prepared.masters = [t.detach().clone(memory_format=torch.preserve_format) for t in self._movable(prepared)]
        prepared.compiles = True
        return prepared

    def prepare_network(self, source: NetworkSource, seed: int) -> _Prepared:
        """A user's module with inputs, ready to run; or a network that is one layer."""
        layer = layer_of_source(source)
        if isinstance(source, LayersSource) and layer is not None:
            from profiler._modules import build_layers

            return self._built(layer, seed, lambda: build_layers(source.network, self.namespaces))
        torch = self._torch
        with layer_errors(torch.OutOfMemoryError), torch.random.fork_rng(devices=[]):
            module, examples = load_source(source)
            # The weights are there already; their masters and the copies in the arenas are to come.
            self._refuse_beyond(2 * sum(weight.numel() * weight.element_size() for weight in module.parameters()))
            torch.manual_seed(seed)
            return self._ready(module, [random_like(x, self._dtype) for x in examples])

    def _movable(self, prepared: _Prepared) -> list[torch.Tensor]:
        # In context, inputs are written anew for every call.
        inputs = prepared.inputs if self._context == "isolated" else []
        return [*inputs, *(weight.data for weight in prepared.weights)]

    def _refuse_too_large(self, layer: Layer) -> None:
        """Refuse what would not fit, before the system kills a process to make room."""
        size = {"float32": 4}.get(self._dtype_name, 2)
        # The masters and their copies in the arenas, and an output beside them; a little more for the library.
        self._refuse_beyond(2.5 * layer.bytes_moved(batch=self._batch, bytes_per_element=size))

    def _refuse_beyond(self, needed: float) -> None:
        """Raise where so many bytes are not to be had."""
        available = available_memory_bytes()
        if available is not None and needed > 0.8 * available:
            raise LayerFailedError(
                f"needs about {needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are available",
                reason="out_of_memory",
            )

    def relocate(self, prepared: _Prepared, rng: random.Random) -> None:
        """Shift inputs and weights, and make the outputs land elsewhere on the heap.

        Where buffers lie relative to each other decides how they collide in the caches. In one process that is luck
        once for all, worth 10 to 30 % for some layers; a new place for every visit makes it noise, which the median
        over the visits takes out (the idea of Stabilizer: Curtsinger & Berger, ASPLOS 2013).
        """
        with layer_errors(self._torch.OutOfMemoryError):
            self._move(prepared, rng)

    def _move(self, prepared: _Prepared, rng: random.Random) -> None:
        torch = self._torch
        self._evict_kernels(prepared)
        self._shuffle_heap(prepared, rng)
        moved = []
        with torch.inference_mode():
            for master in prepared.masters:
                step = ALIGNMENT_BYTES // master.element_size()
                start = rng.randrange(RELOCATION_BYTES // ALIGNMENT_BYTES) * step
                arena = torch.empty(master.numel() + RELOCATION_BYTES // master.element_size(), dtype=master.dtype)
                flat = arena[start : start + master.numel()]
                copy = flat.as_strided(master.shape, master.stride())
                moved.append(copy.copy_(master))
        own_inputs = len(moved) - len(prepared.weights)
        if own_inputs:
            prepared.inputs = moved[:own_inputs]
        for weight, copy in zip(prepared.weights, moved[own_inputs:], strict=True):
            weight.data = copy

    def _evict_kernels(self, prepared: _Prepared) -> None:
        """Have the layer's kernels compiled anew, at another place, by its next call."""
        torch = self._torch
        me = id(prepared)
        if not prepared.compiles:
            return
        if me in self._recent and torch.backends.mkldnn.is_available():
            if not self._fillers:
                self._fillers = [torch.zeros(1, 1 + i).to_mkldnn() for i in range(self._kernel_cache)]
            with torch.inference_mode():
                for x in self._fillers:
                    x + x
            self._recent.clear()
        self._recent[me] = None
        if len(self._recent) > self._kernel_cache:
            del self._recent[next(iter(self._recent))]

    def _shuffle_heap(self, prepared: _Prepared, rng: random.Random) -> None:
        """Make the next outputs land elsewhere on the heap.

        A freed block goes to the next request of its size, so that a layer's output would lie at the same address in
        every call of a process. Blocks of about that size, taken and given back at random, occupy some of the places.
        """
        torch = self._torch
        rng.shuffle(self._held)
        del self._held[HELD_BLOCKS // 2 :]
        while len(self._held) < HELD_BLOCKS:
            spare = rng.randrange(RELOCATION_BYTES // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            share = rng.choice((0.0, 0.5, 1.0, 1.0))
            self._held.append(torch.empty(int(prepared.output_bytes * share) + spare, dtype=torch.uint8))

    def run(self, prepared: _Prepared, calls: int) -> int:
        call, inputs = prepared.call, prepared.inputs
        clock = time.perf_counter_ns
        with layer_errors(self._torch.OutOfMemoryError), self._torch.inference_mode():
            if self._context == "isolated":
                start = clock()
                for _ in range(calls):
                    call(*inputs)
                return clock() - start
            elapsed = 0
            for _ in range(calls):
                written = [self._written(x) for x in inputs]
                start = clock()
                output = call(*written)
                elapsed += clock() - start
                del output, written
            return elapsed

    def walk(self, places: Sequence[Place], note: Callable[[int], None]) -> None:
        # What is done between two layers is no network's work, and cools the caches: it is settled before the first.
        route = _routed(places)
        clock, written = time.perf_counter_ns, self._written
        outputs: dict[int, torch.Tensor] = {}
        ahead: dict[tuple[int, int], torch.Tensor] = {}
        output = None
        with layer_errors(self._torch.OutOfMemoryError), self._torch.inference_mode():
            for number, (call, sources, fresh, early, done, kept) in enumerate(route):
                # What nobody reads is given back just before the next layer's input is written, as its own would be.
                output = None
                for place, i, x in early:
                    ahead[place, i] = written(x)
                args = [outputs[source] if source >= 0 else None for source in sources]
                for i, x in fresh:
                    args[i] = ahead.pop((number, i), None)
                    if args[i] is None:
                        args[i] = written(x)
                start = clock()
                output = call(*args)
                # A network gives its layers' inputs back too: under 1 % of its time.
                del args
                for source in done:
                    del outputs[source]
                elapsed = clock() - start
                if kept:
                    outputs[number] = output
                note(elapsed)

    def _written(self, x: torch.Tensor) -> torch.Tensor:
        """Return what another layer would have written just before, in memory that was just given back."""
        if x.dtype != self._dtype or not x.numel() or not _is_dense(x):
            return x.clone()
        rows = -(-x.numel() // TILE)
        flat = self._torch.empty(rows * TILE, dtype=x.dtype)
        flat.view(rows, TILE).copy_(self._tile)
        written: torch.Tensor = flat[: x.numel()].as_strided(x.shape, x.stride())
        return written

    def implementation(self, prepared: _Prepared) -> str | None:
        """Return the oneDNN kernels of one call, from the library's own log; ``None`` where oneDNN is not used."""
        torch = self._torch
        if not torch.backends.mkldnn.is_available():
            return None
        with _captured_stdout() as lines, torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            self.run(prepared, 1)
        kernels = []
        for line in lines:
            match = re.search(r"^onednn_verbose,(?:[^,]*,)*?exec,cpu,([^,]+),([^,]+),", line)
            if match and match.group(1) != "reorder":
                kernels.append(f"{match.group(1)} {match.group(2)}")
        return "; ".join(dict.fromkeys(kernels)) or None

    def preemptions_and_faults(self) -> tuple[int, int]:
        return self._disturbances.preemptions_and_faults()

    def stolen_and_throttled(self) -> tuple[int, int]:
        return self._disturbances.stolen_and_throttled()

    def close(self) -> None:
        self._held.clear()
        self._disturbances.close()

    def release(self, prepared: _Prepared) -> None:
        self._recent.pop(id(prepared), None)
        prepared.inputs, prepared.masters, prepared.weights = [], [], []


_CONTEXT_DETAILS: dict[Context, str] = {
    "isolated": "the layer alone; the fastest of a visit's blocks of calls",
    "network": "in its place in a network, or in chains of {chain} layers, inputs just written; the median of a "
    "visit's calls",
}


class _Stop(NamedTuple):
    """What is done at a place: ``fresh`` are inputs that no layer makes, ``early`` those that a later place reads.

    ``sources`` say whose output each input is, below 0 nobody's; ``done``: whose output nobody reads any more;
    ``kept``: whether somebody reads this one's.
    """

    call: Callable[..., torch.Tensor]
    sources: tuple[int, ...]
    fresh: tuple[tuple[int, torch.Tensor], ...]
    early: tuple[tuple[int, int, torch.Tensor], ...]
    done: tuple[int, ...]
    kept: bool


def _routed(places: Sequence[Place]) -> list[_Stop]:
    """Return what is done at each place of a walk."""
    sources: list[tuple[int, ...]] = []
    last: dict[int, int] = {}
    for number, place in enumerate(places):
        found = []
        for i, x in enumerate(place.prepared.inputs):
            source = place.operands[i] if i < len(place.operands) else None
            made = None if source is None else places[source].prepared.makes
            found.append(source if source is not None and made == (x.shape, x.dtype) else -1)
        sources.append(tuple(found))
        last.update((source, number) for source in found if source >= 0)
    done: dict[int, list[int]] = {}
    for source, at in last.items():
        done.setdefault(at, []).append(source)
    fresh = [
        tuple((i, x) for i, x in enumerate(place.prepared.inputs) if sources[number][i] < 0)
        for number, place in enumerate(places)
    ]
    return [
        _Stop(
            call=place.prepared.call,
            sources=sources[number],
            fresh=fresh[number],
            early=tuple((number + BLOCK, i, x) for i, x in fresh[number + BLOCK] if i)
            if number + BLOCK < len(places)
            else (),
            done=tuple(done.get(number, ())),
            kept=number in last,
        )
        for number, place in enumerate(places)
    ]


def _is_dense(x: torch.Tensor) -> bool:
    """Return whether a tensor's elements fill the memory between its first and its last one."""
    return x.is_contiguous() or (x.ndim == 4 and x.permute(0, 2, 3, 1).is_contiguous())


def _compiled(torch: Any, module: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """Return the module as ``torch.compile`` makes it, in a function of its own.

    Compiled code is kept with a function's code object, and every call looks through all that was ever compiled for
    it; ``nn.Sequential.forward`` would soon hold hundreds.
    """

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = module(*inputs)
        return output

    own = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
    compiled: Callable[..., torch.Tensor] = torch.compile(own, fullgraph=True, dynamic=False)
    return compiled


def _compiled_operators(layer: Layer) -> int:
    """Return how many operators of a layer oneDNN may compile kernels for."""
    ops = [node.op for node in layer.nodes]
    calls = [short_name(call.op) for op in ops if isinstance(op, Subgraph) for call in op.calls]
    return sum(isinstance(op, (Conv2d, Linear)) for op in ops) + sum(name.startswith(PRODUCTS) for name in calls)


def _compiler() -> str | None:
    return next((path for name in (os.environ.get("CXX"), "g++", "clang++") if name and (path := which(name))), None)


def _check_options(*, batch: int, dtype: str, threads: int | None, memory_format: str, context: str) -> None:
    """Raise unless the target's options make sense; cheap, and without PyTorch."""
    if batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}")
    check_word("dtype", dtype, DTYPES)
    check_word("memory format", memory_format, MEMORY_FORMATS)
    check_word("context", context, CONTEXTS)
    if threads is not None and not 1 <= threads <= 1024:
        raise UsageError(f"threads must be between 1 and 1024, got {threads}")


def _onednn_version(torch: Any) -> str:
    match = re.search(r"oneDNN[^\n]*v(\d+\.\d+\.\d+)|MKL-DNN v(\d+\.\d+\.\d+)", torch.__config__.show())
    return next((group for group in match.groups() if group), "unknown") if match else "none"


@contextlib.contextmanager
def _captured_stdout() -> Iterator[list[str]]:
    """Collect what C code prints to standard output while the block runs."""
    lines: list[str] = []
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(1)
        try:
            os.dup2(file.fileno(), 1)
            yield lines
        finally:
            libc.fflush(None)
            os.dup2(saved, 1)
            os.close(saved)
        file.seek(0)
        lines.extend(file.read().decode(errors="replace").splitlines())

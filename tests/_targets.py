"""Every target behind one face, so that one suite can ask all of them the same questions.

A rig makes its target, knows how to make the runtime below it fail, and what a prepared layer's data are. What a rig
does to the process is undone when its stack closes.
"""

# Every rig takes what any rig needs.
# ruff: noqa: ARG002

from __future__ import annotations

import contextlib
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from shutil import which
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import pytest
import torch

from lut import Layer
from lut.errors import TargetUnavailableError
from profiler import CpuTarget, _cuda, _modules
from profiler._cuda import CudaTarget
from profiler._fake import FakeTarget
from profiler._target import Target

BATCH = 2


@contextlib.contextmanager
def process_settings() -> Iterator[None]:
    """Undo what targets do to their process, which in a test is that of all other tests."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    threads, openmp = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    cache = os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
        for name, value in (("OMP_NUM_THREADS", openmp), ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", cache)):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if cpus is not None:
            os.sched_setaffinity(0, cpus)


class Comparison(NamedTuple):
    """What a target computed, and what PyTorch computes of the same data."""

    got: torch.Tensor
    expected: torch.Tensor


class CountingClock:
    """A host's clock that stands still but in a program's calls, each of which takes a microsecond."""

    CALL_NS = 1000

    def __init__(self) -> None:
        self.ns = 0

    def read(self) -> int:
        return self.ns

    def timed(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Return the program, that takes its time by this clock."""

        def call(*inputs: Any) -> Any:
            self.ns += self.CALL_NS
            return program(*inputs)

        return call


class Rig:
    """One target in one setting. Abstract."""

    target: ClassVar[str]
    runtime: ClassVar[tuple[str, ...]] = ()
    """Top-level modules whose exceptions the runtime may raise."""
    memory_messages: ClassVar[tuple[str, ...]] = ()
    """How the runtime says that memory is exhausted, for want of an exception of its own."""
    simulated: ClassVar[bool] = False
    refuses_before_trying: ClassVar[bool] = True

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.stack: contextlib.ExitStack

    def __str__(self) -> str:
        return "-".join([self.target, *map(str, self.options.values()), *(["simulated"] if self.simulated else [])])

    def enter(self, patch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
        """Set up what the target needs, or skip by name."""
        del patch
        self.stack = stack

    def make(self, **options: Any) -> Target[Any]:
        """Return the target, closed again when the test ends; skip where it cannot be had."""
        try:
            made = self._make(**{**self.options, **options})
        except TargetUnavailableError as error:
            pytest.skip(str(error))
        self.stack.callback(made.close)
        return made

    def _make(self, **options: Any) -> Target[Any]:
        raise NotImplementedError

    def small(self) -> bool:
        """Whether preparing is so slow that one layer has to do."""
        return False

    def settings(self) -> dict[str, Any]:
        """Return options other than the default, and what the setting must say of them."""
        return {"batch": 3}

    def data(self, target: Any, prepared: Any) -> list[bytes] | None:
        """Return the layer's weights and inputs; ``None`` where there are none."""
        return None

    def set_clock(self, clock: CountingClock, part: Any) -> bool:
        """Have a part's program take its time by the clock, if the target reads the host's; return whether it does."""
        return False

    def compare(self, target: Any, prepared: Any, layer: Layer, seed: int) -> Iterable[Comparison] | None:
        """Run the prepared programs beside PyTorch; ``None`` where nothing is computed here."""
        return None

    def break_prepare(self, patch: pytest.MonkeyPatch, target: Any, error: BaseException) -> None:
        """Make the runtime raise from inside ``prepare``."""
        raise NotImplementedError

    def break_run(self, target: Any, prepared: Any, error: BaseException) -> None:
        """Make the runtime raise from inside the next ``run``."""
        raise NotImplementedError


def _raise(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def _same(layer: Layer, seed: int, dtype: torch.dtype) -> torch.nn.Module:
    """Return the layer as PyTorch has it, with a seed's weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _modules.build_module(layer).to(dtype)


class CpuRig(Rig):
    target = "cpu"
    runtime = ("torch",)
    memory_messages = (
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
        "std::bad_alloc",
    )

    def enter(self, patch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
        super().enter(patch, stack)
        if self.options.get("compile"):
            if not any(which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
                pytest.skip("torch.compile needs a C++ compiler")
            # The compiler's own deprecations are not ours to mend.
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            # Whether each instruction set can be compiled for, and headers for many kernels: half a minute for one.
            config = import_module("torch._inductor.config")
            stack.enter_context(config.patch({"cpp.vec_isa_ok": False, "cpp_cache_precompile_headers": False}))
            import_module("torch._dynamo.exc")
            import_module("torch._inductor.exc")

    def __str__(self) -> str:
        return "cpu-compile" if self.options.get("compile") else super().__str__()

    def _make(self, **options: Any) -> Target[Any]:
        return CpuTarget(**{"batch": BATCH, "threads": 1, **options})

    def small(self) -> bool:
        return bool(self.options.get("compile"))

    def settings(self) -> dict[str, Any]:
        return {"batch": 3, "dtype": "bfloat16", "threads": 1, "memory_format": "channels_last"}

    def data(self, target: Any, prepared: Any) -> list[bytes]:
        held = [*prepared.inputs, *(weight.data for weight in prepared.weights)]
        return [data.contiguous().view(torch.uint8).numpy().tobytes() for data in held]

    def set_clock(self, clock: CountingClock, part: Any) -> bool:
        part.call = clock.timed(part.call)
        return True

    def compare(self, target: Any, prepared: Any, layer: Layer, seed: int) -> Iterable[Comparison]:
        with torch.inference_mode():
            got = prepared.call(*prepared.inputs)
            yield Comparison(got, _same(layer, seed, got.dtype)(*prepared.inputs))

    def break_prepare(self, patch: pytest.MonkeyPatch, target: Any, error: BaseException) -> None:
        patch.setattr(_modules, "build_module", _raise(error))

    def break_run(self, target: Any, prepared: Any, error: BaseException) -> None:
        prepared.call = _raise(error)


class OnnxRig(Rig):
    target = "onnx"
    runtime = ("onnxruntime", "onnx", "torch", "numpy", "google")
    memory_messages = (
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 9",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc",
        "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc(&p, size)",
    )

    def enter(self, patch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
        super().enter(patch, stack)
        for name in ("onnx", "onnxruntime"):
            pytest.importorskip(name, reason=f"needs {name}: the extra onnx")

    def _make(self, **options: Any) -> Target[Any]:
        from profiler._onnx import OnnxTarget

        return OnnxTarget(**{"batch": BATCH, "threads": 1, **options})

    def settings(self) -> dict[str, Any]:
        return {"batch": 3, "dtype": "float16", "threads": 1, "provider": "cpu", "spinning": "off"}

    def data(self, target: Any, prepared: Any) -> list[bytes]:
        programs = [part.prepared for part in target.parts(prepared)]
        return [data for program in programs for data in (program.model, *(x.tobytes() for _, x in program.inputs))]

    def set_clock(self, clock: CountingClock, part: Any) -> bool:
        part.session = SimpleNamespace(run_with_iobinding=clock.timed(part.session.run_with_iobinding))
        return True

    def compare(self, target: Any, prepared: Any, layer: Layer, seed: int) -> Iterable[Comparison]:
        from profiler._onnx._graph import module_of
        from profiler._onnx._programs import lone, marginal

        network = target.describe()[1].context == "network"
        programs = [each.program for each in marginal(layer, seed)] if network else [lone(layer, seed)]
        for program, part in zip(programs, target.parts(prepared), strict=True):
            target.run(part.prepared, 1)
            inputs = [torch.from_numpy(x) for _, x in part.prepared.inputs]
            with torch.inference_mode():
                expected = module_of(program, inputs[0].dtype)(*inputs)
            for value, wanted in zip(part.prepared.outputs, expected, strict=True):
                yield Comparison(torch.from_numpy(value.numpy().copy()), wanted)

    def break_prepare(self, patch: pytest.MonkeyPatch, target: Any, error: BaseException) -> None:
        patch.setattr(target._ort, "InferenceSession", _raise(error))

    def break_run(self, target: Any, prepared: Any, error: BaseException) -> None:
        class Session:
            run_with_iobinding = staticmethod(_raise(error))

        for part in target.parts(prepared):
            part.prepared.session = Session()


class FakeRig(Rig):
    target = "fake"
    simulated = True
    refuses_before_trying = False

    def __str__(self) -> str:
        return "fake"

    def _make(self, **options: Any) -> Target[Any]:
        return FakeTarget(**{"batch": BATCH, "sigma": 0.0, **options})

    def settings(self) -> dict[str, Any]:
        return {"batch": 3, "dtype": "float16", "threads": 5, "memory_format": "channels_last"}


class CudaRig(Rig):
    """A GPU; ``simulated`` ones are that of the target's own tests."""

    target = "cuda"
    runtime = ("torch",)
    memory_messages = (
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
    )

    def enter(self, patch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
        super().enter(patch, stack)
        # Every test makes a target, and waits for a steady clock only where it times.
        patch.setattr(_cuda, "SPIN_MS", 5.0)

    def __str__(self) -> str:
        return super().__str__() if self.simulated else f"{super().__str__()}-real"

    def _make(self, **options: Any) -> Target[Any]:
        # What is computed is compared with the CPU's, which knows no TF32.
        return CudaTarget(**{"batch": BATCH, "tf32": "off", **options})

    def settings(self) -> dict[str, Any]:
        return {"batch": 3, "dtype": "bfloat16", "memory_format": "channels_last", "tf32": "on"}

    def data(self, target: Any, prepared: Any) -> list[bytes]:
        target.run(prepared, 1)
        copy = target._live.one.copies[0]
        return [x.contiguous().cpu().view(torch.uint8).numpy().tobytes() for x in (*copy.weights, *copy.inputs)]

    def compare(self, target: Any, prepared: Any, layer: Layer, seed: int) -> Iterable[Comparison]:
        target.run(prepared, 1)
        one = target._live.one
        (copy,), (output,) = one.copies, one.outputs
        with torch.inference_mode():
            expected = _same(layer, seed, output.dtype)(*(x.cpu() for x in copy.inputs))
        yield Comparison(output.cpu(), expected)

    def break_prepare(self, patch: pytest.MonkeyPatch, target: Any, error: BaseException) -> None:
        patch.setattr(_modules, "build_module", _raise(error))

    def break_run(self, target: Any, prepared: Any, error: BaseException) -> None:
        driver = target._driver
        # The first that a visit does on a GPU: capturing thousands of calls for each error would take minutes.
        name = "synchronize" if self.simulated else "warm_up"
        whole = getattr(driver, name)

        def once(*_: object) -> None:
            setattr(driver, name, whole)
            raise error

        setattr(driver, name, once)


class SimulatedCudaRig(CudaRig):
    simulated = True

    def enter(self, patch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
        super().enter(patch, stack)
        from test_cuda_target import Gpu

        gpu = Gpu()
        patch.setattr(_cuda, "open_driver", lambda *_, **__: gpu)
        torch.set_num_threads(1)
        stack.enter_context(gpu.mode)


class CoremlRig(Rig):
    """Core ML on a Mac."""

    target = "coreml"
    refuses_before_trying = False

    def __str__(self) -> str:
        return super().__str__() if self.simulated else f"{super().__str__()}-real"

    def _make(self, **options: Any) -> Target[Any]:
        from profiler._coreml import CoremlTarget

        return CoremlTarget(**{"batch": BATCH, **options})

    def settings(self) -> dict[str, Any]:
        return {"batch": 3, "dtype": "float32", "compute_units": "CPU_ONLY"}

    def data(self, target: Any, prepared: Any) -> list[bytes]:
        programs = [part.prepared for part in target.parts(prepared)]
        return [x for p in programs for x in (p.program.made_from.encode(), *(v.tobytes() for v in p.feed.values()))]

    def break_prepare(self, patch: pytest.MonkeyPatch, target: Any, error: BaseException) -> None:
        patch.setattr(target._coremltools.models, "MLModel", _raise(error))

    def break_run(self, target: Any, prepared: Any, error: BaseException) -> None:
        class Model:
            predict = staticmethod(_raise(error))

        for part in target.parts(prepared):
            part.prepared.model = Model()


class SimulatedCoremlRig(CoremlRig):
    simulated = True

    def enter(self, patch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
        super().enter(patch, stack)
        from test_coreml_target import StandIn, converted

        from profiler._coreml import _convert, _target

        stand_in = StandIn()
        patch.setattr(platform, "system", lambda: "Darwin")
        patch.setattr(_convert, "check_installed", lambda: None)
        patch.setattr(_convert, "import_coremltools", lambda: stand_in)
        patch.setattr(_convert, "convert_program", converted)
        patch.setattr(_convert, "versions", lambda: {"coremltools": "9.0"})
        patch.setattr(_target, "_output", lambda *_: "")
        # A collection for every model that is unloaded takes a tenth of a second here, and frees nothing.
        patch.setattr(_target, "gc", SimpleNamespace(collect=lambda: 0))


RIGS: tuple[Rig, ...] = (
    CpuRig(context="network"),
    CpuRig(context="isolated"),
    CpuRig(context="isolated", compile=True),
    OnnxRig(context="network"),
    OnnxRig(context="isolated"),
    FakeRig(),
    *(SimulatedCudaRig(mode=mode) for mode in ("device-cold", "device-warm", "host")),
    *(CudaRig(mode=mode) for mode in ("device-cold", "device-warm", "host")),
    *(SimulatedCoremlRig(context=context) for context in ("network", "isolated")),
    *(CoremlRig(context=context) for context in ("network", "isolated")),
)


def every_exception(roots: Sequence[str]) -> list[type[Exception]]:
    """Return all exceptions that Python itself and these top-level modules have defined so far, found by looking."""
    found: set[type[BaseException]] = set()
    waiting: list[type[BaseException]] = [Exception]
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found.add(kind)
            waiting += type.__subclasses__(kind)
    wanted = {"builtins", *roots}
    return sorted(
        (kind for kind in found if issubclass(kind, Exception) and kind.__module__.partition(".")[0] in wanted),
        key=lambda kind: (kind.__module__, kind.__qualname__),
    )


def example(kind: type[Exception]) -> Exception | None:
    """Return an exception of this class; ``None`` where nobody could make one without its own arguments."""
    for make in (lambda: kind("injected"), lambda: kind("injected", [ValueError()]), lambda: kind.__new__(kind)):  # type: ignore[call-arg]
        with contextlib.suppress(Exception):
            made = make()
            str(made)
            # A frozen dataclass cannot be raised through a context manager by anybody.
            return made.with_traceback(None) if _settable(made) else None
    return None


def _settable(error: Exception) -> bool:
    error.__traceback__ = None
    return True


def resident_bytes() -> int:
    """Return the memory that this process holds; skip where the system does not tell."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc to read the process's memory")
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

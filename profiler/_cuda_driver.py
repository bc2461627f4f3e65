"""All contact with a CUDA device, behind one small class, so that the target ``cuda`` can be tested without one."""

from __future__ import annotations

import ctypes
import gc
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, final

from lut import UsageError
from lut.errors import TargetUnavailableError

if TYPE_CHECKING:
    import torch

__all__ = ["Clock", "Driver", "Facts", "TorchDriver", "first_line", "is_out_of_memory", "open_driver"]

# NVML's bits for a clock that the hardware pulled down: slowdown, thermal slowdown, power brake. The software's power
# cap (0x4) is no slowdown: a busy GPU runs at it all day.
HARDWARE_SLOWDOWN = 0x08 | 0x40 | 0x80
NVML_CLOCK_SM = 1
SPIN_SIZE = 2048


class Facts(NamedTuple):
    """What a device is: ``l2_bytes`` is 0 where the runtime does not tell, ``details`` go into the table unchanged."""

    model: str
    architecture: str
    multiprocessors: int
    l2_bytes: int
    memory_bytes: int
    details: dict[str, str]


class Clock(NamedTuple):
    """One reading of the clock of the multiprocessors, and whether the hardware holds it down."""

    sm_mhz: float
    slowdown: bool


class Driver(ABC):
    """A CUDA device as the target sees it: a queue of work, graphs of work, events in the queue, and a clock.

    Work is issued by calling PyTorch on tensors of ``device`` and runs later; only :meth:`synchronize` waits for it.
    """

    device: torch.device
    facts: Facts

    @abstractmethod
    def free_bytes(self) -> int:
        """Return how much device memory can still be allocated."""

    @abstractmethod
    def warm_up(self, body: Callable[[], None]) -> None:
        """Issue the work once on the stream that graphs are captured on, and wait: libraries choose kernels now."""

    @abstractmethod
    def capture(self, body: Callable[[], None], *, beside: Any = None) -> Any:
        """Record the work that ``body`` issues as a graph, without running it; a warm-up must have come before.

        ``beside`` is a graph to share memory with: the two must never run at the same time.
        """

    @abstractmethod
    def count_nodes(self, body: Callable[[], None]) -> int | None:
        """Return how many nodes the work that ``body`` issues makes in a graph, ``None`` where nobody tells."""

    @abstractmethod
    def replay(self, graph: Any) -> None:
        """Issue a graph's work."""

    @abstractmethod
    def record(self) -> Any:
        """Issue an event: it happens when the work issued before it is done."""

    @abstractmethod
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two events; an error unless both have happened."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work is done."""

    @abstractmethod
    def host_clock_ns(self) -> int:
        """Return the nanoseconds of the host's monotonic clock."""

    @abstractmethod
    def read_clock(self) -> Clock | None:
        """Return the device's clock now, ``None`` where it cannot be read."""

    @abstractmethod
    def kernels(self, body: Callable[[], None]) -> list[str]:
        """Return the names of the kernels that the work runs, in order."""

    @abstractmethod
    def spin(self, ms: float) -> None:
        """Keep the device busy for about ``ms`` milliseconds, and wait."""

    @abstractmethod
    def trim(self) -> None:
        """Give unused device memory back."""

    @abstractmethod
    def healthy(self) -> bool:
        """Return whether the device still runs work in this process.

        After an illegal address and its like, every later call of the process fails, whatever it asks for.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what the driver holds."""


def check_gpu(index: int) -> None:
    """Raise where there is no GPU with this number, among those that the process may see.

    Raises:
        TargetUnavailableError: PyTorch is built without CUDA, there is no driver, or no GPU can be used.
        UsageError: there are fewer GPUs.
    """
    import torch

    if torch.version.hip is not None:
        raise TargetUnavailableError("target cuda measures NVIDIA GPUs, and this PyTorch is built for AMD's (ROCm)")
    if torch.version.cuda is None:
        raise TargetUnavailableError(
            f"target cuda needs a PyTorch that is built with CUDA, and torch {torch.__version__} is not: "
            "install one as https://pytorch.org/get-started/locally/ says"
        )
    with warnings.catch_warnings(record=True) as caught:
        # PyTorch tells by a warning why it finds no GPU: no driver, one too old, none visible.
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        told = first_line(caught[0].message) if caught else "no GPU is visible to this process"
        raise TargetUnavailableError(
            f"target cuda found no usable GPU: {told}; see what nvidia-smi says and what CUDA_VISIBLE_DEVICES hides"
        )
    if index >= count:
        raise UsageError(f"device {index} was asked for, and there are {count} GPUs (numbered from 0)")


def open_driver(index: int, *, tf32: bool) -> Driver:
    """Return the driver of the GPU with this number, among those that the process may see.

    Raises:
        TargetUnavailableError: PyTorch is built without CUDA, there is no driver, or no GPU can be used.
        UsageError: there are fewer GPUs.
    """
    check_gpu(index)
    try:
        return TorchDriver(index, tf32=tf32)
    except RuntimeError as error:
        raise TargetUnavailableError(
            f"target cuda cannot use GPU {index}: {first_line(error)}; see what nvidia-smi says"
        ) from error


def first_line(error: object) -> str:
    """Return the first line of an error's message: CUDA's go on with advice on debugging."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on the device or the host."""
    import torch

    # cuBLAS, cuDNN and the graphs allocate by themselves, and say it in their own words.
    text = str(error)
    return (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or "out of memory" in text
        or "ALLOC_FAILED" in text
        or "not enough memory" in text
    )


@final
class TorchDriver(Driver):
    """The real one, through ``torch.cuda``. It sets PyTorch's flags for the whole process.

    Args:
        index: the GPU's number.
        tf32: whether float32 convolutions and matrix products may use TF32.
    """

    def __init__(self, index: int, *, tf32: bool) -> None:
        import torch

        self._torch = torch
        self.device = torch.device("cuda", index)
        torch.cuda.set_device(self.device)
        # The autotuner picks by a few noisy timings: another kernel in another process, and a step in the table.
        torch.backends.cudnn.benchmark = False
        self._set_tf32(tf32)
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._nvml, self._handle, clocks = _open_nvml(index, torch.cuda.get_device_properties(self.device))
        properties = torch.cuda.get_device_properties(self.device)
        self.facts = Facts(
            model=properties.name,
            architecture=f"sm_{properties.major}{properties.minor}",
            multiprocessors=properties.multi_processor_count,
            # Since torch 2.5.
            l2_bytes=int(getattr(properties, "L2_cache_size", 0)),
            memory_bytes=properties.total_memory,
            details={
                "cuda": str(torch.version.cuda),
                "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
                "driver": self._driver_version(),
                "cudnn.benchmark": str(torch.backends.cudnn.benchmark).lower(),
                "cudnn.deterministic": str(torch.backends.cudnn.deterministic).lower(),
                "clocks": clocks,
            },
        )

    def _set_tf32(self, on: bool) -> None:
        backends = self._torch.backends
        if hasattr(backends.cuda.matmul, "fp32_precision"):
            # Since torch 2.9; the older flags must not be mixed with it.
            precision = "tf32" if on else "ieee"
            backends.cuda.matmul.fp32_precision = precision
            backends.cudnn.conv.fp32_precision = precision
        else:
            backends.cuda.matmul.allow_tf32 = on
            backends.cudnn.allow_tf32 = on

    def _driver_version(self) -> str:
        if self._nvml is not None:
            try:
                version = self._nvml.nvmlSystemGetDriverVersion()
            except self._nvml.NVMLError:
                return "not told"
            return version.decode() if isinstance(version, bytes) else str(version)
        return "not read: needs nvidia-ml-py"

    def free_bytes(self) -> int:
        free, _ = self._torch.cuda.mem_get_info(self.device)
        # What PyTorch's allocator keeps and nobody uses can be allocated, too.
        kept = self._torch.cuda.memory_reserved(self.device) - self._torch.cuda.memory_allocated(self.device)
        return int(free + kept)

    def warm_up(self, body: Callable[[], None]) -> None:
        cuda = self._torch.cuda
        self._stream.wait_stream(cuda.current_stream(self.device))
        with cuda.stream(self._stream):
            body()
        cuda.current_stream(self.device).wait_stream(self._stream)
        cuda.synchronize(self.device)

    def capture(self, body: Callable[[], None], *, beside: torch.cuda.CUDAGraph | None = None) -> torch.cuda.CUDAGraph:
        graph = self._torch.cuda.CUDAGraph()
        self._capture_into(graph, body, beside)
        return graph

    def _capture_into(
        self, graph: torch.cuda.CUDAGraph, body: Callable[[], None], beside: torch.cuda.CUDAGraph | None = None
    ) -> None:
        pool = None if beside is None else beside.pool()
        # A collection during the capture could free tensors of another graph, which no capture survives.
        collecting = gc.isenabled()
        gc.disable()
        try:
            with self._torch.cuda.graph(graph, pool=pool, stream=self._stream):
                body()
        finally:
            if collecting:
                gc.enable()

    def count_nodes(self, body: Callable[[], None]) -> int | None:
        # A graph of its own, which is never run: PyTorch shows the nodes of such graphs only that it was asked to keep.
        try:
            graph = self._torch.cuda.CUDAGraph(keep_graph=True)
        except TypeError:
            # Before torch 2.8.
            return None
        self._capture_into(graph, body)
        try:
            return _nodes_of(graph.raw_cuda_graph())
        except (AttributeError, OSError, RuntimeError):
            return None

    def replay(self, graph: torch.cuda.CUDAGraph) -> None:
        graph.replay()

    def record(self) -> torch.cuda.Event:
        event = self._torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._torch.cuda.current_stream(self.device))
        return event

    def elapsed_ms(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return float(start.elapsed_time(end))

    def synchronize(self) -> None:
        self._torch.cuda.synchronize(self.device)

    def host_clock_ns(self) -> int:
        return time.perf_counter_ns()

    def read_clock(self) -> Clock | None:
        nvml = self._nvml
        if nvml is None:
            return None
        try:
            mhz = float(nvml.nvmlDeviceGetClockInfo(self._handle, NVML_CLOCK_SM))
        except nvml.NVMLError:
            return None
        # The name since driver 535, and the one before.
        read = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        read = read or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        try:
            reasons = int(read(self._handle))
        except nvml.NVMLError:
            reasons = 0
        return Clock(mhz, bool(reasons & HARDWARE_SLOWDOWN)) if mhz > 0 else None

    def kernels(self, body: Callable[[], None]) -> list[str]:
        from torch.profiler import ProfilerActivity, profile

        with warnings.catch_warnings():
            # Without the rights to CUPTI the profiler warns and sees nothing; then the kernel is not named.
            warnings.simplefilter("ignore")
            with profile(activities=[ProfilerActivity.CUDA]) as profiled:
                body()
                self.synchronize()
            events = profiled.events() or []
        return [
            event.name
            for event in events
            if event.device_type.name == "CUDA" and not event.name.startswith(("Memcpy", "Memset"))
        ]

    def spin(self, ms: float) -> None:
        torch = self._torch
        x = torch.randn(SPIN_SIZE, SPIN_SIZE, device=self.device)
        until = time.perf_counter() + ms / 1e3
        while time.perf_counter() < until:
            for _ in range(8):
                torch.mm(x, x)
            self.synchronize()

    def trim(self) -> None:
        self._torch.cuda.empty_cache()

    def healthy(self) -> bool:
        try:
            self.synchronize()
            self._torch.zeros(1, device=self.device).add_(1).item()
        except RuntimeError as error:
            return is_out_of_memory(error)
        return True

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None


def _nodes_of(graph: int) -> int | None:
    """Return the number of nodes of a ``CUgraph``, asked of the driver's own library."""
    library = ctypes.CDLL("libcuda.so.1")
    count = ctypes.c_size_t(0)
    library.cuGraphGetNodes.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)]
    failed = library.cuGraphGetNodes(graph, None, ctypes.byref(count))
    return None if failed else count.value


def _open_nvml(index: int, properties: Any) -> tuple[Any, Any, str]:
    """Return (library, device handle, note); library and handle are ``None`` where the clocks cannot be read."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None, None, "not read: pip install nvidia-ml-py"
    try:
        nvml.nvmlInit()
        # NVML counts all GPUs of the machine, CUDA those that CUDA_VISIBLE_DEVICES leaves, in its own order.
        uuid = getattr(properties, "uuid", None)
        if uuid is not None:
            handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        elif "CUDA_VISIBLE_DEVICES" not in os.environ and nvml.nvmlDeviceGetCount() == 1:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        else:
            return None, None, "not read: this torch does not tell which of the machine's GPUs it uses"
        nvml.nvmlDeviceGetClockInfo(handle, NVML_CLOCK_SM)
    except nvml.NVMLError as error:
        return None, None, f"not read: {first_line(error)}"
    return nvml, handle, "read through NVML during every block"

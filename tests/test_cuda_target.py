"""The CUDA target's decisions, on a simulated GPU with a clock, a queue and a cache; and on a real one where there is.

The simulation is of physics, not of the target: whatever PyTorch runs becomes a kernel that takes longer for bytes
which are not in an LRU cache, the host runs ahead of the device, an event that has not happened cannot be read. A
target that fails to rotate its buffers, to wait, or to divide by the right number of calls gets the wrong number.
"""

from __future__ import annotations

import random
import subprocess
import sys
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import conv, curve_of, simulate
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from lut import Layer, Network, NetworkLayer, UsageError, chain, conv_norm_act, linear, residual_add
from lut.errors import LayerFailedError, ProfileError, TargetUnavailableError
from lut.primitives import Activation, Flatten
from profiler import _cuda, _cuda_driver
from profiler._cuda import CudaTarget
from profiler._cuda_driver import Clock, Driver, Facts, TorchDriver
from profiler._plan import make_protocol
from profiler._run import protocol_for
from profiler._sources import FactorySource, FileSource, LayersSource
from profiler._target import TargetSpec
from profiler._visit import Visitor

KERNEL_NS = 1500.0
HIT_NS, MISS_NS = 0.05, 0.5
GRAPH_GAP_NS = 4000.0
FIRST_LAUNCH_NS = 300_000.0
DEADLY_NODES = 2500
NO_KERNELS = ("empty", "view", "as_strided", "expand", "detach", "alias", "unbind", "slice", "select", "flatten")

Kernel = tuple[tuple[int, int], ...]


class Gpu(Driver):
    """A simulated GPU; its memory is the host's, so that real modules run and real addresses are seen."""

    def __init__(self, *, l2_bytes: int = 1 << 16, free: int = 1 << 34, launch_ns: float = 6000.0) -> None:
        self.device = torch.device("cpu")
        self.facts = Facts("NVIDIA Simulated", "sm_90", 132, l2_bytes, 80 << 30, {"driver": "none"})
        self.free = free
        self.launch_ns = launch_ns
        self.clock: Clock | None = Clock(1980.0, slowdown=False)
        self.host_ns = 0.0
        self.device_ns = 0.0
        self.cache: OrderedDict[int, int] = OrderedDict()
        self.capturing: list[Kernel] | None = None
        self.warm: set[str] = set()
        self.graphs: list[list[Kernel]] = []
        self.launched: list[list[Kernel]] = []
        self.counts = True
        self.replays = self.syncs = self.trims = self.spins = 0
        self.busy_readings: list[bool] = []
        self.trouble: dict[str, Exception] = {}
        self.dead = False
        # What a kernel writes lies where the latest freed block of that size did, as with PyTorch's allocator.
        self.blocks: dict[int, int] = {}
        self.freed: dict[int, list[int]] = {}
        self.mode = _Kernels(self)

    def place(self, tensor: torch.Tensor) -> None:
        """Give a new tensor a place in the simulated memory, until it dies."""
        size, address = _bytes(tensor), tensor.data_ptr()
        spare = self.freed.setdefault(size, [])
        self.blocks[address] = block = spare.pop() if spare else -1 - sum(map(len, (self.blocks, *self.freed.values())))

        def free() -> None:
            if self.blocks.pop(address, None) is not None:
                spare.append(block)

        weakref.finalize(tensor, free).atexit = False

    def _check(self, what: str) -> None:
        if self.dead:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if what in self.trouble:
            raise self.trouble.pop(what)

    def cost_ns(self, kernel: Kernel) -> float:
        """Return how long a kernel takes, and leave what it touched in the cache."""
        total = KERNEL_NS
        for address, size in kernel:
            total += size * (HIT_NS if self.cache.get(address, 0) >= size else MISS_NS)
            self.cache[address] = size
            self.cache.move_to_end(address)
        while sum(self.cache.values()) > self.facts.l2_bytes:
            self.cache.popitem(last=False)
        return total

    def issue(self, name: str, kernel: Kernel) -> None:
        if self.capturing is not None:
            if name not in self.warm:
                raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
            self._check("capture")
            self.capturing.append(kernel)
            return
        self._check("kernel")
        self.warm.add(name)
        self.host_ns += self.launch_ns
        self.device_ns = max(self.host_ns, self.device_ns) + self.cost_ns(kernel)

    def free_bytes(self) -> int:
        return self.free

    def warm_up(self, body: Callable[[], None]) -> None:
        body()
        self.synchronize()

    def capture(self, body: Callable[[], None], *, beside: list[Kernel] | None = None) -> list[Kernel]:
        assert beside is None or any(beside is graph for graph in self.graphs)
        graph = self._captured(body)
        assert len(graph) <= DEADLY_NODES, "some drivers die of such a graph"
        self.graphs.append(graph)
        return graph

    def _captured(self, body: Callable[[], None]) -> list[Kernel]:
        self.capturing = []
        try:
            body()
            return self.capturing
        finally:
            self.capturing = None

    def count_nodes(self, body: Callable[[], None]) -> int | None:
        return len(self._captured(body)) if self.counts else None

    def replay(self, graph: list[Kernel]) -> None:
        self._check("replay")
        self.replays += 1
        self.host_ns += self.launch_ns
        self.device_ns = max(self.host_ns, self.device_ns) + GRAPH_GAP_NS
        if not any(graph is seen for seen in self.launched):
            self.launched.append(graph)
            self.device_ns += FIRST_LAUNCH_NS
        for kernel in graph:
            self.device_ns += self.cost_ns(kernel)

    def record(self) -> float:
        return max(self.host_ns, self.device_ns)

    def elapsed_ms(self, start: float, end: float) -> float:
        if max(start, end) > self.host_ns:
            raise RuntimeError("CUDA error: device not ready")
        return (end - start) / 1e6

    def synchronize(self) -> None:
        self._check("synchronize")
        assert self.capturing is None
        self.syncs += 1
        self.host_ns = max(self.host_ns, self.device_ns)

    def host_clock_ns(self) -> int:
        return round(self.host_ns)

    def read_clock(self) -> Clock | None:
        self.busy_readings.append(self.device_ns > self.host_ns)
        return self.clock

    def kernels(self, body: Callable[[], None]) -> list[str]:
        self._check("profiler")
        body()
        return ["void fprop_kernel<float, 3>(Params)", "void relu(float*)", "void relu(float*)", "x" * 500]

    def spin(self, ms: float) -> None:
        self.spins += 1
        self.host_ns += ms * 1e6

    def trim(self) -> None:
        self._check("trim")
        self.trims += 1

    def healthy(self) -> bool:
        return not self.dead

    def close(self) -> None:
        pass


class _Kernels(TorchDispatchMode):
    """Turns every operation of PyTorch into a kernel of the simulated GPU."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func).removeprefix("aten.").split(".")[0]
        if isinstance(result, torch.Tensor) and name not in NO_KERNELS:
            read = {x.data_ptr(): x for x in args if isinstance(x, torch.Tensor)}
            if result.data_ptr() not in read:
                self.gpu.place(result)
            touched = {**read, result.data_ptr(): result}
            blocks = self.gpu.blocks
            self.gpu.issue(name, tuple((blocks.get(address, address), _bytes(x)) for address, x in touched.items()))
        return result


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Give a simulated GPU in the place of the real ones."""
    made = Gpu()
    monkeypatch.setattr(_cuda, "open_driver", lambda *_, **__: made)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the layers are tiny
    with made.mode:
        yield made
    torch.set_num_threads(threads)


def relu(channels: int, size: int) -> Layer:
    """Return a layer of one kernel that reads its input and writes as much."""
    return chain((channels, size, size), Activation(kind="relu"))


def touched_bytes(layer: Layer, batch: int) -> int:
    """Return the bytes of a layer of one kernel: all its buffers."""
    return layer.bytes_moved(batch=batch, bytes_per_element=4)


SMALL = relu(4, 16)  # 16 KiB a call at batch 2, a quarter of the simulated cache


@pytest.mark.parametrize("layer", [SMALL, relu(1, 8), linear(64, 40, bias=True)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_warm_is_the_latency_of_calls_that_find_all_in_the_cache(gpu: Gpu, layer: Layer, batch: int) -> None:
    target = CudaTarget(batch=batch, mode="device-warm")
    prepared = target.prepare(layer, 0)
    expected = KERNEL_NS + HIT_NS * touched_bytes(layer, batch)
    for calls in (1, 7, 1000, 5000):
        assert target.run(prepared, calls) / calls == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("layer", [SMALL, relu(1, 8), relu(16, 64), linear(64, 40, bias=True)], ids=str)
@pytest.mark.parametrize("l2_bytes", [1 << 13, 1 << 16])
def test_cold_is_the_latency_of_calls_that_find_nothing_in_the_cache(gpu: Gpu, layer: Layer, l2_bytes: int) -> None:
    gpu.facts = gpu.facts._replace(l2_bytes=l2_bytes)
    target = CudaTarget(batch=2)
    prepared = target.prepare(layer, 0)
    expected = KERNEL_NS + MISS_NS * touched_bytes(layer, 2)
    for calls in (1, 100, 1001):
        assert target.run(prepared, calls) / calls == pytest.approx(expected, rel=0.01)
    distinct = dict(buffer for kernel in gpu.graphs[-1] for buffer in kernel)
    assert sum(distinct.values()) >= 3 * l2_bytes


def test_cold_of_many_copies_takes_turns_between_graphs(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """However blocks end, a copy comes again only after three times the cache: the turns go on where they stopped."""
    monkeypatch.setattr(_cuda, "MOST_NODES", 100)
    target = CudaTarget(batch=2)
    layer = relu(1, 8)
    prepared = target.prepare(layer, 0)
    expected = KERNEL_NS + MISS_NS * touched_bytes(layer, 2)
    for calls in (1, 1, 150, 1000, 1):
        # Between two graphs there is a gap, of a fiftieth of what these small ones take.
        assert expected <= target.run(prepared, calls) / calls <= 1.025 * expected
    facts = target.graph_facts(prepared)["device-cold"]
    assert facts.graphs == 2
    assert facts.copies == facts.calls == 192
    assert facts.counted
    assert facts.nodes_per_call == 1
    assert facts.largest_graph_nodes == 96
    assert facts.touched_bytes >= 3 * facts.l2_bytes == 3 << 16
    assert [len(graph) for graph in gpu.graphs[-2:]] == [96, 96]
    target.release(prepared)
    assert target.graph_facts(prepared) == {}


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("mode", ["device-cold", "device-warm"])
def test_no_graph_is_larger_than_drivers_bear(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, mode: str, counts: bool
) -> None:
    """Layers are of several kernels; where the driver does not tell how many, an operator counts as one."""
    assert 500 <= _cuda.MOST_NODES <= 4000
    gpu.counts = counts
    monkeypatch.setattr(_cuda, "MOST_NODES", 20)
    target = CudaTarget(batch=2, mode=mode)
    for layer in (conv(4, channels=2, size=8), residual_add(4, activation="relu", input_size=(8, 8)), SMALL):
        prepared = target.prepare(layer, 0)
        gpu.graphs.clear()
        target.run(prepared, 300)
        facts = target.graph_facts(prepared)[mode]
        assert facts.counted == counts
        assert facts.largest_graph_nodes <= max(map(len, gpu.graphs)) <= 20
        if mode == "device-cold":
            assert facts.graphs > 1 or layer is SMALL
            assert facts.touched_bytes >= 3 * gpu.facts.l2_bytes


def test_a_call_of_many_kernels_is_one_graph(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "MOST_NODES", 2)
    target = CudaTarget(batch=2)
    prepared = target.prepare(conv(8, size=8), 0)
    assert target.run(prepared, 10) > 0
    assert {len(graph) for graph in gpu.graphs} == {3}


def test_what_no_device_holds_is_refused_before_the_host_makes_it(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: object) -> Any:
        raise AssertionError("it was tried")

    monkeypatch.setattr("profiler._modules.build_module", made)
    target = CudaTarget(batch=2)
    for layer in (relu(4096, 4096), linear(1 << 20, 1 << 20, bias=False)):
        with pytest.raises(LayerFailedError, match=r"the GPU has 80\.0 GiB") as caught:
            target.prepare(layer, 0)
        assert caught.value.reason == "out_of_memory"


@pytest.mark.parametrize("quick", [True, False])
def test_three_processes_visit_every_layer_that_is_known_well_enough(quick: bool) -> None:
    """A process has a luck of its own, which an interval of one or two processes does not know."""
    wanted = protocol_for(TargetSpec("profiler:CudaTarget", {}), make_protocol(quick=quick))
    plan, result, _ = simulate(
        curve_of(range(4, 16)).layers,
        sigma=0.002,
        protocol={"rounds_per_process": wanted.rounds_per_process, "most_processes": wanted.most_processes},
    )
    seen: dict[int, set[int]] = {}
    for visit in result.visits:
        seen.setdefault(visit.entry, set()).add(visit.process)
    assert min(len(seen[entry]) for entry in range(len(plan.entries))) >= 3
    # Quiet layers are done at the first look: no more processes are started than it takes.
    assert result.processes == 3
    others = make_protocol(quick=quick)
    assert protocol_for(TargetSpec("profiler:CpuTarget", {}), others) == others


def test_cold_exchanges_weights_inputs_and_outputs(gpu: Gpu) -> None:
    layer = linear(64, 40, bias=True)
    target = CudaTarget(batch=2)
    target.run(target.prepare(layer, 0), 1)
    kernels = gpu.graphs[-1]
    copies = len({kernel[0] for kernel in kernels})
    assert copies >= 3 * gpu.facts.l2_bytes / touched_bytes(layer, 2)
    for buffer in range(4):  # input, weight, bias, output
        addresses = [kernel[buffer][0] for kernel in kernels]
        assert len(set(addresses)) == copies
        # No buffer is used again before all the others were.
        assert all(len(set(addresses[i : i + copies])) == copies for i in range(len(addresses) - copies + 1))


def test_a_cold_call_is_never_reached_by_one_large_copy(gpu: Gpu) -> None:
    """A weight is used until its call ends: with one copy only, the next call would find it in the cache."""
    layer = conv_norm_act(8, 8, kernel_size=3, stride=1, activation=None, input_size=(64, 64))
    target = CudaTarget(batch=8)
    target.run(target.prepare(layer, 0), 1)
    weights = {kernel[1][0] for kernel in gpu.graphs[-1] if len(kernel) == 3}
    assert len(weights) >= 2


def test_cold_that_does_not_fit_into_memory_is_a_failure_not_a_warm_number(gpu: Gpu) -> None:
    gpu.free = 1 << 20
    target = CudaTarget(batch=2)
    prepared = target.prepare(relu(64, 32), 0)
    with pytest.raises(LayerFailedError, match="GiB are free") as caught:
        target.run(prepared, 1)
    assert caught.value.reason == "out_of_memory"


def test_cold_of_a_tiny_layer_is_a_failure_not_a_warm_number(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "MOST_COPIES", 5)
    target = CudaTarget(batch=2)
    with pytest.raises(LayerFailedError, match="mode device-warm") as caught:
        target.run(target.prepare(SMALL, 0), 1)
    assert caught.value.reason == "error"


def test_cold_is_judged_by_the_buffers_that_calls_really_touch(gpu: Gpu) -> None:
    """Flattening writes nothing: its output is its input, and the bytes that were planned are not there."""
    target = CudaTarget(batch=2)
    with pytest.raises(LayerFailedError, match="would not be cold"):
        target.run(target.prepare(chain((4, 16, 16), Flatten()), 0), 1)


def test_cold_needs_to_know_the_cache(gpu: Gpu) -> None:
    gpu.facts = gpu.facts._replace(l2_bytes=0)
    target = CudaTarget(batch=2)
    with pytest.raises(LayerFailedError, match="L2"):
        target.run(target.prepare(SMALL, 0), 1)


@pytest.mark.parametrize("mode", ["device-cold", "device-warm"])
def test_a_slow_host_does_not_enter_the_devices_time(gpu: Gpu, mode: str) -> None:
    target = CudaTarget(batch=2, mode=mode)
    prepared = target.prepare(SMALL, 0)
    target.run(prepared, 1)
    quick = target.run(prepared, 1000)
    gpu.launch_ns = 400_000.0
    assert target.run(prepared, 1000) == pytest.approx(quick, rel=0.001)


def test_one_wait_per_block_and_replays_of_two_milliseconds(gpu: Gpu) -> None:
    target = CudaTarget(batch=2, mode="device-warm")
    prepared = target.prepare(SMALL, 0)
    once = target.run(prepared, 1)
    unrolled = len(gpu.graphs[-1])
    assert unrolled * once >= 2e6
    syncs, replays = gpu.syncs, gpu.replays
    target.run(prepared, 3 * unrolled - 1)
    assert gpu.syncs == syncs + 1
    assert gpu.replays == replays + 1 + 3  # one goes before the clock starts


def test_a_long_call_is_not_unrolled(gpu: Gpu) -> None:
    target = CudaTarget(batch=8, mode="device-warm")
    layer = relu(64, 64)
    target.run(target.prepare(layer, 0), 1)
    assert KERNEL_NS + MISS_NS * touched_bytes(layer, 8) > 2e6
    assert [len(graph) for graph in gpu.graphs] == [1]


def test_later_visits_need_no_search_for_the_number_of_calls(gpu: Gpu) -> None:
    target = CudaTarget(batch=2, mode="device-warm")
    prepared = target.prepare(SMALL, 0)
    target.run(prepared, 1)
    first = len(gpu.graphs)
    assert first > 1
    target.relocate(prepared, random.Random(0))
    target.run(prepared, 1)
    assert len(gpu.graphs) == first  # the first visit takes what trying the layer out has made
    target.relocate(prepared, random.Random(0))
    target.run(prepared, 1)
    target.run(prepared, 1)
    assert len(gpu.graphs) == first + 1
    # Nor does a layer that was given back and prepared anew.
    target.release(prepared)
    target.run(target.prepare(SMALL, 0), 1)
    assert len(gpu.graphs) == first + 2


def test_host_is_the_wall_clock_of_eager_calls(gpu: Gpu) -> None:
    target = CudaTarget(batch=2, mode="host")
    prepared = target.prepare(SMALL, 0)
    target.run(prepared, 1)
    syncs = gpu.syncs
    # A small layer waits for the host, which launches one kernel in 6 µs.
    assert target.run(prepared, 1000) / 1000 == pytest.approx(6000, rel=0.01)
    assert gpu.syncs == syncs + 2
    # A large one has the host wait: without that, this would be 6 µs, too.
    large = relu(64, 64)
    prepared = target.prepare(large, 0)
    target.run(prepared, 1)
    expected = KERNEL_NS + MISS_NS * touched_bytes(large, 2)
    assert target.run(prepared, 100) / 100 == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("mode", "others"),
    [
        ("device-cold", {"device_warm_ms", "host_ms"}),
        ("device-warm", {"device_cold_ms", "host_ms"}),
        ("host", {"device_cold_ms", "device_warm_ms"}),
    ],
)
def test_the_other_modes_are_side_values(gpu: Gpu, mode: str, others: set[str]) -> None:
    target = CudaTarget(batch=2, mode=mode)
    prepared = target.prepare(SMALL, 0)
    size = touched_bytes(SMALL, 2)
    expected = {
        "device_cold_ms": (KERNEL_NS + MISS_NS * size) / 1e6,
        "device_warm_ms": (KERNEL_NS + HIT_NS * size) / 1e6,
        "host_ms": 0.006,
        "sm_mhz": 1980.0,
    }
    for visit in range(6):
        target.relocate(prepared, random.Random(visit))
        target.run(prepared, 1)
        seen = target.observe(prepared)
        assert seen.cause is None
        # The first visits time the others, too; the clock is read in all.
        assert set(seen.also) == ({*others, "sm_mhz"} if visit < _cuda.SIDE_VISITS else {"sm_mhz"})
        for name, value in seen.also.items():
            assert value == pytest.approx(expected[name], rel=0.02), name


def test_an_unreachable_side_value_is_absent(gpu: Gpu) -> None:
    gpu.free = 1 << 10
    target = CudaTarget(batch=2, mode="device-warm")
    prepared = target.prepare(SMALL, 0)
    before = target.run(prepared, 1000)
    assert set(target.observe(prepared).also) == {"host_ms", "sm_mhz"}
    assert target.run(prepared, 1000) == pytest.approx(before, rel=0.01)


def test_memory_that_runs_out_in_a_side_value_is_not_the_layers_failure(gpu: Gpu) -> None:
    target = CudaTarget(batch=2, mode="device-warm")
    prepared = target.prepare(SMALL, 0)
    before = target.run(prepared, 1000)
    gpu.trouble["capture"] = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert "device_cold_ms" not in target.observe(prepared).also
    assert target.run(prepared, 1000) == pytest.approx(before, rel=0.01)


def visit_at(target: CudaTarget, prepared: Any, gpu: Gpu, clock: Clock | None) -> tuple[float | None, str | None]:
    """Return the clock that one visit saw, and why it does not count."""
    gpu.clock = clock
    target.relocate(prepared, random.Random(0))
    target.run(prepared, 1)
    seen = target.observe(prepared)
    return seen.also.get("sm_mhz"), seen.cause


def test_a_visit_at_a_slow_clock_does_not_count(gpu: Gpu) -> None:
    target = CudaTarget(batch=2, mode="device-warm")
    prepared = target.prepare(SMALL, 0)
    normal, slow = Clock(2000.0, slowdown=False), Clock(1400.0, slowdown=False)
    assert visit_at(target, prepared, gpu, slow) == (1400.0, None)  # nothing to compare with yet
    for _ in range(4):
        assert visit_at(target, prepared, gpu, normal) == (2000.0, None)
    assert visit_at(target, prepared, gpu, slow) == (1400.0, "slow_clock")
    assert visit_at(target, prepared, gpu, Clock(1501.0, slowdown=False)) == (1501.0, None)
    # Another layer has its own usual clock: heavy work runs at a lower one.
    other = target.prepare(relu(8, 16), 0)
    assert visit_at(target, other, gpu, slow) == (1400.0, None)


def test_a_clock_that_settled_lower_becomes_the_usual_one(gpu: Gpu) -> None:
    target = CudaTarget(batch=2, mode="device-warm")
    prepared = target.prepare(SMALL, 0)
    for _ in range(4):
        visit_at(target, prepared, gpu, Clock(2000.0, slowdown=False))
    causes = [visit_at(target, prepared, gpu, Clock(1200.0, slowdown=False))[1] for _ in range(6)]
    assert causes[0] == "slow_clock"
    assert causes[-1] is None


def test_a_visit_that_the_hardware_slowed_does_not_count(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    prepared = target.prepare(SMALL, 0)
    assert visit_at(target, prepared, gpu, Clock(1980.0, slowdown=True)) == (1980.0, "slow_clock")


def test_without_a_clock_there_is_none_in_the_table(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    prepared = target.prepare(SMALL, 0)
    assert visit_at(target, prepared, gpu, None) == (None, None)


def test_the_clock_is_read_while_the_device_works(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    prepared = target.prepare(SMALL, 0)
    gpu.busy_readings.clear()
    target.run(prepared, 500)
    assert gpu.busy_readings
    assert all(gpu.busy_readings)


def test_the_device_is_warmed_until_its_clock_stands(gpu: Gpu) -> None:
    ramp = iter([500.0, 900.0, 1500.0, 1950.0, 1980.0, 1980.0, 1980.0, 1980.0])
    gpu.read_clock = lambda: Clock(next(ramp), slowdown=False)  # type: ignore[method-assign]
    target = CudaTarget(batch=2)
    assert gpu.spins == 7
    assert "1980 MHz" in target.describe()[2].details["spin_up"]


def test_the_warm_up_ends_without_a_clock_or_a_steady_one(gpu: Gpu) -> None:
    gpu.clock = None
    assert "not read" in CudaTarget().describe()[2].details["spin_up"]
    values = iter(range(100, 100_000, 100))
    gpu.read_clock = lambda: Clock(float(next(values) % 700 + 100), slowdown=False)  # type: ignore[method-assign]
    assert "still moved" in CudaTarget().describe()[2].details["spin_up"]


def test_what_the_runtime_raises_becomes_a_failure_and_gives_memory_back(gpu: Gpu) -> None:
    accelerator = getattr(torch, "AcceleratorError", RuntimeError)
    for place in ("kernel", "capture", "replay", "synchronize"):
        for error, reason in (
            (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nadvice"), "out_of_memory"),
            (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might"), "out_of_memory"),
            (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out_of_memory"),
            (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out_of_memory"),
            (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED\nmore"), "error"),
            (accelerator("CUDA error: invalid configuration argument\nmore"), "error"),
            (ValueError("Expected more than 1 value"), "error"),
        ):
            target = CudaTarget(batch=2, mode="device-warm")
            prepared = target.prepare(SMALL, 0)
            target.run(prepared, 1)
            assert target._live is not None
            buffers = weakref.ref(target._live.one)
            if place != "replay":
                target.relocate(prepared, random.Random(0))
                target.relocate(prepared, random.Random(0))
            trims = gpu.trims
            gpu.trouble[place] = error
            with pytest.raises(LayerFailedError) as caught:
                target.run(prepared, 1)
            assert caught.value.reason == reason
            assert "\n" not in str(caught.value)
            assert buffers() is None, "the error's traceback keeps the layer's memory"
            assert target._live is None
            assert gpu.trims > trims
            # The next layer is measured as if nothing had been.
            assert target.run(target.prepare(relu(2, 16), 0), 1) > 0


def test_a_lost_device_is_a_crash_of_the_process(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    prepared = target.prepare(SMALL, 0)
    target.run(prepared, 1)
    gpu.dead = True
    with pytest.raises(LayerFailedError, match="illegal memory access") as caught:
        target.run(prepared, 1)
    assert caught.value.reason == "crashed"
    # Whoever goes on all the same learns that it is not the next layer's fault.
    with pytest.raises(ProfileError, match="lost to this process"):
        target.prepare(relu(2, 16), 0)
    target.close()


def test_a_device_lost_in_a_side_value_is_a_crash_too(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    prepared = target.prepare(SMALL, 0)
    target.run(prepared, 1)
    gpu.dead = True
    with pytest.raises(LayerFailedError) as caught:
        target.observe(prepared)
    assert caught.value.reason == "crashed"


def test_one_layer_at_a_time_is_on_the_device(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    first, second = target.prepare(linear(64, 40, bias=True), 0), target.prepare(relu(8, 8), 0)
    homes = [weight.data_ptr() for weight in first.weights]
    target.run(first, 1)
    assert target._live is not None
    buffers = weakref.ref(target._live.series["device-cold"].copies)
    target.run(second, 1)
    assert buffers() is None
    assert [weight.data_ptr() for weight in first.weights] == homes
    target.release(first)  # not the one on the device
    assert target._live is not None
    target.release(second)
    assert target._live is None


def test_weights_come_back_to_the_host(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    prepared = target.prepare(conv(8), 0)
    homes = [weight.data_ptr() for weight in prepared.weights]
    target.run(prepared, 1)
    assert [weight.data_ptr() for weight in prepared.weights] != homes
    target.release(prepared)
    assert [weight.data_ptr() for weight in prepared.weights] == homes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_all_copies_compute_the_layer(gpu: Gpu, dtype: str, memory_format: str) -> None:
    target = CudaTarget(batch=3, dtype=dtype, memory_format=memory_format)
    for layer in (conv(8, size=8), residual_add(4, activation="relu", input_size=(8, 8))):
        prepared = target.prepare(layer, 0)
        target.run(prepared, 1)
        assert target._live is not None
        copies = target._live.series["device-cold"].copies
        x = copies.copies[0].inputs[0]
        assert x.dtype == getattr(torch, dtype)
        assert x.shape == (3, *layer.inputs[0])
        assert x.is_contiguous(memory_format=torch.channels_last) == (memory_format == "channels_last")
        outputs = [output for output in copies.outputs if output is not None]
        assert len(outputs) == len(copies.copies)
        assert all(torch.equal(output, outputs[0]) for output in outputs)
        inputs = [tensor.clone() for tensor in copies.copies[-1].inputs]
        target.release(prepared)
        with torch.inference_mode():
            assert torch.equal(prepared.module(*inputs), outputs[0])


def test_the_seed_decides_the_data(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    drawn = []
    for seed in (1, 1, 2):
        prepared = target.prepare(conv(8, size=8), seed)
        target.run(prepared, 1)
        assert target._live is not None
        copy = target._live.one.copies[0]
        drawn.append([tensor.clone() for tensor in (*copy.weights, *copy.inputs)])
        target.release(prepared)
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))
    assert float(drawn[0][-1].std()) == pytest.approx(1, rel=0.1)


MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 50)

    def forward(self, ids):
        return {"scores": self.head(self.words(ids)), "ids": [ids]}
"""


def test_a_users_network_with_integers_runs_whole_and_layer_by_layer(gpu: Gpu, tmp_path: Path) -> None:
    from profiler._model import load_model, parse_model
    from profiler._trace import trace

    (tmp_path / "my.py").write_text(MODEL)
    spec = parse_model(f"{tmp_path / 'my.py'}:Net", "2x7:int64:50", 0)
    target = CudaTarget(batch=2)
    prepared = target.prepare_network(FactorySource("net", spec), 0)
    assert target.run(prepared, 3) > 0
    assert prepared.output_bytes == 4 * 2 * 7 * 50 + 8 * 2 * 7
    target.release(prepared)
    with _disable_current_modes():
        network = trace(*load_model(spec), name="net").network
    for item in network.layers:
        layer = target.prepare(item.layer, 0)
        assert target.run(layer, 3) > 0
        target.release(layer)
    with pytest.raises(LayerFailedError, match="does not run ONNX files"):
        target.prepare_network(FileSource("net", "net.onnx"), 0)


def test_a_network_that_is_one_layer_runs_as_one(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    prepared = target.prepare_network(LayersSource(Network("net", (NetworkLayer("conv", conv(8)),))), 0)
    assert target.run(prepared, 2) > 0
    assert prepared.key == conv(8).digest


def test_every_visit_gets_other_addresses(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    prepared = target.prepare(conv(8, size=8), 0)
    rng, shifts = random.Random(0), set()
    for _ in range(8):
        target.relocate(prepared, rng)
        target.run(prepared, 1)
        shifts.add(prepared.shift)
    assert len(shifts) > 5


def test_kernels_are_named_once_each(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    prepared = target.prepare(conv(8, size=8), 0)
    name = target.implementation(prepared)
    assert name is not None
    assert name.startswith("fprop_kernel<float, 3>(Params); relu(float*); xxx")
    assert len(name) < 300
    gpu.trouble["profiler"] = RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")
    assert target.implementation(prepared) is None
    assert target.run(prepared, 1) > 0


def test_visits_through_the_protocol(gpu: Gpu) -> None:
    target = CudaTarget(batch=2)
    visitor = Visitor(target, (SMALL,), make_protocol(), process=0, origin=0.0)
    visit = visitor.visit(0)
    assert visit.ms == pytest.approx((KERNEL_NS + MISS_NS * touched_bytes(SMALL, 2)) / 1e6, rel=0.01)
    assert visit.calls * visit.ms >= 0.99 * 2.0
    assert visit.cause is None
    assert visit.also["device_warm_ms"] < visit.ms < 2 * visit.also["host_ms"]
    assert visitor.implementations[0].kernel.startswith("fprop_kernel")


def test_provenance(gpu: Gpu) -> None:
    device, setting, software = CudaTarget(batch=5, tf32="off").describe()
    assert (device.kind, device.model, device.architecture) == ("cuda", "NVIDIA Simulated", "sm_90")
    assert (device.cores, device.memory_gib) == (132, 80.0)
    assert (setting.target, setting.batch, setting.threads, setting.context) == ("cuda", 5, None, "network")
    assert setting.options == {"mode": "device-cold", "tf32": "off"}
    assert software.details["driver"] == "none"
    assert "torch" in software.packages
    assert CudaTarget(mode="device-warm").describe()[1].context == "isolated"
    assert CudaTarget(context="network").describe()[1].options["mode"] == "device-cold"
    assert CudaTarget(context="isolated").describe()[1].options["mode"] == "device-warm"
    assert CudaTarget(context="isolated", mode="host").describe()[1].options["mode"] == "host"
    host = CudaTarget(mode="host").describe()[1]
    assert host.context == "isolated"
    assert host.options["host"]


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"batch": "4"},
        {"dtype": "int8"},
        {"memory_format": "rows"},
        {"mode": "cold"},
        {"device": -1},
        {"tf32": True},
        {"context": "warm"},
        {"context": "network", "mode": "host"},
        {"context": "isolated", "mode": "device-cold"},
    ],
)
def test_senseless_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        CudaTarget.check_options(**options)
    with pytest.raises(UsageError):
        CudaTarget(**options)


def test_options_are_checked_without_pytorch() -> None:
    code = (
        "import sys; from profiler._cuda import CudaTarget; CudaTarget.check_options(batch=2, mode='host'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_default_batch() -> None:
    assert CudaTarget.defaults([conv(8), linear(64, 10, bias=True)]) == {"batch": 1024}
    assert CudaTarget.defaults([conv(8), conv(8, size=33)]) == {"batch": 1}
    assert CudaTarget.defaults([linear(64, 10, bias=True)]) == {"batch": 1}


def test_where_there_is_no_gpu_the_reason_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(**options: Any) -> str:
        with pytest.raises(TargetUnavailableError) as caught:
            CudaTarget(**options)
        assert caught.value.exit_code == 1
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def no_driver() -> bool:
        warnings.warn("CUDA initialization: Found no NVIDIA driver on your system.\nPlease", stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built with CUDA" in refusal()
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU is visible" in refusal()
    monkeypatch.setattr(torch.cuda, "is_available", no_driver)
    assert "Found no NVIDIA driver" in refusal()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="there are 2 GPUs"):
        CudaTarget(device=2)

    def broken(index: int, *, tf32: bool) -> Driver:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore")

    monkeypatch.setattr(_cuda_driver, "TorchDriver", broken)
    assert "busy or unavailable" in refusal(device=1)
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert "AMD" in refusal()


class _Nvml(types.ModuleType):
    """The part of ``pynvml`` that is used."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.mhz, self.reasons, self.uuid = 1755, 0, ""

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.uuid = uuid
        return uuid

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetClockInfo(self, _: object, kind: int) -> int:
        assert kind == 1
        if self.mhz < 0:
            raise self.NVMLError("Not Supported")
        return self.mhz

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: object) -> int:
        return self.reasons


def test_clocks_come_from_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    properties = types.SimpleNamespace(uuid="1234-5678")
    library, handle, note = _cuda_driver._open_nvml(0, properties)
    assert (library, handle) == (nvml, "GPU-1234-5678")
    assert "NVML" in note
    driver = object.__new__(TorchDriver)
    driver._nvml, driver._handle = library, handle
    for reasons, slowdown in ((0x0, False), (0x4, False), (0x20, False), (0x8, True), (0x40, True), (0x84, True)):
        nvml.reasons = reasons
        assert driver.read_clock() == Clock(1755.0, slowdown)
    nvml.mhz = -1
    assert driver.read_clock() is None
    assert _cuda_driver._open_nvml(0, properties)[2] == "not read: Not Supported"
    # Which of two GPUs it is, is not guessed.
    nvml.mhz = 1755
    assert _cuda_driver._open_nvml(0, types.SimpleNamespace())[0] is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in _cuda_driver._open_nvml(0, properties)[2]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch with CUDA")


@needs_gpu
@pytest.mark.parametrize("mode", ["device-cold", "device-warm", "host"])
def test_a_real_gpu_gives_three_numbers_that_fit_together(mode: str) -> None:
    target = CudaTarget(batch=64, mode=mode)
    try:
        visitor = Visitor(target, (conv(32),), make_protocol(), process=0, origin=0.0)
        visit = [visitor.visit(0) for _ in range(3)][-1]
        numbers = {**visit.also, _cuda.SIDE_VALUES[mode]: visit.ms}
        assert numbers["device_cold_ms"] > 0.9 * numbers["device_warm_ms"]
        assert numbers["host_ms"] > 0.8 * numbers["device_warm_ms"]
        assert visitor.implementations[0].kernel
    finally:
        target.close()


@needs_gpu
def test_a_real_gpu_gives_its_memory_back() -> None:
    target = CudaTarget(batch=64)
    prepared = target.prepare(conv(32), 0)
    target.run(prepared, 1)
    target.release(prepared)
    free = target._driver.free_bytes()
    for seed in range(5):
        prepared = target.prepare(conv(32), seed)
        target.run(prepared, 1)
        target.release(prepared)
    assert target._driver.free_bytes() > free - (64 << 20)
    with pytest.raises(LayerFailedError) as caught:
        target.run(target.prepare(relu(4096, 8192), 0), 1)
    assert caught.value.reason == "out_of_memory"
    assert target.run(target.prepare(conv(32), 0), 1) > 0
    target.close()

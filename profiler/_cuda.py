"""The target ``cuda``: PyTorch on an NVIDIA GPU, in CUDA graphs or call by call."""

from __future__ import annotations

import contextlib
import itertools
import platform
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from math import ceil, prod
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, final

from lut import Device, Layer, Network, Setting, UsageError
from lut._records import CONTEXTS, Context, RejectionCause, Software
from lut._suggest import none_of
from lut.errors import LatencyLutError, LayerFailedError, ProfileError, TargetUnavailableError
from lut.primitives import Subgraph
from profiler._cuda_driver import Clock, check_gpu, first_line, is_out_of_memory, open_driver
from profiler._dtypes import torch_dtype
from profiler._machine import DisturbanceReader, cpu_device
from profiler._model import random_like
from profiler._sources import NetworkSource, key_of, layer_of_source, load_source
from profiler._target import Observation, Target

if TYPE_CHECKING:
    import torch

__all__ = ["CudaTarget"]

DTYPES = ("float32", "float16", "bfloat16")
MEMORY_FORMATS = ("contiguous", "channels_last")
COLD, WARM, HOST = MODES = ("device-cold", "device-warm", "host")
SIDE_VALUES = {COLD: "device_cold_ms", WARM: "device_warm_ms", HOST: "host_ms"}

# Events resolve half a microsecond, and a replay has a gap of a few before it: 2 ms make both negligible.
REPLAY_MS = 2.0
# Some drivers die while they capture or launch graphs of tens of thousands of nodes (meta-pytorch/tritonbench#1248 caps
# them for that reason). So many of the shortest kernels, of a microsecond each, already fill a replay; what takes more
# becomes several graphs, which are replayed in turns.
MOST_NODES = 2000
WARM_UP_CALLS = 3

# Cold means: between two uses of the same bytes, at least one and a half times the L2 cache passes through it. With
# copies whose bytes are three times the cache, and two at least, that is so: all other copies lie between.
COLD_FACTOR = 3
# A copy costs nodes in the graphs, each of them up to 64 KB of device memory (less with newer drivers) and some 10 µs
# of capture. What would need more copies moves some 2 KB a call, and stays in the cache inside any network.
MOST_COPIES = 65_536
GRAPH_BYTES_PER_NODE = 1 << 16
MEMORY_SHARE = 0.9

# As PyTorch's allocator aligns: vectorised kernels are chosen by it.
ALIGNMENT_BYTES = 512
SHIFTS = 2048

# The other modes are timed in a layer's first visit of each process only: they need no narrow interval.
SIDE_VISITS = 1

SLOW_CLOCK = 0.75
LEAST_READINGS = 3
SPIN_MS = 100.0
SPIN_STEPS = 30
SPIN_STEPS_UNREAD = 5
STEADY = 0.02

HTAS_BATCH = 1024


class _Slot(NamedTuple):
    """Where in a copy a tensor lies: in elements."""

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Prepared:
    """A layer's or a network's module with its weights on the host, and what is known about timing it.

    ``key`` is shared by equal layers; ``kernels`` is a guess of how many kernels a call launches.
    """

    def __init__(self, key: str, kernels: int, module: torch.nn.Module, weights: list[torch.Tensor], seed: int) -> None:
        self.key = key
        self.kernels = kernels
        self.module = module
        self.seed = seed
        # The tensors in the module, whose data is exchanged, and what they were.
        self.weights = weights
        self.masters = [weight.detach() for weight in weights]
        self.slots: list[_Slot] = []
        # Inputs that are no floating-point numbers, by their place: the same in all calls.
        self.fixed: dict[int, torch.Tensor] = {}
        self.elements = 0
        self.data_bytes = 0
        self.output_bytes = 0
        self.shift = 0
        self.visited = False


class _Known:
    """What the visits to a layer have taught so far; kept when the layer itself is given back."""

    def __init__(self) -> None:
        # Nodes that a call adds to a graph, and whether they were counted or had to be guessed.
        self.nodes = 0
        self.counted = False
        # Calls of a graph on one set of buffers that take REPLAY_MS, and one call's share of it; found once.
        self.unrolled = 0
        self.call_ns = 0.0
        self.observed = 0
        self.mhz: list[float] = []


class _Copy(NamedTuple):
    """One set of buffers that a call works on."""

    weights: tuple[torch.Tensor, ...]
    inputs: tuple[torch.Tensor, ...]


class _Copies:
    """Sets of buffers, and the output that the latest call on each one made."""

    def __init__(self, copies: Sequence[_Copy]) -> None:
        self.copies = copies
        self.outputs: list[Any] = [None] * len(copies)

    def distinct_bytes(self) -> int:
        """Return how many different bytes of the device one call on each copy touches, from the buffers themselves."""
        sizes: dict[int, int] = {}
        for copy, output in zip(self.copies, self.outputs, strict=True):
            for tensor in (*copy.weights, *copy.inputs, *_tensors(output)):
                sizes[tensor.data_ptr()] = max(sizes.get(tensor.data_ptr(), 0), tensor.numel() * tensor.element_size())
        return sum(sizes.values())


class _Graph(NamedTuple):
    """A captured graph of so many calls."""

    graph: Any
    calls: int


class _Series:
    """Graphs of unrolled calls that are replayed in turns, with the buffers that they work on.

    The turns go on where they stopped: the calls of all graphs form one circle, in which a copy comes again only after
    all others have.
    """

    def __init__(self, graphs: Sequence[_Graph], copies: _Copies) -> None:
        self.graphs = tuple(graphs)
        self.copies = copies
        self._turn = 0

    def next(self) -> _Graph:
        """Return the graph whose turn it is."""
        graph = self.graphs[self._turn]
        self._turn = (self._turn + 1) % len(self.graphs)
        return graph


class GraphFacts(NamedTuple):
    """What the graphs of a layer's mode are, for whoever checks them.

    ``touched_bytes`` are the distinct bytes that one lap over all graphs touches; ``nodes_per_call`` was counted in a
    captured graph, or guessed from the layer's operators where the driver does not tell (``counted``).
    """

    graphs: int
    calls: int
    copies: int
    nodes_per_call: int
    counted: bool
    largest_graph_nodes: int
    touched_bytes: int
    l2_bytes: int


class _Live:
    """What a layer holds on the device. One layer does at a time: 500 would not fit."""

    def __init__(self, owner: _Prepared, one: _Copies, known: _Known) -> None:
        self.owner = owner
        self.one = one
        self.known = known
        self.series: dict[str, _Series] = {}


@final
class CudaTarget(Target[_Prepared]):
    """PyTorch on an NVIDIA GPU.

    Three numbers describe a layer on a GPU, and ``mode`` says which one is the table's latency; the others are side
    values (``device_cold_ms``, ``device_warm_ms``, ``host_ms``), as is the clock (``sm_mhz``).

    - ``device-cold``: CUDA graphs of unrolled calls, each on other weights, inputs and outputs than the one before,
      so many that nothing of a call is left in the L2 cache when its turn comes again. For networks larger than the
      cache.
    - ``device-warm``: graphs of unrolled calls on the same buffers. What fits stays in the cache.
    - ``host``: call by call, as PyTorch runs without graphs, by the wall clock; small layers wait for Python.

    It sets up the process that it is made in, for good: the current GPU, cuDNN's autotuner (off), TF32.

    Args:
        batch: samples per call.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        memory_format: ``contiguous`` or ``channels_last``.
        context: in the words of all targets: ``network`` is ``device-cold``, ``isolated`` one of the others.
        mode: ``device-cold``, ``device-warm`` or ``host``; by default the first of them that the context allows.
        device: the GPU's number, among those that the process may see.
        tf32: ``on`` or ``off``: whether float32 convolutions and matrix products use TF32 where the GPU has it.

    Raises:
        UsageError: an option is out of range, or there are fewer GPUs.
        TargetUnavailableError: PyTorch is built without CUDA, there is no driver, or no GPU can be used.
    """

    least_block_ms: ClassVar[float] = REPLAY_MS
    least_processes: ClassVar[int] = 3

    def __init__(
        self,
        *,
        batch: int = 1,
        dtype: str = "float32",
        memory_format: str = "contiguous",
        context: str | None = None,
        mode: str | None = None,
        device: int = 0,
        tf32: str = "on",
    ) -> None:
        self.check_options(
            batch=batch,
            dtype=dtype,
            memory_format=memory_format,
            context=context,
            mode=mode,
            device=device,
            tf32=tf32,
        )
        import torch

        self._torch = torch
        self._driver = open_driver(device, tf32=tf32 == "on")
        self._batch = batch
        self._dtype_name = dtype
        self._dtype: torch.dtype = torch_dtype(dtype)
        self._memory_format = memory_format
        self._mode = mode or (WARM if context == "isolated" else COLD)
        self._tf32 = tf32
        self._live: _Live | None = None
        self._lost: str | None = None
        self._readings: list[Clock] = []
        self._known: dict[str, _Known] = {}
        self._rng = random.Random(0)  # noqa: S311 - addresses, no secrets
        self._disturbances = DisturbanceReader() if self._mode == HOST else None
        try:
            self._spun = self._spin_up()
        except RuntimeError as error:
            raise TargetUnavailableError(
                f"target cuda cannot use GPU {device}: {first_line(error)}; see what nvidia-smi says"
            ) from error

    @classmethod
    def check_available(cls, **options: Any) -> None:
        device = options.get("device", 0)
        # Another kind of device is refused with the other options.
        if isinstance(device, int) and device >= 0:
            check_gpu(device)

    @classmethod
    def check_options(cls, **options: Any) -> None:
        allowed = {
            "dtype": DTYPES,
            "memory_format": MEMORY_FORMATS,
            "context": (None, *CONTEXTS),
            "mode": (None, *MODES),
            "tf32": ("on", "off"),
        }
        for name, values in allowed.items():
            if name in options and options[name] not in values:
                raise UsageError(none_of(name.replace("_", " "), options[name], filter(None, values)))
        for name, least in (("batch", 1), ("device", 0)):
            value = options.get(name, least)
            if not isinstance(value, int) or value < least:
                raise UsageError(f"{name} is a whole number of at least {least}, got {value!r}")
        context, mode = options.get("context"), options.get("mode")
        if context is not None and mode is not None and context != _context(mode):
            raise UsageError(f"mode {mode} is the context {_context(mode)}, and {context} was asked for")

    @classmethod
    def defaults(cls, layers: Sequence[Layer], networks: Sequence[Network] = ()) -> Mapping[str, Any]:  # noqa: ARG003
        """Return batch 1024 where no layer takes images larger than 32×32, as HTAS (section 4.1) on its GPU, else 1."""
        sizes = [max(shape[1:]) for layer in layers for shape in layer.inputs if len(shape) == 3]
        return {"batch": HTAS_BATCH if sizes and max(sizes) <= 32 else 1}

    def describe(self) -> tuple[Device, Setting, Software]:
        facts = self._driver.facts
        host = cpu_device()
        options = {"mode": self._mode, "tf32": self._tf32}
        if self._mode == HOST:
            # Calls that wait for Python take as long as the host's CPU needs.
            options["host"] = host.model
        setting = Setting(
            target="cuda",
            batch=self._batch,
            dtype=self._dtype_name,
            threads=None,
            memory_format=self._memory_format,
            context=_context(self._mode),
            options=options,
        )
        details = {
            **facts.details,
            "l2_bytes": str(facts.l2_bytes),
            "tf32": self._tf32,
            "mode": "inference_mode, eval; "
            + ("eager, one wait per block" if self._mode == HOST else "CUDA graphs of unrolled calls, timed by events"),
            "data": "weights He-normal, inputs standard normal; at new addresses in every visit",
            "spin_up": self._spun,
            "host_cpu": host.model,
            "host_cpus": str(host.affinity_cpus),
        }
        software = Software(
            python=platform.python_version(),
            packages={"torch": str(self._torch.__version__), "latency-lut": version("latency-lut")},
            details=details,
        )
        device = Device(
            kind="cuda",
            model=facts.model,
            architecture=facts.architecture,
            system=host.system,
            cores=facts.multiprocessors,
            # The multiprocessors that this process may use: all that it sees. The host's CPUs are in the details.
            affinity_cpus=facts.multiprocessors,
            memory_gib=round(facts.memory_bytes / 2**30, 1),
            virtual=host.virtual,
        )
        return device, setting, software

    def prepare(self, layer: Layer, seed: int) -> _Prepared:
        from profiler._modules import build_module

        torch = self._torch
        self._refuse_too_large(layer)
        with self._mapped(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = build_module(layer, self.namespaces)
            inputs = self._inputs(layer)
            prepared = self._ready(layer.digest, _kernels(layer), module, inputs, seed)
            prepared.output_bytes = self._batch * prod(layer.output_shape) * self._dtype.itemsize
        return prepared

    def _inputs(self, layer: Layer) -> list[torch.Tensor]:
        """Return a call's inputs; floating-point ones without content, which is drawn on the device in every visit."""
        from profiler._modules import example_inputs

        if any(isinstance(node.op, Subgraph) for node in layer.nodes):
            # Some may be integers, in the range that the operators take.
            return example_inputs(layer, self._batch, self._dtype)
        shapes = [(self._batch, *shape) for shape in layer.inputs]
        return [self._torch.empty(shape, dtype=self._dtype, device="meta") for shape in shapes]

    def _refuse_too_large(self, layer: Layer) -> None:
        """Refuse what no memory of the device holds, before the host tries to make its weights."""
        needed = layer.bytes_moved(batch=self._batch, bytes_per_element=self._dtype.itemsize)
        there = self._driver.facts.memory_bytes
        if needed > there:
            raise LayerFailedError(
                f"needs about {needed / 2**30:.1f} GiB of device memory, and the GPU has {there / 2**30:.1f} GiB",
                reason="out_of_memory",
            )

    def prepare_network(self, source: NetworkSource, seed: int) -> _Prepared:
        """A user's module with inputs, ready to run; or a network that is one layer."""
        if (layer := layer_of_source(source)) is not None:
            return self.prepare(layer, seed)
        torch = self._torch
        with self._mapped(), torch.random.fork_rng(devices=[]):
            module, examples = load_source(source)
            torch.manual_seed(seed)
            inputs = [random_like(x, self._dtype) for x in examples]
            with torch.inference_mode():
                outputs = module(*examples)
            prepared = self._ready(key_of(source), sum(1 for _ in module.modules()), module, inputs, seed)
            prepared.output_bytes = sum(t.numel() * t.element_size() for t in _tensors(outputs))
        return prepared

    def _ready(
        self, key: str, kernels: int, module: torch.nn.Module, inputs: Sequence[torch.Tensor], seed: int
    ) -> _Prepared:
        """Return a module as the setting has it, with places for its weights and inputs in a copy."""
        torch = self._torch
        module = module.to(dtype=self._dtype).requires_grad_(False)
        if self._memory_format == "channels_last":
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        tensors = [*module.parameters(), *module.buffers()]
        for tensor in tensors:
            if not tensor.is_floating_point():
                # An index or a mask: read only, and small.
                tensor.data = tensor.to(self._driver.device)
        weights = [t for t in tensors if t.is_floating_point()]
        prepared = _Prepared(key, kernels, module, weights, seed)
        placed = [(tuple(weight.shape), tuple(weight.stride())) for weight in weights]
        for i, x in enumerate(inputs):
            if x.is_floating_point():
                full = tuple(x.shape)
                placed.append((full, _strides(full, channels_last=self._memory_format == "channels_last")))
            else:
                prepared.fixed[i] = x.to(self._driver.device)
        step = ALIGNMENT_BYTES // self._dtype.itemsize
        for shape, stride in placed:
            prepared.slots.append(_Slot(prepared.elements, shape, stride))
            prepared.elements += ceil(prod(shape) / step) * step
        prepared.shift = self._rng.randrange(SHIFTS)
        prepared.data_bytes = sum(prod(shape) for shape, _ in placed) * self._dtype.itemsize
        return prepared

    def prepared_bytes(self, layer: Layer, batch: int) -> int:
        # The weights alone wait on the host; buffers are on the device, one layer's at a time.
        del batch
        return 4 * layer.parameters + 4096

    def relocate(self, prepared: _Prepared, rng: random.Random) -> None:
        """Give back what is on the device, so that the visit gets other memory and captures its graphs anew."""
        with self._mapped():
            self._readings = []
            if prepared.visited:
                self._drop()
                prepared.shift = rng.randrange(SHIFTS)
            # What was put there to try the layer out is as new as anything, and serves for the first visit.
            prepared.visited = True

    def run(self, prepared: _Prepared, calls: int) -> int:
        with self._mapped():
            return max(1, round(self._time(prepared, self._mode, calls)))

    def _time(self, prepared: _Prepared, mode: str, calls: int) -> float:
        """Return the nanoseconds of ``calls`` calls, by events in the queue or by the host's clock."""
        live = self._enter(prepared)
        if mode == HOST:
            return self._time_host(live, calls)
        if mode not in live.series:
            live.series[mode] = self._warm(live) if mode == WARM else self._cold(live)
        return self._time_calls(live.series[mode], calls)

    def _time_calls(self, series: _Series, calls: int) -> float:
        """Return the nanoseconds of so many calls, by events in the queue around whole replays.

        A first replay goes before: while it runs, the host issues the others, so that none of them waits for it, and
        the cache is left as a replay leaves it.
        """
        driver = self._driver
        driver.replay(series.next().graph)
        start = driver.record()
        replayed = 0
        while replayed < calls:
            graph = series.next()
            driver.replay(graph.graph)
            replayed += graph.calls
        end = driver.record()
        # Read while the device is busy: an idle one lowers its clock.
        reading = driver.read_clock()
        driver.synchronize()
        if reading is not None:
            self._readings.append(reading)
        return driver.elapsed_ms(start, end) * 1e6 * calls / replayed

    def _time_host(self, live: _Live, calls: int) -> float:
        driver, module = self._driver, live.owner.module
        copy = live.one.copies[0]
        self._point(live.owner, copy)
        inputs = copy.inputs
        driver.synchronize()
        with self._torch.inference_mode():
            start = driver.host_clock_ns()
            for _ in range(calls):
                module(*inputs)
            driver.synchronize()
            elapsed = driver.host_clock_ns() - start
        reading = driver.read_clock()
        if reading is not None:
            self._readings.append(reading)
        return float(elapsed)

    def _enter(self, prepared: _Prepared) -> _Live:
        """Return what the layer holds on the device, made now if another layer's was there."""
        if self._live is not None and self._live.owner is prepared:
            return self._live
        self._drop()
        live = _Live(prepared, self._copies(prepared, 1), self._known.setdefault(prepared.key, _Known()))
        self._live = live
        self._driver.warm_up(self._body(prepared, live.one, WARM_UP_CALLS))
        return live

    def _copies(self, prepared: _Prepared, count: int) -> _Copies:
        """Return ``count`` sets of buffers of equal content, one after another in one piece of memory."""
        step = ALIGNMENT_BYTES // self._dtype.itemsize
        start = prepared.shift * step
        weights, inputs = prepared.slots[: len(prepared.weights)], prepared.slots[len(prepared.weights) :]
        with self._torch.no_grad():
            flat = self._torch.empty(start + count * prepared.elements, dtype=self._dtype, device=self._driver.device)
            rows = flat[start:].view(count, prepared.elements)
            first = _views(rows[0], prepared.slots)
            for tensor, master in zip(first, prepared.masters, strict=False):
                tensor.copy_(master)
            generator = self._torch.Generator(device=self._driver.device).manual_seed(prepared.seed)
            for tensor in first[len(weights) :]:
                tensor.normal_(generator=generator)
            rows[1:].copy_(rows[:1].expand(count - 1, -1))
            return _Copies(
                [_Copy(_views(row, weights), _with_fixed(_views(row, inputs), prepared.fixed)) for row in rows.unbind()]
            )

    def _point(self, prepared: _Prepared, copy: _Copy) -> None:
        for weight, tensor in zip(prepared.weights, copy.weights, strict=True):
            weight.data = tensor

    def _body(self, prepared: _Prepared, copies: _Copies, calls: int, first: int = 0) -> Callable[[], None]:
        """Return what issues ``calls`` calls, each on the next set of buffers, from the call ``first`` on."""

        def issue() -> None:
            with self._torch.inference_mode():
                for call in range(first, first + calls):
                    which = call % len(copies.copies)
                    copy = copies.copies[which]
                    if call == first or len(copies.copies) > 1:
                        self._point(prepared, copy)
                    # Kept until the same copy's next turn: the allocator then has to put the others elsewhere.
                    copies.outputs[which] = None
                    copies.outputs[which] = prepared.module(*copy.inputs)

        return issue

    def _nodes(self, live: _Live) -> int:
        """Return the nodes that a call adds to a graph: counted once, or guessed where the driver does not tell."""
        known = live.known
        if not known.nodes:
            counted = self._driver.count_nodes(self._body(live.owner, live.one, 1))
            known.counted = counted is not None
            known.nodes = max(1, live.owner.kernels if counted is None else counted)
        return known.nodes

    def _capture(self, live: _Live, copies: _Copies, calls: int) -> _Series:
        """Return the graphs of so many calls: one, or as many as keep each within ``MOST_NODES``.

        A call is not cut in two: a network of more nodes than that is one graph.
        """
        owner = live.owner
        count = ceil(calls / max(1, MOST_NODES // self._nodes(live)))
        bounds = [calls * number // count for number in range(count + 1)]
        # What an earlier graph wrote is given back now, and not in the middle of the capture.
        copies.outputs = [None] * len(copies.copies)
        graphs: list[_Graph] = []
        for first, last in itertools.pairwise(bounds):
            body = self._body(owner, copies, last - first, first)
            beside = graphs[0].graph if graphs else None
            graphs.append(_Graph(self._driver.capture(body, beside=beside), last - first))
        return _Series(graphs, copies)

    def _warm(self, live: _Live) -> _Series:
        """Return a graph of calls on the same buffers, of so many that a replay takes ``REPLAY_MS`` if it may."""
        known = live.known
        if known.unrolled:
            return self._capture(live, live.one, known.unrolled)
        most = max(1, MOST_NODES // self._nodes(live))
        calls = 1
        while True:
            series = self._capture(live, live.one, calls)
            elapsed = max(1.0, self._time_calls(series, calls))
            if elapsed >= REPLAY_MS * 1e6 or calls == most:
                break
            # Of a short replay, the gap before it is a large part: the guess is low, and is made again.
            calls = min(most, max(2 * calls, ceil(1.1 * REPLAY_MS * 1e6 * calls / elapsed)))
        known.unrolled, known.call_ns = calls, elapsed / calls
        return series

    def _cold(self, live: _Live) -> _Series:
        """Return graphs of calls that each find nothing of theirs in the L2 cache.

        Raises:
            LayerFailedError: that cannot be reached here; a warm number must not go by this name.
        """
        prepared, l2_bytes = live.owner, self._driver.facts.l2_bytes
        if not l2_bytes:
            raise LayerFailedError("this PyTorch does not tell the size of the L2 cache: device-cold needs torch ≥ 2.5")
        per_call = prepared.data_bytes + prepared.output_bytes
        count = max(2, ceil(COLD_FACTOR * l2_bytes / per_call))
        if count > MOST_COPIES:
            raise LayerFailedError(
                f"a call moves {per_call} bytes, so that {count:,} copies would be needed to outgrow the L2 cache "
                f"({l2_bytes >> 20} MiB), and {MOST_COPIES:,} are allowed; measure layers this small with "
                "mode device-warm"
            )
        if not live.known.unrolled:
            live.series[WARM] = self._warm(live)
        nodes = self._nodes(live)
        cycles = max(1, min(ceil(REPLAY_MS * 1e6 / (count * live.known.call_ns)), MOST_NODES // (count * nodes)))
        aligned = ceil(prepared.output_bytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        needed = count * (prepared.elements * self._dtype.itemsize + aligned)
        needed += count * cycles * nodes * GRAPH_BYTES_PER_NODE
        free = self._driver.free_bytes()
        if needed > MEMORY_SHARE * free:
            raise LayerFailedError(
                f"{count:,} copies that outgrow the L2 cache need about {needed / 2**30:.1f} GiB of device memory, "
                f"and {free / 2**30:.1f} GiB are free",
                reason="out_of_memory",
            )
        series = self._capture(live, self._copies(prepared, count), count * cycles)
        touched = series.copies.distinct_bytes()
        if touched < COLD_FACTOR * l2_bytes:
            raise LayerFailedError(
                f"a lap over {count:,} copies touches {touched} bytes, less than {COLD_FACTOR} times the L2 cache "
                f"({l2_bytes} bytes): it would not be cold"
            )
        if len(series.graphs) > 1:
            # A graph's first launch also brings it to the device, which must not happen while others are timed.
            for _ in series.graphs:
                self._driver.replay(series.next().graph)
        return series

    def graph_facts(self, prepared: _Prepared) -> dict[str, GraphFacts]:
        """Return, by mode, what the graphs are that a layer has on the device now; none before it was run."""
        live = self._live
        if live is None or live.owner is not prepared:
            return {}
        return {
            mode: GraphFacts(
                graphs=len(series.graphs),
                calls=sum(graph.calls for graph in series.graphs),
                copies=len(series.copies.copies),
                nodes_per_call=live.known.nodes,
                counted=live.known.counted,
                largest_graph_nodes=live.known.nodes * max(graph.calls for graph in series.graphs),
                touched_bytes=series.copies.distinct_bytes(),
                l2_bytes=self._driver.facts.l2_bytes,
            )
            for mode, series in live.series.items()
        }

    def implementation(self, prepared: _Prepared) -> str | None:
        """Return the CUDA kernels of one call, ``None`` where the profiler sees none."""
        try:
            with self._mapped():
                live = self._enter(prepared)
                names = self._driver.kernels(self._body(prepared, live.one, 1))
        except LayerFailedError as error:
            if error.reason == "crashed":
                raise
            return None
        return "; ".join(dict.fromkeys(map(_short, names))) or None

    def observe(self, prepared: _Prepared) -> Observation:
        """Return the other modes' latencies in milliseconds, the clock, and whether it was too slow."""
        also: dict[str, float] = {}
        cause: RejectionCause | None = None
        known = self._known.setdefault(prepared.key, _Known())
        if self._readings:
            mhz = median(reading.sm_mhz for reading in self._readings)
            # All visits, so that a clock which has settled lower becomes the usual one.
            slow = len(known.mhz) >= LEAST_READINGS and mhz < SLOW_CLOCK * median(known.mhz)
            if slow or any(reading.slowdown for reading in self._readings):
                cause = "slow_clock"
            known.mhz.append(mhz)
            also["sm_mhz"] = mhz
        if cause is None and known.observed < SIDE_VISITS:
            known.observed += 1
            for mode, name in SIDE_VALUES.items():
                if mode != self._mode and (ms := self._side_ms(prepared, mode)) is not None:
                    also[name] = ms
        return Observation(also, cause)

    def _side_ms(self, prepared: _Prepared, mode: str) -> float | None:
        """Return another mode's latency; ``None`` where it cannot be had, which is no fault of the layer."""
        try:
            with self._mapped():
                once = max(1.0, self._time(prepared, mode, 1))
                calls = ceil(REPLAY_MS * 1e6 / once)
                return max(1.0, self._time(prepared, mode, calls) / calls) / 1e6
        except LayerFailedError as error:
            if error.reason == "crashed":
                raise
            return None

    def preemptions_and_faults(self) -> tuple[int, int]:
        """Return the process's involuntary switches in mode ``host``; a GPU's own clock does not see them."""
        return (self._disturbances.preemptions_and_faults()[0], 0) if self._disturbances is not None else (0, 0)

    def stolen_and_throttled(self) -> tuple[int, int]:
        return self._disturbances.stolen_and_throttled() if self._disturbances is not None else (0, 0)

    def release(self, prepared: _Prepared) -> None:
        if self._live is not None and self._live.owner is prepared:
            self._drop()

    def close(self) -> None:
        self._drop()
        if self._disturbances is not None:
            self._disturbances.close()
        self._driver.close()

    def _drop(self) -> None:
        """Give back all that is on the device."""
        live, self._live = self._live, None
        if live is None:
            return
        for weight, master in zip(live.owner.weights, live.owner.masters, strict=True):
            weight.data = master
        # The graphs go before the buffers that they name.
        live.series.clear()
        del live
        if self._lost is None:
            self._driver.trim()

    def _spin_up(self) -> str:
        """Keep the device busy until its clock stands still; return what was done."""
        driver = self._driver
        previous, steady = 0.0, 0
        for step in range(1, SPIN_STEPS + 1):
            driver.spin(SPIN_MS)
            reading = driver.read_clock()
            if reading is None:
                if step == SPIN_STEPS_UNREAD:
                    return f"{step * SPIN_MS / 1e3:g} s, clock not read"
                continue
            steady = steady + 1 if abs(reading.sm_mhz - previous) <= STEADY * reading.sm_mhz else 0
            if steady == LEAST_READINGS:
                return f"{step * SPIN_MS / 1e3:g} s, until the clock stood at {reading.sm_mhz:g} MHz"
            previous = reading.sm_mhz
        return f"{SPIN_STEPS * SPIN_MS / 1e3:g} s, and the clock still moved"

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn the runtime's errors into ours, and give back what the failed layer held.

        A layer's failure has the reason ``crashed`` when the process can use the device no more: whoever made the
        target has to end the process and start another.
        """
        if self._lost is not None:
            raise ProfileError(f"the GPU is lost to this process since an earlier error ({self._lost}): start another")
        try:
            yield
        except LatencyLutError:
            raise
        except Exception as error:
            text, memory = first_line(error), is_out_of_memory(error)
            # The traceback's frames hold tensors of the layer: without this, their memory would stay taken.
            traceback.clear_frames(error.__traceback__)
            if not memory and not self._driver.healthy():
                self._lost = text
                self._drop()
                raise LayerFailedError(
                    f"{text}; no further work runs on the GPU in this process", reason="crashed"
                ) from error
            with contextlib.suppress(RuntimeError):
                self._drop()
                self._driver.trim()
            raise LayerFailedError(text, reason="out_of_memory" if memory else "error") from error


def _context(mode: str) -> Context:
    return "network" if mode == COLD else "isolated"


def _views(row: torch.Tensor, slots: Sequence[_Slot]) -> tuple[torch.Tensor, ...]:
    base = row.storage_offset()
    return tuple(row.as_strided(slot.shape, slot.stride, base + slot.offset) for slot in slots)


def _with_fixed(floats: Sequence[torch.Tensor], fixed: Mapping[int, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return a call's inputs in order: the floating-point ones with the others at their places."""
    left = iter(floats)
    return tuple(fixed[i] if i in fixed else next(left) for i in range(len(floats) + len(fixed)))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a network's output, however they are nested."""
    if hasattr(value, "data_ptr"):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def _kernels(layer: Layer) -> int:
    """Return a guess of how many kernels a call of a layer launches: one an operator."""
    return sum(len(op.calls) if isinstance(op, Subgraph) else 1 for op in layer.operators)


def _strides(shape: tuple[int, ...], *, channels_last: bool) -> tuple[int, ...]:
    if channels_last and len(shape) == 4:
        _, channels, height, width = shape
        return (height * width * channels, 1, width * channels, channels)
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _short(kernel: str) -> str:
    """Return a kernel's name without its return type, cut where template arguments go on for lines."""
    name = kernel.removeprefix("void ")
    return name if len(name) <= 120 else name[:119] + "…"

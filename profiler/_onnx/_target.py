"""The target ``onnx``: ONNX Runtime, through any execution provider."""

from __future__ import annotations

import contextlib
import json
import platform
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import log2, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from lut import Device, Layer, Network, Setting, UsageError
from lut._option_names import option_text
from lut._records import CONTEXTS, Context, Software
from lut._suggest import check_word
from lut.errors import LatencyLutError, LayerFailedError, TargetUnavailableError
from lut.primitives import Subgraph
from lut.subgraph import Given
from profiler._dtypes import torch_dtype
from profiler._machine import DisturbanceReader, available_memory_bytes, cpu_device, default_threads
from profiler._onnx._graph import EXPORTERS, IR_VERSION, OPSET, Program, module_of, to_onnx
from profiler._onnx._programs import COPIES, lone, marginal
from profiler._process import keep_freed_memory, layer_errors, pin
from profiler._reference import BETWEEN
from profiler._sources import FileSource, NetworkSource, layer_of_source
from profiler._target import Part, Target, missing_package

if TYPE_CHECKING:
    import torch

__all__ = ["OnnxTarget", "passing_bytes"]

CPU_PROVIDER = "CPUExecutionProvider"
# Where a provider's data live, for those that have a memory of their own.
DEVICE_MEMORY = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda", "ROCMExecutionProvider": "rocm"}
DTYPES = ("float32", "float16")

# A network's weights pass through the caches between two calls of one of its layers. As many of others' pass between
# two calls of a layer's programs: without, sums fell short by 10 % of a mobile network's latency, and by 4 % of a small
# ResNet's. In steps, so that a machine's reference speed serves networks of like size. Fewer than the least all stay in
# the caches; the largest is more than second-level caches hold.
LEAST_PASSING_BYTES, LARGEST_PASSING_BYTES = 1 << 18, 1 << 25
# Where no network says how many weights that are: those of so many layers.
NETWORK_LAYERS = 24
PASSING_COLUMNS = 1 << 10

# Largest difference from PyTorch that is taken for rounding, relative to the output's largest value.
TOLERANCE = {"float32": 1e-3, "float16": 3e-2}

PROFILED_CALLS = 5

# Copies of a layer in its programs, the lone one included.
ALL_COPIES = COPIES + 3

# What the runtime's bookkeeping takes for one session, whatever its size.
SESSION_BYTES = 1 << 19


def passing_bytes(weights: int) -> int:
    """Return how many bytes of weights pass between two calls of a layer: a network's, in steps of two; 0 for few."""
    if weights < LEAST_PASSING_BYTES:
        return 0
    return int(min(2 ** round(log2(weights)), LARGEST_PASSING_BYTES))


def matrices_beside(own_bytes: int, passing: int) -> list[int]:
    """Return the sizes of the matrices that pass before a call of a program with so many bytes of weights of its own.

    Between two reads of a weight in a network, all of the network's are read; what the program reads itself counts.
    """
    # To the nearest of the least steps: a small program's few bytes take none away.
    left = LEAST_PASSING_BYTES * round((passing - own_bytes) / LEAST_PASSING_BYTES)
    found = []
    size = passing
    while size >= LEAST_PASSING_BYTES:
        if size <= left:
            found.append(size)
            left -= size
        size //= 2
    return found


# The size of the pool that all sessions of this process share, once there is one. It is the runtime's state and cannot
# be asked for or changed; this only remembers it.
_POOLS: list[int] = []


def open_pool(runtime: Any, threads: int) -> None:
    """Make the pool that all sessions of this process share, or with 0 threads settle that each has its own.

    Raises:
        TargetUnavailableError: the process has settled on another.
    """
    if not _POOLS:
        if threads:
            runtime.set_global_thread_pool_sizes(threads, 1)
        _POOLS.append(threads)
    elif _POOLS[0] != threads:
        raise TargetUnavailableError(
            f"onnxruntime has one thread pool in a process, and this process's was made {_pool(_POOLS[0])}; "
            f"a target {_pool(threads)} needs a process of its own"
        )


def has_shared_pool() -> bool:
    """Whether this process's sessions share a pool, which each must then be told."""
    return bool(_POOLS and _POOLS[0])


def _pool(threads: int) -> str:
    if not threads:
        return "with threads for each session"
    return f"with {threads} thread{'s' * (threads != 1)} for all sessions"


class _Timed:
    """A program in a session of its own, with its data bound. Final."""

    def __init__(self, session: Any, binding: Any, inputs: list[tuple[Any, Any]], outputs: list[Any]) -> None:
        self.session = session
        self.binding = binding
        # Bound inputs, each with the values that are written into it before a call.
        self.inputs = inputs
        self.outputs = outputs
        self.model = b""
        # A layer's, and not a network: other weights than these pass before each call.
        self.is_part = False
        self.weight_bytes = 0
        # Whose numbers its outputs are compared with.
        self.reference = "PyTorch"


class _Prepared:
    """A layer's programs with their weights, and its lone program's model for attribution. Final."""

    def __init__(self, parts: list[tuple[_Timed, float]], model: bytes, feed: dict[str, Any]) -> None:
        self.parts = parts
        self.model = model
        self.feed = feed


@final
class OnnxTarget(Target["_Prepared | _Timed"]):
    """ONNX Runtime.

    It sets up the process that it is made in, for good: CPU affinity, the C library's allocator, the runtime's thread
    pool. The profiler makes it in a process of its own, and so should you.

    Args:
        batch: samples per call.
        dtype: ``float32`` or ``float16``.
        threads: threads of the runtime's pool, the calling one included; by default as many as CPUs in the affinity
            mask, and no more than a container's quota allows.
        context: ``network`` for what the layer adds to a network, without the reorders at the borders of a program
            and with what is fused across them (see :mod:`profiler._onnx._programs`); ``isolated`` for the layer alone.
        provider: an execution provider, by its name or the short form (``cpu``, ``cuda``, ``coreml``, ``openvino`` …).
        spinning: ``on``, the runtime's default: idle threads wait busily for the next operator; or ``off``.
        exporter: how a layer becomes an ONNX model: ``direct``, ``dynamo`` or ``torchscript``.
        network_parameters: of the network that the layers are for; see :meth:`defaults`.

    Raises:
        UsageError: an option is out of range, or the provider is unknown.
        TargetUnavailableError: a package is not installed, or this build of the runtime lacks the provider.
    """

    def __init__(
        self,
        *,
        batch: int = 1,
        dtype: str = "float32",
        threads: int | None = None,
        context: str = "network",
        provider: str = CPU_PROVIDER,
        spinning: str = "on",
        exporter: str = "direct",
        network_parameters: int = 0,
    ) -> None:
        self.check_options(
            batch=batch,
            dtype=dtype,
            threads=threads,
            context=context,
            spinning=spinning,
            exporter=exporter,
            network_parameters=network_parameters,
        )
        self._threads = threads if threads is not None else default_threads()
        self._device = cpu_device()
        self._pinned = pin(self._threads)
        self._allocator = keep_freed_memory()
        runtime = _import_runtime(exporter)
        import torch

        # PyTorch only makes weights and the numbers to compare with; its own pool stays out of the way.
        torch.set_num_threads(1)
        self._ort, self._torch = runtime, torch
        self._provider = _provider(provider, runtime)
        self._batch, self._dtype_name = batch, dtype
        self._dtype: torch.dtype = torch_dtype(dtype)
        self._context: Context = "network" if context == "network" else "isolated"
        self._spinning, self._exporter = spinning, exporter
        self._memory = DEVICE_MEMORY.get(self._provider, "cpu")
        # One pool for all sessions: the idle threads of one would take the CPU from another. Version 1.22 has none yet.
        self._one_pool = spinning == "on" and hasattr(runtime, "set_global_thread_pool_sizes")
        self._disturbances = DisturbanceReader()
        self._passing_bytes = 0
        if self._context == "network":
            self._passing_bytes = passing_bytes(network_parameters * self._dtype.itemsize)
        self._readers: dict[int, _Timed] = {}

    @classmethod
    def check_available(cls, **options: Any) -> None:  # noqa: ARG003
        for package in ("onnx", "onnxruntime"):
            if find_spec(package) is None:
                raise missing_package("onnx", package)

    @classmethod
    def check_options(cls, **options: Any) -> None:
        batch, threads = options.get("batch", 1), options.get("threads")
        if batch < 1:
            raise UsageError(f"batch must be at least 1, got {batch}")
        if threads is not None and not 1 <= threads <= 1024:
            raise UsageError(f"threads must be between 1 and 1024, got {threads}")
        for name, known in (
            ("dtype", DTYPES),
            ("context", tuple(CONTEXTS)),
            ("spinning", ("on", "off")),
            ("exporter", EXPORTERS),
        ):
            check_word(f"onnx: {name}", options.get(name, known[0]), known)
        if options.get("network_parameters", 0) < 0:
            raise UsageError(f"a network has no fewer than 0 parameters, got {options['network_parameters']}")

    @classmethod
    def defaults(cls, layers: Sequence[Layer], networks: Sequence[Network] = ()) -> Mapping[str, Any]:
        """As many weights pass between two calls of a layer as the networks have that are measured beside the layers.

        Of several networks that is the one in the middle; where there are none, so many as layers of a small one have.
        """
        counts = sorted(sum(item.count * item.layer.parameters for item in network.layers) for network in networks)
        if counts:
            parameters = counts[len(counts) // 2]
        else:
            parameters = NETWORK_LAYERS * sum(layer.parameters for layer in layers) // max(1, len(layers))
        return {"batch": 1, "network_parameters": parameters}

    def describe(self) -> tuple[Device, Setting, Software]:
        setting = Setting(
            target="onnx",
            batch=self._batch,
            dtype=self._dtype_name,
            threads=self._threads,
            memory_format=None,
            context=self._context,
            options={"provider": self._provider, "spinning": self._spinning, "exporter": self._exporter},
        )
        packages = {"onnxruntime": self._ort.__version__, "latency-lut": version("latency-lut")}
        for name in ("torch", "onnx", "onnxscript"):
            with contextlib.suppress(PackageNotFoundError):
                packages[name] = version(name)
        marginal_text = (
            f"what {COPIES} copies add to a program with one, each after a small convolution of its own; inputs just "
            "written; the fastest of a visit's blocks of calls"
        )
        alone = "the layer alone, reorders at its borders included; the fastest of a visit's blocks of calls"
        details = {
            "context": marginal_text if self._context == "network" else alone,
            "exporter": self._exporter,
            "graph optimisation": "all",
            "execution": "sequential, inputs and outputs bound",
            "thread pool": "one for all sessions" if self._one_pool else "one per session",
            "allocator": self._allocator,
            "pinned": self._pinned,
            "data": "weights He-normal, inputs standard normal; denormals are zero",
        }
        if self._context == "network":
            details[BETWEEN] = f"{self._passing_bytes / 2**20:g} MiB of weights, a program's own among them"
        return self._device, setting, Software(python=platform.python_version(), packages=packages, details=details)

    def prepare(self, layer: Layer, seed: int) -> _Prepared | _Timed:
        size = {"float32": 4}.get(self._dtype_name, 2)
        copies = ALL_COPIES if self._context == "network" else 1
        constants = sum(
            prod(weight.shape)
            for node in layer.nodes
            if isinstance(node.op, Subgraph)
            for weight in node.op.weights
            if weight.role != "parameter"
        )
        needed = 3 * copies * (layer.bytes_moved(batch=self._batch, bytes_per_element=size) + size * constants)
        available = available_memory_bytes()
        if available is not None and needed > 0.8 * available:
            raise LayerFailedError(
                f"needs about {needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are available",
                reason="out_of_memory",
            )
        self._check_batch(layer)
        with layer_errors(self._torch.OutOfMemoryError), self._torch.random.fork_rng(devices=[]):
            timed, feed = self._alone(layer, seed)
            parts = [(timed, 1.0)]
            if self._context == "network":
                parts = []
                for program, weight in marginal(layer, seed):
                    part, _, wanted = self._session(program, seed)
                    self._check(part, wanted)
                    part.is_part = True
                    part.weight_bytes = self._dtype.itemsize * sum(step.layer.parameters for step in program.steps)
                    parts.append((part, weight))
            return _Prepared(parts, timed.model, feed)

    def _alone(self, layer: Layer, seed: int) -> tuple[_Timed, dict[str, Any]]:
        timed, feed, expected = self._session(lone(layer, seed), seed)
        self._check(timed, expected)
        return timed, feed

    def _check_batch(self, layer: Layer) -> None:
        for node in layer.nodes:
            if isinstance(node.op, Subgraph) and node.op.batch != self._batch:
                raise LayerFailedError(
                    f"it was traced with batch {node.op.batch} and cannot run with batch {self._batch}", reason="error"
                )

    def prepare_network(self, source: NetworkSource, seed: int) -> _Prepared | _Timed:
        """Return a whole network as one program: a layer's, or an ONNX file as it is, on random inputs."""
        if (layer := layer_of_source(source)) is not None:
            self._check_batch(layer)
            with layer_errors(self._torch.OutOfMemoryError), self._torch.random.fork_rng(devices=[]):
                timed, feed = self._alone(layer, seed)
            return _Prepared([(timed, 1.0)], timed.model, feed)
        if not isinstance(source, FileSource):
            raise LayerFailedError(
                f"{source.name}: the target onnx runs a PyTorch model as an ONNX file; export it first", reason="error"
            )
        from profiler._onnx._file import example_feed, float_type, load_onnx, session_source

        try:
            model = load_onnx(source.path, source.shapes)
            computes = float_type(model)
        except LatencyLutError as error:
            raise LayerFailedError(str(error), reason="error") from None
        if computes != self._dtype_name:
            raise LayerFailedError(
                f"{source.name}: the file computes in {computes}, not in {self._dtype_name}: "
                f"{option_text('dtype', computes)}",
                reason="error",
            )
        feed = example_feed(model, seed)
        batch = next(iter(feed.values())).shape[:1]
        if batch != (self._batch,):
            raise LayerFailedError(
                f"{source.name}: the file's batch is {batch[0] if batch else 'none'}, and the target's {self._batch}",
                reason="error",
            )
        with layer_errors(self._torch.OutOfMemoryError):
            open_pool(self._ort, self._threads if self._one_pool else 0)
            with tempfile.TemporaryDirectory(prefix="latency-lut-") as folder:
                content = session_source(model, folder)
                del model
                session = self._open(content)
            names = [node.name for node in session.get_inputs()]
            outputs = session.run(None, {name: feed[name] for name in names})
            timed = self._bound(session, {name: feed[name] for name in names}, outputs)
        # What was too large for one piece is gone; its kernels are not told.
        return _Prepared([(timed, 1.0)], source if isinstance(source, bytes) else b"", feed)

    def _session(self, program: Program, seed: int) -> tuple[_Timed, dict[str, Any], list[Any]]:
        """Return the program ready to be timed, its inputs by name, and the outputs that it should have.

        PyTorch says what these are, or where the operators are ONNX's own, the runtime without any optimisation.
        """
        torch, ort = self._torch, self._ort
        open_pool(ort, self._threads if self._one_pool else 0)
        module = module_of(program, self._dtype)
        inputs = self._inputs(program, seed)
        model = to_onnx(program, module, inputs, self._exporter)
        if module is None:
            _check_layer_sizes(model)
        session = self._open(model)
        feed = dict(zip((node.name for node in session.get_inputs()), (x.numpy() for x in inputs), strict=True))
        if module is None:
            options = self._options()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            expected = ort.InferenceSession(model, options, providers=[self._provider]).run(None, feed)
        else:
            with torch.inference_mode():
                expected = [value.numpy() for value in module(*inputs)]
        timed = self._bound(session, feed, expected)
        timed.model = model
        if module is None:
            timed.reference = "the runtime does without optimisation"
        return timed, feed, expected

    def _inputs(self, program: Program, seed: int) -> list[torch.Tensor]:
        """Return a program's inputs: standard normal, or integers in the range that the step takes that reads them."""
        from profiler._modules import seed_host
        from profiler._subgraph import example

        found = {
            arg: given
            for step in program.steps
            for arg, given in zip(step.args, step.layer.givens, strict=True)
            if not given.dtype.startswith("float")
        }
        seed_host(seed)
        return [
            example(found.get(i, Given(shape=shape)), self._batch, self._dtype)
            for i, shape in enumerate(program.inputs)
        ]

    def _open(self, model: bytes | str) -> Any:
        session = self._ort.InferenceSession(model, self._options(), providers=[self._provider])
        session.disable_fallback()
        if session.get_providers()[0] != self._provider:
            raise LayerFailedError(f"{self._provider} did not take the program", reason="error")
        return session

    def _bound(self, session: Any, feed: Mapping[str, Any], expected: Sequence[Any]) -> _Timed:
        """Return a session with its inputs bound, and outputs of the shapes and types of those expected."""
        import numpy as np

        ort = self._ort
        binding = session.io_binding()
        bound = []
        for name, x in feed.items():
            value = ort.OrtValue.ortvalue_from_numpy(x, self._memory, 0)
            binding.bind_ortvalue_input(name, value)
            bound.append((value, x.copy()))
        outputs = []
        for node, wanted in zip(session.get_outputs(), expected, strict=True):
            if not hasattr(wanted, "dtype") or wanted.dtype.kind not in "fiub":
                raise LayerFailedError(f"its output {node.name} is no tensor of numbers", reason="error")
            value = ort.OrtValue.ortvalue_from_numpy(np.zeros_like(wanted), self._memory, 0)
            binding.bind_ortvalue_output(node.name, value)
            outputs.append(value)
        return _Timed(session, binding, bound, outputs)

    def _options(self) -> Any:
        ort = self._ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        if self._one_pool:
            options.use_per_session_threads = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning == "on" else "0")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        if self._provider != CPU_PROVIDER:
            # A layer that the provider leaves to the CPU is a layer that the target cannot run.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _check(self, timed: _Timed, expected: Sequence[Any]) -> None:
        """Raise unless the runtime computes what it should."""
        torch = self._torch
        timed.session.run_with_iobinding(timed.binding)
        timed.binding.synchronize_outputs()
        for value, numbers in zip(timed.outputs, expected, strict=True):
            got, wanted = torch.from_numpy(value.numpy().copy()).float(), torch.from_numpy(numbers).float()
            # Random numbers have no logarithm and may pass what float16 holds: not a number, either way.
            finite = torch.isfinite(wanted)
            same = bool((torch.isfinite(got) == finite).all())
            got, wanted = got[finite], wanted[finite]
            if not wanted.numel() and same:
                continue
            scale = float(wanted.abs().max()) or 1.0 if same else 1.0
            error = float((got - wanted).abs().max()) / scale if same else float("nan")
            if not error <= TOLERANCE[self._dtype_name]:
                raise LayerFailedError(
                    f"computes something else than {timed.reference}: outputs differ by "
                    f"{error:.2g} of their largest value",
                    reason="error",
                )

    @property
    def slow_to_prepare(self) -> bool:
        return self._exporter != "direct"

    def prepared_bytes(self, layer: Layer, batch: int) -> int:
        copies = ALL_COPIES if self._context == "network" else 1
        # A model, its weights as the runtime packs them, and its arena, for each program.
        return copies * 3 * layer.bytes_moved(batch=batch, bytes_per_element=4) + 3 * SESSION_BYTES

    def parts(self, prepared: _Prepared | _Timed) -> Sequence[Part]:
        if isinstance(prepared, _Timed):
            return (Part(prepared, 1.0),)
        return tuple(Part(timed, weight) for timed, weight in prepared.parts)

    def run(self, prepared: _Prepared | _Timed, calls: int) -> int:
        if isinstance(prepared, _Prepared):
            # What the layer's programs take together, weighted: the layer's share, or 1 ns where noise ate it.
            return max(1, round(sum(weight * self.run(timed, calls) for timed, weight in prepared.parts)))
        clock = time.perf_counter_ns
        session, binding = prepared.session, prepared.binding
        synchronise = self._memory != "cpu"
        elapsed = 0
        with layer_errors(self._torch.OutOfMemoryError):
            if self._context == "isolated":
                start = clock()
                for _ in range(calls):
                    session.run_with_iobinding(binding)
                if synchronise:
                    binding.synchronize_outputs()
                return clock() - start
            others: list[_Timed] = []
            if prepared.is_part:
                others = [self._reader(size) for size in matrices_beside(prepared.weight_bytes, self._passing_bytes)]
            for _ in range(calls):
                for passing in others:
                    passing.session.run_with_iobinding(passing.binding)
                for value, master in prepared.inputs:
                    value.update_inplace(master)
                start = clock()
                session.run_with_iobinding(binding)
                if synchronise:
                    binding.synchronize_outputs()
                elapsed += clock() - start
        return elapsed

    def _reader(self, size: int) -> _Timed:
        """Return a program that reads so many bytes of weights: a vector times a matrix, on all threads."""
        if size not in self._readers:
            import numpy as np
            from onnx import TensorProto, helper, numpy_helper

            rows = size // (4 * PASSING_COLUMNS)
            weights = np.full((rows, PASSING_COLUMNS), 1e-3, dtype=np.float32)
            graph = helper.make_graph(
                [helper.make_node("MatMul", ["x", "w"], ["y"])],
                "passing",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, rows))],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, PASSING_COLUMNS))],
                [numpy_helper.from_array(weights, "w")],
            )
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
            open_pool(self._ort, self._threads if self._one_pool else 0)
            feed = {"x": np.ones((1, rows), dtype=np.float32)}
            expected = [np.zeros((1, PASSING_COLUMNS), dtype=np.float32)]
            self._readers[size] = self._bound(self._open(model.SerializeToString()), feed, expected)
        return self._readers[size]

    def implementation(self, prepared: _Prepared | _Timed) -> str | None:
        """Return the nodes that the layer alone becomes, and each one's share of its time by the runtime's profiler.

        The profiler slows small nodes down; how much it did stands beside the shares. No latency comes from it.
        """
        if isinstance(prepared, _Timed) or not prepared.model:
            return None
        with layer_errors(self._torch.OutOfMemoryError), tempfile.TemporaryDirectory(prefix="latency-lut-") as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "nodes")
            session = self._ort.InferenceSession(prepared.model, options, providers=[self._provider])
            plain = self._ort.InferenceSession(prepared.model, self._options(), providers=[self._provider])
            times = []
            for each in (plain, session):
                each.run(None, prepared.feed)
                start = time.perf_counter_ns()
                for _ in range(PROFILED_CALLS):
                    each.run(None, prepared.feed)
                times.append(time.perf_counter_ns() - start)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return attribution(events, times[1] / times[0])

    def relocate(self, prepared: _Prepared | _Timed, rng: random.Random) -> None:
        """Nothing moves: the runtime's arena decides where data lie, anew in every process."""

    def preemptions_and_faults(self) -> tuple[int, int]:
        return self._disturbances.preemptions_and_faults()

    def stolen_and_throttled(self) -> tuple[int, int]:
        return self._disturbances.stolen_and_throttled()

    def release(self, prepared: _Prepared | _Timed) -> None:
        if isinstance(prepared, _Prepared):
            prepared.parts, prepared.model, prepared.feed = [], b"", {}

    def close(self) -> None:
        self._disturbances.close()


def _check_layer_sizes(content: bytes) -> None:
    """Raise where a layer's ONNX operators make more of its constants than the runtime should compute while it loads.

    Raises:
        LayerFailedError: they do.
    """
    import onnx

    from profiler._onnx._check import check_sizes

    try:
        check_sizes(onnx.load_model_from_string(content), "the layer")
    except UsageError as error:
        raise LayerFailedError(str(error), reason="out_of_memory") from None


def attribution(events: Sequence[Mapping[str, Any]], slowdown: float) -> str | None:
    """Return the nodes of a profile with their shares of the time, such as ``Conv 92 %, ReorderOutput 8 %``.

    Args:
        events: the runtime's profile, a list of Chrome trace events.
        slowdown: how much longer the calls took with the profiler than without.
    """
    totals: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            totals[str(event.get("args", {}).get("op_name", "?"))] += float(event.get("dur", 0))
    whole = sum(totals.values())
    if not totals:
        return None
    # The profiler counts whole microseconds; of a layer that takes less, only the nodes' names are known.
    shown = sorted(totals.items(), key=lambda item: -item[1])
    names = [f"{name} {share / whole:.0%}" if whole else name for name, share in shown]
    return ", ".join(names) + f" (alone; profiled ×{slowdown:.2f})"


def _import_runtime(exporter: str) -> Any:
    needed = {"direct": ("onnxruntime", "onnx"), "dynamo": ("onnxruntime", "onnx", "onnxscript")}
    try:
        for name in needed.get(exporter, ("onnxruntime", "onnx")):
            __import__(name)
    except ModuleNotFoundError as error:
        raise TargetUnavailableError(
            f"target onnx needs the package {error.name!r}, which is not installed: pip install -e '.[onnx]'"
        ) from None
    except ImportError as error:
        raise TargetUnavailableError(
            f"target onnx: a package is installed but cannot be loaded ({str(error).splitlines()[0]}): "
            "pip install --force-reinstall -e '.[onnx]'"
        ) from None
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def _provider(wanted: str, runtime: Any) -> str:
    """Return an execution provider's full name.

    Raises:
        UsageError: there is no such provider at all.
        TargetUnavailableError: this build of the runtime lacks it.
    """
    everything = runtime.get_all_providers()
    available = runtime.get_available_providers()
    full = {name.removesuffix("ExecutionProvider").lower(): name for name in everything}
    name: str | None = full.get(wanted.lower().removesuffix("executionprovider"))
    if name is None:
        raise UsageError(f"onnxruntime knows no provider {wanted!r}; it knows: {', '.join(sorted(full))}")
    if name not in available:
        here = ", ".join(available)
        raise TargetUnavailableError(
            f"this onnxruntime was built without {name}; it has: {here}. Install the build that has it, such as "
            "onnxruntime-gpu or onnxruntime-openvino"
        )
    return name

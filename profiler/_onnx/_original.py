"""An ONNX model before the runtime optimises it: who makes which tensor, of what shape, and what is the same always."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
import threading
from collections.abc import Collection, Iterable, Sequence
from math import prod
from typing import Any, NamedTuple

import onnx
from onnx import numpy_helper

from lut import UsageError
from profiler._onnx._check import reason_of, type_name
from profiler._onnx._file import DTYPES, FLOATS, example_feed, input_givens, opset_of, session_source

__all__ = ["Original", "TensorType", "attributes", "domain_name", "open_session"]

# Of the same inputs they make other outputs every time.
RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
# Operators whose result follows from their input's shape alone.
OF_SHAPES = frozenset({"Shape", "Size"})
# A call of the whole model, where shapes depend on values, is cut short after so long.
RUN_LIMIT_S = 20.0
# So many numbers are made up for such a call at most.
MOST_FED = 1 << 26


class TensorType(NamedTuple):
    """A tensor's type: its elements' name (as in :data:`lut.subgraph.DType`, or ONNX's own) and its whole shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def floating(self) -> bool:
        """Whether its elements are floating-point numbers."""
        return self.dtype in FLOATS


def attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def domain_name(node: Any) -> str:
    """Return an operator's name with its domain, where that is not ONNX's own: ``com.microsoft.FusedConv``."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def open_session(
    model: Any, level: str, provider: str, what: str, *, saved: str | None = None, external: bool = False
) -> Any:
    """Return a session of a model with one thread, and write what the runtime made of it to ``saved``.

    ``external``: the weights of what is written go into a file of their own, where they need not be read.

    Raises:
        UsageError: the runtime cannot load the model.
    """
    import onnxruntime as ort

    from profiler._onnx._target import has_shared_pool

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.use_per_session_threads = not has_shared_pool()
    if saved is not None:
        options.optimized_model_filepath = saved
        if external:
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    with tempfile.TemporaryDirectory(prefix="latency-lut-") as folder:
        try:
            return ort.InferenceSession(session_source(model, folder), options, providers=[provider], enable_fallback=0)
        except Exception as error:
            raise UsageError(f"{what}: ONNX Runtime cannot load it: {reason_of(error)}") from None


class Original:
    """A model's graph with what can be known about it. Final.

    Args:
        model: with all inputs' shapes; operators in an order in which arguments come first.
        what: the model, for messages.

    Raises:
        UsageError: the runtime cannot run it.
    """

    def __init__(self, model: Any, what: str) -> None:
        self.model, self.what = model, what
        self.nodes: list[Any] = list(model.graph.node)
        self.weights: dict[str, Any] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.givens = input_givens(model)
        self.outputs = [value.name for value in model.graph.output]
        self.opset = opset_of(model)
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.types: dict[str, TensorType | None] = {}
        self._find_types()
        self._read = {name for node in self.nodes for name in node.input} | set(self.outputs)
        self._aliases = {node.output[0]: node.input[0] for node in self.nodes if self._is_alias(node)}
        self._constants: dict[str, Any] = {}

    def _find_types(self) -> None:
        for name, tensor in self.weights.items():
            self.types[name] = TensorType(_dtype(tensor.data_type), tuple(tensor.dims))
        for name, given in self.givens.items():
            self.types[name] = TensorType(given.dtype, given.shape)
        with contextlib.suppress(Exception):
            # It gives up on a model as a whole where one operator puzzles it; a run tells then.
            inferred = onnx.shape_inference.infer_shapes(self.model, data_prop=True, strict_mode=False)
            for value in (*inferred.graph.value_info, *inferred.graph.output):
                tensor = value.type.tensor_type
                if value.name in self.types or not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
                    continue
                if all(dim.HasField("dim_value") for dim in tensor.shape.dim):
                    sizes = tuple(int(dim.dim_value) for dim in tensor.shape.dim)
                    self.types[value.name] = TensorType(_dtype(tensor.elem_type), sizes)
        missing = [name for name in self.producer if name not in self.types]
        if missing:
            self.types.update(zip(missing, map(_type_of, self._run(self.model, missing)), strict=True))

    def _run(self, model: Any, wanted: Sequence[str]) -> list[Any]:
        """Return tensors of a model, from one run on random inputs, without any optimisation."""
        fed = sum(prod(given.shape) for given in self.givens.values()) if model is self.model else 0
        if fed > MOST_FED:
            raise UsageError(
                f"{self.what}: its inputs are {fed:,} numbers, and its shapes cannot be known without running it, "
                f"which is done with {MOST_FED:,} at most; give it a smaller batch (--input)"
            )
        kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.output]
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        try:
            session = open_session(model, "DISABLE_ALL", "CPUExecutionProvider", self.what)
        finally:
            del model.graph.output[:]
            model.graph.output.extend(kept)
        return _run_within(session, example_feed(model, 0), self.what)

    def _is_alias(self, node: Any) -> bool:
        """Return whether an operator gives its first input as it is."""
        if node.op_type == "Identity":
            return True
        if node.op_type == "Dropout":
            training = node.input[2] if len(node.input) > 2 else ""
            # Its mask, where somebody reads it, is computed.
            return not training and not (len(node.output) > 1 and self._is_read(node.output[1]))
        if node.op_type == "Cast":
            before, after = self.types.get(node.input[0]), self.types.get(node.output[0])
            return before is not None and after is not None and before.dtype == after.dtype
        return False

    def _is_read(self, name: str) -> bool:
        return bool(name) and name in self._read

    def root(self, name: str) -> str:
        """Return the tensor that another is the same as, through operators that only pass it on."""
        while name in self._aliases:
            name = self._aliases[name]
        return name

    def is_alias(self, index: int) -> bool:
        """Return whether the operator of this number only passes its input on."""
        return self.nodes[index].output[0] in self._aliases

    def type_of(self, name: str) -> TensorType | None:
        """Return a tensor's type, ``None`` for what is no tensor, such as a sequence."""
        return self.types.get(name)

    def find_fixed(self, computed: Collection[str]) -> set[str]:
        """Return the tensors that are the same for every input and not computed anew.

        Args:
            computed: tensors that the runtime computes in every call, whatever they follow from.
        """
        fixed = set(self.weights)
        for node in self.nodes:
            if node.op_type in RANDOM or any(name in computed for name in node.output if name):
                continue
            of_shape = node.op_type in OF_SHAPES and self.types.get(node.input[0]) is not None
            if of_shape or all(name in fixed for name in node.input if name):
                fixed.update(name for name in node.output if name)
        return fixed

    def constants(self, names: Iterable[str], fixed: set[str]) -> dict[str, Any]:
        """Return the values of fixed tensors, as arrays."""
        wanted = [name for name in dict.fromkeys(names) if name not in self._constants]
        computed = []
        for name in wanted:
            if name in self.weights:
                self._constants[name] = numpy_helper.to_array(self.weights[name])
            else:
                computed.append(name)
        if computed:
            self._constants.update(zip(computed, self._run(self._fixed_part(computed, fixed), computed), strict=True))
        return self._constants

    def _fixed_part(self, wanted: Sequence[str], fixed: set[str]) -> Any:
        """Return a model without inputs that computes fixed tensors."""
        import numpy as np

        nodes: set[int] = set()
        weights: dict[str, Any] = {}
        waiting = list(wanted)
        while waiting:
            name = waiting.pop()
            if name in self.weights:
                weights[name] = self.weights[name]
                continue
            index = self.producer[name]
            node = self.nodes[index]
            if index in nodes or name in weights:
                continue
            before = self.types.get(node.input[0]) if node.input else None
            if node.op_type in OF_SHAPES and before is not None and node.input[0] not in fixed:
                given = attributes(node)
                sizes: Any = before.shape[given.get("start", 0) : given.get("end", len(before.shape))]
                value = np.array(prod(before.shape) if node.op_type == "Size" else sizes, dtype=np.int64)
                weights[name] = numpy_helper.from_array(value, name)
                continue
            nodes.add(index)
            waiting += [each for each in node.input if each]
        graph = onnx.helper.make_graph(
            [self.nodes[i] for i in sorted(nodes)], "constants", [], [], list(weights.values())
        )
        model = onnx.helper.make_model(graph, opset_imports=list(self.model.opset_import))
        model.ir_version = self.model.ir_version
        return model

    def digests(self) -> dict[str, bytes]:
        """Return for each tensor what equal operators on equal tensors share."""
        found: dict[str, bytes] = {}
        for name in self.givens:
            found[name] = _digest(b"input", name.encode())
        for name, tensor in self.weights.items():
            found[name] = _digest(b"weight", str((tensor.data_type, tuple(tensor.dims))).encode(), _content(tensor))
        for i, node in enumerate(self.nodes):
            if self.is_alias(i):
                found[node.output[0]] = found[node.input[0]]
                continue
            described = [node.domain, node.op_type, i if node.op_type in RANDOM else "", len(node.output)]
            written = sorted(attribute.SerializeToString() for attribute in node.attribute)
            taken = [found.get(name, b"") for name in node.input]
            own = _digest(repr(described).encode(), *written, b"|", *taken)
            for k, name in enumerate(node.output):
                if name:
                    found[name] = _digest(own, str(k).encode())
        return found


def _run_within(session: Any, feed: dict[str, Any], what: str) -> list[Any]:
    """Return a session's outputs; it is stopped where it takes longer than looking at a model may.

    Raises:
        UsageError: the runtime cannot run it, or not in that time.
    """
    import onnxruntime as ort

    options = ort.RunOptions()
    late = threading.Event()

    def stop() -> None:
        late.set()
        options.terminate = True

    timer = threading.Timer(RUN_LIMIT_S, stop)
    timer.daemon = True
    timer.start()
    try:
        found: list[Any] = session.run(None, feed, options)
    except Exception as error:
        if late.is_set():
            raise UsageError(
                f"{what}: one call of it took more than {RUN_LIMIT_S:g} s, and its shapes cannot be known without one; "
                "give it a smaller batch (--input)"
            ) from None
        raise UsageError(f"{what}: ONNX Runtime cannot run it: {reason_of(error)}") from None
    finally:
        timer.cancel()
    return found


def _digest(*parts: bytes) -> bytes:
    made = hashlib.sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "little"))
        made.update(part)
    return made.digest()


def _content(tensor: Any) -> bytes:
    if tensor.raw_data:
        return bytes(tensor.raw_data)
    unnamed = onnx.TensorProto()
    unnamed.CopyFrom(tensor)
    unnamed.ClearField("name")
    return bytes(unnamed.SerializeToString())


def _dtype(kind: int) -> str:
    return DTYPES.get(kind) or type_name(kind).lower()


def _type_of(value: Any) -> TensorType | None:
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return None
    dtype = "string" if value.dtype.kind in "OUS" else str(value.dtype)
    # One object for each name, as in the other ways here: a layer's JSON leaves a default out by identity.
    return TensorType(sys.intern(dtype), tuple(int(size) for size in value.shape))

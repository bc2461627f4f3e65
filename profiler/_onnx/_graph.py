"""Programs of a few layers, as PyTorch modules and as ONNX models."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lut import Layer, LayerError, chain
from lut._option_names import option_text
from lut.errors import LayerFailedError
from lut.primitives import (
    Activation,
    Add,
    AvgPool2d,
    BatchNorm2d,
    ChannelShuffle,
    Concat,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    LayerNorm,
    Linear,
    MaxPool2d,
    Mul,
    Primitive,
    Shape,
    Subgraph,
)
from lut.subgraph import Argument, Call, Ref, Scalar, Weight
from profiler._onnx._check import REFUSED, quoted
from profiler._quiet import quiet

if TYPE_CHECKING:
    import torch

__all__ = ["EXPORTERS", "Program", "Step", "has_onnx", "module_of", "to_onnx"]

EXPORTERS = ("direct", "dynamo", "torchscript")

# The newest operators that the oldest supported runtime (1.20) knows; GELU and HardSwish are single nodes in it.
OPSET = 20
IR_VERSION = 10
# PyTorch's, of all norms.
EPSILON = 1e-5
# Attributes of a subgraph's call that are none of the operator's, which has none of such a name: which outputs it
# computes, where they are not one; and before the name of one that is a tensor (its type, axes, sizes and numbers).
OUTPUTS, TENSOR = "@outputs", "@tensor:"


class Step(NamedTuple):
    """A layer in a program: its weights come from ``seed``, its inputs are the values numbered ``args``."""

    layer: Layer
    seed: int
    args: tuple[int, ...]


class Program(NamedTuple):
    """Layers wired together: values are numbered, the program's inputs first, then each step's output.

    ``inputs`` are shapes of one sample each.
    """

    inputs: tuple[Shape, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the outputs, one sample each."""
        shapes = [*self.inputs, *(step.layer.output_shape for step in self.steps)]
        return tuple(shapes[i] for i in self.outputs)


def has_onnx(layer: Layer) -> bool:
    """Whether a layer has ONNX operators, for which PyTorch has no module."""
    return any(isinstance(node.op, Subgraph) and node.op.framework == "onnx" for node in layer.nodes)


def module_of(program: Program, dtype: torch.dtype) -> torch.nn.Module | None:
    """Return the program as a module in evaluation mode; ``forward`` returns a tuple of its outputs.

    ``None`` where it has ONNX operators, for which there is none.
    """
    if any(has_onnx(step.layer) for step in program.steps):
        return None
    import torch

    from profiler._modules import build_module, seed_host

    class Wired(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList()
            for step in program.steps:
                seed_host(step.seed)
                self.parts.append(build_module(step.layer))

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values = list(inputs)
            for part, step in zip(self.parts, program.steps, strict=True):
                values.append(part(*[values[i] for i in step.args]))
            return tuple(values[i] for i in program.outputs)

    with torch.random.fork_rng(devices=[]):
        return Wired().to(dtype).eval().requires_grad_(False)


def to_onnx(program: Program, module: torch.nn.Module | None, inputs: Sequence[torch.Tensor], exporter: str) -> bytes:
    """Return the program as an ONNX model.

    Outputs that a subgraph gives beside its layer's stand behind the program's.

    Args:
        program: what to write.
        module: the same as a module, whose weights are taken; ``None`` where it has ONNX operators, which are written
            as they are, with weights from each step's seed.
        inputs: example inputs, the batch in front.
        exporter: ``direct`` writes the graph node by node, in a millisecond; ``dynamo`` and ``torchscript`` are
            ``torch.onnx.export`` with and without ``dynamo=True``.

    Raises:
        LayerFailedError: the exporter refused, or the layer's operators are another framework's.
    """
    if exporter == "direct" or module is None:
        return _direct(program, module, inputs)
    import torch

    names = [f"x{i}" for i in range(len(inputs))]
    outputs = [f"y{i}" for i in range(len(program.outputs))]
    shared: dict[str, Any] = {"input_names": names, "output_names": outputs}
    with quiet():
        try:
            if exporter == "dynamo":
                exported = torch.onnx.export(
                    module, tuple(inputs), dynamo=True, external_data=False, opset_version=18, verbose=False, **shared
                )
                assert exported is not None
                return bytes(exported.model_proto.SerializeToString())
            with tempfile.TemporaryDirectory(prefix="latency-lut-") as folder:
                path = Path(folder) / "model.onnx"
                torch.onnx.export(module, tuple(inputs), str(path), dynamo=False, opset_version=17, **shared)
                return path.read_bytes()
        except ModuleNotFoundError:
            raise
        except Exception as error:
            first = str(error).strip().splitlines()
            raise LayerFailedError(
                f"torch.onnx.export ({exporter}) failed: {type(error).__name__}: {first[0] if first else ''}",
                reason="error",
            ) from error


class _Writer:
    """Collects the nodes and weights of a graph. Final."""

    def __init__(self, dtype: torch.dtype, batch: int, opset: int) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._numpy = helper, numpy_helper
        self.dtype, self.batch, self.opset = dtype, batch, opset
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.domains: set[str] = set()
        # What subgraphs give beside their layer's output.
        self.extra: list[str] = []

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self.nodes_of(kind, inputs, (True,), attributes)[0]

    def nodes_of(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[bool], attributes: Mapping[str, Any]
    ) -> list[str]:
        """Add a node whose name may stand behind a domain; return its outputs, ``""`` for those that are not wanted."""
        domain, _, name = kind.rpartition(".")
        self.domains.add(domain)
        value = f"v{len(self.nodes)}"
        made = [(f"{value}_{k}" if k else value) if wanted else "" for k, wanted in enumerate(outputs)]
        node = self._helper.make_node(name, list(inputs), made, name=f"{name}_{value}", domain=domain)
        # Not as arguments of make_node, which has a name, a domain and more of its own.
        node.attribute.extend(self._helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return made

    def weight(self, tensor: torch.Tensor) -> str:
        return self.array(tensor.detach().numpy())

    def array(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(self._numpy.from_array(array, name))
        return name


def _direct(program: Program, module: torch.nn.Module | None, inputs: Sequence[torch.Tensor]) -> bytes:
    from onnx import TensorProto, helper

    kinds = {
        "float32": TensorProto.FLOAT,
        "float16": TensorProto.FLOAT16,
        "float64": TensorProto.DOUBLE,
        "int64": TensorProto.INT64,
        "int32": TensorProto.INT32,
        "int16": TensorProto.INT16,
        "int8": TensorProto.INT8,
        "uint8": TensorProto.UINT8,
        "bool": TensorProto.BOOL,
    }
    dtype = _float_of(inputs)
    batch = inputs[0].shape[0]
    _check_weights(program)
    opset = _opset(program)
    writer = _Writer(dtype, batch, opset)
    values = [f"x{i}" for i in range(len(inputs))]
    for step, tensors in zip(program.steps, _tensors(program, module, dtype), strict=True):
        local = [values[i] for i in step.args]
        for i, (node, own) in enumerate(zip(step.layer.nodes, tensors, strict=True)):
            args = [local[arg] for arg in node.args]
            if isinstance(node.op, Subgraph):
                local.append(_write_subgraph(writer, node.op, step.seed + (i << 32), args))
            else:
                shapes = tuple(step.layer.shapes[arg] for arg in node.args)
                local.append(_write(writer, node.op, shapes, own, args))
        values.append(local[-1])
    outputs = [f"y{i}" for i in range(len(program.outputs))]
    for value, name in zip(program.outputs, outputs, strict=True):
        if values[value].startswith("y"):
            raise LayerError("a program's outputs are distinct values")
        _rename(writer.nodes, values[value], name)
        values[value] = name
    given = [str(x.dtype).removeprefix("torch.") for x in inputs]
    # What comes out of ONNX operators has a type that the runtime finds out.
    untyped = [has_onnx(program.steps[i - len(inputs)].layer) for i in program.outputs]
    infos = [
        helper.make_empty_tensor_value_info(name)
        if open_type
        else helper.make_tensor_value_info(name, kinds[str(dtype).removeprefix("torch.")], [batch, *shape])
        for name, shape, open_type in zip(outputs, program.output_shapes, untyped, strict=True)
    ]
    graph = helper.make_graph(
        writer.nodes,
        "layer",
        [
            helper.make_tensor_value_info(f"x{i}", kinds[kind], [batch, *shape])
            for i, (shape, kind) in enumerate(zip(program.inputs, given, strict=True))
        ],
        [*infos, *(helper.make_empty_tensor_value_info(name) for name in writer.extra)],
        writer.weights,
    )
    domains = {"": opset, **{domain: _DOMAINS.get(domain, 1) for domain in sorted(writer.domains) if domain}}
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, number) for domain, number in domains.items()],
        producer_name="latency-lut",
    )
    model.ir_version = IR_VERSION
    return bytes(model.SerializeToString())


# What protobuf can write in one piece, of weights of four bytes.
MOST_ELEMENTS = (1 << 31) // 4


def _check_weights(program: Program) -> None:
    """Raise where a program's weights, a subgraph's constants among them, are more than a model can hold."""
    elements = 0
    for step in program.steps:
        for node, shapes in zip(step.layer.nodes, _taken(step.layer), strict=True):
            if isinstance(node.op, Subgraph):
                elements += sum(prod(weight.shape) for weight in node.op.weights)
            else:
                elements += node.op.parameters(shapes)
    if elements > MOST_ELEMENTS:
        raise LayerFailedError(
            f"its program would hold {elements:,} weights, and an ONNX model in one piece {MOST_ELEMENTS:,} at most",
            reason="out_of_memory",
        )


def _taken(layer: Layer) -> list[tuple[Shape, ...]]:
    return [tuple(layer.shapes[arg] for arg in node.args) for node in layer.nodes]


# Versions of the operators that are not ONNX's own.
_DOMAINS = {"ai.onnx.ml": 3, "com.microsoft": 1}


def _float_of(inputs: Sequence[torch.Tensor]) -> torch.dtype:
    import torch

    return next((x.dtype for x in inputs if x.dtype.is_floating_point), torch.float32)


def _opset(program: Program) -> int:
    """Return the version of the operators that a program is written in: the file's that its subgraphs come from.

    Primitives that are newer than that are written as their parts.

    Raises:
        LayerFailedError: its subgraphs come from files of different versions.
    """
    found = {
        node.op.opset
        for step in program.steps
        for node in step.layer.nodes
        if isinstance(node.op, Subgraph) and node.op.framework == "onnx"
    }
    if len(found) > 1:
        raise LayerFailedError(f"its ONNX operators are of the versions {sorted(found)}, and a program has one")
    return max(found, default=OPSET) or OPSET


def _tensors(
    program: Program, module: torch.nn.Module | None, dtype: torch.dtype
) -> Iterator[list[Mapping[str, torch.Tensor]]]:
    """Yield each step's weights, node by node."""
    import torch

    from profiler._modules import build_module, seed_host

    if module is not None:
        for part in module.get_submodule("parts").children():
            # A chain is a Sequential of its operators, a graph holds them as ``ops``: in the nodes' order either way.
            operators = (part.get_submodule("ops") if hasattr(part, "ops") else part).children()
            yield [dict(op.named_parameters()) | dict(op.named_buffers()) for op in operators]
        return
    with torch.random.fork_rng(devices=[]):
        for step in program.steps:
            seed_host(step.seed)
            found: list[Mapping[str, torch.Tensor]] = []
            for node in step.layer.nodes:
                tensors: dict[str, torch.Tensor] = {}
                if isinstance(node.op, _WITH_WEIGHTS):
                    made = build_module(chain(step.layer.shapes[node.args[0]], node.op)).get_submodule("0").to(dtype)
                    tensors = dict(made.named_parameters()) | dict(made.named_buffers())
                found.append(tensors)
            yield found


_WITH_WEIGHTS = (BatchNorm2d, Conv2d, LayerNorm, Linear)


def _rename(nodes: Sequence[Any], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def _gelu(writer: _Writer, x: str) -> str:
    if writer.opset >= 20:
        return writer.node("Gelu", [x])
    if writer.opset < 9:
        raise LayerFailedError(f"ONNX operators of version {writer.opset} have no Gelu, and no Erf to make it from")
    scaled = writer.node("Div", [x, writer.weight(_scalar(writer, sqrt(2)))])
    grown = writer.node("Add", [writer.node("Erf", [scaled]), writer.weight(_scalar(writer, 1.0))])
    return writer.node("Mul", [writer.node("Mul", [x, grown]), writer.weight(_scalar(writer, 0.5))])


def _hardswish(writer: _Writer, x: str) -> str:
    if writer.opset >= 14:
        return writer.node("HardSwish", [x])
    return writer.node("Mul", [x, writer.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)])


def _relu6(writer: _Writer, x: str) -> str:
    if writer.opset < 11:
        return writer.node("Clip", [x], min=0.0, max=6.0)
    return writer.node("Clip", [x, writer.weight(_scalar(writer, 0.0)), writer.weight(_scalar(writer, 6.0))])


_ACTIVATIONS: dict[str, Callable[[_Writer, str], str]] = {
    "relu": lambda w, x: w.node("Relu", [x]),
    "relu6": _relu6,
    "sigmoid": lambda w, x: w.node("Sigmoid", [x]),
    "hardsigmoid": lambda w, x: w.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5),
    "hardswish": _hardswish,
    "silu": lambda w, x: w.node("Mul", [x, w.node("Sigmoid", [x])]),
    "gelu": _gelu,
    "tanh": lambda w, x: w.node("Tanh", [x]),
}


def _scalar(writer: _Writer, value: float) -> torch.Tensor:
    import torch

    return torch.tensor(value, dtype=writer.dtype)


def _write(
    writer: _Writer,
    op: Primitive,
    shapes: tuple[Shape, ...],
    tensors: Mapping[str, torch.Tensor],
    args: list[str],
) -> str:
    match op:
        case Conv2d():
            weights = [writer.weight(tensors[name]) for name in ("weight", "bias") if name in tensors]
            return writer.node(
                "Conv",
                [*args, *weights],
                kernel_shape=op.kernel_size,
                strides=op.stride,
                pads=(*op.padding, *op.padding),
                dilations=op.dilation,
                group=op.groups,
            )
        case BatchNorm2d():
            names = ("weight", "bias", "running_mean", "running_var")
            weights = [writer.weight(tensors[name]) for name in names]
            return writer.node("BatchNormalization", [*args, *weights], epsilon=EPSILON)
        case Activation():
            return _ACTIVATIONS[op.kind](writer, args[0])
        case Add():
            return writer.node("Add", args)
        case Mul():
            return writer.node("Mul", args)
        case Concat():
            return writer.node("Concat", args, axis=1)
        case ChannelShuffle():
            return _shuffle(writer, op.groups, shapes[0], args[0])
        case MaxPool2d():
            return writer.node(
                "MaxPool", args, kernel_shape=op.kernel_size, strides=op.stride, pads=(*op.padding, *op.padding)
            )
        case AvgPool2d():
            return writer.node(
                "AveragePool",
                args,
                kernel_shape=op.kernel_size,
                strides=op.stride,
                pads=(*op.padding, *op.padding),
                count_include_pad=1,
            )
        case GlobalAvgPool2d():
            return writer.node("GlobalAveragePool", args)
        case Flatten():
            return writer.node("Flatten", args, axis=1)
        case Linear():
            return _linear(writer, len(shapes[0]), tensors, args[0])
        case LayerNorm():
            return _layer_norm(writer, len(shapes[0]), tensors, args[0])
    raise LayerError(f"no ONNX operator is known for {type(op).__name__}")


def _shuffle(writer: _Writer, groups: int, shape: Shape, x: str) -> str:
    import numpy as np

    channels, *size = shape
    sizes = (np.array([-1, *axes, *size], dtype=np.int64) for axes in ((groups, channels // groups), (channels,)))
    apart, together = map(writer.array, sizes)
    turned = writer.node("Transpose", [writer.node("Reshape", [x, apart])], perm=[0, 2, 1, 3, 4])
    return writer.node("Reshape", [turned, together])


def _linear(writer: _Writer, axes: int, tensors: Mapping[str, torch.Tensor], x: str) -> str:
    # The oldest Gemm must have a bias, and no Gemm takes more than one vector for each sample.
    if axes == 1 and ("bias" in tensors or writer.opset >= 11):
        weights = [writer.weight(tensors[name]) for name in ("weight", "bias") if name in tensors]
        return writer.node("Gemm", [x, *weights], transB=1)
    product = writer.node("MatMul", [x, writer.weight(tensors["weight"].t().contiguous())])
    return writer.node("Add", [product, writer.weight(tensors["bias"])]) if "bias" in tensors else product


def _layer_norm(writer: _Writer, axes: int, tensors: Mapping[str, torch.Tensor], x: str) -> str:
    weights = [writer.weight(tensors[name]) for name in ("weight", "bias") if name in tensors]
    if writer.opset >= 17:
        return writer.node("LayerNormalization", [x, *weights], axis=-1, epsilon=EPSILON)
    # As exporters wrote it before there was one operator for it; the runtime makes one of it again.
    centred = writer.node("Sub", [x, writer.node("ReduceMean", [x], axes=[axes], keepdims=1)])
    squared = writer.node("Pow", [centred, writer.weight(_scalar(writer, 2.0))])
    mean = writer.node("ReduceMean", [squared], axes=[axes], keepdims=1)
    deviation = writer.node("Sqrt", [writer.node("Add", [mean, writer.weight(_scalar(writer, EPSILON))])])
    scaled = writer.node("Mul", [writer.node("Div", [centred, deviation]), weights[0]])
    return writer.node("Add", [scaled, weights[1]]) if len(weights) > 1 else scaled


def _write_subgraph(writer: _Writer, op: Subgraph, seed: int, args: list[str]) -> str:
    """Write a subgraph's calls; weights come from ``seed`` but for those that are written out.

    Raises:
        LayerFailedError: the operators are another framework's, or the setting is not what they were traced for.
    """
    import numpy as np

    if op.framework != "onnx":
        raise LayerFailedError(
            "it has operators of PyTorch's, which are no ONNX operators one by one; profile the model itself "
            f"(--model with --target onnx), or use {option_text('exporter', 'dynamo')}"
        )
    if op.batch != writer.batch:
        raise LayerFailedError(f"it was traced with batch {op.batch} and cannot run with batch {writer.batch}")
    own = str(writer.dtype).removeprefix("torch.")
    for given in op.inputs:
        if given.dtype.startswith("float") and given.dtype != own:
            raise LayerFailedError(
                f"its file computes in {given.dtype}, not in {own}: {option_text('dtype', given.dtype)}"
            )
    _check_operators(op)
    rng = np.random.default_rng(seed)
    values: list[str | list[str]] = [*args, *(writer.array(_drawn(weight, rng)) for weight in op.weights)]
    for call in op.calls:
        if call.op == "getitem":
            whole, position = _part_of(call, values)
            values.append(whole[position])
            continue
        inputs = ["" if argument is None else values[_number_of(call, argument)] for argument in call.args]
        named = dict(call.named)
        outputs: Any = named.pop(OUTPUTS, (True,))
        attributes = {}
        for name, value in named.items():
            if name.startswith(TENSOR):
                attributes[name.removeprefix(TENSOR)] = _tensor(value, call.op)
            else:
                attributes[name] = [_plain(each) for each in value] if isinstance(value, tuple) else _plain(value)
        if not all(isinstance(name, str) for name in inputs):
            raise LayerFailedError(f"{call.op} takes an operator's outputs all at once")
        made = writer.nodes_of(call.op, [str(name) for name in inputs], outputs, attributes)
        values.append(made if OUTPUTS in dict(call.named) else made[0])
    last = values[-1]
    also = [values[value] for value in op.also]
    if not isinstance(last, str) or not all(isinstance(name, str) for name in also):
        raise LayerFailedError("it gives an operator's outputs all at once")
    writer.extra += [str(name) for name in also]
    return last


# Whose operators a layer out of a file may call, and which of them nothing may: they run other graphs, or hand data to
# another program's loader.
_CALLED = frozenset({"", *_DOMAINS})
_NEVER_CALLED = REFUSED | {
    "BeamSearch",
    "GreedySearch",
    "If",
    "Loop",
    "Sampling",
    "Scan",
    "SequenceMap",
    "WhisperBeamSearch",
}
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
MOST_RESULTS = 256
# Of a tensor that is an attribute: it decides what an operator does, and is no weight.
MOST_WRITTEN = 1 << 16


def _check_operators(op: Subgraph) -> None:
    """Raise unless a subgraph's calls are of operators that may stand in a file, by plain names.

    Raises:
        LayerFailedError: one is not.
    """
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not 0 <= op.opset <= newest:
        raise LayerFailedError(
            f"its operators are version {op.opset}, and this release of onnx knows those up to {newest}"
        )
    for call in op.calls:
        if call.op == "getitem":
            continue
        domain, _, name = call.op.rpartition(".")
        shown = quoted(call.op)
        if domain not in _CALLED or not _PLAIN_NAME.fullmatch(name) or name in _NEVER_CALLED:
            raise LayerFailedError(f"{shown} is no operator that a layer may call")
        if domain != "com.microsoft" and not onnx.defs.has(name, domain):
            raise LayerFailedError(f"ONNX has no operator {shown}")
        names = [key for key, _ in call.named]
        if len(set(names)) < len(names):
            raise LayerFailedError(f"{shown} has an attribute twice")
        for key, value in call.named:
            if key == OUTPUTS:
                if not isinstance(value, tuple) or not 1 <= len(value) <= MOST_RESULTS or True not in value:
                    raise LayerFailedError(f"{shown} does not say which of its outputs it gives")
            elif not _PLAIN_NAME.fullmatch(key.removeprefix(TENSOR)):
                raise LayerFailedError(f"{shown} has an attribute {quoted(key)!r}, which is no name of one")
            elif value is None or value == ():
                raise LayerFailedError(f"{shown} has an attribute {key} without a value")


def _number_of(call: Call, argument: Argument) -> int:
    """Return the number of the value that an argument is."""
    if not isinstance(argument, Ref) or argument.kind != "value" or not isinstance(argument.of, int):
        raise LayerFailedError(f"{quoted(call.op)} takes something else than values")
    return argument.of


def _part_of(call: Call, values: Sequence[str | list[str]]) -> tuple[list[str], int]:
    """Return an operator's outputs and which of them a ``getitem`` takes."""
    whole = values[_number_of(call, call.args[0])] if len(call.args) == 2 else None
    position = call.args[-1] if call.args else None
    if not isinstance(whole, list) or type(position) is not int or not 0 <= position < len(whole):
        raise LayerFailedError("getitem takes one of several outputs of an operator")
    return whole, position


def _plain(scalar: Any) -> Any:
    """Return a number or a text as ONNX has it."""
    if not isinstance(scalar, Ref):
        return scalar
    if scalar.kind == "float" and scalar.of in ("inf", "-inf", "nan"):
        return float(scalar.of)
    raise LayerFailedError(f"an attribute of an ONNX operator cannot be {quoted(str(scalar.of))!r}")


def _tensor(written: Any, op: str) -> Any:
    """Return a tensor that is an attribute: written as its type, its axes, their sizes and the numbers."""
    import numpy as np
    from onnx import numpy_helper

    wrong = LayerFailedError(f"{quoted(op)} has a tensor as an attribute that is not written as one")
    if not isinstance(written, tuple) or len(written) < 2 or len(written) > MOST_WRITTEN:
        raise wrong
    dtype, axes, *rest = written
    if dtype not in _TENSOR_TYPES or type(axes) is not int or not 0 <= axes <= min(8, len(rest)):
        raise wrong
    sizes, numbers = rest[:axes], [_plain(each) for each in rest[axes:]]
    if any(type(size) is not int or size < 0 for size in sizes) or prod(sizes) != len(numbers):
        raise wrong
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise wrong
    try:
        return numpy_helper.from_array(np.array(numbers, dtype=dtype).reshape(sizes))
    except (OverflowError, ValueError):
        raise wrong from None


_TENSOR_TYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


def _drawn(weight: Weight, rng: Any) -> Any:
    """Return a weight as an array: what is written out, or numbers that keep activations in their range."""
    import numpy as np

    written: Sequence[Scalar] | None = weight.values if weight.values is not None else weight.numbers
    if written is not None:
        numbers = np.array([float(x) if isinstance(x, str) else x for x in written], dtype=weight.dtype)
        # One value may stand for all of them.
        if numbers.size == 1:
            return np.full(weight.shape, numbers[0])
        return numbers.reshape(weight.shape)
    if weight.dtype in ("int8", "uint8"):
        limits = np.iinfo(weight.dtype)
        return rng.integers(limits.min, limits.max, weight.shape, dtype=weight.dtype, endpoint=True)
    if not weight.dtype.startswith("float"):
        return np.zeros(weight.shape, dtype=weight.dtype)
    if len(weight.shape) < 2:
        return rng.uniform(0.5, 1.5, weight.shape).astype(weight.dtype)
    # He et al. (2015), as for the primitives.
    return (rng.standard_normal(weight.shape, dtype=np.float32) * sqrt(2 / max(1, prod(weight.shape[1:])))).astype(
        weight.dtype
    )

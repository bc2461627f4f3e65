"""Programs of a few layers, as PyTorch modules and as ONNX models."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lut import Layer, LayerError
from lut.errors import LayerFailedError
from lut.primitives import (
    Activation,
    Add,
    AvgPool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    Mul,
    Primitive,
    Shape,
)

if TYPE_CHECKING:
    import torch

__all__ = ["EXPORTERS", "Program", "Step", "module_of", "to_onnx"]

EXPORTERS = ("direct", "dynamo", "torchscript")

# The newest operators that the oldest supported runtime (1.20) knows; GELU and HardSwish are single nodes in it.
OPSET = 20
IR_VERSION = 10


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


def module_of(program: Program, dtype: torch.dtype) -> torch.nn.Module:
    """Return the program as a module in evaluation mode; ``forward`` returns a tuple of its outputs."""
    import torch

    from profiler._modules import build_module

    class Wired(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList()
            for step in program.steps:
                torch.manual_seed(step.seed)
                self.parts.append(build_module(step.layer))

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values = list(inputs)
            for part, step in zip(self.parts, program.steps, strict=True):
                values.append(part(*[values[i] for i in step.args]))
            return tuple(values[i] for i in program.outputs)

    with torch.random.fork_rng(devices=[]):
        return Wired().to(dtype).eval().requires_grad_(False)


def to_onnx(program: Program, module: torch.nn.Module, inputs: Sequence[torch.Tensor], exporter: str) -> bytes:
    """Return the program as an ONNX model.

    Args:
        program: what to write.
        module: the same as a module, whose weights are taken.
        inputs: example inputs, the batch in front.
        exporter: ``direct`` writes the graph node by node, in a millisecond; ``dynamo`` and ``torchscript`` are
            ``torch.onnx.export`` with and without ``dynamo=True``.

    Raises:
        LayerFailedError: the exporter refused.
    """
    if exporter == "direct":
        return _direct(program, module, inputs)
    import torch

    names = [f"x{i}" for i in range(len(inputs))]
    outputs = [f"y{i}" for i in range(len(program.outputs))]
    shared: dict[str, Any] = {"input_names": names, "output_names": outputs}
    with warnings.catch_warnings(), _quiet():
        # The exporters warn about their own deprecations, which whoever profiles can do nothing about.
        warnings.simplefilter("ignore")
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and notes off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class _Writer:
    """Collects the nodes and weights of a graph. Final."""

    def __init__(self, dtype: torch.dtype) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._numpy = helper, numpy_helper
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, list(inputs), [name], name=f"{kind}_{name}", **attributes))
        return name

    def weight(self, tensor: torch.Tensor) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(self._numpy.from_array(tensor.detach().numpy(), name))
        return name


def _direct(program: Program, module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> bytes:
    from onnx import TensorProto, helper

    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[str(inputs[0].dtype).removeprefix("torch.")]
    writer = _Writer(inputs[0].dtype)
    values = [f"x{i}" for i in range(len(inputs))]
    for part, step in zip(module.get_submodule("parts").children(), program.steps, strict=True):
        local = [values[i] for i in step.args]
        # A chain is a Sequential of its operators, a graph holds them as ``ops``: in the order of the nodes either way.
        operators = list((part.get_submodule("ops") if hasattr(part, "ops") else part).children())
        for node, operator in zip(step.layer.nodes, operators, strict=True):
            local.append(_write(writer, node.op, operator, [local[i] for i in node.args]))
        values.append(local[-1])
    outputs = [f"y{i}" for i in range(len(program.outputs))]
    for value, name in zip(program.outputs, outputs, strict=True):
        last = next(node for node in reversed(writer.nodes) if node.output[0] == values[value])
        if last.output[0].startswith("y"):
            raise LayerError("a program's outputs are distinct values")
        _rename(writer.nodes, values[value], name)
        values[value] = name
    batch = inputs[0].shape[0]
    graph = helper.make_graph(
        writer.nodes,
        "layer",
        [helper.make_tensor_value_info(f"x{i}", kind, [batch, *shape]) for i, shape in enumerate(program.inputs)],
        [
            helper.make_tensor_value_info(name, kind, [batch, *shape])
            for name, shape in zip(outputs, program.output_shapes, strict=True)
        ],
        writer.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="latency-lut")
    model.ir_version = IR_VERSION
    return bytes(model.SerializeToString())


def _rename(nodes: Sequence[Any], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


_ACTIVATIONS: dict[str, Callable[[_Writer, str], str]] = {
    "relu": lambda w, x: w.node("Relu", [x]),
    "relu6": lambda w, x: w.node("Clip", [x, w.weight(_scalar(w, 0.0)), w.weight(_scalar(w, 6.0))]),
    "sigmoid": lambda w, x: w.node("Sigmoid", [x]),
    "hardsigmoid": lambda w, x: w.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5),
    "hardswish": lambda w, x: w.node("HardSwish", [x]),
    "silu": lambda w, x: w.node("Mul", [x, w.node("Sigmoid", [x])]),
    "gelu": lambda w, x: w.node("Gelu", [x]),
    "tanh": lambda w, x: w.node("Tanh", [x]),
}


def _scalar(writer: _Writer, value: float) -> torch.Tensor:
    import torch

    return torch.tensor(value, dtype=writer.dtype)


def _write(writer: _Writer, op: Primitive, operator: torch.nn.Module, args: list[str]) -> str:
    tensors = dict(operator.named_parameters()) | dict(operator.named_buffers())
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
            return writer.node("BatchNormalization", [*args, *weights], epsilon=float(getattr(operator, "eps")))  # noqa: B009
        case Activation():
            return _ACTIVATIONS[op.kind](writer, args[0])
        case Add():
            return writer.node("Add", args)
        case Mul():
            return writer.node("Mul", args)
        case Concat():
            return writer.node("Concat", args, axis=1)
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
            weights = [writer.weight(tensors[name]) for name in ("weight", "bias") if name in tensors]
            return writer.node("Gemm", [*args, *weights], transB=1)
    raise LayerError(f"no ONNX operator is known for {type(op).__name__}")

"""An ONNX model's operators in the words of layers: as primitives, or as the calls of a subgraph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isfinite, isnan, prod
from typing import Any, NamedTuple, cast

import onnx
from onnx import numpy_helper

from lut import Layer, LayerError, UsageError
from lut._layer import Node
from lut.primitives import (
    Activation,
    ActivationKind,
    Add,
    AvgPool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    LayerNorm,
    Linear,
    MaxPool2d,
    Mul,
    Plain,
    Primitive,
)
from lut.subgraph import Argument, Call, Given, Ref, Scalar, Weight
from profiler._onnx._graph import OUTPUTS, TENSOR
from profiler._onnx._original import Original, TensorType, attributes, domain_name

__all__ = ["Kernel", "View", "call_of", "entered", "given_of", "in_primitives", "multiply_adds", "weight_of"]

# Weights of integers or booleans that are written out: an index or a mask, not a vocabulary.
MOST_WRITTEN = 1 << 16
# Constants of floating-point numbers so small are written out where they decide what an operator does.
MOST_NUMBERS = 16
DECIDED_BY_NUMBERS = frozenset({"Clip", "Pad", "Range", "Resize", "Upsample", "NonMaxSuppression", "OneHot"})
WRITTEN_DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")

_ACTIVATIONS: dict[str, ActivationKind] = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "HardSwish": "hardswish",
    "Tanh": "tanh",
}


class Kernel(NamedTuple):
    """One of the runtime's operators: its node, and the numbers of the original operators that it replaces.

    ``helpers``: nodes that only prepare data for it or from it, such as the reshapes around a Gemm.
    """

    node: Any
    members: tuple[int, ...]
    helpers: tuple[Any, ...] = ()


class View(NamedTuple):
    """How a group of operators sees its graph.

    ``reads``: per operator its inputs, each by the tensor that it really is, ``""`` where it is omitted; ``readers``:
    the operators of the whole network that read a tensor; ``values``: of fixed tensors that matter by value.
    """

    graph: Original
    batch: int
    dtype: str
    reads: Mapping[int, Sequence[str]]
    readers: Mapping[str, Sequence[int]]
    outputs: frozenset[str]
    fixed: frozenset[str]
    values: Mapping[str, Any]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor of the floating-point numbers that the network computes in."""
        found = self.graph.type_of(name)
        return found.shape if found is not None and found.dtype == self.dtype else None

    def only_reader(self, name: str) -> int | None:
        """Return the operator that alone reads a tensor."""
        readers = self.readers.get(name, ())
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def scalar(self, name: str) -> float | None:
        """Return a fixed number."""
        value = self.values.get(name) if name in self.fixed else None
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


class _Word(NamedTuple):
    """A primitive, the tensors that it takes, the one that it gives, and the operators that it stands for."""

    op: Primitive
    args: tuple[str, ...]
    output: str
    members: tuple[int, ...]


def in_primitives(
    view: View,
    members: Sequence[int],
    kernels: Sequence[Kernel],
    taken: Sequence[str],
    output: str,
    *,
    plain: Collection[str] = (),
    stays: bool = False,
) -> tuple[Layer, list[int]] | None:
    """Return a group as a layer of primitives, if these have words for all of it.

    Args:
        view: the graph.
        members: the group's operators, in order.
        kernels: what the runtime makes of them.
        taken: what the group takes from outside.
        output: its one output.
        plain: which of ``taken`` come in the usual layout, where others come in blocks of channels.
        stays: whether the output stays in it.

    Returns:
        the layer, and which of ``taken`` each of its inputs is.
    """
    words: list[_Word] = []
    done: set[int] = set()
    inside = set(members)
    whole = {kernel.members[-1]: kernel for kernel in kernels if kernel.members and _is_word(kernel)}
    skipped = {index for kernel in whole.values() for index in kernel.members}
    for index in members:
        if index in done or (index in skipped and index not in whole):
            continue
        word = _of_kernel(view, whole[index]) if index in whole else _word(view, index, inside)
        if word is None:
            return None
        words.append(word)
        done.update(word.members)
    nodes, numbers = entered(taken, plain)
    for word in words:
        if any(arg not in numbers for arg in word.args):
            return None
        nodes.append(Node(op=word.op, args=tuple(numbers[arg] for arg in word.args)))
        numbers[word.output] = len(taken) + len(nodes) - 1
    if not words or words[-1].output != output:
        return None
    if stays:
        nodes.append(Node(op=Plain(), args=(numbers[output],)))
    shapes = [view.shape(name) for name in taken]
    wanted = view.shape(output)
    if wanted is None or any(shape is None for shape in shapes):
        return None
    # The layer may put its inputs into another order; they stay the same objects, which tells which is which.
    objects = [shape[1:] for shape in shapes if shape is not None]
    try:
        layer = Layer(inputs=tuple(objects), nodes=tuple(nodes))
    except LayerError:
        return None
    if layer.output_shape != wanted[1:]:
        return None
    order = [next(i for i, own in enumerate(objects) if own is given) for given in layer.inputs]
    return layer, order


def entered(taken: Sequence[str], plain: Collection[str]) -> tuple[list[Node], dict[str, int]]:
    """Return the nodes that mark which of a layer's inputs are plain, and each input's number behind them."""
    nodes: list[Node] = []
    numbers = {name: i for i, name in enumerate(taken)}
    for name in taken:
        if name in plain:
            nodes.append(Node(op=Plain(), args=(numbers[name],)))
            numbers[name] = len(taken) + len(nodes) - 1
    return nodes, numbers


def _is_word(kernel: Kernel) -> bool:
    return kernel.node.op_type in ("LayerNormalization", "Gelu", "QuickGelu") and len(kernel.members) > 1


def _of_kernel(view: View, kernel: Kernel) -> _Word | None:
    """Return what the runtime has recognised as one operator in several."""
    own = {name for i in kernel.members for name in view.graph.nodes[i].output}
    taken = {
        name for i in kernel.members for name in view.reads[i] if name and name not in own and name not in view.fixed
    }
    given = attributes(kernel.node)
    output = view.graph.nodes[kernel.members[-1]].output[0]
    if len(taken) != 1:
        return None
    source = next(iter(taken))
    shape = view.shape(source)
    if shape is None or view.shape(output) != shape:
        return None
    op: Primitive
    if kernel.node.op_type == "LayerNormalization":
        if given.get("axis", -1) not in (-1, len(shape) - 1):
            return None
        op = LayerNorm(bias=len(kernel.node.input) > 2)
    elif kernel.node.op_type == "Gelu":
        op = Activation(kind="gelu")
    else:
        if given.get("alpha", 1.702) != 1:
            return None
        op = Activation(kind="silu")
    return _Word(op, (source,), output, kernel.members)


def _word(view: View, index: int, inside: set[int]) -> _Word | None:
    node = view.graph.nodes[index]
    reads = view.reads[index]
    if node.domain not in ("", "ai.onnx") or not reads or len([name for name in node.output if name]) != 1:
        return None
    before, after = view.shape(reads[0]), view.shape(node.output[0])
    if before is None or after is None or before[:1] != (view.batch,) or after[:1] != (view.batch,) or len(after) < 2:
        return None
    given = attributes(node)
    one: tuple[str, ...] = (reads[0],)
    output, members = node.output[0], cast("tuple[int, ...]", (index,))
    op: Primitive | None = None
    match node.op_type:
        case "Conv":
            return _convolution(view, index, inside)
        case "Gemm" | "MatMul":
            return _linear(view, index, inside)
        case "BatchNormalization" if len(before) == 4:
            op = BatchNorm2d()
        case "Add" | "Sum" | "Mul":
            return _of_two(view, index)
        case "Concat" if given["axis"] in (1, 1 - len(before)) and len(set(reads)) == len(reads) >= 2:
            op, one = Concat(), tuple(reads)
        case "MaxPool" | "AveragePool":
            op = _pooling(node.op_type, given, before)
        case "GlobalAveragePool" if len(before) == 4:
            op = GlobalAvgPool2d()
        case "Flatten" if given.get("axis", 1) in (1, 1 - len(before)):
            op = Flatten()
        case "Reshape" | "Squeeze" if after == (view.batch, prod(before[1:])):
            op = Flatten()
        case "LayerNormalization" if given.get("axis", -1) in (-1, len(before) - 1) and _all_fixed(view, reads[1:]):
            op = LayerNorm(bias=len(reads) > 2)
        case "Gelu" if given.get("approximate", b"none") == b"none":
            op = Activation(kind="gelu")
        case "Clip" if _bounds(view, reads, given) == (0, 6):
            op = Activation(kind="relu6")
        case "HardSigmoid" if abs(given.get("alpha", 0.2) - 1 / 6) < 1e-4 and given.get("beta", 0.5) == 0.5:
            op = Activation(kind="hardsigmoid")
        case kind if kind in _ACTIVATIONS:
            op = Activation(kind=_ACTIVATIONS[kind])
    if op is None:
        return None
    if isinstance(op, Activation) and op.kind in ("sigmoid", "hardsigmoid"):
        gated = _gated(view, index, inside)
        if gated is not None:
            op, output, members = Activation(kind="silu" if op.kind == "sigmoid" else "hardswish"), *gated
    return _Word(op, one, output, members)


def _all_fixed(view: View, names: Sequence[str]) -> bool:
    return all(name in view.fixed for name in names if name)


def _gated(view: View, index: int, inside: set[int]) -> tuple[str, tuple[int, ...]] | None:
    """Return the product of an activation with its own input, if nothing else reads it."""
    reader = view.only_reader(view.graph.nodes[index].output[0])
    if reader is None or reader not in inside or view.graph.nodes[reader].op_type != "Mul":
        return None
    if set(view.reads[reader]) != {view.reads[index][0], view.graph.nodes[index].output[0]}:
        return None
    return view.graph.nodes[reader].output[0], (index, reader)


def _bias_after(view: View, index: int, inside: set[int], shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Return the sum with a constant of one of these shapes that alone reads an operator's output."""
    output = view.graph.nodes[index].output[0]
    reader = view.only_reader(output)
    if reader is None or reader not in inside or view.graph.nodes[reader].op_type != "Add":
        return None
    others = [name for name in view.reads[reader] if name != output]
    if len(others) != 1 or others[0] not in view.fixed or view.shape(others[0]) not in shapes:
        return None
    return reader


def _convolution(view: View, index: int, inside: set[int]) -> _Word | None:
    node, reads = view.graph.nodes[index], view.reads[index]
    before, weight = view.shape(reads[0]), view.shape(reads[1])
    if before is None or weight is None or len(before) != 4 or not _all_fixed(view, reads[1:]):
        return None
    given = attributes(node)
    kernel, stride, dilation = weight[2:], _sizes(given, "strides"), _sizes(given, "dilations")
    padding = _padding(given, before[2:], kernel, stride, dilation)
    if padding is None:
        return None
    bias = len(reads) > 2 and bool(reads[2])
    channels = weight[0]
    added = None if bias else _bias_after(view, index, inside, [(channels, 1, 1), (1, channels, 1, 1)])
    op = Conv2d(
        out_channels=channels,
        kernel_size=(kernel[0], kernel[1]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=int(given.get("group", 1)),
        bias=bias or added is not None,
    )
    if added is None:
        return _Word(op, (reads[0],), node.output[0], (index,))
    return _Word(op, (reads[0],), view.graph.nodes[added].output[0], (index, added))


def _linear(view: View, index: int, inside: set[int]) -> _Word | None:
    node, reads = view.graph.nodes[index], view.reads[index]
    before, weight, after = view.shape(reads[0]), view.shape(reads[1]), view.shape(node.output[0])
    if before is None or weight is None or after is None or len(weight) != 2 or not _all_fixed(view, reads[1:]):
        return None
    features = after[-1]
    if node.op_type == "Gemm":
        given = attributes(node)
        if given.get("alpha", 1) != 1 or given.get("beta", 1) != 1 or given.get("transA", 0):
            return None
        bias = len(reads) > 2 and bool(reads[2])
        if bias and view.shape(reads[2]) not in ((features,), (1, features)):
            return None
        return _Word(Linear(out_features=features, bias=bias), (reads[0],), node.output[0], (index,))
    added = _bias_after(view, index, inside, [(features,)])
    if added is None:
        return _Word(Linear(out_features=features, bias=False), (reads[0],), node.output[0], (index,))
    return _Word(
        Linear(out_features=features, bias=True), (reads[0],), view.graph.nodes[added].output[0], (index, added)
    )


def _of_two(view: View, index: int) -> _Word | None:
    node, reads = view.graph.nodes[index], view.reads[index]
    if len(reads) != 2 or reads[0] == reads[1] or any(name in view.fixed for name in reads):
        return None
    first, second = view.shape(reads[0]), view.shape(reads[1])
    if first is None or second is None:
        return None
    if node.op_type != "Mul":
        return _Word(Add(), tuple(reads), node.output[0], (index,)) if first == second else None
    if len(first) == len(second) == 4 and first[2:] == (1, 1) != second[2:]:
        # What broadcasts comes second.
        reads = [reads[1], reads[0]]
    return _Word(Mul(), tuple(reads), node.output[0], (index,))


def _pooling(kind: str, given: Mapping[str, Any], before: tuple[int, ...]) -> Primitive | None:
    if len(before) != 4 or given.get("ceil_mode", 0) or given.get("storage_order", 0):
        return None
    kernel, stride, dilation = _sizes(given, "kernel_shape"), _sizes(given, "strides"), _sizes(given, "dilations")
    padding = _padding(given, before[2:], kernel, stride, dilation)
    if padding is None or dilation != (1, 1) or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        return None
    if kind == "MaxPool":
        return MaxPool2d(kernel_size=kernel, stride=stride, padding=padding)
    if padding != (0, 0) and not given.get("count_include_pad", 0):
        return None
    return AvgPool2d(kernel_size=kernel, stride=stride, padding=padding)


def _sizes(given: Mapping[str, Any], name: str) -> tuple[int, int]:
    first, second = given.get(name) or (1, 1)
    return int(first), int(second)


def _padding(
    given: Mapping[str, Any],
    size: Sequence[int],
    kernel: Sequence[int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int] | None:
    """Return the padding of both axes where it is the same at both ends, else ``None``."""
    automatic = given.get("auto_pad", b"NOTSET").decode()
    if automatic == "VALID":
        return (0, 0)
    if automatic.startswith("SAME"):
        totals = [
            max(0, (-(-size[i] // stride[i]) - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 - size[i])
            for i in range(2)
        ]
        return None if any(total % 2 for total in totals) else (totals[0] // 2, totals[1] // 2)
    top, left, bottom, right = given.get("pads") or (0, 0, 0, 0)
    return (int(top), int(left)) if (top, left) == (bottom, right) else None


def _bounds(view: View, reads: Sequence[str], given: Mapping[str, Any]) -> tuple[float | None, float | None]:
    if len(reads) == 1:
        return given.get("min"), given.get("max")
    low, high = [view.scalar(name) for name in (*reads[1:], "", "")[:2]]
    return low, high


def multiply_adds(view: View, index: int) -> int:
    """Return an operator's multiply-adds, all samples together; 0 for what is no product of matrices."""
    node, reads = view.graph.nodes[index], view.reads[index]
    types: list[TensorType | None] = [view.graph.type_of(name) for name in reads]
    after = view.graph.type_of(node.output[0]) if node.output[0] else None
    recurrent = node.op_type in ("LSTM", "GRU", "RNN") and len(types) > 1
    if recurrent and types[0] is not None and types[1] is not None and len(types[1].shape) == 3:
        # Each step multiplies its input and its state with weights of (directions, gates x hidden, features).
        directions, rows, features = types[1].shape
        gates = {"LSTM": 4, "GRU": 3}.get(node.op_type, 1)
        return prod(types[0].shape[:2]) * directions * rows * (features + rows // gates)
    if after is None or len(types) < 2 or types[0] is None:
        return 0
    second = types[1]
    if node.op_type in ("Conv", "FusedConv", "ConvInteger") and second is not None:
        return prod(after.shape) * prod(second.shape[1:])
    if node.op_type == "QLinearConv" and len(types) > 3 and types[3] is not None:
        return prod(after.shape) * prod(types[3].shape[1:])
    if node.op_type == "ConvTranspose" and second is not None:
        return prod(types[0].shape) * prod(second.shape[1:])
    if node.op_type == "Gemm":
        return prod(after.shape) * types[0].shape[0 if attributes(node).get("transA", 0) else 1]
    if node.op_type in ("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul"):
        return prod(after.shape) * types[0].shape[-1]
    if node.op_type == "Einsum" and second is not None:
        terms = attributes(node)["equation"].decode().replace(" ", "").split("->")[0].split(",")
        sizes = {
            label: size
            for term, each in zip(terms, types, strict=False)
            if each is not None and "." not in term
            for label, size in zip(term, each.shape, strict=False)
        }
        return prod(sizes.values())
    return 0


def call_of(
    view: View, index: int, numbers: Mapping[str, int], fixed_numbers: Mapping[str, int], what: str
) -> tuple[Call, tuple[int, ...]]:
    """Return an operator as a call, and which of its outputs it computes.

    One with a single output gives that; of one with several, ``getitem`` takes each.

    Raises:
        UsageError: an attribute cannot be written down.
    """
    node = view.graph.nodes[index]
    args: list[Argument] = []
    for name in view.reads[index]:
        if not name:
            args.append(None)
        else:
            args.append(Ref(kind="value", of=numbers[name] if name in numbers else fixed_numbers[name]))
    while args and args[-1] is None:
        args.pop()
    named = [_attribute(attribute, f"{what}: {_called(node, index)}") for attribute in node.attribute]
    flags = [bool(name) for name in node.output]
    while flags and not flags[-1]:
        flags.pop()
    if len(flags) > 1 or not flags[0]:
        named.append((OUTPUTS, tuple(flags)))
    call = Call(
        op=domain_name(node),
        args=tuple(args),
        named=tuple(sorted((pair for pair in named if pair is not None), key=lambda pair: pair[0])),
    )
    return call, tuple(k for k, flag in enumerate(flags) if flag)


def _called(node: Any, index: int) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} (operator {index})"


def _attribute(attribute: Any, what: str) -> tuple[str, Argument] | None:
    kinds = onnx.AttributeProto
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type in (kinds.INT, kinds.FLOAT):
        return attribute.name, _number(value)
    if attribute.type == kinds.STRING:
        return attribute.name, value.decode()
    if attribute.type in (kinds.INTS, kinds.FLOATS):
        # An empty list says what its absence does.
        return (attribute.name, tuple(map(_number, value))) if len(value) else None
    if attribute.type == kinds.STRINGS:
        return attribute.name, tuple(each.decode() for each in value)
    if attribute.type == kinds.TENSOR:
        array = numpy_helper.to_array(value)
        if array.size <= MOST_NUMBERS and str(array.dtype) in WRITTEN_DTYPES:
            written = tuple(map(_number, array.reshape(-1).tolist()))
            return TENSOR + attribute.name, (str(array.dtype), array.ndim, *array.shape, *written)
    raise UsageError(f"{what} has the attribute {attribute.name}, of a kind that a layer cannot hold")


def _number(value: float) -> Scalar:
    if isinstance(value, float) and not isfinite(value):
        return Ref(kind="float", of="nan" if isnan(value) else "inf" if value > 0 else "-inf")
    return value


def weight_of(view: View, name: str, readers: Sequence[int], what: str) -> Weight:
    """Return a fixed tensor as a weight.

    Raises:
        UsageError: its type or its numbers cannot be written down.
    """
    found = view.graph.type_of(name)
    if found is None or found.dtype not in WRITTEN_DTYPES:
        kind = "a sequence" if found is None else found.dtype
        raise UsageError(f"{what}: the constant {name} is {kind}, which a layer cannot hold")
    dtype: Any = found.dtype
    size = prod(found.shape)
    value = view.values.get(name)
    if found.floating:
        trained: Any = "parameter" if found.shape and size > 1 else "buffer"
        decides = any(view.graph.nodes[i].op_type in DECIDED_BY_NUMBERS for i in readers)
        if value is None or not (size <= 1 or (decides and size <= MOST_NUMBERS)):
            return Weight(shape=found.shape, dtype=dtype, role=trained)
        return Weight(
            shape=found.shape, dtype=dtype, role="buffer", numbers=tuple(map(_text, value.reshape(-1).tolist()))
        )
    if value is None:
        raise UsageError(f"{what}: the constant {name} has no value")
    flat = value.reshape(-1)
    if size and bool((flat == flat[0]).all()):
        return Weight(shape=found.shape, dtype=dtype, role="buffer", values=(int(flat[0]),))
    if size <= MOST_WRITTEN:
        return Weight(shape=found.shape, dtype=dtype, role="buffer", values=tuple(map(int, flat.tolist())))
    if dtype in ("int8", "uint8"):
        # Quantised weights, of which any numbers will do.
        return Weight(shape=found.shape, dtype=dtype)
    raise UsageError(f"{what}: the constant {name} holds {size} numbers of type {dtype}, too many to write down")


def _text(number: float) -> Any:
    return number if isfinite(number) else "nan" if isnan(number) else "inf" if number > 0 else "-inf"


def given_of(view: View, name: str) -> Given:
    """Return an input of a group: the shape of one sample, and what integers it may have."""
    found = view.graph.type_of(name)
    assert found is not None
    own = view.graph.givens.get(name)
    dtype: Any = found.dtype
    return Given(shape=found.shape[1:], dtype=dtype, below=own.below if own is not None else 0)

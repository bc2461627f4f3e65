"""A user's ONNX file: read with clear refusals, written, and exported from PyTorch. It needs onnx, not torch."""

from __future__ import annotations

import os
import stat
import tempfile
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import inliner

from lut import UsageError
from lut._files import file_error, read_bytes, replace_file
from lut._printable import printable, shortened
from lut.errors import FileAccessError
from lut.subgraph import Given
from profiler._onnx._check import (
    LARGEST_INPUTS,
    bounded_memory,
    check_model,
    check_sizes,
    load_external,
    memory_for,
    one_line_errors,
    quoted,
    reason_of,
    type_name,
)
from profiler._quiet import quiet
from profiler._traced import TracedNetwork

if TYPE_CHECKING:
    import torch

__all__ = [
    "example_feed",
    "export_model",
    "float_type",
    "input_givens",
    "load_onnx",
    "save_onnx",
    "session_source",
    "trace_onnx",
]

# The runtime's own operators are known to it alone; whether it has one shows when it loads the file.
STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
KNOWN_DOMAINS = STANDARD_DOMAINS | {"ai.onnx.ml", "com.microsoft"}
# The oldest operators that the runtime promises to know.
OLDEST_OPSET = 7
# What protobuf can write in one piece, with room for the graph itself.
LARGEST_MESSAGE = (1 << 31) - (1 << 24)
MOST_OPEN_INPUTS = 256

DTYPES: dict[int, str] = {
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.BOOL: "bool",
}
FLOATS = ("float64", "float32", "float16", "bfloat16")


def load_onnx(path: str | Path, shapes: tuple[tuple[int, ...], ...] = ()) -> Any:
    """Return an ONNX file's model, its weights included, with every input's shape known.

    Old files list their weights among the inputs as well: there they are taken out. Functions are written out.

    Args:
        path: the file.
        shapes: of the inputs in order, the batch in front; where given, they fill what the file leaves open.

    Raises:
        FileAccessError: the file cannot be read.
        UsageError: the file is missing, cut off or no ONNX file; an input's shape is open and not given, or contradicts
            what is given; an operator is unknown.
    """
    place = Path(path)
    what = printable(str(place))
    with one_line_errors(what, "read"):
        model = _read(place, what)
        check_model(model, what)
        try:
            load_external(model, place.parent, what)
        except FileAccessError as error:
            raise UsageError(
                f"{what}: the weights that it keeps in files of their own cannot be read ({error}); "
                "they belong into the same folder"
            ) from None
        with bounded_memory(memory_for(model)):
            if model.functions:
                try:
                    model = inliner.inline_local_functions(model)
                except Exception as error:
                    raise UsageError(f"{what}: its functions cannot be written out: {reason_of(error)}") from None
                check_model(model, what)
            normalise(model, what)
            _fix_shapes(model, shapes, what)
            check_sizes(model, what)
    return model


def _read(place: Path, what: str) -> Any:
    """Return the model that a file holds, without what the runtime would take for settings of its own.

    Raises:
        FileAccessError: the file cannot be read.
        UsageError: it is missing, or no ONNX file.
    """
    if not place.exists():
        raise UsageError(f"{what}: there is no such file")
    first, size = _beginning(place)
    if first[4:8] == b"ORTM":
        raise UsageError(f"{what}: it is in ONNX Runtime's own format (.ort); give the ONNX file that it was made from")
    # The fields that a model may begin with: nothing else is read to its end.
    if first[:1] and first[0] not in _FIRST_BYTES:
        raise UsageError(f"{what}: it is cut off or no ONNX file ({size} bytes); fetch it again")
    content = read_bytes(place, limit=LARGEST_MESSAGE)
    try:
        model = onnx.load_model_from_string(content)
    except Exception:
        raise UsageError(f"{what}: it is cut off or no ONNX file ({len(content)} bytes); fetch it again") from None
    if not model.graph.node:
        raise UsageError(f"{what}: it holds no operators; an ONNX file is needed")
    # A file's metadata can hold settings for the runtime's sessions, and how a network is trained is not looked at.
    del model.metadata_props[:]
    del model.training_info[:]
    return model


# A field's number and kind in protobuf, for all fields of a model.
_FIRST_BYTES = frozenset(
    ((field.number << 3 | (0 if field.cpp_type == field.CPPTYPE_INT64 else 2)) & 127)
    | (128 if field.number > 15 else 0)
    for field in onnx.ModelProto.DESCRIPTOR.fields
)


def _beginning(place: Path) -> tuple[bytes, int]:
    """Return a regular file's first bytes and its size; nothing of what is no regular file."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            return (os.pread(descriptor, 8, 0) if stat.S_ISREG(found.st_mode) else b""), found.st_size
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise file_error(place, "read", error) from None


def normalise(model: Any, what: str) -> None:
    """Take the weights out of the graph's inputs, and refuse what no runtime of ours can know.

    Raises:
        UsageError: an operator is unknown or of a domain of its own, or the operators are too old.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    real = [value for value in graph.input if value.name not in weights]
    if len(real) != len(graph.input):
        del graph.input[:]
        graph.input.extend(real)
    # Before version 4, weights had to be inputs.
    model.ir_version = max(4, model.ir_version)
    opset = opset_of(model)
    custom = sorted({node.domain for node in graph.node} - KNOWN_DOMAINS)
    if custom:
        names = sorted({quoted(f"{node.domain}.{node.op_type}") for node in graph.node if node.domain in custom})
        raise UsageError(
            f"{what}: it has custom operators that ONNX Runtime does not come with: {', '.join(names[:5])}"
            + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            + "; export the network without them"
        )
    unknown = sorted(
        {
            quoted(n.op_type)
            for n in graph.node
            if n.domain in STANDARD_DOMAINS and not onnx.defs.has(n.op_type, "" if n.domain == "ai.onnx" else n.domain)
        }
    )
    if unknown:
        raise UsageError(
            f"{what}: ONNX has no operator {', '.join(unknown[:5])}"
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            + "; is the file from a newer version?"
        )
    if opset < OLDEST_OPSET:
        raise UsageError(
            f"{what}: its operators are version {opset}, and ONNX Runtime knows {OLDEST_OPSET} and later; convert it "
            "(onnx.version_converter) or export it again"
        )


def opset_of(model: Any) -> int:
    """Return the version of the standard operators in a model."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), default=1)


def _fix_shapes(model: Any, shapes: tuple[tuple[int, ...], ...], what: str) -> None:
    inputs = list(model.graph.input)
    if shapes and len(shapes) != len(inputs):
        names = shortened(", ".join(quoted(value.name) for value in inputs), 300)
        raise UsageError(f"{what}: it has {len(inputs)} inputs ({names}), and {len(shapes)} shapes are given (--input)")
    if len(inputs) > MOST_OPEN_INPUTS:
        raise UsageError(f"{what}: it has {len(inputs)} inputs, and {MOST_OPEN_INPUTS} are the most")
    changed = False
    symbols: dict[str, int] = {}
    for i, value in enumerate(inputs):
        if value.type.WhichOneof("value") != "tensor_type":
            raise UsageError(f"{what}: its input {quoted(value.name)} is no tensor, and cannot be made up")
        tensor = value.type.tensor_type
        if DTYPES.get(tensor.elem_type) is None:
            kind = type_name(tensor.elem_type)
            raise UsageError(f"{what}: its input {quoted(value.name)} is of type {kind}, which cannot be made up")
        if not shapes:
            _refuse_open(value, what)
            continue
        given = shapes[i]
        if tensor.HasField("shape") and len(tensor.shape.dim) != len(given):
            raise UsageError(
                f"{what}: its input {quoted(value.name)} has {len(tensor.shape.dim)} axes, {_shown(tensor)}, "
                f"and {'x'.join(map(str, given))} is given (--input)"
            )
        if not tensor.HasField("shape"):
            for _ in given:
                tensor.shape.dim.add()
        for axis, (dim, size) in enumerate(zip(tensor.shape.dim, given, strict=True)):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                if dim.dim_value != size:
                    raise UsageError(
                        f"{what}: its input {quoted(value.name)} has {dim.dim_value} on axis {axis}, "
                        f"and {size} is given (--input)"
                    )
                continue
            if dim.dim_param and symbols.setdefault(dim.dim_param, size) != size:
                raise UsageError(
                    f"{what}: its axes named {quoted(dim.dim_param)!r} have one size, and "
                    f"{symbols[dim.dim_param]} and {size} are given (--input)"
                )
            dim.Clear()
            dim.dim_value = size
            changed = True
    total = sum(prod(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in inputs)
    if total > LARGEST_INPUTS:
        raise UsageError(f"{what}: its inputs are {total:,} numbers, and {LARGEST_INPUTS:,} are the most")
    if changed:
        # What follows from the open shapes is out of date.
        del model.graph.value_info[:]
        for value in model.graph.output:
            if value.type.WhichOneof("value") == "tensor_type":
                value.type.tensor_type.ClearField("shape")


def _refuse_open(value: Any, what: str) -> None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise UsageError(
            f"{what}: the file leaves the shape of its input {quoted(value.name)} open; export it with a fixed "
            "one, or give it (--input 1x3x224x224)"
        )
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.dim_value <= 0:
            called = f" ({quoted(dim.dim_param)!r})" if dim.dim_param else ""
            raise UsageError(
                f"{what}: the file leaves axis {axis}{called} of its input {quoted(value.name)} open, "
                f"{_shown(tensor)}; export it with fixed shapes, or give all inputs' (--input "
                "1x3x224x224, several with commas)"
            )


def _shown(tensor: Any) -> str:
    sizes = (str(dim.dim_value) if dim.dim_value > 0 else quoted(dim.dim_param) or "?" for dim in tensor.shape.dim)
    return "x".join(sizes)


def _weight_bytes(model: Any) -> int:
    # Counted, not asked of protobuf: it cannot say how large a message is that it cannot write.
    total = 0
    for tensor in model.graph.initializer:
        total += len(tensor.raw_data) or 8 * prod(tensor.dims)
    return total


def save_onnx(model: Any, path: str | Path) -> None:
    """Write a model; weights that do not fit into the file go beside it."""
    large = _weight_bytes(model) > LARGEST_MESSAGE
    onnx.save_model(model, str(path), save_as_external_data=large, location=f"{Path(path).name}.data")


def session_source(model: Any, folder: str | Path) -> bytes | str:
    """Return what an inference session takes: the model itself, or where in ``folder`` it was written if too large."""
    if _weight_bytes(model) <= LARGEST_MESSAGE:
        return bytes(model.SerializeToString())
    path = Path(folder) / "model.onnx"
    save_onnx(model, path)
    return str(path)


def float_type(model: Any) -> str:
    """Return the type of floating-point numbers that a model computes in: that of most of its weights.

    Raises:
        UsageError: it is none that can be measured.
    """
    counts: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        counts[DTYPES.get(tensor.data_type, "")] += prod(tensor.dims)
    for value in model.graph.input:
        # Where the weights are computed, the inputs tell.
        counts[DTYPES.get(value.type.tensor_type.elem_type, "")] += 1
    found = max((name for name in FLOATS if counts[name]), key=lambda name: counts[name], default="float32")
    if found not in ("float32", "float16"):
        raise UsageError(f"the file computes in {found}; only float32 and float16 can be measured")
    return found


def input_givens(model: Any) -> dict[str, Given]:
    """Return a model's inputs by name, their whole shapes, the batch included, and what integers they may have.

    An index into a table of weights may be any of its rows; other integers are 0 or 1.
    """
    rows = _rows(model)
    found: dict[str, Given] = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = tuple(int(dim.dim_value) for dim in tensor.shape.dim)
        dtype: Any = DTYPES[tensor.elem_type]
        below = 0 if dtype in FLOATS else rows.get(value.name, 2)
        found[value.name] = Given(shape=shape, dtype=dtype, below=below)
    return found


def _rows(model: Any) -> dict[str, int]:
    """Return for each tensor that is an index into a table of weights how many rows that has."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                sizes[node.output[0]] = tuple(attribute.t.dims)
    rows: dict[str, int] = {}
    for node in reversed(model.graph.node):
        if node.op_type == "Gather" and node.input[0] in sizes:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            size = sizes[node.input[0]]
            if -len(size) <= axis < len(size):
                rows[node.input[1]] = min(rows.get(node.input[1], 1 << 31), size[axis])
        elif node.op_type in _SAME_NUMBERS and node.output[0] in rows:
            rows[node.input[0]] = min(rows.get(node.input[0], 1 << 31), rows[node.output[0]])
    return rows


_SAME_NUMBERS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand"})


def example_feed(model: Any, seed: int) -> dict[str, Any]:
    """Return inputs of a model by name: standard normal, or integers in the range of :func:`input_givens`."""
    import numpy as np

    rng = np.random.default_rng(seed)
    feed = {}
    for name, given in input_givens(model).items():
        if given.dtype in FLOATS:
            # Half the memory of what NumPy draws by default.
            feed[name] = rng.standard_normal(given.shape, dtype=np.float32).astype(given.dtype, copy=False)
        else:
            below = max(given.below, given.least + 1)
            feed[name] = rng.integers(given.least, below, given.shape, dtype=np.int64).astype(given.dtype)
    return feed


def export_model(module: torch.nn.Module, inputs: Sequence[torch.Tensor], path: str | Path) -> None:
    """Write a PyTorch network as an ONNX file; weights of 2 GB or more go into a file beside it.

    Args:
        module: in evaluation mode.
        inputs: example inputs, the batch in front.
        path: the file.

    Raises:
        UsageError: neither of PyTorch's exporters can write it; it says why.
    """
    import torch

    tensors = [*module.parameters(), *module.buffers()]
    large = sum(tensor.numel() * tensor.element_size() for tensor in tensors) > LARGEST_MESSAGE
    reasons = []
    place = Path(path)
    for dynamo in (True, False):
        options: dict[str, Any] = {"dynamo": False, "opset_version": 17}
        if dynamo:
            options = {"dynamo": True, "external_data": large, "verbose": False}
        # Beside its place, and there only once it is whole: what lies there may be a link or a pipe.
        beside = tempfile.TemporaryDirectory(prefix=".latency-lut-", dir=place.parent)
        with beside as folder, quiet(), torch.no_grad():
            written = Path(folder) / place.name
            try:
                torch.onnx.export(module, tuple(inputs), str(written), **options)
            except Exception as error:
                kind = "dynamo" if dynamo else "torchscript"
                reasons.append(f"{kind}: {type(error).__name__}: {reason_of(error)}")
                continue
            # The weights first, where they are a file of their own.
            for file in sorted(Path(folder).iterdir(), key=written.__eq__):
                replace_file(place.with_name(file.name), file)
            return
    raise UsageError(
        f"torch.onnx.export cannot write the network as an ONNX file ({'; '.join(reasons)}); give a factory of a "
        "network that returns tensors only, or an ONNX file"
    )


def trace_onnx(model: Any, *, name: str, provider: str = "CPUExecutionProvider") -> TracedNetwork:
    """Return a model's layers: what ONNX Runtime makes of it, each operator that is left after its optimisation.

    Args:
        model: as :func:`load_onnx` returns it.
        name: for people.
        provider: the execution provider to optimise for.

    Raises:
        UsageError: the runtime cannot load it, or an operator cannot be described; says which.
    """
    from profiler._onnx._trace import trace

    what = quoted(name)
    with one_line_errors(what, "described as layers"), bounded_memory(memory_for(model)):
        return trace(model, name=name, provider=provider)

"""An operator that holds others: a piece of a network in its framework's own operators.

The primitives have names that every target knows. What a user's network holds beside them (attention, resizing, a
gather …) is kept as the framework wrote it: as the calls of its operators, with the shapes of all weights. A target
that runs this framework can build and time it; nothing here needs the framework.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable
from math import prod
from typing import Literal, TypeAlias

import msgspec

from lut._op import Op, Shape, show_shapes
from lut.errors import LayerError

__all__ = ["Argument", "Call", "DType", "Framework", "Given", "Ref", "Scalar", "Subgraph", "Weight"]

Framework: TypeAlias = Literal["torch", "onnx"]
DType: TypeAlias = Literal[
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"
]

# Bounds that keep a hostile file from costing minutes: of calls, of numbers written out, of elements of all weights.
MOST_CALLS = 2000
MOST_VALUES = 1 << 20
MOST_ELEMENTS = 1 << 34
MOST_TENSORS = 10_000
LARGEST_INTEGER = 2**63 - 1
LONGEST_TEXT = 1 << 16

# Names are looked up among those that a framework registered, and never become source text; what cannot be the name of
# an operator or of an argument is refused here all the same, where the file and the place in it are still known.
_TORCH_OPERATOR = re.compile(
    r"getitem|aten(\.[A-Za-z_][A-Za-z0-9_]*){1,2}|[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*){1,2}"
)
_ONNX_OPERATOR = re.compile(r"([A-Za-z][A-Za-z0-9_-]*\.)*[A-Za-z_][A-Za-z0-9_]*")
_TORCH_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ONNX_ATTRIBUTE = re.compile(r"@?[A-Za-z_][A-Za-z0-9_.:-]*")

# PyTorch's operators that do something else than compute their result: they read or make files, print, or meddle with
# memory or gradients that are not theirs.
SIDE_EFFECTS = frozenset(
    {
        *("from_file", "save", "_print", "manual_seed", "record_stream"),
        *("set", "set_", "set_data", "_backward", "requires_grad_", "retain_grad"),
    }
)


class Ref(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An argument that JSON has no word for.

    ``value``: a value by its number; ``dtype``, ``memory_format``: a name of the framework's; ``float``: ``inf``,
    ``-inf`` or ``nan``.
    """

    kind: Literal["value", "dtype", "memory_format", "float"]
    of: int | str


Scalar: TypeAlias = bool | int | float | str | Ref | None
Argument: TypeAlias = Scalar | tuple[Scalar, ...]


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One call of a framework's operator; its result is the next value.

    ``op`` is the framework's name: ``aten.layer_norm.default``, ``getitem``, ``Resize``, ``com.microsoft.FusedConv``.
    """

    op: str
    args: tuple[Argument, ...] = ()
    named: tuple[tuple[str, Argument], ...] = ()


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An input: the shape of one sample, and for integers the values that it may have: ``least`` … ``below`` − 1."""

    shape: Shape
    dtype: DType = "float32"
    least: int = 0
    below: int = 0

    def __post_init__(self) -> None:
        _intern(self, "dtype")


class Weight(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tensor that belongs to the network. ``values`` are written out where others would not do: integers, booleans.

    So are a few ``numbers`` that matter: bounds, scales. A ``parameter`` is trained and counts as such; a ``buffer`` (a
    mask, an index, a constant) is not.
    """

    shape: Shape
    dtype: DType = "float32"
    role: Literal["parameter", "buffer"] = "parameter"
    values: tuple[int, ...] | None = None
    numbers: tuple[float | Literal["inf", "-inf", "nan"], ...] | None = None

    def __post_init__(self) -> None:
        _intern(self, "dtype")
        _intern(self, "role")


def _intern(record: msgspec.Struct, field: str) -> None:
    """Make a text the same object wherever it comes from: only then is a default left out of the JSON."""
    msgspec.structs.force_setattr(record, field, sys.intern(getattr(record, field)))


class Subgraph(Op, frozen=True, tag="subgraph", omit_defaults=True):
    """Calls of a framework's operators, as one operator of a layer.

    Values are numbered: inputs first, then weights, then the calls' results; the last one is the output.

    Args:
        framework: whose operators they are.
        batch: samples per call, which the calls' arguments may depend on; only such a setting can run it.
        inputs: what it takes, one sample each.
        weights: the network's own tensors.
        calls: in order.
        output: the output's shape, one sample.
        multiply_adds: of one sample.
        opset: which version of ONNX's operators they are; 0 for other frameworks.
        gives: the output's type.
        also: further values, by number, that the network takes from here; they are computed as well.
    """

    framework: Framework
    batch: int
    inputs: tuple[Given, ...]
    weights: tuple[Weight, ...]
    calls: tuple[Call, ...]
    output: Shape
    multiply_adds: int = 0
    opset: int = 0
    gives: DType = "float32"
    also: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _intern(self, "gives")
        _intern(self, "framework")

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if not 1 <= self.batch <= 2**31 - 1:
            raise LayerError(f"subgraph: batch must be positive, got {self.batch}")
        if shapes != tuple(given.shape for given in self.inputs):
            wanted = show_shapes(tuple(given.shape for given in self.inputs))
            raise LayerError(f"subgraph takes {wanted}, got {show_shapes(shapes)}")
        if not 1 <= len(self.calls) <= MOST_CALLS:
            raise LayerError(f"subgraph: between 1 and {MOST_CALLS} calls, got {len(self.calls)}")
        if not 0 <= self.multiply_adds <= LARGEST_INTEGER:
            raise LayerError(f"subgraph: multiply_adds must be between 0 and 2^63 − 1, got {self.multiply_adds}")
        if not 0 <= self.opset <= 2**31 - 1:
            raise LayerError(f"subgraph: there is no opset {self.opset}")
        self._check_tensors()
        for size in self.output:
            if not 0 <= size <= 2**31 - 1:
                raise LayerError(f"subgraph: an output of {show_shapes((self.output,))}")
        first = len(self.inputs) + len(self.weights)
        for i, call in enumerate(self.calls):
            _check_call(call, self.framework, f"subgraph: call {i}")
            if any(not 0 <= value < first + i for value in values_of(call)):
                raise LayerError(f"subgraph: call {i} ({call.op}) takes values that do not come before it")
        if any(not first <= value < first + len(self.calls) for value in self.also):
            raise LayerError(f"subgraph: it also gives the values {self.also}, which are not all results of its calls")
        return self.output

    def _check_tensors(self) -> None:
        if max(len(self.inputs), len(self.weights), len(self.also)) > MOST_TENSORS:
            raise LayerError(f"subgraph: more than {MOST_TENSORS} inputs, weights or outputs")
        for given in self.inputs:
            if max(abs(given.least), abs(given.below)) > LARGEST_INTEGER:
                raise LayerError(f"subgraph: an input of integers from {given.least} to below {given.below}")
        for weight in self.weights:
            _check_weight(weight)
        if sum(prod(weight.shape) for weight in self.weights) > MOST_ELEMENTS:
            raise LayerError("subgraph: its weights have more than 2^34 elements in all")

    def madds(self, shapes: tuple[Shape, ...]) -> int:  # noqa: ARG002 - written down when it was traced
        return self.multiply_adds

    def parameters(self, shapes: tuple[Shape, ...]) -> int:  # noqa: ARG002
        return sum(prod(weight.shape) for weight in self.weights if weight.role == "parameter")

    def label(self, shapes: tuple[Shape, ...]) -> str:
        names = dict.fromkeys(name for call in self.calls if (name := short_name(call.op)).lower() not in _UNSAID)
        if not names:
            names = dict.fromkeys(short_name(call.op) for call in self.calls)
        shown = list(names)
        text = " +".join(shown[:4]) + (f" +{len(shown) - 4} more" if len(shown) > 4 else "")
        return f"{text} {show_shapes(shapes[:1])}→{show_shapes((self.output,))}" if shapes else text


# What moves no data, and is not worth a word where other operators are.
_UNSAID = frozenset(
    {
        "getitem",
        "view",
        "reshape",
        "permute",
        "transpose",
        "unsqueeze",
        "squeeze",
        "expand",
        "flatten",
        "contiguous",
        "unbind",
        "split",
        "chunk",
        "select",
        "slice",
        "alias",
    }
)


def values_of(call: Call) -> list[int]:
    """Return the numbers of the values that a call takes."""
    found: list[int] = []
    for each in _scalars(call):
        if isinstance(each, Ref) and each.kind == "value":
            if not isinstance(each.of, int):
                raise LayerError(f"subgraph: {call.op} takes the value {each.of!r}, which is no number")
            found.append(each.of)
    return found


def _scalars(call: Call) -> Iterable[Scalar]:
    for argument in itertools.chain(call.args, (value for _, value in call.named)):
        if isinstance(argument, tuple):
            yield from argument
        else:
            yield argument


def _check_call(call: Call, framework: Framework, place: str) -> None:
    """Refuse what cannot be the call of an operator, or of one that does more than compute."""
    torch = framework == "torch"
    if not (_TORCH_OPERATOR if torch else _ONNX_OPERATOR).fullmatch(call.op):
        raise LayerError(f"{place}: {call.op[:80]!r} is no operator's name")
    if torch and call.op.startswith("aten.") and call.op.split(".")[1] in SIDE_EFFECTS:
        raise LayerError(f"{place}: {call.op} does more than compute its result, and is never called")
    names = [name for name, _ in call.named]
    for name in names:
        if not (_TORCH_ARGUMENT if torch else _ONNX_ATTRIBUTE).fullmatch(name):
            raise LayerError(f"{place} ({call.op}): {name[:80]!r} is no argument's name")
    if len(set(names)) != len(names):
        raise LayerError(f"{place} ({call.op}): an argument is given twice")
    for each in _scalars(call):
        if isinstance(each, Ref):
            _check_ref(each, f"{place} ({call.op})")
        elif isinstance(each, str):
            if len(each) > LONGEST_TEXT:
                raise LayerError(f"{place} ({call.op}): a text of {len(each)} characters")
        elif isinstance(each, int) and abs(each) > LARGEST_INTEGER + 1:
            raise LayerError(f"{place} ({call.op}): an integer beyond 64 bits")


# What ``Ref`` may name: a file's text is compared with these, and looked up nowhere else.
DTYPES = frozenset(
    {
        *("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"),
        *("complex32", "complex64", "complex128", "uint16", "uint32", "uint64"),
    }
)
MEMORY_FORMATS = frozenset({"contiguous_format", "preserve_format", "channels_last", "channels_last_3d"})
_FLOATS = frozenset({"inf", "-inf", "nan"})
_REFERRED: dict[str, frozenset[str]] = {"dtype": DTYPES, "memory_format": MEMORY_FORMATS, "float": _FLOATS}


def _check_ref(ref: Ref, place: str) -> None:
    if ref.kind == "value":
        if not isinstance(ref.of, int) or isinstance(ref.of, bool):
            raise LayerError(f"{place} takes the value {str(ref.of)[:80]!r}, which is no number")
    elif ref.of not in _REFERRED[ref.kind]:
        raise LayerError(f"{place}: there is no {ref.kind} {str(ref.of)[:80]!r}")


def short_name(op: str) -> str:
    """Return an operator's name for people: ``aten.layer_norm.default`` → ``layer_norm``."""
    parts = op.split(".")
    overloaded = len(parts) > 1 and (parts[0] == "aten" or parts[2:] == ["default"])
    return (parts[1] if overloaded else parts[-1]).rstrip("_")


def _check_weight(weight: Weight) -> None:
    if any(not 0 <= size <= 2**31 - 1 for size in weight.shape) or prod(weight.shape) > MOST_ELEMENTS:
        raise LayerError(f"subgraph: a weight of {show_shapes((weight.shape,))}")
    if weight.values is not None and len(weight.values) not in (1, prod(weight.shape)):
        raise LayerError(f"subgraph: a weight of {prod(weight.shape)} values, and {len(weight.values)} are given")
    if weight.values and max(abs(min(weight.values)), abs(max(weight.values))) > LARGEST_INTEGER:
        raise LayerError("subgraph: a weight with integers beyond 64 bits")
    if weight.numbers is not None and len(weight.numbers) != prod(weight.shape):
        raise LayerError(f"subgraph: a weight of {prod(weight.shape)} numbers, and {len(weight.numbers)} are given")
    if max(len(weight.values or ()), len(weight.numbers or ())) > MOST_VALUES:
        raise LayerError(f"subgraph: a weight of more than {MOST_VALUES} written values")

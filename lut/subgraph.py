"""An operator that holds others: a piece of a network in its framework's own operators.

The primitives have names that every target knows. What a user's network holds beside them (attention, resizing, a
gather …) is kept as the framework wrote it: as the calls of its operators, with the shapes of all weights. A target
that runs this framework can build and time it; nothing here needs the framework.
"""

from __future__ import annotations

import sys
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

# Bounds that keep a hostile file from costing minutes: of calls, and of numbers written out.
MOST_CALLS = 2000
MOST_VALUES = 1 << 20
MOST_ELEMENTS = 1 << 34


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

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if not 1 <= self.batch <= 2**31 - 1:
            raise LayerError(f"subgraph: batch must be positive, got {self.batch}")
        if shapes != tuple(given.shape for given in self.inputs):
            wanted = show_shapes(tuple(given.shape for given in self.inputs))
            raise LayerError(f"subgraph takes {wanted}, got {show_shapes(shapes)}")
        if not 1 <= len(self.calls) <= MOST_CALLS:
            raise LayerError(f"subgraph: between 1 and {MOST_CALLS} calls, got {len(self.calls)}")
        if self.multiply_adds < 0:
            raise LayerError(f"subgraph: multiply_adds must not be negative, got {self.multiply_adds}")
        for weight in self.weights:
            _check_weight(weight)
        for size in self.output:
            if not 0 <= size <= 2**31 - 1:
                raise LayerError(f"subgraph: an output of {show_shapes((self.output,))}")
        first = len(self.inputs) + len(self.weights)
        for i, call in enumerate(self.calls):
            if any(not 0 <= value < first + i for value in values_of(call)):
                raise LayerError(f"subgraph: call {i} ({call.op}) takes values that do not come before it")
        if any(not first <= value < first + len(self.calls) for value in self.also):
            raise LayerError(f"subgraph: it also gives the values {self.also}, which are not all results of its calls")
        return self.output

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
    for argument in (*call.args, *(value for _, value in call.named)):
        for each in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(each, Ref) and each.kind == "value":
                if not isinstance(each.of, int):
                    raise LayerError(f"subgraph: {call.op} takes the value {each.of!r}, which is no number")
                found.append(each.of)
    return found


def short_name(op: str) -> str:
    """Return an operator's name for people: ``aten.layer_norm.default`` → ``layer_norm``."""
    parts = op.split(".")
    return (parts[1] if parts[0] == "aten" and len(parts) > 1 else parts[-1]).rstrip("_")


def _check_weight(weight: Weight) -> None:
    if any(not 0 <= size <= 2**31 - 1 for size in weight.shape) or prod(weight.shape) > MOST_ELEMENTS:
        raise LayerError(f"subgraph: a weight of {show_shapes((weight.shape,))}")
    if weight.values is not None and len(weight.values) not in (1, prod(weight.shape)):
        raise LayerError(f"subgraph: a weight of {prod(weight.shape)} values, and {len(weight.values)} are given")
    if weight.numbers is not None and len(weight.numbers) != prod(weight.shape):
        raise LayerError(f"subgraph: a weight of {prod(weight.shape)} numbers, and {len(weight.numbers)} are given")
    if max(len(weight.values or ()), len(weight.numbers or ())) > MOST_VALUES:
        raise LayerError(f"subgraph: a weight of more than {MOST_VALUES} written values")

"""A subgraph of PyTorch's operators as a module, as eager PyTorch would call them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection
from math import prod, sqrt
from typing import Any, NamedTuple

import torch
from torch import nn

from lut import LayerError
from lut.subgraph import (
    SIDE_EFFECTS,
    Argument,
    Call,
    Given,
    Ref,
    Subgraph,
    Weight,
    values_of,
)
from profiler._dtypes import torch_dtype

__all__ = ["Traced", "example", "function_of", "registered_namespaces", "registered_operators"]


# PyTorch's namespaces whose operators compute tensors. Others are allowed where the user's own file registers them.
NAMESPACES = frozenset({"aten", "prims"})

# Arguments of these types are no description of a computation: foreign memory, streams, objects of a library.
_REFUSED_TYPES = ("Storage", "Stream", "__torch__")


class _Step(NamedTuple):
    """One call: what makes it of the values so far, and whose last reader it is."""

    call: Callable[[list[Any]], Any]
    dead: tuple[int, ...]


class Traced(nn.Module):
    """The calls of a subgraph, as one module, which makes them one after another. Final.

    A call is a function that was looked up among those that PyTorch registered, and the numbers of the values that it
    takes; no source text is made of what a file says. Weights are drawn from PyTorch's global generator.

    Args:
        op: the subgraph.
        namespaces: of operators that may be called beside PyTorch's own.

    Raises:
        LayerError: the operators are not PyTorch's, or this PyTorch does not have one.
    """

    def __init__(self, op: Subgraph, namespaces: Collection[str] = ()) -> None:
        super().__init__()
        if op.framework != "torch":
            raise LayerError(f"these are operators of {op.framework}, and PyTorch does not have them")
        weights: list[tuple[bool, str]] = []
        for i, weight in enumerate(op.weights):
            trained = weight.role == "parameter"
            made = tensor_of(weight)
            if trained:
                self.register_parameter(f"w{i}", nn.Parameter(made, requires_grad=False))
            else:
                self.register_buffer(f"w{i}", made)
            weights.append((trained, f"w{i}"))
        self._weights = tuple(weights)
        first = len(op.inputs) + len(op.weights)
        last_read = {value: number for number, call in enumerate(op.calls) for value in values_of(call)}
        output = first + len(op.calls) - 1
        # The registry is asked once a layer, and not for each of its calls.
        registered = registered_operators()
        steps = []
        for number, call in enumerate(op.calls):
            # Weights live on; what the caller gave is its own to free.
            dead = [v for v in dict.fromkeys(values_of(call)) if v >= first and last_read[v] == number and v != output]
            steps.append(_Step(_caller(function_of(call.op, namespaces, registered), call), tuple(dead)))
        self._steps = tuple(steps)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        parameters, buffers = self._parameters, self._buffers
        values: list[Any] = list(inputs)
        for trained, name in self._weights:
            values.append(parameters[name] if trained else buffers[name])
        for call, dead in self._steps:
            values.append(call(values))
            for value in dead:
                # As in eager code, a tensor's memory is free once nobody reads it any more.
                values[value] = None
        output: torch.Tensor = values[-1]
        return output


def _caller(function: Callable[..., Any], call: Call) -> Callable[[list[Any]], Any]:
    """Return what makes a call of the values so far.

    Most calls take one to three tensors and then constants; these cost no more than a line of Python would.
    """
    named = {name: _constant(argument) for name, argument in call.named if not _takes_values(argument)}
    taking = [(name, argument) for name, argument in call.named if _takes_values(argument)]
    leading = [*itertools.takewhile(lambda argument: isinstance(argument, Ref) and _takes_values(argument), call.args)]
    rest = call.args[len(leading) :]
    if not taking and not any(map(_takes_values, rest)) and 1 <= len(leading) <= 3:
        constants = tuple(_constant(argument) for argument in rest)
        a, b, c = [_number(ref) for ref in leading] + [0] * (3 - len(leading))
        if len(leading) == 1:
            return lambda values: function(values[a], *constants, **named)
        if len(leading) == 2:
            return lambda values: function(values[a], values[b], *constants, **named)
        return lambda values: function(values[a], values[b], values[c], *constants, **named)
    args = [_filler(argument) for argument in call.args]
    fillers = [(name, _filler(argument)) for name, argument in taking]
    return lambda values: function(
        *[fill(values) for fill in args], **named, **{name: fill(values) for name, fill in fillers}
    )


def _takes_values(argument: Argument) -> bool:
    each = argument if isinstance(argument, tuple) else (argument,)
    return any(isinstance(scalar, Ref) and scalar.kind == "value" for scalar in each)


def _number(ref: Argument) -> int:
    assert isinstance(ref, Ref)
    assert isinstance(ref.of, int)
    return ref.of


def _filler(argument: Argument) -> Callable[[list[Any]], Any]:
    """Return what gives an argument, of the values so far."""
    if isinstance(argument, tuple) and _takes_values(argument):
        parts = [_filler(scalar) for scalar in argument]
        return lambda values: [fill(values) for fill in parts]
    if _takes_values(argument):
        assert not isinstance(argument, tuple)
        number = _number(argument)
        return lambda values: values[number]
    constant = _constant(argument)
    return lambda _: constant


def _constant(argument: Argument) -> Any:
    if isinstance(argument, tuple):
        return [_constant(scalar) for scalar in argument]
    if not isinstance(argument, Ref):
        return argument
    if argument.kind == "float":
        return float(argument.of)
    if argument.kind == "dtype":
        return torch_dtype(str(argument.of))
    return _MEMORY_FORMATS[str(argument.of)]


_MEMORY_FORMATS = {
    "contiguous_format": torch.contiguous_format,
    "preserve_format": torch.preserve_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}


def function_of(
    op: str, namespaces: Collection[str] = (), registered: Collection[str] | None = None
) -> Callable[..., Any]:
    """Return the function that eager PyTorch would call for an operator such as ``aten.layer_norm.default``.

    The name is looked up among the operators that are registered, and nowhere else. The overloads themselves
    (``torch.ops.aten…``) cost a microsecond or two more a call than PyTorch's generated functions and methods, which
    take the same arguments.

    Args:
        op: ``namespace.operator.overload``, or ``getitem``.
        namespaces: those that are allowed beside PyTorch's own.
        registered: what :func:`registered_operators` returned, where many are looked up.

    Raises:
        LayerError: this PyTorch has no such operator, or it does something else than compute tensors.
    """
    if op == "getitem":
        return operator.getitem
    namespace, _, rest = op.partition(".")
    packet, _, overload = rest.partition(".")
    if namespace not in NAMESPACES and namespace not in namespaces:
        raise LayerError(
            f"operator {op} is not of PyTorch's own ({', '.join(sorted(NAMESPACES))}); it runs only in a process that "
            "imports what registers it (--model FILE.py:FACTORY)"
        )
    if namespace == "aten" and packet in SIDE_EFFECTS:
        raise LayerError(f"operator {op} does more than compute its result, and is never called")
    schema = _schema(
        namespace, packet, overload or "default", registered_operators() if registered is None else registered
    )
    if schema is None:
        raise LayerError(f"PyTorch {torch.__version__} has no operator {op}")
    types = [str(argument.type) for argument in schema.arguments]
    if any(refused in name for name in types for refused in _REFUSED_TYPES):
        raise LayerError(f"operator {op} does more than compute its result, and is never called")
    # What gives no tensor computes nothing that a layer could give.
    given = [str(result.type) for result in schema.returns]
    if not given or not all("Tensor" in name for name in given):
        raise LayerError(f"operator {op} gives something else than tensors, and is never called")
    found: Any = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
    if not isinstance(found, torch._ops.OpOverload):
        raise LayerError(f"PyTorch {torch.__version__} has no operator {op}")
    if namespace != "aten" or packet in _OTHER_ARGUMENTS:
        return found
    for place in (torch, torch._C._nn, torch.Tensor):
        generated: Any = getattr(place, packet, None)
        if type(generated).__name__ in ("builtin_function_or_method", "method_descriptor"):
            made: Callable[..., Any] = generated
            return made
    return found


def _schema(namespace: str, packet: str, overload: str, registered: Collection[str]) -> Any:
    """Return what PyTorch's registry says of an operator's overload, ``None`` where it has none."""
    wanted = "" if overload == "default" else overload
    if f"{namespace}::{packet}" + (f".{wanted}" if wanted else "") not in registered:
        # TorchScript's interpreter knows more, which computes no tensors: seeds, texts, modes.
        return None
    schemas = torch._C._jit_get_schemas_for_operator(f"{namespace}::{packet}")
    return next((schema for schema in schemas if schema.overload_name == wanted), None)


def registered_operators() -> frozenset[str]:
    """Return the names of all operators of PyTorch's dispatcher: ``aten::add.Tensor``."""
    return frozenset(torch._C._dispatch_get_all_op_names())


def registered_namespaces() -> frozenset[str]:
    """Return the namespaces of all operators that are registered in this process."""
    return frozenset(name.partition("::")[0] for name in registered_operators())


# Generated functions whose arguments are not the operator's.
_OTHER_ARGUMENTS = frozenset(
    {"to", "max", "min", "einsum", "arange", "full", "zeros", "ones", "rand", "randn", "range"}
)


def tensor_of(weight: Weight) -> torch.Tensor:
    """Return a weight: what is written out, or numbers that neither blow activations up nor let them vanish."""
    dtype = torch_dtype(weight.dtype)
    if weight.values is not None:
        values = weight.values if len(weight.values) > 1 else weight.values * prod(weight.shape)
        return torch.tensor(values, dtype=torch.int64).reshape(weight.shape).to(dtype)
    if weight.numbers is not None:
        return torch.tensor([float(number) for number in weight.numbers]).reshape(weight.shape).to(dtype)
    if not dtype.is_floating_point:
        return torch.zeros(weight.shape, dtype=dtype)
    if len(weight.shape) < 2:
        return torch.empty(weight.shape).uniform_(0.5, 1.5).to(dtype)
    # He et al. (2015), as for the primitives.
    return (torch.randn(weight.shape) * sqrt(2 / max(1, prod(weight.shape[1:])))).to(dtype)


def example(given: Given, batch: int, dtype: torch.dtype) -> torch.Tensor:
    """Return an input: standard normal in ``dtype``, or integers in the range that ``given`` names."""
    shape = (batch, *given.shape)
    if given.dtype.startswith(("int", "uint", "bool")):
        return torch.randint(given.least, max(given.below, given.least + 1), shape).to(torch_dtype(given.dtype))
    return torch.randn(shape).to(dtype)

"""A subgraph of PyTorch's operators as a module, as eager PyTorch would call them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import torch
from torch import fx, nn

from lut import LayerError
from lut.subgraph import Argument, Given, Ref, Scalar, Subgraph, Weight

__all__ = ["Traced", "example", "function_of"]


class Traced(nn.Module):
    """The calls of a subgraph, as one module: the code of ``forward`` is written by :mod:`torch.fx`. Final.

    Weights are drawn from PyTorch's global generator.

    Raises:
        LayerError: the operators are not PyTorch's, or this PyTorch does not have one.
    """

    def __init__(self, op: Subgraph) -> None:
        super().__init__()
        if op.framework != "torch":
            raise LayerError(f"these are operators of {op.framework}, and PyTorch does not have them")
        graph = fx.Graph()
        values: list[fx.Node] = [graph.placeholder(f"x{i}") for i in range(len(op.inputs))]
        root = nn.Module()
        for i, weight in enumerate(op.weights):
            name = f"w{i}"
            made = tensor_of(weight)
            if weight.role == "parameter":
                root.register_parameter(name, nn.Parameter(made, requires_grad=False))
            else:
                root.register_buffer(name, made)
            values.append(graph.get_attr(name))
        for call in op.calls:
            args = tuple(_argument(argument, values) for argument in call.args)
            named = {name: _argument(argument, values) for name, argument in call.named}
            values.append(graph.call_function(function_of(call.op), args, named))
        graph.output(values[-1])
        self.calls = fx.GraphModule(root, graph)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.calls(*inputs)
        return output


def _argument(argument: Argument, values: list[fx.Node]) -> Any:
    if isinstance(argument, tuple):
        return [_scalar(each, values) for each in argument]
    return _scalar(argument, values)


def _scalar(scalar: Scalar, values: list[fx.Node]) -> Any:
    if not isinstance(scalar, Ref):
        return scalar
    if scalar.kind == "value":
        assert isinstance(scalar.of, int)
        return values[scalar.of]
    if scalar.kind == "float":
        return float(scalar.of)
    found = getattr(torch, str(scalar.of), None)
    if not isinstance(found, torch.dtype if scalar.kind == "dtype" else torch.memory_format):
        raise LayerError(f"this PyTorch has no {scalar.kind} {scalar.of!r}")
    return found


def function_of(op: str) -> Callable[..., Any]:
    """Return the function that eager PyTorch would call for an operator such as ``aten.layer_norm.default``.

    The overloads themselves (``torch.ops.aten…``) cost a microsecond or two more a call than PyTorch's generated
    functions and methods, which take the same arguments.

    Raises:
        LayerError: this PyTorch has no such operator.
    """
    if op == "getitem":
        return operator.getitem
    namespace, _, rest = op.partition(".")
    packet, _, overload = rest.partition(".")
    try:
        found: Callable[..., Any] = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
    except (AttributeError, RuntimeError):
        raise LayerError(f"PyTorch {torch.__version__} has no operator {op}") from None
    if namespace != "aten" or packet in _OTHER_ARGUMENTS:
        return found
    for place in (torch, torch._C._nn, torch.Tensor):
        generated: Any = getattr(place, packet, None)
        if type(generated).__name__ in ("builtin_function_or_method", "method_descriptor"):
            made: Callable[..., Any] = generated
            return made
    return found


# Generated functions whose arguments are not the operator's.
_OTHER_ARGUMENTS = frozenset(
    {"to", "max", "min", "einsum", "arange", "full", "zeros", "ones", "rand", "randn", "range"}
)


def tensor_of(weight: Weight) -> torch.Tensor:
    """Return a weight: what is written out, or numbers that neither blow activations up nor let them vanish."""
    dtype: torch.dtype = getattr(torch, weight.dtype)
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
        own: torch.dtype = getattr(torch, given.dtype)
        return torch.randint(given.least, max(given.below, given.least + 1), shape).to(own)
    return torch.randn(shape).to(dtype)

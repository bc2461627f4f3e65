"""A torch module of the user's own process: as a network of layers, or to be measured as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from lut import Network, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["TracedModule", "evaluating", "trace"]


@final
class TracedModule:
    """A torch module with its layers, to be measured as it is: with its own code and weights.

    :func:`profiler.profile` measures its layers, and the module itself end to end in the same rounds, so that the
    table's audit is of it. Final.

    Args:
        module: any ``torch.nn.Module`` on the CPU; it is traced in evaluation mode and left in the mode that it was in.
        inputs: a tensor, or a tuple of tensors, one for each argument of ``forward``, the batch in front. What integers
            there are, are taken for ids: the largest says how many there may be.
        name: for people, and in tables; by default the class's.

    Raises:
        UsageError: what is given is no module or no tensors, the module does not run on them, or it cannot be traced.
    """

    network: Network
    """The module by its layers."""

    dtype: str | None
    """What its weights are of, by PyTorch's name; ``None`` where it has none."""

    batch: int
    """Samples per call, by its inputs."""

    operators: int
    """How many operators its layers hold."""

    idle: Mapping[str, int]
    """Operators in no layer, by name, and how often each occurs; see :attr:`lut.LatencyTable.networks`."""

    def __init__(
        self, module: torch.nn.Module, inputs: torch.Tensor | Sequence[torch.Tensor], *, name: str | None = None
    ) -> None:
        import torch

        from profiler._trace import trace as trace_module

        if not isinstance(module, torch.nn.Module):
            raise UsageError(f"a torch.nn.Module is traced, got {type(module).__name__}")
        self.name = type(module).__name__ if name is None else name
        if not isinstance(self.name, str) or not self.name.strip():
            raise UsageError(f"a network's name is a text that is not empty, got {self.name!r}")
        self.module = module
        self.inputs = _as_tensors(inputs, self.name)
        _check_places(module, self.inputs, self.name)
        self.dtype = _dtype_of(module, self.name)
        if self.inputs[0].ndim and not self.inputs[0].shape[0]:
            raise UsageError(f"{self.name}: the first input has a batch of 0")
        with evaluating(module):
            _try(module, self.inputs, self.name)
            found = trace_module(module, self.inputs, name=self.name)
        self.network, self.batch, self.operators = found.network, found.batch, found.operators
        self.idle = found.idle

    def __repr__(self) -> str:
        shapes = ", ".join("×".join(map(str, x.shape)) for x in self.inputs)
        layers = len(self.network.layers)
        return f"<TracedModule {self.name}: {type(self.module).__name__} on {shapes}, {layers} layers>"


def trace(
    module: torch.nn.Module, inputs: torch.Tensor | Sequence[torch.Tensor], *, name: str | None = None
) -> Network:
    """Return a torch module as a network of layers.

    The layers are what a table holds and a predictor answers for; of the module's weights they know the shapes only. To
    have the module itself measured beside them, give :func:`profiler.profile` a :class:`TracedModule`.

    Args:
        module: any ``torch.nn.Module`` on the CPU; it is traced in evaluation mode and left in the mode that it was in.
        inputs: a tensor, or a tuple of tensors, one for each argument of ``forward``, the batch in front.
        name: for people, and in tables; by default the class's.

    Raises:
        UsageError: as :class:`TracedModule`.
    """
    return TracedModule(module, inputs, name=name).network


def _as_tensors(inputs: Any, name: str) -> tuple[torch.Tensor, ...]:
    import torch

    given = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    if isinstance(given, Mapping):
        raise UsageError(
            f"{name}: inputs are a tensor, or a tuple of tensors in the order of forward's arguments, got a dict; wrap "
            "the module in one whose forward takes them in order"
        )
    if not isinstance(given, (tuple, list)) or not all(isinstance(x, torch.Tensor) for x in given):
        found = type(inputs).__name__
        if isinstance(given, (tuple, list)):
            found += " of " + ", ".join(sorted({type(x).__name__ for x in given}))
        raise UsageError(
            f"{name}: inputs are a tensor, or a tuple of tensors in the order of forward's arguments, got {found}"
        )
    if not given:
        raise UsageError(f"{name}: give at least one input, such as torch.randn(4, 3, 32, 32)")
    return tuple(given)


def _check_places(module: torch.nn.Module, inputs: Sequence[torch.Tensor], name: str) -> None:
    """Raise unless everything is on the CPU: the target moves it to where it measures."""
    of_module = {t.device.type for t in [*module.parameters(), *module.buffers()]}
    of_inputs = {x.device.type for x in inputs}
    for what, places in (("the module is", of_module), ("its inputs are", of_inputs)):
        if elsewhere := sorted(places - {"cpu"}):
            raise UsageError(
                f"{name}: {what} on {', '.join(elsewhere)}; move both to the CPU, module.cpu() and inputs.cpu(): a "
                "target moves them to where it measures"
            )


def _dtype_of(module: torch.nn.Module, name: str) -> str | None:
    """Return what a module computes in by its weights, as targets name it; ``None`` where it has no such weights."""
    found = {str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()}
    if len(found) > 1:
        raise UsageError(
            f"{name}: its weights are of {', '.join(sorted(found))}, and a table is of one data type: module.to(dtype)"
        )
    if strange := found - {"float32", "float16", "bfloat16"}:
        raise UsageError(
            f"{name}: its weights are of {strange.pop()}; targets run float32, bfloat16 and float16: module.to(dtype)"
        )
    return next(iter(found), None)


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Have a module in evaluation mode within the block."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _try(module: torch.nn.Module, inputs: Sequence[torch.Tensor], name: str) -> None:
    import torch

    try:
        with torch.no_grad():
            # Copies: what overwrites its input keeps its hands off the caller's.
            module(*(x.clone() for x in inputs))
    except Exception as error:
        shapes = ", ".join("×".join(map(str, x.shape)) for x in inputs)
        text = " ".join(str(error).split())[:400]
        raise UsageError(f"{name}: it does not run on inputs of {shapes}: {type(error).__name__}: {text}") from None

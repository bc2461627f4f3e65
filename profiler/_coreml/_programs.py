"""Which programs are timed for a layer, and how its latency follows from theirs.

A prediction of one small layer is mostly Core ML's own overhead, which a network pays once and not per layer. In the
context ``network`` a layer's latency is therefore what one more copy of it adds to a program, from two programs whose
inputs and outputs are the same, so that the overhead cancels:

``chain``
    for a layer that returns what it takes. Copies with different weights, one after another: L, and L∘L∘…∘L. With K
    copies: layer = (chain of K − chain of 1) / (K − 1).

``parallel``
    for a layer that changes the shape, or that has neither weights nor a second input (L∘L may then be simplified: the
    ReLU of a ReLU). Copy k gets an input of its own, u₁ = a + b and uₖ₊₁ = uₖ + a or + b, and the outputs are summed.
    Distinct inputs and weights keep a compiler from merging copies. Each further copy costs the layer, one addition
    of each input's shape and one of the output's:
    layer = (parallel K − parallel 1) / (K − 1) − addition(input) − addition(output).

``adds``
    what such an addition costs: (chain of 16 additions − chain of 1) / 15, on two inputs taken in turns.

In the context ``isolated`` a layer is one program with one copy, overhead included. The scheme assumes that costs add
up; a whole network of the same bundle (``--model``) shows how far they do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from math import ceil, prod
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from lut import Layer
from lut.primitives import Shape
from profiler._coreml._options import ExportOptions

__all__ = ["ADDS", "Plan", "ProgramPlan", "Role", "chained_input", "plan_layers", "programs_of_layer"]

Role: TypeAlias = Literal["one", "chain", "parallel", "adds", "network"]

# Changes whenever the same plan is converted in another way, so that nothing older is taken for it.
SCHEME = 1
# So much work makes a chain of milliseconds on a CPU and some tenths on an accelerator: well above the clock's noise.
CHAIN_WORK = 32e6
FEWEST, MOST = 4, 16
LARGEST_WEIGHTS = 64 << 20
ADDS = 16


class ProgramPlan(msgspec.Struct, frozen=True):
    """A program to convert: ``copies`` of ``layer``, or so many additions of ``shape``."""

    role: Role
    copies: int
    layer: Layer | None = None
    shape: Shape | None = None

    def made_from(self, options: ExportOptions, versions: dict[str, str]) -> str:
        """Return 64 digits that name everything the converted program follows from."""
        content = msgspec.json.encode((SCHEME, self, options, sorted(versions.items())))
        return hashlib.sha256(content).hexdigest()

    def __str__(self) -> str:
        if self.layer is None:
            return f"{self.copies} additions of " + "×".join(map(str, self.shape or ()))
        return f"{self.role} of {self.copies}: {self.layer}"

    @property
    def title(self) -> str:
        """What the program's file begins with: the layer first, so that a layer's programs lie together."""
        if self.layer is None:
            return "additions of " + "×".join(map(str, self.shape or ())) + f" {self.copies} times"
        return f"{self.layer} {self.role} of {self.copies}" if self.role != "one" else str(self.layer)

    @property
    def parameters(self) -> int:
        """How many weights the program holds."""
        return self.copies * self.layer.parameters if self.layer is not None else 0


class Plan(NamedTuple):
    """All programs of an export, each once, and per layer its weighted sum of them.

    ``groups`` number programs that enter one value and are visited close together in time.
    """

    programs: tuple[ProgramPlan, ...]
    values: tuple[tuple[tuple[ProgramPlan, float], ...], ...]
    groups: tuple[tuple[ProgramPlan, ...], ...]


def chained_input(layer: Layer) -> int | None:
    """Return the input that takes the layer's own output when it is chained, ``None`` where that cannot be."""
    if not layer.parameters and len(layer.inputs) == 1:
        return None
    return next((i for i, shape in enumerate(layer.inputs) if shape == layer.output_shape), None)


def programs_of_layer(layer: Layer, options: ExportOptions) -> tuple[tuple[ProgramPlan, float], ...]:
    """Return a layer's programs with their weights; see the module's text."""
    if options.context == "isolated":
        return ((ProgramPlan("one", 1, layer=layer), 1.0),)
    copies = _copies(layer, options)
    role: Role = "chain" if chained_input(layer) is not None else "parallel"
    terms = _difference(ProgramPlan(role, copies, layer=layer), ProgramPlan(role, 1, layer=layer), 1.0)
    if role == "parallel":
        for shape in (*layer.inputs, layer.output_shape):
            adds = _difference(ProgramPlan("adds", ADDS, shape=shape), ProgramPlan("adds", 1, shape=shape), -1.0)
            for program, weight in adds.items():
                terms[program] = terms.get(program, 0.0) + weight
    return tuple(terms.items())


def plan_layers(layers: Iterable[Layer], options: ExportOptions) -> Plan:
    """Return the programs that the layers need."""
    values = tuple(programs_of_layer(layer, options) for layer in layers)
    programs = dict.fromkeys(program for value in values for program, _ in value)
    groups: dict[object, list[ProgramPlan]] = {}
    for program in programs:
        groups.setdefault(program.layer or program.shape, []).append(program)
    return Plan(tuple(programs), values, tuple(map(tuple, groups.values())))


def _copies(layer: Layer, options: ExportOptions) -> int:
    elements = sum(map(prod, layer.inputs)) + prod(layer.output_shape)
    work = options.batch * max(layer.madds, elements)
    copies = min(MOST, max(FEWEST, 1 + ceil(CHAIN_WORK / work)))
    size = max(1, layer.parameters) * (2 if options.dtype == "float16" else 4)
    return max(2, min(copies, LARGEST_WEIGHTS // size))


def _difference(many: ProgramPlan, one: ProgramPlan, sign: float) -> dict[ProgramPlan, float]:
    share = sign / (many.copies - one.copies)
    return {many: share, one: -share}

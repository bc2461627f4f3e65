"""What a network needs, in several currencies at once, and limits of any of them."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from lut import UsageError
from lut._console import format_ms

__all__ = ["UNITS", "Bound", "Budgets", "Holds", "Needs", "amount", "meant_millions"]

# What a budget of ms is held against: the upper end of a prediction's interval, or the prediction itself.
Bound: TypeAlias = Literal["upper", "predicted"]
# When a budget of ms holds: at the speed to which the table's latencies are brought, or at any other speed of it.
Holds: TypeAlias = Literal["reference-speed", "any-day"]

UNITS = {"ms": "ms", "parameters": "parameters", "madds": "multiply-adds"}
# A budget of fewer parameters or multiply-adds than this is one in millions.
IN_MILLIONS = 10_000
LEAST_SHOWN_MS = 1e-3


class Budgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits that must all hold; ``None``: no such limit.

    Args:
        ms: of the latency.
        parameters: of all trainable parameters.
        madds: of the multiply-adds of one sample, as the space's paper counts them.

    Raises:
        UsageError: a limit is not a positive number.
    """

    ms: float | None = None
    parameters: float | None = None
    madds: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.given():
            if not 0 < limit < inf:
                raise UsageError(f"a budget of {UNITS[name]} is a positive number, got {limit:g}")

    def given(self) -> Iterator[tuple[str, float]]:
        """Yield the limits that there are, by name."""
        for name in self.__struct_fields__:
            limit = getattr(self, name)
            if limit is not None:
                yield name, limit

    def __bool__(self) -> bool:
        return any(True for _ in self.given())

    def __str__(self) -> str:
        return ", ".join(f"{amount(name, limit)} {UNITS[name]}" for name, limit in self.given()) or "no budget"


class Needs(NamedTuple):
    """What a network needs.

    Args:
        parameters: trainable ones.
        madds: multiply-adds of one sample, as the space's paper counts them.
        ms: predicted latency; ``None`` where there is no predictor.
        bound_ms: what a budget of ms is held against: see :class:`search.Problem`.
    """

    parameters: int
    madds: int
    ms: float | None
    bound_ms: float | None

    def held(self, name: str) -> float:
        """Return what a budget is held against: ``ms``, ``parameters`` or ``madds``."""
        found = {"ms": self.bound_ms, "parameters": self.parameters, "madds": self.madds}[name]
        assert found is not None
        return float(found)


def amount(name: str, number: float) -> str:
    """Return a number of ms, parameters or multiply-adds as people read it."""
    if name == "ms":
        # As everywhere else, but that a budget of nothing is told as it was given.
        return format_ms(number) if number >= LEAST_SHOWN_MS else f"{number:.4g}"
    if number >= 1e5:
        return f"{number / 1e6:.4g} M"
    return f"{number:.4g}" if number < IN_MILLIONS else f"{number:,.0f}"


def meant_millions(name: str, held: float, limit: float) -> str:
    """Return a question where somebody seems to have counted in millions."""
    in_millions = name != "ms" and limit < IN_MILLIONS and held <= limit * 1e6 * IN_MILLIONS
    return f"; did you mean {limit:g}e6?" if in_millions else ""

"""The level of an interval or a verdict: with which probability it holds."""

from __future__ import annotations

from lut._option_names import option_text
from lut._suggest import as_share
from lut.errors import UsageError

__all__ = ["check_level"]


def check_level(level: float, *, least: float = 0.0) -> None:
    """Raise unless a level is a probability below 1.

    Args:
        level: what was given.
        least: the least that it may be; 0 itself is none.

    Raises:
        UsageError: it is out of range.
    """
    if least <= level < 1 and level > 0:
        return
    bounds = f"is at least {least:g} and below 1" if least else "lies between 0 and 1, such as 0.9"
    raise UsageError(f"{option_text('level')} {bounds}, got {level:g}{as_share(level, least, 1)}")

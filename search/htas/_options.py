"""HTAS's own options, by their names."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["HtasOptions"]


class HtasOptions(NamedTuple):
    """HTAS's own options."""

    depth: int
    widths: str
    depths: str
    expand: float
    groups: int
    alpha: str
    strategy: str
    cost: str
    penalty: str | None
    weight: float | None
    population: int
    generations: int
    distil: bool

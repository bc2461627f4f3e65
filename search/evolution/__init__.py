"""Evolution, local search and random search: any space within budgets, for any accuracy.

``evolution.search(problem, accuracy)`` is all that most need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.evolution._search import search
    from search.evolution._settings import Course, Round
    from search.evolution._settings import EvolutionSettings as Settings

# Resolved at first use (PEP 562): a command's --help should not wait for NumPy.
_HOMES = {
    "Course": ("search.evolution._settings", "Course"),
    "Round": ("search.evolution._settings", "Round"),
    "Settings": ("search.evolution._settings", "EvolutionSettings"),
    "search": ("search.evolution._search", "search"),
}

__all__ = ["Course", "Round", "Settings", "search"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'search.evolution' has no attribute {name!r}")
    module, own = _HOMES[name]
    return getattr(import_module(module), own)


def __dir__() -> list[str]:
    return __all__

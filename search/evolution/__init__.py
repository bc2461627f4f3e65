"""Evolution, local search and random search: any space within budgets, for any accuracy.

``evolution.search(problem, accuracy)`` is all that most need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lut._lazy import at_first_use

if TYPE_CHECKING:
    from search.evolution._search import search
    from search.evolution._settings import Course, Round
    from search.evolution._settings import EvolutionSettings as Settings

# Resolved at first use (PEP 562): a command's --help should not wait for NumPy.
_HOMES = {
    "Course": "._settings",
    "Round": "._settings",
    "Settings": "._settings:EvolutionSettings",
    "search": "._search",
}

__all__ = ["Course", "Round", "Settings", "search"]


__getattr__, __dir__ = at_first_use(__name__, _HOMES, __all__)

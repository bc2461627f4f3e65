"""RCAS: blocks added to a network, the most useful first, until its budgets are used.

``rcas.search(problem, accuracy, folder="run")`` is all that most need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.rcas._greedy import Budget, GreedyPath, GreedyStep, SetProblem, cost_effective_greedy
    from search.rcas._python import recipe, search, short_recipe
    from search.rcas._search import RcasPath as Path
    from search.rcas._search import RcasSettings as Settings
    from search.rcas._search import RcasStep as Step
    from search.rcas._submodularity import Submodularity, measure_submodularity

# Resolved at first use (PEP 562): a command's --help should not wait for PyTorch.
_HOMES = {
    "Budget": ("_greedy", "Budget"),
    "GreedyPath": ("_greedy", "GreedyPath"),
    "GreedyStep": ("_greedy", "GreedyStep"),
    "Path": ("_search", "RcasPath"),
    "SetProblem": ("_greedy", "SetProblem"),
    "Settings": ("_search", "RcasSettings"),
    "Step": ("_search", "RcasStep"),
    "Submodularity": ("_submodularity", "Submodularity"),
    "cost_effective_greedy": ("_greedy", "cost_effective_greedy"),
    "measure_submodularity": ("_submodularity", "measure_submodularity"),
    "recipe": ("_python", "recipe"),
    "search": ("_python", "search"),
    "short_recipe": ("_python", "short_recipe"),
}

__all__ = [
    "Budget",
    "GreedyPath",
    "GreedyStep",
    "Path",
    "SetProblem",
    "Settings",
    "Step",
    "Submodularity",
    "cost_effective_greedy",
    "measure_submodularity",
    "recipe",
    "search",
    "short_recipe",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'search.rcas' has no attribute {name!r}")
    module, own = _HOMES[name]
    return getattr(import_module(f"search.rcas.{module}"), own)


def __dir__() -> list[str]:
    return __all__

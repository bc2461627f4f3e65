"""RCAS: blocks added to a network, the most useful first, until its budgets are used.

``rcas.search(problem, accuracy, folder="run")`` is all that most need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lut._lazy import at_first_use

if TYPE_CHECKING:
    from search.rcas._greedy import Budget, GreedyPath, GreedyStep, SetProblem, cost_effective_greedy
    from search.rcas._python import recipe, search, short_recipe
    from search.rcas._search import RcasPath as Path
    from search.rcas._search import RcasSettings as Settings
    from search.rcas._search import RcasStep as Step
    from search.rcas._submodularity import Submodularity, measure_submodularity

# Resolved at first use (PEP 562): a command's --help should not wait for PyTorch.
_HOMES = {
    "Budget": "._greedy",
    "GreedyPath": "._greedy",
    "GreedyStep": "._greedy",
    "Path": "._search:RcasPath",
    "SetProblem": "._greedy",
    "Settings": "._search:RcasSettings",
    "Step": "._search:RcasStep",
    "Submodularity": "._submodularity",
    "cost_effective_greedy": "._greedy",
    "measure_submodularity": "._submodularity",
    "recipe": "._python",
    "search": "._python",
    "short_recipe": "._python",
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


__getattr__, __dir__ = at_first_use(__name__, _HOMES, __all__)

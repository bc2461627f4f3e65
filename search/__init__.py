"""Searches within budgets that hold when measured, search spaces, and the training of what is found.

A search is a package of its own: ``search.htas``, ``search.rcas``, ``search.evolution``; the spaces are
``search.spaces``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search import evolution, htas, rcas, spaces
    from search._accuracy._short_training import ShortTraining
    from search._data._images import ImageData, load_data, subset
    from search._problem._problem import Problem
    from search._runs._found import Found
    from search._runs._measurement import measure
    from search._runs._python import verify
    from search._training._recipe import Recipe
    from search._training._train import evaluate, train
    from search._training._weights import build_network, load_weights, save_weights

# Resolved at first use (PEP 562): a command's --help should not wait for PyTorch.
_HOMES = {
    "Found": "search._runs._found",
    "ImageData": "search._data._images",
    "Problem": "search._problem._problem",
    "Recipe": "search._training._recipe",
    "ShortTraining": "search._accuracy._short_training",
    "build_network": "search._training._weights",
    "evaluate": "search._training._train",
    "load_data": "search._data._images",
    "load_weights": "search._training._weights",
    "measure": "search._runs._measurement",
    "save_weights": "search._training._weights",
    "subset": "search._data._images",
    "train": "search._training._train",
    "verify": "search._runs._python",
}
_SUBPACKAGES = ("evolution", "htas", "rcas", "spaces")
# Names of earlier versions, and where what they meant is now.
_FORMER = {
    "AccuracyCache": "search._accuracy._evaluator:AccuracyCache",
    "Budget": "search.rcas:Budget",
    "EarlyStopped": "search._accuracy._short_training:ShortTraining",
    "Evaluator": "search._accuracy._evaluator:Evaluator",
    "EvolutionSettings": "search.evolution:Settings",
    "GreedyPath": "search.rcas:GreedyPath",
    "GreedyStep": "search.rcas:GreedyStep",
    "NasBenchMacro": "search.spaces:NasBenchMacro",
    "RCNet": "search.spaces:RCNet",
    "RcasPath": "search.rcas:Path",
    "RcasSettings": "search.rcas:Settings",
    "RcasStep": "search.rcas:Step",
    "ResNetCifar": "search.spaces:ResNetCifar",
    "SearchEpoch": "search.htas:Epoch",
    "SearchSettings": "search.htas:Settings",
    "SetProblem": "search.rcas:SetProblem",
    "Submodularity": "search.rcas:Submodularity",
    "Trained": "search._training._train:Trained",
    "cost_effective_greedy": "search.rcas:cost_effective_greedy",
    "hardware_aware_sets": "search.spaces:hardware_aware_sets",
    "load_accuracies": "search.spaces:load_accuracies",
    "measure_submodularity": "search.rcas:measure_submodularity",
    "mobilenet_v2": "search.spaces:mobilenet_v2",
    "nas_bench_macro": "search.spaces:nas_bench_macro",
    "predicted_curves": "search.spaces:predicted_curves",
    "ratio_widths": "search.spaces:ratio_widths",
    "rcas_recipe": "search.rcas:short_recipe",
    "rcnet_cifar": "search.spaces:rcnet_cifar",
    "rcnet_imagenet": "search.spaces:rcnet_imagenet",
    "resnet_cifar": "search.spaces:resnet_cifar",
    "resnet_cifar_bottleneck": "search.spaces:resnet_cifar_bottleneck",
    "selected_widths": "search.spaces:selected_widths",
    "uniform_widths": "search.spaces:uniform_widths",
}
# What is no more, and what to write in its place.
_GONE = {
    "Budgets": "Problem(space, predictor, ms=…, parameters=…, madds=…)",
    "NetworkCost": "Problem(space, predictor, ms=…)",
    "NetworkResources": "Problem(space, predictor)",
    "RcasResult": "Found, of rcas.search",
    "SearchProgress": "htas.search(…, tell=…)",
    "SearchResult": "Found, of htas.search",
    "derive": "Problem(space, predictor, ms=…).discretise(probabilities)",
    "make_cost": "Problem(space, predictor, ms=…)",
    "search_evolution": 'htas.search(problem, data, strategy="evolution"), or evolution.search for any space',
    "search_htas": "htas.search(problem, data)",
    "search_rcas": "rcas.search(problem, accuracy)",
}

__all__ = [
    "Found",
    "ImageData",
    "Problem",
    "Recipe",
    "ShortTraining",
    "build_network",
    "evaluate",
    "evolution",
    "htas",
    "load_data",
    "load_weights",
    "measure",
    "rcas",
    "save_weights",
    "spaces",
    "subset",
    "train",
    "verify",
]


def __getattr__(name: str) -> object:
    if name in _GONE:
        # No AttributeError: of that `from search import` would tell nothing.
        raise ImportError(f"search has no {name} any more; write {_GONE[name]}")
    place = f"search.{name}:" if name in _SUBPACKAGES else _FORMER.get(name) or f"{_HOMES.get(name, '')}:{name}"
    module, _, own = place.partition(":")
    if not module:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    found = import_module(module)
    return getattr(found, own) if own else found


def __dir__() -> list[str]:
    return __all__

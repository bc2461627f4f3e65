"""Search spaces, searches over them, and the training of what they find."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search._accuracy._evaluator import AccuracyCache, Evaluator
    from search._accuracy._short_training import ShortTraining, rcas_recipe
    from search._data._images import ImageData, load_data, subset
    from search._problem._cost import NetworkCost, derive, make_cost
    from search._problem._resources import Budgets, NetworkResources
    from search._training._recipe import Recipe
    from search._training._train import Trained, evaluate, train
    from search._training._weights import build_network, load_weights, save_weights
    from search.evolution._evolution import EvolutionSettings, search_evolution
    from search.htas._gradient import search_htas
    from search.htas._settings import SearchEpoch, SearchProgress, SearchResult, SearchSettings
    from search.rcas._greedy import Budget, GreedyPath, GreedyStep, SetProblem, cost_effective_greedy
    from search.rcas._search import RcasPath, RcasResult, RcasSettings, RcasStep, search_rcas
    from search.rcas._submodularity import Submodularity, measure_submodularity
    from search.spaces._mobilenet_v2 import mobilenet_v2
    from search.spaces._nas_bench_macro import NasBenchMacro, load_accuracies, nas_bench_macro
    from search.spaces._rcnet import RCNet, rcnet_cifar, rcnet_imagenet
    from search.spaces._resnet_cifar import ResNetCifar, resnet_cifar, resnet_cifar_bottleneck
    from search.spaces._width_sets import (
        hardware_aware_sets,
        predicted_curves,
        ratio_widths,
        selected_widths,
        uniform_widths,
    )

    EarlyStopped = ShortTraining

# Resolved at first use (PEP 562): a command's --help should not wait for PyTorch.
_HOMES = {
    "AccuracyCache": "search._accuracy._evaluator",
    "Budget": "search.rcas._greedy",
    "Budgets": "search._problem._resources",
    "ShortTraining": "search._accuracy._short_training",
    "Evaluator": "search._accuracy._evaluator",
    "EvolutionSettings": "search.evolution._evolution",
    "GreedyPath": "search.rcas._greedy",
    "GreedyStep": "search.rcas._greedy",
    "ImageData": "search._data._images",
    "NasBenchMacro": "search.spaces._nas_bench_macro",
    "NetworkCost": "search._problem._cost",
    "NetworkResources": "search._problem._resources",
    "RCNet": "search.spaces._rcnet",
    "RcasPath": "search.rcas._search",
    "RcasResult": "search.rcas._search",
    "RcasSettings": "search.rcas._search",
    "RcasStep": "search.rcas._search",
    "Recipe": "search._training._recipe",
    "ResNetCifar": "search.spaces._resnet_cifar",
    "SearchEpoch": "search.htas._settings",
    "SearchProgress": "search.htas._settings",
    "SearchResult": "search.htas._settings",
    "SearchSettings": "search.htas._settings",
    "SetProblem": "search.rcas._greedy",
    "Submodularity": "search.rcas._submodularity",
    "Trained": "search._training._train",
    "build_network": "search._training._weights",
    "cost_effective_greedy": "search.rcas._greedy",
    "derive": "search._problem._cost",
    "evaluate": "search._training._train",
    "hardware_aware_sets": "search.spaces._width_sets",
    "load_accuracies": "search.spaces._nas_bench_macro",
    "load_data": "search._data._images",
    "load_weights": "search._training._weights",
    "make_cost": "search._problem._cost",
    "measure_submodularity": "search.rcas._submodularity",
    "mobilenet_v2": "search.spaces._mobilenet_v2",
    "nas_bench_macro": "search.spaces._nas_bench_macro",
    "predicted_curves": "search.spaces._width_sets",
    "ratio_widths": "search.spaces._width_sets",
    "rcas_recipe": "search._accuracy._short_training",
    "rcnet_cifar": "search.spaces._rcnet",
    "rcnet_imagenet": "search.spaces._rcnet",
    "resnet_cifar": "search.spaces._resnet_cifar",
    "resnet_cifar_bottleneck": "search.spaces._resnet_cifar",
    "save_weights": "search._training._weights",
    "search_evolution": "search.evolution._evolution",
    "search_htas": "search.htas._gradient",
    "search_rcas": "search.rcas._search",
    "selected_widths": "search.spaces._width_sets",
    "subset": "search._data._images",
    "train": "search._training._train",
    "uniform_widths": "search.spaces._width_sets",
}

# What names of earlier versions are called now.
_FORMER_NAMES = {"EarlyStopped": "ShortTraining"}

__all__ = [
    "AccuracyCache",
    "Budget",
    "Budgets",
    "Evaluator",
    "EvolutionSettings",
    "GreedyPath",
    "GreedyStep",
    "ImageData",
    "NasBenchMacro",
    "NetworkCost",
    "NetworkResources",
    "RCNet",
    "RcasPath",
    "RcasResult",
    "RcasSettings",
    "RcasStep",
    "Recipe",
    "ResNetCifar",
    "SearchEpoch",
    "SearchProgress",
    "SearchResult",
    "SearchSettings",
    "SetProblem",
    "ShortTraining",
    "Submodularity",
    "Trained",
    "build_network",
    "cost_effective_greedy",
    "derive",
    "evaluate",
    "hardware_aware_sets",
    "load_accuracies",
    "load_data",
    "load_weights",
    "make_cost",
    "measure_submodularity",
    "mobilenet_v2",
    "nas_bench_macro",
    "predicted_curves",
    "ratio_widths",
    "rcas_recipe",
    "rcnet_cifar",
    "rcnet_imagenet",
    "resnet_cifar",
    "resnet_cifar_bottleneck",
    "save_weights",
    "search_evolution",
    "search_htas",
    "search_rcas",
    "selected_widths",
    "subset",
    "train",
    "uniform_widths",
]


def __getattr__(name: str) -> object:
    name = _FORMER_NAMES.get(name, name)
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

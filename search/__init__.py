"""Search spaces, searches over them, and the training of what they find."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search._accuracy import AccuracyCache, Evaluator
    from search._cost import NetworkCost, derive, make_cost
    from search._data import ImageData, load_data, subset
    from search._early_stopped import EarlyStopped, rcas_recipe
    from search._evolution import EvolutionSettings, search_evolution
    from search._greedy import Budget, GreedyPath, GreedyStep, SetProblem, cost_effective_greedy
    from search._htas import search_htas
    from search._mobilenet_v2 import mobilenet_v2
    from search._nas_bench_macro import NasBenchMacro, load_accuracies, nas_bench_macro
    from search._rcas import RcasPath, RcasResult, RcasSettings, RcasStep, search_rcas
    from search._rcnet import RCNet, rcnet_cifar, rcnet_imagenet
    from search._recipe import Recipe
    from search._resnet_cifar import ResNetCifar, resnet_cifar, resnet_cifar_bottleneck
    from search._resources import Budgets, NetworkResources
    from search._search_settings import SearchEpoch, SearchProgress, SearchResult, SearchSettings
    from search._submodularity import Submodularity, measure_submodularity
    from search._trainable import build_network, load_weights, save_weights
    from search._training import Trained, evaluate, train
    from search._width_sets import (
        hardware_aware_sets,
        predicted_curves,
        ratio_widths,
        selected_widths,
        uniform_widths,
    )

# Resolved at first use (PEP 562): a command's --help should not wait for PyTorch.
_HOMES = {
    "AccuracyCache": "search._accuracy",
    "Budget": "search._greedy",
    "Budgets": "search._resources",
    "EarlyStopped": "search._early_stopped",
    "Evaluator": "search._accuracy",
    "EvolutionSettings": "search._evolution",
    "GreedyPath": "search._greedy",
    "GreedyStep": "search._greedy",
    "ImageData": "search._data",
    "NasBenchMacro": "search._nas_bench_macro",
    "NetworkCost": "search._cost",
    "NetworkResources": "search._resources",
    "RCNet": "search._rcnet",
    "RcasPath": "search._rcas",
    "RcasResult": "search._rcas",
    "RcasSettings": "search._rcas",
    "RcasStep": "search._rcas",
    "Recipe": "search._recipe",
    "ResNetCifar": "search._resnet_cifar",
    "SearchEpoch": "search._search_settings",
    "SearchProgress": "search._search_settings",
    "SearchResult": "search._search_settings",
    "SearchSettings": "search._search_settings",
    "SetProblem": "search._greedy",
    "Submodularity": "search._submodularity",
    "Trained": "search._training",
    "build_network": "search._trainable",
    "cost_effective_greedy": "search._greedy",
    "derive": "search._cost",
    "evaluate": "search._training",
    "hardware_aware_sets": "search._width_sets",
    "load_accuracies": "search._nas_bench_macro",
    "load_data": "search._data",
    "load_weights": "search._trainable",
    "make_cost": "search._cost",
    "measure_submodularity": "search._submodularity",
    "mobilenet_v2": "search._mobilenet_v2",
    "nas_bench_macro": "search._nas_bench_macro",
    "predicted_curves": "search._width_sets",
    "ratio_widths": "search._width_sets",
    "rcas_recipe": "search._early_stopped",
    "rcnet_cifar": "search._rcnet",
    "rcnet_imagenet": "search._rcnet",
    "resnet_cifar": "search._resnet_cifar",
    "resnet_cifar_bottleneck": "search._resnet_cifar",
    "save_weights": "search._trainable",
    "search_evolution": "search._evolution",
    "search_htas": "search._htas",
    "search_rcas": "search._rcas",
    "selected_widths": "search._width_sets",
    "subset": "search._data",
    "train": "search._training",
    "uniform_widths": "search._width_sets",
}

__all__ = [
    "AccuracyCache",
    "Budget",
    "Budgets",
    "EarlyStopped",
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
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

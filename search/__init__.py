"""Search spaces, searches over them, and the training of what they find."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search._cost import NetworkCost, derive, make_cost
    from search._data import ImageData, load_data, subset
    from search._evolution import EvolutionSettings, search_evolution
    from search._htas import search_htas
    from search._recipe import Recipe
    from search._resnet_cifar import ResNetCifar, resnet_cifar, resnet_cifar_bottleneck
    from search._search_settings import SearchEpoch, SearchProgress, SearchResult, SearchSettings
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
    "EvolutionSettings": "search._evolution",
    "ImageData": "search._data",
    "NetworkCost": "search._cost",
    "Recipe": "search._recipe",
    "ResNetCifar": "search._resnet_cifar",
    "SearchEpoch": "search._search_settings",
    "SearchProgress": "search._search_settings",
    "SearchResult": "search._search_settings",
    "SearchSettings": "search._search_settings",
    "Trained": "search._training",
    "build_network": "search._trainable",
    "derive": "search._cost",
    "evaluate": "search._training",
    "hardware_aware_sets": "search._width_sets",
    "load_data": "search._data",
    "load_weights": "search._trainable",
    "make_cost": "search._cost",
    "predicted_curves": "search._width_sets",
    "ratio_widths": "search._width_sets",
    "resnet_cifar": "search._resnet_cifar",
    "resnet_cifar_bottleneck": "search._resnet_cifar",
    "save_weights": "search._trainable",
    "search_evolution": "search._evolution",
    "search_htas": "search._htas",
    "selected_widths": "search._width_sets",
    "subset": "search._data",
    "train": "search._training",
    "uniform_widths": "search._width_sets",
}

__all__ = [
    "EvolutionSettings",
    "ImageData",
    "NetworkCost",
    "Recipe",
    "ResNetCifar",
    "SearchEpoch",
    "SearchProgress",
    "SearchResult",
    "SearchSettings",
    "Trained",
    "build_network",
    "derive",
    "evaluate",
    "hardware_aware_sets",
    "load_data",
    "load_weights",
    "make_cost",
    "predicted_curves",
    "ratio_widths",
    "resnet_cifar",
    "resnet_cifar_bottleneck",
    "save_weights",
    "search_evolution",
    "search_htas",
    "selected_widths",
    "subset",
    "train",
    "uniform_widths",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""The search spaces: CIFAR ResNets, RCNet, NAS-Bench-Macro; and MobileNetV2 to compare with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.spaces._mobilenet_v2 import mobilenet_v2
    from search.spaces._nas_bench_macro import NasBenchMacro, load_accuracies, nas_bench_macro
    from search.spaces._rcnet import RCNet, rcnet_cifar, rcnet_imagenet
    from search.spaces._rcnet import RCNet as rcnet  # noqa: N813
    from search.spaces._resnet_cifar import ResNetCifar, resnet_cifar, resnet_cifar_bottleneck
    from search.spaces._width_sets import (
        hardware_aware_sets,
        predicted_curves,
        ratio_widths,
        selected_widths,
        uniform_widths,
    )

# Resolved at first use (PEP 562): whoever wants one space need not wait for all.
_HOMES = {
    "NasBenchMacro": ("_nas_bench_macro", "NasBenchMacro"),
    "RCNet": ("_rcnet", "RCNet"),
    "ResNetCifar": ("_resnet_cifar", "ResNetCifar"),
    "hardware_aware_sets": ("_width_sets", "hardware_aware_sets"),
    "load_accuracies": ("_nas_bench_macro", "load_accuracies"),
    "mobilenet_v2": ("_mobilenet_v2", "mobilenet_v2"),
    "nas_bench_macro": ("_nas_bench_macro", "nas_bench_macro"),
    "predicted_curves": ("_width_sets", "predicted_curves"),
    "ratio_widths": ("_width_sets", "ratio_widths"),
    "rcnet": ("_rcnet", "RCNet"),
    "rcnet_cifar": ("_rcnet", "rcnet_cifar"),
    "rcnet_imagenet": ("_rcnet", "rcnet_imagenet"),
    "resnet_cifar": ("_resnet_cifar", "resnet_cifar"),
    "resnet_cifar_bottleneck": ("_resnet_cifar", "resnet_cifar_bottleneck"),
    "selected_widths": ("_width_sets", "selected_widths"),
    "uniform_widths": ("_width_sets", "uniform_widths"),
}

__all__ = [
    "NasBenchMacro",
    "RCNet",
    "ResNetCifar",
    "hardware_aware_sets",
    "load_accuracies",
    "mobilenet_v2",
    "nas_bench_macro",
    "predicted_curves",
    "ratio_widths",
    "rcnet",
    "rcnet_cifar",
    "rcnet_imagenet",
    "resnet_cifar",
    "resnet_cifar_bottleneck",
    "selected_widths",
    "uniform_widths",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'search.spaces' has no attribute {name!r}")
    module, own = _HOMES[name]
    return getattr(import_module(f"search.spaces.{module}"), own)


def __dir__() -> list[str]:
    return __all__

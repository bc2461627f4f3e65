"""The search spaces: CIFAR ResNets, RCNet, NAS-Bench-Macro; and MobileNetV2 to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lut._lazy import at_first_use

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
    "NasBenchMacro": "._nas_bench_macro",
    "RCNet": "._rcnet",
    "ResNetCifar": "._resnet_cifar",
    "hardware_aware_sets": "._width_sets",
    "load_accuracies": "._nas_bench_macro",
    "mobilenet_v2": "._mobilenet_v2",
    "nas_bench_macro": "._nas_bench_macro",
    "predicted_curves": "._width_sets",
    "ratio_widths": "._width_sets",
    "rcnet": "._rcnet:RCNet",
    "rcnet_cifar": "._rcnet",
    "rcnet_imagenet": "._rcnet",
    "resnet_cifar": "._resnet_cifar",
    "resnet_cifar_bottleneck": "._resnet_cifar",
    "selected_widths": "._width_sets",
    "uniform_widths": "._width_sets",
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


__getattr__, __dir__ = at_first_use(__name__, _HOMES, __all__)

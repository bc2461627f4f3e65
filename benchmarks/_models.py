"""ResNet-18 and MobileNetV2, each with an input, as export-coreml's --model takes them."""

from __future__ import annotations

import _zoo
import torch
from torch import nn

__all__ = ["mobilenet_v2", "resnet18"]


def resnet18() -> tuple[nn.Module, torch.Tensor]:
    """Return ResNet-18 and an input."""
    return _zoo.resnet18(), torch.zeros(1, 3, 224, 224)


def mobilenet_v2() -> tuple[nn.Module, torch.Tensor]:
    """Return MobileNetV2 and an input."""
    return _zoo.mobilenet_v2(), torch.zeros(1, 3, 224, 224)

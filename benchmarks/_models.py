"""Two known networks, whole, for the benchmarks that export or time networks: ResNet-18 and MobileNetV2."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["mobilenet_v2", "resnet18"]


def _conv(
    i: int, o: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None
) -> nn.Module:
    parts: list[nn.Module] = [
        nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(o),
    ]
    return nn.Sequential(*parts, *([act()] if act is not None else []))


class _Residual(nn.Module):
    """body(x) + shortcut(x), then an activation."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.body(x) + self.shortcut(x))


def _basic_block(i: int, o: int, stride: int) -> nn.Module:
    body = nn.Sequential(_conv(i, o, 3, stride, act=nn.ReLU), _conv(o, o, 3))
    shortcut = nn.Identity() if i == o and stride == 1 else _conv(i, o, 1, stride)
    return _Residual(body, shortcut, nn.ReLU())


def resnet18() -> tuple[nn.Module, torch.Tensor]:
    """Return ResNet-18 (He et al. 2016, table 1) for 224×224 images, with random weights, and an input."""
    parts: list[nn.Module] = [_conv(3, 64, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for stage, out in enumerate((64, 128, 256, 512)):
        for block in range(2):
            parts.append(_basic_block(width, out, 2 if stage and not block else 1))
            width = out
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*parts).eval(), torch.zeros(1, 3, 224, 224)


def _inverted_residual(i: int, o: int, stride: int, expand: int) -> nn.Module:
    hidden = i * expand
    parts = [_conv(i, hidden, 1, act=nn.ReLU6)] if expand != 1 else []
    parts += [_conv(hidden, hidden, 3, stride, groups=hidden, act=nn.ReLU6), _conv(hidden, o, 1)]
    body = nn.Sequential(*parts)
    return _Residual(body, nn.Identity(), nn.Identity()) if stride == 1 and i == o else body


# Sandler et al. 2018, table 2: expansion, output channels, repeats, stride of the first.
_MOBILE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2() -> tuple[nn.Module, torch.Tensor]:
    """Return MobileNetV2 (Sandler et al. 2018, table 2) for 224×224 images, with random weights, and an input."""
    parts: list[nn.Module] = [_conv(3, 32, 3, 2, act=nn.ReLU6)]
    width = 32
    for expand, out, repeats, stride in _MOBILE:
        for number in range(repeats):
            parts.append(_inverted_residual(width, out, 1 if number else stride, expand))
            width = out
    parts += [_conv(width, 1280, 1, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*parts).eval(), torch.zeros(1, 3, 224, 224)

"""MobileNetV2 (Sandler et al., CVPR 2018): the baseline of RCAS, at any width, for images of 224×224 or 32×32."""

from __future__ import annotations

from typing import Literal, NamedTuple

from lut import Network, UsageError
from search.spaces._inverted_residuals import LayerStack, make_divisible

__all__ = ["mobilenet_v2"]


class _Stage(NamedTuple):
    """A row of the paper's table 2: t, c, n; the stride on 224×224 images, and on 32×32 ones."""

    expand: int
    channels: int
    repeats: int
    stride: int
    cifar_stride: int


# On 32×32 images the first two strides of 2 (the stem's, and the second row's) are 1, as in RCNet's skeleton.
_STAGES = (
    _Stage(1, 16, 1, 1, 1),
    _Stage(6, 24, 2, 2, 1),
    _Stage(6, 32, 3, 2, 2),
    _Stage(6, 64, 4, 2, 2),
    _Stage(6, 96, 3, 1, 1),
    _Stage(6, 160, 3, 2, 2),
    _Stage(6, 320, 1, 1, 1),
)
_STEM, _FEATURES = 32, 1280


def mobilenet_v2(
    skeleton: Literal["cifar", "imagenet"] = "imagenet", *, width: float = 1.0, classes: int = 1000
) -> Network:
    """Return MobileNetV2: ReLU6, no expansion where t is 1, sums only where stride and channels are kept.

    Args:
        skeleton: ``imagenet`` (224×224 images) or ``cifar`` (32×32).
        width: multiplies all channels, rounded to multiples of 8; the head never gets narrower than 1280.
        classes: outputs of the classifier.

    Raises:
        UsageError: one of these is impossible.
    """
    if skeleton not in ("cifar", "imagenet"):
        raise UsageError(f"the skeleton is cifar or imagenet, got {skeleton!r}")
    if not 0.05 <= width <= 10:
        raise UsageError(f"the width's multiplier lies between 0.05 and 10, got {width}")
    if classes < 2:
        raise UsageError(f"a classifier has at least 2 classes, got {classes}")
    large = skeleton == "imagenet"
    stack = LayerStack(224 if large else 32)
    stack.conv("stem", make_divisible(_STEM * width), 3, stride=2 if large else 1, act="relu6")
    for s, stage in enumerate(_STAGES, start=1):
        for b in range(1, stage.repeats + 1):
            stride = (stage.stride if large else stage.cifar_stride) if b == 1 else 1
            stack.inverted_residual(
                f"stage{s}.block{b}",
                make_divisible(stage.channels * width),
                expand=stage.expand,
                kernel=3,
                stride=stride,
                act="relu6",
            )
    features = max(_FEATURES, make_divisible(_FEATURES * width))
    return Network(f"MobileNetV2{'' if width == 1 else f' ×{width:g}'}", stack.head(features, "relu6", classes))

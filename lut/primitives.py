"""The primitive operators that layers are made of: shapes, multiply-adds and parameters, and no framework.

Shapes are those of *one sample*, channels first and without the batch: ``(channels, height, width)`` for images,
``(features,)`` for vectors. Names and meanings follow :mod:`torch.nn`.
"""

from __future__ import annotations

from math import prod
from typing import Literal, TypeAlias, get_args

import msgspec

from lut.errors import LayerError

__all__ = [
    "Activation",
    "ActivationKind",
    "Add",
    "AvgPool2d",
    "BatchNorm2d",
    "Concat",
    "Conv2d",
    "Flatten",
    "GlobalAvgPool2d",
    "Linear",
    "MaxPool2d",
    "Mul",
    "Pair",
    "Primitive",
    "Shape",
]

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]
ActivationKind = Literal["relu", "relu6", "sigmoid", "hardsigmoid", "hardswish", "silu", "gelu", "tanh"]

LARGEST_SIZE = 2**31 - 1


class _Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", kw_only=True):
    """What all primitives share: strict fields and the JSON tag. Abstract: never instantiated."""


def _image(shapes: tuple[Shape, ...], what: str) -> tuple[int, int, int]:
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise LayerError(f"{what} takes one input of shape (channels, height, width), got {_show(shapes)}")
    return shapes[0][0], shapes[0][1], shapes[0][2]


def _show(shapes: tuple[Shape, ...]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes) or "nothing"


def _positive(value: int, what: str) -> None:
    if not 1 <= value <= LARGEST_SIZE:
        raise LayerError(f"{what} must be between 1 and {LARGEST_SIZE}, got {value}")


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, what: str) -> int:
    """Return how many windows fit along one axis (torch.nn.Conv2d, section Shape; no ceil mode)."""
    for value, name in ((kernel, "kernel_size"), (stride, "stride"), (dilation, "dilation")):
        _positive(value, f"{what}: {name}")
    if not 0 <= padding <= LARGEST_SIZE:
        raise LayerError(f"{what}: padding must not be negative, got {padding}")
    count = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if count < 1:
        raise LayerError(f"{what}: a window of {kernel} (dilation {dilation}) does not fit into {size} + 2·{padding}")
    return count


class Conv2d(_Op, frozen=True, tag="conv2d"):
    """A 2-d convolution. ``kernel_size``, ``stride``, ``padding`` and ``dilation`` are (height, width) pairs."""

    out_channels: int
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = False

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        channels, height, width = _image(shapes, "conv2d")
        _positive(self.out_channels, "conv2d: out_channels")
        _positive(self.groups, "conv2d: groups")
        if channels % self.groups or self.out_channels % self.groups:
            raise LayerError(f"conv2d: groups={self.groups} does not divide {channels} in, {self.out_channels} out")
        rows, columns = (
            _windows(size, self.kernel_size[i], self.stride[i], self.padding[i], self.dilation[i], "conv2d")
            for i, size in enumerate((height, width))
        )
        return (self.out_channels, rows, columns)

    def _weights(self, shapes: tuple[Shape, ...]) -> int:
        return self.out_channels * (shapes[0][0] // self.groups) * self.kernel_size[0] * self.kernel_size[1]

    def madds(self, shapes: tuple[Shape, ...]) -> int:
        return self._weights(shapes) * prod(self.output_shape(shapes)[1:])

    def parameters(self, shapes: tuple[Shape, ...]) -> int:
        return self._weights(shapes) + (self.out_channels if self.bias else 0)

    def label(self, shapes: tuple[Shape, ...]) -> str:
        kernel = "×".join(map(str, self.kernel_size))
        text = f"conv{kernel} {shapes[0][0]}→{self.out_channels}"
        if self.stride != (1, 1):
            text += f" /{self.stride[0]}" if self.stride[0] == self.stride[1] else f" /{self.stride}"
        if self.dilation != (1, 1):
            text += f" d{self.dilation[0]}" if self.dilation[0] == self.dilation[1] else f" d{self.dilation}"
        if self.groups > 1:
            text += f" g{self.groups}"
        # 'Same' padding goes without saying; anything else changes the work and is said.
        if any(2 * p != d * (k - 1) for p, d, k in zip(self.padding, self.dilation, self.kernel_size, strict=True)):
            text += f" p{self.padding[0]}" if self.padding[0] == self.padding[1] else f" p{self.padding}"
        return text + (" +bias" if self.bias else "")


class _Elementwise(_Op, frozen=True):
    """One input, the same shape out. Abstract."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) != 1:
            raise LayerError(f"an element-wise operator takes one input, got {_show(shapes)}")
        return shapes[0]

    def madds(self, shapes: tuple[Shape, ...]) -> int:  # noqa: ARG002 - counted as the field does: conv and linear only
        return 0


class BatchNorm2d(_Elementwise, frozen=True, tag="batch_norm2d"):
    """Batch normalisation at inference: a scale and a shift per channel."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        return _image(shapes, "batch_norm2d")

    def parameters(self, shapes: tuple[Shape, ...]) -> int:
        return 2 * shapes[0][0]

    def label(self, shapes: tuple[Shape, ...]) -> str:  # noqa: ARG002
        return "bn"


class Activation(_Elementwise, frozen=True, tag="activation"):
    """An activation function, by PyTorch's name."""

    kind: ActivationKind

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if self.kind not in get_args(ActivationKind):
            raise LayerError(f"unknown activation {self.kind!r}; known: {', '.join(get_args(ActivationKind))}")
        if len(shapes) != 1:
            raise LayerError(f"an activation takes one input, got {_show(shapes)}")
        return shapes[0]

    def parameters(self, shapes: tuple[Shape, ...]) -> int:  # noqa: ARG002
        return 0

    def label(self, shapes: tuple[Shape, ...]) -> str:  # noqa: ARG002
        return self.kind


class _Free(_Op, frozen=True):
    """An operator without parameters or multiply-adds. Abstract."""

    def madds(self, shapes: tuple[Shape, ...]) -> int:  # noqa: ARG002
        return 0

    def parameters(self, shapes: tuple[Shape, ...]) -> int:  # noqa: ARG002
        return 0


def _same(shapes: tuple[Shape, ...], what: str) -> Shape:
    if len(shapes) != 2 or shapes[0] != shapes[1]:
        raise LayerError(f"{what} takes two inputs of the same shape, got {_show(shapes)}")
    return shapes[0]


class Add(_Free, frozen=True, tag="add"):
    """The sum of two inputs of one shape: the residual connection."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        return _same(shapes, "add")

    def label(self, shapes: tuple[Shape, ...]) -> str:
        return f"add {_show(shapes[:1])}"


class Mul(_Free, frozen=True, tag="mul"):
    """The product of an input with a second of the same shape, or with one value per channel ``(channels, 1, 1)``."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) == 2 and len(shapes[0]) == 3 and shapes[1] == (shapes[0][0], 1, 1):
            return shapes[0]
        return _same(shapes, "mul")

    def label(self, shapes: tuple[Shape, ...]) -> str:
        return f"mul {_show(shapes)}"


class Concat(_Free, frozen=True, tag="concat"):
    """Inputs laid one after another along the channels."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) < 2 or len({shape[1:] for shape in shapes}) != 1 or len(shapes[0]) != 3:
            raise LayerError(f"concat takes two or more images of one height and width, got {_show(shapes)}")
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def label(self, shapes: tuple[Shape, ...]) -> str:
        return f"concat {_show(shapes)}"


class _Pool2d(_Free, frozen=True):
    """A pooling window that slides. Abstract."""

    kernel_size: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        channels, height, width = _image(shapes, "pooling")
        for kernel, padding in zip(self.kernel_size, self.padding, strict=True):
            if 2 * padding > kernel:
                raise LayerError(f"pooling: padding {padding} is more than half of the window {kernel}")
        rows, columns = (
            _windows(size, self.kernel_size[i], self.stride[i], self.padding[i], 1, "pooling")
            for i, size in enumerate((height, width))
        )
        return (channels, rows, columns)

    def _label(self, name: str, shapes: tuple[Shape, ...]) -> str:
        text = f"{name}{self.kernel_size[0]}×{self.kernel_size[1]} {shapes[0][0]}"
        return text + (f" /{self.stride[0]}" if self.stride != (1, 1) else "")


class MaxPool2d(_Pool2d, frozen=True, tag="max_pool2d"):
    """The largest value in each window."""

    def label(self, shapes: tuple[Shape, ...]) -> str:
        return self._label("maxpool", shapes)


class AvgPool2d(_Pool2d, frozen=True, tag="avg_pool2d"):
    """The mean of each window."""

    def label(self, shapes: tuple[Shape, ...]) -> str:
        return self._label("avgpool", shapes)


class GlobalAvgPool2d(_Free, frozen=True, tag="global_avg_pool2d"):
    """The mean of each channel: ``(channels, height, width)`` → ``(channels, 1, 1)``."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        return (_image(shapes, "global_avg_pool2d")[0], 1, 1)

    def label(self, shapes: tuple[Shape, ...]) -> str:
        return f"global avgpool {_show(shapes)}"


class Flatten(_Free, frozen=True, tag="flatten"):
    """All values of a sample as one vector."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) != 1:
            raise LayerError(f"flatten takes one input, got {_show(shapes)}")
        return (prod(shapes[0]),)

    def label(self, shapes: tuple[Shape, ...]) -> str:  # noqa: ARG002
        return "flatten"


class Linear(_Op, frozen=True, tag="linear"):
    """A fully connected layer on a vector of features."""

    out_features: int
    bias: bool

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise LayerError(f"linear takes one vector of features, got {_show(shapes)}")
        _positive(self.out_features, "linear: out_features")
        return (self.out_features,)

    def madds(self, shapes: tuple[Shape, ...]) -> int:
        return shapes[0][0] * self.out_features

    def parameters(self, shapes: tuple[Shape, ...]) -> int:
        return self.madds(shapes) + (self.out_features if self.bias else 0)

    def label(self, shapes: tuple[Shape, ...]) -> str:
        return f"linear {shapes[0][0]}→{self.out_features}" + ("" if self.bias else " no bias")


Primitive: TypeAlias = (
    Conv2d | BatchNorm2d | Activation | Add | Mul | Concat | MaxPool2d | AvgPool2d | GlobalAvgPool2d | Flatten | Linear
)

"""The primitive operators that layers are made of: shapes, multiply-adds and parameters, and no framework.

Shapes are those of *one sample*, channels first and without the batch: ``(channels, height, width)`` for images,
``(features,)`` for vectors. Names and meanings follow :mod:`torch.nn`.
"""

from __future__ import annotations

from math import prod
from typing import Literal, TypeAlias, get_args

import msgspec

from lut._op import Op, Pair, Shape, show_shapes
from lut.errors import LayerError
from lut.subgraph import Subgraph

__all__ = [
    "Activation",
    "ActivationKind",
    "Add",
    "AvgPool2d",
    "BatchNorm2d",
    "ChannelShuffle",
    "Concat",
    "Conv2d",
    "Flatten",
    "GlobalAvgPool2d",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "Mul",
    "Pair",
    "Plain",
    "Primitive",
    "Shape",
    "Subgraph",
]

ActivationKind = Literal["relu", "relu6", "sigmoid", "hardsigmoid", "hardswish", "silu", "gelu", "tanh"]

LARGEST_SIZE = 2**31 - 1


def _image(shapes: tuple[Shape, ...], what: str) -> tuple[int, int, int]:
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise LayerError(f"{what} takes one input of shape (channels, height, width), got {show_shapes(shapes)}")
    return shapes[0][0], shapes[0][1], shapes[0][2]


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


class Conv2d(Op, frozen=True, tag="conv2d"):
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


class _Elementwise(Op, frozen=True):
    """One input, the same shape out. Abstract."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) != 1:
            raise LayerError(f"an element-wise operator takes one input, got {show_shapes(shapes)}")
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
    """An activation function, by PyTorch's name; ``inplace`` where it overwrites its input, as PyTorch's may."""

    kind: ActivationKind
    # Left out of the JSON where it is not so: layers keep their digests.
    inplace: Literal[True] | msgspec.UnsetType = msgspec.UNSET

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if self.kind not in get_args(ActivationKind):
            raise LayerError(f"unknown activation {self.kind!r}; known: {', '.join(get_args(ActivationKind))}")
        if len(shapes) != 1:
            raise LayerError(f"an activation takes one input, got {show_shapes(shapes)}")
        return shapes[0]

    def parameters(self, shapes: tuple[Shape, ...]) -> int:  # noqa: ARG002
        return 0

    def label(self, shapes: tuple[Shape, ...]) -> str:  # noqa: ARG002
        return self.kind


class _Free(Op, frozen=True):
    """An operator without parameters or multiply-adds. Abstract."""

    def madds(self, shapes: tuple[Shape, ...]) -> int:  # noqa: ARG002
        return 0

    def parameters(self, shapes: tuple[Shape, ...]) -> int:  # noqa: ARG002
        return 0


def _same(shapes: tuple[Shape, ...], what: str) -> Shape:
    if len(shapes) != 2 or shapes[0] != shapes[1]:
        raise LayerError(f"{what} takes two inputs of the same shape, got {show_shapes(shapes)}")
    return shapes[0]


class Add(_Free, frozen=True, tag="add"):
    """The sum of two inputs of one shape: the residual connection."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        return _same(shapes, "add")

    def label(self, shapes: tuple[Shape, ...]) -> str:
        return f"add {show_shapes(shapes[:1])}"


class Mul(_Free, frozen=True, tag="mul"):
    """The product of an input with a second of the same shape, or with one value per channel ``(channels, 1, 1)``."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) == 2 and len(shapes[0]) == 3 and shapes[1] == (shapes[0][0], 1, 1):
            return shapes[0]
        return _same(shapes, "mul")

    def label(self, shapes: tuple[Shape, ...]) -> str:
        return f"mul {show_shapes(shapes)}"


class Concat(_Free, frozen=True, tag="concat"):
    """Inputs laid one after another along the channels."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) < 2 or len({shape[1:] for shape in shapes}) != 1 or len(shapes[0]) != 3:
            raise LayerError(f"concat takes two or more images of one height and width, got {show_shapes(shapes)}")
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def label(self, shapes: tuple[Shape, ...]) -> str:
        if len(shapes) > 3:
            return f"concat {len(shapes)} →{show_shapes((self.output_shape(shapes),))}"
        return f"concat {show_shapes(shapes)}"


class ChannelShuffle(_Free, frozen=True, tag="channel_shuffle"):
    """Channels seen as ``(groups, channels / groups)``, transposed (ShuffleNet, Zhang et al. 2018, section 3.1).

    Whatever convolves in groups behind it reads of every group before it.
    """

    groups: int

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        channels, height, width = _image(shapes, "channel_shuffle")
        _positive(self.groups, "channel_shuffle: groups")
        if channels % self.groups:
            raise LayerError(f"channel_shuffle: groups={self.groups} does not divide {channels} channels")
        return (channels, height, width)

    def label(self, shapes: tuple[Shape, ...]) -> str:  # noqa: ARG002
        return f"shuffle g{self.groups}"


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
        return f"global avgpool {show_shapes(shapes)}"


class Flatten(_Free, frozen=True, tag="flatten"):
    """All values of a sample as one vector."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) != 1:
            raise LayerError(f"flatten takes one input, got {show_shapes(shapes)}")
        return (prod(shapes[0]),)

    def label(self, shapes: tuple[Shape, ...]) -> str:  # noqa: ARG002
        return "flatten"


class Plain(_Free, frozen=True, tag="plain"):
    """No operator, but a border: here a network has the image in the usual layout.

    Some runtimes keep images in blocks of channels. A layer that computes without blocks pays for the way out of them,
    and for the way back, unless what stands before it, or behind it, has none either: then the layer begins with this,
    or ends with it.
    """

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        return _image(shapes, "plain")

    def label(self, shapes: tuple[Shape, ...]) -> str:  # noqa: ARG002
        return "plain"


class LayerNorm(_Elementwise, frozen=True, tag="layer_norm"):
    """Layer normalisation over the last axis (the features of each token), with a scale, and a shift if ``bias``."""

    bias: bool = True

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) != 1 or not shapes[0]:
            raise LayerError(f"layer_norm takes one input with features, got {show_shapes(shapes)}")
        return shapes[0]

    def parameters(self, shapes: tuple[Shape, ...]) -> int:
        return shapes[0][-1] * (2 if self.bias else 1)

    def label(self, shapes: tuple[Shape, ...]) -> str:
        return f"layernorm {show_shapes(shapes)}"


class Linear(Op, frozen=True, tag="linear"):
    """A fully connected layer on the last axis: one vector of features, or one for each of many tokens."""

    out_features: int
    bias: bool

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(shapes) != 1 or not shapes[0]:
            raise LayerError(f"linear takes one input with features, got {show_shapes(shapes)}")
        _positive(self.out_features, "linear: out_features")
        return (*shapes[0][:-1], self.out_features)

    def madds(self, shapes: tuple[Shape, ...]) -> int:
        return prod(shapes[0]) * self.out_features

    def parameters(self, shapes: tuple[Shape, ...]) -> int:
        return shapes[0][-1] * self.out_features + (self.out_features if self.bias else 0)

    def label(self, shapes: tuple[Shape, ...]) -> str:
        tokens = f" ×{prod(shapes[0][:-1])}" if len(shapes[0]) > 1 else ""
        return f"linear {shapes[0][-1]}→{self.out_features}{tokens}" + ("" if self.bias else " no bias")


Primitive: TypeAlias = (
    Conv2d
    | BatchNorm2d
    | Activation
    | Add
    | Mul
    | Concat
    | ChannelShuffle
    | MaxPool2d
    | AvgPool2d
    | GlobalAvgPool2d
    | Flatten
    | Plain
    | Linear
    | LayerNorm
    | Subgraph
)

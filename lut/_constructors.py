"""Constructors of common layers: the vocabulary of the field, written as small graphs of primitives.

A new kind of layer needs a function like these, anywhere, and no change to the tables or the profiler.
"""

from __future__ import annotations

from lut._layer import Layer, Node
from lut.errors import LayerError
from lut.primitives import (
    Activation,
    ActivationKind,
    Add,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    Pair,
    Primitive,
    Shape,
)

__all__ = ["chain", "conv_norm_act", "global_pool", "linear", "pooled_shortcut", "residual_add"]


def chain(input_shape: Shape, *ops: Primitive) -> Layer:
    """Return a layer that applies ``ops`` one after another to one input of ``input_shape``."""
    return Layer(inputs=(input_shape,), nodes=tuple(Node(op=op, args=(i,)) for i, op in enumerate(ops)))


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int,
    stride: int,
    activation: ActivationKind | None,
    input_size: Pair,
    groups: int = 1,
) -> Layer:
    """Return a convolution without bias, batch normalisation and, unless ``None``, an activation.

    The padding is ``kernel_size // 2``, so that stride 1 keeps the size. ``groups=1`` is the plain convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: an odd window size, the same in both directions.
        stride: steps of the window, the same in both directions.
        activation: an activation's name, as in PyTorch (``"relu"``), or ``None``.
        input_size: (height, width) of the input.
        groups: independent groups of channels; ``groups=in_channels`` is a depthwise convolution.

    Raises:
        LayerError: an even ``kernel_size``, or numbers that do not fit.
    """
    if kernel_size % 2 == 0:
        raise LayerError(f"conv_norm_act pads by kernel_size // 2 and needs an odd kernel_size, got {kernel_size}")
    conv = Conv2d(
        out_channels=out_channels,
        kernel_size=(kernel_size, kernel_size),
        stride=(stride, stride),
        padding=(kernel_size // 2, kernel_size // 2),
        groups=groups,
    )
    ops: list[Primitive] = [conv, BatchNorm2d()]
    if activation is not None:
        ops.append(Activation(kind=activation))
    return chain((in_channels, *input_size), *ops)


def residual_add(channels: int, *, activation: ActivationKind | None, input_size: Pair) -> Layer:
    """Return the sum of two feature maps of ``channels`` and ``input_size``, then an activation unless ``None``."""
    shape = (channels, *input_size)
    nodes = [Node(op=Add(), args=(0, 1))]
    if activation is not None:
        nodes.append(Node(op=Activation(kind=activation), args=(2,)))
    return Layer(inputs=(shape, shape), nodes=tuple(nodes))


def pooled_shortcut(in_channels: int, out_channels: int, *, input_size: Pair) -> Layer:
    """Return the shortcut of a block with stride 2: 2×2 average pooling, then a 1×1 convolution without norm or bias.

    Source: TAS (Dong & Yang, NeurIPS 2019), which HTAS builds on.
    """
    conv = Conv2d(out_channels=out_channels, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0))
    return chain((in_channels, *input_size), AvgPool2d(kernel_size=(2, 2), stride=(2, 2)), conv)


def global_pool(channels: int, *, input_size: Pair) -> Layer:
    """Return the mean over each whole feature map, flattened to ``(channels,)``."""
    return chain((channels, *input_size), GlobalAvgPool2d(), Flatten())


def linear(in_features: int, out_features: int, *, bias: bool) -> Layer:
    """Return a fully connected layer."""
    return chain((in_features,), Linear(out_features=out_features, bias=bias))

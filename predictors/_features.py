"""What a layer's latency is predicted from: its work, bytes and shapes, and how these sit on the hardware's tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, log2, prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lut import Layer
from lut.primitives import (
    Activation,
    Add,
    AvgPool2d,
    ChannelShuffle,
    Concat,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    Mul,
    Plain,
    Primitive,
    Shape,
    Subgraph,
)
from lut.subgraph import short_name

__all__ = [
    "FEATURES",
    "TILES",
    "WORK",
    "Described",
    "describe",
    "feature_matrix",
    "kind_of",
    "operators_of",
    "work_matrix",
]

# Widths that vector units, tensor cores and memory layouts come in: channels are padded to a multiple of one of them.
TILES = (4, 8, 16, 32, 64)

# The work that a layer does, in millions: what costs time at so many milliseconds each, whatever the hardware. Those of
# convolutions are counted with channels padded to 16, as vector units and blocked layouts have them.
WORK = (
    "calls",
    "operators",
    "conv1x1 madds",
    "conv madds",
    "strided conv madds",
    "depthwise madds",
    "grouped madds",
    "linear madds",
    "other madds",
    "input elements",
    "output elements",
    "weights",
    "window elements",
    "activation elements",
    "costly activation elements",
    "sum elements",
    "other elements",
)
_COLUMN = {name: i for i, name in enumerate(WORK)}
# What costs little more than to read and to write its values.
MOVES = (Add, Mul, Concat, ChannelShuffle)
CHEAP_ACTIVATIONS = frozenset({"relu", "relu6", "hardsigmoid"})

# Numbers per layer that say what shape it has; sizes as log2.
FEATURES = (
    "log2 madds",
    "log2 parameters",
    "log2 input elements",
    "log2 output elements",
    "log2 elements",
    "log2 madds per element",
    "log2 in_channels",
    "log2 out_channels",
    "log2 height×width out",
    "log2 kernel area",
    "log2 stride",
    "log2 groups",
    "depthwise",
    "operators",
    "inputs",
    "norm",
    "activation",
    "costly activation",
    "sum",
    "pooling",
    "linear",
    "other",
    *(f"{what} padded to {tile}" for what in ("in_channels", "out_channels") for tile in TILES),
    *(f"{what} mod {tile}" for what in ("in_channels", "out_channels") for tile in TILES),
)


class Described(NamedTuple):
    """A layer in numbers: ``work`` as in :data:`WORK`, ``features`` as in :data:`FEATURES`; its operators and kind."""

    work: list[float]
    features: list[float]
    operators: frozenset[str]
    kind: str


def feature_matrix(layers: Iterable[Layer]) -> NDArray[np.float64]:
    """Return the features of layers, shape ``(n, len(FEATURES))``."""
    return np.array([describe(layer).features for layer in layers], dtype=np.float64).reshape(-1, len(FEATURES))


def work_matrix(layers: Iterable[Layer]) -> NDArray[np.float64]:
    """Return the work of layers, shape ``(n, len(WORK))``, in millions (``calls`` and ``operators``: in ones)."""
    return np.array([describe(layer).work for layer in layers], dtype=np.float64).reshape(-1, len(WORK))


def operators_of(layer: Layer) -> frozenset[str]:
    """Return the operators that a layer is made of: ``conv2d``, ``depthwise conv2d``, ``torch layer_norm``."""
    return describe(layer).operators


def kind_of(layer: Layer) -> str:
    """Return what layers share that differ in their sizes only: their operators in order, and a window's size."""
    return describe(layer).kind


def describe(layer: Layer) -> Described:
    """Return a layer in numbers. The batch is no part of it: one setting has one."""
    shapes = layer.shapes
    work = [0.0] * len(WORK)
    work[0] = 1.0
    seen: dict[str, float] = {}
    words: list[str] = []
    operators: set[str] = set()
    main: tuple[int, Primitive, tuple[Shape, ...], Shape] | None = None
    for node, output in zip(layer.nodes, shapes[len(layer.inputs) :], strict=True):
        if isinstance(node.op, Plain):
            # No operator and no work, but layers that differ in it are of two kinds.
            words.append("plain")
            continue
        taken = tuple(shapes[i] for i in node.args)
        names, word = _words(node.op, taken)
        operators.update(names)
        words.append(word)
        madds = _add_work(work, node.op, taken, output)
        if not isinstance(node.op, Flatten):
            work[1] += 1
        group = _group(node.op)
        seen[group] = seen.get(group, 0.0) + 1.0
        if main is None or madds > main[0]:
            main = (madds, node.op, taken, output)
    assert main is not None
    inputs, output_elements = sum(map(prod, layer.inputs)), prod(layer.output_shape)
    work[_COLUMN["input elements"]] = inputs / 1e6
    work[_COLUMN["output elements"]] = output_elements / 1e6
    work[_COLUMN["weights"]] = layer.parameters / 1e6
    features = _features(layer, main, seen, inputs, output_elements)
    return Described(work, features, frozenset(operators), " + ".join(words))


def _features(
    layer: Layer,
    main: tuple[int, Primitive, tuple[Shape, ...], Shape],
    seen: dict[str, float],
    inputs: int,
    outputs: int,
) -> list[float]:
    _, op, taken, output = main
    into = _channels(taken[0]) if taken else 1
    channels = _channels(output)
    kernel = stride = groups = 1
    if isinstance(op, Conv2d):
        kernel, stride, groups = prod(op.kernel_size), op.stride[0], op.groups
    elif isinstance(op, MaxPool2d | AvgPool2d):
        kernel, stride = prod(op.kernel_size), op.stride[0]
    elif isinstance(op, ChannelShuffle):
        groups = op.groups
    moved = inputs + outputs + layer.parameters
    depthwise = isinstance(op, Conv2d) and groups > 1 and groups == into
    madds = layer.madds
    values = [
        log2(1 + madds),
        log2(1 + layer.parameters),
        log2(1 + inputs),
        log2(1 + outputs),
        log2(1 + moved),
        log2((1 + madds) / (1 + moved)),
        log2(into),
        log2(channels),
        log2(max(1, prod(output) // channels)),
        log2(kernel),
        log2(stride),
        log2(groups),
        float(depthwise),
        float(len(layer.operators)),
        float(len(layer.inputs)),
        *(
            seen.get(name, 0.0)
            for name in ("norm", "activation", "costly activation", "sum", "pooling", "linear", "other")
        ),
    ]
    values += [log2(ceil(c / tile) * tile / c) for c in (into, channels) for tile in TILES]
    values += [c % tile / tile for c in (into, channels) for tile in TILES]
    return values


def _channels(shape: Shape) -> int:
    if len(shape) in (1, 3):
        return shape[0]
    return shape[-1] if shape else 1


def _padded(channels: int, tile: int = 16) -> int:
    return -(-channels // tile) * tile


def _add_work(work: list[float], op: Primitive, taken: Sequence[Shape], output: Shape) -> int:
    """Add an operator's work to a row, and return its multiply-adds."""
    elements = prod(output) / 1e6
    madds = op.madds(tuple(taken))
    if isinstance(op, Conv2d):
        area, into = prod(op.kernel_size), taken[0][0]
        places = output[1] * output[2] * area / 1e6
        if op.groups == 1:
            name = "conv1x1 madds" if area == 1 else "conv madds" if op.stride == (1, 1) else "strided conv madds"
            # Few channels in, those of an image, have kernels of their own, which do not pad them.
            work[_COLUMN[name]] += places * (_padded(into) if into >= 8 else into) * _padded(output[0])
        elif op.groups == into:
            work[_COLUMN["depthwise madds"]] += places * _padded(output[0])
        else:
            work[_COLUMN["grouped madds"]] += places * op.groups * _padded(into // op.groups) * (output[0] // op.groups)
    elif isinstance(op, Linear):
        work[_COLUMN["linear madds"]] += madds / 1e6
    elif isinstance(op, MaxPool2d | AvgPool2d):
        work[_COLUMN["window elements"]] += elements * prod(op.kernel_size)
    elif isinstance(op, GlobalAvgPool2d):
        work[_COLUMN["window elements"]] += prod(taken[0]) / 1e6
    elif isinstance(op, Activation):
        name = "activation elements" if op.kind in CHEAP_ACTIVATIONS else "costly activation elements"
        work[_COLUMN[name]] += elements
    elif isinstance(op, MOVES):
        work[_COLUMN["sum elements"]] += elements
    elif isinstance(op, Subgraph):
        work[_COLUMN["other madds"]] += madds / 1e6
        work[_COLUMN["other elements"]] += elements * len(op.calls)
    elif not isinstance(op, Flatten):
        work[_COLUMN["other elements"]] += elements
    return madds


def _words(op: Primitive, taken: tuple[Shape, ...]) -> tuple[list[str], str]:
    """Return the names of an operator, and a word for its kind."""
    tag = str(op.__struct_config__.tag)
    if isinstance(op, Conv2d):
        into = taken[0][0]
        sort = "" if op.groups == 1 else "depthwise " if op.groups == into else "grouped "
        sort = ("dilated " if op.dilation != (1, 1) else "") + sort
        window = "×".join(map(str, op.kernel_size))
        return [sort + tag], f"{sort}{tag} {window}/{op.stride[0]}"
    if isinstance(op, Activation):
        return [op.kind], op.kind
    if isinstance(op, Subgraph):
        names = list(dict.fromkeys(short_name(call.op) for call in op.calls))
        return [f"{op.framework} {name}" for name in names], f"{op.framework} {' '.join(names)}"
    if isinstance(op, MaxPool2d | AvgPool2d):
        return [tag], f"{tag} {'×'.join(map(str, op.kernel_size))}/{op.stride[0]}"
    return [tag], tag


def _group(op: Primitive) -> str:
    if isinstance(op, Conv2d | Flatten):
        return "conv"
    if isinstance(op, Activation):
        return "activation" if op.kind in CHEAP_ACTIVATIONS else "costly activation"
    if isinstance(op, MOVES):
        return "sum"
    if isinstance(op, MaxPool2d | AvgPool2d | GlobalAvgPool2d):
        return "pooling"
    if isinstance(op, Linear):
        return "linear"
    return "other" if isinstance(op, Subgraph) else "norm"

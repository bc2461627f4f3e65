"""A described network as a module to train, and its weights under the names of its layers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import nn

from lut import Layer, Network
from lut._layer import Node
from lut._network import INPUT
from lut.errors import CheckpointError, UsageError
from lut.primitives import Add, BatchNorm2d, Conv2d, LayerNorm, Linear, Primitive, Shape
from profiler import build_module
from search._training._checkpoint import check_tensors, read_tensors, write_tensors

__all__ = ["build_network", "load_network_weights", "load_weights", "network_weights", "save_weights"]

FORMAT = "latency-lut-weights-1"
# Names shown of many.
SHOWN = 3


def build_network(network: Network, *, seed: int) -> nn.Module:
    """Return a network as a module in training mode, with fresh weights that the seed fixes.

    All operators stand in one graph, which on a CPU is some per cent faster than the modules by layer that are timed
    (:func:`profiler._modules.build_layers`). Weights are drawn as TAS draws them (Dong & Yang 2019): convolutions
    normal by He et al. with the outgoing fan, linear layers normal with deviation 0.01, biases 0, norms 1 and 0.
    PyTorch's global generator is left as it was.

    Raises:
        LayerError: the network's layers do not fit together.
    """
    with torch.random.fork_rng(devices=[]):
        # Whatever is drawn by a traced operator's own module comes from the seed too.
        torch.default_generator.manual_seed(seed)
        module = build_module(network.as_layer())
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0.0, 0.01, generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            nn.init.ones_(part.weight)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
        else:
            continue
        # LayerNorm, too, may have none.
        bias: torch.Tensor | None = part.bias
        if bias is not None:
            nn.init.zeros_(bias)
    return module.train()


def network_weights(network: Network, module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's weights and running statistics by layer: ``stage1.block1.conv1.norm.running_mean``.

    A name is the layer's, ``.0``, ``.1`` … where the layer is repeated, then ``conv``, ``norm``, ``linear`` or
    ``graph`` (numbered from 1 where the layer has several), then PyTorch's own. Tensors are the module's, not copies.

    Args:
        network: what ``module`` was built from by :func:`build_network`.
        module: on any device.

    Raises:
        UsageError: the module is of another network, or two layers have the same name.
    """
    prefixes = _prefixes(network)
    weights: dict[str, torch.Tensor] = {}
    for key, tensor in module.state_dict().items():
        number, _, rest = key.removeprefix("ops.").partition(".")
        if not number.isdecimal() or int(number) >= len(prefixes):
            raise UsageError(f"the module is not one of network {network.name!r}: it has a tensor {key}")
        name = f"{prefixes[int(number)]}.{rest}"
        if name in weights:
            raise UsageError(f"network {network.name!r} has two layers of the same name: {name} is there twice")
        weights[name] = tensor
    return weights


def load_network_weights(network: Network, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy weights, named as by :func:`network_weights`, into a module: all of them, and no others.

    Raises:
        CheckpointError: some are missing, unexpected or of another shape; nothing was copied then.
        UsageError: as for :func:`network_weights`.
    """
    own = network_weights(network, module)
    problems = []
    for word, names in (("missing", own.keys() - tensors.keys()), ("unexpected", tensors.keys() - own.keys())):
        if names:
            problems.append(f"{word}: {_shown(sorted(names))}")
    shapes = [
        f"{name} is {tuple(tensors[name].shape)} and must be {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if shapes:
        problems.append(f"of another shape: {_shown(shapes)}")
    if problems:
        raise CheckpointError(f"these weights are not of network {network.name!r}: {'; '.join(problems)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


class _Header(msgspec.Struct):
    format: str
    network: Network


def save_weights(path: Path, network: Network, module: nn.Module) -> None:
    """Write a network and its weights to a safetensors file.

    Raises:
        FileAccessError: it cannot be written; an old file is untouched.
        UsageError: as for :func:`network_weights`.
    """
    header = msgspec.json.encode(_Header(FORMAT, network)).decode()
    write_tensors(path, network_weights(network, module), header)


def load_weights(path: Path, network: Network) -> nn.Module:
    """Return a network in evaluation mode with the weights that :func:`save_weights` wrote.

    Raises:
        CheckpointError: the file is damaged, no file of weights, or of another network.
        FileAccessError: it cannot be read.
    """
    tensors, text = read_tensors(path)
    try:
        known = msgspec.json.decode(text, type=_Header).format == FORMAT
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        known = False
    if not known:
        raise CheckpointError(f"{path} is not a file of weights")
    module = build_network(network, seed=0)
    try:
        load_network_weights(network, module, tensors)
        check_tensors(tensors, network_weights(network, module))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return module.eval()


def _prefixes(network: Network) -> list[str]:
    """Return the name of each node of ``network.as_layer()``, in its order.

    A layer is canonical: its nodes stand in the order of a walk from the output, where the arguments of sums are sorted
    by content. So the network's nodes are wired up as they were given, and both graphs are walked side by side.
    """
    names, given = _as_given(network)
    layer = network.as_layer()
    placed = _Graph(layer.inputs, layer.nodes)
    known, sought = _digests(given), _digests(placed)
    found: dict[int, int] = {}
    stack = [(len(sought) - 1, len(known) - 1)]
    while stack:
        there, here = stack.pop()
        if there in found or there < len(placed.inputs):
            continue
        found[there] = here
        node, original = placed.nodes[there - len(placed.inputs)], given.nodes[here - len(given.inputs)]
        pairs = [list(node.args), list(original.args)]
        if isinstance(node.op, Add):
            # Sorting keeps the order of arguments that are alike, as it does in the canonical layer.
            pairs = [sorted(pairs[0], key=sought.__getitem__), sorted(pairs[1], key=known.__getitem__)]
        stack += zip(*pairs, strict=True)
    numbers = range(len(placed.inputs), len(sought))
    return [names[found[number] - len(given.inputs)] for number in numbers]


class _Graph(NamedTuple):
    """Operators whose arguments number the inputs first and then the nodes, as in a layer."""

    inputs: tuple[Shape, ...]
    nodes: tuple[Node, ...]


def _as_given(network: Network) -> tuple[list[str], _Graph]:
    """Return all layers' operators in the network's order with a name for each; ``as_layer`` checks that they fit."""
    names: list[str] = []
    nodes: list[Node] = []
    shapes: list[Shape] = []
    outputs: dict[str, int] = {}
    before: str | None = None
    for item in network.layers:
        own = _node_names(item.layer)
        sources = item.inputs or ((before,) if before is not None else (INPUT,) * len(item.layer.inputs))
        for repeat in range(item.count):
            if repeat:
                sources = (item.name,) * len(sources)
            values: list[int] = []
            for source, shape in zip(sources, item.layer.inputs, strict=True):
                if source not in outputs:
                    shapes.append(shape)
                    outputs[source] = -len(shapes)
                values.append(outputs[source])
            values += range(len(nodes), len(nodes) + len(item.layer.bare.nodes))
            nodes += [Node(op=node.op, args=tuple(values[a] for a in node.args)) for node in item.layer.bare.nodes]
            outputs[item.name] = len(nodes) - 1
            names += [f"{item.name}.{repeat}.{name}" if item.count > 1 else f"{item.name}.{name}" for name in own]
        before = item.name
    # Inputs are values −1, −2 … until their number is known.
    shifted = [
        Node(op=node.op, args=tuple(arg + len(shapes) if arg >= 0 else -1 - arg for arg in node.args)) for node in nodes
    ]
    return names, _Graph(tuple(shapes), tuple(shifted))


def _digests(graph: _Graph) -> list[bytes]:
    """Return a digest of each value by all that it is made of."""
    digests = [hashlib.sha256(repr(shape).encode()).digest() for shape in graph.inputs]
    for node in graph.nodes:
        args = [digests[i] for i in node.args]
        if isinstance(node.op, Add):
            args.sort()
        digests.append(hashlib.sha256(msgspec.json.encode(node.op) + b"".join(args)).digest())
    return digests


def _node_names(layer: Layer) -> list[str]:
    kinds = [_kind(op) for op in layer.operators]
    total = Counter(kinds)
    seen: Counter[str] = Counter()
    names = []
    for kind in kinds:
        seen[kind] += 1
        names.append(f"{kind}{seen[kind]}" if total[kind] > 1 else kind)
    return names


def _kind(op: Primitive) -> str:
    match op:
        case Conv2d():
            return "conv"
        case BatchNorm2d() | LayerNorm():
            return "norm"
        case Linear():
            return "linear"
    # Only traced operators have weights among the others.
    return "graph"


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

"""Heads: the layers that decide how many classes, boxes or channels a network gives."""

from __future__ import annotations

from lut import Layer, Network
from lut.primitives import BatchNorm2d, Conv2d, Linear

__all__ = ["heads_of", "last_weighted"]


def heads_of(network: Network) -> frozenset[str]:
    """Return the names of the layers whose width is what the network was made to give.

    Behind them nothing multiplies, so the network's output is as wide as they are. A convolution with a batch norm is
    none of them: that is the last layer of a backbone, whose width is free.
    """
    layers = {item.name: item.layer for item in network.layers}
    return frozenset(name for name in _at_the_output(network) if _is_head(layers[name]))


def last_weighted(layer: Layer) -> int | None:
    """Return the place of a layer's last convolution or linear operator among its nodes."""
    positions = [i for i, node in enumerate(layer.nodes) if isinstance(node.op, (Conv2d, Linear))]
    return positions[-1] if positions else None


def _is_head(layer: Layer) -> bool:
    last = last_weighted(layer)
    if last is None:
        return False
    behind = layer.nodes[last + 1 :]
    return isinstance(layer.nodes[last].op, Linear) or not any(isinstance(node.op, BatchNorm2d) for node in behind)


def _at_the_output(network: Network) -> set[str]:
    """Return the names of the layers behind which nothing multiplies: the network's output is as wide as they are."""
    sources: dict[str, tuple[str, ...]] = {}
    before: tuple[str, ...] = ()
    for item in network.layers:
        sources[item.name] = item.inputs or before
        before = (item.name,)
    weightless = {item.name for item in network.layers if item.layer.madds == 0}
    read = {name for names in sources.values() for name in names}
    # What is read of a layer with several outputs may be "name output 1".
    read |= {name.rpartition(" output ")[0] for name in read if name not in sources}
    found: set[str] = set()
    waiting = [name for name in sources if name not in read]
    while waiting:
        name = waiting.pop()
        if name in sources and name not in found:
            found.add(name)
            waiting += sources[name] if name in weightless else ()
    return found

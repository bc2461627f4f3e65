"""Networks: layers with names and repeat counts, and sweeps of one layer over its widths."""

from __future__ import annotations

import itertools

import msgspec

from lut._layer import MOST_NODES, Layer, Node
from lut._printable import printable
from lut.errors import LayerError
from lut.primitives import Shape

__all__ = ["ChannelCurve", "Network", "NetworkLayer"]


# How often a layer may stand in a row: far above any that was ever built, and few enough to cost no minutes.
MOST_REPEATS = 1_000_000

# Layers of a network that its text lists.
SHOWN_LAYERS = 3

# How a network layer names the network's own input among its ``inputs``.
INPUT = "input"


class NetworkLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layer as it occurs in a network: under a name, ``count`` times one after another.

    ``inputs`` names the layers whose outputs it takes, in the order of ``layer.inputs``; ``"input"`` is the network's
    own input (``"input 1"`` its second), and none at all means the layer before.
    """

    name: str
    layer: Layer
    count: int = 1
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_REPEATS:
            raise LayerError(f"{self.name[:80]!r} stands {self.count} times: between 1 and {MOST_REPEATS} are possible")


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a search proposes and a predictor sums: named layers with repeat counts."""

    name: str
    layers: tuple[NetworkLayer, ...]

    def __repr__(self) -> str:
        count = sum(item.count for item in self.layers)
        return f"<Network {self.name!r}: {count} layer{'s' * (count != 1)}, {self.madds / 1e6:.4g} M multiply-adds>"

    def __str__(self) -> str:
        """Return a few lines for people: ``resnet: 21 layers, 15 different, 69.1 M multiply-adds, …``."""
        count, different = sum(item.count for item in self.layers), len({item.layer for item in self.layers})
        text = f"{printable(self.name)}: {count} layer{'s' * (count != 1)}, {different} different"
        text += f", {self.madds / 1e6:.4g} M multiply-adds, {self.parameters / 1e6:.3g} M parameters"
        shown = [
            f"{printable(i.name)}: {i.layer}{f' ×{i.count}' if i.count > 1 else ''}" for i in self.layers[:SHOWN_LAYERS]
        ]
        more = len(self.layers) - len(shown)
        return "\n  ".join([text, *shown, *([f"… and {more} more"] * bool(more))])

    @property
    def madds(self) -> int:
        """Multiply-adds of one sample."""
        return sum(item.count * item.layer.madds for item in self.layers)

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(item.count * item.layer.parameters for item in self.layers)

    def as_layer(self) -> Layer:
        """Return the whole network as one layer, which a target runs, times and exports like any other.

        Within it a runtime has what layout of images it likes: notes on that are left out (:attr:`Layer.bare`).

        Raises:
            LayerError: the layers do not fit together.
        """
        if not self.layers:
            raise LayerError(f"network {self.name!r} has no layers")
        operators = sum(item.count * len(item.layer.bare.nodes) for item in self.layers)
        if operators > MOST_NODES:
            raise LayerError(f"network {self.name!r} has {operators} operators, and a layer at most {MOST_NODES}")
        shapes: list[Shape] = []
        nodes: list[Node] = []
        outputs: dict[str, int] = {}
        given: dict[str, Shape] = {}
        before: str | None = None
        for item in self.layers:
            sources = item.inputs or ((before,) if before is not None else (INPUT,) * len(item.layer.inputs))
            if len(sources) != len(item.layer.inputs):
                raise LayerError(f"{item.name} takes {len(item.layer.inputs)} inputs, and {len(sources)} are named")
            for repeat in range(item.count):
                if repeat:
                    sources = (item.name,) * len(sources)
                values: list[int] = []
                for source, shape in zip(sources, item.layer.inputs, strict=True):
                    if source not in outputs and _is_input(source):
                        shapes.append(shape)
                        # Inputs are values −1, −2 … until their number is known.
                        outputs[source], given[source] = -len(shapes), shape
                    if source not in outputs:
                        raise LayerError(f"{item.name} takes the output of {source!r}, which does not come before it")
                    if given[source] != shape:
                        raise LayerError(f"{item.name} takes {shape}, and {source!r} gives {given[source]}")
                    values.append(outputs[source])
                own = item.layer.bare.nodes
                values += range(len(nodes), len(nodes) + len(own))
                nodes += [Node(op=node.op, args=tuple(values[a] for a in node.args)) for node in own]
                outputs[item.name], given[item.name] = len(nodes) - 1, item.layer.output_shape
            before = item.name
        shifted = tuple(
            Node(op=node.op, args=tuple(arg + len(shapes) if arg >= 0 else -1 - arg for arg in node.args))
            for node in nodes
        )
        return Layer(inputs=tuple(shapes), nodes=shifted)


def _is_input(source: str) -> bool:
    """Whether a name among ``inputs`` is the network's own: ``input``, ``input 1`` …"""
    return source == INPUT or (source.startswith(f"{INPUT} ") and source[len(INPUT) + 1 :].isdecimal())


class ChannelCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Layers that differ only in ``out_channels``: the staircase that HTAS scores (HTAS section 3.2).

    Args:
        name: for people, such as ``"stage 1"``.
        base_channels: the base network's width; HTAS's global search space is 1 … e·base (HTAS Table 1).
        layers: in increasing order of output channels.
    """

    name: str
    base_channels: int
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        widths = self.channels
        if not widths or self.base_channels < 1:
            raise LayerError(f"curve {self.name!r} needs at least one layer and a positive base width")
        if any(b <= a for a, b in itertools.pairwise(widths)):
            raise LayerError(f"curve {self.name!r}: output channels must increase from layer to layer")
        if len({layer.family for layer in self.layers}) > 1:
            raise LayerError(f"curve {self.name!r}: layers must differ in their output channels only")

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels, one per layer."""
        return tuple(layer.out_channels for layer in self.layers)

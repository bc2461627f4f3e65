"""Networks: layers with names and repeat counts, and the protocol of a space of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from lut._layer import MOST_NODES, Layer, Node
from lut.errors import LayerError
from lut.primitives import Shape

__all__ = ["ChannelCurve", "Decision", "Network", "NetworkLayer", "SearchSpace", "SpaceLayer"]


# How often a layer may stand in a row: far above any that was ever built, and few enough to cost no minutes.
MOST_REPEATS = 1_000_000

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


DecisionKind: TypeAlias = Literal["width", "depth", "operator"]


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One decision of a search space, with its options in order.

    ``kind``: what the options are: channel counts (``width``), how many of a stage's blocks are kept (``depth``), or
    names of something, which have no order (``operator``).
    """

    name: str
    options: tuple[int, ...]
    kind: DecisionKind


class SpaceLayer(NamedTuple):
    """A place of a space's networks where a layer stands, and the decisions that fix which one it is.

    Args:
        name: for people, as the layer is called in the networks.
        decisions: numbers of at most two of the space's ``choices``.
        layer: takes one option index per decision of ``decisions``, and returns the layer; ``None``: none stands here.
        when: on what it depends whether the layer is there at all: each entry is a decision's number and the option
            indices with which it is; all must hold. None at all: it always is.
        times: how often the layer stands there, one after another.
    """

    name: str
    decisions: tuple[int, ...]
    layer: Callable[..., Layer | None]
    when: tuple[tuple[int, tuple[int, ...]], ...] = ()
    times: int = 1


@runtime_checkable
class SearchSpace(Protocol):
    """A set of networks. Spaces are plug-ins, found through the entry point group ``latency_lut.spaces``.

    An entry point names a function ``make(expand: float) -> SearchSpace``, where ``expand`` is HTAS's *e*: how many
    times the base network's width the widest layer may have.

    A space may also have ``sample_measured(rng)``: like ``sample``, and the network is made of :meth:`layers` alone. An
    audit then needs no other layers. ``sample_quick(rng)``: like ``sample``, of networks that are quick to measure
    whole. And it may have ``structure()``, which returns a sequence of :class:`SpaceLayer`: all places of its networks.
    A predictor then compiles the space into arrays.
    ``published()``: what makes the networks that papers published, by name. ``count_madds(network)``: multiply-adds as
    the space's paper counts them, where that is not of convolutions and linear layers.
    """

    @property
    def name(self) -> str:
        """The name by which commands know it."""
        ...

    @property
    def choices(self) -> tuple[Decision, ...]:
        """The options of each decision."""
        ...

    def decode(self, vector: Sequence[int]) -> Network:
        """Return the network that takes option ``vector[i]`` (an index) of decision ``i``."""
        ...

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Return a random vector of option indices."""
        ...

    def layers(self) -> tuple[Layer, ...]:
        """Return the layers to measure, each once, so that every network can be looked up or interpolated."""
        ...

    def curves(self) -> tuple[ChannelCurve, ...]:
        """Return the channel sweeps among ``layers()`` that hardware-aware widths are chosen from; may be empty."""
        ...

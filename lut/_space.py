"""Search spaces: sets of networks, by the decisions that each one is."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from lut._layer import Layer
from lut._network import ChannelCurve, Network

__all__ = ["Decision", "LayerSlot", "SearchSpace"]

DecisionKind: TypeAlias = Literal["width", "depth", "operator"]


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One decision of a search space, with its options in order.

    ``kind``: what the options are: channel counts (``width``), how many of a stage's blocks are kept (``depth``), or
    names of something, which have no order (``operator``).
    """

    name: str
    options: tuple[int, ...]
    kind: DecisionKind


class LayerSlot(NamedTuple):
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


class SearchSpace(ABC):
    """A set of networks. Abstract: a space of your own inherits this, and what it does not say has a default.

    Spaces are plug-ins, found through the entry point group ``latency_lut.spaces``. An entry point names a function of
    keyword arguments that returns a space; ``--space NAME --set KEY=VALUE`` gives them, converted to what the
    function's annotations say. :func:`lut.testing.check_space` tries whether a space keeps what it promises.
    """

    name: str
    """The name by which commands know it."""

    @property
    @abstractmethod
    def choices(self) -> tuple[Decision, ...]:
        """The options of each decision."""

    @abstractmethod
    def decode(self, vector: Sequence[int]) -> Network:
        """Return the network that takes option ``vector[i]`` (an index) of decision ``i``."""

    @abstractmethod
    def layers(self) -> tuple[Layer, ...]:
        """Return the layers to measure, each once, so that every network can be looked up or interpolated."""

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Return a random vector of option indices; each option is equally likely."""
        return tuple(rng.randrange(len(decision.options)) for decision in self.choices)

    def sample_measured(self, rng: random.Random) -> tuple[int, ...]:
        """Return a random vector whose network is made of :meth:`layers` alone: an audit needs no others."""
        return self.sample(rng)

    def sample_quick(self, rng: random.Random) -> tuple[int, ...]:
        """Return a random vector of a network that is quick to measure end to end."""
        return self.sample(rng)

    def curves(self) -> tuple[ChannelCurve, ...]:
        """Return the channel sweeps among :meth:`layers` that hardware-aware widths are chosen from; may be empty."""
        return ()

    def slots(self) -> Sequence[LayerSlot] | None:
        """Return all places of its networks, from which a predictor compiles arrays; ``None``: unknown."""
        return None

    def canonical(self, vector: Sequence[int]) -> tuple[int, ...]:
        """Return the one vector that stands for all of the same network; by default each stands for itself."""
        return tuple(vector)

    def base_network(self) -> Network | None:
        """Return the network that others are compared with; ``None``: there is none."""
        return None

    def published(self) -> Mapping[str, Callable[[], Network]]:
        """Return what makes the networks that papers published, by name; may be empty."""
        return {}

    def count_madds(self, network: Network) -> int:
        """Return multiply-adds as the space's paper counts them; by default of convolutions and linear layers."""
        return network.madds

    @property
    def options(self) -> Mapping[str, int | float | str | bool | list[list[int]]]:
        """What it was made with, as a network file keeps it: keyword arguments of its factory."""
        return {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self.choices)} decisions>"

    def __str__(self) -> str:
        """Return a few lines for people: its decisions, how many networks it has, and what it was made with."""
        kinds = [decision.kind for decision in self.choices]
        decisions = ", ".join(f"{kinds.count(kind)} of {kind}" for kind in dict.fromkeys(kinds))
        size = 1
        for decision in self.choices:
            size *= len(decision.options)
        given = ", ".join(f"{key} {value}" for key, value in self.options.items())
        text = f"{self.name}: {len(self.choices)} decisions ({decisions}), {_shown(size)} vectors"
        return f"{text}\n  made with {given}" if given else text


def _shown(size: int) -> str:
    if size < 10**6:
        return f"{size:,}"
    digits = str(size)
    return f"{digits[0]}.{digits[1:3]}e{len(digits) - 1}"

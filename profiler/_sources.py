"""Whole networks: what a table's sums are held against, measured in the same session as its layers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from lut import Layer, Network
from lut._records import NetworkRecord, Part
from profiler._model import ModelSpec

__all__ = ["Subject", "Whole", "record_of", "subject_of"]


class Whole(msgspec.Struct, frozen=True):
    """A whole network, in one of three forms: layers, the user's PyTorch module, or an ONNX file.

    Plain data, from which the measuring process makes the network.

    Args:
        name: for people.
        network: a network that is made of layers alone.
        model: where the user's module is made.
        file: path of an ONNX file.
        digest: of the file's content, so that a run is not taken up again with another.
        shapes: of the file's inputs, where it leaves sizes open.
    """

    name: str
    network: Network | None = None
    model: ModelSpec | None = None
    file: str | None = None
    digest: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def layer(self) -> Layer | None:
        """The network as one layer (:meth:`lut.Network.as_layer`), if it is made of layers alone."""
        return None if self.network is None else self.network.as_layer()

    @property
    def key(self) -> str:
        """Sixteen digits that equal networks share."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class Subject(NamedTuple):
    """A network whose layers a table is to hold, and how it is run as a whole, ``None`` if not at all.

    ``operators``, ``idle`` and ``kernels`` are what tracing it found; see :class:`lut._records.NetworkRecord`.
    """

    network: Network
    whole: Whole | None
    operators: int = 0
    idle: Mapping[str, int] = MappingProxyType({})
    reason: str | None = None
    kernels: Mapping[str, str] = MappingProxyType({})


def subject_of(network: Network) -> Subject:
    """Return a network of a space, to be measured whole.

    Raises:
        LayerError: its layers do not fit together.
    """
    network.as_layer()  # do they fit together?
    return Subject(network, Whole(network.name, network=network))


def record_of(subject: Subject) -> NetworkRecord:
    """Return what a table says of a network before it was measured."""
    return NetworkRecord(
        name=subject.network.name,
        layers=tuple(
            Part(
                name=i.name,
                layer=i.layer.digest,
                count=i.count,
                inputs=i.inputs,
                kernel=subject.kernels.get(i.name),
            )
            for i in subject.network.layers
        ),
        operators=subject.operators,
        idle=dict(subject.idle),
        reason=subject.reason,
    )

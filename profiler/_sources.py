"""Networks to be measured end to end: where the measuring process gets each one from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import msgspec

from lut import Layer, Network
from lut._measured_network import MeasuredNetwork
from lut.errors import LayerFailedError
from profiler._live_module import taken_module
from profiler._model import ModelSpec, load_model

__all__ = [
    "FactorySource",
    "FileSource",
    "LayersSource",
    "LiveSource",
    "NetworkSource",
    "Subject",
    "key_of",
    "layer_of_source",
    "load_source",
    "record_of",
    "subject_of",
]


class LayersSource(msgspec.Struct, frozen=True, tag="layers"):
    """A network that is made of its layers, with random weights."""

    network: Network

    @property
    def name(self) -> str:
        """For people."""
        return self.network.name


class FactorySource(msgspec.Struct, frozen=True, tag="factory"):
    """A torch module that the user's own function makes.

    ``digest``: of the file that it is in, so that a run is not taken up again with another; empty where it is in none.
    """

    name: str
    model: ModelSpec
    digest: str = ""


class FileSource(msgspec.Struct, frozen=True, tag="file"):
    """An ONNX file. ``shapes``: of its inputs, where it leaves sizes open; ``digest``: of its content."""

    name: str
    path: str
    digest: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()


class LiveSource(msgspec.Struct, frozen=True, tag="live"):
    """A torch module of the process that asked: see :mod:`profiler._live_module`.

    ``descriptor``: of the file without a name that holds it; ``digest``: of its layers and its class.
    """

    name: str
    descriptor: int
    digest: str = ""


NetworkSource: TypeAlias = LayersSource | FactorySource | FileSource | LiveSource


def layer_of_source(source: NetworkSource) -> Layer | None:
    """Return the network as one layer (:meth:`lut.Network.as_layer`), if it is made of layers alone."""
    return source.network.as_layer() if isinstance(source, LayersSource) else None


def key_of(source: NetworkSource) -> str:
    """Return sixteen digits that equal networks share."""
    if isinstance(source, LiveSource):
        # Another run has another descriptor of the same module.
        source = msgspec.structs.replace(source, descriptor=0)
    elif isinstance(source, FileSource) and source.digest:
        # And a file is known by what is in it.
        source = msgspec.structs.replace(source, path="")
    return hashlib.sha256(msgspec.json.encode(source)).hexdigest()[:16]


def load_source(source: NetworkSource) -> tuple[Any, tuple[Any, ...]]:
    """Return the torch module that a user's network is, in evaluation mode, and its example inputs.

    Raises:
        UsageError: the user's file or factory fails.
        LayerFailedError: it is no torch module.
    """
    if isinstance(source, FactorySource):
        return load_model(source.model)
    if isinstance(source, LiveSource):
        return taken_module(source.descriptor)
    raise LayerFailedError(f"{source.name}: PyTorch does not run ONNX files", reason="error")


class Subject(NamedTuple):
    """A network whose layers a table is to hold, and how it is run end to end, ``None`` if not at all.

    ``operators``, ``idle`` and ``kernels`` are what tracing it found; see :attr:`lut.LatencyTable.networks`.
    """

    network: Network
    source: NetworkSource | None
    operators: int = 0
    idle: Mapping[str, int] = MappingProxyType({})
    reason: str | None = None
    kernels: Mapping[str, str] = MappingProxyType({})


def subject_of(network: Network) -> Subject:
    """Return a network that is measured end to end as its layers make it.

    Raises:
        LayerError: its layers do not fit together.
    """
    network.as_layer()  # do they fit together?
    return Subject(network, LayersSource(network))


def record_of(subject: Subject) -> MeasuredNetwork:
    """Return what a table says of a network before it was measured."""
    return MeasuredNetwork(
        subject.network,
        reason=subject.reason,
        operators=subject.operators,
        idle=subject.idle,
        kernels=subject.kernels,
    )

"""Networks of a table: what they are made of, and what they take end to end."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lut._layer import Layer
from lut._network import Network, NetworkLayer
from lut._printable import printable
from lut._records import EndToEnd, NetworkRecord, Part
from lut.errors import UsageError

__all__ = ["MeasuredNetwork", "measured_network", "network_of", "network_record"]


class MeasuredNetwork(NamedTuple):
    """A network that a table knows, and what it took when it was run as a whole.

    Args:
        network: its layers.
        end_to_end: its latency as a whole, in ms, beside the layers; ``None`` where it was not measured.
        reason: why it was not measured; ``None`` where it was, or where nobody asked.
        operators: how many operators of the framework the layers hold; 0 where nobody counted.
        idle: operators in no layer, by name, and how often each occurs: those that do no work at inference, and, marked
            ``(unused)``, those whose results nothing reads.
        kernels: by a layer's name, the runtime's operators that it becomes, where known.
        in_place: its layers were timed in its own places, so that their sum is no prediction of it.
    """

    network: Network
    end_to_end: EndToEnd | None = None
    reason: str | None = None
    operators: int = 0
    idle: Mapping[str, int] = MappingProxyType({})
    kernels: Mapping[str, str] = MappingProxyType({})
    in_place: bool = False

    @property
    def name(self) -> str:
        """The network's name, by which the table tells it from its others."""
        return self.network.name

    def __repr__(self) -> str:
        return f"<MeasuredNetwork {self}>"

    def __str__(self) -> str:
        """``resnet: 21 layers, 3.41 ms end to end``."""
        count = sum(item.count for item in self.network.layers)
        text = f"{printable(self.name)}: {count} layer{'s' * (count != 1)}, "
        if self.end_to_end is None:
            return f"{text}not measured end to end{f': {printable(self.reason)}' if self.reason else ''}"
        return f"{text}{self.end_to_end.median_ms:.4g} ms end to end"


def network_of(what: object) -> Network:
    """Return the network that something is: one, or one that a table knows.

    Raises:
        UsageError: it is neither; says how a network is made.
    """
    if isinstance(what, MeasuredNetwork):
        return what.network
    if isinstance(what, Network):
        return what
    raise UsageError(
        f"a lut.Network is wanted, got {type(what).__name__}; profiler.trace(module, inputs) makes one of a torch "
        "module, space.decode(vector) of a search space's choices"
    )


def network_record(measured: MeasuredNetwork) -> NetworkRecord:
    """Return a network as a table's file holds it: its layers by their digests."""
    return NetworkRecord(
        name=measured.name,
        layers=tuple(
            Part(
                name=item.name,
                layer=item.layer.digest,
                count=item.count,
                inputs=item.inputs,
                kernel=measured.kernels.get(item.name),
            )
            for item in measured.network.layers
        ),
        operators=measured.operators,
        idle=dict(measured.idle),
        whole=measured.end_to_end,
        reason=measured.reason,
        in_place=measured.in_place,
    )


def measured_network(record: NetworkRecord, by_digest: Mapping[str, Layer]) -> MeasuredNetwork:
    """Return what a table's file holds of a network, with its layers.

    Raises:
        KeyError: ``by_digest`` lacks one of its layers.
    """
    return MeasuredNetwork(
        Network(
            name=record.name,
            layers=tuple(NetworkLayer(p.name, by_digest[p.layer], p.count, p.inputs) for p in record.layers),
        ),
        record.whole,
        record.reason,
        record.operators,
        record.idle,
        {part.name: part.kernel for part in record.layers if part.kernel is not None},
        record.in_place,
    )

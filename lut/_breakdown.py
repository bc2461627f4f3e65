"""A network by its layers: how often each occurs, and its share of the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lut._layer import Layer
from lut._records import NetworkRecord

if TYPE_CHECKING:
    from lut._table import LatencyTable

__all__ = ["Share", "breakdown"]


class Share(NamedTuple):
    """A distinct layer of a network.

    Args:
        name: under which it occurs first.
        layer: what it is.
        times: how often it occurs.
        ms: of one occurrence; ``None`` where it has no latency, for the ``reason`` given.
        share: of the time of all layers that have one, 0 … 1; ``None`` where it has no latency.
        reason: why it has no latency.
        kernel: the runtime's operators that it becomes, where that is known.
    """

    name: str
    layer: Layer
    times: int
    ms: float | None
    share: float | None
    reason: str | None = None
    kernel: str | None = None

    @property
    def total_ms(self) -> float | None:
        """All occurrences together, in ms."""
        return None if self.ms is None else self.times * self.ms


def breakdown(table: LatencyTable, network: NetworkRecord) -> tuple[Share, ...]:
    """Return a network's distinct layers, those without a latency first, then the longest first."""
    found: dict[str, Share] = {}
    layers, reasons = table.measured_by_digest, table.reasons_by_digest
    for part in network.layers:
        if part.layer in found:
            known = found[part.layer]
            found[part.layer] = known._replace(times=known.times + part.count)
        elif part.layer in layers:
            layer = layers[part.layer]
            found[part.layer] = Share(part.name, layer, part.count, table[layer].median_ms, None, kernel=part.kernel)
        else:
            layer, reason = reasons[part.layer]
            found[part.layer] = Share(part.name, layer, part.count, None, None, reason, part.kernel)
    total = sum(share.total_ms or 0.0 for share in found.values())
    shares = [
        share if share.total_ms is None else share._replace(share=share.total_ms / total) for share in found.values()
    ]
    return tuple(sorted(shares, key=lambda share: -(share.total_ms if share.total_ms is not None else float("inf"))))

"""A network by its layers: how often each occurs, and its share of the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lut._layer import Layer
from lut._measured_network import MeasuredNetwork

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


def breakdown(
    network: MeasuredNetwork, latencies_ms: Mapping[Layer, float], reasons: Mapping[Layer, str]
) -> tuple[Share, ...]:
    """Return a network's distinct layers, those without a latency first, then the longest first.

    Args:
        network: whose layers.
        latencies_ms: of layers.
        reasons: why others have none.
    """
    found: dict[Layer, Share] = {}
    for item in network.network.layers:
        layer, kernel = item.layer, network.kernels.get(item.name)
        if layer in found:
            known = found[layer]
            found[layer] = known._replace(times=known.times + item.count)
        elif layer in latencies_ms:
            found[layer] = Share(item.name, layer, item.count, latencies_ms[layer], None, kernel=kernel)
        else:
            reason = reasons.get(layer, "the table does not hold it")
            found[layer] = Share(item.name, layer, item.count, None, None, reason, kernel)
    total = sum(share.total_ms or 0.0 for share in found.values())
    shares = [
        share if share.total_ms is None else share._replace(share=share.total_ms / total) for share in found.values()
    ]
    return tuple(sorted(shares, key=lambda share: -(share.total_ms if share.total_ms is not None else float("inf"))))

"""Which widths a network's layers should have on a device, from a table of its sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lut import ChannelCurve, LatencyTable, Network, UsageError
from lut._measured_network import network_of
from predictors import width_gains
from profiler._sweep import sweep_curves
from profiler._traced_module import TracedModule

if TYPE_CHECKING:
    from predictors._gains import WidthGain

__all__ = ["suggest_widths", "sweep"]


def suggest_widths(what: Network | TracedModule, table: LatencyTable, *, reach: float = 0.25) -> tuple[WidthGain, ...]:
    """Return what other widths of a network's layers would save on a table's device, the largest gain first.

    One row for all layers that must be equally wide: what residual blocks add up, and depthwise convolutions with what
    they read; their latencies are summed. ``row.groups`` are the names of the modules, ``row.narrower`` and
    ``row.wider`` the suggested widths with the ms that they gain, ``row.friendly_channels`` all at the end of a stair.
    What a gain does not hold: the layers that read the width get narrower too.

    Args:
        what: a network, or a traced module.
        table: a table of its layers over their widths: ``profile([network, *sweep(network)])``, or
            ``profile-device --model FILE.py:FACTORY --sweep``.
        reach: how far from its own width others are looked at, as a share of it; 8 channels at the least.

    Raises:
        UsageError: it is no network, ``reach`` is not positive, or the table holds no sweep of any of its layers.
    """
    network = what.network if isinstance(what, TracedModule) else network_of(what)
    found = width_gains(table, network, reach=reach)
    if not found:
        raise UsageError(
            f"the table holds no sweep of {network.name}'s layers over their widths; measure one: "
            "profile([network, *sweep(network)]), or profile-device --model FILE.py:FACTORY --sweep"
        )
    return found


def sweep(
    what: Network | TracedModule, *, expand: float = 2.0, step: int | None = None, most_layers: int | None = 500
) -> tuple[ChannelCurve, ...]:
    """Return a channel curve for every convolution and linear layer of a network, for :func:`profiler.profile`.

    Args:
        what: a network, or a traced module.
        expand: HTAS's *e*, 1/16 … 16: the widest width over the layer's own.
        step: every so many channels only, however many layers that makes; by default as fine as ``most_layers`` allows.
        most_layers: so many different layers over all curves; a second measures some five. ``None``: no bound.

    Raises:
        UsageError: an argument is out of range, or no layer of the network has other widths.
    """
    network = what.network if isinstance(what, TracedModule) else network_of(what)
    found = sweep_curves(network, expand=expand, step=step, most_layers=most_layers if step is None else None)
    if not found.curves:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.left_out[:3])
        raise UsageError(f"no layer of {network.name} has other widths: {reasons or 'none has a convolution'}")
    return found.curves

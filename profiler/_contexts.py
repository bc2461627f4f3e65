"""What a chain makes of a layer's latency that its network does not.

A chain is not quite a network: no two of its layers are alike, so code is colder; a sum's operands were written at
other times. Layers that were visited in both tell by how much, in log(ms): of each kind of work a mean, believed as
far as its layers agree (empirical Bayes). For one such layer its own difference counts, shrunk towards its kind's; for
a layer that stood in chains only, its kind's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lut import Layer
from lut.primitives import Conv2d, Linear, Subgraph

__all__ = ["Contexts", "chain_offsets", "independent_visits", "kind_of"]

Floats = NDArray[np.float64]

# A layer's difference is worth nothing before so many visits of either sort.
LEAST_VISITS = 3
# Layers that tell of all others, at the least; of fewer, chains are taken as they are.
LEAST_LAYERS = 4
# Of a visit's noise; nothing here resolves less.
LEAST_VARIANCE = 1e-8


def kind_of(layer: Layer) -> str:
    """Return what kind of work a layer is: its first convolution or product, or else its first operator."""
    ops = [node.op for node in layer.nodes]
    for op in ops:
        if isinstance(op, Conv2d):
            shape = "depthwise" if op.groups > 1 else "pointwise" if op.kernel_size == (1, 1) else "dense"
            return f"{shape} convolution"
        if isinstance(op, Linear):
            return "linear"
    first = ops[0]
    return first.calls[0].op if isinstance(first, Subgraph) else type(first).__name__


class Contexts(NamedTuple):
    """How much longer each layer took in chains than in its network, in log(ms), shape ``(L,)``.

    ``offsets`` are that, ``spread`` the variance of such differences between layers of its kind.
    """

    offsets: Floats
    spread: Floats


def independent_visits(chained: int, placed: int, spread: float, variance: float) -> float:
    """Return how many visits in networks those of a layer are worth, where some were in chains.

    However often it stands in chains, its own difference from what its kind makes of them stays.

    Args:
        chained: visits in chains.
        placed: visits in networks; where there are none, chains are all that is known.
        spread: variance of the differences, in log(ms).
        variance: of a single visit, the same.
    """
    if not chained or not placed:
        return float(chained + placed)
    return placed + 1.0 / (1.0 / chained + spread / max(variance, LEAST_VARIANCE))


def chain_offsets(
    chained: Floats, placed: Floats, chained_error: Floats, placed_error: Floats, kinds: Sequence[str]
) -> Contexts:
    """Return what layers that stand in both contexts tell of all.

    Args:
        chained: levels in chains, log(ms), shape ``(L,)``; NaN for a layer that stood in none.
        placed: levels in networks, the same.
        chained_error: their standard errors, infinite where they say nothing.
        placed_error: the same.
        kinds: each layer's kind of work.
    """
    gaps = chained - placed
    variance = chained_error**2 + placed_error**2
    both = np.isfinite(gaps) & np.isfinite(variance)
    if both.sum() < LEAST_LAYERS:
        return Contexts(np.zeros_like(gaps), np.zeros_like(gaps))
    centre, between = _pooled(gaps[both], variance[both])
    names = np.array(kinds)
    offsets, spreads = np.full_like(gaps, centre), np.full_like(gaps, between)
    for kind in dict.fromkeys(kinds):
        here = both & (names == kind)
        if not here.any():
            continue
        mean, spread = _pooled(gaps[here], variance[here])
        if here.sum() < LEAST_LAYERS:
            # How much these few differ among themselves, all layers say.
            mean, spread = float(np.average(gaps[here], weights=1 / (variance[here] + between))), between
        # A kind of few layers, or of layers that differ, is believed little.
        error = 1.0 / float(np.sum(1.0 / (variance[here] + spread)))
        mean = centre + (mean - centre) * between / (between + error) if between + error > 0 else centre
        offsets[names == kind], spreads[names == kind] = mean, spread
        weight = spread / (spread + variance[here]) if spread > 0 else np.zeros(int(here.sum()))
        offsets[here] = mean + weight * (gaps[here] - mean)
    return Contexts(offsets, spreads)


def _pooled(gaps: Floats, variance: Floats) -> tuple[float, float]:
    """Return the mean of noisy values and their own variance, noise taken off (DerSimonian & Laird 1986)."""
    weights = 1.0 / variance
    mean = float(np.average(gaps, weights=weights))
    excess = float(np.sum(weights * (gaps - mean) ** 2)) - (len(gaps) - 1)
    scale = float(weights.sum() - np.sum(weights**2) / weights.sum())
    between = max(0.0, excess / scale) if scale > 0 else 0.0
    return float(np.average(gaps, weights=1.0 / (variance + between))), between

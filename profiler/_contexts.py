"""What a chain makes of a layer's latency that its network does not.

A chain is not quite a network: no two of its layers are alike, so code is colder; a sum's operands were written at
other times. Layers that were visited in both tell by how much, in log(ms): of each kind of work a mean, believed as
far as its layers agree (empirical Bayes). For one such layer its own difference counts, shrunk towards its kind's; for
a layer that stood in chains only, its kind's. Widths of a channel sweep that were corrected in different ways could not
be compared: they are all corrected by their kind's, or, where the network is the user's own, by the difference of the
width that stands there. Where a session holds no networks, what the machine's self-test found stands in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lut import Layer
from lut.primitives import Conv2d, Linear, Subgraph

__all__ = [
    "ANY_KIND",
    "Contexts",
    "Offset",
    "as_parameters",
    "chain_offsets",
    "independent_visits",
    "kind_of",
    "offsets_of",
]

Floats = NDArray[np.float64]

# A layer's difference is worth nothing before so many visits of either sort.
LEAST_VISITS = 3
# Layers that tell of all others, at the least; of fewer, chains are taken as they are.
LEAST_LAYERS = 4
LARGEST_OFFSET = 4.6
# Of a visit's noise; nothing here resolves less.
LEAST_VARIANCE = 1e-8


def kind_of(layer: Layer) -> str:
    """Return what kind of work a layer is: its first convolution or product, or else its first operator."""
    for op in layer.operators:
        if isinstance(op, Conv2d):
            shape = "depthwise" if op.groups > 1 else "pointwise" if op.kernel_size == (1, 1) else "dense"
            return f"{shape} convolution"
        if isinstance(op, Linear):
            return "linear"
    first = layer.operators[0]
    return first.calls[0].op if isinstance(first, Subgraph) else type(first).__name__


class Offset(NamedTuple):
    """How much longer layers of a kind take in chains than in networks, in log(ms).

    ``spread`` is the variance of that between layers, and ``error`` that of the ``mean``.
    """

    mean: float
    spread: float
    error: float

    @property
    def is_possible(self) -> bool:
        """Whether anything that was measured can be so: no chain makes a layer a hundred times as long."""
        return abs(self.mean) <= LARGEST_OFFSET and all(0 <= v <= LARGEST_OFFSET for v in (self.spread, self.error))


# Of which neither networks beside the chains nor a self-test tell: on one machine chains were 0 to 10 % longer.
UNTOLD = 0.05
# What all layers together say of a kind that none of them is of.
ANY_KIND = ""
_PREFIX = "chains, "


class Contexts(NamedTuple):
    """How much longer each layer took in chains than in its network, in log(ms), shape ``(L,)``.

    ``offsets`` are that, ``spread`` the variance of such differences between layers of its kind, ``unknown`` that of
    what stays unknown of a layer which stood in chains only; ``kinds`` what they come from.
    """

    offsets: Floats
    spread: Floats
    unknown: Floats
    kinds: dict[str, Offset]


def as_parameters(kinds: Mapping[str, Offset]) -> dict[str, float]:
    """Return offsets as a table's correction records them; :func:`offsets_of` takes them back."""
    return {
        f"{_PREFIX}{kind or 'all'}, {name}": float(f"{value:.4g}")
        for kind, offset in kinds.items()
        for name, value in zip(Offset._fields, offset, strict=True)
    }


def offsets_of(parameters: Mapping[str, float]) -> dict[str, Offset]:
    """Return what a table's correction records of chains, by kind of work."""
    found: dict[str, dict[str, float]] = {}
    for key, value in parameters.items():
        if key.startswith(_PREFIX):
            kind, _, name = key.removeprefix(_PREFIX).rpartition(", ")
            found.setdefault(ANY_KIND if kind == "all" else kind, {})[name] = value
    made = {kind: Offset(**values) for kind, values in found.items() if set(values) == set(Offset._fields)}
    return {kind: offset for kind, offset in made.items() if offset.is_possible}


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
    chained: Floats,
    placed: Floats,
    chained_error: Floats,
    placed_error: Floats,
    kinds: Sequence[str],
    known: Mapping[str, Offset] = MappingProxyType({}),
    *,
    shared_error: float = 0.0,
    alike: NDArray[np.bool_] | None = None,
    curves: Sequence[Sequence[int]] = (),
) -> Contexts:
    """Return what layers that stand in both contexts tell of all.

    Args:
        chained: levels in chains, log(ms), shape ``(L,)``; NaN for a layer that stood in none.
        placed: levels in networks, the same.
        chained_error: their standard errors, infinite where they say nothing.
        placed_error: the same.
        kinds: each layer's kind of work.
        known: what another session on this machine told, for kinds of which this one tells nothing.
        shared_error: standard error of all differences as a whole, beside their own.
        alike: layers of which their kind's difference is taken off, whatever their own; none by default.
        curves: of layers that all differ by what those do that stand in both contexts.
    """
    gaps = chained - placed
    variance = chained_error**2 + placed_error**2
    both = np.isfinite(gaps) & np.isfinite(variance)
    told = {
        kind: offset._replace(error=offset.error + shared_error**2)
        for kind, offset in _told(gaps, variance, both, kinds).items()
    }
    by_kind = {**told, **{kind: offset for kind, offset in known.items() if kind not in told}}
    names = np.array(kinds)
    own = both if alike is None else both & ~alike
    offsets, spreads, unknown = np.zeros((3, len(gaps)))
    for kind in dict.fromkeys(kinds):
        offset = by_kind.get(kind, by_kind.get(ANY_KIND))
        here = names == kind
        if offset is None:
            unknown[here] = 2 * UNTOLD**2
            continue
        offsets[here], spreads[here], unknown[here] = offset.mean, offset.spread, offset.spread + offset.error
        if kind in told:
            mine = here & own
            weight = offset.spread / (offset.spread + variance[mine])
            offsets[mine] = offset.mean + weight * (gaps[mine] - offset.mean)
    for curve in curves:
        shifts = [offsets[i] - by_kind[kinds[i]].mean for i in curve if own[i] and kinds[i] in told]
        for i in curve:
            if shifts and not both[i]:
                offsets[i] += fmean(shifts)
    return Contexts(offsets, spreads, unknown, by_kind)


def _told(gaps: Floats, variance: Floats, both: NDArray[np.bool_], kinds: Sequence[str]) -> dict[str, Offset]:
    """Return what layers that stood in ``both`` contexts tell of their kinds, and together of any."""
    if both.sum() < LEAST_LAYERS:
        return {}
    centre, between, centre_error = _pooled(gaps[both], variance[both])
    found = {ANY_KIND: Offset(centre, between, centre_error)}
    names = np.array(kinds)
    for kind in dict.fromkeys(kinds):
        here = both & (names == kind)
        if not here.any():
            continue
        mean, spread, error = _pooled(gaps[here], variance[here])
        if here.sum() < LEAST_LAYERS:
            # How much these few differ among themselves, all layers say.
            weights = 1 / (variance[here] + between)
            mean, spread, error = float(np.average(gaps[here], weights=weights)), between, 1 / float(weights.sum())
        # A kind of few layers, or of layers that differ, is believed little.
        belief = between / (between + error)
        own = belief * error + (1 - belief) ** 2 * centre_error
        found[kind] = Offset(centre + belief * (mean - centre), spread, own)
    return found


def _pooled(gaps: Floats, variance: Floats) -> tuple[float, float, float]:
    """Return the mean of noisy values, their own variance with noise taken off, and that of the mean.

    Source: DerSimonian & Laird, Controlled Clinical Trials 7 (1986).
    """
    weights = 1.0 / variance
    mean = float(np.average(gaps, weights=weights))
    excess = float(np.sum(weights * (gaps - mean) ** 2)) - (len(gaps) - 1)
    scale = float(weights.sum() - np.sum(weights**2) / weights.sum())
    between = max(0.0, excess / scale) if scale > 0 else 0.0
    weights = 1.0 / (variance + between)
    return float(np.average(gaps, weights=weights)), between, 1.0 / float(weights.sum())

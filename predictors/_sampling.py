"""Which layers to measure next: those that would tell most about the latencies of a space's networks.

The residual of the layer model is a Gaussian process, so what a measurement of one layer tells about the sum of any
network's layers is known before it is made. The layer that takes most of the networks' variance away comes first (an
A-optimal design, chosen greedily: Krause, Singh & Guestrin 2008 do so for a field itself; here its weighted sums
count). With nothing measured that gives a coarse grid of the widths and sizes in which networks spend their time;
afterwards the variance is larger where held-out errors were, which is where stairs hide.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from lut import Layer, Network, UsageError
from predictors._features import kind_of, operators_of
from predictors._layer_model import (
    PRIOR_COSTS,
    LayerModel,
    base_ms,
    covariance,
    noise_variance,
    numbers_of,
    prior_parameters,
)

__all__ = ["next_layers"]

Floats = NDArray[np.float64]

# Held-out errors of one layer are a glimpse; how many layers they are averaged over.
NEIGHBOURS = 8
LARGEST_INFLATION = 4.0
MOST_CANDIDATES = 6000
# A kind of layer that takes less of the networks' time is left to the gain to choose.
LEAST_SHARE = 0.01


def next_layers(
    networks: Sequence[Network],
    *,
    count: int,
    measured: Collection[Layer] = (),
    model: LayerModel | None = None,
    among: Collection[Layer] | None = None,
) -> tuple[Layer, ...]:
    """Return the layers whose measurement would tell most about networks, the most telling first.

    Args:
        networks: that latencies are wanted of: a sample of the space's.
        count: how many layers to return, or fewer where there are no more.
        measured: layers that were measured already.
        model: fitted to them; ``None``: nothing was measured yet.
        among: layers that may be measured; by default those of the networks.

    Raises:
        UsageError: ``count`` is negative, there are no networks, or too many different layers.
    """
    if count < 0 or not networks or not all(network.layers for network in networks):
        raise UsageError(
            f"a count that is not negative and networks that have layers are needed, got {count} and {len(networks)} "
            "networks"
        )
    inner = [item.layer for network in networks for item in network.layers]
    # What was measured elsewhere tells something of these networks' layers too.
    layers = list(dict.fromkeys([*inner, *measured]))
    place = {layer: i for i, layer in enumerate(layers)}
    if len(layers) > MOST_CANDIDATES:
        raise UsageError(f"{len(layers)} different layers are too many to choose among; give fewer networks")
    numbers = numbers_of(layers)
    ms = base_ms(numbers.work, PRIOR_COSTS) if model is None else model.predict(numbers)[0]
    weights = np.zeros((len(networks), len(layers)))
    for row, network in zip(weights, networks, strict=True):
        for item in network.layers:
            row[place[item.layer]] += item.count * ms[place[item.layer]]
    # Networks count alike, the short as the long: errors are relative.
    weights /= weights.sum(axis=1, keepdims=True)
    parameters = prior_parameters() if model is None else model.parameters
    noise = noise_variance(parameters)
    field = covariance(numbers.features, numbers.features, parameters)
    if model is not None:
        scale = _inflation(numbers.features, model)
        field *= scale[:, None] * scale[None, :]
    for layer in measured:
        _condition(field, place[layer], noise)
    allowed = np.array([layer not in measured and (among is None or layer in among) for layer in layers])
    chosen: list[Layer] = []
    told = weights @ field
    operators = [operators_of(layer) for layer in layers]
    covered = frozenset().union(*(operators_of(layer) for layer in measured))
    kinds = [kind_of(layer) for layer in layers]
    seen = {kind_of(layer) for layer in measured}
    matters = _shares(kinds, weights)
    for _ in range(min(count, int(allowed.sum()))):
        variance = np.diag(field)
        gain = (told**2).sum(axis=0) / (variance + noise)
        # An operator that no measured layer has cannot be predicted at all: those come first. Then come kinds of layers
        # that take a part of the time worth speaking of: what is alike is judged by, not between kinds.
        strange = allowed & np.array([bool(own - covered) for own in operators])
        unseen = allowed & np.array([kind not in seen and matters[kind] >= LEAST_SHARE for kind in kinds])
        open_ = strange if strange.any() else unseen if unseen.any() else allowed
        best = int(np.argmax(np.where(open_, gain, -1.0)))
        chosen.append(layers[best])
        covered |= operators[best]
        seen.add(kinds[best])
        allowed[best] = False
        _condition(field, best, noise)
        told = weights @ field
    return tuple(chosen)


def _shares(kinds: Sequence[str], weights: Floats) -> dict[str, float]:
    """Return the share of the networks' time that each kind of layer takes."""
    found: dict[str, float] = {}
    for kind, share in zip(kinds, weights.mean(axis=0), strict=True):
        found[kind] = found.get(kind, 0.0) + float(share)
    return found


def _condition(field: Floats, at: int, noise: float) -> None:
    """Take away what a measurement of one entry tells of all."""
    column = field[:, at].copy()
    field -= np.outer(column, column) / (column[at] + noise)


def _inflation(features: Floats, model: LayerModel) -> Floats:
    """Return by what factor deviations are larger near layers that the others predicted badly, shape ``(n,)``."""
    nearness = covariance(features, model.rows, model.parameters)
    nearest = np.argsort(-nearness, axis=1)[:, :NEIGHBOURS]
    ratio = (model.held_out / model.held_out_deviation) ** 2
    return np.asarray(np.clip(np.sqrt(ratio[nearest].mean(axis=1)), 0.5, LARGEST_INFLATION))

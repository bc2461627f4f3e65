"""The width options of a search: TAS's ratios, HTAS's hardware-aware widths, or a uniform grid; one form for all three.

A width set has one tuple of widths, in increasing order, for each of :attr:`search.ResNetCifar.groups`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lut import TableError, UsageError

if TYPE_CHECKING:
    from predictors import LatencyPredictor
    from predictors._widths import MeasuredCurve, WidthSelection
    from search.spaces._resnet_cifar import ResNetCifar

__all__ = [
    "base_widths",
    "hardware_aware_sets",
    "predicted_curves",
    "ratio_widths",
    "selected_widths",
    "uniform_widths",
]

# TAS searches int(C·r) with r = 0.3, 0.4 … 1.0.
TENTHS = range(3, 11)
# Of the visits, to say how sure a choice is.
RESAMPLES = 1000


def ratio_widths(space: ResNetCifar) -> tuple[tuple[int, ...], ...]:
    """Return TAS's options: ⌊C·r⌋ with r in 0.3, 0.4 … 1.0 of each base width C, never wider than the base network."""
    return tuple(tuple(sorted({max(1, group.base * r // 10) for r in TENTHS})) for group in space.groups)


def base_widths(space: ResNetCifar) -> tuple[tuple[int, ...], ...]:
    """Return the base network's widths alone: only depths are searched then."""
    return tuple((group.base,) for group in space.groups)


def uniform_widths(space: ResNetCifar, groups: int) -> tuple[tuple[int, ...], ...]:
    """Return the plain grid over the expanded range: ⌊e·C·j/g⌋ for j = 1 … g.

    It has as many options as HTAS's widths, so what they gain over it is the scorer's doing.

    Raises:
        UsageError: there are fewer widths than groups.
    """
    found = []
    for group in space.groups:
        widest = space.widest(group.base)
        if not 1 <= groups <= widest:
            raise UsageError(f"{group.name} has {widest} widths, too few for {groups} groups")
        found.append(tuple(widest * j // groups for j in range(1, groups + 1)))
    return tuple(found)


def hardware_aware_sets(
    space: ResNetCifar,
    curves: Sequence[MeasuredCurve],
    *,
    groups: int,
    alpha: float | Literal["auto"] = 1.0,
    seed: int = 0,
) -> tuple[WidthSelection, ...]:
    """Return HTAS's choice of widths for each of the space's groups (HTAS eq. 1–4).

    Args:
        space: fixes e, and with it the curves that are needed.
        curves: of a table (:func:`predictors.measured_curves`) or a predictor (:func:`predicted_curves`).
        groups: g.
        alpha: exponent of the law, or ``"auto"``.
        seed: of the resampling behind each choice's certainty.

    Raises:
        TableError: a group has no curve of its widths.
        UsageError: as :func:`predictors.hardware_aware_widths`.
    """
    from predictors import hardware_aware_widths

    found = []
    for wanted in space.curves():
        size = "×".join(map(str, wanted.layers[0].output_shape[1:]))
        fits = [
            curve
            for curve in curves
            if (curve.name, curve.size, curve.base_channels) == (wanted.name, size, wanted.base_channels)
            and set(wanted.channels) <= set(curve.channels)
        ]
        if not fits:
            raise TableError(
                f"no sweep of {wanted.name}: {wanted.layers[0]} … {wanted.channels[-1]} channels; measure it with "
                f"profile(space), or `profile-device --space {space.name} --expand {space.expand:g}`"
            )
        curve = _cut(fits[0], wanted.channels[-1])
        # Without visits there is nothing to resample: no certainty is claimed.
        resamples = RESAMPLES if any(curve.visits) else 0
        found.append(hardware_aware_widths(curve, groups=groups, alpha=alpha, resamples=resamples, seed=seed))
    return tuple(found)


def selected_widths(selections: Sequence[WidthSelection]) -> tuple[tuple[int, ...], ...]:
    """Return the width set of HTAS's choices."""
    return tuple(selection.widths for selection in selections)


def _cut(curve: MeasuredCurve, widest: int) -> MeasuredCurve:
    """Return a curve up to a width."""
    count = sum(width <= widest for width in curve.channels)
    parts = {
        name: getattr(curve, name)[:count]
        for name in ("channels", "ms", "low_ms", "high_ms", "visits", "process_errors")
    }
    return curve._replace(**parts)


def predicted_curves(space: ResNetCifar, predictor: LatencyPredictor) -> tuple[MeasuredCurve, ...]:
    """Return the space's curves as a predictor knows them: measured where it holds the width, predicted elsewhere.

    A predictor does not keep visits, so choices from it come without certainty. Predicted widths are warned of: HTAS's
    score is about what is faster than expected, and a prediction is an expectation.
    """
    from predictors._widths import MeasuredCurve

    found, guessed, count = [], 0, 0
    # Asked for all together they are predicted once.
    predictor.contributions([layer for curve in space.curves() for layer in curve.layers])
    for curve in space.curves():
        known = [predictor.predict_layer(layer) for layer in curve.layers]
        guessed += sum(part.origin != "measured" for part in known)
        count += len(known)
        ms = tuple(part.ms for part in known)
        found.append(
            MeasuredCurve(
                name=curve.name,
                size="×".join(map(str, curve.layers[0].output_shape[1:])),
                base_channels=curve.base_channels,
                channels=curve.channels,
                ms=ms,
                low_ms=ms,
                high_ms=ms,
                visits=((),) * len(ms),
                process_errors=(0.0,) * len(ms),
            )
        )
    if guessed:
        warnings.warn(
            f"{guessed} of the {count} widths to choose from were not measured but predicted; a table of "
            f"`profile-device --space {space.name} --expand {space.expand:g}` holds them all",
            stacklevel=2,
        )
    return tuple(found)

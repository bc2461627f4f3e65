"""Hardware-aware widths: HTAS's choice scorer (eq. 2–4), with what the paper leaves out: how sure each choice is."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lut import ChannelCurve, LatencyTable, Measurement, TableError, UsageError
from lut._option_names import option_text
from lut._statistics import TRIMMED
from predictors._power_law import PowerLaw

__all__ = ["MeasuredCurve", "WidthChoice", "WidthSelection", "hardware_aware_widths", "measured_curves"]

RESAMPLES = 1000
LARGEST_EXPAND = 1e6
# Widths so many channels apart are the same choice where noise decides between them: they stand on one stair.
NEXT_TO = 1
# Visits that are drawn at a time.
BLOCK = 1 << 23


class MeasuredCurve(NamedTuple):
    """A channel sweep with its latencies m(x).

    Args:
        name: for people.
        size: for people: the feature maps' height × width, or the number of tokens; empty for a vector.
        base_channels: the base network's width C.
        channels: the widths of the sweep in increasing order; HTAS's global search space X.
        ms: m(x) in ms, one per width; NaN where a width could not be measured.
        low_ms: lower ends of the within-run intervals, NaN as above.
        high_ms: upper ends of the within-run intervals.
        visits: the corrected visits in ms behind each m(x); empty where there are none.
        process_errors: standard error of each log m(x) that comes from the processes it was visited in, and that its
            visits cannot tell of.
        trimmed: whether m(x) is the trimmed mean of the visits; their median otherwise.
    """

    name: str
    size: str
    base_channels: int
    channels: tuple[int, ...]
    ms: tuple[float, ...]
    low_ms: tuple[float, ...]
    high_ms: tuple[float, ...]
    visits: tuple[tuple[float, ...], ...]
    process_errors: tuple[float, ...]
    trimmed: bool = False


class WidthChoice(NamedTuple):
    """The width chosen in one group, and how sure that is.

    ``margin_ms`` is its score above that of the group's ``runner_up``; ``margin_in_noise`` the same in standard
    errors; ``chosen_share`` how often resampled visits choose it, or the width one channel next to it;
    ``uniform_channels`` what the plain uniform grid takes from this group (its upper end, C·e·j/g), with its latency
    and score.
    """

    first: int
    last: int
    channels: int
    ms: float
    score_ms: float
    runner_up: int | None
    margin_ms: float | None
    margin_in_noise: float | None
    chosen_share: float
    uniform_channels: int
    uniform_ms: float | None
    uniform_score_ms: float | None


class WidthSelection(NamedTuple):
    """The hardware-aware search space of one curve: the fitted law, the scores s(x), one choice per group."""

    curve: MeasuredCurve
    law: PowerLaw
    law_ms: tuple[float, ...]
    scores_ms: tuple[float, ...]
    choices: tuple[WidthChoice, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """HTAS eq. 4: the union of the groups' choices, in increasing order."""
        return tuple(sorted({choice.channels for choice in self.choices}))


def measured_curves(table: LatencyTable, *, expand: float | None = None) -> tuple[MeasuredCurve, ...]:
    """Return the table's channel sweeps with their latencies.

    Args:
        table: a table with curves.
        expand: HTAS's *e*: keep the widths 1 … ⌊e·C⌋ of each curve only; all of them by default.

    Raises:
        TableError: the table has no curves.
        UsageError: ``expand`` is not positive, asks for widths that were not measured, or leaves none.
    """
    if not table.curves:
        raise TableError("this table holds no channel curves to choose widths from; measure a space that has some")
    return tuple(_measured_curve(table, curve, expand) for curve in table.curves)


def _measured_curve(table: LatencyTable, curve: ChannelCurve, expand: float | None) -> MeasuredCurve:
    layers = curve.layers
    if expand is not None:
        if not 0 < expand <= LARGEST_EXPAND:
            raise UsageError(f"expand must be a positive number, at most {LARGEST_EXPAND:g}, got {expand:g}")
        widest = int(curve.base_channels * expand + 1e-9)
        if widest < curve.channels[0]:
            raise UsageError(f"expand {expand:g} leaves no width of {curve.name} (base width {curve.base_channels})")
        if widest > curve.channels[-1]:
            raise UsageError(
                f"expand {expand:g} asks for {widest} channels in {curve.name}, and the table ends at "
                f"{curve.channels[-1]}; measure wider layers: {option_text('expand', expand)}"
            )
        layers = tuple(layer for layer in layers if layer.out_channels <= widest)
    found = [table.get(layer, None) for layer in layers]
    nan = float("nan")
    return MeasuredCurve(
        name=curve.name,
        size="×".join(map(str, _size(layers[0].output_shape))),
        base_channels=curve.base_channels,
        channels=tuple(layer.out_channels for layer in layers),
        ms=tuple(m.median_ms if m else nan for m in found),
        low_ms=tuple(m.within_run.low_ms if m else nan for m in found),
        high_ms=tuple(m.within_run.high_ms if m else nan for m in found),
        visits=tuple(m.corrected_ms if m else () for m in found),
        process_errors=tuple(_process_error(table, m) if m else nan for m in found),
        trimmed=all(table.sessions[m.session].estimator == "trimmed mean" for m in found if m),
    )


def _size(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return an output's shape without its channels: those of tokens are the last axis, as in ``out_channels``."""
    return shape[1:] if len(shape) in (1, 3) else shape[:-1]


def _process_error(table: LatencyTable, measurement: Measurement) -> float:
    spread = table.sessions[measurement.session].spread.process
    return float(spread / np.sqrt(max(1, len(set(measurement.visits.process)))))


def hardware_aware_widths(
    curve: MeasuredCurve,
    *,
    groups: int = 8,
    alpha: float | Literal["auto"] = 1.0,
    loss: Literal["squared", "huber"] = "squared",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> WidthSelection:
    """Choose the hardware-friendly widths of a curve (HTAS section 3.2).

    s(x) = f(x) − m(x) (eq. 2), with f fitted to the whole curve (eq. 1); the widths fall into ``groups`` contiguous
    groups of equal size; each gives the width with the highest score (eq. 3); their union is the search space (eq. 4).
    Where the number of widths is no multiple of ``groups``, the first groups hold one width more.

    Each choice's certainty comes from resampling the visits of every width with replacement (Efron's bootstrap), and a
    draw of what its processes may have added: new medians, a new law with the same α, new choices. A width with fewer
    than two visits gets the noise of all widths' visits.

    Args:
        curve: the measured sweep.
        groups: g.
        alpha: the exponent of f, or ``"auto"``.
        loss: how f is fitted, see :class:`PowerLaw`.
        resamples: how many times the visits are resampled; 0 for no certainty at all.
        seed: of the resampling.

    Raises:
        UsageError: there are fewer widths than groups, or ``groups`` or ``resamples`` is out of range.
        TableError: none of a group's widths was measured.
    """
    n = len(curve.channels)
    if groups < 1 or resamples < 0:
        raise UsageError(f"groups must be at least 1 and resamples not negative, got {groups} and {resamples}")
    if groups > n:
        raise UsageError(f"{curve.name} has {n} widths, too few for {groups} groups")
    channels = np.asarray(curve.channels, dtype=np.float64)
    ms = np.asarray(curve.ms, dtype=np.float64)
    measured = np.isfinite(ms)
    members = np.array_split(np.arange(n), groups)
    for group in members:
        if not measured[group].any():
            first, last = curve.channels[group[0]], curve.channels[group[-1]]
            raise TableError(f"{curve.name}: none of the widths {first} … {last} was measured, so none can be chosen")

    try:
        law = PowerLaw(alpha=alpha, loss=loss).fit(channels[measured, None], ms[measured])
    except ValueError as error:
        raise UsageError(f"{curve.name}: {error}") from None
    law_ms = law.k_ * channels**law.alpha_ + law.b_
    scores = law_ms - ms
    resampled = _resampled_scores(curve, channels, measured, law, resamples, seed)

    choices = []
    for group in members:
        candidates = group[measured[group]]
        ranked = candidates[np.argsort(-scores[candidates], kind="stable")]
        best = int(ranked[0])
        second = int(ranked[1]) if len(ranked) > 1 else None
        margin = None if second is None else float(scores[best] - scores[second])
        share, noise = 1.0, 0.0
        if resampled is not None:
            winners = candidates[np.argmax(resampled[:, candidates], axis=1)]
            share = float(np.mean(np.abs(channels[winners] - channels[best]) <= NEXT_TO))
            if second is not None:
                noise = float(np.std(resampled[:, best] - resampled[:, second]))
        end = int(group[-1])
        choices.append(
            WidthChoice(
                first=curve.channels[group[0]],
                last=curve.channels[end],
                channels=curve.channels[best],
                ms=float(ms[best]),
                score_ms=float(scores[best]),
                runner_up=None if second is None else curve.channels[second],
                margin_ms=margin,
                margin_in_noise=margin / noise if margin is not None and noise > 0 else None,
                chosen_share=share,
                uniform_channels=curve.channels[end],
                uniform_ms=float(ms[end]) if measured[end] else None,
                uniform_score_ms=float(scores[end]) if measured[end] else None,
            )
        )
    return WidthSelection(curve, law, tuple(law_ms.tolist()), tuple(scores.tolist()), tuple(choices))


def _resampled_scores(
    curve: MeasuredCurve,
    channels: NDArray[np.float64],
    measured: NDArray[np.bool_],
    law: PowerLaw,
    resamples: int,
    seed: int,
) -> NDArray[np.float64] | None:
    """Return scores of shape (resamples, widths) from resampled visits, NaN where a width was not measured."""
    if resamples == 0:
        return None
    rng = np.random.default_rng(seed)
    middles = np.full((resamples, len(channels)), np.nan)
    spreads = [float(np.std(np.log(visits))) for visits in curve.visits if len(visits) >= 2]
    pooled = float(np.median(spreads)) if spreads else 1.0
    for i in np.flatnonzero(measured):
        visits = np.asarray(curve.visits[i])
        if visits.size < 2:
            middles[:, i] = curve.ms[i] * np.exp(rng.normal(0.0, pooled, resamples))
        else:
            rows = max(1, BLOCK // visits.size)
            for start in range(0, resamples, rows):
                size = (min(rows, resamples - start), visits.size)
                drawn = np.sort(visits[rng.integers(visits.size, size=size)], axis=1)
                # Of what the table's values are: the trimmed mean, or of older tables the median.
                cut = int(TRIMMED * visits.size) if curve.trimmed else (visits.size - 1) // 2
                middles[start : start + rows, i] = np.mean(drawn[:, cut : visits.size - cut], axis=1)
        middles[:, i] *= np.exp(rng.normal(0.0, curve.process_errors[i], resamples))
    if law.loss != "squared":
        # An iterative fit a thousand times over would cost seconds; the law itself hardly moves.
        return np.asarray((law.k_ * channels**law.alpha_ + law.b_)[None, :] - middles)
    scale = channels.max()
    design = np.column_stack([(channels / scale) ** law.alpha_, np.ones_like(channels)])
    fit = np.linalg.pinv(design[measured])
    return np.asarray((middles[:, measured] @ fit.T) @ design.T - middles)

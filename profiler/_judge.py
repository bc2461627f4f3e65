"""Judging: from raw visits to medians with intervals, in three steps.

1.  *Drift.* What the machine does to all layers is estimated from the visits and taken out (``_drift``): layers of one
    session become comparable. So is what chains make of them that networks do not (``_contexts``).
2.  *Scale.* The sentinels are layers like any other, and the same in every session. Their levels, set against those
    that this machine once had (its reference speed), tie one session's scale to another's.
3.  *Intervals.* Of each layer's corrected visits the trimmed mean, with an interval whose width all layers' noise helps
    to tell (``_moderation``; ``within_run``); and, for another day, the same with what the sentinels leave of the scale
    (``across_runs``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, hypot, log, sqrt
from statistics import NormalDist
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lut._records import Flag, Interval, Protocol, Spread
from lut._statistics import bimodal_split, trimmed_mean, trimmed_variance
from profiler._contexts import LEAST_VISITS, Contexts, Offset, chain_offsets, independent_visits
from profiler._drift import MAD_TO_SIGMA, Drift, grouped_median, pooled_autocorrelation, remove_drift
from profiler._moderation import Prior, fit_prior
from profiler._moderation import half_width as moderated_half_width
from profiler._plan import PREFLIGHT_ENTRY
from profiler._visit import Visit

__all__ = ["Judgement", "LayerJudgement", "judge"]

# Pooled lag-1 autocorrelation above which neighbouring visits are not taken for independent.
AUTOCORRELATED = 0.2
STRICT_LEVEL = 0.99
# A chunk of the session in which the machine is taken to be in one state, for the spread of the scale.
CHUNK_S = 3.0
CALM_QUANTILE = 0.1
# What three sentinels leave of another session's scale at the least, as a standard deviation of log(ms). Seen between
# sessions on one virtual machine; no single session can tell it.
LEAST_SCALE = 0.03
# Disagreement of the sentinels about a session's speed, as a standard deviation of log(ms), above which the machine is
# said to be in another state than at its reference: then not all layers slowed down alike.
OTHER_STATE = 0.025
# Share of the visits that may be lost in what they were taken from before the layer is said to be at the resolution.
UNRESOLVED_SHARE = 0.1
NEXT_TO_NOTHING_MS = 1e-6
LARGEST_MS = 1e9
# Of the logarithm of a factor between latencies: what is beyond is no number that a table can hold.
LARGEST_LOG = 50.0
LARGEST_SPREAD = 10.0
# Visits to a network's layers of which the drift that they share can be taken from them.
LEAST_WALK = 8
# Standard error of a median against that of a mean, for normal noise: √(π/2).
MEDIAN_EFFICIENCY = 1.2533

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class LayerJudgement(NamedTuple):
    """What a layer's visits say; ``visits`` are the accepted ones in time order, ``drift`` their divisors."""

    visits: list[Visit]
    drift: list[float]
    median_ms: float
    raw_median_ms: float
    within_run: Interval
    across_runs: Interval
    half_width: float
    flags: tuple[Flag, ...]


class Judgement(NamedTuple):
    """What all visits say.

    ``references`` are the sentinels' levels at the speed to which all latencies are brought; ``chains`` what chains
    make of layers, by kind, and was taken off.
    """

    layers: dict[int, LayerJudgement]
    sentinel_ms: dict[int, float]
    references: dict[int, float]
    spread: Spread
    autocorrelation: float
    factors: int
    chains: dict[str, Offset]


def judge(
    accepted: Sequence[Visit],
    protocol: Protocol,
    *,
    references: Mapping[int, float] | None,
    contaminated: frozenset[int] = frozenset(),
    kinds: Mapping[int, str] = MappingProxyType({}),
    offsets: Mapping[str, Offset] = MappingProxyType({}),
    curves: Sequence[Sequence[int]] = (),
    of_samples: bool = True,
) -> Judgement:
    """Return medians, intervals and flags of all layers.

    Args:
        accepted: the visits that count, of layers and sentinels (negative entries), in any order.
        protocol: the level, the target precision and the drift's window.
        references: each sentinel's latency in ms at the machine's reference speed; ``None`` to take this session's
            calm speed, at which the drift is as low as in a tenth of the visits.
        contaminated: layers whose rejected visits had to be accepted.
        kinds: of work, by layer: what chains make of one layer's latency they make of others of its kind.
        offsets: that, by kind, where these visits do not tell.
        curves: layers that are to be compared with each other, though only some of them stood in networks. What chains
            made of one alone is not to come between two of them.
        of_samples: whether those networks are samples of a space: then what a curve's layers took in chains counts, but
            for what chains make of their kind. Otherwise they are the user's own, and a curve is brought to that layer
            of it that stands there.
    """
    # Preflight's visits stand by themselves: many in a row, with no other layer to see the drift by.
    rounds = [visit for visit in accepted if visit.entry != PREFLIGHT_ENTRY]
    visits = sorted(rounds, key=lambda visit: (visit.process, visit.at_s))
    if not visits:
        return Judgement({}, {}, {}, Spread(common_drift=0.0, scale=0.0, process=0.0), 0.0, 0, {})
    # A layer that stood in networks and in chains is two at first: its contexts are not alike.
    sorts, sort = np.unique([2 * visit.entry + visit.chained for visit in visits], return_inverse=True)
    entries, entry_of = np.unique(sorts // 2, return_inverse=True)
    groups = entry_of[sort]
    process = np.array([visit.process for visit in visits], dtype=np.int64)
    at_s = np.array([visit.at_s for visit in visits])
    logs = np.log([visit.ms for visit in visits])
    found = remove_drift(
        logs, sort, process, window=protocol.drift_window, walks=_walks(visits, in_networks=sorts[sort] % 2 == 0)
    )
    contexts = _contexts(logs, found, sort, sorts, kinds, offsets, curves, of_samples=of_samples)
    drift = found.total + contexts.offsets[sort]
    aside = [2 * entry for entry in _in_both(sorts, curves)] if of_samples else []
    if aside:
        kept = np.flatnonzero(~np.isin(sorts[sort], aside))
        visits = [visits[i] for i in kept]
        logs, drift, at_s = logs[kept], drift[kept], at_s[kept]
        sort, groups, process = sort[kept], groups[kept], process[kept]
    levels = grouped_median(logs - drift, groups, len(entries))

    sentinels = [i for i, entry in enumerate(entries) if entry < 0]
    calm = float(np.quantile(found.common, CALM_QUANTILE))
    if references is None:
        references = {int(entries[i]): exp(levels[i] + calm) for i in sentinels}
    shifts = [levels[i] - log(references[int(entries[i])]) for i in sentinels if int(entries[i]) in references]
    shift = float(np.mean(shifts)) if shifts else -calm
    corrected = logs - drift - shift

    noise = corrected - (levels - shift)[groups]
    rho = pooled_autocorrelation(noise, groups)
    process_spread = _interaction(noise, groups, process)
    spread = Spread(
        common_drift=_rounded(min(float(np.std(found.common)), LARGEST_SPREAD)),
        scale=_rounded(
            min(max(_scale_spread(noise, entries[groups] < 0, process, at_s, shifts), LEAST_SCALE), LARGEST_SPREAD)
        ),
        process=_rounded(min(process_spread, LARGEST_SPREAD)),
        context=_rounded(min(_typical(contexts.unknown), LARGEST_SPREAD)),
    )
    divisors = np.exp(drift + shift)

    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(len(entries) + 1))
    by_entry = [order[bounds[i] : bounds[i + 1]] for i in range(len(entries))]
    own = np.array([trimmed_variance(corrected[members].tolist()) for members in by_entry])
    prior = fit_prior(own[:, 0], own[:, 1])
    layers: dict[int, LayerJudgement] = {}
    for i, entry in enumerate(entries):
        if entry < 0:
            continue
        members = by_entry[i]
        layers[int(entry)] = _judge_layer(
            [visits[j] for j in members],
            [float(f"{divisors[j]:.6g}") for j in members],
            protocol,
            spread,
            rho=rho,
            other_state=len(shifts) >= 2 and float(np.std(shifts, ddof=1)) > OTHER_STATE,
            own=(float(own[i, 0]), float(own[i, 1])),
            prior=prior,
            chain_spread=max((float(contexts.spread[j]) for j in np.unique(sort[members])), default=0.0),
            unknown=max((float(contexts.unknown[j]) for j in np.unique(sort[members])), default=0.0),
            contaminated=int(entry) in contaminated,
        )
    return Judgement(
        layers=layers,
        sentinel_ms={int(entries[i]): exp(levels[i]) for i in sentinels},
        references=dict(references),
        spread=spread,
        autocorrelation=rho,
        factors=found.factors,
        chains=contexts.kinds,
    )


def _walks(visits: Sequence[Visit], *, in_networks: NDArray[np.bool_]) -> Ints | None:
    """Return which walk along a network each visit was part of, −1 for none; ``None`` where no layer stood in chains.

    Visits of one walk have one time. Without chains there is nothing that networks stand beside.
    """
    if not any(visit.chained and visit.entry >= 0 for visit in visits):
        return None
    times = np.array([(visit.process, visit.at_s) for visit in visits])
    starts = np.concatenate([[True], np.any(times[1:] != times[:-1], axis=1)])
    number = np.cumsum(starts) - 1
    sizes = np.bincount(number, in_networks)
    return np.where(in_networks & (sizes[number] >= LEAST_WALK), number, -1)


def _in_both(sorts: Ints, curves: Sequence[Sequence[int]]) -> list[int]:
    """Return those of the curves' layers that stood in chains and in networks."""
    known = set(sorts.tolist())
    return [entry for curve in curves for entry in curve if {2 * entry, 2 * entry + 1} <= known]


def _contexts(
    logs: Floats,
    fitted: Drift,
    sort: Ints,
    sorts: Ints,
    kinds: Mapping[int, str],
    known: Mapping[str, Offset],
    curves: Sequence[Sequence[int]],
    *,
    of_samples: bool,
) -> Contexts:
    """Return what is to be taken off the levels of visits in chains to have them as in networks, shapes ``(S,)``."""
    offsets, spread, unknown = np.zeros((3, len(sorts)))
    # Sentinels and companions stand in chains in every session, and are held against these.
    layers = np.unique(sorts[sorts >= 0] // 2)
    place = {int(number): i for i, number in enumerate(sorts)}
    counts = np.bincount(sort, minlength=len(sorts))
    levels = fitted.levels
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(logs - fitted.total - levels[sort])))
    found = np.full((2, 2, len(layers)), np.nan)
    for i, layer in enumerate(layers):
        for chained in (0, 1):
            at = place.get(2 * int(layer) + chained)
            if at is not None and counts[at] >= LEAST_VISITS:
                found[:, chained, i] = levels[at], MEDIAN_EFFICIENCY * max(sigma, 1e-9) / sqrt(counts[at])
    (chained, chained_error), (placed, placed_error) = found[:, 1], found[:, 0]
    number = {int(layer): i for i, layer in enumerate(layers)}
    members = [[number[entry] for entry in curve if entry in number] for curve in curves]
    swept = frozenset(i for curve in members for i in curve) if of_samples else frozenset[int]()
    by_layer = chain_offsets(
        chained,
        placed,
        chained_error,
        placed_error,
        [kinds.get(int(layer), "") for layer in layers],
        known,
        shared_error=fitted.walk_error,
        alike=np.isin(np.arange(len(layers)), list(swept)),
        curves=() if of_samples else members,
    )
    for i, layer in enumerate(layers):
        at = place.get(2 * int(layer) + 1)
        if at is not None:
            offsets[at], spread[at] = by_layer.offsets[i], by_layer.spread[i]
            unknown[at] = 0.0 if 2 * int(layer) in place and i not in swept else by_layer.unknown[i]
    return Contexts(offsets, spread, unknown, by_layer.kinds if np.any(sorts[sorts >= 0] % 2) else {})


def _typical(unknown: Floats) -> float:
    """Return the standard deviation behind the typical variance of those of which something is unknown."""
    some = unknown[unknown > 0]
    return sqrt(float(np.median(some))) if some.size else 0.0


def _interaction(noise: Floats, groups: Ints, process: Ints) -> float:
    """Return the standard deviation between processes of a layer's level, the noise of its visits taken off."""
    cells, cell, counts = np.unique(np.stack([groups, process]), axis=1, return_inverse=True, return_counts=True)
    cell = cell.ravel()
    low, high = np.quantile(noise, [0.02, 0.98])
    clipped = np.clip(noise, low, high)
    means = np.bincount(cell, clipped) / counts
    usable = counts >= 2
    layers_with_two = np.bincount(cells[0][usable], minlength=int(groups.max()) + 1) >= 2
    usable &= layers_with_two[cells[0]]
    if usable.sum() < 4:
        return 0.0
    within = clipped - means[cell]
    inner = np.bincount(cell, within**2)[usable] / (counts[usable] - 1)
    layer_of = cells[0][usable]
    sizes = np.bincount(layer_of)
    layer_means = np.bincount(layer_of, means[usable]) / np.maximum(sizes, 1)
    deviations = means[usable] - layer_means[layer_of]
    between = float(np.sum(deviations**2) / max(1.0, float(np.sum(sizes[sizes > 0] - 1))))
    return sqrt(max(0.0, between - float(np.mean(inner / counts[usable]))))


def _scale_spread(
    noise: Floats, is_sentinel: NDArray[np.bool_], process: Ints, at_s: Floats, shifts: Sequence[float]
) -> float:
    """Return how far, in log(ms), the sentinels may be off as the measure of all layers' speed.

    Two signs of it, added in squares: how their distance from the other layers moves from one stretch of the session
    to the next, and how far they disagree among themselves about this session's speed against the reference.
    """
    if is_sentinel.sum() < 2 or is_sentinel.all():
        return 0.0
    chunk = process * 1_000_000 + (at_s // CHUNK_S).astype(np.int64)
    distances, errors = [], []
    for number in np.unique(chunk):
        here = chunk == number
        mine, others = noise[here & is_sentinel], noise[here & ~is_sentinel]
        if mine.size >= 3 and others.size >= 3:
            distances.append(float(np.median(mine) - np.median(others)))
            errors.append(1.57 * float(np.var(mine)) / mine.size)
    moved = 0.0
    if len(distances) >= 2:
        moved = max(0.0, float(np.var(distances, ddof=1)) - float(np.mean(errors)))
    disagreement = float(np.var(shifts, ddof=1)) if len(shifts) >= 2 else 0.0
    return sqrt(moved + disagreement)


def _judge_layer(
    visits: list[Visit],
    drift: list[float],
    protocol: Protocol,
    spread: Spread,
    *,
    rho: float,
    other_state: bool,
    own: tuple[float, float],
    prior: Prior,
    chain_spread: float,
    unknown: float,
    contaminated: bool,
) -> LayerJudgement:
    """Return what a layer's visits say.

    ``own``: the variance of one, in log(ms), and its degrees of freedom; ``chain_spread``: that of what chains make of
    layers of its kind, and ``unknown`` that of what chains may have made of this one.
    """
    corrected = [visit.ms / divisor for visit, divisor in zip(visits, drift, strict=True)]
    middle = trimmed_mean(corrected)
    autocorrelated = rho > AUTOCORRELATED
    level = STRICT_LEVEL if autocorrelated else protocol.level
    in_chains = sum(visit.chained for visit in visits)
    independent = independent_visits(in_chains, len(visits) - in_chains, chain_spread, own[0])
    # Neighbouring visits that resemble each other carry the information of fewer.
    independent = max(1.0, independent * (1 - max(rho, 0.0)) / (1 + max(rho, 0.0)))
    half = moderated_half_width(*own, independent, prior, level)
    # Of one or two layers, visited once, nothing is known but that.
    reached = 0.0 if half is None else level
    processes = len({visit.process for visit in visits})
    reach = NormalDist().inv_cdf(0.5 + level / 2)
    # The visits tell their own noise; a process's luck is the same for all of its visits, and shrinks with the number
    # of processes only. Both are added in squares.
    half = min(hypot(half or 0.0, reach * spread.process / sqrt(processes)), LARGEST_LOG)
    low = max(middle * exp(-half), min(middle, NEXT_TO_NOTHING_MS))
    high = min(middle * exp(half), LARGEST_MS)
    half_width = (high - low) / 2 / middle
    at_resolution = sum(visit.unresolved for visit in visits) > UNRESOLVED_SHARE * len(visits)
    flags: list[Flag] = []
    if half_width <= protocol.target_precision and reached >= protocol.level and not at_resolution:
        flags.append("converged")
    if contaminated:
        flags.append("contaminated")
    if bimodal_split(corrected):
        flags.append("bimodal")
    if autocorrelated:
        flags.append("autocorrelated")
    if other_state:
        flags.append("other_state")
    if _drifts(corrected, protocol.target_precision):
        flags.append("drifting")
    if at_resolution:
        flags.append("at_resolution")
    if sum(visit.late for visit in visits) > len(visits) / 2:
        flags.append("warmup_not_steady")
    if float(np.median([visit.faults for visit in visits])) >= 1:
        flags.append("page_faults")

    error = half / reach
    # Both this session and the other one err, and so do their scales; in that one the layer may stand in a network.
    variance = 2 * (error**2 + spread.scale**2) + unknown
    reach = exp(min(NormalDist().inv_cdf(0.5 + protocol.level / 2) * sqrt(variance), LARGEST_LOG))
    # Of very few visits in a wild hour the reach has no bounds; the file's numbers have.
    least = max(middle / reach, NEXT_TO_NOTHING_MS) if middle > NEXT_TO_NOTHING_MS else middle
    most = min(middle * reach, LARGEST_MS)
    if at_resolution:
        # Visits that found a difference of nothing, or less, count as the least that can be told from it. That leaves
        # the median as it is while they are few; from below, the value is not known.
        low = least = NEXT_TO_NOTHING_MS
    return LayerJudgement(
        visits=visits,
        drift=drift,
        median_ms=_rounded(middle),
        raw_median_ms=_rounded(float(np.median([visit.ms for visit in visits]))),
        within_run=Interval(low_ms=_rounded(low), high_ms=_rounded(high), level=round(reached, 4)),
        across_runs=Interval(low_ms=_rounded(least), high_ms=_rounded(most), level=protocol.level),
        half_width=half_width,
        flags=tuple(flags),
    )


def _drifts(corrected: Sequence[float], precision: float) -> bool:
    """Return whether the second half lies apart from the first, clearly and by more than the precision asked for.

    Mann and Whitney's test at 0.1 %, by its normal approximation: with hundreds of layers, a looser one would flag
    some by chance.
    """
    n = len(corrected)
    if n < 12:
        return False
    values = np.asarray(corrected)
    first, second = values[: n // 2], values[n - n // 2 :]
    if abs(log(float(np.median(second)) / float(np.median(first)))) <= precision:
        return False
    above = float(np.sum(second[:, None] > first[None, :]) + 0.5 * np.sum(second[:, None] == first[None, :]))
    m = n // 2
    z = (above - m * m / 2) / sqrt(m * m * (2 * m + 1) / 12)
    return abs(z) > NormalDist().inv_cdf(1 - 0.0005)


def _rounded(value: float) -> float:
    """Return six significant digits: far below any noise, and half the size of the file."""
    return float(f"{value:.6g}")

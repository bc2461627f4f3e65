"""From sums of layers to whole networks: few, non-negative parameters, chosen by cross-validation.

Whatever is fitted stays a sum over layers, so that it goes into a compiled space's arrays like the latencies do.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from scipy.optimize import nnls

from predictors._folds import folds

__all__ = ["FORMS", "GROUPS", "UNCALIBRATED", "Calibration", "Form", "fit_calibration", "group_of_kind"]

Floats = NDArray[np.float64]
Group: TypeAlias = Literal["convolution", "pointwise", "depthwise", "rest"]
Form: TypeAlias = Literal["sum", "scaled", "scaled + calls", "scaled + calls + weights", "groups", "groups + calls"]

# Layers that a runtime treats alike, and of which a network may see another share of what they take by themselves.
GROUPS: tuple[Group, ...] = ("convolution", "pointwise", "depthwise", "rest")
# What each form fits: a scale for all layers or one per group; so much per call; so much per million weights.
FORMS: dict[Form, tuple[bool, bool, bool]] = {
    "sum": (False, False, False),
    "scaled": (False, False, False),
    "scaled + calls": (False, True, False),
    "scaled + calls + weights": (False, True, True),
    "groups": (True, False, False),
    "groups + calls": (True, True, False),
}
# Networks without which a form with so many parameters is not tried.
NETWORKS_PER_PARAMETER = 3
# A form with more parameters must be better by this share of the error, or the simpler one stays.
WORTH = 0.03
# How strongly group scales are drawn to the common one: as by a network that says so with this share of a network's
# weight. Networks are known to some 2 %, and scales differ by some 30 %.
PULL = 0.07
# No group's scale is below this share of the common one.
LEAST_SCALE = 0.5
# And the common one is not below this: a layer takes at least a tenth of what it takes by itself.
LEAST_COMMON = 0.1
FOLDS = 10
# What a layer contributes at the least, though its group's scale were 0.
LEAST_MS = 1e-12


NotNegative: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """whole = Σ count · (scale[group] · ms + per_call_ms + per_weight_ms · weights), over a network's layers.

    Args:
        form: which parameters were fitted.
        scales: one per group of :data:`GROUPS`.
        per_call_ms: for every call of a layer.
        per_weight_ms: for every million of its parameters.
        networks: how many it was fitted to; 0: nothing was, the sum is the sum.
        shortest_ms: that is predicted of these networks; in files of earlier versions, that was measured.
        longest_ms: likewise.
    """

    form: Form
    scales: Annotated[tuple[NotNegative, ...], Meta(min_length=len(GROUPS), max_length=len(GROUPS))]
    per_call_ms: NotNegative
    per_weight_ms: NotNegative
    networks: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    shortest_ms: NotNegative = 0.0
    longest_ms: NotNegative = 0.0

    def apply(self, ms: float, group: int, weights: float) -> float:
        """Return what one layer contributes to a network, in ms: more than nothing."""
        return max(self.scales[group] * ms + self.per_call_ms + self.per_weight_ms * weights, LEAST_MS)


# What stands where no whole network was measured: the sum is the sum.
UNCALIBRATED = Calibration(form="sum", scales=(1.0,) * len(GROUPS), per_call_ms=0.0, per_weight_ms=0.0)


def group_of_kind(kind: str) -> int:
    """Return the index in :data:`GROUPS` of a layer's kind (see :func:`predictors._features.kind_of`)."""
    first = kind.split(" + ")
    if any("depthwise conv2d" in word for word in first):
        return 2
    if any(word.startswith("conv2d 1×1/") for word in first):
        return 1
    return 0 if any("conv2d" in word for word in first) else 3


def fit_calibration(terms: Floats, whole_ms: Floats) -> Calibration:
    """Fit all forms, and return the one that predicts best those networks that it was not fitted to.

    Args:
        terms: of each network, shape ``(n, 6)``: the sum of ms of each group's layers, the number of calls, and the
            sum of weights in millions.
        whole_ms: what each takes as a whole, shape ``(n,)``.
    """
    count = len(whole_ms)
    best, best_score = UNCALIBRATED, _score(np.log(whole_ms / terms[:, : len(GROUPS)].sum(axis=1)))
    for form in FORMS:
        columns = _design(form, terms)
        if form == "sum" or count < 3 or count < NETWORKS_PER_PARAMETER * _free(form):
            continue
        errors = np.empty(count)
        for held in folds(np.arange(count), FOLDS):
            solution = _solve(form, columns[~held], whole_ms[~held])
            errors[held] = np.log(whole_ms[held] / np.maximum(columns[held] @ solution, 1e-12))
        score = _score(errors)
        if score < best_score * (1 - WORTH):
            best, best_score = _made(form, _solve(form, columns, whole_ms)), score
    return msgspec.structs.replace(best, networks=count)


def _score(errors: Floats) -> float:
    return float(np.mean(np.abs(np.expm1(-errors))))


def _free(form: Form) -> int:
    grouped, calls, weights = FORMS[form]
    return (len(GROUPS) if grouped else 1) + calls + weights


def _design(form: Form, terms: Floats) -> Floats:
    grouped, calls, weights = FORMS[form]
    sums = terms[:, : len(GROUPS)]
    parts = [sums if grouped else sums.sum(axis=1, keepdims=True)]
    if calls:
        parts.append(terms[:, [len(GROUPS)]])
    if weights:
        parts.append(terms[:, [len(GROUPS) + 1]])
    return np.hstack(parts)


def _solve(form: Form, columns: Floats, whole_ms: Floats) -> Floats:
    """Return the non-negative parameters with the least squared relative error."""
    relative = columns / whole_ms[:, None]
    ones = np.ones(len(whole_ms))
    floor = np.zeros(columns.shape[1])
    if not FORMS[form][0]:
        # No layer is free, whatever the number of calls or weights explains.
        floor[0] = LEAST_COMMON
        return np.asarray(floor + nnls(relative, ones - relative @ floor)[0])
    # Group scales are drawn to the common one, and never below a part of it: a group that hardly occurs is not told
    # apart by noise.
    groups = len(GROUPS)
    common = _solve("scaled", columns[:, :groups].sum(axis=1, keepdims=True), whole_ms)[0]
    floor[:groups] = LEAST_SCALE * common
    pull = np.zeros((groups, columns.shape[1]))
    np.fill_diagonal(pull, PULL / common)
    rows = np.vstack([relative, pull])
    wanted = np.concatenate([ones, np.full(groups, PULL)])
    return np.asarray(floor + nnls(rows, wanted - rows @ floor)[0])


def _made(form: Form, solution: Floats) -> Calibration:
    grouped, calls, weights = FORMS[form]
    width = len(GROUPS) if grouped else 1
    scales = solution[:width] if grouped else np.repeat(solution[:1], len(GROUPS))
    rest = list(solution[width:])
    return Calibration(
        form=form,
        scales=tuple(float(scale) for scale in scales),
        per_call_ms=float(rest.pop(0)) if calls else 0.0,
        per_weight_ms=float(rest.pop(0)) if weights else 0.0,
    )

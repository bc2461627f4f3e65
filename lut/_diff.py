"""Comparing two tables of one device and setting, layer by layer, at a stated family-wise level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, log, sqrt
from statistics import NormalDist, median
from typing import Literal, NamedTuple

from lut._layer import Layer
from lut._level import check_level
from lut._option_names import option_text
from lut._records import Measurement
from lut._statistics import log_standard_error
from lut._suggest import as_share
from lut._table import LatencyTable, refuse_unlike
from lut.errors import TableError, UsageError

__all__ = ["LayerDifference", "TableDifference", "Verdict", "compare_tables"]

Verdict = Literal["same", "faster", "slower", "undecided"]


class LayerDifference(NamedTuple):
    """One layer in both tables; ``ratio`` is second / first, and ``verdict`` speaks of the second."""

    layer: Layer
    first_ms: float
    second_ms: float
    ratio: float
    verdict: Verdict


class TableDifference(NamedTuple):
    """What two tables say of each other.

    ``level`` is the probability that *every* verdict faster, slower and same is right; ``margin`` the relative
    difference up to which layers count as the same; ``common_factor`` the median ratio second / first.
    """

    level: float
    margin: float
    common_factor: float
    layers: tuple[LayerDifference, ...]
    only_first: tuple[Layer, ...]
    only_second: tuple[Layer, ...]

    def count(self, verdict: Verdict) -> int:
        """Return how many layers have this verdict."""
        return sum(item.verdict == verdict for item in self.layers)


def compare_tables(
    first: LatencyTable,
    second: LatencyTable,
    *,
    level: float = 0.95,
    margin: float = 0.1,
    across: Iterable[str] = (),
) -> TableDifference:
    """Compare the layers that both tables hold.

    The error of a ratio is taken from both ``across_runs`` intervals, since the tables come from different runs. A
    layer is *faster* or *slower* where a z-test of log(ratio) = 0 rejects, *same* where two one-sided tests place the
    ratio within 1 ± ``margin`` (TOST, Schuirmann 1987), and *undecided* otherwise. Each of the two families of tests
    gets half of 1 − ``level`` and is corrected over the layers by Holm's method (1979).

    Raises:
        UnlikeTablesError: device or setting differ, and ``across`` does not name it.
        TableError: the tables have no layer in common.
        UsageError: ``level`` or ``margin`` is out of range.
    """
    check_level(level, least=0.5)
    if not 0 < margin < 1:
        raise UsageError(f"{option_text('margin')} is between 0 and 1, got {margin:g}{as_share(margin, 0, 1)}")
    refuse_unlike(first, second, across=across, what="compare")
    both = [layer for layer in first if layer in second]
    if not both:
        raise TableError("the tables have no layer in common")
    logs = [log(second[layer].median_ms / first[layer].median_ms) for layer in both]
    errors = [_ratio_error(first[layer], second[layer]) for layer in both]
    normal = NormalDist()
    edge = log(1 + margin)
    different = _holm([2 * normal.cdf(-abs(x) / e) for x, e in zip(logs, errors, strict=True)], (1 - level) / 2)
    alike = _holm([normal.cdf((abs(x) - edge) / e) for x, e in zip(logs, errors, strict=True)], (1 - level) / 2)
    layers = []
    for layer, x, is_different, is_alike in zip(both, logs, different, alike, strict=True):
        verdict: Verdict = "undecided"
        if is_alike:
            verdict = "same"
        elif is_different:
            verdict = "slower" if x > 0 else "faster"
        layers.append(LayerDifference(layer, first[layer].median_ms, second[layer].median_ms, exp(x), verdict))
    return TableDifference(
        level=level,
        margin=margin,
        common_factor=exp(median(logs)),
        layers=tuple(layers),
        only_first=tuple(layer for layer in first if layer not in second),
        only_second=tuple(layer for layer in second if layer not in first),
    )


def _ratio_error(first: Measurement, second: Measurement) -> float:
    """Return the standard error of log(second / first).

    ``across_runs`` says where *another* run's median lies, so its variance is already that of a difference of two
    runs: the two tables' answers are averaged, not added.
    """
    variances = [
        log_standard_error(m.across_runs.low_ms, m.across_runs.high_ms, m.across_runs.level) ** 2
        for m in (first, second)
    ]
    return max(sqrt(sum(variances) / 2), 1e-9)


def _holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Return which hypotheses Holm's step-down method rejects at family-wise error ``alpha``."""
    rejected = [False] * len(p_values)
    for step, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > alpha / (len(p_values) - step):
            break
        rejected[i] = True
    return rejected

"""Trimmed means, and intervals whose width all layers help to tell."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from conftest import curve_of, simulate, table_of
from scipy import special, stats

from lut._statistics import trimmed_mean, trimmed_variance
from profiler import FakeTarget
from profiler._judge import judge
from profiler._moderation import LEAST_VARIANCE, Prior, fit_prior, half_width, trigamma_inverse
from profiler._plan import make_protocol
from profiler._visit import Visit


def test_a_trimmed_mean_leaves_out_a_fifth_at_either_end() -> None:
    assert trimmed_mean([5.0]) == 5.0
    assert trimmed_mean([1.0, 2.0, 3.0, 4.0]) == 2.5
    assert trimmed_mean([1.0, 2.0, 3.0, 4.0, 100.0]) == 3.0
    assert trimmed_mean([100.0, *range(1, 10)]) == pytest.approx(np.mean([3, 4, 5, 6, 7, 8]))
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 37)
    assert trimmed_mean(values.tolist()) == pytest.approx(stats.trim_mean(values, 0.2))


def test_its_variance_is_that_of_a_single_value() -> None:
    assert trimmed_variance([3.0]) == (0.0, 0)
    assert trimmed_variance([3.0, 5.0]) == (pytest.approx(2.0), 1)
    rng = np.random.default_rng(1)
    samples = rng.normal(0, 2.0, (2000, 20))
    errors = [trimmed_mean(sample.tolist()) for sample in samples]
    claimed = [trimmed_variance(sample.tolist()) for sample in samples]
    assert {df for _, df in claimed} == {11}
    assert np.mean([variance for variance, _ in claimed]) / 20 == pytest.approx(np.var(errors), rel=0.1)
    # It is a little less efficient than the mean, and far more than the median (1.57).
    assert 20 * np.var(errors) / 4.0 < 1.25
    assert trimmed_variance([1.0, 1.0, 1.0, 1.0, 1.0, 9.0])[0] == 0.0


def test_the_prior_is_found_again() -> None:
    rng = np.random.default_rng(2)
    d0, s0, d = 9.3, 0.072, 5
    truth = s0**2 * d0 / rng.chisquare(d0, 2000)
    variances = truth * rng.chisquare(d, 2000) / d
    found = fit_prior(variances, np.full(2000, float(d)))
    assert found.df == pytest.approx(d0, rel=0.2)
    assert sqrt(found.variance) == pytest.approx(s0, rel=0.05)
    equal = fit_prior(s0**2 * rng.chisquare(d, 2000) / d, np.full(2000, float(d)))
    assert equal.df > 25
    assert sqrt(equal.variance) == pytest.approx(s0, rel=0.03)


def test_too_few_layers_have_nothing_in_common() -> None:
    assert fit_prior(np.array([1e-3, 2e-3]), np.array([5.0, 5.0])).df == 0
    assert fit_prior(np.array([1e-3, 2e-3, 0.0, 0.0]), np.array([5.0, 5.0, 0.0, 0.0])).df == 0
    assert fit_prior(np.array([]), np.array([])).df == 0
    silent = fit_prior(np.zeros(10), np.full(10, 3.0))
    assert (silent.variance, silent.df) == (pytest.approx(LEAST_VARIANCE, rel=0.5), inf)


@pytest.mark.parametrize("value", [1e-9, 1e-3, 0.1, 1.0, 50.0, 1e9])
def test_trigamma_is_inverted(value: float) -> None:
    assert float(special.polygamma(1, trigamma_inverse(value))) == pytest.approx(value, rel=1e-3)


def test_half_widths() -> None:
    none = Prior(1e-4, 0.0)
    assert half_width(0.0, 0, 1, none, 0.95) is None
    assert half_width(4e-4, 7, 8, none, 0.95) == pytest.approx(stats.t.ppf(0.975, 7) * sqrt(4e-4 / 8))
    assert half_width(9.0, 0, 1, Prior(4e-4, 10.0), 0.95) == pytest.approx(stats.t.ppf(0.975, 10) * 0.02)
    assert half_width(9.0, 3, 4, Prior(4e-4, inf), 0.95) == pytest.approx(1.95996 * 0.01, rel=1e-4)
    both = half_width(1e-4, 5, 6, Prior(4e-4, 10.0), 0.95)
    assert both == pytest.approx(stats.t.ppf(0.975, 15) * sqrt((10 * 4e-4 + 5 * 1e-4) / 15 / 6))


def coverage(layers: int, visits: int, spread: float, *, seed: int) -> tuple[float, float, float]:
    """Return how often intervals hold the truth and their median half-width, with noise that differs between layers;
    and the half-width that the layers' own visits give alone.
    """
    rng = np.random.default_rng(seed)
    sigma = 0.07 * np.exp(rng.normal(0, spread, layers))
    made = [
        Visit(i, 0, r + i / layers, float(np.exp(rng.normal(0, sigma[i]))), None, False, 0.0, 1)
        for r in range(visits)
        for i in rng.permutation(layers).tolist()
    ]
    found = judge(made, make_protocol(), references={}).layers
    alone = [
        half_width(*trimmed_variance(np.log([v.ms for v in found[i].visits]).tolist()), visits, Prior(1.0, 0.0), 0.95)
        for i in range(layers)
    ]
    # One factor for all is the machine's.
    common = float(np.median([np.log(x.median_ms) for x in found.values()]))
    held = [x.within_run.low_ms <= np.exp(common) <= x.within_run.high_ms for x in found.values()]
    return float(np.mean(held)), float(np.median([x.half_width for x in found.values()])), float(np.median(alone))


@pytest.mark.parametrize(("visits", "spread"), [(6, 0.0), (6, 0.4), (8, 0.3), (24, 0.3)])
def test_moderated_intervals_hold_what_they_promise_and_are_narrow(visits: int, spread: float) -> None:
    held, width, alone = coverage(300, visits, spread, seed=visits)
    assert 0.93 <= held <= 0.98
    if visits <= 8:
        assert width < 0.9 * alone


def test_a_table_says_what_its_values_are(tmp_path: object) -> None:
    from pathlib import Path

    plan, result, _ = simulate(curve_of(range(8, 14)).layers, target=FakeTarget(spike_share=0.1, sigma=0.03))
    table = table_of(plan, result, Path(str(tmp_path)) / "r.json")
    assert table.sessions[0].estimator == "trimmed mean"
    for m in table.values():
        assert m.median_ms == pytest.approx(trimmed_mean(m.corrected_ms), rel=1e-4)

"""The statistics in the lowest floor, against tables and simulation."""

from __future__ import annotations

import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut._statistics import attained_level, bimodal_split, median_interval, median_rank, quantile

# Ranks k and exact levels for n visits, computed independently from the binomial distribution.
RANKS_95 = {6: 1, 8: 1, 9: 2, 11: 2, 12: 3, 16: 4, 24: 7, 32: 10, 48: 17, 64: 24}
RANKS_99 = {6: 0, 8: 1, 9: 1, 11: 1, 12: 2, 16: 3, 24: 6, 32: 9, 48: 15, 64: 22}
LEVELS_95 = {6: 0.969, 8: 0.992, 12: 0.961, 24: 0.977, 64: 0.967}


@pytest.mark.parametrize("n", RANKS_95)
def test_ranks_are_those_of_the_binomial(n: int) -> None:
    assert median_rank(n, 0.95) == RANKS_95[n]
    assert median_rank(n, 0.99) == RANKS_99[n]


@pytest.mark.parametrize("n", LEVELS_95)
def test_attained_levels(n: int) -> None:
    assert attained_level(n, RANKS_95[n]) == pytest.approx(LEVELS_95[n], abs=5e-4)


@pytest.mark.parametrize("n", [6, 12, 24, 48])
def test_the_interval_holds_the_median_as_often_as_it_says(n: int) -> None:
    rng = random.Random(1)
    hits = 0
    for _ in range(2000):
        low, high, _ = median_interval([rng.lognormvariate(0, 0.5) for _ in range(n)], 0.95)
        hits += low <= 1.0 <= high
    assert 0.94 <= hits / 2000 <= 0.995


def test_too_few_values_give_a_lower_level_and_say_so() -> None:
    low, high, level = median_interval([3.0, 1.0, 2.0], 0.95)
    assert (low, high) == (1.0, 3.0)
    assert level == pytest.approx(0.75)
    assert median_interval([1.0], 0.95) == (1.0, 1.0, 0.0)


def test_autocorrelation_widens_the_interval() -> None:
    values = [float(i) for i in range(32)]
    plain = median_interval(values, 0.95)
    widened = median_interval(values, 0.95, autocorrelation=0.5)
    assert widened[0] < plain[0] < plain[1] < widened[1]


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200), st.floats(0.5, 0.999), st.floats(0, 0.9))
def test_the_interval_always_holds_the_sample_median(values: list[float], level: float, rho: float) -> None:
    low, high, reached = median_interval(values, level, autocorrelation=rho)
    assert low <= median(values) <= high
    assert 0 <= reached <= level


def test_two_modes_are_seen_and_one_is_not() -> None:
    rng = random.Random(2)
    one = [rng.gauss(1.0, 0.02) for _ in range(24)]
    two = [rng.gauss(1.0, 0.005) for _ in range(12)] + [rng.gauss(1.2, 0.005) for _ in range(12)]
    assert bimodal_split(one) is None
    split = bimodal_split(two)
    assert split is not None
    assert (split[0][1], split[1][1]) == (12, 12)
    assert split[0][0] == pytest.approx(1.0, abs=0.01)
    assert split[1][0] == pytest.approx(1.2, abs=0.01)
    assert bimodal_split([*one, 2.0]) is None


@pytest.mark.parametrize(("n", "seen"), [(8, 0.75), (12, 0.85), (24, 0.97), (128, 1.0)])
def test_modes_are_seen_however_many_values_fill_the_gap_between_them(n: int, seen: float) -> None:
    rng = random.Random(n)
    two = [[rng.gauss(1.0, 0.012) * (1.1 if rng.random() < 0.5 else 1.0) for _ in range(n)] for _ in range(300)]
    assert sum(bimodal_split(values) is not None for values in two) >= seen * 300
    single = {
        "normal": [[rng.gauss(1.0, 0.05) for _ in range(n)] for _ in range(300)],
        "uniform": [[rng.uniform(0.9, 1.1) for _ in range(n)] for _ in range(300)],
        "skewed": [[rng.lognormvariate(0.0, 0.3) for _ in range(n)] for _ in range(300)],
    }
    for name, samples in single.items():
        assert sum(bimodal_split(values) is not None for values in samples) <= 0.1 * 300, name


def test_quantile_interpolates() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert quantile([5.0], 0.9) == 5.0

"""The perceptrons: scikit-learn's contract, stairs, seeds, early stopping, and members that disagree in the dark."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from predictors import ExtrapolationWarning, LatencyMLP

Floats = np.ndarray[Any, np.dtype[np.float64]]


def stairs(widths: Floats, tile: int = 16) -> Floats:
    return np.asarray(0.1 + 0.05 * np.ceil(widths / tile))


def rows_of(widths: Floats, tile: int = 16) -> Floats:
    """Return a width, and how it sits on the tile, as layers' features have it."""
    return np.column_stack([np.log2(widths), np.log2(np.ceil(widths / tile) * tile / widths), widths % tile / tile])


def small(**options: Any) -> LatencyMLP:
    return LatencyMLP(**{"hidden": (16,), "members": 2, "max_epochs": 300, **options})


@parametrize_with_checks([small()])
def test_it_passes_scikit_learns_checks(estimator: LatencyMLP, check: Any) -> None:
    check(estimator)


def test_it_follows_a_staircase() -> None:
    rng = np.random.default_rng(0)
    widths = np.arange(1, 129, dtype=np.float64)
    seen = np.union1d(rng.permutation(widths)[:90], [1, 15, 16, 17, 128])
    ms = stairs(seen) * np.exp(rng.normal(0, 0.01, len(seen)))
    found = LatencyMLP(hidden=(64, 64), members=3, max_epochs=800).fit(rows_of(seen), ms).predict(rows_of(widths))
    unseen = ~np.isin(widths, seen)
    assert np.mean(np.abs(found[unseen] / stairs(widths[unseen]) - 1)) < 0.05
    # A jump at the stair, and none within it.
    after, before, within = found[widths == 49][0], found[widths == 48][0], found[widths == 40][0]
    assert after / before > 1 + 0.5 * 0.05 / 0.25
    assert abs(before / within - 1) < 0.06


def test_errors_are_relative_so_that_the_short_count_as_the_long() -> None:
    x = np.linspace(0, 1, 80)[:, None]
    ms = 10.0 ** (4 * x[:, 0] - 3)
    found = small(hidden=(32,), max_epochs=600).fit(x, ms).predict(x)
    off = np.abs(found / ms - 1)
    assert off[:20].mean() < 0.1
    assert off[-20:].mean() < 0.1
    assert (found > 0).all()


def test_outside_what_it_saw_its_members_disagree() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (80, 3))
    model = small(members=4).fit(x, np.exp(np.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2]))
    inside = model.predict_log(x)[1].mean()
    outside = model.predict_log(x + 5)[1].mean()
    assert outside > 5 * inside


def test_outside_the_range_that_it_saw_it_says_so() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (60, 2))
    model = small(members=1).fit(x, np.exp(x[:, 0]))
    model.predict(x)
    with pytest.warns(ExtrapolationWarning, match="2 of 3 rows lie outside the fitted range"):
        model.predict([[0.5, 0.5], [0.5, 1.5], [-0.5, 0.5]])


def test_far_outside_it_stays_a_number() -> None:
    x = np.linspace(0, 1, 60)[:, None]
    model = small(members=1).fit(x, np.exp(x[:, 0]))
    for far in (-1e6, 1e6):
        with pytest.warns(ExtrapolationWarning):
            found = model.predict([[far]])
        assert np.isfinite(found).all()
        assert (found > 0).all()


def test_one_seed_gives_one_model_and_another_seed_another() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (40, 3))
    ms = np.exp(x.sum(1))
    first, again, other = (small(random_state=seed).fit(x, ms).predict(x) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_it_leaves_the_global_random_numbers_alone() -> None:
    x = np.linspace(0, 1, 20)[:, None]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global generator is what is looked at
    before = torch.get_rng_state().clone(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]  # noqa: NPY002
    small(max_epochs=20).fit(x, 1 + x[:, 0])
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


def test_shuffled_rows_give_the_same_model() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (40, 3))
    ms = np.exp(x.sum(1))
    order = rng.permutation(40)
    assert np.allclose(small().fit(x, ms).predict(x), small().fit(x[order], ms[order]).predict(x), rtol=1e-5)


def test_it_stops_when_held_out_rows_get_no_better() -> None:
    rng = np.random.default_rng(0)
    x, ms = rng.uniform(0, 1, (60, 5)), np.exp(rng.normal(0, 1, 60))
    model = small(hidden=(64, 64), max_epochs=5000, patience=30).fit(x, ms)
    # Noise cannot be learnt: each member is at its best early, and what came later is thrown away.
    assert max(model.epochs_) < 1000
    assert len(model.epochs_) == 2
    assert np.abs(model.predict_log(x)[0]).max() < 2.5


def test_members_are_as_many_as_asked_for_and_differ() -> None:
    x = np.linspace(0, 1, 30)[:, None]
    model = small(members=5, max_epochs=50).fit(x, 1 + x[:, 0])
    assert all(len(weight) == 5 for weight in model.weights_)
    assert (model.predict_log(x)[1] > 0).all()


def test_few_or_equal_rows_are_fitted_all_the_same() -> None:
    x = np.arange(3, dtype=np.float64)[:, None]
    assert np.isfinite(small().fit(x, np.array([1.0, 2.0, 3.0])).predict(x)).all()
    assert small().fit(x, np.full(3, 2.0)).predict(x) == pytest.approx(np.full(3, 2.0), rel=0.05)


@pytest.mark.parametrize(
    ("parameters", "ms", "problem"),
    [
        ({}, [1.0, 0.0, 1.0], "positive"),
        ({}, [1.0, -2.0, 1.0], "positive"),
        ({}, [1.0, np.nan, 1.0], "NaN"),
        ({}, [1.0, np.inf, 1.0], "infinity"),
        ({"members": 0}, [1.0, 2.0, 3.0], "members"),
        ({"max_epochs": 0}, [1.0, 2.0, 3.0], "max_epochs"),
        ({"validation_fraction": 1.0}, [1.0, 2.0, 3.0], "validation_fraction"),
        ({"validation_fraction": float("nan")}, [1.0, 2.0, 3.0], "validation_fraction"),
        ({"hidden": (0,)}, [1.0, 2.0, 3.0], "hidden"),
    ],
)
def test_bad_latencies_and_parameters_are_refused(parameters: dict[str, Any], ms: list[float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        small(**parameters).fit(np.arange(3.0)[:, None], ms)


def test_features_must_be_numbers_and_as_many_as_before() -> None:
    x = np.linspace(0, 1, 10)[:, None]
    model = small(max_epochs=10)
    with pytest.raises(NotFittedError):
        model.predict(x)
    model.fit(x, 1 + x[:, 0])
    with pytest.raises(ValueError, match="features"):
        model.predict(np.ones((2, 2)))
    with pytest.raises(ValueError, match="NaN"):
        model.predict([[np.nan]])


def test_it_clones_and_survives_a_copy() -> None:
    x = np.linspace(0, 1, 20)[:, None]
    model = small(max_epochs=30, random_state=7).fit(x, 1 + x[:, 0])
    assert clone(model).get_params() == model.get_params()
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(x), model.predict(x))

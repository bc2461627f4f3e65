"""HTAS's law, f(x) = k·x^α + b, and scikit-learn's contract."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from predictors import ExtrapolationWarning, PowerLaw

X = np.arange(1, 33, dtype=float)


def test_it_recovers_a_line() -> None:
    law = PowerLaw().fit(X[:, None], 0.02 * X + 0.1)
    assert (law.k_, law.b_, law.alpha_) == pytest.approx((0.02, 0.1, 1.0))
    assert law.rmse_ == pytest.approx(0, abs=1e-12)
    assert law.valid_range_ == (1.0, 32.0)
    assert law.n_features_in_ == 1


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0, 1.6, 2.5])
def test_auto_recovers_the_exponent(alpha: float) -> None:
    law = PowerLaw(alpha="auto").fit(X, 0.03 * X**alpha + 0.2)
    assert law.alpha_ == pytest.approx(alpha, abs=2e-3)
    assert law.predict([[16.0]])[0] == pytest.approx(0.03 * 16**alpha + 0.2, rel=1e-3)


def test_auto_stays_within_its_bounds() -> None:
    assert PowerLaw(alpha="auto", alpha_bounds=(0.5, 1.2)).fit(X, X**2).alpha_ <= 1.2


def test_it_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    y = 0.02 * X + 0.1 + rng.normal(0, 0.01, X.size)
    k, b = np.polyfit(X, y, 1)
    law = PowerLaw().fit(X, y)
    assert (law.k_, law.b_) == pytest.approx((k, b))


def test_huber_is_moved_less_by_one_stray_value() -> None:
    y = 0.02 * X + 0.1 + 0.001 * np.sin(X)
    y[5] = 3.0
    squared, huber = PowerLaw().fit(X, y), PowerLaw(loss="huber").fit(X, y)
    assert abs(huber.k_ - 0.02) < 0.2 * abs(squared.k_ - 0.02)


def test_predictions_outside_the_range_warn() -> None:
    law = PowerLaw().fit(X, X)
    with pytest.warns(ExtrapolationWarning, match="1 of 2 channel counts lie outside the fitted range 1 … 32"):
        law.predict([[16.0], [64.0]])


def test_parameters_and_clone() -> None:
    law = PowerLaw(alpha="auto", loss="huber", alpha_bounds=(0.1, 2.0))
    assert law.get_params() == {"alpha": "auto", "loss": "huber", "alpha_bounds": (0.1, 2.0)}
    copy = clone(law.fit(X, X))
    assert copy.get_params() == law.get_params()
    assert not hasattr(copy, "k_")
    assert law.set_params(alpha=0.5).alpha == 0.5
    with pytest.raises(ValueError, match="Invalid parameter"):
        law.set_params(beta=1)


def test_not_fitted() -> None:
    with pytest.raises(NotFittedError):
        PowerLaw().predict([[1.0]])


def test_fit_returns_self_and_changes_no_parameter() -> None:
    law = PowerLaw(alpha="auto")
    assert law.fit(X[:, None], X) is law
    assert law.alpha == "auto"


def test_refitting_forgets() -> None:
    law = PowerLaw().fit(X, X)
    assert law.fit(X[:4], 2 * X[:4]).valid_range_ == (1.0, 4.0)


def test_it_works_in_a_grid_search() -> None:
    found = GridSearchCV(PowerLaw(), {"alpha": [0.5, 1.0, 2.0]}, cv=4, error_score="raise")
    with pytest.warns(ExtrapolationWarning):
        found.fit(X[:, None], X)
    assert found.best_params_ == {"alpha": 1.0}


@pytest.mark.parametrize(
    ("parameters", "x", "y"),
    [
        ({"alpha": 0}, X, X),
        ({"alpha": "free"}, X, X),
        ({"alpha": float("nan")}, X, X),
        ({"loss": "cubic"}, X, X),
        ({"alpha_bounds": (2.0, 1.0)}, X, X),
        ({}, [[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0]),
        ({}, [1.0, float("nan")], [1.0, 2.0]),
        ({}, [1.0, 2.0], [1.0, float("inf")]),
        ({}, [1.0, 2.0], [1.0]),
        ({}, [4.0, 4.0], [1.0, 2.0]),
        ({}, [0.0, 4.0], [1.0, 2.0]),
        ({"alpha": "auto"}, [1.0, 2.0], [1.0, 2.0]),
        ({}, [], []),
    ],
)
def test_senseless_input(parameters: dict[str, object], x: object, y: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - scikit-learn's own messages vary with its version
        PowerLaw(**parameters).fit(x, y)  # type: ignore[arg-type]

"""HTAS's latency model over channels, f(x) = k·x^α + b (HTAS eq. 1)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares, minimize_scalar
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted

from predictors._exponent import LARGEST_ALPHA
from predictors._ranges import channels_of, warn_outside

__all__ = ["PowerLaw"]

# Huber's constant: 95 % efficiency for normal residuals (Huber 1964), in units of their standard deviation.
HUBER_THRESHOLD = 1.345
MAD_TO_SIGMA = 1.4826


class PowerLaw(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The power law f(x) = k·x^α + b, by least squares (HTAS eq. 1). Follows scikit-learn's estimator contract. Final.

    Args:
        alpha: the exponent α, fixed (the paper uses 1), or ``"auto"`` to fit it within ``alpha_bounds``.
        loss: ``"squared"`` as in the paper, or ``"huber"``, which gives single stray measurements less weight. The
            stairs of a latency curve are not outliers: prefer ``"squared"`` for a clean table.
        alpha_bounds: the lowest and the highest α that ``"auto"`` may choose.

    Attributes:
        k_: the slope k, in ms per channel^α.
        alpha_: the exponent α.
        b_: the intercept b, in ms.
        rmse_: root mean squared residual on the fitted points, in ms.
        mape_: mean absolute residual as a share of the latency, on the fitted points.
        valid_range_: (fewest, most) channels that were fitted; beyond them ``predict`` warns.
        n_features_in_: 1.
    """

    def __init__(
        self,
        alpha: float | Literal["auto"] = 1.0,
        loss: Literal["squared", "huber"] = "squared",
        alpha_bounds: tuple[float, float] = (0.05, 3.0),
    ) -> None:
        self.alpha = alpha
        self.loss = loss
        self.alpha_bounds = alpha_bounds

    def fit(self, X: ArrayLike, y: ArrayLike) -> PowerLaw:
        """Fit the law.

        Args:
            X: channel counts, shape ``(n, 1)`` or ``(n,)``, positive.
            y: latencies in ms, shape ``(n,)``.

        Returns:
            The estimator itself.

        Raises:
            ValueError: a parameter is out of range; NaN or infinity; fewer than two different channel counts (three
                for ``alpha="auto"``); counts that are not positive.
        """
        alpha, bounds = self._checked_parameters()
        x = channels_of(X, "PowerLaw")
        ms = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y").ravel()
        check_consistent_length(x, ms)
        different = np.unique(x).size
        least = 2 if alpha is not None else 3
        if different < least:
            raise ValueError(
                f"a power law needs {least} different channel counts, got {different} (n_samples={x.size})"
            )

        if alpha is None:
            alpha = _best_alpha(x, ms, bounds)
        k, b, _ = _fit_line(x, ms, alpha, self.loss)
        self.k_ = k
        self.alpha_ = alpha
        self.b_ = b
        self.valid_range_ = (float(x.min()), float(x.max()))
        self.n_features_in_ = 1
        residuals = k * x**alpha + b - ms
        self.rmse_ = float(np.sqrt(np.mean(residuals**2)))
        self.mape_ = float(np.mean(np.abs(residuals) / np.maximum(np.abs(ms), np.finfo(float).tiny)))
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return f(x) in ms, shape ``(n,)``, for channel counts of shape ``(n, 1)`` or ``(n,)``.

        Warns:
            ExtrapolationWarning: a count lies outside ``valid_range_``.

        Raises:
            NotFittedError: ``fit`` was not called.
            ValueError: NaN, infinity, more than one feature, or counts that are not positive.
        """
        check_is_fitted(self)
        x = channels_of(X, "PowerLaw")
        low, high = self.valid_range_
        warn_outside(x, low, high, "channel counts")
        return np.asarray(self.k_ * x**self.alpha_ + self.b_, dtype=np.float64)

    def _checked_parameters(self) -> tuple[float | None, tuple[float, float]]:
        if self.loss not in ("squared", "huber"):
            raise ValueError(f"loss is 'squared' or 'huber', got {self.loss!r}")
        low, high = self.alpha_bounds
        if not 0 < low < high < np.inf:
            raise ValueError(f"alpha_bounds must be positive and increasing, got {self.alpha_bounds!r}")
        if isinstance(self.alpha, str):
            if self.alpha != "auto":
                raise ValueError(f"alpha is a positive number or 'auto', got {self.alpha!r}")
            return None, (low, high)
        if not 0 < self.alpha <= LARGEST_ALPHA:
            raise ValueError(f"alpha is a positive number, at most {LARGEST_ALPHA:g}, or 'auto', got {self.alpha!r}")
        return float(self.alpha), (low, high)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags


def _fit_line(x: NDArray[np.float64], ms: NDArray[np.float64], alpha: float, loss: str) -> tuple[float, float, float]:
    """Return (k, b, cost) for a fixed exponent."""
    # Dividing by the largest x keeps the two columns of like size for any exponent.
    scale = float(x.max())
    design = np.column_stack([(x / scale) ** alpha, np.ones_like(x)])
    solution, *_ = np.linalg.lstsq(design, ms, rcond=None)
    residuals = design @ solution - ms
    cost = float(residuals @ residuals) / 2
    if loss == "huber":
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(residuals - np.median(residuals))))
        if sigma > 0:

            def misfit(weights: NDArray[np.float64]) -> NDArray[np.float64]:
                return np.asarray(design @ weights - ms)

            result = least_squares(misfit, solution, loss="huber", f_scale=HUBER_THRESHOLD * sigma)
            solution, cost = result.x, float(result.cost)
    return float(solution[0] / scale**alpha), float(solution[1]), cost


def _best_alpha(x: NDArray[np.float64], ms: NDArray[np.float64], bounds: tuple[float, float]) -> float:
    """Return the exponent with the least squared error: a grid, then a bounded search around its best point.

    The cost over α may have several valleys on a staircase, so the grid comes first. For the Huber loss α is still
    chosen by squared error, since each exponent's own residual scale would make the costs incomparable.
    """
    grid = np.linspace(*bounds, 60)
    costs = [_fit_line(x, ms, float(alpha), "squared")[2] for alpha in grid]
    best = int(np.argmin(costs))
    around = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, grid.size - 1)]))
    found = minimize_scalar(lambda alpha: _fit_line(x, ms, float(alpha), "squared")[2], bounds=around, method="bounded")
    return float(found.x) if found.fun <= costs[best] else float(grid[best])

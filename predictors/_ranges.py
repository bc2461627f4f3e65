"""What estimators over channels share: their input checked, and that it lies outside what was fitted."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array

__all__ = ["ExtrapolationWarning", "channels_of", "warn_outside"]

Floats = NDArray[np.float64]


class ExtrapolationWarning(UserWarning):
    """A prediction was asked for outside the range of channels, or of other features, that was fitted."""


def channels_of(X: ArrayLike, estimator: str) -> Floats:
    """Return channel counts of shape ``(n,)``, from shape ``(n, 1)`` or ``(n,)``.

    Raises:
        ValueError: NaN, infinity, more than one feature, or counts that are not positive; ``estimator`` is named.
    """
    values = np.asarray(X)
    if values.ndim == 1:
        values = values.reshape(-1, 1)
    values = check_array(values, dtype=np.float64, input_name="X")
    if values.shape[1] != 1:
        raise ValueError(f"X has {values.shape[1]} features, but {estimator} is expecting 1 feature: the channel count")
    if np.any(values <= 0):
        raise ValueError(f"Negative values in data passed to {estimator}: channel counts must be positive")
    return np.asarray(values[:, 0], dtype=np.float64)


def warn_outside(rows: Floats, low: Floats | float, high: Floats | float, what: str) -> None:
    """Warn the caller's caller of rows, shape ``(n,)`` or ``(n, features)``, outside of ``low`` … ``high``.

    Warns:
        ExtrapolationWarning: with how many of how many they are; ``what`` names them.
    """
    beyond = (rows < low) | (rows > high)
    outside = int(beyond.reshape(len(rows), -1).any(axis=1).sum())
    if outside:
        limits = f" {low:g} … {high:g}" if isinstance(low, float) else ""
        warnings.warn(
            f"{outside} of {len(rows)} {what} lie outside the fitted range{limits}", ExtrapolationWarning, stacklevel=3
        )

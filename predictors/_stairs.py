"""Interpolation between the widths of a channel curve that does not draw a ramp across a stair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted

from predictors._ranges import channels_of, warn_outside

__all__ = ["StairInterpolator"]

# A tile that foretells the other knots to 0.3 % is as good as exact: timing is no finer, and the weight must be finite.
ERROR_FLOOR = 0.003


class Treads(NamedTuple):
    """How well each tile explains a curve, and what weight it gets from that."""

    errors: NDArray[np.float64]
    """Mean absolute leave-one-out error of each tile, as a share of the latency, shape ``(tiles,)``."""
    weights: NDArray[np.float64]
    """Weights of the tiles, summing to 1, shape ``(tiles,)``."""


class StairInterpolator(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Interpolation in the padded width, the tile chosen by leave-one-out. Follows scikit-learn's contract. Final.

    Hardware pads channels to a multiple of a tile t, so a latency curve is a staircase over ⌈x/t⌉·t. Between the
    measured neighbours l < x < h, with p(x) = ⌈x/t⌉·t, a tile says::

        f_t(x) = y_l + (y_h − y_l) · (p(x) − p(l)) / (p(h) − p(l))     where p(l) < p(h)
        f_t(x) = y_l + (y_h − y_l) · (x − l) / (h − l)                 where p(l) = p(h): one tread, or t = 1

    So a width on its lower neighbour's tread gets that neighbour's latency, one on the upper's tread the upper's, and
    one on a tread between them its share. Each tile is judged by e_t, the mean of \\|f_t(x_i)/y_i − 1\\| over the inner
    knots, each left out in turn. ``combine="choose"`` takes the tile with the least e_t (the finest of equals);
    ``"blend"`` takes the weighted geometric mean, ln f = Σ w_t ln f_t with w_t ∝ (e_t + 0.003)^(−sharpness), and no
    weight for a tile that says of every inner knot what a finer one says. On a clean staircase the two agree; where a
    curve's few knots speak for several tiles, blending errs less.

    At a measured width the prediction is the measured latency, and between two it never leaves their range. Beyond
    the outermost widths it stays at the outermost latency, and warns.

    Args:
        tiles: the tiles to choose from, in channels; 1 is plain linear interpolation.
        combine: ``"blend"`` or ``"choose"``.
        sharpness: how sharply the blend prefers the better tile.

    Attributes:
        tile_: the tile with the most weight, in channels.
        weights_: the tiles' weights, shape ``(tiles,)``, in the order of ``tiles``.
        errors_: e_t of each tile, as a share of the latency, shape ``(tiles,)``; NaN where fewer than three widths
            were measured, and the line between the two is all there is.
        widths_: the measured widths, ascending, each once, shape ``(knots,)``.
        latencies_ms_: their latencies in ms, the mean where a width was given more than once, shape ``(knots,)``.
        valid_range_: (fewest, most) channels that were measured; beyond them ``predict`` warns.
        n_features_in_: 1.
    """

    def __init__(
        self,
        tiles: Sequence[int] = (1, 8, 16, 32, 64),
        combine: Literal["blend", "choose"] = "blend",
        sharpness: float = 2.0,
    ) -> None:
        self.tiles = tiles
        self.combine = combine
        self.sharpness = sharpness

    def fit(self, X: ArrayLike, y: ArrayLike) -> StairInterpolator:
        """Keep the curve and weigh the tiles.

        Args:
            X: channel counts, shape ``(n, 1)`` or ``(n,)``, positive.
            y: latencies in ms, shape ``(n,)``, positive.

        Returns:
            The estimator itself.

        Raises:
            ValueError: a parameter is out of range; NaN or infinity; fewer than two different channel counts; counts
                or latencies that are not positive.
        """
        tiles = self._checked_tiles()
        x = channels_of(X, "StairInterpolator")
        ms = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y").ravel()
        check_consistent_length(x, ms)
        if np.any(ms <= 0):
            raise ValueError("Negative values in data passed to StairInterpolator: latencies must be positive")
        knots, where = np.unique(x, return_inverse=True)
        if knots.size < 2:
            raise ValueError(f"interpolation needs 2 different channel counts, got 1 (n_samples={x.size})")
        # Sorting first makes the mean of repeated widths the same to the last bit, whatever the order of the rows.
        order = np.lexsort((ms, x))
        values = np.bincount(where.ravel()[order], weights=ms[order]) / np.bincount(where.ravel())

        sharpness = np.inf if self.combine == "choose" else self.sharpness
        treads = weigh_tiles(knots, values, tiles, sharpness)
        self.errors_ = treads.errors
        self.weights_ = treads.weights
        self.tile_ = int(tiles[np.argmax(treads.weights)])
        self.widths_ = knots
        self.latencies_ms_ = values
        self.valid_range_ = (float(knots[0]), float(knots[-1]))
        self.n_features_in_ = 1
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return f(x) in ms, shape ``(n,)``, for channel counts of shape ``(n, 1)`` or ``(n,)``.

        Warns:
            ExtrapolationWarning: a count lies outside ``valid_range_``; it gets the outermost latency.

        Raises:
            NotFittedError: ``fit`` was not called.
            ValueError: NaN, infinity, more than one feature, or counts that are not positive.
        """
        check_is_fitted(self)
        x = channels_of(X, "StairInterpolator")
        low, high = self.valid_range_
        warn_outside(x, low, high, "channel counts")
        tiles = np.asarray(self.tiles, dtype=np.float64)
        return blend(candidates(self.widths_, self.latencies_ms_, np.clip(x, low, high), tiles), self.weights_)

    def _checked_tiles(self) -> NDArray[np.float64]:
        if self.combine not in ("blend", "choose"):
            raise ValueError(f"combine is 'blend' or 'choose', got {self.combine!r}")
        if not 0 < self.sharpness < np.inf:
            raise ValueError(f"sharpness is a positive number, got {self.sharpness!r}")
        tiles = np.asarray(self.tiles, dtype=np.float64)
        if tiles.ndim != 1 or not tiles.size or np.any(tiles < 1) or np.any(tiles % 1):
            raise ValueError(f"tiles are whole numbers of channels from 1, got {self.tiles!r}")
        return tiles

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.target_tags.positive_only = True
        return tags


def weigh_tiles(
    knots: NDArray[np.float64], values: NDArray[np.float64], tiles: NDArray[np.float64], sharpness: float
) -> Treads:
    """Judge each tile by leaving out each inner knot in turn.

    Args:
        knots: measured widths, ascending, shape ``(knots,)``.
        values: their latencies, shape ``(knots,)``.
        tiles: shape ``(tiles,)``.
        sharpness: exponent of the weights; infinity gives all weight to the best tile, the finest of equals.
    """
    if knots.size < 3:
        return Treads(np.full(tiles.size, np.nan), np.full(tiles.size, 1 / tiles.size))
    share = _share(knots[:-2], knots[2:], knots[1:-1], tiles)
    foretold = values[:-2] + share * (values[2:] - values[:-2])
    errors = np.mean(np.abs(foretold / values[1:-1] - 1), axis=1)
    if np.isinf(sharpness):
        # Errors equal up to rounding are equal: the finest tile claims least.
        equals = np.flatnonzero(errors <= errors.min() + 1e-12)
        weights = np.zeros(tiles.size)
        weights[equals[np.argmin(tiles[equals])]] = 1
    else:
        # Relative to the best, so that a great sharpness cannot overflow.
        weights = ((errors + ERROR_FLOOR) / (errors.min() + ERROR_FLOOR)) ** -sharpness
        # Knots at multiples of 8 cannot tell treads of 8 from a ramp. Of tiles that say the same, the finest claims
        # least about the widths between, and one opinion is to count once.
        for place, tile in enumerate(tiles):
            finer = foretold[tiles < tile]
            if np.any(np.all(np.isclose(finer, foretold[place], rtol=1e-9), axis=1)):
                weights[place] = 0
    return Treads(errors, weights / weights.sum())


def candidates(
    knots: NDArray[np.float64], values: NDArray[np.float64], x: NDArray[np.float64], tiles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what each tile says, shape ``(tiles, n)``, for ``x`` of shape ``(n,)`` within the knots' range."""
    above = np.clip(np.searchsorted(knots, x), 1, knots.size - 1)
    share = _share(knots[above - 1], knots[above], x, tiles if knots.size > 2 else np.ones_like(tiles))
    low, high = values[above - 1], values[above]
    # low + 1·(high − low) may miss high by a rounding; (1 − s)·low + s·high never misses an end.
    return np.asarray((1 - share) * low + share * high, dtype=np.float64)


def blend(said: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted geometric mean over the first axis: shapes ``(tiles, n)`` and ``(tiles,)`` give ``(n,)``."""
    mean = np.exp(weights @ np.log(said))
    # exp(ln y) is not y to the last bit; the range of what was said is, and at a knot all tiles say the same.
    return np.asarray(np.clip(mean, said.min(axis=0), said.max(axis=0)), dtype=np.float64)


def _share(
    low: NDArray[np.float64], high: NDArray[np.float64], x: NDArray[np.float64], tiles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far x lies on the way from low to high in padded widths, 0 … 1, shape ``(tiles, n)``."""
    tile = tiles[:, None]
    padded_low, padded_high, padded = (np.ceil(v[None, :] / tile) * tile for v in (low, high, x))
    plain = (x - low) / (high - low)
    stairs = padded_high > padded_low
    share = np.where(stairs, (padded - padded_low) / np.where(stairs, padded_high - padded_low, 1), plain[None, :])
    # Exactly at a knot the tread is measured, and a tile of 1 pads nothing, not even half a channel.
    knot = (x == low) | (x == high)
    return np.where(knot[None, :] | (tile == 1), plain[None, :], share)

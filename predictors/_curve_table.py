"""What one width of a channel curve costs, learnt from other layers' curves: boosting on top of the stairs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from predictors._stairs import blend, candidates, weigh_tiles

__all__ = ["CurvePoint", "CurveTableModel", "LatencyCurve", "relative_power_law"]

TILES = np.array([1.0, 16.0, 32.0, 64.0])
EXPONENTS = np.linspace(0.05, 3, 60)
SHARPNESS = 2.0
# |f/y − 1| is about |ln f − ln y|·f/y, so a row's weight is stairs/y; one stray row is not to outweigh all others.
WEIGHT_RANGE = (0.2, 3.0)

Matrix = NDArray[np.float64]
CurvePoint = tuple[int, int]
"""Which curve of a table (its index), at which width (in channels)."""


class LatencyCurve(msgspec.Struct, frozen=True):
    """Latencies of one layer over its output channels. All curves of a table have the same settings in one order."""

    settings: tuple[float, ...]
    """What names the layer apart from its width, as numbers: batch, input size, kernel, stride, fused or not …"""
    work: tuple[float, ...]
    """Positive amounts of work per output channel, as one likes to count them: multiply-adds, output positions …"""
    latency_ms: dict[int, float]
    """Latency in ms at each measured width, positive; at least three widths."""


class CurveTableModel:
    """Predicts a width of a curve from its other widths, having learnt from other curves how widths behave. Final.

    The start is the stairs through the curve's other points (see ``StairInterpolator``). Gradient boosting learns
    ln(y / stairs), with weights that make its absolute error the relative one, from: the settings; the width; work
    per ms; the curve's other points and what straight line, power law and each tile say, all relative to the stairs;
    the tiles' leave-one-out errors. With ``siblings``, also from rows of *other* curves at the same width: every
    curve that differs in one setting by one or two steps tells its latency there, as it is and scaled to this curve
    at the neighbouring widths. A prediction never reads the point that it predicts.

    Args:
        siblings: whether the table's other curves are looked up at the width in question.
        max_iter: trees.
        random_state: seed of the columns that each split may choose from.
    """

    def __init__(self, siblings: bool = False, max_iter: int = 300, random_state: int = 0) -> None:
        self.siblings = siblings
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, table: Sequence[LatencyCurve], learn: Sequence[int] | None = None) -> CurveTableModel:
        """Learn from the inner points of the curves, each left out in turn.

        Args:
            table: the curves.
            learn: indices of the curves whose points are learnt; all by default. The others are still looked up as
                siblings, where the model uses any: leave them out of ``table`` too if they are not to be.

        Raises:
            ValueError: curves of unlike settings; a curve with fewer than three widths, or a latency or an amount of
                work that is not positive; no curve has four widths, so there is nothing to learn.
        """
        curves = range(len(table)) if learn is None else learn
        points = [(i, width) for i in curves if len(table[i].latency_ms) > 3 for width in inner_widths(table[i])]
        if not points:
            raise ValueError("no curve with four widths or more to learn from")
        self.widths_ = tuple(sorted({width for curve in table for width in curve.latency_ms}))
        rows = self.features(table, points)
        self.fit_rows(rows, np.log([table[i].latency_ms[width] for i, width in points]))
        return self

    def predict(self, table: Sequence[LatencyCurve], points: Sequence[CurvePoint]) -> Matrix:
        """Return latencies in ms, shape ``(points,)``.

        Args:
            table: the curves, settings in the order of ``fit``; siblings are looked up among them.
            points: where to predict, between the least and the greatest other width of the curve. A latency that the
                curve has at that very width is not read.

        Raises:
            ValueError: as for ``fit``; a point is not between other widths of its curve.
        """
        rows = self.features(table, points)
        return self.predict_rows(rows)

    def fit_rows(self, rows: Matrix, log_ms: Matrix) -> CurveTableModel:
        """Fit to rows of ``features``, of shape ``(points, features)``, and ln ms, of shape ``(points,)``."""
        residual = log_ms - rows[:, 0]
        self.trees_ = HistGradientBoostingRegressor(
            loss="absolute_error",
            max_iter=self.max_iter,
            learning_rate=0.06,
            max_leaf_nodes=24,
            min_samples_leaf=15,
            l2_regularization=1.0,
            max_features=0.4,
            early_stopping=False,
            random_state=self.random_state,
        )
        self.trees_.fit(rows[:, 1:], residual, sample_weight=np.clip(np.exp(-residual), *WEIGHT_RANGE))
        return self

    def predict_rows(self, rows: Matrix) -> Matrix:
        """Return latencies in ms, shape ``(points,)``, for rows of ``features``."""
        return np.asarray(np.exp(rows[:, 0] + self.trees_.predict(rows[:, 1:])), dtype=np.float64)

    def features(self, table: Sequence[LatencyCurve], points: Sequence[CurvePoint]) -> Matrix:
        """Return the rows, shape ``(points, features)``: ln of the stairs in ms, then what the trees read.

        Rows of one table may be computed once and split for cross-validation: a row holds nothing of its own point.
        After ``fit``, the columns over widths are those of the fitted table.
        """
        settings, work, widths, logs = _checked(table, points)
        where = np.array([i for i, _ in points])
        column = np.searchsorted(widths, [float(width) for _, width in points])
        left_out = logs[where].copy()
        left_out[np.arange(len(points)), column] = np.nan
        own, start = _own_columns(settings[where], work[where], widths, left_out, column)
        columns = [own, _at_widths(left_out - start[:, None], widths, self._columns(widths))]
        if self.siblings:
            columns.append(_sibling_columns(settings, widths, logs, left_out, where, column, start))
        return np.concatenate([start[:, None], *columns], axis=1)

    def _columns(self, widths: Matrix) -> Matrix:
        return np.asarray(getattr(self, "widths_", widths), dtype=np.float64)


def inner_widths(curve: LatencyCurve) -> list[int]:
    """Return the widths of a curve but the least and the greatest."""
    return sorted(curve.latency_ms)[1:-1]


def relative_power_law(widths: Matrix, logs: Matrix, at: Matrix, exponents: Matrix = EXPONENTS) -> Matrix:
    """Fit k·x^α + b to each row by relative least squares, α from a grid, and return f(at) in ms, shape ``(rows,)``.

    Args:
        widths: shape ``(widths,)``.
        logs: ln ms, shape ``(rows, widths)``, NaN where nothing was measured.
        at: the width to predict in each row, shape ``(rows,)``.
        exponents: the grid of α; a single 1 gives the straight line.
    """
    known = ~np.isnan(logs)
    inverse = np.where(known, np.exp(-np.where(known, logs, 0)), 0)
    best = np.full(len(logs), np.inf)
    found = np.zeros(len(logs))
    for exponent in exponents:
        power = (widths / widths[-1]) ** exponent
        a, b = power * inverse, inverse
        aa, ab, bb, a1, b1 = (np.sum(p * q, axis=1) for p, q in ((a, a), (a, b), (b, b), (a, known), (b, known)))
        determinant = aa * bb - ab**2
        k, c = (a1 * bb - b1 * ab) / determinant, (aa * b1 - ab * a1) / determinant
        cost = np.sum((k[:, None] * a + c[:, None] * b - known) ** 2, axis=1)
        better = cost < best
        best = np.where(better, cost, best)
        found = np.where(better, k * (at / widths[-1]) ** exponent + c, found)
    return found


def _checked(table: Sequence[LatencyCurve], points: Sequence[CurvePoint]) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Return settings ``(curves, s)``, ln work ``(curves, w)``, widths ``(widths,)``, ln ms ``(curves, widths)``."""
    if len({(len(curve.settings), len(curve.work)) for curve in table}) != 1:
        raise ValueError("a table needs curves, all with as many settings and amounts of work")
    if len({curve.settings for curve in table}) != len(table):
        raise ValueError("two curves have the same settings")
    if min(len(curve.latency_ms) for curve in table) < 3:
        raise ValueError("a curve needs latencies at three widths or more")
    for i, width in points:
        others = [w for w in table[i].latency_ms if w != width]
        if not min(others) < width < max(others):
            raise ValueError(f"width {width} does not lie between other widths of curve {i}")
    widths = sorted({w for curve in table for w in curve.latency_ms} | {width for _, width in points})
    ms = np.array([[curve.latency_ms.get(w, np.nan) for w in widths] for curve in table])
    settings, work = np.array([c.settings for c in table]), np.array([c.work for c in table])
    if not (
        np.isfinite(settings).all() and np.all((work > 0) & np.isfinite(work)) and not np.any((ms <= 0) | np.isinf(ms))
    ):
        raise ValueError("settings must be finite, latencies and amounts of work positive")
    return settings.astype(float), np.log(work.astype(float)), np.array(widths, dtype=float), np.log(ms)


def _own_columns(
    settings: Matrix, work: Matrix, widths: Matrix, logs: Matrix, column: NDArray[np.intp]
) -> tuple[Matrix, Matrix]:
    """Return the columns that need no other curve, shape ``(points, columns)``, and ln of the stairs in ms."""
    at = widths[column]
    said = np.empty((len(logs), TILES.size + 1))
    errors = np.empty((len(logs), TILES.size))
    start = np.empty(len(logs))
    around = np.full((len(logs), 4), np.nan)
    for row, (values, x) in enumerate(zip(logs, at, strict=True)):
        known = np.flatnonzero(~np.isnan(values))
        knots, ms = widths[known], np.exp(values[known])
        treads = weigh_tiles(knots, ms, TILES, SHARPNESS)
        each = candidates(knots, ms, np.array([x]), TILES)
        start[row] = np.log(blend(each, treads.weights)[0])
        said[row] = [*np.log(each[:, 0]), np.interp(np.log(x), np.log(knots), values[known])]
        errors[row] = treads.errors
        above = int(np.searchsorted(knots, x))
        for place, neighbour in enumerate(range(above - 2, above + 2)):
            if 0 <= neighbour < knots.size:
                around[row, place] = values[known[neighbour]]
    laws = [relative_power_law(widths, logs, at, exponents) for exponents in (EXPONENTS, np.ones(1))]
    total = work + np.log(at)[:, None]
    relative = np.column_stack([said, around, *(np.log(np.maximum(law, 1e-4)) for law in laws)]) - start[:, None]
    step = around[:, 2] - around[:, 1]
    own = np.column_stack([settings, work, total - start[:, None], at, start, relative, step, errors])
    return own, start


def _at_widths(relative: Matrix, widths: Matrix, wanted: Matrix) -> Matrix:
    """Return the columns of the wanted widths, NaN for those that the table lacks, shape ``(points, wanted)``."""
    columns = np.full((len(relative), wanted.size), np.nan)
    for place, width in enumerate(wanted):
        found = np.flatnonzero(widths == width)
        if found.size:
            columns[:, place] = relative[:, found[0]]
    return columns


def _sibling_columns(
    settings: Matrix,
    widths: Matrix,
    logs: Matrix,
    left_out: Matrix,
    where: NDArray[np.intp],
    column: NDArray[np.intp],
    start: Matrix,
) -> Matrix:
    """Return what curves that differ in one setting say at the same width, shape ``(points, columns)``."""
    index = {tuple(row): i for i, row in enumerate(settings)}
    columns: list[Matrix] = []
    scaled: list[Matrix] = []
    for axis in range(settings.shape[1]):
        levels = sorted(set(settings[:, axis]))
        # A setting with two levels has one other; of more, two steps either way are near enough to tell.
        steps = (1,) if len(levels) == 2 else (-2, -1, 1, 2)
        for step in steps[: 0 if len(levels) == 1 else None]:
            partner = np.full(len(settings), -1)
            for i, row in enumerate(settings):
                level = levels.index(row[axis]) + step
                level = level % 2 if len(levels) == 2 else level
                if 0 <= level < len(levels):
                    partner[i] = index.get((*row[:axis], levels[level], *row[axis + 1 :]), -1)
            theirs = np.vstack([logs, np.full((1, widths.size), np.nan)])[partner[where]]
            there = theirs[np.arange(len(where)), column]
            below, above = _next_to(left_out - theirs, column)
            # One neighbour does where the other is missing.
            offset = np.where(np.isnan(below), above, np.where(np.isnan(above), below, (below + above) / 2))
            transfer = there + offset - start
            columns += [transfer, there - start, below, above]
            scaled.append(transfer)
    if not columns:
        return np.empty((len(where), 0))
    with warnings.catch_warnings():
        # A point without siblings has no mean: NaN is what the trees are to see.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.column_stack([*columns, np.nanmedian(scaled, axis=0), np.nanmean(scaled, axis=0)])


def _next_to(difference: Matrix, column: NDArray[np.intp]) -> tuple[Matrix, Matrix]:
    """Return the nearest known value on either side of a column, NaN where there is none, each ``(points,)``."""
    places = np.arange(difference.shape[1])
    known = ~np.isnan(difference)
    rows = np.arange(len(difference))
    lower = np.where(known & (places < column[:, None]), places, -1).max(axis=1)
    upper = np.where(known & (places > column[:, None]), places, places.size).min(axis=1)
    padded = np.column_stack([difference, np.full(len(difference), np.nan)])
    return padded[rows, lower], padded[rows, upper]

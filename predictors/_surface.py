"""HTAS's law over one width, and what becomes of it over two: the smooth stand-in for an array of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

__all__ = ["Surface", "fit_surface"]

Floats = NDArray[np.float64]

ALPHAS = tuple(np.linspace(0.25, 1.5, 26))


class Surface(NamedTuple):
    """f(x) = k·x^α + b (HTAS eq. 1), or of two widths f(x, y) = k·(x·y)^α + c·x + d·y + b; in ms.

    ``mape``: mean relative distance from the array it was fitted to.
    """

    k: float
    alpha: float
    c: float
    d: float
    b: float
    mape: float

    def as_row(self) -> tuple[float, float, float, float, float]:
        """Return k, α, c, d, b."""
        return self[:5]


def fit_surface(options: Sequence[Floats], ms: Floats) -> Surface:
    """Return the law with the least squared relative error; all its parameters are non-negative.

    Args:
        options: the widths of each of the array's axes, none to two.
        ms: the array, one axis per entry of ``options``; where it is 0 no layer stands, and the law is not held to it.
    """
    stands = ms.ravel() > 0
    if not options or stands.sum() <= 1:
        value = float(ms.ravel()[stands].mean()) if stands.any() else 0.0
        return Surface(0.0, 1.0, 0.0, 0.0, value, 0.0)
    if len(options) == 1:
        x, columns = options[0], []
    else:
        grid = np.meshgrid(*options, indexing="ij")
        x, columns = (grid[0] * grid[1]).ravel(), [grid[0].ravel(), grid[1].ravel()]
    wanted = ms.ravel()[stands]
    x, columns = x[stands], [column[stands] for column in columns]
    weights = 1.0 / wanted
    best: tuple[float, float, Floats] | None = None
    for alpha in ALPHAS:
        power = (x / x.max()) ** alpha
        design = np.column_stack([power, *(column / column.max() for column in columns), np.ones_like(power)])
        solution, residual = nnls(design * weights[:, None], wanted * weights)
        if best is None or residual < best[0]:
            best = (float(residual), float(alpha), solution)
    assert best is not None
    _, alpha, solution = best
    power = (x / x.max()) ** alpha
    design = np.column_stack([power, *(column / column.max() for column in columns), np.ones_like(power)])
    error = float(np.mean(np.abs(design @ solution - wanted) * weights))
    scaled = list(solution)
    k = float(scaled[0] / x.max() ** alpha)
    rest = [float(value / column.max()) for value, column in zip(scaled[1:-1], columns, strict=True)]
    c, d = rest if rest else (0.0, 0.0)
    return Surface(k, alpha, c, d, float(scaled[-1]), error)

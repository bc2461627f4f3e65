"""Folds: parts that are held out in turn, so that what is said of them had no part of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["folds"]


def folds(order: NDArray[np.int64], parts: int) -> Iterator[NDArray[np.bool_]]:
    """Yield, for each of at most ``parts`` folds, which entries are held out, shape ``(n,)``.

    Args:
        order: the entries 0 … n − 1 as they are dealt, one after another.
        parts: how many folds; one for each entry where there are fewer.
    """
    for fold in range(min(parts, len(order))):
        held = np.zeros(len(order), dtype=bool)
        held[order[fold::parts]] = True
        yield held

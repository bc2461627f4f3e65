"""How networks are trained to be judged, and trained at last, by what a data set asks for: RCAS's, from its paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search._accuracy._short_training import rcas_recipe
from search._data._images import ImageData
from search._training._by_name import changed_by_name
from search._training._recipe import DIGITS_BATCH, DIGITS_TRAIN_EPOCHS, Recipe

__all__ = ["check_recipes", "rcas_preset"]

# RCAS's, from its paper; how large its batches were it does not say.
RCAS_EPOCHS, RCAS_TRAIN_EPOCHS, RCAS_BATCH, RCAS_LR, RCAS_CROP = 10, 200, 128, 0.1, 4
DIGITS_RCAS_EPOCHS = 2


def rcas_preset(
    data: ImageData, *, search_epochs: int | None, train_epochs: int | None, batch_size: int | None
) -> tuple[Recipe, Recipe]:
    """Return how RCAS trains networks to judge them, and how it trains what it found; ``None``: as the data asks for.

    The paper's (Xiong et al. 2019, sections 4.1 and 4.2): 10 epochs, and 200 with a tenth of the learning rate at 60,
    120 and 180. Its learning rate 0.1 is taken for batches of 128, and brought to smaller ones.

    Raises:
        UsageError: a number is out of its range.
    """
    small = data.name == "digits"
    size = batch_size or (DIGITS_BATCH if small else RCAS_BATCH)
    lr = min(RCAS_LR, RCAS_LR * size / RCAS_BATCH)
    # Depthwise convolutions take half the time with the channels last.
    changes: dict[str, Any] = {"lr": lr, "channels_last": True}
    epochs = search_epochs or (DIGITS_RCAS_EPOCHS if small else RCAS_EPOCHS)
    judged = rcas_recipe(epochs, size, crop=0 if small else RCAS_CROP, **changes)
    epochs = train_epochs or (DIGITS_TRAIN_EPOCHS if small else RCAS_TRAIN_EPOCHS)
    return judged, rcas_recipe(epochs, size, milestones=(0.3, 0.6, 0.9), **changes)


def check_recipes(parts: Sequence[str], settings: Sequence[str]) -> None:
    """Raise what :func:`changed_by_name` would of recipes of RCAS for any data, by the parts' names.

    Raises:
        UsageError: there is no such name, or the value does not fit.
    """
    changed_by_name({part: rcas_recipe(RCAS_EPOCHS, RCAS_BATCH) for part in parts}, settings)

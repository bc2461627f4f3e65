"""Settings for a data set, and settings by name: the paper's for images of its kind, short ones for the digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import torch

from lut import UsageError
from search._data import ImageData
from search._recipe import Recipe
from search._search_settings import SearchSettings
from search._shared_weights import batches

__all__ = ["preset", "with_settings"]

# A few hundred small images are learnt in minutes, and need small batches to be.
DIGITS_SEARCH_EPOCHS, DIGITS_TRAIN_EPOCHS, DIGITS_BATCH = 24, 12, 32
# Warm-ups of the search and the trainings; the share of the search that is for weights alone. With the paper's none of
# either, shared weights had learnt nothing of the digits in the minutes that there are.
DIGITS_SEARCH_WARMUP, DIGITS_TRAIN_WARMUP, DIGITS_WEIGHTS_FIRST = 2, 1, 0.5


def preset(
    data: ImageData,
    *,
    penalty: str,
    weight: float | None,
    search_epochs: int | None,
    train_epochs: int | None,
    batch_size: int | None,
) -> tuple[SearchSettings, Recipe]:
    """Return the settings of a search and of the trainings for a data set; ``None`` leaves a number to it.

    Logits' steps grow where there are fewer of them than in the paper (:meth:`SearchSettings.short`).

    Raises:
        UsageError: a number is out of its range.
    """
    small = data.name == "digits"
    paper = SearchSettings()
    size = batch_size or (DIGITS_BATCH if small else paper.recipe.batch_size)
    epochs = search_epochs or (DIGITS_SEARCH_EPOCHS if small else paper.recipe.epochs)
    recipe = Recipe(
        epochs=train_epochs or (DIGITS_TRAIN_EPOCHS if small else Recipe().epochs),
        warmup_epochs=DIGITS_TRAIN_WARMUP if small else Recipe().warmup_epochs,
        batch_size=size,
    )
    search = SearchSettings(
        recipe=Recipe(
            epochs=epochs,
            warmup_epochs=DIGITS_SEARCH_WARMUP if small else 0,
            batch_size=size,
            # Digits fill their image: moving them about costs more epochs than it is worth here.
            crop=0 if small else paper.recipe.crop,
        ),
        weights_first=DIGITS_WEIGHTS_FIRST if small else 0.0,
        penalty=penalty,  # type: ignore[arg-type]
        weight=weight,
    )
    # As many steps as there are batches in the smaller half, in the epochs that train logits.
    batch_count = len(batches(torch.arange(len(data.train_labels) // 2), size))
    trained = search.recipe.total_epochs - int(search.weights_first * search.recipe.total_epochs)
    return search.short(trained * batch_count), recipe


def with_settings(search: SearchSettings, recipe: Recipe, settings: Sequence[str]) -> tuple[SearchSettings, Recipe]:
    """Return settings with some changed by name: ``NAME=VALUE``, ``search.NAME=VALUE``, ``training.NAME=VALUE``.

    A plain name is a search's; ``search.`` stands before those of the recipe of its shared weights, ``training.``
    before those of the trainings' recipe. Values are JSON, or words.

    Raises:
        UsageError: there is no such name, or the value does not fit.
    """
    plain, shared, training = (msgspec.to_builtins(part) for part in (search, search.recipe, recipe))
    for setting in settings:
        name, equals, text = setting.partition("=")
        where: dict[str, Any] = plain
        key = name
        if "." in name:
            prefix, _, key = name.partition(".")
            where = {"search": shared, "training": training}.get(prefix, {})
        if not equals or key not in where or key == "recipe":
            known = [
                *(n for n in plain if n != "recipe"),
                *(f"search.{n}" for n in shared),
                *(f"training.{n}" for n in training),
            ]
            raise UsageError(f"--set is NAME=VALUE, got {setting!r}; names: {', '.join(known)}")
        try:
            where[key] = msgspec.json.decode(text.encode())
        except msgspec.DecodeError:
            where[key] = text
    try:
        changed = msgspec.convert({**plain, "recipe": shared}, SearchSettings)
        return changed, msgspec.convert(training, Recipe)
    except msgspec.ValidationError as error:
        raise UsageError(f"--set: {error}") from None

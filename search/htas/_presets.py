"""HTAS's settings for a data set: the paper's for images of its kind, short ones for the digits."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch

from search._data._images import ImageData
from search._training._by_name import changed_by_name, setting_name
from search._training._recipe import DIGITS_BATCH, DIGITS_TRAIN_EPOCHS, Recipe
from search.htas._settings import SearchSettings
from search.htas._shared_weights import batches

__all__ = ["check_settings", "preset", "with_settings"]

# A few hundred small images are learnt in minutes. Warm-ups of the search and the trainings; the share of the search
# that is for weights alone. With the paper's none of either, shared weights had learnt nothing of the digits in the
# minutes that there are.
DIGITS_SEARCH_EPOCHS = 24
DIGITS_SEARCH_WARMUP, DIGITS_TRAIN_WARMUP, DIGITS_WEIGHTS_FIRST = 2, 1, 0.5


def preset(
    data: ImageData,
    *,
    penalty: str,
    weight: float | None,
    search_epochs: int | None,
    train_epochs: int | None,
    batch_size: int | None,
    changes: Sequence[str] = (),
) -> tuple[SearchSettings, Recipe]:
    """Return the settings of a search and of the trainings for a data set; ``None`` leaves a number to it.

    Logits' steps grow where there are fewer of them than in the paper (:meth:`SearchSettings.short`), unless
    ``changes`` name ``logits_lr``.

    Args:
        data: the data set.
        penalty: see :class:`SearchSettings`, as ``weight``.
        weight: see there.
        search_epochs: of the shared weights, after the warm-up.
        train_epochs: of the trainings, likewise.
        batch_size: of both.
        changes: settings by name (:func:`with_settings`), which go before all others.

    Raises:
        UsageError: a number is out of its range, there is no such name, or a value does not fit.
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
    search, recipe = with_settings(search, recipe, changes)
    if any(setting_name(change) == "logits_lr" for change in changes):
        return search, recipe
    # As many steps as there are batches in the smaller half, in the epochs that train logits.
    batch_count = len(batches(torch.arange(len(data.train_labels) // 2), search.recipe.batch_size))
    trained = search.recipe.total_epochs - int(search.weights_first * search.recipe.total_epochs)
    return search.short(trained * batch_count), recipe


def check_settings(settings: Sequence[str]) -> None:
    """Raise what :func:`with_settings` would of any data's settings.

    Raises:
        UsageError: there is no such name, or the value does not fit.
    """
    with_settings(SearchSettings(), Recipe(), settings)


def with_settings(search: SearchSettings, recipe: Recipe, settings: Sequence[str]) -> tuple[SearchSettings, Recipe]:
    """Return settings with some changed by name: ``NAME=VALUE``, ``search.NAME=VALUE``, ``training.NAME=VALUE``.

    A plain name is a search's; ``search.`` stands before those of the recipe of its shared weights, ``training.``
    before those of the trainings' recipe. Values are read as their annotations say.

    Raises:
        UsageError: there is no such name, or the value does not fit.
    """
    parts = {"": search, "search": search.recipe, "training": recipe}
    changed = changed_by_name(parts, settings, fixed=("recipe",))
    return msgspec.structs.replace(changed[""], recipe=changed["search"]), changed["training"]

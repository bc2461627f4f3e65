"""Settings for a data set, and settings by name: the paper's for images of its kind, short ones for the digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import msgspec
import torch

from lut import UsageError
from lut._printable import printable, shortened
from lut._suggest import did_you_mean
from profiler._options import parse_setting
from search._accuracy._short_training import rcas_recipe
from search._data._images import ImageData
from search._training._recipe import Recipe
from search.htas._settings import SearchSettings
from search.htas._shared_weights import batches

__all__ = ["changed_by_name", "check_recipes", "check_settings", "preset", "rcas_preset", "with_settings"]

# A few hundred small images are learnt in minutes, and need small batches to be.
DIGITS_SEARCH_EPOCHS, DIGITS_TRAIN_EPOCHS, DIGITS_BATCH = 24, 12, 32
# Warm-ups of the search and the trainings; the share of the search that is for weights alone. With the paper's none of
# either, shared weights had learnt nothing of the digits in the minutes that there are.
DIGITS_SEARCH_WARMUP, DIGITS_TRAIN_WARMUP, DIGITS_WEIGHTS_FIRST = 2, 1, 0.5
# RCAS's, from its paper; how large its batches were it does not say.
RCAS_EPOCHS, RCAS_TRAIN_EPOCHS, RCAS_BATCH, RCAS_LR, RCAS_CROP = 10, 200, 128, 0.1, 4
DIGITS_RCAS_EPOCHS = 2


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
    if any(_setting_name(change) == "logits_lr" for change in changes):
        return search, recipe
    # As many steps as there are batches in the smaller half, in the epochs that train logits.
    batch_count = len(batches(torch.arange(len(data.train_labels) // 2), search.recipe.batch_size))
    trained = search.recipe.total_epochs - int(search.weights_first * search.recipe.total_epochs)
    return search.short(trained * batch_count), recipe


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


def check_recipes(parts: Sequence[str], settings: Sequence[str]) -> None:
    """Raise what :func:`changed_by_name` would of recipes of RCAS for any data, by the parts' names.

    Raises:
        UsageError: there is no such name, or the value does not fit.
    """
    changed_by_name({part: rcas_recipe(RCAS_EPOCHS, RCAS_BATCH) for part in parts}, settings)


def changed_by_name(
    parts: Mapping[str, msgspec.Struct], settings: Sequence[str], *, fixed: Sequence[str] = ()
) -> dict[str, Any]:
    """Return structs with some fields changed: ``FIELD=VALUE`` of the part named "", ``PART.FIELD=VALUE`` of others.

    Args:
        parts: the structs by name.
        settings: the changes; values are read as the fields' annotations say. Of two of a field the last counts.
        fixed: fields that cannot be changed so.

    Raises:
        UsageError: there is no such name, or the value does not fit.
    """
    hints = {part: get_type_hints(type(struct), include_extras=True) for part, struct in parts.items()}
    known = {
        f"{part}.{key}" if part else key: (part, key)
        for part, struct in parts.items()
        for key in struct.__struct_fields__
        if key not in fixed
    }
    changes: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for setting in settings:
        name = _setting_name(setting)
        _, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set is NAME=VALUE, such as --set {next(iter(known))}=…, got {setting!r}")
        if name not in known:
            raise UsageError(f"--set {shortened(name, 60)}: there is no such setting{_meant(name, list(known))}")
        part, key = known[name]
        changes[part][key] = parse_setting("a search", name, hints[part][key], printable(text))
    try:
        return {part: msgspec.structs.replace(struct, **changes[part]) for part, struct in parts.items()}
    except UsageError as error:
        raise UsageError(f"--set: {error}") from None


def _setting_name(setting: str) -> str:
    """Return the name that a ``NAME=VALUE`` sets."""
    return setting.partition("=")[0].strip().replace("-", "_")


def _meant(name: str, known: Sequence[str]) -> str:
    """Return the settings that may have been meant, such as those of that name in another part, or all there are."""
    part, dot, key = name.rpartition(".")
    if same := [one for one in known if one.rpartition(".")[2] == key]:
        return f"; did you mean {' or '.join(map(repr, same))}?"
    # Only the last word is compared: with the part before it, all names of a part are alike.
    words = [one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == part]
    meant = did_you_mean(key, words).replace("'", f"'{part}{dot}", 1)
    return meant or f"; names: {', '.join(known)}"

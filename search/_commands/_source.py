"""What the commands that evaluate networks of any space share: images, a space for them, and the trainings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from lut import SearchSpace
    from search._accuracy._source import Source
    from search._commands._options import AccuracyOptions, RunOptions
    from search._data._images import ImageData
    from search._training._recipe import Recipe

__all__ = [
    "AT_ONCE",
    "OpenedSource",
    "check_accuracy",
    "check_images",
    "check_source",
    "images_taken",
    "open_images",
    "open_source",
    "open_space",
    "split_changes",
    "trained_parts",
    "workers_for",
]

# RCAS's images of each class that networks are judged by.
HELD_OUT = 10
# Trainings of a lazy search that are asked for together: fixed, since what is found depends on it.
AT_ONCE = 2
SPACE = "space."


class OpenedSource(NamedTuple):
    """Where accuracies come from, and how what is found is trained."""

    source: Source
    recipe: Recipe | None


def check_accuracy(text: str) -> None:
    """See that a text names where accuracies come from, and that a file that it names is there."""
    from pathlib import Path

    from lut import UsageError
    from lut._files import file_error
    from lut._suggest import did_you_mean

    kind, _, file = text.partition(":")
    if text != "train" and not file:
        meant = did_you_mean(kind, ["train"])
        raise UsageError(f"--accuracy is train, table:FILE or FILE.py:NAME, got {text!r}{meant}")
    if kind == "table":
        try:
            Path(file).stat()
        except OSError as error:
            raise file_error(Path(file), "read", error) from None


def check_images(text: str) -> None:
    """See that a text names images that are there, or none."""
    from search._data._images import check_data

    if text != "none":
        check_data(text)


def open_images(text: str, train_images: int | None, test_images: int | None, seed: int) -> ImageData | None:
    """Return the images that a command was asked for; ``None`` for none."""
    from search._data._images import load_data, subset

    if text == "none":
        return None
    images = load_data(text)
    if train_images is not None or test_images is not None:
        images = subset(images, train=train_images, test=test_images, seed=seed)
    return images


def split_changes(changes: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the settings of the space, ``space.NAME=VALUE`` by name, and the others."""
    from lut import UsageError

    space: dict[str, str] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if name.startswith(SPACE):
            if not equals:
                raise UsageError(f"--set is NAME=VALUE, got {change!r}")
            space[name.removeprefix(SPACE)] = text
    return space, tuple(change for change in changes if not change.startswith(SPACE))


def open_space(name: str, types: str | None, images: ImageData | None, options: dict[str, str]) -> SearchSpace:
    """Return the space, with as many classes as the data has where the space can be made with any number.

    Raises:
        UsageError: there is no such space, or its options do not fit.
    """
    from lut import UsageError
    from profiler import load_space
    from profiler._options import converted, option_names
    from profiler._spaces import space_factory

    make = space_factory(name)
    known = option_names(make)
    given: dict[str, Any] = converted(f"space {name}", make, options)
    if types is not None:
        if "types" not in known:
            raise UsageError(f"--types are RCNet's, and {name} is another space")
        try:
            given["types"] = tuple(sorted({int(word) for word in types.split(",")}))
        except ValueError:
            raise UsageError(f"--types are numbers such as 1,5,6, got {types!r}") from None
    try:
        blank = load_space(name, **given)
    except UsageError as error:
        raise UsageError(f"--types {types}: {error}" if types is not None else str(error)) from None
    if images is not None and images_taken(blank) and "classes" in known and "classes" not in given:
        return load_space(name, **given, classes=len(images.classes))
    return blank


def images_taken(space: SearchSpace) -> bool:
    """Return whether a space's networks take 32×32 images, which are all that can be trained here."""
    first = space.decode((0,) * len(space.choices)).layers[0].layer
    return first.inputs[0][1:] == (32, 32)


def workers_for(devices: tuple[str, ...], at_once: int) -> int:
    """Return how many networks to train side by side: one a core, or one a GPU, and as many as are asked together."""
    if devices[0].startswith("cpu"):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(cores, at_once)
    return max(len(devices), at_once)


def trained_parts(asked: RunOptions, accuracy: str, space: SearchSpace) -> tuple[Literal["search", "training"], ...]:
    """Return which trainings there are: ``search``, those that judge networks, and ``training``, those at the end."""
    at_the_end = asked.data != "none" and images_taken(space) and asked.train_epochs != 0
    return (*(("search",) if accuracy == "train" else ()), *(("training",) if at_the_end else ()))


def check_source(asked: RunOptions, own: AccuracyOptions, space: SearchSpace, changes: Sequence[str]) -> None:
    """Raise what can be known of accuracies and trainings to be wrong before anything is loaded.

    Args:
        asked: the options that all searches have.
        own: those about accuracies.
        space: with any number of classes.
        changes: of the recipes, by name.

    Raises:
        UsageError: options that do not go together, or a change that cannot be made.
        FileAccessError: a file of accuracies, or the data, cannot be read.
    """
    from lut import UsageError
    from search._accuracy._presets import check_recipes
    from search.spaces._nas_bench_macro import NasBenchMacro

    text, train_epochs = own.accuracy, asked.train_epochs
    check_accuracy(text)
    check_images(asked.data)
    if not images_taken(space) and (text == "train" or train_epochs):
        raise UsageError(
            f"{space.name} takes other images than the 32×32 that can be trained here: give --accuracy FILE.py:NAME, a "
            "function of yours, and --train-epochs 0"
        )
    if asked.data == "none":
        for option, given in (
            ("--accuracy train", text == "train"),
            (f"--train-epochs {train_epochs}", train_epochs),
            ("--set", changes),
        ):
            if given:
                raise UsageError(f"{option} needs images to train on: give --data")
    if text != "train":
        for option, number in (("--held-out", own.held_out), ("--search-epochs", asked.search_epochs)):
            if number is not None:
                raise UsageError(f"{option} is for --accuracy train, and accuracies are from {text}")
    elif own.accuracy_timeout is not None:
        raise UsageError("--accuracy-timeout is for a function of yours: give --accuracy FILE.py:NAME")
    parts = trained_parts(asked, text, space)
    if changes and not parts:
        raise UsageError("--set is for trainings, and nothing is trained")
    check_recipes(parts, changes)
    if text.startswith("table:") and not isinstance(space, NasBenchMacro):
        raise UsageError(f"--accuracy table:FILE is for nas-bench-macro, not for {space.name}: give FILE.py:NAME")


def open_source(
    asked: RunOptions,
    own: AccuracyOptions,
    images: ImageData | None,
    space: SearchSpace,
    changes: Sequence[str],
    *,
    devices: tuple[str, ...],
    workers: int,
) -> OpenedSource:
    """Return where accuracies come from, and the recipe of the trainings at the end.

    What :func:`check_source` refuses is taken to be refused.
    """
    from search._accuracy._presets import rcas_preset
    from search._accuracy._source import read_source, trained_source
    from search._training._by_name import changed_by_name

    parts = trained_parts(asked, own.accuracy, space)
    recipes: dict[str, Recipe] = {}
    if images is not None and parts:
        both = rcas_preset(
            images,
            search_epochs=asked.search_epochs,
            train_epochs=asked.train_epochs or None,
            batch_size=asked.batch_size,
        )
        preset = dict(zip(("search", "training"), both, strict=True))
        recipes = changed_by_name({part: preset[part] for part in parts}, changes)
        _check_classes(space, images, may_do_without=own.accuracy != "train")
    judged, recipe = recipes.get("search"), recipes.get("training")
    if judged is None or images is None:
        return OpenedSource(read_source(own.accuracy)._replace(timeout_s=own.accuracy_timeout), recipe)
    held = HELD_OUT if own.held_out is None else own.held_out
    source = trained_source(images, judged, held_out=held, seed=asked.seed, workers=workers, devices=devices)
    return OpenedSource(source, recipe)


def _check_classes(space: SearchSpace, images: ImageData, *, may_do_without: bool) -> None:
    """Raise unless a space's networks predict as many classes as the images have."""
    from lut import UsageError

    classes = space.decode((0,) * len(space.choices)).as_layer().out_channels
    if classes != len(images.classes):
        raise UsageError(
            f"the networks of {space.name} predict {classes} classes, and {images.name} has {len(images.classes)}: "
            f"give other --data{', or --data none' if may_do_without else ''}"
        )

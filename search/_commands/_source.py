"""What the commands that evaluate networks share: images, a space for them, and where accuracies come from."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from lut import SearchSpace
    from search._accuracy._evaluator import Accuracy, BatchAccuracy
    from search._data._images import ImageData
    from search._training._recipe import Recipe

__all__ = [
    "AT_ONCE",
    "Source",
    "SourceOptions",
    "check_accuracy",
    "check_images",
    "check_source",
    "open_accuracy",
    "open_images",
    "open_space",
    "trained_parts",
    "workers_for",
]

# RCAS's images of each class that networks are judged by.
HELD_OUT = 10
# Trainings of a lazy search that are asked for together: fixed, since what is found depends on it.
AT_ONCE = 2


class SourceOptions(NamedTuple):
    """What is asked for of accuracies and trainings.

    Args:
        accuracy: where accuracies come from.
        data: images to train on, or ``none``; ``train_images`` and ``test_images``: at most so many of them.
        held_out: images of each class that networks are judged by; ``None``: RCAS's.
        search_epochs: of the trainings that judge networks; ``train_epochs`` of those at the end; ``None``: the data's.
        batch_size: of both; ``None``: the data's.
        changes: of their recipes, by name.
        devices: PyTorch's names of where to train.
        workers: networks to train side by side.
        seed: of everything.
    """

    accuracy: str
    data: str
    train_images: int | None
    test_images: int | None
    held_out: int | None
    search_epochs: int | None
    train_epochs: int | None
    batch_size: int | None
    changes: tuple[str, ...]
    devices: tuple[str, ...]
    workers: int
    seed: int


class Source(NamedTuple):
    """Where accuracies come from, and how what is found is trained."""

    text: str
    function: Accuracy | BatchAccuracy
    digest: str
    held_out: int | None
    judged: Recipe | None
    recipe: Recipe | None


def check_accuracy(text: str) -> None:
    """See that a text names where accuracies come from, and that a file that it names is there."""
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


def open_space(name: str, types: str | None, images: ImageData | None) -> SearchSpace:
    """Return the space, with as many classes as the data has where the space can."""
    from lut import UsageError
    from profiler import load_space
    from search.spaces._rcnet import RCNet

    opened = load_space(name)
    if not isinstance(opened, RCNet):
        if types is not None:
            raise UsageError(f"--types are RCNet's, and {name} is another space")
        return opened
    try:
        chosen = opened.types if types is None else tuple(sorted({int(word) for word in types.split(",")}))
    except ValueError:
        raise UsageError(f"--types are numbers such as 1,5,6, got {types!r}") from None
    fitting = images is not None and opened.image_size == 32
    classes = len(images.classes) if images is not None and fitting else opened.classes
    try:
        return RCNet(
            opened.skeleton,
            positions=opened.positions,
            types=chosen,
            initial=opened.initial,
            width=opened.width,
            classes=classes,
        )
    except UsageError as error:
        raise UsageError(f"--types {types}: {error}") from None


def _takes_small_images(space: SearchSpace) -> bool:
    """Return whether a space's networks take 32×32 images, which are all that can be trained here."""
    first = space.decode((0,) * len(space.choices)).layers[0].layer
    return first.inputs[0][1:] == (32, 32)


def workers_for(devices: tuple[str, ...], at_once: int) -> int:
    """Return how many networks to train side by side: one a core, or one a GPU, and as many as are asked together."""
    import os

    if devices[0].startswith("cpu"):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(cores, at_once)
    return max(len(devices), at_once)


def trained_parts(asked: SourceOptions, space: SearchSpace) -> tuple[Literal["search", "training"], ...]:
    """Return which trainings there are: ``search``, those that judge networks, and ``training``, those at the end."""
    at_the_end = asked.data != "none" and _takes_small_images(space) and asked.train_epochs != 0
    return (*(("search",) if asked.accuracy == "train" else ()), *(("training",) if at_the_end else ()))


def check_source(asked: SourceOptions, space: SearchSpace) -> None:
    """Raise what can be known of accuracies and trainings to be wrong before anything is loaded.

    Args:
        asked: the options.
        space: with any number of classes.

    Raises:
        UsageError: options that do not go together, or a change that cannot be made.
        FileAccessError: a file of accuracies, or the data, cannot be read.
    """
    from lut import UsageError
    from search._training._presets import check_recipes
    from search.spaces._nas_bench_macro import NasBenchMacro

    text, train_epochs = asked.accuracy, asked.train_epochs
    check_accuracy(text)
    check_images(asked.data)
    if not _takes_small_images(space) and (text == "train" or train_epochs):
        raise UsageError(
            f"{space.name} takes other images than the 32×32 that can be trained here: give --accuracy FILE.py:NAME, a "
            "function of yours, and --train-epochs 0"
        )
    if asked.data == "none":
        for option, given in (
            ("--accuracy train", text == "train"),
            (f"--train-epochs {train_epochs}", train_epochs),
            ("--set", asked.changes),
        ):
            if given:
                raise UsageError(f"{option} needs images to train on: give --data")
    if text != "train":
        for option, number in (("--held-out", asked.held_out), ("--search-epochs", asked.search_epochs)):
            if number is not None:
                raise UsageError(f"{option} is for --accuracy train, and accuracies are from {text}")
    parts = trained_parts(asked, space)
    if asked.changes and not parts:
        raise UsageError("--set is for trainings, and nothing is trained")
    check_recipes(parts, asked.changes)
    if text.startswith("table:") and not isinstance(space, NasBenchMacro):
        raise UsageError(f"--accuracy table:FILE is for nas-bench-macro, not for {space.name}: give FILE.py:NAME")


@contextlib.contextmanager
def open_accuracy(asked: SourceOptions, images: ImageData | None, space: SearchSpace) -> Iterator[Source]:
    """Give the set function, with the digest of what it depends on, and the recipe of the trainings at the end.

    What :func:`check_source` refuses is taken to be refused. Processes that train end with the block.
    """
    from search._training._presets import changed_by_name, rcas_preset

    parts = trained_parts(asked, space)
    recipes: dict[str, Recipe] = {}
    if images is not None and parts:
        both = rcas_preset(
            images,
            search_epochs=asked.search_epochs,
            train_epochs=asked.train_epochs or None,
            batch_size=asked.batch_size,
        )
        preset = dict(zip(("search", "training"), both, strict=True))
        recipes = changed_by_name({part: preset[part] for part in parts}, asked.changes)
        _check_classes(space, images, may_do_without=asked.accuracy != "train")
    judged, recipe = recipes.get("search"), recipes.get("training")
    if judged is None or images is None:
        source = _read_accuracy(asked.accuracy, recipe)
    else:
        source = _trained_accuracy(asked, images, judged, recipe)
    try:
        yield source
    finally:
        if (close := getattr(source.function, "close", None)) is not None:
            close()


def _trained_accuracy(asked: SourceOptions, images: ImageData, judged: Recipe, recipe: Recipe | None) -> Source:
    """Return accuracies by short trainings."""
    from search._accuracy._short_training import ShortTraining

    held = HELD_OUT if asked.held_out is None else asked.held_out
    function = ShortTraining(
        images, judged, seed=asked.seed, held_out=held, at_once=asked.workers, devices=asked.devices
    )
    return Source("trainings of a few epochs", function, function.digest, held, judged, recipe)


def _read_accuracy(text: str, recipe: Recipe | None) -> Source:
    """Return a table's accuracies, or a function's."""
    from hashlib import sha256

    from lut._files import read_bytes
    from search._accuracy._evaluator import load_accuracy
    from search.spaces._nas_bench_macro import load_accuracies

    kind, _, file = text.partition(":")
    if kind == "table":
        known = load_accuracies(file)
        digest = sha256(read_bytes(file)).hexdigest()
        return Source(f"the table {Path(file).name}", lambda network: known[network.name], digest, None, None, recipe)
    function = load_accuracy(text)
    place, _, name = text.rpartition(":")
    # A module's file, where it was not given as one.
    written = Path(place if place.endswith(".py") else getattr(sys.modules.get(place), "__file__", None) or "")
    content = read_bytes(written) if written.is_file() else b""
    # By content: the same function is the same by whatever path it was named.
    digest = sha256(name.encode() + b"\0" + (content or place.encode())).hexdigest()
    return Source(f"the function {name} of {Path(place).name}", function, digest, None, None, recipe)


def _check_classes(space: SearchSpace, images: ImageData, *, may_do_without: bool) -> None:
    """Raise unless a space's networks predict as many classes as the images have."""
    from lut import UsageError

    classes = space.decode((0,) * len(space.choices)).as_layer().out_channels
    if classes != len(images.classes):
        raise UsageError(
            f"the networks of {space.name} predict {classes} classes, and {images.name} has {len(images.classes)}: "
            f"give other --data{', or --data none' if may_do_without else ''}"
        )

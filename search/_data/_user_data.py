"""Data sets that a user's own function returns: numpy arrays, torch tensors or ``Dataset``s.

They are checked as a stranger's file is: nothing is scaled, resized or renumbered on a guess.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lut._printable import printable, shortened
from lut.errors import DataError, UsageError
from profiler._model import import_place, parse_place
from search._data._image_folder import SIDE, Decoded

__all__ = ["call_loader", "class_names", "read_arrays", "read_returned"]

FORMS = (
    "(train_images, train_labels, test_images, test_labels), (images, labels), (train_dataset, test_dataset), a Dataset"
    " or a search.ImageData"
)
WANTED = f"(N, 3, {SIDE}, {SIDE}), (N, {SIDE}, {SIDE}, 3) or, grey, (N, {SIDE}, {SIDE})"
# Floats are made bytes so many images at a time: all at once they would take eight times the memory.
STEP = 4096

_Part = tuple[torch.Tensor, torch.Tensor]


def call_loader(text: str) -> Any:
    """Return what a user's function returns; what it prints goes to stderr, as it must not stand in ``--json``.

    Args:
        text: ``file.py:function`` or ``package.module:function``.

    Raises:
        UsageError: there is no such file or function, it cannot be imported, or it fails.
    """
    place, name = parse_place(text, "--data", "function")
    with contextlib.redirect_stdout(sys.stderr):
        function: Callable[[], Any] | None = getattr(import_place(place, f"data {text}"), name, None)
        if not callable(function):
            raise UsageError(f"data {text}: there is no function {name} in it")
        try:
            return function()
        except (Exception, SystemExit) as error:
            raise UsageError(f"data {text}: the function failed: {_why(error)}") from None


def read_returned(text: str, made: object) -> Decoded:
    """Return the images of what a user's function returned.

    Args:
        text: what the user gave, for errors.
        made: one of ``FORMS``, apart from an ``ImageData``.

    Raises:
        DataError: it is none of them, or they hold what nothing can be trained on.
    """
    with contextlib.redirect_stdout(sys.stderr):
        if isinstance(made, tuple) and len(made) == 4:
            return read_arrays(text, made, None)
        if isinstance(made, tuple) and len(made) == 2:
            if _is_array(made[0]):
                return read_arrays(text, made, None)
            train = _read_dataset(text, "training set", made[0])
            test = _read_dataset(text, "test set", made[1])
            classes, others = (_classes_of(text, dataset) for dataset in made)
            if classes is not None and others is not None and classes != others:
                raise DataError(f"{text}: the training set and the test set name other classes, or in another order")
            return _checked(text, train, test, classes)
        if isinstance(made, tuple) or _is_array(made) or not hasattr(made, "__getitem__"):
            given = f"a tuple of {len(made)}" if isinstance(made, tuple) else _kind(made)
            raise DataError(f"{text}: the function must return {FORMS}, got {given}")
        return _checked(text, _read_dataset(text, "data set", made), None, _classes_of(text, made))


def read_arrays(text: str, arrays: Sequence[Any], classes: tuple[str, ...] | None) -> Decoded:
    """Return training and test images and labels, checked and brought into one form.

    Args:
        text: what the user gave, for errors.
        arrays: training images and their labels, and test images and theirs where they are kept apart.
        classes: their names; ``None``: their numbers.

    Raises:
        DataError: they cannot be trained on.
    """
    found: list[_Part] = []
    for part, images, labels in zip(("training", "test"), arrays[::2], arrays[1::2], strict=False):
        said = f"{text}: the {part} images"
        pixels = torch.from_numpy(_pixels(said, _as_array(said, images)))
        numbers = _labels(f"{text}: the {part} labels", labels)
        if len(pixels) != len(numbers):
            raise DataError(f"{text}: there are {len(pixels)} {part} images and {len(numbers)} labels of them")
        found.append((pixels, numbers))
    return _checked(text, found[0], found[1] if len(found) > 1 else None, classes)


def _checked(text: str, train: _Part, test: _Part | None, classes: tuple[str, ...] | None) -> Decoded:
    """Return the data, once each label is a class's, and each class has a training image."""
    known = classes if classes is not None else tuple(map(str, range(len(set(train[1].tolist())))))
    for part, labels in (("training", train[1]), *((("test", test[1]),) if test is not None else ())):
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= len(known):
            raise DataError(
                f"{text}: the {part} labels must go from 0 to {len(known) - 1}, as there are {len(known)} classes, "
                f"got {least} … {most}"
            )
    lacking = set(range(len(known))) - set(train[1].tolist())
    if lacking:
        raise DataError(f"{text}: class {shortened(printable(known[min(lacking)]), 80)!r} has no training image")
    return Decoded(known, *train, *(test or (None, None)))


class _Names(NamedTuple):
    """How an image's place is told: ``image 7 of the training set``."""

    text: str
    part: str

    def of(self, number: int) -> str:
        return f"{self.text}: image {number} of the {self.part}"


def _read_dataset(text: str, part: str, dataset: Any) -> _Part:
    """Return all images and labels of a ``Dataset``, read one by one."""
    said = _Names(text, part)
    if _is_array(dataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(f"{text}: the {part} must be a Dataset with a length and items, got {_kind(dataset)}")
    try:
        count = len(dataset)
    except (Exception, SystemExit) as error:
        raise DataError(f"{text}: the {part} has no length: {_why(error)}") from None
    images, labels = [], []
    for number in range(count):
        try:
            item = dataset[number]
        except (Exception, SystemExit) as error:
            raise DataError(f"{said.of(number)} cannot be read: {_why(error)}") from None
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"{said.of(number)} must be a pair of an image and its label, got {_kind(item)}")
        image, label = item
        labels.append(_label(said.of(number), label))
        # Of Pillow's.
        if hasattr(image, "getbands") and hasattr(image, "convert"):
            image = np.asarray(image.convert("RGB"))
        images.append(_pixels(said.of(number), _as_array(said.of(number), image)[None], alone=True))
    if not images:
        raise DataError(f"{text}: the {part} holds no images")
    return torch.from_numpy(np.concatenate(images)), torch.tensor(labels, dtype=torch.int64)


def _classes_of(text: str, dataset: Any) -> tuple[str, ...] | None:
    """Return the names that a ``Dataset`` gives its classes as torchvision's do; ``None`` where it gives none."""
    given = getattr(dataset, "classes", None)
    named = isinstance(given, (list, tuple)) and given and all(isinstance(name, str) for name in given)
    return class_names(text, given) if named else None


def class_names(text: str, given: Any) -> tuple[str, ...]:
    """Return names of classes, which must be texts, each once.

    Raises:
        DataError: they are not.
    """
    if not isinstance(given, (list, tuple)) or not all(isinstance(name, str) for name in given):
        raise DataError(f"{text}: classes must be a tuple of texts, got {_kind(given)}")
    if len(set(given)) != len(given):
        raise DataError(f"{text}: classes name one of them twice")
    return tuple(given)


def _is_array(value: object) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor))


def _as_array(said: str, value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        try:
            value = value.detach().cpu()
            return np.asarray((value.float() if value.is_floating_point() else value).numpy())
        except (RuntimeError, TypeError) as error:
            raise DataError(f"{said} cannot be read: {_why(error)}") from None
    if not isinstance(value, np.ndarray):
        raise DataError(f"{said} must be a numpy array or a torch tensor, got {_kind(value)}")
    return value


def _pixels(said: str, given: NDArray[Any], *, alone: bool = False) -> NDArray[np.uint8]:
    """Return images, or one that stands ``alone`` in its array, as uint8 (N, 3, 32, 32), in memory of their own."""
    if not given.size:
        raise DataError(f"{said}: there are none")
    shape, sides = given.shape, (SIDE, SIDE)
    if shape[1:] == sides:
        given = given[:, None]
    elif len(shape) == 4 and shape[1:3] == sides and shape[3] in (1, 3):
        given = given.transpose(0, 3, 1, 2)
    elif not (len(shape) == 4 and shape[1] in (1, 3) and shape[2:] == sides):
        raise DataError(
            f"{said} must be {SIDE}×{SIDE} pixels, of shape {WANTED.replace('N, ', '') if alone else WANTED}, got "
            f"{shape[1:] if alone else shape}; resize {'it' if alone else 'them'} in the function"
        )
    if given.dtype != np.uint8 and given.dtype.kind != "f":
        raise DataError(f"{said} must be uint8, or floats from 0 to 1, got {given.dtype}")
    made = np.empty((len(given), 3, *sides), dtype=np.uint8)
    for start in range(0, len(given), STEP):
        part = given[start : start + STEP]
        made[start : start + STEP] = part if part.dtype == np.uint8 else _bytes_of(said, part)
    return made


def _bytes_of(said: str, floats: NDArray[Any]) -> NDArray[np.uint8]:
    least, most = float(floats.min()), float(floats.max())
    # NaN is neither.
    if not (least >= 0 and most <= 1):
        raise DataError(
            f"{said}: floats must go from 0 to 1, without NaN, got {least:g} … {most:g}; return them before they are "
            "normalised, or as uint8"
        )
    return np.asarray(np.rint(floats.astype(np.float64) * 255), dtype=np.uint8)


def _labels(said: str, given: Any) -> torch.Tensor:
    """Return labels as int64 (N,)."""
    if isinstance(given, (list, tuple)):
        try:
            given = np.asarray(given)
        except (ValueError, OverflowError, RuntimeError) as error:
            raise DataError(f"{said} must be whole numbers: {_why(error)}") from None
    array = _as_array(said, given)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise DataError(f"{said} must be whole numbers of shape (N,), got {array.dtype} of shape {array.shape}")
    if not array.size:
        raise DataError(f"{said}: there are none")
    return torch.from_numpy(array.astype(np.int64))


def _label(said: str, label: Any) -> int:
    """Return one label; a truth value is none, nor is a float that happens to be whole."""
    if isinstance(label, (np.ndarray, np.generic, torch.Tensor)) and label.ndim == 0:
        label = label.item()
    if type(label) is not int or not 0 <= label < 1 << 31:
        raise DataError(f"{said} must have a label that is a whole number from 0, got {_kind(label)}")
    return label


def _kind(value: object) -> str:
    """Return what a value is, for errors: a short one itself."""
    if value is None or isinstance(value, (bool, int, float)):
        return shortened(repr(value), 40)
    return f"a {printable(type(value).__name__)}"


def _why(error: BaseException) -> str:
    return printable(shortened(f"{type(error).__name__}: {' '.join(str(error).split())}", 300))

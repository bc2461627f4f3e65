"""Images in class folders, in a folder or a tar archive, which is read without being extracted."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lut._files import file_error, read_bytes
from lut._printable import printable, shortened
from lut.errors import DataError
from search._data._tar import tar_files

__all__ = ["SIDE", "Decoded", "is_image", "read_images"]

SIDE = 32
# An image of 32×32 pixels takes some kilobytes.
LARGEST_IMAGE = 1 << 24
# They are held as bytes, twice for a moment: 1.6 GB.
MOST_IMAGES = 1 << 18
# Of a name: what all else lies in, train, a class, and the image.
MOST_PARTS = 4
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"))
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_TESTS = ("test", "val")

_Parts = tuple[str, ...]


class Decoded(NamedTuple):
    """Images (N, 3, 32, 32), uint8, and labels (N,), int64; ``None`` where no test set was kept apart."""

    classes: tuple[str, ...]
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor | None
    test_labels: torch.Tensor | None


def read_images(path: Path) -> Decoded:
    """Decode ``train/CLASS/…`` and ``test/CLASS/…`` (or ``val``), or ``CLASS/…`` alone, from a folder or a tar archive.

    All of it may lie in one more folder. Where there is a ``test``, a ``val`` beside it is left out. Images come in the
    order of their names, whatever the order in the archive.

    Raises:
        DataError: Pillow is missing, there are no images, too many, or of one class only, one is broken, there twice or
            not 32×32, they lie otherwise, or the archive is damaged.
        FileAccessError: the path is missing or cannot be read.
    """
    decoder = open_pillow()
    found = _decoded(decoder, path)
    if not found:
        raise DataError(
            f"{path} holds no images; expected train/CLASS/… and test/CLASS/…, or CLASS/…, with files such as 0001.png"
        )
    names = sorted(found)
    # Strip one folder above all else: what an archive is often packed in.
    above = 1 if len({parts[0] for parts in names}) == 1 and _may_strip(names) else 0
    sets: dict[str, list[_Parts]] = {"": names}
    if any(parts[above] == "train" and len(parts) == above + 3 for parts in names):
        sets = {name: [parts for parts in names if parts[above] == name] for name in ("train", *_TESTS)}
        stray = next((parts for parts in names if parts[above] not in sets), None)
        if stray is not None:
            raise DataError(f"{path}: {_shown(stray)} lies neither in train nor in {' or '.join(_TESTS)}")
        above += 1
    train = sets.get("train", names)
    test = next((sets[name] for name in _TESTS if sets.get(name)), None)
    if "train" in sets and test is None:
        raise DataError(
            f"{path} has a folder train but none of {' or '.join(_TESTS)}; add one, or drop the level train"
        )
    classes = _classes(path, train, above)
    if test is not None:
        lacking = sorted(set(_classes(path, test, above)) - set(classes))
        if lacking:
            raise DataError(f"{path}: class {lacking[0]!r} is among the test images but not in train")
    images, labels = _stacked(found, train, classes, above)
    tested = _stacked(found, test, classes, above) if test is not None else (None, None)
    return Decoded(classes, images, labels, *tested)


def _may_strip(names: Sequence[_Parts]) -> bool:
    """Whether the one folder that holds everything is neither a set, such as ``train``, nor a class."""
    return all(len(parts) >= 3 for parts in names) and names[0][0] not in ("train", *_TESTS)


def _classes(path: Path, names: Sequence[_Parts], above: int) -> tuple[str, ...]:
    for parts in names:
        if len(parts) != above + 2:
            raise DataError(f"{path}: {_shown(parts)} does not lie in a class's folder, as CLASS/IMAGE does")
    return tuple(sorted({parts[above] for parts in names}))


def _stacked(
    found: dict[_Parts, NDArray[np.uint8]], names: Sequence[_Parts], classes: tuple[str, ...], above: int
) -> tuple[torch.Tensor, torch.Tensor]:
    number = {name: i for i, name in enumerate(classes)}
    images = np.empty((len(names), 3, SIDE, SIDE), dtype=np.uint8)
    for i, parts in enumerate(names):
        images[i] = found[parts].transpose(2, 0, 1)
    labels = torch.tensor([number[parts[above]] for parts in names], dtype=torch.int64)
    return torch.from_numpy(images), labels


def open_pillow() -> ModuleType:
    """Return what decodes images.

    Raises:
        DataError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading images needs Pillow: pip install -e '.[search]'") from None
    return Image


def _decoded(decoder: ModuleType, path: Path) -> dict[_Parts, NDArray[np.uint8]]:
    """Return all images by the parts of their names."""
    found: dict[_Parts, NDArray[np.uint8]] = {}
    with warnings.catch_warnings():
        # Of broken images and of ones that are too large; both are refused here.
        warnings.simplefilter("ignore")
        for parts, content in _image_files(path):
            if parts in found:
                raise DataError(f"{path} holds two files named {_shown(parts)}; fetch it again")
            if len(found) == MOST_IMAGES:
                raise DataError(f"{path} holds more than {MOST_IMAGES} images, which do not fit into memory")
            found[parts] = _decode(decoder, content, path, parts)
    return found


def _decode(decoder: ModuleType, content: bytes, path: Path, parts: _Parts) -> NDArray[np.uint8]:
    """Return an image's pixels, uint8 (32, 32, 3)."""
    try:
        with decoder.open(io.BytesIO(content), formats=_FORMATS) as image:
            # Before anything is decoded: the size is the header's.
            size = image.size
            if size == (SIDE, SIDE):
                pixels = np.array(image.convert("RGB"), dtype=np.uint8)
                size = pixels.shape[1::-1]
                if size == (SIDE, SIDE):
                    return pixels
    except decoder.UnidentifiedImageError:
        raise DataError(f"{path}: the image {_shown(parts)} is broken: it is none of {', '.join(_FORMATS)}") from None
    except Exception as error:
        # Of damaged files decoders raise whatever they stumble over.
        why = printable(shortened(str(error) or type(error).__name__, 200))
        raise DataError(f"{path}: the image {_shown(parts)} is broken: {why}") from None
    raise DataError(f"{path}: the image {_shown(parts)} is {size[0]}×{size[1]} pixels; all must be {SIDE}×{SIDE}")


def _shown(parts: _Parts) -> str:
    return shortened(printable("/".join(parts)), 120)


def is_image(name: str) -> bool:
    """Whether a file's name is an image's."""
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def _image_files(path: Path) -> Iterator[tuple[_Parts, bytes]]:
    """Yield all images with the parts of their names, hidden ones left out."""
    files = _folder_files(path) if path.is_dir() else tar_files(path, is_image, LARGEST_IMAGE)
    for name, content in files:
        parts = tuple(part for part in PurePosixPath(name).parts if part not in (".", "/"))
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        if len(parts) > MOST_PARTS:
            raise DataError(f"{path}: {_shown(parts)} does not lie in a class's folder, as CLASS/IMAGE does")
        yield parts, content


def _folder_files(path: Path) -> Iterator[tuple[str, bytes]]:
    def refuse(error: OSError) -> None:
        # A folder that cannot be listed would be missing without a word.
        raise file_error(Path(error.filename or path), "read", error)

    for folder, below, names in os.walk(path, onerror=refuse):
        below.sort()
        for name in sorted(names):
            if is_image(name):
                file = Path(folder, name)
                yield file.relative_to(path).as_posix(), read_bytes(file, limit=LARGEST_IMAGE)

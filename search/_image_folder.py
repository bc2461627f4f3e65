"""Images in class folders, in a folder or a tar archive, which is read without being extracted."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lut._files import file_error
from lut.errors import DataError, FileAccessError

__all__ = ["SIDE", "Decoded", "first_file", "is_image", "read_images", "tar_files"]

SIDE = 32
# An image of 32×32 pixels takes some kilobytes.
LARGEST_IMAGE = 1 << 24
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
        DataError: Pillow is missing, there are no images or of one class only, one is broken or not 32×32, they lie
            otherwise, or the archive is damaged.
        FileAccessError: the path is missing or cannot be read.
    """
    decoder = _pillow()
    found = {parts: _decode(decoder, content, path, parts) for parts, content in _image_files(path)}
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
            raise DataError(f"{path}: {'/'.join(stray)} lies neither in train nor in {' or '.join(_TESTS)}")
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
            raise DataError(f"{path}: {'/'.join(parts)} does not lie in a class's folder, as CLASS/IMAGE does")
    return tuple(sorted({parts[above] for parts in names}))


def _stacked(
    found: dict[_Parts, NDArray[np.uint8]], names: Sequence[_Parts], classes: tuple[str, ...], above: int
) -> tuple[torch.Tensor, torch.Tensor]:
    number = {name: i for i, name in enumerate(classes)}
    images = torch.from_numpy(np.stack([found[parts] for parts in names]))
    labels = torch.tensor([number[parts[above]] for parts in names], dtype=torch.int64)
    return images.permute(0, 3, 1, 2).contiguous(), labels


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading images needs Pillow: pip install -e '.[search]'") from None
    return Image


def _decode(decoder: ModuleType, content: bytes, path: Path, parts: _Parts) -> NDArray[np.uint8]:
    """Return an image's pixels, uint8 (32, 32, 3)."""
    name = "/".join(parts)
    try:
        with decoder.open(io.BytesIO(content), formats=_FORMATS) as image:
            size = image.size
            if size == (SIDE, SIDE):
                return np.array(image.convert("RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, decoder.DecompressionBombError) as error:
        raise DataError(f"{path}: the image {name} is broken: {error}") from None
    raise DataError(f"{path}: the image {name} is {size[0]}×{size[1]} pixels; all must be {SIDE}×{SIDE}")


def is_image(name: str) -> bool:
    """Whether a file's name is an image's."""
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def _image_files(path: Path) -> Iterator[tuple[_Parts, bytes]]:
    """Yield all images with the parts of their names, hidden ones left out."""
    files = _folder_files(path) if path.is_dir() else tar_files(path, is_image, LARGEST_IMAGE)
    for name, content in files:
        parts = tuple(part for part in PurePosixPath(name).parts if part not in (".", "/"))
        if not any(part.startswith(".") or part == "__MACOSX" for part in parts):
            yield parts, content


def _folder_files(path: Path) -> Iterator[tuple[str, bytes]]:
    for folder, below, names in os.walk(path):
        below.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if not is_image(name):
                continue
            try:
                if file.stat().st_size > LARGEST_IMAGE:
                    raise DataError(f"{file} is too large for an image of {SIDE}×{SIDE} pixels")
                yield file.relative_to(path).as_posix(), file.read_bytes()
            except OSError as error:
                raise file_error(file, "read", error) from None


def tar_files(path: Path, wanted: Callable[[str], bool], largest: int) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of an archive's plain files whose name ``wanted`` accepts, in the archive's order.

    Raises:
        DataError: the archive is damaged or no tar, or a file has more than ``largest`` bytes.
        FileAccessError: it cannot be read.
    """
    with _open_tar(path) as archive:
        for member in archive:
            if not member.isfile() or not wanted(member.name):
                continue
            if member.size > largest:
                raise DataError(f"{path}: {member.name} has {member.size} bytes, and at most {largest} are expected")
            stream = archive.extractfile(member)
            if stream is not None:
                yield member.name, stream.read()
        _check_end(path, archive)


def first_file(path: Path, wanted: Callable[[str], bool]) -> str | None:
    """Return the name of an archive's first plain file whose name ``wanted`` accepts; raises as :func:`tar_files`."""
    with _open_tar(path) as archive:
        return next((member.name for member in archive if member.isfile() and wanted(member.name)), None)


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive, compressed or not; errors while it is open become ours."""
    try:
        with tarfile.open(path) as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} is no tar archive, or a damaged one ({error}); fetch it again") from None
    except OSError as error:
        # A damaged compressed stream: the system's own errors have a number.
        if error.errno is None and not isinstance(error, FileAccessError):
            raise DataError(f"{path} is a damaged archive ({error}); fetch it again") from None
        raise file_error(path, "read", error) from None


def _check_end(path: Path, archive: tarfile.TarFile) -> None:
    """Make sure that nothing but zeros follows the last file: tarfile takes a damaged header for the end."""
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    # To the very end, where a compressed stream's checksum is compared.
    padding = 0
    while block := stream.read(1 << 16):
        padding += len(block)
        if any(block):
            raise DataError(f"{path} is a damaged archive (byte {archive.offset} of the tar); fetch it again")
    if not padding:
        raise DataError(f"{path} is a damaged archive (it has no end); fetch it again")

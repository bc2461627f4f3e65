"""CIFAR-10 and CIFAR-100 as their authors give them out: the Python archives, the binary ones, or a folder of either.

The Python archives hold pickles, and unpickling can run anything. Here nothing is unpickled: see ``_pickled.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lut._files import read_bytes, show_bytes
from lut._printable import printable, shortened
from lut.errors import DataError
from search._data._image_folder import SIDE, Decoded, is_image
from search._data._pickled import PickledError, byte_array, read_pickled
from search._data._tar import tar_files

__all__ = ["read_cifar"]

PIXELS = 3 * SIDE * SIDE
# Of a class.
LONGEST_NAME = 255
# CIFAR-100's largest file has 154 MB, all have 185; pickled by today's Python for Python 2, half as much again.
LARGEST_FILE, LARGEST_ALL = 1 << 28, 5 << 26


class _Layout(NamedTuple):
    """The files of one way in which a data set is given out."""

    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    binary: bool

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.names)


_TEN = tuple(f"data_batch_{i}" for i in range(1, 6))
_LAYOUTS = {
    10: (
        _Layout("cifar-10-batches-py", _TEN, "test_batch", "batches.meta", False),
        _Layout("cifar-10-batches-bin", tuple(f"{n}.bin" for n in _TEN), "test_batch.bin", "batches.meta.txt", True),
    ),
    100: (
        _Layout("cifar-100-python", ("train",), "test", "meta", False),
        _Layout("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", True),
    ),
}


def read_cifar(path: Path, classes: int) -> Decoded | None:
    """Return CIFAR-10 or CIFAR-100 (by ``classes``; fine labels); ``None`` where the path holds none of its files.

    Args:
        path: an archive, the folder that one was extracted into, or the folder above that.
        classes: 10 or 100.

    Raises:
        DataError: a file is missing, damaged, or holds what such files do not hold.
        FileAccessError: the path is missing or cannot be read.
    """
    layouts = _LAYOUTS[classes]
    if not path.is_dir():
        found = _from_tar(path, layouts)
        return _decoded(path, *found, classes) if found is not None else None
    for folder in (path, *(path / layout.folder for layout in layouts)):
        for layout in layouts:
            present = [name for name in layout.files if (folder / name).is_file()]
            if present:
                files = ((name, read_bytes(folder / name, limit=LARGEST_FILE)) for name in present)
                return _decoded(folder, layout, _together(folder, files), classes)
    return None


def _from_tar(path: Path, layouts: Sequence[_Layout]) -> tuple[_Layout, dict[str, bytes]] | None:
    """Return the layout of an archive and its files by name; ``None`` where an image or nothing known is first."""
    known = {name: layout for layout in layouts for name in layout.files}
    with contextlib.closing(tar_files(path, lambda n: is_image(n) or _base(n) in known, LARGEST_FILE)) as files:
        first = next(files, None)
        if first is None or is_image(first[0]):
            return None
        layout = known[_base(first[0])]
        return layout, _together(path, (f for f in chain((first,), files) if _base(f[0]) in layout.files))


def _together(path: Path, files: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """Return files by their plain names; of two with one name nobody could say which was meant."""
    found: dict[str, bytes] = {}
    total = 0
    for name, content in files:
        base = _base(name)
        total += len(content)
        if base in found:
            raise DataError(f"{path} holds two files named {base}; fetch it again")
        if total > LARGEST_ALL:
            raise DataError(f"{path}: its files hold more than {show_bytes(LARGEST_ALL)}, which is too many for CIFAR")
        found[base] = content
    return found


def _base(name: str) -> str:
    return PurePosixPath(name).name


def _decoded(path: Path, layout: _Layout, contents: Mapping[str, bytes], classes: int) -> Decoded:
    missing = [name for name in layout.files if name not in contents]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)} of {layout.folder}; fetch it again")
    names = _class_names(path, layout, contents[layout.names], classes)
    read = _binary_batch if layout.binary else _python_batch
    *train, test = (read(path, name, contents[name], classes) for name in (*layout.train, layout.test))
    images, labels = zip(*train, strict=True)
    return Decoded(names, torch.cat(images), torch.cat(labels), *test)


def _class_names(path: Path, layout: _Layout, content: bytes, classes: int) -> tuple[str, ...]:
    given: Any
    if layout.binary:
        given = content.decode("utf-8", "replace").split()
    else:
        given = _unpickled(path, layout.names, content).get("label_names" if classes == 10 else "fine_label_names")
    if (
        not isinstance(given, list)
        or len(given) != classes
        or not all(isinstance(name, (str, bytes)) for name in given)
    ):
        raise DataError(f"{path}: {layout.names} does not name {classes} classes; fetch it again")
    names = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in given)
    if any(len(name) > LONGEST_NAME for name in names):
        raise DataError(f"{path}: {layout.names} names a class {printable(shortened(max(names, key=len), 80))}")
    if len(set(names)) != classes:
        raise DataError(f"{path}: {layout.names} names a class twice; fetch it again")
    return names


def _python_batch(path: Path, name: str, content: bytes, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch = _unpickled(path, name, content)
    data = byte_array(batch.get("data"))
    labels = batch.get("labels" if classes == 10 else "fine_labels")
    if data is None or data.ndim != 2 or data.shape[1] != PIXELS:
        raise DataError(f"{path}: {name} holds no images of {PIXELS} bytes")
    if (
        not isinstance(labels, list)
        or len(labels) != len(data)
        or not all(type(label) is int and 0 <= label < classes for label in labels)
    ):
        raise DataError(f"{path}: {name} does not hold a label of 0 … {classes - 1} for each image")
    return _tensors(path, name, data, np.array(labels, dtype=np.int64))


def _binary_batch(path: Path, name: str, content: bytes, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    # CIFAR-100 has the coarse label before the fine one.
    labels = 1 if classes == 10 else 2
    record = labels + PIXELS
    if len(content) % record:
        raise DataError(f"{path}: {name} has {len(content)} bytes, not a multiple of an image's {record}")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    if rows.size and rows[:, labels - 1].max() >= classes:
        raise DataError(f"{path}: {name} holds a label above {classes - 1}")
    return _tensors(path, name, rows[:, labels:], rows[:, labels - 1].astype(np.int64))


def _tensors(
    path: Path, name: str, pixels: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    if not len(labels):
        raise DataError(f"{path}: {name} holds no images")
    # A copy: an array over a file's bytes cannot be written to, which tensors do not know.
    images = np.array(pixels, order="C").reshape(-1, 3, SIDE, SIDE)
    return torch.from_numpy(images), torch.from_numpy(labels)


def _unpickled(path: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        batch = read_pickled(content)
    except PickledError as error:
        if error.refused:
            raise DataError(f"{path}: {name} is refused, do not trust it: {error}") from None
        raise DataError(f"{path}: {name} is damaged ({error}); fetch it again") from None
    if type(batch) is not dict:
        raise DataError(f"{path}: {name} is not a CIFAR file; fetch it again")
    return batch

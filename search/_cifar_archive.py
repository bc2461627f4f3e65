"""CIFAR-10 and CIFAR-100 as their authors give them out: the Python archives, the binary ones, or a folder of either.

The Python archives hold pickles, and a pickle can run anything. Here they are read by an unpickler that makes arrays of
bytes and nothing else.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lut._files import read_bytes
from lut.errors import DataError
from search._image_folder import SIDE, Decoded, first_file, is_image, tar_files

__all__ = ["read_cifar"]

PIXELS = 3 * SIDE * SIDE
# CIFAR-100's largest file has 154 MB.
LARGEST_FILE = 1 << 28


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


_LAYOUTS = {
    10: (
        _Layout(
            "cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta", False
        ),
        _Layout(
            "cifar-10-batches-bin",
            tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            "test_batch.bin",
            "batches.meta.txt",
            True,
        ),
    ),
    100: (
        _Layout("cifar-100-python", ("train",), "test", "meta", False),
        _Layout("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", True),
    ),
}


def read_cifar(path: Path, classes: int) -> Decoded | None:
    """Return CIFAR-10 or CIFAR-100 (by ``classes``; fine labels); ``None`` where the path holds none of its files.

    A folder of the Python version is read by torchvision where that is installed and accepts it.

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
    if (path / layouts[0].folder).is_dir():
        known = _by_torchvision(path, classes)
        if known is not None:
            return known
    for folder in (path, *(path / layout.folder for layout in layouts)):
        for layout in layouts:
            present = [name for name in layout.files if (folder / name).is_file()]
            if present:
                return _decoded(folder, layout, {name: read_bytes(folder / name) for name in present}, classes)
    return None


def _from_tar(path: Path, layouts: Sequence[_Layout]) -> tuple[_Layout, dict[str, bytes]] | None:
    """Return the layout of an archive and its files by name; ``None`` where an image or nothing known is first."""
    known = {name: layout for layout in layouts for name in layout.files}
    first = first_file(path, lambda name: is_image(name) or _base(name) in known)
    if first is None or is_image(first):
        return None
    layout = known[_base(first)]
    files = tar_files(path, lambda name: _base(name) in layout.files, LARGEST_FILE)
    return layout, {_base(name): content for name, content in files}


def _base(name: str) -> str:
    return PurePosixPath(name).name


def _decoded(path: Path, layout: _Layout, contents: Mapping[str, bytes], classes: int) -> Decoded:
    missing = [name for name in layout.files if name not in contents]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)} of {layout.folder}; fetch it again")
    names = _class_names(path, layout, contents[layout.names], classes)
    read = _binary_batch if layout.binary else _python_batch
    parts = [read(path, name, contents[name], classes) for name in (*layout.train, layout.test)]
    *train, test = parts
    return Decoded(
        names,
        torch.cat([images for images, _ in train]),
        torch.cat([labels for _, labels in train]),
        *test,
    )


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
    if len(set(names)) != classes:
        raise DataError(f"{path}: {layout.names} names a class twice; fetch it again")
    return names


def _python_batch(path: Path, name: str, content: bytes, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch = _unpickled(path, name, content)
    data = batch.get("data")
    labels = batch.get("labels" if classes == 10 else "fine_labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        raise DataError(f"{path}: {name} holds no images of {PIXELS} bytes")
    if (
        not isinstance(labels, list)
        or len(labels) != len(data)
        or not all(isinstance(label, int) and 0 <= label < classes for label in labels)
    ):
        raise DataError(f"{path}: {name} does not hold a label of 0 … {classes - 1} for each image")
    return _tensors(path, name, data, np.array(labels, dtype=np.int64))


def _binary_batch(path: Path, name: str, content: bytes, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    # CIFAR-100 has the coarse label before the fine one.
    labels = 1 if classes == 10 else 2
    record = labels + PIXELS
    if len(content) % record:
        raise DataError(f"{path}: {name} has {len(content)} bytes, which is no multiple of an image's {record}")
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


class _Unpickler(pickle.Unpickler):
    """Reads arrays, and nothing that is not in its list: whatever else a pickle names is refused before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few things that an array is pickled with."""
        known = _array_parts()
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) not in known:
            raise DataError(f"it names {module}.{name}, which no file of CIFAR does: do not trust it")
        return known[module, name]


def _array_parts() -> dict[tuple[str, str], Any]:
    array = np.zeros(1, dtype=np.uint8)
    # Where numpy keeps these two differs between its versions; what pickling an array calls is them.
    reconstruct, from_buffer = array.__reduce__()[0], array.__reduce_ex__(5)[0]
    return {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): reconstruct,
        ("numpy.core.numeric", "_frombuffer"): from_buffer,
        ("_codecs", "encode"): _encoded,
    }


def _encoded(text: str, encoding: str) -> bytes:
    """Return text as bytes, as Python 3 pickles bytes for Python 2; of all codecs, only the one that it uses."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise DataError("it encodes text in an unusual way")
    return text.encode("latin1")


def _unpickled(path: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {name} is refused: {error}") from None
    except Exception as error:
        # A damaged pickle can raise anything.
        raise DataError(f"{path}: {name} is damaged ({type(error).__name__}); fetch it again") from None
    if not isinstance(batch, dict):
        raise DataError(f"{path}: {name} is no file of CIFAR; fetch it again")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in batch.items()}


def _by_torchvision(root: Path, classes: int) -> Decoded | None:
    """Return what torchvision reads; ``None`` where it is not installed, or refuses the folder by its hashes."""
    try:
        datasets = importlib.import_module("torchvision.datasets")
        make = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
        train, test = (make(str(root), train=part, download=False) for part in (True, False))
    except Exception:
        # Our own reader says what is wrong, if anything is.
        return None
    images = [torch.from_numpy(part.data.transpose(0, 3, 1, 2).copy()) for part in (train, test)]
    labels = [torch.tensor(part.targets, dtype=torch.int64) for part in (train, test)]
    return Decoded(tuple(train.classes), images[0], labels[0], images[1], labels[1])

"""Image data sets as whole tensors in memory: decoded once, split and sampled by class."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.nn import functional as F  # noqa: N812

from lut._files import file_error
from lut._printable import printable, shortened
from lut._suggest import did_you_mean
from lut.errors import CheckpointError, DataError, FileAccessError, UsageError
from profiler._model import parse_place
from profiler._reference import reference_path
from search._data._cifar_archive import read_cifar
from search._data._image_folder import SIDE, Decoded, open_pillow, read_images
from search._data._user_data import call_loader, class_names, read_arrays, read_returned
from search._training._checkpoint import read_tensors, write_tensors

__all__ = ["ImageData", "bilevel_split", "check_data", "data_name", "load_data", "make_generator", "subset"]

FORMS = "digits, cifar10:PATH, cifar100:PATH, images:PATH, FILE.py:FUNCTION"
_KINDS = ("digits", "cifar10", "cifar100", "images")
# What is neither of these by its first word is a module's function.
_FUNCTION = re.compile(r"(?P<place>.+\.py|[^\W\d]\w*(\.[^\W\d]\w*)*):[^\W\d]\w*")
# Test share of data that comes in one piece.
HELD_OUT = 0.2
# Raised whenever the same file would be decoded otherwise.
CACHE_VERSION = 1


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set of 32×32 RGB images.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``, ``images``, or the file or module of a user's function: ``my.py``.
        classes: their names; a label is a place in it.
        train_images: uint8 (N, 3, 32, 32).
        train_labels: int64 (N,).
        test_images: as ``train_images``, of other images.
        test_labels: as ``train_labels``.
        mirrored: whether a mirrored image is still one of its class, as a photograph is and a digit is not; otherwise
            no training flips images.
    """

    name: str
    classes: tuple[str, ...]
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    mirrored: bool

    @cached_property
    def mean(self) -> torch.Tensor:
        """Mean of the training images, whose values go from 0 to 1, per channel; float32 (3,)."""
        return self._moments[0]

    @cached_property
    def std(self) -> torch.Tensor:
        """Standard deviation, as :attr:`mean`; at least 1/255, so that one may divide by it."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.arange(256, dtype=torch.float64) / 255
        shares = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in self.train_images.unbind(1)])
        shares = shares / shares.sum(1, keepdim=True, dtype=torch.float64)
        mean = shares @ values
        variance = (shares * (values - mean[:, None]) ** 2).sum(1)
        return mean.float(), variance.sqrt().clamp_min(1 / 255).float()

    @cached_property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of images, labels and classes."""
        digest = hashlib.sha256(msgspec.json.encode(self.classes))
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]


def data_name(text: str) -> str:
    """Return the name that data will have (:attr:`ImageData.name`), without loading them."""
    place = text.rpartition(":")[0] if _is_function(text) else text.partition(":")[0]
    return Path(place).name


def check_data(text: str) -> tuple[str, Path | None, os.stat_result | None]:
    """Return the kind of data that a text names and where it lies, without reading it or running a function.

    Digits lie nowhere, and a function's kind is ``function``.

    Raises:
        UsageError: the text names no data, or a function's file is missing.
        FileAccessError: the path is missing.
        DataError: what decodes images is not installed.
    """
    kind, colon, place = text.partition(":")
    if kind == "digits" and not colon:
        return kind, None, None
    if _is_function(text):
        parse_place(text, "--data", "function")
        return "function", None, None
    if kind not in ("cifar10", "cifar100", "images") or not place:
        meant = did_you_mean(kind, _KINDS)
        raise UsageError(f"unknown data {text!r}; give one of {FORMS}{meant if meant and not place else ''}")
    if kind == "images":
        open_pillow()
    path = Path(place).expanduser()
    try:
        return kind, path, path.stat()
    except OSError as error:
        raise file_error(path, "read", error) from None


def _is_function(text: str) -> bool:
    """Whether a text names a function, or a Python file without one."""
    if text.partition(":")[0] in _KINDS:
        return False
    return text.endswith(".py") or _FUNCTION.fullmatch(text) is not None


def load_data(text: str, *, cache: Path | None = None) -> ImageData:
    """Return the data set that a text names.

    - ``digits``: scikit-learn's 1,797 handwritten digits, enlarged from 8×8; needs no file.
    - ``cifar10:PATH``, ``cifar100:PATH`` (fine labels): an archive as its authors give it out, Python or binary, the
      folder that one was extracted into, or the same images as for ``images:``.
    - ``images:PATH``: a folder or tar archive with ``train/CLASS/…`` and ``test/CLASS/…`` (or ``val``), or ``CLASS/…``
      alone, of which a fifth of each class is then the test set, always the same.
    - ``my.py:load``, ``package.module:load``: what a function of yours returns that takes no arguments, which is run:

      - ``(train_images, train_labels, test_images, test_labels)`` or ``(images, labels)``, as numpy arrays or torch
        tensors. Images are uint8, or floats from 0 to 1, of shape (N, 3, 32, 32), (N, 32, 32, 3) or, grey, (N, 32, 32);
        labels whole numbers (N,) from 0, a training image for each;
      - ``(train, test)`` or one alone: ``torch.utils.data.Dataset`` or whatever has a length and gives pairs of an
        image (as above without N, or Pillow's) and its label; ``.classes``, if a list of texts, names the classes;
      - an :class:`ImageData`.

      Where nothing is kept apart, a fifth of each class is the test set, as above. Arrays do not tell whether images
      may be mirrored, so none are; an :class:`ImageData` says it with ``mirrored``. The function should return the same
      every time: a run is not resumed with other data.

    Args:
        text: one of these.
        cache: the folder where a decoded archive is kept; by default ``latency-lut/data`` in the user's cache folder.

    Raises:
        UsageError: the text is none of these, or the function is missing or fails.
        DataError: what lies there, or the function returned, cannot be used.
        FileAccessError: the path is missing or cannot be read.
    """
    kind, path, status = check_data(text)
    if kind == "function":
        return _returned(text)
    if path is None or status is None:
        return _finished("digits", _digits(), mirrored=False)
    if path.is_dir():
        return _decoded(kind, path)
    described = (CACHE_VERSION, kind, os.path.realpath(path), status.st_size, status.st_mtime_ns)
    key = hashlib.sha256(msgspec.json.encode(described)).hexdigest()[:32]
    kept = (cache or reference_path().parent / "data") / f"{key}.safetensors"
    data = _from_cache(kept, kind)
    if data is None:
        data = _decoded(kind, path)
        # Without a cache everything works, only later.
        with contextlib.suppress(FileAccessError):
            _to_cache(kept, data)
    return data


def subset(data: ImageData, *, train: int | None = None, test: int | None = None, seed: int) -> ImageData:
    """Return fewer images, equally many of each class as far as there are so many, in their old order.

    Args:
        data: the whole.
        train: how many training images; all of them where it is not given.
        test: the same of the test images.
        seed: fixes which ones.

    Raises:
        UsageError: more is asked for than there is, or fewer than one of each class.
    """
    changes: dict[str, Any] = {}
    for part, labels, images, count in (
        ("train", data.train_labels, data.train_images, train),
        ("test", data.test_labels, data.test_images, test),
    ):
        if count is None:
            continue
        groups = _by_class(labels, seed, f"subset {part}")
        if not len(groups) <= count <= len(labels):
            raise UsageError(
                f"{data.name} has {len(labels)} {part} images of {len(groups)} classes; a subset must have between "
                f"{len(groups)} and {len(labels)}, got {count}"
            )
        quotas = _quotas([len(group) for group in groups], count)
        chosen = _joined([group[:quota] for group, quota in zip(groups, quotas, strict=True)])
        changes[f"{part}_images"], changes[f"{part}_labels"] = images[chosen], labels[chosen]
    return replace(data, **changes)


def bilevel_split(data: ImageData, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two halves of the training images, as rising indices (int64), with half of each class in each.

    TAS (Dong & Yang 2019) trains weights on one and the architecture on the other.

    Raises:
        DataError: a class has a single image.
    """
    first, second = [], []
    odd = 0
    for group in _by_class(data.train_labels, seed, "halves"):
        if len(group) < 2:
            name = data.classes[int(data.train_labels[group[0]])]
            raise DataError(f"{data.name}: class {name!r} has one training image, and a half needs one of each class")
        # The odd one goes to one half and to the other in turns.
        middle = (len(group) + odd % 2) // 2
        odd += len(group) % 2
        first.append(group[:middle])
        second.append(group[middle:])
    return _joined(first), _joined(second)


def make_generator(seed: int, *words: object) -> torch.Generator:
    """Return a fresh CPU generator that depends on the seed and on the words, and on nothing else."""
    digest = hashlib.sha256("/".join(str(word) for word in (seed, *words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _by_class(labels: torch.Tensor, seed: int, purpose: str) -> list[torch.Tensor]:
    """Return the indices of each class that occurs, shuffled."""
    generator = make_generator(seed, purpose)
    groups = [(labels == label).nonzero().flatten() for label in sorted(set(labels.tolist()))]
    return [group[torch.randperm(len(group), generator=generator)] for group in groups]


def _joined(groups: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(groups)).sort().values


def _quotas(counts: Sequence[int], total: int) -> list[int]:
    """Return how many to take of each class: equally many, and all of a class that has fewer."""
    quotas = [0] * len(counts)
    left = total
    for place, c in enumerate(sorted(range(len(counts)), key=lambda c: counts[c])):
        quotas[c] = min(counts[c], left // (len(counts) - place))
        left -= quotas[c]
    return quotas


def _decoded(kind: str, path: Path) -> ImageData:
    found: Decoded | None = None
    count = {"cifar10": 10, "cifar100": 100}.get(kind)
    if count is not None:
        found = read_cifar(path, count)
    if found is None:
        found = _images(kind, path, count)
    return _finished(kind, found, mirrored=True, where=path)


def _images(kind: str, path: Path, count: int | None) -> Decoded:
    found = read_images(path)
    if count is not None and len(found.classes) != count:
        raise DataError(f"{path} has {len(found.classes)} classes, and {kind} has {count}; is it images:{path}?")
    return found


def _returned(text: str) -> ImageData:
    """Return what a user's function gives."""
    try:
        made = call_loader(text)
    except UsageError as error:
        kind = text.partition(":")[0]
        # A module of that name is seldom meant.
        raise UsageError(f"{error}{did_you_mean(kind, _KINDS) if '.' not in kind else ''}") from None
    mirrored = False
    if isinstance(made, ImageData):
        parts = (made.train_images, made.train_labels, made.test_images, made.test_labels)
        found, mirrored = read_arrays(text, parts, class_names(text, made.classes)), made.mirrored
    else:
        found = read_returned(text, made)
    return _finished(data_name(text), found, mirrored=bool(mirrored), where=text)


def _finished(name: str, found: Decoded, *, mirrored: bool, where: object = "") -> ImageData:
    where = where or name
    for known in found.classes:
        # Such names are a file system's bytes in another encoding, and stand in no JSON.
        if known.encode("utf-8", "replace").decode() != known:
            raise DataError(
                f"{where}: the class name {shortened(printable(known), 80)} is not valid Unicode; rename it"
            )
    if len(found.classes) < 2:
        raise DataError(f"{where} holds one class only ({found.classes[0]!r}): there is nothing to tell apart")
    images, labels = found.train_images, found.train_labels
    if found.test_images is not None and found.test_labels is not None:
        return ImageData(name, found.classes, images, labels, found.test_images, found.test_labels, mirrored)
    test, train = [], []
    for group in _by_class(labels, 0, "test"):
        if len(group) < 2:
            lone = found.classes[int(labels[group[0]])]
            raise DataError(f"{where}: class {lone!r} has a single image, and one is needed to train and one to test")
        cut = max(1, round(len(group) * HELD_OUT))
        test.append(group[:cut])
        train.append(group[cut:])
    kept, apart = _joined(train), _joined(test)
    return ImageData(name, found.classes, images[kept], labels[kept], images[apart], labels[apart], mirrored)


def _digits() -> Decoded:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    large = F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    images = large.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).to(torch.int64)
    return Decoded(tuple(str(name) for name in digits.target_names), images, labels, None, None)


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a cache file's header holds."""

    classes: tuple[str, ...]
    mirrored: bool


_PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def _to_cache(file: Path, data: ImageData) -> None:
    header = msgspec.json.encode(_Kept(data.classes, data.mirrored)).decode()
    write_tensors(file, {name: getattr(data, name) for name in _PARTS}, header)


def _from_cache(file: Path, name: str) -> ImageData | None:
    """Return what a cache file holds; ``None`` where there is none, or a broken one, which is then made anew."""
    if not file.is_file():
        return None
    try:
        tensors, text = read_tensors(file)
        kept = msgspec.json.decode(text, type=_Kept)
    except (CheckpointError, FileAccessError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if tensors.keys() != set(_PARTS) or len(kept.classes) < 2:
        return None
    for part in ("train", "test"):
        images, labels = tensors[f"{part}_images"], tensors[f"{part}_labels"]
        count = len(labels) if labels.dim() == 1 else 0
        if not count or images.dtype != torch.uint8 or tuple(images.shape) != (count, 3, SIDE, SIDE):
            return None
        if labels.dtype != torch.int64 or not 0 <= int(labels.min()) <= int(labels.max()) < len(kept.classes):
            return None
    return ImageData(name, kept.classes, mirrored=kept.mirrored, **tensors)

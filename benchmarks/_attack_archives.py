"""The attack on images: archives of every form, folders, decompression bombs, and the cache of decoded images."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _attack_kinds import Reader, json_or_bytes
from _attack_mutations import CANARY, NUMBERS, PAYLOADS, mutated_bytes

# -- archives and images


def _tar(files: dict[str, bytes], *, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


class _Runs:
    """Pickled as a call of the canary."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"__import__({CANARY!r})",))


def _make_cifar(folder: Path) -> None:
    import numpy as np

    batch = {
        b"data": np.zeros((20, 3072), dtype=np.uint8),
        b"labels": [i % 10 for i in range(20)],
        b"filenames": [b"a.png"] * 20,
        b"batch_label": b"a",
    }
    meta = {b"label_names": [b"name%d" % i for i in range(10)], b"num_vis": 3072}
    for protocol in (2, 4):
        (folder / f"batch-{protocol}").write_bytes(pickle.dumps(batch, protocol))
    (folder / "meta").write_bytes(pickle.dumps(meta, 2))


def _alter_cifar(valid: Path, folder: Path, rng: random.Random) -> None:
    batch = (valid / f"batch-{rng.choice((2, 4))}").read_bytes()
    meta = (valid / "meta").read_bytes()
    kind = rng.random()
    if kind < 0.5:
        batch = mutated_bytes(batch, rng)
    elif kind < 0.6:
        meta = mutated_bytes(meta, rng)
    elif kind < 0.7:
        batch = pickle.dumps({b"data": _Runs(), b"labels": [_Runs()]}, rng.choice((0, 1, 2, 4, 5)))
    elif kind < 0.8:
        # Words of the pickle machine at a random place: a name, a call of it, a state set on it.
        word = rng.choice(
            (f"c{CANARY}\nmake\n)R".encode(), b"cos\nsystem\n(S'true'\ntR", b"}b", b"cbuiltins\neval\n", b"(")
        )
        at = rng.randrange(2, len(batch))
        batch = batch[:at] + word * rng.choice((1, 2, 1000)) + batch[at:]
    files = {"cifar-10-batches-py/batches.meta": meta}
    files |= {f"cifar-10-batches-py/data_batch_{i}": batch for i in range(1, 6)}
    files["cifar-10-batches-py/test_batch"] = batch
    if rng.random() < 0.1:
        files = {rng.choice(("../../x", "/etc/x", "a\n", "b" * 300)) + name: content for name, content in files.items()}
    content = _tar(files)
    if kind > 0.9:
        content = mutated_bytes(content, rng)
    if rng.random() < 0.5:
        content = gzip.compress(content, 1)
        if kind > 0.95:
            content = mutated_bytes(content, rng)
    (folder / "cifar.tar.gz").write_bytes(content)


def _whole_cifar(folder: Path) -> None:
    files = {"cifar-10-batches-py/batches.meta": (folder / "meta").read_bytes()}
    files |= {f"cifar-10-batches-py/data_batch_{i}": (folder / "batch-2").read_bytes() for i in range(1, 6)}
    files["cifar-10-batches-py/test_batch"] = (folder / "batch-4").read_bytes()
    (folder / "cifar.tar.gz").write_bytes(gzip.compress(_tar(files), 1))


def _read_cifar(folder: Path) -> Any:
    from search import load_data

    return load_data(f"cifar10:{folder / 'cifar.tar.gz'}", cache=None)


def _make_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for format_ in ("PNG", "JPEG"):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(stream, format_)
        (folder / f"image.{format_.lower()}").write_bytes(stream.getvalue())


def _whole_images(folder: Path) -> None:
    _alter_images(folder, folder, _Calm())


class _Calm(random.Random):
    """Never does what is seldom done."""

    def random(self) -> float:
        return 0.999


# What an image says of its width and height.
SIDES = (0, 1, 32, 1 << 14, 1 << 20, (1 << 31) - 1)


def _image_files(valid: Path, rng: random.Random) -> dict[str, bytes]:
    """Return images by their names in an archive, a fifth of them altered."""
    files = {}
    for part, count in (("train", 4), ("test", 2)):
        for label in ("cat", "dog"):
            for i in range(count):
                kind = rng.choice(("png", "jpeg"))
                content = (valid / f"image.{kind}").read_bytes()
                if rng.random() < 0.2:
                    content = mutated_bytes(content, rng)
                elif rng.random() < 0.05:
                    content, kind = (
                        _png(*(rng.choice((0, 1, 32, 1 << 14, 1 << 20, (1 << 31) - 1)) for _ in "wh")),
                        "png",
                    )
                files[f"{part}/{label}/{i}.{kind}"] = content
    return files


def _png(width: int, height: int) -> bytes:
    """Return an image that says how large it is, and holds a megabyte of zeros; its checksums are right."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1 << 20))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


def _alter_images(valid: Path, folder: Path, rng: random.Random) -> None:
    content = _tar(_image_files(valid, rng))
    if rng.random() < 0.3:
        content = mutated_bytes(content, rng)
    (folder / "images.tar").write_bytes(content)


def _read_images(folder: Path) -> Any:
    from search import load_data

    return load_data(f"images:{folder / 'images.tar'}", cache=None)


# -- CIFAR's binary form


def _make_binary(folder: Path) -> None:
    rng = random.Random(0)
    for name, labels in (("ten", 1), ("hundred", 2)):
        records = (bytes(i % 10 for _ in range(labels)) + rng.randbytes(3072) for i in range(20))
        (folder / name).write_bytes(b"".join(records))


def _binary_files(valid: Path, classes: int) -> dict[str, bytes]:
    if classes == 10:
        batch = (valid / "ten").read_bytes()
        files = {f"cifar-10-batches-bin/data_batch_{i}.bin": batch for i in range(1, 6)}
        names = "".join(f"name{i}\n" for i in range(10)).encode()
        return {**files, "cifar-10-batches-bin/test_batch.bin": batch, "cifar-10-batches-bin/batches.meta.txt": names}
    batch = (valid / "hundred").read_bytes()
    names = "".join(f"name{i}\n" for i in range(100)).encode()
    folder = "cifar-100-binary"
    return {f"{folder}/train.bin": batch, f"{folder}/test.bin": batch, f"{folder}/fine_label_names.txt": names}


def _alter_binary(valid: Path, folder: Path, rng: random.Random) -> None:
    classes = rng.choice((10, 100))
    files = _binary_files(valid, classes)
    for name in rng.sample(sorted(files), rng.choice((0, 1, 1, 2))):
        files[name] = rng.choice(
            (mutated_bytes(files[name], rng), b"", files[name] * 2, files[name][:-1], b"\xff" * 99)
        )
    if rng.random() < 0.3:
        (folder / f"cifar{classes}").mkdir()
        for name, content in files.items():
            (folder / f"cifar{classes}" / name.rpartition("/")[2]).write_bytes(content)
        return
    content = _hostile_tar(files, rng)
    (folder / f"cifar{classes}").write_bytes(gzip.compress(content, 1) if rng.random() < 0.5 else content)


def _whole_binary(folder: Path) -> None:
    for classes in (10, 100):
        (folder / f"cifar{classes}").write_bytes(_tar(_binary_files(folder, classes)))
        _read_binary(folder)


def _read_binary(folder: Path) -> Any:
    from search import load_data

    return [load_data(f"{path.name}:{path}", cache=None) for path in sorted(folder.glob("cifar*"))]


# -- archives whose headers lie


def _hostile_tar(files: dict[str, bytes], rng: random.Random) -> bytes:
    """Return an archive in one of tar's forms, some of its members and headers not what they should be.

    The checksums of its headers are right: ``tarfile`` writes them.
    """
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form, errors="surrogateescape") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if rng.random() < 0.1:
                member.name = rng.choice((*PAYLOADS, "../" + name, "/" + name, "a/" * 60 + name, name + "\n", "."))
                member.name = member.name.replace("\0", "")[: 90 if form == tarfile.USTAR_FORMAT else 5000]
            if rng.random() < 0.1:
                member.type = rng.choice((b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"V", b"M", b"x", b"g", b"L"))
                member.linkname = rng.choice(("/etc/passwd", "../x", name, "a" * 90))
            if rng.random() < 0.1 and form == tarfile.PAX_FORMAT:
                key = rng.choice(("size", "path", "linkpath", "GNU.sparse.major", "GNU.sparse.map", "hdrcharset", "x"))
                member.pax_headers = {key: str(rng.choice((*NUMBERS, *PAYLOADS[:24])))}
            try:
                archive.addfile(member, io.BytesIO(content))
            except (ValueError, OverflowError, UnicodeError):
                continue
    content = stream.getvalue()
    return mutated_bytes(content, rng) if rng.random() < 0.2 else content


def _alter_tar(valid: Path, folder: Path, rng: random.Random) -> None:
    content = _hostile_tar(_image_files(valid, rng), rng)
    pack = rng.choice((bytes, bytes, gzip.compress, bz2.compress, lzma.compress))
    content = pack(content)
    (folder / "images.tar").write_bytes(mutated_bytes(content, rng) if rng.random() < 0.2 else content)


# -- what unpacks to far more than it is

BOMB_BYTES = 1 << 26


def _make_bombs(folder: Path) -> None:
    """Write parts of compressed streams, which join to any length: of zeros, and of what is only just not a bomb."""
    block = random.Random(0).randbytes(1 << 15)
    for kind, content in (("zeros", bytes(BOMB_BYTES)), ("dense", (block + bytes(31 << 15)) * (BOMB_BYTES >> 20))):
        for suffix, pack in _PACKED.items():
            (folder / f"{kind}.{suffix}").write_bytes(pack(content))


_PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content, 1),
    "bz2": lambda content: bz2.compress(content, 1),
    "xz": lambda content: lzma.compress(content, preset=0),
}


def _alter_bombs(valid: Path, folder: Path, rng: random.Random) -> None:
    suffix = rng.choice(sorted(_PACKED))
    times = rng.choice((1, 10, 80))
    member = tarfile.TarInfo(rng.choice(("train/cat/0.png", "cifar-10-batches-bin/data_batch_1.bin", "readme.txt")))
    member.type = rng.choice((b"0", b"0", b"0", b"x", b"g", b"L", b"5"))
    member.size = rng.choice((BOMB_BYTES * times, 1 << 20, 1 << 27, 1 << 40))
    header = member.tobuf(rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
    part = (valid / f"{rng.choice(('zeros', 'dense'))}.{suffix}").read_bytes()
    (folder / rng.choice(("cifar10", "images"))).write_bytes(_PACKED[suffix](header) + part * times)


def _read_bombs(folder: Path) -> Any:
    from search import load_data

    return [
        load_data(f"{name}:{folder / name}", cache=None) for name in ("cifar10", "images") if (folder / name).exists()
    ]


def _whole_bombs(folder: Path) -> None:
    _make_images(folder)
    _whole_images(folder)
    (folder / "images.tar").rename(folder / "images")


# -- folders, and the cache


def _alter_folder(valid: Path, folder: Path, rng: random.Random) -> None:
    place = folder / "images"
    for name, content in _image_files(valid, rng).items():
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if rng.random() >= 0.1:
            file.write_bytes(content)
            continue
        kind = rng.randrange(4)
        if kind == 0:
            os.mkfifo(file)
        elif kind == 1:
            file.symlink_to(rng.choice(("/dev/full", "/etc/hostname", file.name, "..", "nowhere", "/dev/tty")))
        elif kind == 2:
            file.mkdir()
        else:
            spare = rng.choice((b"a\nb.png", b"caf\xe9.png", b"\x1b[2J.png", b"[bold]x[].png", b".png"))
            (file.parent / os.fsdecode(spare)).write_bytes(content)
    if rng.random() < 0.1:
        (place / "train" / "loop").symlink_to(place, target_is_directory=True)


def _whole_folder(folder: Path) -> None:
    _alter_folder(folder, folder, _Calm())


def _read_folder(folder: Path) -> Any:
    from search import load_data

    return load_data(f"images:{folder / 'images'}", cache=None)


def _make_decoded(folder: Path) -> None:
    from search import load_data, subset
    from search._data._images import _to_cache

    _to_cache(folder / "cache.safetensors", subset(load_data("digits"), train=20, test=20, seed=0))


def _alter_decoded(valid: Path, folder: Path, rng: random.Random) -> None:
    from search._training._checkpoint import read_tensors, write_tensors

    tensors, text = read_tensors(valid / "cache.safetensors")
    for name in sorted(tensors):
        if rng.random() < 0.2:
            tensors[name] = rng.choice(_CHANGES)(tensors[name], rng).contiguous()
        if rng.random() < 0.05:
            del tensors[name]
    if rng.random() < 0.5:
        text = json_or_bytes(text.encode(), rng).decode(errors="replace")
    write_tensors(folder / "cache.safetensors", tensors, text)
    if rng.random() < 0.2:
        content = mutated_bytes((folder / "cache.safetensors").read_bytes(), rng)
        (folder / "cache.safetensors").write_bytes(content)


_CHANGES: tuple[Callable[[torch.Tensor, random.Random], torch.Tensor], ...] = (
    lambda tensor, _: tensor.to(torch.float64),
    lambda tensor, _: tensor.flatten(),
    lambda tensor, rng: tensor[: rng.choice((0, 1, 3))],
    lambda tensor, rng: tensor.clone().fill_(rng.choice((-1, 10, 255, 127))) if tensor.dtype == torch.int64 else tensor,
)


def _read_decoded(folder: Path) -> Any:
    """Read it; what cannot be used is decoded again, which here counts as refused."""
    from lut import UsageError
    from search import subset
    from search._data._images import _from_cache

    found = _from_cache(folder / "cache.safetensors", "images")
    if found is None:
        raise UsageError("cache.safetensors is made anew")
    _ = found.mean, found.std, found.digest
    return subset(found, train=min(len(found.classes), len(found.train_labels)) or None, seed=0)


READERS: tuple[Reader, ...] = (
    Reader("CIFAR", _make_cifar, _alter_cifar, _read_cifar, "cifar.tar.gz", 2, _whole_cifar),
    Reader("CIFAR binary", _make_binary, _alter_binary, _read_binary, "cifar", 2, _whole_binary),
    Reader("images", _make_images, _alter_images, _read_images, "images.tar", 1, _whole_images),
    Reader("tar", _make_images, _alter_tar, _read_images, "images.tar", 2, _whole_images),
    Reader("bombs", _make_bombs, _alter_bombs, _read_bombs, "/case/", 1, _whole_bombs),
    Reader("folder", _make_images, _alter_folder, _read_folder, "/case/images", 1, _whole_folder),
    Reader("decoded", _make_decoded, _alter_decoded, _read_decoded, "cache.safetensors"),
)

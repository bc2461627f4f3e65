"""Files that a search reads, made to do harm: each is refused by one line that names it, and none is more than data."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import lzma
import os
import pickle
import random
import struct
import tarfile
import tracemalloc
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from test_accuracy import tiny
from test_data import NAMES, folder_of, image_files, pixels, png, python_files, same, tar_of

from lut._lines import unsealed
from lut.errors import CheckpointError, DataError, FileAccessError, SearchError, UsageError
from search._accuracy import _evaluator as _accuracy
from search._accuracy import _training_worker as _evaluation_worker
from search._accuracy._evaluator import AccuracyCache, Evaluator
from search._accuracy._training_worker import EvaluationWorker, Hello
from search._data import _image_folder, _pickled, _tar
from search._data._images import load_data, subset
from search._data._pickled import PickledError, byte_array, read_pickled
from search._problem import _calibrate
from search._training._checkpoint import content_digest, read_tensors, write_tensors
from search._training._recipe import Recipe
from search._training._train import train
from search._training._weights import build_network, load_weights, save_weights
from search.spaces._nas_bench_macro import load_accuracies

# ------------------------------------------------------------------------------------------------------------- pickles

BATCH = "cifar-10-batches-py/data_batch_1"
# A pickle's instructions, by their bytes.
DTYPE = b"cnumpy\ndtype\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def python2_batch(rows: np.ndarray[Any, Any], labels: list[int]) -> bytes:
    """Return a batch as Python 2's cPickle wrote the published ones, byte by byte (protocol 2)."""
    count = len(rows)

    def text(content: bytes) -> bytes:
        return b"U" + bytes([len(content)]) + content + b"q\x01"

    def array(content: bytes) -> bytes:
        shape = b"M" + struct.pack("<H", count) + b"M" + struct.pack("<H", 3072) + b"\x86"
        dtype = DTYPE + b"U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        return RECONSTRUCT + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<I", len(content)) + content + b"tb"

    return (
        b"\x80\x02}q\x01("
        + (text(b"batch_label") + text(b"training batch 1 of 5"))
        + (text(b"labels") + b"]q\x05(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e")
        + (text(b"data") + array(rows.tobytes()))
        + (text(b"filenames") + b"]q\x06(" + b"".join(text(b"leptodactylus_%d.png" % i) for i in range(count)) + b"e")
        + b"u."
    )


def test_a_batch_of_python_2_is_read() -> None:
    content = python2_batch(pixels(3, 10_000), [i % 10 for i in range(10_000)])
    found = read_pickled(content)
    rows = byte_array(found["data"])
    assert rows is not None
    assert np.array_equal(rows, pixels(3, 10_000))
    assert found["labels"] == [i % 10 for i in range(10_000)]
    assert found["filenames"][9_999] == b"leptodactylus_9999.png"
    # It is what unpickling would give.
    assert pickle.loads(python2_batch(pixels(3, 7), [1] * 7), encoding="bytes")[b"labels"] == [1] * 7


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("keys", [str, str.encode])
def test_plain_values_are_read_whatever_the_protocol(protocol: int, keys: Callable[[str], Any]) -> None:
    plain = [0, -1, 255, 256, 70_000, -(2**31), 2**62, None, True, False, "text\n'ü\\\0", b"\0bytes\xff\\'", [], (), {}]
    batch = {
        keys("data"): pixels(0, 4),
        keys("values"): [plain, tuple(plain), (1,), (1, 2), {keys("deep"): [plain]}],
        keys("twice"): plain,
    }
    found = read_pickled(pickle.dumps(batch, protocol=protocol))
    rows = byte_array(found["data"])
    assert rows is not None
    assert np.array_equal(rows, pixels(0, 4))
    # Keys become texts.
    deep = [{"deep": [plain]}] if protocol >= 0 else []
    empty = plain if protocol >= 3 else found["twice"]
    assert found["values"] == [empty, tuple(empty), (1,), (1, 2), *([{"deep": [empty]}] if deep else [])]
    assert [item for item in found["twice"] if item not in (b"",)] == [item for item in plain if item not in (b"",)]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3072), np.int8),
        np.zeros((2, 3072), np.uint16),
        np.zeros((2, 3072), np.float64),
        np.zeros((2, 3072), bool),
        np.asfortranarray(np.zeros((2, 3072), np.uint8)),
        np.zeros((2, 3072), [("a", "u1")]),
        np.zeros((2,), [("a", "u1", (3072,))]),
        np.zeros((2, 3071), np.uint8),
        np.zeros((2, 3, 1024), np.uint8),
        np.zeros((2, 3072), "S1"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_other_arrays_are_no_images(array: np.ndarray[Any, Any], protocol: int, tmp_path: Path) -> None:
    files = {**python_files(), BATCH: pickle.dumps({"data": array, "labels": [1, 2]}, protocol=protocol)}
    with pytest.raises(DataError, match="data_batch_1 holds no images of 3072 bytes"):
        load_data(f"cifar10:{tar_of(tmp_path / 'c.tar', files)}")


def batch_of(data: bytes, labels: bytes = b"](K\x01K\x02e") -> bytes:
    """Return a batch whose parts are given as instructions."""
    return b"\x80\x02}(U\x04data" + data + b"U\x06labels" + labels + b"u."


def array_of(dtype: bytes, content: bytes, shape: bytes = b"K\x02M\x00\x0c\x86", order: bytes = b"\x89") -> bytes:
    return RECONSTRUCT + b"(K\x01" + shape + dtype + order + content + b"tb"


BYTES = b"T" + struct.pack("<I", 6144) + bytes(6144)
PLAIN = DTYPE + b"U\x02u1\x85R"


def test_the_arrays_written_by_hand_are_right(tmp_path: Path) -> None:
    """So that what follows is refused for what is wrong with it."""
    files = {**python_files(), BATCH: batch_of(array_of(PLAIN, BYTES))}
    assert load_data(f"cifar10:{tar_of(tmp_path / 'c.tar', files)}").train_images[:2].sum() == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        # An object array over the file's bytes: reading one is a crash.
        (
            batch_of(
                array_of(DTYPE + b"U\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb", BYTES)
            ),
            "",
        ),
        (batch_of(array_of(DTYPE + b"U\x02u1\x85R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb", BYTES)), ""),
        (batch_of(array_of(DTYPE + b"U\x02u1\x85R(K\x03U\x01|U\x02O8NNK\x08K\x08K?tb", BYTES)), ""),
        (batch_of(array_of(DTYPE + b"U\x01O\x85R", BYTES)), ""),
        (batch_of(array_of(PLAIN, BYTES, shape=b"K\x03M\x00\x0c\x86")), ""),
        (batch_of(array_of(PLAIN, BYTES, shape=b"J\xff\xff\xff\xffM\x00\x0c\x86")), ""),
        (batch_of(array_of(PLAIN, BYTES, shape=b"\x8a\x08" + b"\xff" * 7 + b"\x7fM\x00\x0c\x86")), ""),
        (batch_of(array_of(PLAIN, BYTES, shape=b"(" + b"K\x01" * 40 + b"K\x02M\x00\x0ct")), ""),
        (batch_of(array_of(PLAIN, BYTES, order=b"\x88")), ""),
        (batch_of(array_of(PLAIN, b"]K\x01a")), ""),
        (batch_of(array_of(BYTES, BYTES)), ""),
        (batch_of(BYTES), ""),
        # A function's defaults, overwritten.
        (batch_of(b"ccopyreg\n_reconstructor\nN}U\x0c__defaults__)sb"), "names copyreg._reconstructor"),
        (batch_of(b"cnumpy\ndtype\n}U\x0c__defaults__)sb"), "a state of nothing"),
        (batch_of(b"cnumpy\nndarray\n)R"), "calls numpy.ndarray"),
        (batch_of(b"cnumpy.core.multiarray\nfromfile\nU\x0b/etc/passwd\x85R"), "names numpy.core.multiarray.fromfile"),
        (batch_of(b"c_codecs\nencode\nX\x01\x00\x00\x00aU\x03rot\x86R"), "encodes text in an unusual way"),
        (batch_of(b"c_codecs\nencode\nX\x01\x00\x00\x00aU\x06latin1\x86R" + b"K\x01b"), "a state of nothing"),
        (batch_of(b"cos\nsystem\nU\x02id\x85R"), r"names os\.system"),
        (batch_of(b"cos\x1b[2J\nsystem\nU\x02id\x85R"), r"names os\\x1b\[2J\.system"),
        (batch_of(b"(ios\nsystem\n"), "the instruction"),
        (batch_of(b"(cnumpy\ndtype\no"), "the instruction"),
        (batch_of(b"cnumpy\ndtype\n)\x81"), "the instruction"),
        (batch_of(b"P1\n"), "the instruction"),
        (batch_of(b"\x82\x01"), "the instruction"),
        (batch_of(b"\x8f"), "the instruction"),
        # Lengths that are not there.
        (batch_of(b"T\xff\xff\xff\xff"), "damaged"),
        (batch_of(b"\x8e" + b"\xff" * 8), "damaged"),
        (batch_of(b"\x8d" + b"\x00" * 7 + b"\x7f"), "damaged"),
        (batch_of(b"\x8b\xff\xff\xff\x7f"), "the instruction"),
        (batch_of(b"\x8a\xff" + bytes(255)), "holds no images"),
        (batch_of(b"I" + b"9" * 5000 + b"\n"), "the instruction"),
        (batch_of(b"h\x63"), "LookupError|KeyError"),
        (batch_of(b"g" + b"9" * 5000 + b"\n"), "the instruction"),
        (batch_of(b"S'x'\n"), "the instruction"),
        (batch_of(b"Vx\n"), "the instruction"),
        (batch_of(b"X\x02\x00\x00\x00\xff\xff"), "UnicodeDecodeError"),
        # Tuples in tuples, whose hash would overflow the stack.
        (b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"K\x01s.", "a key that is not text"),
        (b"\x80\x02}(K\x01K\x02u.", "a key that is not text"),
        (b"\x80\x02}(U\x04dataK\x02U\x04dataK\x03u.", "holds data twice"),
        (b"\x80\x02}(U\x04datau.", "ValueError"),
        (b"\x80\x02" + b"K\x01" * 40 + b"u.", "IndexError"),
        (b"\x80\x02" + b"K\x01" * 1_100_000 + b".", "more than 1000000 instructions"),
        (b"\x80\x02]" + b"q\x00h\x00a" * 100 + b".", "CIFAR file"),
        (b"\x80\x02" + b"]\x85" * 200_000 + b".", "damaged"),
        (b"\x80\x02" + b"]" + b"\x85" * 400_000 + b".", "CIFAR file"),
        (b"(.", "CIFAR file"),
        (b".", "ValueError"),
        (batch_of(array_of(PLAIN, BYTES), b"](\x88\x88e"), "a label of 0 … 9"),
        (batch_of(array_of(PLAIN, BYTES), b"](K\x01" + b"\x8a\x08" + b"\xff" * 7 + b"\x7fe"), "a label of 0 … 9"),
        (batch_of(array_of(PLAIN, BYTES), b"](K\x01F1.0\ne"), "the instruction"),
    ],
)
def test_a_pickle_is_followed_as_far_as_data_go(content: bytes, words: str, tmp_path: Path) -> None:
    files = {**python_files(), BATCH: content}
    with pytest.raises(DataError, match=words or "holds no images of 3072 bytes") as caught:
        load_data(f"cifar10:{tar_of(tmp_path / 'c.tar', files)}")
    assert "data_batch_1" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_texts_are_not_made_into_more_than_the_file_has() -> None:
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    again = b"(" + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 1000 + b"t"
    with pytest.raises(PickledError, match="the same text again and again"):
        read_pickled(text + b"q\x00" + again + b".")
    # A text of other characters than bytes would take four times its size.
    for wide in ("\N{PILE OF POO}".encode() + b"a" * (1 << 20), "ń".encode() + b"a" * (1 << 20)):
        with pytest.raises(PickledError, match="a text of"):
            read_pickled(b"X" + struct.pack("<I", len(wide)) + wide + b".")
        with pytest.raises(PickledError, match="a text of"):
            read_pickled(b"\x8d" + struct.pack("<Q", len(wide)) + wide + b".")


@contextlib.contextmanager
def at_most(mebibytes: int) -> Iterator[None]:
    """Fail where the block takes more memory at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes << 20
    finally:
        tracemalloc.stop()


def test_an_array_takes_little_more_than_its_own_memory() -> None:
    content = python2_batch(np.zeros((10_000, 3072), np.uint8), [0] * 10_000)
    with at_most(100):
        assert byte_array(read_pickled(content)["data"]) is not None


def test_no_flipped_bit_of_a_batch_is_more_than_a_line() -> None:
    rng = random.Random(5)
    for protocol in (2, 4, 5):
        whole = pickle.dumps(
            {"data": np.zeros((2, 12), np.uint8), "labels": [1, 2], "f": ["a", b"b"]}, protocol=protocol
        )
        for _ in range(3000):
            content = bytearray(whole)
            for _ in range(rng.choice((1, 1, 2, 8))):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            if rng.random() < 0.2:
                del content[rng.randrange(len(content)) :]
            try:
                found = read_pickled(bytes(content))
            except PickledError:
                continue
            if type(found) is dict:
                rows = byte_array(found.get("data"))
                assert rows is None or rows.dtype == np.uint8


# ------------------------------------------------------------------------------------------------------------ archives


def header(name: bytes, size: int, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """Return a member's header block, whatever it says."""
    number = b"%011o\0" % max(size, 0) if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    if size < 0:
        number = b"\xff" + size.to_bytes(11, "big", signed=True)
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + number + b"00000000000\0")
    block += b" " * 8 + kind + link.ljust(100, b"\0") + b"ustar\x0000"
    block += bytes(512 - len(block))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def record(text: bytes) -> bytes:
    """Return a line of an extended header: its length, a blank, the text, a newline."""
    size = len(text) + 3
    while len(b"%d %b\n" % (size, text)) != size:
        size += 1
    return b"%d %b\n" % (size, text)


def pax(records: bytes) -> bytes:
    """Return an empty file of which an extended header says more."""
    return header(b"././@PaxHeader", len(records), b"x") + padded(records) + header(b"train/cat/1.png", 0)


def long_name(name: bytes) -> bytes:
    """Return an empty file with a long name, as GNU's tar writes it."""
    return header(b"././@LongLink", len(name) + 1, b"L") + padded(name + b"\0") + header(name[:100], 0)


END = bytes(1024)
GOOD = b"".join(header(name.encode(), len(c)) + padded(c) for name, c in image_files("train/", "test/").items())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make archives small that are too large."""
    monkeypatch.setattr(_tar, "LARGEST_ARCHIVE", 1 << 22)
    monkeypatch.setattr(_tar, "FREE", 1 << 20)
    monkeypatch.setattr(_tar, "MOST_MEMBERS", 100)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.usefixtures("small")
def test_an_archive_is_read_however_it_is_compressed(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.tar", tmp_path / "packed.tar.x"
    plain.write_bytes(GOOD + END)
    first = load_data(f"images:{plain}")
    packed.write_bytes(pack(GOOD + END))
    assert same(first, load_data(f"images:{packed}"))
    if pack is not bytes:
        # Several streams, as pigz or cat make them, and zeros behind.
        packed.write_bytes(pack(GOOD[:5000]) + pack(GOOD[5000:] + END) + bytes(700))
        assert same(first, load_data(f"images:{packed}"))
        for damaged in (pack(GOOD + END)[:-9], pack(GOOD + END)[:-200] + bytes(200), pack(GOOD + END + b"more")):
            packed.write_bytes(damaged)
            with pytest.raises(DataError, match=r"damaged|dog/0004\.png is broken"):
                load_data(f"images:{packed}")


def test_names_may_be_long_and_of_any_letters(tmp_path: Path) -> None:
    files = image_files("", classes=("ein langer Name " * 9, "größe " * 4), each=5)
    expected = load_data(f"images:{folder_of(tmp_path / 'folder', files)}")
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{kind}.tar"
        with tarfile.open(path, "w", format=kind) as archive:
            archive.add(tmp_path / "folder", "folder")
        assert same(expected, load_data(f"images:{path}"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header(b"train/cat/1.png", 0, b"2", b"/etc/passwd"), "1.png is a link"),
        (header(b"train/cat/1.png", 0, b"1", b"train/cat/0000.png"), "1.png is a link"),
        (header(b"train/cat/1.png", 0, b"3"), "1.png is a device"),
        (header(b"train/cat/1.png", 0, b"4"), "1.png is a device"),
        (header(b"train/cat/1.png", 0, b"6"), "1.png is a pipe"),
        (header(b"train/cat/1.png", 0, b"S"), "1.png is a sparse file"),
        (header(b"train/cat/1.png", 0, b"Z"), "1.png is of an unknown type"),
        (header(b"x\x1b[2J", 0, b"2", b"y"), r"x\\x1b\[2J is a link"),
        (pax(record(b"GNU.sparse.realsize=99999999")), "a sparse file"),
        (pax(record(b"GNU.sparse.map=0,4") + record(b"GNU.sparse.numblocks=1")), "a sparse file|damaged"),
        (header(b"././@LongLink", 6 << 30, b"L"), r"the headers of one file \(byte .* of the tar\) have more than 16"),
        (header(b"././@PaxHeader", 6 << 30, b"x"), r"the headers of one file \(byte .* of the tar\) have more than 16"),
        (header(b"././@PaxHeader", 6 << 30, b"g"), r"the headers of one file \(byte .* of the tar\) have more than 16"),
        (header(b"././@PaxHeader", 12, b"x") + padded(b"999999 a=b\n\n"), "damaged"),
        (header(b"././@PaxHeader", 12, b"x") + padded(b"4 a=bcdefgh\n"), "damaged"),
        (header(b"././@PaxHeader", 12, b"x") + padded(b"hello world\n"), "damaged"),
        (header(b"././@PaxHeader", 12, b"x") + padded(b"0 a=bcdefgh\n"), "damaged"),
        (
            header(b"././@PaxHeader", 14, b"x")
            + padded(record(b"size=-5000"))
            + header(b"a/b.png", 4)
            + padded(b"abcd"),
            "damaged",
        ),
        (header(b"././@PaxHeader", 11, b"x") + padded(record(b"size=12")), "damaged"),
        (header(b"train/cat/1.png", 6 << 30), "has 6442450944 bytes, and at most 16777216"),
        (header(b"train/cat/1.txt", 6 << 30), "unexpected end of data|unpacks to more than"),
        (header(b"train/cat/1.png", 1 << 23), "unexpected end of data|unpacks to more than"),
        (header(b"train/cat/0000.png", 4) + padded(b"abcd"), "two files named train/cat/0000.png"),
        (header(b"./train/cat/0000.png", len(png(1))) + padded(png(1)), "two files named train/cat/0000.png"),
        (b"".join(header(b"%d.txt" % i, 0) for i in range(100)), "more than 100 files"),
        (header(b"g", 0, b"g") * 40 + header(b"a.txt", 0), "the headers of one file"),
        (header(b"x", 0, b"x") * 5000 + header(b"a.txt", 0), "the headers of one file"),
        (header(b"x", -512, b"x") + header(b"a.txt", 0), "damaged|the headers of one file"),
        (header(b"a.txt", -512) + header(b"b.txt", 0), "damaged"),
        (pax(record(b"path=" + b"a/" * 2048 + b".png")), r"a/a/.* is too long a name: 4100 characters"),
        (long_name(b"a/" * 2048 + b".txt"), r"a/a/.* is too long a name: 4100 characters"),
        (pax(record(b"path=train/cat/" + b"a" * 252 + b".png")), "png is too long a name: 266 characters"),
        (header(b"a/" * 16 + b"1.png", len(png(1))) + padded(png(1)), "does not lie in a class's folder"),
        (bytes(512) + header(b"train/cat/1.png", 0), "follows its end"),
        (b"x" * 512, "checksum|header"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.usefixtures("small")
def test_what_an_archive_must_not_hold(
    content: bytes, words: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(pack(GOOD + content + END))
    with pytest.raises(DataError, match=words) as caught:
        load_data(f"images:{path}")
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["images", "cifar10"])
@pytest.mark.parametrize(
    "bomb", [header(b"x", 1 << 40), header(b"././@PaxHeader", 1 << 40, b"x"), header(b"x.png", 1 << 24)]
)
def test_a_bomb_is_refused_before_it_takes_memory(kind: str, bomb: bytes, tmp_path: Path) -> None:
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    path = tmp_path / "bomb.tar.gz"
    # 300 MB of zeros, in 300 KB.
    zeros = b"".join(pack.compress(bytes(1 << 20)) for _ in range(300))
    path.write_bytes(pack.compress(bomb) + zeros + pack.flush())
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            load_data(f"{kind}:{path}")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def small_images(path: Path, name: str, count: int) -> Path:
    """Write an archive of images with long names; ``name`` is formatted with their numbers."""
    image = png(1)
    with path.open("wb") as file:
        for i in range(count):
            records = record(f"path={name.format(i)}".encode())
            file.write(header(b"././@PaxHeader", len(records), b"x") + padded(records))
            file.write(header(b"1.png", len(image)) + padded(image))
        file.write(END)
    return path


@pytest.mark.parametrize("character", ["a", "\N{PILE OF POO}"])
def test_headers_and_names_are_not_held_without_end(
    character: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "top/train/cat/" + "/".join(["b" * 200] * 15) + character + "{}.png"
    path = small_images(tmp_path / "x.tar", name, 1000)
    monkeypatch.setattr(_tar, "LARGEST_HEADERS", 1 << 20)
    with at_most(16), pytest.raises(DataError, match=r"x\.tar: its headers take more than 1 MiB"):
        list(_tar.tar_files(path, lambda _: True, 1 << 24))
    # Three blocks are what each file of some archives has.
    monkeypatch.setattr(_tar, "LARGEST_HEADERS", 0)
    assert len(list(_tar.tar_files(small_images(path, "a" * 100 + "/{}.png", 50), lambda _: True, 1 << 24))) == 50


def test_what_an_archive_says_of_its_size_is_believed_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header(b"readme.txt", 6 << 30) + bytes(512))
    with pytest.raises(DataError, match=r"unpacks to more than 1.5 GiB"):
        load_data(f"images:{path}")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "c.tar", {**python_files(), "other/data_batch_1": python_files()[BATCH]})
    with pytest.raises(DataError, match="two files named data_batch_1"):
        load_data(f"cifar10:{path}")


def test_pipes_devices_and_folders_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe.tar"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(FileAccessError, match=r"it is a (named pipe|device); give a regular file"):
            load_data(f"images:{path}")
    folder = folder_of(tmp_path / "folder", image_files(""))
    os.mkfifo(folder / "cat" / "pipe.png")
    with pytest.raises(FileAccessError, match=r"pipe\.png: it is a named pipe"):
        load_data(f"images:{folder}")
    (folder / "cat" / "pipe.png").unlink()
    (folder / "cat" / "pipe.png").symlink_to("/dev/zero")
    with pytest.raises(FileAccessError, match=r"pipe\.png: it is a device"):
        load_data(f"images:{folder}")
    (folder / "cat" / "pipe.png").unlink()
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(FileAccessError, match="cat: permission denied"):
        load_data(f"images:{folder}")


# -------------------------------------------------------------------------------------------------------------- images


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, pixels: bytes, *others: bytes) -> bytes:
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return start + b"".join(others) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        # Sizes that Pillow only warns of, refuses, or that do not fit into memory.
        (png_of(12_000, 12_000, b""), "12000×12000 pixels"),
        (png_of(30_000, 30_000, b""), "broken"),
        (png_of(2**31 - 1, 2**31 - 1, b""), "broken"),
        (png_of(32, 0, b""), "broken|pixels"),
        (png_of(32, 32, bytes(10)), "broken"),
        # A text of 200 MB, in 200 KB.
        (png_of(32, 32, bytes(97 * 32), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200 << 20), 9))), "broken"),
        (b"GIF89a" + struct.pack("<HHBBB", 32, 32, 0, 0, 0), "broken"),
        (
            b"GIF89a"
            + struct.pack("<HHBBB", 32, 32, 0, 0, 0)
            + b","
            + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
            + b"\x02\x00;",
            "broken|pixels",
        ),
        (b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(100), "broken"),
        (b"P6 32 32 255\n" + bytes(10), "broken"),
        (b"P6 99999999999999999999 32 255\n", "broken"),
        (b"BM" + bytes(60), "broken"),
        (b"RIFF\xff\xff\xff\x7fWEBPVP8X" + bytes(40), "broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n", "none of JPEG, PNG"),
    ],
)
def test_images_that_are_none(content: bytes, words: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", {**image_files(""), "cat/9.png": content})
    with pytest.raises(DataError, match=words) as caught:
        load_data(f"images:{folder}")
    assert "cat/9.png" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_there_are_never_more_images_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_image_folder, "MOST_IMAGES", 9)
    with pytest.raises(DataError, match="more than 9 images"):
        load_data(f"images:{folder_of(tmp_path / 'x', image_files(''))}")


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_no_flipped_bit_of_an_image_is_more_than_a_line(suffix: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.open(io.BytesIO(png(1))).save(stream, suffix)
    whole = stream.getvalue()
    rng = random.Random(suffix)
    decoder = _image_folder.open_pillow()
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            content[rng.randrange(min(len(content), 400))] ^= 1 << rng.randrange(8)
        with contextlib.suppress(DataError):
            assert _image_folder._decode(decoder, bytes(content), tmp_path, ("a", "b")).shape == (32, 32, 3)


def test_class_names_are_no_books(tmp_path: Path) -> None:
    names = [*NAMES[1:], "x" * 1000]
    files = {**python_files(), "cifar-10-batches-py/batches.meta": pickle.dumps({"label_names": names})}
    with pytest.raises(DataError, match="names a class x"):
        load_data(f"cifar10:{tar_of(tmp_path / 'c.tar', files)}")
    assert _pickled.MOST_INSTRUCTIONS >= 250_000


# ---------------------------------------------------------------------------------------------- the file of accuracies

OLD = (
    b'{"format":"latency-lut-accuracies","version":1,"space":"space","function":"function"}\n'
    b'{"key":"a","value":0.25,"seconds":1.5}\n'
    b'{"key":"b","value":-3.0,"seconds":2.0}\n'
)


def opened(path: Path) -> AccuracyCache:
    return AccuracyCache.open(path, space="space", function="function")


@pytest.mark.parametrize("torn", [b"", b'{"key":"c","val'])
def test_accuracies_of_an_older_version_are_carried_over(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(OLD + torn)
    path.chmod(0o640)
    with opened(path) as cache:
        assert (len(cache), cache.get("a"), cache.get("b")) == (2, 0.25, -3.0)
        # It is held as any other.
        with pytest.raises(CheckpointError, match="another process holds"):
            opened(path)
        cache.add("c", 0.5, 1.0)
    assert path.stat().st_mode & 0o777 == 0o640
    lines = list(unsealed(path.read_bytes()))
    assert [line.split(b",")[0] for line in lines[1:]] == [b'{"key":"a"', b'{"key":"b"', b'{"key":"c"']
    with opened(path) as cache:
        assert [cache.get(key) for key in "abc"] == [0.25, -3.0, 0.5]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (OLD + OLD, "line 4, is damaged"),
        (OLD + OLD.splitlines(keepends=True)[2], "line 4, is damaged: another accuracy of a network"),
        (OLD.replace(b"-3.0", b"1e308"), "line 3, is damaged: no accuracy"),
        (OLD.replace(b"-3.0", b"-1e16"), "line 3, is damaged: no accuracy"),
        (OLD.replace(b"-3.0", b"NaN"), "line 3, is damaged"),
        (OLD.replace(b"-3.0", b"1e400"), "line 3, is damaged"),
        (OLD.replace(b"-3.0", b"9" * 5000), "line 3, is damaged"),
        (OLD.replace(b"-3.0", b"true"), "line 3, is damaged"),
        (OLD.replace(b"2.0", b"-1"), "line 3, is damaged"),
        (OLD.replace(b"2.0", b"1e300"), "line 3, is damaged"),
        (OLD.replace(b"2.0}", b"2.0," + b'"x":' + b"[" * 100_000 + b"}"), "line 3, is damaged"),
        (OLD.replace(b'"version":1', b'"version":0'), "version 0"),
        (OLD.replace(b'"version":1', b'"version":1e99'), "damaged in its first line"),
        (OLD.replace(b'"version":1', b'"version":2'), "line 1, is damaged: it has no checksum"),
        (OLD.replace(b'"space"', b'"space":"x","space"', 1), "."),
        (OLD.replace(b'"space":"space"', b'"space":"\\u001b[2J' + b"x" * 9999 + b'"'), "another search space"),
    ],
)
def test_accuracies_that_are_none(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    if words == ".":
        opened(path).close()
        return
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(path)
    assert str(path) in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))
    assert path.read_bytes() == content


def test_no_flipped_bit_of_accuracies_is_another_value(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with opened(path) as cache:
        for i in range(4):
            cache.add(f"key {i}", i / 8, 1.0)
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(1500):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            cache = opened(path)
        except CheckpointError:
            continue
        with cache:
            # Only what was cut off at the end is gone.
            assert all(cache.get(f"key {i}") in (i / 8, None) for i in range(4))
            assert whole.startswith(path.read_bytes())


@pytest.mark.parametrize("still_held", [False, True])
def test_accuracies_are_never_added_to_a_file_that_was_replaced(
    still_held: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(OLD)
    open_file = _accuracy._opened
    other: list[AccuracyCache] = []

    def late(path: Path) -> int:
        """Another process comes between opening and holding, and writes the older version's file anew."""
        descriptor = open_file(path)
        monkeypatch.setattr(_accuracy, "_opened", open_file)
        other.append(opened(path))
        if not still_held:
            other[0].close()
        return descriptor

    monkeypatch.setattr(_accuracy, "_opened", late)
    try:
        with pytest.raises(CheckpointError, match=r"another process replaced .*a\.jsonl"):
            opened(path).add("lost", 0.5, 1.0)
    finally:
        other[0].close()
    with opened(path) as cache:
        cache.add("kept", 0.5, 1.0)
    with opened(path) as cache:
        assert [cache.get(key) for key in ("a", "b", "kept")] == [0.25, -3.0, 0.5]


def test_accuracies_of_a_file_that_was_deleted_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    open_file = _accuracy._opened

    def late(path: Path) -> int:
        descriptor = open_file(path)
        path.unlink()
        return descriptor

    monkeypatch.setattr(_accuracy, "_opened", late)
    with pytest.raises(CheckpointError, match=r"another process replaced .*a\.jsonl"):
        opened(path).add("lost", 0.5, 1.0)


def test_accuracies_are_not_kept_in_pipes_and_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(FileAccessError, match="cannot read"):
            opened(path)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("value", [1e308, -1e16, np.float64(1e300), 10**30, 10**400])
def test_a_wild_accuracy_is_refused(value: float, tmp_path: Path) -> None:
    with opened(tmp_path / "a.jsonl") as cache:
        with pytest.raises(SearchError, match="the accuracy of network 'net 2' must be"):
            Evaluator(lambda _: value, cache=cache)([tiny(2)])
        if not isinstance(value, int):
            with pytest.raises(UsageError, match="must be finite"):
                cache.add("x", float(value), 1.0)
        assert len(cache) == 0


def test_an_accuracy_that_cannot_be_shown_is_refused() -> None:
    class Secret:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(SearchError, match="must be a finite number, got a Secret"):
        Evaluator(lambda _: Secret())([tiny(2)])  # type: ignore[arg-type, return-value]


# --------------------------------------------------------------------------------------------------------- checkpoints


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> None:
    """Change what a file of tensors holds and write it again, with hashes that are right."""
    tensors, text = read_tensors(path)
    header = msgspec.json.decode(text)
    change(tensors, header)
    write_tensors(path, tensors, msgspec.json.encode(header).decode())


def head(content: dict[str, Any], data: bytes = b"") -> bytes:
    text = msgspec.json.encode(content)
    return struct.pack("<Q", len(text)) + text + data


KEYS = {"header": "{}", "sha256": "0" * 64}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**63) + bytes(100),
        struct.pack("<Q", 1 << 40) + bytes(100),
        struct.pack("<Q", 99) + bytes(50),
        head({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}, "__metadata__": KEYS}),
        head({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}, "__metadata__": KEYS}),
        head({"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}, "__metadata__": KEYS}),
        head({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "__metadata__": KEYS}, bytes(4)),
        head({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "__metadata__": KEYS}, bytes(4)),
        head({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": KEYS}, bytes(4)),
        head({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}, "__metadata__": KEYS}, bytes(4)),
        head({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}, "__metadata__": KEYS}, bytes(8)),
        head({"__metadata__": {"header": 5, "sha256": "0"}}),
        head({"__metadata__": {"sha256": "0"}}),
        head({"__metadata__": []}),
        head({}),
        head({"__metadata__": KEYS}),
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 17 << 20) + b"{}" + b" " * (17 << 20),
    ],
)
def test_files_of_tensors_that_are_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors is (damaged|not a file of ours)") as caught:
        read_tensors(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_are_finite(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.zeros(3), "b\x1b[2J": torch.tensor([1.0, value], dtype=dtype)}, "{}")
    with pytest.raises(CheckpointError, match=r"x\.safetensors: b\\x1b\[2J holds numbers that are not finite"):
        read_tensors(path)


def small_recipe() -> Recipe:
    return Recipe(epochs=1, warmup_epochs=0, batch_size=16)


def change_epoch(place: int, value: Any) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], None]:
    def change(_: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
        header["values"]["epochs"][0][place] = value

    return change


def set_tensor(name: str, make: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, torch.Tensor], Any], None]:
    def change(tensors: dict[str, torch.Tensor], _: Any) -> None:
        found = make(tensors.pop(name))
        if found is not None:
            tensors[name] = found

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, header: header.update(epoch=10**30), "is not a checkpoint"),
        (lambda _, header: header.update(epoch=10**5), "its epochs are none"),
        (lambda _, header: header.update(epoch=-1), "is not a checkpoint"),
        (lambda _, header: header.update(values=[]), "is not a checkpoint"),
        (lambda _, header: header["values"].pop("epochs"), "missing required field"),
        (lambda _, header: header["values"].update(epochs=[[1] * 6] * 2), "its epochs are none"),
        (lambda _, header: header["values"].update(scaler={"scale": 1e308}), "its gradients' scale is none"),
        (change_epoch(0, 2), "its epochs are none"),
        (change_epoch(1, 1e308), "its epochs are none"),
        (change_epoch(2, -1.0), "its epochs are none"),
        (change_epoch(3, 1.5), "its epochs are none"),
        (change_epoch(4, 1e308), "its epochs are none"),
        (change_epoch(5, 10**400), "Number out of range|is not a checkpoint|its epochs are none"),
        (set_tensor("module.stem.weight", lambda t: t.double()), "is torch.float64"),
        (set_tensor("module.stem.weight", lambda t: t[:1].clone()), r"and torch.float32 \("),
        (set_tensor("module.stem.weight", lambda _: None), "it lacks stem.weight"),
        (set_tensor("optimizer.0.momentum_buffer", lambda t: t[:1].clone()), "of no parameter"),
        (lambda tensors, _: tensors.update({"module.other": torch.zeros(1)}), "an unexpected other"),
        (lambda tensors, _: tensors.update({"optimizer.0.step": torch.tensor(-1.0)}), "of no parameter"),
        (lambda tensors, _: tensors.update({"optimizer.0.exp_avg_sq": -torch.ones(1)}), "of no parameter"),
        (lambda tensors, _: tensors.update({f"optimizer.{'9' * 5000}.step": torch.zeros(())}), "of no parameter"),
        (lambda tensors, _: tensors.update({"optimizer.٣.step": torch.zeros(())}), "of no parameter"),
    ],
)
def test_a_trainings_checkpoint_is_held_against_the_training(
    change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    data = subset(load_data("digits"), train=32, test=10, seed=0)

    def module() -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = OrderedDict(stem=torch.nn.Conv2d(3, 4, 3, stride=8), flat=torch.nn.Flatten())
            parts["last"] = torch.nn.Linear(64, 10)
            return torch.nn.Sequential(parts)

    train(module(), data, small_recipe(), seed=0, checkpoint=path)
    rewritten(path, change)
    resumed = module()
    with pytest.raises(CheckpointError, match=words) as caught:
        train(resumed, data, small_recipe(), seed=0, checkpoint=path)
    assert str(path) in str(caught.value)
    assert "--restart" in str(caught.value)
    # A module that was refused is as it was.
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), module().parameters(), strict=True))


def test_weights_are_of_the_types_of_the_network(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tiny(2), build_network(tiny(2), seed=0))
    assert load_weights(path, tiny(2)) is not None
    rewritten(path, set_tensor("last.linear.weight", lambda t: t.double()))
    with pytest.raises(CheckpointError, match=r"w\.safetensors: its last\.linear\.weight is torch\.float64"):
        load_weights(path, tiny(2))


@pytest.mark.parametrize(
    "change",
    [
        set_tensor("train_labels", lambda t: t + 10**12),
        set_tensor("train_labels", lambda t: t - 1),
        set_tensor("train_labels", lambda t: t[:-1].clone()),
        set_tensor("test_labels", lambda t: t.int()),
        set_tensor("test_labels", lambda _: None),
        set_tensor("test_images", lambda t: t.float()),
        set_tensor("test_images", lambda t: t[:, :, :16].clone()),
        set_tensor("test_images", lambda t: t[:0].clone()),
        lambda _, header: header.update(classes=["one"]),
        lambda _, header: header.update(classes=5),
        lambda tensors, _: tensors.update(more=torch.zeros(1)),
    ],
)
def test_a_cache_of_images_that_is_none_is_made_anew(
    change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None], tmp_path: Path
) -> None:
    path = tar_of(tmp_path / "images.tar", image_files("train/", "test/"))
    first = load_data(f"images:{path}", cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    whole = content_digest(kept)
    rewritten(kept, change)
    assert content_digest(kept) != whole
    assert same(first, load_data(f"images:{path}", cache=tmp_path / "cache"))
    assert content_digest(kept) == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda kept: kept.update(ms=[*kept["ms"][:-1], 1e308]), "is damaged"),
        (lambda kept: kept.update(ms=[*kept["ms"][:-1], -1]), "is damaged"),
        (lambda kept: kept.update(ms=kept["ms"][:-1]), "is damaged"),
        (lambda kept: kept.update(ms=[2 * ms for ms in kept["ms"]]), "is damaged"),
        (lambda kept: kept.update(more=1), "is damaged"),
        (lambda kept: kept.update(seed="x"), "is damaged"),
    ],
)
def test_a_calibration_is_what_was_measured(change: Callable[[Any], None], words: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    vectors = tuple((i, 0) for i in range(10))
    kept = _calibrate._Kept("digest", 3, vectors, tuple(1.0 + i for i in range(10)))
    content = msgspec.to_builtins(msgspec.structs.replace(kept, sha256=kept.digest()))
    path.write_bytes(msgspec.json.encode(content))
    assert _calibrate._load(path, "digest", 3, vectors) is not None
    assert _calibrate._load(path, "other", 3, vectors) is None
    # An older file has no digest.
    path.write_bytes(msgspec.json.encode({**content, "sha256": ""}))
    assert _calibrate._load(path, "digest", 3, vectors) is not None
    change(content)
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(CheckpointError, match=words):
        _calibrate._load(path, "digest", 3, vectors)
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(CheckpointError, match=words):
        _calibrate._load(path, "digest", 3, vectors)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"{}",
        b'{"00000000":{"mean_acc":1e308}}',
        b'{"00000000":{"mean_acc":1,"x":' + b"[" * 100_000 + b"}}",
        b"\xff",
        b" " * (1 << 24) + b" {}",
    ],
)
def test_a_benchmark_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_bytes(content)
    with pytest.raises((DataError, FileAccessError), match=r"b\.json") as caught:
        load_accuracies(path)
    assert len(str(caught.value)) < 400 + len(str(path))
    wild = {"".join(name): {"mean_acc": 50} for name in itertools.product("012", repeat=8)}
    wild["01201201"]["mean_acc"] = 10**20
    path.write_bytes(msgspec.json.encode(wild))
    with pytest.raises(DataError, match="the accuracy of 01201201"):
        load_accuracies(path)


# --------------------------------------------------------------------------------------------- processes of evaluations

ANSWERS = """\
import os, signal, sys
sys.stdin.readline()
os.write(1, b'{"value":0.0,"seconds":0.0,"error":""}\\n')
sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os._exit(0)", "its process ended with exit code 0"),
        ("os._exit(3)", "its process ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", r"its process was ended by (signal 35|SIGRTMIN\+1)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its process was ended by SIGSEGV"),
        ("os.write(2, b'last\\x1b[2J words\\n'); os._exit(1)", r"exit code 1: last\\x1b\[2J words"),
        (r"os.write(1, b'a library\'s banner\n')", 'its process gave no accuracy but "a library\'s banner"'),
        (r"os.write(1, b'x' * 10_000_000 + b'\n')", "its process gave no accuracy but 'xxx"),
        (r"os.write(1, b'\xff\x1b[2J\n')", r"its process gave no accuracy but '.*\[2J"),
        (r"os.write(1, b'[' * 60_000 + b'\n')", "its process gave no accuracy but"),
        (r"""os.write(1, b'{"value":1e308,"seconds":1}\n')""", "its process gave no accuracy but"),
        (r"""os.write(1, b'{"value":-0.1,"seconds":1}\n')""", "its process gave no accuracy but"),
        (r"""os.write(1, b'{"value":NaN,"seconds":1}\n')""", "its process gave no accuracy but"),
        (r"""os.write(1, b'{"value":0.5,"seconds":-1}\n')""", "its process gave no accuracy but"),
        (r"""os.write(1, b'{"value":"0.5"}\n')""", "its process gave no accuracy but"),
        (r"""os.write(1, b'{"value":0.5')""", "its process ended with exit code 0"),
        (r"""os.write(1, b'{"error":"' + b'y' * 60_000 + b'"}\n')""", "could not be evaluated: yyy"),
    ],
)
def test_whatever_becomes_of_a_process_is_one_line(code: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_evaluation_worker, "BOOT", ANSWERS + code)
    worker = EvaluationWorker(Hello("", small_recipe(), 0, "cpu", 1))
    try:
        worker.ready()
        with pytest.raises(SearchError, match=words) as caught:
            worker.evaluate(tiny(2))
    finally:
        worker.close()
    assert str(caught.value).startswith("the accuracy of network 'net 2' could not be evaluated: ")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700
    assert "\x1b" not in str(caught.value)


def test_a_process_that_does_not_begin_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for code, words in (
        ("import os; os._exit(0)", "ended with exit code 0 before it began"),
        ("print('a banner')", "could not begin: its process gave no accuracy but 'a banner'"),
    ):
        monkeypatch.setattr(_evaluation_worker, "BOOT", code)
        worker = EvaluationWorker(Hello("", small_recipe(), 0, "cpu", 1))
        try:
            with pytest.raises(SearchError, match=words):
                worker.ready()
        finally:
            worker.close()

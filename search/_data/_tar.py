"""Tar archives, compressed or not, as a stream of plain files: nothing is extracted, and everything is bounded.

What is decompressed is counted as it comes, and no size that a header names is believed before so much was read. That
is not left to ``tarfile``, which reads long names and extended headers into memory, however long they say they are.
"""

from __future__ import annotations

import bz2
import lzma
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, final

from lut._files import file_error, show_bytes
from lut._printable import printable, shortened
from lut.errors import DataError, FileAccessError

__all__ = ["first_file", "tar_files"]

BLOCK = 512
CHUNK = 1 << 16
# CIFAR's archives unpack to 186 MB, a quarter of a million images of 32×32 to one gibibyte.
LARGEST_ARCHIVE = 3 << 29
MOST_MEMBERS = 300_000
# A long name or an extended header.
LARGEST_HEADER = 1 << 16
# Before one file: a global header, its extended one, a long name and a link's.
MOST_HEADERS = 4
# Of all extended headers together; a file has four to ten.
MOST_RECORDS = 1 << 21
# Characters of a name and of a part of it, as file systems have them.
LONGEST_NAME, LONGEST_PART = 4096, 255
# Of all names that are given out, in memory, where one wide character makes four bytes of each: 250 for each image.
LARGEST_NAMES = 1 << 26
# Images hardly shrink, and headers to a tenth or so. A bomb unpacks to hundreds of times its size.
LARGEST_RATIO, FREE = 100, 1 << 26
# An xz stream names the memory that it needs; that of `xz -9` is 65 MiB.
LARGEST_DICTIONARY = 1 << 28
# bgzip writes a stream for every 64 KiB.
MOST_STREAMS = 1 << 16
# Zeros after the last file; tapes are written in records of up to a megabyte.
LARGEST_PADDING = 1 << 26

_PLAIN, _FOLDER = (b"0", b"\0", b"7"), b"5"
_REFUSED = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}
_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ")


def tar_files(path: Path, wanted: Callable[[str], bool], largest: int) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of an archive's plain files whose name ``wanted`` accepts, in the archive's order.

    Args:
        path: a tar archive, or one that gzip, bzip2 or xz compressed.
        wanted: told each plain file's name.
        largest: bytes that such a file may have.

    Raises:
        DataError: the archive is damaged or no tar, unpacks to too much, holds links, devices, sparse files, names that
            no file system has or a wanted name twice, or a file has more than ``largest`` bytes.
        FileAccessError: it cannot be read.
    """
    seen = set()
    # Of names, in memory.
    held = 0
    with _open_tar(path) as stream:
        for member in _members(stream):
            if not wanted(member.name):
                stream.skip(_padded(member.size))
                continue
            if member.size > largest:
                raise DataError(
                    f"{path}: {_shown(member.name)} has {member.size} bytes, and at most {largest} are expected"
                )
            if member.name in seen:
                raise DataError(f"{path} holds two files named {_shown(member.name)}; fetch it again")
            held += len(member.name) * (1 if member.name.isascii() else 4)
            if held > LARGEST_NAMES:
                raise DataError(f"{path}: its files' names take more than {show_bytes(LARGEST_NAMES)}: it is refused")
            seen.add(member.name)
            content = stream.read(member.size)
            stream.skip(_padded(member.size) - member.size)
            yield member.name, content


def first_file(path: Path, wanted: Callable[[str], bool]) -> str | None:
    """Return the name of an archive's first plain file whose name ``wanted`` accepts; raises as :func:`tar_files`."""
    with _open_tar(path) as stream:
        for member in _members(stream):
            if wanted(member.name):
                return member.name
            stream.skip(_padded(member.size))
    return None


class _Member(NamedTuple):
    name: str
    size: int


class _Head(NamedTuple):
    """What one block says of the file that follows it."""

    name: str
    kind: bytes
    size: int


class _DamagedError(Exception):
    """The archive is not as one was written; says why."""


@final
class _Stream:
    """The bytes of a tar, decompressed as they are asked for."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._parts = _decompressed(path, file)
        self._left = b""
        self.offset = 0

    def read(self, count: int) -> bytes:
        """Return so many bytes, of which no more are held than there are.

        Raises:
            _DamagedError: the archive ends before.
        """
        found = self.read_up_to(count)
        if len(found) < count:
            raise _DamagedError("it ends in the middle of a file")
        return found

    def read_up_to(self, count: int) -> bytes:
        """Return so many bytes, or fewer at the end."""
        return b"".join(self._take(count))

    def skip(self, count: int) -> None:
        """Leave so many bytes out."""
        if self.offset + count > LARGEST_ARCHIVE:
            # Said at once, and not after seconds of unpacking.
            raise _too_large(self.path, show_bytes(LARGEST_ARCHIVE))
        if sum(map(len, self._take(count))) < count:
            raise _DamagedError("it ends in the middle of a file")

    def rest(self) -> Iterator[bytes]:
        """Yield all that follows."""
        while part := self.read_up_to(CHUNK):
            yield part

    def _take(self, count: int) -> Iterator[bytes]:
        while count:
            if not self._left:
                self._left = next(self._parts, b"")
                if not self._left:
                    return
            part, self._left = self._left[:count], self._left[count:]
            count -= len(part)
            self.offset += len(part)
            yield part


@contextmanager
def _open_tar(path: Path) -> Iterator[_Stream]:
    """Open a tar archive; errors while it is open become ours."""
    stream = None
    try:
        with _open_regular(path) as file:
            stream = _Stream(path, file)
            yield stream
    except (_DamagedError, EOFError, zlib.error, lzma.LZMAError) as error:
        begun = stream is not None and stream.offset > BLOCK
        what = "is a damaged archive" if begun else "is not a tar archive, or is damaged"
        raise DataError(f"{path} {what} ({error}); fetch it again") from None
    except OSError as error:
        # bz2's complaints are the system's without a number.
        if error.errno is None and not isinstance(error, FileAccessError):
            raise DataError(f"{path} is a damaged archive ({error}); fetch it again") from None
        raise file_error(path, "read", error) from None


def _decompressed(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Yield an archive's content in chunks, as long as there is not too much of it."""
    start = file.read(6)
    file.seek(0)
    make = next((make for magic, make in _DECOMPRESSORS if start.startswith(magic)), None)
    made = 0
    for part in _chunks(file) if make is None else _inflated(file, make):
        made += len(part)
        ratio = made > FREE and make is not None and made > LARGEST_RATIO * file.tell()
        if ratio or made > LARGEST_ARCHIVE:
            raise _too_large(path, f"{LARGEST_RATIO} times its size" if ratio else show_bytes(LARGEST_ARCHIVE))
        yield part


def _too_large(path: Path, limit: str) -> DataError:
    return DataError(f"{path} unpacks to more than {limit}, which no archive of small images does: it is refused")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while part := file.read(CHUNK):
        yield part


_DECOMPRESSORS: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(31)),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ", lambda: lzma.LZMADecompressor(memlimit=LARGEST_DICTIONARY)),
    (b"\x5d\x00\x00", lambda: lzma.LZMADecompressor(memlimit=LARGEST_DICTIONARY)),
)


def _inflated(file: IO[bytes], make: Callable[[], Any]) -> Iterator[bytes]:
    """Yield what one or more compressed streams, one after another, hold; never more than a chunk at a time."""
    given = b""
    for _ in range(MOST_STREAMS):
        stream = make()
        while not stream.eof:
            # bz2 and lzma keep what they did not take; zlib gives it back.
            if not given and getattr(stream, "needs_input", True):
                given = file.read(CHUNK)
                if not given:
                    raise _DamagedError("its compressed data end too early")
            part = stream.decompress(given, CHUNK)
            given = getattr(stream, "unconsumed_tail", b"")
            if part:
                yield part
        given = stream.unused_data
        # Zeros may follow, as on a tape.
        while not (given := given.lstrip(b"\0")):
            given = file.read(CHUNK)
            if not given:
                return
    raise _DamagedError(f"it consists of more than {MOST_STREAMS} compressed streams")


def _members(stream: _Stream) -> Iterator[_Member]:
    """Yield an archive's plain files; whoever listens reads or skips the content, with its padding, of each."""
    named: dict[str, str] = {}
    headers = records = 0
    for _ in range(MOST_MEMBERS):
        at = stream.offset
        block = stream.read_up_to(BLOCK)
        if not block:
            raise _DamagedError("it has no end")
        if not block.strip(b"\0"):
            if named:
                raise _DamagedError("it ends with a name and no file")
            _check_end(stream)
            return
        head = _head(block, at)
        kind, name = head.kind, named.get("path", head.name)
        size = _size(named["size"]) if "size" in named else head.size
        if kind in (b"L", b"K", b"x", b"X", b"g"):
            if head.size > LARGEST_HEADER:
                raise DataError(
                    f"{stream.path}: a header of {head.size} bytes (byte {at} of the tar), and at most "
                    f"{LARGEST_HEADER} are expected"
                )
            headers += 1
            if headers > MOST_HEADERS:
                raise DataError(
                    f"{stream.path}: more than {MOST_HEADERS} headers before one file (byte {at} of the tar): "
                    "it is refused"
                )
            content = stream.read(head.size)
            stream.skip(_padded(head.size) - head.size)
            if kind == b"L":
                named["path"] = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            elif kind in (b"x", b"X"):
                for key, value in _records(content, at):
                    records += 1
                    if records > MOST_RECORDS:
                        raise DataError(
                            f"{stream.path}: its extended headers have more than {MOST_RECORDS} records: it is refused"
                        )
                    if key in ("path", "size"):
                        named[key] = value
            continue
        named, headers = {}, 0
        _check_name(stream.path, name, at)
        if kind in _REFUSED:
            raise DataError(f"{stream.path}: {_shown(name)} is {_REFUSED[kind]}, and only plain files are read")
        if kind == _FOLDER or name.endswith("/"):
            # It has no content, whatever its size says.
            continue
        if kind not in _PLAIN:
            raise DataError(f"{stream.path}: {_shown(name)} is of an unknown type, and only plain files are read")
        yield _Member(name, size)
    raise DataError(f"{stream.path} holds more than {MOST_MEMBERS} files, which is too many")


def _head(block: bytes, at: int) -> _Head:
    """Return what a header's block says; its checksum is held against it first."""
    given = _octal(block[148:156])
    # Of the bytes with the checksum's own place blank; some old programs took them for signed.
    total = sum(block) - sum(block[148:156]) + 8 * 32
    if given != total and given != total - 256 * sum(byte > 127 for byte in block[:148] + block[156:]):
        raise _DamagedError(f"byte {at} of the tar: bad checksum")
    size = _octal(block[124:136])
    if block[124] == 0x80:
        size = int.from_bytes(block[125:136], "big")
    if size is None:
        raise _DamagedError(f"byte {at} of the tar: a size that is not a number")
    name, prefix = (part.split(b"\0", 1)[0] for part in (block[:100], block[345:500]))
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _Head(name.decode("utf-8", "surrogateescape"), block[156:157], size)


def _octal(field: bytes) -> int | None:
    text = field.split(b"\0", 1)[0].strip()
    return int(text, 8) if re.fullmatch(rb"[0-7]{1,12}", text) else (None if text else 0)


def _records(content: bytes, at: int) -> Iterator[tuple[str, str]]:
    """Yield the keys and values of an extended header, which begins at byte ``at`` of the tar."""
    start = 0
    # Zeros fill it up in some archives.
    filled = len(content.rstrip(b"\0"))
    while start < filled:
        record = _RECORD.match(content, start)
        end = start + int(record[1]) if record is not None else 0
        if record is None or not record.end() < end <= filled or content[end - 1 : end] != b"\n":
            raise _DamagedError(f"byte {at} of the tar: an extended header that is none")
        key, _, value = content[record.end() : end - 1].decode("utf-8", "surrogateescape").partition("=")
        if key.startswith("GNU.sparse."):
            raise _DamagedError(f"byte {at} of the tar: a sparse file, and only plain files are read")
        yield key, value
        start = end


def _check_name(path: Path, name: str, at: int) -> None:
    """Refuse a name that no file system has, before it is taken apart or kept."""
    if len(name) > LONGEST_NAME:
        why = f"a name of {len(name)} characters, and at most {LONGEST_NAME} are expected"
    elif (longest := max(map(len, name.split("/")))) > LONGEST_PART:
        why = f"a part of a name of {longest} characters, and at most {LONGEST_PART} are expected"
    else:
        return
    raise DataError(f"{path}: {_shown(name)} (byte {at} of the tar) is {why}")


def _size(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise _DamagedError("a size that is not a number")
    return int(text)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _check_end(stream: _Stream) -> None:
    """Make sure that nothing but zeros follows, to the very end, where a compressed stream's checksum is compared."""
    padding = 0
    for block in stream.rest():
        padding += len(block)
        if block.strip(b"\0"):
            raise _DamagedError(f"something follows its end, byte {stream.offset - len(block)} of the tar")
        if padding > LARGEST_PADDING:
            raise _DamagedError(f"more than {show_bytes(LARGEST_PADDING)} of zeros follow its last file")


@contextmanager
def _open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that is neither a pipe, which would be waited for, nor a device, which would never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileAccessError(f"cannot read {path}: it is not a regular file")
        yield file


def _shown(name: str) -> str:
    return shortened(printable(name), 120)

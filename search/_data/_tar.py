"""Tar archives, compressed or not, as a stream of plain files: nothing is extracted, and everything is bounded.

``tarfile`` reads the headers, and believes what they say of their sizes: so it reads through a stream that counts what
is unpacked, and what goes into headers, as it comes.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, cast, final

from lut._files import file_error, open_regular, show_bytes
from lut._printable import printable, shortened
from lut.errors import DataError, FileAccessError

__all__ = ["tar_files"]

CHUNK = 1 << 16
# CIFAR's archives unpack to 186 MB, a quarter of a million images of 32×32 to one gibibyte.
LARGEST_ARCHIVE = 3 << 29
MOST_MEMBERS = 300_000
# All headers of one file: a long name, say, and its attributes.
LARGEST_HEADER = 1 << 14
# What headers take beyond three blocks for each file, and the last byte of the one before; of all files together. Names
# that are kept are part of it.
USUAL_HEADER, LARGEST_HEADERS = 3 * tarfile.BLOCKSIZE + 1, 1 << 25
# Characters of a name and of a part of it, as file systems have them.
LONGEST_NAME, LONGEST_PART = 4096, 255
# Images hardly shrink, and headers to a tenth or so. A bomb unpacks to hundreds of times its size.
LARGEST_RATIO, FREE = 100, 1 << 26

_UNPACKERS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ", partial(lzma.open, format=lzma.FORMAT_XZ)),
    (b"", lambda packed: packed),
)
_REFUSED = {
    **dict.fromkeys((tarfile.LNKTYPE, tarfile.SYMTYPE), "a link"),
    **dict.fromkeys((tarfile.CHRTYPE, tarfile.BLKTYPE), "a device"),
    tarfile.FIFOTYPE: "a pipe",
}


def tar_files(path: Path, wanted: Callable[[str], bool], largest: int) -> Generator[tuple[str, bytes], None, None]:
    """Yield the names and contents of an archive's plain files whose name ``wanted`` accepts, in the archive's order.

    Args:
        path: a tar archive, or one that gzip, bzip2 or xz compressed.
        wanted: told each plain file's name.
        largest: bytes that such a file may have.

    Raises:
        DataError: the archive is damaged or no tar, unpacks to too much, holds links, devices, sparse files or names
            that no file system has, or a file has more than ``largest`` bytes.
        FileAccessError: it cannot be read.
    """
    with open_regular(path) as packed:
        stream = _Stream(path, packed)
        try:
            yield from _files(stream, wanted, largest)
        except (DataError, FileAccessError):
            raise
        except Exception as error:
            # Of damaged archives tarfile and what unpacks them raise whatever they stumble over.
            if isinstance(error, OSError) and error.errno is not None:
                raise file_error(path, "read", error) from None
            begun = stream.tell() > tarfile.BLOCKSIZE
            what = "is a damaged archive" if begun else "is not a tar archive, or is damaged"
            why = printable(shortened(str(error) or type(error).__name__, 200))
            raise DataError(f"{path} {what} ({why}); fetch it again") from None


@final
class _Stream:
    """What an archive unpacks to, as tarfile reads it: forwards, and no further than archives of small images go."""

    def __init__(self, path: Path, packed: IO[bytes]) -> None:
        self.path = path
        # Of headers, until the next file.
        self.allowed = LARGEST_HEADER
        self.last_header = b""
        self._packed = packed
        start = cast("Any", packed).peek(6)
        self._unpacked = next(unpack for magic, unpack in _UNPACKERS if start.startswith(magic))(packed)
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, place: int) -> None:
        if place < self._at:
            raise tarfile.ReadError("a size below zero")
        if place > LARGEST_ARCHIVE:
            # Said at once, and not after seconds of unpacking.
            raise self._too_large(show_bytes(LARGEST_ARCHIVE))
        for _ in self.parts(place - self._at):
            pass

    def read(self, count: int) -> bytes:
        """Return so many bytes of a header, or fewer at the end."""
        if not 0 <= count <= self.allowed:
            raise DataError(
                f"{self.path}: the headers of one file (byte {self._at} of the tar) have more than "
                f"{show_bytes(LARGEST_HEADER)}: it is refused"
            )
        self.allowed -= count
        self.last_header = b"".join(self.parts(count))
        return self.last_header

    def parts(self, count: int) -> Iterator[bytes]:
        """Yield so many bytes, or fewer at the end, of which no more are held than there are."""
        while count and (part := self._unpacked.read(min(count, CHUNK))):
            count -= len(part)
            self._at += len(part)
            packed = self._unpacked is not self._packed
            if packed and self._at > FREE and self._at > LARGEST_RATIO * self._packed.tell():
                raise self._too_large(f"{LARGEST_RATIO} times its size")
            if self._at > LARGEST_ARCHIVE:
                raise self._too_large(show_bytes(LARGEST_ARCHIVE))
            yield part

    def _too_large(self, limit: str) -> DataError:
        return DataError(
            f"{self.path} unpacks to more than {limit}, which no archive of small images does: it is refused"
        )


def _files(stream: _Stream, wanted: Callable[[str], bool], largest: int) -> Iterator[tuple[str, bytes]]:
    archive = tarfile.TarFile(fileobj=cast("IO[bytes]", stream), encoding="utf-8")
    unusual = 0
    for _ in range(MOST_MEMBERS):
        stream.allowed = LARGEST_HEADER
        member = archive.next()
        # It would keep all of them.
        cast("Any", archive).members.clear()
        if member is None:
            _check_end(stream)
            return
        unusual += max(0, LARGEST_HEADER - stream.allowed - USUAL_HEADER)
        if unusual > LARGEST_HEADERS:
            raise DataError(f"{stream.path}: its headers take more than {show_bytes(LARGEST_HEADERS)}: it is refused")
        _check_member(stream.path, member)
        if member.isdir() or not wanted(member.name):
            continue
        if member.size > largest:
            raise DataError(
                f"{stream.path}: {_shown(member)} has {member.size} bytes, and at most {largest} are expected"
            )
        content = b"".join(stream.parts(member.size))
        if len(content) < member.size:
            raise tarfile.ReadError("unexpected end of data")
        yield member.name, content
    raise DataError(f"{stream.path} holds more than {MOST_MEMBERS} files, which is too many")


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    """Refuse what is neither a plain file nor a folder, or has a name that no file system has."""
    if len(member.name) > LONGEST_NAME or max(map(len, member.name.split("/"))) > LONGEST_PART:
        raise DataError(f"{path}: {_shown(member)} is too long a name: {len(member.name)} characters")
    if member.issparse() or "GNU.sparse" in "".join(member.pax_headers):
        kind = "a sparse file"
    elif member.isfile() or member.isdir():
        if member.size < 0:
            raise tarfile.ReadError("a size below zero")
        return
    else:
        kind = _REFUSED.get(member.type, "of an unknown type")
    raise DataError(f"{path}: {_shown(member)} is {kind}, and only plain files are read")


def _check_end(stream: _Stream) -> None:
    """Make sure that nothing but zeros follows, to the very end, where a compressed stream's checksum is compared."""
    # tarfile takes a damaged header for the end: files would be missing, and nobody would know.
    if stream.last_header != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(
            f"byte {stream.tell()} of the tar: bad header" if stream.last_header else "it has no end"
        )
    for part in stream.parts(LARGEST_ARCHIVE + 1):
        if part.strip(b"\0"):
            raise tarfile.ReadError("something follows its end")


def _shown(member: tarfile.TarInfo) -> str:
    return shortened(printable(member.name), 120)

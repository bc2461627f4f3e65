"""Lines of a file that only grows (a journal, a cache of accuracies), each with a checksum.

A line is its content, a tab, and eight hexadecimal digits: the CRC-32 of the content and of the byte at which the line
begins. So a line that was altered, moved, removed from the middle or copied to another place is told from one that was
written there. What a kill or a full disk cut off at the end is no line yet, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

__all__ = ["DamagedLineError", "seal", "unsealed"]

_DIGITS = 8


class DamagedLineError(Exception):
    """A line is not as it was written; ``number`` counts from 1. Whoever reads the file says which file it is."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


def seal(content: bytes, offset: int) -> bytes:
    """Return the line for a file whose size is ``offset`` bytes before it.

    Args:
        content: JSON in one line; no tab or newline stands in it, since JSON writes them ``\\t`` and ``\\n``.
        offset: bytes that stand before it.
    """
    return b"%b\t%08x\n" % (content, _checksum(content, offset))


def unsealed(content: bytes) -> Iterator[bytes]:
    """Yield the contents of a file's whole lines.

    Raises:
        DamagedLineError: a line is not as it was written, or not where.
    """
    offset, number = 0, 0
    # Line by line: a list of them would be far larger than a file of empty ones.
    while (end := content.find(b"\n", offset)) >= 0:
        number += 1
        line = content[offset:end]
        body, separator, digits = line.rpartition(b"\t")
        if not separator or len(digits) != _DIGITS:
            raise DamagedLineError(number, "it has no checksum")
        if digits != b"%08x" % _checksum(body, offset):
            raise DamagedLineError(number, "its checksum is not that of what stands there")
        yield body
        offset += len(line) + 1


def _checksum(content: bytes, offset: int) -> int:
    return crc32(content, crc32(b"%d" % offset))

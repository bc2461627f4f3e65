"""What a pickle of plain values and arrays of bytes holds, read as data: nothing is unpickled, looked up or called.

A pickle is a program for a machine with a stack. Here the instructions that numbers, texts, lists, dictionaries and
numpy's arrays are written with are followed; what would look up a function notes its name, and what would call it notes
its arguments. The few names that an array of bytes is written with are known, and any other ends the reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from lut._printable import printable, shortened

__all__ = ["Call", "PickledError", "byte_array", "read_pickled"]

# A file of CIFAR-100 has 250,000 instructions; memory and time grow with their number.
MOST_INSTRUCTIONS = 1_000_000
# Digits of a decimal number, bytes of a binary one.
LONGEST_NUMBER = 20
# Longer texts are an array's bytes, one character each; others would take up to four times their bytes.
LONGEST_TEXT = 1 << 16

# What arrays of bytes are pickled with, by numpy of all versions; ``encode`` makes bytes of texts for Python 2.
_RECONSTRUCT, _FROM_BUFFER = "numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer"
_ARRAY, _DTYPE, _ENCODE = "numpy.ndarray", "numpy.dtype", "_codecs.encode"
_NAMES = frozenset((_RECONSTRUCT, _FROM_BUFFER, _ARRAY, _DTYPE, _ENCODE))
# What stands in UTF-8, and in Python 2's escapes, for characters that are no byte.
_WIDE = 0xC4
_WIDE_ESCAPE = re.compile(rb"\\U|\\u(?!00)")
# A piece of a text as Python 2 writes it in quotes. For each repetition a match keeps a note of more than a hundred
# bytes, so that an array in one match, escape by escape, would take gigabytes.
_QUOTED_PIECE = re.compile(rb"""(?:[^\\]{1,256}|\\(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2})){1,1024}""")
_WHOLE = re.compile(rb"-?[0-9]{1,%d}" % LONGEST_NUMBER)


class PickledError(Exception):
    """The content is damaged, or holds what no such file does; ``refused``: the latter, and why."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class _Name(NamedTuple):
    """A function or class that would have been looked up."""

    text: str


@final
class Call:
    """A call that was not made: of what, with which arguments, and what the result was to be brought to."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        self.name, self.args = name, args
        self.state: Any = None


class _Mark:
    """Where a list, tuple or dictionary begins on the stack."""


_MARK = _Mark()


def read_pickled(content: bytes) -> Any:
    """Return what a pickle of any protocol holds: numbers, texts, bytes, lists, tuples, dictionaries, :class:`Call`.

    Texts of Python 2 are bytes; a dictionary's keys are texts. Lists and tuples can be nested to any depth, so that
    whoever looks into them must not do so by recursion.

    Raises:
        PickledError: it is damaged, names what arrays of bytes are not made of, or is too large.
    """
    return _Machine(content).run()


def byte_array(value: Any) -> NDArray[np.uint8] | None:
    """Return an array that was pickled: uint8 in C order, over the pickle's bytes; ``None`` where it is none such."""
    if not isinstance(value, Call):
        return None
    if value.name == _RECONSTRUCT:
        state = value.state
        if type(state) is not tuple or len(state) != 5:
            return None
        version, shape, dtype, fortran, content = state
        if type(version) is not int or type(fortran) not in (bool, int) or fortran:
            return None
    elif value.name == _FROM_BUFFER and value.state is None and len(value.args) in (4, 5):
        content, dtype, shape, order, *axes = value.args
        if axes not in ([], [None]):
            return None
        if order not in ("C", b"C"):
            return None
    else:
        return None
    if not _is_bytes(dtype) or type(content) not in (bytes, bytearray) or type(shape) is not tuple or len(shape) > 4:
        return None
    total = 1
    for size in shape:
        if type(size) is not int or not 0 <= size <= len(content):
            return None
        total *= size
    if total != len(content):
        return None
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _is_bytes(dtype: Any) -> bool:
    """Whether it is numpy's uint8: ``dtype('u1')``, or ``dtype('u1', 0, 1)`` with the state that it always has."""
    if not isinstance(dtype, Call) or dtype.name != _DTYPE or not dtype.args:
        return False
    if dtype.args[0] not in ("u1", b"u1", "|u1", b"|u1"):
        return False
    state = dtype.state
    if state is None:
        return True
    # Version, byte order, and no sub-array, names, fields, sizes or flags.
    plain = type(state) is tuple and len(state) in (8, 9) and all(type(item) in _SCALARS for item in state)
    return plain and state[1] in ("|", b"|") and state[2:8] == (None, None, None, -1, -1, 0)


_SCALARS = (int, str, bytes, type(None))


@final
class _Machine:
    """Follows a pickle's instructions, as far as plain values need them."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        # Bytes that were made of texts: as many as the content has, once each.
        self._encoded = 0

    def run(self) -> Any:
        try:
            for _ in range(MOST_INSTRUCTIONS):
                code = self._content[self._at]
                self._at += 1
                if code == _STOP:
                    (value,) = self._stack
                    return value
                if code not in _INSTRUCTIONS:
                    raise PickledError(f"byte {self._at - 1}: the instruction {bytes((code,))!r}", refused=True)
                _INSTRUCTIONS[code](self)
        except PickledError:
            raise
        except (LookupError, TypeError, ValueError) as error:
            # What is popped off an empty stack, of another type, or no text.
            raise PickledError(f"byte {self._at}: {type(error).__name__}") from None
        raise PickledError(f"it has more than {MOST_INSTRUCTIONS} instructions", refused=True)

    # --- arguments ---

    def take(self, count: int) -> bytes:
        start, end = self._at, self._at + count
        if not 0 <= count <= len(self._content) - start:
            raise PickledError("it ends too early")
        self._at = end
        return self._content[start:end]

    def number(self, count: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(count), "little", signed=signed)

    def line(self) -> bytes:
        end = self._content.index(b"\n", self._at)
        found, self._at = self._content[self._at : end], end + 1
        return found

    def long(self, size: int) -> None:
        if size > LONGEST_NUMBER:
            raise PickledError(f"byte {self._at}: a number of {size} bytes", refused=True)
        self.push(self.number(size, signed=True))

    def decimal(self, *, long: bool = False) -> None:
        text = self.line()
        if text in (b"00", b"01") and not long:
            self.push(text == b"01")
            return
        text = text.removesuffix(b"L") if long else text
        if not _WHOLE.fullmatch(text):
            raise PickledError(f"byte {self._at}: no whole number", refused=len(text) > LONGEST_NUMBER)
        self.push(int(text))

    def text(self, count: int) -> None:
        content = self.take(count)
        if len(content) > LONGEST_TEXT and np.frombuffer(content, np.uint8).max() >= _WIDE:
            raise PickledError(f"byte {self._at}: a text of {count} bytes", refused=True)
        self.push(content.decode("utf-8"))

    def raw_text(self) -> None:
        content = self.line()
        if len(content) > LONGEST_TEXT and _WIDE_ESCAPE.search(content):
            raise PickledError(f"byte {self._at}: a text of {len(content)} bytes", refused=True)
        self.push(content.decode("raw-unicode-escape"))

    def quoted(self) -> None:
        text = self.line().strip()
        if len(text) < 2 or text[:1] not in (b"'", b'"') or text[:1] != text[-1:]:
            raise PickledError(f"byte {self._at}: a text without its quotes")
        self.push(text[1:-1] if b"\\" not in text else b"".join(self.unescaped(text, 1, len(text) - 1)))

    def unescaped(self, text: bytes, start: int, end: int) -> Iterator[bytes]:
        """Yield what stands between two places of a text in quotes, piece by piece."""
        while start < end:
            piece = _QUOTED_PIECE.match(text, start, end)
            if piece is None:
                raise PickledError(f"byte {self._at}: a text without its quotes, or with an unknown escape")
            yield piece[0].decode("unicode_escape").encode("latin-1")
            start = piece.end()

    # --- the stack ---

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise PickledError(f"byte {self._at}: a value is missing")
        return value

    def since_mark(self) -> list[Any]:
        """Take all that was pushed since the last mark, and the mark."""
        stack = self._stack
        start = len(stack) - 1
        while stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise PickledError(f"byte {self._at}: a mark is missing")
        found = stack[start + 1 :]
        del stack[start:]
        return found

    def last(self) -> Any:
        return self._stack[-1]

    def keep(self, place: int) -> None:
        value = self.last()
        if value is _MARK:
            raise PickledError(f"byte {self._at}: a value is missing")
        self._memo[place] = value

    def memoize(self) -> None:
        self.keep(len(self._memo))

    def get(self, place: int) -> None:
        self.push(self._memo[place])

    def group(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def extend(self, values: list[Any]) -> None:
        target = self.last()
        if type(target) is not list:
            raise PickledError(f"byte {self._at}: nothing to append to")
        target += values

    def dictionary(self, values: list[Any]) -> None:
        self.push({})
        self.set_items(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.last()
        if type(target) is not dict:
            raise PickledError(f"byte {self._at}: nothing to set")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Nothing else: the hash of a deeply nested tuple is a crash.
            if type(key) is bytes:
                key = key.decode("latin-1")
            if type(key) is not str or len(key) > LONGEST_TEXT:
                raise PickledError(f"byte {self._at}: a key that is not text", refused=True)
            if key in target:
                raise PickledError(f"byte {self._at}: it holds {_shown(key)} twice", refused=True)
            target[key] = value

    # --- names and calls ---

    def name(self, module: str, name: str) -> None:
        text = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        if text not in _NAMES:
            raise PickledError(f"it names {_shown(f'{module}.{name}')}, which no CIFAR file does", refused=True)
        self.push(_Name(text))

    def stacked_name(self) -> None:
        name, module = self.pop(), self.pop()
        if type(module) is not str or type(name) is not str:
            raise PickledError(f"byte {self._at}: a name that is not text")
        self.name(module, name)

    def call(self) -> None:
        args, function = self.pop(), self.pop()
        if type(function) is not _Name or type(args) is not tuple:
            raise PickledError(f"byte {self._at}: a call of nothing")
        if function.text == _ENCODE:
            self.push(self.encoded(*args))
        elif function.text == _ARRAY:
            raise PickledError(f"it calls {_ARRAY}, which no CIFAR file does", refused=True)
        else:
            self.push(Call(function.text, args))

    def encoded(self, text: Any, encoding: Any = None) -> bytes:
        """Return text as bytes, as Python 3 pickles bytes for Python 2; of all codecs, only the one that it uses."""
        if type(text) is not str or encoding not in ("latin1", b"latin1"):
            raise PickledError("it encodes text in an unusual way", refused=True)
        self._encoded += len(text)
        if self._encoded > len(self._content):
            raise PickledError("it encodes the same text again and again", refused=True)
        return text.encode("latin-1")

    def build(self) -> None:
        state, target = self.pop(), self.last()
        if type(target) is not Call or target.state is not None:
            raise PickledError(f"byte {self._at}: a state of nothing", refused=True)
        target.state = state


_STOP = ord(".")


def _known(instructions: Mapping[str, Callable[[_Machine], object]]) -> dict[int, Callable[[_Machine], object]]:
    return {ord(code): follow for code, follow in instructions.items()}


_INSTRUCTIONS = _known(
    {
        # The protocol's number, and the length of what follows.
        "\x80": lambda m: m.take(1),
        "\x95": lambda m: m.take(8),
        "(": lambda m: m.push(_MARK),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": lambda m: m.decimal(),
        "L": lambda m: m.decimal(long=True),
        "J": lambda m: m.push(m.number(4, signed=True)),
        "K": lambda m: m.push(m.number(1)),
        "M": lambda m: m.push(m.number(2)),
        "\x8a": lambda m: m.long(m.number(1)),
        "S": lambda m: m.quoted(),
        "T": lambda m: m.push(m.take(m.number(4))),
        "U": lambda m: m.push(m.take(m.number(1))),
        "B": lambda m: m.push(m.take(m.number(4))),
        "C": lambda m: m.push(m.take(m.number(1))),
        "\x8e": lambda m: m.push(m.take(m.number(8))),
        # An array's own buffer, which may be written to.
        "\x96": lambda m: m.push(m.take(m.number(8))),
        "V": lambda m: m.raw_text(),
        "X": lambda m: m.text(m.number(4)),
        "\x8c": lambda m: m.text(m.number(1)),
        "\x8d": lambda m: m.text(m.number(8)),
        "]": lambda m: m.push([]),
        "l": lambda m: m.push(m.since_mark()),
        "a": lambda m: m.extend([m.pop()]),
        "e": lambda m: m.extend(m.since_mark()),
        ")": lambda m: m.push(()),
        "t": lambda m: m.push(tuple(m.since_mark())),
        "\x85": lambda m: m.group(1),
        "\x86": lambda m: m.group(2),
        "\x87": lambda m: m.group(3),
        "}": lambda m: m.push({}),
        "d": lambda m: m.dictionary(m.since_mark()),
        "s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
        "u": lambda m: m.set_items(m.since_mark()),
        "g": lambda m: m.get(int(m.line()[:LONGEST_NUMBER])),
        "h": lambda m: m.get(m.number(1)),
        "j": lambda m: m.get(m.number(4)),
        "p": lambda m: m.keep(int(m.line()[:LONGEST_NUMBER])),
        "q": lambda m: m.keep(m.number(1)),
        "r": lambda m: m.keep(m.number(4)),
        "\x94": lambda m: m.memoize(),
        "c": lambda m: m.name(m.line().decode(), m.line().decode()),
        "\x93": lambda m: m.stacked_name(),
        "R": lambda m: m.call(),
        "b": lambda m: m.build(),
    }
)


def _shown(text: str) -> str:
    return shortened(printable(text), 80)

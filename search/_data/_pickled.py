"""What a pickle of plain values and arrays of bytes holds, read as data: nothing is unpickled, looked up or called.

A pickle is a program for a machine with a stack, and ``pickletools`` knows its instructions. Those that numbers, texts,
lists, dictionaries and numpy's arrays are written with since protocol 2 are followed; what would look up a function
notes its name, and what would call it its arguments. Any other name or instruction ends the reading.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from lut._printable import printable, shortened

__all__ = ["Call", "PickledError", "byte_array", "read_pickled"]

# A file of CIFAR-100 has 250,000 instructions; memory and time grow with their number.
MOST_INSTRUCTIONS = 1_000_000
# Longer texts are an array's bytes, one character each; others would take up to four times their bytes.
LONGEST_TEXT = 1 << 16
# What stands in UTF-8 for characters that are no byte.
WIDE = 0xC4

# What arrays of bytes are pickled with, by numpy of all versions; ``encode`` makes bytes of texts for Python 2.
_RECONSTRUCT, _FROM_BUFFER = "numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer"
_ARRAY, _DTYPE, _ENCODE = "numpy.ndarray", "numpy.dtype", "_codecs.encode"
_NAMES = frozenset((_RECONSTRUCT, _FROM_BUFFER, _ARRAY, _DTYPE, _ENCODE))
_MARK = object()


class PickledError(Exception):
    """The content is damaged, or holds what no such file does; ``refused``: the latter, and why."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class _Name(NamedTuple):
    """A function or class that would have been looked up."""

    text: str


@final
@dataclass(eq=False)
class Call:
    """A call that was not made: of what, with which arguments, and what the result was to be brought to."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


def read_pickled(content: bytes) -> Any:
    """Return what a pickle holds: numbers, texts, bytes, lists, tuples, dictionaries, :class:`Call`.

    Texts of Python 2 are bytes; a dictionary's keys are texts. Lists and tuples can be nested to any depth, so that
    whoever looks into them must not do so by recursion.

    Raises:
        PickledError: it is damaged, names what arrays of bytes are not made of, or is too large.
    """
    machine, stream = _Machine(len(content)), io.BytesIO(content)
    try:
        for _ in range(MOST_INSTRUCTIONS):
            code = stream.read(1)
            if not code:
                raise PickledError("it ends too early")
            if code == b".":
                (value,) = machine.stack
                return value
            known = _KNOWN.get(code)
            if known is None:
                raise PickledError(f"byte {stream.tell() - 1}: the instruction {code!r}", refused=True)
            if known.name in _TEXTS:
                _check_text(content, stream.tell(), _TEXTS[known.name])
            _INSTRUCTIONS[known.name](machine, known.arg.reader(stream) if known.arg is not None else None)
    except PickledError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        # What is popped off an empty stack, of another type, no text, or cut off, of which pickletools knows.
        raise PickledError(f"byte {stream.tell()}: {type(error).__name__}") from None
    raise PickledError(f"it has more than {MOST_INSTRUCTIONS} instructions", refused=True)


def byte_array(value: Any) -> NDArray[np.uint8] | None:
    """Return an array that was pickled: uint8 in C order, over the pickle's bytes; ``None`` where it is none such."""
    content: Any
    if not isinstance(value, Call):
        return None
    if value.name == _RECONSTRUCT and type(value.state) is tuple and len(value.state) == 5:
        _, shape, dtype, fortran, content = value.state
        plain = fortran is False or fortran == 0
    elif value.name == _FROM_BUFFER and value.state is None and len(value.args) in (4, 5):
        content, dtype, shape, order, *axes = value.args
        plain = order in ("C", b"C") and axes in ([], [None])
    else:
        return None
    if not plain or not _is_bytes(dtype) or type(content) not in (bytes, bytearray) or type(shape) is not tuple:
        return None
    # Two numbers of a few digits each, so that their product can be told at once.
    if len(shape) != 2 or not all(type(size) is int and 0 <= size <= len(content) for size in shape):
        return None
    return np.frombuffer(content, np.uint8).reshape(shape) if shape[0] * shape[1] == len(content) else None


def _is_bytes(dtype: Any) -> bool:
    """Whether it is numpy's uint8: with no byte order, sub-array, names, fields, sizes or flags in its state."""
    if not isinstance(dtype, Call) or dtype.name != _DTYPE or not dtype.args:
        return False
    state = dtype.state
    plain = type(state) is tuple and state[1:2] in (("|",), (b"|",)) and state[2:8] == (None, None, None, -1, -1, 0)
    return dtype.args[0] in ("u1", b"u1", "|u1", b"|u1") and (state is None or plain)


def _check_text(content: bytes, at: int, size_bytes: int) -> None:
    """Refuse a long text with characters that are no bytes, before it is decoded."""
    size = int.from_bytes(content[at : at + size_bytes], "little")
    if size > LONGEST_TEXT and np.frombuffer(content, np.uint8)[at + size_bytes :][:size].max(initial=0) >= WIDE:
        raise PickledError(f"byte {at}: a text of {size} bytes", refused=True)


@final
class _Machine:
    """The stack and the memory of a pickle, as far as plain values need them."""

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        # Bytes that may be made of texts: as many as the content has, once each.
        self._encodable = size

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickledError("a value is missing")
        return value

    def since_mark(self) -> list[Any]:
        """Take all that was pushed since the last mark, and the mark."""
        found: list[Any] = []
        # Without one the stack runs out.
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def keep(self, place: int) -> None:
        # Popped and pushed: a mark is no value.
        self.memo[place] = self.pop()
        self.push(self.memo[place])

    def group(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise PickledError("nothing to append to")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise PickledError("nothing to set")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Nothing else: the hash of a deeply nested tuple is a crash.
            if type(key) is bytes:
                key = key.decode("latin-1")
            if type(key) is not str or len(key) > LONGEST_TEXT:
                raise PickledError("a key that is not text", refused=True)
            if key in target:
                raise PickledError(f"it holds {_shown(key)} twice", refused=True)
            target[key] = value

    def name(self, module: Any, name: Any) -> None:
        text = f"{module}.{name}".replace("numpy._core", "numpy.core", 1) if type(module) is type(name) is str else ""
        if text not in _NAMES:
            raise PickledError(f"it names {_shown(text or 'no text')}, which no CIFAR file does", refused=True)
        self.push(_Name(text))

    def call(self) -> None:
        args, function = self.pop(), self.pop()
        if type(function) is not _Name or type(args) is not tuple:
            raise PickledError("a call of nothing")
        if function.text == _ARRAY:
            raise PickledError(f"it calls {_ARRAY}, which no CIFAR file does", refused=True)
        self.push(self.encoded(*args) if function.text == _ENCODE else Call(function.text, args))

    def encoded(self, text: Any, encoding: Any = None) -> bytes:
        """Return text as bytes, as Python 3 pickles bytes for Python 2; of all codecs, only the one that it uses."""
        if type(text) is not str or encoding not in ("latin1", b"latin1"):
            raise PickledError("it encodes text in an unusual way", refused=True)
        self._encodable -= len(text)
        if self._encodable < 0:
            raise PickledError("it encodes the same text again and again", refused=True)
        return text.encode("latin-1")

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if type(target) is not Call or target.state is not None:
            raise PickledError("a state of nothing", refused=True)
        target.state = state


# The bytes of their lengths.
_TEXTS = {"BINUNICODE": 4, "BINUNICODE8": 8}
_Follow = Callable[[_Machine, Any], object]
_INSTRUCTIONS: dict[str, _Follow] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda *_: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _Machine.push),
    **dict.fromkeys(("SHORT_BINUNICODE", *_TEXTS), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    # Of Python 2; pickletools makes texts of them.
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda m, arg: m.push(arg.encode("latin-1"))),
    "NONE": _Machine.push,
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.push(_MARK),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.group(1),
    "TUPLE2": lambda m, _: m.group(2),
    "TUPLE3": lambda m, _: m.group(3),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, arg: m.push(m.memo[arg])),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.keep),
    "MEMOIZE": lambda m, _: m.keep(len(m.memo)),
    "GLOBAL": lambda m, arg: m.name(*arg.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
}
_KNOWN = {op.code.encode("latin-1"): op for op in pickletools.opcodes if op.name in _INSTRUCTIONS}


def _shown(text: str) -> str:
    return shortened(printable(text), 80)

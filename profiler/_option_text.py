"""Options as people type them, read as their annotations say: ``3``, ``none``, ``1,2,3``, ``[1, 2, 3]``, a path."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isnan
from os import PathLike
from pathlib import Path, PurePath
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import inspect as types

from lut._suggest import did_you_mean

__all__ = ["NoTextError", "parse_text"]

NONE = ("none", "null")
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
LISTS: dict[type, Callable[[list[Any]], Any]] = {
    types.ListType: list,
    types.VarTupleType: tuple,
    types.TupleType: tuple,
    types.SetType: set,
    types.FrozenSetType: frozenset,
}
PATHS = (Path, PurePath)
# Of the kinds that an option may be, those that take any text are tried last.
LATE = (types.CustomType, types.StrType, types.AnyType)


class NoTextError(TypeError):
    """An annotation is of something that text cannot say."""


def parse_text(annotation: Any, text: str) -> Any:
    """Return what a text says, as an annotation wants it.

    ``none`` is None where that may be; a list is given with commas, or as JSON where its items are lists themselves;
    ``[]`` is the empty one.

    Raises:
        ValueError: it says nothing of the kind; the message says what is expected and what was found.
        NoTextError: nothing of the kind can be said in text.
    """
    try:
        kind = types.type_info(_without_paths(annotation))
    except TypeError:
        raise NoTextError(f"{annotation!r} cannot be given as text") from None
    return _parsed(kind, text.strip())


def _without_paths(annotation: Any) -> Any:
    """Return an annotation without the paths that stand beside ``str``: msgspec has no such unions."""
    if get_origin(annotation) not in (Union, UnionType) or str not in get_args(annotation):
        return annotation
    return Union[tuple(one for one in get_args(annotation) if (get_origin(one) or one) not in (*PATHS, PathLike))]  # noqa: UP007


def _parsed(kind: types.Type, text: str) -> Any:
    match kind:
        case types.UnionType():
            return _one_of(kind, text)
        case types.Metadata():
            return _parsed(kind.type, text)
        case types.AnyType():
            return text
        case types.StrType():
            return _in_length(kind, text)
        case types.CustomType() if kind.cls in PATHS and text:
            return kind.cls(text)
        case types.NoneType() if text.lower() in NONE:
            return None
        case types.BoolType() if text.lower() in BOOLEANS:
            return BOOLEANS[text.lower()]
        case types.IntType() if re.fullmatch(r"[+-]?[0-9]{1,300}", text):
            return _in_range(kind, int(text), text)
        case types.FloatType() if not isnan(number := _number(text)):
            return _in_range(kind, number, text)
        case types.LiteralType():
            found = [value for value in kind.values if str(value) == text]
            if found:
                return found[0]
            raise ValueError(f"{_expected(kind, text)}{did_you_mean(text, map(str, kind.values))}")
        case types.EnumType():
            by_text = {str(member.value): member for member in kind.cls}
            if text in by_text:
                return by_text[text]
            raise ValueError(f"{_expected(kind, text)}{did_you_mean(text, by_text)}")
        case _ if type(kind) in LISTS:
            return LISTS[type(kind)](_items(kind, text))
    raise ValueError(_expected(kind, text))


def _one_of(kind: types.UnionType, text: str) -> Any:
    if any(isinstance(one, types.NoneType) for one in kind.types) and text.lower() in NONE:
        return None
    others = sorted((one for one in kind.types if not isinstance(one, types.NoneType)), key=lambda k: type(k) in LATE)
    for one in others:
        try:
            return _parsed(one, text)
        except (ValueError, NoTextError) as error:
            if len(others) == 1 and isinstance(error, NoTextError):
                raise
    raise ValueError(_expected(kind, text))


def _items(kind: Any, text: str) -> list[Any]:
    """Return the items of a list: of JSON where it is some, else what stands between commas."""
    parts = [part.strip() for part in text.split(",")]
    if not text or (not text.startswith("[") and type(getattr(kind, "item_type", None)) in LISTS):
        raise ValueError(_expected(kind, text))
    if text.startswith("["):
        try:
            read = msgspec.json.decode(text, type=list[Any])
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            raise ValueError(_expected(kind, text)) from None
        parts = [item if isinstance(item, str) else msgspec.json.encode(item).decode() for item in read]
    if isinstance(kind, types.TupleType):
        if len(parts) != len(kind.item_types):
            raise ValueError(_expected(kind, text))
        return [_parsed(item, part) for item, part in zip(kind.item_types, parts, strict=True)]
    least, most = kind.min_length or 0, kind.max_length
    if len(parts) < least or (most is not None and len(parts) > most):
        bounds = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"expected {bounds} values, got {len(parts)}")
    return [_parsed(kind.item_type, part) for part in parts]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _in_range(kind: Any, number: float, text: str) -> float:
    low, high, step = kind.ge, kind.le, kind.multiple_of
    outside = (low is not None and number < low) or (high is not None and number > high)
    outside = outside or (kind.gt is not None and number <= kind.gt) or (kind.lt is not None and number >= kind.lt)
    if outside or (step is not None and number % step):
        raise ValueError(_expected(kind, text))
    return number


def _in_length(kind: types.StrType, text: str) -> str:
    if len(text) < (kind.min_length or 0):
        raise ValueError(f"expected a text of at least {kind.min_length} characters, got {_shown(text)}")
    if kind.max_length is not None and len(text) > kind.max_length:
        raise ValueError(f"expected a text of at most {kind.max_length} characters, got {len(text)}")
    if kind.pattern is not None and not re.search(kind.pattern, text):
        raise ValueError(f"expected a text of the form {kind.pattern}, got {_shown(text)}")
    return text


def _expected(kind: types.Type, text: str) -> str:
    kinds = kind.types if isinstance(kind, types.UnionType) else (kind,)
    empty = not text and any(type(one) in LISTS and not isinstance(one, types.TupleType) for one in kinds)
    return f"expected {_words(kind)}, got {_shown(text)}{'; [] is the empty list' if empty else ''}"


def _shown(text: str) -> str:
    return repr(text[:60])


def _words(kind: Any) -> str:
    """Return what a kind of value is called."""
    match kind:
        case types.Metadata():
            return _words(kind.type)
        case types.UnionType():
            # None is said last.
            ordered = sorted(kind.types, key=lambda one: isinstance(one, types.NoneType))
            return " or ".join(_words(one) for one in ordered)
        case types.IntType():
            return "a whole number" + _range(kind)
        case types.FloatType():
            return "a number" + _range(kind)
        case types.StrType() | types.AnyType():
            return "a text"
        case types.CustomType() if kind.cls in PATHS:
            return "a path"
        case types.BoolType():
            return "true or false"
        case types.NoneType():
            return "none"
        case types.LiteralType():
            return f"one of {', '.join(map(str, kind.values))}"
        case types.EnumType():
            return f"one of {', '.join(str(member.value) for member in kind.cls)}"
        case types.TupleType():
            return f"{len(kind.item_types)} values with commas ({', '.join(map(_words, kind.item_types))})"
        case _ if type(kind) in LISTS and type(kind.item_type) in LISTS:
            return "a list of lists, such as [[1, 2], [3]]"
        case _ if type(kind) in LISTS:
            return f"a list with commas, each {_words(kind.item_type)}"
    raise NoTextError("it cannot be given as text")


def _range(kind: Any) -> str:
    bounds = [
        f"{word} {limit}"
        for word, limit in (
            ("at least", kind.ge),
            ("above", kind.gt),
            ("at most", kind.le),
            ("below", kind.lt),
            ("a multiple of", kind.multiple_of),
        )
        if limit is not None
    ]
    return f" ({', '.join(bounds)})" if bounds else ""

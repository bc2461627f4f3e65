"""The file of ``--layers``: any layers, in JSON, by constructor or in full."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable
from functools import cache
from typing import Any, get_type_hints

import msgspec

from lut import (
    Layer,
    LayerError,
    UsageError,
    conv_norm_act,
    global_pool,
    linear,
    pooled_shortcut,
    residual_add,
)
from lut._codec import short_problem
from lut._files import read_bytes
from lut._printable import shortened

__all__ = ["load_layers"]

CONSTRUCTORS: dict[str, Callable[..., Layer]] = {
    function.__name__: function for function in (conv_norm_act, global_pool, linear, pooled_shortcut, residual_add)
}


# Bounds on a file's objects and on all that it lists, so that it is read in seconds.
MOST_OBJECTS = 1 << 20
MOST_PARTS = 1 << 22


@cache
def _arguments(function: Callable[..., Layer]) -> type[msgspec.Struct]:
    """Return a strict record of a constructor's arguments, so that JSON is checked against its signature."""
    hints = get_type_hints(function)
    fields: list[Any] = [("make", str)]
    for name, parameter in inspect.signature(function).parameters.items():
        field = (name, hints[name])
        fields.append(field if parameter.default is parameter.empty else (*field, parameter.default))
    return msgspec.defstruct(f"{function.__name__} arguments", fields, forbid_unknown_fields=True, kw_only=True)


def load_layers(path: str | os.PathLike[str]) -> tuple[Layer, ...]:
    """Return the layers that a JSON list describes, each once, in order.

    An item is either a constructor's name with its arguments, ``{"make": "conv_norm_act", "in_channels": 16, …}``, or
    a layer in full, ``{"inputs": [[16, 32, 32]], "nodes": […]}``, as tables hold them.

    Raises:
        FileAccessError: the file cannot be read.
        UsageError: it is no list of layers; the message names the item.
    """
    name = os.fspath(path)
    content = read_bytes(path)
    if content.count(b"{") > MOST_OBJECTS or content.count(b",") > MOST_PARTS:
        raise UsageError(f"{name}: it is too long for a list of layers")
    items: list[msgspec.Raw] = []
    try:
        # Whether it is JSON at all comes first.
        msgspec.json.decode(content, type=msgspec.Raw)
        with contextlib.suppress(msgspec.ValidationError):
            items = msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{name}: not valid JSON: {short_problem(str(error))}") from None
    if not items:
        hint = "; this is an object, such as a table is" if content.lstrip().startswith(b"{") else ""
        raise UsageError(f"{name}: expected a list of layers, one at least{hint}")
    layers = []
    for i, item in enumerate(items):
        try:
            layers.append(_layer(item))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LayerError) as error:
            raise UsageError(f"{name}: layer {i} (at `$[{i}]`): {short_problem(str(error))}") from None
    return tuple(dict.fromkeys(layers))


class _Made(msgspec.Struct):
    """What says whether an item is made by a constructor; the rest of it is passed over."""

    make: str | msgspec.UnsetType = msgspec.UNSET


def _layer(item: msgspec.Raw) -> Layer:
    name = msgspec.json.decode(item, type=_Made).make
    if name is msgspec.UNSET:
        return msgspec.json.decode(item, type=Layer)
    function = CONSTRUCTORS.get(name)
    if function is None:
        raise LayerError(f"nothing makes {shortened(name, 80)!r}; known: {', '.join(sorted(CONSTRUCTORS))}")
    arguments = msgspec.structs.asdict(msgspec.json.decode(item, type=_arguments(function)))
    del arguments["make"]
    return function(**arguments)

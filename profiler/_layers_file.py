"""The file of ``--layers``: any layers, in JSON, by constructor or in full."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
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
from lut._files import read_bytes

__all__ = ["load_layers"]

CONSTRUCTORS: dict[str, Callable[..., Layer]] = {
    function.__name__: function for function in (conv_norm_act, global_pool, linear, pooled_shortcut, residual_add)
}


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
    try:
        items = msgspec.json.decode(read_bytes(path))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{name}: not valid JSON: {error}") from None
    if not isinstance(items, list) or not items:
        raise UsageError(f"{name}: expected a list of layers, one at least")
    layers = []
    for i, item in enumerate(items):
        try:
            layers.append(_layer(item))
        except (msgspec.ValidationError, LayerError) as error:
            raise UsageError(f"{name}: layer {i} (at `$[{i}]`): {error}") from None
    return tuple(dict.fromkeys(layers))


def _layer(item: Any) -> Layer:
    if not isinstance(item, dict) or "make" not in item:
        return msgspec.convert(item, Layer)
    function = CONSTRUCTORS.get(str(item["make"]))
    if function is None:
        raise LayerError(f"nothing makes {item['make']!r}; known: {', '.join(sorted(CONSTRUCTORS))}")
    arguments = msgspec.structs.asdict(msgspec.convert(item, _arguments(function)))
    del arguments["make"]
    return function(**arguments)

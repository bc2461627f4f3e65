"""What all operators of a layer share: strict fields, a tag in JSON, and the vocabulary of shapes."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = ["Op", "Pair", "Shape", "show_shapes"]

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]


class Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", kw_only=True):
    """What all operators share: strict fields and the JSON tag. Abstract: never instantiated."""


def show_shapes(shapes: tuple[Shape, ...]) -> str:
    """Return shapes for a message: ``16×32×32, 16×1×1``."""
    return ", ".join("×".join(map(str, shape)) or "1" for shape in shapes) or "nothing"

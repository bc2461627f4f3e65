"""What all operators of a layer share: strict fields, a tag in JSON, and the vocabulary of shapes."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = ["Op", "Pair", "Shape", "show_shapes"]

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]


class Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", kw_only=True):
    """What all operators share: strict fields and the JSON tag. Abstract: never instantiated."""


# Sizes, and shapes, that a message shows; a file can hold any number of them.
_MOST_SHOWN = 8


def show_shapes(shapes: tuple[Shape, ...]) -> str:
    """Return shapes for a message, the first few of them: ``16×32×32, 16×1×1``."""
    shown = [
        "×".join(map(str, shape[:_MOST_SHOWN])) + "…" * (len(shape) > _MOST_SHOWN) for shape in shapes[:_MOST_SHOWN]
    ]
    if len(shapes) > _MOST_SHOWN:
        shown.append(f"and {len(shapes) - _MOST_SHOWN} more")
    return ", ".join(text or "1" for text in shown) or "nothing"

"""Data types by name: the one place where a name becomes a type of PyTorch's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lut import LayerError
from lut.subgraph import DTYPES

if TYPE_CHECKING:
    import torch

__all__ = ["torch_dtype"]


def torch_dtype(name: str) -> torch.dtype:
    """Return a type by PyTorch's name for it, such as ``float32``.

    Raises:
        LayerError: there is none, in our list or in this PyTorch.
    """
    import torch

    # A name may come out of a file: it is compared with a list before it is looked up.
    found = getattr(torch, name, None) if name in DTYPES else None
    if not isinstance(found, torch.dtype):
        raise LayerError(f"PyTorch {torch.__version__} has no type {name[:80]!r}")
    return found

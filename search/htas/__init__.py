"""HTAS: widths and depths of ResNets by gradients through the milliseconds of a device.

``htas.search(problem, data, folder="run")`` is all that most need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.htas._method import Logits
    from search.htas._python import search
    from search.htas._settings import SearchEpoch as Epoch
    from search.htas._settings import SearchSettings as Settings

# Resolved at first use (PEP 562): a command's --help should not wait for PyTorch.
_HOMES = {
    "Epoch": ("_settings", "SearchEpoch"),
    "Logits": ("_method", "Logits"),
    "Settings": ("_settings", "SearchSettings"),
    "search": ("_python", "search"),
}

__all__ = ["Epoch", "Logits", "Settings", "search"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'search.htas' has no attribute {name!r}")
    module, own = _HOMES[name]
    return getattr(import_module(f"search.htas.{module}"), own)


def __dir__() -> list[str]:
    return __all__

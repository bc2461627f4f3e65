"""HTAS: widths and depths of ResNets by gradients through the milliseconds of a device.

``htas.search(problem, data, folder="run")`` is all that most need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lut._lazy import at_first_use

if TYPE_CHECKING:
    from search.htas._method import Logits
    from search.htas._python import search
    from search.htas._settings import SearchEpoch as Epoch
    from search.htas._settings import SearchSettings as Settings

# Resolved at first use (PEP 562): a command's --help should not wait for PyTorch.
_HOMES = {
    "Epoch": "._settings:SearchEpoch",
    "Logits": "._method",
    "Settings": "._settings:SearchSettings",
    "search": "._python",
}

__all__ = ["Epoch", "Logits", "Settings", "search"]


__getattr__, __dir__ = at_first_use(__name__, _HOMES, __all__)

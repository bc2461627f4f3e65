"""Predictors fitted to tables: HTAS's power law and its choice of hardware-aware widths. Nothing here measures."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predictors._power_law import ExtrapolationWarning, PowerLaw
    from predictors._widths import MeasuredCurve, WidthChoice, WidthSelection, hardware_aware_widths, measured_curves

__all__ = [
    "ExtrapolationWarning",
    "MeasuredCurve",
    "PowerLaw",
    "WidthChoice",
    "WidthSelection",
    "hardware_aware_widths",
    "measured_curves",
]

# Resolved at first use (PEP 562): a command's --help should not wait for scikit-learn.
_HOMES = {
    "ExtrapolationWarning": "predictors._power_law",
    "PowerLaw": "predictors._power_law",
    "MeasuredCurve": "predictors._widths",
    "WidthChoice": "predictors._widths",
    "WidthSelection": "predictors._widths",
    "hardware_aware_widths": "predictors._widths",
    "measured_curves": "predictors._widths",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'predictors' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

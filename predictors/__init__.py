"""Predictors fitted to tables: of layers and networks, HTAS's law and choice of widths. Nothing here measures."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predictors._compiled import CompiledLatency
    from predictors._gains import WidthChange, WidthGain, width_gains
    from predictors._latency_predictor import LatencyPredictor, LayerPrediction, NetworkPrediction
    from predictors._mlp import LatencyMLP
    from predictors._power_law import ExtrapolationWarning, PowerLaw
    from predictors._widths import MeasuredCurve, WidthChoice, WidthSelection, hardware_aware_widths, measured_curves

__all__ = [
    "CompiledLatency",
    "ExtrapolationWarning",
    "LatencyMLP",
    "LatencyPredictor",
    "LayerPrediction",
    "MeasuredCurve",
    "NetworkPrediction",
    "PowerLaw",
    "WidthChange",
    "WidthChoice",
    "WidthGain",
    "WidthSelection",
    "hardware_aware_widths",
    "measured_curves",
    "width_gains",
]

# Resolved at first use (PEP 562): a command's --help should not wait for scikit-learn.
_HOMES = {
    "CompiledLatency": "predictors._compiled",
    "ExtrapolationWarning": "predictors._power_law",
    "LatencyMLP": "predictors._mlp",
    "LatencyPredictor": "predictors._latency_predictor",
    "LayerPrediction": "predictors._latency_predictor",
    "MeasuredCurve": "predictors._widths",
    "NetworkPrediction": "predictors._latency_predictor",
    "PowerLaw": "predictors._power_law",
    "WidthChange": "predictors._gains",
    "WidthChoice": "predictors._widths",
    "WidthGain": "predictors._gains",
    "WidthSelection": "predictors._widths",
    "hardware_aware_widths": "predictors._widths",
    "measured_curves": "predictors._widths",
    "width_gains": "predictors._gains",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'predictors' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

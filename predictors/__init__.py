"""Predictors fitted to tables: of layers and networks, HTAS's law and choice of widths. Nothing here measures."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predictors._compiled import CompiledLatency, compile_madds
    from predictors._curve_table import CurveTableModel
    from predictors._features import feature_matrix
    from predictors._gains import width_gains
    from predictors._latency_predictor import LatencyPredictor
    from predictors._mlp import LatencyMLP
    from predictors._power_law import PowerLaw
    from predictors._ranges import ExtrapolationWarning
    from predictors._sampling import next_layers
    from predictors._stairs import StairInterpolator
    from predictors._transfer import (
        DeviceTransfer,
        choose_probes,
        learn_prior,
        transfer_tables,
    )
    from predictors._widths import hardware_aware_widths, measured_curves

__all__ = [
    "CompiledLatency",
    "CurveTableModel",
    "DeviceTransfer",
    "ExtrapolationWarning",
    "LatencyMLP",
    "LatencyPredictor",
    "PowerLaw",
    "StairInterpolator",
    "choose_probes",
    "compile_madds",
    "feature_matrix",
    "hardware_aware_widths",
    "learn_prior",
    "measured_curves",
    "next_layers",
    "transfer_tables",
    "width_gains",
]

# Resolved at first use (PEP 562): a command's --help should not wait for scikit-learn.
_HOMES = {
    "CompiledLatency": "predictors._compiled",
    "CurveTableModel": "predictors._curve_table",
    "DeviceTransfer": "predictors._transfer",
    "ExtrapolationWarning": "predictors._ranges",
    "LatencyMLP": "predictors._mlp",
    "LatencyPredictor": "predictors._latency_predictor",
    "PowerLaw": "predictors._power_law",
    "StairInterpolator": "predictors._stairs",
    "choose_probes": "predictors._transfer",
    "compile_madds": "predictors._compiled",
    "feature_matrix": "predictors._features",
    "hardware_aware_widths": "predictors._widths",
    "learn_prior": "predictors._transfer",
    "measured_curves": "predictors._widths",
    "next_layers": "predictors._sampling",
    "transfer_tables": "predictors._transfer",
    "width_gains": "predictors._gains",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'predictors' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

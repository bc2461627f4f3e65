"""Predictors fitted to tables: of layers and networks, HTAS's law and choice of widths. Nothing here measures."""

from typing import TYPE_CHECKING

from lut._lazy import at_first_use

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
    "CompiledLatency": "._compiled",
    "CurveTableModel": "._curve_table",
    "DeviceTransfer": "._transfer",
    "ExtrapolationWarning": "._ranges",
    "LatencyMLP": "._mlp",
    "LatencyPredictor": "._latency_predictor",
    "PowerLaw": "._power_law",
    "StairInterpolator": "._stairs",
    "choose_probes": "._transfer",
    "compile_madds": "._compiled",
    "feature_matrix": "._features",
    "hardware_aware_widths": "._widths",
    "learn_prior": "._transfer",
    "measured_curves": "._widths",
    "next_layers": "._sampling",
    "transfer_tables": "._transfer",
    "width_gains": "._gains",
}


__getattr__, __dir__ = at_first_use(__name__, _HOMES, __all__)

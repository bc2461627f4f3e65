"""The commands ``select-widths`` and ``fit-predictor``."""

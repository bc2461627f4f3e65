"""What is said of a predictor: how far it was off on what had no part in its fit."""

from __future__ import annotations

from lut._option_names import option_text
from predictors._latency_predictor import DEFAULT_LEVEL, LatencyPredictor
from predictors._predictions import HeldOut

__all__ = ["held_out_lines"]


def held_out_lines(predictor: LatencyPredictor) -> list[str]:
    """Return lines on the layers, the networks and the interval."""
    lines = [f"layers, each by the others: {_errors(predictor.held_out_layers)}"]
    networks = predictor.held_out_networks
    if not networks.count:
        more = f"profile with {option_text('audit', 20)}"
        return [*lines, f"no whole network was measured, so sums are not calibrated and have no interval: {more}"]
    within = "" if networks.within is None else f", {networks.within:.0%} within ±5 %"
    tau = "" if networks.kendall_tau is None else f", Kendall τ {networks.kendall_tau:.2f}"
    lines.append(
        f"{networks.count} networks, each by others: {_errors(networks)}{within}{tau}; calibration: "
        f"{predictor.calibration.form}"
    )
    for level in (DEFAULT_LEVEL, 0.95):
        if (why := predictor.no_interval(level)) is not None:
            lines.append(why)
            break
    return lines


def _errors(held_out: HeldOut) -> str:
    if held_out.mape is None or held_out.median is None or held_out.worst is None:
        return "too few to tell"
    return f"{held_out.mape:.1%} off on average ({held_out.median:.1%} median, {held_out.worst:.1%} worst)"

"""What is said of a network and of an audit, in one line each."""

from __future__ import annotations

from typing import Literal, TypeAlias

from lut._audit import held_out
from lut._console import format_ms
from lut._measured_network import MeasuredNetwork
from lut._option_names import option_text
from lut._records import UNUSED
from lut._table import LatencyTable, never_audited

__all__ = ["AUDIT_STYLES", "audit_level", "audit_line", "coverage", "is_disturbed", "sum_line", "trust_sentence"]

# Sums that are off by no more than this, or than the wholes' own error explains, hold; beyond the other they do not.
HOLDS, FAILS = 0.05, 0.10
OWN_ERRORS = 2.0

AuditLevel: TypeAlias = Literal["holds", "off", "fails", "disturbed", "none"]
AUDIT_STYLES: dict[AuditLevel, str | None] = {
    "holds": None,
    "off": "yellow",
    "fails": "red",
    "disturbed": "yellow",
    "none": "yellow",
}
# What is said where no visit to a whole network was left in peace: a short layer finds quiet moments, and a whole
# network hardly one.
DISTURBED = "other work on this machine disturbed every visit to"


def coverage(network: MeasuredNetwork, distinct: int) -> str:
    """Return how many operators a network has, and in how many layers they are."""
    count = sum(item.count for item in network.network.layers)
    operators = f"{network.operators} operators in " if network.operators else ""
    text = f"{operators}{count} layers, {distinct} different"
    unused = {name: n for name, n in network.idle.items() if name.endswith(UNUSED)}
    idle = {name: n for name, n in network.idle.items() if name not in unused}
    for what, counts in (("no work at inference", idle), ("run, but in no layer", unused)):
        if counts:
            text += f"; {what}: " + ", ".join(f"{name} ×{n}" for name, n in sorted(counts.items()))
    return text


def sum_line(table: LatencyTable, network: MeasuredNetwork) -> str:
    """Return what the network takes as a whole, and how far the sum of its layers is from that."""
    total = table.sum_ms(network)
    known = sum(share.total_ms or 0.0 for share in table.breakdown(network))
    if network.end_to_end is None:
        some = f"sum of its layers {format_ms(known)} ms" if known else "none of its layers was measured"
        return f"{some}; not measured as a whole: {network.reason}"
    whole = network.end_to_end
    text = (
        f"as a whole {format_ms(whole.median_ms)} ms ({format_ms(whole.within_run.low_ms)} … "
        f"{format_ms(whole.within_run.high_ms)}), sum of its layers {format_ms(known)} ms: "
    )
    if total is None:
        rest = whole.median_ms - known
        return text + f"what is not covered takes the other {format_ms(abs(rest))} ms, {rest / whole.median_ms:.1%}"
    text += f"{total / whole.median_ms - 1:+.1%}"
    if whole.repeat_error is not None:
        text += f"; the whole itself repeats within {whole.repeat_error:.1%}"
    else:
        text += f"; {len(whole.visits.raw_ms)} visits are too few to say how well the whole repeats"
    if "contaminated" in whole.flags:
        text += f"; {DISTURBED} the whole, so this says little"
    return text


def is_disturbed(table: LatencyTable) -> bool:
    """Return whether no network of the audit was measured in peace, so that it says nothing of the sums."""
    wholes = [network.end_to_end for network in held_out(table.networks) if network.end_to_end is not None]
    return bool(wholes) and all("contaminated" in whole.flags for whole in wholes)


def audit_level(table: LatencyTable) -> AuditLevel:
    """Return what to think of a table's sums: by how far they are off, against how well the networks repeat."""
    audit = table.audit
    if audit is None:
        return "none"
    if is_disturbed(table):
        return "disturbed"
    own = OWN_ERRORS * (audit.repeat_error or 0.0)
    if audit.mape <= max(HOLDS, own):
        return "holds"
    return "off" if audit.mape <= max(FAILS, own) else "fails"


def audit_line(table: LatencyTable) -> str:
    """Return what the audit says, or that there was none."""
    audit = table.audit
    if audit is None:
        networks = f"a network as well (--model FILE.py:FACTORY), or a space with {option_text('audit', 20)}"
        return f"{never_audited(table)}; profile {networks}"
    count = f"{audit.networks} whole network{'s' * (audit.networks != 1)}"
    text = f"audited by {count}: sums are {audit.bias:+.1%} off on average, mean absolute error {audit.mape:.1%}"
    if audit.kendall_tau is not None:
        text += f", Kendall τ {audit.kendall_tau:.2f}"
    if audit.repeat_error is not None:
        text += f"; wholes repeat within {audit.repeat_error:.1%}"
    else:
        more = option_text("time_budget_s", flag="--time-budget")
        text += f"; too few visits to say how well wholes repeat: give more time, {more}"
    if is_disturbed(table):
        text += f". This says little, as {DISTURBED} them: measure again when it is quiet, and go by the sums till then"
    elif audit_level(table) in ("off", "fails"):
        text += ". Do not add layers up without calibration: fit-predictor does that"
    return text


def trust_sentence(table: LatencyTable) -> str:
    """Return whether the table's layers may be added up, in one sentence."""
    audit = table.audit
    if audit is None:
        return "Whether its layers add up to whole networks was not measured."
    against = f"{audit.networks} whole network{'s' * (audit.networks != 1)}"
    match audit_level(table):
        case "holds":
            return f"Sums of layers hold: mean absolute error {audit.mape:.1%} against {against}."
        case "disturbed":
            return f"Whether sums of layers hold is not known: {DISTURBED} the whole; measure again when it is quiet."
        case "off":
            return f"Calibrate sums of layers before use: they are off by {audit.mape:.1%} against {against}."
        case _:
            return f"Sums of layers cannot be trusted: they are off by {audit.mape:.1%} against {against}."

"""What is claimed of searches, for docs/evidence.md."""

from __future__ import annotations

from statistics import fmean, median
from typing import Any

from _pages import Section, filled, percent, signed, table

NAMES = {"nas-bench-macro": "NAS-Bench-Macro", "resnet-cifar": "CIFAR ResNet-20", "rcnet-cifar": "RCNet"}


def kept(*results: dict[str, Any]) -> list[str]:
    """Return a row for each search, and what sessions differed by."""
    rows = [
        [
            f"{NAMES[f['space']]}: {f['search']}",
            str(f["runs"]),
            f"{percent(f['before'])} ({percent(f['before_sentinels'])}, {percent(f['before_raw'])})",
            percent(f["before_below"], 1),
            f"**{percent(f['after'])}** ({percent(f['after_sentinels'])}, {percent(f['after_raw'])})",
            percent(f["after_below"], 1),
            percent(f["worst_beyond"], 1) if f["worst_beyond"] > 0 else "none",
            f"{f['accuracy_change']:+.2f}".replace("-", "−"),
            f"{percent(f['mape'], 1)} ({signed(f['bias'])})",
        ]
        for found in results
        for f in found["figures"]
    ]
    header = (
        *("space: search", "runs", "within before (sentinels, raw)", "below it", "within after (sentinels, raw)"),
        *("below it", "worst beyond", "points", "selected predicted within (bias)"),
    )
    return [table(header, rows), *(filled(_sessions(part)) for found in results for part in found["runs"])]


def _sessions(part: dict[str, Any]) -> str:
    rows = [row for row in part["rows"] if row["after"] is not None]
    none = len(part["rows"]) - len(rows)
    slower = ", ".join(signed(share) for share in part["slower_than_calibration"])
    again = [abs(row["after"]["ms"] / row["after"]["verified_ms"] - 1) for row in rows]
    below = part["best_below"]
    return (
        f"{NAMES[part['name']]}: {len(rows)} of {len(part['rows'])} runs ended with a network"
        f"{'' if none else ' (all of them)'}, after {fmean(row['after']['sessions'] for row in rows):.1f} sessions on "
        f"average. By session, the networks of the calibration took {slower} longer than when the predictor was "
        f"calibrated on them, after the sentinels; beside that a single network differed by "
        f"{percent(median(part['scatter']), 1)} (standard deviation). The networks found differ by "
        f"{percent(median(again), 1)} (median) between the sessions that verified them and the last."
        + (
            ""
            if below is None
            else f" The most accurate of all networks within a budget is itself {percent(median(below), 1)} below it "
            "(median)."
        )
    )


SECTIONS = (
    Section(
        "Does a found network keep its budget when it is measured?",
        "Searches for ten budgets by five seeds each; what they chose was verified and repaired as every run does, and "
        "then all was measured in another session. *Before*: the search's own choice, within the budget by the upper "
        "end of its predicted interval. *Within*: the measured median, at the speed of the calibration by the 24 "
        "networks of it; in brackets by the table's sentinels alone, and as the clock gave it. *Points*: accuracy "
        "after less before. The aims: 99 % within, 2 % below at the median, no more than 0.1 points lost, selected "
        "networks predicted within 3 %.",
        "python benchmarks/budget_hit.py --spaces nas-bench-macro",
        ("budget_hit_nas-bench-macro.json",),
        kept,
    ),
)

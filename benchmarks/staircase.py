"""Draw the README's picture: a table's staircase, with its intervals and the widths that it likes. Measures nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from lut import LatencyTable
from predictors import hardware_aware_widths, measured_curves

LINE, BAND, CHOSEN = "#3b6ea5", "#3b6ea5", "#c4472b"


def main() -> None:
    """Draw the picture."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("table", type=Path)
    made.add_argument("--curve", type=int, default=0, help="which of the table's sweeps")
    made.add_argument("--output", type=Path, default=Path("docs/pictures/staircase.png"))
    given = made.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    table = LatencyTable.load(given.table)
    curve = measured_curves(table)[given.curve]
    swept = table.curve_of(table.curves[given.curve].layers[0])
    chosen = hardware_aware_widths(curve, groups=8).widths
    widths = list(curve.channels)
    low, high = zip(*((swept[w].within_run.low_ms, swept[w].within_run.high_ms) for w in widths), strict=True)
    figure, axes = plt.subplots(figsize=(8.0, 3.4), dpi=140)
    axes.fill_between(widths, low, high, step="mid", color=BAND, alpha=0.25, linewidth=0, label="95 % interval")
    axes.step(widths, curve.ms, where="mid", color=LINE, linewidth=1.6, label="measured")
    axes.plot(chosen, [swept.ms(w) for w in chosen], "o", color=CHOSEN, markersize=5, label="widths that it likes")
    for width in chosen:
        axes.annotate(str(width), (width, swept.ms(width)), xytext=(0, -13), textcoords="offset points", ha="center")
    axes.set_xticks(range(0, widths[-1] + 1, 8))
    axes.set_xlim(0, widths[-1] + 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("output channels")
    axes.set_ylabel("ms")
    axes.set_title(
        f"{table.curves[given.curve].layers[-1]}, {table.setting.target}, batch {table.setting.batch}", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    figure.tight_layout()
    figure.savefig(given.output)
    print(f"{given.output} written, of {table.device.model}")


if __name__ == "__main__":
    main()

"""A left-out width of a channel curve, predicted: TinyNAS's TensorRT latencies of convolutions on a V100.

A channel curve is the table's rows that differ in the output channels alone, at least eight of them. Each width but
the outermost is left out in turn and predicted; the figure is the mean of |predicted / measured − 1|. Three levels,
by what a method may read besides the curve's other points:

a. nothing;
b. curves of other layers, for learning alone, in five folds: all curves of one input size, kernel and stride, at any
   batch and fused or not, lie in one fold (and once more with all curves of one input size in one fold);
c. as b., and looked up at prediction, as a table's user can: every other row of the table, the same width of the same
   layer at another batch, at a neighbouring size, or fused, among them. The left-out row alone is never read for its
   own prediction; what is learnt may look it up as a sibling's, like any row, but is never told it as an answer.

What the data cannot tell, the noise, is estimated from rows, not from a model's errors: see ``noise``.
"""

from __future__ import annotations

import gzip
import itertools
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from _common import parser, print_table, write_results
from sklearn.model_selection import GroupKFold

from predictors import CurveTableModel, StairInterpolator
from predictors._curve_table import LatencyCurve, inner_widths, relative_power_law

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LATENCY_LUT_DATA", HERE.parent.parent / "shared" / "data")) / "v100-conv-curves"
PRECISIONS = ("fp32", "fp16", "int8")
LEAST_WIDTHS = 8
FOLDS = 5
BINS_MS = (0.0, 0.015, 0.02, 0.03, 0.05, 0.1, 0.3, 1.0, np.inf)
AIM = {"fp32": 2.95, "fp16": 7.7, "int8": 2.7}
SMALL_MS = 0.1
BEST = "c. boosting, table looked up"
# Of a normal variable: its mean absolute value in standard deviations, and its median absolute value.
MEAN_ABS = 0.798
MEDIAN_ABS = 0.6745


def read_curves(path: Path) -> list[LatencyCurve]:
    """Return the channel curves of one file; settings are batch, input size, kernel, stride and whether it is fused."""
    found: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        name, latency = line.strip().split("} ")
        key = name.lstrip("{").split(",")
        if float(latency) > 0:  # -1: TensorRT built no engine
            found[(*key[:5], *key[6:])][int(key[5])] = float(latency)
    curves = []
    for key, latency_ms in found.items():
        if len(latency_ms) < LEAST_WIDTHS:
            continue
        batch, channels, height, width, kernel, stride, fused = (int(part) for part in key[1:])
        if key[0] != "Regular" or height != width or channels != 3:
            raise ValueError(f"the file has curves of another kind than it had: {key}")
        positions = batch * ((height + stride - 1) // stride) ** 2
        work = (float(positions * channels * kernel**2), float(positions))
        curves.append(LatencyCurve((batch, height, kernel, stride, fused), work, latency_ms))
    return curves


def from_own_points(curves: list[LatencyCurve], points: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    """Return level a's predictions in ms, each of shape (points,)."""
    widths = np.array(sorted({width for curve in curves for width in curve.latency_ms}), dtype=float)
    logs = np.full((len(points), widths.size), np.nan)
    at = np.array([width for _, width in points], dtype=float)
    plain, loglog, chosen, blended = (np.empty(len(points)) for _ in range(4))
    for row, (i, width) in enumerate(points):
        others = {w: ms for w, ms in curves[i].latency_ms.items() if w != width}
        x = np.array(sorted(others), dtype=float)
        y = np.array([others[w] for w in sorted(others)])
        logs[row, np.searchsorted(widths, x)] = np.log(y)
        plain[row] = np.interp(width, x, y)
        loglog[row] = np.exp(np.interp(np.log(width), np.log(x), np.log(y)))
        chosen[row] = StairInterpolator(combine="choose").fit(x, y).predict([width])[0]
        blended[row] = StairInterpolator().fit(x, y).predict([width])[0]
    return {
        "a. straight line": relative_power_law(widths, logs, at, np.ones(1)),
        "a. power law": relative_power_law(widths, logs, at),
        "a. linear interpolation": plain,
        "a. interpolation in logs": loglog,
        "a. stairs, one tile": chosen,
        "a. stairs, blended": blended,
    }


def cross_validated(model: CurveTableModel, rows: np.ndarray, ms: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the predictions in ms of each fold by the model of the others."""
    predicted = np.empty(len(ms))
    # GroupKFold deals the groups by size; equal sizes in random order make folds at random.
    shuffled = np.random.default_rng(0).permutation(groups.max() + 1)[groups]
    for learn, test in GroupKFold(FOLDS).split(rows, groups=shuffled):
        predicted[test] = model.fit_rows(rows[learn], np.log(ms[learn])).predict_rows(rows[test])
    return predicted


def learnt(curves: list[LatencyCurve], points: list[tuple[int, int]], ms: np.ndarray) -> dict[str, np.ndarray]:
    """Return the predictions in ms of levels b and c, each of shape (points,)."""
    layer = np.array([curves[i].settings for i, _ in points])
    families = np.unique(layer[:, 1:4], axis=0, return_inverse=True)[1].ravel()
    sizes = np.unique(layer[:, 1], return_inverse=True)[1].ravel()
    own, table = CurveTableModel(), CurveTableModel(siblings=True)
    every = table.features(curves, points)
    # What siblings add stands last, so level b's rows need no second reckoning.
    rows = every[:, : own.features(curves, points[:1]).shape[1]]
    return {
        "b. boosting, other layers learnt": cross_validated(own, rows, ms, families),
        "b. same, input size unseen": cross_validated(own, rows, ms, sizes),
        BEST: cross_validated(table, every, ms, families),
    }


def noise(curves: list[LatencyCurve], axis: int, levels: tuple[int, int], ms: np.ndarray) -> dict[str, Any]:
    """Estimate the mean absolute noise of a row in percent, from rows that ought to go together.

    The log ratio of two twins (layers that differ in one setting) may change with the width and with the input size,
    but smoothly. What is left after taking from it the mean of its neighbours in width, and from that the mean of its
    neighbours in size, sums 18 rows' noise: for equal noise its variance is 2·1.5·1.5 times a row's. ``typical`` takes
    the noise as normal and reads its size off the median, so that a kernel that the tuner chose differently for one
    of the 18 counts little; ``with_switches`` reads it off the mean, and counts such switches. Both are taken in bins
    of latency, and weighted as the left-out points of latencies ``ms`` lie in the bins. Where the ratio is not smooth
    in truth, both are too high.
    """
    widths = sorted({width for curve in curves for width in curve.latency_ms})
    logs = {c.settings: np.log([c.latency_ms.get(w, np.nan) for w in widths]) for c in curves}
    sizes = sorted({settings[1] for settings in logs})

    def rough(values: np.ndarray) -> np.ndarray:
        return values[1:-1] - (values[:-2] + values[2:]) / 2

    left, latency = [], []
    for settings in logs:
        place = sizes.index(settings[1])
        if settings[axis] != levels[0] or not 0 < place < len(sizes) - 1:
            continue
        pairs = []
        for size in sizes[place - 1 : place + 2]:
            one = (settings[0], size, *settings[2:])
            other = (*one[:axis], levels[1], *one[axis + 1 :])
            if one in logs and other in logs:
                pairs.append(logs[other] - logs[one])
        if len(pairs) == 3:
            left.append(rough(rough(np.array(pairs))[0]))
            latency.append(logs[settings][1:-1])
    found, at = np.abs(np.concatenate(left)), np.exp(np.concatenate(latency))
    found, at = found[~np.isnan(found)], at[~np.isnan(found)]
    spread = float(np.sqrt(2 * 1.5 * 1.5))
    typical, switches, weight, bins = [], [], [], []
    for low, high in itertools.pairwise(BINS_MS):
        inside = found[(at >= low) & (at < high)]
        share = float(np.mean((ms >= low) & (ms < high)))
        if inside.size < 20 or not share:
            continue
        weight.append(share)
        typical.append(100 * float(np.median(inside)) / MEDIAN_ABS * MEAN_ABS / spread)
        switches.append(100 * float(np.mean(inside)) / spread)
        bins.append({"from_ms": low, "typical_percent": typical[-1], "with_switches_percent": switches[-1]})
    return {
        "typical_percent": float(np.average(typical, weights=weight)),
        "with_switches_percent": float(np.average(switches, weights=weight)),
        "of_points_percent": 100 * float(np.sum(weight)),
        "bins": bins,
    }


def mape(predicted: np.ndarray, ms: np.ndarray, of: np.ndarray | None = None) -> float:
    """Return the mean absolute error in percent of the measured latency."""
    errors = 100 * np.abs(predicted / ms - 1)
    return float(np.mean(errors if of is None else errors[of]))


def by_latency(predicted: np.ndarray, ms: np.ndarray) -> list[dict[str, float]]:
    """Return the error in bins of latency."""
    rows = []
    for low, high in itertools.pairwise(BINS_MS):
        inside = (ms >= low) & (ms < high)
        if inside.any():
            rows.append({"from_ms": low, "points": int(inside.sum()), "mape": mape(predicted, ms, inside)})
    return rows


def twin_correlation(
    curves: list[LatencyCurve], points: list[tuple[int, int]], ms: np.ndarray, predicted: np.ndarray
) -> float:
    """Return how the errors of a layer and of its fused twin go together, at the same width; 10 % is the most."""
    errors = dict(zip([(*curves[i].settings, w) for i, w in points], np.log(predicted / ms), strict=True))
    twins = [(key, (*key[:4], 1, key[5])) for key in errors if not key[4]]
    pairs = [(errors[plain], errors[fused]) for plain, fused in twins if fused in errors]
    return float(np.corrcoef(np.clip(np.array(pairs).T, -0.1, 0.1))[0, 1])


def main() -> int:
    """Run the benchmark."""
    arguments = parser(__doc__).parse_args()
    missing = [p for p in PRECISIONS if not (DATA / f"conv_{p}.txt.gz").is_file()]
    if missing:
        print(
            f"skipped: the V100's latencies ({', '.join(missing)}) are not in {DATA}; LATENCY_LUT_DATA names the data"
        )
        return 0
    started = time.monotonic()
    figures: dict[str, dict[str, Any]] = {}
    for precision in PRECISIONS:
        curves = read_curves(DATA / f"conv_{precision}.txt.gz")
        points = [(i, width) for i, curve in enumerate(curves) for width in inner_widths(curve)]
        ms = np.array([curves[i].latency_ms[width] for i, width in points])
        single = np.array([curves[i].settings[0] == 1 for i, _ in points])
        methods = from_own_points(curves, points) | learnt(curves, points, ms)
        figures[precision] = {
            "curves": len(curves),
            "points": len(points),
            "curves_batch_1": sum(curve.settings[0] == 1 for curve in curves),
            "points_batch_1": int(single.sum()),
            "methods": {
                name: {
                    "mape": mape(said, ms),
                    "mape_batch_1": mape(said, ms, single),
                    "median_percent": 100 * float(np.median(np.abs(said / ms - 1))),
                    "within_10_percent": 100 * float(np.mean(np.abs(said / ms - 1) <= 0.1)),
                    "mape_below_0.1_ms": mape(said, ms, ms < SMALL_MS),
                    "mape_from_0.1_ms": mape(said, ms, ms >= SMALL_MS),
                    "by_latency": by_latency(said, ms),
                }
                for name, said in methods.items()
            },
            "noise": {
                "mape": noises(curves, ms),
                "mape_batch_1": noises([c for c in curves if c.settings[0] == 1], ms[single]),
                "mape_below_0.1_ms": noises(curves, ms[ms < SMALL_MS]),
                "mape_from_0.1_ms": noises(curves, ms[ms >= SMALL_MS]),
            },
            "twin_error_correlation": twin_correlation(curves, points, ms, methods[BEST]),
            "aim": AIM[precision],
        }
        print(f"{precision}: {time.monotonic() - started:.0f} s", flush=True)

    show(figures, "left-out widths: mean error in percent", {"mape": "", "mape_batch_1": " b1"}, AIM)
    show(
        figures,
        "the same by the left-out latency: below and from 0.1 ms",
        {"mape_below_0.1_ms": " <", "mape_from_0.1_ms": " ≥"},
        {},
    )
    print("b1: batch 1. Errors of fused twins go together by r =", end=" ")
    print(", ".join(f"{figures[p]['twin_error_correlation']:.2f} ({p})" for p in PRECISIONS))
    write_results(arguments.results, "v100_curves", {"seconds": time.monotonic() - started, "figures": figures})
    return 0


def noises(curves: list[LatencyCurve], ms: np.ndarray) -> dict[str, Any]:
    """Return the noise by both kinds of twins, where the table has them, for left-out points of latencies ms."""
    found = {"fused twins": noise(curves, 4, (0, 1), ms)}
    if len({curve.settings[0] for curve in curves}) > 1:
        found["batches 32, 64"] = noise(curves, 0, (32, 64), ms)
    return found


def show(figures: dict[str, dict[str, Any]], title: str, columns: dict[str, str], aim: dict[str, float]) -> None:
    """Print methods, aim and noise, a column per figure and precision."""
    cells = [(p, key) for key in columns for p in PRECISIONS]
    rows: list[list[object]] = [
        [name, *(figures[p]["methods"][name][key] for p, key in cells)] for name in figures["fp32"]["methods"]
    ]
    if aim:
        rows.append(["aim", *(aim[p] if key == "mape" else "–" for p, key in cells)])
    for label, estimate in (("", "typical_percent"), (", switches", "with_switches_percent")):
        for twins in ("fused twins", "batches 32, 64"):
            found = [figures[p]["noise"][key].get(twins, {}).get(estimate, "–") for p, key in cells]
            rows.append([f"noise, {twins}{label}", *found])
    if aim:
        rows.extend(
            [what, *(figures[p][what if key == "mape" else f"{what}_batch_1"] for p, key in cells)]
            for what in ("curves", "points")
        )
    print_table(title, ["method", *(p + columns[key] for p, key in cells)], rows)


if __name__ == "__main__":
    sys.exit(main())

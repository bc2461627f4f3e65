"""How well are networks predicted that had no part in any fit? Ours and the peers' methods on the same measurements.

Sessions of ``network_sessions.py``: 200 random networks of each of three spaces, measured whole, in turns with their
layers and blocks. The first 50 networks are what a method may learn from, the other 150 are predicted. Beside every
figure stands how well the wholes themselves repeat: the median difference of two halves of the session's visits. Ours
is also judged over random splits, since one split is one draw.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import parser, print_table, write_results
from _peers import LAYER_METHODS, PEERS
from _sessions import SESSIONS, RecordedSession, read_sessions, table_of
from numpy.typing import NDArray

from lut import Layer
from lut._audit import kendall_tau
from predictors import LatencyPredictor, next_layers

Floats = NDArray[np.float64]

LEVELS = (0.9, 0.95)
SPLITS = 20
# As many networks as a table is audited with by default.
FEW_NETWORKS = 20
SHARE = 0.1
# The layers of a small table are chosen in steps, each by what the steps before found.
STEPS = 4
# One layer for each operator that no other layer has: without it nothing can be said of the rest.
LEAST = 5
LAYER_FOLDS = 5


def figures(predicted: Floats, whole: Floats) -> dict[str, float]:
    """Return the figures of a method on networks it has not seen."""
    errors = np.abs(predicted / whole - 1)
    return {
        "mape": round(float(errors.mean()), 5),
        "bias": round(float((predicted / whole - 1).mean()), 5),
        "within_5_percent": round(float((errors <= 0.05).mean()), 4),
        "within_10_percent": round(float((errors <= 0.10).mean()), 4),
        "kendall_tau": round(kendall_tau(list(zip(predicted.tolist(), whole.tolist(), strict=True))), 4),
    }


def ours(
    session: RecordedSession, layers: Sequence[Layer] | None, train: Sequence[int], column: str
) -> LatencyPredictor:
    """Return a predictor fitted to a session's layers, or some of them, and the networks of ``train``."""
    whole = session.ms("whole")
    networks = [(session.networks[i], whole[i]) for i in train]
    return LatencyPredictor.fit(
        table_of(session, column, keep=None if layers is None else set(layers)), networks=networks
    )


def few_layers(session: RecordedSession, train: Sequence[int], share: float) -> tuple[Layer, ...]:
    """Return a share of a session's layers, chosen as ``profile-device --sampling adaptive`` does."""
    count = max(LEAST, round(share * len(session.layers)))
    networks = [session.networks[i] for i in train]
    chosen: tuple[Layer, ...] = ()
    model = None
    for step in range(STEPS):
        wanted = round(count * (step + 1) / STEPS) - len(chosen)
        chosen += next_layers(networks, count=wanted, measured=chosen, model=model)
        if len(chosen) >= LEAST:
            model = LatencyPredictor.fit(table_of(session, "in_context", keep=set(chosen))).model
    return chosen


def over_splits(session: RecordedSession, layers: Sequence[Layer] | None, count: int) -> dict[str, Any]:
    """Return our figures, and how often intervals hold, over random splits: ``count`` networks learnt, the rest not."""
    plain = ours(session, layers, (), "in_context")
    whole = np.array(session.ms("whole"))
    held: dict[float, list[float]] = {level: [] for level in LEVELS}
    widths: dict[float, list[float]] = {level: [] for level in LEVELS}
    found: list[dict[str, float]] = []
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(whole))
        rest = order[count:]
        predictor = plain.recalibrated([(session.networks[i], float(whole[i])) for i in order[:count]])
        found.append(figures(np.array([predictor.latency_ms(session.networks[i]) for i in rest]), whole[rest]))
        for level in LEVELS:
            if predictor.no_interval(level) is not None:
                continue
            bounds = [predictor.predict(session.networks[i], level=level) for i in rest]
            low, high = (np.array([getattr(each, name) for each in bounds]) for name in ("low_ms", "high_ms"))
            held[level].append(float(((low <= whole[rest]) & (whole[rest] <= high)).mean()))
            widths[level].append(float(np.median(high / low) ** 0.5 - 1))
    means = {name: round(float(np.mean([each[name] for each in found])), 5) for name in found[0]}
    return means | {
        "learnt_from": count,
        "coverage": {
            f"{level:.0%}": {
                "mean": round(float(np.mean(held[level])), 4),
                "deviation_of_a_split": round(float(np.std(held[level])), 4),
                "half_width": round(float(np.mean(widths[level])), 4),
            }
            for level in LEVELS
            if held[level]
        },
    }


def held_out_layers(session: RecordedSession) -> dict[str, Any]:
    """Return how well layers are predicted by the others, in folds."""
    ms = np.array(session.ms("in_context"))
    order = np.random.default_rng(0).permutation(len(ms))
    found: dict[str, Any] = {"repeat_error": round(session.repeat_error("in_context"), 5)}
    for name, method in LAYER_METHODS.items():
        predicted = np.empty(len(ms))
        for fold in range(LAYER_FOLDS):
            held = order[fold::LAYER_FOLDS]
            rest = np.setdiff1d(order, held)
            predicted[held] = method([session.layers[i] for i in rest], ms[rest], [session.layers[i] for i in held])
        errors = np.abs(predicted / ms - 1)
        found[name] = {
            "mape": round(float(errors.mean()), 4),
            "median": round(float(np.median(errors)), 4),
            "within_10_percent": round(float((errors <= 0.1).mean()), 4),
        }
    return found


def second_look(session: RecordedSession, test: Floats) -> dict[str, float]:
    """Return the figures of one half of the visits to the wholes as a prediction of the other half."""
    first, second = (np.array(half)[test] for half in session.file.halves["whole"])
    return figures(first, second)


def judge_session(session: RecordedSession, train_count: int) -> dict[str, Any]:
    """Return all figures of one session."""
    train, test = range(train_count), np.arange(train_count, len(session.networks))
    whole = np.array(session.ms("whole"))
    result: dict[str, Any] = {
        "target": session.file.target,
        "space": session.file.space,
        "setting": session.file.setting,
        "layers": len(session.layers),
        "networks": {"learnt_from": train_count, "predicted": len(test)},
        "repeat_error": round(session.repeat_error("whole", train_count), 5),
        "one_half_by_the_other": second_look(session, test),
        "held_out_layers": held_out_layers(session),
        "methods": {},
    }
    few = few_layers(session, train, SHARE)
    for name, layers in (("all layers", session.layers), (f"{SHARE:.0%} of the layers", few)):
        found: dict[str, Any] = {}
        for peer, method in PEERS.items():
            predicted = method(session, train, set(layers))
            found[peer] = None if predicted is None else figures(predicted[test], whole[test])
        for title, column, networks in (
            ("ours: isolated layers, calibrated", "isolated", train),
            ("ours: in context, not calibrated", "in_context", ()),
            ("ours", "in_context", train),
        ):
            began = time.perf_counter()
            predictor = ours(session, layers, networks, column)
            seconds = time.perf_counter() - began
            predicted = np.array([predictor.latency_ms(session.networks[i]) for i in test])
            found[title] = figures(predicted, whole[test]) | {
                "fit_seconds": round(seconds, 2),
                "calibration": predictor.calibration.form,
            }
        found["ours"]["over_splits"] = [over_splits(session, layers, count) for count in (train_count, FEW_NETWORKS)]
        result["methods"][name] = {"measured": len(layers), **found}
    return result


def main() -> None:
    """Judge all recorded sessions."""
    made = parser(__doc__)
    made.add_argument("--sessions", type=Path, default=SESSIONS, help="folder of the recorded sessions")
    made.add_argument("--learn", type=int, default=50, help="networks that methods may learn from")
    given = made.parse_args()
    results = [judge_session(session, given.learn) for session in read_sessions(given.sessions)]
    for result in results:
        for name, methods in result["methods"].items():
            rows = []
            for method, f in methods.items():
                if method == "measured":
                    continue
                if f is None:
                    rows.append((method, "–", "–", "–", "–", "–"))
                    continue
                rows.append(
                    (
                        method,
                        f"{f['mape']:.2%}",
                        f"{f['within_5_percent']:.0%}",
                        f"{f['within_10_percent']:.0%}",
                        f"{f['kendall_tau']:.3f}",
                        "",
                    )
                )
                for split in f.get("over_splits", ()):
                    held = split["coverage"]
                    rows.append(
                        (
                            f"{method}, from {split['learnt_from']} networks, mean of {SPLITS} splits",
                            f"{split['mape']:.2%}",
                            f"{split['within_5_percent']:.0%}",
                            f"{split['within_10_percent']:.0%}",
                            f"{split['kendall_tau']:.3f}",
                            " ".join(f"{held[k]['mean']:.1%}" for k in held),
                        )
                    )
            look = result["one_half_by_the_other"]
            rows.append(
                (
                    "(half of the wholes' visits by the other half)",
                    f"{look['mape']:.2%}",
                    f"{look['within_5_percent']:.0%}",
                    f"{look['within_10_percent']:.0%}",
                    f"{look['kendall_tau']:.3f}",
                    "",
                )
            )
            title = (
                f"{result['target']} {result['space']}, {name} ({methods['measured']} of {result['layers']}); wholes "
                f"repeat within {result['repeat_error']:.2%}"
            )
            header = ("method", "MAPE", "±5 %", "±10 %", "Kendall τ", "held at 90, 95 %")
            print_table(title, header, rows)
            print()
    rows = []
    for result in results:
        held = result["held_out_layers"]
        for name in LAYER_METHODS:
            rows.append(
                (
                    f"{result['target']} {result['space']} ({result['layers']}): {name}",
                    f"{held[name]['mape']:.1%}",
                    f"{held[name]['median']:.1%}",
                    f"{held[name]['within_10_percent']:.0%}",
                    f"{held['repeat_error']:.1%}",
                )
            )
    print_table(
        "Layers, four fifths known and one fifth predicted",
        ("layers, method", "MAPE", "median", "±10 %", "they repeat"),
        rows,
    )
    write_results(given.results, "prediction", {"results": results})


if __name__ == "__main__":
    main()

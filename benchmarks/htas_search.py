"""HTAS's widths against a uniform grid and TAS's ratios: real searches and trainings under one latency budget.

Three seeds; a seed fixes the images, the halves, the teacher and all draws, and is the same for the three width sets.
The default is sized for two cores: a part of CIFAR-10 and a short recipe, so accuracies are low and compare only with
each other. ``--full`` is the papers' recipe on all of CIFAR-10, for a GPU. Every search, training and network is kept
in the work folder: a run that stopped goes on, and what is done is not done again. ``--only`` lets several processes
share the seeds.
"""

from __future__ import annotations

import statistics
from math import sqrt
from pathlib import Path
from typing import Any

from _common import parser, print_table, write_results
from _search import (
    ARMS,
    FULL,
    Run,
    Scale,
    budget_of,
    claim,
    default_device,
    images,
    load,
    problem_of,
    run_once,
    space_of,
    teacher_of,
)
from scipy.stats import t

from lut import Network
from profiler import compare_networks
from search import Problem
from search.spaces import ResNetCifar

LEVEL = 0.95
# Predictions of searched networks are to be as near as this.
AIM = 0.05


def smallest_difference(groups: list[list[float]]) -> float:
    """Return the difference of two groups' means that their spread within groups could just not explain (95 %, t)."""
    spread = sqrt(statistics.fmean(statistics.variance(group) for group in groups))
    degrees = sum(len(group) - 1 for group in groups)
    return float(t.ppf(0.5 + LEVEL / 2, degrees)) * spread * sqrt(2 / len(groups[0]))


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--table", type=Path, required=True, help="a table of profile-device on this machine")
    options.add_argument("--work", type=Path, default=Path("htas-search"), help="folder that keeps what is done")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--only", type=int, help="do this seed's searches and trainings, and no more")
    options.add_argument("--full", action="store_true", help="all of CIFAR-10 with the papers' recipe")
    options.add_argument("--measure-seconds", type=float, default=180.0)
    options.add_argument("--calibrate", type=int, default=24, help="networks of each space to calibrate on")
    options.add_argument("--calibrate-seconds", type=float, default=60.0)
    given = options.parse_args()
    scale = FULL if given.full else Scale()
    table, predictor = load(given.table)
    budget = budget_of(predictor, scale.depth)
    device = default_device()
    claim(given.work, scale, table, budget)
    runs: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    bases = []
    for seed in range(given.seeds) if given.only is None else [given.only]:
        data = images(scale, seed)
        bases.append(teacher_of(given.work, data, scale, seed, device)[1])
        for arm in ARMS:
            problem = problem_of(arm, table, predictor, scale.depth)
            name = f"{arm}-{seed}"
            runs[arm].append(
                run_once(given.work, name, problem, data, scale, budget_ms=budget, seed=seed, device=device)
            )
    if given.only is not None:
        return
    base = ResNetCifar(depth=scale.depth).base_network()
    everything = [run for arm in ARMS for run in runs[arm]]
    networks = [base, *(Network(run.name, run.network.layers) for run in everything)]
    compared = compare_networks(
        networks,
        setting=predictor.setting,
        device=predictor.device,
        time_budget_s=given.measure_seconds,
    )
    measured = {network.name: network for network in compared.networks}
    # What the command does before its search, and these searches did not: networks of the space calibrate.
    after = {
        arm: Problem(space_of(arm, table, scale.depth), predictor)
        .calibrated(
            count=given.calibrate,
            seconds=given.calibrate_seconds,
            path=given.work / f"calibration-{arm}.json",
        )
        .predictor
        for arm in ARMS
    }
    rows, figures = [], {}
    for arm in ARMS:
        accuracies = [100 * run.accuracy for run in runs[arm]]
        latencies = [measured[run.name].ms for run in runs[arm]]
        errors = [run.predicted_ms / measured[run.name].ms - 1 for run in runs[arm]]
        better = [after[arm].latency_ms(run.network) / measured[run.name].ms - 1 for run in runs[arm]]
        rows.append(
            [
                arm,
                f"{statistics.fmean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}",
                f"{statistics.fmean(latencies):.3f} ± {statistics.stdev(latencies):.3f}",
                ", ".join(f"{error:+.1%}" for error in errors),
                ", ".join(f"{error:+.1%}" for error in better),
                f"{statistics.fmean(run.network.madds / 1e6 for run in runs[arm]):.1f}",
                f"{statistics.fmean(len(run.network.layers) for run in runs[arm]):.0f}",
            ]
        )
        figures[arm] = [
            {**_figures(run, measured, budget), "calibrated_ms": after[arm].latency_ms(run.network)}
            for run in runs[arm]
        ]
    shown = measured[base.name]
    rows.append(
        [
            f"base {base.name}",
            f"{100 * statistics.fmean(bases):.2f} ± {100 * statistics.stdev(bases):.2f}",
            f"{shown.ms:.3f}",
            f"{predictor.latency_ms(base) / shown.ms - 1:+.1%}",
            "",
            f"{base.madds / 1e6:.1f}",
            str(len(base.layers)),
        ]
    )
    header = [
        "widths",
        "accuracy %, sd",
        "measured ms, sd",
        "predicted off by",
        "calibrated on its space",
        "M madds",
        "layers",
    ]
    print_table(f"{given.seeds} seeds, budget {budget:.3f} ms, {predictor.setting}", header, rows)
    off = [abs(run.predicted_ms / measured[run.name].ms - 1) for run in everything]
    set_right = [
        abs(after[arm].latency_ms(run.network) / measured[run.name].ms - 1) for arm in ARMS for run in runs[arm]
    ]
    for what, found in (("by the table", off), ("calibrated on their spaces", set_right)):
        within = sum(error <= AIM for error in found)
        print(f"predictions {what}: {max(found):.1%} off at worst, {within} of {len(found)} within {AIM:.0%}")
    least = {
        "accuracy_points": smallest_difference([[100 * r.accuracy for r in runs[a]] for a in ARMS]),
        "ms": smallest_difference([[measured[r.name].ms for r in runs[a]] for a in ARMS]),
    }
    print(
        f"the smallest difference of means that {given.seeds} seeds can show: {least['accuracy_points']:.2f} points, "
        f"{least['ms']:.3f} ms"
    )
    write_results(
        given.results,
        "htas_search_full" if given.full else "htas_search",
        {
            "scale": scale._asdict(),
            "setting": str(predictor.setting),
            "budget_ms": budget,
            "arms": figures,
            "base": {"ms": shown.ms, "predicted_ms": predictor.latency_ms(base), "accuracies": bases},
            "smallest_difference": least,
            "prediction_error": {
                "by_the_table": {"worst": max(off), "mean": statistics.fmean(off)},
                "calibrated_on_their_spaces": {"worst": max(set_right), "mean": statistics.fmean(set_right)},
            },
            "warnings": compared.warnings,
        },
    )


def _figures(run: Run, measured: dict[str, Any], budget: float) -> dict[str, Any]:
    seen = measured[run.name]
    return {
        "accuracy": run.accuracy,
        "predicted_ms": run.predicted_ms,
        "high_ms": run.high_ms,
        "measured_ms": seen.ms,
        "measured_low_ms": seen.low_ms,
        "measured_high_ms": seen.high_ms,
        "within_budget": seen.ms <= budget,
        "madds": run.network.madds,
        "parameters": run.network.parameters,
        "layers": len(run.network.layers),
        "widths": {
            item.name: item.layer.out_channels
            for item in run.network.layers
            if item.name == "stem" or ".conv" in item.name
        },
        "search_s": run.search_s,
        "train_s": run.train_s,
    }


if __name__ == "__main__":
    main()

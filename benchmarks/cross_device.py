"""HTAS's Table 5: networks found for one target, run on the others.

For each table given, the widths that its target likes, a search under the same share of its base network's latency, and
a training, all by one recipe and seed (that of ``htas_search.py``). Then every network is measured on every target,
those of one target in turns. A target's own network is as fast as its budget asks; what matters is whether another's
network is slower there than on its own *relative to the base network*.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _common import parser, print_table, write_results
from _search import Run, Scale, budget_of, claim, default_device, images, load, problem_of, run_once

from lut import Network
from profiler import compare_networks
from search.spaces import ResNetCifar


def label(setting: Any) -> str:
    """Return a target's name for people."""
    threads = f" {setting.threads} thread{'s' * (setting.threads != 1)}" if setting.threads else ""
    return f"{setting.target}{threads}"


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("tables", type=Path, nargs="+", help="tables of profile-device, one for each target")
    options.add_argument("--work", type=Path, default=Path("cross-device"), help="folder that keeps what is done")
    options.add_argument("--measure-seconds", type=float, default=90.0, help="for each target")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    scale = Scale()
    data = images(scale, given.seed)
    base = ResNetCifar(depth=scale.depth).base_network()
    loaded = [load(path) for path in given.tables]
    runs: list[Run] = []
    for table, predictor in loaded:
        problem = problem_of("hardware", table, predictor, scale.depth)
        folder = given.work / label(predictor.setting).replace(" ", "-")
        claim(folder, scale, table, budget_of(predictor, scale.depth))
        runs.append(
            run_once(
                folder,
                f"for {label(predictor.setting)}",
                problem,
                data,
                scale,
                budget_ms=budget_of(predictor, scale.depth),
                seed=given.seed,
                device=default_device(),
            )
        )
    networks = [base, *(Network(run.name, run.network.layers) for run in runs)]
    figures: dict[str, Any] = {}
    columns = []
    for own, (_, predictor) in enumerate(loaded, start=1):
        compared = compare_networks(
            networks,
            setting=predictor.setting,
            device=predictor.device,
            time_budget_s=given.measure_seconds,
        )
        column = []
        entries = {}
        for i, network in enumerate(compared.networks):
            predicted = predictor.predict(networks[i]).ms
            ratio = compared.ratio(0, i)
            mark = "(t)" if i == own else ""
            column.append(f"{network.ms:.3f}{mark} {ratio.value:.2f}×")
            entries[network.name] = {
                "ms": network.ms,
                "low_ms": network.low_ms,
                "high_ms": network.high_ms,
                "predicted_ms": predicted,
                "off_by": predicted / network.ms - 1,
                "base_takes_times": ratio._asdict(),
                "own_target_takes_times": compared.ratio(i, own)._asdict(),
            }
        columns.append(column)
        figures[label(predictor.setting)] = {
            "setting": str(predictor.setting),
            "budget_ms": budget_of(predictor, scale.depth),
            "networks": entries,
            "warnings": compared.warnings,
        }
    rows = []
    for i, network in enumerate(networks):
        accuracy = "–" if i == 0 else f"{runs[i - 1].accuracy:.2%}"
        rows.append([network.name, *(column[i] for column in columns), accuracy, f"{network.madds / 1e6:.1f}"])
    header = ["network", *(f"on {label(p.setting)}, ms" for _, p in loaded), "accuracy", "M madds"]
    title = "networks found for one target, on all; (t): its own; ×: the base network takes so many times as long"
    print_table(title, header, rows)
    write_results(
        given.results,
        "cross_device",
        {
            "scale": scale._asdict(),
            "targets": figures,
            "accuracy": {run.name: run.accuracy for run in runs},
            "madds": {network.name: network.madds for network in networks},
        },
    )


if __name__ == "__main__":
    main()

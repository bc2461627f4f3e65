"""How often each interval holds what it promises, on the fake clock and on this machine.

``within_run`` speaks of relative latencies: with one common factor per session removed, it is to hold the truth (fake
clock) or the consensus of all other sessions (machine); and, of neighbouring layers, their difference.
``across_runs`` speaks of absolute ones: one session's interval is to hold another's median. A layer that carries a
flag other than ``converged`` counts apart.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import parser, print_table, write_results

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

CASES: dict[str, dict[str, Any]] = {
    "log-normal 2 %": {"sigma": 0.02},
    "log-normal 5 %": {"sigma": 0.05},
    "2 % and 10 % spikes of +50 %": {"sigma": 0.02, "spike_share": 0.1},
    "2 % and a swing of 10 %, 200 layers": {"sigma": 0.02, "common_drift": 0.1, "layers": 200},
    "AR(1) ρ = 0.5, 3 %": {"sigma": 0.03, "autocorrelation": 0.5},
    "two modes, +10 %, a third of the layers": {"sigma": 0.01, "second_mode": 1.1, "some": True},
    "2 % and a common swing of 10 %": {"sigma": 0.02, "common_drift": 0.1},
    "2 % and own drift, a third of the layers": {"sigma": 0.02, "own_drift": 0.02, "some": True},
}
LAYERS = 24
KEYS = ("neighbours_percent", "flagged_percent", "unflagged_coverage_percent", "held_or_flagged_percent")

SESSION = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from _rules import layers
from profiler import profile
table = profile(layers(), batch=4, time_budget_s=float(sys.argv[3]), seed=int(sys.argv[2]), reference=Path(sys.argv[4]),
                context=sys.argv[5])
s = [x.session_ms / x.reference_ms for x in table.sessions[0].sentinels]
print(json.dumps([[m.median_ms, m.within_run.low_ms, m.within_run.high_ms, m.across_runs.low_ms,
                   m.across_runs.high_ms, [f for f in m.flags if f != "converged"], s] for m in table.values()]))
"""


def simulated(case: dict[str, Any], seed: int, reference: Path) -> list[list[Any]]:
    """Return one simulated session: per layer the median, both intervals, the flags and the truth."""
    from conftest import curve_of, simulate, table_of

    from profiler import FakeTarget

    options = dict(case)
    layers = curve_of(range(8, 8 + options.pop("layers", LAYERS))).layers
    if options.pop("some", False):
        # What befalls all layers alike is common drift; a layer's own trouble is that of a few.
        options["affected"] = [layer.digest for layer in layers[::3]]
    plan, result, target = simulate(layers, target=FakeTarget(seed=seed, **options), protocol={"seed": seed})
    table = table_of(plan, result, reference)
    return [
        [
            m.median_ms,
            m.within_run.low_ms,
            m.within_run.high_ms,
            m.across_runs.low_ms,
            m.across_runs.high_ms,
            [f for f in m.flags if f != "converged"],
            target.true_ms(layer),
        ]
        for layer, m in table.items()
    ]


def within(sessions: list[list[list[Any]]], truths: np.ndarray | None) -> dict[str, float]:
    """Return how often within_run held the relative truth, and how many layers were flagged."""
    logs = np.log([[layer[0] for layer in session] for session in sessions])
    relative = logs - np.median(logs, axis=1, keepdims=True)
    hits, flagged, hit_or_flagged, pairs = [], [], [], []
    for s, session in enumerate(sessions):
        if truths is not None:
            # A single factor per session: the sentinels' scale is across_runs' business.
            truth = np.log(truths) + np.median(logs[s] - np.log(truths))
        else:
            truth = np.median(np.delete(relative, s, axis=0), axis=0) + np.median(logs[s])
        low, high = (np.log([layer[k] for layer in session]) for k in (1, 2))
        # "Is 17 slower than 16?": the difference of neighbours, with the two half-widths added in squares.
        reach = np.hypot((high - low)[1:], (high - low)[:-1]) / 2
        pairs.append(np.mean(np.abs(np.diff(logs[s] - truth)) <= reach))
        for i, layer in enumerate(session):
            hit = np.log(layer[1]) <= truth[i] <= np.log(layer[2])
            hits.append(hit)
            flagged.append(bool(layer[5]))
            hit_or_flagged.append(hit or bool(layer[5]))
    return {
        "coverage_percent": 100 * float(np.mean(hits)),
        "neighbours_percent": 100 * float(np.mean(pairs)),
        "flagged_percent": 100 * float(np.mean(flagged)),
        "held_or_flagged_percent": 100 * float(np.mean(hit_or_flagged)),
        "unflagged_coverage_percent": 100 * float(np.mean([h for h, f in zip(hits, flagged, strict=True) if not f])),
    }


def across(sessions: list[list[list[Any]]]) -> float:
    """Return how often one session's across_runs interval held another session's median, in percent."""
    hits = [
        mine[3] <= other[0] <= mine[4]
        for a, b in itertools.permutations(sessions, 2)
        for mine, other in zip(a, b, strict=True)
    ]
    return 100 * float(np.mean(hits))


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--sessions", type=int, default=20, help="sessions on this machine")
    options.add_argument("--seconds", type=float, default=15.0, help="time budget of each")
    options.add_argument("--context", default="isolated", choices=("isolated", "network"))
    options.add_argument("--simulated", type=int, default=40, help="sessions per case on the fake clock")
    arguments = options.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            runs = [
                simulated(case, seed, Path(folder) / f"{name}-{seed}.json".replace("/", "-"))
                for seed in range(arguments.simulated)
            ]
            figures[name] = within(runs, np.array([layer[6] for layer in runs[0]]))
        shared = Path(folder) / "shared.json"
        many = {"sigma": 0.02, "common_drift": 0.1, "process_sigma": 0.01}
        runs = [simulated(many, 1000 + seed, shared) for seed in range(arguments.simulated)]
        figures["across runs: 2 %, swing of 10 %, processes 1 %"] = {"coverage_percent": across(runs)}

        machine = []
        for seed in range(arguments.sessions):
            command = [sys.executable, "-c", SESSION, str(Path(__file__).parent), str(seed), str(arguments.seconds)]
            done = subprocess.run(
                [*command, str(Path(folder) / "machine.json"), arguments.context],
                capture_output=True,
                text=True,
                check=True,
            )
            machine.append(json.loads(done.stdout))
            print(f"session {seed + 1} of {arguments.sessions}", flush=True)
    figures["this machine, within run"] = within(machine, None)
    figures["this machine, across runs"] = {"coverage_percent": across(machine)}
    widths = [np.log(layer[4] / layer[3]) / 2 for session in machine for layer in session]
    figures["this machine, across runs"]["median_half_width_percent"] = 100 * float(np.median(widths))
    print_table(
        "coverage of nominal 95 % intervals",
        ["case", "coverage %", "of neighbours %", "flagged %", "of unflagged %", "held or flagged %"],
        [[name, row["coverage_percent"], *(row.get(key, "–") for key in KEYS)] for name, row in figures.items()],
    )
    write_results(
        arguments.results,
        "coverage",
        {
            "sessions": arguments.sessions,
            "seconds": arguments.seconds,
            "simulated_sessions": arguments.simulated,
            "simulated_layers": LAYERS,
            "machine_layers": len(machine[0]),
            "figures": figures,
            "machine_sessions": machine,
        },
    )


if __name__ == "__main__":
    main()

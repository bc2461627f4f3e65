"""The widths chosen by independent default runs, side by side with HTAS's Table 2.

Each run is ``profile-device --target cpu --batch 4`` in a process of its own, with another seed and no reference speed
from the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from _common import parser, print_table, write_results

# HTAS, Table 2: CPU (two Xeon E5-2630, batch 4) and GPU (TitanXp, batch 1024).
PAPER = {
    "stage 1": {"CPU": (4, 5, 12, 16, 20, 24, 27, 32), "GPU": (4, 6, 12, 16, 20, 24, 28, 32)},
    "stage 2": {"CPU": (8, 13, 20, 27, 35, 45, 52, 64), "GPU": (6, 16, 24, 32, 40, 48, 56, 64)},
    "stage 3": {"CPU": (15, 20, 46, 50, 70, 92, 107, 128), "GPU": (16, 32, 47, 64, 80, 96, 112, 128)},
}
KEPT = ("wall_s", "measuring_s", "layers", "converged", "noise_floor")
COMMAND = "import sys; sys.argv[0] = 'profile-device'; from profiler._cli.profile_device import main; main()"


def profile(options: list[str]) -> dict[str, Any]:
    """Return what a run of the command printed, and the seconds that it took from start to end."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "--target", "cpu", "--batch", "4", *options, "--json"],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "XDG_CACHE_HOME": folder},
        )
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr)
    return {**json.loads(done.stdout), "wall_s": time.perf_counter() - began}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=3)
    arguments = options.parse_args()
    runs = []
    for seed in range(arguments.runs):
        runs.append(profile(["--seed", str(seed)]))
        print(
            f"run {seed + 1} of {arguments.runs}: {runs[-1]['wall_s']:.0f} s, "
            f"{runs[-1]['converged']} of {runs[-1]['layers']} layers converged",
            flush=True,
        )
    quick = profile(["--quick"])
    print(f"quick: {quick['wall_s']:.0f} s, {quick['converged']} of {quick['layers']} layers converged", flush=True)
    figures: dict[str, Any] = {}
    for stage, paper in PAPER.items():
        choices = [next(c for c in run["widths"] if c["curve"] == stage)["choices"] for run in runs]
        groups = []
        for j, per_run in enumerate(zip(*choices, strict=True)):
            widths = [choice["channels"] for choice in per_run]
            groups.append(
                {
                    "group": [per_run[0]["first"], per_run[0]["last"]],
                    "chosen": widths,
                    "same": len(set(widths)) == 1,
                    "within_one": max(widths) - min(widths) <= 1,
                    "margin_in_noise": [choice["margin_in_noise"] for choice in per_run],
                    "chosen_share": [choice["chosen_share"] for choice in per_run],
                    "paper_cpu": paper["CPU"][j],
                    "paper_gpu": paper["GPU"][j],
                }
            )
        figures[stage] = groups
        print_table(
            stage,
            ["group", *(f"run {i + 1}" for i in range(len(runs))), "paper CPU", "paper GPU"],
            [
                [
                    f"{g['group'][0]}–{g['group'][1]}",
                    *(
                        f"{w} ({'–' if m is None else f'{m:.1f} σ'}, {100 * s:.0f} %)"
                        for w, m, s in zip(g["chosen"], g["margin_in_noise"], g["chosen_share"], strict=True)
                    ),
                    g["paper_cpu"],
                    g["paper_gpu"],
                ]
                for g in groups
            ],
        )
    everything = [group for groups in figures.values() for group in groups]
    # Where the runs disagree, did they say beforehand that the choice was unsure?
    disputed = [g for g in everything if not g["same"]]
    summary = {
        "groups": len(everything),
        "same_in_all_runs": sum(g["same"] for g in everything),
        "within_one_channel": sum(g["within_one"] for g in everything),
        "disputed_and_said_to_be_unsure": sum(min(g["chosen_share"]) < 0.9 for g in disputed),
        "disputed": len(disputed),
        "equal_to_paper_cpu": sum(g["chosen"][0] == g["paper_cpu"] for g in everything),
        "equal_to_paper_gpu": sum(g["chosen"][0] == g["paper_gpu"] for g in everything),
        "multiples_of_8": sum(g["chosen"][0] % 8 == 0 for g in everything),
    }
    print(summary)
    write_results(
        arguments.results,
        "widths",
        {
            "summary": summary,
            "figures": figures,
            "runs": [{key: run[key] for key in KEPT} for run in runs],
            "quick": {key: quick[key] for key in KEPT},
        },
    )


if __name__ == "__main__":
    main()

"""The default run, again and again: how sharp it is, and whether another run finds what its intervals say.

``profile-device --target cpu --batch 4``, each run in a process of its own with another seed and no reference speed of
the others; in turns with those of another version of the project, so that both see the same machine. Two runs are held
against each other layer by layer, what they differ by as a whole taken off; and by the ratio of each layer to
its neighbour on the curve, and to the layer half a curve away. How far another day's value may be, nothing taken off,
is for ``coverage.py`` to see: it takes the machine's reference speed, which runs have no share in here.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from shutil import which
from statistics import fmean, median
from typing import Any, TypeAlias

import numpy as np
from _common import parser, print_table, write_results
from _isa import AVX2

from lut import LatencyTable, Layer
from predictors._show import SURE_SHARE

HERE = Path(__file__).resolve().parent.parent
COMMAND = "import sys; sys.argv[0] = 'profile-device'; from profiler._cli.profile_device import main; main()"
ALONE = ("--no-self-test", "--when-busy", "measure")
# What a run printed, and its table.
Found: TypeAlias = tuple[dict[str, Any], LatencyTable]


def run(root: Path, folder: Path, options: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Return what a run of the command in one version of the project printed, its time and its table's place."""
    output = folder / f"{time.time_ns()}.json"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "--target", "cpu", "--batch", "4", *options, "--json", "--output", str(output)],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, **environment, "PYTHONPATH": str(root), "XDG_CACHE_HOME": str(output.with_suffix(""))},
    )
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout), "wall_s": time.perf_counter() - began, "output": output}


def worktree(*words: str) -> None:
    """Have git make or remove a folder with another version of the project."""
    subprocess.run([which("git") or "git", "worktree", *words], cwd=HERE, check=True)


def figures_of(found: dict[str, Any]) -> dict[str, Any]:
    """Return what one run says of itself."""
    table = LatencyTable.load(found["output"])
    groups = [choice for curve in found["widths"] for choice in curve["choices"]]
    ratios = [
        total / network.end_to_end.median_ms - 1
        for network in table.networks
        if network.end_to_end is not None and (total := table.sum_ms(network)) is not None
    ]
    return {
        "wall_s": round(found["wall_s"], 1),
        "layers": len(table),
        "visits": sum(m.n_visits for m in table.values()),
        "half_width": round(median(m.relative_half_width for m in table.values()), 4),
        "open_groups": sum(group["chosen_share"] < SURE_SHARE for group in groups),
        "groups": len(groups),
        "audit_bias": round(fmean(ratios), 4) if ratios else None,
        "audit_within_5_percent": round(sum(abs(r) <= 0.05 for r in ratios) / len(ratios), 3) if ratios else None,
        "drift": table.sessions[0].spread.common_drift,
        "process": table.sessions[0].spread.process,
        "context": getattr(table.sessions[0].spread, "context", 0.0),
    }


def compared(first: LatencyTable, second: LatencyTable) -> dict[str, float]:
    """Return how two runs agree."""
    shared = [layer for layer in first if layer in second]
    gaps = np.log([first[layer].median_ms / second[layer].median_ms for layer in shared])
    gaps -= np.median(gaps)
    gap: dict[Layer, float] = dict(zip(shared, gaps.tolist(), strict=True))
    half = {
        layer: float(np.hypot(first[layer].relative_half_width, second[layer].relative_half_width)) for layer in shared
    }
    inside = {"layers": [abs(gap[layer]) <= half[layer] for layer in shared]}
    # Audits draw other networks in each run: a layer may stand in a chain here and in a network there.
    networks = {item.layer for table in (first, second) for known in table.networks for item in known.network.layers}
    inside["chains"] = [abs(gap[layer]) <= half[layer] for layer in shared if layer not in networks]
    for name, share in (("neighbours", 0.0), ("range", 0.5)):
        inside[name] = []
        for curve in first.curves:
            known = [layer for layer in curve.layers if layer in gap]
            step = max(1, int(share * len(known)))
            inside[name] += [
                abs(gap[a] - gap[b]) <= np.hypot(half[a], half[b]) for a, b in zip(known, known[step:], strict=False)
            ]
    return {
        "difference": round(float(np.median(np.abs(gaps))), 4),
        **{f"inside_{name}": round(float(np.mean(values)), 4) for name, values in inside.items()},
    }


def choices_agree(first: Found, second: Found) -> tuple[int, int]:
    """Return in how many groups that neither run calls open both choose one width or one stair, and of how many.

    Two widths stand on one stair where they are one channel apart, or neither run can tell their latencies apart.
    """
    (a_found, a_table), (b_found, b_table) = first, second
    agree = closed = 0
    for a_curve, b_curve in zip(a_found["widths"], b_found["widths"], strict=True):
        curve = next(c for c in a_table.curves if c.name == a_curve["curve"])
        layers = {layer.out_channels: layer for layer in curve.layers}
        for a, b in zip(a_curve["choices"], b_curve["choices"], strict=True):
            if min(a["chosen_share"], b["chosen_share"]) < SURE_SHARE:
                continue
            closed += 1
            one, other = layers[a["channels"]], layers[b["channels"]]
            stair = all(_alike(table, one, other) for table in (a_table, b_table))
            agree += abs(a["channels"] - b["channels"]) <= 1 or stair
    return agree, closed


def _alike(table: LatencyTable, one: Layer, other: Layer) -> bool:
    """Return whether a run cannot tell two layers' latencies apart."""
    half = np.hypot(table[one].relative_half_width, table[other].relative_half_width)
    return bool(abs(np.log(table[one].median_ms / table[other].median_ms)) <= half)


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--against", metavar="COMMIT", help="another version of the project, run in turns with this one")
    made.add_argument("--runs", type=int, default=3, help="of each version")
    made.add_argument("--instructions", nargs="+", default=["all", "AVX2"], choices=["all", "AVX2"])
    made.add_argument("--threads", type=int, default=None)
    made.add_argument("--quick", action="store_true", help="the quick run instead")
    made.add_argument("--folder", type=Path, default=None, help="the runs' tables are kept there")
    given = made.parse_args()
    results: dict[str, Any] = {}
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() if given.folder is None else nullcontext(given.folder) as name:
        folder = Path(name).resolve()
        versions = {"now": HERE}
        if given.against is not None:
            versions["before"] = folder / "before"
            worktree("add", "--detach", str(versions["before"]), given.against)
        try:
            for instructions in given.instructions:
                printed: dict[str, list[dict[str, Any]]] = {version: [] for version in versions}
                for turn, version in itertools.product(range(given.runs), versions):
                    options = ["--seed", str(turn), *(ALONE if version == "now" else ())]
                    options += ["--threads", str(given.threads)] if given.threads else []
                    options += ["--quick"] if given.quick else []
                    found = run(versions[version], folder, options, AVX2 if instructions == "AVX2" else {})
                    kept = results.setdefault(instructions, {}).setdefault(version, {"runs": [], "pairs": []})
                    kept["runs"].append(figures_of(found))
                    printed[version].append(found)
                    print(instructions, version, kept["runs"][-1], flush=True)
                for version, runs in printed.items():
                    loaded = [(found, LatencyTable.load(found["output"])) for found in runs]
                    pairs = list(itertools.combinations(loaded, 2))
                    agreed = [choices_agree(a, b) for a, b in pairs]
                    results[instructions][version]["pairs"] = [compared(a[1], b[1]) for a, b in pairs]
                    results[instructions][version]["choices"] = {
                        "agree": sum(agree for agree, _ in agreed),
                        "of": sum(closed for _, closed in agreed),
                    }
        finally:
            if "before" in versions:
                worktree("remove", "--force", str(versions["before"]))
    rows = []
    for instructions, by_version in results.items():
        for version, kept in by_version.items():
            runs, pairs = kept["runs"], kept["pairs"] or [dict.fromkeys(("difference",), float("nan"))]
            rows.append(
                (
                    f"{instructions}, {version}",
                    f"±{median(r['half_width'] for r in runs):.1%}",
                    *(f"{median(p.get(key, float('nan')) for p in pairs):.1%}" for key in PAIRS),
                    f"{fmean(r['open_groups'] for r in runs):.1f} of {runs[0]['groups']}",
                    f"{kept['choices']['agree']} of {kept['choices']['of']}",
                    "" if runs[0]["audit_bias"] is None else f"{fmean(r['audit_bias'] for r in runs):+.1%}",
                    f"{fmean(r['visits'] for r in runs):,.0f}",
                    f"{fmean(r['drift'] for r in runs):.0%}",
                )
            )
    header = (
        "version",
        "half-width",
        "differ by",
        "inside",
        "in chains",
        "neighbours",
        "range",
        "open groups",
        "others agree",
        "sums",
        "visits",
    )
    print_table("default runs", (*header, "drift"), rows)
    name = "quick_run" if given.quick else "default_run"
    write_results(given.results, name, {"against": given.against, "threads": given.threads, "results": results})


PAIRS = ("difference", "inside_layers", "inside_chains", "inside_neighbours", "inside_range")


if __name__ == "__main__":
    main()

"""How far repeated measurements of the same layers agree, at equal time: this protocol against the peers' rules.

49 neighbouring widths (3×3 conv + norm + ReLU, 32 channels in, 8 … 56 out, 32×32, batch 4). Every repeat is a fresh
process per rule, the rules in a new order each time; starting Python and PyTorch is not counted. Hogged: for a
third of the time, one busy process per core competes. Absolute: |log ratio| of two repeats' latencies. Relative: the
same with one common factor per pair of repeats removed.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import parser, print_table, write_results
from _rules import CONTEXT_RULES, RULES, SETTINGS_RULES, WIDTHS
from scipy.stats import kendalltau

HOG = "import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"


def run_rule(
    rule: str, *, threads: int, seconds: float, seed: int, reference: Path, hog_at: float | None
) -> tuple[list[float], float]:
    """Return the latencies of one repeat in ms, and the seconds that measuring took.

    ``hog_at`` is when the hogs start, as a share of the time.
    """
    import os

    command = [sys.executable, str(Path(__file__).with_name("_rules.py"))]
    command += [rule, str(threads), str(seconds), str(seed), str(reference)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    if child.stdout.readline().strip() != "start":
        raise RuntimeError(f"{rule} did not start")
    began = time.perf_counter()
    hogs = []
    if hog_at is not None:
        time.sleep(hog_at * seconds)
        hog = [sys.executable, "-c", HOG.format(seconds=seconds / 3)]
        hogs = [subprocess.Popen(hog) for _ in range(os.cpu_count() or 1)]
    found = json.loads(child.stdout.readline())
    measuring_s = time.perf_counter() - began
    for process in (child, *hogs):
        process.wait()
    return [found[str(width)] for width in WIDTHS], measuring_s


def compare(repeats: np.ndarray) -> dict[str, float]:
    """Return the figures over all pairs of repeats; ``repeats`` has shape (repeats, widths)."""
    absolute, relative, taus, orders = [], [], [], []
    for a, b in itertools.combinations(np.log(repeats), 2):
        difference = a - b
        absolute.append(np.abs(difference))
        relative.append(np.abs(difference - np.median(difference)))
        taus.append(kendalltau(a, b).statistic)
        orders.append(np.mean(np.sign(np.diff(a)) != np.sign(np.diff(b))))
    return {
        "absolute_median_percent": 100 * float(np.median(absolute)),
        "absolute_p95_percent": 100 * float(np.quantile(absolute, 0.95)),
        "relative_median_percent": 100 * float(np.median(relative)),
        "relative_p95_percent": 100 * float(np.quantile(relative, 0.95)),
        "kendall_tau": float(np.mean(taus)),
        "neighbours_reordered_percent": 100 * float(np.mean(orders)),
    }


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=10)
    options.add_argument("--context", action="store_true", help="isolated and in-context values, and the best peer")
    options.add_argument("--settings", action="store_true", help="our process settings for the two best peers")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seconds-per-width", type=float, default=0.1)
    arguments = options.parse_args()
    name, rules = "repeatability", RULES
    if arguments.settings:
        name, rules = "repeatability_settings", SETTINGS_RULES
    elif arguments.context:
        name, rules = "repeatability_context", CONTEXT_RULES
    took: dict[str, list[float]] = {rule: [] for rule in rules}
    seconds = arguments.seconds_per_width * len(WIDTHS)
    rng = random.Random(0)
    found: dict[str, dict[str, list[list[float]]]] = {
        condition: {rule: [] for rule in rules} for condition in ("quiet", "hogged")
    }
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "references.json"
        for repeat in range(arguments.repeats):
            for condition, by_rule in found.items():
                for rule in rng.sample(rules, len(rules)):
                    hog_at = rng.uniform(0, 2 / 3) if condition == "hogged" else None
                    latencies, measuring_s = run_rule(
                        rule,
                        threads=arguments.threads,
                        seconds=seconds,
                        seed=repeat,
                        reference=reference,
                        hog_at=hog_at,
                    )
                    by_rule[rule].append(latencies)
                    took[rule].append(measuring_s)
            print(f"repeat {repeat + 1} of {arguments.repeats}", flush=True)
    figures = {c: {rule: compare(np.array(r)) for rule, r in by_rule.items()} for c, by_rule in found.items()}
    for condition, by_rule in figures.items():
        header = ["rule", "abs. median %", "abs. p95 %", "rel. median %", "rel. p95 %", "τ", "neighbours %"]
        print_table(condition, header, [[rule, *row.values()] for rule, row in by_rule.items()])
    verdict = {}
    for condition, by_rule in figures.items():
        own = [rule for rule in by_rule if rule.startswith("ours")]
        for key, ours in itertools.product(("absolute_median_percent", "relative_median_percent"), own):
            best = min((row[key], rule) for rule, row in by_rule.items() if rule not in own)
            ratio = by_rule[ours][key] / best[0]
            name_of = f"{condition}_{key.removesuffix('_percent')}_ratio_to_best_peer"
            verdict[name_of if ours == "ours" else f"{ours}_{name_of}"] = ratio
            print(
                f"{condition}, {key}: {ours} {by_rule[ours][key]:.2f}, best peer {best[1]} {best[0]:.2f}: × {ratio:.2f}"
            )
    write_results(
        arguments.results,
        name,
        {
            "repeats": arguments.repeats,
            "threads": arguments.threads,
            "seconds_per_width": arguments.seconds_per_width,
            "figures": figures,
            "ours_against_best_peer": verdict,
            "measuring_s_median": {rule: float(np.median(values)) for rule, values in took.items()},
            "latencies_ms": found,
        },
    )


if __name__ == "__main__":
    main()

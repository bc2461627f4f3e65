"""Whether searching against measured latency beats searching against multiply-adds on the same device.

For ten budgets of milliseconds a network is found by asking the predictor, by asking multiply-adds and by asking
parameters; the last two are brought to ms by the best line through the very networks that the predictor is calibrated
on, so that all three ask the same device as well as they can. On NAS-Bench-Macro accuracies are known and each search
takes the most accurate network that its own measure puts within the budget: no search errs, so that what differs is the
measure alone; seeds draw 24 calibrating networks of 48 that were measured. On spaces of ResNets and of RCNet, whose
accuracies nobody knows, a stand-in accuracy (utilities of each decision that grow by less and less, drawn by a seed)
takes their place. All networks found are measured in one interleaved session. What is compared is accuracy at equal
*measured* ms: of each measure the found networks make a front of measured ms and accuracy, and each budget is answered
by the best one that was measured within it.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import parser, print_table, write_results
from _search import DATA
from _spaces import stand_in, table_of
from scipy.stats import spearmanr

from lut import LatencyTable, Network, SearchSpace
from predictors import LatencyPredictor
from profiler import compare_networks
from search import Problem
from search.spaces import NasBenchMacro, RCNet, ResNetCifar, load_accuracies, ratio_widths

FILE = DATA / "nas-bench-macro" / "nas-bench-macro_cifar10.json"
MEASURES = ("latency", "madds", "parameters")
CALIBRATING = 24
# Networks that are drawn where a space is too large to list.
DRAWN = 20_000

Vector = tuple[int, ...]


class Listed(NamedTuple):
    """Networks of a space with what is known of each: shape ``(n,)`` each, in millions."""

    vectors: list[Vector]
    networks: list[Network]
    madds: np.ndarray[Any, Any]
    parameters: np.ndarray[Any, Any]


def listed(space: SearchSpace, problem: Problem, seed: int) -> Listed:
    """Return all networks of a small space, and of a large one many random ones, small and large alike."""
    size = np.prod([float(len(decision.options)) for decision in space.choices])
    rng = random.Random(seed)
    if size <= DRAWN:
        every = itertools.product(*(range(len(decision.options)) for decision in space.choices))
        vectors = list(dict.fromkeys(problem.canonical(vector) for vector in every))
    else:
        vectors = list(dict.fromkeys(_spread(space, problem, rng) for _ in range(DRAWN)))
    networks = [space.decode(vector) for vector in vectors]
    madds = np.array([space.count_madds(network) / 1e6 for network in networks])
    return Listed(vectors, networks, madds, np.array([network.parameters / 1e6 for network in networks]))


def _spread(space: SearchSpace, problem: Problem, rng: random.Random) -> Vector:
    """Return a random vector, whose options lean to the small or to the large by a random measure."""
    lean = rng.random()
    vector = []
    for decision in space.choices:
        count = len(decision.options)
        vector.append(min(int(count * rng.betavariate(0.5 + 3 * lean, 0.5 + 3 * (1 - lean))), count - 1))
    return problem.canonical(vector)


class Chosen(NamedTuple):
    """A network that a measure chose for a budget."""

    measure: str
    budget_ms: float
    seed: int
    place: int


def told_by(
    space: SearchSpace, predictor: LatencyPredictor, known: Listed, whole: Sequence[tuple[Network, float]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Return what each measure says that networks take, in ms, after calibrating on networks measured whole."""
    found = {"latency": predictor.recalibrated(whole).compile(space).values(np.array(known.vectors))}
    y = np.array([ms for _, ms in whole])
    for measure, of in (("madds", space.count_madds), ("parameters", lambda network: network.parameters)):
        # The best line in relative error.
        x = np.array([of(network) / 1e6 for network, _ in whole])
        design = np.column_stack([x, np.ones_like(x)]) / y[:, None]
        slope, shift = np.linalg.lstsq(design, np.ones_like(y), rcond=None)[0]
        found[measure] = slope * {"madds": known.madds, "parameters": known.parameters}[measure] + shift
    return found


def chosen(
    told: Mapping[str, np.ndarray[Any, Any]], accuracy: np.ndarray[Any, Any], budgets: Sequence[float], seed: int
) -> list[Chosen]:
    """Return what each measure chooses for each budget: the most accurate network that it puts within."""
    found = []
    for measure in MEASURES:
        for budget in budgets:
            within = np.flatnonzero(told[measure] <= budget)
            if within.size:
                found.append(Chosen(measure, budget, seed, int(within[np.argmax(accuracy[within])])))
    return found


def space_run(name: str, space: SearchSpace, table: LatencyTable, given: Any) -> dict[str, Any]:
    """Run all seeds of a space; return the figures."""
    predictor = LatencyPredictor.fit(table, sources=[name])
    problem = Problem(space, predictor).calibrated(count=2 * CALIBRATING, seconds=given.calibrate_seconds)
    assert problem.predictor is not None
    known = listed(space, problem, seed=0)
    ms = problem.latency.values(np.array(known.vectors))
    low, high = float(ms.min()), float(ms.max())
    budgets = [low + (high - low) * k / (given.budgets + 1) for k in range(1, given.budgets + 1)]
    accuracies: dict[int, np.ndarray[Any, Any]] = {}
    choices: list[Chosen] = []
    told: dict[str, np.ndarray[Any, Any]] = {}
    for seed in range(given.seeds):
        drawn = random.Random(seed).sample(problem.calibration, CALIBRATING)
        told = told_by(space, predictor, known, drawn)
        accuracies[seed] = accuracy_of(name, space, known, seed)
        choices += chosen(told, accuracies[seed], budgets, seed)
    wanted = sorted({choice.place for choice in choices})
    print(f"{name}: measuring {len(wanted)} networks found", file=sys.stderr, flush=True)
    compared = compare_networks(
        [Network(f"network {i}", known.networks[i].layers) for i in wanted],
        setting=problem.predictor.setting,
        device=problem.predictor.device,
        time_budget_s=max(60.0, given.seconds_each * len(wanted)),
    )
    measured = {i: network.ms for i, network in zip(wanted, compared.networks, strict=True)}
    return figures(name, told, accuracies, choices, measured, budgets)


def accuracy_of(name: str, space: SearchSpace, known: Listed, seed: int) -> np.ndarray[Any, Any]:
    """Return each network's accuracy in points."""
    if name == "nas-bench-macro":
        table = load_accuracies(FILE)
        return np.array([100 * table[network.name] for network in known.networks])
    of: Callable[[Sequence[int]], float] = stand_in(space, seed)[1]
    return np.array([100 * of(vector) for vector in known.vectors])


def figures(
    name: str,
    told: Mapping[str, np.ndarray[Any, Any]],
    accuracies: dict[int, np.ndarray[Any, Any]],
    choices: Sequence[Chosen],
    measured: dict[int, float],
    budgets: Sequence[float],
) -> dict[str, Any]:
    """Return accuracy at equal measured ms, by measure and budget, and the ms at equal accuracy."""

    def front(measure: str, seed: int, limit_ms: float) -> float | None:
        own = [c for c in choices if c.measure == measure and c.seed == seed and measured[c.place] <= limit_ms]
        return max((float(accuracies[seed][c.place]) for c in own), default=None)

    def cheapest(measure: str, seed: int, least: float) -> float | None:
        own = [c for c in choices if c.measure == measure and c.seed == seed and accuracies[seed][c.place] >= least]
        return min((measured[c.place] for c in own), default=None)

    rows = []
    for budget in budgets:
        row: dict[str, Any] = {"budget_ms": budget}
        for other in MEASURES[1:]:
            points, shares = [], []
            for seed in accuracies:
                mine, theirs = front("latency", seed, budget), front(other, seed, budget)
                if mine is not None and theirs is not None:
                    points.append(mine - theirs)
                    # What the other's accuracy at this budget takes by either measure.
                    fast, slow = cheapest("latency", seed, theirs), cheapest(other, seed, theirs)
                    if fast is not None and slow is not None:
                        shares.append(1 - fast / slow)
            row[other] = {
                "seeds": len(points),
                "points": statistics.fmean(points) if points else None,
                "worst": min(points, default=None),
                "ms_saved": statistics.fmean(shares) if shares else None,
            }
        rows.append(row)
    indices = list(measured)
    actual = [measured[i] for i in indices]
    return {
        "space": name,
        "networks": len(next(iter(told.values()))),
        "measured": len(measured),
        # Of the networks that were found, by any measure.
        "correlation": {measure: float(spearmanr(told[measure][indices], actual)[0]) for measure in MEASURES},
        "error": {measure: float(np.mean(np.abs(told[measure][indices] / actual - 1))) for measure in MEASURES},
        "budgets": rows,
    }


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--budgets", type=int, default=10)
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--profile-seconds", type=float, default=150.0)
    options.add_argument("--calibrate-seconds", type=float, default=90.0)
    options.add_argument("--seconds-each", type=float, default=1.0, help="of measuring, for each network found")
    options.add_argument("--work", type=Path, default=Path("budget-hit-work"), help="folder that keeps the tables")
    options.add_argument("--spaces", default="nas-bench-macro,resnet-cifar,rcnet-cifar")
    given = options.parse_args()
    whole = ResNetCifar(depth=20, expand=1.0)
    spaces: dict[str, tuple[SearchSpace, SearchSpace]] = {}
    if FILE.exists():
        spaces["nas-bench-macro"] = (NasBenchMacro(), NasBenchMacro())
    spaces["resnet-cifar"] = (ResNetCifar(depth=20, expand=1.0, widths=ratio_widths(whole), depths="tas"), whole)
    rcnet = RCNet("cifar", width=0.35, positions=3)
    spaces["rcnet-cifar"] = (rcnet, rcnet)
    spaces = {name: spaces[name] for name in spaces if name in given.spaces.split(",")}
    found = [space_run(name, space, table_of(of, given, name), given) for name, (space, of) in spaces.items()]
    rows = []
    for part in found:
        for row in part["budgets"]:
            cells = [f"{part['space']} {row['budget_ms']:.2f} ms"]
            for other in MEASURES[1:]:
                own = row[other]
                cells += (
                    ["–", "–", "–"]
                    if own["points"] is None
                    else [
                        f"{own['points']:+.2f}",
                        f"{own['worst']:+.2f}",
                        "–" if own["ms_saved"] is None else f"{own['ms_saved']:+.1%}",
                    ]
                )
            rows.append(cells)
    header = [
        "budget",
        "points over madds",
        "worst seed",
        "ms saved",
        "points over parameters",
        "worst seed",
        "ms saved",
    ]
    print_table(f"accuracy at equal measured ms, of {given.seeds} seeds", header, rows)
    for part in found:
        gains = [row["madds"]["points"] for row in part["budgets"] if row["madds"]["points"] is not None]
        c = part["correlation"]
        print(
            f"{part['space']}: {statistics.fmean(gains):+.2f} points over multiply-adds on average; rank correlation "
            f"with measured ms: latency {c['latency']:.3f}, multiply-adds {c['madds']:.3f}, parameters "
            f"{c['parameters']:.3f}; off by {part['error']['latency']:.1%}, {part['error']['madds']:.1%}, "
            f"{part['error']['parameters']:.1%}"
        )
    write_results(given.results, "latency_or_madds", {"seeds": given.seeds, "spaces": found})


if __name__ == "__main__":
    main()

"""RCAS where every answer is known: NAS-Bench-Macro's accuracies under ten budgets of this machine's latency.

The 6,561 networks' accuracies are read from the benchmark's file (CIFAR-10, best epoch by the test images, so that
differences under 0.3 points are noise, and every search here is told what no search can know); their latencies are sums
of the blocks measured here, calibrated on whole networks. So the optimum under each budget is known, by these
predictions; the networks found are measured. RCAS as its paper has it, and with the exchange at its end, are held
against random search, pymoo's NSGA-II and local search with restarts, each allowed as many evaluations as RCAS with the
exchange used at that budget; and, to see what the exchange owes to what, against its neighbourhood alone (restarts, no
greedy path) and its neighbourhood in random order after the greedy paths. Latency costs nothing to ask for, so none of
them spends an evaluation on a network beyond the budget. What is random runs with twenty seeds.

The exchange was made by looking at these same accuracies, with the latencies of the recorded sessions in ``sessions/``,
one of which is of ONNX Runtime; what it reaches there is printed too.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import parser, print_table, write_results
from _search import DATA
from _sessions import read_sessions, table_of

from lut import LatencyTable, Network
from predictors import LatencyPredictor
from profiler import compare_networks, profile
from search import (
    Budgets,
    NasBenchMacro,
    NetworkResources,
    RcasResult,
    RcasSettings,
    load_accuracies,
    measure_submodularity,
    search_rcas,
)

FILE = DATA / "nas-bench-macro" / "nas-bench-macro_cifar10.json"
BUDGETS = 10
# Of the space, at most.
SHARE = 0.02
# Points of accuracy: what is to be reached at every budget.
AIM = 0.3
POPULATION = 20
SEEDS = 20
AUDITED = 24
# Random networks that are grown, as many as in the paper.
GROWN = 500

Vector = tuple[int, ...]


class Oracle(NamedTuple):
    """What is known: of each network its accuracy in % and its latency in ms."""

    space: NasBenchMacro
    predictor: LatencyPredictor
    accuracy: dict[Vector, float]
    ms: dict[Vector, float]

    def optimum(self, budget: float) -> float:
        """Return the best accuracy within a budget."""
        return max(self.accuracy[v] for v, ms in self.ms.items() if ms <= budget)


class Judge:
    """Reads accuracies and counts networks; says when as many as are allowed have been read."""

    def __init__(self, oracle: Oracle, budget: float, allowed: int) -> None:
        self.oracle, self.budget, self.allowed = oracle, budget, allowed
        self.seen: dict[Vector, float] = {}

    @property
    def spent(self) -> bool:
        """Whether no network may be read any more."""
        return len(self.seen) >= self.allowed

    @property
    def best(self) -> float:
        """Return the best accuracy read."""
        return max(self.seen.values())

    def fits(self, vector: Sequence[int]) -> bool:
        """Whether a network is within the budget."""
        return self.oracle.ms[tuple(vector)] <= self.budget

    def read(self, vector: Sequence[int]) -> float | None:
        """Return a network's accuracy, or ``None`` where no more may be read."""
        key = self.oracle.space.canonical(vector)
        if key not in self.seen:
            if self.spent:
                return None
            self.seen[key] = self.oracle.accuracy[key]
        return self.seen[key]


def make_oracle(predictor: LatencyPredictor, accuracies: dict[str, float]) -> Oracle:
    """Return all accuracies and latencies."""
    space = NasBenchMacro()
    vectors = list(itertools.product(range(3), repeat=8))
    ms = predictor.compile(space).latency(np.array(vectors))
    return Oracle(
        space,
        predictor,
        {v: 100 * accuracies["".join(map(str, v))] for v in vectors},
        dict(zip(vectors, map(float, ms), strict=True)),
    )


def searched(oracle: Oracle, budget: float, settings: RcasSettings) -> RcasResult:
    """Run RCAS."""
    resources = NetworkResources(oracle.space, oracle.predictor, bound="predicted")

    def evaluate(networks: Sequence[Network]) -> list[float]:
        return [oracle.accuracy[tuple(map(int, network.name))] for network in networks]

    return search_rcas(resources, evaluate, Budgets(ms=budget), settings)


def exchanging(oracle: Oracle) -> RcasSettings:
    """Return RCAS's settings with the exchange, and as many evaluations as the share of the space allows."""
    return RcasSettings(exchange=True, evaluations=int(SHARE * len(oracle.accuracy)))


def random_search(judge: Judge, rng: random.Random) -> None:
    """Read random networks within the budget."""
    vectors = [v for v in sorted({judge.oracle.space.canonical(v) for v in judge.oracle.ms}) if judge.fits(v)]
    rng.shuffle(vectors)
    for vector in vectors[: judge.allowed]:
        judge.read(vector)


def local_search(judge: Judge, rng: random.Random, most_changed: int = 1) -> None:
    """Climb from random networks within the budget, by the first change that helps; then restart.

    Changes of one position, or of up to ``most_changed``, fewest first and otherwise in random order: the exchange's
    neighbours, without a greedy path before it or an order to try them in.
    """
    canonical = judge.oracle.space.canonical
    starts = sorted({canonical(v) for v in judge.oracle.ms if judge.fits(v)})
    if len(starts) <= judge.allowed:
        for start in starts:
            judge.read(start)
        return
    # A start that is known costs nothing, so restarts are bounded by another number than evaluations are.
    for _ in range(100 * judge.allowed):
        vector = rng.choice(starts)
        value = judge.read(vector)
        while value is not None:
            for neighbour in _around(vector, most_changed, rng):
                if not judge.fits(neighbour):
                    continue
                found = judge.read(neighbour)
                if found is None:
                    return
                if found > value:
                    vector, value = canonical(neighbour), found
                    break
            else:
                break
        if judge.spent:
            return


def _around(vector: Vector, most_changed: int, rng: random.Random) -> Iterator[Vector]:
    """Yield the networks that differ in up to so many positions, fewest first, else in random order."""
    for count in range(1, most_changed + 1):
        found = []
        for positions in itertools.combinations(range(8), count):
            for options in itertools.product(range(3), repeat=count):
                if all(vector[d] != option for d, option in zip(positions, options, strict=True)):
                    changed = list(vector)
                    for d, option in zip(positions, options, strict=True):
                        changed[d] = option
                    found.append(tuple(changed))
        rng.shuffle(found)
        yield from found


def local_search_3(judge: Judge, rng: random.Random) -> None:
    """Climb by changes of up to three positions."""
    local_search(judge, rng, 3)


def exchange_at_random(judge: Judge, rng: random.Random) -> None:
    """Go on from RCAS as the exchange does, but try neighbours of as many changes in random order."""
    found = searched(judge.oracle, judge.budget, RcasSettings())
    for path in found.paths:
        for step in path.steps:
            judge.read(step.vector)
    # What else the paths evaluated counts as well.
    judge.allowed -= max(0, found.evaluated - len(judge.seen))
    vector = max(judge.seen, key=judge.seen.__getitem__)
    value: float | None = judge.seen[vector]
    while value is not None:
        for neighbour in _around(vector, 3, rng):
            if judge.fits(neighbour):
                better = judge.read(neighbour)
                if better is None:
                    return
                if better > value:
                    vector, value = judge.oracle.space.canonical(neighbour), better
                    break
        else:
            return


def nsga2(judge: Judge, rng: random.Random) -> None:
    """Run pymoo's NSGA-II on error and latency, with the budget as a constraint."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair

    class Networks(Problem):  # type: ignore[misc]
        """Eight options; two objectives, one constraint."""

        def __init__(self) -> None:
            super().__init__(n_var=8, n_obj=2, n_ieq_constr=1, xl=0, xu=2, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
            rows = [tuple(int(v) for v in row) for row in x]
            ms = np.array([judge.oracle.ms[row] for row in rows])
            error = [100 - (judge.read(row) or 0.0) if judge.fits(row) else 100.0 for row in rows]
            out["F"], out["G"] = np.column_stack([error, ms]), (ms / judge.budget - 1)[:, None]

    starts = [v for v in judge.oracle.ms if judge.fits(v)]
    first = np.array(rng.sample(starts, min(POPULATION, len(starts), judge.allowed)))
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=first,
        crossover=UX(prob=0.9),
        mutation=PM(prob=1.0, prob_var=1 / 8, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
        repair=RoundingRepair(),
    )
    algorithm.setup(Networks(), termination=("n_gen", 500), seed=rng.randrange(1 << 30), verbose=False)
    while algorithm.has_next() and not judge.spent:
        algorithm.next()


METHODS: dict[str, Callable[[Judge, random.Random], None]] = {
    "random": random_search,
    "local search": local_search,
    "NSGA-II": nsga2,
    "local, up to 3": local_search_3,
    "RCAS + random exchange": exchange_at_random,
}


def budgets_of(oracle: Oracle) -> list[float]:
    """Return the budgets: evenly between the fastest network and the slowest."""
    low, high = min(oracle.ms.values()), max(oracle.ms.values())
    return [low + (high - low) * k / (BUDGETS + 1) for k in range(1, BUDGETS + 1)]


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--table", type=Path, help="a table of nas-bench-macro on this machine; else one is measured")
    options.add_argument("--profile-seconds", type=float, default=150.0)
    options.add_argument("--measure-seconds", type=float, default=60.0, help="for the networks found")
    given = options.parse_args()
    if not FILE.exists():
        raise SystemExit(f"skipped: {FILE} is not there (LATENCY_LUT_DATA names the folder)")
    table = LatencyTable.load(given.table) if given.table is not None else measured_table(given.profile_seconds)
    predictor = LatencyPredictor.fit(table, sources=["nas-bench-macro"])
    accuracies = load_accuracies(FILE)
    oracle = make_oracle(predictor, accuracies)
    rows, figures = [], []
    chosen: dict[Vector, float] = {}
    for budget in budgets_of(oracle):
        best = oracle.optimum(budget)
        greedy = searched(oracle, budget, RcasSettings())
        plain, plain_used, saved = greedy.value, greedy.evaluated, greedy.plain - greedy.evaluated
        exchanged = searched(oracle, budget, exchanging(oracle))
        found, used, rule = exchanged.value, exchanged.evaluated, exchanged.rule
        chosen[exchanged.vector] = budget
        regrets: dict[str, list[float]] = {}
        for name, method in METHODS.items():
            regrets[name] = []
            for seed in range(SEEDS):
                judge = Judge(oracle, budget, used)
                method(judge, random.Random(f"{name} {seed}"))
                assert len(judge.seen) <= used
                regrets[name].append(best - judge.best)
        rows.append(
            [
                f"{budget:.2f}",
                f"{best:.2f}",
                f"{best - plain:.2f}",
                str(plain_used),
                str(saved),
                f"{best - found:.2f}",
                str(used),
                *(f"{statistics.fmean(r):.2f} ({max(r):.2f})" for r in regrets.values()),
            ]
        )
        figures.append(
            {
                "budget_ms": budget,
                "networks_within": sum(ms <= budget for ms in oracle.ms.values()),
                "optimum": best,
                "rcas": {"regret": best - plain, "evaluated": plain_used, "saved_by_laziness": saved},
                "rcas_exchange": {"regret": best - found, "evaluated": used, "rule": rule},
                "others": regrets,
            }
        )
    header = ["budget ms", "optimum %", "RCAS", "evaluated", "saved", "+ exchange", "evaluated", *METHODS]
    title = f"points below the optimum, {table.setting}; of {SEEDS} seeds the mean (worst)"
    print_table(title, header, rows)
    means = {
        "RCAS": statistics.fmean(f["rcas"]["regret"] for f in figures),
        "RCAS + exchange": statistics.fmean(f["rcas_exchange"]["regret"] for f in figures),
        **{name: statistics.fmean(statistics.fmean(f["others"][name]) for f in figures) for name in METHODS},
    }
    print("mean over budgets: " + ", ".join(f"{name} {value:.3f}" for name, value in means.items()))
    worst = {name: max(f[name]["regret"] for f in figures) for name in ("rcas", "rcas_exchange")}
    different = len({oracle.space.canonical(vector) for vector in oracle.ms})
    most = max(f["rcas_exchange"]["evaluated"] for f in figures)
    print(
        f"worst: RCAS {worst['rcas']:.2f}, with the exchange {worst['rcas_exchange']:.2f} (aim: {AIM} at every "
        f"budget); at most {most} networks evaluated, {most / len(oracle.accuracy):.2%} of the space's "
        f"{len(oracle.accuracy):,} (of its {different:,} different ones {most / different:.1%})"
    )
    measured = _measured(oracle, chosen, given.measure_seconds)
    others = {}
    for session in read_sessions():
        if session.file.space == "macro":
            other = make_oracle(LatencyPredictor.fit(table_of(session, "in_context")), accuracies)
            found_there = [
                other.optimum(budget) - searched(other, budget, exchanging(other)).value for budget in budgets_of(other)
            ]
            others[session.name] = {"mean": statistics.fmean(found_there), "worst": max(found_there)}
            print(f"{session.name}, recorded: mean {others[session.name]['mean']:.3f}, worst {max(found_there):.2f}")
    grown = measure_submodularity(
        NetworkResources(oracle.space, None),
        lambda networks: [oracle.accuracy[tuple(map(int, network.name))] for network in networks],
        networks=GROWN,
        blocks=7,
        seed=0,
    )
    print(
        f"{GROWN} random networks, block by block: {', '.join(f'{step.mean:.2f}' for step in grown.steps)} %; "
        f"diminishing returns broken in {grown.diminishing_broken:.1%} of {grown.triples} triples, monotonicity in "
        f"{grown.monotone_broken:.1%} of {grown.additions} additions"
    )
    held = predictor.held_out_networks
    print(
        f"latencies: whole networks that had no part in the calibration are off by {held.mape or 0:.1%} on average, "
        f"Kendall tau {held.kendall_tau or 0:.2f}"
    )
    write_results(
        given.results,
        "rcas_oracle",
        {
            "setting": str(table.setting),
            "networks": len(oracle.accuracy),
            "budgets": figures,
            "mean_regret": means,
            "worst_regret": worst,
            "most_evaluated": most,
            "recorded_sessions": others,
            "measured": measured,
            "held_out_networks": held,
            "submodularity": grown,
        },
    )


def _measured(oracle: Oracle, chosen: dict[Vector, float], seconds: float) -> list[dict[str, Any]]:
    """Measure the networks that RCAS with the exchange found, in turns."""
    networks = [oracle.space.decode(vector) for vector in chosen]
    predictor = oracle.predictor
    compared = compare_networks(networks, setting=predictor.setting, device=predictor.device, time_budget_s=seconds)
    found = []
    for (vector, budget), seen in zip(chosen.items(), compared.networks, strict=True):
        found.append(
            {"network": seen.name, "budget_ms": budget, "predicted_ms": oracle.ms[vector], "measured_ms": seen.ms}
        )
    errors = [one["predicted_ms"] / one["measured_ms"] - 1 for one in found]
    most = max(one["measured_ms"] / one["budget_ms"] - 1 for one in found)
    within = sum(one["measured_ms"] <= one["budget_ms"] for one in found)
    print(
        f"the networks found, measured in turns: predictions off by {min(errors):+.1%} to {max(errors):+.1%}; {within} "
        f"of {len(found)} within their budget, the worst {most:+.1%} off it"
    )
    return found


def measured_table(seconds: float) -> LatencyTable:
    """Measure the space's layers, and some of its networks whole."""
    space, rng = NasBenchMacro(), random.Random(0)
    networks = [space.decode(space.sample(rng)) for _ in range(AUDITED)]
    return profile([*space.layers(), *networks], target="cpu", batch=4, threads=1, time_budget_s=seconds)


if __name__ == "__main__":
    main()

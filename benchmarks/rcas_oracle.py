"""RCAS where every answer is known: NAS-Bench-Macro's accuracies under ten budgets of this machine's latency.

Each of the 3,969 different networks was trained three times on CIFAR-10 by the benchmark's authors. A search here
sees the accuracies of one training; what it found is judged by the mean of the other two, which no search was told
and nobody tuned the exchange on. Accuracies are of the best epoch by the test images: differences under 0.3 points
are noise. Latencies are sums of the blocks measured here, calibrated on whole networks. So the optimum under each
budget is known, by these predictions; the networks found are measured beside the most accurate ones that the
predictor takes to be as fast, and their regret is told at what they take as measured.

RCAS as its paper has it, and with the exchange at its end, are held against random search, pymoo's genetic algorithm
and NSGA-II, regularised evolution (Real et al. 2019) and local search with restarts, each allowed as many evaluations
as RCAS with the exchange used at that budget; and, to see what the exchange owes to what, against its neighbourhood
alone (restarts, no greedy path) and its neighbourhood in random order after the greedy paths. Latency costs nothing
to ask for, so none of them spends an evaluation on a network beyond the budget. What is random runs with twenty
seeds.

The exchange was made by looking at the means of all three trainings, with the latencies of the recorded sessions in
``sessions/``, one of which is of ONNX Runtime; what it reaches there is printed too.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from _common import parser, print_table, write_results
from _search import DATA
from _sessions import read_sessions, table_of

from lut import LatencyTable
from predictors import LatencyPredictor
from profiler import compare_networks, profile
from search import Problem, evolution, rcas
from search.spaces import NasBenchMacro

FILE = DATA / "nas-bench-macro" / "nas-bench-macro_cifar10.json"
BUDGETS = 10
# Evaluations at most: 2 % of the space's 6,561 names, 3.3 % of its 3,969 different networks.
EVALUATIONS = 131
# Points of accuracy: what is to be reached at every budget.
AIM = 0.3
POPULATION = 20
SEEDS = 20
AUDITED = 24
# Networks measured beside each one found: the most accurate of those predicted to be as fast.
RIVALS = 5
# Random networks that are grown, as many as in the paper.
GROWN = 500

Vector = tuple[int, ...]


class Oracle(NamedTuple):
    """What is known of each network: its latency in ms, its accuracy in % as a search sees it, and as it is judged."""

    space: NasBenchMacro
    predictor: LatencyPredictor
    seen: dict[Vector, float]
    accuracy: dict[Vector, float]
    ms: dict[Vector, float]

    def optimum(self, budget: float) -> float:
        """Return the best accuracy within a budget."""
        return max(self.accuracy[v] for v, ms in self.ms.items() if ms <= budget)

    def best_seen(self, budget: float) -> float:
        """Return what the network is worth that is best by what a search sees: no search that sees all does better."""
        return self.accuracy[max((v for v, ms in self.ms.items() if ms <= budget), key=self.seen.__getitem__)]


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
        """Return what the network is worth that has the best accuracy read."""
        return self.oracle.accuracy[max(self.seen, key=self.seen.__getitem__)]

    def fits(self, vector: Sequence[int]) -> bool:
        """Whether a network is within the budget."""
        return self.oracle.ms[tuple(vector)] <= self.budget

    def read(self, vector: Sequence[int]) -> float | None:
        """Return a network's accuracy, or ``None`` where no more may be read."""
        key = self.oracle.space.canonical(vector)
        if key not in self.seen:
            if self.spent:
                return None
            self.seen[key] = self.oracle.seen[key]
        return self.seen[key]


class _Entry(msgspec.Struct):
    """A network in the benchmark's file: the test accuracies of its trainings, in %."""

    test_acc: tuple[float, float, float]


def trainings() -> dict[str, tuple[float, float, float]]:
    """Return the accuracies of all networks' three trainings, in %, by name."""
    found = msgspec.json.decode(FILE.read_bytes(), type=dict[str, _Entry])
    return {name: entry.test_acc for name, entry in found.items()}


def make_oracle(
    predictor: LatencyPredictor, known: dict[str, tuple[float, float, float]], training: int | None = 0
) -> Oracle:
    """Return all accuracies and latencies; a search sees one training and is judged by the others, or sees the mean."""
    space = NasBenchMacro()
    vectors = list(itertools.product(range(3), repeat=8))
    ms = predictor.compile(space).latency(np.array(vectors))
    names = {v: known["".join(map(str, v))] for v in vectors}
    seen = {v: statistics.fmean(three) if training is None else three[training] for v, three in names.items()}
    judged = {
        v: statistics.fmean(value for i, value in enumerate(three) if i != training) for v, three in names.items()
    }
    return Oracle(
        space,
        predictor,
        seen,
        judged,
        dict(zip(vectors, map(float, ms), strict=True)),
    )


def searched(oracle: Oracle, budget: float, settings: rcas.Settings) -> Any:
    """Run RCAS; returns its course."""
    problem = Problem(oracle.space, oracle.predictor, ms=budget, bound="predicted")
    return rcas.search(problem, lambda network: oracle.seen[tuple(map(int, network.name))], settings=settings).course


def exchanging() -> rcas.Settings:
    """Return RCAS's settings with the exchange, and as many evaluations as are allowed."""
    return rcas.Settings(exchange=True, evaluations=EVALUATIONS)


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
    found = searched(judge.oracle, judge.budget, rcas.Settings())
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


def genetic(judge: Judge, rng: random.Random) -> None:
    """Run the library's evolution: pymoo's genetic algorithm over mixed variables, under the budget."""
    oracle = judge.oracle
    problem = Problem(oracle.space, oracle.predictor, ms=judge.budget, bound="predicted")
    settings = evolution.Settings(population=POPULATION, evaluations=judge.allowed, finalists=0)
    found = evolution.search(
        problem,
        lambda network: oracle.seen[tuple(map(int, network.name))],
        settings=settings,
        seed=rng.randrange(1 << 30),
    )
    for vector in list(found.knowledge.values)[: judge.allowed]:  # type: ignore[attr-defined]
        judge.read(vector)


def regularised(judge: Judge, rng: random.Random) -> None:
    """Run regularised evolution: the youngest networks live, a parent is the best of a sample, one position mutates."""
    canonical = judge.oracle.space.canonical
    starts = sorted({canonical(v) for v in judge.oracle.ms if judge.fits(v)})
    alive = rng.sample(starts, min(POPULATION, len(starts), judge.allowed))
    for vector in alive:
        judge.read(vector)
    # Children that were read before cost nothing, so that steps are bounded by another number.
    for _ in range(100 * judge.allowed):
        sample = rng.sample(alive, min(5, len(alive)))
        parent = max(sample, key=judge.seen.__getitem__)
        child = list(parent)
        child[rng.randrange(8)] = rng.randrange(3)
        if not judge.fits(child):
            continue
        if judge.read(child) is None:
            return
        alive = [*alive[1:], canonical(child)]


METHODS: dict[str, Callable[[Judge, random.Random], None]] = {
    "random": random_search,
    "local search": local_search,
    "GA": genetic,
    "NSGA-II": nsga2,
    "regularised": regularised,
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
    accuracies = trainings()
    oracle = make_oracle(predictor, accuracies)
    rows, figures = [], []
    chosen: dict[Vector, float] = {}
    for budget in budgets_of(oracle):
        best = oracle.optimum(budget)
        greedy = searched(oracle, budget, rcas.Settings())
        plain, plain_used, saved = oracle.accuracy[greedy.vector], greedy.evaluated, greedy.plain - greedy.evaluated
        exchanged = searched(oracle, budget, exchanging())
        found, used, rule = oracle.accuracy[exchanged.vector], exchanged.evaluated, exchanged.rule
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
                f"{best - oracle.best_seen(budget):.2f}",
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
                "exhaustive": best - oracle.best_seen(budget),
                "rcas": {"regret": best - plain, "evaluated": plain_used, "saved_by_laziness": saved},
                "rcas_exchange": {"regret": best - found, "evaluated": used, "rule": rule},
                "others": regrets,
            }
        )
    header = ["budget ms", "optimum %", "all", "RCAS", "evaluated", "saved", "+ exchange", "evaluated", *METHODS]
    title = f"points below the optimum, {table.setting}; of {SEEDS} seeds the mean (worst)"
    print_table(title, header, rows)
    means = {
        "all evaluated": statistics.fmean(f["exhaustive"] for f in figures),
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
        f"budget); at most {most} networks evaluated, {most / different:.1%} of the space's {different:,} different "
        "ones"
    )
    measured = _measured(oracle, chosen, given.measure_seconds)
    others = {}
    for session in read_sessions():
        if session.file.space == "macro":
            other = make_oracle(LatencyPredictor.fit(table_of(session, "in_context")), accuracies)
            found_there = [
                other.optimum(budget) - other.accuracy[searched(other, budget, exchanging()).vector]
                for budget in budgets_of(other)
            ]
            others[session.name] = {"mean": statistics.fmean(found_there), "worst": max(found_there)}
            print(f"{session.name}, recorded: mean {others[session.name]['mean']:.3f}, worst {max(found_there):.2f}")
    mean_of_three = make_oracle(predictor, accuracies, None)
    grown = rcas.measure_submodularity(
        Problem(oracle.space),
        lambda networks: [mean_of_three.seen[tuple(map(int, network.name))] for network in networks],
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
            "networks": different,
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
    """Measure the networks that RCAS with the exchange found, beside the best that are predicted to be as fast."""
    canonical = oracle.space.canonical
    rivals: dict[Vector, None] = {}
    for vector in chosen:
        near = {canonical(v) for v, ms in oracle.ms.items() if ms <= 1.03 * oracle.ms[vector]}
        rivals.update(dict.fromkeys(sorted(near, key=lambda v: -oracle.accuracy[v])[:RIVALS]))
    wanted = list(dict.fromkeys([*chosen, *rivals]))
    predictor = oracle.predictor
    compared = compare_networks(
        [oracle.space.decode(vector) for vector in wanted],
        setting=predictor.setting,
        device=predictor.device,
        time_budget_s=seconds,
    )
    measured = {vector: seen.ms for vector, seen in zip(wanted, compared.networks, strict=True)}
    found = []
    for vector, budget in chosen.items():
        best = max(oracle.accuracy[v] for v, ms in measured.items() if ms <= measured[vector])
        found.append(
            {
                "network": "".join(map(str, vector)),
                "budget_ms": budget,
                "predicted_ms": oracle.ms[vector],
                "measured_ms": measured[vector],
                "regret_at_measured": best - oracle.accuracy[vector],
            }
        )
    errors = [one["predicted_ms"] / one["measured_ms"] - 1 for one in found]
    most = max(one["measured_ms"] / one["budget_ms"] - 1 for one in found)
    within = sum(one["measured_ms"] <= one["budget_ms"] for one in found)
    regrets = [one["regret_at_measured"] for one in found]
    print(
        f"the networks found, measured interleaved: predictions off by {min(errors):+.1%} to {max(errors):+.1%}; "
        f"{within} of {len(found)} within their budget, the worst {most:+.1%} off it; at what they take as measured "
        f"{statistics.fmean(regrets):.2f} points below the best network measured (worst {max(regrets):.2f})"
    )
    return found


def measured_table(seconds: float) -> LatencyTable:
    """Measure the space's layers, and some of its networks whole."""
    space, rng = NasBenchMacro(), random.Random(0)
    networks = [space.decode(space.sample(rng)) for _ in range(AUDITED)]
    return profile([*space.layers(), *networks], target="cpu", batch=4, threads=1, time_budget_s=seconds)


if __name__ == "__main__":
    main()

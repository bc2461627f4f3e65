"""Whether found networks keep their budget when they are measured, before verify and repair and after.

Searches are run for ten budgets of milliseconds and five seeds on two spaces: NAS-Bench-Macro, whose accuracies on
CIFAR-10 are known, and CIFAR ResNet-20s of HTAS's width ratios, with a stand-in accuracy that grows with each
decision by less and less (made by a seed; nothing is trained). The predictor is fitted to a standard table with its
audit, and calibrated on 24 networks of the space as the command does. What each search chose first is measured, and
repaired as every run does; all searches' networks of a round are measured in one interleaved session, so that
hundreds of verifications take minutes. Then all winners, those before repair and those after, are measured again in
another session: the share that keeps the budget there is the figure. A network counts as within when its measured
median is; raw: as the clock gave it, without the sentinels.

RCAS, with and without its exchange, evolution, and random search choose among networks that they evaluated; HTAS by
gradients from logits that were learnt by descent on the stand-in accuracy with the penalty of its paper, and HTAS's
evolution by the same accuracies.
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
import torch
from _common import parser, print_table, write_results
from _search import DATA
from _spaces import stand_in, table_of

from lut import LatencyTable, Network, SearchSpace
from lut.errors import BudgetError
from predictors import LatencyPredictor
from profiler import compare_networks
from search import Found, Problem, evolution, htas, rcas, verify
from search.spaces import NasBenchMacro, ResNetCifar, load_accuracies, ratio_widths

FILE = DATA / "nas-bench-macro" / "nas-bench-macro_cifar10.json"
BUDGETS, SEEDS = 10, 5
EVALUATIONS = 120
# Descent on the stand-in accuracy, in place of an HTAS search that trains.
STEPS, RATE, WEIGHT = 300, 0.1, 2.0
# Rounds of a verification: the first and three repairs.
ROUNDS = 4

Vector = tuple[int, ...]
Search = Callable[[Problem, int], Found]


class Task(NamedTuple):
    """A search for a budget by a seed."""

    space: str
    search: str
    budget_ms: float
    seed: int


class NeededError(Exception):
    """Networks that a verification asks for and nobody has measured yet."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks


class Pool:
    """Measures networks once each, all that are asked for in one session; stands in for ``compare_networks``."""

    def __init__(self, seconds_each: float) -> None:
        self.seconds_each = seconds_each
        self.known: dict[tuple[Any, ...], Any] = {}
        self.wanted: dict[tuple[Any, ...], Network] = {}
        self.sessions = 0
        self.at_reference = True

    def compare(self, networks: Sequence[Network], **_: Any) -> Any:
        """Return what is known of networks, or ask for them."""
        missing = [network for network in networks if network.layers not in self.known]
        if missing:
            raise NeededError(missing)
        from profiler._compare import NetworkComparison

        known = [self.known[network.layers] for network in networks]
        return NetworkComparison(
            device=self.device,
            setting=self.setting,
            networks=tuple(one._replace(name=network.name) for network, (one, _) in zip(networks, known, strict=True)),
            visits=tuple(visits for _, visits in known),
            measuring_s=0.0,
            at_reference=self.at_reference,
        )

    def want(self, networks: Sequence[Network]) -> None:
        """Remember what is to be measured."""
        for network in networks:
            self.wanted.setdefault(network.layers, network)

    def measure(self, predictor: LatencyPredictor, seed: int) -> None:
        """Measure all that is wanted in one session."""
        self.device, self.setting = predictor.device, predictor.setting
        if not self.wanted:
            return
        networks = [Network(f"network {i}", layers) for i, layers in enumerate(self.wanted)]
        seconds = max(30.0, self.seconds_each * len(networks))
        print(f"measuring {len(networks)} networks for up to {seconds:.0f} s", file=sys.stderr, flush=True)
        found = compare_networks(
            networks, setting=predictor.setting, device=predictor.device, time_budget_s=seconds, seed=seed
        )
        self.at_reference = self.at_reference and found.at_reference
        self.sessions += 1
        for network, one, visits in zip(networks, found.networks, found.visits, strict=True):
            self.known[network.layers] = (one, visits)
        self.wanted.clear()


# --- what is searched ---


def gradient(problem: Problem, utilities: Sequence[np.ndarray[Any, Any]], seed: int) -> Found:
    """Learn logits by descent: utility up, TAS's band penalty around the budget; discretise as HTAS does."""
    from search._runs._found import Candidate
    from search.htas._charge import make_charge

    generator = torch.Generator().manual_seed(seed)
    logits = [(0.01 * torch.randn(len(u), generator=generator)).requires_grad_() for u in utilities]
    tensors = [torch.tensor(u, dtype=torch.float32) for u in utilities]
    charge = make_charge(problem)
    settings = htas.Settings(penalty="band", weight=WEIGHT)
    optimizer = torch.optim.Adam(logits, lr=RATE, betas=(0.5, 0.999), weight_decay=1e-3)
    for _ in range(STEPS):
        p = [torch.softmax(own, -1) for own in logits]
        most = tuple(int(own.argmax()) for own in logits)
        loss = -4 * sum((q * u).sum() for q, u in zip(p, tensors, strict=True))
        loss = loss + charge.penalty(p, most, settings)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    knowledge = htas.Logits([torch.softmax(own.detach().double(), -1).numpy() for own in logits])
    best = knowledge.candidates(problem, 1)
    if not best:
        problem.check_budgets()
    return Found("htas", problem, (Candidate(best[0].vector, best[0].value),), knowledge, 0, 0.0)


def searches_of(space: SearchSpace, accuracies: Mapping[str, float] | None) -> dict[str, Search]:
    """Return a space's searches."""

    def known(seed: int) -> Callable[[Network], float]:
        if accuracies is not None:
            return lambda network: accuracies[network.name]
        by_layers: dict[Any, float] = {}
        _, accuracy = stand_in(space, seed)
        return lambda network: by_layers.setdefault(network.layers, accuracy(vector_of[network.layers]))

    vector_of: dict[Any, Vector] = {}

    def remembered(problem: Problem) -> Problem:
        # A ResNet's name does not say its vector; the stand-in accuracy is of the vector.
        plain = problem.network

        def network(vector: Sequence[int]) -> Network:
            found = plain(vector)
            vector_of[found.layers] = problem.canonical(vector)
            return found

        problem.network = network  # type: ignore[method-assign]
        return problem

    def bred(strategy: str) -> Search:
        settings = evolution.Settings(strategy=strategy, population=20, evaluations=EVALUATIONS, finalists=0)
        return lambda problem, seed: evolution.search(remembered(problem), known(seed), settings=settings, seed=seed)

    def greedy(settings: rcas.Settings) -> Search:
        return lambda problem, seed: rcas.search(problem, shifted(known(seed), seed), settings=settings)

    def shifted(accuracy: Callable[[Network], float], seed: int) -> Callable[[Network], float]:
        # RCAS has no seed: a seed is other noise of the accuracies, of 0.2 points as between trainings.
        def value(network: Network) -> float:
            return accuracy(network) + 0.002 * random.Random(f"{seed} {network.name}").gauss(0, 1)

        return value

    if accuracies is not None:
        exchange = rcas.Settings(exchange=True, evaluations=EVALUATIONS)
        return {
            "RCAS": greedy(rcas.Settings()),
            "RCAS + exchange": greedy(exchange),
            "evolution": bred("evolution"),
            "random": bred("random"),
        }
    return {
        "HTAS gradient": lambda problem, seed: gradient(problem, stand_in(space, seed)[0], seed),
        "HTAS evolution": bred("evolution"),
        "random": bred("random"),
    }


# --- the experiment ---


def budgets_of(problem: Problem, count: int) -> list[float]:
    """Return budgets, evenly between the smallest network and the largest."""
    low = problem.ms(problem.replace(ms=1e6, bound="predicted").smallest())
    high = problem.ms([len(decision.options) - 1 for decision in problem.space.choices])
    return [low + (high - low) * k / (count + 1) for k in range(1, count + 1)]


def value_of(task: Task, vector: Vector, space: SearchSpace, accuracies: Mapping[str, float] | None) -> float:
    """Return a network's accuracy, in points."""
    if accuracies is not None:
        return 100 * accuracies[space.decode(vector).name]
    return 100 * stand_in(space, task.seed)[1](vector)


def verified(pool: Pool, found: Mapping[Task, Found]) -> dict[Task, Any]:
    """Verify and repair all that was found, all tasks in step, each session shared."""
    done: dict[Task, Any] = {}
    for number in range(ROUNDS + 1):
        for task, one in found.items():
            if task in done:
                continue
            try:
                done[task] = verify(one, seconds=1.0, seed=0, compare=pool.compare)
            except NeededError as needed:
                pool.want(needed.networks)
            except BudgetError as error:
                done[task] = str(error)
        if len(done) == len(found):
            break
        predictor = next(iter(found.values())).problem.predictor
        assert predictor is not None
        pool.measure(predictor, seed=number)
    return done


def space_run(
    name: str,
    space: SearchSpace,
    table: LatencyTable,
    accuracies: Mapping[str, float] | None,
    given: Any,
) -> dict[str, Any]:
    """Run all searches of a space; return the figures."""
    predictor = LatencyPredictor.fit(table, sources=[name])
    problem = Problem(space, predictor).calibrated(count=24, seconds=given.calibrate_seconds)
    found: dict[Task, Found] = {}
    first: dict[Task, Found] = {}
    for search, run in searches_of(space, accuracies).items():
        for budget, seed in itertools.product(budgets_of(problem, given.budgets), range(given.seeds)):
            task = Task(name, search, budget, seed)
            try:
                found[task] = run(problem.replace(ms=budget), seed)
            except BudgetError:
                continue
            first[task] = found[task]
        print(f"{name}: {search} is done", file=sys.stderr, flush=True)
    pool = Pool(given.seconds_each)
    after = verified(pool, found)
    # Another session, for what each search chose before it was measured, and for what became of it.
    final = Pool(given.seconds_each)
    for task, one in first.items():
        final.want([one.networks[0]])
        if not isinstance(after[task], str):
            final.want([after[task][0].networks[0]])
    assert problem.predictor is not None
    final.measure(problem.predictor, seed=99)
    rows = [_row(task, one, after[task], pool, final, space, accuracies) for task, one in first.items()]
    return {"name": name, "at_reference": final.at_reference and pool.at_reference, "rows": rows}


def _row(
    task: Task,
    one: Found,
    after: Any,
    pool: Pool,
    final: Pool,
    space: SearchSpace,
    accuracies: Mapping[str, float] | None,
) -> dict[str, Any]:
    before_ms = final.known[one.networks[0].layers][0]
    row: dict[str, Any] = {
        **task._asdict(),
        "predicted_ms": one.problem.ms(one.vectors[0]),
        "bound_ms": one.problem.bound_ms(one.vectors[0]),
        "before_ms": before_ms.ms,
        "before_raw_ms": before_ms.raw_ms,
        "before_accuracy": value_of(task, one.vectors[0], space, accuracies),
        "after": None,
    }
    if not isinstance(after, str):
        repaired, verification = after
        seen = final.known[repaired.networks[0].layers][0]
        row["after"] = {
            "ms": seen.ms,
            "raw_ms": seen.raw_ms,
            "verified_ms": pool.known[repaired.networks[0].layers][0].ms,
            "accuracy": value_of(task, repaired.vectors[0], space, accuracies),
            "sessions": len(verification.rounds),
            "measured": len(verification.selected),
            "changed": repaired.vectors[0] != one.problem.canonical(one.vectors[0]),
        }
    return row


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a search's rows say."""
    kept = [row for row in rows if row["after"] is not None]

    def within(values: Sequence[float]) -> float:
        return statistics.fmean(values) if values else float("nan")

    errors = [row["predicted_ms"] / row["before_ms"] - 1 for row in rows]
    below = [1 - row["after"]["ms"] / row["budget_ms"] for row in kept]
    return {
        "runs": len(rows),
        "no_result": len(rows) - len(kept),
        "before": within([row["before_ms"] <= row["budget_ms"] for row in rows]),
        "before_raw": within([row["before_raw_ms"] <= row["budget_ms"] for row in rows]),
        "before_below": statistics.median(1 - row["before_ms"] / row["budget_ms"] for row in rows),
        "after": within([row["after"]["ms"] <= row["budget_ms"] for row in kept]),
        "after_raw": within([row["after"]["raw_ms"] <= row["budget_ms"] for row in kept]),
        "after_below": statistics.median(below) if below else None,
        "worst_beyond": max((-value for value in below), default=None),
        "accuracy_change": within([row["after"]["accuracy"] - row["before_accuracy"] for row in kept]),
        "mape": statistics.fmean(map(abs, errors)),
        "bias": statistics.fmean(errors),
        "sessions": within([row["after"]["sessions"] for row in kept]),
        "between_sessions": statistics.fmean(abs(row["after"]["ms"] / row["after"]["verified_ms"] - 1) for row in kept)
        if kept
        else None,
    }


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--budgets", type=int, default=BUDGETS)
    options.add_argument("--seeds", type=int, default=SEEDS)
    options.add_argument("--profile-seconds", type=float, default=150.0)
    options.add_argument("--calibrate-seconds", type=float, default=60.0)
    options.add_argument("--seconds-each", type=float, default=1.2, help="of measuring, for each network of a session")
    options.add_argument("--work", type=Path, default=Path("budget-hit-work"), help="folder that keeps the tables")
    options.add_argument("--spaces", default="nas-bench-macro,resnet-cifar")
    given = options.parse_args()
    wanted = given.spaces.split(",")
    found = []
    if "nas-bench-macro" in wanted and FILE.exists():
        space: SearchSpace = NasBenchMacro()
        found.append(
            space_run("nas-bench-macro", space, table_of(space, given, "nas-bench-macro"), load_accuracies(FILE), given)
        )
    if "resnet-cifar" in wanted:
        whole = ResNetCifar(depth=20, expand=1.0)
        space = ResNetCifar(depth=20, expand=1.0, widths=ratio_widths(whole), depths="tas")
        found.append(space_run("resnet-cifar", space, table_of(whole, given, "resnet-cifar"), None, given))
    if not found:
        raise SystemExit(f"skipped: {FILE} is not there (LATENCY_LUT_DATA names the folder)")
    figures, rows = [], []
    for part in found:
        for search in dict.fromkeys(row["search"] for row in part["rows"]):
            own = figures_of([row for row in part["rows"] if row["search"] == search])
            figures.append({"space": part["name"], "search": search, **own})
            rows.append(
                [
                    f"{part['name']}: {search}",
                    own["runs"],
                    f"{own['before']:.0%} ({own['before_raw']:.0%})",
                    f"{own['before_below']:+.1%}",
                    f"{own['after']:.0%} ({own['after_raw']:.0%})",
                    "–" if own["after_below"] is None else f"{own['after_below']:+.1%}",
                    "–" if own["worst_beyond"] is None else f"{own['worst_beyond']:+.1%}",
                    f"{own['accuracy_change']:+.2f}",
                    f"{own['mape']:.1%} ({own['bias']:+.1%})",
                    own["no_result"],
                ]
            )
    header = ["search", "runs", "within before (raw)", "below", "within after (raw)", "below", "worst", "points"]
    print_table(
        "within the budget as measured in another session", [*header, "selected predicted (bias)", "none"], rows
    )
    every = figures_of([row for part in found for row in part["rows"]])
    print(
        f"all: {every['before']:.1%} within before, {every['after']:.1%} after ({every['after_raw']:.1%} raw); median "
        f"{every['after_below']:.1%} below; {every['accuracy_change']:+.2f} points; selected networks predicted within "
        f"{every['mape']:.1%} (bias {every['bias']:+.1%}); two sessions differ by {every['between_sessions']:.1%}"
    )
    write_results(given.results, "budget_hit", {"figures": figures, "all": every, "runs": found})


if __name__ == "__main__":
    main()

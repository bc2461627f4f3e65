"""Whether found networks keep their budget when they are measured, before verify and repair and after.

Searches are run for ten budgets of milliseconds and five seeds on two spaces: NAS-Bench-Macro, whose accuracies on
CIFAR-10 are known, and CIFAR ResNet-20s of HTAS's width ratios, with a stand-in accuracy that grows with each
decision by less and less (made by a seed; nothing is trained). The predictor is fitted to a standard table with its
audit, and calibrated on 24 networks of the space as the command does. What each search chose first is measured, and
repaired as every run does; all searches' networks of a round are measured in one interleaved session, so that
hundreds of verifications take minutes. Then all winners, those before repair and those after, are measured again in
another session: the share that keeps the budget there is the figure. A network counts as within when its measured
median is. Raw: as the clock gave it. By sentinels: brought to the reference speed by the table's sentinels. At the
calibration's speed: as a run judges, by the eight networks of its calibration that take about as long as the budget;
all of these are measured in every session.

RCAS, with and without its exchange, evolution, and random search choose among networks that they evaluated; HTAS by
gradients from logits that were learnt by descent on the stand-in accuracy with the penalty of its paper, and HTAS's
evolution by the same accuracies.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from _common import parser, print_table, write_results
from _search import DATA
from _spaces import stand_in, table_of

from lut import LatencyTable, Network, SearchSpace
from lut.errors import BudgetError
from predictors import LatencyPredictor
from profiler import compare_networks
from profiler._compare import ComparedNetwork, ComparedVisits, NetworkComparison, Ratio
from search import Found, Problem, evolution, htas, rcas, verify
from search._runs._anchors import ANCHORS, Anchor, Speed, speed_of
from search.spaces import NasBenchMacro, ResNetCifar, load_accuracies, ratio_widths

FILE = DATA / "nas-bench-macro" / "nas-bench-macro_cifar10.json"
BUDGETS, SEEDS = 10, 5
EVALUATIONS = 120
# Descent on the stand-in accuracy, in place of an HTAS search that trains.
STEPS, RATE, WEIGHT = 300, 0.1, 2.0

Vector = tuple[int, ...]
# Networks of a session, by their layers.
Session = dict[tuple[Any, ...], tuple[ComparedNetwork, ComparedVisits]]
Search = Callable[[Problem, int], Found]


class Task(NamedTuple):
    """A search for a budget by a seed."""

    space: str
    search: str
    budget_ms: float
    seed: int


class Pooled(NetworkComparison):
    """Networks of a session that was many verifications': how many times as long one takes needs no interval here."""

    def ratio(self, slow: int | str, fast: int | str) -> Ratio:
        """Return the ratio of the medians."""
        value = self.networks[int(slow)].ms / self.networks[int(fast)].ms
        return Ratio(value, value, value)


class Pool:
    """Measures what all verifications ask for at a time in one session; stands in for ``compare_networks``.

    Each verification has a thread, which waits until all others wait, too, or are done: nothing is computed meanwhile.
    """

    def __init__(self, predictor: LatencyPredictor, seconds_each: float, always: Sequence[Network]) -> None:
        self.predictor, self.seconds_each = predictor, seconds_each
        # The networks of the calibration: of what a session measures they are always a part.
        self.always = always
        self.sessions: list[Session] = []
        self.wanted: dict[tuple[Any, ...], Network] = {}
        self.at_reference = True
        self._condition = threading.Condition()
        # As many as compute at a time: BLAS has not memory for hundreds.
        self._computing = threading.BoundedSemaphore(2)
        # Threads at work, and threads that wait for a session.
        self._running = self._waiting = 0

    def compare(self, networks: Sequence[Network], **_: Any) -> NetworkComparison:
        """Wait for the next session, and return what it measured of these networks."""
        with self._condition:
            self.want(networks)
            number = len(self.sessions)
            self._running -= 1
            self._waiting += 1
            self._computing.release()
            self._condition.notify_all()
            self._condition.wait_for(lambda: len(self.sessions) > number)
            self._waiting -= 1
            session = self.sessions[number]
        self._computing.acquire()
        known = [session[network.layers] for network in networks]
        return Pooled(
            device=self.predictor.device,
            setting=self.predictor.setting,
            networks=tuple(one._replace(name=network.name) for network, (one, _) in zip(networks, known, strict=True)),
            visits=tuple(visits for _, visits in known),
            measuring_s=0.0,
            at_reference=self.at_reference,
        )

    def run(self, several: Sequence[Callable[[], Any]]) -> list[Any]:
        """Return what functions return that call :meth:`compare`, all of which are measured in the same sessions."""
        self._running = len(several)

        def one(function: Callable[[], Any]) -> Any:
            self._computing.acquire()
            try:
                return function()
            finally:
                self._computing.release()
                with self._condition:
                    self._running -= 1
                    self._condition.notify_all()

        with ThreadPoolExecutor(len(several)) as threads:
            futures = [threads.submit(one, function) for function in several]
            while not all(future.done() for future in futures):
                with self._condition:
                    self._condition.wait_for(lambda: self._running == 0)
                    if self.wanted:
                        self.measure()
                        self._running = self._waiting
                        self._condition.notify_all()
            return [future.result() for future in futures]

    def want(self, networks: Sequence[Network]) -> None:
        """Remember what is to be measured."""
        for network in networks:
            self.wanted.setdefault(network.layers, network)

    def measure(self) -> None:
        """Measure all that is wanted in one session."""
        self.want(self.always)
        networks = [Network(f"network {i}", layers) for i, layers in enumerate(self.wanted)]
        seconds = max(30.0, self.seconds_each * len(networks))
        print(f"measuring {len(networks)} networks for up to {seconds:.0f} s", file=sys.stderr, flush=True)
        found = compare_networks(
            networks,
            setting=self.predictor.setting,
            device=self.predictor.device,
            time_budget_s=seconds,
            seed=len(self.sessions),
        )
        self.at_reference = self.at_reference and found.at_reference
        several = zip(networks, found.networks, found.visits, strict=True)
        self.sessions.append({network.layers: (one, visits) for network, one, visits in several})
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

    def bred(strategy: Literal["evolution", "random"]) -> Search:
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


def best_below(problem: Problem, accuracies: Mapping[str, float], count: int) -> list[float]:
    """Return how far below each budget the most accurate network of all is that is predicted within it, as a share.

    No search comes nearer to its budget than that but by a worse network.
    """
    space = problem.space
    vectors = list(itertools.product(*(range(len(decision.options)) for decision in space.choices)))
    ms = problem.latency.values(np.array(vectors))
    values = np.array([accuracies[space.decode(vector).name] for vector in vectors])
    found = []
    for budget in budgets_of(problem, count):
        within = ms <= budget
        best = values[within].max()
        found.append(float(1 - ms[within][values[within] == best].min() / budget))
    return found


def value_of(task: Task, vector: Vector, space: SearchSpace, accuracies: Mapping[str, float] | None) -> float:
    """Return a network's accuracy, in points."""
    if accuracies is not None:
        return 100 * accuracies[space.decode(vector).name]
    return 100 * float(stand_in(space, task.seed)[1](vector))


def verified(pool: Pool, found: Mapping[Task, Found]) -> dict[Task, Any]:
    """Verify and repair all that was found, all tasks in step, each session shared."""

    def one(found: Found) -> Any:
        try:
            return verify(found, seconds=1.0, seed=0, compare=pool.compare)
        except BudgetError as error:
            return str(error)

    return dict(zip(found, pool.run([partial(one, own) for own in found.values()]), strict=True))


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
    assert problem.predictor is not None
    anchors = problem.calibration
    pool = Pool(problem.predictor, given.seconds_each, [network for network, _ in anchors])
    after = verified(pool, found)
    # Another session, for what each search chose before it was measured, and for what became of it.
    for task, one in first.items():
        pool.want([one.networks[0]])
        if not isinstance(after[task], str):
            pool.want([after[task][0].networks[0]])
    pool.measure()
    final = pool.sessions[-1]
    speeds = [speed_near(session, anchors, len(anchors)) for session in pool.sessions]
    rows = []
    for task, one in first.items():
        slower = speed_near(final, anchors, ANCHORS, task.budget_ms).slower
        rows.append(_row(task, one, after[task], final, slower, space, accuracies))
    return {
        "name": name,
        "at_reference": pool.at_reference,
        "networks": [len(session) for session in pool.sessions],
        "anchors": [
            {"known_ms": ms, "ms": [session[network.layers][0].ms for session in pool.sessions]}
            for network, ms in anchors
        ],
        "slower_than_calibration": [speed.slower - 1 for speed in speeds],
        "scatter": [speed.scatter for speed in speeds],
        "best_below": None if accuracies is None else best_below(problem, accuracies, given.budgets),
        "rows": rows,
    }


def speed_near(
    session: Session, anchors: Sequence[tuple[Network, float]], count: int, near_ms: float | None = None
) -> Speed:
    """Return a session's speed by as many anchors, those that take about as long as a budget."""
    ranked = sorted(anchors, key=lambda one: 0.0 if near_ms is None else abs(math.log(one[1] / near_ms)))
    speed = speed_of([Anchor(ms, session[network.layers][0].ms) for network, ms in ranked[:count]])
    assert speed is not None
    return speed


def _row(
    task: Task,
    one: Found,
    after: Any,
    final: Session,
    slower: float,
    space: SearchSpace,
    accuracies: Mapping[str, float] | None,
) -> dict[str, Any]:
    before, _ = final[one.networks[0].layers]
    row: dict[str, Any] = {
        **task._asdict(),
        "vector": "".join(map(str, one.vectors[0])),
        "predicted_ms": one.problem.ms(one.vectors[0]),
        "bound_ms": one.problem.bound_ms(one.vectors[0]),
        "before_ms": before.ms / slower,
        "before_sentinels_ms": before.ms,
        "before_raw_ms": before.raw_ms,
        "before_accuracy": value_of(task, one.vectors[0], space, accuracies),
        "after": None,
    }
    if not isinstance(after, str):
        repaired, verification = after
        seen = final[repaired.networks[0].layers][0]
        checked = verification.checked(repaired.vectors[0])
        row["after"] = {
            "vector": "".join(map(str, repaired.vectors[0])),
            "ms": seen.ms / slower,
            "sentinels_ms": seen.ms,
            "raw_ms": seen.raw_ms,
            "verified_ms": checked.timed.ms,
            "verified_high_ms": checked.timed.high_ms,
            "verified_sessions": len(verification.sessions_of(repaired.vectors[0])),
            "accuracy": value_of(task, repaired.vectors[0], space, accuracies),
            "sessions": len(verification.rounds),
            "measured": len(verification.networks),
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
        "before_sentinels": within([row["before_sentinels_ms"] <= row["budget_ms"] for row in rows]),
        "before_raw": within([row["before_raw_ms"] <= row["budget_ms"] for row in rows]),
        "before_below": statistics.median(1 - row["before_ms"] / row["budget_ms"] for row in rows),
        "after": within([row["after"]["ms"] <= row["budget_ms"] for row in kept]),
        "after_sentinels": within([row["after"]["sentinels_ms"] <= row["budget_ms"] for row in kept]),
        "after_raw": within([row["after"]["raw_ms"] <= row["budget_ms"] for row in kept]),
        "after_upper_below": statistics.median(1 - row["after"]["verified_high_ms"] / row["budget_ms"] for row in kept)
        if kept
        else None,
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
    options.add_argument("--seconds-each", type=float, default=1.5, help="of measuring, for each network of a session")
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
                    f"{own['before']:.0%} ({own['before_sentinels']:.0%}, {own['before_raw']:.0%})",
                    f"{own['before_below']:+.1%}",
                    f"{own['after']:.0%} ({own['after_sentinels']:.0%}, {own['after_raw']:.0%})",
                    "–" if own["after_below"] is None else f"{own['after_below']:+.1%}",
                    "–" if own["worst_beyond"] is None else f"{own['worst_beyond']:+.1%}",
                    f"{own['accuracy_change']:+.2f}",
                    f"{own['mape']:.1%} ({own['bias']:+.1%})",
                    own["no_result"],
                ]
            )
    header = ["search", "runs", "within before (sentinels, raw)", "below", "after", "below", "worst", "points"]
    print_table(
        "within the budget as measured in another session", [*header, "selected predicted (bias)", "none"], rows
    )
    every = figures_of([row for part in found for row in part["rows"]])
    print(
        f"all: {every['before']:.1%} within before, {every['after']:.1%} after ({every['after_sentinels']:.1%} by "
        f"sentinels alone, {every['after_raw']:.1%} raw); median "
        f"{every['after_below']:.1%} below; {every['accuracy_change']:+.2f} points; selected networks predicted within "
        f"{every['mape']:.1%} (bias {every['bias']:+.1%}); two sessions differ by {every['between_sessions']:.1%}"
    )
    for part in found:
        if part["best_below"] is not None:
            below = statistics.median(part["best_below"])
            print(f"{part['name']}: the most accurate network within a budget is itself {below:.1%} below it (median)")
        own = {
            "figures": [row for row in figures if row["space"] == part["name"]],
            "all": figures_of(part["rows"]),
            "runs": [part],
        }
        write_results(given.results, f"budget_hit_{part['name']}", own)


if __name__ == "__main__":
    main()

"""RCAS under a latency budget, under the multiply-adds of the same network, and MobileNetV2 of that latency.

MobileNetV2, scaled down, sets both budgets: what it takes by the predictor, and its multiply-adds. RCAS searches under
the one and under the other, and all networks found are then trained by one recipe, on the images that the searches
trained and judged on, and tested on others. Beside them the paper's two ablations (section 4.3): blocks of type 5
only, and the last three blocks of the network found replaced by random ones that fit, and one more.

Three seeds; a seed fixes the images, those held out for the search, and all draws. The default is sized for two cores:
RCNet of 0.35 times its width with three positions a stage, 600 images of CIFAR-10 and six epochs an evaluation, so
accuracies are low and compare only with each other. Everything is kept in the work folder: a run that stopped goes on,
and what is done is not done again. ``--only`` lets several processes share the seeds.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from _common import parser, print_table, write_results
from _search import images_of
from scipy.stats import t

from lut import LatencyTable, Network
from lut._files import read_bytes, write_atomically
from predictors import LatencyPredictor
from profiler import compare_networks, profile
from search import Found as Searched
from search import ImageData, Problem, Recipe, ShortTraining, build_network, rcas, train
from search.spaces import RCNet, mobilenet_v2

WIDTH, POSITIONS = 0.35, 3
# MobileNetV2's width, which sets the budgets.
REFERENCE = 0.35
POOL, HELD_OUT, TEST = 1000, 40, 5000
SEARCH_EPOCHS, EPOCHS = 6, 24
# Few images need small batches to be learnt at all; the paper's learning rate at batches of 128, brought to these.
BATCH, LR = 16, 0.1 * 16 / 128
AUDITED = 24
# Blocks that the random tail replaces.
TAIL = 3
ARMS = ("latency", "madds", "mobilenet", "one type", "random tail", "random tail + 1")
LEVEL = 0.95


class Found(msgspec.Struct, frozen=True):
    """What an arm found: its network, what a search said of it, and how good it became."""

    arm: str
    seed: int
    network: Network
    predicted_ms: float
    madds: int
    accuracy: float
    value: float | None
    rule: str
    evaluated: int
    saved: int
    revisited: int
    exceeded: int
    excess: float
    paths: tuple[rcas.Path, ...]
    search_s: float
    train_s: float


class Given(NamedTuple):
    """What all arms share."""

    work: Path
    predictor: LatencyPredictor
    reference: Network
    budget_ms: float
    budget_madds: int


def space_of(types: Sequence[int] = (1, 2, 3, 4, 5, 6)) -> RCNet:
    """Return the space of the searches."""
    return RCNet("cifar", width=WIDTH, positions=POSITIONS, types=types)


def measured_table(work: Path, seconds: float) -> LatencyTable:
    """Measure the space's layers and some of its networks whole, or take them from the work folder."""
    path = work / "table.json"
    if not path.exists():
        space, rng = space_of(), random.Random(0)
        reference = mobilenet_v2("cifar", width=REFERENCE, classes=10)
        layers = dict.fromkeys([*space.layers(), *(item.layer for item in reference.layers)])
        networks = [
            Network(f"{space.name} {i}", space.decode(space.sample_quick(rng)).layers) for i in range(1, AUDITED + 1)
        ]
        profile([*layers, *networks], target="cpu", batch=4, threads=1, time_budget_s=seconds, output=path)
    return LatencyTable.load(path)


def claim(work: Path, table: LatencyTable) -> None:
    """See that what a work folder keeps is of this scale and table.

    Raises:
        SystemExit: it is of others.
    """
    scale = [WIDTH, POSITIONS, REFERENCE, POOL, HELD_OUT, TEST, SEARCH_EPOCHS, EPOCHS, BATCH, LR, TAIL]
    mine = msgspec.json.encode({"scale": scale, "table": sha256(table.to_json()).hexdigest()})
    stamp = work / "stamp.json"
    if stamp.exists() and read_bytes(stamp) != mine:
        raise SystemExit(f"{work} keeps what was done at another scale or by another table: give another --work")
    write_atomically(stamp, mine)


def recipe() -> Recipe:
    """Return the recipe of the trainings at the end: the paper's steps of the learning rate, in fewer epochs."""
    return rcas.recipe(EPOCHS, BATCH, lr=LR, channels_last=True)


def searched(given: Given, arm: str, seed: int, data: ImageData, workers: int) -> Searched:
    """Run an arm's search; the accuracies of a seed's networks are shared by its arms."""
    space = space_of((5,)) if arm == "one type" else space_of()
    ms, madds = (None, given.budget_madds) if arm == "madds" else (given.budget_ms, None)
    problem = Problem(space, given.predictor, ms=ms, madds=madds, bound="predicted")
    early = rcas.short_recipe(SEARCH_EPOCHS, BATCH, lr=LR, crop=0, channels_last=True)
    with ShortTraining(data, early, seed=seed, held_out=HELD_OUT, at_once=workers) as accuracy:
        folder = given.work / f"{'one-type' if arm == 'one type' else 'all-types'}-{seed}"
        return rcas.search(problem, accuracy, settings=rcas.Settings(at_once=workers), folder=folder)


def random_tail(given: Given, latency: Found, seed: int, *, more: int) -> Network:
    """Return the network found with its last blocks replaced by random ones that fit, and ``more`` that need not."""
    space, rng = space_of(), random.Random(seed)
    problem = Problem(space, given.predictor, ms=given.budget_ms, bound="predicted")
    path = next(path for path in latency.paths if path.rule == latency.rule)
    vector = list(path.steps[max(0, len(path.steps) - 1 - TAIL)].vector)
    for i in range(TAIL + more):
        bigger = []
        for d, decision in enumerate(space.choices):
            if vector[d] == 0 and len(decision.options) > 1:
                for option in range(1, len(decision.options)):
                    changed = [*vector[:d], option, *vector[d + 1 :]]
                    if i >= TAIL or problem.fits(changed):
                        bigger.append(changed)
        if bigger:
            vector = rng.choice(bigger)
    return problem.network(vector)


def run_arm(given: Given, arm: str, seed: int, data: ImageData, workers: int, before: dict[str, Found]) -> Found:
    """Search if the arm does, and train what is found, or take both from the work folder."""
    record = given.work / f"{arm.replace(' ', '-')}-{seed}.json"
    if record.exists():
        return msgspec.json.decode(read_bytes(record), type=Found)
    began = time.monotonic()
    result: Any = None
    if arm == "mobilenet":
        network = given.reference
    elif arm.startswith("random tail"):
        network = random_tail(given, before["latency"], seed, more=int(arm.endswith("1")))
    else:
        what = searched(given, arm, seed, data, workers)
        result, network = what.course, what.networks[0]
    done = time.monotonic()
    module = build_network(network, seed=seed)
    trained = train(module, data, recipe(), seed=seed, evaluate_every=EPOCHS)
    found = Found(
        arm=arm,
        seed=seed,
        network=Network(f"{arm} {seed}", network.layers),
        predicted_ms=given.predictor.latency_ms(network),
        madds=space_of().count_madds(network),
        accuracy=trained.test_accuracy,
        value=None if result is None else result.value,
        rule="" if result is None else result.rule,
        evaluated=0 if result is None else result.evaluated,
        saved=0 if result is None else result.plain - result.evaluated,
        revisited=0 if result is None else result.revisited,
        exceeded=0 if result is None else result.exceeded,
        excess=0.0 if result is None else result.excess,
        paths=() if result is None else result.paths,
        search_s=done - began,
        train_s=time.monotonic() - done,
    )
    write_atomically(record, msgspec.json.encode(found))
    print(
        f"{arm}, seed {seed}: {found.predicted_ms:.3f} ms, {found.madds / 1e6:.1f} M multiply-adds, "
        f"{found.accuracy:.2%} right; {found.evaluated} evaluated, search {found.search_s:.0f} s, training "
        f"{found.train_s:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return found


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--work", type=Path, default=Path("rcas-search"), help="folder that keeps what is done")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--only", type=int, help="do this seed's searches and trainings, and no more")
    options.add_argument("--workers", type=int, default=2, help="evaluations at a time")
    options.add_argument("--measure-only", action="store_true", help="measure the table, and no more")
    options.add_argument("--profile-seconds", type=float, default=150.0)
    options.add_argument("--measure-seconds", type=float, default=180.0)
    given = options.parse_args()
    if given.seeds < 2:
        raise SystemExit("a spread needs two seeds at least: --seeds 2")
    given.work.mkdir(parents=True, exist_ok=True)
    table = measured_table(given.work, given.profile_seconds)
    predictor = LatencyPredictor.fit(table, sources=["table.json"])
    reference = mobilenet_v2("cifar", width=REFERENCE, classes=10)
    shared = Given(given.work, predictor, reference, predictor.latency_ms(reference), space_of().count_madds(reference))
    print(
        f"budgets: {shared.budget_ms:.3f} ms, {shared.budget_madds / 1e6:.2f} M multiply-adds ({predictor.setting})",
        file=sys.stderr,
    )
    if given.measure_only:
        return
    claim(given.work, table)
    torch.set_num_threads(1)
    found: list[Found] = []
    for seed in range(given.seeds) if given.only is None else [given.only]:
        data = images_of(POOL, TEST, seed)
        of_seed: dict[str, Found] = {}
        for arm in ARMS:
            of_seed[arm] = run_arm(shared, arm, seed, data, given.workers, of_seed)
        found += of_seed.values()
    if given.only is not None:
        return
    report(shared, found, given.measure_seconds, given.results, given.seeds)


def report(shared: Given, found: Sequence[Found], seconds: float, results: Path, seeds: int) -> None:
    """Measure all networks in turns, print what came of them and write it."""
    predictor = shared.predictor
    different = {run.network.layers: run.network for run in found if run.arm != "mobilenet"}
    compared = compare_networks(
        [shared.reference, *different.values()],
        setting=predictor.setting,
        device=predictor.device,
        time_budget_s=seconds,
    )
    ms = {
        network.layers: seen
        for network, seen in zip([shared.reference, *different.values()], compared.networks, strict=True)
    }
    by_arm = {arm: [run for run in found if run.arm == arm] for arm in ARMS}
    rows = []
    for arm, runs in by_arm.items():
        latencies = [ms[run.network.layers].ms for run in runs]
        rows.append(
            [
                arm,
                _spread([100 * run.accuracy for run in runs], 2),
                _spread(latencies, 3),
                ", ".join(f"{run.predicted_ms / own - 1:+.1%}" for run, own in zip(runs, latencies, strict=True)),
                f"{statistics.fmean(run.madds / 1e6 for run in runs):.1f}",
                f"{statistics.fmean(run.network.parameters / 1e6 for run in runs):.3f}",
                f"{statistics.fmean(run.evaluated for run in runs):.0f}",
            ]
        )
    header = ["arm", "accuracy %, sd", "measured ms, sd", "predicted off by", "M madds", "M params", "evaluated"]
    title = f"{seeds} seeds, {shared.budget_ms:.3f} ms or {shared.budget_madds / 1e6:.2f} M madds, {predictor.setting}"
    print_table(title, header, rows)
    groups = [[100 * run.accuracy for run in runs] for runs in by_arm.values()]
    spread = sqrt(statistics.fmean(statistics.variance(group) for group in groups))
    least = float(t.ppf(0.5 + LEVEL / 2, sum(len(g) - 1 for g in groups))) * spread * sqrt(2 / seeds)
    print(
        f"the smallest difference of two given arms' means that {seeds} seeds can show (t, 95 %, unpaired): "
        f"{least:.2f} points"
    )
    searches = [run for run in found if run.evaluated]
    revisited, exceeded = sum(r.revisited for r in searches), sum(r.exceeded for r in searches)
    print(
        f"laziness saved {sum(r.saved for r in searches)} evaluations of "
        f"{sum(r.saved + r.evaluated for r in searches)}; {exceeded} of {revisited} re-evaluated gains "
        f"increased, by {100 * max(r.excess for r in searches):.1f} points at most"
    )
    write_results(
        results,
        "rcas_search",
        {
            "scale": {
                "width": WIDTH,
                "positions": POSITIONS,
                "images": POOL,
                "held_out_per_class": HELD_OUT,
                "test_images": TEST,
                "search_epochs": SEARCH_EPOCHS,
                "epochs": EPOCHS,
                "batch_size": BATCH,
                "lr": LR,
            },
            "setting": str(predictor.setting),
            "budget_ms": shared.budget_ms,
            "budget_madds": shared.budget_madds,
            "arms": {arm: [_figures(run, ms[run.network.layers]) for run in runs] for arm, runs in by_arm.items()},
            "smallest_difference_points": least,
            "revisited": revisited,
            "exceeded": exceeded,
            "warnings": compared.warnings,
        },
    )


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _figures(run: Found, seen: Any) -> dict[str, Any]:
    paths = {path.rule: [[step.changed, round(step.value, 4), step.ms] for step in path.steps] for path in run.paths}
    return {
        "seed": run.seed,
        "accuracy": run.accuracy,
        "predicted_ms": run.predicted_ms,
        "measured_ms": seen.ms,
        "measured_low_ms": seen.low_ms,
        "measured_high_ms": seen.high_ms,
        "madds": run.madds,
        "parameters": run.network.parameters,
        "validation_accuracy": run.value,
        "rule": run.rule,
        "evaluated": run.evaluated,
        "saved_by_laziness": run.saved,
        "revisited": run.revisited,
        "exceeded": run.exceeded,
        "largest_rise": run.excess,
        "paths": paths,
        "search_s": run.search_s,
        "train_s": run.train_s,
    }


if __name__ == "__main__":
    main()

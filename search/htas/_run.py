"""A whole run: search, train the base network and the winner, measure both, and write what came of it into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from lut import Network, save_network
from lut._files import write_atomically
from lut._option_names import go_on, option_text
from lut.errors import InterruptedRunError, UsageError
from predictors import LatencyPredictor
from predictors._widths import WidthSelection
from profiler._session import Progress
from search._data._images import ImageData, bilevel_split
from search._problem._cost import CostKind, NetworkCost, check_budget, limits_nothing, unlike_layers
from search._runs._parts import (
    BASE_WEIGHTS,
    CHECKPOINTS,
    NETWORK,
    NOT_ASKED,
    RECORD,
    REPORT,
    RESULT,
    WEIGHTS,
    Measured,
    measure_both,
    open_folder,
    train_both,
    try_device,
    write_json,
)
from search._runs._sittings import SITTINGS, Stage
from search._training._recipe import Recipe
from search._training._train import Trained, TrainProgress, check_precision
from search.evolution._evolution import EvolutionSettings, check_pymoo, search_evolution
from search.htas._gradient import check_settings, search_htas
from search.htas._settings import SearchProgress, SearchResult, SearchSettings
from search.htas._shared_weights import check_classes, check_shared
from search.spaces._resnet_cifar import ResNetCifar

__all__ = [
    "FILES",
    "Reporter",
    "RunPlan",
    "RunResult",
    "Strategy",
    "WidthKind",
    "check_plan",
    "run_search",
    "stages",
    "summary",
    "warnings_before",
]

WidthKind: TypeAlias = Literal["hardware", "uniform", "ratios", "base"]
Strategy: TypeAlias = Literal["gradient", "evolution"]

# What a run's folder holds, and what each file is.
FILES = {
    RECORD: "what was asked for",
    NETWORK: "the network that was found",
    WEIGHTS: "its trained weights",
    BASE_WEIGHTS: "those of the base network, its teacher",
    "history.json": "the search and the trainings, epoch by epoch",
    RESULT: "what came of it, in numbers",
    REPORT: "the same as a page",
}


class RunPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a run's course depends on, apart from the data and the predictor, which go in by their digests.

    Args:
        depth: of the base network.
        expand: HTAS's e; ``groups`` its g; ``alpha`` the law's exponent.
        widths: the width set: ``hardware`` (HTAS), ``uniform``, ``ratios`` (TAS) or ``base``; ``options`` are its
            widths, ``depths`` the numbers of blocks that a stage may keep.
        budget_ms: the limit on the network's latency; ``None``: none.
        cost: what the loss charges for; ``bound`` and ``level``: what a budget is for.
        strategy: ``gradient`` or ``evolution``.
        search: the search's settings; ``evolution``: of breeding; ``recipe``: of the trainings.
        distil: whether the base network teaches the winner.
        data: the data's name; ``data_digest``: of its content.
        tables: digests of the predictor's tables; ``latencies``: of what it says of the space.
        calibrated: networks of the space that were measured whole before the search, and calibrated on.
        seed: of everything.
    """

    depth: int
    expand: float
    groups: int
    alpha: str
    widths: WidthKind
    options: tuple[tuple[int, ...], ...]
    depths: tuple[int, ...]
    budget_ms: float | None
    cost: CostKind
    bound: Literal["upper", "predicted"]
    level: float
    strategy: Strategy
    search: SearchSettings
    evolution: EvolutionSettings
    recipe: Recipe
    distil: bool
    data: str
    data_digest: str
    tables: tuple[str, ...]
    latencies: str
    calibrated: int
    seed: int


class RunResult(NamedTuple):
    """What came of a run.

    ``not_measured`` says why there is no measurement, if there is none; ``warnings`` what else is to be known.
    """

    space: ResNetCifar
    search: SearchResult
    base: Network
    base_predicted_ms: float
    base_trained: Trained
    trained: Trained
    measured: Measured | None
    not_measured: str | None
    selections: tuple[WidthSelection, ...]
    warnings: tuple[str, ...] = ()


class Reporter(NamedTuple):
    """Whom a run tells where it stands, one for each kind of work; ``phase`` is told what begins."""

    search: Callable[[SearchProgress], None]
    bred: Callable[[int, int, float], None]
    train: Callable[[str, TrainProgress], None]
    measure: Callable[[Progress], None]
    phase: Callable[[str], None]


def run_search(
    plan: RunPlan,
    cost: NetworkCost,
    data: ImageData,
    output: Path,
    *,
    selections: Sequence[WidthSelection] = (),
    warnings: Sequence[str] = (),
    device: str = "cpu",
    measure_s: float = 30.0,
    restart: bool = False,
    keep_predictor: bool = False,
    hand_on: Callable[[RunResult], None] = lambda _: None,
    tell: Reporter,
) -> RunResult:
    """Run a plan, or go on with it where it was interrupted, and write its files.

    Args:
        plan: what to do.
        cost: of the space's networks.
        data: to search and train on.
        output: the folder for the files; it is made if need be.
        selections: the hardware-aware widths, for the report.
        warnings: what is known beforehand that a reader of the result is to know: :func:`warnings_before`.
        device: PyTorch's name of where to train.
        measure_s: seconds for measuring winner and base; 0: not at all.
        restart: discard what is in the folder.
        keep_predictor: save the predictor there too.
        hand_on: called with the result before the run counts as finished, to export the network, say.
        tell: told where the run stands.

    Raises:
        CheckpointError: the folder holds another run, or a finished one.
        BudgetError: no network is within the budget.
        UnlikeTablesError: the predictor is of another device than this one.
        SearchError: a training failed.
        FileAccessError: a file cannot be written.
        InterruptedRunError: stopped by the user; what is done is kept.
    """
    check_plan(plan, cost, data, device=device)
    if plan.budget_ms is not None:
        check_budget(cost, plan.budget_ms)
    if measure_s > 0:
        tell.phase("Trying the device")
        try_device(cost.space.base_network(), cost.predictor)
    # Nothing is touched before it is known that the work can be done.
    checkpoints = [f"{CHECKPOINTS}/{file}.safetensors" for file in ("search", "base", "weights")]
    checkpoints.append(f"{CHECKPOINTS}/{SITTINGS}")
    open_folder(plan, output, files=(*FILES, *checkpoints), restart=restart)
    if keep_predictor:
        cost.predictor.save(output / "predictor")
    try:
        return _run(plan, cost, data, output, selections, tuple(warnings), device, measure_s, hand_on, tell)
    except KeyboardInterrupt:
        raise InterruptedRunError(f"what is done is kept in {output}; {go_on(restart=restart)}") from None


def _run(
    plan: RunPlan,
    cost: NetworkCost,
    data: ImageData,
    output: Path,
    selections: Sequence[WidthSelection],
    warnings: tuple[str, ...],
    device: str,
    measure_s: float,
    hand_on: Callable[[RunResult], None],
    tell: Reporter,
) -> RunResult:
    base = cost.space.base_network()
    predictor = cost.predictor
    checkpoints = output / CHECKPOINTS

    tell.phase("Searching")
    if plan.strategy == "evolution":
        assert plan.budget_ms is not None
        found = search_evolution(
            cost,
            data,
            plan.search,
            plan.evolution,
            seed=plan.seed,
            budget_ms=plan.budget_ms,
            device=device,
            checkpoint=checkpoints / "search.safetensors",
            progress=tell.search,
            bred=tell.bred,
        )
    else:
        found = search_htas(
            cost,
            data,
            plan.search,
            seed=plan.seed,
            budget_ms=plan.budget_ms,
            device=device,
            checkpoint=checkpoints / "search.safetensors",
            progress=tell.search,
        )
    _write_network(output / NETWORK, cost.space, found)

    base_trained, winner_trained = train_both(
        base,
        found.network,
        data,
        plan.recipe,
        output,
        seed=plan.seed,
        device=device,
        distil=plan.distil,
        phase=tell.phase,
        progress=tell.train,
    )
    measured: Measured | None = None
    reason: str | None = NOT_ASKED
    if measure_s > 0:
        tell.phase("Measuring both")
        measured, reason = measure_both(
            base, found.network, predictor, seconds=measure_s, seed=plan.seed, progress=tell.measure
        )
    result = RunResult(
        space=cost.space,
        search=found,
        base=base,
        base_predicted_ms=predictor.latency_ms(base),
        base_trained=base_trained,
        trained=winner_trained,
        measured=measured,
        not_measured=reason,
        selections=tuple(selections),
        warnings=warnings,
    )
    _write_results(plan, result, predictor, output)
    hand_on(result)
    if measured is not None or reason == NOT_ASKED:
        # Last: it says that the run is finished. One that could not be measured may be run again, and goes on there.
        write_json(output / RESULT, summary(plan, result, predictor))
    return result


def stages(plan: RunPlan, output: Path) -> tuple[Stage, ...]:
    """Return the parts of a run that have checkpoints."""
    parts = (
        ("search", "the search", plan.search.recipe),
        ("base", "training the base network", plan.recipe),
        ("weights", "training the network found", plan.recipe),
    )
    return tuple(Stage.of(what, output / CHECKPOINTS / f"{file}.safetensors", recipe) for file, what, recipe in parts)


def check_plan(plan: RunPlan, cost: NetworkCost, data: ImageData, *, device: str) -> None:
    """Raise what can be known to fail before anything is begun, apart from a budget that no network is within.

    Args:
        plan: what to do.
        cost: of the space's networks, calibrated or not.
        data: to search and train on.
        device: PyTorch's name of where to train.

    Raises:
        UsageError: settings that go with no search, no data or no device.
        DataError: a class has too few images.
        TargetUnavailableError: pymoo is not installed.
        PredictorError: the predictor knows nothing of the base network.
    """
    check_classes(cost.space.classes, data)
    check_precision(plan.recipe, device)
    check_shared(plan.search.recipe)
    bilevel_split(data, plan.seed)
    cost.predictor.latency_ms(cost.space.base_network())
    if plan.budget_ms is not None and not (isfinite(plan.budget_ms) and plan.budget_ms > 0):
        raise UsageError(f"a budget is a positive number of ms, got {plan.budget_ms:g}")
    if plan.strategy == "evolution":
        check_pymoo()
        if plan.budget_ms is None:
            raise UsageError(f"an evolution searches under a budget: give {option_text('budget_ms')}")
    else:
        check_settings(cost, plan.search, plan.budget_ms)


def warnings_before(plan: RunPlan, cost: NetworkCost) -> tuple[str, ...]:
    """Return what is to be said of a plan before it is run: layers beyond the tables, a budget that limits nothing.

    Raises:
        TableError: layers of some kind were not measured at all; names the command that measures them.
    """
    unlimited = None if plan.budget_ms is None else limits_nothing(cost, plan.budget_ms)
    return (*unlike_layers(cost.space, cost.predictor), *(() if unlimited is None else (unlimited,)))


def _write_network(path: Path, space: ResNetCifar, found: SearchResult) -> None:
    save_network(
        path,
        found.network,
        space=space.name,
        options={
            "depth": space.depth,
            "expand": space.expand,
            "classes": space.classes,
            "widths": [list(options) for options in space.widths],
        },
        choices={
            decision.name: decision.options[index] for decision, index in zip(space.choices, found.vector, strict=True)
        },
    )


def summary(plan: RunPlan, result: RunResult, predictor: LatencyPredictor) -> dict[str, Any]:
    """Return what came of a run as plain data: ``result.json``, and what ``--json`` prints."""
    prediction, network = result.search.prediction, result.search.network
    measured = result.measured
    return {
        "device": predictor.device.model,
        "setting": str(predictor.setting),
        "budget_ms": plan.budget_ms,
        "network": {
            "parameters": network.parameters,
            "madds": network.madds,
            "layers": len(network.layers),
            "predicted_ms": prediction.ms,
            "low_ms": prediction.low_ms,
            "high_ms": prediction.high_ms,
            "level": prediction.level,
            "accuracy": result.trained.test_accuracy,
            "vector": list(result.search.vector),
            "outside": list(prediction.outside),
        },
        "base": {
            "parameters": result.base.parameters,
            "madds": result.base.madds,
            "predicted_ms": result.base_predicted_ms,
            "accuracy": result.base_trained.test_accuracy,
        },
        "measured": None if measured is None else {**measured._asdict(), "speed_up": measured.speed_up._asdict()},
        "not_measured": result.not_measured,
        "prediction_error": None if measured is None else prediction.ms / measured.winner_ms - 1,
        "search_seconds": result.search.seconds,
        "evaluated": result.search.evaluated,
        "warnings": list(result.warnings),
    }


def _write_results(plan: RunPlan, result: RunResult, predictor: LatencyPredictor, output: Path) -> None:
    from search.htas._report import search_report

    history = {
        "search": result.search.history,
        "from_epoch": result.search.from_epoch,
        # All epochs are numbered from 1, those of the warm-up first.
        "warmup_epochs": {"search": plan.search.recipe.warmup_epochs, "training": plan.recipe.warmup_epochs},
        "base": [epoch._asdict() for epoch in result.base_trained.epochs],
        "winner": [epoch._asdict() for epoch in result.trained.epochs],
    }
    write_json(output / "history.json", history)
    write_atomically(output / REPORT, search_report(plan, result, predictor).encode())

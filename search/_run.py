"""A whole run: search, train the base network and the winner, measure both, and write what came of it into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from lut import Network, save_network
from lut._files import file_error, read_bytes, write_atomically
from lut.errors import CheckpointError, IncompleteError, InterruptedRunError, UsageError
from predictors import LatencyPredictor, WidthSelection
from profiler import NetworkComparison, Progress, Ratio, compare_networks
from search._checkpoint import content_digest
from search._cost import CostKind, NetworkCost, check_budget
from search._data import ImageData
from search._evolution import EvolutionSettings, check_pymoo, search_evolution
from search._htas import check_settings, search_htas
from search._recipe import Recipe
from search._resnet_cifar import ResNetCifar
from search._search_settings import SearchProgress, SearchResult, SearchSettings
from search._shared_weights import check_classes
from search._trainable import build_network, load_weights, save_weights
from search._training import Trained, TrainProgress, train

__all__ = [
    "FILES",
    "NOT_ASKED",
    "Measured",
    "Reporter",
    "RunPlan",
    "RunResult",
    "Strategy",
    "WidthKind",
    "refuse_finished",
    "run_search",
    "summary",
]

WidthKind: TypeAlias = Literal["hardware", "uniform", "ratios", "base"]
Strategy: TypeAlias = Literal["gradient", "evolution"]

# What a run's folder holds, and what each file is.
FILES = {
    "run.json": "what was asked for",
    "network.json": "the network that was found",
    "weights.safetensors": "its trained weights",
    "base.safetensors": "those of the base network, its teacher",
    "history.json": "the search and the trainings, epoch by epoch",
    "result.json": "what came of it, in numbers",
    "report.html": "the same as a page",
}
CHECKPOINTS = "checkpoints"
# Why there is no measurement, where nobody wanted one.
NOT_ASKED = "it was not asked for"
# Seconds of measuring the base network before anything else: on another device nothing needs to be begun.
TRIAL_S = 3.0


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


class Measured(NamedTuple):
    """The winner and the base network on the device: predicted beside measured, in ms, and how many times as fast."""

    winner_ms: float
    winner_low_ms: float
    winner_high_ms: float
    base_ms: float
    base_low_ms: float
    base_high_ms: float
    speed_up: Ratio
    warnings: tuple[str, ...]


class RunResult(NamedTuple):
    """What came of a run; ``not_measured`` says why there is no measurement, if there is none."""

    space: ResNetCifar
    search: SearchResult
    base: Network
    base_predicted_ms: float
    base_trained: Trained
    trained: Trained
    measured: Measured | None
    not_measured: str | None
    selections: tuple[WidthSelection, ...]


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
    _check(plan, cost, data)
    if measure_s > 0:
        tell.phase("Trying the device")
        predictor = cost.predictor
        base = cost.space.base_network()
        compare_networks([base], setting=predictor.setting, device=predictor.device, time_budget_s=TRIAL_S)
    # Nothing is touched before it is known that the work can be done.
    _open_folder(plan, output, restart=restart)
    if keep_predictor:
        cost.predictor.save(output / "predictor")
    try:
        return _run(plan, cost, data, output, selections, device, measure_s, hand_on, tell)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"what is done is kept in {output}; run the same command again{' without --restart' if restart else ''} to "
            "go on from there"
        ) from None


def _run(
    plan: RunPlan,
    cost: NetworkCost,
    data: ImageData,
    output: Path,
    selections: Sequence[WidthSelection],
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
    _write_network(output / "network.json", cost.space, found)

    def trained(network: Network, name: str, file: str, teacher: Any = None, run: str = "") -> Trained:
        tell.phase(f"Training {name}")
        module = build_network(network, seed=plan.seed)
        history = train(
            module,
            data,
            plan.recipe,
            seed=plan.seed,
            device=device,
            teacher=teacher,
            checkpoint=checkpoints / file,
            run=run,
            progress=lambda now: tell.train(name, now),
        )
        save_weights(output / file, network, module.cpu())
        return history

    base_trained = trained(base, "the base network", "base.safetensors")
    teacher, taught_by = None, ""
    if plan.distil:
        teacher = load_weights(output / "base.safetensors", base)
        taught_by = content_digest(output / "base.safetensors")
    winner_trained = trained(found.network, "the network found", "weights.safetensors", teacher, taught_by)

    measured: Measured | None = None
    reason: str | None = NOT_ASKED
    if measure_s > 0:
        tell.phase("Measuring both")
        try:
            comparison = compare_networks(
                [base, found.network],
                setting=predictor.setting,
                device=predictor.device,
                time_budget_s=measure_s,
                seed=plan.seed,
                progress=tell.measure,
            )
            measured, reason = _measured(comparison), None
        except IncompleteError as error:
            reason = str(error)
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
    )
    _write_results(plan, result, predictor, output)
    hand_on(result)
    if measured is not None or reason == NOT_ASKED:
        # Last: it says that the run is finished. One that could not be measured may be run again, and goes on there.
        content = msgspec.json.encode(summary(plan, result, predictor))
        write_atomically(output / "result.json", msgspec.json.format(content, indent=1) + b"\n")
    return result


def _check(plan: RunPlan, cost: NetworkCost, data: ImageData) -> None:
    """Raise what can be known to fail before anything is begun."""
    check_classes(cost.space.classes, data)
    if plan.strategy == "evolution":
        check_pymoo()
        if plan.budget_ms is None:
            raise UsageError("an evolution searches under a budget: give --budget-ms")
    else:
        check_settings(cost, plan.search, plan.budget_ms)
    if plan.budget_ms is not None:
        check_budget(cost, plan.budget_ms)


def refuse_finished(output: Path, *, restart: bool) -> None:
    """Raise where a folder holds a finished run."""
    if (output / "result.json").exists() and not restart:
        raise CheckpointError(f"{output} holds a finished run; give another --output, or --restart")


def _open_folder(plan: RunPlan, output: Path, *, restart: bool) -> None:
    """Make the folder, or see that what it holds is this plan's and not finished."""
    record = output / "run.json"
    if restart:
        for name in (*FILES, *(f"{CHECKPOINTS}/{file}.safetensors" for file in ("search", "base", "weights"))):
            (output / name).unlink(missing_ok=True)
    elif record.exists():
        try:
            before = msgspec.json.decode(read_bytes(record), type=RunPlan)
        except (msgspec.DecodeError, UnicodeDecodeError, UsageError) as error:
            raise CheckpointError(
                f"{record} is no record of a run ({error}); give another --output, or discard it with --restart"
            ) from None
        if different := _differences(before, plan):
            raise CheckpointError(
                f"{output} holds another run, with other {', '.join(different)}; give another --output, or discard it "
                "with --restart"
            )
        refuse_finished(output, restart=restart)
    try:
        (output / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(output, "create", error) from None
    write_atomically(record, msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")


def _differences(before: RunPlan, now: RunPlan) -> list[str]:
    was, new = msgspec.to_builtins(before), msgspec.to_builtins(now)
    return [name.replace("_", " ") for name in new if was[name] != new[name]]


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


def _measured(comparison: NetworkComparison) -> Measured:
    base, winner = comparison.networks
    return Measured(
        winner.ms,
        winner.low_ms,
        winner.high_ms,
        base.ms,
        base.low_ms,
        base.high_ms,
        comparison.ratio(0, 1),
        comparison.warnings,
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
    }


def _write_results(plan: RunPlan, result: RunResult, predictor: LatencyPredictor, output: Path) -> None:
    from search._search_report import search_report

    history = {
        "search": result.search.history,
        "from_epoch": result.search.from_epoch,
        "base": [epoch._asdict() for epoch in result.base_trained.epochs],
        "winner": [epoch._asdict() for epoch in result.trained.epochs],
    }
    write_atomically(output / "history.json", msgspec.json.format(msgspec.json.encode(history), indent=1) + b"\n")
    write_atomically(output / "report.html", search_report(plan, result, predictor).encode())

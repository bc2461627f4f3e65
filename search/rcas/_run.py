"""A whole run of RCAS: search, train the baseline and the network found, measure both, and write what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import msgspec

from lut import Network, SearchSpace, save_network
from lut._files import write_atomically
from lut._option_names import go_on
from lut.errors import InterruptedRunError
from predictors import LatencyPredictor
from profiler._session import Progress
from search._accuracy._chance import FirstRound, chance_warning
from search._accuracy._evaluator import Accuracy, AccuracyCache, BatchAccuracy, EvaluationProgress, Evaluator
from search._data._images import ImageData
from search._problem._resources import Budgets, NetworkResources
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
from search.rcas._search import RcasResult, RcasSettings, RcasStep, search_rcas

__all__ = [
    "EVALUATIONS",
    "RCAS_FILES",
    "RcasPlan",
    "RcasReporter",
    "RcasRun",
    "base_of",
    "check_end",
    "rcas_stages",
    "rcas_summary",
    "run_rcas",
]

EVALUATIONS = "evaluations.jsonl"
# What a run's folder holds, and what each file is.
RCAS_FILES = {
    RECORD: "what was asked for",
    EVALUATIONS: "the accuracy of each network that was evaluated",
    NETWORK: "the network that was found",
    "paths.json": "all networks on the way, with what they need",
    WEIGHTS: "its trained weights",
    BASE_WEIGHTS: "those of the baseline",
    "history.json": "the trainings, epoch by epoch",
    RESULT: "what came of it, in numbers",
    REPORT: "the same as a page",
}


class RcasPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a run's course depends on, apart from the data, the accuracy and the predictor: these by digests.

    Args:
        space: the space's name; ``space_options``: what it was made with.
        budgets: limits, all of which hold.
        bound: what the budget of ms is for; ``level``: of the interval.
        search: how RCAS searches.
        accuracy: where accuracies come from, in words; ``function``: digest of all that they depend on.
        held_out: images of each class that networks are judged by; ``early_stopped``: how they are trained for that.
            ``None`` where accuracies are not from trainings.
        recipe: of the trainings at the end; ``None``: there are none.
        data: the data's name; ``data_digest``: of its content. Empty without data.
        tables: digests of the predictor's tables; ``latencies``: of what it says of the space. Empty without one.
        calibrated: networks of the space that were measured whole before the search, and calibrated on.
        seed: of everything.
    """

    space: str
    space_options: dict[str, Any]
    budgets: Budgets
    bound: Literal["upper", "predicted"]
    level: float
    search: RcasSettings
    accuracy: str
    function: str
    held_out: int | None
    early_stopped: Recipe | None
    recipe: Recipe | None
    data: str
    data_digest: str
    tables: tuple[str, ...]
    latencies: str
    calibrated: int
    seed: int


class RcasRun(NamedTuple):
    """What came of a run.

    ``not_measured`` says why there is no measurement, if there is none; ``warnings`` what else is to be known.
    """

    search: RcasResult
    base: Network
    base_predicted_ms: float | None
    base_trained: Trained | None
    trained: Trained | None
    measured: Measured | None
    not_measured: str | None
    warnings: tuple[str, ...] = ()


class RcasReporter(NamedTuple):
    """Whom a run tells where it stands.

    ``phase`` is told what begins, ``step`` which network joins a path, ``warn`` what a person is to know at once.
    """

    evaluated: Callable[[EvaluationProgress], None]
    step: Callable[[str, RcasStep], None]
    train: Callable[[str, TrainProgress], None]
    measure: Callable[[Progress], None]
    phase: Callable[[str], None]
    warn: Callable[[str], None]


@final
class _Searcher(NamedTuple):
    """What a search needs besides its plan."""

    resources: NetworkResources
    accuracy: Accuracy | BatchAccuracy
    at_once: int


def base_of(space: SearchSpace, resources: NetworkResources) -> Network:
    """Return what a space's networks are compared with: its ``base_network``, or else the first one of a search."""
    return space.base_network() or resources.network((0,) * len(space.choices))


def rcas_stages(plan: RcasPlan, output: Path) -> tuple[Stage, ...]:
    """Return the parts of a run that have checkpoints."""
    if plan.recipe is None:
        return ()
    names = {"base": "training the baseline", "weights": "training the network found"}
    return tuple(
        Stage.of(what, output / CHECKPOINTS / f"{file}.safetensors", plan.recipe) for file, what in names.items()
    )


def check_end(resources: NetworkResources, recipe: Recipe | None, *, device: str) -> None:
    """Raise what would else be known when the search is over.

    Args:
        resources: of the space's networks.
        recipe: of the trainings at the end, if there are any.
        device: PyTorch's name of where they are made.

    Raises:
        UsageError: the device does not train by the recipe.
        PredictorError: the predictor knows nothing of the baseline.
    """
    if recipe is not None:
        check_precision(recipe, device)
    if resources.predictor is not None:
        resources.predictor.latency_ms(base_of(resources.space, resources))


def run_rcas(
    plan: RcasPlan,
    resources: NetworkResources,
    accuracy: Accuracy | BatchAccuracy,
    output: Path,
    *,
    data: ImageData | None = None,
    warnings: Sequence[str] = (),
    at_once: int = 1,
    device: str = "cpu",
    measure_s: float = 30.0,
    restart: bool = False,
    keep_predictor: bool = False,
    hand_on: Callable[[RcasRun], None] = lambda _: None,
    tell: RcasReporter,
) -> RcasRun:
    """Run a plan, or go on with it where it was interrupted, and write its files.

    Args:
        plan: what to do.
        resources: of the space's networks.
        accuracy: the set function.
        output: the folder for the files; it is made if need be.
        data: to train on in the end, if the plan has a recipe.
        warnings: what is known beforehand that a reader of the result is to know.
        at_once: evaluations side by side, where ``accuracy`` is a callable.
        device: PyTorch's name of where to train in the end.
        measure_s: seconds for measuring the network found and the baseline; 0, or no predictor: not at all.
        restart: discard what is in the folder.
        keep_predictor: save the predictor there too.
        hand_on: called with the result before the run counts as finished, to export the network, say.
        tell: told where the run stands.

    Raises:
        CheckpointError: the folder holds another run, a finished one, or evaluations of another space or function.
        BudgetError: the first network is beyond a budget.
        UnlikeTablesError: the predictor is of another device than this one.
        SearchError: an evaluation or a training failed.
        FileAccessError: a file cannot be written.
        InterruptedRunError: stopped by the user; what is done is kept.
    """
    space, predictor = resources.space, resources.predictor
    resources.check((0,) * len(space.choices), plan.budgets)
    check_end(resources, plan.recipe, device=device)
    base = base_of(space, resources)
    measuring = predictor if measure_s > 0 else None
    if measuring is not None:
        tell.phase("Trying the device")
        try_device(base, measuring)
    # Nothing is touched before it is known that the work can be done.
    checkpoints = [f"{CHECKPOINTS}/{file}.safetensors" for file in ("base", "weights")]
    checkpoints.append(f"{CHECKPOINTS}/{SITTINGS}")
    open_folder(plan, output, files=(*RCAS_FILES, *checkpoints), restart=restart)
    if keep_predictor and predictor is not None:
        predictor.save(output / "predictor")
    try:
        return _run(
            plan,
            _Searcher(resources, accuracy, at_once),
            base,
            data,
            output,
            warnings=tuple(warnings),
            device=device,
            measuring=measuring,
            measure_s=measure_s,
            hand_on=hand_on,
            tell=tell,
        )
    except KeyboardInterrupt:
        raise InterruptedRunError(f"what is done is kept in {output}; {go_on(restart=restart)}") from None


def _run(
    plan: RcasPlan,
    searcher: _Searcher,
    base: Network,
    data: ImageData | None,
    output: Path,
    *,
    warnings: tuple[str, ...],
    device: str,
    measuring: LatencyPredictor | None,
    measure_s: float,
    hand_on: Callable[[RcasRun], None],
    tell: RcasReporter,
) -> RcasRun:
    resources = searcher.resources
    tell.phase("Searching")
    options = msgspec.json.encode(plan.space_options).decode()
    with AccuracyCache.open(output / EVALUATIONS, space=f"{plan.space} {options}", function=plan.function) as cache:
        evaluate = Evaluator(searcher.accuracy, cache=cache, at_once=searcher.at_once, progress=tell.evaluated)
        found, said = _searched(plan, resources, evaluate, data, tell)
    _write_found(plan, resources, found, output)

    base_trained = trained = None
    if plan.recipe is not None and data is not None:
        base_trained, trained = train_both(
            base,
            found.network,
            data,
            plan.recipe,
            output,
            seed=plan.seed,
            device=device,
            distil=False,
            phase=tell.phase,
            progress=tell.train,
        )
    measured: Measured | None = None
    reason: str | None = NOT_ASKED
    if measuring is not None:
        tell.phase("Measuring both")
        measured, reason = measure_both(
            base, found.network, measuring, seconds=measure_s, seed=plan.seed, progress=tell.measure
        )
    result = RcasRun(
        search=found,
        base=base,
        base_predicted_ms=None if resources.predictor is None else resources.predictor.latency_ms(base),
        base_trained=base_trained,
        trained=trained,
        measured=measured,
        not_measured=reason,
        warnings=warnings + said,
    )
    _write_results(plan, result, resources, output)
    hand_on(result)
    if measured is not None or reason == NOT_ASKED:
        # Last: it says that the run is finished. One that could not be measured may be run again, and goes on there.
        write_json(output / RESULT, rcas_summary(plan, result, resources))
    return result


def _searched(
    plan: RcasPlan, resources: NetworkResources, evaluate: Evaluator, data: ImageData | None, tell: RcasReporter
) -> tuple[RcasResult, tuple[str, ...]]:
    """Return what was found, and a warning where accuracies of short trainings were those of guessing."""
    first, warnings = FirstRound(), []

    def watched(networks: Sequence[Network]) -> list[float]:
        values = evaluate(networks)
        if first.add(values) and (warning := _at_chance(plan, first, data)) is not None:
            warnings.append(warning)
            tell.warn(warning)
        return values

    found = search_rcas(resources, watched, plan.budgets, plan.search, told=tell.step)
    return found, tuple(warnings)


def _at_chance(plan: RcasPlan, first: FirstRound, data: ImageData | None) -> str | None:
    # Of other accuracies it is not known what guessing would give.
    if plan.held_out is None or data is None:
        return None
    classes = len(data.classes)
    return chance_warning(first.values, classes=classes, images=plan.held_out * classes)


def _write_found(plan: RcasPlan, resources: NetworkResources, found: RcasResult, output: Path) -> None:
    save_network(
        output / NETWORK,
        found.network,
        space=plan.space,
        options=plan.space_options,
        choices={
            decision.name: decision.options[index]
            for decision, index in zip(resources.space.choices, found.vector, strict=True)
        },
    )
    write_json(output / "paths.json", found.paths)


def rcas_summary(plan: RcasPlan, result: RcasRun, resources: NetworkResources) -> dict[str, Any]:
    """Return what came of a run as plain data: ``result.json``, and what ``--json`` prints."""
    found, measured = result.search, result.measured
    prediction, predictor = found.prediction, resources.predictor
    needs, first = resources.of(found.vector), resources.of((0,) * len(found.vector))

    def accuracy(trained: Trained | None) -> float | None:
        return None if trained is None else trained.test_accuracy

    return {
        "device": None if predictor is None else predictor.device.model,
        "setting": None if predictor is None else str(predictor.setting),
        "budgets": msgspec.to_builtins(plan.budgets),
        "network": {
            "vector": list(found.vector),
            "value": found.value,
            "rule": found.rule,
            "parameters": needs.parameters,
            "madds": needs.madds,
            "predicted_ms": None if prediction is None else prediction.ms,
            "low_ms": None if prediction is None else prediction.low_ms,
            "high_ms": None if prediction is None else prediction.high_ms,
            "level": None if prediction is None else prediction.level,
            "accuracy": accuracy(result.trained),
            "outside": [] if prediction is None else list(prediction.outside),
        },
        "first": first._asdict(),
        "base": {
            "name": result.base.name,
            "parameters": result.base.parameters,
            "madds": resources.madds(result.base),
            "predicted_ms": result.base_predicted_ms,
            "accuracy": accuracy(result.base_trained),
        },
        "paths": {path.rule: {"steps": len(path.steps) - 1, "value": path.last.value} for path in found.paths},
        "evaluated": found.evaluated,
        "saved_by_laziness": found.plain - found.evaluated,
        "revisited_gains": found.revisited,
        "gains_that_rose": found.exceeded,
        "largest_rise": found.excess,
        "measured": None if measured is None else {**measured._asdict(), "speed_up": measured.speed_up._asdict()},
        "not_measured": result.not_measured,
        "prediction_error": None if measured is None or prediction is None else prediction.ms / measured.winner_ms - 1,
        "search_seconds": found.seconds,
        "warnings": list(result.warnings),
    }


def _write_results(plan: RcasPlan, result: RcasRun, resources: NetworkResources, output: Path) -> None:
    from search.rcas._report import rcas_report

    history: dict[str, Any] = {
        name: [] if trained is None else [epoch._asdict() for epoch in trained.epochs]
        for name, trained in (("base", result.base_trained), ("winner", result.trained))
    }
    # All epochs are numbered from 1, those of the warm-up first.
    history["warmup_epochs"] = {"training": 0 if plan.recipe is None else plan.recipe.warmup_epochs}
    write_json(output / "history.json", history)
    write_atomically(output / REPORT, rcas_report(plan, result, resources).encode())

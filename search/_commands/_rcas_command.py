"""What ``search-architecture rcas`` does, step by step: refuse, load, calibrate, search, and say what came of it."""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from lut import SearchSpace, UsageError
from lut._console import make_console, print_json
from lut._level import check_level
from predictors import LatencyPredictor
from predictors._commands._inputs import check_files, open_predictor
from predictors._interval import least_networks
from search._accuracy._evaluator import kept_accuracies
from search._commands._common import (
    CALIBRATION_S,
    check_calibration,
    closing_line,
    hand_on,
    print_end,
    refuse_unmeasured,
)
from search._commands._phases import Phases
from search._commands._rcas_show import RcasPhases, print_rcas, print_rcas_plan
from search._commands._source import (
    Source,
    SourceOptions,
    check_source,
    open_accuracy,
    open_images,
    open_space,
    trained_parts,
)
from search._data._images import ImageData
from search._problem._calibrate import calibrated
from search._problem._cost import compile_latency, compiled_digest, unlike_layers
from search._problem._resources import Budgets, NetworkResources, check_blocks, sample_within, unlimited
from search._runs._parts import (
    CALIBRATION,
    CHECKPOINTS,
    REPORT,
    WEIGHTS,
    hold_folder,
    refuse_finished,
    refuse_folder,
    refuse_settings,
)
from search._runs._sittings import SITTINGS, RunClock, resumed_text
from search.rcas._run import EVALUATIONS, RCAS_FILES, RcasPlan, RcasRun, check_end, rcas_stages, rcas_summary, run_rcas
from search.rcas._search import RcasSettings

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["RcasOptions", "check_exchange", "run_command"]

# How often a network is drawn anew that was drawn before.
MOST_DRAWS = 20


class RcasOptions(NamedTuple):
    """What was asked for, by the options' names.

    ``bound`` is ``predicted`` without a budget of ms: nobody asks for the upper end of an interval then. ``calibrate``
    is 0 where nothing is measured.
    """

    predictor: Path | None
    table: Path | None
    budgets: Budgets
    space: str
    types: str | None
    target: str | None
    batch: int | None
    search: RcasSettings
    bound: str
    level: float
    source: SourceOptions
    calibrate: int
    measure_s: float
    then: tuple[str, ...]
    output: Path
    restart: bool
    seed: int
    json: bool

    @property
    def early_bound(self) -> str:
        """What the budget of ms is for before a calibration, which gives the intervals."""
        return "predicted" if self.calibrate else self.bound

    @property
    def apart_from(self) -> tuple[str, ...]:
        """Fields of the plan that a calibration changes: what the predictor will say is not known before."""
        return ("latencies",) if self.calibrate else ()


class _Loaded(NamedTuple):
    """What a search is made of."""

    space: SearchSpace
    images: ImageData | None
    predictor: LatencyPredictor | None
    source: Source


def check_exchange(accuracy: str, *, exchange: bool, evaluations: int | None) -> None:
    """Raise where exchanges have no end, or an end is given to none."""
    if exchange and evaluations is None and accuracy == "train":
        raise UsageError(
            "each exchange may be a training, and there are thousands: give --evaluations N, the number of evaluated "
            "networks after which no exchange is tried"
        )
    if evaluations is not None and not exchange:
        raise UsageError("--evaluations limits exchanges alone: give --exchange as well, or leave it out")


def _check_options(asked: RcasOptions) -> None:
    """Raise what is wrong about options, before anything is loaded."""
    if not any(True for _ in asked.budgets.given()):
        raise UsageError("give a budget: --budget-ms, --budget-params or --budget-madds, or several of them")
    if asked.predictor is not None and asked.table is not None:
        raise UsageError("give either --predictor FOLDER or --table FILE")
    check_files(asked.predictor, asked.table)
    blind = asked.predictor is None and asked.table is None
    if (asked.budgets.ms is not None or "latency" in asked.search.rules) and blind:
        raise UsageError(
            "latency needs a predictor: give --predictor FOLDER (see fit-predictor) or --table FILE (see "
            f"profile-device --space {asked.space})"
        )
    if "onnx" in asked.then and blind:
        raise UsageError("--then onnx exports for a device's batch: give its --predictor or --table")
    check_level(asked.level)
    check_calibration(asked.calibrate, asked.level if asked.bound == "upper" else None)


def run_command(asked: RcasOptions) -> None:
    """Search, and print what came of it; see ``search-architecture rcas``."""
    _check_options(asked)
    blank = open_space(asked.space, asked.types, None)
    check_blocks(blank, "RCAS")
    check_source(asked.source, blank)
    if "onnx" in asked.then and "training" not in trained_parts(asked.source, blank):
        raise UsageError("--then onnx exports a trained network: give --data, and --train-epochs above 0")
    console = make_console(stderr=asked.json)
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr if asked.json else sys.stdout))
        stack.enter_context(hold_folder(asked.output, (*RCAS_FILES, CALIBRATION), restart=asked.restart))
        # By its own name: it may be installed under another.
        _refuse_other_settings(asked, blank.name)
        clock = RunClock(asked.output / CHECKPOINTS / SITTINGS, restart=asked.restart)
        loaded = _load(asked, stack, console)
        warnings = () if loaded.predictor is None else unlike_layers(loaded.space, loaded.predictor)
        resources, plan = _early_plan(asked, loaded)
        done = _done_before(asked, plan)
        if done is not None:
            console.print(done)
        if asked.calibrate and loaded.predictor is not None:
            loaded = loaded._replace(predictor=_calibrated(asked, resources, loaded.predictor, console))
            resources = NetworkResources(loaded.space, loaded.predictor, bound=asked.bound, level=asked.level)  # type: ignore[arg-type]
            plan = msgspec.structs.replace(plan, latencies=_latencies(resources))
            clock.keep()
        warnings += unlimited(resources, asked.budgets)
        print_rcas_plan(console, plan, resources)
        for line in warnings:
            console.print(f"warning: {line}", style="yellow")
        result, exported = _search(asked, loaded, plan, resources, warnings, clock, console)
    closing = closing_line(clock, resumed=done is not None)
    if asked.json:
        print_json({**rcas_summary(plan, result, resources), "output": str(asked.output), "exported": exported})
    else:
        print_rcas(console, result, resources, asked.output / REPORT)
        print_end(console, asked.output, RCAS_FILES, exported, closing)
    refuse_unmeasured(result.not_measured)


def _refuse_other_settings(asked: RcasOptions, space: str) -> None:
    """Raise where the folder holds a finished run, or one of other settings, as far as they are known by now."""
    refuse_finished(asked.output, restart=asked.restart)
    refuse_settings(
        asked.output,
        restart=asked.restart,
        space=space,
        budgets=asked.budgets,
        bound=asked.bound,
        level=asked.level,
        search=asked.search,
        data="" if asked.source.data == "none" else asked.source.data.partition(":")[0],
        calibrated=asked.calibrate,
        seed=asked.seed,
    )


def _load(asked: RcasOptions, stack: ExitStack, console: Console) -> _Loaded:
    """Return what the search is made of; processes that train end with the stack."""
    predictor = None
    if asked.predictor is not None or asked.table is not None:
        predictor, _ = open_predictor(
            asked.predictor, asked.table, target=asked.target, batch=asked.batch, seed=asked.seed, console=console
        )
    images = open_images(asked.source.data, asked.source.train_images, asked.source.test_images, asked.seed)
    space = open_space(asked.space, asked.types, images)
    return _Loaded(space, images, predictor, stack.enter_context(open_accuracy(asked.source, images, space)))


def _early_plan(asked: RcasOptions, loaded: _Loaded) -> tuple[NetworkResources, RcasPlan]:
    """Return the plan as it is before a calibration; mistakes are refused before a minute is spent."""
    resources = NetworkResources(loaded.space, loaded.predictor, bound=asked.early_bound, level=asked.level)  # type: ignore[arg-type]
    resources.check((0,) * len(loaded.space.choices), asked.budgets)
    check_end(resources, loaded.source.recipe, device=asked.source.devices[0])
    plan = _plan(asked, loaded, resources)
    refuse_folder(plan, asked.output, restart=asked.restart, apart_from=asked.apart_from)
    return resources, plan


def _done_before(asked: RcasOptions, plan: RcasPlan) -> str | None:
    """Return what earlier sittings have done, in words."""
    if asked.restart:
        return None
    return resumed_text(
        rcas_stages(plan, asked.output),
        calibrated=asked.calibrate > 0 and (asked.output / CALIBRATION).exists(),
        evaluated=kept_accuracies(asked.output / EVALUATIONS),
    )


def _calibrated(
    asked: RcasOptions, resources: NetworkResources, predictor: LatencyPredictor, console: Console
) -> LatencyPredictor:
    """Return the predictor calibrated on random networks within the budgets, which are measured now."""
    path = asked.output / CALIBRATION
    draws = iter(_drawn(asked, resources))
    with Phases(console) as phases:
        if asked.restart:
            path.unlink(missing_ok=True)
        phases.phase("Measuring networks of the space")
        return calibrated(
            resources.space,
            predictor,
            count=asked.calibrate,
            seconds=CALIBRATION_S,
            seed=asked.seed,
            sample=lambda _: next(draws),
            path=path,
            progress=phases.reporter().measure,
        )


def _drawn(asked: RcasOptions, resources: NetworkResources) -> list[tuple[int, ...]]:
    """Return random networks within the budgets, as few of them twice as can be.

    Raises:
        UsageError: they are too few different ones for an interval.
    """
    rng, vectors, drawn = Random(asked.seed), [], set()  # noqa: S311 - a sample, no secret
    for _ in range(asked.calibrate):
        # A network counts once, and tight budgets leave few: each is drawn anew a few times if it was there before.
        for _ in range(MOST_DRAWS):
            vector = sample_within(resources, asked.budgets, rng)
            if resources.canonical(vector) not in drawn:
                break
        drawn.add(resources.canonical(vector))
        vectors.append(vector)
    if asked.bound == "upper" and len(drawn) < (need := least_networks(resources.level)):
        raise UsageError(
            f"{len(drawn)} different networks were found within the budgets, and an interval of {resources.level:.0%} "
            f"needs {need} measured networks: give a larger budget, --calibrate 0, or --bound predicted"
        )
    return vectors


def _plan(asked: RcasOptions, loaded: _Loaded, resources: NetworkResources) -> RcasPlan:
    space, images, predictor, source = loaded
    return RcasPlan(
        space=space.name,
        space_options=dict(space.options),
        budgets=asked.budgets,
        bound=asked.bound,  # type: ignore[arg-type]
        level=asked.level,
        search=asked.search,
        accuracy=source.text,
        function=source.digest,
        held_out=source.held_out,
        early_stopped=source.judged,
        recipe=source.recipe,
        data=images.name if images is not None else "",
        data_digest=images.digest if images is not None else "",
        tables=() if predictor is None else tuple(table.sha256 for table in predictor.tables),
        latencies=_latencies(resources),
        calibrated=asked.calibrate,
        seed=asked.seed,
    )


def _latencies(resources: NetworkResources) -> str:
    """Return the digest of what the predictor says of the space; empty without one."""
    if resources.predictor is None:
        return ""
    return compiled_digest(compile_latency(resources.space, resources.predictor))


def _search(
    asked: RcasOptions,
    loaded: _Loaded,
    plan: RcasPlan,
    resources: NetworkResources,
    warnings: tuple[str, ...],
    clock: RunClock,
    console: Console,
) -> tuple[RcasRun, dict[str, str]]:
    """Run the plan; return what came of it, and what was exported, by kind."""
    exported: dict[str, str] = {}

    def export(found: RcasRun) -> None:
        if asked.then:
            network, weights = found.search.network, asked.output / WEIGHTS
            exported.update(
                hand_on(asked.then, network, found.base, weights, loaded.predictor, asked.output, shown.bars)
            )

    with clock, RcasPhases(console, plan, resources, clock.beat) as shown:
        result = run_rcas(
            plan,
            resources,
            loaded.source.function,
            asked.output,
            data=loaded.images,
            warnings=warnings,
            at_once=asked.search.at_once,
            device=asked.source.devices[0],
            measure_s=asked.measure_s,
            restart=asked.restart,
            keep_predictor=asked.table is not None or asked.calibrate > 0,
            hand_on=export,
            tell=shown.reporter(),
        )
    return result, exported

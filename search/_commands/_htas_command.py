"""What ``search-architecture htas`` does, step by step: refuse, load, calibrate, search, and say what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lut import LatencyTable, UsageError
from lut._console import make_console, print_json
from predictors import LatencyPredictor, measured_curves
from predictors._commands._inputs import open_predictor
from predictors._show import parse_alpha
from predictors._widths import WidthSelection
from search._commands._common import (
    CALIBRATION_S,
    closing_line,
    hand_on,
    print_end,
    refuse_unmeasured,
    training_device,
)
from search._commands._phases import Phases
from search._commands._show import print_plan, print_result
from search._commands._source import open_images
from search._data._images import ImageData, check_data
from search._problem._calibrate import calibrated
from search._problem._cost import NetworkCost, check_budget, make_cost, smallest, unlike_layers
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
from search._training._presets import check_settings, preset
from search.evolution._evolution import EvolutionSettings, check_pymoo
from search.htas._run import FILES, RunPlan, RunResult, check_plan, run_search, stages, summary, warnings_before
from search.spaces._resnet_cifar import ResNetCifar
from search.spaces._width_sets import (
    base_widths,
    hardware_aware_sets,
    predicted_curves,
    ratio_widths,
    selected_widths,
    uniform_widths,
)

if TYPE_CHECKING:
    from rich.console import Console

    from search._commands.htas import HtasOptions

__all__ = ["run_command"]

# A calibration hardly brings predictions down by more than this factor.
HOPELESS = 1.5


class _Loaded(NamedTuple):
    """What a search is made of: the space with its width set, and how that was chosen."""

    predictor: LatencyPredictor
    images: ImageData
    space: ResNetCifar
    selections: tuple[WidthSelection, ...]


def run_command(asked: HtasOptions) -> None:
    """Search, and print what came of it; see ``search-architecture htas``."""
    if asked.strategy == "evolution":
        check_pymoo()
    parse_alpha(asked.alpha)
    ResNetCifar(expand=asked.expand, depth=asked.depth)
    bred = EvolutionSettings(asked.population, asked.generations)
    check_settings(asked.changes)
    check_data(asked.data)
    trained_on = training_device(asked.device)
    console = make_console(stderr=asked.json)
    with hold_folder(asked.output, (*FILES, CALIBRATION), restart=asked.restart):
        _refuse_other_settings(asked, bred)
        clock = RunClock(asked.output / CHECKPOINTS / SITTINGS, restart=asked.restart)
        loaded = _load(asked, console)
        first = _early_plan(asked, loaded, trained_on)
        done = _done_before(asked, first)
        if done is not None:
            console.print(done)
        if asked.calibrate:
            loaded = loaded._replace(predictor=_calibrated(asked, loaded, console))
            clock.keep()
        cost = make_cost(loaded.space, loaded.predictor, kind=asked.cost, bound=asked.bound, level=asked.level)  # type: ignore[arg-type]
        plan = _plan(asked, cost, loaded.images)
        result, exported = _search(asked, loaded, plan, cost, trained_on, clock, console)
        closing = closing_line(clock, resumed=done is not None)
        if asked.json:
            content = summary(plan, result, loaded.predictor)
            print_json({**content, "output": str(asked.output), "exported": exported})
        else:
            print_result(console, result, asked.output / REPORT)
            print_end(console, asked.output, FILES, exported, closing)
        refuse_unmeasured(result.not_measured)


def _refuse_other_settings(asked: HtasOptions, bred: EvolutionSettings) -> None:
    """Raise where the folder holds a finished run, or one of other settings, as far as they are known by now."""
    refuse_finished(asked.output, restart=asked.restart)
    refuse_settings(
        asked.output,
        restart=asked.restart,
        depth=asked.depth,
        expand=asked.expand,
        groups=asked.groups,
        alpha=asked.alpha,
        widths=asked.widths,
        budget_ms=asked.budget_ms,
        cost=asked.cost,
        bound=asked.bound,
        level=asked.level,
        strategy=asked.strategy,
        evolution=bred,
        distil=asked.distil,
        data=asked.data.partition(":")[0],
        calibrated=asked.calibrate,
        seed=asked.seed,
    )


def _load(asked: HtasOptions, console: Console) -> _Loaded:
    predictor, table = open_predictor(
        asked.predictor, asked.table, target=asked.target, batch=asked.batch, seed=asked.seed, console=console
    )
    images = open_images(asked.data, asked.train_images, asked.test_images, asked.seed)
    if images is None:
        raise UsageError("a search needs images to train on: give --data")
    return _Loaded(predictor, images, *_space(asked, predictor, table, len(images.classes)))


def _space(
    asked: HtasOptions, predictor: LatencyPredictor, table: LatencyTable | None, classes: int
) -> tuple[ResNetCifar, tuple[WidthSelection, ...]]:
    """Return the space with its width set, and how that was chosen."""
    space = ResNetCifar(expand=asked.expand, depth=asked.depth, classes=classes)
    selections: tuple[WidthSelection, ...] = ()
    if asked.widths == "hardware":
        curves = predicted_curves(space, predictor) if table is None else measured_curves(table)
        selections = hardware_aware_sets(
            space, curves, groups=asked.groups, alpha=parse_alpha(asked.alpha), seed=asked.seed
        )
        options = selected_widths(selections)
    elif asked.widths == "uniform":
        options = uniform_widths(space, asked.groups)
    elif asked.widths == "ratios":
        options = ratio_widths(space)
    else:
        options = base_widths(space)
    made = ResNetCifar(
        expand=asked.expand,
        depth=asked.depth,
        widths=options,
        depths=asked.depths,  # type: ignore[arg-type]
        classes=classes,
    )
    return made, selections


def _early_plan(asked: HtasOptions, loaded: _Loaded, trained_on: str) -> RunPlan:
    """Return the plan as it is before a calibration; mistakes are refused before a minute is spent."""
    cost = make_cost(loaded.space, loaded.predictor, kind=asked.cost, bound=asked.early_bound, level=asked.level)  # type: ignore[arg-type]
    unlike_layers(loaded.space, loaded.predictor)
    plan = _plan(asked, cost, loaded.images)
    check_plan(plan, cost, loaded.images, device=trained_on)
    refuse_folder(plan, asked.output, restart=asked.restart, apart_from=asked.apart_from)
    if asked.budget_ms is not None:
        _refuse_hopeless(cost, asked.budget_ms, certain=not asked.calibrate)
    return plan


def _refuse_hopeless(cost: NetworkCost, budget_ms: float, *, certain: bool) -> None:
    """Raise where no network is within a budget.

    Args:
        cost: of the space's networks.
        budget_ms: the budget.
        certain: the predictor is not calibrated any more; otherwise only what no calibration will change is refused.
    """
    if certain or cost.predict(smallest(cost)).ms > HOPELESS * budget_ms:
        check_budget(cost, budget_ms)


def _done_before(asked: HtasOptions, plan: RunPlan) -> str | None:
    """Return what earlier sittings have done, in words."""
    if asked.restart:
        return None
    kept = asked.calibrate > 0 and (asked.output / CALIBRATION).exists()
    return resumed_text(stages(plan, asked.output), calibrated=kept)


def _calibrated(asked: HtasOptions, loaded: _Loaded, console: Console) -> LatencyPredictor:
    """Return the predictor calibrated on networks of the space, which are measured now."""
    path = asked.output / CALIBRATION
    with Phases(console) as phases:
        if asked.restart:
            path.unlink(missing_ok=True)
        phases.phase("Measuring networks of the space")
        return calibrated(
            loaded.space,
            loaded.predictor,
            count=asked.calibrate,
            seconds=CALIBRATION_S,
            seed=asked.seed,
            path=path,
            progress=phases.reporter().measure,
        )


def _plan(asked: HtasOptions, cost: NetworkCost, images: ImageData) -> RunPlan:
    penalty = asked.penalty
    if penalty is None:
        penalty = "linear" if asked.budget_ms is None or cost.kind == "madds" else "band"
    search, recipe = preset(
        images,
        penalty=penalty,
        weight=asked.weight,
        search_epochs=asked.search_epochs,
        train_epochs=asked.train_epochs,
        batch_size=asked.batch_size,
        changes=asked.changes,
    )
    return RunPlan(
        depth=cost.space.depth,
        expand=cost.space.expand,
        groups=asked.groups,
        alpha=asked.alpha,
        widths=asked.widths,  # type: ignore[arg-type]
        options=cost.space.widths,
        depths=cost.space.depths,
        budget_ms=asked.budget_ms,
        cost=cost.kind,
        bound=asked.bound,  # type: ignore[arg-type]
        level=cost.level,
        strategy=asked.strategy,  # type: ignore[arg-type]
        search=search,
        evolution=EvolutionSettings(asked.population, asked.generations),
        recipe=recipe,
        distil=asked.distil,
        data=images.name,
        data_digest=images.digest,
        tables=tuple(table.sha256 for table in cost.predictor.tables),
        latencies=cost.digest,
        calibrated=asked.calibrate,
        seed=asked.seed,
    )


def _search(
    asked: HtasOptions,
    loaded: _Loaded,
    plan: RunPlan,
    cost: NetworkCost,
    trained_on: str,
    clock: RunClock,
    console: Console,
) -> tuple[RunResult, dict[str, str]]:
    """Say what will be done, and do it; return what came of it, and what was exported, by kind."""
    warnings = warnings_before(plan, cost)
    print_plan(console, plan, cost, len(loaded.images.classes), warnings)
    exported: dict[str, str] = {}

    def export(found: RunResult) -> None:
        network, weights = found.search.network, asked.output / WEIGHTS
        exported.update(hand_on(asked.then, network, found.base, weights, loaded.predictor, asked.output, phases))

    with clock, Phases(console, clock.beat) as phases:
        result = run_search(
            plan,
            cost,
            loaded.images,
            asked.output,
            selections=loaded.selections,
            warnings=warnings,
            device=trained_on,
            measure_s=asked.measure_s,
            restart=asked.restart,
            keep_predictor=asked.table is not None,
            hand_on=export,
            tell=phases.reporter(),
        )
    return result, exported

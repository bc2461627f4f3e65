"""``search-architecture htas``: a network's widths and depths for a device and a budget in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lut._console import make_console, print_json
from search._commands._common import LARGEST_SEED

if TYPE_CHECKING:
    from rich.console import Console

    from lut import LatencyTable
    from predictors import LatencyPredictor
    from predictors._widths import WidthSelection
    from search._cost import NetworkCost
    from search._resnet_cifar import ResNetCifar
    from search._run import RunPlan, RunResult

__all__ = ["htas"]

# Latencies of networks of the space that were measured for the calibration.
KEPT = "calibration.json"
# A calibration hardly brings predictions down by more than this factor.
HOPELESS = 1.5


def htas(
    predictor: Annotated[
        Path | None,
        typer.Option(
            "--predictor", metavar="FOLDER", help="Predictor to ask for latencies: a folder written by fit-predictor."
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FILE",
            help="Lookup table to fit a predictor to: a file written by profile-device. Also shows how certain the "
            "hardware-aware widths are.",
        ),
    ] = None,
    budget_ms: Annotated[float | None, typer.Option("--budget-ms", help="Latency budget in ms. Default: none.")] = None,
    depth: Annotated[
        int,
        typer.Option("--depth", help="Layers of the base ResNet: 20, 32, 56, 110, or 164 (bottlenecks)."),
    ] = 20,
    widths: Annotated[
        str,
        typer.Option(
            "--widths",
            metavar="hardware|uniform|ratios|base",
            help="Widths to choose from. hardware: fast ones on the device (HTAS); uniform: an even grid of as "
            "many; ratios: 0.3 … 1.0 of the base widths (TAS); base: the base widths, to search depths only.",
        ),
    ] = "hardware",
    depths: Annotated[
        str,
        typer.Option(
            "--depths",
            metavar="tas|all|base",
            help="Blocks a stage may keep. tas: every other number (TAS); all: any number; base: all blocks, to "
            "search widths only.",
        ),
    ] = "tas",
    expand: Annotated[
        float,
        typer.Option("--expand", help="Largest width, as a multiple of the base width (HTAS: e)."),
    ] = 2.0,
    groups: Annotated[
        int,
        typer.Option("--groups", min=1, help="Number of widths to choose from per layer (HTAS: g)."),
    ] = 8,
    alpha: Annotated[
        str,
        typer.Option(
            "--alpha",
            metavar="NUMBER|auto",
            help="Exponent of the latency law that scores hardware-aware widths (HTAS: 1).",
        ),
    ] = "1",
    target: Annotated[
        str | None, typer.Option("--target", help="Fail unless the predictor is for this target.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Fail unless the predictor is for this batch size.")
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            metavar="gradient|evolution",
            help="gradient: learn option probabilities by gradient descent (HTAS, TAS); evolution: genetic "
            "algorithm (needs pymoo).",
        ),
    ] = "gradient",
    cost: Annotated[
        str,
        typer.Option(
            "--cost",
            metavar="law|table|madds",
            help="Cost term of the loss. law: latency of the mean width by the fitted law (HTAS eq. 8); table: "
            "expected latency; madds: multiply-adds, as a baseline.",
        ),
    ] = "law",
    penalty: Annotated[
        str | None,
        typer.Option(
            "--penalty",
            metavar="linear|band",
            help="linear: weight · cost (HTAS eq. 6); band: pull towards the budget from both sides (TAS). "
            "Default: band with a latency budget and a cost in ms, else linear.",
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option("--weight", help="Weight λ of the cost term. Default: TAS's 2, rescaled to the cost."),
    ] = None,
    bound: Annotated[
        str,
        typer.Option(
            "--bound",
            metavar="upper|predicted",
            help="What the latency budget limits: the upper end of the prediction interval, or the predicted latency.",
        ),
    ] = "upper",
    level: Annotated[
        float,
        typer.Option("--level", help="Probability that the prediction interval holds the latency."),
    ] = 0.9,
    search_epochs: Annotated[
        int | None,
        typer.Option(
            "--search-epochs",
            min=1,
            help="Search epochs, warm-up not counted. Default: TAS's 600; digits: 24 after 2 of warm-up.",
        ),
    ] = None,
    population: Annotated[int, typer.Option("--population", help="Population size of the evolution.")] = 24,
    generations: Annotated[int, typer.Option("--generations", help="Generations of the evolution.")] = 10,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, such as tau_schedule=cosine, samples=2, search.lr=0.1 or "
            "training.label_smoothing=0.1; can be repeated. docs/htas.md lists them.",
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="digits|cifar10:PATH|cifar100:PATH|images:PATH",
            help="Training data, 32×32 images: scikit-learn's digits, a CIFAR archive, or a folder or tar archive "
            "with one folder per class.",
        ),
    ] = "digits",
    train_images: Annotated[
        int | None, typer.Option("--train-images", min=1, help="Use at most N training images.")
    ] = None,
    test_images: Annotated[int | None, typer.Option("--test-images", min=1, help="Use at most N test images.")] = None,
    train_epochs: Annotated[
        int | None,
        typer.Option(
            "--train-epochs",
            min=1,
            help="Training epochs of the base network and the network found, warm-up not counted. Default: TAS's "
            "300 after 5 of warm-up; digits: 12 after 1.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=2, help="Training batch size. Default: 256; digits: 32."),
    ] = None,
    distil: Annotated[
        bool,
        typer.Option("--distil/--no-distil", help="Distil the base network into the network found."),
    ] = True,
    device: Annotated[
        str | None,
        typer.Option("--device", help="PyTorch device to train on, such as cpu or cuda. Default: cuda if available."),
    ] = None,
    calibrate: Annotated[
        int,
        typer.Option(
            "--calibrate",
            min=0,
            metavar="N",
            help="Before the search, measure N random networks of the space end to end for a minute and calibrate "
            "the predictor on them. 0, or --measure-seconds 0: skip.",
        ),
    ] = 24,
    measure_seconds: Annotated[
        float,
        typer.Option(
            "--measure-seconds",
            min=0.0,
            max=1e6,
            help="Seconds of measuring the network found against the base network at the end. 0: skip.",
        ),
    ] = 30.0,
    then: Annotated[
        list[str] | None,
        typer.Option(
            "--then",
            metavar="onnx|export-coreml",
            help="Export the network found. onnx: an ONNX file; export-coreml: a Core ML package, and a bundle "
            "with the base network to time on a phone. Can be repeated.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for all results.")] = Path(
        "htas-run"
    ),
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard the unfinished or finished run in that folder.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Random seed.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search a ResNet's widths and depths for a device, train the network found, and measure it.

    The search asks a predictor for latencies, so the network found is fast on that device and not just small. At the
    end it and the base network are measured on this machine, interleaved. If the run is interrupted, the same command
    resumes it.

    Example: search-architecture htas --predictor predictor/ --depth 32 --budget-ms 24 --data cifar10:PATH -o run/
    """
    from contextlib import ExitStack

    from lut import UsageError
    from lut._level import check_level
    from lut._suggest import check_word
    from search._commands._common import check_calibration, check_files, checked_then

    # All that can be refused is refused before anything is loaded, let alone measured; the quickest checks come first.
    if (predictor is None) == (table is None):
        raise UsageError("give either --predictor FOLDER (see fit-predictor) or --table FILE (see profile-device)")
    check_files(predictor, table)
    wanted = checked_then(then)
    for option, word, known in (
        ("--widths", widths, ("hardware", "uniform", "ratios", "base")),
        ("--depths", depths, ("tas", "all", "base")),
        ("--strategy", strategy, ("gradient", "evolution")),
        ("--cost", cost, ("law", "table", "madds")),
        ("--penalty", penalty or "linear", ("linear", "band")),
        ("--bound", bound, ("upper", "predicted")),
    ):
        check_word(option, word, known)
    # Without a budget nobody asks for the upper end of an interval.
    bound = bound if budget_ms is not None else "predicted"
    check_level(level)
    if budget_ms is not None and not 0 < budget_ms < float("inf"):
        raise UsageError(f"a budget is a positive number of ms, got {budget_ms:g}")
    if strategy == "evolution" and budget_ms is None:
        raise UsageError("an evolution searches under a budget: give --budget-ms")
    measured_first = calibrate if measure_seconds else 0
    check_calibration(measured_first, level if bound == "upper" else None)

    from predictors._show import parse_alpha
    from search._calibrate import calibrated
    from search._commands._common import CALIBRATION_S, closing_line, hand_on, open_predictor, training_device
    from search._commands._phases import Phases
    from search._commands._show import print_plan
    from search._cost import make_cost, unlike_layers
    from search._data import check_data, load_data, subset
    from search._evolution import EvolutionSettings, check_pymoo
    from search._presets import check_settings
    from search._resnet_cifar import ResNetCifar
    from search._run import FILES, check_plan, run_search, stages, warnings_before
    from search._run_parts import CHECKPOINTS, hold_folder, refuse_finished, refuse_folder, refuse_settings
    from search._sittings import SITTINGS, RunClock, resumed_text

    if strategy == "evolution":
        check_pymoo()
    parse_alpha(alpha)
    ResNetCifar(expand=expand, depth=depth)
    EvolutionSettings(population, generations)
    check_settings(set_ or [])
    check_data(data)
    trained_on = training_device(device)
    console = make_console(stderr=json)
    with ExitStack() as stack:
        stack.enter_context(hold_folder(output, (*FILES, KEPT), restart=restart))
        refuse_finished(output, restart=restart)
        refuse_settings(
            output,
            restart=restart,
            depth=depth,
            expand=expand,
            groups=groups,
            alpha=alpha,
            widths=widths,
            budget_ms=budget_ms,
            cost=cost,
            bound=bound,
            level=level,
            strategy=strategy,
            evolution=EvolutionSettings(population, generations),
            distil=distil,
            data=data.partition(":")[0],
            calibrated=measured_first,
            seed=seed,
        )
        clock = RunClock(output / CHECKPOINTS / SITTINGS, restart=restart)
        loaded, measured = open_predictor(predictor, table, target=target, batch=batch, seed=seed, console=console)
        images = load_data(data)
        if train_images is not None or test_images is not None:
            images = subset(images, train=train_images, test=test_images, seed=seed)
        classes = len(images.classes)
        space, selections = _space(
            loaded,
            measured,
            depth=depth,
            widths=widths,
            depths=depths,
            expand=expand,
            groups=groups,
            alpha=alpha,
            classes=classes,
            seed=seed,
        )

        def planned(known: NetworkCost) -> RunPlan:
            return _plan(
                known,
                images,
                budget_ms=budget_ms,
                widths=widths,
                groups=groups,
                alpha=alpha,
                bound=bound,
                strategy=strategy,
                penalty=penalty,
                weight=weight,
                search_epochs=search_epochs,
                train_epochs=train_epochs,
                batch_size=batch_size,
                population=population,
                generations=generations,
                distil=distil,
                settings=set_ or [],
                calibrated=measured_first,
                seed=seed,
            )

        # Mistakes are refused before a minute is spent.
        early = "predicted" if measured_first else bound
        before = make_cost(space, loaded, kind=cost, bound=early, level=level)  # type: ignore[arg-type]
        unlike_layers(space, loaded)
        first = planned(before)
        check_plan(first, before, images, device=trained_on)
        # What the predictor will say is not known before it is calibrated.
        refuse_folder(first, output, restart=restart, apart_from=("latencies",) if measured_first else ())
        if budget_ms is not None:
            _refuse_hopeless(before, budget_ms, certain=not measured_first)
        done = resumed_text(stages(first, output), calibrated=measured_first > 0 and (output / KEPT).exists())
        if restart:
            done = None
        if done is not None:
            console.print(done)
        if measured_first:
            with Phases(console) as phases:
                if restart:
                    (output / KEPT).unlink(missing_ok=True)
                phases.phase("Measuring networks of the space")
                loaded = calibrated(
                    space,
                    loaded,
                    count=measured_first,
                    seconds=CALIBRATION_S,
                    seed=seed,
                    path=output / KEPT,
                    progress=phases.reporter().measure,
                )
            clock.keep()
        costs = make_cost(space, loaded, kind=cost, bound=bound, level=level)  # type: ignore[arg-type]
        plan = planned(costs)
        warnings = warnings_before(plan, costs)
        print_plan(console, plan, costs, classes, warnings)
        with clock, Phases(console, clock.beat) as phases:
            exported: dict[str, str] = {}
            result = run_search(
                plan,
                costs,
                images,
                output,
                selections=selections,
                warnings=warnings,
                device=trained_on,
                measure_s=measure_seconds,
                restart=restart,
                keep_predictor=table is not None,
                hand_on=lambda found: exported.update(
                    hand_on(
                        wanted,
                        found.search.network,
                        found.base,
                        output / "weights.safetensors",
                        loaded,
                        output,
                        phases,
                    )
                ),
                tell=phases.reporter(),
            )
        closing = closing_line(clock, resumed=done is not None)
        _finish(console, plan, result, loaded, output, exported, closing=closing, json=json)


def _space(
    predictor: LatencyPredictor,
    table: LatencyTable | None,
    *,
    depth: int,
    widths: str,
    depths: str,
    expand: float,
    groups: int,
    alpha: str,
    classes: int,
    seed: int,
) -> tuple[ResNetCifar, tuple[WidthSelection, ...]]:
    """Return the space with its width set, and how that was chosen."""
    from predictors import measured_curves
    from predictors._show import parse_alpha
    from search._resnet_cifar import ResNetCifar
    from search._width_sets import (
        base_widths,
        hardware_aware_sets,
        predicted_curves,
        ratio_widths,
        selected_widths,
        uniform_widths,
    )

    space = ResNetCifar(expand=expand, depth=depth, classes=classes)
    selections: tuple[WidthSelection, ...] = ()
    if widths == "hardware":
        curves = predicted_curves(space, predictor) if table is None else measured_curves(table)
        selections = hardware_aware_sets(space, curves, groups=groups, alpha=parse_alpha(alpha), seed=seed)
        options = selected_widths(selections)
    elif widths == "uniform":
        options = uniform_widths(space, groups)
    elif widths == "ratios":
        options = ratio_widths(space)
    else:
        options = base_widths(space)
    made = ResNetCifar(expand=expand, depth=depth, widths=options, depths=depths, classes=classes)  # type: ignore[arg-type]
    return made, selections


def _refuse_hopeless(cost: NetworkCost, budget_ms: float, *, certain: bool) -> None:
    """Raise where no network is within a budget.

    Args:
        cost: of the space's networks.
        budget_ms: the budget.
        certain: the predictor is not calibrated any more; otherwise only what no calibration will change is refused.
    """
    from search._cost import check_budget, smallest

    if certain or cost.predict(smallest(cost)).ms > HOPELESS * budget_ms:
        check_budget(cost, budget_ms)


def _plan(
    cost: NetworkCost,
    data: Any,
    *,
    budget_ms: float | None,
    widths: str,
    groups: int,
    alpha: str,
    bound: str,
    strategy: str,
    penalty: str | None,
    weight: float | None,
    search_epochs: int | None,
    train_epochs: int | None,
    batch_size: int | None,
    population: int,
    generations: int,
    distil: bool,
    settings: list[str],
    calibrated: int,
    seed: int,
) -> RunPlan:
    from search._evolution import EvolutionSettings
    from search._presets import preset, with_settings
    from search._run import RunPlan

    if penalty is None:
        penalty = "linear" if budget_ms is None or cost.kind == "madds" else "band"
    search, recipe = preset(
        data,
        penalty=penalty,
        weight=weight,
        search_epochs=search_epochs,
        train_epochs=train_epochs,
        batch_size=batch_size,
    )
    search, recipe = with_settings(search, recipe, settings)
    return RunPlan(
        depth=cost.space.depth,
        expand=cost.space.expand,
        groups=groups,
        alpha=alpha,
        widths=widths,  # type: ignore[arg-type]
        options=cost.space.widths,
        depths=cost.space.depths,
        budget_ms=budget_ms,
        cost=cost.kind,
        bound=bound,  # type: ignore[arg-type]
        level=cost.level,
        strategy=strategy,  # type: ignore[arg-type]
        search=search,
        evolution=EvolutionSettings(population, generations),
        recipe=recipe,
        distil=distil,
        data=data.name,
        data_digest=data.digest,
        tables=tuple(table.sha256 for table in cost.predictor.tables),
        latencies=cost.digest,
        calibrated=calibrated,
        seed=seed,
    )


def _finish(
    console: Console,
    plan: RunPlan,
    result: RunResult,
    predictor: LatencyPredictor,
    output: Path,
    exported: dict[str, str],
    *,
    closing: str,
    json: bool,
) -> None:
    from lut.errors import IncompleteError
    from search._commands._show import print_result
    from search._run import FILES, summary
    from search._run_parts import NOT_ASKED, REPORT

    if json:
        content = {**summary(plan, result, predictor), "output": str(output), "exported": exported}
        print_json(content)
    else:
        print_result(console, result, output / REPORT)
        console.print()
        console.print(closing)
        for name, what in FILES.items():
            if name in ("network.json", "weights.safetensors", "report.html"):
                console.print(f"{output / name}  {what}")
        for kind, path in exported.items():
            console.print(f"{path}  {kind}")
    if result.measured is None and result.not_measured != NOT_ASKED:
        raise IncompleteError(f"the network found could not be measured: {result.not_measured}")

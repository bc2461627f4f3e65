"""``search-architecture htas``: a network's widths and depths for a device and a budget in milliseconds."""

from __future__ import annotations

import time
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

WHAT = "What is searched"
HOW = "How it is searched"
DATA = "Data and training"


def htas(
    predictor: Annotated[
        Path | None, typer.Option("--predictor", metavar="FOLDER", help="A predictor, as fit-predictor writes it.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FILE",
            help="A table, as profile-device writes it: fits a predictor on the way, and says how sure the "
            "hardware-aware widths are.",
        ),
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option("--budget-ms", help="The network may take so many ms. Default: no limit.")
    ] = None,
    depth: Annotated[
        int,
        typer.Option(
            "--depth", help="Of the base network: 20, 32, 56, 110, or 164 (bottlenecks).", rich_help_panel=WHAT
        ),
    ] = 20,
    widths: Annotated[
        str,
        typer.Option(
            "--widths",
            metavar="hardware|uniform|ratios|base",
            help="hardware: those that the device likes (HTAS); uniform: a plain grid of as many; ratios: TAS's, "
            "0.3 … 1.0 of the base network's; base: the base network's, so that only depths are searched.",
            rich_help_panel=WHAT,
        ),
    ] = "hardware",
    depths: Annotated[
        str,
        typer.Option(
            "--depths",
            metavar="tas|all|base",
            help="Blocks that a stage may keep: TAS's every other number, every number, or the base network's alone, "
            "so that only widths are searched.",
            rich_help_panel=WHAT,
        ),
    ] = "tas",
    expand: Annotated[
        float,
        typer.Option(
            "--expand", help="Widest layer, in multiples of the base network's (HTAS: e).", rich_help_panel=WHAT
        ),
    ] = 2.0,
    groups: Annotated[
        int,
        typer.Option("--groups", min=1, help="Widths to choose from in each stage (HTAS: g).", rich_help_panel=WHAT),
    ] = 8,
    alpha: Annotated[
        str,
        typer.Option(
            "--alpha",
            metavar="NUMBER|auto",
            help="Exponent of the law that hardware-aware widths are scored by (HTAS: 1).",
            rich_help_panel=WHAT,
        ),
    ] = "1",
    target: Annotated[
        str | None, typer.Option("--target", help="Insist on a predictor of this target.", rich_help_panel=WHAT)
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Insist on a predictor of this batch.", rich_help_panel=WHAT)
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            metavar="gradient|evolution",
            help="gradient: probabilities of all options, learnt (HTAS, TAS); evolution: networks bred (pymoo).",
            rich_help_panel=HOW,
        ),
    ] = "gradient",
    cost: Annotated[
        str,
        typer.Option(
            "--cost",
            metavar="law|table|madds",
            help="What the loss charges: the mean width's latency by the fitted law (HTAS eq. 8), the expected latency "
            "itself, or multiply-adds, to compare.",
            rich_help_panel=HOW,
        ),
    ] = "law",
    penalty: Annotated[
        str | None,
        typer.Option(
            "--penalty",
            metavar="linear|band",
            help="linear: weight · cost (HTAS eq. 6); band: TAS's, pulls towards the budget from both sides. Default: "
            "band with a budget in ms for a cost in ms, else linear.",
            rich_help_panel=HOW,
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option("--weight", help="λ. Default: TAS's 2, brought to scale.", rich_help_panel=HOW),
    ] = None,
    bound: Annotated[
        str,
        typer.Option(
            "--bound",
            metavar="upper|predicted",
            help="What the budget is for: the upper end of the prediction's interval, or the prediction.",
            rich_help_panel=HOW,
        ),
    ] = "upper",
    level: Annotated[
        float,
        typer.Option("--level", help="The interval holds the latency with this probability.", rich_help_panel=HOW),
    ] = 0.9,
    search_epochs: Annotated[
        int | None,
        typer.Option("--search-epochs", min=1, help="Default: TAS's 600; digits 24.", rich_help_panel=HOW),
    ] = None,
    population: Annotated[int, typer.Option("--population", help="Of an evolution.", rich_help_panel=HOW)] = 24,
    generations: Annotated[int, typer.Option("--generations", help="Of an evolution.", rich_help_panel=HOW)] = 10,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, such as tau_schedule=cosine, samples=2, logits_lr=0.01, selection=best, "
            "search.lr=0.1, training.label_smoothing=0.1; may be given several times. docs/htas.md lists them.",
            rich_help_panel=HOW,
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="digits|cifar10:PATH|cifar100:PATH|images:PATH",
            help="Images of 32×32: scikit-learn's digits, a CIFAR archive, or a folder or tar of class folders.",
            rich_help_panel=DATA,
        ),
    ] = "digits",
    train_images: Annotated[
        int | None, typer.Option("--train-images", min=1, help="Use so many of them only.", rich_help_panel=DATA)
    ] = None,
    test_images: Annotated[
        int | None, typer.Option("--test-images", min=1, help="Likewise.", rich_help_panel=DATA)
    ] = None,
    train_epochs: Annotated[
        int | None,
        typer.Option(
            "--train-epochs",
            min=1,
            help="Of base network and winner. Default: TAS's 300; digits 12.",
            rich_help_panel=DATA,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=2, help="Images a training step. Default: 256; digits 32.", rich_help_panel=DATA
        ),
    ] = None,
    distil: Annotated[
        bool,
        typer.Option("--distil/--no-distil", help="Have the base network teach the one found.", rich_help_panel=DATA),
    ] = True,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="Where to train: cpu, cuda … Default: cuda where there is one.", rich_help_panel=DATA
        ),
    ] = None,
    calibrate: Annotated[
        int,
        typer.Option(
            "--calibrate",
            min=0,
            metavar="N",
            help="First measure N random networks of the space whole, and calibrate the predictor on them; a minute. "
            "Not where nothing is measured. 0: take the predictor as it is.",
        ),
    ] = 24,
    measure_seconds: Annotated[
        float,
        typer.Option(
            "--measure-seconds", min=0.0, max=1e6, help="For measuring winner and base in the end; 0: do not measure."
        ),
    ] = 30.0,
    then: Annotated[
        list[str] | None,
        typer.Option(
            "--then",
            metavar="onnx|export-coreml",
            help="Hand the network found on: as an ONNX file; or as a Core ML package, with a bundle of it and the "
            "base network to be timed on a phone. May be given twice.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything goes.")] = Path(
        "htas-run"
    ),
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an interrupted or finished run in that folder.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of all randomness.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search a ResNet's widths and depths for a device, train the network found, and measure it.

    The search asks a predictor for latencies, so that the result is fast on that device, and not just small. In the end
    the network found and the base network are measured in turns on this machine. If the run is interrupted, the same
    command goes on from there.

    Example: search-architecture htas --predictor predictor/ --depth 32 --budget-ms 24 --data cifar10:PATH -o run/
    """
    from contextlib import ExitStack

    from lut import UsageError
    from search._calibrate import calibrated
    from search._commands._common import (
        CALIBRATION_S,
        check_calibration,
        checked_then,
        hand_on,
        open_predictor,
        training_device,
    )
    from search._commands._phases import Phases
    from search._commands._show import print_plan
    from search._cost import make_cost, unlike_layers
    from search._data import load_data, subset
    from search._evolution import check_pymoo
    from search._run import FILES, check_plan, run_search
    from search._run_parts import hold_folder, refuse_finished, refuse_folder

    if (predictor is None) == (table is None):
        raise UsageError("give either --predictor FOLDER (see fit-predictor) or --table FILE (see profile-device)")
    wanted = checked_then(then)
    if bound not in ("upper", "predicted"):
        raise UsageError(f"--bound is upper or predicted, got {bound!r}")
    # Without a budget nobody asks for the upper end of an interval.
    bound = bound if budget_ms is not None else "predicted"
    if not 0 < level < 1:
        raise UsageError(f"--level lies between 0 and 1, such as 0.9, got {level}")
    measured_first = calibrate if measure_seconds else 0
    check_calibration(measured_first, level if bound == "upper" else None)
    if strategy == "evolution":
        check_pymoo()
    trained_on = training_device(device)
    console = make_console(stderr=json)
    with ExitStack() as stack:
        stack.enter_context(hold_folder(output, (*FILES, "calibration.json")))
        refuse_finished(output, restart=restart)
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

        if measured_first:
            # Mistakes are refused before a minute is spent.
            before = make_cost(space, loaded, kind=cost, bound="predicted", level=level)  # type: ignore[arg-type]
            unlike_layers(space, loaded)
            first = planned(before)
            check_plan(first, before, images, device=trained_on)
            # What the predictor will say is not known before it is calibrated.
            refuse_folder(first, output, restart=restart, apart_from=("latencies",))
            with Phases(console) as phases:
                if restart:
                    (output / "calibration.json").unlink(missing_ok=True)
                phases.phase("Measuring networks of the space")
                loaded = calibrated(
                    space,
                    loaded,
                    count=measured_first,
                    seconds=CALIBRATION_S,
                    seed=seed,
                    path=output / "calibration.json",
                    progress=phases.reporter().measure,
                )
        costs = _cost(space, loaded, kind=cost, bound=bound, level=level, console=console)
        plan = planned(costs)
        print_plan(console, plan, costs, classes)
        began = time.monotonic()
        with Phases(console) as phases:
            exported: dict[str, str] = {}
            result = run_search(
                plan,
                costs,
                images,
                output,
                selections=selections,
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
        _finish(console, plan, result, loaded, output, exported, seconds=time.monotonic() - began, json=json)


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
    from lut import UsageError
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
    elif widths == "base":
        options = base_widths(space)
    else:
        raise UsageError(f"--widths is hardware, uniform, ratios or base, got {widths!r}")
    made = ResNetCifar(expand=expand, depth=depth, widths=options, depths=depths, classes=classes)  # type: ignore[arg-type]
    return made, selections


def _cost(
    space: ResNetCifar, predictor: LatencyPredictor, *, kind: str, bound: str, level: float, console: Console
) -> NetworkCost:
    from search._cost import make_cost, unlike_layers

    cost = make_cost(space, predictor, kind=kind, bound=bound, level=level)  # type: ignore[arg-type]
    for line in unlike_layers(space, predictor):
        console.print(f"warning: {line}", style="yellow")
    return cost


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
    from lut import UsageError
    from search._evolution import EvolutionSettings
    from search._presets import preset, with_settings
    from search._run import RunPlan

    if strategy not in ("gradient", "evolution"):
        raise UsageError(f"--strategy is gradient or evolution, got {strategy!r}")
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
    seconds: float,
    json: bool,
) -> None:
    from lut.errors import IncompleteError
    from search._commands._phases import duration
    from search._commands._show import print_result
    from search._run import FILES, summary
    from search._run_parts import NOT_ASKED

    if json:
        content = {**summary(plan, result, predictor), "output": str(output), "exported": exported}
        print_json(content)
    else:
        print_result(console, result)
        console.print()
        console.print(f"{duration(seconds)} in all")
        for name, what in FILES.items():
            if name in ("network.json", "weights.safetensors", "report.html"):
                console.print(f"{output / name}  {what}")
        for kind, path in exported.items():
            console.print(f"{path}  {kind}")
    if result.measured is None and result.not_measured != NOT_ASKED:
        raise IncompleteError(f"the network found could not be measured: {result.not_measured}")

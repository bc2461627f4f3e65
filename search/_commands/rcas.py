"""``search-architecture rcas``: the most accurate network within budgets of milliseconds, parameters, multiply-adds."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lut._console import make_console, print_json
from search._commands._common import LARGEST_SEED

if TYPE_CHECKING:
    from rich.console import Console

    from lut import SearchSpace
    from predictors import LatencyPredictor
    from search._commands._phases import Phases
    from search._commands._source import Source
    from search._data import ImageData
    from search._rcas import RcasSettings
    from search._rcas_run import RcasPlan, RcasRun
    from search._resources import Budgets, NetworkResources

__all__ = ["rcas"]

WHAT = "What is searched"
HOW = "How it is searched"
DATA = "Data and training"
MOST_DRAWS = 20


def rcas(
    predictor: Annotated[
        Path | None, typer.Option("--predictor", metavar="FOLDER", help="A predictor, as fit-predictor writes it.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="FILE", help="A table, as profile-device writes it: fits a predictor first."),
    ] = None,
    budget_ms: Annotated[float | None, typer.Option("--budget-ms", help="The network may take so many ms.")] = None,
    budget_params: Annotated[
        float | None, typer.Option("--budget-params", help="It may have so many parameters, such as 2.4e6.")
    ] = None,
    budget_madds: Annotated[
        float | None,
        typer.Option("--budget-madds", help="It may make so many multiply-adds an image, such as 91.1e6."),
    ] = None,
    space: Annotated[
        str,
        typer.Option(
            "--space",
            help="An installed space whose first options mean nothing: rcnet-cifar, rcnet-imagenet, nas-bench-macro.",
            rich_help_panel=WHAT,
        ),
    ] = "rcnet-cifar",
    types: Annotated[
        str | None,
        typer.Option(
            "--types", metavar="1,2,…", help="Types of RCNet's blocks to use. Default: all six.", rich_help_panel=WHAT
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Insist on a predictor of this target.", rich_help_panel=WHAT)
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Insist on a predictor of this batch.", rich_help_panel=WHAT)
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules",
            metavar="uniform,params,madds,latency",
            help="What a block's gain is divided by; the best of the rules' results wins. Default: uniform (nothing), "
            "and each budget's.",
            rich_help_panel=HOW,
        ),
    ] = None,
    lazy: Annotated[
        bool,
        typer.Option(
            "--lazy/--no-lazy",
            help="Evaluate only blocks that may come out on top, or all that fit, in every step.",
            rich_help_panel=HOW,
        ),
    ] = True,
    exchange: Annotated[
        bool,
        typer.Option(
            "--exchange",
            help="Afterwards change up to three blocks at a time (two in a space as large as RCNet's) as long as that "
            "helps. Not in the paper. With trainings --evaluations must say where to end.",
            rich_help_panel=HOW,
        ),
    ] = False,
    evaluations: Annotated[
        int | None,
        typer.Option("--evaluations", min=1, help="No more exchanges beyond so many networks.", rich_help_panel=HOW),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            "--at-once",
            min=1,
            help="Blocks on top of the order that are evaluated together: more waste some evaluations. Default: 2 "
            "where they are trained, else 1. As many are trained side by side, at least one a core or GPU.",
            rich_help_panel=HOW,
        ),
    ] = None,
    stop_without_gain: Annotated[
        bool,
        typer.Option(
            "--stop-without-gain",
            help="End a path where no block gains; the paper's fill the budget.",
            rich_help_panel=HOW,
        ),
    ] = False,
    bound: Annotated[
        str,
        typer.Option(
            "--bound",
            metavar="upper|predicted",
            help="What the budget of ms is for: the upper end of the prediction's interval, or the prediction.",
            rich_help_panel=HOW,
        ),
    ] = "upper",
    level: Annotated[
        float,
        typer.Option("--level", help="The interval holds the latency with this probability.", rich_help_panel=HOW),
    ] = 0.9,
    accuracy: Annotated[
        str,
        typer.Option(
            "--accuracy",
            metavar="train|table:FILE|FILE.py:NAME",
            help="How good a network is: by a short training, by NAS-Bench-Macro's file, or by a function of yours "
            "that takes a lut.Network.",
            rich_help_panel=DATA,
        ),
    ] = "train",
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="digits|cifar10:PATH|cifar100:PATH|images:PATH|none",
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
    held_out: Annotated[
        int | None,
        typer.Option(
            "--held-out",
            min=1,
            help="Training images of each class that networks are judged by. Default: RCAS's 10.",
            rich_help_panel=DATA,
        ),
    ] = None,
    search_epochs: Annotated[
        int | None,
        typer.Option(
            "--search-epochs",
            min=1,
            help="Of training a network to judge it. Default: RCAS's 10; digits 2.",
            rich_help_panel=DATA,
        ),
    ] = None,
    train_epochs: Annotated[
        int | None,
        typer.Option(
            "--train-epochs",
            min=0,
            help="Of baseline and network found; 0: do not train. Default: RCAS's 200; digits 12.",
            rich_help_panel=DATA,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=2, help="Images a training step. Default: 128; digits 32.", rich_help_panel=DATA
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of the trainings, such as search.lr=0.05, training.label_smoothing=0.1; may be "
            "given several times. docs/rcas.md lists them.",
            rich_help_panel=DATA,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="Where to train: cpu, cuda, or several: cuda:0,cuda:1. Default: cuda where there is one.",
            rich_help_panel=DATA,
        ),
    ] = None,
    calibrate: Annotated[
        int,
        typer.Option(
            "--calibrate",
            min=0,
            metavar="N",
            help="First measure N random networks within the budgets whole, and calibrate the predictor on them; a "
            "minute. Not where nothing is measured. 0: take the predictor as it is.",
        ),
    ] = 24,
    measure_seconds: Annotated[
        float,
        typer.Option(
            "--measure-seconds",
            min=0.0,
            max=1e6,
            help="For measuring the network found beside MobileNetV2; 0: do not measure.",
        ),
    ] = 30.0,
    then: Annotated[
        list[str] | None,
        typer.Option(
            "--then",
            metavar="onnx|export-coreml",
            help="Hand the network found on: as an ONNX file; or as a Core ML package, with a bundle of it and "
            "MobileNetV2 to be timed on a phone. May be given twice.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything goes.")] = Path(
        "rcas-run"
    ),
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an interrupted or finished run in that folder.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of all randomness.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fill the positions of a network with blocks, the most useful first, until a budget is exhausted (RCAS).

    Each candidate is trained for a few epochs and judged by images held out; most of them need not be, since gains
    seldom rise. In the end the network found and MobileNetV2 are trained by one recipe and measured in turns on this
    machine. All evaluations are kept: if the run is interrupted, the same command goes on from there.

    Example: search-architecture rcas --predictor predictor/ --budget-ms 5 --budget-params 2.4e6 -o run/
    """
    from contextlib import redirect_stdout
    from sys import stderr, stdout

    import msgspec

    from lut import UsageError
    from search._commands._common import check_calibration, checked_then, hand_on, open_predictor, training_device
    from search._commands._phases import Phases
    from search._commands._rcas_show import RcasPhases, print_rcas_plan
    from search._commands._source import AT_ONCE, open_accuracy, open_images, open_space, workers_for
    from search._rcas import RcasSettings
    from search._rcas_run import RCAS_FILES, check_end, run_rcas
    from search._resources import Budgets, NetworkResources
    from search._run_parts import hold_folder, refuse_finished, refuse_folder

    budgets = Budgets(ms=budget_ms, parameters=budget_params, madds=budget_madds)
    if not any(True for _ in budgets.given()):
        raise UsageError("give a budget: --budget-ms, --budget-params or --budget-madds, or several of them")
    if predictor is not None and table is not None:
        raise UsageError("give either --predictor FOLDER or --table FILE")
    named = tuple(word.strip() for word in rules.split(",")) if rules is not None else ()
    if (budget_ms is not None or "latency" in named) and predictor is None and table is None:
        raise UsageError(
            "latency needs a predictor: give --predictor FOLDER (see fit-predictor) or --table FILE (see "
            f"profile-device --space {space})"
        )
    wanted = checked_then(then)
    if "onnx" in wanted and predictor is None and table is None:
        raise UsageError("--then onnx exports for a device's batch: give its --predictor or --table")
    if bound not in ("upper", "predicted"):
        raise UsageError(f"--bound is upper or predicted, got {bound!r}")
    if exchange and evaluations is None and accuracy == "train":
        raise UsageError(
            "each exchange that is tried may be a training, and there are thousands: say with --evaluations beyond how "
            "many networks in all none is tried"
        )
    if evaluations is not None and not exchange:
        raise UsageError("--evaluations limits exchanges alone: give --exchange, too, or leave it away")
    # Without a budget nobody asks for the upper end of an interval.
    bound = bound if budget_ms is not None else "predicted"
    measured_first = calibrate if measure_seconds and (predictor or table) is not None else 0
    check_calibration(measured_first, level if bound == "upper" else None)
    devices = tuple(training_device(name.strip() or None) for name in (device or "").split(","))
    console = make_console(stderr=json)
    settings = RcasSettings(
        rules=named,
        lazy=lazy,
        at_once=at_once or (AT_ONCE if accuracy == "train" else 1),
        stop_without_gain=stop_without_gain,
        exchange=exchange,
        evaluations=evaluations,
    )
    with ExitStack() as stack, redirect_stdout(stderr if json else stdout):
        stack.enter_context(hold_folder(output, (*RCAS_FILES, "calibration.json")))
        refuse_finished(output, restart=restart)
        loaded = None
        if predictor is not None or table is not None:
            loaded, _ = open_predictor(predictor, table, target=target, batch=batch, seed=seed, console=console)
        images = open_images(data, train_images, test_images, seed)
        opened = open_space(space, types, images)
        source = open_accuracy(
            accuracy,
            images,
            opened,
            held_out=held_out,
            search_epochs=search_epochs,
            train_epochs=train_epochs,
            batch_size=batch_size,
            changes=set_ or [],
            devices=devices,
            workers=workers_for(devices, settings.at_once),
            seed=seed,
        )
        if (close := getattr(source.function, "close", None)) is not None:
            stack.callback(close)
        if "onnx" in wanted and source.recipe is None:
            raise UsageError("--then onnx exports a trained network: give --data, and --train-epochs above 0")
        # Mistakes are refused before a minute is spent.
        warnings = _checked_layers(opened, loaded)
        resources = NetworkResources(
            opened,
            loaded,
            bound="predicted" if measured_first else bound,  # type: ignore[arg-type]
            level=level,
        )
        resources.check((0,) * len(opened.choices), budgets)
        check_end(resources, source.recipe, device=devices[0])
        plan = _plan(resources, budgets, settings, source, images, bound=bound, calibrated=measured_first, seed=seed)
        if measured_first and loaded is not None:
            # What the predictor will say is not known before it is calibrated.
            refuse_folder(plan, output, restart=restart, apart_from=("latencies",))
            with Phases(console) as phases:
                loaded = _calibrated(
                    resources,
                    budgets,
                    loaded,
                    measured_first,
                    seed,
                    output,
                    bound=bound,
                    restart=restart,
                    phases=phases,
                )
            resources = NetworkResources(opened, loaded, bound=bound, level=level)  # type: ignore[arg-type]
            plan = msgspec.structs.replace(plan, latencies=_latencies(resources))
        print_rcas_plan(console, plan, resources)
        for line in warnings:
            console.print(f"warning: {line}", style="yellow")
        began = time.monotonic()
        exported: dict[str, str] = {}

        def export(found: RcasRun) -> None:
            if wanted:
                weights = output / "weights.safetensors"
                exported.update(hand_on(wanted, found.search.network, found.base, weights, loaded, output, shown.bars))

        with RcasPhases(console, plan, resources) as shown:
            result = run_rcas(
                plan,
                resources,
                source.function,
                output,
                data=images,
                at_once=settings.at_once,
                device=devices[0],
                measure_s=measure_seconds,
                restart=restart,
                keep_predictor=table is not None or measured_first > 0,
                hand_on=export,
                tell=shown.reporter(),
            )
    _finish(console, plan, result, resources, output, exported, seconds=time.monotonic() - began, json=json)


def _checked_layers(space: SearchSpace, predictor: LatencyPredictor | None) -> tuple[str, ...]:
    """Return what is to be said of layers that a predictor knows little of.

    Raises:
        TableError: layers of some kind were not measured at all; names the command that measures them.
    """
    from search._cost import unlike_layers

    if predictor is None:
        return ()
    return unlike_layers(space, predictor)


def _calibrated(
    resources: NetworkResources,
    budgets: Budgets,
    predictor: LatencyPredictor,
    count: int,
    seed: int,
    output: Path,
    *,
    bound: str,
    restart: bool,
    phases: Phases,
) -> LatencyPredictor:
    """Return the predictor calibrated on random networks within the budgets, which are measured now."""
    from random import Random

    from lut import UsageError
    from predictors._interval import least_networks
    from search._calibrate import calibrated
    from search._commands._common import CALIBRATION_S
    from search._resources import sample_within

    path = output / "calibration.json"
    if restart:
        path.unlink(missing_ok=True)
    rng, vectors, drawn = Random(seed), [], set()  # noqa: S311 - a sample, no secret
    for _ in range(count):
        # A network counts once, and tight budgets leave few: each is drawn anew a few times if it was there before.
        for _ in range(MOST_DRAWS):
            vector = sample_within(resources, budgets, rng)
            if resources.canonical(vector) not in drawn:
                break
        drawn.add(resources.canonical(vector))
        vectors.append(vector)
    if bound == "upper" and len(drawn) < (need := least_networks(resources.level)):
        raise UsageError(
            f"{len(drawn)} different networks were found within the budgets, and an interval of {resources.level:.0%} "
            f"needs {need} measured whole: give a larger budget, --calibrate 0, or --bound predicted"
        )
    draws = iter(vectors)
    phases.phase("Measuring networks of the space")
    return calibrated(
        resources.space,
        predictor,
        count=count,
        seconds=CALIBRATION_S,
        seed=seed,
        sample=lambda _: next(draws),
        path=path,
        progress=phases.reporter().measure,
    )


def _plan(
    resources: NetworkResources,
    budgets: Budgets,
    settings: RcasSettings,
    source: Source,
    images: ImageData | None,
    *,
    bound: str,
    calibrated: int,
    seed: int,
) -> RcasPlan:
    from search._rcas_run import RcasPlan

    space, predictor = resources.space, resources.predictor
    return RcasPlan(
        space=space.name,
        space_options=dict(space.options),
        budgets=budgets,
        bound=bound,  # type: ignore[arg-type]
        level=resources.level,
        search=settings,
        accuracy=source.text,
        function=source.digest,
        held_out=source.held_out,
        early_stopped=source.judged,
        recipe=source.recipe,
        data=images.name if images is not None else "",
        data_digest=images.digest if images is not None else "",
        tables=() if predictor is None else tuple(table.sha256 for table in predictor.tables),
        latencies=_latencies(resources),
        calibrated=calibrated,
        seed=seed,
    )


def _latencies(resources: NetworkResources) -> str:
    """Return the digest of what the predictor says of the space; empty without one."""
    from search._cost import compile_latency, compiled_digest

    if resources.predictor is None:
        return ""
    return compiled_digest(compile_latency(resources.space, resources.predictor))


def _finish(
    console: Console,
    plan: RcasPlan,
    result: RcasRun,
    resources: NetworkResources,
    output: Path,
    exported: dict[str, str],
    *,
    seconds: float,
    json: bool,
) -> None:
    from lut.errors import IncompleteError
    from search._commands._phases import duration
    from search._commands._rcas_show import print_rcas
    from search._rcas_run import RCAS_FILES, rcas_summary
    from search._run_parts import NOT_ASKED

    if json:
        content = {**rcas_summary(plan, result, resources), "output": str(output), "exported": exported}
        print_json(content)
    else:
        print_rcas(console, result, resources)
        console.print()
        console.print(f"{duration(seconds)} in all")
        for name, what in RCAS_FILES.items():
            if name in ("network.json", "weights.safetensors", "report.html") and (output / name).exists():
                console.print(f"{output / name}  {what}")
        for kind, path in exported.items():
            console.print(f"{path}  {kind}")
    if result.measured is None and result.not_measured != NOT_ASKED:
        raise IncompleteError(f"the network found could not be measured: {result.not_measured}")

"""``search-architecture rcas``: the most accurate network within budgets of milliseconds, parameters, multiply-adds."""

from __future__ import annotations

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

MOST_DRAWS = 20
# Latencies of networks of the space that were measured for the calibration, and accuracies.
KEPT, EVALUATIONS = "calibration.json", "evaluations.jsonl"


def rcas(
    predictor: Annotated[
        Path | None,
        typer.Option(
            "--predictor", metavar="FOLDER", help="Predictor to ask for latencies: a folder written by fit-predictor."
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", metavar="FILE", help="Lookup table to fit a predictor to: a file written by profile-device."
        ),
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option("--budget-ms", help="Latency budget in ms. At least one budget is needed.")
    ] = None,
    budget_params: Annotated[
        float | None, typer.Option("--budget-params", help="Budget of parameters, such as 2.4e6.")
    ] = None,
    budget_madds: Annotated[
        float | None,
        typer.Option("--budget-madds", help="Budget of multiply-adds per image, such as 91.1e6."),
    ] = None,
    space: Annotated[
        str,
        typer.Option(
            "--space",
            help="Installed space of blocks whose first option is none: rcnet-cifar, rcnet-imagenet, nas-bench-macro.",
        ),
    ] = "rcnet-cifar",
    types: Annotated[
        str | None,
        typer.Option("--types", metavar="1,2,…", help="RCNet block types to use. Default: all six."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Fail unless the predictor is for this target.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Fail unless the predictor is for this batch size.")
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules",
            metavar="uniform,params,madds,latency",
            help="What a block's gain is divided by; the best result of all rules wins. Default: uniform "
            "(nothing), and the quantity of each budget.",
        ),
    ] = None,
    lazy: Annotated[
        bool,
        typer.Option(
            "--lazy/--no-lazy", help="Evaluate only blocks that may come out best, or all that fit, in each step."
        ),
    ] = True,
    exchange: Annotated[
        bool,
        typer.Option(
            "--exchange",
            help="After the search, exchange up to three blocks at a time (two in spaces as large as RCNet's) "
            "while that improves the network. Not in the paper; with trainings it needs --evaluations.",
        ),
    ] = False,
    evaluations: Annotated[
        int | None,
        typer.Option("--evaluations", min=1, help="Stop exchanging after N evaluated networks in all."),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            "--at-once",
            min=1,
            help="Candidates evaluated together: more are faster and waste some evaluations. Default: 2 with "
            "trainings, else 1. At least one training per core or GPU runs in parallel.",
        ),
    ] = None,
    stop_without_gain: Annotated[
        bool,
        typer.Option("--stop-without-gain", help="End a path when no block gains; the paper fills the budget."),
    ] = False,
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
    accuracy: Annotated[
        str,
        typer.Option(
            "--accuracy",
            metavar="train|table:FILE|FILE.py:NAME",
            help="Source of accuracies: a short training, NAS-Bench-Macro's file, or your function of a lut.Network.",
        ),
    ] = "train",
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="digits|cifar10:PATH|cifar100:PATH|images:PATH|none",
            help="Training data, 32×32 images: scikit-learn's digits, a CIFAR archive, or a folder or tar archive "
            "with one folder per class.",
        ),
    ] = "digits",
    train_images: Annotated[
        int | None, typer.Option("--train-images", min=1, help="Use at most N training images.")
    ] = None,
    test_images: Annotated[int | None, typer.Option("--test-images", min=1, help="Use at most N test images.")] = None,
    held_out: Annotated[
        int | None,
        typer.Option(
            "--held-out", min=1, help="Training images per class held out to judge networks by. Default: RCAS's 10."
        ),
    ] = None,
    search_epochs: Annotated[
        int | None,
        typer.Option(
            "--search-epochs",
            min=1,
            help="Epochs of the short training that judges a network. Default: RCAS's 10; digits: 2.",
        ),
    ] = None,
    train_epochs: Annotated[
        int | None,
        typer.Option(
            "--train-epochs",
            min=0,
            help="Training epochs of the baseline and the network found; 0: do not train. Default: RCAS's 200; "
            "digits: 12.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=2, help="Training batch size. Default: 128; digits: 32."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other training setting, such as search.lr=0.05 or training.label_smoothing=0.1; can be "
            "repeated. docs/rcas.md lists them.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="PyTorch device to train on, or several: cuda:0,cuda:1. Default: cuda if available."
        ),
    ] = None,
    calibrate: Annotated[
        int,
        typer.Option(
            "--calibrate",
            min=0,
            metavar="N",
            help="Before the search, measure N random networks within the budgets end to end for a minute and "
            "calibrate the predictor on them. 0, or --measure-seconds 0: skip.",
        ),
    ] = 24,
    measure_seconds: Annotated[
        float,
        typer.Option(
            "--measure-seconds",
            min=0.0,
            max=1e6,
            help="Seconds of measuring the network found against MobileNetV2 at the end. 0: skip.",
        ),
    ] = 30.0,
    then: Annotated[
        list[str] | None,
        typer.Option(
            "--then",
            metavar="onnx|export-coreml",
            help="Export the network found. onnx: an ONNX file; export-coreml: a Core ML package, and a bundle "
            "with MobileNetV2 to time on a phone. Can be repeated.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for all results.")] = Path(
        "rcas-run"
    ),
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard the unfinished or finished run in that folder.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Random seed.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Add blocks to a network, the most useful first, until a budget is exhausted (RCAS).

    Each candidate is trained for a few epochs and judged on held-out images; most need not be, since gains seldom
    increase. At the end the network found and MobileNetV2 are trained alike and measured on this machine, interleaved.
    All evaluations are kept: if the run is interrupted, the same command resumes it.

    Example: search-architecture rcas --predictor predictor/ --budget-ms 5 --budget-params 2.4e6 -o run/
    """
    from contextlib import redirect_stdout
    from sys import stderr, stdout

    import msgspec

    from lut import UsageError
    from lut._level import check_level
    from lut._suggest import check_word
    from search._accuracy import kept_accuracies
    from search._commands._common import (
        check_calibration,
        check_files,
        checked_then,
        closing_line,
        hand_on,
        open_predictor,
        training_device,
    )
    from search._commands._phases import Phases
    from search._commands._rcas_show import RcasPhases, print_rcas_plan
    from search._commands._source import (
        AT_ONCE,
        check_images,
        check_source,
        open_accuracy,
        open_images,
        open_space,
        trained_parts,
        workers_for,
    )
    from search._rcas import RcasSettings
    from search._rcas_run import RCAS_FILES, check_end, rcas_stages, run_rcas
    from search._resources import Budgets, NetworkResources, check_blocks, unlimited
    from search._run_parts import CHECKPOINTS, hold_folder, refuse_finished, refuse_folder, refuse_settings
    from search._sittings import SITTINGS, RunClock, resumed_text

    # All that can be refused is refused before anything is loaded, let alone measured; the quickest checks come first.
    budgets = Budgets(ms=budget_ms, parameters=budget_params, madds=budget_madds)
    if not any(True for _ in budgets.given()):
        raise UsageError("give a budget: --budget-ms, --budget-params or --budget-madds, or several of them")
    if predictor is not None and table is not None:
        raise UsageError("give either --predictor FOLDER or --table FILE")
    check_files(predictor, table)
    named = tuple(word.strip() for word in rules.split(",")) if rules is not None else ()
    if (budget_ms is not None or "latency" in named) and predictor is None and table is None:
        raise UsageError(
            "latency needs a predictor: give --predictor FOLDER (see fit-predictor) or --table FILE (see "
            f"profile-device --space {space})"
        )
    wanted = checked_then(then)
    if "onnx" in wanted and predictor is None and table is None:
        raise UsageError("--then onnx exports for a device's batch: give its --predictor or --table")
    check_word("--bound", bound, ("upper", "predicted"))
    check_level(level)
    if exchange and evaluations is None and accuracy == "train":
        raise UsageError(
            "each exchange may be a training, and there are thousands: give --evaluations N, the number of evaluated "
            "networks after which no exchange is tried"
        )
    if evaluations is not None and not exchange:
        raise UsageError("--evaluations limits exchanges alone: give --exchange as well, or leave it out")
    # Without a budget nobody asks for the upper end of an interval.
    bound = bound if budget_ms is not None else "predicted"
    measured_first = calibrate if measure_seconds and (predictor or table) is not None else 0
    check_calibration(measured_first, level if bound == "upper" else None)
    check_images(data)
    blank = open_space(space, types, None)
    check_blocks(blank, "RCAS")
    check_source(
        accuracy,
        blank,
        images=data != "none",
        held_out=held_out,
        search_epochs=search_epochs,
        train_epochs=train_epochs,
        changes=set_ or [],
    )
    trained = trained_parts(accuracy, blank, images=data != "none", train_epochs=train_epochs)
    if "onnx" in wanted and "training" not in trained:
        raise UsageError("--then onnx exports a trained network: give --data, and --train-epochs above 0")
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
        stack.enter_context(hold_folder(output, (*RCAS_FILES, KEPT), restart=restart))
        refuse_finished(output, restart=restart)
        refuse_settings(
            output,
            restart=restart,
            # Its own name: it may be installed under another.
            space=blank.name,
            budgets=budgets,
            bound=bound,
            level=level,
            search=settings,
            data="" if data == "none" else data.partition(":")[0],
            calibrated=measured_first,
            seed=seed,
        )
        clock = RunClock(output / CHECKPOINTS / SITTINGS, restart=restart)
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
        # What the predictor will say is not known before it is calibrated.
        refuse_folder(plan, output, restart=restart, apart_from=("latencies",) if measured_first else ())
        done = None
        if not restart:
            done = resumed_text(
                rcas_stages(plan, output),
                calibrated=measured_first > 0 and (output / KEPT).exists(),
                evaluated=kept_accuracies(output / EVALUATIONS),
            )
        if done is not None:
            console.print(done)
        if measured_first and loaded is not None:
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
            clock.keep()
        print_rcas_plan(console, plan, resources)
        warnings += unlimited(resources, budgets)
        for line in warnings:
            console.print(f"warning: {line}", style="yellow")
        exported: dict[str, str] = {}

        def export(found: RcasRun) -> None:
            if wanted:
                weights = output / "weights.safetensors"
                exported.update(hand_on(wanted, found.search.network, found.base, weights, loaded, output, shown.bars))

        with clock, RcasPhases(console, plan, resources, clock.beat) as shown:
            result = run_rcas(
                plan,
                resources,
                source.function,
                output,
                data=images,
                warnings=warnings,
                at_once=settings.at_once,
                device=devices[0],
                measure_s=measure_seconds,
                restart=restart,
                keep_predictor=table is not None or measured_first > 0,
                hand_on=export,
                tell=shown.reporter(),
            )
    closing = closing_line(clock, resumed=done is not None)
    _finish(console, plan, result, resources, output, exported, closing=closing, json=json)


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

    path = output / KEPT
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
            f"needs {need} measured networks: give a larger budget, --calibrate 0, or --bound predicted"
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
    closing: str,
    json: bool,
) -> None:
    from lut.errors import IncompleteError
    from search._commands._rcas_show import print_rcas
    from search._rcas_run import RCAS_FILES, rcas_summary
    from search._run_parts import NOT_ASKED, REPORT

    if json:
        content = {
            **rcas_summary(plan, result, resources),
            "output": str(output),
            "exported": exported,
        }
        print_json(content)
    else:
        print_rcas(console, result, resources, output / REPORT)
        console.print()
        console.print(closing)
        for name, what in RCAS_FILES.items():
            if name in ("network.json", "weights.safetensors", "report.html") and (output / name).exists():
                console.print(f"{output / name}  {what}")
        for kind, path in exported.items():
            console.print(f"{path}  {kind}")
    if result.measured is None and result.not_measured != NOT_ASKED:
        raise IncompleteError(f"the network found could not be measured: {result.not_measured}")

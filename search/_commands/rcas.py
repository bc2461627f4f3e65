"""``search-architecture rcas``: the most accurate network within budgets of milliseconds, parameters, multiply-adds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search._commands._common import LARGEST_SEED

__all__ = ["rcas"]


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
    from search._commands._common import checked_bound, checked_then, training_devices
    from search._commands._rcas_command import RcasOptions, check_exchange, run_command
    from search._commands._source import AT_ONCE, SourceOptions, workers_for
    from search._problem._resources import Budgets
    from search.rcas._search import RcasSettings

    # All that can be refused is refused before anything is loaded, let alone measured; the quickest checks come first.
    check_exchange(accuracy, exchange=exchange, evaluations=evaluations)
    together = at_once or (AT_ONCE if accuracy == "train" else 1)
    devices = training_devices(device)
    asked = RcasOptions(
        predictor=predictor,
        table=table,
        budgets=Budgets(ms=budget_ms, parameters=budget_params, madds=budget_madds),
        space=space,
        types=types,
        target=target,
        batch=batch,
        search=RcasSettings(
            rules=tuple(word.strip() for word in rules.split(",")) if rules is not None else (),
            lazy=lazy,
            at_once=together,
            stop_without_gain=stop_without_gain,
            exchange=exchange,
            evaluations=evaluations,
        ),
        bound=checked_bound(bound, budget_ms),
        level=level,
        source=SourceOptions(
            accuracy=accuracy,
            data=data,
            train_images=train_images,
            test_images=test_images,
            held_out=held_out,
            search_epochs=search_epochs,
            train_epochs=train_epochs,
            batch_size=batch_size,
            changes=tuple(set_ or ()),
            devices=devices,
            workers=workers_for(devices, together),
            seed=seed,
        ),
        calibrate=calibrate if measure_seconds and (predictor or table) is not None else 0,
        measure_s=measure_seconds,
        then=checked_then(then),
        output=output,
        restart=restart,
        seed=seed,
        json=json,
    )
    run_command(asked)

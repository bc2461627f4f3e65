"""The options that all searches' commands have, defined once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

__all__ = ["LARGEST_SEED", "AccuracyOptions", "RunOptions", "with_options"]

# PyTorch's generators take no larger one.
LARGEST_SEED = 2**63 - 1


class RunOptions(NamedTuple):
    """What every search is asked, by the options' names."""

    budget_ms: Annotated[
        float | None, typer.Option("--budget-ms", help="Latency budget in ms. Networks found are measured against it.")
    ] = None
    budget_params: Annotated[
        float | None, typer.Option("--budget-params", help="Budget of parameters, such as 2.4e6.")
    ] = None
    budget_madds: Annotated[
        float | None,
        typer.Option("--budget-madds", help="Budget of multiply-adds per image, such as 91.1e6."),
    ] = None
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FILE",
            help="Lookup table to fit a predictor to: a file written by profile-device. For htas it also shows how "
            "certain the hardware-aware widths are.",
        ),
    ] = None
    predictor: Annotated[
        Path | None,
        typer.Option(
            "--predictor", metavar="FOLDER", help="Predictor to ask for latencies: a folder written by fit-predictor."
        ),
    ] = None
    target: Annotated[str | None, typer.Option("--target", help="Fail unless the predictor is for this target.")] = None
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Fail unless the predictor is for this batch size.")
    ] = None
    bound: Annotated[
        str,
        typer.Option(
            "--bound",
            metavar="upper|predicted",
            help="What the latency budget limits while searching: the upper end of the prediction interval, or the "
            "predicted latency.",
        ),
    ] = "upper"
    level: Annotated[
        float,
        typer.Option("--level", help="Probability that the prediction interval holds the latency."),
    ] = 0.9
    budget_holds: Annotated[
        str,
        typer.Option(
            "--budget-holds",
            metavar="reference-speed|any-day",
            help="When the latency budget must hold. reference-speed: at the speed at which the table's latencies "
            "stand; any-day: whatever the machine's speed on another day, which takes a margin.",
        ),
    ] = "reference-speed"
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="digits|cifar10:PATH|cifar100:PATH|images:PATH|FILE.py:NAME",
            help="Training data, 32×32 images: scikit-learn's digits, a CIFAR archive, a folder or tar archive with "
            "one folder per class, or your function that returns arrays or PyTorch Datasets.",
        ),
    ] = "digits"
    train_images: Annotated[
        int | None, typer.Option("--train-images", min=1, help="Use at most N training images.")
    ] = None
    test_images: Annotated[int | None, typer.Option("--test-images", min=1, help="Use at most N test images.")] = None
    search_epochs: Annotated[
        int | None,
        typer.Option(
            "--search-epochs",
            min=1,
            help="Epochs of the search, or of the short training that judges a network. Default: the paper's; fewer "
            "for digits.",
        ),
    ] = None
    train_epochs: Annotated[
        int | None,
        typer.Option(
            "--train-epochs",
            min=0,
            help="Training epochs of the base network and the network found, warm-up not counted; 0: do not train. "
            "Default: the paper's; digits: 12.",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=2, help="Training batch size. Default: the paper's; digits: 32."),
    ] = None
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, such as search.lr=0.05, training.label_smoothing=0.1 or space.depth=20; can be "
            "repeated. The search's page in docs/ lists them.",
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="PyTorch device to train on, or several: cuda:0,cuda:1. Default: cuda if available."
        ),
    ] = None
    calibrate: Annotated[
        int,
        typer.Option(
            "--calibrate",
            min=0,
            metavar="N",
            help="Before the search, measure N random networks of the space end to end for a minute and calibrate "
            "the predictor on them. 0, or --measure-seconds 0: skip.",
        ),
    ] = 24
    measure_seconds: Annotated[
        float,
        typer.Option(
            "--measure-seconds",
            min=0.0,
            max=1e6,
            help="Seconds of each session in which networks found are measured, beside the base network. 0: skip.",
        ),
    ] = 30.0
    repairs: Annotated[
        int,
        typer.Option(
            "--repairs",
            min=0,
            max=20,
            help="Sessions after the first. In these the best network is measured once more, and the search may choose "
            "again, from what measuring taught, where its choice exceeds the budget or leaves room for a better one.",
        ),
    ] = 3
    then: Annotated[
        list[str] | None,
        typer.Option(
            "--then",
            metavar="onnx|export-coreml",
            help="Export the network found. onnx: an ONNX file; export-coreml: a Core ML package, and a bundle with "
            "the base network to time on a phone. Can be repeated.",
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Folder for all results. Default: the search's name-run."
        ),
    ] = None
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard the unfinished or finished run in that folder.")
    ] = False
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Random seed.")] = 0
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False


class AccuracyOptions(NamedTuple):
    """What searches are asked that evaluate networks of any space, by the options' names."""

    space: Annotated[
        str, typer.Option("--space", help="Installed search space; `search-architecture spaces` lists them.")
    ] = "rcnet-cifar"
    types: Annotated[
        str | None,
        typer.Option("--types", metavar="1,2,…", help="RCNet block types to use. Default: all six."),
    ] = None
    accuracy: Annotated[
        str,
        typer.Option(
            "--accuracy",
            metavar="train|table:FILE|FILE.py:NAME",
            help="Source of accuracies: a short training, NAS-Bench-Macro's file, or your function of a lut.Network.",
        ),
    ] = "train"
    held_out: Annotated[
        int | None,
        typer.Option(
            "--held-out", min=1, help="Training images per class held out to judge networks by. Default: RCAS's 10."
        ),
    ] = None
    accuracy_timeout: Annotated[
        float | None,
        typer.Option(
            "--accuracy-timeout",
            min=0.001,
            help="Seconds that a call of your --accuracy function may take. Default: any time.",
        ),
    ] = None
    at_once: Annotated[
        int | None,
        typer.Option(
            "--at-once",
            min=1,
            help="Networks evaluated together. Default: 2 with trainings, else 1. At least one training per core or "
            "GPU runs in parallel.",
        ),
    ] = None


def with_options(*groups: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of groups, such as :class:`RunOptions`, before its own.

    The function that is decorated takes one tuple of each group, by position, and its own options by name.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters: dict[str, inspect.Parameter] = {}
        for group in groups:
            hints = get_type_hints(group, include_extras=True)
            for name in group._fields:
                parameters[name] = inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=group._field_defaults[name],
                    annotation=hints[name],
                )
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[len(groups) :]
        for parameter in own:
            parameters[parameter.name] = parameter.replace(
                kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]
            )

        @functools.wraps(function)
        def command(**given: Any) -> None:
            parts = [group(**{name: given.pop(name) for name in group._fields}) for group in groups]
            function(*parts, **given)

        command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        del command.__wrapped__
        return command

    return decorate

"""``search-architecture htas``: a network's widths and depths for a device and a budget in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from search._commands._common import LARGEST_SEED

__all__ = ["HtasOptions", "htas"]


class HtasOptions(NamedTuple):
    """What was asked for, by the options' names.

    ``bound`` is ``predicted`` without a budget: nobody asks for the upper end of an interval then. ``calibrate`` is 0
    where nothing is measured.
    """

    predictor: Path | None
    table: Path | None
    budget_ms: float | None
    depth: int
    widths: str
    depths: str
    expand: float
    groups: int
    alpha: str
    target: str | None
    batch: int | None
    strategy: str
    cost: str
    penalty: str | None
    weight: float | None
    bound: str
    level: float
    search_epochs: int | None
    population: int
    generations: int
    changes: tuple[str, ...]
    data: str
    train_images: int | None
    test_images: int | None
    train_epochs: int | None
    batch_size: int | None
    distil: bool
    device: str | None
    calibrate: int
    measure_s: float
    then: tuple[str, ...]
    output: Path
    restart: bool
    seed: int
    json: bool

    @property
    def early_bound(self) -> str:
        """What the budget is for before a calibration, which gives the intervals."""
        return "predicted" if self.calibrate else self.bound

    @property
    def apart_from(self) -> tuple[str, ...]:
        """Fields of the plan that a calibration changes: what the predictor will say is not known before."""
        return ("latencies",) if self.calibrate else ()


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
    from search._commands._common import checked_bound, checked_then

    # All that can be refused is refused before anything is loaded, let alone measured; the quickest checks come first.
    asked = HtasOptions(
        predictor=predictor,
        table=table,
        budget_ms=budget_ms,
        depth=depth,
        widths=widths,
        depths=depths,
        expand=expand,
        groups=groups,
        alpha=alpha,
        target=target,
        batch=batch,
        strategy=strategy,
        cost=cost,
        penalty=penalty,
        weight=weight,
        bound=checked_bound(bound, budget_ms),
        level=level,
        search_epochs=search_epochs,
        population=population,
        generations=generations,
        changes=tuple(set_ or ()),
        data=data,
        train_images=train_images,
        test_images=test_images,
        train_epochs=train_epochs,
        batch_size=batch_size,
        distil=distil,
        device=device,
        calibrate=calibrate if measure_seconds else 0,
        measure_s=measure_seconds,
        then=checked_then(then),
        output=output,
        restart=restart,
        seed=seed,
        json=json,
    )
    _check_options(asked)

    from search._commands._htas_command import run_command

    run_command(asked)


def _check_options(asked: HtasOptions) -> None:
    """Raise what is wrong about options as far as that is seen without PyTorch."""
    from lut import UsageError
    from lut._level import check_level
    from lut._suggest import check_word
    from predictors._commands._inputs import check_files, check_one_of
    from search._commands._common import check_calibration

    check_one_of(asked.predictor, asked.table)
    check_files(asked.predictor, asked.table)
    for option, word, known in (
        ("--widths", asked.widths, ("hardware", "uniform", "ratios", "base")),
        ("--depths", asked.depths, ("tas", "all", "base")),
        ("--strategy", asked.strategy, ("gradient", "evolution")),
        ("--cost", asked.cost, ("law", "table", "madds")),
        ("--penalty", asked.penalty or "linear", ("linear", "band")),
    ):
        check_word(option, word, known)
    check_level(asked.level)
    if asked.budget_ms is not None and not 0 < asked.budget_ms < float("inf"):
        raise UsageError(f"a budget is a positive number of ms, got {asked.budget_ms:g}")
    if asked.strategy == "evolution" and asked.budget_ms is None:
        raise UsageError("an evolution searches under a budget: give --budget-ms")
    check_calibration(asked.calibrate, asked.level if asked.bound == "upper" else None)

"""``search-architecture htas``: a network's widths and depths for a device and a budget in milliseconds."""

from __future__ import annotations

from typing import Annotated

import typer

from search._commands._options import RunOptions, with_options
from search.htas._options import HtasOptions

__all__ = ["htas"]


@with_options(RunOptions)
def htas(
    asked: RunOptions,
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
            help="Exponent of the latency law that scores hardware-aware widths, and of --cost eq8 (HTAS: 1).",
        ),
    ] = "1",
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
            metavar="law-per-array|eq8|table|madds",
            help="Cost term of the loss. law-per-array: a law fitted to each array of the predictor, at the mean "
            "widths; eq8: HTAS's own, the law of each curve over the convolutions alone; table: the expected latency; "
            "madds: multiply-adds, as a baseline.",
        ),
    ] = "law-per-array",
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
    population: Annotated[int, typer.Option("--population", help="Population size of the evolution.")] = 24,
    generations: Annotated[int, typer.Option("--generations", help="Generations of the evolution.")] = 10,
    distil: Annotated[
        bool,
        typer.Option("--distil/--no-distil", help="Distil the base network into the network found."),
    ] = True,
) -> None:
    """Search a ResNet's widths and depths for a device, train the network found, and measure it.

    The search asks a predictor for latencies, so the network found is fast on that device and not just small. What is
    found is measured on this machine beside the base network; where it exceeds the budget, the search chooses again.
    If the run is interrupted, the same command resumes it.

    Example: search-architecture htas --predictor predictor/ --depth 32 --budget-ms 24 --data cifar10:PATH -o run/
    """
    own = HtasOptions(
        *(depth, widths, depths, expand, groups, alpha, strategy, cost, penalty, weight),
        *(population, generations, distil),
    )
    check_words(asked, own)

    from search.htas._run_command import HtasCommand

    HtasCommand(asked, own).main()


def check_words(asked: RunOptions, own: HtasOptions) -> None:
    """Raise what is wrong about options as far as that is seen without PyTorch."""
    from lut import UsageError
    from lut._suggest import check_word
    from predictors._commands._inputs import check_files, check_one_of

    check_one_of(asked.predictor, asked.table)
    check_files(asked.predictor, asked.table)
    for option, word, known in (
        ("--widths", own.widths, ("hardware", "uniform", "ratios", "base")),
        ("--depths", own.depths, ("tas", "all", "base")),
        ("--strategy", own.strategy, ("gradient", "evolution")),
        ("--cost", "law-per-array" if own.cost == "law" else own.cost, ("law-per-array", "eq8", "table", "madds")),
        ("--penalty", own.penalty or "linear", ("linear", "band")),
    ):
        check_word(option, word, known)
    budgets = (asked.budget_ms, asked.budget_params, asked.budget_madds)
    if own.strategy == "evolution" and all(budget is None for budget in budgets):
        raise UsageError("an evolution searches under a budget: give --budget-ms")
    if own.penalty == "band" and asked.budget_ms is None:
        raise UsageError("--penalty band is around a budget: give --budget-ms, or --penalty linear")
    if own.penalty == "band" and own.cost == "madds":
        raise UsageError("--penalty band is around a budget in ms, and --cost madds is multiply-adds")

"""``search-architecture submodularity``: whether accuracy behaves as RCAS assumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lut._console import make_console, print_json, styled
from lut._grid import Column, Grid, print_grid
from search._commands._options import LARGEST_SEED

if TYPE_CHECKING:
    from rich.console import Console

    from lut import SearchSpace
    from search._accuracy._evaluator import AccuracyCache
    from search._accuracy._source import Source
    from search.rcas._submodularity import Submodularity

__all__ = ["submodularity"]

# Networks to grow: where accuracies are read, as many as in the paper; where each is a training, what a night holds.
READ, TRAINED = 500, 10


def submodularity(
    space: Annotated[
        str, typer.Option("--space", help="Installed space of blocks whose first option is none.")
    ] = "rcnet-cifar",
    types: Annotated[
        str | None, typer.Option("--types", metavar="1,2,…", help="RCNet block types to use. Default: all six.")
    ] = None,
    networks: Annotated[
        int | None,
        typer.Option("--networks", min=1, help="Random networks to grow. Default: RCAS's 500; with trainings 10."),
    ] = None,
    blocks: Annotated[
        int, typer.Option("--blocks", min=2, help="Random blocks to add to each network, one after another (RCAS: 7).")
    ] = 7,
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
            metavar="digits|cifar10:PATH|cifar100:PATH|images:PATH|FILE.py:NAME|none",
            help="Training data, 32×32 images.",
        ),
    ] = "digits",
    train_images: Annotated[
        int | None, typer.Option("--train-images", min=1, help="Use at most N training images.")
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(
            "--held-out", min=1, help="Training images per class held out to judge networks by. Default: RCAS's 10."
        ),
    ] = None,
    search_epochs: Annotated[
        int | None,
        typer.Option("--search-epochs", min=1, help="Epochs of each training. Default: RCAS's 10; digits: 2."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=2, help="Training batch size. Default: 128; digits: 32.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any other training setting, such as search.lr=0.05; can be repeated."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="PyTorch device to train on, or several: cuda:0,cuda:1. Default: cuda if available."
        ),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            "--at-once",
            min=1,
            help="Networks to evaluate in parallel. Default: with trainings one per core or GPU, else 1.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File that keeps the accuracies, so that the same command resumes."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Random seed.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Grow random networks block by block and count how often diminishing returns and monotonicity fail.

    RCAS relies on both: a block gains less on a larger network than on a smaller one, and never harms. Its paper shows
    the mean accuracy by number of blocks; this command also looks at single networks.

    Example: search-architecture submodularity --space nas-bench-macro --accuracy table:nas-bench-macro_cifar10.json
    --data none
    """
    from contextlib import closing, redirect_stdout
    from sys import stderr, stdout

    from search._commands._common import training_devices
    from search._commands._options import AccuracyOptions, RunOptions
    from search._commands._source import check_source, open_images, open_source, open_space, split_changes, workers_for
    from search._problem._blocks import check_blocks
    from search.rcas._submodularity import check_growth

    space_options, changes = split_changes(set_ or ())
    blank = open_space(space, types, None, space_options)
    check_blocks(blank, "submodularity")
    devices = training_devices(device)
    asked = RunOptions(
        data=data,
        train_images=train_images,
        search_epochs=search_epochs,
        train_epochs=0,
        batch_size=batch_size,
        seed=seed,
    )
    own = AccuracyOptions(space=space, types=types, accuracy=accuracy, held_out=held_out, at_once=at_once)
    workers = workers_for(devices, at_once or 1) if accuracy == "train" else at_once or 1
    check_source(asked, own, blank, changes)
    wanted = networks or (TRAINED if accuracy == "train" else READ)
    check_growth(blank, wanted, blocks)
    console = make_console(stderr=json)
    images = open_images(data, train_images, None, seed)
    with redirect_stdout(stderr if json else stdout):
        opened = open_space(space, types, images, space_options)
        source = open_source(asked, own, images, opened, changes, devices=devices, workers=workers).source
        with closing(source):
            found = _measured(
                source,
                opened,
                workers=workers,
                networks=wanted,
                blocks=blocks,
                seed=seed,
                output=output,
                console=console,
            )
    if json:
        print_json(found)
        return
    _print(console, found, kept=output is not None)


def _measured(
    source: Source,
    space: SearchSpace,
    *,
    workers: int,
    networks: int,
    blocks: int,
    seed: int,
    output: Path | None,
    console: Console,
) -> Submodularity:
    """Grow the networks and evaluate them; accuracies are kept in ``output``.

    Raises:
        InterruptedRunError: stopped by the user; says whether anything is kept.
    """
    from contextlib import ExitStack

    from lut._option_names import go_on
    from lut.errors import InterruptedRunError
    from search._accuracy._evaluator import Evaluator
    from search._commands._phases import Phases
    from search._problem._problem import Problem
    from search.rcas._submodularity import measure_submodularity

    with ExitStack() as stack:
        cache = None if output is None else stack.enter_context(_opened_cache(output, space, source))
        phases = stack.enter_context(Phases(console))
        phases.phase("Evaluating")
        evaluate = Evaluator(
            source.function,
            cache=cache,
            at_once=workers,
            progress=lambda now: phases.say(
                now.done / max(now.wanted, 1), f"{now.done} of {now.wanted} networks", now.left_s
            ),
        )
        try:
            return measure_submodularity(Problem(space), evaluate, networks=networks, blocks=blocks, seed=seed)
        except KeyboardInterrupt:
            if output is None:
                raise InterruptedRunError(
                    "nothing was written: give --output to keep it; run the same command again"
                ) from None
            raise InterruptedRunError(f"what is done is kept in {output}; {go_on(restart=False)}") from None


def _opened_cache(output: Path, space: SearchSpace, source: Source) -> AccuracyCache:
    from lut._option_names import ELSEWHERE_OR_RESTART
    from lut.errors import CheckpointError
    from search._accuracy._evaluator import AccuracyCache
    from search._accuracy._open import space_text

    try:
        return AccuracyCache.open(output, space=space_text(space), function=source.digest)
    except CheckpointError as error:
        # There is no --restart here.
        raise CheckpointError(str(error).replace(ELSEWHERE_OR_RESTART, "give another --output")) from None


def _print(console: Console, found: Submodularity, *, kept: bool) -> None:
    """Print the steps; with kept accuracies the same command is over at once."""
    from search.rcas._text import show_value

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.0%}"

    points = all(0 <= step.mean <= 1 for step in found.steps)
    unit = " points" if points else ""
    scale = 100 if points else 1
    columns = (
        *(Column("blocks"), Column("mean"), Column(f"±{unit} (95 %)", 1), Column(f"gained{unit}", 2)),
        *(Column("gain increased"), Column("lost")),
    )
    rows = tuple(
        (
            str(step.blocks),
            show_value(step.mean),
            f"{scale * 1.96 * step.standard_error:.3g}",
            "" if step.increment is None else f"{scale * step.increment:+.3g}",
            share(step.diminishing_broken),
            share(step.monotone_broken),
        )
        for step in found.steps
    )
    print_grid(console, Grid(columns, rows), again=kept)
    networks = "network" if found.networks == 1 else "networks"
    console.print()
    console.print(
        f"{found.networks} random {networks}, {found.evaluated} different ones evaluated; the gains of the mean "
        f"{'fall' if found.mean_increments_fall else 'do not always fall'}"
    )
    console.print(
        styled(
            "diminishing returns broken in ",
            (f"{found.diminishing_broken:.1%}", "bold"),
            f" of {found.triples} triples{_by(scale * found.mean_excess, unit)} (noise alone: 50 %)",
        )
    )
    console.print(
        styled(
            "monotonicity broken in ",
            (f"{found.monotone_broken:.1%}", "bold"),
            f" of {found.additions} additions{_by(scale * found.mean_loss, unit)}",
        )
    )


def _by(mean: float, unit: str) -> str:
    return f", by {mean:.3g}{unit} on average" if mean else ""

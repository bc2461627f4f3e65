"""``search-architecture evolution``: any space within budgets, by evolution, local search or at random."""

from __future__ import annotations

from typing import Annotated

import typer

from search._commands._options import AccuracyOptions, RunOptions, with_options

__all__ = ["evolution"]


@with_options(RunOptions, AccuracyOptions)
def evolution(
    asked: RunOptions,
    own: AccuracyOptions,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            metavar="evolution|local|random",
            help="evolution: a genetic algorithm (needs pymoo); local: from random networks to better neighbours; "
            "random: random networks, to compare.",
        ),
    ] = "evolution",
    evaluations: Annotated[
        int | None,
        typer.Option(
            "--evaluations",
            min=1,
            help="Most networks to evaluate. Default: --generations times --population.",
        ),
    ] = None,
    population: Annotated[int, typer.Option("--population", help="Networks of a generation.")] = 24,
    generations: Annotated[int, typer.Option("--generations", help="Generations of the evolution.")] = 10,
) -> None:
    """Search any space within budgets, by evolution, local search or at random.

    Each network is evaluated once: by a short training, a table, or your function. What is found is measured on this
    machine against the latency budget, and repaired where it exceeds it; then it and the base network are trained
    alike. All evaluations are kept: if the run is interrupted, the same command resumes it.

    Example: search-architecture evolution --space resnet-cifar --set space.depth=20 --predictor predictor/
    --budget-ms 5 --accuracy my_accuracy.py:accuracy -o run/
    """
    from search.evolution._run_command import EvolutionCommand, EvolutionOptions

    EvolutionCommand(asked, own, EvolutionOptions(strategy, evaluations, population, generations)).main()

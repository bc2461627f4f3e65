"""``search-architecture rcas``: the most accurate network within budgets of milliseconds, parameters, multiply-adds."""

from __future__ import annotations

from typing import Annotated

import typer

from search._commands._options import AccuracyOptions, RunOptions, with_options

__all__ = ["rcas"]


@with_options(RunOptions, AccuracyOptions)
def rcas(
    asked: RunOptions,
    own: AccuracyOptions,
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
    stop_without_gain: Annotated[
        bool,
        typer.Option("--stop-without-gain", help="End a path when no block gains; the paper fills the budget."),
    ] = False,
) -> None:
    """Add blocks to a network, the most useful first, until a budget is exhausted (RCAS).

    Each candidate is trained for a few epochs and judged on held-out images; most need not be, since gains seldom
    increase. What is found is measured on this machine against the latency budget, and repaired where it exceeds it;
    then it and the base network are trained alike. All evaluations are kept: if the run is interrupted, the same
    command resumes it.

    Example: search-architecture rcas --predictor predictor/ --budget-ms 5 --budget-params 2.4e6 -o run/
    """
    from search.rcas._run_command import RcasCommand, RcasOptions

    RcasCommand(asked, own, RcasOptions(rules, lazy, exchange, evaluations, stop_without_gain)).main()

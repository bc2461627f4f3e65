"""The command ``search-architecture`` and what its subcommands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lut._console import make_app, run_command
from search._commands._panels import PANELS

if TYPE_CHECKING:
    import typer

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    run_command(_app, panels=PANELS)


def _app() -> typer.Typer:
    from search._commands.describe import describe
    from search._commands.htas import htas
    from search._commands.rcas import rcas
    from search._commands.spaces import spaces
    from search._commands.submodularity import submodularity

    app = make_app(
        no_args_is_help=True,
        help="Search for accurate networks within a latency budget on a device, and describe networks.",
    )
    app.command()(htas)
    app.command()(rcas)
    app.command()(describe)
    app.command()(spaces)
    app.command()(submodularity)
    return app

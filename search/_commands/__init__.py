"""The command ``search-architecture``: a subcommand for each installed search, and those about spaces."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from lut import UsageError
from lut._console import make_app, run_command
from lut._printable import printable, shortened
from search._commands._panels import panels_of

if TYPE_CHECKING:
    import typer

__all__ = ["main"]

# Each names a function with typer's options: see docs/architecture.md.
GROUP = "latency_lut.searches"


def main() -> None:
    """Run the command."""
    run_command(_app, panels=panels_of(point.name for point in entry_points(group=GROUP)))


def _app() -> typer.Typer:
    from search._commands.describe import describe
    from search._commands.spaces import spaces
    from search._commands.submodularity import submodularity

    app = make_app(
        no_args_is_help=True,
        help="Search for accurate networks within a latency budget on a device, and describe networks.",
    )
    # Ours in the order in which people meet them, and then others by name.
    first = ("htas", "rcas", "evolution")
    points = entry_points(group=GROUP)
    for point in sorted(
        points, key=lambda p: (p.name not in first, first.index(p.name) if p.name in first else 0, p.name)
    ):
        app.command(point.name)(_loaded(point))
    app.command()(describe)
    app.command()(spaces)
    app.command()(submodularity)
    return app


def _loaded(point: EntryPoint) -> Callable[..., None]:
    """Return a search's command; of one that cannot be loaded, a command that says so: the others go on working."""
    try:
        found = point.load()
        why = "" if callable(found) else f"{point.value} is no function"
    except Exception as error:
        found, why = None, f"{type(error).__name__}: {error}"
    if not why:
        command: Callable[..., None] = found
        return command

    def broken() -> None:
        raise UsageError(f"the installed search {point.name!r} ({point.value}) cannot be loaded: {why}")

    broken.__doc__ = f"Cannot be loaded: {shortened(printable(why), 80)}."
    return broken

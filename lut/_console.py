"""What all commands share: our errors become one line and an exit code, and printed data cannot act on a terminal."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from lut._printable import printable, shortened
from lut.errors import LatencyLutError, StaleTableError, UnauditedTableWarning

if TYPE_CHECKING:
    import typer
    from rich.console import Console

__all__ = ["format_ms", "make_app", "make_console", "run_command", "run_single_command"]

INTERRUPTED = 130

# An error is a line or a few; what it quotes from a file may be of any length.
LONGEST_MESSAGE = 800


def run_command(make_app: Callable[[], typer.Typer]) -> None:
    """Run a command line application and exit: 0 done, 1 failed, 2 usage, 3 incomplete or stale, 130 stopped."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal of few characters, and names of files that are no text, are shown as far as they can be.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("always", UnauditedTableWarning)
            make_app()()
    except LatencyLutError as error:
        print(_line(_kind(error), error), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output, `head` say, has seen enough; closing quietly is what it expects.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        print(f"error: cannot write the output: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _line(kind: str, message: object) -> str:
    return f"{kind}: {printable(shortened(str(message), LONGEST_MESSAGE))}"


def _kind(error: LatencyLutError) -> str:
    if isinstance(error, StaleTableError):
        return "stale"
    return {3: "incomplete", INTERRUPTED: "stopped"}.get(error.exit_code, "error")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print what a person is to know as one line, and anything else as Python does."""
    if issubclass(category, UnauditedTableWarning):
        print(_line("warning", message), file=sys.stderr)
    else:
        (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


def make_console(*, stderr: bool = False) -> Console:
    """Return the console that a command prints with: text is shown as it is, never read as markup.

    Args:
        stderr: standard output is for JSON.
    """
    from lut._terminal import DataConsole

    # Off a terminal nothing is cut to a width that nobody looks at.
    return DataConsole(stderr=stderr, soft_wrap=not sys.stdout.isatty())


def make_app(**options: Any) -> typer.Typer:
    """Return an empty application with the settings that all commands share; ``options`` are Typer's."""
    import typer

    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def run_single_command(function: Callable[..., None]) -> None:
    """Run a command line application that is one command."""

    def make() -> typer.Typer:
        app = make_app()
        app.command()(function)
        return app

    run_command(make)


def format_ms(value: float) -> str:
    """Return milliseconds with four significant digits: enough for a stair, no more than is known."""
    digits = f"{value:.4g}"
    return digits if "e" not in digits else f"{value:.4f}".rstrip("0").rstrip(".")

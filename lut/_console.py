"""What all commands share: our errors become one line and an exit code, and tables print alike."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from lut.errors import LatencyLutError, StaleTableError, UnauditedTableWarning

if TYPE_CHECKING:
    import typer

__all__ = ["format_ms", "make_app", "run_command", "run_single_command"]

INTERRUPTED = 130


def run_command(make_app: Callable[[], typer.Typer]) -> None:
    """Run a command line application and exit: 0 done, 1 failed, 2 usage, 3 incomplete or stale, 130 stopped."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("always", UnauditedTableWarning)
            make_app()()
    except LatencyLutError as error:
        print(f"{_kind(error)}: {error}", file=sys.stderr)
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
        print(f"warning: {message}", file=sys.stderr)
    else:
        (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


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

"""What all commands share: our errors become one line and an exit code, and tables print alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lut.errors import LatencyLutError

if TYPE_CHECKING:
    import typer

__all__ = ["format_ms", "make_app", "run_command", "run_single_command"]

INTERRUPTED = 130


def run_command(make_app: Callable[[], typer.Typer]) -> None:
    """Run a command line application and exit with our codes: 0 done, 1 failed, 2 usage, 3 incomplete, 130 stopped."""
    try:
        make_app()()
    except LatencyLutError as error:
        kind = "incomplete" if error.exit_code == 3 else "stopped" if error.exit_code == INTERRUPTED else "error"
        print(f"{kind}: {error}", file=sys.stderr)
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

"""What all commands share: our errors become one line and an exit code, and printed data cannot act on a terminal."""

from __future__ import annotations

import codecs
import contextlib
import errno
import inspect
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from lut._printable import lowered, printable, printable_json, shortened
from lut._suggest import did_you_mean
from lut.errors import AdditivityError, LatencyLutError, StaleTableError, UnauditedTableWarning

if TYPE_CHECKING:
    import typer
    from rich.console import Console
    from rich.text import Text

__all__ = [
    "duration",
    "format_ms",
    "make_app",
    "make_console",
    "print_error",
    "print_json",
    "print_line",
    "run_command",
    "run_single_command",
    "styled",
]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
# Of Ctrl-C that nothing inside has caught: while libraries are loaded, say. Files are written whole or not at all.
STOPPED = "stopped; run the same command again"

HELP = ("-h", "--help")

# What a command's help shows together: titles, with the names of parameters.
Panels: TypeAlias = Mapping[str, Sequence[str]]

# What a console prints as a line.
Line: TypeAlias = "Text | str"

# What stands behind an option in its help, for the names of types.
METAVARS = {
    "<str>": "TEXT",
    "<int>": "N",
    "<int range>": "N",
    "<float>": "NUMBER",
    "<float range>": "NUMBER",
    "<Path>": "PATH",
}

# How numbers are called in errors, by what their help calls them, and their bounds.
NUMBERS = {"int": "a whole number", "float": "a number"}
BOUNDS = {"min": "of at least", "max": "at most"}

# What help does not show of a range: that of an option which any number does for, and a bound that nobody reaches.
ANY_NUMBER = ("seed",)
LARGEST_TOLD = 2**31 - 1

# An error is a line or a few; what it quotes from a file may be of any length.
LONGEST_MESSAGE = 800

# What an operating system answers where an output cannot be written, whatever it is.
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF, errno.ENXIO)


def run_command(make_app: Callable[[], typer.Typer], *, panels: Mapping[str, Panels] = MappingProxyType({})) -> None:
    """Run a command line application and exit: 0 done, 1 failed, 2 usage, 3 incomplete or stale, 130 stopped.

    Args:
        make_app: makes the application.
        panels: by a subcommand's name, what its help shows together; see :func:`run_single_command`.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal of few characters, and names of files that are no text, are shown as far as they can be.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_flushed(_run(make_app, panels)))


def _run(make_app: Callable[[], typer.Typer], panels: Mapping[str, Panels]) -> int:
    """Run an application and return the exit code; whatever goes wrong is said in one line."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("always", UnauditedTableWarning)
            if sys.argv[1:] == ["--version"]:
                print_line(f"{os.path.basename(sys.argv[0])} {version('latency-lut')}")  # noqa: PTH119
                return 0
            command = _command_of(make_app(), panels)
            # By itself the application would print its own kind of errors, in a frame, and exit.
            ended = command(standalone_mode=False)
        if ended != INTERRUPTED:
            return ended if isinstance(ended, int) else 0
        # The application has taken Ctrl-C for an end.
        print_error(STOPPED)
    except LatencyLutError as error:
        print_error(f"{_kind(error)}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        print_error(STOPPED)
    except MemoryError:
        return _failed(f"{_command_line()}: there is not enough memory for this")
    except RecursionError:
        return _failed(f"{_command_line()}: something in what it was given is nested too deeply")
    except BrokenPipeError:
        # The reader of our output, `head` say, has seen enough; closing quietly is what it expects.
        return FAILED
    except OSError as error:
        return _failed(_os_error(error))
    except Exception as error:
        return _other_end(error)
    return INTERRUPTED


def _command_of(app: typer.Typer, panels: Mapping[str, Panels]) -> Any:
    """Return an application's command with help that reads well: paragraphs wrapped once, and flags shown as flags."""
    import typer
    from typer.main import get_command

    command: Any = get_command(app)
    waiting = [command]
    while waiting:
        each = waiting.pop()
        waiting += getattr(each, "commands", {}).values()
        # A docstring's own line breaks would stand among those of the terminal's width.
        each.help = "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(each.help or "").split("\n\n"))
        # Typer makes the option for help when it is first asked for, and keeps it.
        helper = each.get_help_option(typer.Context(each, help_option_names=list(HELP)))
        shown = panels.get("" if each is command else each.name, {})
        helper.rich_help_panel = list(shown)[-1] if shown else None
        for parameter in (*each.params, helper):
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
            elif getattr(parameter, "metavar", None) is None:
                parameter.metavar = METAVARS.get(str(parameter.display_type(None)))
            _show_range(parameter)
        places = {name: title for title, names in shown.items() for name in names}
        order = {name: i for i, name in enumerate(places)}
        for parameter in each.params:
            parameter.rich_help_panel = places.get(parameter.name, getattr(parameter, "rich_help_panel", None))
        # Stable: what stands in no panel of ours keeps its place, behind.
        each.params.sort(key=lambda parameter, order=order: order.get(parameter.name, len(order)))
    command.epilog = "--version says which version this is."
    return command


def _limits(parameter: Any) -> list[float | None]:
    """Return the least and the largest number that a parameter takes; older versions keep them with the type."""
    return [getattr(parameter, end, getattr(getattr(parameter, "type", None), end, None)) for end in BOUNDS]


def _plain(limit: float) -> str:
    """Return a bound for people: ``1000``, ``1,000,000``, ``0.5``."""
    if limit != int(limit):
        return f"{limit:g}"
    return f"{int(limit):,}" if abs(limit) >= 10_000 else f"{int(limit)}"


def _show_range(parameter: Any) -> None:
    """Have help show a parameter's range in plain numbers, or none where it tells nothing."""
    low, high = _limits(parameter)
    if high is not None and high >= LARGEST_TOLD:
        high = None
    if parameter.name in ANY_NUMBER or (low is None and high is None):
        text = ""
    elif low is None or high is None:
        text = "".join(f"x{sign}{_plain(end)}" for sign, end in ((">=", low), ("<=", high)) if end is not None)
    else:
        text = f"{_plain(low)}<=x<={_plain(high)}"
    # Typer has no setting for it: newer versions ask the parameter, older ones its type.
    asked = ((parameter, "_get_number_range_help_str"), (getattr(parameter, "type", None), "_describe_range"))
    for owner, method in asked:
        if hasattr(owner, method):
            setattr(owner, method, lambda: text)


def _failed(message: str) -> int:
    print_error(f"error: {message}")
    return FAILED


def _other_end(error: Exception) -> int:
    """Return the exit code for what the application raised: an error in the command line, or a fault of ours."""
    import typer

    if isinstance(error, typer.Abort) or _came_of_ctrl_c(error):
        print_error(STOPPED)
        return INTERRUPTED
    # The base class of these errors lies in another package in each few versions of Typer.
    format_message = getattr(error, "format_message", None)
    if not callable(format_message):
        for line in traceback.format_exc().split("\n"):
            print_line(line, stderr=True)
        return FAILED
    if type(error).__name__ == "NoArgsIsHelpError":
        # With a help page that is printed already, there is no more to say.
        if str(error):
            error.show()  # type: ignore[attr-defined]
        return USAGE
    context = getattr(error, "ctx", None)
    text = shortened(_misuse(error, str(format_message())), LONGEST_MESSAGE - 100)
    advice = f"{' See' if text.endswith('?') else '; see'} {context.command_path} --help" if context else ""
    print_error(f"error: {text}{advice}")
    return int(getattr(error, "exit_code", FAILED))


def _misuse(error: Any, message: str) -> str:
    """Return what is wrong with a command line, in our words where we have some: Typer's come from its parts."""
    unknown = getattr(error, "option_name", None)
    if getattr(error, "possibilities", None):
        return f"no such option: {unknown}{did_you_mean(str(unknown), error.possibilities)}"
    parameter: Any = getattr(error, "param", None)
    kind = "" if parameter is None else str(parameter.display_type(None))
    number = next((name for word, name in NUMBERS.items() if word in kind), None)
    given = None if number is None else _given(parameter.opts)
    if number is not None and given is not None:
        ends = zip(BOUNDS.values(), _limits(parameter), strict=True)
        words = [f"{word} {_plain(limit)}" for word, limit in ends if limit is not None]
        bounds = " and ".join(words)
        return f"{parameter.opts[0]}: expected {number}{' ' * bool(bounds)}{bounds}, got {shortened(given, 60)!r}"
    found = re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message)
    if found is not None:
        return f"unexpected argument: {found.group(1)}"
    message = re.sub(r"\. Did you mean (.*)\?$", r"; did you mean \1?", message)
    return lowered(message.rstrip("."))


def _given(options: Sequence[str]) -> str | None:
    """Return the text that an option was given last, as it stands on the command line."""
    found = None
    for word, after in zip(sys.argv, [*sys.argv[1:], None], strict=True):
        name, equals, text = word.partition("=")
        if name in options and (equals or after is not None):
            found = text if equals else after
    return found


def _came_of_ctrl_c(error: BaseException) -> bool:
    """Whether an error is what a library made of Ctrl-C while it was loaded."""
    seen: list[BaseException] = []
    before: BaseException | None = error
    while before is not None and before not in seen:
        if isinstance(before, KeyboardInterrupt):
            return True
        seen.append(before)
        before = before.__cause__ or before.__context__
    return False


def _command_line() -> str:
    """Return what was asked for, as far as a line holds it."""
    program, *arguments = sys.argv or ["this"]
    return shortened(" ".join([os.path.basename(program), *arguments]), LONGEST_MESSAGE // 2)  # noqa: PTH119


def _os_error(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    if error.filename is None:
        return f"{'cannot write the output' if error.errno in _OUTPUT_ERRORS else _command_line()}: {reason}"
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    return f"{name}: {reason}"


def _flushed(code: int) -> int:
    """Return the exit code once all output is written; it says so where that cannot be."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            if code == 0 and stream is sys.stdout and not isinstance(error, BrokenPipeError):
                print_error(f"error: {_os_error(error) if isinstance(error, OSError) else 'the output is closed'}")
            code = code or FAILED
            # Python would try again when it ends, and complain.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _kind(error: LatencyLutError) -> str:
    if isinstance(error, StaleTableError):
        return "stale"
    if isinstance(error, AdditivityError):
        return "error"
    return {3: "incomplete", INTERRUPTED: "stopped"}.get(error.exit_code, "error")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print what a person is to know as one line, and where anything else comes from."""
    del file, line
    if issubclass(category, UnauditedTableWarning):
        print_error(f"warning: {message}")
    else:
        print_error(f"{filename}:{lineno}: {category.__name__}: {message}")


def print_error(text: str) -> None:
    """Print one line to standard error, shortened to what a person reads; where nobody can read it, do nothing."""
    # What a full disk or a closed terminal does not take, nothing else can be told of.
    with contextlib.suppress(OSError, ValueError):
        print_line(shortened(printable(text), LONGEST_MESSAGE), stderr=True)


def print_line(text: str, *, stderr: bool = False) -> None:
    """Print one line as it is, without anything that a terminal would act on."""
    stream = sys.stderr if stderr else sys.stdout
    # Python has no stream where the descriptor was closed before it began, and would then print to another.
    if stream is not None:
        print(printable(text), file=stream)


def print_json(value: object) -> None:
    """Print a value as JSON, which is valid whatever characters standard output has.

    Halves of characters, such as the names of files that are no text have, are written as Python writes them in a
    string.
    """
    import msgspec

    try:
        content = msgspec.json.encode(value)
    except UnicodeEncodeError:
        content = msgspec.json.encode(_whole_characters(msgspec.to_builtins(value, str_keys=True)))
    text = msgspec.json.format(content, indent=2).decode()
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
    if sys.stdout is not None:
        print(printable_json(text, ascii_only=not encoding.startswith("utf")))


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", lambda found: printable(found.group()), value)
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return [_whole_characters(item) for item in value] if isinstance(value, list | tuple) else value


def make_console(*, stderr: bool = False) -> Console:
    """Return the console that a command prints with: text is shown as it is, never read as markup.

    Args:
        stderr: standard output is for JSON.
    """
    from lut._terminal import DataConsole

    stream = sys.stderr if stderr else sys.stdout
    # Off a terminal nothing is cut to a width that nobody looks at.
    return DataConsole(stderr=stderr, soft_wrap=stream is None or not stream.isatty())


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return one line for a console, of parts as they are and of ``(text, style)``."""
    from lut._terminal import assemble

    return assemble(parts)


def make_app(**options: Any) -> typer.Typer:
    """Return an empty application with the settings that all commands share; ``options`` are Typer's."""
    import typer

    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": list(HELP)},
        **options,
    )


def run_single_command(function: Callable[..., None], *, panels: Panels = MappingProxyType({})) -> None:
    """Run a command line application that is one command.

    Args:
        function: the command.
        panels: what its help shows together, in this order: titles, with the names of parameters. Others come last.
    """

    def make() -> typer.Typer:
        app = make_app()
        app.command()(function)
        return app

    run_command(make, panels={"": panels})


def format_ms(value: float) -> str:
    """Return milliseconds with four significant digits: enough for a stair, no more than is known."""
    digits = f"{value:.4g}"
    return digits if "e" not in digits else f"{value:.4f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """Return seconds in words: ``45 s``, ``12 min``, ``1 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"

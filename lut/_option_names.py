"""Options as messages name them that Python and the commands raise: by the argument, and by the flag."""

from __future__ import annotations

__all__ = ["ELSEWHERE_OR_RESTART", "OTHER_OUTPUT", "RESTART", "go_on", "option_text"]


def option_text(name: str, value: object = None, *, flag: str | None = None) -> str:
    """Return an option as a message names it that Python and the commands raise: ``restart=True (--restart)``.

    Args:
        name: the argument.
        value: what to give it; ``None`` names the argument alone, ``output (--output)``.
        flag: the command's name for it, where that is another.
    """
    spelled = flag or "--" + name.replace("_", "-")
    if value is None:
        return f"{name} ({spelled})"
    if isinstance(value, (list, tuple)):
        return f"{name}={list(value)!r} ({' '.join(f'{spelled} {item}' for item in value)})"
    return f"{name}={value!r} ({spelled})" if value is True else f"{name}={value!r} ({spelled} {value})"


# What most errors about files come down to.
OTHER_OUTPUT = f"another {option_text('output')}"
RESTART = option_text("restart", True)
ELSEWHERE_OR_RESTART = f"give {OTHER_OUTPUT}, or discard it: {RESTART}"


def go_on(*, restart: bool) -> str:
    """Return how an interrupted run is taken up again: by the same call or command, which must not discard it."""
    less = f" without {RESTART}" if restart else ""
    return f"run the same command again{less} to go on from there"

"""What somebody may have meant, and how what they may do is called."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["OTHER_OUTPUT", "RESTART", "as_share", "did_you_mean", "go_on", "none_of", "option_text", "unknown"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'resnet-cifar'?``, or nothing where no known word is close."""
    by_form = {name.lower().replace("_", "-"): name for name in known}
    close = get_close_matches(word.lower().replace("_", "-"), by_form, n=1, cutoff=0.6)
    return f"; did you mean {by_form[close[0]]!r}?" if close else ""


def as_share(value: float) -> str:
    """Return ``; did you mean 0.95?`` where a share seems to be given in per cent, else nothing."""
    return f"; did you mean {value / 100:g}?" if 1 < value <= 100 else ""


def none_of(what: str, given: object, known: Iterable[str]) -> str:
    """Return ``--loss is squared or huber, got 'hubber'; did you mean 'huber'?``."""
    names = list(known)
    choice = " or ".join(names) if len(names) == 2 else f"one of {', '.join(names)}"
    return f"{what} is {choice}, got {given!r}{did_you_mean(str(given), names)}"


def unknown(what: str, word: str, known: Iterable[str], *, none: str = "none") -> str:
    """Return ``unknown space 'resnet'; installed: …``, with what may have been meant."""
    names = sorted(known)
    return f"unknown {what} {word!r}; installed: {', '.join(names) or none}{did_you_mean(word, names)}"


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


def go_on(*, restart: bool) -> str:
    """Return how an interrupted run is taken up again: by the same call or command, which must not discard it."""
    less = f" without {RESTART}" if restart else ""
    return f"run the same command again{less} to go on from there"

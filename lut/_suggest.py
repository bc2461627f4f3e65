"""What somebody may have meant who gave a word or a number that is refused."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from lut.errors import UsageError

__all__ = ["as_share", "check_word", "did_you_mean", "none_of", "unknown"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'resnet-cifar'?``, or nothing where no known word is close."""
    by_form = {name.lower().replace("_", "-"): name for name in known}
    close = get_close_matches(word.lower().replace("_", "-"), by_form, n=1, cutoff=0.6)
    return f"; did you mean {by_form[close[0]]!r}?" if close else ""


def as_share(value: float, low: float, high: float) -> str:
    """Return ``; did you mean 0.95?`` where a share seems to be given in per cent, else nothing.

    Args:
        value: what was given.
        low: the least share that is taken.
        high: the largest; all of it, 1, is never suggested.
    """
    meant = 1 < value < 100 and low <= value / 100 <= high
    return f"; did you mean {value / 100:g}?" if meant else ""


def none_of(what: str, given: object, known: Iterable[str]) -> str:
    """Return ``--loss is squared or huber, got 'hubber'; did you mean 'huber'?``."""
    names = list(known)
    *first, last = names
    choice = f"{', '.join(first)} or {last}" if first else last
    return f"{what} is {choice}, got {given!r}{did_you_mean(str(given), names)}"


def check_word(what: str, given: object, known: Iterable[str]) -> None:
    """Raise :class:`~lut.UsageError` unless what was given is one of the known words: see :func:`none_of`."""
    names = list(known)
    if given not in names:
        raise UsageError(none_of(what, given, names))


def unknown(what: str, word: str, known: Iterable[str], *, none: str = "none") -> str:
    """Return ``unknown space 'resnet'; installed: …``, with what may have been meant."""
    names = sorted(known)
    return f"unknown {what} {word!r}; installed: {', '.join(names) or none}{did_you_mean(word, names)}"

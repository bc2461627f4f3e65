"""What somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean", "unknown"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'resnet-cifar'?``, or nothing where no known word is close."""
    by_form = {name.lower().replace("_", "-"): name for name in known}
    close = get_close_matches(word.lower().replace("_", "-"), by_form, n=1, cutoff=0.6)
    return f"; did you mean {by_form[close[0]]!r}?" if close else ""


def unknown(what: str, word: str, known: Iterable[str], *, none: str = "none") -> str:
    """Return ``unknown space 'resnet'; installed: …``, with what may have been meant."""
    names = sorted(known)
    return f"unknown {what} {word!r}; installed: {', '.join(names) or none}{did_you_mean(word, names)}"

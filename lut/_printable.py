"""What a terminal is shown of text that may come from a file: the one place where it is made harmless.

Names, warnings and reasons out of a file can hold whatever its author liked: escape sequences that move the cursor or
retitle the window, line breaks that make one message look like two, marks that turn the direction of writing, halves
of characters that no encoding has. They are shown as Python writes them in a string: ``\\x1b``.
"""

from __future__ import annotations

import re

__all__ = ["lowered", "printable", "printable_json", "shortened"]

# Control characters (C0, DEL, C1), line and paragraph separators, marks of direction, and lone surrogates.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# The same of JSON, whose line breaks are layout: those in its strings are escaped already.
_UNSHOWN_IN_JSON = re.compile("[\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NOT_ASCII = re.compile("[\x7f-\U0010ffff]")


def printable(text: str) -> str:
    """Return the text in one line, without anything that a terminal would act on."""
    return _UNSHOWN.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def printable_json(text: str, *, ascii_only: bool) -> str:
    """Return a JSON document that says the same without anything that a terminal would act on.

    Args:
        text: valid JSON.
        ascii_only: for a stream that has no other characters.
    """
    return (_NOT_ASCII if ascii_only else _UNSHOWN_IN_JSON).sub(_json_escape, text)


def _json_escape(found: re.Match[str]) -> str:
    # Characters beyond the first plane are two escapes in JSON, as in UTF-16.
    units = found.group().encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def shortened(text: str, most: int) -> str:
    """Return the text, its middle left out where it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end - 1]}…{text[-end:]}"


def lowered(text: str) -> str:
    """Return a sentence as the rest of another one: its first letter small, unless an abbreviation begins there."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]

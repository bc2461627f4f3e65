"""Settings changed by name: ``NAME=VALUE``, as options give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import msgspec

from lut import UsageError
from lut._printable import printable, shortened
from lut._suggest import did_you_mean
from profiler._options import parse_setting

__all__ = ["changed_by_name", "setting_name"]


def changed_by_name(
    parts: Mapping[str, msgspec.Struct], settings: Sequence[str], *, fixed: Sequence[str] = ()
) -> dict[str, Any]:
    """Return structs with some fields changed: ``FIELD=VALUE`` of the part named "", ``PART.FIELD=VALUE`` of others.

    Args:
        parts: the structs by name.
        settings: the changes; values are read as the fields' annotations say. Of two of a field the last counts.
        fixed: fields that cannot be changed so.

    Raises:
        UsageError: there is no such name, or the value does not fit.
    """
    hints = {part: get_type_hints(type(struct), include_extras=True) for part, struct in parts.items()}
    known = {
        f"{part}.{key}" if part else key: (part, key)
        for part, struct in parts.items()
        for key in struct.__struct_fields__
        if key not in fixed
    }
    changes: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for setting in settings:
        name = setting_name(setting)
        _, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set is NAME=VALUE, such as --set {next(iter(known))}=…, got {setting!r}")
        if name not in known:
            raise UsageError(f"--set {shortened(name, 60)}: there is no such setting{_meant(name, list(known))}")
        part, key = known[name]
        changes[part][key] = parse_setting("a search", name, hints[part][key], printable(text))
    try:
        return {part: msgspec.structs.replace(struct, **changes[part]) for part, struct in parts.items()}
    except UsageError as error:
        raise UsageError(f"--set: {error}") from None


def setting_name(setting: str) -> str:
    """Return the name that a ``NAME=VALUE`` sets."""
    return setting.partition("=")[0].strip().replace("-", "_")


def _meant(name: str, known: Sequence[str]) -> str:
    """Return the settings that may have been meant, such as those of that name in another part, or all there are."""
    part, dot, key = name.rpartition(".")
    if same := [one for one in known if one.rpartition(".")[2] == key]:
        return f"; did you mean {' or '.join(map(repr, same))}?"
    # Only the last word is compared: with the part before it, all names of a part are alike.
    words = [one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == part]
    meant = did_you_mean(key, words).replace("'", f"'{part}{dot}", 1)
    return meant or f"; names: {', '.join(known)}"

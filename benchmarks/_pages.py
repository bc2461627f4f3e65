"""What the pages that are written from results have in common: tables in Markdown, and where a figure comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

PACKAGES = ("torch", "onnxruntime")


class Section(NamedTuple):
    """A claim: its title, what was done, the command, the results files, and what makes its tables of these."""

    title: str
    text: str
    command: str
    files: tuple[str, ...]
    tables: Callable[..., list[str]]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def filled(text: str) -> str:
    """Return prose in lines of the house's length."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def signed(share: float, digits: int = 1) -> str:
    """Return a share as signed per cent."""
    return f"{share:+.{digits}%}".replace("-", "−").replace("%", " %")


def percent(share: float, digits: int = 0) -> str:
    """Return a share as per cent."""
    return f"{share:.{digits}%}".replace("%", " %")


def machine_of(found: dict[str, Any]) -> str:
    """Return the machine of a result, and what ran there."""
    machine = found["machine"]
    packages = found.get("software", {}).get("packages", {}) if isinstance(found.get("software"), dict) else {}
    versions = ", ".join(f"{name} {packages[name]}" for name in PACKAGES if name in packages)
    kind = ", virtual" if machine.get("virtual") else ""
    return f"{machine['model']}, {machine['affinity_cpus']} CPUs{kind}{', ' + versions if versions else ''}"

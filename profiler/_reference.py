"""The machine's reference speed: what its sentinels took when it was first profiled.

A machine runs at one speed today and at another tomorrow, and a single session cannot know which is which. The first
session on a device writes its sentinels' latencies into the user's cache folder; later ones bring theirs to the same
speed. A table says what its reference was, so nothing is lost with the cache but the tie between sessions.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from lut import Device, Setting
from lut._codec import short_problem
from lut._files import read_bytes, write_atomically
from lut._records import Software
from lut.errors import FileAccessError
from profiler._plan import PROTOCOL_NAME, SENTINELS

__all__ = [
    "agrees",
    "check_references",
    "load_references",
    "machine_key",
    "make_folder",
    "reference_path",
    "save_references",
]


# A nanosecond to three hours: whatever is beyond was never measured.
ReferenceMs: TypeAlias = Annotated[float, Meta(ge=1e-6, le=1e7)]


class _Store(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    references: dict[str, dict[str, ReferenceMs]]


# A setting takes 200 bytes.
LARGEST = 8 << 20
MOST_APART = 100.0
# What a target says in its software's details of what passes through the caches between two calls of a layer.
BETWEEN = "between calls"

FORMAT = "latency-lut-references-1"


def reference_path() -> Path:
    """Return where references are kept: ``latency-lut/references.json`` in the user's cache folder (XDG)."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    folder = Path(base) if base.startswith("/") else Path("~/.cache").expanduser()
    return folder / "latency-lut" / "references.json"


def machine_key(device: Device, setting: Setting, software: Software) -> str:
    """Return sixteen digits that stand for a machine and how it runs layers."""
    # Whatever sets the machine's speed for good gives it another reference; our own release does not.
    fields = (*Device.IDENTITY, "governor", "turbo", "microcode", "instructions")
    identity = [str(getattr(device, field)) for field in fields]
    packages = {name: version for name, version in software.packages.items() if name != "latency-lut"}
    described: tuple[object, ...] = (PROTOCOL_NAME, identity, setting, packages)
    if BETWEEN in software.details:
        # Sentinels are as cold as what passes between their calls makes them.
        described = (*described, software.details[BETWEEN])
    return hashlib.sha256(msgspec.json.encode(described, order="sorted")).hexdigest()[:16]


def _load(path: Path) -> _Store:
    """Return what the file holds; nothing where there is none.

    Raises:
        FileAccessError: it cannot be read, or is damaged.
    """
    try:
        content = read_bytes(path, limit=LARGEST)
    except FileAccessError:
        if os.path.lexists(path):
            raise
        return _Store(FORMAT, {})
    try:
        store = msgspec.json.decode(content, type=_Store)
        problem = "" if store.format == FORMAT else f"'format' is not {FORMAT!r}"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = short_problem(str(error)) if content.strip() else "it is empty"
    if problem:
        raise FileAccessError(
            f"{path} is damaged ({problem}). It holds the reference speeds of this machine, so it is not written over: "
            "restore it, or move it away to begin with new ones"
        )
    return store


def check_references(path: Path) -> None:
    """Raise, before anything is measured, what would keep a reference speed from being read or kept at the end.

    Raises:
        FileAccessError: the file is damaged or no regular file, or its folder does not allow to write it.
    """
    _load(path)
    make_folder(path)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise FileAccessError(
            f"cannot write {path}: {(error.strerror or str(error)).lower()}; the machine's reference speed is kept "
            "there. Name another cache folder: XDG_CACHE_HOME=/folder"
        ) from None


def make_folder(path: Path) -> None:
    """Make the folder that a file of the cache is to lie in.

    Raises:
        FileAccessError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileAccessError(
            f"cannot create {path.parent}: {(error.strerror or str(error)).lower()}; the machine's reference speed is "
            "kept there. Name another cache folder: XDG_CACHE_HOME=/folder"
        ) from None


def load_references(path: Path, device: Device, setting: Setting, software: Software) -> dict[int, float] | None:
    """Return each sentinel's reference in ms by its entry number, or ``None`` where the machine has none yet.

    A file that was damaged since :func:`check_references` holds none either; it stays as it is.
    """
    try:
        known = _load(path).references.get(machine_key(device, setting, software), {})
    except FileAccessError:
        return None
    digests = [layer.digest for layer in SENTINELS]
    return {-1 - i: known[digest] for i, digest in enumerate(digests)} if known.keys() >= set(digests) else None


def agrees(sentinel_ms: Mapping[int, float], references: Mapping[int, float]) -> bool:
    """Return whether a session's sentinels can be of the machine that the references are of.

    None may be more than a hundred times as fast or as slow: no load and no clock makes that of a machine.

    Args:
        sentinel_ms: what they took in the session, in ms, by entry.
        references: what they took at the reference speed, in ms.
    """
    ratios = [ms / references[entry] for entry, ms in sentinel_ms.items() if entry in references]
    return all(1 / MOST_APART <= ratio <= MOST_APART for ratio in ratios)


def save_references(
    path: Path, device: Device, setting: Setting, software: Software, references: Mapping[int, float]
) -> None:
    """Keep the references of a machine that had none.

    Raises:
        FileAccessError: the cache folder does not allow it; the file is damaged, and stays as it is; or a reference is
            no latency that a sentinel can have.
    """
    store = _load(path)
    store.references[machine_key(device, setting, software)] = {
        SENTINELS[-1 - entry].digest: ms for entry, ms in references.items()
    }
    content = msgspec.json.format(msgspec.json.encode(store), indent=1)
    try:
        msgspec.json.decode(content, type=_Store)
    except msgspec.DecodeError as error:
        raise FileAccessError(f"{path} is not written: {short_problem(str(error))}") from None
    make_folder(path)
    write_atomically(path, content)

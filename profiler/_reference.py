"""The machine's reference speed: what its sentinels took when it was first profiled.

A machine runs at one speed today and at another tomorrow, and a single session cannot know which is which. The first
session on a device writes its sentinels' latencies into the user's cache folder; later ones bring theirs to the same
speed. A table says what its reference was, so nothing is lost with the cache but the tie between sessions.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from lut import Device, Setting
from lut._files import read_bytes, write_atomically
from lut._records import Software
from lut.errors import FileAccessError
from profiler._plan import PROTOCOL_NAME, SENTINELS

__all__ = ["load_references", "reference_path", "save_references"]


class _Store(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    references: dict[str, dict[str, float]]


FORMAT = "latency-lut-references-1"


def reference_path() -> Path:
    """Return where references are kept: ``latency-lut/references.json`` in the user's cache folder (XDG)."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    folder = Path(base) if base.startswith("/") else Path("~/.cache").expanduser()
    return folder / "latency-lut" / "references.json"


def _key(device: Device, setting: Setting, software: Software) -> str:
    # Whatever sets the machine's speed for good gives it another reference; our own release does not.
    fields = (*Device.IDENTITY, "governor", "turbo", "microcode")
    identity = [str(getattr(device, field)) for field in fields]
    packages = {name: version for name, version in software.packages.items() if name != "latency-lut"}
    described = (PROTOCOL_NAME, identity, setting, packages)
    return hashlib.sha256(msgspec.json.encode(described, order="sorted")).hexdigest()[:16]


def _load(path: Path) -> _Store:
    try:
        store = msgspec.json.decode(read_bytes(path), type=_Store)
    except (FileAccessError, msgspec.DecodeError, UnicodeDecodeError):
        return _Store(FORMAT, {})
    return store if store.format == FORMAT else _Store(FORMAT, {})


def load_references(path: Path, device: Device, setting: Setting, software: Software) -> dict[int, float] | None:
    """Return each sentinel's reference in ms by its entry number, or ``None`` where the machine has none yet."""
    known = _load(path).references.get(_key(device, setting, software), {})
    found = {-1 - i: known.get(layer.digest, 0.0) for i, layer in enumerate(SENTINELS)}
    return found if all(0 < ms < float("inf") for ms in found.values()) else None


def save_references(
    path: Path, device: Device, setting: Setting, software: Software, references: Mapping[int, float]
) -> None:
    """Keep the references of a machine that had none.

    Raises:
        FileAccessError: the cache folder does not allow it.
    """
    store = _load(path)
    store.references[_key(device, setting, software)] = {
        SENTINELS[-1 - entry].digest: ms for entry, ms in references.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileAccessError(f"cannot create {path.parent}: {error.strerror}") from None
    write_atomically(path, msgspec.json.format(msgspec.json.encode(store), indent=1))

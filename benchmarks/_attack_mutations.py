"""Hostile variants of files: seeded, and without any search: a case is a reader's name and a number."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

# If anything of a file is ever run, imported or looked up, this module is what it runs: it leaves a file behind.
CANARY = "latency_lut_canary"

PAYLOADS = (
    f"__import__('{CANARY}')",
    f"a=__import__('{CANARY}'), b",
    f"{CANARY}:make",
    CANARY,
    f"import_module.__self__.{CANARY}",
    f"$(python -c 'import {CANARY}')",
    f"; python -c 'import {CANARY}' #",
    f"{{{{ ''.__class__.__mro__[1].__subclasses__() or '{CANARY}' }}}}",
    f"c{CANARY}\nmake\n(tR.",
    "aten.from_file.default",
    "aten.relu.__init__.__globals__",
    "../../../../etc/passwd",
    "/dev/zero",
    "file:///etc/passwd",
    "<script>alert(1)</script>",
    "[/]",
    "[bold]x[/bold]",
    "\x1b]0;title\x07\x1b[2J",
    "line\nerror: forged",
    "\u202etxt.exe",
    "\ud800",
    "\x00",
    "%s%s%s%n",
    "{0.__class__}",
    "",
    "x" * 20_000,
    "NaN",
    "inf",
)
NUMBERS: tuple[int | float, ...] = (
    *(0, 1, -1, -5, 2, 3, 7, 255, 10**4, 10**8, 10**12, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 10**30),
    *(0.0, -0.0, 0.5, 1e-320, 1e-300, 1e-12, 1e-9, 1e9, 1e15, 1e150, 1e308, -1e308, -1.0, 1e-3, 1 / 3),
)


def wild(rng: random.Random) -> Any:
    """Return a value that hardly any field is meant to have."""
    kind = rng.randrange(10)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 7:
        return rng.choice(PAYLOADS)
    if kind == 7:
        return rng.choice((None, True, False, [], {}, [[]], {"": None}, [None] * 50))
    if kind == 8:
        return [rng.choice(NUMBERS) for _ in range(rng.choice((1, 2, 5, 1000)))]
    nested: Any = rng.choice(NUMBERS)
    for _ in range(rng.choice((3, 30, 300))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    return nested


Place = tuple[Any, Any]


def places(value: Any) -> list[Place]:
    """Return every place in a JSON value: what holds it, and its key or number there."""
    found: list[Place] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                waiting.append(holder[key])
    return found


def mutated_json(value: Any, rng: random.Random, *, most: int = 4) -> Any:
    """Return a copy of a JSON value with one to ``most`` changes."""
    value = copy.deepcopy(value)
    if not isinstance(value, (dict, list)) or rng.random() < 0.01:
        return wild(rng)
    for _ in range(rng.choice((1, 1, 1, 2, most))):
        all_places = places(value)
        if not all_places:
            return wild(rng)
        holder, key = rng.choice(all_places)
        _CHANGES[rng.randrange(len(_CHANGES))](holder, key, rng, all_places)
    return value


def _replace(holder: Any, key: Any, rng: random.Random, _: list[Place]) -> None:
    holder[key] = wild(rng)


def _nudge(holder: Any, key: Any, rng: random.Random, _: list[Place]) -> None:
    """Change a value to another of its own kind, which types alone do not notice."""
    old = holder[key]
    if isinstance(old, bool):
        holder[key] = not old
    elif isinstance(old, int):
        holder[key] = rng.choice((old + 1, old - 1, -old, old * 2, old * 10**6, *filter(_whole, NUMBERS)))
    elif isinstance(old, float):
        holder[key] = rng.choice((-old, old * 1e6, old * 1e-6, old * (1 + 1e-9), *NUMBERS))
    elif isinstance(old, str):
        holder[key] = rng.choice((old + "x", old[:-1], old.upper(), old[::-1], *PAYLOADS))
    elif isinstance(old, list) and old:
        holder[key] = rng.choice((old[:-1], old[1:], old * 2, old[::-1], old + old[:1], old * rng.choice((10, 1000))))
    else:
        holder[key] = wild(rng)


def _whole(number: int | float) -> bool:
    return isinstance(number, int)


def _remove(holder: Any, key: Any, _: random.Random, __: list[Place]) -> None:
    del holder[key]


def _add(holder: Any, key: Any, rng: random.Random, _: list[Place]) -> None:
    if isinstance(holder, dict):
        holder[rng.choice((*PAYLOADS[:8], "op", "name", "version", "format"))] = wild(rng)
    else:
        holder.insert(key, wild(rng))


def _rename(holder: Any, key: Any, rng: random.Random, _: list[Place]) -> None:
    if isinstance(holder, dict):
        holder[rng.choice((key + "_", key.upper(), *PAYLOADS))] = holder.pop(key)
    else:
        holder.insert(rng.randrange(len(holder) + 1), holder[key])


def _transplant(holder: Any, key: Any, rng: random.Random, all_places: list[Place]) -> None:
    other, number = rng.choice(all_places)
    holder[key] = copy.deepcopy(other[number])


_CHANGES: tuple[Callable[[Any, Any, random.Random, list[Place]], None], ...] = (
    _replace,
    _replace,
    _nudge,
    _nudge,
    _nudge,
    _remove,
    _add,
    _rename,
    _transplant,
)


def encoded(value: Any) -> bytes:
    """Return JSON that holds whatever Python can: numbers beyond 64 bits, infinity, halves of characters."""
    return json.dumps(value, ensure_ascii=True).encode()


def mutated_text(content: bytes, rng: random.Random) -> bytes:
    """Return JSON text that no encoder would write: doubled keys, numbers that are none, brackets without end."""
    text = bytearray(content)
    kind = rng.randrange(5)
    at = rng.randrange(len(text) + 1)
    if kind == 0:
        digits = [i for i, byte in enumerate(text) if 48 <= byte < 58]
        if digits:
            at = rng.choice(digits)
            text[at : at + 1] = rng.choice((b"NaN", b"1e999", b"-", b"0x1", b"Infinity", b"9" * 400, b"00"))
    elif kind == 1:
        text[at:at] = rng.choice((b"[", b"{", b'{"a":')) * rng.choice((10, 5000, 200_000))
    elif kind == 2 and (keys := [i for i in range(len(text) - 1) if text[i : i + 1] in b"{"]):
        at = rng.choice(keys) + 1
        text[at:at] = b'"name": 1, "name": 2, '
    elif kind == 3:
        text[at:at] = rng.choice((b"\xff\xfe", b"\x00", b"\\ud800", b'"', b"\n", "\ufeff".encode()))
    else:
        text[at:] = b""
    return bytes(text)


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with flips, cuts, copies and wild words, as disks and attackers make them."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        if not data:
            return bytes(data)
        at = rng.randrange(len(data))
        kind = rng.randrange(8)
        if kind < 3:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            data[at] = rng.randrange(256)
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            end = min(len(data), at + rng.choice((1, 4, 100, 5000)))
            data[at:at] = data[at:end]
        elif kind == 6:
            del data[at : at + rng.choice((1, 2, 8, 100))]
        else:
            word = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1)).to_bytes(8, "little")
            data[at : at + 8] = word[: rng.choice((1, 2, 4, 8))]
    return bytes(data)

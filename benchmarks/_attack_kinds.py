"""What the attack's readers are, and how files are altered with their checksums made good."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from _attack_mutations import encoded, mutated_bytes, mutated_json, mutated_text

from lut._lines import seal, unsealed


class Reader(NamedTuple):
    """One kind of file.

    ``make`` writes valid files into a folder; ``alter`` writes a variant of them into another; ``read`` reads that, and
    does what a command would do next in its own process; ``file`` is what an error is to name. ``whole`` makes the file
    to read of the valid ones, where ``alter`` does more than to alter.
    """

    name: str
    make: Callable[[Path], None]
    alter: Callable[[Path, Path, random.Random], None]
    read: Callable[[Path], Any]
    file: str
    weight: int = 1
    whole: Callable[[Path], None] = lambda _: None


def json_or_bytes(content: bytes, rng: random.Random, sign: Callable[[Any], bytes] = encoded) -> bytes:
    """Return a variant of a JSON file: of its values most often, signed anew; of its text or its bytes otherwise."""
    kind = rng.random()
    if kind < 0.75:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            # It was altered before.
            return mutated_bytes(content, rng)
        return sign(mutated_json(value, rng))
    return mutated_text(content, rng) if kind < 0.9 else mutated_bytes(content, rng)


def altering(file: str, sign: Callable[[Any], bytes] = encoded) -> Callable[[Path, Path, random.Random], None]:
    def alter(valid: Path, folder: Path, rng: random.Random) -> None:
        shutil.copytree(valid, folder, dirs_exist_ok=True)
        (folder / file).write_bytes(json_or_bytes((valid / file).read_bytes(), rng, sign))

    return alter


def sealed(lines: list[bytes]) -> bytes:
    content = b""
    for line in lines:
        content += seal(line.replace(b"\n", b" ").replace(b"\t", b" "), len(content))
    return content


def altered_lines(content: bytes, rng: random.Random) -> bytes:
    """Return a variant of a file of sealed lines: altered lines sealed anew, or bytes as they are."""
    lines = list(unsealed(content))
    kind = rng.random()
    if kind < 0.2:
        return mutated_bytes(content, rng)
    if kind < 0.3:
        return content * rng.choice((2, 3, 50))
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(lines))
        change = rng.random()
        if change < 0.7:
            lines[at] = json_or_bytes(lines[at], rng)
        elif change < 0.8:
            del lines[at]
        elif change < 0.9:
            lines.insert(at, lines[rng.randrange(len(lines))])
        else:
            rng.shuffle(lines)
        if not lines:
            break
    return sealed(lines)


def altering_lines(file: str) -> Callable[[Path, Path, random.Random], None]:
    def alter(valid: Path, folder: Path, rng: random.Random) -> None:
        (folder / file).write_bytes(altered_lines((valid / file).read_bytes(), rng))

    return alter

"""The scripts of a checkout."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_check_says_what_it_does() -> None:
    done = subprocess.run([ROOT / "scripts/check", "--help"], capture_output=True, text=True, check=True)
    assert "--quick" in done.stdout
    assert "pytest" in done.stdout


def test_what_the_quick_check_leaves_out_exists() -> None:
    text = (ROOT / "scripts/check").read_text()
    left_out = re.findall(r"(tests/test_\w+\.py)::(\S+)", text)
    assert left_out
    gone = [
        f"{file}::{name}"
        for file, name in left_out
        if not re.search(rf"^def {re.escape(name)}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert not gone, "scripts/check --quick leaves out tests that do not exist"


def test_the_quick_check_touches_every_package() -> None:
    text = (ROOT / "scripts/check").read_text()
    files = set(re.findall(r"tests/test_\w+\.py", text))
    assert not [file for file in files if not (ROOT / file).exists()]
    imported = "".join((ROOT / file).read_text() for file in files)
    for package in ("lut", "predictors", "profiler", "search"):
        assert re.search(rf"^from {package}\b", imported, re.MULTILINE)

"""Benchmarks are run by hand, and rarely: that each can be imported, and by which names it goes, is seen here."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from conftest import HANGS_S

BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))
PACKAGES = ("lut", "predictors", "profiler", "search")


def test_all_can_be_imported() -> None:
    pytest.importorskip("onnxruntime")
    script = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1]); [importlib.import_module(m) for m in sys.argv[2:]]"
    )
    names = [path.stem for path in BENCHMARKS]
    command = [sys.executable, "-c", script, str(BENCHMARKS[0].parent), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_is_public_is_imported_by_its_public_name(path: Path) -> None:
    siblings = {other.stem: other for other in BENCHMARKS}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        package, _, private = node.module.partition("._")
        for alias in node.names:
            if package in PACKAGES and private:
                public, own = import_module(package), import_module(node.module)
                listed = alias.name in public.__all__
                is_public = listed and getattr(public, alias.name) is getattr(own, alias.name)
                assert not is_public, f"{node.module} {alias.name}"
            elif node.module in siblings:
                # Also of imports inside functions, which no import of the file sees.
                assert alias.name in _defined(siblings[node.module]), f"{node.module} {alias.name}"


def _defined(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(alias.asname or alias.name for alias in node.names)
    return names

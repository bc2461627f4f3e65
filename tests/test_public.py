"""What is promised to users stays true: the public names, the floors, the reference speeds' file."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import lut
from lut import errors
from profiler._fake import FakeTarget
from profiler._reference import load_references, save_references

ROOT = Path(lut.__file__).parent.parent
PACKAGES = ("lut", "predictors", "profiler", "search")
BELOW = {
    "lut": set(),
    "predictors": {"lut"},
    "profiler": {"lut", "predictors"},
    "search": {"lut", "predictors", "profiler"},
}
FRAMEWORKS = {"torch", "pandas", "onnx", "onnxruntime", "coremltools", "sklearn", "scipy", "numpy", "plotly"}


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_true_and_sorted(package: str) -> None:
    module = import_module(package)
    names = module.__all__
    assert sorted(names, key=str) == list(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return the top-level packages a file imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text())
    lazy = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test))
        for node in ast.walk(outer)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], id(node) not in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module.split(".")[0], id(node) not in lazy))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_floor_is_climbed_backwards(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for name, at_import in imports(path):
            assert name not in PACKAGES or name == package or name in BELOW[package], f"{path} imports {name}"
            if package == "lut" and at_import:
                assert name not in FRAMEWORKS, f"{path} imports {name}"


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = errors.__doc__ or ""
    for name in errors.__all__:
        assert name in drawn
        assert issubclass(getattr(errors, name), (errors.LatencyLutError, UserWarning))
    assert str(errors.MissingLayerError("plain text")) == "plain text"
    assert str(errors.FileAccessError("plain text")) == "plain text"


def test_references_survive_and_bad_files_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "references.json"
    device, setting, software = FakeTarget().describe()
    assert load_references(path, device, setting, software) is None
    save_references(path, device, setting, software, {-1: 0.5, -2: 0.25, -3: 0.125})
    assert load_references(path, device, setting, software) == {-1: 0.5, -2: 0.25, -3: 0.125}
    _, other, _ = FakeTarget(batch=8).describe()
    assert load_references(path, device, other, software) is None
    for content in (b"", b"{", b'{"format": "x", "references": {}}', b'{"format": 1}'):
        path.write_bytes(content)
        assert load_references(path, device, setting, software) is None

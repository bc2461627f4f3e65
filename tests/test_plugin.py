"""The example plug-in: it keeps the interface, it measures, and the page shows what the files say."""

from __future__ import annotations

import importlib.util
import random
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv
from threadpoolctl import threadpool_limits

from lut import LatencyTable, Layer, UsageError, chain, linear, residual_add
from lut.errors import LayerFailedError
from lut.primitives import Activation
from profiler import Target, TargetSpec, profile
from profiler._layers_file import load_layers

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "target_plugin"
SEED = 3
KNOWN: tuple[Layer, ...] = (
    linear(24, 10, bias=True),
    linear(24, 10, bias=False),
    chain((8, 4, 4), Activation(kind="relu")),
    residual_add(8, activation="relu", input_size=(4, 4)),
    residual_add(8, activation=None, input_size=(4, 4)),
)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("numpy_target_by_path", EXAMPLE / "numpy_target.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def target(example: ModuleType) -> Iterator[Any]:
    # It limits the thread pools of its process, which here is that of all other tests.
    with threadpool_limits():
        yield example.NumpyTarget(batch=2)


def test_it_says_what_it_is(target: Any) -> None:
    assert isinstance(target, Target)
    device, setting, software = target.describe()
    assert device.affinity_cpus <= device.cores
    assert (setting.target, setting.batch, setting.threads, setting.dtype) == ("numpy", 2, 1, "float32")
    assert software.packages["numpy"] == np.__version__
    assert "numpy" in str(setting)


@pytest.mark.parametrize("layer", KNOWN, ids=str)
def test_it_computes_what_pytorch_computes(target: Any, layer: Layer) -> None:
    prepared = target.prepare(layer, SEED)
    before = prepared.call()
    assert before.shape == (2, *layer.output_shape)
    addresses = set()
    for i in range(8):
        target.relocate(prepared, random.Random(i))
        addresses.add(tuple(x.ctypes.data % 65536 for x in prepared.data))
        assert np.array_equal(prepared.call(), before)
    assert len(addresses) > 5
    assert np.array_equal(target.prepare(layer, SEED).call(), before)
    assert not np.array_equal(target.prepare(layer, SEED + 1).call(), before)
    assert target.run(prepared, 20) > 0
    assert sum(part.weight for part in target.parts(prepared)) == 1


def test_preparing_leaves_pytorchs_random_numbers_alone(target: Any) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    target.prepare(KNOWN[0], SEED)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("layer", "name"), [(conv(8), "Conv2d"), (chain((8,), Activation(kind="gelu")), "gelu")], ids=["conv", "gelu"]
)
def test_what_it_does_not_know_is_a_failure(target: Any, layer: Layer, name: str) -> None:
    with pytest.raises(LayerFailedError, match=f"does not know {name}"):
        target.prepare(layer, SEED)


def test_wrong_numbers_are_a_failure(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(target._known, "relu", lambda x: x)
    with pytest.raises(LayerFailedError, match="something else than PyTorch"):
        target.prepare(chain((64,), Activation(kind="relu")), SEED)


@pytest.mark.parametrize(("error", "reason"), [(MemoryError(), "out_of_memory"), (ValueError("bad shapes"), "error")])
def test_what_numpy_raises_is_a_failure(target: Any, error: Exception, reason: str) -> None:
    def fail(*_: object) -> None:
        raise error

    prepared = target.prepare(KNOWN[0], SEED)
    prepared.steps[0] = (fail, [])
    with pytest.raises(LayerFailedError) as caught:
        target.run(prepared, 1)
    assert caught.value.reason == reason
    assert str(caught.value)


def test_bad_options_are_refused_without_a_target(example: ModuleType) -> None:
    for bad in ({"batch": 0}, {"threads": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            example.NumpyTarget.check_options(**bad)


@pytest.mark.usefixtures("short_preflight")
def test_the_profiler_makes_a_table_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The measuring process imports the module by name; installed packages need no path.
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))
    layers = load_layers(EXAMPLE / "layers.json")
    table = profile(
        layers,
        target=TargetSpec("numpy_target:NumpyTarget", {"batch": 1}),
        output=tmp_path / "t.json",
        reference=tmp_path / "references.json",
        time_budget_s=8.0,
        precision=0.5,
        quick=True,
    )
    assert list(table) == list(layers[:2])
    (failure,) = table.failures
    assert (failure.layer, failure.reason) == (layers[2], "error")
    assert "does not know Conv2d" in failure.message
    assert all(m.origin == "measured" and m.n_visits and m.median_ms > 0 for m in table.values())
    assert LatencyTable.load(tmp_path / "t.json").setting.target == "numpy"


def test_the_page_shows_the_files() -> None:
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```(python|toml|json)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for kind, name in (("toml", "pyproject.toml"), ("python", "numpy_target.py"), ("json", "layers.json")):
        content = (EXAMPLE / name).read_text(encoding="utf-8")
        assert (kind, content) in shown, f"docs/targets.md shows another {name}"
    assert len((EXAMPLE / "numpy_target.py").read_text(encoding="utf-8").splitlines()) < 120


def test_the_entry_point_names_the_class(example: ModuleType) -> None:
    text = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    (module, attribute) = re.findall(r'^numpy = "(\w+):(\w+)"$', text, re.MULTILINE)[0]
    assert (EXAMPLE / f"{module}.py").exists()
    assert hasattr(example, attribute)

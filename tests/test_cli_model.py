"""``profile-device --model`` as people type it: their network in, its layers, its time and its audit out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _commands import run_here
from test_cli import QUICK, command

from lut import LatencyTable

pytestmark = pytest.mark.usefixtures("short_preflight")

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv3 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.conv3(self.conv2(self.conv1(x)))
        return torch.softmax(self.head(self.drop(x.mean((2, 3)))), -1)


class ByValue(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x - 1


class Huge(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 8)

    def forward(self, x):
        return self.head(x)


def net():
    return Net()


def with_input():
    return Net(), torch.zeros(2, 3, 16, 16)


def by_value():
    return ByValue()


def raises():
    raise RuntimeError("no weights here")


def no_module():
    return 3


def words():
    return nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 100))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my.py").write_text(MODEL)
    # A user's own modules beside the model must not hide ours.
    for name in ("search", "lut", "profiler"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    return tmp_path


def test_a_network_of_the_users_own(folder: Path) -> None:
    done = command(folder, "profile-device", "--model", "my.py:net", "--input", "2x3x16x16", *QUICK)
    assert "my.py:net: 12 operators in 6 layers, 5 different; no work at inference: dropout ×1" in done.stdout.replace(
        "\n", " "
    )
    assert "conv2.0" in done.stdout
    assert "as a whole" in done.stdout
    assert "audited by 1 whole network" in done.stdout
    table = LatencyTable.load(folder / "net-cpu-b2.json")
    (network,) = table.networks
    assert network.end_to_end is not None
    assert table.setting.batch == 2
    assert {item.name for item in network.network.layers} >= {"conv1.0", "conv2.0", "conv3.0", "head"}
    page = (folder / "net-cpu-b2.html").read_text()
    assert "Do sums of layers give the whole network?" in page
    assert "my.py:net" in page


def test_a_factory_may_give_the_input_and_a_sweep_the_gains(folder: Path) -> None:
    done = run_here(
        folder,
        "profile-device",
        *("--model", "my.py:with_input", "--sweep", "--step", "4", *QUICK),
        *("--json", "--output", "t.json"),
    )
    found = json.loads(done.stdout)
    assert found["networks"][0]["whole_ms"] > 0
    assert {gain["name"] for gain in found["gains"]} >= {"conv1.0", "conv2.0"}
    assert found["audit"]["networks"] == 1
    assert "not swept: head" in done.stderr
    run_here(folder, "report-table", "t.json")
    assert "layers and their widths</h2>" in (folder / "t.html").read_text()


def test_a_network_of_integers(folder: Path) -> None:
    run_here(
        folder,
        "profile-device",
        *("--model", "my.py:words", "--input", "2x7:int64:100", *QUICK),
        *("--context", "isolated", "--output", "t.json"),
    )
    table = LatencyTable.load(folder / "t.json")
    assert table.audit is not None
    assert [str(layer) for layer in table] == ["embedding 7→7×8", "linear 8→100 ×7"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--model", "my.py:raises", "--input", "1x3x8x8"], "the factory failed: RuntimeError: no weights here"),
        (["--model", "my.py:no_module", "--input", "1x3x8x8"], "returned int, not a torch.nn.Module"),
        (["--model", "my.py:missing", "--input", "1x3x8x8"], "there is no function missing"),
        (["--model", "none.py:net", "--input", "1x3x8x8"], "there is no file none.py"),
        (["--model", "my.py", "--input", "1x3x8x8"], "name a function in it too, my.py:FACTORY"),
        (["--model", "my.py:net"], "say what goes in: --input"),
        (["--model", "my.py:net", "--input", "1x4x8x8"], "it does not run on --input 1x4x8x8"),
        (["--model", "my.py:net", "--input", "1x3xtwo"], "--input is a shape"),
        (["--model", "my.py:net", "--input", "1x3x8x8:int65"], "behind the shape stand a type"),
        (["--model", "my.py:words", "--input", "1x8"], "it does not run on --input 1x8"),
        (["--model", "my.py:by_value", "--input", "1x3x8x8"], "depends on its input's values"),
        (["--model", "my.py:net", "--input", "2x3x8x8", "--batch", "4"], "the network's input has batch 2"),
        (["--model", "my.py:net", "--space", "resnet-cifar"], "give one of --model and --space"),
        (["--model", "net.onnx"], "runs on --target onnx, not on cpu"),
        (["--input", "1x3x8x8"], "--input is about a --model"),
        (["--sweep"], "--sweep is about a --model"),
        (["--model", "my.py:net", "--input", "1x3x8x8", "--step", "2"], "--step is how fine a --sweep is"),
        (["--model", "my.py:net", "--input", "1x3x8x8", "--audit", "3"], "a --model is audited by itself"),
    ],
)
def test_mistakes_get_one_line(folder: Path, arguments: list[str], problem: str) -> None:
    done = run_here(folder, "profile-device", "--time-budget", "2", *arguments, code=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert problem in line
    assert not list(folder.glob("*.json*"))


def test_a_network_through_onnx_and_the_file_that_is_left(folder: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    arguments = ("--target", "onnx", *QUICK)
    done = run_here(folder, "profile-device", *arguments, "--model", "my.py:net", "--input", "2x3x16x16")
    assert "exported to net-exported.onnx" in done.stdout
    assert "FusedConv" in done.stdout
    again = run_here(folder, "profile-device", *arguments, "--model", "net-exported.onnx", "--json")
    found = json.loads(again.stdout)
    assert found["networks"][0]["whole_ms"] > 0
    assert found["networks"][0]["sum_ms"] > 0
    assert any("FusedConv (Conv, Relu)" in (layer["kernel"] or "") for layer in found["networks"][0]["layers"])
    whole = (folder / "net-exported.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("not a network")
    for name in ("cut.onnx", "text.onnx", "none.onnx"):
        failed = run_here(folder, "profile-device", *arguments, "--model", name, code=2)
        (line,) = failed.stderr.splitlines()
        assert line.startswith("error: ")
        assert name in line


def test_on_core_ml_the_layers_are_named_and_not_measured(folder: Path) -> None:
    done = run_here(
        folder, "profile-device", "--target", "coreml", "--model", "my.py:net", "--input", "2x3x16x16", code=3
    )
    table = LatencyTable.from_json((folder / "net-coreml-b2.json").read_bytes())
    assert not len(table)
    assert len(table.not_measured) == 5
    (network,) = table.networks
    assert network.end_to_end is None
    assert "export-coreml" in (network.reason or "")
    assert "incomplete" in done.stderr

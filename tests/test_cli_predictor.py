"""``fit-predictor`` and ``predict-latency`` as people type them: a table in, a network's latency out."""

from __future__ import annotations

import json
import random
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _commands import run_here
from _predictors import resnet_table
from conftest import HANGS_S
from rich.console import Console
from test_cli import command

from lut import LatencyTable, Network, UsageError, conv_norm_act
from lut._records import NOT_CHOSEN, NotMeasured
from predictors import LatencyPredictor
from profiler._cli import _workloads, predict_latency
from profiler._sources import Subject
from profiler._workload import Workload
from search import ResNetCifar

MODEL = """
import torch
from torch import nn


def net(last=None):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        *([] if last is None else [last]),
    )


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"a[/]b": nn.Conv2d(3, 8, 3, padding=1, bias=False), "[red]c": nn.ReLU()})

    def forward(self, x):
        for part in self.parts.values():
            x = part(x)
        return x


def named():
    return Named()


def silu():
    return net(nn.SiLU())


def no_module():
    return 3
"""

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables and predictors of them; nothing in it is changed by a test."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "my.py").write_text(MODEL)
    tables = {
        "t": resnet_table(folder, networks=12),
        "b8": resnet_table(folder, networks=2, batch=8),
        "failed": resnet_table(folder, networks=1, failing=2),
        "bare": resnet_table(folder, networks=0, drop=["linear"]),
    }
    for name, table in tables.items():
        table.save(folder / f"{name}.json")
    for name in ("t", "bare"):
        LatencyPredictor.fit(LatencyTable.from_json((folder / f"{name}.json").read_bytes())).save(folder / name)
    return folder


@pytest.fixture
def main(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """Run a command in this process, which takes no start of another; return its exit code, output and errors."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        from predictors._commands import fit_predictor
        from profiler._cli import predict_latency

        monkeypatch.chdir(made)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setenv("COLUMNS", "160")
        module: Any = fit_predictor if name == "fit-predictor" else predict_latency
        with pytest.raises(SystemExit) as end:
            module.main()
        found = capsys.readouterr()
        return int(end.value.code or 0), found.out, found.err

    return run


def space() -> ResNetCifar:
    return ResNetCifar(expand=0.5)


def vector(seed: int = 4) -> tuple[int, ...]:
    return space().sample(random.Random(seed))


ASK = ("--predictor", "t", "--space", "resnet-cifar", "--expand", "0.5")


@pytest.mark.parametrize("name", ["fit-predictor", "predict-latency"])
def test_help_speaks_to_a_stranger(name: str, tmp_path: Path) -> None:
    text = command(tmp_path, name, "--help").stdout
    assert "Usage: " in text
    assert "Example: " in text
    assert len(text.splitlines()) > 15


@pytest.mark.parametrize(
    ("name", "module"),
    [("fit-predictor", "predictors._commands.fit_predictor"), ("predict-latency", "profiler._cli.predict_latency")],
)
def test_help_imports_nothing_heavy(name: str, module: str, tmp_path: Path) -> None:
    script = (
        f"import sys; sys.argv = ['{name}', '--help']\n"
        f"from {module} import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'pandas', 'numpy', 'scipy', 'sklearn', 'plotly', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_from_a_table_to_a_networks_latency(made: Path) -> None:
    text = run_here(made, "fit-predictor", "t.json", "--output", "mine").stdout
    flat = " ".join(text.split())
    for part in (
        "simulated device",
        "layers of t.json",
        "12 networks, each by",
        "Kendall",
        "calibration: ",
        "fitted in",
    ):
        assert part in flat
    assert "an interval of 95% needs 19 networks measured as a whole, and there were 12" in flat
    assert text.splitlines()[-1] == "predictor  mine"
    asked = ("--predictor", "mine", *ASK[2:], "--choices", "random", "--seed", "4")
    text = run_here(made, "predict-latency", *asked).stdout
    predicted = LatencyPredictor.load(made / "mine").predict(space().decode(vector()))
    assert predicted.low_ms is not None
    assert f"resnet-cifar: {predicted.ms:.4g} ms, between {predicted.low_ms:.4g} and " in text
    assert "at 90%" in text
    assert f"{predicted.coverage:.0%} of it is of measured layers" in text
    assert "more, " in text
    assert "--verbose shows all" in text


def test_json_is_all_that_is_on_standard_output(made: Path) -> None:
    done = run_here(made, "fit-predictor", "t.json", "--output", "json", "--json")
    found = json.loads(done.stdout)
    assert found["output"] == "json"
    assert found["held_out_networks"]["count"] == 12
    assert found["calibration"]["networks"] == 12
    done = run_here(made, "predict-latency", *ASK, "--choices", "random", "--json")
    found = json.loads(done.stdout)
    predicted = LatencyPredictor.load(made / "t").predict(space().decode(vector(0)))
    assert found["ms"] == pytest.approx(predicted.ms)
    assert (found["low_ms"], found["high_ms"]) == pytest.approx((predicted.low_ms, predicted.high_ms))
    assert found["coverage"] == pytest.approx(predicted.coverage)
    assert found["no_interval"] is None
    assert {row["origin"] for row in found["layers"]} == {part.origin for part in predicted.layers}
    assert sum(row["count"] * row["contribution_ms"] for row in found["layers"]) == pytest.approx(found["ms"])
    assert sum(row["count"] for row in found["layers"]) == len(predicted.layers)


def test_a_table_predicts_as_the_predictor_that_is_fitted_to_it(main: Main) -> None:
    rest = (*ASK[2:], "--choices", "random", "--seed", "7", "--json")
    code, by_table, _ = main("predict-latency", "--table", "t.json", *rest)
    assert code == 0
    assert json.loads(by_table) == json.loads(main("predict-latency", "--predictor", "t", *rest)[1])


def test_choices_are_a_list_a_file_or_random(made: Path, main: Main) -> None:
    listed = ",".join(map(str, vector()))
    (made / "choices.json").write_text(json.dumps(vector()))
    answers = [
        json.loads(main("predict-latency", *ASK, *how, "--json")[1])
        for how in (("--choices", listed), ("--choices", "choices.json"), ("--choices", "random", "--seed", "4"))
    ]
    assert answers[0] == answers[1] == answers[2]
    other = json.loads(main("predict-latency", *ASK, "--choices", "random", "--seed", "5", "--json")[1])
    assert other["ms"] != answers[0]["ms"]


def test_a_users_own_network(made: Path, main: Main) -> None:
    code, out, err = main(
        "predict-latency", "--predictor", "t", "--model", "my.py:net", "--input", "4x3x32x32", "--json"
    )
    assert (code, err.count("Traceback")) == (0, 0)
    found = json.loads(out)
    assert found["ms"] > 0
    assert sum(row["count"] for row in found["layers"]) == 2
    assert all(row["layer"].startswith("conv3×3") for row in found["layers"])
    assert sorted(made.glob("*.onnx")) == []


def test_names_are_shown_as_they_are(main: Main) -> None:
    code, out, _ = main("predict-latency", *ASK[:2], "--model", "my.py:named", "--input", "4x3x32x32")
    assert code == 0
    assert "a[/]b" in out


def test_what_is_outside_is_said_to_be(main: Main) -> None:
    code, out, _ = main(
        "predict-latency", "--predictor", "bare", *ASK[2:], "--choices", "random", "--unknown", "outside", "--verbose"
    )
    assert code == 0
    assert "outside what was measured" in out
    assert "classifier: operator linear" in out
    assert "no interval: an interval of 90% needs 9 networks measured as a whole, and there were 0" in out
    assert "between" not in out


def test_a_level_for_which_there_are_too_few_networks(main: Main) -> None:
    code, out, _ = main("predict-latency", *ASK, "--choices", "random", "--level", "0.95", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["low_ms"], found["high_ms"], found["level"]) == (None, None, 0.95)
    assert found["no_interval"] == "an interval of 95% needs 19 networks measured as a whole, and there were 12"


def test_all_layers_are_listed_where_asked_for(main: Main) -> None:
    few = main("predict-latency", *ASK, "--choices", "random")[1]
    many = main("predict-latency", *ASK, "--choices", "random", "--verbose")[1]
    assert many.count("\n") > few.count("\n") + 20
    assert "--verbose" not in many


def test_layers_that_failed_are_left_out_where_asked_for(main: Main, made: Path) -> None:
    code, out, _ = main("fit-predictor", "failed.json", "--failures", "skip", "--output", "rest", "--json")
    assert code == 0
    assert json.loads(out)["layers"] == len(LatencyTable.from_json((made / "failed.json").read_bytes()))


def test_one_seed_gives_one_file(main: Main, made: Path) -> None:
    for name in ("first", "second"):
        assert main("fit-predictor", "t.json", "--output", name, "--seed", "3")[0] == 0
    assert (made / "first/predictor.json").read_bytes() == (made / "second/predictor.json").read_bytes()


def test_a_network_that_holds_a_failed_layer_is_refused(main: Main) -> None:
    assert main("fit-predictor", "failed.json", "--failures", "skip", "--output", "rest")[0] == 0
    choices = [0] * len(space().choices)
    # The stem of one channel, the first layer that was made to fail or the network's that holds it.
    for seed in range(30):
        code, _, err = main(
            "predict-latency", "--predictor", "rest", *ASK[2:], "--choices", "random", "--seed", str(seed)
        )
        if code:
            assert code == 1
            assert "could not be measured on this device" in err
            return
    pytest.fail(f"no network of 30 holds one of the layers that failed, and neither do {choices}")


LIST = "list of 112 option indices"


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["fit-predictor", "none.json"], 1, "cannot read none.json"),
        (["fit-predictor", "my.py"], 1, "my.py"),
        (["fit-predictor", "t.json", "b8.json"], 2, "batch 4 / 8"),
        (["fit-predictor", "failed.json"], 1, "2 layers could not be measured, conv3×3"),
        (["fit-predictor", "failed.json"], 1, "--failures skip"),
        (["fit-predictor", "t.json", "--failures", "ignore"], 2, "--failures is refuse or skip, got 'ignore'"),
        (["fit-predictor", "t.json", "--output", "my.py"], 1, "cannot write my.py"),
        (["predict-latency", *ASK], 2, "--space and --choices go together"),
        (["predict-latency", "--predictor", "t"], 2, "give a network: either --model"),
        (["predict-latency", "--predictor", "t", "--choices", "random"], 2, "give a network: either --model"),
        (["predict-latency", *ASK, "--choices", "random", "--model", "my.py:net"], 2, "either --model"),
        (
            ["predict-latency", *ASK[2:], "--choices", "random"],
            2,
            "give either --predictor FOLDER (see fit-predictor) or",
        ),
        (["predict-latency", *ASK, "--table", "t.json", "--choices", "random"], 2, "give either --predictor FOLDER"),
        (["predict-latency", "--table", "t", *ASK[2:], "--choices", "random"], 2, "--table t is a folder: give a file"),
        (["predict-latency", "--table", "none.json", *ASK[2:], "--choices", "random"], 1, "cannot read none.json"),
        (["predict-latency", "--table", "failed.json", *ASK[2:], "--choices", "random"], 1, "2 layers could not be"),
        (["predict-latency", *ASK, "--choices", "1,2"], 2, "has 112 decisions, got 2"),
        (["predict-latency", *ASK, "--choices", ",".join(["99"] * 112)], 2, "stem has 8 options, got index 99"),
        (["predict-latency", *ASK, "--choices=-1," + ",".join(["0"] * 111)], 2, "stem has 8 options, got index -1"),
        (["predict-latency", *ASK, "--choices", "one"], 2, LIST),
        (["predict-latency", *ASK, "--choices", "1.5,2"], 2, LIST),
        (["predict-latency", *ASK, "--choices", "1,2]"], 2, LIST),
        (["predict-latency", *ASK, "--choices", "none.json"], 1, "cannot read none.json"),
        (["predict-latency", *ASK, "--choices", "t.json"], 2, LIST),
        (["predict-latency", *ASK, "--choices", "random", "--level", "2"], 2, "(--level) lies between 0 and 1"),
        (["predict-latency", *ASK, "--choices", "random", "--level", "nan"], 2, "(--level) lies between 0 and 1"),
        (["predict-latency", *ASK, "--choices", "random", "--unknown", "guess"], 2, "--unknown is error or outside"),
        (["predict-latency", *ASK[:4], "--expand", "0", "--choices", "random"], 2, "expand must be between"),
        (["predict-latency", *ASK[:2], "--space", "nowhere", "--choices", "random"], 2, "unknown space 'nowhere'"),
        (
            ["predict-latency", "--predictor", "none", *ASK[2:], "--choices", "random"],
            1,
            "there is no folder none; give the folder that fit-predictor, or LatencyPredictor.save, wrote",
        ),
        (
            ["predict-latency", "--predictor", "my.py", *ASK[2:], "--choices", "random"],
            1,
            "my.py is no predictor: it is a file",
        ),
        (["predict-latency", "--predictor", "bare", *ASK[2:], "--choices", "random"], 1, "the operator linear"),
        (
            ["predict-latency", *ASK[:2], "--model", "my.py:net", "--input", "8x3x32x32"],
            2,
            "the predictor is of batch 4",
        ),
        (["predict-latency", *ASK[:2], "--model", "my.py:silu", "--input", "4x3x32x32"], 1, "the operator silu"),
        (["predict-latency", *ASK[:2], "--model", "my.py:net"], 2, "--input"),
        (["predict-latency", *ASK[:2], "--model", "my.py:no_module", "--input", "4x3x8x8"], 2, "not a torch.nn.Module"),
        (["predict-latency", *ASK[:2], "--model", "my.onnx"], 2, "an ONNX file runs on --target onnx"),
        (["predict-latency", *ASK, "--choices", "random", "--input", "4x3x8x8"], 2, "--input"),
        (
            ["predict-latency", *ASK[:2], "--model", "my.py:net", "--input", "4x3x8x8", "--choices", "random"],
            2,
            "--space and --choices go together",
        ),
    ],
)
def test_mistakes_get_one_line_and_an_exit_code(main: Main, arguments: list[str], code: int, problem: str) -> None:
    found, out, err = main(*arguments)
    # A model is said to be traced, which takes its time; of a result there is nothing.
    assert [line for line in out.splitlines() if not line.startswith("Loading and tracing")] == []
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert problem in lines[0]
    assert found == code


def test_an_altered_predictor_is_refused(main: Main, made: Path) -> None:
    LatencyPredictor.load(made / "t").save(made / "altered")
    file = made / "altered" / "predictor.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    code, out, err = main("predict-latency", "--predictor", "altered", *ASK[2:], "--choices", "random")
    assert (code, out) == (1, "")
    assert err == "error: altered/predictor.json was altered after it was written: its hash is another. Fit it again\n"


def test_what_stands_where_a_predictor_goes_is_kept_if_the_fit_fails(main: Main, made: Path) -> None:
    LatencyPredictor.load(made / "t").save(made / "kept")
    before = {file.name: file.read_bytes() for file in (made / "kept").iterdir()}
    assert main("fit-predictor", "failed.json", "--output", "kept")[0] == 1
    assert {file.name: file.read_bytes() for file in (made / "kept").iterdir()} == before


def test_wrong_options_are_exit_code_2(main: Main) -> None:
    assert main("fit-predictor")[0] == 2
    assert main("predict-latency")[0] == 2
    assert main("predict-latency", *ASK, "--choices", "random", "--seed", "-1")[0] == 2
    assert main("fit-predictor", "t.json", "--colour", "red")[0] == 2


def test_the_example_searches_under_a_budget(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = Path(__file__).parent.parent / "examples" / "budget_search.py"
    call = [sys.executable, str(example), "t.json", "1000"]
    found = subprocess.run(call, cwd=made, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert found.returncode == 0, found.stderr
    assert "1,000,000 of 1,000,000 networks take at most 1000.0 ms" in found.stdout
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "argv", [str(example), "t.json", "1e-6"])
    with pytest.raises(SystemExit, match="none of 1,000,000 networks takes"):
        runpy.run_path(str(example), run_name="__main__")


def test_a_network_of_another_data_type_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network("half", ())
    work = Workload((), (), (Subject(network, None),), 4, "float16")
    monkeypatch.setattr(_workloads, "user_network", lambda *_, **__: work)
    predictor = LatencyPredictor.load(made / "t")
    with pytest.raises(UsageError, match="it computes in float16, and the predictor is of float32"):
        predict_latency._of_model("net.onnx", None, predictor, seed=0, console=Console())


def test_a_sampled_table_does_not_list_what_was_passed_over(made: Path, tmp_path: Path) -> None:
    table = LatencyTable.from_json((made / "t.json").read_bytes())
    passed = [
        NotMeasured(
            layer=conv_norm_act(8, 9, kernel_size=3, stride=1, activation=None, input_size=(5, 5)), reason=NOT_CHOSEN
        )
    ]
    LatencyTable(
        device=table.device,
        setting=table.setting,
        sessions=table.sessions,
        measurements=table.values(),
        not_measured=passed,
        networks=table.networks,
    ).save(tmp_path / "s.json")
    shown = run_here(tmp_path, "lut", "show", "s.json").stdout
    assert "1 of those not measured are for a predictor to say: fit-predictor" in shown
    assert "8→9" not in shown

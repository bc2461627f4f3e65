"""``search-architecture`` as people type it: from a table to a network, its files, and every mistake in one line."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _predictors import resnet_table
from conftest import onnx_session
from test_cli import command

from lut import LatencyTable, UsageError, load_network
from lut.errors import CheckpointError
from predictors import LatencyPredictor
from profiler._compare import ComparedNetwork, ComparedVisits, NetworkComparison
from search import ResNetCifar, load_data, load_weights
from search._runs._run import SHARED_FILES as FILES

pytestmark = pytest.mark.usefixtures("one_thread")

Main = Callable[..., tuple[int, str, str]]
SMALL = (
    *("htas", "--depth", "8", "--expand", "0.5", "--widths", "uniform", "--groups", "4"),
    *("--train-images", "80", "--test-images", "40", "--search-epochs", "1", "--train-epochs", "1"),
    *("--batch-size", "20", "--set", "validated=20", "--set", "search.warmup_epochs=0"),
)
QUICK = (*SMALL, "--predictor", "predictor", "--measure-seconds", "0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of small ResNets and predictors of it; nothing in it is changed by a test."""
    folder = tmp_path_factory.mktemp("made")
    resnet_table(folder, networks=12).save(folder / "t.json")
    table = LatencyTable.from_json((folder / "t.json").read_bytes())
    LatencyPredictor.fit(table).save(folder / "predictor")
    LatencyPredictor.fit(resnet_table(folder, networks=0)).save(folder / "bare")
    LatencyPredictor.fit(resnet_table(folder, networks=0, drop=["avgpool2×2"])).save(folder / "lacking")
    return folder


@pytest.fixture
def main(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """Run the command in this process, and return its exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        from search._commands import main as start

        monkeypatch.chdir(made)
        monkeypatch.setattr(sys, "argv", ["search-architecture", *arguments])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as end:
            start()
        found = capsys.readouterr()
        return int(end.value.code or 0), found.out, found.err

    return run


def budget(share: float) -> str:
    predictor = LatencyPredictor.load("predictor")
    space = ResNetCifar(depth=8, expand=0.5, widths=((2, 4, 6, 8), (4, 8, 12, 16), (8, 16, 24, 32)))
    widest = predictor.predict(space.decode([len(d.options) - 1 for d in space.choices]))
    assert widest.high_ms is not None
    return f"{share * widest.high_ms:.6f}"


@pytest.mark.parametrize("words", [(), ("htas",), ("describe",), ("spaces",)])
def test_help_speaks_to_a_stranger_and_imports_nothing_heavy(words: tuple[str, ...], tmp_path: Path) -> None:
    script = (
        f"import sys; sys.argv = ['search-architecture', *{words!r}, '--help']\n"
        "from search._commands import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'pandas', 'numpy', 'scipy', 'sklearn', 'plotly', 'pymoo'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


def test_spaces_are_listed(main: Main) -> None:
    code, out, _ = main("spaces", "--json")
    assert code == 0
    found = {space["name"]: space for space in json.loads(out)}
    assert found["resnet-cifar"]["layers"] == 564
    assert "tas-c100-r110" in found["resnet-cifar"]["published"]
    assert found["resnet-cifar-bottleneck"]["published"][-1] == "tas-c100-r164"
    code, out, _ = main("spaces")
    assert "109 of width, 3 of depth" in out


def test_a_published_network_is_described(main: Main) -> None:
    code, out, _ = main("describe", "resnet-cifar", "tas-c10-r32")
    assert code == 0
    assert "0.3205 M parameters, 34.95 M multiply-adds" in out
    code, out, _ = main("describe", "resnet-cifar", "tas-c10-r32", "--json")
    found = json.loads(out)
    assert found["madds"] == sum(layer["madds"] * layer["count"] for layer in found["layers"])
    assert "latency" not in found
    code, out, _ = main("describe", "resnet-cifar-bottleneck", "tas-c10-r164")
    assert "178.07 M multiply-adds" in out


def test_a_network_is_described_with_its_latency(main: Main) -> None:
    code, out, _ = main("describe", "resnet-cifar", "random", "--expand", "0.5", "--predictor", "predictor", "--json")
    found = json.loads(out)
    assert code == 0
    assert sum(layer["ms"] * layer["count"] for layer in found["layers"]) == pytest.approx(found["latency"]["ms"])
    assert found["latency"]["low_ms"] < found["latency"]["ms"] < found["latency"]["high_ms"]
    code, out, _ = main("describe", "resnet-cifar", "random", "--expand", "0.5", "--predictor", "predictor")
    assert "at 90%" in out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("nowhere", "random"), "unknown space 'nowhere'"),
        (("resnet-cifar", "tas-c10-r33"), "is not a network of resnet-cifar"),
        (("resnet-cifar", "1,2"), "has 112 decisions, got 2"),
        (("resnet-cifar", "missing.json"), "missing.json"),
        (("resnet-cifar", "t.json"), "not a network file"),
        (("resnet-cifar", "random", "--level", "90"), "such as 0.9, got 90; did you mean 0.9?"),
        (("resnet-cifar", "random", "--predictor", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_described_is_one_line(words: tuple[str, ...], problem: str, main: Main) -> None:
    code, _, err = main("describe", *words)
    assert code in (1, 2)
    assert problem in err
    assert "Traceback" not in err


def test_a_search_writes_a_network_that_others_can_load(main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    limit = budget_in(main, 0.7)
    code, out, err = main(*QUICK, "--budget-ms", limit, "--output", str(run))
    assert code == 0, err
    for name in set(FILES) - {"verification.json"}:
        assert (run / name).stat().st_size > 0, name
    assert "searching a uniform grid of widths" in out
    assert "stage 1, 32×32: 2, 4, 6, 8" in out
    network = load_network(run / "network.json")
    module = load_weights(run / "weights.safetensors", network)
    result = json.loads((run / "result.json").read_text())
    assert result["network"]["high_ms"] <= float(limit)
    assert result["network"]["parameters"] == sum(p.numel() for p in module.parameters())
    assert result["measured"] is None
    assert result["not_measured"] == "it was not asked for"
    # The weights are the trained ones: they give the accuracy that was told.
    from search import evaluate, subset

    data = subset(load_data("digits"), train=80, test=40, seed=0)
    assert evaluate(module, data) == pytest.approx(result["network"]["accuracy"])
    page = (run / "report.html").read_text()
    assert "budget" in page
    assert "Not measured: it was not asked for." in page
    code, out, _ = main("describe", "resnet-cifar", str(run / "network.json"), "--json")
    assert json.loads(out)["parameters"] == result["network"]["parameters"]
    # A finished run is not run again, and not replaced unasked.
    code, _, err = main(*QUICK, "--budget-ms", limit, "--output", str(run))
    assert code == 2
    assert "finished run" in err
    code, _, err = main(*QUICK, "--budget-ms", limit, "--output", str(run), "--seed", "1")
    assert code == 2
    assert "finished run" in err
    code, out, _ = main(*QUICK, "--budget-ms", limit, "--output", str(run), "--seed", "1", "--restart", "--json")
    assert code == 0
    assert json.loads(out)["output"] == str(run)


def budget_in(main: Main, share: float) -> str:
    """Return a budget in the made folder, where the command runs."""
    main("spaces")
    return budget(share)


def test_a_table_fits_a_predictor_on_the_way_and_evolution_searches_it(main: Main, tmp_path: Path) -> None:
    pytest.importorskip("pymoo")
    run = tmp_path / "run"
    code, _, err = main(
        *(*SMALL, "--table", "t.json", "--measure-seconds", "0", "--strategy", "evolution", "--population", "4"),
        *("--generations", "1", "--budget-ms", budget_in(main, 0.8), "--output", str(run), "--no-distil"),
    )
    assert code == 0, err
    assert LatencyPredictor.load(run / "predictor").setting.target == "cpu"
    assert json.loads((run / "result.json").read_text())["evaluated"] >= 4


def test_a_winner_is_measured_beside_its_base(
    main: Main, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = LatencyPredictor.load(made / "predictor")
    calls: list[Any] = []

    def compared(networks: Any, **options: Any) -> NetworkComparison:
        calls.append((networks, options))
        # As predicted, but for the base network, which takes twice as long as what is found.
        times = [predictor.latency_ms(network) for network in networks]
        times[0] = 2 * times[min(1, len(times) - 1)]
        return NetworkComparison(
            device=options["device"],
            setting=options["setting"],
            networks=tuple(
                ComparedNetwork(network.name, ms, 0.99 * ms, 1.01 * ms, 8, 0.01)
                for network, ms in zip(networks, times, strict=True)
            ),
            visits=tuple(ComparedVisits((ms,) * 8, (0, 0, 0, 0, 1, 1, 1, 1), tuple(range(8))) for ms in times),
            measuring_s=1.0,
        )

    monkeypatch.setattr("search._commands._run_command.compare_networks", compared)
    run = tmp_path / "run"
    words = [word for word in QUICK if word not in ("--measure-seconds", "0")]
    words += ["--then", "onnx", "--calibrate", "0", "--output", str(run)]
    code, out, err = main(*words, "--budget-ms", budget_in(main, 0.7))
    assert code == 0, err
    networks, options = calls[-1]
    found_layers = [network.layers for network in networks]
    assert found_layers[0] == ResNetCifar(depth=8, expand=0.5).base_network().layers
    assert load_network(run / "network.json").layers in found_layers[1:]
    assert (options["setting"], options["device"]) == (predictor.setting, predictor.device)
    result = json.loads((run / "result.json").read_text())
    up = result["measured"]["speed_up"]["value"]
    assert up == pytest.approx(result["measured"]["base_ms"] / result["measured"]["winner_ms"])
    assert f"takes {up:.2f} times as long ({up:.2f} … {up:.2f} at 95 %)" in out
    assert "budget 0.2498 ms kept: measured" in out
    assert result["kept"] is True
    assert result["measured"]["winner_high_ms"] <= result["budget_ms"]
    assert result["prediction_error"] == pytest.approx(0.0, abs=1e-6)
    # The file is the trained network.
    session = onnx_session(run / "network.onnx")
    module = load_weights(run / "weights.safetensors", load_network(run / "network.json"))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), module(images), atol=1e-4)


def test_an_interrupted_run_goes_on_while_the_winner_is_trained(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search._runs import _ending as _run_parts

    words = (*QUICK, "--train-epochs", "3", "--budget-ms", budget_in(main, 0.7))
    plain, broken = tmp_path / "plain", tmp_path / "broken"
    assert main(*words, "--output", str(plain))[0] == 0
    train = _run_parts.train

    def stopped(*arguments: Any, **options: Any) -> Any:
        if options["teacher"] is not None:
            told = options["progress"]

            def progress(now: Any) -> None:
                told(now)
                if now.epoch >= 2:
                    raise KeyboardInterrupt

            options["progress"] = progress
        return train(*arguments, **options)

    monkeypatch.setattr(_run_parts, "train", stopped)
    code, _, err = main(*words, "--output", str(broken))
    assert code == 130
    assert "run the same command again to go on" in err
    assert not (broken / "result.json").exists()
    monkeypatch.setattr(_run_parts, "train", train)
    code, out, err = main(*words, "--output", str(broken))
    assert code == 0, err
    before = "1 of 1 epochs of the search; 4 of 4 epochs of training the base network, 1 of warm-up included"
    rest = "1 of 4 epochs of training the network found, 1 of warm-up included"
    assert out.startswith(f"resumed; done before: {before}; {rest}\n")
    assert " in all, in 2 sittings\n" in out
    network = load_network(plain / "network.json")
    first, second = (load_weights(folder / "weights.safetensors", network).state_dict() for folder in (plain, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_predictor_is_calibrated_on_the_space_that_is_searched(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search._problem._calibrate import calibrated
    from search.spaces._width_sets import uniform_widths

    calls: list[int] = []
    main("spaces")
    predictor = LatencyPredictor.load("predictor")

    def compared(networks: Any, **options: Any) -> NetworkComparison:
        calls.append(len(networks))
        # Everything takes 1.3 times as long as predicted.
        times = [1.3 * predictor.latency_ms(network) for network in networks]
        return NetworkComparison(
            device=options["device"],
            setting=options["setting"],
            networks=tuple(
                ComparedNetwork(network.name, ms, ms, ms, 8, 0.0) for network, ms in zip(networks, times, strict=True)
            ),
            visits=(),
            measuring_s=1.0,
        )

    whole = ResNetCifar(depth=8, expand=0.5)
    space = ResNetCifar(depth=8, expand=0.5, widths=uniform_widths(whole, 4))
    options: dict[str, Any] = {"count": 12, "seconds": 1.0, "path": tmp_path / "c.json", "compare": compared}
    found = calibrated(space, predictor, seed=0, **options).predictor
    assert calls == [12]
    network = space.decode(space.sample(random.Random(7)))
    assert found.latency_ms(network) == pytest.approx(1.3 * predictor.latency_ms(network), rel=0.02)
    # What is kept is not measured again; of another seed or predictor it is.
    again = calibrated(space, predictor, seed=0, **options)
    assert again.predictor.latency_ms(network) == found.latency_ms(network)
    assert [ms for _, ms in again.networks] == [1.3 * predictor.latency_ms(network) for network, _ in again.networks]
    assert calls == [12]
    calibrated(space, found, seed=0, **options)
    calibrated(space, predictor, seed=1, **options)
    assert calls == [12] * 3
    (tmp_path / "c.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"c\.json is damaged"):
        calibrated(space, predictor, seed=1, **options)
    assert calls == [12] * 3
    with pytest.raises(UsageError, match="at least 10 networks"):
        calibrated(space, predictor, seed=0, count=9, seconds=1.0)


def test_a_refused_folder_is_left_as_it_is(main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = main(*QUICK, "--budget-ms", "1e-6", "--output", str(run))
    assert code == 3, err
    assert not run.exists()
    code, _, err = main(*QUICK, "--budget-ms", budget_in(main, 0.7), "--output", str(run))
    assert code == 0, err
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    words = (*SMALL, "--table", "t.json", "--measure-seconds", "0")
    code, _, err = main(*words, "--budget-ms", budget_in(main, 0.9), "--output", str(run))
    assert code == 2
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_flops_baseline_needs_no_further_options(main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    limit = budget_in(main, 0.7)
    code, _, err = main(*QUICK, "--cost", "madds", "--budget-ms", limit, "--output", str(run))
    assert code == 0, err
    assert json.loads((run / "run.json").read_text())["settings"]["search"]["penalty"] == "linear"
    assert json.loads((run / "result.json").read_text())["network"]["high_ms"] <= float(limit)


def test_epochs_are_said_as_they_were_asked_for(main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*QUICK, "--search-epochs", "2", "--train-epochs", "2", "--set", "search.warmup_epochs=1"]
    code, out, err = main(*words, "--output", str(run))
    assert code == 0, err
    assert "gradient, without a budget, 2 epochs after 1 of warm-up on digits (10 classes)" in out
    assert "each trained on digits for 2 epochs after 1 of warm-up\n" in out
    assert "resumed" not in out
    history = json.loads((run / "history.json").read_text())
    assert history["warmup_epochs"] == {"search": 1, "training": 1}
    assert [len(history[name]) for name in ("search", "base", "winner")] == [3, 3, 3]


def test_depths_or_widths_alone_are_searched(main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [word if word != "0.5" else "1.0" for word in QUICK]
    words[words.index("uniform")] = "base"
    code, _, err = main(*words, "--depth", "14", "--depths", "all", "--bound", "predicted", "--output", str(run))
    assert code == 0, err
    found = json.loads((run / "network.json").read_text())["choices"]
    assert found["stem"] == 16
    words = [*QUICK, "--depth", "14", "--depths", "base", "--output", str(tmp_path / "other")]
    code, _, err = main(*words)
    assert code == 0, err
    assert json.loads((tmp_path / "other" / "network.json").read_text())["choices"]["stage1.blocks"] == 2


def test_files_of_another_space_are_not_described(main: Main, tmp_path: Path) -> None:
    from lut import save_network

    save_network(tmp_path / "n.json", ResNetCifar(depth=8).base_network(), space="resnet-cifar")
    assert main("describe", "resnet-cifar", str(tmp_path / "n.json"))[0] == 0
    code, _, err = main("describe", "resnet-cifar-bottleneck", str(tmp_path / "n.json"))
    assert code == 2
    assert "of the space resnet-cifar, not of" in err


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        ((), 2, "give either --predictor FOLDER"),
        (("--predictor", "predictor", "--table", "t.json"), 2, "give either --predictor FOLDER"),
        (("--predictor", "nowhere"), 1, "nowhere"),
        (("--table", "nowhere.json"), 1, "nowhere.json"),
        (("--predictor", "predictor", "--batch", "8"), 2, "is of batch 4, and --batch asks for 8"),
        (("--predictor", "predictor", "--target", "cuda"), 2, "is of target cpu, and --target asks for cuda"),
        (("--predictor", "predictor", "--budget-ms", "1e-6"), 3, "beyond the budget of 1e-06"),
        (("--predictor", "predictor", "--budget-ms", "-1"), 2, "a budget of ms is a positive number"),
        (("--predictor", "bare", "--budget-ms", "5"), 2, "--bound predicted"),
        (("--predictor", "lacking"), 1, "Measure them: profile-device --target cpu --batch 4"),
        (("--predictor", "predictor", "--widths", "some"), 2, "hardware, uniform, ratios or base"),
        (("--predictor", "predictor", "--strategy", "luck"), 2, "gradient or evolution"),
        (("--predictor", "predictor", "--strategy", "evolution"), 2, "give --budget-ms"),
        (("--predictor", "predictor", "--cost", "watts"), 2, "law-per-array, eq8, table or madds"),
        (("--predictor", "predictor", "--penalty", "band"), 2, "around a budget"),
        (("--predictor", "predictor", "--level", "1"), 2, "level (--level) lies between"),
        (("--predictor", "predictor", "--depth", "21"), 2, "6n+2 layers"),
        (("--predictor", "predictor", "--set", "samples"), 2, "--set is NAME=VALUE"),
        (("--predictor", "predictor", "--set", "training.colour=red"), 2, "there is no such setting; names: logits_lr"),
        (
            ("--predictor", "predictor", "--set", "samples=many"),
            2,
            "--set samples=many: expected a whole number",
        ),
        (("--predictor", "predictor", "--then", "tflite"), 2, "onnx or export-coreml"),
        (("--predictor", "predictor", "--device", "toaster"), 2, "--device toaster"),
        (("--predictor", "predictor", "--data", "mnist"), 2, "mnist"),
        (("--predictor", "predictor", "--data", "cifar10:nowhere"), 1, "nowhere"),
        (("--predictor", "predictor", "--train-images", "5"), 2, "5"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], code: int, problem: str, main: Main, tmp_path: Path) -> None:
    given, _, err = main(*SMALL, "--measure-seconds", "0", *words, "--output", str(tmp_path / "run"))
    assert problem in err
    assert given == code
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith(("error", "incomplete"))]) == 1


def test_tables_without_sweeps_offer_no_hardware_aware_widths(main: Main, tmp_path: Path) -> None:
    words = [word if word != "uniform" else "hardware" for word in SMALL]
    code, _, err = main(*words, "--table", "t.json", "--measure-seconds", "0", "--output", str(tmp_path / "run"))
    assert code == 1
    assert "no channel curves" in err or "no sweep" in err


def test_another_device_is_refused_before_anything_is_trained(main: Main, tmp_path: Path) -> None:
    # The made device is not this machine.
    words = [word for word in QUICK if word not in ("--measure-seconds", "0")]
    code, out, err = main(*words, "--output", str(tmp_path / "run"))
    assert code == 2
    assert "and this machine is" in err
    assert "Training" not in out


@pytest.mark.parametrize(("size", "classes", "problem"), [((16, 16), 2, "16"), ((32, 32), 1, "one class")])
def test_data_that_does_not_fit_is_one_line(
    size: tuple[int, int], classes: int, problem: str, main: Main, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in "ab"[:classes]:
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            image.new("RGB", size, (i, 2 * i, 3 * i)).save(tmp_path / "data" / name / f"{i}.png")
    code, _, err = main(*QUICK, "--data", f"images:{tmp_path / 'data'}", "--output", str(tmp_path / "run"))
    assert code == 2
    assert problem in err


def test_a_search_trains_on_what_a_function_returns(main: Main, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(
        "def load():\n"
        "    from sklearn.datasets import load_digits\n"
        "    print('fetching')\n"
        "    digits = load_digits()\n"
        "    return digits.images.repeat(4, 1).repeat(4, 2) / 16, digits.target\n"
    )
    words = (*QUICK, "--data", f"{tmp_path / 'my.py'}:load", "--set", "training.warmup_epochs=0")
    limit = budget_in(main, 0.7)
    code, out, err = main(*words, "--budget-ms", limit, "--output", str(tmp_path / "run"), "--json")
    assert code == 0, err
    assert json.loads(out)["output"] == str(tmp_path / "run")
    assert "fetching" in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"] == "my.py"


@pytest.mark.parametrize(("text", "problem"), [("my.py", "my.py:FUNCTION"), ("nowhere.py:load", "no file nowhere.py")])
def test_a_function_that_is_missing_is_told_before_anything_is_loaded(
    text: str, problem: str, main: Main, tmp_path: Path
) -> None:
    code, _, err = main(*QUICK, "--budget-ms", "1", "--data", text, "--output", str(tmp_path / "run"))
    assert code == 2
    assert problem in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [("--set", "colour=red"), ("--strategy", "luck"), ("--device", "toaster")])
def test_mistakes_are_told_before_anything_is_measured(
    words: tuple[str, ...], main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: Any, **__: Any) -> NetworkComparison:
        raise AssertionError("it was measured")

    monkeypatch.setattr("search._commands._run_command.compare_networks", measured)
    given = [word for word in QUICK if word not in ("--measure-seconds", "0")]
    code, _, err = main(*given, *words, "--output", str(tmp_path / "run"))
    assert code == 2
    assert words[0] in err


def test_a_run_does_not_land_in_a_package_of_ours() -> None:
    from search._commands._options import RunOptions
    from search.htas._options import HtasOptions
    from search.htas._run_command import HtasCommand

    own = HtasOptions(20, "base", "tas", 2.0, 8, "1", "gradient", "eq8", None, None, 24, 10, True)
    assert HtasCommand(RunOptions(), own).output == Path("htas-run")


def test_the_command_is_installed(made: Path) -> None:
    assert "resnet-cifar" in command(made, "search-architecture", "spaces").stdout

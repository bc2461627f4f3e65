"""``search-architecture rcas`` and ``submodularity`` as people type them: files, going on, and every mistake."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from _predictors import DEVICE, SETTING, Cpu, layer_ms, noisy, wholes_of
from conftest import in_the_foreground, onnx_session, simulate, table_of, wait_until

from lut import LatencyTable, Layer, Network, load_network
from predictors import LatencyPredictor
from profiler._compare import ComparedNetwork, ComparedVisits, NetworkComparison
from profiler._sources import subject_of
from search import NasBenchMacro, RCNet, load_weights
from search._accuracy._evaluator import AccuracyCache
from search._runs._run import SHARED_FILES
from search.rcas._method import RcasMethod
from search.rcas._run_command import RcasCommand, RcasOptions

pytestmark = pytest.mark.usefixtures("one_thread")

Main = Callable[..., tuple[int, str, str]]
FILES = (*SHARED_FILES, *RcasMethod.files)
MACRO = (
    Path(os.environ.get("LATENCY_LUT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    / "nas-bench-macro"
    / "nas-bench-macro_cifar10.json"
)
NEEDS_MACRO = pytest.mark.skipif(not MACRO.exists(), reason="needs NAS-Bench-Macro's accuracies in shared/data")

FUNCTIONS = '''"""Made-up accuracies; each call leaves a line in the file that CALLS names, the HANGS-th hangs."""

import os
import time
import zlib
from math import exp

print("imported")


def accuracy(network):
    """Grow with size, less and less, and with something of each network's own."""
    print("evaluating", network.name)
    if "CALLS" in os.environ:
        with open(os.environ["CALLS"], "a+") as calls:
            calls.write(f"{network.parameters} {network.madds}\\n")
            calls.seek(0)
            if len(calls.readlines()) == int(os.environ.get("HANGS", "0")):
                calls.flush()
                time.sleep(600)
    own = zlib.crc32(f"{network.parameters} {network.madds}".encode()) / 2**32
    return 0.97 - 0.6 * exp(-network.parameters / 2e6 - network.madds / 4e7) + 0.03 * own


def smaller(network):
    return -network.parameters / 1e6


def another(network):
    return accuracy(network)


def raises(network):
    raise ValueError("no way")


def stops(network):
    raise SystemExit(3)


def nan(network):
    return float("nan")


def none(network):
    return None


constant = 1
'''
# Nothing trained, nothing measured.
PLAIN = ("--measure-seconds", "0", "--train-epochs", "0", "--data", "none")
MINE = (*PLAIN, "--accuracy", "my.py:accuracy")
MACRO_SPACE = ("--space", "nas-bench-macro", "--predictor", "macro")
# The first network of rcnet-cifar makes 21.9 M multiply-adds; five more blocks fit.
RCNET = ("rcas", *MINE, "--types", "1,5", "--budget-params", "0.5e6")
TINY = (
    *("--train-images", "80", "--test-images", "40", "--held-out", "2", "--search-epochs", "1"),
    *("--batch-size", "20", "--types", "1", "--at-once", "1"),
)


def accuracy(network: Network) -> float:
    """Return what the function in the made file does, up to its noise."""
    return 0.97 - 0.6 * exp(-network.parameters / 2e6 - network.madds / 4e7)


def grown(space: RCNet | NasBenchMacro, count: int) -> list[Network]:
    """Return networks of a space, from the first to large ones."""
    rng = random.Random(3)
    found: dict[tuple[int, ...], Network] = {}
    while len(found) < count:
        vector = [
            rng.randrange(1, n) if (n := len(decision.options)) > 1 and rng.random() < len(found) / count else 0
            for decision in space.choices
        ]
        found.setdefault(space.canonical(vector), Network(f"net {len(found)}", space.decode(vector).layers))
    return list(found.values())


def made_predictor(space: RCNet | NasBenchMacro, *, networks: int = 24, without: str | None = None) -> LatencyPredictor:
    """Return a predictor of the made device: of every layer of a space, and so many networks as a whole."""
    layers: Sequence[Layer] = [layer for layer in space.layers() if without is None or without not in str(layer)]
    wholes = wholes_of(grown(space, networks)) if networks else ()
    latencies = dict(zip(layers, noisy(map(layer_ms, layers)), strict=True))
    return LatencyPredictor.from_latencies(DEVICE, SETTING, latencies, networks=wholes)


def macro_table(folder: Path) -> LatencyTable:
    """Return a table of NAS-Bench-Macro's layers in a simulated session, with networks measured whole."""
    space = NasBenchMacro()
    wholes = [subject_of(network) for network in grown(space, 12)]
    protocol = {"precision": 0.05, "time_budget_s": 60.0}
    plan, result, _ = simulate(space.layers(), target=Cpu.make(batch=4), networks=wholes, protocol=protocol)
    return table_of(plan, result, folder / "references.json", networks=wholes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with predictors, a table and functions; nothing in it is changed by a test."""
    folder = tmp_path_factory.mktemp("made")
    made_predictor(RCNet()).save(folder / "rcnet")
    made_predictor(NasBenchMacro()).save(folder / "macro")
    made_predictor(NasBenchMacro(), networks=0).save(folder / "bare")
    made_predictor(NasBenchMacro(), networks=0, without="5×5").save(folder / "lacking")
    macro_table(folder).save(folder / "t.json")
    (folder / "my.py").write_text(FUNCTIONS)
    (folder / "few.json").write_text('{"00000000": {"mean_acc": 50}}')
    image = pytest.importorskip("PIL.Image")
    for name, i in itertools.product("abc", range(10)):
        (folder / "letters" / name).mkdir(parents=True, exist_ok=True)
        image.new("RGB", (32, 32), (i, 2 * i, 3 * i)).save(folder / "letters" / name / f"{i}.png")
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


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that says how often the made accuracy was asked."""
    file = tmp_path / "calls"
    monkeypatch.setenv("CALLS", str(file))
    return lambda: len(file.read_text().splitlines()) if file.exists() else 0


def result_of(run: Path) -> dict[str, Any]:
    """Return what a run's folder says came of it, apart from the time that it took."""
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    assert found.pop("search_seconds") >= 0
    return found


def steps_of(run: Path) -> dict[str, list[dict[str, Any]]]:
    return {path["rule"]: path["steps"] for path in json.loads((run / "paths.json").read_text())}


def compared_by(ms: Callable[[Network], float], seen: list[list[Network]]) -> Callable[..., NetworkComparison]:
    """Return what measures networks in the made device's place; ``seen`` gets them."""

    def compared(networks: Sequence[Network], **options: Any) -> NetworkComparison:
        seen.append(list(networks))
        times = [ms(network) for network in networks]
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

    return compared


def one_line(err: str) -> None:
    """See that errors are one line for a person."""
    assert "Traceback" not in err
    found = [line for line in err.splitlines() if line.startswith(("error", "incomplete", "stopped"))]
    assert len(found) == 1, err
    assert err.splitlines()[-1] == found[0]


@pytest.mark.parametrize("words", [("rcas",), ("submodularity",)])
def test_help_imports_nothing_heavy(words: tuple[str, ...], tmp_path: Path) -> None:
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


def test_the_new_spaces_are_listed_and_the_published_network_described(main: Main) -> None:
    code, out, _ = main("spaces", "--json")
    assert code == 0
    found = {space["name"]: space for space in json.loads(out)}
    assert {"rcnet-cifar", "rcnet-imagenet", "nas-bench-macro"} <= found.keys()
    assert "rcnet" in found["rcnet-imagenet"]["published"]
    code, out, _ = main("describe", "rcnet-imagenet", "rcnet")
    assert code == 0
    assert "3.4362 M parameters, 294.40 M multiply-adds" in out


def test_a_search_stays_within_all_budgets_and_writes_what_others_can_load(main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    budgets = ("--budget-ms", "2.6", "--budget-params", "0.9e6", "--budget-madds", "34e6")
    words = ("rcas", *MINE, "--predictor", "rcnet", *budgets, "--output", str(run), "--json")
    code, out, err = main(*words)
    assert code == 0, err
    # The user's function prints, too: that is no part of the JSON.
    assert "evaluating rcnet-cifar" in err
    printed = json.loads(out)
    assert printed["output"] == str(run)
    for name in FILES:
        # Nothing was trained, and nothing measured.
        assert (run / name).exists() == ("safetensors" not in name and name != "verification.json"), name
    assert "<html" in (run / "report.html").read_text()[:200]
    result = result_of(run)
    assert {**result, "search_seconds": printed["search_seconds"], "output": str(run), "exported": {}} == printed
    assert result["not_measured"] == "it was not asked for"
    assert result["evaluated"] == len((run / "evaluations.jsonl").read_text().splitlines()) - 1
    assert result["saved_by_laziness"] > 0
    assert 0 <= result["gains_that_rose"] <= result["revisited_gains"]

    paths = steps_of(run)
    assert list(paths) == ["uniform", "params", "madds", "latency"]
    for step in itertools.chain.from_iterable(paths.values()):
        assert step["bound_ms"] <= 2.6
        assert step["ms"] < step["bound_ms"]
        assert step["parameters"] <= 0.9e6
        assert step["madds"] <= 34e6
    network = load_network(run / "network.json")
    assert result["network"]["parameters"] == network.parameters
    assert result["network"]["value"] == max(steps[-1]["value"] for steps in paths.values())
    assert result["network"]["value"] == pytest.approx(accuracy(network), abs=0.03)
    assert result["network"]["high_ms"] <= 2.6
    assert result["base"]["name"] == "MobileNetV2"
    assert result["base"]["parameters"] == pytest.approx(2.24e6, rel=0.01)
    code, out, _ = main("describe", "rcnet-cifar", str(run / "network.json"), "--json")
    assert json.loads(out)["madds"] == result["network"]["madds"]

    # A finished run is not run again, and not replaced unasked.
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, _, err = main(*words)
    assert code == 2
    assert "finished run" in err
    one_line(err)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    code, out, _ = main(*words, "--seed", "1", "--restart")
    assert code == 0
    assert json.loads((run / "run.json").read_text())["seed"] == 1


def test_what_is_printed_says_how_the_network_was_found(main: Main, tmp_path: Path) -> None:
    words = ("rcas", *MINE, *MACRO_SPACE, "--budget-ms", "2", "--exchange", "--output", str(tmp_path / "run"))
    code, out, err = main(*words)
    assert code == 0, err
    # The first network is its own baseline here: it is told once.
    assert out.count("first network of nas-bench-macro:") == 1
    assert "baseline" not in out
    assert "budget 2 ms; rules uniform, latency" in out
    assert "predicted ms" in out
    # Nothing was measured or trained, so there is nothing to show.
    assert "measured ms" not in out
    assert "blocks added: " in out
    assert "other rules: " in out
    assert f"{tmp_path / 'run' / 'network.json'}  the network that was found" in out


def searched(main: Main, run: Path, *words: str) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Run a search in NAS-Bench-Macro, and return its result and its paths."""
    code, _, err = main("rcas", *MINE, *MACRO_SPACE, *words, "--output", str(run))
    assert code == 0, err
    return result_of(run), steps_of(run)


def test_how_it_is_searched_can_be_changed(main: Main, tmp_path: Path) -> None:
    lazy, paths = searched(main, tmp_path / "lazy", "--budget-ms", "2")
    assert list(paths) == ["uniform", "latency"]
    thorough, _ = searched(main, tmp_path / "thorough", "--budget-ms", "2", "--no-lazy")
    assert thorough["saved_by_laziness"] == 0
    assert thorough["evaluated"] > lazy["evaluated"]

    _, paths = searched(main, tmp_path / "rules", "--budget-ms", "2", "--rules", "madds,latency")
    assert list(paths) == ["madds", "latency"]

    more = lazy["evaluated"] + 10
    words = ("--budget-ms", "2", "--exchange", "--evaluations", str(more))
    exchanged, _ = searched(main, tmp_path / "exchanged", *words)
    assert lazy["evaluated"] < exchanged["evaluated"] <= more
    assert exchanged["network"]["value"] >= lazy["network"]["value"]

    tight, paths = searched(main, tmp_path / "predicted", "--budget-ms", "2", "--bound", "predicted")
    ends = [steps[-1] for steps in paths.values()]
    assert all(step["bound_ms"] == step["ms"] <= 2 for step in ends)
    sure, paths = searched(main, tmp_path / "sure", "--budget-ms", "2", "--level", "0.95")
    assert sure["network"]["level"] == 0.95
    assert sure["network"]["high_ms"] <= 2
    assert sure["network"]["high_ms"] / sure["network"]["predicted_ms"] > 1
    assert tight["network"]["level"] == 0.9

    side, paths = searched(main, tmp_path / "side", "--budget-ms", "2", "--at-once", "3")
    assert side["evaluated"] >= lazy["evaluated"]


def test_without_a_gain_a_path_may_stop(main: Main, tmp_path: Path) -> None:
    words = ("rcas", *PLAIN, "--accuracy", "my.py:smaller", "--space", "nas-bench-macro", "--budget-madds", "15e6")
    assert main(*words, "--output", str(tmp_path / "filled"))[0] == 0
    assert main(*words, "--output", str(tmp_path / "stopped"), "--stop-without-gain")[0] == 0
    assert result_of(tmp_path / "filled")["paths"]["uniform"]["steps"] > 0
    stopped = result_of(tmp_path / "stopped")
    assert {path["steps"] for path in stopped["paths"].values()} == {0}
    assert stopped["network"]["vector"] == [0] * 8
    # Any finite number of which more is better will do.
    assert stopped["network"]["value"] < 0


def test_types_are_chosen(main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = main("rcas", *MINE, "--types", "5", "--budget-params", "0.6e6", "--output", str(run))
    assert code == 0, err
    assert set(json.loads((run / "network.json").read_text())["choices"].values()) == {0, 5}
    assert json.loads((run / "run.json").read_text())["space_options"]["types"] == [[5]]


def test_a_table_fits_a_predictor_on_the_way(main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("rcas", *MINE, "--space", "nas-bench-macro", "--table", "t.json", "--budget-ms", "1")
    code, _, err = main(*words, "--output", str(run))
    assert code == 0, err
    assert LatencyPredictor.load(run / "predictor").setting.batch == 4
    assert len(json.loads((run / "run.json").read_text())["tables"]) == 1


@NEEDS_MACRO
def test_the_accuracies_of_a_benchmark_are_searched(main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("rcas", *PLAIN, *MACRO_SPACE, "--budget-ms", "3", "--accuracy", f"table:{MACRO}", "--output", str(run))
    code, _, err = main(*words)
    assert code == 0, err
    found = result_of(run)["network"]
    name = load_network(run / "network.json").name
    assert found["value"] == pytest.approx(json.loads(MACRO.read_text())[name]["mean_acc"] / 100)
    assert found["value"] > 0.9


def test_networks_are_trained_measured_and_handed_on(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: the extra onnx")
    seen: list[list[Network]] = []
    times = {"MobileNetV2": 10.0}
    monkeypatch.setattr(
        "search._commands._run_command.compare_networks", compared_by(lambda n: times.get(n.name, 5.0), seen)
    )
    run = tmp_path / "run"
    words = ["rcas", *TINY, "--train-epochs", "1", "--predictor", "rcnet", "--budget-madds", "23.8e6"]
    # With Core ML, where it is installed, in the same run: trainings take their time.
    both = find_spec("coremltools") is not None
    words += ["--then", "onnx", *(("--then", "export-coreml") if both else ()), "--calibrate", "0"]
    code, out, err = main(*words, "--output", str(run))
    assert code == 0, err
    assert "accuracy: trainings of a few epochs, 1 epoch on digits (10 classes), 2 images per class held out" in out
    assert "MobileNetV2 takes 2.00 times as long (2.00 … 2.00 at 95 %)" in out
    for name in set(FILES) - {"verification.json"}:
        assert (run / name).stat().st_size > 0, name
    result = result_of(run)
    assert result["measured"]["speed_up"]["value"] == pytest.approx(2.0)
    assert result["prediction_error"] == pytest.approx(result["network"]["predicted_ms"] / 5.0 - 1)
    assert result["evaluated"] <= 4
    assert 0 <= result["network"]["accuracy"] <= 1
    assert 0 <= result["base"]["accuracy"] <= 1
    # First the device is tried, and then both are measured in turns.
    assert [[network.name for network in networks] for networks in seen] == [
        ["MobileNetV2"],
        ["MobileNetV2", load_network(run / "network.json").name],
    ]
    network = load_network(run / "network.json")
    module = load_weights(run / "weights.safetensors", network).eval()
    session = onnx_session(run / "network.onnx")
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), module(images), atol=1e-4)
    if both:
        assert (run / "network.mlpackage").is_dir()
        assert len(list((run / "bundle").rglob("*.mlpackage"))) == 2
    # The same command finds the run finished.
    assert main(*words, "--output", str(run))[0] == 2


@pytest.mark.parametrize(("accuracy", "warned"), [(0.1, True), (0.9, False)])
def test_accuracies_at_chance_level_are_warned_of(
    accuracy: float, warned: bool, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search._accuracy._short_training import ShortTraining

    asked: list[int] = []

    def evaluate(_: ShortTraining, networks: Sequence[Network]) -> Iterator[tuple[int, float, float]]:
        asked.append(len(networks))
        for number in range(len(networks)):
            yield number, accuracy, 0.0

    monkeypatch.setattr(ShortTraining, "evaluate", evaluate)
    run = tmp_path / "run"
    words = ("rcas", *TINY, "--train-epochs", "0", "--budget-madds", "30e6", "--output", str(run))
    code, out, err = main(*words)
    assert code == 0, err
    said = f"are at chance level: accuracy {accuracy:.1%} at best, and guessing among 10 classes gives up to"
    # As soon as it is known, and in the end.
    assert out.count(said) == (2 if warned else 0)
    assert len(result_of(run)["warnings"]) == int(warned)
    # The first network, and then all with one block.
    assert asked[0] == 1
    if warned:
        assert f"all {1 + asked[1]} networks evaluated first are at chance level" in out


def test_networks_that_were_not_trained_are_handed_on_to_be_timed(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("coremltools", reason="needs coremltools: the extra coreml")
    bundles: list[Any] = []
    monkeypatch.setattr("profiler._export.export_bundle", lambda *given, **options: bundles.append((*given, options)))
    run = tmp_path / "run"
    words = (*RCNET, "--predictor", "rcnet", "--then", "export-coreml", "--output", str(run), "--json")
    code, out, err = main(*words)
    assert code == 0, err
    assert json.loads(out)["exported"] == {"bundle": str(run / "bundle")}
    # A phone takes one image at a time.
    ((networks, folder, options),) = bundles
    assert folder == run / "bundle"
    assert [network.name for network in networks] == [load_network(run / "network.json").name, "MobileNetV2"]
    assert options["batch"] == 1


def test_a_predictor_is_calibrated_on_networks_within_the_budgets(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Network]] = []
    predictor: list[LatencyPredictor] = []

    def slower(network: Network) -> float:
        if not predictor:
            predictor.append(LatencyPredictor.load("bare"))
        return 1.3 * predictor[0].latency_ms(network)

    monkeypatch.setattr("search._commands._run_command.compare_networks", compared_by(slower, seen))
    run = tmp_path / "run"
    # Without a network measured whole this predictor has no intervals; with those measured now it has.
    words = ["rcas", "--space", "nas-bench-macro", "--predictor", "bare", "--budget-ms", "2", "--train-epochs", "0"]
    words += ["--data", "none", "--accuracy", "my.py:accuracy", "--calibrate", "12", "--output", str(run)]
    code, out, err = main(*words)
    assert code == 0, err
    # The calibration, a trial; what was found with two as good beside the base network and eight of the calibration;
    # and what is best then once more.
    assert [len(networks) for networks in seen] == [12, 1, 1 + 3 + 8, 1 + 3 + 8]
    assert {network.layers for network in seen[2][4:]} <= {network.layers for network in seen[0]}
    assert result_of(run)["verification"]["slower_than_calibration"] == pytest.approx([0.0, 0.0], abs=1e-9)
    # Each counts once, so each is another one.
    assert len({network.layers for network in seen[0]}) == 12
    assert json.loads((run / "run.json").read_text())["calibrated"] == 12
    result = result_of(run)
    assert result["network"]["high_ms"] <= 2
    assert abs(result["prediction_error"]) < 0.02
    assert "00000000 takes 0." in out

    # A run that cannot be this one is refused before anything is measured, and keeps what was.
    (run / "result.json").unlink()
    kept = (run / "calibration.json").read_bytes()
    seen.clear()
    for other in (("--seed", "1"), ("--budget-ms", "3"), ("--accuracy", "my.py:another")):
        code, _, err = main(*words, *other)
        assert code == 2
        assert "holds another run, with other" in err
    assert not seen
    assert (run / "calibration.json").read_bytes() == kept
    # The same one is gone on with.
    assert main(*words)[0] == 0
    assert [len(networks) for networks in seen] == [1]

    seen.clear()
    code, _, err = main(*words, "--restart", "--level", "0.95")
    assert code == 2
    assert "needs 19 measured networks: give --calibrate 19" in err
    code, _, err = main(*words, "--restart", "--output", "my.py")
    assert code == 1
    assert "my.py is a file, not a folder" in err
    assert not seen


def test_a_network_that_could_not_be_measured_is_told_and_the_run_can_be_repeated(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lut.errors import IncompleteError

    seen: list[list[Network]] = []
    works = compared_by(lambda _: 2.0, seen)

    def compared(networks: Sequence[Network], **options: Any) -> NetworkComparison:
        if len(networks) > 1:
            raise IncompleteError("too much noise")
        return works(networks, **options)

    monkeypatch.setattr("search._commands._run_command.compare_networks", compared)
    run = tmp_path / "run"
    words = [word for word in RCNET if word not in ("--measure-seconds", "0")]
    words.insert(words.index("--train-epochs") + 1, "0")
    words += ["--predictor", "rcnet", "--calibrate", "0", "--output", str(run)]
    code, _, err = main(*words)
    assert code == 3
    assert "the network found could not be measured: too much noise" in err
    assert not (run / "result.json").exists()
    monkeypatch.setattr("search._commands._run_command.compare_networks", works)
    assert main(*words)[0] == 0
    assert result_of(run)["measured"]["winner_ms"] == 2.0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_was_evaluated_before_an_interruption_is_not_evaluated_again(
    number: signal.Signals, main: Main, calls: Callable[[], int], made: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(*RCNET, "--output", str(whole))[0] == 0
    wanted = calls()
    assert wanted == result_of(whole)["evaluated"] > 6
    (tmp_path / "calls").unlink()

    command = str(Path(sys.executable).with_name("search-architecture"))
    with subprocess.Popen(
        [command, *RCNET, "--output", str(broken)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=made,
        env={**os.environ, "HANGS": "6"},
        preexec_fn=in_the_foreground,
    ) as child:
        assert child.stderr is not None
        try:
            wait_until(lambda: calls() >= 6, child)
            child.send_signal(number)
            err = child.stderr.read()
        finally:
            child.kill()
    assert calls() == 6, err
    if number == signal.SIGINT:
        assert child.returncode == 130
        assert f"what is done is kept in {broken}; run the same command again to go on from there" in err
        one_line(err)
    assert not (broken / "result.json").exists()
    assert main(*RCNET, "--output", str(broken))[0] == 0
    # The one that was under way is evaluated again.
    assert calls() == wanted + 1
    assert result_of(broken) == result_of(whole)
    for name in ("network.json", "paths.json", "run.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_accuracies_of_another_space_or_function_are_not_taken(main: Main, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    code, _, err = main(*RCNET, "--output", str(run))
    assert code == 0, err
    words = [word if word != "my.py:accuracy" else "my.py:another" for word in RCNET]
    # The whole folder is another run's …
    (run / "result.json").unlink()
    code, _, err = main(*words, "--output", str(run))
    assert code == 2
    assert "holds another run, with other accuracy, function; give another output (--output)" in err
    one_line(err)
    # … or only its evaluations are there.
    other.mkdir()
    shutil.copy(run / "evaluations.jsonl", other)
    code, _, err = main(*words, "--output", str(other))
    assert code == 2
    assert "evaluations.jsonl holds accuracies computed otherwise" in err
    AccuracyCache.open(tmp_path / "third" / "evaluations.jsonl", space="elsewhere", function="f").close()
    code, _, err = main(*words, "--output", str(tmp_path / "third"))
    assert code == 2
    assert "holds accuracies of another search space (elsewhere, not rcnet-cifar" in err
    one_line(err)
    # --restart takes any of them.
    code, _, err = main(*words, "--output", str(run), "--restart")
    assert code == 0, err
    (run / "result.json").unlink()
    (run / "run.json").write_text("{}")
    code, _, err = main(*words, "--output", str(run))
    assert code == 2
    assert "run.json is not the record of such a run" in err
    one_line(err)


BUDGET = ("--budget-params", "0.5e6")


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        ((), 2, "give a budget: --budget-ms, --budget-params or --budget-madds"),
        (("--budget-params", "1e5"), 3, "0.2516 M parameters (251.6%) beyond the budget of 0.1 M"),
        (("--budget-params", "1e5", "--budget-madds", "2e7"), 3, "; 21.9 M multiply-adds, 1.895 M multiply-adds"),
        (("--predictor", "rcnet", "--budget-ms", "1"), 3, "ms (up to, at 90%)"),
        (("--budget-params", "-1"), 2, "a budget of parameters is a positive number, got -1"),
        (("--budget-params", "0"), 2, "a budget of parameters is a positive number, got 0"),
        (("--budget-madds", "nan"), 2, "a budget of multiply-adds is a positive number, got nan"),
        (("--predictor", "rcnet", "--budget-ms", "nan"), 2, "a budget of ms is a positive number, got nan"),
        (("--budget-ms", "2"), 2, "latency needs a predictor: give --predictor FOLDER"),
        ((*BUDGET, "--rules", "latency"), 2, "latency needs a predictor: give --predictor FOLDER"),
        ((*BUDGET, "--predictor", "rcnet", "--table", "t.json"), 2, "give either --predictor FOLDER or --table FILE"),
        ((*BUDGET, "--predictor", "nowhere"), 1, "nowhere"),
        ((*BUDGET, "--predictor", "rcnet", "--batch", "8"), 2, "is of batch 4, and --batch asks for 8"),
        ((*BUDGET, "--predictor", "macro"), 1, "Measure them: profile-device --target cpu --batch 4"),
        (
            (*BUDGET, "--space", "nas-bench-macro", "--predictor", "lacking"),
            1,
            "lack 6 of the space's 39 layers, and any like them: conv5×5",
        ),
        (("--space", "nas-bench-macro", "--predictor", "bare", "--budget-ms", "2"), 2, "--bound predicted"),
        ((*BUDGET, "--bound", "lower"), 2, "--bound is upper or predicted"),
        ((*BUDGET, "--level", "1"), 2, "level (--level) lies between 0 and 1"),
        ((*BUDGET, "--rules", "luck"), 2, "rules are uniform, params, madds, latency; got 'luck'"),
        ((*BUDGET, "--rules", "uniform,uniform"), 2, "a rule is named twice"),
        ((*BUDGET, "--evaluations", "9"), 2, "give --exchange"),
        ((*BUDGET, "--space", "nowhere"), 2, "unknown space 'nowhere'; installed: nas-bench-macro, rcnet-cifar"),
        ((*BUDGET, "--space", "nas-bench-macro", "--types", "1"), 2, "--types are RCNet's, and nas-bench-macro is"),
        ((*BUDGET, "--types", "7"), 2, "--types 7: types are among 1, 2, 3, 4, 5, 6"),
        ((*BUDGET, "--types", "a,b"), 2, "--types are numbers such as 1,5,6, got 'a,b'"),
        ((*BUDGET, "--accuracy", "my.py:raises"), 1, "could not be evaluated: ValueError: no way"),
        ((*BUDGET, "--accuracy", "my.py:stops"), 1, "could not be evaluated: SystemExit: 3"),
        ((*BUDGET, "--accuracy", "my.py:nan"), 1, "must be a finite number, got nan"),
        ((*BUDGET, "--accuracy", "my.py:none"), 1, "must be a finite number, got None"),
        ((*BUDGET, "--accuracy", "my.py:constant"), 2, "there is no function constant in it"),
        ((*BUDGET, "--accuracy", "nowhere.py:f"), 2, "there is no file nowhere.py"),
        ((*BUDGET, "--accuracy", "best"), 2, "--accuracy is train, table:FILE or FILE.py:NAME, got 'best'"),
        ((*BUDGET, "--accuracy", "table:"), 2, "--accuracy is train, table:FILE or FILE.py:NAME, got 'table:'"),
        ((*BUDGET, "--accuracy", "table:few.json"), 2, "is for nas-bench-macro, not for rcnet-cifar"),
        ((*BUDGET, "--space", "nas-bench-macro", "--accuracy", "table:no.json"), 1, "cannot read no.json"),
        ((*BUDGET, "--space", "nas-bench-macro", "--accuracy", "table:my.py"), 2, "is not NAS-Bench-Macro's file"),
        ((*BUDGET, "--space", "nas-bench-macro", "--accuracy", "table:few.json"), 2, "it has 1 of 6561 networks"),
        ((*BUDGET, "--accuracy", "train"), 2, "--accuracy train needs images to train on: give --data"),
        ((*BUDGET, "--train-epochs", "2"), 2, "--train-epochs 2 needs images to train on: give --data"),
        ((*BUDGET, "--set", "search.lr=0.1"), 2, "--set needs images to train on: give --data"),
        (
            (*BUDGET, "--data", "digits", "--space", "rcnet-imagenet", "--accuracy", "train"),
            2,
            "rcnet-imagenet takes other images than the 32×32 that can be trained here: give --accuracy FILE.py:NAME",
        ),
        (
            (*BUDGET, "--data", "images:letters", "--space", "nas-bench-macro", "--accuracy", "train"),
            2,
            "the networks of nas-bench-macro predict 10 classes, and images has 3: give other --data",
        ),
        (
            (*BUDGET, "--data", "images:letters", "--space", "nas-bench-macro", "--train-epochs", "1"),
            2,
            "give other --data, or --data none",
        ),
        ((*BUDGET, "--data", "digits", "--set", "colour=red"), 2, "--set is for trainings, and nothing is trained"),
        ((*BUDGET, "--data", "digits", "--accuracy", "train", "--set", "search.lr=-1"), 2, "lr must be between"),
        (
            (*BUDGET, "--data", "digits", "--train-epochs", "1", "--set", "training.epochs=many"),
            2,
            "--set training.epochs=many: expected a whole number, got 'many'",
        ),
        (
            (*BUDGET, "--data", "digits", "--train-epochs", "1", "--set", "search.lr=1"),
            2,
            "did you mean 'training.lr'?",
        ),
        ((*BUDGET, "--held-out", "5"), 2, "--held-out is for --accuracy train"),
        ((*BUDGET, "--search-epochs", "5"), 2, "--search-epochs is for --accuracy train"),
        ((*BUDGET, "--data", "digits", "--accuracy", "train", "--exchange"), 2, "give --evaluations N"),
        ((*BUDGET, "--data", "mnist"), 2, "mnist"),
        ((*BUDGET, "--data", "digits", "--accuracy", "train", "--held-out", "500"), 2, "500 are to be held out"),
        ((*BUDGET, "--device", "nosuch"), 2, "--device nosuch"),
        ((*BUDGET, "--data", "digits", "--accuracy", "train", "--device", "cpu,meta"), 2, "must be of one type"),
        ((*BUDGET, "--then", "onnx"), 2, "give its --predictor or --table"),
        ((*BUDGET, "--then", "tflite"), 2, "--then is onnx or export-coreml"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], code: int, problem: str, main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given, out, err = main("rcas", *MINE, *words, "--output", str(run))
    assert problem in err
    assert given == code
    one_line(err)
    # Only evaluations that fail have begun to write.
    assert run.exists() == ("Searching" in out)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told(main: Main, tmp_path: Path) -> None:
    code, _, err = main(*RCNET, "--device", "cpu,cuda", "--output", str(tmp_path / "run"))
    assert code == 2
    assert "--device cuda: " in err
    one_line(err)


def test_an_onnx_file_needs_a_trained_network(main: Main, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: the extra onnx")
    code, _, err = main(*RCNET, "--predictor", "rcnet", "--then", "onnx", "--output", str(tmp_path / "run"))
    assert code == 2
    assert "--then onnx exports a trained network" in err
    one_line(err)


@pytest.mark.parametrize("restart", [(), ("--restart",)])
def test_a_folder_that_cannot_be_written_is_told(
    restart: tuple[str, ...], main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, locked = tmp_path / "file", tmp_path / "locked"
    file.write_text("mine")
    for place in (file, file / "run"):
        code, _, err = main(*RCNET, "--output", str(place), *restart)
        assert code == 1
        assert f"cannot create {place}: {file} is a file, not a folder; give another output (--output)" in err
        one_line(err)
    assert file.read_text() == "mine"
    locked.mkdir()
    access = os.access
    # Root, whom some run tests as, may write anywhere.
    monkeypatch.setattr("os.access", lambda path, mode: not (path == locked and mode & os.W_OK) and access(path, mode))
    for place in (locked, locked / "deep" / "run"):
        code, _, err = main(*RCNET, "--output", str(place), *restart)
        assert code == 1
        assert f"cannot write to {locked}: permission denied; choose another place: output (--output)" in err
        one_line(err)
    assert not list(locked.iterdir())


def test_another_device_is_refused_before_anything_is_measured_or_written(main: Main, tmp_path: Path) -> None:
    # The made device is not this machine.
    words = [word for word in RCNET if word not in ("--measure-seconds", "0")]
    words.insert(words.index("--train-epochs") + 1, "0")
    for calibrate in ("0", "12"):
        code, out, err = main(
            *words, "--predictor", "rcnet", "--calibrate", calibrate, "--output", str(tmp_path / "run")
        )
        assert code == 2
        assert "and this machine is" in err
        one_line(err)
        assert "Searching" not in out
        assert not (tmp_path / "run").exists()


def test_submodularity_keeps_what_it_evaluated(main: Main, calls: Callable[[], int], tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    words = [*("submodularity", "--space", "nas-bench-macro", "--data", "none", "--accuracy", "my.py:accuracy")]
    words += ["--networks", "4", "--blocks", "3", "--output", str(file)]
    code, out, err = main(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [step["blocks"] for step in found["steps"]] == [0, 1, 2, 3]
    assert found["networks"] == 4
    assert found["triples"] == 8
    assert found["evaluated"] == calls()
    code, out, err = main(*words)
    assert code == 0, err
    assert f"4 random networks, {found['evaluated']} different ones evaluated" in out
    assert calls() == found["evaluated"]
    for changed, problem in (("my.py:another", "computed otherwise"), ("my.py:smaller", "computed otherwise")):
        code, _, err = main(*[word if word != "my.py:accuracy" else changed for word in words])
        assert code == 2
        assert problem in err
        # There is no --restart here.
        assert err.endswith("give another --output\n")
        one_line(err)


def test_submodularity_takes_what_a_search_has_evaluated(main: Main, calls: Callable[[], int], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("--space", "nas-bench-macro", "--accuracy", "my.py:accuracy", "--data", "none")
    budget = ("--budget-madds", "1e9", "--no-lazy", "--rules", "uniform")
    assert main("rcas", *PLAIN, *words, *budget, "--output", str(run))[0] == 0
    searched = calls()
    file = str(run / "evaluations.jsonl")
    code, out, err = main("submodularity", *words, "--networks", "5", "--blocks", "2", "-o", file, "--json")
    assert code == 0, err
    assert calls() < searched + json.loads(out)["evaluated"]


@NEEDS_MACRO
def test_submodularity_of_a_benchmark(main: Main) -> None:
    words = ("submodularity", "--space", "nas-bench-macro", "--data", "none", "--accuracy", f"table:{MACRO}")
    code, out, err = main(*words, "--networks", "200", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert len(found["steps"]) == 8
    assert found["diminishing_broken"] < 0.1
    code, out, _ = main(*words, "--networks", "200")
    assert "the gains of the mean fall" in out
    assert f"broken in {found['diminishing_broken']:.1%} of 1200 triples" in out


def test_submodularity_trains_where_it_is_asked_to(main: Main) -> None:
    words = [word for word in TINY if word not in ("--test-images", "40")]
    code, out, err = main("submodularity", *words, "--networks", "1", "--blocks", "2", "--json")
    assert code == 0, err
    assert 3 <= json.loads(out)["evaluated"] <= 4


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("--space", "nas-bench-macro", "--blocks", "9"), 2, "between 2 and 8 blocks, got 5 and 9"),
        (("--space", "nowhere"), 2, "unknown space 'nowhere'"),
        (("--types", "9"), 2, "--types 9: types are among"),
        (("--accuracy", "train"), 2, "--accuracy train needs images"),
        (("--accuracy", "table:few.json"), 2, "is for nas-bench-macro, not for rcnet-cifar"),
        (("--accuracy", "my.py:raises"), 1, "could not be evaluated: ValueError: no way"),
        (("--output", "letters"), 1, "cannot write letters"),
        (("--output", "my.py"), 2, "my.py is not a file of accuracies, or damaged in its first line; give another"),
        (("--device", "nosuch"), 2, "--device nosuch"),
    ],
)
def test_mistakes_about_submodularity_are_one_line(words: tuple[str, ...], code: int, problem: str, main: Main) -> None:
    plain = ("submodularity", "--data", "none", "--accuracy", "my.py:accuracy", "--networks", "5")
    given, _, err = main(*plain, *words)
    assert problem in err
    assert given == code
    one_line(err)


def test_a_run_does_not_land_in_a_package_of_ours() -> None:
    from search._commands._options import AccuracyOptions, RunOptions

    command = RcasCommand(RunOptions(), AccuracyOptions(), RcasOptions(None, True, False, None, False))
    assert command.output == Path("rcas-run")


def test_a_network_that_does_not_keep_its_budget_is_no_result(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Network]] = []
    # Whatever is measured takes a little more than it may.
    compared = compared_by(lambda _: 2.05, seen)
    monkeypatch.setattr("search._commands._run_command.compare_networks", compared)
    run = tmp_path / "run"
    words = ["rcas", *MACRO_SPACE, "--budget-ms", "2", "--train-epochs", "0", "--data", "none", "--calibrate", "0"]
    words += ["--accuracy", "my.py:accuracy", "--output", str(run)]
    code, out, err = main(*words, "--repairs", "1", "--json")
    assert code == 3
    one_line(err)
    assert "no network was measured within the budget of 2 ms in 2 sessions" in err
    found = json.loads(out)
    assert found["kept"] is False
    assert found["verification"]["excess"] == pytest.approx(1.01 * 2.05 / 2 - 1)
    verdicts = {one["verdict"] for session in found["verification"]["sessions"] for one in session}
    assert verdicts == {"beyond"}
    assert {one["verdict_any_day"] for session in found["verification"]["sessions"] for one in session} == {"beyond"}
    assert not (run / "network.json").exists()
    assert "No network measured keeps the budget of 2 ms" in (run / "report.html").read_text()
    # It is not finished: the same command with more repairs measures further ones, and none again.
    before = len(seen)
    code, _, err = main(*words, "--repairs", "2")
    assert code == 3
    assert "in 3 sessions" in err
    assert len(seen) == before + 2  # a trial, and a session
    # Where networks keep their budget, the same folder comes to an end.
    code, out, err = main(*words, "--restart", "--budget-ms", "2.1")
    assert code == 0, err
    assert "budget 2.1 ms kept" in out
    assert (run / "network.json").exists()


@pytest.mark.parametrize("holds", ["reference-speed", "any-day"])
def test_a_budget_holds_in_the_sense_that_was_asked_for(
    holds: str, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = LatencyPredictor.fit(macro_table(tmp_path))
    compared = compared_by(predictor.latency_ms, [])

    def with_days(networks: Sequence[Network], **options: Any) -> NetworkComparison:
        found = compared(networks, **options)
        days = tuple(n._replace(day_low_ms=0.9 * n.ms, day_high_ms=1.1 * n.ms) for n in found.networks)
        return found._replace(networks=days, at_reference=True)

    monkeypatch.setattr("search._commands._run_command.compare_networks", with_days)
    predictor.save(tmp_path / "predictor")
    run = tmp_path / "run"
    words = ("rcas", "--space", "nas-bench-macro", "--predictor", str(tmp_path / "predictor"), "--budget-ms", "2")
    words += ("--train-epochs", "0", "--data", "none", "--calibrate", "0", "--bound", "predicted")
    words += ("--accuracy", "my.py:accuracy", "--budget-holds", holds, "--output", str(run))
    code, out, err = main(*words)
    assert code == 0, err
    found = result_of(run)
    limit = 1.1 if holds == "any-day" else 1.01
    assert limit * found["measured"]["winner_ms"] <= 2
    assert ("on any day" in out) == (holds == "any-day")
    assert found["verification"]["holds"] == holds


def test_a_function_that_takes_too_long_is_told(main: Main, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\n\n\ndef accuracy(network):\n    time.sleep(60)\n")
    words = [*RCNET[:-2], "--budget-params", "0.5e6", "--output", str(tmp_path / "run"), "--accuracy-timeout", "0.2"]
    words[words.index("my.py:accuracy")] = f"{tmp_path / 'slow.py'}:accuracy"
    code, _, err = main(*words)
    assert code == 1
    one_line(err)
    assert "0.2 s" in err
    code, _, err = main("rcas", "--budget-params", "0.5e6", "--accuracy-timeout", "3")
    assert code == 2
    assert "--accuracy-timeout is for a function of yours" in err


def test_a_restart_deletes_no_folder_of_the_users(main: Main, tmp_path: Path) -> None:
    words = [*RCNET, "--output", str(tmp_path)]
    assert main(*words)[0] == 0
    made_predictor(NasBenchMacro()).save(tmp_path / "predictor")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("mine")
    assert main(*words, "--restart")[0] == 0
    assert LatencyPredictor.load(tmp_path / "predictor").held_out_networks.count == 24
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "mine"

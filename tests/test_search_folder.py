"""A search's folder is held by one run at a time, and what would be refused at its end is refused at its beginning."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_cli_search import QUICK, SMALL, budget_in, made, main  # noqa: F401 - fixtures, too

from lut._files import write_atomically
from lut._folder_lock import LOCK_NAME, folder_lock
from lut.errors import DeviceBusyError, FileAccessError, FolderInUseError, InterruptedRunError
from search._runs._folder import hold_folder
from search._runs._run import SHARED_FILES as FILES

pytestmark = pytest.mark.usefixtures("one_thread")

Main = Callable[..., tuple[int, str, str]]
MY = """import os

def accuracy(network):
    if "BUSY" in os.environ:
        raise RuntimeError("asked")
    return network.parameters / 1e7
"""
MEASURED = [word for word in QUICK if word not in ("--measure-seconds", "0")]


@pytest.fixture
def mine(tmp_path: Path) -> tuple[str, ...]:
    """A search that takes a second: nothing is predicted, trained or measured."""
    (tmp_path / "my.py").write_text(MY)
    return (
        *("rcas", "--accuracy", f"{tmp_path / 'my.py'}:accuracy", "--data", "none", "--train-epochs", "0"),
        *("--types", "1", "--budget-params", "0.4e6", "--measure-seconds", "0"),
    )


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make everything that takes time fail."""

    def work(*_: Any, **__: Any) -> Any:
        raise AssertionError("work was begun")

    for name in (
        "lut.LatencyTable.load",
        "predictors.LatencyPredictor.load",
        "search._data._images.load_data",
        "search._commands._run_command.compare_networks",
        "search.htas._method.search_htas",
        "search.rcas._method.search_rcas",
    ):
        monkeypatch.setattr(name, work)


@pytest.mark.parametrize("words", [(), ("--restart",)])
def test_a_folder_that_another_search_holds_is_refused_at_once(
    words: tuple[str, ...],
    main: Main,  # noqa: F811
    mine: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    no_work(monkeypatch)
    with folder_lock(run, doing="search"):
        for command in (QUICK, mine, (*SMALL, "--table", "t.json")):
            code, out, err = main(*command, *words, "--output", str(run))
            assert code == 1
            assert err.splitlines() == [
                f"error: another search is running in {run}; wait for it to end, or give another output (--output)"
            ]
            assert not out
    assert {path.name for path in run.iterdir()} == {"run.json", LOCK_NAME}


def test_the_lock_is_in_nobodys_way(main: Main, mine: tuple[str, ...], tmp_path: Path) -> None:  # noqa: F811
    run = tmp_path / "run"
    # An older run's folder, or a lock that was left behind.
    run.mkdir()
    (run / LOCK_NAME).touch()
    for words in ((), ("--restart",)):
        code, _, err = main(*mine, *words, "--output", str(run))
        assert code == 0, err
    code, _, err = main(*mine, "--output", str(run))
    assert code == 2
    assert "finished run" in err
    # It goes on where it was, too.
    (run / "result.json").unlink()
    assert main(*mine, "--output", str(run))[0] == 0


def test_a_folder_is_held_and_goes_if_nothing_came_of_it(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    with hold_folder(run, FILES):
        with pytest.raises(FolderInUseError), hold_folder(run, FILES):
            pass
        assert run.is_dir()
    assert not (tmp_path / "deep").exists()
    with hold_folder(run, FILES):
        (run / "run.json").write_text("{}")
    assert {path.name for path in run.iterdir()} == {"run.json", LOCK_NAME}
    with hold_folder(run, FILES):
        pass
    assert (run / "run.json").exists()


@pytest.mark.parametrize("name", ["report.html", "result.json", "network.json"])
def test_what_cannot_be_written_in_the_end_is_told_in_the_beginning(
    name: str,
    main: Main,  # noqa: F811
    mine: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_work(monkeypatch)
    run = tmp_path / "run"
    (run / name).mkdir(parents=True)
    for command in (QUICK, mine):
        code, _, err = main(*command, "--output", str(run))
        assert code == 1
        assert f"{run / name}: something else than a file is there" in err
    with pytest.raises(FileAccessError), hold_folder(run, FILES):
        pass


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("--calibrate", "4"), 2, "a calibration is on at least 10 networks, got 4"),
        (("--calibrate", "99999999999999999999999"), 2, "a calibration is on at most 10000 networks"),
        (("--seed", "99999999999999999999999"), 2, "--seed"),
        (("--calibrate", "12", "--budget-ms", "5", "--level", "0.95"), 2, "give --calibrate 19"),
        (("--level", "1.5"), 2, "level (--level) lies between 0 and 1"),
        (("--level", "nan"), 2, "level (--level) lies between 0 and 1"),
        (("--level", "90"), 2, "level (--level) lies between 0 and 1, such as 0.9, got 90; did you mean 0.9?"),
        (("--bound", "lower"), 2, "--bound is upper or predicted"),
        (("--device", "toaster"), 2, "--device toaster"),
        (("--strategy", "evolution", "--budget-ms", "5"), 1, "an evolution needs pymoo"),
        (("--strategy", "gradent"), 2, "--strategy is gradient or evolution, got 'gradent'; did you mean 'gradient'?"),
        (("--strategy", "evolution"), 2, "an evolution searches under a budget: give --budget-ms"),
        (("--widths", "hardwre"), 2, "got 'hardwre'; did you mean 'hardware'?"),
        (("--depths", "al"), 2, "--depths is tas, all or base, got 'al'; did you mean 'all'?"),
        (("--cost", "tabel"), 2, "--cost is law-per-array, eq8, table or madds, got 'tabel'; did you mean 'table'?"),
        (("--penalty", "bnd"), 2, "--penalty is linear or band, got 'bnd'; did you mean 'band'?"),
        (("--alpha", "steep"), 2, "alpha (--alpha) is a positive number or 'auto'"),
        (("--depth", "33"), 2, "6n+2 layers"),
        (("--expand", "0"), 2, "expand must be between"),
        (("--population", "1"), 2, "at least 2 networks and 1 generation, got 1"),
        (("--search-epochs", "0"), 2, "--search-epochs: expected a whole number"),
        (("--set", "smaples=3"), 2, "--set smaples: there is no such setting; did you mean 'samples'?"),
        (("--set", "lr=3"), 2, "did you mean 'search.lr' or 'training.lr'?"),
        (("--set", "samples=many"), 2, "--set samples=many: expected a whole number, got 'many'"),
        (("--set", "search.lr=-1"), 2, "lr must be between"),
        (("--budget-ms", "-1"), 2, "a budget of ms is a positive number, got -1"),
        (("--data", "digts"), 2, "unknown data 'digts'; give one of digits, cifar10:PATH"),
        (("--data", "cifar10:nowhere"), 1, "cannot read nowhere: no such file or directory"),
        (("--data", "images:nowhere"), 2, "reading images needs Pillow: pip install"),
        (("--then", "onnx"), 1, "--then onnx needs onnx: pip install"),
        (("--then", "export-coreml"), 1, "--then export-coreml needs coremltools"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(
    words: tuple[str, ...],
    code: int,
    problem: str,
    main: Main,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_work(monkeypatch)
    find = importlib.util.find_spec
    hidden = ("pymoo", "onnx", "coremltools")
    monkeypatch.setitem(sys.modules, "PIL", None)
    for place in ("importlib.util.find_spec", "search.evolution._evolution.find_spec"):
        monkeypatch.setattr(place, lambda name, *rest: None if name in hidden else find(name, *rest))
    given, _, err = main(*MEASURED, *words, "--output", str(tmp_path / "run"))
    assert problem in err
    assert given == code
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--set", "samples=1"), "samples must be at least 2"),
        (("--penalty", "band"), "around a budget"),
        (("--strategy", "evolution"), "give --budget-ms"),
        (("--budget-ms", "-1"), "a budget of ms is a positive number"),
        (("--budget-ms", "nan"), "a budget of ms is a positive number"),
        (("--set", "training.precision=float16"), "float16 is for CUDA, not for cpu"),
        (("--set", "search.precision=float16"), "float32 or bfloat16"),
        (("--population", "1000000000"), "at most 10000 networks and generations"),
        (("--seed", "7"), "holds another run, with other"),
    ],
)
def test_mistakes_are_told_before_a_minute_is_measured(
    words: tuple[str, ...],
    problem: str,
    main: Main,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    if "--seed" in words:
        assert main(*QUICK, "--output", str(run))[0] == 0
        (run / "result.json").unlink()

    def measured(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was measured")

    monkeypatch.setattr("search._commands._run_command.compare_networks", measured)
    monkeypatch.setattr("search._commands._run_command.compare_networks", measured)
    code, _, err = main(*MEASURED, *words, "--output", str(run))
    assert problem in err
    assert code == 2
    assert run.exists() == ("--seed" in words)


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("--space", "rcnet-cifr"), 2, "unknown space 'rcnet-cifr'; installed: "),
        (("--space", "resnet-cifar"), 2, "resnet-cifar is a space of widths (stem): give a space of blocks"),
        (("--types", "9"), 2, "--types 9: types are among"),
        (("--accuracy", "tain"), 2, "FILE.py:NAME, got 'tain'; did you mean 'train'?"),
        (("--accuracy", "table:nowhere.json"), 1, "cannot read nowhere.json: no such file or directory"),
        (("--set", "search.lr=fast"), 2, "--set search.lr=fast: expected a number, got 'fast'"),
        (("--set", "search.lr=-1"), 2, "--set: recipe: lr must be between"),
        (("--set", "search.epoch=3"), 2, "there is no such setting; did you mean 'search.epochs'?"),
        (("--data", "none", "--set", "search.lr=0.1"), 2, "--accuracy train needs images to train on: give --data"),
        (("--data", "digts"), 2, "unknown data 'digts'; give one of digits"),
        (("--data", "cifar10:nowhere"), 1, "cannot read nowhere: no such file or directory"),
    ],
)
@pytest.mark.parametrize("command", [("rcas", "--budget-params", "5e5"), ("submodularity",)])
def test_mistakes_of_evaluations_are_told_before_anything_is_read(
    command: tuple[str, ...],
    words: tuple[str, ...],
    code: int,
    problem: str,
    main: Main,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_work(monkeypatch)
    given, out, err = main(*command, *words, "--output", str(tmp_path / "run"))
    assert problem in err
    assert len(err.splitlines()) == 1
    assert (given, out) == (code, "")
    assert not (tmp_path / "run").exists()


def test_another_run_is_refused_before_anything_is_read(
    main: Main,  # noqa: F811
    mine: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for words in (QUICK, mine):
        code, _, err = main(*words, "--output", str(tmp_path / words[0]))
        assert code == 0, err
        (tmp_path / words[0] / "result.json").unlink()
    no_work(monkeypatch)
    for words, changes, name in (
        (QUICK, ("--seed", "7"), "seed"),
        (QUICK, ("--budget-ms", "5", "--bound", "predicted"), "budget of ms"),
        (mine, ("--budget-params", "0.5e6"), "budget of parameters"),
        (mine, ("--no-lazy",), "search"),
    ):
        code, out, err = main(*words, *changes, "--output", str(tmp_path / words[0]))
        assert (code, out) == (2, "")
        assert f"holds another run, with other {name}; give another output (--output)" in err


def test_a_folder_and_a_file_are_told_apart(main: Main, tmp_path: Path) -> None:  # noqa: F811
    for command in ("htas", "rcas"):
        for words, problem in (
            (
                ("--predictor", "t.json"),
                "--predictor t.json is a file: give a folder that fit-predictor wrote, or --table",
            ),
            (
                ("--table", "predictor"),
                "--table predictor is a folder: give a file that profile-device wrote, or --predictor",
            ),
        ):
            code, _, err = main(command, "--budget-ms", "5", *words, "--output", str(tmp_path / "run"))
            assert code == 2
            assert problem in err


def test_a_hopeless_budget_is_refused_before_a_minute_is_measured(
    main: Main,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was measured")

    monkeypatch.setattr("search._commands._run_command.compare_networks", measured)
    code, _, err = main(*MEASURED, "--budget-ms", "1e-6", "--output", str(tmp_path / "run"))
    assert code == 3
    assert "within 1e-06 ms was found: the smallest, of first options alone, takes" in err
    assert not (tmp_path / "run").exists()


def warnings_in(run: Path) -> list[str]:
    """Return what a run's result warns of."""
    found: list[str] = json.loads((run / "result.json").read_text())["warnings"]
    return found


def test_a_budget_that_limits_nothing_is_told(
    main: Main,  # noqa: F811
    mine: tuple[str, ...],
    tmp_path: Path,
) -> None:
    code, out, err = main(*QUICK, "--budget-ms", "1000", "--output", str(tmp_path / "htas"))
    assert code == 0, err
    assert "the budget of 1000 ms limits nothing: the largest network of resnet-cifar takes up to" in out
    # Before the search, and beside its result.
    unlike, warning = warnings_in(tmp_path / "htas")
    assert [out.count(f"warning: {text}\n") for text in (unlike, warning)] == [2, 2]
    assert "layers lie outside what was measured" in unlike
    assert "the budget of 1000 ms limits nothing" in warning
    code, out, err = main(*mine, "--budget-params", "1e12", "--stop-without-gain", "--output", str(tmp_path / "rcas"))
    assert code == 0, err
    (warning,) = warnings_in(tmp_path / "rcas")
    assert out.count(f"warning: {warning}\n") == 2
    assert "parameters limits nothing: the largest network of rcnet-cifar takes" in warning
    code, out, err = main(*mine, "--output", str(tmp_path / "other"))
    assert "limits nothing" not in out
    assert warnings_in(tmp_path / "other") == []


def test_ctrl_c_says_whether_anything_was_kept(
    main: Main,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    monkeypatch.setattr("search._data._images.load_data", stopped)
    code, _, err = main(*QUICK, "--output", str(run))
    assert (code, err) == (130, "stopped: nothing was written; run the same command again\n")
    assert not run.exists()
    run.mkdir()
    (run / "calibration.json").touch()
    code, _, err = main(*QUICK, "--output", str(run))
    kept = f"what was done before is kept in {run}; run the same command again to go on from there"
    assert (code, err) == (130, f"stopped: {kept}\n")


@pytest.mark.parametrize("command", ["htas", "rcas"])
def test_ctrl_c_of_a_restarted_run_does_not_send_it_to_its_beginning(
    command: str,
    main: Main,  # noqa: F811
    mine: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    words = (*(QUICK if command == "htas" else mine), "--output", str(tmp_path / "run"))
    assert main(*words)[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr(
            "search._commands._run_command.open_images",
            stopped,
        )
        code, _, err = main(*words, "--restart")
        assert (code, err) == (130, "stopped: nothing of the new run is kept; run the same command again\n")
    assert (tmp_path / "run" / "result.json").exists()
    monkeypatch.setattr(f"search.{command}._method.search_{command}", stopped)
    code, _, err = main(*words, "--restart")
    how = "run the same command again without restart=True (--restart) to go on from there"
    assert (code, err) == (130, f"stopped: what is done is kept in {tmp_path / 'run'}; {how}\n")
    code, _, err = main(*words)
    how = "run the same command again to go on from there"
    assert (code, err) == (130, f"stopped: what is done is kept in {tmp_path / 'run'}; {how}\n")


@pytest.mark.parametrize(
    ("before", "written", "restart", "said"),
    [
        ((), (), False, "nothing was written; run the same command again"),
        ((), ("calibration.json",), True, "without restart=True (--restart) to go on from there"),
        (
            ("run.json",),
            ("calibration.json",),
            False,
            "what is done is kept in {}; run the same command again to go on from there",
        ),
        # The record is still that of the run that is to be discarded.
        (("run.json",), ("calibration.json",), True, "nothing of the new run is kept; run the same command again"),
        (("run.json",), ("run.json",), True, "without restart=True (--restart) to go on from there"),
        (
            ("run.json",),
            (),
            False,
            "what was done before is kept in {}; run the same command again to go on from there",
        ),
    ],
)
def test_only_what_this_sitting_wrote_counts_as_kept(
    before: tuple[str, ...], written: tuple[str, ...], restart: bool, said: str, tmp_path: Path
) -> None:
    for name in before:
        (tmp_path / name).write_text("old")
    files = (*FILES, "calibration.json")

    def stopped() -> None:
        with hold_folder(tmp_path, files, restart=restart):
            for name in written:
                write_atomically(tmp_path / name, b"new")
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match=re.escape(said.format(tmp_path)) + "$"):
        stopped()


def test_a_space_goes_on_under_whatever_name_it_is_installed(
    main: Main,  # noqa: F811
    mine: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from profiler._spaces import space_factory

    factory = space_factory("rcnet-cifar")
    monkeypatch.setattr("profiler._spaces.space_factory", lambda _: factory)
    words = (*mine, "--space", "alias", "--output", str(tmp_path / "run"))
    assert main(*words)[0] == 0
    (tmp_path / "run" / "result.json").unlink()
    code, out, err = main(*words)
    assert code == 0, err
    assert out.startswith("resumed; done before: ")


def test_a_recipe_that_the_device_does_not_train_by_is_told_before_the_search(
    main: Main,  # noqa: F811
    mine: tuple[str, ...],
    tmp_path: Path,
) -> None:
    words = list(mine)
    words[words.index("none")] = "digits"
    words[words.index("--train-epochs") + 1] = "1"
    code, out, err = main(*words, "--set", "training.precision=float16", "--output", str(tmp_path / "run"))
    assert code == 2
    assert "float16 is for CUDA, not for cpu" in err
    assert "Searching" not in out
    code, _, err = main(*mine, "--calibrate", "4", "--output", str(tmp_path / "run"))
    # Without a predictor nothing is calibrated.
    assert code == 0, err


def test_a_winner_that_could_not_be_measured_is_no_success(
    main: Main,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def busy(networks: Any, **_: Any) -> Any:
        if len(networks) > 1:
            raise DeviceBusyError("another profile is running (process 1)")

    monkeypatch.setattr("search._commands._run_command.compare_networks", busy)
    run = tmp_path / "run"
    code, out, err = main(
        *MEASURED, "--calibrate", "0", "--budget-ms", budget_in(main, 0.7), "--output", str(run), "--json"
    )
    assert code == 3, err
    assert "the network found could not be measured: another profile is running" in err
    # What was found is there all the same, and the same command goes on with the measurement.
    assert json.loads(out)["measured"] is None
    assert (run / "report.html").exists()
    assert not (run / "result.json").exists()


@pytest.mark.parametrize("words", [("--weight", "1e308"), ("--set", "logits_lr=1e308")])
def test_a_search_that_runs_away_is_one_line(words: tuple[str, ...], main: Main, tmp_path: Path) -> None:  # noqa: F811
    code, _, err = main(*QUICK, *words, "--set", "weights_first=0", "--output", str(tmp_path / "run"))
    assert code == 1
    assert "the architecture's logits became NaN or infinite: lower" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((*QUICK, "--set", "samples=" + "[" * 5000), "[: expected a whole number, got '[["),
        ((*QUICK, "--set", "samples=\udcff"), "--set samples=\\udcff: expected a whole number, got"),
        ((*QUICK, "--set", "logits_betas=[1e308,2]"), "logits_betas are shares below 1"),
        ((*QUICK, "--set", "logits_weight_decay=1e308"), "logits_weight_decay is a share"),
        (("describe", "rcnet-cifar", "[" * 100_000), "is not a network of rcnet-cifar"),
        (("describe", "rcnet-cifar", "9" * 5000), "is not a network of rcnet-cifar"),
        (("describe", "resnet-cifar", "random", "--seed", str(2**63)), "--seed"),
        (
            (*("submodularity", "--space", "nas-bench-macro", "--data", "none", "--accuracy", "my.py:f"), "--networks"),
            "--networks",
        ),
    ],
)
def test_absurd_arguments_are_one_line(words: tuple[str, ...], problem: str, main: Main, tmp_path: Path) -> None:  # noqa: F811
    if words[-1] == "--networks":
        (tmp_path / "my.py").write_text("def f(network): return 0.5")
        words = (*(word.replace("my.py", f"{tmp_path}/my.py") for word in words), "1000000000")
        problem = "at most 10000 networks"
    output = ("--output", str(tmp_path / "run")) if words[0] == "htas" else ()
    code, _, err = main(*words, *output)
    assert code == 2
    assert problem in err
    assert "Traceback" not in err

"""What a run says of its epochs and its time: the same words everywhere, over all its sittings, without jumps."""

from __future__ import annotations

import io
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lut._console import duration
from lut._terminal import DataConsole
from profiler._cli._progress import Standing
from search import Problem, Recipe
from search._accuracy._chance import FirstRound, chance_warning
from search._accuracy._evaluator import EvaluationProgress
from search._commands._common import closing_line
from search._commands._phases import Phases
from search._runs._sittings import RunClock, Stage, resumed_text
from search._time_left import TimeLeft, seconds_left
from search._training._checkpoint import save_checkpoint, saved_epoch
from search._training._recipe import epoch_text, epochs_text
from search._training._train import TrainProgress
from search.htas._method import tell_progress
from search.htas._settings import SearchProgress
from search.rcas._progress import RcasProgress
from search.rcas._search import RcasSettings
from search.spaces import NasBenchMacro


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_epochs_name_their_warm_up() -> None:
    assert epochs_text(Recipe(epochs=1, warmup_epochs=0)) == "1 epoch"
    assert epochs_text(Recipe(epochs=24, warmup_epochs=2)) == "24 epochs after 2 of warm-up"
    said = [epoch_text(number, 5, 2) for number in range(1, 6)]
    assert said == ["warm-up epoch 1 of 2", "warm-up epoch 2 of 2", "epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]


def test_progress_names_the_warm_up_too() -> None:
    console = DataConsole(stderr=False, soft_wrap=True)
    console.file = io.StringIO()
    shown: list[str] = []
    phases = Phases(console)
    phases.phase("Training")
    phases._show = lambda standing: shown.append(f"{standing.text}, {standing.left}")
    phases.training(TrainProgress(1, 3, 0.1, 1.0, 65.0, None, 1))
    phases.training(TrainProgress(3, 3, 0.9, 9.0, None, 0.5, 1))
    tell_progress(phases, SearchProgress(2, 26, 0.1, 9.0, None, 2.5, 0.125, 2))
    assert shown[0] == "Training: warm-up epoch 1 of 1, 1 min left"
    assert shown[1].startswith("Training: epoch 2 of 2, test accuracy 50.0%, 1 min left")
    assert "warm-up epoch 2 of 2, most probable network: accuracy 12.5%, up to 2.5 ms" in shown[2]


def test_the_first_round_of_rcas_says_what_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("search.rcas._progress.TimeLeft", partial(TimeLeft, clock))
    console = DataConsole(stderr=False, soft_wrap=True)
    console.file = io.StringIO()
    phases = Phases(console)
    progress = RcasProgress(Problem(NasBenchMacro(), madds=1e9), RcasSettings(rules=("uniform",)), phases)
    phases.phase("Searching")
    shown: list[Standing] = []
    phases._show = shown.append

    def told(done: int, wanted: int, left_s: float | None, cached: int = 0) -> Standing:
        progress.evaluated(EvaluationProgress(done, wanted, cached, clock.now, left_s, None))
        return shown[-1]

    # The first network, and then all that have a block.
    told(0, 1, None)
    assert told(1, 1, 0.0).text == "Searching: first round, 1 of 1 networks evaluated"
    told(6, 115, None, 6)
    clock.now += 20
    found = told(9, 115, 720.0, 6)
    assert found.text == "Searching: first round, 3 of 109 networks evaluated, 12 min left in it"
    assert found.left == ""
    # Of the rest there is an estimate once a block was chosen: it is no continuation of the first round's.
    progress._first, progress._share = (time.monotonic() - 60, 0.0), 0.5
    assert told(1, 2, 5.0).left == "1 min left"


def test_durations_have_one_style() -> None:
    said = {seconds: duration(seconds) for seconds in (0.4, 59.4, 59.6, 63 * 60, 3599, 7200, 100_000)}
    assert list(said.values()) == ["0 s", "59 s", "1 min", "1 h 03 min", "1 h 00 min", "2 h 00 min", "27 h 47 min"]


def test_the_time_left_counts_down_and_does_not_jump() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    assert left.update(None) is None
    assert left.update(3780.0) == 3780.0
    clock.now += 10
    # Twice as long all of a sudden: it is believed by degrees.
    first = left.update(7200.0)
    assert first is not None
    assert 3770 < first < 4100
    clock.now += 10
    assert left.update(None) == pytest.approx(first - 10)
    for _ in range(200):
        clock.now += 10
        settled = left.update(7200.0)
    assert settled == pytest.approx(7200, rel=0.05)
    assert seconds_left(10.0, 0.0, 4.0) is None
    assert seconds_left(10.0, 1.0, 4.0) == 30.0


def test_a_run_takes_the_time_of_all_its_sittings(tmp_path: Path) -> None:
    path, clock = tmp_path / "checkpoints" / "time.json", Clock()
    first = RunClock(path, clock=clock)
    clock.now += 5
    first.beat()
    # Not at every beat.
    assert not path.exists()
    clock.now += 100
    first.beat()
    clock.now += 3
    second = RunClock(path, clock=clock)
    clock.now += 60
    assert (second.total_s, second.sittings) == (165.0, 2)
    second.keep()
    assert RunClock(path, clock=clock).sittings == 3
    assert RunClock(path, restart=True, clock=clock).sittings == 1


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"seconds": -1, "sittings": 1}', '{"seconds": 1e99, "sittings": 1}']
)
def test_a_damaged_time_is_not_known_and_stops_no_run(content: str, tmp_path: Path) -> None:
    path, clock = tmp_path / "time.json", Clock()
    path.write_text(content)
    with RunClock(path, clock=clock) as run:
        clock.now += 5
    assert (run.total_s, run.sittings) == (5.0, 1)
    assert closing_line(run, resumed=True) == "5 s in this sitting"
    assert RunClock(path, clock=clock).total_s == 5.0


def test_what_was_done_before_is_said(tmp_path: Path) -> None:
    def stage(name: str, epochs: Any) -> Stage:
        file = tmp_path / name
        if epochs is not None:
            save_checkpoint(file, run="r", epoch=epochs, tensors={}, values={})
        return Stage(name, file, 26, 2)

    assert resumed_text([stage("search", None), stage("training", 0)], evaluated=0) is None
    said = resumed_text([stage("search", 3), stage("training", None)], calibrated=True, evaluated=1)
    done = "the calibration; 1 evaluated network; 3 of 26 epochs of search, 2 of warm-up included"
    assert said == f"resumed; done before: {done}"
    (tmp_path / "search").write_bytes(b"\xff" * 64)
    assert saved_epoch(tmp_path / "search") is None


def test_accuracies_at_chance_level_are_told_from_others() -> None:
    guessed = [0.08, 0.1, 0.15, 0.12]
    warning = chance_warning(guessed, classes=10, images=100)
    assert warning is not None
    assert "all 4 networks evaluated first are at chance level: accuracy 15.0% at best" in warning
    assert "--search-epochs" in warning
    assert chance_warning([*guessed, 0.3], classes=10, images=100) is None
    # Of more images less is by chance, and of more networks more.
    assert chance_warning([0.15], classes=10, images=1000) is None
    assert chance_warning([0.19], classes=10, images=100) is None
    assert chance_warning([0.19] + [0.1] * 200, classes=10, images=100) is not None
    assert chance_warning([], classes=10, images=100) is None


def test_the_first_round_ends_with_the_second_call() -> None:
    first = FirstRound()
    assert not first.add([0.1])
    assert first.add([0.2, 0.3])
    assert not first.add([0.9])
    assert first.values == (0.1, 0.2, 0.3)

"""A network's accuracy: evaluated once and kept on disk, by any function or by short trainings in processes."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from conftest import HANGS_S, in_the_foreground, wait_until

from lut import Network, NetworkLayer, conv_norm_act, global_pool, linear
from lut.errors import (
    CheckpointError,
    DataError,
    FileAccessError,
    InterruptedRunError,
    SearchError,
    TargetUnavailableError,
    UsageError,
)
from search._accuracy._evaluator import (
    AccuracyCache,
    BatchAccuracy,
    EvaluationProgress,
    Evaluator,
    load_accuracy,
    network_key,
)
from search._accuracy._short_training import ShortTraining, hold_out, rcas_recipe
from search._data._images import ImageData, load_data, subset
from search._training._recipe import learning_rate
from search._training._train import train
from search._training._weights import build_network

ROOT = Path(__file__).parents[1]
# Where a script finds our packages and this file.
PLACES = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}


def tiny(width: int, *, name: str = "", part: str = "first", classes: int = 10) -> Network:
    """Return a network of 32×32 images that trains in a moment; its work depends on the width alone."""
    layers = (
        NetworkLayer(part, conv_norm_act(3, width, kernel_size=3, stride=4, activation="relu", input_size=(32, 32))),
        NetworkLayer("pool", global_pool(width, input_size=(8, 8))),
        NetworkLayer("last", linear(width, classes, bias=True)),
    )
    return Network(name or f"net {width}", layers)


def width_of(network: Network) -> float:
    """Return an accuracy that is the network's width in hundredths."""
    return network.layers[0].layer.out_channels / 100


class Counted:
    """The same, and which networks were evaluated."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, network: Network) -> float:
        self.names.append(network.name)
        return width_of(network)


def opened(path: Path, *, space: str = "space", function: str = "function") -> AccuracyCache:
    return AccuracyCache.open(path, space=space, function=function)


# ------------------------------------------------------------------------------------------------------------ the file


def test_a_cache_keeps_values(tmp_path: Path) -> None:
    path = tmp_path / "made" / "accuracies.jsonl"
    with opened(path) as cache:
        assert len(cache) == 0
        cache.add("a", 0.1 + 0.2, 1.5)
        # On the disk at once.
        assert b'"a"' in path.read_bytes()
        cache.add("b", -3.0, 2.0)
        assert cache.get("a") == 0.1 + 0.2
        for value in (math.nan, math.inf):
            with pytest.raises(UsageError, match="finite"):
                cache.add("c", value, 1.0)
    with pytest.raises(UsageError, match="closed"):
        cache.add("d", 0.5, 1.0)
    with opened(path) as again:
        assert (len(again), again.get("a"), again.get("b"), again.get("c")) == (2, 0.1 + 0.2, -3.0, None)
    assert all(msgspec.json.decode(line.rpartition(b"\t")[0]) for line in path.read_bytes().splitlines())


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "accuracies.jsonl"
    with opened(path) as cache:
        cache.add("a", 0.25, 1.0)
        whole = path.read_bytes()
        cache.add("b", 0.5, 1.0)
    path.write_bytes(path.read_bytes()[:-cut])
    with opened(path) as cache:
        assert path.read_bytes() == whole
        assert (cache.get("a"), cache.get("b")) == (0.25, None)
        cache.add("b", 0.75, 1.0)
    with opened(path) as cache:
        assert cache.get("b") == 0.75


def test_a_file_that_was_cut_off_in_its_first_line_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "accuracies.jsonl"
    opened(path).close()
    header = path.read_bytes()
    for end in (0, 1, 10, len(header) - 1):
        path.write_bytes(header[:end])
        opened(path).close()
        assert path.read_bytes() == header


@pytest.mark.parametrize(
    ("given", "words", "others"),
    [
        ({"space": "another"}, r"another search space \(space, not another\)", "computed otherwise"),
        ({"function": "another"}, "computed otherwise", "search space"),
        ({"space": "x", "function": "y"}, "another search space .* and computed otherwise", "nothing of that kind"),
    ],
)
def test_a_cache_of_something_else_is_refused(tmp_path: Path, given: dict[str, str], words: str, others: str) -> None:
    path = tmp_path / "accuracies.jsonl"
    with opened(path) as cache:
        cache.add("a", 0.25, 1.0)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(path, **given)
    assert others not in str(caught.value)
    assert "--output" in str(caught.value)
    assert "--restart" in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [lines[0], b'{"key":"a"}', *lines[2:]], "line 2, is damaged"),
        (lambda lines: [*lines[:2], b"", *lines[2:]], "line 3, is damaged"),
        # Other digits, another line's place, and the whole of it twice.
        (lambda lines: [lines[0], lines[1].replace(b"0.25", b"0.75"), *lines[2:]], "line 2, is damaged: its checksum"),
        (lambda lines: [lines[0].replace(b'"space":"space"', b'"space": "space"'), *lines[1:]], "line 1, is damaged"),
        (lambda lines: [lines[0], lines[2], lines[1]], "line 2, is damaged: its checksum"),
        (lambda lines: [lines[0], lines[2]], "line 2, is damaged: its checksum"),
        (lambda lines: [*lines, *lines], "line 4, is damaged: its checksum"),
        (lambda lines: [*lines, lines[2]], "line 4, is damaged: its checksum"),
        (lambda lines: [lines[0], lines[1].replace(b"0.25", b"null"), *lines[2:]], "line 2, is damaged"),
        (lambda lines: [lines[0], b"\xff\xfe", *lines[2:]], "line 2, is damaged"),
        (lambda lines: lines[1:], "not a file of accuracies"),
        (lambda lines: [lines[0].replace(b'"version":2', b'"version":3'), *lines[1:]], "version 3"),
        (lambda _: [b"name,accuracy"], "not a file of accuracies"),
    ],
)
def test_a_damaged_cache_is_refused(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], words: str) -> None:
    path = tmp_path / "accuracies.jsonl"
    with opened(path) as cache:
        cache.add("a", 0.25, 1.0)
        cache.add("b", 0.5, 1.0)
    content = b"".join(line + b"\n" for line in change(path.read_bytes().splitlines()))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        opened(path)
    assert path.read_bytes() == content


def test_a_file_of_somebody_elses_is_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_bytes(b"a line without its end")
    with pytest.raises(CheckpointError, match="not a file of accuracies"):
        opened(path)
    assert path.read_bytes() == b"a line without its end"
    with pytest.raises(FileAccessError, match="give a file"):
        opened(tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "accuracies.jsonl"
    script = (
        "import sys; from pathlib import Path; from search._accuracy._evaluator import AccuracyCache\n"
        "cache = AccuracyCache.open(Path(sys.argv[1]), space='space', function='function')\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointError, match=r"another process holds .*accuracies\.jsonl"):
            opened(path)
        child.kill()
    opened(path).close()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "accuracies.jsonl"
    write = os.write
    with opened(path) as cache:
        cache.add("a", 0.25, 1.0)
        before = path.read_bytes()
        monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:7]))
        with pytest.raises(FileAccessError, match="free some space"):
            cache.add("b", 0.5, 1.0)
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert cache.get("b") is None
        cache.add("b", 0.5, 1.0)
    with opened(path) as cache:
        assert cache.get("b") == 0.5


# It waits in the third evaluation.
KILLED = """\
import sys, time
from pathlib import Path
from search._accuracy._evaluator import AccuracyCache, Evaluator
from test_accuracy import tiny, width_of

def accuracy(network):
    if network.name == "net 3":
        print("third", flush=True)
        time.sleep(600)
    return width_of(network)

cache = AccuracyCache.open(Path(sys.argv[1]), space="space", function="function")
Evaluator(accuracy, cache=cache)([tiny(width) for width in (1, 2, 3, 4)])
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "accuracies.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, env={**os.environ, **PLACES}
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"third\n"
        finally:
            child.kill()
    assert child.returncode == -signal.SIGKILL
    counted = Counted()
    with opened(path) as cache:
        assert len(cache) == 2
        evaluator = Evaluator(counted, cache=cache)
        assert evaluator([tiny(width) for width in (4, 3, 2, 1)]) == [0.04, 0.03, 0.02, 0.01]
    assert counted.names == ["net 4", "net 3"]
    assert (evaluator.asked, evaluator.evaluated) == (4, 2)


# ------------------------------------------------------------------------------------------------------- the evaluator


@pytest.mark.parametrize("kept", [True, False])
def test_each_network_is_evaluated_once(tmp_path: Path, kept: bool) -> None:
    counted = Counted()
    alike = tiny(2, name="another name", part="its first")
    assert network_key(alike) == network_key(tiny(2)) != network_key(tiny(3))
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(opened(tmp_path / "accuracies.jsonl")) if kept else None
        evaluator = Evaluator(counted, cache=cache)
        assert evaluator([tiny(2), tiny(1), alike, tiny(2)]) == [0.02, 0.01, 0.02, 0.02]
        assert counted.names == ["net 2", "net 1"]
        assert evaluator([alike, tiny(3), tiny(1)]) == [0.02, 0.03, 0.01]
        assert counted.names == ["net 2", "net 1", "net 3"]
        assert evaluator([]) == []
        assert (evaluator.asked, evaluator.evaluated) == (7, 3)
        assert evaluator.seconds >= 0
        if cache is not None:
            assert len(cache) == 3
            assert Evaluator(counted, cache=cache)([alike]) == [0.02]
            assert len(counted.names) == 3


def test_values_are_kept_as_soon_as_they_are_known(tmp_path: Path) -> None:
    path = tmp_path / "accuracies.jsonl"
    lines: list[int] = []

    def accuracy(network: Network) -> float:
        lines.append(path.read_bytes().count(b"\n"))
        return width_of(network)

    with opened(path) as cache:
        Evaluator(accuracy, cache=cache)([tiny(width) for width in (1, 2, 3)])
    assert lines == [1, 2, 3]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[EvaluationProgress] = []
    with opened(tmp_path / "accuracies.jsonl") as cache:
        Evaluator(width_of, cache=cache)([tiny(1)])
        Evaluator(width_of, cache=cache, progress=told.append)([tiny(1), tiny(2), tiny(3), tiny(3)])
    assert [(p.done, p.wanted, p.cached, p.value) for p in told] == [
        (1, 3, 1, None),
        (2, 3, 1, 0.02),
        (3, 3, 1, 0.03),
    ]
    assert told[0].left_s is None
    assert told[1].left_s == pytest.approx(told[1].elapsed_s)
    assert told[2].left_s == 0


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_function_that_raises(tmp_path: Path, at_once: int) -> None:
    second_begun, third_raises = threading.Event(), threading.Event()
    failing: list[threading.Thread] = []

    def accuracy(network: Network) -> float:
        if network.name == "net 3":
            second_begun.wait(HANGS_S if at_once > 1 else 0)
            failing.append(threading.current_thread())
            third_raises.set()
            raise RuntimeError("no such luck")
        if network.name == "net 2" and at_once > 1:
            second_begun.set()
            # Still under way when the other one has failed, and its thread has ended.
            third_raises.wait(HANGS_S)
            failing[0].join(HANGS_S)
        return width_of(network)

    with opened(tmp_path / "accuracies.jsonl") as cache:
        evaluator = Evaluator(accuracy, cache=cache, at_once=at_once)
        with pytest.raises(
            SearchError, match="the accuracy of network 'net 3' could not be evaluated: RuntimeError: no such luck"
        ) as caught:
            evaluator([tiny(1), tiny(2), tiny(3), tiny(4)] if at_once == 1 else [tiny(3), tiny(2), tiny(4)])
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert cache.get(network_key(tiny(2))) == 0.02
        assert cache.get(network_key(tiny(4))) is None


def test_what_passes_through_and_what_does_not() -> None:
    def raises(error: BaseException) -> Callable[[Network], float]:
        def accuracy(network: Network) -> float:
            raise error

        return accuracy

    for at_once in (1, 2):
        for given in (InterruptedRunError("stopped"), KeyboardInterrupt()):
            with pytest.raises(type(given)) as caught:
                Evaluator(raises(given), at_once=at_once)([tiny(1)])
            assert caught.value is given
        for error in (UsageError("not this one"), SystemExit(3), MemoryError()):
            with pytest.raises(SearchError, match=f"'net 1' could not be evaluated: {type(error).__name__}"):
                Evaluator(raises(error), at_once=at_once)([tiny(1)])


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        None,
        "0.5",
        b"1",
        True,
        np.True_,
        torch.tensor(True),
        1j,
        [0.5],
        10**400,
        torch.tensor(math.nan),
        np.array([0.5]),
        np.float32(math.inf),
    ],
)
@pytest.mark.parametrize("at_once", [1, 2])
def test_what_is_no_accuracy(tmp_path: Path, value: Any, at_once: int) -> None:
    with opened(tmp_path / "accuracies.jsonl") as cache:
        evaluator = Evaluator(lambda _: value, cache=cache, at_once=at_once)
        with pytest.raises(SearchError, match="accuracy of network 'net 1' must be a finite number, got") as caught:
            evaluator([tiny(1)])
        assert repr(value)[:20] in str(caught.value)
        assert len(cache) == 0


@pytest.mark.parametrize("value", [1, -2.5, np.float32(0.5), np.int64(3), torch.tensor(0.25), np.array(0.5)])
def test_numbers_of_other_libraries(value: Any) -> None:
    found = Evaluator(lambda _: value)([tiny(1)])[0]
    assert type(found) is float
    assert found == float(value)


def test_several_at_once() -> None:
    together = threading.Barrier(3, timeout=HANGS_S)
    threads: set[int] = set()

    def accuracy(network: Network) -> float:
        threads.add(threading.get_ident())
        # Passes only when three run at a time.
        together.wait()
        return width_of(network)

    evaluator = Evaluator(accuracy, at_once=3)
    assert evaluator([tiny(width) for width in (3, 1, 2, 6, 5, 4)]) == [0.03, 0.01, 0.02, 0.06, 0.05, 0.04]
    assert len(threads) == 3
    assert threading.get_ident() not in threads
    alone: list[int] = []

    def here(network: Network) -> float:
        alone.append(threading.get_ident())
        return 0.5

    Evaluator(here)([tiny(1)])
    assert alone == [threading.get_ident()]
    with pytest.raises(UsageError, match="at_once"):
        Evaluator(width_of, at_once=0)


class Backwards:
    """Evaluates a batch from its end, and tells when it was given up."""

    def __init__(self, skip: str = "") -> None:
        self.skip, self.closed = skip, False

    def evaluate(self, networks: Sequence[Network]) -> Iterator[tuple[int, float, float]]:
        try:
            for number in reversed(range(len(networks))):
                if networks[number].name != self.skip:
                    yield number, width_of(networks[number]), 10.0
        finally:
            self.closed = True


def test_a_batch_in_its_own_order() -> None:
    batch = Backwards()
    assert isinstance(batch, BatchAccuracy)
    evaluator = Evaluator(batch)
    assert evaluator([tiny(1), tiny(2), tiny(3), tiny(1)]) == [0.01, 0.02, 0.03, 0.01]
    assert (evaluator.evaluated, evaluator.seconds) == (3, 30.0)
    with pytest.raises(SearchError, match="'net 2' was asked for, and none was given"):
        Evaluator(Backwards("net 2"))([tiny(1), tiny(2)])


def test_a_batch_is_given_up_where_the_caller_fails() -> None:
    batch = Backwards()

    def progress(now: EvaluationProgress) -> None:
        if now.done == 1:
            raise InterruptedRunError("stopped")

    with pytest.raises(InterruptedRunError) as caught:
        Evaluator(batch, progress=progress)([tiny(1), tiny(2)])
    assert batch.closed
    assert str(caught.value) == "stopped"


def test_a_users_function_by_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("print('hello')\nlimit = 3\ndef judge(network):\n    return network.madds / 1e9\n")
    accuracy = load_accuracy(f"{file}:judge")
    assert capsys.readouterr() == ("", "hello\n")
    assert accuracy(tiny(2)) == tiny(2).madds / 1e9
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module\n")
    for text, words in (
        (f"{file}:judges", "--accuracy .*mine.py:judges: there is no function judges in it"),
        (f"{file}:limit", "there is no function limit"),
        (f"{tmp_path}/none.py:judge", "there is no file"),
        ("judge", "--accuracy is file.py:function or package.module:function, got 'judge'"),
        (f"{broken}:judge", "it cannot be imported: ModuleNotFoundError"),
    ):
        with pytest.raises(UsageError, match=words):
            load_accuracy(text)


def test_nothing_here_waits_for_torch() -> None:
    code = "import sys, search._accuracy._evaluator; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ------------------------------------------------------------------------------------------------------ short trainings


def digits() -> ImageData:
    return subset(load_data("digits"), train=80, test=20, seed=0)


def judge(**changes: Any) -> ShortTraining:
    """Return a judge that trains for two epochs."""
    recipe = rcas_recipe(epochs=2, batch_size=20)
    return ShortTraining(**{"data": digits(), "recipe": recipe, "seed": 3, "held_out": 3, **changes})


def test_the_recipe_of_the_paper() -> None:
    recipe = rcas_recipe()
    assert (recipe.total_epochs, recipe.batch_size, recipe.warmup_epochs) == (10, 128, 0)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 4e-5)
    assert (recipe.crop, recipe.flip, recipe.cutout, recipe.label_smoothing) == (4, True, 0, 0.0)
    expected = [0.1] * 4 + [0.01] * 3 + [0.001] * 2 + [0.0001]
    for epoch, lr in enumerate(expected):
        for share in (0.0, 0.5, 0.999):
            assert learning_rate(recipe, epoch + share) == pytest.approx(lr, rel=1e-9)
    # The same at ten times the length, to the epoch.
    longer = rcas_recipe(epochs=100)
    assert [learning_rate(longer, e) for e in (39, 40, 69, 70, 89, 90)] == pytest.approx(
        [0.1, 0.01, 0.01, 0.001, 0.001, 0.0001]
    )
    assert rcas_recipe(epochs=3, batch_size=64, lr=0.05, cutout=8).cutout == 8
    with pytest.raises(UsageError, match="there is no rate"):
        rcas_recipe(rate=0.1)


def numbered(per_class: Sequence[int]) -> ImageData:
    """Return data whose every training image is another."""
    labels = torch.repeat_interleave(torch.arange(len(per_class)), torch.tensor(per_class))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images = torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(labels))
    names = tuple("abcdefgh"[: len(per_class)])
    return ImageData("images", names, images, labels, images[:1], labels[:1], True)


def test_images_are_held_out() -> None:
    data = numbered([7, 5, 9])
    split = hold_out(data, 4, 1)
    assert torch.bincount(split.test_labels).tolist() == [4, 4, 4]
    assert torch.bincount(split.train_labels).tolist() == [3, 1, 5]
    held, left = split.test_images[:, 0, 0, 0].tolist(), split.train_images[:, 0, 0, 0].tolist()
    assert sorted(held + left) == list(range(21))
    # In the old order, and each with its own label.
    assert held == sorted(held)
    assert left == sorted(left)
    assert split.test_labels.tolist() == data.train_labels[held].tolist()
    assert split.train_labels.tolist() == data.train_labels[left].tolist()
    assert (split.name, split.classes, split.mirrored) == (data.name, data.classes, data.mirrored)
    assert hold_out(data, 4, 1).digest == split.digest
    assert hold_out(data, 4, 2).digest != split.digest


def test_too_few_images_to_hold_out() -> None:
    data = numbered([7, 5, 9])
    with pytest.raises(DataError, match="class 'b' has 5 training images, and 5 are to be held out"):
        hold_out(data, 5, 0)
    with pytest.raises(UsageError, match="at least one image"):
        hold_out(data, 0, 0)
    with pytest.raises(DataError, match="class '0' has 8 training images, and 10"):
        judge(held_out=10)


def test_the_accuracy_of_a_short_training(one_thread: None) -> None:
    early = judge()
    module = build_network(tiny(4), seed=3)
    recipe = rcas_recipe(epochs=2, batch_size=20)
    expected = train(module, hold_out(digits(), 3, 3), recipe, seed=3).test_accuracy
    evaluator = Evaluator(early)
    assert evaluator([tiny(4)]) == [expected]
    assert evaluator.seconds > 0
    assert early._workers == []


def test_a_name_of_earlier_versions_is_answered() -> None:
    import search

    assert search.ShortTraining is search.ShortTraining is ShortTraining


def test_what_an_accuracy_depends_on() -> None:
    digest = judge().digest
    assert judge(at_once=3, devices=("cpu", "cpu")).digest == digest
    # As it was in earlier versions, whose caches stay valid; of several threads they do not.
    assert digest == "d7fd7b7b3d3d680fcfa23500bfa488b48ac3c5a0e8dcf17cf2d49fc979d8e8f3"
    changes: list[dict[str, Any]] = [
        {"seed": 4},
        {"held_out": 2},
        {"recipe": rcas_recipe(epochs=3, batch_size=20)},
        {"data": subset(load_data("digits"), train=90, test=20, seed=0)},
        {"devices": ("mps",)},
        {"threads": 2},
        {"threads": 3},
    ]
    assert len({digest, *(judge(**change).digest for change in changes)}) == len(changes) + 1


def test_what_cannot_be_evaluated(one_thread: None) -> None:
    with pytest.raises(SearchError, match="'net 4' could not be evaluated: UsageError: the data has 10 classes"):
        Evaluator(judge())([tiny(4, classes=7)])
    with pytest.raises(SearchError, match="'net 4' could not be evaluated: SearchError: the loss became NaN"):
        Evaluator(judge(recipe=rcas_recipe(epochs=2, batch_size=2, lr=100.0, weight_decay=1.0)))([tiny(4)])
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"at_once": 0}, UsageError, "at_once"),
        ({"threads": 0}, UsageError, "threads"),
        ({"devices": ()}, UsageError, "at least one, got none"),
        ({"devices": ("cpu", "mps")}, UsageError, "of one type"),
        ({"devices": ("gpu",)}, UsageError, "no device 'gpu'"),
        ({"devices": ("cuda:99",)}, TargetUnavailableError, "no device cuda:99 here"),
        ({"recipe": rcas_recipe(precision="float16")}, UsageError, "float16 is for CUDA"),
    ]
    for change, kind, words in refused:
        with pytest.raises(kind, match=words):
            judge(**change)


def test_processes_give_the_same_accuracies(tmp_path: Path) -> None:
    networks = [tiny(width) for width in (4, 6, 8)]
    before = torch.get_num_threads()
    # Long enough that they differ.
    given = {"data": subset(load_data("digits"), train=300, seed=0), "recipe": rcas_recipe(10, 16), "held_out": 10}
    expected = Evaluator(judge(**given))(networks)
    assert torch.get_num_threads() == before
    assert len(set(expected)) >= 2
    with judge(**given, at_once=2) as early, opened(tmp_path / "accuracies.jsonl", function=early.digest) as cache:
        assert Evaluator(early)(networks) == expected
        pids = [worker.process.pid for worker in early._workers]
        assert len(pids) == 2
        # One that fails does not end its process; Ctrl-C is not theirs to hear.
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        with pytest.raises(SearchError, match="'odd' could not be evaluated: UsageError: the data has 10 classes"):
            Evaluator(early)([tiny(4, name="odd", classes=7)])
        assert Evaluator(early)(networks[:2]) == expected[:2]
        assert [worker.process.pid for worker in early._workers] == pids
        _one_is_killed(early, networks, expected, cache)
        assert [worker.process.pid for worker in early._workers] != pids
        assert early._workers[1].process.pid == pids[1]
        pids = [worker.process.pid for worker in early._workers]
        # A batch that is given up ends them, and the next one starts others.
        early._workers[0].process.send_signal(signal.SIGSTOP)
        found = early.evaluate(networks)
        next(found)
        found.close()  # type: ignore[attr-defined]
        assert early._workers == []
    assert not any(runs(pid) for pid in pids)


def _one_is_killed(
    early: ShortTraining, networks: Sequence[Network], expected: Sequence[float], cache: AccuracyCache
) -> None:
    """Kill a process while it has a network, and see that the other one's value is kept."""
    victim = early._workers[0].process
    # It holds its network until the other process is done with the other one.
    victim.send_signal(signal.SIGSTOP)

    def progress(now: EvaluationProgress) -> None:
        if now.done == 1:
            victim.kill()

    with pytest.raises(
        SearchError, match=r"network 'net [46]' could not be evaluated: its process .*SIGKILL"
    ) as caught:
        Evaluator(early, cache=cache, progress=progress)(networks[:2])
    assert len(cache) == 1
    lost = 0 if "'net 4'" in str(caught.value) else 1
    assert cache.get(network_key(networks[1 - lost])) == expected[1 - lost]
    evaluator = Evaluator(early, cache=cache)
    assert evaluator(networks[:2]) == list(expected[:2])
    assert evaluator.evaluated == 1


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    status = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError):
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# It has no `if __name__ == "__main__"`.
ENDLESS = """\
import threading
from search._accuracy._evaluator import Evaluator
from search._accuracy._short_training import rcas_recipe
from search._accuracy._training_worker import EvaluationWorker
from test_accuracy import judge, tiny
early = judge(recipe=rcas_recipe(epochs=100_000, batch_size=20), at_once=2)
staff = early._staff(2)
begun = threading.Barrier(2, action=lambda: print("training", flush=True))
sent = EvaluationWorker._send
def send(worker, line):
    sent(worker, line)
    begun.wait()
EvaluationWorker._send = send
try:
    print(*(worker.process.pid for worker in staff), flush=True)
    Evaluator(early)([tiny(4), tiny(6), tiny(8)])
except KeyboardInterrupt:
    print("stopped", early._workers, flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(ENDLESS)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **PLACES},
        preexec_fn=in_the_foreground,
    ) as child:
        assert child.stdout is not None
        pids = [int(word) for word in child.stdout.readline().split()]
        assert len(pids) == 2
        # Both have their networks, and this process waits for their answers.
        assert child.stdout.readline() == "training\n"
        assert all(runs(pid) for pid in pids)
        child.send_signal(number)
        out, err = child.communicate(timeout=HANGS_S)
    assert child.returncode == (0 if number == signal.SIGINT else -number)
    assert (out, err) == ("stopped []\n" if number == signal.SIGINT else "", "")
    wait_until(lambda: not any(runs(pid) for pid in pids))

"""Whatever a user's network does, it does it in a process of its own: the command says what happened and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from conftest import HANGS_S, wait_until
from test_cli import QUICK, command

from lut import LatencyTable, UsageError
from lut.errors import LatencyLutError, ProfileError
from profiler import _child, profile
from profiler._child import Refused, ending, refusal, run_task
from profiler._model import parse_model
from profiler._sources import FactorySource, Subject
from profiler._user_network import TraceAnswer, TraceRequest, torch_network
from profiler._workload import Workload

pytestmark = pytest.mark.usefixtures("short_preflight")

MODEL = """
import ctypes, os, sys, time
import torch
from torch import nn

with open(os.environ["IMPORTED_BY"], "a") as file:
    file.write(f"{os.getpid()} ")


class Net(nn.Module):
    '''Runs once, when it is traced's example; after that it does something else.'''

    def __init__(self, then):
        super().__init__()
        self.conv, self.then, self.calls = nn.Conv2d(3, 4, 3), then, 0

    def forward(self, x):
        if not torch.compiler.is_compiling():
            self.calls += 1
            if self.calls > 1:
                self.then()
        return self.conv(x).relu()


def fails():
    raise RuntimeError("no weights \\x1b[31m here")


def raises_later(): return Net(fails)
def exits_later(): return Net(lambda: sys.exit(0))
def leaves_later(): return Net(lambda: os._exit(0))
def crashes_later(): return Net(lambda: ctypes.string_at(0))
def hangs_later(): return Net(lambda: time.sleep(1000))
def leaves(): os._exit(0)
def crashes(): ctypes.string_at(0)
def is_ended(): os.kill(os.getpid(), 40)
def hangs(): time.sleep(1000)


def fails_in_half_characters():
    raise ValueError("half a character: \\udcff")


def works(): return Net(lambda: None)


def prints_and_raises_later():
    print("{'not': json}")
    return Net(fails)


def leaves_a_process_behind():
    child = os.fork()
    if child == 0:
        time.sleep(1000)
    with open("left-behind", "w") as file:
        file.write(str(child))
    return Net(lambda: None)
"""
# By itself: PyTorch imports its compiler for an operator that is written in Python, for seconds.
CUBES = """
import torch
from torch import nn


@torch.library.custom_op("latency_lut_example::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return x * x * x


@cube.register_fake
def _(x):
    return torch.empty_like(x)


class Cubes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return torch.ops.latency_lut_example.cube(self.conv(x)).relu()


def custom(): return Cubes()
"""


SHAPE = ("--input", "1x3x8x8")
# What each does when it is run again, and how that is told.
LATER = {
    "raises_later": "no weights",
    "exits_later": "SystemExit: 0",
    "leaves_later": "the measuring process ended with exit code 0",
    "crashes_later": "the measuring process was ended by SIGSEGV",
}


def _runs(process: str) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my.py").write_text(MODEL)
    (tmp_path / "cubes.py").write_text(CUBES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPORTED_BY", str(tmp_path / "imported-by"))
    return tmp_path


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        ("leaves", "ended with exit code 0 before it answered"),
        ("crashes", "was ended by SIGSEGV before it answered"),
        ("is_ended", "was ended by signal 40 before it answered"),
    ],
)
def test_a_factory_that_ends_its_process_is_one_line(folder: Path, factory: str, why: str) -> None:
    with pytest.raises(ProfileError) as error:
        torch_network(parse_model(f"my.py:{factory}", "1x3x8x8", 0), as_whole=True)
    assert str(error.value) == f"--model my.py:{factory}: the process that loaded it {why}"
    # Nothing of the user's file ran in this process.
    assert str(os.getpid()) not in (folder / "imported-by").read_text().split()


def test_a_factory_that_hangs_is_ended(folder: Path) -> None:
    spec = parse_model("my.py:hangs", "1x3x8x8", 0)
    request = TraceRequest("hangs", model=spec)
    with pytest.raises(ProfileError, match=r"gave no answer within 0.5 s$"):
        run_task("profiler._user_network", request, TraceAnswer, what="--model my.py:hangs", limit_s=0.5)


def test_what_a_factory_leaves_behind_is_not_waited_for(folder: Path) -> None:
    found = torch_network(parse_model("my.py:leaves_a_process_behind", "1x3x8x8", 0), as_whole=True)
    assert found.batch == 1
    assert len(found.subject.network.layers) == 1
    # And it is gone: nothing of the user's goes on where nobody knows of it.
    left = (folder / "left-behind").read_text()
    wait_until(lambda: not _runs(left))


def test_a_network_that_cannot_be_measured_is_exit_code_3(folder: Path) -> None:
    words = ("--model", "my.py:prints_and_raises_later", *SHAPE, *QUICK, "--output", "t.json", "--json")
    done = command(folder, "profile-device", *words, code=3)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("incomplete: ")
    assert "not measured end to end: my.py:prints_and_raises_later" in last
    assert LATER["raises_later"] in last
    assert "\x1b" not in done.stdout + done.stderr
    table = LatencyTable.load(folder / "t.json")
    assert len(table) == 1
    assert table.networks[0].end_to_end is None
    assert LATER["raises_later"] in (table.networks[0].reason or "")
    # What its factory prints is not in what is printed as JSON.
    assert [network["name"] for network in msgspec.json.decode(done.stdout)["networks"]] == [table.networks[0].name]
    assert "{'not': json}" in done.stderr


def test_whatever_a_network_does_later_costs_itself_only(folder: Path) -> None:
    specs = [parse_model(f"my.py:{name}", "1x3x8x8", 0) for name in ("works", *LATER)]
    subject = torch_network(specs[0], as_whole=True).subject
    # All have the same layers.
    subjects = [
        Subject(msgspec.structs.replace(subject.network, name=str(spec)), FactorySource(str(spec), spec))
        for spec in specs
    ]
    work = Workload((), (), tuple(subjects))
    table = profile(work, threads=1, batch=1, quick=True, precision=0.5, time_budget_s=HANGS_S)
    assert len(table) == 1
    works, *others = table.networks
    assert works.end_to_end is not None
    for network, why in zip(others, LATER.values(), strict=True):
        assert network.end_to_end is None
        assert why in (network.reason or "")


def test_an_operator_of_the_users_own_is_measured(folder: Path) -> None:
    command(
        folder,
        "profile-device",
        *("--model", "cubes.py:custom", *SHAPE, *QUICK, "--output", "t.json"),
    )
    table = LatencyTable.load(folder / "t.json")
    assert any("cube" in str(layer) for layer in table)
    assert table.networks[0].end_to_end is not None
    # The same layers without the file that has the operator: one line for that layer, and it stays that layer's.
    again = profile(list(table), threads=1, batch=1, quick=True, precision=0.5)
    (failure,) = again.failures
    assert "latency_lut_example.cube.default is not of PyTorch's own" in failure.message
    assert "cube" in str(failure.layer)
    assert set(again) == set(table) - {failure.layer}


def test_errors_keep_their_class_and_unknown_ones_are_the_profilers() -> None:
    assert isinstance(refusal(Refused("UsageError", "x")), UsageError)
    for name in ("SystemExit", "no such", "annotations", "LatencyLutError.__init__", "UserWarning"):
        assert type(refusal(Refused(name, "x"))) is ProfileError
    assert isinstance(refusal(Refused("LatencyLutError", "x")), LatencyLutError)


def test_a_name_that_is_no_text_is_one_line(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.py")
    (folder / name).write_text(MODEL)
    with pytest.raises(UsageError, match="its name is not UTF-8"):
        torch_network(parse_model(f"{name}:works", "1x3x8x8", 0), as_whole=True)


def test_a_reason_that_is_no_text_is_told(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"the factory failed: ValueError: half a character: \\udcff"):
        torch_network(parse_model("my.py:fails_in_half_characters", "1x3x8x8", 0), as_whole=True)


def test_every_ending_has_words() -> None:
    assert ending(None) == "gave no sign of life"
    assert ending(3) == "ended with exit code 3"
    assert ending(-signal.SIGKILL) == "was ended by SIGKILL"
    assert ending(-40) == "was ended by signal 40"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setattr(_child, "boot_script", lambda _: "import os, sys; exec(os.environ['ANSWER'])")
    return monkeypatch


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("os.write(int(sys.argv[2]), b'\\xff' * 8)", "answers with more than 256 MiB"),
        ("os.write(int(sys.argv[2]), (4).to_bytes(8, 'little') + b'{[}]')", "no answer of ours"),
        ("os.write(int(sys.argv[2]), (9).to_bytes(8, 'little') + b'{}')", "ended with exit code 0"),
        ("os.write(int(sys.argv[2]), (13).to_bytes(8, 'little') + b'{\"answer\":12}')", "no answer of ours"),
    ],
)
def test_an_answer_that_is_none_is_one_line(answering: pytest.MonkeyPatch, answer: str, why: str) -> None:
    answering.setenv("ANSWER", answer)
    with pytest.raises(ProfileError, match=why):
        run_task("profiler._user_network", TraceRequest("x"), TraceAnswer, what="--model x")


def test_a_child_ends_with_its_parent(folder: Path) -> None:
    script = (
        "from profiler._model import parse_model; from profiler._user_network import torch_network\n"
        "torch_network(parse_model('my.py:hangs', '1x3x8x8', 0), as_whole=True)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    imported = folder / "imported-by"
    wait_until(lambda: imported.exists() and imported.read_text().endswith(" "), parent)
    child = int(imported.read_text())
    parent.kill()
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{child}").exists())

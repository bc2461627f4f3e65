"""The measuring process: crashes, hangs and kills cost one layer or one visit, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import HANGS_S, conv, curve_of, in_the_foreground, wait_until

from lut import LatencyTable, UsageError
from lut._lines import DamagedLineError, seal, unsealed
from lut.errors import DeviceBusyError, JournalError, ProfileError, TargetUnavailableError
from profiler import TargetSpec, _worker, profile
from profiler._journal import Journal, journal_path
from profiler._lock import device_lock
from profiler._target import load_target, target_spec
from profiler._worker import ChildWorker

FAKE = "profiler._fake:FakeTarget"
LAYERS = curve_of(range(1, 9)).layers


def run(tmp_path: Path, *, misbehave: dict[str, str] | None = None, **arguments: Any) -> LatencyTable:
    spec = TargetSpec(FAKE, {"misbehave": misbehave or {}, "sigma": 0.01})
    return profile(
        arguments.pop("layers", LAYERS),
        target=spec,
        output=tmp_path / "t.json",
        reference=tmp_path / "references.json",
        time_budget_s=arguments.pop("time_budget_s", 60.0),
        **arguments,
    )


def test_a_child_measures(tmp_path: Path) -> None:
    table = run(tmp_path)
    assert len(table) == 8
    assert LatencyTable.load(tmp_path / "t.json").to_json() == table.to_json()
    assert not journal_path(tmp_path / "t.json").exists()


@pytest.mark.parametrize(
    ("misbehaviour", "reason", "message"),
    [("raise", "error", "made to fail"), ("memory", "out_of_memory", "exhaust"), ("exit", "crashed", "exit code 9")],
)
def test_a_bad_layer_costs_itself_only(tmp_path: Path, misbehaviour: str, reason: str, message: str) -> None:
    table = run(tmp_path, misbehave={LAYERS[3].digest: misbehaviour})
    assert len(table) == 7
    (failure,) = table.failures
    assert (failure.layer, failure.reason) == (LAYERS[3], reason)
    assert message in failure.message


def test_a_hanging_layer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No layer that answers comes near the limit, on however slow a machine. The profiler's clock leaps over it whenever
    # it sees its process at the first layer, which never answers.
    leapt, current = [0.0], ChildWorker._current

    def seen(worker: ChildWorker) -> int:
        entry = current(worker)
        leapt[0] += 2 * HANGS_S if entry == 0 else 0.0
        return entry

    monkeypatch.setattr(ChildWorker, "_current", seen)
    monkeypatch.setattr(_worker, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + leapt[0]))
    table = run(tmp_path, misbehave={LAYERS[0].digest: "hang"}, layer_limit_s=HANGS_S, time_budget_s=HANGS_S)
    assert len(table) == 7
    assert [(f.layer, f.reason) for f in table.failures] == [(LAYERS[0], "timeout")]
    assert "gave no answer within 300 s" in table.failures[0].message


def test_several_bad_layers(tmp_path: Path) -> None:
    bad = {LAYERS[1].digest: "exit", LAYERS[2].digest: "raise", LAYERS[6].digest: "exit"}
    table = run(tmp_path, misbehave=bad)
    assert {f.layer for f in table.failures} == {LAYERS[1], LAYERS[2], LAYERS[6]}
    assert len(table) == 5


SLOW = """
import sys
from pathlib import Path
from conftest import curve_of
from profiler import TargetSpec, profile
folder = Path(sys.argv[1])
profile(curve_of(range(1, 25)).layers, target=TargetSpec("slow_target:SlowFake", {}), output=folder / "t.json",
        reference=folder / "references.json", precision=0.03, quick=True)
"""
SLOW_TARGET = """
import time
from typing import Any
from profiler import FakeTarget, Target
class SlowFake(Target):
    def __init__(self) -> None:
        self.inner = FakeTarget(sigma=0.05)
    def describe(self) -> Any:
        return self.inner.describe()
    def prepare(self, layer: Any, seed: int) -> Any:
        return self.inner.prepare(layer, seed)
    def relocate(self, prepared: Any, rng: Any) -> None:
        time.sleep(0.002)
        self.inner.relocate(prepared, rng)
    def run(self, prepared: Any, calls: int) -> int:
        return self.inner.run(prepared, calls)
"""


def start_slow(folder: Path) -> subprocess.Popen[str]:
    (folder / "slow_target.py").write_text(SLOW_TARGET)
    path = os.pathsep.join([str(folder), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(folder)],
        env={**os.environ, "PYTHONPATH": path, "LATENCY_LUT_LOCKS": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=in_the_foreground,
    )


def wait_for_visits(journal: Path, count: int, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n[") >= count, process)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_kill_9_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    journal = journal_path(tmp_path / "t.json")
    for kills in range(1, 4):
        process = start_slow(tmp_path)
        wait_for_visits(journal, 100 * kills, process)
        (worker,) = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        # The measuring process ends with the profiler, so that nothing goes on writing.
        wait_until(lambda pid=worker: not Path(f"/proc/{pid}").exists())
    # A kill in the middle of a line: the half line is dropped.
    with journal.open("ab") as stream:
        stream.write(b"[3,1,0.5,")
    before = [line for line in journal.read_bytes().split(b"\n") if line.startswith(b"[")][:-1]
    process = start_slow(tmp_path)
    assert process.stderr is not None
    assert process.wait(timeout=HANGS_S) == 0, process.stderr.read()
    process.stderr.close()
    table = LatencyTable.load(tmp_path / "t.json")
    assert len(table) == 24
    assert table.sessions[0].resumed == 3
    visits = [
        (layer.digest, process, at)
        for layer, m in table.items()
        for process, at in zip(m.visits.process, m.visits.at_s, strict=True)
    ]
    assert len(visits) == len(set(visits))
    entries = dict(enumerate(curve_of(range(1, 25)).layers))
    lines = [json.loads(line.rpartition(b"\t")[0]) for line in before]
    kept = {(entries[v[0]].digest, v[1], round(v[2], 3)) for v in lines if v[0] >= 0}
    assert kept <= set(visits)
    assert not journal.exists()


def test_a_resumed_run_needs_the_same_plan(tmp_path: Path) -> None:
    process = start_slow(tmp_path)
    wait_for_visits(journal_path(tmp_path / "t.json"), 10, process)
    (worker,) = children_of(process.pid)
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    wait_until(lambda: not Path(f"/proc/{worker}").exists())
    with pytest.raises(JournalError, match=r"other options or layers.*--restart"):
        run(tmp_path)
    assert len(run(tmp_path, restart=True)) == 8


def test_ctrl_c_keeps_the_visits_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = start_slow(tmp_path)
    journal = journal_path(tmp_path / "t.json")
    wait_for_visits(journal, 30, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANGS_S)
    assert "InterruptedRunError" in errors
    assert "visits are kept" in errors
    assert "run the same command again" in errors
    assert journal.exists()


def test_a_finished_table_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    run(tmp_path)
    content = (tmp_path / "t.json").read_bytes()
    with pytest.raises(UsageError, match=r"exists already; restart=True \(--restart\) measures again"):
        run(tmp_path)
    assert (tmp_path / "t.json").read_bytes() == content
    run(tmp_path, restart=True)


def test_a_second_profile_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    script = "from profiler._lock import device_lock\nfrom pathlib import Path\n"
    script += f"with device_lock('machine', folder=Path({str(tmp_path)!r})): pass"
    with device_lock("machine", folder=tmp_path):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert DeviceBusyError.__name__ in done.stderr
    assert f"(process {os.getpid()})" in done.stderr
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_a_stale_lock_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "latency-lut-machine.lock").write_text("999999\n")
    with device_lock("machine", folder=tmp_path):
        assert (tmp_path / "latency-lut-machine.lock").read_text() == f"{os.getpid()}\n"


def test_a_damaged_journal_is_one_clear_line(tmp_path: Path) -> None:
    path = journal_path(tmp_path / "t.json")
    path.write_bytes(b"garbage\nmore\n")
    with pytest.raises(JournalError, match=r"t.json.journal: not a journal of ours; start afresh: restart=True"):
        run(tmp_path)
    # What a kill left of the very first line.
    path.write_bytes(b'{"type":"header","format":"laten')
    assert len(run(tmp_path)) == 8


def _journal_of(tmp_path: Path) -> tuple[Path, bytes]:
    """Return the journal of a run that was killed."""
    process = start_slow(tmp_path)
    path = journal_path(tmp_path / "t.json")
    wait_for_visits(path, 10, process)
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    return path, path.read_bytes().rpartition(b"\n")[0] + b"\n"


def _go_on(tmp_path: Path) -> LatencyTable:
    """Take up the run of ``start_slow`` in this process."""
    return profile(
        curve_of(range(1, 25)).layers,
        target=TargetSpec("slow_target:SlowFake", {}),
        output=tmp_path / "t.json",
        reference=tmp_path / "references.json",
        precision=0.03,
        quick=True,
    )


def test_a_journal_is_believed_only_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path, content = _journal_of(tmp_path)
    lines = content.splitlines(keepends=True)
    header = lines[0].rpartition(b"\t")[0]
    wild = b"[-9223372036854775808,0,0.5,0.1,null,false,0.0,3,{},false]"
    beyond = b"[99,0,0.5,0.1,null,false,0.0,3,{},false]"
    overflowing = b"[0,0,0.5,1e308,null,false,0.0,3,{},false]"
    for written, why in (
        (content * 2, rf"line {len(lines) + 1}: its checksum is not that of what stands there"),
        (b"".join([*lines[:5], lines[4], *lines[5:]]), r"line 6: its checksum"),
        (b"".join([*lines[:3], *lines[4:]]), r"line 4: its checksum"),
        (content.replace(b",", b";", 20), r"line 1: its checksum|not a journal of ours"),
        (content + wild + b"\n", rf"line {len(lines) + 1}: it has no checksum"),
        (content + seal(wild, len(content)), rf"line {len(lines) + 1}: not a line of a journal .*>= -1000"),
        (content + seal(overflowing, len(content)), rf"line {len(lines) + 1}: not a line of a journal .*<= 1000000000"),
        (content + seal(beyond, len(content)), r"holds layers that this run does not have"),
        (seal(header.replace(b'"version":2', b'"version":1'), 0), r"version 1 of the journal is not this release's, 2"),
        (seal(header.replace(b'"version":2', b'"version":3'), 0), r"version 3 of the journal is not this release's, 2"),
    ):
        path.write_bytes(written)
        with pytest.raises(JournalError, match=why) as error:
            _go_on(tmp_path)
        assert str(error.value).count("\n") == 0
        assert "--restart" in str(error.value)


@pytest.mark.parametrize("content", [b"line one\nwithout an end", b"without any end", b"{}\n"])
def test_nothing_is_cut_off_or_added_where_another_file_lies(tmp_path: Path, content: bytes) -> None:
    path = journal_path(tmp_path / "t.json")
    path.write_bytes(content)
    with pytest.raises(JournalError, match="not a journal of ours; start afresh: restart=True"):
        run(tmp_path)
    assert path.read_bytes() == content


def test_a_link_that_lies_where_the_journal_goes_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    journal_path(tmp_path / "t.json").symlink_to(tmp_path / "victim")
    with pytest.raises(JournalError, match="is a link"):
        run(tmp_path)
    journal_path(tmp_path / "t.json").unlink()
    os.link(tmp_path / "victim", journal_path(tmp_path / "t.json"))
    with pytest.raises(JournalError, match="no regular file of its own"):
        run(tmp_path)
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_a_journal_of_nothing_but_line_breaks_costs_no_memory() -> None:
    content = seal(b'{"type":"header"}', 0) + b"\n" * (8 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedLineError):
            list(unsealed(content))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_pipe_that_lies_where_the_journal_goes_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(journal_path(tmp_path / "t.json"))
    with pytest.raises(JournalError, match="is no regular file"):
        run(tmp_path)


def test_an_unwritable_folder_is_said_before_measuring(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="create the folder"):
        profile(LAYERS, target=TargetSpec(FAKE, {}), output=tmp_path / "no" / "t.json")


def test_no_layers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        run(tmp_path, layers=[])


def test_a_target_that_cannot_run_here_says_why(tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there\n")
    sys.path.append(str(tmp_path))
    try:
        with pytest.raises(TargetUnavailableError, match="pip install a_package_that_is_not_there"):
            load_target(TargetSpec("needy:Target", {}))
    finally:
        sys.path.remove(str(tmp_path))


def test_an_unavailable_target_in_the_child_is_told(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailableError, match="no_such_module"):
        profile(LAYERS, target=TargetSpec("no_such_module:T", {}), output=tmp_path / "t.json")


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown target 'abacus'; installed: .*cpu"):
        target_spec("abacus", ())


def test_a_child_that_cannot_begin_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="before it began"):
        profile(LAYERS, target=TargetSpec(FAKE, {"seed": []}), output=tmp_path / "t.json")


def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
        "from pathlib import Path; from conftest import curve_of; from profiler import TargetSpec, profile;"
        f"folder = Path({str(tmp_path)!r});"
        f"profile(curve_of(range(1, 9)).layers, target=TargetSpec({FAKE!r}, {{}}), output=folder / 't.json')"
    )
    path = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "LATENCY_LUT_LOCKS": str(tmp_path)},
    )
    assert "FileAccessError: cannot write" in done.stderr.splitlines()[-1]
    content = Journal(journal_path(tmp_path / "t.json")).read()
    assert len(content.visits) > 10
    assert len(profile(LAYERS, target=TargetSpec(FAKE, {}), output=tmp_path / "t.json")) == 8


def test_one_layer_only(tmp_path: Path) -> None:
    assert len(run(tmp_path, layers=[conv(8)])) == 1

"""What the tests share: simulated sessions, and tables made of them."""

# ruff: noqa: E402
from __future__ import annotations

import os

# Two workers of two threads each wait for one another at every small product; the processes that tests start inherit
# this too. What is about threads sets them. Read when the libraries are loaded, so this comes before any of them.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lut import ChannelCurve, LatencyTable, Layer, conv_norm_act
from profiler._assembly import assemble
from profiler._fake import FakeTarget
from profiler._journal import FORMAT, VERSION, Journal, JournalHeader
from profiler._plan import Plan, make_protocol
from profiler._session import SessionResult, run_session
from profiler._sources import Subject, record_of
from profiler._walk import Walk
from profiler._worker import LocalWorker

# Against hangs alone: nothing that goes well waits for it, on however slow a machine.
HANGS_S = 300.0


def in_the_foreground() -> None:
    """Let a process hear Ctrl-C as a terminal's would; one that a background job starts inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[Any] | None = None) -> None:
    """Wait for something that a process does; fail where it ends without, or nothing happens for very long."""
    until = time.monotonic() + HANGS_S
    while not happened():
        # Once more after its end: it may have done it just before.
        assert process is None or process.poll() is None or happened(), "the process ended without it"
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.01)


def conv(width: int, *, channels: int = 16, size: int = 32) -> Layer:
    """Return one layer of a curve."""
    return conv_norm_act(channels, width, kernel_size=3, stride=1, activation="relu", input_size=(size, size))


def curve_of(widths: Sequence[int], *, channels: int = 16, name: str = "stage 1") -> ChannelCurve:
    """Return a curve over widths."""
    return ChannelCurve(name, channels, tuple(conv(width, channels=channels) for width in widths))


def simulate(
    layers: Sequence[Layer],
    *,
    target: FakeTarget | None = None,
    protocol: dict[str, Any] | None = None,
    journal: Journal | None = None,
    networks: Sequence[Subject] = (),
    hosts: tuple[Walk, ...] = (),
    as_one: bool = False,
    **options: Any,
) -> tuple[Plan, SessionResult, FakeTarget]:
    """Run a session on the fake clock and return what came of it."""
    changed = dict(protocol or {})
    made = make_protocol(
        # What tests say of values to some per cent is to hold by more than luck.
        precision=changed.pop("precision", 0.01),
        time_budget_s=changed.pop("time_budget_s", 1000.0),
        seed=changed.pop("seed", 0),
    )
    wholes = tuple(subject.source for subject in networks if subject.source is not None)
    plan = Plan("fake", options, tuple(layers), msgspec.structs.replace(made, **changed), wholes, hosts=hosts)
    target = target or FakeTarget(**options)
    origin = target.clock()
    result = run_session(
        plan,
        lambda process: LocalWorker(
            target,
            plan.entries,
            plan.protocol,
            process=process,
            origin=origin,
            journal=journal,
            wholes=wholes,
            hosts=hosts,
        ),
        journal,
        as_one=as_one,
        clock=target.clock,
    )
    return plan, result, target


def table_of(
    plan: Plan,
    result: SessionResult,
    reference: Path,
    curves: Sequence[ChannelCurve] = (),
    networks: Sequence[Subject] = (),
) -> LatencyTable:
    """Return the table of a simulated session."""
    header = JournalHeader(FORMAT, VERSION, plan.digest, "2026-01-01T00:00:00Z", 0.0)
    return assemble(plan, result, header, curves, [record_of(subject) for subject in networks], reference)


def onnx_session(path: Path) -> Any:
    """Return an ONNX Runtime session of a file, whatever pool of threads other tests made this process share."""
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: the extra onnx")
    from profiler._onnx._target import has_shared_pool

    options = runtime.SessionOptions()
    if has_shared_pool():
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test its own lock and its own reference speeds, whatever else runs on this machine."""
    folder = tmp_path / ".own"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("LATENCY_LUT_LOCKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Have PyTorch compute on one thread: two tests at a time on two threads each wait for one another."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sessions of this process visit a third as often for the noise floor, where nobody asks how low it is."""
    monkeypatch.setattr("profiler._session.A_A_VISITS", 7)


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., LatencyTable]:
    """Return a function that simulates a table of a curve of widths."""

    def make(widths: Sequence[int] = tuple(range(1, 33)), **options: Any) -> LatencyTable:
        protocol = options.pop("protocol", None)
        reference = options.pop("reference", tmp_path / "references.json")
        curve = curve_of(widths)
        plan, result, _ = simulate(curve.layers, protocol=protocol, **options)
        return table_of(plan, result, reference, [curve])

    return make

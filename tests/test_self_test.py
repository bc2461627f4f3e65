"""The self-test: what it finds on a machine, what is kept of it, and what later sessions make of that."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from _commands import run_here

from lut import UsageError
from lut._console import make_console
from lut.errors import AdditivityError, IncompleteError, InterruptedRunError
from profiler import FakeTarget, _self_test, _tested, load_space, profile
from profiler._cli import _self_test as cli
from profiler._contexts import ANY_KIND, UNTOLD, Offset, as_parameters, chain_offsets, offsets_of
from profiler._judge import judge
from profiler._machine import cpu_device
from profiler._plan import make_protocol
from profiler._reference import reference_path
from profiler._self_test import networks_of, run_self_test
from profiler._tested import SelfTest, SumCheck, asked_for, kept_self_test, self_test_path, was_tested
from profiler._visit import Visit
from profiler._worker import Ready

KINDS = {
    ANY_KIND: Offset(0.02, 0.0004, 0.00001),
    "dense convolution": Offset(0.05, 0.0009, 0.0001),
}


def made(**changed: object) -> SelfTest:
    found = SelfTest(
        taken_at="2026-01-01T00:00:00Z",
        device="a CPU",
        identity=("a CPU", "2 cores"),
        instructions="AVX2",
        setting="cpu, batch 4",
        software="torch 2",
        asked=asked_for("cpu", {}),
        sums=(SumCheck("one", 1.01, 1.0), SumCheck("two", 0.97, 1.0)),
        visit_noise=0.06,
        visits_per_s=100.0,
        drift=0.1,
        chains=KINDS,
        chain_length=24,
        seconds=36.0,
    )
    return msgspec.structs.replace(found, **changed)


def test_figures_that_follow() -> None:
    found = made()
    assert found.bias == pytest.approx(-0.01)
    assert found.worst == pytest.approx(-0.03)
    assert found.verdict == "hold"
    assert found.half_width(100, 36.0) == pytest.approx(1.96 * 0.06 / 6, rel=1e-3)
    assert made(sums=()).verdict == "cannot be told"
    # One is further off than any may be, though they cancel out; as far as noise allows to tell.
    assert made(sums=(SumCheck("one", 1.2, 1.0), SumCheck("two", 0.8, 1.0))).verdict == "do not hold"
    assert made(sums=(SumCheck("one", 1.2, 1.0, 0.08), SumCheck("two", 0.8, 1.0, 0.08))).verdict == "cannot be told"
    assert made(sums=(SumCheck("one", 1.09, 1.0, 0.01), SumCheck("two", 1.08, 1.0, 0.01))).verdict == "do not hold"
    noisy = made(sums=(SumCheck("one", 1.09, 1.0, 0.04), SumCheck("two", 1.08, 1.0, 0.03)))
    assert noisy.bias_error == pytest.approx(0.025)
    # What is not known of chains is the same for all networks, and no number of them makes it less.
    shared = made(sums=tuple(SumCheck(str(i), 1.09, 1.0, 0.01, 0.03) for i in range(100)))
    assert shared.bias_error == pytest.approx(0.03, abs=1e-3)
    assert shared.verdict == "cannot be told"
    assert noisy.verdict == "cannot be told"


def test_what_chains_make_of_a_kind_survives_a_table() -> None:
    assert offsets_of({"states": 1.0, **as_parameters(KINDS)}) == KINDS


def test_sessions_without_networks_know_from_it() -> None:
    nothing = np.full(3, np.nan)
    levels = np.zeros(3)
    kinds = ["dense convolution", "linear", "dense convolution"]
    alone = chain_offsets(levels, nothing, levels + 0.01, nothing, kinds)
    assert not alone.offsets.any()
    # Nothing known is not nothing unknown.
    assert alone.unknown.tolist() == pytest.approx([2 * UNTOLD**2] * 3)
    told = chain_offsets(levels, nothing, levels + 0.01, nothing, kinds, KINDS)
    assert told.offsets.tolist() == [0.05, 0.02, 0.05]
    assert told.unknown.tolist() == pytest.approx([0.001, 0.00041, 0.001])


def visits(chained: bool) -> list[Visit]:
    rng = random.Random(0)
    return [
        Visit(
            entry, 0, t + entry / 10, 1.05 * rng.gauss(1.0, 0.01), None, late=False, faults=0, calls=1, chained=chained
        )
        for t in range(12)
        for entry in (-1, 0, 1)
    ]


def test_a_judgement_takes_it_off_and_the_interval_across_runs_knows_what_is_left() -> None:
    kinds = {0: "dense convolution", 1: "dense convolution"}
    references = {-1: 1.05}
    plain = judge(visits(True), make_protocol(), references=references, kinds=kinds)
    told = judge(visits(True), make_protocol(), references=references, kinds=kinds, offsets=KINDS)
    assert plain.layers[0].median_ms == pytest.approx(1.05, rel=0.01)
    assert told.layers[0].median_ms == pytest.approx(plain.layers[0].median_ms / np.exp(0.05), rel=1e-3)
    assert told.spread.context == pytest.approx(0.0316, rel=0.01)
    assert plain.spread.context > told.spread.context

    def reach(found: float, most: float) -> float:
        return float(np.log(most / found))

    told_layer, blind = (j.layers[0] for j in (told, plain))
    assert reach(told_layer.median_ms, told_layer.across_runs.high_ms) < reach(
        blind.median_ms, blind.across_runs.high_ms
    )
    # The interval of layers that stood in networks is narrower yet.
    # In networks, or alone, nothing is to be taken off.
    placed = judge(visits(False), make_protocol(), references=references, kinds=kinds, offsets=KINDS)
    assert placed.layers[0].median_ms == plain.layers[0].median_ms
    assert placed.chains == {}
    seen = placed.layers[0]
    assert reach(seen.median_ms, seen.across_runs.high_ms) < reach(told_layer.median_ms, told_layer.across_runs.high_ms)


@pytest.fixture
def kept(tmp_path: Path) -> tuple[SelfTest, Path]:
    reference = tmp_path / "cache" / "references.json"
    networks = networks_of(0, load_space)[:4]
    for seconds in (6.0, 12.0, 24.0):
        found = run_self_test("cpu", {"threads": 1, "batch": 1}, networks, reference=reference, seconds=seconds)
        # A loaded machine may need longer for the visits that tell chains from networks.
        if {"dense convolution", "depthwise convolution"} <= set(found.chains):
            break
    return found, reference


def test_it_measures_judges_and_keeps(kept: tuple[SelfTest, Path]) -> None:
    found, reference = kept
    # The first two were gone along; the other two gave no layer its value.
    assert [check.network for check in found.sums] == ["resnet-cifar 2", "nas-bench-macro 2"]
    assert all(check.sum_ms > 0 and check.whole_ms > 0 and check.uncertainty > 0 for check in found.sums)
    assert found.visit_noise > 0
    assert found.visits_per_s > 10
    assert found.chain_length >= 24
    assert found.seconds < 60
    assert {"dense convolution", "depthwise convolution", ANY_KIND} <= set(found.chains)
    path = self_test_path(reference)
    here = cpu_device()
    assert was_tested(path, here, "cpu", {"threads": 1, "batch": 4}, found.software)
    # An installed package's version may lack the build's name that the loaded one has.
    assert was_tested(path, here, "cpu", {"threads": 1}, found.software.partition("+")[0])
    assert not was_tested(path, here, "cpu", {"threads": 2}, found.software)
    assert not was_tested(path, here, "cpu", {"threads": 1, "compile": True}, found.software)
    assert not was_tested(path, here, "cpu", {"threads": 1}, "torch 1.0")
    other = msgspec.structs.replace(here, model="another CPU")
    assert not was_tested(path, other, "cpu", {"threads": 1}, found.software)

    layers = load_space("resnet-cifar").layers()[:3]
    table = profile(layers, target="cpu", batch=2, threads=1, time_budget_s=1.0, reference=reference)
    session = table.sessions[0]
    assert kept_self_test(path, table.device, table.setting, session.software) == found
    assert offsets_of(session.correction.parameters).keys() == found.chains.keys()
    assert session.spread.context > 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "other", "tests": {}}', b"\xff\xfe"])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "self-tests.json"
    path.write_bytes(content)
    assert not was_tested(path, cpu_device(), "cpu", {}, "torch 2")


def test_which_run_tests_the_machine_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.is_first_profile("cpu", {}, 112.0)
    assert cli.is_first_profile("cpu", {}, None)
    assert not cli.is_first_profile("cpu", {}, 24.0)
    assert not cli.is_first_profile("cpu", {"context": "isolated"}, 112.0)
    assert not cli.is_first_profile("cpu", {"compile": True}, 112.0)
    assert not cli.is_first_profile("onnx", {}, 112.0)
    monkeypatch.setattr("profiler._tested.was_tested", lambda *_: True)
    assert not cli.is_first_profile("cpu", {}, 112.0)


def printed(found: SelfTest, capsys: pytest.CaptureFixture[str]) -> str:
    cli.print_self_test(make_console(), found, json=False)
    return " ".join(capsys.readouterr().out.split())


def test_the_result_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(made(), capsys)
    assert (
        "sums hold: of 2 networks that gave no layer its value, sums of layers are off by -1.0% (±0.0%) on average"
        in text
    )
    assert "564 layers, 112 s give ±2.6%" in text
    assert "dense convolution +5.1%" in text
    assert "moved by 10.0%" in text
    assert "sums do not hold here" in printed(made(sums=(SumCheck("one", 1.5, 1.0),)), capsys)
    noisy = made(sums=(SumCheck("one", 1.09, 1.0, 0.04),))
    assert "too restless" in printed(noisy, capsys)
    assert "not one of the networks" in printed(made(sums=()), capsys)
    assert "settings" not in printed(made(chain_length=0), capsys)


def test_what_does_not_hold_is_an_error() -> None:
    cli.refuse_unless_held(made())
    cli.refuse_unless_held(made(sums=(SumCheck("one", 1.09, 1.0, 0.04),)))
    with pytest.raises(AdditivityError, match=r"\+50.0% on average, \+50.0% at worst"):
        cli.refuse_unless_held(made(sums=(SumCheck("one", 1.5, 1.0),)))
    with pytest.raises(IncompleteError, match="not one"):
        cli.refuse_unless_held(made(sums=()))


def test_core_ml_has_none() -> None:
    with pytest.raises(UsageError, match="Core ML"):
        cli.test_this_machine("coreml", {}, seed=0, console=make_console())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_self_test, "NETWORKS_PER_SPACE", 2)
    monkeypatch.setattr("profiler._cli._self_test.SELF_TEST_S", 3.0)
    arguments = ("profile-device", "--self-test", "--threads", "1", "--batch", "1", "--when-busy", "measure")
    done = run_here(tmp_path, *arguments, code=None)
    assert done.returncode in (0, 3), done.stderr + done.stdout
    assert "networks that gave no layer its value" in " ".join(done.stdout.split())
    assert not list(tmp_path.glob("*.json"))
    assert self_test_path(reference_path()).exists()
    done = run_here(tmp_path, *arguments, "--json", code=None)
    value = json.loads(done.stdout)
    assert done.returncode == (3 if value["verdict"] == "do not hold" else 0), done.stderr
    assert {"sums", "bias", "bias_error", "worst", "verdict", "visit_noise", "half_width", "chains"} <= set(value)


def test_what_is_asked_when_busy_is_checked(tmp_path: Path) -> None:
    done = run_here(tmp_path, "profile-device", "--when-busy", "never", "--quick", code=2)
    assert "--when-busy is fit, wait, stop or measure" in " ".join((done.stdout + done.stderr).split())


def test_figures_that_no_machine_can_have_are_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "self-tests.json"
    for bad in (
        {"chains": {ANY_KIND: Offset(900.0, 0.1, 0.1)}},
        {"chains": {ANY_KIND: Offset(0.1, -0.1, 0.1)}},
        {"visit_noise": -1.0},
        {"sums": (SumCheck("one", 0.0, 1.0),)},
    ):
        assert not made(**bad).is_possible
        content = {"format": "latency-lut-self-tests-1", "tests": {"0": made(**bad), "1": made()}}
        path.write_bytes(msgspec.json.encode(content))
        assert len(_tested._load(path).tests) == 1


def test_a_test_that_failed_gives_no_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from profiler import _run

    found = made()
    monkeypatch.setattr(_run, "kept_self_test", lambda *_: found)
    ready = Ready(*FakeTarget().describe(), timer_resolution_ns=1.0, timer_overhead_ns=1.0)
    assert _run._offsets_on(ready, tmp_path / "references.json") == KINDS
    found = made(sums=(SumCheck("one", 1.5, 1.0),))
    assert _run._offsets_on(ready, tmp_path / "references.json") == {}


def test_what_the_self_test_would_ignore_is_refused(tmp_path: Path) -> None:
    done = run_here(tmp_path, "profile-device", "--self-test", "--output", "x.json", "--quick", code=2)
    text = " ".join((done.stdout + done.stderr).split())
    assert "leave out --output, --quick" in text


def test_stopping_it_says_what_was_stopped() -> None:
    with pytest.raises(InterruptedRunError, match="the self-test was stopped"), cli._said_as_such():
        raise InterruptedRunError("nothing is kept, since no output was named")


def test_the_first_profile_tests_the_machine_and_the_second_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_self_test, "NETWORKS_PER_SPACE", 2)
    monkeypatch.setattr("profiler._cli._self_test.SELF_TEST_S", 2.0)
    monkeypatch.setattr("profiler._cli._self_test.WORTH_TESTING_S", 1.0)
    save_layers(tmp_path / "layers.json")
    shared = ("profile-device", "--layers", "layers.json", "--threads", "1", "--when-busy", "measure")
    first = run_here(tmp_path, *shared, "--time-budget", "2", "--output", "first.json", "--json")
    assert "The first profile on this machine" in " ".join(first.stderr.split())
    # Standard output holds one value: the result's.
    assert json.loads(first.stdout)["layers"] == 2
    second = run_here(tmp_path, *shared, "--time-budget", "2", "--output", "second.json")
    assert "first profile" not in second.stdout + second.stderr
    refused = run_here(tmp_path, *shared, "--time-budget", "2", "--output", "second.json", "--self-test", code=2)
    assert "leave out" in refused.stderr + refused.stdout
    # A table that is there already is refused before anybody waits.
    began = time.monotonic()
    run_here(tmp_path, *shared, "--time-budget", "100", "--output", "second.json", code=2)
    assert time.monotonic() - began < 20


def save_layers(path: Path) -> None:
    made = {"make": "residual_add", "activation": "relu", "input_size": [8, 8]}
    path.write_text(json.dumps([{**made, "channels": channels} for channels in (8, 16)]), encoding="utf-8")

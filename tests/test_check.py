"""Staleness: a table that still holds is believed, one that does not is named with its reason; chance is neither."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from _commands import run_here
from conftest import conv, simulate, table_of

from lut import LatencyTable, Layer, Network, NetworkLayer, TableError, UsageError, linear
from lut._measured_network import MeasuredNetwork
from lut._records import Setting, Software
from lut.errors import IncompleteError
from profiler import TargetSpec, profile
from profiler._check import (
    CheckResult,
    chance_outside,
    changes,
    check,
    choose,
    compare,
    rebuildable,
    record_like,
    spec_of,
)
from profiler._fake import FakeTarget

FAKE = "profiler._fake:FakeTarget"
LAYERS = tuple(conv(width) for width in range(8, 104, 8))
NETWORK = Network(
    "small", (NetworkLayer("a", conv(16), 2), NetworkLayer("b", conv(24)), NetworkLayer("c", conv(8, channels=24)))
)


def session(tmp_path: Path, name: str, layers: Sequence[Layer] = LAYERS, **options: Any) -> LatencyTable:
    """Return the table of a simulated session, at a reference speed of its own."""
    plan, result, _ = simulate(layers, protocol={"time_budget_s": 40.0, "seed": options.get("seed", 0)}, **options)
    return table_of(plan, result, tmp_path / f"{name}.json")


def altered(table: LatencyTable, layers: Sequence[Layer], factor: float) -> LatencyTable:
    """Return the table with layers that took ``factor`` times as long."""

    def scaled(interval: Any) -> Any:
        return msgspec.structs.replace(interval, low_ms=interval.low_ms * factor, high_ms=interval.high_ms * factor)

    measurements = [
        msgspec.structs.replace(
            m, median_ms=m.median_ms * factor, within_run=scaled(m.within_run), across_runs=scaled(m.across_runs)
        )
        if layer in layers
        else m
        for layer, m in table.items()
    ]
    return with_(table, measurements=measurements)


def with_(table: LatencyTable, **changed: Any) -> LatencyTable:
    fields = {
        "device": table.device,
        "setting": table.setting,
        "sessions": table.sessions,
        "measurements": table.values(),
        "networks": table.networks,
    }
    return LatencyTable(**{**fields, **changed})


@pytest.fixture
def table(tmp_path: Path) -> LatencyTable:
    return session(tmp_path, "first")


@pytest.fixture
def now(tmp_path: Path) -> LatencyTable:
    return session(tmp_path, "second", seed=1)


def test_the_same_truth_holds(table: LatencyTable, tmp_path: Path) -> None:
    for seed in range(1, 6):
        found = compare(table, session(tmp_path, f"{seed}", seed=seed), LAYERS)
        assert not found.stale, found.reasons
        assert not found.outside
        assert found.decided == len(LAYERS)
        assert found.changes == ()
        assert found.speed_ratio == pytest.approx(1.0, abs=0.03)
        assert found.common_ratio == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("factor", [1 / 1.3, 1.3])
def test_one_altered_layer_is_named(table: LatencyTable, now: LatencyTable, factor: float) -> None:
    found = compare(altered(table, LAYERS[4:5], factor), now, LAYERS)
    (outside,) = found.outside
    assert outside.layer == LAYERS[4]
    assert outside.verdict == ("faster" if factor > 1 else "slower")
    assert outside.ratio == pytest.approx(1 / factor, rel=0.03)
    assert not found.stale


@pytest.mark.parametrize("count", [4, 6, 8, 12])
def test_many_altered_layers_make_it_stale(table: LatencyTable, now: LatencyTable, count: int) -> None:
    found = compare(altered(table, LAYERS[:count], 1 / 1.3), now, LAYERS)
    assert found.stale
    assert [item.layer for item in found.outside] == list(LAYERS[:count])
    if count == len(LAYERS):
        assert found.apart == 0
        (reason,) = found.reasons
        assert "the layers together take 1.3" in reason
    elif count < len(LAYERS) / 2:
        (reason,) = found.reasons
        assert f"{count} of 12 layers lie outside" in reason


@pytest.mark.parametrize(("speed", "said"), [(1.3, False), (1.8, True), (1 / 1.8, True)])
def test_another_speed_is_taken_out_and_said(table: LatencyTable, tmp_path: Path, speed: float, said: bool) -> None:
    slow = session(tmp_path, "slow", seed=2, floor_ms=0.02 * speed, ms_per_gmadd=10.0 * speed)
    found = compare(table, slow, LAYERS)
    assert found.speed_ratio == pytest.approx(speed, rel=0.03)
    assert found.common_ratio == pytest.approx(1.0, abs=0.03)
    assert not found.outside
    assert found.stale == said
    if said:
        assert "at the table's reference speed" in found.reasons[0]


def test_the_files_own_sentinels_count_and_not_its_sessions_speed(tmp_path: Path) -> None:
    # The second session is brought to the first one's speed; its file says so, and today's session is held to that.
    reference = tmp_path / "shared.json"
    session(tmp_path, "shared")
    plan, result, _ = simulate(LAYERS, protocol={"time_budget_s": 40.0}, floor_ms=0.026, ms_per_gmadd=13.0)
    later = table_of(plan, result, reference)
    found = compare(later, session(tmp_path, "now", seed=3), LAYERS)
    assert found.speed_ratio == pytest.approx(1.0, abs=0.03)
    assert not found.outside


def test_sentinels_that_disagree_widen_what_is_allowed(table: LatencyTable, now: LatencyTable) -> None:
    first, *others = now.sessions[0].sentinels
    moved = msgspec.structs.replace(first, session_ms=first.session_ms * 1.2, reference_ms=first.reference_ms * 1.2)
    sentinels = (moved, *others)
    other = with_(now, sessions=[msgspec.structs.replace(now.sessions[0], sentinels=sentinels)])
    found, before = compare(table, other, LAYERS), compare(table, now, LAYERS)
    assert "another state" in found.warnings[-1]
    assert found.common_limit > before.common_limit
    assert all(a.high_ms > b.high_ms for a, b in zip(found.layers, before.layers, strict=True))


def test_a_table_without_sentinels_is_compared_as_it_is(table: LatencyTable, now: LatencyTable) -> None:
    bare = with_(table, sessions=[msgspec.structs.replace(table.sessions[0], sentinels=())])
    found = compare(bare, now, LAYERS)
    assert found.speed_ratio is None
    assert not found.outside


def test_spoiled_visits_decide_nothing(table: LatencyTable, now: LatencyTable) -> None:
    spoiled = [msgspec.structs.replace(m, flags=("contaminated",)) for m in altered(now, LAYERS, 2.0).values()]
    found = compare(table, with_(now, measurements=spoiled), LAYERS)
    assert found.decided == 0
    assert not found.stale
    assert "spoiled" in (found.layers[0].reason or "")


def test_what_could_not_be_measured_again_has_no_verdict(table: LatencyTable, tmp_path: Path) -> None:
    now = session(tmp_path, "now", misbehave={LAYERS[2].digest: "raise"})
    item = compare(table, now, LAYERS).layers[2]
    assert (item.verdict, item.now_ms, item.ratio) == ("undecided", None, None)
    assert "made to fail" in (item.reason or "")


def test_another_device_or_setting_is_stale_by_itself(table: LatencyTable) -> None:
    device, setting, software = FakeTarget().describe()
    assert changes(table, device, setting, software) == ()
    (change,) = changes(table, msgspec.structs.replace(device, model="another one"), setting, software)
    assert str(change) == "model simulated device → another one"
    found = CheckResult((change,))
    assert found.stale
    assert "another device" in found.reasons[0]
    (change,) = changes(table, device, msgspec.structs.replace(setting, options={"mode": "host"}), software)
    assert change.decisive
    assert str(change) == "mode none → host"
    (change,) = changes(table, msgspec.structs.replace(device, governor="powersave"), setting, software)
    assert not CheckResult((change,)).stale


@pytest.mark.parametrize(
    ("name", "was", "now", "stale"),
    [
        ("torch", "2.13.0+cpu", "2.14.1+cpu", False),
        ("torch", "1.13.1", "2.0.0", True),
        ("onnxruntime", "0.9.1", "0.10.0", True),
        ("torch", "2.1", None, True),
    ],
)
def test_another_major_version_is_stale_by_itself(
    table: LatencyTable, name: str, was: str, now: str | None, stale: bool
) -> None:
    software = Software(python="none", packages={name: was, "latency-lut": "1"}, details={})
    old = with_(table, sessions=[msgspec.structs.replace(table.sessions[0], software=software)])
    packages = {"latency-lut": "2", **({} if now is None else {name: now})}
    new = msgspec.structs.replace(software, packages=packages)
    found = CheckResult(changes(old, table.device, table.setting, new))
    assert {change.what for change in found.changes} == {name, "latency-lut"}
    assert found.stale == stale
    assert not any(change.device for change in found.changes)


def test_chance() -> None:
    assert [chance_outside(n) for n in (0, 1, 3, 12, 100)] == [0, 1, 1, 3, 11]


def test_half_of_the_choice_matters_most(table: LatencyTable) -> None:
    chosen = choose(table, 6, 0)
    longest = sorted(LAYERS, key=lambda layer: -table[layer].median_ms)
    assert list(chosen[:3]) == longest[:3]
    assert len(set(chosen)) == 6
    assert choose(table, 6, 0) == chosen
    assert {choose(table, 6, seed)[3:] for seed in range(5)} != {chosen[3:]}
    assert set(choose(table, 50, 0)) == set(LAYERS)
    known = MeasuredNetwork(Network("n", (NetworkLayer("a", LAYERS[0], 99),)))
    assert choose(with_(table, networks=[known]), 1, 0) == LAYERS[:1]


def setting(target: str, **options: str) -> Setting:
    return Setting(
        target=target,
        batch=2,
        dtype="float32",
        threads=1 if target in ("cpu", "onnx") else None,
        memory_format="contiguous" if target in ("cpu", "cuda") else None,
        context="network",
        options=options,
    )


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        (setting("cpu", execution="eager"), {"compile": False, "threads": 1, "memory_format": "contiguous"}),
        (setting("cpu", execution="compile"), {"compile": True}),
        (
            setting("onnx", provider="CPUExecutionProvider", spinning="off", exporter="direct"),
            {"provider": "CPUExecutionProvider", "spinning": "off", "exporter": "direct", "threads": 1},
        ),
        (setting("cuda", mode="device-cold", tf32="off", host="a CPU"), {"mode": "device-cold", "tf32": "off"}),
    ],
)
def test_a_setting_becomes_its_targets_options(
    table: LatencyTable, described: Setting, expected: dict[str, Any]
) -> None:
    spec = spec_of(with_(table, setting=described), LAYERS)
    expected = {"batch": 2, "dtype": "float32", "context": "network", **expected}
    assert {name: spec.options[name] for name in expected} == expected
    assert "host" not in spec.options
    assert "execution" not in spec.options


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML can be measured there")
def test_what_cannot_be_measured_here_says_so(table: LatencyTable) -> None:
    imported = [msgspec.structs.replace(m, origin="imported") for m in table.values()]
    for bad, problem in (
        (table, "target 'fake', and only"),
        (with_(table, setting=setting("coreml", timing="back-to-back")), "Apple hardware only"),
        (with_(table, measurements=imported), "imported: timed elsewhere"),
        (with_(table, setting=setting("cpu", execution="eager", colour="red")), "no option --colour"),
    ):
        with pytest.raises(UsageError, match=problem):
            spec_of(bad, LAYERS)


@pytest.fixture
def measured(tmp_path: Path) -> LatencyTable:
    """A table with a whole network, measured by a process of its own."""
    return profile(
        [*LAYERS[3:6], NETWORK],
        target=TargetSpec(FAKE, {"sigma": 0.01}),
        time_budget_s=30.0,
        quick=True,
        reference=tmp_path / "own.json",
    )


def test_a_check_from_end_to_end(measured: LatencyTable) -> None:
    found = check(measured, target=TargetSpec(FAKE, {"sigma": 0.01, "seed": 4}), time_budget_s=10.0)
    assert not found.stale, found.reasons
    assert len(found.layers) == len(measured)
    assert found.network is not None
    assert found.network.verdict == "holds"
    assert found.network.sum_ms == measured.sum_ms(measured.networks[0])
    # Neither asked nor changed: the machine's own reference speed.
    assert not (Path(os.environ["XDG_CACHE_HOME"]) / "latency-lut").exists()


def test_a_network_that_changed_makes_it_stale(measured: LatencyTable) -> None:
    (record,) = measured.networks
    assert record.end_to_end is not None
    whole = record.end_to_end
    fast = msgspec.structs.replace(
        whole,
        median_ms=whole.median_ms / 1.4,
        across_runs=msgspec.structs.replace(
            whole.across_runs, low_ms=whole.across_runs.low_ms / 1.4, high_ms=whole.across_runs.high_ms / 1.4
        ),
    )
    other = with_(measured, networks=[record._replace(end_to_end=fast)])
    found = check(other, target=TargetSpec(FAKE, {"sigma": 0.002}), time_budget_s=10.0, layers_count=3)
    assert len(found.layers) == 3
    (reason,) = found.reasons
    assert "the network small takes 1.4" in reason


def test_another_device_is_not_measured_unless_it_is_asked_for(measured: LatencyTable) -> None:
    spec = TargetSpec(FAKE, {"batch": 8, "sigma": 0.01})
    found = check(measured, target=spec)
    assert found.stale
    assert found.layers == ()
    assert "batch 4 → 8" in found.reasons[0]
    assert len(check(measured, target=spec, force=True, time_budget_s=10.0).layers) == len(measured)


def test_nothing_to_check_and_nothing_measured(measured: LatencyTable) -> None:
    with pytest.raises(TableError, match="no measured layer"):
        check(with_(measured, measurements=[], networks=[]))
    broken = {layer.digest: "raise" for layer in measured}
    with pytest.raises(IncompleteError, match="made to fail"):
        check(measured, target=TargetSpec(FAKE, {"misbehave": broken}), time_budget_s=5.0)


def test_networks_are_made_again_or_known_by_their_layers(measured: LatencyTable) -> None:
    found = rebuildable(measured)
    assert not isinstance(found, str)
    assert found[1].network == NETWORK
    assert record_like(measured, msgspec.structs.replace(NETWORK, name="mine")) is measured.networks[0]
    with pytest.raises(UsageError, match="no network of these layers"):
        record_like(measured, Network("other", (NetworkLayer("a", linear(4, 2, bias=True)),)))
    (record,) = measured.networks
    backwards = msgspec.structs.replace(record.network, layers=tuple(reversed(record.network.layers)))
    apart = record._replace(network=backwards)
    assert "give the model itself (--model)" in str(rebuildable(with_(measured, networks=[apart])))
    unmeasured = record._replace(end_to_end=None, reason="why not")
    assert "no network that was measured whole" in str(rebuildable(with_(measured, networks=[unmeasured])))


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_here(folder, "check-table", *arguments, code=None, COLUMNS="80")


@pytest.mark.usefixtures("short_preflight")
def test_the_command_on_a_real_cpu(tmp_path: Path) -> None:
    layers = [conv(8, channels=8, size=8), linear(16, 10, bias=True), conv(16, channels=8, size=8)]
    profile(layers, threads=1, quick=True, precision=0.5, time_budget_s=4.0).save(tmp_path / "t.json")
    before = (tmp_path / "t.json").read_bytes()
    done = command(tmp_path, "t.json", "--time-budget", "2", "--verbose")
    assert done.returncode in (0, 3), done.stderr
    assert (tmp_path / "t.json").read_bytes() == before
    if done.returncode == 0:
        assert done.stdout.splitlines()[-1].startswith("holds: t.json: ")
    else:
        assert done.stderr.splitlines()[-1].startswith(("stale: t.json: ", "incomplete: "))
    if "incomplete" not in done.stderr:
        for part in ("table ms", "allowed", "visits", "conv3×3 8→8", "reference speed", "no whole network"):
            assert part in done.stdout
        grid = done.stdout[done.stdout.index("table ms") - 60 :].splitlines()[:5]
        assert not any("…" in line for line in grid)
    printed = command(tmp_path, "t.json", "--time-budget", "2", "--layers-count", "2", "--json")
    assert printed.returncode in (0, 3), printed.stderr
    if "incomplete" not in printed.stderr:
        found = json.loads(printed.stdout)
        assert found["verdict"] == ("stale" if printed.returncode else "holds")
        assert len(found["layers"]) == 2
    device = msgspec.structs.replace(LatencyTable.load(tmp_path / "t.json").device, model="Another CPU 9000")
    with_(LatencyTable.load(tmp_path / "t.json"), device=device).save(tmp_path / "other.json")
    done = command(tmp_path, "other.json")
    assert done.returncode == 3
    assert "Another CPU 9000" in done.stderr
    assert "--force" in done.stderr.splitlines()[-1]


def test_each_mistake_is_one_clear_line(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "fake.json")
    with_(table, measurements=[], sessions=[]).save(tmp_path / "empty.json")
    (tmp_path / "bad.json").write_text("{}")
    for arguments, code, problem in (
        (["none.json"], 1, "no such file"),
        (["bad.json"], 1, "bad.json"),
        (["empty.json"], 1, "nothing to check"),
        (["fake.json"], 2, "target 'fake'"),
        (["fake.json", "--input", "1x3x8x8"], 2, "--input is about a --model"),
        (["fake.json", "--time-budget", "0"], 2, "time budget is between"),
    ):
        done = command(tmp_path, *arguments)
        assert done.returncode == code, done.stderr
        line = done.stderr.splitlines()[-1]
        assert line.startswith("error: ")
        assert problem in line


def test_help_speaks_to_a_stranger(tmp_path: Path) -> None:
    text = command(tmp_path, "--help").stdout
    for part in ("Usage: ", "Example: ", "Exit code", "--layers-count", "--force"):
        assert part in text

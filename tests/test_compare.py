"""Networks against each other: known ratios come out, their intervals hold the truth, and no other device is taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import HANGS_S, conv, simulate, table_of

from lut import Device, LatencyTable, Network, NetworkLayer, Setting, UnlikeTablesError, UsageError, linear
from lut.errors import DeviceBusyError, IncompleteError
from profiler import TargetSpec, _compare, _session, compare_networks
from profiler._compare import ComparedNetwork, ComparedVisits, NetworkComparison, _comparison, setting_options
from profiler._fake import FakeTarget
from profiler._lock import device_lock
from profiler._sources import Subject, subject_of
from search import ResNetCifar

FAKE = "profiler._fake:FakeTarget"
SETTING = FakeTarget().describe()[1]


def network(name: str, *widths: int, size: int = 32) -> Network:
    """Return convolutions one after another, each of one width."""
    layers, before = [], 16
    for i, width in enumerate(widths):
        layers.append(NetworkLayer(f"conv{i + 1}", conv(width, channels=before, size=size)))
        before = width
    return Network(name, tuple(layers))


SMALL, MIDDLE, LARGE = network("small", 8, 8), network("middle", 16, 24), network("large", 32, 48, 16)
ALL = (SMALL, MIDDLE, LARGE)


def compared(tmp_path: Path, **options: Any) -> NetworkComparison:
    """Return a comparison on the simulated device's own clock."""
    subjects = [Subject(Network(n.name, ()), subject_of(n).source) for n in ALL]
    protocol = {"time_budget_s": 2.0, "precision": 0.01}
    plan, result, _ = simulate((), networks=subjects, protocol=protocol, **options)
    return _comparison(table_of(plan, result, tmp_path / "r.json", networks=subjects), 0, keep_table=False)


def truth(slow: Network, fast: Network) -> float:
    fake = FakeTarget()
    return fake.network_ms(slow.as_layer()) / fake.network_ms(fast.as_layer())


@pytest.mark.parametrize("options", [{}, {"common_drift": 0.15}, {"together": 4}])
def test_intervals_hold_the_true_ratio(tmp_path: Path, options: dict[str, Any]) -> None:
    held = []
    for seed in range(6):
        found = compared(tmp_path, seed=seed, **options)
        for slow, fast in ((2, 0), (2, 1)):
            ratio = found.ratio(slow, fast)
            assert 1 < ratio.low < ratio.value < ratio.high
            assert ratio.value == pytest.approx(truth(ALL[slow], ALL[fast]), rel=0.05)
            held.append(ratio.low <= truth(ALL[slow], ALL[fast]) <= ratio.high)
    assert sum(held) >= 0.8 * len(held)


def test_autocorrelated_visits_widen_the_interval(tmp_path: Path) -> None:
    found = compared(tmp_path)
    plain, wide = found.ratio(2, 0), found._replace(autocorrelation=0.6).ratio(2, 0)
    assert plain.value == wide.value
    assert wide.high / wide.low > 1.5 * (plain.high / plain.low - 1) + 1


def test_a_ratio_is_asked_for_by_name_or_number(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert found.ratio("large", "small") == found.ratio(2, 0) == found.ratio(-1, -3)
    assert found.ratio("small", "small") == (1.0, 1.0, 1.0)
    back = found.ratio("small", "large")
    assert back.value == pytest.approx(1 / found.ratio("large", "small").value)
    for wrong in ("other", 3, -4):
        with pytest.raises(UsageError):
            found.ratio(wrong, 0)


def test_processes_without_a_network_in_common_are_no_obstacle() -> None:
    device, setting, _ = FakeTarget().describe()
    visits = (ComparedVisits((2.0, 2.1, 2.2), (0, 0, 0), (0.0, 1.0, 2.0)), ComparedVisits((1.0,), (1,), (3.0,)))
    networks = (ComparedNetwork("a", 2.1, 2.0, 2.2, 3, None), ComparedNetwork("b", 1.0, 1.0, 1.0, 1, None))
    ratio = NetworkComparison(device, setting, networks, visits, 3.0).ratio(0, 1)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.1, 2.0, 2.2))


def fake(networks: tuple[Network, ...], *, device: Device | None = None, **options: Any) -> NetworkComparison:
    """Compare on the simulated device, in processes of its own."""
    target = TargetSpec(FAKE, {"sigma": 0.01, **options})
    return compare_networks(networks, setting=SETTING, device=device, time_budget_s=20.0, target=target)


def test_a_comparison_from_end_to_end() -> None:
    found = fake(ALL, device=FakeTarget().describe()[0])
    assert [item.name for item in found.networks] == ["small", "middle", "large"]
    for made, item, visits in zip(ALL, found.networks, found.visits, strict=True):
        assert item.ms == pytest.approx(FakeTarget().network_ms(made.as_layer()), rel=0.06)
        assert item.low_ms <= item.ms <= item.high_ms
        assert (item.high_ms - item.low_ms) / 2 / item.ms < 0.0101
        assert item.visits == len(visits.ms) == len(visits.process) == len(visits.at_s)
        assert item.repeat_error is not None
        # From several processes, all of which visited every network.
        assert set(visits.process) == set(found.visits[0].process)
        assert len(set(visits.process)) >= 3
    assert len({item.visits for item in found.networks}) == 1
    assert found.ratio("large", "small").value == pytest.approx(truth(LARGE, SMALL), rel=0.02)
    assert (found.device.model, found.setting) == ("simulated device", SETTING)
    assert found.table is None
    assert not found.at_reference
    # Nothing is left, the machine's reference speed neither.
    assert not (Path(os.environ["XDG_CACHE_HOME"]) / "latency-lut").exists()
    assert not list(Path(os.environ["TMPDIR"]).glob("latency-lut-compare-*"))


def test_layers_are_measured_where_they_are_asked_for() -> None:
    found = compare_networks(
        [SMALL, MIDDLE], setting=SETTING, layers=True, time_budget_s=20.0, target=TargetSpec(FAKE, {"sigma": 0.01})
    )
    assert isinstance(found.table, LatencyTable)
    assert {item.layer for made in (SMALL, MIDDLE) for item in made.layers} == set(found.table)
    assert found.ratio(1, 0).value == pytest.approx(truth(MIDDLE, SMALL), rel=0.03)


def test_another_device_or_setting_is_refused() -> None:
    device = FakeTarget().describe()[0]
    with pytest.raises(UnlikeTablesError, match=r"predicted for Phone 9 .*this machine is simulated device"):
        fake(ALL, device=msgspec.structs.replace(device, model="Phone 9"))
    with pytest.raises(UnlikeTablesError, match="batch 4 → 8"):
        fake(ALL, device=device, batch=8)
    # A kernel update makes no other device of it.
    assert fake((SMALL,), device=msgspec.structs.replace(device, system="newer")).networks[0].name == "small"


def test_what_makes_no_sense_is_refused() -> None:
    for networks, problem in (((), "nothing to compare"), ((SMALL, MIDDLE, SMALL), "several called small")):
        with pytest.raises(UsageError, match=problem):
            fake(networks)
    with pytest.raises(UsageError, match="time budget"):
        compare_networks(ALL, setting=SETTING, time_budget_s=0.0)
    with pytest.raises(UsageError, match="the setting is of the target 'fake'"):
        compare_networks(ALL, setting=SETTING)
    with device_lock("machine"), pytest.raises(DeviceBusyError):
        fake(ALL)


def test_a_network_that_fails_is_named() -> None:
    with pytest.raises(IncompleteError, match="middle: made to fail"):
        fake(ALL, misbehave={MIDDLE.as_layer().digest: "run"})


def setting(target: str, **changed: Any) -> Setting:
    options = {
        "cpu": {"execution": "eager"},
        "onnx": {"provider": "CPUExecutionProvider", "spinning": "off", "exporter": "direct"},
    }
    made = Setting(target, 1, "float32", 1, "contiguous" if target == "cpu" else None, "network", options[target])
    return msgspec.structs.replace(made, **changed)


def test_a_setting_becomes_its_targets_spec() -> None:
    spec = setting_options(setting("onnx", batch=3))
    assert spec.options["spinning"] == "off"
    assert (spec.options["batch"], spec.options["threads"]) == (3, 1)
    assert setting_options(setting("cpu")).options["compile"] is False
    with pytest.raises(UsageError, match="no option --colour"):
        setting_options(setting("cpu", options={"colour": "red"}))


@pytest.mark.usefixtures("short_preflight")
@pytest.mark.parametrize("target", ["cpu", "onnx"])
def test_real_networks(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if target == "onnx":
        pytest.importorskip("onnxruntime", reason="needs onnxruntime: the extra onnx")
    space = ResNetCifar(depth=8)
    small = msgspec.structs.replace(space.decode([0] * len(space.choices)), name="small")
    large = msgspec.structs.replace(space.decode([len(c.options) - 1 for c in space.choices]), name="large")
    head = Network("head", (NetworkLayer("fc", linear(16, 10, bias=True)),))
    # It ends when the networks are known roughly, on however slow a machine; which of them is faster is the machine's.
    monkeypatch.setattr(_compare, "PRECISION", 0.5)
    # And each of its processes when it has made its rounds, however long it took to start.
    monkeypatch.setattr(_session, "WORTH_STARTING", 0.0)
    found = compare_networks([large, small, head], setting=setting(target), time_budget_s=HANGS_S)
    assert found.setting == setting(target)
    assert [item.name for item in found.networks] == ["large", "small", "head"]
    for item, visits in zip(found.networks, found.visits, strict=True):
        assert 0 < item.low_ms <= item.ms <= item.high_ms
        assert item.visits == len(visits.ms) == len(visits.process) == len(visits.at_s)
        assert all(ms > 0 for ms in visits.ms)
    for slow, fast in (("large", "small"), ("small", "head")):
        ratio = found.ratio(slow, fast)
        # Which of them is slower is this machine's affair; of simulated ones it is asked above.
        assert 0 < ratio.low <= ratio.value <= ratio.high
        assert ratio.value * found.ratio(fast, slow).value == pytest.approx(1.0)

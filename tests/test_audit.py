"""Whole networks beside the layers: what they take, what the sums are off by, and what an unaudited table says."""

from __future__ import annotations

import warnings
from pathlib import Path

import msgspec
import pytest
from conftest import conv, simulate, table_of

from lut import (
    LatencyTable,
    Layer,
    Network,
    NetworkLayer,
    TableFormatError,
    chain,
    conv_norm_act,
    global_pool,
    linear,
    residual_add,
)
from lut._network_text import audit_line, sum_line
from lut.errors import UnauditedTableWarning
from lut.primitives import BatchNorm2d
from profiler import FakeTarget
from profiler._sources import FileSource, Subject, subject_of


def network(*widths: int, name: str = "net") -> Network:
    """Return convolutions one after another, each of one width."""
    layers, before = [], 16
    for i, width in enumerate(widths):
        layers.append(NetworkLayer(f"conv{i + 1}", conv(width, channels=before)))
        before = width
    return Network(name, tuple(layers))


def audited(tmp_path: Path, *networks: Network, failing: tuple[Subject, ...] = (), **options: object) -> LatencyTable:
    """Return the simulated table of networks with their audit."""
    subjects = [*map(subject_of, networks), *failing]
    layers = tuple(dict.fromkeys(item.layer for s in subjects for item in s.network.layers))
    plan, result, _ = simulate(layers, networks=subjects, **options)  # type: ignore[arg-type]
    return table_of(plan, result, tmp_path / "references.json", networks=subjects)


def test_sums_are_held_against_the_networks(tmp_path: Path) -> None:
    networks = [network(8, 24, 16, name="a"), network(32, 32, name="b"), network(8, 8, 8, 8, name="c")]
    table = audited(tmp_path, *networks)
    assert table.audit is not None
    assert table.audit.networks == 3
    # The simulated device takes for a network what it takes for its layers.
    assert abs(table.audit.bias) < 0.02
    assert table.audit.mape < 0.02
    assert table.audit.kendall_tau == 1
    assert table.audit.repeat_error is not None
    assert 0 < table.audit.repeat_error < 0.03
    for made, record in zip(networks, table.networks, strict=True):
        assert record.end_to_end is not None
        assert record.end_to_end.median_ms == pytest.approx(FakeTarget().network_ms(made.as_layer()), rel=0.06)
        assert record.network == made


def test_a_bias_is_found(tmp_path: Path) -> None:
    # Marginal values leave out what every program costs: wholes hold it once.
    table = audited(tmp_path, network(8, 16), network(24, 8, name="b"), overhead_ms=0.0, floor_ms=0.05)
    record = table.networks[0]
    assert record.end_to_end is not None
    shifted = msgspec.structs.replace(
        record.end_to_end,
        visits=msgspec.structs.replace(
            record.end_to_end.visits, raw_ms=tuple(2 * x for x in record.end_to_end.visits.raw_ms)
        ),
        median_ms=2 * record.end_to_end.median_ms,
    )
    other = LatencyTable(
        device=table.device,
        setting=table.setting,
        sessions=table.sessions,
        measurements=table.values(),
        networks=[record._replace(end_to_end=shifted)],
    )
    assert other.audit is not None
    assert other.audit.bias == pytest.approx(-0.5, abs=0.02)
    assert other.audit.kendall_tau is None


def test_networks_and_audit_survive_the_file(tmp_path: Path) -> None:
    table = audited(tmp_path, network(8, 24, 16))
    table.save(tmp_path / "t.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = LatencyTable.load(tmp_path / "t.json")
    assert again.networks == table.networks
    assert again.audit == table.audit
    assert again.to_json() == table.to_json()


def test_an_audit_that_its_networks_do_not_bear_out_is_refused(tmp_path: Path) -> None:
    raw = msgspec.json.decode(audited(tmp_path, network(8, 24)).to_json())
    raw["audit"]["mape"] += 0.01
    with pytest.raises(TableFormatError, match=r"audit\.mape"):
        LatencyTable.from_json(msgspec.json.encode(raw))
    raw["audit"] = None
    with pytest.raises(TableFormatError, match="it is missing"):
        LatencyTable.from_json(msgspec.json.encode(raw))


def test_a_network_of_unknown_layers_is_refused(tmp_path: Path) -> None:
    raw = msgspec.json.decode(audited(tmp_path, network(8, 24)).to_json())
    raw["networks"][0]["layers"][1]["layer"] = "0" * 16
    with pytest.raises(TableFormatError, match="no layer of this table has the digest"):
        LatencyTable.from_json(msgspec.json.encode(raw))


def test_whoever_loads_a_table_that_was_never_audited_is_told(tmp_path: Path) -> None:
    plan, result, _ = simulate([conv(8)])
    table_of(plan, result, tmp_path / "r.json").save(tmp_path / "t.json")
    with pytest.warns(UnauditedTableWarning, match=r"t\.json: never audited"):
        table = LatencyTable.load(tmp_path / "t.json")
    assert "never audited" in audit_line(table)


def test_a_network_that_cannot_be_run_is_a_reason_and_no_number(tmp_path: Path) -> None:
    made = network(8, 24)
    table = audited(tmp_path, failing=(Subject(made, FileSource("mine", "net.onnx")),))
    (record,) = table.networks
    assert record.end_to_end is None
    assert record.reason is not None
    assert "runs no modules" in record.reason
    assert table.audit is None
    assert "not measured as a whole" in sum_line(table, record)
    assert "runs no modules" in audit_line(table)


def test_a_layer_that_fails_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    made = network(8, 24)
    table = audited(tmp_path, made, misbehave={made.layers[1].layer.digest: "raise"})
    assert table.audit is None
    first, second = table.breakdown(table.networks[0])
    assert (first.name, first.ms, first.share) == ("conv2", None, None)
    assert "made to fail" in (first.reason or "")
    assert second.share == 1
    assert "what is not covered takes the other" in sum_line(table, table.networks[0])


def test_equal_layers_are_one_line_of_the_breakdown(tmp_path: Path) -> None:
    table = audited(tmp_path, network(16, 16, 16, 8))
    shares = table.breakdown(table.networks[0])
    assert [(share.name, share.times) for share in shares] == [("conv1", 3), ("conv4", 1)]
    assert sum(share.share or 0 for share in shares) == pytest.approx(1)


def test_merged_tables_keep_their_networks(tmp_path: Path) -> None:
    first, second = audited(tmp_path, network(8, 24)), audited(tmp_path, network(16, 32))
    merged = first.merge(second)
    assert [record.name for record in merged.networks] == ["net", "net (2)"]
    assert merged.audit is not None
    assert merged.audit.networks == 2
    assert LatencyTable.from_json(merged.to_json()).audit == merged.audit


def test_networks_are_measured_in_turns_with_layers(tmp_path: Path) -> None:
    table = audited(tmp_path, network(8, 24, 16), together=4)
    (record,) = table.networks
    assert record.end_to_end is not None
    assert record.end_to_end.median_ms == pytest.approx(sum(FakeTarget().true_ms(layer) for layer in table), rel=0.06)
    layers = [visit for m in table.values() for visit in m.visits.at_s]
    assert min(layers) < max(record.end_to_end.visits.at_s)
    assert max(layers) > min(record.end_to_end.visits.at_s)


def test_sampled_networks_are_made_of_measured_layers() -> None:
    import random

    from search import ResNetCifar

    space = ResNetCifar()
    known: set[Layer] = set(space.layers())
    rng = random.Random(0)
    for _ in range(20):
        made = space.decode(space.sample_measured(rng))
        assert {item.layer for item in made.layers} <= known


def test_all_kinds_of_layers_can_be_parts(tmp_path: Path) -> None:
    made = Network(
        "net",
        (
            NetworkLayer("a", conv_norm_act(16, 16, kernel_size=3, stride=1, activation="relu", input_size=(8, 8))),
            NetworkLayer("b", residual_add(16, activation=None, input_size=(8, 8)), inputs=("a", "input")),
            NetworkLayer("c", chain((16, 8, 8), BatchNorm2d())),
            NetworkLayer("d", global_pool(16, input_size=(8, 8))),
            NetworkLayer("e", linear(16, 10, bias=True)),
        ),
    )
    table = audited(tmp_path, made)
    assert table.networks[0].network.as_layer() == made.as_layer()

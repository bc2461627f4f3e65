"""What other widths would buy: friendly widths on known staircases, sure and unsure gains, and how they are shown."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import conv, curve_of, simulate, table_of

from lut import LatencyTable, Layer, Network, NetworkLayer, UsageError, chain, conv_norm_act, linear
from lut._grid import Grid, print_grid
from lut._terminal import DataConsole
from lut.primitives import Conv2d, Linear
from predictors import measured_curves, width_gains
from predictors._gains import WidthGain, swept_curve
from predictors._show import GAINS_HEADER, gain_cells, gains_json, gains_table
from profiler import FakeTarget, report_html
from profiler._report._page import Chart
from profiler._report._sweep import gain_points, sweep_sections
from profiler._sweep import sweep_curves

Swept = tuple[LatencyTable, FakeTarget]


def swept(network: Network, folder: Path, *, expand: float = 2.0, sigma: float = 0.003, **options: Any) -> Swept:
    """Return the table of a network's sweep, and the target, which knows the truth."""
    curves = sweep_curves(network, expand=expand, **options).curves
    layers = dict.fromkeys([item.layer for item in network.layers])
    layers.update(dict.fromkeys(layer for curve in curves for layer in curve.layers))
    plan, result, target = simulate(list(layers), target=FakeTarget(sigma=sigma), protocol={"precision": 0.01})
    return table_of(plan, result, folder / "references.json", curves), target


def shown(table: Grid, width: int) -> str:
    console = DataConsole(stderr=False, soft_wrap=False)
    console.file, console.width = io.StringIO(), width
    print_grid(console, table)
    return console.file.getvalue()


def one(width: int, count: int = 1) -> Network:
    return Network("net", (NetworkLayer("conv", conv(width), count=count),))


def gain_of(width: int, folder: Path, **options: Any) -> WidthGain:
    (gain,) = width_gains(swept(one(width), folder, **options)[0], one(width))
    return gain


def test_just_beyond_a_stair(tmp_path: Path) -> None:
    table, target = swept(one(17), tmp_path)
    (gain,) = width_gains(table, one(17, count=3))
    assert (gain.name, gain.layers, gain.count, gain.channels) == ("conv", (conv(17),), 3, 17)
    # Of 34 widths the last is the beginning of a stair, and nobody knows what follows.
    assert gain.friendly_channels == (8, 16, 24, 32)
    assert gain.narrower is not None
    assert gain.wider is not None
    assert (gain.narrower.channels, gain.wider.channels) == (16, 24)
    stair = target.true_ms(conv(17)) - target.true_ms(conv(16))
    assert gain.narrower.gain_ms == pytest.approx(3 * stair, rel=0.05)
    assert gain.narrower.ms == pytest.approx(3 * table[conv(16)].median_ms)
    assert gain.narrower.ms == pytest.approx(gain.ms - gain.narrower.gain_ms)
    assert str(gain).startswith("conv, 17 channels, ")
    assert gain.narrower.sure
    assert gain.wider.gain_ms == pytest.approx(0, abs=0.01 * gain.ms)
    assert not gain.wider.sure


def test_at_the_end_of_a_stair_no_channels_are_free(tmp_path: Path) -> None:
    gain = gain_of(16, tmp_path)
    assert 16 in gain.friendly_channels
    assert gain.wider is None
    assert gain.narrower is not None
    assert gain.narrower.channels == 8


def test_on_the_first_stair_there_is_nothing_narrower(tmp_path: Path) -> None:
    gain = gain_of(6, tmp_path)
    assert gain.narrower is None
    assert gain.wider is not None
    assert gain.wider.channels == 8


def test_a_coarse_grid_knows_the_stairs_that_it_meets(tmp_path: Path) -> None:
    gain = gain_of(17, tmp_path, step=8)
    assert gain.friendly_channels == (8, 16, 24, 32)
    assert gain.narrower is not None
    assert gain.narrower.channels == 16


def test_a_stair_lower_than_the_noise_is_not_seen(tmp_path: Path) -> None:
    curve = curve_of(range(1, 35))
    plan, result, _ = simulate(
        curve.layers, target=FakeTarget(sigma=0.02, ms_per_gmadd=0.01), protocol={"time_budget_s": 5.0}
    )
    curve = msgspec.structs.replace(curve, base_channels=17)
    (gain,) = width_gains(table_of(plan, result, tmp_path / "r.json", [curve]), one(17))
    assert len(gain.friendly_channels) < 6
    for change in (gain.narrower, gain.wider):
        assert change is None or abs(change.gain_ms) < 0.1 * gain.ms


def test_a_wider_width_that_is_faster_is_found(tmp_path: Path) -> None:
    # As if the kernel for 24 channels were a better one.
    table, _ = swept(one(17), tmp_path)
    moved = []
    for m in table.values():
        factor = 0.5 if m.layer.out_channels == 24 else 1.0
        within = msgspec.structs.replace(
            m.within_run, low_ms=factor * m.within_run.low_ms, high_ms=factor * m.within_run.high_ms
        )
        moved.append(msgspec.structs.replace(m, median_ms=factor * m.median_ms, within_run=within))
    changed = LatencyTable(
        device=table.device, setting=table.setting, sessions=table.sessions, measurements=moved, curves=table.curves
    )
    (gain,) = width_gains(changed, one(17))
    assert 16 not in gain.friendly_channels
    assert gain.wider is not None
    assert gain.wider.channels == 24
    assert gain.wider.gain_ms > 0
    assert gain.wider.sure


def test_a_cliff_behind_a_step_is_worth_the_way(tmp_path: Path) -> None:
    table, _ = swept(one(40), tmp_path)
    moved = []
    for m in table.values():
        # A small step after 36 channels, a cliff after 32, and nothing else.
        width = m.layer.out_channels
        ms = 1.0 if width <= 32 else 1.8 if width <= 36 else 2.0 if width <= 40 else 4.0
        within = msgspec.structs.replace(m.within_run, low_ms=0.995 * ms, high_ms=1.005 * ms)
        moved.append(msgspec.structs.replace(m, median_ms=ms, within_run=within))
    changed = LatencyTable(
        device=table.device, setting=table.setting, sessions=table.sessions, measurements=moved, curves=table.curves
    )
    (gain,) = width_gains(changed, one(40))
    assert gain.friendly_channels == (32, 36, 40)
    assert gain.narrower is not None
    assert (gain.narrower.channels, gain.narrower.gain_ms) == (32, 1.0)
    (near,) = width_gains(changed, one(40), reach=0.01)
    assert near.narrower is not None
    assert near.narrower.channels == 32
    assert 28 not in near.friendly_channels


def several() -> Network:
    depthwise = conv_norm_act(20, 20, kernel_size=3, stride=1, activation=None, input_size=(32, 32), groups=20)
    grouped = conv_norm_act(8, 18, kernel_size=3, stride=1, activation=None, input_size=(32, 32), groups=2)
    items: list[tuple[str, Layer]] = [
        ("small", conv(9, channels=3)),
        ("depthwise", depthwise),
        ("large", conv(17)),
        ("grouped", grouped),
        ("small again", conv(9, channels=3)),
        ("classifier", linear(64, 10, bias=True)),
    ]
    return Network("net", tuple(NetworkLayer(name, layer) for name, layer in items))


def test_a_networks_layers_come_by_gain(tmp_path: Path) -> None:
    table, _ = swept(several(), tmp_path, sigma=0.001)
    gains = width_gains(table, several())
    assert {gain.name for gain in gains} == {"small", "depthwise", "large", "grouped"}
    totals = [gain.narrower.gain_ms for gain in gains if gain.narrower]
    assert totals == sorted(totals, reverse=True)
    assert gains[0].name == "large"
    by_name = {gain.name: gain for gain in gains}
    assert by_name["small"].count == 2
    grouped = by_name["grouped"]
    assert grouped.friendly_channels == (8, 16, 24, 32)
    assert grouped.narrower is not None
    assert grouped.narrower.channels == 16


def test_depthwise_curves_are_read_and_written(tmp_path: Path) -> None:
    table, _ = swept(several(), tmp_path, sigma=0.001)
    again = LatencyTable.from_json(table.to_json())
    assert again.curves == table.curves
    assert width_gains(again, several()) == width_gains(table, several())


def test_a_head_is_no_row_though_a_curve_was_swept_from_an_equal_layer(tmp_path: Path) -> None:
    plain = chain((17, 8, 8), Conv2d(out_channels=17, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)))
    network = Network("net", (NetworkLayer("body", plain), NetworkLayer("head", plain)))
    table, _ = swept(network, tmp_path)
    assert [gain.modules for gain in width_gains(table, network)] == [("body",)]


def test_tokens_have_their_width_last(tmp_path: Path) -> None:
    network = Network(
        "net",
        (NetworkLayer("tokens", chain((7, 16), Linear(out_features=12, bias=True))), NetworkLayer("last", conv(8))),
    )
    table, _ = swept(network, tmp_path)
    curve = measured_curves(table)[0]
    assert (curve.channels, curve.size) == (tuple(range(1, 25)), "7")
    assert {gain.name for gain in width_gains(table, network)} == {"tokens", "last"}


def test_what_was_not_measured_is_passed_over(tmp_path: Path) -> None:
    table, _ = swept(one(17), tmp_path)
    holed = LatencyTable(
        device=table.device,
        setting=table.setting,
        sessions=table.sessions,
        measurements=[m for m in table.values() if m.layer.out_channels not in (16, 24)],
        curves=table.curves,
    )
    (gain,) = width_gains(holed, one(17))
    assert gain.friendly_channels == (8, 15, 23, 32)
    bare = holed.select(lambda m: m.layer.out_channels != 17)
    assert width_gains(bare, one(17)) == ()
    assert width_gains(table, one(18)) == ()
    assert swept_curve(table, conv(18)) is None


@pytest.mark.parametrize("reach", [0.0, -1.0, float("nan"), float("inf")])
def test_senseless_reach(tmp_path: Path, reach: float) -> None:
    with pytest.raises(UsageError, match="reach"):
        width_gains(swept(one(3), tmp_path)[0], one(3), reach=reach)


def test_shown_in_a_terminal_and_as_json(tmp_path: Path) -> None:
    table, _ = swept(several(), tmp_path)
    gains = width_gains(table, several())
    out = shown(gains_table(gains), 140)
    lines = out.splitlines()
    assert lines[0].split() == " ".join(GAINS_HEADER).split()
    name, count, width, ms, narrower, saved, wider, cost = lines[1].split()
    assert (name, count, width, narrower, wider) == ("large?", "1", "17", "16", "24")
    assert float(saved) == pytest.approx(gains[0].narrower.gain_ms, abs=0.001) if gains[0].narrower else False
    # Free channels: as many decimals as the latency has, and a mark.
    assert cost.endswith("~")
    assert abs(float(cost.rstrip("~").replace("−", "-"))) < 0.01 * float(ms)
    assert len(lines) == 1 + len(gains)
    # Eighty columns hold it too.
    narrow = shown(gains_table(gains), 80)
    assert "…" not in narrow
    assert all(gain.name in narrow for gain in gains)
    read = msgspec.json.decode(msgspec.json.encode(gains_json(gains)))
    assert [entry["name"] for entry in read] == [gain.name for gain in gains]
    assert read[0]["narrower"]["channels"] == 16
    assert read[0]["digests"] == [layer.digest for layer in gains[0].layers]
    assert read[-1]["wider"] is None or "gain_ms" in read[-1]["wider"]


def test_shown_in_the_report(tmp_path: Path) -> None:
    network = several()
    evil = "<script>[bold]"
    named = msgspec.structs.replace(
        network, layers=(msgspec.structs.replace(network.layers[2], name=evil), *network.layers)
    )
    table, _ = swept(network, tmp_path)
    gains = width_gains(table, named)
    page = report_html(table, [], gains, title="t")
    assert evil not in page
    for part in ("friendly widths", "own width", "suggested", "measured m(x)"):
        assert part in page
    rows, charts = sweep_sections(gains, table)
    assert rows.blocks[0].rows == [gain_cells(gain) for gain in gains]  # type: ignore[union-attr]
    worth = [gain for gain in gains if gain.narrower is not None]
    assert len(charts.blocks) == len(worth)
    for gain, chart in zip(worth, charts.blocks, strict=True):
        assert isinstance(chart, Chart)
        assert [point.channels for point in chart.points if point.mark == "own"] == [gain.channels]  # type: ignore[attr-defined]
        assert gain.narrower is not None
        assert gain.narrower.channels in [point.channels for point in chart.points if point.mark == "suggested"]  # type: ignore[attr-defined]
    # Of layers together there is no interval.
    assert [point[:4] for point in gain_points(worth[0], None)] == [
        (width, ms, None, None) for width, ms in zip(worth[0].widths, worth[0].widths_ms, strict=True)
    ]
    assert sweep_sections([], table) == []
    many = [gain for gain in gains if gain.narrower] * 4
    assert len(sweep_sections(many, table)[1].blocks) == 5
    out = shown(gains_table(gains), 140)
    assert evil in out

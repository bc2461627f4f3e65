"""The report: everything in one file, shown by a real browser without an error."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pandas as pd
import pytest
from _browser import needs_browser, seen_in_browser
from conftest import conv, simulate, table_of

from lut import LatencyTable, Network, NetworkLayer
from lut._records import Failure
from predictors import hardware_aware_widths, measured_curves
from profiler import report_html
from profiler._report._curves import NOTHING, stair_points, stairs_chart, widths_section
from profiler._report._machine_speed import speed_points
from profiler._report._networks import MOST_BARS, bars_chart, layer_bars, network_bars, slowest_chart, sum_points
from profiler._report._plots import CHOSEN, counting_axis, width_ticks
from profiler._sources import subject_of

MakeTable = Callable[..., LatencyTable]


def page(table: LatencyTable) -> str:
    selections = [hardware_aware_widths(curve) for curve in measured_curves(table)]
    return report_html(table, selections, title="cpu-b4.json")


def test_it_holds_what_it_should_and_asks_nobody_for_more(make_table: MakeTable) -> None:
    text = page(make_table())
    for part in (
        "Hardware-aware widths",
        "measured m(x)",
        "law f(x)",
        "score",
        "within-run interval",
        "Provenance",
        "simulated device",
        "noise floor",
        "converged",
        "viewport",
    ):
        assert part in text
    # Flags that no layer has are not listed, and what few people read is folded.
    assert "bimodal</td>" not in text
    assert re.search('<details id="provenance[^>]*><summary>Provenance', text)
    outside = text.replace("<script>", "\n<script>").split("\n")
    ours = [line for line in outside if not line.startswith("<script>")]
    assert not any('src="http' in line or "src='http" in line for line in ours)


def test_text_from_a_file_cannot_become_markup(make_table: MakeTable) -> None:
    table = make_table(range(1, 17))
    evil = "<script>alert(1)</script>"
    hostile = LatencyTable(
        device=msgspec.structs.replace(table.device, model=evil),
        setting=msgspec.structs.replace(table.setting, dtype=evil),
        sessions=table.sessions,
        measurements=table.values(),
        curves=[msgspec.structs.replace(table.curves[0], name=evil)],
        failures=[Failure(layer=next(iter(table)), reason="error", message=evil, session=0)],
    )
    assert evil not in report_html(hostile, [hardware_aware_widths(c) for c in measured_curves(hostile)], title=evil)


def test_a_table_without_curves_has_a_report_too(make_table: MakeTable) -> None:
    table = make_table(range(1, 5)).select(lambda m: m.layer.output_shape[0] == 1)
    assert "Provenance" in report_html(table, [], title="t")


@needs_browser
@pytest.mark.parametrize("width", [1000, 400])
def test_a_browser_shows_it_within_its_window(make_table: MakeTable, tmp_path: Path, width: int) -> None:
    seen = seen_in_browser(page(make_table()), width, tmp_path)
    assert seen["plots"] == seen["drawn"] == 2
    assert seen["traces"] >= 6
    assert seen["bars"] == 32
    # Plots that were drawn while they were folded have the page's width too.
    assert seen["narrow"] == 0
    assert seen["overflow"] <= 0


def test_the_answer_comes_first_and_is_of_what_was_measured(make_table: MakeTable) -> None:
    table = make_table()
    text = page(table)
    sentences = text[text.index('<p class="lead">') :].partition("</p>")[0]
    selection = hardware_aware_widths(measured_curves(table)[0])
    assert f"favours {', '.join(map(str, selection.widths))} channels" in sentences
    assert "choices" in sentences
    assert "Whether its layers add up to whole networks was not measured." in sentences
    order = ['class="lead"', "Plotly.newPlot(", "Hardware-aware widths", "<summary>Provenance"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    layers = table.select(lambda m: m.layer.output_shape[0] <= 2)
    bars = layer_bars(layers)
    assert [bar.ms for bar in bars] == sorted((m.median_ms for m in layers.values()), reverse=True)
    low, high = bars[-1].ms, bars[0].ms
    assert f"2 layers take {low:.4g} to {high:.4g} ms each." in report_html(layers, [], title="t")
    many = layer_bars(table)
    chart = slowest_chart(many)
    assert (chart.caption, len(chart.figure.data[0].x)) == (f"The {MOST_BARS} slowest of {len(many)} layers", MOST_BARS)
    assert chart.points == many
    assert chart.figure.layout.xaxis.title.text == "ms"
    none = table.select(lambda _: False)
    assert "No layer was measured." in report_html(none, [], title="t")


def test_whole_networks_are_told_apart_from_the_precision_of_their_layers(tmp_path: Path) -> None:
    networks = [Network(name, (NetworkLayer("a", conv(width)),)) for name, width in (("one", 8), ("two", 16))]
    subjects = [subject_of(network) for network in networks]
    plan, result, _ = simulate([conv(8), conv(16)], networks=subjects)
    table = table_of(plan, result, tmp_path / "r.json", networks=subjects)
    points = sum_points(table)
    low, high = sorted(point.end_to_end_ms for point in points)
    text = report_html(table, [], title="t")
    assert f"2 networks take {low:.4g} to {high:.4g} ms end to end." in text
    middle = sorted(m.relative_half_width for m in table.values())
    assert f"The median half-width of the layers&#39; intervals is ±{sum(middle) / 2:.1%}." in text


def test_the_numbers_of_a_stage_are_those_of_its_curve_law_and_choices(make_table: MakeTable) -> None:
    selection = hardware_aware_widths(measured_curves(make_table())[0], groups=4)
    points = stair_points(selection)
    curve = selection.curve
    assert [point.channels for point in points] == list(curve.channels)
    assert [point.ms for point in points] == list(curve.ms)
    assert [point.score_ms for point in points] == pytest.approx(
        [law - ms for law, ms in zip(selection.law_ms, curve.ms, strict=True)]
    )
    assert {point.channels: point.chosen_share for point in points if point.chosen_share is not None} == {
        choice.channels: choice.chosen_share for choice in selection.choices
    }
    for group, choice in enumerate(selection.choices):
        assert [p.channels for p in points if p.group == group] == list(range(choice.first, choice.last + 1))
    half = [choice._replace(chosen_share=0.5 + 0.4 * (i % 2)) for i, choice in enumerate(selection.choices)]
    drawn = stairs_chart(stair_points(selection._replace(choices=tuple(half))), "stairs").figure.data
    bars = dict(zip(drawn[-1].x, zip(drawn[-1].marker.color, drawn[-1].marker.line.color, strict=True), strict=True))
    for choice in half:
        sure = choice.chosen_share >= 0.9
        assert bars[choice.channels] == (CHOSEN if sure else NOTHING, CHOSEN)
    (rows,) = (block.rows for block in widths_section([selection._replace(choices=tuple(half))]).blocks[:1])
    assert [cell.look for cell in rows[0][2]] == ["unsure", ""] * 2
    hole = selection._replace(curve=curve._replace(ms=(float("nan"), *curve.ms[1:])))
    assert stair_points(hole)[0].ms is None


def test_the_numbers_of_the_machines_speed_are_the_sentinels_visits(make_table: MakeTable) -> None:
    (session,) = make_table().sessions
    points = speed_points(session)
    assert len(points) == sum(len(sentinel.ms) for sentinel in session.sentinels)
    first = session.sentinels[0]
    assert points[0] == (first.what, first.at_s[0], first.ms[0] / first.reference_ms)


def test_the_numbers_behind_a_chart_come_with_it(make_table: MakeTable) -> None:
    table = make_table()
    text = page(table)
    links = re.findall(r'download="([^"]+)" href="data:text/csv;charset=utf-8;base64,([^"]+)"', text)
    files = {name: base64.b64decode(data).decode() for name, data in links}
    assert len(files) == len(links) == text.count("Plotly.newPlot(")
    frame = pd.read_csv(io.StringIO(files["stairs-stage-1.csv"]))
    assert list(frame.channels) == [layer.out_channels for layer in table.curves[0].layers]
    assert list(frame.ms) == pytest.approx([table[layer].median_ms for layer in table.curves[0].layers])


def test_an_axis_that_counts_has_whole_ticks() -> None:
    assert [counting_axis(last)["dtick"] for last in (1, 3, 16, 17, 300, 5000)] == [1, 1, 1, 2, 20, 500]


def test_ticks_of_widths_are_where_stairs_end() -> None:
    assert [width_ticks(widest)["dtick"] for widest in (16, 64, 128, 129, 512, 2048)] == [8, 8, 8, 16, 32, 128]


def test_a_networks_bars_are_its_layers_with_the_whole_and_the_rest(tmp_path: Path) -> None:
    widths = range(4, 4 + MOST_BARS + 3)
    network = Network("net", tuple(NetworkLayer(f"layer {w}", conv(w), count=2) for w in widths))
    # What is run is another, smaller one: these layers do not fit behind each other.
    subject = subject_of(Network("net", (NetworkLayer("layer", conv(4)),)))._replace(network=network)
    plan, result, _ = simulate([item.layer for item in network.layers], networks=[subject])
    table = table_of(plan, result, tmp_path / "r.json", networks=[subject])
    first, *layers, rest = network_bars(table, table.networks[0])
    assert (first.kind, rest.kind, rest.name) == ("end to end", "rest", "3 other layers")
    assert len(layers) == MOST_BARS
    assert table.networks[0].end_to_end is not None
    assert first.ms == table.networks[0].end_to_end.median_ms
    assert sum(bar.ms for bar in layers) + rest.ms == pytest.approx(table.latency_ms(network))
    assert [bar.ms for bar in layers] == sorted((bar.ms for bar in layers), reverse=True)
    slowest = max(network.layers, key=lambda item: table[item.layer].median_ms)
    assert (layers[0].name, layers[0].operators) == (f"{slowest.name} ×2", str(slowest.layer))
    assert layers[0].low_ms == pytest.approx(2 * table[slowest.layer].within_run.low_ms)
    chart = bars_chart(network_bars(table, table.networks[0]), "net")
    assert len(chart.figure.data[0].x) == len(chart.points) == MOST_BARS + 2
    assert [note.text for note in chart.figure.layout.annotations][-1] == "end to end"
    text = report_html(table, [], title="t")
    sentence = f"net takes {table.networks[0].end_to_end.median_ms:.4g} ms end to end"
    assert sentence in text
    assert f"Layer {slowest.name} ({slowest.layer}) takes the largest share of its layers" in text
    assert "Sums of layers cannot be trusted: they are off by" in text
    assert '<details id="all-layers-of-net"><summary>All layers of net</summary>' in text

"""HTAS's report, and what the reports of all searches share: numbers first, and sentences that dare to say no."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from _browser import needs_browser, seen_in_browser
from test_rcas_report import Linear, plots, rows, seen, trained

from lut._terminal import DataConsole
from profiler._compare import Ratio
from profiler._report._page import Notice, Table, Text
from search import EvolutionSettings, Recipe, SearchSettings
from search._commands._show import print_result
from search._runs._parts import NOT_ASKED, Measured
from search._runs._report_parts import (
    accuracy_sentence,
    latency_sentence,
    setting_text,
    settings_section,
    speed_up_sentence,
    training_points,
    warnings_of,
)
from search.htas._report import epoch_points, search_report, trade_off_points, width_bars
from search.htas._run import RunPlan, RunResult
from search.htas._settings import SearchEpoch, SearchResult
from search.spaces._resnet_cifar import ResNetCifar

MEASURED = Measured(4.0, 3.9, 4.1, 8.0, 7.9, 8.1, Ratio(2.0, 1.9, 2.1), ())


def made(**changes: Any) -> tuple[RunPlan, RunResult, Linear]:
    """Return a run over ResNet-8's widths, of three epochs."""
    space = ResNetCifar(depth=8, widths=[[8, 16], [16, 32], [32, 64]])
    vector = tuple(0 for _ in space.choices)
    predictor = Linear()
    network, base = space.decode(vector), space.base_network()
    history = tuple(
        SearchEpoch(
            epoch=epoch, tau=1.0, lr=0.1, weight_loss=1.0, logits_loss=1.0, expected=5.0 - epoch / 10,
            ms=5.0 - epoch / 10, bound_ms=5.2 - epoch / 10, accuracy=0.3 * epoch, vector=vector, seconds=1.0,
        )
        for epoch in (1, 2, 3)
    )  # fmt: skip
    plan = RunPlan(
        depth=8, expand=1.0, groups=2, alpha="1", widths="hardware", options=((8, 16), (16, 32), (32, 64)),
        depths=(1,), budget_ms=6.0, cost="law", bound="upper", level=0.9, strategy="gradient",
        search=SearchSettings(), evolution=EvolutionSettings(), recipe=Recipe(), distil=False, data="digits",
        data_digest="", tables=("f" * 64,), latencies="", calibrated=0, seed=0,
    )  # fmt: skip
    search = SearchResult(vector, network, predictor.predict(network, level=0.9), history, 3, 3.0)
    result = RunResult(
        space=space, search=search, base=base, base_predicted_ms=8.2, base_trained=trained(0.9),
        trained=trained(0.875), measured=MEASURED, not_measured=None, selections=(),
    )  # fmt: skip
    return plan, result._replace(**changes), predictor


def test_the_answer_holds_the_network_against_its_budget_and_its_base() -> None:
    plan, result, predictor = made()
    text = seen(search_report(plan, result, predictor))  # type: ignore[arg-type]
    predicted = result.search.prediction.ms
    assert "ResNet-8, searched for made device cpu, batch 4" in text
    assert "· data: digits · budget 6 ms for the upper end of its interval The network found takes 4 ms as" in text
    assert f"{predicted:.4g} ms as predicted ({predicted / 4 - 1:+.1%}): within the budget of 6 ms. " in text
    assert f"{result.base.name} takes 2.00 times as long (1.90 … 2.10). Trained, the network found has" in text
    plan, result, predictor = made(measured=None, not_measured="the battery is empty")
    text = seen(search_report(plan, result, predictor))  # type: ignore[arg-type]
    assert "was not checked by a measurement. Trained" in text
    assert "not measured: the battery is empty" in text
    warned = made(warnings=("the budget limits nothing <b>",))
    assert "the budget limits nothing <b>" in seen(search_report(*warned))  # type: ignore[arg-type]


def test_columns_that_do_not_fit_are_in_the_report_and_no_second_search() -> None:
    _, result, _ = made()
    console = DataConsole(stderr=False, soft_wrap=False)
    console.file = io.StringIO()
    console.width = 60
    print_result(console, result, Path("run/report.html"))
    text = " ".join(console.file.getvalue().split())
    assert "too narrow for M madds, layers: run/report.html shows them" in text
    assert "--json" not in text


def test_its_numbers_are_the_runs() -> None:
    plan, result, predictor = made()
    found, base, *way = trade_off_points(result)
    assert found == ("found", "found", True, 4.0, 3.9, 4.1, 0.875)
    assert base == (result.base.name, "base", True, 8.0, 7.9, 8.1, 0.9)
    assert [(point.kind, point.ms, point.accuracy) for point in way] == [
        ("on the way", epoch.ms, epoch.accuracy) for epoch in result.search.history
    ]
    unmeasured = trade_off_points(result._replace(measured=None))
    assert [point[2:6] for point in unmeasured[:2]] == [
        (False, result.search.prediction.ms, None, None),
        (False, 8.2, None, None),
    ]
    bars = width_bars(result)
    assert [bar.layer for bar in bars][:2] == ["stem", "stage1.block1.conv1"]
    assert {bar.base_channels for bar in bars} == {16, 32, 64}
    assert {bar.found_channels for bar in bars} <= {8, 16, 32, None}
    assert [point.expected_ms for point in epoch_points(plan, result)] == [4.9, 4.8, 4.7]
    madds = epoch_points(plan.__class__(**{**_fields(plan), "cost": "madds"}), result)
    assert [point.expected_ms for point in madds] == [None] * 3
    assert [point.test_accuracy for point in training_points({"a": result.trained, "b": None})] == [
        0.1, 0.5, None, 0.875
    ]  # fmt: skip
    page = search_report(plan, result, predictor)  # type: ignore[arg-type]
    axes = [plot["layout"]["xaxis"] for plot in plots(page)]
    assert [axis["title"].get("text", "") for axis in axes] == [
        "latency in ms", "", "epoch of the search", "epoch of the search", "epoch of the training"
    ]  # fmt: skip
    # There is no epoch 1.5.
    assert [axis["dtick"] for axis in axes[2:]] == [1, 1, 1]
    assert plots(page)[0]["layout"]["shapes"][0]["x0"] == 6.0
    facts = {row[0]: row[1] for row in rows(page) if len(row) == 2}
    assert facts["search's weights: epochs"]
    assert not any(mark in value for value in facts.values() for mark in "[]{}")


def _fields(plan: RunPlan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__struct_fields__}


@pytest.mark.parametrize(
    ("budget_ms", "said"),
    [(4.2, ": within the budget of 4.2 ms."), (4.05, ": it may exceed the budget of 4.05 ms."),
     (3.2, ": it exceeds the budget of 3.2 ms by 25.0%."), (None, "as predicted (+5.0%).")],
)  # fmt: skip
def test_a_budget_is_held_against_what_was_measured(budget_ms: float | None, said: str) -> None:
    text = latency_sentence(4.2, MEASURED, budget_ms)
    assert text.startswith("The network found takes 4 ms as measured (3.9 … 4.1), 4.2 ms as predicted (+5.0%)")
    assert text.endswith(said)


def test_what_is_not_known_is_not_said() -> None:
    assert latency_sentence(None, None, None) == speed_up_sentence("base", None) == ""
    assert latency_sentence(4.2, None, None) == "The network found is predicted to take 4.2 ms."
    assert latency_sentence(None, MEASURED, None) == "The network found takes 4 ms as measured (3.9 … 4.1)."
    assert accuracy_sentence(trained(0.9), "base", None).endswith("a test accuracy of 90.00%.")
    assert warnings_of(None, None, NOT_ASKED) == [Text(f"Not measured: {NOT_ASKED}.")]
    assert warnings_of(None, MEASURED._replace(warnings=("hot",)), "late") == [
        Notice("warning", "hot"), Notice("bad", "not measured: late")
    ]  # fmt: skip


def test_settings_are_written_as_readers_write_them() -> None:
    assert [setting_text(value) for value in (None, "", (), {}, 0, False, 0.5, "a_b")] == [
        "–", "–", "–", "–", "0", "False", "0.5", "a_b"
    ]  # fmt: skip
    assert setting_text([1, 2]) == "1, 2"
    assert setting_text(((1, 2), (3,))) == "1, 2; 3"
    assert setting_text({"a": 1, "b": [2, 3]}) == "a 1, b 2, 3"
    (table,) = settings_section([("space", "x"), ("space", {"two_words": 1}), ("none", None)]).blocks
    assert isinstance(table, Table)
    assert table.rows == [["space", "x"], ["space: two words", "1"], ["none", "–"]]


@needs_browser
@pytest.mark.parametrize("width", [1000, 400])
def test_a_browser_shows_it_within_its_window(tmp_path: Path, width: int) -> None:
    seen = seen_in_browser(search_report(*made()), width, tmp_path)  # type: ignore[arg-type]
    assert seen["plots"] == seen["drawn"] == 5
    assert seen["narrow"] == 0
    assert seen["overflow"] <= 0

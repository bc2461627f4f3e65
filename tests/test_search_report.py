"""What the reports of all searches share, HTAS's and evolution's: numbers first, and sentences that dare to say no."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from _browser import needs_browser, seen_in_browser
from _reports import Linear, checked, made_plan, plots, round_of, rows, seen, tables, trained, verified

from lut import Network
from lut._terminal import DataConsole
from profiler._compare import Ratio
from profiler._report._page import Notice, Table, Text
from search import EvolutionSettings, NasBenchMacro, Recipe, SearchSettings
from search._accuracy._source import Source
from search._commands._show import print_result
from search._problem._problem import Problem
from search._runs._anchors import Anchor
from search._runs._compared import checked_points
from search._runs._ending import NOT_ASKED, Measured, measured_before
from search._runs._found import Candidate, Evaluated, Found
from search._runs._report import report, trade_off_points
from search._runs._report_parts import (
    accuracy_sentence,
    latency_sentence,
    setting_text,
    settings_section,
    speed_up_sentence,
    training_points,
    warnings_of,
)
from search._runs._result import Finalist, RunResult
from search._runs._summary import summary
from search._runs._verify import CheckedNetwork, Round
from search.evolution._method import EvolutionMethod
from search.evolution._report import evaluated_points
from search.evolution._settings import Course
from search.evolution._settings import Round as CourseRound
from search.htas._method import HtasMethod, Logits
from search.htas._report import epoch_points, width_bars
from search.htas._settings import SearchEpoch, SearchResult
from search.spaces._resnet_cifar import ResNetCifar

MEASURED = Measured(4.0, 3.9, 4.1, 8.0, 7.9, 8.1, Ratio(2.0, 1.9, 2.1), ())


def made(**changes: Any) -> RunResult:
    """Return a run of HTAS over ResNet-8's widths, of three epochs."""
    problem = Problem(ResNetCifar(depth=8, widths=[[8, 16], [16, 32], [32, 64]]), Linear(), ms=6.0)
    vector = tuple(0 for _ in problem.space.choices)
    prediction = problem.predict(vector)
    assert prediction is not None
    history = tuple(
        SearchEpoch(
            epoch=epoch, tau=1.0, lr=0.1, weight_loss=1.0, logits_loss=1.0, expected=5.0 - epoch / 10,
            ms=5.0 - epoch / 10, bound_ms=5.2 - epoch / 10, accuracy=0.3 * epoch, vector=vector, seconds=1.0,
        )
        for epoch in (1, 2, 3)
    )  # fmt: skip
    data: Any = None
    method = HtasMethod(data, SearchSettings(), cost="law", depth=8, expand=1.0, groups=2)
    course = SearchResult(vector, problem.network(vector), prediction, history, 3, 3.0)
    found = Found("htas", problem, (Candidate(vector, -2.5),), Logits(()), 0, 3.0, course)
    result = RunResult(
        plan=made_plan(method, problem, recipe=Recipe(), data="digits", tables=("f" * 64,)), method=method,
        found=found, base=method.base(problem), base_predicted_ms=8.2, base_trained=trained(0.9),
        trained=trained(0.875), measured=MEASURED, not_measured=None, verification=None, finalists=(), warnings=(),
    )  # fmt: skip
    return result._replace(**changes)


def made_evolution(**changes: Any) -> RunResult:
    """Return a run of an evolution of NAS-Bench-Macro's blocks that evaluated every eighth of 160 networks."""
    problem = Problem(NasBenchMacro(), Linear(), ms=6.0)

    def value(networks: Sequence[Network]) -> list[float]:
        return [0.5 + 0.02 * sum(map(int, network.name)) for network in networks]

    method = EvolutionMethod(EvolutionSettings(population=10, generations=2), Source("a formula", value, "f" * 64))
    vectors = [tuple(number // 3**i % 3 for i in range(8)) for number in range(0, 6561, 331)]
    within = [problem.canonical(vector) for vector in vectors if problem.fits(vector)]
    assert len(within) > 8
    values = {vector: value([problem.network(vector)])[0] for vector in within}
    knowledge = Evaluated(values)
    course = Course((CourseRound(1, 5, 0.55), CourseRound(2, len(values), max(values.values()))))
    found = Found("evolution", problem, knowledge.candidates(problem, 1), knowledge, len(values), 3.0, course)
    result = RunResult(
        plan=made_plan(method, problem), method=method, found=found, base=method.base(problem),
        base_predicted_ms=2.5, base_trained=None, trained=None, measured=None, not_measured=NOT_ASKED,
        verification=None, finalists=(), warnings=(),
    )  # fmt: skip
    return result._replace(**changes)


def measured_as(result: RunResult, *rounds: Round, **changes: Any) -> RunResult:
    """Return a run whose networks were measured: its result is the best of them within the budget, or the nearest."""
    verification, last = verified(result.problem, result.found.vectors[0], *rounds, **changes)
    found = replace(result.found, winners=(Candidate(last.vector, last.value),))
    result = result._replace(
        found=found, verification=verification, measured=measured_before(verification), not_measured=None
    )
    if verification.chosen is None:
        return result._replace(trained=None, base_trained=None)
    return result


def repaired(holds: str = "reference-speed") -> RunResult:
    """Return an evolution whose first choice exceeded the budget, and that chose again after a second session."""
    result = made_evolution()
    problem = result.problem.replace(holds=holds)
    result = result._replace(found=replace(result.found, problem=problem))
    first, second, third, fourth = result.found.knowledge.candidates(problem, 4)

    def seen_as(one: Candidate, predicted_ms: float, ms: float) -> CheckedNetwork:
        return checked(problem, one.vector, one.value, predicted_ms, ms)

    return measured_as(
        result,
        round_of(seen_as(first, 5.2, 6.4), seen_as(second, 5.0, 6.02)),
        round_of(seen_as(third, 5.4, 5.6), seen_as(fourth, 5.1, 5.0)),
        margin=1.08,
    )


def missed() -> RunResult:
    """Return a run of which nothing that was measured keeps the budget."""
    result = made()
    problem = result.problem
    other = (1, *result.found.vectors[0][1:])
    return measured_as(
        result,
        round_of(checked(problem, result.found.vectors[0], -2.5, 5.5, 7.0), checked(problem, other, -3.5, 5.0, 6.3)),
        margin=0.97,
    )


def printed(result: RunResult, width: int) -> list[str]:
    """Return what a terminal of a width shows, line by line."""
    console = DataConsole(stderr=False, soft_wrap=False)
    console.file = io.StringIO()
    console.width = width
    print_result(console, result, Path("run/report.html"))
    return console.file.getvalue().splitlines()


# --- HTAS ---


def test_the_answer_holds_the_network_against_its_budget_and_its_base() -> None:
    result = made()
    text = seen(report(result))
    predicted = result.problem.ms(result.found.vectors[0])
    assert "ResNet-8, searched for made device htas · cpu, batch 4" in text
    assert "· data: digits · accuracies: shared weights · budgets: 6 ms for the upper end of its 90% interval" in text
    assert f"The network found takes 4 ms as measured (3.9 … 4.1), {predicted:.4g} ms as predicted " in text
    assert f"({predicted / 4 - 1:+.1%}): within the budget of 6 ms. " in text
    assert f"{result.base.name} takes 2.00 times as long (1.90 … 2.10). Trained, the network found has" in text
    text = seen(report(made(measured=None, not_measured="the battery is empty")))
    assert "was not checked by a measurement. Trained" in text
    assert "not measured: the battery is empty" in text
    assert "the budget limits nothing <b>" in seen(report(made(warnings=("the budget limits nothing <b>",))))


def test_columns_that_do_not_fit_are_in_the_report_and_no_second_search() -> None:
    text = " ".join(" ".join(printed(made(), 60)).split())
    assert "too narrow for M madds, layers: run/report.html shows them" in text
    assert "--json" not in text


def test_its_numbers_are_the_runs() -> None:
    result = made()
    method = result.method
    assert isinstance(method, HtasMethod)
    found, base, *way = trade_off_points(result)
    assert found == ("found", "found", True, 4.0, 3.9, 4.1, 0.875)
    assert base == (result.base.name, "base", True, 8.0, 7.9, 8.1, 0.9)
    assert [(point.kind, point.ms, point.accuracy) for point in way] == [
        ("on the way", epoch.ms, epoch.accuracy) for epoch in result.found.course.history
    ]
    unmeasured = trade_off_points(result._replace(measured=None))
    assert [point[2:6] for point in unmeasured[:2]] == [
        (False, result.problem.ms(result.found.vectors[0]), None, None),
        (False, 8.2, None, None),
    ]
    bars = width_bars(result)
    assert [bar.layer for bar in bars][:2] == ["stem", "stage1.block1.conv1"]
    assert {bar.base_channels for bar in bars} == {16, 32, 64}
    assert {bar.found_channels for bar in bars} <= {8, 16, 32, None}
    assert [point.expected_ms for point in epoch_points(method, result)] == [4.9, 4.8, 4.7]
    assert [point.expected_ms for point in epoch_points(replace(method, cost="madds"), result)] == [None] * 3
    assert [point.test_accuracy for point in training_points({"a": result.trained, "b": None})] == [
        0.1, 0.5, None, 0.875
    ]  # fmt: skip
    page = report(result)
    axes = [plot["layout"]["xaxis"] for plot in plots(page)]
    assert [axis["title"].get("text", "") for axis in axes] == [
        "latency in ms", "", "epoch of the search", "epoch of the search", "epoch of the training"
    ]  # fmt: skip
    # There is no epoch 1.5.
    assert [axis["dtick"] for axis in axes[2:]] == [1, 1, 1]
    assert plots(page)[0]["layout"]["shapes"][0]["x0"] == 6.0
    assert "The network was derived after epoch 3." in seen(page)
    facts = {row[0]: row[1] for row in rows(page) if len(row) == 2}
    assert facts["search: recipe: epochs"] == "600"
    assert not any(mark in value for value in facts.values() for mark in "[]{}")
    table = tables(page)[0]
    assert table[0][4:] == ["log-probability", "M multiply-adds", "M parameters", "layers"]
    assert [row[4] for row in table[1:]] == ["-2.5", "–"]
    assert [row[-1] for row in table[1:]] == [str(len(n.layers)) for n in (result.network, result.base)]


# --- sentences ---


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
    (table,) = settings_section(
        [("space", "x"), ("space", {"two_words": 1}), ("none", None), ("a", {"b": {"c": 1}, "d": 2})]
    ).blocks
    assert isinstance(table, Table)
    assert table.rows == [["space", "x"], ["space: two words", "1"], ["none", "–"], ["a: b: c", "1"], ["a: d", "2"]]


# --- what measuring said of the budget ---


def test_each_network_measured_is_held_against_the_budget() -> None:
    result = repaired()
    page = report(result)
    text = seen(page)
    assert (
        "4 networks that the search selected were measured in 2 sessions; its first choice, network 1, exceeds the "
        "budget. A network keeps the budget of 6 ms if the upper end of its measured interval does, at the machine's "
        "reference speed. On average, networks that the search selects take 8.0% longer than the predictor says. Upper "
        "ends of later sessions allow for what earlier ones showed."
    ) in text
    (table,) = [table for table in tables(page) if "prediction error" in table[0]]
    assert table[0][:5] == ["network", "budget 6 ms", "measured ms", "predicted ms", "prediction error"]
    assert [row[0] for row in table[1:]] == ["1 first choice", "2", "3 found", "4"]
    assert [row[1] for row in table[1:]] == ["exceeds", "may exceed", "within", "within"]
    assert table[3][2:6] == ["5.6 5.544 … 5.656", "5.4 up to 5.94", "-3.6%", "68.00%"]
    assert "sessions" not in table[0]
    calibrated = result._replace(plan=msgspec.structs.replace(result.plan, calibrated=20))
    assert "than the predictor says, now that it is calibrated on them too." in seen(report(calibrated))
    # Names that tell networks apart.
    assert table[3][6] == result.network.name
    # What was predicted before it was measured, not what a predictor says that has seen the measurement.
    assert "5.6 ms as measured (5.544 … 5.656), 5.4 ms as predicted (-3.6%): within the budget of 6 ms." in text
    networks = tables(page)[0]
    assert networks[1][:3] == ["found", "5.4 (up to 5.94)", "5.6 (5.544 … 5.656)"]


def test_a_network_of_several_sessions_is_one_row() -> None:
    result = repaired()
    problem, verification = result.problem, result.verification
    assert verification is not None
    third, fourth = verification.rounds[1].networks
    again = checked(problem, third.vector, third.value, 5.5, 5.62)
    anchors = tuple(Anchor(ms, 1.08 * ms) for ms in (5.0, 6.0, 7.0))
    rounds = (
        verification.rounds[0],
        round_of(third, fourth),
        msgspec.structs.replace(round_of(again), anchors=anchors),
    )
    result = result._replace(verification=msgspec.structs.replace(verification, rounds=rounds))
    page = report(result)
    (table,) = [table for table in tables(page) if "prediction error" in table[0]]
    assert table[0][6] == "sessions"
    assert [row[6] for row in table[1:]] == ["1", "1", "2", "1"]
    # The mean of both, and half the squares of their intervals' widths; what was predicted is what was predicted first.
    assert table[3][2:5] == ["5.61 5.57 … 5.65", "5.4 up to 5.94", "-3.7%"]
    assert "were measured in 3 sessions" in seen(page)
    assert "how much longer they took now (+8.0% by session, after the sentinels) is taken out" in seen(page)
    # Without a reference, latencies stand at the calibration's speed, or at their session's.
    without = tuple(msgspec.structs.replace(done, at_reference=False, anchors=anchors) for done in rounds)
    other = result._replace(verification=msgspec.structs.replace(verification, rounds=without))
    assert "at the machine's reference speed" in seen(report(other))
    bare = tuple(msgspec.structs.replace(done, at_reference=False, anchors=()) for done in rounds)
    other = result._replace(verification=msgspec.structs.replace(verification, rounds=bare))
    assert "for want of a reference" in seen(report(other))
    told = summary(result)["verification"]
    assert [one["measured_ms"] for one in told["networks"]] == pytest.approx([6.4, 6.02, (5.6 * 5.62) ** 0.5, 5.0])
    assert [len(one) for one in told["sessions"]] == [2, 2, 1]
    assert told["slower_than_calibration"] == [None, None, pytest.approx(0.08)]


def test_its_chart_shows_budget_prediction_measurement_and_verdict() -> None:
    (plot,) = [plot for plot in plots(report(repaired())) if plot["layout"]["yaxis"].get("ticktext")]
    assert plot["layout"]["yaxis"]["ticktext"] == ["1, first choice", "2", "3, found", "4"]
    assert plot["layout"]["shapes"][0]["x0"] == 6.0
    assert plot["layout"]["annotations"][0]["text"] == "budget 6 ms"
    predicted, *measured = plot["data"]
    assert predicted["x"] == [5.2, 5.0, 5.4, 5.1]
    assert {trace["name"]: (trace["x"], trace["y"]) for trace in measured} == {
        "measured, within the budget": ([5.6, 5.0], [3, 4]),
        "measured, may exceed it": ([6.02], [2]),
        "measured, exceeds it": ([6.4], [1]),
    }
    low, high = plot["layout"]["xaxis"]["range"]
    assert low < 5.0 * 0.99 < 6.4 * 1.01 < high
    # Told apart without colours.
    assert len({trace["marker"]["symbol"] for trace in plot["data"]}) == 4


def test_where_none_keeps_the_budget_the_nearest_is_called_so() -> None:
    result = missed()
    page = report(result)
    text = seen(page)
    assert (
        "No network measured keeps the budget of 6 ms. The nearest takes 6.3 ms as measured (6.237 … 6.363), 5 ms as "
        "predicted (-20.6%): the upper end of its interval exceeds it by 6.0%. Nothing was trained or exported. "
    ) in text
    assert "The nearest has 4.178 M multiply-adds and 0.02081 M parameters; log-probability: -3.5." in text
    assert "network found" not in text
    assert [row[0] for row in tables(page)[0][1:]] == ["nearest", "ResNet-8"]
    assert "take 3.0% less than the predictor says." in text
    # A budget below all that was measured is on the axis, and its name beside it.
    layout = plots(page)[0]["layout"]
    assert layout["xaxis"]["range"][0] < layout["shapes"][0]["x0"] == 6.0
    # The chart is the answer, and there but once.
    charts = [plot["layout"]["yaxis"].get("ticktext") for plot in plots(page)]
    assert charts[0] == ["1, first choice", "2, nearest"]
    assert charts.count(charts[0]) == 1
    # Of HTAS's networks all have the same name.
    (table,) = [table for table in tables(page) if "prediction error" in table[0]]
    assert table[0][-1] == "log-probability"
    lines = printed(result, 100)
    assert any(line.startswith("nearest ") for line in lines)
    shown = " ".join(lines)
    assert (
        "budget 6 ms not kept by any network measured: the nearest takes 6.3 ms (6.237 … 6.363) at the machine's "
        "reference speed, 6.0% over it at its upper end nothing was trained or exported 2 networks that the "
        "search selected were measured in 1 session"
    ) in " ".join(shown.split())


def test_any_day_has_its_own_interval_and_says_so() -> None:
    result = repaired("any-day")
    points = checked_points(result)
    assert [point.verdict for point in points] == ["beyond", "unclear", "within", "within"]
    assert points[2].high_ms == pytest.approx(5.6 * 1.03)
    page = report(result)
    assert "does, on any day." in seen(page)
    assert "5.6 ms as measured (5.432 … 5.768 on any day), 5.4 ms as predicted" in seen(page)
    assert "budget 6 ms kept: measured 5.6 ms (5.432 … 5.768) on any day, 3.9% to spare" in printed(result, 100)


def test_a_session_without_a_reference_speed_and_its_warnings_are_told() -> None:
    result = made_evolution()
    one = checked(result.problem, result.found.vectors[0], 0.7, 5.2, 5.0)
    result = measured_as(result, round_of(one, at_reference=False, warnings=("a busy machine",)))
    text = seen(report(result))
    assert "1 network that the search selected was measured in 1 session; its first choice keeps the budget." in text
    assert "does, at the speed that the machine had in its session, for want of a reference." in text
    assert text.count("a busy machine") == 1
    assert "selects take as long as the predictor says." in text
    assert any("at this session's speed" in line for line in printed(result, 100))


def test_finalists_are_told_with_their_optimism_measured_or_not() -> None:
    best, second = made_evolution().found.knowledge.candidates(made_evolution().problem, 2)
    finalists = (Finalist(second.vector, 0.66, 0.65), Finalist(best.vector, 0.68, 0.61))
    for result in (made_evolution(finalists=finalists), repaired()._replace(finalists=finalists)):
        page = report(result)
        (table,) = [table for table in tables(page) if table[0][:1] == ["finalist"]]
        assert table[0] == ["finalist", "as selected", "evaluated again", "optimism (points)", "name"]
        assert [row[:4] for row in table[1:]] == [
            ["1, found", "66.00%", "65.00%", "+1.00"],
            ["2", "68.00%", "61.00%", "+7.00"],
        ]
        assert "the 2 best networks were evaluated again, with another seed" in seen(page)
    text = " ".join(" ".join(printed(made_evolution(finalists=finalists), 200)).split())
    assert "2 finalists evaluated again with another seed: the best has 65.00%, and had 66.00% when it was" in text
    logarithms = (Finalist(second.vector, -2.5, -3.0), Finalist(best.vector, -2.0, -4.0))
    assert ["1, found", "-2.5", "-3", "+0.5"] in [row[:4] for row in rows(report(made_evolution(finalists=logarithms)))]


@pytest.mark.parametrize("width", [40, 60, 100])
@pytest.mark.parametrize("result", [repaired, missed], ids=["repaired", "missed"])
def test_a_terminal_shows_each_network_measured(result: Callable[[], RunResult], width: int) -> None:
    run = result()
    lines = printed(run, width)
    assert max(map(len, lines)) <= width
    for point in checked_points(run):
        own = [line for line in lines if line.startswith(f"{point.number} ") and f"{point.measured_ms:g}" in line]
        (line,) = [line for line in own if width < 60 or f" {point.predicted_ms:g}" in line]
        assert {"within": "within", "unclear": "may exceed", "beyond": "exceeds"}[point.verdict] in line


# --- evolution ---


def test_an_evolutions_page_shows_what_it_evaluated_and_its_course() -> None:
    result = made_evolution()
    page = report(result)
    text = seen(page)
    assert "nas-bench-macro, searched for made device evolution · cpu, batch 4" in text
    assert "accuracies: a formula · budgets: 6 ms for the upper end of its 90% interval" in text
    value = result.found.values[0]
    assert f"M parameters; value: {value:.2%}." in text
    against, course = plots(page)
    evaluated, found = against["data"]
    points = evaluated_points(result)
    assert [point.found for point in points].count(True) == 1
    assert len(evaluated["x"]) == len(points) - 1
    assert found["x"] == [result.problem.bound_ms(result.found.vectors[0])]
    assert found["y"] == [pytest.approx(100 * value)]
    assert against["layout"]["shapes"][0]["x0"] == 6.0
    assert course["data"][0]["x"] == [5, len(points)]
    assert course["data"][0]["y"][0] == pytest.approx(55)
    assert f"by how many networks were evaluated: {len(points)} in all." in text
    decisions = {row[0]: row[1] for row in rows(page) if row[0].startswith("stage") and len(row) == 2}
    assert list(decisions.values()) == list(result.network.name)
    table = tables(page)[0]
    assert table[0][4] == "value"
    assert table[1][4] == f"{value:.2%}"


def test_an_evolution_within_other_budgets_has_a_page_too() -> None:
    result = made_evolution()
    problem = Problem(NasBenchMacro(), madds=2e8)
    plan = msgspec.structs.replace(result.plan, budgets=problem.budgets, bound="predicted")
    values = {vector: 3 * value for vector, value in result.found.knowledge.values.items()}
    found = replace(result.found, problem=problem, knowledge=Evaluated(values))
    found = replace(found, winners=(Candidate(found.vectors[0], 3 * found.values[0]),))
    page = report(result._replace(plan=plan, found=found, base_predicted_ms=None))
    assert "nas-bench-macro, searched within budgets" in seen(page)
    against, course = plots(page)
    assert against["layout"]["xaxis"]["title"]["text"] == "M multiply-adds"
    assert against["layout"]["shapes"][0]["x0"] == 200
    assert against["layout"]["yaxis"]["title"]["text"] == "value"
    assert course["data"][0]["y"][0] == pytest.approx(0.55)
    assert f"value: {found.values[0]:.4g}." in seen(page)


# --- in a browser ---


@needs_browser
@pytest.mark.parametrize("width", [1000, 400])
@pytest.mark.parametrize(
    ("result", "charts"), [(made, 5), (repaired, 3), (missed, 4)], ids=["htas", "evolution-repaired", "htas-missed"]
)
def test_a_browser_shows_it_within_its_window(
    result: Callable[[], RunResult], charts: int, tmp_path: Path, width: int
) -> None:
    seen = seen_in_browser(report(result()), width, tmp_path)
    assert seen["plots"] == seen["drawn"] == charts
    assert seen["narrow"] == 0
    assert seen["overflow"] <= 0

"""RCAS's page: what a reader sees of a run, whatever the run lacks, and that nothing in it becomes markup."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import msgspec
import pytest
from _browser import needs_browser, seen_in_browser
from _predictors import DEVICE
from _reports import EVIL, Linear, checked, made_plan, markup, plots, round_of, rows, seen, trained, verified

from lut import Network
from profiler._compare import Ratio
from search import NasBenchMacro, RCNet, Recipe
from search._accuracy._source import Source
from search._problem._problem import Problem
from search._runs._ending import NOT_ASKED, Measured
from search._runs._found import Candidate
from search._runs._report import report
from search._runs._result import Finalist, RunResult
from search.rcas._course import course_of, found_of
from search.rcas._method import RcasMethod
from search.rcas._report import path_points
from search.rcas._search import RcasSettings, RcasStep, search_rcas

FEW = (1, 5)


def accuracy(network: Network) -> float:
    wobble = random.Random(network.as_layer().digest).gauss(0, 0.002)
    return 0.9 - 0.5 * math.exp(-network.parameters / 4e5) + wobble


def evaluate(networks: Sequence[Network]) -> list[float]:
    return [accuracy(network) for network in networks]


def made(problem: Problem, value: Any = evaluate, **settings: Any) -> RunResult:
    """Search, and return a run that neither trained nor measured."""
    search = RcasSettings(**settings)
    method = RcasMethod(search, Source("a formula", value, "f" * 64))
    base, predictor = method.base(problem), problem.predictor
    return RunResult(
        plan=made_plan(method, problem),
        method=method,
        found=found_of(problem, search_rcas(problem, value, search)),
        base=base,
        base_predicted_ms=None if predictor is None else predictor.latency_ms(base),
        base_trained=None,
        trained=None,
        measured=None,
        not_measured=NOT_ASKED,
        verification=None,
        finalists=(),
        warnings=(),
    )


def with_course(run: RunResult, **changes: Any) -> RunResult:
    return run._replace(found=replace(run.found, course=course_of(run.found)._replace(**changes)))


def whole() -> RunResult:
    """Return a run with all that there can be, but a verification."""
    predictor = Linear(outside=("deeper than any",))
    run = made(Problem(RCNet("cifar", positions=3), predictor, ms=10.0, parameters=0.8e6, madds=4e7))
    short = msgspec.to_builtins(Recipe(epochs=7))
    settings = {**run.plan.settings, "short_training": short}
    plan = msgspec.structs.replace(run.plan, recipe=Recipe(), settings=settings, data="digits")
    (prediction,) = run.found.predictions
    measured = Measured(
        prediction.ms / 1.05, 4.25, 4.75, 17.5, 17.0, 18.0, Ratio(2.125, 2.0, 2.25), ("the clock moved",)
    )
    return run._replace(
        plan=plan, base_trained=trained(0.8125), trained=trained(0.8765), measured=measured, not_measured=None
    )


@pytest.fixture(scope="module")
def full() -> RunResult:
    return whole()


def drawings(page: str) -> list[list[tuple[str, str]]]:
    """Return the boxes of each drawn network: their kind, and what they say to a mouse."""
    found = []
    for svg in re.findall(r"<svg.*?</svg>", markup(page), re.DOTALL):
        boxes = re.findall(r'<g class="box (\w+)".*?><title>(.*?)</title>', svg, re.DOTALL)
        found.append([(kind, unescape(title)) for kind, title in boxes])
    return found


def test_its_head_says_what_was_asked_for_and_what_came_of_it(full: RunResult) -> None:
    text = seen(report(full))
    assert "rcnet-cifar, searched for made device" in text
    assert "cpu, batch 4, float32, 1 thread" in text
    assert "data: digits ·" in text
    assert "10 ms for the upper end of its 90% interval, 0.8 M parameters, 40 M multiply-adds" in text
    assert "ms as predicted (+5.0%): within the budget of 10 ms." in text
    assert "MobileNetV2 takes 2.12 times as long (2.00 … 2.25). Trained, the network found has" in text
    assert "a test accuracy of 87.65%, MobileNetV2 of 81.25%." in text
    assert "unlike the networks that the prediction rests on: deeper than any" in text
    assert "the clock moved" in text
    assert "all accuracies are at chance" in seen(report(full._replace(warnings=("all accuracies are at chance",))))
    unmeasured = full._replace(measured=None, not_measured="the battery is empty")
    text = seen(report(unmeasured))
    assert "not measured: the battery is empty" in text
    prediction = course_of(full.found).prediction
    assert prediction is not None
    assert f"predicted to take {prediction.ms:.4g} ms; the budget of 10 ms was not checked by a measurement." in text
    assert "times as long" not in text
    predicted = made(Problem(RCNet("cifar", positions=1), Linear(), ms=10.0, bound="predicted"))
    assert "10 ms for its prediction The network" in seen(report(predicted))


def test_its_table_sets_the_network_beside_the_baseline_and_the_first(full: RunResult) -> None:
    found = course_of(full.found)
    table = {row[0]: row[1:] for row in rows(report(full)) if len(row) == 8 and row[0] != "step"}
    first = full.problem.needs((0,) * 18)
    needed = full.problem.needs(found.vector)
    # Stage 1's block is no decision; four others are there from the start.
    blocks = sum(index > 0 for index in found.vector) + 5
    assert first.ms is not None
    assert table["found"][2:] == [
        "87.65%",
        f"{found.value:.2%}",
        f"{needed.madds / 1e6:.1f}",
        f"{needed.parameters / 1e6:.3f}",
        str(blocks),
    ]
    assert table["found"][1].endswith("(4.25 … 4.75)")
    base = f"{full.problem.madds(full.base) / 1e6:.1f}"
    assert table["MobileNetV2"][1:] == ["17.5 (17 … 18)", "81.25%", "–", base, "2.237", "17"]
    assert table["first network"] == [
        f"{first.ms:.4g} (up to {1.1 * first.ms:.4g})",
        "–",
        "–",
        f"{found.paths[0].steps[0].value:.2%}",
        f"{first.madds / 1e6:.1f}",
        f"{first.parameters / 1e6:.3f}",
        "5",
    ]


def test_a_network_is_drawn_with_a_box_for_each_position(full: RunResult) -> None:
    found, base = drawings(report(full))
    space, search = full.problem.space, course_of(full.found)
    boxes = {title.partition(":")[0]: (kind, title) for kind, title in found}
    # And stage 1's block, of which there is no decision.
    assert len(boxes) == len(found) == 19
    assert boxes.keys() == {"stage1.block1", *(decision.name for decision in space.choices)}
    for decision, index in zip(space.choices, full.problem.canonical(search.vector), strict=True):
        kind, title = boxes[decision.name]
        layers = [item.layer for item in search.network.layers if item.name.startswith(f"{decision.name}.")]
        option = decision.options[index]
        assert kind == ("begun" if len(decision.options) == 1 else "taken" if option else "empty")
        assert title.startswith(f"{decision.name}: " + (f"type {option}: t=" if option else "empty"))
        if layers:
            assert f"{layers[0].inputs[0][0]} → {layers[-1].output_shape[0]} channels" in title
            assert f"{sum(layer.madds for layer in layers) / 1e6:.3f} M multiply-adds" in title
            assert f"{sum(layer.parameters for layer in layers) / 1e6:.4f} M parameters" in title
        else:
            assert "adds" not in title
    assert boxes["stage1.block1"][0] == "begun"
    assert len(base) == 17
    assert all(kind == "taken" for kind, _ in base)
    assert base[1][1].startswith("stage2.block1: 16 → 24 channels")
    labels = re.findall(r'font-weight="bold">(.*?)<', markup(report(full)))
    assert labels[-17:] == ["t=1", *["t=6"] * 16]
    text = seen(report(full))
    for kind in ("type 1: t=3, g_e=1, g_p=1", "type 6: t=12, g_e=2, g_p=4", "there from the start", "empty"):
        assert f" {kind} " in text


def test_positions_are_drawn_as_the_network_is_built() -> None:
    run = made(Problem(RCNet("cifar", positions=3, types=FEW), parameters=0.5e6))
    # The same network: type 1 in stage 5, in its last position instead of its first.
    vector = (*[0] * 9, 0, 0, 1, *[0] * 6)
    page = report(run._replace(found=replace(run.found, winners=(Candidate(vector, 0.5),))))
    stage = [(kind, title) for kind, title in drawings(page)[0] if title.startswith("stage5")]
    assert [kind for kind, _ in stage] == ["taken", "empty", "empty"]
    assert stage[0][1].startswith("stage5.block1: type 1: t=3, g_e=1, g_p=1\n64 → 96 channels")


def test_rows_are_stages_and_decisions_without_a_dot_have_their_own() -> None:
    names = dict(
        zip(
            (decision.name for decision in NasBenchMacro().choices),
            ("first", "second <i>", "s.1", "s.2", "s.3", "t.1", "t.2", "t.3"),
            strict=True,
        )
    )

    def renamed(name: str) -> str:
        block, dot, part = name.rpartition(".")
        return f"{names.get(block, block)}{dot}{part}"

    class Plain(NasBenchMacro):
        """The space with other names."""

        @property
        def choices(self) -> Any:
            return tuple(msgspec.structs.replace(d, name=names[d.name]) for d in NasBenchMacro().choices)

        def decode(self, vector: Sequence[int]) -> Network:
            network = NasBenchMacro().decode(vector)
            layers = [
                msgspec.structs.replace(
                    item, name=renamed(item.name), inputs=item.inputs and tuple(map(renamed, item.inputs))
                )
                for item in network.layers
            ]
            return Network(network.name, tuple(layers))

    run = made(Problem(Plain(), madds=2e8))
    page = report(run)
    (svg, *_) = re.findall(r"<svg.*?</svg>", markup(page), re.DOTALL)
    places = [(float(x), float(y)) for x, y in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', svg)]
    assert [sum(y == row for _, y in places) for row in sorted({y for _, y in places})] == [1, 1, 3, 3]
    # Nothing lies on anything else.
    assert len(set(places)) == 8
    assert "second &lt;i&gt;" in svg


def test_its_plots_show_each_path_against_each_budget(full: RunResult) -> None:
    found = course_of(full.found)
    shown = plots(report(full))
    assert [plot["layout"]["xaxis"]["title"]["text"] for plot in shown] == [
        "latency in ms",
        "predicted ms, up to (90%)",
        "M parameters",
        "M multiply-adds",
        "networks evaluated",
        "epoch of the training",
    ]
    shown = shown[1:]
    for plot, limit in zip(shown, (10.0, 0.8, 40.0), strict=False):
        assert plot["layout"]["shapes"][0]["x0"] == limit
        low, high = plot["layout"]["xaxis"]["range"]
        assert low < min(map(min, (trace["x"] for trace in plot["data"]))) < limit < high
        *paths, diamond = plot["data"]
        assert [trace["name"] for trace in paths] == ["uniform", "params", "madds", "latency"]
        assert [len(trace["x"]) for trace in paths] == [len(path.steps) for path in found.paths]
        assert diamond["marker"]["symbol"] == "diamond"
        assert diamond["y"] == [100 * found.value]
        # The diamond is where its path ends.
        assert (diamond["x"], diamond["y"]) in [([trace["x"][-1]], [trace["y"][-1]]) for trace in paths]
    latency, step = shown[0]["data"][3], found.paths[3].steps[1]
    assert step.bound_ms == latency["x"][1]
    ((name, option),) = step.changed.items()
    assert latency["text"][0] == "the first network"
    assert latency["text"][1].startswith(
        f"{name}: {option}<br>gain {100 * step.gain:+.2f} points<br>cost {step.cost:+.4g} ms"
    )
    evaluated = [
        sum(step.evaluated for step in found.paths[0].steps[: i + 1]) for i in range(len(found.paths[0].steps))
    ]
    assert shown[3]["data"][0]["x"] == evaluated
    assert shown[4]["data"][0]["y"] == [10, 50, None, pytest.approx(87.65)]
    assert [trace["name"] for trace in shown[4]["data"]] == ["found", "MobileNetV2"]


@pytest.mark.parametrize(("rule", "unit", "size"), [("params", "adds M parameters", 1e6), ("latency", "adds ms", 1)])
def test_the_path_taken_is_told_step_by_step(rule: str, unit: str, size: float) -> None:
    run = made(Problem(RCNet("cifar", positions=2, types=FEW), Linear(), ms=9.0), rules=(rule,))
    (path,) = course_of(run.found).paths
    table = rows(report(run))
    (header,) = [i for i, row in enumerate(table) if row[:1] == ["step"]]
    assert table[header][4:] == [
        unit, "predicted ms", "M multiply-adds", "M parameters", "evaluated, of plain", "gains that rose"
    ]  # fmt: skip
    shown = table[header + 1 : header + 1 + len(path.steps)]
    assert len(path.steps) > 2
    for number, (row, step) in enumerate(zip(shown, path.steps, strict=True)):
        assert step.ms is not None
        if number:
            ((name, option),) = step.changed.items()
            assert row[1] == f"{name}: {option}"
            assert row[3:5] == [f"{100 * step.gain:+.2f}", f"{step.cost / size:+.4f}"]
        assert row[0] == str(number)
        assert row[2] == f"{step.value:.2%}"
        assert row[5:] == [
            f"{step.ms:.4g}",
            f"{step.madds / 1e6:.2f}",
            f"{step.parameters / 1e6:.4f}",
            f"{step.evaluated} of {step.plain}",
            f"{step.exceeded} of {step.revisited}",
        ]


def test_a_better_network_on_the_way_is_pointed_out() -> None:
    def falling(networks: Sequence[Network]) -> list[float]:
        # A second block does harm.
        return [0.5 + 0.1 * (n.name.count("1") == 1) - 0.01 * sum(map(int, n.name)) for n in networks]

    problem = Problem(NasBenchMacro())
    problem = problem.replace(madds=problem.needs((1, 1, 1, 0, 0, 0, 0, 0)).madds)
    assert "Step 1 was better, with 59.00%;" in seen(report(made(problem, falling)))
    stopped = made(problem, falling, stop_without_gain=True)
    assert "was better" not in seen(report(stopped))


def test_it_says_what_laziness_saved_and_that_nothing_is_guaranteed(full: RunResult) -> None:
    changed = {"evaluated": 300, "plain": 1200, "revisited": 2345, "exceeded": 67, "excess": 0.0123}
    text = seen(report(with_course(full, **changed)))
    assert "300 networks were evaluated, of 1,200 that a plain greedy search would" in text
    assert "(75% saved)" in text
    assert "67 of 2,345 re-evaluated gains increased, by 1.23 points at most" in text
    assert "½(1−1/e)" in text
    assert "nothing of it is guaranteed" in text
    eager = with_course(full, revisited=0)._replace(
        method=replace(full.method, search=RcasSettings(lazy=False))  # type: ignore[type-var]
    )
    assert "laziness was off. No gain was re-evaluated." in seen(report(eager))


def test_a_run_without_predictor_trainings_and_measurement_has_a_page_too() -> None:
    run = made(Problem(RCNet("cifar", positions=2, types=FEW, classes=1000), madds=3e7))
    page = report(run)
    text = seen(page)
    assert "rcnet-cifar, searched within budgets" in text
    assert "accuracies: a formula · budgets: 30 M multiply-adds The network found has" in text
    needs = run.problem.needs(run.found.vectors[0])
    assert (
        f"has {needs.madds / 1e6:.4g} M multiply-adds and {needs.parameters / 1e6:.4g} M parameters; set function: "
        f"{course_of(run.found).value:.2%}."
    ) in text
    assert "Not measured: it was not asked for." in text
    assert 'class="notice bad"' not in page
    table = {row[0]: row for row in rows(page) if len(row) == 8}
    assert table["found"][1:4] == table["MobileNetV2"][1:4] == ["–"] * 3
    # Multiply-adds as the paper counts them: without the classifier.
    assert table["MobileNetV2"][5] == f"{(run.base.madds - 1_280_000) / 1e6:.1f}"
    assert "The trainings" not in text
    assert "None" not in text
    assert not any("predicted ms" in row for row in rows(page) if row[:1] == ["step"])
    assert [plot["layout"]["xaxis"]["title"]["text"] for plot in plots(page)] == [
        "M multiply-adds",
        "networks evaluated",
    ]


def test_the_first_network_is_not_listed_twice_where_it_is_the_baseline() -> None:
    run = made(Problem(NasBenchMacro(), Linear(), ms=5.0, bound="predicted"))
    page = report(run)
    table = [row for row in rows(page) if len(row) == 8]
    assert [row[0] for row in table] == ["network", "found", "00000000, first network"]
    assert [row[-1] for row in table[1:]] == [str(sum(i > 0 for i in course_of(run.found).vector)), "0"]
    found, base = drawings(page)
    assert len(found) == len(base) == 8
    # An identity that halves the maps is a convolution.
    assert base[0] == ("empty", "stage1.block1: empty\n32 → 64 channels, 0.524 M multiply-adds, 0.0022 M parameters")
    assert base[1] == ("empty", "stage1.block2: empty")
    assert " option 2 " in seen(page)


def test_exchanges_are_told_with_the_path_that_they_began_with() -> None:
    def tricky(networks: Sequence[Network]) -> list[float]:
        # What is best alone leaves no room for what is best together.
        return [{"20000000": 0.5, "11000000": 0.8}.get(network.name, 0.1) for network in networks]

    problem = Problem(NasBenchMacro())
    alone, together = (problem.needs((*start, *[0] * 6)).madds for start in ((2, 0), (1, 1)))
    problem = problem.replace(madds=max(alone, together))
    run = made(problem, tricky, exchange=True, rules=("uniform",), stop_without_gain=True)
    greedy, exchange = course_of(run.found).paths
    assert course_of(run.found).rule == exchange.rule == "exchange"
    page = report(run)
    assert "The path taken: exchange " in seen(page)
    tables = [i for i, row in enumerate(rows(page)) if row[:1] == ["step"]]
    assert len(tables) == 2
    first, second = (rows(page)[i + 1 :] for i in tables)
    assert first[len(greedy.steps) - 1][1] == "{}: {}".format(*next(iter(greedy.last.changed.items())))
    last = second[len(exchange.steps) - 1]
    assert last[1] == ", ".join(f"{name}: {option}" for name, option in exchange.last.changed.items())
    assert last[2] == f"{course_of(run.found).value:.2%}"
    against, effort = plots(page)
    assert [trace["name"] for trace in against["data"]] == ["uniform", "exchange", "found"]
    assert [trace["name"] for trace in effort["data"]] == ["uniform"]


def test_a_search_that_could_add_nothing_has_a_page() -> None:
    problem = Problem(RCNet("cifar", positions=1, types=(5,)))
    first = problem.needs((0,) * 6)
    run = made(problem.replace(parameters=first.parameters, madds=2 * first.madds))
    assert all(len(path.steps) == 1 for path in course_of(run.found).paths)
    page = report(run)
    assert ["0", "the first network", f"{course_of(run.found).value:.2%}"] in [row[:3] for row in rows(page)]
    for plot in plots(page)[:2]:
        low, high = plot["layout"]["xaxis"]["range"]
        assert low < plot["data"][0]["x"][0] <= plot["layout"]["shapes"][0]["x0"] < high


def test_values_that_are_no_shares_are_not_in_percent() -> None:
    run = made(Problem(NasBenchMacro(), madds=1e8), lambda networks: [-3 + accuracy(n) for n in networks])
    page = report(run)
    assert plots(page)[0]["layout"]["yaxis"]["title"]["text"] == "set function"
    assert f"set function: {course_of(run.found).value:.4g}." in seen(page)
    assert "points" not in seen(page)


def test_names_cannot_become_markup(full: RunResult) -> None:
    search = course_of(full.found)

    def renamed(step: RcasStep) -> RcasStep:
        return msgspec.structs.replace(step, changed={EVIL: 1})

    paths = tuple(msgspec.structs.replace(path, steps=tuple(map(renamed, path.steps))) for path in search.paths)
    device = msgspec.structs.replace(DEVICE, model=EVIL)
    stem = full.base.layers[0]
    base = Network(EVIL, (msgspec.structs.replace(stem, name=f"{EVIL}.b.{stem.name}"),))
    assert full.measured is not None
    problem = full.problem.replace(predictor=Linear(device, outside=(EVIL,), table=EVIL))
    method = RcasMethod(RcasSettings(), Source(EVIL, evaluate, EVIL))
    plan = msgspec.structs.replace(
        full.plan, space=EVIL, data=EVIL, settings=method.settings(), space_options={EVIL: EVIL}, tables=(EVIL,),
        latencies=EVIL,
    )  # fmt: skip
    run = with_course(full, paths=paths)
    network = checked(problem, run.found.vectors[0], 0.5, 5.0, 4.0)
    named = msgspec.structs.replace(network, timed=msgspec.structs.replace(network.timed, name=EVIL))
    other = checked(problem, (0,) * 18, 0.4, 5.0, 4.0)
    verification, _ = verified(problem, network.vector, round_of(named, other, warnings=(EVIL,)))
    run = run._replace(
        plan=plan,
        method=method,
        found=replace(run.found, problem=problem),
        base=base,
        measured=full.measured._replace(warnings=(EVIL,)),
        not_measured=EVIL,
        verification=verification,
        finalists=(Finalist(network.vector, 0.5, 0.4),),
    )
    page = report(run)
    assert "<script>alert" not in page
    assert seen(page).count(EVIL) > 10
    # Plotly reads tags in names and texts.
    for plot in plots(page):
        for trace in plot["data"]:
            assert "<script" not in str(trace)


def test_it_asks_nobody_for_more(full: RunResult) -> None:
    ours = markup(report(full))
    assert "://" not in ours
    assert not re.search(r'\b(src|href)\s*=\s*(?!"data:)', ours)
    assert ours.count("<script") == 0


def test_settings_are_all_there(full: RunResult) -> None:
    facts = {row[0]: row[1] for row in rows(report(full)) if len(row) == 2}
    assert facts["tables"] == "rcnet-b4.json"
    assert facts["space: positions"] == "3"
    assert facts["budget: madds"] == "40,000,000"
    assert facts["space: types"] == "1, 2, 3, 4, 5, 6"
    assert not any(mark in value for value in facts.values() for mark in "[]{}")
    assert facts["search: lazy"] == "True"
    assert facts["short training: epochs"] == "7"
    assert facts["training: epochs"] == "300"
    assert facts["seed"] == "0"


def test_a_network_that_measuring_chose_is_marked_where_it_is(full: RunResult) -> None:
    path = course_of(full.found).paths[0]
    problem, end, before = full.problem, path.steps[-1], path.steps[-2]
    assert course_of(full.found).rule == path.rule
    networks = [checked(problem, end.vector, end.value, 9.0, 11.0), checked(problem, before.vector, 0.5, 8.5, 9.0)]
    verification, chosen = verified(problem, end.vector, round_of(*networks))
    on_path = full._replace(
        verification=verification, found=replace(full.found, winners=(Candidate(chosen.vector, chosen.value),))
    )
    assert [(p.rule, p.step) for p in path_points(on_path) if p.found] == [(path.rule, len(path.steps) - 2)]
    told = f"another network than this path ends with: the one found is step {len(path.steps) - 2} of the path by "
    assert told + path.rule in seen(report(on_path))
    assert "another network than this path ends with" not in seen(report(full))
    # One that was evaluated, and that no path took.
    away = next(
        v
        for v in full.found.knowledge.values
        if not any(s.vector == v for p in course_of(full.found).paths for s in p.steps)
    )  # type: ignore[attr-defined]
    verification, chosen = verified(problem, away, round_of(checked(problem, away, 0.5, 8.0, 11.0)))
    missed = full._replace(
        trained=None, base_trained=None, verification=verification,
        found=replace(full.found, winners=(Candidate(away, 0.5),)),
    )  # fmt: skip
    page = report(missed)
    assert not any(point.found for point in path_points(missed))
    assert "the one nearest is on no path" in seen(page)
    assert "The nearest network" in seen(page)
    assert "network found" not in seen(page)
    # The answer is the budget's chart, so that the paths are shown against all budgets.
    axes = [plot["layout"]["xaxis"]["title"]["text"] for plot in plots(page)]
    assert axes == [
        *("latency in ms", "predicted ms, up to (90%)", "M parameters", "M multiply-adds", "networks evaluated"),
    ]  # fmt: skip


def test_paths_are_shown_once_where_trained_networks_have_no_latency() -> None:
    run = made(Problem(RCNet("cifar", positions=2, types=FEW), madds=3e7))
    page = report(run._replace(trained=trained(0.9), base_trained=trained(0.8)))
    axes = [plot["layout"]["xaxis"]["title"]["text"] for plot in plots(page)]
    assert axes == ["M multiply-adds", "networks evaluated", "epoch of the training"]


@needs_browser
@pytest.mark.parametrize("width", [1000, 400])
def test_a_browser_shows_it_within_its_window(full: RunResult, tmp_path: Path, width: int) -> None:
    seen = seen_in_browser(report(full), width, tmp_path)
    assert seen["plots"] == seen["drawn"] == 6
    assert seen["boxes"] == 19 + 17
    assert seen["narrow"] == 0
    assert seen["overflow"] <= 0

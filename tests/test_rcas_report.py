"""RCAS's page: what a reader sees of a run, whatever the run lacks, and that nothing in it becomes markup."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from _browser import needs_browser, seen_in_browser
from _predictors import DEVICE, SETTING

from lut import Device, Network
from predictors._predictions import NetworkPrediction
from profiler._compare import Ratio
from search import NasBenchMacro, RCNet, Recipe
from search._problem._resources import Budgets, NetworkResources
from search._runs._parts import NOT_ASKED, Measured
from search._training._train import Epoch, Trained
from search.rcas._report import rcas_report
from search.rcas._run import RcasPlan, RcasRun, base_of
from search.rcas._search import RcasSettings, RcasStep, search_rcas

EVIL = '<script>alert("1")</script>'
BUDGETS = Budgets(ms=10.0, parameters=0.8e6, madds=4e7)
FEW = (1, 5)


class _Table(NamedTuple):
    name: str


class Linear:
    """A predictor of made-up latencies, with 10 % more as the upper end of the interval."""

    def __init__(self, device: Device = DEVICE, outside: tuple[str, ...] = ()) -> None:
        self.device, self.setting, self.tables = device, SETTING, (_Table("rcnet-b4.json"),)
        self.outside = outside

    def latency_ms(self, network: Network) -> float:
        return 0.1 * len(network.layers) + network.madds / 20e6

    def predict(self, network: Network, *, level: float) -> NetworkPrediction:
        ms = self.latency_ms(network)
        return NetworkPrediction(network.name, ms, 0.9 * ms, 1.1 * ms, level, 1.0, (), self.outside)

    def no_interval(self, level: float) -> None:  # noqa: ARG002
        return None


def needs(space: RCNet | NasBenchMacro, predictor: Linear | None = None, bound: Any = "upper") -> NetworkResources:
    return NetworkResources(space, predictor, bound=bound)  # type: ignore[arg-type]


def accuracy(network: Network) -> float:
    wobble = random.Random(network.as_layer().digest).gauss(0, 0.002)
    return 0.9 - 0.5 * math.exp(-network.parameters / 4e5) + wobble


def evaluate(networks: Sequence[Network]) -> list[float]:
    return [accuracy(network) for network in networks]


def trained(last: float) -> Trained:
    values = [0.1, 0.5, math.nan, last]
    return Trained(tuple(Epoch(i, 0.1, 1.0, 0.5, value, 1.0) for i, value in enumerate(values, 1)), last)


class Run(NamedTuple):
    """A run as :func:`rcas_report` takes it."""

    plan: RcasPlan
    result: RcasRun
    resources: NetworkResources

    def page(self) -> str:
        return rcas_report(*self)

    def with_result(self, **changes: Any) -> Run:
        return self._replace(result=self.result._replace(**changes))


def made(resources: NetworkResources, budgets: Budgets, value: Any = evaluate, **settings: Any) -> Run:
    """Search, and return a run that neither trained nor measured."""
    space, search = resources.space, RcasSettings(**settings)
    plan = RcasPlan(
        space=space.name,
        space_options=dict(space.options),
        budgets=budgets,
        bound=resources.bound,
        level=resources.level,
        search=search,
        accuracy="a formula",
        function="f" * 64,
        held_out=None,
        early_stopped=None,
        recipe=None,
        data="",
        data_digest="",
        tables=(),
        latencies="",
        calibrated=0,
        seed=0,
    )
    base = base_of(space, resources)
    base_ms = None if resources.predictor is None else resources.predictor.latency_ms(base)
    found = search_rcas(resources, value, budgets, search)
    return Run(plan, RcasRun(found, base, base_ms, None, None, None, NOT_ASKED), resources)


def whole() -> Run:
    """Return a run with all that there can be."""
    run = made(needs(RCNet("cifar", positions=3), Linear(outside=("deeper than any",))), BUDGETS)
    plan = msgspec.structs.replace(run.plan, recipe=Recipe(), early_stopped=Recipe(epochs=7), data="digits")
    winner = run.result.search.prediction
    assert winner is not None
    measured = Measured(winner.ms / 1.05, 4.25, 4.75, 17.5, 17.0, 18.0, Ratio(2.125, 2.0, 2.25), ("the clock moved",))
    return run._replace(plan=plan).with_result(
        base_trained=trained(0.8125), trained=trained(0.8765), measured=measured, not_measured=None
    )


@pytest.fixture(scope="module")
def full() -> Run:
    return whole()


def markup(page: str) -> str:
    """Return the page without what is no markup: plots, and Plotly."""
    return re.sub(r"<(script|style)>.*?</\1>", " ", page, flags=re.DOTALL)


def seen(page: str) -> str:
    """Return the page's text."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", markup(page))).split())


def rows(page: str) -> list[list[str]]:
    """Return the cells of all tables' rows."""
    return [
        [unescape(cell) for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", markup(page), re.DOTALL)
    ]


def drawings(page: str) -> list[list[tuple[str, str]]]:
    """Return the boxes of each drawn network: their kind, and what they say to a mouse."""
    found = []
    for svg in re.findall(r"<svg.*?</svg>", markup(page), re.DOTALL):
        boxes = re.findall(r'<g class="box (\w+)".*?><title>(.*?)</title>', svg, re.DOTALL)
        found.append([(kind, unescape(title)) for kind, title in boxes])
    return found


def plots(page: str) -> list[dict[str, Any]]:
    """Return the plots' traces and layouts."""
    found = []
    decoder = json.JSONDecoder()
    for match in re.finditer(r'Plotly\.newPlot\(\s*"[^"]+",\s*', page):
        data, end = decoder.raw_decode(page, match.end())
        layout, _ = decoder.raw_decode(page, re.compile(r",\s*").match(page, end).end())  # type: ignore[union-attr]
        found.append({"data": data, "layout": layout})
    return found


def test_its_head_says_what_was_asked_for_and_what_came_of_it(full: Run) -> None:
    text = seen(full.page())
    assert "rcnet-cifar, searched for made device" in text
    assert "cpu, batch 4, float32, 1 thread" in text
    assert "data: digits ·" in text
    assert "10 ms for the upper end of its 90% interval, 0.8 M parameters, 40 M multiply-adds" in text
    assert "ms as predicted (+5.0%): within the budget of 10 ms." in text
    assert "MobileNetV2 takes 2.12 times as long (2.00 … 2.25). Trained, the network found has" in text
    assert "a test accuracy of 87.65%, MobileNetV2 of 81.25%." in text
    assert "unlike the networks that the prediction rests on: deeper than any" in text
    assert "the clock moved" in text
    assert "all accuracies are at chance" in seen(full.with_result(warnings=("all accuracies are at chance",)).page())
    unmeasured = full.with_result(measured=None, not_measured="the battery is empty")
    text = seen(unmeasured.page())
    assert "not measured: the battery is empty" in text
    prediction = full.result.search.prediction
    assert prediction is not None
    assert f"predicted to take {prediction.ms:.4g} ms; the budget of 10 ms was not checked by a measurement." in text
    assert "times as long" not in text
    predicted = made(needs(RCNet("cifar", positions=1), Linear(), "predicted"), Budgets(ms=10.0))
    assert "10 ms for its prediction The network" in seen(predicted.page())


def test_its_table_sets_the_network_beside_the_baseline_and_the_first(full: Run) -> None:
    found = full.result.search
    table = {row[0]: row[1:] for row in rows(full.page()) if len(row) == 8 and row[0] != "step"}
    first = full.resources.of((0,) * 18)
    needed = full.resources.of(found.vector)
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
    base = f"{full.resources.madds(full.result.base) / 1e6:.1f}"
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


def test_a_network_is_drawn_with_a_box_for_each_position(full: Run) -> None:
    found, base = drawings(full.page())
    space, search = full.resources.space, full.result.search
    boxes = {title.partition(":")[0]: (kind, title) for kind, title in found}
    # And stage 1's block, of which there is no decision.
    assert len(boxes) == len(found) == 19
    assert boxes.keys() == {"stage1.block1", *(decision.name for decision in space.choices)}
    for decision, index in zip(space.choices, full.resources.canonical(search.vector), strict=True):
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
    labels = re.findall(r'font-weight="bold">(.*?)<', markup(full.page()))
    assert labels[-17:] == ["t=1", *["t=6"] * 16]
    text = seen(full.page())
    for kind in ("type 1: t=3, g_e=1, g_p=1", "type 6: t=12, g_e=2, g_p=4", "there from the start", "empty"):
        assert f" {kind} " in text


def test_positions_are_drawn_as_the_network_is_built() -> None:
    resources = needs(RCNet("cifar", positions=3, types=FEW))
    run = made(resources, Budgets(parameters=0.5e6))
    # The same network: type 1 in stage 5, in its last position instead of its first.
    vector = (*[0] * 9, 0, 0, 1, *[0] * 6)
    search = run.result.search._replace(vector=vector, network=resources.network(vector))
    page = run.with_result(search=search).page()
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

    run = made(needs(Plain()), Budgets(madds=2e8))
    page = run.page()
    (svg, *_) = re.findall(r"<svg.*?</svg>", markup(page), re.DOTALL)
    places = [(float(x), float(y)) for x, y in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', svg)]
    assert [sum(y == row for _, y in places) for row in sorted({y for _, y in places})] == [1, 1, 3, 3]
    # Nothing lies on anything else.
    assert len(set(places)) == 8
    assert "second &lt;i&gt;" in svg


def test_its_plots_show_each_path_against_each_budget(full: Run) -> None:
    found = full.result.search
    shown = plots(full.page())
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
    run = made(needs(RCNet("cifar", positions=2, types=FEW), Linear()), Budgets(ms=9.0), rules=(rule,))
    (path,) = run.result.search.paths
    table = rows(run.page())
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

    resources = needs(NasBenchMacro())
    budgets = Budgets(madds=resources.of((1, 1, 1, 0, 0, 0, 0, 0)).madds)
    assert "Step 1 was better, with 59.00%;" in seen(made(resources, budgets, falling).page())
    stopped = made(resources, budgets, falling, stop_without_gain=True)
    assert "was better" not in seen(stopped.page())


def test_it_says_what_laziness_saved_and_that_nothing_is_guaranteed(full: Run) -> None:
    found = full.result.search
    changed = found._replace(evaluated=300, plain=1200, revisited=2345, exceeded=67, excess=0.0123)
    text = seen(full.with_result(search=changed).page())
    assert "300 networks were evaluated, of 1,200 that a plain greedy search would" in text
    assert "(75% saved)" in text
    assert "67 of 2,345 re-evaluated gains increased, by 1.23 points at most" in text
    assert "½(1−1/e)" in text
    assert "nothing of it is guaranteed" in text
    eager = full.with_result(search=changed._replace(revisited=0))._replace(
        plan=msgspec.structs.replace(full.plan, search=RcasSettings(lazy=False))
    )
    assert "laziness was off. No gain was re-evaluated." in seen(eager.page())


def test_a_run_without_predictor_trainings_and_measurement_has_a_page_too() -> None:
    run = made(needs(RCNet("cifar", positions=2, types=FEW, classes=1000)), Budgets(madds=3e7))
    page = run.page()
    text = seen(page)
    assert "rcnet-cifar, searched within budgets" in text
    assert "budgets: 30 M multiply-adds The set function gives it" in text
    assert f"The set function gives it {run.result.search.value:.2%}; it has " in text
    assert "Not measured: it was not asked for." in text
    assert 'class="notice bad"' not in page
    table = {row[0]: row for row in rows(page) if len(row) == 8}
    assert table["found"][1:4] == table["MobileNetV2"][1:4] == ["–"] * 3
    # Multiply-adds as the paper counts them: without the classifier.
    assert table["MobileNetV2"][5] == f"{(run.result.base.madds - 1_280_000) / 1e6:.1f}"
    assert "The trainings" not in text
    assert "None" not in text
    assert not any("predicted ms" in row for row in rows(page) if row[:1] == ["step"])
    assert [plot["layout"]["xaxis"]["title"]["text"] for plot in plots(page)] == [
        "M multiply-adds",
        "networks evaluated",
    ]


def test_the_first_network_is_not_listed_twice_where_it_is_the_baseline() -> None:
    run = made(needs(NasBenchMacro(), Linear(), "predicted"), Budgets(ms=5.0))
    page = run.page()
    table = [row for row in rows(page) if len(row) == 8]
    assert [row[0] for row in table] == ["network", "found", "00000000, first network"]
    assert [row[-1] for row in table[1:]] == [str(sum(i > 0 for i in run.result.search.vector)), "0"]
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

    resources = needs(NasBenchMacro())
    alone, together = (resources.of((*start, *[0] * 6)).madds for start in ((2, 0), (1, 1)))
    budgets = Budgets(madds=max(alone, together))
    run = made(resources, budgets, tricky, exchange=True, rules=("uniform",), stop_without_gain=True)
    greedy, exchange = run.result.search.paths
    assert run.result.search.rule == exchange.rule == "exchange"
    page = run.page()
    assert "The path taken: exchange " in seen(page)
    tables = [i for i, row in enumerate(rows(page)) if row[:1] == ["step"]]
    assert len(tables) == 2
    first, second = (rows(page)[i + 1 :] for i in tables)
    assert first[len(greedy.steps) - 1][1] == "{}: {}".format(*next(iter(greedy.last.changed.items())))
    last = second[len(exchange.steps) - 1]
    assert last[1] == ", ".join(f"{name}: {option}" for name, option in exchange.last.changed.items())
    assert last[2] == f"{run.result.search.value:.2%}"
    against, effort = plots(page)
    assert [trace["name"] for trace in against["data"]] == ["uniform", "exchange", "found"]
    assert [trace["name"] for trace in effort["data"]] == ["uniform"]


def test_a_search_that_could_add_nothing_has_a_page() -> None:
    resources = needs(RCNet("cifar", positions=1, types=(5,)))
    first = resources.of((0,) * 6)
    run = made(resources, Budgets(parameters=first.parameters, madds=2 * first.madds))
    assert all(len(path.steps) == 1 for path in run.result.search.paths)
    page = run.page()
    assert ["0", "the first network", f"{run.result.search.value:.2%}"] in [row[:3] for row in rows(page)]
    for plot in plots(page)[:2]:
        low, high = plot["layout"]["xaxis"]["range"]
        assert low < plot["data"][0]["x"][0] <= plot["layout"]["shapes"][0]["x0"] < high


def test_values_that_are_no_shares_are_not_in_percent() -> None:
    run = made(needs(NasBenchMacro()), Budgets(madds=1e8), lambda networks: [-3 + accuracy(n) for n in networks])
    page = run.page()
    assert plots(page)[0]["layout"]["yaxis"]["title"]["text"] == "set function"
    assert f"gives it {run.result.search.value:.4g}; it has" in seen(page)
    assert "points" not in seen(page)


def test_names_cannot_become_markup(full: Run) -> None:
    search = full.result.search

    def renamed(step: RcasStep) -> RcasStep:
        return msgspec.structs.replace(step, changed={EVIL: 1})

    paths = tuple(msgspec.structs.replace(path, steps=tuple(map(renamed, path.steps))) for path in search.paths)
    device = msgspec.structs.replace(DEVICE, model=EVIL)
    stem = full.result.base.layers[0]
    base = Network(EVIL, (msgspec.structs.replace(stem, name=f"{EVIL}.b.{stem.name}"),))
    assert full.result.measured is not None
    predictor = Linear(device)
    predictor.tables = (_Table(EVIL),)
    plan = msgspec.structs.replace(
        full.plan, space=EVIL, data=EVIL, accuracy=EVIL, space_options={EVIL: EVIL}, tables=(EVIL,), latencies=EVIL
    )
    prediction = NetworkPrediction(EVIL, 5.0, None, None, 0.9, 1.0, (), (EVIL,))
    run = Run(plan, full.result, needs(RCNet("cifar", positions=3), predictor)).with_result(
        search=search._replace(paths=paths, prediction=prediction),
        base=base,
        measured=full.result.measured._replace(warnings=(EVIL,)),
        not_measured=EVIL,
    )
    page = run.page()
    assert "<script>alert" not in page
    assert seen(page).count(EVIL) > 8
    # Plotly reads tags in names and texts.
    for plot in plots(page):
        for trace in plot["data"]:
            assert "<script" not in str(trace)


def test_it_asks_nobody_for_more(full: Run) -> None:
    ours = markup(full.page())
    assert "://" not in ours
    assert not re.search(r'\b(src|href)\s*=\s*(?!"data:)', ours)
    assert ours.count("<script") == 0


def test_settings_are_all_there(full: Run) -> None:
    facts = {row[0]: row[1] for row in rows(full.page()) if len(row) == 2}
    assert facts["tables"] == "rcnet-b4.json"
    assert facts["space: positions"] == "3"
    assert facts["budget: madds"] == "40,000,000"
    assert facts["space: types"] == "1, 2, 3, 4, 5, 6"
    assert not any(mark in value for value in facts.values() for mark in "[]{}")
    assert facts["search: lazy"] == "True"
    assert facts["early-stopped training: epochs"] == "7"
    assert facts["training: epochs"] == "300"
    assert facts["seed"] == "0"


@needs_browser
@pytest.mark.parametrize("width", [1000, 400])
def test_a_browser_shows_it_within_its_window(full: Run, tmp_path: Path, width: int) -> None:
    seen = seen_in_browser(full.page(), width, tmp_path)
    assert seen["plots"] == seen["drawn"] == 6
    assert seen["boxes"] == 19 + 17
    assert seen["narrow"] == 0
    assert seen["overflow"] <= 0

"""The searches: what networks cost in the loss, budgets that hold, and runs that end where an interrupted one does."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _predictors import DEVICE, SETTING, layer_ms, network_ms, sampled
from conftest import wait_until

from lut import Decision, UsageError
from lut.errors import BudgetError, CheckpointError, SearchError
from predictors import LatencyPredictor, compile_madds
from predictors._compiled import layers_of
from search._data._images import ImageData, load_data, subset
from search._problem._problem import Problem
from search._training._checkpoint import saved_epoch
from search._training._recipe import Recipe
from search.evolution._settings import EvolutionSettings
from search.htas._charge import Charge, band_penalty, make_charge
from search.htas._evolved import search_evolution
from search.htas._gradient import search_htas
from search.htas._presets import preset
from search.htas._settings import SearchProgress, SearchResult, SearchSettings
from search.htas._shared_weights import SharedWeights
from search.htas._supernet import SuperResNet
from search.spaces._resnet_cifar import ResNetCifar

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTHS = ((4, 8), (6, 12), (8, 16))


@cache
def space() -> ResNetCifar:
    return ResNetCifar(depth=14, expand=0.75, widths=WIDTHS, depths="tas")


@cache
def predictor(networks: int = 20) -> LatencyPredictor:
    """Return a predictor of the made device that holds all the space's layers, and knows wholes from sums."""
    layers = [*layers_of(space()), *(item.layer for item in space().base_network().layers)]
    wholes = [(network, network_ms(network)) for network in sampled(space(), networks, seed=1)]
    return LatencyPredictor.from_latencies(
        DEVICE, SETTING, {layer: layer_ms(layer) for layer in layers}, networks=wholes, seed=0
    )


@cache
def problem(ms: float | None = None, bound: Any = "upper") -> Problem:
    return Problem(space(), predictor(), ms=ms, bound=bound)


@cache
def charge(kind: Any = "table", ms: float | None = None) -> Charge:
    return make_charge(problem(ms), kind)


def widest() -> list[int]:
    return [len(d.options) - 1 for d in space().choices]


def upper_ms(vector: Any) -> float:
    """Return the upper end of a network's interval."""
    return problem(1e6).bound_ms(vector)


@cache
def all_networks() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return all vectors of the space, and their predicted latencies in ms."""
    vectors = np.array(list(itertools.product(*[range(len(d.options)) for d in space().choices])))
    return vectors, problem().latency.latency(vectors)


@cache
def digits(train: int = 96) -> ImageData:
    return subset(load_data("digits"), train=train, test=40, seed=0)


def settings(**changes: Any) -> SearchSettings:
    recipe = Recipe(epochs=2, warmup_epochs=0, batch_size=24, lr=0.05)
    return SearchSettings(**{"recipe": recipe, "logits_lr": 0.1, "validated": 24, **changes})


def one_hot(vector: Any) -> list[torch.Tensor]:
    return [torch.eye(len(d.options))[i] for d, i in zip(space().choices, vector, strict=True)]


# --- what is charged ---


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_expectation_is_that_over_all_networks(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = [torch.softmax(torch.randn(len(d.options), generator=generator).double(), 0) for d in space().choices]
    vectors, ms = all_networks()
    weights = np.prod([own.numpy()[vectors[:, d]] for d, own in enumerate(p)], axis=0)
    assert float(charge().expected(p)) == pytest.approx(float(weights @ ms), rel=1e-6)


def test_of_one_network_every_expectation_is_its_own_cost() -> None:
    vectors, ms = all_networks()
    for index in (0, 1234, len(vectors) - 1):
        assert float(charge().expected(one_hot(vectors[index]))) == pytest.approx(ms[index], rel=1e-5)
        madds = space().decode(vectors[index].tolist()).madds / 1e6
        assert float(charge("madds").expected(one_hot(vectors[index]))) == pytest.approx(madds, rel=1e-5)
        assert charge("madds").current(vectors[index]) == pytest.approx(madds)


def test_expected_costs_by_hand() -> None:
    # Of depth 8, one block a stage; all widths certain but the stem's: 4 or 8 channels, with 1/4 and 3/4.
    one = ResNetCifar(depth=8, widths=((4, 8), (6,), (8,)))
    p = [torch.ones(len(d.options)) / len(d.options) for d in one.choices]
    p[0] = torch.tensor([0.25, 0.75])
    number = {d.name: i for i, d in enumerate(one.choices)}
    for c in (1, 2):
        p[number[f"stage1.block1.conv{c}"]] = torch.tensor([1.0, 0.0])
    compiled = compile_madds(one)
    stem = 9 * 32 * 32 * 3 * (0.25 * 4 + 0.75 * 8)
    first = 9 * 32 * 32 * (0.25 * 4 + 0.75 * 8) * 4
    second = 9 * 32 * 32 * 4 * 4
    # The shortcut is there where the stem has 8 channels and the block gives 4.
    shortcut = 0.75 * 32 * 32 * 8 * 4
    stage2 = 9 * 16 * 16 * (4 * 6 + 6 * 6) + 16 * 16 * 4 * 6
    stage3 = 9 * 8 * 8 * (6 * 8 + 8 * 8) + 8 * 8 * 6 * 8
    wanted = (stem + first + second + shortcut + stage2 + stage3 + 8 * 10) / 1e6
    assert float(compiled.expected(p, of="table")) == pytest.approx(wanted, rel=1e-6)


def test_a_block_counts_with_the_probability_that_it_is_kept() -> None:
    # TAS: the reverse cumulative sum of the depth's probabilities.
    deep = ResNetCifar(depth=32, widths=((4,), (6,), (8,)), depths="tas")
    p = [torch.ones(1)] * len(deep.choices)
    for s in (1, 2, 3):
        p[[d.name for d in deep.choices].index(f"stage{s}.blocks")] = torch.tensor([1.0, 0.0, 0.0])
    least = float(compile_madds(deep).expected(p, of="table"))
    p[[d.name for d in deep.choices].index("stage1.blocks")] = torch.tensor([0.5, 0.3, 0.2])
    # Blocks 2 and 3 are kept with 0.5, blocks 4 and 5 with 0.2; each is two convolutions of 4 channels.
    block = 2 * 9 * 32 * 32 * 4 * 4 / 1e6
    found = float(compile_madds(deep).expected(p, of="table"))
    assert found - least == pytest.approx((2 * 0.5 + 2 * 0.2) * block, rel=1e-5)


@pytest.mark.parametrize("kind", ["law", "table", "madds"])
def test_gradients_of_the_expected_cost_are_those_of_finite_differences(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = [torch.randn(len(d.options), generator=generator, dtype=torch.float64) for d in space().choices]

    def expected(values: list[torch.Tensor]) -> torch.Tensor:
        return charge(kind).expected([torch.softmax(own, 0) for own in values])

    leaves = [own.clone().requires_grad_() for own in logits]
    gradients = torch.autograd.grad(expected(leaves), leaves)
    for d in range(len(logits)):
        moved = []
        for sign in (1, -1):
            changed = [own.clone() for own in logits]
            changed[d][0] += sign * 1e-5
            moved.append(float(expected(changed)))
        assert float(gradients[d][0]) == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("current", "sign"), [(9.0, -1.0), (9.49, -1.0), (9.51, 0.0), (10.0, 0.0), (10.01, 1.0), (20.0, 1.0)]
)
def test_the_sign_of_tas_cost_by_hand(current: float, sign: float) -> None:
    expected = torch.tensor(7.0, requires_grad=True)
    found = band_penalty(expected, current, target=10.0, tolerance=0.5)
    assert float(found.detach()) == pytest.approx(sign * float(np.log(7.0)))
    (gradient,) = torch.autograd.grad(found, expected)
    assert float(gradient) == pytest.approx(sign / 7.0)


def test_the_most_probable_network_decides_the_sign() -> None:
    # The expectation lies above the budget and the most probable network below it: the cost pulls up.
    net = SuperResNet(space(), seed=0)
    narrow, wide = [0] * len(space().choices), [len(d.options) - 1 for d in space().choices]
    with torch.no_grad():
        for logits in net.logits:
            logits.zero_()
            logits[0] = 0.01
    budget = 0.9 * float(charge().expected(net.probabilities()).detach())
    assert upper_ms(narrow) < budget < upper_ms(wide)
    limited = charge("table", budget)

    def penalty() -> float:
        found = limited.penalty(net.probabilities(), net.argmax(), settings(penalty="band", tolerance=0.0))
        return float(found.detach())

    expected = float(charge().expected(net.probabilities()).detach())
    assert penalty() == pytest.approx(-2 * np.log(expected), rel=1e-5)
    with torch.no_grad():
        for logits in net.logits:
            logits[0] = -0.01
    expected = float(charge().expected(net.probabilities()).detach())
    assert penalty() == pytest.approx(2 * np.log(expected), rel=1e-5)


def test_the_linear_cost_is_eq_6() -> None:
    net = SuperResNet(space(), seed=0)
    expected = float(charge("law").expected(net.probabilities()).detach())

    def penalty(**changes: Any) -> float:
        return float(charge("law").penalty(net.probabilities(), net.argmax(), settings(**changes)).detach())

    assert penalty(weight=0.25) == pytest.approx(0.25 * expected)
    default = 2 / predictor().latency_ms(space().base_network())
    assert penalty() == pytest.approx(default * expected)


# --- searches ---


def test_a_search_ends_within_its_budget_and_seeds_reproduce_it() -> None:
    budget = 0.7 * upper_ms(widest())
    told: list[Any] = []
    found = search_htas(charge("law", budget), digits(), settings(penalty="band"), seed=1, progress=told.append)
    assert found.prediction.high_ms is not None
    assert found.prediction.high_ms <= budget
    assert found.network.layers == space().decode(found.vector).layers
    assert [epoch.epoch for epoch in found.history] == [1, 2]
    assert [epoch.tau for epoch in found.history] == pytest.approx([10.0, 0.1])
    assert told[-1].share == 1.0
    again = search_htas(charge("law", budget), digits(), settings(penalty="band"), seed=1)
    assert again.vector == found.vector
    assert [e.weight_loss for e in again.history] == [e.weight_loss for e in found.history]
    other = search_htas(charge("law", budget), digits(), settings(penalty="band"), seed=2)
    assert [e.weight_loss for e in other.history] != [e.weight_loss for e in found.history]


def test_a_heavy_cost_ends_at_the_fastest_network() -> None:
    recipe = Recipe(epochs=6, warmup_epochs=0, batch_size=8, lr=0.01)
    found = search_htas(charge("table"), digits(40), settings(recipe=recipe, weight=1e4, logits_lr=0.5), seed=0)
    _, ms = all_networks()
    assert found.prediction.ms == pytest.approx(ms.min(), rel=0.1)
    assert found.history[-1].expected < found.history[0].expected


def test_an_argmax_beyond_the_budget_says_how_close_it_came() -> None:
    budget = 1.02 * upper_ms(problem().smallest())
    # Nothing pulls at the architecture.
    still = settings(weight=0.0, logits_lr=1e-6, derivation="argmax")
    with pytest.raises(BudgetError, match=r"%\) beyond the budget"):
        search_htas(charge("table", budget), digits(), still, seed=0)


def test_weights_first_leave_the_architecture_alone() -> None:
    found = search_htas(charge(), digits(), settings(weights_first=0.5), seed=0)
    assert [epoch.logits_loss is None for epoch in found.history] == [True, False]
    probabilities = SuperResNet(space(), seed=0).probabilities()
    with torch.no_grad():
        assert found.history[0].expected == pytest.approx(float(charge().expected(probabilities)), rel=1e-6)


def test_the_best_epoch_is_the_most_accurate_within_the_budget() -> None:
    found = search_htas(charge("table", 1e6), digits(), settings(selection="best"), seed=0)
    best = max(found.history, key=lambda epoch: (epoch.accuracy, epoch.epoch))
    assert found.from_epoch == best.epoch
    assert found.vector == best.vector


def test_evolution_stays_within_the_budget() -> None:
    pytest.importorskip("pymoo")
    budget = 0.6 * upper_ms(widest())
    told: list[Any] = []
    breeding = EvolutionSettings(population=6, generations=2)
    limited = charge("table", budget)
    found = search_evolution(
        limited, digits(), settings(), breeding, seed=0, on_generation=lambda *now: told.append(now)
    )
    assert upper_ms(found.vector) <= budget
    assert found.evaluated >= 6
    assert found.optimism is not None
    assert [generation for generation, _, _ in told] == [0, 1, 2]
    again = search_evolution(limited, digits(), settings(), breeding, seed=0)
    assert again.vector == found.vector


def test_networks_are_judged_on_images_of_all_classes_and_by_all_of_them() -> None:
    data = digits()
    order = torch.argsort(data.train_labels)
    by_class = replace(data, train_images=data.train_images[order], train_labels=data.train_labels[order])
    shared = SharedWeights(charge(), by_class, settings(validated=24), seed=0, device="cpu")
    assert len(shared.validation) == 24
    assert len(set(by_class.train_labels[shared.validation].tolist())) >= 7
    # More images than fit into a batch that is looked at: none is dropped.
    many = ImageData(
        "many",
        data.classes,
        data.train_images.repeat(15, 1, 1, 1),
        data.train_labels.repeat(15),
        data.test_images,
        data.test_labels,
        False,
    )
    shared = SharedWeights(charge(), many, settings(validated=600), seed=0, device="cpu")
    with torch.no_grad():
        shared.net.classifier.weight.zero_()
        shared.net.classifier.bias.copy_(torch.eye(10)[3])
    threes = float((many.train_labels[shared.validation] == 3).float().mean())
    assert shared.accuracy([0] * len(space().choices)) == pytest.approx(threes)


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
import torch
torch.set_num_threads(1)
import test_search as t
path, steps, step = Path({path!r}), 0, t.SharedWeights.weight_step

def stop_in_the_middle(*arguments):
    global steps
    steps += t.saved_epoch(path) == 2
    if steps == 3:
        print("in the middle of the third epoch", flush=True)
        time.sleep(600)
    return step(*arguments)

t.SharedWeights.weight_step = stop_in_the_middle
t.search_htas(t.charge("law"), t.digits(), t.settings(recipe=t.RECIPE), seed=1, checkpoint=path)
"""
RECIPE = Recipe(epochs=5, warmup_epochs=1, batch_size=12, lr=0.05)


def test_a_killed_search_goes_on_to_the_same_end(tmp_path: Path) -> None:
    path = tmp_path / "search.safetensors"
    root = str(Path(__file__).parents[1])
    code = CHILD.format(tests=str(Path(__file__).parent), root=root, path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert "third epoch" in child.stdout.readline()
        finally:
            child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert saved_epoch(path) == 2 < RECIPE.total_epochs
    arguments: dict[str, Any] = {"seed": 1}
    told: list[SearchProgress] = []
    resumed = search_htas(
        charge("law"), digits(), settings(recipe=RECIPE), checkpoint=path, progress=told.append, **arguments
    )
    assert told[0].epoch == 3
    whole = search_htas(charge("law"), digits(), settings(recipe=RECIPE), **arguments)
    assert resumed.vector == whole.vector
    plain = [[getattr(e, n) for n in ("weight_loss", "logits_loss", "expected", "accuracy")] for e in whole.history]
    assert plain == [
        [getattr(e, n) for n in ("weight_loss", "logits_loss", "expected", "accuracy")] for e in resumed.history
    ]
    # Another run does not take it up.
    with pytest.raises(CheckpointError, match="another run"):
        search_htas(charge("law"), digits(), settings(recipe=RECIPE), seed=2, checkpoint=path)


BREEDING = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
import torch
torch.set_num_threads(1)
import test_search as t
judged = t.SharedWeights.accuracy
def slowly(self, vector, seed=None):
    # Only once the weights are trained.
    time.sleep(0.2 if Path({cache!r}).exists() else 0.0)
    return judged(self, vector, seed)
t.SharedWeights.accuracy = slowly
t.bred(Path({folder!r}))
"""


def bred(folder: Path | None) -> SearchResult:
    """Return what an evolution of a few dozen networks finds, by weights that are trained for two epochs."""
    paths = {} if folder is None else {"checkpoint": folder / "search.safetensors", "cache": folder / "bred.jsonl"}
    breeding = EvolutionSettings(population=6, generations=4)
    return search_evolution(charge("table", 0.7 * upper_ms(widest())), digits(), settings(), breeding, seed=1, **paths)


def test_a_search_that_is_killed_while_breeding_evaluates_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pymoo")
    cache = tmp_path / "bred.jsonl"
    tests = Path(__file__).parent
    code = BREEDING.format(tests=str(tests), root=str(tests.parent), cache=str(cache), folder=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        # Its first line says whose accuracies these are.
        wait_until(lambda: cache.exists() and cache.read_bytes().count(b"\n") > 3, child)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    kept = cache.read_bytes().count(b"\n") - 1
    whole = bred(None)
    asked: list[tuple[tuple[int, ...], int | None]] = []
    judged = SharedWeights.accuracy

    def counted(self: SharedWeights, vector: Any, seed: int | None = None) -> float:
        asked.append((tuple(vector), seed))
        return judged(self, vector, seed)

    monkeypatch.setattr(SharedWeights, "accuracy", counted)
    resumed = bred(tmp_path)
    fields = ("vector", "evaluated", "optimism")
    assert [getattr(resumed, name) for name in fields] == [getattr(whole, name) for name in fields]
    assert 3 <= kept < whole.evaluated
    assert len([seed for _, seed in asked if seed is None]) == whole.evaluated - kept
    # Nor is a finalist, once it is done.
    asked.clear()
    assert bred(tmp_path).vector == whole.vector
    assert asked == []
    # Another budget is searched with the same weights, and what they made of a network is known.
    wider = search_evolution(
        charge("table", 0.75 * upper_ms(widest())),
        digits(),
        settings(),
        EvolutionSettings(population=6, generations=4),
        seed=1,
        checkpoint=tmp_path / "search.safetensors",
        cache=cache,
    )
    assert wider.history == resumed.history
    assert len([seed for _, seed in asked if seed is None]) < wider.evaluated
    # By other weights the accuracies are others.
    with pytest.raises(CheckpointError, match="computed otherwise"):
        search_evolution(
            charge("table", 0.7 * upper_ms(widest())), digits(), settings(), EvolutionSettings(), seed=2, cache=cache
        )


def test_a_fresh_seed_judges_on_other_images() -> None:
    shared = SharedWeights(charge(), digits(), settings(validated=24), seed=0, device="cpu")
    # A network that says 3 of everything is right as often as there is a 3.
    with torch.no_grad():
        shared.net.classifier.weight.zero_()
        shared.net.classifier.bias.copy_(torch.eye(10)[3])
    vector = [0] * len(space().choices)
    found = [shared.accuracy(vector, seed) for seed in range(8)]
    assert len(set(found)) > 1
    assert found == [shared.accuracy(vector, seed) for seed in range(8)]
    assert shared.accuracy(vector) == shared.accuracy(vector, None)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        # 48 images are 3 batches of 16: as many steps are there an epoch, in the half of 1000 epochs that is not for
        # weights alone.
        ((), 500 * 3),
        (("search.epochs=2000",), 1001 * 3),
        (("search.batch_size=8",), 500 * 6),
        (("search.warmup_epochs=1000",), 999 * 3),
        (("search.warmup-epochs=1000", "weights_first=0.25"), 1499 * 3),
        (("weights_first=0",), 1000 * 3),
        # Of the trainings they say nothing.
        (("training.epochs=7", "training.batch_size=8"), 500 * 3),
    ],
)
def test_logits_step_further_where_there_are_fewer_steps(changes: tuple[str, ...], steps: int) -> None:
    def made(*changes: str) -> SearchSettings:
        return preset(
            digits(),
            penalty="linear",
            weight=None,
            search_epochs=998,
            train_epochs=None,
            batch_size=16,
            changes=changes,
        )[0]

    # The paper: 600 epochs over half of CIFAR's images, with 0.001.
    assert made(*changes).logits_lr == pytest.approx(0.001 * 600 * 98 / steps, rel=1e-12)
    # One that was asked for is left alone, wherever it stands.
    assert made("logits-lr = 0.002", *changes).logits_lr == 0.002
    assert made(*changes, "logits_lr=0.001").logits_lr == 0.001
    assert made(*changes, "search.epochs=100000").logits_lr == 0.001
    assert made(*changes, "search.epochs=1", "search.warmup_epochs=0").logits_lr == 0.1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"samples": 0}, "samples must be positive"),
        ({"tau_end": 20.0}, "temperature falls"),
        ({"weight": -1.0}, "weight must not be negative"),
        ({"weight": float("nan")}, "weight must not be negative"),
        ({"tolerance": 1.0}, "tolerance is a share"),
        ({"weights_first": 1.0}, "weights_first is a share"),
        ({"penalty": "square"}, "penalty is linear or band"),
        ({"tau_schedule": "steps"}, "tau_schedule is linear or cosine"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        settings(**changes)


def test_impossible_searches_are_refused() -> None:
    with pytest.raises(UsageError, match="around a budget"):
        search_htas(charge(), digits(), settings(penalty="band"), seed=0)
    with pytest.raises(UsageError, match="cost is multiply-adds"):
        search_htas(charge("madds", 1e6), digits(), settings(penalty="band"), seed=0)
    with pytest.raises(UsageError, match="samples must be at least 2"):
        search_htas(charge(), digits(), settings(samples=1), seed=0)
    with pytest.raises(UsageError, match="law-per-array, eq8, table or madds"):
        make_charge(problem(), "flops")
    wide = make_charge(Problem(ResNetCifar(depth=14, expand=0.75, widths=WIDTHS, classes=7), predictor()))
    with pytest.raises(UsageError, match="predict 7 classes, and digits has 10"):
        search_htas(wide, digits(), settings(), seed=0)
    with pytest.raises(UsageError, match="at least 2 networks"):
        EvolutionSettings(population=1)
    hot = Recipe(epochs=2, warmup_epochs=0, batch_size=24, lr=100.0, weight_decay=1.0)
    with pytest.raises(SearchError, match="NaN or infinite"):
        search_htas(charge(), digits(), settings(recipe=hot), seed=0)


def test_decisions_have_the_papers_names() -> None:
    assert space().choices[0] == Decision("stem", (4, 8), kind="width")

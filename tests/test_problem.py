"""What every search is given: needs and budgets, what is possible at all, and the same in other libraries' words."""

from __future__ import annotations

import itertools
import random
from functools import cache
from math import exp, hypot, inf, log, nan
from statistics import NormalDist, median
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from _predictors import DEVICE, SETTING, Tiny, layer_ms, noisy, sampled, table_with, tiny_predictor, wholes_of
from _recorded import resnets, resnets_predictor, widest_ms

from lut import Network, TableError, UsageError
from lut.errors import BudgetError, TargetUnavailableError
from predictors import LatencyPredictor
from predictors._compiled import layers_of
from search._problem._coverage import unlike_layers
from search._problem._problem import Problem
from search.htas._charge import make_charge
from search.spaces._nas_bench_macro import NasBenchMacro
from search.spaces._rcnet import RCNet
from search.spaces._resnet_cifar import ResNetCifar


class Unknown(Tiny):
    """The tiny space without saying where its layers stand."""

    def slots(self) -> None:  # type: ignore[override]
        return None


@cache
def small() -> Tiny:
    return Tiny(widths=(8, 24), blocks=2)


def all_vectors(problem: Problem) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(d.options)) for d in problem.space.choices)))


@cache
def days_predictor() -> LatencyPredictor:
    """Return a predictor of a table whose layers differ from session to session, by some 5 %."""
    space = Tiny()
    layers = space.layers()
    table = table_with(layers, noisy(map(layer_ms, layers)))
    wide = [
        msgspec.structs.replace(
            m,
            across_runs=msgspec.structs.replace(m.across_runs, low_ms=0.95 * m.median_ms, high_ms=1.05 * m.median_ms),
        )
        for m in table.values()
    ]
    moved = type(table)(
        device=table.device, setting=table.setting, sessions=table.sessions, measurements=wide, failures=table.failures
    )
    return LatencyPredictor.fit(moved, networks=wholes_of(sampled(space, 40, seed=5)))


# --- one network ---


@pytest.mark.parametrize("space", [Tiny(), Unknown()])
def test_needs_are_the_networks_own(space: Tiny) -> None:
    problem = Problem(space, tiny_predictor(), ms=0.5, parameters=30e3, madds=5e6)
    for vector in random.Random(0).sample(space.vectors(), 20):
        network = space.decode(vector)
        found = tiny_predictor().predict(network)
        needs = problem.needs(vector)
        assert found.high_ms is not None
        assert (needs.parameters, needs.madds) == (network.parameters, network.madds)
        assert needs.ms == problem.ms(vector) == pytest.approx(found.ms)
        assert needs.bound_ms == problem.bound_ms(vector) == pytest.approx(found.high_ms)
        assert found.high_ms > found.ms
        shares = [found.high_ms / 0.5, network.parameters / 30e3, network.madds / 5e6]
        assert problem.load(vector) == pytest.approx(max(shares))
        assert problem.fits(vector) == (max(shares) <= 1)
    assert {problem.fits(vector) for vector in space.vectors()} == {True, False}


def test_multiply_adds_are_those_of_the_spaces_paper() -> None:
    space = RCNet("cifar", positions=3)
    problem = Problem(space, madds=1e9)
    vector = space.sample(random.Random(0))
    assert problem.needs(vector).madds == space.count_madds(space.decode(vector))
    assert problem.needs(vector)[2:] == (None, None)


def test_vectors_of_one_network_are_one() -> None:
    problem = Problem(NasBenchMacro(), madds=1e9)
    assert problem.canonical((0, 1, 0, 1, 2, 0, 0, 1)) == (0, 1, 0, 1, 2, 0, 1, 0)
    assert problem.network((0, 0, 0, 0, 1, 0, 0, 0)) is problem.network((0, 0, 0, 1, 0, 0, 0, 0))


def test_a_budget_is_for_the_upper_end_unless_asked() -> None:
    vector = [0] * len(resnets().choices)
    found = resnets_predictor().predict(resnets().decode(vector))
    assert found.high_ms is not None
    problem = Problem(resnets(), resnets_predictor(), ms=1.0)
    assert problem.bound_ms(vector) == pytest.approx(found.high_ms)
    assert problem.replace(bound="predicted").bound_ms(vector) == pytest.approx(found.ms)
    narrow = resnets_predictor().predict(resnets().decode(vector), level=0.5).high_ms
    assert problem.replace(level=0.5).bound_ms(vector) == narrow
    with pytest.raises(UsageError, match=r"an interval of 99% needs 99 networks .*or for bound='predicted'"):
        problem.replace(level=0.99)


def test_a_budget_that_comes_later_is_for_the_upper_end_too() -> None:
    vector = (0,) * 7
    bare = Problem(Tiny(), tiny_predictor())
    assert bare.bound == "predicted"
    assert bare.replace(ms=0.5).bound == "upper"
    assert bare.replace(ms=0.5).bound_ms(vector) == Problem(Tiny(), tiny_predictor(), ms=0.5).bound_ms(vector)
    assert Problem(Tiny(), tiny_predictor(), bound="predicted").replace(ms=0.5).bound == "predicted"
    assert bare.replace(ms=0.5).replace(ms=None, madds=1e6).replace(ms=0.4).bound == "upper"


def test_any_day_is_wider_by_how_much_sessions_differ() -> None:
    given: dict[str, Any] = {"ms": 0.5}
    today = Problem(Tiny(), days_predictor(), **given)
    any_day = Problem(Tiny(), days_predictor(), holds="any-day", **given)
    half = NormalDist().inv_cdf(0.95) * median(v for v in days_predictor().deviations.values() if v > 0)
    assert any_day.day_half_width == pytest.approx(half)
    assert half > 0.02
    for vector in Tiny().vectors()[::97]:
        ms, upper = today.ms(vector), today.bound_ms(vector)
        wanted = ms * exp(hypot(log(upper / ms), half))
        assert any_day.bound_ms(vector) == pytest.approx(wanted)
        assert any_day.bound_ms(vector) > upper
        assert any_day.ms(vector) == ms
    # Also where the budget is for what is predicted.
    plain = any_day.replace(bound="predicted")
    assert plain.bound_ms((0,) * 7) == pytest.approx(plain.ms((0,) * 7) * exp(half))
    assert any_day.digest != today.digest
    # A table of one session says nothing of others.
    with pytest.raises(UsageError, match="the predictor's tables do not say that"):
        Problem(Tiny(), tiny_predictor(), holds="any-day", **given)


def test_a_margin_multiplies_what_a_budget_is_held_against() -> None:
    problem = Problem(Tiny(), tiny_predictor(), ms=0.5, madds=1e9)
    slower = problem.replace(margin=1.1)
    vector = (0,) * 7
    assert slower.bound_ms(vector) == pytest.approx(1.1 * problem.bound_ms(vector))
    assert slower.ms(vector) == problem.ms(vector)
    assert slower.load(vector) == pytest.approx(1.1 * problem.load(vector))
    assert slower.digest != problem.digest
    assert sum(map(slower.fits, Tiny().vectors())) < sum(map(problem.fits, Tiny().vectors()))


def test_the_digest_is_of_the_latencies_and_the_bound() -> None:
    problem = Problem(Tiny(), tiny_predictor(), ms=0.5)
    assert problem.digest == Problem(Tiny(), tiny_predictor(), ms=0.7).digest
    assert problem.digest != problem.replace(level=0.8).digest
    assert problem.digest != Problem(Tiny(), days_predictor(), ms=0.5).digest
    unknown = Problem(Unknown(), tiny_predictor(), ms=0.5)
    assert unknown.latencies_digest == Problem(Unknown(), tiny_predictor(), ms=0.5).latencies_digest
    assert unknown.latencies_digest != Problem(Unknown(), days_predictor(), ms=0.5).latencies_digest
    assert Problem(Tiny(), madds=1e6).digest == ""


def test_what_a_problem_cannot_be_is_told() -> None:
    space = Tiny()
    for limit in (0.0, -1.0, nan, inf):
        with pytest.raises(UsageError, match=r"a budget of multiply-adds is a positive number, got"):
            Problem(space, madds=limit)
    with pytest.raises(UsageError, match="a budget of ms needs a predictor"):
        Problem(space, ms=1.0)
    with pytest.raises(UsageError, match=r"a problem is of a lut\.SearchSpace, got str"):
        Problem("resnet-cifar")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="predictor is a LatencyPredictor, got str"):
        Problem(space, "p.json")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the bound is upper or predicted, got 'uper'"):
        Problem(space, bound="uper")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a budget holds at is reference-speed or any-day"):
        Problem(space, holds="today")  # type: ignore[arg-type]
    for margin in (0.0, -1.0, nan, inf):
        with pytest.raises(UsageError, match="a margin is a positive factor"):
            Problem(space, margin=margin)
    with pytest.raises(UsageError, match="level"):
        Problem(space, level=1.5)
    for ask in ("ms", "bound_ms"):
        with pytest.raises(UsageError, match="without a predictor networks have no latency"):
            getattr(Problem(space, madds=1e6), ask)((0,) * 7)
    with pytest.raises(UsageError, match="without a budget there is no load"):
        Problem(space).loads(np.zeros((1, 7), dtype=np.int64))


def test_without_an_interval_there_is_no_upper_end() -> None:
    bare = tiny_predictor().recalibrated([])
    with pytest.raises(UsageError, match="--bound predicted"):
        Problem(Tiny(), bare, ms=1.0)
    assert Problem(Tiny(), bare, ms=1.0, bound="predicted").bound_ms((0,) * 7) > 0
    # Without a budget of ms nobody asks for one.
    assert Problem(Tiny(), bare, madds=1e6).bound == "predicted"


def test_layers_that_no_table_holds_are_named_with_the_command() -> None:
    thin = LatencyPredictor.from_latencies(
        DEVICE, SETTING, {layer: layer_ms(layer) for layer in layers_of(resnets()) if "avgpool" not in str(layer)}
    )
    with pytest.raises(TableError, match=r"avg_pool2d.*Measure them: profile-device --target cpu --batch 4"):
        make_charge(Problem(resnets(), thin))
    strided = {
        layer: layer_ms(layer) for layer in layers_of(resnets()) if "conv3×3" not in str(layer) or "/2" in str(layer)
    }
    lacking = LatencyPredictor.from_latencies(DEVICE, SETTING, strided)
    with pytest.raises(TableError, match=r"lack \d+ of the space's .*profile-device --target cpu --batch 4"):
        unlike_layers(resnets(), lacking)
    assert unlike_layers(resnets(), resnets_predictor()) == ()


# --- many networks ---


@pytest.mark.parametrize(
    "budgets",
    [
        {"ms": 0.5},
        {"madds": 5e6},
        {"parameters": 3e4, "madds": 5e6},
        {"ms": 0.5, "parameters": 3e4},
        {"ms": 0.5, "parameters": 3e4, "madds": 5e6},
    ],
)
def test_loads_are_those_of_the_networks(budgets: dict[str, float]) -> None:
    problem = Problem(Tiny(), tiny_predictor(), bound="predicted", **budgets)  # type: ignore[arg-type]
    vectors = Tiny().vectors()[::13]
    wanted = [problem.load(vector) * problem.first_limit for vector in vectors]
    assert problem.loads(np.array(vectors)) == pytest.approx(wanted, rel=1e-4)
    assert problem.first_limit == next(iter(budgets.values()))


@pytest.mark.parametrize("space", [small(), Unknown((8, 24), 2)])
@pytest.mark.parametrize(
    "budgets", [{}, {"ms": 0.5}, {"madds": 5e6}, {"parameters": 3e4}, {"ms": 0.2, "parameters": 3e4, "madds": 5e6}]
)
def test_the_smallest_network_is_that_of_all(space: Tiny, budgets: dict[str, float]) -> None:
    problem = Problem(space, tiny_predictor(), bound="predicted", **budgets)  # type: ignore[arg-type]
    size = problem.load if budgets else problem.ms
    found = problem.smallest()
    assert size(found) == pytest.approx(min(map(size, all_vectors(problem))), rel=1e-4)
    bare = Problem(space)
    assert bare.needs(bare.smallest()).madds == min(bare.needs(v).madds for v in all_vectors(bare))


def test_a_budget_below_the_smallest_network_says_which_that_is_and_by_how_much() -> None:
    least = Problem(resnets(), resnets_predictor(), ms=1.0)
    ms = least.bound_ms(least.smallest())
    with pytest.raises(
        BudgetError,
        match=r"^no network of resnet-cifar within .* ms was found: the smallest, of first options alone, "
        rf"takes {ms:.4g} ms \(up to, at 90%\), .* ms \(1\.0%\) beyond the budget of ",
    ):
        least.replace(ms=ms / 1.0101).check_budgets()
    assert least.replace(ms=ms * 1.0001).check_budgets() == least.smallest()
    few = Problem(Tiny(), parameters=1.2)
    with pytest.raises(
        BudgetError, match=r"takes \d+ parameters, .* \(\d+\.0%\) beyond the budget of 1\.2; did you mean"
    ):
        few.check_budgets()
    millions = Problem(RCNet("cifar"), parameters=2.4)
    with pytest.raises(BudgetError, match=r"M parameters.* beyond the budget of 2\.4; did you mean 2\.4e6\?$"):
        millions.check_budgets()
    both = Problem(Tiny(), tiny_predictor(), ms=0.01, madds=1e4)
    with pytest.raises(BudgetError, match=r"within .* ms, 10,000 multiply-adds was found: .*beyond.*; .*beyond"):
        both.check_budgets()
    with pytest.raises(UsageError, match=r"^a search needs a budget: of ms, of parameters or of multiply-adds$"):
        Problem(Tiny(), tiny_predictor()).check_budgets()
    with pytest.raises(UsageError, match=r"^breeding needs a budget"):
        Problem(Tiny()).check_budgets("breeding")


def test_a_network_with_a_narrower_interval_may_be_within_where_the_fastest_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = Problem._ms_and_bound

    def wide_where_narrow(self: Problem, vector: Any) -> tuple[float, float]:
        # As if nothing near the narrowest stem had been measured.
        ms, _ = known(self, vector)
        return ms, ms * (3.0 if vector[1] == 0 else 1.01)

    monkeypatch.setattr(Problem, "_ms_and_bound", wide_where_narrow)
    problem = Problem(Tiny(), tiny_predictor(), ms=1.0)
    fastest = problem.smallest()
    narrowest = min(Tiny().vectors(), key=problem.bound_ms)
    assert problem.ms(fastest) < problem.ms(narrowest)
    limited = problem.replace(ms=problem.bound_ms(narrowest) * 1.001)
    assert not limited.fits(fastest)
    assert limited.fits(limited.check_budgets())
    assert limited.fits(limited.sample(random.Random(0)))
    with pytest.raises(BudgetError, match=r"the smallest, .* \(up to, at 90%\), .* \(0\.1%\) beyond"):
        problem.replace(ms=problem.bound_ms(narrowest) * 0.999).check_budgets()


def test_a_budget_that_limits_nothing_is_told() -> None:
    (told,) = Problem(Tiny(), tiny_predictor(), ms=1e6, madds=5e6).limits_nothing()
    assert told.startswith("the budget of 1000000 ms limits nothing: the largest network of tiny takes up to")
    largest = max(Problem(Tiny()).needs(vector).madds for vector in Tiny().vectors())
    assert Problem(Tiny(), madds=largest * 0.999).limits_nothing() == ()
    assert len(Problem(Tiny(), madds=largest * 1.001).limits_nothing()) == 1


@pytest.mark.parametrize(
    "problem",
    [
        Problem(Tiny(), tiny_predictor(), ms=0.35),
        Problem(Unknown(), tiny_predictor(), ms=0.35, parameters=3e4),
        Problem(NasBenchMacro(), madds=30e6),
        Problem(resnets(), resnets_predictor(), ms=0.65 * widest_ms()),
    ],
)
def test_random_networks_are_within_the_budgets_and_many(problem: Problem) -> None:
    rng = random.Random(0)
    found = [problem.sample(rng) for _ in range(60)]
    assert all(map(problem.fits, found))
    assert all(problem.canonical(vector) == vector for vector in found)
    assert len(set(found)) > 20
    rng = random.Random(0)
    assert found == [problem.sample(rng) for _ in range(60)]
    with pytest.raises(BudgetError, match="beyond the budget"):
        Problem(problem.space, madds=1.0).sample(rng)


# --- probabilities ---


def test_the_fastest_network_is_found() -> None:
    problem = Problem(resnets(), resnets_predictor())
    ms = problem.latency.latency(np.array(all_vectors(problem)))
    for ask in (problem, problem.replace(ms=1.0)):
        assert ask.latency.latency(ask.smallest())[0] == pytest.approx(ms.min())


def test_what_is_derived_is_within_the_budget_and_mostly_the_most_probable() -> None:
    problem = Problem(resnets(), resnets_predictor())
    vectors = np.array(all_vectors(problem))
    ms = problem.latency.latency(vectors)
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(25):
        p = [rng.dirichlet(np.ones(len(d.options)) * 0.5) for d in resnets().choices]
        limited = problem.replace(ms=float(np.quantile(ms, rng.uniform(0.02, 0.7))) * 1.05)
        found = limited.discretise(p)
        assert limited.fits(found)
        scores = sum(np.log(np.maximum(own, 1e-30))[vectors[:, d]] for d, own in enumerate(p))
        order = np.argsort(-scores)
        best = next(i for i in order if limited.fits(vectors[i]))
        mine = sum(np.log(max(own[i], 1e-30)) for own, i in zip(p, found, strict=True))
        gaps.append(scores[best] - mine)
    assert min(gaps) > -1e-9
    assert np.mean(np.array(gaps) < 1e-9) >= 0.8


def test_the_most_probable_network_is_kept_where_it_is_within() -> None:
    p = [np.eye(len(d.options))[0] for d in resnets().choices]
    assert Problem(resnets(), resnets_predictor(), ms=1e6).discretise(p) == (0,) * len(p)
    # Nothing limits it without a budget.
    assert Problem(resnets(), resnets_predictor()).discretise(p) == (0,) * len(p)


@pytest.mark.parametrize("shares", [{"parameters": 0.4}, {"madds": 0.4}, {"parameters": 0.5, "madds": 0.3, "ms": 0.5}])
def test_what_is_derived_keeps_budgets_of_any_currency(shares: dict[str, float]) -> None:
    space = small()
    vectors = space.vectors()
    free = Problem(space, tiny_predictor(), ms=1e6)
    largest = {name: max(free.needs(v).held(name) for v in vectors) for name in shares}
    problem = Problem(space, tiny_predictor(), **{n: share * largest[n] for n, share in shares.items()})  # type: ignore[arg-type]
    assert {problem.fits(vector) for vector in vectors} == {True, False}
    rng = np.random.default_rng(1)
    gaps = []
    for _ in range(25):
        p = [rng.dirichlet(np.ones(len(d.options)) * 0.5) for d in space.choices]
        found = problem.discretise(p)
        assert problem.fits(found)

        def score(vector: Any, p: Any = p) -> float:
            return float(sum(np.log(max(own[i], 1e-30)) for own, i in zip(p, vector, strict=True)))

        gaps.append(max(score(v) for v in vectors if problem.fits(v)) - score(found))
    assert min(gaps) > -1e-9
    assert np.mean(np.array(gaps) < 1e-9) >= 0.8


def softmaxes(space: Tiny, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        d.name: torch.softmax(torch.randn(len(d.options), generator=generator, dtype=torch.float64), 0)
        for d in space.choices
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_is_the_expectation_over_all_networks(seed: int) -> None:
    space, problem = Tiny(), Problem(Tiny(), tiny_predictor())
    p = softmaxes(space, seed)
    vectors = np.array(space.vectors())
    weights = np.prod([p[d.name].numpy()[vectors[:, i]] for i, d in enumerate(space.choices)], axis=0)
    assert weights.sum() == pytest.approx(1.0)
    assert float(problem.mixture(p)) == pytest.approx(float(weights @ problem.latency.latency(vectors)), rel=1e-5)
    # What is decided may be an index; the order in which decisions are named does not matter.
    fixed: dict[str, Any] = dict(reversed(p.items())) | {"stem": 2, "neck": 1}
    own = (vectors[:, 1] == 2) & (vectors[:, 0] == 1)
    wanted = weights[own] @ problem.latency.latency(vectors[own]) / weights[own].sum()
    assert float(problem.mixture(fixed)) == pytest.approx(float(wanted), rel=1e-5)
    vector = space.vectors()[777]
    named = {d.name: i for d, i in zip(space.choices, vector, strict=True)}
    assert float(problem.mixture(named)) == pytest.approx(problem.ms(vector), rel=1e-4)


@pytest.mark.parametrize("of", ["table", "law"])
def test_gradients_of_a_mixture_are_those_of_finite_differences(of: Any) -> None:
    space, problem = Tiny(), Problem(Tiny(), tiny_predictor())
    generator = torch.Generator().manual_seed(3)
    alphas = {d.name: torch.randn(len(d.options), generator=generator, dtype=torch.float64) for d in space.choices}

    def mixture(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return problem.mixture({name: torch.softmax(own, -1) for name, own in values.items()}, of=of)

    leaves = {name: own.clone().requires_grad_() for name, own in alphas.items()}
    mixture(leaves).backward()
    for name, leaf in leaves.items():
        moved = []
        for sign in (1, -1):
            changed = {n: own.clone() for n, own in alphas.items()}
            changed[name][0] += sign * 1e-5
            moved.append(float(mixture(changed)))
        assert leaf.grad is not None
        assert float(leaf.grad[0]) == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-3, abs=1e-7)
    assert any(float(leaf.grad.abs().max()) > 1e-4 for leaf in leaves.values() if leaf.grad is not None)


def test_a_decision_with_one_option_need_not_be_named() -> None:
    space = Tiny(widths=(8, 24), blocks=1)
    problem = Problem(space, tiny_predictor())
    p = softmaxes(space)
    assert "depth" in p
    del p["depth"]
    assert float(problem.mixture(p)) == pytest.approx(float(problem.mixture(softmaxes(space))))


def test_what_is_no_mixture_is_told() -> None:
    problem = Problem(Tiny(), tiny_predictor())
    p: dict[str, Any] = dict(softmaxes(Tiny()))
    for changes, message in (
        ({"stemm": 0}, r"^tiny has no decision 'stemm'; did you mean 'stem'\?$"),
        ({"kernels": 0}, r"^tiny has no decision 'kernels'; it has neck, stem, depth, .* and 2 more$"),
        ({"stem": torch.ones(4) / 4}, r"^stem has 3 options: probabilities of shape \(3,\), got \(4,\)$"),
        ({"stem": torch.ones(1, 3) / 3}, r"probabilities of shape \(3,\), got \(1, 3\)"),
        ({"stem": torch.tensor([1, 0, 0])}, r"^stem has 3 options: probabilities of floating point.*got torch\.int64"),
        (
            {"stem": torch.ones(3)},
            r"^stem: weights that are not negative and sum to 1, got a sum of 3 and a least of 1",
        ),
        ({"stem": torch.tensor([2.0, -1.0, 0.0])}, r"a sum of 1 and a least of -1; of logits give torch\.softmax"),
        ({"stem": torch.full((3,), nan)}, r"got a sum of nan"),
        ({"stem": 3}, r"^stem has 3 options: give their probabilities or an index, got 3$"),
        ({"stem": -1}, r"an index, got -1$"),
        ({"stem": True}, r"an index, got True$"),
        ({"stem": "8"}, r"an index, got '8'$"),
    ):
        with pytest.raises(UsageError, match=message):
            problem.mixture({**p, **changes})
    del p["stem"], p["neck"]
    with pytest.raises(UsageError, match=r"^a mixture is over all decisions of tiny, and 2 are missing: neck, stem$"):
        problem.mixture(p)
    with pytest.raises(UsageError, match="without a predictor networks have no latency"):
        Problem(Tiny()).mixture(softmaxes(Tiny()))  # type: ignore[arg-type]
    # NumPy's numbers are indices too.
    assert float(problem.mixture({**softmaxes(Tiny()), "stem": np.int64(1)})) > 0  # type: ignore[dict-item]


# --- other libraries ---


def madds(network: Network) -> float:
    return 1 - 1 / (1 + network.madds / 1e6)


def test_an_optuna_study_runs() -> None:
    optuna = pytest.importorskip("optuna", reason="needs optuna: the extra dev")
    problem = Problem(Tiny(), tiny_predictor(), ms=0.35, madds=8e6)
    asked: list[Network] = []

    def accuracy(network: Network) -> float:
        asked.append(network)
        return madds(network)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(problem.optuna_objective(accuracy), n_trials=60)
    assert len(study.trials) == 60
    names = [decision.name for decision in Tiny().choices]
    states = set()
    for trial in study.trials:
        assert list(trial.params) == names
        vector = trial.user_attrs["vector"]
        for decision, index in zip(Tiny().choices, vector, strict=True):
            categorical = isinstance(trial.distributions[decision.name], optuna.distributions.CategoricalDistribution)
            assert categorical == (decision.kind == "operator")
            assert trial.params[decision.name] == (decision.options[index] if categorical else index)
        needs = problem.needs(vector)
        assert [trial.user_attrs[n] for n in ("ms", "parameters", "madds")] == [needs.ms, needs.parameters, needs.madds]
        assert trial.constraints == pytest.approx({"ms": needs.held("ms") / 0.35 - 1, "madds": needs.madds / 8e6 - 1})
        fits = problem.fits(vector)
        states.add(fits)
        assert trial.state == (optuna.trial.TrialState.COMPLETE if fits else optuna.trial.TrialState.PRUNED)
        if fits:
            assert trial.value == madds(problem.network(vector))
    assert states == {True, False}
    assert len(asked) == sum(problem.fits(trial.user_attrs["vector"]) for trial in study.trials)
    assert all(problem.fits(tuple(map(int, network.name.split()[1:]))) for network in asked)
    assert study.best_trial.value == max(map(madds, asked))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("space", [Tiny(), Tiny(widths=(24,), blocks=2)])
def test_pymoos_algorithms_take_a_problem(space: Tiny, mixed: bool) -> None:
    pytest.importorskip("pymoo", reason="needs pymoo: the extra search")
    from pymoo.algorithms.moo.nsga2 import NSGA2, RankAndCrowdingSurvival
    from pymoo.core.mixed import MixedVariableGA
    from pymoo.optimize import minimize

    problem = Problem(space, tiny_predictor(), ms=0.35, madds=8e6)
    asked: list[Network] = []

    def accuracy(network: Network) -> float:
        asked.append(network)
        return madds(network)

    algorithm = MixedVariableGA(pop_size=12, survival=RankAndCrowdingSurvival()) if mixed else NSGA2(pop_size=12)
    found = minimize(problem.as_pymoo(accuracy, mixed=mixed), algorithm, ("n_gen", 5), seed=0, verbose=False)
    assert asked
    assert all(problem.fits(tuple(map(int, network.name.split()[1:]))) for network in asked)
    front = np.atleast_1d(found.X) if mixed else np.atleast_2d(found.X)
    for solution, (error, ms), excess in zip(front, np.atleast_2d(found.F), np.atleast_2d(found.G), strict=True):
        vector = problem.vector_of(solution)
        assert vector in space.vectors()
        assert problem.fits(vector)
        needs = problem.needs(vector)
        assert error == pytest.approx(1 - madds(problem.network(vector)))
        assert ms == pytest.approx(needs.ms)
        assert excess == pytest.approx([needs.held("ms") / 0.35 - 1, needs.madds / 8e6 - 1])


def test_every_option_has_as_much_room_among_real_numbers() -> None:
    pytest.importorskip("pymoo", reason="needs pymoo: the extra search")
    problem = Problem(Tiny())
    made = problem.as_pymoo(madds)
    assert (made.n_obj, made.n_ieq_constr, made.n_var) == (2, 0, 7)
    assert problem.vector_of(made.xl) == (0,) * 7
    assert problem.vector_of(made.xu) == tuple(len(d.options) - 1 for d in Tiny().choices)
    assert problem.vector_of([2.99, 0.5, 1.0, 1.99, 2.0, 0.0, 1.5]) == (2, 0, 1, 1, 2, 0, 1)
    # Without a predictor the second aim is millions of multiply-adds, and there is no constraint without a budget.
    out: dict[str, Any] = {}
    made._evaluate([[0.0] * 7], out)
    assert out["F"][0] == pytest.approx([1 - madds(Tiny().decode((0,) * 7)), Tiny().decode((0,) * 7).madds / 1e6])
    assert "G" not in out


@pytest.mark.parametrize(("library", "ask"), [("optuna", "optuna_objective"), ("pymoo", "as_pymoo")])
def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, library: str, ask: str) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TargetUnavailableError, match=rf"this needs {library}: pip install"):
        getattr(Problem(Tiny(), madds=1e6), ask)(madds)


def test_spaces_of_other_options_are_others() -> None:
    problem = Problem(ResNetCifar(depth=20), madds=1e9)
    assert "resnet-cifar within 1000 M multiply-adds; no predictor" in repr(problem)
    assert "made device" in repr(Problem(Tiny(), tiny_predictor(), ms=1.0))

"""Evolution, local search and random search: budgets that hold, seeds that reproduce, folders that go on."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _predictors import Tiny, tiny_predictor
from _recorded import blocks_predictor, resnets, resnets_predictor, unsure_predictor, widest_ms
from conftest import in_the_foreground, wait_until

from lut import Layer, Network, SearchSpace, UsageError
from lut.errors import BudgetError, CheckpointError, SearchError
from search import evolution
from search._accuracy._evaluator import network_key
from search._accuracy._finalists import Reseedable, choose_finalist, fresh_seed, fresh_values, optimism_text
from search._accuracy._open import EVALUATIONS, evaluating, function_digest
from search._accuracy._short_training import ShortTraining, rcas_recipe
from search._data._images import load_data, subset
from search._problem._problem import Problem
from search.evolution._local import neighbours
from search.evolution._settings import EvolutionSettings
from search.spaces._nas_bench_macro import NasBenchMacro

pytest.importorskip("pymoo", reason="needs pymoo: the extra search")

STRATEGIES = ("evolution", "local", "random")


class Unknown(Tiny):
    """The tiny space without saying where its layers stand."""

    def slots(self) -> None:  # type: ignore[override]
        return None


def accuracy(network: Network) -> float:
    """Return something that grows with size, by less and less, and differs a little from network to network."""
    number = int.from_bytes(hashlib.sha256(network_key(network).encode()).digest()[:4], "little") / 2**32
    return 0.9 - 4e6 / (5e6 + network.madds) + 0.002 * number


def problems() -> dict[str, Problem]:
    macro, tiny = NasBenchMacro(), Tiny()
    return {
        "blocks": Problem(macro, blocks_predictor(), ms=2.6),
        "blocks in two currencies": Problem(macro, parameters=1.4e6, madds=55e6),
        "widths": Problem(resnets(), resnets_predictor(), ms=0.75 * widest_ms()),
        "all sorts": Problem(tiny, tiny_predictor(), ms=0.4),
        "no slots": Problem(Unknown(), tiny_predictor(), ms=0.4),
        "no slots, madds": Problem(Unknown(), madds=6e6),
    }


def settings(strategy: str, **changes: Any) -> EvolutionSettings:
    return EvolutionSettings(**{"strategy": strategy, "population": 8, "evaluations": 40, **changes})


# --- what is evaluated ---


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", problems())
def test_what_is_evaluated_is_within_the_budgets_and_different(name: str, strategy: str) -> None:
    problem = problems()[name]
    asked: list[Network] = []

    def counted(network: Network) -> float:
        asked.append(network)
        return accuracy(network)

    found = evolution.search(problem, counted, settings=settings(strategy), seed=1)
    assert len(asked) == found.evaluated <= 40
    assert len({network_key(network) for network in asked}) == len(asked)
    assert found.evaluated == 40
    within = {network_key(problem.network(vector)) for vector in found.knowledge.values}  # type: ignore[attr-defined]
    assert within == {network_key(network) for network in asked}
    # Measuring may find that what only the prediction is within keeps the budget; it is no result unmeasured.
    assert all(problem.by_prediction.fits(vector) for vector in found.knowledge.values)  # type: ignore[attr-defined]
    assert problem.fits(found.vectors[0])
    assert found.values[0] == max(accuracy(network) for network in asked)
    assert found.values[0] == accuracy(found.networks[0])
    assert isinstance(found.course, evolution.Course)
    best = [step.best for step in found.course.rounds]
    assert best == sorted(best)
    assert (best[-1], found.course.rounds[-1].evaluated) == (found.values[0], 40)


def test_a_random_search_goes_on_among_those_that_may_fit() -> None:
    """Few networks are within by the upper end, and twice as many by the prediction."""
    problem = Problem(NasBenchMacro(), unsure_predictor(), ms=1.6 * least_bound_ms())
    found = evolution.search(problem, accuracy, settings=settings("random"), seed=1)
    values = found.knowledge.values  # type: ignore[attr-defined]
    assert problem.fits(found.vectors[0])
    within = sum(problem.fits(vector) for vector in values)
    assert 1 <= within < 40
    # It does not end where the first are all known.
    assert len(values) > within + 3


def least_bound_ms() -> float:
    """Return the upper end of the smallest network."""
    problem = Problem(NasBenchMacro(), unsure_predictor(), ms=1e3)
    return problem.bound_ms(problem.smallest())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_hopeful_networks_are_evaluated_only_where_they_may_be_measured(strategy: str) -> None:
    problem = Problem(NasBenchMacro(), unsure_predictor(), ms=2.6)
    found = evolution.search(problem, accuracy, settings=settings(strategy), seed=1)
    values = found.knowledge.values  # type: ignore[attr-defined]
    assert not all(problem.fits(vector) for vector in values)
    # What is told of the course is of networks within the budget.
    assert found.course.rounds[-1].best == found.values[0] == max(values[v] for v in values if problem.fits(v))
    plain = evolution.search(problem, accuracy, settings=settings(strategy, hopeful=False), seed=1)
    assert all(problem.fits(vector) for vector in plain.knowledge.values)  # type: ignore[attr-defined]
    assert found.evaluated == plain.evaluated == 40


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["blocks", "widths"])
def test_a_seed_gives_the_same_search_however_many_workers_there_are(name: str, strategy: str) -> None:
    problem = problems()[name]

    def course(seed: int, workers: int, **changes: Any) -> list[Any]:
        found = evolution.search(problem, accuracy, settings=settings(strategy, **changes), seed=seed, workers=workers)
        return [list(found.knowledge.values), found.winners, found.course]  # type: ignore[attr-defined]

    assert course(0, 1) == course(0, 1)
    assert course(0, 1) == course(0, 3)
    assert course(0, 1)[0] != course(1, 1)[0]
    if strategy == "local":
        assert course(0, 1, at_once=4) == course(0, 3, at_once=4)


def test_workers_evaluate_side_by_side() -> None:
    together = threading.Barrier(2)

    def meets(network: Network) -> float:
        # Each waits for another one, which comes only where two work at a time.
        together.wait(timeout=300)
        return accuracy(network)

    found = evolution.search(problems()["blocks"], meets, settings=settings("random", evaluations=8), workers=2)
    assert found.evaluated == 8


def structured(network: Network) -> float:
    """Return a sum over a network's layers: what is good for one network is good for those like it."""
    total = 0.0
    for item in network.layers:
        number = int.from_bytes(hashlib.sha256(f"{item.name} {item.layer}".encode()).digest()[:4], "little")
        total += item.count * number / 2**32
    return total / 50


@pytest.mark.parametrize(
    ("name", "function"), [("blocks", structured), ("widths", accuracy), ("all sorts", structured)]
)
def test_evolution_and_local_search_beat_chance(name: str, function: Any) -> None:
    problem = problems()[name]

    def mean(strategy: str) -> float:
        given = settings(strategy, evaluations=100, population=12)
        found = [evolution.search(problem, function, settings=given, seed=seed) for seed in range(4)]
        assert {one.evaluated for one in found} == {100}
        return sum(one.values[0] for one in found) / len(found)

    chance = mean("random")
    assert mean("evolution") > chance
    assert mean("local") > chance


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_small_space_is_searched_whole_and_the_search_ends(strategy: str) -> None:
    space = Tiny(widths=(8, 24), blocks=1)
    problem = Problem(space, tiny_predictor(), ms=0.2)
    fitting = [vector for vector in space.vectors() if problem.fits(vector)]
    assert 5 < len(fitting) < len(space.vectors())
    found = evolution.search(problem, accuracy, settings=settings(strategy, evaluations=1000, most_changed=3), seed=0)
    best = max(accuracy(space.decode(vector)) for vector in fitting)
    assert found.values[0] == best
    assert found.evaluated == len({network_key(space.decode(vector)) for vector in fitting})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_space_of_one_network(strategy: str) -> None:
    class One(Unknown):
        @property
        def choices(self) -> Any:
            return tuple(type(d)(d.name, d.options[:1], d.kind) for d in super().choices)

    found = evolution.search(Problem(One(), madds=1e9), accuracy, settings=settings(strategy))
    assert (found.vectors, found.evaluated) == (((0,) * 7,), 1)


def test_generations_are_counted_and_told() -> None:
    told: list[tuple[int, int, float]] = []
    given = EvolutionSettings(population=6, generations=3)
    found = evolution.search(
        problems()["blocks"], accuracy, settings=given, on_generation=lambda *now: told.append(now)
    )
    assert [(number, of) for number, of, _ in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1][2] == found.values[0]
    assert 6 < found.evaluated <= 18
    assert given.most_evaluated == 18
    # The smallest network is in the first population.
    smallest = problems()["blocks"].smallest()
    assert smallest in list(found.knowledge.values)[:6]  # type: ignore[attr-defined]


def test_neighbours_come_near_ones_first() -> None:
    space = Tiny(widths=(8, 16, 24, 32), blocks=2)
    vector = (1, 1, 0, 0, 2, 1, 0)
    found = list(neighbours(space, vector, 1, random.Random(0)))
    others = sum(len(decision.options) - 1 for decision in space.choices)
    assert len(set(found)) == len(found) == others
    steps = []
    for other in found:
        (d,) = [d for d in range(7) if other[d] != vector[d]]
        steps.append(space.choices[d].kind == "operator" or abs(other[d] - vector[d]) == 1)
    assert steps == sorted(steps, reverse=True)
    assert not all(steps)
    assert found != list(neighbours(space, vector, 1, random.Random(1)))
    pairs = itertools.islice(neighbours(space, vector, 2, random.Random(0)), others, others + 200)
    assert {sum(a != b for a, b in zip(other, vector, strict=True)) for other in pairs} == {2}


def test_several_changes_leave_a_summit() -> None:
    # Worth something only where two decisions change together: from most starts one change leads nowhere.
    space = Tiny(widths=(8, 24), blocks=1)
    problem = Problem(space, madds=1e9)

    def paired(network: Network) -> float:
        vector = tuple(map(int, network.name.split()[1:]))
        return 1.0 * (vector[1] == vector[4]) + 2.0 * (vector[1] == 1) * (vector[4] == 1)

    one, two = (
        evolution.search(problem, paired, settings=settings("local", evaluations=30, most_changed=n), seed=3)
        for n in (1, 2)
    )
    assert two.values[0] == 3.0
    assert len(two.course.rounds) <= len(one.course.rounds)


# --- folders ---


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_second_call_goes_on_from_its_folder(tmp_path: Path, strategy: str) -> None:
    problem, calls, whole = problems()["all sorts"], [0], settings(strategy)

    class Failing:
        digest = "made"

        def __call__(self, network: Network) -> float:
            calls[0] += 1
            if calls[0] == 15:
                raise RuntimeError("out of memory")
            return accuracy(network)

    with pytest.raises(SearchError, match=r"could not be evaluated: RuntimeError: out of memory"):
        evolution.search(problem, Failing(), settings=whole, seed=2, folder=tmp_path / "run")
    assert (tmp_path / "run" / EVALUATIONS).read_bytes().count(b"\n") == 15
    found = evolution.search(problem, Failing(), settings=whole, seed=2, folder=tmp_path / "run")
    assert calls[0] == 15 + 40 - 14
    assert found.winners == evolution.search(problem, accuracy, settings=whole, seed=2).winners
    again = evolution.search(problem, Failing(), settings=whole, seed=2, folder=str(tmp_path / "run"))
    assert calls[0] == 15 + 40 - 14
    assert (again.winners, again.course) == (found.winners, found.course)


def other_accuracy(network: Network) -> float:
    return 1.0 + accuracy(network)


def test_a_folder_of_another_search_is_refused_before_anything_is_evaluated(tmp_path: Path) -> None:
    problem, asked = problems()["all sorts"], settings("random", evaluations=5)
    evolution.search(problem, accuracy, settings=asked, folder=tmp_path)
    before = (tmp_path / EVALUATIONS).read_bytes()
    with pytest.raises(
        CheckpointError, match=r"computed otherwise.*; give another folder, or remove evaluations\.jsonl"
    ):
        evolution.search(problem, other_accuracy, settings=asked, folder=tmp_path)
    wider = Problem(Tiny(widths=(8, 24)), tiny_predictor(), ms=0.4)
    wider.space.name = "wider"
    with pytest.raises(CheckpointError, match="of another search space"):
        evolution.search(wider, accuracy, settings=asked, folder=tmp_path)
    blocks = problems()["blocks"]
    with pytest.raises(CheckpointError, match=r"of another search space \(tiny \{\}, not nas-bench-macro") as caught:
        evolution.search(blocks, accuracy, settings=asked, folder=tmp_path)
    assert "--" not in str(caught.value)
    assert (tmp_path / EVALUATIONS).read_bytes() == before
    # Other budgets are no other search: what is known of its networks stays true.
    found = evolution.search(problem.replace(ms=0.3), accuracy, settings=asked, folder=tmp_path)
    assert problem.replace(ms=0.3).fits(found.vectors[0])
    with evaluating(problem, accuracy, tmp_path), pytest.raises(CheckpointError, match="another process holds"):
        evolution.search(problem, accuracy, settings=asked, folder=tmp_path)


def test_what_a_function_is_known_by(tmp_path: Path) -> None:
    assert function_digest(accuracy) == function_digest(accuracy)
    assert function_digest(accuracy) != function_digest(other_accuracy)

    class Digested:
        digest = "abc"

        def __call__(self, network: Network) -> float:
            return accuracy(network)

    assert function_digest(Digested()) == "abc"
    # Two lambdas of one file are told apart, and values that they close over are not seen.
    assert function_digest(lambda network: network.madds) != function_digest(lambda network: network.parameters)
    assert function_digest(lambda _: 1.0) != function_digest(lambda _: 2.0)
    assert function_digest(lambda _, k=1: k) != function_digest(lambda _, k=2: k)

    def times(factor: int) -> Any:
        return lambda network: network.madds * factor

    assert function_digest(times(1)) == function_digest(times(2))
    assert function_digest(functools.partial(accuracy)) != function_digest(accuracy)
    one, two = (functools.partial(other_accuracy, k=k) for k in (1, 2))  # type: ignore[call-arg]
    assert function_digest(one) != function_digest(two)
    # Without a file there is only what the function came to, the same in every process.
    code = (
        "from search._accuracy._open import function_digest\n"
        'exec(\'def f(network):\\n    return network.madds in {"a", "b", "c", "d"}\')\n'
        "print(function_digest(f))"
    )
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONHASHSEED": str(n)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for n in range(3)
    }
    assert len(found) == 1
    # Of a file the content counts, not where it lies.
    digests = set()
    for folder, body in (("a", "0.5"), ("b", "0.5"), ("c", "0.6")):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "mine.py"
        file.write_text(f"def mine(network):\n    return {body}\n", encoding="utf-8")
        names: dict[str, Any] = {}
        exec(compile(file.read_text(), str(file), "exec"), names)
        digests.add((folder, function_digest(names["mine"])))
    by_folder = dict(digests)
    assert by_folder["a"] == by_folder["b"] != by_folder["c"]


# --- finalists ---


@dataclass(frozen=True)
class Noisy:
    """An accuracy with luck in it."""

    seed: int = 0
    spread: float = 0.05
    asked: Any = None

    @property
    def digest(self) -> str:
        return f"noisy {self.seed}"

    def __call__(self, network: Network) -> float:
        if self.asked is not None:
            self.asked.append(self.seed)
        return accuracy(network) + random.Random(f"{self.seed} {network_key(network)}").gauss(0, self.spread)

    def reseeded(self, seed: int) -> Noisy:
        return Noisy(seed, self.spread, self.asked)


def test_the_winner_is_chosen_by_fresh_values_and_its_optimism_told(tmp_path: Path) -> None:
    problem = problems()["blocks"]
    asked: list[int] = []
    found = evolution.search(
        problem, Noisy(asked=asked), settings=settings("random", finalists=4), folder=tmp_path, seed=0
    )
    finalists = found.knowledge.candidates(problem, 4)
    other = Noisy(fresh_seed(0))
    fresh = [other(problem.network(one.vector)) for one in finalists]
    best = fresh.index(max(fresh))
    # It is ranked as the others are; what it is worth is said by its optimism.
    assert found.winners == (finalists[best],)
    assert found.course.optimism == pytest.approx(finalists[best].value - fresh[best])
    assert found.course.optimism > 0
    (warning,) = found.warnings
    assert f"{finalists[best].value:.4g}, is {found.course.optimism:.4g} more than with a fresh seed" in warning
    assert asked.count(fresh_seed(0)) == 4
    # Fresh values are kept as well, beside the others.
    asked.clear()
    again = evolution.search(
        problem, Noisy(asked=asked), settings=settings("random", finalists=4), folder=tmp_path, seed=0
    )
    assert (asked, again.winners) == ([], found.winners)
    none = evolution.search(problem, Noisy(), settings=settings("random", finalists=0), seed=0)
    assert (none.winners[0], none.course.optimism, none.warnings) == (finalists[0], None, ())


def test_fresh_values_are_of_accuracies_with_a_seed() -> None:
    networks = [NasBenchMacro().decode([n] * 8) for n in range(3)]
    assert fresh_values(accuracy, networks, 1) is None
    assert not isinstance(accuracy, Reseedable)
    assert fresh_values(Noisy(0), networks, 7) == [Noisy(7)(network) for network in networks]
    closed: list[int] = []

    class Many:
        def __init__(self, seed: int = 0) -> None:
            self.seed = seed

        def reseeded(self, seed: int) -> Many:
            return Many(seed)

        def evaluate(self, networks: Sequence[Network]) -> Iterator[tuple[int, float, float]]:
            yield from ((i, float(self.seed), 0.0) for i in range(len(networks)))

        def close(self) -> None:
            closed.append(self.seed)

    assert fresh_values(Many(), networks, 7) == [7.0, 7.0, 7.0]
    # Its processes end; those of the first one are the caller's.
    assert closed == [7]
    assert choose_finalist([0.9, 0.8, 0.7], [0.5, 0.6, 0.6]) == (1, pytest.approx(0.2))
    assert "0.1 less than with a fresh seed, 0.6:" in optimism_text(0.5, -0.1)
    for wrong in (([], []), ([0.5], [])):
        with pytest.raises(UsageError, match="a first and a fresh value each"):
            choose_finalist(*wrong)


def test_a_short_training_is_seeded_anew() -> None:
    data = subset(load_data("digits"), train=60, test=10, seed=0)
    first = ShortTraining(data, rcas_recipe(1, batch_size=16), seed=3, held_out=2)
    fresh = first.reseeded(4)
    same = ShortTraining(data, rcas_recipe(1, batch_size=16), seed=4, held_out=2)
    assert isinstance(first, Reseedable)
    assert fresh.digest == same.digest != first.digest
    assert fresh.split.digest == same.split.digest != first.split.digest
    assert function_digest(first) == first.digest


# --- what cannot be searched ---


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_needs_a_budget_that_some_network_holds(strategy: str) -> None:
    names = {"evolution": "an evolution", "local": "a local search", "random": "a random search"}
    with pytest.raises(UsageError, match=f"^{names[strategy]} needs a budget: of ms, of parameters or of mult"):
        evolution.search(Problem(NasBenchMacro(), blocks_predictor()), accuracy, settings=settings(strategy))
    tight = Problem(NasBenchMacro(), blocks_predictor(), ms=0.05)
    with pytest.raises(
        BudgetError, match=r"the smallest, '00000000', takes .* ms \(up to, at 90%\), .* ms \(.*%\) beyond"
    ):
        evolution.search(tight, accuracy, settings=settings(strategy))


def fails(_: Network) -> float:
    raise ValueError("no such\nlayer")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fails, r"the accuracy of network 'tiny .*' could not be evaluated: ValueError: no such layer$"),
        (lambda _: math.nan, r"the accuracy of network 'tiny .*' must be a finite number, got nan$"),
        (lambda _: "0.9", r"the accuracy of network 'tiny .*' must be a finite number, got '0\.9'$"),
        (lambda _: None, r"the accuracy of network 'tiny .*' must be a finite number, got None$"),
        (lambda _: True, r"the accuracy of network 'tiny .*' must be a finite number, got True$"),
    ],
)
def test_accuracies_that_are_none_are_told_in_a_line(strategy: str, function: Any, message: str) -> None:
    with pytest.raises(SearchError, match=message) as caught:
        evolution.search(problems()["all sorts"], function, settings=settings(strategy))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_function_that_blocks_is_left_to_itself(workers: int) -> None:
    never = threading.Event()

    def blocks(_: Network) -> float:
        never.wait()
        return 0.0

    try:
        with pytest.raises(
            SearchError,
            match=r"network 'tiny .*' could not be evaluated: TimeoutError: .* longer than 0\.2 s \(timeout_s\)",
        ):
            evolution.search(
                problems()["all sorts"], blocks, settings=settings("random"), timeout_s=0.2, workers=workers
            )
    finally:
        never.set()
    # One that is quick enough is not.
    found = evolution.search(problems()["all sorts"], accuracy, settings=settings("random"), timeout_s=300.0)
    assert found.evaluated == 40


BLOCKED = """
import sys, threading
sys.path[:0] = [{tests!r}, {root!r}]
import test_evolution as t
def blocks(network):
    open({file!r}, "w").close()
    threading.Event().wait()
t.evolution.search(t.problems()["no slots, madds"], blocks, settings=t.settings("random"), workers={workers})
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_is_heard_while_a_function_blocks(tmp_path: Path, workers: int) -> None:
    tests, file = Path(__file__).parent, tmp_path / "began"
    code = BLOCKED.format(tests=str(tests), root=str(tests.parent), file=str(file), workers=workers)
    child = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, preexec_fn=in_the_foreground
    )
    try:
        wait_until(file.exists, child)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=300)
    finally:
        child.kill()
    assert "KeyboardInterrupt" in errors
    assert child.returncode != 0


def test_arguments_that_make_no_sense_are_refused() -> None:
    problem = problems()["all sorts"]
    for wrong, message in (
        ({"accuracy": 0.9}, "an accuracy is a function of a network, got float"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"timeout_s": 0.0}, "timeout_s is a positive number of seconds, got 0"),
        ({"timeout_s": math.nan}, "timeout_s is a positive number"),
    ):
        given: dict[str, Any] = {"accuracy": accuracy, **wrong}
        with pytest.raises(UsageError, match=message):
            evolution.search(problem, given.pop("accuracy"), **given)
    for changes, message in (
        ({"strategy": "annealing"}, "evolution: strategy is evolution, local or random, got 'annealing'"),
        ({"population": 1}, "at least 2 networks and 1 generation, got 1 and"),
        ({"generations": 0}, "at least 2 networks and 1 generation"),
        ({"population": 10_001}, "at most 10000 networks and generations"),
        ({"evaluations": 0}, "evaluations are 1 to 1,000,000, got 0"),
        ({"evaluations": 1_000_001}, "evaluations are 1 to 1,000,000"),
        ({"most_changed": 0}, "most_changed is 1 to 3, got 0"),
        ({"most_changed": 4}, "most_changed is 1 to 3, got 4"),
        ({"at_once": 0}, "at_once is 1 to 1000, got 0"),
        ({"finalists": -1}, "finalists are 0 to"),
    ):
        with pytest.raises(UsageError, match=message):
            EvolutionSettings(**changes)  # type: ignore[arg-type]


def test_the_package_loads_nothing_before_it_is_asked_for() -> None:
    code = (
        "import sys; from search import evolution; dir(evolution)\n"
        "assert not {'numpy', 'torch', 'pymoo'} & set(sys.modules)\n"
        "assert evolution.Settings(strategy='local').strategy == 'local'\n"
        "assert evolution.search.__name__ == 'search'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_space_of_ones_own_is_searched() -> None:
    from lut import Decision, NetworkLayer, conv_norm_act

    class Mine(SearchSpace):
        name = "mine"

        @property
        def choices(self) -> tuple[Decision, ...]:
            return (Decision("width", (8, 16, 32), kind="width"), Decision("kernel", (1, 3, 5), kind="operator"))

        def _layer(self, vector: Sequence[int]) -> Layer:
            width, kernel = (d.options[i] for d, i in zip(self.choices, vector, strict=True))
            return conv_norm_act(3, width, kernel_size=kernel, stride=1, activation="relu", input_size=(8, 8))

        def decode(self, vector: Sequence[int]) -> Network:
            return Network("mine", (NetworkLayer("conv", self._layer(vector)),))

        def layers(self) -> tuple[Layer, ...]:
            return tuple(map(self._layer, itertools.product(range(3), range(3))))

    problem = Problem(Mine(), parameters=700)
    best = max(
        network.parameters
        for network in map(Mine().decode, itertools.product(range(3), range(3)))
        if network.parameters <= 700
    )
    for strategy in STRATEGIES:
        found = evolution.search(problem, lambda network: network.parameters, settings=settings(strategy))
        assert found.networks[0].parameters == best
        assert found.networks[0].name == "mine found"

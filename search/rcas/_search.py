"""RCAS: the most accurate network within budgets, by cost-effective greedy search over blocks.

Source: Xiong et al. (2019), Algorithm 3, with latency as one more cost, and an exchange of blocks at the end that is
not theirs and has a name of its own. What the printed algorithm leaves open is settled in :mod:`search.rcas._greedy`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf, prod
from typing import NamedTuple, TypeAlias

import msgspec

from lut import Network, SearchSpace, UsageError
from lut._suggest import did_you_mean
from predictors._predictions import NetworkPrediction
from search._problem._blocks import check_start
from search._problem._problem import Problem
from search.rcas._greedy import UNIFORM, Budget, GreedyPath, GreedyStep, SetProblem, cost_effective_greedy

__all__ = ["EXCHANGE", "RULES", "RcasPath", "RcasResult", "RcasSettings", "RcasStep", "rules_for", "search_rcas"]

# What gains are divided by: nothing, or a network's resource (RCAS: UC, APR, AMR, and latency).
RULES: Mapping[str, str | None] = {UNIFORM: None, "params": "parameters", "madds": "madds", "latency": "ms"}
EXCHANGE = "exchange"
# A block that adds less than this share of the first network's cost counts as adding so much.
FLOOR = 1e-3
# Decisions that an exchange changes at a time, and of how many neighbours there may be for it to look at them all.
MOST_CHANGED, MOST_NEIGHBOURS = 3, 200_000
# The part of an exchange's evaluations that is for networks which only the prediction is within.
HOPEFUL_SHARE = 0.25

# A block: a decision's number and the index of the option that fills it.
Block: TypeAlias = tuple[int, int]
Evaluate: TypeAlias = Callable[[Sequence[Network]], Sequence[float]]


class RcasSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How RCAS searches.

    Args:
        rules: whose results are compared: ``uniform``, ``params``, ``madds``, ``latency``. None at all: the uniform
            one, and that of each budget.
        lazy: evaluate no more than submodularity would allow.
        at_once: networks on top of the order that a lazy search evaluates together.
        stop_without_gain: stop a path where nothing gains any more; the paper goes on until nothing fits.
        exchange: afterwards go on from the best network that was evaluated, and change one, two or three decisions at
            a time as long as that improves it; three where there are no more than 200,000 such networks. Not in the
            paper.
        evaluations: networks evaluated in all, beyond which no exchange is tried.
        hopeful: at the end also evaluate networks that only the prediction is within the budget of ms, not the upper
            end of its interval: the paths, and exchanges of one decision, go on to there. They are not the result, but
            verifying may find that they keep the budget. Not in the paper.

    Raises:
        UsageError: a value is out of its range.
    """

    rules: tuple[str, ...] = ()
    lazy: bool = True
    at_once: int = 1
    stop_without_gain: bool = False
    exchange: bool = False
    evaluations: int | None = None
    hopeful: bool = True

    def __post_init__(self) -> None:
        for rule in self.rules:
            if rule not in RULES:
                raise UsageError(f"rules are {', '.join(RULES)}; got {rule!r}{did_you_mean(rule, RULES)}")
        if len(set(self.rules)) < len(self.rules):
            raise UsageError(f"a rule is named twice: {', '.join(self.rules)}")
        if self.at_once < 1:
            raise UsageError(f"at_once must be at least 1, got {self.at_once}")
        if self.evaluations is not None and self.evaluations < 1:
            raise UsageError(f"evaluations must be at least 1, got {self.evaluations}")
        if self.evaluations is not None and not self.exchange:
            raise UsageError("evaluations limit an exchange, and none was asked for: a path is always searched whole")


class RcasStep(msgspec.Struct, frozen=True):
    """A network on a path.

    Args:
        changed: by a decision's name, the option that it got in this step; nothing in the first network.
        vector: its option indices.
        value: of the set function, such as its accuracy; ``gain``: how much more than the network before.
        cost: what the step added to the rule's resource: parameters, multiply-adds or predicted ms; 0 for ``uniform``.
        parameters: see :class:`Resources`, as ``madds``, ``ms`` and ``bound_ms``.
        candidates: blocks that fitted.
        evaluated: networks whose value was asked for in this step; ``plain``: how many without laziness.
        revisited: networks evaluated for gains that were known from an earlier step; ``exceeded``: how many of them
            had grown, and ``excess``: by how much at most.
    """

    changed: dict[str, int]
    vector: tuple[int, ...]
    value: float
    gain: float
    cost: float
    parameters: int
    madds: int
    ms: float | None
    bound_ms: float | None
    candidates: int = 0
    evaluated: int = 0
    plain: int = 0
    revisited: int = 0
    exceeded: int = 0
    excess: float = 0.0


class RcasPath(msgspec.Struct, frozen=True):
    """A search's course by one rule, or the exchanges at the end: its networks, from the first to the last."""

    rule: str
    steps: tuple[RcasStep, ...]

    @property
    def last(self) -> RcasStep:
        """The path's result."""
        return self.steps[-1]


class RcasResult(NamedTuple):
    """What RCAS found.

    Args:
        vector: the option index of each decision, as the space's ``canonical`` gives it.
        network: the network.
        value: of the set function.
        prediction: of its latency; ``None`` without a predictor.
        rule: whose result it is.
        paths: all of them, in the order in which they were searched; the accuracy/cost curves of the paper's figures
            3 and 4.
        evaluated: different networks whose value was asked for.
        plain: how many a search without laziness would have asked for, along the same paths.
        revisited: gains that were taken anew; ``exceeded``: those that were above what they had been before, which no
            submodular function allows, and ``excess``: by how much at most.
        seconds: in all.
        values: of all networks that were evaluated, by vectors.
    """

    vector: tuple[int, ...]
    network: Network
    value: float
    prediction: NetworkPrediction | None
    rule: str
    paths: tuple[RcasPath, ...]
    evaluated: int
    plain: int
    revisited: int
    exceeded: int
    excess: float
    seconds: float
    values: Mapping[tuple[int, ...], float]


def rules_for(settings: RcasSettings, problem: Problem) -> tuple[str, ...]:
    """Return the rules that a search follows."""
    limited = {name for name, _ in problem.budgets.given()}
    return settings.rules or tuple(rule for rule, of in RULES.items() if of is None or of in limited)


def checked_rules(settings: RcasSettings, problem: Problem) -> tuple[str, ...]:
    """Return the rules that a search follows; raise where one of them needs a predictor and there is none."""
    rules = rules_for(settings, problem)
    if "latency" in rules and problem.predictor is None:
        raise UsageError("the rule latency needs a predictor")
    return rules


def search_rcas(
    problem: Problem,
    evaluate: Evaluate,
    settings: RcasSettings | None = None,
    *,
    told: Callable[[str, RcasStep], None] = lambda *_: None,
) -> RcasResult:
    """Search the most accurate network within budgets (RCAS, Algorithm 3).

    Any space will do whose first options say that nothing is there: the search begins with all of them and adds blocks.
    What a block costs is what it adds to the network as it is: its channels depend on what is before it, and predicted
    latency is a stair, so that it may add nothing, or even take something off. Ratios then divide by 0.1 % of what the
    first network takes (:data:`FLOOR`), so that among blocks for free the one with the largest gain wins.

    The bound ½(1−1/e) of the paper's Theorem 1 holds where the set function is monotone and submodular, for one budget
    that is a sum over blocks, and where blocks do not exclude each other. None of that is so for networks.

    Args:
        problem: a space of blocks, and at least one budget.
        evaluate: the set function F, of several networks; they are asked for once if :class:`Evaluator` stands between.
        settings: how.
        told: called with the rule and each network that joins a path.

    Raises:
        BudgetError: the first network is beyond a budget.
        UsageError: no budget, or a rule or budget of latency without a predictor.
        SearchError: a network cannot be evaluated.
    """
    settings = settings or RcasSettings()
    began = time.monotonic()
    check_start(problem)
    rules = checked_rules(settings, problem)
    start = (0,) * len(problem.space.choices)
    values: dict[tuple[int, ...], float] = {}

    def value(vectors: Sequence[Sequence[int]]) -> list[float]:
        keys = [problem.canonical(vector) for vector in vectors]
        new = [key for key in dict.fromkeys(keys) if key not in values]
        values.update(zip(new, evaluate([problem.network(key) for key in new]) if new else [], strict=True))
        return [values[key] for key in keys]

    sets = _set_problem(problem, start, value)
    paths: list[RcasPath] = []
    refused: list[RcasStep] = []
    plain: set[tuple[int, ...]] = set()
    for rule in rules:
        steps: list[RcasStep] = []

        def tell(step: GreedyStep[Block], rule: str = rule, steps: list[RcasStep] = steps) -> None:
            steps.append(_step(problem, step))
            told(rule, steps[-1])

        path = cost_effective_greedy(
            sets,
            RULES[rule] or UNIFORM,
            lazy=settings.lazy,
            at_once=settings.at_once,
            stop_without_gain=settings.stop_without_gain,
            told=tell,
        )
        plain |= _asked_without_laziness(problem, path)
        paths.append(RcasPath(rule, tuple(steps)))
        if path.refused is not None:
            refused.append(_step(problem, path.refused))
    greedy = set(values)
    best = max(paths, key=lambda path: path.last.value)
    hopeful = settings.hopeful and problem.by_prediction is not problem
    if settings.exchange:
        most = _most_exchanged(settings, len(values), hopeful=hopeful)
        exchange = _Exchange(problem, settings.at_once, most, MOST_CHANGED, value, values)
        moved = tuple(_exchanged(exchange, _best_evaluated(problem, values), told))
        if moved[-1].value > best.last.value:
            best = RcasPath(EXCHANGE, moved)
            paths.append(best)
    if hopeful:
        _evaluate_hopeful(problem.by_prediction, settings, rules, value, values)
    every = [*(step for path in paths for step in path.steps), *refused]
    last = best.last
    return RcasResult(
        vector=problem.canonical(last.vector),
        network=problem.network(last.vector),
        value=last.value,
        prediction=problem.predict(last.vector),
        rule=best.rule,
        paths=tuple(paths),
        evaluated=len(values),
        plain=len(plain | greedy) + len(values) - len(greedy),
        revisited=sum(step.revisited for step in every),
        exceeded=sum(step.exceeded for step in every),
        excess=max(step.excess for step in every),
        seconds=time.monotonic() - began,
        values=dict(values),
    )


def _most_exchanged(settings: RcasSettings, evaluated: int, *, hopeful: bool) -> float:
    """Return how many networks are evaluated in all before an exchange ends: some are kept for hopeful ones."""
    most = inf if settings.evaluations is None else settings.evaluations
    return most - HOPEFUL_SHARE * (most - evaluated) if hopeful and evaluated < most < inf else most


def _set_problem(
    problem: Problem,
    start: tuple[int, ...],
    value: Callable[[Sequence[Sequence[int]]], list[float]],
) -> SetProblem[Block]:
    """Return a space as a set function's domain: blocks are elements, and decisions positions."""

    def vector(blocks: frozenset[Block]) -> tuple[int, ...]:
        return _vector(start, blocks)

    def cost(name: str) -> Callable[[frozenset[Block]], float]:
        return lambda blocks: float(getattr(problem.needs(vector(blocks)), name))

    def held(name: str) -> Callable[[frozenset[Block]], float]:
        return lambda blocks: problem.needs(vector(blocks)).held(name)

    names = [name for name in RULES.values() if name is not None and (name != "ms" or problem.predictor is not None)]
    return SetProblem(
        elements=_blocks(problem.space),
        value=lambda sets: value([vector(blocks) for blocks in sets]),
        costs={name: cost(name) for name in names},
        budgets={name: Budget(held(name), limit) for name, limit in problem.budgets.given()},
        position=lambda block: block[0],
        floors={name: FLOOR * getattr(problem.needs(start), name) for name in names},
        key=lambda blocks: problem.canonical(vector(blocks)),
    )


def _blocks(space: SearchSpace) -> tuple[Block, ...]:
    """Return all blocks of a space, in its order."""
    return tuple((d, i) for d, decision in enumerate(space.choices) for i in range(1, len(decision.options)))


def _vector(start: Sequence[int], blocks: Iterable[Block]) -> tuple[int, ...]:
    """Return a vector with some blocks put in."""
    found = list(start)
    for decision, index in blocks:
        found[decision] = index
    return tuple(found)


def _best_evaluated(problem: Problem, values: Mapping[tuple[int, ...], float]) -> RcasStep:
    """Return the best of all networks that were evaluated, each of which is within the budgets."""
    vector = max(values, key=values.__getitem__)
    return RcasStep({}, vector, values[vector], 0.0, 0.0, **problem.needs(vector)._asdict())


def _step(problem: Problem, step: GreedyStep[Block]) -> RcasStep:
    choices = problem.space.choices
    vector = _vector((0,) * len(choices), step.chosen)
    changed = {}
    if step.element is not None:
        decision, index = step.element
        changed = {choices[decision].name: choices[decision].options[index]}
    return RcasStep(
        changed=changed,
        vector=vector,
        value=step.value,
        gain=step.gain,
        cost=step.cost,
        **problem.needs(vector)._asdict(),
        candidates=step.candidates,
        evaluated=step.evaluated,
        plain=step.plain,
        revisited=step.revisited,
        exceeded=step.exceeded,
        excess=step.excess,
    )


def _asked_without_laziness(problem: Problem, path: GreedyPath[Block]) -> set[tuple[int, ...]]:
    """Return the networks that a plain greedy search along a path would evaluate."""
    found = set()
    start = (0,) * len(problem.space.choices)
    for step in path.steps:
        taken = {decision for decision, _ in step.chosen}
        bigger = (_vector(start, [*step.chosen, b]) for b in _blocks(problem.space) if b[0] not in taken)
        found |= {problem.canonical(vector) for vector in bigger if problem.fits(vector)}
    return found


def _evaluate_hopeful(
    problem: Problem,
    settings: RcasSettings,
    rules: Sequence[str],
    value: Callable[[Sequence[Sequence[int]]], list[float]],
    values: Mapping[tuple[int, ...], float],
) -> None:
    """Follow the paths once more, by a problem with more room: up to where they part nothing is evaluated anew."""
    sets = _set_problem(problem, (0,) * len(problem.space.choices), value)
    for rule in rules:
        cost_effective_greedy(
            sets,
            RULES[rule] or UNIFORM,
            lazy=settings.lazy,
            at_once=settings.at_once,
            stop_without_gain=settings.stop_without_gain,
        )
    if settings.exchange:
        most = inf if settings.evaluations is None else settings.evaluations
        exchange = _Exchange(problem, settings.at_once, most, 1, value, values)
        for _ in _exchanged(exchange, _best_evaluated(problem, values)):
            pass


class _Exchange(NamedTuple):
    """What networks may be exchanged for: ``at_once`` evaluated together, ``most`` in all, ``changed`` decisions."""

    problem: Problem
    at_once: int
    most: float
    changed: int
    value: Callable[[Sequence[Sequence[int]]], list[float]]
    values: Mapping[tuple[int, ...], float]

    @property
    def left(self) -> int:
        """How many may be evaluated now."""
        return int(min(max(self.most - len(self.values), 0), self.at_once))


def _exchanged(
    exchange: _Exchange, start: RcasStep, told: Callable[[str, RcasStep], None] = lambda *_: None
) -> Iterator[RcasStep]:
    """Yield a network, and better ones that are each a few decisions away from the last.

    Neighbours are tried by how few decisions they change, and then by what their blocks gained alone, in the first
    step. The first one that is better is taken, or the best of ``at_once`` where several are evaluated together.
    """
    problem, values = exchange.problem, exchange.values
    first = _first_gains(problem, values)
    now = start
    yield now
    # Each round takes a better network, of which there are finitely many.
    while True:
        better: RcasStep | None = None
        here = problem.canonical(now.vector)
        fitting = (
            vector
            for vector in _neighbours(problem.space, here, first, problem.canonical, exchange.changed)
            # What is known costs nothing; whether it fits is only asked of what may be evaluated.
            if (vector in values or exchange.left > 0) and problem.fits(vector)
        )
        while several := tuple(itertools.islice(fitting, exchange.at_once)):
            new = [vector for vector in several if vector not in values]
            asked = [vector for vector in several if vector in values or vector in new[: exchange.left]]
            if not asked:
                continue
            found = dict(zip(asked, exchange.value(asked), strict=True))
            best = max(asked, key=found.__getitem__)
            if found[best] > now.value:
                choices = problem.space.choices
                changed = {
                    decision.name: decision.options[new]
                    for decision, old, new in zip(choices, here, best, strict=True)
                    if old != new
                }
                gain = found[best] - now.value
                better = RcasStep(changed, best, found[best], gain, 0.0, **problem.needs(best)._asdict())
                break
        if better is None:
            return
        now = better
        told(EXCHANGE, now)
        yield now


def _first_gains(problem: Problem, values: Mapping[tuple[int, ...], float]) -> dict[Block, float]:
    """Return what each block gained when it was the first, as far as it was evaluated; 0 for others."""
    start = (0,) * len(problem.space.choices)
    base = values[problem.canonical(start)]
    found = {}
    for block in _blocks(problem.space):
        known = values.get(problem.canonical(_vector(start, [block])))
        found[block] = 0.0 if known is None else known - base
    return found


def _neighbours(
    space: SearchSpace,
    vector: tuple[int, ...],
    first: Mapping[Block, float],
    canonical: Callable[[Sequence[int]], tuple[int, ...]],
    most_changed: int,
) -> Iterator[tuple[int, ...]]:
    """Yield the networks that differ from one in a few decisions, in the order in which they are to be tried."""
    free = [d for d, decision in enumerate(space.choices) if len(decision.options) > 1]
    seen = {vector}
    total = 0
    for count in range(1, most_changed + 1):
        others = [len(space.choices[d].options) - 1 for d in free]
        total += sum(prod(chosen) for chosen in itertools.combinations(others, count))
        if count > 1 and total > MOST_NEIGHBOURS:
            return
        found: list[tuple[float, tuple[int, ...]]] = []
        for decisions in itertools.combinations(free, count):
            options = [[i for i in range(len(space.choices[d].options)) if i != vector[d]] for d in decisions]
            for indices in itertools.product(*options):
                changed = list(vector)
                gain = 0.0
                for d, index in zip(decisions, indices, strict=True):
                    gain += first.get((d, index), 0.0) - first.get((d, vector[d]), 0.0)
                    changed[d] = index
                neighbour = canonical(changed)
                if neighbour not in seen:
                    seen.add(neighbour)
                    found.append((-gain, neighbour))
        yield from (neighbour for _, neighbour in sorted(found))

"""Cost-effective greedy search for a set of elements: RCAS's Algorithms 1 and 2, for any set function.

Source: Xiong et al. (2019), "Resource Constrained Neural Network Architecture Search: Will a Submodularity Assumption
Help?", section 3. The algorithm as printed adds an element without seeing whether it fits, compares with an element
that it never defines, and lets a position be filled twice; here it is as its text means it. It does not say which of
equally good elements to take; here it is the one that costs least.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from lut import UsageError
from lut.errors import SearchError

__all__ = ["ROUNDING", "UNIFORM", "Budget", "GreedyPath", "GreedyStep", "SetProblem", "cost_effective_greedy"]

E = TypeVar("E", bound=Hashable)
# The rule that looks at gains alone (RCAS: UC).
UNIFORM = "uniform"
# What an element costs at least where a ratio divides by it and nothing else was said.
LEAST_COST = 1e-12
# Differences of values that are rounding alone.
ROUNDING = 1e-12
# What is alike in so many digits is equal: sums and differences of the same numbers differ in the last of 16.
TIE_DIGITS = 12

SetCost: TypeAlias = Callable[[frozenset[E]], float]


class Budget(NamedTuple, Generic[E]):
    """A set may cost so much: ``cost(S) ≤ limit``."""

    cost: SetCost[E]
    limit: float


def _itself(elements: frozenset[E]) -> Hashable:
    return elements


@dataclass(frozen=True)
class SetProblem(Generic[E]):
    """max F(S) subject to budgets: which elements to take. Final.

    Args:
        elements: what may be taken; where two are equally good, the one is that adds the smaller share of a budget's
            limit, of several budgets the largest share, and where these are equal too, the earlier one.
        value: F of several sets at once, since they may be evaluated side by side.
        costs: by name, what a set costs; a ratio divides by what an element adds to it.
        budgets: by name; all must hold.
        start: what is taken from the beginning.
        position: of an element; at most one element of each position is taken. By default there is no such rule.
        floors: by a cost's name, what an element costs at least where a ratio divides by it: an element that adds less,
            nothing, or takes something off, counts as adding this.
        key: sets of one key have one value; they are evaluated once.
    """

    elements: tuple[E, ...]
    value: Callable[[Sequence[frozenset[E]]], Sequence[float]]
    costs: Mapping[str, SetCost[E]] = field(default_factory=dict)
    budgets: Mapping[str, Budget[E]] = field(default_factory=dict)
    start: frozenset[E] = frozenset()
    position: Callable[[E], Hashable] | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    key: Callable[[frozenset[E]], Hashable] = _itself

    def fits(self, elements: frozenset[E]) -> bool:
        """Whether a set is within all budgets."""
        return all(budget.cost(elements) <= budget.limit for budget in self.budgets.values())

    def totals(self, elements: frozenset[E]) -> dict[str, float]:
        """Return what a set costs, by name."""
        return {name: cost(elements) for name, cost in self.costs.items()}


class GreedyStep(NamedTuple, Generic[E]):
    """What was done in one step.

    Args:
        element: what was added; ``None`` in the beginning.
        chosen: all that is taken now.
        value: F of it; ``gain``: what the element added to F; ``cost``: what it added to the cost of the rule, by which
            gains are divided (0 for the uniform rule).
        totals: of each cost.
        candidates: elements that fitted.
        evaluated: different sets whose value was asked for in this step.
        plain: of how many it would have been asked for without laziness.
        revisited: sets that were evaluated for elements whose gain was known from an earlier step.
        exceeded: those among them whose gain had grown, against diminishing returns; ``excess``: by how much at most.
    """

    element: E | None
    chosen: frozenset[E]
    value: float
    gain: float
    cost: float
    totals: Mapping[str, float]
    candidates: int
    evaluated: int
    plain: int
    revisited: int
    exceeded: int
    excess: float


class GreedyPath(NamedTuple, Generic[E]):
    """A greedy search's course, from the start to where nothing more fits: the accuracy/cost curve.

    ``refused``: the step that was not taken any more where the search stops without gain.
    """

    rule: str
    steps: tuple[GreedyStep[E], ...]
    refused: GreedyStep[E] | None = None

    @property
    def last(self) -> GreedyStep[E]:
        """The result."""
        return self.steps[-1]

    @property
    def looked_at(self) -> tuple[GreedyStep[E], ...]:
        """All steps, the one that was refused included."""
        return self.steps if self.refused is None else (*self.steps, self.refused)

    @property
    def evaluated(self) -> int:
        """Sets whose value was asked for."""
        return sum(step.evaluated for step in self.looked_at)

    @property
    def saved(self) -> int:
        """Sets of which laziness did not ask the value, and a plain greedy search along this path would have."""
        return sum(step.plain - step.evaluated for step in self.looked_at)


def cost_effective_greedy(
    problem: SetProblem[E],
    rule: str = UNIFORM,
    *,
    lazy: bool = True,
    at_once: int = 1,
    stop_without_gain: bool = False,
    told: Callable[[GreedyStep[E]], None] = lambda _: None,
) -> GreedyPath[E]:
    """Add elements one by one, each time the one with the largest gain per cost that fits (RCAS Algorithms 1 and 2).

    With ``lazy``, a gain that an element had in an earlier step stands for an upper bound of its gain, and only
    elements on top of the order are evaluated. For submodular F that takes the same elements. What is known of
    elements at their time is their gain, not its ratio: what they cost is always what they add to the set as it is.

    Elements without a gain come last, by gain alone: dividing a loss by a cost would make the dearest harm the best.
    Of equals, by whichever order, the one comes first that takes the smallest share of the budgets, and then the one
    that stands first in ``problem.elements``.
    An element that does not fit is never evaluated and never added, and may come back where costs have fallen.

    Args:
        problem: what to maximise.
        rule: ``uniform``, or the name of one of ``problem.costs`` by which gains are divided.
        lazy: evaluate as few as submodularity allows.
        at_once: how many of the elements on top a lazy search evaluates together. More than one wastes some
            evaluations and takes less time where several can be made side by side. Of submodular F it changes nothing
            else.
        stop_without_gain: stop where nothing gains any more; the paper goes on until the budget is exhausted.
        told: called after each step.

    Raises:
        UsageError: an unknown rule, ``at_once`` below 1, or a start that is beyond a budget.
        SearchError: F is not a finite number.
    """
    if rule != UNIFORM and rule not in problem.costs:
        raise UsageError(f"the rule is {UNIFORM} or one of {', '.join(problem.costs) or 'no costs'}, got {rule!r}")
    if at_once < 1:
        raise UsageError(f"at_once must be at least 1, got {at_once}")
    if not problem.fits(problem.start):
        raise UsageError("what is taken from the start is beyond a budget")
    chosen = problem.start
    value = _values(problem, [chosen])[0]
    step = GreedyStep(None, chosen, value, 0.0, 0.0, problem.totals(chosen), 0, 1, 1, 0, 0, 0.0)
    steps = [step]
    told(step)
    # By element, the gain it had when it was last evaluated.
    bounds: dict[E, float] = {}
    for _ in problem.elements:
        found = _next_step(problem, rule, steps[-1], bounds, at_once=at_once if lazy else None)
        if found is None:
            break
        if stop_without_gain and found.gain <= 0:
            return GreedyPath(rule, tuple(steps), found)
        steps.append(found)
        told(found)
    return GreedyPath(rule, tuple(steps))


def _next_step(
    problem: SetProblem[E], rule: str, now: GreedyStep[E], bounds: dict[E, float], *, at_once: int | None
) -> GreedyStep[E] | None:
    """Return the best step from here, or ``None`` where nothing fits. ``at_once``: ``None`` for a search not lazy."""
    candidates = _candidates(problem, now.chosen)
    if not candidates:
        return None
    keys = {element: problem.key(bigger) for element, bigger in candidates.items()}
    alike: dict[Hashable, list[E]] = {}
    for element, key in keys.items():
        alike.setdefault(key, []).append(element)
    added = dict.fromkeys(candidates, 0.0)
    if rule != UNIFORM:
        cost, before = problem.costs[rule], problem.costs[rule](now.chosen)
        added = {element: cost(bigger) - before for element, bigger in candidates.items()}
    order = _order(problem, rule, now.chosen, candidates, added, bounds)
    fresh: dict[E, float] = {}
    values: dict[Hashable, float] = {}
    revisited = exceeded = evaluated = 0
    excess = 0.0
    # Each round evaluates something, so there are no more of them than candidates.
    for _ in range(len(candidates) + 1):
        # A stable sort: of equals the earlier one stands first. A bound that ties with a fresh gain stands before it
        # where its element would win the tie, and is then taken anew.
        ranked = sorted(candidates, key=order, reverse=True)
        best = ranked[0]
        if best in fresh and (at_once is not None or len(fresh) == len(candidates)):
            break
        asked = _to_ask([element for element in ranked if element not in fresh], bounds, keys, at_once)
        for element, value in zip(asked, _values(problem, [candidates[e] for e in asked]), strict=True):
            evaluated += 1
            values[keys[element]] = value
            gain = value - now.value
            known = [bounds[other] for other in alike[keys[element]] if other in bounds]
            if known:
                # One set is one gain, of however many elements that come to the same.
                revisited += 1
                if gain > min(known) + ROUNDING:
                    exceeded += 1
                    excess = max(excess, gain - min(known))
            for other in alike[keys[element]]:
                bounds[other] = fresh[other] = gain
    bigger = candidates[best]
    return GreedyStep(
        best,
        bigger,
        values[keys[best]],
        fresh[best],
        added[best],
        problem.totals(bigger),
        len(candidates),
        evaluated,
        len(alike),
        revisited,
        exceeded,
        excess,
    )


def _order(
    problem: SetProblem[E],
    rule: str,
    chosen: frozenset[E],
    candidates: Mapping[E, frozenset[E]],
    added: Mapping[E, float],
    bounds: Mapping[E, float],
) -> Callable[[E], tuple[bool, float, float]]:
    """Return what candidates are sorted by, the best one last, as far as ``bounds`` know their gains by then."""
    floor = max(problem.floors.get(rule, LEAST_COST), LEAST_COST)
    shares = _budget_shares(problem, chosen, candidates)

    def order(element: E) -> tuple[bool, float, float]:
        if element not in bounds:
            # All of these are evaluated together, in their own order.
            return True, inf, 0.0
        gain = bounds[element]
        by_rule = gain / max(added[element], floor) if rule != UNIFORM and gain > 0 else gain
        return gain > 0, _tied(by_rule), -_tied(shares[element])

    return order


def _budget_shares(
    problem: SetProblem[E], chosen: frozenset[E], candidates: Mapping[E, frozenset[E]]
) -> dict[E, float]:
    """Return what each candidate adds to a set as a share of a budget's limit, the largest of all budgets; else 0.

    Shares compare what milliseconds and parameters cannot.
    """
    shares = dict.fromkeys(candidates, -inf if problem.budgets else 0.0)
    for cost, limit in problem.budgets.values():
        before = cost(chosen)
        # Of costs below 0 a limit may be so too, or 0.
        scale = max(abs(limit), LEAST_COST)
        for element, bigger in candidates.items():
            shares[element] = max(shares[element], (cost(bigger) - before) / scale)
    return shares


def _tied(value: float) -> float:
    """Return a number without the digits in which equals differ."""
    return float(f"{value:.{TIE_DIGITS}g}")


def _candidates(problem: SetProblem[E], chosen: frozenset[E]) -> dict[E, frozenset[E]]:
    """Return the elements that may be added, each with the set that this gives, in their order."""
    taken = {problem.position(element) for element in chosen} if problem.position is not None else set()
    found = {}
    for element in problem.elements:
        if element in chosen or (problem.position is not None and problem.position(element) in taken):
            continue
        bigger = chosen | {element}
        if problem.fits(bigger):
            found[element] = bigger
    return found


def _to_ask(ranked: Sequence[E], bounds: Mapping[E, float], keys: Mapping[E, Hashable], at_once: int | None) -> list[E]:
    """Return what to evaluate now: all of which nothing is known, else those on top; of equal keys the first."""
    unknown = [element for element in ranked if element not in bounds]
    several = ranked if at_once is None else unknown or ranked
    different = list({keys[element]: element for element in reversed(several)}.values())[::-1]
    return different if at_once is None or unknown else different[:at_once]


def _values(problem: SetProblem[E], sets: Sequence[frozenset[E]]) -> list[float]:
    values = [float(value) for value in problem.value(sets)]
    if len(values) != len(sets):
        raise SearchError(f"the set function gave {len(values)} values for {len(sets)} sets")
    for value in values:
        if not isfinite(value):
            raise SearchError(f"the set function gave {value}; it must be a finite number")
    return values

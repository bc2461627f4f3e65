"""What a network needs, in several currencies at once, and budgets of any of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import inf
from typing import Literal, NamedTuple

import msgspec

from lut import Network, SearchSpace, UsageError
from lut._level import check_level
from lut._option_names import option_text
from lut._suggest import check_word
from lut.errors import BudgetError
from predictors import LatencyPredictor
from predictors._predictions import NetworkPrediction

__all__ = ["Budgets", "NetworkResources", "Resources", "bounded", "check_blocks", "sample_within", "unlimited"]

Bound = Literal["upper", "predicted"]


class Budgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits that must all hold; ``None``: no such limit.

    Args:
        ms: of the latency.
        parameters: of all trainable parameters.
        madds: of the multiply-adds of one sample, as the space's paper counts them.

    Raises:
        UsageError: a limit is not a positive number.
    """

    ms: float | None = None
    parameters: float | None = None
    madds: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.given():
            if not 0 < limit < inf:
                raise UsageError(f"a budget of {UNITS[name]} is a positive number, got {limit}")

    def given(self) -> Iterator[tuple[str, float]]:
        """Yield the limits that there are, by name."""
        for name in self.__struct_fields__:
            limit = getattr(self, name)
            if limit is not None:
                yield name, limit


UNITS = {"ms": "ms", "parameters": "parameters", "madds": "multiply-adds"}
# A budget of fewer parameters or multiply-adds than this is one in millions.
IN_MILLIONS = 10_000


class Resources(NamedTuple):
    """What a network needs.

    Args:
        parameters: trainable ones.
        madds: multiply-adds of one sample, as the space's paper counts them.
        ms: predicted latency; ``None`` where there is no predictor.
        bound_ms: what a budget of ms is held against: the upper end of the interval, or ``ms``.
    """

    parameters: int
    madds: int
    ms: float | None
    bound_ms: float | None

    def held(self, name: str) -> float:
        """Return what a budget is held against: ``ms``, ``parameters`` or ``madds``."""
        found = {"ms": self.bound_ms, "parameters": self.parameters, "madds": self.madds}[name]
        assert found is not None
        return float(found)


class NetworkResources:
    """What networks of a space need, each worked out once. Final.

    Args:
        space: the space; multiply-adds are those of its ``count_madds``.
        predictor: of latencies; ``None``: nobody asks for them.
        bound: what a budget of ms is for: the ``upper`` end of a prediction's interval, or what is ``predicted``.
        level: the interval holds the latency with this probability.

    Raises:
        UsageError: another ``bound``, or the predictor gives no interval of this level.
    """

    def __init__(
        self, space: SearchSpace, predictor: LatencyPredictor | None, *, bound: Bound = "upper", level: float = 0.9
    ) -> None:
        check_level(level)
        check_word("the bound", bound, ("upper", "predicted"))
        if predictor is not None and bound == "upper":
            bounded(predictor, level)
        self.space = space
        self.predictor = predictor
        self.bound = bound
        self.level = level
        self._networks: dict[tuple[int, ...], Network] = {}
        self._known: dict[tuple[int, ...], Resources] = {}

    def canonical(self, vector: Sequence[int]) -> tuple[int, ...]:
        """Return the one vector that stands for all of the same network."""
        return tuple(self.space.canonical(vector))

    def network(self, vector: Sequence[int]) -> Network:
        """Return a vector's network."""
        key = self.canonical(vector)
        if key not in self._networks:
            self._networks[key] = self.space.decode(key)
        return self._networks[key]

    def of(self, vector: Sequence[int]) -> Resources:
        """Return what a vector's network needs."""
        key = self.canonical(vector)
        if key not in self._known:
            network = self.network(key)
            madds = self.madds(network)
            ms = bound_ms = None
            if self.predictor is not None:
                if self.bound == "upper":
                    prediction = self.predictor.predict(network, level=self.level)
                    ms, bound_ms = prediction.ms, prediction.high_ms
                else:
                    ms = bound_ms = self.predictor.latency_ms(network)
            self._known[key] = Resources(network.parameters, madds, ms, bound_ms)
        return self._known[key]

    def madds(self, network: Network) -> int:
        """Return a network's multiply-adds, counted as the space's paper does."""
        return int(self.space.count_madds(network))

    def predict(self, vector: Sequence[int]) -> NetworkPrediction | None:
        """Return what a vector's network takes, with its interval; ``None`` without a predictor."""
        if self.predictor is None:
            return None
        return self.predictor.predict(self.network(vector), level=self.level)

    def fits(self, vector: Sequence[int], budgets: Budgets) -> bool:
        """Whether a vector's network is within all budgets."""
        found = self.of(vector)
        return all(found.held(name) <= limit for name, limit in budgets.given())

    def check(self, vector: Sequence[int], budgets: Budgets) -> None:
        """See that a search can begin with a network.

        Raises:
            BudgetError: it is beyond a budget; the message says of which and by how much.
            UsageError: a budget of ms, and no predictor; or a decision of the space is about widths or depths.
        """
        check_blocks(self.space, "RCAS")
        if budgets.ms is not None and self.predictor is None:
            raise UsageError("a budget of ms needs a predictor")
        found = self.of(vector)
        beyond = []
        for name, limit in budgets.given():
            held = found.held(name)
            if held > limit:
                unit = UNITS[name]
                upper = f" (up to, at {self.level:.0%})" if name == "ms" and self.bound == "upper" else ""
                beyond.append(
                    f"{_show(held)} {unit}{upper}, {_show(held - limit)} {unit} ({held / limit - 1:.1%}) beyond the "
                    f"budget of {_show(limit)}{_meant(name, held, limit)}"
                )
        if beyond:
            raise BudgetError(f"the network that a search of {self.space.name} begins with takes {'; '.join(beyond)}")


def _meant(name: str, held: float, limit: float) -> str:
    """Return a question where somebody seems to have counted in millions."""
    in_millions = name != "ms" and limit < IN_MILLIONS and held <= limit * 1e6 * IN_MILLIONS
    return f"; did you mean {limit:g}e6?" if in_millions else ""


def check_blocks(space: SearchSpace, what: str) -> None:
    """See that a space's decisions are about blocks, whose first option is that there is none.

    Args:
        space: the space.
        what: what adds blocks, for the message.

    Raises:
        UsageError: a decision is about widths or depths.
    """
    for decision in space.choices:
        if decision.kind != "operator" and len(decision.options) > 1:
            raise UsageError(
                f"{what} adds blocks, and {space.name} is a space of {decision.kind}s ({decision.name}): give a space "
                "of blocks whose first option is none, such as rcnet-cifar or nas-bench-macro"
            )


def unlimited(resources: NetworkResources, budgets: Budgets) -> tuple[str, ...]:
    """Return what is to be said of budgets that hold even the largest network.

    The largest is sought one position after another: each gets the block that takes most there.
    """
    found = []
    for name, limit in budgets.given():
        vector = [0] * len(resources.space.choices)
        for d, decision in enumerate(resources.space.choices):
            vectors = [[*vector[:d], i, *vector[d + 1 :]] for i in range(len(decision.options))]
            vector = max(vectors, key=lambda v, name=name: resources.of(v).held(name))  # type: ignore[misc]
            if resources.of(vector).held(name) > limit:
                break
        else:
            largest = _show(resources.of(vector).held(name))
            found.append(
                f"the budget of {_show(limit)} {UNITS[name]} limits nothing: the largest network of "
                f"{resources.space.name} takes {largest}"
            )
    return tuple(found)


def sample_within(resources: NetworkResources, budgets: Budgets, rng: random.Random) -> tuple[int, ...]:
    """Return a random vector within budgets, like those that a greedy search looks at.

    The space's first network, to which blocks are added in random order as long as they fit, up to a random number.
    """
    choices = resources.space.choices
    vector = [0] * len(choices)
    free = [d for d, decision in enumerate(choices) if len(decision.options) > 1]
    rng.shuffle(free)
    most = rng.randint(1, max(len(free), 1))
    for d in free[:most]:
        vector[d] = rng.randrange(1, len(choices[d].options))
        if not resources.fits(vector, budgets):
            vector[d] = 0
    return tuple(vector)


def bounded(predictor: LatencyPredictor, level: float) -> None:
    """See that a predictor gives intervals of a level.

    Raises:
        UsageError: it does not; says what to do.
    """
    if (why := predictor.no_interval(level)) is not None:
        raise UsageError(
            f"a budget is for the upper end of an interval, and {why}. Measure a table with "
            f"{option_text('audit', 20)} or more, ask for a lower {option_text('level')}, or for "
            f"{option_text('bound', 'predicted')}"
        )


def _show(number: float) -> str:
    return f"{number / 1e6:.4g} M" if number >= 1e5 else f"{number:.4g}"

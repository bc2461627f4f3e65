"""What every search is given: a space, a predictor of its networks' latencies, and budgets."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from math import exp, hypot, isfinite, log
from pathlib import Path
from statistics import NormalDist, median
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lut import Network, SearchSpace, UsageError
from lut._console import format_ms
from lut._level import check_level
from lut._option_names import option_text
from lut._printable import shortened
from lut._suggest import check_word
from lut.errors import BudgetError
from predictors import CompiledLatency, LatencyPredictor, compile_madds
from predictors._compiled import CompiledSpace, compile_parameters
from predictors._predictions import NetworkPrediction
from search._problem._budgets import UNITS, Bound, Budgets, Holds, Needs, amount, meant_millions
from search._problem._coverage import compile_latency, latencies_digest

if TYPE_CHECKING:
    import torch

    from profiler._compare import NetworkComparison
    from profiler._session import Progress

__all__ = ["Problem", "bounded"]

Kept = TypeVar("Kept")

# Networks and predictions that are kept: a search asks for the same few again and again.
MOST_KEPT = 4096
# Rounds of a coordinate search; each changes every decision to its best, and it stops where nothing changes.
MOST_ROUNDS = 50


@final
class Problem:
    """What a search looks for: networks of a space within budgets.

    Without a predictor networks have no latency. Whatever is asked for is worked out once.

    Args:
        space: any search space; multiply-adds are those of its ``count_madds``.
        predictor: of latencies on one device, in one setting.
        ms: the budget of the latency.
        parameters: the budget of all trainable parameters.
        madds: the budget of multiply-adds of one sample, as the space's paper counts them.
        bound: what the budget of ms is held against: the ``upper`` end of a prediction's interval, or what is
            ``predicted``.
        level: the interval holds the latency with this probability.
        holds: ``reference-speed``: the budget is for the speed at which the table's latencies stand, to which its
            sentinels bring another day's. ``any-day``: it is for whatever the machine's speed will be; then the
            interval is wider by how much sessions differ.
        margin: what predictions are multiplied by before a budget is held against them: by how much networks that a
            search selected were found to be slower than they had been promised to be.
        calibration: networks that the predictor was calibrated on, with their latencies in ms, where they are known:
            what a verification measures is added to them. See :meth:`calibrated`.
        anchors: networks that bring a session of measuring to their speed, with their latencies in ms; by default those
            of the calibration. Networks that a search selected are none: they were selected for being fast.

    Raises:
        UsageError: a limit that is not a positive number, a budget of ms without a predictor, another ``bound`` or
            ``holds``, or a predictor that gives no interval of this level.
    """

    def __init__(
        self,
        space: SearchSpace,
        predictor: LatencyPredictor | None = None,
        *,
        ms: float | None = None,
        parameters: float | None = None,
        madds: float | None = None,
        bound: Bound = "upper",
        level: float = 0.9,
        holds: Holds = "reference-speed",
        margin: float = 1.0,
        calibration: Sequence[tuple[Network, float]] = (),
        anchors: Sequence[tuple[Network, float]] | None = None,
    ) -> None:
        if not isinstance(space, SearchSpace):
            raise UsageError(
                f"a problem is of a lut.SearchSpace, got {type(space).__name__}; profiler.load_space(name) gives one"
            )
        if predictor is not None and not isinstance(predictor, LatencyPredictor):
            raise UsageError(f"a problem's predictor is a LatencyPredictor, got {type(predictor).__name__}")
        check_level(level)
        check_word("the bound", bound, ("upper", "predicted"))
        check_word("a budget holds at", holds, ("reference-speed", "any-day"))
        if not (isfinite(margin) and margin > 0):
            raise UsageError(f"a margin is a positive factor, got {margin}")
        self.space = space
        self.predictor = predictor
        self.budgets = Budgets(ms=ms, parameters=parameters, madds=madds)
        # Without a budget of ms nobody asks for the upper end of an interval.
        self.bound: Bound = bound if ms is not None else "predicted"
        self._asked_bound: Bound = bound
        self.level = level
        self.holds: Holds = holds
        self.margin = margin
        self.calibration = tuple(calibration)
        self.anchors = self.calibration if anchors is None else tuple(anchors)
        if ms is not None and predictor is None:
            raise UsageError("a budget of ms needs a predictor")
        if predictor is not None and self.bound == "upper":
            bounded(predictor, level)
        if holds == "any-day" and ms is not None and not self.day_half_width:
            raise UsageError(
                "whether a budget holds on any day is said by how much layers differ from day to day, and the "
                "predictor's tables do not say that: fit it to a table that profile-device measured"
            )
        self._networks: dict[tuple[int, ...], Network] = {}
        self._predictions: dict[tuple[int, ...], NetworkPrediction] = {}
        self._needs: dict[tuple[int, ...], Needs] = {}

    def __repr__(self) -> str:
        setting = "no predictor" if self.predictor is None else f"{self.predictor.device.model}, {self.setting}"
        return f"<Problem: {self.space.name} within {self.budgets}; {setting}>"

    def replace(self, **changes: Any) -> Problem:
        """Return the problem with other arguments, by name."""
        given: dict[str, Any] = {
            "ms": self.budgets.ms,
            "parameters": self.budgets.parameters,
            "madds": self.budgets.madds,
            # As it was asked for: with a budget of ms it counts.
            "bound": self._asked_bound,
            "level": self.level,
            "holds": self.holds,
            "margin": self.margin,
            "calibration": self.calibration,
            # Of another calibration they are others.
            "anchors": None if "calibration" in changes else self.anchors,
        }
        space, predictor = changes.pop("space", self.space), changes.pop("predictor", self.predictor)
        made = Problem(space, predictor, **{**given, **changes})
        if space is self.space:
            made._networks = self._networks
            if predictor is self.predictor:
                if "latency" in self.__dict__:
                    made.__dict__["latency"] = self.latency
                if made.level == self.level:
                    made._predictions = self._predictions
        return made

    @cached_property
    def by_prediction(self) -> Problem:
        """The problem whose budget of ms is held against the prediction itself: networks that may turn out to fit."""
        return self if self.bound == "predicted" else self.replace(bound="predicted")

    @property
    def setting(self) -> str:
        """What the latencies are of: the predictor's setting; empty without one."""
        return "" if self.predictor is None else str(self.predictor.setting)

    def calibrated(
        self,
        *,
        count: int = 24,
        seconds: float = 60.0,
        seed: int = 0,
        path: str | Path | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
        compare: Callable[..., NetworkComparison] | None = None,
    ) -> Problem:
        """Return the problem with its predictor calibrated on networks of the space, measured now on this device.

        A table's audit samples networks at large; those of one space, at one width or depth, may all lie to one side.

        Args:
            count: random networks within the budgets, at least 10.
            seconds: of measuring.
            seed: of the networks, and of the order of visits.
            path: a file that keeps the latencies: those of the same networks and predictor are not measured again.
            progress: told where the session stands.
            compare: what measures networks side by side; by default :func:`profiler.compare_networks`.

        Raises:
            UsageError: no predictor, or fewer than 10 networks.
            UnlikeTablesError: this machine is not the predictor's device.
            CheckpointError: the file is damaged.
        """
        from profiler import compare_networks
        from search._problem._calibrate import calibrated

        if self.predictor is None:
            raise UsageError("without a predictor there is nothing to calibrate: Problem(space, predictor)")
        # The intervals come from the calibration: networks are drawn by prediction alone.
        found = calibrated(
            self.space,
            self.predictor,
            count=count,
            seconds=seconds,
            seed=seed,
            sample=self.by_prediction.sample,
            path=None if path is None else Path(path),
            progress=progress,
            compare=compare or compare_networks,
        )
        return self.replace(predictor=found.predictor, calibration=found.networks)

    # --- one network ---

    def canonical(self, vector: Sequence[int]) -> tuple[int, ...]:
        """Return the one vector that stands for all of the same network."""
        return tuple(int(index) for index in self.space.canonical(vector))

    def network(self, vector: Sequence[int]) -> Network:
        """Return a vector's network."""
        return self._kept(self._networks, vector, self.space.decode)

    def predict(self, vector: Sequence[int]) -> NetworkPrediction | None:
        """Return what a vector's network takes, with its interval; ``None`` without a predictor."""
        predictor = self.predictor
        if predictor is None:
            return None
        return self._kept(self._predictions, vector, lambda key: predictor.predict(self.network(key), level=self.level))

    def _kept(
        self, kept: dict[tuple[int, ...], Kept], vector: Sequence[int], make: Callable[[tuple[int, ...]], Kept]
    ) -> Kept:
        key = self.canonical(vector)
        if key not in kept:
            if len(kept) >= MOST_KEPT:
                kept.clear()
            kept[key] = make(key)
        return kept[key]

    def ms(self, vector: Sequence[int]) -> float:
        """Return a vector's predicted latency in ms.

        Raises:
            UsageError: there is no predictor.
        """
        return self._ms_and_bound(vector)[0]

    def bound_ms(self, vector: Sequence[int]) -> float:
        """Return what the budget of ms is held against, in ms.

        Raises:
            UsageError: there is no predictor.
        """
        return self._ms_and_bound(vector)[1]

    def _ms_and_bound(self, vector: Sequence[int]) -> tuple[float, float]:
        if self.predictor is not None and self.bound == "upper":
            found = self.predict(vector)
            assert found is not None
            return self._bounded(found.ms, found.high_ms)
        return self.bounds_of(self.network(vector))

    def bounds_of(self, network: Network) -> tuple[float, float]:
        """Return any network's predicted latency, and what the budget of ms is held against, in ms.

        Raises:
            UsageError: there is no predictor.
        """
        if self.predictor is None:
            raise UsageError("without a predictor networks have no latency: Problem(space, predictor)")
        if self.bound == "predicted":
            return self._bounded(self.predictor.latency_ms(network), None)
        found = self.predictor.predict(network, level=self.level)
        return self._bounded(found.ms, found.high_ms)

    def _bounded(self, ms: float, high_ms: float | None) -> tuple[float, float]:
        bound = ms if high_ms is None else high_ms
        if self.holds == "any-day":
            bound = ms * exp(hypot(log(bound / ms), self.day_half_width))
        return ms, bound if self.margin == 1.0 else bound * self.margin

    @cached_property
    def day_half_width(self) -> float:
        """Half the width, in log(ms), of the interval in which another day's measurement lies at the level.

        By the table's ``across_runs`` of its layers: the median of them, since a session's speed is theirs in common.
        """
        known = [] if self.predictor is None else [value for value in self.predictor.deviations.values() if value > 0]
        return NormalDist().inv_cdf(0.5 + self.level / 2) * median(known) if known else 0.0

    def madds(self, network: Network) -> int:
        """Return a network's multiply-adds, counted as the space's paper does."""
        return int(self.space.count_madds(network))

    def needs(self, vector: Sequence[int]) -> Needs:
        """Return what a vector's network needs."""
        return self._kept(self._needs, vector, self._needed)

    def _needed(self, key: tuple[int, ...]) -> Needs:
        network = self.network(key)
        ms, bound = (None, None) if self.predictor is None else self._ms_and_bound(key)
        return Needs(network.parameters, self.madds(network), ms, bound)

    def _held(self, name: str, vector: Sequence[int]) -> float:
        return self.bound_ms(vector) if name == "ms" else self.needs(vector).held(name)

    def fits(self, vector: Sequence[int]) -> bool:
        """Whether a vector's network is within all budgets."""
        return all(self._held(name, vector) <= limit for name, limit in self.budgets.given())

    def load(self, vector: Sequence[int]) -> float:
        """Return the share of its budget that a vector's network needs, of the budget of which it needs most."""
        return max((self._held(name, vector) / limit for name, limit in self.budgets.given()), default=0.0)

    # --- many networks ---

    @cached_property
    def latency(self) -> CompiledLatency:
        """The latencies of all networks, as arrays.

        Raises:
            UsageError: the space does not say which decisions fix its layers (``slots()``), or there is no predictor.
            TableError: layers of some kind were not measured at all; names the command that measures them.
        """
        if self.predictor is None:
            raise UsageError("without a predictor networks have no latency: Problem(space, predictor)")
        if not self.is_compiled:
            raise UsageError(
                f"the space {self.space.name} does not say which decisions fix its layers (slots()), which gradients "
                "and mixtures need: search it by evolution, or give it slots()"
            )
        return compile_latency(self.space, self.predictor)

    @cached_property
    def _arrays(self) -> dict[str, CompiledSpace]:
        made: dict[str, Callable[[], CompiledSpace]] = {
            "ms": lambda: self.latency,
            "parameters": lambda: compile_parameters(self.space),
            "madds": lambda: compile_madds(self.space),
        }
        return {name: made[name]() for name, _ in self.budgets.given()}

    @property
    def is_compiled(self) -> bool:
        """Whether the space says which decisions fix its layers, so that many networks are looked up at a time."""
        return self.space.slots() is not None

    def loads(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Return what networks need of the budget of which they need most, by the arrays, without an interval.

        In the unit of the first budget: ms where there is one; of another budget, the same share of this one.

        Args:
            vectors: option indices, shape ``(n, decisions)``.

        Raises:
            UsageError: there is no budget, or the space does not say which decisions fix its layers.
        """
        limits = dict(self.budgets.given())
        if not limits:
            raise UsageError("without a budget there is no load: Problem(space, predictor, ms=…)")
        first = next(iter(limits))
        found = self._first_load(first, vectors)
        for name, limit in limits.items():
            if name != first:
                found = np.maximum(found, self._first_load(name, vectors) * (limits[first] / limit))
        return found

    @property
    def first_limit(self) -> float:
        """The limit to which :meth:`loads` compare: of ms where there is one."""
        return next(limit for _, limit in self.budgets.given())

    def _first_load(self, name: str, vectors: ArrayLike) -> NDArray[np.float64]:
        values = self._arrays[name].values(vectors)
        if name != "ms":
            return values * 1e6
        return values if self.margin == 1.0 else values * self.margin

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the space's latencies and the bound depend on; of an empty text without a predictor."""
        if self.predictor is None:
            return ""
        words = f"{self.level} {self.bound} {self.holds} {self.margin} {self.predictor.conformal.scores}"
        return sha256((words + self.latencies_digest).encode()).hexdigest()

    @cached_property
    def latencies_digest(self) -> str:
        """SHA-256 of what the predictor says of the space; empty without one."""
        return "" if self.predictor is None else latencies_digest(self.space, self.predictor)

    def expected(self, probabilities: Sequence[torch.Tensor], *, of: Literal["table", "law"] = "table") -> torch.Tensor:
        """Return the expected latency in ms of random networks, differentiable; see :meth:`TorchSpace.expected`.

        Args:
            probabilities: one tensor per decision of the space, of shape ``(options,)``.
            of: ``table``: the expectation itself; ``law``: of each array's fitted law at the mean widths.
        """
        found: torch.Tensor = self.latency.expected(probabilities, of=of)
        return found

    def mixture(
        self, choices: Mapping[str, torch.Tensor | int], *, of: Literal["table", "law"] = "table"
    ) -> torch.Tensor:
        """Return the expected latency in ms of a supernet of yours, differentiable in its softmaxes.

        Args:
            choices: by a decision's name, the probabilities of its options (shape ``(options,)``, such as
                ``torch.softmax(alphas, -1)`` or a Gumbel-softmax), or the index of the one that is taken. Decisions
                with one option need not be named.
            of: see :meth:`expected`.

        Raises:
            UsageError: a decision is missing or unknown, a shape does not fit, or weights are no probabilities.
        """
        from search._problem._mixture import probabilities_of

        return self.expected(probabilities_of(self.space, choices), of=of)

    def discretise(self, probabilities: Sequence[NDArray[np.float64]]) -> tuple[int, ...]:
        """Return the most probable network within the budgets; see :func:`search._problem._discretise.discretise`."""
        from search._problem._discretise import discretise

        return discretise(self, probabilities)

    # --- what is possible at all ---

    def smallest(self) -> tuple[int, ...]:
        """Return the vector that needs least of its budgets, or takes least ms, as a coordinate search finds it."""
        if self.is_compiled and self.budgets:
            from search._problem._discretise import cheapest

            zeros = [np.zeros(len(decision.options)) for decision in self.space.choices]
            return cheapest(self, zeros, 1.0, np.zeros(len(zeros), dtype=np.int64))
        return self._shrunk((0,) * len(self.space.choices))

    def _shrunk(self, start: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest vector that a coordinate search from another one finds, network by network."""
        vector = list(start)
        for _ in range(MOST_ROUNDS):
            before = list(vector)
            for d, decision in enumerate(self.space.choices):
                tried = [[*vector[:d], i, *vector[d + 1 :]] for i in range(len(decision.options))]
                vector = min(tried, key=self._size)
            if vector == before:
                break
        return tuple(vector)

    def _size(self, vector: Sequence[int]) -> float:
        if self.budgets:
            return self.load(vector)
        return self.ms(vector) if self.predictor is not None else float(self.needs(vector).madds)

    def check_budgets(self, what: str = "a search") -> tuple[int, ...]:
        """Return a network within the budgets, the smallest.

        Args:
            what: what needs a budget, for the error.

        Raises:
            UsageError: there is no budget.
            BudgetError: the smallest network is beyond one; says which network that is, and by how much.
        """
        if not self.budgets:
            raise UsageError(f"{what} needs a budget: of ms, of parameters or of multiply-adds")
        vector = self.smallest()
        if not self.fits(vector):
            # The arrays know no intervals, and another network's may be narrower.
            vector = self._shrunk(vector)
        if not self.fits(vector):
            raise BudgetError(
                f"no network of {self.space.name} within {self.budgets} was found: the smallest, "
                f"{self._called(vector)}, takes {self.excess_text(vector)}"
            )
        return vector

    def _called(self, vector: Sequence[int]) -> str:
        """Return a network's name, or its options where the name is the space's own."""
        name = self.network(vector).name
        if name != self.space.name:
            return repr(name)
        return "of first options alone" if not any(vector) else shortened(f"options {','.join(map(str, vector))}", 60)

    def excess_text(self, vector: Sequence[int]) -> str:
        """Return by how much a network is beyond budgets, in words."""
        beyond = []
        for name, limit in self.budgets.given():
            held = self._held(name, vector)
            if held > limit:
                unit = UNITS[name]
                upper = f" (up to, at {self.level:.0%})" if name == "ms" and self.bound == "upper" else ""
                beyond.append(
                    f"{amount(name, held)} {unit}{upper}, {amount(name, held - limit)} {unit} ({held / limit - 1:.1%}) "
                    f"beyond the budget of {amount(name, limit)}{meant_millions(name, held, limit)}"
                )
        return "; ".join(beyond)

    def limits_nothing(self) -> tuple[str, ...]:
        """Return what is to be said of budgets that hold even the largest network.

        The largest is sought one decision after another: each gets the option that takes most there.
        """
        found = []
        for name, limit in self.budgets.given():
            vector = [0] * len(self.space.choices)
            for d, decision in enumerate(self.space.choices):
                vectors = [[*vector[:d], i, *vector[d + 1 :]] for i in range(len(decision.options))]
                vector = max(vectors, key=lambda v, name=name: self._held(name, v))  # type: ignore[misc]
                if self._held(name, vector) > limit:
                    break
            else:
                upper = "up to " if name == "ms" and self.bound == "upper" else ""
                found.append(
                    f"the budget of {amount(name, limit)} {UNITS[name]} limits nothing: the largest network of "
                    f"{self.space.name} takes {upper}{amount(name, self._held(name, vector))}"
                )
        return tuple(found)

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Return a random vector within the budgets.

        A random network, whose decisions are made as the smallest network's, one by one in random order, until it
        fits: networks come from all over the space, and crowd where the budget is.

        Raises:
            BudgetError: as :meth:`check_budgets`.
        """
        vector = list(self.space.sample(rng))
        if self.budgets and not self.fits(vector):
            smallest = self._smallest_within
            order = list(range(len(vector)))
            rng.shuffle(order)
            for d in order:
                vector[d] = smallest[d]
                if self.fits(vector):
                    break
        return self.canonical(vector)

    @cached_property
    def _smallest_within(self) -> tuple[int, ...]:
        return self.check_budgets()

    # --- other libraries ---

    def optuna_objective(self, accuracy: Callable[[Network], float]) -> Callable[[Any], float]:
        """Return an objective for an Optuna study that maximises; see :mod:`search._problem._other_libraries`."""
        from search._problem._other_libraries import optuna_objective

        return optuna_objective(self, accuracy)

    def vector_of(self, solution: Any) -> tuple[int, ...]:
        """Return the vector of one of pymoo's solutions of :meth:`as_pymoo`, such as its result's ``X``."""
        from search._problem._other_libraries import vector_of

        return vector_of(self, solution)

    def as_pymoo(self, accuracy: Callable[[Network], float], *, mixed: bool = False) -> Any:
        """Return the problem as one of pymoo's; see :mod:`search._problem._other_libraries`."""
        from search._problem._other_libraries import as_pymoo

        return as_pymoo(self, accuracy, mixed=mixed)


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


def described_bound(problem: Problem, vector: Sequence[int]) -> str:
    """Return what a network takes, with the bound of its budget."""
    ms, bound = problem.ms(vector), problem.bound_ms(vector)
    return format_ms(ms) if bound == ms else f"{format_ms(ms)} ms, up to {format_ms(bound)} ms at {problem.level:.0%}"

"""Networks measured side by side, each beside what was predicted of it and what it may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from lut import Network, UsageError
from lut._console import format_ms
from profiler import compare_networks
from profiler._compare import NetworkComparison
from profiler._session import Progress
from search._problem._budgets import Holds
from search._problem._problem import Problem
from search._runs._anchors import Anchor, anchors_for, at_known_speed, speed_of
from search._runs._timed import TimedNetwork, Verdict, timed_networks

__all__ = ["Compare", "Measurement", "Session", "measure", "measure_session"]

# Measures networks side by side: the seam at which tests put a simulated device.
Compare: TypeAlias = Callable[..., NetworkComparison]


class Measurement(NamedTuple):
    """Networks that were measured in one session, and whether each keeps the budget of ms; it prints as a table."""

    setting: str
    budget_ms: float | None
    holds: Holds
    networks: tuple[TimedNetwork, ...]
    at_reference: bool
    warnings: tuple[str, ...]

    @property
    def verdicts(self) -> tuple[Verdict | None, ...]:
        """By network; ``None`` without a budget of ms."""
        return tuple(None if self.budget_ms is None else n.verdict(self.budget_ms, self.holds) for n in self.networks)

    def __str__(self) -> str:
        """Return a line for each network."""
        width = max(len(network.name) for network in self.networks)
        lines = [self.setting + ("" if self.budget_ms is None else f", budget {format_ms(self.budget_ms)} ms")]
        for network, verdict in zip(self.networks, self.verdicts, strict=True):
            low, high = network.interval(self.holds)
            line = f"  {network.name:<{width}}  {format_ms(network.ms)} ms ({format_ms(low)} … {format_ms(high)})"
            if network.prediction_error is not None and network.predicted_ms is not None:
                line += f", predicted {format_ms(network.predicted_ms)} ({network.prediction_error:+.1%})"
            words = {"within": "within the budget", "unclear": "may exceed the budget", "beyond": "exceeds the budget"}
            lines.append(line + ("" if verdict is None else f": {words[verdict]}"))
        return "\n".join([*lines, *(f"  warning: {text}" for text in self.warnings)])


class Session(NamedTuple):
    """Networks that were measured in one session, those measured before (the anchors) apart.

    ``timed``: at the speed at which the anchors are known, if there are any; ``comparison``: as it was measured.
    """

    timed: tuple[TimedNetwork, ...]
    anchors: tuple[Anchor, ...]
    comparison: NetworkComparison


def measure_session(
    problem: Problem,
    networks: Sequence[Network],
    bounds: Sequence[tuple[float, float]],
    *,
    anchors: Sequence[tuple[Network, float]],
    seconds: float,
    seed: int,
    progress: Callable[[Progress], None],
    compare: Compare,
) -> Session:
    """Measure networks side by side, and beside networks that were measured before.

    Args:
        problem: its predictor says device and setting.
        networks: at least one, of any names, by which they are told.
        bounds: of each, the ms predicted and the ms that the budget is held against.
        anchors: networks with what they took before, in ms: see :mod:`search._runs._anchors`; perhaps none.
        seconds: of measuring.
        seed: of the order of visits.
        progress: told where the session stands.
        compare: what measures.
    """
    predictor = problem.predictor
    assert predictor is not None
    every = [*networks, *(network for network, _ in anchors)]
    names = told_apart([network.name for network in every])
    comparison = compare(
        [Network(name, network.layers) for name, network in zip(names, every, strict=True)],
        setting=predictor.setting,
        device=predictor.device,
        time_budget_s=seconds,
        seed=seed,
        progress=progress,
    )
    timed = timed_networks(comparison, [network.name for network in networks], bounds)
    again = comparison.networks[len(networks) :]
    seen = tuple(Anchor(known_ms, now.ms) for (_, known_ms), now in zip(anchors, again, strict=True))
    if (speed := speed_of(seen)) is not None:
        timed = tuple(at_known_speed(one, speed) for one in timed)
    return Session(timed, seen, comparison)


def measure(
    problem: Problem,
    networks: Sequence[Network],
    *,
    seconds: float = 30.0,
    seed: int = 0,
    progress: Callable[[Progress], None] = lambda _: None,
    compare: Compare | None = None,
) -> Measurement:
    """Measure networks side by side on this device, which must be the predictor's, and say which keep the budget.

    Where the problem is calibrated, up to eight networks of its calibration are measured beside them: these bring all
    latencies to the speed of the calibration.

    Args:
        problem: its predictor says device and setting, and its budget of ms what networks may take.
        networks: at least one, of any names; equal names are told apart by numbers.
        seconds: of measuring.
        seed: of the order of visits.
        progress: told where the session stands.
        compare: what measures; by default :func:`profiler.compare_networks`.

    Raises:
        UsageError: the problem has no predictor, or there are no networks.
        UnlikeTablesError: this machine is not the predictor's device.
        IncompleteError: a network could not be measured.
        DeviceBusyError: a profile is running.
    """
    predictor = problem.predictor
    if predictor is None:
        raise UsageError("measuring needs the predictor's device and setting: Problem(space, predictor)")
    if not networks:
        raise UsageError("there is nothing to measure: give at least one network")
    names = told_apart([network.name for network in networks])
    networks = [Network(name, network.layers) for name, network in zip(names, networks, strict=True)]
    session = measure_session(
        problem,
        networks,
        [problem.bounds_of(network) for network in networks],
        anchors=anchors_for(problem, networks),
        seconds=seconds,
        seed=seed,
        progress=progress,
        # Looked up now, so that one place can be put in its stead.
        compare=compare or compare_networks,
    )
    return Measurement(
        setting=f"{predictor.device.model}, {predictor.setting}",
        budget_ms=problem.budgets.ms,
        holds=problem.holds,
        networks=session.timed,
        at_reference=session.comparison.at_reference,
        warnings=session.comparison.warnings,
    )


def told_apart(names: Sequence[str]) -> list[str]:
    """Return names of which no two are equal: those that are get numbers."""
    return [
        name if names.count(name) == 1 else f"{name} {list(names[: i + 1]).count(name)}" for i, name in enumerate(names)
    ]

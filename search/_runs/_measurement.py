"""Networks measured side by side, each beside what was predicted of it and what it may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from lut import Network, UsageError
from lut._console import format_ms
from profiler import compare_networks
from profiler._compare import NetworkComparison
from profiler._session import Progress
from search._problem._budgets import Holds
from search._problem._problem import Problem

__all__ = ["Compare", "Measurement", "TimedNetwork", "Verdict", "measure", "timed_networks"]

# Measures networks side by side: the seam at which tests put a simulated device.
Compare: TypeAlias = Callable[..., NetworkComparison]
# Of a budget of ms: the whole interval is within, or beyond, or the limit lies in it.
Verdict: TypeAlias = Literal["within", "unclear", "beyond"]


class TimedNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network as it was measured, in ms.

    Args:
        name: the network's.
        ms: at the machine's reference speed (at the session's, where it has none); ``low_ms`` … ``high_ms`` (95 %).
        raw_ms: as the clock gave it, at the speed of this session; ``None`` where nobody kept it.
        day_low_ms: with ``day_high_ms``, where another day's measurement will lie (95 %).
        predicted_ms: by the problem's predictor; ``bound_ms``: what the budget was held against.
    """

    name: str
    ms: float
    low_ms: float
    high_ms: float
    raw_ms: float | None
    day_low_ms: float
    day_high_ms: float
    predicted_ms: float | None
    bound_ms: float | None

    def interval(self, holds: Holds) -> tuple[float, float]:
        """Return the interval that a budget is held against, in ms."""
        return (self.low_ms, self.high_ms) if holds == "reference-speed" else (self.day_low_ms, self.day_high_ms)

    def verdict(self, budget_ms: float, holds: Holds) -> Verdict:
        """Return whether the network keeps a budget of ms."""
        low, high = self.interval(holds)
        return "within" if high <= budget_ms else "beyond" if low > budget_ms else "unclear"

    @property
    def prediction_error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted_ms is None else self.predicted_ms / self.ms - 1


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


def timed_networks(
    comparison: NetworkComparison, names: Sequence[str], bounds: Sequence[tuple[float, float] | None]
) -> tuple[TimedNetwork, ...]:
    """Return what a session measured, by the networks' own names.

    Args:
        comparison: the session.
        names: of its networks, in its order.
        bounds: of each, the ms predicted and the ms that the budget is held against; ``None``: not predicted.
    """
    found = []
    for seen, name, bound in zip(comparison.networks, names, bounds, strict=True):
        found.append(
            TimedNetwork(
                name=name,
                ms=seen.ms,
                low_ms=seen.low_ms,
                high_ms=seen.high_ms,
                raw_ms=seen.raw_ms,
                day_low_ms=seen.low_ms if seen.day_low_ms is None else seen.day_low_ms,
                day_high_ms=seen.high_ms if seen.day_high_ms is None else seen.day_high_ms,
                predicted_ms=None if bound is None else bound[0],
                bound_ms=None if bound is None else bound[1],
            )
        )
    return tuple(found)


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
    names = told_apart([network.name for network in networks])
    # Looked up now, so that one place can be put in its stead.
    comparison = (compare or compare_networks)(
        [Network(name, network.layers) for name, network in zip(names, networks, strict=True)],
        setting=predictor.setting,
        device=predictor.device,
        time_budget_s=seconds,
        seed=seed,
        progress=progress,
    )
    bounds = [problem.bounds_of(network) for network in networks]
    return Measurement(
        setting=f"{predictor.device.model}, {predictor.setting}",
        budget_ms=problem.budgets.ms,
        holds=problem.holds,
        networks=timed_networks(comparison, names, bounds),
        at_reference=comparison.at_reference,
        warnings=comparison.warnings,
    )


def told_apart(names: Sequence[str]) -> list[str]:
    """Return names of which no two are equal: those that are get numbers."""
    return [
        name if names.count(name) == 1 else f"{name} {list(names[: i + 1]).count(name)}" for i, name in enumerate(names)
    ]

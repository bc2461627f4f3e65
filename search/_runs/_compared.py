"""The numbers that a run's page and its terminal both tell: the networks side by side, and what measuring said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lut import Network
from lut._console import format_ms
from search._problem._budgets import Holds

if TYPE_CHECKING:
    from search._runs._result import RunResult
    from search._runs._timed import Verdict
    from search._training._train import Trained

__all__ = [
    "SPEEDS",
    "VERDICTS",
    "CheckedPoint",
    "ComparedNetwork",
    "checked_points",
    "compared_networks",
    "learnt_text",
    "own_answer",
    "predicted_before",
    "predicted_text",
    "result_name",
    "selection_text",
    "speeds_text",
    "value_texts",
]

VERDICTS: dict[Verdict, str] = {"within": "within", "unclear": "may exceed", "beyond": "exceeds"}
SPEEDS: dict[Holds, str] = {"reference-speed": "at the machine's reference speed", "any-day": "on any day"}


class ComparedNetwork(NamedTuple):
    """A network in the table of networks; ``None``: not known.

    ``predicted_ms`` and ``bound_ms``: before anything was measured of it; ``measured``: ms, with the interval (95 %);
    ``value``: by which the search chooses.
    """

    name: str
    network: Network
    predicted_ms: float | None
    bound_ms: float | None
    measured: tuple[float, float, float] | None
    trained: Trained | None
    value: float | None
    madds: int
    parameters: int
    depth: int


class CheckedPoint(NamedTuple):
    """A network that was selected and measured against the budget, over all its sessions.

    ``number``: from 1; ``session``: the first in which it was measured, ``sessions``: in how many; ``role``: ``found``,
    or ``nearest`` where none keeps the budget; ``first choice`` of the search, where that is another. Latencies in ms;
    ``low_ms`` … ``high_ms`` is what the budget is held against.
    """

    number: int
    session: int
    sessions: int
    network: str
    role: str
    value: float
    predicted_ms: float | None
    bound_ms: float | None
    measured_ms: float
    low_ms: float
    high_ms: float
    verdict: Verdict

    @property
    def prediction_error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted_ms is None else self.predicted_ms / self.measured_ms - 1


def result_name(result: RunResult) -> str:
    """Return what the network is called that the run ends with: nobody found what keeps no budget."""
    return "nearest" if result.kept is False else "found"


def predicted_before(result: RunResult) -> tuple[float | None, float | None]:
    """Return what was predicted of the network found, in ms, and its upper end, before it was measured.

    A predictor that was calibrated on the network itself predicts nothing of it any more.
    """
    problem, found = result.problem, result.found
    if result.verification is not None:
        seen = result.verification.checked(problem.canonical(found.vectors[0]))
        if seen is not None:
            ms, bound = seen.timed.predicted_ms, seen.timed.bound_ms
            return ms, None if bound is None or ms is None or bound <= ms else bound
    prediction = found.predictions[0] if found.predictions else None
    return (None, None) if prediction is None else (prediction.ms, prediction.high_ms)


def own_answer(result: RunResult) -> bool:
    """Whether a report's answer shows the search's own chart: there are no accuracies to set against latencies."""
    timed = result.measured is not None or predicted_before(result)[0] is not None
    return result.kept is not False and not (result.trained is not None and timed)


def compared_networks(result: RunResult) -> tuple[ComparedNetwork, ...]:
    """Return the network found, the base network, and the one that the search began with, if that is another."""
    problem, method, measured = result.problem, result.method, result.measured
    winner_ms = base_ms = None
    if measured is not None:
        winner_ms = (measured.winner_ms, measured.winner_low_ms, measured.winner_high_ms)
        base_ms = (measured.base_ms, measured.base_low_ms, measured.base_high_ms)

    def row(
        name: str,
        network: Network,
        vector: Sequence[int] | None,
        predicted: tuple[float | None, float | None],
        value: float | None,
        ms: tuple[float, float, float] | None = None,
        trained: Trained | None = None,
    ) -> ComparedNetwork:
        depth = method.depth_of(problem, network, vector)
        return ComparedNetwork(
            name, network, *predicted, ms, trained, value, problem.madds(network), network.parameters, depth
        )

    vector, base, first = result.found.vectors[0], result.base, method.first(result.found)
    rows = [
        row(
            result_name(result),
            result.network,
            vector,
            predicted_before(result),
            result.found.values[0],
            winner_ms,
            result.trained,
        )
    ]
    same = first is not None and problem.network(first.vector) == base
    base_predicted = (result.base_predicted_ms, None)
    if first is not None and same:
        name = f"{base.name}, first network"
        rows.append(row(name, base, first.vector, base_predicted, first.value, base_ms, result.base_trained))
        return tuple(rows)
    rows.append(row(base.name, base, None, base_predicted, None, base_ms, result.base_trained))
    if first is not None:
        bound = first.bound_ms if problem.bound == "upper" else None
        network = problem.network(first.vector)
        rows.append(row("first network", network, first.vector, (first.ms, bound), first.value))
    return tuple(rows)


def checked_points(result: RunResult) -> tuple[CheckedPoint, ...]:
    """Return the networks that were measured against the budget, in the order in which they were."""
    verification, problem = result.verification, result.problem
    if verification is None:
        return ()
    last, first = problem.canonical(result.found.vectors[0]), problem.canonical(verification.first_choice)
    found = []
    for number, network in enumerate(verification.networks, start=1):
        timed, vector = network.timed, problem.canonical(network.vector)
        sessions = verification.sessions_of(vector)
        role = result_name(result) if vector == last else "first choice" if vector == first else ""
        low, high = timed.interval(verification.holds)
        found.append(
            CheckedPoint(
                number=number,
                session=sessions[0],
                sessions=len(sessions),
                network=timed.name,
                role=role,
                value=network.value,
                predicted_ms=timed.predicted_ms,
                bound_ms=timed.bound_ms,
                measured_ms=timed.ms,
                low_ms=low,
                high_ms=high,
                verdict=timed.verdict(verification.budget_ms, verification.holds),
            )
        )
    return tuple(found)


# --- in words ---


def predicted_text(ms: float | None, upper_ms: float | None, *, up_to: str = "up to") -> str:
    """Return a predicted latency with the upper end of its interval; nothing where there is none."""
    if ms is None:
        return ""
    return format_ms(ms) + ("" if upper_ms is None or upper_ms <= ms else f" ({up_to} {format_ms(upper_ms)})")


def value_texts(values: Iterable[float | None]) -> list[str]:
    """Return values as people read them: in percent where all of them are shares."""
    given = list(values)
    shares = all(0 <= value <= 1 for value in given if value is not None)
    return ["–" if value is None else f"{value:.2%}" if shares else f"{value:.4g}" for value in given]


def selection_text(result: RunResult) -> str:
    """Return how many networks were measured, and what became of the search's own choice."""
    points = checked_points(result)
    sessions = 0 if result.verification is None else len(result.verification.rounds)
    were = "network that the search selected was" if len(points) == 1 else "networks that the search selected were"
    text = f"{len(points)} {were} measured in {sessions} session{'s' * (sessions != 1)}"
    if not result.kept:
        return f"{text}."
    first = next((point for point in points if point.role == "first choice"), None)
    if first is None:
        return f"{text}; its first choice keeps the budget."
    why = {"within": "keeps the budget too", "unclear": "may exceed the budget", "beyond": "exceeds the budget"}
    return f"{text}; its first choice, network {first.number}, {why[first.verdict]}."


def learnt_text(result: RunResult) -> str:
    """Return by how much selected networks are slower than they are predicted to be, after all was measured."""
    verification = result.verification
    if verification is None:
        return ""
    share = verification.margin - 1
    off = "as long as" if abs(share) < 5e-4 else f"{abs(share):.1%} {'longer' if share > 0 else 'less'} than"
    calibrated = ", now that it is calibrated on them too" if result.plan.calibrated else ""
    later = " Upper ends of later sessions allow for what earlier ones showed." if len(verification.rounds) > 1 else ""
    return f"On average, networks that the search selects take {off} the predictor says{calibrated}.{later}"


def speeds_text(result: RunResult) -> str:
    """Return by how much sessions were slower than the calibration was, where that was measured."""
    verification = result.verification
    speeds = [] if verification is None else [done.speed for done in verification.rounds if done.speed is not None]
    if not speeds:
        return ""
    shares = ", ".join(f"{speed.slower - 1:+.1%}" for speed in speeds)
    return (
        "Beside them, networks that the predictor was calibrated on were measured again: how much longer they took now "
        f"({shares} by session, after the sentinels) is taken out of what all take."
    )

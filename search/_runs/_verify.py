"""Verify, then repair: what a search found is measured, and found anew from what measuring taught where it must be.

The optimum of a search lies where the predictor errs to its favour, so that a prediction is no promise. The winner and
a few others are measured in one session, beside the base network. Those that were measured teach the predictor; from
then on it answers for networks like them. A network is a result when its measured upper end is within the budget.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import msgspec

from lut import Network
from lut._files import read_bytes, write_atomically
from lut._option_names import RESTART
from lut.errors import CheckpointError, DeviceBusyError, IncompleteError, ProfileError
from profiler._compare import NetworkComparison, Ratio
from profiler._session import Progress
from search._problem._budgets import Holds
from search._problem._problem import Problem
from search._runs._found import Candidate, Knowledge
from search._runs._measurement import Compare, TimedNetwork, timed_networks

__all__ = ["MOST_REPAIRS", "CheckedNetwork", "Round", "Verification", "Verified", "verify"]

# Sessions after the first.
MOST_REPAIRS = 3
# Networks of a session besides the base network: those within the budget by the bound, the winner among them, and those
# that only the prediction itself is within, of which more is hoped.
SAFE, HOPEFUL = 3, 2
LARGEST_FILE = 1 << 24
# No network takes a day.
LARGEST_MS = 1e8
BASE = "base network"


class CheckedNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network that was selected and measured.

    Args:
        vector: the option index of each decision.
        value: by which the search ranked it.
        timed: how long it takes, beside what was predicted before it was measured.
        speed_up: how many times as long the base network takes, with the interval (95 %).
    """

    vector: tuple[int, ...]
    value: float
    timed: TimedNetwork
    speed_up: tuple[float, float, float]


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One session: the base network and those that were selected.

    ``at_reference``: whether its latencies stand at the machine's reference speed.
    """

    base: TimedNetwork
    networks: tuple[CheckedNetwork, ...]
    at_reference: bool
    warnings: tuple[str, ...]


class Verification(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What measuring said of a budget of ms.

    Args:
        budget_ms: the limit; ``holds``: at which speed.
        rounds: the sessions, the first and the repairs.
        chosen: the vector of the network that is the result; ``None``: none was measured within the budget.
        nearest: the vector of the network measured that is nearest to the budget from above, where there is no result.
        first_choice: the vector that the search itself had chosen.
        margin: factor from the predictor's answer to what selected networks take, after all that was measured.
    """

    budget_ms: float
    holds: Holds
    rounds: tuple[Round, ...]
    chosen: tuple[int, ...] | None
    nearest: tuple[int, ...] | None
    first_choice: tuple[int, ...]
    margin: float

    def checked(self, vector: Sequence[int] | None) -> tuple[CheckedNetwork, Round] | None:
        """Return a network as it was measured last, and in which session."""
        for done in reversed(self.rounds):
            for network in done.networks:
                if vector is not None and network.vector == tuple(vector):
                    return network, done
        return None

    @property
    def selected(self) -> tuple[CheckedNetwork, ...]:
        """All that were measured, in order."""
        return tuple(network for done in self.rounds for network in done.networks)

    @property
    def excess(self) -> float | None:
        """By what share the nearest network is beyond the budget, where there is no result."""
        found = self.checked(self.nearest)
        return None if found is None else found[0].timed.interval(self.holds)[1] / self.budget_ms - 1


class Verified(NamedTuple):
    """What became of a search's choice: the problem as measuring taught it, the result if there is one, and how."""

    problem: Problem
    winner: Candidate | None
    verification: Verification


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sessions that are done; ``run`` is the digest of what they are of, ``sha256`` of both."""

    run: str
    rounds: tuple[Round, ...]
    sha256: str = ""

    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode((self.run, self.rounds))).hexdigest()


def verify(
    problem: Problem,
    knowledge: Knowledge,
    winner: Candidate,
    base: Network,
    *,
    compare: Compare,
    seconds: float,
    seed: int,
    repairs: int = MOST_REPAIRS,
    path: Path | None = None,
    said: Callable[[str], None] = lambda _: None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Verified:
    """Measure what a search chose, and let it choose again from what it knows until its choice was measured to fit.

    The first session holds the winner, the next best, and networks that are better and within the budget by the
    prediction though not by its interval. After each the predictor is calibrated on what was measured, and the search
    derives again. Another session follows as long as a better network than the best one measured within the budget is
    expected to be within it, or none has been found yet.

    Args:
        problem: with a predictor and a budget of ms.
        knowledge: what the search knows.
        winner: what it chose.
        base: what is measured beside the others.
        compare: what measures.
        seconds: of each session.
        seed: of their order.
        repairs: sessions after the first, at most.
        path: a file that keeps the sessions; those of the same problem and choice are not repeated.
        said: told in words what each session found.
        progress: told where a session stands.

    Raises:
        UnlikeTablesError: this machine is not the predictor's device.
        IncompleteError: a network could not be measured.
        DeviceBusyError: a profile is running.
        CheckpointError: the file is damaged.
    """
    budget = problem.budgets.ms
    assert budget is not None
    run = hashlib.sha256(
        msgspec.json.encode(
            (problem.digest, problem.budgets, winner.vector, winner.value, seed, base.as_layer().digest)
        )
    ).hexdigest()
    rounds = list(_load(path, run, problem))
    taught = problem
    for number in range(1 + repairs):
        known = _known(rounds[:number])
        taught = _taught(problem, known.values())
        best = _best(known, budget, problem.holds)
        asked = _first(problem, knowledge, winner) if number == 0 else _next(taught, knowledge, best, known)
        if not asked:
            break
        if number == len(rounds):
            try:
                rounds.append(_session(taught, asked, base, compare, seconds, seed + number, progress))
            except (IncompleteError, ProfileError) as error:
                if best is None:
                    raise
                # What was measured to keep the budget is not lost for want of a better one.
                said(f"no further session: {error}")
                break
            _save(path, run, rounds)
            said(_told(rounds[-1], budget, problem.holds))
    known = _known(rounds)
    taught = _taught(problem, known.values())
    best = _best(known, budget, problem.holds)
    nearest = min(known.values(), key=lambda one: one.timed.interval(problem.holds)[1]) if best is None else None
    return Verified(
        taught,
        best,
        Verification(
            budget_ms=budget,
            holds=problem.holds,
            rounds=tuple(rounds),
            chosen=None if best is None else best.vector,
            nearest=None if nearest is None else nearest.vector,
            first_choice=problem.canonical(winner.vector),
            margin=taught.margin,
        ),
    )


def _first(problem: Problem, knowledge: Knowledge, winner: Candidate) -> list[Candidate]:
    """Return what is measured at first: the winner, others as safe, and better ones that may fit."""
    found = {problem.canonical(winner.vector): winner}
    for candidate in knowledge.candidates(problem, SAFE):
        if len(found) < SAFE:
            found.setdefault(problem.canonical(candidate.vector), candidate)
    better = [c for c in knowledge.candidates(_by_prediction(problem), SAFE + HOPEFUL) if c.value > winner.value]
    for candidate in better[-HOPEFUL:]:
        found.setdefault(problem.canonical(candidate.vector), candidate)
    return list(found.values())


def _next(
    taught: Problem, knowledge: Knowledge, best: Candidate | None, known: Mapping[tuple[int, ...], CheckedNetwork]
) -> list[Candidate]:
    """Return what is measured in a repair: networks that the predictor, as it is taught now, takes to be within."""
    expected = knowledge.candidates(_by_prediction(taught), SAFE + HOPEFUL + len(known))
    hopeful = [c for c in expected if c.vector not in known and (best is None or c.value > best.value)]
    if best is not None:
        return hopeful[: SAFE + HOPEFUL]
    # Nothing measured fits as yet: those that are within by the bound come with them.
    safe = [c for c in knowledge.candidates(taught, SAFE + len(known)) if c.vector not in known]
    return list(dict.fromkeys([*safe[:SAFE], *hopeful[:HOPEFUL]]))


def _by_prediction(problem: Problem) -> Problem:
    return problem.replace(bound="predicted")


def _taught(problem: Problem, selected: Iterable[CheckedNetwork]) -> Problem:
    """Return the problem with a predictor calibrated on what was measured, and the margin that selected ones need.

    Where it is not known what the predictor was calibrated on before, only the margin is learnt.
    """
    seen = list(selected)
    if not seen:
        return problem
    assert problem.predictor is not None
    pairs = [(problem.network(one.vector), one.timed.ms) for one in seen]
    taught = problem
    if problem.calibration:
        every = (*problem.calibration, *pairs)
        taught = problem.replace(predictor=problem.predictor.recalibrated(every), calibration=every)
    assert taught.predictor is not None
    left = fmean(log(ms / taught.predictor.latency_ms(network)) for network, ms in pairs)
    return taught.replace(margin=exp(left))


def _known(rounds: Iterable[Round]) -> dict[tuple[int, ...], CheckedNetwork]:
    return {network.vector: network for done in rounds for network in done.networks}


def _best(known: Mapping[tuple[int, ...], CheckedNetwork], budget_ms: float, holds: Holds) -> Candidate | None:
    within = [one for one in known.values() if one.timed.verdict(budget_ms, holds) == "within"]
    if not within:
        return None
    best = max(within, key=lambda one: (one.value, -one.timed.ms))
    return Candidate(best.vector, best.value)


def _session(
    problem: Problem,
    asked: Sequence[Candidate],
    base: Network,
    compare: Compare,
    seconds: float,
    seed: int,
    progress: Callable[[Progress], None],
) -> Round:
    """Measure networks beside the base network; where one of them cannot be measured, the first of them alone."""
    try:
        return _measured(problem, asked, base, compare, seconds, seed, progress)
    except DeviceBusyError:
        raise
    except (IncompleteError, ProfileError):
        if len(asked) == 1:
            raise
        return _measured(problem, asked[:1], base, compare, seconds, seed, progress)


def _measured(
    problem: Problem,
    asked: Sequence[Candidate],
    base: Network,
    compare: Compare,
    seconds: float,
    seed: int,
    progress: Callable[[Progress], None],
) -> Round:
    """Measure networks beside the base network in one session."""
    predictor = problem.predictor
    assert predictor is not None
    names = [BASE, *(f"candidate {number}" for number in range(1, len(asked) + 1))]
    layers = [base.layers, *(problem.network(candidate.vector).layers for candidate in asked)]
    comparison: NetworkComparison = compare(
        [Network(name, own) for name, own in zip(names, layers, strict=True)],
        setting=predictor.setting,
        device=predictor.device,
        time_budget_s=seconds,
        seed=seed,
        progress=progress,
    )
    own_names = [base.name, *(problem.network(candidate.vector).name for candidate in asked)]
    base_ms = predictor.latency_ms(base)
    # What selected networks were seen to take beyond their prediction is a part of what is expected of these.
    bounds = [(problem.margin * problem.ms(c.vector), problem.bound_ms(c.vector)) for c in asked]
    timed = timed_networks(comparison, own_names, [(base_ms, base_ms), *bounds])
    ratios: list[Ratio] = [comparison.ratio(0, number) for number in range(1, len(names))]
    return Round(
        base=timed[0],
        networks=tuple(
            CheckedNetwork(problem.canonical(c.vector), c.value, seen, (ratio.value, ratio.low, ratio.high))
            for c, seen, ratio in zip(asked, timed[1:], ratios, strict=True)
        ),
        at_reference=comparison.at_reference,
        warnings=comparison.warnings,
    )


def _told(done: Round, budget_ms: float, holds: Holds) -> str:
    verdicts = [network.timed.verdict(budget_ms, holds) for network in done.networks]
    within = verdicts.count("within")
    errors = [error for network in done.networks if (error := network.timed.prediction_error) is not None]
    networks = "network" if len(verdicts) == 1 else "networks"
    return (
        f"measured {len(verdicts)} selected {networks}: {within} within the budget; predictions off by "
        f"{min(errors):+.1%} … {max(errors):+.1%}"
    )


def _load(path: Path | None, run: str, problem: Problem) -> tuple[Round, ...]:
    """Return the sessions that a file keeps of the same choice; none where it holds another's."""
    if path is None or not path.exists():
        return ()
    try:
        kept = msgspec.json.decode(read_bytes(path, limit=LARGEST_FILE), type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        kept = None
    if kept is None or kept.sha256 != kept.digest() or not all(_is_round(done, problem) for done in kept.rounds):
        raise CheckpointError(f"{path} is damaged: no networks that were measured; discard it, or give {RESTART}")
    return kept.rounds if kept.run == run else ()


def _is_round(done: Round, problem: Problem) -> bool:
    """Whether a record is of networks of this space, with latencies that networks can have."""
    sizes = [len(decision.options) for decision in problem.space.choices]
    for one in done.networks:
        if len(one.vector) != len(sizes) or not all(0 <= i < n for i, n in zip(one.vector, sizes, strict=True)):
            return False
    timed = (done.base, *(one.timed for one in done.networks))
    return all(0 < ms <= LARGEST_MS for one in timed for ms in (one.ms, one.low_ms, one.high_ms, one.day_high_ms))


def _save(path: Path | None, run: str, rounds: Sequence[Round]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = _Kept(run, tuple(rounds))
    write_atomically(
        path, msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(kept, sha256=kept.digest())), indent=1)
    )

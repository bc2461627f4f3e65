"""Verify, then repair: what a search found is measured, and found anew from what measuring taught where it must be.

The optimum of a search lies where the predictor errs to its favour, so that a prediction is no promise. The winner and
a few others are measured in one session, beside the base network and networks that were measured before, which bring
the session to their speed. Those that were measured teach the predictor; from then on it answers for networks like
them. A network is a result when its measured upper end is within the budget. The best of several that were measured is
partly the luckiest, too: it is measured in a second session, and both count.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp, hypot, log
from pathlib import Path
from statistics import NormalDist, fmean
from typing import NamedTuple

import msgspec

from lut import Network
from lut._files import read_bytes, write_atomically
from lut._option_names import RESTART
from lut.errors import CheckpointError, DeviceBusyError, IncompleteError, ProfileError
from profiler._compare import Ratio
from profiler._session import Progress
from search._problem._budgets import Holds
from search._problem._problem import Problem
from search._runs._anchors import ANCHORS, LEAST_ANCHORS, Anchor, Speed, anchors_for, speed_of
from search._runs._found import Candidate, Knowledge
from search._runs._measurement import Compare, measure_session
from search._runs._timed import TimedNetwork, taken_together

__all__ = ["MOST_REPAIRS", "CheckedNetwork", "Round", "Verification", "Verified", "speed_text", "verify"]

# Sessions after the first.
MOST_REPAIRS = 3
# Networks of a session besides the base network: those within the budget by the bound, the winner among them, and those
# that only the prediction itself is within, of which more is hoped.
SAFE, HOPEFUL = 3, 2
# Better networks among which the most hopeful are chosen.
LOOKED_AT = 24
# Sessions in which the network is measured that is the result, and networks that a session measures again.
SESSIONS, AGAIN = 2, 3
LARGEST_FILE = 1 << 24
# No network takes a day.
LARGEST_MS = 1e8


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


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One session: the base network and those that were selected.

    ``at_reference``: whether its latencies stand at the machine's reference speed by the table's sentinels.
    ``anchors``: networks that were measured before; all latencies are at the speed that these had then.
    """

    base: TimedNetwork
    networks: tuple[CheckedNetwork, ...]
    at_reference: bool
    warnings: tuple[str, ...]
    anchors: tuple[Anchor, ...] = ()

    @property
    def speed(self) -> Speed | None:
        """How much slower the session was than its anchors; ``None`` where it had none."""
        return speed_of(self.anchors)


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

    @property
    def networks(self) -> tuple[CheckedNetwork, ...]:
        """All networks that were selected, in the order in which they were first measured, over all their sessions."""
        return tuple(_known(self.rounds).values())

    @property
    def base(self) -> TimedNetwork:
        """The base network, over all sessions."""
        return taken_together([done.base for done in self.rounds])

    def checked(self, vector: Sequence[int] | None) -> CheckedNetwork | None:
        """Return a network as it was measured, over all its sessions."""
        return None if vector is None else _known(self.rounds).get(tuple(vector))

    def sessions_of(self, vector: Sequence[int]) -> tuple[int, ...]:
        """Return the numbers, from 1, of the sessions in which a network was measured."""
        found = {
            number for number, done in enumerate(self.rounds, 1) for one in done.networks if one.vector == tuple(vector)
        }
        return tuple(sorted(found))

    @property
    def excess(self) -> float | None:
        """By what share the nearest network is beyond the budget, where there is no result."""
        found = self.checked(self.nearest)
        return None if found is None else found.timed.interval(self.holds)[1] / self.budget_ms - 1


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
    expected to be within it, none has been found yet, or the best was measured in one session only.

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
    sessions = _Sessions(problem, base, compare, seconds, progress)
    known: dict[tuple[int, ...], CheckedNetwork] = {}
    taught, best = problem, None
    for number in range(1 + repairs):
        asked = (
            _first(problem, knowledge, winner)
            if number == 0
            else _next(taught, knowledge, best, known, _times(rounds[:number]))
        )
        if not asked:
            break
        if number == len(rounds):
            try:
                rounds.append(_session(sessions, taught, asked, best or winner, seed + number))
            except (IncompleteError, ProfileError) as error:
                if best is None:
                    raise
                # What was measured to keep the budget is not lost for want of a better one.
                said(f"no further session: {error}")
                break
            _save(path, run, rounds)
            said(_told(rounds[-1], budget, problem.holds))
        # A file may hold more sessions than are asked for now: they count, too.
        known = _known(rounds if number == repairs else rounds[: number + 1])
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
    for candidate in _hopeful(problem, knowledge, winner.value, found)[:HOPEFUL]:
        found.setdefault(candidate.vector, candidate)
    return list(found.values())


def _next(
    taught: Problem,
    knowledge: Knowledge,
    best: Candidate | None,
    known: Mapping[tuple[int, ...], CheckedNetwork],
    times: Mapping[tuple[int, ...], int],
) -> list[Candidate]:
    """Return what is measured in a repair: networks that the predictor, as it is taught now, takes to be within.

    And some of those that were measured once: the best within the budget, and better ones that may be within it.
    """
    again = _again(taught, best, known, times)
    hopeful = _hopeful(taught, knowledge, None if best is None else best.value, known)
    if best is not None:
        return [*again, *hopeful[: max(HOPEFUL, SAFE + HOPEFUL - len(again))]]
    # Nothing measured fits as yet: those that are within by the bound come with them.
    safe = [c for c in knowledge.candidates(taught, SAFE + len(known)) if c.vector not in known]
    return list(dict.fromkeys([*again, *safe[:SAFE], *hopeful[:HOPEFUL]]))


def _again(
    taught: Problem,
    best: Candidate | None,
    known: Mapping[tuple[int, ...], CheckedNetwork],
    times: Mapping[tuple[int, ...], int],
) -> list[Candidate]:
    """Return networks measured once that are measured again: a better one that may be within, the best, the next best.

    The next best may become the result, too: where finalists are evaluated again.
    """
    budget = taught.budgets.ms
    assert budget is not None
    once = [one for one in known.values() if times[one.vector] < SESSIONS]
    once.sort(key=lambda one: (-one.value, one.vector))
    # More sessions say no more of another day.
    unsure = [one for one in once if taught.holds == "reference-speed" and one.timed.ms <= budget]
    if best is None:
        return [Candidate(one.vector, one.value) for one in unsure[:AGAIN]]
    found = [Candidate(one.vector, one.value) for one in unsure if one.value > best.value][:1]
    if times[best.vector] < SESSIONS:
        next_best = [
            Candidate(one.vector, one.value)
            for one in once
            if one.vector != best.vector and one.timed.verdict(budget, taught.holds) == "within"
        ]
        found += [best, *next_best]
    return list(dict.fromkeys(found))[:AGAIN]


def _hopeful(
    problem: Problem, knowledge: Knowledge, least: float | None, apart: Iterable[tuple[int, ...]]
) -> list[Candidate]:
    """Return networks that the prediction is within, those from which most is to be expected first.

    Of networks that are better than ``least``: what they gain, times the chance that they are within the budget. Those
    in ``apart`` are left out.
    """
    known = set(apart)
    expected = knowledge.candidates(problem.by_prediction, LOOKED_AT + len(known))
    better = [c for c in expected if c.vector not in known and (least is None or c.value > least)]
    if least is None:
        return better
    return sorted(better, key=lambda c: (least - c.value) * _chance(problem, c.vector))


def _chance(problem: Problem, vector: Sequence[int]) -> float:
    """Return the probability that a network is within the budget of ms, by the prediction's interval."""
    budget, predictor = problem.budgets.ms, problem.predictor
    assert budget is not None
    assert predictor is not None
    if predictor.no_interval(problem.level) is not None:
        return 1.0
    found = predictor.predict(problem.network(vector), level=problem.level)
    if found.high_ms is None or found.high_ms <= found.ms:
        return 1.0
    normal = NormalDist()
    # The upper end of a two-sided interval.
    deviation = log(found.high_ms / found.ms) / normal.inv_cdf(0.5 + problem.level / 2)
    room = log(budget / (found.ms * problem.margin))
    if problem.holds == "any-day":
        room -= problem.day_half_width
    return normal.cdf(room / deviation)


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
        taught = problem.replace(
            predictor=problem.predictor.recalibrated(every), calibration=every, anchors=problem.anchors
        )
    assert taught.predictor is not None
    left = fmean(log(ms / taught.predictor.latency_ms(network)) for network, ms in pairs)
    return taught.replace(margin=exp(left))


def _known(rounds: Iterable[Round]) -> dict[tuple[int, ...], CheckedNetwork]:
    """Return all networks measured, by vectors, each over all its sessions."""
    seen: dict[tuple[int, ...], list[CheckedNetwork]] = {}
    for done in rounds:
        for network in done.networks:
            seen.setdefault(network.vector, []).append(network)
    return {
        vector: msgspec.structs.replace(
            several[0],
            timed=taken_together([one.timed for one in several]),
            speed_up=_mean_ratio([one.speed_up for one in several]),
        )
        for vector, several in seen.items()
    }


def _mean_ratio(ratios: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios with their intervals."""
    value = exp(fmean(log(ratio) for ratio, _, _ in ratios))
    below, above = (hypot(*(log(ratio[end] / ratio[0]) for ratio in ratios)) / len(ratios) for end in (1, 2))
    return value, value * exp(-below), value * exp(above)


def _times(rounds: Iterable[Round]) -> Counter[tuple[int, ...]]:
    return Counter(network.vector for done in rounds for network in done.networks)


def _best(known: Mapping[tuple[int, ...], CheckedNetwork], budget_ms: float, holds: Holds) -> Candidate | None:
    within = [one for one in known.values() if one.timed.verdict(budget_ms, holds) == "within"]
    if not within:
        return None
    best = max(within, key=lambda one: (one.value, -one.timed.ms))
    return Candidate(best.vector, best.value)


class _Sessions(NamedTuple):
    """What all sessions have in common; ``given``: the problem before anything was taught, which knows the anchors."""

    given: Problem
    base: Network
    compare: Compare
    seconds: float
    progress: Callable[[Progress], None]


def _session(sessions: _Sessions, problem: Problem, asked: Sequence[Candidate], first: Candidate, seed: int) -> Round:
    """Measure networks beside the base network and anchors; of many there may be no time for all.

    Where one of them cannot be measured, ``first`` alone is, if it was asked for, beside fewer anchors, and at last
    beside none.
    """
    alone = [first] if first in asked else asked[:1]
    for several, anchors in ((asked, ANCHORS), (alone, LEAST_ANCHORS)):
        try:
            return _measured(sessions, problem, several, anchors, seed)
        except DeviceBusyError:
            raise
        except (IncompleteError, ProfileError):
            continue
    return _measured(sessions, problem, alone, 0, seed)


def _measured(sessions: _Sessions, problem: Problem, asked: Sequence[Candidate], anchors: int, seed: int) -> Round:
    """Measure networks beside the base network, and so many anchors, in one session."""
    predictor = problem.predictor
    assert predictor is not None
    networks = [sessions.base, *(problem.network(candidate.vector) for candidate in asked)]
    base_ms = predictor.latency_ms(sessions.base)
    # What selected networks were seen to take beyond their prediction is a part of what is expected of these.
    bounds = [(problem.margin * problem.ms(c.vector), problem.bound_ms(c.vector)) for c in asked]
    session = measure_session(
        problem,
        networks,
        [(base_ms, base_ms), *bounds],
        anchors=anchors_for(sessions.given, networks, anchors),
        seconds=sessions.seconds,
        seed=seed,
        progress=sessions.progress,
        compare=sessions.compare,
    )
    comparison = session.comparison
    ratios: list[Ratio] = [comparison.ratio(0, number) for number in range(1, len(networks))]
    return Round(
        base=session.timed[0],
        networks=tuple(
            CheckedNetwork(problem.canonical(c.vector), c.value, seen, (ratio.value, ratio.low, ratio.high))
            for c, seen, ratio in zip(asked, session.timed[1:], ratios, strict=True)
        ),
        at_reference=comparison.at_reference,
        warnings=comparison.warnings,
        anchors=session.anchors,
    )


def _told(done: Round, budget_ms: float, holds: Holds) -> str:
    verdicts = [network.timed.verdict(budget_ms, holds) for network in done.networks]
    within = verdicts.count("within")
    errors = [error for network in done.networks if (error := network.timed.prediction_error) is not None]
    networks = "network" if len(verdicts) == 1 else "networks"
    speed = "" if done.speed is None else f"; {speed_text(done.speed, len(done.anchors))}"
    return (
        f"measured {len(verdicts)} selected {networks}: {within} within the budget; predictions off by "
        f"{min(errors):+.1%} … {max(errors):+.1%}{speed}"
    )


def speed_text(speed: Speed, anchors: int) -> str:
    """Return what a session's anchors said of its speed, in words."""
    share = speed.slower - 1
    return (
        f"{anchors} networks of the calibration took {abs(share):.1%} {'longer' if share > 0 else 'less'} than then, "
        "which is taken out"
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
    known = [ms for one in done.anchors for ms in (one.known_ms, one.ms)]
    known += [ms for one in timed for ms in (one.ms, one.low_ms, one.high_ms, one.day_low_ms, one.day_high_ms)]
    known += [one.raw_ms for one in timed if one.raw_ms is not None]
    # How many times as long: what no network takes is no such number either.
    known += [times for one in done.networks for times in one.speed_up]
    return all(0 < number <= LARGEST_MS for number in known)


def _save(path: Path | None, run: str, rounds: Sequence[Round]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = _Kept(run, tuple(rounds))
    write_atomically(
        path, msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(kept, sha256=kept.digest())), indent=1)
    )

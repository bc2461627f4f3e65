"""Whole networks side by side: what each takes on this device, and how many times as long one takes as another.

They are measured as a table's audit measures its networks (:mod:`profiler._visit`), on which predictors are calibrated:
in shuffled rounds of one session with the sentinels in between, in several processes, the drift taken out.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from math import log, sqrt
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from lut import Device, LatencyTable, Network, Setting, UnlikeTablesError, UsageError
from lut.errors import IncompleteError
from profiler._check import OTHER_STATE_WARNING, device_changes, setting_changes, setting_options
from profiler._judge import AUTOCORRELATED
from profiler._plan import Plan, make_protocol
from profiler._reference import load_references, reference_path
from profiler._run import limit_for, profile_plan, protocol_for
from profiler._session import Progress
from profiler._sources import Subject, record_of, subject_of
from profiler._target import TargetSpec
from profiler._tested import self_test_path
from profiler._worker import Ready

__all__ = [
    "ComparedNetwork",
    "ComparedVisits",
    "NetworkComparison",
    "Ratio",
    "compare_networks",
    "setting_options",
]

# Half-width of every network's interval, as a share of its median, at which measuring stops.
PRECISION = 0.01
# A process is replaced once it has made so many rounds and has measured for a while (see ``run_session``).
ROUNDS_PER_PROCESS = 3
MOST_PROCESSES = 100
# Fewer say little of how processes differ.
FEW_PROCESSES = 3
DRAWS = 2000
LEVEL = 0.95

Floats = NDArray[np.float64]


class ComparedNetwork(NamedTuple):
    """What a network takes: the median of its corrected visits in ms, and its interval within this session (95 %).

    ``repeat_error``: how far the medians of every other visit lie from those of the rest, as a share; ``None`` of fewer
    than four visits. ``raw_ms``: the median of the visits as the clock gave them, at the machine's speed of this
    session. ``day_low_ms`` … ``day_high_ms``: where another day's measurement will lie (95 %).
    """

    name: str
    ms: float
    low_ms: float
    high_ms: float
    visits: int
    repeat_error: float | None
    raw_ms: float | None = None
    day_low_ms: float | None = None
    day_high_ms: float | None = None


class ComparedVisits(NamedTuple):
    """A network's visits, columns of one length: corrected ms, the process, and seconds since the session began."""

    ms: tuple[float, ...]
    process: tuple[int, ...]
    at_s: tuple[float, ...]


class Ratio(NamedTuple):
    """How many times as long one network takes as another, and the interval that holds it with 95 %."""

    value: float
    low: float
    high: float


class NetworkComparison(NamedTuple):
    """Networks that were measured in one session.

    Args:
        device: what was measured on.
        setting: as the target described it.
        networks: what each takes, in the order in which they were given.
        visits: theirs, in the same order.
        measuring_s: what measuring took.
        warnings: what about the machine or the measurement makes this comparison less certain.
        at_reference: whether latencies stand at the machine's reference speed, as those of its tables do; otherwise at
            this session's own calm speed. Ratios are the same either way.
        autocorrelation: how much neighbouring visits resemble each other (lag 1, all networks and sentinels together).
        seed: of the ratios' resampling.
        table: the session's table, where the networks' layers were measured too.
    """

    device: Device
    setting: Setting
    networks: tuple[ComparedNetwork, ...]
    visits: tuple[ComparedVisits, ...]
    measuring_s: float
    warnings: tuple[str, ...] = ()
    at_reference: bool = False
    autocorrelation: float = 0.0
    seed: int = 0
    table: LatencyTable | None = None

    def ratio(self, slow: int | str, fast: int | str) -> Ratio:
        """Return how many times as long the network ``slow`` takes as ``fast``, each by its position or its name.

        The value is the ratio of the medians of their corrected visits. For the interval, processes are drawn with
        replacement, both networks' together, and each drawn process's visits (2,000 times).

        Raises:
            UsageError: there is no such network.
        """
        numbers = self._number(slow), self._number(fast)
        mine, other = (self.visits[number] for number in numbers)
        value = float(np.median(mine.ms) / np.median(other.ms))
        if numbers[0] == numbers[1]:
            return Ratio(1.0, 1.0, 1.0)
        draws = _resampled(mine, other, np.random.default_rng([self.seed, *numbers]))
        low, high = (log(float(q)) for q in np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]))
        # Resampling few processes shows less of their spread than there is.
        count = len(set(mine.process) & set(other.process))
        stretch = sqrt(count / (count - 1)) if count > 1 else 1.0
        if self.autocorrelation > AUTOCORRELATED:
            # So many visits carry the information of fewer independent ones, as in ``median_interval``.
            stretch *= sqrt((1 + self.autocorrelation) / (1 - self.autocorrelation))
        return Ratio(
            value,
            value * float(np.exp(stretch * min(0.0, low - log(value)))),
            value * float(np.exp(stretch * max(0.0, high - log(value)))),
        )

    def _number(self, network: int | str) -> int:
        names = [compared.name for compared in self.networks]
        if isinstance(network, str):
            if network not in names:
                raise UsageError(f"no network {network!r} was compared, only {', '.join(names)}")
            return names.index(network)
        if not -len(names) <= network < len(names):
            raise UsageError(f"{len(names)} networks were compared, and there is no number {network}")
        return network % len(names)


def _resampled(mine: ComparedVisits, other: ComparedVisits, rng: np.random.Generator) -> Floats:
    """Return ratios of medians of resampled visits, shape ``(DRAWS,)``."""
    # A process that the session's end cut short may have visited one of the two only.
    both = sorted(set(mine.process) & set(other.process))
    if not both:
        groups = [[np.array(visits.ms)] for visits in (mine, other)]
    else:
        groups = [
            [np.array([ms for ms, process in zip(v.ms, v.process, strict=True) if process == p]) for p in both]
            for v in (mine, other)
        ]
    draws = np.empty(DRAWS)
    for i in range(DRAWS):
        picks = rng.integers(len(groups[0]), size=len(groups[0]))
        medians = [
            np.median(np.concatenate([of[p][rng.integers(len(of[p]), size=len(of[p]))] for p in picks]))
            for of in groups
        ]
        draws[i] = medians[0] / medians[1]
    return draws


def compare_networks(
    networks: Sequence[Network],
    *,
    setting: Setting,
    device: Device | None = None,
    time_budget_s: float = 30.0,
    seed: int = 0,
    layers: bool = False,
    target: TargetSpec | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> NetworkComparison:
    """Measure networks as wholes, against each other, in one session on this machine.

    All are visited in every round, until each is known to 1 % from at least three processes, has had 128 visits, or the
    time is up. Nothing is kept on disk: the machine's reference speed is used where it has one, and
    not changed.

    Args:
        networks: at least one, each of another name.
        setting: target, batch, threads, data type, memory format, context and the target's options.
        device: what the networks' latencies are predicted for; ``None``: whatever this machine is.
        time_budget_s: seconds of measuring; starting the first process does not count.
        seed: of the order of visits, of weights and inputs, and of the ratios' resampling.
        layers: measure the networks' layers in the same rounds; the result then holds the table.
        target: a spec in the place of the setting's own, for targets that are not installed.
        progress: told where the session stands.

    Raises:
        UsageError: no networks, two of one name, a budget that makes no sense, or a setting that is not available here.
        UnlikeTablesError: this machine, or what its target runs, is not the ``device`` and ``setting`` given.
        TargetUnavailableError: the target cannot run here.
        DeviceBusyError: a profile is running.
        IncompleteError: a network could not be measured.
        InterruptedRunError: stopped by the user.
    """
    _check_names(networks)
    inner = tuple(dict.fromkeys(item.layer for network in networks for item in network.layers)) if layers else ()
    protocol = make_protocol(precision=PRECISION, time_budget_s=time_budget_s, seed=seed)
    subjects = [subject_of(network) for network in networks]
    spec = target if target is not None else setting_options(setting, inner, networks)
    if (limit_s := limit_for(spec)) is not None:
        protocol = msgspec.structs.replace(protocol, layer_limit_s=limit_s)
    if not layers:
        protocol = msgspec.structs.replace(
            protocol, rounds_per_process=ROUNDS_PER_PROCESS, most_processes=MOST_PROCESSES
        )
    protocol = protocol_for(spec, protocol)
    plan = Plan(spec.factory, spec.options, inner, protocol, tuple(s.source for s in subjects if s.source is not None))
    # Without their layers, the wholes stand for themselves.
    named = subjects if layers else [Subject(Network(s.network.name, ()), s.source) for s in subjects]

    def accept(ready: Ready) -> None:
        if device is not None:
            _refuse_others(device, setting, ready)

    with tempfile.TemporaryDirectory(prefix="latency-lut-compare-") as folder:
        # A copy, so that a machine's first session may still be one that is kept.
        reference = Path(folder) / "references.json"
        with contextlib.suppress(OSError):
            shutil.copyfile(reference_path(), reference)
        with contextlib.suppress(OSError):
            shutil.copyfile(self_test_path(reference_path()), self_test_path(reference))
        table = profile_plan(
            plan,
            curves=(),
            networks=[record_of(subject) for subject in named],
            output=Path(folder) / "table.json",
            restart=False,
            reference=reference,
            new_reference=False,
            keep=False,
            as_one=not layers,
            accept=accept,
            progress=progress,
        )
    return _comparison(table, seed, keep_table=layers)


def _check_names(networks: Sequence[Network]) -> None:
    if not networks:
        raise UsageError("there is nothing to compare: give at least one network")
    names = [network.name for network in networks]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"each network needs a name of its own, and there are several called {', '.join(doubled)}")


def _refuse_others(device: Device, setting: Setting, ready: Ready) -> None:
    different = [
        str(change)
        for change in (*device_changes(device, ready.device), *setting_changes(setting, ready.setting))
        if change.decisive
    ]
    if different:
        raise UnlikeTablesError(
            f"predicted for {device.model} ({setting}), and this machine is {ready.device.model} ({ready.setting}): "
            f"{'; '.join(different)}. Measure on that device, or predict for this one from a table of its own"
        )


def _comparison(table: LatencyTable, seed: int, *, keep_table: bool) -> NetworkComparison:
    session = table.sessions[0]
    if missing := [f"{known.name}: {known.reason}" for known in table.networks if known.end_to_end is None]:
        raise IncompleteError(f"not every network could be measured: {'; '.join(missing)}")
    wholes = [(known.name, known.end_to_end) for known in table.networks if known.end_to_end is not None]
    compared = tuple(
        ComparedNetwork(
            name=name,
            ms=whole.median_ms,
            low_ms=whole.within_run.low_ms,
            high_ms=whole.within_run.high_ms,
            visits=len(whole.visits.raw_ms),
            repeat_error=whole.repeat_error,
            raw_ms=whole.raw_median_ms,
            day_low_ms=whole.across_runs.low_ms,
            day_high_ms=whole.across_runs.high_ms,
        )
        for name, whole in wholes
    )
    visits = tuple(
        ComparedVisits(
            ms=tuple(ms / drift for ms, drift in zip(whole.visits.raw_ms, whole.visits.drift, strict=True)),
            process=whole.visits.process,
            at_s=whole.visits.at_s,
        )
        for _, whole in wholes
    )
    warnings = list(session.preflight.warnings)
    for (name, whole), found in zip(wholes, compared, strict=True):
        if "contaminated" in whole.flags:
            warnings.append(f"{name}: other work on this machine spoiled its visits")
        if "converged" not in whole.flags:
            half = (found.high_ms - found.low_ms) / 2 / found.ms
            why = "the most that are made" if found.visits >= session.protocol.most_visits else "the time was up"
            warnings.append(f"{name}: known to ±{half:.1%} after {found.visits} visits: {why}")
    if len({process for seen in visits for process in seen.process}) < FEW_PROCESSES:
        warnings.append("fewer than three processes: ratios' intervals know little of what differs between processes")
    if any("other_state" in whole.flags for _, whole in wholes):
        warnings.append(OTHER_STATE_WARNING)
    known = load_references(reference_path(), table.device, table.setting, session.software)
    return NetworkComparison(
        device=table.device,
        setting=table.setting,
        networks=compared,
        visits=visits,
        measuring_s=session.measuring_s,
        warnings=tuple(warnings),
        at_reference=known is not None,
        autocorrelation=session.correction.parameters.get("autocorrelation", 0.0),
        seed=seed,
        table=table if keep_table else None,
    )

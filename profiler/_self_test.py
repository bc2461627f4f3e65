"""The self-test: does what the profiler says hold on this machine, and how sharp can it be here?

A handful of small networks of two kinds (residual; inverted bottlenecks) are measured as any others. Half of them give
no layer its value: where layers are timed in their places, only the other half are gone along. What the layers of the
first half add up to is held against what they take as a whole. The same session tells how far a visit scatters, how
many there are in a second, and what chains make of layers that networks do not: sessions without networks on this
machine then know.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from math import hypot, log, sqrt
from pathlib import Path
from statistics import median
from typing import Any

from lut import LatencyTable, Network, SearchSpace
from lut._measured_network import MeasuredNetwork
from lut._records import Interval
from lut._statistics import trimmed_variance
from profiler._contexts import kind_of, offsets_of
from profiler._plan import Plan, make_protocol
from profiler._run import hosts_for, profile_plan, protocol_for
from profiler._session import Progress
from profiler._sources import record_of, subject_of
from profiler._target import TargetSpec, target_spec
from profiler._tested import REACH, SelfTest, SumCheck, asked_for, identity_of, keep_self_test, self_test_path

__all__ = ["networks_of", "run_self_test"]

SPACES = ("resnet-cifar", "nas-bench-macro")
NETWORKS_PER_SPACE = 4


def networks_of(seed: int, find: Callable[[str], SearchSpace]) -> list[Network]:
    """Return the networks of a self-test, in turns of either kind.

    Args:
        seed: of what is drawn from the spaces.
        find: returns a space by its name.
    """
    rng = random.Random(f"{seed}-self-test")  # noqa: S311 - a sample, no secret
    found = []
    for number in range(NETWORKS_PER_SPACE):
        for name in SPACES:
            space = find(name)
            network = space.decode(space.sample_measured(rng))
            found.append(Network(name=f"{name} {number + 1}", layers=network.layers))
    return found


def run_self_test(
    target: str,
    options: Mapping[str, Any],
    networks: list[Network],
    *,
    reference: Path,
    seconds: float,
    seed: int = 0,
    progress: Callable[[Progress], None] = lambda _: None,
) -> SelfTest:
    """Measure, judge, and keep what was found for later sessions.

    Args:
        target: an installed target's name.
        options: of the target.
        networks: see :func:`networks_of`.
        reference: where the machine's reference speeds are kept; what was found is kept beside it.
        seconds: to measure.
        seed: of all randomness.
        progress: told where the session stands.

    Raises:
        TargetUnavailableError: the target cannot run here.
        FileAccessError: what was found cannot be kept.
    """
    layers = tuple(dict.fromkeys(item.layer for network in networks for item in network.layers))
    spec = target_spec(target, layers, networks, **options)
    subjects = [subject_of(network) for network in networks]
    # Both kinds of network are gone along, and both are judged.
    walks = tuple(
        walk if number % (2 * len(SPACES)) < len(SPACES) else ()
        for number, walk in enumerate(hosts_for(spec, networks, layers))
    )
    protocol = protocol_for(spec, make_protocol(time_budget_s=seconds, seed=seed))
    plan = Plan(
        spec.factory,
        spec.options,
        layers,
        protocol,
        tuple(subject.source for subject in subjects if subject.source is not None),
        hosts=walks,
    )
    with tempfile.TemporaryDirectory(prefix="latency-lut-") as folder:
        table = profile_plan(
            plan,
            curves=(),
            networks=[record_of(subject) for subject in subjects],
            output=Path(folder) / "self-test.json",
            restart=False,
            # The machine's reference speed is for a session that measures longer to say.
            reference=Path(folder) / "references.json",
            new_reference=False,
            keep=False,
            # What an earlier test found is not to be found again because it was found.
            offsets={},
            progress=progress,
        )
    found = _judged(
        table, spec, asked_for(target, options), judged=[not walk for walk in walks] or [True] * len(networks)
    )
    keep_self_test(self_test_path(reference), table.device, table.setting, table.sessions[-1].software, found)
    return found


def _judged(table: LatencyTable, spec: TargetSpec, asked: str, *, judged: list[bool]) -> SelfTest:
    (session,) = table.sessions
    sums = []
    for network, wanted in zip(table.networks, judged, strict=True):
        total = table.sum_ms(network)
        if wanted and network.end_to_end is not None and total is not None:
            sums.append(SumCheck(network.name, total, network.end_to_end.median_ms, *_uncertainty(table, network)))
    scatter = [trimmed_variance([log(ms) for ms in m.corrected_ms])[0] for m in table.values() if m.n_visits >= 2]
    noise = sqrt(median(scatter)) if scatter else 0.0
    return SelfTest(
        taken_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        device=table.device.model,
        identity=identity_of(table.device),
        instructions=getattr(table.device, "instructions", None),
        setting=str(table.setting),
        software=session.software.runtime,
        asked=asked,
        sums=tuple(sums),
        visit_noise=float(f"{noise:.4g}"),
        visits_per_s=round(sum(m.n_visits for m in table.values()) / max(session.measuring_s, 1e-9), 1),
        drift=session.spread.common_drift,
        chains=offsets_of(session.correction.parameters),
        chain_length=int(spec.options.get("chain", 0)) if table.setting.context == "network" else 0,
        seconds=session.measuring_s,
    )


def _uncertainty(table: LatencyTable, network: MeasuredNetwork) -> tuple[float, float]:
    """Return the standard error of a sum over the whole by their visits, and by what chains make of layers; shares."""
    parts = [(item.count, item.layer, table[item.layer]) for item in network.network.layers]
    total = sum(count * m.median_ms for count, _, m in parts)
    error_ms = hypot(*(count * _error_ms(m.within_run) for count, _, m in parts))
    whole = network.end_to_end
    assert whole is not None
    own = hypot(error_ms / total, _error_ms(whole.within_run) / whole.median_ms)
    chains = offsets_of(table.sessions[-1].correction.parameters)
    by_kind: dict[str, float] = defaultdict(float)
    for count, layer, m in parts:
        by_kind[kind_of(layer)] += count * m.median_ms / total
    shared = hypot(*(share * sqrt(chains[kind].error) for kind, share in by_kind.items() if kind in chains))
    return float(f"{own:.4g}"), float(f"{shared:.4g}")


def _error_ms(interval: Interval) -> float:
    """Return the standard error behind an interval of 95 %."""
    return (interval.high_ms - interval.low_ms) / 2 / REACH

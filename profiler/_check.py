"""Staleness: does a table still hold on this device?

A few of its layers and one whole network are measured again. The sentinels of both sessions bring the new latencies to
the speed at which the file's stand, and each is held against the interval in which the file says that another run's
median lies. What is said of the table as a whole is wrong by chance in about one check of a hundred.
"""

from __future__ import annotations

import inspect
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import comb, exp, hypot, inf, log, sqrt
from pathlib import Path
from statistics import NormalDist, fmean, median, stdev
from typing import Any, Literal, NamedTuple

from lut import Device, LatencyTable, Layer, LayerError, Measurement, Network, Setting, TableError, UsageError
from lut._measured_network import MeasuredNetwork
from lut._records import ORIGINS, EndToEnd, Session, Software
from lut._statistics import log_standard_error
from lut.errors import IncompleteError, UnlikeTablesError
from profiler._contexts import Offset, offsets_of
from profiler._judge import LEAST_SCALE, MEDIAN_EFFICIENCY, OTHER_STATE
from profiler._plan import Plan, make_protocol
from profiler._run import hosts_for, limit_for, profile_plan, protocol_for
from profiler._session import Progress
from profiler._sources import LayersSource, NetworkSource, Subject, record_of
from profiler._target import TargetSpec, available_targets, target_factory, target_spec
from profiler._worker import Ready

__all__ = [
    "Change",
    "CheckResult",
    "LayerCheck",
    "NetworkCheck",
    "Verdict",
    "chance_outside",
    "changes",
    "check",
    "choose",
    "compare",
    "device_changes",
    "rebuildable",
    "record_like",
    "setting_changes",
    "setting_options",
    "spec_of",
]

Verdict = Literal["holds", "slower", "faster", "undecided"]

# What is said of one layer, and what is said of the table: of twelve layers one is often off by chance.
LAYER_LEVEL = 0.95
TABLE_LEVEL = 0.99
# A machine's speed that is worth a word, and one from which latencies can no longer be brought to the reference.
SPEED_SAID = 1.15
SPEED_LOST = 1.5

# Fields of a device that do not make another one of it.
PROVENANCE = ("system", "memory_gib", "governor", "turbo", "virtual", "microcode", "instructions")

MEASURED = ("measured", "marginal")

OTHER_STATE_WARNING = (
    "the sentinels disagree about the machine's speed: it is in another state than when the table was measured, and "
    "not all layers slowed down or sped up alike"
)


class Change(NamedTuple):
    """Something of the device, the setting or the versions that is not as in the table.

    ``decisive``: the table does not hold for that alone; ``device``: it speaks of another device or setting.
    """

    what: str
    was: str
    now: str
    decisive: bool
    device: bool = False

    def __str__(self) -> str:
        return f"{self.what} {self.was} → {self.now}"


class LayerCheck(NamedTuple):
    """A layer that was measured again.

    ``now_ms`` and ``ratio`` (now / table) are at the table's reference speed, ``None`` where it could not be measured,
    for the ``reason``; between ``low_ms`` and ``high_ms`` it holds.
    """

    layer: Layer
    table_ms: float
    now_ms: float | None
    ratio: float | None
    low_ms: float
    high_ms: float
    visits: int
    verdict: Verdict
    reason: str | None = None


class NetworkCheck(NamedTuple):
    """A whole network that was measured again; fields as in :class:`LayerCheck`.

    ``sum_ms``: the sum of the *table's* layers, ``None`` where one has no latency.
    """

    name: str
    table_ms: float
    now_ms: float | None
    ratio: float | None
    low_ms: float
    high_ms: float
    sum_ms: float | None
    visits: int
    verdict: Verdict
    reason: str | None = None


class CheckResult(NamedTuple):
    """What a check found.

    Args:
        changes: what of the device, the setting and the versions is not as in the table.
        speed_ratio: what the sentinels take now over what they take at the table's reference speed; ``None`` without.
        common_ratio: median ratio of the layers, now / table, at the reference speed; ``None`` where none has one.
        common_limit: the largest factor, either way, by which two sessions differ as a whole in 99 of 100 cases.
        layers: those that were measured again; none where another device made that pointless.
        most_outside: how many of them lie outside by chance, at the most, in 99 of 100 checks.
        apart: how many of them lie outside once ``common_ratio`` is taken off.
        network: the whole network, ``None`` where none was measured, for the ``no_network`` reason.
        warnings: what about the machine makes this check less certain.
        measuring_s: what measuring took.
    """

    changes: tuple[Change, ...]
    speed_ratio: float | None = None
    common_ratio: float | None = None
    common_limit: float = inf
    layers: tuple[LayerCheck, ...] = ()
    most_outside: int = 0
    apart: int = 0
    network: NetworkCheck | None = None
    no_network: str | None = None
    warnings: tuple[str, ...] = ()
    measuring_s: float = 0.0

    @property
    def outside(self) -> tuple[LayerCheck, ...]:
        """The layers for which the table does not hold."""
        return tuple(item for item in self.layers if item.verdict in ("slower", "faster"))

    @property
    def decided(self) -> int:
        """How many layers have a verdict."""
        return sum(item.verdict != "undecided" for item in self.layers)

    @property
    def seen_beyond(self) -> float | None:
        """The relative change of a layer beyond which this check would have seen it, in the middle of the layers."""
        reaches = [item.high_ms / item.table_ms - 1 for item in self.layers if item.verdict != "undecided"]
        return median(reaches) if reaches else None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the table no longer holds; empty where it does."""
        return tuple(self._reasons())

    @property
    def stale(self) -> bool:
        """Whether the table no longer holds on this device."""
        return bool(self.reasons)

    def _reasons(self) -> Iterator[str]:
        others = [change for change in self.changes if change.decisive]
        if moved := [str(change) for change in others if change.device]:
            yield "it is of another device or setting: " + "; ".join(moved)
        yield from (f"another runtime: {change}" for change in others if not change.device)
        if self.speed_ratio is not None and abs(log(self.speed_ratio)) > log(SPEED_LOST):
            yield f"the machine takes {self.speed_ratio:.2f} times as long as at the table's reference speed"
        if self.common_ratio is not None and abs(log(self.common_ratio)) > log(self.common_limit):
            yield (
                f"the layers together take {self.common_ratio:.2f} times as long as in the table (two sessions differ "
                f"by up to {self.common_limit:.2f})"
            )
        if self.apart > self.most_outside:
            yield (
                f"{self.apart} of {self.decided} layers lie outside their intervals, whatever all have in common (by "
                f"chance: {self.most_outside} at most)"
            )
        if self.network is not None and self.network.verdict in ("slower", "faster"):
            yield f"the network {self.network.name} takes {self.network.ratio:.2f} times as long as in the table"


def spec_of(table: LatencyTable, layers: Sequence[Layer], networks: Sequence[Network] = ()) -> TargetSpec:
    """Return the target as it was when the table was measured, for layers and whole networks of it.

    Raises:
        UsageError: the table was not measured by a target, its target cannot run on this system, is not installed, or
            has no such options any more.
        TargetUnavailableError: a package that the target's module itself needs is not installed.
    """
    if table and not any(measurement.origin in MEASURED for measurement in table.values()):
        origins = {measurement.origin for measurement in table.values()}
        which = "; ".join(f"{origin}: {ORIGINS[origin]}" for origin in sorted(origins))
        raise UsageError(f"the table's latencies were not measured here ({which}): check it where they come from")
    if table.setting.target == "coreml" and sys.platform != "darwin":
        raise UsageError("the table is of Core ML, which runs on Apple hardware only: check it there")
    return setting_options(table.setting, layers, networks, what="the table")


def setting_options(
    setting: Setting, layers: Sequence[Layer] = (), networks: Sequence[Network] = (), *, what: str = "the setting"
) -> TargetSpec:
    """Return the target that measures in a setting, for layers and whole networks; ``what`` the setting is of.

    Raises:
        UsageError: the setting's target is not installed, or has no such options.
        TargetUnavailableError: a package that the target's module itself needs is not installed.
    """
    if setting.target not in (installed := available_targets()):
        raise UsageError(
            f"{what} is of the target {setting.target!r}, and only {', '.join(sorted(installed))} are installed here"
        )
    # What a target describes and does not take, it has one value of; whether it still is that one is seen later.
    known = inspect.signature(target_factory(installed[setting.target])).parameters
    names = ("batch", "dtype", "threads", "memory_format", "context")
    common = {name: getattr(setting, name) for name in names if name in known}
    try:
        return target_spec(setting.target, layers, networks, **common, **_options(setting))
    except UsageError as error:
        of = "the setting" if what == "the setting" else f"{what}'s setting"
        raise UsageError(f"{of} ({setting}) is not available here: {error}") from None


def _options(setting: Setting) -> dict[str, Any]:
    """Return the target's own options as its constructor takes them; a plug-in's have the names that it describes."""
    options: dict[str, Any] = dict(setting.options)
    match setting.target:
        case "cpu":
            options["compile"] = options.pop("execution", "eager") == "compile"
        case "cuda":
            # A fact about the machine, which is compared once the target describes it again.
            options.pop("host", None)
        case "coreml":
            options["device"] = "iphone" if options.pop("timing", None) == "idle-burst" else "mac"
    return options


def choose(table: LatencyTable, count: int, seed: int) -> tuple[Layer, ...]:
    """Return the layers to measure again, at most ``count``: one half those that matter most, the other at random.

    What matters most takes the largest share of the table's networks (count times ms, over all of them); in a table
    without networks it takes longest.
    """
    candidates = [layer for layer, measurement in table.items() if measurement.origin in MEASURED]
    times: Counter[Layer] = Counter()
    for known in table.networks:
        for item in known.network.layers:
            times[item.layer] += item.count
    weight = {
        layer: (times[layer] * table[layer].median_ms, table[layer].median_ms if not times else 0.0)
        for layer in candidates
    }
    ranked = sorted(candidates, key=lambda layer: weight[layer], reverse=True)
    first = ranked[: -(-min(count, len(ranked)) // 2)]
    rest = ranked[len(first) :]
    rng = random.Random(f"{seed}-check")  # noqa: S311 - a sample, no secret
    return (*first, *rng.sample(rest, min(count - len(first), len(rest))))


def rebuildable(table: LatencyTable) -> tuple[MeasuredNetwork, LayersSource] | str:
    """Return the first network of the table that was measured whole and can be made again from its layers.

    One whose visits were spoiled comes after the others. Where there is none, return why.
    """
    reason = "the table holds no network that was measured whole"
    measured = [(known.end_to_end, known) for known in table.networks if known.end_to_end is not None]
    for _, known in sorted(measured, key=lambda pair: "contaminated" in pair[0].flags):
        try:
            known.network.as_layer()  # do its layers fit together?
            return known, LayersSource(known.network)
        except LayerError as error:
            reason = f"{known.name} cannot be made again from its layers ({error}): give the model itself (--model)"
    return reason


def record_like(table: LatencyTable, network: Network) -> MeasuredNetwork:
    """Return what the table says of a network, which is known by its layers and not by its name.

    Raises:
        UsageError: no network of the table that was measured whole has these layers.
    """
    wanted = _counts(network)
    measured = [known for known in table.networks if known.end_to_end is not None]
    for known in measured:
        if _counts(known.network) == wanted:
            return known
    names = ", ".join(known.name for known in measured) or "none"
    raise UsageError(
        f"{network.name}: the table holds no network of these layers that was measured whole (it holds: {names}); give "
        "the model and the input (--input) that it was measured with"
    )


def _counts(network: Network) -> Counter[Layer]:
    counts: Counter[Layer] = Counter()
    for item in network.layers:
        counts[item.layer] += item.count
    return counts


def changes(table: LatencyTable, device: Device, setting: Setting, software: Software) -> tuple[Change, ...]:
    """Return what is not as in the table; its software is that of its latest session."""
    found = [*device_changes(table.device, device), *setting_changes(table.setting, setting)]
    if table.sessions:
        found += _version_changes(table.sessions[-1].software, software)
    return tuple(found)


def device_changes(was: Device, now: Device) -> Iterator[Change]:
    """Yield what is another device's, and then what is only noted."""
    for fields, decisive in ((Device.IDENTITY, True), (PROVENANCE, False)):
        for name in fields:
            before, after = getattr(was, name), getattr(now, name)
            if before != after:
                yield Change(name.replace("_", " "), _text(before), _text(after), decisive, device=decisive)


def setting_changes(was: Setting, now: Setting) -> Iterator[Change]:
    """Yield what is another setting's; all of it is decisive."""
    for name in Setting.__struct_fields__:
        before, after = getattr(was, name), getattr(now, name)
        if name == "options":
            for option in sorted({*before, *after}):
                if before.get(option) != after.get(option):
                    texts = _text(before.get(option)), _text(after.get(option))
                    yield Change(option, *texts, decisive=True, device=True)
        elif before != after:
            yield Change(name.replace("_", " "), _text(before), _text(after), decisive=True, device=True)


def _version_changes(was: Software, now: Software) -> Iterator[Change]:
    runtime = was.runtime.rpartition(" ")[0]
    if was.python != now.python:
        yield Change("python", was.python, now.python, runtime == "python" and _major(was.python) != _major(now.python))
    for name in {**was.packages, **now.packages}:
        before, after = was.packages.get(name), now.packages.get(name)
        if before != after:
            decisive = name == runtime and (after is None or _major(before or "") != _major(after))
            yield Change(name, _text(before), _text(after), decisive)


def _major(version: str) -> str:
    """Return the part of a version whose change may change everything: the first number, two of them after a 0."""
    first, _, rest = version.partition(".")
    return f"0.{rest.partition('.')[0]}" if first == "0" else first


def _text(value: object) -> str:
    return "none" if value is None else str(value)


def chance_outside(count: int, share: float = 1 - LAYER_LEVEL, level: float = TABLE_LEVEL) -> int:
    """Return the least m with P(Bin(``count``, ``share``) ≤ m) ≥ ``level``: so many lie outside by chance."""
    total = 0.0
    for m in range(count + 1):
        total += comb(count, m) * share**m * (1 - share) ** (count - m)
        if total >= level:
            return m
    return count


def compare(
    table: LatencyTable,
    now: LatencyTable,
    layers: Sequence[Layer],
    record: MeasuredNetwork | None = None,
    *,
    no_network: str | None = None,
) -> CheckResult:
    """Hold a new, small table against an older one.

    Args:
        table: the older one.
        now: the new one, of one session; it need not stand at the same reference speed.
        layers: those of ``table`` that were to be measured again.
        record: the network of ``table`` that was to be measured again; ``now`` holds it first.
        no_network: why there is none.
    """
    session = now.sessions[0]
    ties = [_tie(old, session) for old in table.sessions]
    checks = [_check_layer(table, now, layer, ties) for layer in layers]
    decided = [(item.layer, log(item.ratio), item) for item in checks if item.ratio and item.verdict != "undecided"]
    common = median([ratio for _, ratio, _ in decided]) if decided else 0.0
    # A layer that lies outside together with all others is the common factor's business.
    apart = [
        item for _, ratio, item in decided if not item.low_ms <= item.table_ms * exp(ratio - common) <= item.high_ms
    ]
    used = [ties[number] for number in sorted({table[layer].session for layer in layers})]
    speeds = [log(tie.speed) for tie in used if tie.speed is not None]
    warnings = session.preflight.warnings
    if any(tie.disagreement > OTHER_STATE for tie in used):
        warnings = (*warnings, OTHER_STATE_WARNING)
    network = None
    if record is not None and record.end_to_end is not None:
        network = _check_network(table, now, record, ties[record.end_to_end.session])
    return CheckResult(
        changes=changes(table, now.device, now.setting, session.software),
        speed_ratio=exp(fmean(speeds)) if speeds else None,
        common_ratio=exp(common) if decided else None,
        common_limit=exp(_reach(TABLE_LEVEL) * _common_error(table, now, [layer for layer, _, _ in decided], ties)),
        layers=tuple(checks),
        most_outside=chance_outside(len(decided)),
        apart=len(apart),
        network=network,
        no_network=no_network,
        warnings=warnings,
        measuring_s=session.measuring_s,
    )


class _Sessions(NamedTuple):
    """What ties a new session to one of the table's, by the sentinels of both.

    ``factor``: from the new session's reference speed to the old one's; ``speed``: what the sentinels take now over the
    old reference, ``None`` without any; ``disagreement``: of the sentinels about that, in log(ms); the scales are those
    of the sessions' spreads.
    """

    factor: float
    speed: float | None
    disagreement: float
    old_scale: float
    now_scale: float


def _tie(old: Session, new: Session) -> _Sessions:
    mine = {sentinel.what: sentinel for sentinel in new.sentinels}
    both = [(sentinel.reference_ms, mine[sentinel.what]) for sentinel in old.sentinels if sentinel.what in mine]
    speeds = [log(other.session_ms / was_ms) for was_ms, other in both]
    return _Sessions(
        factor=exp(fmean([log(was_ms / other.reference_ms) for was_ms, other in both] or [0.0])),
        speed=exp(fmean(speeds)) if speeds else None,
        disagreement=stdev(speeds) if len(speeds) >= 2 else 0.0,
        old_scale=old.spread.scale,
        now_scale=new.spread.scale,
    )


def _reach(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)


def _allowed(
    old: Measurement | EndToEnd, new: Measurement | EndToEnd | None, pair: _Sessions, level: float
) -> tuple[float, float]:
    """Return the interval in ms that a new median must lie in: the old ``across_runs``, widened in log(ms).

    It is widened by the new measurement's own half-width and by how far the sentinels disagree about its speed, and is
    brought from its own level to ``level``.
    """
    across = old.across_runs
    stretch = _reach(level) / _reach(across.level) if 0 < across.level < 1 else 1.0
    half = 0.0 if new is None else _reach(level) * hypot(_own_error(new, pair.now_scale), pair.disagreement)
    middle = old.median_ms
    widest = 60.0  # beyond any latency, and no overflow
    return (
        middle * exp(-min(widest, max(0.0, log(middle / across.low_ms)) * stretch + half)),
        middle * exp(min(widest, max(0.0, log(across.high_ms / middle)) * stretch + half)),
    )


def _own_error(measurement: Measurement | EndToEnd, scale: float) -> float:
    """Return the standard error of log(ms) that a measurement has for itself, its session's ``scale`` taken off.

    That is what ``within_run`` says where there are visits enough, and else what all layers' visits say.
    """
    across = measurement.across_runs
    return sqrt(max(0.0, log_standard_error(across.low_ms, across.high_ms, across.level) ** 2 / 2 - scale**2))


def _verdict(value_ms: float, low_ms: float, high_ms: float) -> Verdict:
    return "slower" if value_ms > high_ms else "faster" if value_ms < low_ms else "holds"


def _check_layer(table: LatencyTable, now: LatencyTable, layer: Layer, ties: Sequence[_Sessions]) -> LayerCheck:
    old, new = table[layer], now.get(layer)
    tie = ties[old.session]
    low_ms, high_ms = _allowed(old, new, tie, LAYER_LEVEL)
    if new is None:
        return LayerCheck(layer, old.median_ms, None, None, low_ms, high_ms, 0, "undecided", _why_not(now, layer))
    now_ms = new.median_ms * tie.factor
    reason = _no_verdict(new)
    return LayerCheck(
        layer=layer,
        table_ms=old.median_ms,
        now_ms=now_ms,
        ratio=now_ms / old.median_ms,
        low_ms=low_ms,
        high_ms=high_ms,
        visits=new.n_visits,
        verdict="undecided" if reason else _verdict(now_ms, low_ms, high_ms),
        reason=reason,
    )


def _check_network(table: LatencyTable, now: LatencyTable, record: MeasuredNetwork, tie: _Sessions) -> NetworkCheck:
    old, mine = record.end_to_end, now.networks[0]
    assert old is not None
    # One network decides by itself, so it gets the interval of what is said of the table.
    low_ms, high_ms = _allowed(old, mine.end_to_end, tie, TABLE_LEVEL)
    total = table.sum_ms(record)
    if mine.end_to_end is None:
        why = mine.reason or "not measured"
        return NetworkCheck(record.name, old.median_ms, None, None, low_ms, high_ms, total, 0, "undecided", why)
    now_ms = mine.end_to_end.median_ms * tie.factor
    reason = _no_verdict(mine.end_to_end)
    return NetworkCheck(
        name=record.name,
        table_ms=old.median_ms,
        now_ms=now_ms,
        ratio=now_ms / old.median_ms,
        low_ms=low_ms,
        high_ms=high_ms,
        sum_ms=total,
        visits=len(mine.end_to_end.visits.raw_ms),
        verdict="undecided" if reason else _verdict(now_ms, low_ms, high_ms),
        reason=reason,
    )


def _no_verdict(new: Measurement | EndToEnd) -> str | None:
    """Return why a new measurement is held against nothing, by its cause and never by its value."""
    if "contaminated" in new.flags:
        return "other work on this machine spoiled its visits"
    if "at_resolution" in new.flags:
        return "lost in the noise of what it was taken from"
    return None


def _why_not(now: LatencyTable, layer: Layer) -> str:
    for failure in now.failures:
        if failure.layer == layer:
            return f"{failure.reason}: {failure.message}"
    return "the time budget ended before its first visit"


def _common_error(table: LatencyTable, now: LatencyTable, layers: Sequence[Layer], ties: Sequence[_Sessions]) -> float:
    """Return the standard error, in log(ms), of the layers' median ratio; infinite of none.

    What both sessions know of their scale enters in full, since all layers share it, and of the layers' own errors what
    a median leaves.
    """
    if not layers:
        return inf
    used = [ties[table[layer].session] for layer in layers]
    scale = max(hypot(max(t.old_scale, LEAST_SCALE), max(t.now_scale, LEAST_SCALE), t.disagreement) for t in used)
    own = [
        hypot(_own_error(table[layer], tie.old_scale), _own_error(now[layer], tie.now_scale))
        for layer, tie in zip(layers, used, strict=True)
    ]
    return hypot(scale, MEDIAN_EFFICIENCY * median(own) / sqrt(len(own)))


class _OtherDeviceError(UnlikeTablesError):
    """What is measured on is not the table's device; nothing has been measured yet."""

    def __init__(self, changes: tuple[Change, ...]) -> None:
        super().__init__("the table is of another device")
        self.changes = changes


def check(
    table: LatencyTable,
    *,
    layers_count: int = 12,
    time_budget_s: float = 20.0,
    seed: int = 0,
    subject: Subject | None = None,
    force: bool = False,
    target: TargetSpec | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> CheckResult:
    """Measure a few of a table's layers and a network again, and say whether the table holds.

    The machine's reference speed in the user's cache folder is neither used nor changed: latencies are brought to the
    speed of the table's own sentinels.

    Args:
        table: what is checked.
        layers_count: how many layers to measure again, at the most.
        time_budget_s: seconds after which measuring stops.
        seed: of the choice of layers and of all randomness in measuring.
        subject: the network to run as a whole; by default the first that the table's layers make again.
        force: measure on another device too.
        target: a spec in the place of the table's own, for targets that are not installed.
        progress: told where the session stands.

    Raises:
        TableError: the table holds no layer that could be measured again.
        UsageError: see :func:`spec_of` and :func:`record_like`; or an argument is out of range.
        TargetUnavailableError: the target cannot run here.
        DeviceBusyError: a profile is running.
        IncompleteError: not one layer could be measured.
        InterruptedRunError: stopped by the user.
    """
    if layers_count < 1:
        raise UsageError(f"at least 1 layer is checked, got {layers_count}")
    make_protocol(time_budget_s=time_budget_s, seed=seed)  # refuses what makes no sense
    if not len(table):
        raise TableError("the table holds no measured layer, so there is nothing to check")
    record: MeasuredNetwork | None = None
    whole: NetworkSource | None = None
    no_network: str | None = None
    if subject is not None:
        record, whole = record_like(table, subject.network), subject.source
    else:
        found = rebuildable(table)
        if isinstance(found, str):
            no_network = found
        else:
            record, whole = found
    layers = choose(table, layers_count, seed)
    networks = [record.network] if record is not None and whole is not None else []
    spec = target if target is not None else spec_of(table, layers, networks)
    # The whole alone: its layers stand in the table, and those that are measured again have been chosen.
    subjects = [Subject(Network(record.name, ()), whole)] if record is not None and whole is not None else []

    def accept(ready: Ready) -> None:
        different = changes(table, ready.device, ready.setting, ready.software)
        if any(change.device for change in different) and not force:
            raise _OtherDeviceError(different)

    protocol = make_protocol(time_budget_s=time_budget_s, quick=True, seed=seed, layer_limit_s=limit_for(spec))
    wholes = () if whole is None else (whole,)
    # What was timed in a network's places is timed there again; a chain would make it another latency.
    inner = [item.layer for network in networks for item in network.layers]
    entries = tuple(dict.fromkeys([*layers, *inner]))
    hosts = hosts_for(spec, networks, entries)
    if not hosts:
        entries = tuple(layers)
    plan = Plan(spec.factory, spec.options, entries, protocol_for(spec, protocol), wholes, hosts=hosts)
    try:
        known = offsets_of(table.sessions[-1].correction.parameters) if table.sessions else {}
        now = _measured(plan, subjects, known, accept, progress)
    except _OtherDeviceError as other:
        return CheckResult(other.changes)
    if not len(now):
        raise IncompleteError(f"none of {len(layers)} layers could be measured: {_why_not(now, layers[0])}")
    result = compare(table, now, layers, record if subjects else None, no_network=no_network)
    if not result.decided and not result.stale:
        raise IncompleteError(f"nothing can be said of {len(layers)} layers: {result.layers[0].reason}")
    return result


def _measured(
    plan: Plan,
    subjects: Sequence[Subject],
    offsets: Mapping[str, Offset],
    accept: Callable[[Ready], None],
    progress: Callable[[Progress], None],
) -> LatencyTable:
    """Return what is measured now, at a calm speed of its own until it is brought to the table's."""
    with tempfile.TemporaryDirectory(prefix="latency-lut-check-") as folder:
        return profile_plan(
            plan,
            curves=(),
            networks=[record_of(subject) for subject in subjects],
            output=Path(folder) / "table.json",
            restart=False,
            reference=Path(folder) / "references.json",
            new_reference=False,
            keep=False,
            # As the table has them, whose layers may not be among this session's networks.
            offsets=offsets,
            accept=accept,
            progress=progress,
        )

"""The parts that few read: the machine's speed during the run, how sure the numbers are, where they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from lut import LatencyTable, Setting
from lut._records import FLAGS, REJECTION_CAUSES, Session
from lut._session_text import knows_noise_floor, noise_floor_text, spread_line
from profiler._report._page import Block, Chart, Section, Table, Text
from profiler._report._plots import LAW, finish, plot_label

__all__ = ["SpeedPoint", "provenance_section", "reliability_section", "speed_points", "speed_section"]

SENTINEL_COLOURS = ("#0072B2", "#009E73", "#CC79A7")
# Points of a sentinel that are drawn: a plot of more is slow, and shows nothing else.
MOST_POINTS = 4000


class SpeedPoint(NamedTuple):
    """A visit to a sentinel: when, in seconds since the start, and its latency against its reference."""

    sentinel: str
    at_s: float
    relative: float


def speed_points(session: Session) -> tuple[SpeedPoint, ...]:
    """Return the numbers of a session's chart of the machine's speed."""
    found = []
    for sentinel in session.sentinels:
        step = max(1, -(-len(sentinel.at_s) // MOST_POINTS))
        for at_s, ms in list(zip(sentinel.at_s, sentinel.ms, strict=True))[::step]:
            found.append(SpeedPoint(sentinel.what, at_s, ms / sentinel.reference_ms))
    return tuple(found)


def speed_section(table: LatencyTable) -> Section:
    """Return how fast the machine was during each session."""
    blocks: list[Block] = []
    for number, session in enumerate(table.sessions):
        if points := speed_points(session):
            several = len(table.sessions) > 1
            caption = f"session {number}, {session.started_at}" if several else ""
            blocks.append(_speed_chart(points, f"machine-speed-{number}")._replace(caption=caption))
    if blocks:
        blocks.insert(
            0,
            Text(
                "Three fixed layers, the sentinels, were timed between all others; 1 is the speed to which all "
                "latencies are brought. What slows everything alike is estimated from all visits and taken out."
            ),
        )
    return Section("The machine's speed during the run", blocks, folded=True)


def _speed_chart(points: Sequence[SpeedPoint], name: str) -> Chart:
    figure = go.Figure()
    sentinels = dict.fromkeys(point.sentinel for point in points)
    for sentinel, colour in zip(sentinels, SENTINEL_COLOURS, strict=False):
        own = [point for point in points if point.sentinel == sentinel]
        figure.add_trace(
            go.Scatter(
                x=[point.at_s for point in own],
                y=[point.relative for point in own],
                mode="markers",
                marker={"size": 3, "color": colour},
                name=plot_label(sentinel),
            )
        )
    figure.add_hline(y=1, line={"dash": "dash", "width": 1, "color": LAW})
    finish(figure, y="latency / reference", x="seconds since the start", height=300)
    return Chart(figure, points, name)


def reliability_section(table: LatencyTable) -> Section:
    """Return which flags layers have, and which visits were put aside."""
    rows = []
    for flag, meaning in FLAGS.items():
        count = sum(flag in m.flags for m in table.values())
        if count:
            rows.append([flag, str(count), meaning])
    blocks: list[Block] = [
        Table(["flag", "layers", "meaning"], rows, "facts") if rows else Text("No layer has a flag.")
    ]
    rejected: Counter[str] = Counter()
    for m in table.values():
        rejected.update(m.rejected_by_cause)
    causes = [[cause, str(rejected[cause]), meaning] for cause, meaning in REJECTION_CAUSES.items() if rejected[cause]]
    if causes:
        blocks.append(Text("Visits that were put aside and made again, by cause:"))
        blocks.append(Table(["cause", "visits", "meaning"], causes, "facts"))
    return Section("How sure the numbers are", blocks, folded=True)


def provenance_section(table: LatencyTable) -> Section:
    """Return the device, the software and the protocol behind the numbers."""
    device = {name: getattr(table.device, name) for name in type(table.device).__struct_fields__}
    rows = [[name.replace("_", " "), str(value)] for name, value in device.items() if value is not None]
    for number, session in enumerate(table.sessions):
        prefix = f"session {number}: " if len(table.sessions) > 1 else ""
        rows += [[prefix + name, value] for name, value in _session_facts(session, table.setting)]
    return Section("Provenance: device, software, protocol", [Table(None, rows, "facts")], folded=True)


def _session_facts(session: Session, setting: Setting) -> Iterator[tuple[str, str]]:
    protocol, preflight = session.protocol, session.preflight
    resumed = f", resumed {session.resumed} times" if session.resumed else ""
    yield "started, ended", f"{session.started_at}, {session.ended_at}"
    processes = f"{session.processes} process{'es' * (session.processes != 1)}"
    yield "measuring", f"{session.measuring_s:.1f} s in {processes}{resumed}"
    visits = f" of {preflight.noise_floor_visits} visits" if knows_noise_floor(preflight) else ""
    yield "noise floor", noise_floor_text(preflight, 2) + visits
    yield "precision", f"±{protocol.precision:.1%} asked for"
    if (spread := spread_line(session, setting)) is not None:
        yield "spread and drift", spread
    yield "correction", f"{session.correction.name}: {session.correction.description}"
    blocks = f"{protocol.blocks_per_visit} blocks of {protocol.block_ms:g} ms a visit"
    yield "protocol", f"{protocol.name}, seed {protocol.seed}, level {protocol.level:.0%}, {blocks}"
    packages = [f"{name} {version}" for name, version in session.software.packages.items()]
    yield "software", ", ".join([*packages, f"python {session.software.python}"])
    for name, value in session.software.details.items():
        yield name, str(value)

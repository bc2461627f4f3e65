"""One session in which layers alone, layers in context, blocks alone and whole networks are visited in turns.

What is compared with what then has one history: the machine's drift is estimated from all visits together and taken
out, as for any table.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import msgspec

from lut import Layer, Network
from lut._records import Protocol
from profiler import Target
from profiler._contexts import kind_of
from profiler._judge import judge
from profiler._plan import make_protocol
from profiler._session import sort_visits
from profiler._sources import LayersSource
from profiler._target import load_target, target_spec
from profiler._visit import LayerFailure, Visit, Visitor
from profiler._walk import walk_of

__all__ = ["CONTEXTS", "Found", "layers_of", "refusal", "visit_all"]

# Per target, the options that time layers alone and those that time them in context.
CONTEXTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cpu": ({"context": "isolated"}, {"context": "network"}),
    "onnx": ({"context": "isolated"}, {"context": "network"}),
    "cuda": ({"mode": "device-warm"}, {"mode": "device-cold"}),
}
WHOLE_CALLS = 5
# Every other round is held against the rest.
LEAST_ROUNDS = 2
# Each operator of a whole network may have four compiled kernels; the deepest ones here have seventy.
KERNEL_CACHE = 512
# Whether a target can run here is found out in another process: making one sets its process up for good.
TRY = """
import sys
from lut.errors import LatencyLutError
from profiler._target import load_target, target_spec
try:
    load_target(target_spec(sys.argv[1], ()))
except LatencyLutError as error:
    raise SystemExit(str(error))
"""


class Found(NamedTuple):
    """What a session found, in ms: columns as long as the layers, blocks and networks that were given.

    ``halves``: the same of every other round and of the rest, for each column by its name. ``hosts``: networks in whose
    places layers were timed: sums are to be held against the others.
    """

    setting: str
    seconds: float
    columns: dict[str, list[float]]
    halves: dict[str, tuple[list[float], list[float]]]
    hosts: frozenset[int] = frozenset()

    def repeat_error(self, column: str) -> float:
        """Return the median difference between the two halves of a column, as a share."""
        first, second = self.halves[column]
        return median(abs(a / b - 1) for a, b in zip(first, second, strict=True))


def refusal(target: str) -> str | None:
    """Return why a target cannot run here; ``None`` where it can."""
    try:
        subprocess.run([sys.executable, "-c", TRY, target], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return str(lines[-1])
    return None


def layers_of(networks: Iterable[Network]) -> tuple[Layer, ...]:
    """Return the layers of networks, each once, in the order in which they come."""
    return tuple(dict.fromkeys(item.layer for network in networks for item in network.layers))


def visit_all(
    target: str,
    networks: Sequence[Network],
    blocks: Sequence[Layer] = (),
    *,
    rounds: int,
    batch: int,
    threads: int,
    what: str,
    seconds: float | None = None,
) -> Found:
    """Return the latencies of networks, their layers and ``blocks``; to be called in a process of its own.

    After ``seconds`` no further round is begun, once there are two.

    Columns are ``isolated`` and ``in_context`` (of :func:`layers_of` the networks), ``blocks`` (alone) and ``whole``.
    """
    layers = layers_of(networks)
    options: dict[str, Any] = {"batch": batch}
    if target != "cuda":
        options["threads"] = threads
    if target == "cpu":
        options["kernel_cache"] = KERNEL_CACHE
    alone, inside = (
        load_target(target_spec(target, layers, networks, **options, **extra)) for extra in CONTEXTS[target]
    )
    protocol = make_protocol(seed=0)
    shared = {"process": 0, "origin": alone.clock(), "memory_bytes": 8 << 30}
    entries = {"isolated": (alone, layers), "blocks": (alone, tuple(blocks)), "in_context": (inside, layers)}
    # Where layers are timed in networks, every other one is gone along, and the others are what sums are held against.
    number = {layer: i for i, layer in enumerate(layers)}
    hosts = frozenset(range(0, len(networks), 2)) if inside.walks else frozenset[int]()
    walks = tuple(walk_of(network, number) if k in hosts else () for k, network in enumerate(networks))
    along: dict[str, dict[str, Any]] = {"in_context": {"wholes": wholes_of(networks), "hosts": walks}} if hosts else {}
    visitors = {
        name: Visitor(
            where, what_is_timed, protocol, known_kernels=range(len(what_is_timed)), **shared, **along.get(name, {})
        )
        for name, (where, what_is_timed) in entries.items()
        if what_is_timed
    }
    sizes = {"isolated": len(layers), "in_context": len(layers), "blocks": len(blocks), "whole": len(networks)}
    first, total = {}, 0
    for name, size in sizes.items():
        first[name], total = total, total + size
    wholes = [] if hosts else [alone.prepare(network.as_layer(), 0) for network in networks]
    kinds = {first[name] + i: kind_of(layer) for name in ("isolated", "in_context") for i, layer in enumerate(layers)}
    rng = random.Random(1)
    visits: list[Visit] = []
    began = time.monotonic()
    starts: list[float] = []
    for turn in range(rounds):
        if seconds is not None and turn >= LEAST_ROUNDS and time.monotonic() - began >= seconds * turn / (turn + 1):
            # Another round would not be over in time.
            break
        jobs: list[tuple[str, Any]] = []
        for name, visitor in visitors.items():
            order = list(range(sizes[name]))
            if hosts and name == "in_context":
                after = len(layers) + len(networks)
                order += [after + k if k in hosts else len(layers) + k for k in range(len(networks))]
            rng.shuffle(order)
            jobs += [(name, job) for job in visitor.visits(order)]
        jobs += [("whole", k) for k in range(len(wholes))]
        rng.shuffle(jobs)
        starts.append(alone.clock() - shared["origin"])
        for name, job in jobs:
            if name == "whole":
                visits.append(_whole(alone, wholes[job], rng, first[name] + job, shared["origin"]))
                continue
            for event in job():
                if isinstance(event, LayerFailure):
                    raise SystemExit(f"{name}: entry {event.entry}: {event.message}")
                assert isinstance(event, Visit)
                beyond = event.entry - sizes[name]
                entry = first[name] + event.entry if beyond < 0 else first["whole"] + beyond
                visits.append(msgspec.structs.replace(event, entry=entry))
        print(f"{what}: round {turn + 1} of {rounds}, {time.monotonic() - began:.0f} s", file=sys.stderr)
    seconds = time.monotonic() - began
    all_ms = _settled(visits, protocol, kinds)
    # Sorted half by half: in few rounds, all of an entry's visits of one half may have been spoiled.
    parts = [_settled([v for v in visits if bisect(starts, v.at_s) % 2 == part], protocol, kinds) for part in (0, 1)]

    def column(ms: dict[int, float], name: str) -> list[float]:
        return [ms[first[name] + entry] for entry in range(sizes[name])]

    return Found(
        setting=str(inside.describe()[1]),
        seconds=round(seconds, 1),
        columns={name: column(all_ms, name) for name in sizes},
        halves={name: (column(parts[0], name), column(parts[1], name)) for name in sizes},
        hosts=hosts,
    )


def wholes_of(networks: Sequence[Network]) -> tuple[LayersSource, ...]:
    """Return networks as a target measures them whole."""
    return tuple(LayersSource(network) for network in networks)


def _settled(visits: Sequence[Visit], protocol: Protocol, kinds: Mapping[int, str]) -> dict[int, float]:
    """Return each entry's latency in ms as a table would hold it."""
    clean = sort_visits(visits, protocol.first_look, final=True).accepted
    return {
        entry: layer.median_ms for entry, layer in judge(clean, protocol, references=None, kinds=kinds).layers.items()
    }


def _whole(target: Target[Any], prepared: Any, rng: random.Random, entry: int, origin: float) -> Visit:
    """Return a visit to a whole network: the median of a few calls, after a warm-up."""
    target.relocate(prepared, rng)
    at_s = target.clock() - origin
    target.run(prepared, 1)
    stolen, throttled = target.stolen_and_throttled()
    calls, clean = [], []
    for _ in range(WHOLE_CALLS):
        before = target.preemptions_and_faults()[0]
        calls.append(target.run(prepared, 1))
        if target.preemptions_and_faults()[0] == before:
            clean.append(calls[-1])
    undisturbed = (stolen, throttled) == target.stolen_and_throttled() and 2 * len(clean) >= WHOLE_CALLS
    ms = median(clean if undisturbed else calls) / 1e6
    return Visit(entry, 0, at_s, ms, None if undisturbed else "preempted", late=False, faults=0.0, calls=1)

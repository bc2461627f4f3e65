"""Planning: the protocol's parameters, the sentinels, and which layers are visited next."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from lut import Layer, UsageError, conv_norm_act, global_pool, linear, residual_add
from lut._records import Protocol
from lut._suggest import as_share
from profiler._contexts import kind_of
from profiler._sources import NetworkSource, key_of
from profiler._walk import Walk

__all__ = [
    "LEAST_ENTRY",
    "LEAST_SENTINEL_VISITS",
    "LOOKS",
    "PREFLIGHT_ENTRY",
    "PROTOCOL_NAME",
    "SENTINELS",
    "SENTINEL_ENTRIES",
    "Plan",
    "layer_of",
    "make_protocol",
    "next_round",
]

PROTOCOL_NAME = "shuffled-rounds-1"

# A layer's interval is looked at only after these numbers of visits: every look is one more chance to stop on luck.
LOOKS = (6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def _conv(in_channels: int, out_channels: int, kernel_size: int, size: int, *, groups: int = 1) -> Layer:
    """Return a convolution with norm and ReLU."""
    return conv_norm_act(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=1,
        activation="relu",
        input_size=(size, size),
        groups=groups,
    )


# Three convolutions as the spaces have them: thin and large, middling, wide and small. A machine that a neighbour
# slows down does not slow all work alike; how far the three disagree tells how well any of them stands for the rest.
SENTINELS: tuple[Layer, ...] = tuple(_conv(i, o, 3, size) for i, o, size in ((16, 16, 32), (32, 48, 16), (64, 64, 8)))

SENTINEL_ENTRIES = tuple(range(-1, -1 - len(SENTINELS), -1))
# A reference speed that later sessions are held against is not taken from a glimpse.
LEAST_SENTINEL_VISITS = 12

# The first sentinel, as preflight visits it: many times in a row, which no other visit is, so it stands by itself.
PREFLIGHT_ENTRY = -1 - len(SENTINELS)

# What fills up a group of layers that are timed in turns where the plan has too few: as a small network would.
COMPANIONS: tuple[Layer, ...] = (
    *(_conv(i, o, 3, size) for i, o, size in ((3, 16, 32), (16, 24, 32), (24, 48, 16), (48, 48, 16), (64, 96, 8))),
    *(_conv(i, o, 1, size) for i, o, size in ((16, 96, 32), (96, 24, 32), (24, 144, 16), (144, 40, 16), (40, 240, 8))),
    *(_conv(c, c, 3, size, groups=c) for c, size in ((96, 32), (144, 16), (240, 8))),
    *(residual_add(c, activation="relu", input_size=(size, size)) for c, size in ((16, 32), (48, 16), (96, 8))),
    *(_conv(i, o, 3, size) for i, o, size in ((96, 96, 8), (32, 32, 16), (8, 8, 32))),
    *(_conv(i, o, 1, size) for i, o, size in ((240, 80, 8), (80, 320, 8))),
    conv_norm_act(16, 32, kernel_size=3, stride=2, activation="relu", input_size=(32, 32)),
    global_pool(320, input_size=(8, 8)),
    linear(320, 10, bias=True),
)
COMPANION_ENTRIES = tuple(range(PREFLIGHT_ENTRY - 1, PREFLIGHT_ENTRY - 1 - len(COMPANIONS), -1))
# So many networks are not somebody's own, but samples of a space.
MANY_NETWORKS = 4
# Visits in a round, beside its own, to a layer that may be the best of its group of widths.
RACING_VISITS = 2
# A sum has all of its layers' visits, and what it is held against is to be known as well; but a whole takes as long as
# all of its layers, which are to have most of the time however many they are.
LAYERS_PER_WHOLE, MOST_WHOLES = 8, 8
# Entry numbers that stand for something lie between this one and the plan's size.
LEAST_ENTRY = COMPANION_ENTRIES[-1]

DEFAULT_BUDGET_S = 112.0
QUICK_BUDGET_S = 24.0
# The least and the largest.
PRECISIONS = (0.0005, 0.5)


class Plan(NamedTuple):
    """All that fixes a run: an interrupted one is taken up again only by a command with the same plan.

    ``entries`` are the layers; a visit names its layer by its number here, and sentinel *i* by −1−i. ``wholes`` are
    networks to measure beside them, numbered after the last layer. ``hosts`` are their layers in their places, empty
    where they are not visited there; a visit to one is one to each of its layers and to the whole. ``sampling`` says
    how layers are chosen, where not all are measured. ``curves`` are channel sweeps
    among them, whose layers are to be compared with each other.
    """

    target: str
    options: Mapping[str, object]
    entries: tuple[Layer, ...]
    protocol: Protocol
    wholes: tuple[NetworkSource, ...] = ()
    sampling: str = ""
    hosts: tuple[Walk, ...] = ()
    curves: tuple[tuple[int, ...], ...] = ()

    @property
    def size(self) -> int:
        """How many layers and whole networks are to be measured."""
        return len(self.entries) + len(self.wholes)

    @property
    def digest(self) -> str:
        """Sixteen digits that equal plans share."""
        named = [layer.digest for layer in self.entries] + [key_of(source) for source in self.wholes]
        described: tuple[object, ...] = (self.target, dict(self.options), named, self.protocol)
        if self.sampling:
            described = (*described, self.sampling)
        if self.hosts:
            described = (*described, self.hosts)
        return hashlib.sha256(msgspec.json.encode(described, order="sorted")).hexdigest()[:16]

    @property
    def swept(self) -> frozenset[int]:
        """The layers of channel sweeps."""
        return frozenset(entry for curve in self.curves for entry in curve)

    @property
    def is_audited(self) -> bool:
        """Whether the networks are samples of a space, and not the user's own few."""
        return len(self.wholes) >= MANY_NETWORKS

    def kinds(self) -> dict[int, str]:
        """Return each layer's kind of work, by its number."""
        return {entry: kind_of(layer) for entry, layer in enumerate(self.entries)}

    def layer(self, entry: int) -> Layer:
        """Return the layer behind an entry number."""
        return layer_of(entry, self.entries)


def layer_of(entry: int, entries: Sequence[Layer]) -> Layer:
    """Return the layer behind an entry number: a plan's, a sentinel, preflight's, or a companion."""
    if entry >= 0:
        return entries[entry]
    return (
        COMPANIONS[PREFLIGHT_ENTRY - 1 - entry] if entry < PREFLIGHT_ENTRY else SENTINELS[(-1 - entry) % len(SENTINELS)]
    )


def make_protocol(
    *,
    precision: float | None = None,
    time_budget_s: float | None = None,
    quick: bool = False,
    seed: int = 0,
    layer_limit_s: float | None = None,
) -> Protocol:
    """Return the protocol's parameters.

    Args:
        precision: half-width of a layer's interval, as a share of its median, at which measuring it stops;
            0.02 by default, 0.05 if ``quick``.
        time_budget_s: seconds after which measuring stops; 112 by default, 24 if ``quick``.
        quick: a rough table soon.
        seed: of the order of visits, of weights, inputs and their addresses.
        layer_limit_s: seconds after which a layer that does not answer is given up; by default a sixth of the time
            budget, within 5 … 60.

    Raises:
        UsageError: a value is out of range.
    """
    if precision is None:
        precision = 0.05 if quick else 0.02
    if time_budget_s is None:
        time_budget_s = QUICK_BUDGET_S if quick else DEFAULT_BUDGET_S
    low, high = PRECISIONS
    if not low <= precision <= high:
        raise UsageError(
            f"precision is a share between {low:g} and {high:g} (0.02 is 2 %), "
            f"got {precision:g}{as_share(precision, low, high)}"
        )
    if not 1 <= time_budget_s <= 1e7:
        raise UsageError(f"time budget is between 1 second and 10,000,000, got {time_budget_s:g}")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed is between 0 and 2³²−1, got {seed}")
    return Protocol(
        name=PROTOCOL_NAME,
        seed=seed,
        precision=precision,
        target_precision=precision,
        level=0.95,
        time_budget_s=time_budget_s,
        blocks_per_visit=5,
        block_ms=0.3,
        first_look=LOOKS[0],
        most_visits=LOOKS[-1],
        rounds_per_process=3 if quick else 4,
        most_processes=2 if quick else 6,
        sentinel_every=6,
        drift_window=15,
        layer_limit_s=min(60.0, max(5.0, time_budget_s / 6)) if layer_limit_s is None else layer_limit_s,
    )


def next_round(
    open_entries: Sequence[int],
    visits: Mapping[int, int],
    worth: Mapping[int, float],
    protocol: Protocol,
    rng: random.Random,
    *,
    wholes: Sequence[int] = (),
    failed: Collection[int] = (),
    hosts: Mapping[int, Collection[int]] = MappingProxyType({}),
    racing: Sequence[int] = (),
    often: Sequence[int] = (),
    layers: int = 0,
) -> list[int]:
    """Return the order of the next round, sentinels in between.

    Until every open layer has had its first look, a round visits all of them. From then on it visits the half for
    which that does most.

    Args:
        open_entries: layers that may be visited, and those of few networks.
        visits: how many each has had.
        worth: what another visit to a layer is worth, so far as that is known.
        protocol: the first look, and how often sentinels come.
        rng: draws the order.
        wholes: of many networks those whose turn it is.
        failed: entries that cannot run.
        hosts: numbers of networks in whose places their layers are visited, each with these and its own as a whole,
            which is the highest.
        racing: layers that are visited more often than the others, as far as that is no more than half of the round.
        often: few networks, of which one is visited with every ``LAYERS_PER_WHOLE`` layers, but at most ``MOST_WHOLES``
            times in one pass over all layers.
        layers: how many there are in all; for ``often``.
    """
    chosen = list(open_entries)
    inside_any: set[int] = set().union(*hosts.values())
    if all(visits.get(entry, 0) >= protocol.first_look for entry in chosen):
        # Layers of networks are visited there; chains are for the others.
        chosen = [entry for entry in chosen if entry not in inside_any] or chosen
        chosen.sort(key=lambda entry: -worth.get(entry, float("inf")))
        chosen = chosen[: max(32, -(-len(chosen) // 2))]
    chosen += wholes
    # Networks that are done as a whole are not gone along for a layer that others hold too.
    along = [number for number, inside in hosts.items() if max(inside) in chosen]
    if inside_any.issuperset(chosen):
        missing = set(chosen).difference(*(hosts[number] for number in along))
        for number, inside in hosts.items():
            if number not in along and not missing.isdisjoint(inside):
                along.append(number)
                missing.difference_update(inside)
        chosen = along
    else:
        # Layers of no network need chains, and what tells chains from networks are layers that stand in both.
        chosen = [*along, *(entry for entry in chosen if entry not in {max(inside) for inside in hosts.values()})]
    more = list(racing) * RACING_VISITS
    chosen += rng.sample(more, min(len(more), len(chosen)))
    still = [entry for entry in often if entry in chosen]
    wanted = len(chosen) // max(LAYERS_PER_WHOLE, layers // MOST_WHOLES)
    chosen += list(itertools.islice(itertools.cycle(still), max(0, wanted - len(still))))
    rng.shuffle(chosen)
    # A sentinel that the target cannot run, or dies of, is done without.
    sentinels = [-1 - i for i in range(len(SENTINELS)) if -1 - i not in failed]
    rng.shuffle(sentinels)
    following = itertools.cycle(sentinels)
    order: list[int] = []
    for i, entry in enumerate(chosen):
        if sentinels and i % protocol.sentinel_every == 0:
            order.append(next(following))
        order.append(entry)
    if sentinels:
        order.append(next(following))
    return order

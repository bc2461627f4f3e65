"""Walks: layers that run one after another as in a network, each timed where it stands.

What a layer finds is made by what ran before it: its input was just written, its weights and its code have been pushed
out of the caches as far as the other layers push them, its output takes memory that was given back a moment ago.
Nothing of that has to be imitated where a network runs: its layers are timed in their places. Layers of no network at
hand are put into *chains*, as long as the networks that they are for, from large images to small ones; what each of
them reads is written just before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod

import msgspec

from lut import Layer, Network

__all__ = ["Step", "Walk", "chains", "resolution", "walk_of"]


class Step(msgspec.Struct, frozen=True, array_like=True):
    """A place of a walk: a layer's entry, and for each input the earlier step whose output it takes.

    ``None`` stands for an input that no layer of the walk makes, as do inputs that are missing at the end.
    """

    entry: int
    operands: tuple[int | None, ...] = ()


Walk = tuple[Step, ...]


def walk_of(network: Network, number: Mapping[Layer, int]) -> Walk:
    """Return a network as a walk: its layers in order, repeated ones as often as they stand there.

    Args:
        network: what runs.
        number: its layers' entries.
    """
    steps: list[Step] = []
    place: dict[str, int] = {}
    for item in network.layers:
        previous = len(steps) - 1 if steps else None
        operands = tuple(place.get(name) for name in item.inputs) or (previous,)
        for _ in range(item.count):
            steps.append(Step(number[item.layer], operands))
            operands = (len(steps) - 1,)
        place[item.name] = len(steps) - 1
    return tuple(steps)


def resolution(layer: Layer) -> int:
    """Return how many positions a layer's first input has; networks go from many to few."""
    return prod(layer.inputs[0][1:])


def chains(
    entries: Iterable[int], length: int, need: Callable[[int], int], memory_bytes: int
) -> Sequence[Sequence[int]]:
    """Return entries in chains of ``length``, in the order given; none holds an entry twice or needs more memory.

    Args:
        entries: what is to run, in a random order.
        length: of a chain at the most.
        need: bytes that an entry holds while it is visited.
        memory_bytes: what a chain may need; an entry that needs more by itself is a chain by itself.
    """
    waiting = list(entries)
    found: list[list[int]] = []
    while waiting:
        chain: list[int] = []
        later: list[int] = []
        size = 0
        for position, entry in enumerate(waiting):
            if len(chain) == length:
                later += waiting[position:]
                break
            if entry not in chain and (not chain or size + need(entry) <= memory_bytes):
                chain.append(entry)
                size += need(entry)
            else:
                later.append(entry)
        found.append(chain)
        waiting = later
    return found

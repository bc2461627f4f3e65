"""Adaptive sampling: few layers first, then those that tell most, until whole networks are predicted well enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from lut import Device, Layer, Network, Setting, UsageError
from lut._option_names import option_text
from lut._records import Ended, SamplingRecord
from lut._suggest import as_share
from predictors import LatencyPredictor
from predictors._evidence import operators_in
from predictors._latency_predictor import LEAST_LAYERS
from predictors._sampling import next_layers

__all__ = ["Adaptive", "Sampler"]

# Layers of the first look: a coarse grid of what the networks are made of.
FIRST = 24
# Each further look adds this share of the layers that are already measured, and so many at the least.
GROWTH, LEAST = 0.25, 12
# Whole networks without which an error on held-out ones says nothing.
LEAST_NETWORKS = 10
# The least and the largest.
TARGET_ERRORS = (0.001, 1.0)


class Adaptive(NamedTuple):
    """What adaptive sampling aims at.

    Args:
        networks: a sample of those that latencies are wanted of; none of them is measured whole.
        target_error: mean relative error on held-out networks at which measuring stops.
    """

    networks: tuple[Network, ...]
    target_error: float = 0.03

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that may be measured."""
        return tuple(dict.fromkeys(item.layer for network in self.networks for item in network.layers))

    def check(self, wholes: int) -> None:
        """Raise :class:`~lut.UsageError` unless this can be done with so many whole networks."""
        low, high = TARGET_ERRORS
        if not low <= self.target_error <= high:
            raise UsageError(
                f"a target error is a share between {low:g} and {high:g} (0.03 is 3 %), "
                f"got {self.target_error:g}{as_share(self.target_error, low, high)}"
            )
        if wholes < LEAST_NETWORKS:
            raise UsageError(
                f"adaptive sampling stops by its error on whole networks and needs {LEAST_NETWORKS} of them, got "
                f"{wholes}: {option_text('audit', 30)}"
            )


class Sampler:
    """Which entries of a plan are open, and which come next. Final.

    Args:
        aim: what is wanted.
        entries: the plan's layers.
        wholes: the networks that are measured whole, numbered after the last layer.
        seed: of the predictor that is fitted in between.
    """

    def __init__(self, aim: Adaptive, entries: Sequence[Layer], wholes: Sequence[Network], seed: int) -> None:
        self._aim = aim
        self._entries = entries
        self._wholes = wholes
        self._seed = seed
        self._number = {layer: i for i, layer in enumerate(entries)}
        self.opened: set[int] = set(range(len(entries), len(entries) + len(wholes)))
        self.opened.update(self._number[layer] for layer in next_layers(aim.networks, count=FIRST))
        self.error: float | None = None
        self.ended: Ended = "out of time"
        self.done = False

    @property
    def record(self) -> SamplingRecord:
        """What the table says of how its layers were chosen."""
        return SamplingRecord(target_error=self._aim.target_error, error=self.error, ended=self.ended)

    @property
    def open_layers(self) -> int:
        """How many layers were chosen so far."""
        return len(self.opened) - len(self._wholes)

    def reopen(self, visited: Iterable[int]) -> None:
        """Take up what an interrupted run had chosen."""
        self.opened.update(entry for entry in visited if 0 <= entry < len(self._entries))

    def extend(
        self,
        device: Device,
        setting: Setting,
        ms: Mapping[int, float],
        failed: Iterable[int],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Open further layers, or find that it is enough.

        Args:
            device: what is measured on.
            setting: how.
            ms: latencies so far, by entry.
            failed: entries that could not be measured.
            tell: told what is being done.
        """
        broken = {self._entries[entry] for entry in failed if 0 <= entry < len(self._entries)}
        measured = {self._entries[entry]: value for entry, value in ms.items() if 0 <= entry < len(self._entries)}
        first = len(self._entries)
        whole = [
            (network, ms[first + i])
            for i, network in enumerate(self._wholes)
            if first + i in ms and not broken.intersection(item.layer for item in network.layers)
        ]
        tell("fitting")
        covered = operators_in(measured)
        known = [
            (network, value)
            for network, value in whole
            if operators_in(item.layer for item in network.layers) <= covered
        ]
        model = None
        if len(measured) >= LEAST_LAYERS:
            predictor = LatencyPredictor.from_latencies(device, setting, measured, networks=known, seed=self._seed)
            model = predictor.model
            if len(known) >= LEAST_NETWORKS:
                self.error = predictor.held_out_networks.mape
                if self.error is not None and self.error <= self._aim.target_error:
                    self.ended, self.done = "met", True
                    return
        tell("choosing layers")
        chosen = next_layers(
            self._aim.networks,
            count=max(LEAST, round(GROWTH * self.open_layers)),
            measured={*measured, *broken},
            model=model,
        )
        # Layers that were chosen and could not be measured are not chosen again.
        new = {self._number[layer] for layer in chosen} - self.opened
        if not new:
            self.ended, self.done = "nothing left", True
        self.opened |= new

"""The one small interface that every target implements, and how targets are found."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, NamedTuple, TypeVar

from lut import Device, Layer, Setting, UsageError
from lut._records import Software
from lut.errors import TargetUnavailableError

__all__ = ["Target", "TargetSpec", "available_targets", "load_target", "target_spec"]

PreparedT = TypeVar("PreparedT")


class Target(ABC, Generic[PreparedT]):
    """Where layers run. A target is made in the process that measures, and lives as long as that process.

    Subclasses are final. Their constructor takes the setting as keyword arguments (``batch``, ``dtype``, ``threads``,
    ``memory_format``) and raises :class:`~lut.errors.TargetUnavailableError` where it cannot work. Any exception of
    the runtime that :meth:`prepare` or :meth:`run` lets through becomes the layer's failure entry; a target maps what
    deserves a better reason, such as exhausted memory, to :class:`~lut.errors.LayerFailedError` itself.
    """

    @abstractmethod
    def describe(self) -> tuple[Device, Setting, Software]:
        """Return the provenance that goes into the table."""

    @abstractmethod
    def prepare(self, layer: Layer, seed: int) -> PreparedT:
        """Return whatever :meth:`run` needs: weights and inputs, drawn from ``seed``; not timed."""

    @abstractmethod
    def run(self, prepared: PreparedT, calls: int) -> int:
        """Run the layer ``calls`` times and return the elapsed nanoseconds by the target's own clock."""

    def relocate(self, prepared: PreparedT, rng: random.Random) -> None:
        """Move the layer's data to other addresses, so that no visit inherits another's luck; optional, not timed."""

    def implementation(self, prepared: PreparedT) -> str | None:  # noqa: ARG002 - for those that know
        """Return which kernel runs the layer, where the runtime tells; called once per layer, not timed."""
        return None

    def release(self, prepared: PreparedT) -> None:
        """Give back what :meth:`prepare` took."""

    def preemptions_and_faults(self) -> tuple[int, int]:
        """Return running counts of involuntary context switches and page faults; read around every block."""
        return 0, 0

    def stolen_and_throttled(self) -> tuple[int, int]:
        """Return running counts of stolen CPU ticks and quota throttling; read around every visit."""
        return 0, 0

    def close(self) -> None:
        """Give back everything."""

    def clock(self) -> float:
        """Return the seconds of a monotonic clock that visits are dated by; a simulated target has its own."""
        return time.monotonic()


class TargetSpec(NamedTuple):
    """A target by name, with its setting: plain data that another process can make the target from."""

    factory: str
    options: Mapping[str, Any]


def available_targets() -> dict[str, str]:
    """Return the installed targets: names → ``module:attribute`` (entry point group ``latency_lut.targets``)."""
    return {point.name: point.value for point in entry_points(group="latency_lut.targets")}


def target_spec(name: str, **options: Any) -> TargetSpec:
    """Return the spec of an installed target.

    Raises:
        UsageError: no target has this name.
    """
    targets = available_targets()
    if name not in targets:
        known = ", ".join(sorted(targets)) or "none: is latency-lut installed? pip install -e ."
        raise UsageError(f"unknown target {name!r}; installed: {known}")
    return TargetSpec(targets[name], options)


def load_target(spec: TargetSpec) -> Target[Any]:
    """Make the target; its framework is imported here and nowhere earlier.

    Raises:
        TargetUnavailableError: its framework is not installed, or it cannot run here.
    """
    module, _, attribute = spec.factory.partition(":")
    try:
        factory = getattr(import_module(module), attribute)
        target: Target[Any] = factory(**spec.options)
    except ModuleNotFoundError as error:
        raise TargetUnavailableError(
            f"target {spec.factory} needs the package {error.name!r}, which is not installed: pip install {error.name}"
        ) from None
    return target

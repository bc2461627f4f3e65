"""The one small interface that every target implements, and how targets are found."""

from __future__ import annotations

import contextlib
import inspect
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from lut import Device, Layer, Network, Setting, UsageError
from lut._records import RejectionCause, Software
from lut._suggest import did_you_mean, unknown
from lut.errors import LayerFailedError, TargetUnavailableError
from profiler._options import option_names
from profiler._sources import NetworkSource

__all__ = [
    "Observation",
    "Part",
    "Place",
    "Target",
    "TargetSpec",
    "as_flag",
    "available_targets",
    "load_target",
    "offered_options",
    "target_factory",
    "target_spec",
]

PreparedT = TypeVar("PreparedT")

# Of samples in a call and of threads: what a table can say.
LARGEST_NUMBER = 2**31 - 1


class Part(NamedTuple):
    """A program whose latency enters a layer's with a weight: 1 for the layer itself, less for what is subtracted."""

    prepared: Any
    weight: float


class Place(NamedTuple):
    """A layer's place in a walk, and for each of its inputs the earlier place whose output it takes.

    ``None``, or nothing at all: the target writes that input just before.
    """

    prepared: Any
    operands: tuple[int | None, ...] = ()


# What people call a target, by its name.
OTHER_NAMES = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "ort": "onnx",
    "onnxruntime": "onnx",
    "ane": "coreml",
    "iphone": "coreml",
}
# Targets with an extra of the same name, of this package.
EXTRAS = ("onnx", "coreml", "cuda")


class Observation(NamedTuple):
    """What a target saw during a visit, beside the latency.

    ``also``: other numbers, each name ending in its unit (``host_ms``, ``sm_mhz``); ``cause``: why the visit must not
    count, ``None`` if it may.
    """

    also: Mapping[str, float] = MappingProxyType({})
    cause: RejectionCause | None = None


class Target(ABC, Generic[PreparedT]):
    """Where layers run. A target is made in the process that measures, and lives as long as that process.

    Subclasses are final. Their module can be imported without the runtime that they need; their constructor takes the
    setting as keyword arguments, each with a default, imports the runtime, and raises
    :class:`~lut.errors.TargetUnavailableError` where it cannot work. Of the options, ``batch``, ``dtype``, ``threads``
    and ``memory_format`` are known to every command; a target takes those that mean something to it. Whatever the
    runtime raises in :meth:`prepare` or :meth:`run`, a target turns into :class:`~lut.errors.LayerFailedError`, with
    the reason ``out_of_memory`` where that is what happened.
    """

    namespaces: frozenset[str] = frozenset()
    """Of operators that layers may call beside PyTorch's own: those that the user's own file registers. Set once, by
    the process that measures, before any layer is prepared."""

    least_block_ms: ClassVar[float] = 0.0
    """Blocks are no shorter than this: what the target's clock can resolve well."""

    least_processes: ClassVar[int] = 1
    """A layer known well enough has been visited by so many processes at least, in a quick run too."""

    goes_along: ClassVar[bool] = False
    """Whether layers can be timed in the places of networks: what a plan asks before there is a target."""

    @property
    def slow_to_prepare(self) -> bool:
        """Whether preparing takes so long, as compiling does, that it must not count as time spent measuring."""
        return False

    @property
    def together(self) -> int:
        """How many layers are visited together: 1 to time each by itself; more for a call of each in turn, or, where
        the target :attr:`walks`, for chains of so many.
        """
        return 1

    @property
    def walks(self) -> bool:
        """Whether layers are timed where they stand in networks and chains, by :meth:`walk`; only with
        :attr:`goes_along`.
        """
        return False

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Raise :class:`~lut.UsageError` unless the options make sense; cheap, and without the runtime."""

    @classmethod
    def check_available(cls, **options: Any) -> None:
        """Raise :class:`~lut.errors.TargetUnavailableError` where the target cannot run here, as far as that is known
        within a second; the constructor finds the rest. Called before anything is traced.
        """

    @classmethod
    def defaults(
        cls,
        layers: Sequence[Layer],  # noqa: ARG003 - for those that look at them
        networks: Sequence[Network] = (),  # noqa: ARG003
    ) -> Mapping[str, Any]:
        """Return the options that depend on what is measured, for those that the user leaves open; ``batch`` is one.

        ``networks`` are measured as a whole, beside the layers.
        """
        return {"batch": 1}

    @abstractmethod
    def describe(self) -> tuple[Device, Setting, Software]:
        """Return the provenance that goes into the table."""

    @abstractmethod
    def prepare(self, layer: Layer, seed: int) -> PreparedT:
        """Return whatever :meth:`run` needs: weights and inputs, drawn from ``seed``; not timed."""

    def prepare_network(self, source: NetworkSource, seed: int) -> PreparedT:
        """Return whatever :meth:`run` needs for a network end to end, timed as one call; not timed.

        Raises:
            LayerFailedError: the target cannot run whole networks, or not this one.
        """
        del seed
        raise LayerFailedError(f"{source.name}: this target does not run whole networks", reason="error")

    @abstractmethod
    def run(self, prepared: PreparedT, calls: int) -> int:
        """Run the layer ``calls`` times and return the elapsed nanoseconds by the target's own clock."""

    def walk(self, places: Sequence[Place], note: Callable[[int], None]) -> None:
        """Run places in order, once, and tell each one's nanoseconds before the next one begins."""
        for place in places:
            note(self.run(place.prepared, 1))

    def prepared_bytes(self, layer: Layer, batch: int) -> int:
        """Return about how many bytes of this machine's memory a prepared layer holds: an estimate that bounds it."""
        # The data and its movable copy, at four bytes an element.
        return 3 * layer.bytes_moved(batch=batch, bytes_per_element=4)

    def parts(self, prepared: PreparedT) -> Sequence[Part]:
        """Return the programs that :meth:`run` times; the layer's latency is the weighted sum of theirs."""
        return (Part(prepared, 1.0),)

    def origin(self, prepared: PreparedT) -> Literal["measured", "marginal"]:
        """Return how the layer's value comes about: ``marginal`` where something is subtracted."""
        return "measured" if len(self.parts(prepared)) == 1 else "marginal"

    def observe(self, prepared: PreparedT) -> Observation:  # noqa: ARG002 - for those that see something
        """Return what was seen during the visit that has just been timed; called once after its blocks."""
        return Observation()

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


def as_flag(option: str) -> str:
    """Return an option as a command has it: ``--memory-format``."""
    return "--" + option.replace("_", "-")


def offered_options(factory: Callable[..., Any]) -> tuple[str, ...]:
    """Return a target's options that are for people: not those that it derives from the layers, its ``defaults``."""
    names = option_names(factory)
    if not (isinstance(factory, type) and issubclass(factory, Target)):
        return names
    derived: Mapping[str, Any] = {}
    # Another's target may have no answer where there are no layers.
    with contextlib.suppress(Exception):
        derived = factory.defaults(())
    return tuple(name for name in names if name == "batch" or name not in derived)


def target_spec(
    name: str,
    layers: Sequence[Layer],
    networks: Sequence[Network] = (),
    *,
    spelled: Callable[[str], str] = as_flag,
    **options: Any,
) -> TargetSpec:
    """Return the spec of an installed target for these layers; options that are ``None`` are left to the target.

    ``networks`` are measured as a whole, beside the layers; ``spelled`` is how errors write an option.

    Raises:
        UsageError: no target has this name, or it does not know an option or its value.
        TargetUnavailableError: a package that the target's module itself needs is not installed.
    """
    targets = available_targets()
    if name not in targets:
        raise _unknown_target(name, targets)
    factory = target_factory(targets[name])
    given = {key: value for key, value in options.items() if value is not None}
    known_options = set(inspect.signature(factory).parameters)
    defaults: Mapping[str, Any] = {}
    if isinstance(factory, type) and issubclass(factory, Target):
        defaults = factory.defaults(layers, networks)
    if strange := sorted(given.keys() - known_options):
        offered = offered_options(factory)
        raise UsageError(
            f"target {name} has no option {', '.join(map(spelled, strange))}; it has "
            + ", ".join(sorted(map(spelled, offered)))
            + did_you_mean(strange[0], offered)
        )
    for option in ("batch", "threads"):
        number = given.get(option)
        if isinstance(number, int) and not 1 <= number <= LARGEST_NUMBER:
            raise UsageError(f"{spelled(option)} is between 1 and {LARGEST_NUMBER}, got {number}")
    if isinstance(factory, type) and issubclass(factory, Target):
        factory.check_options(**given)
    return TargetSpec(targets[name], {**defaults, **given})


def _unknown_target(name: str, targets: Mapping[str, str]) -> UsageError:
    meant = OTHER_NAMES.get(name.lower())
    if meant in targets:
        return UsageError(f"unknown target {name!r}; did you mean {meant!r}? Installed: {', '.join(sorted(targets))}")
    return UsageError(unknown("target", name, targets, none="none: is latency-lut installed? pip install -e ."))


def check_available(name: str, **options: Any) -> None:
    """Raise where an installed target cannot run here, as far as that is known without measuring.

    Raises:
        UsageError: no target has this name.
        TargetUnavailableError: it cannot run here.
    """
    targets = available_targets()
    if name not in targets:
        raise _unknown_target(name, targets)
    factory = target_factory(targets[name])
    if isinstance(factory, type) and issubclass(factory, Target):
        factory.check_available(**{key: value for key, value in options.items() if value is not None})


def target_factory(place: str) -> Callable[..., Target[Any]]:
    """Return what makes a target, from its ``module:attribute``; its framework is not imported.

    Raises:
        TargetUnavailableError: the module, or what it needs, is not there.
    """
    module, _, attribute = place.partition(":")
    try:
        made: Callable[..., Target[Any]] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise missing_package(place, error.name) from None
    except AttributeError:
        raise TargetUnavailableError(f"target {place}: the module {module} has no {attribute}") from None
    return made


def missing_package(target: str, package: str | None) -> TargetUnavailableError:
    """Return the error of a target that needs a package that is not installed; ``target``: its name or factory."""
    name = next((name for name, factory in available_targets().items() if factory == target), target)
    how = f"pip install {package}"
    if name in EXTRAS:
        # In a clone, whose package index has no latency-lut.
        how = f"pip install -e '.[{name}]' installs all that it needs"
    return TargetUnavailableError(f"target {name} needs the package {package!r}, which is not installed: {how}")


def load_target(spec: TargetSpec) -> Target[Any]:
    """Make the target; its framework is imported here and nowhere earlier.

    Raises:
        TargetUnavailableError: its framework is not installed, or it cannot run here.
    """
    factory = target_factory(spec.factory)
    try:
        return factory(**spec.options)
    except ModuleNotFoundError as error:
        raise missing_package(spec.factory, error.name) from None

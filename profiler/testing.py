"""For authors of targets: does a target keep what :class:`profiler.Target` promises? To be called in a test."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from lut import Device, Layer, LayerError, Node, Setting, Software, UsageError, conv_norm_act, linear, residual_add
from lut.errors import LayerFailedError
from lut.primitives import Activation, Conv2d
from profiler._options import check_known, option_names
from profiler._plan import make_protocol
from profiler._target import Target, TargetSpec, load_target, target_factory
from profiler._visit import LayerFailure, Visit, Visitor

__all__ = ["check_target", "example_layers"]

SEED = 5
# Twenty times as many calls take longer, by a factor that no busy machine hides: the fastest of some runs of each.
CALLS, MORE_CALLS, GROWTH, RUNS = 5, 100, 2.0, 5


def example_layers() -> tuple[Layer, ...]:
    """Return small layers of different kinds, for targets that know all primitives."""
    image = (16, 16)
    return (
        conv_norm_act(8, 8, kernel_size=3, stride=1, activation="relu", input_size=image),
        conv_norm_act(3, 12, kernel_size=3, stride=2, activation=None, input_size=image),
        residual_add(8, activation="relu", input_size=(8, 8)),
        linear(96, 20, bias=True),
    )


def check_target(spec: TargetSpec, layers: Sequence[Layer] | None = None) -> None:
    """Raise unless a target keeps its promises, in this process.

    It says what it measures on in records that a table can hold, the same each time; it runs each layer, in whole
    nanoseconds that grow with the calls; parts have weights that make sense; layers that are released, once or twice,
    leave the others alone; a layer that it does not know is that layer's failure, in one line; visits by the profiler's
    own protocol come out right.

    Args:
        spec: the target: its factory and the options to make it with.
        layers: that it can run, two at least; by default :func:`example_layers`.

    Raises:
        AssertionError: a promise is broken; says which.
        TargetUnavailableError: the target cannot run here.
        UsageError: fewer than two layers are given.
    """
    wanted = tuple(example_layers() if layers is None else layers)
    if len(wanted) < 2:
        raise UsageError(f"a target is tried with two layers at least, got {len(wanted)}")
    check_known(f"target {spec.factory}", list(spec.options), option_names(target_factory(spec.factory)))
    target = load_target(spec)
    try:
        _check_records(target)
        for layer in wanted:
            _check_layer(target, layer)
        _check_release(target, wanted[0], wanted[1])
        _check_unknown(target)
        _check_visits(target, wanted)
    finally:
        target.close()
    target.close()


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise AssertionError(problem)


def _check_records(target: Target[Any]) -> None:
    described = target.describe()
    for record, kind in zip(described, (Device, Setting, Software), strict=True):
        _require(isinstance(record, kind), f"describe() gives {type(record).__name__} where a {kind.__name__} belongs")
        try:
            again = msgspec.json.decode(msgspec.json.encode(record), type=kind)
        except msgspec.MsgspecError as error:
            raise AssertionError(f"describe(): no table can hold its {kind.__name__}: {error}") from None
        _require(again == record, f"describe(): its {kind.__name__} is another once it is written and read")
    _require(target.describe() == described, "describe() gives something else when it is called again")


def _check_layer(target: Target[Any], layer: Layer) -> None:
    prepared = target.prepare(layer, SEED)
    target.relocate(prepared, random.Random(0))  # noqa: S311 - no secret
    parts = list(target.parts(prepared))
    _require(bool(parts), f"parts() of {layer} is empty")
    weights = [part.weight for part in parts]
    if len(parts) == 1:
        _require(weights == [1.0], f"parts() of {layer}: one program by itself has the weight 1, got {weights[0]}")
    else:
        _require(
            abs(sum(weights)) < 1e-9, f"parts() of {layer}: what all programs cost must cancel, got weights {weights}"
        )
    for part in parts:
        target.run(part.prepared, 1)
        runs = [(target.run(part.prepared, CALLS), target.run(part.prepared, MORE_CALLS)) for _ in range(RUNS)]
        for ns in (ns for pair in runs for ns in pair):
            _require(type(ns) is int and ns > 0, f"run() of {layer} gives {ns!r}: nanoseconds are a positive int")
        few, many = map(min, zip(*runs, strict=True))
        _require(
            many > GROWTH * few, f"run() of {layer}: {MORE_CALLS} calls take {many} ns and {CALLS} of them {few} ns"
        )
    _require(target.prepared_bytes(layer, 1) > 0, f"prepared_bytes() of {layer} is not positive")
    target.observe(prepared)
    target.implementation(prepared)
    target.release(prepared)


def _check_release(target: Target[Any], first: Layer, second: Layer) -> None:
    one, other = target.prepare(first, SEED), target.prepare(second, SEED)
    target.release(one)
    target.release(one)
    for part in target.parts(other):
        _require(target.run(part.prepared, 1) > 0, f"{second} does not run any more once {first} was released")
    target.release(other)
    again = target.prepare(first, SEED)
    _require(target.run(target.parts(again)[0].prepared, 1) > 0, f"{first} does not run once it was released before")
    target.release(again)


def _check_unknown(target: Target[Any]) -> None:
    """A layer that no memory holds: whatever a target makes of it, it is that layer's failure."""
    needs = Node(Conv2d(out_channels=1 << 20, kernel_size=(7, 7), stride=(1, 1), padding=(3, 3)), (0,))
    layer = Layer(((1 << 20, 64, 64),), (needs, Node(Activation(kind="relu"), (1,))))
    try:
        prepared = target.prepare(layer, SEED)
        target.run(target.parts(prepared)[0].prepared, 1)
    except LayerFailedError as error:
        _require(bool(str(error)) and "\n" not in str(error), f"an error about a layer is one line, got {str(error)!r}")
    except LayerError as error:
        raise AssertionError(f"a layer that cannot be run is a LayerFailedError, got {error}") from None
    except Exception as error:
        raise AssertionError(
            f"a layer that cannot be run is a LayerFailedError; {type(error).__name__} came out: {error}"
        ) from None
    else:
        # It knows the layer, and has the memory; a simulated device has.
        target.release(prepared)


def _check_visits(target: Target[Any], layers: tuple[Layer, ...]) -> None:
    protocol = make_protocol(time_budget_s=10.0, seed=1)
    visitor = Visitor(target, layers, protocol, process=0, origin=target.clock())
    order = list(range(len(layers)))
    found = [event for step in visitor.visits(order) for event in step()]
    failed = [event for event in found if isinstance(event, LayerFailure)]
    _require(
        not failed, f"a visit to {layers[failed[0].entry] if failed else ''} failed: {failed and failed[0].message}"
    )
    visits = [event for event in found if isinstance(event, Visit)]
    _require(sorted(visit.entry for visit in visits) == order, "a visit to each layer gives one latency for each")
    for visit in visits:
        _require(visit.ms > 0 and visit.calls >= 1, f"a visit to {layers[visit.entry]} found {visit.ms} ms")

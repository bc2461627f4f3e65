"""The kits for authors of spaces and targets: ours pass them, and what is broken is named."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from _predictors import Tiny, tiny_predictor
from _targets import process_settings
from conftest import conv

from lut import ChannelCurve, Decision, Layer, LayerSlot, Network, NetworkLayer, UsageError, linear
from lut.testing import check_space
from predictors import LatencyPredictor
from profiler import FakeTarget, TargetSpec
from profiler.testing import check_target, example_layers

EXAMPLE = Path(__file__).parent.parent / "examples" / "target_plugin"


class Right(Tiny):
    """A space that keeps its promises."""

    def decode(self, vector: Sequence[int]) -> Network:
        counts = [len(decision.options) for decision in self.choices]
        if len(vector) != len(counts) or not all(0 <= i < n for i, n in zip(vector, counts, strict=True)):
            raise UsageError("no such vector")
        return super().decode(vector)


class Forgetful(Right):
    def layers(self) -> tuple[Layer, ...]:
        return super().layers()[:-1]


class Doubled(Right):
    def layers(self) -> tuple[Layer, ...]:
        return (*super().layers(), super().layers()[0])


class Restless(Right):
    def sample(self, rng: random.Random) -> tuple[int, ...]:
        return super().sample(random.Random(f"{rng.random()} {random.random()}"))


class Beyond(Right):
    def sample_quick(self, rng: random.Random) -> tuple[int, ...]:
        return (99, *self.sample(rng)[1:])


class Lax(Right):
    def decode(self, vector: Sequence[int]) -> Network:
        return super().decode((*vector, *[0] * 7)[: len(self.choices)])


class Crashing(Right):
    def decode(self, vector: Sequence[int]) -> Network:
        if len(vector) != len(self.choices):
            raise IndexError("list index out of range")
        return super().decode(vector)


class Drifting(Right):
    def canonical(self, vector: Sequence[int]) -> tuple[int, ...]:
        return ((vector[0] + 1) % 3, *vector[1:])


class Merging(Right):
    def canonical(self, vector: Sequence[int]) -> tuple[int, ...]:
        return (0,) * len(vector)


class Unslotted(Right):
    def slots(self) -> list[LayerSlot]:
        return super().slots()[1:]


class Twice(Right):
    @property
    def choices(self) -> tuple[Decision, ...]:
        first, *others = super().choices
        return (first, *others[:-1], Decision(first.name, others[-1].options, kind="width"))


class Curved(Right):
    def curves(self) -> tuple[ChannelCurve, ...]:  # type: ignore[override]
        return (ChannelCurve("odd", 8, (conv(7), conv(9))),)


class Torn(Right):
    def published(self) -> Any:
        layers = (NetworkLayer("a", conv(8)), NetworkLayer("b", linear(3, 4, bias=True)))
        return {"torn": lambda: Network("torn", layers)}


def test_a_space_that_keeps_its_promises_passes() -> None:
    check_space(Right())
    predictor = tiny_predictor()
    check_space(Right(), cost=predictor.compile(Right()).latency, cost_of=predictor.latency_ms)


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        (Forgetful(), "none of layers|differs from it in channel counts only"),
        (Doubled(), "names a layer twice"),
        (Restless(), r"sample\(\) draws other vectors from the same seed"),
        (Beyond(), r"sample_quick\(\) gave .*which its choices do not have"),
        (Lax(), "that is no vector of its choices"),
        (Crashing(), r"decode\(.*\) raises IndexError"),
        (Drifting(), r"canonical\(\) of .* is another vector"),
        (Merging(), "has other layers than that of its canonical vector"),
        (Unslotted(), "its slots say of .*too few of conv"),
        (Twice(), "two decisions are called 'neck'"),
        (Curved(), "curve 'odd' has layers that are not in layers"),
        (Torn(), "the published network 'torn' cannot be run"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Tiny) else "",
)
def test_a_broken_promise_is_named(space: Tiny, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_space(space)


def test_arrays_that_say_something_else_are_named() -> None:
    predictor: LatencyPredictor = tiny_predictor()
    with pytest.raises(AssertionError, match=r"the arrays say .*and its layers"):
        check_space(Right(), cost=predictor.compile(Right()).latency, cost_of=lambda n: 2 * predictor.latency_ms(n))


class Broken(FakeTarget):
    """A simulated device with one fault."""

    fault = ""

    def run(self, prepared: Any, calls: int) -> Any:
        if self.fault == "seconds":
            return super().run(prepared, calls) / 1e9
        return 1000 if self.fault == "constant" else super().run(prepared, calls)

    def prepare(self, layer: Layer, seed: int) -> Any:
        if self.fault == "raises" and layer.inputs[0][0] > 1000:
            raise RuntimeError("the runtime's own error")
        return super().prepare(layer, seed)

    def describe(self) -> Any:
        found = super().describe()
        return ("a device", *found[1:]) if self.fault == "describe" else found


def test_targets_that_keep_their_promises_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    check_target(TargetSpec("profiler:FakeTarget", {}))
    with process_settings():
        check_target(TargetSpec("profiler:CpuTarget", {"batch": 1, "threads": 1}))
        monkeypatch.syspath_prepend(EXAMPLE)
        layers = (linear(64, 10, bias=True), linear(32, 20, bias=True))
        check_target(TargetSpec("numpy_target:NumpyTarget", {"batch": 8}), layers)
    with pytest.raises(UsageError, match="two layers at least"):
        check_target(TargetSpec("profiler:FakeTarget", {}), example_layers()[:1])


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("seconds", "nanoseconds are a positive int"),
        ("constant", "100 calls take 1000 ns"),
        ("raises", "RuntimeError came out: the runtime's own error"),
        ("describe", r"describe\(\) gives str where a Device belongs"),
    ],
)
def test_a_fault_of_a_target_is_named(fault: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "fault", fault)
    with pytest.raises(AssertionError, match=problem):
        check_target(TargetSpec(f"{__name__}:Broken", {}))

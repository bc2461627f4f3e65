"""What every target promises, asked of all of them: on this machine's runtimes, and on simulated devices.

A target that is installed and stands in no rig of ``_targets.py`` fails the first test. Where a package or the
hardware is absent, its tests skip and say what is missing.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from _targets import (
    BATCH,
    RIGS,
    Comparison,
    CountingClock,
    Rig,
    every_exception,
    example,
    process_settings,
    resident_bytes,
)
from conftest import conv

from lut import LatencyTable, Layer, Node, chain, linear, residual_add
from lut._records import Context
from lut.errors import LayerFailedError
from lut.primitives import Activation, BatchNorm2d, ChannelShuffle, Concat, Conv2d, GlobalAvgPool2d, Mul
from profiler._plan import make_protocol
from profiler._target import Part, Target, available_targets
from profiler._visit import Visit, Visitor

SMALL = conv(8, size=16)
OTHER = conv(12, size=16)
GATE = Layer(
    ((8, 12, 12), (8, 12, 12)),
    (
        Node(Conv2d(out_channels=8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=True), (0,)),
        Node(GlobalAvgPool2d(), (2,)),
        Node(Activation(kind="sigmoid"), (3,)),
        Node(Mul(), (1, 4)),
        Node(Concat(), (5, 0)),
    ),
)
SHUFFLED = chain(
    (12, 8, 8),
    ChannelShuffle(groups=3),
    Conv2d(out_channels=24, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0), groups=3),
    BatchNorm2d(),
)
LAYERS = [
    SMALL,
    conv(10, channels=3, size=16),
    residual_add(8, activation="relu", input_size=(8, 8)),
    # Large enough that copies of it outgrow a GPU's cache before they are too many.
    linear(96, 20, bias=True),
    GATE,
    SHUFFLED,
    chain((12, 8, 8), ChannelShuffle(groups=4)),
]
SEED = 5
# Relative to the largest value: rounding in another order of summation.
AGREE = 1e-4


@pytest.fixture(autouse=True)
def _own_process_settings() -> Iterator[None]:
    with process_settings():
        yield


@pytest.fixture(params=RIGS, ids=str)
def rig(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    made: Rig = request.param
    # What was compiled once serves all tests.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "inductor"))
    with contextlib.ExitStack() as stack:
        made.enter(monkeypatch, stack)
        yield made


def layers_of(rig: Rig) -> list[Layer]:
    return LAYERS[:1] if rig.small() else LAYERS


def lone_parts(target: Target[Any], prepared: Any) -> list[Part]:
    """Return the parts, each of them checked to be what a visit makes of it."""
    parts = list(target.parts(prepared))
    assert parts
    return parts


def test_every_installed_target_is_asked() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition('[project.entry-points."latency_lut.targets"]\n')[2].partition("\n[")[0]
    declared = set(re.findall(r"^([\w-]+) = ", section, re.MULTILINE))
    assert {"cpu", "cuda", "onnx", "coreml"} <= declared
    assert set(available_targets()) | declared <= {rig.target for rig in RIGS}
    contexts = {(rig.target, rig.options.get("context")) for rig in RIGS}
    assert {(name, context) for name in ("cpu", "onnx", "coreml") for context in ("network", "isolated")} <= contexts
    assert len({str(rig) for rig in RIGS}) == len(RIGS)


def test_nanoseconds_are_whole_positive_and_grow_with_the_calls(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    target = rig.make()
    for layer in layers_of(rig):
        prepared = target.prepare(layer, SEED)
        target.relocate(prepared, random.Random(0))
        for part in lone_parts(target, prepared):
            target.run(part.prepared, 3)
            clock = CountingClock()
            with monkeypatch.context() as patch:
                counted = rig.set_clock(clock, part.prepared)
                if counted:
                    patch.setattr(time, "perf_counter_ns", clock.read)
                few, many = target.run(part.prepared, 3), target.run(part.prepared, 30)
            assert all(isinstance(ns, int) and ns > 0 for ns in (few, many))
            if counted:
                # What is timed is each call, and nothing else.
                assert (few, many) == (3 * clock.CALL_NS, 30 * clock.CALL_NS), layer
            elif rig.simulated:
                assert 9.0 < many / few < 11.0, layer
        whole = target.run(prepared, 2)
        assert isinstance(whole, int)
        assert whole > 0
        target.release(prepared)


def test_a_device_a_setting_and_software_fit_into_a_table(rig: Rig, make_table: Callable[..., LatencyTable]) -> None:
    table = make_table(range(1, 4), protocol={"time_budget_s": 1.0})
    options = {**rig.options, **rig.settings()}
    target = rig.make(**options)
    device, setting, software = target.describe()
    session = msgspec.structs.replace(table.sessions[0], software=software)
    whole = LatencyTable(device=device, setting=setting, sessions=[session], measurements=table.values())
    found = LatencyTable.from_json(whole.to_json())
    assert (found.device, found.setting, found.sessions[0].software) == (device, setting, software)
    assert len(found) == len(table)
    assert setting.target == rig.target
    for name, value in options.items():
        if name == "context" or hasattr(setting, name):
            assert getattr(setting, name) == value, name
        elif name in setting.options:
            assert setting.options[name].lower().removesuffix("executionprovider") == str(value).lower(), name
        else:
            assert name == "compile"
            assert setting.options["execution"] == "compile"
    assert target.describe()[1:] == (setting, software)
    assert device.kind
    assert device.cores >= device.affinity_cpus >= 1


def test_settings_that_differ_are_told_apart(rig: Rig) -> None:
    """Two tables are mixed where their settings are equal: whatever changes a latency must change the setting."""
    settings = [rig.make().describe()[1]]
    for name, value in rig.settings().items():
        if value != 1 and (name, value) != ("provider", "cpu"):
            settings.append(rig.make(**{name: value}).describe()[1])
    assert len({msgspec.json.encode(setting) for setting in settings}) == len(settings)


def test_the_prepared_programs_compute_what_pytorch_does(rig: Rig) -> None:
    target = rig.make()
    for layer in layers_of(rig):
        prepared = target.prepare(layer, SEED)
        target.relocate(prepared, random.Random(0))
        compared: list[Comparison] | None = None
        if (found := rig.compare(target, prepared, layer, SEED)) is not None:
            compared = list(found)
        if compared is None:
            pytest.skip(f"{rig} computes nothing here")
        assert compared
        for got, expected in compared:
            assert got.shape == expected.shape
            assert got.shape[0] == BATCH
            assert float(expected.abs().max()) > 0.01
            assert float((got - expected).abs().max()) <= AGREE * float(expected.abs().max()), layer
        target.release(prepared)


def test_the_same_seed_gives_the_same_data_and_another_seed_gives_others(rig: Rig) -> None:
    target = rig.make()
    first = target.prepare(SMALL, SEED)
    data = rig.data(target, first)
    if data is None:
        pytest.skip(f"{rig} has no data")
    assert len(data) >= 2
    # What the process drew before, and layers prepared in between, change nothing.
    torch.rand(7)
    between = target.prepare(OTHER, SEED) if not rig.small() else None
    again = target.prepare(SMALL, SEED)
    assert rig.data(target, again) == data
    other = target.prepare(SMALL, SEED + 1)
    changed = rig.data(target, other)
    assert changed is not None
    assert len(changed) == len(data)
    assert all(mine != theirs for mine, theirs in zip(changed, data, strict=True) if len(mine) > 256)
    assert changed != data
    for prepared in (first, between, again, other):
        if prepared is not None:
            target.release(prepared)


def test_preparing_leaves_the_processs_random_numbers_alone(rig: Rig) -> None:
    target = rig.make()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    target.release(target.prepare(SMALL, SEED))
    assert torch.equal(torch.rand(4), expected)


def test_weights_of_parts_make_sense(rig: Rig) -> None:
    target = rig.make()
    origins = set()
    for layer in layers_of(rig):
        prepared = target.prepare(layer, SEED)
        parts = lone_parts(target, prepared)
        weights = [part.weight for part in parts]
        if len(parts) == 1:
            assert weights == [1.0]
        else:
            # What all programs have in common, such as the cost of a call, cancels.
            assert sum(weights) == pytest.approx(0.0, abs=1e-9)
            assert sum(weight for weight in weights if weight > 0) > 0
        origin = target.origin(prepared)
        assert origin == ("measured" if len(parts) == 1 else "marginal")
        origins.add(origin)
        target.release(prepared)
    context: Context = target.describe()[1].context
    if rig.target in ("onnx", "coreml"):
        assert origins == {"marginal" if context == "network" else "measured"}
    else:
        assert origins == {"measured"}


def _unmapped(attempt: Callable[[], object], error: Exception, reason: str) -> str | None:
    """Return how the runtime's error came out, if not as a failure of the layer with the right reason, in one line."""
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    try:
        attempt()
    except LayerFailedError as failure:
        if failure.reason != reason:
            return f"{kind} ({failure}): reason {failure.reason}"
        if "\n" in str(failure) or not str(failure).strip():
            return f"{kind}: message {str(failure)!r}"
        return None
    except Exception as other:
        return f"{kind}: came out as {type(other).__qualname__}"
    return f"{kind}: was swallowed"


def unmapped(rig: Rig, target: Any, where: str, errors: Sequence[Exception], reason: str) -> list[str]:
    """Return which of the runtime's errors came out as something else than the layer's failure for this reason."""
    prepared = target.prepare(SMALL, SEED)
    found = []
    for error in errors:
        if where == "prepare":
            with pytest.MonkeyPatch.context() as patch:
                rig.break_prepare(patch, target, error)
                found.append(_unmapped(lambda: target.prepare(OTHER, SEED), error, reason))
        else:
            rig.break_run(target, prepared, error)
            found.append(_unmapped(lambda: target.run(target.parts(prepared)[0].prepared, 1), error, reason))
    return list(filter(None, found))


@pytest.mark.parametrize("where", ["prepare", "run"])
def test_every_exception_that_a_runtime_defines_fails_the_layer_only(rig: Rig, where: str) -> None:
    if rig.target == "fake":
        pytest.skip("fake has no runtime")
    target = rig.make()
    kinds = every_exception(rig.runtime)
    assert {ValueError, TypeError, IndexError, NotImplementedError, MemoryError, OSError, RuntimeError} <= set(kinds)
    if "torch" in rig.runtime:
        assert torch.OutOfMemoryError in kinds
        assert sum(kind.__module__.startswith("torch") for kind in kinds) > 30
    if rig.target == "onnx":
        assert sum(kind.__module__.startswith("onnxruntime.capi") for kind in kinds) >= 10
    if rig.small():
        assert any(kind.__module__ == "torch._dynamo.exc" for kind in kinds)
    memory = (MemoryError, torch.OutOfMemoryError)
    examples = [error for kind in kinds if not issubclass(kind, memory) and (error := example(kind)) is not None]
    assert len(examples) > 0.9 * len(kinds)
    wrong = unmapped(rig, target, where, examples, "error")
    assert not wrong, "\n".join(wrong)
    # The target itself is not lost.
    sound = target.prepare(OTHER, SEED)
    assert target.run(target.parts(sound)[0].prepared, 1) > 0


@pytest.mark.parametrize("where", ["prepare", "run"])
def test_exhausted_memory_is_told_from_other_errors(rig: Rig, where: str) -> None:
    if rig.target == "fake":
        pytest.skip("fake has no runtime")
    target = rig.make()
    examples: list[Exception] = [MemoryError("no more"), MemoryError()]
    if "torch" in rig.runtime:
        examples.append(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 bytes"))
    examples += [RuntimeError(message) for message in rig.memory_messages]
    wrong = unmapped(rig, target, where, examples, "out_of_memory")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("where", ["prepare", "run"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_never_swallowed(rig: Rig, where: str, kind: type[BaseException]) -> None:
    if rig.target == "fake":
        pytest.skip("fake has no runtime")
    target = rig.make()
    prepared = target.prepare(SMALL, SEED)
    with pytest.MonkeyPatch.context() as patch:
        if where == "prepare":
            rig.break_prepare(patch, target, kind())
            with pytest.raises(kind):
                target.prepare(OTHER, SEED)
        else:
            rig.break_run(target, prepared, kind())
            with pytest.raises(kind):
                target.run(target.parts(prepared)[0].prepared, 1)


def test_memory_is_given_back(rig: Rig) -> None:
    """Each layer holds 16 MiB at least: a target that keeps what it made cannot hide it."""
    if rig.small():
        pytest.skip(f"{rig}: compiling keeps its code, and takes too long to be repeated")
    if rig.simulated and rig.target in ("fake", "coreml"):
        pytest.skip(f"{rig} has no data")
    target = rig.make()

    def once(number: int) -> None:
        layer = chain((8 + number % 3, 256, 256), Conv2d(8, (1, 1), (1, 1), (0, 0)), Activation(kind="tanh"))
        prepared = target.prepare(layer, number)
        for part in target.parts(prepared):
            target.run(part.prepared, 1)
        target.release(prepared)

    for number in range(4):
        once(number)
    before = resident_bytes()
    rounds = 8
    for number in range(4, 4 + rounds):
        once(number)
    # A freed block may stay with the allocator; half of what a layer holds, every time, would be a layer kept.
    assert resident_bytes() - before < rounds * (8 << 20)


def test_releasing_twice_is_releasing_once(rig: Rig) -> None:
    """What two layers share, as programs that are subtracted, stays until the second is released too."""
    target = rig.make()
    first = target.prepare(SMALL, SEED)
    if rig.small():
        target.release(first)
        target.release(first)
        return
    second = target.prepare(OTHER, SEED)
    for prepared in (first, second):
        target.run(target.parts(prepared)[0].prepared, 1)
    target.release(first)
    target.release(first)
    for part in target.parts(second):
        assert target.run(part.prepared, 1) > 0
    target.release(second)
    target.release(second)
    third = target.prepare(SMALL, SEED)
    assert target.run(target.parts(third)[0].prepared, 1) > 0
    target.release(third)
    target.close()
    target.close()


def test_a_layer_that_needs_absurd_memory_is_refused(rig: Rig) -> None:
    """Were it tried, a system that overcommits would kill a process to make room."""
    if rig.simulated or rig.target == "coreml":
        pytest.skip(f"{rig}: the simulated device has no memory to exhaust")
    target = rig.make()
    for layer in (chain((4096, 4096, 4096), Activation(kind="relu")), linear(1 << 20, 1 << 20, bias=False)):
        with pytest.MonkeyPatch.context() as patch:
            if rig.refuses_before_trying:
                rig.break_prepare(patch, target, AssertionError("it was tried"))
            with pytest.raises(LayerFailedError) as caught:
                target.run(target.prepare(layer, SEED), 1)
        assert caught.value.reason == "out_of_memory", str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_visitor_gets_valid_visits(rig: Rig) -> None:
    target = rig.make()
    entries = (SMALL,) if rig.small() else (SMALL, OTHER, residual_add(8, activation="relu", input_size=(8, 8)))
    beats: list[int] = []
    protocol = make_protocol(time_budget_s=10.0, seed=1)
    visitor = Visitor(target, entries, protocol, process=2, origin=target.clock(), beat=beats.append)
    order = list(range(len(entries)))
    steps = list(visitor.visits(order))
    assert len(steps) == -(-len(entries) // target.together)
    for _ in range(2):
        found = [visit for step in visitor.visits(order) for visit in step()]
        assert sorted(visit.entry for visit in found) == order, found
        for visit in found:
            assert isinstance(visit, Visit), visit
            assert visit.process == 2
            assert visit.at_s >= 0
            assert visit.calls >= 1
            assert 1e-6 <= visit.ms < 1e4
            assert msgspec.json.decode(msgspec.json.encode(visit), type=Visit) == visit
    assert set(order) <= set(beats)
    origins = {made.entry: made.origin for made in visitor.implementations}
    assert set(origins) == set(order)
    context = target.describe()[1].context
    marginal = rig.target in ("onnx", "coreml") and context == "network"
    assert set(origins.values()) == {"marginal" if marginal else "measured"}

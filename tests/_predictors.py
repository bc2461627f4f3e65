"""A made device whose latencies are known exactly, a small space of networks, and tables and predictors of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from conftest import simulate, table_of

from lut import (
    Decision,
    Device,
    LatencyTable,
    Layer,
    LayerSlot,
    Measurement,
    Network,
    NetworkLayer,
    SearchSpace,
    Setting,
    conv_norm_act,
    global_pool,
    linear,
)
from lut._records import Failure, Interval, Visits
from predictors import LatencyPredictor
from profiler import FakeTarget
from profiler._sources import subject_of
from search import ResNetCifar

DEVICE = Device(kind="fake", model="made device", architecture="none", system="none", cores=1, affinity_cpus=1)
SETTING = Setting(target="cpu", batch=4, dtype="float32", threads=1, memory_format=None, context="isolated", options={})
TILE = 16
SCALE, PER_CALL_MS, DEPTHWISE = 0.9, 0.01, 2.0


def is_depthwise(layer: Layer) -> bool:
    return any(getattr(node.op, "groups", 1) > 1 for node in layer.nodes)


def layer_ms(layer: Layer) -> float:
    """Return what a layer takes by itself: an overhead and a roofline with channels padded to a tile."""

    def padding(shape: Sequence[int]) -> float:
        return -(-shape[0] // TILE) * TILE / shape[0]

    into, out = layer.inputs[0], layer.output_shape
    madds = layer.madds * padding(out) * (1.0 if is_depthwise(layer) else padding(into))
    moved = prod(into) * padding(into) + prod(out) * padding(out) + layer.parameters
    return float(0.01 + max(madds / 1e6 * (0.16 if is_depthwise(layer) else 0.02), moved / 1e6 * 0.4))


def network_ms(network: Network) -> float:
    """Return what a network takes: less than its layers' sum, so much per call, depthwise layers twice as slow."""
    return sum(
        item.count * (SCALE * layer_ms(item.layer) * (DEPTHWISE if is_depthwise(item.layer) else 1.0) + PER_CALL_MS)
        for item in network.layers
    )


def noisy(values: Iterable[float], seed: int = 0, sigma: float = 0.01) -> list[float]:
    """Return values with lognormal noise."""
    exact = np.array(list(values), dtype=np.float64)
    return list(map(float, exact * np.exp(np.random.default_rng(seed).normal(0, sigma, len(exact)))))


def measurement(layer: Layer, ms: float) -> Measurement:
    return Measurement(
        layer=layer,
        origin="imported",
        session=0,
        median_ms=ms,
        raw_median_ms=ms,
        within_run=Interval(low_ms=ms, high_ms=ms, level=0.95),
        across_runs=Interval(low_ms=ms, high_ms=ms, level=0.95),
        flags=(),
        calls_per_block=1,
        implementation=None,
        visits=Visits(process=(), at_s=(), raw_ms=(), drift=()),
    )


def table_with(
    layers: Sequence[Layer],
    ms: Sequence[float] | None = None,
    *,
    device: Device = DEVICE,
    failures: Sequence[Layer] = (),
    **setting: Any,
) -> LatencyTable:
    """Return a table in memory; latencies are the device's own, without noise, unless they are given."""
    values = [layer_ms(layer) for layer in layers] if ms is None else ms
    return LatencyTable(
        device=device,
        setting=msgspec.structs.replace(SETTING, **setting),
        sessions=(),
        measurements=[measurement(layer, value) for layer, value in zip(layers, values, strict=True)],
        failures=[Failure(layer=layer, reason="error", message="made to fail", session=0) for layer in failures],
    )


def _conv(into: int, out: int, size: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> Layer:
    return conv_norm_act(
        into, out, kernel_size=kernel, stride=stride, activation="relu", input_size=(size, size), groups=groups
    )


class Tiny(SearchSpace):
    """A space with every sort of decision: widths, a depth, an operator per block, and one operator that may be none.

    A stem, up to ``blocks`` blocks of 3×3, depthwise and pointwise, or 1×1 convolutions, perhaps a neck, and a head.
    """

    OPERATORS = ("conv3x3", "separable", "conv1x1")
    NECKS = ("none", "conv1x1", "conv5x5")

    def __init__(self, widths: Sequence[int] = (8, 24, 40), blocks: int = 2, size: int = 16) -> None:
        self.name = "tiny"
        self.widths = tuple(widths)
        self.blocks = blocks
        self.size = size

    @property
    def choices(self) -> tuple[Decision, ...]:
        found = [
            Decision("neck", (0, 1, 2), kind="operator"),
            Decision("stem", self.widths, kind="width"),
            Decision("depth", tuple(range(1, self.blocks + 1)), kind="depth"),
        ]
        for b in range(1, self.blocks + 1):
            found += [
                Decision(f"block{b}.operator", (0, 1, 2), kind="operator"),
                Decision(f"block{b}", self.widths, kind="width"),
            ]
        return tuple(found)

    def vectors(self) -> list[tuple[int, ...]]:
        """Return all vectors of the space."""
        return list(product(*(range(len(decision.options)) for decision in self.choices)))

    def _neck(self, operator: int, width: int) -> Layer | None:
        return None if operator == 0 else _conv(width, width, self.size, kernel=(1, 5)[operator - 1])

    def decode(self, vector: Sequence[int]) -> Network:
        neck, stem, depth, *rest = vector
        into = self.widths[stem]
        items = [NetworkLayer("stem", _conv(3, into, self.size))]
        if (made := self._neck(neck, into)) is not None:
            items.append(NetworkLayer("neck", made))
        for b in range(depth + 1):
            operator, out = rest[2 * b], self.widths[rest[2 * b + 1]]
            name = f"block{b + 1}"
            if operator == 0:
                items.append(NetworkLayer(name, _conv(into, out, self.size)))
            elif operator == 1:
                items.append(NetworkLayer(f"{name}.depthwise", _conv(into, into, self.size, groups=into)))
                items.append(NetworkLayer(f"{name}.pointwise", _conv(into, out, self.size, kernel=1), count=1))
            else:
                items.append(NetworkLayer(name, _conv(into, out, self.size, kernel=1)))
            into = out
        items.append(NetworkLayer("pool", global_pool(into, input_size=(self.size, self.size))))
        items.append(NetworkLayer("head", linear(into, 10, bias=True)))
        return Network("tiny " + " ".join(map(str, vector)), tuple(items))

    def slots(self) -> list[LayerSlot]:
        w, size = self.widths, self.size
        places = [
            LayerSlot("stem", (1,), lambda o: _conv(3, w[o], size)),
            LayerSlot("neck", (0, 1), lambda operator, o: self._neck(operator, w[o])),
        ]
        for b in range(self.blocks):
            operator, out, into = 3 + 2 * b, 4 + 2 * b, 1 if b == 0 else 2 + 2 * b
            kept = ((2, tuple(range(b, self.blocks))),) if b else ()
            places += [
                LayerSlot("conv3x3", (into, out), lambda i, o: _conv(w[i], w[o], size), (*kept, (operator, (0,)))),
                LayerSlot(
                    "depthwise", (into,), lambda i: _conv(w[i], w[i], size, groups=w[i]), (*kept, (operator, (1,)))
                ),
                # The pointwise convolution of a separable one is the 1×1 one.
                LayerSlot(
                    "1x1", (out, into), lambda o, i: _conv(w[i], w[o], size, kernel=1), (*kept, (operator, (1, 2)))
                ),
                LayerSlot("pool", (out,), lambda o: global_pool(w[o], input_size=(size, size)), ((2, (b,)),)),
                LayerSlot("head", (out,), lambda o: linear(w[o], 10, bias=True), ((2, (b,)),)),
            ]
        return places

    def layers(self) -> tuple[Layer, ...]:
        made = [self.decode(vector) for vector in self.vectors()]
        return tuple(dict.fromkeys(item.layer for network in made for item in network.layers))


def sampled(space: Any, count: int, seed: int) -> list[Network]:
    """Return random networks of a space."""
    rng = random.Random(seed)
    return [space.decode(space.sample(rng)) for _ in range(count)]


def layers_of(networks: Iterable[Network]) -> list[Layer]:
    """Return the layers of networks, each once."""
    return list(dict.fromkeys(item.layer for network in networks for item in network.layers))


def wholes_of(networks: Sequence[Network], seed: int = 1, sigma: float = 0.01) -> list[tuple[Network, float]]:
    """Return networks with what the made device takes for each, measured with noise."""
    return list(zip(networks, noisy(map(network_ms, networks), seed, sigma), strict=True))


@cache
def wide_space() -> Tiny:
    """Return a space with more layers than are ever measured."""
    return Tiny(widths=tuple(range(4, 97, 4)), blocks=5)


@cache
def tiny_predictor() -> LatencyPredictor:
    """Return a predictor of the smallest space, all but some of whose layers were measured, calibrated on networks."""
    space = Tiny()
    layers = space.layers()
    measured = [layer for i, layer in enumerate(layers) if i % 5 != 3]
    table = table_with(measured, noisy(map(layer_ms, measured)))
    return LatencyPredictor.fit(table, networks=wholes_of(sampled(space, 40, seed=5)))


@cache
def wide_predictor(*, calibrated: bool = True) -> LatencyPredictor:
    """Return a predictor of the wide space with some of its layers measured, and 100 networks or none."""
    space = wide_space()
    networks = sampled(space, 100, seed=11)
    layers = layers_of(networks)
    random.Random(0).shuffle(layers)
    kept = sorted(layers[:350], key=lambda layer: layer.digest)
    table = table_with(kept, noisy(map(layer_ms, kept), seed=3))
    return LatencyPredictor.fit(table, networks=wholes_of(networks) if calibrated else ())


class Cpu:
    """The simulated device under the name of a real target, so that commands can trace a user's network for it."""

    @staticmethod
    def make(**options: Any) -> FakeTarget:
        target = FakeTarget(sigma=0.01, **options)
        target._setting = msgspec.structs.replace(target._setting, target="cpu")  # type: ignore[misc]
        return target


def resnet_table(
    folder: Path, *, networks: int = 10, failing: int = 0, drop: Sequence[str] = (), batch: int = 4
) -> LatencyTable:
    """Return a table that can be saved: layers of small CIFAR ResNets in a simulated session, and these as a whole.

    Args:
        folder: where the reference speeds go.
        networks: how many are measured whole.
        failing: layers that cannot be measured.
        drop: words; layers that have one of them in their text are not in the table.
        batch: of the setting.
    """
    space = ResNetCifar(expand=0.5, depth=8)
    made = [Network(f"net {i}", network.layers) for i, network in enumerate(sampled(space, max(10, networks), seed=2))]
    layers = [layer for layer in layers_of(made) if not any(word in str(layer) for word in drop)]
    wholes = [subject_of(network) for network in made[:networks]]
    misbehave = {layer.digest: "raise" for layer in layers[:failing]}
    plan, result, _ = simulate(
        layers,
        target=Cpu.make(batch=batch, misbehave=misbehave),
        networks=wholes,
        protocol={"precision": 0.004, "time_budget_s": 60.0},
    )
    return table_of(plan, result, folder / "references.json", networks=wholes)

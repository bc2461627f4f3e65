"""A target with a clock of its own: known latencies, known noise. It makes the protocol exactly testable.

It is public: whoever writes a search or a target can test against it without hardware, and without waiting.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Collection, Mapping, Sequence
from typing import final

from lut import Device, Layer, Setting
from lut._records import Software
from lut.errors import LayerFailedError
from lut.primitives import Conv2d, Linear
from profiler._sources import NetworkSource, layer_of_source
from profiler._target import Part, Target

__all__ = ["FakeTarget"]


class _Fake:
    def __init__(self, layer: Layer, ms: float) -> None:
        self.layer = layer
        self.ms = ms
        self.factor = 1.0
        self.previous = 0.0
        self.process_effect = 1.0


@final
class FakeTarget(Target[_Fake]):
    """Latencies from a formula, noise from a seed, time that passes only when layers run.

    A layer takes ``floor_ms`` + ``ms_per_gmadd`` · its 10⁹ multiply-adds · batch, its output channels rounded up to a
    multiple of ``tile``: a staircase. Noise is drawn once per visit.

    Args:
        batch: samples per call.
        dtype: recorded, without effect.
        threads: recorded, without effect.
        memory_format: recorded, without effect.
        floor_ms: latency of no work at all.
        ms_per_gmadd: milliseconds per 10⁹ multiply-adds.
        tile: channels that cost the same.
        sigma: standard deviation of log(latency) between visits.
        spike_share: share of the visits that are slower by half.
        autocorrelation: lag-1 autocorrelation ρ of a layer's visits.
        second_mode: factor of a second mode that half the visits are in; 1 for none.
        own_drift: relative drift of each layer by itself, per second.
        common_drift: amplitude of a slow swing of the whole machine, in log(latency).
        process_sigma: standard deviation of log(latency) of a layer between processes.
        preempted_share: share of the blocks during which another process takes the core.
        seed: of all noise.
        affected: digests of the layers that ``second_mode`` and ``own_drift`` concern; all layers by default.
        misbehave: digest of a layer → ``raise``, ``memory``, ``exit`` or ``hang``; ``run`` to raise when it is run.
        together: layers that are visited in turns; above 1, the context is ``network``.
        walks: visit them in networks and chains instead.
        overhead_ms: what a program costs whatever is in it; above 0, a layer's value is marginal: a program of two
            copies less one of one.
    """

    def __init__(
        self,
        *,
        batch: int = 4,
        dtype: str = "float32",
        threads: int | None = 1,
        memory_format: str = "contiguous",
        floor_ms: float = 0.02,
        ms_per_gmadd: float = 10.0,
        tile: int = 8,
        sigma: float = 0.02,
        spike_share: float = 0.0,
        autocorrelation: float = 0.0,
        second_mode: float = 1.0,
        own_drift: float = 0.0,
        common_drift: float = 0.0,
        process_sigma: float = 0.0,
        preempted_share: float = 0.0,
        seed: int = 0,
        affected: Collection[str] | None = None,
        misbehave: Mapping[str, str] | None = None,
        together: int = 1,
        walks: bool = False,
        overhead_ms: float = 0.0,
    ) -> None:
        self._setting = Setting(
            target="fake",
            batch=batch,
            dtype=dtype,
            threads=threads or 1,
            memory_format=memory_format,
            context="network" if together > 1 or overhead_ms else "isolated",
            options={},
        )
        self._floor_ms = floor_ms
        self._ms_per_gmadd = ms_per_gmadd
        self._tile = tile
        self._sigma = sigma
        self._spike_share = spike_share
        self._rho = autocorrelation
        self._second_mode = second_mode
        self._own_drift = own_drift
        self._common_drift = common_drift
        self._process_sigma = process_sigma
        self._preempted_share = preempted_share
        self._rng = random.Random(seed)  # noqa: S311 - simulated noise
        self._affected = None if affected is None else frozenset(affected)
        self._misbehave = dict(misbehave or {})
        self._together = together
        self._walks = walks
        self._overhead_ms = overhead_ms
        self._now_s = 0.0
        self._preemptions = 0

    @property
    def together(self) -> int:
        return self._together

    @property
    def walks(self) -> bool:
        return self._walks

    def parts(self, prepared: _Fake) -> Sequence[Part]:
        if not self._overhead_ms:
            return (Part(prepared, 1.0),)
        return (Part((prepared, 2), 1.0), Part((prepared, 1), -1.0))

    def describe(self) -> tuple[Device, Setting, Software]:
        device = Device(
            kind="fake", model="simulated device", architecture="none", system="none", cores=1, affinity_cpus=1
        )
        return device, self._setting, Software(python="none", packages={}, details={"noise": "simulated"})

    def true_ms(self, layer: Layer) -> float:
        """Return the latency around which the noise of a layer lies."""
        channels = layer.output_shape[0]
        rounded = -(-channels // self._tile) * self._tile / channels
        return self._floor_ms + self._ms_per_gmadd * layer.madds * rounded * self._setting.batch / 1e9

    def prepare(self, layer: Layer, seed: int) -> _Fake:
        del seed  # the noise has its own
        match self._misbehave.get(layer.digest):
            case "raise":
                raise LayerFailedError("made to fail", reason="error")
            case "memory":
                raise LayerFailedError("made to exhaust memory", reason="out_of_memory")
            case "exit":
                os._exit(9)
            case "hang":
                time.sleep(3600)
        prepared = _Fake(layer, self.true_ms(layer))
        prepared.process_effect = math.exp(self._rng.gauss(0.0, self._process_sigma))
        return prepared

    def prepare_network(self, source: NetworkSource, seed: int) -> _Fake:
        """A network takes what its operators would as layers of their own; only one that is a layer can be run."""
        layer = layer_of_source(source)
        if layer is None:
            raise LayerFailedError(f"{source.name}: the simulated device runs no modules", reason="error")
        del seed
        return _Fake(layer, self.network_ms(layer))

    def network_ms(self, network: Layer) -> float:
        """Return the latency around which the noise of a whole network lies: ``floor_ms`` once a convolution."""
        heavy = 0
        work = 0.0
        for number, node in enumerate(network.nodes, start=len(network.inputs)):
            if isinstance(node.op, (Conv2d, Linear)):
                width = network.shapes[number][0]
                rounded = -(-width // self._tile) * self._tile / width
                work += node.op.madds(tuple(network.shapes[i] for i in node.args)) * rounded
                heavy += 1
        return self._floor_ms * max(1, heavy) + self._ms_per_gmadd * work * self._setting.batch / 1e9

    def relocate(self, prepared: _Fake, rng: random.Random) -> None:
        """Draw the visit's noise."""
        del rng
        noise = self._rho * prepared.previous + math.sqrt(1 - self._rho**2) * self._rng.gauss(0.0, self._sigma)
        prepared.previous = noise
        factor = math.exp(noise) * prepared.process_effect
        if self._rng.random() < self._spike_share:
            factor *= 1.5
        if self._affected is None or prepared.layer.digest in self._affected:
            if self._second_mode != 1.0 and self._rng.random() < 0.5:
                factor *= self._second_mode
            factor *= 1.0 + self._own_drift * self._now_s
        prepared.factor = factor

    def run(self, prepared: _Fake | tuple[_Fake, int], calls: int) -> int:
        copies = 1
        if isinstance(prepared, tuple):
            prepared, copies = prepared
        if self._misbehave.get(prepared.layer.digest) == "run":
            raise LayerFailedError("made to fail when it is run", reason="error")
        common = math.exp(self._common_drift * math.sin(self._now_s / 2.0))
        elapsed_ms = (copies * prepared.ms * prepared.factor + self._overhead_ms) * common * calls
        if self._rng.random() < self._preempted_share:
            self._preemptions += 1
            elapsed_ms *= 1.8
        self._now_s += elapsed_ms / 1e3
        return max(1, round(elapsed_ms * 1e6))

    def preemptions_and_faults(self) -> tuple[int, int]:
        return self._preemptions, 0

    def clock(self) -> float:
        return self._now_s

"""A predictor calibrated on networks of the very space that is searched, measured whole before the search.

A table's audit samples another space: networks a few blocks deep, of all widths. What is found is of the width set.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lut import Network, SearchSpace, UsageError
from lut._files import read_bytes, write_atomically
from predictors import LatencyPredictor
from profiler import Progress, compare_networks
from search._cost import compile_latency, compiled_digest

__all__ = ["calibrated"]

# Of fewer networks no interval of 90 % can be promised.
LEAST_NETWORKS = 10


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured: ``latencies`` is the digest of what the predictor said of the space before."""

    latencies: str
    seed: int
    vectors: tuple[tuple[int, ...], ...]
    ms: tuple[float, ...]


def calibrated(
    space: SearchSpace,
    predictor: LatencyPredictor,
    *,
    count: int,
    seconds: float,
    seed: int,
    sample: Callable[[random.Random], Sequence[int]] | None = None,
    path: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> LatencyPredictor:
    """Return a predictor calibrated on random networks of a space, measured in one session on this machine.

    Args:
        space: the space, with its width set.
        predictor: of this device.
        count: networks, at least 10.
        seconds: of measuring.
        seed: of the networks and the session.
        sample: gives a random vector of the space; by default ``space.sample``.
        path: a file that keeps the latencies; where it holds those of the same networks, predictor and seed, nothing
            is measured again.
        progress: told where the session stands.

    Raises:
        UsageError: fewer than 10 networks.
        UnlikeTablesError: this machine is not the predictor's device.
    """
    if count < LEAST_NETWORKS:
        raise UsageError(f"a calibration is on at least {LEAST_NETWORKS} networks, got {count}")
    latencies = compiled_digest(compile_latency(space, predictor))
    rng = random.Random(f"{seed}-calibration")  # noqa: S311 - a sample, no secret
    draw = space.sample if sample is None else sample
    vectors = tuple(tuple(draw(rng)) for _ in range(count))
    kept = _load(path, latencies, seed, vectors)
    if kept is None:
        networks = [Network(f"{space.name} {i}", space.decode(v).layers) for i, v in enumerate(vectors, start=1)]
        compared = compare_networks(
            networks,
            setting=predictor.setting,
            device=predictor.device,
            time_budget_s=seconds,
            seed=seed,
            progress=progress,
        )
        kept = _Kept(latencies, seed, vectors, tuple(network.ms for network in compared.networks))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, msgspec.json.encode(kept))
    return predictor.recalibrated((space.decode(v), ms) for v, ms in zip(kept.vectors, kept.ms, strict=True))


def _load(path: Path | None, latencies: str, seed: int, vectors: tuple[tuple[int, ...], ...]) -> _Kept | None:
    if path is None or not path.exists():
        return None
    try:
        kept = msgspec.json.decode(read_bytes(path), type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    same = (kept.latencies, kept.seed, kept.vectors) == (latencies, seed, vectors) and len(kept.ms) == len(vectors)
    return kept if same else None

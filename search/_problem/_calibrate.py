"""A predictor calibrated on networks of the very space that is searched, measured whole before the search.

A table's audit samples another space: networks a few blocks deep, of all widths. What is found is of the width set.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from lut import Network, SearchSpace, UsageError
from lut._files import read_bytes, write_atomically
from lut._option_names import RESTART
from lut.errors import CheckpointError
from predictors import LatencyPredictor
from profiler import compare_networks
from profiler._compare import NetworkComparison
from profiler._session import Progress
from search._problem._coverage import latencies_digest

__all__ = ["LEAST_NETWORKS", "Calibrated", "calibrated", "check_count"]

# Of fewer networks no interval of 90 % can be promised.
LEAST_NETWORKS = 10
# In a minute not even a hundred are measured well.
MOST_NETWORKS = 10_000
# A few hundred decisions for each of thousands of networks.
LARGEST_FILE = 1 << 24
# No network takes a day.
LARGEST_MS = 1e8


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured: ``latencies`` is the digest of what the predictor said of the space before.

    ``sha256`` is of all else; older files have none.
    """

    latencies: str
    seed: int
    vectors: tuple[tuple[int, ...], ...]
    ms: tuple[float, ...]
    sha256: str = ""

    def digest(self) -> str:
        """Return the SHA-256 of all but itself, in hexadecimal."""
        parts = (self.latencies, self.seed, self.vectors, self.ms)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


class Calibrated(NamedTuple):
    """A predictor, and the networks that it was calibrated on, with their latencies in ms."""

    predictor: LatencyPredictor
    networks: tuple[tuple[Network, float], ...]


def check_count(count: int) -> None:
    """Raise :class:`~lut.UsageError` where so few networks are no calibration, or so many never end."""
    if count < LEAST_NETWORKS:
        raise UsageError(f"a calibration is on at least {LEAST_NETWORKS} networks, got {count}")
    if count > MOST_NETWORKS:
        raise UsageError(f"a calibration is on at most {MOST_NETWORKS} networks, got {count}")


def calibrated(
    space: SearchSpace,
    predictor: LatencyPredictor,
    *,
    count: int,
    seconds: float,
    seed: int,
    sample: Callable[[random.Random], Sequence[int]] | None = None,
    path: Path | None = None,
    reuse: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
    compare: Callable[..., NetworkComparison] = compare_networks,
) -> Calibrated:
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
        reuse: what the file holds of the same is taken; otherwise it is replaced once all is measured.
        progress: told where the session stands.
        compare: what measures networks side by side.

    Raises:
        UsageError: fewer than 10 networks.
        UnlikeTablesError: this machine is not the predictor's device.
        CheckpointError: the file is damaged.
        FileAccessError: the file cannot be read or written.
    """
    check_count(count)
    latencies = latencies_digest(space, predictor)
    rng = random.Random(f"{seed}-calibration")  # noqa: S311 - a sample, no secret
    draw = space.sample if sample is None else sample
    vectors = tuple(tuple(draw(rng)) for _ in range(count))
    kept = _load(path, latencies, seed, vectors) if reuse else None
    if kept is None:
        networks = [Network(f"{space.name} {i}", space.decode(v).layers) for i, v in enumerate(vectors, start=1)]
        compared = compare(
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
            write_atomically(path, msgspec.json.encode(msgspec.structs.replace(kept, sha256=kept.digest())))
    measured = tuple((space.decode(v), ms) for v, ms in zip(kept.vectors, kept.ms, strict=True))
    return Calibrated(predictor.recalibrated(measured), measured)


def _load(path: Path | None, latencies: str, seed: int, vectors: tuple[tuple[int, ...], ...]) -> _Kept | None:
    """Return what a file keeps; ``None`` where there is none, or one of other networks."""
    if path is None or not os.path.lexists(path):
        return None
    damaged = CheckpointError(f"{path} is damaged: no latencies that were measured; discard it, or give {RESTART}")
    try:
        kept = msgspec.json.decode(read_bytes(path, limit=LARGEST_FILE), type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise damaged from None
    if len(kept.ms) != len(kept.vectors) or not all(0 < ms <= LARGEST_MS for ms in kept.ms):
        raise damaged
    if kept.sha256 and kept.sha256 != kept.digest():
        raise damaged
    return kept if (kept.latencies, kept.seed, kept.vectors) == (latencies, seed, vectors) else None

"""Bundles and timings that no converter and no device made, for tests of everything that comes after them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lut import ChannelCurve, Layer
from lut._records import CurveRecord
from profiler._coreml._bundle import (
    ExportFailure,
    LayerEntry,
    Manifest,
    Program,
    Tensor,
    Term,
    bundle_id,
    hash_files,
    program_digest,
)
from profiler._coreml._options import make_options
from profiler._coreml._programs import ProgramPlan, plan_layers

OVERHEAD_MS = 0.2


def make_bundle(
    root: Path,
    layers: Sequence[Layer],
    *,
    curves: Sequence[ChannelCurve] = (),
    failed: Sequence[Layer] = (),
    context: str = "network",
) -> Manifest:
    """Write a bundle whose programs are text files, and return its manifest."""
    options = make_options(context=context)
    plan = plan_layers(layers, options)
    programs: dict[ProgramPlan, Program] = {}
    for program in plan.programs:
        made_from = program.made_from(options, {})
        path = f"programs/{made_from[:16]}.mlpackage"
        (root / path).mkdir(parents=True)
        (root / path / "model.mlmodel").write_text(str(program))
        files = hash_files(root, path)
        programs[program] = Program(
            id=made_from[:16],
            what=str(program),
            role=program.role,
            copies=program.copies,
            path=path,
            digest=program_digest(files),
            files=files,
            inputs=(Tensor(name="x0", shape=(1, 8, 8, 8), dtype="float16"),),
            outputs=(Tensor(name="y", shape=(1, 8, 8, 8), dtype="float16"),),
            operators={"conv": program.copies},
            made_from=made_from,
            convert_s=0.1,
        )
    manifest = Manifest(
        format="latency-lut-coreml-bundle",
        version=1,
        bundle="",
        written_at="2026-01-01T00:00:00Z",
        options=options,
        software={"coremltools": "9.0"},
        scheme="as in the tests",
        programs=tuple(programs.values()),
        groups=tuple(tuple(programs[p].id for p in group) for group in plan.groups),
        layers=tuple(
            LayerEntry(
                digest=layer.digest,
                layer=layer,
                value=tuple(Term(program=programs[p].id, weight=weight) for p, weight in value),
            )
            for layer, value in zip(layers, plan.values, strict=True)
        ),
        networks=(),
        curves=tuple(
            CurveRecord(name=c.name, base_channels=c.base_channels, layers=tuple(x.digest for x in c.layers))
            for c in curves
        ),
        failures=tuple(ExportFailure(name=str(x), layer=x, message="no such operator") for x in failed),
    )
    manifest = msgspec.structs.replace(manifest, bundle=bundle_id(manifest))
    (root / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def add_ms(shape: Sequence[int]) -> float:
    """Return what one addition takes on the made-up device."""
    total = 1
    for size in shape:
        total *= size
    return 0.001 + 1e-7 * total


def make_timings(
    manifest: Manifest,
    layer_ms: Callable[[Layer], float],
    *,
    rounds: int = 12,
    noise: float = 0.002,
    skip: Callable[[Program], bool] = lambda _: False,
) -> dict[str, Any]:
    """Return timings, labelled made up, of a device on which costs add up; noise is log-normal."""
    rng = random.Random(1)
    cost: dict[str, float] = {}
    by_id = {program.id: program for program in manifest.programs}
    for entry in manifest.layers:
        for term in entry.value:
            program = by_id[term.program]
            if program.role == "adds":
                shape = next(
                    s
                    for s in (*entry.layer.inputs, entry.layer.output_shape)
                    if str(ProgramPlan("adds", program.copies, shape=s)) == program.what
                )
                cost[program.id] = OVERHEAD_MS + program.copies * add_ms(shape)
            else:
                cost[program.id] = OVERHEAD_MS + program.copies * layer_ms(entry.layer)
                if program.role == "parallel":
                    inputs = sum(add_ms(shape) for shape in entry.layer.inputs)
                    sums = (program.copies - 1) * add_ms(entry.layer.output_shape)
                    cost[program.id] += program.copies * inputs + sums
    visits = [
        {
            "program": program.id,
            "round": r,
            "at_s": 100.0 * r + i,
            "calls": 20,
            "block_ms": [cost[program.id] * rng.lognormvariate(0, noise) for _ in range(3)],
            "thermal": "nominal",
            "low_power": False,
        }
        for r in range(rounds)
        for i, program in enumerate(manifest.programs)
        if not skip(program)
    ]
    return {
        "format": "latency-lut-coreml-timings",
        "version": 1,
        "bundle": manifest.bundle,
        "synthetic": True,
        "runner": "tests",
        "device": {
            "kind": "iphone",
            "model": "iPhone0,0",
            "architecture": "arm64",
            "system": "iOS 0",
            "cores": 6,
            "memory_gib": 6,
        },
        "compute_units": "ALL",
        "timing": "sustained",
        "seed": 0,
        "started_at": "2026-01-01T00:00:00Z",
        "ended_at": "2026-01-01T01:00:00Z",
        "clock_step_ns": 41.67,
        "clock_cost_ns": 20,
        "target_block_ms": 4,
        "blocks_per_visit": 3,
        "warm_up_calls": 3,
        "rounds": rounds,
        "programs": [{"program": p.id, "digest": p.digest} for p in manifest.programs if not skip(p)],
        "visits": visits,
        "failures": [],
    }


def write(path: Path, value: object) -> Path:
    """Write JSON."""
    path.write_bytes(msgspec.json.encode(value))
    return path


def sha256(text: str) -> str:
    """Return a digest."""
    return hashlib.sha256(text.encode()).hexdigest()

"""Which of a space's layers a predictor knows: errors that name the command which measures the others."""

from __future__ import annotations

import random
from hashlib import sha256

import numpy as np

from lut import SearchSpace, Setting, TableError
from lut.errors import UnknownOperatorError
from predictors import CompiledLatency, LatencyPredictor
from predictors._compiled import CompiledSpace, layers_of
from predictors._predictions import NO_SUCH_KIND

__all__ = ["compile_latency", "compiled_digest", "latencies_digest", "unlike_layers"]

# Lacking layers that an error names.
NAMED = 3
# Networks that stand for a space of which no arrays are made.
SAMPLED = 16


def compile_latency(space: SearchSpace, predictor: LatencyPredictor) -> CompiledLatency:
    """Compile a space's latencies.

    Raises:
        TableError: layers of some kind were not measured at all; names the command that measures them.
        PredictorError: as :meth:`LatencyPredictor.compile`.
    """
    try:
        return predictor.compile(space)
    except UnknownOperatorError as error:
        raise _lacking(space, predictor, error) from None


def compiled_digest(compiled: CompiledSpace) -> str:
    """Return the SHA-256 of all latencies of a space."""
    found = sha256(np.float64(compiled.constant).tobytes())
    for term in compiled.terms:
        found.update(repr((term.decisions, term.when)).encode())
        found.update(np.ascontiguousarray(term.values).tobytes())
    return found.hexdigest()


def latencies_digest(space: SearchSpace, predictor: LatencyPredictor) -> str:
    """Return the SHA-256 of what a predictor says of a space: of its arrays, or of what is to be measured of it."""
    if space.slots() is not None:
        return compiled_digest(compile_latency(space, predictor))
    rng = random.Random(0)  # noqa: S311 - a sample, no secret
    networks = [space.decode(space.sample(rng)) for _ in range(SAMPLED)]
    content = [*map(predictor.latency_ms, networks), *predictor.contributions(space.layers()).tolist()]
    return sha256(np.array(content).tobytes()).hexdigest()


def unlike_layers(space: SearchSpace, predictor: LatencyPredictor) -> tuple[str, ...]:
    """Return what is to be said of a space's layers that lie outside what was measured.

    Raises:
        TableError: layers of some kind were not measured at all; names them, and the command that measures them.
    """
    # A space that does not say where its layers stand says at least which ones there are to be measured.
    layers = layers_of(space) if space.slots() is not None else space.layers()
    try:
        predictor.contributions(layers)
    except UnknownOperatorError as error:
        raise _lacking(space, predictor, error) from None
    known = [(layer, predictor.predict_layer(layer)) for layer in layers]
    lacking = [layer for layer, part in known if part.outside == (NO_SUCH_KIND,)]
    if lacking:
        names = "; ".join(map(str, lacking[:NAMED]))
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        raise TableError(
            f"the predictor's tables lack {len(lacking)} of the space's {len(layers)} layers, and any like them: "
            f"{names}{more}. Measure them: {_command(space, predictor.setting)}"
        )
    outside = [(layer, part.outside) for layer, part in known if part.origin == "outside"]
    if not outside:
        return ()
    layer, why = outside[0]
    text = f"{len(outside)} of the space's {len(layers)} layers lie outside what was measured, such as {layer}: "
    return (text + "; ".join(why),)


def _lacking(space: SearchSpace, predictor: LatencyPredictor, error: UnknownOperatorError) -> TableError:
    what = str(error).partition(". Measure it")[0].partition(", so its")[0]
    return TableError(
        f"the predictor's tables lack layers of {space.name}: {what}. Measure them: "
        f"{_command(space, predictor.setting)}"
    )


def _command(space: SearchSpace, setting: Setting) -> str:
    """Return the command that measures a space's layers in a setting."""
    given: dict[str, object] = {
        "--target": setting.target,
        "--batch": setting.batch,
        "--threads": setting.threads,
        "--dtype": setting.dtype,
        "--memory-format": setting.memory_format,
        "--space": space.name,
    }
    text = "profile-device" + "".join(f" {name} {value}" for name, value in given.items() if value is not None)
    plain = {name: value for name, value in space.options.items() if isinstance(value, (int, float, str))}
    return text + "".join(f" --set {name}={value}" for name, value in plain.items())

"""What tables bring to a predictor: latencies of layers, networks that were measured whole, and where they are from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from math import isfinite

import numpy as np

from lut import LatencyTable, Layer, Measurement, Network, TableError, UsageError
from lut._audit import held_out
from lut._option_names import option_text
from lut._statistics import log_standard_error
from predictors._features import operators_of
from predictors._predictions import TableSource

__all__ = ["audited", "deviation_of", "distinct", "latencies_of", "operators_in", "source_of"]


def operators_in(layers: Iterable[Layer]) -> frozenset[str]:
    """Return the operators of layers: what a predictor fitted to them knows."""
    return frozenset().union(*(operators_of(layer) for layer in layers))


def latencies_of(tables: Sequence[LatencyTable], failures: str) -> dict[Layer, float]:
    """Return the layers of tables and their latencies in ms; of several tables, their mean in log."""
    if failures not in ("refuse", "skip"):
        raise UsageError(f"failures is 'refuse' or 'skip', got {failures!r}")
    failed = [failure for table in tables for failure in table.failures]
    if failed and failures == "refuse":
        first = failed[0]
        raise TableError(
            f"{len(failed)} layer{'s' * (len(failed) > 1)} could not be measured, {first.layer} for one "
            f"({first.reason}: {first.message}). Measure again, or fit to the others: {option_text('failures', 'skip')}"
        )
    logs: dict[Layer, list[float]] = {}
    for table in tables:
        for layer, measurement in table.items():
            ms = measurement.median_ms
            if not (isfinite(ms) and ms > 0):
                raise TableError(f"{layer} ({layer.digest}): a latency is a positive number of ms, got {ms}")
            logs.setdefault(layer, []).append(float(np.log(ms)))
    if not logs:
        raise TableError("a predictor cannot be fitted to an empty table: no layer of it was measured")
    return {layer: float(np.exp(np.mean(values))) for layer, values in logs.items()}


def deviation_of(measurement: Measurement) -> float:
    """Return the standard deviation of log(ms) of another day's measurement."""
    interval = measurement.across_runs
    found = log_standard_error(interval.low_ms, interval.high_ms, interval.level)
    return found if isfinite(found) else 0.0


def audited(tables: Sequence[LatencyTable], operators: frozenset[str]) -> list[tuple[Network, float]]:
    """Return the networks of tables that were measured whole, and gave no layer its value where others did not.

    One with a layer that failed, or that was never reached and holds an operator like no other, says nothing of a sum.
    """
    failed = {failure.layer for table in tables for failure in table.failures}
    found = [
        (known.network, known.end_to_end.median_ms)
        for table in tables
        for known in held_out(table.networks)
        if known.end_to_end is not None and not failed.intersection(item.layer for item in known.network.layers)
    ]
    return [(n, ms) for n, ms in found if operators_in(item.layer for item in n.layers) <= operators]


def distinct(networks: Iterable[tuple[Network, float]]) -> list[tuple[Network, float]]:
    """Return networks once each: copies in several tables would predict one another."""
    found: dict[tuple[tuple[Layer, int], ...], tuple[Network, list[float]]] = {}
    for network, ms in networks:
        key = tuple((item.layer, item.count) for item in network.layers)
        found.setdefault(key, (network, []))[1].append(float(np.log(ms)))
    return [(network, float(np.exp(np.mean(logs)))) for network, logs in found.values()]


def source_of(table: LatencyTable, number: int, sources: Sequence[str]) -> TableSource:
    """Return the record of a table, by its place among those given and by their names."""
    name = sources[number] if number < len(sources) else f"table {number + 1}"
    whole = sum(known.end_to_end is not None for known in table.networks)
    return TableSource(name, hashlib.sha256(table.to_json()).hexdigest(), len(table), whole)

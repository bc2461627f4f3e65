"""Core ML without Apple hardware: tables from a device's timings, and tables that say what is still to be timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lut import UsageError
from lut._files import write_atomically
from lut.errors import LatencyLutError

if TYPE_CHECKING:
    from rich.console import Console

    from lut import ChannelCurve, LatencyTable, Layer
    from profiler._sources import Subject

DEFAULT_PRECISION = 0.02

__all__ = ["import_table", "not_measured", "refuse_for_import"]


def refuse_for_import(target: str, given: Sequence[str], *, timings: Path | None, bundle: Path | None) -> None:
    """Raise unless the command line asks for an import and for nothing else.

    Raises:
        UsageError: ``--import`` or ``--bundle`` stands alone, or beside what only measuring takes.
    """
    if timings is None or bundle is None:
        missing, given = ("--import FILE", "--bundle") if timings is None else ("--bundle DIR", "--import")
        raise UsageError(f"{given} needs {missing}: timings say nothing without the bundle that they are of")
    if target != "coreml":
        raise UsageError(f"--import makes a table of Core ML timings: give --target coreml, not {target}")
    if given:
        named = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"with --import, the bundle and the timings say how was measured: leave out {named}")


def import_table(
    timings: Path, bundle: Path, output: Path, *, precision: float | None, restart: bool, console: Console
) -> LatencyTable:
    """Return the table of a device's timings, and write it.

    Raises:
        UsageError: the output exists.
        LatencyLutError: the bundle or the timings are not what they should be.
    """
    from profiler._coreml import import_timings, network_timings
    from profiler._plan import make_protocol

    precision = DEFAULT_PRECISION if precision is None else precision
    make_protocol(precision=precision)  # refuses what makes no sense
    _refuse_existing(output, restart=restart)
    console.print(f"Importing {timings}, checking the files of {bundle} first.")
    table = import_timings(timings, bundle, precision=precision)
    write_atomically(output, table.to_json())
    for network in network_timings(timings, bundle):
        console.print(
            f"network {network.name}: {network.median_ms:.4g} ms "
            f"({network.low_ms:.4g} … {network.high_ms:.4g}), {network.visits} visits"
        )
    return table


def not_measured(
    layers: Sequence[Layer],
    curves: Sequence[ChannelCurve],
    subjects: Sequence[Subject],
    options: Mapping[str, Any],
    output: Path,
    *,
    restart: bool,
) -> LatencyTable:
    """Return the table that says of every layer that it was not measured here, and write it.

    Raises:
        UsageError: the output exists.
    """
    from profiler._coreml import not_measured_table
    from profiler._sources import record_of

    _refuse_existing(output, restart=restart)
    known = {
        name: options[name]
        for name in ("batch", "dtype", "compute_units", "deployment_target", "context", "device")
        if name in options
    }
    if "format" in options:
        known["model_format"] = options["format"]
    table = not_measured_table(layers, curves, [record_of(subject) for subject in subjects], **known)
    write_atomically(output, table.to_json())
    return table


def _refuse_existing(output: Path, *, restart: bool) -> None:
    if output.is_dir():
        raise LatencyLutError(f"{output} is a folder: name a file with --output")
    if output.exists() and not restart:
        raise UsageError(f"{output} exists already; --restart replaces it, --output writes elsewhere")

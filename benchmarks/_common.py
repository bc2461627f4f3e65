"""What the benchmarks share: the machine's fingerprint, the results file, a table on the screen."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from lut import Device
from lut._files import write_atomically
from profiler import cpu_device

RESULTS = Path(__file__).parent / "results"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return an argument parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the results files")
    return made


def write_results(folder: Path, name: str, figures: dict[str, Any], machine: Device | None = None) -> None:
    """Write ``<name>.json`` with the machine's fingerprint and the time.

    A benchmark that pins its process reads the machine before, and gives it here.
    """
    content = {
        "benchmark": name,
        "written_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine or cpu_device(),
        "software": {"python": platform.python_version(), "torch": version("torch"), "numpy": version("numpy")},
        **figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    grid = Table(title=title, box=None, pad_edge=False, title_justify="left")
    for i, column in enumerate(header):
        grid.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        grid.add_row(*[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row])
    Console(highlight=False).print(grid)

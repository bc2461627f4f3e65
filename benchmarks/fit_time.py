"""How long does it take to fit a predictor to the default table? As a whole command, on two cores at most.

The table is measured first, as ``profile-device --target cpu --batch 4`` does, unless ``--table`` gives one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec
from _common import parser, print_table, write_results

from lut import LatencyTable
from profiler import cpu_device

REPEATS = 5
CORES = 2


def main() -> None:
    """Measure a table if need be, then fit to it several times."""
    made = parser(__doc__)
    made.add_argument("--table", type=Path, help="a table; by default the default one is measured, in two minutes")
    given = made.parse_args()
    machine = cpu_device()
    here = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        table = given.table
        if table is None:
            table = Path(folder) / "table.json"
            command = [here / "profile-device", "--target", "cpu", "--batch", "4", "--output", table]
            subprocess.run(list(map(str, command)), check=True)
        cores = sorted(os.sched_getaffinity(0))[:CORES]
        os.sched_setaffinity(0, cores)
        seconds, told = [], {}
        for _ in range(REPEATS):
            began = time.perf_counter()
            fit = [here / "fit-predictor", table, "--output", Path(folder) / "predictor", "--json"]
            done = subprocess.run(list(map(str, fit)), check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
            told = msgspec.json.decode(done.stdout)
        loaded = LatencyTable.load(table)
    found = {
        "layers": len(loaded),
        "networks": len(loaded.networks),
        "cores": len(cores),
        "command_seconds": round(median(seconds), 2),
        "fit_seconds": told["seconds"],
        "held_out_layers": told["held_out_layers"],
        "held_out_networks": told["held_out_networks"],
        "calibration": told["calibration"],
        "audit": loaded.audit,
    }
    rows = [(f"{found['layers']} layers, {found['networks']} networks", found["fit_seconds"], found["command_seconds"])]
    print_table("Fitting the default table's predictor", ("table", "fit, s", "whole command, s"), rows)
    write_results(given.results, "fit_time", found, machine)


if __name__ == "__main__":
    main()

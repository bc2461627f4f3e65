"""What adaptive sampling takes on this machine, and how well networks are predicted from it.

``profile-device --sampling adaptive`` as a user types it, once for each setting, and a predictor fitted to its table.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from _common import parser, print_table, write_results

from lut import LatencyTable
from predictors import LatencyPredictor

SETTINGS = (
    ("--target", "cpu", "--batch", "4"),
    ("--target", "onnx", "--batch", "1", "--threads", "1"),
    ("--target", "onnx", "--batch", "1"),
)


def main() -> None:
    """Run every setting, one after another."""
    made = parser(__doc__)
    given = made.parse_args()
    command = Path(sys.executable).with_name("profile-device")
    results, rows = [], []
    for setting in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.json"
            call = [str(command), "--sampling", "adaptive", *setting, "--output", str(path)]
            subprocess.run(call, check=True)
            table = LatencyTable.load(path)
        predictor = LatencyPredictor.fit(table)
        session = table.sessions[-1]
        wholes = [network.end_to_end for network in table.networks if network.end_to_end is not None]
        repeat = sorted(whole.repeat_error for whole in wholes if whole.repeat_error is not None)
        held = predictor.held_out_networks
        results.append(
            {
                "setting": str(table.setting),
                "layers": len(table),
                "networks": len(wholes),
                "seconds": session.measuring_s,
                "sampling": session.sampling,
                "held_out_networks": held,
                "repeat_error": repeat[len(repeat) // 2] if repeat else None,
            }
        )
        ended = session.sampling.ended if session.sampling is not None else ""
        rows.append(
            (" ".join(setting), len(table), len(wholes), f"{session.measuring_s:.0f}", f"{held.mape or 0:.1%}", ended)
        )
    print_table(
        "Adaptive sampling, target error 3 %",
        ("setting", "layers", "wholes", "seconds", "error by folds", "ended"),
        rows,
    )
    write_results(given.results, "adaptive", {"results": msgspec.to_builtins(results)})


if __name__ == "__main__":
    main()

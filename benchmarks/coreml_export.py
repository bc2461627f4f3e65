"""How long it takes to make a Core ML bundle, and how large it gets: a whole space in context, and two known networks.

Needs the extra ``coreml`` and no Apple hardware. Times nothing on a device.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from _common import parser, print_table, write_results

from profiler._coreml import load_bundle

COMMAND = "import sys; sys.argv[0] = 'export-coreml'; from profiler._cli.export_coreml import main; main()"
MODELS = Path(__file__).parent / "_models.py"


def export(folder: Path, *options: str) -> dict[str, Any]:
    """Return what a run of the command printed, and the seconds that it took from start to end."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "--output", str(folder), "--json", *options], capture_output=True, text=True
    )
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr)
    return {**json.loads(done.stdout), "wall_s": time.perf_counter() - began}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--space", default="resnet-cifar")
    options.add_argument("--expand", default="2")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        space = export(root / "space", "--space", arguments.space, "--expand", arguments.expand)
        began = time.perf_counter()
        manifest = load_bundle(root / "space")
        verify_s = time.perf_counter() - began
        asked = space["layers"] + len(space["failures"])
        roles = Counter(program.role for program in manifest.programs)
        convert_ms = {r: 1000 * median(p.convert_s for p in manifest.programs if p.role == r) for r in roles}
        networks = []
        for factory in ("resnet18", "mobilenet_v2"):
            made = export(root / factory, "--model", f"{MODELS}:{factory}")
            (program,) = load_bundle(root / factory).programs
            networks.append(
                {
                    "network": factory,
                    "wall_s": made["wall_s"],
                    "convert_s": program.convert_s,
                    "mb": made["bytes"] / 1e6,
                    "operators": program.operators,
                }
            )
    figures = {
        "layers": asked,
        "failures": len(space["failures"]),
        "programs": space["programs"],
        "roles": dict(roles),
        "wall_s": space["wall_s"],
        "s_per_layer": space["wall_s"] / asked,
        "mb": space["bytes"] / 1e6,
        "mb_per_layer": space["bytes"] / 1e6 / asked,
        "median_convert_ms": convert_ms,
        "workers": space["workers"],
        "verify_s": verify_s,
        "software": space["software"],
    }
    print_table(
        f"{arguments.space}, expand {arguments.expand}",
        ["layers", "failed", "programs", "s", "s a layer", "MB", "MB a layer", "verify s"],
        [
            [
                asked,
                figures["failures"],
                space["programs"],
                space["wall_s"],
                figures["s_per_layer"],
                figures["mb"],
                figures["mb_per_layer"],
                verify_s,
            ]
        ],
    )
    print_table(
        "whole networks, 1×3×224×224",
        ["network", "s", "of it converting", "MB"],
        [[n["network"], n["wall_s"], n["convert_s"], n["mb"]] for n in networks],
    )
    write_results(arguments.results, "coreml_export", {"space": figures, "networks": networks})


if __name__ == "__main__":
    main()

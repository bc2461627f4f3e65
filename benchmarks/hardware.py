"""Add this machine to docs/hardware.md: its self-tests, with one thread and with all, and with fewer instructions.

Each self-test is ``profile-device --self-test`` in a process of its own. Where the CPU has AVX-512, they are made again
with the libraries kept to AVX2, as on a machine that has no more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from _common import parser, print_table
from _isa import AVX2

from lut._files import write_atomically
from profiler import cpu_device
from profiler._machine import default_threads

COMMAND = "import sys; sys.argv[0] = 'profile-device'; from profiler._cli.profile_device import main; main()"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "hardware.md"
BEGIN, END = "<!-- rows of benchmarks/hardware.py -->", "<!-- end of rows -->"
HEADER = (
    "machine",
    "instructions",
    "target, batch, threads",
    "sums off by",
    "worst",
    "verdict",
    "a visit",
    "visits/s",
    "564 layers, 112 s",
    "drift",
    "chains: dense, pointwise, depthwise, sums",
)
KINDS = ("dense convolution", "pointwise convolution", "depthwise convolution", "Add")


def tested(target: str, batch: int, threads: int, environment: dict[str, str]) -> dict[str, Any]:
    """Return what a self-test says, as its ``--json`` does."""
    options = ["--target", target, "--batch", str(batch), "--threads", str(threads)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "--self-test", *options, "--when-busy", "measure", "--json"],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, **environment, "XDG_CACHE_HOME": folder},
        )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "target": target, "batch": batch, "threads": threads, "environment": environment}


def row(machine: str, found: dict[str, Any]) -> tuple[str, ...]:
    """Return a self-test as a line of the page's table."""
    chains = [found["chains"].get(kind, {}).get("mean") for kind in KINDS]
    return (
        machine,
        found["instructions"] or ("AVX2" if found["environment"] else "all"),
        f"{found['target']}, {found['batch']}, {found['threads']}",
        f"{found['bias']:+.1%} (±{2 * found['bias_error']:.1%})",
        f"{found['worst']:+.1%}",
        found["verdict"],
        f"±{found['visit_noise']:.1%}",
        f"{found['visits_per_s']:.0f}",
        f"±{found['half_width']:.1%}",
        f"{found['drift']:.1%}",
        ", ".join("–" if mean is None else f"{mean:+.1%}" for mean in chains) if any(chains) else "",
    )


def main() -> None:
    """Test this machine and write its rows."""
    made = parser(__doc__)
    made.add_argument("--name", default=None, help="of the machine, for people; by default the CPU's")
    made.add_argument("--targets", nargs="+", default=["cpu", "onnx"], choices=["cpu", "onnx"])
    given = made.parse_args()
    device = cpu_device()
    name = given.name or f"{device.model}, {device.affinity_cpus} CPUs{', virtual' if device.virtual else ''}"
    has_avx512 = "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8") if sys.platform == "linux" else False
    found = []
    for environment in ({}, AVX2) if has_avx512 else ({},):
        # ONNX Runtime's kernels heed none of the variables that keep PyTorch's libraries to AVX2.
        for target in (t for t in given.targets if t == "cpu" or not environment):
            for threads in sorted({1, default_threads()}):
                batch = 4 if target == "cpu" else 1
                found.append(tested(target, batch, threads, environment))
                print(*row(name, found[-1]), sep=" | ", flush=True)
    store = given.results / "hardware.json"
    machines: dict[str, Any] = json.loads(store.read_bytes())["machines"] if store.exists() else {}
    machines[name] = found
    content = {"benchmark": "hardware", "machines": machines}
    write_atomically(store, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    rows = [row(machine, test) for machine, tests in machines.items() for test in tests]
    print_table("self-tests", HEADER, rows)
    if given.results.resolve() == PAGE.parent.parent / "benchmarks" / "results":
        lines = [" | ".join(("", *cells, "")).strip() for cells in (HEADER, ("---",) * len(HEADER), *rows)]
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        page = f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}"
        write_atomically(PAGE, page.encode())


if __name__ == "__main__":
    main()

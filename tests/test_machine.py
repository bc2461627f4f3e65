"""What the machine says of itself, with other files in the place of /proc and /sys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from profiler._machine import DisturbanceReader, affinity, cpu_device, cpu_quota, default_threads, preflight_warnings


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V2 = {"proc/self/cgroup": "0::/user/job\n"}
V1 = {"proc/self/cgroup": "4:memory:/job\n1:cpu,cpuacct:/job\n"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({**V2, "sys/fs/cgroup/user/job/cpu.max": "100000 100000\n"}, 1.0),
        ({**V2, "sys/fs/cgroup/user/job/cpu.max": "max 100000\n"}, None),
        ({**V2, "sys/fs/cgroup/user/job/cpu.max": "max 100000\n", "sys/fs/cgroup/user/cpu.max": "150000 100000"}, 1.5),
        (
            {**V2, "sys/fs/cgroup/user/job/cpu.max": "50000 100000\n", "sys/fs/cgroup/user/cpu.max": "150000 100000"},
            0.5,
        ),
        ({**V2, "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        (
            {**V1, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000"},
            None,
        ),
        ({**V2, "sys/fs/cgroup/user/job/cpu.max": "garbage"}, None),
        ({}, None),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(write(tmp_path, files)) == quota


def test_a_quota_of_one_cpu_gives_one_thread(tmp_path: Path) -> None:
    assert default_threads(write(tmp_path, {**V2, "sys/fs/cgroup/user/job/cpu.max": "100000 100000\n"})) == 1
    assert default_threads(write(tmp_path, {**V2, "sys/fs/cgroup/user/job/cpu.max": "30000 100000\n"})) == 1
    assert default_threads(tmp_path / "nothing") == len(affinity())


def test_a_real_quota_of_one_cpu_gives_one_thread() -> None:
    group = Path("/sys/fs/cgroup/cpu/latency-lut-test")
    if not group.parent.is_dir() or os.geteuid() != 0:
        pytest.skip("needs root and version 1 control groups with a writable cpu hierarchy")
    try:
        group.mkdir(exist_ok=True)
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        pytest.skip(f"needs a writable cpu hierarchy: {error}")
    try:
        script = (
            f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "from profiler._machine import default_threads; print(default_threads())"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "1\n"
    finally:
        group.rmdir()


def test_counters(tmp_path: Path) -> None:
    files = {
        **V2,
        "proc/stat": "cpu  1 2 3 4 5 6 7 99 0 0\n"
        + "".join(f"cpu{n} 1 1 1 1 1 1 1 {44 if n in affinity() else 7} 0 0\n" for n in range(256)),
        "sys/fs/cgroup/user/job/cpu.stat": "nr_periods 5\nnr_throttled 3\nthrottled_usec 9\n",
    }
    reader = DisturbanceReader(write(tmp_path, files))
    assert reader.stolen_and_throttled() == (44 * len(affinity()), 3)
    preemptions, faults = reader.preemptions_and_faults()
    assert preemptions >= 0
    assert faults > 0
    reader.close()
    empty = DisturbanceReader(tmp_path / "nothing")
    assert empty.stolen_and_throttled() == (0, 0)


def test_the_device_names_no_person_and_no_host() -> None:
    import getpass
    import socket

    device = cpu_device()
    text = msgspec.json.encode(device).decode()
    assert device.cores >= device.affinity_cpus >= 1
    assert device.model
    if len(socket.gethostname()) > 3:
        assert socket.gethostname() not in text
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text


def test_warnings_name_what_disturbs() -> None:
    device = msgspec.structs.replace(cpu_device(), governor="powersave", virtual=True, quota_cpus=1.0, affinity_cpus=2)
    text = " ".join(preflight_warnings(device, threads=4, load=0.0))
    for part in ("powersave", "virtual machine", "quota allows 1 of 2", "4 threads share 2"):
        assert part in text

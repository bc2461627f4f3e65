"""What machine this is and what disturbs it: fingerprint, usable CPUs, container quota, kernel counters.

Everything is read from the operating system's files, Linux first; what a system does not tell is ``None``, never a
guess. ``root`` arguments let tests put other files in the place of ``/proc`` and ``/sys``.
"""

from __future__ import annotations

import os
import platform
import re
import resource
from pathlib import Path

from lut import Device

__all__ = [
    "DisturbanceReader",
    "affinity",
    "available_memory_bytes",
    "cpu_device",
    "cpu_quota",
    "default_threads",
    "load_average",
    "preflight_warnings",
]

ROOT = Path("/")


def affinity() -> tuple[int, ...]:
    """Return the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return how many CPUs the container's quota allows, the tightest of all enclosing groups; ``None`` without one."""
    tightest: float | None = None
    for folder in _cgroup_folders(root):
        for read in (_quota_v2, _quota_v1):
            quota = read(folder)
            if quota is not None:
                tightest = quota if tightest is None else min(tightest, quota)
    return tightest


def _cgroup_folders(root: Path) -> list[Path]:
    """Return this process's CPU control groups, innermost first, up to the hierarchy's root (cgroups(7))."""
    folders: list[Path] = []
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",")
        if number == "0" and not controllers:
            mounts = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in names:
            mounts = [root / "sys/fs/cgroup/cpu", root / "sys/fs/cgroup/cpu,cpuacct"]
        else:
            continue
        for mount in mounts:
            # In a container the path may name the host's hierarchy, of which only the mount's root is visible.
            inner = mount / path.strip("/")
            while inner != mount:
                folders.append(inner)
                inner = inner.parent
            folders.append(mount)
    return folders


def _quota_v2(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) > 0:
        return int(words[0]) / int(words[1])
    return None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
    if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
        return int(quota) / int(period)
    return None


def default_threads(root: Path = ROOT) -> int:
    """Return how many threads can really run at once: CPUs in the affinity mask, and no more than the quota."""
    quota = cpu_quota(root)
    allowed = len(affinity())
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def available_memory_bytes() -> int | None:
    """Return how much memory new work may take without swapping, or ``None`` where the system does not tell."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _text(ROOT / "proc/meminfo"), re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def cpu_device(*, instructions: str | None = None) -> Device:
    """Return this machine's CPU as a table's device. No host name, no user, no serial number."""
    info = _text(ROOT / "proc/cpuinfo")
    policy = ROOT / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    no_turbo = _text(ROOT / "sys/devices/system/cpu/intel_pstate/no_turbo").strip()
    boost = _text(ROOT / "sys/devices/system/cpu/cpufreq/boost").strip()
    turbo = no_turbo == "0" if no_turbo else boost == "1" if boost else None
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _text(ROOT / "proc/meminfo"), re.MULTILINE)
    return Device(
        kind="cpu",
        model=_cpu_model(info),
        architecture=platform.machine() or "unknown",
        system=f"{platform.system()} {platform.release().split('-')[0]}",
        cores=os.cpu_count() or 1,
        affinity_cpus=len(affinity()),
        quota_cpus=cpu_quota(),
        memory_gib=round(int(memory.group(1)) / 2**20, 1) if memory else None,
        governor=_text(policy).strip() or None,
        turbo=turbo,
        virtual=bool(re.search(r"^flags\s*:.*\bhypervisor\b", info, re.MULTILINE)) if info else None,
        microcode=_field(info, "microcode"),
        instructions=instructions,
    )


def _cpu_model(info: str) -> str:
    model = _field(info, "model name") or _field(info, "Hardware") or platform.processor() or "unknown CPU"
    # A cloud's name for its CPU ("AMD EPYC") hides the generation that decides the kernels: family and model tell.
    family, number = _field(info, "cpu family"), _field(info, "model")
    if family and number and not re.search(r"\d", model):
        model += f" (family {family}, model {number})"
    return model


def _field(text: str, name: str) -> str | None:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None


def load_average() -> float:
    """Return how many processes wanted a core, over the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def preflight_warnings(device: Device, threads: int, load: float, root: Path = ROOT) -> tuple[str, ...]:
    """Return what about this machine makes latencies less repeatable; ``load`` is that from before the run."""
    found: list[str] = []
    if load > 0.3 * device.cores:
        found.append(f"the machine was busy before the run: load average {load:.1f} on {device.cores} cores")
    if device.governor and device.governor not in ("performance", "schedutil"):
        found.append(f"the CPU frequency governor is {device.governor!r}; 'performance' keeps the clock steadier")
    if device.turbo:
        found.append("turbo is on: the clock depends on temperature and on what the other cores do")
    swap = {
        name: int(kb) for name, kb in re.findall(r"^(Swap\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    }
    if swap.get("SwapTotal", 0) - swap.get("SwapFree", 0) > swap.get("SwapTotal", 0) / 10:
        found.append("the machine is swapping: memory is short")
    if device.virtual:
        found.append("a virtual machine: its neighbours on the host can slow it without being seen from inside")
    if device.quota_cpus is not None and device.quota_cpus < device.affinity_cpus:
        found.append(f"a container quota allows {device.quota_cpus:g} of {device.affinity_cpus} CPUs")
    if threads > device.affinity_cpus:
        found.append(f"{threads} threads share {device.affinity_cpus} CPUs")
    memory = available_memory_bytes()
    if memory is not None and memory < 2**30:
        found.append(f"only {memory >> 20} MiB of memory are available")
    return tuple(found)


class DisturbanceReader:
    """Reads the kernel's counters of what disturbs a measurement; the files are found once and stay open. Final."""

    def __init__(self, root: Path = ROOT) -> None:
        folders = [folder for folder in _cgroup_folders(root) if (folder / "cpu.stat").exists()]
        self._stat = _open(root / "proc/stat")
        self._cpus = frozenset(f"cpu{number}".encode() for number in affinity())
        self._throttle = [fd for fd in map(_open, (folder / "cpu.stat" for folder in folders)) if fd is not None]

    def preemptions_and_faults(self) -> tuple[int, int]:
        """Return this process's involuntary context switches and minor page faults so far, all threads together."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_nivcsw, usage.ru_minflt

    def stolen_and_throttled(self) -> tuple[int, int]:
        """Return our CPUs' steal ticks (hundredths of a second) and this container's throttled periods so far."""
        stolen = 0
        if self._stat is not None:
            # One line per CPU; only those that this process may run on disturb it.
            for line in os.pread(self._stat, 1 << 16, 0).splitlines():
                words = line.split()
                if words and words[0] in self._cpus and len(words) > 8:
                    stolen += int(words[8])
        throttled = 0
        for descriptor in self._throttle:
            match = re.search(rb"nr_throttled (\d+)", os.pread(descriptor, 1024, 0))
            throttled += int(match.group(1)) if match else 0
        return stolen, throttled

    def close(self) -> None:
        """Close the files."""
        for descriptor in (self._stat, *self._throttle):
            if descriptor is not None:
                os.close(descriptor)
        self._stat, self._throttle = None, []


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()

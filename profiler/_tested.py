"""What the self-test found on this machine: kept in the user's cache folder, for later sessions to know."""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot, sqrt
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Literal

import msgspec

from lut import Device, Setting
from lut._files import read_bytes, write_atomically
from lut._records import Software
from lut.errors import FileAccessError
from profiler._contexts import Offset
from profiler._reference import machine_key, make_folder

__all__ = [
    "BUDGET_S",
    "LAYERS",
    "SelfTest",
    "SumCheck",
    "asked_for",
    "identity_of",
    "keep_self_test",
    "kept_self_test",
    "self_test_path",
    "was_tested",
]

# Sums that are off by more, on average or any of them, do not hold.
HOLDS, WORST_HOLDS = 0.05, 0.10
Verdict = Literal["hold", "do not hold", "cannot be told"]
# Standard errors on either side of an interval of 95 %.
REACH = NormalDist().inv_cdf(0.975)
LARGEST = 8 << 20
LARGEST_MS, LARGEST_SHARE = 1e9, 1e3
# Options that make another machine of the one that was tested.
ASKED = ("compile", "threads", "dtype", "memory_format", "context", "provider", "spinning", "mode", "device")
FORMAT = "latency-lut-self-tests-1"
# What an interval is told for: the layers of the default space, in the default time.
LAYERS, BUDGET_S = 564, 112.0


class SumCheck(msgspec.Struct, frozen=True):
    """A network that gave no layer its value: what its layers add up to, and what it takes, in ms.

    ``uncertainty``: standard error of :attr:`error`, from the intervals of both; ``shared``: that of what chains make
    of its layers, which is the same in all networks.
    """

    network: str
    sum_ms: float
    whole_ms: float
    uncertainty: float = 0.0
    shared: float = 0.0

    @property
    def error(self) -> float:
        """How far the sum is off, as a share."""
        return self.sum_ms / self.whole_ms - 1


class SelfTest(msgspec.Struct, frozen=True):
    """What was found.

    Args:
        taken_at: when, UTC.
        device: the model's name.
        identity: what else makes it this machine.
        instructions: the widest vector instructions that are used, if known.
        setting: how it was run.
        software: the runtime's version.
        asked: the target and its options, but for the batch.
        sums: the networks that were judged.
        visit_noise: standard deviation of a visit, in log(ms).
        visits_per_s: to layers, networks included in the time.
        drift: of the machine's speed during the test, as a standard deviation of log(ms).
        chains: what chains make of layers, by kind of work.
        chain_length: layers of a chain; 0 where layers are not timed in chains.
        seconds: of measuring.
    """

    taken_at: str
    device: str
    identity: tuple[str, ...]
    instructions: str | None
    setting: str
    software: str
    asked: str
    sums: tuple[SumCheck, ...]
    visit_noise: float
    visits_per_s: float
    drift: float
    chains: dict[str, Offset]
    chain_length: int
    seconds: float

    @property
    def is_possible(self) -> bool:
        """Whether these can be a test's figures."""
        times = [ms for check in self.sums for ms in (check.sum_ms, check.whole_ms)]
        shares = [self.visit_noise, self.drift, *(u for check in self.sums for u in (check.uncertainty, check.shared))]
        return (
            all(0 < ms < LARGEST_MS for ms in times)
            and all(0 <= share < LARGEST_SHARE for share in shares)
            and all(offset.is_possible for offset in self.chains.values())
        )

    @property
    def bias(self) -> float:
        """Mean error of the sums, as a share."""
        return fmean(check.error for check in self.sums) if self.sums else 0.0

    @property
    def worst(self) -> float:
        """The error of the sum that is furthest off, as a share."""
        return max((check.error for check in self.sums), key=abs, default=0.0)

    @property
    def bias_error(self) -> float:
        """Standard error of :attr:`bias`."""
        if not self.sums:
            return 0.0
        own = fmean(check.uncertainty**2 for check in self.sums) / len(self.sums)
        return sqrt(own + fmean(check.shared**2 for check in self.sums))

    @property
    def verdict(self) -> Verdict:
        """Whether sums of layers give networks on this machine, as far as its noise allows to tell."""
        if not self.sums:
            return "cannot be told"
        far = max(abs(check.error) - REACH * hypot(check.uncertainty, check.shared) for check in self.sums)
        if abs(self.bias) - REACH * self.bias_error > HOLDS or far > WORST_HOLDS:
            return "do not hold"
        return "hold" if max(abs(self.bias), REACH * self.bias_error) <= HOLDS else "cannot be told"

    def half_width(self, layers: int = LAYERS, seconds: float = BUDGET_S) -> float:
        """Return how narrow intervals of 95 % get on average, as a share, where so many layers have so long."""
        visits = max(1.0, self.visits_per_s * seconds / layers)
        return REACH * self.visit_noise / sqrt(visits)


class _Store(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    tests: dict[str, SelfTest]


def self_test_path(reference: Path) -> Path:
    """Return where self-tests are kept: beside the machine's reference speeds."""
    return reference.with_name("self-tests.json")


def kept_self_test(path: Path, device: Device, setting: Setting, software: Software) -> SelfTest | None:
    """Return what the self-test of this machine found, if there was one; batches share it.

    A damaged file is none: what it held can be found again.
    """
    return _load(path).tests.get(_machine(device, setting, software))


def _machine(device: Device, setting: Setting, software: Software) -> str:
    return machine_key(device, msgspec.structs.replace(setting, batch=1), software)


def _load(path: Path) -> _Store:
    try:
        store = msgspec.json.decode(read_bytes(path, limit=LARGEST), type=_Store)
    except (FileAccessError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Store(FORMAT, {})
    if store.format != FORMAT:
        return _Store(FORMAT, {})
    # What no machine can have said is nothing that anybody said.
    return _Store(FORMAT, {key: test for key, test in store.tests.items() if test.is_possible})


def asked_for(target: str, options: Mapping[str, object]) -> str:
    """Return a target and how it is to run, as a self-test notes it: but for the batch, which tests share."""
    said = {name: value for name, value in options.items() if name in ASKED and value is not None}
    return msgspec.json.encode([target, said], order="sorted").decode()


def identity_of(device: Device) -> tuple[str, ...]:
    """Return what tells a machine from others before anything is loaded."""
    return tuple(str(getattr(device, field)) for field in (*Device.IDENTITY, "governor", "turbo", "microcode"))


def was_tested(path: Path, device: Device, target: str, options: Mapping[str, object], software: str) -> bool:
    """Return whether this device was tested with a target, these options and a version of its runtime."""
    asked, identity = asked_for(target, options), identity_of(device)
    return any(
        # What a package calls itself once installed may lack the build's name, "+cu128", that it has once loaded.
        test.identity == identity and test.asked == asked and _release(test.software) == _release(software)
        for test in _load(path).tests.values()
    )


def _release(software: str) -> str:
    return software.partition("+")[0]


def keep_self_test(path: Path, device: Device, setting: Setting, software: Software, found: SelfTest) -> None:
    """Keep what a self-test found.

    Raises:
        FileAccessError: the cache folder does not allow it.
    """
    make_folder(path)
    store = _load(path)
    store.tests[_machine(device, setting, software)] = found
    write_atomically(path, msgspec.json.format(msgspec.json.encode(store), indent=1))

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
from profiler._contexts import ANY_KIND, Offset
from profiler._reference import machine_key

__all__ = [
    "BUDGET_S",
    "LAYERS",
    "SelfTest",
    "SumCheck",
    "asked_for",
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
# Options that make another machine of the one that was tested.
ASKED = ("threads", "dtype", "memory_format", "context", "provider", "spinning", "mode", "device")
FORMAT = "latency-lut-self-tests-1"
# What an interval is told for: the layers of the default space, in the default time.
LAYERS, BUDGET_S = 564, 112.0


class SumCheck(msgspec.Struct, frozen=True):
    """A network that gave no layer its value: what its layers add up to, and what it takes, in ms.

    ``uncertainty``: standard error of :attr:`error`, from the intervals of both.
    """

    network: str
    sum_ms: float
    whole_ms: float
    uncertainty: float = 0.0

    @property
    def error(self) -> float:
        """How far the sum is off, as a share."""
        return self.sum_ms / self.whole_ms - 1


class SelfTest(msgspec.Struct, frozen=True):
    """What was found.

    Args:
        taken_at: when, UTC.
        device: the model's name.
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
        # What is not known of chains is the same for all of them.
        shared = self.chains[ANY_KIND].error if ANY_KIND in self.chains else 0.0
        return sqrt(fmean([check.uncertainty**2 for check in self.sums] or [0.0]) / max(1, len(self.sums)) + shared)

    @property
    def verdict(self) -> Verdict:
        """Whether sums of layers give networks on this machine, as far as its noise allows to tell."""
        if not self.sums:
            return "cannot be told"
        far = max(abs(check.error) - REACH * hypot(check.uncertainty, self.bias_error) for check in self.sums)
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
    return store if store.format == FORMAT else _Store(FORMAT, {})


def asked_for(target: str, options: Mapping[str, object]) -> str:
    """Return a target and how it is to run, as a self-test notes it: but for the batch, which tests share."""
    said = {name: value for name, value in options.items() if name in ASKED and value is not None}
    return msgspec.json.encode([target, said], order="sorted").decode()


def was_tested(path: Path, model: str, target: str, options: Mapping[str, object]) -> bool:
    """Return whether a device of this model was tested with a target and these options."""
    asked = asked_for(target, options)
    return any(test.device == model and test.asked == asked for test in _load(path).tests.values())


def keep_self_test(path: Path, device: Device, setting: Setting, software: Software, found: SelfTest) -> None:
    """Keep what a self-test found.

    Raises:
        FileAccessError: the cache folder does not allow it.
    """
    store = _load(path)
    store.tests[_machine(device, setting, software)] = found
    write_atomically(path, msgspec.json.format(msgspec.json.encode(store), indent=1))

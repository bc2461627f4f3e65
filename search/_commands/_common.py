"""What the searches' commands share: a device to train on, checks of options, and the end of what is printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from search._runs._sittings import RunClock

__all__ = [
    "CALIBRATION_S",
    "check_calibration",
    "checked_then",
    "closing_line",
    "print_end",
    "training_device",
    "training_devices",
]

# Of measuring networks of the space, in seconds.
CALIBRATION_S = 60.0


def closing_line(clock: RunClock, *, resumed: bool) -> str:
    """Return the time that a run took, over all its sittings where these are known."""
    from lut._console import duration

    if clock.sittings > 1:
        return f"{duration(clock.total_s)} in all, in {clock.sittings} sittings"
    # A run of an earlier version, which kept no time.
    return f"{duration(clock.total_s)} in {'this sitting' if resumed else 'all'}"


def print_end(
    console: Console, output: Path, files: Mapping[str, str], exported: Mapping[str, str], closing: str
) -> None:
    """Print how long a run took, and which of its files somebody goes on with."""
    from search._runs._folder import NETWORK, REPORT, WEIGHTS

    console.print()
    console.print(closing)
    for name, what in files.items():
        if name in (NETWORK, WEIGHTS, REPORT) and (output / name).exists():
            console.print(f"{output / name}  {what}")
    for kind, path in exported.items():
        console.print(f"{path}  {kind}")


def check_calibration(count: int, level: float | None) -> None:
    """See that so many measured networks are a calibration, and give intervals of a level; ``None``: of none."""
    from lut import UsageError
    from predictors._interval import least_networks
    from search._problem._calibrate import check_count

    if not count:
        return
    check_count(count)
    if level is not None and 0 < level < 1 and count < (need := least_networks(level)):
        raise UsageError(
            f"an interval of {level:.0%} needs {need} measured networks: give --calibrate {need}, a lower --level, or "
            "--bound predicted"
        )


def checked_then(then: list[str] | None) -> tuple[str, ...]:
    """Return what is to become of the network found, without doubles; what that needs is known to be installed."""
    from importlib.util import find_spec

    from lut._suggest import check_word
    from lut.errors import TargetUnavailableError

    wanted = tuple(dict.fromkeys(then or ()))
    for word in wanted:
        check_word("--then", word, ("onnx", "export-coreml"))
        # Better now than after hours.
        needed, extra = (("onnxruntime", "onnx"), "onnx") if word == "onnx" else (("coremltools",), "coreml")
        missing = [name for name in needed if find_spec(name) is None]
        if missing:
            raise TargetUnavailableError(f"--then {word} needs {' and '.join(missing)}: pip install -e '.[{extra}]'")
    return wanted


def training_device(device: str | None) -> str:
    """Return where to train: the device asked for, known to be there, or a GPU where there is one."""
    import torch

    from lut import UsageError

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return device


def training_devices(devices: str | None) -> tuple[str, ...]:
    """Return where to train, of devices with commas between them: see :func:`training_device`."""
    return tuple(training_device(name.strip() or None) for name in (devices or "").split(","))

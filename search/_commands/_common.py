"""What the searches' commands share: a predictor, a device to train on, and what becomes of the network found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from lut import Network
    from predictors import LatencyPredictor
    from search._commands._phases import Phases
    from search._runs._sittings import RunClock

__all__ = [
    "CALIBRATION_S",
    "LARGEST_SEED",
    "check_calibration",
    "checked_bound",
    "checked_then",
    "closing_line",
    "hand_on",
    "print_end",
    "refuse_unmeasured",
    "training_device",
    "training_devices",
]

# PyTorch's generators take no larger one.
LARGEST_SEED = 2**63 - 1
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
    from search._runs._parts import NETWORK, REPORT, WEIGHTS

    console.print()
    console.print(closing)
    for name, what in files.items():
        if name in (NETWORK, WEIGHTS, REPORT) and (output / name).exists():
            console.print(f"{output / name}  {what}")
    for kind, path in exported.items():
        console.print(f"{path}  {kind}")


def refuse_unmeasured(not_measured: str | None) -> None:
    """Raise :class:`~lut.errors.IncompleteError` where a measurement was asked for and failed, and why it did."""
    from lut.errors import IncompleteError
    from search._runs._parts import NOT_ASKED

    if not_measured is not None and not_measured != NOT_ASKED:
        raise IncompleteError(f"the network found could not be measured: {not_measured}")


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


def checked_bound(bound: str, budget_ms: float | None) -> str:
    """Return what a budget of ms is for: without one nobody asks for the upper end of an interval."""
    from lut._suggest import check_word

    check_word("--bound", bound, ("upper", "predicted"))
    return bound if budget_ms is not None else "predicted"


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


def hand_on(
    wanted: tuple[str, ...],
    network: Network,
    base: Network,
    weights: Path,
    predictor: LatencyPredictor | None,
    output: Path,
    phases: Phases,
) -> dict[str, str]:
    """Export the network found as asked, and a bundle of it and the base network; return what was written, by kind.

    Without trained weights there is no network to deploy, and only the bundle, which is for timing, is written.
    """
    from lut import UsageError
    from profiler._export import export_bundle, export_trained
    from search._training._weights import load_weights

    written = {}
    setting = None if predictor is None else predictor.setting
    batch = 1 if setting is None else setting.batch
    for word in wanted:
        phases.phase(f"Exporting ({word})")
        module = load_weights(weights, network) if weights.exists() else None
        if word == "onnx":
            if module is None:
                raise UsageError("--then onnx exports a trained network, and nothing was trained")
            written["onnx"] = str(export_trained(network, module, to="onnx", path=output / "network.onnx", batch=batch))
            continue
        # A phone takes one image at a time, whatever the search's device takes.
        images = batch if setting is not None and setting.target == "coreml" else 1
        if module is not None:
            path = output / "network.mlpackage"
            written["coreml"] = str(export_trained(network, module, to="coreml", path=path, batch=images))
        bundle = output / "bundle"
        export_bundle([network, base], bundle, batch=images, restart=True)
        written["bundle"] = str(bundle)
    return written

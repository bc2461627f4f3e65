"""What becomes of the network found: trained beside the base network, measured beside it, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lut import Network, UsageError
from lut.errors import IncompleteError, ProfileError
from predictors import LatencyPredictor
from profiler._compare import Ratio
from search._data._images import ImageData
from search._runs._folder import BASE_WEIGHTS, CHECKPOINTS, WEIGHTS
from search._runs._measurement import Compare
from search._runs._reporter import Reporter
from search._runs._verify import Verification
from search._training._checkpoint import content_digest
from search._training._recipe import Recipe
from search._training._train import Trained, train
from search._training._weights import build_network, load_weights, save_weights

__all__ = ["NOT_ASKED", "Measured", "export_found", "measure_both", "measured_before", "train_both", "try_device"]

# Why there is no measurement, where nobody wanted one.
NOT_ASKED = "it was not asked for"
# Seconds of measuring the base network before anything else: on another device nothing needs to be begun.
TRIAL_S = 3.0


class Measured(NamedTuple):
    """The winner and the base network on the device: predicted beside measured, in ms, and how many times as fast.

    Latencies stand at the machine's reference speed where it has one; ``winner_raw_ms``: the winner's as the clock gave
    it; ``winner_day_low_ms`` … ``winner_day_high_ms``: where another day's measurement of it will lie (95 %).
    """

    winner_ms: float
    winner_low_ms: float
    winner_high_ms: float
    base_ms: float
    base_low_ms: float
    base_high_ms: float
    speed_up: Ratio
    warnings: tuple[str, ...]
    winner_raw_ms: float | None = None
    winner_day_low_ms: float | None = None
    winner_day_high_ms: float | None = None
    at_reference: bool = False


def train_both(
    base: Network,
    found: Network,
    data: ImageData,
    recipe: Recipe,
    output: Path,
    *,
    seed: int,
    device: str,
    distil: bool,
    tell: Reporter,
) -> tuple[Trained, Trained]:
    """Train the base network and the one found by one recipe, or go on with that, and keep their weights.

    Args:
        base: its weights go to ``base.safetensors``.
        found: its weights go to ``weights.safetensors``.
        data: to train and test on.
        recipe: of both.
        output: the run's folder.
        seed: of the weights at the start, and of the order of the images.
        device: PyTorch's name of where to train.
        distil: whether the base network teaches the one found.
        tell: told where a training stands.
    """

    def trained(network: Network, name: str, file: str, teacher: Any = None, run: str = "") -> Trained:
        tell.phase(f"Training {name}")
        module = build_network(network, seed=seed)
        history = train(
            module,
            data,
            recipe,
            seed=seed,
            device=device,
            teacher=teacher,
            checkpoint=output / CHECKPOINTS / file,
            run=run,
            progress=tell.training,
        )
        save_weights(output / file, network, module.cpu())
        return history

    base_trained = trained(base, "the base network", BASE_WEIGHTS)
    teacher, taught_by = None, ""
    if distil:
        teacher = load_weights(output / BASE_WEIGHTS, base)
        taught_by = content_digest(output / BASE_WEIGHTS)
    return base_trained, trained(found, "the network found", WEIGHTS, teacher, taught_by)


def try_device(base: Network, predictor: LatencyPredictor, compare: Compare) -> None:
    """See that the predictor's device is this one and can measure.

    Raises:
        UnlikeTablesError: it is another one.
        TargetUnavailableError: it cannot.
    """
    compare([base], setting=predictor.setting, device=predictor.device, time_budget_s=TRIAL_S)


def measure_both(
    base: Network,
    found: Network,
    predictor: LatencyPredictor,
    *,
    seconds: float,
    seed: int,
    compare: Compare,
    tell: Reporter,
) -> tuple[Measured | None, str | None]:
    """Measure the base network and the one found in turns; return that, or why it is not there."""
    try:
        comparison = compare(
            [base, found],
            setting=predictor.setting,
            device=predictor.device,
            time_budget_s=seconds,
            seed=seed,
            progress=tell.measuring,
        )
    except (IncompleteError, ProfileError) as error:
        # All else that the run found is not lost for that.
        return None, str(error)
    of_base, winner = comparison.networks
    return (
        Measured(
            winner.ms,
            winner.low_ms,
            winner.high_ms,
            of_base.ms,
            of_base.low_ms,
            of_base.high_ms,
            comparison.ratio(0, 1),
            comparison.warnings,
            winner.raw_ms,
            winner.day_low_ms,
            winner.day_high_ms,
            comparison.at_reference,
        ),
        None,
    )


def measured_before(verification: Verification) -> Measured | None:
    """Return what a verification measured of its result and the base network, over all its sessions."""
    network = verification.checked(verification.chosen or verification.nearest)
    if network is None:
        return None
    timed, base = network.timed, verification.base
    # What made the others' sessions less certain is told where these are.
    last = [done for done in verification.rounds if network.vector in {one.vector for one in done.networks}][-1]
    return Measured(
        timed.ms,
        timed.low_ms,
        timed.high_ms,
        base.ms,
        base.low_ms,
        base.high_ms,
        Ratio(*network.speed_up),
        last.warnings,
        timed.raw_ms,
        timed.day_low_ms,
        timed.day_high_ms,
        all(done.at_reference for done in verification.rounds),
    )


def export_found(
    wanted: tuple[str, ...],
    network: Network,
    base: Network,
    predictor: LatencyPredictor | None,
    output: Path,
    tell: Reporter,
) -> dict[str, str]:
    """Export the network found as asked, and a bundle of it and the base network; return what was written, by kind.

    Without trained weights there is no network to deploy, and only the bundle, which is for timing, is written.
    """
    from profiler._export import export_bundle, export_trained

    written = {}
    weights = output / WEIGHTS
    setting = None if predictor is None else predictor.setting
    batch = 1 if setting is None else setting.batch
    for word in wanted:
        tell.phase(f"Exporting ({word})")
        module = load_weights(weights, network) if weights.exists() else None
        if word == "onnx":
            if module is None:
                raise UsageError("an ONNX file (--then onnx) is of a trained network, and nothing was trained")
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

"""What the benchmarks of searches share: data, recipe, one search with its training, and where real data lies."""

from __future__ import annotations

import os
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from lut import LatencyTable, Network
from lut._files import read_bytes, write_atomically
from predictors import LatencyPredictor, measured_curves
from search import ImageData, Problem, Recipe, build_network, htas, load_data, load_weights, save_weights, subset, train
from search.spaces import ResNetCifar, hardware_aware_sets, ratio_widths, selected_widths, uniform_widths

DATA = Path(os.environ.get("LATENCY_LUT_DATA", Path(__file__).parents[2] / "shared" / "data"))
CIFAR = DATA / "cifar10" / "cifar10_jpeg.tar.gz"
ARMS = ("hardware", "uniform", "ratios")
EXPAND, GROUPS = 2.0, 8
# The budget of the predicted upper bound, as a share of the base network's.
SHARE = 0.6


class Scale(NamedTuple):
    """How large an experiment is; the default is sized for two cores."""

    depth: int = 20
    train_images: int = 2000
    test_images: int = 2000
    search_epochs: int = 24
    train_epochs: int = 40
    batch_size: int = 32
    precision: str = "bfloat16"


FULL = Scale(
    depth=32,
    train_images=50_000,
    test_images=10_000,
    search_epochs=600,
    train_epochs=300,
    batch_size=256,
    precision="bfloat16",
)


def images(scale: Scale, seed: int) -> ImageData:
    """Return CIFAR-10, or a part of it with as many images of each class."""
    return images_of(scale.train_images, scale.test_images, seed)


def images_of(train_images: int, test_images: int, seed: int) -> ImageData:
    """Return so many images of CIFAR-10, as many of each class."""
    if not CIFAR.exists():
        raise SystemExit(f"skipped: {CIFAR} is not there (LATENCY_LUT_DATA names the folder)")
    data = load_data(f"cifar10:{CIFAR}")
    if train_images == len(data.train_labels) and test_images == len(data.test_labels):
        return data
    return subset(data, train=train_images, test=test_images, seed=seed)


def settings(scale: Scale) -> tuple[htas.Settings, Recipe]:
    """Return the search's settings and the trainings' recipe: TAS's, shortened where the scale is short."""
    short = scale.search_epochs < FULL.search_epochs
    first = 0.5 if short else 0.0
    steps = int((1 - first) * scale.search_epochs * (scale.train_images // 2 // scale.batch_size))
    shared = Recipe(
        epochs=scale.search_epochs - (2 if short else 0),
        warmup_epochs=2 if short else 0,
        batch_size=scale.batch_size,
        precision=scale.precision,  # type: ignore[arg-type]
    )
    search = htas.Settings(recipe=shared, penalty="band", weights_first=first, validated=500)
    recipe = Recipe(
        epochs=scale.train_epochs,
        warmup_epochs=2 if short else 5,
        batch_size=64 if short else scale.batch_size,
        precision=scale.precision,  # type: ignore[arg-type]
        channels_last=True,
    )
    return (search.short(steps) if short else search), recipe


def space_of(arm: str, table: LatencyTable, depth: int, classes: int = 10) -> ResNetCifar:
    """Return the space of an arm: HTAS's widths of this table, a uniform grid of as many, or TAS's ratios."""
    whole = ResNetCifar(depth=depth, expand=EXPAND, classes=classes)
    if arm == "hardware":
        widths = selected_widths(hardware_aware_sets(whole, measured_curves(table), groups=GROUPS))
    elif arm == "uniform":
        widths = uniform_widths(whole, GROUPS)
    else:
        widths = ratio_widths(whole)
    return ResNetCifar(depth=depth, expand=EXPAND, widths=widths, depths="tas", classes=classes)


def budget_of(predictor: LatencyPredictor, depth: int) -> float:
    """Return the budget in ms that all arms share."""
    base = predictor.predict(ResNetCifar(depth=depth).base_network())
    assert base.high_ms is not None
    return SHARE * base.high_ms


def claim(folder: Path, scale: Scale, table: LatencyTable, budget_ms: float) -> None:
    """Make a work folder, or see that what it keeps is of this scale, table and budget.

    Raises:
        SystemExit: it is of others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "stamp.json"
    mine = msgspec.json.encode({"scale": scale, "table": sha256(table.to_json()).hexdigest(), "budget_ms": budget_ms})
    if stamp.exists() and read_bytes(stamp) != mine:
        raise SystemExit(f"{folder} keeps what was done at another scale, table or budget: give another --work")
    write_atomically(stamp, mine)


class Run(msgspec.Struct, frozen=True):
    """A search and its training: what was found, and how good it became; kept in a file, so that none is done twice."""

    name: str
    network: Network
    predicted_ms: float
    high_ms: float
    accuracy: float
    search_accuracy: float
    search_s: float
    train_s: float


def teacher_of(folder: Path, data: ImageData, scale: Scale, seed: int, device: str) -> tuple[Path, float, float]:
    """Train the base network, or take it from the folder; returns its weights' file, accuracy and seconds."""
    base = ResNetCifar(depth=scale.depth).base_network()
    weights, note = folder / f"base-{seed}.safetensors", folder / f"base-{seed}.json"
    if not note.exists():
        began = time.monotonic()
        module = build_network(base, seed=seed)
        trained = train(
            module, data, settings(scale)[1], seed=seed, device=device, checkpoint=folder / f"base-{seed}.checkpoint"
        )
        save_weights(weights, base, module.cpu())
        content = {"accuracy": trained.test_accuracy, "seconds": time.monotonic() - began}
        write_atomically(note, msgspec.json.encode(content))
    found = msgspec.json.decode(read_bytes(note))
    return weights, found["accuracy"], found["seconds"]


def run_once(
    folder: Path,
    name: str,
    problem: Problem,
    data: ImageData,
    scale: Scale,
    *,
    budget_ms: float,
    seed: int,
    device: str,
) -> Run:
    """Search and train, from where an interrupted run stopped; all of it is kept in the folder."""
    record = folder / f"{name}.json"
    if record.exists():
        return msgspec.json.decode(read_bytes(record), type=Run)
    search, recipe = settings(scale)
    weights, _, _ = teacher_of(folder, data, scale, seed, device)
    began = time.monotonic()
    found = htas.search(
        problem.replace(ms=budget_ms),
        data,
        settings=search,
        seed=seed,
        device=device,
        folder=folder / f"{name}-search",
    )
    searched = time.monotonic()
    network, prediction = found.networks[0], found.predictions[0]
    module = build_network(network, seed=seed)
    teacher = load_weights(weights, ResNetCifar(depth=scale.depth).base_network())
    trained = train(
        module, data, recipe, seed=seed, device=device, teacher=teacher, checkpoint=folder / f"{name}.training"
    )
    assert prediction.high_ms is not None
    run = Run(
        name=name,
        network=Network(name, network.layers),
        predicted_ms=prediction.ms,
        high_ms=prediction.high_ms,
        accuracy=trained.test_accuracy,
        search_accuracy=found.course.history[-1].accuracy,
        search_s=searched - began,
        train_s=time.monotonic() - searched,
    )
    write_atomically(record, msgspec.json.encode(run))
    print(
        f"{name}: predicted {run.predicted_ms:.3f} (≤ {run.high_ms:.3f}) ms of {budget_ms:.3f}, {run.accuracy:.2%} "
        f"right; search {run.search_s:.0f} s, training {run.train_s:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return run


def load(path: Path) -> tuple[LatencyTable, LatencyPredictor]:
    """Return a table and the predictor fitted to it."""
    table = LatencyTable.load(path)
    return table, LatencyPredictor.fit(table, sources=[path.name])


def problem_of(arm: str, table: LatencyTable, predictor: LatencyPredictor, depth: int) -> Problem:
    """Return what an arm searches, without its budget."""
    return Problem(space_of(arm, table, depth), predictor)


def default_device() -> str:
    """Return where to train."""
    return "cuda" if torch.cuda.is_available() else "cpu"

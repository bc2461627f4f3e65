"""RCAS's set function: a network's accuracy after a short training, on training images that were held out for it."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import msgspec
import torch

from lut import Network, UsageError
from lut.errors import DataError, SearchError, TargetUnavailableError
from search._accuracy._evaluator import evaluation_error
from search._accuracy._side_by_side import run_at_once
from search._accuracy._training_worker import EvaluationWorker, Hello, trained_accuracy, write_split
from search._data._images import ImageData, make_generator
from search._training._recipe import Recipe

__all__ = ["ShortTraining", "hold_out", "rcas_recipe"]

# Raised whenever the same network would get another accuracy.
VERSION = 1


def rcas_recipe(epochs: int = 10, batch_size: int = 128, **changes: Any) -> Recipe:
    """Return how RCAS trains a network to judge it (Xiong et al. 2019, section 4.1).

    SGD with Nesterov's momentum 0.9 and weight decay 4e-5; learning rate 0.1, a tenth of it from 4, 7 and 9 tenths of
    the epochs on; no warm-up; images cropped out of a border of 4 pixels, and mirrored.

    Args:
        epochs: the paper has 10.
        batch_size: images a step.
        changes: other fields of :class:`Recipe`.

    Raises:
        UsageError: a value is out of its range, or there is no such field.
    """
    if unknown := changes.keys() - set(Recipe.__struct_fields__):
        raise UsageError(f"recipe: there is no {', '.join(sorted(unknown))}")
    fields: dict[str, Any] = {
        "epochs": epochs,
        "warmup_epochs": 0,
        "batch_size": batch_size,
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 4e-5,
        "schedule": "multi-step",
        "milestones": (0.4, 0.7, 0.9),
        "gamma": 0.1,
        "crop": 4,
        "flip": True,
    }
    return Recipe(**(fields | changes))


def hold_out(data: ImageData, per_class: int, seed: int) -> ImageData:
    """Return a data set whose test images are some of the training images, which are no longer among those.

    Both keep their old order. The test images that ``data`` has are not used.

    Args:
        data: the whole.
        per_class: how many images of each class are held out.
        seed: fixes which ones.

    Raises:
        UsageError: ``per_class`` is below 1.
        DataError: a class has too few training images: one must be left.
    """
    if per_class < 1:
        raise UsageError(f"at least one image of each class must be held out, got {per_class}")
    generator = make_generator(seed, "hold out")
    held = torch.zeros(len(data.train_labels), dtype=torch.bool)
    for label, name in enumerate(data.classes):
        places = (data.train_labels == label).nonzero().flatten()
        if len(places) <= per_class:
            raise DataError(
                f"{data.name}: class {name!r} has {len(places)} training images, and {per_class} are to be held out; "
                "hold out fewer, or give more data"
            )
        held[places[torch.randperm(len(places), generator=generator)[:per_class]]] = True
    return replace(
        data,
        train_images=data.train_images[~held],
        train_labels=data.train_labels[~held],
        test_images=data.train_images[held],
        test_labels=data.train_labels[held],
    )


@final
@dataclass(frozen=True, eq=False)
class ShortTraining:
    """The accuracy on held-out images after a short training, of one network or of many at a time.

    RCAS (Xiong et al. 2019, section 4.1) trains for ten epochs: ``rcas_recipe()``. A network's accuracy is the same
    whatever is evaluated beside it, and in whichever process.

    With one device and ``at_once`` 1 networks are trained in this process; otherwise in processes, which import nothing
    of the caller's, are started at the first call and end with :meth:`close` or with this process. For one thread.

    Args:
        data: its test images are not used.
        recipe: how networks are trained.
        seed: fixes the held-out images, the weights at the start, the images' order and their augmentation.
        held_out: training images of each class that networks are judged by.
        at_once: how many networks are trained at a time; at least one on each device.
        devices: PyTorch's names, all of one type; processes are dealt out to them in turns.
        threads: of PyTorch in each process; accuracies by other numbers of threads differ in their last digits.

    Raises:
        UsageError: a number is below 1, or a device is unknown, of another type, or not for the recipe.
        TargetUnavailableError: PyTorch finds no such device here.
        DataError: a class has too few training images.
    """

    data: ImageData = field(repr=False)
    recipe: Recipe
    seed: int
    held_out: int = 10
    at_once: int = 1
    devices: tuple[str, ...] = ("cpu",)
    threads: int = 1
    _workers: list[EvaluationWorker] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.at_once < 1 or self.threads < 1:
            raise UsageError(f"at_once and threads must be at least 1, got {self.at_once} and {self.threads}")
        kind = _device_type(self.devices)
        if self.recipe.precision == "float16" and kind != "cuda":
            raise UsageError(f"float16 is for CUDA, not for {kind}: take bfloat16 or float32 there")
        # Now, so that data that cannot be split is told before anything is trained.
        _ = self.split

    @cached_property
    def split(self) -> ImageData:
        """What networks are trained on, and as its test part what they are judged by."""
        return hold_out(self.data, self.held_out, self.seed)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of what an accuracy depends on besides the network."""
        kind = _device_type(self.devices)
        described = (
            "early-stopped",
            VERSION,
            self.recipe,
            # Of the images that are trained and judged on: others may change.
            self.split.digest,
            self.split.mirrored,
            self.held_out,
            self.seed,
            kind,
            # The last digits depend on it. One thread is not named, so that caches of earlier versions stay valid.
            *([self.threads] if self.threads > 1 else []),
        )
        return hashlib.sha256(msgspec.json.encode(described)).hexdigest()

    def reseeded(self, seed: int) -> Any:
        """Return the same trainings with another seed: of other held-out images, too. It has processes of its own."""
        return replace(self, seed=seed)

    def evaluate(self, networks: Sequence[Network]) -> Iterator[tuple[int, float, float]]:
        """Yield each network's number, its accuracy (0 … 1) and its seconds, in the order in which they get done.

        Raises:
            SearchError: a network does not fit the data, its loss became NaN or infinite, or its process died; those
                under way beside it were waited for and yielded.
            FileAccessError: the data cannot be written for the processes to read.
        """
        if self.at_once == 1 and len(self.devices) == 1:
            for number, network in enumerate(networks):
                yield number, *self._here(network)
            return
        try:
            workers = self._staff(min(max(self.at_once, len(self.devices)), len(networks)))
            with contextlib.closing(run_at_once(networks, [worker.evaluate for worker in workers])) as found:
                for number, (value, seconds) in found:
                    yield number, value, seconds
        except SearchError:
            # Every thread has ended: the processes wait for orders, or are gone.
            raise
        except BaseException:
            # Left in the middle, at Ctrl-C say: nobody would hear their answers.
            self.close()
            raise

    def close(self) -> None:
        """End the processes; another call of :meth:`evaluate` starts new ones."""
        while self._workers:
            self._workers.pop().close()

    def __enter__(self) -> ShortTraining:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _here(self, network: Network) -> tuple[float, float]:
        try:
            return trained_accuracy(
                network, self.split, self.recipe, seed=self.seed, device=self.devices[0], threads=self.threads
            )
        except Exception as error:
            raise evaluation_error(network.name, f"{type(error).__name__}: {error}") from error

    def _staff(self, count: int) -> list[EvaluationWorker]:
        """Return so many processes that wait for orders, starting those that are missing."""
        missing = [n for n in range(count) if n >= len(self._workers) or not self._workers[n].alive]
        if missing:
            with tempfile.TemporaryDirectory(prefix="latency-lut-") as folder:
                file = Path(folder) / "split.safetensors"
                write_split(file, self.split)
                try:
                    for number in missing:
                        # The device of the one that it stands in for.
                        device = self.devices[number % len(self.devices)]
                        worker = EvaluationWorker(Hello(str(file), self.recipe, self.seed, device, self.threads))
                        if number < len(self._workers):
                            self._workers[number].close()
                            self._workers[number] = worker
                        else:
                            self._workers.append(worker)
                    # All of them load PyTorch at the same time.
                    for number in missing:
                        self._workers[number].ready()
                except BaseException:
                    # None may be left whose first answer was not heard.
                    self.close()
                    raise
        return self._workers[:count]


def _device_type(devices: Sequence[str]) -> str:
    """Return the type of devices: ``cpu``, ``cuda`` …; accuracies of two types differ in their last digits."""
    places = []
    for name in devices:
        try:
            places.append(torch.device(name))
        except RuntimeError:
            raise UsageError(f"PyTorch knows no device {name!r}; give cpu, cuda or cuda:1") from None
    kinds = sorted({place.type for place in places})
    if len(kinds) != 1:
        raise UsageError(f"devices must be of one type, and at least one, got {', '.join(devices) or 'none'}")
    there = torch.cuda.device_count() if kinds == ["cuda"] else 0
    for place in places:
        if place.type == "cuda" and (place.index or 0) >= there:
            raise TargetUnavailableError(f"there is no device {place} here: PyTorch finds {there} CUDA devices")
    return kinds[0]

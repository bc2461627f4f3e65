"""Shared weights in training, epoch by epoch, from a checkpoint on where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias, final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as f

from lut import UsageError
from lut._option_names import RESTART
from lut.errors import CheckpointError, SearchError
from search._data._images import ImageData, bilevel_split
from search._time_left import seconds_left
from search._training._augment import augment, prepare
from search._training._checkpoint import (
    Checkpoint,
    check_tensors,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from search._training._recipe import Recipe, learning_rate
from search._training._train import LARGEST, deterministic, epoch_generator
from search.htas._architecture import Architecture, draw_uniform, fixed, temperature
from search.htas._charge import Charge
from search.htas._settings import SearchEpoch, SearchProgress, SearchSettings
from search.htas._supernet import SuperResNet, recalibrated_batch_norm

__all__ = [
    "GRADIENT_WORK",
    "SharedWeights",
    "batches",
    "check_classes",
    "check_shared",
    "run_digest",
    "run_epochs",
    "uniform_epoch",
]

# Training batches from which a network's own norm statistics are taken.
STATISTICS_BATCHES = 4
MOST_PROGRESS_S = 0.2
# Images in a batch that is only looked at.
EVALUATED = 512


def check_classes(classes: int, data: ImageData) -> None:
    """Raise unless a space's networks predict as many classes as the data has."""
    if len(data.classes) != classes:
        raise UsageError(f"the space's networks predict {classes} classes, and {data.name} has {len(data.classes)}")


def check_shared(recipe: Recipe) -> None:
    """Raise unless shared weights can be trained by a recipe."""
    if recipe.precision == "float16":
        raise UsageError("search: shared weights are trained in float32 or bfloat16")


def batches(indices: torch.Tensor, size: int, generator: torch.Generator | None = None) -> list[torch.Tensor]:
    """Return indices in batches of ``size``, shuffled where there is a generator; a small rest is left out.

    A norm needs more than one value; a last batch of at least half the size is kept.
    """
    if generator is not None:
        indices = indices[torch.randperm(len(indices), generator=generator)]
    parts = list(torch.split(indices, size))
    if len(parts) > 1 and 2 * len(parts[-1]) < size:
        parts.pop()
    return parts


@final
class SharedWeights:
    """The shared weights in training: what both strategies use.

    Args:
        charge: what the loss charges for, of the problem's networks.
        data: half of its training images are for the weights, the other half for choosing among networks.
        settings: of the search.
        seed: of everything.
        device: PyTorch's name of where to train.

    Raises:
        UsageError: classes of data and space differ, or the precision is float16.
    """

    def __init__(self, charge: Charge, data: ImageData, settings: SearchSettings, *, seed: int, device: str) -> None:
        check_classes(charge.space.classes, data)
        check_shared(settings.recipe)
        self.charge, self.data, self.settings, self.device = charge, data, settings, torch.device(device)
        self.seed = seed
        self.recipe = settings.recipe
        self.net = SuperResNet(charge.space, seed=seed).to(self.device)
        if self.recipe.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parts = bilevel_split(data, seed)
        # Data may lie class by class: those to judge networks by are drawn.
        order = torch.randperm(len(self.parts[1]), generator=epoch_generator(seed, "validated", 0))
        self.validation = self.parts[1][order[: settings.validated]]
        self.images = data.train_images.to(self.device)
        self.labels = data.train_labels.to(self.device)
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "weights": torch.optim.SGD(
                list(self.net.weights()),
                lr=self.recipe.lr,
                momentum=self.recipe.momentum,
                nesterov=self.recipe.nesterov,
                weight_decay=self.recipe.weight_decay,
            )
        }

    def _forward(self, images: torch.Tensor, drawn: Architecture) -> torch.Tensor:
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            scores: torch.Tensor = self.net(images, drawn)
        return scores.float()

    def loss(self, indices: torch.Tensor, drawn: Architecture, generator: torch.Generator) -> torch.Tensor:
        """Return the cross-entropy of augmented training images."""
        images = augment(
            self.images[indices.to(self.device)],
            self.data.mean,
            self.data.std,
            recipe=self.recipe,
            mirrored=self.data.mirrored,
            generator=generator,
        )
        labels = self.labels[indices.to(self.device)]
        return f.cross_entropy(self._forward(images, drawn), labels, label_smoothing=self.recipe.label_smoothing)

    def weight_step(self, indices: torch.Tensor, drawn: Architecture, lr: float, generator: torch.Generator) -> float:
        """Update the weights by one batch; returns its loss."""
        optimizer = self.optimizers["weights"]
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        loss = self.loss(indices, drawn, generator)
        torch.autograd.backward(loss)
        for logits in self.net.logits:
            logits.grad = None
        optimizer.step()
        value = float(loss.detach())
        if not isfinite(value):
            raise SearchError(
                f"the search's loss became NaN or infinite: lower the weights' learning rate ({self.recipe.lr:g}, "
                "search.lr=…), or raise the warm-up (search.warmup_epochs=…)"
            )
        return value

    def judged(
        self,
        number: int,
        tau: float,
        lr: float,
        weight_losses: Sequence[float],
        logits_losses: Sequence[float] | None,
        began: float,
    ) -> SearchEpoch:
        """Return the record of an epoch that is done: its losses, and what is now the most probable network."""
        vector = self.net.argmax()
        with torch.no_grad():
            expected = float(self.charge.expected(self.net.probabilities()))
        return SearchEpoch(
            epoch=number,
            tau=tau,
            lr=lr,
            weight_loss=fmean(weight_losses),
            logits_loss=None if logits_losses is None else fmean(logits_losses),
            expected=expected,
            ms=self.charge.problem.ms(vector),
            bound_ms=self.charge.problem.bound_ms(vector),
            accuracy=self.accuracy(vector),
            vector=vector,
            seconds=time.monotonic() - began,
        )

    @torch.no_grad()
    def accuracy(self, vector: Sequence[int], seed: int | None = None) -> float:
        """Return a network's share right of validation images, with the shared weights and its own norm statistics.

        Args:
            vector: the space's option indices.
            seed: of other batches for the statistics, and of other images of the validation half, as many.
        """
        drawn = fixed(vector)
        generator = epoch_generator(self.seed, "statistics", 0)
        validation = self.validation
        if seed is not None:
            generator = epoch_generator(seed, "fresh statistics", 0)
            order = torch.randperm(len(self.parts[1]), generator=epoch_generator(seed, "fresh validation", 0))
            validation = self.parts[1][order[: self.settings.validated]]
        with recalibrated_batch_norm(self.net):
            self.net.train()
            for part in batches(self.parts[0], self.recipe.batch_size, generator)[:STATISTICS_BATCHES]:
                at = part.to(self.device)
                self._forward(prepare(self.images[at], self.data.mean, self.data.std), drawn)
            self.net.eval()
            return self._right(validation, drawn) / len(validation)

    def _right(self, indices: torch.Tensor, drawn: Architecture) -> int:
        """Return how many training images, not augmented, are classified right."""
        count = 0
        for part in torch.split(indices, EVALUATED):
            at = part.to(self.device)
            images = prepare(self.images[at], self.data.mean, self.data.std)
            count += int((self._forward(images, drawn).argmax(1) == self.labels[at]).sum())
        return count


def uniform_epoch(
    shared: SharedWeights,
    number: int,
    tau: float,
    lr: Callable[[float], float],
    tell: Callable[[float], None],
) -> SearchEpoch:
    """Train the weights alone for an epoch, each step on one network drawn uniformly: an :data:`EpochStep`."""
    began = time.monotonic()
    generator = epoch_generator(shared.seed, "shared", number)
    losses = []
    own = batches(shared.parts[0], shared.recipe.batch_size, generator)
    for step, part in enumerate(own):
        drawn = draw_uniform(shared.charge.space.choices, generator)
        losses.append(shared.weight_step(part, drawn, lr(step / len(own)), generator))
        tell((step + 1) / len(own))
    return shared.judged(number, tau, lr(0.0), losses, None, began)


# How much longer an epoch takes that trains weights and architecture, each step on mixtures of two widths, than one of
# weights alone.
GRADIENT_WORK = 3.0

# Trains one epoch: its number from 1, τ, the learning rate by the share of it that is done, whom to tell that share.
EpochStep: TypeAlias = Callable[[int, float, Callable[[float], float], Callable[[float], None]], SearchEpoch]


def run_epochs(
    shared: SharedWeights,
    epoch: EpochStep,
    *,
    checkpoint: Path | None,
    run: str,
    progress: Callable[[SearchProgress], None],
    work: Callable[[int], float] = lambda _: 1.0,
) -> tuple[list[SearchEpoch], list[list[NDArray[np.float64]]]]:
    """Run or finish all epochs; returns their history, and the logits after each of them.

    ``work``: of an epoch by its number, in any unit, by which the time left is told.
    """
    settings = shared.settings
    total = settings.recipe.total_epochs
    history: list[SearchEpoch] = []
    states: list[list[NDArray[np.float64]]] = []
    done = 0
    if checkpoint is not None and (saved := load_checkpoint(checkpoint, run=run)) is not None:
        done = saved.epoch
        try:
            history, states = _restored(shared, saved)
        except (msgspec.ValidationError, CheckpointError, LookupError, RuntimeError) as error:
            raise CheckpointError(f"{checkpoint} does not fit this run ({error}); discard it: {RESTART}") from None
    tell = _teller(progress, [work(number) for number in range(1, total + 1)], done, settings.recipe.warmup_epochs)
    for number in range(done + 1, total + 1):
        tau = temperature(
            (number - 1) / max(1, total - 1),
            start=settings.tau_start,
            end=settings.tau_end,
            schedule=settings.tau_schedule,
        )
        shared.net.train()
        last = history[-1] if history else None
        rate = partial(_rate, settings.recipe, number - 1)
        with deterministic():
            history.append(epoch(number, tau, rate, partial(_tell, tell, number - 1, last)))
        states.append([logits.detach().cpu().double().numpy().copy() for logits in shared.net.logits])
        if checkpoint is not None:
            tensors = {f"net.{name}": value for name, value in shared.net.state_dict().items()}
            for name, optimizer in shared.optimizers.items():
                tensors |= optimizer_tensors(optimizer, name)
            for i in range(len(shared.net.logits)):
                tensors[f"course.{i}"] = torch.from_numpy(np.stack([state[i] for state in states]))
            save_checkpoint(
                checkpoint, run=run, epoch=number, tensors=tensors, values={"history": msgspec.to_builtins(history)}
            )
        tell(number, history[-1])
    return history, states


def _restored(shared: SharedWeights, saved: Checkpoint) -> tuple[list[SearchEpoch], list[list[NDArray[np.float64]]]]:
    """Bring shared weights to where a checkpoint was taken; return the history, and the logits after each epoch.

    Raises:
        CheckpointError: it is of another network, or holds what no search writes.
        msgspec.ValidationError: likewise.
        LookupError: a part is missing.
    """
    history = msgspec.convert(saved.values["history"], list[SearchEpoch])
    options = [len(decision.options) for decision in shared.charge.space.choices]
    if not len(history) == saved.epoch <= shared.recipe.total_epochs:
        raise CheckpointError("it has another number of epochs")
    for number, epoch in enumerate(history, start=1):
        numbers = (epoch.tau, epoch.lr, epoch.weight_loss, epoch.expected, epoch.ms, epoch.bound_ms, epoch.seconds)
        fits = len(epoch.vector) == len(options) and all(0 <= i < n for i, n in zip(epoch.vector, options, strict=True))
        if epoch.epoch != number or not fits or not all(0 <= v < LARGEST for v in numbers):
            raise CheckpointError(f"what it says of epoch {number} is of no search")
        if not 0 <= epoch.accuracy <= 1 or not 0 <= (epoch.logits_loss or 0.0) < LARGEST:
            raise CheckpointError(f"what it says of epoch {number} is of no search")
    weights = {name[4:]: value for name, value in saved.tensors.items() if name.startswith("net.")}
    check_tensors(weights, shared.net.state_dict())
    course = {name: value for name, value in saved.tensors.items() if name.startswith("course.")}
    expected = {
        f"course.{i}": torch.empty((saved.epoch, *logits.shape), dtype=torch.float64, device="meta")
        for i, logits in enumerate(shared.net.logits)
    }
    check_tensors(course, expected)
    for name, optimizer in shared.optimizers.items():
        restore_optimizer(optimizer, name, saved.tensors)
    shared.net.load_state_dict(weights)
    states = [[course[f"course.{i}"][n].numpy() for i in range(len(expected))] for n in range(saved.epoch)]
    return history, states


def _rate(recipe: Recipe, done: int, share: float) -> float:
    return learning_rate(recipe, done + share)


def _tell(tell: Callable[[float, SearchEpoch | None], None], done: int, last: SearchEpoch | None, share: float) -> None:
    tell(done + share, last)


def _teller(
    progress: Callable[[SearchProgress], None], work: Sequence[float], done: int, warmup: int
) -> Callable[[float, SearchEpoch | None], None]:
    """Return what reports a search's standing, given the epochs done, a fraction included, and the last one."""
    began, told, total, before = time.monotonic(), [0.0], len(work), sum(work[:done])

    def worked(epochs: float) -> float:
        whole = min(int(epochs), total)
        return sum(work[:whole]) + (epochs - whole) * (work[whole] if whole < total else 0.0)

    def tell(epochs: float, last: SearchEpoch | None) -> None:
        now = time.monotonic()
        if now - told[0] < MOST_PROGRESS_S and epochs < total:
            return
        told[0] = now
        elapsed, so_far = now - began, worked(epochs)
        left = seconds_left(elapsed, so_far - before, sum(work) - before)
        progress(
            SearchProgress(
                min(total, int(epochs) + 1),
                total,
                so_far / sum(work),
                elapsed,
                left,
                last.bound_ms if last else None,
                last.accuracy if last else None,
                warmup,
            )
        )

    return tell


def run_digest(
    charge: Charge,
    data: ImageData,
    settings: SearchSettings,
    seed: int,
    strategy: str,
    *,
    budgeted: bool = True,
) -> str:
    """Return a digest of all that a search's course depends on; ``budgeted``: the budgets are of these."""
    problem, space = charge.problem, charge.space
    parts: dict[str, Any] = {
        "strategy": strategy,
        "settings": settings,
        "space": [space.name, space.depth, space.classes, space.widths, space.depths],
        "cost": charge.digest,
        "data": data.digest,
        "seed": seed,
        "budget_ms": problem.budgets.ms if budgeted else None,
    }
    if not budgeted:
        return sha256(msgspec.json.encode(parts)).hexdigest()[:16]
    if problem.budgets.parameters is not None or problem.budgets.madds is not None:
        parts["budgets"] = problem.budgets
    return sha256(msgspec.json.encode(parts)).hexdigest()[:16]

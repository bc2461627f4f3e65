"""Training a network, with or without a teacher; a run that was killed goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from lut._option_names import RESTART
from lut.errors import CheckpointError, SearchError, UsageError
from search._data._images import ImageData, make_generator
from search._time_left import seconds_left
from search._training._augment import augment, prepare
from search._training._checkpoint import (
    check_tensors,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    tensors_digest,
)
from search._training._recipe import Recipe, epoch_text, learning_rate

__all__ = [
    "Epoch",
    "TrainProgress",
    "Trained",
    "autocast",
    "check_precision",
    "deterministic",
    "distillation_loss",
    "epoch_generator",
    "evaluate",
    "train",
]

REPORT_EVERY_S = 0.2
# Beyond any loss, scale or time in seconds.
LARGEST = 1e30


class Epoch(NamedTuple):
    """An epoch that is done.

    Args:
        epoch: counted from 1.
        lr: the learning rate of its last step.
        loss: mean over its images, as they were trained on.
        train_accuracy: share of its images that were right when they were trained on, cropped and mirrored.
        test_accuracy: share of all test images that were right after it; NaN where that was not asked for.
        seconds: how long it took, with the test.
    """

    epoch: int
    lr: float
    loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float


class TrainProgress(NamedTuple):
    """How far a training is.

    Args:
        epoch: the one under way, counted from 1, the warm-up's included.
        epochs: all of them.
        share: of the whole work, 0 … 1.
        elapsed_s: since this call.
        left_s: expected; ``None`` at the beginning.
        test_accuracy: of the last test; ``None`` before the first.
        warmup: how many of the epochs are the warm-up's.
    """

    epoch: int
    epochs: int
    share: float
    elapsed_s: float
    left_s: float | None
    test_accuracy: float | None
    warmup: int = 0


class Trained(NamedTuple):
    """A training's course, and the test accuracy after its last epoch: the best one would be picked by the test."""

    epochs: tuple[Epoch, ...]
    test_accuracy: float


class _Images(NamedTuple):
    """A data set on the device where it is used."""

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor


def train(
    module: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    run: str = "",
    progress: Callable[[TrainProgress], None] = lambda _: None,
    evaluate_every: int = 1,
) -> Trained:
    """Train a network in place by SGD, and leave it on ``device`` in evaluation mode.

    With a checkpoint, the same call goes on after the last epoch that was done, and ends with the same weights, to the
    bit on one machine, as if it had never been interrupted.

    Args:
        module: takes images (B, 3, 32, 32) and gives logits (B, classes); its weights are where the training starts.
        data: all of it is moved to the device.
        recipe: how.
        seed: fixes the images' order and how they are augmented.
        device: PyTorch's name of it.
        teacher: gives logits of the same shape, and is trained no further; see :func:`distillation_loss`.
        checkpoint: the file that is written before the first epoch and after each.
        run: digest of the caller's own settings; a checkpoint of others is refused, as is one of another teacher.
        progress: is called a few times a second.
        evaluate_every: epochs from test to test; the last epoch is always followed by one.

    Raises:
        SearchError: the loss became NaN or infinite.
        CheckpointError: the checkpoint is damaged, or of another run.
        UsageError: the network does not fit the data, or the recipe the device.
        FileAccessError: the checkpoint cannot be written.
    """
    place = torch.device(device)
    check_precision(recipe, place)
    if evaluate_every < 1:
        raise UsageError(f"evaluate_every must be at least 1, got {evaluate_every}")
    images = _on_device(data, place)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    for part in (module, teacher):
        if part is not None:
            part.to(place).to(memory_format=layout)  # type: ignore[call-overload]
            _check_outputs(part, images, recipe, len(data.classes))
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    scaler = torch.amp.GradScaler(place.type, enabled=recipe.precision == "float16")
    epochs: list[Epoch] = []
    identity = ""
    if checkpoint is not None:
        identity = _identity(module, data, recipe, seed, teacher, run)
        epochs += _resumed(checkpoint, identity, recipe, module, optimizer, scaler)
    started = time.monotonic()
    first = len(epochs)

    def report(epoch: int, share_of_epoch: float) -> None:
        share = (epoch + share_of_epoch) / recipe.total_epochs
        done = epoch + share_of_epoch - first
        elapsed = time.monotonic() - started
        left = seconds_left(elapsed, done, recipe.total_epochs - first)
        tested = next((e.test_accuracy for e in reversed(epochs) if not math.isnan(e.test_accuracy)), None)
        number = min(epoch + 1, recipe.total_epochs)
        progress(TrainProgress(number, recipe.total_epochs, share, elapsed, left, tested, recipe.warmup_epochs))

    # Runs are to be repeatable: on a GPU cuDNN else picks algorithms by how fast they are today.
    with deterministic():
        for epoch in range(first, recipe.total_epochs):
            began = time.monotonic()
            if teacher is not None:
                teacher.eval()
            lr, loss, accuracy = _train_epoch(
                module, images, recipe, epoch, seed, teacher, optimizer, scaler, data.mirrored, report
            )
            last = epoch + 1 == recipe.total_epochs
            tested = math.nan
            if last or (epoch + 1) % evaluate_every == 0:
                tested = _evaluate(module, images.test, images.test_labels, images.mean, images.std, recipe, 512)
            epochs.append(Epoch(epoch + 1, lr, loss, accuracy, tested, time.monotonic() - began))
            if checkpoint is not None:
                _save(checkpoint, identity, epochs, module, optimizer, scaler)
            report(epoch + 1, 0.0)
    module.eval()
    return Trained(tuple(epochs), epochs[-1].test_accuracy)


def check_precision(recipe: Recipe, device: str | torch.device) -> None:
    """Raise unless a device trains in a recipe's precision."""
    kind = torch.device(device).type
    if recipe.precision == "float16" and kind != "cuda":
        raise UsageError(f"float16 is for CUDA, not for {kind}: take bfloat16 or float32 there")


def evaluate(
    module: nn.Module,
    data: ImageData,
    *,
    device: str | torch.device = "cpu",
    recipe: Recipe | None = None,
    batch_size: int = 512,
) -> float:
    """Return the share of the test images that a network gets right; it is moved to ``device``.

    Args:
        module: as for :func:`train`; it keeps its mode.
        data: only its test images, and its training images' mean and deviation, are used.
        device: PyTorch's name of it.
        recipe: its precision and layout; float32 where it is not given.
        batch_size: images at a time.

    Raises:
        UsageError: the network does not fit the data.
    """
    place = torch.device(device)
    how = recipe if recipe is not None else Recipe()
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    module.to(place).to(memory_format=layout)  # type: ignore[call-overload]
    return _evaluate(
        module,
        data.test_images.to(place),
        data.test_labels.to(place),
        data.mean.to(place),
        data.std.to(place),
        how,
        batch_size,
        classes=len(data.classes),
    )


def distillation_loss(
    logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return (1−α)·CE + α·T²·KL(softmax(teacher/T) ‖ softmax(student/T)), the mean over the batch, a scalar.

    Hinton et al. (2015), as TAS (Dong & Yang 2019) uses it. Computed in float32.

    Args:
        logits: of the student, (B, classes).
        teacher_logits: the same of the teacher; no gradient flows there.
        labels: int64 (B,).
        alpha: α, the teacher's share.
        temperature: T.
        label_smoothing: of the cross entropy CE.
    """
    student, teacher = logits.float(), teacher_logits.detach().float()
    hard = F.cross_entropy(student, labels, label_smoothing=label_smoothing)
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def epoch_generator(seed: int, phase: str, epoch: int) -> torch.Generator:
    """Return a fresh CPU generator that depends on these three alone, so that a resumed epoch draws what it drew."""
    return make_generator(seed, phase, epoch)


def autocast(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a network runs in the recipe's precision."""
    if recipe.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if recipe.precision == "bfloat16" else torch.float16)


def _train_epoch(
    module: nn.Module,
    images: _Images,
    recipe: Recipe,
    epoch: int,
    seed: int,
    teacher: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    mirrored: bool,
    report: Callable[[int, float], None],
) -> tuple[float, float, float]:
    """Go over all training images once; return the last learning rate, the mean loss and the share that was right."""
    module.train()
    device = images.train.device
    generator = epoch_generator(seed, "train", epoch)
    count = len(images.train)
    order = torch.randperm(count, generator=generator).to(device)
    loss_sum, right = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
    reported = time.monotonic()
    lr, seen = 0.0, 0
    for start in range(0, count, recipe.batch_size):
        chosen = order[start : start + recipe.batch_size]
        if len(chosen) == 1 and seen:
            # Norms cannot take statistics of one image where it has one pixel left.
            break
        lr = learning_rate(recipe, epoch + start / count)
        for group in optimizer.param_groups:
            group["lr"] = lr
        labels = images.train_labels[chosen]
        inputs = augment(
            images.train[chosen], images.mean, images.std, recipe=recipe, mirrored=mirrored, generator=generator
        )
        logits, loss = _loss(module, teacher, _laid_out(inputs, recipe), labels, recipe)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        loss_sum += loss.detach() * len(chosen)
        right += (logits.detach().argmax(1) == labels).sum()
        seen += len(chosen)
        now = time.monotonic()
        if now - reported >= REPORT_EVERY_S:
            reported = now
            # Reading the sum waits for the device, so it is not done at every step.
            _check_loss(loss_sum, epoch, recipe)
            report(epoch, seen / count)
    _check_loss(loss_sum, epoch, recipe)
    return lr, loss_sum.item() / seen, right.item() / seen


def _loss(
    module: nn.Module, teacher: nn.Module | None, inputs: torch.Tensor, labels: torch.Tensor, recipe: Recipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits and the loss of a batch."""
    with autocast(recipe, inputs.device):
        logits = module(inputs)
        taught = None
        if teacher is not None:
            with torch.no_grad():
                taught = teacher(inputs)
    if taught is None:
        return logits, F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
    return logits, distillation_loss(
        logits,
        taught,
        labels,
        alpha=recipe.distill_alpha,
        temperature=recipe.distill_temperature,
        label_smoothing=recipe.label_smoothing,
    )


def _check_loss(loss_sum: torch.Tensor, epoch: int, recipe: Recipe) -> None:
    if not math.isfinite(loss_sum.item()):
        precision = ", or float32" if recipe.precision != "float32" else ""
        raise SearchError(
            f"the loss became NaN or infinite in {epoch_text(epoch + 1, recipe.total_epochs, recipe.warmup_epochs)}: "
            f"train with a lower lr than {recipe.lr:g}, more warmup_epochs than {recipe.warmup_epochs}{precision}"
        )


def _evaluate(
    module: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    recipe: Recipe,
    batch_size: int,
    *,
    classes: int | None = None,
) -> float:
    training = module.training
    module.eval()
    right = torch.zeros((), dtype=torch.int64, device=images.device)
    try:
        with torch.no_grad(), autocast(recipe, images.device):
            for start in range(0, len(images), batch_size):
                inputs = prepare(images[start : start + batch_size], mean, std)
                logits = module(_laid_out(inputs, recipe))
                if classes is not None:
                    _check_logits(logits, len(inputs), classes)
                right += (logits.argmax(1) == labels[start : start + batch_size]).sum()
    finally:
        module.train(training)
    return int(right.item()) / len(images)


def _check_outputs(module: nn.Module, images: _Images, recipe: Recipe, classes: int) -> None:
    """Run a network once, before any work is put into it."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), autocast(recipe, images.train.device):
            inputs = prepare(images.train[:1], images.mean, images.std)
            _check_logits(module(_laid_out(inputs, recipe)), 1, classes)
    finally:
        module.train(training)


def _check_logits(logits: torch.Tensor, count: int, classes: int) -> None:
    if tuple(logits.shape) != (count, classes):
        raise UsageError(
            f"the data has {classes} classes, and the network gives an output of shape {tuple(logits.shape)} for "
            f"{count} images; give it {classes} outputs, or take other data"
        )


def _laid_out(inputs: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if recipe.channels_last else inputs


def _on_device(data: ImageData, device: torch.device) -> _Images:
    tensors = (data.train_images, data.train_labels, data.test_images, data.test_labels, data.mean, data.std)
    return _Images(*(tensor.to(device) for tensor in tensors))


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Have cuDNN take algorithms that give the same result every time."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _identity(
    module: nn.Module, data: ImageData, recipe: Recipe, seed: int, teacher: nn.Module | None, run: str
) -> str:
    """Return a digest of all that fixes how a run goes."""
    shapes = [(name, list(tensor.shape)) for name, tensor in module.state_dict().items()]
    # Without a teacher as it always was, so that older checkpoints go on.
    taught_by = None if teacher is None else _weights_digest(teacher)
    described = ("train", run, recipe, seed, data.digest, data.mirrored, shapes, taught_by)
    return hashlib.sha256(msgspec.json.encode(described)).hexdigest()


def _weights_digest(module: nn.Module) -> str:
    """Return a digest of a network's weights and statistics, the same on every device and in every layout."""
    return tensors_digest({name: tensor.detach().cpu() for name, tensor in module.state_dict().items()})


class _State(msgspec.Struct):
    """What a checkpoint holds besides tensors; an epoch's accuracy is ``None`` where it was not tested."""

    epochs: list[tuple[int, float, float, float, float | None, float]]
    scaler: dict[str, int | float]


def _save(
    path: Path,
    identity: str,
    epochs: list[Epoch],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= optimizer_tensors(optimizer, "optimizer")
    state = _State(
        [(*e[:4], None if math.isnan(e.test_accuracy) else e.test_accuracy, e.seconds) for e in epochs],
        scaler.state_dict(),
    )
    save_checkpoint(path, run=identity, epoch=len(epochs), tensors=tensors, values=msgspec.to_builtins(state))


def _resumed(
    path: Path,
    identity: str,
    recipe: Recipe,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> list[Epoch]:
    """Bring everything to where the checkpoint was taken and return the epochs done; take one where there is none."""
    found = load_checkpoint(path, run=identity)
    if found is None:
        # Now and not after an epoch, so that a folder that cannot be written to is known at once.
        _save(path, identity, [], module, optimizer, scaler)
        return []
    try:
        state = msgspec.convert(found.values, _State)
        weights = {key.removeprefix("module."): t for key, t in found.tensors.items() if key.startswith("module.")}
        check_tensors(weights, module.state_dict())
        epochs = [Epoch(*e[:4], math.nan if e[4] is None else e[4], e[5]) for e in state.epochs]
        if not len(epochs) == found.epoch <= recipe.total_epochs or not all(map(_is_epoch, epochs, range(1, 1 << 62))):
            raise CheckpointError("its epochs are none of this training")
        if state.scaler.keys() != scaler.state_dict().keys() or not all(
            0 <= v < LARGEST for v in state.scaler.values()
        ):
            raise CheckpointError("its gradients' scale is none")
        restore_optimizer(optimizer, "optimizer", found.tensors)
        if state.scaler:
            scaler.load_state_dict(state.scaler)
    except (msgspec.ValidationError, CheckpointError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit this run ({error}); discard it: {RESTART}") from None
    # Last, and in one go: a module that was refused is as it was.
    module.load_state_dict(weights)
    return epochs


def _is_epoch(epoch: Epoch, number: int) -> bool:
    """Whether a record is of an epoch of a training."""
    shares = (epoch.train_accuracy, *(() if math.isnan(epoch.test_accuracy) else (epoch.test_accuracy,)))
    sizes = (epoch.lr, epoch.loss, epoch.seconds)
    return epoch.epoch == number and all(0 <= v <= 1 for v in shares) and all(0 <= v < LARGEST for v in sizes)

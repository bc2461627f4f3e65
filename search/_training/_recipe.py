"""How a network is trained: TAS's recipe, every number of it open to change."""

from __future__ import annotations

import itertools
import math
from typing import Literal, get_args

import msgspec

from lut import UsageError
from lut._suggest import check_word

__all__ = ["Precision", "Recipe", "Schedule", "epoch_text", "epochs_text", "learning_rate"]

Precision = Literal["float32", "bfloat16", "float16"]
Schedule = Literal["cosine", "multi-step"]

# A few hundred small images are learnt in minutes, and need small batches to be.
DIGITS_TRAIN_EPOCHS, DIGITS_BATCH = 12, 32

# Lowest and highest value of each number, both allowed.
_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "warmup_epochs": (0, 100_000),
    "batch_size": (1, 65_536),
    "lr": (1e-9, 100),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 1),
    "gamma": (1e-6, 1),
    "label_smoothing": (0, 0.99),
    "cutout": (0, 32),
    "crop": (0, 16),
    "distill_alpha": (0, 1),
    "distill_temperature": (0.01, 1000),
}
_WHOLE = ("epochs", "warmup_epochs", "batch_size", "cutout", "crop")


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A training's settings; by default TAS's retraining (Dong & Yang, NeurIPS 2019: E300, W5, L1, cosine).

    Args:
        epochs: epochs after the warm-up.
        warmup_epochs: epochs before them, in which the learning rate rises linearly from 0.
        batch_size: images a step.
        lr: the highest learning rate, of SGD.
        momentum: of SGD; ``nesterov``: of Nesterov's kind.
        weight_decay: of all parameters.
        schedule: ``cosine`` falls to 0; ``multi-step`` is multiplied by ``gamma`` at each of ``milestones``, which are
            shares of ``epochs``.
        label_smoothing: share of the target that is spread over all classes.
        cutout: side in pixels of the square hole in each training image (DeVries & Taylor 2017); 0: none.
        crop: pixels of black border from which a training image is cropped at random; 0: none.
        flip: mirror half of the training images, where the data allows it (``ImageData.mirrored``).
        precision: of convolutions and products; weights stay float32. ``float16`` is for CUDA, with a gradient scaler.
        channels_last: lay images and filters out with the channels last.
        distill_alpha: the teacher's share of the loss, where there is a teacher; ``distill_temperature``: see
            :func:`distillation_loss`.

    Raises:
        UsageError: a value is out of its range; the message names the field.
    """

    epochs: int = 300
    warmup_epochs: int = 5
    batch_size: int = 256
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    label_smoothing: float = 0.0
    cutout: int = 0
    crop: int = 4
    flip: bool = True
    precision: Precision = "float32"
    channels_last: bool = False
    distill_alpha: float = 0.9
    distill_temperature: float = 4.0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            kind = int if name in _WHOLE else (int, float)
            # Written so that NaN is out of range too.
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                whole = "a whole number " if name in _WHOLE else ""
                raise UsageError(f"recipe: {name} must be {whole}between {low:g} and {high:g}, got {value!r}")
        for name, words in (("schedule", get_args(Schedule)), ("precision", get_args(Precision))):
            check_word(f"recipe: {name}", getattr(self, name), words)
        if self.nesterov and self.momentum == 0:
            raise UsageError("recipe: nesterov needs a momentum above 0; set nesterov to false")
        shares = (0.0, *self.milestones, 1.0)
        if any(not before < after for before, after in itertools.pairwise(shares)):
            raise UsageError(f"recipe: milestones must rise between 0 and 1, got {list(self.milestones)}")

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole training: the warm-up's and those after it."""
        return self.warmup_epochs + self.epochs


def epochs_text(recipe: Recipe) -> str:
    """Return how long a training is: ``24 epochs``, or ``24 epochs after 2 of warm-up``."""
    epochs = f"{recipe.epochs} epoch{'' if recipe.epochs == 1 else 's'}"
    return f"{epochs} after {recipe.warmup_epochs} of warm-up" if recipe.warmup_epochs else epochs


def epoch_text(epoch: int, epochs: int, warmup: int) -> str:
    """Return which epoch one is of ``epochs``, the warm-up's included: ``warm-up epoch 1 of 2``, ``epoch 3 of 24``."""
    if epoch <= warmup:
        return f"warm-up epoch {epoch} of {warmup}"
    return f"epoch {epoch - warmup} of {epochs - warmup}"


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the learning rate when ``epoch`` epochs are done, a fraction of one included."""
    if epoch < recipe.warmup_epochs:
        return recipe.lr * max(epoch, 0.0) / recipe.warmup_epochs
    share = min((epoch - recipe.warmup_epochs) / recipe.epochs, 1.0)
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * share)) / 2
    return recipe.lr * recipe.gamma ** sum(share >= milestone for milestone in recipe.milestones)

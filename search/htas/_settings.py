"""What a search by shared weights is set to, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from lut import Network, UsageError
from lut._suggest import check_word
from predictors._predictions import NetworkPrediction
from search._training._recipe import Recipe
from search.htas._architecture import TemperatureSchedule

__all__ = ["Derivation", "Penalty", "SearchEpoch", "SearchProgress", "SearchResult", "SearchSettings", "Selection"]

Derivation: TypeAlias = Literal["constrained", "argmax"]
Selection: TypeAlias = Literal["last", "best"]
# linear: λ·E (HTAS eq. 6); band: TAS's signed logarithm around the budget.
Penalty: TypeAlias = Literal["linear", "band"]

# 600 epochs over half of CIFAR's 50,000 training images in batches of 256.
PAPER_STEPS = 600 * 98
LARGEST_STEP = 0.1


class SearchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of a search over widths and depths; by default those of TAS's paper and code, which HTAS takes over.

    Args:
        recipe: of the shared weights: 600 epochs of SGD, cosine to 0, no warm-up, no cutout.
        logits_lr: Adam's step for the architecture's logits; ``logits_betas`` and ``logits_weight_decay`` go with it.
        samples: widths of a convolution drawn at a time.
        weights_first: share of the epochs, from the first, in which the weights alone are trained, each step on one
            network drawn uniformly. TAS: 0; a short search has no use for gradients of weights that know nothing yet.
        tau_start: temperature of the first of all epochs; ``tau_end`` of the last; ``tau_schedule`` between: ``linear``
            from 10 as in the paper, ``cosine`` (from 5) as in its code.
        penalty: ``linear``: λ·E (HTAS eq. 6); ``band``: TAS's signed logarithm around the budget.
        weight: λ. ``None``: 2 for ``band`` as in TAS; for ``linear`` 2 / (cost of the base network), which has the
            same slope there. HTAS does not print its λ.
        tolerance: of the band, below the budget, as a share of the base network's cost.
        derivation: ``argmax``: the most probable network, within the budget or not; ``constrained``: the most probable
            one within the budget.
        selection: after which epoch it is derived: the ``last``, or the ``best`` by validation accuracy of those that
            trained logits and whose network was within the budget; the last where there is none.
        validated: validation images on which each epoch's network is judged.
    """

    recipe: Recipe = Recipe(epochs=600, warmup_epochs=0)
    logits_lr: float = 1e-3
    logits_betas: tuple[float, float] = (0.5, 0.999)
    logits_weight_decay: float = 1e-3
    samples: int = 2
    weights_first: float = 0.0
    tau_start: float = 10.0
    tau_end: float = 0.1
    tau_schedule: TemperatureSchedule = "linear"
    penalty: Penalty = "linear"
    weight: float | None = None
    tolerance: float = 0.05
    derivation: Derivation = "constrained"
    selection: Selection = "last"
    validated: int = 1000

    def __post_init__(self) -> None:
        positive = {"logits_lr": self.logits_lr, "samples": self.samples, "validated": self.validated}
        for name, value in {**positive, "tau_start": self.tau_start, "tau_end": self.tau_end}.items():
            if not (isfinite(value) and value > 0):
                raise UsageError(f"search: {name} must be positive, got {value!r}")
        if self.tau_end > self.tau_start:
            raise UsageError(f"search: the temperature falls, got {self.tau_start:g} to {self.tau_end:g}")
        if self.weight is not None and not (isfinite(self.weight) and self.weight >= 0):
            raise UsageError(f"search: weight must not be negative, got {self.weight!r}")
        if not all(0 <= beta < 1 for beta in self.logits_betas):
            raise UsageError(f"search: logits_betas are shares below 1, got {list(self.logits_betas)}")
        if not 0 <= self.logits_weight_decay <= 1:
            raise UsageError(f"search: logits_weight_decay is a share, got {self.logits_weight_decay!r}")
        if not (isfinite(self.tolerance) and 0 <= self.tolerance < 1):
            raise UsageError(f"search: tolerance is a share below 1, got {self.tolerance!r}")
        if not 0 <= self.weights_first < 1:
            raise UsageError(f"search: weights_first is a share below 1, got {self.weights_first!r}")
        words = {
            "tau_schedule": ("linear", "cosine"),
            "penalty": ("linear", "band"),
            "derivation": ("constrained", "argmax"),
            "selection": ("last", "best"),
        }
        for name, known in words.items():
            check_word(f"search: {name}", getattr(self, name), known)

    def short(self, steps: int) -> SearchSettings:
        """Return the settings for a search of few steps: Adam's step so large that logits move as far as in the paper.

        It is at most 0.1.
        """
        factor = max(1.0, PAPER_STEPS / max(1, steps))
        return msgspec.structs.replace(self, logits_lr=max(self.logits_lr, min(LARGEST_STEP, self.logits_lr * factor)))


class SearchEpoch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a search stood after an epoch.

    Args:
        epoch: from 1.
        tau: the temperature.
        lr: of the weights.
        weight_loss: mean cross-entropy of the weights' half.
        logits_loss: mean cross-entropy of the architecture's half; ``None`` where no logits were trained.
        expected: what the loss charged for, in its unit.
        ms: predicted latency of the most probable network.
        bound_ms: what a budget must hold of it.
        accuracy: its share right of validation images, with shared weights and its own norm statistics.
        vector: its option indices.
        seconds: that the epoch took.
    """

    epoch: int
    tau: float
    lr: float
    weight_loss: float
    logits_loss: float | None
    expected: float
    ms: float
    bound_ms: float
    accuracy: float
    vector: tuple[int, ...]
    seconds: float


class SearchProgress(NamedTuple):
    """Where a search stands: ``share`` of all its work is done; ``bound_ms`` and ``accuracy`` of its last epoch.

    ``epoch`` of ``epochs`` is under way; the first ``warmup`` of them are the warm-up's.
    """

    epoch: int
    epochs: int
    share: float
    elapsed_s: float
    left_s: float | None
    bound_ms: float | None
    accuracy: float | None
    warmup: int = 0


class SearchResult(NamedTuple):
    """What a search found.

    ``vector``: the space's option indices; ``history``: one entry an epoch; ``from_epoch``: the one that it was derived
    from; ``seconds``: of all epochs, those before an interruption included, and of finding the network after them;
    ``evaluated``: networks that an evolution looked at; ``values``: what it found them to be worth, by vectors;
    ``optimism``: the accuracy that made the network found a finalist, less the one with a fresh seed, where there was
    one; ``probabilities``: of each decision's options, where they were learnt by gradients.
    """

    vector: tuple[int, ...]
    network: Network
    prediction: NetworkPrediction
    history: tuple[SearchEpoch, ...]
    from_epoch: int
    seconds: float
    evaluated: int = 0
    probabilities: Sequence[NDArray[np.float64]] = ()
    values: Mapping[tuple[int, ...], float] = MappingProxyType({})
    optimism: float | None = None

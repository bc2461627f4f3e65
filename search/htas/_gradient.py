"""The search over widths and depths by gradients (TAS, section 3; HTAS, section 3.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lut import Network, UsageError
from lut._option_names import option_text
from lut.errors import BudgetError, SearchError
from search._data._images import ImageData
from search._problem._cost import NetworkCost, band_penalty, check_budget, derive
from search._training._train import epoch_generator
from search.htas._architecture import draw
from search.htas._settings import SearchEpoch, SearchProgress, SearchResult, SearchSettings
from search.htas._shared_weights import GRADIENT_WORK, SharedWeights, batches, run_digest, run_epochs, uniform_epoch
from search.htas._supernet import SuperResNet

__all__ = ["check_settings", "found_network", "search_htas"]

# TAS's weight of its cost, log E, whose slope is 1/E; the linear one gets the same slope at the base network.
TAS_WEIGHT = 2.0


def search_htas(
    cost: NetworkCost,
    data: ImageData,
    settings: SearchSettings,
    *,
    seed: int,
    budget_ms: float | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[SearchProgress], None] = lambda _: None,
) -> SearchResult:
    """Search widths and depths by gradients.

    In turns, a batch of one half of the training images updates the shared weights, and one of the other half the
    architecture's logits, whose loss also holds the expected cost. Each step draws two widths of every convolution.

    Args:
        cost: of the space's networks.
        data: its training images are split by class into two halves; test images are not looked at.
        settings: see there.
        seed: of weights, draws, order and augmentation.
        budget_ms: a limit on the result's latency (its bound, see :func:`make_cost`).
        device: PyTorch's name of where to train.
        checkpoint: a file to which each epoch is written, and from which an interrupted search goes on.
        progress: told where the search stands.

    Raises:
        BudgetError: nothing is within the budget, or with ``derivation="argmax"`` the result is not.
        UsageError: ``penalty="band"`` without a budget, or classes of data and space differ.
        SearchError: the loss became NaN or infinite.
        CheckpointError: the checkpoint is another run's.
    """
    space = cost.space
    check_settings(cost, settings, budget_ms)
    if budget_ms is not None:
        check_budget(cost, budget_ms)
    charge = _Charge(cost, settings, budget_ms)
    shared = SharedWeights(cost, data, settings, seed=seed, device=device)
    optimizer = torch.optim.Adam(
        shared.net.logits, lr=settings.logits_lr, betas=settings.logits_betas, weight_decay=settings.logits_weight_decay
    )
    shared.optimizers["logits"] = optimizer

    weights_alone = settings.weights_first * settings.recipe.total_epochs

    def epoch(number: int, tau: float, lr: Callable[[float], float], tell: Callable[[float], None]) -> SearchEpoch:
        if number <= weights_alone:
            return uniform_epoch(shared, number, tau, lr, tell)
        began = time.monotonic()
        generator = epoch_generator(seed, "search", number)
        steps = min(len(batches(part, settings.recipe.batch_size)) for part in shared.parts)
        orders = [batches(part, settings.recipe.batch_size, generator) for part in shared.parts]
        weight_losses, logits_losses = [], []
        for step, (own, other) in enumerate(zip(*(order[:steps] for order in orders), strict=True)):
            constant = [logits.detach() for logits in shared.net.logits]
            drawn = draw(space.choices, constant, tau=tau, samples=settings.samples, generator=generator)
            weight_losses.append(shared.weight_step(own, drawn, lr(step / steps), generator))
            drawn = draw(space.choices, list(shared.net.logits), tau=tau, samples=settings.samples, generator=generator)
            loss = shared.loss(other, drawn, generator)
            # Through the inputs of every layer, and not into the weights.
            gradients = torch.autograd.grad(loss + charge.of(shared.net), list(shared.net.logits), allow_unused=True)
            for logits, gradient in zip(shared.net.logits, gradients, strict=True):
                logits.grad = gradient
            optimizer.step()
            if not all(bool(torch.isfinite(logits).all()) for logits in shared.net.logits):
                raise SearchError(
                    "the architecture's logits became NaN or infinite: lower the cost's weight "
                    f"({charge.weight:g}, {option_text('weight')}) or Adam's step ({settings.logits_lr:g}, logits_lr=…)"
                )
            logits_losses.append(float(loss.detach()))
            tell((step + 1) / steps)
        return shared.judged(number, tau, lr(0.0), weight_losses, logits_losses, began)

    identity = run_digest(cost, data, settings, seed, budget_ms, "gradient")
    history, states = run_epochs(
        shared,
        epoch,
        checkpoint=checkpoint,
        run=identity,
        progress=progress,
        work=lambda number: 1.0 if number <= weights_alone else GRADIENT_WORK,
    )
    began = time.monotonic()
    chosen = _select(history, settings, budget_ms)
    found = _derived(cost, states[chosen], budget_ms, settings)
    return SearchResult(
        vector=found,
        network=found_network(cost, found),
        prediction=cost.predict(found),
        history=tuple(history),
        from_epoch=chosen + 1,
        seconds=sum(done.seconds for done in history) + time.monotonic() - began,
    )


def found_network(cost: NetworkCost, vector: Sequence[int]) -> Network:
    """Return a vector's network under the name of what a search found."""
    network = cost.space.decode(vector)
    return Network(name=f"{cost.space.name} found", layers=network.layers)


def check_settings(cost: NetworkCost, settings: SearchSettings, budget_ms: float | None) -> None:
    """Raise unless a search by gradients can be made with these settings."""
    if settings.samples < 2:
        raise UsageError("search: one width at a time says nothing of its weight; samples must be at least 2")
    if settings.penalty == "band" and budget_ms is None:
        raise UsageError("search: the penalty 'band' is around a budget: give one, or the penalty 'linear'")
    if settings.penalty == "band" and cost.kind == "madds":
        raise UsageError("search: the penalty 'band' is around a budget in ms, and the cost is multiply-adds")


class _Charge:
    """The cost's part of the architecture's loss."""

    def __init__(self, cost: NetworkCost, settings: SearchSettings, budget_ms: float | None) -> None:
        base = cost.space.base_network()
        self.cost, self.settings, self.target = cost, settings, budget_ms
        self.base = base.madds / 1e6 if cost.kind == "madds" else cost.predictor.latency_ms(base)
        default = TAS_WEIGHT if settings.penalty == "band" else TAS_WEIGHT / self.base
        self.weight = default if settings.weight is None else settings.weight

    def of(self, net: SuperResNet) -> torch.Tensor:
        expected = self.cost.expected(net.probabilities())
        if self.settings.penalty == "linear":
            return self.weight * expected
        assert self.target is not None
        tolerance = self.settings.tolerance * self.base
        current = self.cost.current(net.argmax())
        return self.weight * band_penalty(expected, current, target=self.target, tolerance=tolerance)


def _select(history: Sequence[SearchEpoch], settings: SearchSettings, budget_ms: float | None) -> int:
    """Return the number, from 0, of the epoch after which the network is derived."""
    if settings.selection == "best":
        within = [
            i
            for i, e in enumerate(history)
            # Where no logits were trained, the most probable network is one of chance.
            if e.logits_loss is not None and (budget_ms is None or e.bound_ms <= budget_ms)
        ]
        if within:
            return max(within, key=lambda i: (history[i].accuracy, i))
    return len(history) - 1


def _derived(
    cost: NetworkCost, logits: Sequence[NDArray[np.float64]], budget_ms: float | None, settings: SearchSettings
) -> tuple[int, ...]:
    probabilities = [torch.softmax(torch.from_numpy(own), -1).numpy() for own in logits]
    best = tuple(int(own.argmax()) for own in logits)
    if budget_ms is None:
        return best
    if settings.derivation == "constrained":
        return derive(cost, probabilities, budget_ms)
    if (bound := cost.bound_ms(best)) > budget_ms:
        raise BudgetError(
            f"the search ended at a network of up to {bound:.4g} ms, {bound / budget_ms - 1:.1%} above the budget of "
            f"{budget_ms:g} ms: give a larger weight, the penalty 'band', or the derivation 'constrained'"
        )
    return best

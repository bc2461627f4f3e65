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
from predictors._predictions import NetworkPrediction
from search._data._images import ImageData
from search._problem._discretise import discretise
from search._problem._problem import Problem
from search._training._train import epoch_generator
from search.htas._architecture import draw
from search.htas._charge import Charge
from search.htas._settings import SearchEpoch, SearchProgress, SearchResult, SearchSettings
from search.htas._shared_weights import GRADIENT_WORK, SharedWeights, batches, run_digest, run_epochs, uniform_epoch
from search.htas._supernet import SuperResNet

__all__ = ["check_settings", "found_network", "predicted", "probabilities_of", "search_htas"]


def search_htas(
    charge: Charge,
    data: ImageData,
    settings: SearchSettings,
    *,
    seed: int,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[SearchProgress], None] = lambda _: None,
) -> SearchResult:
    """Search widths and depths by gradients.

    In turns, a batch of one half of the training images updates the shared weights, and one of the other half the
    architecture's logits, whose loss also holds the expected cost. Each step draws two widths of every convolution.

    Args:
        charge: what the loss charges for; its problem's budgets limit the result.
        data: its training images are split by class into two halves; test images are not looked at.
        settings: see there.
        seed: of weights, draws, order and augmentation.
        device: PyTorch's name of where to train.
        checkpoint: a file to which each epoch is written, and from which an interrupted search goes on.
        progress: told where the search stands.

    Raises:
        BudgetError: nothing is within the budgets, or with ``derivation="argmax"`` the result is not.
        UsageError: ``penalty="band"`` without a budget of ms, or classes of data and space differ.
        SearchError: the loss became NaN or infinite.
        CheckpointError: the checkpoint is another run's.
    """
    space, problem = charge.space, charge.problem
    check_settings(charge, settings)
    if problem.budgets:
        problem.check_budgets()
    shared = SharedWeights(charge, data, settings, seed=seed, device=device)
    optimizer = torch.optim.Adam(
        shared.net.logits, lr=settings.logits_lr, betas=settings.logits_betas, weight_decay=settings.logits_weight_decay
    )
    shared.optimizers["logits"] = optimizer

    def penalty(net: SuperResNet) -> torch.Tensor:
        return charge.penalty(net.probabilities(), net.argmax(), settings)

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
            gradients = torch.autograd.grad(loss + penalty(shared.net), list(shared.net.logits), allow_unused=True)
            for logits, gradient in zip(shared.net.logits, gradients, strict=True):
                logits.grad = gradient
            optimizer.step()
            _check_logits(shared.net, charge, settings)
            logits_losses.append(float(loss.detach()))
            tell((step + 1) / steps)
        return shared.judged(number, tau, lr(0.0), weight_losses, logits_losses, began)

    identity = run_digest(charge, data, settings, seed, "gradient")
    history, states = run_epochs(
        shared,
        epoch,
        checkpoint=checkpoint,
        run=identity,
        progress=progress,
        work=lambda number: 1.0 if number <= weights_alone else GRADIENT_WORK,
    )
    began = time.monotonic()
    chosen = _select(history, settings, problem)
    found = _derived(problem, states[chosen], settings)
    return SearchResult(
        vector=found,
        network=found_network(problem, found),
        prediction=predicted(problem, found),
        history=tuple(history),
        from_epoch=chosen + 1,
        seconds=sum(done.seconds for done in history) + time.monotonic() - began,
        probabilities=probabilities_of(states[chosen]),
    )


def _check_logits(net: SuperResNet, charge: Charge, settings: SearchSettings) -> None:
    if not all(bool(torch.isfinite(logits).all()) for logits in net.logits):
        raise SearchError(
            "the architecture's logits became NaN or infinite: lower the cost's weight "
            f"({charge.weight(settings):g}, {option_text('weight')}) or Adam's step ({settings.logits_lr:g}, "
            "logits_lr=…)"
        )


def found_network(problem: Problem, vector: Sequence[int]) -> Network:
    """Return a vector's network under the name of what a search found."""
    return Network(name=f"{problem.space.name} found", layers=problem.network(vector).layers)


def predicted(problem: Problem, vector: Sequence[int]) -> NetworkPrediction:
    """Return what a network takes; HTAS always has a predictor."""
    found = problem.predict(vector)
    assert found is not None
    return found


def check_settings(charge: Charge, settings: SearchSettings) -> None:
    """Raise unless a search by gradients can be made with these settings."""
    if settings.samples < 2:
        raise UsageError("search: one width at a time says nothing of its weight; samples must be at least 2")
    if settings.penalty == "band" and charge.problem.budgets.ms is None:
        raise UsageError("search: the penalty 'band' is around a budget: give one, or the penalty 'linear'")
    if settings.penalty == "band" and charge.kind == "madds":
        raise UsageError("search: the penalty 'band' is around a budget in ms, and the cost is multiply-adds")


def _select(history: Sequence[SearchEpoch], settings: SearchSettings, problem: Problem) -> int:
    """Return the number, from 0, of the epoch after which the network is derived."""
    if settings.selection == "best":
        within = [
            i
            for i, e in enumerate(history)
            # Where no logits were trained, the most probable network is one of chance.
            if e.logits_loss is not None and problem.fits(e.vector)
        ]
        if within:
            return max(within, key=lambda i: (history[i].accuracy, i))
    return len(history) - 1


def probabilities_of(logits: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Return softmax of each decision's logits."""
    return [torch.softmax(torch.from_numpy(own), -1).numpy() for own in logits]


def _derived(problem: Problem, logits: Sequence[NDArray[np.float64]], settings: SearchSettings) -> tuple[int, ...]:
    best = tuple(int(own.argmax()) for own in logits)
    if not problem.budgets:
        return best
    if settings.derivation == "constrained":
        return discretise(problem, probabilities_of(logits))
    if not problem.fits(best):
        raise BudgetError(
            f"the search ended at a network of {problem.excess_text(best)}: give a larger weight, the penalty 'band', "
            "or the derivation 'constrained'"
        )
    return best

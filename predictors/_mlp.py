"""A small ensemble of multilayer perceptrons on log time, in PyTorch, behind scikit-learn's estimator contract."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from predictors._ranges import warn_outside

if TYPE_CHECKING:
    import torch

__all__ = ["LatencyMLP"]

Floats = NDArray[np.float64]

# Of 1e-9 and 1e9 ms.
LEAST_LOG, MOST_LOG = -20.72, 20.72


class LatencyMLP(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """An ensemble of multilayer perceptrons that predicts log(ms). Follows scikit-learn's estimator contract. Final.

    Features and log latencies are standardised, so the squared error that is minimised is a relative one. Each member
    has its own initial weights and its own held-out rows, by which it is stopped early; the prediction is the members'
    mean in log, and their spread says where they do not know. Fitting needs PyTorch, predicting does not.

    Args:
        hidden: units of each hidden layer (ReLU).
        members: perceptrons in the ensemble.
        max_epochs: passes over the data at most, all rows at once.
        patience: epochs without a better held-out error after which a member is done.
        learning_rate: of Adam.
        weight_decay: of Adam, decoupled.
        validation_fraction: share of the rows that each member is stopped by; none of fewer than eight rows.
        random_state: seed, or a ``numpy.random.RandomState``.

    Attributes:
        weights_: one array per layer, shape ``(members, in, out)``.
        biases_: one array per layer, shape ``(members, 1, out)``.
        mean_, scale_: of the features, shape ``(n_features,)``.
        log_mean_, log_scale_: of log(ms).
        epochs_: epochs after which each member was best.
        valid_range_: (least, most) of each feature that was fitted, both of shape ``(n_features,)``; beyond them
            ``predict`` warns.
        n_features_in_: features of a row.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 64),
        members: int = 4,
        max_epochs: int = 1500,
        patience: int = 150,
        learning_rate: float = 5e-3,
        weight_decay: float = 1e-3,
        validation_fraction: float = 0.15,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.hidden = hidden
        self.members = members
        self.max_epochs = max_epochs
        self.patience = patience
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> LatencyMLP:
        """Fit the ensemble.

        Args:
            X: features, shape ``(n, n_features)``.
            y: latencies in ms, positive, shape ``(n,)``.

        Returns:
            The estimator itself.

        Raises:
            ValueError: NaN or infinity, a latency that is not positive, or a parameter out of range.
        """
        if min(self.members, self.max_epochs, *self.hidden) < 1 or not 0 <= self.validation_fraction < 1:
            raise ValueError(
                "members, max_epochs and hidden must be positive and validation_fraction within 0 … 1, got "
                f"{self.members}, {self.max_epochs}, {self.hidden}, {self.validation_fraction}"
            )
        checked: tuple[Floats, Floats] = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        table, ms = checked
        if np.any(ms <= 0):
            raise ValueError("latencies must be positive: their logarithm is fitted")
        logs = np.log(ms)
        self.valid_range_ = (table.min(axis=0), table.max(axis=0))
        self.mean_ = table.mean(axis=0)
        deviation = table.std(axis=0)
        self.scale_ = np.where(deviation > 1e-12, deviation, 1.0)
        self.log_mean_ = float(logs.mean())
        self.log_scale_ = float(logs.std()) or 1.0
        rng = check_random_state(self.random_state)
        rows = (table - self.mean_) / self.scale_
        wanted = (logs - self.log_mean_) / self.log_scale_
        # Rows are dealt by their content, so that shuffling them changes nothing.
        order = np.lexsort([*rows.T[::-1], wanted])
        self._train(rows[order], wanted[order], rng)
        return self

    def _train(self, rows: Floats, wanted: Floats, rng: np.random.RandomState) -> None:
        import torch

        count, members = len(rows), self.members
        held = np.zeros((members, count), dtype=bool)
        size = round(self.validation_fraction * count) if count >= 8 else 0
        for member in held:
            member[rng.permutation(count)[:size]] = True
        generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        sizes = [rows.shape[1], *self.hidden, 1]
        weights, biases = [], []
        for into, out in pairwise(sizes):
            # He et al. 2015: the variance is kept through a rectifier.
            made = torch.randn(members, into, out, generator=generator) * (2.0 / into) ** 0.5
            weights.append((made if out != 1 else made * 0.1).requires_grad_())
            biases.append(torch.zeros(members, 1, out, requires_grad=True))
        inputs = torch.as_tensor(rows, dtype=torch.float32).expand(members, -1, -1)
        target = torch.as_tensor(wanted, dtype=torch.float32).expand(members, -1)
        inside = torch.as_tensor(~held, dtype=torch.float32)
        outside = torch.as_tensor(held if size else ~held, dtype=torch.float32)
        optimizer = torch.optim.AdamW([*weights, *biases], lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_epochs)
        best = torch.full((members,), float("inf"))
        best_epoch = torch.zeros(members, dtype=torch.int64)
        kept = [tensor.detach().clone() for tensor in (*weights, *biases)]
        for epoch in range(self.max_epochs):
            squares = (_forward(inputs, weights, biases) - target) ** 2
            with torch.no_grad():
                error = (squares * outside).sum(1) / outside.sum(1)
                better = error < best
                if better.any():
                    best = torch.where(better, error, best)
                    best_epoch[better] = epoch
                    for store, tensor in zip(kept, (*weights, *biases), strict=True):
                        store[better] = tensor.detach()[better]
            if epoch - int(best_epoch.max()) > self.patience:
                break
            loss = ((squares * inside).sum(1) / inside.sum(1)).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        layers = len(weights)
        self.weights_ = [tensor.numpy().astype(np.float64) for tensor in kept[:layers]]
        self.biases_ = [tensor.numpy().astype(np.float64) for tensor in kept[layers:]]
        self.epochs_ = best_epoch.numpy()

    def predict(self, X: ArrayLike) -> Floats:
        """Return latencies in ms, shape ``(n,)``, for features of shape ``(n, n_features)``.

        Warns:
            ExtrapolationWarning: a row has a feature outside ``valid_range_``.

        Raises:
            NotFittedError: ``fit`` was not called.
            ValueError: NaN, infinity, or another number of features.
        """
        logs = self.predict_log(X)[0]
        warn_outside(np.asarray(X, dtype=np.float64), *self.valid_range_, "rows")
        # Far outside a straight line in log soon leaves what a latency can be: a table's bounds.
        return np.asarray(np.exp(np.clip(logs, LEAST_LOG, MOST_LOG)), dtype=np.float64)

    def predict_log(self, X: ArrayLike) -> tuple[Floats, Floats]:
        """Return the mean of log(ms) over the members and their standard deviation, both of shape ``(n,)``.

        Beyond ``valid_range_`` nothing is said.
        """
        check_is_fitted(self)
        table: Floats = validate_data(self, X, dtype=np.float64, reset=False)
        values = np.broadcast_to((table - self.mean_) / self.scale_, (self.members, *table.shape))
        for i, (weight, bias) in enumerate(zip(self.weights_, self.biases_, strict=True)):
            values = values @ weight + bias
            if i < len(self.weights_) - 1:
                values = np.maximum(values, 0.0)
        logs = values[..., 0] * self.log_scale_ + self.log_mean_
        return logs.mean(axis=0), logs.std(axis=0)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags


def _forward(inputs: torch.Tensor, weights: list[torch.Tensor], biases: list[torch.Tensor]) -> torch.Tensor:
    """Return what the members give, shape ``(members, rows)``."""
    values = inputs
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values = values.bmm(weight) + bias
        if i < len(weights) - 1:
            values = values.relu()
    return values[..., 0]

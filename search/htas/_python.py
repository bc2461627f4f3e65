"""HTAS from Python: the search over a problem of widths and depths."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from search._data._images import ImageData
from search._problem._problem import Problem
from search._runs._folder import CHECKPOINTS
from search._runs._found import Found
from search._runs._reporter import Quiet, Reporter
from search.evolution._settings import EvolutionSettings
from search.htas._charge import FORMER
from search.htas._method import HtasMethod, Strategy
from search.htas._presets import preset
from search.htas._settings import SearchSettings

__all__ = ["search"]


def search(
    problem: Problem,
    data: ImageData,
    *,
    settings: SearchSettings | None = None,
    strategy: Strategy = "gradient",
    evolution: EvolutionSettings | None = None,
    cost: str = "law-per-array",
    alpha: float | Literal["auto"] = 1.0,
    seed: int = 0,
    device: str = "cpu",
    folder: str | Path | None = None,
    tell: Reporter | None = None,
) -> Found:
    """Search widths and depths of a ResNet by gradients, or by evolution over shared weights.

    Args:
        problem: of a space of :func:`search.spaces.resnet_cifar`, with a predictor.
        data: half of its training images are for the weights, the other half for choosing; test images are not looked
            at.
        settings: the search's; by default those for the data: the papers', and short ones for the digits.
        strategy: ``gradient``, or ``evolution``, which needs a budget.
        evolution: the settings of that strategy.
        cost: what the loss charges for: ``law-per-array``, ``eq8``, ``table`` or ``madds``.
        alpha: exponent of the laws of ``eq8``.
        seed: of everything.
        device: PyTorch's name of where to train.
        folder: keeps the search's checkpoint, from which another call goes on to the same end.
        tell: told where the search stands.

    Returns:
        What was found; its ``course`` has the epochs.

    Raises:
        UsageError: a problem of another space, settings that go with no search, or classes of data and space differ.
        BudgetError: no network is within the budgets.
        SearchError: the loss became NaN or infinite.
        CheckpointError: the folder holds another search.
    """
    if settings is None:
        penalty = "linear" if problem.budgets.ms is None or cost == "madds" else "band"
        settings, _ = preset(data, penalty=penalty, weight=None, search_epochs=None, train_epochs=None, batch_size=None)
    method = HtasMethod(
        data=data,
        search=settings,
        evolution=evolution or EvolutionSettings(),
        strategy=strategy,
        cost=FORMER.get(cost, cost),  # type: ignore[arg-type]
        alpha=alpha,
        seed=seed,
        device=device,
    )
    method.check(problem)
    with _folder(folder) as place:
        (place / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        return method.run(problem, place, tell or Quiet())


@contextlib.contextmanager
def _folder(given: str | Path | None) -> Iterator[Path]:
    if given is not None:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="latency-lut-htas-") as folder:
        yield Path(folder)

"""A user's own softmaxes as probabilities over a space's decisions."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch

from lut import SearchSpace, UsageError
from lut._suggest import did_you_mean

__all__ = ["probabilities_of"]

# How far from 1 probabilities may sum to, in any precision.
MOST_OFF = 1e-2
# Decisions that an error names.
NAMED = 5


def probabilities_of(space: SearchSpace, choices: Mapping[str, torch.Tensor | int]) -> list[torch.Tensor]:
    """Return one tensor per decision of a space, in its order; see :meth:`search.Problem.mixture`."""
    names = [decision.name for decision in space.choices]
    if unknown := [name for name in choices if name not in names]:
        meant = did_you_mean(str(unknown[0]), names)
        raise UsageError(f"{space.name} has no decision {unknown[0]!r}{meant or f'; it has {_some(names)}'}")
    given = [value for value in choices.values() if isinstance(value, torch.Tensor)]
    like = given[0] if given else torch.ones(1)
    found, missing = [], []
    for decision in space.choices:
        size = len(decision.options)
        value: Any = choices.get(decision.name, 0 if size == 1 else None)
        if value is None:
            missing.append(decision.name)
        elif isinstance(value, torch.Tensor):
            found.append(_checked(decision.name, value, size))
        else:
            index = -1 if isinstance(value, bool) or not hasattr(value, "__index__") else operator.index(value)
            if not 0 <= index < size:
                raise UsageError(
                    f"{decision.name} has {size} options: give their probabilities or an index, got {value!r}"
                )
            found.append(torch.nn.functional.one_hot(torch.tensor(index, device=like.device), size).to(like.dtype))
    if missing:
        raise UsageError(
            f"a mixture is over all decisions of {space.name}, and {len(missing)} are missing: {_some(missing)}"
        )
    return found


def _checked(name: str, value: torch.Tensor, size: int) -> torch.Tensor:
    if value.shape != (size,):
        raise UsageError(f"{name} has {size} options: probabilities of shape ({size},), got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise UsageError(f"{name} has {size} options: probabilities of floating point, got {value.dtype}")
    plain = value.detach()
    if not bool((plain >= 0).all()) or abs(float(plain.sum()) - 1) > MOST_OFF:
        raise UsageError(
            f"{name}: weights that are not negative and sum to 1, got a sum of {float(plain.sum()):.4g} and a least of "
            f"{float(plain.min()):.4g}; of logits give torch.softmax(alphas, -1)"
        )
    return value


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")

"""What HTAS's loss charges for: the expected latency of a distribution over networks, or their multiply-adds.

Sources: HTAS eq. 6 to 8 (linear, f(E[x]) of each curve's law), TAS's code (signed logarithm around a target).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Literal, NamedTuple, TypeAlias, final

import numpy as np
import torch

from lut._suggest import check_word
from predictors import CompiledLatency, PowerLaw, compile_madds
from predictors._compiled import CompiledSpace
from search._problem._coverage import compiled_digest
from search._problem._problem import Problem
from search.htas._settings import SearchSettings
from search.spaces._resnet_cifar import ResNetCifar
from search.spaces._width_sets import predicted_curves

__all__ = ["COSTS", "Charge", "CostKind", "Law", "band_penalty", "curve_laws", "make_charge"]

CostKind: TypeAlias = Literal["law-per-array", "eq8", "table", "madds"]
COSTS = ("law-per-array", "eq8", "table", "madds")
# TAS's weight of its cost, log E, whose slope is 1/E; the linear one gets the same slope at the base network.
TAS_WEIGHT = 2.0
# What law-per-array was called.
FORMER = {"law": "law-per-array"}


class Law(NamedTuple):
    """f(x) = k·x^α + b of a curve, in ms (HTAS eq. 1)."""

    k: float
    alpha: float
    b: float


@final
@dataclass(frozen=True)
class Charge:
    """What the loss charges for, by one expectation of it; made by :func:`make_charge`.

    Args:
        problem: of a space of widths and depths.
        kind: ``eq8``: HTAS's own, Σ f(E[x]) over the convolutions, with each curve's k, b and α: nothing else of a
            network is charged for. ``law-per-array``: the same idea for everything that the predictor knows: a law is
            fitted to each of its arrays, of one width or two, and taken at the mean widths. ``table``: the expectation
            itself. ``madds``: multiply-adds, to compare.
        charged: the arrays that it is taken from.
        laws: for ``eq8``, the law of each of the space's groups of widths.
    """

    problem: Problem
    kind: CostKind
    charged: CompiledSpace
    laws: tuple[Law, ...] = ()

    @property
    def space(self) -> ResNetCifar:
        """The problem's space."""
        assert isinstance(self.problem.space, ResNetCifar)
        return self.problem.space

    @property
    def unit(self) -> str:
        """Of what is charged for."""
        return "M multiply-adds" if self.kind == "madds" else "ms"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the loss and the bound of a budget depend on."""
        latency: CompiledLatency = self.problem.latency
        words = f"{self.kind} {self.problem.level} {self.problem.bound == 'upper'}"
        if self.problem.holds != "reference-speed":
            words += f" {self.problem.holds}"
        if self.problem.margin != 1.0:
            words += f" {self.problem.margin}"
        if self.laws:
            words += f" {self.laws}"
        return sha256((words + compiled_digest(latency) + compiled_digest(self.charged)).encode()).hexdigest()

    def expected(self, probabilities: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what the loss charges for a distribution over networks: ms, or millions of multiply-adds.

        Args:
            probabilities: one tensor per decision of the space, of shape ``(options,)``.
        """
        if self.kind == "eq8":
            return self._eq8(probabilities)
        # Multiply-adds are products of widths, so TAS's E[C_in]·E[C_out] is their expectation.
        of = "law" if self.kind == "law-per-array" else "table"
        found: torch.Tensor = self.charged.expected(probabilities, of=of)
        return found

    def _eq8(self, probabilities: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return Σ f(E[x]) (HTAS eq. 8), a block's terms weighed with the probability that it is kept (TAS)."""
        total = probabilities[0].new_zeros(())
        kept: list[torch.Tensor] = []
        for decision, p in zip(self.space.choices, probabilities, strict=True):
            if decision.kind == "depth":
                counts = torch.as_tensor(decision.options, device=p.device)
                kept = [(p * (counts >= block)).sum() for block in range(1, self.space.blocks + 1)]
                continue
            place = re.fullmatch(r"stage(\d+)\.block(\d+)\.conv(\d+)", decision.name)
            # The paper says nothing of the stem: it counts as a convolution of the first stage.
            stage, block, conv = (1, 0, 1) if place is None else map(int, place.groups())
            law = self.laws[self.space.group_of(stage, conv)]
            mean = (p * torch.as_tensor(decision.options, device=p.device, dtype=p.dtype)).sum()
            value = law.k * mean**law.alpha + law.b
            total = total + (value if block == 0 else kept[block - 1] * value)
        return total

    def current(self, vector: Sequence[int]) -> float:
        """Return what one network costs, in the charge's unit; of a latency it is what a budget is held against."""
        if self.kind == "madds":
            return float(self.charged.values(np.asarray(vector))[0])
        return self.problem.bound_ms(vector)

    @cached_property
    def base(self) -> float:
        """What the base network costs, by prediction."""
        network = self.space.base_network()
        assert self.problem.predictor is not None
        return network.madds / 1e6 if self.kind == "madds" else self.problem.predictor.latency_ms(network)

    def weight(self, settings: SearchSettings) -> float:
        """Return λ: the settings', or TAS's 2, for a linear penalty brought to the slope that it has there."""
        default = TAS_WEIGHT if settings.penalty == "band" else TAS_WEIGHT / self.base
        return default if settings.weight is None else settings.weight

    def penalty(
        self, probabilities: Sequence[torch.Tensor], most_probable: Sequence[int], settings: SearchSettings
    ) -> torch.Tensor:
        """Return the cost's part of the loss.

        Args:
            probabilities: as for :meth:`expected`.
            most_probable: the vector of the most probable network.
            settings: which penalty, and with what weight.
        """
        expected = self.expected(probabilities)
        if settings.penalty == "linear":
            return self.weight(settings) * expected
        target = self.problem.budgets.ms
        assert target is not None
        tolerance = settings.tolerance * self.base
        current = self.current(most_probable)
        return self.weight(settings) * band_penalty(expected, current, target=target, tolerance=tolerance)


def make_charge(problem: Problem, kind: str = "law-per-array", *, alpha: float | Literal["auto"] = 1.0) -> Charge:
    """Compile what the loss charges for.

    Args:
        problem: of a space of widths and depths, with a predictor.
        kind: see :class:`Charge`.
        alpha: exponent of the laws of ``eq8``, or ``"auto"``.

    Raises:
        UsageError: another ``kind``, or no predictor.
        PredictorError: as :meth:`LatencyPredictor.compile`.
    """
    kind = FORMER.get(kind, kind)
    check_word("the cost", kind, COSTS)
    charged = compile_madds(problem.space) if kind == "madds" else problem.latency
    laws = curve_laws(problem, alpha) if kind == "eq8" else ()
    return Charge(problem, kind, charged, laws)  # type: ignore[arg-type]


def curve_laws(problem: Problem, alpha: float | Literal["auto"]) -> tuple[Law, ...]:
    """Return the law of each of the space's curves, fitted to what the predictor knows of them (HTAS eq. 1)."""
    assert problem.predictor is not None
    assert isinstance(problem.space, ResNetCifar)
    with warnings.catch_warnings():
        # That widths were predicted matters where they are chosen; a law is smooth.
        warnings.simplefilter("ignore")
        curves = predicted_curves(problem.space, problem.predictor)
    laws = [PowerLaw(alpha=alpha).fit(np.array(curve.channels), np.array(curve.ms)) for curve in curves]
    return tuple(Law(float(law.k_), float(law.alpha_), float(law.b_)) for law in laws)


def band_penalty(expected: torch.Tensor, current: float, *, target: float, tolerance: float) -> torch.Tensor:
    """Return TAS's cost: −log E below ``target − tolerance``, +log E above ``target``, nothing between.

    Args:
        expected: E, differentiable.
        current: what the most probable network takes; it alone decides the sign.
        target: in the unit of both.
        tolerance: likewise; TAS: 0.05 of the base network's.
    """
    if current < target - tolerance:
        return -torch.log(expected)
    if current > target:
        return torch.log(expected)
    return 0.0 * expected

"""A compiled space's arrays as PyTorch tensors: latencies of networks, and differentiable expectations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

import numpy as np
import torch

from lut import UsageError
from predictors._surface import fit_surface

if TYPE_CHECKING:
    from predictors._compiled import CompiledSpace, Term

__all__ = ["TorchLatency", "TorchSpace"]

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

_When = tuple[tuple[int, tuple[int, ...]], ...]


class _Stack(NamedTuple):
    """Terms of one shape: decisions of each, shape ``(terms, axes)``; arrays, ``(terms, options …)``; conditions."""

    decisions: list[tuple[int, ...]]
    values: torch.Tensor
    when: list[_When]


class TorchSpace:
    """A compiled space in PyTorch: see :meth:`values` and :meth:`expected`; in the unit of the compiled one.

    Args:
        compiled: the arrays.
        device: where the tensors lie.
        dtype: of the values; ``None`` is ``torch.float32``.
    """

    def __init__(self, compiled: CompiledSpace, *, device: Any = "cpu", dtype: torch.dtype | None = None) -> None:
        self.compiled = compiled
        self.device = torch.device(device)
        self.dtype = dtype or torch.float32
        self._sizes = [len(decision.options) for decision in compiled.choices]
        groups: dict[tuple[int, ...], list[Term]] = defaultdict(list)
        for term in compiled.terms:
            groups[term.values.shape].append(term)
        self._stacks = [
            _Stack(
                [term.decisions for term in terms],
                torch.as_tensor(np.stack([term.values for term in terms]), dtype=self.dtype, device=self.device),
                [term.when for term in terms],
            )
            for terms in groups.values()
        ]
        self._laws: list[_Law] | None = None

    def values(self, choices: torch.Tensor) -> torch.Tensor:
        """Return what each network costs, shape ``(n,)``.

        Args:
            choices: option indices, an integer tensor of shape ``(n, decisions)`` on :attr:`device`.

        Raises:
            UsageError: another shape or type, or an index that its decision does not have.
        """
        if choices.ndim != 2 or choices.shape[1] != len(self._sizes) or choices.dtype not in INTEGERS:
            raise UsageError(
                f"{self.compiled.space}: networks are integers of shape (n, {len(self._sizes)}), got {choices.dtype} "
                f"of shape {tuple(choices.shape)}"
            )
        rows = choices.long()
        sizes = torch.as_tensor(self._sizes, device=rows.device)
        if bool(((rows < 0) | (rows >= sizes)).any()):
            raise UsageError(f"{self.compiled.space}: an option index is out of range")
        total = torch.full((len(rows),), self.compiled.constant, dtype=self.dtype, device=self.device)
        for stack in self._stacks:
            # Flat indices into the stack, shape (n, terms).
            index = torch.arange(len(stack.decisions), device=rows.device).expand(len(rows), -1)
            for axis, size in enumerate(stack.values.shape[1:]):
                index = index * size + rows[:, [decisions[axis] for decisions in stack.decisions]]
            values = stack.values.reshape(-1)[index]
            gates = self._gates(stack.when, lambda d, options: _is_in(rows[:, d], options))
            total = total + (values if gates is None else values * gates).sum(1)
        return total

    def expected(
        self,
        probabilities: Sequence[torch.Tensor],
        *,
        of: Literal["table", "law"] = "table",
        joint: Mapping[tuple[int, int], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return the expected cost, differentiable in the probabilities.

        ``of="table"`` is the expectation itself, Σ p·m over the arrays' entries with the joint probability of both
        decisions: their product, as they are drawn independently, unless ``joint`` says otherwise. ``of="law"`` is
        f(E[x]) after HTAS (eq. 6 and 8), but of every array and not of each curve: a law f(x) = k·x^α + b of its own is
        fitted to each array over its widths, E[x] is the mean width; of two widths f(x, y) = k·(x·y)^α + c·x + d·y + b.
        Over operators, whose mean means nothing, both are expectations. Conditions, such as a depth, weigh a term with
        the probability that they hold (TAS).

        Args:
            probabilities: one tensor per decision, of shape ``(…, options)``; they are not normalised here.
            of: see above.
            joint: by a pair of decisions, in increasing order, their joint probability, shape ``(…, options,
                options)``.

        Raises:
            UsageError: shapes do not fit the decisions.
        """
        if of not in ("table", "law"):
            raise UsageError(f"of is 'table' or 'law', got {of!r}")
        if len(probabilities) != len(self._sizes):
            raise UsageError(f"{self.compiled.space} has {len(self._sizes)} decisions, got {len(probabilities)}")
        p = []
        for given, size, decision in zip(probabilities, self._sizes, self.compiled.choices, strict=True):
            if given.shape[-1] != size:
                raise UsageError(f"{decision.name} has {size} options, got probabilities of {tuple(given.shape)}")
            p.append(given.to(self.device, self.dtype))
        if of == "law":
            return self._expected_law(p)
        self._check_joint(joint or {})
        total = torch.zeros(p[0].shape[:-1], dtype=self.dtype, device=self.device) + self.compiled.constant
        for stack in self._stacks:
            gates = self._gates(stack.when, lambda d, options: p[d][..., list(options)].sum(-1))
            values = self._means(stack, p, joint or {})
            total = total + (values if gates is None else values * gates).sum(-1)
        return total

    def _check_joint(self, joint: Mapping[tuple[int, int], torch.Tensor]) -> None:
        for pair, given in joint.items():
            if len(pair) != 2 or not 0 <= pair[0] < pair[1] < len(self._sizes):
                raise UsageError(f"joint names pairs of decisions in increasing order, such as (0, 1), got {pair}")
            wanted = (self._sizes[pair[0]], self._sizes[pair[1]])
            if tuple(given.shape[-2:]) != wanted:
                raise UsageError(f"the joint probability of {pair} is of {wanted} options, got {tuple(given.shape)}")

    def _means(
        self, stack: _Stack, p: Sequence[torch.Tensor], joint: Mapping[tuple[int, int], torch.Tensor]
    ) -> torch.Tensor:
        """Return each term's expectation, shape ``(…, terms)``."""
        if stack.values.ndim == 1:
            return stack.values
        first = torch.stack([p[decisions[0]] for decisions in stack.decisions], -2)
        if stack.values.ndim == 2:
            return (first * stack.values).sum(-1)
        second = torch.stack([p[decisions[1]] for decisions in stack.decisions], -2)
        product = (torch.einsum("...ti,tij->...tj", first, stack.values) * second).sum(-1)
        if not joint:
            return product
        found = list(product.unbind(-1))
        for i, decisions in enumerate(stack.decisions):
            if (given := joint.get((decisions[0], decisions[1]))) is not None:
                found[i] = (given.to(self.device, self.dtype) * stack.values[i]).sum((-1, -2))
        return torch.stack(found, -1)

    def _gates(self, conditions: Sequence[_When], probability: Any) -> torch.Tensor | None:
        """Return the probability that each term's condition holds, shape ``(…, terms)``; ``None``: all always do."""
        if not any(conditions):
            return None
        found: dict[_When, torch.Tensor] = {}
        for when in conditions:
            if when in found:
                continue
            value = torch.ones((), dtype=self.dtype, device=self.device)
            for decision, options in when:
                value = value * probability(decision, options)
            found[when] = value
        shape = max((value.shape for value in found.values()), key=len)
        return torch.stack([found[when].expand(shape) for when in conditions], -1)

    def _expected_law(self, p: Sequence[torch.Tensor]) -> torch.Tensor:
        if self._laws is None:
            self._laws = [_Law(term, self.compiled, self.device, self.dtype) for term in self.compiled.terms]
        means = {
            i: (p[i] * torch.as_tensor(d.options, dtype=self.dtype, device=self.device)).sum(-1)
            for i, d in enumerate(self.compiled.choices)
            if d.kind == "width"
        }
        total = torch.zeros(p[0].shape[:-1], dtype=self.dtype, device=self.device) + self.compiled.constant
        for law in self._laws:
            value = law.expected(p, means)
            for decision, options in law.when:
                value = value * p[decision][..., list(options)].sum(-1)
            total = total + value
        return total


@final
class TorchLatency(TorchSpace):
    """Compiled latencies in PyTorch, in ms; made by ``predictor.compile(space).torch()``. Final."""

    def latency(self, choices: torch.Tensor) -> torch.Tensor:
        """Return the latency in ms of each network, shape ``(n,)``; see :meth:`values`."""
        return self.values(choices)

    def expected_latency(self, probabilities: Sequence[torch.Tensor], **options: Any) -> torch.Tensor:
        """Return the expected latency in ms, differentiable in the probabilities; see :meth:`expected`."""
        return self.expected(probabilities, **options)


class _Law:
    """A term's law over its widths, one per combination of its other options."""

    def __init__(self, term: Term, compiled: CompiledSpace, device: torch.device, dtype: torch.dtype) -> None:
        self.when = term.when
        self.widths = [d for d in term.decisions if compiled.choices[d].kind == "width"]
        self.others = [d for d in term.decisions if compiled.choices[d].kind != "width"]
        axes = [term.decisions.index(d) for d in (*self.others, *self.widths)]
        ms = term.values.transpose(axes)
        options = [np.array(compiled.choices[d].options, dtype=np.float64) for d in self.widths]
        # Where no layer stands, a law says nothing: it counts with the probability that one does.
        stands = ms > 0
        self.stands = None if stands.all() else torch.as_tensor(stands, dtype=dtype, device=device)
        rows = ms.reshape(-1, *ms.shape[len(self.others) :])
        fitted = np.array([fit_surface(options, row).as_row() for row in rows])
        shape = (*ms.shape[: len(self.others)], fitted.shape[1])
        self.parameters = torch.as_tensor(fitted.reshape(shape), dtype=dtype, device=device)

    def expected(self, p: Sequence[torch.Tensor], means: Mapping[int, torch.Tensor]) -> torch.Tensor:
        k, alpha, c, d, b = self.parameters.unbind(-1)
        value: torch.Tensor
        if not self.widths:
            value = b
        else:
            shape = (..., *(None for _ in self.others))
            x = means[self.widths[0]][shape]
            product = x * means[self.widths[1]][shape] if len(self.widths) == 2 else x
            value = k * product**alpha + b
            if len(self.widths) == 2:
                value = value + c * x + d * means[self.widths[1]][shape]
        if self.stands is not None and self.widths:
            found = self.stands
            for left in range(len(self.widths), 0, -1):
                found = _weighed(found, p[self.widths[left - 1]], len(self.others) + left - 1)
            value = value * found
        for left in range(len(self.others), 0, -1):
            value = _weighed(value, p[self.others[left - 1]], left - 1)
        return value


def _weighed(value: torch.Tensor, weights: torch.Tensor, before: int) -> torch.Tensor:
    """Return the sum over the last axis, weighed: ``(…, ``before`` axes, options)`` with weights ``(…, options)``."""
    return (value * weights.reshape(*weights.shape[:-1], *[1] * before, weights.shape[-1])).sum(-1)


def _is_in(column: torch.Tensor, options: Sequence[int]) -> torch.Tensor:
    return torch.isin(column, torch.as_tensor(options, device=column.device))

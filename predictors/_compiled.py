"""A space's latencies as dense arrays: pairwise in × out, calibration included, for tens of millions of queries."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lut import Decision, Layer, LayerSlot, Network, SearchSpace, UsageError

if TYPE_CHECKING:
    from predictors._torch_latency import TorchLatency, TorchSpace

__all__ = [
    "CompiledLatency",
    "CompiledSpace",
    "Term",
    "compile_madds",
    "compile_parameters",
    "compile_space",
    "layers_of",
    "places_of",
]

Floats = NDArray[np.float64]

# Networks looked up at a time: enough that a call of numpy's costs little, few enough that a block stays in the caches.
BLOCK = 8192
# What 16 bits hold.
MOST_OPTIONS = (1 << 16) - 1
# Arrays that share decisions become one, as long as that has no more entries than this: 32 KiB, of which the second
# cache holds many. One lookup then answers for several layers.
LARGEST_FUSED = 4096
# A condition is looked up with its array as long as that has no more entries than this; beyond, it is tested.
LARGEST_CONDITIONAL = 16384
# Random networks for which arrays and the predictor are compared before a compiled space is given away.
CHECKED = 16


class Term(NamedTuple):
    """An array over the options of one or more decisions, which counts where all of ``when`` holds.

    ``values`` has one axis per decision of ``decisions``; ``when`` as in :class:`lut.LayerSlot`.
    """

    decisions: tuple[int, ...]
    values: Floats
    when: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class CompiledSpace:
    """What a space's networks cost, as arrays: sums of what their layers do.

    Args:
        space: the space's name.
        choices: its decisions.
        constant: what every network costs.
        terms: arrays to be looked up and added: one for each pair of decisions that fix layers together, one for each
            decision that does so alone, and one for each condition.
        unit: of all values: ``ms``, or ``million multiply-adds``.
    """

    space: str
    choices: tuple[Decision, ...]
    constant: float
    terms: tuple[Term, ...]
    unit: str = "ms"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.space}: {len(self.terms)} arrays, {self.unit}>"

    def values(self, choices: ArrayLike) -> Floats:
        """Return what each network costs, in :attr:`unit`, shape ``(n,)``.

        Args:
            choices: option indices, integers of shape ``(n, decisions)``, or ``(decisions,)`` for one network.

        Raises:
            UsageError: another number of decisions, no integers, or an index that its decision does not have.
        """
        try:
            rows = np.asarray(choices)
        except ValueError:
            raise UsageError(f"{self.space}: networks have lists of option indices of different lengths") from None
        if rows.ndim == 1:
            rows = rows[None]
        if any(len(decision.options) > MOST_OPTIONS for decision in self.choices):
            raise UsageError(f"{self.space}: a decision has more than {MOST_OPTIONS} options")
        if rows.ndim != 2 or rows.shape[1] != len(self.choices) or rows.dtype.kind not in "iu":
            raise UsageError(
                f"{self.space}: networks are integers of shape (n, {len(self.choices)}), got {rows.dtype} of shape "
                f"{rows.shape}"
            )
        found = np.empty(len(rows))
        plan = self._plan
        buffers = plan.buffers(min(BLOCK, len(rows)))
        for start in range(0, len(rows), BLOCK):
            plan.look_up(rows[start : start + BLOCK], found[start : start + BLOCK], buffers)
        return found

    @cached_property
    def _plan(self) -> _Plan:
        return _Plan(self.space, self.choices, self.constant, self.terms)

    def expected(self, probabilities: Sequence[Any], **options: Any) -> Any:
        """Return the expected cost under probabilities over the options, as a tensor; see :meth:`torch`."""
        first = probabilities[0]
        key = (str(first.device), str(first.dtype))
        if key not in self._tensors:
            self._tensors[key] = self.torch(device=first.device, dtype=first.dtype)
        return self._tensors[key].expected(probabilities, **options)

    @cached_property
    def _tensors(self) -> dict[tuple[str, str], TorchSpace]:
        return {}

    def torch(self, *, device: Any = "cpu", dtype: Any = None) -> TorchSpace:
        """Return the same arrays as tensors: looked up and differentiable, on any device.

        Args:
            device: PyTorch's name of it, or a ``torch.device``.
            dtype: of the values; by default ``torch.float32``.
        """
        from predictors._torch_latency import TorchSpace

        return TorchSpace(self, device=device, dtype=dtype)


@dataclass(frozen=True, repr=False)
class CompiledLatency(CompiledSpace):
    """The latencies of a space's networks, in ms, as arrays. Final; made by :meth:`LatencyPredictor.compile`.

    ``latency(choices)`` looks up tens of millions of networks a second, ``expected_latency(probabilities)`` is
    differentiable, ``torch()`` gives both on any device.
    """

    def latency(self, choices: ArrayLike) -> Floats:
        """Return the latency in ms of each network, shape ``(n,)``; see :meth:`values`."""
        return self.values(choices)

    def expected_latency(self, probabilities: Sequence[Any], **options: Any) -> Any:
        """Return the expected latency in ms under probabilities over the options, as a tensor; see :meth:`torch`."""
        return self.expected(probabilities, **options)

    def torch(self, *, device: Any = "cpu", dtype: Any = None) -> TorchLatency:
        """Return the same arrays as tensors: looked up and differentiable, on any device; in ms."""
        from predictors._torch_latency import TorchLatency

        return TorchLatency(self, device=device, dtype=dtype)


class _Lookup(NamedTuple):
    """One array to look up. ``steps``: (column, factor) of each decision; ``masks``: (column, which options hold)."""

    steps: tuple[tuple[int, int], ...]
    table: Floats
    masks: tuple[tuple[int, NDArray[np.bool_]], ...]


@dataclass(frozen=True)
class _Buffers:
    """Room for a block: option indices by decision, two for indices that fit into 16 bits, one for any, one for ms."""

    columns: NDArray[np.uint16]
    short: NDArray[np.uint16]
    step: NDArray[np.uint16]
    index: NDArray[np.intp]
    value: Floats

    def cut(self, count: int) -> _Buffers:
        """Return the first ``count`` entries of each."""
        return _Buffers(
            self.columns[:, :count], self.short[:count], self.step[:count], self.index[:count], self.value[:count]
        )


class _Plan:
    """How a block of networks is looked up: arrays without conditions fused where they are small."""

    def __init__(self, space: str, choices: Sequence[Decision], constant: float, terms: Sequence[Term]) -> None:
        self._space = space
        self._choices = choices
        self._sizes = np.array([len(decision.options) for decision in choices])
        always: list[tuple[tuple[int, ...], Floats]] = []
        sometimes: list[Term] = []
        for term in terms:
            unconditional = _with_conditions(term, self._sizes)
            if unconditional is None:
                sometimes.append(term)
            else:
                always.append(unconditional)
        self._constant = constant
        fused = _fused(always)
        self.fused_terms = (*(Term(decisions, ms, ()) for decisions, ms in fused), *sometimes)
        self._always = [_lookup(decisions, ms, (), self._sizes) for decisions, ms in fused]
        self._sometimes = [_lookup(t.decisions, t.values, t.when, self._sizes) for t in sometimes]

    def buffers(self, size: int) -> _Buffers:
        """Return room for blocks of ``size`` networks."""
        return _Buffers(
            np.empty((len(self._choices), size), dtype=np.uint16),
            np.empty(size, dtype=np.uint16),
            np.empty(size, dtype=np.uint16),
            np.empty(size, dtype=np.intp),
            np.empty(size),
        )

    def look_up(self, rows: NDArray[Any], found: Floats, buffers: _Buffers) -> None:
        """Write the latencies of ``rows`` into ``found``."""
        if len(rows) < buffers.columns.shape[1]:
            buffers = buffers.cut(len(rows))
        columns, index, value = buffers.columns, buffers.index, buffers.value
        # What 16 bits do not hold is beyond every decision.
        if rows.dtype != np.uint8 and rows.size and (int(rows.min()) < 0 or int(rows.max()) > MOST_OPTIONS):
            self._refuse(rows)
        np.copyto(columns, rows.T, casting="unsafe")
        if rows.size and np.any(columns.max(axis=1) >= self._sizes):
            self._refuse(rows)
        found[:] = self._constant
        for lookup in self._always:
            _index(lookup, buffers)
            np.take(lookup.table, index, out=value, mode="clip")
            np.add(found, value, out=found)
        for lookup in self._sometimes:
            holds = lookup.masks[0][1][columns[lookup.masks[0][0]]]
            for column, mask in lookup.masks[1:]:
                holds &= mask[columns[column]]
            at = np.flatnonzero(holds)
            if at.size:
                place = np.zeros(at.size, dtype=np.intp)
                for column, factor in lookup.steps:
                    place += columns[column, at] * np.intp(factor)
                found[at] += lookup.table[place]

    def _refuse(self, rows: NDArray[Any]) -> None:
        bad = np.argwhere((rows < 0) | (rows.astype(np.float64) >= self._sizes))
        row, column = bad[0]
        decision = self._choices[column]
        raise UsageError(
            f"{self._space}: {decision.name} has {len(decision.options)} options, got index {rows[row, column]}"
        )


def _index(lookup: _Lookup, buffers: _Buffers) -> None:
    """Write each network's place in an array into ``buffers.index``."""
    columns, short, step, index = buffers.columns, buffers.short, buffers.step, buffers.index
    if lookup.table.size > MOST_OPTIONS:
        index[:] = 0
        for column, factor in lookup.steps:
            np.add(index, columns[column] * np.intp(factor), out=index)
        return
    # Sums of short integers go several times as many at once; one conversion at the end.
    (column, factor), *others = lookup.steps
    np.multiply(columns[column], np.uint16(factor), out=short)
    for column, factor in others:
        if factor == 1:
            np.add(short, columns[column], out=short)
        else:
            np.multiply(columns[column], np.uint16(factor), out=step)
            np.add(short, step, out=short)
    np.copyto(index, short)


def _lookup(
    decisions: Sequence[int],
    ms: Floats,
    when: Sequence[tuple[int, tuple[int, ...]]],
    sizes: NDArray[Any],
) -> _Lookup:
    steps, factor = [], 1
    for decision, size in zip(reversed(decisions), reversed(ms.shape), strict=True):
        steps.append((decision, factor))
        factor *= size
    masks = []
    for decision, options in when:
        mask = np.zeros(sizes[decision], dtype=bool)
        mask[list(options)] = True
        masks.append((decision, mask))
    return _Lookup(tuple(reversed(steps)), np.ascontiguousarray(ms).ravel(), tuple(masks))


def _with_conditions(term: Term, sizes: NDArray[Any]) -> tuple[tuple[int, ...], Floats] | None:
    """Return a term's array over its decisions and those of its conditions, 0 where they do not hold.

    ``None`` where that were too large.
    """
    array: tuple[tuple[int, ...], Floats] = (term.decisions, term.values)
    for decision, options in term.when:
        mask = np.zeros(int(sizes[decision]))
        mask[list(options)] = 1.0
        if decision in array[0]:
            shape = [len(mask) if d == decision else 1 for d in array[0]]
            array = (array[0], array[1] * mask.reshape(shape))
        else:
            array = ((decision, *array[0]), mask.reshape(-1, *[1] * array[1].ndim) * array[1])
        if array[1].size > LARGEST_CONDITIONAL:
            return None
    return array


def _fused(arrays: list[tuple[tuple[int, ...], Floats]]) -> list[tuple[tuple[int, ...], Floats]]:
    """Return arrays with the same sums: those that share decisions become one array over all of these, if small."""
    left = list(arrays)
    done: list[tuple[tuple[int, ...], Floats]] = []
    while left:
        decisions, ms = left.pop(0)
        while True:
            best: tuple[int, int, int] | None = None
            for i, (others, other) in enumerate(left):
                new = [size for d, size in zip(others, other.shape, strict=True) if d not in decisions]
                size = ms.size * int(np.prod(new, dtype=np.int64))
                rank = (size, 0 if len(new) < len(others) else 1, i)
                if size <= LARGEST_FUSED and (best is None or rank < best):
                    best = rank
            if best is None:
                break
            decisions, ms = _sum((decisions, ms), left.pop(best[2]))
        done.append((decisions, ms))
    return done


def _sum(
    first: tuple[tuple[int, ...], Floats], second: tuple[tuple[int, ...], Floats]
) -> tuple[tuple[int, ...], Floats]:
    """Return one array over the decisions of two that holds their sums."""
    decisions = (*first[0], *(d for d in second[0] if d not in first[0]))

    def spread(array: tuple[tuple[int, ...], Floats]) -> Floats:
        order = sorted(range(len(array[0])), key=lambda axis: decisions.index(array[0][axis]))
        ms = array[1].transpose(order)
        own = [array[0][axis] for axis in order]
        return ms.reshape([ms.shape[own.index(d)] if d in own else 1 for d in decisions])

    return decisions, spread(first) + spread(second)


def compile_space(
    name: str,
    choices: tuple[Decision, ...],
    places: Iterable[LayerSlot],
    contributions: Callable[[Sequence[Layer]], Floats],
    *,
    decode: Callable[[Sequence[int]], Network],
    sample: Callable[[random.Random], tuple[int, ...]],
    network_cost: Callable[[Network], float],
    unit: str = "ms",
) -> CompiledSpace:
    """Return what a space's networks cost as arrays.

    Args:
        name: of the space.
        choices: its decisions.
        places: where its layers stand.
        contributions: what layers contribute to a network.
        decode: gives a vector's network.
        sample: gives a random vector.
        network_cost: what a network costs, against which the arrays are checked.
        unit: of both.

    Raises:
        UsageError: a place has more than two decisions, or numbers that do not exist; or the places are not those of
            the space's networks.
    """
    order: dict[Layer, int] = {}
    drafts: list[tuple[LayerSlot, NDArray[np.int64]]] = []
    # Places that share a function and options have the same layers: a stage's blocks, say.
    known: dict[tuple[Callable[..., Layer | None], tuple[int, ...]], NDArray[np.int64]] = {}
    for place in places:
        _check_place(name, choices, place)
        shape = tuple(len(choices[d].options) for d in place.decisions)
        index = known.get((place.layer, shape))
        if index is None:
            index = known[place.layer, shape] = np.full(shape, -1, dtype=np.int64)
            for at in np.ndindex(*shape):
                layer = place.layer(*at)
                if layer is not None:
                    index[at] = order.setdefault(layer, len(order))
        drafts.append((place, index))
    # The last entry stands for "no layer".
    costs = np.append(contributions(list(order)), 0.0)
    merged: dict[tuple[tuple[int, ...], tuple[tuple[int, tuple[int, ...]], ...]], Floats] = {}
    constant = 0.0
    for place, index in drafts:
        decisions, when = place.decisions, _conditions(place)
        values = costs[index] * place.times
        for axis, decision in enumerate(decisions):
            # A condition on what fixes the layer is a part of the array: where it does not hold, there is no layer.
            if decision in when:
                mask = np.isin(np.arange(values.shape[axis]), list(when.pop(decision)))
                values = values * mask.reshape([-1 if other == axis else 1 for other in range(values.ndim)])
        if len(decisions) == 2 and decisions[0] > decisions[1]:
            decisions, values = decisions[::-1], values.T
        gates = tuple((decision, tuple(sorted(options))) for decision, options in sorted(when.items()))
        if not decisions and not gates:
            constant += float(values)
            continue
        key = (decisions, gates)
        merged[key] = merged[key] + values if key in merged else values
    terms = tuple(Term(decisions, values, when) for (decisions, when), values in _absorbed(merged).items())
    compiled = CompiledSpace(name, choices, constant, terms, unit)
    _check(compiled, decode, sample, network_cost)
    return compiled


def compile_madds(space: SearchSpace) -> CompiledSpace:
    """Return a space's multiply-adds, in millions, as arrays: what searches that know no device go by.

    Raises:
        UsageError: as :meth:`LatencyPredictor.compile`.
    """
    return _compile_count(space, "madds", "million multiply-adds")


def compile_parameters(space: SearchSpace) -> CompiledSpace:
    """Return a space's trainable parameters, in millions, as arrays.

    Raises:
        UsageError: as :meth:`LatencyPredictor.compile`.
    """
    return _compile_count(space, "parameters", "million parameters")


def _compile_count(space: SearchSpace, name: Literal["madds", "parameters"], unit: str) -> CompiledSpace:
    return compile_space(
        space.name,
        space.choices,
        places_of(space),
        lambda layers: np.array([getattr(layer, name) / 1e6 for layer in layers], dtype=np.float64),
        decode=space.decode,
        sample=space.sample,
        network_cost=lambda network: float(getattr(network, name)) / 1e6,
        unit=unit,
    )


def places_of(space: SearchSpace) -> Sequence[LayerSlot]:
    """Return where a space's layers stand.

    Raises:
        UsageError: the space does not say.
    """
    slots = space.slots()
    if slots is None:
        raise UsageError(
            f"the space {space.name} does not say which decisions fix its layers: it has no slots(). Ask for "
            "its networks one by one: predictor.latency_ms(space.decode(vector))"
        )
    return slots


def layers_of(space: SearchSpace) -> tuple[Layer, ...]:
    """Return every layer that networks of a space can have, each once.

    Raises:
        UsageError: the space does not say.
    """
    found: dict[Layer, None] = {}
    known = set()
    for place in places_of(space):
        shape = tuple(len(space.choices[d].options) for d in place.decisions)
        if (place.layer, shape) in known:
            continue
        known.add((place.layer, shape))
        for at in np.ndindex(*shape):
            layer = place.layer(*at)
            if layer is not None:
                found[layer] = None
    return tuple(found)


def _check_place(name: str, choices: Sequence[Decision], place: LayerSlot) -> None:
    """Raise unless a place depends on at most two decisions, and on decisions and options that exist."""
    named = (*place.decisions, *(decision for decision, _ in place.when))
    if len(set(place.decisions)) != len(place.decisions) or len(place.decisions) > 2:
        raise UsageError(f"{name}: {place.name} depends on decisions {place.decisions}; two different ones at most")
    if any(not 0 <= decision < len(choices) for decision in named):
        raise UsageError(f"{name}: {place.name} depends on decisions {named}, and there are {len(choices)}")
    for decision, options in place.when:
        if any(not 0 <= option < len(choices[decision].options) for option in options):
            raise UsageError(
                f"{name}: {place.name} is there when {choices[decision].name} is one of {options}, and that has "
                f"{len(choices[decision].options)} options"
            )


def _conditions(place: LayerSlot) -> dict[int, set[int]]:
    """Return a place's conditions, one for each decision: several about one hold together."""
    found: dict[int, set[int]] = {}
    for decision, options in place.when:
        found[decision] = found[decision] & set(options) if decision in found else set(options)
    return found


_Arrays = dict[tuple[tuple[int, ...], tuple[tuple[int, tuple[int, ...]], ...]], Floats]


def _absorbed(arrays: _Arrays) -> _Arrays:
    """Return the arrays with those over one decision added to one over two that has the same condition."""
    found = dict(arrays)
    for (decisions, when), values in arrays.items():
        if len(decisions) != 1:
            continue
        host = next(
            (key for key in found if key[1] == when and len(key[0]) == 2 and decisions[0] in key[0]),
            None,
        )
        if host is not None:
            axis = host[0].index(decisions[0])
            found[host] = found[host] + (values[:, None] if axis == 0 else values[None, :])
            del found[decisions, when]
    return found


def _check(
    compiled: CompiledSpace,
    decode: Callable[[Sequence[int]], Network],
    sample: Callable[[random.Random], tuple[int, ...]],
    network_cost: Callable[[Network], float],
) -> None:
    """Raise where the arrays do not give what the predictor says of the networks themselves."""
    rng = random.Random(0)  # noqa: S311 - a sample, no secret
    for _ in range(CHECKED):
        vector = sample(rng)
        network = decode(vector)
        mine, other = float(compiled.values(np.asarray(vector))[0]), network_cost(network)
        if abs(mine - other) > 1e-6 * other:
            raise UsageError(
                f"{compiled.space}: its slots() gives {mine:.6g} {compiled.unit} for {tuple(vector)}, and the layers "
                f"of that network give {other:.6g}: a place is missing, or its decisions are not what fixes its layer"
            )

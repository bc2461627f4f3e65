"""For authors of search spaces: does a space keep what :class:`lut.SearchSpace` promises? To be called in a test."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import get_args

from lut._layer import Layer
from lut._network import Network
from lut._space import DecisionKind, LayerSlot, SearchSpace
from lut.errors import LayerError, UsageError

__all__ = ["check_space"]


def check_space(
    space: SearchSpace,
    *,
    samples: int = 50,
    seed: int = 0,
    cost: Callable[[Sequence[Sequence[int]]], Sequence[float]] | None = None,
    cost_of: Callable[[Network], float] | None = None,
) -> None:
    """Raise unless a space keeps its promises, as far as random vectors show.

    Vectors are as they should be, and one seed draws the same ones again; networks are made of layers that fit
    together; what is out of range is refused; equal vectors by :meth:`~lut.SearchSpace.canonical` are equal networks;
    slots name each network's layers, no more and no less; an audit's networks are made of the layers that are measured,
    and every other layer is of a kind that is; curves are among these layers; published networks can be made.

    Args:
        space: the space.
        samples: how many random vectors of each sort.
        seed: of the vectors.
        cost: takes vectors and returns each one's cost, such as ``predictor.compile(space).latency``.
        cost_of: a network's cost, such as ``predictor.latency_ms``; the two must agree.

    Raises:
        AssertionError: a promise is broken; says which, and for which vector.
    """
    if not isinstance(space, SearchSpace):
        raise UsageError(f"a lut.SearchSpace is checked, got {type(space).__name__}: make one, and inherit SearchSpace")
    if samples < 1 or (cost is None) != (cost_of is None):
        raise UsageError("at least one sample is drawn, and cost and cost_of are given together")
    _check_choices(space)
    layers = space.layers()
    _require(len(layers) == len(set(layers)), f"{space.name}: layers() names a layer twice")
    _require(bool(layers), f"{space.name}: layers() is empty, so there is nothing to measure")
    known, kinds = set(layers), {layer.family for layer in layers}
    vectors = []
    for name, sample in (
        ("sample", space.sample),
        ("sample_quick", space.sample_quick),
        ("sample_measured", space.sample_measured),
    ):
        first = _drawn(sample, samples, seed)
        _require(
            first == _drawn(sample, samples, seed), f"{space.name}: {name}() draws other vectors from the same seed"
        )
        for vector in first:
            _check_vector(space, vector, name)
            network = _check_network(space, vector)
            if name == "sample_measured":
                strange = [item for item in network.layers if item.layer not in known]
                _require(
                    not strange,
                    f"{space.name}: sample_measured() gave {list(vector)}, whose layer {strange and strange[0].name} "
                    "is none of layers()",
                )
            strange = [item for item in network.layers if item.layer.family not in kinds]
            _require(
                not strange,
                f"{space.name}: {list(vector)} has the layer {strange and strange[0].name}, and no layer of layers() "
                "differs from it in channel counts only: nothing can be known of it",
            )
        vectors += first
    _check_refusals(space)
    _check_slots(space, vectors)
    for curve in space.curves():
        _require(
            known.issuperset(curve.layers), f"{space.name}: curve {curve.name!r} has layers that are not in layers()"
        )
    for name, make in space.published().items():
        _check_fits(make(), f"{space.name}: the published network {name!r}")
    if (base := space.base_network()) is not None:
        _check_fits(base, f"{space.name}: the base network")
    if cost is not None and cost_of is not None:
        _check_costs(space, vectors, cost, cost_of)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise AssertionError(problem)


def _drawn(sample: Callable[[random.Random], tuple[int, ...]], count: int, seed: int) -> list[tuple[int, ...]]:
    rng = random.Random(seed)  # noqa: S311 - a sample, no secret
    return [tuple(sample(rng)) for _ in range(count)]


def _check_choices(space: SearchSpace) -> None:
    _require(isinstance(getattr(space, "name", None), str) and bool(space.name), "a space has a name")
    names = [decision.name for decision in space.choices]
    _require(bool(names), f"{space.name}: a space has at least one decision")
    twice = [name for name, count in Counter(names).items() if count > 1]
    _require(not twice, f"{space.name}: two decisions are called {twice and twice[0]!r}")
    for decision in space.choices:
        what = f"{space.name}: decision {decision.name!r}"
        _require(bool(decision.options), f"{what} has no options")
        _require(len(decision.options) == len(set(decision.options)), f"{what} has an option twice")
        _require(decision.kind in get_args(DecisionKind), f"{what} is of no known kind: {decision.kind!r}")
        ordered = decision.kind == "operator" or list(decision.options) == sorted(decision.options)
        _require(ordered, f"{what}: options of the kind {decision.kind} increase")


def _check_vector(space: SearchSpace, vector: Sequence[int], name: str) -> None:
    counts = [len(decision.options) for decision in space.choices]
    fits = len(vector) == len(counts) and all(0 <= index < count for index, count in zip(vector, counts, strict=True))
    _require(fits, f"{space.name}: {name}() gave {list(vector)}, which its choices do not have")


def _check_network(space: SearchSpace, vector: tuple[int, ...]) -> Network:
    network = space.decode(vector)
    what = f"{space.name}: the network of {list(vector)}"
    _check_fits(network, what)
    _require(space.decode(vector) == network, f"{what} is another one when it is asked for again")
    canonical = space.canonical(vector)
    _check_vector(space, canonical, "canonical")
    _require(
        space.canonical(canonical) == canonical, f"{space.name}: canonical() of {list(canonical)} is another vector"
    )
    same = Counter({(item.layer, item.count) for item in space.decode(canonical).layers})
    mine = Counter({(item.layer, item.count) for item in network.layers})
    _require(same == mine, f"{what} has other layers than that of its canonical vector {list(canonical)}")
    return network


def _check_fits(network: Network, what: str) -> None:
    try:
        network.as_layer()
    except LayerError as error:
        raise AssertionError(f"{what} cannot be run: {error}") from None


def _check_refusals(space: SearchSpace) -> None:
    first = (0,) * len(space.choices)
    beyond = (len(space.choices[0].options), *first[1:])
    for vector in (first[:-1], (*first, 0), beyond, (-1, *first[1:])):
        try:
            space.decode(vector)
        except UsageError:
            continue
        except Exception as error:
            raise AssertionError(
                f"{space.name}: decode({list(vector)}) raises {type(error).__name__}; what is no vector is a UsageError"
            ) from None
        raise AssertionError(
            f"{space.name}: decode({list(vector)}) gives a network, and that is no vector of its choices"
        )


def _check_slots(space: SearchSpace, vectors: Sequence[tuple[int, ...]]) -> None:
    slots = space.slots()
    if slots is None:
        return
    for slot in slots:
        few = len(slot.decisions) <= 2
        _require(few, f"{space.name}: slot {slot.name!r} depends on {len(slot.decisions)} decisions; two at most")
    for vector in vectors:
        standing: Counter[Layer] = Counter()
        for slot in slots:
            if (layer := _standing(slot, vector)) is not None:
                standing[layer] += slot.times
        wanted: Counter[Layer] = Counter()
        for item in space.decode(vector).layers:
            wanted[item.layer] += item.count
        if standing != wanted:
            more, fewer = standing - wanted, wanted - standing
            texts = [f"too many of {layer}" for layer in list(more)[:2]] + [f"too few of {x}" for x in list(fewer)[:2]]
            raise AssertionError(f"{space.name}: its slots say of {list(vector)}: {'; '.join(texts)}")


def _standing(slot: LayerSlot, vector: Sequence[int]) -> Layer | None:
    """Return the layer that stands in a slot of a vector's network."""
    if not all(vector[decision] in options for decision, options in slot.when):
        return None
    return slot.layer(*(vector[decision] for decision in slot.decisions))


def _check_costs(
    space: SearchSpace,
    vectors: Sequence[tuple[int, ...]],
    cost: Callable[[Sequence[Sequence[int]]], Sequence[float]],
    cost_of: Callable[[Network], float],
) -> None:
    for vector, found in zip(vectors, cost([list(vector) for vector in vectors]), strict=True):
        wanted = cost_of(space.decode(vector))
        _require(
            abs(found - wanted) <= 1e-6 * abs(wanted),
            f"{space.name}: the arrays say {found:.6g} of {list(vector)}, and its layers {wanted:.6g}",
        )

"""Compiled spaces: the predictor's latencies in NumPy and PyTorch, and their differentiable expectation."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from _predictors import Tiny, layers_of, sampled, table_with, tiny_predictor, wholes_of
from torch.nn.functional import one_hot

from lut import Decision, Layer, LayerSlot, Network, NetworkLayer, SearchSpace, UsageError, conv_norm_act, residual_add
from lut.errors import UnknownOperatorError
from predictors import CompiledLatency, LatencyPredictor
from search import ResNetCifar

SPACE = Tiny()
VECTORS = np.array(SPACE.vectors())
SIZES = [len(decision.options) for decision in SPACE.choices]


@cache
def compiled() -> CompiledLatency:
    return tiny_predictor().compile(SPACE)


@cache
def latencies() -> np.ndarray[Any, np.dtype[np.float64]]:
    return compiled().latency(VECTORS)


def drawn(sizes: Sequence[int] = SIZES, seed: int = 0, batch: tuple[int, ...] = ()) -> list[torch.Tensor]:
    """Return random probabilities, one tensor per decision."""
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.dirichlet(np.ones(size), size=batch or None)) for size in sizes]


def enumerated(p: Sequence[torch.Tensor], vectors: Any = VECTORS, ms: Any = None) -> float:
    """Return Σ p·m over all networks."""
    weights = np.prod([p[d].numpy()[vectors[:, d]] for d in range(len(p))], axis=0)
    return float(weights @ (latencies() if ms is None else ms))


# A space whose conditions are about the decisions that fix the layer itself.


def _made(kernel: int, width: int) -> Layer:
    return conv_norm_act(
        8, (8, 16, 24)[width], kernel_size=(1, 3, 5)[kernel], stride=1, activation="relu", input_size=(16, 16)
    )


class Own(SearchSpace):
    """An operator that stands nowhere unless it is the second or third option, at two places; and a first layer."""

    name = "own"
    choices = (
        Decision("kernel", (0, 1, 2), kind="operator"),
        Decision("width", (8, 16, 24), kind="width"),
        Decision("other", (0, 1, 2), kind="operator"),
    )

    def layers(self) -> tuple[Layer, ...]:
        return tuple(_made(kernel, width) for kernel in range(3) for width in range(3))

    def decode(self, vector: Sequence[int]) -> Network:
        kernel, width, other = vector
        items = [NetworkLayer("first", _made(0, 0))]
        if kernel:
            items.append(NetworkLayer("second", _made(kernel, width), count=2))
        if other:
            items.append(NetworkLayer("third", _made(other, kernel)))
        return Network("own", tuple(items))

    def slots(self) -> list[LayerSlot]:
        return [
            LayerSlot("first", (), lambda: _made(0, 0)),
            LayerSlot("second", (0, 1), _made, ((0, (1, 2)),), times=2),
            LayerSlot("third", (2, 0), _made, ((2, (1, 2)),)),
        ]


OWN_VECTORS = np.array(list(product(range(3), repeat=3)))


@cache
def own_predictor() -> LatencyPredictor:
    return LatencyPredictor.fit(table_with([_made(k, w) for k in range(3) for w in range(3)]))


@cache
def own() -> CompiledLatency:
    return own_predictor().compile(Own())


def test_every_network_of_a_space_has_the_predictors_latency() -> None:
    for row, ms in zip(VECTORS, latencies(), strict=True):
        assert ms == pytest.approx(tiny_predictor().latency_ms(SPACE.decode(row)), rel=1e-9)
    for row, ms in zip(OWN_VECTORS, own().latency(OWN_VECTORS), strict=True):
        assert ms == pytest.approx(own_predictor().latency_ms(Own().decode(row)), rel=1e-9)


def test_a_space_of_depths_and_widths_with_layers_never_measured() -> None:
    space = ResNetCifar(expand=0.5, depth=20)
    networks = sampled(space, 15, seed=0)
    predictor = LatencyPredictor.fit(table_with(layers_of(networks[:8])), networks=wholes_of(networks))
    found = predictor.compile(space)
    rng = random.Random(1)
    vectors = [space.sample(rng) for _ in range(50)]
    # Every depth of every stage, the least and the most, among them.
    for depths in product((0, 1, 2), repeat=3):
        vector = list(space.sample(rng))
        for index, decision in enumerate(space.choices):
            if decision.kind == "depth":
                vector[index] = depths[int(decision.name[len("stage")]) - 1]
        vectors.append(tuple(vector))
    mine = found.latency(np.array(vectors))
    assert mine == pytest.approx([predictor.latency_ms(space.decode(vector)) for vector in vectors], rel=1e-9)
    other = found.torch(dtype=torch.float64).latency(torch.tensor(vectors))
    assert other.numpy() == pytest.approx(mine, rel=1e-9)


def test_cifar_resnets_say_what_fixes_each_layer() -> None:
    space = ResNetCifar(expand=0.5, depth=20)
    places = space.slots()
    assert all(len(place.decisions) <= 2 for place in places)
    for vector in (space.sample(random.Random(seed)) for seed in range(20)):
        there: list[str] = []
        for place in places:
            layer = place.layer(*(vector[d] for d in place.decisions))
            if layer is not None and all(vector[d] in options for d, options in place.when):
                there += [f"{place.name} {layer.digest}"] * place.times
        assert sorted(there) == sorted(f"{i.name} {i.layer.digest}" for i in space.decode(vector).layers)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4"])
def test_any_integers_and_any_order_in_memory(dtype: str) -> None:
    rows = VECTORS.astype(dtype)
    assert np.array_equal(compiled().latency(rows), latencies())
    assert np.array_equal(compiled().latency(np.asfortranarray(rows)), latencies())
    assert np.array_equal(compiled().latency(np.repeat(rows, 2, axis=1)[::3, ::2]), latencies()[::3])


def test_blocks_are_put_together_in_order() -> None:
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(len(VECTORS)), 4))[:5000]
    assert np.array_equal(compiled().latency(VECTORS[rows]), latencies()[rows])
    for count in (1, 2047, 2048, 2049, 4096):
        assert np.array_equal(compiled().latency(VECTORS[rows[:count]]), latencies()[rows[:count]])


def test_one_network_and_none() -> None:
    assert compiled().latency(VECTORS[7]).tolist() == [latencies()[7]]
    assert compiled().latency(VECTORS[7].tolist()).tolist() == [latencies()[7]]
    assert compiled().latency(np.zeros((0, len(SIZES)), dtype=int)).shape == (0,)
    assert compiled().torch().latency(torch.zeros((0, len(SIZES)), dtype=torch.long)).shape == (0,)


def test_what_is_given_is_left_as_it_is() -> None:
    rows = VECTORS.copy()
    first = compiled().latency(rows)
    kept = first.copy()
    compiled().latency(rows[::-1])
    assert np.array_equal(rows, VECTORS)
    assert np.array_equal(first, kept)


def at(column: int, value: int, dtype: str = "i8", row: int = 0, rows: int = 1) -> Any:
    found = np.zeros((rows, len(SIZES)), dtype=dtype)
    found[row, column] = value
    return found


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (at(0, 3), "neck has 3 options, got index 3"),
        (at(2, 2), "depth has 2 options, got index 2"),
        (at(6, -1), "block2 has 3 options, got index -1"),
        (at(6, -1, "i1"), "block2 has 3 options, got index -1"),
        (at(4, 255, "u1"), "block1 has 3 options, got index 255"),
        (at(4, 2**64 - 1, "u8"), "block1 has 3 options, got index 18446744073709551615"),
        (at(4, -(2**63)), "block1 has 3 options, got index -9223372036854775808"),
        (at(1, 9, row=4999, rows=5000), "stem has 3 options, got index 9"),
        (np.zeros((2, len(SIZES))), r"integers of shape \(n, 7\), got float64"),
        (np.zeros((2, len(SIZES)), dtype=bool), "got bool"),
        (np.zeros((2, len(SIZES)), dtype=complex), "got complex"),
        (np.zeros((2, len(SIZES)), dtype=object), "got object"),
        (np.zeros((2, len(SIZES) - 1), dtype=int), r"of shape \(2, 6\)"),
        (np.zeros(len(SIZES) + 1, dtype=int), r"of shape \(1, 8\)"),
        (np.zeros((2, 2, len(SIZES)), dtype=int), r"of shape \(2, 2, 7\)"),
        (np.int64(3), r"of shape \(\)"),
        ([], "integers"),
        ([["0"] * len(SIZES)], "integers"),
    ],
)
def test_what_is_no_network_is_refused(rows: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=f"tiny: .*{problem}"):
        compiled().latency(rows)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_torch_says_the_same(dtype: torch.dtype) -> None:
    found = compiled().torch(dtype=torch.float64).latency(torch.tensor(VECTORS).to(dtype))
    assert found.dtype == torch.float64
    assert found.numpy() == pytest.approx(latencies(), rel=1e-12)
    single = compiled().torch().latency(torch.tensor(VECTORS).to(dtype))
    assert single.dtype == torch.float32
    assert single.numpy() == pytest.approx(latencies(), rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (torch.tensor(at(0, 3)), "out of range"),
        (torch.tensor(at(0, -1)), "out of range"),
        (torch.zeros(1, 7), "integers"),
        (torch.zeros(1, 6, dtype=torch.long), "integers"),
        (torch.zeros(7, dtype=torch.long), "integers"),
        (torch.zeros(1, 7, dtype=torch.bool), "integers"),
        (torch.zeros(1, 7, dtype=torch.complex64), "integers"),
    ],
)
def test_what_is_no_network_is_refused_in_torch(rows: torch.Tensor, problem: str) -> None:
    with pytest.raises(UsageError, match=f"tiny: .*{problem}"):
        compiled().torch().latency(rows)


@pytest.mark.parametrize("seed", range(5))
def test_the_expected_latency_is_the_sum_over_all_networks(seed: int) -> None:
    p = drawn(seed=seed)
    assert compiled().expected_latency(p).item() == pytest.approx(enumerated(p), rel=1e-10)
    q = drawn([3, 3, 3], seed)
    ms = own().latency(OWN_VECTORS)
    assert own().expected_latency(q).item() == pytest.approx(enumerated(q, OWN_VECTORS, ms), rel=1e-10)


def test_the_expected_latency_is_the_mean_of_drawn_networks() -> None:
    p = drawn(seed=9)
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.choice(len(q), 40_000, p=q.numpy()) for q in p])
    ms = compiled().latency(rows)
    assert compiled().expected_latency(p).item() == pytest.approx(ms.mean(), abs=4 * ms.std() / 200)


@pytest.mark.parametrize("number", [0, 17, 500, 1457])
def test_sure_choices_have_the_latency_of_their_network(number: int) -> None:
    p = [one_hot(torch.tensor(i), n).double() for i, n in zip(VECTORS[number], SIZES, strict=True)]
    assert compiled().expected_latency(p).item() == pytest.approx(latencies()[number], rel=1e-10)


def test_probabilities_may_come_in_batches() -> None:
    p = drawn(batch=(4,))
    t = compiled().torch(dtype=torch.float64)
    for of in ("table", "law"):
        found = t.expected_latency(p, of=of)
        assert found.shape == (4,)
        each = [t.expected_latency([q[i] for q in p], of=of).item() for i in range(4)]
        assert found.tolist() == pytest.approx(each, rel=1e-10)
    assert t.expected_latency(drawn(batch=(2, 3))).shape == (2, 3)


@pytest.mark.parametrize("batch", [(3,), (4,), (2, 3)])
def test_batches_of_a_law_over_operators_alone(batch: tuple[int, ...]) -> None:
    p = drawn([3, 3, 3], batch=batch)
    t = own().torch(dtype=torch.float64)
    found = t.expected_latency(p, of="law")
    each = [t.expected_latency([q[at] for q in p], of="law").item() for at in np.ndindex(*batch)]
    assert found.flatten().tolist() == pytest.approx(each, rel=1e-10)


def test_what_is_expected_is_differentiable() -> None:
    t = compiled().torch(dtype=torch.float64)
    p = [q.requires_grad_() for q in drawn(seed=3)]
    for of in ("table", "law"):
        assert torch.autograd.gradcheck(lambda *q, of=of: t.expected_latency(q, of=of), tuple(p))


def test_gradients_reach_every_decision() -> None:
    logits = [torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in SIZES]
    for of in ("table", "law"):
        compiled().expected_latency([x.softmax(-1) for x in logits], of=of).backward()
        for x, decision in zip(logits, SPACE.choices, strict=True):
            assert x.grad is not None
            assert torch.isfinite(x.grad).all()
            assert x.grad.abs().max() > 1e-6, decision.name
            x.grad = None
    # Going down the gradient ends at the fastest network.
    optimizer = torch.optim.Adam(logits, lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        compiled().expected_latency([x.softmax(-1) for x in logits]).backward()
        optimizer.step()
    best = compiled().latency(np.array([int(x.argmax()) for x in logits]))[0]
    assert best == pytest.approx(latencies().min(), rel=0.02)


def test_the_gradient_of_what_is_off_says_what_turning_it_on_would_cost() -> None:
    p = [one_hot(torch.tensor(0), 3).double().requires_grad_() for _ in range(3)]
    t = own().torch(dtype=torch.float64)
    t.expected_latency(p).backward()
    ms = own().latency(np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]]))
    assert p[0].grad is not None
    assert (p[0].grad[1:] - p[0].grad[0]).tolist() == pytest.approx((ms[1:] - ms[0]).tolist(), rel=1e-9)


def test_decisions_drawn_together_count_together() -> None:
    p = drawn(seed=2)
    joint = torch.tensor(np.random.default_rng(2).dirichlet(np.ones(9)).reshape(3, 3))
    p[0], p[1] = joint.sum(1), joint.sum(0)
    weights = np.prod([p[d].numpy()[VECTORS[:, d]] for d in range(2, 7)], axis=0)
    weights *= joint.numpy()[VECTORS[:, 0], VECTORS[:, 1]]
    t = compiled().torch(dtype=torch.float64)
    found = t.expected_latency(p, joint={(0, 1): joint}).item()
    assert found == pytest.approx(float(weights @ latencies()), rel=1e-10)
    assert found != pytest.approx(enumerated(p), rel=1e-4)
    product_ = p[0][:, None] * p[1][None, :]
    assert t.expected_latency(p, joint={(0, 1): product_}).item() == pytest.approx(enumerated(p), rel=1e-10)


def test_a_joint_probability_and_a_condition_about_the_same_decision() -> None:
    joint = torch.tensor(np.random.default_rng(2).dirichlet(np.ones(9)).reshape(3, 3))
    p = [joint.sum(1), joint.sum(0), drawn([3])[0]]
    weights = joint.numpy()[OWN_VECTORS[:, 0], OWN_VECTORS[:, 1]] * p[2].numpy()[OWN_VECTORS[:, 2]]
    found = own().torch(dtype=torch.float64).expected_latency(p, joint={(0, 1): joint}).item()
    assert found == pytest.approx(float(weights @ own().latency(OWN_VECTORS)), rel=1e-10)


@pytest.mark.parametrize(
    "joint",
    [
        {(1, 0): torch.full((3, 3), 1 / 9)},
        {(0, 1): torch.ones(1, 1)},
        {(0, 1): torch.full((3, 2), 1 / 6)},
    ],
)
def test_joint_probabilities_that_do_not_fit_are_refused(joint: dict[tuple[int, int], torch.Tensor]) -> None:
    with pytest.raises(UsageError):
        compiled().torch(dtype=torch.float64).expected_latency(drawn(), joint=joint)


@pytest.mark.parametrize(
    ("change", "options", "problem"),
    [
        (lambda p: p[:-1], {}, "7 decisions, got 6"),
        (lambda p: [p[0][:2], *p[1:]], {}, "neck has 3 options"),
        (lambda p: p, {"of": "mean"}, "'table' or 'law'"),
    ],
)
def test_probabilities_that_do_not_fit_are_refused(
    change: Callable[[list[torch.Tensor]], list[torch.Tensor]], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        compiled().torch().expected_latency(change(drawn()), **options)


# The law: latencies that are one already, so that what it should give is known.


class Power:
    """Two widths and a kernel; made with latencies of its own, no layers' (see :func:`of_law`)."""

    widths = (4, 8, 12, 16)


def of_law(ms: Any, decisions: tuple[int, ...], *kinds: str, when: Any = ()) -> CompiledLatency:
    from predictors._compiled import Term

    options = {"width": Power.widths, "operator": (0, 1, 2), "depth": (1, 2, 3)}
    choices = tuple(Decision(f"{kind} {i}", options[kind], kind=kind) for i, kind in enumerate(kinds))  # type: ignore[arg-type]
    return CompiledLatency("law", choices, 0.5, (Term(decisions, np.asarray(ms, dtype=np.float64), when),))


def law(found: CompiledLatency, p: Sequence[torch.Tensor]) -> float:
    return float(found.torch(dtype=torch.float64).expected_latency(p, of="law").item())


def test_the_law_is_taken_at_the_mean_width() -> None:
    x = np.array(Power.widths, dtype=float)
    p = [torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)]
    mean = 0.1 * 4 + 0.2 * 8 + 0.3 * 12 + 0.4 * 16
    found = of_law(0.3 * x**0.75 + 2, (0,), "width")
    assert law(found, p) == pytest.approx(0.5 + 0.3 * mean**0.75 + 2, rel=1e-6)
    exact = 0.5 + float((p[0].numpy() * (0.3 * x**0.75 + 2)).sum())
    assert found.expected_latency(p).item() == pytest.approx(exact, rel=1e-9)


def test_the_law_of_two_widths_is_taken_at_the_product_of_their_means() -> None:
    x, y = np.meshgrid(Power.widths, Power.widths, indexing="ij")
    found = of_law(0.02 * (x * y) + 0.3 * x + 0.1 * y + 1, (0, 1), "width", "width")
    p = drawn([4, 4], seed=4)
    means = [float(q.numpy() @ np.array(Power.widths)) for q in p]
    wanted = 0.5 + 0.02 * means[0] * means[1] + 0.3 * means[0] + 0.1 * means[1] + 1
    assert law(found, p) == pytest.approx(wanted, rel=1e-6)


def test_over_operators_the_law_is_an_expectation() -> None:
    x = np.array(Power.widths, dtype=float)
    k = np.array([0.1, 0.5, 2.0])
    for decisions, kinds, ms in (
        ((0, 1), ("operator", "width"), k[:, None] * x + 1),
        ((0, 1), ("width", "operator"), (k[:, None] * x + 1).T),
    ):
        p = drawn([4 if kind == "width" else 3 for kind in kinds], seed=6)
        by_kind = dict(zip(kinds, p, strict=True))
        mean = float(by_kind["width"].numpy() @ x)
        wanted = 0.5 + float(by_kind["operator"].numpy() @ (k * mean + 1))
        assert law(of_law(ms, decisions, *kinds), p) == pytest.approx(wanted, rel=1e-6)
    ms = np.arange(9.0).reshape(3, 3)
    p = drawn([3, 3], seed=6)
    wanted = 0.5 + float(p[0].numpy() @ ms @ p[1].numpy())
    assert law(of_law(ms, (0, 1), "operator", "depth"), p) == pytest.approx(wanted, rel=1e-9)


def test_a_condition_weighs_a_law_with_its_probability() -> None:
    x = np.array(Power.widths, dtype=float)
    p = drawn([4, 3], seed=7)
    mean = float(p[0].numpy() @ x)
    found = of_law(0.3 * x + 2, (0,), "width", "depth", when=((1, (1, 2)),))
    wanted = 0.5 + float(p[1][1:].sum()) * (0.3 * mean + 2)
    assert law(found, p) == pytest.approx(wanted, rel=1e-6)


def test_a_condition_of_a_law_about_its_own_operator_counts_once() -> None:
    # Compiling makes an array of which the rows are 0 for which no layer stands.
    x = np.array(Power.widths, dtype=float)
    k = np.array([0.0, 0.5, 2.0])
    p = drawn([3, 4], seed=7)
    mean = float(p[1].numpy() @ x)
    found = of_law(k[:, None] * x, (0, 1), "operator", "width")
    wanted = 0.5 + float(p[0].numpy() @ (k * mean))
    assert law(found, p) == pytest.approx(wanted, rel=1e-6)


def test_the_law_of_a_space_is_near_its_expectation() -> None:
    for seed in range(3):
        p = drawn(seed=seed)
        assert compiled().expected_latency(p, of="law").item() == pytest.approx(enumerated(p), rel=0.05)


# Structures that are wrong.


class Changed(Tiny):
    """The space with another structure."""

    def __init__(self, change: Callable[[list[LayerSlot]], Any]) -> None:
        super().__init__()
        self.change = change

    def slots(self) -> Any:
        return self.change(super().slots())


@pytest.mark.parametrize("left_out", range(12))
def test_a_structure_without_one_of_its_places_is_refused(left_out: int) -> None:
    def change(places: list[LayerSlot]) -> list[LayerSlot]:
        assert len(places) == 12
        return [place for i, place in enumerate(places) if i != left_out]

    with pytest.raises(UsageError, match=r"tiny: .*a place is missing"):
        tiny_predictor().compile(Changed(change))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: [*s, s[0]], "slots"),
        (lambda s: [s[0]._replace(decisions=(4,)), *s[1:]], "its decisions are not what fixes its layer"),
        (lambda s: [s[0]._replace(times=2), *s[1:]], "slots"),
        (lambda s: [s[0], s[1], s[2]._replace(when=()), *s[3:]], "slots"),
        (
            lambda s: [s[0]._replace(decisions=(0, 1, 2)), *s[1:]],
            "stem depends on decisions .*two different ones at most",
        ),
        (lambda s: [s[0]._replace(decisions=(7,)), *s[1:]], "stem depends on decisions .*and there are"),
        (lambda s: [s[0]._replace(decisions=(-1,)), *s[1:]], "stem depends on decisions .*and there are"),
        (lambda s: [s[0]._replace(when=((9, (0,)),)), *s[1:]], "stem"),
        (lambda s: s[:0], "a place is missing"),
        (lambda s: [s[0]._replace(when=((0, (0, 1, 2, 3)),)), *s[1:]], "stem"),
        (lambda s: [s[0]._replace(when=((0, (-1, 0, 1)),)), *s[1:]], "stem"),
    ],
)
def test_a_wrong_structure_is_refused(change: Callable[[list[LayerSlot]], Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        tiny_predictor().compile(Changed(change))


def test_two_conditions_about_one_decision_must_both_hold() -> None:
    class Twice(Own):
        def slots(self) -> list[LayerSlot]:
            first, second, third = super().slots()
            return [first, second._replace(when=((0, (0, 1, 2)), (0, (1, 2)))), third]

    found = own_predictor().compile(Twice())
    ms = found.latency(OWN_VECTORS)
    assert ms == pytest.approx(own().latency(OWN_VECTORS), rel=1e-12)
    p = drawn([3, 3, 3], seed=1)
    assert found.expected_latency(p).item() == pytest.approx(enumerated(p, OWN_VECTORS, ms), rel=1e-10)


def test_a_space_without_a_structure_is_refused_with_what_to_do() -> None:
    class Silent(Tiny):
        def slots(self) -> None:
            return None

    with pytest.raises(UsageError, match=r"tiny .*has no slots\(\).*latency_ms\(space\.decode\(vector\)\)"):
        tiny_predictor().compile(Silent())


def test_a_space_with_an_unknown_operator_is_refused() -> None:
    added = residual_add(8, activation=None, input_size=(16, 16))
    with pytest.raises(UnknownOperatorError, match="operator add"):
        tiny_predictor().compile(Changed(lambda s: [*s, LayerSlot("sum", (), lambda: added)]))


def test_layers_never_measured_and_those_that_may_be_missing_are_in_the_arrays() -> None:
    names = {term.decisions for term in compiled().terms}
    assert (0, 1) in names
    assert all(np.isfinite(term.values).all() and (term.values >= 0).all() for term in compiled().terms)
    assert own().constant == pytest.approx(own_predictor().predict_layer(_made(0, 0)).contribution_ms)


def test_the_law_of_a_network_with_shortcuts_is_near_its_expectation() -> None:
    # Where widths agree there is no shortcut: arrays with zeros must not pull their law down to them.
    space = ResNetCifar(expand=0.5, depth=14)
    networks = [space.decode(space.sample(random.Random(seed))) for seed in range(20)]
    layers = layers_of(networks)
    made = LatencyPredictor.fit(table_with(layers)).compile(space)
    p = [torch.full((len(d.options),), 1 / len(d.options), dtype=torch.float64) for d in space.choices]
    rng = np.random.default_rng(0)
    drawn_ms = made.latency(np.stack([rng.integers(len(d.options), size=20_000) for d in space.choices], axis=1))
    exact, law_ms = (made.expected_latency(p, of=of).item() for of in ("table", "law"))
    assert exact == pytest.approx(drawn_ms.mean(), rel=0.01)
    assert law_ms == pytest.approx(exact, rel=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same() -> None:
    found = compiled()
    choices = np.array([SPACE.sample(random.Random(seed)) for seed in range(50)])
    there = found.torch(device="cuda", dtype=torch.float64)
    assert there.latency(torch.as_tensor(choices, device="cuda")).cpu().numpy() == pytest.approx(found.latency(choices))
    p = [probabilities.cuda() for probabilities in drawn(seed=1)]
    assert there.expected_latency(p).item() == pytest.approx(found.expected_latency(drawn(seed=1)).item())

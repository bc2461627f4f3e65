"""Layers timed where they stand: walks along networks and chains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _targets import process_settings
from conftest import curve_of, simulate, table_of

from lut import Layer, Network, NetworkLayer, UsageError, conv_norm_act, global_pool, linear, residual_add
from lut.errors import LayerFailedError, TargetUnavailableError
from profiler import FakeTarget
from profiler._contexts import chain_offsets, independent_visits, kind_of
from profiler._cpu import BLOCK, CpuTarget
from profiler._judge import judge
from profiler._model import ModelSpec
from profiler._plan import COMPANIONS, make_protocol, next_round
from profiler._sources import FactorySource, LayersSource
from profiler._target import Place
from profiler._visit import TIMED_PASSES, WARM_PASSES, LayerFailure, Visit, Visitor
from profiler._walk import Step, chains, resolution, walk_of

LAYERS = curve_of(range(8, 20)).layers
SIZE = (8, 8)
CONV = conv_norm_act(8, 8, kernel_size=3, stride=1, activation="relu", input_size=SIZE)
ADD = residual_add(8, activation="relu", input_size=SIZE)
BLOCK_OF_THREE = Network(
    "block",
    (
        NetworkLayer("first", CONV, inputs=("input",)),
        NetworkLayer("body", CONV, count=2),
        NetworkLayer("sum", ADD, inputs=("body", "first")),
        NetworkLayer("pool", global_pool(8, input_size=SIZE)),
        NetworkLayer("head", linear(8, 4, bias=True)),
    ),
)


def numbered() -> dict[Layer, int]:
    return {layer: i for i, layer in enumerate(dict.fromkeys(item.layer for item in BLOCK_OF_THREE.layers))}


def test_a_network_is_walked_in_its_own_order_with_its_own_wires() -> None:
    number = numbered()
    walk = walk_of(BLOCK_OF_THREE, number)
    conv, add, pool, head = (number[item.layer] for item in BLOCK_OF_THREE.layers if item.name != "body")
    assert walk == (
        Step(conv, (None,)),
        Step(conv, (0,)),
        Step(conv, (1,)),
        Step(add, (2, 0)),
        Step(pool, (3,)),
        Step(head, (4,)),
    )


def test_chains_hold_each_entry_once_and_fit_into_the_memory() -> None:
    assert chains([1, 2, 3, 4, 5], 2, lambda _: 1, 100) == [[1, 2], [3, 4], [5]]
    assert chains([1, 1, 2], 3, lambda _: 1, 100) == [[1, 2], [1]]
    # One that needs more than all is a chain by itself, and nothing is lost.
    assert chains([1, 2, 3], 3, lambda entry: 50 * entry, 100) == [[1], [2], [3]]
    assert chains([], 3, lambda _: 1, 100) == []


class Noting(FakeTarget):  # type: ignore[misc]
    """A simulated target that notes along which places it went."""

    def __init__(self, **options: Any) -> None:
        super().__init__(walks=True, together=8, **options)
        self.routes: list[list[tuple[Layer, tuple[int | None, ...]]]] = []

    def walk(self, places: Any, note: Any) -> None:
        self.routes.append([(place.prepared.layer, place.operands) for place in places])
        super().walk(places, note)


def visited(target: Noting, order: list[int], **options: Any) -> list[Visit | LayerFailure]:
    visitor = Visitor(target, options.pop("entries", LAYERS), make_protocol(), process=0, origin=0.0, **options)
    return [event for job in visitor.visits(order) for event in job()]


def test_a_chain_goes_from_large_to_small_again_and_again() -> None:
    target = Noting()
    small = [conv_norm_act(8, 8, kernel_size=3, stride=1, activation=None, input_size=(s, s)) for s in (4, 16, 8)]
    found = visited(target, [0, 1, 2], entries=tuple(small))
    assert sorted(event.entry for event in found) == [0, 1, 2]
    assert len(target.routes) == WARM_PASSES + TIMED_PASSES
    route = [layer for layer, _ in target.routes[0]]
    assert target.routes == [target.routes[0]] * len(target.routes)
    assert [resolution(layer) for layer in route] == sorted(map(resolution, route), reverse=True)
    # Too few of its own: others fill it up, run, and leave no visits.
    assert len(route) == 8
    assert sum(layer in COMPANIONS for layer in route) == 5


def host_of(target: FakeTarget) -> dict[str, Any]:
    """Return the block of three as a network that the visitor may walk along."""
    number = numbered()
    whole = LayersSource(BLOCK_OF_THREE)
    return {"entries": tuple(number), "wholes": (whole,), "hosts": (walk_of(BLOCK_OF_THREE, number),)}


def test_a_network_is_timed_in_place_and_as_a_whole_in_turns() -> None:
    target = Noting(sigma=0.0)
    host = host_of(target)
    size = len(host["entries"])
    found = visited(target, [size + 1], **host)
    assert [event.entry for event in found] == [size, *range(size)]
    assert [len(route) for route in target.routes] == [1, 6] * (WARM_PASSES + TIMED_PASSES)
    assert [operands for _, operands in target.routes[1]] == [step.operands for step in host["hosts"][0]]
    for event in found[1:]:
        assert isinstance(event, Visit)
        assert event.ms == pytest.approx(target.true_ms(host["entries"][event.entry]), rel=1e-3)


def test_each_place_of_a_layer_has_weights_of_its_own() -> None:
    target = Noting()
    prepared: list[Layer] = []
    prepare = target.prepare
    target.prepare = lambda layer, seed: (prepared.append(layer), prepare(layer, seed))[1]  # type: ignore[method-assign]
    host = host_of(target)
    visited(target, [len(host["entries"]) + 1] * 2, **host)
    assert prepared.count(CONV) == 3
    assert prepared.count(ADD) == 1


def test_a_network_that_does_not_fit_is_visited_in_chains() -> None:
    target = Noting()
    host = host_of(target)
    size = len(host["entries"])
    found = visited(target, [size + 1], memory_bytes=2 * target.prepared_bytes(CONV, 4), **host)
    assert sorted(event.entry for event in found) == list(range(size + 1))
    assert all(operands == () for route in target.routes for _, operands in route)


@pytest.mark.parametrize("how", ["raise", "run"])
def test_a_layer_that_fails_ends_its_network_and_no_chain(how: str) -> None:
    target = Noting(misbehave={ADD.digest: how})
    host = host_of(target)
    size, add = len(host["entries"]), numbered()[ADD]
    (failure,) = visited(target, [size + 1], **host)
    assert isinstance(failure, LayerFailure)
    assert (failure.entry, failure.reason) == (add, "error")
    # What others need cannot be had; in a chain nobody needs it.
    found = visited(Noting(misbehave={ADD.digest: how}), list(range(size)), **host)
    assert {event.entry for event in found if isinstance(event, Visit)} == set(range(size)) - {add}


def test_a_whole_that_fails_leaves_its_layers_alone() -> None:
    target = Noting()
    host = host_of(target)
    size = len(host["entries"])
    broken = {**host, "wholes": (FactorySource("block", ModelSpec("nowhere.py", "make", (), 0)),)}
    found = visited(target, [size + 1], **broken)
    assert [event.entry for event in found if isinstance(event, LayerFailure)] == [size]
    assert {event.entry for event in found if isinstance(event, Visit)} == set(range(size))


def test_a_device_that_is_lost_ends_a_walk_at_once() -> None:
    class Lost(Noting):
        def run(self, prepared: Any, calls: int) -> int:
            if getattr(prepared, "layer", None) == LAYERS[1] and self.routes:
                raise LayerFailedError("the device is gone", reason="crashed")
            return super().run(prepared, calls)

    found = visited(Lost(), [0, 1, 2, 3])
    assert [(event.entry, event.reason) for event in found if isinstance(event, LayerFailure)] == [(1, "crashed")]
    assert not any(isinstance(event, Visit) for event in found)

    class Gone(Noting):
        def run(self, prepared: Any, calls: int) -> int:  # noqa: ARG002
            raise TargetUnavailableError("no device any more")

    with pytest.raises(TargetUnavailableError, match="no device any more"):
        visited(Gone(), [0])


def test_disturbed_passes_do_not_count_while_most_are_clean() -> None:
    few = [e for s in range(20) for e in visited(Noting(preempted_share=0.02, seed=s), [0, 1, 2, 3])]
    many = visited(Noting(preempted_share=1.0), [0, 1, 2, 3])
    assert all(isinstance(event, Visit) and event.cause == "preempted" for event in many)
    truth = FakeTarget().true_ms
    clean = [e.ms / truth(LAYERS[e.entry]) for e in few if isinstance(e, Visit) and e.cause is None]
    assert len(clean) > 60
    assert max(clean) < 1.2


def test_the_layers_of_a_walk_sum_up_to_its_middle_pass() -> None:
    """A spike that hits one layer in each pass is no layer's median, and every pass's part."""

    class Spiky(Noting):
        def walk(self, places: Any, note: Any) -> None:
            unlucky = len(self.routes) % len(places)
            self.routes.append([])
            for i, place in enumerate(places):
                note(self.run(place.prepared, 1) + (1_000_000 if i == unlucky else 0))

    target = Spiky(sigma=0.0)
    events = [e for e in visited(target, list(range(8))) if isinstance(e, Visit)]
    truth = sum(target.true_ms(LAYERS[e.entry]) for e in events)
    assert sum(e.ms for e in events) == pytest.approx(truth + 1.0, rel=1e-6)


def order_of(open_entries: list[int], hosts: dict[int, set[int]]) -> list[int]:
    order = next_round(open_entries, {}, {}, make_protocol(), random.Random(0), hosts=hosts)
    return sorted(entry for entry in order if entry >= 0)


def test_rounds_go_along_networks_and_through_chains() -> None:
    # Layers 0 … 5; network 6 holds 0 … 2, network 7 holds 2 … 4; along them they are 8 and 9.
    hosts = {8: {0, 1, 2, 6}, 9: {2, 3, 4, 7}}
    # Where networks hold all that is wanted, they are enough; and no more of them than it takes.
    assert order_of([0, 1, 2, 3, 4, 6, 7], hosts) == [8, 9]
    assert order_of([0, 6], hosts) == [8]
    assert order_of([3], hosts) == [9]
    assert order_of([2, 6], hosts) == [8]
    # A layer of no network needs a chain, and those that stand in both tell what a chain makes of it.
    assert order_of([0, 3, 5, 6], hosts) == [0, 3, 5, 8]
    assert order_of([0, 5], hosts) == [0, 5]


def chained_and_placed(
    rng: np.random.Generator, gap: dict[str, float], spread: float, visits: int = 24
) -> tuple[list[Visit], dict[int, str], np.ndarray]:
    """Return visits to 40 layers in chains, to every other one also in networks, their kinds, and the truths."""
    kinds = {i: "sum" if i % 4 < 2 else "convolution" for i in range(40)}
    truth = rng.uniform(0.1, 1.0, 40)
    own = {i: gap[kinds[i]] + rng.normal(0, spread) for i in kinds}
    made = []
    for r in range(visits):
        for i in rng.permutation(40):
            for chained in (True, False):
                if chained or i % 2:
                    ms = truth[i] * np.exp(rng.normal(0, 0.02) + (own[i] if chained else 0.0))
                    made.append(Visit(int(i), 0, r + i / 50, float(ms), None, False, 0.0, 1, chained=chained))
    return made, kinds, truth


def test_chains_are_brought_to_networks_kind_by_kind() -> None:
    rng = np.random.default_rng(0)
    visits, kinds, truth = chained_and_placed(rng, {"sum": 0.15, "convolution": 0.03}, spread=0.01)
    found = judge(visits, make_protocol(), references={}, kinds=kinds)
    errors = np.array([np.log(found.layers[i].median_ms / truth[i]) for i in range(40)])
    errors -= np.median(errors)
    for kind in ("sum", "convolution"):
        for both in (True, False):
            mine = [errors[i] for i in range(40) if kinds[i] == kind and bool(i % 2) == both]
            assert abs(np.mean(mine)) < 0.01, (kind, both)
    # Without kinds, sums in chains only are taken for what all layers are on average.
    blind = judge(visits, make_protocol(), references={})
    wrong = np.mean(
        [np.log(blind.layers[i].median_ms / truth[i]) for i in range(40) if kinds[i] == "sum" and not i % 2]
    )
    assert wrong > 0.03


def test_without_networks_chains_are_taken_as_they_are() -> None:
    rng = np.random.default_rng(1)
    visits, kinds, truth = chained_and_placed(rng, {"sum": 0.1, "convolution": 0.1}, spread=0.0)
    only = [visit for visit in visits if visit.chained]
    found = judge(only, make_protocol(), references={}, kinds=kinds)
    logs = [np.log(found.layers[i].median_ms / truth[i]) for i in range(40)]
    assert np.std(logs) < 0.02


def test_offsets_believe_layers_as_far_as_their_noise_lets_them() -> None:
    placed = np.zeros(8)
    chained = np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, np.nan])
    error = np.full(8, 0.001)
    kinds = ["a"] * 8
    exact = chain_offsets(chained, placed, error, error, kinds).offsets
    # A layer that is known well and differs is believed; of one that stood in no network, the kind's mean is.
    assert exact[6] == pytest.approx(0.5, abs=0.01)
    assert exact[7] == pytest.approx(np.nanmean(chained), abs=0.02)
    vague = chain_offsets(chained, placed, np.where(np.arange(8) == 6, 1.0, error), error, kinds).offsets
    assert vague[6] == pytest.approx(0.1, abs=0.01)
    few = chain_offsets(chained[:3], placed[:3], error[:3], error[:3], kinds[:3]).offsets
    assert few.tolist() == [0.0, 0.0, 0.0]


def test_visits_in_chains_are_worth_less_where_layers_differ() -> None:
    assert independent_visits(24, 0, 0.01, 0.01) == 24
    assert independent_visits(0, 8, 0.01, 0.01) == 8
    assert independent_visits(24, 8, 0.0, 0.01) == pytest.approx(32)
    # All of them together are never worth more than their kind's spread lets them.
    assert independent_visits(1_000_000, 8, 0.01, 0.01) == pytest.approx(9, abs=1e-3)


def test_intervals_of_layers_in_both_contexts_hold_what_they_promise() -> None:
    rng = np.random.default_rng(7)
    held, narrow = [], []
    for _ in range(20):
        visits, kinds, truth = chained_and_placed(rng, {"sum": 0.1, "convolution": 0.03}, spread=0.04, visits=12)
        found = judge(visits, make_protocol(), references={}, kinds=kinds).layers
        common = float(np.median([np.log(found[i].median_ms / truth[i]) for i in range(1, 40, 2)]))
        for i in range(1, 40, 2):
            interval = found[i].within_run
            held.append(np.log(interval.low_ms) <= np.log(truth[i]) + common <= np.log(interval.high_ms))
            narrow.append(found[i].half_width)
    assert 0.92 <= np.mean(held) <= 0.985
    assert np.median(narrow) < 0.02


def test_widths_of_a_sweep_are_compared_in_chains_whichever_stood_in_networks() -> None:
    rng = np.random.default_rng(3)
    visits, kinds, _ = chained_and_placed(rng, {"sum": 0.1, "convolution": 0.03}, spread=0.06)
    swept = [i for i in kinds if kinds[i] == "convolution"]
    curves = [swept[:10], swept[10:]]
    found = judge(visits, make_protocol(), references={}, kinds=kinds, curves=curves).layers
    assert all(visit.chained for i in swept for visit in found[i].visits)
    assert not any(all(visit.chained for visit in found[i].visits) for i in range(1, 40, 2) if i not in swept)
    # All of them move by one factor against what they took in chains.
    chained = {i: np.log(np.median([v.ms for v in visits if v.entry == i and v.chained])) for i in swept}
    moved = [np.log(found[i].median_ms) - chained[i] for i in swept]
    assert np.std(moved) < 0.01
    # One by one, each of those in networks too would be brought to its own truth, away from its neighbours.
    apart = judge(visits, make_protocol(), references={}, kinds=kinds).layers
    assert np.std([np.log(apart[i].median_ms) - chained[i] for i in swept]) > 0.02
    # What is not known of any of them, other sessions are told of all.
    assert all(
        found[i].across_runs.high_ms / found[i].median_ms > apart[i].across_runs.high_ms / apart[i].median_ms
        for i in swept
        if i % 2
    )
    # Where no chain was visited, networks are all there is.
    placed = [visit for visit in visits if not visit.chained]
    found = judge(placed, make_protocol(), references={}, kinds=kinds, curves=curves).layers
    assert found.keys() == set(range(1, 40, 2))


def test_a_sweep_of_ones_own_network_is_brought_to_the_width_that_stands_there() -> None:
    rng = np.random.default_rng(4)
    made, kinds, _ = chained_and_placed(rng, {"sum": 0.1, "convolution": 0.03}, spread=0.1)
    swept = [i for i in kinds if kinds[i] == "convolution"]
    curves = [swept[0:4], swept[4:8]]
    own = [next(i for i in curve if i % 2) for curve in curves]
    # Of each curve one layer is the network's.
    others = {i for curve in curves for i in curve} - set(own)
    visits = [visit for visit in made if visit.chained or visit.entry not in others]
    found = judge(visits, make_protocol(), references={}, kinds=kinds, curves=curves, of_samples=False).layers
    plain = judge(visits, make_protocol(), references={}, kinds=kinds).layers
    chained = {i: np.log(np.median([v.ms for v in visits if v.entry == i and v.chained])) for i in swept}
    for curve, mine in zip(curves, own, strict=True):
        # What the network's own layer takes there is known from there, and the others differ from it as in chains.
        assert found[mine].median_ms == plain[mine].median_ms
        assert any(not visit.chained for visit in found[mine].visits)
        moved = [np.log(found[i].median_ms) - chained[i] for i in curve]
        assert np.std(moved) < 0.015
    apart = [np.std([np.log(plain[i].median_ms) - chained[i] for i in curve]) for curve in curves]
    assert max(apart) > 0.02


def test_kinds_of_work() -> None:
    depthwise = conv_norm_act(8, 8, kernel_size=3, stride=1, activation="relu", input_size=SIZE, groups=8)
    pointwise = conv_norm_act(8, 8, kernel_size=1, stride=1, activation="relu", input_size=SIZE)
    kinds = [kind_of(layer) for layer in (CONV, depthwise, pointwise, ADD, linear(8, 4, bias=True))]
    assert kinds == ["dense convolution", "depthwise convolution", "pointwise convolution", "Add", "linear"]


def test_a_session_along_a_network_makes_a_table_that_adds_up(tmp_path: Path) -> None:
    from profiler._sources import Subject

    number = numbered()
    whole = LayersSource(BLOCK_OF_THREE)
    subject = Subject(BLOCK_OF_THREE, whole)
    plan, result, _ = simulate(
        tuple(number),
        target=FakeTarget(walks=True, together=8, sigma=0.01, floor_ms=0.02),
        protocol={"time_budget_s": 30.0},
        networks=[subject],
        hosts=(walk_of(BLOCK_OF_THREE, number),),
    )
    table = table_of(plan, result, tmp_path / "r.json", networks=[subject])
    (network,) = table.networks
    assert network.end_to_end is not None
    visits = {m.n_visits for m in table.values()} | {len(network.end_to_end.visits.raw_ms)}
    assert len(visits) == 1


# The CPU


@pytest.fixture(autouse=True)
def _own_process_settings() -> Iterator[None]:
    with process_settings():
        yield


@pytest.fixture
def cpu() -> Any:
    target = CpuTarget(batch=2, threads=1, chain=4)
    yield target
    target.close()


def recorded(target: CpuTarget, layers: list[Layer]) -> tuple[list[Any], list[list[torch.Tensor]]]:
    prepared = [target.prepare(layer, 0) for layer in layers]
    seen: list[list[torch.Tensor]] = []
    for each in prepared:

        def call(*inputs: torch.Tensor, call: Any = each.call) -> torch.Tensor:
            seen.append([x.clone() for x in inputs])
            output: torch.Tensor = call(*inputs)
            return output

        each.call = call
    return prepared, seen


def test_what_a_layer_makes_is_what_the_next_one_reads(cpu: CpuTarget) -> None:
    prepared, seen = recorded(cpu, [CONV, CONV, ADD])
    notes: list[int] = []
    cpu.walk([Place(prepared[0]), Place(prepared[1], (0,)), Place(prepared[2], (1, 0))], notes.append)
    assert len(notes) == 3
    assert min(notes) > 0
    with torch.inference_mode():
        first = prepared[0].module(seen[0][0])
        assert torch.equal(seen[1][0], first)
        assert torch.equal(seen[2][0], prepared[1].module(first))
        assert torch.equal(seen[2][1], first)


def test_what_does_not_fit_is_written_anew(cpu: CpuTarget) -> None:
    wide = conv_norm_act(16, 8, kernel_size=1, stride=1, activation=None, input_size=SIZE)
    prepared, seen = recorded(cpu, [CONV, wide])
    cpu.walk([Place(prepared[0]), Place(prepared[1], (0,))], lambda _: None)
    assert seen[1][0].shape == (2, 16, *SIZE)
    assert float(seen[1][0].std()) == pytest.approx(1.0, abs=0.1)


def test_a_second_operand_was_written_some_layers_before(cpu: CpuTarget) -> None:
    prepared, seen = recorded(cpu, [CONV] * BLOCK + [ADD])
    written: list[int] = []
    write = cpu._written
    cpu._written = lambda x: (written.append(len(seen)), write(x))[1]  # type: ignore[method-assign]
    cpu.walk([Place(each) for each in prepared], lambda _: None)
    # The sum's other operand came before the first layer ran, all else just before its reader.
    assert written == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_written_inputs_have_the_layout_and_the_type_of_the_setting(memory_format: str, dtype: str) -> None:
    target = CpuTarget(batch=2, threads=1, memory_format=memory_format, dtype=dtype)
    prepared = target.prepare(conv_norm_act(5, 8, kernel_size=3, stride=1, activation=None, input_size=(7, 9)), 0)
    (x,) = prepared.inputs
    written = target._written(x)
    assert (written.shape, written.stride(), written.dtype) == (x.shape, x.stride(), x.dtype)
    strided = torch.zeros(4, 6)[:, ::2]
    assert torch.equal(target._written(strided), strided)
    indices = torch.arange(5)
    assert torch.equal(target._written(indices), indices)
    target.close()


def test_a_chain_is_as_long_as_the_networks_that_it_is_for() -> None:
    layers = [item.layer for item in BLOCK_OF_THREE.layers]
    small = CpuTarget.defaults(layers)
    deep = Network("deep", (NetworkLayer("body", CONV, count=40),))
    large = CpuTarget.defaults(layers, [deep, deep, BLOCK_OF_THREE])
    assert (small["chain"], large["chain"]) == (24, 40)
    assert large["kernel_cache"] > small["kernel_cache"]
    endless = Network("endless", (NetworkLayer("body", CONV, count=1000),))
    assert CpuTarget.defaults(layers, [endless])["chain"] == 96


def test_a_chain_has_a_length() -> None:
    with pytest.raises(UsageError, match="chain"):
        CpuTarget(chain=0)


def small_conv(kernel_size: int) -> Layer:
    return conv_norm_act(8, 8, kernel_size=kernel_size, stride=1, activation="relu", input_size=(6, 6))


@pytest.mark.parametrize(
    "network",
    [
        BLOCK_OF_THREE,
        # A network's own input that two layers take, a sum of it with itself, and a layer that stands twice.
        Network(
            "forked",
            (
                NetworkLayer("left", small_conv(3), inputs=("input",)),
                NetworkLayer("right", small_conv(1), count=2, inputs=("input",)),
                NetworkLayer("sum", residual_add(8, activation="relu", input_size=(6, 6)), inputs=("left", "right")),
                NetworkLayer(
                    "twice", residual_add(8, activation="relu", input_size=(6, 6)), count=2, inputs=("sum", "input")
                ),
            ),
        ),
    ],
)
def test_a_network_of_modules_computes_what_its_one_layer_does(network: Network) -> None:
    torch = pytest.importorskip("torch")
    from profiler._modules import build_layers, build_module

    layered, flat = build_layers(network), build_module(network.as_layer())
    # Either order of layers has the same weights: those of one shape are alike.
    for module in (layered, flat):
        for value in module.state_dict().values():
            generator = torch.Generator().manual_seed(sum(size * 10**i for i, size in enumerate(value.shape)))
            value.copy_(torch.rand(value.shape, generator=generator).to(value.dtype))
    x = torch.randn(2, *network.as_layer().inputs[0])
    with torch.inference_mode():
        assert torch.equal(layered(x), flat(x))


def walked_and_chained(drift: float, gap: float) -> list[Visit]:
    """Return visits to 30 layers in chains, and to the same ones along a network, always while the machine is slow."""
    rng = np.random.default_rng(0)
    made = []
    for r in range(24):
        slow = drift if r % 2 else 0.0
        for part in ("chain", "network", "chain again"):
            if part == "network" and not slow:
                continue
            at_s = r + {"chain": 0.0, "network": 0.3, "chain again": 0.6}[part]
            chained = part != "network"
            for i in range(30):
                ms = np.exp(slow + (gap if chained else 0.0) + rng.normal(0, 0.02)) * (1 + i / 10)
                later = i / 1000 if chained else 0.0
                made.append(Visit(i, 0, at_s + later, ms, None, late=False, faults=0, calls=1, chained=chained))
    return made


@pytest.mark.parametrize("gap", [0.0, 0.2])
def test_what_chains_make_of_layers_is_told_from_a_slow_machine(gap: float) -> None:
    """Visits along a network come at once: how slow the machine is then, those before and after tell."""
    visits = walked_and_chained(0.3, gap)
    found = judge(visits, make_protocol(), references=None, kinds=dict.fromkeys(range(30), "a kind"))
    assert found.chains["a kind"].mean == pytest.approx(gap, abs=0.02)

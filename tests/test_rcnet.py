"""RCNet, MobileNetV2 and NAS-Bench-Macro: exact sizes of published networks, and what a space promises."""

import json
import os
import random
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut import SearchSpace, UsageError
from lut.errors import DataError
from lut.primitives import ChannelShuffle, Linear
from predictors import compile_madds
from predictors._compiled import layers_of
from profiler._cli._workloads import open_space
from search import NasBenchMacro, RCNet, load_accuracies, mobilenet_v2, rcnet_cifar, rcnet_imagenet
from search.spaces._inverted_residuals import make_divisible
from search.spaces._nas_bench_macro import nas_bench_macro

MACRO = (
    Path(os.environ.get("LATENCY_LUT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    / "nas-bench-macro"
    / "nas-bench-macro_cifar10.json"
)
SPACES = {
    "cifar": RCNet("cifar"),
    "imagenet": RCNet("imagenet", classes=1000),
    "small": RCNet("cifar", positions=3, types=(1, 6), width=0.5),
    "macro": NasBenchMacro(),
}


# Parameters and multiply-adds without the classifier. In millions, to three and one digits, these are what the
# paper prints or what comes out of its authors' code.
@pytest.mark.parametrize(
    ("skeleton", "name", "parameters", "madds"),
    [
        ("cifar", "rcnet-c100", 1_918_436, 87_253_504),
        ("cifar", "mobilenet-like-c100", 2_412_212, 91_142_144),
        ("imagenet", "rcnet", 3_436_224, 294_401_408),
        ("imagenet", "rcnet-b", 4_749_024, 471_168_320),
        ("imagenet", "rcnet-c100-transferred", 3_673_616, 377_619_872),
        ("imagenet", "mobilenet-like", 3_564_680, 322_474_880),
    ],
)
def test_the_published_networks_are_exact(skeleton: str, name: str, parameters: int, madds: int) -> None:
    space = SPACES[skeleton]
    assert isinstance(space, RCNet)
    network = space.published()[name]()
    network.as_layer()
    assert network.parameters == parameters
    assert space.count_madds(network) == madds


# What each step of the supplement's search added (types and positions counted from 1), and the totals after it.
CIFAR_PATH = [
    ("", 0.467, 21.9),
    ("4@26", 0.710, 25.7),
    ("6@18", 0.757, 28.5),
    ("5@12", 0.772, 32.1),
    ("6@21", 0.895, 38.2),
    ("4@23", 0.986, 43.8),
    ("2@8", 0.992, 45.2),
    ("3@2", 0.997, 50.1),
    ("3@10", 1.006, 52.1),
    ("3@15", 1.036, 53.9),
    ("6@24", 1.134, 59.9),
    ("4@29", 1.377, 63.7),
    ("3@16 6@27", 1.662, 69.5),
    ("3@11", 1.671, 71.5),
    ("1@30", 1.831, 74.0),
    ("1@4", 1.836, 78.2),
    ("1@5", 1.840, 82.4),
    ("1@20", 1.918, 87.3),
    ("1@6", 1.923, 91.5),
    ("5@3", 1.932, 99.9),
    ("6@32", 2.521, 109.1),
    ("2@22", 2.567, 112.0),
    ("1@28", 2.727, 114.5),
    ("3@19", 2.788, 118.3),
]
IMAGENET_PATH = [
    ("", 1.619, 110.4),
    ("1@2", 1.624, 123.3),
    ("6@21", 1.747, 141.9),
    ("1@11", 1.755, 147.4),
    ("2@14", 1.776, 151.3),
    ("4@23", 1.866, 168.6),
    ("4@16", 1.908, 176.5),
    ("6@29", 2.164, 188.6),
    ("6@24", 2.262, 206.9),
    ("3@26", 2.429, 214.9),
    ("3@28", 2.595, 222.8),
    ("1@20", 2.673, 237.7),
    ("3@30", 2.840, 245.6),
    ("6@35", 3.429, 274.1),
    ("4@4", 3.436, 294.4),
]


@pytest.mark.parametrize(
    ("skeleton", "classes", "path"), [("cifar", 100, CIFAR_PATH), ("imagenet", 1000, IMAGENET_PATH)]
)
def test_every_step_of_the_published_search_paths_has_its_totals(
    skeleton: str, classes: int, path: list[tuple[str, float, float]]
) -> None:
    space = RCNet(skeleton, classes=classes)  # type: ignore[arg-type]
    vector = [0] * len(space.choices)
    for added, parameters, madds in path:
        for block in added.split():
            kind, position = map(int, block.split("@"))
            assert vector[position - 1] == 0
            vector[position - 1] = space.choices[position - 1].options.index(kind)
        network = space.decode(vector)
        assert network.parameters / 1e6 == pytest.approx(parameters, abs=6e-4), added
        # The list cuts some figures where it rounds others: the last digit may be off by one.
        assert space.count_madds(network) / 1e6 == pytest.approx(madds, abs=0.101), added


def test_mobilenet_v2_has_its_known_size() -> None:
    network = mobilenet_v2()
    assert network.parameters == 3_504_872
    assert network.madds == 300_774_272
    assert mobilenet_v2(width=0.5, classes=1000).parameters == 1_968_680
    assert mobilenet_v2(width=1.4, classes=1000).parameters == 6_108_776
    network.as_layer()
    assert all(item.layer.shapes for item in mobilenet_v2("cifar", width=0.35, classes=10).layers)


def test_channels_are_rounded_as_mobilenet_rounds_them() -> None:
    assert [make_divisible(c) for c in (3, 11, 12, 16, 22.4, 44.8, 4.5)] == [8, 16, 16, 16, 24, 48, 8]


@pytest.mark.parametrize("name", SPACES)
def test_a_space_says_which_layers_its_networks_have(name: str) -> None:
    space = SPACES[name]
    assert isinstance(space, SearchSpace)
    rng = random.Random(0)
    vectors = [space.sample(rng) for _ in range(40)] + [space.sample_measured(rng) for _ in range(40)]
    vectors.append((0,) * len(space.choices))
    layers = set(space.layers())
    compiled = compile_madds(space).values(np.array(vectors))
    for vector, madds in zip(vectors, compiled, strict=True):
        network = space.decode(vector)
        assert network.as_layer().output_shape == (space.classes,)
        assert {item.layer for item in network.layers} <= layers
        # Arrays made from the space's structure count what its networks do.
        assert madds == pytest.approx(network.madds / 1e6)
    assert set(layers_of(space)) <= layers
    # No layer is measured for nothing: each is a network's, or the baseline's.
    base = {item.layer for item in space.base_network().layers} if isinstance(space, RCNet) else set()
    assert layers <= set(layers_of(space)) | base


@pytest.mark.parametrize("name", SPACES)
@given(data=st.data())
def test_only_the_order_within_a_stage_matters(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    vector = [data.draw(st.integers(0, len(d.options) - 1)) for d in space.choices]
    canonical = space.canonical(vector)
    assert space.canonical(canonical) == canonical
    assert space.decode(vector).as_layer() == space.decode(canonical).as_layer()


def test_types_shuffle_before_grouped_projections() -> None:
    space = RCNet("cifar", classes=10)
    types = [5, 6] + [0] * 4 + [5] + [0] * 5 + [5] + [0] * 11 + [5] + [0] * 11
    layers = {item.name: item.layer for item in space.network(types, "one").layers}
    project = layers["stage2.block2.project"]
    assert isinstance(project.nodes[0].op, ChannelShuffle)
    assert project.nodes[0].op.groups == 4
    assert str(layers["stage2.block2.expand"]).startswith("conv1×1 24→288 g2")
    assert not any(isinstance(node.op, ChannelShuffle) for node in layers["stage2.block1.project"].nodes)
    # A projection shortcut where channels change without a stride, none where the maps are halved.
    assert "stage2.block1.shortcut" in layers
    assert "stage3.block1.add" not in layers
    assert space.count_madds(space.network(types, "one")) == sum(
        layer.madds for layer in layers.values() if not isinstance(layer.nodes[0].op, Linear)
    )


def test_impossible_spaces_and_networks_are_refused() -> None:
    for wrong in (
        {"skeleton": "mnist"},
        {"positions": 0},
        {"types": ()},
        {"types": (2, 1)},
        {"types": (1, 7)},
        {"initial": 0},
        {"width": 0.0},
        {"width": float("nan")},
        {"classes": 1},
    ):
        with pytest.raises(UsageError):
            RCNet(**wrong)  # type: ignore[arg-type]
    space = RCNet()
    with pytest.raises(UsageError, match="36 decisions"):
        space.decode([0] * 35)
    with pytest.raises(UsageError, match=r"stage2\.block1 has 1 options, got index 1"):
        space.decode([1] + [0] * 35)
    with pytest.raises(UsageError, match="needs a block"):
        space.network([5] + [0] * 35, "none")
    with pytest.raises(UsageError, match="of a type"):
        space.network([7] + [0] * 35, "none")
    with pytest.raises(UsageError, match="8 positions"):
        NasBenchMacro().decode([3] + [0] * 7)
    for name, make in (("rcnet-cifar", rcnet_cifar), ("nas-bench-macro", nas_bench_macro)):
        assert make().name == name
        with pytest.raises(UsageError, match="has no widths to choose: leave it away"):
            open_space(name, expand=3.0, options={})
    assert rcnet_imagenet().classes == 1000
    with pytest.raises(UsageError):
        mobilenet_v2("mnist")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        mobilenet_v2(width=0)
    with pytest.raises(UsageError):
        mobilenet_v2(classes=1)


@pytest.mark.skipif(not MACRO.exists(), reason=f"{MACRO} is not there")
def test_nas_bench_macro_is_the_benchmarks() -> None:
    space = NasBenchMacro()
    listed = json.loads(MACRO.read_text())
    accuracies = load_accuracies(MACRO)
    rng = random.Random(1)
    for vector in [space.sample(rng) for _ in range(50)]:
        network = space.decode(vector)
        known = listed[network.name]
        assert (network.parameters, network.madds) == (known["params"], known["flops"])
        assert accuracies[network.name] == pytest.approx(known["mean_acc"] / 100)
        # Networks that are the same have one accuracy.
        assert accuracies["".join(map(str, space.canonical(vector)))] == accuracies[network.name]
    assert len({space.canonical([int(c) for c in name]) for name in accuracies}) == 3969


def test_another_file_of_accuracies_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for content, message in (
        ("[]", "not NAS-Bench-Macro"),
        ('{"00000000": {"mean_acc": 90}}', "1 of 6561"),
        ("{", "not NAS-Bench-Macro"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=message):
            load_accuracies(file)


def test_the_pair_for_a_phone_is_the_papers() -> None:
    place = Path(__file__).parent.parent / "examples" / "rcnet_on_a_phone.py"
    found = runpy.run_path(str(place))
    for name, parameters in (("rcnet", 3_436_224), ("mobilenet_v2", 3_504_872)):
        module = found[name]()
        assert not module.training
        assert sum(weight.numel() for weight in module.parameters()) == parameters

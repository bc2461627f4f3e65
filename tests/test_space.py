"""The CIFAR ResNet space: its sizes, its exact totals, and that its layers cover every network in it."""

from __future__ import annotations

import random

import pytest

from lut import Network, SearchSpace, UsageError
from profiler import load_space
from search import ResNetCifar


def base_vector(space: ResNetCifar) -> list[int]:
    """Return the base network: every width that of its stage, every block kept."""
    vector = []
    for decision in space.choices:
        if decision.name.endswith("blocks"):
            vector.append(len(decision.options) - 1)
        else:
            stage = 1 if decision.name == "stem" else int(decision.name[5])
            vector.append(decision.options.index(16 * 2 ** (stage - 1)))
    return vector


def vector_of(space: ResNetCifar, widths: list[int], blocks: int) -> list[int]:
    """Return the vector of a network given as TAS writes it: the stem, then two widths per block."""
    values = iter(widths)
    vector = []
    for decision in space.choices:
        wanted = blocks if decision.name.endswith("blocks") else next(values)
        vector.append(decision.options.index(wanted))
    return vector


def test_it_is_a_search_space_and_found_by_name() -> None:
    space = load_space("resnet-cifar")
    assert isinstance(space, SearchSpace)
    assert len(space.layers()) == len(set(space.layers()))


def test_curves_are_the_global_search_space_of_htas_table_1() -> None:
    curves = ResNetCifar(expand=2.0).curves()
    assert [curve.channels for curve in curves] == [tuple(range(1, n + 1)) for n in (32, 64, 128)]
    assert sum(len(curve.layers) for curve in curves) == 224
    assert [curve.layers[0].inputs for curve in curves] == [((16, 32, 32),), ((32, 16, 16),), ((64, 8, 8),)]


@pytest.mark.parametrize(
    ("depth", "parameters", "madds"),
    [(20, 272_282, 40.81e6), (32, 466_714, 69.12e6), (56, 855_578, 125.75e6), (110, 1_730_522, 253.15e6)],
)
def test_base_networks_have_the_published_totals(depth: int, parameters: int, madds: float) -> None:
    # Params M and MMAdds of the base networks on CIFAR-10, as recomputed from the TAS configurations.
    space = ResNetCifar(depth=depth)
    network = space.decode(base_vector(space))
    assert network.parameters == pytest.approx(parameters, rel=2e-4)
    assert network.madds == pytest.approx(madds, rel=2e-4)


def test_a_searched_network_of_tas_has_its_published_totals() -> None:
    # TAS's ResNet-20 for CIFAR-10: unequal widths, so both kinds of shortcut convolution occur.
    widths = [16, 6, 4, 4, 4, 4, 4, 32, 32, 12, 19, 32, 28, 64, 64, 64, 64, 64, 44]
    space = ResNetCifar(depth=20)
    network = space.decode(vector_of(space, widths, 3))
    assert network.parameters / 1e6 == pytest.approx(0.2281, abs=5e-5)
    assert network.madds / 1e6 == pytest.approx(22.44, abs=5e-3)


def brackets(space: ResNetCifar, network: Network) -> list[str]:
    """Return the layers of a network that no grid point lies below or above in every channel count."""
    families: dict[str, list[tuple[int, ...]]] = {}
    for layer in space.layers():
        families.setdefault(layer.family, []).append((layer.inputs[0][0], layer.output_shape[0]))
    uncovered = []
    for item in network.layers:
        at = (item.layer.inputs[0][0], item.layer.output_shape[0])
        points = families.get(item.layer.family, [])
        tied = all(p[0] == p[1] for p in points)  # an addition's output is no free choice
        for below_in in (True, False):
            for below_out in (below_in,) if tied else (True, False):
                corner = any(
                    (p[0] <= at[0] if below_in else p[0] >= at[0]) and (p[1] <= at[1] if below_out else p[1] >= at[1])
                    for p in points
                )
                if not corner:
                    uncovered.append(item.name)
    return uncovered


@pytest.mark.parametrize("depth", [20, 56, 110])
@pytest.mark.parametrize("expand", [1.0, 1.5, 2.0, 3.0])
def test_every_network_can_be_looked_up_or_interpolated(depth: int, expand: float) -> None:
    space = ResNetCifar(expand=expand, depth=depth)
    rng = random.Random(7)
    for _ in range(5):
        assert brackets(space, space.decode(space.sample(rng))) == []


@pytest.mark.parametrize("arguments", [{"expand": 0.0}, {"expand": 100.0}, {"depth": 21}, {"depth": 2}])
def test_impossible_spaces_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ResNetCifar(**arguments)  # type: ignore[arg-type]


def test_impossible_vectors_are_refused() -> None:
    space = ResNetCifar(depth=20)
    with pytest.raises(UsageError, match="decisions"):
        space.decode([0])
    with pytest.raises(UsageError, match="has 32 options"):
        space.decode([32] + [0] * (len(space.choices) - 1))


def test_an_unknown_space_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown space 'nope'; installed: .*resnet-cifar"):
        load_space("nope")

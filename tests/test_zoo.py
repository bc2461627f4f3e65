"""The benchmarks' known networks: their published sizes, and that they run and export."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

NAMES = (
    "resnet18",
    "resnet50",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "shufflenet_v2",
    "efficientnet_b0",
    "squeezenet",
    "densenet121",
    "resnet20",
    "resnet56",
    "vit_tiny",
    "language_model",
    "segmentation",
)


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "_zoo.py"
    spec = importlib.util.spec_from_file_location("_zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def network(zoo: ModuleType) -> Callable[[str], nn.Module]:
    made: dict[str, nn.Module] = {}

    def make(name: str) -> nn.Module:
        if name not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made[name] = zoo.ZOO[name]()
        return made[name]

    return make


def test_every_network_has_an_input(zoo: ModuleType) -> None:
    assert tuple(zoo.ZOO) == NAMES
    assert set(zoo.INPUTS) == set(NAMES)


# Parameters, and millions of multiply-adds of convolutions and linear layers, as published.
@pytest.mark.parametrize(
    ("name", "parameters", "madds"),
    [
        ("resnet18", 11_689_512, 1814),
        ("resnet50", 25_557_032, 4089),
        ("mobilenet_v1", 4_231_976, 569),
        ("mobilenet_v2", 3_504_872, 301),
        ("mobilenet_v3_large", 5_483_032, 217),
        ("shufflenet_v2", 2_278_604, 145),
        ("efficientnet_b0", 5_288_548, 386),
        ("squeezenet", 1_235_496, 349),
        ("densenet121", 7_978_856, 2834),
        ("resnet20", 269_722, 40.55),
        ("resnet56", 853_018, 125.49),
        ("vit_tiny", 5_717_416, None),
    ],
)
def test_sizes_are_the_published_ones(
    zoo: ModuleType, network: Callable[[str], nn.Module], name: str, parameters: int, madds: float | None
) -> None:
    module = network(name)
    assert sum(p.numel() for p in module.parameters()) == parameters
    if madds is None:  # what is published differs in whether it counts attention's products
        return
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*zoo.example(name, 1))
    assert round(counter.get_total_flops() / 2e6, 2 if isinstance(madds, float) else 0) == madds


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_its_output_depends_on_its_input(
    zoo: ModuleType, network: Callable[[str], nn.Module], name: str
) -> None:
    module, (x,) = network(name), zoo.example(name, 2)
    assert not any(part.training for part in module.modules())
    assert x.shape == (2, *zoo.INPUTS[name])
    assert torch.equal(x, *zoo.example(name, 2))
    with torch.no_grad():
        both, first = module(x), module(x[:1])
    assert both.isfinite().all()
    torch.testing.assert_close(both[:1], first, rtol=1e-3, atol=1e-3)
    assert (both[0] - both[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_exported(zoo: ModuleType, network: Callable[[str], nn.Module], name: str) -> None:
    module, inputs = network(name), zoo.example(name, 1)
    exported = torch.export.export(module, inputs)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(*inputs), module(*inputs), rtol=1e-3, atol=1e-3)


def test_the_language_model_sees_no_later_token(zoo: ModuleType, network: Callable[[str], nn.Module]) -> None:
    module, (ids,) = network("language_model"), zoo.example("language_model", 1)
    changed = ids.clone()
    changed[0, 100] = (ids[0, 100] + 1) % zoo.VOCABULARY
    with torch.no_grad():
        before, after = module(ids), module(changed)
    torch.testing.assert_close(before[:, :100], after[:, :100])
    assert not torch.allclose(before[:, 100:], after[:, 100:])

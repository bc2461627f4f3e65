"""TAS and HTAS without training: published totals, candidate sets, and the supernet's parts against worked cases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as f

from lut import UsageError
from search import ResNetCifar, ratio_widths, uniform_widths
from search._training._weights import build_network, network_weights
from search.htas._architecture import Mixture, draw, draw_uniform, fixed, gumbel_noise, gumbel_softmax, temperature
from search.htas._supernet import SuperResNet, add_first_channels, interpolate_channels, recalibrated_batch_norm

# Of TAS's configurations (configs/NeurIPS-2019, configs/compares) and their bases: parameters and multiply-adds in
# millions, convolutions and linear layers on the main path.
TOTALS = {
    "base-c10-r20": (0.2723, 40.81, 20),
    "base-c10-r32": (0.4667, 69.12, 32),
    "base-c10-r56": (0.8556, 125.75, 56),
    "base-c10-r110": (1.7305, 253.15, 110),
    "base-c100-r20": (0.2781, 40.82, 20),
    "base-c100-r32": (0.4726, 69.13, 32),
    "base-c100-r56": (0.8614, 125.75, 56),
    "base-c100-r110": (1.7364, 253.16, 110),
    "tas-c10-r20": (0.2281, 22.44, 20),
    "tas-c10-r32": (0.3205, 34.95, 32),
    "tas-c10-r56": (0.4493, 59.86, 32),
    "tas-c10-r56-compares": (0.4415, 59.45, 32),
    "tas-c10-r110": (0.7959, 119.26, 64),
    "tas-c10-r164": (1.278, 178.07, 125),
    "tas-c100-r20": (0.2412, 22.43, 20),
    "tas-c100-r32": (0.4273, 42.47, 32),
    "tas-c100-r32-compares": (0.4274, 42.49, 32),
    "tas-c100-r56": (0.4710, 61.23, 36),
    "tas-c100-r110": (0.8437, 119.58, 68),
    "tas-c100-r164": (1.325, 171.14, 137),
    "fix-c100-r32": (0.2888, 41.10, 32),
    "rand-c100-r32": (0.3364, 42.91, 32),
}
# HTAS Table 2, by target and stage.
CHOICES = {
    ("CPU", 32): (4, 5, 12, 16, 20, 24, 27, 32),
    ("CPU", 64): (8, 13, 20, 27, 35, 45, 52, 64),
    ("CPU", 128): (15, 20, 46, 50, 70, 92, 107, 128),
    ("GPU", 32): (4, 6, 12, 16, 20, 24, 28, 32),
    ("GPU", 64): (6, 16, 24, 32, 40, 48, 56, 64),
    ("GPU", 128): (16, 32, 47, 64, 80, 96, 112, 128),
}


@pytest.mark.parametrize("name", TOTALS)
def test_published_networks_have_their_published_totals(name: str) -> None:
    depth = int(name.split("-r")[1].split("-")[0])
    network = ResNetCifar(depth=depth).published()[name]()
    parameters, madds, main_path = TOTALS[name]
    assert network.parameters / 1e6 == pytest.approx(parameters, abs=6e-4 if parameters > 1 else 6e-5)
    assert network.madds / 1e6 == pytest.approx(madds, abs=6e-3)
    counted = [item for item in network.layers if "conv" in item.name or item.name in ("stem", "classifier")]
    assert len(counted) == main_path
    # What is counted is what is built.
    built = build_network(network, seed=0)
    assert sum(parameter.numel() for parameter in built.parameters()) == network.parameters


def test_all_published_networks_are_checked() -> None:
    names = {name for depth in (110, 164) for name in ResNetCifar(depth=depth).published()}
    assert names - set(TOTALS) == {"base-c10-r164", "base-c100-r164"}


def test_candidates_are_tas_own() -> None:
    space = ResNetCifar(depth=32)
    assert ratio_widths(space) == (
        (4, 6, 8, 9, 11, 12, 14, 16),
        (9, 12, 16, 19, 22, 25, 28, 32),
        (19, 25, 32, 38, 44, 51, 57, 64),
    )
    outer = ratio_widths(ResNetCifar(depth=164))[1::2]
    assert outer == tuple(tuple(int(c * r / 10) for r in range(3, 11)) for c in (64, 128, 256))


@pytest.mark.parametrize(
    ("depth", "kept"),
    [
        (20, (1, 2, 3)),
        (32, (1, 3, 5)),
        (56, (1, 3, 5, 7, 9)),
        (110, (1, 3, 5, 7, 9, 11, 13, 15, 17, 18)),
        (164, (1, 3, 5, 7, 9, 11, 13, 15, 17, 18)),
    ],
)
def test_depths_are_tas_own(depth: int, kept: tuple[int, ...]) -> None:
    space = ResNetCifar(depth=depth, depths="tas")
    assert space.depths == kept
    # The stem and every convolution of every block, and one depth for each stage.
    kinds = [decision.kind for decision in space.choices]
    assert kinds.count("width") == (depth - 2) + 1
    assert kinds.count("depth") == 3


def test_a_uniform_grid_has_the_upper_ends_of_htas_groups() -> None:
    space = ResNetCifar(depth=32, expand=2.0)
    assert uniform_widths(space, 8) == (tuple(range(4, 33, 4)), tuple(range(8, 65, 8)), tuple(range(16, 129, 16)))
    with pytest.raises(UsageError, match="too few for 33 groups"):
        uniform_widths(space, 33)


@pytest.mark.parametrize("where", CHOICES, ids=str)
def test_published_choices_fall_into_their_groups(where: tuple[str, int]) -> None:
    widest, width = where[1], where[1] // 8
    for j, choice in enumerate(CHOICES[where], start=1):
        assert (j - 1) * width < choice <= j * width <= widest


@pytest.mark.parametrize(("given", "to"), [(5, 12), (12, 16), (7, 8), (4, 32), (3, 3), (16, 5), (9, 4)])
def test_interpolation_is_adaptive_average_pooling_of_channels(given: int, to: int) -> None:
    x = torch.randn(2, given, 3, 3, generator=torch.Generator().manual_seed(0))
    pooled = f.adaptive_avg_pool3d(x.unsqueeze(1), (to, 3, 3)).squeeze(1)
    assert torch.allclose(interpolate_channels(x, to), pooled, atol=1e-6)
    # TAS's other form of it: windows of input channels.
    for a in range(to):
        window = x[:, a * given // to : -(-(a + 1) * given // to)]
        assert torch.allclose(pooled[:, a], window.mean(1), atol=1e-6)


def test_interpolation_by_hand() -> None:
    x = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    assert interpolate_channels(x, 3).flatten().tolist() == [1.0, 2.0, 3.0]
    assert interpolate_channels(x, 4).flatten().tolist() == [1.0, 1.0, 3.0, 3.0]
    assert interpolate_channels(x, 1).flatten().tolist() == [2.0]


def test_sums_of_unequal_widths_are_over_the_first_channels() -> None:
    a = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    b = torch.tensor([10.0, 20.0]).view(1, 2, 1, 1)
    for first, second in ((a, b), (b, a)):
        assert add_first_channels(first, second).flatten().tolist() == [11.0, 22.0, 3.0]
    assert add_first_channels(a, a).flatten().tolist() == [2.0, 4.0, 6.0]


def test_temperatures_are_the_papers_and_the_codes() -> None:
    paper: dict[str, Any] = {"start": 10.0, "end": 0.1, "schedule": "linear"}
    assert [round(temperature(s, **paper), 6) for s in (0.0, 0.5, 1.0)] == [10.0, 5.05, 0.1]
    code: dict[str, Any] = {"start": 5.0, "end": 0.1, "schedule": "cosine"}
    assert [round(temperature(s, **code), 6) for s in (0.0, 0.5, 1.0)] == [5.0, 2.55, 0.1]
    with pytest.raises(UsageError, match="linear or cosine"):
        temperature(0.5, start=1, end=0.1, schedule="steps")  # type: ignore[arg-type]


def test_gumbel_step_by_hand() -> None:
    logits, noise = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.3, -0.2, 1.0])
    z, p = gumbel_softmax(logits, 2.0, noise)
    wanted = (logits - logits.exp().sum().log() + noise) / 2
    assert torch.allclose(z, wanted)
    assert torch.allclose(p, wanted.exp() / wanted.exp().sum())
    # Evaluation: no noise, no temperature.
    assert torch.equal(gumbel_softmax(logits, 0.0, noise)[1], torch.softmax(logits, 0))


def test_gumbel_noise_makes_draws_follow_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    tops = [int((logits + gumbel_noise(3, generator)).argmax()) for _ in range(4000)]
    shares = torch.bincount(torch.tensor(tops), minlength=3) / 4000
    assert torch.allclose(shares, torch.tensor([0.2, 0.5, 0.3]), atol=0.03)


def small_space(depth: int = 14, **options: Any) -> ResNetCifar:
    return ResNetCifar(depth=depth, widths=((4, 8, 16), (8, 20, 32), (16, 40, 64)), depths="tas", **options)


def test_two_different_widths_are_drawn_and_all_depths() -> None:
    space = small_space()
    net = SuperResNet(space, seed=0)
    generator = torch.Generator().manual_seed(1)
    architecture = draw(space.choices, list(net.logits), tau=1.0, samples=2, generator=generator)
    for decision, mixture in zip(space.choices, architecture, strict=True):
        wanted = len(decision.options) if decision.kind == "depth" else 2
        assert len(set(mixture.indices)) == wanted == len(mixture.weights)
        assert float(mixture.weights.detach().sum()) == pytest.approx(1.0)
    again = draw(space.choices, list(net.logits), tau=1.0, samples=2, generator=torch.Generator().manual_seed(1))
    assert [m.indices for m in again] == [m.indices for m in architecture]
    single = draw_uniform(space.choices, generator)
    assert all(len(mixture.indices) == 1 and float(mixture.weights) == 1 for mixture in single)


def test_draws_of_two_are_weighed_by_the_softmax_of_their_z() -> None:
    space = small_space()
    logits = [
        torch.randn(len(d.options), generator=torch.Generator().manual_seed(i)) for i, d in enumerate(space.choices)
    ]
    architecture = draw(space.choices, logits, tau=0.7, samples=2, generator=torch.Generator().manual_seed(5))
    # The same generator gives the same noise for the first decision.
    noise = gumbel_noise(len(logits[0]), torch.Generator().manual_seed(5))
    z, _ = gumbel_softmax(logits[0], 0.7, noise)
    first = architecture[0]
    assert torch.allclose(first.weights, torch.softmax(z[list(first.indices)], 0))


def reference_conv(conv: Any, x: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    """Return what a searched convolution gives, as TAS writes it: padded inputs, all outputs, then cut."""
    padded = torch.zeros(x.shape[0], conv.weight.shape[1], *x.shape[2:])
    padded[:, : x.shape[1]] = x
    whole = f.conv2d(padded, conv.weight, stride=conv.stride, padding=conv.padding)
    widths = [conv.widths[i] for i in mixture.indices]
    parts = []
    for i, width in zip(mixture.indices, widths, strict=True):
        part = whole[:, :width]
        if conv.norms is not None:
            norm = conv.norms[i]
            part = f.batch_norm(part, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        parts.append(interpolate_channels(part, max(widths)))
    return sum(weight * part for weight, part in zip(mixture.weights, parts, strict=True))  # type: ignore[return-value]


def test_a_searched_convolution_is_tas_own() -> None:
    net = SuperResNet(small_space(), seed=0).train()
    conv: Any = net.stages[0][0].convs[0]  # type: ignore[index]
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mixture = Mixture((2, 0), torch.tensor([0.3, 0.7]))
    assert torch.allclose(conv(x, mixture), reference_conv(conv, x, mixture), atol=1e-5)
    # A norm for each width, none shared.
    assert [norm.num_features for norm in conv.norms] == [4, 8, 16]
    seen = [int(norm.num_batches_tracked) for norm in conv.norms]
    assert seen == [1, 0, 1]


def reference_forward(net: SuperResNet, x: torch.Tensor, architecture: Any) -> torch.Tensor:
    """Return what the supernet gives, written out block by block."""
    mixtures = iter(architecture)
    x = torch.relu(reference_conv(net.stem, x, next(mixtures)))
    for blocks in net.stages:
        depth = next(mixtures)
        features = []
        for block in blocks:  # type: ignore[attr-defined]
            own = [next(mixtures) for _ in block.convs]
            skip = x
            if block.shortcut is not None:
                skip = reference_conv(block.shortcut, f.avg_pool2d(x, 2) if block.pool else x, own[-1])
            for c, (conv, mixture) in enumerate(zip(block.convs, own, strict=True)):
                x = reference_conv(conv, x, mixture)
                if c + 1 < len(block.convs):
                    x = torch.relu(x)
            x = torch.relu(add_first_channels(x, skip))
            features.append(x)
        ends = [features[net.space.depths[i] - 1] for i in depth.indices]
        most = max(end.shape[1] for end in ends)
        x = sum(w * interpolate_channels(e, most) for w, e in zip(depth.weights, ends, strict=True))  # type: ignore[assignment]
    pooled = f.adaptive_avg_pool2d(x, 1).flatten(1)
    return pooled @ net.classifier.weight[:, : pooled.shape[1]].T + net.classifier.bias


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_supernet_is_its_blocks_written_out(bottleneck: bool) -> None:
    if bottleneck:
        inner, outer = (4, 8, 16), (16, 40, 64)
        widths = (inner, outer, (8, 20, 32), (32, 80, 128), (16, 40, 64), (64, 160, 256))
        space = ResNetCifar(depth=20, bottleneck=True, widths=widths, depths="tas")
    else:
        space = small_space()
    net = SuperResNet(space, seed=3).train()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(2)
    architecture = draw(space.choices, list(net.logits), tau=1.0, samples=2, generator=generator)
    with torch.no_grad():
        wanted = reference_forward(net, x, architecture)
        assert torch.allclose(net(x, architecture), wanted, atol=1e-4)


def test_a_network_of_base_widths_is_the_base_network() -> None:
    # Where all widths agree, the supernet and the final network are the same function of the same weights.
    space = ResNetCifar(depth=14, widths=((8, 16), (16, 32), (32, 64)), depths="tas")
    net = SuperResNet(space, seed=0).eval()
    vector = [1] * len(space.choices)
    network = space.decode(vector)
    built = build_network(network, seed=0).eval()
    convs: dict[str, Any] = {"stem": net.stem}
    for s, blocks in enumerate(net.stages, start=1):
        for b, block in enumerate(blocks, start=1):  # type: ignore[arg-type]
            name = f"stage{s}.block{b}"
            convs |= {f"{name}.conv{c}": conv for c, conv in enumerate(block.convs, start=1)}
            if block.shortcut is not None:
                convs[f"{name}.shortcut"] = block.shortcut
    tensors = network_weights(network, built)
    for name, value in tensors.items():
        layer, what, parameter = name.rsplit(".", 2)
        with torch.no_grad():
            if what == "linear":
                value.copy_(net.classifier.get_parameter(parameter))
            elif what == "conv":
                value.copy_(convs[layer].weight[: value.shape[0], : value.shape[1]])
            else:
                value.copy_(convs[layer].norms[1].state_dict()[parameter])
    with torch.no_grad():
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(net(x, fixed(vector)), built(x), atol=1e-4)


def test_recalibrated_batch_norm_has_the_statistics_of_the_batches_and_leaves_no_trace() -> None:
    space = small_space()
    net = SuperResNet(space, seed=0).train()
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    vector = [0] * len(space.choices)
    with torch.no_grad():
        net(x, fixed(vector))
        before = {name: value.clone() for name, value in net.state_dict().items()}
        with recalibrated_batch_norm(net):
            in_training = net(x, fixed(vector))
            net.eval()
            # One batch's statistics give that batch what training gave it, up to the variance's n and n − 1.
            assert torch.allclose(net(x, fixed(vector)), in_training, atol=0.02)
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"depth": 33}, "6n\\+2 layers"),
        ({"depth": 32, "bottleneck": True}, "9n\\+2 layers"),
        ({"depth": 20, "widths": ((4,), (8,))}, "3 groups of widths, got 2"),
        ({"depth": 20, "widths": ((4, 4), (8,), (16,))}, "increase"),
        ({"depth": 20, "widths": ((40,), (8,), (16,))}, "more than 32"),
        ({"depth": 20, "depths": "odd"}, "'all', 'tas' or 'base'"),
        ({"depth": 20, "classes": 1}, "at least 2 classes"),
    ],
)
def test_impossible_spaces_are_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        ResNetCifar(**arguments)

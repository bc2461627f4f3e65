"""Networks of PyTorch as layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lut import Layer, Network, UsageError, chain, conv_norm_act, residual_add
from lut.primitives import ChannelShuffle
from lut.subgraph import Subgraph
from profiler._modules import build_module, example_inputs
from profiler._trace import TracedNetwork, trace


def traced(module: nn.Module, *shape: int) -> TracedNetwork:
    return trace(module.eval(), (torch.randn(shape),), name="net")


def same_numbers(module: nn.Module, x: torch.Tensor) -> None:
    """Assert that the layers, wired as the trace says, compute what the network does, all weights being alike."""
    network = trace(module.eval(), (x,), name="net").network
    rebuilt = build_module(network.as_layer())
    for made in (module, rebuilt):
        for parameter in made.parameters():
            parameter.data.fill_(0.03)
        for buffer in made.buffers():
            if buffer.is_floating_point():
                buffer.fill_(1.0)
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(x), module(x))


class Residual(nn.Module):
    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


def test_a_residual_block_is_the_layers_of_the_vocabulary() -> None:
    found = traced(Residual(), 2, 8, 16, 16)
    conv = conv_norm_act(8, 8, kernel_size=3, stride=1, activation="relu", input_size=(16, 16))
    plain = conv_norm_act(8, 8, kernel_size=3, stride=1, activation=None, input_size=(16, 16))
    add = residual_add(8, activation="relu", input_size=(16, 16))
    assert [item.layer for item in found.network.layers] == [conv, plain, add]
    assert [item.name for item in found.network.layers] == ["conv1", "conv2", "add"]
    assert (found.batch, found.operators) == (2, 7)


def test_layers_of_a_network_do_not_depend_on_the_batch_where_primitives_have_words() -> None:
    one, four = (traced(Residual(), batch, 8, 16, 16).network.layers for batch in (1, 4))
    assert one == four


def test_an_activation_in_place_is_another_layer() -> None:
    plain, inplace = (traced(Residual(inplace=flag), 2, 8, 16, 16).network.layers[0].layer for flag in (False, True))
    assert plain != inplace
    assert plain.digest != inplace.digest


class Attention(nn.Module):
    """Self-attention written out, its heads folded into the batch, as many codes have it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.reshape(b, n, 3, 4).transpose(1, 2).reshape(b * 3, n, 4) for part in parts)
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / 2, dim=-1)
        y = torch.bmm(self.drop(weights), v).reshape(b, 3, n, 4).transpose(1, 2).reshape(b, n, d)
        return x + self.out(y)


def test_heads_folded_into_the_batch_stay_inside_one_layer() -> None:
    found = traced(Attention(), 2, 5, 12)
    assert [str(item.layer) for item in found.network.layers][:2] == ["layernorm 5×12", "linear 12→36 ×5"]
    folded = [item.layer for item in found.network.layers if isinstance(item.layer.nodes[0].op, Subgraph)]
    assert len(folded) == 1
    assert folded[0].inputs == ((5, 36),)
    assert folded[0].output_shape == (5, 12)
    assert found.idle == {"dropout": 1}
    same_numbers(Attention(), torch.randn(2, 5, 12))


class Everything(nn.Module):
    """Operators that no primitive has a word for, and views between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.register_buffer("index", torch.tensor([3, 1, 0, 2]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.leaky_relu(self.norm(self.conv(x)), 0.1)
        a, b = x.chunk(2, 1)
        x = torch.cat([b, a[:, self.index]], 1)
        x = functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        x = functional.pad(functional.max_pool2d(x, 3, 2, ceil_mode=True), (1, 1, 1, 1))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], 1)
        return functional.softmax(tokens.mean(1), dim=-1)


def test_operators_without_a_word_are_kept_as_they_are() -> None:
    found = traced(Everything(), 2, 3, 16, 16)
    assert found.network.madds == 8 * 8 * 8 * 3 * 9
    for item in found.network.layers:
        with torch.inference_mode():
            output = build_module(item.layer)(*example_inputs(item.layer, 2, torch.float32))
        assert tuple(output.shape) == (2, *item.layer.output_shape)
    same_numbers(Everything(), torch.randn(2, 3, 16, 16))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(7, 8)
        self.head = nn.Linear(8, 50, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(ids) + self.places(torch.arange(ids.shape[1])))


def test_token_ids_stay_within_the_vocabulary() -> None:
    ids = torch.randint(0, 50, (2, 7))
    ids[0, 0] = 49
    network = trace(Words().eval(), (ids,), name="net").network
    first = network.layers[0].layer
    assert example_inputs(first, 2, torch.float32)[0].dtype == torch.int64
    assert int(example_inputs(first, 2, torch.float32)[0].max()) < 50
    with torch.inference_mode():
        assert build_module(first)(*example_inputs(first, 2, torch.float32)).shape == (2, 7, 8)
    same_numbers(Words(), ids)


class Two(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = x * y
        return z.relu(), z.sum(1)


def test_several_inputs_and_outputs() -> None:
    found = trace(Two(), (torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)), name="net")
    assert [item.inputs for item in found.network.layers] == [("input", "input 1"), ("mul",), ("mul",)]


class Overwritten(nn.Module):
    """What is overwritten is read again: the later reader sees the new values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        z = y * 2
        y.relu_()
        return z + y


def test_overwriting_is_seen_by_later_readers_only() -> None:
    same_numbers(Overwritten(), torch.randn(2, 3, 4, 4))


def test_a_subgraph_runs_with_its_own_batch_only() -> None:
    layer = next(
        item.layer
        for item in traced(Attention(), 2, 5, 12).network.layers
        if isinstance(item.layer.nodes[0].op, Subgraph)
    )
    with pytest.raises(UsageError, match="traced with batch 2"):
        example_inputs(layer, 3, torch.float32)


class ByValue(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


class Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


@pytest.mark.parametrize(
    ("module", "message"),
    [(ByValue(), "depends on its input's values"), (Nothing(), "computes nothing from its input")],
)
def test_what_cannot_be_traced_says_why(module: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        traced(module, 2, 3, 4, 4)


def test_layers_survive_their_file_form() -> None:
    import msgspec

    layers = [item.layer for item in traced(Everything(), 2, 3, 16, 16).network.layers]
    again = msgspec.json.decode(msgspec.json.encode(layers), type=list[Layer])
    assert again == layers
    assert [layer.digest for layer in again] == [layer.digest for layer in layers]


def test_a_network_of_our_own_layers_is_traced_back_to_them() -> None:
    from search import ResNetCifar

    space = ResNetCifar()
    network = space.decode([3] * len(space.choices))
    found = traced(build_module(network.as_layer()), 2, 3, 32, 32)
    assert isinstance(found.network, Network)

    def counts(layers: Network) -> dict[Layer, int]:
        made: dict[Layer, int] = {}
        for item in layers.layers:
            made[item.layer] = made.get(item.layer, 0) + item.count
        return made

    mine, theirs = counts(network), counts(found.network)
    heavy = {layer: n for layer, n in mine.items() if layer.madds and "bn" in str(layer)}
    assert heavy.items() <= theirs.items()


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shuffle = nn.Conv2d(8, 12, 1, groups=2, bias=False), nn.ChannelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.channel_shuffle(self.shuffle(self.conv(x)).relu(), 3)


def test_a_shuffle_of_channels_is_a_layer_of_its_own() -> None:
    found = traced(Shuffled(), 2, 8, 4, 4)
    labels = [str(item.layer) for item in found.network.layers]
    assert labels == ["conv1×1 8→12 g2 @4×4", "shuffle g2 +relu @4×4", "shuffle g3 @4×4"]
    same_numbers(Shuffled(), torch.randn(2, 8, 4, 4))
    # Ours comes back as it was.
    layer = chain((12, 4, 4), ChannelShuffle(groups=3))
    assert [item.layer for item in traced(build_module(layer), 2, 12, 4, 4).network.layers] == [layer]


def test_a_network_of_two_inputs_is_one_layer_again() -> None:
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    network = trace(OneOfTwo().eval(), (x, y), name="net").network
    layer = network.as_layer()
    assert layer.inputs == ((3, 4, 4), (3, 4, 4))
    with torch.inference_mode():
        torch.testing.assert_close(build_module(layer)(x, y), OneOfTwo()(x, y))


class OneOfTwo(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x * y, 1) - y.relu()


class Parts(nn.Module):
    """Parts of tensors are overwritten, and the whole is read afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        y[:, 0] = y[:, 1]
        a, b = y.chunk(2, 1)
        a.relu_()
        return y + torch.cat([b, a], 1)


def test_overwriting_a_part_is_followed() -> None:
    same_numbers(Parts(), torch.randn(2, 3, 4, 4))


class WithoutGradient(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = x * 2
        return y.exp() + x


def test_a_block_without_gradients_is_no_obstacle() -> None:
    same_numbers(WithoutGradient(), torch.randn(2, 3, 4, 4))


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.exp(), torch.ones(3) * 2


def test_an_output_that_is_no_work_is_no_layer() -> None:
    found = traced(Constant(), 2, 3)
    assert [str(item.layer) for item in found.network.layers] == ["exp 3→3"]


class Timestep(nn.Module):
    """A side input with a number for each sample, as diffusion networks have, and an index that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Linear(4, 3), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        frequencies = torch.arange(4) * 0.5
        embedded = self.embed(torch.sin(t[:, None] * frequencies))
        order = torch.arange(3).flip(0)
        return self.conv(x)[:, order] + embedded[:, :, None, None]


def test_a_number_for_each_sample_is_a_constant_of_its_layers() -> None:
    x, t = torch.randn(2, 3, 4, 4), torch.tensor([3.0, 5.0])
    network = trace(Timestep().eval(), (x, t), name="net").network
    for item in network.layers:
        with torch.inference_mode():
            output = build_module(item.layer)(*example_inputs(item.layer, 2, torch.float32))
        assert tuple(output.shape) == (2, *item.layer.output_shape)


class Masked(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(5, 5, dtype=torch.bool).tril()
        for _ in range(2):
            x = functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)
        return x.to("cpu", torch.float32)


def test_a_mask_that_is_computed_keeps_its_values() -> None:
    same_numbers(Masked(), torch.randn(2, 5, 8))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.aux = nn.Linear(8, 4), nn.Linear(8, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.aux(x)
        return self.head(functional.dropout(x, 0.5, training=True))


def test_what_runs_is_never_said_to_be_no_work() -> None:
    found = traced(Unused(), 2, 8)
    assert found.idle == {"linear (unused)": 1}
    assert "dropout" in str(found.network.layers[0].layer)


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turns", torch.polar(torch.ones(4), torch.arange(4.0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.view_as_complex(x) * self.turns)


def test_complex_weights_are_refused_in_a_line() -> None:
    with pytest.raises(UsageError, match="complex64, which layers cannot hold"):
        traced(Rotary(), 2, 4, 2)

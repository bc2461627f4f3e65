"""Sweeps of a network's own layers: which are swept, over which widths, and why the others are not."""

from __future__ import annotations

import pytest

from lut import (
    ChannelCurve,
    Layer,
    LayerError,
    Network,
    NetworkLayer,
    Node,
    UsageError,
    chain,
    conv_norm_act,
    global_pool,
    linear,
    residual_add,
)
from lut.primitives import Activation, Add, BatchNorm2d, Concat, Conv2d, Flatten, LayerNorm, Linear
from lut.subgraph import Call, Given, Ref, Subgraph, Weight
from profiler._sweep import Sweep, sweep_curves


def conv(i: int, o: int, *, kernel: int = 3, size: int = 8, groups: int = 1) -> Layer:
    return conv_norm_act(i, o, kernel_size=kernel, stride=1, activation="relu", input_size=(size, size), groups=groups)


def network(*layers: Layer | NetworkLayer) -> Network:
    items = [
        layer if isinstance(layer, NetworkLayer) else NetworkLayer(f"l{i}", layer) for i, layer in enumerate(layers)
    ]
    return Network("net", tuple(items))


def only(sweep: Sweep) -> ChannelCurve:
    (curve,) = sweep.curves
    return curve


def why(sweep: Sweep, name: str) -> str:
    return dict(sweep.left_out)[name]


def test_a_layer_is_swept_once_over_all_its_widths() -> None:
    layer = conv(16, 17)
    sweep = sweep_curves(network(NetworkLayer("a", layer, count=2), NetworkLayer("b", layer)), expand=2.0)
    curve = only(sweep)
    assert (curve.name, curve.base_channels, curve.channels) == ("a", 17, tuple(range(1, 35)))
    assert curve.layers[16] == layer
    assert curve.layers[7] == conv(16, 8)
    assert sweep.left_out == ()


def test_what_follows_the_convolution_follows_its_width() -> None:
    ops = (Conv2d(out_channels=4, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0), bias=True), BatchNorm2d())
    curve = only(sweep_curves(network(chain((3, 4, 4), *ops, Activation(kind="relu"))), expand=1.0))
    assert [layer.output_shape for layer in curve.layers] == [(w, 4, 4) for w in (1, 2, 3, 4)]
    tokens = chain((7, 6), Linear(out_features=5, bias=True), LayerNorm())
    curve = sweep_curves(network(tokens, linear(5, 3, bias=True)), expand=1.0).curves[0]
    assert [layer.output_shape for layer in curve.layers] == [(7, w) for w in range(1, 6)]


def test_the_last_convolution_of_several_is_swept() -> None:
    one = Conv2d(out_channels=8, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0))
    several = chain((3, 4, 4), one, Activation(kind="relu"), one, BatchNorm2d())
    curve = only(sweep_curves(network(several), expand=1.0))
    assert {layer.shapes[1][0] for layer in curve.layers} == {8}


@pytest.mark.parametrize(
    ("expand", "widths"),
    [(1.0, range(1, 9)), (1.3, range(1, 11)), (0.5, (1, 2, 3, 4, 8)), (1 / 16, None), (0.25, (1, 2, 8))],
)
def test_expand_says_how_wide(expand: float, widths: range | tuple[int, ...] | None) -> None:
    sweep = sweep_curves(network(conv(4, 8)), expand=expand)
    if widths is None:
        assert sweep.curves == ()
        assert "fewer than 3 widths" in why(sweep, "l0")
    else:
        assert only(sweep).channels == tuple(widths)


def test_a_step_keeps_both_ends_and_the_layers_own_width() -> None:
    assert only(sweep_curves(network(conv(16, 17)), expand=2.0, step=8)).channels == (1, 8, 16, 17, 24, 32, 34)
    assert only(sweep_curves(network(conv(16, 17)), expand=2.0, step=1000)).channels == (1, 17, 34)


def test_depthwise_is_scaled_with_its_input() -> None:
    layer = conv(12, 12, groups=12)
    curve = only(sweep_curves(network(layer), expand=1.5))
    assert curve.channels == tuple(range(2, 19))
    assert layer in curve.layers
    for each in curve.layers:
        op = each.nodes[0].op
        assert isinstance(op, Conv2d)
        assert each.inputs[0][0] == op.groups == op.out_channels


def test_depthwise_behind_the_layers_own_convolution_takes_it_along() -> None:
    first = Conv2d(out_channels=8, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0))
    second = Conv2d(out_channels=8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=8)
    layer = chain((3, 4, 4), first, BatchNorm2d(), second, BatchNorm2d())
    curve = only(sweep_curves(network(layer), expand=1.0))
    assert [each.shapes[1][0] for each in curve.layers] == list(curve.channels) == list(range(2, 9))
    assert {each.inputs for each in curve.layers} == {((3, 4, 4),)}


def test_groups_divide_every_width() -> None:
    curve = only(sweep_curves(network(conv(8, 12, groups=4)), expand=2.0))
    assert curve.channels == (4, 8, 12, 16, 20, 24)
    # Two outputs for each input: as wide as its input, it is depthwise, and still of the family.
    assert only(sweep_curves(network(conv(4, 8, groups=4)), expand=2.0)).channels == (4, 8, 12, 16)


def test_families_of_convolutions() -> None:
    assert conv(8, 8, groups=8).family == conv(24, 24, groups=24).family
    assert conv(8, 8, groups=8).family != conv(8, 8).family
    assert conv(8, 8, groups=4).family != conv(8, 8, groups=2).family
    assert conv(1, 1).family == conv(1, 2).family == conv(7, 3).family
    with pytest.raises(LayerError, match="output channels only"):
        ChannelCurve("c", 8, (conv(8, 8, groups=8), conv(8, 16, groups=4)))


def test_the_classifier_keeps_its_classes() -> None:
    sweep = sweep_curves(network(linear(8, 20, bias=True), linear(20, 10, bias=True)), expand=1.0)
    assert only(sweep).name == "l0"
    assert why(sweep, "l1") == "its width is that of the network's output"


def test_a_classifier_is_one_though_something_follows() -> None:
    softmax = Subgraph(
        framework="torch",
        batch=1,
        inputs=(Given(shape=(10,)),),
        weights=(),
        calls=(Call("aten.softmax.int", (Ref("value", 0), 1)),),
        output=(10,),
    )
    last = Layer(inputs=((10,),), nodes=(Node(softmax, (0,)),))
    sweep = sweep_curves(
        network(conv(3, 8), global_pool(8, input_size=(8, 8)), linear(8, 10, bias=True), last), expand=1
    )
    assert [curve.name for curve in sweep.curves] == ["l0"]
    # What has no width of its own is not spoken of.
    assert [name for name, _ in sweep.left_out] == ["l2"]


def test_two_outputs_are_two_classifiers() -> None:
    sweep = sweep_curves(
        network(
            NetworkLayer("body", linear(8, 20, bias=True)),
            NetworkLayer("one", linear(20, 10, bias=True), inputs=("body",)),
            NetworkLayer("two", linear(20, 4, bias=True), inputs=("body",)),
        ),
        expand=1.0,
    )
    assert [curve.name for curve in sweep.curves] == ["body"]
    assert [name for name, _ in sweep.left_out] == ["one", "two"]


def unet_decoder(*behind: Layer) -> Network:
    """Return the last layers of a U-Net: a skip's concatenation, a convolution, a head of three classes."""
    cat = Layer(inputs=((8, 8, 8), (8, 8, 8)), nodes=(Node(Concat(), (0, 1)),))
    head = chain((8, 8, 8), Conv2d(out_channels=3, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0), bias=True))
    return network(
        NetworkLayer("down", conv(3, 8), inputs=("input",)),
        NetworkLayer("up", conv(8, 8), inputs=("down",)),
        NetworkLayer("cat", cat, inputs=("up", "down")),
        NetworkLayer("last", conv(16, 8), inputs=("cat",)),
        NetworkLayer("head", head, inputs=("last",)),
        *(NetworkLayer(f"behind{i}", layer) for i, layer in enumerate(behind)),
    )


@pytest.mark.parametrize("behind", [(), (chain((3, 8, 8), Activation(kind="sigmoid")),)])
def test_a_convolution_that_gives_the_networks_output_keeps_its_classes(behind: tuple[Layer, ...]) -> None:
    sweep = sweep_curves(unet_decoder(*behind), expand=1.0)
    assert [curve.name for curve in sweep.curves] == ["down", "up", "last"]
    assert why(sweep, "head") == "its width is that of the network's output"


def test_the_last_layer_of_a_backbone_is_swept() -> None:
    sweep = sweep_curves(network(conv(3, 8), conv(8, 16)), expand=1.0)
    assert [curve.name for curve in sweep.curves] == ["l0", "l1"]


def test_what_cannot_be_swept_says_why() -> None:
    held = Subgraph(
        framework="torch",
        batch=1,
        inputs=(Given(shape=(8, 8, 8)),),
        weights=(Weight(shape=(4, 8)),),
        calls=(Call("aten.einsum.default", (Ref("value", 0), Ref("value", 1))),),
        output=(8, 8, 8),
        multiply_adds=100,
    )
    one = Conv2d(out_channels=8, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0))
    image = (8, 8, 8)
    sweep = sweep_curves(
        network(
            Layer(inputs=(image,), nodes=(Node(held, (0,)),)),
            Layer(inputs=(image, image), nodes=(Node(one, (0,)), Node(Add(), (1, 2)))),
            Layer(inputs=(image,), nodes=(Node(one, (0,)), Node(Add(), (0, 1)))),
            chain(image, one, BatchNorm2d(), Flatten()),
            residual_add(8, activation=None, input_size=(8, 8)),
        ),
        expand=2.0,
    )
    assert sweep.curves == ()
    assert [name for name, _ in sweep.left_out] == ["l0", "l1", "l2", "l3"]
    assert "as the framework wrote them" in why(sweep, "l0")
    assert why(sweep, "l1") == "it has several inputs"
    assert "no other widths" in why(sweep, "l2")
    assert "not as wide as" in why(sweep, "l3")


def test_a_bound_on_the_layers_is_held() -> None:
    layers = [conv(16, 64), conv(64, 96), conv(96, 96, groups=96), conv(96, 100), conv(100, 128, groups=4)]
    whole = sweep_curves(network(*layers), expand=2.0)
    total = len(whole.layers)
    for bound in (total, total - 1, 300, 100, 60, 40):
        sweep = sweep_curves(network(*layers), expand=2.0, most_layers=bound)
        assert 0 < len(sweep.layers) <= bound
        for curve, layer in zip(sweep.curves, layers, strict=False):
            own = curve.base_channels
            assert layer in curve.layers or bound < 60
            if curve.name in ("l0", "l1", "l2", "l3"):
                assert {own - 1, own, own + 1, (own - 1) // 8 * 8, (own + 8) // 8 * 8} <= set(curve.channels)
            elif curve.name == "l4":
                assert {own - 4, own, own + 4, own - 8, own + 8} <= set(curve.channels)
    assert sweep_curves(network(*layers), expand=2.0, most_layers=total) == whole
    # As fine as fits: the step before would be too many.
    sweep = sweep_curves(network(conv(16, 64)), expand=2.0, most_layers=40)
    assert set(range(4, 129, 4)) <= set(only(sweep).channels)


def test_where_even_the_coarsest_is_too_much_the_most_work_is_swept() -> None:
    small, large = conv(4, 8), conv(64, 64)
    sweep = sweep_curves(network(small, large, NetworkLayer("again", large)), expand=2.0, most_layers=8)
    assert [curve.name for curve in sweep.curves] == ["l1"]
    assert "more than 8 layers" in why(sweep, "l0")
    for bound in (0, 2):
        none = sweep_curves(network(small, large), expand=2.0, most_layers=bound)
        assert none.curves == none.layers == ()
        assert [name for name, _ in none.left_out] == ["l0", "l1"]


def test_layers_of_one_kind_share_their_widths() -> None:
    sweep = sweep_curves(network(conv(16, 24), conv(16, 32)), expand=1.0, most_layers=32)
    assert [len(curve.layers) for curve in sweep.curves] == [24, 32]
    assert len(sweep.layers) == 32


def test_nothing_to_sweep() -> None:
    assert sweep_curves(Network("empty", ()), expand=1.0, most_layers=3) == Sweep((), ())
    assert sweep_curves(network(conv(1, 1)), expand=2.0).curves == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expand": 0.05}, "expand must be between"),
        ({"expand": 17.0}, "expand must be between"),
        ({"expand": float("nan")}, "expand must be between"),
        ({"expand": 2.0, "step": 0}, "step must be at least 1"),
        ({"expand": 2.0, "most_layers": -1}, "cannot hold -1 layers"),
    ],
)
def test_senseless_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sweep_curves(network(conv(4, 8)), **arguments)  # type: ignore[arg-type]

"""Training: the recipe's numbers, seeds, a teacher, a run that is killed, and weights in files."""

from __future__ import annotations

import itertools
import math
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from lut import Network, NetworkLayer, chain, conv_norm_act, residual_add
from lut.errors import CheckpointError, FileAccessError, SearchError, UsageError
from lut.primitives import Activation, Conv2d, Plain
from search import ResNetCifar
from search._data._images import ImageData, load_data, subset
from search._training._checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from search._training._recipe import Recipe, learning_rate
from search._training._train import (
    Trained,
    TrainProgress,
    _identity,
    distillation_loss,
    epoch_generator,
    evaluate,
    train,
)
from search._training._weights import build_network, load_network_weights, load_weights, network_weights, save_weights

SHORT = Recipe(epochs=3, warmup_epochs=1, batch_size=32, lr=0.05)


def tiny(seed: int = 0, *, outputs: int = 10) -> nn.Module:
    """Return a network that learns digits in seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(128, outputs),
        )


def digits(count: int = 100) -> ImageData:
    return subset(load_data("digits"), train=count, test=50, seed=0)


def equal(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules' weights and statistics agree to the bit."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe()
    assert recipe.total_epochs == 305
    expected = {0: 0, 1: 0.02, 2.5: 0.05, 5: 0.1, 80: 0.1 * (1 + math.sqrt(0.5)) / 2, 155: 0.05, 305: 0, 400: 0}
    for epoch, lr in expected.items():
        assert learning_rate(recipe, epoch) == pytest.approx(lr, abs=1e-12)
    steps = Recipe(epochs=10, warmup_epochs=2, lr=1.0, schedule="multi-step", milestones=(0.5, 0.8), gamma=0.1)
    expected = {1: 0.5, 2: 1, 6.9: 1, 7: 0.1, 9.9: 0.1, 10: 0.01, 12: 0.01}
    for epoch, lr in expected.items():
        assert learning_rate(steps, epoch) == pytest.approx(lr)
    assert learning_rate(Recipe(warmup_epochs=0), 0) == 0.1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("warmup_epochs", -1),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", "0.1"),
        ("momentum", 1.0),
        ("momentum", 0.0),
        ("weight_decay", -1e-4),
        ("schedule", "linear"),
        ("milestones", (0.5, 0.5)),
        ("milestones", (0.5, 1.0)),
        ("milestones", (math.nan,)),
        ("gamma", 0.0),
        ("label_smoothing", 1.0),
        ("cutout", 33),
        ("crop", -1),
        ("precision", "float64"),
        ("distill_alpha", 1.1),
        ("distill_temperature", 0.0),
    ],
)
def test_a_recipe_out_of_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        Recipe(**{name: value})


def test_a_recipe_is_json() -> None:
    recipe = Recipe(schedule="multi-step", milestones=(0.3, 0.6), cutout=16)
    assert msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe) == recipe
    with pytest.raises(msgspec.ValidationError, match="epochs must be a whole number between 1 and"):
        msgspec.json.decode(b'{"epochs": 0}', type=Recipe)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"epoch": 1}', type=Recipe)


def test_the_distillation_loss_by_hand() -> None:
    logits, teacher, labels = [[2.0, 0.0], [0.0, 1.0]], [[1.0, -1.0], [0.5, 0.0]], [0, 0]
    alpha, temperature = 0.7, 2.0

    def softmax(row: list[float], t: float) -> list[float]:
        powers = [math.exp(value / t) for value in row]
        return [power / sum(powers) for power in powers]

    hard = [-math.log(softmax(row, 1)[label]) for row, label in zip(logits, labels, strict=True)]
    soft = [
        sum(p * math.log(p / q) for p, q in zip(softmax(t, temperature), softmax(s, temperature), strict=True))
        for s, t in zip(logits, teacher, strict=True)
    ]
    expected = (1 - alpha) * sum(hard) / 2 + alpha * temperature**2 * sum(soft) / 2
    student = torch.tensor(logits, requires_grad=True)
    taught = torch.tensor(teacher, requires_grad=True)
    loss = distillation_loss(student, taught, torch.tensor(labels), alpha=alpha, temperature=temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert student.grad is not None
    assert taught.grad is None
    plain = distillation_loss(student, taught, torch.tensor(labels), alpha=0, temperature=1, label_smoothing=0.1)
    smooth = nn.functional.cross_entropy(student, torch.tensor(labels), label_smoothing=0.1)
    assert plain.item() == pytest.approx(smooth.item())


def test_an_epoch_draws_by_seed_phase_and_number() -> None:
    def draw(*key: Any) -> list[float]:
        return torch.rand(3, generator=epoch_generator(*key)).tolist()

    keys = [
        (0, "train", 0),
        (0, "train", 1),
        (1, "train", 0),
        (0, "weights", 0),
        (-1, "train", 0),
        (10**30, "train", 0),
    ]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    assert draw(0, "train", 0) == draw(0, "train", 0)


def test_digits_are_learnt_and_seeds_repeat() -> None:
    data = digits(400)
    before = torch.random.get_rng_state()
    seen: list[TrainProgress] = []
    recipe = msgspec.structs.replace(SHORT, epochs=6, crop=2)
    first, second, third = tiny(), tiny(), tiny()
    result = train(first, data, recipe, seed=1, progress=seen.append)
    again = train(second, data, recipe, seed=1, evaluate_every=3)
    train(third, data, recipe, seed=2)
    assert equal(first, second)
    assert not equal(first, third)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not first.training
    assert [epoch.epoch for epoch in result.epochs] == list(range(1, 8))
    assert result.test_accuracy == result.epochs[-1].test_accuracy == evaluate(first, data) > 0.7
    assert result.epochs[-1].loss < result.epochs[0].loss
    assert result.epochs[-1].train_accuracy > result.epochs[0].train_accuracy
    # 13 batches of 32 images, the last of 16.
    assert result.epochs[0].lr == pytest.approx(0.05 * 12 * 32 / 400)
    assert [math.isnan(e.test_accuracy) for e in again.epochs] == [True, True, False, True, True, False, False]
    assert all(a.share <= b.share and a.elapsed_s <= b.elapsed_s for a, b in itertools.pairwise(seen))
    assert seen[-1].share == 1.0
    assert seen[-1].left_s == 0.0
    assert seen[-1].test_accuracy == result.test_accuracy
    assert {p.epochs for p in seen} == {7}


def test_other_precisions_and_layouts_learn_too() -> None:
    data = digits(400)
    recipe = msgspec.structs.replace(SHORT, precision="bfloat16", channels_last=True, cutout=8, label_smoothing=0.1)
    module = tiny()
    result = train(module, data, recipe, seed=1)
    assert result.test_accuracy > 0.4
    assert {tensor.dtype for tensor in module.parameters()} == {torch.float32}
    assert evaluate(module, data, recipe=recipe, batch_size=7) == result.test_accuracy
    with pytest.raises(UsageError, match="float16 is for CUDA"):
        train(module, data, Recipe(precision="float16"), seed=1)


def test_a_teacher_teaches_and_learns_nothing() -> None:
    data = digits()
    teacher = tiny(5).train()
    weights = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    alone, taught = tiny(), tiny()
    train(alone, data, SHORT, seed=0)
    train(taught, data, SHORT, seed=0, teacher=teacher)
    assert not equal(alone, taught)
    assert all(torch.equal(weights[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    # With the whole loss the labels', a teacher changes nothing.
    without = tiny()
    train(without, data, msgspec.structs.replace(SHORT, distill_alpha=0.0), seed=0, teacher=teacher)
    assert equal(alone, without)


def test_a_loss_that_is_no_number_ends_it() -> None:
    with pytest.raises(SearchError, match="NaN or infinite in epoch 1 of 3: train with a lower lr than 100"):
        train(tiny(), digits(), Recipe(epochs=3, warmup_epochs=0, batch_size=8, lr=100.0, weight_decay=1.0), seed=0)


def test_a_network_must_fit_the_data() -> None:
    with pytest.raises(UsageError, match=r"the data has 10 classes, and the network gives an output of shape \(1, 7\)"):
        train(tiny(outputs=7), digits(), SHORT, seed=0)
    with pytest.raises(UsageError, match="10 classes"):
        evaluate(tiny(outputs=7), digits())
    with pytest.raises(UsageError, match="the data has 10 classes"):
        train(tiny(), digits(), SHORT, seed=0, teacher=tiny(outputs=7))


KILLED = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
sys.path.insert(0, sys.argv[3])
from test_training import SHORT, digits, tiny
from search._training._train import train

module, calls = tiny(), 0

def stop_in_the_middle(*_):
    global calls
    calls += module.training
    if calls == 2 * 4 + 3:
        print("in the middle of the third epoch", flush=True)
        time.sleep(600)

module.register_forward_pre_hook(stop_in_the_middle)
train(module, digits(), SHORT, seed=3, checkpoint=Path(sys.argv[1]), run="me")
"""


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "made" / "run.safetensors"
    arguments = [str(path), str(torch.get_num_threads()), str(Path(__file__).parent)]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as child:
        try:
            assert child.stdout is not None
            assert "third epoch" in child.stdout.readline()
        finally:
            child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    data = digits()
    whole, resumed = tiny(), tiny(9)
    expected = train(whole, data, SHORT, seed=3)
    seen: list[TrainProgress] = []
    result = train(resumed, data, SHORT, seed=3, checkpoint=path, run="me", progress=seen.append)
    assert equal(whole, resumed)
    assert [epoch[:5] for epoch in result.epochs] == [epoch[:5] for epoch in expected.epochs]
    assert seen[0].share > 0.5
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    # What is done is done: the same call once more trains nothing.
    once_more = tiny(9)
    assert train(once_more, data, SHORT, seed=3, checkpoint=path, run="me") == result
    assert equal(whole, once_more)
    assert not once_more.training


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    recipe = msgspec.structs.replace(SHORT, epochs=1, warmup_epochs=0)

    def go(teacher: nn.Module) -> Trained:
        return train(tiny(), digits(), recipe, seed=0, teacher=teacher, checkpoint=path)

    done = go(tiny(5))
    # The same one, wherever it lies in memory and whatever mode it was left in.
    assert go(tiny(5).eval().to(memory_format=torch.channels_last)) == done  # type: ignore[call-overload]
    others = [tiny(6), tiny(5)]
    with torch.no_grad():
        # Of a norm's statistics, which are no parameters.
        others[1].get_buffer("1.running_var")[3] += 0.5
    for other in others:
        with pytest.raises(CheckpointError, match=r"belongs to another run.*--restart"):
            go(other)


IDENTITY = "28804d72a20a9d01e5c37bf813792767f5089b76bce724af9b3304dc0c64f13d"


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    data = digits()
    recipe = msgspec.structs.replace(SHORT, epochs=1, warmup_epochs=0)

    def go(module: nn.Module | None = None, **changed: Any) -> None:
        given = {"data": data, "recipe": recipe, "seed": 0, "run": "a", **changed}
        train(module if module is not None else tiny(), checkpoint=path, **given)

    # As it was in earlier versions, whose checkpoints go on.
    assert _identity(tiny(), data, SHORT, 0, None, "a") == IDENTITY
    go()
    go()
    wider = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    others: list[Callable[[], None]] = [
        lambda: go(run="b"),
        lambda: go(seed=1),
        lambda: go(recipe=SHORT),
        lambda: go(data=digits(110)),
        lambda: go(teacher=tiny()),
        lambda: go(wider),
    ]
    for other in others:
        with pytest.raises(CheckpointError, match=r"belongs to another run.*--restart"):
            other()
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:-1] + bytes([content[-1] ^ 1]), content[:40], b"{}" * 100):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            go()
    path.unlink()
    path.mkdir()
    with pytest.raises(FileAccessError):
        go()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FileAccessError):
        train(tiny(), data, recipe, seed=0, checkpoint=file / "run.safetensors")


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_optimizers_go_on_where_they_were(kind: str, tmp_path: Path) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        module = nn.Linear(3, 2)
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
        if kind == "sgd":
            return module, torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        return module, torch.optim.Adam(module.parameters(), lr=0.1)

    def step(module: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        module(torch.full((1, 3), float(number))).square().sum().backward()
        optimizer.step()

    whole = make()
    for number in range(5):
        step(*whole, number)
    half = make()
    for number in range(3):
        step(*half, number)
    path = tmp_path / "state"
    tensors = {f"w.{k}": v for k, v in half[0].state_dict().items()} | optimizer_tensors(half[1], "o")
    save_checkpoint(path, run="r", epoch=3, tensors=tensors, values={"history": [1, "x", None]})
    found = load_checkpoint(path, run="r")
    assert found is not None
    assert (found.epoch, found.values) == (3, {"history": [1, "x", None]})
    module, optimizer = make()
    module.load_state_dict({k[2:]: v for k, v in found.tensors.items() if k.startswith("w.")})
    restore_optimizer(optimizer, "o", found.tensors)
    for number in range(3, 5):
        step(module, optimizer, number)
    assert equal(module, whole[0])
    other = torch.optim.Adam(nn.Linear(4, 2).parameters())
    with pytest.raises(CheckpointError, match="of no parameter"):
        restore_optimizer(other, "o", found.tensors)
    assert load_checkpoint(tmp_path / "none", run="r") is None


def resnet(seed: int = 0) -> Network:
    space = ResNetCifar(depth=20)
    rng = random.Random(seed)
    return space.decode([rng.randrange(min(8, len(decision.options))) for decision in space.choices])


def test_a_network_has_fresh_weights_by_its_seed() -> None:
    network = resnet()
    before = torch.random.get_rng_state()
    first, second, third = (build_network(network, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert equal(first, second)
    assert not equal(first, third)
    assert first.training
    weights = network_weights(network, first)
    assert sum(p.numel() for p in first.parameters()) == network.parameters
    kernels = [tensor for name, tensor in weights.items() if name.endswith("conv.weight")]
    # He et al.: the deviation of a convolution's weights is √(2 / (outputs · kernel area)).
    scaled = torch.cat([(w * math.sqrt(w.shape[0] * w[0, 0].numel() / 2)).flatten() for w in kernels])
    assert scaled.std().item() == pytest.approx(1, abs=0.05)
    assert scaled.mean().item() == pytest.approx(0, abs=0.05)
    assert weights["classifier.linear.weight"].std().item() == pytest.approx(0.01, rel=0.3)
    assert not weights["classifier.linear.bias"].any()
    norms = {name: tensor for name, tensor in weights.items() if ".norm." in name}
    expected = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
    for name, tensor in norms.items():
        assert (tensor == expected[name.rpartition(".")[2]]).all()


def test_weights_go_by_the_layers_names(tmp_path: Path) -> None:
    network = resnet()
    module = build_network(network, seed=1)
    data = digits()
    train(module, data, msgspec.structs.replace(SHORT, epochs=1), seed=0)
    weights = network_weights(network, module)
    assert {"stem.conv.weight", "stage1.block1.conv1.norm.running_mean", "stage2.block1.shortcut.conv.weight"} < set(
        weights
    )
    assert {name.partition(".")[0] for name in weights} == {"stem", "stage1", "stage2", "stage3", "classifier"}
    other = build_network(network, seed=2)
    load_network_weights(network, other, {name: tensor.clone() for name, tensor in weights.items()})
    assert equal(module, other)
    path = tmp_path / "weights.safetensors"
    save_weights(path, network, module)
    loaded = load_weights(path, network)
    assert not loaded.training
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), module(images))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: these weights are not of network"):
        load_weights(path, resnet(1))
    with pytest.raises(FileAccessError, match="no such file"):
        load_weights(tmp_path / "none", network)
    save_checkpoint(path, run="r", epoch=0, tensors=weights, values={})
    with pytest.raises(CheckpointError, match="is not a file of weights"):
        load_weights(path, network)
    save_weights(path, network, module)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_checkpoint(path, run="r")


def layer_by_layer(network: Network, weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Run a network one layer at a time, each by itself with the weights that are named after it."""
    outputs = {"input": images}
    before = "input"
    for item in network.layers:
        inputs = ("input", "input 1")[: len(item.layer.inputs)]
        lone = Network("lone", (NetworkLayer(item.name, item.layer, inputs=inputs),))
        module = build_network(lone, seed=0).eval()
        names = network_weights(lone, module)
        load_network_weights(lone, module, {name: weights[name] for name in names})
        with torch.no_grad():
            outputs[item.name] = module(*[outputs[source] for source in item.inputs or (before,)])
        before = item.name
    return outputs[before]


def test_weights_are_named_after_the_layer_that_they_are_of() -> None:
    """Operators stand in another order in the whole network than in its layers, and in each network in another."""
    conv = conv_norm_act(3, 3, kernel_size=3, stride=1, activation="relu", input_size=(32, 32))
    add = residual_add(3, activation=None, input_size=(32, 32))
    alike = (
        NetworkLayer("stem", conv),
        NetworkLayer("z", conv, inputs=("stem",)),
        NetworkLayer("y", conv, inputs=("stem",)),
        NetworkLayer("sum", add, inputs=("y", "z")),
        NetworkLayer("x", conv, inputs=("z",)),
        NetworkLayer("end", add, inputs=("sum", "x")),
    )
    for network in (*map(resnet, range(4)), Network("alike", alike)):
        module = build_network(network, seed=1)
        images = torch.randn(3, 3, 32, 32)
        # Statistics of their own for each norm.
        module(images)
        weights = network_weights(network, module.eval())
        with torch.no_grad():
            torch.testing.assert_close(module(images), layer_by_layer(network, weights, images), atol=1e-5, rtol=1e-4)


def test_weights_that_do_not_fit_are_refused_whole() -> None:
    network = resnet()
    module = build_network(network, seed=1)
    good = {name: tensor + 1 for name, tensor in network_weights(network, module).items()}
    for change, message in (
        ({"classifier.linear.bias": None}, "missing: classifier.linear.bias"),
        ({"classifier.linear.scale": torch.ones(1)}, "unexpected: classifier.linear.scale"),
        ({"classifier.linear.bias": torch.ones(3)}, r"classifier.linear.bias is \(3,\) and must be \(10,\)"),
    ):
        bad = {name: tensor for name, tensor in (good | change).items() if tensor is not None}
        with pytest.raises(CheckpointError, match=message):
            load_network_weights(network, module, bad)
        assert equal(module, build_network(network, seed=1))
    with pytest.raises(UsageError, match="the module is not one of network"):
        network_weights(network, nn.ModuleDict({"a": nn.Linear(1, 1)}))


def test_repeated_layers_have_numbers() -> None:
    layer = conv_norm_act(3, 3, kernel_size=3, stride=1, activation="relu", input_size=(8, 8))
    network = Network("n", (NetworkLayer("once", layer), NetworkLayer("twice", layer, count=2)))
    names = {name for name in network_weights(network, build_network(network, seed=0)) if name.endswith("conv.weight")}
    assert names == {"once.conv.weight", "twice.0.conv.weight", "twice.1.conv.weight"}
    double = Network("n", (NetworkLayer("a", layer), NetworkLayer("a", layer)))
    with pytest.raises(UsageError, match=r"two layers of the same name: a\.conv\.weight"):
        network_weights(double, build_network(double, seed=0))


def test_a_note_on_layouts_is_no_module_and_keeps_its_networks_weights(tmp_path: Path) -> None:
    """A network out of an ONNX file, trained: names and weights are those of its operators."""
    conv = Conv2d(out_channels=6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=3)
    relu = Activation(kind="relu")
    noted = chain((6, 8, 8), Plain(), conv, relu, Plain()), chain((6, 8, 8), Plain(), conv)
    bare = chain((6, 8, 8), conv, relu), chain((6, 8, 8), conv)
    networks = [
        Network("net", (NetworkLayer("one", layers[0], count=2), NetworkLayer("two", layers[1])))
        for layers in (noted, bare)
    ]
    assert networks[0].as_layer() == networks[1].as_layer()
    module, other = (build_network(network, seed=3) for network in networks)
    assert list(network_weights(networks[0], module)) == list(network_weights(networks[1], other))
    save_weights(tmp_path / "weights.safetensors", networks[0], module)
    again = load_weights(tmp_path / "weights.safetensors", networks[0])
    x = torch.randn(1, 6, 8, 8)
    with torch.inference_mode():
        assert torch.equal(module.eval()(x), again(x))
        assert torch.equal(module(x), other.eval()(x))

"""The CPU target: the right work, the right settings, errors that stay with their layer."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
import torch
from conftest import conv
from torch.nn import functional

from lut import Layer, Node, UsageError, chain, pooled_shortcut, residual_add
from lut.errors import LayerFailedError
from lut.primitives import (
    Activation,
    Add,
    BatchNorm2d,
    ChannelShuffle,
    Concat,
    Conv2d,
    GlobalAvgPool2d,
    MaxPool2d,
    Mul,
)
from profiler import CpuTarget, build_module
from search import ResNetCifar


@pytest.fixture(autouse=True)
def _own_process_settings() -> Iterator[None]:
    """Undo what a CPU target does to its process, which here is that of all other tests."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)
    if cpus is not None:
        os.sched_setaffinity(0, cpus)


@pytest.fixture
def target() -> CpuTarget:
    return CpuTarget(batch=2, threads=1)


@pytest.mark.parametrize("layer", ResNetCifar(expand=0.25).layers()[::3], ids=str)
def test_every_layer_of_the_space_gives_its_shape(target: CpuTarget, layer: Layer) -> None:
    prepared = target.prepare(layer, 0)
    with torch.inference_mode():
        output = prepared.module(*prepared.inputs)
    assert tuple(output.shape) == (2, *layer.output_shape)
    assert torch.isfinite(output).all()
    assert target.run(prepared, 2) > 0


def test_modules_have_the_layers_parameters() -> None:
    for layer in ResNetCifar(expand=0.5).layers()[::7]:
        assert sum(p.numel() for p in build_module(layer).parameters()) == layer.parameters


def test_conv_norm_act_is_what_it_says() -> None:
    module = build_module(conv(8))
    x = torch.randn(2, 16, 32, 32)
    weights, norm = module[0].weight, module[1]  # type: ignore[index]
    expected = functional.conv2d(x, weights, padding=1)
    expected = functional.batch_norm(expected, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()
    assert torch.allclose(module(x), expected, atol=1e-5)


def test_graphs_are_wired_as_described() -> None:
    shape = (4, 6, 6)
    one = Conv2d(out_channels=4, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0))
    gate = Layer(
        (shape,),
        (Node(GlobalAvgPool2d(), (0,)), Node(one, (1,)), Node(Activation(kind="sigmoid"), (2,)), Node(Mul(), (0, 3))),
    )
    x = torch.randn(2, *shape)
    module = build_module(gate)
    weights = next(module.parameters())
    expected = x * functional.conv2d(x.mean((2, 3), keepdim=True), weights).sigmoid()
    assert torch.allclose(module(x), expected, atol=1e-6)
    added = build_module(residual_add(4, activation="relu", input_size=(6, 6)))
    assert torch.equal(added(x, -2 * x), (-x).relu())
    joined = build_module(Layer((shape, shape), (Node(Concat(), (0, 1)),)))
    assert joined(x, x).shape == (2, 8, 6, 6)
    pooled = build_module(chain(shape, MaxPool2d(kernel_size=(2, 2), stride=(2, 2))))
    assert torch.equal(pooled(x), functional.max_pool2d(x, 2))
    shortcut = build_module(pooled_shortcut(4, 8, input_size=(6, 6)))
    assert shortcut(x).shape == (2, 8, 3, 3)
    normed = build_module(Layer((shape, shape), (Node(BatchNorm2d(), (0,)), Node(Add(), (2, 1)))))
    assert normed(x, x).shape == x.shape


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_shuffle_transposes_channels_in_their_groups(memory_format: torch.memory_format) -> None:
    module = build_module(chain((12, 5, 7), ChannelShuffle(groups=3)))
    x = torch.randn(2, 12, 5, 7).contiguous(memory_format=memory_format).requires_grad_()
    order = [4 * group + position for position in range(4) for group in range(3)]
    got, direction = module(x), torch.randn(2, 12, 5, 7)
    assert torch.equal(got, x[:, order])
    # The data's layout is the next layer's, too.
    assert got.is_contiguous(memory_format=memory_format)
    (slope,) = torch.autograd.grad((got * direction).sum(), x)
    assert torch.equal(slope[:, order], direction)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_settings_reach_the_data(dtype: str, memory_format: str) -> None:
    target = CpuTarget(batch=3, threads=1, dtype=dtype, memory_format=memory_format)
    prepared = target.prepare(conv(8), 0)
    target.relocate(prepared, random.Random(1))
    x = prepared.inputs[0]
    assert x.dtype == getattr(torch, dtype)
    assert x.shape == (3, 16, 32, 32)
    assert x.is_contiguous(memory_format=torch.channels_last) == (memory_format == "channels_last")
    assert prepared.weights[0].is_contiguous(memory_format=torch.channels_last) == (memory_format == "channels_last")
    assert target.run(prepared, 1) > 0
    _, setting, software = target.describe()
    assert (setting.dtype, setting.memory_format, setting.batch) == (dtype, memory_format, 3)
    assert "allocator" in software.details


def test_relocation_moves_the_data_and_keeps_its_values(target: CpuTarget) -> None:
    prepared = target.prepare(conv(8), 0)
    rng = random.Random(0)
    addresses, outputs = set(), []
    for _ in range(8):
        target.relocate(prepared, rng)
        addresses.add((prepared.inputs[0].data_ptr() % 4096, prepared.weights[0].data_ptr() % 4096))
        assert prepared.inputs[0].data_ptr() % 64 == 0
        with torch.inference_mode():
            outputs.append(prepared.module(*prepared.inputs))
    assert len(addresses) > 5
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_a_layer_larger_than_memory_is_refused_before_it_hurts(target: CpuTarget) -> None:
    huge = chain((4096, 4096, 4096), Activation(kind="relu"))
    with pytest.raises(LayerFailedError, match="GiB of memory") as caught:
        target.prepare(huge, 0)
    assert caught.value.reason == "out_of_memory"


def test_what_the_runtime_raises_becomes_a_failure(target: CpuTarget) -> None:
    prepared = target.prepare(conv(8), 0)
    for error, reason in (
        (RuntimeError("shapes do not fit\nsecond line"), "error"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), "out_of_memory"),
        (MemoryError("no more"), "out_of_memory"),
        (NotImplementedError("not for Half"), "error"),
    ):

        def fail(_: object, error: Exception = error) -> None:
            raise error

        prepared.call = fail  # type: ignore[assignment]
        with pytest.raises(LayerFailedError) as caught:
            target.run(prepared, 1)
        assert caught.value.reason == reason
        assert "\n" not in str(caught.value)


def test_the_kernel_is_named_where_onednn_runs_it() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    target = CpuTarget(batch=16, threads=1)
    kernel = target.implementation(target.prepare(conv(16), 0))
    assert kernel is not None
    assert "convolution" in kernel


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"dtype": "int3"}, {"threads": 0}, {"threads": 9999}, {"memory_format": "rows"}]
)
def test_senseless_options(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        CpuTarget(**options)  # type: ignore[arg-type]


def test_what_fails_while_data_are_moved_is_the_layers_failure(
    target: CpuTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = target.prepare(conv(8), 0)

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nsecond line")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(LayerFailedError) as caught:
        target.relocate(prepared, random.Random(0))
    assert caught.value.reason == "out_of_memory"
    assert "\n" not in str(caught.value)

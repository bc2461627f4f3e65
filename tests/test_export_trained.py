"""Trained networks as files: an ONNX file computes what PyTorch does, a Core ML package holds the module's weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from conftest import onnx_session
from torch import nn

from lut import Network, NetworkLayer, UsageError, linear
from lut.errors import ProfileError, TargetUnavailableError
from profiler import _export, build_module
from profiler._export import export_bundle, export_trained
from search import ResNetCifar

BATCH = 2


@pytest.fixture(scope="module")
def network() -> Network:
    """A small network with every kind of block: projections, strides, identities."""
    space = ResNetCifar(depth=8)
    vector = [(5 * i + 3) % len(decision.options) for i, decision in enumerate(space.choices)]
    return msgspec.structs.replace(space.decode(vector), name="winner 1")


def trained(network: Network) -> nn.Module:
    """Return the network's module as a training leaves it: other weights, other statistics, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = build_module(network.as_layer()).train()
        with torch.no_grad():
            for _ in range(3):
                module(torch.randn(8, 3, 32, 32))
    return module


class ByHand(nn.Module):
    """The network from its layers' modules one by one, each registered in the order that ``order`` says."""

    def __init__(self, network: Network, order: int = 1) -> None:
        super().__init__()
        self.items = network.layers
        self.layers = nn.ModuleDict({item.name.replace(".", "_"): build_module(item.layer) for item in network.layers})
        self.blocks = nn.ModuleList(list(self.layers.values())[::order])
        self.layers = nn.ModuleDict() if order < 0 else self.layers
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {"input": x}
        before = "input"
        for item, part in zip(self.items, list(self.blocks)[:: self.order], strict=True):
            values[item.name] = part(*[values[name] for name in item.inputs or (before,)])
            before = item.name
        return values[before]


def outputs(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = onnx_session(path)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.fixture
def _onnx() -> None:
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"needs {name}: the extra onnx")


@pytest.mark.usefixtures("_onnx")
def test_an_onnx_file_computes_what_pytorch_does(network: Network, tmp_path: Path) -> None:
    module = trained(network)
    before = copy.deepcopy(module.state_dict())
    path = export_trained(network, module, to="onnx", path=tmp_path / "winner.onnx", batch=BATCH)
    assert path == tmp_path / "winner.onnx"
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith(".own")] == ["winner.onnx"]
    x = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    # The module is left as it was, training mode included.
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with torch.no_grad():
        expected = module.eval()(x)
    assert torch.allclose(outputs(path, x), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.usefixtures("_onnx")
@pytest.mark.parametrize("order", [1, -1])
def test_a_module_made_by_hand_is_known_by_what_it_computes(network: Network, tmp_path: Path, order: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = ByHand(network, order).eval()
    path = export_trained(network, module, to="onnx", path=tmp_path / "a.onnx", batch=1)
    x = torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(outputs(path, x), module(x), rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("_onnx")
def test_the_file_is_the_one_that_is_timed(network: Network, tmp_path: Path) -> None:
    import onnx

    from profiler._onnx._graph import module_of, to_onnx
    from profiler._onnx._programs import lone

    path = export_trained(network, trained(network), to="onnx", path=tmp_path / "a.onnx", batch=BATCH)
    program = lone(network.as_layer(), 0)
    timed = onnx.load_from_string(
        to_onnx(program, module_of(program, torch.float32), [torch.zeros(BATCH, 3, 32, 32)], "direct")
    )
    found = onnx.load(path)
    assert list(found.graph.node) == list(timed.graph.node)
    assert list(found.graph.input) == list(timed.graph.input)
    assert [(w.name, list(w.dims)) for w in found.graph.initializer] == [
        (w.name, list(w.dims)) for w in timed.graph.initializer
    ]


@pytest.mark.usefixtures("_onnx")
def test_other_modules_are_refused(network: Network, tmp_path: Path) -> None:
    other = Network("other", (NetworkLayer("fc", linear(4, 2, bias=True)),))

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = trained(network)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.inner(x)

    for module, problem in (
        (build_module(other.as_layer()), "does not run on the network's input, 2×3×32×32"),
        (Doubled(), "is not this network"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), "is not this network"),
    ):
        with pytest.raises(UsageError, match=problem):
            export_trained(network, module, to="onnx", path=tmp_path / "a.onnx", batch=BATCH)
    module = trained(network)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"to": "tflite"}, "to onnx or coreml"),
        ({"path": tmp_path / "a.pb"}, r"is a \.onnx"),
        ({"batch": 0}, "batch must be"),
        ({"precision": "float16"}, "in float32"),
    ]
    for changed, problem in wrong:
        with pytest.raises(UsageError, match=problem):
            export_trained(network, module, **{"to": "onnx", "path": tmp_path / "a.onnx", "batch": BATCH, **changed})
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.usefixtures("_onnx")
def test_a_file_that_computes_something_else_is_not_written(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from profiler._onnx import _graph

    write = _graph.to_onnx

    def spoiled(program: Any, module: nn.Module, *rest: Any) -> bytes:
        for weight in module.parameters():
            weight.data.mul_(1.01)
        return write(program, module, *rest)

    monkeypatch.setattr(_graph, "to_onnx", spoiled)
    (tmp_path / "a.onnx").write_bytes(b"before")
    with pytest.raises(ProfileError, match="computes something else than PyTorch"):
        export_trained(network, trained(network), to="onnx", path=tmp_path / "a.onnx", batch=BATCH)
    assert (tmp_path / "a.onnx").read_bytes() == b"before"


def test_missing_frameworks_are_named(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from profiler._coreml import _convert

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(_convert, "find_spec", lambda _: None)
    for to, suffix in (("onnx", ".onnx"), ("coreml", ".mlpackage")):
        with pytest.raises(TargetUnavailableError, match=rf"pip install -e '\.\[{to}\]'"):
            export_trained(network, trained(network), to=to, path=tmp_path / f"a{suffix}", batch=1)  # type: ignore[arg-type]
    with pytest.raises(TargetUnavailableError, match="coremltools"):
        export_bundle([network], tmp_path / "phone", batch=1)


@pytest.fixture
def _coreml() -> None:
    pytest.importorskip("coremltools", reason="needs coremltools: the extra coreml")
    from profiler._coreml._convert import check_installed

    try:
        check_installed()
    except TargetUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_coreml")
def test_a_package_holds_the_modules_weights(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from profiler._coreml._convert import import_coremltools

    module = trained(network)
    path = tmp_path / "winner.mlpackage"
    for precision in ("float16", "float32"):
        assert export_trained(network, module, to="coreml", path=path, batch=BATCH, precision=precision) == path
    assert [file.name for file in tmp_path.iterdir() if file.name != ".own"] == ["winner.mlpackage"]
    model = import_coremltools().models.MLModel(str(path), skip_model_load=True)
    (given,) = model.get_spec().description.input
    assert list(given.type.multiArrayType.shape) == [BATCH, 3, 32, 32]
    from coremltools.optimize.coreml import get_weights_metadata

    # The classifier has no norm behind it, so its weights stand there as they are.
    held = [torch.from_numpy(found.val.copy()) for found in get_weights_metadata(model, weight_threshold=10).values()]
    classifier = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    assert any(x.shape == classifier.weight.shape and torch.allclose(x, classifier.weight) for x in held)
    # Others' weights are not taken for these.
    monkeypatch.setattr(
        _export, "_deployed", lambda *_: iter([("Linear", torch.zeros_like(classifier.weight.detach()))])
    )
    with pytest.raises(ProfileError, match="the weights of Linear 1 are not in the converted package"):
        export_trained(network, module, to="coreml", path=path, batch=BATCH)
    assert path.exists()


@pytest.mark.usefixtures("_coreml")
def test_winner_and_base_go_into_a_bundle(network: Network, tmp_path: Path) -> None:
    from profiler._coreml import load_bundle

    base = Network("base", (NetworkLayer("fc", linear(16, 10, bias=True)),))
    output = tmp_path / "phone"
    result = export_bundle([network, base], output, batch=1, workers=1)
    assert [entry.name for entry in result.manifest.networks] == [
        network.name,
        "base",
    ]
    assert not result.manifest.failures
    assert load_bundle(output) == result.manifest
    assert (output / "runner" / "README.md").exists()
    # Networks go to the converting processes as data, and nothing is left beside the bundle.
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != ".own") == ["phone"]
    with pytest.raises(UsageError, match="finished bundle"):
        export_bundle([network], output, batch=1)


def test_bundles_of_nothing_or_of_one_name_are_refused(network: Network, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one network"):
        export_bundle([], tmp_path / "phone", batch=1)
    with pytest.raises(UsageError, match="a name of its own"):
        export_bundle([network, network], tmp_path / "phone", batch=1)

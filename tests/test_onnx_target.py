"""The ONNX Runtime target: options, exporters, what the graphs compute, and what its profiler says."""

from __future__ import annotations

import builtins
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx: the extra onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: the extra onnx")

import onnx
import onnxruntime
import torch
from _targets import process_settings
from conftest import conv
from test_onnx_programs import LAYERS, WEIGHTLESS

from lut import Layer, Network, NetworkLayer, Node, UsageError, chain, conv_norm_act, residual_add
from lut.errors import LayerFailedError, TargetUnavailableError
from lut.primitives import (
    Activation,
    ActivationKind,
    Add,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    MaxPool2d,
    Mul,
    Plain,
    Subgraph,
)
from lut.subgraph import Call, Given, Ref
from profiler import _target as targets
from profiler import build_module
from profiler._onnx import OnnxTarget
from profiler._onnx import _target as module
from profiler._onnx import _target as onnx_target
from profiler._onnx._graph import EXPORTERS, Program, Step, module_of, to_onnx
from profiler._onnx._programs import COPIES, lone, marginal
from profiler._onnx._target import attribution, matrices_beside, passing_bytes
from profiler._reference import machine_key
from profiler._sources import LayersSource
from profiler._target import target_spec
from search import ResNetCifar

CPU = ["CPUExecutionProvider"]
SHAPE = (16, 9, 7)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the target by its name, whatever an older installation registered."""
    monkeypatch.setattr(targets, "available_targets", lambda: {"onnx": "profiler._onnx:OnnxTarget"})


@pytest.fixture(autouse=True)
def _own_process_settings() -> Iterator[None]:
    with process_settings():
        yield


def conv2d(**changed: Any) -> Conv2d:
    """Return a convolution with some fields changed."""
    plain: dict[str, Any] = {"out_channels": 8, "kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1)}
    return Conv2d(**{**plain, **changed})


CONVOLUTIONS = {
    "groups": conv2d(groups=4),
    "depthwise": conv2d(out_channels=16, groups=16, bias=True),
    "dilation": conv2d(dilation=(2, 1)),
    "uneven padding": conv2d(padding=(2, 0), bias=True),
    "uneven kernel and stride": conv2d(kernel_size=(1, 5), stride=(2, 3), padding=(0, 1)),
}
VARIANTS: dict[str, Layer] = {
    **LAYERS,
    **{f"conv with {name}": chain(SHAPE, op) for name, op in CONVOLUTIONS.items()},
    **{f"lone {kind}": chain(SHAPE, Activation(kind=kind)) for kind in get_args(ActivationKind)},
    "uneven max pool": chain(SHAPE, MaxPool2d(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0))),
    "uneven avg pool": chain(SHAPE, AvgPool2d(kernel_size=(2, 3), stride=(1, 2), padding=(0, 1))),
    "crossed arguments": Layer((SHAPE, SHAPE), (Node(BatchNorm2d(), (1,)), Node(Add(), (0, 2)), Node(Mul(), (3, 1)))),
}


def quiet_options() -> Any:
    """Return options for one thread, in the pool that all sessions of this process share."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if hasattr(onnxruntime, "set_global_thread_pool_sizes"):
        onnx_target.open_pool(onnxruntime, 1)
        options.use_per_session_threads = False
    return options


def computed(program: Program, exporter: str, dtype: torch.dtype = torch.float32) -> list[tuple[Any, Any]]:
    """Return what ONNX Runtime and PyTorch make of a program."""
    wired = module_of(program, dtype)
    torch.manual_seed(1)
    inputs = [torch.randn(3, *shape).to(dtype) for shape in program.inputs]
    model = to_onnx(program, wired, inputs, exporter)
    onnx.checker.check_model(onnx.load_from_string(model))
    options = quiet_options()
    session = onnxruntime.InferenceSession(model, options, providers=CPU)
    got = session.run(None, {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs, strict=True)})
    with torch.inference_mode():
        expected = wired(*inputs)
    return list(zip(got, (x.numpy() for x in expected), strict=True))


def check(pairs: list[tuple[Any, Any]], tolerance: float) -> None:
    """Compare outputs, relative to their largest value."""
    assert pairs
    for got, expected in pairs:
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        scale = float(np.abs(expected).max())
        assert scale > 0.01
        assert float(np.abs(got.astype("float32") - expected.astype("float32")).max()) <= tolerance * scale


@pytest.mark.parametrize("layer", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("exporter", ["direct", "torchscript"])
def test_every_operator_computes_what_pytorch_does(layer: Layer, exporter: str) -> None:
    check(computed(lone(layer, 2), exporter), 1e-5)


@pytest.mark.parametrize("layer", VARIANTS.values(), ids=VARIANTS)
def test_programs_around_a_layer_compute_what_pytorch_does(layer: Layer) -> None:
    for weighted in marginal(layer, 2):
        check(computed(weighted.program, "direct"), 1e-4)


@pytest.mark.parametrize("name", ["block", "lone gelu"])
def test_the_newer_exporter_gives_the_same_numbers(name: str) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript: the extra onnx")
    for exporter in EXPORTERS:
        check(computed(lone(VARIANTS[name], 2), exporter), 1e-5)


@pytest.mark.parametrize("layer", VARIANTS.values(), ids=VARIANTS)
def test_half_precision_where_the_runtime_has_it(layer: Layer) -> None:
    try:
        pairs = computed(lone(layer, 2), "direct", torch.float16)
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error):
            raise
        pytest.skip(f"this runtime: {str(error)[:100]}")
    check(pairs, 2e-2)


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_the_runtime_merges_no_copies(name: str, tmp_path: Path) -> None:
    """Of four copies it must run four, or what they add to one is not three times the layer."""
    layer = WEIGHTLESS[name]
    program = marginal(layer, 2)[0].program
    inputs = [torch.randn(2, *shape) for shape in program.inputs]
    options = quiet_options()
    # Without the fusions of a level above, which change names: merging equal nodes belongs to this one.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    plain = to_onnx(program, module_of(program, torch.float32), inputs, "direct")
    onnxruntime.InferenceSession(plain, options, providers=CPU)
    first = onnx.load_from_string(to_onnx(lone(layer, 2), *_lone_inputs(layer), "direct")).graph.node[0].op_type
    before = Counter(node.op_type for node in onnx.load_from_string(plain).graph.node)
    after = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    # Equal operators of the layer itself may be merged or folded; that of the copies' first one never.
    assert before[first] >= COPIES
    assert after[first] == before[first], (before, after)


def optimised_nodes(program: Program, folder: Path) -> Counter[str]:
    """Return how often the runtime runs each of its operators in a program."""
    inputs = [torch.randn(2, *shape) for shape in program.inputs]
    options = quiet_options()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(
        to_onnx(program, module_of(program, torch.float32), inputs, "direct"), options, providers=CPU
    )
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


# Of blocks of 8 or 16 channels 32 fill some, and 20 do not.
@pytest.mark.parametrize("channels", [20, 32])
@pytest.mark.parametrize(
    "make",
    [
        lambda c: conv_norm_act(c, c, kernel_size=3, stride=2, groups=c, activation="relu", input_size=(12, 12)),
        lambda c: conv_norm_act(c, c + 12, kernel_size=1, stride=1, activation="hardswish", input_size=(12, 12)),
        lambda c: chain((c, 12, 12), BatchNorm2d(), Activation(kind="relu")),
    ],
    ids=["depthwise", "pointwise", "norm first"],
)
def test_what_is_subtracted_differs_by_the_copies_alone(
    make: Callable[[int], Layer], channels: int, tmp_path: Path
) -> None:
    """Nothing is reordered to pick a pixel, however many channels; no norm is folded into what feeds it."""
    with_copies, without = (optimised_nodes(each.program, tmp_path) for each in marginal(make(channels), 2))
    if not any("Reorder" in name for name in with_copies):
        pytest.skip("this runtime keeps the usual layout on this CPU")
    assert with_copies - without == Counter({"Conv": COPIES})
    assert not without - with_copies


def test_a_sum_disappears_in_the_convolution_before_it(tmp_path: Path) -> None:
    layer = residual_add(32, activation="relu", input_size=(12, 12))
    with_copies, without = (optimised_nodes(each.program, tmp_path) for each in marginal(layer, 2))
    if not any("Reorder" in name for name in with_copies):
        pytest.skip("this runtime keeps the usual layout on this CPU")
    assert with_copies == without


def test_a_sum_by_itself_stays_one(tmp_path: Path) -> None:
    """The primitive's word is for sums that are folded; an ONNX operator's sum is not, in no program."""
    plus = Subgraph(
        framework="onnx",
        batch=2,
        inputs=(Given(shape=(32, 12, 12)), Given(shape=(32, 12, 12))),
        weights=(),
        calls=(Call(op="Add", args=(Ref(kind="value", of=0), Ref(kind="value", of=1))),),
        output=(32, 12, 12),
        opset=20,
    )
    layer = Layer((*[given.shape for given in plus.inputs],), (Node(plus, (0, 1)),))
    with_copies, without = (optimised_nodes(each.program, tmp_path) for each in marginal(layer, 2))
    assert with_copies - without == Counter({"Add": COPIES})
    assert not without - with_copies


def test_what_an_operator_takes_is_known_through_a_note_on_its_layout() -> None:
    """Integers, and images of floating-point numbers; what the layer is fed is drawn by it."""
    look_up = Subgraph(
        framework="onnx",
        batch=2,
        inputs=(Given(shape=(4, 6, 6)), Given(shape=(4, 6, 6), dtype="int64", below=4)),
        weights=(),
        calls=(
            Call(op="GatherElements", args=(Ref(kind="value", of=0), Ref(kind="value", of=1)), named=(("axis", 1),)),
        ),
        output=(4, 6, 6),
        opset=20,
    )
    shapes = tuple(given.shape for given in look_up.inputs)
    layer = Layer(shapes, (Node(Plain(), (0,)), Node(Plain(), (1,)), Node(look_up, (2, 3)), Node(Plain(), (4,))))
    assert layer.givens == look_up.inputs
    target = OnnxTarget(batch=2, threads=1, context="isolated")
    assert target.run(target.prepare(layer, 1), 1) > 0
    target.close()


@pytest.mark.parametrize(
    ("parameters", "passing"),
    [(0, 0), (65_535, 0), (65_536, 1 << 18), (270_000, 1 << 20), (3_500_000, 1 << 24), (10**9, 1 << 25)],
)
def test_as_many_weights_pass_as_a_network_has_in_steps(parameters: int, passing: int) -> None:
    assert passing_bytes(4 * parameters) == passing
    details = OnnxTarget(batch=1, threads=1, network_parameters=parameters).describe()[2].details
    assert details["between calls"] == f"{passing / 2**20:g} MiB of weights, a program's own among them"
    alone = OnnxTarget(batch=1, threads=1, network_parameters=parameters, context="isolated").describe()[2].details
    assert "between calls" not in alone


def test_the_weights_are_those_of_the_networks_that_are_measured() -> None:
    small, large = conv(8), conv(256)
    networks = [
        Network("a", (NetworkLayer("one", small),)),
        Network("b", (NetworkLayer("one", small), NetworkLayer("more", conv(8), count=3))),
        Network("c", (NetworkLayer("one", large),)),
    ]
    assert OnnxTarget.defaults([small, large], networks)["network_parameters"] == 4 * small.parameters
    # Without a network: those of as many layers as a small one has.
    mean = (small.parameters + large.parameters) / 2
    assert OnnxTarget.defaults([small, large])["network_parameters"] == 24 * mean
    assert OnnxTarget.defaults([])["network_parameters"] == 0
    # What follows from the layers is no option of a command.
    with pytest.raises(UsageError) as caught:
        target_spec("onnx", [small], colour=1)
    assert "network" not in str(caught.value)


def test_they_pass_before_every_call_of_a_layer_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    target = OnnxTarget(batch=1, threads=1, network_parameters=1 << 18)
    read = []
    original = target._reader
    monkeypatch.setattr(target, "_reader", lambda size: read.append(size) or original(size))
    prepared = target.prepare(conv(8), 0)
    for part in target.parts(prepared):
        target.run(part.prepared, 2)
    # A program's own weights are among those that pass; these are a few kilobytes.
    assert read == [1 << 20] * len(target.parts(prepared))
    weights = original(1 << 20)
    # A vector of ones times a matrix of a thousandth each, all rows of it read.
    assert weights.outputs[0].numpy() == pytest.approx(256 * 1e-3, rel=1e-4)
    read.clear()
    network = Network("a", (NetworkLayer("one", conv(8)),))
    target.run(target.prepare_network(LayersSource(network), 0), 1)
    alone = OnnxTarget(batch=1, threads=1, network_parameters=1 << 18, context="isolated")
    monkeypatch.setattr(alone, "_reader", read.append)
    alone.run(alone.parts(alone.prepare(conv(8), 0))[0].prepared, 1)
    assert not read


@pytest.mark.parametrize(
    ("own", "passing", "matrices"),
    [
        (0, 0, []),
        (1, 0, []),
        (0, 1 << 20, [1 << 20]),
        (1, 1 << 18, [1 << 18]),
        (1, 1 << 20, [1 << 20]),
        (3 << 17, 1 << 20, [1 << 19]),
        (700_000, 1 << 20, [1 << 18]),
        (3 << 18, 1 << 20, [1 << 18]),
        (1 << 20, 1 << 20, []),
        (1 << 30, 1 << 20, []),
    ],
)
def test_a_program_s_own_weights_are_among_those_that_pass(own: int, passing: int, matrices: list[int]) -> None:
    assert matrices_beside(own, passing) == matrices


def test_a_reference_speed_is_of_sentinels_between_whose_calls_as_much_passed() -> None:
    keys = {
        machine_key(*OnnxTarget(batch=1, threads=1, network_parameters=count).describe())
        for count in (0, 1 << 18, 1 << 22)
    }
    assert len(keys) == 3


def _lone_inputs(layer: Layer) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    return module_of(lone(layer, 2), torch.float32), [torch.randn(2, *shape) for shape in layer.inputs]


def test_an_exporter_that_refuses_fails_the_layer_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    target = OnnxTarget(batch=1, threads=1, exporter="torchscript")
    with pytest.raises(
        LayerFailedError, match=r"^torch.onnx.export \(torchscript\) failed: RuntimeError: no such oper"
    ):
        target.prepare(conv(8), 0)


@pytest.mark.parametrize(("option", "value"), [("provider", "cpu"), ("provider", "CPUExecutionProvider")])
def test_a_provider_goes_by_both_its_names(option: str, value: str) -> None:
    assert OnnxTarget(threads=1, **{option: value}).describe()[1].options["provider"] == "CPUExecutionProvider"


def test_an_unknown_provider_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"knows no provider 'warp'; it knows: .*cpu.*cuda") as caught:
        OnnxTarget(threads=1, provider="warp")
    assert "\n" not in str(caught.value)


def test_a_provider_that_this_build_lacks_is_unavailable() -> None:
    lacking = sorted(set(onnxruntime.get_all_providers()) - set(onnxruntime.get_available_providers()))
    assert lacking
    for name in (lacking[0], lacking[-1].removesuffix("ExecutionProvider").lower()):
        with pytest.raises(
            TargetUnavailableError, match=r"was built without .*; it has: .*CPUExecutionProvider"
        ) as caught:
            OnnxTarget(threads=1, provider=name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"threads": 0},
        {"threads": 2000},
        {"dtype": "bfloat16"},
        {"context": "alone"},
        {"spinning": "yes"},
        {"exporter": "paper"},
        {"network_parameters": -1},
    ],
    ids=str,
)
def test_senseless_options_are_refused_in_one_line_and_without_the_runtime(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_import_runtime", lambda *_: pytest.fail("the runtime was loaded"))
    for refuse in (OnnxTarget, OnnxTarget.check_options, lambda **given: target_spec("onnx", [], **given)):
        with pytest.raises(UsageError) as caught:
            refuse(**options)
        assert "\n" not in str(caught.value)
        assert str(*options.values()) in str(caught.value)


def test_unknown_options_name_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"target onnx has no option --memory-format; it has .*--provider.*--spinning"):
        target_spec("onnx", [], memory_format="channels_last")


@pytest.mark.parametrize(
    ("missing", "exporter"), [("onnxruntime", "direct"), ("onnx", "direct"), ("onnxscript", "dynamo")]
)
def test_a_missing_package_says_how_to_install_it(missing: str, exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(TargetUnavailableError) as caught:
        OnnxTarget(threads=1, exporter=exporter)
    text = str(caught.value)
    assert repr(missing) in text
    assert "pip install -e '.[onnx]'" in text
    assert "\n" not in text


def test_a_package_that_cannot_be_loaded_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("libstdc++.so.6: version not found\nsecond line")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(TargetUnavailableError, match=r"cannot be loaded \(libstdc.* not found\): pip install --force"):
        OnnxTarget(threads=1)


@pytest.mark.parametrize("spinning", ["on", "off"])
def test_spinning_stands_in_the_setting_and_reaches_the_runtime(spinning: str) -> None:
    target = OnnxTarget(threads=2, spinning=spinning)
    _, setting, software = target.describe()
    assert setting.options["spinning"] == spinning
    options = target._options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == ("1" if spinning == "on" else "0")
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert software.details["exporter"] == "direct"
    assert software.packages["onnxruntime"] == onnxruntime.__version__


THREADS = """
import os, sys
from profiler._onnx import OnnxTarget
from lut import conv_norm_act
import onnxruntime, torch
torch.set_num_threads(1)
before = len(os.listdir("/proc/self/task"))
target = OnnxTarget(batch=1, threads=int(sys.argv[1]), spinning=sys.argv[2], context="isolated")
layer = conv_norm_act(16, 16, kernel_size=3, stride=1, activation=None, input_size=(16, 16))
held = [target.prepare(layer, seed) for seed in range(3)]
print(before, len(os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize(("threads", "spinning", "workers"), [(1, "on", 0), (3, "on", 2), (1, "off", 0), (3, "off", 6)])
def test_as_many_threads_as_asked_and_one_pool_where_they_spin(threads: int, spinning: str, workers: int) -> None:
    """Workers of the sessions' pools, seen from outside: the calling thread is one of the threads."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc to count threads")
    command = [sys.executable, "-c", THREADS, str(threads), spinning]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    before, after = map(int, done.stdout.split())
    if spinning == "on" and not hasattr(onnxruntime, "set_global_thread_pool_sizes"):
        workers *= 3  # as many pools as sessions
    assert after - before == workers


def test_a_runtime_without_a_pool_for_all_sessions_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As onnxruntime up to 1.22, whose options have no such field either."""
    monkeypatch.delattr(onnxruntime, "set_global_thread_pool_sizes", raising=False)
    target = OnnxTarget(batch=1, threads=1, spinning="on")
    assert target.describe()[2].details["thread pool"] == "one per session"
    assert getattr(target._options(), "use_per_session_threads", True)


def test_a_graph_that_computes_something_else_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, an attribute and a wire go wrong in the exported model; each is noticed."""

    def corrupted(change: Any) -> None:
        def export(*args: Any) -> bytes:
            model = onnx.load_from_string(to_onnx(*args))
            change(model.graph)
            return bytes(model.SerializeToString())

        monkeypatch.setattr(module, "to_onnx", export)

    def weights(graph: Any) -> None:
        values = onnx.numpy_helper.to_array(graph.initializer[0]).copy()
        values[:1] *= 1.5
        graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, graph.initializer[0].name))

    def last_activation(graph: Any) -> None:
        graph.node[-1].op_type = "Sigmoid"

    def not_a_number(graph: Any) -> None:
        values = np.full_like(onnx.numpy_helper.to_array(graph.initializer[0]), np.nan)
        graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, graph.initializer[0].name))

    target = OnnxTarget(batch=1, threads=1)
    for change in (weights, last_activation, not_a_number):
        corrupted(change)
        with pytest.raises(LayerFailedError, match="computes something else than PyTorch") as caught:
            target.prepare(conv(8, size=8), 0)
        assert caught.value.reason == "error"
    corrupted(lambda _: None)
    target.release(target.prepare(conv(8, size=8), 0))


def event(op: str, duration: float, *, name: str = "n_kernel_time", cat: str = "Node") -> dict[str, Any]:
    """Return an event of the runtime's profile."""
    return {"cat": cat, "name": name, "dur": duration, "args": {"op_name": op}}


def test_shares_of_a_profile_are_those_of_its_nodes() -> None:
    events = [
        event("Session", 9000, cat="Session", name="model_run"),
        event("Conv", 30),
        event("ReorderOutput", 5),
        event("Conv", 60),
        event("Relu", 5),
        # Older runtimes report what goes on before and after a kernel too: waiting for a fence is no work.
        event("Conv", 700, name="n_fence_before"),
        event("Conv", 700, name="n_fence_after"),
    ]
    text = attribution(events, 1.25)
    assert text == "Conv 90%, ReorderOutput 5%, Relu 5% (alone; profiled ×1.25)"


def test_a_profile_without_time_names_its_nodes_and_one_without_nodes_says_nothing() -> None:
    assert attribution([event("Conv", 0), event("Relu", 0)], 1.0) == "Conv, Relu (alone; profiled ×1.00)"
    assert attribution([event("Conv", 7, name="n_fence_before"), event("S", 3, cat="Session")], 1.0) is None
    assert attribution([], 1.0) is None
    assert attribution([{"cat": "Node", "name": "x_kernel_time"}], 2.0) == "? (alone; profiled ×2.00)"


def test_the_runtimes_profiler_tells_what_became_of_a_layer() -> None:
    target = OnnxTarget(batch=1, threads=1)
    prepared = target.prepare(conv(32, size=32), 0)
    text = target.implementation(prepared)
    assert text is not None
    assert "Conv" in text
    assert "Relu" not in text  # it is fused
    assert "profiled ×" in text


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_whole_networks_run_and_agree_with_pytorch(depth: int) -> None:
    space = ResNetCifar(depth=depth, expand=0.25)
    layer = space.decode(space.sample(random.Random(depth))).as_layer()
    target = OnnxTarget(batch=2, threads=1, context="isolated")
    prepared = target.prepare(layer, 4)
    assert target.run(prepared, 1) > 0
    (part,) = target.parts(prepared)
    (value,), ((_, x),) = part.prepared.outputs, part.prepared.inputs
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(part_seed(layer, 4))
        expected = build_module(layer)(torch.from_numpy(x))
    got = torch.from_numpy(value.numpy())
    assert tuple(got.shape) == (2, *layer.output_shape)
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def part_seed(layer: Layer, seed: int) -> int:
    """Return the seed of the lone program's weights."""
    (step,) = lone(layer, seed).steps
    assert step == Step(layer, seed, tuple(range(len(layer.inputs))))
    return step.seed


def test_a_process_has_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_target, "_POOLS", [2])
    layer = conv(8)
    with pytest.raises(TargetUnavailableError, match=r"made with 2 threads .* with 1 thread .* process of its own"):
        OnnxTarget(threads=1).prepare(layer, 0)
    with pytest.raises(TargetUnavailableError, match=r"with threads for each session needs a process of its own"):
        OnnxTarget(threads=2, spinning="off").prepare(layer, 0)

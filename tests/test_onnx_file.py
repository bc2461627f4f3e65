"""ONNX files as networks: what is read, refused, traced, and that every layer of it runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx: the extra onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: the extra onnx")

import onnx
import onnxruntime
import torch
from _targets import process_settings
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lut import Layer, UsageError, chain, conv_norm_act
from lut.errors import LayerFailedError
from lut.primitives import Activation, Add, Conv2d, Flatten, GlobalAvgPool2d, LayerNorm, Linear, Subgraph
from profiler._model import ModelSpec
from profiler._onnx import OnnxTarget
from profiler._onnx._file import example_feed, export_model, load_onnx, save_onnx, trace_onnx
from profiler._onnx._graph import module_of, to_onnx
from profiler._onnx._programs import COPIES, marginal
from profiler._onnx._target import has_shared_pool
from profiler._sources import FactorySource, FileSource, LayersSource
from profiler._traced import TracedNetwork

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
DATA = Path(os.environ.get("LATENCY_LUT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "onnx-light"
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _own_process_settings() -> Iterator[None]:
    with process_settings():
        yield


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    """Return a node that is named after its first output."""
    return helper.make_node(kind, inputs, outputs, name=f"make {outputs[0]}", **attributes)


def operators_left(content: bytes, folder: Path) -> Counter[str]:
    """Return how often the runtime runs each of its operators."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    if has_shared_pool():
        options.use_per_session_threads = False
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def floats(*shape: int) -> Any:
    """Return random numbers."""
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(
    nodes: Sequence[Any],
    inputs: dict[str, tuple[int, Sequence[Any]]],
    outputs: Sequence[str],
    weights: dict[str, Any] | None = None,
    *,
    opset: int = 17,
    listed: bool = False,
    domains: Sequence[str] = (),
) -> Any:
    """Return a model; ``listed`` lists its weights among the inputs, as old files do."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    if listed:
        infos = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors] + infos
    graph = helper.make_graph(
        list(nodes), "net", infos, [helper.make_empty_tensor_value_info(name) for name in outputs], tensors
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 3 if listed else 8
    return model


def traced(model: Any, folder: Path, shapes: tuple[tuple[int, ...], ...] = ()) -> TracedNetwork:
    """Return the layers of a model that was written and read."""
    path = folder / "net.onnx"
    onnx.save(model, str(path))
    return trace_onnx(load_onnx(path, shapes), name="net")


def run(network: TracedNetwork, folder: Path, **options: Any) -> None:
    """Check that every layer can be described, built and run, and the file as a whole."""
    target = OnnxTarget(batch=network.batch, threads=1, **options)
    for item in network.network.layers:
        assert msgspec.json.decode(msgspec.json.encode(item.layer), type=Layer) == item.layer
        assert target.run(target.prepare(item.layer, 1), 2) > 0
    whole = target.prepare_network(FileSource("net", str(folder / "net.onnx")), 0)
    assert target.run(whole, 2) > 0
    assert len(target.parts(whole)) == 1
    target.close()


def named(network: TracedNetwork) -> dict[str, Layer]:
    """Return layers by name."""
    return {item.name: item.layer for item in network.network.layers}


def wiring(network: TracedNetwork) -> dict[str, tuple[str, ...]]:
    """Return the names of each layer's inputs."""
    return {item.name: item.inputs for item in network.network.layers}


CONV_WEIGHTS = {"w": floats(8, 3, 3, 3), **{name: np.abs(floats(8)) + 0.5 for name in ("s", "b", "m", "v")}}


def conv_net(*, opset: int, listed: bool, size: Sequence[Any] = (2, 3, 16, 16)) -> Any:
    """Return convolution, norm, activation, dropout, pooling, classifier."""
    return model_of(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("Dropout", ["r"], ["d"]),
            node("GlobalAveragePool", ["d"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "k", "l"], ["y"], transB=1),
        ],
        {"x": (FLOAT, size)},
        ["y"],
        {**CONV_WEIGHTS, "k": floats(10, 8), "l": floats(10)},
        opset=opset,
        listed=listed,
    )


@pytest.mark.parametrize(("opset", "listed"), [(9, True), (17, False)])
def test_fused_operators_become_primitives_that_other_networks_share(tmp_path: Path, opset: int, listed: bool) -> None:
    found = traced(conv_net(opset=opset, listed=listed), tmp_path)
    assert found.network.layers[0].layer == conv_norm_act(
        3, 8, kernel_size=3, stride=2, activation="relu", input_size=(16, 16)
    )
    assert wiring(found) == {"make c": ("input",), "make g": ("make c",), "make y": ("make g",)}
    assert found.kernels["make c"] == "FusedConv (Conv, BatchNormalization, Relu)"
    assert (found.batch, found.operators, found.idle) == (2, 6, {"Dropout": 1})
    assert found.network.layers[-1].layer == chain((8, 1, 1), Flatten(), Linear(out_features=10, bias=True))
    assert found.network.as_layer().output_shape == (10,)
    run(found, tmp_path)


def test_two_inputs_and_what_is_computed_once(tmp_path: Path) -> None:
    model = model_of(
        [
            node("Add", ["a", "b"], ["s"]),
            node("Softmax", ["s"], ["r"]),
            node("Softmax", ["s"], ["again"]),
            node("Mul", ["r", "b"], ["p"]),
            node("Sub", ["p", "again"], ["y"]),
        ],
        {"a": (FLOAT, (1, 8, 6, 6)), "b": (FLOAT, (1, 8, 6, 6))},
        ["y"],
    )
    found = traced(model, tmp_path)
    assert wiring(found) == {
        "make s": ("input", "input 1"),
        "make r": ("make s",),
        "make p": ("make r", "input 1"),
        "make y": ("make p", "make r"),
    }
    assert (found.operators, found.idle) == (4, {"Softmax": 1})
    run(found, tmp_path)


def test_integer_ids_are_looked_up_in_range(tmp_path: Path) -> None:
    model = model_of(
        [node("Gather", ["table", "ids"], ["e"]), node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0)],
        {"ids": (INT64, (2, 5)), "mask": (INT64, (2, 5))},
        ["y"],
        {"table": floats(37, 4)},
    )
    found = traced(model, tmp_path)
    (gather,) = named(found)["make e"].nodes
    assert isinstance(gather.op, Subgraph)
    (given,) = gather.op.inputs
    assert (given.dtype, given.shape, given.least, given.below) == ("int64", (5,), 0, 37)
    assert gather.op.parameters(()) == 37 * 4
    feed = example_feed(load_onnx(tmp_path / "net.onnx"), 0)
    assert feed["ids"].max() > 1
    assert feed["mask"].max() <= 1
    run(found, tmp_path)


def test_two_outputs_of_one_operator(tmp_path: Path) -> None:
    model = model_of(
        [
            node("Split", ["x"], ["a", "b"], axis=1),
            node("Softmax", ["a"], ["u"]),
            node("GlobalAveragePool", ["b"], ["v"]),
        ],
        {"x": (FLOAT, (1, 8, 4, 4))},
        ["u", "v"],
        opset=13,
    )
    found = traced(model, tmp_path)
    assert wiring(found) == {
        "make a": ("input",),
        "make u": ("make a output 1",),
        "make v": ("make a",),
    }
    (split,) = named(found)["make a"].nodes
    assert isinstance(split.op, Subgraph)
    assert len(split.op.also) == 1
    assert named(found)["make v"] == chain((4, 4, 4), GlobalAvgPool2d())
    run(found, tmp_path)


def test_a_layers_second_output_is_computed_too(tmp_path: Path) -> None:
    # The transposed tensor has no batch in front, so that what exchanges it is one layer; it gives two maps.
    model = model_of(
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            node("Exp", ["t"], ["e"]),
            node("Transpose", ["e"], ["u"], perm=[1, 0, 2]),
            node("Tanh", ["t"], ["h"]),
            node("Transpose", ["h"], ["v"], perm=[1, 0, 2]),
            node("Relu", ["u"], ["y"]),
            node("Relu", ["v"], ["z"]),
        ],
        {"x": (FLOAT, (2, 5, 6))},
        ["y", "z"],
    )
    found = traced(model, tmp_path)
    layer = next(item for item in found.network.layers if len(item.layer.nodes) == 1 and item.inputs == ("input",))
    target = OnnxTarget(batch=2, threads=1, context="isolated")
    kernel = target.implementation(target.prepare(layer.layer, 0))
    assert kernel is not None
    assert "Exp" in kernel
    assert "Tanh" in kernel
    run(found, tmp_path)


def test_what_would_be_fused_joins_the_operator_before_it(tmp_path: Path) -> None:
    # Each activation is left standing by the runtime; only the last one's input is read by another operator too.
    model = model_of(
        [
            node("Add", ["x", "z"], ["s"]),
            node("Relu", ["s"], ["r"]),
            node("Conv", ["r", "w"], ["c"]),
            node("HardSwish", ["c"], ["h"]),
            node("Conv", ["h", "w"], ["d"]),
            node("Sigmoid", ["d"], ["g"]),
            node("Mul", ["d", "g"], ["q"]),
            node("Softmax", ["q"], ["t"]),
            node("Relu", ["t"], ["u"]),
            node("Sub", ["u", "t"], ["y"]),
        ],
        {"x": (FLOAT, (1, 8, 6, 6)), "z": (FLOAT, (1, 8, 6, 6))},
        ["y"],
        {"w": floats(8, 8, 1, 1)},
    )
    found = traced(model, tmp_path)
    words = {name: without_borders(layer) for name, layer in named(found).items()}
    assert {name: words[name] for name in ("make s", "make c", "make u")} == {
        "make s": "Add +Relu 8×6×6→8×6×6",
        "make c": "conv1×1 8→8 +hardswish @6×6",
        "make u": "relu @6×6",
    }
    (silu,) = [str(layer) for layer in named(found).values() if "silu" in str(layer)]
    assert silu == "conv1×1 8→8 +silu @6×6"
    assert wiring(found)["make y"] == ("make u", "make t")
    assert len(found.network.layers) == 6
    assert (found.operators, found.idle) == (10, {})
    run(found, tmp_path)


@pytest.mark.parametrize(
    ("nodes", "sum_is_folded"),
    [
        ([node("Conv", ["h", "w"], ["c"]), node("Add", ["c", "h"], ["s"])], True),
        ([node("Conv", ["h", "w"], ["c"]), node("Add", ["h", "c"], ["s"])], True),
        ([node("Conv", ["h", "w"], ["c"]), node("Add", ["c", "x"], ["s"])], False),
        ([node("Conv", ["h", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("Add", ["r", "h"], ["s"])], False),
        ([node("Conv", ["h", "w"], ["c"]), node("Add", ["c", "h"], ["s"]), node("Mul", ["s", "c"], ["t"])], False),
        (
            [
                node("Conv", ["h", "w"], ["c"]),
                node("MaxPool", ["c"], ["p"], kernel_shape=[1, 1]),
                node("Add", ["p", "h"], ["s"]),
            ],
            False,
        ),
    ],
    ids=["behind", "before", "of an input", "activated", "read twice", "of a pooling"],
)
def test_a_sum_has_the_word_for_one_only_where_a_convolution_takes_it_in(
    nodes: list[Any], sum_is_folded: bool, tmp_path: Path
) -> None:
    last = nodes[-1].output[0]
    first = [node("Conv", ["x", "w"], ["g"]), node("Relu", ["g"], ["h"])]
    model = model_of(
        [*first, *nodes, node("Relu", [last], ["a"]), node("Conv", ["a", "w"], ["y"])],
        {"x": (FLOAT, (1, 16, 6, 6))},
        ["y"],
        {"w": floats(16, 16, 1, 1)},
    )
    found = traced(model, tmp_path)
    worded = [layer for layer in named(found).values() if any(isinstance(n.op, Add) for n in layer.nodes)]
    own = [layer for layer in named(found).values() if str(layer).startswith("Add")]
    assert (len(worded), len(own)) == ((1, 0) if sum_is_folded else (0, 1))
    run(found, tmp_path)
    # The runtime says whether it folds the sum: in the network, and in the program that tells what the layer takes.
    program = marginal((worded or own)[0], 0)[0].program
    inputs = [torch.randn(1, *shape) for shape in program.inputs]
    written = to_onnx(program, module_of(program, torch.float32), inputs, "direct")
    runs = [operators_left(content, tmp_path) for content in (model.SerializeToString(), written)]
    if not any("Reorder" in name for names in runs for name in names):
        pytest.skip("this runtime keeps the usual layout on this CPU")
    assert [names["Add"] for names in runs] == ([0, 0] if sum_is_folded else [1, COPIES + 1])


def without_borders(layer: Layer) -> str:
    """Return a layer's words, whatever layout its runtime has here for what it takes and gives."""
    return str(layer).replace("plain +", "").replace(" +plain", "")


def has_blocks(folder: Path) -> bool:
    """Return whether this runtime lays images out in blocks of channels on this CPU."""
    model = model_of(
        [node("Conv", ["x", "w"], ["y"])], {"x": (FLOAT, (1, 16, 6, 6))}, ["y"], {"w": floats(16, 16, 1, 1)}
    )
    return any("Reorder" in name for name in operators_left(model.SerializeToString(), folder))


def test_what_follows_out_of_the_runtimes_layout_does_not_go_back_to_it_in_between(tmp_path: Path) -> None:
    if not has_blocks(tmp_path):
        pytest.skip("this runtime keeps the usual layout on this CPU")
    model = model_of(
        [
            node("Conv", ["x", "w"], ["a"]),
            # Groups of twelve channels fill no block.
            node("Conv", ["a", "g"], ["b"], group=3),
            node("Conv", ["b", "g"], ["c"], group=3),
            node("Conv", ["c", "v"], ["y"]),
        ],
        {"x": (FLOAT, (1, 16, 6, 6))},
        ["y"],
        {"w": floats(36, 16, 1, 1), "g": floats(36, 12, 1, 1), "v": floats(16, 36, 1, 1)},
    )
    found = traced(model, tmp_path)
    assert {name: str(layer) for name, layer in named(found).items()} == {
        "make a": "conv1×1 16→36 @6×6",
        "make b": "conv1×1 36→36 g3 +plain @6×6",
        "make c": "plain +conv1×1 36→36 g3 @6×6",
        "make y": "conv1×1 36→16 @6×6",
    }
    run(found, tmp_path)
    ways: dict[str, list[Any]] = {}
    for name in ("make b", "make c"):
        for program, _ in marginal(named(found)[name], 0):
            inputs = [torch.randn(1, *shape) for shape in program.inputs]
            written = to_onnx(program, module_of(program, torch.float32), inputs, "direct")
            ways.setdefault(name, []).append(operators_left(written, tmp_path))
    # The first pays for the way out of the layout, and the second for the way back, once a copy.
    many, one = COPIES + 1, 1
    assert ways["make b"][0]["ReorderOutput"] - ways["make b"][1]["ReorderOutput"] == many - one
    assert ways["make b"][0]["ReorderInput"] == ways["make b"][1]["ReorderInput"]
    assert ways["make c"][0]["ReorderInput"] - ways["make c"][1]["ReorderInput"] == many - one
    assert ways["make c"][0]["ReorderOutput"] == ways["make c"][1]["ReorderOutput"]
    for full, bare in ways.values():
        assert {name: full[name] - bare[name] for name in full | bare if "Conv" in name} == {"Conv": many - one}


def test_of_two_that_read_what_left_the_blocks_the_first_pays(tmp_path: Path) -> None:
    if not has_blocks(tmp_path):
        pytest.skip("this runtime keeps the usual layout on this CPU")
    model = model_of(
        [
            node("Conv", ["x", "w"], ["a"]),
            node("Conv", ["a", "g"], ["b"], group=3),
            node("Conv", ["a", "h"], ["c"], group=3),
            node("Concat", ["b", "c"], ["d"], axis=1),
            node("Conv", ["d", "v"], ["y"]),
        ],
        {"x": (FLOAT, (1, 16, 6, 6))},
        ["y"],
        {
            "w": floats(36, 16, 1, 1),
            "g": floats(36, 12, 1, 1),
            "h": 2 * floats(36, 12, 1, 1),
            "v": floats(16, 72, 1, 1),
        },
    )
    found = traced(model, tmp_path)
    words = {name: str(layer) for name, layer in named(found).items()}
    assert {words["make b"], words["make c"]} == {
        "conv1×1 36→36 g3 +plain @6×6",
        "plain +conv1×1 36→36 g3 +plain @6×6",
    }
    assert words["make d"] == "plain +plain +concat 36×6×6, 36×6×6 @6×6"
    run(found, tmp_path)


def test_a_shuffle_is_one_layer_and_what_follows_keeps_its_words(tmp_path: Path) -> None:
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Reshape", ["c", "apart"], ["a"]),
            node("Transpose", ["a"], ["t"], perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["t", "together"], ["s"]),
            node("Conv", ["s", "w"], ["y"]),
        ],
        {"x": (FLOAT, (2, 8, 6, 6))},
        ["y"],
        {
            "w": floats(8, 8, 1, 1),
            "apart": np.array([2, 2, 4, 6, 6], np.int64),
            "together": np.array([2, 8, 6, 6], np.int64),
        },
    )
    found = traced(model, tmp_path)
    first, shuffle, last = found.network.layers
    assert found.kernels[shuffle.name] == "Reshape ×2, Transpose"
    assert shuffle.layer.output_shape == (8, 6, 6)
    assert str(first.layer) == "conv1×1 8→8 @6×6"
    assert last.layer == first.layer
    run(found, tmp_path)


def concatenation(*after: Any, outputs: Sequence[str]) -> Any:
    """Return a model in which two convolutions are concatenated, and what comes after."""
    return model_of(
        [
            node("Conv", ["x", "w"], ["a"]),
            node("Conv", ["x", "v"], ["b"]),
            node("Concat", ["a", "b"], ["c"], axis=1),
            *after,
        ],
        {"x": (FLOAT, (2, 8, 6, 6))},
        outputs,
        {
            "w": floats(4, 8, 1, 1),
            "v": floats(4, 8, 1, 1) + 1,
            "u": floats(5, 4, 1, 1),
            "m": floats(288, 5),
            "apart": np.array([2, 2, 4, 6, 6], np.int64),
            "together": np.array([2, 8, 6, 6], np.int64),
            "flat": np.array([2, 288], np.int64),
            "halves": np.array([4, 4], np.int64),
        },
    )


SHUFFLE = (
    node("Reshape", ["c", "apart"], ["r"]),
    node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
    node("Reshape", ["t", "together"], ["s"]),
    node("Split", ["s", "halves"], ["p", "q"], axis=1),
)


def test_a_concatenation_that_is_only_moved_on_is_one_layer_with_what_moves_it(tmp_path: Path) -> None:
    """The runtime leaves its own layout once for all of them; apart, each would pay for that."""
    after = (*SHUFFLE, node("Conv", ["p", "u"], ["y"]), node("Conv", ["q", "u"], ["z"]))
    found = traced(concatenation(*after, outputs=["y", "z"]), tmp_path)
    (shuffle,) = [item for item in found.network.layers if "Concat" in found.kernels[item.name]]
    assert found.kernels[shuffle.name] == "Concat, Reshape ×2, Transpose, Split"
    assert shuffle.layer.inputs == ((4, 6, 6), (4, 6, 6))
    assert len(found.network.layers) == 5
    run(found, tmp_path)


def test_no_endless_chain_is_followed_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's length must not make its reading quadratic: what is further away is not looked for."""
    after = (*SHUFFLE, node("Conv", ["p", "u"], ["y"]), node("Conv", ["q", "u"], ["z"]))
    monkeypatch.setattr("profiler._onnx._trace.LONGEST_BLOCK", 1)
    found = traced(concatenation(*after, outputs=["y", "z"]), tmp_path)
    assert "Concat" in found.kernels.values()
    run(found, tmp_path)


def test_a_concatenation_that_a_sum_alone_reads_is_one_layer_with_it(tmp_path: Path) -> None:
    found = traced(concatenation(node("Add", ["c", "x"], ["y"]), outputs=["y"]), tmp_path)
    assert [found.kernels[item.name] for item in found.network.layers][-1] == "Concat, Add"
    assert len(found.network.layers) == 3
    run(found, tmp_path)


def squeeze(*, value: str = "c", outputs: Sequence[str] = ("y",)) -> Any:
    """Return a model of a convolution and a squeeze-excite block; ``value`` is what its gate is multiplied with."""
    return model_of(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            node("GlobalAveragePool", ["c"], ["m"]),
            node("Conv", ["m", "less"], ["l"]),
            node("Relu", ["l"], ["r"]),
            node("Conv", ["r", "more"], ["g"]),
            node("Sigmoid", ["g"], ["s"]),
            node("Mul", [value, "s"], ["y"]),
        ],
        {"x": (FLOAT, (2, 8, 6, 6))},
        outputs,
        {"w": floats(8, 8, 3, 3), "less": floats(2, 8, 1, 1), "more": floats(8, 2, 1, 1)},
    )


def test_a_squeeze_excite_block_is_one_layer(tmp_path: Path) -> None:
    """Its mean and its product read one tensor, which leaves the runtime's own layout once for both."""
    found = traced(squeeze(), tmp_path)
    first, block = found.network.layers
    assert str(first.layer) == "conv3×3 8→8 @6×6"
    assert block.layer.inputs == ((8, 6, 6),)
    assert block.layer.parameters == 32
    run(found, tmp_path)


@pytest.mark.parametrize("model", [squeeze(outputs=["y", "c"]), squeeze(value="x"), squeeze(outputs=["y", "l"])])
def test_what_is_no_squeeze_excite_block_stays_apart(model: Any, tmp_path: Path) -> None:
    """Others read the tensor, or a step of it; or the product is one with another tensor."""
    found = traced(model, tmp_path)
    assert "Mul" in found.kernels.values()
    run(found, tmp_path)


def test_a_concatenation_that_others_read_keeps_its_words(tmp_path: Path) -> None:
    after = (*SHUFFLE[:3], node("Relu", ["c"], ["y"]))
    found = traced(concatenation(*after, outputs=["y", "s"]), tmp_path)
    assert "concat 4×6×6, 4×6×6 @6×6" in {without_borders(item.layer) for item in found.network.layers}
    run(found, tmp_path)


def test_a_concatenation_that_is_multiplied_keeps_its_words(tmp_path: Path) -> None:
    after = (node("Reshape", ["c", "flat"], ["f"]), node("MatMul", ["f", "m"], ["y"]))
    found = traced(concatenation(*after, outputs=["y"]), tmp_path)
    assert "concat 4×6×6, 4×6×6 @6×6" in {without_borders(item.layer) for item in found.network.layers}
    run(found, tmp_path)


def test_resize_keeps_its_scales(tmp_path: Path) -> None:
    model = model_of(
        [node("Conv", ["x", "w"], ["c"]), node("Resize", ["c", "", "scales"], ["y"], mode="nearest")],
        {"x": (FLOAT, (1, 3, 8, 8))},
        ["y"],
        {"w": floats(4, 3, 1, 1), "scales": np.array([1, 1, 2, 3], np.float32)},
    )
    found = traced(model, tmp_path)
    resize = named(found)["make y"].nodes[0]
    assert isinstance(resize.op, Subgraph)
    assert resize.op.output == (4, 16, 24)
    assert resize.op.weights[0].numbers == (1.0, 1.0, 2.0, 3.0)
    assert resize.op.calls[0].args[1] is None
    run(found, tmp_path)


def test_heads_folded_into_the_batch_are_one_layer(tmp_path: Path) -> None:
    folded = np.array([-1, 6, 4], np.int64)
    model = model_of(
        [
            node("MatMul", ["x", "w"], ["p"]),
            node("Add", ["p", "b"], ["q"]),
            node("Reshape", ["q", "split"], ["s"]),
            node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3]),
            node("Reshape", ["t", "folded"], ["h"]),
            node("Transpose", ["h"], ["k"], perm=[0, 2, 1]),
            node("MatMul", ["h", "k"], ["a"]),
            node("Softmax", ["a"], ["m"], axis=-1),
            node("MatMul", ["m", "h"], ["o"]),
            node("Reshape", ["o", "heads"], ["i"]),
            node("Transpose", ["i"], ["j"], perm=[0, 2, 1, 3]),
            node("Reshape", ["j", "joined"], ["y"]),
        ],
        {"x": (FLOAT, (2, 6, 8))},
        ["y"],
        {
            "w": floats(8, 8),
            "b": floats(8),
            "split": np.array([2, 6, 2, 4], np.int64),
            "folded": folded,
            "heads": np.array([2, 2, 6, 4], np.int64),
            "joined": np.array([2, 6, 8], np.int64),
        },
    )
    found = traced(model, tmp_path)
    assert any("Softmax" in text and "MatMul" in text for text in found.kernels.values())
    attention = next(item.layer for item in found.network.layers if "Softmax" in str(item.layer))
    assert attention.madds == 2 * 2 * 6 * 6 * 4
    # The projection before it stays a layer, though the runtime reshapes its result in the same operator.
    assert found.network.madds == attention.madds + 6 * 8 * 8
    assert all(shape[0] in (6, 2) for item in found.network.layers for shape in item.layer.inputs)
    run(found, tmp_path)


def test_integers_between_operators_are_no_border(tmp_path: Path) -> None:
    model = model_of(
        [
            node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
            node("Gather", ["table", "i"], ["e"]),
            node("Softmax", ["e"], ["y"]),
            node("ArgMax", ["y"], ["z"], axis=-1),
        ],
        {"x": (FLOAT, (3, 5, 7))},
        ["z"],
        {"table": floats(5, 4)},
    )
    found = traced(model, tmp_path)
    assert wiring(found) == {"make i": ("input",), "make y": ("make i",), "make z": ("make y",)}
    run(found, tmp_path)


def test_operators_that_the_runtime_recognises(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.narrow(nn.functional.gelu(self.wide(self.norm(x))))

    path = tmp_path / "net.onnx"
    export_model(Block().eval(), (torch.randn(2, 5, 8),), path)
    found = trace_onnx(load_onnx(path), name="block")
    described = [node.op for item in found.network.layers for node in item.layer.nodes]
    assert described[:3] == [LayerNorm(), Linear(out_features=16, bias=True), Activation(kind="gelu")]
    assert described[3] == Linear(out_features=8, bias=False)
    assert not any(isinstance(op, Subgraph) for op in described)
    run(found, tmp_path)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
def test_primitives_are_written_in_the_files_own_version(tmp_path: Path, opset: int) -> None:
    # A subgraph and primitives in one program: those that are newer than the file are written as their parts.
    model = model_of([node("LRN", ["x"], ["y"], size=3)], {"x": (FLOAT, (1, 8, 6, 6))}, ["y"], opset=opset)
    (item,) = traced(model, tmp_path).network.layers
    (lrn,) = item.layer.nodes
    kinds: Any = ["relu", "relu6", "sigmoid", "hardsigmoid", "hardswish", "silu", "gelu", "tanh"]
    mixed = chain((8, 6, 6), lrn.op, *(Activation(kind=kind) for kind in kinds), LayerNorm(), LayerNorm(bias=False))
    head = chain((8, 6, 6), lrn.op, Linear(out_features=4, bias=True), Flatten(), Linear(out_features=5, bias=False))
    target = OnnxTarget(threads=1, context="isolated")
    for layer in (mixed, head):
        assert target.run(target.prepare(layer, 0), 1) > 0


def test_a_cut_off_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    data = conv_net(opset=17, listed=False).SerializeToString()
    for length in (0, 1, len(data) // 3, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(UsageError, match=r"net\.onnx.*(cut off|holds no operators)") as caught:
            load_onnx(path)
        assert "\n" not in str(caught.value)
    path.write_text("<html>not found</html>")
    with pytest.raises(UsageError, match="no ONNX file"):
        load_onnx(path)
    with pytest.raises(UsageError, match="no such file"):
        load_onnx(tmp_path / "other.onnx")


def test_weights_in_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = conv_net(opset=17, listed=False)
    onnx.save_model(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    load_onnx(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UsageError, match="files of their own") as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


def test_open_shapes_are_refused_by_name_or_filled(tmp_path: Path) -> None:
    model = conv_net(opset=17, listed=False, size=("N", 3, "H", None))
    path = tmp_path / "net.onnx"
    onnx.save(model, str(path))
    with pytest.raises(UsageError, match=r"axis 0 \('N'\) of its input x open, Nx3xHx\?; .*--input"):
        load_onnx(path)
    with pytest.raises(UsageError, match="has 3 on axis 1, and 4 is given"):
        load_onnx(path, ((2, 4, 16, 16),))
    with pytest.raises(UsageError, match="has 4 axes"):
        load_onnx(path, ((2, 3, 16),))
    with pytest.raises(UsageError, match="has 1 inputs"):
        load_onnx(path, ((2, 3, 16, 16), (1,)))
    filled = load_onnx(path, ((2, 3, 16, 16),))
    save_onnx(filled, path)
    found = trace_onnx(load_onnx(path), name="net")
    assert found.batch == 2
    assert found.network.layers[0].layer == named(traced(conv_net(opset=17, listed=False), tmp_path))["make c"]
    run(found, tmp_path)


def test_custom_and_unknown_operators_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    inputs: Any = {"x": (FLOAT, (1, 4))}
    custom = [node("Relu", ["x"], ["r"]), node("Whiten", ["r"], ["y"], domain="acme.vision")]
    onnx.save(model_of(custom, inputs, ["y"], domains=["acme.vision"]), str(path))
    with pytest.raises(UsageError, match=r"custom operators .*: acme\.vision\.Whiten;"):
        load_onnx(path)
    onnx.save(model_of([node("Frobnicate", ["x"], ["y"])], inputs, ["y"]), str(path))
    with pytest.raises(UsageError, match="no operator Frobnicate"):
        load_onnx(path)
    contrib = [node("NoSuchThing", ["x"], ["y"], domain="com.microsoft")]
    onnx.save(model_of(contrib, inputs, ["y"], domains=["com.microsoft"]), str(path))
    with pytest.raises(UsageError, match=r"cannot load it: .*NoSuchThing"):
        trace_onnx(load_onnx(path), name="net")


def test_control_flow_is_refused_unless_it_is_decided(tmp_path: Path) -> None:
    def branch(kind: str) -> Any:
        return helper.make_graph(
            [node(kind, ["x"], [kind])], kind, [], [helper.make_tensor_value_info(kind, FLOAT, (1, 4))]
        )

    branches = {"then_branch": branch("Relu"), "else_branch": branch("Tanh")}
    nodes = [node("If", ["c"], ["y"], **branches)]
    inputs: Any = {"x": (FLOAT, (1, 4))}
    found = traced(model_of(nodes, inputs, ["y"], {"c": np.array(True)}), tmp_path)
    assert [item.layer for item in found.network.layers] == [chain((4,), Activation(kind="relu"))]
    open_one = model_of(nodes, {**inputs, "c": (TensorProto.BOOL, ())}, ["y"])
    with pytest.raises(UsageError, match=r"If 'make y', a control flow operator"):
        traced(open_one, tmp_path)


def test_settings_that_a_file_does_not_fit_are_said(tmp_path: Path) -> None:
    model = model_of([node("LRN", ["x"], ["y"], size=3)], {"x": (FLOAT, (2, 8, 6, 6))}, ["y"])
    (item,) = traced(model, tmp_path).network.layers
    whole = FileSource("net", str(tmp_path / "net.onnx"))
    other = OnnxTarget(batch=3, threads=1)
    with pytest.raises(LayerFailedError, match="batch 2 and cannot run with batch 3"):
        other.prepare(item.layer, 0)
    with pytest.raises(LayerFailedError, match="batch is 2, and the target's 3"):
        other.prepare_network(whole, 0)
    half = OnnxTarget(batch=2, threads=1, dtype="float16")
    with pytest.raises(LayerFailedError, match="dtype='float32'"):
        half.prepare(item.layer, 0)
    with pytest.raises(LayerFailedError, match="dtype='float32'"):
        half.prepare_network(whole, 0)
    with pytest.raises(LayerFailedError, match="export it first"):
        half.prepare_network(FactorySource("net", ModelSpec("net.py", "make", (), 0)), 0)


def test_a_layer_of_pytorchs_operators_is_refused_with_a_way_out() -> None:
    from profiler._trace import trace

    found = trace(nn.Softmax(1), (torch.randn(1, 6),), name="net")
    target = OnnxTarget(threads=1)
    with pytest.raises(LayerFailedError, match="--exporter dynamo"):
        target.prepare(found.network.layers[0].layer, 0)


def test_what_pytorch_cannot_export_says_why(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            raise TypeError(f"nothing to see in {type(x).__name__}")

    with pytest.raises(UsageError, match=r"cannot write the network.*dynamo: .*torchscript: .*nothing to see"):
        export_model(Branching(), (torch.randn(1, 4),), tmp_path / "net.onnx")


def light(name: str) -> TracedNetwork:
    """Return the layers of one of the real files."""
    path = DATA / f"light_{name}.onnx"
    if not path.is_file():
        pytest.skip(f"the real ONNX files are not here: {path}")
    return trace_onnx(load_onnx(path), name=name)


# Multiply-adds in millions, parameters in millions, convolutions that ONNX Runtime runs, and operators that are no work
# beside weights. Equal weights make two convolutions of inception equal, which the runtime computes once.
LIGHT = {
    "resnet50": (4089, 25.56, 53, {}),
    "squeezenet": (349, 1.24, 26, {"Dropout": 1}),
    "shufflenet": (125, 1.39, 49, {}),
    "inception_v1": (1397, 6.90, 55, {"Conv": 2, "Relu": 2, "Dropout": 1, "Reshape": 1}),
}


@pytest.mark.parametrize("name", LIGHT)
def test_real_files_are_covered(name: str) -> None:
    found = light(name)
    madds, parameters, convolutions, idle = LIGHT[name]
    assert found.network.madds / 1e6 == pytest.approx(madds, abs=1)
    assert found.network.parameters / 1e6 == pytest.approx(parameters, abs=0.01)
    # None is lost in a subgraph.
    ops = Counter(type(node.op) for item in found.network.layers for node in item.layer.nodes)
    assert ops[Conv2d] == convolutions
    model = onnx.load(str(DATA / f"light_{name}.onnx"))
    assert found.operators + sum(found.idle.values()) == len(model.graph.node)
    assert {kind: count for kind, count in found.idle.items() if kind != "ConstantOfShape"} == idle
    assert set(found.kernels) == {item.name for item in found.network.layers}
    assert found.network.as_layer().output_shape


def test_a_real_files_layers_run() -> None:
    found = light("squeezenet")
    target = OnnxTarget(threads=1, context="isolated")
    for layer in dict.fromkeys(item.layer for item in found.network.layers):
        assert target.run(target.prepare(layer, 0), 1) > 0
    # The whole, rebuilt from its layers, through the same writer.
    whole = target.prepare_network(LayersSource(found.network), 0)
    assert target.run(whole, 1) > 0

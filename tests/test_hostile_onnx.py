"""ONNX files and ONNX layers that somebody made to break what reads them: each is refused in one line, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx: the extra onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: the extra onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper

from lut import Layer, LayerError
from lut._layer import Node
from lut.errors import LatencyLutError, LayerFailedError
from lut.subgraph import Call, Given, Ref, Subgraph, Weight
from profiler._onnx._check import reason_of
from profiler._onnx._file import load_onnx, trace_onnx
from profiler._onnx._graph import to_onnx
from profiler._onnx._programs import lone
from profiler._traced import TracedNetwork

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    """Return a node that is named after its first output."""
    return helper.make_node(kind, inputs, outputs, name=f"make {outputs[0]}", **attributes)


def model_of(
    nodes: Sequence[Any], weights: dict[str, Any] | None = None, *, shape: Sequence[int] = (1, 4), opset: int = 17
) -> Any:
    """Return a model from ``x`` to ``y``."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    given = [helper.make_tensor_value_info("x", FLOAT, shape)]
    graph = helper.make_graph(list(nodes), "net", given, [helper.make_empty_tensor_value_info("y")], tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 8
    return model


def small() -> Any:
    """Return a model that is in order."""
    return model_of([node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])], {"w": np.ones((4, 4), np.float32)})


def integers(*values: int) -> Any:
    """Return a vector of 64-bit integers."""
    return np.array(values, dtype=np.int64)


def refusal(model: Any, folder: Path) -> str:
    """Return the one line with which a model is refused."""
    path = folder / "net.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(LatencyLutError) as caught:
        trace_onnx(load_onnx(path), name="net.onnx")
    text = str(caught.value)
    assert "net.onnx" in text
    assert "\n" not in text
    assert len(text) < 800
    return text


def added(kind: str, inputs: Sequence[str], weights: dict[str, Any], **attributes: Any) -> Any:
    """Return a model that adds to its input all that an operator gives."""
    return model_of(
        [
            node(kind, inputs, ["z"], **attributes),
            node("ReduceSum", ["z"], ["r"]),
            node("Cast", ["r"], ["f"], to=FLOAT),
            node("Add", ["x", "f"], ["y"]),
        ],
        weights,
    )


BOMBS: dict[str, Callable[[], Any]] = {
    "ConstantOfShape": lambda: added("ConstantOfShape", ["n"], {"n": integers(10**6, 10**6)}),
    "Expand": lambda: added("Expand", ["one", "n"], {"one": np.float32(1), "n": integers(10**5, 10**5)}),
    "Tile": lambda: added("Tile", ["one", "n"], {"one": np.ones(1, np.float32), "n": integers(10**10)}),
    "Range": lambda: added("Range", ["a", "b", "c"], {"a": np.int64(0), "b": np.int64(10**11), "c": np.int64(1)}),
    "Pad": lambda: added("Pad", ["x", "p"], {"p": integers(0, 0, 0, 10**11)}),
    # Two matrices of zeros that take no space in the file, and minutes to multiply.
    "MatMul": lambda: model_of(
        [
            node("ConstantOfShape", ["n"], ["z"]),
            node("MatMul", ["z", "z"], ["p"]),
            node("ReduceSum", ["p"], ["r"]),
            node("Add", ["x", "r"], ["y"]),
        ],
        {"n": integers(8000, 8000)},
    ),
    "axes": lambda: added("ConstantOfShape", ["n"], {"n": np.ones(10_000, np.int64)}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_becomes_huge_is_refused_before_anything_computes_it(tmp_path: Path, bomb: str) -> None:
    assert bomb in refusal(BOMBS[bomb](), tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux only")
def test_what_becomes_huge_only_when_it_runs_meets_a_bound(tmp_path: Path) -> None:
    hidden = model_of(
        [
            node("Pow", ["k", "two"], ["n"]),
            node("ConstantOfShape", ["n"], ["z"]),
            node("ReduceSum", ["z"], ["r"]),
            node("Add", ["x", "r"], ["y"]),
        ],
        {"k": integers(50_000), "two": integers(2)},
    )
    assert "allocate" in refusal(hidden, tmp_path)


def changed(change: Callable[[Any], object]) -> Any:
    """Return the small model with a change."""
    model = small()
    change(model)
    return model


def first_dims(*sizes: int) -> Callable[[Any], object]:
    """Return a change of what the first weight says that its shape is."""

    def change(model: Any) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(sizes)

    return change


def call_each_other(model: Any) -> None:
    """Add two functions that call each other."""
    for name, other in (("F", "G"), ("G", "F")):
        body = [helper.make_node(other, ["a"], ["b"], domain="own")]
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    model.graph.node[1].CopyFrom(helper.make_node("F", ["m"], ["y"], domain="own"))


def double(model: Any) -> None:
    """Add forty functions, each of which calls the one before it ten times."""
    for level in range(40):
        kind, domain = ("Relu", "") if level == 0 else (f"F{level - 1}", "own")
        values = ["a", *(f"v{i}" for i in range(9)), "b"]
        body = [helper.make_node(kind, [values[i]], [values[i + 1]], domain=domain) for i in range(10)]
        model.functions.append(
            helper.make_function("own", f"F{level}", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
        )
    model.graph.node[1].CopyFrom(helper.make_node("F39", ["m"], ["y"], domain="own"))


def nest(model: Any) -> None:
    """Put conditions into each other."""
    graph = helper.make_graph([helper.make_node("Relu", ["m"], ["o"])], "g", [], [onnx.ValueInfoProto(name="o")])
    for level in range(20):
        inner = helper.make_node("If", ["m"], [f"o{level}"], then_branch=graph)
        graph = helper.make_graph([inner], "g", [], [onnx.ValueInfoProto(name=f"o{level}")])
    model.graph.node[1].CopyFrom(helper.make_node("If", ["m"], ["y"], then_branch=graph))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (first_dims(4, 5), "the weight w holds 64 bytes, and its shape and type need 80"),
        (first_dims(4, -1), "a size of -1"),
        (first_dims(2**31 - 1, 2**31 - 1), "elements, and"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 77), "of type number 77, which ONNX does not have"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99), "of type number 99"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "two weights called w"),
        (lambda m: m.graph.input.append(m.graph.input[0]), "two inputs called x"),
        (lambda m: m.graph.node.append(m.graph.node[0]), "gives m, which is something else already"),
        (lambda m: m.graph.node.reverse(), "Relu 'make y' takes m, which nothing before it gives"),
        (lambda m: m.graph.node[0].input.append("w"), "MatMul 'make m' has 3 inputs, and 2 belong there"),
        (lambda m: m.graph.node[0].input.pop(), "has 1 inputs"),
        (lambda m: m.graph.node[1].attribute.append(helper.make_attribute("alpha", 1.0)), "the attribute alpha"),
        (lambda m: m.graph.output.append(onnx.ValueInfoProto(name="nowhere")), "no operator gives its output nowhere"),
        (lambda m: m.graph.input[0].ClearField("type"), "is no tensor"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].Clear(), "leaves axis 0 of its input x open"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2**40), "a size of"),
        (lambda m: setattr(m.opset_import[0], "version", 0), "operators are version 0"),
        (lambda m: setattr(m.opset_import[0], "version", -5), "operators are version -5"),
        (lambda m: setattr(m.opset_import[0], "version", 999), "operators are version 999"),
        (lambda m: m.opset_import.append(helper.make_opsetid("", 9)), "two versions"),
        (lambda m: setattr(m.graph.node[1], "domain", "evil"), "custom operators"),
        (lambda m: setattr(m.graph.node[1], "op_type", "[/]\x1b[2J"), r"ONNX has no operator [/]\x1b[2J"),
        (
            lambda m: m.graph.node[1].CopyFrom(node("EPContext", ["m"], ["y"], domain="com.microsoft")),
            "another program",
        ),
        (call_each_other, "calls itself"),
        (double, "written out, its functions are more than"),
        (nest, "lie more than"),
        (lambda m: m.graph.node[1].ClearField("output"), "gives nothing"),
        (lambda m: m.graph.ClearField("node"), "holds no operators"),
        (lambda m: setattr(m.graph.node[1], "name", "n" * 5000), "longer than"),
    ],
)
def test_a_file_that_is_out_of_order_is_refused_with_the_place(
    tmp_path: Path, change: Callable[[Any], object], problem: str
) -> None:
    assert problem in refusal(changed(change), tmp_path)


def test_names_that_are_no_text_and_other_formats_are_refused(tmp_path: Path) -> None:
    content = small().SerializeToString()
    assert "no text (UTF-8)" in refusal(content.replace(b"make m", b"make\xff "), tmp_path)
    assert ".ort" in refusal(b"\x1c\x00\x00\x00ORTM" + content, tmp_path)
    assert "cut off or no ONNX file" in refusal(bytes(1 << 16), tmp_path)
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    with pytest.raises(LatencyLutError, match="named pipe"):
        load_onnx(pipe)


def test_settings_for_the_runtime_in_a_file_reach_no_session(tmp_path: Path) -> None:
    model = small()
    model.metadata_props.add(key="ort_config", value='{"session_options": {"enable_profiling": 1}}')
    onnx.save(model, str(tmp_path / "net.onnx"))
    assert not load_onnx(tmp_path / "net.onnx").metadata_props


def external(folder: Path, **entries: str) -> str:
    """Return how a model is refused whose weight lies where ``entries`` say."""
    model = small()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    return refusal(model, folder)


def test_weights_in_files_of_their_own_lie_in_the_models_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "data").write_bytes(bytes(64))
    os.mkfifo(folder / "pipe")
    for place in ("../secret", str(tmp_path / "secret"), "a/../../secret", "", "*/_ORT_MEM_ADDR_/*", "..\\secret"):
        assert "the weight w" in external(folder, location=place)
    assert "is a link" in external(folder, location="link")
    assert "no regular file" in external(folder, location="pipe")
    assert "files of their own" in external(folder, location="missing")
    assert "too short" in external(folder, location="data", offset="1")
    assert "no number of bytes" in external(folder, location="data", offset="-1")
    assert "its shape and type need 64" in external(folder, location="data", length="63")


def test_an_error_in_cpp_is_its_reason_alone() -> None:
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: /onnxruntime_src/core/split.h:113 "
        "onnxruntime::SplitBase::SplitBase(const KernelInfoType&, uint32_t) [with KernelInfoType = X; uint32_t = "
        "unsigned int] If 'num_outputs' is specified, 'split' should not be provided.\n"
    )
    assert reason_of(RuntimeError(text)) == (
        "Exception during initialization: If 'num_outputs' is specified, 'split' should not be provided."
    )
    assert reason_of(RuntimeError("")) == "RuntimeError"


def test_a_layer_that_gives_integers_keeps_its_digest_through_json(tmp_path: Path) -> None:
    # Only ONNX Runtime knows this operator, so its output's type comes from a run.
    model = model_of(
        [
            node("Gelu", ["x"], ["g"], domain="com.microsoft"),
            node("Cast", ["g"], ["y"], to=TensorProto.INT64),
        ]
    )
    onnx.save(model, str(tmp_path / "net.onnx"))
    traced = trace_onnx(load_onnx(tmp_path / "net.onnx"), name="net")
    assert msgspec.json.decode(msgspec.json.encode(traced), type=TracedNetwork) == traced
    layers = [item.layer for item in traced.network.layers]
    assert any(item.op.gives == "int64" for layer in layers for item in layer.nodes if isinstance(item.op, Subgraph))
    for layer in layers:
        again = msgspec.json.decode(msgspec.json.encode(layer), type=Layer)
        assert (again, again.digest) == (layer, layer.digest)


VALUE = Ref(kind="value", of=0)


def layer_of(*calls: Call, opset: int = 17, weights: tuple[Weight, ...] = ()) -> Layer:
    """Return a layer as it might stand in a table."""
    op = Subgraph(
        framework="onnx",
        batch=1,
        inputs=(Given(shape=(4,)),),
        weights=weights,
        calls=calls,
        output=(4,),
        opset=opset,
    )
    return Layer(inputs=((4,),), nodes=(Node(op=op, args=(0,)),))


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (Call(op="Loop", args=(VALUE,)), "Loop is no operator that a layer may call"),
        (Call(op="com.microsoft.EPContext", args=(VALUE,)), "no operator that a layer may call"),
        (Call(op="evil.Relu", args=(VALUE,)), "no operator that a layer may call"),
        (Call(op="__import__('os')", args=(VALUE,)), "is no operator's name"),
        (Call(op="Re\nlu", args=(VALUE,)), "is no operator's name"),
        (Call(op="Frobnicate", args=(VALUE,)), "ONNX has no operator Frobnicate"),
        (Call(op="Relu", args=(VALUE,), named=(("a b", 1),)), "no argument's name"),
        (Call(op="Relu", args=(VALUE,), named=(("alpha", None),)), "without a value"),
        (Call(op="Relu", args=(VALUE,), named=(("alpha", 1), ("alpha", 2))), "twice"),
        (Call(op="Relu", args=(3,)), "takes something else than values"),
        (Call(op="Relu", args=(VALUE,), named=(("@outputs", ()),)), "which of its outputs"),
        (Call(op="Relu", args=(VALUE,), named=(("@tensor:value", ("float32", 10**9)),)), "not written as one"),
        (Call(op="Relu", args=(VALUE,), named=(("@tensor:value", ("object", 0, 1)),)), "not written as one"),
        (Call(op="Elu", args=(VALUE,), named=(("alpha", Ref(kind="float", of="1e9")),)), "no float '1e9'"),
        (Call(op="getitem", args=(VALUE, 0)), "one of several outputs"),
    ],
)
def test_a_layer_out_of_a_file_calls_known_operators_by_plain_names(call: Call, problem: str) -> None:
    import torch

    with pytest.raises((LayerFailedError, LayerError)) as caught:
        # What can be told without knowing ONNX is refused where the file is read.
        to_onnx(lone(layer_of(call), 0), None, [torch.zeros(1, 4)], "direct")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layers_weights_are_bounded_as_a_whole() -> None:
    import torch

    relu = Call(op="Relu", args=(VALUE,))
    many = layer_of(relu, weights=(Weight(shape=(1 << 28,), role="buffer"),) * 8)
    with pytest.raises(LayerFailedError, match="weights, and an ONNX model in one piece") as caught:
        to_onnx(lone(many, 0), None, [torch.zeros(1, 4)], "direct")
    assert caught.value.reason == "out_of_memory"
    with pytest.raises(LayerFailedError, match="operators are version 999"):
        to_onnx(lone(layer_of(relu, opset=999), 0), None, [torch.zeros(1, 4)], "direct")


FUZZ = """
import random, resource, signal, sys
from pathlib import Path

import onnx
import onnxruntime

from lut.errors import LatencyLutError
from profiler._onnx._file import load_onnx, trace_onnx

onnxruntime.set_default_logger_severity(4)
path, seeds, cases = Path(sys.argv[1]), [Path(p).read_bytes() for p in sys.argv[3:]], int(sys.argv[2])
rng = random.Random(7)
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
numbers = [0, 1, -1, 7, 10**6, 10**9, 10**12, 2**31, 2**63 - 1, -(2**63)]


def messages(message):
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if hasattr(value, "add") else [value]:
                yield from messages(each)


def altered(content):
    if rng.random() < 0.5:
        data = bytearray(content)
        for _ in range(rng.choice([1, 1, 3])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)
    model = onnx.ModelProto.FromString(content)
    message = rng.choice(list(messages(model)))
    fields = [field for field, _ in message.ListFields()]
    if not fields:
        return model.SerializeToString()
    field = rng.choice(fields)
    value = getattr(message, field.name)
    try:
        if rng.random() < 0.2:
            message.ClearField(field.name)
        elif isinstance(value, int):
            setattr(message, field.name, rng.choice(numbers))
        elif isinstance(value, str):
            setattr(message, field.name, rng.choice(["", "x", "y", "[/]\\x1b[2J", "w" * 3000]))
        elif hasattr(value, "append") and len(value):
            if isinstance(value[0], int):
                value[rng.randrange(len(value))] = rng.choice(numbers)
            else:
                value.append(value[0])
    except ValueError:
        pass
    return model.SerializeToString()


counts = {"read": 0, "refused": 0}
for case in range(cases):
    path.write_bytes(altered(rng.choice(seeds)))
    # An alarm that nothing handles ends the process: a hang is a failure like a crash.
    signal.alarm(60)
    try:
        trace_onnx(load_onnx(path), name="fuzz")
        counts["read"] += 1
    except LatencyLutError as error:
        counts["refused"] += 1
        assert "\\n" not in str(error), str(error)
status = Path("/proc/self/status")
peak = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line] if status.exists() else [0]
print(counts["read"], counts["refused"], int(peak[0]) >> 10)
"""


def test_altered_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    seeds = {
        "matmul": small(),
        "conv": model_of(
            [
                node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
                node("Relu", ["c"], ["r"]),
                node("GlobalAveragePool", ["r"], ["g"]),
                node("Flatten", ["g"], ["y"]),
            ],
            {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)},
            shape=(2, 3, 8, 8),
        ),
        "shapes": model_of(
            [
                node("ConstantOfShape", ["n"], ["z"]),
                node("Expand", ["z", "e"], ["b"]),
                node("Add", ["x", "b"], ["a"]),
                node("Tile", ["a", "t"], ["l"]),
                node("Slice", ["l", "s", "f"], ["y"]),
            ],
            {
                "n": integers(1, 4),
                "e": integers(1, 4),
                "t": integers(1, 2),
                "s": integers(0, 1),
                "f": integers(1, 6),
            },
        ),
    }
    places = []
    for name, model in seeds.items():
        places.append(tmp_path / f"{name}.onnx")
        places[-1].write_bytes(model.SerializeToString())
    (tmp_path / "fuzz.py").write_text(FUZZ)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "fuzz.py"), str(tmp_path / "case.onnx"), "200", *map(str, places)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused, mib = map(int, done.stdout.split())
    assert read + refused == 200
    assert read > 20
    assert refused > 20
    assert mib < 2048

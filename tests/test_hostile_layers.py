"""Layers out of files: nothing in one becomes source text, an import or an attribute, and nothing costs minutes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lut import Layer, LayerError, Network, NetworkLayer, UsageError, conv_norm_act
from lut._layer import Node
from lut.subgraph import Call, Given, Ref, Subgraph, Weight
from profiler import build_module
from profiler._layers_file import load_layers
from profiler._subgraph import Traced, function_of

X = Ref(kind="value", of=0)


def _subgraph(*calls: Call, **fields: Any) -> Subgraph:
    made: dict[str, Any] = {
        "framework": "torch",
        "batch": 1,
        "inputs": (Given(shape=(4, 8, 8)),),
        "weights": (),
        "calls": calls,
        "output": (4, 8, 8),
    }
    return Subgraph(**{**made, **fields})


def _layer(*calls: Call, **fields: Any) -> Layer:
    return Layer(inputs=((4, 8, 8),), nodes=(Node(op=_subgraph(*calls, **fields), args=(0,)),))


@pytest.mark.parametrize(
    "name",
    [
        "a=__import__('pathlib').Path('proof-that-code-ran').touch(), b",
        "a b",
        "",
        "x\n",
        "self.__class__",
        "ａ",
        "1a",
    ],
)
def test_a_name_of_an_argument_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LayerError, match=r"call 0 \(aten.relu.default\): .* is no argument's name"):
        _layer(Call(op="aten.relu.default", args=(X,), named=((name, 1),)))
    item = {
        "inputs": [[4, 8, 8]],
        "nodes": [
            {
                "op": {
                    "op": "subgraph",
                    "framework": "torch",
                    "batch": 4,
                    "inputs": [{"shape": [4, 8, 8]}],
                    "weights": [],
                    "output": [4, 8, 8],
                    "calls": [{"op": "aten.relu.default", "args": [{"kind": "value", "of": 0}], "named": [[name, 1]]}],
                },
                "args": [0],
            }
        ],
    }
    Path("layers.json").write_text(json.dumps([item]))
    with pytest.raises(UsageError, match=r"layers.json: layer 0 .*no argument's name") as error:
        load_layers("layers.json")
    assert "\n" not in str(error.value).replace("\\n", "")
    assert set(os.listdir()) == {"layers.json", ".own"}  # noqa: PTH208 - the names are what is asked for


@pytest.mark.parametrize(
    "op",
    [
        "import_module.__self__.import_module",
        "aten.relu.default.__init__.__globals__",
        "aten",
        "aten.",
        ".relu.default",
        "aten.relu.default; import os",
        "aten.re lu.default",
        "_c10d_functional.all_reduce.default",
        "getitem.x.y.z",
        "",
    ],
)
def test_what_is_no_operators_name_is_refused_in_the_file(op: str) -> None:
    with pytest.raises(LayerError, match="is no operator's name"):
        _layer(Call(op=op, args=(X,)))


@pytest.mark.parametrize(
    ("op", "why"),
    [
        ("import_module.loader", "is not of PyTorch's own"),
        ("profiler.enter", "is not of PyTorch's own"),
        ("c10d.allreduce_.default", "is not of PyTorch's own"),
        ("aten.name", "has no operator"),
        ("aten.loader", "has no operator"),
        ("aten.relu.__init__", "has no operator"),
        ("aten.__class__.default", "has no operator"),
        ("aten.relu.schemas", "has no operator"),
        ("aten.relu.out_of_this_world", "has no operator"),
        ("aten.rename_.default", "has no operator"),
        # TorchScript's interpreter knows these, and the dispatcher does not.
        ("aten.set_grad_enabled.default", "has no operator"),
        ("aten.zfill.default", "has no operator"),
        ("aten.equal.default", "gives something else than tensors"),
        ("aten.size.int", "gives something else than tensors"),
    ],
)
def test_operators_are_looked_up_among_those_that_are_registered(op: str, why: str) -> None:
    with pytest.raises(LayerError, match=why):
        Traced(_subgraph(Call(op=op, args=(X,))))


@pytest.mark.parametrize(
    "op",
    [
        "aten.from_file.default",
        "aten._print.default",
        "aten.set_.source_Tensor",
        "aten.set_data.default",
        "aten.manual_seed.default",
    ],
)
def test_operators_that_do_more_than_compute_are_never_called(op: str) -> None:
    with pytest.raises(LayerError, match="does more than compute"):
        _layer(Call(op=op, args=(X,)))
    with pytest.raises(LayerError, match="does more than compute"):
        function_of(op)


def test_an_operator_that_takes_foreign_memory_is_refused_by_its_schema() -> None:
    with pytest.raises(LayerError, match="does more than compute"):
        function_of("aten.set.source_Storage")


def test_no_file_is_made_by_a_layer(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(LayerError):
        _layer(Call(op="aten.from_file.default", args=(str(target),), named=(("shared", True), ("size", 10))))
    assert not target.exists()


def test_an_operator_of_the_users_own_runs_only_where_it_is_allowed() -> None:
    library = torch.library.Library("latency_lut_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeImplicitAutograd")
    # A name that only PyTorch's own operator has a bad one of.
    library.define("set(Tensor x) -> Tensor")
    library.impl("set", lambda x: x + 1, "CompositeImplicitAutograd")
    layer = _layer(Call(op="latency_lut_test.twice.default", args=(X,)))
    assert "twice" in str(layer)
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(build_module(layer, {"latency_lut_test"})(x), x * 2)
    other = _layer(Call(op="latency_lut_test.set.default", args=(X,)))
    assert torch.equal(build_module(other, {"latency_lut_test"})(x), x + 1)
    with pytest.raises(LayerError, match=r"runs only in a process that imports what registers it"):
        build_module(layer)


@pytest.mark.parametrize(
    ("ref", "what"),
    [
        (Ref(kind="dtype", of="load"), "no dtype 'load'"),
        (Ref(kind="dtype", of="hub"), "no dtype 'hub'"),
        (Ref(kind="memory_format", of="os"), "no memory_format 'os'"),
        (Ref(kind="float", of="1e5"), "no float '1e5'"),
        (Ref(kind="float", of=3), "no float '3'"),
        (Ref(kind="value", of="0"), "which is no number"),
        (Ref(kind="value", of=1), "do not come before it"),
        (Ref(kind="value", of=-1), "do not come before it"),
    ],
)
def test_references_name_what_is_in_a_list_of_ours(ref: Ref, what: str) -> None:
    with pytest.raises(LayerError, match=what):
        _layer(Call(op="aten.relu.default", args=(ref,)))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"weights": (Weight(shape=(2**31 - 1, 2**31 - 1)),)}, "a weight of"),
        ({"weights": (Weight(shape=(1 << 17, 1 << 17)),) * 2}, "2\\^34 elements in all"),
        ({"weights": (Weight(shape=(1,)),) * 10_001}, "more than 10000"),
        ({"multiply_adds": 2**63}, "multiply_adds"),
        ({"opset": -1}, "no opset"),
        ({"batch": 0}, "batch must be positive"),
        ({"output": (-1,)}, "an output of"),
        ({"inputs": (Given(shape=(4, 8, 8), dtype="int64", below=2**64),)}, "an input of integers"),
    ],
)
def test_sizes_and_counts_are_bounded(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(LayerError, match=what):
        _layer(Call(op="aten.relu.default", args=(X,)), **fields)


def test_arguments_are_bounded() -> None:
    for argument, what in ((2**70, "beyond 64 bits"), ("x" * 70_000, "a text of 70000 characters")):
        with pytest.raises(LayerError, match=what):
            _layer(Call(op="aten.relu.default", args=(X, argument)))
    with pytest.raises(LayerError, match="given twice"):
        _layer(Call(op="aten.relu.default", args=(X,), named=(("a", 1), ("a", 2))))
    with pytest.raises(LayerError, match="between 1 and 2000 calls"):
        _layer(*[Call(op="aten.relu.default", args=(X,))] * 2001)


@pytest.mark.parametrize("count", [0, -5, 10**8, 2**53])
def test_a_layer_stands_a_sensible_number_of_times(count: int) -> None:
    layer = conv_norm_act(3, 8, kernel_size=3, stride=1, activation="relu", input_size=(8, 8))
    with pytest.raises(LayerError, match=r"stands .* times: between 1 and 1000000"):
        NetworkLayer("a", layer, count)
    encoded = msgspec.json.encode(Network("n", (NetworkLayer("a", layer),))).replace(
        b'"count":1', b'"count":%d' % count
    )
    with pytest.raises(msgspec.ValidationError, match=r"stands .* times.*layers\["):
        msgspec.json.decode(encoded, type=Network)


def test_a_network_of_very_many_operators_is_no_layer() -> None:
    layer = conv_norm_act(8, 8, kernel_size=3, stride=1, activation="relu", input_size=(8, 8))
    with pytest.raises(LayerError, match="3000000 operators"):
        Network("n", (NetworkLayer("a", layer, 1_000_000),)).as_layer()


def test_a_default_that_was_read_is_left_out_like_one_that_was_made() -> None:
    made = _layer(Call(op="aten.relu.default", args=(X,)), gives="".join(["float", "32"]))
    read = msgspec.json.decode(msgspec.json.encode(made), type=Layer)
    written = _layer(Call(op="aten.relu.default", args=(X,)))
    assert made.digest == read.digest == written.digest
    other = _layer(Call(op="aten.relu.default", args=(X,)), gives="".join(["int", "64"]))
    assert msgspec.json.decode(msgspec.json.encode(other), type=Layer).digest == other.digest != made.digest


CALLS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=5),
        st.builds(
            dict, kind=st.sampled_from(["value", "dtype", "float", "x"]), of=st.one_of(st.integers(-2, 9), st.text())
        ),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
NAMES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(dir(torch.ops.aten) + dir(torch.ops)).map(lambda name: f"aten.{name}"),
    st.sampled_from(dir(torch.ops)).map(lambda name: f"{name}.{name}"),
    st.sampled_from(["aten.relu.default", "aten.add.Tensor", "getitem", "aten.cat.default"]),
)


@given(NAMES, st.lists(CALLS, max_size=3), st.lists(st.tuples(st.text(max_size=6), CALLS), max_size=2))
def test_any_call_is_refused_or_computes(op: str, args: list[Any], named: list[Any]) -> None:
    """Whatever a file says of a call: it is decoded and built, or refused by our own errors."""
    call = msgspec.json.encode({"op": op, "args": args, "named": named})
    text = msgspec.json.encode({"op": "subgraph", "framework": "torch", "batch": 1, "inputs": [{"shape": [4]}]})
    text = text[:-1] + b',"weights":[],"output":[4],"calls":[' + call + b"]}"
    layer = b'{"inputs":[[4]],"nodes":[{"args":[0],"op":' + text + b"}]}"
    try:
        decoded = msgspec.json.decode(layer, type=Layer)
    except msgspec.DecodeError:
        return
    try:
        module = build_module(decoded)
    except LayerError:
        return
    operator = module.get_submodule("0")
    assert isinstance(operator, Traced)

"""Valid files for the attack to begin with, made without measuring anything."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from lut import LatencyTable
    from predictors import LatencyPredictor

# The suite's simulated sessions, bundles and timings are the samples here too.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))


def simulated_table(reference: Path) -> LatencyTable:
    """Return a table of a curve of widths, from a simulated session."""
    from conftest import curve_of, simulate, table_of

    curve = curve_of((4, 8, 12, 16, 20, 24, 28, 32))
    plan, result, _ = simulate(curve.layers)
    return table_of(plan, result, reference, [curve])


def simulated_predictor(reference: Path) -> LatencyPredictor:
    """Return a predictor of a simulated device, calibrated on simulated networks."""
    from conftest import simulate, table_of

    from predictors import LatencyPredictor
    from profiler._sources import subject_of
    from search.spaces import ResNetCifar

    space = ResNetCifar(depth=8)
    rng = random.Random(0)
    networks = {network.layers: network for network in (space.decode(space.sample(rng)) for _ in range(12))}
    subjects = [subject_of(type(n)(f"network {i}", n.layers)) for i, n in enumerate(networks.values())]
    layers = tuple(dict.fromkeys(item.layer for subject in subjects for item in subject.network.layers))
    plan, result, _ = simulate(layers, networks=subjects)
    return LatencyPredictor.fit(table_of(plan, result, reference, networks=subjects))


def simulated_bundle(folder: Path) -> None:
    """Write a bundle whose programs are text files, and timings of it."""
    from _coreml_bundles import make_bundle, make_timings
    from conftest import curve_of

    curve = curve_of((4, 8, 12))
    manifest = make_bundle(folder / "bundle", curve.layers, curves=[curve])
    timings = make_timings(manifest, lambda layer: 0.1 + layer.madds / 1e9)
    (folder / "timings.json").write_bytes(msgspec.json.encode(timings))


def small_onnx_models() -> dict[str, bytes]:
    """Return a few models that each have something of their own: weights, branches, integers, functions of shapes."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def info(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(np.random.default_rng(0).normal(size=shape).astype(np.float32), name)

    def model(nodes: list[Any], weights: list[Any], inputs: list[Any], outputs: list[Any]) -> bytes:
        graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(made.SerializeToString())

    node = helper.make_node
    image, small = info("x", [1, 3, 8, 8]), info("y", [1, 4, 8, 8])
    shape = numpy_helper.from_array(np.array([1, -1], dtype=np.int64), "shape")
    indices = numpy_helper.from_array(np.array([0, 2], dtype=np.int64), "indices")
    return {
        "conv.onnx": model(
            [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["y"])],
            [weight("w", 4, 3, 3, 3)],
            [image],
            [small],
        ),
        "branches.onnx": model(
            [
                node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
                node("Sigmoid", ["a"], ["s"]),
                node("Mul", ["a", "s"], ["m"]),
                node("Resize", ["m", "", "scales"], ["r"], mode="nearest"),
                node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
            ],
            [weight("w", 4, 3, 3, 3), numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")],
            [image],
            [small],
        ),
        "head.onnx": model(
            [
                node("GlobalAveragePool", ["x"], ["p"]),
                node("Reshape", ["p", "shape"], ["f"]),
                node("Gather", ["f", "indices"], ["g"], axis=1),
                node("Gemm", ["g", "w", "b"], ["y"], transB=1),
            ],
            [shape, indices, weight("w", 5, 2), weight("b", 5)],
            [image],
            [info("y", [1, 5])],
        ),
        "constant.onnx": model(
            [
                node("Shape", ["x"], ["s"]),
                node("ConstantOfShape", ["s"], ["c"], value=numpy_helper.from_array(np.array([2.0], np.float32))),
                node("Add", ["x", "c"], ["y"]),
            ],
            [],
            [image],
            [info("y", [1, 3, 8, 8])],
        ),
    }


def mutated_model(content: bytes, rng: random.Random) -> bytes:
    """Return a model with some fields changed to other values of their types: it still parses."""
    import onnx
    from _attack_mutations import NUMBERS, PAYLOADS

    model = onnx.load_model_from_string(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        messages = list(_messages(model))
        message = rng.choice(messages)
        fields = [field for field in message.DESCRIPTOR.fields if _is_set(message, field)] or list(
            message.DESCRIPTOR.fields
        )
        field = rng.choice(fields)
        repeated = field.is_repeated
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            if repeated and len(getattr(message, field.name)):
                values = getattr(message, field.name)
                at = rng.randrange(len(values))
                if rng.random() < 0.5:
                    del values[at]
                else:
                    values.add().CopyFrom(values[at])
            else:
                message.ClearField(field.name)
            continue
        value: Any
        if field.cpp_type == field.CPPTYPE_STRING:
            text = rng.choice(PAYLOADS).encode(errors="replace").decode(errors="replace")
            value = text.encode() if field.type == field.TYPE_BYTES else text
        elif field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            value = float(rng.choice([n for n in NUMBERS if abs(n) < 1e38]))
        elif field.cpp_type == field.CPPTYPE_ENUM:
            value = rng.choice(list(field.enum_type.values_by_number))
        else:
            most = 2**31 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 2**63
            value = rng.choice([n for n in NUMBERS if isinstance(n, int) and -most <= n < most])
        try:
            if repeated:
                values = getattr(message, field.name)
                if len(values) and rng.random() < 0.7:
                    values[rng.randrange(len(values))] = value
                else:
                    values.extend([value] * rng.choice((1, 3, 1000)))
            else:
                setattr(message, field.name, value)
        except (TypeError, ValueError):
            continue
    return bytes(model.SerializeToString())


def _is_set(message: Any, field: Any) -> bool:
    return any(field.name == listed.name for listed, _ in message.ListFields())


def _messages(message: Any) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)

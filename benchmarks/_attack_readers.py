"""The readers that are attacked: for each, valid files, how they are altered with their hashes made good, and how read.

What is only ever done in a process of its own (running a layer, loading a user's network) is not done here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
from math import prod
from pathlib import Path
from typing import Any

import _attack_archives
import _attack_search
import msgspec
from _attack_kinds import Reader, altering, altering_lines, json_or_bytes, sealed
from _attack_mutations import NUMBERS, PAYLOADS, encoded, mutated_bytes, mutated_json

from lut import LatencyTable, UsageError, save_network

# Elements of a layer that is built here; larger ones are the measuring process's, which looks at the memory first.
MOST_BUILT = 1_000_000


# -- tables, networks, layers


def _make_table(folder: Path) -> None:
    from _attack_samples import simulated_table

    simulated_table(folder / "references-of-the-sample.json").save(folder / "table.json")
    (folder / "references-of-the-sample.json").unlink(missing_ok=True)


def _read_table(folder: Path) -> Any:
    from lut._console import make_console

    table = LatencyTable.load(folder / "table.json")
    table.to_json()
    from lut._cli import _show_table

    console = make_console()
    console.file = io.StringIO()
    _show_table(console, table, "", 40)
    shown = console.file.getvalue()
    if any(ord(c) < 32 and c != "\n" for c in shown):
        raise AssertionError("a control character reached the terminal")
    table.to_pandas()
    return table


def _read_report(folder: Path) -> Any:
    from lut.errors import LatencyLutError
    from predictors import hardware_aware_widths, measured_curves
    from profiler import report_html

    table = LatencyTable.load(folder / "table.json")
    selections = []
    for curve in measured_curves(table):
        try:
            selections.append(hardware_aware_widths(curve, groups=2))
        except LatencyLutError:
            continue
    return report_html(table, tuple(selections), (), title="table.json")


def _make_network(folder: Path) -> None:
    from search.spaces import ResNetCifar

    space = ResNetCifar(depth=8)
    save_network(folder / "network.json", space.decode(space.sample(random.Random(0))), space=space.name)


def _read_network(folder: Path) -> Any:
    from lut._network_file import read_network_file

    found = read_network_file(folder / "network.json")
    layer = found.network.as_layer()
    return str(layer), layer.madds, layer.parameters, layer.digest


def _make_layers(folder: Path) -> None:
    (folder / "layers.json").write_text(json.dumps(_LAYERS))


_VALUE = {"kind": "value", "of": 0}
_SUBGRAPH: dict[str, Any] = {
    "op": "subgraph",
    "framework": "torch",
    "batch": 4,
    "inputs": [{"shape": [4, 8, 8]}],
    "weights": [{"shape": [4], "dtype": "int64", "role": "buffer", "values": [0, 1, 2, 3]}, {"shape": [4, 8]}],
    "output": [4, 8, 8],
    "calls": [
        {"op": "aten.relu.default", "args": [_VALUE]},
        {"op": "aten.mul.Tensor", "args": [{"kind": "value", "of": 3}, 2.0]},
        {"op": "aten.to.dtype", "args": [{"kind": "value", "of": 4}, {"kind": "dtype", "of": "float64"}]},
        {"op": "aten.gelu.default", "args": [{"kind": "value", "of": 5}], "named": [["approximate", "tanh"]]},
    ],
}
_LAYERS: list[Any] = [
    {
        "make": "conv_norm_act",
        "in_channels": 16,
        "out_channels": 24,
        "kernel_size": 3,
        "stride": 1,
        "activation": "relu",
        "input_size": [32, 32],
    },
    {"make": "linear", "in_features": 8, "out_features": 4, "bias": True},
    {"inputs": [[4, 8, 8]], "nodes": [{"op": _SUBGRAPH, "args": [0]}]},
    {
        "inputs": [[4, 8, 8]],
        "nodes": [
            {
                "op": {
                    "op": "subgraph",
                    "framework": "onnx",
                    "batch": 1,
                    "opset": 17,
                    "inputs": [{"shape": [4, 8, 8]}],
                    "weights": [],
                    "output": [4, 8, 8],
                    "calls": [{"op": "Relu", "args": [_VALUE]}],
                },
                "args": [0],
            }
        ],
    },
]


def _read_layers(folder: Path) -> Any:
    """Read layers, look their operators up and build what is small, as whoever runs them does first."""
    from lut.errors import LatencyLutError
    from lut.subgraph import Subgraph
    from profiler import build_module
    from profiler._layers_file import load_layers
    from profiler._subgraph import function_of

    layers = load_layers(folder / "layers.json")
    for layer in layers:
        _ = str(layer), layer.digest, layer.madds, layer.parameters, layer.output_shape
        tensors = [weight.shape for node in layer.nodes if isinstance(node.op, Subgraph) for weight in node.op.weights]
        if max([layer.parameters, *map(prod, tensors)]) < MOST_BUILT:
            with contextlib.suppress(LatencyLutError):
                build_module(layer)
        for node in layer.nodes:
            if isinstance(node.op, Subgraph) and node.op.framework == "torch":
                for call in node.op.calls:
                    try:
                        function_of(call.op)
                    except LatencyLutError:
                        continue
    return layers


# -- journals, references, caches


def _make_journal(folder: Path) -> None:
    from profiler._journal import FORMAT, VERSION, JournalHeader, MachineSeen, ProcessStart
    from profiler._visit import Implementation, LayerFailure, Visit

    events = [
        JournalHeader(FORMAT, VERSION, "0" * 16, "2026-01-01T00:00:00Z", 1.0),
        ProcessStart(0, False),
        MachineSeen("a machine"),
        *(Visit(i % 5 - 2, 0, i / 10, 0.5 + i / 100, None, False, 0.0, 3) for i in range(20)),
        Implementation(1, "a kernel"),
        LayerFailure(2, 0, "error", "a reason"),
    ]
    (folder / "t.json.journal").write_bytes(sealed([msgspec.json.encode(event) for event in events]))


def _read_journal(folder: Path) -> Any:
    from profiler._journal import Journal
    from profiler._session import sort_visits

    found = Journal(folder / "t.json.journal").read()
    return sort_visits(found.visits, 6, final=True)


def _make_references(folder: Path) -> None:
    key, digests = "0123456789abcdef", ("1" * 16, "2" * 16, "3" * 16)
    content = {"format": "latency-lut-references-1", "references": {key: dict.fromkeys(digests, 0.5)}}
    (folder / "references.json").write_text(json.dumps(content))


def _read_references(folder: Path) -> Any:
    from profiler._reference import check_references

    return check_references(folder / "references.json")


# -- predictors and checkpoints


def _make_predictor(folder: Path) -> None:
    from _attack_samples import simulated_predictor

    simulated_predictor(folder / "references-of-the-sample.json").save(folder / "predictor")
    (folder / "references-of-the-sample.json").unlink(missing_ok=True)


def _signed_predictor(value: Any) -> bytes:
    """Return the file of a predictor with the hash that belongs to what it says now."""
    if not isinstance(value, dict):
        return encoded(value)
    content = json.dumps({**value, "sha256": ""}, indent=1).encode() + b"\n"
    return content.replace(b'"sha256": "', b'"sha256": "' + hashlib.sha256(content).hexdigest().encode(), 1)


def _alter_predictor(valid: Path, folder: Path, rng: random.Random) -> None:
    from _attack_mutations import NUMBERS

    shutil.copytree(valid, folder, dirs_exist_ok=True)
    place = folder / "predictor"
    record = json.loads((place / "predictor.json").read_bytes())
    if rng.random() < 0.5:
        (place / "predictor.json").write_bytes(
            json_or_bytes((place / "predictor.json").read_bytes(), rng, _signed_predictor)
        )
        return
    # The arrays, with both hashes made good.
    name = record["model"]["file"]
    content = bytearray((place / name).read_bytes())
    length = int.from_bytes(content[:8], "little")
    kind = rng.random()
    if kind < 0.6:
        import struct

        for _ in range(rng.choice((1, 3, 50))):
            at = 8 + length + 8 * rng.randrange((len(content) - 8 - length) // 8)
            number = rng.choice((*NUMBERS, float("nan"), float("inf")))
            content[at : at + 8] = struct.pack("<d", float(min(number, 10**300)))
        made = bytes(content)
    elif kind < 0.85:
        header = encoded(mutated_json(json.loads(content[8 : 8 + length]), rng))
        made = len(header).to_bytes(8, "little") + header + bytes(content[8 + length :])
    else:
        made = mutated_bytes(bytes(content), rng)
    (place / name).write_bytes(made)
    record["model"]["sha256"] = hashlib.sha256(made).hexdigest()
    (place / "predictor.json").write_bytes(_signed_predictor(record))


def _read_predictor(folder: Path) -> Any:
    from math import isfinite

    from predictors import LatencyPredictor
    from search.spaces import ResNetCifar

    predictor = LatencyPredictor.load(folder / "predictor")
    space = ResNetCifar(depth=8)
    for seed in range(2):
        network = space.decode(space.sample(random.Random(seed)))
        found = predictor.predict(network, unknown="outside")
        if not (isfinite(found.ms) and 0 < found.low_ms <= found.ms <= found.high_ms):
            raise AssertionError(f"a prediction of {found.low_ms} … {found.ms} … {found.high_ms} ms")
    return predictor


# -- Core ML bundles and timings


def _make_bundle(folder: Path) -> None:
    from _attack_samples import simulated_bundle

    simulated_bundle(folder)


def _signed_manifest(value: Any) -> bytes:
    """Return a manifest with the name that belongs to what it says now, where it can be read at all."""
    from profiler._coreml._bundle import Manifest, bundle_id

    try:
        manifest = msgspec.convert(value, Manifest)
        return encoded({**value, "bundle": bundle_id(manifest)})
    except (msgspec.ValidationError, UsageError, TypeError, ValueError, OverflowError):
        return encoded(value)


def _read_bundle(folder: Path) -> Any:
    from profiler._coreml._bundle import load_bundle

    manifest = load_bundle(folder / "bundle")
    return manifest.channel_curves()


def _read_timings(folder: Path) -> Any:
    from profiler._coreml._import import import_timings

    return import_timings(folder / "timings.json", folder / "bundle")


# -- ONNX


def _make_onnx(folder: Path) -> None:
    from _attack_samples import small_onnx_models

    for name, content in small_onnx_models().items():
        (folder / name).write_bytes(content)


def _alter_onnx(valid: Path, folder: Path, rng: random.Random) -> None:
    name = rng.choice(sorted(path.name for path in valid.glob("*.onnx")))
    content = (valid / name).read_bytes()
    if rng.random() < 0.6:
        from _attack_samples import mutated_model

        content = mutated_model(content, rng)
    else:
        content = mutated_bytes(content, rng)
    (folder / "model.onnx").write_bytes(content)


def _whole_onnx(folder: Path) -> None:
    for path in sorted(folder.glob("*.onnx")):
        (folder / "model.onnx").write_bytes(path.read_bytes())
        _read_onnx(folder)


def _read_onnx(folder: Path) -> Any:
    from profiler._onnx._file import load_onnx, trace_onnx

    return trace_onnx(load_onnx(folder / "model.onnx"), name="model.onnx")


def _make_beside(folder: Path) -> None:
    from _attack_samples import small_onnx_models

    (folder / "all.onnx").write_bytes(small_onnx_models()["conv.onnx"])


def _moved(folder: Path, entries: dict[str, str], content: bytes) -> None:
    """Write a model whose weights lie in a file beside it, or wherever its entries say."""
    import onnx

    model = onnx.load_model_from_string((folder / "all.onnx").read_bytes())
    (weight,) = model.graph.initializer
    (folder / "weights.bin").write_bytes(content or weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _whole_beside(folder: Path) -> None:
    _moved(folder, {"location": "weights.bin"}, b"")


def _alter_beside(valid: Path, folder: Path, rng: random.Random) -> None:
    (folder / "all.onnx").write_bytes((valid / "all.onnx").read_bytes())
    entries = {"location": "weights.bin", "offset": "0", "length": "432"}
    for key in rng.sample(sorted(entries), rng.choice((1, 1, 2))):
        value = str(rng.choice((*NUMBERS, *PAYLOADS, "../weights.bin", "./weights.bin", "model.onnx", ".")))
        entries[key] = value.encode(errors="replace").decode()
    if rng.random() < 0.2:
        entries[rng.choice(PAYLOADS).encode(errors="replace").decode()] = "1"
    _moved(folder, entries, rng.choice((b"", b"", b"1", bytes(431), bytes(1 << 20))))
    if rng.random() < 0.2:
        (folder / "weights.bin").unlink()
        rng.choice(
            (
                lambda file: file.symlink_to("/dev/zero"),
                lambda file: file.symlink_to("/etc/passwd"),
                os.mkfifo,
                lambda file: file.mkdir(),
            )
        )(folder / "weights.bin")


READERS: tuple[Reader, ...] = (
    Reader("table", _make_table, altering("table.json"), _read_table, "table.json", 4),
    Reader("report", _make_table, altering("table.json"), _read_report, "table.json"),
    Reader("network", _make_network, altering("network.json"), _read_network, "network.json", 3),
    Reader("layers", _make_layers, altering("layers.json"), _read_layers, "layers.json", 5),
    Reader("journal", _make_journal, altering_lines("t.json.journal"), _read_journal, "t.json.journal", 2),
    Reader("references", _make_references, altering("references.json"), _read_references, "references.json"),
    Reader("predictor", _make_predictor, _alter_predictor, _read_predictor, "predictor", 4),
    Reader(
        "manifest",
        _make_bundle,
        altering("bundle/manifest.json", _signed_manifest),
        _read_bundle,
        "manifest.json",
        2,
    ),
    Reader("timings", _make_bundle, altering("timings.json"), _read_timings, "timings.json", 2),
    Reader("ONNX", _make_onnx, _alter_onnx, _read_onnx, "model.onnx", 3, _whole_onnx),
    Reader("ONNX beside", _make_beside, _alter_beside, _read_onnx, "model.onnx", 1, _whole_beside),
    *_attack_archives.READERS,
    *_attack_search.READERS,
)

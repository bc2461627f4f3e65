"""The readers that are attacked: for each, valid files, how they are altered with their hashes made good, and how read.

What is only ever done in a process of its own (running a layer, loading a user's network) is not done here.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import pickle
import random
import shutil
import tarfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from _attack_mutations import CANARY, encoded, mutated_bytes, mutated_json, mutated_text

from lut import LatencyTable, UsageError, save_network
from lut._lines import seal, unsealed

# Elements of a layer that is built here; larger ones are the measuring process's, which looks at the memory first.
MOST_BUILT = 1_000_000


class Reader(NamedTuple):
    """One kind of file.

    ``make`` writes valid files into a folder; ``alter`` writes a variant of them into another; ``read`` reads that, and
    does what a command would do next in its own process; ``file`` is what an error is to name. ``whole`` makes the file
    to read of the valid ones, where ``alter`` does more than to alter.
    """

    name: str
    make: Callable[[Path], None]
    alter: Callable[[Path, Path, random.Random], None]
    read: Callable[[Path], Any]
    file: str
    weight: int = 1
    whole: Callable[[Path], None] = lambda _: None


def _json_or_bytes(content: bytes, rng: random.Random, sign: Callable[[Any], bytes] = encoded) -> bytes:
    """Return a variant of a JSON file: of its values most often, signed anew; of its text or its bytes otherwise."""
    kind = rng.random()
    if kind < 0.75:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            # It was altered before.
            return mutated_bytes(content, rng)
        return sign(mutated_json(value, rng))
    return mutated_text(content, rng) if kind < 0.9 else mutated_bytes(content, rng)


def _altering(file: str, sign: Callable[[Any], bytes] = encoded) -> Callable[[Path, Path, random.Random], None]:
    def alter(valid: Path, folder: Path, rng: random.Random) -> None:
        shutil.copytree(valid, folder, dirs_exist_ok=True)
        (folder / file).write_bytes(_json_or_bytes((valid / file).read_bytes(), rng, sign))

    return alter


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
    from profiler._report import report_html

    table = LatencyTable.load(folder / "table.json")
    selections = []
    for curve in measured_curves(table):
        try:
            selections.append(hardware_aware_widths(curve, groups=2))
        except LatencyLutError:
            continue
    return report_html(table, tuple(selections), (), title="table.json")


def _make_network(folder: Path) -> None:
    from search import ResNetCifar

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


def _sealed(lines: list[bytes]) -> bytes:
    content = b""
    for line in lines:
        content += seal(line.replace(b"\n", b" ").replace(b"\t", b" "), len(content))
    return content


def _altered_lines(content: bytes, rng: random.Random) -> bytes:
    """Return a variant of a file of sealed lines: altered lines sealed anew, or bytes as they are."""
    lines = list(unsealed(content))
    kind = rng.random()
    if kind < 0.2:
        return mutated_bytes(content, rng)
    if kind < 0.3:
        return content * rng.choice((2, 3, 50))
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(lines))
        change = rng.random()
        if change < 0.7:
            lines[at] = _json_or_bytes(lines[at], rng)
        elif change < 0.8:
            del lines[at]
        elif change < 0.9:
            lines.insert(at, lines[rng.randrange(len(lines))])
        else:
            rng.shuffle(lines)
        if not lines:
            break
    return _sealed(lines)


def _altering_lines(file: str) -> Callable[[Path, Path, random.Random], None]:
    def alter(valid: Path, folder: Path, rng: random.Random) -> None:
        (folder / file).write_bytes(_altered_lines((valid / file).read_bytes(), rng))

    return alter


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
    (folder / "t.json.journal").write_bytes(_sealed([msgspec.json.encode(event) for event in events]))


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


def _make_cache(folder: Path) -> None:
    from search import AccuracyCache

    with AccuracyCache.open(folder / "accuracies.jsonl", space="a space", function="a function") as cache:
        for i in range(10):
            cache.add(f"{i:064x}", i / 10, 1.0)


def _read_cache(folder: Path) -> Any:
    from search import AccuracyCache

    with AccuracyCache.open(folder / "accuracies.jsonl", space="a space", function="a function") as cache:
        return len(cache)


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
            _json_or_bytes((place / "predictor.json").read_bytes(), rng, _signed_predictor)
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
    from search import ResNetCifar

    predictor = LatencyPredictor.load(folder / "predictor")
    space = ResNetCifar(depth=8)
    for seed in range(2):
        network = space.decode(space.sample(random.Random(seed)))
        found = predictor.predict(network, unknown="outside")
        if not (isfinite(found.ms) and 0 < found.low_ms <= found.ms <= found.high_ms):
            raise AssertionError(f"a prediction of {found.low_ms} … {found.ms} … {found.high_ms} ms")
    return predictor


def _make_checkpoint(folder: Path) -> None:
    from search._checkpoint import save_checkpoint

    tensors = {"net.weight": torch.randn(4, 3), "net.bias": torch.randn(4), "net.counts": torch.arange(4)}
    save_checkpoint(folder / "a.safetensors", run="a run", epoch=3, tensors=tensors, values={"accuracy": 0.5})


def _alter_checkpoint(valid: Path, folder: Path, rng: random.Random) -> None:
    content = (valid / "a.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    kind = rng.random()
    if kind < 0.4:
        # What the run wrote beside the tensors, with the digest of both made good.
        from search._checkpoint import read_tensors, write_tensors

        tensors, text = read_tensors(valid / "a.safetensors")
        for name in list(tensors):
            if rng.random() < 0.2:
                tensors[name] = tensors[name].to(rng.choice((*_TYPES,)))
            if rng.random() < 0.2:
                tensors[rng.choice(("x", name + ".0", CANARY, "[/]\n"))] = tensors.pop(name)
        write_tensors(folder / "a.safetensors", tensors, _json_or_bytes(text.encode(), rng).decode(errors="replace"))
        return
    if kind < 0.7:
        header = encoded(mutated_json(json.loads(content[8 : 8 + length]), rng))
        content = len(header).to_bytes(8, "little") + header + content[8 + length :]
    else:
        content = mutated_bytes(content, rng)
    (folder / "a.safetensors").write_bytes(content)


_TYPES = (torch.float64, torch.bool, torch.int8, torch.float16, torch.complex64)


def _read_checkpoint(folder: Path) -> Any:
    from search._checkpoint import load_checkpoint

    return load_checkpoint(folder / "a.safetensors", run="a run")


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


# -- archives and images


def _tar(files: dict[str, bytes], *, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


class _Runs:
    """Pickled as a call of the canary."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"__import__({CANARY!r})",))


def _make_cifar(folder: Path) -> None:
    import numpy as np

    batch = {
        b"data": np.zeros((20, 3072), dtype=np.uint8),
        b"labels": [i % 10 for i in range(20)],
        b"filenames": [b"a.png"] * 20,
        b"batch_label": b"a",
    }
    meta = {b"label_names": [b"name%d" % i for i in range(10)], b"num_vis": 3072}
    for protocol in (2, 4):
        (folder / f"batch-{protocol}").write_bytes(pickle.dumps(batch, protocol))
    (folder / "meta").write_bytes(pickle.dumps(meta, 2))


def _alter_cifar(valid: Path, folder: Path, rng: random.Random) -> None:
    batch = (valid / f"batch-{rng.choice((2, 4))}").read_bytes()
    meta = (valid / "meta").read_bytes()
    kind = rng.random()
    if kind < 0.5:
        batch = mutated_bytes(batch, rng)
    elif kind < 0.6:
        meta = mutated_bytes(meta, rng)
    elif kind < 0.7:
        batch = pickle.dumps({b"data": _Runs(), b"labels": [_Runs()]}, rng.choice((0, 1, 2, 4, 5)))
    elif kind < 0.8:
        # Words of the pickle machine at a random place: a name, a call of it, a state set on it.
        word = rng.choice(
            (f"c{CANARY}\nmake\n)R".encode(), b"cos\nsystem\n(S'true'\ntR", b"}b", b"cbuiltins\neval\n", b"(")
        )
        at = rng.randrange(2, len(batch))
        batch = batch[:at] + word * rng.choice((1, 2, 1000)) + batch[at:]
    files = {"cifar-10-batches-py/batches.meta": meta}
    files |= {f"cifar-10-batches-py/data_batch_{i}": batch for i in range(1, 6)}
    files["cifar-10-batches-py/test_batch"] = batch
    if rng.random() < 0.1:
        files = {rng.choice(("../../x", "/etc/x", "a\n", "b" * 300)) + name: content for name, content in files.items()}
    content = _tar(files)
    if kind > 0.9:
        content = mutated_bytes(content, rng)
    if rng.random() < 0.5:
        content = gzip.compress(content, 1)
        if kind > 0.95:
            content = mutated_bytes(content, rng)
    (folder / "cifar.tar.gz").write_bytes(content)


def _whole_cifar(folder: Path) -> None:
    files = {"cifar-10-batches-py/batches.meta": (folder / "meta").read_bytes()}
    files |= {f"cifar-10-batches-py/data_batch_{i}": (folder / "batch-2").read_bytes() for i in range(1, 6)}
    files["cifar-10-batches-py/test_batch"] = (folder / "batch-4").read_bytes()
    (folder / "cifar.tar.gz").write_bytes(gzip.compress(_tar(files), 1))


def _read_cifar(folder: Path) -> Any:
    from search import load_data

    return load_data(f"cifar10:{folder / 'cifar.tar.gz'}", cache=None)


def _make_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for format_ in ("PNG", "JPEG"):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(stream, format_)
        (folder / f"image.{format_.lower()}").write_bytes(stream.getvalue())


def _whole_images(folder: Path) -> None:
    _alter_images(folder, folder, _Calm())


class _Calm(random.Random):
    """Never does what is seldom done."""

    def random(self) -> float:
        return 0.999


def _alter_images(valid: Path, folder: Path, rng: random.Random) -> None:
    files = {}
    for part, count in (("train", 4), ("test", 2)):
        for label in ("cat", "dog"):
            for i in range(count):
                kind = rng.choice(("png", "jpeg"))
                content = (valid / f"image.{kind}").read_bytes()
                if rng.random() < 0.2:
                    content = mutated_bytes(content, rng)
                files[f"{part}/{label}/{i}.{kind}"] = content
    content = _tar(files)
    if rng.random() < 0.3:
        content = mutated_bytes(content, rng)
    (folder / "images.tar").write_bytes(content)


def _read_images(folder: Path) -> Any:
    from search import load_data

    return load_data(f"images:{folder / 'images.tar'}", cache=None)


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


# -- small records of searches


def _make_macro(folder: Path) -> None:
    import itertools

    names = ("".join(digits) for digits in itertools.product("012", repeat=8))
    (folder / "macro.json").write_text(json.dumps({name: {"mean_acc": 90.0} for name in names}))


def _alter_macro(valid: Path, folder: Path, rng: random.Random) -> None:
    content = (valid / "macro.json").read_bytes()
    if rng.random() < 0.5:
        piece = json.loads(b'{"00000000": {"mean_acc": 90.0}}')
        changed = encoded(mutated_json(piece, rng))[1:-1]
        content = content[:1] + changed + (b"," if changed else b"") + content[1:]
    else:
        content = mutated_bytes(content, rng)
    (folder / "macro.json").write_bytes(content)


def _read_macro(folder: Path) -> Any:
    from search._nas_bench_macro import load_accuracies

    return load_accuracies(folder / "macro.json")


READERS: tuple[Reader, ...] = (
    Reader("table", _make_table, _altering("table.json"), _read_table, "table.json", 4),
    Reader("report", _make_table, _altering("table.json"), _read_report, "table.json"),
    Reader("network", _make_network, _altering("network.json"), _read_network, "network.json", 3),
    Reader("layers", _make_layers, _altering("layers.json"), _read_layers, "layers.json", 5),
    Reader("journal", _make_journal, _altering_lines("t.json.journal"), _read_journal, "t.json.journal", 2),
    Reader("references", _make_references, _altering("references.json"), _read_references, "references.json"),
    Reader("cache", _make_cache, _altering_lines("accuracies.jsonl"), _read_cache, "accuracies.jsonl", 2),
    Reader("predictor", _make_predictor, _alter_predictor, _read_predictor, "predictor", 4),
    Reader("checkpoint", _make_checkpoint, _alter_checkpoint, _read_checkpoint, "a.safetensors", 2),
    Reader(
        "manifest",
        _make_bundle,
        _altering("bundle/manifest.json", _signed_manifest),
        _read_bundle,
        "manifest.json",
        2,
    ),
    Reader("timings", _make_bundle, _altering("timings.json"), _read_timings, "timings.json", 2),
    Reader("CIFAR", _make_cifar, _alter_cifar, _read_cifar, "cifar.tar.gz", 2, _whole_cifar),
    Reader("images", _make_images, _alter_images, _read_images, "images.tar", 1, _whole_images),
    Reader("ONNX", _make_onnx, _alter_onnx, _read_onnx, "model.onnx", 3, _whole_onnx),
    Reader("macro", _make_macro, _alter_macro, _read_macro, "macro.json"),
)

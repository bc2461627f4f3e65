"""The attack on what a search keeps in its folder: accuracies, checkpoints, its record, its calibration; benchmarks."""

from __future__ import annotations

import contextlib
import functools
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import torch
from _attack_kinds import Reader, altering, altering_lines, json_or_bytes
from _attack_mutations import CANARY, NUMBERS, encoded, mutated_bytes, mutated_json

from lut._lines import unsealed

# Whose accuracies the samples are.
OF = {"space": "a space", "function": "a function"}


def _make_cache(folder: Path) -> None:
    from search._accuracy._evaluator import AccuracyCache

    with AccuracyCache.open(folder / "accuracies.jsonl", **OF) as cache:
        for i in range(10):
            cache.add(f"{i:064x}", i / 10, 1.0)


def _read_cache(folder: Path) -> Any:
    from search._accuracy._evaluator import AccuracyCache

    with AccuracyCache.open(folder / "accuracies.jsonl", **OF) as cache:
        return len(cache)


def _make_checkpoint(folder: Path) -> None:
    from search._training._checkpoint import save_checkpoint

    tensors = {"net.weight": torch.randn(4, 3), "net.bias": torch.randn(4), "net.counts": torch.arange(4)}
    save_checkpoint(folder / "a.safetensors", run="a run", epoch=3, tensors=tensors, values={"accuracy": 0.5})


def _alter_checkpoint(valid: Path, folder: Path, rng: random.Random) -> None:
    content = (valid / "a.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    kind = rng.random()
    if kind < 0.4:
        # What the run wrote beside the tensors, with the digest of both made good.
        from search._training._checkpoint import read_tensors, write_tensors

        tensors, text = read_tensors(valid / "a.safetensors")
        for name in list(tensors):
            if rng.random() < 0.2:
                tensors[name] = tensors[name].to(rng.choice((*_TYPES,)))
            if rng.random() < 0.2:
                tensors[rng.choice(("x", name + ".0", CANARY, "[/]\n"))] = tensors.pop(name)
        write_tensors(folder / "a.safetensors", tensors, json_or_bytes(text.encode(), rng).decode(errors="replace"))
        return
    if kind < 0.7:
        header = encoded(mutated_json(json.loads(content[8 : 8 + length]), rng))
        content = len(header).to_bytes(8, "little") + header + content[8 + length :]
    else:
        content = mutated_bytes(content, rng)
    (folder / "a.safetensors").write_bytes(content)


_TYPES = (torch.float64, torch.bool, torch.int8, torch.float16, torch.complex64)


def _read_checkpoint(folder: Path) -> Any:
    from search._training._checkpoint import load_checkpoint

    return load_checkpoint(folder / "a.safetensors", run="a run")


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
    from search.spaces import load_accuracies

    return load_accuracies(folder / "macro.json")


def _old_lines(folder: Path) -> list[bytes]:
    """Return the lines of the version that had no checksums: what is altered in it is found by its values alone."""
    lines = list(unsealed((folder / "accuracies.jsonl").read_bytes()))
    return [lines[0].replace(b'"version":2', b'"version":1'), *lines[1:]]


def _alter_old_cache(valid: Path, folder: Path, rng: random.Random) -> None:
    lines = _old_lines(valid)
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(lines))
        lines[at] = json_or_bytes(lines[at], rng)
    if rng.random() < 0.2:
        lines = rng.choice((lines * 2, lines[:-1], lines[1:], sorted(lines)))
    (folder / "accuracies.jsonl").write_bytes(b"\n".join(lines) + rng.choice((b"", b"\n")))


def _whole_old_cache(folder: Path) -> None:
    (folder / "accuracies.jsonl").write_bytes(b"".join(line + b"\n" for line in _old_lines(folder)))


# -- what lies in a run's folder


def _plan() -> Any:
    from search import Recipe, htas
    from search._problem._budgets import Budgets
    from search._runs._plan import RunPlan

    settings = {"strategy": "gradient", "search": msgspec.to_builtins(htas.Settings())}
    return RunPlan(
        *("htas", "resnet-cifar", {"depth": 20, "widths": [[8, 16], [16, 32]]}, Budgets(ms=6.5), "upper", 0.9),
        *("reference-speed", settings, Recipe(), True, "digits", "0" * 16, ("1" * 16,), "2" * 16, 0, 3, 0),
    )


def _make_run(folder: Path) -> None:
    from search._runs._folder import open_folder

    open_folder(_plan(), folder / "run", files=(), restart=False)


def _alter_run(valid: Path, folder: Path, rng: random.Random) -> None:
    (folder / "run").mkdir()
    content = json_or_bytes((valid / "run" / "run.json").read_bytes(), rng)
    (folder / "run" / "run.json").write_bytes(content)


def _read_run(folder: Path) -> Any:
    from search._runs._folder import open_folder

    return open_folder(_plan(), folder / "run", files=(), restart=False)


_MEASURED = ("3" * 16, 0, tuple((i, 1, 2) for i in range(12)))


def _signed_calibration(value: Any) -> bytes:
    """Return what was measured with the hash that belongs to what it says now, where it can be read at all."""
    from search._problem._calibrate import _Kept

    try:
        return encoded({**value, "sha256": msgspec.convert(value, _Kept).digest()})
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError):
        return encoded(value)


def _make_calibration(folder: Path) -> None:
    latencies, seed, vectors = _MEASURED
    content = {"latencies": latencies, "seed": seed, "vectors": vectors, "ms": [1.0 + i / 10 for i in range(12)]}
    (folder / "calibration.json").write_bytes(_signed_calibration(json.loads(json.dumps(content))))


def _read_calibration(folder: Path) -> Any:
    from search._problem._calibrate import _load

    found = _load(folder / "calibration.json", *_MEASURED)
    if found is not None and not all(0 < ms < float("inf") for ms in found.ms):
        raise AssertionError(f"latencies of {found.ms} ms")
    return found


# -- going on with a training


@functools.cache
def _images() -> Any:
    from search import load_data, subset

    return subset(load_data("digits"), train=20, test=10, seed=0)


def _module() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 2, 3, stride=8), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(32, 10)
        )


def _train(path: Path, stop_after: int | None = None) -> Any:
    from search import Recipe, train
    from search._training._train import TrainProgress

    def progress(now: TrainProgress) -> None:
        if stop_after is not None and now.epoch > stop_after:
            raise KeyboardInterrupt

    module = _module()
    recipe = Recipe(epochs=2, warmup_epochs=0, batch_size=10)
    return train(module, _images(), recipe, seed=0, checkpoint=path, progress=progress), module


def _make_training(folder: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        _train(folder / "c.safetensors", stop_after=1)


def _alter_training(valid: Path, folder: Path, rng: random.Random) -> None:
    from search._training._checkpoint import read_tensors, write_tensors

    tensors, text = read_tensors(valid / "c.safetensors")
    for name in rng.sample(sorted(tensors), rng.choice((0, 1, 1, 3))):
        tensors[name] = rng.choice(_CHANGES)(tensors[name], rng).contiguous()
    if rng.random() < 0.3:
        tensors[rng.choice(("x", "module.x", "optimizer.0.x", f"optimizer.{10**30}.step"))] = torch.zeros(1)
    if rng.random() < 0.5:
        text = json_or_bytes(text.encode(), rng).decode(errors="replace")
    write_tensors(folder / "c.safetensors", tensors, text)


_CHANGES = (
    lambda tensor, _: tensor.to(torch.float64),
    lambda tensor, _: tensor.flatten()[:1],
    lambda tensor, _: tensor[None],
    lambda tensor, _: tensor.to(torch.bool),
    lambda tensor, rng: torch.full_like(tensor.float(), min(max(float(rng.choice(NUMBERS)), -1e38), 1e38)),
    lambda tensor, rng: torch.full_like(tensor, rng.choice((0, 1, 100))),
    lambda tensor, _: torch.full_like(tensor.float(), float("nan")),
)


def _read_training(folder: Path) -> Any:
    """Go on with it, to its end: weights of any size may be a training's, and then its loss is none."""
    from lut.errors import SearchError

    try:
        return _train(folder / "c.safetensors")
    except SearchError as error:
        if "the loss became NaN or infinite" not in str(error):
            raise
        return None


# -- a trained network's weights


def _network() -> Any:
    from lut import Network, NetworkLayer, conv_norm_act, global_pool, linear

    conv = conv_norm_act(3, 4, kernel_size=3, stride=4, activation="relu", input_size=(32, 32))
    layers = (conv, global_pool(4, input_size=(8, 8)), linear(4, 10, bias=True))
    return Network("tiny", tuple(NetworkLayer(f"layer {i}", layer) for i, layer in enumerate(layers)))


def _make_weights(folder: Path) -> None:
    from search import build_network, save_weights

    save_weights(folder / "w.safetensors", _network(), build_network(_network(), seed=0))


def _alter_weights(valid: Path, folder: Path, rng: random.Random) -> None:
    from search._training._checkpoint import read_tensors, write_tensors

    tensors, text = read_tensors(valid / "w.safetensors")
    for name in rng.sample(sorted(tensors), rng.choice((0, 1, 1, 3))):
        tensors[name] = rng.choice(_CHANGES)(tensors[name], rng).contiguous()
        if rng.random() < 0.2:
            tensors[rng.choice(("x", name + ".0", CANARY))] = tensors.pop(name)
    if rng.random() < 0.3:
        text = json_or_bytes(text.encode(), rng).decode(errors="replace")
    write_tensors(folder / "w.safetensors", tensors, text)
    if rng.random() < 0.3:
        (folder / "w.safetensors").write_bytes(mutated_bytes((folder / "w.safetensors").read_bytes(), rng))


def _read_weights(folder: Path) -> Any:
    from search import load_weights

    module = load_weights(folder / "w.safetensors", _network())
    with torch.inference_mode():
        return module(torch.zeros(1, 3, 32, 32))


READERS: tuple[Reader, ...] = (
    Reader("cache", _make_cache, altering_lines("accuracies.jsonl"), _read_cache, "accuracies.jsonl", 2),
    Reader("old cache", _make_cache, _alter_old_cache, _read_cache, "accuracies.jsonl", 1, _whole_old_cache),
    Reader("checkpoint", _make_checkpoint, _alter_checkpoint, _read_checkpoint, "a.safetensors", 2),
    Reader("training", _make_training, _alter_training, _read_training, "c.safetensors", 2),
    Reader("run", _make_run, _alter_run, _read_run, "run.json", 2),
    Reader("weights", _make_weights, _alter_weights, _read_weights, "w.safetensors"),
    Reader(
        "calibration",
        _make_calibration,
        altering("calibration.json", _signed_calibration),
        _read_calibration,
        "calibration.json",
    ),
    Reader("macro", _make_macro, _alter_macro, _read_macro, "macro.json"),
)

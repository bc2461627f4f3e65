"""Tensors in files, without pickle: safetensors with JSON in its header, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from lut._files import read_bytes, write_atomically
from lut.errors import CheckpointError, FileAccessError

__all__ = [
    "Checkpoint",
    "content_digest",
    "load_checkpoint",
    "optimizer_tensors",
    "read_tensors",
    "restore_optimizer",
    "save_checkpoint",
    "write_tensors",
]

FORMAT = "latency-lut-checkpoint-1"


class Checkpoint(NamedTuple):
    """Where a run stood when ``epoch`` of its epochs were done: its tensors, and whatever else JSON can hold."""

    epoch: int
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


class _Header(msgspec.Struct):
    format: str
    run: str
    epoch: int
    values: dict[str, Any]


def save_checkpoint(
    path: Path, *, run: str, epoch: int, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]
) -> None:
    """Replace a run's checkpoint, so that at any moment either the old or the new one is there.

    Args:
        path: the file; its folder is made where it is missing.
        run: digest of all the settings of the run.
        epoch: how many epochs are done.
        tensors: on any device, under any names.
        values: what JSON can hold.

    Raises:
        FileAccessError: it cannot be written; an old checkpoint is untouched.
    """
    header = _Header(FORMAT, run, epoch, dict(values))
    write_tensors(path, tensors, msgspec.json.encode(header).decode())


def load_checkpoint(path: Path, *, run: str) -> Checkpoint | None:
    """Return a run's checkpoint; ``None`` where there is none yet.

    Raises:
        CheckpointError: it is damaged, or another run's.
        FileAccessError: it cannot be read.
    """
    if not os.path.lexists(path):
        return None
    tensors, text = read_tensors(path)
    try:
        header = msgspec.json.decode(text, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        header = None
    if header is None or header.format != FORMAT or header.epoch < 0:
        raise CheckpointError(f"{path} is not a checkpoint; give another --output, or discard it with --restart")
    if header.run != run:
        raise CheckpointError(
            f"{path} belongs to another run: its settings, its data or its network differ; give another --output, or "
            "discard it with --restart"
        )
    return Checkpoint(header.epoch, tensors, header.values)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: str) -> None:
    """Write tensors and a text to a safetensors file, with a digest of both.

    Raises:
        FileAccessError: it cannot be written; an old file is untouched.
    """
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    content = save(plain, metadata={"header": header, "sha256": _digest(plain, header)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileAccessError(f"cannot create {path.parent}: {(error.strerror or str(error)).lower()}") from None
    write_atomically(path, content)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Return the tensors, on the CPU, and the text that :func:`write_tensors` wrote.

    Raises:
        CheckpointError: the file is damaged, or was not written by that function.
        FileAccessError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_bytes(path)
    try:
        tensors: dict[str, torch.Tensor] = load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = msgspec.json.decode(content[8 : 8 + length])["__metadata__"]
        header, digest = str(metadata["header"]), metadata["sha256"]
    except (SafetensorError, msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged, or no file of ours ({type(error).__name__}); discard it, with --restart where a "
            "command made it"
        ) from None
    if _digest(tensors, header) != digest:
        raise CheckpointError(
            f"{path} is damaged: its hash is another; discard it, with --restart where a command made it"
        )
    return tensors, header


def content_digest(path: Path) -> str:
    """Return the SHA-256 of the tensors and the text of a file of ours; equal contents have it, whatever their bytes.

    Raises:
        CheckpointError: as :func:`read_tensors`.
        FileAccessError: it cannot be read.
    """
    return _digest(*read_tensors(path))


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, torch.Tensor]:
    """Return an optimizer's state under ``PREFIX.NUMBER.NAME``: SGD's momentum, Adam's moments and steps.

    ``NUMBER`` counts the parameters over all groups. Settings such as the learning rate are not state.
    """
    found = {}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                found[f"{prefix}.{number}.{name}"] = value
    return found


def restore_optimizer(optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an optimizer the state that :func:`optimizer_tensors` took; its settings stay as they are.

    Raises:
        CheckpointError: the state is of other parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if not key.startswith(f"{prefix}."):
            continue
        number, _, name = key[len(prefix) + 1 :].partition(".")
        fits = number.isdecimal() and int(number) < len(parameters)
        if not fits or (tensor.dim() > 0 and tensor.shape != parameters[int(number)].shape):
            raise CheckpointError(f"the checkpoint's {key} is of no parameter of this network; discard it: --restart")
        state.setdefault(int(number), {})[name] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _digest(tensors: Mapping[str, torch.Tensor], header: str) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        # Bytes, whatever the type: numpy has no bfloat16.
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

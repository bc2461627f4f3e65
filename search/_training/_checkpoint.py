"""Tensors in files, without pickle: safetensors with JSON in its header, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from lut._files import read_bytes, write_atomically
from lut._option_names import ELSEWHERE_OR_RESTART, RESTART
from lut._printable import printable, shortened
from lut.errors import CheckpointError, FileAccessError

__all__ = [
    "Checkpoint",
    "check_tensors",
    "content_digest",
    "load_checkpoint",
    "optimizer_tensors",
    "read_tensors",
    "restore_optimizer",
    "save_checkpoint",
    "saved_epoch",
    "tensors_digest",
    "write_tensors",
]

FORMAT = "latency-lut-checkpoint-1"
# The largest are data sets; they are in memory twice while they are read.
LARGEST_TENSORS = 900 << 20
DISCARD = f"discard it: {RESTART} of what made it"
# Names and places of tensors, and the text beside them: a network, a history.
LARGEST_HEADER = 1 << 24
MOST_EPOCHS, MOST_STEPS = 10**6, 10**12
# Digits of a parameter's number.
LONGEST_NUMBER = 9
# What is written: weights, statistics, steps, images, labels.
_TYPES = frozenset(
    (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool)
)


class Checkpoint(NamedTuple):
    """Where a run stood when ``epoch`` of its epochs were done: its tensors, and whatever else JSON can hold."""

    epoch: int
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


class _Metadata(msgspec.Struct, frozen=True):
    header: str
    sha256: str


class _Head(msgspec.Struct, frozen=True, rename={"metadata": "__metadata__"}):
    """What a file of ours begins with, beside the places of its tensors."""

    metadata: _Metadata


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
    if header is None or header.format != FORMAT or not 0 <= header.epoch <= MOST_EPOCHS:
        raise CheckpointError(f"{path} is not a checkpoint; {ELSEWHERE_OR_RESTART}")
    if header.run != run:
        raise CheckpointError(
            f"{path} belongs to another run: its settings, its data or its network differ; {ELSEWHERE_OR_RESTART}"
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
    content = save(plain, metadata={"header": header, "sha256": tensors_digest(plain, header)})
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

    content = read_bytes(path, limit=LARGEST_TENSORS)
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(LARGEST_HEADER, len(content) - 8):
        raise CheckpointError(f"{path} is damaged, or not a file of ours (its header); {DISCARD}")
    try:
        metadata = msgspec.json.decode(content[8 : 8 + length], type=_Head).metadata
        tensors: dict[str, torch.Tensor] = load(content)
        odd = next((name for name, tensor in tensors.items() if tensor.dtype not in _TYPES), None)
        whole = odd is None and tensors_digest(tensors, metadata.header) == metadata.sha256
    except (
        SafetensorError,
        msgspec.DecodeError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        ArithmeticError,
    ) as e:
        raise CheckpointError(f"{path} is damaged, or not a file of ours ({type(e).__name__}); {DISCARD}") from None
    if odd is not None:
        raise CheckpointError(f"{path} is not a file of ours: {_shown(odd)} is of type {tensors[odd].dtype}; {DISCARD}")
    if not whole:
        raise CheckpointError(f"{path} is damaged: its hash is another; {DISCARD}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {_shown(name)} holds numbers that are not finite; {DISCARD}")
    return tensors, metadata.header


def saved_epoch(path: Path) -> int | None:
    """Return how many epochs a checkpoint says are done, to tell a person; ``None`` where that cannot be read.

    Its tensors are not looked at: :func:`load_checkpoint` does that, and says what is wrong.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = file.read(length) if length <= LARGEST_HEADER else b""
        metadata = msgspec.json.decode(head, type=_Head).metadata
        epoch = msgspec.json.decode(metadata.header, type=_Header).epoch
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return epoch if 0 <= epoch <= MOST_EPOCHS else None


def check_tensors(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Raise unless tensors have the names, shapes and types of others.

    Raises:
        CheckpointError: one is missing, unexpected, or of another shape or type.
    """
    for name in sorted(expected.keys() ^ tensors.keys()):
        word = "lacks" if name in expected else "has an unexpected"
        raise CheckpointError(f"it {word} {_shown(name)}")
    for name, wanted in expected.items():
        found = tensors[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            shapes = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (found, wanted)]
            raise CheckpointError(f"its {_shown(name)} is {shapes[0]}, and {shapes[1]} is expected")


def _shown(name: str) -> str:
    return shortened(printable(name), 120)


def content_digest(path: Path) -> str:
    """Return the SHA-256 of the tensors and the text of a file of ours; equal contents have it, whatever their bytes.

    Raises:
        CheckpointError: as :func:`read_tensors`.
        FileAccessError: it cannot be read.
    """
    return tensors_digest(*read_tensors(path))


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
        if not _is_state(name, tensor, parameters, number):
            raise CheckpointError(
                f"the checkpoint's {_shown(key)} is of no parameter of this network; discard it: {RESTART}"
            )
        state.setdefault(int(number), {})[name] = tensor.clone()
    if any(found.keys() != next(iter(state.values())).keys() for found in state.values()):
        raise CheckpointError(f"the checkpoint's {prefix} lacks a part of its state; discard it: {RESTART}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _is_state(name: str, tensor: torch.Tensor, parameters: Sequence[torch.Tensor], number: str) -> bool:
    """Whether a tensor is what SGD or Adam keep of the parameter of a number."""
    if not (number.isascii() and number.isdecimal() and len(number) < LONGEST_NUMBER) or int(number) >= len(parameters):
        return False
    if name == "step":
        return tensor.dim() == 0 and tensor.dtype == torch.float32 and 0 <= float(tensor) <= MOST_STEPS
    parameter = parameters[int(number)]
    if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
        return False
    # Squares: a negative one would make the next step no number.
    return name in ("momentum_buffer", "exp_avg") or (name == "exp_avg_sq" and bool((tensor >= 0).all()))


def tensors_digest(tensors: Mapping[str, torch.Tensor], header: str = "") -> str:
    """Return a SHA-256 of tensors on the CPU, by their names, types, shapes and bytes, and of a text beside them."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        # Bytes, whatever the type: numpy has no bfloat16.
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

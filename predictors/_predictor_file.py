"""A saved predictor: one JSON file that a person can read, and its arrays as safetensors. No pickle.

``predictor.json`` names the file of arrays with its hash, and carries a hash of itself. It is written last and at once:
whatever happens, the folder holds the old predictor or the new one.

History of the format
    1   the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import fields
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lut._codec import short_problem
from lut._files import file_error, read_bytes, write_atomically
from lut._printable import lowered
from lut._records import Device, Record, Setting
from lut.errors import FileAccessError, LatencyLutError, PredictorFormatError
from predictors._calibration import GROUPS, Calibration
from predictors._correction import Correction
from predictors._features import FEATURES, WORK
from predictors._interval import Conformal
from predictors._latency_predictor import LatencyPredictor
from predictors._layer_model import LayerModel
from predictors._predictions import RANGED, HeldOut, KindRange, TableSource

__all__ = ["FILE", "check_folder", "load_predictor", "save_predictor"]

FORMAT: Literal["latency-lut-predictor"] = "latency-lut-predictor"
VERSION: Literal[1] = 1
FILE = "predictor.json"
_SELF = b'"sha256": "'
# Bounds of a file: objects in its JSON, bytes of its arrays' names and shapes.
MOST_OBJECTS = 1 << 16
LARGEST_HEADER = 1 << 16
LONGEST_VALUE = 80

Ms: TypeAlias = Annotated[float, Meta(ge=1e-9, le=1e9, description="milliseconds")]
Digest: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Name: TypeAlias = Annotated[str, Meta(max_length=10_000)]


class ModelRecord(Record, frozen=True):
    """The arrays' file, and the names that their columns go by; others are another version's.

    The rest: see :class:`LayerModel` and :class:`Correction`, whose ``digests`` are ``corrected``.
    """

    file: Annotated[str, Meta(pattern=r"^model-[0-9a-f]{12}\.safetensors$")]
    sha256: Digest
    work: tuple[str, ...]
    features: tuple[str, ...]
    offset: Annotated[float, Meta(ge=-50, le=50)]
    inflation: Annotated[float, Meta(ge=1, le=1e6)]
    stretch: Annotated[float, Meta(ge=1e-3, le=1e3)]
    corrected: tuple[str, ...]


class PredictorRecord(Record, frozen=True):
    """The whole JSON file; fields as in :class:`LatencyPredictor`. ``sha256``: of the file with this field empty.

    Where an object names a field twice, the last one counts; the hash is of every byte of the file, the others' too.
    """

    format: Literal["latency-lut-predictor"]
    version: Literal[1]
    sha256: str
    device: Device
    setting: Setting
    tables: tuple[TableSource, ...]
    seed: Annotated[int, Meta(ge=0, le=2**53)]
    held_out_layers: HeldOut
    held_out_networks: HeldOut
    calibration: Calibration
    groups: tuple[str, ...]
    conformal: Conformal
    model: ModelRecord
    operators: tuple[Name, ...]
    ranged: tuple[str, ...]
    kinds: dict[Name, KindRange]
    failures: dict[Name, Name]
    measured_ms: dict[Name, Ms]
    deviations: dict[Name, Annotated[float, Meta(ge=0, le=100)]]


class _Header(msgspec.Struct):
    format: msgspec.Raw = msgspec.Raw(b"null")
    version: msgspec.Raw = msgspec.Raw(b"null")


class _ArrayHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an array lies in a safetensors file: bytes counted from the end of the header."""

    dtype: str
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**31 - 1)], ...], Meta(max_length=2)]
    data_offsets: tuple[Annotated[int, Meta(ge=0, le=2**53)], Annotated[int, Meta(ge=0, le=2**53)]]


# Arrays of the file with their number of axes.
_MODEL = {"costs": 1, "rows": 2, "parameters": 1, "weights": 1, "held_out": 1, "held_out_deviation": 1}
_CORRECTION = {"rows": 2, "predicted": 1, "weights": 1, "shares": 2, "variances": 1, "factor": 2}


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Make the folder of a predictor, and see that files can be written there: before anything is fitted.

    Raises:
        FileAccessError: it is a file, or the folder above is missing or forbidden.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise file_error(place, "write", error) from None


def save_predictor(predictor: LatencyPredictor, folder: str | os.PathLike[str]) -> None:
    """Write a predictor into a folder; see :meth:`LatencyPredictor.save`."""
    from safetensors.numpy import save

    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(place, "write", error) from None
    model = predictor.model
    correction = predictor.correction
    parts = {f"model.{name}": getattr(model, name) for name in _MODEL}
    parts |= {f"correction.{name}": getattr(correction, name) for name in _CORRECTION}
    arrays = save({name: np.ascontiguousarray(array, dtype=np.float64) for name, array in parts.items()})
    digest = hashlib.sha256(arrays).hexdigest()
    name = f"model-{digest[:12]}.safetensors"
    record = PredictorRecord(
        format=FORMAT,
        version=VERSION,
        sha256="",
        device=predictor.device,
        setting=predictor.setting,
        tables=predictor.tables,
        seed=predictor.seed,
        held_out_layers=predictor.held_out_layers,
        held_out_networks=predictor.held_out_networks,
        calibration=predictor.calibration,
        groups=GROUPS,
        conformal=predictor.conformal,
        model=ModelRecord(
            file=name,
            sha256=digest,
            work=WORK,
            features=FEATURES,
            offset=model.offset,
            inflation=model.inflation,
            stretch=correction.stretch,
            corrected=correction.digests,
        ),
        operators=tuple(sorted(predictor.operators)),
        ranged=RANGED,
        kinds=dict(predictor.kinds),
        failures=dict(predictor.failures),
        measured_ms=dict(predictor.measured_ms),
        deviations=dict(predictor.deviations),
    )
    content = _signed(record)
    # What could not be loaded again is not written.
    _consistent(_decoded(content, place / FILE), model, correction, place / name)
    before = _arrays_of(place)
    write_atomically(place / name, arrays)
    write_atomically(place / FILE, content)
    if before is not None and before != name:
        # The old predictor's own; whatever else lies in the folder is not ours.
        with contextlib.suppress(OSError):
            (place / before).unlink()


def _arrays_of(place: Path) -> str | None:
    """Return the arrays' file of the predictor that a folder holds; ``None`` where it holds none."""
    with contextlib.suppress(LatencyLutError):
        return _decoded(read_bytes(place / FILE), place / FILE).model.file
    return None


def _signed(record: PredictorRecord) -> bytes:
    content = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    return content.replace(_SELF + b'"', _SELF + hashlib.sha256(content).hexdigest().encode() + b'"', 1)


def load_predictor(folder: str | os.PathLike[str]) -> LatencyPredictor:
    """Return the predictor that a folder holds; see :meth:`LatencyPredictor.load`."""
    place = Path(folder)
    path = place / FILE
    _refuse_other_place(place)
    record = _decoded(read_bytes(path), path)
    model, correction = _arrays(record.model, place)
    _consistent(record, model, correction, place / record.model.file)
    common = {field.name for field in fields(LatencyPredictor)} & set(PredictorRecord.__struct_fields__)
    values = {name: getattr(record, name) for name in common}
    values.update(model=model, correction=correction, operators=frozenset(record.operators))
    return LatencyPredictor(**values)


def _refuse_other_place(place: Path) -> None:
    """Raise where a folder is missing, or is no predictor's; whatever else is wrong, its reading tells."""
    try:
        (place / FILE).stat()
    except (FileNotFoundError, NotADirectoryError):
        wrong = f"there is no folder {place}"
        if place.is_dir():
            wrong = f"the folder {place} is no predictor: it holds no {FILE}"
        elif place.exists():
            wrong = f"{place} is no predictor: it is a file, and a predictor is a folder"
        raise FileAccessError(f"{wrong}; give the folder that fit-predictor, or LatencyPredictor.save, wrote") from None
    except (OSError, ValueError):
        pass


def _decoded(content: bytes, path: Path) -> PredictorRecord:
    try:
        header = msgspec.json.decode(content, type=_Header)
        # What is longer than any of our values is none of them, and is not read at all.
        kind, version = (
            msgspec.json.decode(raw) if len(memoryview(raw)) <= LONGEST_VALUE else "…"
            for raw in (header.format, header.version)
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PredictorFormatError(f"{path}: not a predictor: it is not valid JSON") from None
    if kind != FORMAT:
        raise PredictorFormatError(f"{path}: not a predictor: 'format' is not {FORMAT!r}")
    if version != VERSION or isinstance(version, bool | float):
        raise PredictorFormatError(
            f"{path}: version {short_problem(str(version)[:40])} of the format is unknown here; this release reads "
            f"version {VERSION}. Install a newer latency-lut, or fit again: fit-predictor"
        )
    if content.count(b"{") > MOST_OBJECTS:
        raise PredictorFormatError(f"{path}: more than {MOST_OBJECTS} objects are too many for a predictor")
    try:
        record = msgspec.json.decode(content, type=PredictorRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = short_problem(str(error))
        raise PredictorFormatError(f"{path}: {lowered(problem)}") from None
    unsigned = content.replace(_SELF + record.sha256.encode() + b'"', _SELF + b'"', 1)
    if hashlib.sha256(unsigned).hexdigest() != record.sha256:
        raise PredictorFormatError(f"{path} was altered after it was written: its hash is another. Fit it again")
    if (record.groups, record.model.work, record.model.features, record.ranged) != (GROUPS, WORK, FEATURES, RANGED):
        raise PredictorFormatError(f"{path}: it goes by other features than this release. Fit it again: fit-predictor")
    return record


def _arrays(record: ModelRecord, place: Path) -> tuple[LayerModel, Correction]:
    path = place / record.file
    content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise PredictorFormatError(f"{path} was altered after it was written: its hash is another. Fit it again")
    arrays = _read_arrays(content, path)
    model = LayerModel(
        **{name: arrays[f"model.{name}"] for name in _MODEL}, offset=record.offset, inflation=record.inflation
    )
    correction = Correction(
        **{name: arrays[f"correction.{name}"] for name in _CORRECTION},
        stretch=record.stretch,
        digests=record.corrected,
    )
    return model, correction


def _read_arrays(content: bytes, path: Path) -> dict[str, NDArray[np.float64]]:
    """Return the arrays of a safetensors file, which holds ours and nothing else.

    Nothing is allocated by what the file says of itself: arrays are copies of parts of its bytes, which lie one after
    another and take all of it.
    """
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(LARGEST_HEADER, len(content) - 8):
        raise PredictorFormatError(f"{path}: no safetensors file of ours: its header is cut off or too long")
    try:
        header = msgspec.json.decode(content[8 : 8 + size], type=dict[str, msgspec.Raw])
        found = {name: msgspec.json.decode(raw, type=_ArrayHeader) for name, raw in header.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PredictorFormatError(f"{path}: no safetensors file of ours: {short_problem(str(error))}") from None
    wanted = {f"model.{name}": axes for name, axes in _MODEL.items()}
    wanted |= {f"correction.{name}": axes for name, axes in _CORRECTION.items()}
    if strange := sorted(found.keys() - wanted.keys()):
        raise PredictorFormatError(f"{path}: no predictor has an array {short_problem(repr(strange[0]))}")
    arrays: dict[str, NDArray[np.float64]] = {}
    data = memoryview(content)[8 + size :]
    for name, axes in wanted.items():
        where = found.get(name)
        if where is None or where.dtype != "F64" or len(where.shape) != axes:
            raise PredictorFormatError(f"{path}: the array {name} is missing, or of another shape or type")
        begin, end = where.data_offsets
        if not 0 <= begin <= end <= len(data) or end - begin != prod(where.shape) * 8:
            raise PredictorFormatError(f"{path}: the array {name} does not lie within the file as its shape says")
        array = np.frombuffer(data[begin:end], dtype="<f8").reshape(where.shape).astype(np.float64)
        if not np.isfinite(array).all():
            raise PredictorFormatError(f"{path}: the array {name} is not finite")
        arrays[name] = array
    if sum(array.nbytes for array in arrays.values()) != len(data) or _overlap(found.values()):
        raise PredictorFormatError(f"{path}: its arrays do not lie one after another")
    return arrays


def _overlap(headers: Iterable[_ArrayHeader]) -> bool:
    places = sorted(header.data_offsets for header in headers)
    return any(first[1] > second[0] for first, second in pairwise(places))


def _consistent(record: PredictorRecord, model: LayerModel, correction: Correction, arrays: Path) -> None:
    """Raise unless the parts fit together and all that they can answer are latencies."""
    path = arrays.parent / FILE
    if record.deviations.keys() != record.measured_ms.keys():
        raise PredictorFormatError(f"{path}: its deviations are not of the layers that were measured")
    if (problem := model.problem() or correction.problem(model)) is not None:
        raise PredictorFormatError(f"{arrays}: {problem}")
    if len(record.measured_ms) != len(model.weights):
        raise PredictorFormatError(
            f"{path}: `$.measured_ms` is of {len(record.measured_ms)} layers, and its model of {len(model.weights)}"
        )
    for kind, (low, high) in record.kinds.items():
        if any(a > b for a, b in zip(low, high, strict=True)):
            raise PredictorFormatError(f"{path}: `$.kinds` of {short_problem(repr(kind))} ends before it begins")
    scores = record.conformal.scores
    if any(b < a for a, b in pairwise(scores)):
        raise PredictorFormatError(f"{path}: `$.conformal.scores` do not increase")

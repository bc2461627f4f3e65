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
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lut._files import file_error, read_bytes, write_atomically
from lut._records import Device, Record, Setting
from lut.errors import LatencyLutError, PredictorFormatError
from predictors._calibration import GROUPS, Calibration
from predictors._correction import Correction
from predictors._features import FEATURES, WORK
from predictors._interval import Conformal
from predictors._latency_predictor import LatencyPredictor
from predictors._layer_model import LayerModel
from predictors._predictions import RANGED, HeldOut, KindRange, TableSource

__all__ = ["FILE", "load_predictor", "save_predictor"]

FORMAT: Literal["latency-lut-predictor"] = "latency-lut-predictor"
VERSION: Literal[1] = 1
FILE = "predictor.json"
LARGEST_LOG = 50.0
_SELF = b'"sha256": "'

Ms: TypeAlias = Annotated[float, Meta(ge=1e-9, le=1e9, description="milliseconds")]


class ModelRecord(Record, frozen=True):
    """The arrays' file, and the names that their columns go by; others are another version's.

    The rest: see :class:`LayerModel` and :class:`Correction`, whose ``digests`` are ``corrected``.
    """

    file: Annotated[str, Meta(pattern=r"^model-[0-9a-f]{12}\.safetensors$")]
    sha256: str
    work: tuple[str, ...]
    features: tuple[str, ...]
    offset: Annotated[float, Meta(ge=-50, le=50)]
    inflation: Annotated[float, Meta(ge=1, le=1e6)]
    stretch: Annotated[float, Meta(ge=1e-3, le=1e3)]
    corrected: tuple[str, ...]


class PredictorRecord(Record, frozen=True):
    """The whole JSON file; fields as in :class:`LatencyPredictor`. ``sha256``: of the file with this field empty."""

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
    operators: tuple[str, ...]
    ranged: tuple[str, ...]
    kinds: dict[str, KindRange]
    failures: dict[str, str]
    measured_ms: dict[str, Ms]
    deviations: dict[str, Annotated[float, Meta(ge=0, le=100)]]


class _Header(msgspec.Struct):
    format: Any = None
    version: Any = None


# Arrays of the file with their number of axes.
_MODEL = {"costs": 1, "rows": 2, "parameters": 1, "weights": 1, "held_out": 1, "held_out_deviation": 1}
_CORRECTION = {"rows": 2, "predicted": 1, "weights": 1, "shares": 2, "variances": 1, "factor": 2}


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
    before = _arrays_of(place)
    write_atomically(place / name, arrays)
    write_atomically(place / FILE, _signed(record))
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
    record = _decoded(read_bytes(path), path)
    if record.deviations.keys() != record.measured_ms.keys():
        raise PredictorFormatError(f"{path}: its deviations are not of the layers that were measured")
    model, correction = _arrays(record.model, place)
    common = {field.name for field in fields(LatencyPredictor)} & set(PredictorRecord.__struct_fields__)
    values = {name: getattr(record, name) for name in common}
    values.update(model=model, correction=correction, operators=frozenset(record.operators))
    return LatencyPredictor(**values)


def _decoded(content: bytes, path: Path) -> PredictorRecord:
    try:
        header = msgspec.json.decode(content, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PredictorFormatError(f"{path}: not a predictor: it is not valid JSON") from None
    if header.format != FORMAT:
        raise PredictorFormatError(f"{path}: not a predictor: 'format' is not {FORMAT!r}")
    if header.version != VERSION or isinstance(header.version, bool):
        raise PredictorFormatError(
            f"{path}: version {str(header.version)[:40]} of the format is unknown here; this release reads version "
            f"{VERSION}. Install a newer latency-lut, or fit again: fit-predictor"
        )
    try:
        record = msgspec.json.decode(content, type=PredictorRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PredictorFormatError(f"{path}: {str(error)[:1].lower()}{str(error)[1:]}") from None
    unsigned = content.replace(_SELF + record.sha256.encode() + b'"', _SELF + b'"', 1)
    if hashlib.sha256(unsigned).hexdigest() != record.sha256:
        raise PredictorFormatError(f"{path} was altered after it was written: its hash is another. Fit it again")
    if (record.groups, record.model.work, record.model.features, record.ranged) != (GROUPS, WORK, FEATURES, RANGED):
        raise PredictorFormatError(f"{path}: it goes by other features than this release. Fit it again: fit-predictor")
    return record


def _arrays(record: ModelRecord, place: Path) -> tuple[LayerModel, Correction]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = place / record.file
    content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise PredictorFormatError(f"{path} was altered after it was written: its hash is another. Fit it again")
    try:
        arrays: dict[str, NDArray[np.float64]] = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PredictorFormatError(f"{path}: no safetensors file of ours: {error}") from None
    wanted = {f"model.{name}": axes for name, axes in _MODEL.items()}
    wanted |= {f"correction.{name}": axes for name, axes in _CORRECTION.items()}
    for name, axes in wanted.items():
        array = arrays.get(name)
        if array is None or array.ndim != axes or array.dtype != np.float64 or not np.isfinite(array).all():
            raise PredictorFormatError(f"{path}: the array {name} is missing, of another shape or type, or not finite")
    model = LayerModel(
        **{name: arrays[f"model.{name}"] for name in _MODEL}, offset=record.offset, inflation=record.inflation
    )
    correction = Correction(
        **{name: arrays[f"correction.{name}"] for name in _CORRECTION},
        stretch=record.stretch,
        digests=record.corrected,
    )
    if not _fits(model, correction):
        raise PredictorFormatError(f"{path}: its arrays do not fit together")
    return model, correction


def _fits(model: LayerModel, correction: Correction) -> bool:
    networks, layers = correction.shares.shape
    # Those of the process are logarithms.
    return (
        model.rows.shape == (len(model.weights), len(FEATURES))
        and model.costs.shape == (len(WORK),)
        and len(model.held_out) == len(model.held_out_deviation) == len(model.weights)
        and model.parameters.shape == (5,)
        and correction.rows.shape == (layers, len(FEATURES))
        and len(correction.digests) == len(correction.predicted) == len(correction.weights) == layers
        and correction.factor.shape == (networks, networks)
        and correction.variances.shape == (3,)
        and bool((model.costs >= 0).all() and (correction.variances >= 0).all())
        and bool((np.abs(model.parameters) < LARGEST_LOG).all() and (np.diag(correction.factor) > 0).all())
    )

"""What a Core ML model is converted for: the options that export and target share."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from lut import UsageError
from lut._option_names import option_text
from lut._records import AtLeastOne, Context, Count, Record, Text
from lut._suggest import check_word

__all__ = [
    "COMPUTE_UNITS",
    "DEPLOYMENT_TARGETS",
    "ExportOptions",
    "ModelFormat",
    "Precision",
    "check_compute_units",
    "make_options",
]

Precision: TypeAlias = Literal["float16", "float32"]
ModelFormat: TypeAlias = Literal["mlprogram", "neuralnetwork"]

# The oldest systems that take each format, and the newest whose name coremltools 9 knows. A neuralnetwork for systems
# before iOS 13 would have to be written layer by layer with NeuralNetworkBuilder; ct.convert, which is what the export
# goes through, begins at iOS 13. The runner's app, a SwiftUI App, needs iOS 15 whatever the bundle is for.
DEPLOYMENT_TARGETS: dict[str, tuple[str, ...]] = {
    "mlprogram": ("iOS15", "iOS16", "iOS17", "iOS18"),
    "neuralnetwork": ("iOS13", "iOS14"),
}
DEFAULT_TARGET = {"mlprogram": "iOS16", "neuralnetwork": "iOS13"}
COMPUTE_UNITS = ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")


class ExportOptions(Record, frozen=True):
    """What fixes a converted program, beside the layer."""

    batch: AtLeastOne
    dtype: Precision
    format: ModelFormat
    deployment_target: Text
    context: Context
    seed: Count


def make_options(
    *,
    batch: int = 1,
    precision: str | None = None,
    model_format: str = "mlprogram",
    deployment_target: str | None = None,
    context: str = "network",
    seed: int = 0,
) -> ExportOptions:
    """Return checked options; what is ``None`` gets the format's default.

    Raises:
        UsageError: an unknown value, or two that do not go together.
    """
    check_word(option_text("format"), model_format, get_args(ModelFormat))
    if precision is None:
        precision = "float16" if model_format == "mlprogram" else "float32"
    check_word("the precision of a Core ML program", precision, get_args(Precision))
    if model_format == "neuralnetwork" and precision != "float32":
        raise UsageError(
            "a neuralnetwork leaves the precision to the device and stores float32 weights: leave precision out, or "
            f"use {option_text('format', 'mlprogram')}"
        )
    known = DEPLOYMENT_TARGETS[model_format]
    target = deployment_target or DEFAULT_TARGET[model_format]
    check_word(f"{option_text('deployment_target')} of an {model_format}", target, known)
    check_word(option_text("context"), context, ("network", "isolated"))
    if not 1 <= batch <= 65_536:
        raise UsageError(f"{option_text('batch')} is between 1 and 65536, got {batch}")
    if not 0 <= seed < 2**53:
        raise UsageError(f"{option_text('seed')} is between 0 and 2^53, got {seed}")
    return ExportOptions(
        batch=batch,
        dtype=precision,  # type: ignore[arg-type]
        format=model_format,  # type: ignore[arg-type]
        deployment_target=target,
        context=context,  # type: ignore[arg-type]
        seed=seed,
    )


def check_compute_units(compute_units: str) -> None:
    """Raise :class:`~lut.UsageError` unless Core ML knows these compute units."""
    check_word(option_text("compute_units"), compute_units, COMPUTE_UNITS)

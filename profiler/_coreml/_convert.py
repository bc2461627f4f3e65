"""One program, converted: PyTorch module → Core ML model, with its operators checked. Needs torch and coremltools."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from lut import Layer
from lut.errors import LayerFailedError, TargetUnavailableError
from lut.primitives import (
    Activation,
    Add,
    AvgPool2d,
    BatchNorm2d,
    ChannelShuffle,
    Concat,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    LayerNorm,
    Linear,
    MaxPool2d,
    Mul,
    Primitive,
    Shape,
    Subgraph,
)
from profiler._coreml._bundle import Program, Tensor, hash_files, program_digest, program_path
from profiler._coreml._options import ExportOptions
from profiler._coreml._programs import ProgramPlan, Role, chained_input
from profiler._machine import available_memory_bytes

__all__ = [
    "check_installed",
    "convert_module",
    "convert_network",
    "convert_program",
    "import_coremltools",
    "model_suffix",
    "quiet",
    "versions",
]

# What coremltools converts from besides PyTorch, and imports where it is installed: two of five seconds go to
# scikit-learn alone.
OTHER_FRAMEWORKS = ("sklearn", "libsvm", "tensorflow", "xgboost")
INSTALL = "pip install -e '.[coreml]'"
OUTPUT = "y"


class Converted(NamedTuple):
    """What coremltools made of a module."""

    operators: dict[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def check_installed() -> None:
    """Raise where coremltools is missing or has no native library; cheap, without importing it.

    Raises:
        TargetUnavailableError: with what to install.
    """
    spec = find_spec("coremltools")
    if spec is None or not spec.submodule_search_locations:
        raise TargetUnavailableError(
            f"converting for Core ML needs the package 'coremltools', which is not installed: {INSTALL}"
        )
    if not any(list(Path(place).glob("libmilstoragepython*")) for place in spec.submodule_search_locations):
        raise _no_native_library()


def _no_native_library() -> TargetUnavailableError:
    return TargetUnavailableError(
        "coremltools is installed without its native library (libmilstoragepython), as pip does where there is no "
        "wheel for this Python and system; with Python 3.10 to 3.13 on Linux x86-64 or macOS: "
        f"{INSTALL} --force-reinstall"
    )


def import_coremltools(*, for_pytorch_only: bool = False) -> Any:
    """Return the module coremltools, imported without its chatter.

    Args:
        for_pytorch_only: in a process of our own: it converts from no other framework then, and is there sooner.

    Raises:
        TargetUnavailableError: it, or its native library, cannot be imported; with what to install.
    """
    with quiet(), _not_imported(OTHER_FRAMEWORKS if for_pytorch_only else ()):
        try:
            coremltools = import_module("coremltools")
        except ImportError as error:
            raise TargetUnavailableError(
                f"converting for Core ML needs coremltools, which cannot be imported ({error}): {INSTALL}"
            ) from None
        try:
            import_module("coremltools.libmilstoragepython")
        except ImportError:
            raise _no_native_library() from None
    return coremltools


@contextlib.contextmanager
def _not_imported(names: Sequence[str]) -> Iterator[None]:
    """Have packages that nobody imported yet be taken for absent."""
    absent = [name for name in names if name not in sys.modules]
    # The import system's own way of saying so.
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def versions() -> dict[str, str]:
    """Return the versions that a converted program depends on."""
    return {name: version(name) for name in ("coremltools", "torch", "numpy")}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what coremltools and PyTorch's tracer say about each other's versions, and the progress bars."""
    # coremltools 9 names the newest torch that it was tested with and warns of any other; ours is checked by comparing
    # the operators of every converted program, so the warning says nothing that a user could act on.
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def model_suffix(options: ExportOptions) -> str:
    """Return the ending of a program's path: a package for ML programs, a file for neural networks."""
    return ".mlpackage" if options.format == "mlprogram" else ".mlmodel"


def convert_program(
    plan: ProgramPlan, options: ExportOptions, *, root: Path, path: str, temporary: Path, made_from: str
) -> Program:
    """Convert a planned program into ``root / path`` and return its record.

    Args:
        plan: what to convert.
        options: precision, format, deployment target, batch and seed.
        root: the bundle.
        path: the program's place in it.
        temporary: an empty folder; coremltools leaves its intermediate files there, and they are removed.
        made_from: the plan's :meth:`~profiler._coreml._programs.ProgramPlan.made_from`.

    Raises:
        LayerFailedError: the module cannot be built or converted, or the program's operators are not the layer's.
    """
    began = time.perf_counter()
    module, shapes = _module(plan, options, int(made_from[:15], 16))
    import torch

    examples = tuple(torch.zeros(shape) for shape in shapes)
    converted = convert_module(module, examples, options, root / path, temporary)
    problem = _check_operators(plan, options, converted.operators)
    if problem:
        _remove(root / path)
        raise LayerFailedError(f"the converted program is not the layer: {problem}")
    return _record(str(plan), plan.role, plan.copies, root, path, converted, made_from, began)


def convert_network(
    module: Any,
    examples: Sequence[Any],
    options: ExportOptions,
    *,
    what: str,
    root: Path,
    temporary: Path,
    made_from: str,
) -> Program:
    """Convert a whole network and return its record; see :func:`convert_program`.

    Raises:
        LayerFailedError: it cannot be traced or converted, or nothing is left of it.
    """
    began = time.perf_counter()
    path = program_path(what, made_from[:16], model_suffix(options))
    converted = convert_module(module, examples, options, root / path, temporary, outputs=False)
    if not converted.operators:
        _remove(root / path)
        raise LayerFailedError("the converted program is empty: the network's output does not depend on its inputs")
    return _record(what, "network", 1, root, path, converted, made_from, began)


def _record(
    what: str, role: Role, copies: int, root: Path, path: str, converted: Converted, made_from: str, began: float
) -> Program:
    files = hash_files(root, path)
    return Program(
        id=made_from[:16],
        what=what,
        role=role,
        copies=copies,
        path=path,
        digest=program_digest(files),
        files=files,
        inputs=converted.inputs,
        outputs=converted.outputs,
        operators=converted.operators,
        made_from=made_from,
        convert_s=round(time.perf_counter() - began, 3),
    )


def convert_module(
    module: Any,
    examples: Sequence[Any],
    options: ExportOptions,
    place: Path,
    temporary: Path,
    *,
    outputs: bool = True,
) -> Converted:
    """Trace a module, convert it and write it to ``place``; nothing is left in ``temporary``.

    Raises:
        LayerFailedError: PyTorch or coremltools cannot; with their message.
    """
    coremltools = import_coremltools()
    import torch

    before = tempfile.tempdir
    tempfile.tempdir = str(temporary)
    try:
        with quiet(), torch.no_grad():
            traced = torch.jit.trace(module, tuple(examples), check_trace=False)  # type: ignore[no-untyped-call]
            model = coremltools.convert(
                traced,
                inputs=[_tensor_type(coremltools, f"x{i}", example) for i, example in enumerate(examples)],
                outputs=[coremltools.TensorType(name=OUTPUT)] if outputs else None,
                skip_model_load=True,
                **_convert_options(coremltools, options),
            )
            finished = place.with_name(f".{place.name}.part{place.suffix}")
            _remove(finished)
            model.save(str(finished))
            _remove(place)
            finished.rename(place)
        return _describe(model.get_spec())
    except (KeyboardInterrupt, TargetUnavailableError):
        raise
    except MemoryError:
        raise LayerFailedError("there was not enough memory to convert it", reason="out_of_memory") from None
    except Exception as error:
        # Converters raise whatever their passes happen to; a layer that cannot be converted is data, not a crash.
        raise LayerFailedError(_one_line(error)) from None
    finally:
        tempfile.tempdir = before
        # coremltools removes its temporary packages when Python ends: gigabytes after some hundred conversions.
        for left in temporary.iterdir():
            _remove(left)


def _tensor_type(coremltools: Any, name: str, example: Any) -> Any:
    shape = tuple(example.shape)
    if example.is_floating_point():
        return coremltools.TensorType(name=name, shape=shape)
    import numpy as np

    return coremltools.TensorType(name=name, shape=shape, dtype=np.int32)


def _convert_options(coremltools: Any, options: ExportOptions) -> dict[str, Any]:
    if options.format == "neuralnetwork":
        return {
            "convert_to": "neuralnetwork",
            "minimum_deployment_target": getattr(coremltools.target, options.deployment_target),
        }
    return {
        "convert_to": "mlprogram",
        "minimum_deployment_target": getattr(coremltools.target, options.deployment_target),
        "compute_precision": getattr(coremltools.precision, options.dtype.upper()),
    }


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"[:1000]


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            place.unlink()


def _module(plan: ProgramPlan, options: ExportOptions, seed: int) -> tuple[Any, tuple[Shape, ...]]:
    """Return the program as a PyTorch module in evaluation mode, and the shapes of its inputs."""
    import torch

    from profiler._coreml._copies import make_adds, make_chain, make_parallel
    from profiler._modules import build_module

    torch.manual_seed(seed)
    if plan.layer is None:
        assert plan.shape is not None
        return make_adds(plan.copies), ((options.batch, *plan.shape),) * 2
    layer = plan.layer
    # PyTorch runs the module once to trace it, in float32, and coremltools holds its weights a few times over.
    values = options.batch * sum(map(prod, layer.shapes)) + 6 * layer.parameters
    needed, available = 4 * plan.copies * values, available_memory_bytes()
    if available is not None and needed > available:
        message = f"converting it takes about {needed >> 20} MiB, and {available >> 20} MiB of memory are available"
        raise LayerFailedError(message, reason="out_of_memory")
    shapes = tuple((options.batch, *shape) for shape in layer.inputs)
    try:
        copies = [build_module(layer) for _ in range(plan.copies)]
    except (RuntimeError, MemoryError) as error:
        raise LayerFailedError(_one_line(error)) from None
    if plan.role == "parallel":
        return make_parallel(copies, len(shapes)), tuple(shape for shape in shapes for _ in range(2))
    chained = chained_input(layer)
    return (copies[0] if plan.role == "one" else make_chain(copies, chained or 0)), shapes


def _describe(spec: Any) -> Converted:
    operators: Counter[str] = Counter()
    kind = spec.WhichOneof("Type")
    if kind == "mlProgram":
        for function in spec.mlProgram.functions.values():
            for block in function.block_specializations.values():
                operators.update(operation.type for operation in block.operations if operation.type != "const")
    else:
        operators.update(layer.WhichOneof("layer") for layer in getattr(spec, kind).layers)
    return Converted(
        dict(sorted(operators.items())),
        tuple(_tensor(feature) for feature in spec.description.input),
        tuple(_tensor(feature) for feature in spec.description.output),
    )


def _tensor(feature: Any) -> Tensor:
    array = feature.type.multiArrayType
    name = type(array).ArrayDataType.Name if hasattr(type(array), "ArrayDataType") else None
    dtype = (name(array.dataType) if name else str(array.dataType)).lower()
    return Tensor(name=feature.name, shape=tuple(array.shape), dtype=dtype)


# Operators of MIL by activation. Where there are several, the converter may choose one or combine them.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "relu": ("relu",),
    "relu6": ("relu6", "clip"),
    "sigmoid": ("sigmoid",),
    "hardsigmoid": ("sigmoid_hard",),
    "hardswish": ("sigmoid_hard", "thresholded_relu", "mul"),
    "silu": ("silu",),
    "gelu": ("gelu",),
    "tanh": ("tanh",),
}


def _expected(layer: Layer) -> tuple[Counter[str], Counter[str]]:
    """Return the MIL operators that a layer must become, at least and at most of each."""
    least: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for op in layer.operators:
        for name, low, high in _operators(op):
            least[name] += low
            most[name] += high
    return least, most


def _operators(op: Primitive) -> list[tuple[str, int, int]]:
    match op:
        case Conv2d():
            return [("conv", 1, 1)]
        case Linear():
            return [("linear", 1, 1)]
        case BatchNorm2d():
            # Folded into the convolution before it, where there is one.
            return [("batch_norm", 0, 1)]
        case Activation():
            names = _ACTIVATIONS[op.kind]
            return [(name, int(len(names) == 1), 1) for name in names]
        case Add():
            return [("add", 1, 1)]
        case Mul():
            return [("mul", 1, 1)]
        case Concat():
            return [("concat", 1, 1)]
        case ChannelShuffle():
            # Of two reshapes, one behind the other, the converter leaves one: between two shuffles, and to flatten.
            return [("reshape", 1, 2), ("transpose", 1, 1)]
        case MaxPool2d():
            return [("max_pool", 1, 1)]
        case AvgPool2d():
            return [("avg_pool", 1, 1)]
        case GlobalAvgPool2d():
            return [("reduce_mean", 1, 1)]
        case LayerNorm():
            return [("layer_norm", 1, 1)]
        case Flatten():
            return [("reshape", 0, 1), ("flatten2d", 0, 1), ("squeeze", 0, 1)]
    raise LayerFailedError(f"no operator of Core ML is known for {type(op).__name__}")


def _check_operators(plan: ProgramPlan, options: ExportOptions, found: dict[str, int]) -> str | None:
    """Return what is wrong with a converted program's operators, ``None`` if nothing is."""
    if options.format == "neuralnetwork":
        return _check_network_layers(plan, found)
    if plan.layer is not None and any(isinstance(op, Subgraph) for op in plan.layer.operators):
        # What another framework's operators become is the converter's affair; they are listed in the manifest.
        return None
    least: Counter[str] = Counter()
    most: Counter[str] = Counter()
    if plan.layer is None:
        least["add"] = most["add"] = plan.copies
    else:
        for op in plan.layer.operators:
            names = _ACTIVATIONS[op.kind] if isinstance(op, Activation) else ()
            if names and not any(name in found for name in names):
                return f"neither {' nor '.join(names)} is in it" if len(names) > 1 else f"{names[0]} is not in it"
        least, most = _expected(plan.layer)
        least = Counter({name: plan.copies * count for name, count in least.items()})
        most = Counter({name: plan.copies * count for name, count in most.items()})
        if plan.role == "parallel":
            sums = plan.copies * len(plan.layer.inputs) + plan.copies - 1
            least["add"] += sums
            most["add"] += sums
    if options.deployment_target == "iOS15" and options.dtype == "float16":
        # Before iOS 16 inputs and outputs are float32, cast at the border.
        most["cast"] += 8
    wrong = [
        f"{found.get(name, 0)} × {name} where {_range(least[name], most[name])} belong"
        for name in sorted(set(found) | set(least))
        if not least[name] <= found.get(name, 0) <= most[name]
    ]
    return "; ".join(wrong) or None


def _check_network_layers(plan: ProgramPlan, found: dict[str, int]) -> str | None:
    """Check what an old network must hold at least; its layers are named otherwise, and shapes may add some."""
    ops = plan.layer.operators if plan.layer is not None else ()
    wanted = {
        "convolution": sum(isinstance(op, Conv2d) for op in ops) * plan.copies,
        "add": (sum(isinstance(op, Add) for op in ops) if ops else 1) * plan.copies,
    }
    wrong = [f"{found.get(k, 0)} × {k} where {n} belong" for k, n in wanted.items() if found.get(k, 0) < n]
    return "; ".join(wrong) or None


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"

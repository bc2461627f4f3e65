"""A trained network as the file that is deployed, and networks as a bundle to be timed on Apple hardware."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lut import Layer, Network, UsageError
from lut._files import file_error, read_bytes, write_atomically
from lut.errors import ProfileError
from lut.primitives import BatchNorm2d, Conv2d, Linear, Subgraph

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from profiler._coreml._export import ExportProgress, ExportResult

__all__ = ["export_bundle", "export_trained"]

# Largest difference from PyTorch, relative to the output's largest value, that is taken for rounding.
TOLERANCE = 1e-4
# The same of weights, which a Core ML program holds in 16 bits unless asked otherwise.
WEIGHT_TOLERANCE = {"float32": 1e-4, "float16": 2e-3}

SUFFIXES = {"onnx": ".onnx", "coreml": ".mlpackage"}


def export_trained(
    network: Network,
    module: nn.Module,
    *,
    to: Literal["onnx", "coreml"],
    path: Path,
    batch: int,
    precision: str | None = None,
) -> Path:
    """Write a trained network, its weights included, in evaluation mode.

    The file is made as the one whose latency is measured, and differs from it in the weights only. What was there
    before is replaced once the new one has been checked: an ONNX file computes in ONNX Runtime what PyTorch does, to
    1e-4 of the output's largest value; a Core ML package, which only Apple hardware runs, is read again and holds the
    module's weights.

    Args:
        network: what the module computes.
        module: :func:`~profiler.build_module` of the network, or of its layers one by one, or any other module made of
            the same convolutions, norms and linear layers; it is left as it is.
        to: ``onnx`` or ``coreml``.
        path: the ``.onnx`` file, or the ``.mlpackage`` folder.
        batch: samples per call.
        precision: of a Core ML program: ``float16``, the default, or ``float32``.

    Returns:
        ``path``.

    Raises:
        UsageError: the module does not compute this network, the path ends otherwise, or an option makes no sense.
        TargetUnavailableError: a package is not installed; with what to install.
        LayerFailedError: the network cannot be converted.
        ProfileError: the file does not compute what the module does.
        FileAccessError: it cannot be written.
    """
    if to not in SUFFIXES:
        raise UsageError(f"a trained network is exported to {' or '.join(SUFFIXES)}, got {to!r}")
    path = Path(path)
    if path.suffix != SUFFIXES[to]:
        raise UsageError(f"the export to {to} is a {SUFFIXES[to]}, got {path}")
    if batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}")
    if to == "onnx" and precision not in (None, "float32"):
        raise UsageError(f"an ONNX file is exported in float32, got precision {precision!r}")
    if to == "onnx":
        _export_onnx(network, module, path, batch)
    else:
        _export_coreml(network, module, path, batch, precision)
    return path


def _export_onnx(network: Network, module: nn.Module, path: Path, batch: int) -> None:
    from profiler._onnx._target import _import_runtime

    runtime = _import_runtime("direct")
    import torch

    from profiler._onnx._graph import to_onnx
    from profiler._onnx._programs import lone

    layer = network.as_layer()
    made, inputs, expected = _same_network(network, layer, module, batch)
    if any(isinstance(node.op, Subgraph) for node in layer.nodes):
        # Operators that are not ours have no words in ONNX either; PyTorch's exporters know them.
        content = _exported(made, inputs)
    else:
        # As the measuring target wires a lone layer.
        wired = torch.nn.Module()
        wired.parts = torch.nn.ModuleList([made])
        content = to_onnx(lone(layer, 0), wired, inputs, "direct")
    _check_onnx(runtime, network.name, content, inputs, expected)
    write_atomically(path, content)


def _exported(made: nn.Module, inputs: Sequence[torch.Tensor]) -> bytes:
    from profiler._onnx._file import LARGEST_MESSAGE, export_model

    with tempfile.TemporaryDirectory(prefix="latency-lut-") as folder:
        place = Path(folder) / "model.onnx"
        export_model(made, inputs, place)
        return read_bytes(place, limit=LARGEST_MESSAGE)


def _check_onnx(
    runtime: Any, name: str, content: bytes, inputs: Sequence[torch.Tensor], expected: torch.Tensor
) -> None:
    """Raise unless ONNX Runtime computes what PyTorch does."""
    import torch

    from profiler._onnx._check import reason_of
    from profiler._onnx._target import has_shared_pool

    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if has_shared_pool():
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = 1
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        feed = {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs, strict=True)}
        got = torch.from_numpy(session.run(None, feed)[0])
    except Exception as error:
        raise ProfileError(f"{name}: ONNX Runtime does not run the exported file: {reason_of(error)}") from None
    off = _distance(got, expected)
    if not off <= TOLERANCE:
        raise ProfileError(
            f"{name}: the exported ONNX file computes something else than PyTorch: outputs differ by {off:.2g} of "
            f"their largest value, and {TOLERANCE:g} is allowed; nothing was written"
        )


def _distance(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference relative to the largest expected value; infinite for other shapes or no numbers."""
    if got.shape != expected.shape:
        return float("inf")
    scale = float(expected.abs().max()) or 1.0
    off = float((got.float() - expected).abs().max()) / scale
    return off if off == off else float("inf")


def _same_network(
    network: Network, layer: Layer, module: nn.Module, batch: int
) -> tuple[nn.Module, list[torch.Tensor], torch.Tensor]:
    """Return the network's own module with the trained weights, inputs, and the trained module's outputs of them.

    Raises:
        UsageError: the trained module computes something else than the network would with its weights.
    """
    import torch

    from profiler._modules import build_module, example_inputs

    # A copy: neither the device nor the mode of what may still be trained is changed.
    trained = copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        inputs = example_inputs(layer, batch, torch.float32)
        made = build_module(layer).requires_grad_(False)
        calls: list[tuple[nn.Module, torch.Tensor]] = []
        hooks = [
            # A copy of the input, which an operator in place may change later.
            part.register_forward_pre_hook(lambda called, given: calls.append((called, given[0].clone())))
            for part in trained.modules()
            if isinstance(part, _with_weights())
        ]
        try:
            expected = trained(*(x.clone() for x in inputs))
        except Exception as error:
            raise UsageError(
                f"{network.name}: the trained module does not run on the network's input, "
                f"{', '.join('×'.join(map(str, x.shape)) for x in inputs)}: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:600]}"
            ) from None
        finally:
            for hook in hooks:
                hook.remove()
        if not isinstance(expected, torch.Tensor):
            raise UsageError(f"{network.name}: the trained module returns {type(expected).__name__}, not a tensor")
        for by_name in (True, False):
            fits = _copied(made, trained) if by_name else _followed(layer, made, inputs, calls)
            if fits and _distance(made(*(x.clone() for x in inputs)), expected) <= TOLERANCE:
                return made, inputs, expected
    raise UsageError(
        f"{network.name}: the trained module is not this network: with its weights, the network computes something "
        "else, or they do not fit into its layers"
    )


def _with_weights() -> tuple[type[nn.Module], ...]:
    """Return the kinds of modules that hold weights."""
    from torch import nn

    return (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.LayerNorm)


def _copied(made: nn.Module, trained: nn.Module) -> bool:
    """Copy the trained weights and return whether they fit."""
    try:
        made.load_state_dict(trained.state_dict())
    except RuntimeError:
        return False
    return True


def _followed(
    layer: Layer, made: nn.Module, inputs: Sequence[torch.Tensor], calls: Sequence[tuple[nn.Module, torch.Tensor]]
) -> bool:
    """Copy the weights of a module that was put together in another way, and return whether all found their place.

    The network is run operator by operator. One with weights gets those of the trained part that was called with the
    same numbers as it is now; so neither names nor the order matter.
    """
    values = list(inputs)
    waiting = list(calls)
    for part, node in zip(_operators(made), layer.nodes, strict=True):
        args = [values[i].clone() for i in node.args]
        if isinstance(part, _with_weights()):
            for number, (trained, given) in enumerate(waiting):
                if (
                    isinstance(trained, type(part))
                    and _distance(given, args[0]) <= TOLERANCE
                    and _copied(part, trained)
                ):
                    del waiting[number]
                    break
            else:
                return False
        values.append(part(*args))
    return True


def _operators(made: nn.Module) -> list[nn.Module]:
    """Return the operators of a module that :func:`~profiler.build_module` made, in its layer's order."""
    return list((made.get_submodule("ops") if hasattr(made, "ops") else made).children())


def _export_coreml(network: Network, module: nn.Module, path: Path, batch: int, precision: str | None) -> None:
    from profiler._coreml._convert import check_installed, convert_module, import_coremltools
    from profiler._coreml._options import make_options

    options = make_options(batch=batch, precision=precision)
    check_installed()
    coremltools = import_coremltools()
    layer = network.as_layer()
    made, inputs, _ = _same_network(network, layer, module, batch)
    try:
        # Beside the place where it will lie, so that the last step is a rename.
        with tempfile.TemporaryDirectory(prefix=f".{path.stem[:40]}-", dir=path.parent) as folder:
            new, temporary = Path(folder) / path.name, Path(folder) / "tmp"
            temporary.mkdir()
            convert_module(made, inputs, options, new, temporary)
            _check_package(coremltools, network.name, layer, made, new, WEIGHT_TOLERANCE[options.dtype])
            if path.exists():
                path.rename(Path(folder) / "before")
            new.rename(path)
    except OSError as error:
        raise file_error(path, "write", error) from None


def _check_package(coremltools: Any, name: str, layer: Layer, made: nn.Module, place: Path, tolerance: float) -> None:
    """Read a package again, and raise unless the module's weights are in it."""
    import numpy as np

    from profiler._coreml._convert import quiet

    with quiet():
        from coremltools.optimize.coreml import get_weights_metadata

        model = coremltools.models.MLModel(str(place), skip_model_load=True)
        held = [np.asarray(found.val) for found in get_weights_metadata(model, weight_threshold=1).values()]
    for number, (what, *forms) in enumerate(_deployed(layer, made), start=1):
        for at, array in enumerate(held):
            if any(_close(array, form, tolerance) for form in forms):
                del held[at]
                break
        else:
            raise ProfileError(
                f"{name}: the weights of {what} {number} are not in the converted package; nothing was written"
            )


def _close(array: np.ndarray[Any, Any], form: torch.Tensor, tolerance: float) -> bool:
    wanted = form.numpy()
    if array.shape != wanted.shape or array.dtype.kind != "f":
        return False
    return bool(abs(array.astype("float32") - wanted).max() <= tolerance * max(float(abs(wanted).max()), 1e-6))


def _deployed(layer: Layer, made: nn.Module) -> Iterator[tuple[Any, ...]]:
    """Yield each convolution's and linear layer's word and the weights that a converter may make of it.

    A norm behind a convolution is folded into its weights, channel by channel.
    """
    import torch

    if any(isinstance(node.op, Subgraph) for node in layer.nodes):
        # What becomes of another framework's operators is the converter's affair.
        return
    parts = dict(enumerate(_operators(made), start=len(layer.inputs)))
    norms = {
        node.args[0]: parts[number]
        for number, node in enumerate(layer.nodes, start=len(layer.inputs))
        if isinstance(node.op, BatchNorm2d)
    }
    for number, node in enumerate(layer.nodes, start=len(layer.inputs)):
        if not isinstance(node.op, (Conv2d, Linear)):
            continue
        weight = parts[number].weight
        assert isinstance(weight, torch.Tensor)
        forms = [weight.detach()]
        if (norm := norms.get(number)) is not None:
            assert isinstance(norm, torch.nn.BatchNorm2d)
            assert norm.running_var is not None
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            forms.append((weight * scale.reshape(-1, 1, 1, 1)).detach())
        yield (type(node.op).__name__, *forms)


def export_bundle(
    networks: Sequence[Network],
    output: Path,
    *,
    batch: int,
    precision: str | None = None,
    model_format: str = "mlprogram",
    deployment_target: str | None = None,
    seed: int = 0,
    restart: bool = False,
    workers: int | None = None,
    progress: Callable[[ExportProgress], None] = lambda _: None,
) -> ExportResult:
    """Convert whole networks into a bundle with manifest and Swift runner, to be timed on an iPhone or a Mac.

    The same as ``export-coreml --model`` for each network; the manifest names each by the network's own name. An
    interrupted export goes on when it is called again. What cannot be converted is a failure in the manifest.

    Args:
        networks: each of another name; weights are random, since no latency depends on them.
        output: the bundle's folder; made if it is missing, in a folder that exists.
        batch: samples per call.
        precision: ``float16`` or ``float32``; by default the format's.
        model_format: ``mlprogram`` or ``neuralnetwork``.
        deployment_target: the oldest system, such as ``iOS16``.
        seed: of the weights.
        restart: discard what an earlier export left there, finished or not.
        workers: converting processes; by default as many as there are CPUs for this one, four at most.
        progress: called whenever a network is done.

    Raises:
        UsageError: no networks, two of one name, an option that makes no sense, a finished bundle or somebody's files.
        TargetUnavailableError: coremltools is not installed, or without its native library.
        FileAccessError: the folder cannot be written, or the disk is too full.
        InterruptedRunError: stopped by the user; what was converted is kept.
    """
    from profiler._coreml._export import export_bundle as export_programs
    from profiler._coreml._options import make_options
    from profiler._coreml._worker import NetworkPlan

    if not networks:
        raise UsageError("there is nothing to export: give at least one network")
    options = make_options(
        batch=batch, precision=precision, model_format=model_format, deployment_target=deployment_target, seed=seed
    )
    if len({network.name for network in networks}) < len(networks):
        raise UsageError(f"each network needs a name of its own, got {', '.join(network.name for network in networks)}")
    plans = [NetworkPlan(network.name, network.as_layer(), seed) for network in networks]
    return export_programs(
        Path(output), options=options, networks=plans, restart=restart, workers=workers, progress=progress
    )

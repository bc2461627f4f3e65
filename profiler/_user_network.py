"""The user's network as a table's subject: loaded and traced in a process of its own.

Making a network runs whatever its author wrote, and a damaged ONNX file can end the process that reads it. So neither
happens in the command's own process: a child does it and answers with the network's layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from lut import Network, UsageError
from lut._files import sha256_of
from lut._printable import printable
from lut.errors import LatencyLutError
from profiler._child import run_task, serve
from profiler._model import ModelSpec
from profiler._sources import FactorySource, FileSource, Subject
from profiler._traced import TracedNetwork

__all__ = ["TraceAnswer", "TraceRequest", "UserNetwork", "main", "onnx_network", "torch_network", "traced_here"]


class TraceRequest(msgspec.Struct, frozen=True):
    """What a child is to load and trace: a module that a factory makes, or an ONNX file.

    Args:
        name: for people.
        model: where the module is made.
        file: path of the ONNX file; with ``model``, the path that the module is exported to first.
        shapes: of an ONNX file's inputs.
    """

    name: str
    model: ModelSpec | None = None
    file: str | None = None
    shapes: tuple[tuple[int, ...], ...] = ()


class TraceAnswer(msgspec.Struct, frozen=True):
    """What a child found; see :class:`~profiler._traced.TracedNetwork`."""

    network: Network
    batch: int
    operators: int
    idle: dict[str, int]
    kernels: dict[str, str]
    dtype: str


class UserNetwork(NamedTuple):
    """The user's network: what is measured of it, and what it fixes: the batch, and for a file the data type."""

    subject: Subject
    batch: int
    dtype: str | None = None


def torch_network(spec: ModelSpec, *, as_whole: bool) -> UserNetwork:
    """Return a PyTorch network by its layers.

    Args:
        spec: where it is made.
        as_whole: whether it is also run as a whole; otherwise its program is made by export-coreml.

    Raises:
        UsageError: it cannot be loaded, run or traced; the message says what to try.
        ProfileError: the process that loaded it crashed or hung.
    """
    found = _traced(TraceRequest(str(spec), model=spec))
    # A run is not taken up again with another network under the same name.
    digest = sha256_of(spec.place)[:16] if spec.place.endswith(".py") else ""
    source = FactorySource(str(spec), spec, digest) if as_whole else None
    reason = None if as_whole else "layers only: export-coreml --model makes the whole network's program"
    return UserNetwork(Subject(found.network, source, found.operators, found.idle, reason), found.batch)


def onnx_network(
    path: Path,
    *,
    shapes: tuple[tuple[int, ...], ...] = (),
    exported_from: ModelSpec | None = None,
    name: str | None = None,
) -> UserNetwork:
    """Return an ONNX file's network by its layers.

    Args:
        path: the file.
        shapes: of its inputs, where it leaves sizes open.
        exported_from: a PyTorch network that is exported to the path first.
        name: for people; by default the factory's, or the file's.

    Raises:
        UsageError: it cannot be loaded, run or traced; the message says what to try.
        ProfileError: the process that loaded it crashed or hung.
    """
    if name is None:
        name = str(exported_from) if exported_from is not None else path.name
    found = _traced(TraceRequest(name, model=exported_from, file=str(path), shapes=shapes))
    digest = sha256_of(path)[:16]
    source = FileSource(found.network.name, str(path.resolve()), digest, shapes)
    subject = Subject(found.network, source, found.operators, found.idle, kernels=found.kernels)
    return UserNetwork(subject, found.batch, found.dtype)


def _traced(request: TraceRequest) -> TraceAnswer:
    return run_task(__name__, request, TraceAnswer, what=_given(request))


def _given(request: TraceRequest) -> str:
    """Return what was given, for errors: a factory is named on a command line only, a file in Python too."""
    return f"--model {request.model}" if request.model is not None else printable(request.file or "")


def traced_here(request: TraceRequest) -> TraceAnswer:
    """Load and trace a network in this process, which is a child.

    Raises:
        UsageError: it cannot be loaded, run or traced.
    """
    try:
        found = _load_and_trace(request)
    except LatencyLutError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise UsageError(
            f"{_given(request)}: it cannot be taken apart into layers: {type(error).__name__}: {text}"
        ) from error
    return TraceAnswer(found.network, found.batch, found.operators, dict(found.idle), dict(found.kernels), found.dtype)


def _load_and_trace(request: TraceRequest) -> TracedNetwork:
    if request.model is not None:
        from profiler._model import load_model

        module, examples = load_model(request.model)
        if request.file is None:
            from profiler._trace import trace

            return trace(module, examples, name=request.name, what=f"--model {request.model}")
        from profiler._onnx._file import export_model

        export_model(module, examples, Path(request.file))
    assert request.file is not None
    from profiler._onnx._file import load_onnx, trace_onnx

    return trace_onnx(load_onnx(Path(request.file), shapes=request.shapes), name=request.name)


def main(asked: int, answers: int, parent: int) -> None:
    """Run the child that loads and traces a network."""
    serve(asked, answers, parent, lambda request: traced_here(msgspec.json.decode(request, type=TraceRequest)))

"""A process that converts: a crash of the converter, its memory and its temporary files stay there."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

from lut import Layer
from lut._files import read_bytes, write_atomically
from lut.errors import FileAccessError, LatencyLutError, LayerFailedError, ProfileError
from profiler._coreml._bundle import Program, check_paths, hash_files, program_path
from profiler._coreml._options import ExportOptions
from profiler._coreml._programs import ProgramPlan
from profiler._model import ModelSpec

__all__ = ["BOOT", "Answer", "Hello", "NetworkPlan", "Order", "ready_program", "save_record", "work"]

# What an interrupted export says of one program: the hashes of a few files.
LARGEST_RECORD = 1 << 22

# As `-c` alone, Python would look for modules in the current folder first, where a user's lut.py may lie.
BOOT = (
    "import os, sys; sys.path[:] = [os.environ['LATENCY_LUT_ROOT'], *[p for p in sys.path if p]]; "
    "from profiler._coreml._worker import main; main()"
)


class Hello(msgspec.Struct, frozen=True):
    """What a worker is told first."""

    root: str
    temporary: str
    records: str
    options: ExportOptions


class NetworkPlan(msgspec.Struct, frozen=True):
    """A network to convert that is described as one layer; ``seed`` is that of its weights."""

    name: str
    layer: Layer
    seed: int


class Order(msgspec.Struct, frozen=True):
    """What to convert: a planned program, a user's network by its name in the bundle, or one of ours."""

    number: int
    plan: ProgramPlan | None = None
    model: tuple[str, ModelSpec] | None = None
    network: NetworkPlan | None = None


class Answer(msgspec.Struct, frozen=True):
    """What came of it. ``kind`` of an error: ``unavailable`` and ``usage`` end the export, others fail one program."""

    number: int
    program: Program | None = None
    kept: bool = False
    versions: dict[str, str] = {}
    kind: str = ""
    message: str = ""


def ready_program(root: Path, records: Path, made_from: str) -> Program | None:
    """Return the program that an interrupted export converted from the same things, if it is whole."""
    record = records / f"{made_from[:16]}.json"
    try:
        program = msgspec.json.decode(read_bytes(record, limit=LARGEST_RECORD), type=Program)
        check_paths(program, f"{record}: ", "program")
        if program.made_from != made_from or not (root / program.path).exists():
            return None
        return program if hash_files(root, program.path) == program.files else None
    except (FileAccessError, ProfileError, msgspec.DecodeError, UnicodeDecodeError):
        # Whatever lies there, the program is converted again.
        return None


def save_record(records: Path, program: Program) -> None:
    """Write down that a program is whole."""
    write_atomically(records / f"{program.id}.json", msgspec.json.encode(program))


def main() -> None:
    """Work on orders from standard input, one line each, until it closes."""
    # Ctrl-C is the parent's to hear; it closes our input or ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    # Whatever a user's model or a library prints must not get between the answers.
    os.dup2(2, 1)
    hello = msgspec.json.decode(sys.stdin.buffer.readline(), type=Hello)
    try:
        from profiler._coreml._convert import import_coremltools, versions

        import_coremltools(for_pytorch_only=True)
        import torch

        torch.set_num_threads(1)
        found = versions()
    except LatencyLutError as error:
        _answer(answers, Answer(-1, kind="unavailable", message=str(error)))
        return
    _answer(answers, Answer(-1, versions=found))
    # coremltools collects garbage at each conversion. With its and PyTorch's modules out of the collector's sight that
    # takes milliseconds instead of 0.17 s, which was two thirds of a small layer's conversion.
    gc.freeze()
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        _answer(answers, work(order, hello, found))


def _answer(answers: IO[bytes], answer: Answer) -> None:
    answers.write(msgspec.json.encode(answer) + b"\n")


def work(order: Order, hello: Hello, found: dict[str, str]) -> Answer:
    """Convert one program and return what came of it; never raises for a program's own fault."""
    from lut import UsageError

    try:
        if order.plan is not None:
            return _layer_program(order.number, order.plan, hello, found)
        if order.network is not None:
            return _layers_network(order.number, order.network, hello, found)
        assert order.model is not None
        return _network(order.number, *order.model, hello, found)
    except LayerFailedError as error:
        return Answer(order.number, kind=error.reason, message=str(error))
    except UsageError as error:
        return Answer(order.number, kind="usage", message=str(error))
    except LatencyLutError as error:
        return Answer(order.number, kind="unavailable", message=str(error))
    except MemoryError:
        return Answer(order.number, kind="out_of_memory", message="there was not enough memory to convert it")
    except (Exception, SystemExit) as error:
        # A user's module may fail wherever it is looked at. That is its own failure, and no crash of this process.
        text = " ".join(str(error).split()) or "no message"
        return Answer(order.number, kind="error", message=f"{type(error).__name__}: {text}"[:1000])


def _layer_program(number: int, plan: ProgramPlan, hello: Hello, found: dict[str, str]) -> Answer:
    from profiler._coreml._convert import convert_program, model_suffix

    made_from = plan.made_from(hello.options, found)
    return _once(
        number,
        hello,
        made_from,
        lambda: convert_program(
            plan,
            hello.options,
            root=Path(hello.root),
            path=program_path(plan.title, made_from[:16], model_suffix(hello.options)),
            temporary=Path(hello.temporary),
            made_from=made_from,
        ),
    )


def _network(number: int, title: str, spec: ModelSpec, hello: Hello, found: dict[str, str]) -> Answer:
    from profiler._coreml._convert import convert_network
    from profiler._model import load_model

    module, examples = load_model(spec)
    digest = hashlib.sha256(msgspec.json.encode((title, hello.options, sorted(found.items()))))
    digest.update(repr([(tuple(x.shape), str(x.dtype)) for x in examples]).encode())
    digest.update(str(module).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode() + _content(value))
    if spec.place.endswith(".py"):
        digest.update(read_bytes(spec.place))
    made_from = digest.hexdigest()
    return _once(
        number,
        hello,
        made_from,
        lambda: convert_network(
            module,
            examples,
            hello.options,
            what=title,
            root=Path(hello.root),
            temporary=Path(hello.temporary),
            made_from=made_from,
        ),
    )


def _layers_network(number: int, plan: NetworkPlan, hello: Hello, found: dict[str, str]) -> Answer:
    import torch

    from lut import LayerError
    from profiler._coreml._convert import convert_network
    from profiler._modules import build_module, example_inputs

    content = msgspec.json.encode(("network", plan, hello.options, sorted(found.items())))
    made_from = hashlib.sha256(content).hexdigest()

    def convert() -> Program:
        torch.manual_seed(plan.seed)
        try:
            module = build_module(plan.layer)
            examples = example_inputs(plan.layer, hello.options.batch, torch.float32)
        except LayerError as error:
            raise LayerFailedError(str(error)) from None
        return convert_network(
            module,
            examples,
            hello.options,
            what=plan.name,
            root=Path(hello.root),
            temporary=Path(hello.temporary),
            made_from=made_from,
        )

    return _once(number, hello, made_from, convert)


def _content(value: Any) -> bytes:
    """Return the bytes of a tensor of any type (numpy has no bfloat16), or of what else a module's state holds."""
    import torch

    if not isinstance(value, torch.Tensor):
        return repr(value).encode()
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _once(number: int, hello: Hello, made_from: str, convert: Callable[[], Program]) -> Answer:
    records = Path(hello.records)
    ready = ready_program(Path(hello.root), records, made_from)
    if ready is not None:
        return Answer(number, program=ready, kept=True)
    program = convert()
    save_record(records, program)
    return Answer(number, program=program)

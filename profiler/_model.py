"""The user's network: a factory in a file or a module, and the inputs to trace it with. Needs torch when it loads."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lut import UsageError
from lut._suggest import did_you_mean
from profiler._dtypes import torch_dtype

if TYPE_CHECKING:
    import torch

__all__ = ["ModelSpec", "import_place", "load_model", "parse_input", "parse_model", "parse_place", "random_like"]

LARGEST_INPUT = 1 << 30
INPUT_DTYPES = ("float32", "int64", "int32", "bool")


class ModelSpec(NamedTuple):
    """A network to measure or export: where its factory is, and its inputs unless the factory returns some.

    ``kinds`` are the inputs' data types, each with the number of values that an integer may have.
    """

    place: str
    factory: str
    shapes: tuple[tuple[int, ...], ...]
    seed: int
    kinds: tuple[tuple[str, int], ...] = ()

    @property
    def input_text(self) -> str:
        """The inputs' shapes as they are given: ``1x3x224x224``, several with commas; empty where there are none."""
        return ",".join("x".join(map(str, shape)) for shape in self.shapes)

    def __str__(self) -> str:
        return (
            f"{Path(self.place).name}:{self.factory}" if self.place.endswith(".py") else f"{self.place}:{self.factory}"
        )


def parse_input(text: str) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of ``1x3x224x224``, or of several inputs, separated by commas.

    Raises:
        UsageError: it is no such list of sizes.
    """
    return _parse_inputs(text)[0]


def _parse_inputs(text: str) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[str, int], ...]]:
    """Return shapes and kinds of ``4x3x32x32,4x16:int64:1000``: a type and the number of its values may follow."""
    shapes, kinds = [], []
    for whole in text.split(","):
        part, *kind = whole.split(":")
        dtype = kind[0].strip() if kind else "float32"
        values = kind[1].strip() if len(kind) > 1 else "2"
        if len(kind) > 2 or dtype not in INPUT_DTYPES or not re.fullmatch(r"[1-9][0-9]{0,9}", values):
            raise UsageError(
                f"--input {whole.strip()}: behind the shape stand a type ({', '.join(INPUT_DTYPES)}) and, for "
                "integers, how many values they may have: 1x128:int64:8192"
            )
        kinds.append((dtype, 0 if dtype == "float32" else int(values)))
        if not re.fullmatch(r"\s*[0-9]{1,9}(\s*[xX×][0-9]{1,9})*\s*", part):
            raise UsageError(
                f"--input is a shape, the batch in front, such as 1x3x224x224 (several: with commas), got {text!r}"
            )
        shape = tuple(map(int, re.split(r"[xX×]", part.strip())))
        total = 1
        for size in shape:
            total *= size
        if not 1 <= total <= LARGEST_INPUT:
            raise UsageError(f"--input {part.strip()}: every size must be positive, and the whole at most 2^30 values")
        shapes.append(shape)
    return tuple(shapes), tuple(kinds)


def parse_model(text: str, input_text: str | None, seed: int) -> ModelSpec:
    """Return the spec of ``file.py:factory`` or ``package.module:factory``; checks only what needs no import.

    Raises:
        UsageError: it is neither, or there is no such file.
    """
    place, factory = parse_place(text, "--model", "factory")
    shapes, kinds = _parse_inputs(input_text) if input_text is not None else ((), ())
    return ModelSpec(place, factory, shapes, seed, kinds)


def parse_place(text: str, option: str, what: str) -> tuple[str, str]:
    """Return where a user's function is, an absolute file or a module's dotted name, and its name; imports nothing.

    Args:
        text: ``file.py:function`` or ``package.module:function``.
        option: by which it was given, for errors: ``--model``.
        what: what the function is, for errors: ``factory``.

    Raises:
        UsageError: it is neither, or there is no such file.
    """
    place, separator, name = text.rpartition(":")
    if text.endswith(".py"):
        raise UsageError(f"{option} {text}: name a function in it too, {text}:{what.upper()}")
    if not separator or not place or not name.isidentifier():
        raise UsageError(f"{option} is file.py:{what} or package.module:{what}, got {text!r}")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise UsageError(f"{option} {text}: there is no file {place}")
        place = str(path.resolve())
    elif not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"{option} is file.py:{what} or package.module:{what}, got {text!r}")
    return place, name


def load_model(spec: ModelSpec) -> tuple[Any, tuple[Any, ...]]:
    """Return the network in evaluation mode and its example inputs.

    Raises:
        UsageError: the file or the factory fails or is missing, or what it returns is no network with inputs.
    """
    import torch

    torch.manual_seed(spec.seed)
    # What the user's code prints must not stand in what --json prints.
    with contextlib.redirect_stdout(sys.stderr):
        return _load(spec)


def _load(spec: ModelSpec) -> tuple[Any, tuple[Any, ...]]:
    import torch

    place = import_place(spec.place, f"--model {spec}")
    factory = getattr(place, spec.factory, None)
    if not callable(factory):
        own = [name for name in dir(place) if not name.startswith("_")]
        raise UsageError(f"--model {spec}: there is no function {spec.factory} in it{did_you_mean(spec.factory, own)}")
    try:
        made = factory()
    except (Exception, SystemExit) as error:
        raise UsageError(f"--model {spec}: the factory failed: {_short(error)}") from None
    module, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, ())
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"--model {spec}: the factory returned {type(module).__name__}, not a torch.nn.Module")
    if isinstance(examples, torch.Tensor):
        examples = (examples,)
    if not isinstance(examples, (tuple, list)) or not all(isinstance(x, torch.Tensor) for x in examples):
        raise UsageError(
            f"--model {spec}: beside the module, the factory returns its input: a tensor, or a tuple of tensors"
        )
    examples = tuple(examples)
    if spec.shapes:
        kinds = spec.kinds or (("float32", 0),) * len(spec.shapes)
        examples = tuple(_example(shape, *kind) for shape, kind in zip(spec.shapes, kinds, strict=True))
    if not examples:
        raise UsageError(f"--model {spec}: say what goes in: --input 1x3x224x224")
    module = module.eval()
    try:
        with torch.no_grad():
            module(*examples)
    except (Exception, SystemExit) as error:
        shapes = ", ".join("x".join(map(str, x.shape)) for x in examples)
        text = f"--model {spec}: it does not run on --input {shapes}: {_short(error)}"
        if len(examples) > 1 and all(x.ndim == 1 for x in examples):
            text += f"; did you mean --input {'x'.join(str(len(x)) for x in examples)}? Commas stand between inputs"
        raise UsageError(text) from None
    return module, examples


def import_place(place: str, said: str) -> Any:
    """Return the module of a user's function, imported now.

    Args:
        place: what :func:`parse_place` returned.
        said: what the user gave, for errors: ``--model net.py:make``.

    Raises:
        UsageError: it cannot be imported.
    """
    try:
        if not place.endswith(".py"):
            # Appended, never put first: a user's search.py or lut.py beside the model must not hide ours.
            if str(Path.cwd()) not in sys.path:
                sys.path.append(str(Path.cwd()))
            return importlib.import_module(place)
        folder = str(Path(place).parent)
        if folder not in sys.path:
            sys.path.append(folder)
        # Named by its path, so that files of one name are two modules; and imported once, since what it registers with
        # PyTorch, an operator say, cannot be registered twice.
        name = f"_latency_lut_model_{Path(place).stem}_{sha256(place.encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return sys.modules[name]
        found = importlib.util.spec_from_file_location(name, place)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        try:
            found.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{said}: it cannot be imported: {_short(error)}") from None
    return module


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]


def _example(shape: tuple[int, ...], dtype: str, values: int) -> torch.Tensor:
    """Return zeros, or integers that go through all of their values, the largest first."""
    import torch

    if dtype == "float32":
        return torch.zeros(shape)
    count = prod(shape)
    return ((values - 1 - torch.arange(count)) % values).reshape(shape).to(torch_dtype(dtype))


def random_like(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers as a network would get them: standard normal in ``dtype``; integers and booleans as they are.

    Drawn from PyTorch's global generator.
    """
    import torch

    return torch.randn(x.shape).to(dtype) if x.is_floating_point() else x.clone()

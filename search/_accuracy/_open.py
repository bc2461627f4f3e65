"""Opening an accuracy for a search: what it is known by, where its values are kept, and who evaluates."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import CodeType
from typing import Any, final

import msgspec

from lut import SearchSpace, UsageError
from lut._files import read_bytes
from lut._option_names import ELSEWHERE_OR_RESTART, OTHER_OUTPUT
from lut.errors import CheckpointError
from search._accuracy._evaluator import Accuracy, AccuracyCache, BatchAccuracy, EvaluationProgress, Evaluator
from search._problem._problem import Problem

__all__ = ["EVALUATIONS", "Evaluations", "evaluating", "function_digest", "space_text"]

# The file of a search's folder that keeps accuracies.
EVALUATIONS = "evaluations.jsonl"
# Of what simple values a function's defaults may be to have a part in its digest.
PLAIN = (bool, int, float, complex, str, bytes, type(None))


@final
@dataclass(frozen=True)
class Evaluations:
    """An accuracy that is open for a search.

    Args:
        problem: whose vectors are asked for.
        evaluator: of networks, for searches that ask for these.
        cache: where values are kept; ``None``: nowhere.
    """

    problem: Problem
    evaluator: Evaluator
    cache: AccuracyCache | None

    def __call__(self, vectors: Sequence[Sequence[int]]) -> list[float]:
        """Return the accuracies of vectors' networks, in the order given; see :class:`Evaluator` for the errors."""
        return self.evaluator([self.problem.network(vector) for vector in vectors])


@contextlib.contextmanager
def evaluating(
    problem: Problem,
    accuracy: Accuracy | BatchAccuracy,
    folder: str | Path | None = None,
    workers: int = 1,
    progress: Callable[[EvaluationProgress], None] = lambda _: None,
    *,
    timeout_s: float | None = None,
) -> Iterator[Evaluations]:
    """Open an accuracy: each network is evaluated once, and with a folder its value is kept there at once.

    Args:
        problem: whose networks are evaluated.
        accuracy: of a network; see :class:`Evaluator`.
        folder: keeps ``evaluations.jsonl``, so that another call goes on from there; it is made where it is missing.
        workers: how many calls of a plain function run at a time, each in a thread of its own.
        progress: see :class:`Evaluator`.
        timeout_s: seconds that one call of a plain function may take.

    Raises:
        UsageError: the accuracy cannot be called, or a number is out of its range.
        CheckpointError: the folder's accuracies are of another space or function, or another process writes there.
        FileAccessError: the folder cannot be written.
    """
    if not (callable(accuracy) or isinstance(accuracy, BatchAccuracy)):
        raise UsageError(f"an accuracy is a function of a network, got {type(accuracy).__name__}")
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    with contextlib.ExitStack() as stack:
        cache = None
        if folder is not None:
            cache = stack.enter_context(_open_cache(problem, accuracy, Path(folder)))
        evaluator = Evaluator(accuracy, cache=cache, at_once=workers, progress=progress, timeout_s=timeout_s)
        yield Evaluations(problem, evaluator, cache)


def _open_cache(problem: Problem, accuracy: Any, folder: Path) -> AccuracyCache:
    function = function_digest(accuracy)
    try:
        return AccuracyCache.open(folder / EVALUATIONS, space=space_text(problem.space), function=function)
    except CheckpointError as error:
        # Here there are no commands' options.
        text = str(error).replace(ELSEWHERE_OR_RESTART, f"give another folder, or remove {EVALUATIONS} from it")
        raise CheckpointError(text.replace(OTHER_OUTPUT, "another folder")) from None


def space_text(space: SearchSpace) -> str:
    """Return what a file of accuracies says of the space that they are of: its name and options."""
    return f"{space.name} {msgspec.json.encode(dict(space.options)).decode()}"


def function_digest(accuracy: Any) -> str:
    """Return a SHA-256 of all that can be seen of what an accuracy depends on besides the network, in hexadecimal.

    What has a ``digest`` of its own is known by that. A function is known by its name and the content of the file that
    it is written in; one without, from an interactive session say, and every lambda, by its compiled code and its
    plain default values. What a function reads from elsewhere cannot be seen: variables around it, files, modules that
    it imports. Give ``digest`` to an object whose accuracies depend on such things.

    Raises:
        FileAccessError: its file cannot be read.
        UsageError: its ``digest`` is no text.
    """
    own = getattr(accuracy, "digest", None)
    if own is not None:
        if not isinstance(own, str) or not own:
            raise UsageError(f"the digest of an accuracy is a text, got {type(own).__name__}")
        return own
    if isinstance(accuracy, functools.partial):
        given = [accuracy.args, sorted(accuracy.keywords.items())]
        return sha256(f"{function_digest(accuracy.func)} {_constant(given)}".encode()).hexdigest()
    # Of an object that is called, its class: what it holds cannot be seen.
    written = inspect.unwrap(accuracy) if inspect.isroutine(accuracy) else type(accuracy)
    written = getattr(written, "__func__", written)
    name = getattr(written, "__qualname__", type(written).__name__)
    code = getattr(written, "__code__", None)
    if "<lambda>" not in name or code is None:
        content = _source_of(written)
        if content is not None:
            return sha256(name.encode() + b"\0" + content).hexdigest()
    if code is None:
        return sha256(f"{getattr(written, '__module__', '')} {name}".encode()).hexdigest()
    defaults = [
        getattr(written, "__defaults__", None),
        sorted((getattr(written, "__kwdefaults__", None) or {}).items()),
    ]
    return sha256(f"{_code_text(code)} {_constant(defaults)}".encode()).hexdigest()


def _source_of(written: Any) -> bytes | None:
    """Return the content of the file that a function or class is written in; ``None`` where there is none."""
    try:
        file = inspect.getsourcefile(written)
    except (TypeError, OSError):
        return None
    return read_bytes(file) if file is not None and Path(file).is_file() else None


def _code_text(code: CodeType) -> str:
    parts = (code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, _constant(code.co_consts))
    return repr(parts)


def _constant(value: Any) -> str:
    """Return a constant as a text that is the same in every process: a set's order is not."""
    if isinstance(value, CodeType):
        return _code_text(value)
    if isinstance(value, (frozenset, set)):
        return f"{{{', '.join(sorted(map(_constant, value)))}}}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_constant, value))})"
    # Others' texts may hold where they are in memory.
    return repr(value) if isinstance(value, PLAIN) else type(value).__qualname__

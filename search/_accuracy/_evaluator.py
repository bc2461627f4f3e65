"""What accuracy a network reaches, asked for many networks: each is evaluated once, and kept on disk.

RCAS (Xiong et al. 2019, section 3.1) calls it the set function: it is dear, so no value is ever computed twice or lost.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, final, runtime_checkable

import msgspec

from lut import Network, UsageError
from lut._files import file_error, read_bytes, write_atomically
from lut._lines import DamagedLineError, seal, unsealed
from lut._option_names import ELSEWHERE_OR_RESTART, OTHER_OUTPUT
from lut._printable import printable, shortened
from lut.errors import CheckpointError, FileAccessError, InterruptedRunError, SearchError
from profiler._model import import_place, parse_place
from search._accuracy._side_by_side import run_at_once
from search._time_left import seconds_left

__all__ = [
    "Accuracy",
    "AccuracyCache",
    "BatchAccuracy",
    "EvaluationProgress",
    "Evaluator",
    "evaluation_error",
    "kept_accuracies",
    "load_accuracy",
    "network_key",
]

FORMAT = "latency-lut-accuracies"
VERSION = 2
# Before lines had checksums.
UNSEALED = 1
# Two million evaluations.
LARGEST_CACHE = 1 << 28
# Differences of values and their sums must be numbers, too.
LARGEST_VALUE = 1e15
LONGEST_S = 1e12
# How every file of ours begins.
BEGINNING = f'{{"format":"{FORMAT}"'.encode()

# Takes a network, gives its accuracy: 0 … 1, or any finite number of which more is better.
Accuracy: TypeAlias = Callable[[Network], float]


@runtime_checkable
class BatchAccuracy(Protocol):
    """What evaluates several networks in its own way, in processes of its own say."""

    def evaluate(self, networks: Sequence[Network]) -> Iterator[tuple[int, float, float]]:
        """Yield each network's number, its accuracy and what it took in seconds, in the order in which they get done.

        Raises:
            SearchError: one could not be evaluated; those that were done before have been yielded.
        """
        ...


class EvaluationProgress(NamedTuple):
    """How far one call of an :class:`Evaluator` is; networks of the same work count as one.

    Args:
        done: how many of this call's networks have a value.
        wanted: how many this call is about.
        cached: how many of them had one before.
        elapsed_s: since this call began.
        left_s: expected; ``None`` before the first evaluation.
        value: of the last evaluation; ``None`` before the first.
    """

    done: int
    wanted: int
    cached: int
    elapsed_s: float
    left_s: float | None
    value: float | None


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line: whose accuracies these are."""

    format: str
    version: int
    space: str
    function: str


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every other line: one evaluation."""

    key: str
    value: float
    seconds: float


@final
class AccuracyCache:
    """An append-only file of accuracies, a line of JSON each, held by one process at a time; made by :meth:`open`.

    Each line ends with a checksum; a file of an older version, which had none, is written anew when it is opened. A
    line counts only with its newline: what a kill or a full disk cut off is dropped when the file is opened. An added
    value is on the disk when :meth:`add` returns. It is for one thread.
    """

    def __init__(self, path: Path, descriptor: int, size: int, values: Mapping[str, float]) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._size = size
        self._values = dict(values)

    @classmethod
    def open(cls, path: Path, *, space: str, function: str) -> AccuracyCache:
        """Open a file, or begin one; its folder is made where it is missing.

        Args:
            path: the file.
            space: name or digest of the search space.
            function: digest of all that an accuracy depends on besides the network: recipe, data, seed, code.

        Raises:
            CheckpointError: it is of another space or function, damaged, no such file, or held by another process.
            FileAccessError: it cannot be read or written.
        """
        header = _Header(FORMAT, VERSION, space, function)
        descriptor = _opened(path)
        try:
            _hold(path, descriptor)
            content = read_bytes(path, limit=LARGEST_CACHE)
            size = content.rfind(b"\n") + 1
            values, older = _read(path, content[:size], content[size:], header)
            if older is not None:
                # Whole or not at all: from now on it is another file, which is to be held in the older one's place.
                write_atomically(path, _sealed(header, older))
                before, descriptor = descriptor, _opened(path)
                os.close(before)
                _hold(path, descriptor)
                content = read_bytes(path, limit=LARGEST_CACHE)
                size = content.rfind(b"\n") + 1
                values, _ = _read(path, content[:size], content[size:], header)
            if size != len(content):
                os.ftruncate(descriptor, size)
            cache = cls(path, descriptor, size, values)
            if not size:
                cache._append(header)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError) and not isinstance(error, FileAccessError):
                raise file_error(path, "write", error) from None
            raise
        return cache

    def get(self, key: str) -> float | None:
        """Return the accuracy under a key of :func:`network_key`; ``None`` where there is none."""
        return self._values.get(key)

    def add(self, key: str, value: float, seconds: float) -> None:
        """Keep an accuracy and what it took to compute in seconds.

        Raises:
            UsageError: it is not finite or wild, or the cache is closed.
            FileAccessError: the disk is full, or the like; what was there before is untouched.
        """
        if not abs(value) <= LARGEST_VALUE:
            raise UsageError(f"{self.path}: an accuracy must be finite, and up to {LARGEST_VALUE:g}, got {value}")
        self._append(_Line(key, value, seconds))
        self._values[key] = value

    def __len__(self) -> int:
        return len(self._values)

    def __enter__(self) -> AccuracyCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; what it holds can still be asked for."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, event: _Header | _Line) -> None:
        if self._descriptor is None:
            raise UsageError(f"{self.path} is closed: nothing can be added")
        line = seal(msgspec.json.encode(event), self._size)
        try:
            try:
                if os.write(self._descriptor, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._descriptor)
            except BaseException:
                # Half a line must not stand before the next one.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._size)
                raise
        except OSError as error:
            raise file_error(self.path, "write", error) from None
        self._size += len(line)


def kept_accuracies(path: Path) -> int:
    """Return how many accuracies a file of :class:`AccuracyCache` seems to hold, to tell a person; it is not checked.

    Raises:
        FileAccessError: it cannot be read.
    """
    if not path.is_file():
        return 0
    return max(read_bytes(path, limit=LARGEST_CACHE).count(b"\n") - 1, 0)


def network_key(network: Network) -> str:
    """Return the SHA-256 of the work that a network does, in hexadecimal; names have no part in it.

    Raises:
        LayerError: the network's layers do not fit together.
    """
    return hashlib.sha256(msgspec.json.encode(network.as_layer())).hexdigest()


@final
class Evaluator:
    """Gives accuracies of networks; computes each once, and keeps it at once.

    Args:
        accuracy: of one network, 0 … 1 or any finite number, a number of numpy's or PyTorch's included; or a
            :class:`BatchAccuracy`.
        cache: where values are kept between runs; without one they are kept as long as this object.
        at_once: how many calls of a plain ``accuracy`` run at a time. With 1 they run in the caller's thread; with more
            each runs in a thread of its own, which the function must bear. A :class:`BatchAccuracy` sees to that
            itself.
        progress: called at the beginning of each call and after each evaluation, in the caller's thread.

    Raises:
        UsageError: ``at_once`` is below 1.
    """

    def __init__(
        self,
        accuracy: Accuracy | BatchAccuracy,
        *,
        cache: AccuracyCache | None = None,
        at_once: int = 1,
        progress: Callable[[EvaluationProgress], None] = lambda _: None,
        timeout_s: float | None = None,
        key: Callable[[Network], str] = network_key,
    ) -> None:
        if at_once < 1:
            raise UsageError(f"at_once: at least one network at a time, got {at_once}")
        if timeout_s is not None and not 0 < timeout_s < math.inf:
            raise UsageError(f"timeout_s is a positive number of seconds, got {timeout_s}")
        if timeout_s is not None and isinstance(accuracy, BatchAccuracy):
            raise UsageError(
                f"timeout_s is for a plain function, and {type(accuracy).__name__} evaluates in its own way"
            )
        self._accuracy = accuracy if isinstance(accuracy, BatchAccuracy) else _Called(accuracy, at_once, timeout_s)
        self._key = key
        self._cache = cache
        self._progress = progress
        self._known: dict[str, float] = {}
        self._asked = 0
        self._evaluated = 0
        self._seconds = 0.0

    @property
    def asked(self) -> int:
        """How many values were asked for, those that were known and those asked for twice included."""
        return self._asked

    @property
    def evaluated(self) -> int:
        """How many values were computed by this object."""
        return self._evaluated

    @property
    def seconds(self) -> float:
        """What they took, summed; several at a time take longer than the clock on the wall shows."""
        return self._seconds

    def __call__(self, networks: Sequence[Network]) -> list[float]:
        """Return each network's accuracy, in the order given.

        Raises:
            SearchError: one could not be evaluated, or its accuracy is no finite number. What was evaluated before, and
                what was under way beside it, is kept.
            InterruptedRunError: the accuracy's own.
            FileAccessError: the cache cannot be written.
            LayerError: a network's layers do not fit together.
        """
        began = time.monotonic()
        keys = [self._key(network) for network in networks]
        self._asked += len(keys)
        wanted: dict[str, Network] = {}
        for key, network in zip(keys, networks, strict=True):
            wanted.setdefault(key, network)
        new = [key for key in wanted if not self._is_known(key)]
        cached = len(wanted) - len(new)

        def report(computed: int, value: float | None) -> None:
            elapsed = time.monotonic() - began
            left = seconds_left(elapsed, computed, len(new))
            self._progress(EvaluationProgress(cached + computed, len(wanted), cached, elapsed, left, value))

        report(0, None)
        if new:
            found = self._accuracy.evaluate([wanted[key] for key in new])
            try:
                for computed, (number, given, seconds) in enumerate(found, start=1):
                    key = new[number]
                    value = _finite(wanted[key], given)
                    if self._cache is not None:
                        self._cache.add(key, value, seconds)
                    self._known[key] = value
                    self._evaluated += 1
                    self._seconds += seconds
                    report(computed, value)
            finally:
                # Ends what is under way, should the loop have been left early.
                if (close := getattr(found, "close", None)) is not None:
                    close()
        for key in new:
            if key not in self._known:
                raise SearchError(f"the accuracy of network {wanted[key].name!r} was asked for, and none was given")
        return [self._known[key] for key in keys]

    def _is_known(self, key: str) -> bool:
        kept = self._cache.get(key) if self._cache is not None else None
        if kept is not None:
            self._known.setdefault(key, kept)
        return key in self._known


def load_accuracy(text: str, *, option: str = "--accuracy") -> Accuracy:
    """Return a user's function that takes a :class:`~lut.Network` and gives its accuracy.

    Args:
        text: ``file.py:function`` or ``package.module:function``.
        option: by which it was given, for errors.

    Raises:
        UsageError: there is no such file or function, or it cannot be imported.
    """
    place, name = parse_place(text, option, "function")
    # What the user's code prints must not stand in what --json prints.
    with contextlib.redirect_stdout(sys.stderr):
        found = getattr(import_place(place, f"{option} {text}"), name, None)
    if not callable(found):
        raise UsageError(f"{option} {text}: there is no function {name} in it")
    function: Accuracy = found
    return function


def evaluation_error(name: str, why: str) -> SearchError:
    """Return the error of a network that could not be evaluated; ``why``: ``TypeName: message``, told in one line."""
    return SearchError(
        f"the accuracy of network {name!r} could not be evaluated: {shortened(' '.join(why.split()), 500)}"
    )


class _Called(NamedTuple):
    """A plain function as a :class:`BatchAccuracy`."""

    accuracy: Accuracy
    at_once: int
    timeout_s: float | None = None

    def evaluate(self, networks: Sequence[Network]) -> Iterator[tuple[int, float, float]]:
        if self.at_once == 1:
            for number, network in enumerate(networks):
                yield number, *self._timed(network)
            return
        slots = [self._timed] * min(self.at_once, len(networks))
        with contextlib.closing(run_at_once(networks, slots)) as found:
            for number, (value, seconds) in found:
                yield number, value, seconds

    def _timed(self, network: Network) -> tuple[float, float]:
        began = time.monotonic()
        try:
            given = self.accuracy(network) if self.timeout_s is None else self._limited(network, self.timeout_s)
        except InterruptedRunError:
            raise
        except (Exception, SystemExit) as error:
            raise evaluation_error(network.name, f"{type(error).__name__}: {error}") from error
        # Looked at here, so that what is under way beside a value that is none is waited for, as after an error.
        return _finite(network, given), time.monotonic() - began

    def _limited(self, network: Network, timeout_s: float) -> Any:
        with contextlib.closing(run_at_once([network], [self.accuracy], timeout_s=timeout_s)) as found:
            for _, given in found:
                return given
        raise TimeoutError(f"it took longer than {timeout_s:g} s (timeout_s)")


def _finite(network: Network, given: Any) -> float:
    """Return a network's accuracy as a float."""
    # Texts and truth values would become floats too, and arrays of one value, with a warning.
    boolean = isinstance(given, bool) or "bool" in str(getattr(given, "dtype", ""))
    if not boolean and not isinstance(given, (str, bytes, bytearray)) and getattr(given, "ndim", 0) == 0:
        with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):
            value = float(given)
            if abs(value) <= LARGEST_VALUE:
                return value
            if math.isfinite(value):
                raise SearchError(
                    f"the accuracy of network {network.name!r} must be at most {LARGEST_VALUE:g}, got {value:g}"
                )
    try:
        shown = printable(shortened(repr(given), 100))
    except Exception:
        # It is the user's code, too.
        shown = f"a {type(given).__name__}"
    raise SearchError(f"the accuracy of network {network.name!r} must be a finite number, got {shown}")


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise file_error(path, "write", error) from None


def _hold(path: Path, descriptor: int) -> None:
    import fcntl

    try:
        # The operating system's lock is gone with the process that held it, however that ended.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(
            f"another process holds {path} and writes accuracies there; wait for it to end, or give {OTHER_OUTPUT}"
        ) from None
    # Whoever held it may have written it anew in between: what is held now is a file that nobody finds again.
    try:
        current = path.stat()
    except FileNotFoundError:
        current = None
    if current is None or not os.path.samestat(os.fstat(descriptor), current):
        raise CheckpointError(
            f"another process replaced {path} while it was opened; wait for it to end and try again, "
            f"or give {OTHER_OUTPUT}"
        )


def _read(path: Path, content: bytes, torn: bytes, header: _Header) -> tuple[dict[str, float], list[_Line] | None]:
    """Return the values of a file's whole lines, and the lines of one of an older version.

    Args:
        path: of the file.
        content: its whole lines.
        torn: what follows the last newline.
        header: what it is to begin with.
    """
    if not content:
        # A file of ours that was cut off in its first line has nothing to lose; anybody else's has.
        if not BEGINNING.startswith(torn[: len(BEGINNING)]):
            raise CheckpointError(f"{path} is not a file of accuracies; {ELSEWHERE_OR_RESTART}")
        return {}, None
    first = content.partition(b"\n")[0].partition(b"\t")[0]
    try:
        there = msgspec.json.decode(first, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        there = None
    if there is None or there.format != FORMAT:
        raise CheckpointError(
            f"{path} is not a file of accuracies, or damaged in its first line; {ELSEWHERE_OR_RESTART}"
        )
    if there.version not in (VERSION, UNSEALED):
        raise CheckpointError(
            f"{path} has version {there.version}, and this program writes {VERSION}; {ELSEWHERE_OR_RESTART}"
        )
    others = []
    if there.space != header.space:
        space = printable(shortened(there.space, 200))
        others.append(f"of another search space ({space}, not {header.space})")
    if there.function != header.function:
        function = printable(there.function[:16])
        others.append(
            f"computed otherwise ({function}, not {header.function[:16]}): recipe, data, seed or function differ"
        )
    if others:
        raise CheckpointError(f"{path} holds accuracies {', and '.join(others)}; {ELSEWHERE_OR_RESTART}")
    lines: list[_Line] = []
    values: dict[str, float] = {}
    bodies = unsealed(content) if there.version == VERSION else iter(content.split(b"\n")[:-1])
    number = 0
    try:
        for number, body in enumerate(bodies, start=1):
            if number > 1:
                found = msgspec.json.decode(body, type=_Line)
                if not (abs(found.value) <= LARGEST_VALUE and 0 <= found.seconds <= LONGEST_S):
                    raise DamagedLineError(number, "no accuracy of a network")
                if found.key in values:
                    raise DamagedLineError(number, "another accuracy of a network that an earlier line has")
                values[found.key] = found.value
                lines.append(found)
    except DamagedLineError as error:
        raise CheckpointError(f"{path}, line {error.number}, is damaged: {error}; {ELSEWHERE_OR_RESTART}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CheckpointError(f"{path}, line {number}, is damaged: no accuracy; {ELSEWHERE_OR_RESTART}") from None
    return values, lines if there.version == UNSEALED else None


def _sealed(header: _Header, lines: Sequence[_Line]) -> bytes:
    """Return a whole file."""
    content = bytearray()
    for event in (header, *lines):
        content += seal(msgspec.json.encode(event), len(content))
    return bytes(content)

"""Processes of our own that do one thing: what a user's file or a runtime does there cannot end this one.

A child finds our packages where its parent found them, and never in the current folder, where a user's own
``search.py`` or ``profiler.py`` may lie. It ends with its parent; what it began, once it has answered. A task is
``main`` of a module of ours; it takes one JSON record and answers with another, over pipes of its own: what the user's
code prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lut import errors
from lut._files import show_bytes
from lut._printable import printable
from lut.errors import LatencyLutError, ProfileError, UsageError

__all__ = ["Refused", "boot_environment", "boot_script", "die_with", "encode", "ending", "refusal", "run_task", "serve"]

AnswerT = TypeVar("AnswerT")

# A large network's weights take minutes to load and to trace; whatever takes longer than this hangs.
TASK_LIMIT_S = 900.0
# No answer of ours is longer; a child that a user's file has taken over must not fill this process's memory.
LONGEST_ANSWER = 256 << 20


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """What a child answers where it cannot do what it is to do: one of our errors, by its class's name."""

    kind: str
    message: str


def refusal(refused: Refused) -> LatencyLutError:
    """Return the error that a child raised; what is none of ours becomes a :class:`~lut.errors.ProfileError`."""
    kind = vars(errors).get(refused.kind)
    if not isinstance(kind, type) or not issubclass(kind, LatencyLutError):
        kind = ProfileError
    return kind(refused.message)


def boot_script(entry: str) -> str:
    """Return the line of Python that a child begins with: it calls ``main`` of one of our own modules.

    Args:
        entry: the module's name, written in our code and never read from anywhere.
    """
    return (
        "import os, sys\n"
        "root = os.environ.pop('LATENCY_LUT_ROOT')\n"
        "sys.path[:] = [path for path in sys.path if path]\n"
        "sys.path += [] if root in sys.path else [root]\n"
        f"from {entry} import main\n"
        "main(*map(int, sys.argv[1:]))\n"
    )


def boot_environment() -> dict[str, str]:
    """Return the environment of a child: ours, and where our packages lie."""
    return {**os.environ, "LATENCY_LUT_ROOT": str(Path(__file__).resolve().parent.parent)}


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, so that one that hangs leaves no orphan (Linux).

    Should memory run out, the kernel is to take this process and not the one that keeps the results.
    """
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900", encoding="ascii")


def ending(code: int | None) -> str:
    """Return how a process ended, of ``Popen.poll()``: ``was ended by SIGSEGV``."""
    if code is None:
        return "gave no sign of life"
    if code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            # Real-time signals have numbers only.
            return f"was ended by signal {-code}"
    return f"ended with exit code {code}"


def run_task(entry: str, request: Any, answer: type[AnswerT], *, what: str, limit_s: float = TASK_LIMIT_S) -> AnswerT:
    """Do a task in a process of its own and return its answer.

    Args:
        entry: the module of ours whose ``main`` does the task, by :func:`serve`; its name stands in our code.
        request: a record that JSON can hold.
        answer: the type of what it answers.
        what: what it is done with, for errors: ``--model my.py:make``.
        limit_s: after this long the process is ended.

    Raises:
        LatencyLutError: what the task raised.
        ProfileError: the process ended or hung before it answered.
    """
    encoded = encode(request, what)
    ask_read, ask_write = os.pipe()
    answer_read, answer_write = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", boot_script(entry), str(ask_read), str(answer_write), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        # What the user's code prints must not stand in what --json prints.
        stdout=2,
        pass_fds=(ask_read, answer_write),
        start_new_session=True,
        env=boot_environment(),
    )
    os.close(ask_read)
    os.close(answer_write)
    try:
        with contextlib.suppress(BrokenPipeError), os.fdopen(ask_write, "wb") as stream:
            stream.write(encoded)
        found = _receive(answer_read, time.monotonic() + limit_s, what)
        if found is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)
            raise ProfileError(f"{what}: the process that loaded it {ending(child.poll())} before it answered")
    except TimeoutError:
        raise ProfileError(f"{what}: the process that loaded it gave no answer within {limit_s:g} s") from None
    finally:
        os.close(answer_read)
        # The child leads a group of its own: processes that the user's code began are not left behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        child.wait()
    try:
        record = msgspec.json.decode(found, type=_Answer)
        if record.refused is not None:
            raise refusal(record.refused)
        return msgspec.json.decode(record.answer, type=answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(f"{what}: the process that loaded it gave no answer of ours: {error}") from None


def encode(message: Any, what: str) -> bytes:
    """Return a message as JSON.

    Raises:
        UsageError: it holds a name that is not text: not every name of a file is UTF-8.
    """
    try:
        return msgspec.json.encode(message)
    except UnicodeEncodeError:
        raise UsageError(f"{what}: its name is not UTF-8; give the file another name") from None


class _Answer(msgspec.Struct, frozen=True):
    answer: msgspec.Raw = msgspec.Raw(b"null")
    refused: Refused | None = None


# An answer's length in bytes stands before it: its end could be kept from us by whoever holds the pipe open.
_LENGTH = struct.Struct("<Q")


def _receive(pipe: int, until: float, what: str) -> bytes | None:
    """Return an answer, or ``None`` where the pipe was closed before its end.

    Raises:
        TimeoutError: it did not come in time.
        ProfileError: it is longer than any of ours.
    """
    content = bytearray()
    length = _LENGTH.size
    while len(content) < length:
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(pipe, min(1 << 20, length - len(content)))
        if not part:
            return None
        content += part
        if length == _LENGTH.size and len(content) == length:
            length += _LENGTH.unpack(content)[0]
            if length > LONGEST_ANSWER:
                raise ProfileError(
                    f"{what}: the process that loaded it answers with more than {show_bytes(LONGEST_ANSWER)}, which no "
                    "network of ours needs"
                )
    return bytes(content[_LENGTH.size :])


def serve(asked: int, answers: int, parent: int, task: Callable[[bytes], Any]) -> None:
    """Run a child: do one task and answer. Never returns.

    Args:
        asked: descriptor of the pipe with the request.
        answers: of the pipe for the answer.
        parent: the parent's process id.
        task: takes a request as JSON and returns what JSON can hold; raises our errors.
    """
    die_with(parent)
    with os.fdopen(asked, "rb") as stream:
        request = stream.read()
    try:
        answer = _Answer(msgspec.Raw(msgspec.json.encode(task(request))))
    except LatencyLutError as error:
        answer = _Answer(refused=Refused(type(error).__name__, printable(str(error))))
    content = msgspec.json.encode(answer)
    data = memoryview(_LENGTH.pack(len(content)) + content)
    while data:
        data = data[os.write(answers, data) :]
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads and processes that the user's code left behind are not waited for.
    os._exit(0)

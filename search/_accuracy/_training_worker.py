"""A process that trains one network after another, and the handle by which it is held.

It reads networks from its standard input and writes answers to its standard output, a line of JSON each. It imports
nothing of the user's, and ends as soon as its input does: whatever becomes of the parent, none is left behind.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import IO, NoReturn, final

import msgspec
import torch

from lut import Network
from lut._printable import printable, shortened
from lut.errors import SearchError
from search._accuracy._evaluator import evaluation_error
from search._data._images import ImageData
from search._training._checkpoint import read_tensors, write_tensors
from search._training._recipe import Recipe
from search._training._train import train
from search._training._weights import build_network

__all__ = ["EvaluationWorker", "Hello", "main", "trained_accuracy", "write_split"]

# The current folder, where a user's own search.py may lie, must not come before our packages; they are found where the
# parent found them, installed or not.
BOOT = """\
import os, sys
answers = os.dup(1)
# Whatever a library prints must not get between the answers.
os.dup2(2, 1)
root = os.environ.pop("LATENCY_LUT_ROOT")
sys.path[:] = [path for path in sys.path if path]
if root not in sys.path:
    sys.path.append(root)
from search._accuracy._training_worker import main
main(answers)
"""
# An answer is a line; a failure's reason is the longest.
LONGEST_ANSWER = 1 << 16
LONGEST_S = 1e9
_PARTS = ("train_images", "train_labels", "test_images", "test_labels")


class _Described(msgspec.Struct, frozen=True):
    """What a data set is besides its tensors."""

    name: str
    classes: tuple[str, ...]
    mirrored: bool


class Hello(msgspec.Struct, frozen=True):
    """The parent's first line; the others are networks. ``split``: a file of :func:`write_split`."""

    split: str
    recipe: Recipe
    seed: int
    device: str
    threads: int


class Answer(msgspec.Struct, frozen=True):
    """The child's line: first that it is ready, then each network's accuracy, or what went wrong in ``error``."""

    value: float = 0.0
    seconds: float = 0.0
    error: str = ""


def trained_accuracy(
    network: Network, split: ImageData, recipe: Recipe, *, seed: int, device: str, threads: int
) -> tuple[float, float]:
    """Return the share of the split's test images that a network gets right once it is trained, and the seconds.

    Args:
        network: takes images (B, 3, 32, 32), gives logits (B, classes).
        split: training images, and those that count.
        recipe: how it is trained.
        seed: of the weights, the images' order and their augmentation.
        device: PyTorch's name of it.
        threads: of PyTorch, while this function runs.

    Raises:
        SearchError: the loss became NaN or infinite.
        UsageError: the network does not fit the data, or the recipe the device.
        LayerError: the network's layers do not fit together.
    """
    began = time.monotonic()
    before = torch.get_num_threads()
    # In another number of threads sums are rounded otherwise.
    torch.set_num_threads(threads)
    try:
        module = build_network(network, seed=seed)
        done = train(module, split, recipe, seed=seed, device=device, evaluate_every=recipe.total_epochs)
    finally:
        torch.set_num_threads(before)
    return done.test_accuracy, time.monotonic() - began


def write_split(path: Path, split: ImageData) -> None:
    """Write a data set for workers to read when they start.

    Raises:
        FileAccessError: it cannot be written.
    """
    header = msgspec.json.encode(_Described(split.name, split.classes, split.mirrored)).decode()
    write_tensors(path, {part: getattr(split, part) for part in _PARTS}, header)


@final
class EvaluationWorker:
    """A process for one device. It is told all it needs, and :meth:`ready` waits until it has read it.

    Raises:
        SearchError: the process cannot be started.
    """

    def __init__(self, hello: Hello) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                # Ctrl-C is the parent's to hear.
                start_new_session=True,
                env={
                    **os.environ,
                    "LATENCY_LUT_ROOT": str(Path(__file__).resolve().parents[2]),
                    # PyTorch's pool reads this when it is made; a later set_num_threads cannot shrink it.
                    "OMP_NUM_THREADS": str(hello.threads),
                },
            )
        except OSError as error:
            self._log.close()
            raise SearchError(f"a process for evaluations cannot be started: {error.strerror or error}") from None
        self._send(msgspec.json.encode(hello))

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def ready(self) -> None:
        """Wait until the process can work.

        Raises:
            SearchError: it ended before.
        """
        answer = self._receive()
        if answer is None:
            raise SearchError(f"a process for evaluations {self._ending()} before it began{self._last_words()}")
        if answer.error:
            raise SearchError(f"a process for evaluations could not begin: {answer.error}")

    def evaluate(self, network: Network) -> tuple[float, float]:
        """Return a network's accuracy, and what it took in seconds.

        Raises:
            SearchError: it cannot be trained, or the process died of it.
        """
        self._send(msgspec.json.encode(network))
        answer = self._receive()
        if answer is None:
            memory = self.process.poll() == -signal.SIGKILL
            hint = " (as the system does when memory runs out: evaluate fewer at once)" if memory else ""
            raise evaluation_error(network.name, f"its process {self._ending()}{hint}{self._last_words()}")
        if answer.error:
            raise evaluation_error(network.name, answer.error)
        return answer.value, answer.seconds

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        # Of a process that is gone the answer tells.
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()

    def _receive(self) -> Answer | None:
        """Return the next answer, or ``None`` when the process is gone."""
        assert self.process.stdout is not None
        try:
            line = self.process.stdout.readline(LONGEST_ANSWER)
        except (OSError, ValueError):
            line = b""
        if not line or (not line.endswith(b"\n") and len(line) < LONGEST_ANSWER):
            with contextlib.suppress(subprocess.TimeoutExpired):
                # Its output may close a moment before it ends.
                self.process.wait(timeout=10)
            return None
        try:
            answer = msgspec.json.decode(line, type=Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            answer = None
        # Written so that NaN is no share.
        if answer is not None and 0 <= answer.value <= 1 and 0 <= answer.seconds <= LONGEST_S:
            return answer
        # Whatever follows would be taken for another network's answer.
        self.process.kill()
        shown = printable(shortened(line.decode(errors="replace").strip(), 100))
        return Answer(error=f"its process gave no accuracy but {shown!r}")

    def _ending(self) -> str:
        code = self.process.poll()
        if code is None:
            return "closed its output"
        if code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, size - LONGEST_ANSWER))
            lines = self._log.read(LONGEST_ANSWER).decode(errors="replace").strip().splitlines()
            return f": {printable(lines[-1][:300])}" if lines else ""
        return ""


def main(answers: int) -> NoReturn:
    """Run the process: read networks, train them, answer, until the input ends.

    Args:
        answers: the descriptor to answer on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        # Should memory run out, the kernel is to take this process and not the one that keeps the results.
        Path("/proc/self/oom_score_adj").write_text("900", encoding="ascii")
    try:
        _work(answers)
    except BaseException:
        traceback.print_exc()
    # Not sys.exit: the thread that listens holds the input, and the interpreter would wait for it.
    os._exit(1)


def _work(descriptor: int) -> NoReturn:
    with os.fdopen(descriptor, "wb", buffering=0) as answers:
        hello = msgspec.json.decode(sys.stdin.buffer.readline(), type=Hello)
        orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(orders,), daemon=True).start()
        tensors, text = read_tensors(Path(hello.split))
        known = msgspec.json.decode(text, type=_Described)
        split = ImageData(known.name, known.classes, mirrored=known.mirrored, **tensors)
        answers.write(msgspec.json.encode(Answer()) + b"\n")
        while True:
            network = msgspec.json.decode(orders.get(), type=Network)
            try:
                value, seconds = trained_accuracy(
                    network, split, hello.recipe, seed=hello.seed, device=hello.device, threads=hello.threads
                )
                answer = Answer(value, seconds)
            except Exception as error:
                answer = Answer(error=shortened(f"{type(error).__name__}: {error}", 1000))
            answers.write(msgspec.json.encode(answer) + b"\n")


def _listen(orders: queue.SimpleQueue[bytes]) -> None:
    """Take orders while the process works, and end it when the parent is gone, in the middle of a training too."""
    for line in sys.stdin.buffer:
        orders.put(line)
    os._exit(0)

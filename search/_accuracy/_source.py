"""Where accuracies come from: short trainings, a table of them, or a function of the user's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lut._files import read_bytes
from search._accuracy._evaluator import (
    Accuracy,
    AccuracyCache,
    BatchAccuracy,
    EvaluationProgress,
    Evaluator,
    load_accuracy,
)
from search._accuracy._finalists import fresh_seed, fresh_values
from search._accuracy._open import EVALUATIONS, space_text
from search._accuracy._short_training import ShortTraining
from search._data._images import ImageData
from search._problem._problem import Problem
from search._training._recipe import Recipe

__all__ = ["EVALUATIONS", "Source", "read_source", "trained_source"]


class Source(NamedTuple):
    """Where accuracies come from.

    Args:
        text: in words.
        function: gives them.
        digest: of all that they depend on besides the network.
        held_out: images of each class that networks are judged by, and ``judged``: how they are trained for that;
            ``None`` where accuracies are not from trainings. ``classes``: of the data then.
        timeout_s: seconds that one call of a plain function may take; ``None``: any.
    """

    text: str
    function: Accuracy | BatchAccuracy
    digest: str
    held_out: int | None = None
    judged: Recipe | None = None
    classes: int | None = None
    timeout_s: float | None = None

    def settings(self) -> dict[str, Any]:
        """Return what a run's record says of it."""
        return {
            "accuracy": self.text,
            "function": self.digest,
            "held_out": self.held_out,
            "short_training": None if self.judged is None else msgspec.to_builtins(self.judged),
        }

    @contextlib.contextmanager
    def evaluator(
        self,
        problem: Problem,
        folder: Path,
        *,
        workers: int = 1,
        progress: Callable[[EvaluationProgress], None] = lambda _: None,
    ) -> Iterator[Evaluator]:
        """Give what evaluates networks of a problem, each once; values are kept in a folder.

        Raises:
            CheckpointError: the folder holds accuracies of another space or function.
            FileAccessError: it cannot be read or written.
        """
        with AccuracyCache.open(folder / EVALUATIONS, space=space_text(problem.space), function=self.digest) as cache:
            yield Evaluator(self.function, cache=cache, at_once=workers, progress=progress, timeout_s=self.timeout_s)

    def fresh_values(
        self, problem: Problem, vectors: Sequence[Sequence[int]], folder: Path, *, workers: int, seed: int
    ) -> list[float] | None:
        """Return what networks are worth by the same with a fresh seed; ``None`` where it has none.

        They are kept with the other values.
        """
        with AccuracyCache.open(folder / EVALUATIONS, space=space_text(problem.space), function=self.digest) as cache:
            networks = [problem.network(vector) for vector in vectors]
            return fresh_values(self.function, networks, fresh_seed(seed), cache=cache, at_once=workers)

    def close(self) -> None:
        """End the processes that evaluate."""
        if (close := getattr(self.function, "close", None)) is not None:
            close()


def trained_source(
    images: ImageData, judged: Recipe, *, held_out: int, seed: int, workers: int, devices: tuple[str, ...]
) -> Source:
    """Return accuracies by short trainings."""
    function = ShortTraining(images, judged, seed=seed, held_out=held_out, at_once=workers, devices=devices)
    return Source("trainings of a few epochs", function, function.digest, held_out, judged, len(images.classes))


def read_source(text: str) -> Source:
    """Return a table's accuracies, or a function's."""
    from search.spaces._nas_bench_macro import load_accuracies

    kind, _, file = text.partition(":")
    if kind == "table":
        known = load_accuracies(file)
        digest = sha256(read_bytes(file)).hexdigest()
        return Source(f"the table {Path(file).name}", lambda network: known[network.name], digest)
    function = load_accuracy(text)
    place, _, name = text.rpartition(":")
    # A module's file, where it was not given as one.
    written = Path(place if place.endswith(".py") else getattr(sys.modules.get(place), "__file__", None) or "")
    content = read_bytes(written) if written.is_file() else b""
    # By content: the same function is the same by whatever path it was named.
    digest = sha256(name.encode() + b"\0" + (content or place.encode())).hexdigest()
    return Source(f"the function {name} of {Path(place).name}", function, digest)

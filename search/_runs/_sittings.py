"""What a run has behind it when it is begun again: the epochs that are done, and the time that they took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, final

import msgspec

from lut._files import read_bytes, write_atomically
from lut.errors import FileAccessError
from search._training._checkpoint import saved_epoch
from search._training._recipe import Recipe

__all__ = ["SITTINGS", "RunClock", "Stage", "resumed_text"]

SITTINGS = "time.json"
LARGEST_FILE = 1 << 12
# A century.
LONGEST_S = 3.2e9
KEPT_EVERY_S = 10.0


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of a run, and in how many sittings."""

    seconds: float
    sittings: int


@final
class RunClock:
    """The time that a run takes over all its sittings; of a damaged file's, nothing is known.

    As a context it keeps the time in the end; where a sitting is killed, what followed the last :meth:`keep` is lost.

    Args:
        path: a file that keeps it; it need not be there.
        restart: what the file holds is of a run that is discarded.
        clock: gives seconds.

    Raises:
        FileAccessError: the file cannot be read.
    """

    def __init__(self, path: Path, *, restart: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._before = _Kept(0.0, 0) if restart else _load(path)
        self._began = self._kept_at = clock()

    @property
    def sittings(self) -> int:
        """How many there were, this one included."""
        return self._before.sittings + 1

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return self._before.seconds + self._clock() - self._began

    def __enter__(self) -> RunClock:
        return self

    def __exit__(self, *_: object) -> None:
        # A run that was refused has made no folder for its checkpoints.
        if self._path.parent.is_dir():
            with contextlib.suppress(FileAccessError):
                self.keep()

    def beat(self) -> None:
        """Keep the time if that was not done for a while."""
        if self._clock() - self._kept_at >= KEPT_EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Keep the time.

        Raises:
            FileAccessError: the file cannot be written.
        """
        self._kept_at = self._clock()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, msgspec.json.encode(_Kept(round(self.total_s, 1), self.sittings)))


def _load(path: Path) -> _Kept:
    if not path.exists():
        return _Kept(0.0, 0)
    try:
        kept = msgspec.json.decode(read_bytes(path, limit=LARGEST_FILE), type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        kept = None
    # As of a run of an earlier version, which kept no time: a search is not to end for want of what it took.
    known = kept is not None and 0 <= kept.seconds <= LONGEST_S and 0 <= kept.sittings <= LONGEST_S
    return kept if kept is not None and known else _Kept(0.0, 0)


class Stage(NamedTuple):
    """A part of a run that has a checkpoint: what its epochs are called, how many there are, and how many warm up."""

    what: str
    file: Path
    epochs: int
    warmup: int

    @classmethod
    def of(cls, what: str, file: Path, recipe: Recipe) -> Stage:
        """Return the part that trains by a recipe."""
        return cls(what, file, recipe.total_epochs, recipe.warmup_epochs)


def resumed_text(stages: Sequence[Stage], *, calibrated: bool = False, evaluated: int | None = None) -> str | None:
    """Return what a run has behind it, in one line; ``None`` where it is at its beginning.

    Args:
        stages: in their order.
        calibrated: networks of the space were measured.
        evaluated: accuracies that are kept; ``None`` where a run keeps none.
    """
    done = []
    if calibrated:
        done.append("the calibration")
    if evaluated:
        done.append(f"{evaluated} evaluated network{'' if evaluated == 1 else 's'}")
    for stage in stages:
        epochs = saved_epoch(stage.file)
        if epochs:
            warmup = f", {stage.warmup} of warm-up included" if stage.warmup else ""
            done.append(f"{epochs} of {stage.epochs} epochs of {stage.what}{warmup}")
    return f"resumed; done before: {'; '.join(done)}" if done else None

"""Whom a run tells where it stands: one kind of work after another, each with how much of it is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from lut._console import format_ms
from profiler._session import Progress
from search._training._recipe import epoch_text
from search._training._train import TrainProgress

__all__ = ["Quiet", "Reporter"]


class Reporter(ABC):
    """Whom a run tells where it stands."""

    @abstractmethod
    def phase(self, title: str) -> None:
        """Begin with another kind of work."""

    @abstractmethod
    def say(self, share: float, text: str, left_s: float | None) -> None:
        """Tell how much of it is done (0 … 1), what is under way, and how many seconds are left by estimate."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Tell what is to be read and to stay."""

    @abstractmethod
    def warn(self, text: str) -> None:
        """Tell what a person is to know at once."""

    def training(self, now: TrainProgress) -> None:
        """Tell where a training stands."""
        text = epoch_text(now.epoch, now.epochs, now.warmup)
        if now.test_accuracy is not None:
            text += f", test accuracy {now.test_accuracy:.1%}"
        self.say(now.share, text, now.left_s)

    def measuring(self, now: Progress) -> None:
        """Tell where a session of measuring stands."""
        share = now.elapsed_s / max(now.elapsed_s + now.left_s, 1e-9)
        self.say(share, f"{now.visits} visits", now.left_s)

    def network(self, share: float, text: str, left_s: float | None, *, ms: float, accuracy: float) -> None:
        """Tell where a search stands, and the network that it would give now."""
        self.say(share, f"{text}, most probable network: accuracy {accuracy:.1%}, up to {format_ms(ms)} ms", left_s)


@final
class Quiet(Reporter):
    """Tells nobody."""

    def phase(self, title: str) -> None:
        """Tell nobody."""

    def say(self, share: float, text: str, left_s: float | None) -> None:
        """Tell nobody."""

    def note(self, text: str) -> None:
        """Tell nobody."""

    def warn(self, text: str) -> None:
        """Tell nobody."""

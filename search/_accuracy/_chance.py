"""Whether accuracies say anything: those of networks that only guess are right now and then, too."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FirstRound", "chance_warning"]

# Of all networks guessing, the probability that one of them is taken for better than that.
MISTAKEN = 0.01


def chance_warning(accuracies: Sequence[float], *, classes: int, images: int) -> str | None:
    """Return what is to be said where no accuracy can be told from guessing; ``None`` where one can.

    Args:
        accuracies: shares right of the same ``images``, of different networks.
        classes: that a network guesses among, with as many images of each.
        images: that each network was judged by.
    """
    from scipy.stats import binom

    if not accuracies:
        return None
    # One-sided, and of as many networks as there are (Bonferroni).
    by_chance = float(binom.isf(MISTAKEN / len(accuracies), images, 1 / classes)) / images
    best = max(accuracies)
    if best > by_chance:
        return None
    count = len(accuracies)
    which = f"all {count} networks evaluated first are" if count > 1 else "the network evaluated first is"
    return (
        f"{which} at chance level: accuracy {best:.1%} at best, and guessing among {classes} classes gives up to "
        f"{by_chance:.1%} on {images} held-out images. The search cannot tell networks apart: train longer "
        "(--search-epochs), on more images (--train-images), or hold out more of them (--held-out)"
    )


class FirstRound:
    """Collects the accuracies of a search's first network and of all networks with one block more. Final."""

    CALLS = 2

    def __init__(self) -> None:
        self._calls = 0
        self._values: list[float] = []

    def add(self, values: Sequence[float]) -> bool:
        """Take the values of one call of a search; returns whether they complete the first round."""
        self._calls += 1
        if self._calls <= self.CALLS:
            self._values += values
        return self._calls == self.CALLS

    @property
    def values(self) -> tuple[float, ...]:
        """What was collected."""
        return tuple(self._values)

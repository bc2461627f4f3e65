"""A user's network as layers: what tracing it gives, in whichever framework it is written."""

from __future__ import annotations

from typing import NamedTuple

from lut import Network

__all__ = ["TracedNetwork"]


class TracedNetwork(NamedTuple):
    """A network as layers.

    ``batch``: samples per call; ``operators``: how many operators the layers hold; ``idle``: what does no work at
    inference, by name, and how often it occurs; ``kernels``: by layer, which of the runtime's operators it becomes and
    what these replace, such as ``FusedConv (Conv, BatchNormalization, Relu)``, where that is known;
    ``dtype``: what it computes in, where its file says so.
    """

    network: Network
    batch: int
    operators: int
    idle: dict[str, int]
    kernels: dict[str, str] = {}  # noqa: RUF012 - shared, and never changed
    dtype: str = "float32"

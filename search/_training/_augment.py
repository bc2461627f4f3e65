"""Images to a network's input: normalised, and for training cropped, mirrored and cut out at random."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from search._training._recipe import Recipe

__all__ = ["augment", "prepare"]


def prepare(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return images (B, 3, H, W), uint8, as float32 in units of ``std`` around ``mean`` (both (3,), of 0 … 1)."""
    channels = (1, -1, 1, 1)
    scaled = images.to(torch.float32).div_(255)
    return scaled.sub_(mean.to(scaled.device).view(channels)).div_(std.to(scaled.device).view(channels))


def augment(
    images: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    *,
    recipe: Recipe,
    mirrored: bool,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return images (B, 3, H, W), uint8, as a training's input: float32 of the same shape, on the same device.

    In this order, each with its own draw per image from ``generator`` (a CPU one): a random crop out of the image with
    a black border; mirrored or not; normalised as by :func:`prepare`; a square hole of zeros around a random pixel, cut
    off at the image's edge (DeVries & Taylor 2017).

    Args:
        images: not changed.
        mean: per channel, of 0 … 1.
        std: as ``mean``.
        recipe: its ``crop``, ``flip`` and ``cutout``.
        mirrored: whether a mirrored image is still one of its class.
        generator: what is drawn depends on it and on the number of images alone, never on the device.
    """
    count, _, height, width = images.shape
    device = images.device
    if recipe.crop:
        top, left = (torch.randint(2 * recipe.crop + 1, (2, count), generator=generator)).to(device)
        windows = F.pad(images, (recipe.crop,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        images = windows[torch.arange(count, device=device), :, top, left]
    if recipe.flip and mirrored:
        flipped = (torch.rand(count, generator=generator) < 0.5).to(device)
        images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
    prepared = prepare(images, mean, std)
    if recipe.cutout:
        rows = _hole(height, count, recipe.cutout, generator).to(device)
        columns = _hole(width, count, recipe.cutout, generator).to(device)
        prepared.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
    return prepared


def _hole(size: int, count: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Return which of ``size`` places lie in a hole around a random one, bool (count, size)."""
    start = torch.randint(size, (count, 1), generator=generator) - side // 2
    places = torch.arange(size)[None]
    return (places >= start) & (places < start + side)

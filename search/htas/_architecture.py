"""Drawing architectures: Gumbel noise, two widths at a time, a mixture of depths (TAS, Dong & Yang 2019, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch

from lut import Decision, UsageError

__all__ = [
    "Architecture",
    "Mixture",
    "TemperatureSchedule",
    "draw",
    "draw_uniform",
    "fixed",
    "gumbel_noise",
    "gumbel_softmax",
    "temperature",
]

TemperatureSchedule: TypeAlias = Literal["linear", "cosine"]
# So that no option has probability 0 when two are drawn.
LEAST_PROBABILITY = 1e-7


class Mixture(NamedTuple):
    """Options of one decision with the weights that they are mixed with: ``weights`` has shape ``(len(indices),)``."""

    indices: tuple[int, ...]
    weights: torch.Tensor


# One mixture per decision of the space.
Architecture: TypeAlias = tuple[Mixture, ...]


def temperature(share: float, *, start: float, end: float, schedule: TemperatureSchedule) -> float:
    """Return the Gumbel temperature τ after a share (0 … 1) of the search.

    ``linear``: the paper's, 10 → 0.1; ``cosine``: of TAS's code, 5 → 0.1.

    Raises:
        UsageError: another schedule.
    """
    if schedule == "linear":
        return start + (end - start) * share
    if schedule == "cosine":
        return end + (start - end) * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * share, dtype=torch.float64))))
    raise UsageError(f"the temperature schedule is linear or cosine, got {schedule!r}")


def gumbel_noise(size: int, generator: torch.Generator) -> torch.Tensor:
    """Return standard Gumbel noise −log(−log(u)), shape ``(size,)``."""
    return -torch.empty(size).exponential_(generator=generator).clamp_min(1e-20).log()


def gumbel_softmax(logits: torch.Tensor, tau: float, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (z, softmax(z)) with z = (log_softmax(logits) + noise) / τ, both of the logits' shape ``(options,)``.

    τ ≤ 0 means no noise and no temperature: z = logits.
    """
    if tau <= 0:
        return logits, torch.softmax(logits, dim=-1)
    z = (torch.log_softmax(logits, dim=-1) + noise.to(logits.device)) / tau
    return z, torch.softmax(z, dim=-1)


def draw(
    choices: Sequence[Decision],
    logits: Sequence[torch.Tensor],
    *,
    tau: float,
    samples: int,
    generator: torch.Generator,
) -> Architecture:
    """Draw an architecture, differentiable in the logits.

    Of a width, ``samples`` different options are drawn from softmax(z), and their z make the weights, by another
    softmax. Of a depth, all options are mixed with softmax(z).

    Args:
        choices: the space's decisions.
        logits: one tensor per decision, of shape ``(options,)``.
        tau: the temperature.
        samples: widths drawn at a time; TAS: 2.
        generator: of the noise and the draws, on the CPU.
    """
    found = []
    for decision, own in zip(choices, logits, strict=True):
        z, p = gumbel_softmax(own, tau, gumbel_noise(len(own), generator))
        count = len(own) if decision.kind == "depth" else min(samples, len(own))
        if count == len(own):
            found.append(Mixture(tuple(range(count)), p))
            continue
        chances = p.detach().float().cpu() + LEAST_PROBABILITY
        picked = torch.multinomial(chances, count, replacement=False, generator=generator)
        found.append(Mixture(tuple(picked.tolist()), torch.softmax(z[picked.to(z.device)], dim=-1)))
    return tuple(found)


def draw_uniform(choices: Sequence[Decision], generator: torch.Generator) -> Architecture:
    """Draw one option of each decision, all equally likely: single-path training of shared weights."""
    one = torch.ones(1)
    return tuple(
        Mixture((int(torch.randint(len(decision.options), (1,), generator=generator)),), one) for decision in choices
    )


def fixed(vector: Sequence[int]) -> Architecture:
    """Return the architecture that is one network of the space."""
    one = torch.ones(1)
    return tuple(Mixture((int(index),), one) for index in vector)

"""The shared-weight ResNet that a search trains: every width and depth of a space in one module (TAS, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import final

import torch
from torch import nn
from torch.nn import functional as f

from search.htas._architecture import Architecture, Mixture
from search.spaces._resnet_cifar import ResNetCifar
from search.spaces._resnet_network import STAGES

__all__ = ["SuperResNet", "add_first_channels", "interpolate_channels", "recalibrated_batch_norm"]

IMAGE_CHANNELS = 3
# Of the architecture's logits at the start: normal(0, 0.01), as in TAS's code.
LOGIT_SPREAD = 0.01


@lru_cache(maxsize=4096)
def _windows(channels: int, to: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first and the last input channel of each output's window: ⌊a·C/C'⌋ … ⌈(a+1)·C/C'⌉ − 1."""
    a = torch.arange(to)
    return a * channels // to, -(-(a + 1) * channels // to) - 1


def interpolate_channels(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Resize feature maps along their channels by adaptive average pooling (TAS: channel-wise interpolation).

    Args:
        x: shape ``(n, C, height, width)``.
        channels: C'.

    Returns:
        Shape ``(n, C', height, width)``: channel a is the mean of the input's channels ⌊a·C/C'⌋ … ⌈(a+1)·C/C'⌉ − 1.
    """
    given = x.shape[1]
    if channels == given:
        return x
    if channels < given:
        size = (channels, *x.shape[2:])
        return f.adaptive_avg_pool3d(x.unsqueeze(1), size).squeeze(1)
    # More channels than there are: a window holds one or two of them, and two gathers beat a pooling of volumes.
    first, last = (index.to(x.device) for index in _windows(given, channels))
    return (x.index_select(1, first) + x.index_select(1, last)) * 0.5


def add_first_channels(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Add feature maps over the channels that both have; the rest of the wider one passes through (TAS)."""
    if a.shape[1] == b.shape[1]:
        return a + b
    wide, narrow = (a, b) if a.shape[1] > b.shape[1] else (b, a)
    common = narrow.shape[1]
    return torch.cat([wide[:, :common] + narrow, wide[:, common:]], dim=1)


def _mix(parts: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of feature maps, resized to the most channels among them."""
    if len(parts) == 1:
        return parts[0]
    most = max(part.shape[1] for part in parts)
    total = interpolate_channels(parts[0], most) * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + interpolate_channels(part, most) * weight
    return total


@final
class _SearchedConv(nn.Module):
    """A convolution whose output width is searched: one weight for all widths, one norm for each, or none.

    Inputs with fewer channels than the weight has count as padded with zeros, that is, the weight's first input
    channels are taken; of the outputs, the first ones.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], kernel: int, stride: int, *, norm: bool) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.stride, self.padding = stride, kernel // 2
        self.weight = nn.Parameter(torch.empty(widths[-1], in_channels, kernel, kernel))
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for width in widths]) if norm else None

    def forward(self, x: torch.Tensor, mixture: Mixture) -> torch.Tensor:
        picked = [self.widths[i] for i in mixture.indices]
        weight = self.weight[: max(picked), : x.shape[1]]
        out = f.conv2d(x, weight, stride=self.stride, padding=self.padding)
        parts = [out[:, :width] for width in picked]
        if self.norms is not None:
            parts = [self.norms[i](part) for i, part in zip(mixture.indices, parts, strict=True)]
        return _mix(parts, mixture.weights.to(x.device))


@final
class _SearchedBlock(nn.Module):
    """A residual block. Its shortcut shares the decision of its last convolution."""

    def __init__(self, space: ResNetCifar, stage: int, in_channels: int, stride: int, *, shortcut: bool) -> None:
        super().__init__()
        kernels = (1, 3, 1) if space.bottleneck else (3, 3)
        convs: list[_SearchedConv] = []
        channels = in_channels
        for c, kernel in enumerate(kernels, start=1):
            widths = space.widths[space.group_of(stage, c)]
            # The 3×3 convolution of a bottleneck has the stride, and in a basic block the first.
            strided = stride if kernel == 3 and not any(conv.stride > 1 for conv in convs) else 1
            convs.append(_SearchedConv(channels, widths, kernel, strided, norm=True))
            channels = widths[-1]
        self.convs = nn.ModuleList(convs)
        self.pool = stride > 1
        self.shortcut = _SearchedConv(in_channels, convs[-1].widths, 1, 1, norm=False) if shortcut else None

    def forward(self, x: torch.Tensor, mixtures: Sequence[Mixture]) -> torch.Tensor:
        skip = x
        if self.shortcut is not None:
            skip = self.shortcut(f.avg_pool2d(x, 2) if self.pool else x, mixtures[-1])
        for c, (conv, mixture) in enumerate(zip(self.convs, mixtures, strict=True), start=1):
            x = conv(x, mixture)
            if c < len(self.convs):
                x = f.relu(x)
        return f.relu(add_first_channels(x, skip))


@final
class SuperResNet(nn.Module):
    """All networks of a :class:`search.ResNetCifar` in one module with shared weights.

    The last block that a stage keeps is a mixture: the features after each candidate, resized to the most channels
    among them and weighed. Residual sums are taken over the channels that both have. A shortcut convolution stands
    where the base network has one; the final networks have others where widths differ.

    Args:
        space: the space.
        seed: of the weights (He et al., fan-out) and the logits.
    """

    def __init__(self, space: ResNetCifar, *, seed: int) -> None:
        super().__init__()
        self.space = space
        self.stem = _SearchedConv(IMAGE_CHANNELS, space.widths[0], 3, 1, norm=True)
        channels = space.widths[0][-1]
        stages = []
        for s in range(1, len(STAGES) + 1):
            blocks = []
            for b in range(1, space.blocks + 1):
                stride = 2 if b == 1 and s > 1 else 1
                shortcut = stride == 2 or (b == 1 and space.bottleneck)
                block = _SearchedBlock(space, s, channels, stride, shortcut=shortcut)
                blocks.append(block)
                # A sum is as wide as the wider of its two, so what comes in may be wider than the block's own widths.
                own = space.widths[space.group_of(s, len(block.convs))][-1]
                channels = own if shortcut else max(channels, own)
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(channels, space.classes)
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, _SearchedConv):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        nn.init.normal_(self.classifier.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.classifier.bias)
        self.logits = nn.ParameterList(
            [
                nn.Parameter(LOGIT_SPREAD * torch.randn(len(decision.options), generator=generator))
                for decision in space.choices
            ]
        )

    def weights(self) -> Iterator[nn.Parameter]:
        """Yield the networks' parameters, without the architecture's logits."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("logits."))

    def probabilities(self) -> list[torch.Tensor]:
        """Return softmax of each decision's logits, without noise: what expectations are taken over."""
        return [torch.softmax(logits, dim=-1) for logits in self.logits]

    def argmax(self) -> tuple[int, ...]:
        """Return the vector of the most probable network."""
        return tuple(int(logits.argmax()) for logits in self.logits)

    def forward(self, x: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """Return class scores, shape ``(n, classes)``, of images of shape ``(n, 3, 32, 32)``."""
        mixtures = iter(architecture)
        x = f.relu(self.stem(x, next(mixtures)))
        for blocks in self.stages:
            assert isinstance(blocks, nn.ModuleList)
            depth = next(mixtures)
            last = {self.space.depths[i]: weight for i, weight in zip(depth.indices, depth.weights, strict=True)}
            ends: list[torch.Tensor] = []
            for b, block in enumerate(blocks, start=1):
                assert isinstance(block, _SearchedBlock)
                own = [next(mixtures) for _ in block.convs]
                if b > max(last):
                    continue
                x = block(x, own)
                if b in last:
                    ends.append(x)
            # In the blocks' order, whatever the order of the options.
            x = _mix(ends, torch.stack([last[b] for b in sorted(last)]).to(x.device))
        x = x.mean((2, 3))
        return f.linear(x, self.classifier.weight[:, : x.shape[1]], self.classifier.bias)


@contextmanager
def recalibrated_batch_norm(module: nn.Module) -> Iterator[None]:
    """Have norms collect statistics afresh, and give the old ones back at the end.

    Shared weights see each network rarely: its norms' running statistics are those of others. Inside, run some training
    batches in training mode, then evaluate.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    saved = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    training = module.training
    for norm in norms:
        norm.reset_running_stats()
        # A plain mean over the batches.
        norm.momentum = None
    try:
        yield
    finally:
        for norm, buffers, momentum in zip(norms, saved, momenta, strict=True):
            for name, value in norm.named_buffers():
                value.copy_(buffers[name])
            norm.momentum = momentum
        module.train(training)

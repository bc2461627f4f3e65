"""Known networks, whole, as their papers or their reference code define them; random weights, evaluation mode.

Kernels of k pad by k // 2 where TensorFlow's would pad unevenly, and batch norm's epsilon is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

__all__ = ["INPUTS", "ZOO", "example"]

VOCABULARY = 8192

Act = type[nn.Module]


def _conv(i: int, o: int, kernel: int, stride: int = 1, groups: int = 1, act: Act | None = None) -> nn.Module:
    parts: list[nn.Module] = [
        nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(o),
    ]
    return nn.Sequential(*parts, *([act()] if act is not None else []))


def _classifier(features: int, *, classes: int = 1000, dropout: float = 0.0) -> list[nn.Module]:
    drop = [nn.Dropout(dropout)] if dropout else []
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *drop, nn.Linear(features, classes)]


class _Residual(nn.Module):
    """body(x) + shortcut(x), then an activation."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.body(x) + self.shortcut(x))


def _ready(network: nn.Module, size: int = 224) -> nn.Module:
    """Return a network in evaluation mode, its batch norms set to the means and variances of one random image.

    Untouched ones would let the signal die out, by EfficientNet's end to 1e-13: outputs would hardly depend on inputs.
    """
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        network(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)))
    for norm in norms:
        norm.eval().momentum = 0.1
    return network


# ResNets


def _resnet(blocks: tuple[int, ...], expansion: int) -> nn.Module:
    parts: list[nn.Module] = [_conv(3, 64, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for stage, count in enumerate(blocks):
        middle = 64 << stage
        for block in range(count):
            stride, out = 2 if stage and not block else 1, expansion * middle
            if expansion == 1:
                body = [_conv(width, out, 3, stride, act=nn.ReLU), _conv(out, out, 3)]
            else:
                body = [_conv(width, middle, 1, act=nn.ReLU), _conv(middle, middle, 3, stride, act=nn.ReLU)]
                body.append(_conv(middle, out, 1))
            shortcut = nn.Identity() if width == out and stride == 1 else _conv(width, out, 1, stride)
            parts.append(_Residual(nn.Sequential(*body), shortcut, nn.ReLU()))
            width = out
    return _ready(nn.Sequential(*parts, *_classifier(width)))


def resnet18() -> nn.Module:
    """Return ResNet-18 (He et al. 2016, table 1)."""
    return _resnet((2, 2, 2, 2), 1)


def resnet50() -> nn.Module:
    """Return ResNet-50 (He et al. 2016, table 1) as v1.5: the 3×3 has the stride (Goyal et al. 2017, section 5.1)."""
    return _resnet((3, 4, 6, 3), 4)


class _PadShortcut(nn.Module):
    """Option A: every second pixel, and as many channels of zeros as are missing, half in front and half behind."""

    def __init__(self, missing: int) -> None:
        super().__init__()
        self.each = missing // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.each, self.each))


def _resnet_cifar(blocks: int) -> nn.Module:
    parts, width = [_conv(3, 16, 3, act=nn.ReLU)], 16
    for out in (16, 32, 64):
        for _ in range(blocks):
            body = nn.Sequential(_conv(width, out, 3, out // width, act=nn.ReLU), _conv(out, out, 3))
            shortcut = nn.Identity() if width == out else _PadShortcut(out - width)
            parts.append(_Residual(body, shortcut, nn.ReLU()))
            width = out
    return _ready(nn.Sequential(*parts, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10)), 32)


def resnet20() -> nn.Module:
    """Return the ResNet-20 for CIFAR-10 with shortcuts of option A (He et al. 2016, section 4.2)."""
    return _resnet_cifar(3)


def resnet56() -> nn.Module:
    """Return the ResNet-56 for CIFAR-10 with shortcuts of option A (He et al. 2016, section 4.2)."""
    return _resnet_cifar(9)


# MobileNets and EfficientNet


def mobilenet_v1() -> nn.Module:
    """Return MobileNet 1.0 (Howard et al. 2017, table 1)."""
    parts, width = [_conv(3, 32, 3, 2, act=nn.ReLU)], 32
    downs = (64, 128, 128, 256, 256, *6 * (512,), 1024, 1024)
    for number, out in enumerate(downs):
        stride = 2 if number in (1, 3, 5, 11) else 1
        parts += [_conv(width, width, 3, stride, width, nn.ReLU), _conv(width, out, 1, act=nn.ReLU)]
        width = out
    return _ready(nn.Sequential(*parts, *_classifier(width, dropout=0.001)))


class _SqueezeExcite(nn.Module):
    """Each channel times a gate that is made of every channel's mean (Hu et al. 2018, figure 3)."""

    def __init__(self, channels: int, squeezed: int, act: Act, gate: Act) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), act(), nn.Conv2d(squeezed, channels, 1), gate()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale(x)


def _inverted_residual(
    i: int, hidden: int, o: int, kernel: int, stride: int, act: Act, excite: nn.Module | None = None
) -> nn.Module:
    parts = [_conv(i, hidden, 1, act=act)] if hidden != i else []
    parts.append(_conv(hidden, hidden, kernel, stride, hidden, act))
    parts += [excite] if excite is not None else []
    body = nn.Sequential(*parts, _conv(hidden, o, 1))
    return _Residual(body, nn.Identity(), nn.Identity()) if stride == 1 and i == o else body


# Sandler et al. 2018, table 2: expansion, output channels, repeats, stride of the first.
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2() -> nn.Module:
    """Return MobileNetV2 1.0 (Sandler et al. 2018, table 2)."""
    parts, width = [_conv(3, 32, 3, 2, act=nn.ReLU6)], 32
    for expand, out, repeats, stride in _V2:
        for number in range(repeats):
            parts.append(_inverted_residual(width, width * expand, out, 3, 1 if number else stride, nn.ReLU6))
            width = out
    parts.append(_conv(width, 1280, 1, act=nn.ReLU6))
    return _ready(nn.Sequential(*parts, *_classifier(1280, dropout=0.2)))


# Howard et al. 2019, table 1: kernel, hidden and output channels, those between squeeze and excitation (their
# reference code: a quarter, rounded to a multiple of 8 that is not below 90 % of it), hard swish or not, stride.
_V3 = (
    (3, 16, 16, 0, False, 1),
    (3, 64, 24, 0, False, 2),
    (3, 72, 24, 0, False, 1),
    (5, 72, 40, 24, False, 2),
    (5, 120, 40, 32, False, 1),
    (5, 120, 40, 32, False, 1),
    (3, 240, 80, 0, True, 2),
    (3, 200, 80, 0, True, 1),
    (3, 184, 80, 0, True, 1),
    (3, 184, 80, 0, True, 1),
    (3, 480, 112, 120, True, 1),
    (3, 672, 112, 168, True, 1),
    (5, 672, 160, 168, True, 2),
    (5, 960, 160, 240, True, 1),
    (5, 960, 160, 240, True, 1),
)


def mobilenet_v3_large() -> nn.Module:
    """Return MobileNetV3-Large 1.0 (Howard et al. 2019, table 1)."""
    parts, width = [_conv(3, 16, 3, 2, act=nn.Hardswish)], 16
    for kernel, hidden, out, squeezed, swish, stride in _V3:
        excite = _SqueezeExcite(hidden, squeezed, nn.ReLU, nn.Hardsigmoid) if squeezed else None
        act = nn.Hardswish if swish else nn.ReLU
        parts.append(_inverted_residual(width, hidden, out, kernel, stride, act, excite))
        width = out
    parts += [_conv(width, 960, 1, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    parts += [nn.Linear(960, 1280), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1280, 1000)]
    return _ready(nn.Sequential(*parts))


# Tan and Le 2019, table 1: expansion, kernel, output channels, repeats, stride of the first.
_B0 = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


def efficientnet_b0() -> nn.Module:
    """Return EfficientNet-B0 (Tan and Le 2019, table 1)."""
    parts, width = [_conv(3, 32, 3, 2, act=nn.SiLU)], 32
    for expand, kernel, out, repeats, first in _B0:
        for number in range(repeats):
            hidden, stride = width * expand, 1 if number else first
            excite = _SqueezeExcite(hidden, width // 4, nn.SiLU, nn.Sigmoid)
            parts.append(_inverted_residual(width, hidden, out, kernel, stride, nn.SiLU, excite))
            width = out
    parts.append(_conv(width, 1280, 1, act=nn.SiLU))
    return _ready(nn.Sequential(*parts, *_classifier(1280, dropout=0.2)))


# Networks that split and concatenate


class _ShuffleUnit(nn.Module):
    """Half the channels as they are (or, with a stride, all through a second branch), half convolved; then mixed."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        half = o // 2
        self.left: nn.Module | None = None
        if stride == 2:
            self.left = nn.Sequential(_conv(i, i, 3, 2, i), _conv(i, half, 1, act=nn.ReLU))
        self.right = nn.Sequential(
            _conv(i if stride == 2 else half, half, 1, act=nn.ReLU),
            _conv(half, half, 3, stride, half),
            _conv(half, half, 1, act=nn.ReLU),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1) if self.left is None else (self.left(x), x)
        both = torch.cat((left, self.right(right)), dim=1)
        batch, channels, height, width = both.shape
        mixed = both.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return mixed.reshape(batch, channels, height, width)


def shufflenet_v2() -> nn.Module:
    """Return ShuffleNetV2 1× (Ma et al. 2018, table 5)."""
    parts: list[nn.Module] = [_conv(3, 24, 3, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    width = 24
    for out, repeats in ((116, 4), (232, 8), (464, 4)):
        for number in range(repeats):
            parts.append(_ShuffleUnit(width, out, 1 if number else 2))
            width = out
    return _ready(nn.Sequential(*parts, _conv(width, 1024, 1, act=nn.ReLU), *_classifier(1024)))


class _Fire(nn.Module):
    def __init__(self, i: int, squeezed: int, each: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(i, squeezed, 1), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(squeezed, each, 1), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(squeezed, each, 3, padding=1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = self.squeeze(x)
        return torch.cat((self.one(squeezed), self.three(squeezed)), dim=1)


def squeezenet() -> nn.Module:
    """Return SqueezeNet (Iandola et al. 2016, table 1) as the 1.1 of its authors' repository."""
    parts: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2), nn.ReLU()]
    width = 64
    for stage in (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256))):
        parts.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for squeezed, each in stage:
            parts.append(_Fire(width, squeezed, each))
            width = 2 * each
    parts += [nn.Dropout(0.5), nn.Conv2d(width, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*parts)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # no norm keeps the signal up here
            nn.init.kaiming_normal_(module.weight)
    return network.eval()


def _norm_conv(i: int, o: int, kernel: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, o, kernel, padding=kernel // 2, bias=False)]


class _DenseBlock(nn.Module):
    """Each layer sees what came in and what all layers before it made."""

    def __init__(self, i: int, layers: int, growth: int) -> None:
        super().__init__()
        widths = range(i, i + layers * growth, growth)
        self.layers = nn.ModuleList(
            nn.Sequential(*_norm_conv(width, 4 * growth, 1), *_norm_conv(4 * growth, growth, 3)) for width in widths
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        return torch.cat(features, dim=1)


def densenet121() -> nn.Module:
    """Return DenseNet-121 (Huang et al. 2017, table 1)."""
    parts: list[nn.Module] = [_conv(3, 64, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for number, layers in enumerate((6, 12, 24, 16)):
        if number:
            parts += [*_norm_conv(width, width // 2, 1), nn.AvgPool2d(2)]
            width //= 2
        parts.append(_DenseBlock(width, layers, 32))
        width += 32 * layers
    return _ready(nn.Sequential(*parts, nn.BatchNorm2d(width), nn.ReLU(), *_classifier(width)))


# Transformers


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, dim))


def _transformer(dim: int, depth: int, heads: int, *, causal: bool, eps: float) -> nn.Module:
    """Return pre-norm blocks and the last norm."""
    parts: list[nn.Module] = []
    for _ in range(depth):
        attention = nn.Sequential(nn.LayerNorm(dim, eps), _Attention(dim, heads, causal=causal))
        mlp = (nn.LayerNorm(dim, eps), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        parts += [_Residual(b, nn.Identity(), nn.Identity()) for b in (attention, nn.Sequential(*mlp))]
    return nn.Sequential(*parts, nn.LayerNorm(dim, eps))


class _VisionTransformer(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, patch: int = 16, size: int = 224) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (size // patch) ** 2, dim))
        self.body = _transformer(dim, depth, heads, causal=False, eps=1e-6)
        self.head = nn.Linear(dim, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(x.shape[0], -1, -1), patches), dim=1)
        return self.head(self.body(tokens + self.positions)[:, 0])


def vit_tiny() -> nn.Module:
    """Return ViT-Tiny/16 (Dosovitskiy et al. 2021, figure 1; Touvron et al. 2021, table 1: DeiT-Ti)."""
    return _VisionTransformer(192, 12, 3).eval()


class _LanguageModel(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, dim), nn.Embedding(length, dim)
        self.body = _transformer(dim, depth, heads, causal=True, eps=1e-5)
        self.head = nn.Linear(dim, VOCABULARY, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        positions = self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.body(self.tokens(ids) + positions))


def language_model() -> nn.Module:
    """Return a small decoder built as GPT-2 (Radford et al. 2019, section 2.3), its two embeddings not tied."""
    return _LanguageModel(256, 4, 4, *INPUTS["language_model"]).eval()


# Segmentation


class _UNet(nn.Module):
    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        ins = (3, *widths[:-1])
        self.down = nn.ModuleList(self._twice(i, o) for i, o in zip(ins, widths, strict=True))
        ups = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.up = nn.ModuleList(self._twice(below + skip, skip) for below, skip in ups)
        self.head = nn.Conv2d(widths[0], classes, 1)

    @staticmethod
    def _twice(i: int, o: int) -> nn.Module:
        return nn.Sequential(_conv(i, o, 3, act=nn.ReLU), _conv(o, o, 3, act=nn.ReLU))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = functional.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat((x, skip), dim=1))
        return self.head(x)


def segmentation() -> nn.Module:
    """Return a small U-Net (Ronneberger et al. 2015, figure 1) of three levels that pads and upsamples bilinearly."""
    return _ready(_UNet((32, 64, 128), 21), 128)


_FIRST = (resnet18, resnet50, mobilenet_v1, mobilenet_v2, mobilenet_v3_large, shufflenet_v2, efficientnet_b0)
_REST = (squeezenet, densenet121, resnet20, resnet56, vit_tiny, language_model, segmentation)
ZOO: dict[str, Callable[[], nn.Module]] = {make.__name__: make for make in (*_FIRST, *_REST)}

# The shape of one sample.
INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(ZOO, (3, 224, 224)),
    "resnet20": (3, 32, 32),
    "resnet56": (3, 32, 32),
    "language_model": (128,),
    "segmentation": (3, 128, 128),
}


def example(name: str, batch: int) -> tuple[torch.Tensor, ...]:
    """Return the same random inputs of a network every time."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, *INPUTS[name])
    if name == "language_model":
        return (torch.randint(VOCABULARY, shape, generator=generator),)
    return (torch.randn(shape, generator=generator),)

"""Networks of inverted residuals, laid layer on layer: MobileNetV2's, RCNet's and NAS-Bench-Macro's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

from lut import Layer, NetworkLayer, chain, conv_norm_act, global_pool, linear, residual_add
from lut.primitives import ActivationKind, BatchNorm2d, ChannelShuffle, Conv2d

__all__ = ["LayerStack", "Shortcut", "make_divisible"]

# identity: a sum where stride and channels are kept, else none (MobileNetV2); project: also a 1×1 convolution and norm
# where the stride is 1 and channels change (RCNet's code).
Shortcut: TypeAlias = Literal["identity", "project"]

IMAGE_CHANNELS = 3


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Return the multiple of ``divisor`` nearest to ``channels``, and never below 0.9 of it (MobileNetV2's code)."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


class LayerStack:
    """Lays layers one on another and keeps count of channels and size. Final.

    Args:
        size: height and width of the input images.
    """

    def __init__(self, size: int) -> None:
        self.layers: list[NetworkLayer] = []
        self.channels, self.size = IMAGE_CHANNELS, size

    def conv(
        self,
        name: str,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        act: ActivationKind | None,
        groups: int = 1,
    ) -> None:
        """Lay a convolution with norm and, unless ``None``, an activation."""
        self._lay(name, _conv(self.channels, out_channels, kernel, stride, act, groups, self.size))

    def inverted_residual(
        self,
        name: str,
        out_channels: int,
        *,
        expand: int,
        kernel: int,
        stride: int,
        act: ActivationKind,
        expand_always: bool = False,
        expand_groups: int = 1,
        project_groups: int = 1,
        shortcut: Shortcut = "identity",
    ) -> None:
        """Lay MobileNetV2's block (Sandler et al. 2018, figure 3): expand, depthwise, project, and a sum if it fits.

        Args:
            name: of the block; its layers are ``NAME.expand`` …
            out_channels: of its projection.
            expand: t; the expansion has t times the block's input channels, and is left out where t is 1.
            kernel: of the depthwise convolution.
            stride: of the depthwise convolution.
            act: after expansion and depthwise convolution.
            expand_always: keep the expansion where t is 1.
            expand_groups: of the expansion's convolution (RCNet: g_e).
            project_groups: of the projection's (RCNet: g_p); channels are shuffled over them before.
            shortcut: what is added where the stride is 1 and channels change.
        """
        before, entered = self.layers[-1].name, self.channels
        if expand > 1 or expand_always:
            self.conv(f"{name}.expand", entered * expand, 1, act=act, groups=expand_groups)
        self.conv(f"{name}.depthwise", self.channels, kernel, stride=stride, act=act, groups=self.channels)
        self._lay(f"{name}.project", project(self.channels, out_channels, project_groups, self.size))
        if stride != 1 or (entered != out_channels and shortcut == "identity"):
            return
        skip = before
        if entered != out_channels:
            skip = f"{name}.shortcut"
            layer = _conv(entered, out_channels, 1, 1, None, 1, self.size)
            self.layers.append(NetworkLayer(skip, layer, inputs=(before,)))
        add = residual_add(out_channels, activation=None, input_size=(self.size, self.size))
        self.layers.append(NetworkLayer(f"{name}.add", add, inputs=(f"{name}.project", skip)))

    def head(self, features: int, act: ActivationKind, classes: int) -> tuple[NetworkLayer, ...]:
        """Lay a 1×1 convolution, the mean over all pixels and a classifier, and return all layers."""
        self.conv("head", features, 1, act=act)
        self.layers.append(NetworkLayer("pool", global_pool(features, input_size=(self.size, self.size))))
        self.layers.append(NetworkLayer("classifier", linear(features, classes, bias=True)))
        return tuple(self.layers)

    def _lay(self, name: str, layer: Layer) -> None:
        self.layers.append(NetworkLayer(name, layer))
        self.channels, self.size = layer.output_shape[:2]


# A search meets the same layers in network after network: made once, they are checked and hashed once.
@lru_cache(maxsize=1 << 14)
def _conv(i: int, o: int, kernel: int, stride: int, act: ActivationKind | None, groups: int, size: int) -> Layer:
    return conv_norm_act(
        i, o, kernel_size=kernel, stride=stride, activation=act, input_size=(size, size), groups=groups
    )


@lru_cache(maxsize=1 << 12)
def project(in_channels: int, out_channels: int, groups: int, size: int) -> Layer:
    """Return a projection: channels shuffled over ``groups``, a 1×1 convolution of as many groups, a norm.

    One layer, since no network has one without the other; without groups there is nothing to shuffle.
    """
    conv = Conv2d(out_channels=out_channels, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0), groups=groups)
    shuffle: Sequence[ChannelShuffle] = (ChannelShuffle(groups=groups),) if groups > 1 else ()
    return chain((in_channels, size, size), *shuffle, conv, BatchNorm2d())

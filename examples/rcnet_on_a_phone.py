"""RCNet and MobileNetV2 as a bundle to be timed on an iPhone: the pair of RCAS's Table 4.

Xiong et al. (2019) print 14.6 MB and 183.5 ms for RCNet against 14.7 MB and 197.2 ms for MobileNetV2 on an iPhone 5s,
images of 224×224, one at a time, weights in 32 bits. Anywhere:

    export-coreml --model examples/rcnet_on_a_phone.py:rcnet --model examples/rcnet_on_a_phone.py:mobilenet_v2 \\
        --input 1x3x224x224 --format neuralnetwork --precision float32 --output phone

then open the bundle's runner on a Mac with the phone attached (docs/coreml.md).
"""

from __future__ import annotations

from torch import nn

from search import RCNet, build_network
from search import mobilenet_v2 as describe_mobilenet_v2

__all__ = ["mobilenet_v2", "rcnet"]


def rcnet() -> nn.Module:
    """Return RCNet for ImageNet as published, 3.44 M parameters and 294 M multiply-adds, with random weights."""
    return build_network(RCNet("imagenet", classes=1000).published()["rcnet"](), seed=0).eval()


def mobilenet_v2() -> nn.Module:
    """Return MobileNetV2, 3.50 M parameters and 300 M multiply-adds, with random weights."""
    return build_network(describe_mobilenet_v2(), seed=0).eval()

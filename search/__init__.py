"""Search spaces and, in later versions, the searches over them."""

from search._resnet_cifar import ResNetCifar, resnet_cifar

__all__ = ["ResNetCifar", "resnet_cifar"]

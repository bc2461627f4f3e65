"""The search spaces: CIFAR ResNets, RCNet, NAS-Bench-Macro; and MobileNetV2 to compare with."""

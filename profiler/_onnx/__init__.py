"""The target ``onnx``: layers as ONNX graphs in ONNX Runtime, through any of its execution providers."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler._onnx._target import OnnxTarget

__all__ = ["OnnxTarget"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'profiler._onnx' has no attribute {name!r}")
    return getattr(import_module("profiler._onnx._target"), name)

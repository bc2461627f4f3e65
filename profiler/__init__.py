"""Measuring layers on a device: the protocol, the targets, the report."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler._compare import compare_networks
    from profiler._coreml import CoremlTarget
    from profiler._cpu import CpuTarget
    from profiler._cuda import CudaTarget
    from profiler._fake import FakeTarget
    from profiler._machine import cpu_device
    from profiler._modules import build_module
    from profiler._onnx import OnnxTarget
    from profiler._process import layer_errors
    from profiler._profile import profile
    from profiler._report import report_html
    from profiler._spaces import available_spaces, load_space
    from profiler._suggest_widths import suggest_widths, sweep
    from profiler._target import Observation, Part, Target, TargetSpec, available_targets
    from profiler._traced_module import TracedModule, trace

__all__ = [
    "CoremlTarget",
    "CpuTarget",
    "CudaTarget",
    "FakeTarget",
    "Observation",
    "OnnxTarget",
    "Part",
    "Target",
    "TargetSpec",
    "TracedModule",
    "available_spaces",
    "available_targets",
    "build_module",
    "compare_networks",
    "cpu_device",
    "layer_errors",
    "load_space",
    "profile",
    "report_html",
    "suggest_widths",
    "sweep",
    "trace",
]

# Resolved at first use (PEP 562): a command's --help should not wait for PyTorch.
_HOMES = {
    "CoremlTarget": "profiler._coreml",
    "CpuTarget": "profiler._cpu",
    "CudaTarget": "profiler._cuda",
    "FakeTarget": "profiler._fake",
    "Observation": "profiler._target",
    "OnnxTarget": "profiler._onnx",
    "Part": "profiler._target",
    "Target": "profiler._target",
    "TargetSpec": "profiler._target",
    "TracedModule": "profiler._traced_module",
    "available_spaces": "profiler._spaces",
    "available_targets": "profiler._target",
    "build_module": "profiler._modules",
    "compare_networks": "profiler._compare",
    "cpu_device": "profiler._machine",
    "layer_errors": "profiler._process",
    "load_space": "profiler._spaces",
    "profile": "profiler._profile",
    "report_html": "profiler._report",
    "suggest_widths": "profiler._suggest_widths",
    "sweep": "profiler._suggest_widths",
    "trace": "profiler._traced_module",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'profiler' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

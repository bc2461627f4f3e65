"""Measuring layers on a device: the protocol, the targets, the report."""

from typing import TYPE_CHECKING

from lut._lazy import at_first_use

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
    "CoremlTarget": "._coreml",
    "CpuTarget": "._cpu",
    "CudaTarget": "._cuda",
    "FakeTarget": "._fake",
    "Observation": "._target",
    "OnnxTarget": "._onnx",
    "Part": "._target",
    "Target": "._target",
    "TargetSpec": "._target",
    "TracedModule": "._traced_module",
    "available_spaces": "._spaces",
    "available_targets": "._target",
    "build_module": "._modules",
    "compare_networks": "._compare",
    "cpu_device": "._machine",
    "layer_errors": "._process",
    "load_space": "._spaces",
    "profile": "._profile",
    "report_html": "._report",
    "suggest_widths": "._suggest_widths",
    "sweep": "._suggest_widths",
    "trace": "._traced_module",
}


__getattr__, __dir__ = at_first_use(__name__, _HOMES, __all__)

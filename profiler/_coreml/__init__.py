"""Core ML: models exported anywhere, timed on Apple hardware, imported anywhere."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler._coreml._bundle import load_bundle
    from profiler._coreml._export import ExportResult, export_bundle
    from profiler._coreml._import import import_timings, network_timings, not_measured_table
    from profiler._coreml._target import CoremlTarget

__all__ = [
    "CoremlTarget",
    "ExportResult",
    "export_bundle",
    "import_timings",
    "load_bundle",
    "network_timings",
    "not_measured_table",
]

# Resolved at first use (PEP 562), as in `profiler`: naming the target must not import what it needs.
_HOMES = {
    "CoremlTarget": "profiler._coreml._target",
    "ExportResult": "profiler._coreml._export",
    "export_bundle": "profiler._coreml._export",
    "import_timings": "profiler._coreml._import",
    "load_bundle": "profiler._coreml._bundle",
    "network_timings": "profiler._coreml._import",
    "not_measured_table": "profiler._coreml._import",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'profiler._coreml' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

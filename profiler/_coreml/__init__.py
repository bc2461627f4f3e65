"""Core ML: models exported anywhere, timed on Apple hardware, imported anywhere."""

from typing import TYPE_CHECKING

from lut._lazy import at_first_use

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
    "CoremlTarget": "._target",
    "ExportResult": "._export",
    "export_bundle": "._export",
    "import_timings": "._import",
    "load_bundle": "._bundle",
    "network_timings": "._import",
    "not_measured_table": "._import",
}


__getattr__, __dir__ = at_first_use(__name__, _HOMES, __all__)

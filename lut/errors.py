"""The error tree. Each error says what was wrong, where, and what to do.

::

    LatencyLutError                         exit code 1: the work failed
    ├── UsageError (ValueError)             exit code 2: an argument makes no sense
    │   └── LayerError                      a layer's description is impossible
    ├── TableError
    │   ├── TableFormatError (ValueError)   a file is no valid table; names the place inside it
    │   ├── MissingLayerError (KeyError)    a table does not hold a layer; names the nearest ones
    │   └── UnlikeTablesError (ValueError)  tables of different devices or settings were mixed
    ├── PredictorError                      a latency cannot be predicted
    │   ├── UnknownOperatorError            a layer has an operator that no measured layer has
    │   └── PredictorFormatError (ValueError)  a saved predictor is not one, or was altered
    ├── FileAccessError (OSError)           a file cannot be read or written
    ├── FolderInUseError                    another run writes into the same folder
    ├── ProfileError
    │   ├── TargetUnavailableError          the target cannot run here; says why and what to install
    │   ├── DeviceBusyError                 another profile holds the device; names its process id
    │   ├── JournalError                    an interrupted run's journal does not fit this command
    │   └── LayerFailedError                a target could not run one layer; becomes a failure entry
    ├── SearchError                         a search or a training failed
    │   ├── DataError (ValueError)          a data set cannot be used; names the file or the class
    │   └── CheckpointError (ValueError)    a checkpoint is damaged, or belongs to another run
    ├── IncompleteError                     exit code 3: not everything asked for was measured
    │   └── BudgetError                     no network is within the budget; says how far away the closest is
    ├── AdditivityError                     exit code 3: sums of layers do not hold on this machine
    ├── StaleTableError                     exit code 3: a table no longer says what its device takes
    └── InterruptedRunError                 exit code 130: stopped by the user; says how to go on

    UserWarning
    └── UnauditedTableWarning               no sum of a table's layers was ever held against a whole network
"""

from __future__ import annotations

__all__ = [
    "AdditivityError",
    "BudgetError",
    "CheckpointError",
    "DataError",
    "DeviceBusyError",
    "FileAccessError",
    "FolderInUseError",
    "IncompleteError",
    "InterruptedRunError",
    "JournalError",
    "LatencyLutError",
    "LayerError",
    "LayerFailedError",
    "MissingLayerError",
    "PredictorError",
    "PredictorFormatError",
    "ProfileError",
    "SearchError",
    "StaleTableError",
    "TableError",
    "TableFormatError",
    "TargetUnavailableError",
    "UnauditedTableWarning",
    "UnknownOperatorError",
    "UnlikeTablesError",
    "UsageError",
]


class LatencyLutError(Exception):
    """The root: every error that this project raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, and OSError its errno: a person reads the message.
        return str(self.args[0]) if self.args else ""


class UsageError(LatencyLutError, ValueError):
    """An argument or an option makes no sense."""

    exit_code = 2


class LayerError(UsageError):
    """A layer's description is impossible: shapes that do not fit, an unknown activation, an unused input."""


class TableError(LatencyLutError):
    """Something about a lookup table."""


class TableFormatError(TableError, ValueError):
    """A file is not a valid table; the message names the file and the path of the offender inside it."""


class MissingLayerError(TableError, KeyError):
    """A table holds no measurement of a layer; the message names the nearest ones that it has."""


class UnlikeTablesError(TableError, ValueError):
    """Tables of different devices or settings were about to be mixed."""

    exit_code = 2


class PredictorError(LatencyLutError):
    """A latency cannot be predicted."""


class UnknownOperatorError(PredictorError):
    """A layer has an operator that no measured layer has; the message names it, and how to measure it."""


class PredictorFormatError(PredictorError, ValueError):
    """A file is not a saved predictor's, or was altered; the message names the file."""


class FileAccessError(LatencyLutError, OSError):
    """A file cannot be read or written: missing, forbidden, or the disk is full."""


class FolderInUseError(LatencyLutError):
    """Another run writes into the same folder; the message names it."""


class ProfileError(LatencyLutError):
    """Measuring failed."""


class TargetUnavailableError(ProfileError):
    """The target cannot run on this machine; the message says why and what to install."""


class DeviceBusyError(ProfileError):
    """Another profile is running on this device; the message names its process id."""


class JournalError(ProfileError):
    """An interrupted run's journal belongs to another command; the message says how to start afresh."""


class LayerFailedError(ProfileError):
    """A target could not run one layer. The profiler turns it into a failure entry and goes on."""

    def __init__(self, message: str, *, reason: str = "error") -> None:
        super().__init__(message)
        self.reason = reason


class SearchError(LatencyLutError):
    """A search or a training failed."""


class DataError(SearchError, ValueError):
    """A data set cannot be used; the message names the file, the class or the size, and what was expected."""

    exit_code = 2


class CheckpointError(SearchError, ValueError):
    """A checkpoint is damaged or belongs to another run; the message says how to start afresh."""

    exit_code = 2


class IncompleteError(LatencyLutError):
    """The work ended, and not everything that was asked for is there."""

    exit_code = 3


class BudgetError(IncompleteError):
    """No network is within the budget; the message says how far away the closest one is."""


class AdditivityError(LatencyLutError):
    """A machine was tested, and layers do not add up to networks on it; the message says by how much not."""

    exit_code = 3


class StaleTableError(LatencyLutError):
    """A table was checked, and no longer says what its device takes; the message says why."""

    exit_code = 3


class InterruptedRunError(LatencyLutError):
    """The user stopped the run; what was done is saved, and the message says how to go on."""

    exit_code = 130


class UnauditedTableWarning(UserWarning):
    """No sum of a table's layers was ever held against a whole network."""

"""A torch module of the user's own process, carried into the measuring one.

It is measured as it is, with its own code and weights, and the process that measures is another. So it is written by
cloudpickle (which also takes classes that a script or a notebook defines) into a file without a name that the child
inherits: nobody else can write there, and nothing of it outlives the run or gets into a table.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lut import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["held_module", "taken_module"]


@contextlib.contextmanager
def held_module(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], *, name: str) -> Iterator[int]:
    """Hold a module and its inputs for the children of this process; yields the file's descriptor.

    Raises:
        UsageError: it holds what cannot be written, a lambda's open file, say.
    """
    import cloudpickle

    try:
        # Where this process finds its modules, in a line of its own: the other one must find them before it reads on.
        places = [str(Path(place).resolve()) for place in sys.path]
        written = cloudpickle.dumps((module, inputs))
        # What cannot be read again would be known when everything else was measured.
        cloudpickle.loads(written)
        content = json.dumps(places).encode() + b"\n" + written
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{name}: the module cannot be carried into the measuring process: {type(error).__name__}: {text}; profile "
            "profiler.trace(module, inputs) instead, which is measured as its layers make it"
        ) from None
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.fileno()


def taken_module(descriptor: int) -> tuple[Any, tuple[Any, ...]]:
    """Return the module and the inputs that a parent holds, in evaluation mode.

    Raises:
        Exception: whatever the user's own code raises while it is imported.
    """
    import cloudpickle

    size = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as content:
        # Appended, never put first: a user's search.py or lut.py beside the script must not hide ours.
        sys.path += [place for place in json.loads(content.readline()) if place not in sys.path]
        module, inputs = cloudpickle.load(content)
    return module.eval(), inputs

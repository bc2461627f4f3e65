"""Networks as files: what a search found, for programs that need not know its space.

Version 1: ``space`` names the space and what it was made with, ``choices`` the option of each decision (the option, not
its index), ``network`` is the network itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from lut._codec import short_problem
from lut._files import read_bytes, write_atomically
from lut._network import Network
from lut.errors import LayerError, TableFormatError

__all__ = ["NetworkFile", "load_network", "read_network_file", "save_network"]


# A network has a few hundred layers, and as one layer at most a thousand nodes.
MOST_OBJECTS = 1 << 16


class NetworkFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network file's content.

    Args:
        network: the network.
        space: the name of the space that it is from; empty: of none.
        options: what the space was made with, as its constructor's keywords.
        choices: by a decision's name, the option that was taken.
    """

    network: Network
    format: Literal["latency-lut-network"] = "latency-lut-network"
    version: Literal[1] = 1
    space: str = ""
    options: dict[str, int | float | str | bool | list[list[int]]] = {}
    choices: dict[str, int] = {}


def save_network(
    path: str | os.PathLike[str],
    network: Network,
    *,
    space: str = "",
    options: Mapping[str, int | float | str | bool | list[list[int]]] | None = None,
    choices: Mapping[str, int] | None = None,
) -> None:
    """Write a network file; see :class:`NetworkFile`.

    Raises:
        FileAccessError: it cannot be written; an old file is untouched.
    """
    content = NetworkFile(network, space=space, options=dict(options or {}), choices=dict(choices or {}))
    write_atomically(Path(path), msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def load_network(path: str | os.PathLike[str]) -> Network:
    """Return the network of a file; errors as of :func:`read_network_file`."""
    return read_network_file(path).network


def read_network_file(path: str | os.PathLike[str]) -> NetworkFile:
    """Return the content of a network file.

    Raises:
        FileAccessError: it cannot be read.
        TableFormatError: it is no network file, or its layers do not fit together.
    """
    content = read_bytes(path)
    if content.count(b"{") > MOST_OBJECTS:
        raise TableFormatError(f"{path}: more than {MOST_OBJECTS} objects are too many for a network file")
    try:
        found = msgspec.json.decode(content, type=NetworkFile)
        found.network.as_layer()
    except LayerError as error:
        raise TableFormatError(f"{path}: the network is impossible: {short_problem(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = short_problem(str(error))
        raise TableFormatError(f"{path}: not a network file ({problem}); search-architecture writes them") from None
    return found

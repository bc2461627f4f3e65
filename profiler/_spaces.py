"""Installed search spaces, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from lut import SearchSpace, UsageError
from lut._printable import printable, shortened
from lut._suggest import unknown
from profiler._options import check_known, option_names

__all__ = ["available_spaces", "load_space", "space_factory"]

GROUP = "latency_lut.spaces"


def available_spaces() -> dict[str, str]:
    """Return the installed search spaces: names → ``module:attribute`` (entry point group ``latency_lut.spaces``)."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def space_factory(name: str) -> Callable[..., SearchSpace]:
    """Return what makes an installed space, from keyword arguments of its own.

    Raises:
        UsageError: no space has this name, or its module cannot be loaded.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise UsageError(unknown("space", name, found, none="none: is latency-lut installed? pip install -e ."))
    point = found[name]
    try:
        make: Callable[..., SearchSpace] = point.load()
    except Exception as error:
        # Somebody else's module, which may raise anything.
        why = shortened(printable(f"{type(error).__name__}: {error}"), 200)
        raise UsageError(f"the installed space {name!r} ({point.value}) cannot be loaded: {why}") from error
    return make


def load_space(name: str, **options: Any) -> SearchSpace:
    """Return an installed search space (entry point group ``latency_lut.spaces``).

    Args:
        name: of the space, such as ``resnet-cifar``.
        options: keyword arguments of its factory, such as ``depth=32``; those left out have its defaults.

    Raises:
        UsageError: no space has this name, or it does not know an option or its value.
    """
    make = space_factory(name)
    check_known(f"space {name}", list(options), option_names(make))
    parameters = inspect.signature(make).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    if missing := [option for option in needed if option not in options]:
        raise UsageError(f"space {name} needs the option {missing[0]!r}: {missing[0]}=… (--set {missing[0]}=…)")
    return make(**options)

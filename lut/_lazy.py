"""Names of a package that are resolved at first use (PEP 562): whoever wants one need not wait for all imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

__all__ = ["at_first_use"]


def at_first_use(
    package: str, homes: Mapping[str, str], names: Sequence[str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and its ``__dir__``.

    Args:
        package: its ``__name__``.
        homes: by a public name, the module where it stands, from a ``.`` on within the package, and after a ``:`` what
            it is called there if that is another name.
        names: its ``__all__``.
    """

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, own = homes[name].partition(":")
        return getattr(import_module(module, package), own or name)

    def names_of() -> list[str]:
        return list(names)

    return get, names_of

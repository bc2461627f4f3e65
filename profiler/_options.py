"""Options of plug-ins, by the signature of what makes them: a target's constructor, a space's factory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from lut import UsageError
from lut._printable import shortened
from lut._suggest import did_you_mean
from profiler._option_text import NoTextError, parse_text

__all__ = ["check_known", "converted", "option_names", "parse_setting", "parse_settings"]


def option_names(factory: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a factory's keyword arguments, in its order."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(factory).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def check_known(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise :class:`~lut.UsageError` where an option is given that a plug-in does not have.

    Args:
        what: the plug-in, for errors: ``space rcnet-cifar``.
        given: names of options.
        known: those that it has.
    """
    for name in given:
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"{what} has no option {name!r}; {has}{did_you_mean(name, known)}")


def parse_settings(texts: Sequence[str]) -> dict[str, str]:
    """Return what ``--set KEY=VALUE`` says, each time that it is given.

    Raises:
        UsageError: one is no ``KEY=VALUE``, or a key is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not separator or not all(part.isidentifier() for part in key.split(".", 1)):
            raise UsageError(f"--set is KEY=VALUE, such as --set depth=32, got {text!r}")
        if key in found:
            raise UsageError(f"--set {key} is given twice: {found[key]} and {value}")
        found[key] = value.strip()
    return found


def converted(what: str, factory: Callable[..., Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return options that are given as text as their factory takes them: numbers, booleans, names, lists, ``none``.

    Args:
        what: the plug-in, for errors.
        factory: what makes it; its annotations say what each option is. One without is given text.
        texts: by the options' names.

    Raises:
        UsageError: an option is unknown, or its text is not what it is to be.
    """
    check_known(what, list(texts), option_names(factory))
    made_by: Any = factory
    try:
        hints = get_type_hints(made_by.__init__ if isinstance(factory, type) else factory, include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(f"--set: {what} has annotations that cannot be read ({error}); make it in Python") from None
    found = {}
    for name, text in texts.items():
        found[name] = parse_setting(what, name, hints.get(name, str), text)
    return found


def parse_setting(what: str, name: str, annotation: Any, text: str) -> Any:
    """Return what the text of ``--set NAME=TEXT`` says, as an annotation wants it.

    Raises:
        UsageError: it says nothing of the kind, or ``what`` takes no text for it.
    """
    try:
        return parse_text(annotation, text)
    except NoTextError:
        raise UsageError(f"--set {name}: {what} takes no text for it; make it in Python") from None
    except ValueError as error:
        raise UsageError(f"--set {name}={shortened(text, 60)}: {error}") from None

"""What commands measure, as their options say it: a space, a file of layers, or the user's network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

import typer

from lut import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from lut import SearchSpace
    from profiler._user_network import UserNetwork
    from profiler._workload import Workload

__all__ = ["ExpandOption", "PlugInOptions", "SetOption", "open_space", "plug_in_options", "swept", "user_network"]

SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="An option of the space, or of an installed target, such as --set depth=32; again for more. space.KEY or "
        "target.KEY where both have it.",
    ),
]

ExpandOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--expand",
        help="Widest layer of a ResNet space or a sweep, in multiples of the base width (HTAS: e). Default: 2.",
    ),
]


class PlugInOptions(NamedTuple):
    """What ``--set`` gives to either plug-in."""

    space: Mapping[str, Any]
    target: Mapping[str, Any]


def plug_in_options(
    texts: Sequence[str] | None, *, space: str | None, target: str | None, flags: Collection[str] = ()
) -> PlugInOptions:
    """Return what ``--set KEY=VALUE`` says, by the plug-in whose option it is.

    Args:
        texts: as they are given.
        space: the space's name; ``None`` where none is measured.
        target: the target's name; ``None`` where nothing is.
        flags: options of targets that the command has as flags; they are given by those.

    Raises:
        UsageError: neither has such an option, both have, or its value does not fit.
    """
    if not texts:
        return PlugInOptions({}, {})
    from profiler._options import converted, option_names, parse_settings
    from profiler._spaces import space_factory
    from profiler._target import as_flag, available_targets, offered_options, target_factory

    factories: dict[str, Any] = {}
    known: dict[str, tuple[str, ...]] = {}
    if space is not None:
        factories["space"] = space_factory(space)
        known["space"] = option_names(factories["space"])
    if target is not None and target in available_targets():
        factories["target"] = target_factory(available_targets()[target])
        known["target"] = offered_options(factories["target"])
    names = {"space": f"space {space}", "target": f"target {target}"}
    given: dict[str, dict[str, str]] = {"space": {}, "target": {}}
    for key, value in parse_settings(texts).items():
        place, _, name = key.rpartition(".")
        takers = [kind for kind, options in known.items() if name in options and place in ("", kind)]
        if len(takers) > 1:
            raise UsageError(
                f"--set {key}: both {names['space']} and {names['target']} have it: space.{key} or target.{key}"
            )
        if not takers:
            raise _no_such_option(key, {names[kind]: options for kind, options in known.items()}, flags)
        if takers == ["target"] and name in flags:
            raise UsageError(f"--set {key}={value}: it has a flag of its own, {as_flag(name)}")
        given[takers[0]][name] = value
    return PlugInOptions(
        *(converted(names[kind], factories[kind], texts) if texts else {} for kind, texts in given.items())
    )


def _no_such_option(key: str, known: Mapping[str, Sequence[str]], flags: Collection[str]) -> UsageError:
    """Return the error about an option that nothing has: what each plug-in has, flags by their own names."""
    from lut._suggest import did_you_mean
    from profiler._target import as_flag

    has = []
    for name, options in known.items():
        own = [option for option in options if name.startswith("space ") or option not in flags]
        by_flag = [as_flag(option) for option in options if option not in own]
        text = f"{name} has {', '.join(own) or 'none'}"
        has.append(text + (f" (and the flags {', '.join(by_flag)})" if by_flag else ""))
    every = [
        as_flag(option) if name.startswith("target ") and option in flags else option
        for name, options in known.items()
        for option in options
    ]
    said = did_you_mean(key.rpartition(".")[2], every)
    return UsageError(f"--set {key}: there is no such option; {'; '.join(has) or 'nothing here takes any'}{said}")


def open_space(name: str, *, expand: float | None, options: Mapping[str, Any]) -> SearchSpace:
    """Return an installed space; ``--expand`` is one family's option, with a name of its own.

    Raises:
        UsageError: no space has this name, or it has no such option.
    """
    from profiler._options import option_names
    from profiler._spaces import load_space, space_factory

    given = dict(options)
    if expand is not None:
        if "expand" not in option_names(space_factory(name)):
            raise UsageError(f"--expand widens layers, and the space {name} has no widths to choose: leave it away")
        if "expand" in given:
            raise UsageError("--expand and --set expand say the same: give one of them")
        given["expand"] = expand
    return load_space(name, **given)


def user_network(
    text: str, input_text: str | None, *, target: str, batch: int | None, seed: int, output: Path, console: Console
) -> Workload:
    """Return the layers of the user's network: a factory, or an ONNX file.

    Args:
        text: what ``--model`` says.
        input_text: what ``--input`` says.
        target: the target's name.
        batch: what ``--batch`` says.
        seed: of the factory's random numbers.
        output: the table; where a PyTorch network is exported to ONNX, that file goes beside it.
        console: where it is said what is being done.

    Raises:
        UsageError: it cannot be loaded, run or traced; the message says what to try.
    """
    from profiler._workload import of_user_network

    if text.endswith(".onnx"):
        if target != "onnx":
            raise UsageError(f"--model {text}: an ONNX file runs on --target onnx, not on {target}")
        found = _onnx_file(Path(text), input_text)
    else:
        found = _torch_model(text, input_text, target=target, seed=seed, output=output, console=console)
    if batch is not None and batch != found.batch:
        raise UsageError(f"--batch {batch}: the network's input has batch {found.batch}; give another --input")
    return of_user_network(found)


def swept(work: Workload, *, expand: float, step: int | None, budget_s: float, console: Console) -> Workload:
    """Return the network's layers with those of its sweeps; says which are left out.

    Raises:
        UsageError: ``expand`` is out of range.
    """
    from profiler._workload import with_sweep

    found, left_out = with_sweep(work, expand=expand, step=step, budget_s=budget_s)
    for name, reason in left_out:
        console.print(f"not swept: {name}: {reason}", style="yellow")
    return found


def _torch_model(
    text: str, input_text: str | None, *, target: str, seed: int, output: Path, console: Console
) -> UserNetwork:
    from profiler._model import parse_model
    from profiler._user_network import onnx_network, torch_network

    spec = parse_model(text, input_text, seed)
    if target == "onnx":
        _need_onnx(text)
    console.print(f"Loading and tracing {spec}.")
    if target != "onnx":
        return torch_network(spec, as_whole=target != "coreml")
    # Ours, and replaced by the next run; the user's own file is hardly called so.
    path = output.with_name(f"{spec.factory}-exported.onnx")
    found = onnx_network(path, exported_from=spec)
    console.print(f"exported to {path}")
    return found


def _need_onnx(text: str) -> None:
    from lut.errors import TargetUnavailableError

    for name in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(name) is None:
            raise TargetUnavailableError(
                f"--model {text} needs the package {name!r}, which is not installed: pip install -e '.[onnx]'"
            )


def _onnx_file(path: Path, input_text: str | None) -> UserNetwork:
    from profiler._model import parse_input
    from profiler._user_network import onnx_network

    _need_onnx(str(path))
    return onnx_network(path, shapes=parse_input(input_text) if input_text is not None else ())

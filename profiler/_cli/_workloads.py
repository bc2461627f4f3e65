"""What ``profile-device`` is to measure: a space's layers, a file's, or those of the user's network."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lut import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from lut import ChannelCurve, Layer, Network, SearchSpace
    from profiler._adaptive import Adaptive
    from profiler._user_network import UserNetwork
    from profiler._whole import Subject

__all__ = ["Work", "sampled", "swept", "work_of_layers", "work_of_model", "work_of_space"]

# Layers that a second of the time budget measures well enough to tell neighbouring widths apart.
LAYERS_A_SECOND = 5.0

# Networks whose layers adaptive sampling chooses from: enough to know where a space spends its time.
DESIGN = 20

# Of a space's random vectors, those that give a network twice are passed over, but not for ever.
MOST_TRIES = 100


class Work(NamedTuple):
    """Layers with the curves among them, the networks to measure whole, and what these fix, if
    anything: the batch, and the data type. ``adaptive``: not all of the layers are to be measured.
    """

    layers: tuple[Layer, ...]
    curves: tuple[ChannelCurve, ...] = ()
    subjects: tuple[Subject, ...] = ()
    batch: int | None = None
    dtype: str | None = None
    adaptive: Adaptive | None = None

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks that are run as a whole."""
        return tuple(subject.network for subject in self.subjects if subject.whole is not None)


def work_of_layers(file: Path) -> Work:
    """Return the layers of a JSON file."""
    from profiler._layers_file import load_layers

    return Work(load_layers(file))


def work_of_space(name: str, *, expand: float, audit: int, hosts: int, seed: int) -> Work:
    """Return a space's layers, and ``audit`` of its networks; and ``hosts`` more, in whose places layers are timed.

    Raises:
        UsageError: the space does not exist, or has fewer networks.
    """
    from profiler._profile import load_space
    from profiler._whole import subject_of

    space = load_space(name, expand=expand)
    rng = random.Random(f"{seed}-audit")  # noqa: S311 - a sample, no secret
    networks = _different(space, getattr(space, "sample_measured", space.sample), audit + hosts, rng)
    return Work(space.layers(), space.curves(), tuple(subject_of(network) for network in networks))


def sampled(name: str, *, expand: float, audit: int, target_error: float, seed: int) -> Work:
    """Return a space's networks: some to measure whole, and others whose layers adaptive sampling chooses from.

    Raises:
        UsageError: the space does not exist, has fewer networks, or the numbers make no sense.
    """
    from profiler._adaptive import Adaptive
    from profiler._profile import load_space
    from profiler._whole import subject_of

    space = load_space(name, expand=expand)
    rng = random.Random(f"{seed}-sampling")  # noqa: S311 - a sample, no secret
    # Those that are never run may be as deep as the space has them; wholes are visited again and again.
    design = _different(space, space.sample, DESIGN, rng)
    wholes = _different(space, getattr(space, "sample_quick", space.sample), audit, rng, apart=design)
    adaptive = Adaptive(tuple(design), target_error)
    adaptive.check(audit)
    return Work(adaptive.layers, (), tuple(subject_of(network) for network in wholes), adaptive=adaptive)


def _different(
    space: SearchSpace,
    sample: Callable[[random.Random], Sequence[int]],
    count: int,
    rng: random.Random,
    *,
    apart: Sequence[Network] = (),
) -> list[Network]:
    """Return so many different networks of a space, none of them among ``apart``."""
    taken = {network.layers for network in apart}
    found: dict[Any, Network] = {}
    for _ in range(count * MOST_TRIES):
        if len(found) == count:
            break
        network = space.decode(sample(rng))
        if network.layers not in found and network.layers not in taken:
            found[network.layers] = type(network)(name=f"{space.name} {len(found) + 1}", layers=network.layers)
    if len(found) < count:
        raise UsageError(f"{count} networks were asked for, and the space {space.name} gave only {len(found)}")
    return list(found.values())


def work_of_model(
    text: str, input_text: str | None, *, target: str, batch: int | None, seed: int, output: Path, console: Console
) -> Work:
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
    if text.endswith(".onnx"):
        if target != "onnx":
            raise UsageError(f"--model {text}: an ONNX file runs on --target onnx, not on {target}")
        found = _onnx_file(Path(text), input_text)
    else:
        found = _torch_model(text, input_text, target=target, seed=seed, output=output, console=console)
    if batch is not None and batch != found.batch:
        raise UsageError(f"--batch {batch}: the network's input has batch {found.batch}; give another --input")
    layers = tuple(dict.fromkeys(item.layer for item in found.subject.network.layers))
    return Work(layers, (), (found.subject,), found.batch, found.dtype)


def swept(work: Work, *, expand: float, step: int | None, budget_s: float, console: Console) -> Work:
    """Return the network's layers with those of its sweeps: as fine as the time budget allows, unless ``step`` says.

    Raises:
        UsageError: ``expand`` is out of range.
    """
    from profiler._sweep import sweep_curves

    most = None if step is not None else max(0, int(LAYERS_A_SECOND * budget_s) - len(work.layers))
    found = sweep_curves(work.subjects[0].network, expand=expand, step=step, most_layers=most)
    layers = [layer for curve in found.curves for layer in curve.layers]
    for name, reason in found.left_out:
        console.print(f"not swept: {name}: {reason}", style="yellow")
    return work._replace(layers=tuple(dict.fromkeys([*work.layers, *layers])), curves=found.curves)


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

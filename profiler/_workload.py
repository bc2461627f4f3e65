"""What is to be measured: layers, sweeps over their widths, and networks that are run end to end."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from lut import ChannelCurve, Layer, Network, SearchSpace, UsageError
from lut._measured_network import MeasuredNetwork, network_of
from lut.primitives import Subgraph
from profiler._adaptive import Adaptive
from profiler._sources import FileSource, LiveSource, Subject, subject_of
from profiler._traced_module import TracedModule, evaluating

if TYPE_CHECKING:
    from profiler._user_network import UserNetwork

__all__ = [
    "Part",
    "Workload",
    "different",
    "is_module",
    "of_space",
    "of_user_network",
    "parts_of",
    "sampled",
    "with_sweep",
]

# Layers that a second of the time budget measures well enough to tell neighbouring widths apart.
LAYERS_A_SECOND = 5.0

# Networks whose layers adaptive sampling chooses from: enough to know where a space spends its time.
DESIGN = 20

# Of a space's random vectors, those that give a network twice are passed over, but not for ever.
MOST_TRIES = 100

Part: TypeAlias = Layer | ChannelCurve | Network | TracedModule | Path


class Workload(NamedTuple):
    """What a run measures, and what that fixes.

    Args:
        layers: each is measured once.
        curves: channel sweeps among them, to be named in the table.
        subjects: networks whose layers are measured too, and which are run end to end where they can be.
        batch: samples per call, where what is measured fixes it; ``batch_of``: the name of what does.
        dtype: data type, where a file fixes it.
        adaptive: not all of the layers are to be measured, but those that tell most of networks.
        swept: whether the curves are those of the user's own network, of which no groups of widths are chosen.
    """

    layers: tuple[Layer, ...]
    curves: tuple[ChannelCurve, ...] = ()
    subjects: tuple[Subject, ...] = ()
    batch: int | None = None
    dtype: str | None = None
    adaptive: Adaptive | None = None
    swept: bool = False
    batch_of: str = ""

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks that are run end to end."""
        return tuple(subject.network for subject in self.subjects if subject.source is not None)

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """All layers that may be measured: the networks' among them."""
        inner = [item.layer for subject in self.subjects for item in subject.network.layers]
        chosen = self.adaptive.layers if self.adaptive is not None else ()
        return tuple(dict.fromkeys([*self.layers, *inner, *chosen]))


@contextlib.contextmanager
def parts_of(parts: Iterable[Any], *, target: str, folder: Path) -> Iterator[Workload]:
    """Give what a caller's own objects are as one workload.

    Args:
        parts: layers, channel curves, networks, traced modules, paths of ONNX files.
        target: the target's name; ONNX Runtime runs a module as the file that it is exported to.
        folder: where such a file goes; it is needed as long as the workload.

    Raises:
        UsageError: one of them is nothing that can be measured, or they are of different batches.
    """
    layers: list[Layer] = []
    curves: list[ChannelCurve] = []
    subjects: list[Subject] = []
    fixed: dict[int, str] = {}
    dtypes: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for part in parts:
            if isinstance(part, Layer):
                layers.append(part)
            elif isinstance(part, ChannelCurve):
                curves.append(part)
                layers += part.layers
            elif isinstance(part, (Network, MeasuredNetwork)):
                network = network_of(part)
                if not network.layers:
                    raise UsageError(f"network {network.name!r} has no layers")
                subjects.append(subject_of(network))
            elif isinstance(part, (TracedModule, Path)):
                found = _of_file(part, target) if isinstance(part, Path) else _of_module(part, target, folder, stack)
                subjects.append(found.subject)
                fixed.setdefault(found.batch, found.subject.network.name)
                if found.dtype is not None:
                    dtypes.setdefault(found.dtype, found.subject.network.name)
            else:
                raise UsageError(_no_part(part))
        inner = [(item.layer, subject.network.name) for subject in subjects for item in subject.network.layers]
        for layer, name in [*((layer, str(layer)) for layer in layers), *inner]:
            for node in layer.nodes:
                if isinstance(node.op, Subgraph):
                    fixed.setdefault(node.op.batch, name)
        if len(fixed) > 1:
            (first, of_first), (second, of_second), *_ = fixed.items()
            raise UsageError(
                f"{of_first} is of batch {first}, and {of_second} of batch {second}: profile them one after the other"
            )
        if len(dtypes) > 1:
            raise UsageError(f"networks of different data types, {' and '.join(dtypes)}, are measured one by one")
        own = {layer for layer, _ in inner}
        yield Workload(
            tuple(dict.fromkeys(layers)),
            tuple(curves),
            tuple(subjects),
            next(iter(fixed), None),
            next(iter(dtypes), None),
            swept=bool(curves) and all(not own.isdisjoint(curve.layers) for curve in curves),
            batch_of=next(iter(fixed.values()), ""),
        )


def is_module(part: object) -> bool:
    """Return whether something is a torch module; PyTorch need not be there to say no."""
    return any(base.__module__.startswith("torch.nn.modules") for base in type(part).__mro__)


def _no_part(part: object) -> str:
    kind = type(part).__name__
    if is_module(part):
        return (
            f"{kind} is a torch module: profile(TracedModule(module, inputs)) measures it as it is, and "
            "profile(trace(module, inputs)) as its layers make it"
        )
    if isinstance(part, str):
        return f"{part!r} is no network: profiler.load_space(name) gives a space, lut.load_network(path) a network"
    return (
        "what is measured is a network, a layer, a channel curve, a TracedModule, the Path of an ONNX file or a "
        f"SearchSpace, or several of these, got {kind}"
    )


def _of_module(traced: TracedModule, target: str, folder: Path, stack: contextlib.ExitStack) -> UserNetwork:
    from profiler._user_network import UserNetwork, onnx_network

    kind = f"{type(traced.module).__module__}.{type(traced.module).__qualname__}"
    digests = [item.layer.digest for item in traced.network.layers]
    # Of what is measured, and not of its weights: another run of the same script may have drawn others.
    digest = sha256(" ".join([kind, *digests]).encode()).hexdigest()[:16]
    if target == "onnx":
        from profiler._onnx._file import export_model

        # A folder of its own for each: "a/b" and "a-b" are two modules, and one name of a file.
        path = Path(tempfile.mkdtemp(dir=folder)) / f"{_as_file_name(traced.name)}.onnx"
        with evaluating(traced.module):
            export_model(traced.module, traced.inputs, path)
        found = onnx_network(path, name=traced.name)
        source = found.subject.source
        assert isinstance(source, FileSource)
        own = msgspec.structs.replace(source, digest=digest)
        return found._replace(subject=found.subject._replace(source=own))
    if target == "coreml":
        reason = "layers only: export-coreml --model makes the whole network's program"
        return UserNetwork(Subject(traced.network, None, traced.operators, traced.idle, reason), traced.batch)
    from profiler._live_module import held_module

    descriptor = stack.enter_context(held_module(traced.module, traced.inputs, name=traced.name))
    source = LiveSource(traced.name, descriptor, digest)
    return UserNetwork(Subject(traced.network, source, traced.operators, traced.idle), traced.batch, traced.dtype)


def _of_file(path: Path, target: str) -> UserNetwork:
    from profiler._user_network import onnx_network

    if path.suffix != ".onnx":
        raise UsageError(f"{path} is no ONNX file; lut.load_network(path) gives the network of one that a search wrote")
    if target != "onnx":
        raise UsageError(f"{path} is an ONNX file, which runs on the target onnx, not on {target or 'this one'}")
    return onnx_network(path)


def _as_file_name(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".")
    return kept[:80] or "network"


def of_space(space: SearchSpace, *, audit: int, hosts: int, seed: int) -> Workload:
    """Return a space's layers, and ``audit`` of its networks; and ``hosts`` more, in whose places layers are timed.

    Raises:
        UsageError: the space has fewer networks.
    """
    rng = random.Random(f"{seed}-audit")  # noqa: S311 - a sample, no secret
    networks = different(space, space.sample_measured, audit + hosts, rng)
    return Workload(space.layers(), space.curves(), tuple(map(subject_of, networks)))


def sampled(space: SearchSpace, *, audit: int, target_error: float, seed: int) -> Workload:
    """Return a space's networks: some to run end to end, and others whose layers adaptive sampling chooses from.

    Raises:
        UsageError: the space has fewer networks, or the numbers make no sense.
    """
    rng = random.Random(f"{seed}-sampling")  # noqa: S311 - a sample, no secret
    # Those that are never run may be as deep as the space has them; wholes are visited again and again.
    design = different(space, space.sample, DESIGN, rng)
    wholes = different(space, space.sample_quick, audit, rng, apart=design)
    adaptive = Adaptive(tuple(design), target_error)
    adaptive.check(audit)
    return Workload(adaptive.layers, (), tuple(map(subject_of, wholes)), adaptive=adaptive)


def of_user_network(found: UserNetwork) -> Workload:
    """Return the layers of a network that was loaded and traced in a process of its own."""
    layers = tuple(dict.fromkeys(item.layer for item in found.subject.network.layers))
    name = found.subject.network.name
    return Workload(layers, (), (found.subject,), found.batch, found.dtype, batch_of=name)


def with_sweep(
    work: Workload, *, expand: float, step: int | None, budget_s: float
) -> tuple[Workload, tuple[tuple[str, str], ...]]:
    """Return a network's layers with those of its sweeps: as fine as the time budget allows, unless ``step`` says.

    Returns:
        the workload, and the layers that are not swept, each with the reason.

    Raises:
        UsageError: ``expand`` is out of range.
    """
    from profiler._sweep import sweep_curves

    most = None if step is not None else max(0, int(LAYERS_A_SECOND * budget_s) - len(work.layers))
    found = sweep_curves(work.subjects[0].network, expand=expand, step=step, most_layers=most)
    layers = [layer for curve in found.curves for layer in curve.layers]
    swept = work._replace(layers=tuple(dict.fromkeys([*work.layers, *layers])), curves=found.curves, swept=True)
    return swept, found.left_out


def different(
    space: SearchSpace,
    sample: Callable[[random.Random], Sequence[int]],
    count: int,
    rng: random.Random,
    *,
    apart: Sequence[Network] = (),
) -> list[Network]:
    """Return so many different networks of a space, none of them among ``apart``.

    Raises:
        UsageError: the space has fewer.
    """
    taken = {network.layers for network in apart}
    found: dict[Any, Network] = {}
    for _ in range(count * MOST_TRIES):
        if len(found) == count:
            break
        network = space.decode(sample(rng))
        if network.layers not in found and network.layers not in taken:
            found[network.layers] = Network(name=f"{space.name} {len(found) + 1}", layers=network.layers)
    if len(found) < count:
        raise UsageError(f"{count} networks were asked for, and the space {space.name} gave only {len(found)}")
    return list(found.values())

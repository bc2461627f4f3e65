"""Profiling from Python: what to measure, on which target, and the table of it."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from lut import LatencyTable, SearchSpace, UsageError
from lut._measured_network import MeasuredNetwork
from lut._records import Protocol
from lut._suggest import did_you_mean
from lut.errors import TargetUnavailableError
from predictors._show import parse_alpha
from profiler._adaptive import Sampler
from profiler._options import check_known, option_names
from profiler._plan import MANY_NETWORKS, Plan, make_protocol
from profiler._racing import GROUPS
from profiler._reference import reference_path
from profiler._run import HOST_EVERY, check_output, goes_along, hosts_for, limit_for, profile_plan, protocol_for
from profiler._session import Progress
from profiler._sources import record_of
from profiler._target import TargetSpec, available_targets, check_available, target_factory, target_spec
from profiler._workload import Part, Workload, is_module, of_space, parts_of, sampled

__all__ = ["audited", "hosts_beside", "profile"]

# Networks of a space that a table is audited with, and those that adaptive sampling learns from and stops by.
AUDITED, SAMPLED = 20, 30


def profile(
    what: Workload | SearchSpace | Part | Iterable[Part],
    *,
    target: str | TargetSpec = "cpu",
    batch: int | None = None,
    threads: int | None = None,
    time_budget_s: float | None = None,
    output: str | os.PathLike[str] | None = None,
    restart: bool = False,
    quick: bool = False,
    precision: float | None = None,
    audit: int | None = None,
    target_error: float | None = None,
    groups: int = GROUPS,
    alpha: float | Literal["auto"] = 1.0,
    seed: int = 0,
    layer_limit_s: float | None = None,
    reference: str | os.PathLike[str] | None = None,
    new_reference: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    **options: Any,
) -> LatencyTable:
    """Measure a network, layers or a search space on this device, and return the lookup table.

    Networks are measured layer by layer, and end to end in the same rounds, so that the table says how far the sum of
    the layers is from the whole. What the table's file would refuse is refused before anything is measured.

    Args:
        what: a :class:`lut.Network` (:func:`profiler.trace` makes one of a torch module), which is run as its layers
            make it; a :class:`profiler.TracedModule`, or with the target onnx the ``Path`` of a file, which is run as
            it is; a :class:`lut.Layer`; a :class:`lut.ChannelCurve`, whose layers are measured as a sweep; several of
            these; or a :class:`lut.SearchSpace`, whose layers and some of whose networks are measured.
        target: an installed target's name, ``cpu``, ``cuda``, ``onnx`` or ``coreml``; or a :class:`TargetSpec`.
        batch: samples per call; by default what the target takes (cpu 4, onnx and coreml 1, cuda 1024 for 32×32
            images). A ``TracedModule``, and layers of a framework's own operators, fix it: another one is an error.
            Other layers run with any.
        threads: CPU threads; by default as many as CPUs are allowed to this process.
        time_budget_s: seconds of measuring; by default 112, quick 24.
        output: where the table is written; an interrupted run leaves a journal beside it and goes on from there.
            ``None`` keeps nothing.
        restart: discard an interrupted run's journal, and replace a finished table.
        quick: a rough table soon.
        precision: half-width of a layer's interval, as a share, at which it is measured no longer; by default 0.02,
            quick 0.05.
        audit: of a space: how many of its networks are measured end to end; by default 20, quick 0, with
            ``target_error`` 30.
        target_error: of a space: measure not all of its layers, but those that tell most, until networks are predicted
            with this mean error, as a share.
        groups: of each sweep's widths, from each of which one is to be chosen; layers between which that choice is
            open are measured longer. 0: nothing is to be chosen.
        alpha: the exponent of the law that they are chosen by, ``"auto"`` to fit it; see :class:`predictors.PowerLaw`.
        seed: of all randomness.
        layer_limit_s: seconds after which a layer that does not answer is given up; by default 60, with ``compile``
            300.
        reference: file with the machines' reference speeds; by default in the user's cache folder.
        new_reference: forget the machine's reference speed, and take this session's.
        progress: told where the session stands.
        options: further options of the target, such as ``dtype="bfloat16"``, ``context="isolated"``, or cpu's
            ``compile=True``; the target's constructor has them all.

    Raises:
        UsageError: there is nothing to measure, what is given cannot be measured, an argument is out of range or not
            the target's, two networks have one name, or ``output`` holds a finished table.
        TargetUnavailableError: the target cannot run here.
        DeviceBusyError: another profile is running.
        JournalError: the journal belongs to another call.
        FileAccessError: the output or the machine's reference speed cannot be written, or the latter's file is damaged.
        InterruptedRunError: stopped by the user; the visits so far are kept.
    """
    parse_alpha(str(alpha))
    protocol = make_protocol(precision=precision, time_budget_s=time_budget_s, quick=quick, seed=seed)
    if not isinstance(target, (str, TargetSpec)):
        raise UsageError(f"a target is given by name, or as a TargetSpec, got {type(target).__name__}")
    if groups < 0:
        raise UsageError(f"groups of widths are 0 or more, got {groups}")
    if restart and output is None:
        raise UsageError("restart discards what output keeps, and no output is given")
    if isinstance(target, TargetSpec):
        given = {"batch": batch, "threads": threads, **options}
        if ignored := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"a TargetSpec has its options in it: leave out {', '.join(ignored)}, or give the target by name"
            )
    if output is not None:
        # Tracing and exporting take a while, and measuring longer.
        check_output(Path(output), restart=restart)
    if isinstance(target, str):
        _refuse_misspelt(target, options)
        check_available(target, **options)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="latency-lut-")))
        workload = _workload(stack, what, target, options, audit, target_error, quick=quick, seed=seed, folder=folder)
        spec = _spec(workload, target, {"batch": batch, "threads": threads, **options})
        protocol = make_protocol(
            precision=precision,
            time_budget_s=time_budget_s,
            quick=quick,
            seed=seed,
            layer_limit_s=limit_for(spec) if layer_limit_s is None else layer_limit_s,
        )
        return _run(
            workload,
            spec,
            protocol_for(spec, protocol),
            groups=0 if workload.swept else groups,
            alpha=alpha,
            output=folder / "table.json" if output is None else Path(output),
            restart=restart,
            reference=Path(reference) if reference is not None else reference_path(),
            new_reference=new_reference,
            keep=output is not None,
            progress=progress,
        )


def _workload(
    stack: contextlib.ExitStack,
    what: Any,
    target: str | TargetSpec,
    options: Mapping[str, Any],
    audit: int | None,
    target_error: float | None,
    *,
    quick: bool,
    seed: int,
    folder: Path,
) -> Workload:
    """Return what is to be measured of what a caller gives."""
    if isinstance(what, SearchSpace):
        factory, given = target if isinstance(target, TargetSpec) else (available_targets().get(target, ""), options)
        wholes = audited(_name(target), audit, quick=quick, sampled=target_error is not None)
        if target_error is not None:
            return sampled(what, audit=wholes, target_error=target_error, seed=seed)
        return of_space(what, audit=wholes, hosts=hosts_beside(factory, given, wholes), seed=seed)
    for name, value in (("audit", audit), ("target_error", target_error)):
        if value is not None:
            raise UsageError(f"{name} is about a search space's networks; what is given is measured as it is")
    if isinstance(what, Workload):
        return what
    # A module can be iterated over, a mapping too, and neither is several things to measure.
    several = isinstance(what, Iterable) and not isinstance(what, (str, bytes, MeasuredNetwork))
    if several and (isinstance(what, LatencyTable) or not isinstance(what, Mapping)) and not is_module(what):
        parts = list(what)
    else:
        parts = [what]
    return stack.enter_context(parts_of(parts, target=_name(target), folder=folder))


def _refuse_misspelt(target: str, options: Mapping[str, Any]) -> None:
    """Raise where an option is none of the target's, and looks like an argument of :func:`profile`."""
    factory = available_targets().get(target)
    known = () if factory is None else option_names(target_factory(factory))
    for name in options:
        hint = did_you_mean(name, inspect.signature(profile).parameters)
        if name not in known and hint and not did_you_mean(name, known):
            raise UsageError(f"profile has no argument {name}{hint}")


def _name(target: str | TargetSpec) -> str:
    """Return an installed target's name; a spec of another has none, and is given what PyTorch is given."""
    if isinstance(target, str):
        return target
    return next((name for name, factory in available_targets().items() if factory == target.factory), "")


def _spec(workload: Workload, target: str | TargetSpec, options: Mapping[str, Any]) -> TargetSpec:
    """Return the target for what is measured, whose batch and data type it may fix."""
    if isinstance(target, TargetSpec):
        options = target.options
    asked = options.get("batch")
    if workload.batch is not None and asked is not None and asked != workload.batch:
        name = workload.batch_of
        raise UsageError(
            f"{name} was traced with batch {workload.batch}, and batch {asked} is asked for; trace it with inputs of "
            "that batch"
        )
    fixed = {"batch": workload.batch, "dtype": workload.dtype}
    if isinstance(target, TargetSpec):
        with contextlib.suppress(TargetUnavailableError):
            # Where its module is for the measuring process alone to find, that process says what is wrong.
            known = option_names(target_factory(target.factory))
            check_known(f"target {target.factory}", list(target.options), known)
            filled = {name: value for name, value in fixed.items() if value is not None and name in known}
            return TargetSpec(target.factory, {**filled, **target.options})
        return target
    given = {**options, **{name: value for name, value in fixed.items() if options.get(name) is None}}
    return target_spec(target, workload.all_layers, workload.networks, spelled=str, **given)


def _run(
    workload: Workload,
    spec: TargetSpec,
    protocol: Protocol,
    *,
    groups: int,
    alpha: float | Literal["auto"],
    output: Path,
    restart: bool,
    reference: Path,
    new_reference: bool,
    keep: bool,
    progress: Callable[[Progress], None],
) -> LatencyTable:
    """Measure a workload and write its table."""
    adaptive = workload.adaptive
    entries = workload.all_layers
    # Those that are run come first, as the plan numbers them.
    subjects = sorted(workload.subjects, key=lambda subject: subject.source is None)
    sources = tuple(subject.source for subject in subjects if subject.source is not None)
    measured = [subject.network for subject in subjects if subject.source is not None]
    sampling, sampler = "", None
    if adaptive is not None:
        adaptive.check(len(sources))
        sampling = f"adaptive, {adaptive.target_error:g}, {[n.name for n in adaptive.networks]}"
        sampler = Sampler(adaptive, entries, measured, protocol.seed)
    # Adaptive sampling ends by its error on networks none of whose layers is measured for their sake.
    hosts = hosts_for(spec, measured, entries) if adaptive is None else ()
    if len(measured) >= MANY_NETWORKS:
        # The others say how well sums hold for networks that gave no layer its value.
        hosts = tuple(walk if number % HOST_EVERY == 0 else () for number, walk in enumerate(hosts))
    number = {layer: i for i, layer in enumerate(entries)}
    swept = tuple(tuple(number[layer] for layer in curve.layers if layer in number) for curve in workload.curves)
    return profile_plan(
        Plan(spec.factory, spec.options, entries, protocol, sources, sampling, hosts, swept),
        curves=workload.curves,
        groups=groups,
        alpha=alpha,
        networks=[record_of(subject) for subject in subjects],
        sampler=sampler,
        output=output,
        restart=restart,
        reference=reference,
        new_reference=new_reference,
        keep=keep,
        progress=progress,
    )


def audited(target: str, audit: int | None, *, quick: bool, sampled: bool) -> int:
    """Return how many networks of a space are measured end to end, unless the caller says."""
    if audit is not None:
        return audit
    if sampled:
        return SAMPLED
    return 0 if quick or target == "coreml" else AUDITED


def hosts_beside(factory: str, options: Mapping[str, Any], audit: int) -> int:
    """Return how many networks are measured beside those of an audit for their layers' sake: one for two of these."""
    hosts = -(-audit // (HOST_EVERY - 1))
    return hosts if audit + hosts >= MANY_NETWORKS and factory and goes_along(factory, options) else 0

"""The command ``profile-device``: measure this device into a lookup table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lut import UsageError
from lut._console import duration, make_console, run_single_command
from lut._records import NOT_CHOSEN
from lut._suggest import check_word
from profiler._cli._progress import ProgressBar, Standing
from profiler._cli._workloads import ExpandOption, SetOption, plug_in_options

if TYPE_CHECKING:
    from rich.console import Console

    from lut import LatencyTable
    from predictors._gains import WidthGain
    from predictors._widths import WidthSelection
    from profiler._session import Progress
    from profiler._workload import Workload

__all__ = ["main"]

MOST_AUDITED = 1000
TARGET_ERROR = 0.03


# What the help shows together: what people come for first, and last what hardly anybody needs.
PANELS = {
    "What is measured": (
        *("model", "input_shape", "sweep", "step", "space", "settings", "expand", "layers", "audit", "sampling"),
        "target_error",
    ),
    "Where and how": ("target", "batch", "threads", "dtype", "memory_format", "context"),
    "How long": ("quick", "time_budget", "precision"),
    "What comes out": ("output", "restart", "groups", "alpha", "json", "verbose"),
    "Target cpu": ("compile_",),
    "Target onnx": ("provider", "spinning", "exporter"),
    "Target cuda": ("mode", "tf32"),
    "Target coreml": ("compute_units", "device", "model_format", "deployment_target", "team", "import_", "bundle"),
    "Rarely needed": ("self_test", "when_busy", "new_reference", "seed"),
}


def main() -> None:
    """Run the command."""
    run_single_command(profile_device, panels=PANELS)


# What --import takes beside the timings and their bundle; anything else says how to measure.
WITH_IMPORT = frozenset(
    {"target", "import_", "bundle", "output", "restart", "precision", "groups", "alpha", "json", "verbose"}
)


# What says how the self-test runs; everything else says what to measure, or what to do with it.
WITH_SELF_TEST = frozenset(
    {
        *("self_test", "target", "batch", "threads", "dtype", "memory_format", "context", "compile_", "mode", "tf32"),
        *("provider", "spinning", "exporter", "device", "seed", "when_busy", "json", "verbose"),
    }
)


def _is_given(context: typer.Context, name: str) -> bool:
    """Return whether an option stands on the command line."""
    return getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"


def profile_device(
    context_: typer.Context,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="Where to measure: cpu, cuda (PyTorch), onnx (ONNX Runtime), coreml (Apple), or another installed.",
        ),
    ] = "cpu",
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, help="Images per call. Default: cpu 4, cuda 1024 for 32×32 images, else 1."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, help="CPU threads. Default: all CPUs this process may use, or its container's quota."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16. Default: float32; coreml: float16."),
    ] = None,
    memory_format: Annotated[
        str | None, typer.Option("--memory-format", help="contiguous (default) or channels_last, for cpu and cuda.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            help="network: as inside a network, so that latencies add up (default where the target can); isolated: "
            "each layer alone, again and again.",
        ),
    ] = None,
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Run what torch.compile makes of each layer; compiling is not timed.",
            rich_help_panel="Target cpu",
        ),
    ] = False,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="device-cold (default): as in a network; device-warm: same buffers again; host: eager, with launches.",
            rich_help_panel="Target cuda",
        ),
    ] = None,
    tf32: Annotated[
        str | None,
        typer.Option("--tf32", help="on (default) or off: TF32 for float32.", rich_help_panel="Target cuda"),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider",
            help="Execution provider: cpu (default), cuda, openvino, coreml …, or its full name.",
            rich_help_panel="Target onnx",
        ),
    ] = None,
    spinning: Annotated[
        str | None,
        typer.Option(
            "--spinning",
            help="on (the runtime's default) or off: idle threads wait busily.",
            rich_help_panel="Target onnx",
        ),
    ] = None,
    exporter: Annotated[
        str | None,
        typer.Option(
            "--exporter",
            help="How layers become ONNX models: direct (default), dynamo or torchscript.",
            rich_help_panel="Target onnx",
        ),
    ] = None,
    compute_units: Annotated[
        str | None,
        typer.Option(
            "--compute-units",
            help="ALL (default), CPU_ONLY, CPU_AND_GPU or CPU_AND_NE.",
            rich_help_panel="Target coreml",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="coreml: mac (default) or iphone, a connected one; cuda: the GPU's number.",
            rich_help_panel="Target coreml",
        ),
    ] = None,
    model_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="mlprogram (default), or neuralnetwork for old systems.",
            rich_help_panel="Target coreml",
        ),
    ] = None,
    deployment_target: Annotated[
        str | None,
        typer.Option("--deployment-target", help="iOS15 … iOS18. Default: iOS16.", rich_help_panel="Target coreml"),
    ] = None,
    team: Annotated[
        str | None,
        typer.Option(
            "--team",
            help="Apple developer team that signs the runner for a connected iPhone.",
            rich_help_panel="Target coreml",
        ),
    ] = None,
    import_: Annotated[
        Path | None,
        typer.Option(
            "--import",
            metavar="FILE",
            help="Make the table from timings.json, timed on a device, instead of measuring; needs --bundle.",
            rich_help_panel="Target coreml",
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="DIR",
            help="The bundle (from export-coreml) that the timings are of.",
            rich_help_panel="Target coreml",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="FILE.py:FACTORY|FILE.onnx",
            help="Measure your network, layer by layer and whole: a function without arguments that returns a torch "
            "module, or (module, inputs); also package.module:factory; an ONNX file with --target onnx.",
            rich_help_panel="What is measured",
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="4x3x224x224",
            help="Your network's input, the batch in front; several with commas; 4x128:int64:8192 for integers below "
            "8192.",
            rich_help_panel="What is measured",
        ),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Also measure every convolution and linear layer of your network at other widths, and say what each "
            "would gain.",
            rich_help_panel="What is measured",
        ),
    ] = False,
    step: Annotated[
        int | None,
        typer.Option(
            "--step",
            min=1,
            help="Sweep every STEP-th width only. Default: as fine as the time budget allows.",
            rich_help_panel="What is measured",
        ),
    ] = None,
    audit: Annotated[
        int | None,
        typer.Option(
            "--audit",
            min=0,
            max=MOST_AUDITED,
            metavar="N",
            help="Also measure N networks of the space whole, and say how well sums of layers give them. Default: 20; "
            "quick: 0; adaptive: 30.",
            rich_help_panel="What is measured",
        ),
    ] = None,
    sampling: Annotated[
        str,
        typer.Option(
            "--sampling",
            metavar="full|adaptive",
            help="full: every layer. adaptive: a few layers of a space's random networks, then those that tell most, "
            "until networks are predicted well enough; fit-predictor answers for the rest.",
            rich_help_panel="What is measured",
        ),
    ] = "full",
    target_error: Annotated[
        float | None,
        typer.Option(
            "--target-error",
            metavar="SHARE",
            help="Adaptive: stop at this mean error on networks that were not fitted to. Default: 0.03.",
            rich_help_panel="What is measured",
        ),
    ] = None,
    space: Annotated[
        str,
        typer.Option(
            "--space",
            help="Search space whose layers are measured, unless --model or --layers is given.",
            rich_help_panel="What is measured",
        ),
    ] = "resnet-cifar",
    layers: Annotated[
        Path | None,
        typer.Option(
            "--layers",
            metavar="FILE",
            help="Measure the layers of this JSON file instead of a space's.",
            rich_help_panel="What is measured",
        ),
    ] = None,
    expand: ExpandOption = None,
    settings: SetOption = None,
    groups: Annotated[
        int, typer.Option("--groups", min=1, help="Groups of widths per stage; one width is chosen in each (HTAS: g).")
    ] = 8,
    alpha: Annotated[
        str,
        typer.Option(
            "--alpha",
            metavar="NUMBER|auto",
            help="Exponent of the law k·x^alpha + b (HTAS: 1); auto fits it in 0.05 … 3.",
        ),
    ] = "1",
    precision: Annotated[
        float | None,
        typer.Option(
            "--precision", help="Stop measuring a layer at this half-width of its interval. Default: 0.02; quick: 0.05."
        ),
    ] = None,
    time_budget: Annotated[
        float | None,
        typer.Option(
            "--time-budget", metavar="SECONDS", help="Stop measuring after this long. Default: 112; quick: 24."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A rough table in half a minute.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the order of visits, weights and inputs.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the table goes. Default: TARGET-bBATCH.json, here; MODEL-TARGET-bBATCH.json of a --model.",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an interrupted run, and replace a table that is already there.")
    ] = False,
    self_test: Annotated[
        bool | None,
        typer.Option(
            "--self-test/--no-self-test",
            help="Only see whether sums of layers hold on this machine and how sharp intervals get, in under a minute. "
            "The first profile on a CPU does so too, unless it is --quick or told not to.",
        ),
    ] = None,
    when_busy: Annotated[
        str,
        typer.Option(
            "--when-busy",
            metavar="fit|wait|stop|measure",
            help="Where other programs keep the CPUs busy before a run of a minute or more (of any length, if this is "
            "given): fit waits 20 s, then takes fewer threads unless --threads is given; wait: ten minutes, then "
            "stop; stop: at once; measure: all the same.",
        ),
    ] = "fit",
    new_reference: Annotated[
        bool, typer.Option("--new-reference", help="Forget this machine's reference speed and take this run's.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; progress goes to standard error.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also print each choice's certainty and each flag.")
    ] = False,
) -> None:
    """Measure how long network layers take on this device, and choose the channel counts that it likes.

    The result is a lookup table (JSON): for each layer its latency in milliseconds, how sure that is, and how it was
    measured. Beside it goes a report (HTML) with the curves. If the run is interrupted, the same command goes on from
    there.

    Example: profile-device --target cpu --batch 4

    Your own network: profile-device --model my.py:make --input 4x3x224x224
    """
    from predictors._show import parse_alpha

    parse_alpha(alpha)
    options: dict[str, Any] = {
        "batch": batch,
        "dtype": dtype,
        "threads": threads,
        "memory_format": memory_format,
        "context": context,
        "compile": compile_ or None,
        "mode": mode,
        "tf32": tf32,
        "provider": provider,
        "spinning": spinning,
        "exporter": exporter,
        "compute_units": compute_units,
        "device": int(device) if device is not None and device.isascii() and device.isdecimal() else device,
        "format": model_format,
        "deployment_target": deployment_target,
        "team": team,
    }
    by_name = model is None and layers is None
    plugged = plug_in_options(settings, space=space if by_name else None, target=target, flags=options)
    options = {name: value for name, value in options.items() if value is not None}
    options |= plugged.target
    console = make_console(stderr=json)
    if import_ is not None or bundle is not None:
        from profiler._cli._coreml import import_table, refuse_for_import

        given = [name.rstrip("_") for name in context_.params if name not in WITH_IMPORT and _is_given(context_, name)]
        refuse_for_import(target, given, timings=import_, bundle=bundle)
        assert import_ is not None
        assert bundle is not None
        output = output if output is not None else Path(f"{target}.json")
        table = import_table(import_, bundle, output, precision=precision, restart=restart, console=console)
        _finish(table, output, console, groups=groups, alpha=alpha, json=json, verbose=verbose)
        return
    from profiler._busy import PATIENCE_S
    from profiler._cli._self_test import (
        is_first_profile,
        print_self_test,
        refuse_unless_held,
        takes_a_minute,
        test_this_machine,
    )

    check_word("--when-busy", when_busy, PATIENCE_S)
    if self_test:
        ignored = [
            name.rstrip("_") for name in context_.params if name not in WITH_SELF_TEST and _is_given(context_, name)
        ]
        if ignored:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
            raise UsageError(f"--self-test measures networks of its own, and nothing is written: leave out {names}")
        _settle(options, target, when_busy, console)
        found = test_this_machine(target, options, seed=seed, console=console)
        print_self_test(console, found, json=json)
        refuse_unless_held(found)
        return
    from profiler._plan import make_protocol
    from profiler._profile import audited, hosts_beside
    from profiler._run import check_output
    from profiler._target import available_targets, check_available, target_spec

    check_available(target, **options)
    protocol = make_protocol(precision=precision, time_budget_s=time_budget, quick=quick, seed=seed)
    if output is not None:
        # Tracing takes a while, and measuring longer.
        check_output(output, restart=restart)
    wholes = audited(target, audit, quick=quick, sampled=sampling == "adaptive")
    work = _what_to_measure(
        context_,
        layers=layers,
        space=space,
        expand=expand,
        options=plugged.space,
        audit=wholes,
        sampling=sampling,
        target_error=target_error,
        model=model,
        input_text=input_shape,
        sweep=sweep,
        step=step,
        target=target,
        batch=batch,
        seed=seed,
        hosts=hosts_beside(available_targets()[target], options, wholes),
        budget_s=protocol.time_budget_s,
        output=output or _default_output(target, batch or 1, model),
        console=console,
    )
    for curve in work.curves:
        if not sweep and groups > len(curve.layers):
            raise UsageError(f"{curve.name} has {len(curve.layers)} widths, too few for {groups} groups")
    from profiler._journal import journal_path, threads_of

    if work.batch is not None:
        options["batch"] = work.batch
    if work.dtype is not None:
        options.setdefault("dtype", work.dtype)
    wanted = work.all_layers
    spec = target_spec(target, wanted, work.networks, **options)
    batch = spec.options.get("batch", 1)
    output = output if output is not None else _default_output(target, batch, model)
    # What would be refused at the end is refused before anybody waits.
    check_output(output, restart=restart)
    settled = None
    began_with = None if restart else threads_of(output)
    if began_with is not None and threads is None:
        # An interrupted run goes on with the threads that it began with.
        options["threads"] = began_with
    elif takes_a_minute(protocol.time_budget_s) or _is_given(context_, "when_busy"):
        settled = _settle(options, target, when_busy, console)
    spec = target_spec(target, wanted, work.networks, **options)
    if target == "coreml" and sys.platform != "darwin":
        from profiler._cli._coreml import not_measured

        table = not_measured(wanted, work.curves, work.subjects, spec.options, output, restart=restart)
        _finish(table, output, console, groups=groups, alpha=alpha, json=json, verbose=verbose)
        return
    if self_test is None and is_first_profile(target, options, protocol.time_budget_s):
        console.print("The first profile on this machine; --no-self-test does without:")
        print_self_test(console, test_this_machine(target, options, seed=seed, console=console), json=False)
        console.print()
    also = f" and {len(work.networks)} whole network{'s' * (len(work.networks) != 1)}" if work.networks else ""
    some = "some of " if work.adaptive else ""
    if began_with is not None or (not restart and journal_path(output).exists()):
        console.print(f"Going on with the interrupted run of {output}; --restart discards it.")
    text = f"Measuring {some}{len(wanted)} layers{also} on {target}, batch {batch}. Leave the machine alone meanwhile."

    from profiler._profile import profile

    with ProgressBar(console, _standing, begin=text) as show:
        table = profile(
            work,
            target=spec,
            groups=groups,
            alpha=parse_alpha(alpha),
            precision=precision,
            time_budget_s=time_budget,
            quick=quick,
            seed=seed,
            output=output,
            restart=restart,
            new_reference=new_reference,
            progress=show,
        )
    if settled is not None:
        # What was said before the first visit is far up by now.
        console.print(f"\n{settled}", style="yellow")
    _finish(table, output, console, groups=groups, alpha=alpha, json=json, verbose=verbose)


def _settle(options: dict[str, Any], target: str, when_busy: str, console: Console) -> str | None:
    """Wait where other programs keep the CPUs busy, or have fewer threads, as ``when_busy`` says; return the latter."""
    from profiler._busy import settle_threads
    from profiler._machine import default_threads

    if target not in ("cpu", "onnx") or options.get("provider", "cpu").lower() not in ("cpu", "cpuexecutionprovider"):
        return None
    asked, usual = options.get("threads"), default_threads()
    threads = settle_threads(asked, usual, when_busy, lambda text: console.print(text, style="yellow"))
    if threads is None:
        return None
    options["threads"] = threads
    if asked is not None or threads >= usual:
        return None
    return (
        f"measured with {threads} of {usual} threads, as other programs kept the CPUs busy: a table with all of them, "
        f"which --threads {usual} makes, is not comparable with this one"
    )


def _default_output(target: str, batch: int, model: str | None) -> Path:
    if model is None:
        return Path(f"{target}-b{batch}.json")
    name = Path(model).stem if model.endswith(".onnx") else model.rpartition(":")[2]
    return Path(f"{name}-{target}-b{batch}.json")


def _finish(
    table: LatencyTable, output: Path, console: Console, *, groups: int, alpha: str, json: bool, verbose: bool
) -> None:
    """Choose widths, write the report, print the result; raise where the table is incomplete."""
    from predictors._show import parse_alpha
    from profiler._cli._networks import network_gains
    from profiler._cli._result import count_layers, print_as_json, print_result

    gains = network_gains(table)
    # A network's own sweeps have no stages to choose groups of widths for.
    selections = () if gains else _select(table, groups, parse_alpha(alpha), console)
    report = _write_report(table, selections, gains, output, console)
    if json:
        print_as_json(table, selections, gains, output, report)
    else:
        print_result(console, table, selections, gains, output, report, groups=groups, alpha=alpha, verbose=verbose)
    missing = [entry for entry in table.not_measured if entry.reason != NOT_CHOSEN]
    # Where a reason stands, a network was to be run as a whole and was not; but Core ML runs what export-coreml makes.
    unrun = [network for network in table.networks if network.end_to_end is None and network.reason is not None]
    if table.setting.target == "coreml":
        unrun = []
    sampling = table.sessions[-1].sampling if table.sessions else None
    missed = sampling is not None and sampling.ended != "met"
    if table.failures or missing or unrun or missed:
        from lut.errors import IncompleteError

        parts = [f"{count_layers(len(table.failures))} failed, {len(missing)} not measured"]
        if sampling is not None and missed:
            parts.append(f"the target error of {sampling.target_error:.1%} was not met")
        if unrun:
            also = f" and {len(unrun) - 1} more" if len(unrun) > 1 else ""
            parts.append(f"not measured end to end: {unrun[0].name}{also}: {unrun[0].reason}")
        raise IncompleteError(f"{'; '.join(parts)}; {output} holds the other {len(table)} layers and the reasons")


def _what_to_measure(
    context: typer.Context,
    *,
    layers: Path | None,
    space: str,
    expand: float | None,
    options: Mapping[str, Any],
    audit: int,
    sampling: str,
    target_error: float | None,
    model: str | None,
    input_text: str | None,
    sweep: bool,
    step: int | None,
    target: str,
    batch: int | None,
    seed: int,
    hosts: int,
    budget_s: float | None,
    output: Path,
    console: Console,
) -> Workload:
    from profiler._cli._workloads import open_space, swept, user_network
    from profiler._workload import Workload, of_space, sampled

    def given(name: str) -> bool:
        return getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"

    chosen = [f"--{name}" for name in ("model", "layers", "space") if given(name)]
    if len(chosen) > 1:
        raise UsageError(f"give one of {' and '.join(chosen)}: each says what to measure")
    for name, flag in (("input_shape", "--input"), ("sweep", "--sweep"), ("step", "--step")):
        if given(name) and model is None:
            raise UsageError(f"{flag} is about a --model, and none is given")
    if given("step") and not sweep:
        raise UsageError("--step is how fine a --sweep is")
    if given("expand") and not sweep and (model is not None or layers is not None):
        raise UsageError("--expand is about a --space or a --sweep: yours is measured as wide as it is")
    if given("audit") and audit and (model is not None or layers is not None):
        raise UsageError("--audit samples networks of a --space; a --model is audited by itself")
    check_word("--sampling", sampling, ("full", "adaptive"))
    if target_error is not None and sampling != "adaptive":
        raise UsageError("--target-error is where --sampling adaptive stops")
    if sampling == "adaptive":
        if model is not None or layers is not None:
            raise UsageError("--sampling adaptive chooses among the layers of a --space; yours are measured all")
        error = TARGET_ERROR if target_error is None else target_error
        opened = open_space(space, expand=expand, options=options)
        return sampled(opened, audit=audit, target_error=error, seed=seed)
    if model is not None:
        work = user_network(model, input_text, target=target, batch=batch, seed=seed, output=output, console=console)
        if not sweep:
            return work
        widest = 2.0 if expand is None else expand
        return swept(work, expand=widest, step=step, budget_s=budget_s or 0.0, console=console)
    if layers is not None:
        from profiler._layers_file import load_layers

        return Workload(load_layers(layers))
    return of_space(open_space(space, expand=expand, options=options), audit=audit, hosts=hosts, seed=seed)


def _standing(now: Progress) -> Standing:
    done = max(now.elapsed_s / max(now.elapsed_s + now.left_s, 1e-9), now.converged / max(now.layers, 1))
    text = f"{now.phase}: {now.converged} of {now.layers} layers converged, {now.visits:,} visits"
    return Standing(done, text, f"{duration(now.left_s)} left at most", now.elapsed_s)


def _select(table: LatencyTable, groups: int, alpha: Any, console: Console) -> tuple[WidthSelection, ...]:
    from lut import TableError
    from predictors import hardware_aware_widths, measured_curves

    if not table.curves or not len(table):
        return ()
    selections = []
    for curve in measured_curves(table):
        try:
            selections.append(hardware_aware_widths(curve, groups=groups, alpha=alpha))
        except (TableError, UsageError) as error:
            console.print(f"no widths chosen: {error}", style="yellow")
    return tuple(selections)


def _write_report(
    table: LatencyTable,
    selections: tuple[WidthSelection, ...],
    gains: tuple[WidthGain, ...],
    output: Path,
    console: Console,
) -> Path | None:
    from lut._files import write_atomically
    from lut.errors import FileAccessError
    from profiler._report import report_html, report_path

    path = report_path(output)
    try:
        write_atomically(path, report_html(table, selections, gains, title=output.name).encode())
    except FileAccessError as error:
        # The table is safe by now; a picture that could not be saved must not look like a lost measurement.
        console.print(f"no report: {error}", style="yellow")
        return None
    return path

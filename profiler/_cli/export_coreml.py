"""The command ``export-coreml``: models for timing on an iPhone or a Mac, made anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lut._console import duration, make_console, print_json, run_single_command, styled
from profiler._cli._progress import ProgressBar, Standing
from profiler._cli._workloads import ExpandOption, SetOption

if TYPE_CHECKING:
    from rich.console import Console

    from lut import ChannelCurve, Layer
    from profiler._coreml._export import ExportProgress, ExportResult
    from profiler._model import ModelSpec

__all__ = ["main"]

# Instead of a shape: the factory returns the input beside the module.
OWN_INPUT = "own"


def main() -> None:
    """Run the command."""
    run_single_command(export_coreml)


def export_coreml(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The bundle: a new or empty folder.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="FILE.py:FACTORY",
            help="A whole network: a function without arguments that returns a torch module, or (module, inputs); "
            "also package.module:factory. May be given several times.",
        ),
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="1x3x224x224",
            help="The networks' input, the batch in front: one for all, or one for each --model in their order; own is "
            "what the factory returns.",
        ),
    ] = None,
    layers: Annotated[
        Path | None, typer.Option("--layers", metavar="FILE", help="Layers from a JSON file, as in profile-device.")
    ] = None,
    space: Annotated[
        str | None, typer.Option("--space", metavar="NAME", help="All layers of a search space, such as resnet-cifar.")
    ] = None,
    expand: ExpandOption = None,
    settings: SetOption = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images per call of a layer. Default: 1.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="float16 or float32. Default: float16 for an mlprogram.")
    ] = None,
    deployment_target: Annotated[
        str | None, typer.Option("--deployment-target", help="Oldest system: iOS15 to iOS18. Default: iOS16.")
    ] = None,
    model_format: Annotated[
        str, typer.Option("--format", help="mlprogram (.mlpackage), or neuralnetwork (.mlmodel) for iOS 13 and 14.")
    ] = "mlprogram",
    context: Annotated[
        str,
        typer.Option(
            "--context",
            help="network: a layer costs what one more copy adds to a program; isolated: its program alone, with Core "
            "ML's overhead.",
        ),
    ] = "network",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the weights.")] = 0,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Converting processes. Default: one a CPU, 4 at most.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an interrupted export, or replace a finished bundle.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; progress goes to standard error.")
    ] = False,
) -> None:
    """Convert networks and layers to Core ML, into a bundle to be timed on an iPhone or a Mac.

    Needs no Apple hardware. The bundle holds the models, a manifest with their hashes, and the Swift runner that times
    them; profile-device --target coreml --import turns the runner's timings into a lookup table. If the export is
    interrupted, the same command goes on from there.

    Example: export-coreml --space resnet-cifar --output cifar-bundle
    """
    from lut import UsageError
    from profiler._coreml._options import make_options

    models = _models(model, input_shape, seed)
    wanted, curves = _layers(layers, space, expand, settings)
    if not models and not wanted:
        raise UsageError(
            "say what to export: --model FILE.py:FACTORY --input 1x3x224x224, --layers FILE or --space NAME"
        )
    first = next((spec.shapes[0][0] for spec in models if spec.shapes), None)
    if batch is None:
        batch = first if first is not None and not wanted else 1
    if wanted and first is not None and first != batch:
        raise UsageError(f"--input has batch {first} and the layers {batch}; give --batch {first}")
    options = make_options(
        batch=batch,
        precision=precision,
        model_format=model_format,
        deployment_target=deployment_target,
        context=context,
        seed=seed,
    )
    console = make_console(stderr=json)
    console.print(f"Exporting {_what(len(wanted), len(models))} for Core ML into {output}.")

    from profiler._coreml._export import export_bundle

    with ProgressBar(console, _standing) as show:
        result = export_bundle(
            output,
            options=options,
            layers=wanted,
            curves=curves,
            models=models,
            restart=restart,
            workers=jobs,
            progress=show,
        )
    if json:
        _print_json(result)
    else:
        _print_result(console, result)
    failures = result.manifest.failures
    if failures:
        from lut.errors import IncompleteError

        if not result.manifest.programs:
            raise IncompleteError(f"nothing could be converted; the manifest in {output} holds the reasons")
        raise IncompleteError(
            f"{len(failures)} of {len(wanted) + len(models)} could not be converted; {output} holds the others, and "
            "its manifest the reasons"
        )


def _models(model: list[str] | None, inputs: list[str] | None, seed: int) -> tuple[ModelSpec, ...]:
    """Return the models, each with its input: the one that is given, or the one at its place."""
    from lut import UsageError
    from profiler._model import parse_model

    models, inputs = model or [], inputs or []
    if inputs and not models:
        raise UsageError("--input is the input of a --model, and none is given")
    if len(inputs) > 1 and len(inputs) != len(models):
        raise UsageError(
            f"{len(inputs)} times --input for {len(models)} --model: give one for all, or one for each in the order of "
            f"the models ({OWN_INPUT}: the input that the factory returns; several inputs of one model: with commas)"
        )
    texts = inputs * len(models) if len(inputs) == 1 else inputs or [OWN_INPUT] * len(models)
    found = tuple(
        dict.fromkeys(
            parse_model(place, None if text.strip() == OWN_INPUT else text, seed)
            for place, text in zip(models, texts, strict=True)
        )
    )
    batches = {spec.shapes[0][0]: spec for spec in found if spec.shapes}
    if len(batches) > 1:
        named = ", ".join(f"{batch} ({spec})" for batch, spec in batches.items())
        raise UsageError(
            f"--input has the batches {named}, and a bundle is of one: export each batch to its own --output"
        )
    return found


def _layers(
    layers: Path | None, space: str | None, expand: float | None, settings: list[str] | None
) -> tuple[tuple[Layer, ...], tuple[ChannelCurve, ...]]:
    from lut import UsageError

    if layers is not None and space is not None:
        raise UsageError("give --layers or --space, not both")
    if layers is not None:
        from profiler._layers_file import load_layers

        return load_layers(layers), ()
    if space is None:
        return (), ()
    from profiler._cli._workloads import open_space, plug_in_options

    options = plug_in_options(settings, space=space, target=None).space
    found = open_space(space, expand=expand, options=options)
    return found.layers(), found.curves()


def _what(layers: int, models: int) -> str:
    parts = [f"{layers} layer{'s' * (layers != 1)}"] * bool(layers)
    parts += [f"{models} network{'s' * (models != 1)}"] * bool(models)
    return " and ".join(parts)


def _standing(now: ExportProgress) -> Standing:
    left = f"{duration(now.left_s)} left" if now.left_s is not None else ""
    text = f"{now.done:,} of {now.total:,} programs" + (f", {now.failed} failed" if now.failed else "")
    return Standing(now.done / now.total, text, left, now.elapsed_s)


def _print_result(console: Console, result: ExportResult) -> None:
    manifest = result.manifest
    options = manifest.options
    layers = len(manifest.layers)
    console.print()
    console.print(
        styled(
            (_what(layers, len(manifest.networks)) or "nothing", "bold"),
            f" in {len(manifest.programs):,} programs, {result.bytes / 1e6:.1f} MB: {options.format}, {options.dtype}, "
            f"{options.deployment_target}, batch {options.batch}, "
            f"{'in context' if options.context == 'network' else 'isolated'}",
        )
    )
    kept = f" ({result.kept} were there already)" if result.kept else ""
    each = f", {result.elapsed_s / layers:.2f} s a layer" if layers and not result.kept else ""
    console.print(f"converted in {result.elapsed_s:.0f} s{each}, {result.workers} processes{kept}")
    for failure in manifest.failures[:10]:
        console.print(f"failed: {failure.name}: {failure.message}", style="red")
    if len(manifest.failures) > 10:
        console.print(f"… and {len(manifest.failures) - 10} more failures, in the manifest", style="red")
    paths = {program.id: program.path for program in manifest.programs}
    for network in manifest.networks:
        console.print(f"network {network.name}: {paths[network.program]}")
    console.print(f"bundle  {result.folder} ({manifest.bundle})")
    if manifest.programs:
        console.print(f"next    time it on the device: {result.folder / 'runner' / 'README.md'}")


def _print_json(result: ExportResult) -> None:
    manifest = result.manifest
    paths = {program.id: program.path for program in manifest.programs}
    value = {
        "bundle": manifest.bundle,
        "folder": str(result.folder),
        "options": manifest.options,
        "layers": len(manifest.layers),
        "networks": len(manifest.networks),
        "programs": len(manifest.programs),
        "network_programs": {network.name: paths[network.program] for network in manifest.networks},
        "failures": [{"name": f.name, "message": f.message} for f in manifest.failures],
        "bytes": result.bytes,
        "elapsed_s": round(result.elapsed_s, 2),
        "kept": result.kept,
        "workers": result.workers,
        "software": manifest.software,
    }
    print_json(value)

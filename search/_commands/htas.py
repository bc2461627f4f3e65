"""``search-architecture htas``: a network's widths and depths for a device and a budget in milliseconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lut._console import format_ms

if TYPE_CHECKING:
    from rich.console import Console

    from lut import LatencyTable
    from predictors import LatencyPredictor, WidthSelection
    from search._cost import NetworkCost
    from search._resnet_cifar import ResNetCifar
    from search._run import RunPlan, RunResult

__all__ = ["htas"]

WHAT = "What is searched"
HOW = "How it is searched"
DATA = "Data and training"


def htas(
    predictor: Annotated[
        Path | None, typer.Option("--predictor", metavar="FOLDER", help="A predictor, as fit-predictor writes it.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FILE",
            help="A table, as profile-device writes it: fits a predictor on the way, and says how sure the "
            "hardware-aware widths are.",
        ),
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option("--budget-ms", help="The network may take so many ms. Default: no limit.")
    ] = None,
    depth: Annotated[
        int,
        typer.Option(
            "--depth", help="Of the base network: 20, 32, 56, 110, or 164 (bottlenecks).", rich_help_panel=WHAT
        ),
    ] = 20,
    widths: Annotated[
        str,
        typer.Option(
            "--widths",
            metavar="hardware|uniform|ratios",
            help="hardware: those that the device likes (HTAS); uniform: a plain grid of as many; ratios: TAS's, "
            "0.3 … 1.0 of the base network's.",
            rich_help_panel=WHAT,
        ),
    ] = "hardware",
    expand: Annotated[
        float,
        typer.Option(
            "--expand", help="Widest layer, in multiples of the base network's (HTAS: e).", rich_help_panel=WHAT
        ),
    ] = 2.0,
    groups: Annotated[
        int,
        typer.Option("--groups", min=1, help="Widths to choose from in each stage (HTAS: g).", rich_help_panel=WHAT),
    ] = 8,
    alpha: Annotated[
        str,
        typer.Option(
            "--alpha",
            metavar="NUMBER|auto",
            help="Exponent of the law that hardware-aware widths are scored by (HTAS: 1).",
            rich_help_panel=WHAT,
        ),
    ] = "1",
    target: Annotated[
        str | None, typer.Option("--target", help="Insist on a predictor of this target.", rich_help_panel=WHAT)
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Insist on a predictor of this batch.", rich_help_panel=WHAT)
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            metavar="gradient|evolution",
            help="gradient: probabilities of all options, learnt (HTAS, TAS); evolution: networks bred (pymoo).",
            rich_help_panel=HOW,
        ),
    ] = "gradient",
    cost: Annotated[
        str,
        typer.Option(
            "--cost",
            metavar="law|table|madds",
            help="What the loss charges: the mean width's latency by the fitted law (HTAS eq. 8), the expected latency "
            "itself, or multiply-adds, to compare.",
            rich_help_panel=HOW,
        ),
    ] = "law",
    penalty: Annotated[
        str | None,
        typer.Option(
            "--penalty",
            metavar="linear|band",
            help="linear: weight · cost (HTAS eq. 6); band: TAS's, pulls towards the budget from both sides. Default: "
            "band with a budget, else linear.",
            rich_help_panel=HOW,
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option("--weight", help="λ. Default: TAS's 2, brought to scale.", rich_help_panel=HOW),
    ] = None,
    bound: Annotated[
        str,
        typer.Option(
            "--bound",
            metavar="upper|predicted",
            help="What the budget is for: the upper end of the prediction's interval, or the prediction.",
            rich_help_panel=HOW,
        ),
    ] = "upper",
    level: Annotated[
        float,
        typer.Option("--level", help="The interval holds the latency with this probability.", rich_help_panel=HOW),
    ] = 0.9,
    search_epochs: Annotated[
        int | None,
        typer.Option("--search-epochs", min=1, help="Default: TAS's 600; digits 24.", rich_help_panel=HOW),
    ] = None,
    population: Annotated[int, typer.Option("--population", help="Of an evolution.", rich_help_panel=HOW)] = 24,
    generations: Annotated[int, typer.Option("--generations", help="Of an evolution.", rich_help_panel=HOW)] = 10,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, such as tau_schedule=cosine, samples=2, logits_lr=0.01, selection=best, "
            "search.lr=0.1, training.label_smoothing=0.1; may be given several times. docs/htas.md lists them.",
            rich_help_panel=HOW,
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="digits|cifar10:PATH|cifar100:PATH|images:PATH",
            help="Images of 32×32: scikit-learn's digits, a CIFAR archive, or a folder or tar of class folders.",
            rich_help_panel=DATA,
        ),
    ] = "digits",
    train_images: Annotated[
        int | None, typer.Option("--train-images", min=1, help="Use so many of them only.", rich_help_panel=DATA)
    ] = None,
    test_images: Annotated[
        int | None, typer.Option("--test-images", min=1, help="Likewise.", rich_help_panel=DATA)
    ] = None,
    train_epochs: Annotated[
        int | None,
        typer.Option(
            "--train-epochs",
            min=1,
            help="Of base network and winner. Default: TAS's 300; digits 12.",
            rich_help_panel=DATA,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=2, help="Images a training step. Default: 256; digits 32.", rich_help_panel=DATA
        ),
    ] = None,
    distil: Annotated[
        bool,
        typer.Option("--distil/--no-distil", help="Have the base network teach the one found.", rich_help_panel=DATA),
    ] = True,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="Where to train: cpu, cuda … Default: cuda where there is one.", rich_help_panel=DATA
        ),
    ] = None,
    measure_seconds: Annotated[
        float,
        typer.Option("--measure-seconds", min=0.0, help="For measuring winner and base in the end; 0: do not measure."),
    ] = 30.0,
    then: Annotated[
        list[str] | None,
        typer.Option(
            "--then",
            metavar="onnx|export-coreml",
            help="Hand the network found on: as an ONNX file; or as a Core ML package, with a bundle of it and the "
            "base network to be timed on a phone. May be given twice.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything goes.")] = Path(
        "search"
    ),
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an interrupted or finished run in that folder.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all randomness.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search a ResNet's widths and depths for a device, train the network found, and measure it.

    The search asks a predictor for latencies, so that the result is fast on that device, and not just small. In the end
    the network found and the base network are measured in turns on this machine. If the run is interrupted, the same
    command goes on from there.

    Example: search-architecture htas --predictor predictor/ --depth 32 --budget-ms 24 --data cifar10:PATH -o run/
    """
    from lut import UsageError
    from profiler._cli._progress import make_console
    from search._data import load_data, subset
    from search._run import run_search

    if (predictor is None) == (table is None):
        raise UsageError("give either --predictor FOLDER (see fit-predictor) or --table FILE (see profile-device)")
    wanted = _checked_then(then)
    console = make_console(stderr=json)
    loaded, measured = _predictor(
        predictor, table, target=target, batch=batch, output=output, seed=seed, console=console
    )
    images = load_data(data)
    if train_images is not None or test_images is not None:
        images = subset(images, train=train_images, test=test_images, seed=seed)
    classes = len(images.classes)
    space, selections = _space(
        loaded,
        measured,
        depth=depth,
        widths=widths,
        expand=expand,
        groups=groups,
        alpha=alpha,
        classes=classes,
        seed=seed,
    )
    costs = _cost(space, loaded, kind=cost, bound=bound, level=level, console=console)
    plan = _plan(
        costs,
        images,
        budget_ms=budget_ms,
        widths=widths,
        groups=groups,
        alpha=alpha,
        bound=bound,
        strategy=strategy,
        penalty=penalty,
        weight=weight,
        search_epochs=search_epochs,
        train_epochs=train_epochs,
        batch_size=batch_size,
        population=population,
        generations=generations,
        distil=distil,
        settings=set_ or [],
        seed=seed,
    )
    _print_plan(console, plan, costs, classes)
    began = time.monotonic()
    with _Phases(console) as phases:
        result = run_search(
            plan,
            costs,
            images,
            output,
            selections=selections,
            device=_device(device),
            measure_s=measure_seconds,
            restart=restart,
            tell=phases.reporter(),
        )
        exported = _hand_on(wanted, result, loaded, output, phases)
    _finish(console, plan, result, loaded, output, exported, seconds=time.monotonic() - began, json=json)


def _checked_then(then: list[str] | None) -> tuple[str, ...]:
    from lut import UsageError

    wanted = tuple(dict.fromkeys(then or ()))
    for word in wanted:
        if word not in ("onnx", "export-coreml"):
            raise UsageError(f"--then is onnx or export-coreml, got {word!r}")
    return wanted


def _device(device: str | None) -> str:
    import torch

    from lut import UsageError

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return device


def _predictor(
    folder: Path | None,
    file: Path | None,
    *,
    target: str | None,
    batch: int | None,
    output: Path,
    seed: int,
    console: Console,
) -> tuple[LatencyPredictor, LatencyTable | None]:
    """Return the predictor, and the table it was fitted to on the way."""
    from lut import LatencyTable, UsageError
    from predictors import LatencyPredictor

    table = None
    if file is not None:
        table = LatencyTable.load(file)
        setting, what = table.setting, str(file)
    else:
        assert folder is not None
        loaded = LatencyPredictor.load(folder)
        setting, what = loaded.setting, str(folder)
    if target is not None and setting.target != target:
        raise UsageError(f"{what} is of target {setting.target}, and --target asks for {target}")
    if batch is not None and setting.batch != batch:
        raise UsageError(
            f"{what} is of batch {setting.batch}, and --batch asks for {batch}; measure it: profile-device --target "
            f"{setting.target} --batch {batch}"
        )
    if table is None:
        return loaded, None
    assert file is not None
    with console.status("Fitting a predictor …"):
        loaded = LatencyPredictor.fit(table, sources=[file.name], seed=seed)
    output.mkdir(parents=True, exist_ok=True)
    loaded.save(output / "predictor")
    return loaded, table


def _space(
    predictor: LatencyPredictor,
    table: LatencyTable | None,
    *,
    depth: int,
    widths: str,
    expand: float,
    groups: int,
    alpha: str,
    classes: int,
    seed: int,
) -> tuple[ResNetCifar, tuple[WidthSelection, ...]]:
    """Return the space with its width set, and how that was chosen."""
    from lut import UsageError
    from predictors import measured_curves
    from predictors._show import parse_alpha
    from search._resnet_cifar import ResNetCifar
    from search._width_sets import hardware_aware_sets, predicted_curves, ratio_widths, selected_widths, uniform_widths

    space = ResNetCifar(expand=expand, depth=depth, classes=classes)
    selections: tuple[WidthSelection, ...] = ()
    if widths == "hardware":
        curves = predicted_curves(space, predictor) if table is None else measured_curves(table)
        selections = hardware_aware_sets(space, curves, groups=groups, alpha=parse_alpha(alpha), seed=seed)
        options = selected_widths(selections)
    elif widths == "uniform":
        options = uniform_widths(space, groups)
    elif widths == "ratios":
        options = ratio_widths(space)
    else:
        raise UsageError(f"--widths is hardware, uniform or ratios, got {widths!r}")
    return ResNetCifar(expand=expand, depth=depth, widths=options, depths="tas", classes=classes), selections


def _cost(
    space: ResNetCifar, predictor: LatencyPredictor, *, kind: str, bound: str, level: float, console: Console
) -> NetworkCost:
    from lut import UsageError
    from search._cost import make_cost, unlike_layers

    if not 0 < level < 1:
        raise UsageError(f"--level lies between 0 and 1, such as 0.9, got {level}")
    cost = make_cost(space, predictor, kind=kind, bound=bound, level=level)  # type: ignore[arg-type]
    for line in unlike_layers(cost):
        console.print(f"warning: {line}", style="yellow", markup=False)
    return cost


def _plan(
    cost: NetworkCost,
    data: Any,
    *,
    budget_ms: float | None,
    widths: str,
    groups: int,
    alpha: str,
    bound: str,
    strategy: str,
    penalty: str | None,
    weight: float | None,
    search_epochs: int | None,
    train_epochs: int | None,
    batch_size: int | None,
    population: int,
    generations: int,
    distil: bool,
    settings: list[str],
    seed: int,
) -> RunPlan:
    from lut import UsageError
    from search._evolution import EvolutionSettings
    from search._presets import preset, with_settings
    from search._run import RunPlan

    if strategy not in ("gradient", "evolution"):
        raise UsageError(f"--strategy is gradient or evolution, got {strategy!r}")
    penalty = penalty if penalty is not None else ("linear" if budget_ms is None else "band")
    search, recipe = preset(
        data,
        penalty=penalty,
        weight=weight,
        search_epochs=search_epochs,
        train_epochs=train_epochs,
        batch_size=batch_size,
    )
    search, recipe = with_settings(search, recipe, settings)
    return RunPlan(
        depth=cost.space.depth,
        expand=cost.space.expand,
        groups=groups,
        alpha=alpha,
        widths=widths,  # type: ignore[arg-type]
        options=cost.space.widths,
        budget_ms=budget_ms,
        cost=cost.kind,
        bound=bound,  # type: ignore[arg-type]
        level=cost.level,
        strategy=strategy,  # type: ignore[arg-type]
        search=search,
        evolution=EvolutionSettings(population, generations),
        recipe=recipe,
        distil=distil,
        data=data.name,
        data_digest=data.digest,
        tables=tuple(table.sha256 for table in cost.predictor.tables),
        seed=seed,
    )


def _print_plan(console: Console, plan: RunPlan, cost: NetworkCost, classes: int) -> None:
    from rich.markup import escape

    predictor = cost.predictor
    console.print(f"[bold]{escape(predictor.device.model)}[/], {escape(str(predictor.setting))}")
    base = cost.space.base_network()
    found = predictor.predict(base, level=plan.level)
    bound = f", up to {format_ms(found.high_ms)} at {found.level:.0%}" if found.high_ms is not None else ""
    console.print(
        f"base network {escape(base.name)}: {format_ms(found.ms)} ms{bound}, {base.madds / 1e6:.1f} M multiply-adds"
    )
    kinds = {"hardware": "hardware-aware widths", "uniform": "a uniform grid of widths", "ratios": "TAS's ratios"}
    console.print(f"searching {kinds[plan.widths]}:")
    for group, options in zip(cost.space.groups, plan.options, strict=True):
        console.print(f"  {group.name}, {group.size}×{group.size}: {', '.join(map(str, options))}")
    budget = "without a budget" if plan.budget_ms is None else f"within {plan.budget_ms:g} ms"
    s = plan.search
    console.print(
        f"{plan.strategy}, {budget}, {s.recipe.total_epochs} epochs on {escape(plan.data)} ({classes} classes); then "
        f"{plan.recipe.total_epochs} epochs of training"
    )


class _Phases:
    """One progress bar after another."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Any = None
        self._show: Any = None
        self._title = ""
        self._began = time.monotonic()

    def __enter__(self) -> _Phases:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def phase(self, title: str) -> None:
        from profiler._cli._progress import ProgressBar

        self._close()
        self._title, self._began = title, time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"{title} …", markup=False)
        self._bar = ProgressBar(self._console, lambda standing: standing)
        self._show = self._bar.__enter__()

    def reporter(self) -> Any:
        from search._run import Reporter

        return Reporter(
            search=self._search, bred=self._bred, train=self._train, measure=self._measure, phase=self.phase
        )

    def _say(self, share: float, text: str, left_s: float | None) -> None:
        from profiler._cli._progress import Standing

        elapsed = time.monotonic() - self._began
        left = "" if left_s is None else f"{_duration(left_s)} left"
        self._show(Standing(share, f"{self._title}: {text}", left, elapsed))

    def _search(self, now: Any) -> None:
        text = f"epoch {now.epoch} of {now.epochs}"
        if now.bound_ms is not None:
            text += f", most probable network {now.accuracy:.1%} right, up to {format_ms(now.bound_ms)} ms"
        self._say(now.share, text, now.left_s)

    def _bred(self, generation: int, generations: int, accuracy: float) -> None:
        elapsed = time.monotonic() - self._began
        left = elapsed / generation * (generations - generation)
        self._say(
            generation / generations, f"generation {generation} of {generations}, best {accuracy:.1%} right", left
        )

    def _train(self, _: str, now: Any) -> None:
        text = f"epoch {now.epoch} of {now.epochs}"
        if now.test_accuracy is not None:
            text += f", {now.test_accuracy:.1%} of the test images right"
        self._say(now.share, text, now.left_s)

    def _measure(self, now: Any) -> None:
        share = now.elapsed_s / max(now.elapsed_s + now.left_s, 1e-9)
        self._say(share, f"{now.visits} visits", now.left_s)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"


def _hand_on(
    wanted: tuple[str, ...], result: RunResult, predictor: LatencyPredictor, output: Path, phases: _Phases
) -> dict[str, str]:
    """Export the winner as asked; returns what was written, by kind."""
    from profiler._export import export_bundle, export_trained
    from search._trainable import load_weights

    written = {}
    network, batch = result.search.network, predictor.setting.batch
    for word in wanted:
        phases.phase(f"Exporting ({word})")
        module = load_weights(output / "weights.safetensors", network)
        if word == "onnx":
            written["onnx"] = str(export_trained(network, module, to="onnx", path=output / "network.onnx", batch=batch))
        else:
            # A phone takes one image at a time, whatever the search's device takes.
            batch = batch if predictor.setting.target == "coreml" else 1
            path = output / "network.mlpackage"
            written["coreml"] = str(export_trained(network, module, to="coreml", path=path, batch=batch))
            bundle = output / "bundle"
            export_bundle([network, result.base], bundle, batch=batch, restart=True)
            written["bundle"] = str(bundle)
    return written


def _finish(
    console: Console,
    plan: RunPlan,
    result: RunResult,
    predictor: LatencyPredictor,
    output: Path,
    exported: dict[str, str],
    *,
    seconds: float,
    json: bool,
) -> None:
    import msgspec

    from lut.errors import IncompleteError
    from search._run import FILES, NOT_ASKED, summary

    if json:
        content = {**summary(plan, result, predictor), "output": str(output), "exported": exported}
        typer.echo(msgspec.json.format(msgspec.json.encode(content), indent=2).decode())
    else:
        _print_result(console, result)
        console.print(f"\n{_duration(seconds)} in all")
        for name, what in FILES.items():
            if name in ("network.json", "weights.safetensors", "report.html"):
                console.print(f"{output / name}  {what}", markup=False)
        for kind, path in exported.items():
            console.print(f"{path}  {kind}", markup=False)
    if result.measured is None and result.not_measured != NOT_ASKED:
        raise IncompleteError(f"the network found could not be measured: {result.not_measured}")


def _print_result(console: Console, result: RunResult) -> None:
    from rich.table import Table

    found, measured = result.search.prediction, result.measured
    grid = Table(box=None, pad_edge=False)
    grid.add_column("")
    for name in ("predicted ms", "measured ms", "accuracy", "M madds", "M params", "layers"):
        grid.add_column(name, justify="right")
    bound = "" if found.high_ms is None else f" (≤ {format_ms(found.high_ms)})"
    rows: list[tuple[str, str, float | None, Any, Any]] = [
        (
            "found",
            f"{format_ms(found.ms)}{bound}",
            measured and measured.winner_ms,
            result.trained,
            result.search.network,
        ),
        (
            result.base.name,
            format_ms(result.base_predicted_ms),
            measured and measured.base_ms,
            result.base_trained,
            result.base,
        ),
    ]
    for name, predicted, ms, trained, network in rows:
        grid.add_row(
            name,
            predicted,
            "–" if ms is None else format_ms(ms),
            f"{trained.test_accuracy:.2%}",
            f"{network.madds / 1e6:.1f}",
            f"{network.parameters / 1e6:.3f}",
            str(len(network.layers)),
        )
    console.print()
    console.print(grid)
    if measured is not None:
        up = measured.speed_up
        console.print(
            f"\nthe base network takes [bold]{up.value:.2f}[/] times as long ({up.low:.2f} … {up.high:.2f} at 95 %); "
            f"the prediction was {found.ms / measured.winner_ms - 1:+.1%} off"
        )
        for warning in measured.warnings:
            console.print(f"warning: {warning}", style="yellow", markup=False)
    for text in found.outside:
        console.print(f"warning: unlike the networks that were measured whole: {text}", style="yellow", markup=False)

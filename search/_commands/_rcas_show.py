"""What RCAS prints: what it is going to do, where it stands, and what came of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, final

from lut._console import format_ms
from search._commands._phases import Phases

if TYPE_CHECKING:
    from rich.console import Console

    from search._rcas import RcasStep
    from search._rcas_run import RcasPlan, RcasReporter, RcasRun
    from search._resources import NetworkResources

__all__ = ["RcasPhases", "print_rcas", "print_rcas_plan", "show_value"]


def show_value(value: float) -> str:
    """Return a set function's value: a share as a percentage, anything else as it is."""
    return f"{value:.2%}" if 0 <= value <= 1 else f"{value:.4g}"


@final
class RcasPhases:
    """A bar for each kind of work, and for the search how much of the budgets its paths have used."""

    def __init__(self, console: Console, plan: RcasPlan, resources: NetworkResources) -> None:
        from search._rcas import rules_for

        self.bars = Phases(console)
        self._plan, self._resources = plan, resources
        self._rules = rules_for(plan.search, plan.budgets)
        self._share, self._text = 0.0, ""
        self._searching_since: float | None = None

    def reporter(self) -> RcasReporter:
        """Return whom a run tells where it stands."""
        from search._rcas_run import RcasReporter

        told = self.bars.reporter()
        return RcasReporter(
            evaluated=self._evaluated, step=self._step, train=told.train, measure=told.measure, phase=told.phase
        )

    def __enter__(self) -> RcasPhases:
        self.bars.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self.bars.__exit__(*raised)

    def _step(self, rule: str, step: RcasStep) -> None:
        first = self._resources.of((0,) * len(step.vector))
        now = self._resources.of(step.vector)
        used = [
            (now.held(name) - first.held(name)) / max(limit - first.held(name), 1e-9)
            for name, limit in self._plan.budgets.given()
        ]
        done = self._rules.index(rule) if rule in self._rules else len(self._rules)
        self._share = min((done + max(0.0, min(1.0, max(used)))) / len(self._rules), 1.0)
        blocks = sum(index > 0 for index in step.vector)
        self._text = f"{rule}, {blocks} blocks, {show_value(step.value)}"

    def _evaluated(self, now: Any) -> None:
        if self._searching_since is None:
            self._searching_since = time.monotonic()
        new, total = now.done - now.cached, now.wanted - now.cached
        if not total:
            return
        text = f"{self._text}; " if self._text else ""
        # While the first blocks are evaluated, that batch is all that can be told; then what the budgets have left.
        left = now.left_s
        share = self._share
        if share > 0:
            elapsed = time.monotonic() - self._searching_since
            left = elapsed / share * (1 - share)
        else:
            share = 0.5 * new / total / len(self._rules)
        self.bars.say(share, f"{text}evaluating {new} of {total}", left)


def print_rcas_plan(console: Console, plan: RcasPlan, resources: NetworkResources) -> None:
    """Print what is searched, and how."""
    from rich.markup import escape

    from search._rcas import rules_for
    from search._rcas_run import base_of

    predictor = resources.predictor
    if predictor is not None:
        console.print(f"[bold]{escape(predictor.device.model)}[/], {escape(str(predictor.setting))}")
    first = resources.network((0,) * len(resources.space.choices))
    for name, network in (("begins with", first), ("baseline", base_of(resources.space, resources))):
        ms = "" if predictor is None else f"{format_ms(predictor.latency_ms(network))} ms, "
        console.print(
            f"{name} {escape(network.name)}: {ms}{resources.madds(network) / 1e6:.1f} M multiply-adds, "
            f"{network.parameters / 1e6:.3f} M parameters"
        )
    console.print(f"within {_budgets(plan)}, by the rules {', '.join(rules_for(plan.search, plan.budgets))}")
    text = f"accuracy: {plan.accuracy}"
    if plan.early_stopped is not None:
        text += f", {plan.early_stopped.total_epochs} epochs on {plan.data}, {plan.held_out} images a class held out"
    if plan.search.at_once > 1:
        text += f", {plan.search.at_once} at a time"
    console.print(text, markup=False)
    if plan.recipe is not None:
        console.print(f"then {plan.recipe.total_epochs} epochs of training on {plan.data}", markup=False)


def _budgets(plan: RcasPlan) -> str:
    words = {"ms": "ms", "parameters": "M parameters", "madds": "M multiply-adds"}
    return ", ".join(
        f"{limit if name == 'ms' else limit / 1e6:.4g} {words[name]}" for name, limit in plan.budgets.given()
    )


def print_rcas(console: Console, result: RcasRun, resources: NetworkResources) -> None:
    """Print the network found beside the baseline, and how the search went."""
    from rich.markup import escape
    from rich.table import Table

    found, measured = result.search, result.measured
    prediction = found.prediction
    grid = Table(box=None, pad_edge=False)
    grid.add_column("")
    for name in ("predicted ms", "measured ms", "accuracy", "M madds", "M params", "blocks"):
        grid.add_column(name, justify="right")
    upper = "" if prediction is None or prediction.high_ms is None else f" (≤ {format_ms(prediction.high_ms)})"
    rows: list[tuple[str, str, float | None, Any, Any]] = [
        (
            "found",
            "–" if prediction is None else f"{format_ms(prediction.ms)}{upper}",
            measured and measured.winner_ms,
            result.trained,
            found.network,
        ),
        (
            result.base.name,
            "–" if result.base_predicted_ms is None else format_ms(result.base_predicted_ms),
            measured and measured.base_ms,
            result.base_trained,
            result.base,
        ),
    ]
    for name, predicted, ms, trained, network in rows:
        grid.add_row(
            escape(name),
            predicted,
            "–" if ms is None else format_ms(ms),
            "–" if trained is None else f"{trained.test_accuracy:.2%}",
            f"{resources.madds(network) / 1e6:.1f}",
            f"{network.parameters / 1e6:.3f}",
            str(len({item.name.rpartition(".")[0] for item in network.layers if "." in item.name})),
        )
    console.print()
    console.print(grid)
    best = next(path for path in found.paths if path.rule == found.rule)
    added = ", ".join(f"{option}@{name}" for step in best.steps for name, option in step.changed.items())
    console.print(f"\n{found.rule}: {show_value(found.value)} when it was judged; added {escape(added) or 'nothing'}")
    for path in found.paths:
        if path.rule != found.rule:
            console.print(f"{path.rule}: {show_value(path.last.value)}")
    console.print(
        f"{found.evaluated} networks evaluated; without laziness {found.plain}. Of {found.revisited} gains that were "
        f"taken anew {found.exceeded} had risen"
        + (f", by {show_value(found.excess)} at most" if found.exceeded else "")
    )
    if measured is not None and prediction is not None:
        up = measured.speed_up
        console.print(
            f"{escape(result.base.name)} takes [bold]{up.value:.2f}[/] times as long ({up.low:.2f} … {up.high:.2f} at "
            f"95 %); the prediction was {prediction.ms / measured.winner_ms - 1:+.1%} off"
        )
        for warning in measured.warnings:
            console.print(f"warning: {warning}", style="yellow", markup=False)
    for text in () if prediction is None else prediction.outside:
        console.print(f"warning: unlike the networks that were measured whole: {text}", style="yellow", markup=False)

"""What RCAS prints: what it is going to do, where it stands, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from lut._console import duration, format_ms, styled
from lut._grid import Column, Grid, print_grid
from search._commands._phases import Phases
from search._time_left import TimeLeft, seconds_left

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from lut import Network
    from search._problem._resources import NetworkResources
    from search._training._train import Trained
    from search.rcas._run import RcasPlan, RcasReporter, RcasRun
    from search.rcas._search import RcasStep

__all__ = ["RcasPhases", "print_rcas", "print_rcas_plan", "show_value"]


def show_value(value: float) -> str:
    """Return a set function's value: a share as a percentage, anything else as it is."""
    return f"{value:.2%}" if 0 <= value <= 1 else f"{value:.4g}"


@final
class RcasPhases:
    """A bar for each kind of work, and for the search how much of the budgets its paths have used."""

    def __init__(
        self, console: Console, plan: RcasPlan, resources: NetworkResources, beat: Callable[[], None] = lambda: None
    ) -> None:
        from search.rcas._search import rules_for

        self.bars = Phases(console, beat)
        self._console = console
        self._plan, self._resources = plan, resources
        self._rules = rules_for(plan.search, plan.budgets)
        self._share, self._text = 0.0, ""
        # When the first block was chosen, and the share of the budgets that it took.
        self._first: tuple[float, float] | None = None
        self._round = TimeLeft()

    def reporter(self) -> RcasReporter:
        """Return whom a run tells where it stands."""
        from search.rcas._run import RcasReporter

        told = self.bars.reporter()
        return RcasReporter(
            evaluated=self._evaluated,
            step=self._step,
            train=told.train,
            measure=told.measure,
            phase=told.phase,
            warn=self._warn,
        )

    def _warn(self, text: str) -> None:
        self._console.print(f"warning: {text}", style="yellow")

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
        if blocks and self._first is None:
            self._first = (time.monotonic(), self._share)
        self._text = f"{rule}, {_counted(blocks, 'block')}, {show_value(step.value)}"

    def _evaluated(self, now: Any) -> None:
        new, total = now.done - now.cached, now.wanted - now.cached
        if not total:
            return
        text = f"{self._text}; " if self._text else ""
        # Every block is evaluated before the first is chosen, and few before each other one: only from there on do the
        # budgets tell how much is left.
        if self._first is None:
            self._say_first_round(new, total, now.left_s)
            return
        since, share = self._first
        left = seconds_left(time.monotonic() - since, self._share - share, 1 - share)
        self.bars.say(self._share, f"{text}{new} of {total} networks evaluated", left)

    def _say_first_round(self, new: int, total: int, left_s: float | None) -> None:
        """Show how far the first round is; what is left of it is not what is left of the search."""
        if not new:
            self._round = TimeLeft()
        smooth_s = self._round.update(left_s)
        left = "" if smooth_s is None or new == total else f", {duration(smooth_s)} left in it"
        share = 0.5 * new / total / len(self._rules)
        self.bars.say(share, f"first round, {new} of {total} networks evaluated{left}", None)


def print_rcas_plan(console: Console, plan: RcasPlan, resources: NetworkResources) -> None:
    """Print what is searched, and how."""
    from search._training._recipe import epochs_text
    from search.rcas._run import base_of
    from search.rcas._search import rules_for

    predictor = resources.predictor
    if predictor is not None:
        console.print(styled((predictor.device.model, "bold"), f", {predictor.setting}"))
    first = resources.network((0,) * len(resources.space.choices))
    base = base_of(resources.space, resources)
    begins = [(f"first network of {resources.space.name}:", first), (f"baseline {base.name}:", base)]
    for words, network in begins if base != first else begins[:1]:
        ms = "" if predictor is None else f"{format_ms(predictor.latency_ms(network))} ms, "
        console.print(
            f"{words} {ms}{resources.madds(network) / 1e6:.1f} M multiply-adds, "
            f"{network.parameters / 1e6:.3f} M parameters"
        )
    console.print(f"budget {_budgets(plan)}; rules {', '.join(rules_for(plan.search, plan.budgets))}")
    text = f"accuracy: {plan.accuracy}"
    if plan.early_stopped is not None:
        epochs = epochs_text(plan.early_stopped)
        text += f", {epochs} on {plan.data}, {_counted(plan.held_out or 0, 'image')} per class held out"
    if plan.search.at_once > 1:
        text += f", {plan.search.at_once} in parallel"
    console.print(text)
    if plan.recipe is not None:
        console.print(
            f"then the network found and the baseline are each trained on {plan.data} for {epochs_text(plan.recipe)}"
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _budgets(plan: RcasPlan) -> str:
    words = {"ms": "ms", "parameters": "M parameters", "madds": "M multiply-adds"}
    return ", ".join(
        f"{limit if name == 'ms' else limit / 1e6:.4g} {words[name]}" for name, limit in plan.budgets.given()
    )


def print_rcas(console: Console, result: RcasRun, resources: NetworkResources, report: Path) -> None:
    """Print the network found beside the baseline, and how the search went; the report has what does not fit."""
    console.print()
    print_grid(console, _compared(result, resources), elsewhere=str(report))
    console.print()
    _print_course(console, result)
    _print_latency(console, result)
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow")


def _compared(result: RcasRun, resources: NetworkResources) -> Grid:
    """Return a table of the network found and the baseline; columns of which nothing is known are left out."""
    prediction, measured = result.search.prediction, result.measured
    upper = "" if prediction is None or prediction.high_ms is None else f" (≤ {format_ms(prediction.high_ms)})"

    def ms(value: float | None) -> str:
        return "" if value is None else format_ms(value)

    def size(network: Network) -> tuple[str, str, str]:
        blocks = {item.name.rpartition(".")[0] for item in network.layers if "." in item.name}
        return f"{resources.madds(network) / 1e6:.1f}", f"{network.parameters / 1e6:.3f}", str(len(blocks))

    def accuracy(trained: Trained | None) -> str:
        return "" if trained is None else f"{trained.test_accuracy:.2%}"

    columns = {
        "": ("found", result.base.name),
        "predicted ms": ("" if prediction is None else ms(prediction.ms) + upper, ms(result.base_predicted_ms)),
        "measured ms": (ms(measured and measured.winner_ms), ms(measured and measured.base_ms)),
        "accuracy": (accuracy(result.trained), accuracy(result.base_trained)),
        **dict(
            zip(
                ("M madds", "M params", "blocks"),
                zip(size(result.search.network), size(result.base), strict=True),
                strict=True,
            )
        ),
    }
    known = {name: cells for name, cells in columns.items() if any(cells)}
    dropped = {"M madds": 2, "M params": 1, "blocks": 3}
    return Grid(
        tuple(Column(name, dropped.get(name, 0), left=not name) for name in known),
        tuple(zip(*known.values(), strict=True)),
    )


def _print_course(console: Console, result: RcasRun) -> None:
    """Print which rule found the network, what the others found, and what it took."""
    from search.rcas._search import EXCHANGE

    found = result.search
    greedy = [path for path in found.paths if path.rule != EXCHANGE]
    best = max(greedy, key=lambda path: path.last.value)
    added = ", ".join(f"{option}@{name}" for step in best.steps for name, option in step.changed.items())
    console.print(
        f"rule {best.rule}: {show_value(best.last.value)}, blocks added: {added or 'none (no block fits)'}",
    )
    for path in found.paths:
        if path.rule == EXCHANGE:
            # Its first network is the best that was evaluated, which need not be the end of a path.
            steps = [", ".join(f"{o or 'none'}@{name}" for name, o in step.changed.items()) for step in path.steps[1:]]
            first = show_value(path.steps[0].value)
            text = f"exchange: {show_value(path.last.value)}, from the best network evaluated ({first})"
            console.print(f"{text}, {'; '.join(steps) or 'no exchange improved it'}")
    if len(greedy) > 1:
        others = ", ".join(f"{path.rule} {show_value(path.last.value)}" for path in greedy if path is not best)
        console.print(f"other rules: {others}")
    text = f"{found.evaluated} networks evaluated ({found.plain} without laziness)"
    if found.revisited:
        text += f"; {found.exceeded} of {found.revisited} re-evaluated gains increased"
    if found.exceeded:
        excess = found.excess
        text += f", by {f'{100 * excess:.2f} points' if 0 <= found.value <= 1 else f'{excess:.4g}'} at most"
    console.print(text)


def _print_latency(console: Console, result: RcasRun) -> None:
    """Print how much faster the network found is, and what is to be said of its prediction."""
    prediction, measured = result.search.prediction, result.measured
    if measured is not None and prediction is not None:
        up = measured.speed_up
        console.print(
            styled(
                f"{result.base.name} takes ",
                (f"{up.value:.2f}", "bold"),
                f" times as long ({up.low:.2f} … {up.high:.2f} at 95 %); prediction error "
                f"{prediction.ms / measured.winner_ms - 1:+.1%}",
            )
        )
        for warning in measured.warnings:
            console.print(f"warning: {warning}", style="yellow")
    for text in () if prediction is None else prediction.outside:
        console.print(f"warning: unlike the networks measured end to end: {text}", style="yellow")

"""What every search's command does: refuse, load, calibrate, run, and say what came of it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec

from lut import LatencyTable, SearchSpace, UsageError
from lut._console import make_console, print_json
from lut._level import check_level
from lut._suggest import check_word
from predictors import LatencyPredictor
from predictors._commands._inputs import check_files, open_predictor
from profiler import compare_networks
from search._commands._common import (
    CALIBRATION_S,
    check_calibration,
    checked_then,
    closing_line,
    print_end,
    training_devices,
)
from search._commands._options import RunOptions
from search._commands._phases import Phases
from search._commands._show import print_result
from search._commands._source import check_images, open_images
from search._data._images import ImageData, data_name
from search._problem._budgets import Bound, Budgets
from search._problem._calibrate import Calibrated, calibrated
from search._problem._coverage import unlike_layers
from search._problem._problem import Problem
from search._runs._ending import export_found
from search._runs._folder import (
    CALIBRATION,
    CHECKPOINTS,
    REPORT,
    hold_folder,
    refuse_finished,
    refuse_folder,
    refuse_settings,
)
from search._runs._method import Method
from search._runs._plan import RunPlan, make_plan
from search._runs._result import RunResult
from search._runs._run import Run, check_run, files_of, refuse_broken, run, stages_of
from search._runs._sittings import SITTINGS, RunClock, resumed_text
from search._runs._summary import summary
from search._training._recipe import Recipe, epochs_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Inputs", "Opened", "SearchCommand"]

# A calibration hardly brings predictions down by more than this factor.
HOPELESS = 1.5


class Inputs(NamedTuple):
    """What was loaded for a search."""

    predictor: LatencyPredictor | None
    table: LatencyTable | None
    images: ImageData | None
    devices: tuple[str, ...]


class Opened(NamedTuple):
    """A search that is ready: its space and method, and how networks are trained at the end."""

    space: SearchSpace
    method: Method
    recipe: Recipe | None
    distil: bool = False


class SearchCommand(ABC):
    """A search's command. Abstract: a search says what is its own, and :meth:`main` does the rest.

    Args:
        asked: the options that all searches have.
    """

    name: ClassVar[str]
    # Whether it can do without a predictor: budgets are of parameters or multiply-adds then.
    needs_predictor: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    def __init__(self, asked: RunOptions) -> None:
        self.asked = asked
        self.output = Path(f"{self.name}-run") if asked.output is None else asked.output
        self.budgets = Budgets(ms=asked.budget_ms, parameters=asked.budget_params, madds=asked.budget_madds)
        self.changes = tuple(asked.set_ or ())
        self.then = checked_then(asked.then)
        blind = asked.predictor is None and asked.table is None
        self.calibrate = asked.calibrate if asked.measure_seconds and not blind else 0

    # --- what is a search's own ---

    @abstractmethod
    def check(self) -> None:
        """Raise what is wrong about its own options; nothing is loaded for that."""

    @abstractmethod
    def known_settings(self) -> dict[str, Any]:
        """Return those of the method's settings that are known from the options."""

    @abstractmethod
    def known_space(self) -> str | None:
        """Return the space's name, where it is known from the options."""

    @abstractmethod
    def trains(self) -> bool:
        """Whether networks are trained at the end."""

    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """Return what its runs write, by their places in the folder, beside what all runs write."""

    @abstractmethod
    def open(self, inputs: Inputs, stack: ExitStack) -> Opened:
        """Return the search; what it opens ends with the stack."""

    # --- what is the same for all ---

    @property
    def bound(self) -> Bound:
        """What the budget of ms is for: without one nobody asks for the upper end of an interval."""
        return "predicted" if self.budgets.ms is None or self.asked.bound == "predicted" else "upper"

    def main(self) -> None:
        """Search, and print what came of it."""
        asked = self.asked
        # All that can be refused is refused before anything is loaded, let alone measured; the quickest come first.
        self._check_shared()
        self.check()
        devices = training_devices(asked.device)
        console = make_console(stderr=asked.json)
        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(sys.stderr if asked.json else sys.stdout))
            every = (*files_of_all(), *self.files(), CALIBRATION)
            stack.enter_context(hold_folder(self.output, every, restart=asked.restart))
            self._refuse_other_settings()
            clock = RunClock(self.output / CHECKPOINTS / SITTINGS, restart=asked.restart)
            inputs = self._load(devices, console)
            opened = self.open(inputs, stack)
            early, plan = self._early(inputs, opened)
            done = self._done_before(opened, plan)
            if done is not None:
                console.print(done)
            known = self._calibrated(opened, early, console)
            if known is not None:
                clock.keep()
            result, exported = self._run(inputs, opened, plan, known, clock, console)
        closing = closing_line(clock, resumed=done is not None)
        if asked.json:
            print_json({**summary(result), "output": str(self.output), "exported": exported})
        else:
            print_result(console, result, self.output / REPORT)
            print_end(console, self.output, files_of(opened.method), exported, closing)
        refuse_broken(result)

    def _check_shared(self) -> None:
        asked = self.asked
        check_word("--bound", asked.bound, ("upper", "predicted"))
        check_word("--budget-holds", asked.budget_holds, ("reference-speed", "any-day"))
        check_level(asked.level)
        if asked.budget_holds == "any-day" and asked.budget_ms is None:
            raise UsageError("--budget-holds is about the budget of ms: give --budget-ms")
        if asked.predictor is not None and asked.table is not None:
            raise UsageError("give either --predictor FOLDER or --table FILE")
        blind = asked.predictor is None and asked.table is None
        if blind and (self.needs_predictor or self.budgets.ms is not None):
            raise UsageError(
                "latency needs a predictor: give --predictor FOLDER (see fit-predictor) or --table FILE (see "
                f"profile-device{'' if self.known_space() is None else f' --space {self.known_space()}'})"
            )
        check_files(asked.predictor, asked.table)
        if "onnx" in self.then and blind:
            raise UsageError("--then onnx exports for a device's batch: give its --predictor or --table")
        if asked.data == "none" and self.needs_data:
            raise UsageError("a search needs images to train on: give --data")
        check_images(asked.data)
        check_calibration(self.calibrate, asked.level if self.bound == "upper" else None)
        if "onnx" in self.then and not self.trains():
            raise UsageError("--then onnx exports a trained network: give --data, and --train-epochs above 0")

    def _refuse_other_settings(self) -> None:
        """Raise where the folder holds a finished run, or one of other settings, as far as they are known by now."""
        asked = self.asked
        refuse_finished(self.output, restart=asked.restart)
        known: dict[str, Any] = {
            "search": self.name,
            "budgets": self.budgets,
            "bound": self.bound,
            "level": asked.level,
            "holds": asked.budget_holds,
            "data": "" if asked.data == "none" else data_name(asked.data),
            "calibrated": self.calibrate,
            "seed": asked.seed,
        }
        if (space := self.known_space()) is not None:
            known["space"] = space
        refuse_settings(self.output, restart=asked.restart, known=known, settings=self.known_settings())

    def _load(self, devices: tuple[str, ...], console: Console) -> Inputs:
        asked = self.asked
        predictor: LatencyPredictor | None = None
        table: LatencyTable | None = None
        if asked.predictor is not None or asked.table is not None:
            predictor, table = open_predictor(
                asked.predictor, asked.table, target=asked.target, batch=asked.batch, seed=asked.seed, console=console
            )
        images = open_images(asked.data, asked.train_images, asked.test_images, asked.seed)
        return Inputs(predictor, table, images, devices)

    def _problem(self, space: SearchSpace, predictor: LatencyPredictor | None, bound: Bound) -> Problem:
        budgets = self.budgets
        return Problem(
            space,
            predictor,
            ms=budgets.ms,
            parameters=budgets.parameters,
            madds=budgets.madds,
            bound=bound,
            level=self.asked.level,
            holds=self.asked.budget_holds,  # type: ignore[arg-type]
        )

    def _plan(self, problem: Problem, inputs: Inputs, opened: Opened) -> RunPlan:
        return make_plan(
            self.name,
            problem,
            opened.method.settings(),
            data=inputs.images,
            recipe=opened.recipe,
            distil=opened.distil,
            calibrated=self.calibrate,
            measured=self.asked.measure_seconds > 0 and inputs.predictor is not None,
            seed=self.asked.seed,
            bound=self.bound,
        )

    def _early(self, inputs: Inputs, opened: Opened) -> tuple[Problem, RunPlan]:
        """Return the problem and the plan before a calibration; mistakes are refused before a minute is spent."""
        # A calibration gives the intervals.
        problem = self._problem(opened.space, inputs.predictor, "predicted" if self.calibrate else self.bound)
        if inputs.predictor is not None:
            unlike_layers(opened.space, inputs.predictor)
        plan = self._plan(problem, inputs, opened)
        check_run(Run(plan, problem, opened.method, inputs.images, inputs.devices[0]))
        apart_from = ("latencies",) if self.calibrate else ()
        refuse_folder(plan, self.output, restart=self.asked.restart, apart_from=apart_from)
        if self.budgets:
            smallest = problem.smallest()
            # Before a calibration only what none will change is refused.
            if not self.calibrate or problem.load(smallest) > HOPELESS:
                problem.check_budgets()
        return problem, plan

    def _done_before(self, opened: Opened, plan: RunPlan) -> str | None:
        """Return what earlier sittings have done, in words."""
        if self.asked.restart:
            return None
        return resumed_text(
            stages_of(opened.method, plan, self.output),
            calibrated=self.calibrate > 0 and (self.output / CALIBRATION).exists(),
            evaluated=opened.method.evaluated_before(self.output),
        )

    def _calibrated(self, opened: Opened, early: Problem, console: Console) -> Calibrated | None:
        """Return the predictor calibrated on networks of the space, which are measured now."""
        if not self.calibrate or early.predictor is None:
            return None
        path = self.output / CALIBRATION
        sample = opened.method.calibration_sample(early)
        with Phases(console) as phases:
            phases.phase("Measuring networks of the space")
            return calibrated(
                opened.space,
                early.predictor,
                count=self.calibrate,
                seconds=CALIBRATION_S,
                seed=self.asked.seed,
                sample=sample,
                path=path,
                reuse=not self.asked.restart,
                progress=phases.measuring,
                compare=compare_networks,
            )

    def _run(
        self,
        inputs: Inputs,
        opened: Opened,
        plan: RunPlan,
        known: Calibrated | None,
        clock: RunClock,
        console: Console,
    ) -> tuple[RunResult, dict[str, str]]:
        """Say what will be done, and do it; return what came of it, and what was exported, by kind."""
        predictor = inputs.predictor if known is None else known.predictor
        problem = self._problem(opened.space, predictor, self.bound)
        if known is not None:
            problem = problem.replace(calibration=known.networks)
        plan = msgspec.structs.replace(plan, latencies=problem.latencies_digest)
        warnings = () if predictor is None else unlike_layers(opened.space, predictor)
        warnings += opened.method.warnings(problem)
        classes = "" if inputs.images is None else f"{inputs.images.name} ({len(inputs.images.classes)} classes)"
        for line in opened.method.plan_lines(problem, classes):
            console.print(line)
        if opened.recipe is not None:
            console.print(
                f"then the base network and the network found are each trained on {plan.data} for "
                f"{epochs_text(opened.recipe)}"
            )
        for text in warnings:
            console.print(f"warning: {text}", style="yellow")
        exported: dict[str, str] = {}

        def export(result: RunResult) -> None:
            exported.update(export_found(self.then, result.network, result.base, predictor, self.output, phases))

        with clock, Phases(console, clock.beat) as phases:
            result = run(
                Run(
                    plan=plan,
                    problem=problem,
                    method=opened.method,
                    data=inputs.images,
                    device=inputs.devices[0],
                    measure_s=self.asked.measure_seconds if predictor is not None else 0.0,
                    repairs=self.asked.repairs,
                    warnings=warnings,
                    keep_predictor=predictor is not None and (self.asked.table is not None or known is not None),
                    compare=compare_networks,
                ),
                self.output,
                restart=self.asked.restart,
                export=export,
                tell=phases,
            )
        return result, exported


def files_of_all() -> tuple[str, ...]:
    """Return what the runs of all searches write."""
    from search._runs._run import SHARED_FILES

    return tuple(SHARED_FILES)

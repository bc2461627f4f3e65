"""HTAS as a run needs it: widths and depths of ResNets, by gradients or by evolution over shared weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from lut import UsageError
from lut._console import Line, format_ms, styled
from lut._option_names import option_text
from lut.errors import BudgetError
from predictors._widths import WidthSelection
from search._accuracy._evaluator import kept_accuracies
from search._data._images import ImageData, bilevel_split
from search._problem._discretise import log_probability
from search._problem._problem import Problem
from search._runs._folder import CHECKPOINTS
from search._runs._found import Candidate, Evaluated, Found, Knowledge
from search._runs._method import Method, TradeOffPoint, WayPoints
from search._runs._reporter import Reporter
from search._runs._sittings import Stage
from search._time_left import seconds_left
from search._training._recipe import epoch_text, epochs_text
from search.evolution._settings import EvolutionSettings
from search.htas._charge import Charge, CostKind, make_charge
from search.htas._evolved import check_pymoo, judged_again, search_evolution
from search.htas._gradient import check_settings, search_htas
from search.htas._settings import SearchProgress, SearchResult, SearchSettings
from search.htas._shared_weights import check_classes, check_shared
from search.spaces._resnet_cifar import ResNetCifar

if TYPE_CHECKING:
    from profiler._report._page import Section
    from search._runs._result import RunResult

__all__ = ["EVALUATIONS", "HtasMethod", "Logits", "Strategy", "WidthKind", "tell_progress"]

WidthKind: TypeAlias = Literal["hardware", "uniform", "ratios", "base"]
Strategy: TypeAlias = Literal["gradient", "evolution"]
EVALUATIONS = "evaluations.jsonl"
# Budgets, as shares of the one asked for, at which further networks are derived.
TIGHTER = (1.0, 0.985, 0.97, 0.95, 0.92, 0.88)
WIDTHS = {
    "hardware": "hardware-aware widths",
    "uniform": "a uniform grid of widths",
    "ratios": "TAS's width ratios",
    "base": "depths only",
}


@final
@dataclass(frozen=True)
class Logits(Knowledge):
    """What a search by gradients has learnt: the probability of each option of each decision."""

    probabilities: Sequence[NDArray[np.float64]] = field(repr=False)

    def candidates(self, problem: Problem, count: int) -> tuple[Candidate, ...]:
        """Return the most probable networks within the budgets and within tighter ones, by their log-probability."""
        found: dict[tuple[int, ...], float] = {}
        if not problem.budgets:
            best = tuple(int(p.argmax()) for p in self.probabilities)
            return (Candidate(best, log_probability(self.probabilities, best)),)
        for share in TIGHTER:
            # Of several budgets the first, of ms where there is one: what is asked for is a little faster.
            name, limit = next(problem.budgets.given())
            try:
                vector = problem.replace(**{name: limit * share}).discretise(self.probabilities)
            except BudgetError:
                continue
            found.setdefault(problem.canonical(vector), log_probability(self.probabilities, vector))
            if len(found) >= count:
                break
        if found and len(found) < count:
            found |= self._beside(problem, max(found, key=found.__getitem__), count)
        ranked = sorted(found.items(), key=lambda one: -one[1])
        return tuple(Candidate(vector, value) for vector, value in ranked[:count])

    def _beside(self, problem: Problem, best: tuple[int, ...], count: int) -> dict[tuple[int, ...], float]:
        """Return the most probable networks within the budgets that differ from one in one decision."""
        others = []
        for d, own in enumerate(self.probabilities):
            others += [(*best[:d], i, *best[d + 1 :]) for i in range(len(own)) if i != best[d]]
        scores = {vector: log_probability(self.probabilities, vector) for vector in others}
        found: dict[tuple[int, ...], float] = {}
        for vector in sorted(others, key=lambda one: -scores[one]):
            if len(found) >= count:
                break
            if problem.fits(vector):
                found.setdefault(problem.canonical(vector), scores[vector])
        return found


@final
@dataclass(frozen=True)
class HtasMethod(Method):
    """HTAS with its settings.

    Args:
        data: half of its training images are for the weights, half for choosing among networks.
        search: the settings of the search; ``evolution``: of the strategy of that name.
        strategy: ``gradient`` or ``evolution``.
        cost: what the loss charges for; ``alpha``: the exponent of the laws of ``eq8``.
        widths: how the space's widths were chosen; ``groups``: of how many for each layer; ``selections``: the
            hardware-aware ones. ``depth``, ``expand`` and ``distil``: what was asked for, for the record.
        seed: of everything; ``device``: PyTorch's name of where to train.
    """

    data: ImageData
    search: SearchSettings
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    strategy: Strategy = "gradient"
    cost: CostKind = "law-per-array"
    alpha: float | Literal["auto"] = 1.0
    widths: WidthKind = "hardware"
    groups: int = 8
    selections: tuple[WidthSelection, ...] = ()
    depth: int = 20
    expand: float = 2.0
    distil: bool = True
    seed: int = 0
    device: str = "cpu"

    name: ClassVar[str] = "htas"
    files: ClassVar[Any] = MappingProxyType({EVALUATIONS: "the accuracy of each network that was evolved"})

    def settings(self) -> dict[str, Any]:
        """Return all that its course depends on."""
        return {
            "strategy": self.strategy,
            "cost": self.cost,
            "widths": self.widths,
            "groups": self.groups,
            "alpha": str(self.alpha),
            "search": msgspec.to_builtins(self.search),
            "evolution": msgspec.to_builtins(self.evolution),
            "depth": self.depth,
            "expand": self.expand,
            "distil": self.distil,
        }

    def charge(self, problem: Problem) -> Charge:
        """Return what the loss charges for."""
        return make_charge(problem, self.cost, alpha=self.alpha)

    def check(self, problem: Problem) -> None:
        """Raise what can be known to fail before anything is begun."""
        if not isinstance(problem.space, ResNetCifar):
            raise UsageError(f"htas searches resnet-cifar and resnet-cifar-bottleneck, got {problem.space.name}")
        check_classes(problem.space.classes, self.data)
        check_shared(self.search.recipe)
        bilevel_split(self.data, self.seed)
        if self.strategy == "evolution":
            check_pymoo()
            if not problem.budgets:
                raise UsageError(f"an evolution searches under a budget: give {option_text('budget_ms')}")
        else:
            check_settings(self.charge(problem), self.search)

    def stages(self, output: Path) -> tuple[Stage, ...]:
        """Return the search's own part."""
        return (Stage.of("the search", output / CHECKPOINTS / "search.safetensors", self.search.recipe),)

    def evaluated_before(self, output: Path) -> int | None:
        """Return how many networks an evolution has evaluated."""
        return kept_accuracies(output / EVALUATIONS) if self.strategy == "evolution" else None

    def run(self, problem: Problem, output: Path, tell: Reporter) -> Found:
        """Search."""
        charge, checkpoint = self.charge(problem), output / CHECKPOINTS / "search.safetensors"

        progress = partial(tell_progress, tell)
        knowledge: Knowledge
        if self.strategy == "evolution":
            bred = _Generations(tell)
            result = search_evolution(
                charge,
                self.data,
                self.search,
                # What is found is measured first, and what was measured to fit is evaluated again.
                msgspec.structs.replace(self.evolution, finalists=0),
                seed=self.seed,
                device=self.device,
                checkpoint=checkpoint,
                cache=output / EVALUATIONS,
                progress=progress,
                on_generation=bred.tell,
            )
            knowledge = Evaluated(result.values)
            value = dict(result.values)[result.vector]
        else:
            result = search_htas(
                charge,
                self.data,
                self.search,
                seed=self.seed,
                device=self.device,
                checkpoint=checkpoint,
                progress=progress,
            )
            knowledge = Logits(result.probabilities)
            value = log_probability(result.probabilities, result.vector)
        return Found(
            search=self.name,
            problem=problem,
            winners=(Candidate(result.vector, value),),
            knowledge=knowledge,
            evaluated=result.evaluated,
            seconds=result.seconds,
            course=result,
        )

    def fresh_values(self, problem: Problem, vectors: Sequence[Sequence[int]], output: Path) -> list[float] | None:
        """Return what networks that were bred are worth with other images; gradients do not choose by evaluations."""
        if self.strategy != "evolution":
            return None
        return judged_again(
            self.charge(problem),
            self.data,
            self.search,
            vectors,
            seed=self.seed,
            device=self.device,
            checkpoint=output / CHECKPOINTS / "search.safetensors",
        )

    # --- what is told of it ---

    @property
    def value_name(self) -> str:  # type: ignore[override]
        """What it chooses by: a network's log-probability, or, in an evolution, its accuracy."""
        return "log-probability" if self.strategy == "gradient" else "accuracy, shared weights"

    def subject(self, problem: Problem) -> str:
        """Return the network whose widths and depths are searched."""
        return self.base(problem).name

    def accuracies(self) -> str:
        """Return where accuracies come from."""
        return "shared weights"

    def plan_lines(self, problem: Problem, data: str) -> Sequence[Line]:
        """Return what is searched, and how."""
        space, predictor = problem.space, problem.predictor
        assert isinstance(space, ResNetCifar)
        assert predictor is not None
        base = space.base_network()
        found = predictor.predict(base, level=problem.level)
        bound = f", up to {format_ms(found.high_ms)} at {found.level:.0%}" if found.high_ms is not None else ""
        lines: list[Line] = [
            styled((predictor.device.model, "bold"), f", {predictor.setting}"),
            f"base network {base.name}: {format_ms(found.ms)} ms{bound}, {base.madds / 1e6:.1f} M multiply-adds",
            f"searching {WIDTHS[self.widths]}:",
        ]
        for group, options in zip(space.groups, space.widths, strict=True):
            lines.append(f"  {group.name}, {group.size}×{group.size}: {', '.join(map(str, options))}")
        budget = f"within {problem.budgets}" if problem.budgets else "without a budget"
        lines.append(f"{self.strategy}, {budget}, {epochs_text(self.search.recipe)} on {data}")
        return lines

    def summary(self, found: Found) -> dict[str, Any]:
        """Return what is particular to it in ``result.json``."""
        return {"from_epoch": _course(found).from_epoch}

    def history(self, found: Found) -> dict[str, Any]:
        """Return the search, epoch by epoch."""
        result = _course(found)
        return {
            "search": result.history,
            "from_epoch": result.from_epoch,
            "warmup_epochs": {"search": self.search.recipe.warmup_epochs},
        }

    def way(self, found: Found) -> WayPoints:
        """Return the most probable network of each epoch."""
        points = [
            TradeOffPoint(f"epoch {epoch.epoch}", "on the way", False, epoch.ms, None, None, epoch.accuracy)
            for epoch in _course(found).history
        ]
        return WayPoints(points, "validation accuracy with shared weights")

    def sections(self, result: RunResult) -> Sequence[Section]:
        """Return the widths, the course of the search, and the hardware-aware widths."""
        from search.htas._report import sections

        return sections(self, result)


def _course(found: Found) -> SearchResult:
    assert isinstance(found.course, SearchResult)
    return found.course


def tell_progress(tell: Reporter, now: SearchProgress) -> None:
    """Tell where a search by shared weights stands, and its most probable network."""
    text = epoch_text(now.epoch, now.epochs, now.warmup)
    if now.bound_ms is None or now.accuracy is None:
        tell.say(now.share, text, now.left_s)
    else:
        tell.network(now.share, text, now.left_s, ms=now.bound_ms, accuracy=now.accuracy)


@final
class _Generations:
    """Tells where an evolution stands."""

    def __init__(self, tell: Reporter) -> None:
        import time

        self._clock = time.monotonic
        self._tell, self._began = tell, time.monotonic()

    def tell(self, generation: int, generations: int, accuracy: float) -> None:
        """Tell a generation, of how many, and the best accuracy within the budgets; generation 0: it begins."""
        if not generation:
            self._tell.phase("Evolving networks")
            self._began = self._clock()
            return
        left = seconds_left(self._clock() - self._began, generation, generations)
        text = f"generation {generation} of {generations}, best accuracy {accuracy:.1%}"
        self._tell.say(generation / generations, text, left)

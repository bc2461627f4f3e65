"""HTAS's command, as far as it is its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar, Literal, final

import msgspec

from lut import LatencyTable, UsageError
from predictors import LatencyPredictor, measured_curves
from predictors._show import parse_alpha
from predictors._widths import WidthSelection
from search._commands._options import RunOptions
from search._commands._run_command import Inputs, Opened, SearchCommand
from search._commands._source import split_changes
from search._data._images import ImageData
from search._training._recipe import Recipe
from search.evolution._settings import EvolutionSettings
from search.htas._charge import FORMER
from search.htas._evolved import check_pymoo
from search.htas._method import HtasMethod
from search.htas._options import HtasOptions
from search.htas._presets import check_settings, preset
from search.htas._settings import SearchSettings
from search.spaces._resnet_cifar import ResNetCifar
from search.spaces._width_sets import (
    base_widths,
    hardware_aware_sets,
    predicted_curves,
    ratio_widths,
    selected_widths,
    uniform_widths,
)

__all__ = ["HtasCommand"]


@final
class HtasCommand(SearchCommand):
    """HTAS's command."""

    name: ClassVar[str] = "htas"

    def __init__(self, asked: RunOptions, own: HtasOptions) -> None:
        super().__init__(asked)
        self.own = own
        self.cost: Any = FORMER.get(own.cost, own.cost)
        self.alpha: float | Literal["auto"] = parse_alpha(own.alpha)
        self.evolution = EvolutionSettings(
            # Some of them for what is measured against the budget.
            population=own.population,
            generations=own.generations,
            hopeful=asked.measure_seconds > 0,
        )

    def check(self) -> None:
        """Raise what is wrong about its own options."""
        if self.own.strategy == "evolution":
            check_pymoo()
        space, _ = split_changes(self.changes)
        if space:
            raise UsageError(
                f"--set space.{next(iter(space))}: htas has options for that, such as --depth and --expand"
            )
        ResNetCifar(expand=self.own.expand, depth=self.own.depth)
        check_settings(self.changes)

    def known_settings(self) -> dict[str, Any]:
        """Return those of the method's settings that are known from the options."""
        own = self.own
        return {
            "strategy": own.strategy,
            "cost": self.cost,
            "widths": own.widths,
            "groups": own.groups,
            "alpha": str(self.alpha),
            "evolution": msgspec.to_builtins(self.evolution),
            "depth": own.depth,
            "expand": own.expand,
            "distil": own.distil,
        }

    def known_space(self) -> str:
        """Return the space's name."""
        return ResNetCifar(expand=self.own.expand, depth=self.own.depth).name

    def trains(self) -> bool:
        """Whether networks are trained at the end."""
        return self.asked.train_epochs != 0

    def files(self) -> tuple[str, ...]:
        """Return what its runs write beside what all write."""
        return tuple(HtasMethod.files)

    def open(self, inputs: Inputs, stack: ExitStack) -> Opened:
        """Return the search."""
        del stack
        images, predictor = inputs.images, inputs.predictor
        assert images is not None
        assert predictor is not None
        space, selections = self._space(predictor, inputs.table, len(images.classes))
        search, recipe = self._settings(images)
        method = HtasMethod(
            data=images,
            search=search,
            evolution=self.evolution,
            strategy=self.own.strategy,  # type: ignore[arg-type]
            cost=self.cost,
            alpha=self.alpha,
            widths=self.own.widths,  # type: ignore[arg-type]
            groups=self.own.groups,
            selections=selections,
            depth=self.own.depth,
            expand=self.own.expand,
            distil=self.own.distil,
            seed=self.asked.seed,
            device=inputs.devices[0],
        )
        return Opened(space, method, recipe if self.trains() else None, distil=self.own.distil)

    def _settings(self, images: ImageData) -> tuple[SearchSettings, Recipe]:
        asked, own = self.asked, self.own
        penalty = own.penalty
        if penalty is None:
            penalty = "linear" if asked.budget_ms is None or own.cost == "madds" else "band"
        return preset(
            images,
            penalty=penalty,
            weight=own.weight,
            search_epochs=asked.search_epochs,
            train_epochs=asked.train_epochs or None,
            batch_size=asked.batch_size,
            changes=self.changes,
        )

    def _space(
        self, predictor: LatencyPredictor, table: LatencyTable | None, classes: int
    ) -> tuple[ResNetCifar, tuple[WidthSelection, ...]]:
        """Return the space with its width set, and how that was chosen."""
        own = self.own
        space = ResNetCifar(expand=own.expand, depth=own.depth, classes=classes)
        selections: tuple[WidthSelection, ...] = ()
        if own.widths == "hardware":
            curves = predicted_curves(space, predictor) if table is None else measured_curves(table)
            selections = hardware_aware_sets(space, curves, groups=own.groups, alpha=self.alpha, seed=self.asked.seed)
            options = selected_widths(selections)
        elif own.widths == "uniform":
            options = uniform_widths(space, own.groups)
        elif own.widths == "ratios":
            options = ratio_widths(space)
        else:
            options = base_widths(space)
        made = ResNetCifar(
            expand=own.expand,
            depth=own.depth,
            widths=options,
            depths=own.depths,  # type: ignore[arg-type]
            classes=classes,
        )
        return made, selections

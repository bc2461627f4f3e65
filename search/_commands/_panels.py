"""What the help of each subcommand shows together: what people come for first, and last what hardly anybody needs."""

from __future__ import annotations

from collections.abc import Iterable

from lut._console import Panels

__all__ = ["panels_of"]

_RARE = ("seed", "json")

# Of every search; what a search does not have is not shown, and what stands nowhere here comes last.
SEARCH: Panels = {
    "Budgets and inputs": (
        *("budget_ms", "budget_params", "budget_madds", "table", "predictor", "accuracy", "data", "output", "then"),
        "restart",
    ),
    "Search space": ("space", "types", "depth", "widths", "depths", "expand", "groups", "alpha"),
    "Training": (
        *("search_epochs", "train_epochs", "batch_size", "held_out", "train_images", "test_images", "distil", "device"),
        *("at_once", "accuracy_timeout"),
    ),
    "Measuring": ("calibrate", "measure_seconds", "repairs", "budget_holds"),
    "Search method": (
        *("strategy", "cost", "penalty", "weight", "population", "generations", "rules", "lazy", "exchange"),
        *("evaluations", "stop_without_gain"),
    ),
    "Rarely needed": ("bound", "level", "target", "batch", "set_", *_RARE),
}
OTHERS: dict[str, Panels] = {
    "submodularity": {
        "What is evaluated": ("space", "types", "networks", "blocks", "accuracy", "data", "output"),
        "Training": ("search_epochs", "batch_size", "held_out", "train_images", "device", "at_once"),
        "Rarely needed": ("set_", *_RARE),
    },
    "describe": {
        "Network": ("space", "network", "settings", "expand", "seed"),
        "Latency": ("predictor", "level"),
        "Output": ("json",),
    },
}


def panels_of(searches: Iterable[str]) -> dict[str, Panels]:
    """Return what helps show together, by subcommand; ``searches``: the names of those that are searches."""
    return {**OTHERS, **dict.fromkeys(searches, SEARCH)}

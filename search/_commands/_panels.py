"""What the help of each subcommand shows together: what people come for first, and last what hardly anybody needs."""

from __future__ import annotations

from lut._console import Panels

__all__ = ["PANELS"]

_RARE = ("seed", "json")

PANELS: dict[str, Panels] = {
    "htas": {
        "Budget and inputs": ("budget_ms", "table", "predictor", "data", "output", "then", "restart"),
        "Search space": ("depth", "widths", "depths", "expand", "groups", "alpha"),
        "Training": ("search_epochs", "train_epochs", "batch_size", "train_images", "test_images", "distil", "device"),
        "Measuring": ("calibrate", "measure_seconds"),
        "Search method": ("strategy", "cost", "penalty", "weight", "population", "generations"),
        "Rarely needed": ("bound", "level", "target", "batch", "set_", *_RARE),
    },
    "rcas": {
        "Budgets and inputs": (
            *("budget_ms", "budget_params", "budget_madds", "table", "predictor", "accuracy", "data", "output", "then"),
            "restart",
        ),
        "Search space": ("space", "types"),
        "Training": (
            *("search_epochs", "train_epochs", "batch_size", "held_out", "train_images", "test_images", "device"),
            "at_once",
        ),
        "Measuring": ("calibrate", "measure_seconds"),
        "Search method": ("rules", "lazy", "exchange", "evaluations", "stop_without_gain"),
        "Rarely needed": ("bound", "level", "target", "batch", "set_", *_RARE),
    },
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

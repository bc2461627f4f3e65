"""What searches found before they shared a skeleton; ``python tests/_recorded.py`` writes the file anew."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _predictors import DEVICE, SETTING, layer_ms, network_ms, sampled

from lut import Network
from predictors import LatencyPredictor
from predictors._compiled import layers_of
from search._data._images import load_data, subset
from search._problem._problem import Problem
from search._training._recipe import Recipe
from search.htas._charge import make_charge
from search.htas._gradient import search_htas
from search.htas._settings import SearchSettings
from search.rcas._search import RcasSettings, search_rcas
from search.spaces._nas_bench_macro import NasBenchMacro
from search.spaces._resnet_cifar import ResNetCifar

FILE = Path(__file__).parent / "recorded" / "searches.json"
RCAS: dict[str, tuple[dict[str, float], RcasSettings]] = {
    "paper": ({"ms": 3.0}, RcasSettings()),
    "plain": ({"ms": 3.0}, RcasSettings(lazy=False)),
    "two at a time": ({"ms": 2.4, "parameters": 1.2e6}, RcasSettings(at_once=2)),
    "without gain": ({"madds": 60e6}, RcasSettings(stop_without_gain=True)),
    "exchange": ({"ms": 2.6}, RcasSettings(exchange=True, evaluations=150)),
}
GRADIENT: dict[str, tuple[float | None, dict[str, Any]]] = {
    "band": (0.75, {"penalty": "band"}),
    "linear": (None, {"weights_first": 0.5}),
    "best": (0.8, {"penalty": "band", "selection": "best", "tau_schedule": "cosine", "tau_start": 5.0}),
}


@cache
def blocks_predictor() -> LatencyPredictor:
    """Return a predictor of the made device that holds all layers of NAS-Bench-Macro."""
    space = NasBenchMacro()
    wholes = [(network, network_ms(network)) for network in sampled(space, 20, seed=1)]
    layers = {layer: layer_ms(layer) for layer in space.layers()}
    return LatencyPredictor.from_latencies(DEVICE, SETTING, layers, networks=wholes, seed=0)


@cache
def unsure_predictor() -> LatencyPredictor:
    """Return one whose upper ends are 9 % above what it predicts: wholes scattered by 4 %."""
    rng, space = np.random.default_rng(0), NasBenchMacro()
    wholes = [
        (network, network_ms(network) * float(np.exp(rng.normal(0, 0.04)))) for network in sampled(space, 20, seed=1)
    ]
    layers = {layer: layer_ms(layer) for layer in space.layers()}
    return LatencyPredictor.from_latencies(DEVICE, SETTING, layers, networks=wholes, seed=0)


@cache
def resnets() -> ResNetCifar:
    return ResNetCifar(depth=14, expand=0.75, widths=((4, 8), (6, 12), (8, 16)), depths="tas")


@cache
def resnets_predictor() -> LatencyPredictor:
    layers = [*layers_of(resnets()), *(item.layer for item in resnets().base_network().layers)]
    wholes = [(network, network_ms(network)) for network in sampled(resnets(), 20, seed=1)]
    return LatencyPredictor.from_latencies(
        DEVICE, SETTING, {layer: layer_ms(layer) for layer in layers}, networks=wholes, seed=0
    )


@cache
def widest_ms() -> float:
    """Return the upper end of the interval of the widest and deepest network."""
    problem = Problem(resnets(), resnets_predictor(), ms=1e6)
    return problem.bound_ms([len(decision.options) - 1 for decision in resnets().choices])


def made_accuracy(networks: Sequence[Network]) -> list[float]:
    """Return values that grow with size, by less and less, apart from what a network's name adds: none are equal."""
    found = []
    for network in networks:
        number = int.from_bytes(hashlib.sha256(network.name.encode()).digest()[:4], "little") / 2**32
        found.append(float(0.9 - 4e6 / (5e6 + network.madds) + 0.02 * number))
    return found


def rcas(name: str) -> dict[str, Any]:
    """Return what RCAS finds, and all steps on the way."""
    budgets, settings = RCAS[name]
    predictor = blocks_predictor() if "ms" in budgets else None
    # It was recorded when nothing beyond the upper end of an interval was evaluated.
    settings = msgspec.structs.replace(settings, hopeful=False)
    found = search_rcas(Problem(NasBenchMacro(), predictor, **budgets), made_accuracy, settings)
    return {
        "vector": list(found.vector),
        "rule": found.rule,
        "evaluated": found.evaluated,
        "plain": found.plain,
        "revisited": found.revisited,
        "exceeded": found.exceeded,
        "paths": [[path.rule, [[list(s.vector), s.value, s.bound_ms] for s in path.steps]] for path in found.paths],
    }


def derived() -> list[list[int]]:
    """Return what is derived of random probabilities within budgets from tight to loose."""
    rng = np.random.default_rng(0)
    found = []
    for share in np.linspace(0.61, 0.97, 12):
        p = [rng.dirichlet(np.ones(len(decision.options))) for decision in resnets().choices]
        found.append(list(Problem(resnets(), resnets_predictor(), ms=float(share * widest_ms())).discretise(p)))
    return found


def gradient(name: str) -> dict[str, Any]:
    """Return what HTAS's search by gradients finds on a few digits, and its course."""
    share, changes = GRADIENT[name]
    recipe = Recipe(epochs=4, warmup_epochs=0, batch_size=24, lr=0.05)
    settings = SearchSettings(**{"recipe": recipe, "logits_lr": 0.1, "validated": 24, **changes})
    data = subset(load_data("digits"), train=96, test=40, seed=0)
    problem = Problem(resnets(), resnets_predictor(), ms=None if share is None else share * widest_ms())
    found = search_htas(make_charge(problem), data, settings, seed=3)
    course = [[e.tau, e.lr, e.weight_loss, e.logits_loss, e.expected] for e in found.history]
    return {"vector": list(found.vector), "from_epoch": found.from_epoch, "course": course}


def recorded() -> dict[str, Any]:
    """Return all of it as it is found now."""
    return {
        "rcas": {name: rcas(name) for name in RCAS},
        "derived": derived(),
        "gradient": {name: gradient(name) for name in GRADIENT},
    }


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(recorded()), indent=1) + b"\n")

"""Made runs and their pages: what a reader sees of them, and a predictor whose latencies are a formula."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from html import unescape
from typing import Any, NamedTuple

from _predictors import DEVICE, SETTING

from lut import Device, Network
from predictors import LatencyPredictor
from predictors._predictions import NetworkPrediction
from search._problem._problem import Problem
from search._runs._method import Method
from search._runs._plan import RunPlan
from search._runs._timed import TimedNetwork
from search._runs._verify import CheckedNetwork, Round, Verification
from search._training._train import Epoch, Trained

__all__ = [
    "EVIL",
    "Linear",
    "checked",
    "made_plan",
    "markup",
    "plots",
    "round_of",
    "rows",
    "seen",
    "tables",
    "trained",
    "verified",
]

EVIL = '<script>alert("1")</script>'


class _Table(NamedTuple):
    name: str


class Linear(LatencyPredictor):
    """A predictor of made-up latencies, with 10 % more as the upper end of the interval."""

    def __init__(self, device: Device = DEVICE, outside: tuple[str, ...] = (), table: str = "rcnet-b4.json") -> None:
        given = {
            "device": device,
            "setting": SETTING,
            "tables": (_Table(table),),
            "outside": outside,
            "deviations": {"a layer": 0.02},
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def latency_ms(self, network: Network) -> float:
        return 0.1 * len(network.layers) + network.madds / 20e6

    def predict(self, network: Network, *, level: float) -> NetworkPrediction:  # type: ignore[override]
        ms = self.latency_ms(network)
        return NetworkPrediction(network.name, ms, 0.9 * ms, 1.1 * ms, level, 1.0, (), self.outside)  # type: ignore[attr-defined]

    def no_interval(self, level: float) -> None:  # noqa: ARG002
        return None


def made_plan(method: Method, problem: Problem, **changes: Any) -> RunPlan:
    """Return the plan of a run that neither trains nor measures."""
    given: dict[str, Any] = {
        "search": method.name,
        "space": problem.space.name,
        "space_options": dict(problem.space.options),
        "budgets": problem.budgets,
        "bound": problem.bound,
        "level": problem.level,
        "holds": problem.holds,
        "settings": method.settings(),
        "recipe": None,
        "distil": False,
        "data": "",
        "data_digest": "",
        "tables": (),
        "latencies": "",
        "calibrated": 0,
        "measured": True,
        "seed": 0,
    }
    return RunPlan(**{**given, **changes})


def trained(last: float) -> Trained:
    values = [0.1, 0.5, math.nan, last]
    return Trained(tuple(Epoch(i, 0.1, 1.0, 0.5, value, 1.0) for i, value in enumerate(values, 1)), last)


# --- what measuring said ---


def checked(
    problem: Problem, vector: Sequence[int], value: float, predicted_ms: float, ms: float, *, half: float = 0.01
) -> CheckedNetwork:
    """Return a network as it was measured: its interval is ``half`` of it to either side, on any day thrice that."""
    timed = TimedNetwork(
        name=problem.network(vector).name,
        ms=ms,
        low_ms=ms * (1 - half),
        high_ms=ms * (1 + half),
        raw_ms=ms,
        day_low_ms=ms * (1 - 3 * half),
        day_high_ms=ms * (1 + 3 * half),
        predicted_ms=predicted_ms,
        bound_ms=1.1 * predicted_ms,
    )
    return CheckedNetwork(problem.canonical(vector), value, timed, (2.0, 1.9, 2.1))


def round_of(*networks: CheckedNetwork, at_reference: bool = True, warnings: tuple[str, ...] = ()) -> Round:
    return Round(TimedNetwork("base", 8.0, 7.9, 8.1, 8.0, 7.7, 8.3, 8.2, 8.2), networks, at_reference, warnings)


def verified(
    problem: Problem, first: Sequence[int], *rounds: Round, margin: float = 1.0
) -> tuple[Verification, CheckedNetwork]:
    """Return what measuring said, and the network that is the result of it, or the nearest."""
    budget = problem.budgets.ms
    assert budget is not None
    networks = [network for done in rounds for network in done.networks]
    within = [one for one in networks if one.timed.verdict(budget, problem.holds) == "within"]
    best = max(within, key=lambda one: one.value, default=None)
    nearest = min(networks, key=lambda one: one.timed.interval(problem.holds)[1])
    verification = Verification(
        budget_ms=budget,
        holds=problem.holds,
        rounds=rounds,
        chosen=None if best is None else best.vector,
        nearest=nearest.vector if best is None else None,
        first_choice=tuple(first),
        margin=margin,
    )
    return verification, best or nearest


# --- a page ---


def markup(page: str) -> str:
    """Return the page without what is no markup: plots, and Plotly."""
    return re.sub(r"<(script|style)>.*?</\1>", " ", page, flags=re.DOTALL)


def seen(page: str) -> str:
    """Return the page's text."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", markup(page))).split())


def tables(page: str) -> list[list[list[str]]]:
    """Return the texts of all tables, row by row."""
    return [
        [
            [seen(cell) for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row, re.DOTALL)]
            for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
        ]
        for table in re.findall(r"<table.*?</table>", markup(page), re.DOTALL)
    ]


def rows(page: str) -> list[list[str]]:
    """Return the texts of all tables' rows."""
    return [row for table in tables(page) for row in table]


def plots(page: str) -> list[dict[str, Any]]:
    """Return the plots' traces and layouts."""
    found = []
    decoder = json.JSONDecoder()
    for match in re.finditer(r'Plotly\.newPlot\(\s*"[^"]+",\s*', page):
        data, end = decoder.raw_decode(page, match.end())
        layout, _ = decoder.raw_decode(page, re.compile(r",\s*").match(page, end).end())  # type: ignore[union-attr]
        found.append({"data": data, "layout": layout})
    return found

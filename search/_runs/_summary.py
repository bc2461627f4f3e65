"""What came of a run as plain data: ``result.json``, and what ``--json`` prints."""

from __future__ import annotations

from typing import Any

import msgspec

from search._problem._budgets import Holds
from search._runs._compared import predicted_before
from search._runs._result import RunResult
from search._runs._verify import CheckedNetwork, Verification
from search._training._train import Trained

__all__ = ["summary"]


def summary(result: RunResult) -> dict[str, Any]:
    """Return what came of a run as plain data."""
    plan, found, measured = result.plan, result.found, result.measured
    problem, network = result.problem, result.network
    predictor = problem.predictor
    prediction = found.predictions[0] if found.predictions else None
    # Before it was measured: a predictor that was calibrated on the network itself predicts nothing of it any more.
    predicted_ms, high_ms = predicted_before(result)
    error = None if measured is None or predicted_ms is None else predicted_ms / measured.winner_ms - 1
    return {
        "search": plan.search,
        "device": None if predictor is None else predictor.device.model,
        "setting": None if predictor is None else str(predictor.setting),
        "budgets": msgspec.to_builtins(plan.budgets),
        "budget_ms": plan.budgets.ms,
        "kept": result.kept,
        "network": {
            "vector": list(found.vectors[0]),
            "value": found.values[0],
            "parameters": network.parameters,
            "madds": problem.madds(network),
            "layers": len(network.layers),
            "predicted_ms": predicted_ms,
            "low_ms": None if prediction is None or result.verification is not None else prediction.low_ms,
            "high_ms": high_ms,
            "level": None if prediction is None else prediction.level,
            "accuracy": _accuracy(result.trained),
            "outside": [] if prediction is None else list(prediction.outside),
        },
        "base": {
            "name": result.base.name,
            "parameters": result.base.parameters,
            "madds": problem.madds(result.base),
            "predicted_ms": result.base_predicted_ms,
            "accuracy": _accuracy(result.base_trained),
        },
        "measured": None if measured is None else {**measured._asdict(), "speed_up": measured.speed_up._asdict()},
        "not_measured": result.not_measured,
        "prediction_error": error,
        "verification": None if result.verification is None else _verification(result.verification),
        "finalists": [
            {**finalist._asdict(), "optimism": finalist.value - finalist.fresh} for finalist in result.finalists
        ],
        "evaluated": found.evaluated,
        "search_seconds": found.seconds,
        "warnings": list(result.warnings),
        **result.method.summary(found),
    }


def _accuracy(trained: Trained | None) -> float | None:
    return None if trained is None else trained.test_accuracy


def _verification(verification: Verification) -> dict[str, Any]:
    holds, budget = verification.holds, verification.budget_ms
    return {
        "budget_ms": budget,
        "holds": holds,
        "kept": verification.chosen is not None,
        "excess": verification.excess,
        "first_choice": list(verification.first_choice),
        "margin": verification.margin,
        "networks": [_checked(network, budget, holds) for network in verification.networks],
        "sessions": [[_checked(network, budget, holds) for network in done.networks] for done in verification.rounds],
        "slower_than_calibration": [
            None if done.speed is None else done.speed.slower - 1 for done in verification.rounds
        ],
    }


def _checked(network: CheckedNetwork, budget_ms: float, holds: Holds) -> dict[str, Any]:
    timed = network.timed
    other: Holds = "any-day" if holds == "reference-speed" else "reference-speed"
    return {
        "vector": list(network.vector),
        "value": network.value,
        "predicted_ms": timed.predicted_ms,
        "bound_ms": timed.bound_ms,
        "measured_ms": timed.ms,
        "low_ms": timed.low_ms,
        "high_ms": timed.high_ms,
        "raw_ms": timed.raw_ms,
        "day_low_ms": timed.day_low_ms,
        "day_high_ms": timed.day_high_ms,
        "verdict": timed.verdict(budget_ms, holds),
        f"verdict_{other.replace('-', '_')}": timed.verdict(budget_ms, other),
    }

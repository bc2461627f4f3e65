"""Optuna picks the networks, a predictor says what they take, and what is over the budget is infeasible.

``pip install 'optuna>=5'``, then ``python examples/in_optuna.py cpu-b4.json 3.0``. Put your own accuracy in `quality`.
"""

from __future__ import annotations

import sys
from math import log

import optuna

from lut import LatencyTable, Network
from predictors import LatencyPredictor
from search import ResNetCifar

TRIALS = 200


def quality(network: Network) -> float:
    """Return what is to be large: here the log of the multiply-adds, in your search the accuracy once trained."""
    return log(network.madds)


def main() -> None:
    """Search, and print the best network within the budget."""
    predictor = LatencyPredictor.fit(LatencyTable.load(sys.argv[1]))
    budget_ms = float(sys.argv[2])
    space = ResNetCifar(expand=0.5, depth=20)

    def objective(trial: optuna.Trial) -> float:
        vector = [trial.suggest_int(d.name, 0, len(d.options) - 1) for d in space.choices]
        network = space.decode(vector)
        found = predictor.predict(network)
        # The upper end of the interval, where there is one: a budget is for what will be measured.
        over_ms = (found.high_ms or found.ms) - budget_ms
        trial.set_user_attr("over_ms", over_ms)
        trial.set_constraint("over_ms", over_ms)
        return quality(network)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=TRIALS)
    within = [trial for trial in study.trials if trial.user_attrs["over_ms"] <= 0]
    if not within:
        nearest = min(trial.user_attrs["over_ms"] for trial in study.trials)
        raise SystemExit(f"none of {TRIALS} networks keeps {budget_ms:g} ms; the nearest is {nearest:.3g} ms over it")
    best = max(within, key=lambda trial: trial.value or 0.0)
    network = space.decode([best.params[d.name] for d in space.choices])
    print(f"{len(within)} of {TRIALS} networks keep {budget_ms:g} ms; the best:")
    print(predictor.predict(network))


if __name__ == "__main__":
    main()

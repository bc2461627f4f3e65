"""Optuna picks the networks, a predictor says what they take, and what is over the budget is infeasible.

``pip install 'optuna>=5'``, then ``python examples/in_optuna.py cpu-b4.json 3.0``. Put your own accuracy in `quality`.
"""

from __future__ import annotations

import sys
from math import log

import optuna

from lut import LatencyTable, Network
from predictors import LatencyPredictor
from search._problem._problem import Problem
from search.spaces._resnet_cifar import ResNetCifar

TRIALS = 200


def quality(network: Network) -> float:
    """Return what is to be large: here the log of the multiply-adds, in your search the accuracy once trained."""
    return log(network.madds)


def main() -> None:
    """Search, and print the best network within the budget."""
    predictor = LatencyPredictor.fit(LatencyTable.load(sys.argv[1]))
    budget_ms = float(sys.argv[2])
    problem = Problem(ResNetCifar(expand=0.5, depth=20), predictor, ms=budget_ms)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(problem.optuna_objective(quality), n_trials=TRIALS)
    # A network over the budget is pruned before it is judged.
    within = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if not within:
        nearest = min(trial.constraints["ms"] for trial in study.trials)
        raise SystemExit(f"none of {TRIALS} networks keeps {budget_ms:g} ms; the nearest is {nearest:.1%} over it")
    print(f"{len(within)} of {TRIALS} networks keep {budget_ms:g} ms; the best:")
    print(problem.predict(study.best_trial.user_attrs["vector"]))


if __name__ == "__main__":
    main()

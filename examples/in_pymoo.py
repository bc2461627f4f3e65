"""NSGA-II of pymoo over two aims: milliseconds, and what the network is good for.

``pip install pymoo``, then ``python examples/in_pymoo.py cpu-b4.json``. Put your own accuracy in `quality`.
"""

from __future__ import annotations

import sys

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.optimize import minimize

from lut import LatencyTable, Network
from predictors import LatencyPredictor
from search._problem._problem import Problem
from search.spaces._resnet_cifar import ResNetCifar


def quality(network: Network) -> float:
    """Return what is to be large, up to 1: here of the multiply-adds, in your search the accuracy once trained."""
    return 1 - 1 / (1 + network.madds / 10e6)


def main() -> None:
    """Search, and print the front."""
    predictor = LatencyPredictor.fit(LatencyTable.load(sys.argv[1]))
    problem = Problem(ResNetCifar(expand=0.5, depth=20), predictor)
    found = minimize(problem.as_pymoo(quality), NSGA2(pop_size=40), ("n_gen", 30), seed=0)
    order = np.argsort(found.F[:, 1])
    print(f"{len(order)} networks of which none is better in both:")
    for i in order[:: max(1, len(order) // 8)]:
        needs = problem.needs(problem.vector_of(found.X[i]))
        print(f"{needs.ms:8.3f} ms  {needs.madds / 1e6:8.1f} M multiply-adds")


if __name__ == "__main__":
    main()

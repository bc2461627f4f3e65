"""NSGA-II of pymoo over two aims: milliseconds, and what the network is good for.

``pip install pymoo``, then ``python examples/in_pymoo.py cpu-b4.json``. Latencies of a generation cost microseconds:
they come from compiled arrays. Put your own accuracy in `quality`.
"""

from __future__ import annotations

import sys
from math import log
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

from lut import LatencyTable, Network
from predictors import LatencyPredictor
from search import ResNetCifar


def quality(network: Network) -> float:
    """Return what is to be large: here the log of the multiply-adds, in your search the accuracy once trained."""
    return log(network.madds)


class Networks(Problem):
    """The space's vectors, and what each network takes and is good for."""

    def __init__(self, space: ResNetCifar, predictor: LatencyPredictor) -> None:
        sizes = [len(d.options) for d in space.choices]
        super().__init__(n_var=len(sizes), n_obj=2, xl=0, xu=np.array(sizes) - 1, vtype=int)
        self.space = space
        self.fast = predictor.compile(space)

    def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
        vectors = np.round(x).astype(int)
        good = [-quality(self.space.decode(vector)) for vector in vectors.tolist()]
        out["F"] = np.column_stack([self.fast.latency(vectors), good])


def main() -> None:
    """Search, and print the front."""
    predictor = LatencyPredictor.fit(LatencyTable.load(sys.argv[1]))
    space = ResNetCifar(expand=0.5, depth=20)
    whole = {"vtype": float, "repair": RoundingRepair()}
    algorithm = NSGA2(
        pop_size=40,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=3.0, **whole),
        mutation=PM(eta=3.0, **whole),
        eliminate_duplicates=True,
    )
    found = minimize(Networks(space, predictor), algorithm, ("n_gen", 30), seed=0)
    order = np.argsort(found.F[:, 0])
    print(f"{len(order)} networks of which none is better in both:")
    for i in order[:: max(1, len(order) // 8)]:
        network = space.decode(np.round(found.X[i]).astype(int).tolist())
        print(f"{found.F[i, 0]:8.3f} ms  {network.madds / 1e6:8.1f} M multiply-adds")


if __name__ == "__main__":
    main()

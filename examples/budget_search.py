"""Search for the widest network under a latency budget, asking a predictor a million times.

Run ``profile-device --target cpu --batch 4`` first, then ``python examples/budget_search.py cpu-b4.json 3.0``.
"""

from __future__ import annotations

import sys

import numpy as np

from lut import LatencyTable
from predictors import LatencyPredictor
from search import ResNetCifar

CANDIDATES = 1_000_000


def main() -> None:
    """Draw networks, keep those whose latency is under the budget, and print the one with most multiply-adds."""
    table = LatencyTable.load(sys.argv[1] if len(sys.argv) > 1 else "cpu-b4.json")
    budget_ms = float(sys.argv[2]) if len(sys.argv) > 2 else 3.0
    predictor = LatencyPredictor.fit(table)
    space = ResNetCifar(expand=1.0, depth=20)
    fast = predictor.compile(space)
    rng = np.random.default_rng(0)
    choices = np.stack([rng.integers(len(d.options), size=CANDIDATES) for d in space.choices], axis=1)
    ms = fast.latency(choices)
    affordable = np.flatnonzero(ms <= budget_ms)
    if not affordable.size:
        raise SystemExit(
            f"none of {CANDIDATES:,} networks takes {budget_ms} ms or less; the fastest: {ms.min():.3g} ms"
        )
    # The latency of a million costs a tenth of a second; multiply-adds are counted for the slowest of those that fit.
    nearest = affordable[np.argsort(-ms[affordable])[:200]]
    best = max((space.decode(choices[i]) for i in nearest), key=lambda network: network.madds)
    found = predictor.predict(best)
    interval = "" if found.low_ms is None else f" ({found.low_ms:.3g} … {found.high_ms:.3g})"
    print(f"{affordable.size:,} of {CANDIDATES:,} networks take at most {budget_ms} ms")
    print(f"the largest of those near the budget: {best.madds / 1e6:.1f} M multiply-adds, {found.ms:.3g} ms{interval}")
    print(f"{found.coverage:.0%} of that is of measured layers; {len(best.layers)} layers")


if __name__ == "__main__":
    main()

"""How many layers must be measured? Those that adaptive sampling chooses, against as many at random.

On the recorded sessions of ``network_sessions.py``: a share of a space's layers is measured, fifty networks are known
as a whole, and the other 150 are predicted. Random choices hold one layer of every operator, or nothing could be
predicted.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from _common import parser, print_table, write_results
from _sessions import SESSIONS, RecordedSession, read_sessions
from prediction import few_layers, figures, ours

from lut import Layer
from predictors._features import operators_of

SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
LEARNT = 50
SEEDS = 5


def at_random(session: RecordedSession, count: int, seed: int) -> tuple[Layer, ...]:
    """Return layers at random, after one for each operator that no other has."""
    layers = list(session.layers)
    random.Random(seed).shuffle(layers)
    chosen: list[Layer] = []
    covered: frozenset[str] = frozenset()
    for layer in layers:
        if operators_of(layer) - covered:
            chosen.append(layer)
            covered |= operators_of(layer)
    rest = [layer for layer in layers if layer not in chosen]
    return tuple([*chosen, *rest][: max(count, len(chosen))])


def error(session: RecordedSession, layers: Sequence[Layer]) -> float:
    """Return the mean relative error on the networks that were not learnt from."""
    whole = np.array(session.ms("whole"))
    predictor = ours(session, layers, range(LEARNT), "in_context")
    predicted = np.array([predictor.latency_ms(network) for network in session.networks[LEARNT:]])
    return figures(predicted, whole[LEARNT:])["mape"]


def main() -> None:
    """Judge both choices on all recorded sessions."""
    made = parser(__doc__)
    made.add_argument("--sessions", type=Path, default=SESSIONS, help="folder of the recorded sessions")
    given = made.parse_args()
    results: list[dict[str, Any]] = []
    rows = []
    for session in read_sessions(given.sessions):
        for share in SHARES:
            chosen = few_layers(session, range(LEARNT), share) if share < 1 else session.layers
            count = len(chosen)
            mine = error(session, chosen)
            others = [error(session, at_random(session, count, seed)) for seed in range(SEEDS if share < 1 else 0)]
            results.append(
                {
                    "session": session.name,
                    "layers": count,
                    "of": len(session.layers),
                    "adaptive": mine,
                    "repeat_error": round(session.repeat_error("whole", LEARNT), 5),
                    "random_mean": round(mean(others), 5) if others else None,
                    "random_worst": round(max(others), 5) if others else None,
                }
            )
            told = (f"{mean(others):.2%}", f"{max(others):.2%}") if others else ("", "")
            repeat = session.repeat_error("whole", LEARNT)
            name = f"{session.name}: {count} of {len(session.layers)}"
            rows.append((name, f"{mine:.2%}", *told, f"{repeat:.2%}"))
    header = ("layers measured", "chosen", f"at random, mean of {SEEDS}", "worst", "wholes repeat")
    print_table("Mean error on 150 networks", header, rows)
    write_results(given.results, "sampling", {"learnt_networks": LEARNT, "results": results})


if __name__ == "__main__":
    main()

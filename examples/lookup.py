"""Use a table in your own code: look layers up, and choose the widest layer under a budget.

Run ``profile-device --target cpu --batch 4`` first, then ``python examples/lookup.py cpu-b4.json``.
"""

from __future__ import annotations

import sys

from lut import LatencyTable, MissingLayerError, conv_norm_act


def main() -> None:
    """Print the widest first-stage layer under several budgets, then what a miss looks like."""
    table = LatencyTable.load(sys.argv[1] if len(sys.argv) > 1 else "cpu-b4.json")
    (curve, *_) = table.curves
    measured = [layer for layer in curve.layers if layer in table]
    # Budgets between the fastest width and the slowest, whatever this device takes for them.
    fastest, slowest = (choose(table[layer].median_ms for layer in measured) for choose in (min, max))
    for share in (0.25, 0.5, 0.75, 1.0):
        budget_ms = fastest + share * (slowest - fastest)
        affordable = [layer for layer in measured if table[layer].median_ms <= budget_ms]
        widest = table[max(affordable, key=lambda layer: layer.output_shape[0])]
        low, high = widest.within_run.low_ms, widest.within_run.high_ms
        print(f"{budget_ms:.4f} ms: {widest.layer}, {widest.median_ms:.4f} ms ({low:.4f} … {high:.4f})")

    # What was not measured is an error that names its neighbours, never 0 ms.
    try:
        table[conv_norm_act(17, 19, kernel_size=3, stride=1, activation="relu", input_size=(32, 32))]
    except MissingLayerError as error:
        print(error)


if __name__ == "__main__":
    main()

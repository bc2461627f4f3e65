"""A loop in the way of DARTS: logits over each decision's options, and milliseconds in the loss, differentiable.

``python examples/darts_loop.py cpu-b4.json 3.0``. In your search the first term of the loss is that of a supernet whose
operators are weighed with the same probabilities; here it is the expected log of the widths, which wants wide networks.
"""

from __future__ import annotations

import sys

import torch

from lut import LatencyTable
from predictors import LatencyPredictor
from search import ResNetCifar

STEPS, LEARNING_RATE, WEIGHT = 300, 0.05, 4.0


def main() -> None:
    """Train the logits, and print the network that they decide on."""
    torch.manual_seed(0)
    predictor = LatencyPredictor.fit(LatencyTable.load(sys.argv[1]))
    budget_ms = float(sys.argv[2])
    space = ResNetCifar(expand=0.5, depth=20)
    latency = predictor.compile(space).torch()
    logits = [torch.zeros(len(d.options), requires_grad=True) for d in space.choices]
    values = [torch.tensor(d.options, dtype=torch.float32).log() for d in space.choices]
    optimiser = torch.optim.Adam(logits, lr=LEARNING_RATE)
    for step in range(STEPS):
        probabilities = [row.softmax(0) for row in logits]
        expected_ms = latency.expected_latency(probabilities)
        wanted = torch.stack([(p * v).sum() for p, v in zip(probabilities, values, strict=True)]).mean()
        loss = -wanted + WEIGHT * torch.relu(expected_ms / budget_ms - 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 99:
            print(f"step {step + 1}: {expected_ms.item():.3f} ms expected")
    network = space.decode([int(row.argmax()) for row in logits])
    found = predictor.predict(network)
    print(found)
    if found.ms > budget_ms:
        raise SystemExit(f"what the logits decide on takes {found.ms / budget_ms - 1:.1%} more than the budget")


if __name__ == "__main__":
    main()

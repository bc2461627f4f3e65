"""A loop in the way of DARTS: logits over each decision's options, and milliseconds in the loss, differentiable.

``python examples/darts_loop.py cpu-b4.json 3.0``. In your search the first term of the loss is that of a supernet whose
operators are weighed with the same probabilities; here it is the expected log of the widths, which wants wide networks.
"""

from __future__ import annotations

import sys

import torch

from lut import LatencyTable
from predictors import LatencyPredictor
from search._problem._problem import Problem
from search.spaces._resnet_cifar import ResNetCifar

STEPS, LEARNING_RATE, WEIGHT = 300, 0.05, 4.0


def main() -> None:
    """Train the logits, and print the most probable network within the budget."""
    predictor = LatencyPredictor.fit(LatencyTable.load(sys.argv[1]))
    budget_ms = float(sys.argv[2])
    space = ResNetCifar(expand=0.5, depth=20)
    problem = Problem(space, predictor, ms=budget_ms)
    alphas = {d.name: torch.zeros(len(d.options), requires_grad=True) for d in space.choices}
    values = {d.name: torch.tensor(d.options, dtype=torch.float32).log() for d in space.choices}
    optimiser = torch.optim.Adam(alphas.values(), lr=LEARNING_RATE)
    for step in range(STEPS):
        probabilities = {name: alpha.softmax(0) for name, alpha in alphas.items()}
        expected_ms = problem.mixture(probabilities)
        wanted = torch.stack([(p * values[name]).sum() for name, p in probabilities.items()]).mean()
        loss = -wanted + WEIGHT * torch.relu(expected_ms / budget_ms - 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 99:
            print(f"step {step + 1}: {expected_ms.item():.3f} ms expected")
    vector = problem.discretise([alpha.detach().softmax(0).double().numpy() for alpha in alphas.values()])
    print(problem.predict(vector))


if __name__ == "__main__":
    main()

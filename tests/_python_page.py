"""Writes docs/python.md: every public name of the packages with the first sentence of its documentation."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
PACKAGES = {
    "lut": "Layers, networks, tables and files. Loading a table imports neither PyTorch nor pandas.",
    "lut.testing": "For authors of search spaces.",
    "predictors": "Answers for what no table holds. Nothing here measures.",
    "profiler": "Measures.",
    "profiler.testing": "For authors of targets.",
    "search": "Problems, and the training and measuring of what searches find: [one skeleton for all](searches.md). "
    "`from search import htas, rcas, evolution, spaces`: each is a package of its own.",
    "search.spaces": "Search spaces of ours, their width sets, and MobileNetV2 to compare with.",
    "search.htas": "[HTAS](htas.md): widths and depths of CIFAR ResNets.",
    "search.rcas": "[RCAS](rcas.md): blocks under budgets, and its greedy search for any set function.",
    "search.evolution": "Any space, any accuracy.",
}
HEAD = """# From Python

What a command can do, some lines of Python can do. The [README](../README.md#your-own-model) shows the way from a
module to a number; this page lists the public names, each with what it is. Errors are in `lut.errors`, operators in
`lut.primitives` and `lut.subgraph`; everything else has a leading underscore somewhere in its path and may change.
Records that you are given, such as a prediction, are reached from these objects.

```python
from pathlib import Path

from profiler import TracedModule, load_space, profile, suggest_widths, sweep

profile(TracedModule(model, x), target="cpu", threads=1)  # the module itself, beside its layers
profile(Path("net.onnx"), target="onnx", batch=1)  # a file, as ONNX Runtime runs it
profile(load_space("resnet-cifar", depth=32), target="cpu")  # a space's layers, and some of its networks

traced = TracedModule(model, x)
table = profile([traced, *sweep(traced)], time_budget_s=120)  # its layers over their widths
curve = table.curve_of(table.curves[0].layers[0])  # one of them
curve.ms(curve.channels[0])  # at one of the widths that were measured
for row in suggest_widths(traced, table):
    print(row)  # layers that share a width, and which one would be faster
```

Every error is a `lut.LatencyLutError`; one about what you gave is a `lut.UsageError`, and comes before anything is
measured. `scripts/write-docs` writes this page from the documentation in the code.
"""


def summary(documented: object) -> str:
    """Return the first sentence of an object's documentation."""
    text = " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())
    # Not every full stop ends a sentence: "HTAS eq. 2", "Xiong et al. 2019".
    first = re.split(r"(?<!\beq\.)(?<!\bal\.)(?<!\be\.g\.)(?<=\.) ", text, maxsplit=1)[0]
    sentence = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", first)
    return sentence.replace("|", "\\|").replace("``", "`")


def undocumented() -> list[str]:
    """Return the public names that have no word of documentation of their own."""
    found = []
    for package in PACKAGES:
        module = import_module(package)
        for name in module.__all__:
            known = getattr(module, name)
            own = known.__dict__.get("__doc__") if isinstance(known, type) else getattr(known, "__doc__", None)
            if not own or own.startswith(f"{name}("):
                found.append(f"{package}.{name}")
    return found


def page() -> str:
    """Return the page's content."""
    parts = [HEAD]
    for package, about in PACKAGES.items():
        module = import_module(package)
        rows = [f"| `{name}` | {summary(getattr(module, name))} |" for name in module.__all__]
        parts.append(f"\n## {package}\n\n{about}\n\n| name | |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE} written")

"""How searches read from Python: the lines of the page for users, and names of earlier versions."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from _predictors import DEVICE, SETTING, layer_ms, wholes_of
from test_cli_rcas import grown
from test_verify import Device

import search
from lut import Network
from predictors import LatencyPredictor
from search import Problem, build_network, load_data, measure, rcas, spaces, subset, train, verify

ROOT = Path(__file__).parent.parent
# What `search` exported before its searches were packages.
FORMER = [
    "AccuracyCache",
    "Budget",
    "Budgets",
    "EarlyStopped",
    "Evaluator",
    "EvolutionSettings",
    "GreedyPath",
    "GreedyStep",
    "ImageData",
    "NasBenchMacro",
    "NetworkCost",
    "NetworkResources",
    "RCNet",
    "RcasPath",
    "RcasResult",
    "RcasSettings",
    "RcasStep",
    "Recipe",
    "ResNetCifar",
    "SearchEpoch",
    "SearchProgress",
    "SearchResult",
    "SearchSettings",
    "SetProblem",
    "Submodularity",
    "Trained",
    "build_network",
    "cost_effective_greedy",
    "derive",
    "evaluate",
    "hardware_aware_sets",
    "load_accuracies",
    "load_data",
    "load_weights",
    "make_cost",
    "measure_submodularity",
    "mobilenet_v2",
    "nas_bench_macro",
    "predicted_curves",
    "ratio_widths",
    "rcas_recipe",
    "rcnet_cifar",
    "rcnet_imagenet",
    "resnet_cifar",
    "resnet_cifar_bottleneck",
    "save_weights",
    "search_evolution",
    "search_htas",
    "search_rcas",
    "selected_widths",
    "subset",
    "train",
    "uniform_widths",
]


@pytest.mark.usefixtures("one_thread")
def test_a_search_from_a_problem_to_a_measured_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of it is a line that a user writes; only the device, the data and the trainings are made small."""
    space = spaces.rcnet("cifar", classes=10)
    latencies = {layer: layer_ms(layer) for layer in space.layers()}
    wholes = wholes_of(grown(space, 24))
    LatencyPredictor.from_latencies(DEVICE, SETTING, latencies, networks=wholes).save(tmp_path / "predictor")
    device = Device(lambda network: 1.05 * LatencyPredictor.load(tmp_path / "predictor").latency_ms(network))
    for place in ("_measurement", "_python"):
        monkeypatch.setattr(f"search._runs.{place}.compare_networks", device)
    asked: list[Network] = []

    def my_accuracy(network: Network) -> float:
        asked.append(network)
        return 1 - 1e7 / (2e7 + network.madds)

    problem = Problem(space, LatencyPredictor.load(tmp_path / "predictor"), ms=2.6, parameters=2.4e6)
    found = rcas.search(problem, accuracy=my_accuracy, folder=tmp_path / "run")
    assert found.predictions[0].high_ms is not None
    assert found.predictions[0].high_ms <= 2.6
    # It goes on after a kill: what was evaluated is there.
    count = len(asked)
    again = rcas.search(problem, accuracy=my_accuracy, folder=tmp_path / "run")
    assert (again.networks, len(asked)) == (found.networks, count)

    found, verification = verify(found, folder=tmp_path / "run")
    assert verification.chosen == found.vectors[0]
    base = problem.space.base_network()
    assert base is not None
    measured = measure(problem, [base, *found.networks])
    assert measured.verdicts[1] == "within"
    assert "within the budget" in str(measured)

    module = build_network(found.networks[0], seed=0)
    data = subset(load_data("digits"), train=40, test=20, seed=0)
    trained = train(module, data, rcas.recipe(epochs=1, batch_size=20), seed=0)
    assert 0 <= trained.test_accuracy <= 1
    assert rcas.recipe().milestones == (0.3, 0.6, 0.9)
    assert rcas.recipe(epochs=200).epochs == 200

    alphas = [torch.zeros(len(decision.options), requires_grad=True) for decision in space.choices]
    choices = {d.name: torch.softmax(a, -1) for d, a in zip(space.choices, alphas, strict=True)}
    torch.autograd.backward(problem.mixture(choices=choices))
    assert all(a.grad is not None for a, d in zip(alphas, space.choices, strict=True) if len(d.options) > 1)


def test_optuna_and_pymoo_search_a_problem() -> None:
    optuna, minimize = pytest.importorskip("optuna"), pytest.importorskip("pymoo.optimize").minimize
    nsga2 = pytest.importorskip("pymoo.algorithms.moo.nsga2").NSGA2
    space = spaces.nas_bench_macro()
    layers = {layer: layer_ms(layer) for layer in space.layers()}
    problem = Problem(space, LatencyPredictor.from_latencies(DEVICE, SETTING, layers), ms=2.0, bound="predicted")

    def accuracy(network: Network) -> float:
        return 1 - 1e7 / (2e7 + network.madds)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(problem.optuna_objective(accuracy), n_trials=30)
    assert problem.fits(study.best_trial.user_attrs["vector"])
    result = minimize(problem.as_pymoo(accuracy), nsga2(pop_size=20), ("n_gen", 5), seed=0)
    assert len(result.X)
    assert all(problem.fits(problem.vector_of(x)) for x in result.X)


def test_the_public_face_is_about_a_dozen_names() -> None:
    assert 12 <= len(search.__all__) <= 20
    assert {"Problem", "Found", "htas", "rcas", "evolution", "spaces", "measure", "verify"} <= set(search.__all__)


@pytest.mark.parametrize("name", FORMER)
def test_every_former_name_answers_or_says_what_to_write(name: str) -> None:
    if name in search._GONE:
        with pytest.raises(ImportError, match=rf"search has no {name} any more; write \S+"):
            getattr(search, name)
        return
    assert getattr(search, name) is not None


def imports_of(path: Path, modules: Sequence[str]) -> set[str]:
    """Return which modules a file imports when it runs, those inside functions too; annotations alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for part in node.body
        for inner in ast.walk(part)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(modules)


def test_no_two_files_of_search_need_each_other() -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "search").rglob("*.py")
    }
    # Packages answer for what lies in them by name, when they are asked.
    inner = {name: path for name, path in files.items() if path.stem != "__init__"}
    graph: dict[str, set[str]] = {name: imports_of(path, list(inner)) - {name} for name, path in inner.items()}
    left = dict(graph)
    # Whoever needs nobody that is left goes; a circle stays.
    for _ in graph:
        free = {name for name, needs in left.items() if not needs & left.keys()}
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, "a circle among " + ", ".join(itertools.islice(sorted(left), 12))


def test_lower_rooms_know_nothing_of_the_searches() -> None:
    above: dict[str, Any] = {
        "spaces": ("_problem", "_accuracy", "_runs", "htas", "rcas", "evolution", "_commands"),
        "_problem": ("_accuracy", "_runs", "htas", "rcas", "evolution", "_commands"),
        "_data": ("_problem", "_accuracy", "_runs", "htas", "rcas", "evolution", "_commands"),
        "_runs": ("htas", "rcas", "evolution", "_commands"),
        "evolution": ("htas", "rcas"),
        "rcas": ("htas",),
    }
    for room, forbidden in above.items():
        for path in (ROOT / "search" / room).glob("*.py"):
            text = path.read_text(encoding="utf-8")
            for other in forbidden:
                if room in ("evolution", "rcas", "htas") and other == "_commands":
                    continue
                assert f"search.{other}." not in "\n".join(
                    line for line in text.splitlines() if line.strip().startswith(("from ", "import "))
                ), f"{room}/{path.name} imports {other}"

"""The examples run as they stand, on tables of a simulated device and, where they measure, on this one."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from lut import LatencyTable
from profiler import TargetSpec, profile
from search.spaces._resnet_cifar import ResNetCifar

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    path = folder / "t.json"
    profile(
        ResNetCifar(expand=0.5, depth=20),
        target=TargetSpec("profiler._fake:FakeTarget", {"sigma": 0.01}),
        audit=12,
        groups=1,
        quick=True,
        time_budget_s=200.0,
        output=path,
        reference=folder / "r.json",
    )
    assert LatencyTable.load(path).audit is not None
    return path


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_optuna_keeps_the_budget(table: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("optuna")
    run("in_optuna", monkeypatch, table, 1e6)
    assert "200 of 200 networks keep" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="none of 200 networks keeps 1e-06 ms; the nearest is"):
        run("in_optuna", monkeypatch, table, 1e-6)


def test_pymoo_finds_a_front(table: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("pymoo")
    run("in_pymoo", monkeypatch, table)
    first, *lines = capsys.readouterr().out.splitlines()
    assert "of which none is better in both" in first
    rows = [[float(word) for word in line.split() if word[0].isdigit()] for line in lines]
    assert len(rows) >= 5
    assert rows == sorted(rows)


def test_logits_learn_the_milliseconds(table: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run("darts_loop", monkeypatch, table, 1e6)
    free = capsys.readouterr().out.splitlines()
    budget = float(free[-1].split(": ")[1].split(" ms")[0]) / 2
    run("darts_loop", monkeypatch, table, budget)
    bound = capsys.readouterr().out.splitlines()
    assert len(free) == len(bound) == 4
    assert float(bound[-1].split(": ")[1].split(" ms")[0]) <= budget
    # The logits have learnt it by themselves, before what they decide on is brought within the budget.
    first, last = (float(line.split(": ")[1].split(" ms")[0]) for line in (free[2], bound[2]))
    assert last < 1.1 * budget < first


def test_widths_are_suggested_for_a_pruned_network(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run("friendly_widths", monkeypatch, 20)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("0 +1, 21 channels") for line in lines)
    assert any(line.startswith("2.inner, 37 channels") for line in lines)

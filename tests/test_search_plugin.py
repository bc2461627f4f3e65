"""A space of forty lines that the package has never seen, and a search of somebody else's, by their entry points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SPACE = '''"""Chains of convolutions: each of four places is empty, or a 3x3 or a 5x5 convolution."""

from lut import Decision, LayerSlot, Network, NetworkLayer, SearchSpace, conv_norm_act, global_pool, linear

WIDTH, SIZE = 8, 32


def conv(kernel, channels=WIDTH):
    return conv_norm_act(channels, WIDTH, kernel_size=kernel, stride=1, activation="relu", input_size=(SIZE, SIZE))


BLOCKS = {0: None, 1: conv(3), 2: conv(5)}


class Chains(SearchSpace):
    """Chains of convolutions. Final."""

    name = "chains"

    @property
    def choices(self):
        return tuple(Decision(f"stage1.block{p}", (0, 1, 2), kind="operator") for p in range(1, 5))

    def decode(self, vector):
        items = [NetworkLayer("stem", conv(3, 3))]
        for p, option in enumerate(vector, start=1):
            if option:
                items.append(NetworkLayer(f"stage1.block{p}.conv", BLOCKS[option]))
        items += [NetworkLayer("pool", global_pool(WIDTH, input_size=(SIZE, SIZE)))]
        items += [NetworkLayer("classifier", linear(WIDTH, 10, bias=True))]
        return Network("chain " + "".join(map(str, vector)), tuple(items))

    def layers(self):
        return tuple(dict.fromkeys(item.layer for v in ((0,) * 4, (1, 2, 0, 0)) for item in self.decode(v).layers))

    def slots(self):
        fixed = [LayerSlot(item.name, (), lambda layer=item.layer: layer) for item in self.decode((0,) * 4).layers]
        return (*fixed, *(LayerSlot(f"stage1.block{p}.conv", (p - 1,), BLOCKS.get) for p in range(1, 5)))


def chains():
    return Chains()
'''
ACCURACY = """def accuracy(network):
    return 1 - 1e6 / (2e6 + network.madds)
"""
SEARCH = '''from typing import Annotated

import typer


def hello(name: Annotated[str, typer.Option("--name", help="Whom.")] = "you") -> None:
    """Say hello; a search of somebody else's."""
    print(f"hello {name}")
'''
ENTRY_POINTS = """[latency_lut.spaces]
chains = chains:chains

[latency_lut.searches]
hello = hello:hello
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is installed as a distribution is: with its entry points beside it."""
    folder = tmp_path_factory.mktemp("plug-in")
    (folder / "chains.py").write_text(SPACE)
    (folder / "hello.py").write_text(SEARCH)
    (folder / "my.py").write_text(ACCURACY)
    info = folder / "chains-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chains\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def run(folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("search-architecture")
    done = subprocess.run(
        [command, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "160"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_space_of_forty_lines_is_described(folder: Path) -> None:
    assert SPACE.count("\n") < 50
    assert "chains" in run(folder, "spaces").stdout
    described = json.loads(run(folder, "describe", "chains", "1,2,0,1", "--json").stdout)
    assert described["space"] == "chains"
    assert [layer["name"] for layer in described["layers"]][1:4] == [f"stage1.block{p}.conv" for p in (1, 2, 4)]


def test_rcas_searches_it(folder: Path) -> None:
    words = ("rcas", "--space", "chains", "--accuracy", "my.py:accuracy", "--data", "none", "--train-epochs", "0")
    found = json.loads(run(folder, *words, "--budget-madds", "3e6", "--output", "rcas", "--json").stdout)
    # All four places with 3×3 convolutions make 2.6 M multiply-adds, and a 5×5 in one place 3.6 M.
    assert found["network"]["vector"] == [1, 1, 1, 1]
    assert found["network"]["madds"] <= 3e6
    assert (folder / "rcas" / "report.html").exists()


@pytest.mark.parametrize("strategy", ["evolution", "local", "random"])
def test_evolution_searches_it(folder: Path, strategy: str) -> None:
    if strategy == "evolution":
        pytest.importorskip("pymoo")
    words = ("evolution", "--strategy", strategy, "--space", "chains", "--accuracy", "my.py:accuracy", "--data", "none")
    words += ("--train-epochs", "0", "--evaluations", "60", "--budget-madds", "3e6", "--output", strategy, "--json")
    found = json.loads(run(folder, *words).stdout)
    assert found["network"]["madds"] <= 3e6
    assert found["evaluated"] <= 60
    # Of its 81 networks these are all that are as large as may be; which place is empty makes no difference.
    assert found["network"]["value"] == pytest.approx(1 - 1e6 / (2e6 + found["network"]["madds"]))
    assert found["network"]["madds"] > 2.2e6


def test_a_search_of_somebody_elses_is_a_command(folder: Path) -> None:
    assert "hello" in run(folder, "--help").stdout
    assert run(folder, "hello", "--name", "world").stdout == "hello world\n"


def test_what_cannot_be_loaded_is_told_in_one_line(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[latency_lut.searches]\nbroken = nowhere_at_all:search\n"
        "[latency_lut.spaces]\nlost = nowhere_at_all:space\nodd = odd:space\n"
    )
    (tmp_path / "odd.py").write_text("def space():\n    raise ZeroDivisionError('by nothing')\n")
    # The others work as before.
    listed = run(tmp_path, "spaces").stdout
    assert "nas-bench-macro" in listed
    assert "cannot be used: the installed space 'lost' (nowhere_at_all:space) cannot be loaded: ModuleNot" in listed
    assert "odd  cannot be used: ZeroDivisionError: by nothing" in listed
    assert "'lost' (nowhere_at_all:space) cannot be loaded" in run(tmp_path, "describe", "lost", "1", code=2).stderr
    assert "Cannot be loaded" in run(tmp_path, "--help").stdout
    done = run(tmp_path, "broken", code=2)
    assert "the installed search 'broken' (nowhere_at_all:search) cannot be loaded" in done.stderr

"""``scripts/check-cuda``: what it does where there is no GPU, where a part fails, and where the time is up."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import distributions, entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import simulate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import _cuda_parts  # noqa: E402
import check_cuda  # noqa: E402
import cuda_modes  # noqa: E402
from check_cuda import GRACE_S, NO_TIME, PARTS, Outcome, Part, run_parts  # noqa: E402

THREE = tuple(Part(name, 10.0, f"what {name} proves") for name in ("one", "two", "three"))
HELD = Outcome("passed", (), 1.0, {"figure": 3})


class Clock:
    """Seconds that pass when a part runs."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line_and_fails(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [ROOT / "scripts" / "check-cuda", "--output", output],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.returncode == 1
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("check-cuda: there is no GPU to check here: target cuda ")
    assert not output.exists()


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check_cuda, "find_spec", lambda name: None if name in ("msgspec", "sklearn") else name)
    assert check_cuda.main([]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "msgspec, scikit-learn" in line


def test_a_part_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        check_cuda.main(["--parts", "pairs,heat"])
    assert caught.value.code == 2
    assert "no part is called heat" in capsys.readouterr().err


def test_the_parts_fit_into_eight_minutes_and_all_can_be_run() -> None:
    assert check_cuda.MINUTES <= 8
    assert sum(part.seconds for part in PARTS) + GRACE_S <= 60 * check_cuda.MINUTES
    assert [part.name for part in PARTS] == list(_cuda_parts.PARTS)


def test_a_part_that_fails_does_not_stop_the_others() -> None:
    saved: list[dict[str, str]] = []

    def run(part: Part, limit_s: float) -> Outcome:
        if part.name == "one":
            raise RuntimeError("the first thing\nand more")
        return HELD if part.name == "three" else Outcome("failed", ("too slow",), 2.0, {})

    found = run_parts(
        THREE, run, lambda f: saved.append({name: o.state for name, o in f.items()}), deadline=1000.0, clock=Clock()
    )
    assert found["one"].problems == ("RuntimeError: the first thing",)
    assert [outcome.state for outcome in found.values()] == ["failed", "failed", "passed"]
    # Each part's outcome is kept before the next one begins.
    assert [len(each) for each in saved] == [1, 2, 3]


@pytest.mark.parametrize(
    ("budget", "limits", "states"),
    [
        (100.0, [10.0, 10.0, 10.0], ["passed"] * 3),
        (10.0 + 8.0 + GRACE_S, [10.0, 8.0], ["passed", "passed", NO_TIME]),
        (10.0 + 2.0 + GRACE_S, [10.0], ["passed", NO_TIME, NO_TIME]),
        (0.0, [], [NO_TIME] * 3),
    ],
)
def test_nothing_runs_beyond_the_deadline(budget: float, limits: list[float], states: list[str]) -> None:
    clock = Clock()
    deadline = clock.now + budget
    given: list[float] = []

    def run(part: Part, limit_s: float) -> Outcome:
        del part
        given.append(limit_s)
        clock.now += limit_s
        assert clock.now + GRACE_S <= deadline
        return HELD

    found = run_parts(THREE, run, lambda _: None, deadline=deadline, clock=clock)
    assert given == pytest.approx(limits)
    assert [outcome.state for outcome in found.values()] == states


def test_shorter_checks_have_shorter_parts() -> None:
    given: list[float] = []

    def run(part: Part, limit_s: float) -> Outcome:
        given.append(limit_s)
        return HELD

    run_parts(THREE, run, lambda _: None, deadline=1000.0, share=0.25, clock=Clock())
    assert given == [2.5, 2.5, 2.5]


@pytest.mark.parametrize("states", [["passed", "passed"], ["passed", "failed"], ["passed", NO_TIME]])
def test_the_file_holds_all_parts_and_the_exit_code_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], states: list[str]
) -> None:
    output = tmp_path / "out" / "figures.json"
    seen: list[dict[str, Any]] = []

    def run(part: Part, limit_s: float, target: str) -> Outcome:
        assert target == "fake"
        seen.append(json.loads(output.read_text()))
        state = states[len(seen) - 1]
        return Outcome(state, () if state == "passed" else ("the reason",), 1.5, {"number": len(seen)})

    monkeypatch.setattr(check_cuda, "run_in_child", run)
    given = argparse.Namespace(output=output, target="fake", minutes=8.0)
    code = check_cuda._check(given, THREE[:2], began=check_cuda.time.monotonic())
    content = json.loads(output.read_text())
    assert code == (0 if states == ["passed", "passed"] else 1)
    assert content["passed"] == (code == 0)
    assert content["finished"]
    assert [part["state"] for part in content["parts"].values()] == states
    assert content["machine"]["model"]
    # It was there before the first part, and knew the first part's figures before the second.
    assert [part["state"] for part in seen[0]["parts"].values()] == ["not run yet", "not run yet"]
    assert seen[1]["parts"]["one"]["figures"] == {"number": 1}
    assert not seen[1]["passed"]
    assert f"figures in {output}" in capsys.readouterr().out


def test_the_figures_go_where_out_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    assert check_cuda.default_output() == tmp_path / "cuda_check.json"
    monkeypatch.delenv("OUT")
    assert check_cuda.default_output() == ROOT / "benchmarks" / "results" / "cuda_check.json"


PART = """
import json, os, pathlib, sys, time
figures = pathlib.Path(sys.argv[sys.argv.index("--figures") + 1])
def write(done, problems=()):
    figures.write_text(json.dumps({"figures": {"visits": 7}, "problems": list(problems), "done": done}))
write(False)
match sys.argv[1]:
    case "hangs": time.sleep(600)
    case "dies": os.kill(os.getpid(), 11)
    case "raises": raise ValueError("no such thing")
    case "finds": write(True, ["cold is faster than warm"])
    case "holds": write(True)
"""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("hangs", "was not done after 0 s"),
        ("dies", "ended with exit code -11"),
        ("raises", "ended with exit code 1: ValueError: no such thing"),
        ("finds", "cold is faster than warm"),
        ("holds", None),
    ],
)
def test_what_a_part_had_found_is_kept_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str | None
) -> None:
    (tmp_path / "_cuda_parts.py").write_text(PART)
    monkeypatch.setattr(check_cuda, "__file__", str(tmp_path / "check_cuda.py"))
    monkeypatch.setattr(check_cuda, "GRACE_S", 0.3 if name == "hangs" else 60.0)
    outcome = check_cuda.run_in_child(Part(name, 10.0, ""), 0.4, "fake")
    assert outcome.figures == {"visits": 7}
    assert outcome.state == ("passed" if problem is None else "failed")
    assert [problem in each for each in outcome.problems if problem] == [True] * (problem is not None)


def test_the_packages_are_found_as_if_they_were_installed(tmp_path: Path) -> None:
    check_cuda.write_metadata(tmp_path, (ROOT / "pyproject.toml").read_text())
    (found,) = distributions(path=[str(tmp_path)])
    assert found.metadata["Name"] == "latency-lut"
    declared = {(point.group, point.name, point.value) for point in found.entry_points}
    groups = ("latency_lut.targets", "latency_lut.spaces")
    installed = {(p.group, p.name, p.value) for group in groups for p in entry_points(group=group)}
    assert {point for point in declared if point[0] in groups} <= installed
    assert ("latency_lut.targets", "cuda", "profiler:CudaTarget") in declared
    assert ("latency_lut.spaces", "resnet-cifar", "search.spaces:resnet_cifar") in declared


def test_the_path_of_children_holds_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    with check_cuda.as_if_installed():
        folder, root, rest = os.environ["PYTHONPATH"].split(os.pathsep)
        assert (root, rest) == (str(ROOT), "/elsewhere")
        assert list(Path(folder).glob("latency_lut-*.dist-info"))
    assert os.environ["PYTHONPATH"] == "/elsewhere"
    assert not Path(folder).exists()


def pairs_of(process_sigma: float) -> dict[str, Any]:
    layers = cuda_modes.layers()[:4]
    protocol = _cuda_parts.pairs_protocol(100.0)
    changed = {name: getattr(protocol, name) for name in ("rounds_per_process", "most_processes", "precision")}
    _, result, _ = simulate(
        [*layers, *layers], sigma=0.01, process_sigma=process_sigma, protocol={**changed, "time_budget_s": 20.0}
    )
    return _cuda_parts.compared_pairs(result.visits, 4, protocol)


def test_pairs_of_the_same_layer_are_seldom_told_apart_by_several_processes() -> None:
    found = pairs_of(0.03)
    assert found["whole_processes"] >= 4
    for name in ("within_the_session", "between_sets_of_processes", "between_sets_by_intervals_across_runs"):
        assert found[name]["pairs"] >= 4
        assert found[name]["disjoint_share"] <= 0.1
    # Of single processes that differ, intervals know nothing.
    assert found["between_processes"]["disjoint_share"] > 0.2
    assert _cuda_parts.pairs_that_are_off(found) == []


def test_pairs_that_nobody_could_compare_are_a_failure() -> None:
    found = _cuda_parts.compared_pairs([], 4, _cuda_parts.pairs_protocol(10.0))
    assert found["between_processes"]["pairs"] == 0
    assert len(_cuda_parts.pairs_that_are_off(found)) == 2


GRAPHS = {
    "graphs": 2,
    "calls": 100,
    "copies": 100,
    "nodes_per_call": 3,
    "counted": True,
    "largest_graph_nodes": 150,
    "touched_bytes": 150,
    "l2_bytes": 50,
}


def modes(cold: float | None = 2.0, warm: float = 1.0, host: float = 3.0, **graphs: int) -> dict[str, Any]:
    return {
        "layer": {
            "device-cold": {"ms": cold, "reason": "why", "graphs": {"device-cold": {**GRAPHS, **graphs}}},
            "device-warm": {"ms": warm, "graphs": {}},
            "host": {"ms": host, "graphs": {}},
        }
    }


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (modes(), None),
        (modes(touched_bytes=149), "less than 3 L2"),
        (modes(l2_bytes=0), "less than 3 L2"),
        (modes(cold=None), "no cold number: why"),
        (modes(cold=0.8), "faster than warm"),
        (modes(host=0.7), "faster than the device's"),
        (modes(largest_graph_nodes=2001), "a graph of 2001 nodes"),
        (modes(largest_graph_nodes=3000, nodes_per_call=3000), None),
    ],
)
def test_the_three_modes_are_held_against_each_other(found: dict[str, Any], problem: str | None) -> None:
    problems = _cuda_parts.modes_that_are_off(found)
    assert len(problems) == (problem is not None)
    assert all(problem in each for each in problems if problem)


def test_a_cold_number_of_next_to_no_bytes_is_a_failure() -> None:
    tiny = str(_cuda_parts.TINY)
    assert _cuda_parts.modes_that_are_off({tiny: modes(cold=None)["layer"]}) == []
    (problem,) = _cuda_parts.modes_that_are_off({tiny: modes()["layer"]})
    assert "cannot outgrow the cache" in problem


@pytest.mark.parametrize(
    ("warm", "cold", "off"), [(0.9, 1.3, 0), (1.1, 0.9, 0), (1.2, 1.3, 1), (0.7, 0.8, 1), (1.3, 0.5, 2)]
)
def test_a_network_lies_between_its_warm_and_its_cold_sum(warm: float, cold: float, off: int) -> None:
    found = {"isolated": {"median": warm}, "in_context": {"median": cold}}
    assert len(_cuda_parts.sums_that_are_off(found)) == off


SOME_TESTS = """
import pytest
def test_holds(): pass
def test_fails(): assert 1 == 2
@pytest.mark.skip(reason="no such device")
def test_skips(): pass
def test_more(): pass
"""


def test_the_suites_tests_are_counted_one_by_one_and_none_is_begun_too_late(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SOME_TESTS)
    code = (
        f"import json, sys, time; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import _cuda_parts as p\n"
        "found = []\n"
        "for seconds in (-1.0, 1e6):\n"
        "    saved = []; task = p.Task('fake', 1.0, time.monotonic() + seconds, saved.append)\n"
        "    problems = p.run_tests(task, ['-c', '/dev/null', '--rootdir', '.', 'test_some.py'])\n"
        "    found.append([problems, saved[-1]])\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    late, (problems, figures) = json.loads(done.stdout.splitlines()[-1])
    assert late[0] == ["the time was up after 0 tests"]
    assert figures["passed"] == 2
    assert figures["skipped"] == {"test_skips": "no such device"}
    assert problems == ["test_fails: call: assert 1 == 2"]

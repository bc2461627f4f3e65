"""The parts of ``check_cuda.py``: each measures something of a target, says what it found, and what did not hold.

A part takes a target's name: on ``cpu`` all of them run too, on less, as a rehearsal.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from math import hypot, log
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import cuda_modes
import msgspec
import pytest
from _interleaved import CONTEXTS

from lut import linear
from lut._files import write_atomically
from lut._records import Protocol
from lut.errors import LatencyLutError, LayerFailedError
from profiler._judge import Judgement, judge
from profiler._plan import Plan, make_protocol
from profiler._target import load_target, target_spec
from profiler._visit import Visit, Visitor

__all__ = ["PARTS", "Task", "compared_pairs", "main"]

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"

# A sum of layers that find all in the cache is no more than the network, and one of layers that find nothing no less,
# by more than this.
SUM_TOLERANCE = 0.15
# What a layer that starts cold may be faster than warm, and a launch by the host than none, by noise alone.
COLD_TOLERANCE, HOST_TOLERANCE = 0.1, 0.2
MOST_FALSE = 0.1
RELEASED_BYTES = 64 << 20
HALF_OF_THE_TIME = 0.5
LEAST_VISITS = 2


class Size(NamedTuple):
    """How much a part measures: all of it on a GPU, little in a rehearsal."""

    networks: int
    batches: tuple[int, ...]
    layers: int
    batch: int
    table_batch: int
    widths: int | None
    repeats: int
    options: dict[str, Any]


GPU = Size(networks=3, batches=(1, 256), layers=5, batch=64, table_batch=1024, widths=None, repeats=3, options={})
REHEARSAL = Size(
    networks=1, batches=(1,), layers=2, batch=1, table_batch=1, widths=8, repeats=1, options={"threads": 1}
)


class Task(NamedTuple):
    """What a part is to do: on which target, until when by :func:`time.monotonic`, and where its figures go.

    ``save`` keeps figures so that what comes after may fail, or take too long.
    """

    target: str
    seconds: float
    until: float
    save: Callable[[dict[str, Any]], None]

    @property
    def size(self) -> Size:
        """How much is measured."""
        return GPU if self.target == "cuda" else REHEARSAL

    def left_s(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self.until - time.monotonic())


# So little a call that no number of copies that is allowed outgrows a cache of tens of MiB.
TINY = linear(8, 4, bias=True)


# --- conformance


class Recorder:
    """A plug-in of pytest's: keeps what became of each test, and ends the run when its time is up. Final."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.figures: dict[str, Any] = {"passed": 0, "failed": {}, "skipped": {}, "slowest": {}, "time_is_up": False}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test; the names of those that did not pass are kept, with the first line of why."""
        name = report.nodeid.rpartition("::")[2]
        if report.failed:
            self.figures["failed"][name] = f"{report.when}: {_why(report)}"
        elif report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.figures["skipped"][name] = why.removeprefix("Skipped: ")[:200]
        elif report.when == "call":
            self.figures["passed"] += 1
            slowest = {**self.figures["slowest"], name: round(report.duration, 2)}
            self.figures["slowest"] = dict(sorted(slowest.items(), key=lambda item: -item[1])[:8])
        if report.when == "teardown":
            self._task.save(self.figures)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Begin no test when the time is up."""
        if self._task.left_s():
            return None
        self.figures["time_is_up"] = True
        item.session.shouldstop = "the time is up"
        # The test is taken care of.
        return True


def conformance(task: Task) -> list[str]:
    """Run the suite that every target must pass, on the real device, and the target's own tests of it."""
    if task.target == "cuda":
        wanted = ["-k", "cuda and real", str(TESTS / "test_conformance.py"), str(TESTS / "test_cuda_target.py")]
    else:
        wanted = ["-k", f"{task.target}-isolated and (nanoseconds or fit)", str(TESTS / "test_conformance.py")]
    return run_tests(task, wanted)


def run_tests(task: Task, wanted: Sequence[str]) -> list[str]:
    """Run pytest's tests by its arguments, and return what did not hold."""
    recorder = Recorder(task)
    # Another version of PyTorch warns of other things; that is for the developers' suite.
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "default", "--tb=line"]
    code = int(pytest.main([*quiet, *wanted], plugins=[recorder]))
    figures = recorder.figures
    task.save({**figures, "exit_code": code})
    problems = [f"{name}: {why}" for name, why in figures["failed"].items()]
    if figures["time_is_up"]:
        problems.append(f"the time was up after {figures['passed']} tests")
    elif not problems and (code or not figures["passed"]):
        problems.append(f"pytest ended with exit code {code} after {figures['passed']} tests")
    return problems


def _why(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return _last_line(str(report.longrepr)) if crash is None else str(crash.message).splitlines()[0][:300]


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""


# --- additivity


def additivity(task: Task) -> list[str]:
    """Hold sums of layers against whole networks, each space and batch in a process of its own."""
    found: dict[str, Any] = {}
    problems: list[str] = []
    cases = [(space, batch) for batch in task.size.batches for space in ("resnet", "mobile")]
    with tempfile.TemporaryDirectory() as folder:
        for done, (space, batch) in enumerate(cases):
            name = f"{space}, batch {batch}"
            path = Path(folder) / "one.json"
            path.unlink(missing_ok=True)
            limit = task.left_s() / (len(cases) - done)
            command = [sys.executable, str(HERE / "additivity.py"), "--one", str(path), "--targets", task.target]
            command += ["--spaces", space, "--networks", str(task.size.networks), "--batch", str(batch)]
            # Loading the framework and the device takes its part of the time.
            command += ["--rounds", "8", "--seconds", f"{HALF_OF_THE_TIME * limit:.1f}"]
            problem = _run(command, limit)
            if problem is not None:
                problems.append(f"{name}: {problem}")
                continue
            found[name] = msgspec.json.decode(path.read_bytes())
            problems += [f"{name}: {what}" for what in sums_that_are_off(found[name])]
            task.save(found)
    return problems


def sums_that_are_off(found: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the ratios of sums to wholes: a network lies between its warm and its cold sum."""
    warm, cold = found["isolated"]["median"], found["in_context"]["median"]
    problems = []
    if not warm <= 1 + SUM_TOLERANCE:
        problems.append(f"layers that find all in the cache add up to {warm:.2f} times the network")
    if not cold >= 1 - SUM_TOLERANCE:
        problems.append(f"layers that find nothing in the cache add up to {cold:.2f} times the network")
    return problems


def _run(command: Sequence[str], limit_s: float) -> str | None:
    """Run a command within so many seconds; return in one line what went wrong, ``None`` if nothing did."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=max(1.0, limit_s))
    except subprocess.TimeoutExpired:
        return f"not done after {limit_s:.0f} s"
    if done.returncode:
        return _last_line(done.stderr) or f"exit code {done.returncode}"
    return None


# --- modes


def modes(task: Task) -> list[str]:
    """Time layers in every mode, and assert what passes through the cache between two uses of a byte."""
    found: dict[str, Any] = {}
    layers = (*cuda_modes.layers()[: task.size.layers], TINY)
    by_mode = _modes_of(task.target)
    for mode, options in by_mode.items():
        target = load_target(target_spec(task.target, layers, batch=task.size.batch, **task.size.options, **options))
        visitor = Visitor(target, layers, make_protocol(), process=0, origin=target.clock())
        for entry, layer in enumerate(layers):
            result: dict[str, Any] = {}
            try:
                result["ms"] = median(visitor.visit(entry).ms for _ in range(3))
                result["graphs"] = graphs_of(target, visitor, entry)
            except LayerFailedError as error:
                if error.reason == "crashed":
                    raise
                result |= {"ms": None, "reason": f"{error.reason}: {error}"}
            found.setdefault(str(layer), {})[mode] = result
            task.save(found)
        target.close()
    if task.target != "cuda":
        return [f"{name}, {mode}: no number" for name, by in found.items() for mode in by_mode if not by[mode]["ms"]]
    return modes_that_are_off(found)


def _modes_of(target: str) -> dict[str, dict[str, Any]]:
    return cuda_modes.MODES.get(target) or {"isolated": CONTEXTS[target][0], "network": CONTEXTS[target][1]}


def graphs_of(target: Any, visitor: Visitor, entry: int) -> dict[str, Any]:
    """Return what the graphs of a layer that was just visited are, by mode; empty for targets that have none."""
    facts = getattr(target, "graph_facts", None)
    return {} if facts is None else {mode: each._asdict() for mode, each in facts(visitor._get(entry)).items()}


def modes_that_are_off(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return what does not hold of the three modes of layers on a GPU."""
    problems = []
    for layer, by_mode in found.items():
        cold, warm, host = (by_mode[mode]["ms"] for mode in ("device-cold", "device-warm", "host"))
        if layer == str(TINY):
            if cold is not None:
                problems.append(f"{layer}: its few bytes cannot outgrow the cache, and it has a cold number")
        elif cold is None:
            problems.append(f"{layer}: no cold number: {by_mode['device-cold']['reason']}")
        elif (facts := by_mode["device-cold"]["graphs"].get("device-cold")) is None:
            problems.append(f"{layer}: a cold number, and nothing tells of what graphs")
        elif not facts["touched_bytes"] >= 3 * facts["l2_bytes"] > 0:
            problems.append(f"{layer}: {facts['touched_bytes']} bytes are less than 3 L2 caches of {facts['l2_bytes']}")
        if warm is None or host is None:
            problems.append(f"{layer}: no warm or host number")
            continue
        if cold is not None and cold < (1 - COLD_TOLERANCE) * warm:
            problems.append(f"{layer}: cold {cold:g} ms is faster than warm {warm:g} ms")
        if host < (1 - HOST_TOLERANCE) * warm:
            problems.append(f"{layer}: host {host:g} ms is faster than the device's {warm:g} ms")
        problems += [f"{layer}: {what}" for mode in by_mode.values() for what in too_large(mode.get("graphs", {}))]
    return problems


def too_large(graphs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return which graphs are larger than drivers bear, though more than one call is in them."""
    from profiler._cuda import MOST_NODES

    return [
        f"a graph of {facts['largest_graph_nodes']} nodes in mode {mode}, and {MOST_NODES} are allowed"
        for mode, facts in graphs.items()
        if facts["largest_graph_nodes"] > max(MOST_NODES, facts["nodes_per_call"])
    ]


# --- pairs


def pairs(task: Task) -> list[str]:
    """Measure each layer as two, in several processes, and count how often intervals tell the two apart."""
    from profiler._journal import FORMAT, VERSION, Journal, JournalHeader
    from profiler._session import run_session
    from profiler._worker import ChildWorker, Worker

    layers = tuple(cuda_modes.layers()[: min(4, task.size.layers)])
    spec = target_spec(task.target, layers, batch=task.size.batch, **task.size.options)
    # What comes before and after measuring: loading the framework, judging.
    protocol = pairs_protocol(task.left_s() - min(20.0, 0.4 * task.seconds))
    plan = Plan(spec.factory, spec.options, layers + layers, protocol)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal")
        journal.open(exclusive=True)
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        journal.append(JournalHeader(FORMAT, VERSION, plan.digest, now, time.time()))
        origin = time.monotonic()

        def make_worker(process: int) -> Worker:
            return ChildWorker(spec, plan.entries, protocol, process=process, origin=origin, journal=journal.path)

        result = run_session(plan, make_worker, journal)
        journal.close()
    found = compared_pairs(result.visits, len(layers), protocol)
    found |= {"layers": [str(layer) for layer in layers], "failures": [f.message for f in result.failures]}
    task.save(found)
    return [*found["failures"], *pairs_that_are_off(found)]


def pairs_protocol(time_budget_s: float) -> Protocol:
    """Return a protocol by which no layer is done before the time is up, each process making a first look's rounds.

    And one more, since a visit may be spoiled.
    """
    protocol = make_protocol(precision=0.0005, time_budget_s=max(1.0, time_budget_s))
    return msgspec.structs.replace(
        protocol, rounds_per_process=protocol.first_look + 1, most_processes=100, most_visits=10_000
    )


def compared_pairs(visits: Sequence[Visit], layers: int, protocol: Protocol) -> dict[str, Any]:
    """Return how often intervals tell apart what is the same: a layer, and the same layer ``layers`` entries on.

    - ``within_a_process``: both in one process, of its visits alone.
    - ``between_processes``: one process's against another's.
    - ``within_the_session``: of all visits, as two layers of one table are compared.
    - ``between_sets_of_processes``: some processes' against as many others', in the ways to divide them, as two tables
      are compared; by intervals within a run and across runs.
    """
    clean = [visit for visit in visits if visit.cause is None]
    by_process: dict[int, list[Visit]] = {}
    for visit in clean:
        by_process.setdefault(visit.process, []).append(visit)
    # One that the end of the time cut short says nothing of some layers.
    whole = [
        process
        for process, found in sorted(by_process.items())
        if all(sum(v.entry == e for v in found) >= LEAST_VISITS for e in range(2 * layers))
    ]
    alone = {process: judge(by_process[process], protocol, references=None) for process in whole}
    within, between, sets, across = (_Pairs(layers, protocol.first_look) for _ in range(4))
    for judged in alone.values():
        within.add(judged, judged)
    for first, second in itertools.combinations(whole, 2):
        other = judge(by_process[second], protocol, references=alone[first].references)
        between.add(alone[first], other)
    session = _Pairs(layers, protocol.first_look)
    if whole:
        together = judge([v for p in whole for v in by_process[p]], protocol, references=None)
        session.add(together, together)
    for one, two in _halves(whole):
        mine = judge([v for p in one for v in by_process[p]], protocol, references=None)
        other = judge([v for p in two for v in by_process[p]], protocol, references=mine.references)
        sets.add(mine, other)
        across.add(mine, other, across=True)
    return {
        "processes": len(by_process),
        "whole_processes": len(whole),
        "visits": len(clean),
        "spoiled_visits": len(visits) - len(clean),
        "within_a_process": within.figures(),
        "between_processes": between.figures(),
        "within_the_session": session.figures(),
        "between_sets_of_processes": {"of_each": len(whole) // 2, **sets.figures()},
        "between_sets_by_intervals_across_runs": across.figures(),
    }


def _halves(processes: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the ways to divide processes into two halves of at least two, at most fifty; the last of an odd number is
    left out.
    """
    even = processes[: len(processes) // 2 * 2]
    if len(even) < 4:
        return
    ways = itertools.combinations(even[1:], len(even) // 2 - 1)
    for rest in itertools.islice(ways, 50):
        one = (even[0], *rest)
        yield one, tuple(p for p in even if p not in one)


class _Pairs:
    """Counts pairs of intervals of the same thing, each of ``first_look`` visits at least. Final."""

    def __init__(self, layers: int, first_look: int) -> None:
        self._layers, self._first_look = layers, first_look
        self.ratios: list[float] = []
        self.disjoint = self.beyond = 0

    def add(self, one: Judgement, two: Judgement, *, across: bool = False) -> None:
        """Count each layer of ``one`` against its double of ``two``.

        Intervals within a run say nothing of the speed that all layers have in common: between two runs, that is taken
        out first.
        """
        doubles = [(one.layers[entry], two.layers[entry + self._layers]) for entry in range(self._layers)]
        logs = [log(a.median_ms / b.median_ms) for a, b in doubles]
        common = 0.0 if across or one is two else median(logs)
        for (a, b), distance in zip(doubles, logs, strict=True):
            if min(len(a.visits), len(b.visits)) < self._first_look:
                continue
            x, y = (a.across_runs, b.across_runs) if across else (a.within_run, b.within_run)
            self.ratios.append(abs(distance - common))
            self.disjoint += log(x.high_ms / y.low_ms) < common or log(x.low_ms / y.high_ms) > common
            # What a reader does who asks whether the difference is larger than both are uncertain by.
            self.beyond += self.ratios[-1] > hypot(*(log(i.high_ms / i.low_ms) / 2 for i in (x, y)))

    def figures(self) -> dict[str, Any]:
        """Return the shares; ``None`` where nothing was compared."""
        count = len(self.ratios)
        return {
            "pairs": count,
            "disjoint_share": round(self.disjoint / count, 4) if count else None,
            "beyond_both_share": round(self.beyond / count, 4) if count else None,
            "median_difference_percent": round(100 * median(self.ratios), 3) if count else None,
            "largest_difference_percent": round(100 * max(self.ratios), 3) if count else None,
        }


def pairs_that_are_off(found: Mapping[str, Any]) -> list[str]:
    """Return which shares of false positives are too large, or could not be told.

    What single processes say is a finding, not a promise: no table's interval is of one process.
    """
    problems = []
    for name in ("within_the_session", "between_sets_of_processes"):
        share = found[name]["disjoint_share"]
        if share is None:
            problems.append(f"{name}: {found['whole_processes']} processes were too few to tell")
        elif share > MOST_FALSE:
            problems.append(
                f"{name}: intervals told the same layer apart in {share:.0%} of {found[name]['pairs']} pairs"
            )
    return problems


# --- cuda_modes


def three_modes(task: Task) -> list[str]:
    """Run the benchmark of the three modes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "cuda_modes.py"), "--results", folder, "--target", task.target]
        command += ["--repeats", str(task.size.repeats), "--visits", "3", "--batch", str(task.size.batch)]
        problem = _run([*command, "--seconds", f"{0.9 * task.left_s():.1f}"], task.left_s())
        if problem is not None:
            return [problem]
        found = msgspec.json.decode((Path(folder) / "cuda_modes.json").read_bytes())
    task.save({name: found[name] for name in ("device", "batch", "repeats", "visits", "figures", "overhead")})
    return [
        f"{layer}, {mode}: no number"
        for layer, by_mode in found["figures"].items()
        for mode in found["overhead"]
        if not by_mode.get(mode)
    ]


# --- table


def table(task: Task) -> list[str]:
    """Measure a space's curves as a quick profile does, and choose widths."""
    from predictors import hardware_aware_widths, measured_curves
    from profiler import load_space, profile

    size = task.size
    space = load_space("resnet-cifar")
    curves = [curve for curve in space.curves() if size.widths is None or curve.name == "stage 1"]
    if size.widths is not None:
        curves = [msgspec.structs.replace(c, layers=c.layers[: size.widths]) for c in curves]
    # What widths are chosen from. The space's other layers would take the time three times.
    layers = [layer for curve in curves for layer in curve.layers]
    began = time.monotonic()
    # What comes before and after measuring: loading the framework, choosing widths.
    budget = max(1.0, task.left_s() - min(20.0, 0.4 * task.seconds))
    with tempfile.TemporaryDirectory() as folder:
        found = profile(
            curves,
            target=task.target,
            batch=size.table_batch,
            **size.options,
            quick=True,
            time_budget_s=budget,
            reference=Path(folder) / "references.json",
        )
    session = found.sessions[0]
    visits = [measurement.n_visits for measurement in found.values()]
    figures: dict[str, Any] = {
        "setting": str(found.setting),
        "device": found.device,
        "software": session.software,
        "wall_s": round(time.monotonic() - began, 1),
        "measuring_s": session.measuring_s,
        "layers": len(layers),
        "left_out": len(set(space.layers()) - set(layers)),
        "measured": len(found),
        "converged": sum(measurement.converged for measurement in found.values()),
        "failures": [f"{failure.layer}: {failure.reason}: {failure.message}" for failure in found.failures[:20]],
        "processes": session.processes,
        "visits": {"least": min(visits, default=0), "most": max(visits, default=0), "all": sum(visits)},
        "first_look": session.protocol.first_look,
        "rounds_per_process": session.protocol.rounds_per_process,
        "half_width_median": median(m.relative_half_width for m in found.values()) if len(found) else None,
        "spread": session.spread,
        "preflight": session.preflight,
    }
    task.save(figures)
    problems = [*figures["failures"]]
    if figures["measured"] < len(layers):
        problems.append(f"{len(layers) - figures['measured']} of {len(layers)} layers have no number")
    few = [
        str(layer)
        for layer, measurement in found.items()
        if measurement.n_visits >= session.protocol.first_look
        and len(set(measurement.visits.process)) < least_processes(task.target)
    ]
    if few:
        problems.append(f"{len(few)} layers were visited by too few processes, {few[0]} among them")
    if not problems:
        groups = 8 if size.widths is None else 4
        figures["widths"] = {
            curve.name: [choice._asdict() for choice in hardware_aware_widths(curve, groups=groups).choices]
            for curve in measured_curves(found)
        }
        figures["columns_ms"] = {
            curve.name: dict(zip(map(str, curve.channels), curve.ms, strict=True)) for curve in measured_curves(found)
        }
        task.save(figures)
    return problems


def least_processes(target: str) -> int:
    """Return how many processes must have visited a layer that is known well enough."""
    from profiler import available_targets
    from profiler._target import target_factory

    least: int = getattr(target_factory(available_targets()[target]), "least_processes", 1)
    return least


# --- memory


def memory(task: Task) -> list[str]:
    """Find what layers take: memory, graphs, the time to capture them; and what preflight says."""
    from profiler import profile

    found: dict[str, Any] = {"layers": {}}
    problems: list[str] = []
    layers = tuple(cuda_modes.layers()[: task.size.layers])
    for batch in dict.fromkeys((1, task.size.table_batch)):
        target = load_target(target_spec(task.target, layers, batch=batch, **task.size.options))
        device = DeviceMemory(task.target)
        visitor = Visitor(target, layers, make_protocol(), process=0, origin=target.clock())
        visitor.visit(0)
        for entry, layer in enumerate(layers):
            free = device.free()
            device.forget_peak()
            began = time.monotonic()
            result: dict[str, Any] = {}
            try:
                visit = visitor.visit(entry)
                result = {"ms": visit.ms, "also": visit.also, "visit_s": round(time.monotonic() - began, 3)}
                result["graphs"] = graphs_of(target, visitor, entry)
                problems += [f"{layer}, batch {batch}: {what}" for what in too_large(result["graphs"])]
            except LayerFailedError as error:
                if error.reason == "crashed":
                    raise
                result = {"ms": None, "reason": f"{error.reason}: {error}"}
            result |= device.peak()
            visitor._forget(entry)
            kept = free - device.free()
            result["kept_bytes"] = kept
            if entry and kept > RELEASED_BYTES:
                problems.append(f"{layer}, batch {batch}: {kept >> 20} MiB of the device were not given back")
            found["layers"].setdefault(str(layer), {})[f"batch {batch}"] = result
            task.save(found)
        target.close()
    found["resident_mib"] = round(_resident_bytes() / 2**20)
    with tempfile.TemporaryDirectory() as folder:
        seen = profile(
            layers[:1],
            target=task.target,
            **task.size.options,
            quick=True,
            time_budget_s=max(1.0, min(12.0, task.left_s() / 2)),
            reference=Path(folder) / "references.json",
        )
    found["preflight"] = seen.sessions[0].preflight
    task.save(found)
    if not found["preflight"].noise_floor > 0:
        problems.append(f"{found['preflight'].noise_floor_visits} visits were too few to tell the noise floor")
    return problems


class DeviceMemory:
    """What is taken of a GPU's memory; all zeros where there is none. Final."""

    def __init__(self, target: str) -> None:
        import torch

        self._cuda = torch.cuda if target == "cuda" else None

    def free(self) -> int:
        """Return the bytes that nobody holds."""
        if self._cuda is None:
            return 0
        self._cuda.synchronize()
        self._cuda.empty_cache()
        return int(self._cuda.mem_get_info()[0])

    def forget_peak(self) -> None:
        """Begin anew to watch for the peak."""
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats()

    def peak(self) -> dict[str, float]:
        """Return the most that was allocated and reserved since, in MiB."""
        if self._cuda is None:
            return {}
        return {
            "peak_allocated_mib": round(self._cuda.max_memory_allocated() / 2**20, 1),
            "peak_reserved_mib": round(self._cuda.max_memory_reserved() / 2**20, 1),
        }


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


PARTS: dict[str, Callable[[Task], list[str]]] = {
    "conformance": conformance,
    "additivity": additivity,
    "modes": modes,
    "pairs": pairs,
    "cuda_modes": three_modes,
    "table": table,
    "memory": memory,
}


def main() -> None:
    """Run one part, and write its figures, what did not hold, and that it came to its end."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("part", choices=list(PARTS))
    options.add_argument("--target", required=True)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--figures", type=Path, required=True)
    given = options.parse_args()
    latest: dict[str, Any] = {}

    def write(problems: Sequence[str], *, done: bool) -> None:
        content = {"figures": latest, "problems": list(problems)[:50], "done": done}
        write_atomically(given.figures, msgspec.json.encode(content))

    def save(figures: dict[str, Any]) -> None:
        latest.clear()
        latest.update(figures)
        write((), done=False)

    try:
        problems = PARTS[given.part](Task(given.target, given.seconds, time.monotonic() + given.seconds, save))
    except LatencyLutError as error:
        problems = [str(error)]
    write(problems, done=True)


if __name__ == "__main__":
    main()

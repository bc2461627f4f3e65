"""Exporting from end to end: plan, convert in a few processes, check, write the manifest. Needs no Apple hardware."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from lut import ChannelCurve, Layer, UsageError
from lut._files import file_error, read_bytes, write_atomically
from lut._folder_lock import LOCK_NAME, folder_lock
from lut._option_names import ELSEWHERE_OR_RESTART, OTHER_OUTPUT, RESTART, go_on, option_text
from lut._records import CurveRecord
from lut.errors import FileAccessError, InterruptedRunError, ProfileError, TargetUnavailableError
from profiler._coreml._bundle import (
    FORMAT,
    MANIFEST,
    VERSION,
    ExportFailure,
    LayerEntry,
    Manifest,
    NetworkEntry,
    Program,
    Term,
    bundle_id,
    manifest_schema,
)
from profiler._coreml._options import ExportOptions
from profiler._coreml._programs import Plan, ProgramPlan, plan_layers
from profiler._coreml._timings import timings_schema
from profiler._coreml._worker import BOOT, Answer, Hello, NetworkPlan, Order
from profiler._model import ModelSpec

__all__ = ["ExportProgress", "ExportResult", "export_bundle"]

STATE = ".export"
OURS = (MANIFEST, "programs", "runner", "schema", STATE)
# A worker is replaced after so many programs: what coremltools keeps between conversions stays bounded.
PROGRAMS_PER_WORKER = 500
PROGRAM_LIMIT_S = 900.0
MOST_WORKERS = 4
LONGEST_ANSWER = 1 << 24
SCHEME_TEXT = (
    "ms(layer) = sum of weight * ms(program) over the layer's 'value'. Context network: what one more copy adds to a "
    "program of copies (role chain: one after another; role parallel: side by side on distinct inputs, outputs summed, "
    "less what those additions cost: role adds). Context isolated: the program of one copy, Core ML's overhead included"
)


class ExportProgress(NamedTuple):
    """How far an export is: programs done (those kept from before included) of all, and seconds."""

    done: int
    total: int
    failed: int
    elapsed_s: float
    left_s: float | None


class ExportResult(NamedTuple):
    """A finished export: its manifest, where it is, how many programs an earlier run had left, seconds and bytes."""

    folder: Path
    manifest: Manifest
    kept: int
    elapsed_s: float
    workers: int

    @property
    def bytes(self) -> int:
        """Size of the programs."""
        return sum(file.bytes for program in self.manifest.programs for file in program.files)


def export_bundle(
    folder: str | os.PathLike[str],
    *,
    options: ExportOptions,
    layers: Iterable[Layer] = (),
    curves: Iterable[ChannelCurve] = (),
    models: Sequence[ModelSpec] = (),
    networks: Sequence[NetworkPlan] = (),
    restart: bool = False,
    workers: int | None = None,
    progress: Callable[[ExportProgress], None] = lambda _: None,
) -> ExportResult:
    """Convert layers and networks into a bundle folder for timing on Apple hardware.

    An interrupted export goes on where it stopped when it is called again. What cannot be converted is a failure in
    the manifest.

    Args:
        folder: the bundle; made if it is missing, in a folder that exists.
        options: from :func:`~profiler._coreml._options.make_options`.
        layers: what a table is wanted for; each once.
        curves: channel sweeps among the layers.
        models: users' networks, each timed as one program.
        networks: networks of layers, each timed as one program, with names of their own.
        restart: discard what an earlier export left there, finished or not.
        workers: converting processes; by default as many as there are CPUs for this one, four at most.
        progress: called whenever a program is done.

    Raises:
        TargetUnavailableError: coremltools is not installed, or without its native library.
        UsageError: nothing to export, a finished bundle or somebody's files in ``folder``, a model that does not run.
        FileAccessError: the folder cannot be written, or the disk is too full.
        InterruptedRunError: stopped by the user; what was converted is kept.
    """
    from profiler._coreml._convert import check_installed

    entries = tuple(dict.fromkeys(layers))
    if not entries and not models and not networks:
        raise UsageError("there is nothing to export: give models (--model), layers (--layers) or a space (--space)")
    check_installed()
    root = Path(folder)
    plan = plan_layers(entries, options)
    began = time.monotonic()
    with _bundle_folder(root, restart=restart):
        state = root / STATE
        _check_state(state, root, plan, options, models, networks)
        _check_space(root, plan, options)
        (root / "programs").mkdir(exist_ok=True)
        (state / "done").mkdir(exist_ok=True)
        names = [*_model_names(models), *(network.name for network in networks)]
        count = max(1, min(workers or min(_cpus(), MOST_WORKERS), len(plan.programs) + len(names)))
        orders = [Order(i, model=(name, m)) for i, (name, m) in enumerate(zip(names, models, strict=False))]
        orders += [Order(len(models) + i, network=network) for i, network in enumerate(networks)]
        # The longest first, so that no worker is left alone with one at the end.
        by_size = sorted(plan.programs, key=lambda program: -program.copies)
        orders += [Order(len(names) + i, plan=program) for i, program in enumerate(by_size)]
        answers: dict[int, Answer] = {}
        try:
            software = _convert_all(root, options, orders, answers, count, began, progress)
        except KeyboardInterrupt:
            kept = sum(answer.program is not None for answer in answers.values())
            raise InterruptedRunError(
                f"{kept} of {len(orders)} programs are kept in {root}; {go_on(restart=restart)}"
            ) from None
        manifest = _manifest(plan, entries, curves, names, options, by_size, answers, software)
        _finish(root, manifest)
    return ExportResult(root, manifest, sum(a.kept for a in answers.values()), time.monotonic() - began, count)


def _model_names(models: Sequence[ModelSpec]) -> list[str]:
    """Return a name for each model that no other has: by its file, else with its input, its folder, or its path."""
    ways: list[Callable[[ModelSpec], str]] = [
        str,
        lambda model: f"{model} {model.input_text}".strip(),
        lambda model: f"{Path(model.place).parent.name}/{model} {model.input_text}".strip(),
        lambda model: f"{model.place}:{model.factory} {model.input_text}".strip(),
    ]
    names = []
    for model in models:
        told = next((way for way in ways if [way(other) for other in models].count(way(model)) == 1), ways[-1])
        names.append(told(model))
    return names


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _bundle_folder(root: Path, *, restart: bool) -> Iterator[None]:
    """Make or check the folder and hold its lock."""
    try:
        # Listing first: a folder of somebody else's files must not even get our lock file.
        names = {entry.name for entry in root.iterdir()} if root.exists() else set()
        if (names - {".DS_Store"}) and STATE not in names and MANIFEST not in names:
            raise UsageError(
                f"{root} holds other files and no bundle; choose an empty or a new one: {option_text('output')}"
            )
        if MANIFEST in names and STATE not in names and not restart:
            raise UsageError(
                f"{root} holds a finished bundle; {RESTART} exports again and replaces it, "
                f"{OTHER_OUTPUT} writes elsewhere"
            )
        if not root.exists():
            root.mkdir()
        (root / STATE).mkdir(exist_ok=True)
    except OSError as error:
        raise file_error(root, "write", error) from None
    for name in (STATE, f"{STATE}/done", "programs", "runner", "schema"):
        if (root / name).is_symlink():
            raise UsageError(f"{root / name} is a link, and no export left it; choose another: {option_text('output')}")
    with folder_lock(root / STATE, doing="export"):
        if restart:
            _clear(root)
        yield


def _clear(root: Path) -> None:
    """Remove what an export wrote, and nothing else; the lock stays."""
    for name in (MANIFEST, "programs", "runner", "schema"):
        _remove(root / name)
    for entry in (root / STATE).iterdir():
        if entry.name != LOCK_NAME:
            _remove(entry)


def _remove(place: Path) -> None:
    try:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    except OSError as error:
        raise file_error(place, "write", error) from None


class _State(msgspec.Struct, frozen=True):
    """What a half-finished export is of; another one must not be mixed into it."""

    options: ExportOptions
    programs: tuple[ProgramPlan, ...]
    models: tuple[ModelSpec, ...]
    networks: tuple[NetworkPlan, ...]


def _check_state(
    state: Path,
    root: Path,
    plan: Plan,
    options: ExportOptions,
    models: Sequence[ModelSpec],
    networks: Sequence[NetworkPlan],
) -> None:
    content = msgspec.json.encode(_State(options, plan.programs, tuple(models), tuple(networks)))
    path = state / "plan.json"
    # What ended before its first program, at a model that does not run say, is nothing to protect.
    begun = (state / "done").exists() and any((state / "done").iterdir())
    if begun and path.exists() and read_bytes(path) != content:
        raise UsageError(
            f"{root} holds an interrupted export with other options, layers or models. Run that command again to "
            f"finish it, {ELSEWHERE_OR_RESTART}"
        )
    write_atomically(path, content)


def _check_space(root: Path, plan: Plan, options: ExportOptions) -> None:
    size = 2 if options.dtype == "float16" else 4
    needed = sum(program.parameters * size + 60_000 for program in plan.programs)
    # Twice the largest again: a program lies in a temporary folder before it is moved.
    needed += 2 * max([program.parameters * size for program in plan.programs] or [0])
    there = sum(file.stat().st_size for file in (root / "programs").rglob("*") if file.is_file())
    free = shutil.disk_usage(root).free
    if needed - there > free:
        raise FileAccessError(
            f"the programs need about {(needed - there) >> 20} MiB in {root}, and {free >> 20} MiB are free; free some "
            "space, then run the same command again"
        )


class _Worker:
    """A converting process, seen from the thread that serves it."""

    def __init__(self, root: Path, options: ExportOptions, log: IO[bytes]) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=root / STATE))
        here = Path(__file__).resolve().parent.parent.parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "LATENCY_LUT_ROOT": str(here)},
        )
        absolute = root.resolve()
        hello = Hello(
            root=str(absolute),
            temporary=str(self.temporary.resolve()),
            records=str(absolute / STATE / "done"),
            options=options,
        )
        self.count = 0
        self.late = False
        self.hello = self._ask(msgspec.json.encode(hello))

    def convert(self, order: Order) -> Answer | None:
        """Return the answer, ``None`` if the process died of it."""
        self.count += 1
        watchdog = threading.Timer(PROGRAM_LIMIT_S, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            return self._ask(msgspec.json.encode(order))
        finally:
            watchdog.cancel()

    def ending(self) -> str:
        """Return how the process ended that gave no answer."""
        if self.late:
            return f"ended after {PROGRAM_LIMIT_S:.0f} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Its output may close a moment before it ends.
            code = self.process.wait(timeout=10)
            if code >= 0:
                return f"exit code {code}"
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
            return f"killed by signal {-code}"
        return "it closed its output"

    def _give_up(self) -> None:
        self.late = True
        self.process.kill()

    def _ask(self, line: bytes) -> Answer | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline(LONGEST_ANSWER)
            # A user's model may write where only answers belong; that ends its process like a crash.
            return msgspec.json.decode(answer, type=Answer) if answer.endswith(b"\n") else None
        except (OSError, ValueError, msgspec.DecodeError):
            return None

    def close(self) -> None:
        """End the process and remove its temporary files."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        shutil.rmtree(self.temporary, ignore_errors=True)


def _convert_all(
    root: Path,
    options: ExportOptions,
    orders: Sequence[Order],
    answers: dict[int, Answer],
    count: int,
    began: float,
    progress: Callable[[ExportProgress], None],
) -> dict[str, str]:
    """Fill ``answers`` by order number and return the versions of the software that converted."""
    waiting: queue.SimpleQueue[Order] = queue.SimpleQueue()
    for order in orders:
        waiting.put(order)
    done: queue.SimpleQueue[Answer | BaseException | dict[str, str]] = queue.SimpleQueue()
    stop = threading.Event()
    running: list[_Worker] = []
    for left in (root / STATE).glob("tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    with (root / STATE / "log.txt").open("wb") as log:
        threads = [
            threading.Thread(target=_serve, args=(root, options, waiting, done, stop, running, log), daemon=True)
            for _ in range(count)
        ]
        software: dict[str, str] = {}
        try:
            for thread in threads:
                thread.start()
            while len(answers) < len(orders):
                try:
                    found = done.get(timeout=0.2)
                except queue.Empty:
                    continue
                if isinstance(found, BaseException):
                    raise found
                if isinstance(found, dict):
                    software = found
                    continue
                if found.kind == "usage":
                    raise UsageError(found.message)
                if found.kind == "unavailable":
                    raise TargetUnavailableError(found.message)
                answers[found.number] = found
                progress(_progress(orders, answers, began))
        finally:
            stop.set()
            for worker in tuple(running):
                with contextlib.suppress(OSError):
                    worker.process.kill()
            for thread in threads:
                thread.join(timeout=10)
    return software


def _progress(orders: Sequence[Order], answers: dict[int, Answer], began: float) -> ExportProgress:
    elapsed = time.monotonic() - began
    # A program's time grows with its copies; the longest come first.
    weights = [3 + order.plan.copies if order.plan is not None else 30 for order in orders]
    converted = sum(weights[number] for number, answer in answers.items() if not answer.kept)
    waiting = sum(weight for number, weight in enumerate(weights) if number not in answers)
    left = elapsed / converted * waiting if len(answers) >= 5 and converted else None
    failed = sum(answer.program is None for answer in answers.values())
    return ExportProgress(len(answers), len(orders), failed, elapsed, left)


def _serve(
    root: Path,
    options: ExportOptions,
    waiting: queue.SimpleQueue[Order],
    done: queue.SimpleQueue[Answer | BaseException | dict[str, str]],
    stop: threading.Event,
    running: list[_Worker],
    log: IO[bytes],
) -> None:
    """Serve one worker process after another until no order is left. Runs in a thread of its own."""
    worker: _Worker | None = None
    try:
        while not stop.is_set():
            try:
                order = waiting.get_nowait()
            except queue.Empty:
                return
            answer, ending = None, ""
            for _ in range(2):
                # A crash may have come from what the process had gathered before; a fresh one tells.
                if worker is None:
                    worker = _start(root, options, running, log)
                    assert worker.hello is not None
                    done.put(worker.hello.versions)
                answer = worker.convert(order)
                if answer is not None or stop.is_set():
                    break
                ending = worker.ending()
                _end(worker, running)
                worker = None
            if stop.is_set() and answer is None:
                return
            message = f"the converting process crashed twice ({ending})"
            done.put(answer or Answer(order.number, kind="crashed", message=message))
            if worker is not None and worker.count >= PROGRAMS_PER_WORKER:
                _end(worker, running)
                worker = None
    except BaseException as error:
        # Handed to the main thread, which raises it; a thread's own traceback would only reach the screen.
        done.put(error)
    finally:
        if worker is not None:
            _end(worker, running)


def _start(root: Path, options: ExportOptions, running: list[_Worker], log: IO[bytes]) -> _Worker:
    try:
        worker = _Worker(root, options, log)
    except OSError as error:
        raise file_error(root, "write", error) from None
    running.append(worker)
    if worker.hello is None:
        raise ProfileError(f"a converting process ended before it began; its last words: {root / STATE / 'log.txt'}")
    if worker.hello.kind == "unavailable":
        raise TargetUnavailableError(worker.hello.message)
    return worker


def _end(worker: _Worker, running: list[_Worker]) -> None:
    worker.close()
    if worker in running:
        running.remove(worker)


def _manifest(
    plan: Plan,
    entries: tuple[Layer, ...],
    curves: Iterable[ChannelCurve],
    names: Sequence[str],
    options: ExportOptions,
    by_size: Sequence[ProgramPlan],
    answers: dict[int, Answer],
    software: dict[str, str],
) -> Manifest:
    """Return the finished bundle's manifest."""
    of_plan = {program: answers[len(names) + i] for i, program in enumerate(by_size)}
    layers, failures = [], []
    for layer, value in zip(entries, plan.values, strict=True):
        failed = next((of_plan[p] for p, _ in value if of_plan[p].program is None), None)
        if failed is not None:
            failures.append(ExportFailure(name=str(layer), layer=layer, message=failed.message[:2000]))
            continue
        terms = [
            Term(program=found.id, weight=weight) for p, weight in value if (found := of_plan[p].program) is not None
        ]
        layers.append(LayerEntry(digest=layer.digest, layer=layer, value=tuple(terms)))
    networks = []
    for i, name in enumerate(names):
        program = answers[i].program
        if program is None:
            failures.append(ExportFailure(name=name, layer=None, message=answers[i].message[:2000]))
        else:
            networks.append(NetworkEntry(name=name, program=program.id))
    used = {term.program for entry in layers for term in entry.value} | {entry.program for entry in networks}
    programs: dict[str, Program] = {}
    for answer in (*[answers[i] for i in range(len(names))], *[of_plan[p] for p in plan.programs]):
        if answer.program is not None and answer.program.id in used:
            programs[answer.program.id] = answer.program
    groups: list[tuple[str, ...]] = [(entry.program,) for entry in networks]
    for group in plan.groups:
        ids = tuple(found.id for p in group if (found := of_plan[p].program) is not None and found.id in used)
        groups += [ids] if ids else []
    present = set(entries)
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        bundle="",
        written_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        options=options,
        software=dict(sorted(software.items())),
        scheme=SCHEME_TEXT,
        programs=tuple(programs.values()),
        groups=tuple(groups),
        layers=tuple(layers),
        networks=tuple(networks),
        curves=tuple(
            CurveRecord(name=c.name, base_channels=c.base_channels, layers=tuple(layer.digest for layer in c.layers))
            for c in curves
            if present.issuperset(c.layers)
        ),
        failures=tuple(failures),
    )
    return msgspec.structs.replace(manifest, bundle=bundle_id(manifest))


def _finish(root: Path, manifest: Manifest) -> None:
    """Write the runner, the schemas and the manifest; remove what is not part of the bundle."""
    wanted = {Path(program.path).name for program in manifest.programs}
    for entry in (root / "programs").iterdir():
        if entry.name not in wanted:
            _remove(entry)
    try:
        for name in ("runner", "schema"):
            (root / name).mkdir(exist_ok=True)
        template = resources.files("profiler._coreml") / "runner"
        for source in template.iterdir():
            if source.is_file():
                write_atomically(root / "runner" / source.name, source.read_bytes())
    except OSError as error:
        raise file_error(root, "write", error) from None
    write_atomically(root / "schema" / "manifest.schema.json", manifest_schema())
    write_atomically(root / "schema" / "timings.schema.json", timings_schema())
    write_atomically(root / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    # The lock's file goes with the state; its holder keeps the descriptor.
    _remove(root / STATE)

"""Proves the target ``cuda`` on this machine: its promises, its sums, its three modes, its intervals, a table.

Each part runs in a process of its own and within its own time; one that fails, hangs or crashes does not stop the
others. The figures are written after every part, so that a run that is cut off keeps what it has. The exit code is 0
only if every part ran and held.

The packages need not be installed: they are found in the folder above this file, and what an installation would say of
them (version, targets, spaces) is written into a temporary folder.
"""

# Until it is known that nothing is missing, the standard library has to do: all else is imported where it is used.
from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

# What is imported, and the name to install it by where that is another.
NEEDED = ("torch", "numpy", "scipy", "pandas", "msgspec", "rich", "sklearn", "threadpoolctl", "pytest")
INSTALLED_AS = {"sklearn": "scikit-learn"}

MINUTES = 8.0
# A part that has less than this share of its time left to it is not begun.
WORTH_BEGINNING = 0.4
# A part ends by itself when its time is up; what it takes to write the last figures and go.
GRACE_S = 5.0
REFUSAL_LIMIT_S = 90.0
NO_TIME = "not run: no time left"


class Part(NamedTuple):
    """A part of the check: its share of the time in seconds, out of ``MINUTES``, and what it proves."""

    name: str
    seconds: float
    what: str


PARTS = (
    Part("conformance", 95, "what every target promises, on the real GPU"),
    Part("additivity", 110, "sums of layers against whole networks: residual and inverted residual, batch 1 and 256"),
    Part("modes", 30, "warm, cold and host, and the bytes that cold calls pass through the cache"),
    Part("pairs", 80, "the same layers measured twice, within a process and between processes"),
    Part("cuda_modes", 50, "the three modes beside torch.utils.benchmark, their spread over processes"),
    Part("table", 75, "a quick table at batch 1,024 and its hardware-aware widths"),
    Part("memory", 30, "memory, the size of graphs, and what preflight says"),
)


class Outcome(NamedTuple):
    """What became of a part: ``passed``, ``failed`` or ``not run: …``, why, in how many seconds, and its figures."""

    state: str
    problems: tuple[str, ...]
    seconds: float
    figures: dict[str, Any]


def missing_packages() -> list[str]:
    """Return what has to be installed first, by the names to install it by."""
    return [INSTALLED_AS.get(name, name) for name in NEEDED if find_spec(name) is None]


def write_metadata(folder: Path, pyproject: str) -> None:
    """Write what an installation would say of the packages: their name, their version, and their entry points.

    With ``folder`` on the path, targets and spaces are found as if they were installed.
    """
    project = _section(pyproject, "project")
    name, version = (re.search(rf'^{key} = "(.+)"$', project, re.MULTILINE) for key in ("name", "version"))
    assert name is not None
    assert version is not None
    info = folder / f"{name[1].replace('-', '_')}-{version[1]}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name[1]}\nVersion: {version[1]}\n", encoding="utf-8")
    lines = []
    for group in re.findall(r'^\[project\.entry-points\."(.+)"\]$', pyproject, re.MULTILINE):
        lines.append(f"[{group}]")
        entries = _section(pyproject, f'project.entry-points."{group}"')
        lines += [f"{key} = {place}" for key, place in re.findall(r'^([\w-]+) = "(.+)"$', entries, re.MULTILINE)]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _section(text: str, name: str) -> str:
    return text.partition(f"\n[{name}]\n")[2].partition("\n[")[0]


@contextlib.contextmanager
def as_if_installed() -> Iterator[None]:
    """Have this process and those that it starts find the packages, for as long as the block runs."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory(prefix="check-cuda-") as folder:
        write_metadata(Path(folder), (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        added = [folder, str(ROOT)]
        os.environ["PYTHONPATH"] = os.pathsep.join([*added, *filter(None, [before])])
        sys.path[:0] = added
        try:
            yield
        finally:
            sys.path[:] = [path for path in sys.path if path != folder]
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


def run_parts(
    parts: Sequence[Part],
    run: Callable[[Part, float], Outcome],
    save: Callable[[dict[str, Outcome]], None],
    *,
    deadline: float,
    share: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Outcome]:
    """Run the parts in order and save after each; whatever becomes of one, the others have their turn.

    Args:
        parts: what to run.
        run: runs a part within so many seconds.
        save: keeps the outcomes so far.
        deadline: by ``clock``; nothing runs beyond it.
        share: of a part's seconds that it is given, where the whole is shorter or longer than usual.
        clock: seconds.
    """
    found: dict[str, Outcome] = {}
    for part in parts:
        wanted = part.seconds * share
        limit = min(wanted, deadline - clock() - GRACE_S)
        if limit < WORTH_BEGINNING * wanted:
            found[part.name] = Outcome(NO_TIME, (), 0.0, {})
        else:
            began = clock()
            try:
                found[part.name] = run(part, limit)
            except Exception as error:
                found[part.name] = Outcome("failed", (_one_line(error),), round(clock() - began, 1), {})
        save(found)
    return found


def run_in_child(part: Part, limit_s: float, target: str) -> Outcome:
    """Run a part in a process of its own, which is ended when its time is up; what it had found by then is kept."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="check-cuda-part-") as folder:
        figures, log = Path(folder) / "figures.json", Path(folder) / "log"
        command = [sys.executable, str(Path(__file__).with_name("_cuda_parts.py")), part.name, "--target", target]
        command += ["--seconds", f"{limit_s:.1f}", "--figures", str(figures)]
        with log.open("wb") as stream:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True, cwd=ROOT
            )
            try:
                code: int | None = child.wait(timeout=limit_s + GRACE_S)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                # All that it started is of its session; nothing must be left to disturb the next part.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        seconds = round(time.monotonic() - began, 1)
        content: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(figures.read_text(encoding="utf-8"))
        problems = list(content.get("problems", []))
        if not content.get("done"):
            words = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            ended = f"was not done after {limit_s:.0f} s" if code is None else f"ended with exit code {code}"
            problems.append(f"the process {ended}" + (f": {words[-1].strip()[:300]}" if words else ""))
        return Outcome("failed" if problems else "passed", tuple(problems), seconds, content.get("figures", {}))


def content_of(found: dict[str, Outcome], parts: Sequence[Part], target: str, minutes: float) -> dict[str, Any]:
    """Return what the file holds: the machine, the versions, and every part that was to run, run or not."""
    from profiler import cpu_device

    waiting = Outcome("not run yet", (), 0.0, {})
    outcomes = {part.name: found.get(part.name, waiting) for part in parts}
    return {
        "benchmark": "cuda_check",
        "written_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "target": target,
        "minutes": minutes,
        "finished": len(found) == len(parts),
        "passed": all(outcome.state == "passed" for outcome in outcomes.values()),
        "machine": cpu_device(),
        **versions(target),
        "parts": {
            part.name: {
                "what": part.what,
                "state": outcomes[part.name].state,
                "problems": list(outcomes[part.name].problems),
                "seconds": outcomes[part.name].seconds,
                "figures": outcomes[part.name].figures,
            }
            for part in parts
        },
    }


_DESCRIBED: dict[str, Any] = {}

# In a process of its own, since making a target sets its process up for good.
DESCRIBE = """
import sys
import msgspec
from lut.errors import LatencyLutError
from profiler._target import load_target, target_spec
try:
    device, setting, software = load_target(target_spec(sys.argv[1], ())).describe()
except LatencyLutError as error:
    raise SystemExit(str(error))
sys.stdout.buffer.write(msgspec.json.encode({"device": device, "setting": str(setting), "software": software}) + b"\\n")
"""


def versions(target: str) -> dict[str, Any]:
    """Return what :func:`refusal` learned of the device and the software; nothing before it was asked."""
    del target
    return dict(_DESCRIBED)


def refusal(target: str) -> str | None:
    """Return in one line why the target cannot run here, ``None`` where it can."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", DESCRIBE, target],
            capture_output=True,
            text=True,
            check=False,
            timeout=REFUSAL_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"the device gave no answer within {REFUSAL_LIMIT_S:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    _DESCRIBED.update(json.loads(done.stdout.splitlines()[-1]))
    return None


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def default_output() -> Path:
    """Return where the figures go: the folder ``OUT`` where one is named, else with the other benchmarks'."""
    folder = os.environ.get("OUT")
    return (Path(folder) if folder else RESULTS) / "cuda_check.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check and return its exit code."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--minutes", type=float, default=MINUTES, help="the whole check's; parts shrink with it")
    options.add_argument("--parts", default=",".join(part.name for part in PARTS), help="names, with commas between")
    options.add_argument("--output", type=Path, default=None, help="default: $OUT/cuda_check.json, or with the results")
    options.add_argument("--target", default="cuda", help="another target, for a rehearsal without a GPU")
    given = options.parse_args(argv)
    names = given.parts.split(",")
    if unknown := sorted(set(names) - {part.name for part in PARTS}):
        options.error(f"no part is called {', '.join(unknown)}; there are {', '.join(p.name for p in PARTS)}")
    if not 0.1 <= given.minutes <= 60:
        options.error("--minutes lies between 0.1 and 60")
    began = time.monotonic()
    if missing := missing_packages():
        print(f"check-cuda: needs packages that are not installed: {', '.join(missing)}: pip install them, or put them on PYTHONPATH")  # fmt: skip # noqa: E501
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with as_if_installed():
        if (why := refusal(given.target)) is not None:
            print(f"check-cuda: there is no GPU to check here: {why}")
            return 1
        return _check(given, [part for part in PARTS if part.name in names], began)


def _check(given: argparse.Namespace, parts: Sequence[Part], began: float) -> int:
    import msgspec

    from lut._files import write_atomically

    output = given.output or default_output()
    output.parent.mkdir(parents=True, exist_ok=True)

    def save(found: dict[str, Outcome]) -> None:
        content = content_of(found, parts, given.target, given.minutes)
        write_atomically(output, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")

    def run(part: Part, limit_s: float) -> Outcome:
        print(f"{part.name}: {part.what} ({limit_s:.0f} s at most)", flush=True)
        outcome = run_in_child(part, limit_s, given.target)
        print(f"  {outcome.state} after {outcome.seconds:.0f} s", *outcome.problems, sep="\n  ", flush=True)
        return outcome

    save({})
    found = run_parts(parts, run, save, deadline=began + 60 * given.minutes, share=given.minutes / MINUTES)
    for name, outcome in found.items():
        if outcome.state == NO_TIME:
            print(f"{name}: {NO_TIME}")
    passed = sum(outcome.state == "passed" for outcome in found.values())
    print(f"{passed} of {len(parts)} parts passed in {time.monotonic() - began:.0f} s; figures in {output}")
    return 0 if passed == len(parts) else 1


if __name__ == "__main__":
    sys.exit(main())

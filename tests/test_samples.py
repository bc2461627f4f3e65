"""The outputs that the pages show are in today's words: the commands are run again, and all numbers are masked.

What measures is measured by a simulated CPU on a clock of its own; everything around it is the command's own code.
"""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from _commands import run_here
from _samples import BLOCK, DRAWINGS, PAGES, ROOT, SAMPLES, Sample, excerpt, furnish, lines_of, run

from lut import Device, Setting
from lut._records import FLAGS, Software
from profiler import FakeTarget, TracedModule, _run, _session
from profiler._session import run_session
from profiler._sources import FactorySource, LayersSource, load_source
from profiler._worker import LocalWorker

PACKAGES = ("lut", "predictors", "profiler", "search")
OURS = (
    *("profile-device", "check-table", "report-table", "lut", "select-widths", "fit-predictor", "predict-latency"),
    *("search-architecture", "export-coreml"),
)
CHEAP = [sample for sample in SAMPLES if not sample.minutes]
MEASURED = [sample for sample in SAMPLES if sample.minutes]
NUMBER = re.compile(r"[+−-]?\d+(?:[.,]\d+)*")
# Cells of a row: a layer, its name in a network, a number or none.
LAYER = re.compile(r"(conv|add|linear|avgpool|maxpool|globalpool)#?\S*( \S+)*")
NAME = re.compile(r"#\S*( #\??)?|#( #)+|–")
# What is said on some machines, or of some measurements: lines, and parts of lines.
SOMETIMES = re.compile(r"~ in more than a tenth|undecided: |\d+ finalists? |(?!.*; that is taken out below$)warning: ")
ASIDE = re.compile(
    r"^warning: |; \d+ have fewer than \d+ visits.*?--time-budget|; half-width of .*?95 %\)|\. Do not add layers up .*"
    r"|; (the |wholes |too few visits to say how well )[^;]*repeats? within [^;]*|; not (conv|add|linear).*?(?=; |$)"
)
# What is added to the commands: little time, on a clock that is simulated, and as little training as there can be.
MEASURING = "--no-self-test --when-busy measure --time-budget"
TRAINING = "--train-epochs 1 --train-images 40 --test-images 20 --batch-size 20 --search-epochs 1 --measure-seconds 2"
ADDED = {
    "profile": ((" --batch 4", f"{MEASURING} 15"),),
    "compiled": ((" --compile", f"{MEASURING} 2"),),
    "model": ((" --threads 1", f"{MEASURING} 3"),),
    "sweep": ((" --threads 1", f"{MEASURING} 15"),),
    "plug-in": ((" --quick", "--precision 0.5 --time-budget 12"),),
    "htas": ((" --table", f"{TRAINING} --set validated=20 --set search.warmup_epochs=0"),),
    "rcas": ((" --space", f"{MEASURING} 4"), (" rcas", f"{TRAINING} --held-out 2 --types 1 --at-once 1 --budget-ms 3")),
}


class SimulatedCpu:
    """A CPU that PyTorch has two threads of, with a clock of its own."""

    def __init__(self) -> None:
        self.fake = FakeTarget(
            floor_ms=0.0005,
            ms_per_gmadd=25.0,
            sigma=0.03,
            process_sigma=0.02,
            common_drift=0.02,
            together=20,
            walks=True,
        )
        self.fake.describe = self.describe  # type: ignore[method-assign]
        self.run_layers = self.fake.prepare_network
        self.fake.prepare_network = self.prepare_network  # type: ignore[method-assign]
        self.options: dict[str, Any] = {}

    def describe(self) -> tuple[Device, Setting, Software]:
        device = Device("cpu", "made CPU", "x86_64", "Linux 6", 2, 2, virtual=True)
        execution = {"execution": "compile" if self.options.get("compile") else "eager"}
        batch, threads = self.options.get("batch") or 4, self.options.get("threads") or 2
        setting = Setting("cpu", batch, "float32", threads, "contiguous", "network", execution)
        return device, setting, Software("3", {"torch": "2.13.0+cpu"}, {})

    def prepare_network(self, source: Any, seed: int) -> Any:
        """Have a module take what its layers do."""
        if isinstance(source, FactorySource):
            source = LayersSource(TracedModule(*load_source(source)).network)
        return self.run_layers(source, seed)

    def worker(self, spec: Any, *arguments: Any, **options: Any) -> LocalWorker:
        """Stand in for a measuring process."""
        self.options = dict(spec.options)
        self.fake._setting = self.describe()[1]
        return LocalWorker(self.fake, *arguments, **{**options, "origin": 0.0, "journal": None})


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whatever is measured for the target cpu measured by a simulated one."""
    cpu, child = SimulatedCpu(), _run.ChildWorker

    def worker(spec: Any, *arguments: Any, **options: Any) -> Any:
        return (cpu.worker if spec.factory.endswith("CpuTarget") else child)(spec, *arguments, **options)

    def session(plan: Any, *arguments: Any, **options: Any) -> Any:
        clock = {"clock": cpu.fake.clock} if plan.target.endswith("CpuTarget") else {}
        return run_session(plan, *arguments, **options, **clock)

    monkeypatch.setattr(_run, "ChildWorker", worker)
    monkeypatch.setattr(_run, "run_session", session)
    monkeypatch.setattr(_session, "load_average", lambda: 1.0)


def masked(line: str) -> str:
    """Return a line without what another run, machine or version has otherwise."""
    line = ASIDE.sub("", line).replace("not known", "±0%")
    line = re.sub(r"^.+, (\d+ of \d+ cores), .*", r"DEVICE, \1, SYSTEM", line)
    line = re.sub(r"^[^:]+, Linux \S+$", "DEVICE, SYSTEM", line)
    line = re.sub(r"^.+, (cpu, batch \d+.*)", r"DEVICE, \1", line)
    # Of networks measured against a budget: how many there are, and how each does, is a run's own.
    line = re.sub(r"^\d+( \w+)* +(within|may exceed|exceeds) .*", "CHECKED", line)
    line = re.sub(r"^\d+ networks? that the search selected .*", "SELECTED", line)
    cells = re.split(r" {2,}", NUMBER.sub("#", line).replace("~", ""))
    if len(cells) > 2 and any(LAYER.fullmatch(cell) or NAME.fullmatch(cell) for cell in cells):
        cells = [cell for cell in cells if cell not in FLAGS]
        cells = ["LAYER" if LAYER.fullmatch(cell) else "#" if NAME.fullmatch(cell) else cell for cell in cells]
    return re.sub(r"#(, #)+", "#…", " ".join(cells)).strip()


def assert_same(sample: Sample, here: list[str], now: list[str]) -> None:
    """See that a page shows the lines that a command prints today, apart from warnings, which are of a machine."""
    there, today = (
        {masked(re.sub(sample.varies, "", line)): line for line in lines if not SOMETIMES.match(line)}
        for lines in (here, now)
    )
    gone = [there[line] for line in there if line not in today]
    new = [today[line] for line in today if line not in there]
    again = f"scripts/write-samples {'--measure ' if sample.minutes else ''}{sample.name}"
    told = "\n".join([*(f"- {line}" for line in gone), *(f"+ {line}" for line in new)])
    assert not told, f"{sample.page} shows what is not printed any more; {again} writes it anew:\n{told}"


def shown(page: str, name: str) -> list[str]:
    (path,) = (path for path in PAGES if path.name == page)
    (found,) = (block["text"] for block in BLOCK.finditer(path.read_text("utf-8")) if block["name"] == name)
    return lines_of(found).splitlines()


def printed(sample: Sample, folder: Path, name: str = "") -> list[str]:
    """Return what stands of the output of a sample's commands."""
    text = ""
    for number, command in enumerate(sample.commands):
        words = shlex.split(command)
        for after, more in ADDED.get(sample.name, ()):
            words += shlex.split(more) * (f"{after} " in f"{command} ")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder / "plugin")
            done = run_here(folder, *words, code=None, NO_COLOR="1", **dict(sample.environment))
        if number >= len(sample.commands) - sample.shown:
            text += f"$ {command}\n" * sample.prompt + done.stdout + done.stderr
    return excerpt(text, sample.keep).splitlines()


@pytest.mark.parametrize("sample", MEASURED, ids=lambda sample: sample.name)
@pytest.mark.usefixtures("simulated", "one_thread")
def test_samples_that_measure_are_in_todays_words(sample: Sample, tmp_path: Path) -> None:
    furnish(tmp_path)
    for other in SAMPLES:
        if other.name in sample.needs:
            printed(other, tmp_path)
    assert_same(sample, shown(sample.page, sample.name), printed(sample, tmp_path))


@pytest.mark.parametrize("sample", CHEAP, ids=lambda sample: sample.name)
def test_samples_that_measure_nothing_are_in_todays_words(sample: Sample, tmp_path: Path) -> None:
    furnish(tmp_path)
    assert_same(sample, shown(sample.page, sample.name), run(sample, tmp_path).splitlines())


def test_no_output_is_without_what_makes_it() -> None:
    """A block of text is a sample, or one of the drawings; what it is an output of stands on the page too."""
    found: list[str] = []
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        blocks = list(BLOCK.finditer(page))
        made = [block["name"] for block in blocks if block["name"]]
        found += made
        for block in blocks:
            assert block["name"] or block["kind"] != "text", (
                f"{path.name}: nothing makes this output; add it to tests/_samples.py: {block['text'][:80]}"
            )
        assert sum(not block["kind"] for block in blocks) == DRAWINGS.get(path.name, 0), path.name
        for sample in (sample for sample in SAMPLES if sample.name in made):
            assert sample.page == path.name
            for command in sample.commands:
                there = f"$ {command}\n" if sample.prompt else command
                assert there in page or command.startswith("python -c"), f"{path.name} does not show {there}"
    assert sorted(found) == sorted(sample.name for sample in SAMPLES)


@cache
def words_of_ours() -> str:
    """Return all texts in the source of the packages, one after the other."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_warnings_on_the_pages_are_in_todays_words() -> None:
    for path in PAGES:
        for block in BLOCK.finditer(path.read_text(encoding="utf-8")):
            for line in block["text"].splitlines() if block["kind"] == "text" else ():
                for part in NUMBER.split(line.removeprefix("warning: ")) if line.startswith("warning: ") else ():
                    assert part.strip() in words_of_ours(), f"{path.name}: {line}"


def test_what_the_pages_say_of_bad_input_is_said(tmp_path: Path) -> None:
    furnish(tmp_path)
    (tmp_path / "bad.json").write_text('[{"make": "conv"}]')
    words = {"an unknown constructor": "--layers bad.json", "a table that is there": "--output network.json"}
    page = (ROOT / "docs" / "cpu.md").read_text(encoding="utf-8").partition("## What bad input says")[2]
    rows = re.findall(r"^\| (.+) \| (\d) \| `{1,2}(error: .+?)`{1,2} \|$", page, re.MULTILINE)
    assert len(rows) == 8
    for what, code, message in rows:
        option = words.get(what, what.strip("`"))
        layers = "" if "--layers" in option else "--layers layers.json"
        done = run_here(tmp_path, "profile-device", *shlex.split(f"--quick {layers} {option}"), code=int(code))
        assert done.stderr.splitlines()[-1] == message


def commands_of(page: Path) -> list[list[str]]:
    """Return the commands in a page's blocks of shell, as words."""
    text = "\n".join(block["text"] for block in BLOCK.finditer(page.read_text("utf-8")) if block["kind"] == "sh")
    lines = re.split(r"\n|&&|\s#\s.*", text.replace("\\\n", " "))
    return [shlex.split(line, comments=True) for line in lines if line.strip().startswith(OURS)]


@pytest.mark.parametrize("command", OURS)
def test_every_option_that_the_pages_use_is_there(command: str, tmp_path: Path) -> None:
    used = {(words[1] if words[1].isalpha() else "", word) for page in PAGES for words in commands_of(page)
            if words[0] == command for word in words if word.startswith("--")}  # fmt: skip
    subcommands = {sub for sub, _ in used}
    help_of = {
        sub: run_here(tmp_path, command, *[sub] * bool(sub), "--help", COLUMNS="200").stdout for sub in subcommands
    }
    missing = [f"{command} {sub} {word}" for sub, word in used if not re.search(rf"(?<!\S){word}\b", help_of[sub])]
    assert not missing


def test_python_on_the_pages_imports_what_is_there() -> None:
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            for node in ast.walk(ast.parse(block["text"])) if block["kind"] == "python" else ():
                if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES:
                    module = import_module(node.module or "")
                    assert not [name.name for name in node.names if not hasattr(module, name.name)], page.name


def test_pictures_are_made_with_the_samples_and_shown() -> None:
    made = {sample.picture.name for sample in SAMPLES if sample.picture is not None}
    assert made == {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    for name in made:
        assert any(f"pictures/{name})" in page.read_text("utf-8") for page in PAGES), name

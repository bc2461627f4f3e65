"""Writes the sample outputs in README.md and docs/: what the commands print, run in order in one scratch folder.

A sample is a fenced block of ``text`` below a line ``<!-- sample: NAME -->``. Those that take seconds are written
always. Those that measure this machine are written only with ``--measure``: their figures are worth no more than the
hour in which they are taken, so take them on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["BLOCK", "DRAWINGS", "PAGES", "ROOT", "SAMPLES", "Sample", "excerpt", "furnish", "lines_of", "replaced"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(
    r"^(?:<!-- sample: (?P<name>[\w-]+) -->\n)?```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
# How many blocks of a page are drawings, made by hand.
DRAWINGS = {"architecture.md": 2, "coreml.md": 2}
# What says how far a command is, where no terminal shows it as a bar.
PROGRESS = re.compile(r"^ *\d+ (s|min)  .*\n|^.* …\n", re.MULTILINE)
WHOLE = (r".+",)


class Picture(NamedTuple):
    """A picture of docs/pictures: of a report that a sample's command wrote, or drawn by a command.

    Args:
        name: the picture's file.
        report: the report's file; empty where ``command`` draws.
        section: what of it is shown, by its anchor; empty for its beginning.
        height: in pixels.
        command: draws a picture of that name in the folder.
    """

    name: str
    report: str = ""
    section: str = ""
    height: int = 0
    command: str = ""


class Sample(NamedTuple):
    """An output on a page.

    Args:
        name: as its block is marked.
        page: the file's name.
        commands: what is run, in order.
        keep: patterns of what stands of the output, one after the other; "…" stands for what is left out between.
        shown: how many of the commands, the last ones, have their output in the sample.
        prompt: whether these stand in the block, each above its output; else they stand elsewhere on the page.
        minutes: what it takes to measure; 0 for what measures nothing.
        needs: samples whose files it takes.
        varies: a pattern of what other machines or other searches print otherwise.
        environment: what the commands find set.
        picture: what is made of its files.
    """

    name: str
    page: str
    commands: tuple[str, ...]
    keep: tuple[str, ...] = WHOLE
    shown: int = 1
    prompt: bool = False
    minutes: float = 0.0
    needs: tuple[str, ...] = ()
    varies: str = "$^"
    environment: tuple[tuple[str, str], ...] = ()
    picture: Picture | None = None


# From the line that names the device on: what comes before it is the self-test of a machine's first profile.
RESULT = r"^[^\n]+, \d+ of \d+ cores, .*"
DETAILS = ("allocator", "pinned", "kernels", "flush_denormal", "onednn")
SHOW_DETAILS = (
    "from profiler import CpuTarget; found = CpuTarget(threads=2, kernel_cache=92).describe()[2].details; "
    f"print(*(f'{{name:<18}}{{found[name]}}' for name in {DETAILS}), sep=chr(10))"
)
EPOCHS = r"\d+ epochs?(?: after \d+ of warm-up)?"
# In the order in which they are made, in one folder.
SAMPLES = (
    Sample(
        "profile",
        "README.md",
        ("profile-device --target cpu --batch 4",),
        (RESULT,),
        minutes=3,
        picture=Picture(
            "staircase.png", command="python benchmarks/staircase.py cpu-b4.json --curve 1 --output staircase.png"
        ),
    ),
    Sample(
        "check",
        "check-table.md",
        ("check-table cpu-b4.json",),
        (r"\A.*?^layer [^\n]*\n[^\n]*\n[^\n]*\n", r"^[^\n]*\n[^\n]*\n(?=network ).*"),
        prompt=True,
        minutes=1,
        needs=("profile",),
    ),
    Sample("across", "cpu.md", ("lut diff network.json isolated.json",), prompt=True),
    Sample(
        "compiler",
        "cpu.md",
        ("profile-device --compile --layers layers.json --time-budget 40",),
        (r"^error: .*",),
        environment=(("PATH", "/nowhere"), ("CXX", ""), ("LATENCY_LUT_LOCKS", ".")),
    ),
    Sample(
        "compiled",
        "cpu.md",
        (
            "profile-device --compile --layers layers.json --time-budget 40 --output compiled.json",
            "lut show compiled.json",
        ),
        (
            r"\A[^\n]*\n[^\n]*\n",
            r"^cpu, [^\n]*\n",
            r"^\d+ layers measured, [^\n]*\n",
            r"^measured in [^\n]*\n",
            r"^\$ lut.*?\n",
            r"^layer .*",
        ),
        shown=2,
        prompt=True,
        minutes=3,
    ),
    Sample("details", "cpu.md", (f"python -c {shlex.quote(SHOW_DETAILS)}",), varies="^(pinned|allocator) .*"),
    Sample(
        "model",
        "profile-your-model.md",
        ("profile-device --model benchmarks/_zoo.py:mobilenet_v2 --input 1x3x224x224 --threads 1 --time-budget 40",),
        prompt=True,
        minutes=1.5,
        picture=Picture("model.png", "mobilenet_v2-cpu-b1.html", height=760),
    ),
    Sample(
        "sweep",
        "profile-your-model.md",
        ("profile-device --model benchmarks/_zoo.py:resnet20 --input 4x3x32x32 --threads 1 --sweep --time-budget 80",),
        (r"^\$[^\n]*\n", r"^What other widths would buy.*?(?=\n\n)"),
        prompt=True,
        minutes=2,
        picture=Picture("sweep.png", "resnet20-cpu-b4.html", "the-stairs-of-the-layers-with-the-largest-gain", 480),
    ),
    Sample(
        "plug-in",
        "targets.md",
        ("profile-device --target numpy --layers examples/target_plugin/layers.json --quick",),
        minutes=0.5,
        # Whether the drift is known, and how many processes there were, is this machine's affair.
        varies=r"(?<=during the run ).*|(?<=\d process)(?:es)?",
        environment=(("PYTHONPATH", "plugin"),),
    ),
    Sample(
        "htas",
        "htas.md",
        ("search-architecture htas --table cpu-b4.json --budget-ms 3.5 --output htas-run",),
        (r"^[^\n]*, batch .*?^then [^\n]*\n", r"^ +predicted ms.*?prediction error [^\n]*\n"),
        minutes=8,
        needs=("profile",),
        varies=EPOCHS,
    ),
    Sample(
        "rcas",
        "rcas.md",
        (
            "profile-device --space rcnet-cifar --target cpu --batch 4 --output rcnet.json",
            "fit-predictor rcnet.json --output predictor",
            "search-architecture rcas --predictor predictor --budget-ms 6 --budget-params 2.4e6 --output rcas-run",
        ),
        (r"^[^\n]*, batch .*?^then [^\n]*\n", r"^ +predicted ms.*?prediction error [^\n]*\n"),
        minutes=14,
        varies=rf"(?<=blocks added: ).*|; \d+ of \d+ re-evaluated .*|, \d+ in parallel|\d+ images per class|{EPOCHS}",
    ),
)


def excerpt(text: str, patterns: Sequence[str]) -> str:
    """Return what the patterns find, each behind the last, with "…" for what lies between; as lines without spaces.

    Raises:
        ValueError: a pattern finds nothing.
    """
    kept, at = "", 0
    for pattern in patterns:
        found = re.compile(pattern, re.MULTILINE | re.DOTALL).search(text, at)
        if found is None:
            raise ValueError(f"nothing like {pattern!r} in:\n{text[at:]}")
        if kept and text[at : found.start()].strip():
            kept += "…\n"
        kept, at = kept + found.group().rstrip("\n") + "\n", found.end()
    return lines_of(kept)


def lines_of(text: str) -> str:
    """Return a text without progress, empty ends and spaces at the ends of lines."""
    lines = [line.rstrip() for line in PROGRESS.sub("", text).splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def replaced(page: str, name: str, text: str) -> str:
    """Return a page with another text in the block of a sample."""

    def block(found: re.Match[str]) -> str:
        if found["name"] != name:
            return found.group()
        return f"<!-- sample: {name} -->\n```{found['kind']}\n{text}```"

    return BLOCK.sub(block, page)


def furnish(folder: Path) -> None:
    """Put into a folder what the commands name: layers, networks, a plug-in, and two tables that differ in context."""
    for name in ("benchmarks", "examples"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "examples" / "layers.json", folder)
    plugin = folder / "plugin"
    about = plugin / "latency_lut_numpy-0.1.0.dist-info"
    about.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "target_plugin" / "numpy_target.py", plugin)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: latency-lut-numpy\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text("[latency_lut.targets]\nnumpy = numpy_target:NumpyTarget\n")
    from lut import Device, LatencyTable, Setting

    device = Device("cpu", "made CPU", "none", "none", 2, 2)
    for context in ("network", "isolated"):
        setting = Setting("cpu", 4, "float32", 2, "contiguous", context, {"execution": "eager"})
        LatencyTable(device=device, setting=setting, sessions=(), measurements=()).save(folder / f"{context}.json")


def run(sample: Sample, folder: Path) -> str:
    """Run a sample's commands in a folder, and return what stands of their output.

    Raises:
        RuntimeError: a command died.
    """
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **dict(sample.environment)}
    text = ""
    for number, command in enumerate(sample.commands):
        print(f"$ {command}", flush=True)
        words = shlex.split(command)
        path = Path(sys.executable).with_name(words[0])
        done = subprocess.run(
            [str(path) if path.exists() else words[0], *words[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=environment,
        )
        if done.returncode not in (0, 1, 2, 3) or "Traceback" in done.stdout:
            raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}")
        if number >= len(sample.commands) - sample.shown:
            text += f"$ {command}\n{done.stdout}" if sample.prompt else done.stdout
    return excerpt(text, sample.keep)


def main() -> None:
    """Write the samples that are asked for into their pages."""
    made = argparse.ArgumentParser(description="Write the sample outputs of README.md and docs/.")
    made.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(s.name for s in SAMPLES)}")
    made.add_argument("--measure", action="store_true", help="also those that measure this machine; leave it alone")
    given = made.parse_args()
    known = {sample.name: sample for sample in SAMPLES}
    if unknown := [name for name in given.names if name not in known]:
        made.error(f"there is no sample {unknown[0]}")
    wanted = [s for s in SAMPLES if s.name in (given.names or known)]
    if slow := [sample for sample in wanted if sample.minutes]:
        if given.measure:
            print(
                f"{sum(sample.minutes for sample in slow):.0f} minutes of measuring. Leave the machine alone meanwhile."
            )
        else:
            print(f"left as they are without --measure: {', '.join(sample.name for sample in slow)}")
    wanted = [sample for sample in wanted if given.measure or not sample.minutes]
    needed = {name for sample in wanted for name in sample.needs}
    failed = []
    with tempfile.TemporaryDirectory(prefix="latency-lut-samples-") as scratch:
        furnish(Path(scratch))
        for sample in SAMPLES:
            if sample in wanted or sample.name in needed:
                try:
                    text = run(sample, Path(scratch))
                except (RuntimeError, ValueError) as error:
                    # Half an hour of measuring is not lost for one sample.
                    failed.append(sample.name)
                    print(f"{sample.name} stays as it is: {error}")
                    continue
                if sample in wanted:
                    write(sample, text)
                    if sample.picture is not None:
                        draw(sample.picture, Path(scratch))
    if failed:
        sys.exit(f"not made: {', '.join(failed)}")


def write(sample: Sample, text: str) -> None:
    """Write a sample into its page."""
    (page,) = (path for path in PAGES if path.name == sample.page)
    page.write_text(replaced(page.read_text("utf-8"), sample.name, text), encoding="utf-8")
    print(f"{page} written: {sample.name}")


def draw(picture: Picture, folder: Path) -> None:
    """Make a picture of a sample's files, in a window of 1,000 pixels; without Chromium it stays as it is."""
    if picture.command:
        subprocess.run([sys.executable, *shlex.split(picture.command)[1:]], cwd=folder, check=True)
    else:
        chromium = shutil.which("chromium")
        if chromium is None:
            print(f"{picture.name} stays as it is: there is no chromium")
            return
        page = (folder / picture.report).read_text("utf-8")
        hidden = f"body > :is(h1, p, section, details):not([id='{picture.section}']) {{ display: none }}"
        only = f"<style>{hidden}</style></head>"
        (folder / "shown.html").write_text(page.replace("</head>", only, 1) if picture.section else page, "utf-8")
        window = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=8000")
        subprocess.run(
            [
                *(chromium, *window, f"--user-data-dir={folder / 'chromium'}", f"--window-size=1000,{picture.height}"),
                *(f"--screenshot={picture.name}", (folder / "shown.html").as_uri()),
            ],
            cwd=folder,
            env={**os.environ, "TMPDIR": "/tmp"},
            check=True,
            capture_output=True,
        )
    shutil.copy(folder / picture.name, ROOT / "docs" / "pictures" / picture.name)
    print(f"{picture.name} drawn")


if __name__ == "__main__":
    main()

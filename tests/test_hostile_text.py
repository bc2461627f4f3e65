"""Text out of files and arguments is shown and never obeyed: by terminals, by JSON's readers, by browsers."""

from __future__ import annotations

import base64
import csv
import html.parser
import io
import json
import math
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go
import pytest
from _predictors import resnet_table
from conftest import curve_of, simulate, table_of
from test_audit import audited, network

from lut import LatencyTable
from lut._console import LONGEST_MESSAGE, make_console, print_json, run_single_command, styled
from lut._printable import printable
from lut._terminal import DataConsole
from profiler._cli._progress import ProgressBar, Standing
from profiler._report._page import Answer, Cell, Chart, Notice, Section, Table, Text, html_page
from profiler._report._plots import plot_label

PACKAGES = ("lut", "predictors", "profiler", "search")
ROOT = Path(__file__).parents[1]

# Markup, sequences for a terminal, line breaks that forge a message, marks of direction, HTML, and a plot's links.
EVIL = (
    "[/] [bold]x[/bold] :smile: \x1b]0;owned\x07\x1b[2J\x9b2J\x7f\r\nerror: forged\u2028\u202eabc "
    "<script>alert(1)</script> <a href='javascript:alert(2)'>l</a> %{x} {0}"
)
ACTED_ON = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Run = Callable[..., tuple[int, str, str]]


def spoil(document: dict[str, Any]) -> dict[str, Any]:
    """Return a table's JSON with the text in each of its fields that take any."""
    document["device"].update(model=EVIL, system=EVIL, architecture=EVIL, kind=EVIL)
    document["setting"].update(dtype=EVIL, memory_format=EVIL, options={EVIL: EVIL})
    for session in document["sessions"]:
        session["correction"].update(name=EVIL, description=EVIL)
        session["protocol"]["name"] = EVIL
        session["preflight"]["warnings"] = [EVIL, EVIL]
        session["software"].update(python=EVIL, packages={EVIL: EVIL}, details={EVIL: EVIL})
        for sentinel in session["sentinels"]:
            sentinel["what"] = EVIL
    for curve in document.get("curves", []):
        curve["name"] = EVIL
    for number, record in enumerate(document.get("networks", [])):
        record.update(name=f"{EVIL}{number}", idle={EVIL: 2}, operators=3)
        for i, part in enumerate(record["layers"]):
            part["name"] = f"{EVIL}{i}"
    for failure in document.get("failures", []):
        failure["message"] = EVIL
    for entry in document.get("not_measured", []):
        entry["reason"] = EVIL
    for measurement in document["measurements"]:
        measurement["implementation"] = EVIL
    return document


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hostile tables: of a curve, of one network, of failures, and of many networks."""
    folder = tmp_path_factory.mktemp("hostile")
    layers = curve_of(range(1, 17))
    plan, result, _ = simulate(layers.layers)
    tables = {
        "curve": table_of(plan, result, folder / "references.json", [layers]),
        "network": audited(folder, network(8, 24, 16)),
        "failed": resnet_table(folder, networks=1, failing=2),
        "resnets": resnet_table(folder, networks=12),
    }
    for name, table in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(spoil(json.loads(table.to_json()))))
        LatencyTable.load(folder / f"{name}.json")
        (folder / f"[bold]{name}.json").write_bytes(table.to_json())
    another = json.loads((folder / "resnets.json").read_text())
    another["setting"] = json.loads(tables["resnets"].to_json())["setting"]
    (folder / "another.json").write_text(json.dumps(another))
    return folder


@pytest.fixture
def run(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return its exit code, output and errors, in which nothing may act."""

    def call(name: str, *arguments: str) -> tuple[int, str, str]:
        from lut import _cli
        from predictors._commands import fit_predictor, select_widths
        from profiler._cli import check_table, predict_latency, report_table
        from search import _commands

        modules: dict[str, Any] = {
            "lut": _cli,
            "fit-predictor": fit_predictor,
            "select-widths": select_widths,
            "check-table": check_table,
            "predict-latency": predict_latency,
            "report-table": report_table,
            "search-architecture": _commands,
        }
        monkeypatch.chdir(made)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setenv("COLUMNS", "2000")
        with pytest.raises(SystemExit) as end:
            modules[name].main()
        found = capsys.readouterr()
        for text in found:
            assert not ACTED_ON.search(text), ascii(text)
            assert "error: forged" not in [line[:13] for line in text.splitlines()]
            assert "Traceback" not in text
        return int(end.value.code or 0), found.out, found.err

    return call


# --- tables and predictors ---


@pytest.mark.parametrize("table", ["curve", "network", "failed", "resnets"])
def test_a_table_is_shown_as_it_is(table: str, run: Run) -> None:
    code, out, _ = run("lut", "show", f"{table}.json")
    assert code == 0
    assert printable(EVIL) in out
    count = len(LatencyTable.load(f"{table}.json"))
    assert run("lut", "validate", f"{table}.json")[:2] == (0, f"valid: {table}.json: {count} layers\n")


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (("lut", "show", "curve.json", "network.json"), 0, printable(EVIL)),
        (("lut", "diff", "curve.json", "curve.json"), 0, "curve.json against curve.json"),
        (("lut", "diff", "curve.json", "resnets.json"), 2, ""),
        (
            ("lut", "merge", "curve.json", "network.json", "-o", "merged.json", "--on-duplicate", "first"),
            0,
            "merged.json",
        ),
        (("lut", "merge", "curve.json", "resnets.json", "-o", "no.json"), 2, ""),
        (("lut", "show", "[bold]curve.json", "[bold]network.json"), 0, "[bold]network.json"),
        (("lut", "validate", "[bold]curve.json"), 0, "valid: [bold]curve.json: 16 layers"),
        (("select-widths", "curve.json"), 0, printable(EVIL)),
        (("select-widths", "resnets.json"), 1, ""),
        (("fit-predictor", "failed.json", "-o", "no"), 1, ""),
        (("report-table", "[bold]curve.json"), 0, "[bold]curve.html"),
        (("check-table", "curve.json"), 2, ""),
        (("check-table", "resnets.json"), 2, ""),
        (("check-table", "another.json"), 3, f"not as in the table: model {printable(EVIL)}"),
    ],
)
def test_each_command_ends_as_it_should(arguments: tuple[str, ...], code: int, shown: str, run: Run) -> None:
    found, out, errors = run(*arguments)
    assert (found, shown in out) == (code, True), out + errors


def test_a_predictor_of_a_hostile_table(run: Run) -> None:
    assert run("fit-predictor", "resnets.json", "-o", "[b]p")[:2][0] == 0
    ask = ("--predictor", "[b]p", "--expand", "0.5")
    code, out, _ = run("predict-latency", *ask, "--space", "resnet-cifar", "--choices", "random")
    assert code == 0
    assert printable(EVIL) in out
    code, out, _ = run("search-architecture", "describe", "resnet-cifar", "random", *ask)
    assert code == 0
    assert printable(EVIL) in out
    code, out, _ = run("predict-latency", *ask, "--space", "resnet-cifar", "--choices", "random", "--json")
    assert code == 0
    assert EVIL in json.loads(out)["setting"]


def test_json_holds_the_text_itself(run: Run) -> None:
    code, out, _ = run("lut", "show", "network.json", "--json")
    (table,) = json.loads(out)
    assert code == 0
    assert table["device"]["model"] == EVIL
    assert table["measurements"][0]["implementation"] == EVIL


# --- terminals ---


def on_a_terminal(folder: Path, *command: str | bytes) -> str:
    """Return what a command writes to a terminal."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [Path(sys.executable).with_name(str(command[0])), *command[1:]],
        cwd=folder,
        stdin=its,
        stdout=its,
        stderr=its,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    ):
        os.close(its)
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:
            pass  # how Linux says that the terminal's other side was closed
        os.close(ours)
    return b"".join(parts).decode()


def test_a_terminal_is_sent_styles_and_nothing_else(made: Path) -> None:
    text = on_a_terminal(made, "lut", "show", "network.json", "failed.json")
    assert "\x1b[1m" in text
    assert not ACTED_ON.search(re.sub("\x1b\\[[0-9;]*m", "", text.replace("\r\n", "\n")))


def test_ordinary_names_keep_their_styles(make_table: Callable[..., LatencyTable], tmp_path: Path) -> None:
    make_table(range(1, 5)).save(tmp_path / "t.json")
    text = on_a_terminal(tmp_path, "lut", "show", "t.json")
    assert "\x1b[1msimulated device\x1b[0m, 1 of 1 cores" in text


def test_a_bar_shows_a_title_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    console = make_console()
    console._force_terminal = console.is_interactive = True
    console.file = io.StringIO()
    console.width = 400
    with ProgressBar(console, lambda standing: standing) as show:
        show(Standing(0.5, EVIL, EVIL, 1.0))
    text = console.file.getvalue()
    assert text.count(printable(EVIL)) >= 2
    assert "\x1b]" not in text
    assert "\x07" not in text


def test_parts_with_styles_are_one_line() -> None:
    console = DataConsole(stderr=False, soft_wrap=True)
    console.file = io.StringIO()
    console.print(styled((EVIL, "bold"), ", ", EVIL))
    assert console.file.getvalue() == f"{printable(EVIL)}, {printable(EVIL)}\n"


# --- mistakes ---


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "curve.json", "--limit", EVIL),
        ("show", "curve.json", f"--{EVIL}"),
        ("show", EVIL),
        (EVIL,),
        ("diff", "curve.json"),
        ("diff", "curve.json", EVIL, "--level", "[/]"),
        ("merge", "curve.json", EVIL),
        ("merge", "curve.json", "curve.json", "-o", "m.json", "--on-duplicate", EVIL),
    ],
)
def test_arguments_are_quoted_and_not_obeyed(arguments: tuple[str, ...], run: Run) -> None:
    code, out, errors = run("lut", *arguments)
    assert code == (1 if arguments == ("show", EVIL) else 2)
    assert out == ""
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert len(lines[0]) <= LONGEST_MESSAGE


def test_a_long_message_is_shortened(run: Run) -> None:
    for arguments in (("show", "\x1b" * 3000), ("show", "x.json", "--limit", "y" * 9000), ("z\n" * 3000,)):
        code, _, errors = run("lut", *arguments)
        assert code
        assert len(errors) <= LONGEST_MESSAGE + 1
        assert "…" in errors or "limit" in errors


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_are_no_text(encoding: str, make_table: Callable[..., LatencyTable], tmp_path: Path) -> None:
    name = b"\xff[bold]\xc3\xa9\xf0\x9f\x98\x80.json"
    table = make_table(range(1, 3))
    (tmp_path / os.fsdecode(name)).write_bytes(table.to_json())
    hostile = json.loads(table.to_json())
    hostile["device"]["model"] = "é \U0001f600 " + EVIL
    (tmp_path / "h.json").write_text(json.dumps(hostile))

    def lut(*arguments: str | bytes, code: int = 0) -> tuple[str, str]:
        done = subprocess.run(
            [Path(sys.executable).with_name("lut"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
            check=False,
        )
        assert done.returncode == code, done
        assert b"Traceback" not in done.stderr
        return done.stdout.decode(encoding), done.stderr.decode(encoding)

    assert "\\udcff[bold]" in lut("validate", name)[0]
    assert "\\udcff[bold]" in lut("show", name, "h.json")[0]
    assert list(json.loads(lut("validate", name, "--json")[0])) == ["\\udcff[bold]é\U0001f600.json"]
    first, second = json.loads(lut("show", name, "h.json", "--json")[0])
    assert first["file"] == "\\udcff[bold]é\U0001f600.json"
    assert second["device"]["model"] == hostile["device"]["model"]
    assert "\\udcfe" in lut("show", b"\xfe.json", code=1)[1]
    assert "limit" in lut("show", name, "--limit", b"\xfe", code=2)[1]
    assert "\\udcfe" in lut(b"\xfe", code=2)[1]


def test_a_report_beside_a_name_that_is_no_text(
    make_table: Callable[..., LatencyTable], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from profiler._cli import report_table

    name = os.fsdecode(b"\xff.json")
    make_table(range(1, 17)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report-table", name])
    with pytest.raises(SystemExit) as end:
        report_table.main()
    assert not end.value.code
    assert "<title>\\udcff.json" in Path(os.fsdecode(b"\xff.html")).read_text()


def test_json_of_anything_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"\udc80": ["\ud800x", ("é", 1.5, None)], 2: {"\x9b": "\u202e\u2028"}}
    print_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == {"\\udc80": ["\\ud800x", ["é", 1.5, None]], "2": {"\x9b": "\u202e\u2028"}}
    assert not ACTED_ON.search(out)


# --- how a command ends ---


def ends(error: BaseException, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    def fails(file: str) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["/usr/bin/lut", "[/]\x1b.json"])
    with pytest.raises(SystemExit) as end:
        run_single_command(fails)
    found = capsys.readouterr()
    assert found.out == ""
    return end.value.code, found.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped; run the same command again\n"),
        (MemoryError(), 1, "error: lut [/]\\x1b.json: there is not enough memory for this\n"),
        (RecursionError("x"), 1, "error: lut [/]\\x1b.json: something in what it was given is nested too deeply\n"),
        (OSError(28, "No space left on device"), 1, "error: cannot write the output: no space left on device\n"),
        (OSError(5, "Input/output error", "a\nb"), 1, "error: a\\nb: input/output error\n"),
        (OSError(24, "Too many open files"), 1, "error: lut [/]\\x1b.json: too many open files\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_the_end_is_one_line(
    error: BaseException,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["lut"])
    assert ends(error, capsys, monkeypatch) == (code, said)


def test_a_fault_of_ours_shows_where_and_nothing_acts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, errors = ends(AssertionError(EVIL), capsys, monkeypatch)
    assert code == 1
    assert "Traceback" in errors
    assert not ACTED_ON.search(errors)


def test_ctrl_c_while_a_file_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LatencyTable, "load", interrupted)
    for command in (("lut", "show"), ("select-widths",), ("report-table",), ("check-table",), ("fit-predictor",)):
        assert run(*command, "curve.json") == (130, "", "stopped; run the same command again\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("show", "t.json"), ("show", "t.json", "--json"), ("validate", "t.json"), ()])
def test_an_output_that_takes_nothing_is_one_line(
    arguments: tuple[str, ...], make_table: Callable[..., LatencyTable], tmp_path: Path
) -> None:
    table = make_table(range(1, 3))
    table.save(tmp_path / "t.json")
    command = [Path(sys.executable).with_name("lut"), *(arguments or ["--help"])]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        both = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=full, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert lines == ["error: cannot write the output: no space left on device"]
    assert (done.returncode, both.returncode) == (1, 1)


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_output_is_no_traceback(closed: int, make_table: Callable[..., LatencyTable], tmp_path: Path) -> None:
    make_table(range(1, 3)).save(tmp_path / "t.json")
    for arguments in (("show", "t.json"), ("show", "t.json", "--json"), ("show", "absent.json")):
        done = subprocess.run(
            ["sh", "-c", f'"$0" "$@" {closed}>&-', Path(sys.executable).with_name("lut"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (arguments[1] == "absent.json"), done
        assert "Traceback" not in done.stderr
        assert not (done.stderr if closed == 2 else done.stdout)


# --- reports ---


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: elements, their attributes, text, and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text, self.scripts = "", [""]
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


def labels(script: str) -> Iterator[str]:
    """Yield all text in the data and the layout of a plot."""

    def inside(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from inside(item)

    decoder = json.JSONDecoder()
    at = script.index("[", script.index("Plotly.newPlot("))
    data, end = decoder.raw_decode(script, at)
    layout, _ = decoder.raw_decode(script, script.index("{", end))
    layout.pop("template")
    yield from inside([data, layout])


@pytest.mark.parametrize("name", ["curve", "network", "resnets", "failed"])
def test_nothing_in_a_report_is_obeyed(name: str, run: Run) -> None:
    assert run("report-table", f"{name}.json", "-o", f"{name}.html")[0] == 0
    page = Page(Path(f"{name}.html").read_text())
    assert printable(EVIL) in page.text
    assert not [key for key, _ in page.attributes if key.startswith("on")]
    links = [value or "" for key, value in page.attributes if key in ("href", "src") and value != "data:,"]
    assert len(links) == page.tags.count("a") > 0
    for link in links:
        rows = list(
            csv.reader(
                base64.b64decode(link.removeprefix("data:text/csv;charset=utf-8;base64,")).decode().split("\r\n")
            )
        )
        assert len({len(row) for row in rows if row}) == 1
        assert not ACTED_ON.search("".join(map("".join, rows)))
    plots = [script for script in page.scripts if "Plotly.newPlot(" in script and len(script) < 1_000_000]
    assert plots
    # Plotly itself, the one that has plots follow the window, and for each plot its own and an empty one before it.
    assert page.tags.count("script") <= 2 + 2 * len(plots)
    found = [label for plot in plots for label in labels(plot)]
    assert any("&lt;script&gt;" in label for label in found)
    for label in found:
        assert not re.search("<(?!br>|/?extra>)", label)
        assert not ACTED_ON.search(label)


def test_labels_and_text_are_shown_as_they_are() -> None:
    evil = "<b>\"'&\n"
    chart = Chart(go.Figure(), [Point(f"=1+{evil}", math.nan)], f"../{evil}")
    blocks = [
        Text(evil),
        Notice("bad", evil),
        Table([evil], [[evil, Cell(evil, evil)]], ""),
        chart._replace(caption=evil),
    ]
    page = html_page(
        evil, heading=evil, subtitle=evil, answer=Answer([evil], []), sections=[Section(evil, blocks), Section("", [])]
    )
    assert page.count("&lt;b&gt;&#34;&#39;&amp;\\n") == 12
    assert evil.strip() not in page
    assert 'download="b.csv"' in page
    (link,) = re.findall('href="data:text/csv;charset=utf-8;base64,([^"]+)"', page)
    assert base64.b64decode(link).decode() == "name,value\r\n" + '"\'=1+<b>""\'&\\n",\r\n'
    assert plot_label("<a href='x'>&\x1b") == "&lt;a href='x'&gt;&amp;\\x1b"
    assert plot_label("3×3 “ok” 'x'") == "3×3 “ok” 'x'"


class Point(NamedTuple):
    """A point of a made-up chart."""

    name: str
    value: float


# --- everything goes through one place ---


def sources() -> Iterator[tuple[Path, str]]:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            yield file.relative_to(ROOT), file.read_text()


def test_what_prints_is_made_in_one_place() -> None:
    for file, text in sources():
        if file.as_posix() == "lut/_terminal.py":
            continue
        for word in (r"rich\.markup", r"\bConsole\(", r"markup=", r"\[/\]", r"\[bold", r"\becho\(", r"rich\.table"):
            assert not re.search(word, text), f"{file}: {word}"
        if file.as_posix() != "lut/_console.py":
            for word in (r"(?<![\w.])print\(", r"rich\.text"):
                assert not re.search(word, text), f"{file}: {word}"
        if file.as_posix() != "profiler/_report/_plots.py":
            assert "from html import" not in text, f"{file}: templates escape what they show"
        # What is HTML already is made by templates and by Plotly alone.
        if file.as_posix() != "profiler/_report/_page.py":
            assert "Markup(" not in text, file

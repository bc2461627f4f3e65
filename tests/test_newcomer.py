"""What somebody meets who does not know the tool yet: slips, colours, help, and what is said at the end."""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from _commands import run_here
from conftest import conv, simulate, table_of

from lut import LatencyTable, Network, NetworkLayer
from lut._console import make_console
from lut._network_text import audit_level, audit_line, trust_sentence
from lut._option_names import go_on, option_text
from lut._printable import lowered
from lut._records import Failure, NotMeasured
from lut._suggest import did_you_mean, none_of
from lut._terminal import DataConsole
from lut.errors import UnauditedTableWarning
from profiler import report_html
from profiler._cli._result import print_as_json, print_result
from profiler._report._networks import network_bars
from profiler._sources import subject_of

MODEL = """
import torch

def make():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
"""


@pytest.fixture
def audited(tmp_path: Path) -> LatencyTable:
    networks = [Network(name, (NetworkLayer("a", conv(width)),)) for name, width in (("one", 8), ("two", 16))]
    subjects = [subject_of(network) for network in networks]
    plan, result, _ = simulate([conv(8), conv(16)], networks=subjects)
    return table_of(plan, result, tmp_path / "r.json", networks=subjects)


def off_by(table: LatencyTable, factor: float) -> LatencyTable:
    """Return a table whose sums are off by a factor."""
    moved = []
    for network in table.networks:
        whole = network.end_to_end
        assert whole is not None
        ms = table.latency_ms(network.network) / factor
        moved.append(network._replace(end_to_end=msgspec.structs.replace(whole, median_ms=ms, repeat_error=0.01)))
    return LatencyTable(
        device=table.device,
        setting=table.setting,
        sessions=table.sessions,
        measurements=table.values(),
        networks=moved,
    )


def test_an_audit_is_coloured_by_its_size(audited: LatencyTable) -> None:
    levels = {factor: audit_level(off_by(audited, factor)) for factor in (1.0, 1.04, 0.93, 1.3, 0.39)}
    assert list(levels.values()) == ["holds", "holds", "off", "fails", "fails"]
    assert "Do not add layers up without calibration" in audit_line(off_by(audited, 0.39))
    assert "without calibration" not in audit_line(off_by(audited, 1.0))
    assert audit_level(audited.select(lambda _: True)) == "none"


def said_of(table: LatencyTable, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    """Return what profile-device prints of a table, as text and as JSON."""
    output = Path("t.json")
    print_result(make_console(), table, (), (), output, None, groups=8, alpha="1", verbose=False)
    text = capsys.readouterr().out
    print_as_json(table, (), (), output, None)
    return text, json.loads(capsys.readouterr().out)


def test_what_few_visits_cannot_tell_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = [conv(width) for width in range(1, 65)]
    plan, result, _ = simulate(layers, floor_ms=5.0, protocol={"time_budget_s": 1.0})
    table = table_of(plan, result, tmp_path / "r.json")
    assert 0 < len(table) < len(layers)
    text, content = said_of(table, capsys)
    assert "noise floor not known" in text
    assert "scale not known, process not known (1 σ); machine's drift during the run not known\n" in text
    assert content["noise_floor"] is None
    table.save(tmp_path / "t.json")
    assert "noise floor not known, correction" in run_here(tmp_path, "lut", "show", "t.json").stdout


def test_what_enough_visits_tell_is_said(
    make_table: Callable[..., LatencyTable], capsys: pytest.CaptureFixture[str]
) -> None:
    text, content = said_of(make_table(process_sigma=0.05, common_drift=0.1), capsys)
    assert "not known" not in text
    assert re.search(r"noise floor ±\d\.\d%", text)
    assert re.search(r"scale ±\d\.\d%, process ±\d\.\d% \(1 σ\); machine's drift during the run \d\.\d%, removed", text)
    assert content["noise_floor"] > 0


def test_words_are_suggested() -> None:
    assert did_you_mean("resnet_cifer", ["resnet-cifar", "rcnet-cifar"]) == "; did you mean 'resnet-cifar'?"
    assert did_you_mean("zzz", ["resnet-cifar"]) == ""
    assert none_of("--loss", "hubber", ("squared", "huber")) == (
        "--loss is squared or huber, got 'hubber'; did you mean 'huber'?"
    )
    assert none_of("--on-duplicate", 1, ("error", "first", "last")) == "--on-duplicate is error, first or last, got 1"
    assert lowered("JSON is malformed") == "JSON is malformed"
    assert lowered("Expected `int`") == "expected `int`"


def test_no_color_means_no_escape_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> str:
        console = DataConsole(stderr=False, soft_wrap=True)
        console.file = io.StringIO()
        console.print("bold", style="bold red")
        return str(console.file.getvalue())

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in shown()
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown() == "bold\n"


COMMANDS = (
    *("profile-device", "check-table", "export-coreml", "report-table", "lut", "select-widths", "fit-predictor"),
    *("predict-latency", "search-architecture"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_its_version_and_shows_flags_as_flags(command: str, tmp_path: Path) -> None:
    assert run_here(tmp_path, command, "--version").stdout.split()[1:] == ["0.1.0"]
    text = run_here(tmp_path, command, "--help").stdout
    assert "<bool>" not in text
    assert "--version says which version" in text


def test_a_paragraph_of_help_is_wrapped_once(tmp_path: Path) -> None:
    lines = run_here(tmp_path, "profile-device", "--help", COLUMNS="100").stdout.splitlines()
    paragraph = [line.strip() for line in lines if line.startswith(" ") and "─" not in line]
    assert max(map(len, paragraph)) <= 98
    start = next(i for i, line in enumerate(paragraph) if line.startswith("The result is"))
    assert all(len(line) > 70 for line in paragraph[start : start + 2])
    titles = [line for line in lines if line.startswith("╭─")]
    assert "What is measured" in titles[0]
    assert "Rarely needed" in titles[-1]


@pytest.mark.parametrize(
    "name",
    [
        *("profile-device", "check-table", "select-widths", "fit-predictor", "predict-latency", "export-coreml"),
        *("search-architecture htas", "search-architecture rcas", "search-architecture submodularity"),
    ],
)
def test_ranges_in_help_are_plain_numbers(name: str, tmp_path: Path) -> None:
    text = run_here(tmp_path, *name.split(), "--help", COLUMNS="150").stdout
    (seed,) = (line for line in text.splitlines() if re.search(r" --seed ", line))
    assert "[x" not in seed
    assert "<=x" not in seed
    assert not re.search(r"\[[^\]]*x[<>]=[^\]]*(\.0\b|\d{7})", text)
    refused(tmp_path, *name.split(), "--seed", "-1", said="got '-1'")
    if "rcas" in name:
        assert "[0<=x<=1,000,000]  Seconds of each" in text
        assert re.search(r"--batch-size +N \[x>=2\]  ", text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("profile-device", "--space", "resnet"), "unknown space 'resnet'; installed: "),
        (("profile-device", "--target", "cpuu"), "did you mean 'cpu'?"),
        (
            ("profile-device", "--model", "my.py:mak", "--input", "1x3x8x8"),
            "mak in it; did you mean 'make'?",
        ),
        (("profile-device", "--model", "my.py:make", "--input", "1,3,8,8"), "did you mean --input 1x3x8x8?"),
        (("profile-device", "--model", "you.py:make", "--input", "1x3x8x8"), "there is no file you.py"),
        (("profile-device", "--traget", "cpu"), "--traget"),
        (("predict-latency", "--predictor", "none", "--space", "resnet-cifar", "--choices", "random"), "none"),
        (("check-table", "none.json"), "none.json"),
        (("report-table", "my.py"), "not a lookup table"),
        (("lut", "show", "none.json"), "none.json"),
        (("lut", "shwo", "t.json"), "shwo"),
        (("select-widths", "none.json"), "none.json"),
        (("select-widths", "t.json", "--groups", "0"), "groups"),
        (("fit-predictor", "none.json", "--output", "p"), "none.json"),
        (("fit-predictor",), "missing"),
        (("export-coreml", "--space", "resnet_cifar", "-o", "out"), "did you mean 'resnet-cifar'?"),
        (("search-architecture", "htsa"), "htsa"),
        (("search-architecture", "htas", "--table", "none.json"), "cannot read none.json: no such file"),
        (("search-architecture", "htas", "--table", "my.py"), "not a lookup table"),
        (("search-architecture", "htas", "--budget-ms", "3"), "give either --predictor FOLDER"),
        (("search-architecture", "htas", "--table", "t.json", "--budgt-ms", "3"), "--budget-ms"),
        (
            ("search-architecture", "htas", "--table", "t.json", "--budget-ms", "three"),
            "--budget-ms: expected a number, got",
        ),
        (("search-architecture", "htas", "--table", "t.json", "-o", "my.py"), "my.py is a file, not a folder"),
        (("search-architecture", "htas", "--table", "t.json", "--data", "mnist"), "give one of digits"),
        (
            ("search-architecture", "htas", "--table", "t.json", "--search-epochs", "0"),
            "--search-epochs: expected a whole number of at least 1, got",
        ),
        (("search-architecture", "rcas"), "give a budget: --budget-ms, --budget-params or --budget-madds"),
        (("search-architecture", "rcas", "--budget-ms", "3"), "latency needs a predictor: give --predictor"),
        (("search-architecture", "rcas", "--budget-params", "2.4"), "did you mean 2.4e6?"),
        (("search-architecture", "rcas", "--budget-params", "1e6", "--space", "rcnet"), "did you mean 'rcnet-cifar'?"),
        (("search-architecture", "rcas", "--budget-params", "1e6", "--rules", "unifrm"), "did you mean 'uniform'?"),
        (("search-architecture", "rcas", "--budget-params", "1e6", "--accuracy", "my.py"), "FILE.py:NAME, got 'my.py'"),
        (("search-architecture", "rcas", "--budget-params", "1e6", "-o", "my.py"), "my.py is a file, not a folder"),
        (("search-architecture", "submodularity", "--space", "resnet-cifar"), "is a space of widths"),
        (("search-architecture", "submodularity", "--space", "nas_bench_macr"), "did you mean 'nas-bench-macro'?"),
        (("search-architecture", "submodularity", "--blocks", "99"), "between 2 and 32 blocks, got 10 and 99"),
        (
            ("search-architecture", "submodularity", "--networks", "0"),
            "--networks: expected a whole number of at least 1, got",
        ),
        (("search-architecture", "submodularity", "--data", "digts"), "unknown data 'digts'"),
        (("search-architecture", "submodularity", "-o", "my.py"), "my.py is not a file of accuracies"),
        (("search-architecture", "describe", "resnet-cifar", "tas-c10-r33"), "did you mean 'tas-c10-r32'?"),
        (("search-architecture", "describe", "resnet-cifr", "tas-c10-r32"), "did you mean 'resnet-cifar'?"),
        (("search-architecture", "describe", "resnet-cifar", "none.json"), "cannot read none.json"),
        (("search-architecture", "describe", "resnet-cifar", "random", "--level", "90"), "lies between 0 and 1"),
        (("search-architecture", "describe", "resnet-cifar", "random", "--predictor", "my.py"), "my.py is a file"),
        (("search-architecture", "spaces", "resnet-cifar"), "unexpected argument: resnet-cifar"),
        (("search-architecture", "spaces", "--jsn"), "--json"),
        (
            (
                "search-architecture",
                "spces",
            ),
            "did you mean 'spaces'? See ",
        ),
    ],
)
def test_a_slip_is_one_line_with_the_way_out(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(MODEL, encoding="utf-8")
    refused(tmp_path, *arguments, said=said)


def refused(folder: Path, *arguments: str, said: str) -> None:
    """Check that a command line is answered by one clear line."""
    done = run_here(folder, *arguments, code=None)
    assert done.returncode in (1, 2, 3)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert said in lines[-1], lines
    assert "Traceback" not in done.stderr
    assert "Input should be" not in done.stderr
    assert len(lines[-1]) < 900


ON_PREDICTOR = "predict-latency --predictor p --space nas-bench-macro"
SLIPS = [
    ("lut show folder", "is a directory; give a file, not a folder"),
    ("lut show text.txt", "text.txt: not a lookup table"),
    ("lut show my.py", "my.py: not a lookup table"),
    ("lut show t.json --limit 0", "--limit: expected a whole number of at least 1, got '0'"),
    ("lut show t.json --limit=3.5ms", "--limit: expected a whole number of at least 1, got '3.5ms'"),
    ("lut show t.json --containz x", "did you mean '--contains'?"),
    ("lut shwo t.json", "did you mean 'show'? See "),
    ("lut validate none.json", "none.json: no such file or directory; check the path"),
    ("lut validate folder", "give a file, not a folder"),
    ("lut validate text.txt", "invalid: text.txt: not a lookup table"),
    ("lut validate t.json --limit 3", "no such option: --limit"),
    ("lut diff t.json", "missing argument 'FILE'"),
    ("lut diff t.json t.json t.json", "unexpected argument: t.json"),
    ("lut diff t.json none.json", "check the path"),
    ("lut diff t.json t.json --level 95", "got 95; did you mean 0.95?"),
    ("lut diff t.json t.json --level 95%", "--level: expected a number, got '95%'"),
    ("lut diff t.json t.json --margin 10", "got 10; did you mean 0.1?"),
    ("lut diff t.json t.json --across devise", "did you mean 'device'?"),
    ("lut diff t.json t.json --across device,setting", "several are given one by one"),
    ("lut merge t.json -o o.json", "merge takes two or more tables"),
    ("lut merge t.json t.json", "missing option '--output'"),
    ("lut merge t.json t.json -o o.json", "on_duplicate='first' (--on-duplicate first), last or tighter"),
    ("lut merge t.json t.json -o o.json --on-duplicate frist", "did you mean 'first'?"),
    ("lut merge t.json t.json -o no/o.json --on-duplicate first", "create the folder no first"),
    ("lut merge t.json t.json -o folder --on-duplicate first", "give a file, not a folder"),
    ("lut merge t.json text.txt -o o.json", "text.txt: not a lookup table"),
    ("select-widths folder", "give a file, not a folder"),
    ("select-widths text.txt", "not a lookup table"),
    ("select-widths t.json", "holds no channel curves"),
    ("select-widths t.json --groups 2.5", "--groups: expected a whole number of at least 1"),
    ("select-widths t.json --alpha atuo", "alpha (--alpha) is a positive number or 'auto'"),
    ("select-widths t.json --loss hubber", "did you mean 'huber'?"),
    ("select-widths t.json --expand 2x", "--expand: expected a number, got '2x'"),
    ("select-widths t.json t.json", "unexpected argument: t.json"),
    ("report-table none.json", "check the path"),
    ("report-table folder", "give a file, not a folder"),
    ("report-table t.json -o folder", "cannot write folder: is a directory"),
    ("report-table t.json -o no/such.html", "create the folder no first"),
    ("report-table t.json -o t.json", "is the table itself, which the page would replace"),
    ("report-table t.json --outptu x.html", "did you mean '--output'?"),
    ("fit-predictor folder -o p2", "give a file, not a folder"),
    ("fit-predictor text.txt -o p2", "not a lookup table"),
    ("fit-predictor t.json,u.json -o p2", "cannot read t.json,u.json"),
    ("fit-predictor t.json -o p2 --failures skp", "did you mean 'skip'?"),
    ("fit-predictor t.json -o p2 --seed -1", "--seed: expected a whole number of at least 0"),
    ("fit-predictor t.json --outptu p2", "did you mean '--output'?"),
    ("predict-latency", "give either --predictor FOLDER (see fit-predictor) or --table FILE"),
    ("predict-latency --predictor p", "give a network: either --model"),
    (
        "predict-latency --predictor none --model my.py:make",
        "error: there is no folder none; give the folder that fit-predictor, or",
    ),
    (
        "predict-latency --predictor t.json --model my.py:make",
        "t.json is no predictor: it is a file, and a predictor is a folder; give the folder that",
    ),
    (
        "predict-latency --predictor folder --model my.py:make",
        "the folder folder is no predictor: it holds no predictor.json; ",
    ),
    (f"{ON_PREDICTOR} --choices randon", "did you mean 'random'?"),
    (f"{ON_PREDICTOR} --choices 1,2", "8 positions, each 0, 1 or 2, got [1, 2]"),
    (f"{ON_PREDICTOR} --choices none.json", "check the path"),
    (f"{ON_PREDICTOR} --choices random --level 90", "did you mean 0.9?"),
    (f"{ON_PREDICTOR} --choices random --unknown ouside", "did you mean 'outside'?"),
    (f"{ON_PREDICTOR}", "--space and --choices go together"),
    (f"{ON_PREDICTOR} --model my.py:make", "give a network: either"),
    ("profile-device --layers none.json", "check the path"),
    ("profile-device --layers folder", "give a file, not a folder"),
    ("profile-device --layers text.txt", "text.txt: not valid JSON"),
    ("profile-device --layers t.json", "expected a list of layers, one at least; this is an object"),
    ("profile-device --model my.py --input 1x3x8x8", "name a function in it too, my.py:FACTORY"),
    ("profile-device --model text.txt --input 1x3x8x8", "--model is file.py:factory"),
    ("profile-device --model my.py:make --layers l.json", "give one of --model and --layers"),
    ("profile-device --input 1x3x8x8", "--input is about a --model"),
    ("profile-device --precision 2", "got 2; did you mean 0.02?"),
    ("profile-device --precision 2%", "--precision: expected a number, got '2%'"),
    ("profile-device --time-budget 30s", "--time-budget: expected a number, got '30s'"),
    ("profile-device --batch 4.5", "--batch: expected a whole number of at least 1, got '4.5'"),
    ("profile-device --audit 5000", "of at least 0 and at most 1000, got '5000'"),
    ("profile-device --dtype flaot32", "did you mean 'float32'?"),
    ("profile-device --memory-format channel_last", "did you mean 'channels_last'?"),
    ("profile-device --context netwrok", "did you mean 'network'?"),
    ("profile-device --sampling adaptve", "did you mean 'adaptive'?"),
    ("profile-device --sampling adaptive --target-error 3", "got 3; did you mean 0.03?"),
    ("profile-device --when-busy wiat", "did you mean 'wait'?"),
    ("profile-device --target gpu", "unknown target 'gpu'; did you mean 'cuda'?"),
    ("profile-device --sweep", "--sweep is about a --model"),
    ("profile-device -o folder", "give a file, not a folder"),
    ("profile-device -o no/t.json", "create the folder no first"),
    ("profile-device -o t.json", "t.json exists already; restart=True (--restart)"),
    ("profile-device --provider cpu", "target cpu has no option --provider"),
    ("profile-device --bundle x", "--bundle needs --import FILE"),
    ("profile-device t.json", "unexpected argument: t.json"),
    ("check-table folder", "give a file, not a folder"),
    ("check-table text.txt", "not a lookup table"),
    ("check-table t.json --layers-count 0", "--layers-count: expected a whole number of at least 1"),
    ("check-table t.json --time-budget 10s", "--time-budget: expected a number, got '10s'"),
    ("check-table t.json --input 1x3x8x8", "--input is about a --model"),
    ("check-table t.json t.json", "unexpected argument: t.json"),
    ("check-table t.json --modle x", "did you mean '--model'?"),
    ("export-coreml -o out", "say what to export"),
    ("export-coreml --model my.py:make --input 1x3x8x8", "missing option '--output'"),
    ("export-coreml --layers t.json -o out", "expected a list of layers"),
    ("export-coreml --layers none.json -o out", "check the path"),
    ("export-coreml --space resnet-cifar --layers l.json -o out", "give --layers or --space, not both"),
    ("export-coreml --input 1x3x8x8 -o out", "--input is the input of a --model"),
    ("export-coreml --model my.onnx --input 1x3x8x8 -o out", "--model is file.py:factory"),
    ("export-coreml --model my.py:make --input 1x3x8x8 -o out --precision fp16", "float16 or float32, got 'fp16'"),
    ("export-coreml --model my.py:make --input 1x3x8x8 -o out --format mlpackage", "is mlprogram or neuralnetwork"),
    ("export-coreml --model my.py:make --input 1x3x8x8 -o out --deployment-target 16", "iOS15, iOS16, iOS17 or iOS18"),
    (
        "export-coreml --model my.py:make --input 1x3x8x8 -o out --jobs 0",
        "--jobs: expected a whole number of at least 1",
    ),
]


@pytest.fixture(scope="module")
def slipping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one of each thing that is taken for another."""
    folder = tmp_path_factory.mktemp("slips")
    (folder / "my.py").write_text(MODEL, encoding="utf-8")
    (folder / "text.txt").write_text("hello\n", encoding="utf-8")
    (folder / "folder").mkdir()
    plan, result, _ = simulate([conv(width) for width in range(4, 12)])
    table_of(plan, result, folder / "r.json").save(folder / "t.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnauditedTableWarning)
        run_here(folder, "fit-predictor", "t.json", "-o", "p")
    return folder


@pytest.mark.parametrize(("line", "said"), SLIPS)
def test_other_slips(line: str, said: str, slipping: Path) -> None:
    before = (slipping / "t.json").read_bytes()
    refused(slipping, *line.split(), said=said)
    assert (slipping / "t.json").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("lut diff t.json t.json --level 30", "level (--level) is at least 0.5 and below 1, got 30"),
        ("lut diff t.json t.json --level 100", "got 100"),
        ("lut diff t.json t.json --margin 100", "got 100"),
        (f"{ON_PREDICTOR} --choices random --level 100", "level (--level) lies between 0 and 1, such as 0.9, got 100"),
        ("profile-device --precision 60", "between 0.0005 and 0.5 (0.02 is 2 %), got 60"),
        ("profile-device --precision 50", "got 50; did you mean 0.5?"),
    ],
)
def test_a_share_is_suggested_only_where_it_would_be_taken(line: str, ends: str, slipping: Path) -> None:
    said = run_here(slipping, *line.split(), code=2).stderr.splitlines()[-1]
    assert said.endswith(ends)


# What only commands use: it reads what is typed, or says what is printed.
OF_COMMANDS = (
    *("lut/_console.py", "lut/_grid.py", "profiler/_busy.py"),
    *("profiler/_model.py", "profiler/_options.py", "profiler/_user_network.py"),
    *("search/_training/_by_name.py", "search/_problem/_coverage.py"),
)


def messages_of(file: Path) -> Iterator[str]:
    """Yield the strings of a file, those of f-strings joined, without its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inside.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            inside.update(map(id, node.values))
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


@pytest.mark.parametrize("package", ["lut", "predictors", "profiler", "search"])
def test_what_python_users_are_told_is_not_of_flags_alone(package: str) -> None:
    root = Path(__file__).parent.parent
    for file in sorted((root / package).rglob("*.py")):
        place = file.relative_to(root).as_posix()
        if (
            place in OF_COMMANDS
            or "/_cli" in place
            or "/_commands" in place
            or re.search("_page|_report|_command[.]py", place)
        ):
            continue
        for message in messages_of(file):
            for found in re.finditer(r"--[a-z]", message):
                before = message[: found.start()]
                aside = before.rfind("(") > before.rfind(")")
                whole = re.search(r"(profile-device|export-coreml|fit-predictor|pip|xcode-select)\b", before)
                assert aside or whole or len(message.split()) < 2, f"{place}: {message}"


def test_options_are_named_as_python_and_as_commands_have_them() -> None:
    assert option_text("output") == "output (--output)"
    assert option_text("restart", True) == "restart=True (--restart)"
    assert option_text("when_busy", "fit") == "when_busy='fit' (--when-busy fit)"
    assert option_text("batch", 4) == "batch=4 (--batch 4)"
    both = option_text("across", ("setting", "reference"))
    assert both == "across=['setting', 'reference'] (--across setting --across reference)"
    assert go_on(restart=False) == "run the same command again to go on from there"
    assert "without restart=True (--restart) to go on" in go_on(restart=True)


def test_a_shown_table_has_its_layers_first_and_its_networks_under_the_same_options(
    audited: LatencyTable, tmp_path: Path
) -> None:
    audited.save(tmp_path / "t.json")
    lines = run_here(tmp_path, "lut", "show", "t.json").stdout.splitlines()
    titles = [i for i, line in enumerate(lines) if line.startswith(("audited by", "layer ", "network "))]
    assert [lines[i].split()[0] for i in titles] == ["audited", "layer", "network"]
    networks = lines[titles[2] + 1 :]
    assert [line.split()[0] for line in networks] == ["one", "two"]
    assert all(len(line.split()) == 6 for line in networks)
    found = run_here(tmp_path, "lut", "show", "t.json", "--contains", "two").stdout
    assert "\ntwo " in found
    assert "\none " not in found
    assert "no layers with 'two' in their names" in found
    few = run_here(tmp_path, "lut", "show", "t.json", "--limit", "1").stdout
    assert "\ntwo " not in few
    assert "… and 1 more networks: --limit 2 shows all" in few
    (read,) = msgspec.json.decode(run_here(tmp_path, "lut", "show", "t.json", "--json", "--contains", "two").stdout)
    (network,) = read["networks"]
    assert network["name"] == "two"
    assert network["end_to_end_ms"] == pytest.approx(network["sum_ms"], rel=0.2)


def test_a_shown_table_says_what_it_leaves_out(audited: LatencyTable, tmp_path: Path) -> None:
    others = [conv(width) for width in range(32, 37)]
    table = LatencyTable(
        device=audited.device,
        setting=audited.setting,
        sessions=audited.sessions,
        measurements=audited.values(),
        not_measured=[NotMeasured(layer=layer, reason="out of time") for layer in others[:3]],
        failures=[Failure(layer=layer, reason="error", message="no", session=0) for layer in others[3:]],
    )
    table.save(tmp_path / "t.json")
    few = run_here(tmp_path, "lut", "show", "t.json", "--limit", "1").stdout.splitlines()
    failed, failures, unmeasured, rest = few[-4:]
    assert failed.startswith(f"failed: {others[3]}")
    assert failures == "… and 1 more failed layers: --limit 2 shows all, --contains TEXT picks some"
    assert unmeasured.startswith(f"not measured: {others[0]}")
    assert rest == "… and 2 more layers not measured: --limit 3 shows all, --contains TEXT picks some"
    every = run_here(tmp_path, "lut", "show", "t.json").stdout
    assert "… and" not in every
    assert every.count("\nfailed: ") == 2
    assert every.count("\nnot measured: ") == 3
    picked = run_here(tmp_path, "lut", "show", "t.json", "--contains", str(others[4])).stdout
    assert picked.count("\nfailed: ") == 1
    assert "\nnot measured: " not in picked
    table.select(lambda _: False).save(tmp_path / "none.json")
    assert run_here(tmp_path, "lut", "show", "none.json").stdout.endswith("\nno layers\n")


def test_the_lookup_example_asks_for_what_the_device_can_do(
    audited: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, make_table: Any
) -> None:
    import runpy

    make_table(range(1, 9)).save(tmp_path / "t.json")
    monkeypatch.setattr(sys, "argv", ["lookup.py", str(tmp_path / "t.json")])
    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "lookup.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(" ms: conv3×3" in line for line in lines[:4])
    assert "this table does not hold" in lines[4]


def test_an_audit_by_disturbed_networks_alone_condemns_nobody(audited: LatencyTable) -> None:
    def disturbed(*names: str) -> LatencyTable:
        moved = off_by(audited, 0.4)
        networks = [
            network._replace(end_to_end=msgspec.structs.replace(network.end_to_end, flags=("contaminated",)))
            if network.name in names and network.end_to_end is not None
            else network
            for network in moved.networks
        ]
        fields = {"sessions": moved.sessions, "measurements": moved.values(), "networks": networks}
        return LatencyTable(device=moved.device, setting=moved.setting, **fields)  # type: ignore[arg-type]

    assert audit_level(disturbed("one")) == "fails"
    table = disturbed("one", "two")
    assert audit_level(table) == "disturbed"
    assert "Do not add layers up" not in audit_line(table)
    assert "disturbed every visit to them: measure again when it is quiet, and go by the sums" in audit_line(table)
    assert trust_sentence(table).startswith("Whether sums of layers hold is not known")
    assert "cannot be trusted" not in report_html(table, [], title="t")
    assert network_bars(table, table.networks[0])[0].kind == "disturbed"


def test_what_a_table_holds_is_printed_in_a_line(audited: LatencyTable) -> None:
    for thing in (*audited.values(), *audited.networks):
        assert len(repr(thing)) < 200
        assert " ms" in repr(thing)


def test_a_target_that_is_not_there_is_told_before_anything_is_traced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    from lut.errors import TargetUnavailableError
    from profiler import _cpu, profile
    from profiler._onnx import _target

    (tmp_path / "mine.py").write_text("raise SystemExit('it was loaded')")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    model = ("--model", "mine.py:make", "--input", "1x3x8x8")
    done = run_here(tmp_path, "profile-device", "--target", "cuda", *model, code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("error: target cuda needs a PyTorch that is built with CUDA")
    assert done.stderr.count("\n") == 1
    monkeypatch.setattr(_target, "find_spec", lambda name: None if name == "onnxruntime" else name)
    done = run_here(tmp_path, "profile-device", "--target", "onnx", code=1)
    how = "pip install -e '.[onnx]' installs all that it needs"
    why = f"target onnx needs the package 'onnxruntime', which is not installed: {how}"
    assert (done.stdout, done.stderr) == ("", f"error: {why}\n")
    with pytest.raises(TargetUnavailableError, match=re.escape(why)):
        profile(conv(8), target="onnx")
    monkeypatch.setattr(_cpu, "_compiler", lambda: None)
    done = run_here(tmp_path, "profile-device", "--compile", code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("error: torch.compile needs a C++ compiler")

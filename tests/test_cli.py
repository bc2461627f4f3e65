"""The commands as people type them: results that read well, one clear line per mistake, the right exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from _commands import installed, run_here
from conftest import HANGS_S, in_the_foreground, wait_until

from lut import LatencyTable
from profiler._machine import affinity

MakeTable = Callable[..., LatencyTable]
COMMANDS = ("check-table", "profile-device", "report-table", "lut", "select-widths")
pytestmark = pytest.mark.usefixtures("short_preflight")
# Done at the first look at each layer, long before the time is over; on one thread, since other tests run beside it.
QUICK = ("--quick", "--precision", "0.5", "--time-budget", "12", "--threads", "1")
TINY = [
    {
        "make": "conv_norm_act",
        "in_channels": 8,
        "out_channels": 8,
        "kernel_size": 3,
        "stride": 1,
        "activation": "relu",
        "input_size": [8, 8],
    },
    {"make": "linear", "in_features": 16, "out_features": 10, "bias": True},
    {"make": "residual_add", "channels": 8, "activation": "relu", "input_size": [8, 8]},
]


def command(
    folder: Path, name: str, *arguments: str, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [installed(name), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "COLUMNS": "120", "PYTHONWARNINGS": "error", **environment},
        timeout=HANGS_S,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def table_file(make_table: MakeTable, tmp_path: Path) -> Path:
    make_table().save(tmp_path / "t.json")
    return tmp_path / "t.json"


def test_help_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['profile-device', '--help']\n"
        "from profiler._cli.profile_device import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'pandas', 'numpy', 'scipy', 'sklearn', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--target" in done.stdout


def test_lut_imports_little_and_no_framework(tmp_path: Path) -> None:
    # What is imported takes the time; what else this environment loads at its start is not ours.
    script = (
        "import sys; before = set(sys.modules); import lut\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names\n"
        "print(*sorted(new), len(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    *packages, count = done.stdout.split()
    # The last is msgspec's, where it is installed.
    assert {"lut", "msgspec"} <= set(packages) <= {"lut", "msgspec", "typing_extensions"}
    assert int(count) < 200


@pytest.mark.parametrize("name", COMMANDS)
def test_help_speaks_to_a_stranger(name: str, tmp_path: Path) -> None:
    text = command(tmp_path, name, "--help").stdout
    assert "Usage: " in text
    assert len(text.splitlines()) > 8


def test_profile_device_from_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "layers.json").write_text(json.dumps(TINY))
    # A user's own modules of our names lie in the folder; they must not be taken for ours.
    for name in ("lut", "search", "profiler", "predictors"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    words = ("--layers", "layers.json", "--batch", "2", *QUICK, "--output", "mine.json")
    done = command(tmp_path, "profile-device", *words)
    for part in ("noise floor", "3 layers measured", "converged", "measured in", "mine.json", "mine.html", "1 thread"):
        assert part in done.stdout
    table = LatencyTable.load(tmp_path / "mine.json")
    assert len(table) == 3
    assert table.setting.batch == 2
    assert (tmp_path / "mine.html").read_text().startswith("<!DOCTYPE html>")
    again = run_here(tmp_path, "profile-device", *words, code=2)
    assert again.stderr == (
        "error: mine.json exists already; restart=True (--restart) measures again and replaces it in the end, "
        "another output (--output) writes elsewhere\n"
    )
    for name in ("lut", "select-widths", "report-table"):
        command(tmp_path, name, "--help")


def test_profile_device_prints_json(tmp_path: Path) -> None:
    (tmp_path / "layers.json").write_text(json.dumps(TINY[:1]))
    # On as many threads as a user gets who asks for none.
    done = run_here(tmp_path, "profile-device", "--layers", "layers.json", *QUICK[:-2], "--json")
    result = json.loads(done.stdout)
    assert result["setting"]["threads"] == len(affinity())
    assert result["layers"] == 1
    assert result["table"] == "cpu-b4.json"
    assert result["setting"]["batch"] == 4


def test_ctrl_c_is_exit_code_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "layers.json").write_text(json.dumps(TINY))
    # A second measuring process must be started before it is done: time enough to be stopped in.
    options = ["--layers", "layers.json", *QUICK]
    process = subprocess.Popen(
        [installed("profile-device"), *options],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=in_the_foreground,
    )
    journal = tmp_path / "cpu-b4.json.journal"
    # Layers are numbered from 0; those before them are of the noise floor.
    wait_until(lambda: journal.exists() and re.search(rb"\n\[\d", journal.read_bytes()) is not None, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode == 130
    (line,) = errors.splitlines()
    assert line.startswith("stopped: ")
    assert "run the same command again to go on" in line
    run_here(tmp_path, "profile-device", *options)
    assert LatencyTable.load(tmp_path / "cpu-b4.json").sessions[0].resumed == 1


def test_an_incomplete_table_is_exit_code_3(tmp_path: Path) -> None:
    huge = {**TINY[0], "in_channels": 4096, "out_channels": 4096, "input_size": [4096, 4096]}
    (tmp_path / "layers.json").write_text(json.dumps([TINY[0], huge]))
    done = run_here(tmp_path, "profile-device", "--layers", "layers.json", *QUICK, code=3)
    assert "failed: conv3×3 4096→4096" in done.stdout
    assert "out_of_memory" in done.stdout
    assert len(LatencyTable.load(tmp_path / "cpu-b4.json")) == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--target", "abacus"], "unknown target 'abacus'"),
        (["--space", "nowhere"], "unknown space 'nowhere'"),
        (["--dtype", "float8"], "dtype is float32, bfloat16 or float16, got 'float8'"),
        (["--memory-format", "sideways"], "memory format is contiguous or channels_last, got 'sideways'"),
        (["--alpha", "big"], "alpha (--alpha) is a positive number"),
        (["--alpha", "-1"], "alpha (--alpha) is a positive number"),
        (["--expand", "0"], "expand must be between"),
        (["--expand", "nan"], "expand must be between"),
        (["--groups", "200"], "too few for 200 groups"),
        (["--precision", "5"], "precision is a share"),
        (["--time-budget", "0"], "time budget is between"),
        (["--threads", "5000"], "threads must be between"),
        (["--layers", "none.json"], "no such file"),
        (["--layers", "bad.json"], "not valid JSON"),
        (["--layers", "wrong.json"], "`$[1]`"),
        (["--layers", "unknown.json"], "nothing makes 'magic'"),
        (["--layers", "empty.json"], "expected a list of layers"),
        (["--output", "missing/t.json", "--layers", "layers.json"], "create the folder missing first"),
        (["--output", ".", "--layers", "layers.json"], "give a file, not a folder"),
    ],
)
def test_each_mistake_is_one_clear_line(tmp_path: Path, arguments: list[str], problem: str) -> None:
    (tmp_path / "layers.json").write_text(json.dumps(TINY))
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "wrong.json").write_text(json.dumps([TINY[0], {**TINY[0], "stride": "two"}]))
    (tmp_path / "unknown.json").write_text('[{"make": "magic"}]')
    (tmp_path / "empty.json").write_text("[]")
    files = [a for a in arguments if a.endswith(".json") or a == "."]
    code = 1 if any(f in ("none.json", "missing/t.json", ".") for f in files) else 2
    done = run_here(tmp_path, "profile-device", *arguments, code=code)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert problem in line


def test_wrong_options_are_exit_code_2(tmp_path: Path) -> None:
    assert "no such option" in run_here(tmp_path, "profile-device", "--colour", "red", code=2).stderr
    assert "--batch" in run_here(tmp_path, "profile-device", "--batch", "0", code=2).stderr


def test_select_widths(table_file: Path) -> None:
    text = run_here(table_file.parent, "select-widths", "t.json").stdout
    assert "stage 1" in text
    assert "σ" in text
    assert "uniform" in text
    found = json.loads(run_here(table_file.parent, "select-widths", "t.json", "--groups", "4", "--json").stdout)
    assert found[0]["widths"] == [8, 16, 24, 32]
    narrow = json.loads(
        run_here(table_file.parent, "select-widths", "t.json", "--expand", "1", "--alpha", "auto", "--json").stdout
    )
    assert narrow[0]["choices"][-1]["last"] == 16
    line = run_here(table_file.parent, "select-widths", "t.json", "--expand", "4", code=2).stderr
    assert line.splitlines()[-1].startswith("error: expand 4 asks for 64 channels")
    assert run_here(table_file.parent, "select-widths", "t.json", "--loss", "x", code=2).stderr.count("\n") == 1


def test_lut_show(table_file: Path) -> None:
    text = run_here(table_file.parent, "lut", "show", "t.json", "--contains", "16→16", "--limit", "5").stdout
    assert "simulated device" in text
    assert "conv3×3 16→16" in text
    shown = json.loads(run_here(table_file.parent, "lut", "show", "t.json", "--json").stdout)
    assert shown[0]["layers"] == 32
    assert len(shown[0]["measurements"]) == 32


def test_lut_validate(table_file: Path) -> None:
    folder = table_file.parent
    assert "valid: t.json: 32 layers" in run_here(folder, "lut", "validate", "t.json").stdout
    (folder / "bad.json").write_text(table_file.read_text().replace('"median_ms":', '"median_ms":-', 1))
    done = run_here(folder, "lut", "validate", "t.json", "bad.json", code=1)
    assert "valid: t.json" in done.stdout
    unaudited, line = done.stderr.splitlines()
    assert unaudited.startswith("warning: t.json: never audited")
    assert "bad.json" in line
    assert "median_ms" in line


def test_lut_diff_and_merge(make_table: MakeTable, table_file: Path) -> None:
    folder = table_file.parent
    make_table(range(33, 49), batch=8).save(folder / "other.json")
    make_table(range(33, 49)).save(folder / "more.json")
    make_table(range(1, 33), tile=32, ms_per_gmadd=100.0).save(folder / "slow.json")
    text = run_here(folder, "lut", "diff", "t.json", "slow.json").stdout
    assert "slower" in text
    assert "95%" in text
    verdicts = {
        d["verdict"] for d in json.loads(run_here(folder, "lut", "diff", "t.json", "t.json", "--json").stdout)["layers"]
    }
    assert verdicts <= {"same", "undecided"}
    assert "batch 4 / 8" in run_here(folder, "lut", "merge", "t.json", "other.json", "-o", "m.json", code=2).stderr
    assert not (folder / "m.json").exists()
    run_here(
        folder, "lut", "merge", "t.json", "other.json", "-o", "m.json", "--across", "setting", "--across", "reference"
    )
    run_here(folder, "lut", "merge", "t.json", "more.json", "-o", "n.json")
    assert len(LatencyTable.load(folder / "n.json")) == 48
    assert "both tables hold" in run_here(folder, "lut", "merge", "t.json", "t.json", "-o", "x.json", code=1).stderr
    run_here(folder, "lut", "merge", "t.json", "t.json", "-o", "x.json", "--on-duplicate", "tighter")
    assert "no layer in common" in run_here(folder, "lut", "diff", "t.json", "more.json", code=1).stderr


def test_report_table(table_file: Path) -> None:
    assert "t.html" in run_here(table_file.parent, "report-table", "t.json").stdout
    assert "error: cannot read none.json" in run_here(table_file.parent, "report-table", "none.json", code=1).stderr

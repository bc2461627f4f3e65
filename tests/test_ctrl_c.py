"""Ctrl-C while a command loads what it needs: one line and exit code 130, whatever a library makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from _commands import installed
from conftest import HANGS_S, in_the_foreground, wait_until

# Says that it is being imported, and takes its time. A library may make an error of its own of Ctrl-C.
SLOW = """
import os, time
open(os.environ["LOADING"], "w").close()
try:
    time.sleep(600)
except KeyboardInterrupt:
    if "OWN_ERROR" in os.environ:
        raise ImportError("half loaded")
    raise
"""

TORCH = (
    ("search-architecture", "htas", "--table", "t.json", "--budget-ms", "3"),
    ("search-architecture", "rcas", "--budget-params", "1e6"),
    ("search-architecture", "submodularity"),
)
NUMPY = (
    ("search-architecture", "describe", "resnet-cifar", "tas-c10-r32", "--predictor", "p"),
    ("predict-latency", "--predictor", "p", "--space", "resnet-cifar", "--choices", "random"),
    ("fit-predictor", "t.json", "-o", "p"),
    ("select-widths", "t.json"),
    ("check-table", "t.json"),
)


def stopped_while_loading(library: str, words: tuple[str, ...], folder: Path, **environment: str) -> tuple[int, str]:
    """Send a command Ctrl-C while it imports a library; return its exit code and what it says."""
    (folder / "slow" / library).mkdir(parents=True)
    (folder / "slow" / library / "__init__.py").write_text(SLOW, encoding="utf-8")
    (folder / "t.json").write_text(json.dumps({}), encoding="utf-8")
    loading = folder / "loading"
    with subprocess.Popen(
        [installed(words[0]), *words[1:]],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder / "slow"), "LOADING": str(loading), **environment},
        preexec_fn=in_the_foreground,
    ) as child:
        try:
            wait_until(loading.exists, child)
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=HANGS_S)
        finally:
            child.kill()
    return child.returncode, errors


@pytest.mark.parametrize(
    ("library", "words"), [*(("torch", words) for words in TORCH), *(("numpy", words) for words in NUMPY)]
)
def test_ctrl_c_while_a_library_is_loaded_is_one_line(library: str, words: tuple[str, ...], tmp_path: Path) -> None:
    assert stopped_while_loading(library, words, tmp_path) == (130, "stopped; run the same command again\n")


def test_ctrl_c_while_a_measuring_process_loads_is_one_line(tmp_path: Path) -> None:
    code, errors = stopped_while_loading("torch", ("profile-device", "--no-self-test"), tmp_path)
    assert code == 130
    kept = "0 visits are kept in cpu-b4.json.journal"
    assert errors == f"stopped: {kept}; run the same command again to go on from there\n"


def test_ctrl_c_is_told_where_a_library_makes_an_error_of_it(tmp_path: Path) -> None:
    code, errors = stopped_while_loading("torch", TORCH[0], tmp_path, OWN_ERROR="1")
    assert (code, errors) == (130, "stopped; run the same command again\n")

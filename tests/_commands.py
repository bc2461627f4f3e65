"""Commands as people type them, run in this process: a test that is not about a process need not wait for its start."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

__all__ = ["installed", "run_here"]


def installed(name: str) -> str:
    """Return the path of a command of ours."""
    path = Path(sys.executable).with_name(name)
    assert path.exists(), "install the project first: pip install -e ."
    return str(path)


@contextlib.contextmanager
def _as_typed(folder: Path, name: str, arguments: tuple[str, ...], environment: dict[str, str]) -> Iterator[None]:
    """Give this process the folder, the words and the environment of a command."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # As PYTHONWARNINGS=error does.
        warnings.resetwarnings()
        warnings.simplefilter("error")
        patch.chdir(folder)
        patch.setattr(sys, "argv", [name, *arguments])
        # A model's folder is put on the path, and its modules are imported.
        patch.setattr(sys, "path", [*sys.path])
        for key, value in environment.items():
            patch.setenv(key, value)
        modules, before = set(sys.modules), dict(os.environ)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            for module in set(sys.modules) - modules:
                file = getattr(sys.modules[module], "__file__", None)
                if file is not None and Path(file).is_relative_to(folder):
                    del sys.modules[module]


def _exit_code(main: Callable[[], object]) -> int:
    """Run an entry point as the script does that is installed for it."""
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def run_here(
    folder: Path, name: str, *arguments: str, code: int | None = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run an installed command in this process, and check its exit code; ``None`` is any.

    The measuring processes that it starts are real. What a command must do before anything else of this process is
    loaded, and what comes before its entry point, is for a process of its own: see ``command`` in ``test_cli.py``.
    """
    (point,) = (found for found in entry_points(group="console_scripts") if found.name == name)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        _as_typed(folder, name, arguments, {"COLUMNS": "120", **environment}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        found = _exit_code(point.load())
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    done = subprocess.CompletedProcess([name, *arguments], found, stdout, stderr)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done

"""A page in a real browser, within a window as narrow as a phone's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import HANGS_S

__all__ = ["needs_browser", "seen_in_browser"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--allow-file-access-from-files", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000"),
)
# By name, what is counted once the page is drawn, and its folds are open.
COUNTED = {
    "plots": "inner.querySelectorAll('.js-plotly-plot').length",
    "drawn": "inner.querySelectorAll('.js-plotly-plot .main-svg').length / 3",
    "traces": "inner.querySelectorAll('.scatterlayer .trace').length",
    "bars": "inner.querySelectorAll('.barlayer .point').length",
    "boxes": "[...inner.querySelectorAll('.box rect')].filter((b) => b.getBoundingClientRect().width >= 40).length",
    "overflow": "root.scrollWidth - root.clientWidth",
    "narrow": "[...inner.querySelectorAll('.js-plotly-plot')].filter((p) => "
    "p.querySelector('.main-svg').getBoundingClientRect().width < 0.8 * root.clientWidth).length",
}


def needs_browser(test: object) -> object:
    """Mark a test as one that needs Chromium."""
    reason = "needs Chromium (Debian: apt-get install chromium)"
    return pytest.mark.browser(pytest.mark.skipif(CHROMIUM is None, reason=reason)(test))  # type: ignore[arg-type]


def seen_in_browser(page: str, width: int, folder: Path) -> dict[str, int]:
    """Return what a browser counts on a page in a window of a width in pixels, and check that it logs nothing."""
    assert CHROMIUM is not None
    (folder / "page.html").write_text(page)
    counts = ", ".join(f"'{name}=' + ({code})" for name, code in COUNTED.items())
    # A frame is as narrow as it is told to be; a window of a headless browser is not.
    (folder / "frame.html").write_text(
        f'<iframe src="page.html" style="width:{width}px;height:3000px;border:0"></iframe><script>'
        "const opened = () => document.querySelector('iframe').contentDocument;"
        "window.addEventListener('load', () => { opened().querySelectorAll('details').forEach((d) => d.open = true);"
        "setTimeout(() => { const inner = opened(), root = inner.documentElement;"
        f"document.title = [{counts}].join(' '); }}, 2000); }});</script>"
    )
    shown = subprocess.run(
        [
            *(CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'chromium'}", "--dump-dom"),
            (folder / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        # Chromium keeps a socket in its temporary folder, whose path must be short.
        env={**os.environ, "TMPDIR": "/tmp"},
    )
    assert shown.returncode == 0, shown.stderr
    assert "CONSOLE" not in shown.stderr, shown.stderr
    found = re.search(r"<title>(.*?)</title>", shown.stdout)
    assert found is not None, shown.stdout[-2000:]
    return {name: round(float(count)) for name, count in (part.split("=") for part in found.group(1).split())}

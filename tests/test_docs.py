"""What the pages say is what the results, the code and the commands say."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import _python_page
import pytest

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield import_module("evidence")
    sys.modules.pop("evidence", None)


def test_the_evidence_is_what_the_results_say(evidence: object) -> None:
    assert evidence.PAGE.read_text(encoding="utf-8") == evidence.page()  # type: ignore[attr-defined]


def test_every_public_name_is_documented() -> None:
    assert _python_page.undocumented() == []
    page = _python_page.page()
    assert _python_page.PAGE.read_text(encoding="utf-8") == page
    for line in page.splitlines():
        if line.startswith("| `"):
            assert line.endswith((". |", ".) |")), line
            assert line.count("(") == line.count(")"), line
            assert "._" not in line, line


def test_the_readme_fits_on_a_screen_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) <= 131
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for place in re.findall(r"\]\(([^)]+)\)", text):
            target, _, anchor = place.partition("#")
            if target.startswith("http"):
                continue
            found = page.parent / target if target else page
            assert found.exists(), f"{page.name} links to {place}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in anchors, f"{page.name} links to {place}"


def test_files_that_the_pages_name_are_there() -> None:
    written = {"benchmarks/results/cuda_check.json"}
    for page in PAGES:
        for named in re.findall(r"`((?:benchmarks|docs|examples|scripts|tests)/[\w/.-]*\w)", page.read_text("utf-8")):
            assert named in written or (ROOT / named).exists(), f"{page.name} names {named}"


def test_extras_are_quoted_as_every_shell_wants_them() -> None:
    for page in PAGES:
        for before, extra in re.findall(r"(.)(\.\[[a-z,]+\])", page.read_text("utf-8")):
            assert before in "'\"", f"{page.name}: {before}{extra}"


def test_the_prose_on_the_architecture_is_wrapped() -> None:
    lines = (ROOT / "docs" / "architecture.md").read_text("utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_every_word_of_a_result_is_explained() -> None:
    """What the README shows, in the page of concepts: a newcomer reads the one with the other."""
    shown = README.partition("```text\n")[2].partition("```")[0]
    explained = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    words = ("noise floor", "precision asked for", "converged", "half-width", "rejected", "scale", "process", "drift")
    for word in (
        *words,
        "layers that stood in chains only",
        "whole networks",
        "Kendall τ",
        "wholes repeat within",
        "~",
    ):
        assert word in shown, f"the README shows no {word} any more: nothing is to be explained"
        assert word in explained, f"docs/concepts.md does not explain {word}"


def test_the_readmes_figures_stand_in_the_results() -> None:
    real = json.loads((ROOT / "benchmarks" / "results" / "real_models.json").read_bytes())["summaries"]
    errors = [f"{real[target]['in_context_ms']['mape']:.1%}".replace("%", " %") for target in ("cpu", "onnx")]
    assert f"{errors[0]} off in PyTorch and {errors[1]} in ONNX" in " ".join(README.split())


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    scripts = re.findall(r"^([\w-]+) = ", text.partition("[project.scripts]\n")[2].partition("\n[")[0], re.MULTILINE)
    assert len(scripts) == 9
    for command in scripts:
        assert f"| `{command}" in README, command
    targets = text.partition('latency_lut.targets"]\n')[2].partition("\n[")[0]
    for target in re.findall(r"^([\w-]+) = ", targets, re.MULTILINE):
        assert f"| [`{target}`](docs/{target}.md)" in README

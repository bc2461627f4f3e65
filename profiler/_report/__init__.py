"""The report about a table: one HTML file with the answer first, then what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lut import LatencyTable
from predictors._gains import WidthGain
from predictors._widths import WidthSelection
from profiler._report._answer import answer_of, subtitle
from profiler._report._curves import selection_blocks, widths_section
from profiler._report._machine_speed import provenance_section, reliability_section, speed_section
from profiler._report._networks import layers_section, sums_section
from profiler._report._page import Notice, Section, html_page
from profiler._report._sweep import sweep_sections

__all__ = ["report_html", "report_path"]

# Failures that are told one by one.
MOST_FAILURES = 10


def report_path(table: Path) -> Path:
    """Return where a table's report goes: beside it, as ``.html``, and never over it."""
    return table.with_suffix(".html") if table.suffix == ".json" else table.with_name(table.name + ".html")


def report_html(
    table: LatencyTable, selections: Sequence[WidthSelection], gains: Sequence[WidthGain] = (), *, title: str
) -> str:
    """Return a self-contained HTML page about a table.

    Args:
        table: the lookup table.
        selections: the widths chosen on its curves; may be empty.
        gains: what other widths would buy in its network; may be empty.
        title: the page's title, the file's name say.
    """
    answer = answer_of(table, selections, gains)
    answer = answer._replace(blocks=[*answer.blocks, *_warnings(table)])
    # The first stage, or the sampled networks where there is none, are drawn in the answer.
    stages = [block for selection in selections[1:] for block in selection_blocks(selection)]
    single = len(table.networks) == 1
    if single and selections:
        stages = [block for selection in selections for block in selection_blocks(selection)]
    sections = [
        *sweep_sections(gains, table),
        widths_section(selections),
        Section("The stairs of the stages" if single else "The other stages", stages),
        sums_section(table, drawn_before=not selections),
        *([layers_section(table, table.networks[0])] if single else []),
        speed_section(table),
        reliability_section(table),
        provenance_section(table),
    ]
    heading = f"{title}: {table.device.model}"
    return html_page(title, heading=heading, subtitle=subtitle(table), answer=answer, sections=sections)


def _warnings(table: LatencyTable) -> list[Notice]:
    found = [Notice("warning", text) for session in table.sessions for text in session.preflight.warnings]
    failures = table.failures
    found += [Notice("bad", f"failed: {f.layer}: {f.reason}: {f.message}") for f in failures[:MOST_FAILURES]]
    if len(failures) > MOST_FAILURES:
        found.append(Notice("bad", f"{len(failures) - MOST_FAILURES} more layers failed; the table has the reasons"))
    if table.not_measured:
        found.append(Notice("bad", f"{len(table.not_measured)} layers not measured: {table.not_measured[0].reason}"))
    return found

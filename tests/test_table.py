"""Tables and their file: exact lookups, helpful misses, and a reader that survives any bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import conv, curve_of
from hypothesis import given, settings
from hypothesis import strategies as st

import lut
from lut import LatencyTable, MissingLayerError, TableError, TableFormatError, UnlikeTablesError, UsageError
from lut._codec import json_schema
from lut._files import write_atomically
from lut._statistics import trimmed_mean
from lut.errors import FileAccessError

MakeTable = Callable[..., LatencyTable]


def test_file_round_trip(make_table: MakeTable, tmp_path: Path) -> None:
    table = make_table()
    table.save(tmp_path / "t.json")
    again = LatencyTable.load(tmp_path / "t.json")
    assert again.to_json() == table.to_json()
    assert dict(again.items()) == dict(table.items())
    assert again.curves == table.curves
    assert again.sessions == table.sessions
    # One line per measurement: a person can read it, and git can diff it.
    assert (tmp_path / "t.json").read_bytes().count(b"\n") > len(table)


def test_lookup_is_exact_and_a_miss_names_the_nearest(make_table: MakeTable) -> None:
    table = make_table(range(8, 25))
    assert table[conv(16)].median_ms > 0
    with pytest.raises(MissingLayerError) as caught:
        table[conv(40)]
    message = str(caught.value)
    assert "16→40" in message
    assert message.index("16→24") < message.index("16→23")
    assert "profile-device --layers" in message
    with pytest.raises(MissingLayerError, match="none of its 17 layers is of that kind"):
        table[lut.linear(3, 4, bias=True)]
    with pytest.raises(KeyError):
        table["conv"]  # type: ignore[index]


def test_it_is_a_mapping(make_table: MakeTable) -> None:
    table = make_table(range(8, 12))
    assert len(table) == 4
    assert list(table) == [conv(width) for width in range(8, 12)]
    assert conv(8) in table
    assert conv(99) not in table
    assert table.get(conv(99)) is None


def test_the_numbers_follow_from_the_raw_visits(make_table: MakeTable) -> None:
    from statistics import median

    for m in make_table(common_drift=0.2).values():
        assert trimmed_mean(m.corrected_ms) == pytest.approx(m.median_ms, rel=1e-4)
        assert median(m.visits.raw_ms) == pytest.approx(m.raw_median_ms, rel=1e-4)
        assert m.within_run.low_ms <= m.median_ms <= m.within_run.high_ms
        assert m.across_runs.low_ms <= m.median_ms <= m.across_runs.high_ms
        assert m.min_ms <= m.p10_ms <= m.p90_ms
        assert m.noise_index >= 0


def test_select_keeps_curves_in_step(make_table: MakeTable) -> None:
    chosen = make_table().select(lambda m: m.layer.output_shape[0] % 8 == 0)
    assert len(chosen) == 4
    assert chosen.curves[0].channels == (8, 16, 24, 32)


def test_to_pandas(make_table: MakeTable) -> None:
    frame = make_table(range(1, 9)).to_pandas()
    assert len(frame) == 8
    assert {"layer", "median_ms", "within_low_ms", "across_high_ms", "n_visits", "flags"} <= set(frame.columns)
    assert (frame["median_ms"] > 0).all()


def test_merge(make_table: MakeTable) -> None:
    first, second = make_table(range(1, 9)), make_table(range(5, 13), seed=9)
    with pytest.raises(TableError, match="both tables hold"):
        first.merge(second)
    merged = first.merge(second, on_duplicate="last")
    assert len(merged) == 12
    assert merged[conv(5)].median_ms == second[conv(5)].median_ms
    assert merged[conv(5)].session == 1
    assert first.merge(second, on_duplicate="first")[conv(5)].median_ms == first[conv(5)].median_ms
    assert [curve.name for curve in merged.curves] == ["stage 1", "stage 1 (2)"]
    assert LatencyTable.from_json(merged.to_json()).to_json() == merged.to_json()
    with pytest.raises(UsageError):
        first.merge(second, on_duplicate="newest")  # type: ignore[arg-type]


def test_unlike_tables_never_mix(make_table: MakeTable) -> None:
    first, second = make_table(range(1, 9)), make_table(range(9, 13), batch=8)
    with pytest.raises(UnlikeTablesError, match="different settings: batch 4 / 8"):
        first.merge(second)
    assert len(first.merge(second, across=["setting", "reference"])) == 12
    with pytest.raises(UsageError, match="across"):
        first.merge(second, across=["colour"])


def altered(table: LatencyTable, change: Callable[[Any], object]) -> bytes:
    content = json.loads(table.to_json())
    change(content)
    return json.dumps(content).encode()


def put(path: str, value: object) -> Callable[[Any], object]:
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]

    def change(content: Any) -> None:
        for part in parents:
            content = content[part]
        content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "place", "problem"),
    [
        (put("measurements.0.median_ms", -1.0), "$.measurements[0].median_ms", ">= 1e-09"),
        (put("measurements.0.median_ms", 0), "$.measurements[0].median_ms", ">= 1e-09"),
        (put("measurements.0.median_ms", 1e300), "$.measurements[0].median_ms", "<= 1"),
        (put("measurements.0.median_ms", "1.0"), "$.measurements[0].median_ms", "str"),
        (put("measurements.0.median_ms", None), "$.measurements[0].median_ms", "null"),
        (put("measurements.0.unknown", 1), "$.measurements[0]", "unknown"),
        (put("measurements.0.session", 7), "$.measurements[0].session", "no session 7"),
        (put("measurements.0.visits.raw_ms", []), "$.measurements[0].visits", "length"),
        (put("measurements.0.within_run.low_ms", 1e6), "$.measurements[0].within_run", "does not hold the median"),
        (put("measurements.0.raw_median_ms", 1e6), "$.measurements[0].raw_median_ms", "not the median"),
        (put("measurements.0.visits.drift.0", 0), "$.measurements[0].visits.drift[0]", ">= 1e-06"),
        (put("measurements.0.origin", "guessed"), "$.measurements[0].origin", "guessed"),
        (put("measurements.0.layer.nodes.0.op.groups", 3), "$.measurements[0].layer", "groups=3"),
        (put("measurements.0.layer.nodes.0.op.op", "teleport"), "$.measurements[0].layer.nodes[0].op", "teleport"),
        (lambda c: c["measurements"].append(c["measurements"][0]), "$.measurements[4].layer", "stands twice"),
        (put("curves.0.layers.0", "feedfeedfeedfeed"), "$.curves[0].layers[0]", "no layer"),
        (put("sessions.0.started_at", "yesterday"), "$.sessions[0].started_at", "matching regex"),
        (lambda c: c.pop("device"), "device", "missing required field"),
        (put("sessions.0.sentinels.0.ms", []), "$.sessions[0].sentinels[0]", "length"),
    ],
)
def test_hostile_files_are_refused_by_place(
    make_table: MakeTable, change: Callable[[Any], object], place: str, problem: str
) -> None:
    content = altered(make_table(range(1, 5)), change)
    with pytest.raises(TableFormatError) as caught:
        LatencyTable.from_json(content, source="t.json")
    message = str(caught.value)
    assert message.startswith("t.json: ")
    assert place in message
    assert problem in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[]", "not a lookup table"),
        (b"{}", "'format' is not"),
        (b'{"format": "latency-lut"}', "version None"),
        (b'{"format": "latency-lut", "version": 99}', "version 99 of the format is unknown"),
        (b'{"format": "latency-lut", "version": true}', "version True"),
        (b'{"format": "latency-lut", "version": "1"}', "version 1"),
        (b'{"format": "latency-lut", "version": NaN}', "not valid JSON"),
        (b'{"format": "latency-lut", "version": 1e999}', "not a lookup table"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"format": "latency-lut", "version": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "t.json"),
    ],
)
def test_what_is_no_table_is_said(content: bytes, problem: str) -> None:
    with pytest.raises(TableFormatError, match=r"t\.json") as caught:
        LatencyTable.from_json(content, source="t.json")
    assert problem in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_reader_survives_any_bytes(data: st.DataObject) -> None:
    original = _EXAMPLE
    cut = data.draw(st.integers(0, len(original)))
    noise = data.draw(st.binary(max_size=20))
    content = original[:cut] + noise + original[data.draw(st.integers(0, len(original))) :]
    try:
        LatencyTable.from_json(content)
    except TableFormatError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def _example() -> bytes:
    import tempfile

    from conftest import simulate, table_of

    curve = curve_of((8, 16))
    plan, result, _ = simulate(curve.layers)
    with tempfile.TemporaryDirectory() as folder:
        return table_of(plan, result, Path(folder) / "r.json", [curve]).to_json()


_EXAMPLE = _example()


def test_the_shipped_schema_is_the_types() -> None:
    shipped = Path(lut.__file__).parent / "schema" / "latency-lut-5.json"
    assert shipped.read_bytes() == json_schema(), "run scripts/write-schema"


def test_files_change_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileAccessError, match=r"cannot write .*t\.json: no space left on device; free some space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["t.json"]


def test_a_file_that_may_not_grow_is_one_clear_line(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from lut._files import write_atomically;"
        f"write_atomically({str(tmp_path / 't.json')!r}, b'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "FileAccessError: cannot write" in done.stderr
    assert [p for p in tmp_path.iterdir() if p.is_file()] == []


@pytest.mark.parametrize(("target", "problem"), [("missing/t.json", "create the folder"), (".", "give a file")])
def test_impossible_places_are_said(tmp_path: Path, target: str, problem: str) -> None:
    with pytest.raises(FileAccessError, match=problem):
        write_atomically(tmp_path / target, b"x")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="no such file"):
        LatencyTable.load(tmp_path / "none.json")

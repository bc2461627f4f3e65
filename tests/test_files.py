"""Files are read within bounds and replaced whole; lines carry checksums; what is printed cannot act on a terminal."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from lut import _files
from lut._console import make_console
from lut._files import read_bytes, replace_file, write_atomically
from lut._folder_lock import folder_lock
from lut._lines import DamagedLineError, seal, unsealed
from lut._printable import printable, shortened
from lut.errors import FileAccessError, FolderInUseError


def _names(folder: Path) -> set[str]:
    """Return what lies in a test's folder, beside what the suite keeps there."""
    return {path.name for path in folder.iterdir()} - {".own"}


def test_an_endless_device_a_pipe_and_a_folder_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in (("/dev/zero", "a device"), (tmp_path / "pipe", "a named pipe"), (tmp_path, "give a file")):
        with pytest.raises(FileAccessError, match=what):
            read_bytes(path)


def test_no_more_is_read_than_the_limit_whatever_the_size_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 40)
    with pytest.raises(FileAccessError, match="more than 64 MiB is too large"):
        read_bytes(tmp_path / "sparse")
    (tmp_path / "ten").write_bytes(b"0123456789")
    assert read_bytes(tmp_path / "ten", limit=10) == b"0123456789"
    with pytest.raises(FileAccessError, match="more than 9 bytes"):
        read_bytes(tmp_path / "ten", limit=9)


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileAccessError, match="it is a named pipe"):
        write_atomically(tmp_path / "pipe", b"x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(FileAccessError, match="it is a device"):
        write_atomically("/dev/zero", b"x")
    assert stat.S_ISCHR(Path("/dev/zero").stat().st_mode)
    write_atomically("/dev/null", b"x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert _names(tmp_path) == {"pipe"}


def test_standard_output_is_written_into() -> None:
    code = "from lut._files import write_atomically; write_atomically('/dev/stdout', b'here')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"here"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640])
def test_a_replaced_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "table.json"
    file.write_bytes(b"old")
    file.chmod(mode)
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.parametrize("name", ["延" * 80, "x" * 255, "a.json"], ids=["wide", "long", "short"])
def test_any_legal_name_can_be_written(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"x")
    assert _names(tmp_path) == {name}


def test_a_name_that_is_no_text_is_written_and_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.json")
    write_atomically(tmp_path / name, b"x")
    with pytest.raises(FileAccessError) as error:
        read_bytes(tmp_path / (name + "2"))
    assert "\\udce9" in printable(str(error.value))
    with pytest.raises(FileAccessError, match="no file can have such a name"):
        read_bytes("nul\0")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files.os, "fsync", full)
    with pytest.raises(FileAccessError, match="free some space"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert _names(tmp_path) == {"a"}


def test_a_finished_file_replaces_a_file_or_a_link_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "made").write_bytes(b"new")
    replace_file(tmp_path / "link", tmp_path / "made")
    assert (tmp_path / "link").read_bytes() == b"new"
    assert (tmp_path / "victim").read_bytes() == b"mine"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileAccessError, match="it is a named pipe"):
        replace_file(tmp_path / "pipe", tmp_path / "link")


CONTENTS = st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"").replace(b"\t", b"")), min_size=1)


def _file(contents: list[bytes]) -> bytes:
    file = b""
    for content in contents:
        file += seal(content, len(file))
    return file


@given(CONTENTS, st.integers(0, 30))
def test_lines_come_back_and_an_unfinished_last_one_is_left_out(contents: list[bytes], cut: int) -> None:
    file = _file(contents)
    assert list(unsealed(file)) == contents
    last = len(file) - len(_file(contents[:-1]))
    assert list(unsealed(file[: len(file) - min(1 + cut, last)])) == contents[:-1]


@given(CONTENTS, st.integers(0), st.integers(1, 255))
def test_a_changed_byte_is_noticed(contents: list[bytes], at: int, change: int) -> None:
    file = bytearray(_file(contents))
    position = at % (len(file) - 1)
    file[position] ^= change
    with pytest.raises(DamagedLineError):
        list(unsealed(bytes(file)))


@pytest.mark.parametrize(
    ("file", "number"),
    [
        (_file([b"1", b"2", b"3"]) * 2, 4),
        (_file([b"1", b"2"])[len(_file([b"1"])) :], 1),
        (_file([b"1", b"2"]) + seal(b"2", len(_file([b"1"]))), 3),
        (_file([b"1"]) + b'{"entry": 3}\n', 2),
    ],
    ids=["appended to itself", "first line gone", "a line twice", "a line without a checksum"],
)
def test_lines_that_are_not_where_they_were_written_are_named(file: bytes, number: int) -> None:
    with pytest.raises(DamagedLineError) as error:
        list(unsealed(file))
    assert error.value.number == number


@given(st.text())
def test_printable_text_has_no_character_that_a_terminal_acts_on(text: str) -> None:
    shown = printable(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    shown.encode()


def test_ordinary_text_is_shown_as_it_is() -> None:
    assert printable("3×3, ±2 %, 延遲") == "3×3, ±2 %, 延遲"
    assert shortened("abc" * 100, 20) == "abcabcabcabcab…bcabc"
    assert len(shortened("abc" * 100, 20)) == 20


EVIL = "[/] \x1b]0;title\x07[bold]x[/bold]\nerror: forged \x9b2J \u202e"


def test_the_console_shows_data_and_acts_on_none_of_it() -> None:
    console = make_console()
    console.file = io.StringIO()
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    table.add_row(Text(EVIL))
    console.print(EVIL)
    console.print("\n", EVIL, style="bold")
    console.print(table)
    shown = console.file.getvalue()
    assert "[/]" in shown
    assert "[bold]x[/bold]" in shown
    assert not any(c in shown for c in "\x1b\x07\x9b\u202e")
    assert not any(line.strip().startswith("error: forged") for line in shown.splitlines()[:2])


def test_a_folder_is_held_by_one_run(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lut._folder_lock import folder_lock\n"
        "with folder_lock(Path(sys.argv[1]), doing='search'): print('held')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with folder_lock(tmp_path, doing="search"):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert FolderInUseError.__name__ in second.stderr
        assert f"another search is running in {tmp_path}" in second.stderr
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "held\n"

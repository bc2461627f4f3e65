"""Bundles and timings that somebody made to break what reads them: each is refused in one line, at once."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import msgspec
import pytest
from _coreml_bundles import make_bundle, make_timings

from lut import LatencyTable, Layer, UsageError, conv_norm_act
from lut.errors import FolderInUseError, LatencyLutError, ProfileError
from profiler._coreml._bundle import Manifest, bundle_id, load_bundle, program_digest
from profiler._coreml._export import _bundle_folder, _Worker
from profiler._coreml._import import import_timings
from profiler._coreml._worker import ready_program, save_record


def conv(channels: int) -> Layer:
    """Return a small layer."""
    return conv_norm_act(8, channels, kernel_size=3, stride=1, activation="relu", input_size=(8, 8))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of two layers, which no converter made."""
    root = tmp_path / "b"
    make_bundle(root, [conv(16), conv(24)])
    return root


def written(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write the bundle's manifest with a change and the id that fits it, where it is still a manifest."""
    path = bundle / "manifest.json"
    content = msgspec.json.decode(path.read_bytes())
    change(content)
    try:
        manifest = msgspec.convert(content, type=Manifest)
    except (msgspec.ValidationError, UsageError):
        path.write_bytes(msgspec.json.encode(content))
    else:
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, bundle=bundle_id(manifest))))


def refusal(bundle: Path) -> str:
    """Return the one line with which a bundle is refused."""
    with pytest.raises(LatencyLutError) as caught:
        load_bundle(bundle)
    text = str(caught.value)
    assert str(bundle) in text
    assert "\n" not in text
    return text


def moved(content: dict[str, Any], path: str) -> None:
    """Say that the first program lies elsewhere in the bundle."""
    content["programs"][0]["path"] = path


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda m: moved(m, "programs"), "$.programs[0].path"),
        (lambda m: moved(m, "runner/x"), "$.programs[0].path"),
        (lambda m: moved(m, "/etc"), "$.programs[0].path"),
        (lambda m: moved(m, "programs/.."), "$.programs[0].path"),
        (lambda m: m["programs"][0]["files"].append(m["programs"][1]["files"][0]), "$.programs[0].files[1]"),
        (lambda m: m["programs"][0]["files"].append(m["programs"][0]["files"][0]), "$.programs[0].files[1]"),
        (lambda m: m["programs"][0]["files"][0].update(bytes=2**52), "$.programs[0].files[0].bytes"),
        (lambda m: m["programs"][0].update(copies=0), "copies"),
        (lambda m: m["layers"][0].update(value=[]), "$.layers[0].value"),
        (lambda m: m["layers"][0]["value"].append(m["layers"][0]["value"][0]), "$.layers[0].value"),
        (lambda m: m["layers"][0]["value"][0].update(weight=1e308), "weight"),
        (
            lambda m: m["failures"].append({"name": "x", "layer": m["layers"][0]["layer"], "message": "?"}),
            "$.failures[0]",
        ),
        (lambda m: m.update(written_at="yesterday"), "$.written_at"),
        (lambda m: m["options"].update(batch=2**40), "batch"),
    ],
)
def test_a_manifest_that_hashes_to_its_id_is_still_looked_at(
    bundle: Path, change: Callable[[dict[str, Any]], object], place: str
) -> None:
    written(bundle, change)
    assert place in refusal(bundle)


def first_file(bundle: Path) -> Path:
    """Return a file of the first program."""
    return bundle / load_bundle(bundle).programs[0].files[0].path


def test_only_regular_files_of_the_right_length_are_read(bundle: Path, tmp_path: Path) -> None:
    file = first_file(bundle)
    content = file.read_bytes()
    (tmp_path / "outside").write_bytes(content)
    file.unlink()
    file.symlink_to(tmp_path / "outside")
    assert "is a link" in refusal(bundle)
    file.unlink()
    os.mkfifo(file)
    assert "no regular file" in refusal(bundle)
    file.unlink()
    # A file of a terabyte that takes no space, and would take an hour to read.
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    assert "was altered" in refusal(bundle)
    file.write_bytes(content)
    load_bundle(bundle)
    kept = file.parent.with_name("kept")
    file.parent.rename(kept)
    file.parent.symlink_to(kept)
    assert "is a link" in refusal(bundle)


def test_a_manifest_that_is_a_pipe_or_endless_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.unlink()
    os.mkfifo(path)
    assert "named pipe" in refusal(bundle)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "device" in refusal(bundle)


def stairs_ms(_: Layer) -> float:
    """Return the same latency for any layer."""
    return 0.5


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(rounds=2**53),
        lambda t: t["visits"][0].update(block_ms=[1e308]),
        lambda t: t["visits"][0].update(block_ms=[1e-320]),
        lambda t: t["visits"][0].update(block_ms=[-1.0]),
        lambda t: t["visits"][0].update(block_ms=[1.0] * 10_001),
        lambda t: t["visits"][0].update(calls=2**40),
        lambda t: t["visits"][0].update(round=-1),
        lambda t: t["visits"][0].update(at_s=1e300),
        lambda t: t["device"].update(cores=0),
        lambda t: t["device"].update(memory_gib=1e300),
        lambda t: t.update(seed=-(2**63)),
        lambda t: t.update(clock_step_ns=0),
        lambda t: t.update(target_block_ms=1e-320),
    ],
)
def test_wild_numbers_in_timings_are_refused_with_the_place(
    bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    timings = make_timings(load_bundle(bundle), stairs_ms)
    change(timings)
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode(timings))
    with pytest.raises(ProfileError, match=r"t\.json.*`\$\.") as caught:
        import_timings(path, bundle)
    assert "\n" not in str(caught.value)


def test_what_is_imported_can_be_written_and_read(bundle: Path, tmp_path: Path) -> None:
    """Whatever an altered file still makes is a table that loads; all else is one line. Seeded."""
    manifest = (bundle / "manifest.json").read_bytes()
    timings = make_timings(load_bundle(bundle), stairs_ms, rounds=6)
    rng = random.Random(3)
    wild: list[Any] = [
        0,
        -1,
        1,
        2**31,
        2**53,
        -(2**63),
        2**70,
        1e308,
        1e-320,
        "",
        "[/]\x1b",
        "9" * 16,
        None,
        [],
        {},
        True,
    ]
    place, table = tmp_path / "t.json", tmp_path / "table.json"
    made, refusals = 0, list[str]()
    for _ in range(300):
        content = msgspec.json.decode(msgspec.json.encode(timings))
        changed = msgspec.json.decode(manifest)
        target = rng.choice([content, content, changed])
        for _ in range(rng.choice([1, 1, 2])):
            alter(target, rng, wild)
        try:
            good = msgspec.convert(changed, type=Manifest)
            good = msgspec.structs.replace(good, bundle=bundle_id(good))
            (bundle / "manifest.json").write_bytes(msgspec.json.encode(good))
            content["bundle"] = good.bundle
        except (msgspec.ValidationError, UsageError, TypeError):
            (bundle / "manifest.json").write_bytes(msgspec.json.encode(changed))
        place.write_bytes(msgspec.json.encode(content))
        try:
            found = import_timings(place, bundle)
        except LatencyLutError as error:
            refusals.append(str(error))
            continue
        made += 1
        found.save(table)
        assert len(LatencyTable.load(table)) == len(found)
    assert made > 20
    assert refusals
    assert not any("\n" in text for text in refusals)


def alter(record: Any, rng: random.Random, wild: list[Any]) -> None:
    """Change one value somewhere inside of a decoded file."""
    while True:
        keys: list[Any] = list(record) if isinstance(record, dict) else list(range(len(record)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(record[key], (dict, list)) or rng.random() < 0.1:
            break
        record = record[key]
    if rng.random() < 0.2:
        del record[key]
    elif isinstance(record, list) and rng.random() < 0.3:
        record.append(record[key])
    else:
        record[key] = rng.choice(wild)


@pytest.mark.parametrize("number", [nan, inf])
def test_no_number_is_no_latency(bundle: Path, tmp_path: Path, number: float) -> None:
    timings = make_timings(load_bundle(bundle), stairs_ms)
    timings["visits"][0]["block_ms"] = [12345.5]
    text = msgspec.json.encode(timings).decode().replace("12345.5", str(number))
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ProfileError, match=r"t\.json: not a file of timings"):
        import_timings(tmp_path / "t.json", bundle)


def test_a_planted_record_of_an_interrupted_export_is_converted_again(bundle: Path, tmp_path: Path) -> None:
    program = load_bundle(bundle).programs[0]
    records = tmp_path / "done"
    records.mkdir()
    save_record(records, program)
    assert ready_program(bundle, records, program.made_from) == program
    record = records / f"{program.id}.json"
    record.unlink()
    os.mkfifo(record)
    assert ready_program(bundle, records, program.made_from) is None
    record.unlink()
    record.write_bytes(b"\xff" * 100)
    assert ready_program(bundle, records, program.made_from) is None


def test_one_export_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "phone"
    with (
        _bundle_folder(root, restart=False),
        pytest.raises(FolderInUseError, match="another export is running"),
        _bundle_folder(root, restart=True),
    ):
        pass
    # One that ended, however it did, is in nobody's way.
    with _bundle_folder(root, restart=True):
        assert (root / ".export").is_dir()


def test_an_export_does_not_follow_a_planted_link(tmp_path: Path) -> None:
    root, other = tmp_path / "phone", tmp_path / "other"
    root.mkdir()
    other.mkdir()
    (other / "mine").write_text("mine")
    (root / ".export").symlink_to(other)
    with pytest.raises(UsageError, match="is a link"), _bundle_folder(root, restart=True):
        pass
    assert (other / "mine").exists()


@pytest.mark.parametrize(
    ("code", "said"), [(-9, "killed by SIGKILL"), (-40, "killed by signal 40"), (3, "exit code 3")]
)
def test_any_ending_of_a_converting_process_has_words(code: int, said: str) -> None:
    class Process:
        def wait(self, timeout: float) -> int:
            assert timeout > 0
            return code

    worker = _Worker.__new__(_Worker)
    worker.late, worker.process = False, Process()  # type: ignore[assignment]
    assert worker.ending() == said


def test_digests_name_the_same_files_as_before(bundle: Path) -> None:
    """What an older version wrote still loads: the digest of a program is that of its files."""
    for program in load_bundle(bundle).programs:
        assert program.digest == program_digest(program.files)

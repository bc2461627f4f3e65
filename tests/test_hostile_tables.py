"""Tables, layers, reference speeds and locks from strangers: one line that names the place, quickly, or an answer."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
import pytest
from _predictors import measurement, resnet_table, table_with
from conftest import conv, curve_of, simulate, table_of

from lut import (
    LatencyTable,
    Layer,
    LayerError,
    Network,
    NetworkLayer,
    TableFormatError,
    UsageError,
    compare_tables,
    conv_norm_act,
)
from lut._audit import kendall_tau
from lut._records import Interval
from lut._statistics import attained_level, log_standard_error, median_interval, median_rank
from lut.errors import DeviceBusyError, FileAccessError, LatencyLutError
from predictors import LatencyPredictor, hardware_aware_widths, measured_curves
from profiler import FakeTarget, profile
from profiler._judge import judge
from profiler._layers_file import load_layers
from profiler._lock import device_lock
from profiler._plan import SENTINELS, make_protocol
from profiler._reference import check_references, load_references, save_references
from profiler._visit import Visit

# Of the seeded test; by hand, many thousands were tried.
CASES = 120
WILD: tuple[Any, ...] = (
    0,
    -1,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    10**30,
    1e308,
    1e-320,
    1e-9,
    1e9,
    True,
    None,
    "",
    "y" * 20_000,
    "\x1b[31m[/]\n\u202e",
    [],
    {},
    [[]],
)


@cache
def original() -> dict[str, Any]:
    """Return a table with everything in it: layers, curves, whole networks, failures, sessions."""
    with tempfile.TemporaryDirectory() as folder:
        table = resnet_table(Path(folder), networks=3, failing=1)
        curve = curve_of(range(1, 9))
        plan, result, _ = simulate(curve.layers)
        other = table_of(plan, result, Path(folder) / "r.json", [curve])
        content = json.loads(table.merge(other, across=("device", "setting", "reference")).to_json())
    assert all(content[name] for name in ("measurements", "curves", "networks", "failures", "sessions"))
    return content


def refused(content: bytes, *, within: int = 1200) -> str:
    """Return why a table is refused, which is one line; nothing where it is read and everything can be asked of it."""
    try:
        table = LatencyTable.from_json(content, source="t.json")
    except TableFormatError as error:
        text = str(error)
        assert text.startswith("t.json: ")
        assert text.isprintable()
        assert len(text) < within
        return text
    use(table)
    return ""


def use(table: LatencyTable) -> None:
    """Ask a table for all that commands show of it."""
    assert LatencyTable.from_json(table.to_json()).to_json() == table.to_json()
    for layer, found in table.items():
        assert isfinite(found.median_ms)
        assert all(map(isfinite, (layer.madds, layer.parameters, found.relative_half_width)))
        assert str(layer)
    for network in table.networks:
        table.breakdown(network)
        table.sum_ms(network)
        assert network.network.madds >= 0
    try:
        compare_tables(table, table)
        for curve in measured_curves(table) if table.curves else ():
            hardware_aware_widths(curve, groups=1, resamples=10)
    except LatencyLutError as error:
        one_line(error)


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inner for place in places(each, (*at, key)))]


def mutate(rng: random.Random, content: dict[str, Any], known: list[tuple[Any, ...]]) -> None:
    by_field: dict[Any, list[tuple[Any, ...]]] = {}
    for place in known:
        by_field.setdefault(next((key for key in reversed(place) if isinstance(key, str)), ""), []).append(place)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.choice(rng.choice(list(by_field.values())))
        if not place:
            continue
        parent: Any = content
        try:
            for key in place[:-1]:
                parent = parent[key]
            kind = rng.random()
            if kind < 0.1:
                del parent[place[-1]]
            elif kind < 0.25 and isinstance(parent, list):
                parent.insert(rng.randrange(len(parent) + 1), rng.choice(parent) if parent else 0)
            elif kind < 0.5 and isinstance(parent[place[-1]], (int, float)):
                parent[place[-1]] *= rng.choice((0, -1, 2, 0.5, 1e6, 1e-6, 1e300, 1e-300, 2**40))
            else:
                parent[place[-1]] = rng.choice(WILD)
        except (KeyError, IndexError, TypeError, OverflowError):
            continue


def test_wild_tables_are_refused_or_can_be_used() -> None:
    rng = random.Random(4)
    text = json.dumps(original())
    known = places(original())
    refusals = 0
    for _ in range(CASES):
        content = json.loads(text)
        mutate(rng, content, known)
        refusals += bool(refused(json.dumps(content).encode("utf-8", "surrogatepass")))
    assert refusals > CASES // 3


def test_wild_latencies_that_no_visit_bears_out_can_be_used(tmp_path: Path) -> None:
    """What was imported needs no visits, so any latency that a table may hold stands in it."""
    rng = random.Random(5)
    layers = curve_of(range(1, 13)).layers
    for _ in range(15):
        values = [10.0 ** rng.choice((-9, 9, 0, rng.uniform(-9, 9))) for _ in layers]
        table = table_with(layers, values)
        found = [
            msgspec.structs.replace(
                measurement(layer, ms),
                across_runs=Interval(low_ms=rng.choice((1e-9, ms)), high_ms=1e9, level=rng.choice((0, 1e-300, 1.0))),
                within_run=Interval(low_ms=ms, high_ms=1e9, level=rng.choice((1 - 2**-53, 5e-324, 0.5))),
            )
            for layer, ms in zip(layers, values, strict=True)
        ]
        wild = LatencyTable(device=table.device, setting=table.setting, sessions=(), measurements=found)
        compare_tables(wild, wild)
        predictor = LatencyPredictor.fit(wild)
        for layer in (layers[0], conv(40)):
            answer = predictor.predict_layer(layer)
            assert 0 < (answer.low_ms or answer.ms) <= answer.ms <= (answer.high_ms or answer.ms) < float("inf")
        predictor.save(tmp_path)
        assert LatencyPredictor.load(tmp_path).predict_layer(conv(40)).ms > 0


HEAD = b'{"format": "latency-lut", "version": 4, '


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"format": [' + b"[]," * (1 << 20) + b'0], "version": 4}', "'format' is not"),
        (b'{"format": "latency-lut", "version": ' + b"9" * 5000 + b"}", "version … of the format"),
        (b'{"format": "latency-lut", "version": 9' + b"9" * 60 + b"}", "version 9999"),
        (HEAD + b'"measurements": [' + b"{}," * (1 << 20) + b"{}]}", "more than 1048576 objects"),
        (HEAD + b'"measurements": [' + b"[]," * (1 << 21) + b"0]}", "measurements[0]"),
        (HEAD + b'"x": ' + b"[" * 100_000, "nested too deeply"),
        (HEAD + b'"' + b"x" * 100_000 + b'": 1}', "unknown field"),
        (HEAD + b'"device": {"kind": "' + b"x\\n" * 10_000 + b'"}}', "$.device.kind"),
        (b'{"format": "latency-lut", "version": 1, "setting": [' + b"[]," * (1 << 20) + b"0]}", "$.setting"),
        (b'{"format": "latency-lut", "version": 3, "x": 1}', "unknown field `x`"),
        (b'{"format": "latency-lut", "version": 2}', "missing required field `device`"),
    ],
)
def test_what_is_out_of_all_bounds_is_said_at_once(content: bytes, problem: str) -> None:
    assert problem in refused(content)


def changed(**lists: Any) -> bytes:
    return json.dumps({**original(), **lists}).encode()


def test_counts_are_bounded() -> None:
    network = {"name": "n", "layers": []}
    many = [{**network, "name": f"n {i}"} for i in range(10_001)]
    assert "length <= 10000" in refused(changed(networks=many, audit=None))
    measurements = json.loads(json.dumps(original()["measurements"]))
    measurements[1]["visits"]["raw_ms"] = [1.0] * 70_000
    assert "$.measurements[1].visits.raw_ms" in refused(changed(measurements=measurements))


def test_an_audit_of_many_networks_takes_no_quadratic_time() -> None:
    rng = random.Random(0)
    pairs = [(float(rng.randrange(50)), float(rng.randrange(50))) for _ in range(60)]

    def sign(value: float) -> int:
        return (value > 0) - (value < 0)

    by_pairs = sum(sign(a[0] - b[0]) * sign(a[1] - b[1]) for i, a in enumerate(pairs) for b in pairs[:i])
    assert kendall_tau(pairs) == by_pairs / (60 * 59 / 2)
    # By pairs these were five hundred million.
    assert abs(kendall_tau([(rng.random(), rng.random()) for _ in range(32_768)])) < 0.05


def test_where_a_field_stands_twice_the_last_one_counts_and_digests_are_of_what_is_used() -> None:
    content = json.dumps(original()).replace('"batch": 4', '"batch": 9, "batch": 4', 1).encode()
    table = LatencyTable.from_json(content)
    assert table.setting.batch == 4
    assert b'"batch":9' not in table.to_json()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_older_tables_still_load(version: int) -> None:
    content = json.loads(json.dumps(original()))
    content["version"] = version
    content["sessions"] = [{k: v for k, v in session.items() if k != "sampling"} for session in content["sessions"]]
    if version < 3:
        del content["networks"], content["audit"]
    if version == 1:
        del content["setting"]["context"], content["setting"]["options"]
    table = LatencyTable.from_json(json.dumps(content).encode())
    assert len(table) == len(content["measurements"])
    assert len(table.networks) == (len(content["networks"]) if version == 3 else 0)
    if version == 1:
        assert table.setting.context == "isolated"


def test_save_refuses_what_load_would(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(b"old")
    table = LatencyTable.from_json(json.dumps(original()).encode())
    first = table.networks[0]
    arguments = {
        name: getattr(table, name) for name in ("device", "setting", "sessions", "curves", "not_measured", "failures")
    }
    twice = LatencyTable(**arguments, measurements=table.values(), networks=[first, first])
    with pytest.raises(TableFormatError, match=r"t\.json is not written.*are called .* - at `\$\.networks\[1\]"):
        twice.save(path)
    wild = [msgspec.structs.replace(m, median_ms=1e300) for m in table.values()]
    with pytest.raises(TableFormatError, match=r"t\.json is not written.*measurements\[0\]\.median_ms"):
        LatencyTable(**arguments, measurements=wild).save(path)
    assert path.read_bytes() == b"old"
    table.save(path)
    assert LatencyTable.load(path).to_json() == table.to_json()


def test_two_networks_of_one_name_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    networks = [Network("same", (NetworkLayer("a", conv(width)),)) for width in (8, 16)]
    seen: list[object] = []
    with pytest.raises(UsageError, match="two networks are called 'same'; give each a name"):
        profile(
            [conv(8), *networks],
            output=tmp_path / "t.json",
            reference=tmp_path / "r.json",
            progress=seen.append,
        )
    assert not seen
    with pytest.raises(UsageError, match="length <= 10000"):
        profile([conv(8), Network("n" * 20_000, networks[0].layers)], reference=tmp_path / "r.json")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def node(op: dict[str, Any], *args: int) -> dict[str, Any]:
    return {"op": op, "args": list(args)}


CONV = {"op": "conv2d", "out_channels": 8, "kernel_size": [3, 3], "stride": [1, 1], "padding": [1, 1]}


@pytest.mark.parametrize(
    ("inputs", "nodes", "problem"),
    [
        ([[2**31, 1, 1]], [node({"op": "batch_norm2d"}, 0)], "positive sizes"),
        ([[10**30, 1, 1]], [node({"op": "batch_norm2d"}, 0)], "positive sizes"),
        ([[0, 1, 1]], [node({"op": "batch_norm2d"}, 0)], "positive sizes"),
        ([[2**31 - 1] * 3], [node({"op": "batch_norm2d"}, 0)], "more elements than can be counted"),
        ([[2**31 - 1, 2**30]], [node({"op": "linear", "out_features": 2**31 - 1, "bias": False}, 0)], "multiply-adds"),
        ([[2**31 - 1, 2, 1]], [node({"op": "flatten"}, 0)], "more elements"),
        ([[2**30, 8, 8]], [node({**CONV, "out_channels": 2**31 - 1}, 0)], "multiply-adds or parameters"),
        ([[8, 8, 8]], [node({**CONV, "kernel_size": [10**25, 3]}, 0)], "kernel_size"),
        ([[8, 8, 8]], [node({**CONV, "padding": [2**31 - 1, 1]}, 0)], "more elements"),
        ([[2**30, 1, 1]], [node({"op": "concat"}, *[0] * 4)], "more elements"),
        ([[8, 8, 8]], [node({"op": "concat"}, *[0] * 100_000)], "at most 16 values"),
        ([[8, 8, 8]], [node({"op": "add"}, 0, 10**25)], "only inputs and earlier nodes"),
        ([[8, 8, 8]] * 2, [node({"op": "add"}, 0, 1)] * 100_000, "at most 1000 inputs and nodes"),
        ([[8, 8, 8]] * 100_000, [node({"op": "add"}, 0, 1)], "at most 1000 inputs and nodes"),
        ([[1] * 100_000], [node({"op": "flatten"}, 0)], "one to 7 positive sizes"),
    ],
)
def test_layers_beyond_all_numbers_are_refused(
    inputs: list[Any], nodes: list[Any], problem: str, tmp_path: Path
) -> None:
    described = {"inputs": inputs, "nodes": nodes}
    entry = {"layer": described, "reason": "x"}
    text = refused(changed(not_measured=[*original()["not_measured"], entry]))
    assert problem in text
    number = len(original()["not_measured"])
    assert f"$.not_measured[{number}].layer" in text
    file = tmp_path / "layers.json"
    file.write_text(json.dumps([{"make": "linear", "in_features": 3, "out_features": 4, "bias": True}, described]))
    with pytest.raises(UsageError, match=r"layer 1 \(at `\$\[1\]`\)") as caught:
        load_layers(file)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_doubling_a_thousand_times_is_refused() -> None:
    shape: dict[str, Any] = {"inputs": [[1, 1, 1]], "nodes": [node({"op": "concat"}, i, i) for i in range(900)]}
    with pytest.raises(msgspec.ValidationError, match="more elements than can be counted"):
        msgspec.json.decode(json.dumps(shape), type=Layer)


def test_a_densely_connected_network_is_still_a_layer() -> None:
    text: list[dict[str, Any]] = []
    for i in range(40):
        text += [
            node(CONV | {"kernel_size": [1, 1], "padding": [0, 0]}, i * 2),
            node({"op": "concat"}, *range(2 * i + 2)),
        ]
    layer = msgspec.convert({"inputs": [[8, 4, 4]], "nodes": text[:10]}, Layer)
    assert layer.madds > 0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{}", "expected a list of layers"),
        (b"[]", "expected a list of layers"),
        (b"null", "expected a list of layers"),
        (b"[", "not valid JSON"),
        (b"[1]", r"at `$[0]`"),
        (b'[{"make": "' + b"x" * 100_000 + b'"}]', "nothing makes"),
        (b'[{"make": 1}]', "at `$[0]`"),
        (b'[{"make": "linear", "in_features": 1e400, "out_features": 1, "bias": true}]', "at `$[0]`"),
        (b'[{"make": "linear", "in_features": 1, "out_features": 1, "bias": true, "x\\u001b": 1}]', "at `$[0]`"),
        (b"[" + b"[" * 50_000, "not valid JSON"),
        (b"[" + b"{}," * (1 << 20) + b"{}]", "too long"),
    ],
)
def test_hostile_layers_files_are_one_line(content: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_layers(file)
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_constructors_refuse_what_overflows() -> None:
    with pytest.raises(LayerError, match="positive sizes"):
        conv_norm_act(10**30, 10**30, kernel_size=3, stride=1, activation=None, input_size=(10**30, 10**30))


def test_statistics_of_any_level_and_number_of_values() -> None:
    assert log_standard_error(1.0, 2.0, 1 - 2**-53) == float("inf")
    assert log_standard_error(1.0, 2.0, 1e-320) == float("inf")
    assert attained_level(3000, 1400) == pytest.approx(0.99974, abs=1e-3)
    assert [median_rank(n, 0.95) for n in (5, 6, 9, 20, 100)] == [0, 1, 2, 6, 40]
    ranks = [median_rank(n, 0.95) for n in (4096, 4097)]
    assert abs(ranks[0] - ranks[1]) <= 1
    low, high, _ = median_interval([float(i) for i in range(100_000)], 0.95)
    assert low < 50_000 < high


def described() -> tuple[Any, Any, Any]:
    return FakeTarget().describe()


GOOD = {-1: 0.5, -2: 0.25, -3: 0.125}


def test_damaged_references_are_said_at_the_beginning_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "references.json"
    check_references(path)
    save_references(path, *described(), GOOD)
    check_references(path)
    whole = path.read_bytes()
    damages = [
        whole[: len(whole) // 2],
        whole.replace(b"0.125", b"1e308"),
        whole.replace(b"0.125", b"1e-320"),
        whole.replace(b"0.125", b"-1"),
        whole.replace(b"references-1", b"references-9"),
        b"",
        b"[" * 100_000,
        b"\xff",
    ]
    for content in damages:
        path.write_bytes(content)
        with pytest.raises(FileAccessError, match=r"references\.json is damaged .* restore it, or move it away"):
            check_references(path)
        with pytest.raises(FileAccessError, match="is damaged"):
            save_references(path, *described(), GOOD)
        with pytest.raises(FileAccessError, match="is damaged"):
            profile([conv(8)], output=tmp_path / "t.json", reference=path)
        # A run that was under way falls back on its own speed.
        assert load_references(path, *described()) is None
        assert path.read_bytes() == content
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize("ms", [float("nan"), float("inf"), 1e308, 1e-320, 0.0, -1.0])
def test_a_reference_out_of_range_is_not_kept(tmp_path: Path, ms: float) -> None:
    path = tmp_path / "references.json"
    save_references(path, *described(), GOOD)
    before = path.read_bytes()
    with pytest.raises(FileAccessError, match="is not written"):
        save_references(path, *described(), {**GOOD, -2: ms})
    assert path.read_bytes() == before


def test_references_that_cannot_be_written_are_said_at_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileAccessError, match="XDG_CACHE_HOME"):
        check_references(tmp_path / "file" / "references.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileAccessError, match="a named pipe"):
        check_references(tmp_path / "pipe")
    with pytest.raises(FileAccessError):
        check_references(tmp_path)


def test_references_of_another_machine_are_not_used(tmp_path: Path) -> None:
    """Numbers within range can still be none of this machine's: the table is whole, and says so."""
    path = tmp_path / "references.json"
    curve = curve_of(range(1, 5))
    plan, result, target = simulate(curve.layers)
    ready = result.ready
    for wild in ({-1: 1e-6, -2: 1e7, -3: 1.0}, dict.fromkeys(GOOD, 1e7)):
        path.unlink(missing_ok=True)
        save_references(path, ready.device, ready.setting, ready.software, wild)
        before = path.read_bytes()
        table = table_of(plan, result, path, [curve])
        assert LatencyTable.from_json(table.to_json()).to_json() == table.to_json()
        assert any("cannot be this machine's" in text for text in table.sessions[0].preflight.warnings)
        assert path.read_bytes() == before
    assert target is not None


def test_judging_by_wild_references_is_no_overflow() -> None:
    visits = [
        Visit(entry, 0, 0.1 * i + 0.01 * entry, 1.0 + 0.01 * (i % 3), None, False, 0.0, 1)
        for i in range(20)
        for entry in (-3, -2, -1, 0, 1)
    ]
    found = judge(visits, make_protocol(), references={-1: 1e-6, -2: 1e7, -3: 1.0})
    assert all(isfinite(layer.across_runs.high_ms) for layer in found.layers.values())
    assert found.spread.scale <= 10
    assert len(SENTINELS) == 3


def test_a_lock_made_under_any_umask_is_everybodys(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with device_lock("machine", folder=tmp_path):
            pass
    finally:
        os.umask(before)
    path = tmp_path / "latency-lut-machine.lock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    # One that an older version made is opened to all by its owner.
    path.chmod(0o600)
    with device_lock("machine", folder=tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_nothing_planted_at_the_locks_place_is_waited_for_or_written_to(tmp_path: Path) -> None:
    path = tmp_path / "latency-lut-machine.lock"
    precious = tmp_path / "precious"
    precious.write_text("mine")
    precious.chmod(0o600)

    def planted(make: Callable[[], object]) -> None:
        make()
        with (
            pytest.raises(FileAccessError, match=r"is not the lock file that belongs there\. Delete it; or"),
            device_lock("machine", folder=tmp_path),
        ):
            pass
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()

    planted(lambda: os.mkfifo(path))
    planted(path.mkdir)
    planted(lambda: path.symlink_to(precious))
    planted(lambda: path.symlink_to(tmp_path / "nowhere"))
    planted(lambda: path.symlink_to("/dev/null"))
    planted(lambda: os.link(precious, path))
    if os.geteuid() == 0:
        planted(lambda: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3)))
    assert precious.read_text() == "mine"
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_in_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="cannot write"), device_lock("m", folder=tmp_path / "none"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_users_lock_is_respected_and_one_that_cannot_be_read_is_said() -> None:
    # Where pytest works nobody else may look.
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    script = (
        "import fcntl, os; from pathlib import Path; from profiler._lock import device_lock\n"
        "os.setuid(65534)\n"
        f"with device_lock('machine', folder=Path({str(place)!r})): print('held')"
    )

    def other() -> str:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        return done.stdout + done.stderr

    try:
        with device_lock("machine", folder=place):
            assert DeviceBusyError.__name__ in other()
        assert "held" in other()
        (place / "latency-lut-machine.lock").chmod(0o600)
        assert "another user made it and lets nobody else read it" in other()
    finally:
        shutil.rmtree(place)

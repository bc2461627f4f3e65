"""Timings from a device, imported: the values that they stand for, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from _coreml_bundles import make_bundle, make_timings, sha256, write
from conftest import conv, curve_of

from lut import LatencyTable, Layer, conv_norm_act, global_pool, linear, residual_add
from lut.errors import FileAccessError, ProfileError
from predictors import PowerLaw, hardware_aware_widths, measured_curves
from profiler._coreml import import_timings, load_bundle, not_measured_table
from profiler._coreml._bundle import Manifest, bundle_id, manifest_schema
from profiler._coreml._import import NO_DEVICE
from profiler._coreml._timings import timings_schema

LAYERS: tuple[Layer, ...] = (
    conv(16),
    conv(24),
    linear(16, 10, bias=True),
    global_pool(8, input_size=(8, 8)),
    residual_add(8, activation="relu", input_size=(8, 8)),
)


def stairs_ms(layer: Layer) -> float:
    """Return what a layer takes on a device that works on eight channels at a time."""
    return 0.004 + 0.003 * (-(-layer.output_shape[0] // 8))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "bundle"
    make_bundle(root, LAYERS)
    return root


def test_layers_cost_what_one_more_copy_adds(bundle: Path, tmp_path: Path) -> None:
    manifest = load_bundle(bundle)
    table = import_timings(write(tmp_path / "t.json", make_timings(manifest, stairs_ms)), bundle)
    assert list(table) == list(LAYERS)
    for layer in LAYERS:
        found = table[layer]
        assert found.median_ms == pytest.approx(stairs_ms(layer), rel=0.06), str(layer)
        assert found.within_run.low_ms <= found.median_ms <= found.within_run.high_ms
        assert found.origin == "imported"
        assert found.n_visits == 12
    assert table[conv(16)].also["alone_ms"] == pytest.approx(0.2 + stairs_ms(conv(16)), rel=0.01)
    assert table.setting.context == "network"
    assert table.setting.options == {
        "compute_units": "ALL",
        "format": "mlprogram",
        "deployment_target": "iOS16",
        "timing": "sustained",
    }
    assert (table.setting.threads, table.setting.memory_format) == (None, None)
    again = LatencyTable.from_json(table.to_json())
    assert again[conv(24)] == table[conv(24)]


def test_made_up_timings_say_so(bundle: Path, tmp_path: Path) -> None:
    timings = make_timings(load_bundle(bundle), stairs_ms)
    table = import_timings(write(tmp_path / "t.json", timings), bundle)
    assert table.device.model.startswith(NO_DEVICE)
    assert any(NO_DEVICE in warning for warning in table.sessions[0].preflight.warnings)
    table = import_timings(write(tmp_path / "t.json", {**timings, "synthetic": False}), bundle)
    assert table.device.model == "iPhone0,0"


def test_an_isolated_layer_carries_the_overhead(tmp_path: Path) -> None:
    manifest = make_bundle(tmp_path / "b", LAYERS[:2], context="isolated")
    table = import_timings(write(tmp_path / "t.json", make_timings(manifest, stairs_ms)), tmp_path / "b")
    assert table[conv(16)].median_ms == pytest.approx(0.2 + stairs_ms(conv(16)), rel=0.01)
    assert table.setting.context == "isolated"


def test_imported_timings_choose_widths_and_fit_the_law(tmp_path: Path) -> None:
    curve = curve_of(range(1, 33))
    manifest = make_bundle(tmp_path / "b", curve.layers, curves=[curve])
    table = import_timings(write(tmp_path / "t.json", make_timings(manifest, stairs_ms)), tmp_path / "b")
    (measured,) = measured_curves(table)
    assert hardware_aware_widths(measured, groups=4).widths == (8, 16, 24, 32)
    law = PowerLaw(alpha=1.0).fit(list(curve.channels), [table[layer].median_ms for layer in curve.layers])
    assert law.k_ == pytest.approx(0.003 / 8, rel=0.15)


def test_hot_and_power_saving_visits_are_put_aside_by_cause(bundle: Path, tmp_path: Path) -> None:
    timings = make_timings(load_bundle(bundle), stairs_ms)
    for visit in timings["visits"]:
        if visit["round"] in (1, 2):
            visit["thermal"] = "serious"
            visit["block_ms"] = [3 * ms for ms in visit["block_ms"]]
        if visit["round"] == 5:
            visit["low_power"] = True
    table = import_timings(write(tmp_path / "t.json", timings), bundle)
    found = table[conv(24)]
    assert found.rejected_by_cause == {"thermal": 2, "low_power": 1}
    assert found.n_visits == 9
    assert found.median_ms == pytest.approx(stairs_ms(conv(24)), rel=0.06)
    for visit in timings["visits"]:
        visit["thermal"] = "fair"
    found = import_timings(write(tmp_path / "t.json", timings), bundle)[conv(24)]
    assert "contaminated" in found.flags
    assert found.n_visits == 12


def differences(root: Path, path: Path, layer: Layer, many: Callable[[int], float]) -> LatencyTable:
    """Return the table where a layer's chain of one takes 1 ms, and that of more ``many(round)`` ms."""
    manifest = load_bundle(root)
    timings = make_timings(manifest, stairs_ms)
    value = next(entry.value for entry in manifest.layers if entry.layer == layer)
    longer = {term.program: term.weight > 0 for term in value}
    for visit in timings["visits"]:
        if visit["program"] in longer:
            visit["block_ms"] = [many(visit["round"]) if longer[visit["program"]] else 1.0]
    return import_timings(write(path, timings), root)


def test_a_cost_lost_in_noise_is_a_bound_and_never_converged(bundle: Path, tmp_path: Path) -> None:
    # Each round's difference is positive and the same, and below what can be told from noise.
    table = differences(bundle, tmp_path / "t.json", conv(16), lambda _: 1.0001)
    found = table[conv(16)]
    assert "at_resolution" in found.flags
    assert "converged" not in found.flags
    assert (found.within_run.low_ms, found.across_runs.low_ms) == (1e-6, 1e-6)
    assert found.within_run.low_ms < found.median_ms <= found.within_run.high_ms
    assert "converged" in table[conv(24)].flags or table[conv(24)].within_run.low_ms > 1e-6
    LatencyTable.from_json(table.to_json())
    # One round of twelve that is lost changes nothing; two do.
    lost = [
        differences(bundle, tmp_path / "t.json", conv(16), {r: 1.3 if r >= n else 1.0 for r in range(12)}.__getitem__)
        for n in (1, 2)
    ]
    assert ["at_resolution" in table[conv(16)].flags for table in lost] == [False, True]
    assert ["converged" in table[conv(16)].flags for table in lost] == [True, False]
    assert lost[1][conv(16)].across_runs.low_ms == 1e-6


def test_copies_that_add_nothing_are_not_measured(bundle: Path, tmp_path: Path) -> None:
    table = differences(bundle, tmp_path / "t.json", conv(16), lambda r: 1.0 if r < 7 else 1.3)
    (entry,) = table.not_measured
    assert entry.layer == conv(16)
    assert entry.reason.startswith("copies add nothing that can be told from noise")


def test_a_failed_visit_leaves_the_others_standing(bundle: Path, tmp_path: Path) -> None:
    manifest = load_bundle(bundle)
    timings = make_timings(manifest, stairs_ms)
    broken = next(e.value[0].program for e in manifest.layers if e.layer == conv(16))
    timings["failures"] = [{"program": broken, "message": "no memory just then"}]
    timings["visits"] = [v for v in timings["visits"] if v["program"] != broken or v["round"] >= 6]
    table = import_timings(write(tmp_path / "t.json", timings), bundle)
    assert table[conv(16)].n_visits == 6
    assert table.failures == ()
    (warning,) = [w for w in table.sessions[0].preflight.warnings if "no memory just then" in w]
    assert "its 6 visits count" in warning
    timings["visits"] = [v for v in timings["visits"] if v["program"] != broken or v["round"] >= 7]
    (failure,) = import_timings(write(tmp_path / "t.json", timings), bundle).failures
    assert failure.layer == conv(16)


def test_what_was_not_timed_is_not_measured(bundle: Path, tmp_path: Path) -> None:
    timings = make_timings(load_bundle(bundle), stairs_ms, skip=lambda p: "8×8" in p.what)
    table = import_timings(write(tmp_path / "t.json", timings), bundle)
    assert set(table) == {conv(16), conv(24), linear(16, 10, bias=True)}
    assert {entry.layer for entry in table.not_measured} == set(LAYERS[3:])
    assert "the device timed" in table.not_measured[0].reason
    other = make_timings(load_bundle(bundle), stairs_ms)
    many = next(t.program for t in load_bundle(bundle).layers[0].value)
    other["visits"] = [v for v in other["visits"] if (v["round"] % 2 == 0) == (v["program"] == many)]
    table = import_timings(write(tmp_path / "t.json", other), bundle)
    assert "no round in which" in table.not_measured[0].reason


def test_failures_of_the_export_and_of_the_device_stay_failures(tmp_path: Path) -> None:
    manifest = make_bundle(tmp_path / "b", LAYERS[:2], failed=LAYERS[2:3])
    timings = make_timings(manifest, stairs_ms)
    broken = manifest.layers[0].value[0].program
    timings["failures"] = [{"program": broken, "message": "could not load"}]
    timings["visits"] = [visit for visit in timings["visits"] if visit["program"] != broken]
    table = import_timings(write(tmp_path / "t.json", timings), tmp_path / "b")
    assert list(table) == [conv(24)]
    assert {f.layer: f.message.partition(":")[0] for f in table.failures} == {
        LAYERS[2]: "not converted",
        conv(16): "on the device, chain of 15",
    }


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.update(bundle="0" * 32), "these are timings of bundle 000"),
        (lambda t: t.update(format="other"), "'format' is not"),
        (lambda t: t.update(version=2), "version 2 of the format is unknown here"),
        (lambda t: t.update(version=True), "version True of the format"),
        (lambda t: t.update(rounds=3), "`$.visits["),
        (lambda t: t.update(extra=1), "unknown field `extra`"),
        (lambda t: t.update(compute_units="TPU"), "`$.compute_units`"),
        (lambda t: t.update(ended_at="2025-01-01T00:00:00Z"), "`$.ended_at`"),
        (lambda t: t["programs"][1].update(digest=sha256("other")), "`$.programs[1].digest`"),
        (lambda t: t["programs"].append(t["programs"][0]), "stands twice"),
        (lambda t: t["programs"].append({"program": "0" * 16, "digest": sha256("")}), "no program 0000"),
        (lambda t: t["programs"].pop(3), "is not among the 'programs'"),
        (lambda t: t["visits"].append(t["visits"][4]), "two visits in round 0"),
        (lambda t: t["visits"][7].update(block_ms=[-1.0]), "`$.visits[7]"),
        (lambda t: t["visits"][7].update(block_ms=[0]), "`$.visits[7]"),
        (lambda t: t["visits"][7].update(block_ms=[]), "`$.visits[7]"),
        (lambda t: t["visits"][7].update(block_ms=[1e300]), "`$.visits[7]"),
        (lambda t: t["visits"][7].update(block_ms=["fast"]), "`$.visits[7]"),
        (lambda t: t["visits"][7].update(calls=0), "`$.visits[7]"),
        (lambda t: t["failures"].append({"program": "f" * 16, "message": "?"}), "`$.failures[0]`"),
    ],
)
def test_wrong_timings_are_refused_with_the_place(bundle: Path, tmp_path: Path, change: Change, problem: str) -> None:
    timings = make_timings(load_bundle(bundle), stairs_ms)
    change(timings)
    with pytest.raises(ProfileError) as error:
        import_timings(write(tmp_path / "t.json", timings), bundle)
    assert problem in str(error.value)
    assert "t.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format": NaN}', b"null"])
def test_any_bytes_are_refused_in_one_line(bundle: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(ProfileError, match="not a file of timings"):
        import_timings(tmp_path / "t.json", bundle)
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(ProfileError, match="not a bundle's manifest"):
        load_bundle(bundle)


def test_an_altered_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    timings = write(tmp_path / "t.json", make_timings(load_bundle(bundle), stairs_ms))
    model = next((bundle / "programs").rglob("model.mlmodel"))
    kept = model.read_bytes()
    (model.parent / ".DS_Store").write_bytes(b"Finder's")
    load_bundle(bundle)
    (model.parent / "weights").mkdir()
    (model.parent / "weights" / "more.bin").write_bytes(b"")
    with pytest.raises(ProfileError, match=r"more\.bin was added since the export"):
        import_timings(timings, bundle)
    shutil.rmtree(model.parent / "weights")
    model.write_bytes(kept[:-1] + b"!")
    with pytest.raises(ProfileError, match="was altered since the export"):
        import_timings(timings, bundle)
    model.unlink()
    with pytest.raises(FileAccessError, match="missing from the bundle"):
        import_timings(timings, bundle)
    shutil.rmtree(model.parent)
    with pytest.raises(FileAccessError, match="is missing, which is"):
        import_timings(timings, bundle)
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"batch":1', '"batch":2'))
    with pytest.raises(ProfileError, match="does not hash to its own 'bundle'"):
        import_timings(timings, bundle)
    manifest.unlink()
    with pytest.raises(FileAccessError, match=r"holds no manifest\.json"):
        import_timings(timings, bundle)
    with pytest.raises(FileAccessError, match="no such file"):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "programs/../../x", "a//b", "programs/.hidden"])
def test_a_manifest_names_no_file_outside_the_bundle(bundle: Path, path: str) -> None:
    content = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    content["programs"][2]["files"][0]["path"] = path
    write(bundle / "manifest.json", content)
    with pytest.raises(ProfileError, match=r"\$\.programs\[2\]"):
        load_bundle(bundle)


def test_a_manifest_that_contradicts_itself_is_refused(bundle: Path) -> None:
    good = load_bundle(bundle)

    def refused(problem: str, **changes: object) -> None:
        changed: Manifest = msgspec.structs.replace(good, **changes)
        write(bundle / "manifest.json", msgspec.structs.replace(changed, bundle=bundle_id(changed)))
        with pytest.raises(ProfileError, match=problem):
            load_bundle(bundle)

    refused("there is no program", programs=good.programs[1:])
    refused("share an id", programs=(*good.programs, good.programs[0]))
    refused("stands twice", layers=(*good.layers, good.layers[0]))
    refused("is not the layer's", layers=(msgspec.structs.replace(good.layers[0], digest="0" * 16),))


def test_without_timings_nothing_is_measured() -> None:
    curve = curve_of(range(1, 9))
    table = not_measured_table(curve.layers, [curve])
    assert len(table) == 0
    assert [entry.layer for entry in table.not_measured] == list(curve.layers)
    assert "Apple hardware only" in table.not_measured[0].reason
    again = LatencyTable.from_json(table.to_json())
    assert again.curves == (curve,)
    assert again.setting.target == "coreml"
    assert "median_ms" not in table.to_json().decode()


def test_checked_in_schemas_are_current() -> None:
    folder = Path(__file__).parent.parent / "profiler" / "_coreml" / "schema"
    assert (folder / "manifest.schema.json").read_bytes() == manifest_schema()
    assert (folder / "timings.schema.json").read_bytes() == timings_schema()


def test_strided_layers_are_timed_side_by_side() -> None:
    from profiler._coreml._options import make_options
    from profiler._coreml._programs import programs_of_layer

    strided = conv_norm_act(8, 16, kernel_size=3, stride=2, activation="relu", input_size=(8, 8))
    value = programs_of_layer(strided, make_options())
    assert {p.role for p, _ in value} == {"parallel", "adds"}
    # One call's overhead must cancel: it is in each program once.
    for layer in (*LAYERS, strided):
        assert sum(weight for _, weight in programs_of_layer(layer, make_options())) == pytest.approx(0)

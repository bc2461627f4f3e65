"""Saved predictors: the same answers after loading, and anything that was altered is refused with one clear error."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _predictors import Tiny, sampled, table_with, tiny_predictor, wide_predictor, wide_space
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

import predictors
from lut import Network
from lut.errors import FileAccessError, PredictorFormatError
from predictors import LatencyPredictor

SPACE = Tiny()
REFUSED = (FileAccessError, PredictorFormatError)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a saved predictor."""
    tiny_predictor().save(tmp_path / "saved")
    return tmp_path / "saved"


def arrays_of(folder: Path) -> Path:
    (found,) = folder.glob("*.safetensors")
    return found


def signed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the JSON file's content and sign it again, as somebody who knows the format would."""
    file = folder / "predictor.json"
    content = json.loads(file.read_text())
    change(content)
    content["sha256"] = ""
    text = json.dumps(content, indent=1, ensure_ascii=False).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    file.write_bytes(text.replace(b'"sha256": ""', b'"sha256": "' + digest + b'"', 1))


def with_arrays(folder: Path, content: bytes) -> None:
    """Replace the arrays, and sign them."""
    arrays_of(folder).write_bytes(content)
    signed(folder, lambda c: c["model"].update(sha256=hashlib.sha256(content).hexdigest()))


def uses(folder: Path) -> None:
    """Load a predictor and ask it, so that nothing wrong can hide until later."""
    predictor = LatencyPredictor.load(folder)
    predictor.predict(SPACE.decode((1, 1, 1, 1, 1, 0, 2)))


def same(loaded: LatencyPredictor, made: LatencyPredictor, network: Network, level: float) -> None:
    """Check all that two predictors say; numbers to what order of summation leaves of them."""
    found, wanted = loaded.predict(network, level=level), made.predict(network, level=level)
    numbers = [(p.ms, p.low_ms, p.high_ms, p.level, p.coverage) for p in (found, wanted)]
    assert None not in numbers[1]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-11)
    assert found.outside == wanted.outside
    for mine, other in zip(found.layers, wanted.layers, strict=True):
        assert (mine.layer, mine.origin, mine.outside) == (other.layer, other.origin, other.outside)
        assert (mine.ms, mine.contribution_ms, mine.deviation) == pytest.approx(
            (other.ms, other.contribution_ms, other.deviation), rel=1e-11
        )


def test_a_loaded_predictor_gives_the_same_answers(folder: Path) -> None:
    loaded, made = LatencyPredictor.load(folder), tiny_predictor()
    for network in sampled(SPACE, 30, seed=1):
        same(loaded, made, network, 0.9)
    found, wanted = (predictor.compile(SPACE).latency(SPACE.vectors()) for predictor in (loaded, made))
    assert found == pytest.approx(wanted, rel=1e-11)
    for name in ("device", "setting", "tables", "calibration", "conformal", "operators", "kinds", "seed"):
        assert getattr(loaded, name) == getattr(made, name), name
    assert (loaded.held_out_layers, loaded.held_out_networks) == (made.held_out_layers, made.held_out_networks)


def test_a_predictor_of_many_layers_does_too(tmp_path: Path) -> None:
    wide_predictor().save(tmp_path)
    loaded = LatencyPredictor.load(tmp_path)
    for network in sampled(wide_space(), 5, seed=1):
        same(loaded, wide_predictor(), network, 0.95)


def test_one_that_was_never_calibrated_and_has_failures_does_too(tmp_path: Path) -> None:
    layers = SPACE.layers()
    made = LatencyPredictor.fit(table_with(layers[1:12], failures=layers[:1]), failures="skip")
    made.save(tmp_path / "a" / "b")
    loaded = LatencyPredictor.load(tmp_path / "a" / "b")
    assert loaded.failures == made.failures
    assert np.array_equal(loaded.contributions(layers[1:]), made.contributions(layers[1:]))
    assert loaded.no_interval(0.9) == made.no_interval(0.9)


def test_the_file_is_json_that_a_person_can_read(folder: Path) -> None:
    content = json.loads((folder / "predictor.json").read_text())
    assert content["format"] == "latency-lut-predictor"
    assert content["version"] == 1
    assert content["device"]["model"] == "made device"
    assert content["calibration"]["form"] == tiny_predictor().calibration.form
    assert len(content["measured_ms"]) == len(tiny_predictor().measured_ms)
    assert len((folder / "predictor.json").read_text().splitlines()) > 50


def test_saving_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    LatencyPredictor.load(folder).save(tmp_path / "again")
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_saving_over_another_replaces_it_and_leaves_nothing_behind(folder: Path) -> None:
    other = LatencyPredictor.fit(table_with(SPACE.layers()[:10]))
    before = arrays_of(folder).name
    other.save(folder)
    assert len(list(folder.iterdir())) == 2
    assert arrays_of(folder).name != before
    assert len(LatencyPredictor.load(folder).measured_ms) == 10


def test_other_files_of_the_folder_are_left_alone(folder: Path) -> None:
    for name in ("model-00001-of-00002.safetensors", "model-best.safetensors", "notes.txt"):
        (folder / name).write_text("mine")
    tiny_predictor().save(folder)
    for name in ("notes.txt", "model-00001-of-00002.safetensors", "model-best.safetensors"):
        assert (folder / name).exists(), name


def test_where_nothing_can_be_written_it_says_so_and_the_old_one_stays(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileAccessError, match="cannot write"):
            tiny_predictor().save(place)
    uses(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "there is no folder {}"),
        ("saved/predictor.json", "{} is no predictor: it is a file, and a predictor is a folder"),
        ("saved/predictor.json/deep", "there is no folder {}"),
        (".", "the folder {} is no predictor: it holds no predictor.json"),
    ],
)
def test_a_folder_that_is_none_is_refused(folder: Path, name: str, said: str) -> None:
    place = folder.parent / name
    with pytest.raises(FileAccessError) as caught:
        LatencyPredictor.load(place)
    writer = "give the folder that fit-predictor, or LatencyPredictor.save, wrote"
    assert str(caught.value) == f"{said.format(place)}; {writer}"
    with pytest.raises(FileAccessError, match="no file can have such a name"):
        LatencyPredictor.load("nu\0ll")


def test_a_folder_without_its_arrays_is_refused(folder: Path) -> None:
    name = arrays_of(folder).name
    arrays_of(folder).unlink()
    with pytest.raises(FileAccessError, match=f"cannot read .*{name}"):
        LatencyPredictor.load(folder)


def test_every_digit_is_under_the_hash(folder: Path) -> None:
    file = folder / "predictor.json"
    text = file.read_text()
    places = [i for i, character in enumerate(text) if character.isdigit()]
    for i in places[:: max(1, len(places) // 60)]:
        file.write_text(text[:i] + str((int(text[i]) + 1) % 10) + text[i + 1 :])
        with pytest.raises(REFUSED):
            LatencyPredictor.load(folder)
    file.write_text(text)
    uses(folder)


def test_an_altered_number_is_said_to_be(folder: Path) -> None:
    file = folder / "predictor.json"
    text = file.read_text()
    (digest, ms), *_ = tiny_predictor().measured_ms.items()
    old = f'"{digest}": {ms}'
    assert old in text
    file.write_text(text.replace(old, f'"{digest}": {ms * 2}'))
    with pytest.raises(PredictorFormatError, match=r"predictor\.json was altered after it was written"):
        LatencyPredictor.load(folder)


def test_every_byte_of_the_arrays_is_under_the_hash(folder: Path) -> None:
    file = arrays_of(folder)
    content = file.read_bytes()
    for i in range(0, len(content), max(1, len(content) // 40)):
        file.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(PredictorFormatError, match=rf"{file.name} was altered after it was written"):
            LatencyPredictor.load(folder)


@pytest.mark.parametrize("which", ["predictor.json", "arrays"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files_are_refused(folder: Path, which: str, share: float) -> None:
    file = arrays_of(folder) if which == "arrays" else folder / which
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(PredictorFormatError, match=file.name):
        LatencyPredictor.load(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.update(version=2), "version 2 of the format is unknown here; this release reads version 1"),
        (lambda c: c.update(version=True), "version True"),
        (lambda c: c.update(version="1"), "version 1|expected"),
        (lambda c: c.pop("version"), "version"),
        (lambda c: c.update(format="latency-lut-table"), "not a predictor"),
        (lambda c: c.pop("format"), "not a predictor"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c.pop("device"), "device"),
        (lambda c: c.update(seed=True), "seed"),
        (lambda c: c.update(seed=-1), "seed"),
        (lambda c: c["measured_ms"].update(x=-1.0), "measured_ms"),
        (lambda c: c["measured_ms"].update(x=None), "measured_ms"),
        (lambda c: c["calibration"].update(form="magic"), "form"),
        (lambda c: c["model"].update(features=c["model"]["features"][::-1]), "other features"),
        (lambda c: c["model"].update(work=[]), "other features"),
        (lambda c: c.update(groups=["rest"]), "other features"),
        (lambda c: c["model"].update(file="../x.safetensors"), "matching regex"),
        (lambda c: c["model"].update(file="/etc/passwd"), "matching regex"),
        (lambda c: c["model"].update(file="sub/x.safetensors"), "matching regex"),
        (lambda c: c["model"].update(file="..\\x.safetensors"), "matching regex"),
        (lambda c: c["model"].update(file=".."), "matching regex"),
        (lambda c: c["model"].update(file=""), "matching regex"),
        (lambda c: c["model"].update(file="x" * 300), "matching regex"),
        (lambda c: c["model"].update(sha256="0" * 64), "was altered"),
        (lambda c: c["model"].update(file="a\0b"), "file"),
        (lambda c: c["calibration"].update(scales=[1.0]), "scales|calibration"),
        (lambda c: c["calibration"].update(scales=[-1.0] * 4), "scales|calibration"),
        (lambda c: c["calibration"].update(per_call_ms=-1.0), "per_call_ms|calibration"),
        (lambda c: c["conformal"].update(scores=[3.0] + [-1.0] * 40), "scores|conformal"),
        (lambda c: c["kinds"].update({kind: [[1.0], [2.0]] for kind in c["kinds"]}), "kinds"),
    ],
)
def test_content_that_makes_no_sense_is_refused_though_it_is_signed(
    folder: Path, change: Callable[[dict[str, Any]], Any], problem: str
) -> None:
    signed(folder, change)
    with pytest.raises(REFUSED, match=problem):
        uses(folder)


def test_signing_again_is_no_change(folder: Path) -> None:
    signed(folder, dict.keys)
    uses(folder)


def _set(name: str, value: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = value(arrays[name].copy())

    return change


def _put(array: Any, value: float) -> Any:
    array.reshape(-1)[0] = value
    return array


@pytest.mark.parametrize(
    "change",
    [
        *(
            _set(name, lambda a, value=value: _put(a, value))
            for name in ("model.rows", "model.weights", "model.parameters", "correction.shares", "correction.factor")
            for value in (float("nan"), float("inf"))
        ),
        lambda arrays: arrays.pop("model.rows"),
        lambda arrays: arrays.pop("correction.variances"),
        lambda arrays: arrays.clear(),
        _set("model.rows", lambda a: a[:, :-1]),
        _set("model.rows", lambda a: a[:-1]),
        _set("model.rows", lambda a: a[None]),
        _set("model.weights", lambda a: a[:-1]),
        _set("model.costs", lambda a: a[:-1]),
        _set("model.held_out", lambda a: a[:-1]),
        _set("model.parameters", lambda a: a[:-1]),
        _set("correction.rows", lambda a: a[:-1]),
        _set("correction.weights", lambda a: a[:-1]),
        _set("correction.predicted", lambda a: a[:-1]),
        _set("correction.shares", lambda a: a[:-1]),
        _set("correction.factor", lambda a: a[:, :-1]),
        _set("correction.variances", lambda a: a[:-1]),
    ],
)
def test_arrays_that_do_not_fit_are_refused_though_they_are_signed(
    folder: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    arrays = dict(load(arrays_of(folder).read_bytes()))
    change(arrays)
    with_arrays(folder, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    with pytest.raises(PredictorFormatError, match=arrays_of(folder).name):
        uses(folder)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "X9"])
def test_arrays_of_another_type_are_refused(folder: Path, dtype: str) -> None:
    size = 2 if dtype == "BF16" else 1
    header = json.dumps({"model.rows": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, 4 * size]}}).encode()
    header += b" " * (-len(header) % 8)
    with_arrays(folder, len(header).to_bytes(8, "little") + header + bytes(4 * size))
    with pytest.raises(PredictorFormatError):
        LatencyPredictor.load(folder)


BYTES = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@BYTES
@given(content=st.binary(max_size=300) | st.text(max_size=100).map(str.encode) | st.just(b"[" * 100_000))
def test_random_bytes_are_refused(folder: Path, content: bytes) -> None:
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    (copy / "predictor.json").write_bytes(content)
    with pytest.raises(PredictorFormatError):
        LatencyPredictor.load(copy)
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    with_arrays(copy, content)
    with pytest.raises(PredictorFormatError):
        LatencyPredictor.load(copy)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@BYTES
@given(data=st.data())
def test_another_value_anywhere_is_refused_or_understood(folder: Path, data: st.DataObject) -> None:
    """Sign any other JSON value in any place of the first two levels; loading refuses it or it is a predictor."""
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    value = data.draw(JSON)

    def change(content: dict[str, Any]) -> None:
        key = data.draw(st.sampled_from(sorted(content)))
        if isinstance(content[key], dict) and content[key] and data.draw(st.booleans()):
            content[key][data.draw(st.sampled_from(sorted(content[key])))] = value
        else:
            content[key] = value

    signed(copy, change)
    with contextlib.suppress(*REFUSED):
        assert LatencyPredictor.load(copy).device.kind


def test_nothing_is_pickled() -> None:
    for file in Path(predictors.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            assert not {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"} & {
                n.split(".")[0] for n in names
            }, file
            called = node.func if isinstance(node, ast.Call) else None
            if (
                isinstance(called, ast.Attribute)
                and isinstance(called.value, ast.Name)
                and called.value.id in ("torch", "np")
            ):
                assert called.attr not in ("load", "save"), file


def test_loading_runs_nothing_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    uses(folder)

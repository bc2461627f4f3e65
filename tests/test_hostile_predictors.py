"""Predictors whose hashes were made anew over wild content: refused by one line, or every answer is a latency."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _predictors import Tiny, sampled, tiny_predictor
from safetensors.numpy import load, save

from lut.errors import LatencyLutError, PredictorError, PredictorFormatError
from predictors import LatencyPredictor

SPACE = Tiny()
NETWORKS = sampled(SPACE, 3, seed=9)
WILD = (0.0, -0.0, 1e308, -1e308, 1e-320, -1.0, 1e9, 1e17, 2.0**53, 745.0, -745.0, 1e-9)
WILD_JSON: tuple[Any, ...] = (
    *WILD,
    10**30,
    -(10**30),
    2**63,
    -1,
    True,
    None,
    "",
    "x" * 5000,
    "\x1b[31m\n",
    [],
    {},
    [[]],
)
# Cases of the seeded test; by hand, many thousands were tried.
CASES = 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_predictor().save(tmp_path / "saved")
    return tmp_path / "saved"


def arrays_in(folder: Path) -> Path:
    (found,) = folder.glob("*.safetensors")
    return found


def sign(folder: Path, content: dict[str, Any]) -> None:
    """Write the JSON file with a hash of itself, as somebody who knows the format would."""
    content["sha256"] = ""
    text = json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(text).hexdigest().encode()
    (folder / "predictor.json").write_bytes(text.replace(b'"sha256": ""', b'"sha256": "' + digest + b'"', 1))


def sign_arrays(folder: Path, content: bytes) -> None:
    arrays_in(folder).write_bytes(content)
    record = json.loads((folder / "predictor.json").read_text())
    record["model"]["sha256"] = hashlib.sha256(content).hexdigest()
    sign(folder, record)


def answers(folder: Path) -> str:
    """Load a predictor and ask it for everything; return the refusal, or nothing where every answer was a latency."""
    try:
        predictor = LatencyPredictor.load(folder)
    except LatencyLutError as error:
        return one_line(error, folder)
    for network in NETWORKS:
        for level in (0.5, 0.9, 0.999999):
            try:
                found = predictor.predict(network, level=level, unknown="outside")
                layers = [predictor.predict_layer(network.layers[0].layer, level=level, unknown="outside")]
            except PredictorError as error:
                # A layer that the file says is known to fail.
                one_line(error)
                continue
            for answer in (found, *layers):
                low, high = answer.low_ms or answer.ms, answer.high_ms or answer.ms
                assert isfinite(high)
                assert 0 < low <= answer.ms <= high, answer
            assert 0 <= found.coverage <= 1 + 1e-9
    # An operator may be one that the file says was never measured.
    with contextlib.suppress(PredictorError):
        assert all(value > 0 for value in map(predictor.latency_ms, NETWORKS))
    return ""


def one_line(error: Exception, folder: Path | None = None) -> str:
    """Return an error's text, which is one line, and names the folder if one is given."""
    text = str(error)
    assert "\n" not in text
    assert len(text) < 1500
    assert folder is None or folder.name in text
    return text


def leaves(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all values in JSON, those of objects and lists too."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inner for place in leaves(each, (*at, key)))]


def put(content: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = value


def mutated_record(rng: random.Random, content: dict[str, Any]) -> None:
    places = [place for place in leaves(content) if place]
    # Long lists must not hide the single numbers.
    short = [place for place in places if place[0] not in ("measured_ms", "deviations")]
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.choice(rng.choice((places, short)))
        parent: Any = content
        try:
            for key in place[:-1]:
                parent = parent[key]
            if rng.random() < 0.15:
                del parent[place[-1]]
            elif isinstance(parent, list) and rng.random() < 0.2:
                parent *= rng.choice((0, 2, 50))
            else:
                parent[place[-1]] = rng.choice(WILD_JSON)
        except (KeyError, IndexError, TypeError):
            continue


def mutated_arrays(rng: random.Random, arrays: dict[str, Any]) -> dict[str, Any]:
    generator = np.random.default_rng(rng.randrange(2**32))
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice(sorted(arrays))
        array = np.array(arrays[name])
        kind = rng.randrange(7)
        if kind == 0 and array.size:
            array.reshape(-1)[rng.randrange(array.size)] = rng.choice(WILD)
        elif kind == 1:
            array = np.full_like(array, rng.choice(WILD))
        elif kind == 2:
            with np.errstate(all="ignore"):
                array = array * rng.choice(WILD)
        elif kind == 3:
            array = -array
        elif kind == 4:
            array = generator.normal(size=array.shape) * 10.0 ** rng.randint(-20, 20)
        elif kind == 5 and array.ndim:
            array = array[: rng.randrange(len(array) + 1)]
        else:
            array = np.moveaxis(array, 0, -1)
        arrays[name] = array.astype(rng.choice((np.float64,) * 8 + (np.float32, np.int64)), copy=False)
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def test_wild_records_are_refused_or_answer(folder: Path) -> None:
    rng = random.Random(1)
    original = (folder / "predictor.json").read_text()
    refused = 0
    for _ in range(CASES):
        content = json.loads(original)
        mutated_record(rng, content)
        sign(folder, content)
        refused += bool(answers(folder))
    assert refused > CASES // 3


@pytest.mark.filterwarnings("ignore:.*encountered in cast:RuntimeWarning")
def test_wild_arrays_are_refused_or_answer(folder: Path) -> None:
    rng = random.Random(2)
    original = arrays_in(folder).read_bytes()
    refused = 0
    for _ in range(CASES):
        sign_arrays(folder, save(mutated_arrays(rng, dict(load(original)))))
        refused += bool(answers(folder))
    assert refused > CASES // 3


def test_wild_bytes_of_the_arrays_are_refused_or_answer(folder: Path) -> None:
    rng = random.Random(3)
    original = arrays_in(folder).read_bytes()
    header = 8 + int.from_bytes(original[:8], "little")
    for _ in range(CASES):
        content = bytearray(original)
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.randrange(rng.choice((8, header, len(content))))
            if rng.random() < 0.5:
                content[at] = rng.randrange(256)
            else:
                content[at : at + rng.randrange(9)] = rng.choice((b"", b"0", b"9999999999", b"[", b"-1", b'"F32"'))
        sign_arrays(folder, bytes(content))
        answers(folder)


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("model.parameters", -745.0, r"model\.parameters\[0\] is -745"),
        ("model.rows", 1e154, r"model\.rows\[0, 0\] is 1e\+154"),
        ("model.costs", -1.0, r"model\.costs\[0\] is -1"),
        ("model.held_out_deviation", 0.0, r"model\.held_out_deviation\[0\] is 0"),
        ("model.weights", 1e308, r"model\.weights\[0\] is 1e\+308"),
        ("correction.factor", 1e-300, r"correction\.factor's diagonal\[0\] is 1e-300"),
        ("correction.variances", -1.0, r"correction\.variances\[0\] is -1"),
        ("correction.shares", 1e300, r"correction\.shares\[0, 0\] is 1e\+300"),
        ("correction.predicted", 2.0, r"correction\.predicted\[0\] is 2"),
    ],
)
def test_a_number_that_no_fit_gives_is_refused_by_its_place(folder: Path, name: str, value: float, place: str) -> None:
    arrays = {key: np.array(array) for key, array in load(arrays_in(folder).read_bytes()).items()}
    arrays[name].reshape(-1)[0] = value
    sign_arrays(folder, save(arrays))
    with pytest.raises(PredictorFormatError, match=rf"model-\w+\.safetensors: {place}"):
        LatencyPredictor.load(folder)


def test_a_triangle_without_an_inverse_is_refused(folder: Path) -> None:
    arrays = {key: np.array(array) for key, array in load(arrays_in(folder).read_bytes()).items()}
    count = len(arrays["correction.factor"])
    arrays["correction.factor"] = np.tril(np.full((count, count), 1e3), -1) + np.eye(count)
    sign_arrays(folder, save(arrays))
    with pytest.raises(PredictorFormatError, match=r"correction\.factor is no covariance's"):
        LatencyPredictor.load(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: put(c, ("kinds", next(iter(c["kinds"])), 0), [5e307] * 5), r"kinds"),
        (lambda c: put(c, ("kinds", next(iter(c["kinds"])), 0), [200.0] * 5), r"ends before it begins"),
        (lambda c: put(c, ("conformal", "scores"), [2.0, 1.0]), r"scores` do not increase"),
        (lambda c: put(c, ("held_out_layers", "worst"), 1e300), r"held_out_layers\.worst"),
        (lambda c: put(c, ("calibration", "networks"), 10**30), r"networks|range"),
        (lambda c: put(c, ("tables", 0, 2), 10**25), r"tables|range"),
        (lambda c: c["measured_ms"].popitem(), "deviations are not of the layers"),
        (lambda c: (c["measured_ms"].clear(), c["deviations"].clear()), r"measured_ms` is of 0 layers"),
    ],
)
def test_a_record_that_no_fit_gives_is_refused(folder: Path, change: Callable[[Any], object], problem: str) -> None:
    content = json.loads((folder / "predictor.json").read_text())
    change(content)
    sign(folder, content)
    with pytest.raises(PredictorFormatError, match=problem):
        LatencyPredictor.load(folder)


def test_scales_of_nothing_still_give_latencies(folder: Path) -> None:
    content = json.loads((folder / "predictor.json").read_text())
    content["calibration"].update(scales=[0.0] * 4, per_call_ms=0.0, per_weight_ms=0.0)
    content["conformal"]["scores"] = [1e9] * 40
    sign(folder, content)
    assert answers(folder) == ""


def test_a_name_given_twice_is_under_the_hash_and_the_last_one_counts(folder: Path) -> None:
    file = folder / "predictor.json"
    content = json.loads(file.read_text())
    sign(folder, content)
    text = file.read_text()
    doubled = text.replace('"seed":', '"seed": 7,\n "seed":', 1)
    file.write_text(doubled)
    with pytest.raises(PredictorFormatError, match="was altered"):
        LatencyPredictor.load(folder)
    digest = json.loads(text)["sha256"]
    unsigned = doubled.replace(digest, "", 1)
    file.write_text(doubled.replace(digest, hashlib.sha256(unsigned.encode()).hexdigest(), 1))
    assert LatencyPredictor.load(folder).seed == tiny_predictor().seed


def header_of(entries: dict[str, Any], data: bytes = b"") -> bytes:
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff" * 8 + b"{}", "header is cut off or too long"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "header is cut off or too long"),
        (b"", "header is cut off or too long"),
        (header_of({"extra": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}}), "no predictor has an array"),
        (
            header_of({"model.costs": {"dtype": "F64", "shape": [2**31 - 1], "data_offsets": [0, 8]}}, b"\0" * 8),
            "does not lie within the file",
        ),
        (header_of({"model.costs": {"dtype": "F64", "shape": [2**60], "data_offsets": [0, 2**63]}}), "shape"),
        (header_of({"model.costs": {"dtype": "F64", "shape": [1], "data_offsets": [8, 0]}}), "does not lie within"),
        (header_of({"model.costs": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}), "another shape or type"),
        ((70000).to_bytes(8, "little") + b" " * 70000, "header is cut off or too long"),
        (header_of({}), "model.costs is missing"),
        ((2000).to_bytes(8, "little") + b"[" * 2000, "no safetensors file"),
    ],
)
def test_headers_that_promise_too_much_are_refused(folder: Path, content: bytes, problem: str) -> None:
    sign_arrays(folder, content)
    with pytest.raises(PredictorFormatError, match=problem):
        LatencyPredictor.load(folder)


def test_arrays_that_share_bytes_are_refused(folder: Path) -> None:
    content = arrays_in(folder).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["model.held_out"]["data_offsets"] = header["model.weights"]["data_offsets"]
    sign_arrays(folder, header_of(header, content[8 + size :]))
    with pytest.raises(PredictorFormatError, match="one after another"):
        LatencyPredictor.load(folder)


def test_many_layers_are_refused_before_their_covariance_is_made(folder: Path) -> None:
    arrays = dict(load(arrays_in(folder).read_bytes()))
    many = 200_000
    arrays["model.rows"] = np.zeros((many, arrays["model.rows"].shape[1]))
    for name in ("model.weights", "model.held_out", "model.held_out_deviation"):
        arrays[name] = np.ones(many)
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    sign_arrays(folder, content)
    with pytest.raises(LatencyLutError, match=r"too large|between 1 and 8192 are possible"):
        LatencyPredictor.load(folder)


def test_a_nested_format_costs_nothing(folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (folder / "predictor.json").write_bytes(b'{"format": [' + b"[]," * (1 << 22) + b"0]}")
    with pytest.raises(PredictorFormatError, match="'format' is not"):
        LatencyPredictor.load(folder)
    # As objects of Python it were 300 MiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024


def test_what_would_be_refused_is_not_saved(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    tiny_predictor().save(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    made = tiny_predictor()
    wild = replace(made, measured_ms={**made.measured_ms, next(iter(made.measured_ms)): 1e300})
    with pytest.raises(PredictorFormatError, match="measured_ms"):
        wild.save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


HUGE = "99999999999999999999999"


@pytest.mark.parametrize(
    "arguments",
    [
        ["select_widths", "t.json", "--groups", HUGE],
        ["select_widths", "t.json", "--seed", HUGE],
        ["select_widths", "t.json", "--alpha", "1e308"],
        ["fit_predictor", "t.json", "--seed", HUGE],
        ["fit_predictor", "t.json", "--seed", "-1"],
        ["predict_latency", "--seed", HUGE, "--predictor", "p"],
        ["predict_latency", "--predictor", "p", "--space", "resnet-cifar", "--choices", "0", "--level", "1e308"],
    ],
)
def test_absurd_numbers_are_one_line_and_a_usage_error(arguments: list[str], tmp_path: Path) -> None:
    command, *rest = arguments
    module = "profiler._cli.predict_latency" if command == "predict_latency" else f"predictors._commands.{command}"
    script = f"import sys; sys.argv = [{command!r}, *{rest!r}]; from {module} import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr

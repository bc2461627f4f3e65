"""Core ML on Apple hardware, as far as a machine without it can tell: calls, logic on a stand-in, the Swift files."""

from __future__ import annotations

import asyncio
import inspect
import os
import platform
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from conftest import conv

from lut import Layer, UsageError
from lut.errors import LayerFailedError, TargetUnavailableError
from profiler._coreml import CoremlTarget
from profiler._coreml import _convert as convert
from profiler._coreml import _target as target_module
from profiler._coreml._bundle import Program, Tensor
from profiler._coreml._options import ExportOptions
from profiler._coreml._programs import ProgramPlan
from profiler._coreml._timings import Timings, timings_schema

RUNNER = Path(__file__).parent.parent / "profiler" / "_coreml" / "runner"
needs_coremltools = pytest.mark.skipif(find_spec("coremltools") is None, reason="needs coremltools: the extra coreml")


class StandIn:
    """A Core ML on which a program takes 100 µs and 10 µs more for each copy."""

    ComputeUnit = SimpleNamespace(ALL="all", CPU_ONLY="cpu", CPU_AND_GPU="gpu", CPU_AND_NE="ne")

    def __init__(self) -> None:
        self.loaded: list[Any] = []
        self.fails = False
        self.silent = False
        outer = self

        class Model:
            def __init__(self, path: str, *, compute_units: str, skip_model_load: bool = False) -> None:
                if outer.fails:
                    raise RuntimeError("Error in declaring network.\nsecond line")
                self.path, self.compute_units, self.skipped = path, compute_units, skip_model_load
                self.copies = int((Path(path) / "copies").read_text())
                self.compiled = Path(f"{path}.compiled")
                self.compiled.mkdir()
                self.calls = 0
                outer.loaded.append(self)

            def predict(self, feed: dict[str, Any]) -> dict[str, Any]:
                assert all(value.dtype == "float32" for value in feed.values())
                self.calls += 1
                return {}

            @property
            def last_predict_duration_in_nano_seconds(self) -> int | None:
                return None if outer.silent else 100_000 + 10_000 * self.copies

            def get_compiled_model_path(self) -> str:
                return str(self.compiled)

        self.models = SimpleNamespace(MLModel=Model)


def converted(
    plan: ProgramPlan, options: ExportOptions, *, root: Path, path: str, temporary: Path, made_from: str
) -> Program:
    (root / path).mkdir()
    (root / path / "copies").write_text(str(plan.copies))
    return Program(
        id=made_from[:16],
        what=str(plan),
        role=plan.role,
        copies=plan.copies,
        path=path,
        digest=made_from,
        files=(),
        inputs=(Tensor(name="x0", shape=(options.batch, 4), dtype="float16"),),
        outputs=(),
        operators={},
        made_from=made_from,
        convert_s=0.0,
    )


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(convert, "check_installed", lambda: None)
    monkeypatch.setattr(convert, "import_coremltools", lambda: stand_in)
    monkeypatch.setattr(convert, "convert_program", converted)
    monkeypatch.setattr(convert, "versions", lambda: {"coremltools": "9.0"})
    monkeypatch.setattr(target_module, "_output", lambda *_: "")
    # A collection for every model that is unloaded takes a tenth of a second here, and frees nothing.
    monkeypatch.setattr(target_module, "gc", SimpleNamespace(collect=lambda: 0))
    return stand_in


def value_ms(target: CoremlTarget, layer: Layer, calls: int = 3) -> float:
    prepared = target.prepare(layer, seed=0)
    total = sum(part.weight * target.run(part.prepared, calls) / calls for part in target.parts(prepared)) / 1e6
    target.release(prepared)
    return total


def test_a_mac_times_what_one_more_copy_adds(mac: StandIn) -> None:
    target = CoremlTarget(compute_units="CPU_AND_NE")
    assert value_ms(target, conv(16)) == pytest.approx(0.01)
    # A layer that changes the shape: its copies, less an addition of the input's shape and one of the output's.
    assert value_ms(target, conv(24)) == pytest.approx(0.01 - 0.02)
    assert {model.compute_units for model in mac.loaded} == {"ne"}
    device, setting, _ = target.describe()
    assert device.kind == "mac"
    assert (setting.batch, setting.dtype, setting.context) == (1, "float16", "network")
    assert setting.options["timing"] == "back-to-back"
    assert target.origin(target.prepare(conv(16), seed=0)) == "marginal"
    isolated = CoremlTarget(context="isolated")
    assert value_ms(isolated, conv(16)) == pytest.approx(0.11)
    assert isolated.origin(isolated.prepare(conv(16), seed=0)) == "measured"
    target.close()
    isolated.close()
    assert not any(model.compiled.exists() or Path(model.path).exists() for model in mac.loaded)


def test_programs_of_several_layers_are_loaded_once_and_released_with_the_last(mac: StandIn) -> None:
    target = CoremlTarget()
    first = target.prepare(conv(24), seed=0)
    before = len(mac.loaded)
    second = target.prepare(conv(32, channels=24), seed=0)
    assert len(mac.loaded) - before == 4  # its own two, and the additions of the one shape that is new
    shared = [model for model in mac.loaded if model.compiled.exists()]
    target.release(first)
    assert sum(model.compiled.exists() for model in shared) == len(shared) - 4
    target.release(second)
    assert not any(model.compiled.exists() for model in mac.loaded)
    target.close()


def test_what_core_ml_refuses_fails_one_layer_in_one_line(mac: StandIn) -> None:
    target = CoremlTarget()
    prepared = target.prepare(conv(16), seed=0)
    mac.silent = True
    with pytest.raises(LayerFailedError, match="did not say how long"):
        target.run(prepared.parts[0].prepared, 1)
    mac.fails = True
    with pytest.raises(LayerFailedError, match=r"^Core ML: RuntimeError: Error in declaring network\. second line$"):
        target.prepare(conv(17), seed=0)
    target.close()


def test_a_hot_or_power_saving_mac_says_so(mac: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    target = CoremlTarget()
    prepared = target.prepare(conv(16), seed=0)

    def cause(therm: str, power: str) -> str | None:
        texts = {("pmset", "-g", "therm"): therm, ("pmset", "-g"): power}
        monkeypatch.setattr(target_module, "_output", lambda *command: texts[command])
        return target.observe(prepared).cause

    assert cause("CPU_Scheduler_Limit = 100\nCPU_Speed_Limit = 100\n", " lowpowermode   0\n") is None
    assert cause("CPU_Speed_Limit \t= 70\n", "") == "thermal"
    assert cause("Note: No thermal warning level has been recorded\n", " lowpowermode         1\n") == "low_power"
    target.close()


def shim(path: Path, code: int) -> None:
    path.write_text(f"#!/bin/sh\nexit {code}\n")
    path.chmod(0o755)


def test_an_iphone_needs_xcode_a_team_and_a_phone(
    mac: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Without Xcode macOS has both commands all the same; they fail.
    for name in ("xcodebuild", "xcrun"):
        shim(tmp_path / name, 1)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(TargetUnavailableError, match=r"needs Xcode .*\(xcodebuild -version fails\)"):
        CoremlTarget(device="iphone")
    shim(tmp_path / "xcodebuild", 0)
    with pytest.raises(TargetUnavailableError, match=r"needs Xcode .*\(xcrun --find devicectl fails\)"):
        CoremlTarget(device="iphone")
    shim(tmp_path / "xcrun", 0)
    with pytest.raises(TargetUnavailableError, match="--team"):
        CoremlTarget(device="iphone")
    phones: list[Any] = []
    remote = SimpleNamespace(
        AppSigningCredentials=SimpleNamespace,
        DeviceType=SimpleNamespace(IPHONE="iphone"),
        Device=SimpleNamespace(get_connected_devices=lambda _: phones),
    )
    asked: list[int] = []
    loops: list[asyncio.AbstractEventLoop] = []

    class Benchmarker:
        def __init__(self, model: Any, device: Any) -> None:
            assert device is phone
            assert model.skipped
            # coremltools keeps the loop that it finds when it is made.
            self.loop = asyncio.get_running_loop()

        async def benchmark_predict(self, inputs: Any, iterations: int, warmup: bool) -> Any:
            assert set(inputs) == {"x0"}
            assert not warmup
            loops.append(asyncio.get_running_loop())
            await self.loop.run_in_executor(None, int)
            asked.append(iterations)
            return SimpleNamespace(samples=[0.3] * iterations)

    async def prepare(credentials: Any) -> Any:
        loops.append(asyncio.get_running_loop())
        assert credentials.development_team == "TEAM"
        return phone

    phone = SimpleNamespace(
        os_version="17.5", os_build_number="21F79", prepare_for_model_debugging=prepare, name="Ann's", udid="0000-A"
    )
    place = "coremltools.models.ml_program.experimental"
    monkeypatch.setattr(
        target_module,
        "import_module",
        lambda name: {
            f"{place}.remote_device": remote,
            f"{place}.perf_utils": SimpleNamespace(MLModelBenchmarker=Benchmarker),
        }[name],
    )
    with pytest.raises(TargetUnavailableError, match="no iPhone is connected"):
        CoremlTarget(device="iphone", team="TEAM")
    phones.append(phone)
    target = CoremlTarget(device="iphone", team="TEAM", context="isolated")
    prepared = target.prepare(conv(16), seed=0)
    assert target.run(prepared.parts[0].prepared, 100) == pytest.approx(100 * 300_000)
    assert target.run(prepared.parts[0].prepared, 2) == pytest.approx(2 * 300_000)
    assert asked == [5, 2]
    assert len(loops) == 3
    assert loops[0] is loops[1] is loops[2]
    device, setting, _ = target.describe()
    assert setting.options["timing"] == "idle-burst"
    assert device.system == "iOS 17.5 (21F79)"
    assert b"Ann" not in msgspec.json.encode(device)
    assert b"0000-A" not in msgspec.json.encode(device)
    phone.udid = "0000-B"
    assert target.describe()[0].model != device.model
    target.close()
    assert loops[0].is_closed()


def test_elsewhere_the_target_says_what_to_do() -> None:
    if platform.system() == "Darwin":
        pytest.skip("this is a Mac")
    with pytest.raises(
        TargetUnavailableError, match=r"^Core ML runs on Apple hardware only: export-coreml makes a bundle"
    ):
        CoremlTarget()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"compute_units": "TPU"}, r"compute_units \(--compute-units\) is ALL, CPU_ONLY, CPU_AND_GPU or CPU_AND_NE"),
        ({"device": "watch"}, r"device \(--device\) is mac or iphone"),
        ({"team": "T"}, "--device iphone"),
        ({"dtype": "bfloat16"}, "float16 or float32"),
        ({"format": "mlprogam"}, "mlprogram or neuralnetwork, got 'mlprogam'; did you mean 'mlprogram'"),
        ({"batch": 0}, r"batch \(--batch\) is between"),
        ({"context": "cold"}, "network or isolated"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        CoremlTarget.check_options(**options)


@needs_coremltools
def test_our_calls_fit_coremltools_own_signatures() -> None:
    coremltools = convert.import_coremltools()
    with convert.quiet():
        remote = import_module("coremltools.models.ml_program.experimental.remote_device")
        perf = import_module("coremltools.models.ml_program.experimental.perf_utils")
    model = coremltools.models.MLModel
    assert model is coremltools.models.model.MLModel
    inspect.signature(model.__init__).bind("self", "path", compute_units=None, skip_model_load=True)
    inspect.signature(model.predict).bind("self", {})
    inspect.signature(model.get_compiled_model_path).bind("self")
    assert isinstance(model.last_predict_duration_in_nano_seconds, property)
    for unit in ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE"):
        assert hasattr(coremltools.ComputeUnit, unit)
    inspect.signature(remote.Device.get_connected_devices).bind(remote.DeviceType.IPHONE)
    inspect.signature(remote.AppSigningCredentials).bind(development_team="TEAM")
    inspect.signature(remote.Device.prepare_for_model_debugging).bind("self", "credentials")
    assert asyncio.iscoroutinefunction(remote.Device.prepare_for_model_debugging)
    assert {"os_version", "os_build_number", "udid"} <= set(remote.Device.__dataclass_fields__)
    benchmarker = perf.MLModelBenchmarker
    inspect.signature(benchmarker).bind(model="model", device="device")
    inspect.signature(benchmarker.benchmark_predict).bind("self", inputs={}, iterations=5, warmup=False)
    assert asyncio.iscoroutinefunction(benchmarker.benchmark_predict)
    assert "samples" in benchmarker.Measurement.__dataclass_fields__
    for name in ("iOS13", "iOS14", "iOS15", "iOS16", "iOS17", "iOS18"):
        assert hasattr(coremltools.target, name)
    given = {"inputs", "outputs", "convert_to", "minimum_deployment_target", "compute_precision", "skip_model_load"}
    assert given <= set(inspect.signature(coremltools.convert).parameters)


SWIFT_TYPES = {
    "String": "string",
    "Int": "integer",
    "UInt64": "integer",
    "Double": "number",
    "Bool": "boolean",
}


def swift_structs() -> dict[str, dict[str, str]]:
    """Return the Codable structs of the Swift file: name → JSON key → Swift type."""
    text = (RUNNER / "Schedule.swift").read_text()
    found = {}
    for name, body in re.findall(r"struct (\w+): Codable \{\n(.*?)\n\}\n", text, re.DOTALL):
        types = dict(re.findall(r"^    (?:let|var) (\w+): ([\w\[\]]+)", body, re.MULTILINE))
        for field, value in re.findall(r"^    var (\w+) = (.+)$", body, re.MULTILINE):
            types[field] = "String" if value.startswith('"') else "Bool" if value in ("true", "false") else "Int"
        keys = dict(re.findall(r'^        case (\w+) = "(\w+)"$', body, re.MULTILINE))
        assert list(types) == list(keys) or set(types) == set(keys), name
        found[name] = {keys[field]: kind for field, kind in types.items()}
    return found


def _kind(schema: dict[str, Any]) -> str:
    names = {str: "string", int: "integer"}
    return str(schema["type"]) if "type" in schema else names[type(schema["enum"][0])]


def test_the_swift_file_writes_what_the_schema_wants() -> None:
    definitions = msgspec.json.decode(timings_schema())["$defs"]
    structs = swift_structs()
    assert set(structs) == {"RunnerDevice", "TimedProgram", "TimedVisit", "TimingFailure", "Timings"}
    for name, fields in structs.items():
        properties = definitions[name]["properties"]
        assert set(fields) == set(properties), name
        assert set(definitions[name]["required"]) == set(properties), name
        for key, kind in fields.items():
            wanted = properties[key]
            if kind.startswith("["):
                item = kind[1:-1]
                inner = wanted["items"]
                assert wanted["type"] == "array"
                assert inner.get("$ref") == f"#/$defs/{item}" or inner.get("type") == SWIFT_TYPES[item], (name, key)
            elif kind in structs:
                assert wanted["$ref"] == f"#/$defs/{kind}"
            else:
                assert _kind(wanted) == SWIFT_TYPES[kind], key


def test_the_swift_file_reads_what_the_manifest_holds() -> None:
    text = (RUNNER / "Schedule.swift").read_text()
    body = text[text.index("struct Manifest: Decodable") : text.index("static let knownFormat")]
    ours = {
        "File": {"path", "bytes", "sha256"},
        "Tensor": set(Tensor.__struct_fields__),
        "Program": {"id", "what", "path", "digest", "files", "inputs"},
    }
    for name, fields in ours.items():
        inner = re.search(rf"struct {name}: Decodable \{{(.*?)\}}", body, re.DOTALL)
        assert inner is not None
        assert set(re.findall(r"let (\w+):", inner.group(1))) == fields
    assert set(re.findall(r"^    let (\w+):", body, re.MULTILINE)) == {
        "format",
        "version",
        "bundle",
        "programs",
        "groups",
    }


def test_the_swift_schedule_needs_foundation_only() -> None:
    imports = re.findall(r"^import (\w+)", (RUNNER / "Schedule.swift").read_text(), re.MULTILINE)
    assert imports == ["Foundation"]
    for file in RUNNER.glob("*.swift"):
        bare = re.sub(r'"(?:\\.|[^"\\])*"|//[^\n]*', "", file.read_text())
        for opening, closing in ("()", "{}", "[]"):
            assert bare.count(opening) == bare.count(closing), (file.name, opening)


def test_the_runner_says_what_was_never_run() -> None:
    text = " ".join((RUNNER / "README.md").read_text().split())
    assert "has never been compiled or run" in text
    assert set(Timings.__struct_fields__) >= {"synthetic", "timing"}

"""The target ``coreml``: Core ML on this Mac, or on an iPhone connected to it.

Nothing here has ever run on Apple hardware. Every call into coremltools is compared with coremltools' own signatures
in a test, and the logic is tested on a stand-in.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from importlib import import_module
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar, final

from lut import Device, Layer, Setting, UsageError
from lut._option_names import option_text
from lut._records import Software
from lut.errors import LayerFailedError, TargetUnavailableError
from profiler._coreml._bundle import Program
from profiler._coreml._import import coreml_setting
from profiler._coreml._options import ExportOptions, check_compute_units, make_options
from profiler._coreml._programs import ProgramPlan, programs_of_layer
from profiler._machine import DisturbanceReader
from profiler._process import OUT_OF_MEMORY
from profiler._target import Observation, Part, Target

__all__ = ["CoremlTarget"]

DEVICES = ("mac", "iphone")
# A prediction over devicectl takes seconds of polling; a handful is all that a visit can have.
IPHONE_CALLS = 5
EXPERIMENTAL = "coremltools.models.ml_program.experimental"
T = TypeVar("T")


class _Loaded:
    """A program that is loaded: the model, an input that fits it, and where its files are."""

    def __init__(self, program: Program, model: Any, feed: Mapping[str, Any], folder: Path) -> None:
        self.program = program
        self.model = model
        self.feed = feed
        self.folder = folder
        self.compiled: str | None = None
        self.benchmarker: Any = None


class _Prepared:
    """A layer's programs with their weights; none once it is released. Final."""

    def __init__(self, parts: tuple[Part, ...], origin: Literal["measured", "marginal"]) -> None:
        self.parts, self.origin = parts, origin


@final
class CoremlTarget(Target[_Prepared]):
    """Core ML through coremltools, on a Mac.

    ``device="mac"`` times on the Mac itself, prediction after prediction, by coremltools' own clock around each.
    ``device="iphone"`` has coremltools install its runner on a connected iPhone; there each prediction is asked for by
    a file copied to the phone, seconds apart, so that it measures the latency of an idle phone that is woken for one
    prediction. The setting's ``timing`` names the difference, and such tables are never mixed.

    Args:
        batch: samples per call.
        dtype: ``float16`` or ``float32``.
        compute_units: ``ALL``, ``CPU_ONLY``, ``CPU_AND_GPU`` or ``CPU_AND_NE``.
        device: ``mac`` or ``iphone``.
        format: ``mlprogram`` or ``neuralnetwork``.
        deployment_target: the oldest system that the programs are for, such as ``iOS16``.
        context: ``network`` or ``isolated``; see :mod:`profiler._coreml._programs`.
        team: the Apple developer team that signs coremltools' runner, for an iPhone.

    Raises:
        UsageError: an option is unknown.
        TargetUnavailableError: this is no Mac, coremltools or Xcode is missing, or no iPhone is connected.
    """

    least_block_ms = 1.0

    @property
    def slow_to_prepare(self) -> bool:
        """Converting, compiling and loading take longer than timing, and must not count as it."""
        return True

    def __init__(
        self,
        *,
        batch: int = 1,
        dtype: str | None = None,
        compute_units: str = "ALL",
        device: str = "mac",
        format: str = "mlprogram",  # noqa: A002 - the option's name in every command
        deployment_target: str | None = None,
        context: str = "network",
        team: str | None = None,
    ) -> None:
        self.check_options(
            batch=batch,
            dtype=dtype,
            compute_units=compute_units,
            device=device,
            format=format,
            deployment_target=deployment_target,
            context=context,
            team=team,
        )
        if platform.system() != "Darwin":
            raise TargetUnavailableError(
                "Core ML runs on Apple hardware only: export-coreml makes a bundle here, to be timed there; "
                "profile-device --import timings.json --bundle DIR then makes its table here"
            )
        from profiler._coreml._convert import check_installed, import_coremltools

        check_installed()
        self._coremltools = import_coremltools()
        self._options = make_options(
            batch=batch,
            precision=dtype,
            model_format=format,
            deployment_target=deployment_target,
            context=context,
        )
        self._units = compute_units
        self._where = device
        self._phone: Any = None
        # One for the target's life: what coremltools keeps between calls is bound to the loop that it was made in.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._root = Path(tempfile.mkdtemp(prefix="latency-lut-coreml-"))
        # Additions enter the values of many layers; each such program is loaded once while any layer needs it.
        self._shared: dict[tuple[ProgramPlan, int], tuple[_Loaded, int]] = {}
        self._disturbances = DisturbanceReader()
        if device == "iphone":
            try:
                self._phone = self._connect(team)
            except BaseException:
                self.close()
                raise

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Raise unless the options make sense; loads nothing.

        Raises:
            UsageError: a value is unknown.
        """
        make_options(
            batch=options.get("batch", 1),
            precision=options.get("dtype"),
            model_format=options.get("format", "mlprogram"),
            deployment_target=options.get("deployment_target"),
            context=options.get("context", "network"),
        )
        check_compute_units(options.get("compute_units", "ALL"))
        device = options.get("device", "mac")
        if device not in DEVICES:
            raise UsageError(f"{option_text('device')} is mac or iphone, got {device!r}")
        if device == "mac" and options.get("team") is not None:
            raise UsageError(
                f"{option_text('team')} signs the runner for an iPhone: give {option_text('device', 'iphone')} with it"
            )

    def describe(self) -> tuple[Device, Setting, Software]:
        """Return what is measured on, and how."""
        from profiler._coreml._convert import versions

        timing = "back-to-back" if self._where == "mac" else "idle-burst"
        details = {"clock": "coremltools, around each prediction"}
        return (
            self._mac() if self._phone is None else self._iphone(),
            coreml_setting(self._options, compute_units=self._units, timing=timing),
            Software(python=platform.python_version(), packages=versions(), details=details),
        )

    def _mac(self) -> Device:
        cores = int(_sysctl("hw.ncpu") or 1)
        memory = _sysctl("hw.memsize")
        return Device(
            kind="mac",
            model=f"{_sysctl('machdep.cpu.brand_string') or 'Mac'} ({_sysctl('hw.model') or 'unknown'})",
            architecture=platform.machine(),
            system=f"macOS {platform.mac_ver()[0]} ({_sysctl('kern.osversion') or 'unknown'})",
            cores=cores,
            affinity_cpus=cores,
            memory_gib=round(int(memory) / 2**30, 1) if memory else None,
        )

    def _iphone(self) -> Device:
        phone = self._phone
        # The phone's name is its owner's, and its identifier stays out of files too; of that, enough goes in to keep
        # two phones' tables apart.
        which = hashlib.sha256(f"latency-lut {phone.udid}".encode()).hexdigest()[:6]
        return Device(
            kind="iphone",
            model=f"iPhone, connected ({which})",
            architecture="arm64",
            system=f"iOS {phone.os_version} ({phone.os_build_number})",
            cores=1,
            affinity_cpus=1,
        )

    def prepare(self, layer: Layer, seed: int) -> _Prepared:
        """Convert, compile and load the layer's programs; not timed.

        Raises:
            LayerFailedError: one of them cannot be converted or loaded.
        """
        value = programs_of_layer(layer, self._options)
        parts: list[Part] = []
        try:
            for plan, weight in value:
                parts.append(Part(self._program(plan, seed), weight))
        except LayerFailedError:
            self._release_parts(parts)
            raise
        return _Prepared(tuple(parts), "measured" if len(parts) == 1 else "marginal")

    def run(self, prepared: Any, calls: int) -> int:
        """Predict ``calls`` times and return the sum of the nanoseconds that each took.

        Raises:
            LayerFailedError: Core ML refuses, or does not say how long it took.
        """
        loaded = prepared if isinstance(prepared, _Loaded) else prepared.parts[0].prepared
        return self._run_phone(loaded, calls) if self._phone is not None else self._run_mac(loaded, calls)

    def _run_mac(self, loaded: _Loaded, calls: int) -> int:
        model, feed, total = loaded.model, loaded.feed, 0
        try:
            for _ in range(calls):
                model.predict(feed)
                took = model.last_predict_duration_in_nano_seconds
                if took is None:
                    raise LayerFailedError("Core ML did not say how long the prediction took")
                total += int(took)
        except LayerFailedError:
            raise
        except Exception as error:
            raise _failed(error) from None
        return total

    def _run_phone(self, loaded: _Loaded, calls: int) -> int:
        asked = max(1, min(calls, IPHONE_CALLS))
        try:
            work = loaded.benchmarker.benchmark_predict(inputs=loaded.feed, iterations=asked, warmup=False)
            found = self._wait(work)
        except Exception as error:
            raise _failed(error) from None
        if not found.samples:
            raise LayerFailedError("the iPhone sent no timing back")
        # Fewer were asked for than the protocol wants: each stands for several.
        return int(median(found.samples) * 1e6 * calls)

    def parts(self, prepared: _Prepared) -> Sequence[Part]:
        """Return the programs with their weights."""
        return prepared.parts

    def origin(self, prepared: _Prepared) -> Literal["measured", "marginal"]:
        """Return ``marginal`` where programs are subtracted."""
        return prepared.origin

    def observe(self, prepared: _Prepared) -> Observation:  # noqa: ARG002 - the same for every layer
        """Return whether the Mac is hot or saves power, as ``pmset`` tells."""
        if self._phone is not None:
            return Observation()
        text = _output("pmset", "-g", "therm")
        limits = [line.rpartition("=")[2].strip() for line in text.splitlines() if "CPU_Speed_Limit" in line]
        if any(limit.isdigit() and int(limit) < 100 for limit in limits):
            return Observation(cause="thermal")
        power = [line.split() for line in _output("pmset", "-g").splitlines() if "lowpowermode" in line]
        return Observation(cause="low_power" if any(words[-1:] == ["1"] for words in power) else None)

    def release(self, prepared: _Prepared) -> None:
        """Unload the layer's programs and remove what they left on disk."""
        parts, prepared.parts = prepared.parts, ()
        self._release_parts(parts)

    def close(self) -> None:
        """Remove everything."""
        for loaded, _ in self._shared.values():
            _unload(loaded)
        self._shared.clear()
        loop, self._loop = self._loop, None
        if loop is not None:
            _close_loop(loop)
        shutil.rmtree(self._root, ignore_errors=True)

    def preemptions_and_faults(self) -> tuple[int, int]:
        """Return running counts of involuntary context switches and page faults of this process."""
        return self._disturbances.preemptions_and_faults()

    def _program(self, plan: ProgramPlan, seed: int) -> _Loaded:
        found = self._shared.get((plan, seed))
        if found is None:
            found = (self._load(plan, seed), 0)
        self._shared[plan, seed] = (found[0], found[1] + 1)
        return found[0]

    def _release_parts(self, parts: Sequence[Part]) -> None:
        for part in parts:
            key = next((key for key, (loaded, _) in self._shared.items() if loaded is part.prepared), None)
            if key is None:
                continue
            loaded, users = self._shared.pop(key)
            if users > 1:
                self._shared[key] = (loaded, users - 1)
            else:
                _unload(loaded)
        gc.collect()

    def _load(self, plan: ProgramPlan, seed: int) -> _Loaded:
        import numpy as np

        from profiler._coreml._convert import convert_program, model_suffix, quiet, versions

        options = _seeded(self._options, seed)
        made_from = plan.made_from(options, versions())
        folder = Path(tempfile.mkdtemp(dir=self._root))
        temporary = folder / "temporary"
        temporary.mkdir()
        path = f"{made_from[:16]}{model_suffix(options)}"
        try:
            program = convert_program(plan, options, root=folder, path=path, temporary=temporary, made_from=made_from)
            rng = np.random.default_rng(int(made_from[:8], 16))
            feed = {x.name: rng.uniform(-1, 1, x.shape).astype(np.float32) for x in program.inputs if prod(x.shape)}
            units = getattr(self._coremltools.ComputeUnit, self._units)
            with quiet():
                model = self._coremltools.models.MLModel(
                    str(folder / path), compute_units=units, skip_model_load=self._phone is not None
                )
            loaded = _Loaded(program, model, feed, folder)
            if self._phone is not None:
                perf = import_module(f"{EXPERIMENTAL}.perf_utils")
                loaded.benchmarker = self._wait(_make(perf.MLModelBenchmarker, model=model, device=self._phone))
            else:
                loaded.compiled = model.get_compiled_model_path()
        except LayerFailedError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _failed(error) from None
        return loaded

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(work)

    def _connect(self, team: str | None) -> Any:
        """Return the connected iPhone with coremltools' runner on it."""
        # macOS has commands of these names without Xcode, which only say what to install: they must succeed.
        for command in (("xcodebuild", "-version"), ("xcrun", "--find", "devicectl")):
            if not _succeeds(*command):
                raise TargetUnavailableError(
                    f"{option_text('device', 'iphone')} needs Xcode 15 or newer on this Mac "
                    f"({' '.join(command)} fails): install Xcode from the App Store, open it "
                    "once, and run sudo xcode-select --switch /Applications/Xcode.app"
                )
        if not team:
            raise TargetUnavailableError(
                f"{option_text('device', 'iphone')} has coremltools sign its runner for your phone: give the "
                f"identifier of your Apple developer team, {option_text('team')} (Xcode, Settings, Accounts)"
            )
        remote = import_module(f"{EXPERIMENTAL}.remote_device")
        try:
            phones = remote.Device.get_connected_devices(remote.DeviceType.IPHONE)
        except Exception as error:
            raise TargetUnavailableError(f"the connected devices cannot be listed: {_short(error)}") from None
        if not phones:
            raise TargetUnavailableError(
                "no iPhone is connected: plug it in, unlock it, trust this Mac, and switch on Developer Mode "
                "(Settings, Privacy & Security)"
            )
        try:
            credentials = remote.AppSigningCredentials(development_team=team)
            return self._wait(phones[0].prepare_for_model_debugging(credentials))
        except Exception as error:
            raise TargetUnavailableError(
                f"coremltools' runner could not be put on the iPhone: {_short(error)}"
            ) from None


def _seeded(options: ExportOptions, seed: int) -> ExportOptions:
    import msgspec

    return msgspec.structs.replace(options, seed=seed)


def _unload(loaded: _Loaded) -> None:
    """Drop the model and what it left: compiled copies of many models fill a disk."""
    compiled = loaded.compiled
    loaded.model = loaded.benchmarker = None
    gc.collect()
    if compiled is not None:
        shutil.rmtree(compiled, ignore_errors=True)
    shutil.rmtree(loaded.folder, ignore_errors=True)


async def _make(kind: Callable[..., T], **arguments: Any) -> T:
    """Return a new object that asked for the event loop while it was made, and got the one that runs this."""
    return kind(**arguments)


def _close_loop(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


def _failed(error: Exception) -> LayerFailedError:
    memory = isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY)
    return LayerFailedError(f"Core ML: {_short(error)}", reason="out_of_memory" if memory else "error")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]


def _output(*command: str) -> str:
    program = shutil.which(command[0])
    if program is None:
        return ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=10)
        return done.stdout
    return ""


def _succeeds(*command: str) -> bool:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        # Xcode's first answer after it was installed takes seconds.
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    return False


def _sysctl(name: str) -> str:
    return _output("sysctl", "-n", name).strip()

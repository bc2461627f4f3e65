"""Exporting to Core ML: what a bundle holds, how an export goes on, and one clear line per mistake."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from _commands import run_here
from conftest import HANGS_S, in_the_foreground, wait_until

from lut import Layer, Node, UsageError, chain, conv_norm_act, global_pool, linear, residual_add
from lut.errors import InterruptedRunError, TargetUnavailableError
from lut.primitives import Activation, ActivationKind, BatchNorm2d, ChannelShuffle, Concat, MaxPool2d, Mul
from profiler._coreml import _convert as convert
from profiler._coreml import export_bundle, load_bundle
from profiler._coreml._bundle import RelativePath, program_path
from profiler._coreml._export import _model_names
from profiler._coreml._options import make_options
from profiler._coreml._programs import ProgramPlan, plan_layers
from profiler._coreml._worker import _content
from profiler._model import load_model, parse_input, parse_model

needs_coremltools = pytest.mark.skipif(find_spec("coremltools") is None, reason="needs coremltools: the extra coreml")
TINY = [
    {
        "make": "conv_norm_act",
        "in_channels": 8,
        "out_channels": 8,
        "kernel_size": 3,
        "stride": 1,
        "activation": "relu",
        "input_size": [8, 8],
    },
    {"make": "linear", "in_features": 16, "out_features": 10, "bias": True},
]
HUGE = {**TINY[0], "in_channels": 4096, "out_channels": 4096, "input_size": [4096, 4096]}
MODEL = """
import torch
import lut_helper  # beside the model: its folder is on the path


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, lut_helper.WIDTH, 3)

    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))


def make():
    print("a user's model may print")
    return Net()


def with_input():
    return Net(), torch.zeros(2, 3, 12, 12)


def odd():
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).abs().cumprod(0).igamma(x)

    return Odd()


def is_killed():
    import os

    os.kill(os.getpid(), 9)


def leaves():
    raise SystemExit("goodbye")


def with_a_number():
    return Net(), 5


class Halves(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(1, dtype=torch.bfloat16))

    def forward(self, x):
        return super().forward(x) * self.scale


def halves():
    return Halves()


class Odder(Net):
    def state_dict(self):
        raise RuntimeError("two\\nlines")


def not_a_module():
    return 3


def fails():
    raise ValueError("no weights here")
"""


def command(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return run_here(folder, "export-coreml", *arguments, code=code)


def line(*arguments: str) -> list[str]:
    run = "import sys; sys.argv[0] = 'export-coreml'; from profiler._cli.export_coreml import main; main()"
    return [sys.executable, "-I", "-c", run, *arguments]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "layers.json").write_text(json.dumps(TINY))
    (tmp_path / "huge.json").write_text(json.dumps([TINY[0], HUGE]))
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "lut_helper.py").write_text("WIDTH = 5\n")
    # A user's own modules of our names lie in the folder; they must not be taken for ours.
    for name in ("lut", "search", "profiler", "predictors"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    return tmp_path


@needs_coremltools
def test_each_model_has_its_own_input_and_a_file_that_says_whose_it_is(folder: Path) -> None:
    (folder / "b").mkdir()
    shutil.copy(folder / "net.py", folder / "b" / "net.py")
    models = ("net.py:make", "net.py:make", "net.py:with_input", "b/net.py:odd")
    inputs = ("2x3x12x12", "2x3x16x16", "own", "2x8:int32:5")
    given = [word for pair in zip(models, inputs, strict=True) for word in ("--model", pair[0], "--input", pair[1])]
    # One cannot be converted; the others are.
    done = command(folder, *given, "-o", "out", "--jobs", "1", code=3)
    manifest = load_bundle(folder / "out")
    found = {network.name: network.program for network in manifest.networks}
    assert list(found) == ["net.py:make 2x3x12x12", "net.py:make 2x3x16x16", "net.py:with_input"]
    programs = {program.id: program for program in manifest.programs}
    shapes = [programs[program].inputs[0].shape for program in found.values()]
    assert shapes == [(2, 3, 12, 12), (2, 3, 16, 16), (2, 3, 12, 12)]
    for name, readable in zip(
        found, ("net.py-make-2x3x12x12", "net.py-make-2x3x16x16", "net.py-with_input"), strict=True
    ):
        path = f"programs/{readable}-{found[name]}.mlpackage"
        assert programs[found[name]].path == path
        assert f"network {name}: {path}" in done.stdout
        assert (folder / "out" / path).is_dir()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--input", "1x3x8x8", "--input", "1x3x9x9"), "2 times --input for 3 --model"),
        (("--input", "1x3x8x8", "--input", "4x3x8x8", "--input", "own"), "the batches 1 (net.py:make), 4 (net.py:odd)"),
        (("--input", "wide"), "--input is a shape"),
    ],
)
def test_inputs_that_do_not_fit_the_models(folder: Path, words: tuple[str, ...], said: str) -> None:
    models = ("--model", "net.py:make", "--model", "net.py:odd", "--model", "net.py:with_input")
    done = command(folder, *models, *words, "-o", "out", code=2)
    assert said in done.stderr
    assert not (folder / "out").exists()


def test_models_are_named_by_no_more_than_tells_them_apart(folder: Path) -> None:
    (folder / "b" / "b").mkdir(parents=True)
    for place in ("b", "b/b"):
        shutil.copy(folder / "net.py", folder / place / "net.py")

    def named(*models: tuple[str, str | None]) -> list[str]:
        return _model_names([parse_model(str(folder / place), text, 0) for place, text in models])

    assert named(("net.py:make", "1x2"), ("net.py:odd", "1x2")) == ["net.py:make", "net.py:odd"]
    assert named(("net.py:make", "1x2"), ("net.py:make", "1x3,1x4")) == ["net.py:make 1x2", "net.py:make 1x3,1x4"]
    assert named(("net.py:make", None), ("b/net.py:make", None))[1] == "b/net.py:make"
    same = named(("b/net.py:make", None), ("b/b/net.py:make", None))
    assert same == [f"{folder / 'b' / 'net.py'}:make", f"{folder / 'b' / 'b' / 'net.py'}:make"]


@pytest.mark.parametrize("title", ["conv3×3 16→32 +bn @8×8", "../../x", "", "…", ".", "a\n/b", "x" * 1000, "CON"])
def test_a_readable_file_name_is_one_that_a_manifest_may_have(title: str) -> None:
    path = program_path(title, "0123456789abcdef", ".mlpackage")
    assert msgspec.convert(path, RelativePath) == path
    assert path.count("/") == 1
    assert path.endswith("0123456789abcdef.mlpackage")
    assert len(path) < 130
    assert program_path("conv3×3 16→32 @8×8", "0" * 16, ".mlmodel").startswith("programs/conv3x3-16to32-8x8-0")


@needs_coremltools
def test_export_from_end_to_end(folder: Path) -> None:
    done = command(
        folder, "--layers", "layers.json", "--model", "net.py:make", "--input", "1x3x12x12", "-o", "out", "--jobs", "1"
    )
    for part in ("2 layers and 1 network", "MB", "mlprogram, float16, iOS16, batch 1, in context", "a layer", "README"):
        assert part in done.stdout
    assert done.stderr == ""
    manifest = load_bundle(folder / "out")
    assert {p.role for p in manifest.programs} == {"chain", "parallel", "adds", "network"}
    assert manifest.failures == ()
    for program in manifest.programs:
        assert "cast" not in program.operators
        assert {x.dtype for x in (*program.inputs, *program.outputs)} == {"float16"}
    chain = next(p for p in manifest.programs if p.role == "chain" and p.copies > 1)
    assert chain.operators == {"conv": chain.copies, "relu": chain.copies}
    (network,) = manifest.networks
    assert network.name == "net.py:make"
    assert {entry.name for entry in (folder / "out").iterdir()} == {"manifest.json", "programs", "runner", "schema"}
    assert (folder / "out" / "runner" / "Schedule.swift").exists()
    assert len(list((folder / "out" / "programs").iterdir())) == len(manifest.programs)
    refused = command(folder, "--layers", "layers.json", "-o", "out", code=2).stderr
    assert refused == (
        "error: out holds a finished bundle; restart=True (--restart) exports again and replaces it, another "
        "output (--output) writes elsewhere\n"
    )
    coremltools = convert.import_coremltools()
    with convert.quiet():
        spec = coremltools.utils.load_spec(str(folder / "out" / chain.path))
    assert spec.specificationVersion == 7


@needs_coremltools
def test_old_formats_and_json(folder: Path) -> None:
    done = command(
        folder,
        "--layers",
        "layers.json",
        "-o",
        "old",
        "--format",
        "neuralnetwork",
        "--context",
        "isolated",
        "--json",
        "--jobs",
        "1",
    )
    result = json.loads(done.stdout)
    assert (result["layers"], result["programs"], result["failures"]) == (2, 2, [])
    assert result["options"]["dtype"] == "float32"
    assert all(p.path.endswith(".mlmodel") for p in load_bundle(folder / "old").programs)
    command(folder, "--model", "net.py:with_input", "-o", "ios15", "--deployment-target", "iOS15", "--jobs", "1")
    (program,) = load_bundle(folder / "ios15").programs
    assert program.inputs[0].shape == (2, 3, 12, 12)
    assert program.operators["cast"] == 2


@needs_coremltools
def test_what_cannot_be_converted_is_a_failure_and_exit_code_3(folder: Path) -> None:
    done = command(
        folder,
        *("--layers", "huge.json", "--batch", "2", "--input", "2x4"),
        *("--model", "net.py:odd", "--model", "net.py:is_killed", "--jobs", "1"),
        *("-o", "out"),
        code=3,
    )
    assert "failed: conv3×3 4096→4096 +bn +relu @4096×4096: converting it takes about" in done.stdout
    assert "failed: net.py:odd: " in done.stdout
    assert "failed: net.py:is_killed: the converting process crashed twice (killed by SIGKILL)" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("incomplete: 3 of 4 could not be converted; out holds the others")
    manifest = load_bundle(folder / "out")
    assert len(manifest.layers) == 1
    assert {failure.name for failure in manifest.failures} == {
        "conv3×3 4096→4096 +bn +relu @4096×4096",
        "net.py:odd",
        "net.py:is_killed",
    }


@needs_coremltools
def test_nothing_converted_is_said_and_nothing_is_to_be_timed(folder: Path) -> None:
    shape = ("--input", "1x3X8x8", "--jobs", "1")
    models = ("--model", "net.py:odd", "--model", "net.py:Odder", "--model", "net.py:halves")
    done = command(folder, *models, *shape, "-o", "out", code=3)
    assert done.stderr.splitlines()[-1].startswith("incomplete: nothing could be converted; the manifest in out")
    assert "net.py:Odder: RuntimeError: two lines" in " ".join(done.stdout.split())
    # Numbers that coremltools does not know.
    assert "net.py:halves: TypeError: Got unsupported ScalarType BFloat16" in " ".join(done.stdout.split())
    assert "next " not in done.stdout


def test_a_model_of_any_numbers_has_a_hash() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float32, torch.int64, torch.bool, torch.complex64):
        assert len(_content(torch.ones(2, 3, dtype=dtype).T)) == 6 * dtype.itemsize
        assert _content(torch.ones((), dtype=dtype)) != _content(torch.zeros((), dtype=dtype))
    assert _content({"extra": 1}) == b"{'extra': 1}"


@pytest.mark.parametrize(("jobs", "expected"), [(None, 4), (6, 6), (99, 8)])
def test_jobs_that_are_given_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jobs: int | None, expected: int
) -> None:
    from profiler._coreml import _export as export

    asked: list[int] = []

    def convert_all(*arguments: Any) -> dict[str, str]:
        asked.append(arguments[4])
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "check_installed", lambda: None)
    monkeypatch.setattr(export, "_cpus", lambda: 64)
    monkeypatch.setattr(export, "_convert_all", convert_all)
    layers = [linear(4, width, bias=True) for width in range(5, 13)]
    with pytest.raises(InterruptedRunError):
        export_bundle(tmp_path / "out", options=make_options(context="isolated"), layers=layers, workers=jobs)
    assert asked == [expected]


@needs_coremltools
def test_ctrl_c_keeps_what_was_converted_and_the_same_command_goes_on(folder: Path) -> None:
    options = ["--space", "resnet-cifar", "--expand", "0.0625", "-o", "out", "--context", "isolated", "--jobs", "1"]
    process = subprocess.Popen(
        line(*options),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=in_the_foreground,
    )
    done = folder / "out" / ".export" / "done"
    wait_until(lambda: done.exists() and len(list(done.glob("*.json"))) >= 4, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode == 130
    (message,) = errors.splitlines()
    assert message.startswith("stopped: ")
    assert "run the same command again to go on from there" in message
    assert not list((folder / "out" / ".export").glob("tmp-*"))
    other = command(folder, *options, "--seed", "1", code=2).stderr
    assert "holds an interrupted export with other options, layers or models" in other
    result = json.loads(command(folder, *options, "--json").stdout)
    assert result["kept"] >= 4
    assert result["failures"] == []
    assert len(load_bundle(folder / "out").curves) == 3


@pytest.mark.parametrize(
    ("arguments", "problem", "code"),
    [
        ([], "say what to export", 2),
        (["--layers", "layers.json", "--space", "resnet-cifar"], "not both", 2),
        (["--layers", "none.json"], "no such file", 1),
        (["--space", "nowhere"], "unknown space 'nowhere'", 2),
        (["--layers", "layers.json", "--precision", "int4"], "is float16 or float32", 2),
        (["--layers", "layers.json", "--deployment-target", "iOS9"], "is iOS15, iOS16, iOS17 or iOS18", 2),
        (["--layers", "layers.json", "--format", "onnx"], "format (--format) is mlprogram or neuralnetwork", 2),
        (["--layers", "layers.json", "--format", "neuralnetwork", "--precision", "float16"], "leave precision out", 2),
        (["--layers", "layers.json", "--context", "cold"], "context (--context) is network or isolated", 2),
        (["--layers", "layers.json", "--input", "1x3"], "none is given", 2),
        (["--model", "net.py"], "name a function in it too, net.py:FACTORY", 2),
        (["--model", "none.py:make"], "there is no file none.py", 2),
        (["--model", "net.py:make", "--input", "big"], "--input is a shape", 2),
        (["--model", "net.py:make", "--input", "1x0x3"], "every size must be positive", 2),
        (["--model", "net.py:make", "--input", "2x3x9x9", "--layers", "layers.json"], "give --batch 2", 2),
        (["--layers", "layers.json", "-o", "missing/out"], "create the folder missing first", 1),
        (["--layers", "layers.json", "-o", "net.py"], "a file, not a folder", 1),
        (["--layers", "layers.json", "-o", "."], "holds other files and no bundle", 2),
        (["--layers", "layers.json", "--restart", "-o", "."], "holds other files and no bundle", 2),
    ],
)
def test_each_mistake_is_one_clear_line(folder: Path, arguments: list[str], problem: str, code: int) -> None:
    output = [] if "-o" in arguments else ["-o", "out"]
    done = command(folder, *arguments, *output, code=code)
    (text,) = done.stderr.splitlines()
    assert text.startswith("error: ")
    assert problem in text


@needs_coremltools
@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("net.py:leaves", "the factory failed: SystemExit: goodbye"),
        ("net.py:make", "it does not run on --input 1x7x12x12"),
    ],
)
def test_a_model_that_does_not_run_is_one_clear_line(folder: Path, model: str, problem: str) -> None:
    done = command(folder, "--model", model, "--input", "1x7x12x12", "-o", "out", "--jobs", "1", code=2)
    (text,) = done.stderr.splitlines()
    assert problem in text


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("net.py:absent", "there is no function absent"),
        ("net.py:fails", "the factory failed: ValueError: no weights here"),
        ("net.py:with_a_number", "a tensor, or a tuple of tensors"),
        ("net.py:not_a_module", "returned int, not a torch.nn.Module"),
        ("no_such_package.module:make", "it cannot be imported: ModuleNotFoundError"),
    ],
)
def test_loading_a_model_says_what_is_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: str, problem: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UsageError, match=problem) as caught:
        load_model(parse_model(model, "1x7x12x12", 0))
    assert "\n" not in str(caught.value)


@needs_coremltools
def test_other_frameworks_are_not_imported_and_can_be_afterwards(tmp_path: Path) -> None:
    script = (
        "import sys; from profiler._coreml._convert import import_coremltools\n"
        "import_coremltools(for_pytorch_only=True); assert 'sklearn' not in sys.modules\n"
        "import sklearn; assert sklearn.__version__"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(convert, "find_spec", lambda _: None)
    with pytest.raises(TargetUnavailableError, match=r"pip install -e '\.\[coreml\]'"):
        export_bundle(tmp_path / "out", options=make_options(), layers=[linear(4, 4, bias=True)])
    assert not (tmp_path / "out").exists()


def test_a_missing_native_library_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(convert, "find_spec", lambda _: Spec)
    with pytest.raises(TargetUnavailableError, match=r"native library.*pip install -e '\.\[coreml\]'"):
        convert.check_installed()


def test_a_full_disk_is_found_out_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(convert, "check_installed", lambda: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 20}))
    with pytest.raises(OSError, match="MiB are free; free some space"):
        export_bundle(tmp_path / "out", options=make_options(), layers=[linear(4096, 4096, bias=True)])


def test_help_imports_neither_torch_nor_coremltools(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['export-coreml', '--help']\n"
        "from profiler._cli.export_coreml import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'coremltools', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--deployment-target" in done.stdout


EVERY_KIND = [
    global_pool(8, input_size=(4, 4)),
    residual_add(8, activation=None, input_size=(4, 4)),
    *[conv_norm_act(4, 6, kernel_size=3, stride=2, activation=a, input_size=(8, 8)) for a in ("relu6", "hardswish")],
    chain((4, 8, 8), BatchNorm2d()),
    chain((4, 8, 8), MaxPool2d(kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))),
    Layer(inputs=((4, 8, 8), (4, 1, 1)), nodes=(Node(op=Mul(), args=(0, 1)),)),
    Layer(inputs=((4, 8, 8), (2, 8, 8)), nodes=(Node(op=Concat(), args=(0, 1)),)),
    chain((12, 8, 8), ChannelShuffle(groups=3)),
    chain((12, 8, 8), ChannelShuffle(groups=2), ChannelShuffle(groups=3), BatchNorm2d()),
    *[chain((4, 8, 8), Activation(kind=kind)) for kind in get_args(ActivationKind)],
]


@needs_coremltools
@pytest.mark.parametrize("context", ["network", "isolated"])
def test_every_conversion_holds_the_operators_of_its_layer(tmp_path: Path, context: str) -> None:
    result = export_bundle(tmp_path / "out", options=make_options(context=context), layers=EVERY_KIND, workers=1)
    assert [f"{f.name}: {f.message}" for f in result.manifest.failures] == []
    assert [entry.layer for entry in result.manifest.layers] == EVERY_KIND


def test_another_program_than_the_layer_is_refused() -> None:
    layer = conv_norm_act(4, 4, kernel_size=3, stride=1, activation="relu", input_size=(8, 8))
    plan = ProgramPlan("chain", 4, layer=layer)

    def check(**found: int) -> str | None:
        return convert._check_operators(plan, make_options(), found)

    assert check(conv=4, relu=4) is None
    assert check(conv=4, relu=4, batch_norm=4) is None
    assert check(conv=3, relu=4) == "3 × conv where 4 belong"
    assert check(conv=4, relu=4, cast=2) == "2 × cast where 0 belong"
    assert check(relu=1) == "0 × conv where 4 belong; 1 × relu where 4 belong"


def test_shapes_and_models_are_parsed_strictly() -> None:
    assert parse_input("1x3x224x224") == ((1, 3, 224, 224),)
    assert parse_input("1X3X8×8") == ((1, 3, 8, 8),)
    assert parse_input("1x3x8x8, 1x5") == ((1, 3, 8, 8), (1, 5))
    for text in ("", "x", "1x", "-1x3", "1.5", "1x3;4", "99999x99999x9"):
        with pytest.raises(UsageError):
            parse_input(text)
    assert parse_model("package.module:make", None, 0).place == "package.module"
    for text in ("", "make", ":make", "net.py:", "a b:c", "net.py:1x"):
        with pytest.raises(UsageError):
            parse_model(text, None, 0)


def test_each_program_stands_once() -> None:
    layers = [conv_norm_act(4, w, kernel_size=3, stride=1, activation="relu", input_size=(8, 8)) for w in range(1, 9)]
    plan = plan_layers(layers, make_options())
    assert len(set(plan.programs)) == len(plan.programs)
    assert sorted(map(hash, plan.programs)) == sorted(hash(p) for group in plan.groups for p in group)
    by_id = {p.made_from(make_options(), {})[:16] for p in plan.programs}
    assert len(by_id) == len(plan.programs)
    other = {p.made_from(make_options(seed=1), {})[:16] for p in plan.programs}
    assert not by_id & other

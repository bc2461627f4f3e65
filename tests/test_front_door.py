"""From a module to a number in Python: what the README shows, and what is said of what cannot be."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import msgspec
import onnx
import pytest
import torch
from _commands import run_here
from conftest import conv, curve_of
from torch import nn

from lut import LatencyTable, MissingLayerError, Network, NetworkLayer, UsageError
from lut.testing import check_space
from predictors import LatencyPredictor
from profiler import TargetSpec, TracedModule, load_space, profile, suggest_widths, sweep, trace
from profiler._live_module import held_module, taken_module
from profiler._options import converted, parse_settings
from profiler._sources import FileSource, LiveSource, key_of
from profiler._workload import parts_of
from search import ResNetCifar

FAKE = TargetSpec("profiler._fake:FakeTarget", {"sigma": 0.01})
SHORT: dict[str, Any] = {"threads": 1, "quick": True, "precision": 0.5, "time_budget_s": 4.0}


class Small(nn.Module):
    """Four layers, of which no two are alike."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3), nn.Conv2d(width, 2 * width, 3)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


class Answering(nn.Module):
    """What a caller's forward may give or ask for."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.linear = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> Any:
        if self.how == "dict":
            return {"logits": self.linear(x), "x": x}
        if self.how == "branch":
            return self.linear(x) if x.sum() > 0 else -self.linear(x)
        return self.linear(x)


INPUT = torch.zeros(2, 3, 16, 16)


def test_a_module_is_a_network_and_stays_as_it_was() -> None:
    module = Small().train()
    module.second.eval()
    network = trace(module, INPUT, name="mine")
    assert isinstance(network, Network)
    assert [item.name for item in network.layers] == ["first", "second", "mean", "head"]
    assert (module.training, module.second.training, module.head.training) == (True, False, True)
    assert trace(module, (INPUT,)).name == "Small"
    assert str(network).startswith("mine: 4 layers, 4 different, ")
    assert len(str(network)) < 400
    assert repr(network).startswith("<Network 'mine': 4 layers, ")


def test_what_the_readme_shows(tmp_path: Path) -> None:
    network, other = trace(Small(), INPUT, name="mine"), trace(Small(4), INPUT, name="other")
    table = profile(network, target="cpu", batch=2, output=tmp_path / "mine.json", **SHORT)
    whole = table.networks[0].end_to_end
    assert whole is not None
    assert table.networks[0].network == network
    assert table.latency_ms(network) == pytest.approx(sum(m.median_ms for m in table.values()))
    assert table.audit is not None
    assert table.setting.batch == 2
    assert LatencyTable.load(tmp_path / "mine.json").networks == table.networks
    with pytest.raises(MissingLayerError, match=r"other, layer first: this table does not hold .*3 more of its layers"):
        table.latency_ms(other)
    predictor = LatencyPredictor.fit(table)
    found = predictor.predict(network)
    assert found.ms == pytest.approx(whole.median_ms, rel=0.2)
    both = predictor.predict([network, other])
    assert [each.name for each in both] == ["mine", "other"]
    assert both[0] == found
    assert both[1] == predictor.predict(other)
    # What a table knows of a network is one, too.
    assert table.latency_ms(table.networks[0]) == table.latency_ms(network)
    for wrong in (Small(), nn.Sequential(nn.ReLU()), "mine"):
        for ask in (predictor.predict, table.latency_ms, table.sum_ms, predictor.latency_ms):
            with pytest.raises(UsageError, match=r"a lut\.Network is wanted"):
                ask(wrong)  # type: ignore[operator]
    with pytest.raises(UsageError, match="fitted to a LatencyTable, got str"):
        LatencyPredictor.fit("mine.json")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"a lut\.SearchSpace is compiled, got Network"):
        predictor.compile(network)  # type: ignore[arg-type]
    for shown in (table, predictor, found):
        assert 20 < len(str(shown)) < 600
        assert len(repr(shown)) < 300


def test_a_traced_module_is_run_as_it_is(tmp_path: Path) -> None:
    class Slow(Small):
        """Known to this function alone, and slow by its own code, which no layer has."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            import time

            if not torch.compiler.is_exporting():
                time.sleep(0.02)
            return super().forward(x)

    module = Slow()
    traced = TracedModule(module, INPUT, name="slow")
    assert "slow: Slow on 2×3×16×16, 4 layers" in repr(traced)
    table = profile(traced, output=tmp_path / "t.json", **SHORT)
    (measured,) = table.networks
    assert measured.end_to_end is not None
    # As it was timed: the correction of a busy machine moves a sleep too.
    assert measured.end_to_end.raw_median_ms > 20 > 4 * table.latency_ms(traced.network)
    assert table.setting.batch == 2


def test_a_module_is_carried_with_its_weights() -> None:
    module = Small()
    with held_module(module, (INPUT,), name="small") as descriptor:
        again, inputs = taken_module(descriptor)
        # Read twice: each process of a run takes it.
        assert torch.equal(taken_module(descriptor)[1][0], INPUT)
    assert not again.training
    assert torch.equal(again(*inputs), module.eval()(INPUT))
    module.open = (byte for byte in b"")  # type: ignore[assignment]
    with pytest.raises(UsageError, match=r"cannot be carried into the measuring process.*profiler\.trace"):
        held_module(module, (INPUT,), name="small").__enter__()


def test_a_run_is_taken_up_again_whatever_its_descriptor() -> None:
    keys = [key_of(LiveSource("net", descriptor, digest)) for descriptor, digest in ((3, "a"), (4, "a"), (3, "b"))]
    assert keys[0] == keys[1] != keys[2]


def test_onnx_runtime_runs_what_a_module_is_exported_to(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    traced = TracedModule(Small().train(), INPUT, name="my net/1")
    table = profile(traced, target="onnx", output=tmp_path / "t.json", **SHORT)
    # Exported where nobody's file lies, and gone with the run.
    assert [path.name for path in tmp_path.glob("*.onnx")] == []
    assert traced.module.training
    assert table.networks[0].name == "my net/1"
    assert table.networks[0].end_to_end is not None
    from profiler._onnx._file import export_model

    export_model(traced.module.eval(), traced.inputs, tmp_path / "mine.onnx")
    again = profile(tmp_path / "mine.onnx", target="onnx", **SHORT)
    assert set(again) == set(table)
    with pytest.raises(UsageError, match="runs on the target onnx, not on cpu"):
        profile(tmp_path / "mine.onnx")
    # A run is taken up again by the same script, whatever weights it draws.
    keys = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with parts_of([TracedModule(Small(), INPUT)], target="onnx", folder=tmp_path) as found:
            (source,) = (subject.source for subject in found.subjects)
            assert source is not None
            keys.append(key_of(source))
    assert keys[0] == keys[1]


def test_modules_that_would_be_one_file_are_two(tmp_path: Path) -> None:
    modules = [TracedModule(Small(width), INPUT, name=name) for width, name in ((4, "a/b"), (8, "a-b"), (16, "a b"))]
    with parts_of(modules, target="onnx", folder=tmp_path) as found:
        sources = [subject.source for subject in found.subjects]
        widths = []
        for source in sources:
            assert isinstance(source, FileSource)
            assert Path(source.path).is_relative_to(tmp_path)
            weights = onnx.load(source.path).graph.initializer
            widths.append(next(weight.dims[0] for weight in weights if weight.name == "first.weight"))
    assert widths == [4, 8, 16]


@pytest.mark.parametrize(
    ("given", "options", "problem"),
    [
        (list, {}, "nothing to measure"),
        (lambda: Network("none", ()), {}, "network 'none' has no layers"),
        (Small, {}, r"Small is a torch module: profile\(TracedModule\(module, inputs\)\)"),
        (lambda: nn.Sequential(nn.ReLU()), {}, "Sequential is a torch module"),
        (lambda: {"a": conv(8)}, {}, "got dict"),
        (lambda: conv(8), {"target": None}, "a target is given by name, or as a TargetSpec, got NoneType"),
        (lambda: conv(8), {"groups": -1}, "groups of widths are 0 or more"),
        (lambda: conv(8), {"restart": True}, "no output is given"),
        (lambda: "resnet-cifar", {}, r"'resnet-cifar' is no network: profiler\.load_space\(name\)"),
        (lambda: 3, {}, "got int"),
        (lambda: Path("net.pt"), {}, "is no ONNX file"),
        (lambda: [conv(8), object()], {}, "got object"),
        (lambda: TracedModule(Small(), INPUT), {"batch": 4}, "Small was traced with batch 2, and batch 4 is asked for"),
        (
            lambda: [TracedModule(Small(), INPUT), TracedModule(Small(), INPUT[:1], name="one")],
            {},
            "Small is of batch 2, and one of batch 1",
        ),
        (
            lambda: [trace(Small(), INPUT), trace(Small(4), INPUT)],
            {},
            "two networks are called 'Small'; give each a name",
        ),
        (lambda: conv(8), {"batchsize": 4}, r"has no option batchsize; it has batch, .*did you mean 'batch'\?"),
        (lambda: conv(8), {"provider": "cpu"}, "target cpu has no option provider"),
        (lambda: conv(8), {"time_budget": 5}, r"profile has no argument time_budget; did you mean 'time_budget_s'\?"),
        (lambda: conv(8), {"target": "onxx"}, r"unknown target 'onxx'; installed: .*did you mean 'onnx'\?"),
        (lambda: conv(8), {"audit": 3}, "audit is about a search space"),
        (lambda: conv(8), {"target_error": 0.1}, "target_error is about a search space"),
        (lambda: conv(8), {"target": FAKE, "batch": 3}, "a TargetSpec has its options in it: leave out batch"),
        (lambda: conv(8), {"target": FAKE, "context": "isolated"}, "leave out context"),
        (lambda: ResNetCifar(depth=8, expand=0.25), {"target_error": 7.0}, "a target error is a share"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(
    given: Any, options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    seen: list[object] = []
    with pytest.raises(UsageError, match=problem):
        profile(given(), progress=seen.append, reference=tmp_path / "r.json", **options)
    assert not seen
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("module", "inputs", "problem"),
    [
        (Answering("branch"), torch.ones(2, 6), "depends on its input's values"),
        (Small(), torch.zeros(2, 4, 16, 16), r"Small: it does not run on inputs of 2×4×16×16: RuntimeError: "),
        (Small(), {"x": INPUT}, "got a dict; wrap the module in one whose forward takes them in order"),
        (Small(), (), "give at least one input"),
        (Small(), [3, 4], "got list of int"),
        (Small(), torch.zeros(2, 3, 16, 16, device="meta"), "its inputs are on meta; move both to the CPU"),
        (Small().to("meta"), INPUT, "the module is on meta; move both to the CPU"),
        (Small(), torch.tensor(3.0), "does not run on inputs of"),
        (Small(), torch.zeros(0, 3, 16, 16), "the first input has a batch of 0"),
        ("my.pt", INPUT, "a torch.nn.Module is traced, got str"),
    ],
)
def test_what_cannot_be_traced_is_said(module: Any, inputs: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        trace(module, inputs)


def test_outputs_in_a_dict_are_a_network_like_any_other() -> None:
    assert [item.name for item in trace(Answering("dict"), torch.ones(2, 6)).layers] == ["linear"]


def test_layers_curves_and_networks_go_together(tmp_path: Path) -> None:
    curve = curve_of((8, 16, 24))
    network = Network("net", (NetworkLayer("a", conv(12)),))
    table = profile(
        [conv(40), curve, network], target=FAKE, quick=True, time_budget_s=20.0, reference=tmp_path / "r.json"
    )
    assert set(table) == {conv(40), *curve.layers, conv(12)}
    assert table.curves == (curve,)
    assert [known.name for known in table.networks] == ["net"]


def test_a_space_is_measured_with_some_of_its_networks(tmp_path: Path) -> None:
    space = ResNetCifar(depth=8, expand=0.125)
    options: dict[str, Any] = {"target": FAKE, "quick": True, "time_budget_s": 40.0, "reference": tmp_path / "r.json"}
    table = profile(space, audit=2, groups=1, **options)
    assert set(space.layers()) <= set(table)
    assert [known.name for known in table.networks] == ["resnet-cifar 1", "resnet-cifar 2"]
    assert profile(space, groups=1, **options).networks == ()


def test_a_spec_of_a_target_is_held_against_what_is_measured() -> None:
    class Sorting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sort(x, dim=1).values

    network = trace(Sorting(), torch.zeros(2, 6), name="sorting")
    spec = TargetSpec("profiler:CpuTarget", {"threads": 1})
    table = profile(network, target=spec, quick=True, precision=0.5, time_budget_s=3.0)
    assert table.setting.batch == 2
    assert not table.failures
    with pytest.raises(UsageError, match="traced with batch 2, and batch 3"):
        profile(network, target=TargetSpec("profiler:CpuTarget", {"batch": 3}))
    with pytest.raises(UsageError, match=r"no option 'thread'; it has .*did you mean 'threads'\?"):
        profile(network, target=TargetSpec("profiler:CpuTarget", {"thread": 1}))


def test_a_modules_data_type_is_its_own() -> None:
    assert TracedModule(Small().to(torch.bfloat16), INPUT.to(torch.bfloat16)).dtype == "bfloat16"
    with pytest.raises(UsageError, match="its weights are of float64; targets run float32"):
        TracedModule(Small().double(), INPUT.double())
    mixed = Small()
    mixed.head.half()
    with pytest.raises(UsageError, match="its weights are of float16, float32, and a table is of one"):
        TracedModule(mixed, INPUT)


def test_tracing_keeps_its_hands_off_the_inputs() -> None:
    class Adding(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.add_(1).sum(1)

    x = torch.zeros(2, 6)
    trace(Adding(), x)
    assert not x.any()


@pytest.mark.parametrize("name", ["", "  ", 3])
def test_a_name_is_a_text(name: Any) -> None:
    with pytest.raises(UsageError, match="a network's name is a text"):
        trace(Small(), INPUT, name=name)


def test_batches_are_fixed_by_layers_that_were_traced_with_one(tmp_path: Path) -> None:
    class Sorting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sort(x, dim=1).values

    two, three = (trace(Sorting(), torch.zeros(batch, 6), name=f"of {batch}") for batch in (2, 3))
    with parts_of([two], target="cpu", folder=tmp_path) as found:
        assert found.batch == 2
    with pytest.raises(UsageError, match="of 2 was traced with batch 2, and batch 3 is asked for"):
        profile(two, batch=3)
    # What fixes it is named, not what comes first.
    with pytest.raises(UsageError, match="of 2 was traced with batch 2, and batch 3 is asked for"):
        profile([Network("of any", (NetworkLayer("a", conv(4)),)), two], batch=3)
    with pytest.raises(UsageError, match="of 2 is of batch 2, and of 3 of batch 3: profile them one after the other"):
        profile([two, three])


# Options of plug-ins.


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def with_options(  # type: ignore[no-untyped-def]
    *,
    depth: int = 3,
    width: float = 1.0,
    names: tuple[int, ...] = (),
    deep: bool = False,
    most: int | None = 3,
    ratio: Optional[float] = None,  # noqa: UP045 - as older code has it
    title: str | None = None,
    pair: tuple[int, str] = (1, "a"),
    stages: list[list[int]] | None = None,
    shares: Sequence[float] = (),
    kind: Literal["all", "same", 3] = "all",
    either: int | Literal["auto"] = "auto",
    share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.5,
    colour: Colour = Colour.RED,
    many: Annotated[list[int], msgspec.Meta(min_length=1, max_length=2)] = [1],  # noqa: B006 - never called
    called: Callable[[], None] | None = None,
    file: Path | None = None,
    place: str | os.PathLike[str] | None = None,
    free=None,
) -> None:
    """Take one of each."""


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("depth", "32", 32),
        ("depth", " -3 ", -3),
        ("width", "5e-1", 0.5),
        ("names", "1, 5", (1, 5)),
        ("names", "[1, 5]", (1, 5)),
        ("deep", "true", True),
        ("deep", "Off", False),
        ("most", "none", None),
        ("most", "7", 7),
        ("ratio", "None", None),
        ("ratio", "2", 2.0),
        ("title", "none", None),
        ("title", "12", "12"),
        ("pair", "3,b", (3, "b")),
        ("stages", "[[1,2],[3]]", [[1, 2], [3]]),
        ("stages", "none", None),
        ("shares", "0.5,1", [0.5, 1.0]),
        ("kind", "same", "same"),
        ("kind", "3", 3),
        ("either", "auto", "auto"),
        ("either", "4", 4),
        ("share", "0", 0.0),
        ("colour", "blue", Colour.BLUE),
        ("many", "1,2", [1, 2]),
        ("names", "[]", ()),
        ("file", "a b/c.txt", Path("a b/c.txt")),
        ("file", "none", None),
        ("place", "a/b", "a/b"),
        ("place", "none", None),
        ("free", "as it is", "as it is"),
    ],
)
def test_options_are_converted_to_what_a_factory_takes(option: str, text: str, value: object) -> None:
    found = converted("it", with_options, {option: text})
    assert found == {option: value}
    assert type(found[option]) is type(value)


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("depth", "much", "expected a whole number, got 'much'"),
        ("depth", "3.5", "expected a whole number, got '3.5'"),
        ("depth", "none", "expected a whole number, got 'none'"),
        ("width", "nan", "expected a number, got 'nan'"),
        ("names", "1,b", "expected a whole number, got 'b'"),
        ("names", "1,,2", "expected a whole number, got ''"),
        ("names", "[1, 2", "expected a list with commas, each a whole number, got '[1, 2'"),
        ("names", "", "expected a list with commas, each a whole number, got ''; [] is the empty list"),
        ("stages", "", "expected a list of lists, such as [[1, 2], [3]] or none, got ''; [] is the empty list"),
        ("file", "", "expected a path or none, got ''"),
        ("deep", "maybe", "expected true or false, got 'maybe'"),
        ("most", "few", "expected a whole number or none, got 'few'"),
        ("pair", "3", "expected 2 values with commas (a whole number, a text), got '3'"),
        (
            "stages",
            "1,2",
            "expected a list of lists, such as [[1, 2], [3]] or none, got '1,2'",
        ),
        ("kind", "alll", "expected one of 3, all, same, got 'alll'; did you mean 'all'?"),
        ("either", "auto1", "expected a whole number or one of auto, got 'auto1'"),
        ("share", "1", "expected a number (at least 0, below 1), got '1'"),
        ("colour", "rde", "expected one of red, blue, got 'rde'; did you mean 'red'?"),
        ("many", "1,2,3", "expected 1 to 2 values, got 3"),
    ],
)
def test_options_that_do_not_fit_say_what_does(option: str, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        converted("it", with_options, {option: text})
    assert str(caught.value) == f"--set {option}={text}: {said}"


def test_options_are_said_in_our_words() -> None:
    with pytest.raises(UsageError, match="--set called: it takes no text for it; make it in Python"):
        converted("it", with_options, {"called": "f"})

    def unreadable(*, x: int = 3) -> None:
        """Have an annotation that is gone."""

    unreadable.__annotations__["x"] = "Nowhere"
    with pytest.raises(UsageError, match="annotations that cannot be read"):
        converted("it", unreadable, {"x": "1"})
    for texts, problem in (({"dept": "3"}, r"it has no option 'dept'; it has depth, .*did you mean 'depth'\?"),):
        with pytest.raises(UsageError, match=problem):
            converted("it", with_options, texts)
    assert parse_settings(["a-b=c=d", "space.depth=3"]) == {"a_b": "c=d", "space.depth": "3"}
    for wrong, problem in ((["depth"], "is KEY=VALUE"), (["=3"], "is KEY=VALUE"), (["a=1", "a=2"], "given twice")):
        with pytest.raises(UsageError, match=problem):
            parse_settings(wrong)


def test_a_space_takes_options_of_its_own() -> None:
    space = load_space("resnet-cifar", depth=32, expand=0.5)
    assert isinstance(space, ResNetCifar)
    assert (space.depth, space.expand) == (32, 0.5)
    assert "made with expand 0.5, depth 32, depths all, classes 10" in str(space)
    assert str(load_space("nas-bench-macro")) == "nas-bench-macro: 8 decisions (8 of operator), 6,561 vectors"
    assert repr(space) == "<ResNetCifar resnet-cifar: 34 decisions>"
    with pytest.raises(UsageError, match=r"space rcnet-cifar has no option 'expand'; it has positions, types"):
        load_space("rcnet-cifar", expand=2.0)
    with pytest.raises(UsageError, match=r"unknown space 'resnet_cifr'; .*did you mean 'resnet-cifar'\?"):
        load_space("resnet_cifr")


@pytest.mark.parametrize("name", ["resnet-cifar", "resnet-cifar-bottleneck", "rcnet-cifar", "nas-bench-macro"])
def test_our_own_spaces_keep_their_promises(name: str) -> None:
    options: dict[str, Any] = {"expand": 0.25} if name.startswith("resnet") else {}
    if name == "resnet-cifar":
        options["depth"] = 20
    check_space(load_space(name, **options), samples=6)


def test_commands_pass_options_on(tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        return str(run_here(tmp_path, *arguments, code=2).stderr)

    profiled = ("profile-device", "--space", "resnet-cifar")
    assert "got depth 33" in refused(*profiled, "--set", "depth=33")
    text = refused(*profiled, "--set", "dept=32")
    assert "--set dept: there is no such option; space resnet-cifar has expand, depth, depths, classes" in text
    assert "did you mean 'depth'?" in text
    assert "leave it away" in refused("profile-device", "--space", "rcnet-cifar", "--expand", "2")
    assert "it has a flag of its own, --memory-format" in refused(*profiled, "--set", "target.memory-format=x")
    # What a target derives from the layers is nobody's to set.
    text = refused(*profiled, "--set", "chain=4")
    assert "there is no such option" in text
    assert "target cpu has none (and the flags --batch, --dtype, --threads, " in text
    assert "kernel_cache" not in text
    assert "did you mean '--threads'?" in refused(*profiled, "--set", "thread=4")
    assert "--set is KEY=VALUE" in refused(*profiled, "--set", "depth")
    assert "about a --space or a --sweep" in refused("profile-device", "--model", "my.py:make", "--expand", "2")
    described = ("search-architecture", "describe", "resnet-cifar", "random", "--json")
    deep = {depth: json.loads(run_here(tmp_path, *described, "--set", f"depth={depth}").stdout) for depth in (8, 110)}
    assert len(deep[8]["layers"]) < 20 < len(deep[110]["layers"])


# Widths.


class Residual(nn.Module):
    """A stem, two blocks that add to it, a depthwise pair, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.inner = nn.ModuleList([nn.Conv2d(12, 20, 3, padding=1) for _ in range(2)])
        self.outer = nn.ModuleList([nn.Conv2d(20, 12, 3, padding=1) for _ in range(2)])
        self.point, self.depth = nn.Conv2d(12, 24, 1), nn.Conv2d(24, 24, 3, groups=24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = torch.relu(x + outer(torch.relu(inner(x))))
        return self.head(self.depth(torch.relu(self.point(x))).mean((2, 3)))


def test_widths_that_are_tied_are_one_row_with_their_gains_summed(tmp_path: Path) -> None:
    network = trace(Residual(), INPUT, name="residual")
    curves = sweep(network)
    assert {curve.name for curve in curves} == {"stem", "inner.0", "outer.0", "point", "depth"}
    table = profile(
        [network, *curves],
        target=TargetSpec("profiler._fake:FakeTarget", {"sigma": 0.002, "batch": 2}),
        time_budget_s=60.0,
        reference=tmp_path / "r.json",
    )
    rows = suggest_widths(network, table)
    tied = {row.groups: row for row in rows}
    residual = ("stem", "outer.0", "outer.1")
    assert set(tied) == {(residual,), (("inner.0",), ("inner.1",)), (("point", "depth"),)}
    assert not tied[(("point", "depth"),)].ties_known  # the mean behind it is kept as PyTorch has it
    shared = tied[(residual,)]
    assert (shared.count, shared.channels, shared.ties_known, shared.unmeasured) == (3, 12, True, ())
    layers = {item.name: item.layer for item in network.layers}
    by_hand = [table.curve_of(layers[name]) for name in shared.modules]
    for width, ms in zip(shared.widths, shared.widths_ms, strict=True):
        assert ms == pytest.approx(sum(curve.ms(width) for curve in by_hand))
    assert shared.narrower is not None
    assert shared.narrower.channels == 8
    assert shared.narrower.gain_ms == pytest.approx(shared.ms - shared.widths_ms[shared.widths.index(8)])
    assert [row.narrower.gain_ms for row in rows if row.narrower] == sorted(
        (row.narrower.gain_ms for row in rows if row.narrower), reverse=True
    )
    with pytest.raises(UsageError, match="holds no sweep of other's layers"):
        suggest_widths(trace(Small(), INPUT, name="other"), table)
    for wrong in (Residual(), "residual"):
        with pytest.raises(UsageError, match=r"a lut\.Network is wanted, got .*trace\(module, inputs\)"):
            suggest_widths(wrong, table)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"a lut\.Network is wanted"):
            sweep(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="from a LatencyTable, got str"):
        suggest_widths(network, "t.json")  # type: ignore[arg-type]
    # As the command's sweep: no groups of widths are raced.
    with parts_of([network, *curves], target="cpu", folder=tmp_path) as found:
        assert found.swept
    with parts_of([network, curve_of((8, 16))], target="cpu", folder=tmp_path) as found:
        assert not found.swept
    # What must change too, and was not measured, is said.
    assert "more must change with it" in str(tied[(("point", "depth"),)])
    assert "more must change" not in str(shared)


def test_a_tables_curve_is_looked_up_by_width(tmp_path: Path) -> None:
    curve = curve_of((8, 16, 24))
    table = profile(
        [curve, conv(5, size=7)], target=FAKE, quick=True, time_budget_s=20.0, reference=tmp_path / "r.json"
    )
    found = table.curve_of(conv(16))
    assert found.channels == (8, 16, 24)
    assert found.ms(16) == table[conv(16)].median_ms == found[16].median_ms
    assert "3 widths, 8 … 24" in repr(found)
    for width, beside in ((12, "8 and 16"), (4, "8"), (99, "24")):
        with pytest.raises(
            MissingLayerError, match=f"{width} channels were not measured; the nearest that were: {beside}"
        ):
            found.ms(width)
    # Another size, or another input: another layer's latencies are not given in its place.
    for other in (conv(5, size=7), conv(16, channels=64)):
        with pytest.raises(MissingLayerError, match="no sweep over the widths of conv"):
            table.curve_of(other)
    assert table.curve_of(conv(17)).channels == (8, 16, 24)

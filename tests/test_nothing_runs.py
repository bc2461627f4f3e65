"""Static proof that no file's content becomes code: what could do that stands in few places, each with its reason.

A place is a file, a function and a construct. Whoever adds one has it reviewed and writes here why no file of somebody
else's reaches it; whoever removes one removes it here too.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lut", "predictors", "profiler", "search")

# Builtins and functions that run, compile or import what they are given, by their last name; by their whole name where
# the last one says too little; and modules that do it at loading. A mention is enough: what is mentioned can be called
# by another name.
RUNNING_BUILTINS = frozenset({"eval", "exec", "compile", "__import__", "execfile"})
RUNNING_METHODS = frozenset(
    {"import_module", "exec_module", "load_module", "spec_from_file_location", "run_path", "run_module"}
    | {"popen", "find_class", "GraphModule", "FunctionType", "CodeType", "load_library", "load_inline", "CDLL"}
    | {"literal_eval", "python_code", "fromfile", "memmap", "register_custom_ops_library", "load_from_string"}
    | {"CompilationUnit"}
)
RUNNING_FUNCTIONS = re.compile(
    r"(torch(\.jit|\.hub|\.serialization)?|numpy)\.load"
    r"|os\.(system|startfile|(exec|spawn|posix_spawn)\w*)"
    r"|subprocess\.get(status)?output|asyncio\.create_subprocess_shell"
    rf"|(builtins|importlib)\.({'|'.join(RUNNING_BUILTINS)})"
)
LOADING_MODULES = frozenset(
    {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "joblib", "runpy", "code"}
)
# Modules that are meant by these names wherever they stand, imported there or not.
FOREIGN = {
    **{name: name for name in ("torch", "onnx", "onnxruntime", "coremltools", "numpy", "os", "sys", "builtins")},
    "np": "numpy",
    "ort": "onnxruntime",
    "ct": "coremltools",
    "importlib": "importlib",
}
# They reach an attribute by a name that may stand in no source.
BY_NAME = frozenset({"getattr", "hasattr", "setattr"})
GETTERS = frozenset({"operator.attrgetter", "operator.methodcaller"})
DICTIONARIES = frozenset({"__dict__", "__getattribute__", "__getattr__"})

BOOT = "a line of our own code, into which nothing is put that was read"
OURS = "our own module's name, written in our code"
INSTALLED = "an installed package's entry point or module: whoever installs a package runs it anyway"
CHECKED_OPTION = "an option that was compared with a list"
REGISTERED = "a name that PyTorch's dispatcher has registered, in a namespace of an allow-list, with a harmless schema"
LIVE = "a module of the caller's own process: it goes through a file without a name that only its child inherits"
REVIEWED: dict[tuple[str, str, str], str] = {
    ("profiler/_live_module.py", "held_module", "cloudpickle"): LIVE,
    ("profiler/_live_module.py", "taken_module", "cloudpickle"): LIVE,
    ("lut/_lazy.py", "get", "import_module"): OURS,
    ("profiler/_onnx/__init__.py", "__getattr__", "import_module"): OURS,
    ("search/__init__.py", "__getattr__", "import_module"): OURS,
    ("search/_accuracy/_open.py", "_code_text", "CodeType"): "an annotation: a function's code is read, not run",
    ("search/_accuracy/_open.py", "_constant", "CodeType"): "likewise",
    ("profiler/_worker.py", "_registered_by", "import_module"): "torch._dynamo, by a constant",
    ("profiler/_coreml/_convert.py", "import_coremltools", "import_module"): "coremltools, by a constant",
    ("profiler/_model.py", "import_place", "import_module"): "what the user names on the command line, in a child",
    ("profiler/_model.py", "import_place", "exec_module"): "what the user names on the command line, in a child",
    ("profiler/_model.py", "import_place", "spec_from_file_location"): "the user's own file, in a child",
    ("profiler/_target.py", "target_factory", "import_module"): INSTALLED,
    ("profiler/_child.py", "die_with", "CDLL"): "the C library that this process runs in already",
    ("profiler/_cpu.py", "_captured_stdout", "CDLL"): "the C library that this process runs in already",
    ("profiler/_process.py", "keep_freed_memory", "CDLL"): "the C library that this process runs in already",
    ("profiler/_cuda_driver.py", "_nodes_of", "CDLL"): "the CUDA libraries of this process, by a constant",
    ("profiler/_cuda_driver.py", "_open_nvml", "import_module"): "pynvml, by a constant",
    ("profiler/_cpu.py", "_compiled", "FunctionType"): "a copy of a function that stands there, for torch.compile",
    ("profiler/_coreml/_target.py", "_connect", "import_module"): "a module of coremltools, by a constant",
    ("profiler/_coreml/_target.py", "_load", "import_module"): "a module of coremltools, by a constant",
    ("profiler/_onnx/_target.py", "_import_runtime", "__import__"): "onnx and onnxruntime, by constants",
    ("profiler/_onnx/_original.py", "open_session", "getattr(ort.GraphOptimizationLevel, …)"): "by a constant",
    ("profiler/_coreml/_convert.py", "_convert_options", "getattr(coremltools.target, …)"): CHECKED_OPTION,
    ("profiler/_coreml/_convert.py", "_convert_options", "getattr(coremltools.precision, …)"): CHECKED_OPTION,
    ("profiler/_dtypes.py", "torch_dtype", "getattr(torch, …)"): "compared with a list before",
    ("profiler/_coreml/_target.py", "_load", "getattr(self._coremltools.ComputeUnit, …)"): CHECKED_OPTION,
    ("profiler/_child.py", "refusal", "vars(errors)"): "our own errors: what is none of their classes is not taken",
    ("profiler/_child.py", "run_task", "-c"): BOOT,
    ("profiler/_worker.py", "__init__", "-c"): BOOT,
    ("profiler/_coreml/_export.py", "__init__", "-c"): BOOT,
    ("search/_accuracy/_training_worker.py", "__init__", "-c"): BOOT,
    ("profiler/_subgraph.py", "function_of", "getattr(place, …)"): REGISTERED,
    ("profiler/_subgraph.py", "function_of", "getattr(torch.ops, …)"): REGISTERED,
    ("profiler/_subgraph.py", "function_of", "getattr(getattr(torch.ops, namespace), …)"): REGISTERED,
    ("profiler/_subgraph.py", "function_of", "getattr(getattr(getattr(torch.ops, namespace), packet), …)"): REGISTERED,
}
# How often a place has its construct, where that is more than once.
TIMES: dict[tuple[str, str, str], int] = {
    ("profiler/_coreml/_convert.py", "import_coremltools", "import_module"): 2,
    ("profiler/_coreml/_convert.py", "_convert_options", "getattr(coremltools.target, …)"): 2,
}


class _Scope(NamedTuple):
    """Where a node stands: the innermost function, the parameters of all around it, and what they assign besides."""

    function: str = ""
    parameters: frozenset[str] = frozenset()
    assigned: frozenset[str] = frozenset()


Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def _inside(function: Function, outer: _Scope) -> _Scope:
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return _Scope(
        outer.function if isinstance(function, ast.Lambda) else function.name,
        outer.parameters | {argument.arg for argument in given if argument is not None},
        outer.assigned | stored,
    )


def _nodes(tree: ast.Module) -> Iterator[tuple[ast.AST, _Scope, ast.AST | None]]:
    """Yield every node with where it stands, and what it is a part of."""
    waiting: list[tuple[ast.AST, _Scope, ast.AST | None]] = [(tree, _Scope(), None)]
    while waiting:
        node, scope, parent = waiting.pop()
        yield node, scope, parent
        inner = _inside(node, scope) if isinstance(node, Function) else scope
        waiting += [(child, inner, node) for child in ast.iter_child_nodes(node)]


def _imported(tree: ast.Module) -> dict[str, str]:
    """Return what names of a file mean: imports, and variables that stand for parts of what is imported."""
    known = dict(FOREIGN)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {item.asname: item.name for item in node.names if item.asname}
            known |= {item.name.split(".")[0]: item.name.split(".")[0] for item in node.names if not item.asname}
        elif isinstance(node, ast.ImportFrom):
            known |= {item.asname or item.name: f"{node.module or '.'}.{item.name}" for item in node.names}
    for node in ast.walk(tree):
        value, targets = None, []
        if isinstance(node, (ast.For, ast.comprehension)):
            value, targets = node.iter, [node.target]
        elif isinstance(node, ast.Assign):
            value, targets = node.value, node.targets
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            value, targets = node.value, [node.target]
        for part in value.elts if isinstance(value, (ast.Tuple, ast.List)) else [value]:
            meant = None if part is None else _meaning(part, known, frozenset())
            if meant is not None:
                known |= {target.id: meant for target in targets if isinstance(target, ast.Name)}
    return known


def _meaning(node: ast.AST, known: dict[str, str], parameters: frozenset[str]) -> str | None:
    """Return the whole name of a part of what is imported: ``torch.ops.aten``; ``None`` of all else."""
    if isinstance(node, ast.Name):
        # A parameter hides an import; one with a module's usual name is that module.
        return (FOREIGN if node.id in parameters else known).get(node.id)
    if isinstance(node, ast.Attribute):
        outer = _meaning(node.value, known, parameters)
        # Of an object that holds a module, its attribute is named after that.
        return f"{outer}.{node.attr}" if outer is not None else FOREIGN.get(node.attr.lstrip("_"))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr" and node.args[1:]:
        outer = _meaning(node.args[0], known, parameters)
        name = str(node.args[1].value) if isinstance(node.args[1], ast.Constant) else "…"
        return None if outer is None else f"{outer}.{name}"
    return None


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.AST, str]]:
    """Yield what could run something, with the node where it stands and the name of its function."""
    known = _imported(tree)
    for node, scope, parent in _nodes(tree):
        for construct in _constructs(node, scope, parent, known):
            yield construct, node, scope.function


def _constructs(node: ast.AST, scope: _Scope, parent: ast.AST | None, known: dict[str, str]) -> Iterator[str]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names]
        yield from (module for module in modules if module.split(".")[0] in LOADING_MODULES)
        if isinstance(node, ast.ImportFrom) and any(item.name == "*" for item in node.names):
            yield f"from {node.module} import *"
    elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
        yield from _mentions(node, scope, parent, known)
    elif isinstance(node, (ast.List, ast.Tuple)):
        if any(_is_constant(item, "-c") for item in node.elts):
            yield "-c"
    elif isinstance(node, ast.Call):
        for word in ("shell", "allow_pickle"):
            if any(given.arg == word and not _is_constant(given.value, False) for given in node.keywords):
                yield word
        yield from _lookups(node, scope, known)


def _mentions(
    node: ast.Name | ast.Attribute, scope: _Scope, parent: ast.AST | None, known: dict[str, str]
) -> Iterator[str]:
    meant = _meaning(node, known, scope.parameters)
    own = node.id if isinstance(node, ast.Name) else node.attr
    last = own if meant is None else meant.rpartition(".")[2]
    called = isinstance(parent, ast.Call) and parent.func is node
    local = isinstance(node, ast.Name) and own in scope.parameters | scope.assigned
    if isinstance(node, ast.Name) and own in RUNNING_BUILTINS | (frozenset() if called else BY_NAME) and not local:
        yield own
    elif meant is not None and RUNNING_FUNCTIONS.fullmatch(meant):
        yield meant
    elif (last in RUNNING_METHODS and not local) or (meant in GETTERS and not _names_all(parent if called else None)):
        yield last
    elif isinstance(node, ast.Attribute) and own in DICTIONARIES and _meaning(node.value, known, scope.parameters):
        yield f"{ast.unparse(node.value)}.{own}"


def _names_all(call: ast.AST | None) -> bool:
    """Whether it is a call whose arguments all stand there as constants."""
    return isinstance(call, ast.Call) and all(isinstance(item, ast.Constant) for item in call.args)


def _lookups(call: ast.Call, scope: _Scope, known: dict[str, str]) -> Iterator[str]:
    """Yield a look-up by name in what is imported, where the name does not stand there."""
    if not isinstance(call.func, ast.Name) or not call.args or _meaning(call.args[0], known, scope.parameters) is None:
        return
    shown = ast.unparse(call.args[0])
    if call.func.id == "vars":
        yield f"vars({shown})"
    elif call.func.id in BY_NAME and not all(isinstance(item, ast.Constant) for item in call.args[1:2]):
        yield f"{call.func.id}({shown}, …)"


def _is_constant(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is type(value) and node.value == value


def _found() -> dict[tuple[str, str, str], list[int]]:
    """Return by place the lines where it is found."""
    places: dict[tuple[str, str, str], list[int]] = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for construct, node, function in _calls(tree):
                place = (file.relative_to(ROOT).as_posix(), function, construct)
                places.setdefault(place, []).append(getattr(node, "lineno", 0))
    return places


def test_what_could_run_something_is_reviewed() -> None:
    found = _found()
    unknown = [
        f"{file}:{line} {function}: {construct}"
        for (file, function, construct), lines in found.items()
        for line in sorted(lines)
        if len(lines) > (TIMES.get((file, function, construct), 1) if (file, function, construct) in REVIEWED else 0)
    ]
    assert not unknown, "new places that could run, import or look up what a file says:\n" + "\n".join(unknown)
    counted = Counter({place: len(lines) for place, lines in found.items()})
    gone = sorted(place for place in REVIEWED | TIMES if counted[place] < TIMES.get(place, 1))
    assert not gone, "reviewed places that are gone"


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)",
        "exec(x)",
        "compile(x, 'a', 'exec')",
        "import pickle",
        "from yaml import load",
        "torch.load(x)",
        "torch.jit.load(x)",
        "np.load(x)",
        "np.array(x, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=y)",
        "importlib.import_module(x)",
        "fx.GraphModule(root, graph)",
        "types.FunctionType(code, {})",
        "getattr(torch, x)",
        "getattr(torch.ops.aten, x)",
        "getattr(getattr(torch, 'ops'), x)",
        "os.system(x)",
        "options.register_custom_ops_library(x)",
        "f = eval; f(x)",
        "import builtins; builtins.eval(x)",
        "from builtins import eval as f; f(x)",
        "from torch import load; load(x)",
        "import torch as t; t.load(x)",
        "import torch as t; f = t.load",
        "from torch import jit; jit.load(x)",
        "from numpy import load; load(x)",
        "torch.serialization.load(x)",
        "from importlib import import_module as im; im(x)",
        "import importlib as i; f = i.import_module",
        "importlib.__import__(x)",
        "from os import system; system(x)",
        "os.execve(x, y, z)",
        "os.posix_spawn(x, y, z)",
        "import subprocess; subprocess.getoutput(x)",
        "import subprocess; subprocess.run(['sh', '-c', x])",
        "import subprocess, sys; subprocess.run((sys.executable, '-c', x))",
        "import anything; getattr(anything, x)",
        "from anything import part; getattr(part.of_it, x)",
        "for place in (torch, torch.Tensor): getattr(place, x)",
        "getattr(self._coremltools.target, x)",
        "import functools; functools.reduce(getattr, x, torch)",
        "import operator; operator.attrgetter(x)(torch)",
        "from operator import methodcaller as m; m(x)(torch)",
        "torch.__dict__[x]",
        "vars(torch)[x]",
        "def f(torch): return getattr(torch, x)",
        "torch.__getattribute__(x)",
        "torch.jit.CompilationUnit(x)",
        "from torch import *",
    ],
)
def test_the_proof_sees_each_construct(source: str) -> None:
    assert list(_calls(ast.parse(source)))


def test_the_proof_counts_them() -> None:
    found = [place for place, _, _ in _calls(ast.parse("def f(x):\n    eval(x)\n    eval(x)"))]
    assert found == ["eval", "eval"]


@pytest.mark.parametrize(
    "source",
    [
        "re.compile(x)",
        "predictor.compile(space)",
        "getattr(torch, 'int8')",
        "x.eval()",
        "def f(compile): return compile",
        "import space\ndef f(space, name): return getattr(space, name)",
        "from operator import attrgetter; sorted(x, key=attrgetter('ms'))",
        "vars(x)",
        "json.load(x)",
    ],
)
def test_and_nothing_else(source: str) -> None:
    assert not list(_calls(ast.parse(source)))

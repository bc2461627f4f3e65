"""Static proof that no file's content becomes code: what could do that stands in few places, each with its reason.

A place is a file, a function and a construct. Whoever adds one has it reviewed and writes here why no file of somebody
else's reaches it; whoever removes one removes it here too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lut", "predictors", "profiler", "search")

# Builtins and functions that run, compile or import what they are given, by their last name; modules that do it at
# loading; and modules whose attributes are reached by a name that stands in no source.
RUNNING_BUILTINS = frozenset({"eval", "exec", "compile", "__import__", "execfile"})
RUNNING_METHODS = frozenset(
    {"import_module", "exec_module", "load_module", "spec_from_file_location", "run_path", "run_module"}
    | {"popen", "find_class", "GraphModule", "FunctionType", "CodeType", "load_library", "load_inline", "CDLL"}
    | {"literal_eval", "python_code", "fromfile", "memmap", "register_custom_ops_library", "load_from_string"}
)
LOADING_MODULES = frozenset(
    {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "joblib", "runpy", "code"}
)
LOADERS = frozenset(
    {("torch", "load"), ("np", "load"), ("numpy", "load"), ("torch.jit", "load"), ("torch.hub", "load")}
)
FOREIGN = frozenset(
    {"torch", "onnx", "ort", "onnxruntime", "coremltools", "ct", "np", "numpy", "os", "sys", "builtins"}
)

OURS = "our own module's name, written in our code"
INSTALLED = "an installed package's entry point or module: whoever installs a package runs it anyway"
CHECKED_OPTION = "an option that was compared with a list"
REGISTERED = "a name that PyTorch's dispatcher has registered, in a namespace of an allow-list, with a harmless schema"
REVIEWED: dict[tuple[str, str, str], str] = {
    ("profiler/__init__.py", "__getattr__", "import_module"): OURS,
    ("profiler/_coreml/__init__.py", "__getattr__", "import_module"): OURS,
    ("profiler/_onnx/__init__.py", "__getattr__", "import_module"): OURS,
    ("predictors/__init__.py", "__getattr__", "import_module"): OURS,
    ("search/__init__.py", "__getattr__", "import_module"): OURS,
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
    ("profiler/_subgraph.py", "function_of", "getattr(torch.ops, …)"): REGISTERED,
    ("profiler/_subgraph.py", "function_of", "getattr(getattr(torch.ops, namespace), …)"): REGISTERED,
    ("profiler/_subgraph.py", "function_of", "getattr(getattr(getattr(torch.ops, namespace), packet), …)"): REGISTERED,
}


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield what could run something, with the node where it stands."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            for module in modules:
                if module.split(".")[0] in LOADING_MODULES:
                    yield module, node
        elif isinstance(node, ast.Attribute) and (ast.unparse(node.value), node.attr) in LOADERS:
            yield ast.unparse(node), node
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in RUNNING_BUILTINS | RUNNING_METHODS:
            yield called.id, node
        elif isinstance(called, ast.Attribute) and called.attr in RUNNING_METHODS:
            yield called.attr, node
        elif ast.unparse(called) in ("os.system", "os.execv", "os.execvp", "os.spawnv"):
            yield ast.unparse(called), node
        if any(word.arg == "shell" and not _is_constant(word.value, False) for word in node.keywords):
            yield "shell", node
        if any(word.arg == "allow_pickle" and not _is_constant(word.value, False) for word in node.keywords):
            yield "allow_pickle", node
        if isinstance(called, ast.Name) and called.id in ("getattr", "hasattr", "setattr") and len(node.args) > 1:
            root = _root(node.args[0])
            named = isinstance(node.args[1], ast.Constant)
            if isinstance(root, ast.Name) and root.id in FOREIGN and not named:
                yield f"{called.id}({ast.unparse(node.args[0])}, …)", node


def _root(node: ast.AST) -> ast.AST:
    """Return what an expression of attributes begins with: ``torch`` of ``torch.ops.aten``, and through ``getattr``."""
    while True:
        if isinstance(node, ast.Attribute):
            node = node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            node = node.args[0]
        else:
            return node


def _is_constant(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _functions(tree: ast.Module) -> dict[int, str]:
    """Return by a node's identity the innermost function that it stands in, ``""`` where none."""
    found: dict[int, str] = {}
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, name = waiting.pop()
        found[id(node)] = name
        inner = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else name
        waiting += [(child, inner) for child in ast.iter_child_nodes(node)]
    return found


def _found() -> dict[tuple[str, str, str], int]:
    places = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            functions = _functions(tree)
            for construct, node in _calls(tree):
                place = (file.relative_to(ROOT).as_posix(), functions[id(node)], construct)
                places[place] = getattr(node, "lineno", 0)
    return places


def test_what_could_run_something_is_reviewed() -> None:
    found = _found()
    unknown = [f"{file}:{line} {function}: {construct}" for (file, function, construct), line in found.items()
               if (file, function, construct) not in REVIEWED]  # fmt: skip
    assert not unknown, "new places that could run, import or look up what a file says:\n" + "\n".join(unknown)
    gone = sorted(REVIEWED.keys() - found.keys())
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
    ],
)
def test_the_proof_sees_each_construct(source: str) -> None:
    assert list(_calls(ast.parse(source)))


@pytest.mark.parametrize("source", ["re.compile(x)", "predictor.compile(space)", "getattr(torch, 'int8')", "x.eval()"])
def test_and_nothing_else(source: str) -> None:
    assert not list(_calls(ast.parse(source)))

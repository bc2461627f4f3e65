"""What an ONNX file may hold, found out before the file reaches any code that takes it at its word.

ONNX's own shape inference and ONNX Runtime are written in C++ and were not made for files from strangers: what they
find out of order they report, abort on, or compute. So a model is read through here first, in Python: every text, type
and count in it; that each tensor holds as many numbers as its shape says; that weights in files of their own come from
regular files in the model's folder; that nothing nests or calls itself without end; and how large everything becomes
that follows from constants, which the runtime would compute while it loads.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from lut import LayerError, UsageError
from lut._files import file_error, show_bytes
from lut._printable import printable, shortened
from lut.errors import LatencyLutError

__all__ = [
    "LARGEST_INPUTS",
    "REFUSED",
    "bounded_memory",
    "check_model",
    "check_sizes",
    "load_external",
    "memory_for",
    "one_line_errors",
    "quoted",
    "reason_of",
    "type_name",
]

# Far above what networks have, and low enough that nothing here or later takes minutes.
MOST_NODES = 10_000
MOST_FUNCTIONS = 2_000
MOST_DEPTH = 16
MOST_GRAPHS = 500
MOST_INPUTS = 256
MOST_OUTPUTS = 1_024
MOST_ENTRIES = 200_000
MOST_AXES = 32
MOST_ATTRIBUTES = 64
MOST_WRITTEN = 1 << 20
LONGEST_NAME = 1_000
LARGEST_AXIS = (1 << 31) - 1
LARGEST_TENSOR = 1 << 33
# Of everything that the model's inputs can be made up of; eight bytes each while they are drawn.
LARGEST_INPUTS = 1 << 28
# What the runtime computes of constants when it loads a model: elements beyond the weights', and multiplications.
MOST_COMPUTED = 1 << 28
MOST_MULTIPLICATIONS = 1 << 34
# An activation of more elements than that fits into no memory that a target could measure in.
LARGEST_ACTIVATION = 1 << 31
# What loading and tracing may take beside copies of the weights.
WORKING_BYTES = 3 << 29

# Attributes that tell the runtime to open a file, or operators that hand data to another program's loader.
REFUSED = frozenset({"EPContext", "Snpe"})

_KINDS = onnx.AttributeProto
# Per kind of attribute the field that holds its value.
_FIELDS: dict[int, str] = {
    _KINDS.FLOAT: "f",
    _KINDS.INT: "i",
    _KINDS.STRING: "s",
    _KINDS.TENSOR: "t",
    _KINDS.GRAPH: "g",
    _KINDS.SPARSE_TENSOR: "sparse_tensor",
    _KINDS.TYPE_PROTO: "tp",
    _KINDS.FLOATS: "floats",
    _KINDS.INTS: "ints",
    _KINDS.STRINGS: "strings",
    _KINDS.TENSORS: "tensors",
    _KINDS.GRAPHS: "graphs",
    _KINDS.SPARSE_TENSORS: "sparse_tensors",
    _KINDS.TYPE_PROTOS: "type_protos",
}

_T = onnx.TensorProto
# Per type: bits of an element in ``raw_data``, and the field that holds its elements otherwise, with entries each.
_STORED: dict[int, tuple[int, str, int]] = {
    _T.FLOAT: (32, "float_data", 1),
    _T.COMPLEX64: (64, "float_data", 2),
    _T.DOUBLE: (64, "double_data", 1),
    _T.COMPLEX128: (128, "double_data", 2),
    _T.INT64: (64, "int64_data", 1),
    _T.UINT32: (32, "uint64_data", 1),
    _T.UINT64: (64, "uint64_data", 1),
    _T.INT32: (32, "int32_data", 1),
    _T.INT16: (16, "int32_data", 1),
    _T.UINT16: (16, "int32_data", 1),
    _T.INT8: (8, "int32_data", 1),
    _T.UINT8: (8, "int32_data", 1),
    _T.BOOL: (8, "int32_data", 1),
    _T.FLOAT16: (16, "int32_data", 1),
    _T.BFLOAT16: (16, "int32_data", 1),
    _T.FLOAT8E4M3FN: (8, "int32_data", 1),
    _T.FLOAT8E4M3FNUZ: (8, "int32_data", 1),
    _T.FLOAT8E5M2: (8, "int32_data", 1),
    _T.FLOAT8E5M2FNUZ: (8, "int32_data", 1),
    _T.UINT4: (4, "int32_data", 1),
    _T.INT4: (4, "int32_data", 1),
    _T.STRING: (0, "string_data", 1),
}
_DATA = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def quoted(text: str) -> str:
    """Return a name out of a file for a message: in one line, and no longer than that."""
    return shortened(printable(text), 120)


def check_text(record: Any, field: str, where: str) -> str:
    """Return a text field of a record.

    Raises:
        UsageError: it is not UTF-8, or longer than any name.
    """
    text = getattr(record, field)
    # Protobuf hands out bytes where a text is none.
    if not isinstance(text, str):
        raise UsageError(f"{where}: its {field} is no text (UTF-8)")
    if len(text) > LONGEST_NAME:
        raise UsageError(f"{where}: its {field} is longer than {LONGEST_NAME} characters: {quoted(text)}")
    return text


def _texts(record: Any, field: str, where: str, most: int) -> list[str]:
    found = getattr(record, field)
    if len(found) > most:
        raise UsageError(f"{where}: it has {len(found)} {field}s, and {most} are the most")
    texts: list[str] = []
    for text in found:
        if not isinstance(text, str):
            raise UsageError(f"{where}: an {field} of it has a name that is not text (UTF-8)")
        if len(text) > LONGEST_NAME:
            raise UsageError(f"{where}: an {field} has a name longer than {LONGEST_NAME} characters: {quoted(text)}")
        texts.append(text)
    return texts


class _Scope(NamedTuple):
    """What the nodes of a graph are checked against. ``opsets`` are those of the model or of the function."""

    what: str
    opsets: Mapping[str, int]
    functions: frozenset[tuple[str, str]]
    in_function: bool
    counted: Counter[str]


def check_model(model: Any, what: str) -> None:
    """Raise unless a model is put together as a model must be.

    Args:
        model: as it was read, with its functions.
        what: the model, for messages.

    Raises:
        UsageError: it is not; says what and where.
    """
    for field in ("producer_name", "producer_version", "domain"):
        check_text(model, field, what)
    opsets = _opsets(model.opset_import, what)
    if len(model.functions) > MOST_FUNCTIONS:
        raise UsageError(f"{what}: it has {len(model.functions)} functions, and {MOST_FUNCTIONS} are the most")
    functions = frozenset(
        (check_text(function, "domain", what), check_text(function, "name", what)) for function in model.functions
    )
    if len(functions) < len(model.functions):
        raise UsageError(f"{what}: two of its functions have one name")
    count: Counter[str] = Counter()
    scope = _Scope(what, opsets, functions, False, count)
    _check_graph(model.graph, scope, set(), 0)
    for function in model.functions:
        _check_function(function, scope)
    _check_calls(model, what)


def _opsets(imports: Sequence[Any], what: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in imports:
        domain = check_text(entry, "domain", what)
        domain = "" if domain == "ai.onnx" else domain
        if found.setdefault(domain, entry.version) != entry.version:
            named = quoted(domain) or "ONNX's own operators"
            raise UsageError(f"{what}: it names two versions of {named}: {found[domain]} and {entry.version}")
    newest = onnx.defs.onnx_opset_version()
    if found.get("", 1) > newest:
        raise UsageError(
            f"{what}: its operators are version {found['']}, and this release of onnx knows {newest} and older; update "
            "onnx and onnxruntime, or export it for an older version"
        )
    return found


def _check_function(function: Any, scope: _Scope) -> None:
    what = f"{scope.what}: its function {quoted(function.name)}"
    opsets = _opsets(function.opset_import, what) if function.opset_import else scope.opsets
    known = set(_texts(function, "input", what, MOST_INPUTS))
    own = scope._replace(what=what, opsets={**scope.opsets, **opsets}, in_function=True)
    _texts(function, "attribute", what, MOST_ATTRIBUTES)
    made = _check_nodes(function.node, own, known, 0)
    for name in _texts(function, "output", what, MOST_OUTPUTS):
        if name not in made and name not in known:
            raise UsageError(f"{what}: nothing in it gives its output {quoted(name)}")


def _check_calls(model: Any, what: str) -> None:
    """Raise where functions call themselves, or would be written out as more operators than a model may have."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    if not bodies:
        return
    sizes: dict[tuple[str, str], int] = {}
    under_way: set[tuple[str, str]] = set()

    def size(nodes: Sequence[Any], depth: int) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += size_of(key, depth + 1) if key in bodies else 1
            for attribute in node.attribute:
                for graph in (*((attribute.g,) if attribute.type == _KINDS.GRAPH else ()), *attribute.graphs):
                    total += size(graph.node, depth + 1)
            if total > MOST_NODES:
                raise UsageError(f"{what}: written out, its functions are more than {MOST_NODES} operators")
        return total

    def size_of(key: tuple[str, str], depth: int) -> int:
        if key in under_way:
            raise UsageError(f"{what}: its function {quoted(key[1])} calls itself")
        if depth > 4 * MOST_DEPTH:
            raise UsageError(f"{what}: its functions call each other more than {4 * MOST_DEPTH} deep")
        if key not in sizes:
            under_way.add(key)
            sizes[key] = size(bodies[key], depth)
            under_way.discard(key)
        return sizes[key]

    for key in bodies:
        size_of(key, 0)
    size(model.graph.node, 0)


def _check_graph(graph: Any, scope: _Scope, outer: set[str], depth: int) -> None:
    what = scope.what
    if depth > MOST_DEPTH:
        raise UsageError(f"{what}: its graphs lie more than {MOST_DEPTH} deep in each other")
    check_text(graph, "name", what)
    for field in ("initializer", "input", "output", "value_info"):
        scope.counted[field] += len(getattr(graph, field))
        if scope.counted[field] > MOST_ENTRIES:
            raise UsageError(f"{what}: it has more than {MOST_ENTRIES} entries of {field}")
    if graph.sparse_initializer:
        raise UsageError(f"{what}: it has sparse weights, which no layer can hold; export it with dense ones")
    own: set[str] = set()
    for tensor in graph.initializer:
        name = check_text(tensor, "name", f"{what}: a weight")
        if not name or name in own:
            raise UsageError(
                f"{what}: it has {f'two weights called {quoted(name)}' if name else 'a weight of no name'}"
            )
        own.add(name)
        _check_tensor(tensor, f"{what}: the weight {quoted(name)}")
    inputs: set[str] = set()
    for value in graph.input:
        name = check_text(value, "name", f"{what}: an input")
        if not name or name in inputs:
            raise UsageError(f"{what}: it has {f'two inputs called {quoted(name)}' if name else 'an input of no name'}")
        inputs.add(name)
        _check_value(value, f"{what}: the input {quoted(name)}")
    for value in (*graph.value_info, *graph.output):
        name = check_text(value, "name", f"{what}: a value")
        _check_value(value, f"{what}: the value {quoted(name)}")
    made = _check_nodes(graph.node, scope, own | inputs, depth, outer)
    outputs: set[str] = set()
    for value in graph.output:
        if value.name in outputs:
            raise UsageError(f"{what}: it has two outputs called {quoted(value.name)}")
        outputs.add(value.name)
        if value.name not in made and value.name not in own and value.name not in inputs and value.name not in outer:
            raise UsageError(f"{what}: no operator gives its output {quoted(value.name)}")


def _check_nodes(
    nodes: Sequence[Any], scope: _Scope, known: set[str], depth: int, outer: set[str] | None = None
) -> set[str]:
    """Check operators in order; return the names of what they give."""
    what, outside = scope.what, outer or set()
    scope.counted["operator"] += len(nodes)
    if scope.counted["operator"] > MOST_NODES:
        raise UsageError(f"{what}: it has more than {MOST_NODES} operators")
    made: set[str] = set()
    for number, node in enumerate(nodes):
        kind = check_text(node, "op_type", f"{what}: operator {number}")
        name = check_text(node, "name", f"{what}: operator {number} ({quoted(kind)})")
        where = f"{what}: {quoted(kind)} {quoted(name)!r}" if name else f"{what}: {quoted(kind)} (operator {number})"
        domain = check_text(node, "domain", where)
        if kind in REFUSED:
            raise UsageError(f"{where} has the runtime load another program's file, which no file may ask for")
        for taken in _texts(node, "input", where, MOST_OUTPUTS):
            if taken and taken not in known and taken not in made and taken not in outside:
                raise UsageError(f"{where} takes {quoted(taken)}, which nothing before it gives")
        outputs = _texts(node, "output", where, MOST_OUTPUTS)
        if not any(outputs):
            raise UsageError(f"{where} gives nothing")
        inner: set[str] = set()
        if any(attribute.type in (_KINDS.GRAPH, _KINDS.GRAPHS) for attribute in node.attribute):
            inner = known | made | outside
            scope.counted["graph"] += 1
            if scope.counted["graph"] > MOST_GRAPHS:
                raise UsageError(f"{what}: more than {MOST_GRAPHS} of its operators have graphs of their own")
        _check_attributes(node, where, scope, inner, depth)
        if domain in ("", "ai.onnx", "ai.onnx.ml") and (node.domain, kind) not in scope.functions:
            _check_schema(node, where, "" if domain == "ai.onnx" else domain, scope)
        for given in outputs:
            if given in made or (given and given in known):
                raise UsageError(f"{where} gives {quoted(given)}, which is something else already")
            if given:
                made.add(given)
    return made


def _check_attributes(node: Any, where: str, scope: _Scope, known: set[str], depth: int) -> None:
    if len(node.attribute) > MOST_ATTRIBUTES:
        raise UsageError(f"{where} has {len(node.attribute)} attributes, and {MOST_ATTRIBUTES} are the most")
    seen: set[str] = set()
    for attribute in node.attribute:
        name = check_text(attribute, "name", where)
        its = f"{where}: its attribute {quoted(name)}"
        if name in seen:
            raise UsageError(f"{its} stands twice")
        seen.add(name)
        if check_text(attribute, "ref_attr_name", its):
            if not scope.in_function:
                raise UsageError(f"{its} is that of a function, and there is none around it")
            continue
        field = _FIELDS.get(attribute.type)
        if field is None:
            raise UsageError(f"{its} is of no known kind ({attribute.type})")
        for other in _FIELDS.values():
            given = getattr(attribute, other)
            filled = len(given) > 0 if other.endswith("s") and other != "s" else attribute.HasField(other)
            if filled and other != field:
                raise UsageError(f"{its} says that it is one thing and holds another ({field}, {other})")
        if field in ("floats", "ints", "strings") and len(getattr(attribute, field)) > MOST_WRITTEN:
            raise UsageError(f"{its} has more than {MOST_WRITTEN} entries")
        if field == "s":
            _check_string(attribute.s, its)
        elif field == "strings":
            for string in attribute.strings:
                _check_string(string, its)
        elif field == "t":
            _check_tensor(attribute.t, its)
        elif field == "g":
            _check_graph(attribute.g, scope, known, depth + 1)
        elif field == "graphs":
            for graph in attribute.graphs:
                _check_graph(graph, scope, known, depth + 1)
        elif field == "tp":
            _check_type(attribute.tp, its, 0)
        elif field not in ("f", "i", "floats", "ints"):
            raise UsageError(f"{its} is of a kind that a layer cannot hold ({field})")


def _check_string(string: bytes, where: str) -> None:
    if len(string) > MOST_WRITTEN:
        raise UsageError(f"{where} is a text of {show_bytes(len(string))}")
    try:
        string.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{where} is no text (UTF-8)") from None


def _check_schema(node: Any, where: str, domain: str, scope: _Scope) -> None:
    """Raise unless an operator has as many inputs and outputs, and the attributes, that its definition asks for."""
    try:
        schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=scope.opsets.get(domain, 1), domain=domain)
    except Exception:
        # Operators that ONNX does not know are refused by name later, all at once.
        return
    for what, given, least, most in (
        ("inputs", node.input, schema.min_input, schema.max_input),
        ("outputs", node.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(given) <= most:
            belong = (
                f"{least}" if least == most else f"{least} to {most}" if most < MOST_OUTPUTS else f"{least} or more"
            )
            raise UsageError(f"{where} has {len(given)} {what}, and {belong} belong there")
    for name, formal in zip(node.input, schema.inputs, strict=False):
        if not name and formal.option == onnx.defs.OpSchema.FormalParameterOption.Single:
            raise UsageError(f"{where} lacks its input {formal.name}")
    given_names = {attribute.name for attribute in node.attribute}
    for name, needed in schema.attributes.items():
        if needed.required and name not in given_names:
            raise UsageError(f"{where} lacks its attribute {name}")
    for attribute in node.attribute:
        wanted = schema.attributes.get(attribute.name)
        if wanted is None:
            raise UsageError(f"{where} has the attribute {quoted(attribute.name)}, which that operator has not")
        # Its stub does not know that it is an enumeration.
        kind = int(wanted.type.value)  # type: ignore[attr-defined]
        if not attribute.ref_attr_name and attribute.type != kind:
            raise UsageError(f"{where}: its attribute {quoted(attribute.name)} is not of the kind that belongs there")


def _check_tensor(tensor: Any, where: str) -> None:
    """Raise unless a tensor holds as many numbers as its shape says, or names the file that does."""
    check_text(tensor, "name", where)
    stored = _STORED.get(tensor.data_type)
    if stored is None:
        raise UsageError(f"{where} is of type {type_name(tensor.data_type)}, which no layer can hold")
    if len(tensor.dims) > MOST_AXES:
        raise UsageError(f"{where} has {len(tensor.dims)} axes, and {MOST_AXES} are the most")
    elements = 1
    for size in tensor.dims:
        if not 0 <= size <= LARGEST_AXIS:
            raise UsageError(f"{where} has a size of {size}")
        elements *= size
    if elements > LARGEST_TENSOR:
        raise UsageError(f"{where} has {elements:,} elements, and {LARGEST_TENSOR:,} are the most")
    if tensor.HasField("segment"):
        raise UsageError(f"{where} is a piece of a tensor, which nothing reads any more")
    if tensor.data_location == _T.EXTERNAL:
        return
    bits, field, entries = stored
    filled = [name for name in _DATA if len(getattr(tensor, name))]
    if tensor.raw_data:
        if filled or len(tensor.raw_data) != bytes_of(tensor.data_type, elements):
            raise UsageError(
                f"{where} holds {len(tensor.raw_data)} bytes, and its shape and type need "
                f"{bytes_of(tensor.data_type, elements)}"
            )
        return
    if any(name != field for name in filled):
        raise UsageError(f"{where} holds numbers of another type than it says")
    count = len(getattr(tensor, field))
    # Two numbers of four bits may share an entry.
    if count != entries * elements and not (bits == 4 and count == (elements + 1) // 2):
        raise UsageError(f"{where} holds {count} numbers, and its shape needs {entries * elements}")


def bytes_of(data_type: int, elements: int) -> int:
    """Return the bytes that so many elements take as raw data; -1 for texts, which have no such form."""
    bits = _STORED[data_type][0]
    return (bits * elements + 7) // 8 if bits else -1


def type_name(data_type: int) -> str:
    """Return a type's name, whatever number it is."""
    try:
        return str(_T.DataType.Name(data_type))
    except ValueError:
        return f"number {data_type}, which ONNX does not have"


def _check_value(value: Any, where: str) -> None:
    if value.HasField("type"):
        _check_type(value.type, where, 0)


def _check_type(kind: Any, where: str, depth: int) -> None:
    check_text(kind, "denotation", where)
    which = kind.WhichOneof("value")
    if which is None:
        return
    if depth > MOST_DEPTH:
        raise UsageError(f"{where} has a type of more than {MOST_DEPTH} levels")
    inner = getattr(kind, which)
    if which in ("tensor_type", "sparse_tensor_type"):
        if inner.elem_type not in _T.DataType.values():
            raise UsageError(f"{where} is of type {type_name(inner.elem_type)}")
        if len(inner.shape.dim) > MOST_AXES:
            raise UsageError(f"{where} has {len(inner.shape.dim)} axes, and {MOST_AXES} are the most")
        for dim in inner.shape.dim:
            check_text(dim, "dim_param", where)
            check_text(dim, "denotation", where)
            # -1 is how some exporters write an open size.
            if dim.HasField("dim_value") and not -1 <= dim.dim_value <= LARGEST_AXIS:
                raise UsageError(f"{where} has a size of {dim.dim_value}")
    elif which in ("sequence_type", "optional_type"):
        _check_type(inner.elem_type, where, depth + 1)
    elif which == "map_type":
        _check_type(inner.value_type, where, depth + 1)


def load_external(model: Any, folder: Path, what: str) -> None:
    """Read the weights that a model keeps in files of their own: regular files in its folder, and nowhere else.

    Raises:
        UsageError: a tensor's place makes no sense or lies elsewhere.
        FileAccessError: a file cannot be read.
    """
    tensors = [tensor for tensor in _tensors(model) if tensor.data_location == _T.EXTERNAL]
    if not tensors:
        return
    files: dict[str, int] = {}
    there = read = 0
    try:
        for tensor in tensors:
            where = f"{what}: the weight {quoted(tensor.name)}"
            path, offset, length = _place(tensor, where)
            if path not in files:
                files[path] = _open(folder, path, where)
                there += os.fstat(files[path]).st_size
            read += length
            # Tensors may share a place, but not so many that a small file fills the memory.
            if read > 2 * there:
                raise UsageError(f"{where}: its bytes in {quoted(path)} are those of many other weights as well")
            tensor.raw_data = _read_at(files[path], offset, length, f"{where}: the file {quoted(path)}")
            tensor.data_location = _T.DEFAULT
            del tensor.external_data[:]
    except OSError as error:
        raise file_error(folder, "read", error) from None
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def _place(tensor: Any, where: str) -> tuple[str, int, int]:
    """Return the file that holds a tensor, as a path inside the model's folder, and where in it."""
    entries: dict[str, str] = {}
    if len(tensor.external_data) > 16:
        raise UsageError(f"{where} has {len(tensor.external_data)} entries that say where it lies")
    for entry in tensor.external_data:
        key = check_text(entry, "key", where)
        if key in entries:
            raise UsageError(f"{where} says twice what its {quoted(key)} is")
        entries[key] = check_text(entry, "value", where)
    path = entries.get("location", "")
    parts = path.replace("\\", "/").removeprefix("./").split("/")
    # The runtime reads */_ORT_MEM_ADDR_/* as a place in memory.
    if (
        not path
        or "\x00" in path
        or "*" in path
        or any(part in ("", ".", "..") for part in parts)
        or re.match(r"[A-Za-z]:", path)
    ):
        raise UsageError(f"{where} lies in {quoted(path)!r}, which is no file in the model's folder")
    size = prod(tensor.dims)
    wanted = bytes_of(tensor.data_type, size)
    if wanted < 0:
        raise UsageError(f"{where} is made of texts, which cannot lie in a file of their own")
    numbers = []
    for key, default in (("offset", 0), ("length", wanted)):
        text = entries.get(key, str(default))
        if not re.fullmatch(r"[0-9]{1,16}", text):
            raise UsageError(f"{where}: its {key} in {quoted(path)} is {quoted(text)!r}, which is no number of bytes")
        numbers.append(int(text))
    if numbers[1] != wanted:
        raise UsageError(f"{where} has {numbers[1]} bytes in {quoted(path)}, and its shape and type need {wanted}")
    return "/".join(parts), numbers[0], numbers[1]


def _open(folder: Path, path: str, where: str) -> int:
    """Return the descriptor of a regular file in a folder, reached through no link."""
    place = folder
    for part in path.split("/"):
        place = place / part
        if place.is_symlink():
            raise UsageError(f"{where}: {quoted(str(place))} is a link; weights lie in the model's own folder")
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (OSError, ValueError) as error:
        raise file_error(place, "read", error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{where}: {quoted(str(place))} is no regular file")
    return descriptor


def _read_at(descriptor: int, offset: int, length: int, where: str) -> bytes:
    if offset + length > os.fstat(descriptor).st_size:
        raise UsageError(f"{where} is too short: it has no {length} bytes at {offset}")
    parts = []
    while length and (part := os.pread(descriptor, min(length, 1 << 26), offset)):
        parts.append(part)
        offset += len(part)
        length -= len(part)
    if length:
        raise UsageError(f"{where} became shorter while it was read")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _tensors(model: Any) -> Iterator[Any]:
    """Yield all tensors of a model."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            if attribute.type == _KINDS.TENSOR:
                yield attribute.t
            elif attribute.type == _KINDS.GRAPH:
                graphs.append(attribute.g)
            elif attribute.type == _KINDS.GRAPHS:
                graphs += attribute.graphs


# Operators whose work is more than reading each of their inputs and writing each of their outputs once.
_MATRIX = frozenset({"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "Attention"})
_WINDOWED = frozenset({"Conv", "ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "FusedConv", "QLinearConv"})
_LINEAR_ALGEBRA = frozenset({"Det", "Inverse", "DFT", "STFT"})


def check_sizes(model: Any, what: str) -> None:
    """Raise where tensors are so large, or so much follows from constants, that no runtime should be shown the model.

    ONNX Runtime computes whatever follows from constants while it loads a model; no time limit reaches it there.

    Args:
        model: with all inputs' shapes, in ONNX's own or the runtime's operators.
        what: the model, for messages.

    Raises:
        UsageError: it is too large; says which operator.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    with contextlib.suppress(Exception):
        # What puzzles it is for the runtime to refuse.
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=False)
        _collect(inferred.graph, shapes)
        for tensor in _tensors(inferred):
            if tensor.name:
                shapes.setdefault(tensor.name, tuple(tensor.dims))
    held = sum(prod(tensor.dims) for tensor in _tensors(model))
    most = MOST_COMPUTED + 4 * held
    fixed: set[str] = {tensor.name for tensor in model.graph.initializer}
    computed, multiplications = 0, 0
    for number, node in enumerate(_nodes(model.graph)):
        taken = [shapes.get(name, ()) for name in node.input if name]
        constant = all(name in fixed for name in node.input if name)
        for name in node.output:
            shape = shapes.get(name)
            if constant and name:
                fixed.add(name)
            if shape is None:
                continue
            where = f"{what}: {quoted(node.op_type)} {quoted(node.name) or f'(operator {number})'}"
            if len(shape) > MOST_AXES:
                raise UsageError(f"{where} gives {len(shape)} axes, and {MOST_AXES} are the most")
            size = prod(shape)
            if size > LARGEST_ACTIVATION:
                raise UsageError(f"{where} gives a tensor of {size:,} elements ({'x'.join(map(str, shape))})")
            if constant and node.op_type != "Constant":
                computed += size
                multiplications += _work(node.op_type, size, taken)
                if computed > most or multiplications > MOST_MULTIPLICATIONS:
                    raise UsageError(
                        f"{where}: what follows from constants is {computed:,} numbers up to here, more than the "
                        "runtime should compute when it loads the model; write it down as a weight"
                    )


def _collect(graph: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
            continue
        # An open size counts as one: what is known of the others is bounded all the same.
        shapes[value.name] = tuple(
            max(1, dim.dim_value) if not dim.HasField("dim_value") else dim.dim_value for dim in tensor.shape.dim
        )
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.type == _KINDS.GRAPH else ()), *attribute.graphs):
                _collect(inner, shapes)


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield all operators of a graph, those inside of one after it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.type == _KINDS.GRAPH else ()), *attribute.graphs):
                yield from _nodes(inner)


def _work(kind: str, size: int, taken: Sequence[tuple[int, ...]]) -> int:
    """Return at least how many multiplications an operator takes whose output has ``size`` elements."""
    if kind in _MATRIX:
        return size * max((axis for shape in taken for axis in shape), default=1)
    if kind in _WINDOWED:
        return size * min((count for shape in taken if (count := prod(shape)) > 1), default=1)
    if kind in _LINEAR_ALGEBRA:
        return max(map(prod, taken), default=1) * max((axis for shape in taken for axis in shape), default=1)
    return 0


@contextlib.contextmanager
def one_line_errors(what: str, doing: str) -> Iterator[None]:
    """Turn whatever a library raises over a file into one line that names it.

    Args:
        what: the model, for messages.
        doing: what is under way: ``"read"``.

    Raises:
        UsageError: something was raised that is no error of ours, or one of a layer that does not name the file.
    """
    try:
        yield
    except LayerError as error:
        raise UsageError(str(error) if str(error).startswith(what) else f"{what}: {error}") from None
    except LatencyLutError:
        raise
    except MemoryError:
        raise UsageError(f"{what}: it cannot be {doing}: that takes more memory than a model of its size may") from None
    except Exception as error:
        kind = type(error).__name__
        raise UsageError(f"{what}: it cannot be {doing}: {kind}: {reason_of(error)}") from None


def reason_of(error: BaseException) -> str:
    """Return what a library says went wrong, in one line without colours, places in its own source, and error codes."""
    # torch.onnx colours its messages, and begins with a banner.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    cause = error.__cause__
    if lines and lines[0].startswith("Failed to") and cause is not None:
        return reason_of(cause)
    line = lines[0] if lines else type(error).__name__
    line = re.sub(r"^\[ONNXRuntimeError\] : ", "", line)
    line = re.sub(r"^[0-9]+ : [A-Z_]+ : ", "", line)
    if line.endswith(":") and len(lines) > 1:
        # A title only: what went wrong stands below it.
        line += " " + lines[1]
    return shortened(printable(_without_source(line)), 500)


_SOURCE = re.compile(r"(?:[A-Za-z]:)?[\\/][^\s:]*\.(?:h|hpp|cc|cpp|cu|cuh|inc):[0-9]+ ?")


def _without_source(line: str) -> str:
    """Return a message of C++ without the file, the line and the function that raised it."""
    found = _SOURCE.search(line)
    while found is not None:
        rest = line[found.end() :]
        line = line[: found.start()] + rest[_signature(rest) :].lstrip()
        found = _SOURCE.search(line, found.start())
    return line


def _signature(text: str) -> int:
    """Return where the signature of a C++ function ends that a text begins with; 0 where it begins with none."""
    head = re.match(
        r"(?:[\w:*&<>~,\[\]]+ )*?[\w:<>~,*&]*::[\w:<>~,()]*?(?=\()|(?:[\w:*&<>~]+ )+?\w+(?=\()|\w+(?=\()", text
    )
    if head is None:
        return 0
    at = head.end()
    while at < len(text) and text[at] == "(":
        at = _closing(text, at, "()")
        after = re.match(r"::[\w:<>~]*(?=\()| const\b| noexcept\b", text[at:])
        at += after.end() if after is not None else 0
    if text.startswith(" [with ", at):
        at = _closing(text, at + 1, "[]")
    return at


def _closing(text: str, at: int, pair: str) -> int:
    """Return the place behind the bracket that closes the one at ``at``."""
    depth = 0
    for place in range(at, len(text)):
        depth += (text[place] == pair[0]) - (text[place] == pair[1])
        if not depth:
            return place + 1
    return len(text)


@contextlib.contextmanager
def bounded_memory(extra: int) -> Iterator[None]:
    """Let this process take no more than so many bytes beside what it has, while the block runs (Linux).

    What cannot be known before it runs, the size of what a model computes from values, ends in an error of the runtime
    and not in a machine without memory.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = pages * resource.getpagesize() + extra
        bound = wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def memory_for(model: Any) -> int:
    """Return the bytes that looking at a model may take: some copies of its weights, and room to work in."""
    return WORKING_BYTES + 8 * sum(len(tensor.raw_data) or 8 * prod(tensor.dims) for tensor in _tensors(model))

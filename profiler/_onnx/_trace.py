"""An ONNX model as layers, as ONNX Runtime runs it.

1.  *Optimised.* The runtime optimises the model as it does before every run, short of what depends on the processor's
    layouts (``ORT_ENABLE_EXTENDED``), and says what is left. What it computed beforehand, left out, or computes once
    for several is no work, and said.
2.  *Layers.* Each operator that is left is a layer. Tensors keep their names, so that the layer's content is known: the
    original operators between what it takes and what it gives. An activation, a norm or arithmetic with constants that
    the runtime leaves standing joins the operator before, where nothing else reads that: in a program of its own it
    would be fused with whatever stands before it there. What only renames axes joins its reader, or the transposition
    before it: both are one shuffle, and the reader keeps its words. Where operators that the runtime has no layout of
    its own for follow each other, they are one layer, which leaves that layout once: a concatenation with what alone
    reads it and only moves it on (a channel shuffle, a split) or adds to it; a squeeze-excite block, from the mean of a
    tensor to its product with that tensor.
3.  *Borders.* A layer takes and gives tensors of floating-point numbers with the batch in front, or takes the network's
    own inputs. Where operators pass on anything else (heads folded into the batch, indices, masks), they are one layer.
4.  *Words.* Layers whose operators are all primitives are described by these, for any batch, and equal those of any
    other network; the rest are subgraphs of ONNX operators, for the batch of the file. So are sums that run by
    themselves: the sum that primitives have a word for is folded into the convolution before it.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import onnx

from lut import Layer, LayerError, Network, NetworkLayer, UsageError
from lut._layer import Node
from lut._measured_network import network_record
from lut._printable import shortened
from lut._records import NetworkRecord
from lut.primitives import Plain
from lut.subgraph import Call, Ref, Subgraph
from profiler._groups import Groups
from profiler._onnx._check import check_sizes, quoted
from profiler._onnx._file import float_type, normalise
from profiler._onnx._original import Original, domain_name, open_session
from profiler._onnx._words import (
    MOST_NUMBERS,
    Kernel,
    View,
    call_of,
    entered,
    given_of,
    in_primitives,
    multiply_adds,
    weight_of,
)
from profiler._sources import Subject, record_of
from profiler._traced import TracedNetwork

__all__ = ["trace"]

# What a layer's input may have at most, the batch included.
MOST_AXES = 8
# Operators that are followed back from one that ends a block, to a concatenation or to what a gate is made of.
LONGEST_BLOCK = 16
# The domain of the runtime's operators on images in blocks of channels.
BLOCKED = "com.microsoft.nchwc"
# What a table shows of an operator's name.
LONGEST_NAME = 300


def trace(model: Any, *, name: str, provider: str) -> TracedNetwork:
    """Return a model's layers; see :func:`profiler._onnx._file.trace_onnx`."""
    what = quoted(name)
    own = onnx.ModelProto()
    own.CopyFrom(model)
    normalise(own, what)
    for value in own.graph.input:
        if any(dim.dim_value <= 0 for dim in value.type.tensor_type.shape.dim):
            raise UsageError(f"{what}: the shape of its input {quoted(value.name)} is open; give it (--input)")
    if _control_flow(own):
        # The runtime knows which branch a constant condition takes.
        own = _optimised(own, "ENABLE_BASIC", provider, what, external=False)
        check_sizes(own, what)
        left = _control_flow(own)
        if left:
            raise UsageError(
                f"{what}: it has {left}, a control flow operator: what runs depends on values, and no table can know; "
                "export the part that always runs"
            )
    return _Tracer(own, name, what, provider).traced()


def _control_flow(model: Any) -> str | None:
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    for node in model.graph.node:
        if any(attribute.type in kinds for attribute in node.attribute):
            return f"{quoted(node.op_type)} {quoted(node.name)!r}" if node.name else quoted(node.op_type)
    return None


def _optimised(model: Any, level: str, provider: str, what: str, *, external: bool) -> Any:
    with tempfile.TemporaryDirectory(prefix="latency-lut-") as folder:
        path = Path(folder) / "optimised.onnx"
        open_session(model, level, provider, what, saved=str(path), external=external)
        return onnx.load(str(path), load_external_data=not external)


def _with_helpers(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Return the kernels that replace something, each with those before it that replace nothing by themselves."""
    waiting: dict[str, tuple[Any, ...]] = {}
    found = []
    for kernel in kernels:
        before = tuple(
            node for name in dict.fromkeys(kernel.node.input) if name in waiting for node in waiting.pop(name)
        )
        if kernel.members:
            nodes = (*before, kernel.node)
            # What computes stands for the whole.
            main = next((node for node in reversed(nodes) if node.op_type not in _MOVING), kernel.node)
            found.append(kernel._replace(node=main, helpers=tuple(node for node in nodes if node is not main)))
        else:
            for name in kernel.node.output[:1]:
                waiting[name] = (*before, kernel.node)
    return found


# What joins the operator before it; the second kind where all but one of its arguments are constants.
_JOINING = frozenset(
    {
        "BatchNormalization",
        "Celu",
        "Clip",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "QuickGelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Tanh",
        "ThresholdedRelu",
    }
)
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow"})
_RENAMING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_MOVING = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast", "Identity", "Flatten"})
# What moves data on that were concatenated just before, a change of shape between.
_SHUFFLING = frozenset({"Transpose", "Split", "Slice"})


# What gives images in the runtime's layout of channels in blocks where it takes such, beside sums and products of two.
_KEEPING_BLOCKS = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Clip",
        "Concat",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "HardSigmoid",
        "LeakyRelu",
        "MaxPool",
        "Relu",
        "Sigmoid",
        "Tanh",
    }
)


class _Plain(NamedTuple):
    """What is not in the runtime's blocks of channels.

    Tensors that operators give in the usual layout (``given``), or that are reordered into it (``left``); those given
    that nothing reorders (``stays``); and what is computed straight from a tensor, in order (``readers``).
    """

    given: frozenset[str]
    left: frozenset[str]
    stays: frozenset[str]
    readers: Mapping[str, Sequence[str]]

    def is_read(self, name: str, made: Collection[str]) -> bool:
        """Return whether what makes these finds a tensor in the usual layout, and reads it there.

        Of several that read what left the blocks, the first pays for the way out of them.
        """
        readers = self.readers.get(name, ())
        if name in self.given:
            return not set(made).isdisjoint(readers)
        return name in self.left and readers[0] not in made and not set(made).isdisjoint(readers)


class _Found(NamedTuple):
    """A layer with where it comes from; ``taken`` is in the order of its inputs, the last of ``outputs`` its output."""

    layer: Layer
    anchor: str
    kernels: str
    taken: list[str]
    outputs: list[str]


class _Tracer:
    """Groups the operators of one model. Final.

    Operators are known by their number in the original model, tensors by their name there.
    """

    def __init__(self, model: Any, name: str, what: str, provider: str) -> None:
        self.name, self.what = name, what
        self.graph = graph = Original(model, what)
        self.inputs = list(graph.givens)
        if not self.inputs or len(graph.givens[self.inputs[0]].shape) < 2:
            shape = "x".join(map(str, graph.givens[self.inputs[0]].shape)) if self.inputs else "none"
            raise UsageError(
                f"{what}: its first input must have the batch as its first axis and another one; its shape is {shape}"
            )
        self.batch = graph.givens[self.inputs[0]].shape[0]
        self.dtype = float_type(model)
        self.kernels = self._kernels(_optimised(model, "ENABLE_EXTENDED", provider, what, external=True).graph)
        self.live = sorted({index for kernel in self.kernels for index in kernel.members})
        # A later kernel does not take an operator from an earlier one.
        self.kernel_of = {index: kernel for kernel in reversed(self.kernels) for index in kernel.members}
        self.view = self._view()
        self.laid_out = self._in_blocks()
        self.plain = self._in_plain(_optimised(model, "ENABLE_ALL", provider, what, external=True).graph)

    def _kernels(self, optimised: Any) -> list[Kernel]:
        """Return what the runtime runs, with the original operators that each stands for."""
        graph = self.graph
        known = [[graph.root(name) for name in node.output if name in graph.producer] for node in optimised.node]
        computed = {name for node in optimised.node for name in node.output}
        self.fixed = graph.find_fixed(computed)
        # Which of the runtime's operators gives a tensor; one that only passes it on comes later.
        owner: dict[str, int] = {}
        for i, names in enumerate(known):
            for name in names:
                if name in graph.producer:
                    owner.setdefault(name, i)
        equal: dict[bytes, str] = {}
        self.digests = graph.digests()
        for name in owner:
            equal.setdefault(self.digests[name], name)
        self.owner, self.equal = owner, equal
        kernels = []
        for i, (node, names) in enumerate(zip(optimised.node, known, strict=True)):
            members = self._between([name for name in names if owner.get(name) == i])
            kernels.append(Kernel(node, tuple(sorted(members))))
        return _with_helpers(kernels)

    def _real(self, name: str) -> str:
        """Return the tensor that an operator reads in effect: itself, or the equal one that the runtime computes."""
        if not name:
            return ""
        root = self.graph.root(name)
        if root in self.owner or root in self.fixed:
            return root
        return self.equal.get(self.digests[root], root)

    def _between(self, outputs: Sequence[str]) -> set[int]:
        """Return the operators that compute tensors from what other operators of the runtime give."""
        found: set[int] = set()
        waiting = [self.graph.producer[name] for name in outputs]
        while waiting:
            index = waiting.pop()
            if index in found:
                continue
            found.add(index)
            for name in self.graph.nodes[index].input:
                real = self._real(name)
                if real and real not in self.fixed and real not in self.owner and real in self.graph.producer:
                    waiting.append(self.graph.producer[real])
        return found

    def _view(self) -> View:
        graph = self.graph
        reads = {index: [self._real(name) for name in graph.nodes[index].input] for index in self.live}
        readers: dict[str, list[int]] = {}
        for index in self.live:
            for name in dict.fromkeys(reads[index]):
                if name:
                    readers.setdefault(name, []).append(index)
        outputs = frozenset(self._real(name) for name in graph.outputs)
        constants = [name for name in readers if name in self.fixed and self._matters(name)]
        return View(
            graph,
            self.batch,
            self.dtype,
            reads,
            readers,
            outputs,
            frozenset(self.fixed),
            graph.constants(constants, self.fixed),
        )

    def _matters(self, name: str) -> bool:
        """Return whether a constant's values are looked at."""
        found = self.graph.type_of(name)
        return found is not None and (not found.floating or prod(found.shape) <= MOST_NUMBERS)

    def _is_batched(self, name: str) -> bool:
        """Return whether one of the network's inputs has the batch in front, and more; others are constants."""
        shape = self.graph.givens[name].shape
        return 2 <= len(shape) <= MOST_AXES and shape[0] == self.batch and prod(shape) > 0

    def _varying(self) -> set[str]:
        """Return the tensors that differ between calls."""
        found = {name for name in self.inputs if self._is_batched(name)}
        for index in self.live:
            if any(name in found for name in self.view.reads[index]):
                found.update(name for name in self.graph.nodes[index].output if name)
        return found

    def _crosses(self, name: str, varying: set[str]) -> bool:
        """Return whether a tensor can be what one layer gives and another takes."""
        shape = self.view.shape(name)
        if shape is None or name not in varying or name not in self.owner:
            return False
        return 2 <= len(shape) <= MOST_AXES and shape[0] == self.batch and prod(shape) > 0

    def traced(self) -> TracedNetwork:
        """Return the network's layers."""
        graph, view = self.graph, self.view
        varying = self._varying()
        groups = Groups(self.live)
        for kernel in self.kernels:
            for index in kernel.members[1:]:
                groups.unite(kernel.members[0], index)
        edges: list[tuple[int, int]] = []
        for index in self.live:
            for name in graph.nodes[index].output:
                for reader in view.readers.get(name, ()) if name else ():
                    edges.append((index, reader))
                    if not self._crosses(name, varying):
                        groups.unite(index, reader)
        for index in self.live:
            self._join(index, groups, varying)
        groups.unite_cycles(edges)
        found = []
        for members in groups.in_order(edges):
            if not any(name in varying for index in members for name in graph.nodes[index].output):
                # An output of the network that is the same for every input.
                self.live = [index for index in self.live if index not in set(members)]
                continue
            found.append(self._layer(members))
        if not found:
            raise UsageError(f"{self.what}: it computes nothing from its first input, or what it computes has no batch")
        return self._network(found)

    def _join(self, index: int, groups: Groups[int], varying: set[str]) -> None:
        """Unite an activation, a norm or the like with the operator before, and a new shape with its reader."""
        graph, view = self.graph, self.view
        node = graph.nodes[index]
        taken = [name for name in dict.fromkeys(view.reads[index]) if name in varying]

        def before(name: str, readers: Sequence[int]) -> int | None:
            """Return the operator that gives a tensor which these alone read."""
            known = graph.producer.get(name)
            alone = name not in view.outputs and sorted(view.readers.get(name, ())) == sorted(readers)
            return known if known is not None and known in groups and alone else None

        if len(taken) == 1 and node.op_type in _SHUFFLING:
            for mover in self._moved_from_concatenation(taken[0], index, before):
                groups.unite(mover, index)
        elif len(taken) == 1 and (node.op_type in _JOINING or node.op_type in _ARITHMETIC):
            giver = before(taken[0], [index])
            if giver is not None:
                groups.unite(giver, index)
        elif node.op_type == "Add" and len(taken) == 2:
            for giver in (before(name, [index]) for name in taken):
                # It is folded into no convolution.
                if giver is not None and graph.nodes[giver].op_type == "Concat":
                    groups.unite(giver, index)
        elif node.op_type == "Mul" and len(taken) == 2:
            for gate, value in (taken, taken[::-1]):
                # x · sigmoid(x), and the like.
                function = before(gate, [index])
                giver = None if function is None else before(value, [function, index])
                if function is not None and giver is not None and graph.nodes[function].op_type in _JOINING:
                    groups.unite(giver, function)
                    groups.unite(function, index)
                for squeezing in self._squeeze(value, gate, index, varying, before):
                    groups.unite(squeezing, index)
        elif node.op_type in _RENAMING and node.output[0] not in view.outputs and self._only_renames(index):
            readers = view.readers.get(node.output[0], [])
            giver = before(taken[0], [index]) if taken else None
            if giver is not None and graph.nodes[giver].op_type == "Transpose":
                groups.unite(giver, index)
            elif len(readers) == 1:
                groups.unite(readers[0], index)
            elif giver is not None:
                groups.unite(giver, index)

    def _moved_from_concatenation(
        self, name: str, reader: int, before: Callable[[str, Sequence[int]], int | None]
    ) -> list[int]:
        """Return the operators from a reader of a tensor back to the concatenation that each only moves on; or none."""
        found: list[int] = []
        giver = before(name, [reader])
        while giver is not None and len(found) < LONGEST_BLOCK:
            found.append(giver)
            node = self.graph.nodes[giver]
            if node.op_type == "Concat":
                return found
            if node.op_type not in _SHUFFLING | _RENAMING or len(node.output) != 1:
                break
            giver = before(self.view.reads[giver][0], [giver])
        return []

    def _squeeze(
        self,
        value: str,
        gate: str,
        product: int,
        varying: set[str],
        before: Callable[[str, Sequence[int]], int | None],
    ) -> list[int]:
        """Return the operators that make a gate of the value's own mean, up to the product of both; or none."""
        found: list[int] = []
        name, reader = gate, product
        while name != value and len(found) < LONGEST_BLOCK:
            shape = self.view.shape(name)
            giver = before(name, [reader])
            if giver is None or shape is None or prod(shape[2:]) != 1:
                return []
            found.append(giver)
            taken = [each for each in dict.fromkeys(self.view.reads[giver]) if each in varying]
            if len(taken) != 1:
                return []
            (name,), reader = taken, giver
        alone = value not in self.view.outputs and sorted(self.view.readers.get(value, ())) == sorted((reader, product))
        return found if name == value and alone else []

    def _only_renames(self, index: int) -> bool:
        """Return whether the runtime's operator is a renaming too, not a Gemm, say, that gives its result by it."""
        own = [kernel for kernel in self.kernels if index in kernel.members]
        return all(self.graph.nodes[i].op_type in _RENAMING for kernel in own for i in kernel.members)

    def _layer(self, members: Sequence[int]) -> _Found:
        graph, view = self.graph, self.view
        inside = set(members)
        outputs = [
            name
            for index in members
            for name in graph.nodes[index].output
            if name and (name in view.outputs or any(reader not in inside for reader in view.readers.get(name, ())))
        ]
        if not outputs:
            named = quoted(", ".join(dict.fromkeys(graph.nodes[index].op_type for index in members)))
            raise UsageError(f"{self.what}: nothing reads what its operators {named} give, and it is no output")
        made = {name for index in members for name in graph.nodes[index].output}
        read = [name for index in members for name in view.reads[index] if name and name not in made]
        taken = [name for name in dict.fromkeys(read) if name not in self.fixed and not self._is_constant_input(name)]
        weights = [name for name in dict.fromkeys(read) if name in self.fixed or self._is_constant_input(name)]
        own = [kernel for kernel in self.kernels if kernel.members and kernel.members[0] in inside]
        plain = {name for name in taken if self._is_image(name) and self.plain.is_read(name, made)}
        stays = self._is_image(outputs[-1]) and outputs[-1] in self.plain.stays
        worded = len(outputs) == 1 and not self._is_sum_by_itself(members[0])
        in_words = in_primitives(view, members, own, taken, outputs[0], plain=plain, stays=stays) if worded else None
        if in_words is not None:
            layer, order = in_words
            taken = [taken[i] for i in order]
        else:
            layer = self._subgraph(members, taken, weights, outputs, plain=plain, stays=stays)
        anchor = max(own, key=lambda kernel: sum(multiply_adds(view, i) for i in kernel.members)).node
        return _Found(
            layer, shortened(anchor.name, LONGEST_NAME) or anchor.op_type, self._described(own), taken, outputs
        )

    def _is_sum_by_itself(self, index: int) -> bool:
        """Return whether an operator is a sum of images that the runtime folds into no convolution.

        It folds one where all of them are in its layout of channels in blocks, and one is what a convolution gives to
        nothing else, no activation between.
        """
        graph, view = self.graph, self.view
        taken = [name for name in dict.fromkeys(view.reads[index]) if name and name not in self.fixed]
        shapes = [view.shape(name) for name in taken]
        if graph.nodes[index].op_type != "Add" or len(taken) < 2 or any(len(shape or ()) != 4 for shape in shapes):
            return False
        return not self.laid_out.issuperset(taken) or not any(
            self._is_convolved(name) and name not in view.outputs and view.readers.get(name) == [index]
            for name in taken
        )

    def _in_plain(self, optimised: Any) -> _Plain:
        """Return what is said of layouts by the graph that the runtime runs; nothing where it has no blocks."""
        root = self.graph.root
        if not any(node.domain == BLOCKED for node in optimised.node):
            return _Plain(frozenset(), frozenset(), frozenset(), {})
        readers: dict[str, list[str]] = {}
        given: set[str] = set()
        for node in optimised.node:
            if node.domain != BLOCKED:
                made = [root(name) for name in node.output if name]
                given.update(made)
                for name in node.input:
                    if name:
                        readers.setdefault(root(name), []).extend(made)
        left = {root(node.output[0]) for node in optimised.node if node.op_type == "ReorderOutput"}
        reordered = {root(node.input[0]) for node in optimised.node if node.op_type == "ReorderInput"}
        return _Plain(frozenset(given), frozenset(left.intersection(readers)), frozenset(given - reordered), readers)

    def _in_blocks(self) -> set[str]:
        """Return the tensors that the runtime lays out in blocks of channels, where it has such a layout."""
        found: set[str] = set()
        for index in self.live:
            node = self.graph.nodes[index]
            taken = [name for name in self.view.reads[index] if name and name not in self.fixed]
            shapes = {self.view.shape(name) for name in taken}
            keeps = node.op_type in _KEEPING_BLOCKS or (node.op_type in ("Add", "Mul") and len(shapes) == 1)
            if node.op_type == "Conv" or (keeps and found.issuperset(taken)):
                found.update(name for name in node.output if len(self.view.shape(name) or ()) == 4)
        return found

    def _is_convolved(self, name: str) -> bool:
        """Return whether a tensor comes from a convolution, or the norm that is folded into it, and nothing else."""
        giver = self.graph.producer.get(name)
        if giver is None or self.graph.nodes[giver].op_type not in ("Conv", "BatchNormalization"):
            return False
        own = self.kernel_of.get(giver)
        return own is not None and own.node.op_type in ("Conv", "FusedConv")

    def _is_constant_input(self, name: str) -> bool:
        return name in self.graph.givens and not self._is_batched(name)

    def _described(self, kernels: Sequence[Kernel]) -> str:
        """Return the runtime's operators of a layer and what each replaces."""
        texts = []
        for kernel in kernels:
            replaced = [domain_name(self.graph.nodes[index]) for index in kernel.members]
            same = replaced == [domain_name(kernel.node)]
            text = "+".join([kernel.node.op_type, *dict.fromkeys(node.op_type for node in kernel.helpers)])
            texts.append(text + ("" if same else f" ({', '.join(replaced)})"))
        counts = Counter(texts)
        return shortened(", ".join(text + (f" ×{count}" if count > 1 else "") for text, count in counts.items()), 2000)

    def _is_image(self, name: str) -> bool:
        """Return whether a tensor has several pixels: to lay out a single one otherwise is no work."""
        shape = self.view.shape(name) or ()
        return len(shape) == 4 and prod(shape[2:]) > 1

    def _subgraph(
        self,
        members: Sequence[int],
        taken: Sequence[str],
        weights: Sequence[str],
        outputs: Sequence[str],
        *,
        plain: Collection[str],
        stays: bool,
    ) -> Layer:
        graph, view = self.graph, self.view
        last = outputs[-1]
        numbers = {name: i for i, name in enumerate(taken)}
        fixed_numbers = {name: len(taken) + i for i, name in enumerate(weights)}
        first = len(taken) + len(weights)
        calls: list[Call] = []
        for index in members:
            node = graph.nodes[index]
            call, positions = call_of(view, index, numbers, fixed_numbers, self.what)
            calls.append(call)
            whole = first + len(calls) - 1
            if positions == (0,):
                numbers[node.output[0]] = whole
                continue
            # The layer's output comes last.
            wanted = [k for k in positions if view.readers.get(node.output[k]) or node.output[k] in outputs]
            for k in sorted(wanted, key=lambda k: node.output[k] == last):
                calls.append(Call(op="getitem", args=(Ref(kind="value", of=whole), k)))
                numbers[node.output[k]] = first + len(calls) - 1
        found = graph.type_of(last)
        if found is None or found.dtype not in (
            "float32",
            "float16",
            "float64",
            "int64",
            "int32",
            "int8",
            "uint8",
            "bool",
        ):
            kind = "a sequence" if found is None else found.dtype
            raise UsageError(f"{self.what}: its output {quoted(last)} is {kind}, which no layer can give")
        gives: Any = sys.intern(found.dtype)
        inside = set(members)
        readers = {name: [i for i in view.readers[name] if i in inside] for name in weights}
        try:
            op = Subgraph(
                framework="onnx",
                batch=self.batch,
                inputs=tuple(given_of(view, name) for name in taken),
                weights=tuple(self._weight(name, readers[name]) for name in weights),
                calls=tuple(calls),
                output=found.shape[1:] if found.shape[:1] == (self.batch,) else found.shape,
                multiply_adds=sum(multiply_adds(view, index) for index in members) // self.batch,
                opset=graph.opset,
                gives=gives,
                also=tuple(numbers[name] for name in outputs[:-1]),
            )
            nodes, entrances = entered(taken, plain)
            nodes.append(Node(op=op, args=tuple(entrances[name] for name in taken)))
            if stays:
                nodes.append(Node(op=Plain(), args=(len(taken) + len(nodes) - 1,)))
            return Layer(inputs=tuple(given.shape for given in op.inputs), nodes=tuple(nodes))
        except LayerError as error:
            kinds = ", ".join(dict.fromkeys(graph.nodes[index].op_type for index in members))
            raise UsageError(
                f"{self.what}: its operators {kinds[:200]} cannot be described as a layer: {error}"
            ) from None

    def _weight(self, name: str, readers: Sequence[int]) -> Any:
        if name not in self.graph.givens:
            return weight_of(self.view, name, readers, self.what)
        # An input without a batch is the same for every sample: any value of its will do.
        import numpy as np

        given = self.graph.givens[name]
        values: Mapping[str, Any] = {} if given.below == 0 else {name: np.full(given.shape, given.below - 1)}
        return weight_of(self.view._replace(values=values), name, readers, self.what)

    def _network(self, found: Sequence[_Found]) -> TracedNetwork:
        used: Counter[str] = Counter()
        given = {name: "input" if i == 0 else f"input {i}" for i, name in enumerate(self.inputs)}
        taken_names = set(given.values())
        by_source = dict(given)
        items, kernels = [], {}
        for item in found:
            own = item.anchor
            while own in taken_names or used[own]:
                used[item.anchor] += 1
                own = f"{item.anchor} {used[item.anchor]}"
            used[own] += 1
            items.append(NetworkLayer(own, item.layer, inputs=tuple(by_source[name] for name in item.taken)))
            kernels[own] = item.kernels
            for i, name in enumerate(reversed(item.outputs)):
                by_source[name] = own if i == 0 else f"{own} output {i}"
        live = set(self.live)
        idle = Counter(domain_name(node) for i, node in enumerate(self.graph.nodes) if i not in live)
        network = Network(name=self.name, layers=tuple(items))
        traced = TracedNetwork(network, self.batch, len(live), dict(sorted(idle.items())), kernels, self.dtype)
        _check_record(traced, self.what)
        return traced


def _check_record(traced: TracedNetwork, what: str) -> None:
    """Raise unless a table will hold the network: nothing is measured that could not be written or read again.

    Raises:
        UsageError: it will not; says what would be wrong.
    """
    try:
        content = msgspec.json.encode(
            (traced.network, network_record(record_of(Subject(traced.network, None, *traced[2:4]))))
        )
        network, _ = msgspec.json.decode(content, type=tuple[Network, NetworkRecord])
    except (msgspec.MsgspecError, UnicodeError, LayerError) as error:
        raise UsageError(f"{what}: no table can hold it: {error}") from None
    for item, again in zip(traced.network.layers, network.layers, strict=True):
        if item.layer.digest != again.layer.digest:
            raise UsageError(
                f"{what}: no table can hold its layer {quoted(item.name)}: written and read, it is another"
            )

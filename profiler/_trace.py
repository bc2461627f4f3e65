"""A user's network as layers: ``torch.export`` gives its operators, and they are grouped as eager PyTorch runs them.

1.  *Operators.* The graph of ``torch.export`` holds what eager PyTorch calls, operator by operator, with shapes. What
    does nothing at inference (dropout) is taken out, and said.
2.  *Layers.* Every operator is a layer of its own, except that batch normalisation or an activation joins the operator
    before, where nothing else reads that. Views move no data: they go to whoever reads them.
3.  *Borders.* A layer takes and gives tensors of floating-point numbers with the batch in front. Where operators pass
    on anything else (heads folded into the batch, indices, masks), they are one layer.
4.  *Words.* Layers whose operators are all primitives are described by these, for any batch, and equal those of any
    other network; the rest are subgraphs of PyTorch's operators, for the batch that they were traced with.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import operator
import re
from collections import Counter
from collections.abc import Sequence
from math import isfinite, isnan, prod
from typing import Any, NamedTuple, get_args

import torch
from torch import fx, nn

from lut import Layer, LayerError, Network, NetworkLayer, UsageError
from lut._layer import Node
from lut._records import UNUSED
from lut.primitives import (
    Activation,
    ActivationKind,
    Add,
    AvgPool2d,
    BatchNorm2d,
    ChannelShuffle,
    Concat,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    LayerNorm,
    Linear,
    MaxPool2d,
    Mul,
    Primitive,
)
from lut.subgraph import Argument, Call, DType, Given, Ref, Scalar, Subgraph, Weight, short_name
from profiler._groups import Groups
from profiler._quiet import quiet
from profiler._traced import TracedNetwork

__all__ = ["TracedNetwork", "trace"]

# Weights of integers or booleans that are written out: an index or a mask, not a vocabulary.
MOST_WRITTEN = 1 << 16
# Constants of floating-point numbers that are written out.
MOST_NUMBERS = 16


def trace(module: nn.Module, inputs: Sequence[torch.Tensor], *, name: str, what: str | None = None) -> TracedNetwork:
    """Return the layers of a network.

    Args:
        module: the network, in evaluation mode.
        inputs: example inputs, the batch in front. Of integers, the largest says how many values there may be.
        name: for people.
        what: what the user gave, for errors: ``--model net.py:make``; by default the name.

    Raises:
        UsageError: ``torch.export`` cannot trace it, or there is nothing in it.
    """
    what = name if what is None else what
    if not inputs or inputs[0].ndim == 0:
        raise UsageError(f"{what}: the first input must have the batch as its first axis")
    exported = _export(module, inputs, what)
    try:
        return _Tracer(exported, inputs, name, what).traced()
    except _OverwritesAPartError:
        # Without overwriting, the graph says who reads what; some operators then go by other names.
        return _Tracer(_without_overwriting(exported, what), inputs, name, what).traced()


def _export(module: nn.Module, inputs: Sequence[torch.Tensor], what: str) -> Any:
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, tuple(inputs))
    except Exception as error:
        text = " ".join(str(error).split())
        dynamic = re.search(r"data-dependent|DataDependent|control flow|GuardOn|\.item\(\)", text)
        hint = (
            "what it runs depends on its input's values, and no table can know: give a factory that returns the part "
            "that always runs"
            if dynamic
            else "try a factory that returns the part that can be exported, or the target onnx with an ONNX file"
        )
        first = re.split(r"(?<=[.!?])\s", text)[0][:300]
        raise UsageError(f"{what}: torch.export cannot trace it: {type(error).__name__}: {first}; {hint}") from None


def _without_overwriting(exported: Any, what: str) -> Any:
    try:
        with quiet(), torch.no_grad():
            return exported.run_decompositions({})
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{what}: it overwrites parts of tensors, and torch.export cannot rewrite that: "
            f"{type(error).__name__}: {text}"
        ) from None


# Norms and activations that primitives have words for join the operator before, where nothing else reads it. Others
# stay by themselves, as PyTorch runs them, so that what stands before is still described by primitives.
_ACTIVATIONS: dict[str, ActivationKind] = {
    "relu": "relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
    "silu": "silu",
    "gelu": "gelu",
    "tanh": "tanh",
}
_JOINING = frozenset(_ACTIVATIONS) | {"hardtanh", "batch_norm"}
_IDLE = frozenset({"dropout", "feature_dropout", "alpha_dropout", "alias", "detach", "lift_fresh_copy"})
_SILENT = frozenset(
    {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size"}
)
_IN_PLACE = frozenset({"relu", "hardtanh", "relu6", "silu", "hardswish", "hardsigmoid"})


def _name(node: fx.Node) -> str:
    """Return ``batch_norm`` for ``aten.batch_norm.default``, and the like for in-place ones."""
    return short_name(_op(node))


def _op(node: fx.Node) -> str:
    return "getitem" if node.target is operator.getitem else str(node.target)


def _overwrites(node: fx.Node) -> bool:
    """Return whether a call writes into its first argument, as ``aten.relu_.default`` does."""
    parts = _op(node).split(".")
    return len(parts) > 1 and parts[1].endswith("_") and not parts[1].startswith("_") and bool(node.all_input_nodes)


def _tensor(node: fx.Node) -> torch.Tensor | None:
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


class _OverwritesAPartError(Exception):
    """A tensor is overwritten that shares its memory with another. Never leaves this module."""


class _Tracer:
    """Groups the operators of one exported graph. Final.

    A *source* is a tensor that is not a view: an input, a weight, or what an operator computed.
    """

    def __init__(self, exported: Any, inputs: Sequence[torch.Tensor], name: str, what: str) -> None:
        self.name, self.what = name, what
        self.batch = int(inputs[0].shape[0])
        self.idle: Counter[str] = Counter()
        signature = exported.graph_signature
        constants = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        state = {**exported.state_dict, **exported.constants}
        self.weights: dict[fx.Node, torch.Tensor] = {}
        self.trained = set(signature.inputs_to_parameters)
        # Written down in the code, and no state of a module's.
        self.constants = set(signature.inputs_to_lifted_tensor_constants)
        self.inputs: dict[fx.Node, torch.Tensor] = {}
        examples = iter(inputs)
        self.nodes: list[fx.Node] = []
        graph = exported.graph
        for node in list(graph.nodes):
            if node.op == "placeholder":
                if node.name in constants:
                    self.weights[node] = state[constants[node.name]]
                elif node.name in signature.user_inputs:
                    self.inputs[node] = next(examples)
            elif node.op == "call_function":
                self._take(node)
            elif node.op != "output":
                raise UsageError(
                    f"{what}: it has a block in a mode of its own (torch.autocast or the like), which "
                    "cannot be followed; give a factory of the network without that"
                )
        # In one network every value that differs between samples counts, also one that nothing reads further.
        output = next(node for node in graph.nodes if node.op == "output")
        self.outputs = set(output.all_input_nodes)
        alive = self._alive()
        for node in self.nodes:
            if node not in alive and not self._is_view(node) and node.target is not operator.getitem:
                # It runs all the same, and its time is the whole network's.
                self.idle[f"{_name(node)}{UNUSED}"] += 1
        self.nodes = [node for node in self.nodes if node in alive]
        self.fixed = self._fixed()
        self.views = {node for node in self.nodes if self._is_view(node)}
        self._values: dict[fx.Node, torch.Tensor | None] = {}

    def _take(self, node: fx.Node) -> None:
        name = _name(node)
        if name in _SILENT:
            return
        if not isinstance(node.target, torch._ops.OpOverload) and node.target is not operator.getitem:
            raise UsageError(
                f"{self.what}: it has {getattr(node.target, '__name__', node.target)} of a size or a condition "
                "that depends on its input's values, and no table can know: give a factory that returns the part that "
                "always runs"
            )
        if name in _IDLE and node.all_input_nodes and not (len(node.args) > 2 and node.args[2]):
            self.idle[name] += 1
            node.replace_all_uses_with(node.all_input_nodes[0])
            return
        if _overwrites(node):
            self._overwrite(node)
        self.nodes.append(node)

    def _overwrite(self, node: fx.Node) -> None:
        """Have whoever reads the overwritten tensor from now on read the result.

        Raises:
            _OverwritesAPartError: other tensors share its memory, and change with it.
        """
        base = node.all_input_nodes[0]
        earlier = list(itertools.takewhile(lambda other: other is not node, node.graph.nodes))
        before = set(earlier)
        if self._is_view(base) or any(user in before and self._is_view(user) for user in base.users):
            raise _OverwritesAPartError
        base.replace_all_uses_with(node, delete_user_cb=lambda user: user not in before and user is not node)

    def _alive(self) -> set[fx.Node]:
        """Return the nodes that an output depends on."""
        found: set[fx.Node] = set()
        waiting = list(self.outputs)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += node.all_input_nodes
        return found

    def _fixed(self) -> set[fx.Node]:
        """Return what is the same for every sample: weights, inputs without a batch, and what follows from these."""
        fixed = set(self.weights) | {node for node in self.inputs if not self._is_batched(node)}
        for node in self.nodes:
            if all(arg in fixed for arg in node.all_input_nodes):
                fixed.add(node)
        return fixed

    def _is_view(self, node: fx.Node) -> bool:
        """Return whether a call moves no data: its result lies where its argument does."""
        first = node.all_input_nodes[0] if node.all_input_nodes else None
        if first is None:
            return False
        if node.target is operator.getitem:
            return self._is_view(first)
        if _overwrites(node):
            return False
        before = _tensor(first)
        if before is None:
            return False
        value = node.meta.get("val")
        parts = value if isinstance(value, (tuple, list)) else [value]
        return all(
            isinstance(part, torch.Tensor) and part.untyped_storage()._cdata == before.untyped_storage()._cdata
            for part in parts
        )

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """Return the sources that a node reads, through views and the parts of what returns several."""
        found: list[fx.Node] = []
        for arg in node.all_input_nodes:
            found += self._sources(arg) if arg in self.views else [arg]
        return list(dict.fromkeys(found))

    def _readers(self) -> dict[fx.Node, list[fx.Node]]:
        """Return per source the operators that read it, directly or through views."""
        readers: dict[fx.Node, list[fx.Node]] = {}
        for node in self.nodes:
            if node not in self.views:
                for source in self._sources(node):
                    readers.setdefault(source, []).append(node)
        return readers

    def _seen_outside(self) -> set[fx.Node]:
        """Return the sources of the network's outputs."""
        found: set[fx.Node] = set()
        for node in self.outputs:
            found.update(self._sources(node) if node in self.views else [node])
        return found

    def traced(self) -> TracedNetwork:
        """Return the network's layers."""
        own = [node for node in self.nodes if node not in self.views]
        if not any(node not in self.fixed for node in own):
            raise UsageError(f"{self.what}: it computes nothing from its input")
        readers = self._readers()
        outside = self._seen_outside()
        groups = Groups(own)
        for node in own:
            self._join(node, groups, readers, outside)
        for source in own:
            if not self._crosses(source):
                for reader in readers.get(source, []):
                    groups.unite(source, reader)
        for node in own:
            # What is computed from weights alone belongs to its first reader.
            if node in self.fixed and readers.get(node):
                groups.unite(node, readers[node][0])
        edges = [(source, node) for node in own for source in self._sources(node) if source in groups]
        groups.unite_cycles(edges)
        # An output of the network that is the same for every input is no work of a call's.
        varying = [members for members in groups.in_order(edges) if any(node not in self.fixed for node in members)]
        layers = [self._layer(members, readers, outside) for members in varying]
        return self._network(layers)

    def _join(
        self, node: fx.Node, groups: Groups[fx.Node], readers: dict[fx.Node, list[fx.Node]], outside: set[fx.Node]
    ) -> None:
        """Unite a norm or an activation with the operator before, and the parts of a result with what gave it."""
        if node.target is operator.getitem:
            groups.unite(node.all_input_nodes[0], node)
            return
        name = _name(node)
        if name not in _JOINING:
            return
        args = node.all_input_nodes
        first = args[0] if args and node.args and node.args[0] is args[0] else None
        if first is None or first not in groups or first in self.fixed or any(a not in self.fixed for a in args[1:]):
            return
        if readers.get(first) == [node] and first not in outside:
            groups.unite(first, node)

    def _crosses(self, source: fx.Node) -> bool:
        """Return whether a tensor can be what one layer gives and another takes."""
        if source in self.fixed:
            return True
        value = _tensor(source)
        if value is None:
            return False
        return value.ndim >= 2 and value.shape[0] == self.batch and value.dtype.is_floating_point and value.numel() > 0

    def _layer(self, members: list[fx.Node], readers: dict[fx.Node, list[fx.Node]], outside: set[fx.Node]) -> _Found:
        inside = set(members)
        outputs = [node for node in members if node in outside or any(r not in inside for r in readers.get(node, []))]
        last = outputs[-1] if outputs else members[-1]
        calls = self._with_views(members, inside)
        taken: list[fx.Node] = []
        weights: list[fx.Node] = []
        for node in calls:
            for arg in node.all_input_nodes:
                if arg in inside or arg in self.views:
                    continue
                if arg in self.fixed:
                    weights.append(arg)
                else:
                    taken.append(arg)
        taken = list(dict.fromkeys(taken))
        weights = list(dict.fromkeys(weights))
        layer = self._in_primitives(calls, taken, outputs) or self._subgraph(calls, taken, weights, last)
        anchor = max(members, key=lambda node: (self._multiply_adds(node), -members.index(node)))
        return _Found(layer, _path(anchor), _name(anchor), taken, outputs, len(members))

    def _is_batched(self, node: fx.Node) -> bool:
        value = self.inputs[node]
        return value.ndim >= 2 and value.shape[0] == self.batch

    def _with_views(self, members: Sequence[fx.Node], inside: set[fx.Node]) -> list[fx.Node]:
        """Return the members with the views that they read through, in order."""
        wanted = set(inside)
        waiting = list(members)
        while waiting:
            for arg in waiting.pop().all_input_nodes:
                if arg in self.views and arg not in wanted:
                    wanted.add(arg)
                    waiting.append(arg)
        return [node for node in self.nodes if node in wanted]

    def _in_primitives(
        self, calls: Sequence[fx.Node], taken: Sequence[fx.Node], outputs: Sequence[fx.Node]
    ) -> Layer | None:
        """Return the layer in primitives, if these have words for all of it."""
        if len(outputs) != 1 or outputs[0] is not calls[-1] or not taken:
            return None
        if any(node in self.inputs and not self.inputs[node].is_floating_point() for node in taken):
            return None
        numbers = {node: i for i, node in enumerate(taken)}
        nodes: list[Node] = []
        for call in calls:
            found = _primitive(call, self.batch, self.fixed, inside=not set(call.all_input_nodes[:1]) & set(taken))
            if found is None:
                return None
            op, args = found
            if any(arg not in numbers for arg in args):
                return None
            nodes.append(Node(op=op, args=tuple(numbers[arg] for arg in args)))
            numbers[call] = len(taken) + len(nodes) - 1
        try:
            layer = Layer(inputs=tuple(tuple(_shape(node)[1:]) for node in taken), nodes=tuple(nodes))
        except LayerError:
            return None
        return layer if layer.output_shape == tuple(_shape(calls[-1])[1:]) else None

    def _subgraph(
        self, calls: list[fx.Node], taken: Sequence[fx.Node], weights: Sequence[fx.Node], last: fx.Node
    ) -> Layer:
        # The output is the last value; views behind it, which only others read, are theirs.
        calls = [node for node in calls if node is not last] + [last] if calls[-1] is not last else calls
        given = tuple(self._given(node) for node in taken)
        if not given:
            raise UsageError(f"{self.what}: {_name(last)} computes an output from no input")
        numbers = {node: i for i, node in enumerate([*taken, *weights])}
        written: list[Call] = []
        for node in calls:
            written.append(self._call(node, numbers, inside=set(calls)))
            numbers[node] = len(numbers)
        shape = tuple(_shape(last))
        op = Subgraph(
            framework="torch",
            batch=self.batch,
            inputs=given,
            weights=tuple(self._weight(node) for node in weights),
            calls=tuple(written),
            output=shape[1:] if shape[:1] == (self.batch,) else shape,
            multiply_adds=sum(self._multiply_adds(node) for node in calls) // self.batch,
        )
        try:
            return Layer(inputs=tuple(g.shape for g in given), nodes=(Node(op=op, args=tuple(range(len(given)))),))
        except LayerError as error:
            raise UsageError(f"{self.what}: {_name(last)} cannot be described as a layer: {error}") from None

    def _known_dtype(self, node: fx.Node, dtype: torch.dtype) -> Any:
        if _dtype(dtype) not in get_args(DType):
            raise UsageError(
                f"{self.what}: {node.name} is of the type {_dtype(dtype)}, which layers cannot hold; compute "
                "it from real numbers in forward"
            )
        return _dtype(dtype)

    def _given(self, node: fx.Node) -> Given:
        value = _tensor(node)
        assert value is not None
        shape = tuple(value.shape)[1:]
        if value.dtype.is_floating_point:
            return Given(shape=shape)
        example = self.inputs[node]
        return Given(
            shape=shape,
            dtype=self._known_dtype(node, value.dtype),
            least=int(example.min()),
            below=max(1, int(example.max()) + 1),
        )

    def _value(self, node: Any) -> Any:
        """Return a fixed tensor's values: a mask or an index that is computed in ``forward`` must be as it is there."""
        if not isinstance(node, fx.Node):
            return node
        if node in self.weights or node in self.inputs:
            return self.weights.get(node, self.inputs.get(node))
        if node not in self._values:
            self._values[node] = None
            function: Any = node.target
            with contextlib.suppress(Exception), torch.no_grad():
                # Copies: what overwrites its argument must not overwrite the network's own.
                args = fx.node.map_arg(node.args, lambda arg: copy.deepcopy(self._value(arg)))
                self._values[node] = function(*args, **fx.node.map_arg(node.kwargs, self._value))
        return self._values[node]

    def _weight(self, node: fx.Node) -> Weight:
        tensor = self._value(node)
        value = _tensor(node)
        assert value is not None
        shape, dtype = tuple(value.shape), self._known_dtype(node, value.dtype)
        if node.name in self.trained:
            return Weight(shape=shape, dtype=dtype)
        values: tuple[int, ...] | None = None
        written = node.name in self.constants and tensor is not None and tensor.numel() <= MOST_NUMBERS
        if tensor is not None and tensor.is_floating_point() and (written or tensor.numel() == 1):
            # A bound, a scale or a mask's −∞: another number might compute something else altogether.
            numbers = tuple(map(_number, tensor.reshape(-1).tolist()))
            return Weight(shape=shape, dtype=dtype, role="buffer", numbers=numbers)
        if tensor is not None and not tensor.is_floating_point():
            flat = tensor.reshape(-1)
            if flat.numel() and bool((flat == flat[0]).all()):
                values = (int(flat[0]),)
            elif flat.numel() <= MOST_WRITTEN:
                values = tuple(int(x) for x in flat)
        return Weight(shape=shape, dtype=dtype, role="buffer", values=values)

    def _call(self, node: fx.Node, numbers: dict[fx.Node, int], inside: set[fx.Node]) -> Call:
        op = _op(node)
        if _overwrites(node) and node.all_input_nodes[0] not in inside:
            # What comes from another layer is not overwritten: calls are repeated on it.
            namespace, packet, overload = op.split(".")
            op = f"{namespace}.{packet.rstrip('_')}.{overload}"
        args = node.args
        if op == "aten.to.device":
            # Where a tensor is to be is the target's affair; what it is to be stays.
            op, args = "aten.to.dtype", (args[0], *args[2:])
        return Call(
            op=op,
            args=tuple(_written(arg, numbers, self.what) for arg in args),
            named=tuple(
                (key, _written(value, numbers, self.what))
                for key, value in sorted(node.kwargs.items())
                if key not in ("device", "pin_memory", "layout")
            ),
        )

    def _multiply_adds(self, node: fx.Node) -> int:
        """Return a call's multiply-adds, all samples together; 0 for what is no product of matrices."""
        value = _tensor(node)
        if value is None:
            return 0
        name = _name(node)
        shapes = [tuple(_shape(arg)) for arg in node.all_input_nodes if _tensor(arg) is not None]
        if name in ("conv1d", "conv2d", "conv3d", "convolution") and len(shapes) > 1:
            return value.numel() * prod(shapes[1][1:])
        if name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d") and len(shapes) > 1:
            return prod(shapes[0]) * prod(shapes[1][1:])
        if name in ("linear", "matmul", "mm", "bmm") and shapes:
            return value.numel() * shapes[0][-1]
        if name == "addmm" and len(shapes) > 1:
            return value.numel() * shapes[1][-1]
        if name == "scaled_dot_product_attention" and len(shapes) > 2:
            queries, keys, values = shapes[:3]
            return prod(queries[:-1]) * keys[-2] * (queries[-1] + values[-1])
        return 0

    def _network(self, found: Sequence[_Found]) -> TracedNetwork:
        names: dict[str, int] = {}
        chosen: list[str] = []
        for item in found:
            base = item.path or item.operator
            names[base] = names.get(base, 0) + 1
            chosen.append(base if names[base] == 1 else f"{base}.{item.operator}")
        unique: Counter[str] = Counter()
        by_source: dict[fx.Node, str] = dict.fromkeys(list(self.inputs)[:1], "input")
        by_source.update({node: f"input {i}" for i, node in enumerate(self.inputs) if i})
        items = []
        for name, item in zip(chosen, found, strict=True):
            unique[name] += 1
            own = name if unique[name] == 1 else f"{name} {unique[name]}"
            # The layer may have reordered its inputs; the order in which it was made is that of its subgraph.
            items.append(NetworkLayer(own, item.layer, inputs=self._wiring(item, by_source)))
            for i, node in enumerate(reversed(item.outputs)):
                by_source[node] = own if i == 0 else f"{own} output {i}"
        network = Network(name=self.name, layers=tuple(items))
        return TracedNetwork(network, self.batch, sum(item.operators for item in found), dict(self.idle))

    def _wiring(self, item: _Found, by_source: dict[fx.Node, str]) -> tuple[str, ...]:
        shapes = [tuple(_shape(node)[1:]) for node in item.taken]
        if list(item.layer.inputs) == shapes:
            return tuple(by_source[node] for node in item.taken)
        # A sum's arguments were sorted; each shape finds its own.
        left = list(zip(shapes, item.taken, strict=True))
        names = []
        for shape in item.layer.inputs:
            at = next(i for i, (other, _) in enumerate(left) if other == shape)
            names.append(by_source[left.pop(at)[1]])
        return tuple(names)


class _Found(NamedTuple):
    """A layer with where it comes from."""

    layer: Layer
    path: str
    operator: str
    taken: list[fx.Node]
    outputs: list[fx.Node]
    operators: int


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = _tensor(node)
    assert value is not None
    return tuple(int(size) for size in value.shape)


def _dtype(dtype: torch.dtype) -> Any:
    return str(dtype).removeprefix("torch.")


def _path(node: fx.Node) -> str:
    """Return the name of the module that a call was made in: ``layer1.0.conv1``."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(list(stack.values()))), "")


def _written(argument: Any, numbers: dict[fx.Node, int], what: str) -> Argument:
    if isinstance(argument, (list, tuple)):
        return tuple(_written_scalar(each, numbers, what) for each in argument)
    return _written_scalar(argument, numbers, what)


def _written_scalar(argument: Any, numbers: dict[fx.Node, int], what: str) -> Scalar:
    if isinstance(argument, fx.Node):
        return Ref(kind="value", of=numbers[argument])
    if isinstance(argument, torch.dtype):
        return Ref(kind="dtype", of=_dtype(argument))
    if isinstance(argument, torch.memory_format):
        return Ref(kind="memory_format", of=str(argument).removeprefix("torch."))
    if isinstance(argument, float) and not isfinite(argument):
        return Ref(kind="float", of=_number(argument))
    if argument is None or isinstance(argument, (bool, int, float, str)):
        return argument
    raise UsageError(f"{what}: an operator has an argument of the type {type(argument).__name__}")


def _number(value: float) -> Any:
    """Return a number, or the word for what JSON has none for."""
    if isfinite(value):
        return value
    return "nan" if isnan(value) else "inf" if value > 0 else "-inf"


def _pair(value: Any) -> tuple[int, int]:
    sizes = [value] * 2 if isinstance(value, int) else list(value) * (2 if len(value) == 1 else 1)
    return (int(sizes[0]), int(sizes[1]))


def _get(node: fx.Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default


def _primitive(
    node: fx.Node, batch: int, fixed: set[fx.Node], *, inside: bool
) -> tuple[Primitive, tuple[fx.Node, ...]] | None:
    """Return a call as a primitive and what it takes, or ``None`` where there is no word for it.

    What comes from another layer (not from ``inside``) is not overwritten: calls are repeated on it.
    """
    value = _tensor(node)
    args = node.all_input_nodes
    if value is None or not args or value.ndim < 2 or value.shape[0] != batch or not value.dtype.is_floating_point:
        return None
    first = args[0]
    before = _tensor(first)
    if before is None or before.shape[:1] != (batch,) or (first is not _get(node, 0, None) and _name(node) != "cat"):
        return None
    name = _name(node)
    inplace: Any = {"inplace": True} if inside and _overwrites(node) and name in _IN_PLACE else {}
    if node.kwargs and name != "gelu":
        return None
    one = (first,)
    if name == "conv2d" and before.ndim == 4 and all(arg in fixed for arg in args[1:]):
        conv = _conv(node, args)
        return None if conv is None else (conv, one)
    if name == "batch_norm" and before.ndim == 4 and len(args) == 5 and not _get(node, 5, True):
        return BatchNorm2d(), one
    if name == "hardtanh" and (_get(node, 1, -1), _get(node, 2, 1)) == (0, 6):
        return Activation(kind="relu6", **inplace), one
    if name == "gelu" and node.kwargs.get("approximate", "none") != "none":
        return None
    if name in _ACTIVATIONS and len(node.args) == 1:
        return Activation(kind=_ACTIVATIONS[name], **inplace), one
    if name == "linear" and all(arg in fixed for arg in args[1:]):
        bias = _get(node, 2, None) is not None
        return Linear(out_features=int(value.shape[-1]), bias=bias), one
    if name == "layer_norm" and list(_get(node, 1, [])) == [before.shape[-1]] and _get(node, 2, None) is not None:
        return LayerNorm(bias=_get(node, 3, None) is not None), one
    if name == "channel_shuffle" and before.ndim == 4:
        return ChannelShuffle(groups=int(_get(node, 1, 1))), one
    if name == "flatten" and _get(node, 1, 0) == 1 and _get(node, 2, -1) in (-1, before.ndim - 1):
        return Flatten(), one
    if name in ("view", "reshape") and value.ndim == 2 and tuple(value.shape) == (batch, prod(before.shape[1:])):
        return Flatten(), one
    return _pooling(node, name, before) or _of_several(node, name, args, fixed)


def _conv(node: fx.Node, args: Sequence[fx.Node]) -> Primitive | None:
    weight = _shape(args[1])
    padding = _get(node, 4, 0)
    if isinstance(padding, str):
        dilation, kernel = _pair(_get(node, 5, 1)), weight[2:]
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if padding == "same" and any(t % 2 for t in total):
            return None
        padding = [t // 2 for t in total] if padding == "same" else [0, 0]
    return Conv2d(
        out_channels=weight[0],
        kernel_size=(weight[2], weight[3]),
        stride=_pair(_get(node, 3, 1)),
        padding=_pair(padding),
        dilation=_pair(_get(node, 5, 1)),
        groups=int(_get(node, 6, 1)),
        bias=_get(node, 2, None) is not None,
    )


def _pooling(node: fx.Node, name: str, before: torch.Tensor) -> tuple[Primitive, tuple[fx.Node, ...]] | None:
    first = node.all_input_nodes[0]
    if before.ndim != 4:
        return None
    kernel = _get(node, 1, None)
    stride = _get(node, 2, None) or kernel
    if name == "max_pool2d" and _pair(_get(node, 4, 1)) == (1, 1) and not _get(node, 5, False):
        return MaxPool2d(kernel_size=_pair(kernel), stride=_pair(stride), padding=_pair(_get(node, 3, 0))), (first,)
    if name == "avg_pool2d" and not _get(node, 4, False) and _get(node, 5, True) and _get(node, 6, None) is None:
        return AvgPool2d(kernel_size=_pair(kernel), stride=_pair(stride), padding=_pair(_get(node, 3, 0))), (first,)
    if name == "adaptive_avg_pool2d" and _pair(kernel) == (1, 1):
        return GlobalAvgPool2d(), (first,)
    return None


def _of_several(
    node: fx.Node, name: str, args: Sequence[fx.Node], fixed: set[fx.Node]
) -> tuple[Primitive, tuple[fx.Node, ...]] | None:
    if any(arg in fixed for arg in args):
        return None
    if name == "cat" and _get(node, 1, 0) == 1 and all(_tensor(arg) is not None for arg in args):
        listed = tuple(node.args[0]) if isinstance(node.args[0], (list, tuple)) else ()
        parts = tuple(arg for arg in listed if isinstance(arg, fx.Node))
        return (Concat(), parts) if len(set(parts)) == len(parts) >= 2 else None
    if name not in ("add", "mul") or len(node.args) != 2:
        return None
    pair = tuple(arg for arg in node.args if isinstance(arg, fx.Node))
    if len(pair) != 2 or pair[0] is pair[1]:
        return None
    if name == "add":
        return (Add(), pair) if _shape(pair[0]) == _shape(pair[1]) else None
    return Mul(), pair

"""What others predict a network's latency with, written anew here and run on the same measurements.

Each method is a function of a session, the networks it may learn from (their numbers in the session) and the layers
that were measured; it returns a prediction in ms for every network of the session, or ``None`` where it has no way to
make one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import prod

import numpy as np
from _networks import as_layer, blocks_of
from _sessions import RecordedSession
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor

from lut import Layer, Network
from lut.primitives import Conv2d
from predictors import LatencyMLP, feature_matrix
from predictors._features import kind_of
from predictors._layer_model import base_ms, fit_layer_model, numbers_of

__all__ = ["LAYER_METHODS", "PEERS"]

Floats = NDArray[np.float64]
Method = Callable[[RecordedSession, Sequence[int], Collection[Layer]], "Floats | None"]


def madds_regression(session: RecordedSession, train: Sequence[int], measured: Collection[Layer]) -> Floats:
    """A line over multiply-adds, by least squares of the relative error: what a search without a table uses."""
    del measured
    madds = np.array([network.madds for network in session.networks]) / 1e6
    whole = np.array(session.ms("whole"))
    design = np.column_stack([madds, np.ones_like(madds)])
    rows = design[train] / whole[train, None]
    solution, *_ = np.linalg.lstsq(rows, np.ones(len(train)), rcond=None)
    return np.asarray(design @ solution)


def isolated_sum(session: RecordedSession, train: Sequence[int], measured: Collection[Layer]) -> Floats | None:
    """The sum of layers measured alone: most lookup tables."""
    del train
    ms = dict(zip(session.layers, session.ms("isolated"), strict=True))
    if any(layer not in measured for layer in ms):
        return None
    return _sums(session.networks, ms)


def block_table(session: RecordedSession, train: Sequence[int], measured: Collection[Layer]) -> Floats | None:
    """The once-for-all table (Cai et al. 2020): the sum of blocks measured alone; single layers where no block is."""
    del train
    ms = dict(zip(session.layers, session.ms("isolated"), strict=True))
    if any(layer not in measured for layer in ms):
        return None
    ms |= dict(zip(session.blocks, session.ms("blocks"), strict=True))
    totals = []
    for network in session.networks:
        blocks = [as_layer(block) if len(block) > 1 else block[0].layer for block in blocks_of(network)]
        totals.append(sum(ms[block] for block in blocks))
    return np.array(totals)


def forest_per_kind(session: RecordedSession, train: Sequence[int], measured: Collection[Layer]) -> Floats | None:
    """nn-Meter (Zhang et al., MobiSys 2021): a random forest for each kind of kernel, and the plain sum.

    Features as theirs for convolutions: size, channels in and out, window, stride, multiply-adds, parameters. A kind of
    which nothing was measured counts as 0 ms there; here the method then has no answer.
    """
    del train
    ms = dict(zip(session.layers, session.ms("isolated"), strict=True))
    by_kind: dict[str, list[Layer]] = {}
    for layer in session.layers:
        by_kind.setdefault(_kernel_kind(layer), []).append(layer)
    found: dict[Layer, float] = {}
    for layers in by_kind.values():
        known = [layer for layer in layers if layer in measured]
        if not known:
            return None
        forest = RandomForestRegressor(n_estimators=100, random_state=0)
        forest.fit([_kernel_features(layer) for layer in known], [ms[layer] for layer in known])
        predicted = forest.predict([_kernel_features(layer) for layer in layers])
        found |= dict(zip(layers, predicted, strict=True))
    return _sums(session.networks, found)


def encoding_mlp(session: RecordedSession, train: Sequence[int], measured: Collection[Layer]) -> Floats:
    """A perceptron on one-hot encodings of the architecture (OFA, PNAG: 512 and 512 units), from whole networks."""
    del measured
    rows = _encodings(session.networks)
    mlp = LatencyMLP(hidden=(512, 512), members=1, max_epochs=300, patience=60, learning_rate=1e-3, random_state=0)
    mlp.fit(rows[train], np.array(session.ms("whole"))[train])
    return np.exp(mlp.predict_log(rows)[0])


PEERS: dict[str, Method] = {
    "MAdds regression": madds_regression,
    "plain sum of isolated layers": isolated_sum,
    "nn-Meter: forest per kernel kind": forest_per_kind,
    "once-for-all: sum of isolated blocks": block_table,
    "MLP on encodings (OFA, PNAG)": encoding_mlp,
}


LayerMethod = Callable[[Sequence[Layer], Floats, Sequence[Layer]], Floats]


def layers_by_forest(known: Sequence[Layer], ms: Floats, wanted: Sequence[Layer]) -> Floats:
    """nn-Meter's forests: one for each kind of kernel; the mean of all where nothing of a kind is known."""
    found = np.full(len(wanted), float(ms.mean()))
    kinds, asked = [_kernel_kind(layer) for layer in known], [_kernel_kind(layer) for layer in wanted]
    for kind in set(asked) & set(kinds):
        mine = [i for i, each in enumerate(kinds) if each == kind]
        theirs = [i for i, each in enumerate(asked) if each == kind]
        forest = RandomForestRegressor(n_estimators=100, random_state=0)
        forest.fit([_kernel_features(known[i]) for i in mine], ms[mine])
        found[theirs] = forest.predict([_kernel_features(wanted[i]) for i in theirs])
    return found


def layers_by_work(known: Sequence[Layer], ms: Floats, wanted: Sequence[Layer]) -> Floats:
    """Non-negative costs of work: the first half of our layer model."""
    costs = fit_layer_model(numbers_of(known), ms).costs
    return base_ms(numbers_of(wanted).work, costs)


def layers_by_mlp(known: Sequence[Layer], ms: Floats, wanted: Sequence[Layer]) -> Floats:
    """Our ensemble of perceptrons on log time."""
    return np.exp(LatencyMLP(random_state=0).fit(feature_matrix(known), ms).predict_log(feature_matrix(wanted))[0])


def layers_by_model(known: Sequence[Layer], ms: Floats, wanted: Sequence[Layer]) -> Floats:
    """Our layer model, as the predictor has it."""
    return fit_layer_model(numbers_of(known), ms).predict(numbers_of(wanted))[0]


LAYER_METHODS: dict[str, LayerMethod] = {
    "nn-Meter: forest per kernel kind": layers_by_forest,
    "costs of work alone": layers_by_work,
    "LatencyMLP": layers_by_mlp,
    "ours: work and a Gaussian process": layers_by_model,
}


def _sums(networks: Sequence[Network], ms: dict[Layer, float]) -> Floats:
    return np.array([sum(item.count * ms[item.layer] for item in network.layers) for network in networks])


def _kernel_kind(layer: Layer) -> str:
    """Return nn-Meter's kernel: windows and strides are features there, not kinds."""
    words = kind_of(layer).split(" + ")
    return " + ".join(word.split(" ")[0] if word.startswith("conv2d") else word for word in words)


def _kernel_features(layer: Layer) -> list[float]:
    channels, *size = layer.inputs[0]
    convs = [node.op for node in layer.nodes if isinstance(node.op, Conv2d)]
    kernel, stride = (convs[0].kernel_size[0], convs[0].stride[0]) if convs else (0, 0)
    return [float(v) for v in (prod(size), channels, layer.out_channels, kernel, stride, layer.madds, layer.parameters)]


def _encodings(networks: Sequence[Network]) -> Floats:
    """Return which width and window each place of a network has, one-hot; nothing where it has no such place."""
    words = [
        {(item.name, item.layer.out_channels, kind_of(item.layer)) for item in network.layers} for network in networks
    ]
    columns = {word: i for i, word in enumerate(sorted(set().union(*words)))}
    rows = np.zeros((len(networks), len(columns)))
    for row, found in zip(rows, words, strict=True):
        row[[columns[word] for word in found]] = 1.0
    return rows

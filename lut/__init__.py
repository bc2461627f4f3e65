"""Lookup tables of measured layer latencies: layers, networks, tables, files. No framework is imported here."""

from lut._constructors import chain, conv_norm_act, global_pool, linear, pooled_shortcut, residual_add
from lut._diff import compare_tables
from lut._layer import Layer, Node
from lut._network import ChannelCurve, Network, NetworkLayer
from lut._network_file import load_network, save_network
from lut._records import (
    Device,
    Measurement,
    Setting,
    Software,
)
from lut._space import Decision, LayerSlot, SearchSpace
from lut._table import LatencyTable
from lut.errors import (
    LatencyLutError,
    LayerError,
    MissingLayerError,
    TableError,
    TableFormatError,
    UnlikeTablesError,
    UsageError,
)

__all__ = [
    "ChannelCurve",
    "Decision",
    "Device",
    "LatencyLutError",
    "LatencyTable",
    "Layer",
    "LayerError",
    "LayerSlot",
    "Measurement",
    "MissingLayerError",
    "Network",
    "NetworkLayer",
    "Node",
    "SearchSpace",
    "Setting",
    "Software",
    "TableError",
    "TableFormatError",
    "UnlikeTablesError",
    "UsageError",
    "chain",
    "compare_tables",
    "conv_norm_act",
    "global_pool",
    "linear",
    "load_network",
    "pooled_shortcut",
    "residual_add",
    "save_network",
]
